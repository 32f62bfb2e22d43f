//! A session per query: its only catalogue is the gated one, its only functions are the listed ones, and it can
//! reach no file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider,
};
use datafusion::config::ConfigNonZeroUsize;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use futures::FutureExt as _;
use qihui_catalog::{DatasetId, EnterpriseNumbers, Timestamp};

use crate::account::Account;
use crate::bounds::dialect::GateDialect;
use crate::bounds::values::Values;
use crate::bounds::{meter, statement, weight};
use crate::clauses;
use crate::dense::DenseScope;
use crate::error::QueryError;
use crate::exec::{self, FalseConstants, Permit};
use crate::functions;
use crate::mutations::{Mutation, mutated};
use crate::plan;
use crate::provider::{GatedTable, QueryContext, TableVersion};

/// A statement that was read: a query, and whether only its plan is asked for.
#[derive(Debug, Clone)]
pub struct ParsedQuery {
    statement: Statement,
    /// Whether the statement was EXPLAIN.
    pub explain: bool,
    /// The tables it names, as written.
    pub tables: Vec<String>,
}

/// Reads one SELECT statement (or EXPLAIN of one).
///
/// # Errors
/// [`QueryError::BadSql`], [`QueryError::NotAllowed`], or the statement is longer, deeper or larger than may be.
pub fn parse(sql: &str) -> Result<ParsedQuery, QueryError> {
    statement::check_text(sql)?;
    let dialect = GateDialect::new(sql);
    let mut statements = DFParserBuilder::new(sql)
        .with_dialect(&dialect)
        .with_recursion_limit(statement::MAX_NESTING)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| QueryError::from_planning(&error))?;
    let (Some(statement), true) = (statements.pop_front(), statements.is_empty()) else {
        return Err(QueryError::BadSql {
            message: "write exactly one statement".into(),
        });
    };
    let refused = |what: &str| {
        Err(QueryError::NotAllowed {
            what: what.to_owned(),
        })
    };
    let (query, explain) = match statement {
        Statement::Statement(statement) => match *statement {
            SqlStatement::Query(query) => (query, false),
            SqlStatement::ExplainTable { .. } => return refused("DESCRIBE"),
            SqlStatement::Copy { .. } => return refused("COPY"),
            SqlStatement::ShowTables { .. }
            | SqlStatement::ShowColumns { .. }
            | SqlStatement::ShowVariable { .. }
            | SqlStatement::ShowVariables { .. }
            | SqlStatement::ShowFunctions { .. } => return refused("SHOW"),
            SqlStatement::Insert(_) | SqlStatement::Update { .. } | SqlStatement::Delete(_) => {
                return refused("INSERT, UPDATE or DELETE");
            }
            _ => return refused("a statement other than SELECT"),
        },
        Statement::Explain(explain) if explain.options.analyze || explain.options.verbose => {
            return refused("EXPLAIN ANALYZE or VERBOSE");
        }
        Statement::Explain(explain) => match *explain.statement {
            Statement::Statement(statement) => match *statement {
                SqlStatement::Query(query) => (query, true),
                _ => return refused("EXPLAIN of a statement other than SELECT"),
            },
            _ => return refused("EXPLAIN of a statement other than SELECT"),
        },
        Statement::CreateExternalTable(_) => return refused("CREATE EXTERNAL TABLE"),
        Statement::CopyTo(_) => return refused("COPY"),
        _ => return refused("a statement other than SELECT"),
    };
    statement::check_tables(&query)?;
    clauses::refuse_unheard(&query)?;
    let statement = Statement::Statement(Box::new(SqlStatement::Query(query)));
    let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)
        .map_err(|error| QueryError::from_planning(&error))?;
    let tables = references.iter().map(ToString::to_string).collect();
    Ok(ParsedQuery {
        statement,
        explain,
        tables,
    })
}

