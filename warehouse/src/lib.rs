//! The warehouse: one Delta Lake table per dataset, sorted by enterprise.
//!
//! Promises:
//! - **Landing is idempotent and ordered.** A table is a function of the set of record versions that were landed, not
//!   of their order or repetition: the greatest version of each record wins, where versions are ordered by sequence,
//!   then retraction over record, then content hash ([`Table::classify`]).
//! - **A chunk is visible whole or not at all**, and durable when [`Table::commit`] returns ([`DurableStore`]).
//! - **Rows lie sorted by (`_no`, event date)** in every file, and a presence bitmap of the enterprises in it stands
//!   beside every file ([`Warehouse::presence`]).
//!
//! Limits: one process owns a warehouse (it holds the lock of the data directory); several tasks of it may land into
//! the same table, and the second to commit classifies again. Tables hold no floats, no nested columns.
//!
//! On disk, under the root: `<dataset>/_delta_log/` (the transaction log, Delta protocol 1/7 with the change feed),
//! `<dataset>/_state=live/[_period=…/]part-….parquet`, `<dataset>/_state=retracted/…` (tombstones),
//! `<dataset>/_change_data/…`, `<dataset>/_qihui/part-….idx` (sidecars, format in `sidecar.rs`).

mod canonical;
mod changes;
mod classify;
mod datafile;
mod erase;
mod error;
mod index;
mod kept;
mod landing;
mod layout;
mod log;
mod maintain;
mod merge;
mod sidecar;
mod store;
mod table;
mod warehouse;

pub use changes::RunCommit;
pub use classify::{Classified, Incoming, MAX_CHUNK_ROWS, Outcome, OutcomeCounts};
pub use erase::Erasure;
pub use error::{CommitError, LandError, WarehouseError};
#[doc(hidden)]
pub use layout::Limits;
pub use layout::{
    LIVE, NO_COLUMN, PERIOD_COLUMN, RETRACTED, STATE_COLUMN, arrow_type, incoming_schema,
};
pub use maintain::{Compaction, Vacuumed};
pub use store::DurableStore;
#[doc(hidden)]
pub use store::{Observer, Step};
pub use table::{CommitReceipt, Landed, RunInfo, Table};
pub use warehouse::{DataFile, Snapshot, Warehouse};
