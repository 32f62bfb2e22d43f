//! Contracts: what a dataset is, who answers for it, and how much of it may be seen.
//!
//! A contract is written in the Open Data Contract Standard v3.0.2 ([`Contract::from_yaml`]); in memory it is a
//! [`Contract`]. What a contract promises once it was read: its names resolve, its types fit their roles, its levels
//! make sense, and its hash identifies it.

mod check;
pub(crate) mod odcs;
pub(crate) mod read;
mod read_column;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;

use crate::{
    ids::{DatasetId, FeedName},
    level::Level,
    time::Date,
};

/// The name of the enterprise column of every dataset.
pub const USCC_COLUMN: &str = "uscc";
/// The greatest number of columns of a contract: scopes keep one bit per column in a `u128`.
pub const MAX_COLUMNS: usize = 128;

/// The type of a column. There are no floats: amounts are decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// UTF-8 text.
    String,
    /// A day of the civil calendar.
    Date,
    /// True or false.
    Boolean,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A decimal number.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: i8,
    },
    /// An instant, microseconds, UTC.
    Timestamp,
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.pad("string"),
            Self::Date => f.pad("date"),
            Self::Boolean => f.pad("boolean"),
            Self::Int32 => f.pad("int32"),
            Self::Int64 => f.pad("int64"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Timestamp => f.pad("timestamp"),
        }
    }
}

impl ColumnType {
    /// Whether values of this type are numbers.
    #[must_use]
    pub const fn is_number(self) -> bool {
        matches!(self, Self::Int32 | Self::Int64 | Self::Decimal { .. })
    }

    /// Digits after the point: 0 for integers, none for what is not a number.
    #[must_use]
    pub const fn scale(self) -> Option<u32> {
        match self {
            Self::Int32 | Self::Int64 => Some(0),
            Self::Decimal { scale, .. } => Some(scale.unsigned_abs() as u32),
            _ => None,
        }
    }
}

/// What an amount counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unit {
    /// The currency itself (yuan), or a plain number.
    #[default]
    One,
    /// Ten thousand of it (万元).
    TenThousand,
}

/// A code list that the values of a column come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeListRef {
    /// The name of the list, known to [`crate::codes::CodeList::get`].
    pub name: String,
    /// The date column that says which edition of the list holds; without it any edition does.
    pub at: Option<String>,
}

/// A rule that the values of a column keep. Null keeps every rule but [`QualityRule::NotNull`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QualityRule {
    /// There is a value.
    NotNull,
    /// The value lies between two bounds, both included.
    Range {
        /// The least value.
        min: Option<Bound>,
        /// The greatest value.
        max: Option<Bound>,
    },
    /// The text has this many characters, both bounds included.
    Length {
        /// The least count.
        min: u32,
        /// The greatest count.
        max: u32,
    },
    /// The text fits a pattern.
    Pattern(Pattern),
    /// The date is not after the date of another column of the row.
    NotAfter {
        /// The later column.
        column: String,
    },
}

/// A bound of a range, in the terms of the column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// A number, as a whole count of the column's smallest decimal place: 1.5 at scale 2 is 150.
    Number(i128),
    /// A day.
    Date(Date),
}

