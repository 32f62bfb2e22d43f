//! Enterprise numbers: the contract of whoever keeps them.

use crate::{
    error::{Coded, Kind},
    ids::EnterpriseNo,
    uscc::Uscc,
};

/// A wish for the number of an enterprise, with what places it near its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NumberRequest {
    /// The enterprise.
    pub uscc: Uscc,
    /// The six digits of the county it sits in; without it the division of its code is taken.
    pub county: Option<[u8; 6]>,
    /// The section letter of its industry (GB/T 4754), when known.
    pub section: Option<char>,
}

/// The store of enterprise numbers failed.
#[derive(Debug, thiserror::Error)]
pub enum NumbersError {
    /// The store could not be read or written.
    #[error("the enterprise numbers could not be read or written: {reason}")]
    Store {
        /// What the store said, without data of an enterprise.
        reason: String,
        /// The error of the store.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Every number has been given out.
    #[error(
        "no enterprise number is left: the hub holds the greatest possible count of enterprises"
    )]
    Exhausted,
}

impl Coded for NumbersError {
    fn code(&self) -> &'static str {
        match self {
            Self::Store { .. } => "NumbersUnavailable",
            Self::Exhausted => "NumbersExhausted",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Failed
    }
}

/// Gives every enterprise one number, for ever.
///
/// Calls block. What `assign` returned is durable: after a crash the same enterprise gets the same number.
pub trait EnterpriseNumbers: Send + Sync {
    /// The number of each wanted enterprise, in order; assigns what is missing. The same enterprise may occur twice.
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError>;

    /// The number of each enterprise, in order, or none where none was ever assigned.
    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError>;

    /// The enterprise behind each number, in order.
    fn uscc_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError>;
}
