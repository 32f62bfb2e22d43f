//! [`GatedTable`]: a dataset as a query sees it, only its open columns, every scan ending in a [`GateExec`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{
    LexOrdering, PhysicalExpr, PhysicalSortExpr, create_physical_expr,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::file::metadata::ParquetMetaData;
use qihui_catalog::{ColumnType, Contract, DatasetId, Date, EnterpriseNumbers, years_after};
use qihui_consent::decision::{ColumnScope, ColumnSet, DatasetScope};
use roaring::RoaringBitmap;

use crate::account::Account;
use crate::dense::{DenseScope, ScanScope};
use crate::error::QueryError;
use crate::exec::{Asked, GateExec, GateScan, InsideScan, InsideShare, Permit};
use crate::forms::arrow_type;
use crate::metadata;
use crate::mutations::{Mutation, mutated};
use crate::pushdown;
pub use crate::ranges::MIN_INSIDE_ROWS;
use crate::ranges::{FileRanges, common_rows, split_file};
use crate::reader::{Dealt, Readers, Share, object_meta, parts_of, spread};
use crate::remote::ScanTask;
use crate::rows::{MARK_BYTES, OutputColumn, RowGate, WindowBound};

/// The hidden column that holds the enterprise number.
pub const NUMBER: &str = "_no";

/// How many rows an enterprise has, as a guess, where its contract lets it have many.
const ROWS_OF_ONE: u64 = 10;

/// The column of a traced scan that says which cells of a row are withheld.
pub const WITHHELD: &str = "_withheld";

/// A data file of a table version.
#[derive(Debug, Clone)]
pub struct TableFile {
    /// Where it lies in the table's store. No other file that is read in the same context bears the same path: its
    /// metadata is cached by it. The warehouse puts 128 random bits into each name.
    pub path: Path,
    /// Bytes.
    pub size: u64,
    /// The enterprise numbers in it.
    pub present: Arc<RoaringBitmap>,
}

/// One version of a table: what a scan reads.
#[derive(Debug, Clone)]
pub struct TableVersion {
    /// The version of the table; -1: it was never made.
    pub version: i64,
    /// Rows in its files.
    pub rows: u64,
    /// Its files.
    pub files: Vec<TableFile>,
    /// Where the files lie.
    pub store: Arc<dyn ObjectStore>,
}

/// What the scans of one query share.
#[derive(Clone)]
pub struct QueryContext {
    /// What passed.
    pub account: Arc<Account>,
    /// May rows still pass?
    pub permit: Arc<dyn Permit>,
    /// Set once the query turned out to need strict mode; read when scans are planned.
    pub strict: Arc<AtomicBool>,
    /// Resolves the enterprises that a filter names.
    pub numbers: Option<Arc<dyn EnterpriseNumbers>>,
    /// The context of the readers below the gate.
    pub reader: Arc<TaskContext>,
    /// Today in Asia/Shanghai.
    pub today: Date,
    /// Least length of a run of rows that is passed without a look at each ([`MIN_INSIDE_ROWS`]).
    pub min_inside_rows: usize,
}

/// A dataset behind the gate.
pub struct GatedTable {
    dataset: DatasetId,
    contract: Arc<Contract>,
    scope: Arc<DenseScope>,
    columns: Vec<(ColumnScope, ColumnType)>,
    schema: SchemaRef,
    /// `_no` and the landed columns: what files hold.
    file_schema: SchemaRef,
    table: Arc<TableVersion>,
    query: QueryContext,
}

impl fmt::Debug for GatedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatedTable({})", self.dataset)
    }
}

impl GatedTable {
    /// The dataset of `scope` at one version of its table.
    pub fn new(scope: Arc<DenseScope>, table: Arc<TableVersion>, query: QueryContext) -> Self {
        let contract = Arc::clone(&scope.scope().contract);
        let columns: Vec<(ColumnScope, ColumnType)> = scope
            .scope()
            .columns
            .iter()
            .filter_map(|column| Some((column.clone(), contract.column(&column.name)?.ty)))
            .collect();
        let schema = columns
            .iter()
            .map(|(column, ty)| Field::new(&column.name, arrow_type(*ty), true))
            .collect::<Vec<_>>();
        let mut file_fields = vec![Field::new(NUMBER, DataType::Int32, false)];
        file_fields.extend(
            contract
                .landed()
                .map(|column| Field::new(&column.name, arrow_type(column.ty), true)),
        );
        Self {
            dataset: contract.id.clone(),
            schema: Arc::new(Schema::new(schema)),
            file_schema: Arc::new(Schema::new(file_fields)),
            contract,
            scope,
            columns,
            table,
            query,
        }
    }

