//! What can stop a feed run, and what can be wrong with a source as a whole.
//!
//! What is wrong with a single record is never an error: the record goes to quarantine with a
//! [`Reason`](crate::Reason) and the run continues. Messages name files, feeds, columns and positions, never values.

use std::{
    io,
    path::{Path, PathBuf},
};

use qihui_catalog::error::{Coded, Kind};

/// Why a feed could not be run.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The path holds a wildcard.
    #[error("`{}` holds a wildcard: name one file, or a folder whose files the feed picks by its own pattern", path.display())]
    PathIsGlob {
        /// The path as given.
        path: PathBuf,
    },
    /// The path leaves the folder that feeds are read from.
    #[error("`{}` lies outside the folder feeds are read from (`{}`): move the file there or name another folder", path.display(), root.display())]
    PathOutsideRoot {
        /// The path as given.
        path: PathBuf,
        /// The folder it has to lie in.
        root: PathBuf,
    },
    /// The path, or a folder on the way to it, is a symbolic link.
    #[error("`{}` is a symbolic link: name the file it points to", path.display())]
    PathIsSymlink {
        /// The link.
        path: PathBuf,
    },
    /// The path is a device, a pipe, a socket, or a folder where a file is needed.
    #[error("`{}` is not a regular file", path.display())]
    NotARegularFile {
        /// The path as given.
        path: PathBuf,
    },
    /// There is no such file or folder.
    #[error("there is no file or folder `{}`", path.display())]
    SourceNotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder holds no file of the feed.
    #[error("the folder `{}` holds no file named `{pattern}` for the feed `{feed}`", dir.display())]
    NoFileOfFeed {
        /// The feed.
        feed: String,
        /// The names it looks for.
        pattern: String,
        /// The folder.
        dir: PathBuf,
    },
    /// The file changed while it was read.
    #[error(
        "`{file}` changed while it was read: nothing of the part being read was landed, run the feed again"
    )]
    SourceChanged {
        /// The file, relative to its folder.
        file: String,
    },
    /// A file without a header line, document or row.
    #[error(
        "`{file}` is empty: the feed `{feed}` needs a header line, a document or a sheet with rows"
    )]
    EmptyFile {
        /// The file.
        file: String,
        /// The feed.
        feed: String,
    },
    /// The header line does not fit the feed.
    #[error("the header of `{file}` does not fit the feed `{feed}`: {fault}")]
    BadHeader {
        /// The file.
        file: String,
        /// The feed.
        feed: String,
        /// What is wrong with it.
        fault: HeaderFault,
    },
    /// The archive, or the packing of a workbook, cannot be read or is not what it claims to be.
    #[error("`{file}` cannot be unpacked: {fault}")]
    BadArchive {
        /// The file.
        file: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The workbook cannot be read.
    #[error(
        "`{file}` cannot be read as a workbook: {fault}; save it again as xlsx, without a password"
    )]
    BadWorkbook {
        /// The file.
        file: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The file is written in an encoding that feeds may not have.
    #[error(
        "`{file}` is written in {found}, the feed `{feed}` expects {expected}: convert it or change the feed"
    )]
    UnexpectedEncoding {
        /// The file.
        file: String,
        /// The feed.
        feed: String,
        /// What the file's mark says.
        found: &'static str,
        /// What the feed says.
        expected: &'static str,
    },
    /// The feed and its contract do not fit.
    #[error("the feed `{feed}` cannot be run: {fault}")]
    BadFeed {
        /// The feed.
        feed: String,
        /// What does not fit.
        fault: String,
    },
    /// A limit that cannot work.
    #[error("the limit `{limit}` cannot be {value}: {reason}")]
    BadLimit {
        /// The option.
        limit: &'static str,
        /// Its value.
        value: u64,
        /// Why not.
        reason: &'static str,
    },
    /// Some files of a folder could not be run; the others were.
    #[error("{}`{file}`: {first}", how_many(1 + more.len(), *of))]
    SomeFiles {
        /// The first of them, relative to its folder.
        file: String,
        /// What is wrong with it.
        first: Box<IngestError>,
        /// The others that could not be run.
        more: Vec<(String, IngestError)>,
        /// How many files there were.
        of: usize,
        /// What became of those that were run.
        done: Box<crate::report::RunReport>,
    },
    /// The disk is full.
    #[error("no space is left while {doing}: free some and run the feed again, nothing is lost")]
    NoSpace {
        /// What was being done.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the run state cannot be read.
    #[error("the run state `{}` is damaged at line {line}: {fault}; restore it from a backup or move it away", path.display())]
    CorruptState {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: String,
    },
    /// A run that does not continue where the one before ended.
    #[error("the run does not fit the checkpoint of `{file}`: {fault}")]
    Checkpoint {
        /// The file.
        file: String,
        /// How it does not fit.
        #[source]
        fault: crate::checkpoint::DeltaError,
    },
    /// A topic could not be read (on).
    #[error(transparent)]
    Topic(#[from] crate::kafka::TopicError),
    /// Enterprise numbers could not be had.
    #[error(transparent)]
    Numbers(#[from] qihui_catalog::NumbersError),
    /// The table refused or failed.
    #[error("landing into the table `{dataset}` failed: {source}")]
    Landing {
        /// The dataset.
        dataset: String,
        /// The code of what the warehouse said.
        code: &'static str,
        /// Its kind.
        kind: Kind,
        /// What the warehouse said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Every try to commit met another writer's commit.
    #[error(
        "the table `{dataset}` is being written by others: {tries} tries met other commits, run the feed again later"
    )]
    Contended {
        /// The dataset.
        dataset: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The counts of a run do not add up: a defect of this program, found before the commit.
    #[error(
        "the counts of run {run} do not add up ({read} read, {accounted} accounted for): nothing was committed, please report this"
    )]
    Unbalanced {
        /// The run.
        run: i64,
        /// Records read.
        read: u64,
        /// Records with an outcome.
        accounted: u64,
    },
}

