//! What functions make: the engine's pool is told, and what would take them too long is refused.
//!
//! Every function of a gated query that gives text or bytes, and every `||` and CASE that does, is charged for what it
//! makes ([`super::meter`]), as long as that lives. A function that makes large values from small ones (`repeat`,
//! `lpad`, `replace` …) asks for the most that its result can take *before* it makes it. So a query that makes more than
//! its memory ends with the error of that limit, and a process that serves others does not end at all.
//!
//! Whether a value is too long depends on that value alone. What a query's memory holds at a time depends on visible
//! rows, on how they fall into batches, and in strict mode on visible rows alone; the functions that can meet this limit
//! with small arguments are fallible ones, which make a query strict ([`crate::functions`]).
//!
//! - A constant is computed once and kept as long as the plan: it has at most [`MAX_CONSTANT_BYTES`].
//! - A pattern (of a regular expression or of LIKE) has at most [`MAX_PATTERN_BYTES`], and compiles to at most
//!   [`MAX_AUTOMATON_BYTES`]: matching takes at most that much work for each byte of a value.
//! - `levenshtein` compares each byte with each: its values have at most [`MAX_COMPARED_BYTES`].
//! - Work that takes long is done in parts of [`PART_ROWS`]; between two of them it is looked whether the query still
//!   runs.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewBuilder, new_empty_array};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Documentation, Expr, ExprSchemable, ExpressionPlacement, Like,
    LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, StructFieldMapping, Volatility,
};
use datafusion::scalar::ScalarValue;
use regex::RegexBuilder;

use super::memory::QueryMemory;
use super::meter::{bytes_of, charged, reserve};
use crate::error::QueryError;

/// Longest constant, bytes.
pub const MAX_CONSTANT_BYTES: usize = 1 << 20;
/// Longest pattern, bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// Largest automaton of a pattern, bytes.
pub const MAX_AUTOMATON_BYTES: usize = 2 << 20;
/// Longest value that `levenshtein` compares, bytes.
pub const MAX_COMPARED_BYTES: usize = 1024;
/// Rows of a part of slow work.
const PART_ROWS: usize = 256;
/// Results of less are not charged.
const LEAST_CHARGED_BYTES: usize = 64 << 10;
/// What a text takes beside its bytes.
const VIEW_BYTES: usize = 16;
/// How much more than the longest constant may be asked for, where the most is far from what comes.
const SLACK: usize = 16;

/// The functions that compare patterns, with the place of the pattern among their arguments.
const PATTERN_FUNCTIONS: &[(&str, usize)] = &[
    ("regexp_count", 1),
    ("regexp_instr", 1),
    ("regexp_like", 1),
    ("regexp_replace", 1),
];
/// What the engine resolves to other expressions, or what only chooses one of its arguments.
const NOT_WRAPPED: &[&str] = &["coalesce", "greatest", "least", "nullif", "nvl", "nvl2"];

/// What the functions of one query share.
#[derive(Clone)]
pub struct Values {
    pool: Arc<dyn MemoryPool>,
    stop: Arc<AtomicBool>,
}

