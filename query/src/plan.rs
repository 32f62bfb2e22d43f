//! What a plan may consist of, and how its order is completed.
//!
//! Passes over a logical plan:
//! 1. [`allow`]: the operators and expressions that a gated query may use; everything else is refused by name.
//! 2. [`complete_order`]: where the choice of rows depends on an order (LIMIT, windows, ordered aggregates), the
//!    order is completed by the remaining columns, so that the answer is a function of the rows alone.
//! 3. [`order_answer`]: where the order in which rows are read would tell something that they do not show, the answer gets
//!    an order of its own.
//! 4. [`needs_strict`]: whether an expression could fail, or round, differently when rows meet in other batches.
//!    The engine evaluates the right side of AND only where the left keeps few rows *of a batch*, so an error
//!    there would tell how many hidden rows lie between the visible ones. Such queries run in strict mode.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{AggregateFunction, Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Aggregate, Distinct, DistinctOn, Expr, ExprSchemable, Limit, LogicalPlan, LogicalPlanBuilder,
    Operator, Sort, Window, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};

use qihui_consent::decision::{DatasetScope, Form};

use crate::error::QueryError;
use crate::functions;
use crate::mutations::{Mutation, mutated};

/// Checks that `plan` consists of what a gated query may use.
///
/// # Errors
/// [`QueryError::NotAllowed`] names the first operator or expression that is not allowed.
pub fn allow(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut refused: Option<Cow<'static, str>> = None;
    let walked = plan.apply_with_subqueries(|node| {
        refused = refused_node(node).map(Cow::Borrowed);
        if refused.is_none() {
            node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    refused = refused_expression(expr);
                    Ok(stop_if(refused.is_some()))
                })
            })?;
        }
        Ok(stop_if(refused.is_some()))
    });
    match (walked, refused) {
        (_, Some(what)) => Err(QueryError::NotAllowed {
            what: what.into_owned(),
        }),
        (Err(error), None) => Err(QueryError::from_planning(&error)),
        (Ok(_), None) => Ok(()),
    }
}

fn stop_if(stop: bool) -> TreeNodeRecursion {
    if stop {
        TreeNodeRecursion::Stop
    } else {
        TreeNodeRecursion::Continue
    }
}

/// The operators of a logical plan that a query may use.
pub const ALLOWED_OPERATORS: &[&str] = &[
    "Aggregate",
    "Distinct",
    "EmptyRelation",
    "Filter",
    "Join",
    "Limit",
    "Projection",
    "Sort",
    "Subquery",
    "SubqueryAlias",
    "TableScan",
    "Union",
    "Values",
    "Window",
];

/// The name of an operator, and what a user knows it by.
pub fn operator(node: &LogicalPlan) -> (&'static str, &'static str) {
    match node {
        LogicalPlan::Projection(_) => ("Projection", "SELECT"),
        LogicalPlan::Filter(_) => ("Filter", "WHERE"),
        LogicalPlan::Window(_) => ("Window", "a window"),
        LogicalPlan::Aggregate(_) => ("Aggregate", "GROUP BY"),
        LogicalPlan::Sort(_) => ("Sort", "ORDER BY"),
        LogicalPlan::Join(_) => ("Join", "JOIN"),
        LogicalPlan::Union(_) => ("Union", "UNION"),
        LogicalPlan::TableScan(_) => ("TableScan", "a table"),
        LogicalPlan::EmptyRelation(_) => ("EmptyRelation", "no table"),
        LogicalPlan::Subquery(_) => ("Subquery", "a subquery"),
        LogicalPlan::SubqueryAlias(_) => ("SubqueryAlias", "an alias"),
        LogicalPlan::Limit(_) => ("Limit", "LIMIT"),
        LogicalPlan::Values(_) => ("Values", "VALUES"),
        LogicalPlan::Distinct(_) => ("Distinct", "DISTINCT"),
        LogicalPlan::Repartition(_) => ("Repartition", "DISTRIBUTE BY"),
        LogicalPlan::Statement(_) => ("Statement", "a statement other than SELECT"),
        LogicalPlan::Explain(_) => ("Explain", "EXPLAIN inside a query"),
        LogicalPlan::Analyze(_) => ("Analyze", "EXPLAIN inside a query"),
        LogicalPlan::Extension(_) => ("Extension", "an extension"),
        LogicalPlan::Dml(_) => ("Dml", "INSERT, UPDATE or DELETE"),
        LogicalPlan::Ddl(_) => ("Ddl", "CREATE or DROP"),
        LogicalPlan::Copy(_) => ("Copy", "COPY"),
        LogicalPlan::DescribeTable(_) => ("DescribeTable", "DESCRIBE"),
        LogicalPlan::Unnest(_) => ("Unnest", "UNNEST"),
        LogicalPlan::RecursiveQuery(_) => ("RecursiveQuery", "a recursive query"),
    }
}

