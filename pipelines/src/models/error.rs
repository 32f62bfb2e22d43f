//! What can go wrong with products. No message carries a value of a row.

use qihui_catalog::{CatalogErrors, Coded, DatasetId, Kind, NumbersError};
use qihui_query::QueryError;
use qihui_warehouse::{CommitError, WarehouseError};

/// An error of products.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// There is no such model.
    #[error("there is no model `{0}`: `qihui pipeline list` shows what there is")]
    Unknown(DatasetId),
    /// A model cannot be a product.
    #[error(transparent)]
    Refused(#[from] CatalogErrors),
    /// The statement failed on some row. Nothing of the chunk was committed.
    #[error("the model `{model}` failed while running: {source}")]
    Failed {
        /// The model.
        model: DatasetId,
        /// What the engine met; its own words are not repeated.
        source: QueryError,
    },
    /// The rows of a product contradict what was shown about its statement: a defect of the hub, or of its numbers.
    #[error("the rows of `{model}` are not what its statement gives: {what}; nothing was written")]
    Unsound {
        /// The model.
        model: DatasetId,
        /// What does not fit.
        what: &'static str,
    },
    /// The tables could not be read or written.
    #[error(transparent)]
    Warehouse(#[from] WarehouseError),
    /// A chunk was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The numbers of enterprises could not be read.
    #[error(transparent)]
    Numbers(#[from] NumbersError),
}

impl Coded for ModelError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "UnknownModel",
            Self::Refused(error) => error.code(),
            Self::Failed { .. } => "ModelFailed",
            Self::Unsound { .. } => "ModelUnsound",
            Self::Warehouse(error) => error.code(),
            Self::Commit(error) => error.code(),
            Self::Numbers(error) => error.code(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Unknown(_) | Self::Failed { .. } | Self::Unsound { .. } => Kind::Failed,
            Self::Refused(error) => error.kind(),
            Self::Warehouse(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::Numbers(error) => error.kind(),
        }
    }
}
