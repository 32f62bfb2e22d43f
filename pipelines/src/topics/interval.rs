//! The interval map: what a subscriber was brought to, by enterprise number.
//!
//! Promise: the intervals cover every number exactly once, ascending, and no two neighbours say the same. An interval
//! names every view that the subscriber *may* hold of it: one as a rule, several after a page whose arrival is unknown
//! and that could not be repeated as it was. `None` is "nothing".

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use qihui_query::access::delivery::ViewKey;
use serde::{Deserialize, Serialize};

/// The views that a subscriber may hold.
pub type Bases = BTreeSet<Option<ViewKey>>;

/// A run of enterprise numbers with what the subscriber may hold of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The first number.
    pub from: u32,
    /// The last number.
    pub to: u32,
    /// What may be held. Never empty.
    pub bases: Bases,
}

impl Interval {
    /// The numbers.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<u32> {
        self.from..=self.to
    }

    /// Whether the subscriber holds exactly this view here.
    #[must_use]
    pub fn is_at(&self, view: &ViewKey) -> bool {
        self.bases.len() == 1 && self.bases.contains(&Some(view.clone()))
    }

    /// Whether the subscriber may hold nothing yet.
    fn may_hold_nothing(&self) -> bool {
        self.bases.contains(&None)
    }
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Interval>", into = "Vec<Interval>")]
pub struct IntervalMap(Vec<Interval>);

impl Default for IntervalMap {
    /// Nothing was brought of anybody.
    fn default() -> Self {
        Self(vec![Interval {
            from: 0,
            to: u32::MAX,
            bases: BTreeSet::from([None]),
        }])
    }
}

impl TryFrom<Vec<Interval>> for IntervalMap {
    type Error = &'static str;

    fn try_from(intervals: Vec<Interval>) -> Result<Self, Self::Error> {
        let mut next = Some(0);
        for interval in &intervals {
            if next != Some(interval.from)
                || interval.to < interval.from
                || interval.bases.is_empty()
            {
                return Err("the intervals do not cover every enterprise once");
            }
            next = interval.to.checked_add(1);
        }
        if next.is_some() {
            return Err("the intervals end too early");
        }
        Ok(Self(intervals))
    }
}

impl From<IntervalMap> for Vec<Interval> {
    fn from(map: IntervalMap) -> Self {
        map.0
    }
}

