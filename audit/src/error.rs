//! What can go wrong, and what `verify` finds.
//!
//! Messages name files of the log, indices and sizes; never the content of an entry.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// A failure of the log. Cheap to clone: one failed group is reported to every writer in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The disk (or a quota, or a file-size limit) is full. Nothing of the group was kept; the log goes on once
    /// there is space again.
    #[error(
        "no space left for the audit log: nothing was recorded; free space on its disk and repeat"
    )]
    NoSpace,
    /// The operating system refused an operation.
    #[error("audit log: cannot {what} `{file}`: {source}")]
    Io {
        /// What was attempted, as a verb.
        what: &'static str,
        /// The file, relative to the log's directory where it is inside.
        file: String,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// The clock is behind the last entry by more than [`crate::CLOCK_TOLERANCE_MS`].
    #[error(
        "the clock was set back: it shows {now}, the last entry of the audit log is of {last}; set the clock right"
    )]
    ClockBack {
        /// What the clock shows, RFC 3339.
        now: String,
        /// Time of the last entry, RFC 3339.
        last: String,
    },
    /// An earlier write or fsync failed, or the log was closed: it takes no entries until it is opened again.
    #[error("the audit log takes no more entries ({why}); open it again")]
    Closed {
        /// Why.
        why: String,
    },
    /// What is on disk contradicts itself in a way no crash can cause.
    #[error(
        "the audit log is damaged at `{file}`, byte {offset}: {why}; run `audit verify` and restore the log"
    )]
    Corrupt {
        /// The file, relative to the log's directory.
        file: String,
        /// Offset in the file.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A key is missing, malformed or not the key of this log.
    #[error("audit log key: {why}")]
    Key {
        /// What is wrong and what to do.
        why: String,
    },
    /// Another process (or another handle of this one) has the log open.
    #[error(
        "the audit log in `{dir}` is open in another process; stop that process or ask it instead"
    )]
    Locked {
        /// The log's directory.
        dir: String,
    },
    /// There is no log in this directory.
    #[error("no audit log in `{dir}`; create one first")]
    NotFound {
        /// The log's directory.
        dir: String,
    },
    /// There is a log in this directory already.
    #[error("`{dir}` is not empty; an audit log is created in a new directory")]
    Exists {
        /// The log's directory.
        dir: String,
    },
    /// The entry breaks a limit or a rule of the log.
    #[error("the audit log refuses the entry: {why}")]
    Refused {
        /// Which limit or rule.
        why: String,
    },
    /// An index or a tree size the log does not have.
    #[error("the audit log has {size} entries; {asked} is outside")]
    OutOfRange {
        /// Entries in the log.
        size: u64,
        /// What was asked for.
        asked: u64,
    },
    /// A checkpoint that is not a signed note of this log.
    #[error("not a checkpoint of this log: {why}")]
    Checkpoint {
        /// What is wrong with it.
        why: String,
    },
}

