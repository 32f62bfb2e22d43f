//! Merging sorted rows: files that are written again, and the rows that join them.
//!
//! A merge holds one batch per source and one output batch, whatever the sources' size.

use std::sync::Arc;

use arrow::{
    array::{
        Array as _, AsArray as _, BooleanArray, Date32Array, PrimitiveArray, RecordBatch,
        UInt32Array,
    },
    compute::{filter_record_batch, interleave_record_batch, take_record_batch},
    datatypes::{Date32Type, Int32Type},
};

use crate::{
    canonical::{Fingerprints, Hash, Sequences},
    datafile::Change,
    error::WarehouseError,
    layout::Layout,
};

/// What every file is sorted by: number, event date (null first), key hash.
pub(crate) type SortKey = (i32, Option<i32>, Hash);

fn dates(layout: &Layout, batch: &RecordBatch) -> Option<Date32Array> {
    layout
        .event_date
        .map(|column| batch.column(column).as_primitive::<Date32Type>().clone())
}

fn date(dates: Option<&Date32Array>, row: usize) -> Option<i32> {
    dates
        .filter(|dates| dates.is_valid(row))
        .map(|dates| dates.value(row))
}

/// Gives the event date of rows as days since the epoch.
pub(crate) fn event_dates(
    layout: &Layout,
    batch: &RecordBatch,
) -> impl Fn(u32) -> Option<i32> + use<> {
    let dates = dates(layout, batch);
    move |row| date(dates.as_ref(), row as usize)
}

/// Some rows of a chunk, in the given order, `batch_rows` of the limits at a time.
pub(crate) fn chunk_rows<'a>(
    layout: &'a Layout,
    batch: &'a RecordBatch,
    fingerprints: &'a Fingerprints,
    rows: &'a [u32],
) -> impl Iterator<Item = Result<(RecordBatch, Fingerprints), WarehouseError>> + 'a {
    rows.chunks(layout.limits.batch_rows).map(move |rows| {
        let first = rows.first().copied().unwrap_or(0);
        let batch = if rows.iter().zip(first..).all(|(row, next)| *row == next) {
            batch.slice(first as usize, rows.len())
        } else {
            take_record_batch(batch, &UInt32Array::from(rows.to_vec()))
                .map_err(|source| WarehouseError::columns(&layout.dataset, source))?
        };
        Ok((batch, fingerprints.take(rows)))
    })
}

/// The rows of a file but for those that leave it, which `gone` gets to see.
pub(crate) fn file_rows<'a>(
    layout: &'a Arc<Layout>,
    batches: impl Iterator<Item = Result<RecordBatch, WarehouseError>> + 'a,
    removals: &'a [(u32, Change)],
    mut gone: impl FnMut(&RecordBatch, &[Change]) -> Result<(), WarehouseError> + 'a,
) -> impl Iterator<Item = Result<(RecordBatch, Fingerprints), WarehouseError>> + 'a {
    let (mut start, mut left) = (0_usize, removals);
    batches.map(move |batch| {
        let batch = batch?;
        let end = start + batch.num_rows();
        let here = left.partition_point(|(row, _)| (*row as usize) < end);
        let (leaving, rest) = left.split_at(here);
        left = rest;
        let kept = if leaving.is_empty() {
            batch
        } else {
            let mut keep = vec![true; batch.num_rows()];
            leaving
                .iter()
                .for_each(|(row, _)| keep[*row as usize - start] = false);
            let keep = BooleanArray::from(keep);
            let drop = arrow::compute::not(&keep);
            let columns = |source| WarehouseError::columns(&layout.dataset, source);
            let dropped = drop
                .and_then(|drop| filter_record_batch(&batch, &drop))
                .map_err(columns)?;
            let changes: Vec<_> = leaving.iter().map(|(_, change)| *change).collect();
            gone(&dropped, &changes)?;
            filter_record_batch(&batch, &keep).map_err(columns)?
        };
        start = end;
        let fingerprints = Fingerprints::of(layout, &kept)?;
        Ok((kept, fingerprints))
    })
}

pub(crate) type Rows<'a> =
    Box<dyn Iterator<Item = Result<(RecordBatch, Fingerprints), WarehouseError>> + 'a>;

