//! Running a statement over the gate, and over a table that holds only the authorised view.

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
use datafusion::execution::runtime_env::RuntimeEnv;
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
use qihui_query::provider::{TableVersion, about_rows};
use qihui_query::pushdown;
use qihui_query::session::{self, SessionSetup};

use crate::reference::View;
use crate::world::{World, at, number_of};

/// All that a run shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub schema: String,
    /// Rows as text, in the order delivered.
    pub rows: Vec<Vec<String>>,
    pub passed: BTreeMap<DatasetId, Passed>,
    pub explain: String,
    pub strict: bool,
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
        self.code == other.code && (self.text == other.text || self.code == "BadSql")
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

pub struct Gated {
    pub scopes: BTreeMap<DatasetId, Arc<DenseScope>>,
    pub tables: BTreeMap<DatasetId, Arc<TableVersion>>,
    pub reader: Arc<TaskContext>,
}

impl Gated {
    pub async fn new(world: &World, rng: &mut rand_chacha::ChaCha8Rng) -> Self {
        let mut scopes = BTreeMap::new();
        let mut tables = BTreeMap::new();
        for table in &world.tables {
            let scope = decision::scope(
                &table.contract,
                &world.request,
                &world.agreements,
                &world.grants,
            );
            scopes.insert(
                table.contract.id.clone(),
                Arc::new(DenseScope::new(Arc::new(scope))),
            );
            tables.insert(table.contract.id.clone(), Arc::new(table.write(rng).await));
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
        let query = session::parse(sql)?;
        let setup = SessionSetup {
            scopes: self.scopes.clone(),
            tables: self.tables.clone(),
            at: at(),
            permit,
            numbers: Some(Arc::new(Numbers)),
            runtime: Arc::new(RuntimeEnv::default()),
            reader: Arc::clone(&self.reader),
            partitions,
            account,
            strict,
            min_inside_rows: 1,
        };
        let planned = session::plan(&query, setup).await?;
        let explained = explain(&planned.logical, planned.strict, &self.scopes);
        let schema = format!("{:?}", planned.physical.schema());
        let batches = collect(Arc::clone(&planned.physical), planned.context)
            .await
            .map_err(|error| QueryError::from_running(&error))?;
        Ok(Seen {
            schema,
            rows: rows(&batches),
            passed: planned.account.passed(),
            explain: explained,
            strict: planned.strict,
        })
    }
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

/// The same statement over tables that physically hold only the views.
pub async fn run_physical(
    views: &[(String, View)],
    gated: &Gated,
    sql: &str,
) -> Result<Vec<Vec<String>>, Failed> {
    let query = session::parse(sql)?;
    let tables = views
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
        .collect();
    let strict = AtomicBool::new(false);
    let runtime = Arc::new(RuntimeEnv::default());
    let (physical, _, context): (Arc<dyn ExecutionPlan>, _, _) =
        session::plan_over(&query, tables, at(), runtime, 1, &strict).await?;
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
