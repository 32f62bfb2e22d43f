//! Months, and the span a generation covers.
//!
//! The last month is fixed ([`LAST`]), so that equal options give equal bytes whenever they are run; `months` counts back
//! from there. One file per feed and month, plus one for corrections of the last month that arrive later.

use chrono::{Datelike, Days, NaiveDate};

/// A calendar month: months since year 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Month(i32);

/// June 2026, the last month that is generated.
pub(crate) const LAST: Month = Month::new(2026, 6);

/// A day that stands for an impossible date; no generated date reaches it.
const EPOCH: NaiveDate = NaiveDate::MIN;

impl Month {
    /// Month `month` (1 to 12) of `year`.
    pub(crate) const fn new(year: i32, month: i32) -> Self {
        Self(year * 12 + month - 1)
    }

    /// The month of a date.
    pub(crate) fn of(date: NaiveDate) -> Self {
        Self(date.year() * 12 + i32::try_from(date.month0()).unwrap_or(0))
    }

    /// The month `count` later (or earlier).
    pub(crate) const fn plus(self, count: i32) -> Self {
        Self(self.0 + count)
    }

    /// Whole months from `earlier` to this one.
    pub(crate) const fn since(self, earlier: Self) -> i32 {
        self.0 - earlier.0
    }

    pub(crate) const fn year(self) -> i32 {
        self.0.div_euclid(12)
    }

    /// 1 to 12.
    pub(crate) fn number(self) -> u32 {
        u32::try_from(self.0.rem_euclid(12)).unwrap_or(0) + 1
    }

    /// The given day, held within the month.
    pub(crate) fn day(self, day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(self.year(), self.number(), day.max(1))
            .unwrap_or_else(|| self.last_day())
    }

    pub(crate) fn last_day(self) -> NaiveDate {
        let next = self.plus(1);
        NaiveDate::from_ymd_opt(next.year(), next.number(), 1)
            .and_then(|day| day.pred_opt())
            .unwrap_or(EPOCH)
    }
}

/// `date` plus a number of days (or minus, when negative).
pub(crate) fn add_days(date: NaiveDate, days: i64) -> NaiveDate {
    let count = Days::new(days.unsigned_abs());
    let moved = if days >= 0 {
        date.checked_add_days(count)
    } else {
        date.checked_sub_days(count)
    };
    moved.unwrap_or(date)
}

/// The same day `years` later; 29 February becomes the 28th.
pub(crate) fn add_years(date: NaiveDate, years: i32) -> NaiveDate {
    Month::of(date).plus(years * 12).day(date.day())
}

/// The months of one generation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    first: Month,
    count: u32,
}

impl Span {
    /// `count` months ending with [`LAST`].
    pub(crate) fn ending_last(count: u32) -> Self {
        let back = i32::try_from(count).unwrap_or(0) - 1;
        Self {
            first: LAST.plus(-back),
            count,
        }
    }

    pub(crate) fn months(self) -> impl Iterator<Item = Month> + Clone {
        (0..i32::try_from(self.count).unwrap_or(0)).map(move |offset| self.first.plus(offset))
    }

    /// First day of the span.
    pub(crate) fn start(self) -> NaiveDate {
        self.first.day(1)
    }

    /// Last day of the span.
    pub(crate) fn end(self) -> NaiveDate {
        LAST.last_day()
    }

    /// Files of a feed: one per month and one for what arrives after the last.
    pub(crate) const fn files(self) -> usize {
        self.count as usize + 1
    }

    /// The month that file `index` is named after.
    pub(crate) fn file_month(self, index: usize) -> Month {
        self.first.plus(i32::try_from(index).unwrap_or(0))
    }

    /// The file in which something that became known on `date` is delivered; earlier things are in the first.
    pub(crate) fn file_of(self, date: NaiveDate) -> usize {
        let offset = Month::of(date).since(self.first);
        usize::try_from(offset)
            .unwrap_or(0)
            .min(self.count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn months_and_days() {
        let month = Month::new(2024, 2);
        assert_eq!(month.last_day(), date("2024-02-29"));
        assert_eq!(month.day(31), date("2024-02-29"));
        assert_eq!(month.plus(-2).day(7), date("2023-12-07"));
        assert_eq!(add_years(date("2024-02-29"), 1), date("2025-02-28"));
        assert_eq!(add_days(date("2024-03-01"), -1), date("2024-02-29"));
    }

    #[test]
    fn a_span_ends_in_the_last_month() {
        let span = Span::ending_last(12);
        assert_eq!(span.start(), date("2025-07-01"));
        assert_eq!(span.end(), date("2026-06-30"));
        assert_eq!(span.months().count(), 12);
        assert_eq!(span.file_of(date("2019-01-01")), 0);
        assert_eq!(span.file_of(date("2026-06-30")), 11);
        assert_eq!(span.file_of(date("2027-06-30")), 12);
    }
}
