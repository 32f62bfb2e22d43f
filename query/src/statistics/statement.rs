//! Which statements may ask for figures, and what they ask.
//!
//! Accepted is a SELECT with one grouping over one dataset of figures, joined on `uscc` with one public dataset that has
//! one row for each enterprise:
//!
//! ```sql
//! SELECT r.county, count(DISTINCT v.uscc), sum(v.xse)
//! FROM vat_declaration v JOIN enterprise_registration r ON v.uscc = r.uscc
//! WHERE v.skssqq >= DATE '2026-01-01' AND v.skssqq < DATE '2026-02-01' AND r.regstate = 'K'
//! GROUP BY r.county
//! ```
//!
//! Groups and conditions are made of public columns alone, so that everybody knows who is in a group: what is told, or
//! withheld, of it cannot tell who is. Event dates are fixed to one whole period. What stands above the grouping sees
//! only what was released, and may be anything that a query may be.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Date32Type, SchemaRef};
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::AggregateFunctionParams;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, Join, JoinType, LogicalPlan, Operator, TableScan,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use qihui_catalog::Date;
use qihui_consent::decision::Span;

use crate::error::QueryError;

/// What is told of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// How many enterprises have rows: `count(DISTINCT uscc)`.
    Enterprises,
    /// How many rows: `count(*)`.
    Rows,
    /// How many values of a column: `count(c)`.
    Values(String),
    /// Their sum.
    Sum(String),
    /// Their mean.
    Average(String),
}

/// What a statement asks of the dataset of figures.
#[derive(Debug, Clone)]
pub struct Question {
    /// The first event date.
    pub first_day: Date,
    /// The event date after the last.
    pub end_day: Date,
    /// The public dataset, by its name in the statement.
    pub frame: TableReference,
    /// The public dataset.
    pub frame_table: String,
    /// Which of its enterprises are asked about; none: all.
    pub chosen: Option<Expr>,
    /// What they are grouped by.
    pub keys: Vec<Expr>,
    /// What is asked about each group.
    pub figures: Vec<Figure>,
}

impl Question {
    /// The columns that are summed up or counted, each once.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        let named: BTreeSet<&String> = self
            .figures
            .iter()
            .filter_map(|figure| match figure {
                Figure::Values(name) | Figure::Sum(name) | Figure::Average(name) => Some(name),
                Figure::Enterprises | Figure::Rows => None,
            })
            .collect();
        named.into_iter().cloned().collect()
    }

    /// The question as a text that is equal for equal questions about an edition.
    #[must_use]
    pub fn text(&self) -> String {
        let mut figures = self.figures.clone();
        figures.sort();
        figures.dedup();
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let chosen = self.chosen.as_ref().map(ToString::to_string);
        format!(
            "qihui statistic 1\n{}\n{chosen:?}\n{keys:?}\n{figures:?}",
            self.frame_table
        )
    }
}

/// What a dataset of figures is to its statement.
#[derive(Debug, Clone)]
pub struct Measured<'a> {
    /// Its name.
    pub table: &'a str,
    /// Its column of event dates.
    pub event_date: &'a str,
    /// The columns that figures are made of.
    pub columns: &'a [String],
    /// The span of event dates that figures are about.
    pub span: Span,
    /// Today: a period has to be over.
    pub today: Date,
}

fn refused(what: impl Into<String>) -> QueryError {
    QueryError::StatisticNotAllowed { what: what.into() }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn planning(error: DataFusionError) -> QueryError {
    QueryError::from_planning(&error)
}

/// Reads what a statement asks of the dataset of figures. With it the grouping that the figures take the place of.
///
/// # Errors
/// [`QueryError::StatisticNotAllowed`] says what is not accepted, [`QueryError::StatisticPeriodRefused`] what is wrong
/// with the event dates.
pub fn question<'p>(
    plan: &'p LogicalPlan,
    measured: &Measured<'_>,
    state: &SessionState,
) -> Result<(Question, &'p Aggregate), QueryError> {
    refuse_subqueries(plan)?;
    let core = core(plan)?;
    let sources = Sources::of(&core.input, measured)?;
    let mut asked = Asked::default();
    for conjunct in &sources.conjuncts {
        asked.take(conjunct, &sources, measured, state)?;
    }
    if !asked.joined {
        return Err(refused(format!(
            "a join of `{}` that is not on `uscc`; write JOIN … ON … .uscc = … .uscc",
            measured.table
        )));
    }
    let (first_day, end_day) = asked.period(measured)?;
    for key in &core.group_expr {
        if matches!(key, Expr::GroupingSet(_)) {
            return Err(refused("ROLLUP, CUBE and GROUPING SETS"));
        }
        sources.only_public(key)?;
    }
    let figures: Result<Vec<Figure>, QueryError> = core
        .aggr_expr
        .iter()
        .map(|expr| sources.figure(expr, measured.columns))
        .collect();
    let question = Question {
        first_day,
        end_day,
        frame: sources.frame.clone(),
        frame_table: sources.frame_table.clone(),
        chosen: asked.chosen.into_iter().reduce(Expr::and),
        keys: core.group_expr.clone(),
        figures: figures?,
    };
    Ok((question, core))
}