fn refused_node(node: &LogicalPlan) -> Option<&'static str> {
    let (name, known_as) = operator(node);
    (!ALLOWED_OPERATORS.contains(&name)).then_some(known_as)
}

/// The expressions that a query may use, by the engine's names for them.
pub const ALLOWED_EXPRESSIONS: &[&str] = &[
    "AggregateFunction",
    "Alias",
    "Between",
    "BinaryExpr",
    "Case",
    "Cast",
    "Column",
    "Exists",
    "GroupingSet",
    "InList",
    "InSubquery",
    "IsFalse",
    "IsNotFalse",
    "IsNotNull",
    "IsNotTrue",
    "IsNotUnknown",
    "IsNull",
    "IsTrue",
    "IsUnknown",
    "Like",
    "Literal",
    "Negative",
    "Not",
    "Outer",
    "RLike",
    "ScalarFunction",
    "ScalarSubquery",
    "SetComparison",
    "TryCast",
    "WindowFunction",
];

/// The operators between two values that a query may use. Others are between types that no column has (lists, JSON, geometry,
/// text searches), or mean something else in every engine.
pub const ALLOWED_BINARY: &[Operator] = &[
    Operator::And,
    Operator::BitwiseAnd,
    Operator::BitwiseOr,
    Operator::BitwiseShiftLeft,
    Operator::BitwiseShiftRight,
    Operator::BitwiseXor,
    Operator::Divide,
    Operator::Eq,
    Operator::Gt,
    Operator::GtEq,
    Operator::ILikeMatch,
    Operator::IsDistinctFrom,
    Operator::IsNotDistinctFrom,
    Operator::LikeMatch,
    Operator::Lt,
    Operator::LtEq,
    Operator::Minus,
    Operator::Modulo,
    Operator::Multiply,
    Operator::NotEq,
    Operator::NotILikeMatch,
    Operator::NotLikeMatch,
    Operator::Or,
    Operator::Plus,
    Operator::RegexIMatch,
    Operator::RegexMatch,
    Operator::RegexNotIMatch,
    Operator::RegexNotMatch,
    Operator::StringConcat,
];

fn refused_expression(expr: &Expr) -> Option<Cow<'static, str>> {
    refused_kind(expr)
        .map(Cow::Borrowed)
        .or_else(|| Some(format!("the operator {}", unlisted_operator(expr)?).into()))
        .or_else(|| Some(format!("the function {}", unlisted(expr)?).into()))
}

/// The name of a function that is not on the lists. The planner makes some from signs, which are in no registry: lists
/// from brackets, structures from parentheses, and what compares and joins lists.
fn unlisted(expr: &Expr) -> Option<&str> {
    let (name, listed): (&str, fn(&str) -> bool) = match expr {
        Expr::ScalarFunction(function) => (function.name(), functions::is_scalar),
        Expr::AggregateFunction(function) => (function.func.name(), functions::is_aggregate),
        Expr::WindowFunction(function) => match &function.fun {
            WindowFunctionDefinition::AggregateUDF(udf) => (udf.name(), functions::is_aggregate),
            WindowFunctionDefinition::WindowUDF(udf) => (udf.name(), functions::is_window),
        },
        _ => return None,
    };
    (!listed(name)).then_some(name)
}