    /// The rows' judge for a scan of `delivered` columns under `conjuncts`, and the columns that edges read.
    fn judge(
        &self,
        delivered: &[usize],
        conjuncts: &[&Expr],
        narrow: Option<&RoaringBitmap>,
    ) -> Result<Judge> {
        let mut wanted = delivered.to_vec();
        for conjunct in conjuncts {
            let name = pushdown::column(conjunct, &self.columns).unwrap_or_default();
            if let Some(index) = self
                .columns
                .iter()
                .position(|(column, _)| column.name == name)
                && !wanted.contains(&index)
            {
                wanted.push(index);
            }
        }
        let needed: ColumnSet = wanted.iter().copied().collect();
        let undated = self.contract.event_date.as_deref().is_none_or(|name| {
            self.contract
                .column(name)
                .is_some_and(|column| !column.nullable)
        });
        let scope = Arc::new(ScanScope::new(&self.scope, needed, !undated, narrow));
        let mut edge = Layout::new(&self.file_schema);
        let number = edge.position(NUMBER)?;
        let decided_by_number = scope.is_uniform() || (scope.all_rows() && scope.every_cell());
        let event_date = match &self.contract.event_date {
            Some(name) if !decided_by_number => Some(edge.position(name)?),
            _ => None,
        };
        let window = self.window(&mut edge)?;
        let mut columns = Vec::with_capacity(wanted.len());
        for index in &wanted {
            let Some((column, ty)) = self.columns.get(*index) else {
                continue;
            };
            let flag = match &column.public_when {
                Some(flag) if !column.always => Some(edge.position(flag)?),
                _ => None,
            };
            columns.push(OutputColumn {
                scope_index: *index,
                ty: *ty,
                form: column.form,
                always: column.always,
                by_grant: column.by_grant,
                value: edge.position(&column.name)?,
                flag,
            });
        }
        let checked_schema = Arc::new(self.schema.project(&wanted)?);
        let df_schema = DFSchema::try_from(checked_schema.as_ref().clone())?;
        let props = ExecutionProps::new();
        let conjuncts: Result<Vec<Arc<dyn PhysicalExpr>>> = conjuncts
            .iter()
            .map(|conjunct| {
                create_physical_expr(
                    &unqualified(conjunct)?,
                    &df_schema,
                    &props,
                    &PhysicalPlanningContext::default(),
                )
            })
            .collect();
        let may_be_inside = (window.is_empty() || mutated(Mutation::WindowUnseen))
            && (conjuncts.as_ref().is_ok_and(Vec::is_empty) || mutated(Mutation::RecheckUnseen));
        let rows = RowGate {
            scope,
            columns,
            delivered: delivered.len(),
            traced: false,
            schema: Arc::new(self.schema.project(delivered)?),
            checked_schema,
            conjuncts: conjuncts?,
            number,
            event_date,
            window,
            today: Date32Type::from_naive_date(self.query.today),
        };
        Ok(Judge {
            rows,
            edge,
            may_be_inside,
        })
    }

    /// The rows of some enterprises, in one partition, each with its trace ([`RowGate::traced`]): `columns` by their
    /// positions in the schema, then [`NUMBER`] and [`WITHHELD`].
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn traced(
        &self,
        columns: &[usize],
        enterprises: &RoaringBitmap,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut judge = self.judge(columns, &[], Some(enterprises))?;
        // Every row is looked at: only the check knows the marks.
        judge.may_be_inside = false;
        let width = i32::try_from(MARK_BYTES).unwrap_or_default();
        let trace = [
            Arc::new(Field::new(NUMBER, DataType::Int32, true)),
            Arc::new(Field::new(WITHHELD, DataType::FixedSizeBinary(width), true)),
        ];
        let fields = judge.rows.schema.fields().iter().cloned().chain(trace);
        judge.rows.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        judge.rows.traced = true;
        let mut edges = Vec::new();
        for (file, ranges) in self.ranges(&judge).await?.into_iter().enumerate() {
            if let Some(plan) = &ranges.edge {
                parts_of(file, plan, ranges.edge_rows, &mut edges);
            }
        }
        let dealt = Dealt {
            edges: spread(&edges, 1),
            ..Dealt::default()
        };
        let scan = self.gate_scan(judge, &[], dealt, &[], (false, None))?;
        Ok(Arc::new(GateExec::new(Arc::new(scan), 1)))
    }