/// The plan with `released` in the place of its grouping.
///
/// # Errors
/// The engine cannot rebuild the plan.
pub fn over_released(
    plan: LogicalPlan,
    core: &Aggregate,
    released: &LogicalPlan,
) -> Result<LogicalPlan, QueryError> {
    let done = plan.transform_down(|node| match &node {
        LogicalPlan::Aggregate(aggregate) if aggregate == core => Ok(Transformed::new(
            released.clone(),
            true,
            TreeNodeRecursion::Jump,
        )),
        _ => Ok(Transformed::no(node)),
    });
    done.map(|done| done.data).map_err(planning)
}

fn refuse_subqueries(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::Subquery(_));
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(planning)?;
    if found {
        return Err(refused("a query inside an expression"));
    }
    Ok(())
}

/// The grouping nearest to the tables; above it are only operators with one input.
fn core(plan: &LogicalPlan) -> Result<&Aggregate, QueryError> {
    let mut node = plan;
    let mut core = None;
    loop {
        node = match node {
            LogicalPlan::Aggregate(aggregate) => {
                core = Some(aggregate);
                &aggregate.input
            }
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Distinct(_)
            | LogicalPlan::SubqueryAlias(_) => match node.inputs()[..] {
                [input] => input,
                _ => break,
            },
            _ => break,
        };
    }
    core.ok_or_else(|| {
        refused("a query without count, sum or avg, or with another table, UNION or join above them; rows are not told")
    })
}

/// The two tables of a statement.
struct Sources {
    frame: TableReference,
    frame_table: String,
    frame_schema: Arc<DFSchema>,
    measured_schema: Arc<DFSchema>,
    /// The conditions of WHERE and ON.
    conjuncts: Vec<Expr>,
}

impl Sources {
    fn of(input: &LogicalPlan, measured: &Measured<'_>) -> Result<Self, QueryError> {
        let mut conjuncts = Vec::new();
        let mut node = input;
        while let LogicalPlan::Filter(filter) = node {
            conjuncts.extend(split_conjunction(&filter.predicate).into_iter().cloned());
            node = &filter.input;
        }
        let LogicalPlan::Join(join) = node else {
            return Err(refused(format!(
                "`{0}` by itself; join it with a public dataset of enterprises: FROM {0} v JOIN \
                 enterprise_registration r ON v.uscc = r.uscc",
                measured.table
            )));
        };
        Self::of_join(join, measured, conjuncts)
    }

    fn of_join(
        join: &Join,
        measured: &Measured<'_>,
        mut conjuncts: Vec<Expr>,
    ) -> Result<Self, QueryError> {
        if join.join_type != JoinType::Inner {
            return Err(refused("a join other than an inner one"));
        }
        if let Some(filter) = &join.filter {
            conjuncts.extend(split_conjunction(filter).into_iter().cloned());
        }
        let keys = join.on.iter();
        conjuncts.extend(keys.map(|(left, right)| left.clone().eq(right.clone())));
        let sides = [&join.left, &join.right].map(|side| source(side));
        let [Some(left), Some(right)] = sides else {
            return Err(refused(
                "more than two tables, or a query in the place of a table",
            ));
        };
        let is_measured = |source: &(&TableScan, _)| source.0.table_name.table() == measured.table;
        let (measured_side, frame_side) = match (is_measured(&left), is_measured(&right)) {
            (true, false) => (&join.left, &join.right),
            (false, true) => (&join.right, &join.left),
            _ => return Err(refused(format!("`{}` joined with itself", measured.table))),
        };
        let (scan, name) = if is_measured(&left) { right } else { left };
        Ok(Self {
            frame: name,
            frame_table: scan.table_name.table().to_owned(),
            frame_schema: Arc::clone(frame_side.schema()),
            measured_schema: Arc::clone(measured_side.schema()),
            conjuncts,
        })
    }

