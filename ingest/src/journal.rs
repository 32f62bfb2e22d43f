//! What every run read and what became of it, written down before its commit.
//!
//! Promises: the record of a run is durable before the table's commit that carries its number; a run counts if and
//! only if the table says so (its number is at most the table's last one), whatever the journal holds; so a process
//! killed anywhere leaves nothing to repair.
//!
//! Format: `runs/<feed>.jsonl`, append-only, one JSON object a line: `prepared` with everything about the run, then
//! `committed` with the table version where it is known (for lineage, and to tell a reading that was reported from one
//! whose process died right behind its last commit; the table does not depend on it). A number prepared twice
//! means that the first try was never committed: the last one holds. Runs over a topic carry its position and what they
//! read of each partition; the oldest of them are forgotten in time ([`Journal::trim`]). A last line without line end was torn by a crash
//! before its commit and is cut off when the journal is next written to.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use qihui_catalog::{DatasetId, FeedName};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{Checkpoint, Delta, PassId, Position},
    durable,
    error::{IngestError, Result},
    kafka::{PartitionSpan, TopicPosition},
    report::{Counts, ReasonCounts, RunFact},
    store,
};

/// The version of the journal's format.
const FORMAT: u8 = 1;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceId {
    pub path: String,
    pub sha256: String,
    /// The length of its text.
    pub bytes: u64,
    /// The form of its text, for a workbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_form: Option<u32>,
}

impl SourceId {
    /// Whether positions in the text of one are positions in the text of the other.
    fn has_text_of(&self, other: &Self) -> bool {
        (&self.sha256, self.bytes, self.text_form) == (&other.sha256, other.bytes, other.text_form)
    }
}

/// One run, as it was before its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunRecord {
    pub v: u8,
    pub run: i64,
    pub feed: FeedName,
    pub dataset: DatasetId,
    pub source: SourceId,
    /// The first run of this reading of the source.
    pub pass: i64,
    pub from: Position,
    pub to: Position,
    pub input_hash: String,
    pub contract_sha256: String,
    pub feed_sha256: String,
    pub counts: Counts,
    pub reasons: ReasonCounts,
    /// For a run over a topic: how far it has been read then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicPosition>,
    /// For a run over a topic: what it read of each partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<i32, PartitionSpan>,
}

impl RunRecord {
    /// The version this program writes.
    pub const FORMAT: u8 = FORMAT;

    pub fn is_last(&self) -> bool {
        self.to.offset >= self.source.bytes
    }

    pub fn delta(&self) -> Option<Delta> {
        let mut source = [0; 32];
        hex::decode_to_slice(&self.source.sha256, &mut source).ok()?;
        Some(Delta {
            pass: PassId {
                source,
                first_run: self.pass,
            },
            from: self.from,
            to: self.to,
        })
    }

    pub fn fact(&self, version: Option<i64>) -> RunFact {
        RunFact {
            run: self.run,
            app_id: app_id(&self.feed, &self.dataset),
            source: self.source.path.clone(),
            source_sha256: self.source.sha256.clone(),
            from: self.from,
            to: self.to,
            input_hash: self.input_hash.clone(),
            contract_sha256: self.contract_sha256.clone(),
            feed_sha256: self.feed_sha256.clone(),
            version,
            counts: self.counts,
            partitions: self.partitions.clone(),
        }
    }
}

/// Whose runs are numbered: the id of the table's transactions.
pub(crate) fn app_id(feed: &FeedName, dataset: &DatasetId) -> String {
    format!("{feed}/{dataset}")
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Prepared(Box<RunRecord>),
    Committed { run: i64, version: Option<i64> },
}

/// The runs of one feed.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    prepared: BTreeMap<i64, RunRecord>,
    committed: BTreeMap<i64, Option<i64>>,
    /// The length of what is whole.
    whole: u64,
}

