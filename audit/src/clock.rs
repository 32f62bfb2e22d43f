//! Time, injected: the log asks nobody else what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

/// How far the clock may be behind the last entry before [`crate::LogError::ClockBack`]. Less than that (slewing, a
/// small correction) is evened out: the entry takes the last entry's time.
pub const CLOCK_TOLERANCE_MS: i64 = 2_000;

/// Where the log takes its time from.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
    fn now_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }
}

const MS_PER_DAY: i64 = 86_400_000;
/// 0001-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z: what four digits of year can say.
const EARLIEST_MS: i64 = -62_135_596_800_000;
const LATEST_MS: i64 = 253_402_300_799_999;

/// Length of `2025-01-31T23:59:59.999Z`.
pub(crate) const TIME_LEN: usize = 24;

/// Whether the instant can be written in a leaf.
pub(crate) fn writable(ms: i64) -> bool {
    (EARLIEST_MS..=LATEST_MS).contains(&ms)
}

/// RFC 3339 in UTC with milliseconds. Instants outside the writable years are clamped.
pub(crate) fn format_ms(ms: i64) -> [u8; TIME_LEN] {
    let ms = ms.clamp(EARLIEST_MS, LATEST_MS);
    let (year, month, day) = civil(ms.div_euclid(MS_PER_DAY));
    let in_day = ms.rem_euclid(MS_PER_DAY);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let fields = [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, in_day / 3_600_000),
        (14, 2, in_day / 60_000 % 60),
        (17, 2, in_day / 1_000 % 60),
        (20, 3, in_day % 1_000),
    ];
    for (at, width, mut value) in fields {
        for place in out.iter_mut().skip(at).take(width).rev() {
            *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    }
    out
}

/// The same as text, for messages.
pub(crate) fn text_ms(ms: i64) -> String {
    String::from_utf8_lossy(&format_ms(ms)).into_owned()
}

/// Reads exactly what [`format_ms`] writes; anything else is `None`.
pub(crate) fn parse_ms(text: &[u8; TIME_LEN]) -> Option<i64> {
    let number = |at: usize, width: usize| -> Option<i64> {
        text.iter()
            .skip(at)
            .take(width)
            .try_fold(0i64, |sum, byte| {
                byte.is_ascii_digit()
                    .then(|| sum * 10 + i64::from(byte - b'0'))
            })
    };
    let days = days(number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let in_day = number(11, 2)? * 3_600_000
        + number(14, 2)? * 60_000
        + number(17, 2)? * 1_000
        + number(20, 3)?;
    let ms = days * MS_PER_DAY + in_day;
    // Writing it again catches 30 February, 24:00 and wrong separators alike.
    (writable(ms) && &format_ms(ms) == text).then_some(ms)
}

/// Day since the epoch to year, month, day (proleptic Gregorian calendar); eras of 400 years from 1 March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_758_540_034_123, "2025-09-22T11:20:34.123Z"),
            (EARLIEST_MS, "0001-01-01T00:00:00.000Z"),
            (LATEST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(text_ms(ms), text);
            assert_eq!(parse_ms(&format_ms(ms)), Some(ms));
        }
    }

    #[test]
    fn only_the_canonical_text_is_read() {
        for text in [
            b"2025-02-29T00:00:00.000Z",
            b"2025-01-01T24:00:00.000Z",
            b"2025-01-01t00:00:00.000Z",
            b"2025-01-01T00:00:60.000Z",
            b"2025-13-01T00:00:00.000Z",
            b"0000-01-01T00:00:00.000Z",
            b"2025-01-01T00:00:00,000Z",
        ] {
            assert_eq!(parse_ms(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn time_survives(ms in EARLIEST_MS..=LATEST_MS) {
            proptest::prop_assert_eq!(parse_ms(&format_ms(ms)), Some(ms));
        }
    }
}
