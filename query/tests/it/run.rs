//! Running a statement over the gate, and over a table that holds only the authorised view.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::MemTable;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use qihui_catalog::{
    Coded, ColumnType, DatasetId, EnterpriseNo, EnterpriseNumbers, NumberRequest, NumbersError,
    Uscc,
};
use qihui_consent::decision::{self, ColumnScope};
use qihui_query::QueryError;
use qihui_query::account::{Account, Passed};
use qihui_query::dense::DenseScope;
use qihui_query::exec::{GateExec, Permit, Standing};
use qihui_query::explain::explain;
use qihui_query::formats::{Encoder, Format};
use qihui_query::provider::{TableVersion, about_rows};
use qihui_query::pushdown;
use qihui_query::session::{self, ParsedQuery, Planned, SessionSetup};

use crate::canary;
use crate::reference::View;
use crate::world::{Properties, World, at, number_of, properties};

/// All that a run shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub schema: String,
    /// Rows as text, in the order delivered.
    pub rows: Vec<Vec<String>>,
    pub passed: BTreeMap<DatasetId, Passed>,
    pub explain: String,
    pub strict: bool,
    /// In strict mode, the hash of the answer as it leaves the hub, with all that stands in its buffers.
    pub sha256: String,
    /// Operators that put rows aside, and how often.
    pub spilled: Vec<(String, usize)>,
}

/// A refusal or failure: its code and its whole text.
#[derive(Debug, Clone)]
pub struct Failed {
    pub code: &'static str,
    pub text: String,
}

/// The engine names the types in some messages about a statement in an order that differs from run to run.
impl PartialEq for Failed {
    fn eq(&self, other: &Self) -> bool {
        // A column that the engine loses while it rewrites a statement is unknown, or one that some table has and hides.
        let lost = ["UnknownColumn", "ColumnNotInAgreement"];
        (lost.contains(&self.code) && lost.contains(&other.code))
            || (self.code == other.code && (self.text == other.text || self.code == "BadSql"))
    }
}

impl From<QueryError> for Failed {
    fn from(error: QueryError) -> Self {
        Self {
            code: error.code(),
            text: error.to_string(),
        }
    }
}

/// A context for readers; the gate gives the store to its readers itself, the registry only has to know the scheme.
pub fn reader() -> Arc<TaskContext> {
    qihui_query::access::reader_context().unwrap()
}

#[derive(Clone)]
pub struct Gated {
    pub scopes: BTreeMap<DatasetId, Arc<DenseScope>>,
    pub tables: BTreeMap<DatasetId, Arc<TableVersion>>,
    pub reader: Arc<TaskContext>,
}

/// How a statement is run.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    pub partitions: usize,
    pub strict: bool,
    /// Bytes that its operators may take; none: any.
    pub memory: Option<usize>,
    /// Least length of a run of rows that passes unseen.
    pub min_inside_rows: usize,
}

impl Mode {
    pub const PARALLEL: Self = Self {
        partitions: 2,
        strict: false,
        memory: None,
        min_inside_rows: 1,
    };
    pub const STRICT: Self = Self {
        partitions: 1,
        strict: true,
        ..Self::PARALLEL
    };

    fn runtime(self) -> Arc<RuntimeEnv> {
        match self.memory {
            None => Arc::new(RuntimeEnv::default()),
            Some(bytes) => RuntimeEnvBuilder::new()
                .with_memory_pool(Arc::new(FairSpillPool::new(bytes)))
                .build_arc()
                .unwrap(),
        }
    }
}

thread_local! {
    /// What decisions of this thread take a world for.
    static BELIEVED: Cell<fn(&mut World)> = const { Cell::new(|_| {}) };
}

/// Has the decisions of this thread take worlds for what `mistake` makes of them.
#[allow(dead_code, reason = "for the tests of the tests")]
pub fn believe(mistake: fn(&mut World)) {
    BELIEVED.set(mistake);
}

impl Gated {
    pub async fn new(world: &World, rng: &mut rand_chacha::ChaCha8Rng) -> Self {
        Self::written(world, rng, properties).await
    }

    /// With files that are written in a way of their own.
    pub async fn written(
        world: &World,
        rng: &mut rand_chacha::ChaCha8Rng,
        properties: Properties,
    ) -> Self {
        let mut believed = world.clone();
        BELIEVED.get()(&mut believed);
        let mut scopes = BTreeMap::new();
        let mut tables = BTreeMap::new();
        for table in &world.tables {
            let scope = decision::scope(
                &table.contract,
                &believed.request,
                &believed.agreements,
                &believed.grants,
            );
            scopes.insert(
                table.contract.id.clone(),
                Arc::new(DenseScope::new(Arc::new(scope))),
            );
            let written = table.write(rng, properties).await;
            tables.insert(table.contract.id.clone(), Arc::new(written));
        }
        Self {
            scopes,
            tables,
            reader: reader(),
        }
    }

