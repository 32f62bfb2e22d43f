//! A table open for landing.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use arrow::datatypes::{DataType, TimeUnit};
use chrono::Utc;
use deltalake::kernel::{Action, Transaction};
use object_store::{ObjectStoreExt as _, path::Path};
use parking_lot::Mutex;
use qihui_catalog::{Contract, DatasetId};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use crate::{
    classify::{self, Classified, Incoming, OutcomeCounts},
    error::{CommitError, LandError, WarehouseError},
    landing::{self, Uploads},
    layout::{FRAME_PROPERTY, Layout},
    log::{CHECKPOINT_INTERVAL, Commit, TableLog, TableState, protocol},
    maintain,
    warehouse::Warehouse,
};

const CONTRACT_PROPERTY: &str = "qihui.contract";
const HASH_PROPERTY: &str = "qihui.contractHash";
/// How often [`Table::land`] classifies again before it gives up.
const MAX_CONFLICTS: usize = 16;

/// A table open for landing: [`Table::classify`] a chunk, then [`Table::commit`] it.
#[derive(Debug, Clone)]
pub struct Table {
    warehouse: Warehouse,
    dataset: DatasetId,
    log: Arc<TableLog>,
    contract: String,
}

/// Which run a commit belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    /// Who lands: `feed/dataset`. Runs are counted per application.
    pub app_id: String,
    /// The number of the run: greater than that of every run before.
    pub run: i64,
    /// How far the source was read, in the source's own terms; kept in the commit.
    pub position: Value,
    /// SHA-256 of the input, kept in the commit.
    pub input_hash: [u8; 32],
}

/// A commit that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitReceipt {
    /// The version of the table that the chunk made.
    pub version: i64,
    /// What became of the rows.
    pub counts: OutcomeCounts,
}

/// A chunk that landed.
#[derive(Debug)]
pub struct Landed {
    /// The outcome of each row, in order.
    pub outcomes: Vec<crate::Outcome>,
    /// The commit.
    pub receipt: CommitReceipt,
}

impl Table {
    pub(crate) async fn open(
        warehouse: Warehouse,
        log: Arc<TableLog>,
        contract: &Contract,
    ) -> Result<Self, WarehouseError> {
        let name = format!("{}@{}", contract.id, contract.version);
        let table = Self {
            warehouse,
            dataset: contract.id.clone(),
            log,
            contract: name,
        };
        loop {
            let (base, commit) = match table.log.current().await? {
                None => (-1, table.creation(contract)?),
                Some(state) => match table.growth(contract, &state)? {
                    Some(commit) => (state.version, commit),
                    None => return Ok(table),
                },
            };
            match table.log.append(base, commit).await {
                // Whoever came first may have done the same.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Warehouse(error)) => return Err(error),
                Err(CommitError::AlreadyCommitted { .. }) => {
                    return Err(WarehouseError::Interrupted);
                }
            }
        }
    }