impl Values {
    /// The functions of a query with this pool.
    #[must_use]
    pub fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        let stop = pool.downcast_ref::<QueryMemory>();
        Self {
            pool: Arc::clone(pool),
            stop: stop.map(QueryMemory::stop).unwrap_or_default(),
        }
    }

    /// A function within bounds.
    #[must_use]
    pub fn bounded(&self, function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
        if NOT_WRAPPED.contains(&function.name()) {
            return function;
        }
        Arc::new(ScalarUDF::new_from_impl(Bounded {
            inner: function,
            values: self.clone(),
        }))
    }

    /// Checks the patterns of a plan that are written out, and has the others checked when they are known.
    ///
    /// # Errors
    /// [`QueryError::ValueTooLong`].
    pub fn with_patterns(&self, plan: LogicalPlan) -> Result<LogicalPlan, QueryError> {
        let rewritten = plan.transform_up_with_subqueries(|node| {
            node.map_expressions(|expr| expr.transform_up(|expr| self.with_pattern(expr)))
        });
        let rewritten = rewritten.map_err(|error| QueryError::from_planning(&error))?;
        Ok(rewritten.data)
    }

    fn with_pattern(&self, expr: Expr) -> Result<Transformed<Expr>> {
        use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
        match expr {
            Expr::Like(like) => self
                .in_like(like, Kind::Like)
                .map(|l| l.update_data(Expr::Like)),
            Expr::SimilarTo(like) => {
                let like = self.in_like(like, Kind::Regex)?;
                Ok(like.update_data(Expr::SimilarTo))
            }
            Expr::BinaryExpr(mut binary)
                if matches!(
                    binary.op,
                    RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch
                ) =>
            {
                let right = self.checked(*binary.right, Kind::Regex)?;
                binary.right = Box::new(right.data);
                Ok(Transformed::new_transformed(
                    Expr::BinaryExpr(binary),
                    right.transformed,
                ))
            }
            Expr::ScalarFunction(mut function) => {
                let at = PATTERN_FUNCTIONS.iter();
                let at = at.filter(|(name, _)| *name == function.name());
                let at = at.map(|(_, at)| *at).next();
                let Some(argument) = at.and_then(|at| function.args.get_mut(at)) else {
                    return Ok(Transformed::no(Expr::ScalarFunction(function)));
                };
                let checked = self.checked(std::mem::take(argument), Kind::Regex)?;
                *argument = checked.data;
                Ok(Transformed::new_transformed(
                    Expr::ScalarFunction(function),
                    checked.transformed,
                ))
            }
            expr => Ok(Transformed::no(expr)),
        }
    }

    fn in_like(&self, mut like: Like, kind: Kind) -> Result<Transformed<Like>> {
        let pattern = self.checked(*like.pattern, kind)?;
        like.pattern = Box::new(pattern.data);
        Ok(Transformed::new_transformed(like, pattern.transformed))
    }

    /// A pattern that was looked at, or will be.
    fn checked(&self, pattern: Expr, kind: Kind) -> Result<Transformed<Expr>> {
        match &pattern {
            Expr::Literal(value, _) => {
                if let Some(Some(text)) = value.try_as_str() {
                    check_pattern(text, &kind)?;
                }
                Ok(Transformed::no(pattern))
            }
            _ => Ok(Transformed::yes(self.passed(pattern, kind))),
        }
    }

    /// Charges what `||` and CASE make in an analysed plan.
    ///
    /// # Errors
    /// When the plan cannot be rebuilt.
    pub fn charging(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| {
            if matches!(node, LogicalPlan::TableScan(_)) {
                return Ok(Transformed::no(node));
            }
            let node = self.watching(node);
            let mut schema = DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            node.map_expressions(|expr| {
                expr.transform_down(|expr| self.charging_one(expr, &schema))
            })
        })?;
        Ok(rewritten.data)
    }

    /// Has a join look, whenever it compares rows, whether its query still runs: one without equal keys compares whole
    /// batches with all of its other side before it yields.
    fn watching(&self, node: LogicalPlan) -> LogicalPlan {
        match node {
            LogicalPlan::Join(mut join) => {
                let filter = join.filter.take();
                join.filter = filter.map(|filter| self.passed(filter, Kind::Watch));
                LogicalPlan::Join(join)
            }
            node => node,
        }
    }

    /// A chain of `||` becomes one function, which asks for its result before it makes it; what CASE made is charged.
    fn charging_one(&self, expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let joins =
            matches!(&expr, Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat);
        if !joins && !matches!(expr, Expr::Case(_)) {
            return Ok(Transformed::no(expr));
        }
        let Ok(ty) = expr.get_type(schema) else {
            return Ok(Transformed::no(expr));
        };
        if !is_long(&ty) {
            return Ok(Transformed::no(expr));
        }
        let name = expr.schema_name().to_string();
        let (kind, args) = match expr {
            Expr::BinaryExpr(binary) if is_text(&ty) => (Kind::Joined(ty), links(binary)),
            expr => (Kind::Result, vec![expr]),
        };
        let each = |arg: Expr| match kind {
            // What stands within CASE: it is not looked at itself again.
            Kind::Result => arg.map_children(|arg| self.charging_within(arg, schema)),
            _ => self.charging_within(arg, schema),
        };
        let args: Result<Vec<Expr>> = args
            .into_iter()
            .map(|arg| each(arg).map(|done| done.data))
            .collect();
        let charged = self.function(kind.clone(), name, args?);
        Ok(Transformed::new(charged, true, TreeNodeRecursion::Jump))
    }

    fn charging_within(&self, expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        expr.transform_down(|expr| self.charging_one(expr, schema))
    }

    fn passed(&self, expr: Expr, kind: Kind) -> Expr {
        let name = expr.schema_name().to_string();
        self.function(kind, name, vec![expr])
    }

    fn function(&self, kind: Kind, name: String, args: Vec<Expr>) -> Expr {
        let function = self.passing(kind, name);
        Expr::ScalarFunction(ScalarFunction::new_udf(function, args))
    }

    /// What tells a function of this module, that is not known by its name, to another process; nothing for others.
    #[must_use]
    pub(crate) fn written(function: &ScalarUDF) -> &'static [u8] {
        let passing = function.inner().downcast_ref::<Passing>();
        passing.map_or(b"", |passing| match &passing.kind {
            Kind::Like => b"like",
            Kind::Regex => b"regex",
            Kind::Result => b"result",
            Kind::Watch => b"watch",
            Kind::Joined(DataType::Utf8) => b"joined 32",
            Kind::Joined(DataType::LargeUtf8) => b"joined 64",
            Kind::Joined(_) => b"joined views",
        })
    }

    /// The function that another process told of; none when there is no such function.
    #[must_use]
    pub(crate) fn read(&self, written: &[u8]) -> Option<Arc<ScalarUDF>> {
        let kind = match written {
            b"like" => Kind::Like,
            b"regex" => Kind::Regex,
            b"result" => Kind::Result,
            b"watch" => Kind::Watch,
            b"joined 32" => Kind::Joined(DataType::Utf8),
            b"joined 64" => Kind::Joined(DataType::LargeUtf8),
            b"joined views" => Kind::Joined(DataType::Utf8View),
            _ => return None,
        };
        // Only planning asks what the column is called.
        Some(self.passing(kind, String::new()))
    }

    fn passing(&self, kind: Kind, name: String) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Passing {
            kind,
            name,
            values: self.clone(),
            signature: Signature::variadic_any(Volatility::Immutable),
        }))
    }

    /// Ends work that nobody waits for any more.
    fn still_wanted(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(own(QueryError::Internal {
                what: "a query that was ended",
            }));
        }
        Ok(())
    }

    /// A result that is charged while it lives.
    fn charge(&self, value: ColumnarValue) -> Result<ColumnarValue> {
        let ColumnarValue::Array(array) = value else {
            return Ok(value);
        };
        let bytes = bytes_of(&array);
        if bytes < LEAST_CHARGED_BYTES || !is_long(array.data_type()) {
            return Ok(ColumnarValue::Array(array));
        }
        let reservation = Arc::new(reserve(&self.pool, "function", bytes)?);
        charged(&array, &reservation).map(ColumnarValue::Array)
    }
}

