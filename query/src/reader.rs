//! Readers of data files: what stands inside a gate, out of sight of the plan above.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetAccessPlan, RowGroupAccess,
};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use object_store::ObjectMeta;

use crate::provider::{TableFile, TableVersion};

/// The URL under which the readers' context finds its (unused) store; readers are handed the table's own.
pub const READER_STORE: &str = "qihui://warehouse";

/// The column of an inside reader that says which of its [`Share`]s a row is of.
const SHARE: &str = "_share";

/// Rows of a share that is made of several row groups, at most.
const SHARE_ROWS: u64 = 512 << 10;

/// Opens files of one table version.
#[derive(Debug, Clone)]
pub struct Readers {
    table: Arc<TableVersion>,
    /// What the files hold.
    schema: SchemaRef,
    context: Arc<TaskContext>,
}

/// Some rows of one file: what one partition of a reader takes at a time, not always the one that it was dealt to.
#[derive(Debug, Clone)]
pub struct Share {
    /// Its position among the files of the table.
    pub file: usize,
    /// The rows.
    pub rows: ParquetAccessPlan,
}

/// What each partition of a scan takes, by how its rows are looked at.
#[derive(Debug, Clone, Default)]
pub struct Dealt {
    /// *Inside* shares of files that are inside as a whole.
    pub whole: Vec<Vec<Share>>,
    /// Other *inside* shares.
    pub partial: Vec<Vec<Share>>,
    /// *Edge* shares.
    pub edges: Vec<Vec<Share>>,
}

impl Readers {
    /// Readers of files that hold `schema`, which run in `context`.
    pub fn new(table: Arc<TableVersion>, schema: SchemaRef, context: Arc<TaskContext>) -> Self {
        Self {
            table,
            schema,
            context,
        }
    }

    /// The table whose files are read.
    pub fn table(&self) -> &Arc<TableVersion> {
        &self.table
    }

    /// The context that the readers run in; it alone knows the warehouse's object store.
    pub fn context(&self) -> &Arc<TaskContext> {
        &self.context
    }

    /// A reader of some columns of the shares of each partition, with `predicate` to skip row groups and pages by their statistics.
    ///
    /// # Errors
    /// When the engine cannot set it up.
    pub fn edge(
        &self,
        dealt: &[Vec<Share>],
        columns: &[usize],
        predicate: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let source = self.source((&self.schema).into(), predicate);
        let groups = dealt.iter().map(|shares| {
            let files = shares.iter().filter_map(|share| self.file(share.clone()));
            files.collect()
        });
        plan(source, groups, columns)
    }

    /// A reader of some columns and, behind them, the position of each row's share in the list that comes with it.
    ///
    /// # Errors
    /// As [`edge`](Self::edge).
    pub fn inside(
        &self,
        dealt: &[Vec<Share>],
        columns: &[usize],
    ) -> Result<(Arc<dyn ExecutionPlan>, Vec<Share>)> {
        let share = Arc::new(Field::new(SHARE, DataType::Int32, false));
        let schema = TableSchema::builder(Arc::clone(&self.schema))
            .with_table_partition_cols(vec![share])
            .build();
        let mut columns = columns.to_vec();
        columns.push(self.schema.fields().len());
        let mut all = Vec::new();
        let mut groups: Vec<Vec<PartitionedFile>> = Vec::with_capacity(dealt.len());
        for shares in dealt {
            let mut files = Vec::with_capacity(shares.len());
            for share in shares {
                let position = i32::try_from(all.len()).unwrap_or(i32::MAX);
                if let Some(file) = self.file(share.clone()) {
                    let value = ScalarValue::Int32(Some(position));
                    files.push(file.with_partition_values(vec![value]));
                    all.push(share.clone());
                }
            }
            groups.push(files);
        }
        let plan = plan(self.source(schema, None), groups, &columns)?;
        Ok((plan, all))
    }

    /// A reader of one share, in one partition.
    ///
    /// # Errors
    /// As [`edge`](Self::edge).
    pub fn again(&self, share: &Share, columns: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let source = self.source((&self.schema).into(), None);
        let files = self.file(share.clone()).into_iter().collect();
        plan(source, [files], columns)
    }

