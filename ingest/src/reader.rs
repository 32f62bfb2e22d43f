//! From the bytes of one source to checked chunks: cutting, decoding, taking apart, checking.

use std::{
    io::{self, Read},
    sync::Arc,
};

use qihui_catalog::FeedFormat;
use ring::digest::{SHA256, digest};

use crate::{
    IngestError,
    checkpoint::Position,
    chunk::{Chunk, Gatherer, Rejected, RowAt},
    error::{HeaderFault, Result},
    fields::{self, CsvFields, Fields, JsonFields},
    frame::{Frame, Framer},
    limits::Limits,
    plan::{Plan, QUOTE},
    reason::{Problem, Reason},
    source::Source,
    text::TextDecoder,
};

const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";
const GB18030_MARK: &[u8] = b"\x84\x31\x95\x33";
const UTF16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];

/// Reads the records of one source, chunk by chunk.
pub(crate) struct ChunkReader<R> {
    source: Arc<Source>,
    framer: Framer<R>,
    decoder: TextDecoder,
    splitter: Splitter,
    fields: Fields,
    gatherer: Gatherer,
    limits: Limits,
}

enum Splitter {
    Csv(CsvFields),
    Json(JsonFields),
}

impl Splitter {
    fn split(&mut self, record: &str, fields: &mut Fields) -> Result<(), Reason> {
        match self {
            Self::Csv(csv) => csv.split(record, fields),
            Self::Json(json) => json.split(record, fields),
        }
    }
}

/// Opens `source` for reading from `from` on, or from its first record.
pub(crate) fn open(
    source: &Arc<Source>,
    plan: &Arc<Plan>,
    from: Option<Position>,
    limits: &Limits,
) -> Result<ChunkReader<Box<dyn Read + Send>>> {
    let read = |offset| -> Result<Box<dyn Read + Send>> { Ok(Box::new(source.reader(offset)?)) };
    let mut decoder = TextDecoder::new(plan.feed.encoding);
    let mut framer = Framer::new(read(0)?, Position::START, plan.quoting(), limits);
    let failed = |error| IngestError::io(format!("reading `{}`", source.name), error);
    pass_mark(&mut framer, plan, &source.name)?;
    let splitter = match plan.feed.format {
        FeedFormat::JsonLines => Splitter::Json(plan.bind_keys(limits)),
        FeedFormat::Csv => {
            let frame = framer
                .next()
                .map_err(failed)?
                .ok_or_else(|| IngestError::EmptyFile {
                    file: source.name.clone(),
                    feed: plan.feed.name.to_string(),
                })?;
            if decoder.needs_evidence(framer.bytes(&frame)) {
                decoder.learn(source.evidence()?);
            }
            let csv =
                bind_header(&framer, &frame, &mut decoder, plan, limits).map_err(|fault| {
                    IngestError::BadHeader {
                        file: source.name.clone(),
                        feed: plan.feed.name.to_string(),
                        fault,
                    }
                })?;
            framer.start_records();
            Splitter::Csv(csv)
        }
    };
    if let Some(from) = from {
        framer = Framer::new(read(from.offset)?, from, plan.quoting(), limits);
    }
    // What comes before the first record is part of no run.
    framer.position().map_err(failed)?;
    framer.take_hash();
    Ok(ChunkReader {
        source: Arc::clone(source),
        framer,
        decoder,
        splitter,
        fields: Fields::default(),
        gatherer: Gatherer::new(Arc::clone(plan)),
        limits: *limits,
    })
}

/// Passes over an encoding mark; one that contradicts the feed fails the file.
fn pass_mark<R: Read>(framer: &mut Framer<R>, plan: &Plan, file: &str) -> Result<()> {
    use qihui_catalog::Encoding;
    let failed = |error| IngestError::io(format!("reading `{file}`"), error);
    let unexpected = |found| IngestError::UnexpectedEncoding {
        file: file.to_owned(),
        feed: plan.feed.name.to_string(),
        found,
        expected: match plan.feed.encoding {
            Encoding::Detect => "UTF-8 or GB18030",
            Encoding::Utf8 => "UTF-8",
            Encoding::Gb18030 => "GB18030",
        },
    };
    for mark in UTF16_MARKS {
        if framer.starts_with(mark).map_err(failed)? {
            return Err(unexpected("UTF-16"));
        }
    }
    for (mark, name, other) in [
        (UTF8_MARK, "UTF-8", Encoding::Gb18030),
        (GB18030_MARK, "GB18030", Encoding::Utf8),
    ] {
        if framer.skip_mark(mark).map_err(failed)? {
            return if plan.feed.encoding == other {
                Err(unexpected(name))
            } else {
                Ok(())
            };
        }
    }
    Ok(())
}

