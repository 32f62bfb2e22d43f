//! Writing a classified chunk: which files it adds, which it writes again, and the change feed.
//!
//! New rows go to new files of their partition. A file that loses rows is written again without them, and takes up
//! the new rows of its partition that fall into its range of numbers, so that it stays sorted and its range as narrow
//! as it was. A commit that only adds files needs no change files; one that also takes rows away names every change.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use chrono::Utc;
use deltalake::kernel::{Action, Add, AddCDCFile, Remove};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parking_lot::Mutex;
use qihui_catalog::Partition;
use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    classify::Classified,
    datafile::{Change, ChangeSink, DataSink, Encoded, fetch, read_batches},
    error::WarehouseError,
    layout::{Layout, Place},
    log::LoggedFile,
    merge::{Rows, SortKey, chunk_rows, event_dates, file_rows, merge},
};

/// How many files are on their way to the store at a time.
const PARALLEL_UPLOADS: usize = 4;

/// Stores encoded files while the next ones are encoded. Lives on a blocking thread.
pub(crate) struct Uploads {
    store: Arc<dyn ObjectStore>,
    handle: Handle,
    running: JoinSet<Result<(), WarehouseError>>,
    started: Arc<Mutex<Vec<String>>>,
}

impl Uploads {
    pub fn new(store: Arc<dyn ObjectStore>, handle: Handle) -> Self {
        Self {
            store,
            handle,
            running: JoinSet::new(),
            started: Arc::default(),
        }
    }

    /// The paths of all files that were given to the store, complete or not.
    pub fn started(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(&self.started)
    }

    pub fn fetch(&self, file: &LoggedFile) -> Result<Bytes, WarehouseError> {
        let bytes = self.handle.block_on(fetch(&self.store, &file.path))?;
        if bytes.len() as u64 == file.size {
            Ok(bytes)
        } else {
            Err(WarehouseError::corrupt(
                &file.path,
                "its size is not the one in the log",
            ))
        }
    }

    pub fn put(&mut self, path: String, bytes: Bytes) -> Result<(), WarehouseError> {
        while self.running.len() >= PARALLEL_UPLOADS {
            self.wait()?;
        }
        self.started.lock().push(path.clone());
        let store = Arc::clone(&self.store);
        let upload = async move {
            let put = store.put(&Path::from(path.as_str()), bytes.into()).await;
            put.map(drop)
                .map_err(|source| WarehouseError::storage("writing", &path, source))
        };
        self.running.spawn_on(upload, &self.handle);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), WarehouseError> {
        match self.handle.block_on(self.running.join_next()) {
            Some(done) => done.map_err(|_| WarehouseError::Interrupted)?,
            None => Ok(()),
        }
    }

    /// Waits until everything is stored, durably.
    pub fn finish(&mut self) -> Result<(), WarehouseError> {
        while !self.running.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until nothing is on its way any more, whatever becomes of it.
    fn settle(&mut self) {
        while !self.running.is_empty() {
            let _ = self.wait();
        }
    }
}

/// The log's word for a new file.
pub(crate) fn add(layout: &Layout, encoded: &Encoded, data_change: bool) -> Action {
    Action::Add(Add {
        path: encoded.file.path.clone(),
        partition_values: encoded.file.place.values(layout.partition_columns()),
        size: i64::try_from(encoded.file.size).unwrap_or(i64::MAX),
        modification_time: Utc::now().timestamp_millis(),
        data_change,
        stats: Some(encoded.statistics.to_string()),
        ..Add::default()
    })
}

/// The log's word for a file that goes.
pub(crate) fn remove(layout: &Layout, file: &LoggedFile, data_change: bool) -> Action {
    Action::Remove(Remove {
        path: file.path.clone(),
        data_change,
        deletion_timestamp: Some(Utc::now().timestamp_millis()),
        extended_file_metadata: Some(true),
        partition_values: Some(file.place.values(layout.partition_columns())),
        size: Some(i64::try_from(file.size).unwrap_or(i64::MAX)),
        ..Remove::default()
    })
}

/// What one chunk does to one partition.
#[derive(Default)]
struct Work<'a> {
    /// Landing rows of the chunk, sorted.
    rows: Vec<u32>,
    touched: Vec<(&'a LoggedFile, &'a [(u32, Change)])>,
}

/// Writes the files of a chunk. Everything is durable when this returns; nothing is visible.
pub(crate) fn write(
    classified: &Classified,
    mut uploads: Uploads,
) -> Result<Vec<Action>, WarehouseError> {
    let mut changes = vec![Change::Insert; classified.batch.num_rows()];
    classified
        .landing
        .iter()
        .for_each(|(row, change)| changes[*row as usize] = *change);
    let mut writer = ChunkWriter {
        classified,
        layout: &classified.state.layout,
        changes,
        feed: !classified.removals.is_empty(),
        actions: Vec::new(),
    };
    let written = writer
        .plan()
        .into_iter()
        .try_for_each(|(place, work)| writer.place(&place, &work, &mut uploads))
        .and_then(|()| uploads.finish());
    // After a failure too nothing may still be on its way: the caller deletes what was written.
    uploads.settle();
    written.map(|()| writer.actions)
}

struct ChunkWriter<'a> {
    classified: &'a Classified,
    layout: &'a Arc<Layout>,
    /// What the change feed says of each row of the chunk, if it lands.
    changes: Vec<Change>,
    /// Whether the commit needs change files.
    feed: bool,
    actions: Vec<Action>,
}

