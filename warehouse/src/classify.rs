//! What a chunk of incoming rows does to a table.
//!
//! A record is identified by its key. Its versions are ordered by sequence, then retraction over record, then content
//! hash, and the table holds the greatest version it ever saw: a row, or a tombstone. So an old file run again changes
//! nothing, and neither does the order of files.
//!
//! **The enterprise of a record never changes.** The enterprise that owned the key first keeps it; every version that
//! names another, older or newer, record or tombstone, is [`Outcome::UsccChanged`] and left to people. Inside one
//! chunk the oldest version owns a new key: a chunk acts as if its rows had come in the order of their versions. That
//! makes the outcome of a chunk independent of the order of its rows, and of everything but which chunk first saw a
//! key that two enterprises claim; and because an owner stays for ever, repeating any file gives the same table.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch},
    buffer::BooleanBuffer,
    compute::nullif,
    datatypes::Int32Type,
};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore;

use crate::{
    canonical::{Fingerprints, Hash, Sequences, Version},
    datafile::Change,
    error::WarehouseError,
    index::{self, DataRef, Matches},
    layout::{Layout, NO_COLUMN},
    log::{LoggedFile, TableState},
};

/// The greatest number of rows of a chunk.
pub const MAX_CHUNK_ROWS: usize = 4 << 20;
/// How many sidecars are looked into at a time.
const PARALLEL_SIDECARS: usize = 4;

/// A chunk of rows that should land.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The rows: [`crate::incoming_schema`] of the contract, at most [`MAX_CHUNK_ROWS`].
    pub batch: RecordBatch,
    /// Which rows are retractions: only their key, `uscc` and sequence count. None: no row is.
    pub retract: Option<BooleanBuffer>,
}

impl Incoming {
    /// Rows without retractions.
    #[must_use]
    pub fn records(batch: RecordBatch) -> Self {
        Self {
            batch,
            retract: None,
        }
    }
}

/// What became of one incoming row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The record was not in the table, or only as a tombstone.
    Inserted,
    /// The row takes the place of an older version.
    Replaced,
    /// The table, or an equal row of the chunk, says the same.
    Unchanged,
    /// A later version is in the table or in the chunk.
    Superseded,
    /// The record is withdrawn: its row goes, a tombstone stays.
    Retracted,
    /// The record belongs to another enterprise: to be quarantined.
    UsccChanged,
}

/// How many rows of a chunk had which outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutcomeCounts {
    /// [`Outcome::Inserted`].
    pub inserted: u64,
    /// [`Outcome::Replaced`].
    pub replaced: u64,
    /// [`Outcome::Unchanged`].
    pub unchanged: u64,
    /// [`Outcome::Superseded`].
    pub superseded: u64,
    /// [`Outcome::Retracted`].
    pub retracted: u64,
    /// [`Outcome::UsccChanged`].
    pub uscc_changed: u64,
}

/// A chunk whose effect on one version of the table is known, ready for [`crate::Table::commit`].
#[derive(Debug)]
pub struct Classified {
    pub(crate) state: Arc<TableState>,
    /// In the form of the table; tombstones hold only what they keep.
    pub(crate) batch: RecordBatch,
    pub(crate) retract: Option<BooleanBuffer>,
    pub(crate) fingerprints: Fingerprints,
    /// Rows that go into the table.
    pub(crate) landing: Vec<(u32, Change)>,
    /// Rows that leave it: per position in `state.files`, (row in the file, what happens to it), sorted.
    pub(crate) removals: BTreeMap<usize, Vec<(u32, Change)>>,
    outcomes: Vec<Outcome>,
}

impl Classified {
    /// The outcome of each incoming row, in order.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// How many rows had which outcome.
    #[must_use]
    pub fn counts(&self) -> OutcomeCounts {
        let mut counts = OutcomeCounts::default();
        for outcome in &self.outcomes {
            *match outcome {
                Outcome::Inserted => &mut counts.inserted,
                Outcome::Replaced => &mut counts.replaced,
                Outcome::Unchanged => &mut counts.unchanged,
                Outcome::Superseded => &mut counts.superseded,
                Outcome::Retracted => &mut counts.retracted,
                Outcome::UsccChanged => &mut counts.uscc_changed,
            } += 1;
        }
        counts
    }

