//! What operators are told: one struct per event. No event carries a value of a record.

use tracing::{info, warn};

use crate::report::Counts;

macro_rules! info_counts {
    ($counts:expr, $message:literal, $($field:ident),+) => {
        info!(
            $($field,)+
            read = $counts.read,
            inserted = $counts.inserted,
            replaced = $counts.replaced,
            unchanged = $counts.unchanged,
            superseded = $counts.superseded,
            retracted = $counts.retracted,
            quarantined = $counts.quarantined,
            $message
        )
    };
}

/// A file begins.
pub(crate) struct SourceStarted<'a> {
    pub feed: &'a str,
    pub source: &'a str,
    pub bytes: u64,
    pub resumed_after: u64,
}

impl SourceStarted<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            source,
            bytes,
            resumed_after,
        } = self;
        info!(feed, source, bytes, resumed_after, "feed source started");
    }
}

/// A chunk is in its table.
pub(crate) struct ChunkLanded<'a> {
    pub feed: &'a str,
    pub run: i64,
    pub version: i64,
    pub tries: u32,
    pub counts: Counts,
}

impl ChunkLanded<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            run,
            version,
            tries,
            counts,
        } = self;
        info_counts!(counts, "feed chunk landed", feed, run, version, tries);
    }
}

/// Records of a chunk went to quarantine.
pub(crate) struct RecordsQuarantined<'a> {
    pub feed: &'a str,
    pub run: i64,
    pub reason: &'a str,
    pub records: u64,
}

impl RecordsQuarantined<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            run,
            reason,
            records,
        } = self;
        warn!(feed, run, reason, records, "feed records quarantined");
    }
}

/// A file is done.
pub(crate) struct SourceFinished<'a> {
    pub feed: &'a str,
    pub source: &'a str,
    pub counts: Counts,
}

impl SourceFinished<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            source,
            counts,
        } = self;
        info_counts!(counts, "feed source finished", feed, source);
    }
}

/// A source could not be run.
pub(crate) struct SourceFailed<'a> {
    pub feed: &'a str,
    pub source: &'a str,
    pub code: &'a str,
}

impl SourceFailed<'_> {
    pub fn emit(&self) {
        let Self { feed, source, code } = self;
        warn!(feed, source, code, "feed source failed");
    }
}
