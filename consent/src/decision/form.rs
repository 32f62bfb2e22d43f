//! How a cell is shown: clear, masked or in buckets.
//!
//! Promise: a form keeps the type of its column, is a pure function of the value alone, and never fails. The list of
//! masks and buckets is closed; an agreement chooses one and its parameters. These definitions are the only ones: the
//! gate applies them column by column, the preview value by value.

use std::fmt;

use chrono::{Datelike, NaiveDate};
use qihui_catalog::{ColumnType, Date, Level};
use serde::{Deserialize, Serialize};

const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;
/// Asia/Shanghai is UTC+8.
const SHANGHAI_MICROS: i64 = 8 * 3600 * 1_000_000;

/// How a cell is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As it is.
    #[default]
    Clear,
    /// With a part of it hidden.
    Masked(Mask),
    /// As the lower bound of the bucket it lies in.
    Bucketed(Bucket),
}

/// What hides a part of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mask {
    /// Text: the first `head` and the last `tail` characters stay, three `*` stand for the rest, so that the length
    /// does not show. Text of no more than `head + tail` characters becomes three `*` altogether.
    KeepEnds {
        /// How many characters stay in front.
        head: u8,
        /// How many characters stay at the end.
        tail: u8,
    },
    /// A date or instant: the first day of its year.
    Year,
    /// A number: 0.
    Zero,
    /// Any type: no value at all, as if the cell were empty.
    Hide,
}

/// What makes a value coarser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    /// A number: the greatest multiple of this many whole units that is not above it.
    Width(u64),
    /// A date or instant: the first day of its month.
    Month,
    /// A date or instant: the first day of its quarter.
    Quarter,
    /// A date or instant: the first day of its year.
    Year,
}

/// A value of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    String(String),
    /// A day.
    Date(Date),
    /// True or false.
    Boolean(bool),
    /// A number, as a whole count of the column's smallest decimal place.
    Number(i128),
    /// Microseconds since the epoch, UTC.
    Timestamp(i64),
}

impl Form {
    /// What an agreement means that names no form.
    #[must_use]
    pub const fn default_for(level: Level, ty: ColumnType) -> Self {
        match level {
            Level::L1 | Level::L2 => Self::Clear,
            Level::L3 | Level::L4 => Self::Masked(Mask::default_for(ty)),
        }
    }

    /// Whether this form can be applied to a column of this type.
    #[must_use]
    pub const fn fits(self, ty: ColumnType) -> bool {
        match self {
            Self::Clear => true,
            Self::Masked(mask) => mask.fits(ty),
            Self::Bucketed(bucket) => bucket.fits(ty),
        }
    }

    /// The form that shows less; equal kinds are ordered by their parameters, so that the result does not depend on
    /// the order of the arguments.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Masked(a), Self::Masked(b)) => Self::Masked(a.max(b)),
            (Self::Bucketed(a), Self::Bucketed(b)) => Self::Bucketed(a.max(b)),
            (mask @ Self::Masked(_), _) | (_, mask @ Self::Masked(_)) => mask,
            (bucket @ Self::Bucketed(_), _) | (_, bucket @ Self::Bucketed(_)) => bucket,
            (Self::Clear, Self::Clear) => Self::Clear,
        }
    }

    /// The value as this form shows it in a column of type `ty`; none: an empty cell. A form that does not fit the
    /// value's type shows nothing.
    #[must_use]
    pub fn apply(self, ty: ColumnType, value: Value) -> Option<Value> {
        match (self, value) {
            (Self::Clear, value) => Some(value),
            (Self::Masked(mask), Value::String(text)) => mask.apply_str(&text).map(Value::String),
            (Self::Masked(mask), Value::Date(date)) => mask.apply_date(date).map(Value::Date),
            (Self::Masked(mask), Value::Number(_)) => mask.apply_number().map(Value::Number),
            (Self::Masked(mask), Value::Timestamp(micros)) => {
                mask.apply_timestamp(micros).map(Value::Timestamp)
            }
            (Self::Bucketed(bucket), Value::Date(date)) => bucket.apply_date(date).map(Value::Date),
            (Self::Bucketed(bucket), Value::Number(number)) => {
                bucket.apply_number(number, ty).map(Value::Number)
            }
            (Self::Bucketed(bucket), Value::Timestamp(micros)) => {
                bucket.apply_timestamp(micros).map(Value::Timestamp)
            }
            (Self::Masked(_), Value::Boolean(_))
            | (Self::Bucketed(_), Value::String(_) | Value::Boolean(_)) => None,
        }
    }
}

impl Mask {
    /// What stands for the hidden part of a text.
    pub const STARS: &'static str = "***";

    /// The mask of an L3 column for which an agreement names none.
    #[must_use]
    pub const fn default_for(ty: ColumnType) -> Self {
        match ty {
            ColumnType::String => Self::KeepEnds { head: 1, tail: 1 },
            ColumnType::Date | ColumnType::Timestamp => Self::Year,
            ColumnType::Int32 | ColumnType::Int64 | ColumnType::Decimal { .. } => Self::Zero,
            ColumnType::Boolean => Self::Hide,
        }
    }

    /// Whether this mask can be applied to a column of this type.
    #[must_use]
    pub const fn fits(self, ty: ColumnType) -> bool {
        match self {
            Self::KeepEnds { .. } => matches!(ty, ColumnType::String),
            Self::Year => matches!(ty, ColumnType::Date | ColumnType::Timestamp),
            Self::Zero => ty.is_number(),
            Self::Hide => true,
        }
    }