/// What a session is made of.
pub struct SessionSetup {
    /// The scopes of the datasets in the statement.
    pub scopes: BTreeMap<DatasetId, Arc<DenseScope>>,
    /// The table version of each; a dataset that was never landed is empty.
    pub tables: BTreeMap<DatasetId, Arc<TableVersion>>,
    /// The instant of the decision, which is also `now()`.
    pub at: Timestamp,
    /// May rows still pass?
    pub permit: Arc<dyn Permit>,
    /// Resolves enterprises named by filters.
    pub numbers: Option<Arc<dyn EnterpriseNumbers>>,
    /// Memory and spill of the query; knows no object store.
    pub runtime: Arc<RuntimeEnv>,
    /// What the readers below the gate run in.
    pub reader: Arc<TaskContext>,
    /// Threads to use.
    pub partitions: usize,
    /// Counts what passes.
    pub account: Arc<Account>,
    /// Use strict mode whatever the query.
    pub strict: bool,
    /// Least length of a run of rows that is passed without a look at each.
    pub min_inside_rows: usize,
}

/// A planned query.
pub struct Planned {
    /// The plan to run.
    pub physical: Arc<dyn ExecutionPlan>,
    /// What to run it in.
    pub context: Arc<TaskContext>,
    /// What passes, while it runs.
    pub account: Arc<Account>,
    /// The logical plan as the statement was written, for EXPLAIN.
    pub written: LogicalPlan,
    /// The columns that it reads of each table.
    pub read: BTreeMap<String, BTreeSet<String>>,
    /// Whether strict mode is on.
    pub strict: bool,
}

impl Planned {
    /// All rows at once. Nothing of it is recorded, nothing leaves: that is for [`crate::access`].
    ///
    /// # Errors
    /// What the query meets while it runs.
    pub async fn collect(&self) -> Result<Vec<RecordBatch>, QueryError> {
        let (plan, context) = (Arc::clone(&self.physical), Arc::clone(&self.context));
        let collected = datafusion::physical_plan::collect(plan, context).await;
        collected.map_err(|error| QueryError::from_running(&error))
    }
}

/// Settings of the engine that a gated query relies on.
pub fn engine_config(partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema("qihui", "data")
        .with_collect_statistics(false);
    let options = config.options_mut();
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.sql_parser.parse_float_as_decimal = true;
    // A batch of one row with many others is no longer than any.
    options.execution.enforce_batch_size_in_joins = true;
    options.execution.time_zone = Some("+08:00".into());
    config
}

/// Plans a statement over gated tables.
///
/// # Errors
/// Whatever keeps the statement from being a query over open columns.
pub async fn plan(query: &ParsedQuery, setup: SessionSetup) -> Result<Planned, QueryError> {
    let account = setup.account;
    let strict = Arc::new(AtomicBool::new(setup.strict));
    let context = QueryContext {
        account: Arc::clone(&account),
        permit: setup.permit,
        strict: Arc::clone(&strict),
        numbers: setup.numbers,
        reader: setup.reader,
        today: setup.at.shanghai_date(),
        min_inside_rows: setup.min_inside_rows,
    };
    let mut gated: Vec<(String, Arc<dyn TableProvider>)> = Vec::new();
    for (dataset, scope) in &setup.scopes {
        if let Some(table) = setup.tables.get(dataset) {
            let provider = GatedTable::new(Arc::clone(scope), Arc::clone(table), context.clone());
            gated.push((dataset.to_string(), Arc::new(provider)));
        }
    }
    let partitions = if setup.strict { 1 } else { setup.partitions };
    let draft = draft(query, gated, setup.at, setup.runtime, partitions).await;
    let mut draft = draft.map_err(|error| not_open(error, &setup.scopes))?;
    let mut scopes = setup.scopes.values();
    if !scopes.all(|scope| plan::shows_order(scope.scope())) {
        let ordered = plan::order_answer(draft.logical);
        draft.logical = ordered.map_err(|error| QueryError::from_planning(&error))?;
    }
    let written = draft.written.clone();
    let (physical, logical, context) = finish(draft, &strict)
        .await
        .map_err(|error| not_open(error, &setup.scopes))?;
    let strict = strict.load(Ordering::Relaxed);
    Ok(Planned {
        physical,
        context,
        account,
        written,
        read: plan::columns_read(&logical),
        strict,
    })
}