/// The operator between two values that is not on the list.
fn unlisted_operator(expr: &Expr) -> Option<Operator> {
    let operator = match expr {
        Expr::BinaryExpr(binary) => binary.op,
        Expr::SetComparison(compared) => compared.op,
        _ => return None,
    };
    (!ALLOWED_BINARY.contains(&operator)).then_some(operator)
}

fn refused_kind(expr: &Expr) -> Option<&'static str> {
    match expr {
        Expr::ScalarVariable(..) => Some("a session variable"),
        Expr::Placeholder(_) => Some("a parameter"),
        Expr::Unnest(_) => Some("UNNEST"),
        Expr::HigherOrderFunction(_) | Expr::Lambda(_) | Expr::LambdaVariable(_) => {
            Some("a lambda")
        }
        Expr::WindowFunction(function) => match &function.fun {
            WindowFunctionDefinition::AggregateUDF(udf)
                if functions::GROWING_AGGREGATES.contains(&udf.name()) =>
            {
                Some("array_agg or string_agg over a window")
            }
            _ => None,
        },
        expr => {
            let listed = ALLOWED_EXPRESSIONS.contains(&expr.variant_name());
            (!listed).then_some("an expression that is not listed")
        }
    }
}

/// Completes every order that decides which rows appear.
///
/// # Errors
/// When the engine cannot rebuild a node, or a window's frame leaves no room for a completed order.
pub fn complete_order(plan: LogicalPlan) -> Result<LogicalPlan> {
    if mutated(Mutation::OrderIncomplete) {
        return Ok(plan);
    }
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Limit(limit) => complete_limit(limit).map(Transformed::yes),
        LogicalPlan::Window(window) => complete_window(window).map(Transformed::yes),
        LogicalPlan::Aggregate(aggregate) => complete_aggregate(aggregate).map(Transformed::yes),
        LogicalPlan::Distinct(Distinct::On(on)) => complete_distinct_on(on).map(Transformed::yes),
        node => Ok(Transformed::no(node)),
    })
    .map(|done| done.data)
}

/// Gives each subquery that ANY or ALL compares with a name of its own. The engine makes of the comparison one of two columns,
/// and where both sides read a dataset under one name, takes the two for one: every value would equal itself. (A subquery that
/// names columns of the outer one tells the two apart already.)
///
/// # Errors
/// When the engine cannot rebuild a node.
pub fn name_compared(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut taken = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::SubqueryAlias(alias) = node {
            taken.insert(alias.alias.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut names = (1_usize..).map(|number| format!("__compared_{number}"));
    plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| {
            expr.transform_up(|expr| match expr {
                Expr::SetComparison(mut compared)
                    if compared.subquery.outer_ref_columns.is_empty() =>
                {
                    let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
                    let plan = compared.subquery.subquery.as_ref().clone();
                    let named = LogicalPlanBuilder::from(plan).alias(name);
                    compared.subquery.subquery = Arc::new(named?.build()?);
                    Ok(Transformed::yes(Expr::SetComparison(compared)))
                }
                expr => Ok(Transformed::no(expr)),
            })
        })
    })
    .map(|done| done.data)
}

fn complete_limit(limit: Limit) -> Result<LogicalPlan> {
    let input = match complete_sort_below(&limit.input)? {
        Some(input) => input,
        None if limit.input.schema().fields().is_empty() => limit.input.as_ref().clone(),
        None => LogicalPlan::Sort(Sort {
            expr: completed(Vec::new(), limit.input.schema()),
            input: Arc::clone(&limit.input),
            fetch: None,
        }),
    };
    Ok(LogicalPlan::Limit(Limit {
        input: Arc::new(input),
        ..limit
    }))
}

