//! Figures about groups of enterprises that were not asked: docs/statistics.md.
//!
//! A statement over a dataset of figures is planned in two parts. Below, rows of everybody are summed up per enterprise
//! and put beside the public dataset that groups are made of; [`exec::StatisticsExec`] lets out what the [`rules`]
//! release. Above it stands the rest of the statement, which sees nothing else.

pub mod exec;
pub mod rules;
pub mod statement;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType};
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableType, cast, col, lit,
};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::scalar::ScalarValue;
use parking_lot::Mutex;
use qihui_catalog::{Contract, DatasetId, Level, Timestamp};
use qihui_consent::decision::{ColumnScope, DatasetScope, Form, Shape, StatisticsScope};
use ring::digest::{SHA256, digest};
use roaring::RoaringBitmap;

use crate::error::QueryError;
use crate::forms::arrow_type;
use crate::session::{self, Draft, ParsedQuery};
use exec::{Asked, Outcome, Register, StatisticsExec};
use rules::Terms;
use statement::{Measured, Question};

/// The name under which released groups stand in a plan.
const RELEASED: &str = "released";

/// The dataset of figures of a statement, and the public one beside it.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The dataset whose rows stay closed.
    pub measured: DatasetId,
    /// The public dataset that groups are made of.
    pub frame: DatasetId,
}

