//! Records that could not be landed, kept until their owner has corrected them.
//!
//! Promises: an entry is durable before the commit of the run that made it (ING-1); running the same source again
//! writes the same entries, because an entry is identified by the hash of its source and its offset in it (ING-2);
//! a record that a later run of the same source lands leaves the quarantine after that run's commit.
//!
//! Format: `quarantine/<feed>/<SHA-256 of the source>/<from>-<to>.jsonl`, one file per chunk of a source (offsets in
//! 16 hexadecimal digits), replaced as a whole; one JSON object a line, ordered by offset. `raw` is the record in
//! base64, or its first `kept_bytes` when `length` says that it was longer; `sha256` is always of the whole record.
//!
//! **Personal columns.** Columns of level L4 are dropped before anything lands. A quarantined record is the exception:
//! whoever has to correct it must be able to tell which bytes were sent, and bytes that could not be taken apart
//! cannot have columns cut out of them. That is why these files are readable by the hub's own user alone (0600, in
//! folders 0700), why nothing but [`Quarantine::raw`] returns the bytes, and why no log, report or error does.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use qihui_catalog::FeedName;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::Position,
    chunk::Rejected,
    error::{IngestError, Result},
    reason::Problem,
    store,
};

/// The version of the entries' format.
const FORMAT: u8 = 1;

/// A quarantined record, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineEntry {
    /// The version of the format.
    pub v: u8,
    /// Identifies the record: the same source and offset give the same id.
    pub id: String,
    /// The file it came in; for a message `kafka:`, the topic, a slash and the partition.
    pub source: String,
    /// SHA-256 of that file; for a message, of what identifies this reading of its partition.
    pub source_sha256: String,
    /// The sheet of a workbook or the document of an archive that it stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The run that read it last.
    pub run: i64,
    /// The line of the file, document or sheet it starts on, from 1; for a message of a topic its offset.
    pub line: u64,
    /// Where it starts, in bytes; in what an archive or a workbook unpacks to. For a message of a topic its offset.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// What is wrong with it; the first is its reason in counts.
    pub problems: Vec<Problem>,
}

/// An entry with its bytes: a line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    entry: QuarantineEntry,
    raw: String,
}

/// What a batch of entries belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub feed: FeedName,
    pub source: String,
    pub sha256: [u8; 32],
    pub run: i64,
    pub from: Position,
    pub to: Position,
}

/// The quarantine of a hub.
#[derive(Debug, Clone)]
pub struct Quarantine {
    dir: PathBuf,
}

