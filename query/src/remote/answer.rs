//! What a worker answers: rows as an Arrow stream, then, sealed, how it ended.
//!
//! Format, version 1: the line `qihui rows 1`, then frames of a letter, a length of four bytes (big-endian) and so many
//! bytes. `r`: the next part of an Arrow IPC stream; `e`, the last: the sealed end, JSON {message, outcome (`complete`
//! or the code of an error), sha256 (of the whole stream), report}. An answer without its end is none.

use std::io::Cursor;

use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::refused;
use super::report::Report;
use super::seal::{Kind, PlanKey};
use crate::error::QueryError;
use crate::formats::{Encoder, Format};

/// What an answer begins with.
pub const MAGIC: &[u8] = b"qihui rows 1\n";
const ROWS: u8 = b'r';
const END: u8 = b'e';
const COMPLETE: &str = "complete";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    message: String,
    outcome: String,
    sha256: String,
    report: Report,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The columns; none when it failed before they were known.
    pub schema: Option<SchemaRef>,
    /// The rows; none when it failed.
    pub batches: Vec<RecordBatch>,
    /// `complete`, or the code of the error that ended it.
    pub outcome: String,
    /// What passed the gates, whether it failed or not.
    pub report: Report,
}

impl Answer {
    /// Whether it is all of the answer.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.outcome == COMPLETE
    }
}

/// Writes an answer.
pub(crate) struct AnswerWriter<'o> {
    out: &'o mut (dyn AsyncWrite + Unpin + Send),
    encoder: Option<Encoder>,
    hash: Context,
}

fn output(error: &std::io::Error) -> QueryError {
    QueryError::Output {
        message: error.kind().to_string(),
    }
}

impl<'o> AnswerWriter<'o> {
    pub(crate) async fn new(
        out: &'o mut (dyn AsyncWrite + Unpin + Send),
    ) -> Result<Self, QueryError> {
        out.write_all(MAGIC).await.map_err(|error| output(&error))?;
        Ok(Self {
            out,
            encoder: None,
            hash: Context::new(&SHA256),
        })
    }

    pub(crate) fn begin(&mut self, schema: &SchemaRef) -> Result<(), QueryError> {
        self.encoder = Some(Encoder::new(Format::Arrow, schema)?);
        Ok(())
    }

    pub(crate) async fn batch(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        let bytes = encoder.batch(batch)?;
        self.rows(&bytes).await
    }

    async fn rows(&mut self, bytes: &[u8]) -> Result<(), QueryError> {
        self.hash.update(bytes);
        self.frame(ROWS, bytes).await
    }

    async fn frame(&mut self, kind: u8, bytes: &[u8]) -> Result<(), QueryError> {
        let length = u32::try_from(bytes.len()).map_err(|_| QueryError::Internal {
            what: "the length of a part of an answer",
        })?;
        let head = [[kind].as_slice(), &length.to_be_bytes()].concat();
        let written = async {
            self.out.write_all(&head).await?;
            self.out.write_all(bytes).await?;
            self.out.flush().await
        };
        written.await.map_err(|error| output(&error))
    }

    /// Ends the answer to a message.
    pub(crate) async fn end(
        mut self,
        message: &str,
        error: Option<&'static str>,
        report: Report,
        key: &PlanKey,
    ) -> Result<(), QueryError> {
        if let (None, Some(encoder)) = (error, self.encoder.take()) {
            let bytes = encoder.finish()?;
            self.rows(&bytes).await?;
        }
        let end = End {
            message: message.to_owned(),
            outcome: error.unwrap_or(COMPLETE).to_owned(),
            sha256: hex::encode(self.hash.clone().finish()),
            report,
        };
        let text = serde_json::to_vec(&end).map_err(|_| QueryError::Internal {
            what: "the form of an answer's end",
        })?;
        let sealed = key.seal(Kind::End, &text);
        self.frame(END, &sealed).await
    }
}

/// The answer to a message. Nothing of it is given out before its end was verified.
///
/// # Errors
/// [`QueryError::PlanRefused`] when it is cut off, was changed, or answers another message.
pub fn read_answer(bytes: &[u8], message: &str, key: &PlanKey) -> Result<Answer, QueryError> {
    let broken = || refused("the worker's answer is broken or cut off");
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(broken)?;
    let mut stream = Vec::new();
    let end = loop {
        let (kind, after) = rest.split_first().ok_or_else(broken)?;
        let (length, after) = after.split_first_chunk().ok_or_else(broken)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| broken())?;
        let (frame, after) = after.split_at_checked(length).ok_or_else(broken)?;
        match *kind {
            ROWS => stream.extend_from_slice(frame),
            END if after.is_empty() => break frame,
            _ => return Err(broken()),
        }
        rest = after;
    };
    let text = key.open(Kind::End, end).map_err(|_| broken())?;
    let end: End = serde_json::from_slice(text).map_err(|_| broken())?;
    let hash = ring::digest::digest(&SHA256, &stream);
    if end.message != message || end.sha256 != hex::encode(hash) {
        return Err(broken());
    }
    let mut answer = Answer {
        schema: None,
        batches: Vec::new(),
        outcome: end.outcome,
        report: end.report,
    };
    if answer.is_complete() {
        let reader = StreamReader::try_new(Cursor::new(stream), None).map_err(|_| broken())?;
        answer.schema = Some(reader.schema());
        answer.batches = reader.collect::<Result<_, _>>().map_err(|_| broken())?;
    }
    Ok(answer)
}