    fn properties(&self, contract: &Contract, layout: &Layout) -> Map<String, Value> {
        let statistics = layout
            .statistics_columns()
            .into_iter()
            .map(|i| layout.schema.field(i).name().as_str());
        let properties = [
            ("delta.checkpointInterval", CHECKPOINT_INTERVAL.to_string()),
            ("delta.columnMapping.mode", "none".to_owned()),
            (
                "delta.dataSkippingStatsColumns",
                statistics.collect::<Vec<_>>().join(","),
            ),
            ("delta.enableChangeDataFeed", "true".to_owned()),
            ("delta.enableDeletionVectors", "false".to_owned()),
            ("delta.enableRowTracking", "false".to_owned()),
            (CONTRACT_PROPERTY, self.contract.clone()),
            (HASH_PROPERTY, hex(&contract.hash)),
            (FRAME_PROPERTY, layout.frame()),
        ];
        properties
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::String(value)))
            .collect()
    }

    fn metadata(
        &self,
        contract: &Contract,
        layout: &Layout,
        id: &Value,
        created: &Value,
    ) -> Result<Action, WarehouseError> {
        let columns = layout
            .schema
            .fields()
            .iter()
            .map(|field| (field.name().as_str(), field));
        let mut fields: Vec<Value> = columns
            .map(|(name, field)| {
                json!({
                    "name": name, "type": delta_type(field.data_type()), "nullable": field.is_nullable(),
                    "metadata": {},
                })
            })
            .collect();
        let partitions = layout.partition_columns();
        fields.extend(partitions.iter().map(
            |name| json!({ "name": name, "type": "string", "nullable": true, "metadata": {} }),
        ));
        let value = json!({
            "id": id,
            "name": contract.id.as_str(),
            "description": contract.title_cn,
            "format": { "provider": "parquet", "options": {} },
            "schemaString": json!({ "type": "struct", "fields": fields }).to_string(),
            "partitionColumns": partitions,
            "configuration": self.properties(contract, layout),
            "createdTime": created,
        });
        let metadata = serde_json::from_value(value).map_err(|_| WarehouseError::Interrupted)?;
        Ok(Action::Metadata(metadata))
    }

    fn creation(&self, contract: &Contract) -> Result<Commit, WarehouseError> {
        let layout = Layout::of(contract)?;
        let id = crate::datafile::random_uuid()?;
        let metadata = self.metadata(
            contract,
            &layout,
            &json!(id),
            &json!(Utc::now().timestamp_millis()),
        )?;
        let protocol =
            serde_json::from_value(protocol()).map_err(|_| WarehouseError::Interrupted)?;
        Ok(Commit {
            operation: "CREATE TABLE",
            info: json!({ "contract": self.contract }),
            actions: vec![Action::Protocol(protocol), metadata],
            ..Commit::default()
        })
    }

    /// What makes the table fit the contract; none when it does.
    fn growth(
        &self,
        contract: &Contract,
        state: &TableState,
    ) -> Result<Option<Commit>, WarehouseError> {
        let layout = state.layout.grown(contract)?;
        let wanted = self.properties(contract, &layout);
        let configuration = state.metadata.configuration();
        let same = wanted
            .iter()
            .all(|(name, value)| configuration.get(name).map(String::as_str) == value.as_str());
        if same && layout.schema == state.layout.schema {
            return Ok(None);
        }
        let (id, created) = (
            json!(state.metadata.id()),
            json!(state.metadata.created_time()),
        );
        Ok(Some(Commit {
            operation: "CHANGE CONTRACT",
            info: json!({ "contract": self.contract }),
            actions: vec![self.metadata(contract, &layout, &id, &created)?],
            ..Commit::default()
        }))
    }

    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &DatasetId {
        &self.dataset
    }

    async fn state(&self) -> Result<Arc<TableState>, WarehouseError> {
        self.log
            .current()
            .await?
            .ok_or_else(|| WarehouseError::UnknownVersion {
                dataset: self.dataset.clone(),
                version: 0,
            })
    }

    /// The last run of `app_id` that is in the table.
    pub async fn last_run(&self, app_id: &str) -> Result<Option<i64>, WarehouseError> {
        self.log.last_run(app_id).await
    }

    /// The version that run `run` of `app_id` made; none when it made none, or long ago.
    pub async fn version_of(&self, app_id: &str, run: i64) -> Result<Option<i64>, WarehouseError> {
        self.log.version_of(app_id, run).await
    }

    /// How far the source of run `run` of `app_id` was read, as its commit says; none when that commit is no longer in
    /// the log. Looks at commits from the newest on, so a run that is among the last ones is found at once.
    pub async fn position_of(
        &self,
        app_id: &str,
        run: i64,
    ) -> Result<Option<Value>, WarehouseError> {
        self.log.position_of(app_id, run).await
    }

    /// Decides what each row of a chunk does to the newest version of the table; see [`crate::Outcome`]. Writes
    /// nothing.
    ///
    /// # Errors
    /// [`WarehouseError::InvalidBatch`] when the rows do not have the contract's form.
    pub async fn classify(&self, incoming: Incoming) -> Result<Classified, WarehouseError> {
        classify::classify(&self.log.store(), self.state().await?, incoming).await
    }

    /// Commits a classified chunk as one version of the table, durably. A chunk that changes nothing makes a version
    /// too: it carries the run and the position.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when the table moved on since [`Table::classify`];
    /// [`CommitError::AlreadyCommitted`] when the run is in the table. After any other error the chunk is either
    /// wholly in the table or not at all: offer the run again.
    pub async fn commit(
        &self,
        classified: Classified,
        run: RunInfo,
    ) -> Result<CommitReceipt, CommitError> {
        self.commit_marked(classified, run, &[]).await
    }

    async fn commit_marked(
        &self,
        classified: Classified,
        run: RunInfo,
        marks: &[(&str, String)],
    ) -> Result<CommitReceipt, CommitError> {
        let base = classified.version();
        let state = self.state().await?;
        self.refuse_repetition(&run).await?;
        if state.version != base {
            return Err(CommitError::Conflict {
                dataset: self.dataset.clone(),
                version: base,
            });
        }
        let marked = marked(&state, marks)?;
        let (counts, append) = (classified.counts(), classified.removals.is_empty());
        let uploads = Uploads::new(self.log.store(), Handle::current());
        let started = uploads.started();
        let written =
            tokio::task::spawn_blocking(move || landing::write(&classified, uploads)).await;
        let committed = match written.map_err(|_| WarehouseError::Interrupted) {
            Ok(Ok(mut actions)) => {
                actions.extend(marked);
                self.log
                    .append(base, self.chunk(run, counts, append, actions))
                    .await
            }
            // Nothing was committed: what was written is in nobody's way, but takes space.
            Ok(Err(error)) | Err(error) => {
                self.discard(&started).await;
                return Err(error.into());
            }
        };
        match committed {
            Ok(version) => {
                maintain::tidy(&self.log).await;
                Ok(CommitReceipt { version, counts })
            }
            Err(error) => {
                // A commit that failed may stand all the same: then its files must stay.
                if matches!(error, CommitError::Conflict { .. })
                    || !self.log.may_hold(base + 1).await
                {
                    self.discard(&started).await;
                }
                Err(error)
            }
        }
    }

    async fn refuse_repetition(&self, run: &RunInfo) -> Result<(), CommitError> {
        match self.last_run(&run.app_id).await? {
            Some(last) if last >= run.run => Err(CommitError::AlreadyCommitted {
                app_id: run.app_id.clone(),
                run: run.run,
                last,
            }),
            _ => Ok(()),
        }
    }

    fn chunk(
        &self,
        run: RunInfo,
        counts: OutcomeCounts,
        append: bool,
        actions: Vec<Action>,
    ) -> Commit {
        let parameters = HashMap::from([("mode".to_owned(), json!("Append"))]);
        Commit {
            operation: if append { "WRITE" } else { "MERGE" },
            parameters: if append { parameters } else { HashMap::new() },
            info: json!({
                "contract": self.contract,
                "run": run.run,
                "appId": run.app_id,
                "position": run.position,
                "inputHash": hex(&run.input_hash),
                "rows": {
                    "inserted": counts.inserted,
                    "replaced": counts.replaced,
                    "unchanged": counts.unchanged,
                    "superseded": counts.superseded,
                    "retracted": counts.retracted,
                    "usccChanged": counts.uscc_changed,
                },
            }),
            run: Some(Transaction::new_with_last_update(
                run.app_id,
                run.run,
                Some(Utc::now().timestamp_millis()),
            )),
            actions,
            append,
        }
    }

    /// Deletes files that no commit names; what cannot be deleted stays as an orphan.
    async fn discard(&self, files: &Mutex<Vec<String>>) {
        let store = self.log.store();
        let files = std::mem::take(&mut *files.lock());
        for file in files {
            if let Err(error) = store.delete(&Path::from(file.as_str())).await {
                tracing::debug!(dataset = %self.dataset, file, %error, "an orphan stays");
            }
        }
    }

    /// Lands a chunk: classifies it, calls `before` (which makes the quarantine durable), commits, and starts over
    /// when another commit came in between; `before` is then called again with the new outcomes.
    ///
    /// # Errors
    /// Those of [`Table::classify`] and [`Table::commit`], and what `before` returns.
    pub async fn land<E: std::error::Error + 'static>(
        &self,
        incoming: Incoming,
        run: &RunInfo,
        before: impl FnMut(&Classified) -> Result<(), E>,
    ) -> Result<Landed, LandError<E>> {
        self.land_marked(incoming, run, &[], before).await
    }

    /// The same, and with the chunk marks on the table: names and texts that [`Snapshot::mark`] shows from this version
    /// on, until a later commit puts another text under the name, or the contract of the table changes, which takes
    /// every mark away.
    ///
    /// # Errors
    /// As [`Table::land`].
    ///
    /// [`Snapshot::mark`]: crate::Snapshot::mark
    pub async fn land_marked<E: std::error::Error + 'static>(
        &self,
        incoming: Incoming,
        run: &RunInfo,
        marks: &[(&str, String)],
        mut before: impl FnMut(&Classified) -> Result<(), E>,
    ) -> Result<Landed, LandError<E>> {
        let mut conflicts = 0;
        loop {
            self.refuse_repetition(run)
                .await
                .map_err(LandError::Commit)?;
            let classified = self.classify(incoming.clone()).await?;
            before(&classified).map_err(LandError::Before)?;
            let outcomes = classified.outcomes().to_vec();
            match self.commit_marked(classified, run.clone(), marks).await {
                Ok(receipt) => return Ok(Landed { outcomes, receipt }),
                Err(CommitError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                Err(error) => return Err(LandError::Commit(error)),
            }
        }
    }

    /// Lands rows as the next run of `app_id`, with nothing to quarantine: for tools and tests.
    pub async fn land_next(&self, app_id: &str, incoming: Incoming) -> Result<Landed, CommitError> {
        let run = self.last_run(app_id).await?.unwrap_or(-1) + 1;
        let run = RunInfo {
            app_id: app_id.to_owned(),
            run,
            position: Value::Null,
            input_hash: [0; 32],
        };
        self.land(incoming, &run, |_| Ok::<(), Infallible>(()))
            .await
            .map_err(|error| match error {
                LandError::Commit(error) => error,
                LandError::Before(never) => match never {},
            })
    }

    /// The warehouse that holds the table.
    #[must_use]
    pub fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }
}

/// The metadata of a table with further marks; none when there is nothing to mark.
fn marked(state: &TableState, marks: &[(&str, String)]) -> Result<Option<Action>, WarehouseError> {
    let configuration = state.metadata.configuration();
    if marks
        .iter()
        .all(|(name, text)| configuration.get(*name) == Some(text))
    {
        return Ok(None);
    }
    let mut metadata =
        serde_json::to_value(&state.metadata).map_err(|_| WarehouseError::Interrupted)?;
    for (name, text) in marks {
        metadata["configuration"][*name] = json!(text);
    }
    let metadata = serde_json::from_value(metadata).map_err(|_| WarehouseError::Interrupted)?;
    Ok(Some(Action::Metadata(metadata)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn delta_type(ty: &DataType) -> String {
    match ty {
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "timestamp".to_owned(),
        _ => "string".to_owned(),
    }
}