    fn window(&self, edge: &mut Layout) -> Result<Vec<WindowBound>> {
        let Some(window) = &self.contract.window else {
            return Ok(Vec::new());
        };
        let mut bounds = Vec::new();
        if let Some(from) = &window.from {
            bounds.push(WindowBound::From(edge.position(from)?));
        }
        for until in &window.until {
            bounds.push(WindowBound::Until(edge.position(until)?));
        }
        if let Some((column, years)) = &window.max_years_after {
            let day = last_day_over(self.query.today, *years);
            bounds.push(WindowBound::After(
                edge.position(column)?,
                Date32Type::from_naive_date(day),
            ));
        }
        Ok(bounds)
    }

    /// The enterprises that the conjuncts leave.
    fn narrowed(&self, conjuncts: &[&Expr]) -> Result<Option<RoaringBitmap>> {
        let Some(numbers) = &self.query.numbers else {
            return Ok(None);
        };
        let mut narrow: Option<RoaringBitmap> = None;
        for subjects in conjuncts
            .iter()
            .filter_map(|conjunct| pushdown::subjects(conjunct))
        {
            let found = numbers.lookup(&subjects).map_err(|_| {
                external(QueryError::Warehouse {
                    message: "the register of enterprise numbers cannot be read".into(),
                })
            })?;
            let found: RoaringBitmap = found.into_iter().flatten().map(|no| no.0).collect();
            narrow = Some(narrow.map_or_else(|| found.clone(), |narrow| narrow & &found));
        }
        Ok(narrow)
    }

    async fn ranges(&self, judge: &Judge) -> Result<Vec<FileRanges>> {
        let mut ranges = Vec::with_capacity(self.table.files.len());
        for file in &self.table.files {
            ranges.push(self.file_ranges(judge, file).await?);
        }
        Ok(ranges)
    }

    async fn file_ranges(&self, judge: &Judge, file: &TableFile) -> Result<FileRanges> {
        if judge.rows.scope.hits(&file.present).is_empty() {
            return Ok(FileRanges::default());
        }
        let metadata = self.metadata(file).await?;
        let leaf = metadata::leaf_index(&metadata, NUMBER).ok_or_else(|| {
            external(QueryError::Warehouse {
                message: "a data file lacks its enterprise numbers".into(),
            })
        })?;
        Ok(split_file(
            &metadata,
            leaf,
            &file.present,
            &judge.rows.scope,
            judge.may_be_inside.then_some(self.query.min_inside_rows),
        ))
    }

    async fn metadata(&self, file: &TableFile) -> Result<Arc<ParquetMetaData>> {
        let cache = self
            .query
            .reader
            .runtime_env()
            .cache_manager
            .get_file_metadata_cache();
        let loaded = metadata::load(&self.table.store, &object_meta(file), &cache).await;
        loaded.inspect_err(
            |_| tracing::error!(file = %file.path, "the end of a data file cannot be read"),
        )
    }
}

/// About how many rows a query may see of a dataset; `rows` is how many the table holds, which counts only where every one is
/// open. Hidden rows have no part in it, nor has the statement: the engine chooses by it in which order it evaluates the
/// sides of a join, and so what fails first.
pub fn about_rows(scope: &DatasetScope, rows: u64) -> Option<usize> {
    // A contract that has one row per enterprise says so by its key.
    let of_each = match scope.contract.key.as_slice() {
        [key] if *key == scope.contract.uscc => 1,
        _ => ROWS_OF_ONE,
    };
    let about = match &scope.subjects {
        Some(subjects) => subjects.len().saturating_mul(of_each),
        None if !scope.all_rows => scope.enterprises().saturating_mul(of_each),
        None if scope.contract.window.is_none() => rows,
        None => return None,
    };
    usize::try_from(about).ok()
}

