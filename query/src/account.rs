//! What a query's scans passed: the account that the answer and the log entry are written from.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use qihui_catalog::DatasetId;
use roaring::RoaringBitmap;

use crate::error::QueryError;
use crate::mutations::{Mutation, mutated};
use crate::sync::{AtomicU64, Mutex};

/// Counts what the gate passes, for one query; shared by all of its scans.
#[derive(Debug)]
pub struct Account {
    max_rows: u64,
    rows: AtomicU64,
    /// Raised whenever enterprises are dropped; changed under `datasets`.
    drops: AtomicU64,
    datasets: Mutex<BTreeMap<DatasetId, Entry>>,
    by_enterprise: Mutex<Option<BTreeMap<u32, u64>>>,
}

/// Up to this many enterprises, the rows of each are counted.
const MAX_COUNTED_ENTERPRISES: usize = 1024;

/// What passed from one dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    /// Rows passed upward, over all scans of the dataset.
    pub rows: u64,
    /// Enterprises with a row among them.
    pub touched: RoaringBitmap,
    /// Cells withheld, per column; columns without any are not in it.
    pub withheld: BTreeMap<String, u64>,
    /// Enterprises whose grants count for nothing any more, because something of them was taken away before any of
    /// their rows had passed. Rows that are open without a grant may pass afterwards.
    pub dropped: RoaringBitmap,
}

/// What is known of one dataset.
#[derive(Debug, Clone, Default)]
struct Entry {
    passed: Passed,
    /// The dropped enterprises in the order in which they were: who knows the first n has only to learn the others.
    order: Vec<u32>,
}

impl Entry {
    fn drop_all(&mut self, enterprises: &RoaringBitmap) {
        self.order.extend(enterprises);
        self.passed.dropped |= enterprises;
    }
}

impl Account {
    /// An empty account that lets at most `max_rows` rows pass.
    pub fn new(max_rows: u64) -> Self {
        Self {
            max_rows,
            rows: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            datasets: Mutex::new(BTreeMap::new()),
            by_enterprise: Mutex::new(Some(BTreeMap::new())),
        }
    }

