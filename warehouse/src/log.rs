//! The transaction log of one table: replayed once per version, written one commit at a time.
//!
//! A commit is the atomic creation of the file of the next version; nothing is retried here, because what a chunk
//! does depends on the table it was classified against. The log is read through `deltalake`; commits are written by
//! this module, because `deltalake` without its query engine refuses tables with the change feed on.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use arrow::datatypes::{Schema, SchemaRef};
use chrono::Utc;
use deltalake::{
    DeltaTable, DeltaTableError,
    kernel::{
        Action, CommitInfo, IsolationLevel, Metadata, Protocol, Transaction,
        transaction::TransactionError,
    },
    logstore::{CommitOrBytes, LogStoreRef, StorageConfig, commit_uri_from_version, logstore_with},
};
use object_store::{ObjectStore, ObjectStoreExt as _};
use parking_lot::{Mutex, RwLock};
use qihui_catalog::DatasetId;
use serde_json::{Value, json};

use crate::{
    error::{CommitError, WarehouseError},
    layout::{
        FRAME_PROPERTY, Layout, Limits, NO_COLUMN, PERIOD_COLUMN, Place, RETRACTED, STATE_COLUMN,
    },
    warehouse::DataFile,
};

/// Every so many versions the log is summed up in a checkpoint, so that a replay reads few commits.
pub(crate) const CHECKPOINT_INTERVAL: u64 = 20;
/// Commits are deleted after thirty days; a version that must stay is in danger a little earlier.
const KEPT_DAYS: i64 = 28;
const ENGINE: &str = concat!("qihui/", env!("CARGO_PKG_VERSION"));

/// A data file as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedFile {
    /// Relative to the table.
    pub path: String,
    pub size: u64,
    pub rows: u64,
    pub no_min: u32,
    pub no_max: u32,
    pub place: Place,
}

impl LoggedFile {
    /// Where its sidecar lies, relative to the table.
    pub fn sidecar(&self) -> String {
        sidecar_of(&self.path)
    }
}

/// The path of the sidecar of the data file at `path`.
pub(crate) fn sidecar_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    format!(
        "_qihui/{}.idx",
        name.strip_suffix(".parquet").unwrap_or(name)
    )
}

/// A table at one version.
#[derive(Debug)]
pub(crate) struct TableState {
    pub version: i64,
    pub layout: Arc<Layout>,
    pub files: Vec<Arc<LoggedFile>>,
    pub metadata: Metadata,
    /// The files with rows, as snapshots show them.
    pub live: OnceLock<Arc<[DataFile]>>,
    /// Last runs that were looked up or committed.
    runs: Mutex<HashMap<String, Option<i64>>>,
}

/// What one commit does.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub operation: &'static str,
    pub parameters: HashMap<String, Value>,
    /// Goes into the commit's information under `qihui`.
    pub info: Value,
    pub run: Option<Transaction>,
    pub actions: Vec<Action>,
    /// Whether it only adds files.
    pub append: bool,
}

#[derive(Debug)]
pub(crate) struct TableLog {
    dataset: DatasetId,
    log_store: LogStoreRef,
    limits: Limits,
    delta: tokio::sync::Mutex<Option<DeltaTable>>,
    current: RwLock<Option<Arc<TableState>>>,
    kept: Mutex<Kept>,
}

/// Versions that somebody relies on.
#[derive(Debug, Default)]
struct Kept {
    /// See [`crate::Warehouse::keep`].
    for_now: BTreeSet<i64>,
    /// See [`crate::Warehouse::keep_for_good`].
    for_good: BTreeSet<i64>,
}