/// A text pattern without repetition: `9` stands for a digit, `A` for a capital letter, `N` for either, every other
/// character for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// The longest pattern, in characters.
    pub const MAX: usize = 64;

    /// Takes `template` as a pattern, unless it is empty or longer than [`Pattern::MAX`].
    #[must_use]
    pub fn new(template: &str) -> Option<Self> {
        (1..=Self::MAX)
            .contains(&template.chars().count())
            .then(|| Self(template.to_owned()))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` fits, character for character.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut characters = text.chars();
        let fits = self.0.chars().all(|wanted| {
            characters.next().is_some_and(|c| match wanted {
                '9' => c.is_ascii_digit(),
                'A' => c.is_ascii_uppercase(),
                'N' => c.is_ascii_digit() || c.is_ascii_uppercase(),
                _ => c == wanted,
            })
        });
        fits && characters.next().is_none()
    }
}

/// A column of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name, `[a-z][a-z0-9_]*`.
    pub name: String,
    /// The Chinese title.
    pub title_cn: String,
    /// What it means, in English.
    pub description: String,
    /// The type.
    pub ty: ColumnType,
    /// Whether a row may lack it.
    pub nullable: bool,
    /// How sensitive it is.
    pub level: Level,
    /// The boolean column that opens this one in a row where it is true.
    pub public_when: Option<String>,
    /// The list its values come from.
    pub code_list: Option<CodeListRef>,
    /// Further rules.
    pub quality: Vec<QualityRule>,
    /// What the stored amounts count; a feed may give them in another unit ([`crate::FeedSpec::unit_of`]).
    pub unit: Unit,
}

/// How the table is cut by event date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Partition {
    /// Not at all.
    #[default]
    None,
    /// By year.
    Year,
    /// By month.
    Month,
}

/// When a row may be shown at all, in days of Asia/Shanghai.
///
/// A row is inside when `from` is a past or present day, every column of `until` is null or a future day, and the day
/// `max_years_after` names plus its years is a future day. A null `from` or `max_years_after` date: not inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DisclosureWindow {
    /// The first day of disclosure.
    pub from: Option<String>,
    /// The days on which disclosure has ended; any of them ends it.
    pub until: Vec<String>,
    /// A date column and the number of years after it when disclosure ends.
    pub max_years_after: Option<(String, u32)>,
}

impl DisclosureWindow {
    /// Whether a row is inside the window on a day, given its dates by column name.
    ///
    /// This is the definition; whoever checks many rows at once must agree with it.
    #[must_use]
    pub fn is_open(&self, today: Date, date_of: impl Fn(&str) -> Option<Date>) -> bool {
        let begun = self
            .from
            .as_ref()
            .is_none_or(|from| date_of(from).is_some_and(|from| from <= today));
        let not_ended = self
            .until
            .iter()
            .all(|until| date_of(until).is_none_or(|until| until > today));
        let within_years = self.max_years_after.as_ref().is_none_or(|(column, years)| {
            date_of(column).is_some_and(|date| years_after(date, *years) > today)
        });
        begun && not_ended && within_years
    }
}

/// The same day so many years later; 29 February becomes the 28th; beyond the calendar, its last day.
#[must_use]
pub fn years_after(date: Date, years: u32) -> Date {
    date.checked_add_months(chrono::Months::new(years.saturating_mul(12)))
        .unwrap_or(Date::MAX)
}

/// A dataset's contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// The dataset.
    pub id: DatasetId,
    /// The version of the contract, `major.minor.patch`.
    pub version: String,
    /// The English title.
    pub title_en: String,
    /// The Chinese title.
    pub title_cn: String,
    /// What a row is, in English.
    pub description: String,
    /// What a row is, in Chinese.
    pub description_cn: String,
    /// The department that supplies it and answers for it.
    pub owner: String,
    /// The level of a row's existence.
    pub row_level: Level,
    /// The columns that identify a row.
    pub key: Vec<String>,
    /// The enterprise column: always [`USCC_COLUMN`].
    pub uscc: String,
    /// The date that a grant's data range speaks about.
    pub event_date: Option<String>,
    /// The columns that order the versions of a row, most significant first.
    pub sequence: Vec<String>,
    /// How the table is cut.
    pub partition: Partition,
    /// When rows may be shown.
    pub window: Option<DisclosureWindow>,
    /// How many days old the newest data may be.
    pub freshness_days: Option<u32>,
    /// The feeds that may fill it.
    pub feeds: Vec<FeedName>,
    /// Every column, in order, with those of level L4, which a decoder knows in order to drop them.
    pub columns: Vec<Column>,
    /// SHA-256 of the canonical JSON.
    pub hash: [u8; 32],
}

impl Contract {
    /// Every column in order, with those of level L4.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The columns that exist in the table, in order: all but those of level L4.
    pub fn landed(&self) -> impl Iterator<Item = &Column> + Clone {
        self.columns
            .iter()
            .filter(|column| column.level != Level::L4)
    }

    /// The column of this name, L4 included.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}