/// Completes the sort that a LIMIT takes its rows from, looking through projections and aliases.
fn complete_sort_below(plan: &Arc<LogicalPlan>) -> Result<Option<LogicalPlan>> {
    match plan.as_ref() {
        LogicalPlan::Sort(sort) => {
            let expr = completed(sort.expr.clone(), sort.input.schema());
            Ok(Some(LogicalPlan::Sort(Sort {
                expr,
                input: Arc::clone(&sort.input),
                fetch: sort.fetch,
            })))
        }
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
            let [input] = plan.inputs()[..] else {
                return Ok(None);
            };
            let Some(input) = complete_sort_below(&Arc::new(input.clone()))? else {
                return Ok(None);
            };
            plan.with_new_exprs(plan.expressions(), vec![input])
                .map(Some)
        }
        _ => Ok(None),
    }
}

/// The columns that a plan reads of each table.
pub fn columns_read(plan: &LogicalPlan) -> BTreeMap<String, BTreeSet<String>> {
    let mut read: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // The walk only collects, so it cannot fail.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let columns = read.entry(scan.table_name.table().to_owned()).or_default();
            columns.extend(
                scan.projected_schema
                    .fields()
                    .iter()
                    .map(|field| field.name().clone()),
            );
            for filter in &scan.filters {
                columns.extend(
                    filter
                        .column_refs()
                        .iter()
                        .map(|column| column.name.clone()),
                );
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    read
}

/// Whether the order in which rows are read is one that they show: files are sorted by enterprise, then by event date. (Then
/// by a hash of the key, which tells nothing.)
pub fn shows_order(scope: &DatasetScope) -> bool {
    let contract = &scope.contract;
    let shown = |name: &String| {
        let named = scope.columns.iter().enumerate();
        let mut named = named.filter(|(_, column)| column.name == *name);
        named.next().is_some_and(|(at, column)| {
            let mut items = scope.shapes.iter().flat_map(|shape| &shape.items);
            let by_grants = column.by_grant && !scope.all_rows;
            let by_all = match mutated(Mutation::ShownToSome) {
                true => items.any(|item| item.columns.contains(at)),
                false => items.all(|item| item.columns.contains(at)),
            };
            column.form == Form::Clear && (column.always || (by_grants && by_all))
        })
    };
    // Whose the rows are is known where one subject is named.
    let named = scope.subjects.as_ref();
    let named = named.is_some_and(|subjects| subjects.len() <= 1);
    // Of a dataset without open columns nothing is read.
    scope.columns.is_empty()
        || (named || shown(&contract.uscc)) && contract.event_date.iter().all(shown)
}

/// Has the rows of an answer come in an order that only what they show decides: the order that the statement asks for,
/// completed by every other column.
///
/// # Errors
/// When the engine cannot rebuild a node.
pub fn order_answer(plan: LogicalPlan) -> Result<LogicalPlan> {
    // The order that a LIMIT takes its rows by is complete.
    if plan.schema().fields().is_empty()
        || matches!(plan, LogicalPlan::Limit(_))
        || mutated(Mutation::AnswerUnordered)
    {
        return Ok(plan);
    }
    let plan = Arc::new(plan);
    if let Some(ordered) = complete_sort_below(&plan)? {
        return Ok(ordered);
    }
    Ok(LogicalPlan::Sort(Sort {
        expr: completed(Vec::new(), plan.schema()),
        input: plan,
        fetch: None,
    }))
}

/// `order` followed by the columns of `schema` that it does not name yet.
fn completed(mut order: Vec<SortExpr>, schema: &DFSchema) -> Vec<SortExpr> {
    for column in schema.columns() {
        let column = Expr::Column(column);
        if !order.iter().any(|key| key.expr == column) {
            order.push(column.sort(true, false));
        }
    }
    order
}

fn complete_window(window: Window) -> Result<LogicalPlan> {
    let schema = Arc::clone(window.input.schema());
    let keep = NamePreserver::new_for_projection();
    let exprs: Result<Vec<Expr>> = window
        .window_expr
        .into_iter()
        .map(|expr| {
            let name = keep.save(&expr);
            let expr = expr.transform_down(|expr| match expr {
                Expr::WindowFunction(function) => complete_window_function(*function, &schema)
                    .map(|f| Transformed::yes(Expr::from(f))),
                expr => Ok(Transformed::no(expr)),
            })?;
            Ok(name.restore(expr.data))
        })
        .collect();
    Ok(LogicalPlan::Window(Window::try_new(exprs?, window.input)?))
}

fn complete_window_function(
    mut function: WindowFunction,
    schema: &DFSchema,
) -> Result<WindowFunction> {
    let frame = &function.params.window_frame;
    let rows = frame.units == WindowFrameUnits::Rows;
    let whole = unbounded(&frame.start_bound) && unbounded(&frame.end_bound);
    let sensitive = match &function.fun {
        WindowFunctionDefinition::WindowUDF(udf) => {
            functions::ORDERED_WINDOWS.contains(&udf.name())
        }
        WindowFunctionDefinition::AggregateUDF(udf) => {
            functions::ORDERED_AGGREGATES.contains(&udf.name()) || (rows && !whole)
        }
    };
    if !sensitive {
        return Ok(function);
    }
    let by_offset = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) => !value.is_null(),
        WindowFrameBound::CurrentRow => false,
    };
    if !rows && (by_offset(&frame.start_bound) || by_offset(&frame.end_bound)) {
        return datafusion::common::plan_err!(
            "{} over a RANGE or GROUPS frame with an offset has no definite answer; use ROWS",
            function.fun
        );
    }
    function.params.order_by = completed(function.params.order_by, schema);
    Ok(function)
}