    fn file(&self, share: Share) -> Option<PartitionedFile> {
        let meta = object_meta(self.table.files.get(share.file)?);
        Some(PartitionedFile::new_from_meta(meta).with_extension(share.rows))
    }

    fn source(
        &self,
        schema: TableSchema,
        predicate: Option<Arc<dyn PhysicalExpr>>,
    ) -> ParquetSource {
        let cache = self
            .context
            .runtime_env()
            .cache_manager
            .get_file_metadata_cache();
        let factory = CachedParquetFileReaderFactory::new(Arc::clone(&self.table.store), cache);
        let source = ParquetSource::new(schema)
            .with_parquet_file_reader_factory(Arc::new(factory))
            .with_enable_page_index(true)
            .with_pushdown_filters(false);
        match predicate {
            Some(predicate) => source.with_predicate(predicate),
            None => source,
        }
    }
}

fn plan(
    source: ParquetSource,
    groups: impl IntoIterator<Item = Vec<PartitionedFile>>,
    columns: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let groups = groups.into_iter().map(FileGroup::new).collect();
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(READER_STORE)?, Arc::new(source))
        .with_file_groups(groups)
        .with_projection_indices(Some(columns.to_vec()))?
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

/// Some rows of one row group of one file.
#[derive(Debug)]
pub struct Part {
    file: usize,
    group: usize,
    groups: usize,
    access: RowGroupAccess,
    rows: u64,
}

/// The row groups that a plan reads, each with an even share of the file's rows.
pub fn parts_of(file: usize, plan: &ParquetAccessPlan, rows: u64, parts: &mut Vec<Part>) {
    let groups = plan.len();
    let scanned = plan.row_group_indexes();
    let share = rows / scanned.len().max(1) as u64;
    for group in scanned {
        if let Some(access) = plan.inner().get(group) {
            parts.push(Part {
                file,
                group,
                groups,
                access: access.clone(),
                rows: share,
            });
        }
    }
}

/// Deals parts out to partitions: in order, about the same number of rows each.
///
/// A share is one row group where these are as large as the warehouse writes them: partitions take the next share when they
/// are through with one, and with larger ones the last of them would keep one partition busy while the others wait.
pub fn spread(parts: &[Part], partitions: usize) -> Vec<Vec<Share>> {
    let total: u64 = parts.iter().map(|part| part.rows.max(1)).sum();
    let each = total.div_ceil(partitions.max(1) as u64).max(1);
    let mut dealt: Vec<Vec<Share>> = (0..partitions).map(|_| Vec::new()).collect();
    let mut seen = 0;
    // The partition that the last share went to, and the rows of that share.
    let mut last = (0, 0);
    for part in parts {
        let rows = part.rows.max(1);
        let at = usize::try_from((seen + rows / 2) / each)
            .unwrap_or(0)
            .min(partitions.saturating_sub(1));
        seen += rows;
        let Some(shares) = dealt.get_mut(at) else {
            continue;
        };
        match shares.last_mut() {
            Some(share)
                if share.file == part.file && last.0 == at && last.1 + rows <= SHARE_ROWS =>
            {
                share.rows.take(part);
                last.1 += rows;
            }
            _ => {
                let mut rows_of_part = ParquetAccessPlan::new_none(part.groups);
                rows_of_part.take(part);
                shares.push(Share {
                    file: part.file,
                    rows: rows_of_part,
                });
                last = (at, rows);
            }
        }
    }
    dealt
}

/// Takes a part into a plan.
trait Take {
    fn take(&mut self, part: &Part);
}

impl Take for ParquetAccessPlan {
    fn take(&mut self, part: &Part) {
        match &part.access {
            RowGroupAccess::Skip => {}
            RowGroupAccess::Scan => self.scan(part.group),
            RowGroupAccess::Selection(rows) => {
                self.scan(part.group);
                self.scan_selection(part.group, rows.clone());
            }
        }
    }
}

/// The file as the object store knows it.
pub fn object_meta(file: &TableFile) -> ObjectMeta {
    ObjectMeta {
        location: file.path.clone(),
        // Data files are never rewritten under their name.
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size: file.size,
        e_tag: None,
        version: None,
    }
}