    pub async fn run(&self, sql: &str, partitions: usize, strict: bool) -> Result<Seen, Failed> {
        let account = Arc::new(Account::new(u64::MAX));
        self.run_under(sql, (partitions, strict), account, Arc::new(Standing))
            .await
    }

    pub async fn run_under(
        &self,
        sql: &str,
        (partitions, strict): (usize, bool),
        account: Arc<Account>,
        permit: Arc<dyn Permit>,
    ) -> Result<Seen, Failed> {
        let mode = Mode {
            partitions,
            strict,
            ..Mode::PARALLEL
        };
        self.run_in(mode, sql, account, permit).await
    }

    pub async fn run_in(
        &self,
        mode: Mode,
        sql: &str,
        account: Arc<Account>,
        permit: Arc<dyn Permit>,
    ) -> Result<Seen, Failed> {
        let query = session::parse(sql)?;
        let planned = self.plan_in(mode, &query, account, permit).await?;
        let explained = explain(&planned.written, planned.strict, &self.scopes);
        let schema = format!("{:?}", planned.physical.schema());
        let batches = collect(Arc::clone(&planned.physical), planned.context)
            .await
            .map_err(|error| QueryError::from_running(&error))?;
        for batch in &batches {
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                let name = field.name();
                assert_eq!(
                    canary::in_buffers(&column.to_data()),
                    None,
                    "a buffer of {name} holds a hidden value: {sql}\n{column:?}"
                );
            }
        }
        Ok(Seen {
            schema,
            rows: rows(&batches),
            passed: planned.account.passed(),
            explain: explained,
            strict: planned.strict,
            spilled: spilled(&planned.physical),
            sha256: match planned.strict {
                true => hash(&written(&planned.physical.schema(), &batches)),
                false => String::new(),
            },
        })
    }

    /// A plan that nothing is taken away from.
    pub async fn plan(
        &self,
        query: &ParsedQuery,
        partitions: usize,
        strict: bool,
    ) -> Result<Planned, Failed> {
        let account = Arc::new(Account::new(u64::MAX));
        self.plan_under(query, (partitions, strict), account, Arc::new(Standing))
            .await
    }

    pub async fn plan_under(
        &self,
        query: &ParsedQuery,
        (partitions, strict): (usize, bool),
        account: Arc<Account>,
        permit: Arc<dyn Permit>,
    ) -> Result<Planned, Failed> {
        let mode = Mode {
            partitions,
            strict,
            ..Mode::PARALLEL
        };
        self.plan_in(mode, query, account, permit).await
    }

    async fn plan_in(
        &self,
        mode: Mode,
        query: &ParsedQuery,
        account: Arc<Account>,
        permit: Arc<dyn Permit>,
    ) -> Result<Planned, Failed> {
        let setup = SessionSetup {
            scopes: self.scopes.clone(),
            tables: self.tables.clone(),
            at: at(),
            permit,
            numbers: Some(Arc::new(Numbers)),
            runtime: mode.runtime(),
            reader: Arc::clone(&self.reader),
            partitions: mode.partitions,
            account,
            strict: mode.strict,
            min_inside_rows: mode.min_inside_rows,
        };
        Ok(session::plan(query, setup).await?)
    }
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// An answer as an Arrow stream: the one format that carries what lies under nulls.
fn written(schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
    let mut encoder = Encoder::new(Format::Arrow, schema).unwrap();
    let mut bytes = Vec::new();
    for batch in batches {
        bytes.extend(encoder.batch(batch).unwrap());
    }
    bytes.extend(encoder.finish().unwrap());
    bytes
}

/// How often operators of a plan put rows aside, by operator.
fn spilled(plan: &Arc<dyn ExecutionPlan>) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let count = plan.metrics().and_then(|metrics| metrics.spill_count());
    if let Some(count) = count.filter(|count| *count > 0) {
        found.push((plan.name().to_owned(), count));
    }
    for child in plan.children() {
        found.extend(spilled(child));
    }
    found
}

/// Enterprise numbers by the test's own codes.
#[derive(Debug)]
pub struct Numbers;

impl EnterpriseNumbers for Numbers {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        Ok(wanted.iter().map(|_| EnterpriseNo(1)).collect())
    }

    fn lookup(&self, codes: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        Ok(codes.iter().map(number_of).collect())
    }

    fn uscc_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        Ok(numbers.iter().map(|_| None).collect())
    }
}

/// A table in memory that hides its statistics and takes filters as the gate does: plans are chosen by these, and by
/// the plan whether an expression that fails is reached.
#[derive(Debug)]
struct Plain {
    table: MemTable,
    columns: Vec<(ColumnScope, ColumnType)>,
    about_rows: Option<usize>,
}