impl LogError {
    /// Stable code; each has a page of documentation of this name.
    pub fn code(&self) -> &'static str {
        match self {
            LogError::NoSpace => "LogNoSpace",
            LogError::Io { .. } => "LogIo",
            LogError::ClockBack { .. } => "ClockBack",
            LogError::Closed { .. } => "LogClosed",
            LogError::Corrupt { .. } => "LogCorrupt",
            LogError::Key { .. } => "LogKey",
            LogError::Locked { .. } => "LogLocked",
            LogError::NotFound { .. } => "LogNotFound",
            LogError::Exists { .. } => "LogExists",
            LogError::Refused { .. } => "LogEntryRefused",
            LogError::OutOfRange { .. } => "LogOutOfRange",
            LogError::Checkpoint { .. } => "LogCheckpoint",
        }
    }

    /// `"denied"` when the log cannot record for now, so that nothing may be released; else `"failed"`.
    pub fn kind(&self) -> &'static str {
        match self {
            LogError::NoSpace
            | LogError::Io { .. }
            | LogError::ClockBack { .. }
            | LogError::Closed { .. }
            | LogError::Corrupt { .. }
            | LogError::Locked { .. } => "denied",
            _ => "failed",
        }
    }

    pub(crate) fn io(what: &'static str, file: &Path, source: io::Error) -> LogError {
        if is_full(&source) {
            return LogError::NoSpace;
        }
        LogError::Io {
            what,
            file: file.display().to_string(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn corrupt(file: &Path, offset: u64, why: impl Into<String>) -> LogError {
        LogError::Corrupt {
            file: file.display().to_string(),
            offset,
            why: why.into(),
        }
    }

    pub(crate) fn key(why: impl Into<String>) -> LogError {
        LogError::Key { why: why.into() }
    }

    pub(crate) fn refused(why: impl Into<String>) -> LogError {
        LogError::Refused { why: why.into() }
    }
}

/// Full disk, exceeded quota and exceeded file-size limit are one thing to the user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// What kind of contradiction `verify` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A journal frame is not whole: bad length, bad checksum, bytes between frames.
    Frame,
    /// A segment's header is not whole or contradicts the entries before it.
    Header,
    /// A leaf is not in its one canonical encoding, or an index is out of order.
    Leaf,
    /// An entry is not of the group it was recorded in: a head before it was removed.
    Group,
    /// A leaf does not name the leaf before it.
    Chain,
    /// Time goes back.
    Time,
    /// A body or subject list cannot be decrypted: other key or altered bytes.
    Seal,
    /// A body or subject list is not the one its leaf commits to.
    BodyHash,
    /// A head's size or root is not that of the entries before it.
    Head,
    /// A head or checkpoint is not signed by the log's key.
    Signature,
    /// A tile differs from the tree of the entries.
    Tile,
    /// An entry bundle differs from the leaves.
    Bundle,
    /// A block of the subject index differs from the entries' subject lists.
    SubjectIndex,
    /// The `checkpoint` file contradicts the entries.
    Checkpoint,
    /// Entries that a checkpoint covers are gone.
    Truncated,
    /// The entries are not those an outside checkpoint covers.
    Rewritten,
    /// A file that must be there is not.
    Missing,
    /// A file that the log did not write.
    Stray,
}

impl Finding {
    /// A line that says what the finding means.
    pub fn meaning(self) -> &'static str {
        match self {
            Finding::Frame => "the journal is not whole here",
            Finding::Header => "the segment header does not follow from the entries before it",
            Finding::Leaf => "the leaf is not in its canonical encoding or not in its place",
            Finding::Group => "the entry belongs to another group: a head before it is gone",
            Finding::Chain => "the leaf does not name the leaf before it",
            Finding::Time => "the leaf's time is before that of the leaf before it",
            Finding::Seal => {
                "the body or subject list does not decrypt: altered, or another body key"
            }
            Finding::BodyHash => "the body or subject list is not the one the leaf commits to",
            Finding::Head => "the signed head is not the head of the entries before it",
            Finding::Signature => "not signed by the key of this log",
            Finding::Tile => "the tile is not that of the entries",
            Finding::Bundle => "the entry bundle is not that of the entries",
            Finding::SubjectIndex => "the subject index is not that of the entries",
            Finding::Checkpoint => "the checkpoint is not one of these entries",
            Finding::Truncated => "entries that a checkpoint covers are missing",
            Finding::Rewritten => "the entries are not those the outside checkpoint covers",
            Finding::Missing => "the file is missing",
            Finding::Stray => "the log did not write this file",
        }
    }
}

/// Where and how the log is broken. The first contradiction met is reported; what lies behind it was not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tampering {
    /// What kind of contradiction.
    pub finding: Finding,
    /// The file, relative to the log's directory.
    pub file: String,
    /// Index of the entry it concerns (for a head: the first entry after it), where there is one.
    pub index: Option<u64>,
    /// Offset in the file, where there is one.
    pub offset: Option<u64>,
}

impl std::fmt::Display for Tampering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the audit log is broken at `{}`", self.file)?;
        if let Some(index) = self.index {
            write!(f, ", entry {index}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        write!(f, ": {}", self.finding.meaning())
    }
}

impl std::error::Error for Tampering {}

/// Why `verify` did not say "whole".
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// The log contradicts itself, its keys or the outside checkpoint.
    #[error(transparent)]
    Tampered(#[from] Tampering),
    /// The log could not be judged: a file cannot be read, a key or the outside checkpoint is malformed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl VerifyError {
    /// Stable code; see [`LogError::code`].
    pub fn code(&self) -> &'static str {
        match self {
            VerifyError::Tampered(_) => "LogTampered",
            VerifyError::Log(error) => error.code(),
        }
    }

    /// See [`LogError::kind`]; tampering is `"failed"`.
    pub fn kind(&self) -> &'static str {
        match self {
            VerifyError::Tampered(_) => "failed",
            VerifyError::Log(error) => error.kind(),
        }
    }
}

/// Result of most operations of this crate.
pub type Result<T, E = LogError> = std::result::Result<T, E>;
