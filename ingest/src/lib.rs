//! Feeds into the warehouse: decoders, validation, quarantine, checkpoints.
//!
//! Promises:
//! - **ING-1 nothing lost.** Each record ends as exactly one of landed (inserted or replaced), unchanged, superseded,
//!   retracted or quarantined; the counts of every run are checked before its commit.
//! - **ING-2 idempotent and ordered.** Repeated, or killed anywhere and resumed, a source leaves the same table; an
//!   old file run again undoes nothing. Quarantine and journal are durable before the commit that relies on them.
//! - **ING-3 bounded.** Records, fields, columns and chunks are capped ([`Limits`]); memory does not grow with the
//!   source.
//!
//! The way of a record: `source` (finds and opens files, follows no link; `archive` and `workbook` unpack what is
//! packed) → `frame` or `message` (cuts bytes into lines or messages) → `text` (decodes, never guesses a character) →
//! `fields` or `message_fields` (takes a record apart) → `chunk` and `value` (reads, checks and gathers values in Arrow
//! builders) → `numbers` (enterprise numbers) → [`Landing`] (classifies and commits). Messages of a topic (`kafka`) join
//! it at `fields`. The component specification is `docs/connectors.md`.
//!
//! No error, report, event or log line of this crate holds a value of a record; only [`Quarantine::raw`] does.

mod archive;
mod checkpoint;
mod chunk;
pub mod durable;
mod error;
mod events;
mod fields;
mod frame;
mod journal;
mod kafka;
mod land;
mod landing;
mod limits;
mod lines;
mod message;
mod message_fields;
mod messages;
mod numbers;
mod plan;
mod preview;
mod quarantine;
mod reader;
mod reason;
mod report;
mod run;
mod source;
mod spool;
mod store;
mod tally;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod workbook;
mod workbook_parts;
mod workbook_tags;
mod xml;

pub use checkpoint::{Checkpoint, Delta, DeltaError, PassId, Position};
pub use error::{HeaderFault, IngestError};
pub use kafka::{
    Difference, KafkaSettings, PartitionSpan, SpanError, Stop, TopicError, TopicOptions,
    TopicReport, run_topic,
};
pub use landing::{CommitFault, CommitInfo, Landing, LandingRows, Outcome, TableLanding};
pub use limits::Limits;
pub use preview::{Preview, PreviewClassified};
pub use quarantine::{Quarantine, QuarantineEntry};
pub use reason::{Problem, Reason};
pub use report::{
    CheckReport, Counts, FileReport, ProblemLine, ProblemReport, Progress, Quiet, ReasonCounts,
    RunFact, RunReport,
};
pub use run::{IngestContext, RunOptions, check_file, effective_runs, has_input, run_feed};
