//! Which groups may be told: the rules of docs/statistics.md as pure functions over what each enterprise contributes.
//!
//! The groups that were told of one measure cut the enterprises into *cells*: two enterprises are in one cell when they
//! are in the same groups. Whatever linear combination of told sums somebody computes, it counts all enterprises of a
//! cell alike. So the rules are kept of cells, not only of groups:
//! - every cell of all groups that were ever told has at least n enterprises with rows, and
//! - every cell of the groups that one measure was told of has at least n enterprises with a value other than zero, and
//!   its second largest contributor cannot come within p percent of the largest: total − x1 − x2 ≥ p/100 · x1, all
//!   by absolute value.
//!
//! Both properties carry over from cells to their unions: the rest (total − x1 − x2) of a union is no less than that of
//! the cell that holds the largest contributor.
//!
//! Limits: sums of absolute values saturate at 2^127; columns of up to 28 digits never come near.

use std::collections::HashMap;

use roaring::RoaringBitmap;
use serde::Serialize;

/// What groups and cells have to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The fewest enterprises, n.
    pub min_enterprises: u64,
    /// The distance that the second largest contributor has to keep, p, in percent.
    pub p_percent: u32,
}

/// What a set of enterprises comes to in one measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Enterprises in the set, with rows or without.
    pub members: u64,
    /// Enterprises whose contribution is not zero.
    pub contributors: u64,
    /// Sum of the absolute contributions.
    pub total: u128,
    /// The largest absolute contribution.
    pub largest: u128,
    /// The second largest.
    pub second: u128,
}

impl Tally {
    /// One enterprise.
    #[must_use]
    pub fn one(contribution: i128) -> Self {
        let size = contribution.unsigned_abs();
        Self {
            members: 1,
            contributors: u64::from(size > 0),
            total: size,
            largest: size,
            second: 0,
        }
    }

    /// Two sets without a common member.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let mut sizes = [self.largest, self.second, other.largest, other.second];
        sizes.sort_unstable();
        let [.., second, largest] = sizes;
        Self {
            members: self.members + other.members,
            contributors: self.contributors + other.contributors,
            total: self.total.saturating_add(other.total),
            largest,
            second,
        }
    }

    /// Whether the second largest contributor is kept at its distance: total − x1 − x2 ≥ p/100 · x1.
    #[must_use]
    pub fn keeps_distance(&self, p_percent: u32) -> bool {
        let rest = self
            .total
            .saturating_sub(self.largest)
            .saturating_sub(self.second);
        rest.saturating_mul(100) >= self.largest.saturating_mul(p_percent.into())
    }

    /// Whether the set may be told, or lies within what may be; nothing is told of a set without members.
    #[must_use]
    pub fn keeps(&self, terms: Terms) -> bool {
        self.members == 0
            || (self.contributors >= terms.min_enterprises && self.keeps_distance(terms.p_percent))
    }
}

/// Why a group is withheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Withheld {
    /// Fewer than n enterprises have rows in it.
    TooFew,
    /// Of a measure, fewer than n have a value other than zero, or the largest is not at its distance.
    Dominated,
    /// Told beside what was told before, or beside the rest of this answer, it would tell of a cell that is one of
    /// these.
    Differencing,
}

/// How many groups were told, and how many withheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Groups told.
    pub released: u64,
    /// Groups of too few enterprises.
    pub too_few: u64,
    /// Groups that one enterprise dominates.
    pub dominated: u64,
    /// Groups that would tell of others by their difference.
    pub differencing: u64,
}

impl Counts {
    /// Counts verdicts.
    pub fn of<'v>(verdicts: impl IntoIterator<Item = &'v Option<Withheld>>) -> Self {
        let mut counts = Self::default();
        for verdict in verdicts {
            let count = match verdict {
                None => &mut counts.released,
                Some(Withheld::TooFew) => &mut counts.too_few,
                Some(Withheld::Dominated) => &mut counts.dominated,
                Some(Withheld::Differencing) => &mut counts.differencing,
            };
            *count += 1;
        }
        counts
    }
}

/// The enterprises that a question is about: one entry of each list is one enterprise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Enterprises {
    /// Its number; each stands once.
    pub numbers: Vec<u32>,
    /// The group that it is in, by its position; none: in none.
    pub groups: Vec<Option<u32>>,
    /// How many rows it has.
    pub rows: Vec<i128>,
}

/// A measure that is asked for, with what was told of it before.
#[derive(Debug, Clone)]
pub struct Measure<'a> {
    /// What each enterprise contributes, in the order of [`Enterprises`].
    pub contributions: &'a [i128],
    /// The groups that it was told of.
    pub told: Vec<&'a RoaringBitmap>,
}