/// The last day whose disclosure has ended `today`, so many years after it. 29 February ends with the 28th.
fn last_day_over(today: Date, years: u32) -> Date {
    let months = chrono::Months::new(years.saturating_mul(12));
    let same_day = today.checked_sub_months(months).unwrap_or(Date::MIN);
    match same_day.succ_opt() {
        Some(next) if years_after(next, years) <= today => next,
        _ => same_day,
    }
}

fn external(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// What decides about rows, with what it reads.
struct Judge {
    rows: RowGate,
    edge: Layout,
    may_be_inside: bool,
}

/// The columns that a reader delivers, in the order they were asked for, each once.
struct Layout {
    schema: SchemaRef,
    columns: Vec<usize>,
}

impl Layout {
    fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: Arc::clone(schema),
            columns: Vec::new(),
        }
    }

    /// The position of a column in the batches, which is added if it is not there yet.
    fn position(&mut self, name: &str) -> Result<usize> {
        let index = self.schema.index_of(name)?;
        if let Some(at) = self.columns.iter().position(|have| *have == index) {
            return Ok(at);
        }
        self.columns.push(index);
        Ok(self.columns.len() - 1)
    }
}

/// `expr` with its columns named without their table.
fn unqualified(expr: &Expr) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    expr.clone()
        .transform(|expr| match expr {
            Expr::Column(column) => Ok(Transformed::yes(Expr::Column(
                datafusion::common::Column::new_unqualified(column.name),
            ))),
            expr => Ok(Transformed::no(expr)),
        })
        .map(|done| done.data)
}

/// `plan`, or its first rows.
fn limited(plan: Arc<dyn ExecutionPlan>, limit: Option<usize>) -> Arc<dyn ExecutionPlan> {
    match limit {
        Some(limit) => Arc::new(LocalLimitExec::new(plan, limit)),
        None => plan,
    }
}

/// One partition, rows in the order of what is visible, batches cut anew. `scan` is what `gate` scans.
fn in_order(gate: Arc<dyn ExecutionPlan>, scan: Arc<GateScan>) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = gate.schema();
    let single: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(gate));
    let order: Result<Vec<PhysicalSortExpr>> = schema
        .fields()
        .iter()
        .map(|field| Ok(PhysicalSortExpr::new_default(col(field.name(), &schema)?)))
        .collect();
    let ordered = match LexOrdering::new(order?) {
        Some(_) if mutated(Mutation::StrictUnsorted) => single,
        Some(order) => Arc::new(SortExec::new(order, single)),
        None => single,
    };
    Ok(Arc::new(
        GateExec::ordered(ordered, scan.about_rows).of(scan),
    ))
}

#[async_trait]
impl TableProvider for GatedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
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
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let limit = limit.filter(|_| mutated(Mutation::LimitPassed));
        let everything: Vec<usize> = (0..self.columns.len()).collect();
        let delivered = projection.unwrap_or(&everything);
        let conjuncts: Vec<&Expr> = filters
            .iter()
            .filter(|filter| pushdown::column(filter, &self.columns).is_some())
            .collect();
        let narrow = self.narrowed(&conjuncts)?;
        let judge = self.judge(delivered, &conjuncts, narrow.as_ref())?;
        let strict = self.query.strict.load(Ordering::Relaxed);
        let partitions = if strict {
            1
        } else {
            state.config().target_partitions().max(1)
        };

        let mut whole = Vec::new();
        let mut partial = Vec::new();
        let mut edges = Vec::new();
        let mut enterprises = Vec::new();
        for (file, ranges) in self.ranges(&judge).await?.into_iter().enumerate() {
            if let Some(plan) = &ranges.inside {
                let parts = if ranges.is_inside() {
                    &mut whole
                } else {
                    &mut partial
                };
                parts_of(file, plan, ranges.inside_rows, parts);
            }
            if let Some(plan) = &ranges.edge {
                parts_of(file, plan, ranges.edge_rows, &mut edges);
            }
            enterprises.push(Arc::new(ranges.inside_enterprises));
        }
        let dealt = Dealt {
            whole: spread(&whole, partitions),
            partial: spread(&partial, partitions),
            edges: spread(&edges, partitions),
        };
        let scan = self.gate_scan(judge, &enterprises, dealt, &conjuncts, (strict, limit))?;
        let scan = Arc::new(scan);
        let gate: Arc<dyn ExecutionPlan> = Arc::new(GateExec::new(Arc::clone(&scan), partitions));
        if strict {
            in_order(gate, scan)
        } else {
            Ok(gate)
        }
    }
}

