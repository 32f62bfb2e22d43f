//! The tamper-evident log: an append-only record that proves what it holds.
//!
//! An entry is a public **leaf** (type, time, hash of the leaf before, commitment to the body), an encrypted
//! **body**, and encrypted **subjects**: the numbers it touches. Leaves form a hash chain and an RFC 6962 Merkle
//! tree; every group commit ends with a signed tree head. The log knows nothing of what its entries mean.
//!
//! Promises; each has tests that carry its number:
//! - **AUD-1 durable.** A [`Receipt`] is given only after the entry's bytes were fsynced ([`AuditLog::append`]).
//! - **AUD-2 append-only.** Any edit, deletion, reordering or truncation of what is on disk is found by [`verify()`],
//!   and where the one who did it holds the log's keys, against a checkpoint kept elsewhere.
//! - **AUD-4 yours.** The entries that touch a number are found, all of them and no others ([`AuditLog::entries_touching`]);
//!   [`verify()`] derives these lists anew from all entries.
//! - **AUD-5 never lost.** A writer that is killed, or whose disk fails or fills up, loses no entry for which it gave a
//!   receipt; what it was about to write is there whole or not at all.
//!
//! Where to read on: [`mod@format`] says what is on disk, byte by byte; [`leaf`] what the tree is made of;
//! [`sequencer`] how writers are served; [`recovery`] what opening does; [`mod@derived`] how tiles come about;
//! [`mod@verify`] what is checked and what cannot be known.
//!
//! Architecture Invariant: the journal alone is the record. Everything else in the directory is a function of it and
//! of the signing key, and can be deleted while the log is closed; it is built again.
//!
//! Architecture Invariant: one thread writes, and readers see only what is durable.
//!
//! Architecture Invariant: no error, log line or public leaf carries content of a body or a subject number.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

mod clock;
pub mod derived;
mod error;
mod faults;
pub mod format;
#[cfg(test)]
mod golden;
mod journal;
mod keys;
pub mod leaf;
mod log;
mod merkle;
mod note;
mod proof;
mod read;
pub mod recovery;
mod seal;
pub mod sequencer;
mod subjects;
mod tiles;
pub mod verify;
mod writer;

pub use clock::{CLOCK_TOLERANCE_MS, Clock, SystemClock};
pub use error::{Finding, LogError, Result, Tampering, VerifyError};
#[doc(hidden)]
pub use faults::{Fault, Faults};
pub use format::{MAX_BODY_BYTES, MAX_SUBJECTS_BYTES};
pub use keys::{BODY_KEY_FILE, LogKeys, SIGNING_KEY_FILE, VerifyKeys};
pub use leaf::{Leaf, MAX_KIND_BYTES, MAX_LEAF_BYTES};
pub use log::{AuditLog, Checkpoint, LogOptions};
pub use merkle::{Hash, leaf_hash};
pub use proof::{check_consistency, check_inclusion};
pub use read::{Scan, StoredEntry, body_commitment};
pub use sequencer::{Entry, MAX_APPEND_BYTES, Pending, Receipt};
pub use subjects::Subjects;
pub use verify::{Verified, verify};