fn own(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn too_long(what: &'static str, limit: usize) -> DataFusionError {
    own(QueryError::ValueTooLong { what, limit })
}

/// Whether values of a type have a length.
fn is_long(ty: &DataType) -> bool {
    matches!(
        ty,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}

fn is_text(ty: &DataType) -> bool {
    matches!(
        ty,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// What a chain of `||` joins, in order. Iterative: a chain is as long as a statement.
fn links(chain: BinaryExpr) -> Vec<Expr> {
    let mut links = Vec::new();
    let mut open = vec![*chain.right, *chain.left];
    while let Some(expr) = open.pop() {
        match expr {
            Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat => {
                open.push(*binary.right);
                open.push(*binary.left);
            }
            link => links.push(link),
        }
    }
    links
}

/// Joins texts row by row; with a null, the result is null.
fn joined(args: &[ColumnarValue], rows: usize, ty: &DataType) -> Result<ArrayRef> {
    let texts: Result<Vec<Argument>> = args.iter().map(Argument::of).collect();
    let texts = texts?.into_iter().map(|text| {
        let array = cast(&text.array, &DataType::Utf8View)?;
        Ok(Argument { array, ..text })
    });
    let texts: Result<Vec<Argument>> = texts.collect();
    let texts = texts?;
    let mut builder = StringViewBuilder::with_capacity(rows);
    let mut whole = String::new();
    for row in 0..rows {
        whole.clear();
        let mut complete = true;
        for text in &texts {
            match text.place(row) {
                Some(place) => whole.push_str(text.array.as_string_view().value(place)),
                None => complete = false,
            }
        }
        builder.append_option(complete.then_some(&whole));
    }
    let made: ArrayRef = Arc::new(builder.finish());
    Ok(if ty == &DataType::Utf8View {
        made
    } else {
        cast(&made, ty)?
    })
}

/// What is looked at as it passes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    /// A pattern of LIKE.
    Like,
    /// A regular expression.
    Regex,
    /// What an expression made.
    Result,
    /// Anything, as long as the query runs.
    Watch,
    /// Texts that are joined into one of this type.
    Joined(DataType),
}

fn check_pattern(pattern: &str, kind: &Kind) -> Result<()> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(too_long("a pattern", MAX_PATTERN_BYTES));
    }
    if kind == &Kind::Regex {
        let built = RegexBuilder::new(pattern)
            .size_limit(MAX_AUTOMATON_BYTES)
            .build();
        // What is no pattern at all is for the engine to say.
        if let Err(regex::Error::CompiledTooBig(_)) = built {
            return Err(too_long("the automaton of a pattern", MAX_AUTOMATON_BYTES));
        }
    }
    Ok(())
}

/// Hands its argument on after a look at it.
#[derive(Clone)]
struct Passing {
    kind: Kind,
    /// What the column is called.
    name: String,
    values: Values,
    signature: Signature,
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Passing({:?})", self.kind)
    }
}