/// Plans a statement over any tables, by the same rules as over gated ones. `strict` is set when the query needs
/// strict mode, before the scans are planned.
///
/// # Errors
/// As [`plan()`].
pub async fn plan_over(
    query: &ParsedQuery,
    tables: Vec<(String, Arc<dyn TableProvider>)>,
    at: Timestamp,
    runtime: Arc<RuntimeEnv>,
    partitions: usize,
    strict: &AtomicBool,
) -> Result<(Arc<dyn ExecutionPlan>, LogicalPlan, Arc<TaskContext>), QueryError> {
    finish(draft(query, tables, at, runtime, partitions).await?, strict).await
}

/// A statement that was checked and is still to be optimised.
pub(crate) struct Draft {
    state: SessionState,
    values: Values,
    /// The plan before anything was changed.
    pub(crate) written: LogicalPlan,
    pub(crate) logical: LogicalPlan,
}

impl Draft {
    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }
}

/// The first half of [`plan_over`].
///
/// # Errors
/// As [`plan()`].
pub(crate) async fn draft(
    query: &ParsedQuery,
    tables: Vec<(String, Arc<dyn TableProvider>)>,
    at: Timestamp,
    runtime: Arc<RuntimeEnv>,
    partitions: usize,
) -> Result<Draft, QueryError> {
    let planning = |error: DataFusionError| QueryError::from_planning(&error);
    let schema = MemorySchemaProvider::new();
    for (name, table) in tables {
        schema.register_table(name, table).map_err(planning)?;
    }
    let values = Values::new(&runtime.memory_pool);
    let state = session(engine_config(partitions), runtime, schema, at)?;
    let logical = state
        .statement_to_plan(query.statement.clone())
        .await
        .map_err(planning)?;
    weight::weigh(&logical)?;
    plan::allow(&logical)?;
    let written = logical.clone();
    let logical = values.with_patterns(logical)?;
    let logical = plan::name_compared(logical).map_err(planning)?;
    let logical = plan::complete_order(logical).map_err(planning)?;
    Ok(Draft {
        state,
        values,
        written,
        logical,
    })
}

/// A draft of a plan that the hub made itself, of parts of a statement that was checked.
///
/// # Errors
/// The engine cannot be set up.
pub(crate) fn draft_of(
    logical: LogicalPlan,
    at: Timestamp,
    runtime: Arc<RuntimeEnv>,
    partitions: usize,
) -> Result<Draft, QueryError> {
    let values = Values::new(&runtime.memory_pool);
    let schema = MemorySchemaProvider::new();
    let state = session(engine_config(partitions), runtime, schema, at)?;
    Ok(Draft {
        state,
        values,
        written: logical.clone(),
        logical,
    })
}