fn unbounded(bound: &WindowFrameBound) -> bool {
    match bound {
        WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) => value.is_null(),
        WindowFrameBound::CurrentRow => false,
    }
}

fn complete_aggregate(aggregate: Aggregate) -> Result<LogicalPlan> {
    map_functions(aggregate, complete_aggregate_function)
}

/// The aggregate with each of its functions replaced, under the same names.
fn map_functions(
    aggregate: Aggregate,
    replaced: impl Fn(AggregateFunction) -> AggregateFunction,
) -> Result<LogicalPlan> {
    let keep = NamePreserver::new_for_projection();
    let exprs: Result<Vec<Expr>> = aggregate
        .aggr_expr
        .into_iter()
        .map(|expr| {
            let name = keep.save(&expr);
            let expr = expr.transform_down(|expr| match expr {
                Expr::AggregateFunction(function) => Ok(Transformed::yes(Expr::AggregateFunction(
                    replaced(function),
                ))),
                expr => Ok(Transformed::no(expr)),
            })?;
            Ok(name.restore(expr.data))
        })
        .collect();
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(
        aggregate.input,
        aggregate.group_expr,
        exprs?,
    )?))
}

fn complete_aggregate_function(mut function: AggregateFunction) -> AggregateFunction {
    if functions::ORDERED_AGGREGATES.contains(&function.func.name()) {
        let values = function
            .params
            .args
            .iter()
            .filter(|arg| !matches!(arg, Expr::Literal(..)));
        for arg in values.cloned().collect::<Vec<_>>() {
            if !function.params.order_by.iter().any(|key| key.expr == arg) {
                function.params.order_by.push(arg.sort(true, false));
            }
        }
    }
    function
}

/// Drops keys that repeat an earlier one from the orders of aggregates. The optimizer simplifies two keys to one
/// (a column, and the same column by way of a function), and the engine, which keeps each key once, panics on the rest.
///
/// # Errors
/// When the engine cannot rebuild a node.
pub fn distinct_keys(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => map_functions(aggregate, |mut function| {
            let keys = std::mem::take(&mut function.params.order_by);
            for key in keys {
                let order = &mut function.params.order_by;
                if !order.iter().any(|earlier| earlier.expr == key.expr) {
                    order.push(key);
                }
            }
            function
        })
        .map(Transformed::yes),
        node => Ok(Transformed::no(node)),
    })
    .map(|done| done.data)
}

fn complete_distinct_on(mut on: DistinctOn) -> Result<LogicalPlan> {
    let order = on.sort_expr.take().unwrap_or_else(|| {
        on.on_expr
            .iter()
            .map(|expr| expr.clone().sort(true, false))
            .collect()
    });
    on.sort_expr = Some(completed(order, on.input.schema()));
    Ok(LogicalPlan::Distinct(Distinct::On(on)))
}