impl GatedTable {
    fn readers(&self) -> Readers {
        let table = Arc::clone(&self.table);
        let schema = Arc::clone(&self.file_schema);
        Readers::new(table, schema, Arc::clone(&self.query.reader))
    }

    /// A scan of what was dealt out. `enterprises` are those of the *inside* ranges of each file of the table.
    fn gate_scan(
        &self,
        judge: Judge,
        enterprises: &[Arc<RoaringBitmap>],
        dealt: Dealt,
        conjuncts: &[&Expr],
        (strict, limit): (bool, Option<usize>),
    ) -> Result<GateScan> {
        let fields = judge.rows.schema.fields().iter();
        let output: Result<Vec<usize>, _> = fields
            .take(judge.rows.delivered)
            .map(|field| self.file_schema.index_of(field.name()))
            .collect();
        let output = output?;
        let readers = self.readers();
        let any = |dealt: &[Vec<Share>]| dealt.iter().any(|shares| !shares.is_empty());
        let mut inside = Vec::new();
        for (dealt, whole_files) in [(&dealt.whole, true), (&dealt.partial, false)] {
            if any(dealt) {
                let (plan, shares) = readers.inside(dealt, &output)?;
                let plan = limited(plan, limit);
                let shares = shares.into_iter().filter_map(|share| {
                    let enterprises = Arc::clone(enterprises.get(share.file)?);
                    Some(InsideShare::new(share, enterprises))
                });
                inside.push(InsideScan {
                    plan,
                    whole_files,
                    shares: shares.collect(),
                });
            }
        }
        let edge = if any(&dealt.edges) {
            let predicate = self.pruning(conjuncts)?;
            let plan = readers.edge(&dealt.edges, &judge.edge.columns, predicate)?;
            Some(limited(plan, limit))
        } else {
            None
        };
        Ok(GateScan {
            about_rows: match mutated(Mutation::StatisticsPassed)
                || mutated(Mutation::CountFromFiles)
            {
                true => usize::try_from(self.table.rows).ok(),
                false => about_rows(self.scope.scope(), self.table.rows),
            },
            dataset: self.dataset.clone(),
            rows: Arc::new(judge.rows),
            account: Arc::clone(&self.query.account),
            permit: Arc::clone(&self.query.permit),
            inside,
            edge,
            edge_columns: judge.edge.columns,
            readers,
            asked: Asked {
                conjuncts: conjuncts.iter().copied().cloned().collect(),
                strict,
                min_inside_rows: self.query.min_inside_rows,
                dealt,
            },
        })
    }

    /// The scan that another process asked for: its columns, comparisons and shares of files, under this scope.
    /// Which rows pass without a look at each is found out here; nothing of it is taken on trust.
    ///
    /// # Errors
    /// [`QueryError::PlanRefused`] when it asks for a column that is not open, compares what may not be compared below
    /// the gate, or names files or rows that the table version does not have.
    pub async fn scan_of(&self, task: &ScanTask) -> Result<Arc<dyn ExecutionPlan>> {
        let refused = |reason| external(QueryError::PlanRefused { reason });
        let open = |name: &String| {
            let found = self.columns.iter().position(|(c, _)| c.name == *name);
            found.ok_or_else(|| refused("it asks for a column that is not open"))
        };
        let delivered: Vec<usize> = task.columns.iter().map(open).collect::<Result<_>>()?;
        let filters = task.conjuncts().map_err(external)?;
        let conjuncts: Vec<&Expr> = filters.iter().collect();
        if conjuncts
            .iter()
            .any(|filter| pushdown::column(filter, &self.columns).is_none())
        {
            return Err(refused(
                "it compares what may not be compared below the gate",
            ));
        }
        let narrow = self.narrowed(&conjuncts)?;
        let judge = self.judge(&delivered, &conjuncts, narrow.as_ref())?;
        let (dealt, enterprises) = self.dealt_to(task, &judge).await?;
        let order = (task.strict, None);
        let scan = self.gate_scan(judge, &enterprises, dealt, &conjuncts, order)?;
        let scan = Arc::new(scan);
        let partitions = task.partitions.len();
        let gate: Arc<dyn ExecutionPlan> = Arc::new(GateExec::new(Arc::clone(&scan), partitions));
        if task.strict {
            in_order(gate, scan)
        } else {
            Ok(gate)
        }
    }

