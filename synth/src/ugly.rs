//! What is done to records so that they are as ugly as real ones, and what must become of them.
//!
//! Each record of a feed meets at most one fate, drawn on its own, so that the manifest can say exactly what a hub must
//! count. *Defects* replace the record; *extras* follow an intact record.

use qihui_catalog::FeedFormat;

use crate::draw::Draw;

/// One kind of ugliness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The last symbol of the USCC is another one.
    BadCheckDigit,
    /// A letter of the USCC is one that no code has (`O` for `0`).
    BadSymbol,
    /// An old 15-digit registration number stands where the USCC should.
    OldNumber,
    /// The USCC is written in lower case, with a blank behind it: to be mended.
    LowerCase,
    /// A byte that the encoding does not allow.
    WrongBytes,
    /// A NUL byte.
    Nul,
    /// A day that does not exist.
    BadDate,
    /// A code that is in no list.
    UnknownCode,
    /// A field longer than any hub takes.
    Overlong,
    /// The record is cut short: a line ends too early, a message has no list, a row of a workbook is shifted out of
    /// its table.
    Torn,
    /// The same record once more.
    Duplicate,
    /// A later version in a later file.
    Correction,
    /// A later record takes it back.
    Retraction,
    /// A later version under the same key names another enterprise.
    ChangedUscc,
}

/// What must become of the record that the ugliness is in, or that it adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Landed,
    Unchanged,
    Retracted,
    Quarantined(&'static str),
}

impl Kind {
    pub(crate) const ALL: [Self; 14] = [
        Self::BadCheckDigit,
        Self::BadSymbol,
        Self::OldNumber,
        Self::LowerCase,
        Self::WrongBytes,
        Self::Nul,
        Self::BadDate,
        Self::UnknownCode,
        Self::Overlong,
        Self::Torn,
        Self::Duplicate,
        Self::Correction,
        Self::Retraction,
        Self::ChangedUscc,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BadCheckDigit => "bad_check_digit",
            Self::BadSymbol => "bad_symbol",
            Self::OldNumber => "old_number",
            Self::LowerCase => "lower_case",
            Self::WrongBytes => "wrong_bytes",
            Self::Nul => "nul",
            Self::BadDate => "bad_date",
            Self::UnknownCode => "unknown_code",
            Self::Overlong => "overlong",
            Self::Torn => "torn",
            Self::Duplicate => "duplicate",
            Self::Correction => "correction",
            Self::Retraction => "retraction",
            Self::ChangedUscc => "changed_uscc",
        }
    }

    /// The outcome; reasons bear the names that ingestion gives them. Formats differ only in what a torn record is.
    pub(crate) const fn outcome(self, format: FeedFormat) -> Outcome {
        match self {
            Self::BadCheckDigit => Outcome::Quarantined("UsccCheckDigit"),
            Self::BadSymbol => Outcome::Quarantined("UsccSymbol"),
            Self::OldNumber => Outcome::Quarantined("UsccLength"),
            Self::WrongBytes => Outcome::Quarantined("BadEncoding"),
            Self::Nul => Outcome::Quarantined("NulByte"),
            Self::BadDate => Outcome::Quarantined("BadDate"),
            Self::UnknownCode => Outcome::Quarantined("UnknownCode"),
            Self::Overlong => Outcome::Quarantined("FieldTooLong"),
            Self::Torn => Outcome::Quarantined(match format {
                FeedFormat::JsonLines => "BadJson",
                FeedFormat::Xml => "NoLines",
                FeedFormat::Csv | FeedFormat::Xlsx => "FieldCount",
            }),
            Self::ChangedUscc => Outcome::Quarantined("UsccChanged"),
            Self::LowerCase | Self::Correction => Outcome::Landed,
            Self::Duplicate => Outcome::Unchanged,
            Self::Retraction => Outcome::Retracted,
        }
    }

    /// Whether it adds a record instead of spoiling one.
    pub(crate) const fn is_extra(self) -> bool {
        matches!(
            self,
            Self::Duplicate | Self::Correction | Self::Retraction | Self::ChangedUscc
        )
    }

    /// How common it is among the ugly.
    const fn weight(self) -> u32 {
        match self {
            Self::Overlong => 1,
            Self::Nul | Self::Torn | Self::BadSymbol | Self::OldNumber => 60,
            Self::Duplicate | Self::Correction => 180,
            Self::BadCheckDigit | Self::LowerCase | Self::BadDate => 120,
            Self::WrongBytes | Self::UnknownCode | Self::Retraction | Self::ChangedUscc => 80,
        }
    }

    /// One of the kinds that are `possible` (in the order of [`Kind::ALL`]).
    pub(crate) fn draw(draw: &mut Draw, possible: &[bool; Self::ALL.len()]) -> Option<Self> {
        let weights = Self::ALL
            .iter()
            .zip(possible)
            .map(|(kind, possible)| if *possible { kind.weight() } else { 0 });
        weights
            .clone()
            .any(|weight| weight > 0)
            .then(|| Self::ALL[draw.weighted(weights)])
    }
}