/// The protocol of every table: nothing that switches push-down into Parquet off, only the change feed.
pub(crate) fn protocol() -> Value {
    json!({ "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["changeDataFeed"] })
}

impl TableLog {
    /// The log of the table at `url`; `root` is the store whose paths are those of `url`.
    pub fn new(
        dataset: DatasetId,
        root: Arc<dyn ObjectStore>,
        url: &str,
        limits: Limits,
    ) -> Result<Self, WarehouseError> {
        let location = url
            .parse()
            .map_err(|_| DeltaTableError::InvalidTableLocation(url.to_owned()));
        let log_store = location
            .and_then(|location| logstore_with(root, &location, StorageConfig::default()))
            .map_err(|source| WarehouseError::log(&dataset, "opening it", source))?;
        Ok(Self {
            dataset,
            log_store,
            limits,
            delta: tokio::sync::Mutex::default(),
            current: RwLock::default(),
            kept: Mutex::default(),
        })
    }

    /// Replaces the versions that no clean-up may touch for now.
    pub fn keep(&self, versions: BTreeSet<i64>) {
        self.kept.lock().for_now = versions;
    }

    /// Adds to the versions that no clean-up may touch any more.
    pub fn keep_for_good(&self, versions: impl IntoIterator<Item = i64>) {
        self.kept.lock().for_good.extend(versions);
    }

    /// The versions that no clean-up may touch.
    pub fn kept(&self) -> BTreeSet<i64> {
        let kept = self.kept.lock();
        &kept.for_now | &kept.for_good
    }

    /// The store whose root is the table.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.log_store.object_store(None)
    }

    fn failed(&self, action: &'static str) -> impl Fn(DeltaTableError) -> WarehouseError {
        move |source| WarehouseError::log(&self.dataset, action, source)
    }

    /// The table as it stands now; none when it was never made. Costs one look at the disk while nothing changes.
    pub async fn current(&self) -> Result<Option<Arc<TableState>>, WarehouseError> {
        let known = self.current.read().clone();
        if let Some(state) = known {
            let next = commit_uri_from_version(Some(state.version.cast_unsigned() + 1));
            match self.store().head(&next).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(Some(state)),
                Err(source) => return Err(WarehouseError::storage("looking for", &next, source)),
                Ok(_) => {}
            }
        }
        let mut delta = self.delta.lock().await;
        self.replay(&mut delta).await
    }

    async fn replay(
        &self,
        delta: &mut Option<DeltaTable>,
    ) -> Result<Option<Arc<TableState>>, WarehouseError> {
        let table = match delta {
            Some(table) => table,
            None => {
                let exists = self.log_store.is_delta_table_location().await;
                if !exists.map_err(self.failed("looking for it"))? {
                    return Ok(None);
                }
                delta.insert(DeltaTable::new(Arc::clone(&self.log_store)))
            }
        };
        if let Err(source) = table.update_incremental(None).await {
            *delta = None;
            return Err(self.failed("replaying it")(source));
        }
        let known = self.current.read().clone();
        if let Some(state) = known.as_ref()
            && Some(state.version.cast_unsigned()) == table.version()
        {
            return Ok(known);
        }
        let state = Arc::new(self.state(table, known.as_deref())?);
        *self.current.write() = Some(Arc::clone(&state));
        Ok(Some(state))
    }

    /// The table as it stood at `version`.
    pub async fn at(&self, version: i64) -> Result<Arc<TableState>, WarehouseError> {
        let unknown = || WarehouseError::UnknownVersion {
            dataset: self.dataset.clone(),
            version,
        };
        let wanted = u64::try_from(version).map_err(|_| unknown())?;
        let current = self.current().await?.ok_or_else(unknown)?;
        if current.version == version {
            return Ok(current);
        }
        if current.version < version {
            return Err(unknown());
        }
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        table
            .load_version(wanted)
            .await
            .map_err(|error| match error {
                DeltaTableError::ObjectStore { source } => {
                    WarehouseError::storage("reading", &self.dataset, source)
                }
                _ => unknown(),
            })?;
        Ok(Arc::new(self.state(&table, None)?))
    }

    fn state(
        &self,
        table: &DeltaTable,
        before: Option<&TableState>,
    ) -> Result<TableState, WarehouseError> {
        let snapshot = table.snapshot().map_err(self.failed("reading it"))?;
        let unsupported = |reason: String| WarehouseError::UnsupportedTable {
            dataset: self.dataset.clone(),
            reason,
        };
        let ours: Option<Protocol> = serde_json::from_value(protocol()).ok();
        if ours.as_ref() != Some(snapshot.protocol()) {
            return Err(unsupported(
                "its protocol asks for other features than the change feed".to_owned(),
            ));
        }
        let metadata = snapshot.metadata().clone();
        let frame = metadata
            .configuration()
            .get(FRAME_PROPERTY)
            .ok_or_else(|| unsupported(format!("its property `{FRAME_PROPERTY}` is missing")))?;
        let schema = physical_schema(&snapshot.snapshot().arrow_schema());
        let layout = match before.filter(|before| before.metadata == metadata) {
            Some(before) => Arc::clone(&before.layout),
            None => {
                let mut layout = Layout::stored(&self.dataset, schema, frame)?;
                layout.limits = self.limits;
                Arc::new(layout)
            }
        };
        let files = snapshot.log_data().into_iter().map(|file| {
            if file.deletion_vector_descriptor().is_some() {
                return Err(unsupported("it has deletion vectors".to_owned()));
            }
            let path = file.path().into_owned();
            logged_file(
                path,
                file.size(),
                file.stats().as_deref(),
                &file.partition_values_map(),
            )
            .map(Arc::new)
        });
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let version = snapshot.version().cast_signed();
        Ok(TableState {
            version,
            layout,
            files,
            metadata,
            live: OnceLock::new(),
            runs: Mutex::default(),
        })
    }

    /// The last run that `app_id` committed to the table.
    pub async fn last_run(&self, app_id: &str) -> Result<Option<i64>, WarehouseError> {
        let Some(state) = self.current().await? else {
            return Ok(None);
        };
        if let Some(run) = state.runs.lock().get(app_id) {
            return Ok(*run);
        }
        let delta = self.delta.lock().await;
        let Some(table) = delta.as_ref() else {
            return Ok(None);
        };
        let snapshot = table.snapshot().map_err(self.failed("reading it"))?;
        let run = snapshot
            .transaction_version(self.log_store.as_ref(), app_id)
            .await
            .map_err(self.failed("reading the last run"))?;
        // Another commit may have come in between: then the answer is newer than `state`, never older.
        if table.version() == Some(state.version.cast_unsigned()) {
            state.runs.lock().insert(app_id.to_owned(), run);
        }
        Ok(run)
    }

    /// The version that run `run` of `app_id` made; none when its commit is no longer in the log.
    pub async fn version_of(&self, app_id: &str, run: i64) -> Result<Option<i64>, WarehouseError> {
        let commit = self.commit_of(app_id, run).await?;
        Ok(commit.map(|(version, _)| version))
    }

    /// The position in the commit of run `run` of `app_id`; none when that commit is no longer in the log.
    pub async fn position_of(
        &self,
        app_id: &str,
        run: i64,
    ) -> Result<Option<Value>, WarehouseError> {
        let commit = self.commit_of(app_id, run).await?;
        Ok(commit.map(|(_, position)| position))
    }

    /// Version and position of the commit of run `run` of `app_id`.
    async fn commit_of(
        &self,
        app_id: &str,
        run: i64,
    ) -> Result<Option<(i64, Value)>, WarehouseError> {
        let newest = self.current().await?.map_or(-1, |state| state.version);
        for version in (0..=newest).rev() {
            let path = commit_uri_from_version(Some(version.cast_unsigned()));
            let failed = |source| WarehouseError::storage("reading", &path, source);
            let commit = match self.store().get(&path).await {
                Ok(commit) => commit.bytes().await.map_err(failed)?,
                // Summed up and removed, as is everything before it.
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(source) => return Err(failed(source)),
            };
            if let Some(position) = position_in(&commit, app_id, run) {
                return Ok(Some((version, position)));
            }
        }
        Ok(None)
    }

    /// Whether the commit of `version` is in the log, or cannot be seen not to be.
    pub async fn may_hold(&self, version: i64) -> bool {
        let path = commit_uri_from_version(Some(version.cast_unsigned()));
        !matches!(
            self.store().head(&path).await,
            Err(object_store::Error::NotFound { .. })
        )
    }

    /// Commits as version `base + 1`; a conflict when that version stands already.
    pub async fn append(&self, base: i64, commit: Commit) -> Result<i64, CommitError> {
        let version = base + 1;
        let bytes = encode(&self.dataset, base, &commit)?;
        let mut delta = self.delta.lock().await;
        let entry = CommitOrBytes::LogBytes(bytes.into());
        match self
            .log_store
            .write_commit_entry(version.cast_unsigned(), entry, Default::default())
            .await
        {
            Ok(()) => {}
            Err(TransactionError::VersionAlreadyExists(_)) => {
                return Err(CommitError::Conflict {
                    dataset: self.dataset.clone(),
                    version: base,
                });
            }
            Err(source) => return Err(self.failed("committing to it")(source.into()).into()),
        }
        // From here on the commit stands, whatever happens to what follows.
        let known = self
            .current
            .read()
            .clone()
            .filter(|state| state.version == base);
        match self.replay(&mut delta).await {
            Ok(Some(state)) if state.version == version => {
                let mut runs = known
                    .map(|known| known.runs.lock().clone())
                    .unwrap_or_default();
                if let Some(run) = commit.run {
                    runs.insert(run.app_id, Some(run.version));
                }
                *state.runs.lock() = runs;
                self.sum_up(delta.as_ref(), version).await;
            }
            Ok(_) => {}
            Err(error) => {
                *self.current.write() = None;
                tracing::warn!(dataset = %self.dataset, version, %error, "the log could not be replayed");
            }
        }
        Ok(version)
    }

    async fn sum_up(&self, table: Option<&DeltaTable>, version: i64) {
        let due = (version.cast_unsigned() + 1).is_multiple_of(CHECKPOINT_INTERVAL);
        if let Some(table) = table.filter(|_| due)
            && let Err(error) = self.checkpoint(table).await
        {
            tracing::warn!(dataset = %self.dataset, version, %error, "no checkpoint of the log was written");
        }
    }

    /// Sums the log up at its newest version.
    pub async fn sum_up_now(&self) -> Result<Arc<TableState>, WarehouseError> {
        let mut delta = self.delta.lock().await;
        let state = self.replay(&mut delta).await?;
        if let (Some(state), Some(table)) = (state, delta.as_ref()) {
            let summed = deltalake::checkpoints::create_checkpoint(table, None).await;
            summed.map_err(self.failed("summing it up"))?;
            return Ok(state);
        }
        Err(WarehouseError::UnknownVersion {
            dataset: self.dataset.clone(),
            version: 0,
        })
    }

    /// Forgets what was replayed: the next look reads the log anew.
    pub async fn forget(&self) {
        let mut delta = self.delta.lock().await;
        *delta = None;
        *self.current.write() = None;
    }

    async fn checkpoint(&self, table: &DeltaTable) -> Result<(), DeltaTableError> {
        deltalake::checkpoints::create_checkpoint(table, None).await?;
        if self.leans_on_old_commits().await {
            return Ok(());
        }
        deltalake::checkpoints::cleanup_metadata(table, None)
            .await
            .map(drop)
    }

    /// Whether a version that must stay is so old that a clean-up of the log could reach it: then none is done.
    async fn leans_on_old_commits(&self) -> bool {
        let Some(oldest) = self.kept().first().copied() else {
            return false;
        };
        let path = commit_uri_from_version(Some(oldest.cast_unsigned()));
        match self.store().head(&path).await {
            Ok(commit) => Utc::now() - commit.last_modified > chrono::Duration::days(KEPT_DAYS),
            // It is gone, or cannot be seen: nothing more may be lost.
            Err(_) => true,
        }
    }
}