struct Cursor<'a> {
    rest: Rows<'a>,
    batch: RecordBatch,
    fingerprints: Fingerprints,
    numbers: PrimitiveArray<Int32Type>,
    dates: Option<Date32Array>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn open(layout: &Layout, mut rest: Rows<'a>) -> Result<Option<Self>, WarehouseError> {
        for next in rest.by_ref() {
            let (batch, fingerprints) = next?;
            if batch.num_rows() > 0 {
                let numbers = batch.column(0).as_primitive::<Int32Type>().clone();
                let dates = dates(layout, &batch);
                return Ok(Some(Self {
                    rest,
                    batch,
                    fingerprints,
                    numbers,
                    dates,
                    at: 0,
                }));
            }
        }
        Ok(None)
    }

    fn key(&self, row: usize) -> SortKey {
        (
            self.numbers.value(row),
            date(self.dates.as_ref(), row),
            self.fingerprints.keys[row],
        )
    }

    fn is_spent(&self) -> bool {
        self.at == self.batch.num_rows()
    }
}

/// Merges sorted sources into sorted batches of at most `batch_rows` of the limits.
pub(crate) fn merge(
    layout: &Layout,
    sources: Vec<Rows<'_>>,
    mut sink: impl FnMut(&RecordBatch, &Fingerprints) -> Result<(), WarehouseError>,
) -> Result<(), WarehouseError> {
    let opened = sources
        .into_iter()
        .map(|source| Cursor::open(layout, source));
    let mut cursors: Vec<_> = opened
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    let full = layout.limits.batch_rows;
    let mut picked: Vec<(usize, usize)> = Vec::with_capacity(full);
    while cursors.len() > 1 {
        // Take from the least cursor while it stays below all others.
        let least = (0..cursors.len())
            .min_by_key(|i| cursors[*i].key(cursors[*i].at))
            .unwrap_or(0);
        let others = cursors.iter().enumerate().filter(|(i, _)| *i != least);
        let bound = others.map(|(_, cursor)| cursor.key(cursor.at)).min();
        let cursor = &mut cursors[least];
        while !cursor.is_spent() && picked.len() < full && Some(cursor.key(cursor.at)) <= bound {
            picked.push((least, cursor.at));
            cursor.at += 1;
        }
        let spent = cursor.is_spent();
        if spent || picked.len() == full {
            flush(layout, &cursors, &mut picked, &mut sink)?;
        }
        if spent {
            let rest = cursors.swap_remove(least).rest;
            cursors.extend(Cursor::open(layout, rest)?);
        }
    }
    let Some(last) = cursors.pop() else {
        return Ok(());
    };
    let mut left: Vec<_> = (last.at..last.batch.num_rows())
        .map(|row| (0, row))
        .collect();
    let last = [last];
    flush(layout, &last, &mut left, &mut sink)?;
    for cursor in last {
        for next in cursor.rest {
            let (batch, fingerprints) = next?;
            sink(&batch, &fingerprints)?;
        }
    }
    Ok(())
}

fn flush(
    layout: &Layout,
    cursors: &[Cursor<'_>],
    picked: &mut Vec<(usize, usize)>,
    sink: &mut impl FnMut(&RecordBatch, &Fingerprints) -> Result<(), WarehouseError>,
) -> Result<(), WarehouseError> {
    if picked.is_empty() {
        return Ok(());
    }
    let batches: Vec<_> = cursors.iter().map(|cursor| &cursor.batch).collect();
    let batch = interleave_record_batch(&batches, picked)
        .map_err(|source| WarehouseError::columns(&layout.dataset, source))?;
    let width = cursors
        .iter()
        .map(|cursor| cursor.fingerprints.sequences.width())
        .max()
        .unwrap_or(0);
    let mut sequences = Vec::with_capacity(picked.len() * width);
    let mut fingerprints = Fingerprints::default();
    for (cursor, row) in picked.drain(..) {
        let from = &cursors[cursor].fingerprints;
        fingerprints.keys.push(from.keys[row]);
        fingerprints.contents.push(from.contents[row]);
        let sequence = from.sequences.get(row);
        sequences.extend_from_slice(sequence);
        sequences.resize(sequences.len() + width - sequence.len(), 0);
    }
    fingerprints.sequences = Sequences::new(width, sequences);
    sink(&batch, &fingerprints)
}
