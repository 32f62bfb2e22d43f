//! Erasure: rows of an enterprise that must be gone, not just out of sight.
//!
//! A delete of a Delta table leaves the rows in older files, in change files and in the statistics of the log. So
//! erasing is: write the files again without the rows; delete every file that the newest version does not name,
//! change files included; sum the log up in a checkpoint and delete what lies before; then look into what is left.

use std::{collections::HashSet, sync::Arc};

use arrow::array::AsArray as _;
use arrow::datatypes::Int32Type;
use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _};
use qihui_catalog::DatasetId;
use roaring::RoaringBitmap;
use serde_json::json;
use tokio::runtime::Handle;

use crate::{
    datafile::{Change, DataSink, Encoded, fetch, read_batches},
    error::{CommitError, WarehouseError},
    index::{self, DataRef},
    landing::{Uploads, add, remove},
    log::{Commit, LoggedFile, TableLog, TableState, sidecar_of},
    merge::{file_rows, merge},
    warehouse::Warehouse,
};

/// How often an erasure starts over when chunks land in between.
const MAX_CONFLICTS: usize = 16;

/// What [`Warehouse::erase`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erasure {
    /// The version of the table without the rows.
    pub version: i64,
    /// Rows and tombstones that are gone.
    pub rows: u64,
    /// Files that were deleted: data, sidecars, change files, log entries.
    pub files: usize,
}

impl Warehouse {
    /// Erases all rows and tombstones of `enterprises` from the table of `dataset`, with all its older versions, and
    /// makes sure of it by reading what is left. Queries that still read an older version fail. A repetition after a
    /// crash finishes the work.
    ///
    /// A record that was erased can land again, since no tombstone keeps it out.
    ///
    /// # Errors
    /// [`WarehouseError::Corrupt`] when a row is still found at the end.
    pub async fn erase(
        &self,
        dataset: &DatasetId,
        enterprises: &RoaringBitmap,
    ) -> Result<Erasure, CommitError> {
        let log = self.log(dataset)?;
        let mut conflicts = 0;
        let rows = loop {
            let Some(state) = log.current().await? else {
                return Ok(Erasure::default());
            };
            match rewrite_without(&log, &state, enterprises).await {
                Ok(rows) => break rows,
                Err(CommitError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                Err(error) => return Err(error),
            }
        };
        self.forget_presence();
        let (state, files) = purge(&log).await?;
        for file in &state.files {
            let gone = look_into(&log.store(), &state, file, enterprises).await?;
            if !gone {
                return Err(WarehouseError::corrupt(
                    &file.path,
                    "it still holds rows that were erased",
                )
                .into());
            }
        }
        Ok(Erasure {
            version: state.version,
            rows,
            files,
        })
    }
}

/// Writes the files that hold any of `enterprises` again without them; the count of rows that go.
async fn rewrite_without(
    log: &Arc<TableLog>,
    state: &Arc<TableState>,
    enterprises: &RoaringBitmap,
) -> Result<u64, CommitError> {
    let store = log.store();
    let mut touched = Vec::new();
    for file in &state.files {
        let data = DataRef {
            path: &file.path,
            size: file.size,
            rows: file.rows,
        };
        if !index::presence(&store, &state.layout, data)
            .await?
            .is_disjoint(enterprises)
        {
            touched.push(Arc::clone(file));
        }
    }
    if touched.is_empty() {
        return Ok(0);
    }
    let mut uploads = Uploads::new(store, Handle::current());
    let (layout, enterprises) = (Arc::clone(&state.layout), enterprises.clone());
    let work = move || {
        let (mut actions, mut rows) = (Vec::new(), 0);
        for file in &touched {
            let bytes = uploads.fetch(file)?;
            let mut leaving = Vec::new();
            let mut at = 0;
            for batch in read_batches(&layout, &file.path, bytes.clone())? {
                for no in batch?.column(0).as_primitive::<Int32Type>().values() {
                    if enterprises.contains(no.cast_unsigned()) {
                        leaving.push((at, Change::Delete));
                    }
                    at += 1;
                }
            }
            rows += leaving.len() as u64;
            let mut emit = |new: Encoded| {
                actions.push(add(&layout, &new, true));
                uploads.put(new.file.sidecar(), new.sidecar)?;
                uploads.put(new.file.path, new.data)
            };
            let mut sink = DataSink::new(&layout, file.place.clone(), &mut emit);
            let batches = read_batches(&layout, &file.path, bytes)?;
            let kept = Box::new(file_rows(&layout, batches, &leaving, |_, _| Ok(())));
            merge(&layout, vec![kept], |batch, fingerprints| {
                sink.push(batch, fingerprints)
            })?;
            sink.finish()?;
            actions.push(remove(&layout, file, true));
        }
        uploads.finish()?;
        Ok::<_, WarehouseError>((actions, rows))
    };
    let (actions, rows) = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| WarehouseError::Interrupted)??;
    let commit = Commit {
        operation: "ERASE",
        info: json!({ "rows": rows }),
        actions,
        ..Commit::default()
    };
    log.append(state.version, commit).await?;
    Ok(rows)
}

/// Deletes everything that the newest version does not need.
async fn purge(log: &Arc<TableLog>) -> Result<(Arc<TableState>, usize), WarehouseError> {
    let state = log.sum_up_now().await?;
    let store = log.store();
    let newest = format!("_delta_log/{:020}.", state.version);
    let kept: HashSet<String> = state
        .files
        .iter()
        .flat_map(|file| [file.path.clone(), sidecar_of(&file.path)])
        .collect();
    let failed = |source| WarehouseError::storage("listing", &state.layout.dataset, source);
    let listed: Vec<_> = store.list(None).try_collect().await.map_err(failed)?;
    let mut files = 0;
    for object in listed {
        let path = object.location.as_ref();
        let needed = kept.contains(path)
            || path.starts_with(&newest)
            || path == "_delta_log/_last_checkpoint";
        if !needed {
            let failed = |source| WarehouseError::storage("deleting", path, source);
            store.delete(&object.location).await.map_err(failed)?;
            files += 1;
        }
    }
    log.forget().await;
    let after = log
        .current()
        .await?
        .ok_or_else(|| WarehouseError::corrupt("_delta_log", "the log is gone"))?;
    Ok((after, files))
}

async fn look_into(
    store: &Arc<dyn ObjectStore>,
    state: &TableState,
    file: &LoggedFile,
    enterprises: &RoaringBitmap,
) -> Result<bool, WarehouseError> {
    let bytes = fetch(store, &file.path).await?;
    for batch in read_batches(&state.layout, &file.path, bytes)? {
        let batch = batch?;
        let numbers = batch.column(0).as_primitive::<Int32Type>().values();
        if numbers
            .iter()
            .any(|no| enterprises.contains(no.cast_unsigned()))
        {
            return Ok(false);
        }
    }
    Ok(true)
}
