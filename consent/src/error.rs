//! What can go wrong with the ledger, each with its own stable code.

use qihui_catalog::{Coded, ConsentId, DatasetId, Kind, OrgId, PurposeCode, UsccError};

use crate::state::TransitionError;

/// An operation on the ledger that was not done. Nothing is left half done.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store failed.
    #[error("the consent ledger could not be {doing}: {reason}; nothing was changed")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// What the store said.
        reason: String,
        /// The error of the store.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The disk is full.
    #[error(
        "no space left for the consent ledger: nothing was changed; free space on its disk and repeat"
    )]
    NoSpace,
    /// What the store holds contradicts itself.
    #[error("the consent ledger is damaged: {0}; restore it from a backup")]
    Corrupt(String),
    /// The ledger was written by a later program.
    #[error(
        "the consent ledger has format {found}, this program knows up to {known}: use a newer qihui"
    )]
    NewerFormat {
        /// The format of the file.
        found: u32,
        /// The latest known.
        known: u32,
    },
    /// The clock shows a time before the last event.
    #[error(
        "the clock was set back: it shows {now}, the last event of the ledger is of {last}; set the clock right"
    )]
    ClockBack {
        /// What the clock shows.
        now: String,
        /// Time of the last event.
        last: String,
    },
    /// A ledger that is only followed does not reach as far as what it is asked about.
    #[error(
        "this copy of the consent ledger does not reach event {position} yet; repeat in a moment"
    )]
    Behind {
        /// The event.
        position: u64,
    },
    /// A file or document has the wrong form.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// What kind of document.
        what: &'static str,
        /// What is wrong and where.
        reason: String,
    },
    /// No such organisation.
    #[error("no organisation `{0}`: see `org list`")]
    UnknownOrganisation(OrgId),
    /// The name is taken.
    #[error("organisation `{0}` exists already")]
    OrganisationExists(OrgId),
    /// No such purpose.
    #[error("no purpose `{0}` that could be granted: see `catalog show purposes`")]
    UnknownPurpose(PurposeCode),
    /// No such dataset.
    #[error("no dataset `{0}`: see `catalog list`")]
    UnknownDataset(DatasetId),
    /// The dataset has no such column.
    #[error("dataset `{dataset}` has no column `{column}`: see `catalog show {dataset}`")]
    UnknownColumn {
        /// The dataset.
        dataset: DatasetId,
        /// The column.
        column: String,
    },
    /// Columns are listed, never all.
    #[error(
        "`*` is not a column: list the columns of `{dataset}` one by one, a consent never means all"
    )]
    WildcardColumn {
        /// The dataset.
        dataset: DatasetId,
    },
    /// The column is never opened.
    #[error("column `{column}` of `{dataset}` is of level L4, which is never opened")]
    ColumnNeverOpened {
        /// The dataset.
        dataset: DatasetId,
        /// The column.
        column: String,
    },
    /// The form is not one for the type of the column.
    #[error("column `{column}` of `{dataset}` is {ty}: `{form}` cannot be applied to it")]
    FormDoesNotFit {
        /// The dataset.
        dataset: DatasetId,
        /// The column.
        column: String,
        /// Its type.
        ty: String,
        /// The form.
        form: String,
    },
    /// Clear disclosure of an L3 column has to be justified.
    #[error("column `{column}` of `{dataset}` is of level L3: to show it clear, give a `reason`")]
    ReasonRequired {
        /// The dataset.
        dataset: DatasetId,
        /// The column.
        column: String,
    },
    /// Another agreement shows the column in another form.
    #[error(
        "agreement `{other}` shows column `{column}` for the same purpose and time in another form: {form}"
    )]
    ConflictingForm {
        /// The other agreement.
        other: String,
        /// The column.
        column: String,
        /// The form there.
        form: String,
    },
    /// No such agreement, or it ended.
    #[error("no agreement `{0}` in force: see `agreement list`")]
    UnknownAgreement(String),
    /// The name is taken.
    #[error("agreement `{0}` exists already")]
    AgreementExists(String),
    /// No such subscription, or it has ended.
    #[error("no subscription `{0}` that has not ended: see `subscription list`")]
    UnknownSubscription(String),
    /// The organisation has this subscription already.
    #[error(
        "the organisation is subscribed to this topic in this form already: use subscription `{0}`, or end it first"
    )]
    SubscriptionExists(String),
    /// The principal is not an enterprise.
    #[error("the principal: {0}")]
    InvalidPrincipal(#[from] UsccError),
    /// The date range is impossible.
    #[error("the data range of `{dataset}`: {reason}")]
    InvalidDataRange {
        /// The dataset.
        dataset: DatasetId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The validity is impossible.
    #[error("the validity: {0}")]
    InvalidValidity(&'static str),
    /// Valid for longer than the purpose allows.
    #[error("the consent would hold {days} days, purpose `{purpose}` allows at most {cap}")]
    ExpiryBeyondCap {
        /// How long, rounded up.
        days: u64,
        /// The purpose.
        purpose: PurposeCode,
        /// The cap.
        cap: u32,
    },
    /// No holding has this name.
    #[error("there is no holding `{0}`; `qihui holding list` shows what there is")]
    UnknownHolding(String),
    /// All of the holding is deleted.
    #[error("holding `{0}` is deleted already")]
    HoldingDeleted(String),
    /// Nothing of the holding has to be deleted.
    #[error(
        "nothing of holding `{0}` has to be deleted: to give all of it up, say that everything is deleted"
    )]
    NothingToDelete(String),
    /// More than the purpose allows.
    #[error("{what} {asked}, purpose `{purpose}` allows at most {cap}")]
    BeyondCap {
        /// What is too much.
        what: &'static str,
        /// How much was asked for.
        asked: String,
        /// The purpose.
        purpose: PurposeCode,
        /// The cap.
        cap: String,
    },
    /// The dataset's contract is of another version.
    #[error(
        "`{dataset}` is under contract version {current}, the request names {asked}: ask again for the current one"
    )]
    ContractVersion {
        /// The dataset.
        dataset: DatasetId,
        /// The version in force.
        current: String,
        /// The version in the request.
        asked: String,
    },
    /// No such consent.
    #[error("no consent `{0}`: see `consent list`")]
    UnknownConsent(ConsentId),
    /// The state does not allow it.
    #[error("consent `{id}`: {reason}")]
    Transition {
        /// The consent.
        id: ConsentId,
        /// Why not.
        reason: TransitionError,
    },
    /// The new version is not a part of the old.
    #[error("consent `{id}` can only be narrowed: {reason}")]
    NotNarrower {
        /// The consent.
        id: ConsentId,
        /// What is not narrower.
        reason: &'static str,
    },
    /// Another consent that this one cannot replace.
    #[error("consent `{id}` cannot be replaced by this one: {reason}")]
    CannotSupersede {
        /// The other consent.
        id: ConsentId,
        /// Why not.
        reason: &'static str,
    },
    /// Nobody of that name may sign for the enterprise.
    #[error("no signatory `{0}` of this enterprise: see `signatory add`")]
    UnknownSignatory(String),
    /// The name is taken.
    #[error("this enterprise has a signatory `{0}` already")]
    SignatoryExists(String),
    /// The threshold asks for more signatories than there are, or none.
    #[error(
        "a threshold of {threshold} needs at least as many signatories and at least one; there are {count}"
    )]
    InvalidThreshold {
        /// The threshold.
        threshold: u32,
        /// The signatories.
        count: u32,
    },
    /// The signature does not fit the text, the key or the moment.
    #[error(
        "the signature is not one of signatory `{0}` over the present text of this operation: let the text be shown \
         again and sign it with the registered key"
    )]
    SignatureMismatch(String),
    /// A key that cannot be used.
    #[error("the key{place}: {reason}")]
    Key {
        /// Where, as ` in <file>`, or nothing.
        place: String,
        /// What is wrong and what to do.
        reason: &'static str,
    },
    /// A signing key has no place in the hub.
    #[error(
        "the signing key lies inside the hub's directory: keep it elsewhere, the hub must not hold it"
    )]
    KeyInsideHub,
    /// A drained event is not the next.
    #[error("event {got} cannot be marked as logged: the next one is {next}")]
    OutOfOrder {
        /// The event offered.
        got: u64,
        /// The event due.
        next: u64,
    },
    /// The log refused an event.
    #[error(
        "the log took no event: {reason}; what was given is not yet in force, what was taken away is"
    )]
    Log {
        /// What the log said.
        reason: String,
    },
    /// The numbers of enterprises failed.
    #[error(transparent)]
    Numbers(#[from] qihui_catalog::NumbersError),
}