    /// The shares of a task, split by how their rows are looked at here, and the enterprises of each file.
    async fn dealt_to(
        &self,
        task: &ScanTask,
        judge: &Judge,
    ) -> Result<(Dealt, Vec<Arc<RoaringBitmap>>)> {
        let refused = |reason| external(QueryError::PlanRefused { reason });
        let unknown = || refused("it names a file that its table version does not have");
        let mut files = Vec::with_capacity(task.files.len());
        let mut enterprises = vec![Arc::default(); self.table.files.len()];
        for path in &task.files {
            let file = self
                .table
                .files
                .iter()
                .position(|f| f.path.as_ref() == path);
            let file = file.ok_or_else(unknown)?;
            let found = self.table.files.get(file).ok_or_else(unknown)?;
            let mut ranges = self.file_ranges(judge, found).await?;
            if let Some(slot) = enterprises.get_mut(file) {
                *slot = Arc::new(std::mem::take(&mut ranges.inside_enterprises));
            }
            files.push((file, ranges, self.metadata(found).await?));
        }
        let mut dealt = Dealt::default();
        for shares in &task.partitions {
            let (mut whole, mut partial, mut edges) = (Vec::new(), Vec::new(), Vec::new());
            for share in shares {
                let (file, ranges, metadata) = files.get(share.file).ok_or_else(unknown)?;
                let rows = share.rows(metadata).map_err(external)?;
                let inside = if ranges.is_inside() {
                    &mut whole
                } else {
                    &mut partial
                };
                for (range, shares) in [(&ranges.inside, inside), (&ranges.edge, &mut edges)] {
                    let common = range.as_ref().map(|range| common_rows(&rows, range));
                    if let Some(rows) = common.filter(|rows| !rows.row_group_indexes().is_empty()) {
                        shares.push(Share { file: *file, rows });
                    }
                }
            }
            dealt.whole.push(whole);
            dealt.partial.push(partial);
            dealt.edges.push(edges);
        }
        Ok((dealt, enterprises))
    }

    /// The conjuncts over the file's columns, to skip row groups and pages by their statistics.
    fn pruning(&self, conjuncts: &[&Expr]) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let exprs: Result<Vec<Expr>> = conjuncts
            .iter()
            .map(|conjunct| unqualified(conjunct))
            .collect();
        let Some(predicate) = conjunction(exprs?) else {
            return Ok(None);
        };
        let schema = DFSchema::try_from(self.file_schema.as_ref().clone())?;
        let props = ExecutionProps::new();
        create_physical_expr(
            &predicate,
            &schema,
            &props,
            &PhysicalPlanningContext::default(),
        )
        .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`DisclosureWindow::is_open`](qihui_catalog::DisclosureWindow::is_open) is the definition.
    #[test]
    fn a_disclosure_ends_on_the_day_that_its_years_end() {
        let first = Date::from_ymd_opt(2015, 1, 1).unwrap();
        for today in first.iter_days().take(5 * 365) {
            for years in [0, 1, 3, 4, 5] {
                let over = last_day_over(today, years);
                let over_by_definition = |day| years_after(day, years) <= today;
                assert!(over_by_definition(over), "{today}, {years}");
                let next = over.succ_opt().unwrap();
                assert!(!over_by_definition(next), "{today}, {years}");
            }
        }
        assert!(years_after(last_day_over(first, u32::MAX).succ_opt().unwrap(), u32::MAX) > first);
    }
}
