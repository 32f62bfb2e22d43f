//! Why a record is quarantined.

use std::fmt;

use qihui_catalog::UsccError;
use serde::{Deserialize, Serialize};

/// Why a record could not be landed. The name is stable: scripts and feed owners rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The record is longer than `record_bytes`.
    RecordTooLong,
    /// A field is longer than `field_bytes`.
    FieldTooLong,
    /// The record holds a NUL byte.
    NulByte,
    /// The bytes are not text in the declared encoding, or in none that is detected.
    BadEncoding,
    /// The bytes are text in two encodings, and the file gives no hint which is meant.
    AmbiguousEncoding,
    /// A quoted field never ends, or text follows its closing quote.
    BrokenQuote,
    /// The record has fewer or more fields than the header.
    FieldCount,
    /// The line is not a JSON object.
    BadJson,
    /// A key stands twice in the object, or an element twice in its block.
    DuplicateKey,
    /// The feed does not know a key of the object or an element of the message.
    UnknownKey,
    /// A value is an array, an object, or an element with others inside.
    NestedValue,
    /// A message without a value, in a feed that does not say what its key means.
    NoValue,
    /// The message is no CloudEvent 1.0 with JSON data.
    BadCloudEvent,
    /// It is not well-formed XML, or not of the shape of a message.
    BadXml,
    /// The document ends inside a message or before its last element is closed.
    Truncated,
    /// The document has a document type definition.
    DoctypeRefused,
    /// A reference to an entity that XML itself does not define.
    UnknownEntity,
    /// Elements stand inside each other more deeply than any message needs.
    TooDeep,
    /// An element has more attributes than any message needs.
    TooManyAttributes,
    /// An element does not belong to the namespace of the feed.
    WrongNamespace,
    /// The document is written in an encoding that is not taken.
    UnknownEncoding,
    /// The message has more lines than one may have.
    TooManyLines,
    /// The message has no line.
    NoLines,
    /// A cell holds an error such as `#REF!` instead of a value.
    CellError,
    /// A required value is absent.
    MissingValue,
    /// Not a date, or none of the calendar.
    BadDate,
    /// Not a time.
    BadTime,
    /// Not a number.
    BadNumber,
    /// A number beyond the range of its column.
    NumberTooLarge,
    /// More decimal places than the column holds.
    TooManyDecimals,
    /// An amount in a currency other than the record's.
    CurrencyMismatch,
    /// Neither yes nor no.
    BadBoolean,
    /// The code is not in its list on the date that counts.
    UnknownCode,
    /// A quality rule of the contract is broken.
    RuleBroken,
    /// The code of the enterprise has not 18 characters.
    UsccLength,
    /// The code of the enterprise holds a character that no code has.
    UsccSymbol,
    /// The check character of the organisation code inside the code is wrong.
    UsccOrganisationCode,
    /// The check character of the code is wrong.
    UsccCheckDigit,
    /// The division inside the code never existed.
    UsccDivision,
    /// The record would move an existing key to another enterprise.
    UsccChanged,
}

impl Reason {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecordTooLong => "RecordTooLong",
            Self::FieldTooLong => "FieldTooLong",
            Self::NulByte => "NulByte",
            Self::BadEncoding => "BadEncoding",
            Self::AmbiguousEncoding => "AmbiguousEncoding",
            Self::BrokenQuote => "BrokenQuote",
            Self::FieldCount => "FieldCount",
            Self::BadJson => "BadJson",
            Self::DuplicateKey => "DuplicateKey",
            Self::UnknownKey => "UnknownKey",
            Self::NestedValue => "NestedValue",
            Self::NoValue => "NoValue",
            Self::BadCloudEvent => "BadCloudEvent",
            Self::BadXml => "BadXml",
            Self::Truncated => "Truncated",
            Self::DoctypeRefused => "DoctypeRefused",
            Self::UnknownEntity => "UnknownEntity",
            Self::TooDeep => "TooDeep",
            Self::TooManyAttributes => "TooManyAttributes",
            Self::WrongNamespace => "WrongNamespace",
            Self::UnknownEncoding => "UnknownEncoding",
            Self::TooManyLines => "TooManyLines",
            Self::NoLines => "NoLines",
            Self::CellError => "CellError",
            Self::MissingValue => "MissingValue",
            Self::BadDate => "BadDate",
            Self::BadTime => "BadTime",
            Self::BadNumber => "BadNumber",
            Self::NumberTooLarge => "NumberTooLarge",
            Self::TooManyDecimals => "TooManyDecimals",
            Self::CurrencyMismatch => "CurrencyMismatch",
            Self::BadBoolean => "BadBoolean",
            Self::UnknownCode => "UnknownCode",
            Self::RuleBroken => "RuleBroken",
            Self::UsccLength => "UsccLength",
            Self::UsccSymbol => "UsccSymbol",
            Self::UsccOrganisationCode => "UsccOrganisationCode",
            Self::UsccCheckDigit => "UsccCheckDigit",
            Self::UsccDivision => "UsccDivision",
            Self::UsccChanged => "UsccChanged",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<UsccError> for Reason {
    fn from(error: UsccError) -> Self {
        match error {
            UsccError::Length => Self::UsccLength,
            UsccError::Symbol => Self::UsccSymbol,
            UsccError::OrganisationCode => Self::UsccOrganisationCode,
            UsccError::CheckDigit => Self::UsccCheckDigit,
            UsccError::Division => Self::UsccDivision,
        }
    }
}

/// One thing that is wrong with a record: a reason, and the column it is about where it is about one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// The reason.
    pub code: Reason,
    /// The column of the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "{} in `{column}`", self.code),
            None => self.code.fmt(f),
        }
    }
}
