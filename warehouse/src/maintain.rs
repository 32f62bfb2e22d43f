//! Keeping tables in shape: few files, no orphans.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::Path as FilePath,
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use deltalake::kernel::Action;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use qihui_catalog::DatasetId;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::{
    datafile::{DataSink, Encoded, read_batches},
    error::{CommitError, WarehouseError},
    landing::{Uploads, add, remove},
    layout::{Layout, Place},
    log::{Commit, LoggedFile, TableLog, TableState},
    merge::{Rows, file_rows, merge},
    warehouse::Warehouse,
};

/// How many files of one size class are merged, with all smaller ones.
const FAN_IN: usize = 4;
/// Each size class reaches this many times as far as the one below.
const CLASS_FACTOR: u64 = 4;
/// The class of files just below the size from which files are left alone; the smallest is 0.
const LARGEST_CLASS: u32 = 3;
/// How many bytes of files one compaction step reads.
const STEP_BYTES: u64 = 256 << 20;

/// What [`Warehouse::compact`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compaction {
    /// Files that went.
    pub removed: usize,
    /// Files that took their place.
    pub added: usize,
}

/// What [`Warehouse::vacuum_orphans`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vacuumed {
    /// Files that were deleted.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

fn places(state: &TableState) -> BTreeMap<Place, Vec<Arc<LoggedFile>>> {
    let mut places: BTreeMap<Place, Vec<Arc<LoggedFile>>> = BTreeMap::new();
    for file in &state.files {
        places
            .entry(file.place.clone())
            .or_default()
            .push(Arc::clone(file));
    }
    for files in places.values_mut() {
        files.sort_by(|a, b| (a.no_min, a.no_max, &a.path).cmp(&(b.no_min, b.no_max, &b.path)));
    }
    places
}

/// The small files of a partition that are due to be merged: so the number of files stays logarithmic in the number
/// of chunks, and each row is written again a logarithmic number of times.
fn due(files: &[Arc<LoggedFile>], large_bytes: u64) -> Option<Vec<Arc<LoggedFile>>> {
    let class = |file: &LoggedFile| {
        (0..=LARGEST_CLASS)
            .find(|class| file.size < large_bytes / CLASS_FACTOR.pow(LARGEST_CLASS - class))
    };
    let full = (0..=LARGEST_CLASS).rev().find(|wanted| {
        files
            .iter()
            .filter(|file| class(file) == Some(*wanted))
            .count()
            >= FAN_IN
    })?;
    Some(
        files
            .iter()
            .filter(|file| class(file).is_some_and(|class| class <= full))
            .cloned()
            .collect(),
    )
}

/// Merges what is due, one commit for all partitions. A failure changes nothing and is left to the next time.
pub(crate) async fn tidy(log: &Arc<TableLog>) {
    let merged = async {
        let Some(state) = log.current().await? else {
            return Ok(());
        };
        let groups: Vec<_> = places(&state)
            .values()
            .filter_map(|files| due(files, state.layout.limits.large_bytes))
            .collect();
        if groups.is_empty() {
            Ok(())
        } else {
            rewrite(log, &state, groups).await.map(drop)
        }
    };
    if let Err(error) = merged.await {
        tracing::debug!(%error, "small files were not merged");
    }
}

/// Writes each group of files again as one sorted sequence of files; the rows stay the same.
async fn rewrite(
    log: &Arc<TableLog>,
    state: &Arc<TableState>,
    groups: Vec<Vec<Arc<LoggedFile>>>,
) -> Result<Compaction, CommitError> {
    let uploads = Uploads::new(log.store(), Handle::current());
    let layout = Arc::clone(&state.layout);
    let removed = groups.iter().map(Vec::len).sum();
    let work = move || {
        let mut uploads = uploads;
        let mut actions = Vec::new();
        for files in &groups {
            rewrite_group(&layout, files, &mut uploads, &mut actions)?;
        }
        uploads.finish()?;
        Ok::<_, WarehouseError>(actions)
    };
    let actions = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| WarehouseError::Interrupted)??;
    let added = actions
        .iter()
        .filter(|action| matches!(action, Action::Add(_)))
        .count();
    let commit = Commit {
        operation: "OPTIMIZE",
        info: json!({}),
        actions,
        ..Commit::default()
    };
    log.append(state.version, commit).await?;
    Ok(Compaction { removed, added })
}

fn rewrite_group(
    layout: &Arc<Layout>,
    files: &[Arc<LoggedFile>],
    uploads: &mut Uploads,
    actions: &mut Vec<Action>,
) -> Result<(), WarehouseError> {
    let Some(first) = files.first() else {
        return Ok(());
    };
    let mut sources: Vec<Rows<'_>> = Vec::new();
    for file in files {
        let batches = read_batches(layout, &file.path, uploads.fetch(file)?)?;
        sources.push(Box::new(file_rows(layout, batches, &[], |_, _| Ok(()))));
    }
    let mut emit = |file: Encoded| {
        actions.push(add(layout, &file, false));
        uploads.put(file.file.sidecar(), file.sidecar)?;
        uploads.put(file.file.path, file.data)
    };
    let mut sink = DataSink::new(layout, first.place.clone(), &mut emit);
    merge(layout, sources, |batch, fingerprints| {
        sink.push(batch, fingerprints)
    })?;
    sink.finish()?;
    actions.extend(files.iter().map(|file| remove(layout, file, false)));
    Ok(())
}