/// Whether the (analysed) plan holds an expression whose outcome may depend on how rows fall into batches or
/// partitions: one that may fail on a value, or a floating-point aggregate.
pub fn needs_strict(plan: &LogicalPlan) -> Result<bool> {
    if mutated(Mutation::NeverStrict) {
        return Ok(false);
    }
    let mut strict = false;
    plan.apply_with_subqueries(|node| {
        let mut schema = DFSchema::empty();
        for input in node.inputs() {
            schema.merge(input.schema());
        }
        if let LogicalPlan::TableScan(scan) = node {
            schema.merge(&scan.projected_schema);
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                strict |= may_vary(expr, &schema);
                Ok(stop_if(strict))
            })
        })?;
        Ok(stop_if(strict))
    })?;
    Ok(strict)
}

/// Whether this node of an expression (not its children) may fail or round by order.
fn may_vary(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::Cast(cast) => match cast.expr.get_type(schema) {
            Ok(from) => !widens(&from, cast.field.data_type()),
            Err(_) => true,
        },
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Plus | Operator::Minus | Operator::Multiply => match expr.get_type(schema) {
                Ok(DataType::Int32 | DataType::Int64 | DataType::Float64) => false,
                Ok(DataType::Decimal128(precision, _)) => precision >= 38,
                _ => true,
            },
            Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::And
            | Operator::Or
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
            | Operator::StringConcat => false,
            _ => true,
        },
        Expr::ScalarFunction(function) => !functions::INFALLIBLE_SCALAR.contains(&function.name()),
        Expr::AggregateFunction(function) => any_float(&function.params.args, schema),
        Expr::WindowFunction(function) => any_float(&function.params.args, schema),
        Expr::Negative(_)
        | Expr::SimilarTo(_)
        | Expr::ScalarSubquery(_)
        | Expr::SetComparison(_) => true,
        _ => false,
    }
}

fn any_float(args: &[Expr], schema: &DFSchema) -> bool {
    args.iter().any(|arg| match arg.get_type(schema) {
        Ok(ty) => ty.is_floating(),
        Err(_) => true,
    })
}

/// Whether every value of `from` has an image in `to`.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Decimal128, Float64, Int32, Int64, LargeUtf8, Null, Utf8, Utf8View,
    };
    match (from, to) {
        _ if from == to => true,
        (Null, _) => true,
        (
            Utf8 | LargeUtf8 | Utf8View | Int32 | Int64 | Decimal128(..) | Date32 | Boolean,
            Utf8 | LargeUtf8 | Utf8View,
        ) => true,
        (Int32, Int64 | Float64) | (Int64 | Decimal128(..), Float64) => true,
        (Int32, Decimal128(p, s)) => i16::from(*p) - i16::from(*s) >= 10,
        (Int64, Decimal128(p, s)) => i16::from(*p) - i16::from(*s) >= 19,
        (Decimal128(p1, s1), Decimal128(p2, s2)) => {
            s2 >= s1 && i16::from(*p2) - i16::from(*s2) >= i16::from(*p1) - i16::from(*s1)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{binary_expr, lit};

    use super::*;

    /// The engine's own checks of types refuse these today; that is for it to change, not for queries to rely on.
    #[test]
    fn an_operator_that_is_on_no_list_is_refused_whatever_the_engine_makes_of_it() {
        for operator in [
            Operator::Arrow,
            Operator::ArrowAt,
            Operator::AtArrow,
            Operator::AtAt,
            Operator::AtQuestion,
            Operator::Colon,
            Operator::HashArrow,
            Operator::HashLongArrow,
            Operator::HashMinus,
            Operator::IntegerDivide,
            Operator::LongArrow,
            Operator::Question,
            Operator::QuestionAnd,
            Operator::QuestionPipe,
        ] {
            let refused = refused_expression(&binary_expr(lit("a"), operator, lit("b")));
            assert_eq!(refused, Some(format!("the operator {operator}").into()));
        }
        for operator in ALLOWED_BINARY {
            let taken = refused_expression(&binary_expr(lit("a"), *operator, lit("b")));
            assert_eq!(taken, None);
        }
    }
}
