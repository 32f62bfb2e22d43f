//! How a command fails: a stable code, a kind that decides the exit code, and one line that says what to do.

use std::error::Error;
use std::path::PathBuf;

use qihui_audit::{LogError, VerifyError};
use qihui_catalog::{Coded, Kind};
use serde_json::{Map, Value, json};

/// What goes wrong in the program itself.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no hub in the data directory.
    #[error("no hub in `{}`: make one with `qihui --data-dir {} init`, or name its directory", dir.display(), dir.display())]
    NotAHub {
        /// The data directory.
        dir: PathBuf,
    },
    /// There is a hub in the data directory already.
    #[error("there is a hub in `{}` already: nothing was changed", dir.display())]
    HubExists {
        /// The data directory.
        dir: PathBuf,
    },
    /// A new hub needs an empty directory.
    #[error("`{}` is not empty: make the hub in a new or empty directory", dir.display())]
    DirectoryNotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// Another process owns the data directory.
    #[error("`{}` is in use by {holder} and was not given free within {seconds} s: wait for it to end, or stop it", dir.display())]
    HubBusy {
        /// The data directory.
        dir: PathBuf,
        /// Who holds it.
        holder: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The configuration cannot be used.
    #[error("the configuration is wrong: {reason}")]
    BadConfiguration {
        /// What is wrong and where.
        reason: String,
    },
    /// The log ends before entries that the hub knows to have been in it.
    #[error(
        "the audit log has {size} entries, but entry {known} was in it: it was cut off; restore it from a backup"
    )]
    LogTruncated {
        /// Entries in the log.
        size: u64,
        /// An entry that is known.
        known: u64,
    },
    /// Ledger and log are not of one hub.
    #[error(
        "entry {index} of the audit log is not the one the ledger handed over: log and ledger do not belong together; restore both from one backup"
    )]
    LogMismatch {
        /// The entry.
        index: u64,
    },
    /// The ledger is gone.
    #[error("the consent ledger `{}` is missing, though the audit log has entries: restore it from a backup", path.display())]
    LedgerMissing {
        /// Where it was.
        path: PathBuf,
    },
    /// A part of the catalogue has a version that is not in the log.
    #[error(
        "{what} is not recorded in the log, so it has no effect yet: run `qihui catalog check --record`"
    )]
    NotRecorded {
        /// Which part, with its version.
        what: String,
    },
    /// A file that was named cannot be read.
    #[error("cannot read the {what} `{}`: {reason}", path.display())]
    FileUnreadable {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {reason}", path.display())]
    FileUnwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No feed has a file in the folder.
    #[error("no feed has a file in `{}`: `qihui feed list` shows the names they look for", dir.display())]
    NoFeedFiles {
        /// The folder.
        dir: PathBuf,
    },
    /// There is no such feed.
    #[error("there is no feed `{0}`: `qihui feed list` shows what there is")]
    UnknownFeed(String),
    /// There is no such dataset.
    #[error("there is no dataset `{0}`: `qihui catalog list` shows what there is")]
    UnknownDataset(String),
    /// The command line is wrong.
    #[error("{0}")]
    BadUsage(String),
    /// The answer cannot be written to stdout.
    #[error("the answer cannot be written: {0}")]
    OutputFailed(String),
    /// A service stops in the middle of a command.
    #[error(
        "the service that owns the data directory stopped answering: look at what was done before trying again"
    )]
    ServiceGone,
    /// The service cannot listen.
    #[error("cannot listen at {at}: {reason}")]
    CannotListen {
        /// Where.
        at: String,
        /// Why not.
        reason: String,
    },
    /// A command that cannot be done by a service that is running.
    #[error("`{0}` cannot be done while the hub is being served: stop the service first")]
    NotWhileServing(&'static str),
    /// The program could not be set up.
    #[error("the program cannot start: {0}")]
    CannotStart(String),
}