#[async_trait]
impl TableProvider for Plain {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match pushdown::column(filter, &self.columns) {
                Some(_) => TableProviderFilterPushDown::Inexact,
                None => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let mut rows = self.table.scan(state, None, &[], None).await?;
        let schema = rows.schema();
        if let Some(filter) = conjunction(filters.iter().cloned()) {
            let named = DFSchema::try_from(schema.as_ref().clone())?;
            let bare = filter
                .transform(|expr| {
                    Ok(match expr {
                        Expr::Column(column) => {
                            Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
                        }
                        expr => Transformed::no(expr),
                    })
                })?
                .data;
            let predicate = state.create_physical_expr(bare, &named)?;
            rows = Arc::new(FilterExec::try_new(predicate, rows)?);
        }
        if let Some(projection) = projection {
            let columns = projection.iter().map(|at| {
                let name = schema.field(*at).name();
                Ok((col(name, &schema)?, name.clone()))
            });
            let columns: datafusion::common::Result<Vec<_>> = columns.collect();
            rows = Arc::new(ProjectionExec::try_new(columns?, rows)?);
        }
        // In the order of strict mode: sums of floating-point numbers round by it, and a standard deviation of large
        // and nearly equal numbers is little but rounding.
        let schema = rows.schema();
        let order = schema
            .fields()
            .iter()
            .map(|field| Ok(PhysicalSortExpr::new_default(col(field.name(), &schema)?)));
        let order: datafusion::common::Result<Vec<_>> = order.collect();
        if let Some(order) = LexOrdering::new(order?) {
            rows = Arc::new(SortExec::new(order, rows));
        }
        Ok(Arc::new(GateExec::ordered(rows, self.about_rows)))
    }
}

/// Tables that physically hold only the views.
pub fn physical_tables(
    views: &[(String, View)],
    gated: &Gated,
) -> Vec<(String, Arc<dyn TableProvider>)> {
    views
        .iter()
        .map(|(name, view)| {
            let batch = view.batch();
            let schema = batch.schema();
            let batches = if batch.num_rows() == 0 {
                Vec::new()
            } else {
                vec![batch]
            };
            let table = MemTable::try_new(schema, vec![batches]).unwrap();
            let scope = gated.scopes[name.as_str()].scope();
            let columns = scope.columns.iter().map(|column| {
                let ty = scope.contract.column(&column.name).unwrap().ty;
                (column.clone(), ty)
            });
            let columns = columns.collect();
            let about_rows = about_rows(scope, view.rows.len() as u64);
            (
                name.clone(),
                Arc::new(Plain {
                    table,
                    columns,
                    about_rows,
                }) as Arc<dyn TableProvider>,
            )
        })
        .collect()
}

/// A plan over such tables.
pub async fn physical_plan(
    query: &ParsedQuery,
    views: &[(String, View)],
    gated: &Gated,
) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>), Failed> {
    let tables = physical_tables(views, gated);
    let strict = AtomicBool::new(false);
    let runtime = Arc::new(RuntimeEnv::default());
    let (physical, _, context) =
        session::plan_over(query, tables, at(), runtime, 1, &strict).await?;
    Ok((physical, context))
}

/// The same statement over tables that physically hold only the views.
pub async fn run_physical(
    views: &[(String, View)],
    gated: &Gated,
    sql: &str,
) -> Result<Vec<Vec<String>>, Failed> {
    // What the gate is compared with makes none of its mistakes.
    #[cfg(feature = "mutations")]
    let _sound = qihui_query::mutations::choose(None);
    let query = session::parse(sql)?;
    let (physical, context) = physical_plan(&query, views, gated).await?;
    let batches = collect(physical, context)
        .await
        .map_err(|error| QueryError::from_running(&error))?;
    Ok(rows(&batches))
}

/// Rows as text; floats to nine digits, since sums of them depend on their order.
pub fn rows(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("∅");
    let mut rows = Vec::new();
    for batch in batches {
        let formatters: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let cells = formatters
                .iter()
                .zip(batch.columns())
                .map(|(formatter, column)| {
                    let text = formatter.value(row).to_string();
                    match (column.data_type(), text.parse::<f64>()) {
                        (DataType::Float64, Ok(number)) if column.is_valid(row) => {
                            format!("{number:.8e}")
                        }
                        _ => text,
                    }
                });
            rows.push(cells.collect());
        }
    }
    rows
}

pub fn sorted(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.sort();
    rows
}

/// Whether so many queries were asked that shares of them say something, and not a few seeds run again. Then most of them
/// have to be run: a property that skips what it draws shows nothing.
#[track_caller]
pub fn many(asked: u64, run: u64) -> bool {
    let many = asked >= 200;
    assert!(!many || run * 4 > asked * 3, "{run} of {asked} queries run");
    many
}

/// Seeds of a property: `QIHUI_SEED` alone, or `0..QIHUI_CASES / per_seed`.
pub fn seeds(default_cases: u64, per_seed: u64) -> Vec<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("QIHUI_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number("QIHUI_FIRST_SEED").unwrap_or(0);
            (first
                ..first
                    + number("QIHUI_CASES")
                        .unwrap_or(default_cases)
                        .div_ceil(per_seed))
                .collect()
        }
    }
}
