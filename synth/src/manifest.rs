//! The manifest: what was generated, and what a hub must count when it takes it in.
//!
//! Promise (used to reconcile ING-1): when the files of a feed are run in the order of their names into an empty
//! table, every record ends as the manifest says; `records` is the sum of the expected outcomes. Running several
//! files as one batch may turn a landed record that is corrected later into a superseded one, never more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name of the manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What a generation wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the generator's output: equal options and version give equal bytes.
    pub version: u32,
    /// Enterprises in the population.
    pub enterprises: u64,
    /// Months covered.
    pub months: u32,
    /// First day covered.
    pub from: String,
    /// Last day covered.
    pub to: String,
    /// The seed.
    pub seed: u64,
    /// Share of records made ugly, per million.
    pub ugly_per_million: u32,
    /// Whether only feeds without anything unfavourable were generated, because the enterprises are real.
    pub neutral: bool,
    /// What a reader should know, in words.
    pub notes: Vec<String>,
    /// Registry rows that were skipped for want of a valid, new USCC; absent without a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_skipped: Option<u64>,
    /// The feeds, in the order of the departments.
    pub feeds: Vec<FeedManifest>,
}

impl Manifest {
    /// Records of all feeds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.feeds.iter().map(|feed| feed.records).sum()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.feeds
            .iter()
            .flat_map(|feed| &feed.files)
            .map(|file| file.bytes)
            .sum()
    }

    /// The manifest of one feed.
    #[must_use]
    pub fn feed(&self, name: &str) -> Option<&FeedManifest> {
        self.feeds.iter().find(|feed| feed.feed == name)
    }
}

/// What was written for one feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedManifest {
    /// The feed.
    pub feed: String,
    /// The dataset it fills.
    pub dataset: String,
    /// Its files, in the order in which they were sent.
    pub files: Vec<FileManifest>,
    /// Records in all files, headers not counted.
    pub records: u64,
    /// What must become of them.
    pub expected: Expected,
    /// Rows that must be in the table at the end: keys that landed and were not retracted.
    pub live: u64,
    /// Extra records that repeat another.
    pub duplicates: u64,
    /// Extra records that correct another.
    pub corrections: u64,
    /// Extra records that take another back.
    pub retractions: u64,
    /// Records with an ugliness (and records that one of them added), per kind.
    pub ugly: BTreeMap<String, u64>,
    /// Sum of `ugly`.
    pub ugly_records: u64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileManifest {
    /// Its name.
    pub name: String,
    /// Records in it.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
}

/// What must become of the records of a feed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Inserted or replaced.
    pub landed: u64,
    /// Repeated.
    pub unchanged: u64,
    /// Retractions.
    pub retracted: u64,
    /// Refused.
    pub quarantined: u64,
    /// The same by reason. A hub may name further reasons for a record.
    pub quarantined_by_reason: BTreeMap<String, u64>,
}

impl Expected {
    /// The sum of all outcomes.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.landed + self.unchanged + self.retracted + self.quarantined
    }
}