    /// The version of the table that this holds for.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.state.version
    }
}

/// Checks the form of `incoming` and gives it that of the table.
fn shape(layout: &Layout, incoming: &Incoming) -> Result<RecordBatch, WarehouseError> {
    let refuse = |reason: String| WarehouseError::InvalidBatch {
        dataset: layout.dataset.clone(),
        reason,
    };
    let batch = &incoming.batch;
    if batch.num_rows() > MAX_CHUNK_ROWS {
        return Err(refuse(format!("a chunk has at most {MAX_CHUNK_ROWS} rows")));
    }
    if incoming
        .retract
        .as_ref()
        .is_some_and(|retract| retract.len() != batch.num_rows())
    {
        return Err(refuse(
            "the marks of retractions are not as many as the rows".to_owned(),
        ));
    }
    if batch.num_columns() != layout.schema.fields().len() {
        return Err(refuse(format!(
            "{} columns are expected",
            layout.schema.fields().len()
        )));
    }
    let retract = incoming
        .retract
        .as_ref()
        .filter(|retract| retract.count_set_bits() > 0);
    let mask = retract.map(|retract| BooleanArray::new(retract.clone(), None));
    let column = |(field, kept): (&Arc<arrow::datatypes::Field>, &bool)| -> Result<ArrayRef, WarehouseError> {
        let array =
            batch.column_by_name(field.name()).ok_or_else(|| refuse(format!("`{}` is missing", field.name())))?;
        if array.data_type() != field.data_type() {
            return Err(refuse(format!("`{}` has another type than in the contract", field.name())));
        }
        match &mask {
            Some(mask) if !kept => {
                nullif(array, mask).map_err(|source| WarehouseError::columns(&layout.dataset, source))
            }
            _ => Ok(Arc::clone(array)),
        }
    };
    let columns = layout
        .schema
        .fields()
        .iter()
        .zip(&layout.kept)
        .map(column)
        .collect::<Result<Vec<_>, _>>()?;
    let numbers = columns[0].as_primitive::<Int32Type>();
    if numbers.null_count() > 0 || numbers.values().iter().any(|no| *no <= 0) {
        return Err(refuse(format!(
            "`{NO_COLUMN}` holds what is no enterprise number"
        )));
    }
    RecordBatch::try_new(Arc::clone(&layout.schema), columns)
        .map_err(|source| WarehouseError::columns(&layout.dataset, source))
}

/// The rows of a chunk grouped by key.
struct Groups {
    /// Rows sorted by key, then position.
    rows: Vec<u32>,
    /// The distinct keys, sorted.
    keys: Arc<Vec<Hash>>,
    /// Where in `rows` the group of each key ends.
    ends: Vec<u32>,
}

impl Groups {
    fn of(keys: &[Hash]) -> Self {
        let mut order: Vec<(Hash, u32)> = keys.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut groups = (Vec::new(), Vec::new());
        for ((key, _), end) in order.iter().zip(1..) {
            if groups.0.last() == Some(key) {
                groups.1.pop();
            } else {
                groups.0.push(*key);
            }
            groups.1.push(end);
        }
        Self {
            rows: order.into_iter().map(|(_, row)| row).collect(),
            keys: Arc::new(groups.0),
            ends: groups.1,
        }
    }

    fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.rows[start as usize..*end as usize])
    }
}

/// The version of a record that the table holds, and where.
struct Standing {
    content: Hash,
    no: u32,
    /// Position of the file in the table.
    file: usize,
    /// Row of the file.
    row: u32,
    /// Position in [`Found::sequences`], and in the sequences there.
    sequence: (usize, usize),
}

/// What the table holds for the keys of a chunk; no larger than the chunk.
struct Found {
    standing: Vec<Standing>,
    /// Per key, the position in `standing`.
    slots: Vec<Option<u32>>,
    /// Per file that holds any of the keys.
    sequences: Vec<Sequences>,
}

