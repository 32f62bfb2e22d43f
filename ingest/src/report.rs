//! What a run says about itself.

use std::{collections::BTreeMap, ops::AddAssign};

use qihui_catalog::{DatasetId, FeedName};
use serde::{Deserialize, Serialize};

use crate::{checkpoint::Position, kafka::PartitionSpan, reason::Reason};

/// How many records ended how (ING-1): each record that was read counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Records read.
    pub read: u64,
    /// Landed under a key the table did not have.
    pub inserted: u64,
    /// Landed in place of an earlier version.
    pub replaced: u64,
    /// The table holds exactly this record.
    pub unchanged: u64,
    /// The table holds a later version.
    pub superseded: u64,
    /// Retractions that took effect.
    pub retracted: u64,
    /// In quarantine.
    pub quarantined: u64,
}

impl Counts {
    /// All counts by their names, `read` first.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("read", self.read),
            ("inserted", self.inserted),
            ("replaced", self.replaced),
            ("unchanged", self.unchanged),
            ("superseded", self.superseded),
            ("retracted", self.retracted),
            ("quarantined", self.quarantined),
        ]
    }

    /// Inserted and replaced.
    #[must_use]
    pub fn landed(&self) -> u64 {
        self.inserted + self.replaced
    }

    /// Records that have an outcome: as many as were read, or something is wrong.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        self.landed() + self.unchanged + self.superseded + self.retracted + self.quarantined
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.inserted += other.inserted;
        self.replaced += other.replaced;
        self.unchanged += other.unchanged;
        self.superseded += other.superseded;
        self.retracted += other.retracted;
        self.quarantined += other.quarantined;
    }
}

/// How many records were quarantined for each reason (a record counts under its first).
pub type ReasonCounts = BTreeMap<Reason, u64>;

/// What one run did: what the audit log and lineage need to know (input hash → table version).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunFact {
    /// The run.
    pub run: i64,
    /// The feed and dataset whose runs are numbered, `feed/dataset`.
    pub app_id: String,
    /// The file, relative to its folder; for a topic `kafka:` and its name.
    pub source: String,
    /// SHA-256 of the file; for a topic, of what identifies this reading of it.
    pub source_sha256: String,
    /// Where the run began.
    pub from: Position,
    /// Where it ended.
    pub to: Position,
    /// SHA-256 of the bytes between.
    pub input_hash: String,
    /// SHA-256 of the contract it was read under.
    pub contract_sha256: String,
    /// SHA-256 of the feed's description.
    pub feed_sha256: String,
    /// The table version its commit made; unknown for a run whose process died right after its commit.
    pub version: Option<i64>,
    /// What became of its records.
    pub counts: Counts,
    /// For a run over a topic: the offsets it read, per partition.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<i32, PartitionSpan>,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// The file, relative to its folder.
    pub source: String,
    /// SHA-256 of the file.
    pub source_sha256: String,
    /// What became of its records, those of an interrupted earlier invocation included.
    pub counts: Counts,
    /// Why records are in quarantine.
    pub reasons: ReasonCounts,
    /// Records that an interrupted earlier invocation had done.
    pub resumed_after: u64,
    /// The runs that make up this reading of the file.
    pub runs: Vec<RunFact>,
}

/// What became of the files of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// The feed.
    pub feed: FeedName,
    /// Its dataset.
    pub dataset: DatasetId,
    /// Whether nothing was written and this is only what would happen.
    pub dry_run: bool,
    /// What became of the records of all files.
    pub counts: Counts,
    /// Why records are in quarantine.
    pub reasons: ReasonCounts,
    /// File by file.
    pub files: Vec<FileReport>,
}

impl RunReport {
    /// Inserted and replaced records.
    #[must_use]
    pub fn landed(&self) -> u64 {
        self.counts.landed()
    }

    /// Every run, in order.
    pub fn runs(&self) -> impl Iterator<Item = &RunFact> {
        self.files.iter().flat_map(|file| &file.runs)
    }

    /// The table versions that were made, in order.
    pub fn versions(&self) -> impl Iterator<Item = i64> {
        self.runs().filter_map(|run| run.version)
    }
}

/// Records with one thing wrong in one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemReport {
    /// What is wrong.
    pub code: Reason,
    /// The column it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// How many records have it.
    pub records: u64,
    /// The first lines they start on, at most [`ProblemReport::MAX_LINES`] of each file.
    pub lines: Vec<ProblemLine>,
}

impl ProblemReport {
    /// How many lines of a file are named.
    pub const MAX_LINES: usize = 10;
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemLine {
    /// The file, relative to its folder.
    pub source: String,
    /// The sheet of a workbook or the document of an archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The line there, from 1.
    pub line: u64,
}

/// What would happen if a file were run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// What would become of the records.
    pub report: RunReport,
    /// What is wrong with them: every problem of every record, most frequent first.
    pub problems: Vec<ProblemReport>,
}

/// Told how a run goes, for people who wait. Called from several threads.
pub trait Progress: Send + Sync {
    /// A file begins, `done` of its `bytes` were done earlier.
    fn started(&self, source: &str, bytes: u64, done: u64) {
        let _ = (source, bytes, done);
    }

    /// The file was read up to `at`.
    fn reading(&self, at: Position) {
        let _ = at;
    }

    /// The file is landed up to `at`; `counts` so far.
    fn landed(&self, at: Position, counts: &Counts) {
        let _ = (at, counts);
    }

    /// The file is done.
    fn finished(&self, report: &FileReport) {
        let _ = report;
    }
}

/// Nobody waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {}