impl Journal {
    /// Reads the journal of `feed`; without one there were no runs.
    pub fn open(state_dir: &Path, feed: &FeedName) -> Result<Self> {
        let path = state_dir.join("runs").join(format!("{feed}.jsonl"));
        let content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|error| IngestError::io_at("reading", &path, error))?,
        };
        let whole = memchr::memrchr(b'\n', &content).map_or(0, |end| end + 1);
        let mut journal = Self {
            path,
            prepared: BTreeMap::new(),
            committed: BTreeMap::new(),
            whole: whole as u64,
        };
        for (number, line) in (1..)
            .zip(content[..whole].split(|byte| *byte == b'\n'))
            .filter(|(_, l)| !l.is_empty())
        {
            let fault = |fault: &str| IngestError::CorruptState {
                path: journal.path.clone(),
                line: number,
                fault: fault.to_owned(),
            };
            match serde_json::from_slice(line)
                .map_err(|_| fault("it is not an entry of a journal of runs"))?
            {
                Line::Prepared(record) if record.v != FORMAT => {
                    return Err(fault("it was written by another version of this program"));
                }
                Line::Prepared(record) => {
                    journal.committed.remove(&record.run);
                    journal.prepared.insert(record.run, *record);
                }
                Line::Committed { run, version } => {
                    journal.committed.insert(run, version);
                }
            }
        }
        Ok(journal)
    }

    /// Writes down, durably, what `record` is about to commit.
    pub fn prepare(&mut self, record: RunRecord) -> Result<()> {
        let line = Line::Prepared(Box::new(record));
        self.append(&line, true)?;
        if let Line::Prepared(record) = line {
            self.committed.remove(&record.run);
            self.prepared.insert(record.run, *record);
        }
        Ok(())
    }

    /// Notes that `run` was committed, and the table version it made where that is known.
    pub fn committed(&mut self, run: i64, version: Option<i64>) -> Result<()> {
        self.append(&Line::Committed { run, version }, false)?;
        self.committed.insert(run, version);
        Ok(())
    }

    /// The runs that count, given the table's last one, in order.
    pub fn effective(&self, last_run: Option<i64>) -> impl DoubleEndedIterator<Item = &RunRecord> {
        let last = last_run.unwrap_or(0);
        self.prepared.range(..=last).map(|(_, record)| record)
    }

    /// The table version that `run` made, where that is known.
    pub fn version(&self, run: i64) -> Option<i64> {
        self.committed.get(&run).copied().flatten()
    }

    /// The runs of the unfinished reading of a source, given the table's last run; none when there is nothing to
    /// continue. A reading whose last commit was never noted, because the process died right behind it, has nothing
    /// left to read, but is still to be reported. A reading under another contract or feed description, or of another
    /// text form of the same workbook, is not continued.
    pub fn unfinished(
        &self,
        last_run: Option<i64>,
        source: &SourceId,
        rules: (&str, &str),
    ) -> Vec<&RunRecord> {
        let Some(last) = self
            .effective(last_run)
            .rev()
            .find(|record| record.source.sha256 == source.sha256)
        else {
            return Vec::new();
        };
        let is_done = last.is_last() && self.committed.contains_key(&last.run);
        let is_same = last.source.has_text_of(source);
        if is_done
            || !is_same
            || (last.contract_sha256.as_str(), last.feed_sha256.as_str()) != rules
        {
            return Vec::new();
        }
        let pass = last.pass;
        self.effective(last_run)
            .filter(|r| r.source.sha256 == source.sha256 && r.pass == pass)
            .collect()
    }

    /// Whether the commit of `run` was noted.
    pub fn is_noted(&self, run: i64) -> bool {
        self.committed.contains_key(&run)
    }

    /// How far each reading has come, given the table's last run.
    pub fn checkpoint(&self, last_run: Option<i64>) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::default();
        // Runs over a topic have a position of their own.
        for record in self.effective(last_run).filter(|r| r.topic.is_none()) {
            let fault = |fault| IngestError::Checkpoint {
                file: record.source.path.clone(),
                fault,
            };
            if let Some(delta) = record.delta() {
                checkpoint.try_apply(&delta).map_err(fault)?;
            }
        }
        Ok(checkpoint)
    }

    /// How far the feed's topic has been read, given the table's last run; none when no run that counts read one.
    pub fn topic(&self, last_run: Option<i64>) -> Option<&TopicPosition> {
        self.effective(last_run)
            .rev()
            .find_map(|record| record.topic.as_ref())
    }

    /// Forgets all but the last `keep` runs over a topic once there are twice as many: a topic is read for years, and
    /// what matters of its runs is in the table and in the audit log. The journal is replaced as a whole.
    pub fn trim(&mut self, keep: usize) -> Result<()> {
        let of_topic = self.prepared.values().filter(|r| r.topic.is_some());
        let of_topic: Vec<i64> = of_topic.map(|record| record.run).collect();
        if of_topic.len() < keep.saturating_mul(2) {
            return Ok(());
        }
        for run in &of_topic[..of_topic.len() - keep] {
            self.prepared.remove(run);
            self.committed.remove(run);
        }
        let mut content = Vec::new();
        for record in self.prepared.values() {
            let run = record.run;
            let prepared = Line::Prepared(Box::new(record.clone()));
            let committed = self.committed.get(&run);
            let committed = committed.map(|version| Line::Committed {
                run,
                version: *version,
            });
            for line in std::iter::once(prepared).chain(committed) {
                serde_json::to_writer(&mut content, &line)
                    .map_err(|error| IngestError::io_at("writing", &self.path, error.into()))?;
                content.push(b'\n');
            }
        }
        store::replace(&self.path, &content)?;
        self.whole = content.len() as u64;
        Ok(())
    }

    fn append(&mut self, line: &Line, durably: bool) -> Result<()> {
        let path = &self.path;
        let failed = |error: io::Error| IngestError::io_at("writing", path, error);
        let mut text = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        if let Some(dir) = path.parent() {
            store::make_dir(dir)?;
        }
        let whole = self.whole;
        let write = || -> io::Result<()> {
            let is_new = !path.exists();
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)?;
            if file.metadata()?.len() != whole {
                file.set_len(whole)?;
            }
            file.write_all(&text)?;
            if durably {
                file.sync_all()?;
            }
            if is_new {
                durable::sync_parent(path)
            } else {
                Ok(())
            }
        };
        write().map_err(failed)?;
        self.whole += text.len() as u64;
        Ok(())
    }
}