fn refused(what: impl Into<String>) -> QueryError {
    QueryError::StatisticNotAllowed { what: what.into() }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn planning(error: DataFusionError) -> QueryError {
    QueryError::from_planning(&error)
}

/// The parts of a statement over these scopes, if one of them gives figures.
///
/// # Errors
/// [`QueryError::StatisticNotAllowed`]: two of them do, or what stands beside it cannot make groups.
pub fn parts(scopes: &BTreeMap<DatasetId, Arc<DatasetScope>>) -> Result<Option<Parts>, QueryError> {
    let (measured, others): (Vec<_>, Vec<_>) = scopes
        .iter()
        .partition(|(_, scope)| scope.statistics.is_some());
    let measured = match measured[..] {
        [] => return Ok(None),
        [(measured, _)] => measured.clone(),
        _ => return Err(refused("two datasets of figures in one statement")),
    };
    let [(frame, scope)] = others[..] else {
        return Err(refused(format!(
            "`{measured}` without exactly one public dataset of enterprises joined on `uscc`, \
             enterprise_registration for example"
        )));
    };
    let contract = &scope.contract;
    let makes_groups = contract.row_level == Level::L1
        && contract.key == [contract.uscc.clone()]
        && contract.window.is_none();
    if !makes_groups {
        return Err(refused(format!(
            "groups of `{frame}`: only a public dataset with one row for each enterprise makes groups"
        )));
    }
    let frame = frame.clone();
    Ok(Some(Parts { measured, frame }))
}

/// A statement over a dataset of figures, as far as it can be planned before it is known what it is made of.
pub(crate) struct Statement {
    draft: Draft,
    /// What it asks.
    pub(crate) question: Question,
    schema: SchemaRef,
    terms: Terms,
    measured_scope: Arc<DatasetScope>,
    frame_scope: Arc<DatasetScope>,
    /// The tables' columns that it reads.
    pub(crate) read: BTreeMap<String, BTreeSet<String>>,
}

/// The part of a public scope that everybody may see.
fn public(scope: &DatasetScope) -> DatasetScope {
    let contract = &scope.contract;
    let is_public = |column: &&ColumnScope| {
        let level = contract.column(&column.name).map(|column| column.level);
        column.always && column.form == Form::Clear && level == Some(Level::L1)
    };
    DatasetScope {
        columns: scope.columns.iter().filter(is_public).cloned().collect(),
        ..whole(contract, Vec::new())
    }
}

/// What the operator reads of a dataset of figures: of every row, the enterprise, the event date and what is summed up.
fn summed(contract: &Arc<Contract>, statistics: &StatisticsScope) -> DatasetScope {
    let needed = contract.landed().filter(|column| {
        column.name == contract.uscc
            || Some(&column.name) == contract.event_date.as_ref()
            || statistics.columns.contains(&column.name)
    });
    let columns = needed.map(|column| ColumnScope {
        name: column.name.clone(),
        form: Form::Clear,
        always: true,
        public_when: None,
        by_grant: false,
        agreements: statistics.agreements.clone(),
    });
    whole(contract, columns.collect())
}

fn whole(contract: &Arc<Contract>, columns: Vec<ColumnScope>) -> DatasetScope {
    DatasetScope {
        contract: Arc::clone(contract),
        columns,
        all_rows: true,
        shapes: vec![Shape::default()],
        members: vec![RoaringBitmap::new()],
        agreements: Vec::new(),
        reasons: Vec::new(),
        subjects: None,
        statistics: None,
    }
}

/// A table of the scope's columns, without rows: for reading a statement.
fn named(scope: &DatasetScope) -> Arc<dyn TableProvider> {
    let fields = scope.columns.iter().filter_map(|column| {
        let ty = scope.contract.column(&column.name)?.ty;
        Some(Field::new(&column.name, arrow_type(ty), true))
    });
    Arc::new(EmptyTable::new(Arc::new(Schema::new(
        fields.collect::<Vec<_>>(),
    ))))
}

/// Reads what a statement asks.
///
/// # Errors
/// As [`statement::question`], and whatever keeps a statement from being a query.
pub(crate) async fn read(
    query: &ParsedQuery,
    parts: &Parts,
    scopes: &BTreeMap<DatasetId, Arc<DatasetScope>>,
    at: Timestamp,
    runtime: Arc<RuntimeEnv>,
) -> Result<Statement, QueryError> {
    let missing = QueryError::Internal {
        what: "the scopes of a statistic",
    };
    let (Some(measured), Some(frame)) = (scopes.get(&parts.measured), scopes.get(&parts.frame))
    else {
        return Err(missing);
    };
    let (Some(statistics), Some(event_date)) =
        (&measured.statistics, &measured.contract.event_date)
    else {
        return Err(refused(format!(
            "`{}`, which has no event date",
            parts.measured
        )));
    };
    if measured.contract.window.is_some() {
        return Err(refused(format!(
            "`{}`, which has a disclosure window",
            parts.measured
        )));
    }
    let (measured_scope, frame_scope) = (summed(&measured.contract, statistics), public(frame));
    let tables = vec![
        (parts.measured.to_string(), named(&measured_scope)),
        (parts.frame.to_string(), named(&frame_scope)),
    ];
    let mut draft = session::draft(query, tables, at, runtime, 1)
        .await
        .map_err(|error| closed(error, [measured, frame]))?;
    let asked = Measured {
        table: parts.measured.as_str(),
        event_date,
        columns: &statistics.columns,
        span: statistics.terms.period,
        today: at.shanghai_date(),
    };
    let ordered = draft.logical.clone();
    let (question, core) = statement::question(&ordered, &asked, draft.state())?;
    let schema = statement::released_schema(core);
    let released = Arc::new(EmptyTable::new(Arc::clone(&schema)));
    draft.logical = statement::over_released(ordered.clone(), core, &stand_in(core, released)?)?;
    if statement::reads_more(&draft.logical, RELEASED) {
        return Err(refused("another table beside the figures"));
    }
    let mut columns: Vec<String> = question.columns();
    columns.push("uscc".to_owned());
    columns.push(event_date.clone());
    let public = question.chosen.iter().chain(&question.keys);
    let public = public.flat_map(Expr::column_refs);
    let mut of_frame: BTreeSet<String> = public.map(|column| column.name.clone()).collect();
    of_frame.insert("uscc".to_owned());
    let read = BTreeMap::from([
        (parts.measured.to_string(), columns.into_iter().collect()),
        (parts.frame.to_string(), of_frame),
    ]);
    Ok(Statement {
        draft,
        question,
        schema,
        terms: Terms {
            min_enterprises: statistics.terms.min_enterprises.into(),
            p_percent: statistics.terms.p_percent,
        },
        measured_scope: Arc::new(measured_scope),
        frame_scope: Arc::new(frame_scope),
        read,
    })
}

/// Tells a column that may not be used from one that does not exist.
fn closed(error: QueryError, scopes: [&DatasetScope; 2]) -> QueryError {
    let QueryError::UnknownColumn { column } = &error else {
        return error;
    };
    let of = scopes
        .into_iter()
        .find(|scope| scope.contract.column(column).is_some());
    match of {
        Some(scope) => QueryError::ColumnNotInAgreement {
            dataset: scope.contract.id.clone(),
            column: column.clone(),
        },
        None => error,
    }
}

/// `table` with the columns of a grouping.
fn stand_in(core: &Aggregate, table: Arc<dyn TableProvider>) -> Result<LogicalPlan, QueryError> {
    let columns = core.schema.iter().enumerate();
    let columns = columns.map(|(at, (qualifier, field))| {
        Expr::Column(Column::new(Some(RELEASED), format!("c{at}")))
            .alias_qualified(qualifier.cloned(), field.name())
    });
    LogicalPlanBuilder::scan(RELEASED, provider_as_source(table), None)
        .and_then(|scan| scan.project(columns.collect::<Vec<_>>()))
        .and_then(LogicalPlanBuilder::build)
        .map_err(planning)
}

/// The tables that a statistic is made of.
pub(crate) struct Made {
    /// The dataset of figures, in the edition's version.
    pub(crate) measured: Arc<dyn TableProvider>,
    /// The public dataset, likewise.
    pub(crate) frame: Arc<dyn TableProvider>,
    /// What was released of the edition.
    pub(crate) register: Arc<dyn Register>,
    /// Where it is told what the question came to.
    pub(crate) outcome: Arc<Mutex<Option<Outcome>>>,
    /// Set when the part below needs strict mode, before its scans are planned.
    pub(crate) strict: Arc<AtomicBool>,
}

/// A planned statistic.
pub(crate) struct PlannedStatistic {
    pub(crate) physical: Arc<dyn ExecutionPlan>,
    pub(crate) context: Arc<TaskContext>,
    /// As it was written.
    pub(crate) written: LogicalPlan,
}

impl Statement {
    /// The scope of the dataset of figures, and the public one.
    pub(crate) fn scopes(&self) -> [&Arc<DatasetScope>; 2] {
        [&self.measured_scope, &self.frame_scope]
    }

    /// Plans the statement over the tables of its edition.
    ///
    /// # Errors
    /// The engine cannot plan it.
    pub(crate) async fn plan(
        self,
        made: Made,
        at: Timestamp,
        runtime: Arc<RuntimeEnv>,
        partitions: usize,
    ) -> Result<PlannedStatistic, QueryError> {
        let contributions = self.contributions(&made).map_err(planning)?;
        let below = session::draft_of(contributions, at, runtime, partitions)?;
        let (contributions, _, context) = session::finish(below, &made.strict).await?;
        let asked = Arc::new(Asked {
            contributions,
            context,
            keys: self.question.keys.len(),
            figures: self.question.figures.clone(),
            columns: self.question.columns(),
            question: sha256(&self.question.text()),
            terms: self.terms,
            schema: Arc::clone(&self.schema),
            register: made.register,
            outcome: made.outcome,
        });
        let mut draft = self.draft;
        let written = draft.written.clone();
        draft.logical = with_released(draft.logical, asked).map_err(planning)?;
        let above = AtomicBool::new(made.strict.load(Ordering::Relaxed));
        let (physical, _, context) = session::finish(draft, &above).await?;
        Ok(PlannedStatistic {
            physical,
            context,
            written,
        })
    }

    /// What each enterprise contributes: see [`Asked::contributions`].
    fn contributions(&self, made: &Made) -> Result<LogicalPlan, DataFusionError> {
        let measured = self.per_enterprise(&made.measured)?;
        let chosen = self.question.chosen.clone();
        let chosen = chosen.map_or_else(|| lit(true), Expr::is_true);
        let frame = LogicalPlanBuilder::scan(
            self.question.frame_table.as_str(),
            provider_as_source(Arc::clone(&made.frame)),
            None,
        )?
        .alias(self.question.frame.clone())?;
        let uscc = Expr::Column(Column::new(Some(self.question.frame.clone()), "uscc"));
        let mut columns = vec![uscc.alias("f_uscc"), chosen.alias("f_chosen")];
        let keys = self.question.keys.iter().enumerate();
        columns.extend(keys.map(|(at, key)| key.clone().unalias().alias(format!("f_{at}"))));
        let frame = frame.project(columns)?;
        let on = (vec!["f_uscc"], vec!["m_uscc"]);
        let joined = frame.join(measured, JoinType::Full, on, None)?;
        let names: Vec<Expr> = joined
            .schema()
            .columns()
            .into_iter()
            .map(Expr::Column)
            .collect();
        joined.project(names)?.build()
    }

    /// Rows, sums and counts of values of each enterprise in the period.
    fn per_enterprise(
        &self,
        table: &Arc<dyn TableProvider>,
    ) -> Result<LogicalPlan, DataFusionError> {
        let day = |day| lit(ScalarValue::Date32(Some(Date32Type::from_naive_date(day))));
        let contract = &self.measured_scope.contract;
        let event_date = contract.event_date.clone().unwrap_or_default();
        let date = || Expr::Column(Column::new_unqualified(event_date.clone()));
        let scan = LogicalPlanBuilder::scan(
            contract.id.as_str(),
            provider_as_source(Arc::clone(table)),
            None,
        )?
        .filter(date().gt_eq(day(self.question.first_day)))?
        .filter(date().lt(day(self.question.end_day)))?;
        let mut columns = vec![col("uscc").alias("m_uscc")];
        let mut figures = vec![count(lit(1_i64)).alias("m_rows")];
        for (at, name) in self.question.columns().iter().enumerate() {
            let column = Expr::Column(Column::new_unqualified(name));
            let wide = match column.get_type(scan.schema())? {
                DataType::Decimal128(_, scale) => DataType::Decimal128(38, scale),
                _ => DataType::Decimal128(38, 0),
            };
            let value = format!("m_{at}");
            columns.push(cast(column, wide).alias(&value));
            figures.push(sum(col(&value)).alias(format!("m_sum_{at}")));
            figures.push(count(col(&value)).alias(format!("m_values_{at}")));
        }
        scan.project(columns)?
            .aggregate(vec![col("m_uscc")], figures)?
            .build()
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

/// The plan with the table of released groups where its name stands.
fn with_released(plan: LogicalPlan, asked: Arc<Asked>) -> Result<LogicalPlan, DataFusionError> {
    let source = provider_as_source(Arc::new(Released(asked)));
    let plan = plan.transform_down(|node| match node {
        LogicalPlan::TableScan(mut scan) => {
            scan.source = Arc::clone(&source);
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        node => Ok(Transformed::no(node)),
    });
    plan.map(|done| done.data)
}

/// The table of released groups.
#[derive(Clone)]
struct Released(Arc<Asked>);

impl std::fmt::Debug for Released {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Released")
    }
}

#[async_trait::async_trait]
impl TableProvider for Released {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let all: Arc<dyn ExecutionPlan> = Arc::new(StatisticsExec::new(Arc::clone(&self.0)));
        let Some(projection) = projection else {
            return Ok(all);
        };
        let schema = all.schema();
        let columns = projection.iter().map(|at| {
            let name = schema.field(*at).name().clone();
            (Arc::new(PhysicalColumn::new(&name, *at)) as _, name)
        });
        Ok(Arc::new(ProjectionExec::try_new(
            columns.collect::<Vec<_>>(),
            all,
        )?))
    }
}