    /// How often enterprises were dropped: while it is the same, nobody else was.
    pub fn drops(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    /// The enterprises of a dataset that were dropped after the first `known`, in order. Whoever judges rows tells
    /// [`record`](Self::record) how many it knew.
    pub fn dropped_since(&self, dataset: &DatasetId, known: usize) -> Vec<u32> {
        let datasets = self.datasets.lock();
        let order = datasets.get(dataset).map(|entry| entry.order.as_slice());
        let since = order.and_then(|order| order.get(known..));
        since.unwrap_or_default().to_vec()
    }

    /// Drops enterprises of a dataset, if none of them has passed a row of it (GATE-4); otherwise nothing happens, and
    /// the answer is `false`.
    pub fn drop_untouched(&self, dataset: &DatasetId, enterprises: &RoaringBitmap) -> bool {
        let mut datasets = self.datasets.lock();
        let entry = datasets.entry(dataset.clone()).or_default();
        let fresh = enterprises - &entry.passed.dropped;
        if !entry.passed.touched.is_disjoint(&fresh) && !mutated(Mutation::TouchedDropped) {
            return false;
        }
        if mutated(Mutation::DroppedInTwoSteps) {
            drop(datasets);
            datasets = self.datasets.lock();
        }
        if !fresh.is_empty() {
            let entry = datasets.entry(dataset.clone()).or_default();
            entry.drop_all(&fresh);
            self.drops.fetch_add(1, Ordering::Release);
        }
        true
    }

    /// Records rows that are about to be passed upward, which were judged knowing the first `known` enterprises that
    /// were dropped. When one of theirs was dropped since, nothing is recorded, the answer is `false`, and the rows have
    /// to be judged anew. Others that were dropped meanwhile change nothing about these rows: however many they are,
    /// they do not hold them up.
    ///
    /// # Errors
    /// [`QueryError::TooManyRows`] when the query's limit is exceeded; only rows past the gate count.
    pub fn record(
        &self,
        dataset: &DatasetId,
        known: usize,
        rows: u64,
        touched: &RoaringBitmap,
        withheld: impl IntoIterator<Item = (String, u64)>,
    ) -> Result<bool, QueryError> {
        if rows == 0 {
            return Ok(true);
        }
        {
            let mut datasets = self.datasets.lock();
            let entry = datasets.entry(dataset.clone()).or_default();
            // INVARIANT: under the lock that drops are made under, so that no row passes under a grant that was dropped.
            let mut since = entry.order.iter().skip(known);
            if since.any(|no| touched.contains(*no)) && !mutated(Mutation::JudgedForGood) {
                return Ok(false);
            }
            let passed = &mut entry.passed;
            passed.rows += rows;
            passed.touched |= touched;
            // A column without a withheld cell has no entry, whether its rows were looked at or not.
            for (column, cells) in withheld.into_iter().filter(|(_, cells)| *cells > 0) {
                *passed.withheld.entry(column).or_default() += cells;
            }
        }
        self.within_limit(rows).map(|()| true)
    }

    /// Adds what passed elsewhere for the same query.
    ///
    /// # Errors
    /// [`QueryError::ConsentChanged`] when an enterprise was dropped on one side and touched on the other; then nothing
    /// is added. [`QueryError::TooManyRows`] as for [`record`](Self::record).
    pub fn add(
        &self,
        elsewhere: &BTreeMap<DatasetId, Passed>,
        by_enterprise: Option<&BTreeMap<u32, u64>>,
    ) -> Result<(), QueryError> {
        let mut datasets = self.datasets.lock();
        let torn = elsewhere.iter().any(|(dataset, there)| {
            let here = datasets.get(dataset).map(|entry| &entry.passed);
            here.is_some_and(|here| {
                !here.dropped.is_disjoint(&there.touched)
                    || !here.touched.is_disjoint(&there.dropped)
            })
        });
        if torn {
            return Err(QueryError::ConsentChanged);
        }
        let mut rows = 0;
        for (dataset, there) in elsewhere {
            let entry = datasets.entry(dataset.clone()).or_default();
            let fresh = &there.dropped - &entry.passed.dropped;
            if !fresh.is_empty() {
                entry.drop_all(&fresh);
                self.drops.fetch_add(1, Ordering::Release);
            }
            let here = &mut entry.passed;
            here.rows += there.rows;
            here.touched |= &there.touched;
            for (column, cells) in &there.withheld {
                *here.withheld.entry(column.clone()).or_default() += cells;
            }
            rows += there.rows;
        }
        drop(datasets);
        let counts: Option<Vec<(u32, usize)>> = by_enterprise.map(|counts| {
            let counts = counts.iter();
            let rows = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
            counts.map(|(no, count)| (*no, rows(*count))).collect()
        });
        self.count(counts.as_deref());
        self.within_limit(rows)
    }

    fn within_limit(&self, rows: u64) -> Result<(), QueryError> {
        let total = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        if total > self.max_rows {
            return Err(QueryError::TooManyRows {
                limit: self.max_rows,
            });
        }
        Ok(())
    }

    /// Counts the rows of single enterprises; none when rows passed uncounted.
    pub fn count(&self, rows: Option<&[(u32, usize)]>) {
        let mut counted = self.by_enterprise.lock();
        let (Some(counts), Some(rows)) = (counted.as_mut(), rows) else {
            *counted = None;
            return;
        };
        for (no, rows) in rows {
            *counts.entry(*no).or_default() += *rows as u64;
        }
        if counts.len() > MAX_COUNTED_ENTERPRISES {
            *counted = None;
        }
    }

    /// How many rows of each enterprise passed, if they were few enough to count.
    pub fn rows_by_enterprise(&self) -> Option<BTreeMap<u32, u64>> {
        self.by_enterprise.lock().clone()
    }

    /// A copy of what passed so far, per dataset.
    pub fn passed(&self) -> BTreeMap<DatasetId, Passed> {
        let datasets = self.datasets.lock();
        let datasets = datasets.iter();
        datasets
            .map(|(dataset, entry)| (dataset.clone(), entry.passed.clone()))
            .collect()
    }

    /// Every enterprise touched so far, over all datasets.
    pub fn touched(&self) -> RoaringBitmap {
        self.datasets
            .lock()
            .values()
            .fold(RoaringBitmap::new(), |all, entry| {
                all | &entry.passed.touched
            })
    }
}
