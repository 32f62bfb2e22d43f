//! The warehouse: opens tables, gives snapshots, keeps presence bitmaps at hand.

use std::{collections::HashMap, fmt, fs, io, path::Path as FilePath, sync::Arc};

use arrow::datatypes::SchemaRef;
use object_store::ObjectStore;
use parking_lot::Mutex;
use qihui_catalog::{Contract, DatasetId};
use roaring::RoaringBitmap;

use crate::{
    error::WarehouseError,
    index,
    layout::Limits,
    log::{LoggedFile, TableLog, TableState},
    store::DurableStore,
    table::Table,
};

/// Presence bitmaps kept in memory, in bytes; beyond that all are dropped and read again as needed.
const PRESENCE_CACHE_BYTES: usize = 256 << 20;

/// The tables of one hub.
#[derive(Clone)]
pub struct Warehouse {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    /// The local folder; none on a remote store.
    folder: Option<std::path::PathBuf>,
    url: String,
    limits: Limits,
    tables: Mutex<HashMap<DatasetId, Arc<TableLog>>>,
    presence: Mutex<PresenceCache>,
}

#[derive(Default)]
struct PresenceCache {
    bytes: usize,
    bitmaps: HashMap<(DatasetId, String), Arc<RoaringBitmap>>,
}

impl fmt::Debug for Warehouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warehouse")
            .field("url", &self.inner.url)
            .finish_non_exhaustive()
    }
}

/// A table at one version: what the gate reads.
#[derive(Clone)]
pub struct Snapshot {
    /// The dataset.
    pub dataset: DatasetId,
    /// The version of the table.
    pub version: i64,
    /// `_no`, then the landed columns in the order of the table; no partition columns. Look columns up by name.
    pub schema: SchemaRef,
    /// The files with rows (no tombstones), sorted by `no_min`, then `no_max`, then path.
    pub files: Arc<[DataFile]>,
    store: Arc<dyn ObjectStore>,
    state: Arc<TableState>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Snapshot");
        out.field("dataset", &self.dataset)
            .field("version", &self.version)
            .field("files", &self.files);
        out.finish_non_exhaustive()
    }
}

/// A Parquet file with rows, sorted by (`_no`, event date, key).
///
/// A file written before a column was added to the contract lacks that column: it is null in every row of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataFile {
    /// Relative to the root of [`Snapshot::object_store`].
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// How many rows it holds.
    pub rows: u64,
    /// The least enterprise number in it.
    pub no_min: u32,
    /// The greatest enterprise number in it.
    pub no_max: u32,
    /// The year or month of the event dates in it; none when the table is not cut, or the dates are null.
    pub period: Option<String>,
}

impl DataFile {
    fn of(file: &LoggedFile) -> Self {
        Self {
            path: file.path.clone(),
            size: file.size,
            rows: file.rows,
            no_min: file.no_min,
            no_max: file.no_max,
            period: file.place.period.clone(),
        }
    }
}

impl Snapshot {
    /// The store whose root is the table: paths of [`DataFile`] are relative to it.
    #[must_use]
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// What a commit up to this version put on the table under this name ([`Table::land_marked`]).
    #[must_use]
    pub fn mark(&self, name: &str) -> Option<&str> {
        let marks = self.state.metadata.configuration();
        marks.get(name).map(String::as_str)
    }

    /// How many rows the table holds, without tombstones.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    fn of(log: &TableLog, dataset: &DatasetId, state: &Arc<TableState>) -> Self {
        let files = state.live.get_or_init(|| {
            let live = state.files.iter().filter(|file| !file.place.retracted);
            let mut files: Vec<_> = live.map(|file| DataFile::of(file)).collect();
            files.sort_by(|a, b| (a.no_min, a.no_max, &a.path).cmp(&(b.no_min, b.no_max, &b.path)));
            files.into()
        });
        Self {
            dataset: dataset.clone(),
            version: state.version,
            schema: Arc::clone(&state.layout.schema),
            files: Arc::clone(files),
            store: log.store(),
            state: Arc::clone(state),
        }
    }
}

impl Warehouse {
    /// Opens the warehouse in the local folder `root`, which is made when missing. The caller holds the hub's lock.
    pub fn open(root: &FilePath) -> Result<Self, WarehouseError> {
        Self::open_with(root, DurableStore::new(), Limits::default())
    }

