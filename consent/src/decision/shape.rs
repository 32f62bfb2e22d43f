//! Shapes: what the grants of one enterprise cover together, in one canonical form.

use std::collections::BTreeMap;

use qihui_catalog::Date;

/// A set of columns of a scope, by their index in [`DatasetScope::columns`](super::DatasetScope::columns), at most 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ColumnSet(pub u128);

impl ColumnSet {
    /// The set without a column.
    pub const EMPTY: Self = Self(0);
    /// The greatest number of columns.
    pub const CAPACITY: usize = 128;

    /// The set of one column; empty for an index of [`ColumnSet::CAPACITY`] or more.
    #[must_use]
    pub fn of(index: usize) -> Self {
        u32::try_from(index)
            .ok()
            .and_then(|shift| 1_u128.checked_shl(shift))
            .map_or(Self::EMPTY, Self)
    }

    /// Whether the column is in the set.
    #[must_use]
    pub fn contains(self, index: usize) -> bool {
        !self.intersection(Self::of(index)).is_empty()
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether no column is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many columns are in it.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The columns in it, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::CAPACITY).filter(move |index| self.contains(*index))
    }
}

impl FromIterator<usize> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        indices
            .into_iter()
            .fold(Self::EMPTY, |set, index| set.union(Self::of(index)))
    }
}

/// Columns that are covered within one range of event dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShapeItem {
    /// The columns.
    pub columns: ColumnSet,
    /// The first event date; none: from the beginning.
    pub from: Option<Date>,
    /// The event date after the last one; none: without end.
    pub to: Option<Date>,
}

impl ShapeItem {
    /// Whether the range contains the event date of a row. A null date is in no range; in a dataset without an event
    /// date (`dated` is false) an item has no range and always holds.
    #[must_use]
    pub fn holds(&self, dated: bool, event_date: Option<Date>) -> bool {
        match event_date {
            Some(date) if dated => {
                self.from.is_none_or(|from| from <= date) && self.to.is_none_or(|to| date < to)
            }
            None if dated => false,
            _ => self.from.is_none() && self.to.is_none(),
        }
    }
}

/// What the grants of an enterprise cover together.
///
/// Canonical: for every column the ranges are disjoint, do not touch and are as long as possible; items are ascending
/// and no two have the same range. So two enterprises have the same shape exactly when their grants cover the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Shape {
    /// The items.
    pub items: Vec<ShapeItem>,
}

impl Shape {
    /// Brings items into the canonical form.
    #[must_use]
    pub fn canonical(items: impl IntoIterator<Item = ShapeItem>) -> Self {
        let mut columns: BTreeMap<usize, Vec<Range>> = BTreeMap::new();
        for item in items {
            if item.from.zip(item.to).is_some_and(|(from, to)| from >= to) {
                continue;
            }
            for column in item.columns.iter() {
                columns
                    .entry(column)
                    .or_default()
                    .push((item.from, item.to));
            }
        }
        let mut ranges: BTreeMap<Range, ColumnSet> = BTreeMap::new();
        for (column, covered) in columns {
            for range in merged(covered) {
                let set = ranges.entry(range).or_default();
                *set = set.union(ColumnSet::of(column));
            }
        }
        let mut items: Vec<_> = ranges
            .into_iter()
            .map(|((from, to), columns)| ShapeItem { columns, from, to })
            .collect();
        items.sort_unstable();
        Self { items }
    }

    /// The columns covered in a row of this event date; `dated`: whether the dataset has an event date at all.
    #[must_use]
    pub fn columns_at(&self, dated: bool, event_date: Option<Date>) -> ColumnSet {
        self.items
            .iter()
            .filter(|item| item.holds(dated, event_date))
            .fold(ColumnSet::EMPTY, |set, item| set.union(item.columns))
    }
}

/// A half-open range of days; none: without that bound.
type Range = (Option<Date>, Option<Date>);

/// The union of ranges as disjoint ranges, ascending, that do not touch.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut disjoint: Vec<Range> = Vec::new();
    for (from, to) in ranges {
        match disjoint.last_mut() {
            // INVARIANT: ascending by `from`, so the next range begins inside or after the last one.
            Some((_, end)) if end.is_none_or(|end| from.is_none_or(|from| from <= end)) => {
                *end = end.zip(to).map(|(end, to)| end.max(to));
            }
            _ => disjoint.push((from, to)),
        }
    }
    disjoint
}
