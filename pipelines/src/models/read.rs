//! Reading for a build: statements over whole tables at fixed versions, as of one day, for some enterprises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use futures::TryStreamExt as _;
use qihui_catalog::{Contract, DatasetId, Date, DisclosureWindow, Timestamp};
use qihui_query::bounds::spill::SpillSpace;
use qihui_query::session::{self, ParsedQuery};
use qihui_query::whole;
use qihui_query::{QueryError, access, provider::TableVersion};
use qihui_warehouse::{Snapshot, Warehouse, arrow_type};
use roaring::RoaringBitmap;

use super::build::BuildLimits;

/// A table at the version that a build reads.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub contract: Arc<Contract>,
    pub version: Arc<TableVersion>,
}

impl Source {
    pub async fn of(
        warehouse: &Warehouse,
        contract: &Arc<Contract>,
        snapshot: Option<&Snapshot>,
    ) -> Result<Self, QueryError> {
        let version = match snapshot {
            Some(snapshot) => whole::table_version(warehouse, snapshot).await?,
            None => whole::never_landed(),
        };
        Ok(Self {
            contract: Arc::clone(contract),
            version: Arc::new(version),
        })
    }

    /// The enterprises that have a row.
    pub fn enterprises(&self) -> RoaringBitmap {
        let files = self.version.files.iter();
        files.fold(RoaringBitmap::new(), |all, file| all | &*file.present)
    }

    /// The same table with every row, whatever its disclosure window says.
    pub fn undisclosed(&self) -> Self {
        let contract = Contract {
            window: None,
            ..self.contract.as_ref().clone()
        };
        Self {
            contract: Arc::new(contract),
            version: Arc::clone(&self.version),
        }
    }
}

/// Runs statements. What it reads never leaves the hub ([`qihui_query::whole`]).
pub(super) struct Reader {
    context: Arc<TaskContext>,
    runtime: Arc<RuntimeEnv>,
    threads: usize,
    day: Date,
}

impl Reader {
    pub fn new(limits: &BuildLimits, day: Date) -> Result<Self, QueryError> {
        let space = SpillSpace::alone(limits.spill_dir.clone(), limits.spill_bytes);
        let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(space));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_bytes)))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|error| QueryError::from_planning(&error))?;
        Ok(Self {
            context: access::reader_context()?,
            runtime,
            // With one partition wanted, the engine runs windows and aggregates over each branch of a UNION by itself.
            threads: limits.threads.max(2),
            day,
        })
    }

    /// The answer of a statement over `sources`, restricted to `enterprises`, as one batch with the columns of
    /// `schema`, which are those of the answer but for the engine's choice of how to hold text.
    pub async fn answer(
        &self,
        query: &ParsedQuery,
        sources: &BTreeMap<DatasetId, Source>,
        enterprises: Option<&RoaringBitmap>,
        schema: &SchemaRef,
    ) -> Result<RecordBatch, QueryError> {
        let tables = sources.iter().map(|(dataset, source)| {
            let (contract, version) = (&source.contract, &source.version);
            let table: Arc<dyn TableProvider> =
                whole::table(contract, version, enterprises, self.day, &self.context);
            (dataset.to_string(), table)
        });
        let strict = AtomicBool::new(false);
        // `now()` is refused in models, so the instant does not matter.
        let (plan, _, context) = session::plan_over(
            query,
            tables.collect(),
            Timestamp(0),
            Arc::clone(&self.runtime),
            self.threads,
            &strict,
        )
        .await?;
        let failed = |error| QueryError::from_running(&error);
        let stream = datafusion::physical_plan::execute_stream(plan, context).map_err(failed)?;
        // On a task of its own: a defect of the engine ends the build of one product, not the process.
        let collected = tokio::spawn(stream.try_collect::<Vec<RecordBatch>>()).await;
        let ended = |_| QueryError::Internal {
            what: "the engine ended early",
        };
        let batches = collected.map_err(ended)?.map_err(failed)?;
        let kernel = |error: arrow::error::ArrowError| QueryError::from_running(&error.into());
        let held: Result<Vec<_>, _> = batches.iter().map(|batch| conform(batch, schema)).collect();
        concat_batches(schema, &held.map_err(kernel)?).map_err(kernel)
    }

    /// Some columns of every row of one table.
    pub async fn columns(
        &self,
        source: &Source,
        enterprises: Option<&RoaringBitmap>,
        names: &[&str],
    ) -> Result<RecordBatch, QueryError> {
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let dataset = &source.contract.id;
        let query = session::parse(&format!("SELECT {} FROM {dataset}", quoted.join(", ")))?;
        let fields = names.iter().filter_map(|name| source.contract.column(name));
        let schema = schema_of(fields);
        let sources = BTreeMap::from([(dataset.clone(), source.clone())]);
        self.answer(&query, &sources, enterprises, &schema).await
    }
}

/// The columns of a contract as they are held, all nullable.
pub(super) fn schema_of<'c>(columns: impl Iterator<Item = &'c qihui_catalog::Column>) -> SchemaRef {
    let field = |column: &qihui_catalog::Column| {
        arrow::datatypes::Field::new(&column.name, arrow_type(column.ty), true)
    };
    Arc::new(Schema::new(columns.map(field).collect::<Vec<_>>()))
}

/// The columns of a batch, by position, in the types of `schema`.
fn conform(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// The date columns that a window is made of.
pub(super) fn window_columns(window: &DisclosureWindow) -> Vec<&str> {
    let years = window.max_years_after.iter().map(|(column, _)| column);
    let mut columns: Vec<&str> = window
        .from
        .iter()
        .chain(&window.until)
        .chain(years)
        .map(String::as_str)
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}
