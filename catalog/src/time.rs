//! Instants and dates.
//!
//! An instant is a count of milliseconds since 1970-01-01T00:00:00Z. The civil calendar of the hub is that of
//! Asia/Shanghai, which has been UTC+8 without daylight saving time since 1992: every instant that the hub itself
//! makes lies after that.

use std::{fmt, str::FromStr};

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Coded, Kind};

/// A day of the civil calendar, without a time zone.
pub type Date = NaiveDate;

const SHANGHAI_OFFSET_MS: i64 = 8 * 3_600_000;
const DAY_MS: i64 = 24 * 3_600_000;

/// An instant: milliseconds since the epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// Text that is not an instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a time: write it as 2026-01-31T08:00:00Z, or as a date 2026-01-31 (its start in Asia/Shanghai)"
)]
pub struct TimestampError;

impl Coded for TimestampError {
    fn code(&self) -> &'static str {
        "InvalidTime"
    }

    fn kind(&self) -> Kind {
        Kind::Usage
    }
}

impl Timestamp {
    /// The first instant of `date` in Asia/Shanghai.
    #[must_use]
    pub fn start_of(date: Date) -> Self {
        let epoch = DateTime::UNIX_EPOCH.date_naive();
        Self((date - epoch).num_days() * DAY_MS - SHANGHAI_OFFSET_MS)
    }

    /// The day in Asia/Shanghai; instants beyond the calendar give its first or last day.
    #[must_use]
    pub fn shanghai_date(self) -> Date {
        let days = self.0.saturating_add(SHANGHAI_OFFSET_MS).div_euclid(DAY_MS);
        let limit = if days < 0 { Date::MIN } else { Date::MAX };
        TimeDelta::try_days(days)
            .and_then(|delta| DateTime::UNIX_EPOCH.date_naive().checked_add_signed(delta))
            .unwrap_or(limit)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with milliseconds and `Z`; an instant beyond the calendar as `<milliseconds>ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp_millis(self.0) {
            Some(time) => f.pad(&time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => write!(f, "{}ms", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// RFC 3339 with any offset, or a date, which means its first instant in Asia/Shanghai.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.timestamp_millis()));
        }
        parse_date(text).map(Self::start_of).ok_or(TimestampError)
    }
}

/// Reads `yyyy-mm-dd`, exactly ten characters.
#[must_use]
pub fn parse_date(text: &str) -> Option<Date> {
    let bytes = text.as_bytes();
    let digit = |b: &u8| b.is_ascii_digit();
    match bytes {
        [y @ .., b'-', m1, m2, b'-', d1, d2]
            if y.len() == 4 && y.iter().chain([m1, m2, d1, d2]).all(digit) =>
        {
            Date::from_ymd_opt(
                text[..4].parse().ok()?,
                text[5..7].parse().ok()?,
                text[8..].parse().ok()?,
            )
        }
        _ => None,
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        parse_date(text).unwrap()
    }

    #[test]
    fn instants_round_trip_as_text() {
        for ms in [0, 1, -1, 1_767_196_800_123, -62_000_000_000_000] {
            let time = Timestamp(ms);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
        assert_eq!(
            Timestamp(1_767_196_800_123).to_string(),
            "2025-12-31T16:00:00.123Z"
        );
        assert_eq!(
            "2026-01-01T00:00:00.123+08:00".parse(),
            Ok(Timestamp(1_767_196_800_123))
        );
    }

    #[test]
    fn a_date_means_its_start_in_shanghai() {
        let time: Timestamp = "2026-01-01".parse().unwrap();
        assert_eq!(time.to_string(), "2025-12-31T16:00:00.000Z");
        assert_eq!(time.shanghai_date(), date("2026-01-01"));
        assert_eq!(Timestamp(time.0 - 1).shanghai_date(), date("2025-12-31"));
    }

    #[test]
    fn extreme_instants_do_not_panic() {
        for ms in [i64::MIN, i64::MAX] {
            let time = Timestamp(ms);
            let _ = (time.to_string(), time.shanghai_date());
        }
        assert_eq!(Timestamp(i64::MIN).shanghai_date(), Date::MIN);
        assert_eq!(Timestamp(i64::MAX).shanghai_date(), Date::MAX);
        let _ = (
            Timestamp::start_of(Date::MIN),
            Timestamp::start_of(Date::MAX),
        );
    }

    #[test]
    fn dates_have_one_form() {
        assert_eq!(parse_date("2024-02-29"), Date::from_ymd_opt(2024, 2, 29));
        for bad in [
            "2023-02-29",
            "2024-2-29",
            "20240229",
            "+024-02-29",
            "2024-02-29 ",
            "二〇二四",
            "",
            "年-02-29",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }
}
