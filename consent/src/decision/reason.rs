//! Why a decision is what it is.

use std::fmt;

use serde::Serialize;

use super::AgreementId;

/// What a decision says about a column or about the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Shown in every visible row; as a verdict about rows: all are visible.
    Open,
    /// Shown where the enterprise granted it, or where its flag says so.
    Restricted,
    /// Not shown to anyone who asks like this.
    Closed,
}

/// What a verdict rests on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Level L1.
    Public,
    /// An agreement that rests on a law.
    Statute(AgreementId),
    /// An agreement that rests on consent.
    Consent(AgreementId),
    /// An agreement that gives figures about groups, and no row.
    Statistics(AgreementId),
    /// A flag in the row: the boolean column of this name.
    PublicWhen(String),
    /// No agreement in force names it.
    NotInAgreement,
    /// Level L4: not for anyone.
    NeverOpened,
    /// This agreement holds for the organisation and purpose, but not throughout the time of the request.
    AgreementNotInForce(AgreementId),
    /// An agreement names it, but there is no such column in the contract.
    UnknownColumn(AgreementId),
    /// So many grants do not hold throughout the time of the request.
    GrantsNotInTime(u64),
    /// So many grants are not for this action.
    GrantsForOtherActions(u64),
    /// So many grants count their uses, which only requests that name the enterprise may draw on.
    GrantsMetered(u64),
}

/// One reason: about a column, or about the rows of the dataset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Reason {
    /// The column; none: the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("it is public (L1)"),
            Self::Statute(id) => write!(f, "agreement `{id}` opens it by law"),
            Self::Consent(id) => write!(
                f,
                "agreement `{id}` opens it where the enterprise granted it"
            ),
            Self::Statistics(id) => {
                write!(
                    f,
                    "agreement `{id}` gives figures about groups of enterprises only"
                )
            }
            Self::PublicWhen(flag) => write!(f, "it is public in rows where `{flag}` is true"),
            Self::NotInAgreement => f.write_str("no agreement in force names it"),
            Self::NeverOpened => f.write_str("it is never opened (L4)"),
            Self::AgreementNotInForce(id) => {
                write!(
                    f,
                    "agreement `{id}` does not hold throughout the time of the request"
                )
            }
            Self::UnknownColumn(id) => write!(
                f,
                "agreement `{id}` names it, but the contract has no such column"
            ),
            Self::GrantsNotInTime(count) => {
                write!(
                    f,
                    "{count} grants do not hold throughout the time of the request"
                )
            }
            Self::GrantsForOtherActions(count) => {
                write!(f, "{count} grants are not for this action")
            }
            Self::GrantsMetered(count) => {
                write!(
                    f,
                    "{count} grants count their uses: name the enterprise to draw on them"
                )
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "column `{column}`")?,
            None => f.write_str("rows")?,
        }
        let verdict = match self.verdict {
            Verdict::Open => "open",
            Verdict::Restricted => "restricted",
            Verdict::Closed => "closed",
        };
        write!(f, ": {verdict}: {}", self.why)
    }
}