/// The second half of [`plan_over`].
///
/// # Errors
/// As [`plan()`].
pub(crate) async fn finish(
    draft: Draft,
    strict: &AtomicBool,
) -> Result<(Arc<dyn ExecutionPlan>, LogicalPlan, Arc<TaskContext>), QueryError> {
    let planning = |error: DataFusionError| QueryError::from_planning(&error);
    let Draft {
        mut state,
        values,
        logical,
        ..
    } = draft;
    let logical = state.optimize(&logical).map_err(planning)?;
    let logical = plan::distinct_keys(logical).map_err(planning)?;
    let batch_rows = weight::weigh(&logical)?.batch_rows(state.config().batch_size());
    let options = state.config_mut().options_mut();
    options.execution.batch_size = ConfigNonZeroUsize::try_new(batch_rows).map_err(planning)?;
    let charging = values.charging(logical.clone()).map_err(planning)?;
    let go_strict = |state: &mut SessionState| {
        strict.store(true, Ordering::Relaxed);
        state.config_mut().options_mut().execution.target_partitions = 1;
    };
    if plan::needs_strict(&logical).map_err(planning)? {
        go_strict(&mut state);
    }
    let create = async |state: &SessionState| {
        let planner = state.query_planner();
        let physical = planner.create_physical_plan(&charging, state).await;
        physical.map_err(planning)
    };
    // The engine finds some of its own plans in parallel unsound, where it took a key of a sort for constant.
    let in_parallel = match strict.load(Ordering::Relaxed) {
        true => None,
        false => create(&state).await.ok(),
    };
    let mut physical = match in_parallel
        .filter(|plan| !exec::stops_early(plan) || mutated(Mutation::StopsInParallel))
    {
        Some(physical) => physical,
        None => {
            go_strict(&mut state);
            create(&state).await?
        }
    };
    if strict.load(Ordering::Relaxed) {
        physical = exec::in_sequence(physical).map_err(planning)?;
    }
    physical = exec::when_asked(physical).map_err(planning)?;
    physical = meter::metered(physical).map_err(planning)?;
    Ok((physical, logical, state.task_ctx()))
}

/// A statement over any tables, by the same rules as over gated ones, as it was written: its order is completed, but
/// nothing is optimised, so that every expression is still there. With it the columns of its answer.
///
/// # Errors
/// As [`plan()`].
pub fn plan_as_written(
    query: &ParsedQuery,
    tables: Vec<(String, Arc<dyn TableProvider>)>,
) -> Result<(LogicalPlan, SchemaRef), QueryError> {
    let planning = |error: DataFusionError| QueryError::from_planning(&error);
    let schema = MemorySchemaProvider::new();
    for (name, table) in tables {
        schema.register_table(name, table).map_err(planning)?;
    }
    let runtime = Arc::new(RuntimeEnv::default());
    let state = session(engine_config(1), runtime, schema, Timestamp(0))?;
    // The tables are in memory: there is nothing to wait for.
    let logical = state
        .statement_to_plan(query.statement.clone())
        .now_or_never()
        .ok_or(QueryError::Internal {
            what: "planning waited for a table",
        })?
        .map_err(planning)?;
    weight::weigh(&logical)?;
    plan::allow(&logical)?;
    let logical = plan::complete_order(logical).map_err(planning)?;
    let answer = state.optimize(&logical).map_err(planning)?;
    let answer = Arc::new(answer.schema().as_arrow().clone());
    Ok((logical, answer))
}

/// What a plan that was made elsewhere runs in: the functions and settings of gated queries, and batches of so many rows
/// for so many threads.
pub(crate) fn context(
    runtime: Arc<RuntimeEnv>,
    at: Timestamp,
    (batch_rows, partitions): (usize, usize),
) -> Result<Arc<TaskContext>, QueryError> {
    let mut config = engine_config(partitions.max(1));
    let rows = ConfigNonZeroUsize::try_new(batch_rows);
    config.options_mut().execution.batch_size =
        rows.map_err(|error| QueryError::from_planning(&error))?;
    let state = session(config, runtime, MemorySchemaProvider::new(), at)?;
    Ok(state.task_ctx())
}

fn session(
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
    schema: MemorySchemaProvider,
    at: Timestamp,
) -> Result<SessionState, QueryError> {
    let catalog = MemoryCatalogProvider::new();
    catalog
        .register_schema("data", Arc::new(schema))
        .map_err(|error| QueryError::from_planning(&error))?;
    let now: DateTime<Utc> = DateTime::from_timestamp_millis(at.0).ok_or(QueryError::Internal {
        what: "the time of the decision",
    })?;
    let values = Values::new(&runtime.memory_pool);
    let scalar = functions::scalar().into_iter();
    let scalar = scalar.map(|function| values.bounded(function)).collect();
    let props = ExecutionProps::new().with_query_execution_start_time(now);
    // First, so that no other rule relies on what it takes away.
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(FalseConstants)];
    rules.extend(PhysicalOptimizer::new().rules);
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(scalar)
        .with_aggregate_functions(functions::aggregate())
        .with_window_functions(functions::window())
        .with_execution_props(props)
        .with_physical_optimizer_rules(rules)
        .build();
    state
        .catalog_list()
        .register_catalog("qihui".into(), Arc::new(catalog));
    Ok(state)
}