impl Coded for ProgramError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotAHub { .. } => "NotAHub",
            Self::HubExists { .. } => "HubExists",
            Self::DirectoryNotEmpty { .. } => "DirectoryNotEmpty",
            Self::HubBusy { .. } => "HubBusy",
            Self::BadConfiguration { .. } => "BadConfiguration",
            Self::LogTruncated { .. } => "LogTruncated",
            Self::LogMismatch { .. } => "LogMismatch",
            Self::LedgerMissing { .. } => "LedgerMissing",
            Self::NotRecorded { .. } => "ContractNotRecorded",
            Self::FileUnreadable { .. } => "FileUnreadable",
            Self::FileUnwritable { .. } => "FileUnwritable",
            Self::NoFeedFiles { .. } => "NoFeedFiles",
            Self::UnknownFeed(_) => "UnknownFeed",
            Self::UnknownDataset(_) => "UnknownDataset",
            Self::BadUsage(_) => "BadUsage",
            Self::OutputFailed(_) => "OutputFailed",
            Self::ServiceGone => "ServiceGone",
            Self::CannotListen { .. } => "CannotListen",
            Self::NotWhileServing(_) => "NotWhileServing",
            Self::CannotStart(_) => "CannotStart",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::BadUsage(_) | Self::BadConfiguration { .. } => Kind::Usage,
            Self::HubBusy { .. }
            | Self::LogTruncated { .. }
            | Self::LogMismatch { .. }
            | Self::NotRecorded { .. } => Kind::Denied,
            _ => Kind::Failed,
        }
    }
}

/// Why a command did not do what it was asked: what the user is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    code: &'static str,
    kind: Kind,
    message: String,
    /// What the JSON document says besides the error.
    more: Map<String, Value>,
    /// Lines for people, before the error's own.
    details: Vec<String>,
}

impl Failure {
    /// The failure that an error means. The words of the operating system behind it are added where it leaves them out.
    #[must_use]
    pub fn of<E: Coded + 'static>(error: &E) -> Self {
        Self::new(error.code(), error.kind(), &with_cause(error))
    }

    fn new(code: &'static str, kind: Kind, message: &str) -> Self {
        let (more, details) = (Map::new(), Vec::new());
        Self {
            code,
            kind,
            message: one_line(message),
            more,
            details,
        }
    }

    /// The stable code: a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What went wrong, in one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Lines for people that come before the error.
    #[must_use]
    pub fn details(&self) -> &[String] {
        &self.details
    }

    /// The same with something more in its JSON document.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.more.insert(key.to_owned(), value);
        self
    }

    /// What [`Failure::with`] added under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.more.get(key)
    }

    /// The same with lines for people.
    #[must_use]
    pub fn with_details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details
            .extend(details.into_iter().map(|line| one_line(&line)));
        self
    }

    /// The same with the help of the command line before it.
    #[must_use]
    pub(crate) fn with_help(mut self, help: &str) -> Self {
        self.details.extend(help.lines().map(str::to_owned));
        self
    }

    /// The JSON document of the failure.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut document = self.more.clone();
        document.insert(
            "error".to_owned(),
            json!({ "code": self.code, "message": self.message }),
        );
        Value::Object(document)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)
    }
}

macro_rules! failures_from {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(&error)
            }
        })+
    };
}

failures_from!(
    ProgramError,
    qihui_catalog::CatalogErrors,
    qihui_catalog::IdError,
    qihui_catalog::NumbersError,
    qihui_catalog::UsccError,
    qihui_consent::DecisionError,
    qihui_consent::LedgerError,
    qihui_ingest::IngestError,
    qihui_pipelines::models::ModelError,
    qihui_pipelines::topics::error::TopicError,
    qihui_query::QueryError,
    qihui_synth::SynthError,
    crate::identity::IdentityError,
    crate::serve::ServeError,
    qihui_warehouse::WarehouseError,
);

fn kind_of(word: &str) -> Kind {
    if word == "denied" {
        Kind::Denied
    } else {
        Kind::Failed
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::new(error.code(), kind_of(error.kind()), &error.to_string())
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self::new(error.code(), kind_of(error.kind()), &error.to_string())
    }
}

/// The error's words, with those of the operating system where they are not among them. Other causes are left out:
/// the words of an engine may quote a value.
fn with_cause(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(system) = inner.downcast_ref::<std::io::Error>() {
            let words = system.to_string();
            if !message.contains(&words) {
                message = format!("{message}: {words}");
            }
            break;
        }
        cause = inner.source();
    }
    message
}

/// A message as one line that cannot steer a terminal.
fn one_line(message: &str) -> String {
    message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_says_what_the_system_said() {
        let source = std::io::Error::other("the disk\nis gone");
        let error = qihui_ingest::IngestError::Io {
            doing: "reading".into(),
            source,
        };
        let failure = Failure::from(error);
        assert_eq!(failure.message(), "reading failed: the disk is gone");
        assert_eq!(
            failure.to_string(),
            "error[IngestIo]: reading failed: the disk is gone"
        );
        assert_eq!(
            failure.with("ok", false.into()).json(),
            json!({ "ok": false, "error": { "code": "IngestIo", "message": "reading failed: the disk is gone" } })
        );
    }
}