/// Decides about each of `groups` groups. `told` are all groups that were ever told of these enterprises, of whatever
/// measure. Groups are withheld in a fixed order, so that equal questions of equal data get equal answers.
#[must_use]
pub fn decide(
    enterprises: &Enterprises,
    groups: usize,
    told: &[&RoaringBitmap],
    measures: &[Measure<'_>],
    terms: Terms,
) -> Vec<Option<Withheld>> {
    let presence: Vec<i128> = enterprises
        .rows
        .iter()
        .map(|rows| i128::from(*rows > 0))
        .collect();
    let mut cuts = vec![Cut::new(enterprises, groups, told, &presence)];
    cuts.extend(
        measures
            .iter()
            .map(|measure| Cut::new(enterprises, groups, &measure.told, measure.contributions)),
    );
    let mut parts_keep = vec![true; groups];
    for cut in &cuts {
        cut.note_parts(&mut parts_keep, terms);
    }
    let mut verdicts: Vec<Option<Withheld>> = parts_keep
        .iter()
        .enumerate()
        .map(|(group, parts_keep)| by_itself(&cuts, group, *parts_keep, terms))
        .collect();
    withhold_for_the_rest(&cuts, &mut verdicts, terms);
    verdicts
}

/// What is wrong with a group that is told beside what was told before; `parts_keep` says whether its parts are safe.
fn by_itself(cuts: &[Cut], group: usize, parts_keep: bool, terms: Terms) -> Option<Withheld> {
    let whole = |cut: &Cut| cut.groups.get(group).copied().unwrap_or_default();
    let few = cuts
        .first()
        .is_some_and(|presence| whole(presence).contributors < terms.min_enterprises);
    if few {
        return Some(Withheld::TooFew);
    }
    if !cuts.iter().all(|cut| whole(cut).keeps(terms)) {
        return Some(Withheld::Dominated);
    }
    (!parts_keep).then_some(Withheld::Differencing)
}

/// Withholds further groups until what remains of every cell that a told group cuts is safe as well: it is the
/// difference of what was told.
fn withhold_for_the_rest(cuts: &[Cut], verdicts: &mut [Option<Withheld>], terms: Terms) {
    loop {
        let mut victims = Vec::new();
        for cut in cuts {
            for cell in cut.cells.values() {
                victims.extend(cell.victim(verdicts, terms));
            }
        }
        if victims.is_empty() {
            return;
        }
        for victim in victims {
            if let Some(verdict) = verdicts.get_mut(victim) {
                *verdict = Some(Withheld::Differencing);
            }
        }
    }
}

/// A cell of what was told before, as the groups asked for cut it.
#[derive(Debug, Default)]
struct Cell {
    /// What no group takes.
    rest: Tally,
    /// What each group takes, by its position.
    parts: HashMap<u32, Tally>,
}

impl Cell {
    /// The group to withhold because the rest of the cell would be told by difference: the one that takes the fewest
    /// members, the first of these. None: the rest is safe, or no told group takes a part of the cell.
    fn victim(&self, verdicts: &[Option<Withheld>], terms: Terms) -> Option<usize> {
        let mut rest = self.rest;
        let mut smallest: Option<(u64, usize)> = None;
        for (group, tally) in &self.parts {
            let group = *group as usize;
            if verdicts.get(group).is_some_and(Option::is_none) {
                let this = (tally.members, group);
                smallest = Some(smallest.map_or(this, |smallest| smallest.min(this)));
            } else {
                rest = rest.and(*tally);
            }
        }
        let (_, group) = smallest?;
        (!rest.keeps(terms)).then_some(group)
    }
}

/// The enterprises as what was told of one measure cuts them, and the groups asked for cut them further.
#[derive(Debug)]
struct Cut {
    /// Each group as a whole.
    groups: Vec<Tally>,
    /// What was told before.
    cells: HashMap<u32, Cell>,
    /// What each group takes of those that nothing was told of.
    fresh: Vec<Tally>,
}

impl Cut {
    fn new(
        enterprises: &Enterprises,
        groups: usize,
        told: &[&RoaringBitmap],
        contributions: &[i128],
    ) -> Self {
        let cells = cells(&enterprises.numbers, told);
        let mut cut = Self {
            groups: vec![Tally::default(); groups],
            cells: HashMap::new(),
            fresh: vec![Tally::default(); groups],
        };
        let each = cells.iter().zip(&enterprises.groups).zip(contributions);
        for ((cell, group), contribution) in each {
            let one = Tally::one(*contribution);
            if let Some(group) = group {
                add(cut.groups.get_mut(*group as usize), one);
            }
            match (cell, group) {
                (Some(cell), Some(group)) => {
                    let parts = &mut cut.cells.entry(*cell).or_default().parts;
                    add(Some(parts.entry(*group).or_default()), one);
                }
                (Some(cell), None) => add(Some(&mut cut.cells.entry(*cell).or_default().rest), one),
                (None, Some(group)) => add(cut.fresh.get_mut(*group as usize), one),
                (None, None) => {}
            }
        }
        cut
    }

    /// Notes the groups that have a part that is not safe.
    fn note_parts(&self, parts_keep: &mut [bool], terms: Terms) {
        let of_cells = self.cells.values().flat_map(|cell| &cell.parts);
        let of_cells = of_cells.map(|(group, tally)| (*group as usize, tally));
        for (group, tally) in of_cells.chain(self.fresh.iter().enumerate()) {
            if let Some(keep) = parts_keep.get_mut(group) {
                *keep &= tally.keeps(terms);
            }
        }
    }
}

fn add(to: Option<&mut Tally>, one: Tally) {
    if let Some(to) = to {
        *to = to.and(one);
    }
}

/// The cell of each enterprise: two have the same number exactly when they are in the same told groups; none: in none.
#[must_use]
pub fn cells(numbers: &[u32], told: &[&RoaringBitmap]) -> Vec<Option<u32>> {
    let mut cells: Vec<Option<u32>> = vec![None; numbers.len()];
    let mut next = 0;
    for group in told {
        // An enterprise of the group moves to the cell that stands for "its old one, and this group".
        let mut moved: HashMap<Option<u32>, u32> = HashMap::new();
        for (number, cell) in numbers.iter().zip(&mut cells) {
            if group.contains(*number) {
                let new = *moved.entry(*cell).or_insert_with(|| {
                    next += 1;
                    next
                });
                *cell = Some(new);
            }
        }
    }
    cells
}