impl Found {
    fn add(&mut self, file: usize, matches: &Matches) -> Result<(), WarehouseError> {
        let records = &matches.records;
        let mut sequences = Vec::new();
        for (at, (key, entry)) in matches.found.iter().enumerate() {
            let slot =
                u32::try_from(self.standing.len()).map_err(|_| WarehouseError::Interrupted)?;
            self.slots[*key] = Some(slot);
            sequences.extend_from_slice(records.sequence(*entry));
            self.standing.push(Standing {
                content: records.content(*entry),
                no: records.no(*entry),
                file,
                row: records.row(*entry),
                sequence: (self.sequences.len(), at),
            });
        }
        let width = sequences.len() / matches.found.len().max(1);
        self.sequences.push(Sequences::new(width, sequences));
        Ok(())
    }
}

async fn look_up(
    store: &Arc<dyn ObjectStore>,
    state: &TableState,
    keys: &Arc<Vec<Hash>>,
) -> Result<Found, WarehouseError> {
    let mut found = Found {
        standing: Vec::new(),
        slots: vec![None; keys.len()],
        sequences: Vec::new(),
    };
    if keys.is_empty() {
        return Ok(found);
    }
    let one = |(position, file): (usize, Arc<LoggedFile>)| {
        let (store, layout, keys) = (
            Arc::clone(store),
            Arc::clone(&state.layout),
            Arc::clone(keys),
        );
        async move {
            let task = tokio::spawn(async move {
                let data = DataRef {
                    path: &file.path,
                    size: file.size,
                    rows: file.rows,
                };
                index::matches(&store, &layout, data, &keys).await
            });
            Ok::<_, WarehouseError>((
                position,
                task.await.map_err(|_| WarehouseError::Interrupted)??,
            ))
        }
    };
    let files: Vec<_> = state.files.iter().cloned().enumerate().collect();
    let mut answers = futures::stream::iter(files)
        .map(one)
        .buffer_unordered(PARALLEL_SIDECARS);
    while let Some((file, matches)) = answers.try_next().await? {
        if let Some(matches) = matches {
            found.add(file, &matches)?;
        }
    }
    Ok(found)
}

/// Decides one chunk against one version of the table.
pub(crate) async fn classify(
    store: &Arc<dyn ObjectStore>,
    state: Arc<TableState>,
    incoming: Incoming,
) -> Result<Classified, WarehouseError> {
    let layout = Arc::clone(&state.layout);
    let prepare = move || {
        let batch = shape(&layout, &incoming)?;
        let fingerprints = Fingerprints::of(&layout, &batch)?;
        let groups = Groups::of(&fingerprints.keys);
        Ok::<_, WarehouseError>((batch, incoming.retract, fingerprints, groups))
    };
    let (batch, retract, fingerprints, groups) = tokio::task::spawn_blocking(prepare)
        .await
        .map_err(|_| WarehouseError::Interrupted)??;
    let found = look_up(store, &state, &groups.keys).await?;
    let decide = move || {
        let mut classified = Classified {
            outcomes: vec![Outcome::Superseded; batch.num_rows()],
            state,
            batch,
            retract,
            fingerprints,
            landing: Vec::new(),
            removals: BTreeMap::new(),
        };
        let numbers = classified
            .batch
            .column(0)
            .as_primitive::<Int32Type>()
            .values()
            .clone();
        for (group, slot) in groups.iter().zip(&found.slots) {
            let standing =
                slot.map(|slot| classified.stands(&found, &found.standing[slot as usize]));
            match group {
                [row] => classified.decide_one(*row, &numbers, standing),
                group => classified.decide(group, &numbers, standing),
            }
        }
        classified
            .removals
            .values_mut()
            .for_each(|rows| rows.sort_unstable_by_key(|(row, _)| *row));
        classified
    };
    tokio::task::spawn_blocking(decide)
        .await
        .map_err(|_| WarehouseError::Interrupted)
}

