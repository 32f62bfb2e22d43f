//! Why somebody is not let in.

use qihui_catalog::{Coded, Kind};

use super::Operation;

/// What goes wrong with who is asking. No message repeats a token or what stands in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nobody said who is asking.
    #[error(
        "a token is missing: send `Authorization: Bearer TOKEN`, or name its file with --token-file"
    )]
    Missing,
    /// The token does not say who is asking.
    #[error("the token is not accepted: {reason}")]
    Invalid {
        /// Why not.
        reason: &'static str,
    },
    /// The token's time is over.
    #[error("the token has expired: get a new one")]
    Expired,
    /// No role of the token may do this.
    #[error("no role of this token may do `{operation}`")]
    NotAllowed {
        /// What was asked.
        operation: Operation,
    },
    /// A role may do this, but not about that.
    #[error(
        "this token does not reach what `{operation}` was asked about: it is of another enterprise, organisation, purpose, feed or person"
    )]
    OutOfReach {
        /// What was asked.
        operation: Operation,
    },
    /// The issuer's keys cannot be had.
    #[error("the keys of the token issuer cannot be read: {reason}")]
    KeysUnavailable {
        /// Why not.
        reason: String,
    },
    /// Tokens are issued elsewhere.
    #[error("this hub issues no tokens: in the service profile only the configured issuer does")]
    NoLocalIssuer,
    /// A token was asked for that could not be used.
    #[error("no such token: {reason}")]
    BadClaims {
        /// Why not.
        reason: String,
    },
}

impl Coded for IdentityError {
    fn code(&self) -> &'static str {
        match self {
            Self::Missing => "TokenMissing",
            Self::Invalid { .. } => "TokenInvalid",
            Self::Expired => "TokenExpired",
            Self::NotAllowed { .. } => "OperationNotAllowed",
            Self::OutOfReach { .. } => "OutOfReach",
            Self::KeysUnavailable { .. } => "IssuerKeysUnavailable",
            Self::NoLocalIssuer => "NoLocalIssuer",
            Self::BadClaims { .. } => "BadTokenClaims",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::BadClaims { .. } => Kind::Usage,
            Self::KeysUnavailable { .. } => Kind::Failed,
            _ => Kind::Denied,
        }
    }
}