    /// The text as this mask shows it; none: an empty cell, also when the mask is not one for text.
    #[must_use]
    pub fn apply_str(self, text: &str) -> Option<String> {
        let Self::KeepEnds { head, tail } = self else {
            return None;
        };
        let (head, tail) = (usize::from(head), usize::from(tail));
        let count = text.chars().count();
        if count <= head + tail {
            return Some(Self::STARS.to_owned());
        }
        let front = text.chars().take(head);
        let back = text.chars().skip(count - tail);
        Some(front.chain(Self::STARS.chars()).chain(back).collect())
    }

    /// The day as this mask shows it; none: an empty cell.
    #[must_use]
    pub fn apply_date(self, date: Date) -> Option<Date> {
        match self {
            Self::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1),
            Self::KeepEnds { .. } | Self::Zero | Self::Hide => None,
        }
    }

    /// The instant, in microseconds, as this mask shows it; none: an empty cell.
    #[must_use]
    pub fn apply_timestamp(self, micros: i64) -> Option<i64> {
        on_shanghai_day(micros, |date| self.apply_date(date))
    }

    /// What stands for every number; none: an empty cell.
    #[must_use]
    pub const fn apply_number(self) -> Option<i128> {
        match self {
            Self::Zero => Some(0),
            Self::KeepEnds { .. } | Self::Year | Self::Hide => None,
        }
    }
}

impl Bucket {
    /// Whether this bucket can be applied to a column of this type. A width of 0, or one that no value of the type
    /// reaches, fits nothing.
    #[must_use]
    pub const fn fits(self, ty: ColumnType) -> bool {
        match self {
            Self::Width(width) => match units(width, ty) {
                Some(units) => units > 0 && units <= greatest(ty),
                None => false,
            },
            Self::Month | Self::Quarter | Self::Year => {
                matches!(ty, ColumnType::Date | ColumnType::Timestamp)
            }
        }
    }

    /// The lower bound of the bucket of `number`, both counted in the column's smallest decimal place. Where that lies
    /// below the least value of the type, the least value stands for it. None: the bucket does not fit the type.
    #[must_use]
    pub const fn apply_number(self, number: i128, ty: ColumnType) -> Option<i128> {
        let Self::Width(width) = self else {
            return None;
        };
        let Some(units) = units(width, ty) else {
            return None;
        };
        if units <= 0 {
            return None;
        }
        let bound = number.saturating_sub(number.rem_euclid(units));
        let least = least(ty);
        Some(if bound < least { least } else { bound })
    }

    /// The first day of the bucket; none: the bucket is not one for days.
    #[must_use]
    pub fn apply_date(self, date: Date) -> Option<Date> {
        let month = match self {
            Self::Width(_) => return None,
            Self::Month => date.month(),
            Self::Quarter => date.month0() / 3 * 3 + 1,
            Self::Year => 1,
        };
        NaiveDate::from_ymd_opt(date.year(), month, 1)
    }

    /// The first instant of the bucket, in microseconds, by the calendar of Asia/Shanghai; none: not a bucket for it.
    #[must_use]
    pub fn apply_timestamp(self, micros: i64) -> Option<i64> {
        on_shanghai_day(micros, |date| self.apply_date(date))
    }
}

/// The start of the day that `floor` makes of the Shanghai day of an instant.
fn on_shanghai_day(micros: i64, floor: impl FnOnce(Date) -> Option<Date>) -> Option<i64> {
    let epoch = chrono::DateTime::UNIX_EPOCH.date_naive();
    let days = micros
        .saturating_add(SHANGHAI_MICROS)
        .div_euclid(DAY_MICROS);
    let day = epoch.checked_add_signed(chrono::TimeDelta::try_days(days)?)?;
    floor(day)?
        .signed_duration_since(epoch)
        .num_days()
        .checked_mul(DAY_MICROS)?
        .checked_sub(SHANGHAI_MICROS)
}

/// How many of the column's smallest decimal place make `width` whole units.
const fn units(width: u64, ty: ColumnType) -> Option<i128> {
    match ty.scale() {
        Some(scale) => match 10_i128.checked_pow(scale) {
            Some(one) => one.checked_mul(width as i128),
            None => None,
        },
        None => None,
    }
}

/// The greatest number of a type, in its smallest decimal place.
const fn greatest(ty: ColumnType) -> i128 {
    match ty {
        ColumnType::Int32 => i32::MAX as i128,
        ColumnType::Int64 => i64::MAX as i128,
        ColumnType::Decimal { precision, .. } => match 10_i128.checked_pow(precision as u32) {
            Some(beyond) => beyond - 1,
            None => i128::MAX,
        },
        ColumnType::String | ColumnType::Date | ColumnType::Boolean | ColumnType::Timestamp => 0,
    }
}

/// The least number of a type, in its smallest decimal place.
const fn least(ty: ColumnType) -> i128 {
    match ty {
        ColumnType::Int32 => i32::MIN as i128,
        ColumnType::Int64 => i64::MIN as i128,
        _ => -greatest(ty),
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.pad("clear"),
            Self::Masked(Mask::KeepEnds { head, tail }) => {
                write!(f, "masked(keep_ends {head}, {tail})")
            }
            Self::Masked(Mask::Year) => f.pad("masked(year)"),
            Self::Masked(Mask::Zero) => f.pad("masked(zero)"),
            Self::Masked(Mask::Hide) => f.pad("masked(hide)"),
            Self::Bucketed(Bucket::Width(width)) => write!(f, "bucketed(width {width})"),
            Self::Bucketed(Bucket::Month) => f.pad("bucketed(month)"),
            Self::Bucketed(Bucket::Quarter) => f.pad("bucketed(quarter)"),
            Self::Bucketed(Bucket::Year) => f.pad("bucketed(year)"),
        }
    }
}
