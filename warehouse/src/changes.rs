//! What changed between two versions of a table: which enterprises, and by which runs.
//!
//! Promise: [`Warehouse::changes`] names every enterprise of which a row or tombstone differs between the two versions,
//! and, where the change feed allows, no other but those whose rows changed and changed back in between. It is exact by
//! the record, not by the file: a commit that takes rows away names each of them in its change files, and one that only
//! adds files is known by the presence bitmaps of these.
//!
//! Limit: what was cleaned away (old commits, change files after an erasure) cannot be looked at any more. Then the
//! answer is "not known", never a guess, and whoever asked must look at everything.

use std::collections::HashMap;

use arrow::array::AsArray as _;
use arrow::datatypes::Int32Type;
use deltalake::logstore::commit_uri_from_version;
use object_store::ObjectStoreExt as _;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use qihui_catalog::DatasetId;
use roaring::RoaringBitmap;
use serde_json::Value;

use crate::{
    datafile::fetch,
    error::WarehouseError,
    index::{self, DataRef},
    layout::NO_COLUMN,
    log::{TableLog, TableState, logged_file},
    warehouse::Warehouse,
};

/// A commit that a run made, as its table keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunCommit {
    /// The version of the table that it made.
    pub version: i64,
    /// The number of the run.
    pub run: i64,
    /// How far the source was read, in the source's own terms: [`crate::RunInfo::position`].
    pub position: Value,
    /// How many rows had which outcome, by the name of the outcome.
    pub rows: Value,
}

/// An error, or nothing to be found any more.
enum Gone {
    Gone,
    Failed(WarehouseError),
}

impl From<WarehouseError> for Gone {
    fn from(error: WarehouseError) -> Self {
        match &error {
            WarehouseError::Storage {
                source: object_store::Error::NotFound { .. },
                ..
            } => Self::Gone,
            _ => Self::Failed(error),
        }
    }
}

impl Warehouse {
    /// The enterprises whose rows differ between version `after` of a table (-1: before its first) and version
    /// `until`; none: the log no longer tells.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn changes(
        &self,
        dataset: &DatasetId,
        after: i64,
        until: i64,
    ) -> Result<Option<RoaringBitmap>, WarehouseError> {
        let mut changed = RoaringBitmap::new();
        if after == until {
            return Ok(Some(changed));
        }
        let log = self.log(dataset)?;
        let Some(state) = log.current().await? else {
            return Ok(None);
        };
        if after > until || until > state.version {
            return Ok(None);
        }
        for version in after + 1..=until {
            match changed_by(&log, &state, version, &mut changed).await {
                Ok(()) => {}
                Err(Gone::Gone) => return Ok(None),
                Err(Gone::Failed(error)) => return Err(error),
            }
        }
        Ok(Some(changed))
    }

    /// The commits of the runs of `app_id` after run `after`, oldest first, as far as the log still keeps them.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn runs(
        &self,
        dataset: &DatasetId,
        app_id: &str,
        after: i64,
    ) -> Result<Vec<RunCommit>, WarehouseError> {
        let log = self.log(dataset)?;
        let mut runs = Vec::new();
        let Some(state) = log.current().await? else {
            return Ok(runs);
        };
        for version in (0..=state.version).rev() {
            let actions = match actions(&log, version).await {
                Ok(actions) => actions,
                Err(Gone::Gone) => break,
                Err(Gone::Failed(error)) => return Err(error),
            };
            let info = actions
                .iter()
                .find_map(|action| action.get("commitInfo")?.get("qihui"));
            let Some(info) = info.filter(|info| info["appId"] == app_id) else {
                continue;
            };
            match info["run"].as_i64() {
                Some(run) if run > after => runs.push(RunCommit {
                    version,
                    run,
                    position: info["position"].clone(),
                    rows: info["rows"].clone(),
                }),
                _ => break,
            }
        }
        runs.reverse();
        Ok(runs)
    }
}

/// The actions of one commit.
async fn actions(log: &TableLog, version: i64) -> Result<Vec<Value>, Gone> {
    let path = commit_uri_from_version(Some(version.cast_unsigned()));
    let failed = |source| WarehouseError::storage("reading", &path, source);
    let bytes = log.store().get(&path).await.map_err(failed)?;
    let bytes = bytes.bytes().await.map_err(failed)?;
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let actions = lines.map(|line| {
        serde_json::from_slice(line)
            .map_err(|_| WarehouseError::corrupt(path.as_ref(), "a line of it is not JSON").into())
    });
    actions.collect()
}

/// Adds the enterprises that one commit changed.
async fn changed_by(
    log: &TableLog,
    state: &TableState,
    version: i64,
    changed: &mut RoaringBitmap,
) -> Result<(), Gone> {
    let actions = actions(log, version).await?;
    let of = |kind: &'static str| {
        let found = actions.iter().filter_map(move |action| action.get(kind));
        found.filter(move |file| kind == "cdc" || file["dataChange"] == true)
    };
    if of("cdc").next().is_some() {
        for file in of("cdc") {
            named_in(log, path_of(file)?, changed).await?;
        }
        return Ok(());
    }
    // Without change files a commit that takes files away (an erasure) does not say which rows are gone.
    if of("remove").next().is_some() {
        return Err(Gone::Gone);
    }
    for file in of("add") {
        let file = logged_file(
            path_of(file)?.to_owned(),
            file["size"].as_i64().unwrap_or(0),
            file["stats"].as_str(),
            &HashMap::new(),
        )?;
        let data = DataRef {
            path: &file.path,
            size: file.size,
            rows: file.rows,
        };
        *changed |= index::presence(&log.store(), &state.layout, data).await?;
    }
    Ok(())
}

fn path_of(file: &Value) -> Result<&str, WarehouseError> {
    let named = file["path"].as_str();
    named.ok_or_else(|| WarehouseError::corrupt("_delta_log", "a file of it has no path"))
}

/// Adds the enterprises that a change file names.
async fn named_in(
    log: &TableLog,
    path: &str,
    changed: &mut RoaringBitmap,
) -> Result<(), WarehouseError> {
    let bytes = fetch(&log.store(), path).await?;
    let name = path.to_owned();
    let read = move || -> Result<RoaringBitmap, WarehouseError> {
        let failed = |source| WarehouseError::parquet(&name, source);
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(failed)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), [NO_COLUMN]);
        let mut found = RoaringBitmap::new();
        for batch in builder.with_projection(mask).build().map_err(failed)? {
            let batch = batch.map_err(|error| failed(error.into()))?;
            let numbers = batch
                .column_by_name(NO_COLUMN)
                .and_then(|column| column.as_primitive_opt::<Int32Type>())
                .ok_or_else(|| WarehouseError::corrupt(&name, "it names no enterprises"))?;
            found.extend(numbers.values().iter().map(|no| no.cast_unsigned()));
        }
        Ok(found)
    };
    let found = tokio::task::spawn_blocking(read)
        .await
        .map_err(|_| WarehouseError::Interrupted)??;
    *changed |= found;
    Ok(())
}