    fn is_frames(&self, column: &Column) -> bool {
        self.frame_schema.has_column(column)
    }

    fn is_measured(&self, column: &Column, name: &str) -> bool {
        column.name == name && self.measured_schema.has_column(column)
    }

    fn only_public(&self, expr: &Expr) -> Result<(), QueryError> {
        let refs = expr.column_refs();
        match refs.into_iter().find(|column| !self.is_frames(column)) {
            None => Ok(()),
            Some(column) => Err(refused(format!(
                "groups or conditions by `{}`: only public columns of `{}` make groups, and whole periods of \
                 the event date",
                column.name, self.frame_table
            ))),
        }
    }

    fn joins(&self, left: &Expr, right: &Expr) -> bool {
        let (Expr::Column(left), Expr::Column(right)) = (left, right) else {
            return false;
        };
        let is = |one: &Column, other: &Column| {
            one.name == "uscc"
                && self.is_frames(one)
                && self.is_measured(other, "uscc")
                && !self.is_frames(other)
        };
        is(left, right) || is(right, left)
    }

    fn figure(&self, expr: &Expr, agreed: &[String]) -> Result<Figure, QueryError> {
        let wrong = || {
            refused(format!(
                "`{expr}`: what is told of a group is count(*), count(DISTINCT uscc), and count, sum or avg of a \
                 column of the agreement"
            ))
        };
        let Expr::AggregateFunction(function) = expr.clone().unalias_nested().data else {
            return Err(wrong());
        };
        let AggregateFunctionParams {
            args,
            distinct,
            filter,
            order_by,
            null_treatment,
        } = function.params;
        if filter.is_some() || !order_by.is_empty() || null_treatment.is_some() {
            return Err(wrong());
        }
        let argument = match &args[..] {
            [Expr::Literal(value, _)] if !value.is_null() => None,
            [Expr::Column(column)] => Some(column),
            _ => return Err(wrong()),
        };
        let of_measured = |column: &&Column| {
            self.is_measured(column, &column.name)
                && !self.is_frames(column)
                && agreed.contains(&column.name)
        };
        let column = argument
            .filter(of_measured)
            .map(|column| column.name.clone());
        let is_uscc = argument.is_some_and(|column| column.name == "uscc");
        match (function.func.name(), distinct, argument, column) {
            ("count", false, None, _) => Ok(Figure::Rows),
            ("count", false, Some(_), _) if is_uscc => Ok(Figure::Rows),
            ("count", true, Some(_), _) if is_uscc => Ok(Figure::Enterprises),
            ("count", false, _, Some(name)) => Ok(Figure::Values(name)),
            ("sum", false, _, Some(name)) => Ok(Figure::Sum(name)),
            ("avg", false, _, Some(name)) => Ok(Figure::Average(name)),
            _ => Err(wrong()),
        }
    }
}

/// The table that a side of a join is, and its name in the statement.
fn source(side: &LogicalPlan) -> Option<(&TableScan, TableReference)> {
    match side {
        LogicalPlan::TableScan(scan) => Some((scan, scan.table_name.clone())),
        LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
            LogicalPlan::TableScan(scan) => Some((scan, alias.alias.clone())),
            _ => None,
        },
        _ => None,
    }
}

/// What the conditions came to.
#[derive(Default)]
struct Asked {
    joined: bool,
    chosen: Vec<Expr>,
    from: Option<Date>,
    end: Option<Date>,
}

