//! Records that could not be landed, kept until their owner has corrected them.
//!
//! Promises: an entry is durable before the commit of the run that made it (ING-1); running the same source again
//! writes the same entries, because an entry is identified by the hash of its source and its offset in it (ING-2);
//! a record that a later run of the same source lands leaves the quarantine after that run's commit.
//!
//! Format: `quarantine/<feed>/<SHA-256 of the source>/<from>-<to>.jsonl`, one file per chunk of a source (offsets in
//! 16 hexadecimal digits), replaced as a whole; one JSON object a line, ordered by offset. `raw` is the record in
//! base64, or its first `kept_bytes` when `length` says that it was longer; of the head that a line of a message comes
//! with, no more than 8 KiB. `sha256` is always of the whole record. One entry is in memory at a time.
//!
//! **Personal columns.** Columns of level L4 are dropped before anything lands. A quarantined record is the exception:
//! whoever has to correct it must be able to tell which bytes were sent, and bytes that could not be taken apart
//! cannot have columns cut out of them. That is why these files are readable by the hub's own user alone (0600, in
//! folders 0700), why nothing but [`Quarantine::raw`] returns the bytes, and why no log, report or error does.

use std::{
    collections::HashSet,
    fs,
    io::{self, BufRead, BufReader, Write},
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
        let entries = files.into_iter().flat_map(|(source, path)| {
            let entries: Box<dyn Iterator<Item = Result<QuarantineEntry>>> = match lines(&path) {
                Ok(lines) => Box::new(lines.map(move |line| line?.parse(&path))),
                Err(error) => Box::new(std::iter::once(Err(error))),
            };
            entries.map(move |entry| (source.clone(), entry))
        });
        Ok(entries.filter_map(move |(source, entry)| {
            if seen.0 != source {
                seen = (source, HashSet::new());
            }
            match entry {
                Ok(entry) if !seen.1.insert(entry.offset) => None,
                entry => Some(entry),
            }
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
                for text in lines(&path)? {
                    let text = text?;
                    let line: Line = text.parse(&path)?;
                    if line.entry.id == id {
                        let bytes = BASE64.decode(&line.raw);
                        let broken = |_| damaged(&path, text.number, "`raw` is not base64");
                        return bytes.map(Some).map_err(broken);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Makes the entries of one chunk durable. Entries of an earlier run of the chunk stay beside them until
    /// [`Quarantine::settle`], so that a record is never in neither place.
    pub(crate) fn persist(&self, origin: &Origin, rejected: &[&Rejected]) -> Result<()> {
        let path = self.path(origin);
        let mut earlier = None;
        if path.exists() {
            earlier = Some(lines(&path)?);
        } else if rejected.is_empty() {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            store::make_dir(dir)?;
        }
        let mut rejected = rejected.to_vec();
        rejected.sort_by_key(|rejected| rejected.offset);
        let mut rejected = rejected.into_iter().peekable();
        let failed = |error| IngestError::io_at("writing", &path, error);
        let new = |out: &mut dyn Write, rejected: &Rejected| -> Result<()> {
            serde_json::to_writer(&mut *out, &line(origin, rejected))
                .map_err(|error| failed(error.into()))?;
            out.write_all(b"\n").map_err(failed)
        };
        store::replace_with(&path, |out| {
            for text in earlier.into_iter().flatten() {
                let text = text?;
                while let Some(before) = rejected.next_if(|r| r.offset < text.head.offset) {
                    new(out, before)?;
                }
                if rejected.peek().is_none_or(|r| r.offset > text.head.offset) {
                    text.write(out).map_err(failed)?;
                }
            }
            rejected.try_for_each(|rejected| new(out, rejected))
        })
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
            keep(&dir.join(&name), |head| {
                let inside = (origin.from.offset..origin.to.offset).contains(&head.offset);
                head.run == origin.run || !inside
            })?;
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
            keep(&dir.join(&name), |head| head.offset < origin.from.offset)?;
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

/// What is looked at of an entry without reading all of it.
#[derive(Debug, Deserialize)]
struct Head {
    v: u8,
    run: i64,
    offset: u64,
}

/// A line of a file, as it stands there.
struct TextLine {
    number: usize,
    text: String,
    head: Head,
}

impl TextLine {
    fn parse<'a, T: Deserialize<'a>>(&'a self, path: &Path) -> Result<T> {
        serde_json::from_str(&self.text).map_err(|_| damaged(path, self.number, NO_ENTRY))
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.text.as_bytes())?;
        out.write_all(b"\n")
    }
}

const NO_ENTRY: &str = "it is not an entry of a quarantine";

/// The lines of a file, one in memory at a time.
fn lines(path: &Path) -> Result<impl Iterator<Item = Result<TextLine>> + use<>> {
    let path = path.to_owned();
    let file =
        fs::File::open(&path).map_err(|error| IngestError::io_at("reading", &path, error))?;
    let lines = (1..).zip(BufReader::new(file).lines());
    Ok(lines.map(move |(number, text)| {
        let text = text.map_err(|error| IngestError::io_at("reading", &path, error))?;
        let head: Head =
            serde_json::from_str(&text).map_err(|_| damaged(&path, number, NO_ENTRY))?;
        if head.v != FORMAT {
            let fault = "it was written by another version of this program";
            return Err(damaged(&path, number, fault));
        }
        Ok(TextLine { number, text, head })
    }))
}

/// Drops the entries of a file that do not stay, and the file with the last of them.
fn keep(path: &Path, stays: impl Fn(&Head) -> bool) -> Result<()> {
    let (mut kept, mut dropped) = (0_u64, 0_u64);
    for line in lines(path)? {
        *if stays(&line?.head) {
            &mut kept
        } else {
            &mut dropped
        } += 1;
    }
    if kept == 0 {
        return store::remove(path);
    }
    if dropped == 0 {
        return Ok(());
    }
    let rest = lines(path)?;
    store::replace_with(path, |out| {
        for line in rest {
            let line = line?;
            if stays(&line.head) {
                let written = line.write(out);
                written.map_err(|error| IngestError::io_at("writing", path, error))?;
            }
        }
        Ok(())
    })
}

fn damaged(path: &Path, line: usize, fault: &str) -> IngestError {
    IngestError::CorruptState {
        path: path.to_owned(),
        line,
        fault: fault.to_owned(),
    }
}