impl PartialEq for Passing {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Passing {}

impl Hash for Passing {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl ScalarUDFImpl for Passing {
    fn name(&self) -> &'static str {
        "within_bounds"
    }

    /// Columns keep the names of what is passed.
    fn schema_name(&self, _: &[Expr]) -> Result<String> {
        Ok(self.name.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let ty = match &self.kind {
            Kind::Joined(ty) => Some(ty),
            _ => types.first(),
        };
        ty.cloned()
            .ok_or_else(|| DataFusionError::Internal("nothing to pass".into()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Kind::Joined(ty) = &self.kind {
            return self.join(&args, ty);
        }
        let value = args.args.into_iter().next();
        let value = value.ok_or_else(|| DataFusionError::Internal("nothing to pass".into()))?;
        match (&self.kind, &value) {
            (Kind::Result, _) => self.values.charge(value),
            (Kind::Watch, _) => {
                self.values.still_wanted()?;
                Ok(value)
            }
            (kind, ColumnarValue::Scalar(scalar)) => {
                if let Some(Some(text)) = scalar.try_as_str() {
                    check_pattern(text, kind)?;
                }
                Ok(value)
            }
            (kind, ColumnarValue::Array(array)) => {
                let array = cast(array, &DataType::Utf8View)?;
                let mut seen = HashSet::new();
                for pattern in array.as_string_view().iter().flatten() {
                    if seen.insert(pattern) {
                        self.values.still_wanted()?;
                        check_pattern(pattern, kind)?;
                    }
                }
                Ok(value)
            }
        }
    }
}

impl Passing {
    fn join(&self, args: &ScalarFunctionArgs, ty: &DataType) -> Result<ColumnarValue> {
        let texts: Result<Vec<Argument>> = args.args.iter().map(Argument::of).collect();
        let texts = texts?;
        let lengths = (0..args.number_rows).map(|row| {
            let lengths = texts.iter().map(|text| text.length(row));
            lengths.fold(VIEW_BYTES, usize::saturating_add)
        });
        let bytes = lengths.fold(0, usize::saturating_add);
        let asked = reserve(&self.values.pool, "function", bytes)?;
        let made = joined(&args.args, args.number_rows, ty)?;
        drop(asked);
        self.values.charge(ColumnarValue::Array(made))
    }
}

/// A function of the engine within bounds.
struct Bounded {
    inner: Arc<ScalarUDF>,
    values: Values,
}

impl std::fmt::Debug for Bounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

/// An argument, row by row.
struct Argument {
    array: ArrayRef,
    constant: bool,
}

impl Argument {
    fn of(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Array(array) => Self {
                array: Arc::clone(array),
                constant: false,
            },
            ColumnarValue::Scalar(scalar) => Self {
                array: scalar.to_array()?,
                constant: true,
            },
        })
    }

    fn place(&self, row: usize) -> Option<usize> {
        let row = if self.constant { 0 } else { row };
        (row < self.array.len() && self.array.is_valid(row)).then_some(row)
    }

    /// Bytes of a value that has a length; none otherwise.
    fn length(&self, row: usize) -> usize {
        let Some(row) = self.place(row) else {
            return 0;
        };
        match self.array.data_type() {
            DataType::Utf8 => self.array.as_string::<i32>().value(row).len(),
            DataType::LargeUtf8 => self.array.as_string::<i64>().value(row).len(),
            DataType::Utf8View => self.array.as_string_view().value(row).len(),
            DataType::Binary => self.array.as_binary::<i32>().value(row).len(),
            DataType::LargeBinary => self.array.as_binary::<i64>().value(row).len(),
            DataType::BinaryView => self.array.as_binary_view().value(row).len(),
            _ => 0,
        }
    }

    /// A count; what is less than nothing is nothing.
    fn count(&self, row: usize) -> usize {
        let Some(row) = self.place(row) else {
            return 0;
        };
        match self.array.as_primitive_opt::<Int64Type>() {
            Some(numbers) => usize::try_from(numbers.value(row)).unwrap_or(0),
            None => 0,
        }
    }
}

/// The most bytes that a function makes of the arguments of a row.
fn most_bytes(function: &str, args: &[Argument], row: usize) -> usize {
    let length = |at: usize| args.get(at).map_or(0, |arg| arg.length(row));
    let count = |at: usize| args.get(at).map_or(0, |arg| arg.count(row));
    let every = || {
        let lengths = args.iter().map(|arg| arg.length(row));
        lengths.fold(0, usize::saturating_add)
    };
    match function {
        "repeat" => length(0).saturating_mul(count(1)),
        // So many characters, of which none has more than four bytes.
        "lpad" | "rpad" => count(1).saturating_mul(4),
        // An empty text is found before each character and at the end.
        "replace" => {
            let found = match length(1) {
                0 => length(0) + 1,
                sought => length(0) / sought,
            };
            length(0).saturating_add(found.saturating_mul(length(2)))
        }
        // Found at each byte and at the end; each reference in the replacement gives at most the whole.
        "regexp_replace" => {
            let found = length(0).saturating_add(1);
            found.saturating_mul(length(2).saturating_mul(2).saturating_add(1))
        }
        "translate" => length(0).saturating_mul(4),
        // Case changes make at most three characters of one.
        "initcap" | "lower" | "upper" => length(0).saturating_mul(3),
        "encode" => length(0).saturating_mul(2).saturating_add(4),
        // A sign of the format gives at most the longest form of an instant.
        "to_char" => length(1).saturating_mul(32).saturating_add(64),
        "concat_ws" => every().saturating_add(length(0).saturating_mul(args.len())),
        "digest" | "md5" | "sha224" | "sha256" | "sha384" | "sha512" => 128,
        _ => every().saturating_add(64),
    }
}

/// Functions whose work grows faster than their arguments, or by what a pattern is.
fn is_slow(function: &str) -> bool {
    function == "levenshtein" || PATTERN_FUNCTIONS.iter().any(|(name, _)| *name == function)
}

impl Bounded {
    /// Asks for the most that the result may take, then makes it.
    fn made(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if matches!(self.inner.name(), "lpad" | "rpad")
            && let Some(length) = args.args.get_mut(1)
        {
            *length = not_negative(length);
        }
        let arguments: Result<Vec<Argument>> = args.args.iter().map(Argument::of).collect();
        let arguments = arguments?;
        let constant = arguments.iter().all(|argument| argument.constant);
        let name = self.inner.name();
        let mut most: usize = 0;
        let rows = if constant { 1 } else { args.number_rows };
        for row in 0..rows {
            most = most.saturating_add(most_bytes(name, &arguments, row));
        }
        if constant {
            if most > MAX_CONSTANT_BYTES * SLACK {
                return Err(too_long("a constant", MAX_CONSTANT_BYTES));
            }
            // Some functions make of constants as many values as there are rows.
            most = most.saturating_mul(args.number_rows.max(1));
        }
        let rows = args.number_rows;
        let asked = reserve(&self.values.pool, "function", most)?;
        let made = self.inner.inner().invoke_with_args(args)?;
        drop(asked);
        if constant && bytes_of_one(&made, rows)? > MAX_CONSTANT_BYTES {
            return Err(too_long("a constant", MAX_CONSTANT_BYTES));
        }
        self.values.charge(made)
    }