impl Asked {
    fn take(
        &mut self,
        conjunct: &Expr,
        sources: &Sources,
        measured: &Measured<'_>,
        state: &SessionState,
    ) -> Result<(), QueryError> {
        if let Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) = conjunct
            && sources.joins(left, right)
        {
            self.joined = true;
            return Ok(());
        }
        let columns = conjunct.column_refs();
        let dated = |column: &&Column| {
            sources.is_measured(column, measured.event_date) && !sources.is_frames(column)
        };
        if !columns.is_empty() && columns.iter().all(dated) {
            return self.bound(conjunct, sources, state);
        }
        sources.only_public(conjunct)?;
        self.chosen.push(conjunct.clone());
        Ok(())
    }

    /// A bound of event dates.
    fn bound(
        &mut self,
        conjunct: &Expr,
        sources: &Sources,
        state: &SessionState,
    ) -> Result<(), QueryError> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(&sources.measured_schema))
            .with_config_options(Arc::clone(state.config_options()))
            .with_query_execution_start_time(state.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let simple = simplifier
            .coerce(conjunct.clone(), &sources.measured_schema)
            .and_then(|conjunct| simplifier.simplify(conjunct))
            .map_err(planning)?;
        for part in split_conjunction(&simple) {
            self.simple_bound(part).ok_or_else(|| {
                period("compare the event date with dates alone, as in >= DATE '2026-01-01'")
            })?;
        }
        Ok(())
    }

    fn simple_bound(&mut self, bound: &Expr) -> Option<()> {
        let (op, value) = match bound {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                match (left.as_ref(), right.as_ref()) {
                    (Expr::Column(_), Expr::Literal(value, _)) => (*op, value),
                    (Expr::Literal(value, _), Expr::Column(_)) => (op.swap()?, value),
                    _ => return None,
                }
            }
            Expr::Between(between) if !between.negated => {
                let both = [
                    (Operator::GtEq, &between.low),
                    (Operator::LtEq, &between.high),
                ];
                for (op, value) in both {
                    let Expr::Literal(value, _) = value.as_ref() else {
                        return None;
                    };
                    self.narrow(op, value)?;
                }
                return Some(());
            }
            _ => return None,
        };
        self.narrow(op, value)
    }

    fn narrow(&mut self, op: Operator, value: &ScalarValue) -> Option<()> {
        let ScalarValue::Date32(Some(days)) = value else {
            return None;
        };
        let day = Date32Type::to_naive_date_opt(*days)?;
        let (from, end) = match op {
            Operator::GtEq => (Some(day), None),
            Operator::Gt => (Some(day.succ_opt()?), None),
            Operator::Lt => (None, Some(day)),
            Operator::LtEq => (None, Some(day.succ_opt()?)),
            Operator::Eq => (Some(day), Some(day.succ_opt()?)),
            _ => return None,
        };
        self.from = self.from.max(from);
        self.end = match (self.end, end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Some(())
    }

    /// The period, if the event dates are exactly one that is over.
    fn period(&self, measured: &Measured<'_>) -> Result<(Date, Date), QueryError> {
        let span = measured.span;
        let whole = self.from.and_then(|from| Some((from, span.end(from)?)));
        match whole {
            Some((from, end)) if self.end == Some(end) && end <= measured.today => Ok((from, end)),
            Some((_, end)) if self.end == Some(end) => Err(period("the period is not over yet")),
            _ => Err(period(&format!(
                "give both ends of one whole {} of `{}`, as in {1} >= DATE '2026-01-01' AND {1} < DATE …",
                span.as_str(),
                measured.event_date
            ))),
        }
    }
}

fn period(reason: &str) -> QueryError {
    QueryError::StatisticPeriodRefused {
        reason: reason.to_owned(),
    }
}

/// The schema of what is released: the groups' keys and figures as the grouping has them.
#[must_use]
pub fn released_schema(core: &Aggregate) -> SchemaRef {
    use arrow::datatypes::{Field, Schema};
    let fields = core.schema.fields().iter().enumerate();
    let fields = fields.map(|(at, field)| {
        Field::new(
            format!("c{at}"),
            field.data_type().clone(),
            field.is_nullable(),
        )
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether a plan still reads a table other than `released`.
#[must_use]
pub fn reads_more(plan: &LogicalPlan, released: &str) -> bool {
    let mut more = false;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            more |=
                scan.table_name.table() != released || source_as_provider(&scan.source).is_err();
        }
        Ok(TreeNodeRecursion::Continue)
    });
    more || walked.is_err()
}