/// What is wrong with a header line.
///
/// Names out of the file are shown only when most of the expected columns were found: without a header line the
/// first record stands in its place, and records are nobody's error message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Hardly any expected column is there.
    #[error("only {found} of {expected} expected columns are there; is it a header line?")]
    NotAHeader {
        /// How many were found.
        found: usize,
        /// How many the feed maps.
        expected: usize,
    },
    /// Columns the feed maps are absent.
    #[error("missing {}", list(columns))]
    Missing {
        /// Their names.
        columns: Vec<String>,
    },
    /// A column stands there more than once.
    #[error("more than once {}", list(columns))]
    Duplicate {
        /// Their names.
        columns: Vec<String>,
    },
    /// Columns the feed does not know.
    #[error(
        "unknown {}; add them to the feed or have them left out of the file",
        list(columns)
    )]
    Unknown {
        /// Their names.
        columns: Vec<String>,
    },
    /// More columns than the limit allows.
    #[error("{found} columns, the limit is {limit}")]
    TooManyColumns {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The line itself cannot be read.
    #[error("the line cannot be read ({0})")]
    Unreadable(&'static str),
}

fn list(columns: &[String]) -> String {
    columns
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Coded for IngestError {
    fn code(&self) -> &'static str {
        match self {
            Self::PathIsGlob { .. } => "PathIsGlob",
            Self::PathOutsideRoot { .. } => "PathOutsideRoot",
            Self::PathIsSymlink { .. } => "PathIsSymlink",
            Self::NotARegularFile { .. } => "NotARegularFile",
            Self::SourceNotFound { .. } => "SourceNotFound",
            Self::NoFileOfFeed { .. } => "NoFileOfFeed",
            Self::SourceChanged { .. } => "SourceChanged",
            Self::EmptyFile { .. } => "EmptyFile",
            Self::BadHeader { .. } => "BadHeader",
            Self::BadArchive { .. } => "BadArchive",
            Self::BadWorkbook { .. } => "BadWorkbook",
            Self::UnexpectedEncoding { .. } => "UnexpectedEncoding",
            Self::BadFeed { .. } => "BadFeed",
            Self::BadLimit { .. } => "BadLimit",
            Self::NoSpace { .. } => "NoSpace",
            Self::Io { .. } => "IngestIo",
            Self::CorruptState { .. } => "CorruptRunState",
            Self::Checkpoint { .. } => "CheckpointMismatch",
            Self::Topic(error) => error.code(),
            Self::Numbers(error) => error.code(),
            Self::Landing { code, .. } => code,
            Self::SomeFiles { first, .. } => first.code(),
            Self::Contended { .. } => "TableContended",
            Self::Unbalanced { .. } => "RunUnbalanced",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::PathIsGlob { .. }
            | Self::PathOutsideRoot { .. }
            | Self::PathIsSymlink { .. }
            | Self::NotARegularFile { .. }
            | Self::BadLimit { .. } => Kind::Usage,
            Self::Topic(error) => error.kind(),
            Self::Numbers(error) => error.kind(),
            Self::Landing { kind, .. } => *kind,
            Self::SomeFiles { first, .. } => first.kind(),
            _ => Kind::Failed,
        }
    }
}

fn how_many(failed: usize, of: usize) -> String {
    match of {
        1 => String::new(),
        _ if failed == of => format!("none of {of} files could be run; "),
        _ => format!("{failed} of {of} files could not be run, the others were; "),
    }
}

impl IngestError {
    /// The stable code, the name of a page in `docs/errors/`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        Coded::code(self)
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Coded::kind(self)
    }

    /// Whether it is about one file as a whole, so that others can still be run.
    #[must_use]
    pub fn is_of_source(&self) -> bool {
        matches!(
            self,
            Self::PathIsSymlink { .. }
                | Self::NotARegularFile { .. }
                | Self::SourceNotFound { .. }
                | Self::SourceChanged { .. }
                | Self::EmptyFile { .. }
                | Self::BadHeader { .. }
                | Self::BadArchive { .. }
                | Self::BadWorkbook { .. }
                | Self::UnexpectedEncoding { .. }
                | Self::SomeFiles { .. }
        )
    }

    /// An I/O error with what was being done; a full disk has a code of its own.
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::NoSpace { doing, source },
            _ => Self::Io { doing, source },
        }
    }

    /// The table of `dataset` refused or failed.
    pub(crate) fn landing(dataset: &str, error: impl Coded + Send + Sync + 'static) -> Self {
        let (code, kind) = (error.code(), error.kind());
        Self::Landing {
            dataset: dataset.to_owned(),
            code,
            kind,
            source: Box::new(error),
        }
    }

    /// The archive `file` is refused.
    pub(crate) fn archive(file: &str, fault: String) -> Self {
        Self::BadArchive {
            file: file.to_owned(),
            fault,
        }
    }

    /// The workbook `file` is refused.
    pub(crate) fn workbook(file: &str, fault: String) -> Self {
        Self::BadWorkbook {
            file: file.to_owned(),
            fault,
        }
    }

    /// Reading or writing `path` failed.
    pub(crate) fn io_at(verb: &str, path: &Path, source: io::Error) -> Self {
        Self::io(format!("{verb} `{}`", path.display()), source)
    }
}

/// The result of an ingestion step.
pub type Result<T, E = IngestError> = std::result::Result<T, E>;