    /// The same in parts, between which it is looked whether the query still runs.
    fn in_parts(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut parts = Vec::new();
        for first in (0..args.number_rows.max(1)).step_by(PART_ROWS) {
            self.values.still_wanted()?;
            let rows = PART_ROWS.min(args.number_rows - first.min(args.number_rows));
            let part = args.args.iter().map(|value| match value {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(first, rows)),
                scalar @ ColumnarValue::Scalar(_) => scalar.clone(),
            });
            let part = ScalarFunctionArgs {
                args: part.collect(),
                arg_fields: args.arg_fields.clone(),
                number_rows: rows,
                return_field: Arc::clone(&args.return_field),
                config_options: Arc::clone(&args.config_options),
            };
            let made = self.made(part)?;
            if let ColumnarValue::Scalar(_) = made {
                // Of constants alone, it is the same for every part.
                return Ok(made);
            }
            parts.push(made.into_array(rows)?);
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        self.values.charge(ColumnarValue::Array(concat(&parts)?))
    }

    /// Refuses values that are compared byte by byte and are too long for it.
    fn check_compared(args: &ScalarFunctionArgs) -> Result<()> {
        for value in &args.args {
            let argument = Argument::of(value)?;
            let longest = (0..argument.array.len())
                .map(|row| argument.length(row))
                .max();
            if longest > Some(MAX_COMPARED_BYTES) {
                return Err(too_long("a value of levenshtein", MAX_COMPARED_BYTES));
            }
        }
        Ok(())
    }
}

/// Lengths of which none is less than nothing: the engine would take them for enormous ones.
fn not_negative(lengths: &ColumnarValue) -> ColumnarValue {
    match lengths {
        ColumnarValue::Array(array) => match array.as_primitive_opt::<Int64Type>() {
            Some(numbers) => {
                let numbers: Int64Array = numbers.unary(|length| length.max(0));
                ColumnarValue::Array(Arc::new(numbers))
            }
            None => lengths.clone(),
        },
        scalar @ ColumnarValue::Scalar(_) => scalar.clone(),
    }
}

/// Bytes of one value of a result of constants.
fn bytes_of_one(made: &ColumnarValue, rows: usize) -> Result<usize> {
    Ok(match made {
        ColumnarValue::Scalar(value) => bytes_of(&value.to_array()?),
        ColumnarValue::Array(array) => bytes_of(array) / rows.max(1),
    })
}

#[warn(clippy::missing_trait_methods)] // It stands for another function in everything.
impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        #[expect(deprecated, reason = "it stands for another function in everything")]
        self.inner.inner().display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Self {
            inner,
            values: self.values.clone(),
        }))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        #[expect(deprecated, reason = "it stands for another function in everything")]
        self.inner.inner().is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.values.still_wanted()?;
        // Some functions look at their first row whether there is one or not.
        if args.number_rows == 0 {
            let none = new_empty_array(args.return_field.data_type());
            return Ok(ColumnarValue::Array(none));
        }
        let name = self.inner.name();
        if name == "levenshtein" {
            Self::check_compared(&args)?;
        }
        if is_slow(name) {
            self.in_parts(&args)
        } else if is_long(args.return_field.data_type()) {
            self.made(args)
        } else {
            self.inner.inner().invoke_with_args(args)
        }
    }

    /// A function that gives text may put unbounded ones in its place.
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match self.inner.name() {
            "concat" | "concat_ws" => Ok(ExprSimplifyResult::Original(args)),
            _ => self.inner.inner().simplify(args, info),
        }
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.inner.inner().preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner.inner().short_circuits()
    }

    fn conditional_arguments<'a>(
        &self,
        args: &'a [Expr],
    ) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.inner().conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner.inner().evaluate_bounds(input)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        self.inner.inner().propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.inner().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.inner().strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.inner().struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.inner().placement(args)
    }
}