fn bind_header<R: Read>(
    framer: &Framer<R>,
    frame: &Frame,
    decoder: &mut TextDecoder,
    plan: &Plan,
    limits: &Limits,
) -> Result<CsvFields, HeaderFault> {
    let unreadable = |reason: Reason| HeaderFault::Unreadable(reason.as_str());
    if let Some(fault) = frame.fault {
        return Err(unreadable(fault));
    }
    let line = decoder.decode(framer.bytes(frame)).map_err(unreadable)?;
    let names =
        fields::header(line, plan.feed.delimiter, QUOTE, limits).map_err(
            |reason| match reason {
                Reason::FieldCount => HeaderFault::TooManyColumns {
                    found: limits.columns + 1,
                    limit: limits.columns,
                },
                other => unreadable(other),
            },
        )?;
    plan.bind_header(&names, limits)
}

impl<R: Read> ChunkReader<R> {
    /// Where the next record starts.
    pub fn position(&mut self) -> Result<Position> {
        let position = self.framer.position();
        position.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> IngestError {
        IngestError::io(format!("reading `{}`", self.source.name), error)
    }

    /// The next chunk, or none at the end. `seen` is told now and then how far reading has come.
    pub fn next_chunk(&mut self, seen: &mut dyn FnMut(Position)) -> Result<Option<Chunk>> {
        let from = self.position()?;
        let mut to = from;
        let mut rejected = Vec::new();
        while to.record - from.record < self.limits.chunk_rows as u64
            && to.offset - from.offset < self.limits.chunk_bytes as u64
        {
            if let Some(reject) = match self.next_record()? {
                None => break,
                Some(taken) => taken.err(),
            } {
                rejected.push(reject);
            }
            to = self.position()?;
            if to.record % 4096 == 0 {
                seen(to);
            }
        }
        if to.record == from.record {
            return Ok(None);
        }
        let mut input_hash = [0; 32];
        input_hash.copy_from_slice(self.framer.take_hash().as_ref());
        Ok(Some(Chunk {
            from,
            to,
            rows: self.gatherer.finish(),
            rejected,
            input_hash,
        }))
    }

    fn next_record(&mut self) -> Result<Option<Result<(), Rejected>>> {
        let frame = self.framer.next();
        let Some(frame) = frame.map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        if self.decoder.needs_evidence(self.framer.bytes(&frame)) {
            self.decoder.learn(self.source.evidence()?);
        }
        let kept_bytes = self.limits.kept_bytes;
        let taken = self.take(&frame);
        Ok(Some(taken.map_err(|problems| {
            reject(&frame, self.framer.bytes(&frame), problems, kept_bytes)
        })))
    }

    fn take(&mut self, frame: &Frame) -> Result<(), Vec<Problem>> {
        let whole = |code| vec![Problem { code, column: None }];
        if let Some(fault) = frame.fault {
            return Err(whole(fault));
        }
        let text = self
            .decoder
            .decode(self.framer.bytes(frame))
            .map_err(whole)?;
        self.splitter.split(text, &mut self.fields).map_err(whole)?;
        // INVARIANT: a record without fault is no longer than `record_bytes`, far below 4 GiB.
        let length = u32::try_from(frame.length).unwrap_or(u32::MAX);
        let at = RowAt {
            offset: frame.at.offset,
            line: frame.at.line,
            length,
        };
        self.gatherer.take(text, &self.fields, at)
    }
}

fn reject(frame: &Frame, raw: &[u8], problems: Vec<Problem>, kept_bytes: usize) -> Rejected {
    let sha256 = frame.sha256.unwrap_or_else(|| hash(raw));
    Rejected {
        offset: frame.at.offset,
        line: frame.at.line,
        length: frame.length,
        sha256,
        problems,
        kept: raw[..raw.len().min(kept_bytes)].to_vec(),
    }
}

/// A row that was good by itself, but not in its table.
pub(crate) fn reject_row(
    source: &Source,
    row: RowAt,
    problem: Problem,
    kept_bytes: usize,
) -> Result<Rejected> {
    let raw = source.read_at(row.offset, row.length as usize)?;
    Ok(Rejected {
        offset: row.offset,
        line: row.line,
        length: row.length.into(),
        sha256: hash(&raw),
        problems: vec![problem],
        kept: raw[..raw.len().min(kept_bytes)].to_vec(),
    })
}

/// A record whose bytes are at hand.
pub(crate) fn reject_bytes(
    offset: u64,
    raw: &[u8],
    problems: Vec<Problem>,
    kept_bytes: usize,
) -> Rejected {
    Rejected {
        offset,
        line: offset,
        length: raw.len() as u64,
        sha256: hash(raw),
        problems,
        kept: raw[..raw.len().min(kept_bytes)].to_vec(),
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sha256
}