impl Classified {
    fn version_of(&self, row: u32) -> Version<'_> {
        let row = row as usize;
        Version {
            sequence: self.fingerprints.sequences.get(row),
            retracted: self
                .retract
                .as_ref()
                .is_some_and(|retract| retract.value(row)),
            content: self.fingerprints.contents[row],
        }
    }

    fn stands<'a>(&self, found: &'a Found, standing: &Standing) -> Stands<'a> {
        let (sequences, at) = standing.sequence;
        let version = Version {
            sequence: found.sequences[sequences].get(at),
            retracted: self.state.files[standing.file].place.retracted,
            content: standing.content,
        };
        Stands {
            version,
            no: standing.no,
            file: standing.file,
            row: standing.row,
        }
    }

    /// Decides the only row of a key.
    fn decide_one(&mut self, row: u32, numbers: &[i32], standing: Option<Stands<'_>>) {
        let Some(stands) = standing else {
            return self.land(row, None);
        };
        if numbers[row as usize].cast_unsigned() != stands.no {
            self.outcomes[row as usize] = Outcome::UsccChanged;
            return;
        }
        match self.version_of(row).compare(&stands.version) {
            Ordering::Less => self.outcomes[row as usize] = Outcome::Superseded,
            Ordering::Equal => self.outcomes[row as usize] = Outcome::Unchanged,
            Ordering::Greater => self.land(row, Some(stands)),
        }
    }

    /// Decides the rows of one key, which are in the order of arrival.
    fn decide(&mut self, group: &[u32], numbers: &[i32], standing: Option<Stands<'_>>) {
        let no = |row: u32| numbers[row as usize].cast_unsigned();
        // Of versions that differ in nothing but their enterprise the lesser number owns the key.
        let oldest = |a: &u32, b: &u32| {
            self.version_of(*a)
                .compare(&self.version_of(*b))
                .then_with(|| no(*a).cmp(&no(*b)))
        };
        let owner = match &standing {
            Some(stands) => stands.no,
            None => group.iter().copied().min_by(oldest).map_or(0, no),
        };
        // The greatest version among the owner's rows; of equal ones the first to arrive.
        let newest = group
            .iter()
            .copied()
            .filter(|row| no(*row) == owner)
            .reduce(|best, row| {
                if self.version_of(row).compare(&self.version_of(best)) == Ordering::Greater {
                    row
                } else {
                    best
                }
            });
        let lands = newest.filter(|newest| {
            let newer = |stands: &Stands<'_>| {
                self.version_of(*newest).compare(&stands.version) == Ordering::Greater
            };
            standing.as_ref().is_none_or(newer)
        });
        for row in group {
            let winner = lands
                .map(|row| self.version_of(row))
                .or(standing.as_ref().map(|stands| stands.version));
            let wins = winner
                .is_some_and(|winner| self.version_of(*row).compare(&winner) == Ordering::Equal);
            self.outcomes[*row as usize] = match (no(*row) == owner, wins) {
                (false, _) => Outcome::UsccChanged,
                (true, true) => Outcome::Unchanged,
                (true, false) => Outcome::Superseded,
            };
        }
        if let Some(row) = lands {
            self.land(row, standing);
        }
    }

    /// Row `row` becomes the record's version in the table, in place of what stands.
    fn land(&mut self, row: u32, standing: Option<Stands<'_>>) {
        let retracts = self.version_of(row).retracted;
        let gone = standing.as_ref().map(|stands| stands.version.retracted);
        self.outcomes[row as usize] = match (retracts, gone) {
            (true, _) => Outcome::Retracted,
            (false, Some(false)) => Outcome::Replaced,
            (false, None | Some(true)) => Outcome::Inserted,
        };
        // A row that becomes a tombstone, or the reverse, moves to another partition: deleted here, inserted there.
        let moved = gone != Some(retracts);
        let (enters, leaves) = if moved {
            (Change::Insert, Change::Delete)
        } else {
            (Change::Postimage, Change::Preimage)
        };
        self.landing.push((row, enters));
        if let Some(stands) = standing {
            self.removals
                .entry(stands.file)
                .or_default()
                .push((stands.row, leaves));
        }
    }
}

/// A [`Standing`] with its version at hand.
struct Stands<'a> {
    version: Version<'a>,
    no: u32,
    file: usize,
    row: u32,
}
