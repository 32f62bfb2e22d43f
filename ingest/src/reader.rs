//! From the text of one source to checked chunks: cutting, decoding, taking apart, checking.
//!
//! [`Records`] is what forms of text differ in: lines (CSV, JSON, rows of workbooks) in [`crate::lines`], messages of
//! several records in [`crate::messages`]. What is common to them is here.

use std::{io, sync::Arc};

use qihui_catalog::FeedFormat;
use ring::digest::{Context, Digest, SHA256, digest};

use crate::{
    IngestError,
    checkpoint::Position,
    chunk::{Chunk, Gatherer, Rejected, RowAt},
    error::Result,
    limits::Limits,
    lines::LineRecords,
    messages::MessageRecords,
    plan::Plan,
    reason::{Problem, Reason},
    source::Source,
};

/// The records of a text, in order.
pub(crate) trait Records: Send {
    /// Where the next record starts, or the end of the text.
    fn position(&mut self) -> Result<Position>;

    /// Reads on by one record, or by all records of one message: good ones go to `gatherer`, others to `rejected`.
    /// Returns their [`weight`]; none at the end.
    fn next(
        &mut self,
        gatherer: &mut Gatherer,
        rejected: &mut Vec<Rejected>,
    ) -> Result<Option<u64>>;

    /// SHA-256 of everything passed since the last call.
    fn take_hash(&mut self) -> Digest;
}

/// Reads the records of one source, chunk by chunk.
pub(crate) struct ChunkReader {
    records: Box<dyn Records>,
    gatherer: Gatherer,
    limits: Limits,
}

/// Opens `source` for reading from `from` on, or from its first record.
pub(crate) fn open(
    source: &Arc<Source>,
    plan: &Arc<Plan>,
    from: Option<Position>,
    limits: &Limits,
) -> Result<ChunkReader> {
    let mut records: Box<dyn Records> = match plan.feed.format {
        FeedFormat::Csv | FeedFormat::JsonLines | FeedFormat::Xlsx => {
            Box::new(LineRecords::open(source, plan, from, limits)?)
        }
        FeedFormat::Xml => Box::new(MessageRecords::open(source, plan, from, limits)?),
    };
    // What comes before the first record is part of no run.
    records.position()?;
    records.take_hash();
    Ok(ChunkReader {
        records,
        gatherer: Gatherer::new(Arc::clone(plan)),
        limits: *limits,
    })
}

impl ChunkReader {
    /// Where the next record starts.
    pub fn position(&mut self) -> Result<Position> {
        self.records.position()
    }

    /// The next chunk, or none at the end. `seen` is told now and then how far reading has come.
    pub fn next_chunk(&mut self, seen: &mut dyn FnMut(Position)) -> Result<Option<Chunk>> {
        /// How often `seen` is told, in records.
        const OFTEN: u64 = 4096;
        let from = self.position()?;
        let mut to = from;
        let (mut rejected, mut weight) = (Vec::new(), 0);
        let most = self.limits.chunk_bytes as u64;
        while to.record - from.record < self.limits.chunk_rows as u64
            && to.offset - from.offset < most
            && weight < most
        {
            let before = to.record;
            let Some(more) = self.records.next(&mut self.gatherer, &mut rejected)? else {
                break;
            };
            weight += more;
            to = self.position()?;
            if to.record / OFTEN != before / OFTEN {
                seen(to);
            }
        }
        if to.record == from.record {
            return Ok(None);
        }
        let input_hash = bytes_of(self.records.take_hash());
        Ok(Some(Chunk {
            from,
            to,
            rows: self.gatherer.finish(),
            rejected,
            input_hash,
        }))
    }
}

/// Reading `source` failed.
pub(crate) fn failed(source: &Source, error: io::Error) -> IngestError {
    IngestError::io(format!("reading `{}`", source.name), error)
}

/// A thing wrong with a record as a whole.
pub(crate) fn whole(code: Reason) -> Vec<Problem> {
    vec![Problem { code, column: None }]
}

/// How much of the head that lines of a message share is kept with each of them, in bytes.
const KEPT_HEAD_BYTES: usize = 8 << 10;

/// What a record weighs in its chunk: the bytes that are kept of it if it cannot land, whether it can or not, so that
/// chunks end where they end whatever the table holds.
pub(crate) fn weight(head: usize, record: u64, kept_bytes: usize) -> u64 {
    let whole = record.saturating_add(head.min(KEPT_HEAD_BYTES) as u64);
    whole.min(kept_bytes as u64)
}

/// A record for quarantine: `record`, and what stands before it in its message.
pub(crate) fn reject(
    source: &Source,
    at: Position,
    (head, record): (&[u8], &[u8]),
    problems: Vec<Problem>,
    kept_bytes: usize,
) -> Rejected {
    let (part, line) = source.place(at.offset, at.line);
    let mut hash = Context::new(&SHA256);
    hash.update(head);
    hash.update(record);
    let mut kept = head[..head.len().min(KEPT_HEAD_BYTES).min(kept_bytes)].to_vec();
    kept.extend_from_slice(&record[..record.len().min(kept_bytes - kept.len())]);
    Rejected {
        offset: at.offset,
        part,
        line,
        length: (head.len() + record.len()) as u64,
        sha256: bytes_of(hash.finish()),
        problems,
        kept,
    }
}

/// A row that was good by itself, but not in its table.
pub(crate) fn reject_row(
    source: &Source,
    row: RowAt,
    problem: Problem,
    kept_bytes: usize,
) -> Result<Rejected> {
    let head = source.read_at(
        row.offset.saturating_sub(row.head_before.into()),
        row.head_length as usize,
    )?;
    let record = source.read_at(row.offset, row.length as usize)?;
    let at = Position {
        offset: row.offset,
        line: row.line,
        record: 0,
    };
    Ok(reject(
        source,
        at,
        (&head, &record),
        vec![problem],
        kept_bytes,
    ))
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
        part: None,
        line: offset,
        length: raw.len() as u64,
        sha256: bytes_of(digest(&SHA256, raw)),
        problems,
        kept: raw[..raw.len().min(kept_bytes)].to_vec(),
    }
}

fn bytes_of(digest: Digest) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.as_ref());
    sha256
}
