//! The forms in which an answer leaves the hub: table, CSV, NDJSON, Parquet, Arrow IPC.
//!
//! A writer hands its bytes on batch by batch, so that the release point can hash and count what really leaves.

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use arrow::json::LineDelimitedWriter;
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches_with_schema;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;

use crate::error::QueryError;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For the eye.
    Table,
    /// Comma-separated, with a header line.
    Csv,
    /// One JSON object per line.
    Ndjson,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

impl Format {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            Self::Table,
            Self::Csv,
            Self::Ndjson,
            Self::Parquet,
            Self::Arrow,
        ]
        .into_iter()
        .find(|format| format.as_str() == text)
        .ok_or_else(|| {
            format!("`{text}` is not a format: use table, csv, ndjson, parquet or arrow")
        })
    }
}

/// Bytes that a writer has produced and nobody has taken yet.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<Vec<u8>>>);

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Writer {
    Table(SchemaRef, Vec<RecordBatch>),
    Csv(Box<arrow::csv::Writer<Pending>>),
    Ndjson(LineDelimitedWriter<Pending>),
    Parquet(Box<ArrowWriter<Pending>>),
    Arrow(Box<StreamWriter<Pending>>),
}

/// Turns batches into the bytes of one format.
pub struct Encoder {
    writer: Writer,
    pending: Pending,
}

fn output(error: impl std::fmt::Display) -> QueryError {
    QueryError::Output {
        message: error.to_string(),
    }
}

impl Encoder {
    /// An encoder for rows of `schema`.
    ///
    /// # Errors
    /// When the format cannot hold the schema.
    pub fn new(format: Format, schema: &SchemaRef) -> Result<Self, QueryError> {
        let pending = Pending::default();
        let out = pending.clone();
        let writer = match format {
            Format::Table => Writer::Table(Arc::clone(schema), Vec::new()),
            Format::Csv => {
                let mut csv = CsvBuilder::new().with_header(true).build(out);
                csv.write(&RecordBatch::new_empty(Arc::clone(schema)))
                    .map_err(output)?;
                Writer::Csv(Box::new(csv))
            }
            Format::Ndjson => Writer::Ndjson(LineDelimitedWriter::new(out)),
            Format::Parquet => Writer::Parquet(Box::new(
                ArrowWriter::try_new(out, Arc::clone(schema), None).map_err(output)?,
            )),
            Format::Arrow => Writer::Arrow(Box::new(
                StreamWriter::try_new(out, schema).map_err(output)?,
            )),
        };
        Ok(Self { writer, pending })
    }

    /// Takes a batch and gives the bytes that are ready.
    ///
    /// # Errors
    /// When the format cannot hold a value.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, QueryError> {
        match &mut self.writer {
            Writer::Table(_, batches) => batches.push(batch.clone()),
            Writer::Csv(writer) => writer.write(batch).map_err(output)?,
            Writer::Ndjson(writer) => writer.write(batch).map_err(output)?,
            Writer::Parquet(writer) => writer.write(batch).map_err(output)?,
            Writer::Arrow(writer) => writer.write(batch).map_err(output)?,
        }
        Ok(self.take())
    }

    /// Ends the answer and gives the last bytes.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub fn finish(mut self) -> Result<Vec<u8>, QueryError> {
        match &mut self.writer {
            Writer::Table(schema, batches) => {
                let table = pretty_format_batches_with_schema(Arc::clone(schema), batches)
                    .map_err(output)?;
                writeln!(self.pending, "{table}").map_err(output)?;
            }
            Writer::Csv(_) => {}
            Writer::Ndjson(writer) => writer.finish().map_err(output)?,
            Writer::Parquet(writer) => {
                writer.finish().map_err(output)?;
            }
            Writer::Arrow(writer) => writer.finish().map_err(output)?,
        }
        Ok(self.take())
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.pending.0.lock())
    }
}