/// Tells a column that no agreement opens from one that does not exist.
fn not_open(error: QueryError, scopes: &BTreeMap<DatasetId, Arc<DenseScope>>) -> QueryError {
    let QueryError::UnknownColumn { column } = &error else {
        return error;
    };
    let closed = scopes.iter().find(|(_, scope)| {
        let scope = scope.scope();
        let open = scope.columns.iter().any(|open| open.name == *column);
        !open && scope.contract.column(column).is_some()
    });
    match closed {
        Some((dataset, _)) => QueryError::ColumnNotInAgreement {
            dataset: dataset.clone(),
            column: column.clone(),
        },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use arrow::array::Int32Array;
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use async_trait::async_trait;
    use datafusion::catalog::Session;
    use datafusion::execution::SendableRecordBatchStream;
    use datafusion::logical_expr::{Expr, TableType};
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
    use futures::StreamExt;

    use super::*;

    /// A table that counts how often a reader of it is started.
    #[derive(Debug)]
    struct Counted {
        rows: RecordBatch,
        started: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl TableProvider for Counted {
        fn schema(&self) -> SchemaRef {
            self.rows.schema()
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
        ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
            let reader = Arc::new(Reader(self.rows.clone(), Arc::clone(&self.started)));
            let scan = StreamingTableExec::try_new(
                self.schema(),
                vec![reader],
                projection,
                None,
                false,
                None,
            );
            Ok(Arc::new(scan?))
        }
    }

    #[derive(Debug)]
    struct Reader(RecordBatch, Arc<AtomicUsize>);

    impl PartitionStream for Reader {
        fn schema(&self) -> &SchemaRef {
            self.0.schema_ref()
        }

        fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
            self.1.fetch_add(1, Ordering::Relaxed);
            let rows = futures::stream::iter([Ok(self.0.clone())]);
            Box::pin(RecordBatchStreamAdapter::new(self.0.schema(), rows))
        }
    }

    /// Where the first side of a join is empty, most kinds ask nothing of the other; the engine starts both all the same.
    #[tokio::test]
    async fn gate_2_a_side_of_a_join_starts_when_it_is_asked() {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int32, true)]));
        for (join, asks) in [
            ("JOIN r ON l.id = r.id", [1, 0]),
            ("JOIN r ON l.id < r.id", [1, 1]),
            ("CROSS JOIN r", [1, 0]),
        ] {
            let side = |ids: Vec<i32>| {
                let ids = Arc::new(Int32Array::from(ids));
                let rows = RecordBatch::try_new(Arc::clone(&schema), vec![ids]).unwrap();
                let started = Arc::<AtomicUsize>::default();
                let table = Counted {
                    rows,
                    started: Arc::clone(&started),
                };
                (Arc::new(table) as Arc<dyn TableProvider>, started)
            };
            let ((left, first), (right, second)) = (side(vec![]), side(vec![1]));
            let tables = vec![("l".to_owned(), left), ("r".to_owned(), right)];
            let query = parse(&format!("SELECT l.id FROM l {join}")).unwrap();
            let runtime = Arc::new(RuntimeEnv::default());
            let strict = AtomicBool::new(false);
            let planned = plan_over(&query, tables, Timestamp(0), runtime, 1, &strict);
            let (physical, _, context) = planned.await.unwrap();
            let started = || [&first, &second].map(|started| started.load(Ordering::Relaxed));
            let mut rows = physical.execute(0, context).unwrap();
            assert_eq!(started(), [0, 0], "{join}: nobody has asked yet");
            while let Some(rows) = rows.next().await {
                assert_eq!(rows.unwrap().num_rows(), 0);
            }
            assert_eq!(started(), asks, "{join}");
        }
    }
}