impl Quarantine {
    /// The quarantine below the state folder of a hub.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("quarantine"),
        }
    }

    /// Every entry of `feed`, source by source, in the order of the sources' lines.
    pub fn entries(
        &self,
        feed: &FeedName,
    ) -> Result<impl Iterator<Item = Result<QuarantineEntry>> + use<>> {
        let dir = self.dir.join(feed.as_str());
        let mut files = Vec::new();
        for source in names(&dir)? {
            for file in names(&dir.join(&source))?
                .into_iter()
                .filter(|name| name.ends_with(".jsonl"))
            {
                files.push((source.clone(), dir.join(&source).join(file)));
            }
        }
        let mut seen: (String, HashSet<u64>) = Default::default();
        Ok(files.into_iter().flat_map(move |(source, path)| {
            if seen.0 != source {
                seen = (source, HashSet::new());
            }
            let lines = read(&path);
            let entries: Vec<Result<QuarantineEntry>> = match lines {
                Ok(lines) => lines
                    .into_values()
                    .filter(|line| seen.1.insert(line.entry.offset))
                    .map(|l| Ok(l.entry))
                    .collect(),
                Err(error) => vec![Err(error)],
            };
            entries
        }))
    }

    /// The bytes of the entry `id` of `feed`, as far as they were kept.
    pub fn raw(&self, feed: &FeedName, id: &str) -> Result<Option<Vec<u8>>> {
        let dir = self.dir.join(feed.as_str());
        for source in names(&dir)? {
            for file in names(&dir.join(&source))?
                .into_iter()
                .filter(|name| name.ends_with(".jsonl"))
            {
                let path = dir.join(&source).join(file);
                if let Some(line) = read(&path)?.into_values().find(|line| line.entry.id == id) {
                    let bytes = BASE64
                        .decode(&line.raw)
                        .map_err(|_| damaged(&path, 0, "`raw` is not base64"))?;
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(None)
    }

    /// Makes the entries of one chunk durable. Entries of an earlier run of the chunk stay beside them until
    /// [`Quarantine::settle`], so that a record is never in neither place.
    pub(crate) fn persist(&self, origin: &Origin, rejected: &[&Rejected]) -> Result<()> {
        let path = self.path(origin);
        let earlier = if path.exists() {
            read(&path)?
        } else {
            BTreeMap::new()
        };
        if rejected.is_empty() && earlier.is_empty() {
            return Ok(());
        }
        let mut lines = earlier;
        lines.extend(
            rejected
                .iter()
                .map(|rejected| (rejected.offset, line(origin, rejected))),
        );
        if let Some(dir) = path.parent() {
            store::make_dir(dir)?;
        }
        write(&path, lines.values())
    }

    /// After the commit of a run: drops the entries of earlier runs over the same part of the source, whose records
    /// this run has landed.
    pub(crate) fn settle(&self, origin: &Origin) -> Result<()> {
        let dir = self.source_dir(origin);
        for name in names(&dir)? {
            let Some((from, to)) = bounds(&name) else {
                continue;
            };
            if to <= origin.from.offset || from >= origin.to.offset {
                continue;
            }
            let path = dir.join(&name);
            let lines = read(&path)?;
            let stays = |line: &Line| {
                let inside = (origin.from.offset..origin.to.offset).contains(&line.entry.offset);
                line.entry.run == origin.run || !inside
            };
            let kept: Vec<&Line> = lines.values().filter(|line| stays(line)).collect();
            if kept.is_empty() {
                store::remove(&path)?;
            } else if kept.len() < lines.len() {
                write(&path, kept.into_iter())?;
            }
        }
        Ok(())
    }

    /// Drops what stands in quarantine from `origin.from` on, whichever run put it there: that part of the source was
    /// never committed and will be read again.
    pub(crate) fn forget_from(&self, origin: &Origin) -> Result<()> {
        let dir = self.source_dir(origin);
        for name in names(&dir)? {
            if bounds(&name).is_none_or(|(_, to)| to <= origin.from.offset) {
                continue;
            }
            let path = dir.join(&name);
            let lines = read(&path)?;
            let kept: Vec<&Line> = lines.range(..origin.from.offset).map(|(_, l)| l).collect();
            if kept.is_empty() {
                store::remove(&path)?;
            } else if kept.len() < lines.len() {
                write(&path, kept.into_iter())?;
            }
        }
        Ok(())
    }

    fn source_dir(&self, origin: &Origin) -> PathBuf {
        self.dir
            .join(origin.feed.as_str())
            .join(hex::encode(origin.sha256))
    }

    fn path(&self, origin: &Origin) -> PathBuf {
        self.source_dir(origin).join(format!(
            "{:016x}-{:016x}.jsonl",
            origin.from.offset, origin.to.offset
        ))
    }
}

/// The id of the record at `offset` of the source with hash `source`.
fn id(source: &[u8; 32], offset: u64) -> String {
    let mut bytes = [0; 40];
    bytes[..32].copy_from_slice(source);
    bytes[32..].copy_from_slice(&offset.to_be_bytes());
    hex::encode(&digest(&SHA256, &bytes).as_ref()[..16])
}

fn line(origin: &Origin, rejected: &Rejected) -> Line {
    Line {
        entry: QuarantineEntry {
            v: FORMAT,
            id: id(&origin.sha256, rejected.offset),
            source: origin.source.clone(),
            source_sha256: hex::encode(origin.sha256),
            part: rejected.part.as_deref().map(str::to_owned),
            run: origin.run,
            line: rejected.line,
            offset: rejected.offset,
            length: rejected.length,
            sha256: hex::encode(rejected.sha256),
            problems: rejected.problems.clone(),
        },
        raw: BASE64.encode(&rejected.kept),
    }
}

fn bounds(name: &str) -> Option<(u64, u64)> {
    let (from, to) = name.strip_suffix(".jsonl")?.split_once('-')?;
    Some((
        u64::from_str_radix(from, 16).ok()?,
        u64::from_str_radix(to, 16).ok()?,
    ))
}

/// The names in a folder, sorted; none when there is no such folder.
fn names(dir: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| IngestError::io_at("listing", dir, error)),
    }
}

fn read(path: &Path) -> Result<BTreeMap<u64, Line>> {
    let file = fs::File::open(path).map_err(|error| IngestError::io_at("reading", path, error))?;
    let mut lines = BTreeMap::new();
    for (number, text) in (1..).zip(BufReader::new(file).lines()) {
        let text = text.map_err(|error| IngestError::io_at("reading", path, error))?;
        let line: Line = serde_json::from_str(&text)
            .map_err(|_| damaged(path, number, "it is not an entry of a quarantine"))?;
        if line.entry.v != FORMAT {
            return Err(damaged(
                path,
                number,
                "it was written by another version of this program",
            ));
        }
        lines.insert(line.entry.offset, line);
    }
    Ok(lines)
}

fn write<'a>(path: &Path, lines: impl Iterator<Item = &'a Line>) -> Result<()> {
    let mut content = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut content, line)
            .map_err(|error| IngestError::io_at("writing", path, error.into()))?;
        content.push(b'\n');
    }
    store::replace(path, &content)
}

fn damaged(path: &Path, line: usize, fault: &str) -> IngestError {
    IngestError::CorruptState {
        path: path.to_owned(),
        line,
        fault: fault.to_owned(),
    }
}
