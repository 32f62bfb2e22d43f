//! What can go wrong while feeds are generated.

use std::{io, path::PathBuf};

use qihui_catalog::{Coded, Kind, UsccError};

/// Why feeds could not be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// An option is outside its range.
    #[error("`{option}` must be {range}")]
    Option {
        /// The option as the command line names it.
        option: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output folder holds a file of this name already.
    #[error("`{}` exists already: choose an empty folder for the feeds", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The registry is not a table with the columns that are needed.
    #[error("the registry `{}` has no column `{column}` in its header: it needs uscc, ent_name and est_date", path.display())]
    RegistryColumn {
        /// The file.
        path: PathBuf,
        /// What is missing.
        column: &'static str,
    },
    /// A registry row is too long.
    #[error("row {row} of the registry `{}` is longer than {limit} bytes: check its quotes", path.display())]
    RegistryRow {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1 after the header.
        row: u64,
        /// The limit.
        limit: usize,
    },
    /// The catalogue has no feed that fills a dataset.
    #[error("the catalogue has no feed that can be generated for the dataset `{dataset}`")]
    NoFeed {
        /// The dataset.
        dataset: &'static str,
    },
    /// A file pattern without a place for the month.
    #[error("the file pattern of the feed `{feed}` has no `*` where the month could stand")]
    FilePattern {
        /// The feed.
        feed: String,
    },
    /// The contract asks for a column that the generator does not fill, or lacks one that it does.
    #[error("the generator and the contract of `{dataset}` disagree about the column `{column}`")]
    Column {
        /// The dataset.
        dataset: String,
        /// The column.
        column: String,
    },
    /// A workbook could not be written.
    #[error("a workbook could not be written: {reason}")]
    Workbook {
        /// What the library says.
        reason: String,
    },
    /// The catalogue could not be read.
    #[error("the catalogue that ships with the program does not hold: {reason}")]
    Catalog {
        /// What is wrong with it.
        reason: String,
    },
    /// An invented code did not pass the catalogue's own check.
    #[error("an invented unified social credit code is not valid: {0}")]
    Uscc(#[from] UsccError),
}

impl Coded for SynthError {
    fn code(&self) -> &'static str {
        match self {
            Self::Option { .. } => "SynthOption",
            Self::Io { .. } | Self::Workbook { .. } => "SynthIo",
            Self::Exists { .. } => "SynthExists",
            Self::RegistryColumn { .. } | Self::RegistryRow { .. } => "SynthRegistry",
            Self::NoFeed { .. }
            | Self::FilePattern { .. }
            | Self::Column { .. }
            | Self::Catalog { .. } => "SynthCatalog",
            Self::Uscc(_) => "SynthUscc",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Option { .. } | Self::Exists { .. } => Kind::Usage,
            _ => Kind::Failed,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, SynthError>;