    /// The same over a store that a test observes, with other limits.
    #[doc(hidden)]
    pub fn open_with(
        root: &FilePath,
        store: DurableStore,
        limits: Limits,
    ) -> Result<Self, WarehouseError> {
        let unusable = |source: io::Error| WarehouseError::Root {
            path: root.display().to_string(),
            source,
        };
        store.make_folder(root).map_err(unusable)?;
        let folder = fs::canonicalize(root).map_err(unusable)?;
        let text = folder
            .to_str()
            .ok_or_else(|| unusable(io::Error::other("its path is not UTF-8")))?;
        let url = deltalake::table::builder::parse_table_uri(text)
            .map_err(|error| unusable(io::Error::other(error.to_string())))?;
        Ok(Self {
            inner: Arc::new(Inner {
                store: Arc::new(store),
                folder: Some(folder),
                url: url.to_string(),
                limits,
                tables: Mutex::default(),
                presence: Mutex::default(),
            }),
        })
    }

    /// The warehouse under `url` on a store whose paths start at the root of that URL's authority and whose
    /// conditional creation is atomic and durable (an S3 bucket, for example).
    ///
    /// `deltalake` must know a log store for the URL's scheme ([`deltalake::logstore::logstore_factories`]).
    #[must_use]
    pub fn over(store: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                folder: None,
                url: url.trim_end_matches('/').to_owned(),
                limits: Limits::default(),
                tables: Mutex::default(),
                presence: Mutex::default(),
            }),
        }
    }

    pub(crate) fn log(&self, dataset: &DatasetId) -> Result<Arc<TableLog>, WarehouseError> {
        let mut tables = self.inner.tables.lock();
        if let Some(log) = tables.get(dataset) {
            return Ok(Arc::clone(log));
        }
        let url = format!("{}/{dataset}", self.inner.url.trim_end_matches('/'));
        let log = Arc::new(TableLog::new(
            dataset.clone(),
            Arc::clone(&self.inner.store),
            &url,
            self.inner.limits,
        )?);
        tables.insert(dataset.clone(), Arc::clone(&log));
        Ok(log)
    }

    pub(crate) fn forget_presence(&self) {
        *self.inner.presence.lock() = PresenceCache::default();
    }

    pub(crate) fn folder(&self) -> Option<&FilePath> {
        self.inner.folder.as_deref()
    }

    /// The table of `contract` for landing: made when absent, grown when the contract has new columns.
    ///
    /// # Errors
    /// [`WarehouseError::ContractIncompatible`] when the contract drops or retypes a column of the table, or changes
    /// its key, sequence, event date or partition.
    pub async fn table(&self, contract: &Contract) -> Result<Table, WarehouseError> {
        Table::open(self.clone(), self.log(&contract.id)?, contract).await
    }

    /// The newest version of the table; none when nothing was ever landed for `dataset`.
    pub async fn snapshot(&self, dataset: &DatasetId) -> Result<Option<Snapshot>, WarehouseError> {
        let log = self.log(dataset)?;
        Ok(log
            .current()
            .await?
            .map(|state| Snapshot::of(&log, dataset, &state)))
    }

    /// The table as it stood at `version`.
    ///
    /// # Errors
    /// [`WarehouseError::UnknownVersion`] when that version was never written or is no longer kept.
    pub async fn snapshot_at(
        &self,
        dataset: &DatasetId,
        version: i64,
    ) -> Result<Snapshot, WarehouseError> {
        let log = self.log(dataset)?;
        let state = log.at(version).await?;
        Ok(Snapshot::of(&log, dataset, &state))
    }

    /// The enterprises that have a row in `file`: exactly, neither more nor fewer.
    pub async fn presence(
        &self,
        snapshot: &Snapshot,
        file: &DataFile,
    ) -> Result<Arc<RoaringBitmap>, WarehouseError> {
        let key = (snapshot.dataset.clone(), file.path.clone());
        let known = self.inner.presence.lock().bitmaps.get(&key).cloned();
        if let Some(bitmap) = known {
            return Ok(bitmap);
        }
        let log = self.log(&snapshot.dataset)?;
        let layout = match log.current().await? {
            Some(state) => Arc::clone(&state.layout),
            None => return Err(WarehouseError::corrupt(&file.path, "its table is gone")),
        };
        let data = index::DataRef {
            path: &file.path,
            size: file.size,
            rows: file.rows,
        };
        let bitmap = Arc::new(index::presence(&log.store(), &layout, data).await?);
        let mut cache = self.inner.presence.lock();
        let bytes = bitmap.serialized_size();
        if cache.bytes.saturating_add(bytes) > PRESENCE_CACHE_BYTES {
            *cache = PresenceCache::default();
        }
        cache.bytes += bytes;
        cache.bitmaps.insert(key, Arc::clone(&bitmap));
        Ok(bitmap)
    }
}