impl IntervalMap {
    /// The intervals, ascending.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        &self.0
    }

    /// What is due next when `view` is the present one: among what fell behind the oldest, and what was never brought. That
    /// comes last, so that changes arrive while a first delivery is still under way; or, with `new_first`, first, so that
    /// it goes on while there are changes. None: everything is at `view`.
    #[must_use]
    pub fn due(&self, view: &ViewKey, new_first: bool) -> Option<&Interval> {
        let behind = |interval: &&Interval| !interval.is_at(view);
        let age = |interval: &&Interval| {
            let oldest = interval
                .bases
                .iter()
                .flatten()
                .map(|key| (key.version, key.day))
                .min();
            (interval.may_hold_nothing() != new_first, oldest)
        };
        self.0.iter().filter(behind).min_by_key(age)
    }

    /// In how many views what is held of an enterprise may be, at most.
    #[must_use]
    pub fn uncertainty(&self) -> usize {
        let bases = self.0.iter().map(|interval| interval.bases.len());
        bases.max().unwrap_or(0)
    }

    /// Sets what is held of a range.
    pub fn set(&mut self, range: &RangeInclusive<u32>, bases: &Bases) {
        let (from, to) = (*range.start(), *range.end());
        if from > to || bases.is_empty() {
            return;
        }
        let mut next: Vec<Interval> = Vec::with_capacity(self.0.len() + 2);
        let mut push = |interval: Interval| match next.last_mut() {
            Some(last) if last.bases == interval.bases => last.to = interval.to,
            _ => next.push(interval),
        };
        for interval in &self.0 {
            if interval.to < from || to < interval.from {
                push(interval.clone());
                continue;
            }
            if interval.from < from {
                push(Interval {
                    to: from - 1,
                    ..interval.clone()
                });
            }
            push(Interval {
                from: interval.from.max(from),
                to: interval.to.min(to),
                bases: bases.clone(),
            });
            if interval.to > to {
                push(Interval {
                    from: to + 1,
                    ..interval.clone()
                });
            }
        }
        self.0 = next;
    }

    /// Adds a view that may be held of a range, beside what is there.
    pub fn add(&mut self, range: &RangeInclusive<u32>, view: &ViewKey) {
        for interval in self.0.clone() {
            let from = interval.from.max(*range.start());
            let to = interval.to.min(*range.end());
            let mut bases = interval.bases;
            bases.insert(Some(view.clone()));
            self.set(&(from..=to), &bases);
        }
    }

    /// Whether nothing at all may be held of a number.
    #[must_use]
    pub fn holds_nothing(&self, no: u32) -> bool {
        let at = self.0.partition_point(|interval| interval.to < no);
        self.0
            .get(at)
            .is_some_and(|interval| interval.bases.iter().all(Option::is_none))
    }

    /// Every view that may be held of something.
    pub fn views(&self) -> impl Iterator<Item = &ViewKey> {
        self.0
            .iter()
            .flat_map(|interval| interval.bases.iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view(version: i64) -> ViewKey {
        ViewKey {
            scope: "00".repeat(32),
            version,
            day: "2026-07-01".parse().unwrap(),
        }
    }

    fn bases(version: u8) -> Bases {
        BTreeSet::from([(version > 0).then(|| view(version.into()))])
    }

    proptest! {
        #[test]
        fn an_interval_map_is_a_function_of_numbers(
            sets in prop::collection::vec((0_u32..40, 0_u32..40, 0_u8..4, any::<bool>()), 1..30),
        ) {
            let mut map = IntervalMap::default();
            let mut model: Vec<Bases> = vec![bases(0); 42];
            for (a, b, version, add) in sets {
                let range = a.min(b)..=a.max(b);
                if add {
                    map.add(&range, &view(version.into()));
                } else {
                    map.set(&range, &bases(version));
                }
                for no in range {
                    let slot = &mut model[no as usize];
                    if add {
                        slot.insert(Some(view(version.into())));
                    } else {
                        *slot = bases(version);
                    }
                }
                let again = IntervalMap::try_from(Vec::from(map.clone()));
                prop_assert_eq!(again.as_ref(), Ok(&map));
                prop_assert!(map.intervals().windows(2).all(|two| two[0].bases != two[1].bases));
                for (no, expected) in (0..).zip(&model) {
                    let found = map.intervals().iter().find(|i| i.range().contains(&no)).unwrap();
                    prop_assert_eq!(&found.bases, expected);
                    prop_assert_eq!(map.holds_nothing(no), *expected == bases(0));
                }
            }
        }
    }

    #[test]
    fn what_fell_behind_is_due_before_what_was_never_brought() {
        let mut map = IntervalMap::default();
        map.set(&(0..=9), &bases(2));
        map.set(&(10..=19), &bases(1));
        assert_eq!(map.due(&view(3), false).unwrap().range(), 10..=19);
        assert_eq!(map.due(&view(3), true).unwrap().range(), 20..=u32::MAX);
        map.set(&(10..=19), &bases(3));
        assert_eq!(map.due(&view(3), false).unwrap().range(), 0..=9);
        map.set(&(0..=9), &bases(3));
        assert_eq!(map.due(&view(3), false).unwrap().range(), 20..=u32::MAX);
        map.set(&(20..=u32::MAX), &bases(3));
        assert_eq!(map.due(&view(3), true), None);
        assert_eq!(map.intervals().len(), 1);
    }

    #[test]
    fn an_interval_map_with_a_gap_is_refused() {
        for text in [
            "[]",
            r#"[{"from":0,"to":5,"bases":[null]}]"#,
            r#"[{"from":1,"to":4294967295,"bases":[null]}]"#,
            r#"[{"from":0,"to":4294967295,"bases":[]}]"#,
        ] {
            assert!(serde_json::from_str::<IntervalMap>(text).is_err(), "{text}");
        }
    }
}
