//! What can go wrong in the warehouse. No message carries a value of a row: paths, column names, versions and the
//! words of the operating system only.

use std::io;

use qihui_catalog::{Coded, DatasetId, Kind};

/// An error of the warehouse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarehouseError {
    /// The disk is full or a quota is reached. Nothing of the failed step is visible.
    #[error(
        "no space left while {action} `{path}`: free some space and run the same command again"
    )]
    NoSpace {
        /// What was being done.
        action: &'static str,
        /// The file, relative to the warehouse.
        path: String,
        /// The error of the store.
        #[source]
        source: object_store::Error,
    },
    /// The store could not be read or written.
    #[error("storage failed while {action} `{path}`")]
    Storage {
        /// What was being done.
        action: &'static str,
        /// The file, relative to the warehouse.
        path: String,
        /// The error of the store.
        #[source]
        source: object_store::Error,
    },
    /// The folder of the warehouse cannot be used.
    #[error("the warehouse folder `{path}` cannot be used")]
    Root {
        /// The folder.
        path: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The transaction log of a table could not be read or written.
    #[error("the transaction log of `{dataset}` failed while {action}")]
    Log {
        /// The table.
        dataset: String,
        /// What was being done.
        action: &'static str,
        /// The error of the log.
        #[source]
        source: Box<deltalake::DeltaTableError>,
    },
    /// A data file is not what the log says it is.
    #[error("the file `{path}` is damaged: {reason}")]
    Corrupt {
        /// The file, relative to the table.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A data file could not be encoded or decoded.
    #[error("Parquet failed on `{path}`")]
    Parquet {
        /// The file, relative to the table.
        path: String,
        /// The error of the encoder or decoder.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A computation over columns failed.
    #[error("a computation over the columns of `{dataset}` failed")]
    Columns {
        /// The table.
        dataset: String,
        /// The error of the kernel.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// The contract no longer fits the table.
    #[error(
        "the contract of `{dataset}` does not fit its table: {reason}; only new columns can be added"
    )]
    ContractIncompatible {
        /// The table.
        dataset: DatasetId,
        /// Which column, and what about it.
        reason: String,
    },
    /// The table was made by another program or version.
    #[error("the table `{dataset}` cannot be used: {reason}")]
    UnsupportedTable {
        /// The table.
        dataset: DatasetId,
        /// What is unknown about it.
        reason: String,
    },
    /// Rows handed over for landing do not have the table's form.
    #[error("the rows for `{dataset}` cannot land: {reason}")]
    InvalidBatch {
        /// The table.
        dataset: DatasetId,
        /// What does not fit.
        reason: String,
    },
    /// No such version of the table is kept.
    #[error(
        "the table `{dataset}` has no version {version}: it was never written or its log was cleaned"
    )]
    UnknownVersion {
        /// The table.
        dataset: DatasetId,
        /// The version asked for.
        version: i64,
    },
    /// A background task ended without a result.
    #[error("a background task of the warehouse ended early: run the same command again")]
    Interrupted,
}

impl Coded for WarehouseError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoSpace { .. } => "NoSpace",
            Self::Storage { .. } => "StorageFailed",
            Self::Root { .. } => "WarehouseUnusable",
            Self::Log { .. } => "TableLogFailed",
            Self::Corrupt { .. } => "FileDamaged",
            Self::Parquet { .. } => "ParquetFailed",
            Self::Columns { .. } => "ColumnsFailed",
            Self::ContractIncompatible { .. } => "ContractIncompatible",
            Self::UnsupportedTable { .. } => "UnsupportedTable",
            Self::InvalidBatch { .. } => "InvalidBatch",
            Self::UnknownVersion { .. } => "UnknownVersion",
            Self::Interrupted => "Interrupted",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Failed
    }
}

impl WarehouseError {
    /// Whether `source`, or an error beneath it, says that the disk is full or a file-size limit is reached.
    fn is_full(source: &(dyn std::error::Error + 'static)) -> bool {
        let mut next = Some(source);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && matches!(
                    io.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::FileTooLarge
                )
            {
                return true;
            }
            next = error.source();
        }
        false
    }

    pub(crate) fn storage(
        action: &'static str,
        path: &(impl AsRef<str> + ?Sized),
        source: object_store::Error,
    ) -> Self {
        let path = path.as_ref().to_owned();
        if Self::is_full(&source) {
            Self::NoSpace {
                action,
                path,
                source,
            }
        } else {
            Self::Storage {
                action,
                path,
                source,
            }
        }
    }

    pub(crate) fn log(
        dataset: &DatasetId,
        action: &'static str,
        source: deltalake::DeltaTableError,
    ) -> Self {
        match source {
            deltalake::DeltaTableError::ObjectStore { source } => {
                Self::storage(action, dataset, source)
            }
            source => Self::Log {
                dataset: dataset.to_string(),
                action,
                source: Box::new(source),
            },
        }
    }

    pub(crate) fn parquet(path: &str, source: parquet::errors::ParquetError) -> Self {
        Self::Parquet {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn columns(dataset: &DatasetId, source: arrow::error::ArrowError) -> Self {
        Self::Columns {
            dataset: dataset.to_string(),
            source,
        }
    }

    pub(crate) fn corrupt(path: &str, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Why a chunk was not committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Another commit came first: classify the chunk again against the newer table.
    #[error("the table `{dataset}` moved on from version {version}: classify again")]
    Conflict {
        /// The table.
        dataset: DatasetId,
        /// The version the chunk was classified against.
        version: i64,
    },
    /// This run, or a later one of the same application, is in the table already: the chunk is done.
    #[error("run {run} of `{app_id}` is already in the table, which holds run {last}")]
    AlreadyCommitted {
        /// The application (feed and dataset).
        app_id: String,
        /// The run that was offered.
        run: i64,
        /// The last run the table holds.
        last: i64,
    },
    /// Something failed; nothing of the chunk is visible.
    #[error(transparent)]
    Warehouse(#[from] WarehouseError),
}

impl Coded for CommitError {
    fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "CommitConflict",
            Self::AlreadyCommitted { .. } => "AlreadyCommitted",
            Self::Warehouse(error) => error.code(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Conflict { .. } | Self::AlreadyCommitted { .. } => Kind::Failed,
            Self::Warehouse(error) => error.kind(),
        }
    }
}

/// Why [`crate::Table::land`] did not land a chunk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LandError<E: std::error::Error + 'static> {
    /// The run is in the table already: the chunk is done.
    #[error(transparent)]
    Commit(CommitError),
    /// What has to be durable before the commit (the quarantine) could not be written.
    #[error(transparent)]
    Before(E),
}

impl<E: std::error::Error + 'static> From<WarehouseError> for LandError<E> {
    fn from(error: WarehouseError) -> Self {
        Self::Commit(CommitError::Warehouse(error))
    }
}