impl Coded for LedgerError {
    fn code(&self) -> &'static str {
        match self {
            Self::Store { .. } => "LedgerUnavailable",
            Self::NoSpace => "LedgerNoSpace",
            Self::Corrupt(_) => "LedgerCorrupt",
            Self::NewerFormat { .. } => "LedgerNewerFormat",
            Self::ClockBack { .. } => "ClockBack",
            Self::Behind { .. } => "LedgerBehind",
            Self::Malformed {
                what: "agreement", ..
            } => "MalformedAgreement",
            Self::Malformed {
                what: "consent request",
                ..
            } => "MalformedConsent",
            Self::Malformed { .. } => "MalformedDocument",
            Self::UnknownOrganisation(_) => "UnknownOrganisation",
            Self::OrganisationExists(_) => "OrganisationExists",
            Self::UnknownPurpose(_) => "UnknownPurpose",
            Self::UnknownDataset(_) => "UnknownDataset",
            Self::UnknownColumn { .. } => "UnknownColumn",
            Self::WildcardColumn { .. } => "WildcardColumn",
            Self::ColumnNeverOpened { .. } => "ColumnNeverOpened",
            Self::FormDoesNotFit { .. } => "FormDoesNotFit",
            Self::ReasonRequired { .. } => "ReasonRequired",
            Self::ConflictingForm { .. } => "ConflictingForm",
            Self::UnknownAgreement(_) => "UnknownAgreement",
            Self::AgreementExists(_) => "AgreementExists",
            Self::UnknownSubscription(_) => "UnknownSubscription",
            Self::SubscriptionExists(_) => "SubscriptionExists",
            Self::InvalidPrincipal(_) => "InvalidPrincipal",
            Self::InvalidDataRange { .. } => "InvalidDataRange",
            Self::InvalidValidity(_) => "InvalidValidity",
            Self::ExpiryBeyondCap { .. } => "ExpiryBeyondCap",
            Self::BeyondCap { .. } => "PurposeCapExceeded",
            Self::UnknownHolding(_) => "UnknownHolding",
            Self::HoldingDeleted(_) => "HoldingDeleted",
            Self::NothingToDelete(_) => "NothingToDelete",
            Self::ContractVersion { .. } => "ContractVersionMismatch",
            Self::UnknownConsent(_) => "UnknownConsent",
            Self::Transition {
                reason: TransitionError::AlreadySigned { .. },
                ..
            } => "AlreadySigned",
            Self::Transition { .. } => "ConsentStateRefuses",
            Self::NotNarrower { .. } => "NotNarrower",
            Self::CannotSupersede { .. } => "CannotSupersede",
            Self::UnknownSignatory(_) => "UnknownSignatory",
            Self::SignatoryExists(_) => "SignatoryExists",
            Self::InvalidThreshold { .. } => "InvalidThreshold",
            Self::SignatureMismatch(_) => "SignatureMismatch",
            Self::Key { .. } => "InvalidKey",
            Self::KeyInsideHub => "KeyInsideHub",
            Self::OutOfOrder { .. } => "LedgerOutOfOrder",
            Self::Log { .. } => "LogUnavailable",
            Self::Numbers(error) => error.code(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Log { .. }
            | Self::ClockBack { .. }
            | Self::Behind { .. }
            | Self::SignatureMismatch(_) => Kind::Denied,
            Self::Malformed { .. } | Self::WildcardColumn { .. } => Kind::Usage,
            Self::Numbers(error) => error.kind(),
            _ => Kind::Failed,
        }
    }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        // SQLITE_FULL (13): the message of the store alone would not say what to do.
        let full = error
            .as_database_error()
            .and_then(|e| e.code())
            .is_some_and(|code| code == "13");
        if full {
            return Self::NoSpace;
        }
        let reason = match &error {
            // Messages of SQLite name tables and columns, never values.
            sqlx::Error::Database(inner) => inner.message().to_owned(),
            sqlx::Error::ColumnDecode { index, .. } => {
                format!("column {index} has an unexpected value")
            }
            other => other.to_string(),
        };
        Self::Store {
            doing: "read or written",
            reason,
            source: Some(Box::new(error)),
        }
    }
}

/// A result of the ledger.
pub type Result<T, E = LedgerError> = std::result::Result<T, E>;