impl<'a> ChunkWriter<'a> {
    /// Sorts the landing rows into their partitions, next to the files that lose rows.
    fn plan(&self) -> BTreeMap<Place, Work<'a>> {
        let Classified {
            batch,
            retract,
            fingerprints,
            landing,
            removals,
            state,
            ..
        } = self.classified;
        let numbers = batch.column(0).as_primitive::<Int32Type>().values();
        let date = event_dates(self.layout, batch);
        let mut order: Vec<(SortKey, u32)> = landing
            .iter()
            .map(|(row, _)| {
                (
                    (
                        numbers[*row as usize],
                        date(*row),
                        fingerprints.keys[*row as usize],
                    ),
                    *row,
                )
            })
            .collect();
        order.sort_unstable();
        let cut = self.layout.partition != Partition::None;
        // Few dates make many rows: the partition of each date is found once.
        let mut found: HashMap<(bool, Option<i32>), usize> = HashMap::new();
        let mut groups: Vec<(Place, Vec<u32>)> = Vec::new();
        for ((_, days, _), row) in order {
            let retracted = retract
                .as_ref()
                .is_some_and(|retract| retract.value(row as usize));
            let days = days.filter(|_| cut);
            let group = *found.entry((retracted, days)).or_insert_with(|| {
                let place = Place {
                    retracted,
                    period: self.layout.period(days),
                };
                groups
                    .iter()
                    .position(|(known, _)| *known == place)
                    .unwrap_or_else(|| {
                        groups.push((place, Vec::new()));
                        groups.len() - 1
                    })
            });
            groups[group].1.push(row);
        }
        let mut plan: BTreeMap<Place, Work<'a>> = BTreeMap::new();
        for (place, rows) in groups {
            plan.insert(
                place,
                Work {
                    rows,
                    touched: Vec::new(),
                },
            );
        }
        for (file, rows) in removals {
            let file = state.files[*file].as_ref();
            plan.entry(file.place.clone())
                .or_default()
                .touched
                .push((file, rows));
        }
        for work in plan.values_mut() {
            work.touched.sort_by(|(a, _), (b, _)| {
                (a.no_min, a.no_max, &a.path).cmp(&(b.no_min, b.no_max, &b.path))
            });
        }
        plan
    }

    fn place(
        &mut self,
        place: &Place,
        work: &Work<'_>,
        uploads: &mut Uploads,
    ) -> Result<(), WarehouseError> {
        let mut feed = self
            .feed
            .then(|| ChangeSink::new(self.layout, place.clone()))
            .transpose()?;
        let together = work.touched.iter().map(|(file, _)| file.size).sum::<u64>()
            <= self.layout.limits.together_bytes;
        if together || work.touched.is_empty() {
            self.rewrite(place, &work.touched, &work.rows, &mut feed, uploads)?;
        } else {
            let numbers = self
                .classified
                .batch
                .column(0)
                .as_primitive::<Int32Type>()
                .values();
            let mut left = work.rows.clone();
            for touched in &work.touched {
                let range = touched.0.no_min..=touched.0.no_max;
                let (joining, rest): (Vec<_>, Vec<_>) = left
                    .into_iter()
                    .partition(|row| range.contains(&numbers[*row as usize].cast_unsigned()));
                left = rest;
                self.rewrite(
                    place,
                    std::slice::from_ref(touched),
                    &joining,
                    &mut feed,
                    uploads,
                )?;
            }
            self.rewrite(place, &[], &left, &mut feed, uploads)?;
        }
        for (file, _) in &work.touched {
            self.actions.push(remove(self.layout, file, true));
        }
        let Some(feed) = feed.filter(|feed| feed.rows > 0) else {
            return Ok(());
        };
        let (path, place, data) = feed.finish(self.layout)?;
        self.actions.push(Action::Cdc(AddCDCFile {
            path: path.clone(),
            size: i64::try_from(data.len()).unwrap_or(i64::MAX),
            partition_values: place.values(self.layout.partition_columns()),
            data_change: false,
            tags: None,
        }));
        uploads.put(path, data)
    }

    /// Writes what stays of `touched` and the `rows` of the chunk into new files.
    fn rewrite(
        &mut self,
        place: &Place,
        touched: &[(&LoggedFile, &[(u32, Change)])],
        rows: &[u32],
        feed: &mut Option<ChangeSink>,
        uploads: &mut Uploads,
    ) -> Result<(), WarehouseError> {
        let Classified {
            batch,
            fingerprints,
            ..
        } = self.classified;
        let (layout, actions) = (self.layout, &mut self.actions);
        if let Some(feed) = feed {
            let parts = rows.chunks(layout.limits.batch_rows).zip(chunk_rows(
                layout,
                batch,
                fingerprints,
                rows,
            ));
            for (part, next) in parts {
                let changes: Vec<_> = part.iter().map(|row| self.changes[*row as usize]).collect();
                feed.push(&next?.0, &changes)?;
            }
        }
        let feed = RefCell::new(feed.as_mut());
        let gone = |batch: &RecordBatch, changes: &[Change]| match feed.borrow_mut().as_mut() {
            Some(feed) => feed.push(batch, changes),
            None => Ok(()),
        };
        let mut sources: Vec<Rows<'_>> = Vec::new();
        for (file, removals) in touched {
            let batches = read_batches(layout, &file.path, uploads.fetch(file)?)?;
            sources.push(Box::new(file_rows(layout, batches, removals, &gone)));
        }
        sources.push(Box::new(chunk_rows(layout, batch, fingerprints, rows)));
        let mut emit = |file: Encoded| {
            actions.push(add(layout, &file, true));
            uploads.put(file.file.sidecar(), file.sidecar)?;
            uploads.put(file.file.path, file.data)
        };
        let mut sink = DataSink::new(layout, place.clone(), &mut emit);
        merge(layout, sources, |batch, fingerprints| {
            sink.push(batch, fingerprints)
        })?;
        sink.finish()
    }
}
