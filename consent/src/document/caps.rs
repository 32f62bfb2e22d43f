//! The caps of a purpose: the most that a consent for it may give.

use qihui_catalog::{Caps, Catalog, Frequency, Period};

use super::{ConsentDocument, ScopeLine};
use crate::error::{LedgerError, Result};

const DAY_MS: i64 = 24 * 3_600_000;

impl ConsentDocument {
    /// What the purpose allows at most.
    pub(super) fn check_caps(&self, caps: &Caps, catalog: &Catalog) -> Result<()> {
        let purpose = || self.purpose.code.clone();
        let beyond = |what, asked: String, cap: String| {
            Err(LedgerError::BeyondCap {
                what,
                asked,
                purpose: purpose(),
                cap,
            })
        };
        let length_ms = self.expires.0.saturating_sub(self.starts.0);
        if length_ms > i64::from(caps.max_validity_days).saturating_mul(DAY_MS) {
            let days = length_ms.unsigned_abs().div_ceil(DAY_MS.unsigned_abs());
            return Err(LedgerError::ExpiryBeyondCap {
                days,
                purpose: purpose(),
                cap: caps.max_validity_days,
            });
        }
        if self.data_life_days > caps.data_life_days {
            let (asked, cap) = (self.data_life_days, caps.data_life_days);
            return beyond(
                "the receiver would keep data for",
                format!("{asked} days"),
                format!("{cap} days"),
            );
        }
        if let Some(cap) = caps.max_range_days {
            let is_dated = |line: &&ScopeLine| {
                catalog
                    .contracts
                    .get(&line.dataset)
                    .is_some_and(|contract| contract.event_date.is_some())
            };
            for line in self.scope.iter().filter(is_dated) {
                let range = line.data_range.unwrap_or_default();
                let days = range
                    .from
                    .zip(range.to)
                    .map(|(from, to)| to.signed_duration_since(from).num_days());
                // A range without both ends is longer than any cap.
                if days.is_none_or(|days| days > i64::from(cap)) {
                    let asked = days.map_or_else(
                        || "without both ends".to_owned(),
                        |days| format!("of {days} days"),
                    );
                    return beyond("a data range", asked, format!("{cap} days"));
                }
            }
        }
        match (caps.frequency, self.frequency) {
            (Some(cap), Some(asked)) if !keeps(asked, cap) => {
                beyond("a use", worded(asked), worded(cap))
            }
            (Some(cap), None) => beyond("a use", "as often as one likes".to_owned(), worded(cap)),
            _ => Ok(()),
        }
    }
}

/// Whether using something as often as `asked` can never be more often than `cap`.
fn keeps(asked: Frequency, cap: Frequency) -> bool {
    /// How many spans of `inner` a span of `outer` can meet at most.
    const fn spans(inner: Period, outer: Period) -> u64 {
        match (inner, outer) {
            (Period::Day, Period::Week) => 7,
            (Period::Day, Period::Month) => 31,
            (Period::Day, Period::Year) => 366,
            (Period::Week, Period::Month) => 6,
            (Period::Week, Period::Year) => 54,
            (Period::Month, Period::Year) => 12,
            _ => 1,
        }
    }
    // A span that crosses the border of a longer one can meet two of them.
    let crossing = matches!(
        (asked.per, cap.per),
        (Period::Month | Period::Year, Period::Week)
    );
    let most = u64::from(asked.count) * spans(asked.per, cap.per) * if crossing { 2 } else { 1 };
    most <= u64::from(cap.count)
}

/// A frequency in words.
pub(crate) fn worded(frequency: Frequency) -> String {
    let per = match frequency.per {
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
        Period::Year => "year",
    };
    format!("{} times a {per}", frequency.count)
}