/// Neighbouring files of a partition, to be merged in steps of bounded size.
fn steps(files: &[Arc<LoggedFile>], large_bytes: u64) -> Vec<Vec<Arc<LoggedFile>>> {
    let mut steps: Vec<Vec<Arc<LoggedFile>>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        bytes += file.size;
        match steps.last_mut() {
            Some(step) if bytes <= STEP_BYTES => step.push(Arc::clone(file)),
            _ => {
                bytes = file.size;
                steps.push(vec![Arc::clone(file)]);
            }
        }
    }
    let worth = |step: &Vec<Arc<LoggedFile>>| {
        let overlap = step.windows(2).any(|pair| pair[1].no_min <= pair[0].no_max);
        step.len() > 1 && (overlap || step.iter().any(|file| file.size < large_bytes))
    };
    steps.into_iter().filter(worth).collect()
}

impl Warehouse {
    /// Merges small and overlapping files of every partition of `dataset`. The rows stay the same, and subscribers of
    /// the change feed see nothing.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when a chunk landed in between: what was merged before stays merged.
    pub async fn compact(&self, dataset: &DatasetId) -> Result<Compaction, CommitError> {
        let log = self.log(dataset)?;
        let mut done = Compaction::default();
        let Some(state) = log.current().await? else {
            return Ok(done);
        };
        let large = state.layout.limits.large_bytes;
        let steps: Vec<_> = places(&state)
            .values()
            .flat_map(|files| steps(files, large))
            .collect();
        let mut state = state;
        for step in steps {
            let one = rewrite(&log, &state, vec![step]).await?;
            done.removed += one.removed;
            done.added += one.added;
            state = log.current().await?.ok_or(WarehouseError::Interrupted)?;
        }
        Ok(done)
    }

    /// Deletes what crashes left in the table of `dataset`: files that no kept commit names, and staging files, if
    /// they were last written at least `min_age` ago. Files that a commit removed stay as long as the log keeps that
    /// commit, for readers of older versions, and those of [kept](Warehouse::keep) versions stay anyhow. Nothing must be landing that began before `min_age`.
    pub async fn vacuum_orphans(
        &self,
        dataset: &DatasetId,
        min_age: Duration,
    ) -> Result<Vacuumed, WarehouseError> {
        let log = self.log(dataset)?;
        let mut done = Vacuumed::default();
        let Some(state) = log.current().await? else {
            return Ok(done);
        };
        let store = log.store();
        let failed = |source| WarehouseError::storage("listing", dataset, source);
        let mut named: HashSet<String> = HashSet::new();
        let mut files = Vec::new();
        let listed: Vec<_> = store.list(None).try_collect().await.map_err(failed)?;
        for object in listed {
            let path = object.location.as_ref();
            if path.starts_with("_delta_log/") {
                if path.ends_with(".json") {
                    let bytes = store
                        .get(&object.location)
                        .await
                        .map_err(failed)?
                        .bytes()
                        .await
                        .map_err(failed)?;
                    named.extend(named_in(&bytes));
                }
            } else {
                files.push(object);
            }
        }
        named.extend(state.files.iter().map(|file| file.path.clone()));
        for version in log.kept() {
            match log.at(version).await {
                Ok(kept) => named.extend(kept.files.iter().map(|file| file.path.clone())),
                // An erasure went before.
                Err(WarehouseError::UnknownVersion { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let sidecars: Vec<_> = named
            .iter()
            .map(|path| crate::log::sidecar_of(path))
            .collect();
        named.extend(sidecars);
        let age = chrono::Duration::from_std(min_age).unwrap_or(chrono::Duration::MAX);
        let limit = Utc::now()
            .checked_sub_signed(age)
            .unwrap_or(DateTime::<Utc>::MIN_UTC);
        for object in files
            .into_iter()
            .filter(|object| object.last_modified <= limit)
        {
            if !named.contains(object.location.as_ref()) {
                let path = object.location.clone();
                store
                    .delete(&path)
                    .await
                    .map_err(|source| WarehouseError::storage("deleting", &path, source))?;
                done.files += 1;
                done.bytes += object.size;
            }
        }
        if let Some(folder) = self.folder() {
            let oldest = SystemTime::now()
                .checked_sub(min_age)
                .unwrap_or(SystemTime::UNIX_EPOCH);
            let folder = folder.join(dataset.as_str());
            let sweep = tokio::task::spawn_blocking(move || sweep_staging(&folder, oldest));
            let swept = sweep.await.map_err(|_| WarehouseError::Interrupted)?;
            let swept = swept.map_err(|source| WarehouseError::Root {
                path: dataset.to_string(),
                source,
            })?;
            done.files += swept.files;
            done.bytes += swept.bytes;
        }
        Ok(done)
    }
}

/// The files that a commit names.
fn named_in(commit: &[u8]) -> HashSet<String> {
    let actions = serde_json::Deserializer::from_slice(commit)
        .into_iter::<Value>()
        .flatten();
    let path = |action: Value| {
        let body = ["add", "remove", "cdc"]
            .iter()
            .find_map(|kind| action.get(kind))?;
        Some(body.get("path")?.as_str()?.to_owned())
    };
    actions.filter_map(path).collect()
}

/// Deletes the staging files of writes that never ended (`<name>#<digits>`, see [`crate::DurableStore`]).
fn sweep_staging(folder: &FilePath, oldest: SystemTime) -> io::Result<Vacuumed> {
    let mut done = Vacuumed::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            let below = sweep_staging(&entry.path(), oldest)?;
            done.files += below.files;
            done.bytes += below.bytes;
            continue;
        }
        let name = entry.file_name();
        let staging = name
            .to_str()
            .and_then(|name| name.rsplit_once('#'))
            .is_some_and(|(_, digits)| {
                !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
            });
        if staging && metadata.modified()? <= oldest {
            fs::remove_file(entry.path())?;
            done.files += 1;
            done.bytes += metadata.len();
        }
    }
    Ok(done)
}