/// The position that a commit carries if it is the one of run `run` of `app_id`.
fn position_in(commit: &[u8], app_id: &str, run: i64) -> Option<Value> {
    let lines = commit.split(|byte| *byte == b'\n');
    let mut information = lines.filter_map(|line| {
        let mut action: Value = serde_json::from_slice(line).ok()?;
        Some(action.get_mut("commitInfo")?.get_mut("qihui")?.take())
    });
    let mut information = information.next()?;
    let is_it = information.get("appId").and_then(Value::as_str) == Some(app_id)
        && information.get("run").and_then(Value::as_i64) == Some(run);
    is_it.then(|| information["position"].take())
}

/// The columns of the data files: all but the partition columns.
fn physical_schema(schema: &Schema) -> SchemaRef {
    let partition = [STATE_COLUMN, PERIOD_COLUMN];
    let fields = schema
        .fields()
        .iter()
        .filter(|field| !partition.contains(&field.name().as_str()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

pub(crate) fn logged_file(
    path: String,
    size: i64,
    statistics: Option<&str>,
    partition: &HashMap<String, Option<String>>,
) -> Result<LoggedFile, WarehouseError> {
    let statistics: Value = statistics
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let number = |group: &str| {
        statistics
            .get(group)?
            .get(NO_COLUMN)?
            .as_u64()?
            .try_into()
            .ok()
    };
    let parts = || {
        Some((
            statistics.get("numRecords")?.as_u64()?,
            number("minValues")?,
            number("maxValues")?,
        ))
    };
    let value = |column: &str| {
        partition
            .get(column)
            .cloned()
            .flatten()
            .filter(|value| !value.is_empty())
    };
    match parts() {
        Some((rows, no_min, no_max)) => {
            let place = Place {
                retracted: value(STATE_COLUMN).as_deref() == Some(RETRACTED),
                period: value(PERIOD_COLUMN),
            };
            Ok(LoggedFile {
                path,
                size: u64::try_from(size).unwrap_or(0),
                rows,
                no_min,
                no_max,
                place,
            })
        }
        None => Err(WarehouseError::corrupt(
            &path,
            "the log keeps no row count or no range of `_no` for it",
        )),
    }
}

fn encode(dataset: &DatasetId, base: i64, commit: &Commit) -> Result<Vec<u8>, WarehouseError> {
    let info = CommitInfo {
        timestamp: Some(Utc::now().timestamp_millis()),
        operation: Some(commit.operation.to_owned()),
        operation_parameters: Some(commit.parameters.clone()),
        read_version: u64::try_from(base).ok(),
        isolation_level: Some(IsolationLevel::Serializable),
        is_blind_append: Some(commit.append),
        engine_info: Some(ENGINE.to_owned()),
        info: HashMap::from([("qihui".to_owned(), commit.info.clone())]),
        ..CommitInfo::default()
    };
    let head = [
        Some(Action::CommitInfo(info)),
        commit.run.clone().map(Action::Txn),
    ];
    let mut bytes = Vec::new();
    for action in head.iter().flatten().chain(&commit.actions) {
        serde_json::to_writer(&mut bytes, action).map_err(|json_err| {
            WarehouseError::log(
                dataset,
                "writing it",
                DeltaTableError::SerializeLogJson { json_err },
            )
        })?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}
