//! Scopes in the form the hot path wants: one bit or one shape per enterprise number.
//!
//! A [`DatasetScope`] keeps its members as Roaring bitmaps, which is right at rest and wrong per row: a lookup
//! there costs ten times a bit test. [`DenseScope`] is built once per scope; [`ScanScope`] is built per scan,
//! because which enterprises are *fully* visible depends on the columns that the scan needs.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::Date32Type;
use parking_lot::Mutex;
use qihui_catalog::DatasetId;
use qihui_consent::decision::{ColumnSet, DatasetScope, Shape};
use roaring::RoaringBitmap;

use crate::mutations::{Mutation, mutated};

/// A set of enterprise numbers as plain bits. Numbers before its beginning and beyond its end are not in it.
#[derive(Debug, Clone, Default)]
pub struct NumberSet {
    /// What comes before the words, in words.
    before: usize,
    words: Vec<u64>,
}

impl NumberSet {
    /// The set holding the numbers of `bitmap`.
    pub fn from_bitmap(bitmap: &RoaringBitmap) -> Self {
        let (Some(min), Some(max)) = (bitmap.min(), bitmap.max()) else {
            return Self::default();
        };
        let before = min as usize / 64;
        let mut words = vec![0_u64; max as usize / 64 - before + 1];
        for no in bitmap {
            if let Some(word) = words.get_mut(no as usize / 64 - before) {
                *word |= 1 << (no % 64);
            }
        }
        Self { before, words }
    }

    /// The numbers with a shape that is among some, where those of the shapes begin with `first`, which 64 divides.
    fn of_shapes(first: usize, shape_of: &[u32], among: &[bool]) -> Self {
        let is_among = |shape: &u32| among.get(*shape as usize).copied().unwrap_or(false);
        let word = |shapes: &[u32]| {
            let last_first = shapes.iter().rev();
            last_first.fold(0, |word, shape| word << 1 | u64::from(is_among(shape)))
        };
        Self {
            before: first / 64,
            words: shape_of.chunks(64).map(word).collect(),
        }
    }

    fn remove(&mut self, no: u32) {
        let at = (no as usize / 64).checked_sub(self.before);
        if let Some(word) = at.and_then(|at| self.words.get_mut(at)) {
            *word &= !(1 << (no % 64));
        }
    }

    /// Whether `no` is in the set; negative numbers never are.
    #[inline]
    pub fn contains(&self, no: i32) -> bool {
        let Ok(no) = usize::try_from(no) else {
            return false;
        };
        // Beyond every end, where it is before the beginning.
        let at = (no / 64).wrapping_sub(self.before);
        self.words
            .get(at)
            .is_some_and(|word| word >> (no % 64) & 1 == 1)
    }
}

/// Columns that show in rows whose event date, in days since the epoch, lies in a half-open range.
#[derive(Debug, Clone, Copy)]
struct DayItem {
    columns: ColumnSet,
    from: i64,
    to: i64,
}

/// A scope with, for every enterprise number, the index of its [`Shape`].
#[derive(Debug)]
pub struct DenseScope {
    scope: Arc<DatasetScope>,
    shapes: Vec<Vec<DayItem>>,
    /// The first number that has a place in `shape_of`; 64 divides it.
    first: usize,
    shape_of: Vec<u32>,
    /// What scans of certain columns may pass: it costs a walk over all members, so scans share it.
    sets: Mutex<Vec<(SetsKey, Arc<Sets>)>>,
    commitment: OnceLock<[u8; 32]>,
}

/// How many [`Sets`] a scope keeps: each holds two bits an enterprise number.
const MAX_SETS: usize = 8;

/// What [`Sets`] depend on: the columns that depend on grants among those that a scan needs, and whether an event date can
/// keep a row from being covered.
type SetsKey = (ColumnSet, bool);

/// A copy to leave enterprises out of: it begins without sets.
impl Clone for DenseScope {
    fn clone(&self) -> Self {
        Self {
            scope: Arc::clone(&self.scope),
            shapes: self.shapes.clone(),
            first: self.first,
            shape_of: self.shape_of.clone(),
            sets: Mutex::default(),
            commitment: self.commitment.clone(),
        }
    }
}

/// Some enterprises: as a bitmap for ranges of numbers, and bit by bit for single ones.
#[derive(Debug, Clone)]
struct Members {
    bitmap: RoaringBitmap,
    bits: NumberSet,
}

impl Members {
    fn new(bitmap: RoaringBitmap) -> Self {
        Self {
            bits: NumberSet::from_bitmap(&bitmap),
            bitmap,
        }
    }

    fn remove(&mut self, no: u32) {
        self.bitmap.remove(no);
        self.bits.remove(no);
    }
}

/// Who is open, and who fully, to scans of certain columns.
#[derive(Debug, Clone)]
struct Sets {
    /// Enterprises at least one of whose rows may pass.
    open: Members,
    /// Enterprises all of whose rows pass, with every needed column visible, whatever the event date.
    full: Members,
    /// Whether `open` and `full` are the same.
    equal: bool,
}

/// Where fewer than one number in so many is a member's, a walk over the members is quicker than one over all numbers.
const NUMBERS_PER_MEMBER: u64 = 16;

impl DenseScope {
    /// Spreads the members of `scope` out; O(members and the numbers between them).
    pub fn new(scope: Arc<DatasetScope>) -> Self {
        let members = scope.members.iter();
        let min = members.clone().filter_map(RoaringBitmap::min).min();
        let max = members.filter_map(RoaringBitmap::max).max();
        let first = min.map_or(0, |min| min as usize / 64 * 64);
        let mut shape_of = vec![0_u32; max.map_or(0, |max| max as usize + 1 - first)];
        for (shape, members) in (0_u32..).zip(&scope.members) {
            for no in members {
                if let Some(slot) = shape_of.get_mut(no as usize - first) {
                    *slot = shape;
                }
            }
        }
        let shapes = scope.shapes.iter().map(by_day).collect();
        Self {
            scope,
            shapes,
            first,
            shape_of,
            sets: Mutex::default(),
            commitment: OnceLock::new(),
        }
    }

    /// Who is open to scans of columns of which `consented` depend on grants.
    fn sets(&self, consented: ColumnSet, dates: bool) -> Arc<Sets> {
        let key = (consented, dates);
        // Held while they are made: whoever asks for the same meanwhile waits for them instead of making them as well.
        let mut kept = self.sets.lock();
        if let Some(at) = kept.iter().position(|(known, _)| *known == key) {
            let found = kept.remove(at);
            let sets = Arc::clone(&found.1);
            kept.push(found);
            return sets;
        }
        let is_full = |(at, shape)| at > 0 && shape_is_full(shape, consented, dates);
        let full: Vec<bool> = (0..).zip(&self.scope.shapes).map(is_full).collect();
        let open: Vec<bool> = (0..full.len()).map(|at| at > 0).collect();
        let mut of_shapes = open.iter().zip(&full).zip(&self.scope.members);
        let equal = of_shapes.all(|((open, full), members)| open == full || members.is_empty());
        let open = self.members_of(&open);
        let full = match equal {
            true => open.clone(),
            false => self.members_of(&full),
        };
        let sets = Arc::new(Sets { open, full, equal });
        if kept.len() >= MAX_SETS {
            kept.remove(0);
        }
        kept.push((key, Arc::clone(&sets)));
        sets
    }

    /// The enterprises with a shape that is among some.
    fn members_of(&self, among: &[bool]) -> Members {
        let members = self.scope.members.iter().zip(among);
        let mut bitmap = RoaringBitmap::new();
        for (members, _) in members.filter(|(_, among)| **among) {
            bitmap |= members;
        }
        if bitmap.len() * NUMBERS_PER_MEMBER < self.shape_of.len() as u64 {
            return Members::new(bitmap);
        }
        Members {
            bits: NumberSet::of_shapes(self.first, &self.shape_of, among),
            bitmap,
        }
    }

    /// From now on, the grants of an enterprise count for nothing. [`scope`](Self::scope) stays what it was.
    fn leave_out(&mut self, no: u32) {
        let at = (no as usize).checked_sub(self.first);
        if let Some(shape) = at.and_then(|at| self.shape_of.get_mut(at)) {
            *shape = 0;
        }
    }

    /// The scope this was built from.
    pub fn scope(&self) -> &Arc<DatasetScope> {
        &self.scope
    }

    /// The [commitment](DatasetScope::commitment) to the scope; O(members) the first time.
    pub fn commitment(&self) -> [u8; 32] {
        *self.commitment.get_or_init(|| self.scope.commitment())
    }

    /// The shape of what an enterprise granted, as [`DatasetScope::shape_of`], in constant time.
    pub fn shape_of(&self, no: u32) -> usize {
        let at = (no as usize).checked_sub(self.first);
        let found = at.and_then(|at| self.shape_of.get(at));
        found.map_or(0, |shape| *shape as usize)
    }

    /// What the grants of enterprise `no` cover.
    #[inline]
    pub fn coverage(&self, no: i32) -> Coverage<'_> {
        let shape = u32::try_from(no).map_or(0, |no| self.shape_of(no));
        let items = self.shapes.get(shape);
        Coverage(items.map_or(&[][..], Vec::as_slice))
    }
}

/// How many enterprise numbers the scopes that are kept spread over: about eight bytes each, with the sets of eight kinds
/// of scans.
const MAX_KEPT_NUMBERS: usize = 32_000_000;

/// How many scopes are kept, however small.
const MAX_KEPT_SCOPES: usize = 256;

/// Dense scopes, kept so that requests that were decided alike share one: what it costs to spread a scope out, to find
/// out who is open to a scan and to commit to it is paid once. The ledger hands out the same [`DatasetScope`] as long as
/// the decision stays the same.
#[derive(Debug)]
pub struct DenseScopes {
    /// The last used last.
    kept: Mutex<Vec<Slot>>,
    most_numbers: usize,
}

impl Default for DenseScopes {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            most_numbers: MAX_KEPT_NUMBERS,
        }
    }
}

#[derive(Debug, Clone)]
struct Slot {
    scope: Arc<DatasetScope>,
    /// Filled by whoever asks first; others wait for it.
    dense: Arc<OnceLock<Arc<DenseScope>>>,
}

impl Slot {
    fn numbers(&self) -> usize {
        self.dense.get().map_or(0, |dense| dense.shape_of.len())
    }
}

impl DenseScopes {
    /// The dense form of `scope`. One of named subjects is nobody else's, and not kept.
    pub fn get(&self, scope: &Arc<DatasetScope>) -> Arc<DenseScope> {
        if scope.subjects.is_some() {
            return Arc::new(DenseScope::new(Arc::clone(scope)));
        }
        let slot = {
            let mut kept = self.kept.lock();
            let at = kept.iter().position(|slot| Arc::ptr_eq(&slot.scope, scope));
            let slot = match at {
                Some(at) => kept.remove(at),
                None => Slot {
                    scope: Arc::clone(scope),
                    dense: Arc::default(),
                },
            };
            kept.push(slot.clone());
            slot
        };
        let fresh = slot.dense.get().is_none();
        let dense = slot.dense.get_or_init(|| {
            let scope = Arc::clone(&slot.scope);
            Arc::new(DenseScope::new(scope))
        });
        if fresh {
            self.evict();
        }
        Arc::clone(dense)
    }

    /// The dense form of the scope that a [commitment](DenseScope::commitment) is to, if it is kept and was committed to.
    pub fn committed(&self, commitment: &[u8; 32]) -> Option<Arc<DenseScope>> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|slot| {
            let dense = slot.dense.get();
            dense.is_some_and(|dense| dense.commitment.get() == Some(commitment))
        })?;
        let slot = kept.remove(at);
        let dense = slot.dense.get().cloned();
        kept.push(slot);
        dense
    }

    /// The dense forms of several scopes.
    pub fn all(
        &self,
        scopes: &BTreeMap<DatasetId, Arc<DatasetScope>>,
    ) -> BTreeMap<DatasetId, Arc<DenseScope>> {
        let dense = |(dataset, scope): (&DatasetId, _)| (dataset.clone(), self.get(scope));
        scopes.iter().map(dense).collect()
    }

    /// Lets go of those that were not used for longest, and of those that nothing but this knows and that cost nothing.
    fn evict(&self) {
        let mut kept = self.kept.lock();
        kept.retain(|slot| slot.dense.get().is_none() || slot.numbers() > 0);
        let mut numbers: usize = kept.iter().map(Slot::numbers).sum();
        while (numbers > self.most_numbers || kept.len() > MAX_KEPT_SCOPES) && kept.len() > 1 {
            numbers -= kept.remove(0).numbers();
        }
    }
}

/// What the grants of one enterprise cover.
#[derive(Debug, Clone, Copy)]
pub struct Coverage<'a>(&'a [DayItem]);

impl Coverage<'_> {
    /// The columns that show in a row of this event date (days since the epoch), and until which day the same show.
    #[inline]
    pub fn at(&self, day: i32) -> Span {
        let mut columns = ColumnSet::EMPTY;
        let mut next = i64::MAX;
        for item in self.0 {
            let to = match mutated(Mutation::RangeEndInside) {
                true => item.to.saturating_add(1),
                false => item.to,
            };
            let day = i64::from(day);
            if mutated(Mutation::RangeForgotten) {
                columns = columns.union(item.columns);
            } else if day < item.from {
                next = next.min(item.from);
            } else if day < to {
                columns = columns.union(item.columns);
                next = next.min(to);
            }
        }
        Span {
            columns,
            first: day,
            last: i32::try_from(next - 1).unwrap_or(i32::MAX),
        }
    }

    /// The columns that show in every row of a dataset without an event date. In one that has it, a row without a date is
    /// covered by nothing.
    #[inline]
    pub fn undated(&self) -> ColumnSet {
        self.0.iter().fold(ColumnSet::EMPTY, |set, item| {
            if item.from == i64::MIN && item.to == i64::MAX {
                set.union(item.columns)
            } else {
                set
            }
        })
    }
}

/// Event dates, in days since the epoch, and the columns that show in rows of each of them.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The columns.
    pub columns: ColumnSet,
    /// The first of the days.
    pub first: i32,
    /// The last.
    pub last: i32,
}

/// The items of a shape with their ranges in days.
fn by_day(shape: &Shape) -> Vec<DayItem> {
    let day = |date| i64::from(Date32Type::from_naive_date(date));
    shape
        .items
        .iter()
        .map(|item| DayItem {
            columns: item.columns,
            from: item.from.map_or(i64::MIN, day),
            to: item.to.map_or(i64::MAX, day),
        })
        .collect()
}

/// What one scan may pass, for the columns it needs.
///
/// INVARIANT: `full ⊆ open`; a number in neither never yields a row (unless every row is open).
#[derive(Debug, Clone)]
pub struct ScanScope {
    dense: Arc<DenseScope>,
    /// Rows of every enterprise may pass (open data, or a statute agreement), subject to `narrow`.
    all_rows: bool,
    sets: Arc<Sets>,
    /// Every row that passes shows every needed column, whoever it belongs to.
    every_cell: bool,
    /// Every open enterprise is full, and no other row passes.
    uniform: bool,
    /// The only enterprises asked for, when the request or a conjunct names them.
    narrow: Option<RoaringBitmap>,
}

/// What a number, or a range of numbers, is worth to a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No row passes.
    Outside,
    /// Every row passes with every needed cell visible.
    Inside,
    /// Rows have to be looked at.
    Edge,
}

impl ScanScope {
    /// The scan's view of `dense`.
    ///
    /// `needed` are the columns the scan will deliver or filter on, as a set over the scope's columns; `dates`
    /// says whether an event date can keep a row from being covered by an item without bounds (the dataset has
    /// an event date that may be null).
    pub fn new(
        dense: &Arc<DenseScope>,
        needed: ColumnSet,
        dates: bool,
        narrow: Option<&RoaringBitmap>,
    ) -> Self {
        let scope = dense.scope();
        let consented: ColumnSet = (0..)
            .zip(&scope.columns)
            .filter(|(i, column)| !column.always && needed.contains(*i))
            .map(|(i, _)| i)
            .collect();
        let every_cell = consented.is_empty();
        let subjects = scope.subjects.as_ref();
        let subjects = subjects.filter(|_| !mutated(Mutation::SubjectsForgotten));
        let narrow = match (narrow, subjects) {
            (Some(a), Some(b)) => Some(a & b),
            (Some(a), None) => Some(a.clone()),
            (None, Some(b)) => Some(b.clone()),
            (None, None) => None,
        };
        let mut sets = dense.sets(consented, dates);
        if let Some(narrow) = &narrow {
            let open = Members::new(match scope.all_rows {
                true => narrow.clone(),
                false => &sets.open.bitmap & narrow,
            });
            let full = Members::new(&sets.full.bitmap & narrow);
            let equal = open.bitmap == full.bitmap;
            sets = Arc::new(Sets { open, full, equal });
        }
        Self {
            dense: Arc::clone(dense),
            all_rows: scope.all_rows,
            uniform: !scope.all_rows && sets.equal,
            sets,
            every_cell,
            narrow,
        }
    }

    /// From now on, the grants of some enterprises count for nothing; O(enterprises), but for the copies that are made the
    /// first time.
    pub fn leave_out(&mut self, enterprises: &[u32]) {
        // `equal` stays: what was equal loses the same.
        let sets = Arc::make_mut(&mut self.sets);
        for no in enterprises {
            if !self.all_rows {
                sets.open.remove(*no);
            }
            sets.full.remove(*no);
        }
        // A row of an enterprise that is not open is not looked at further.
        if self.all_rows && !self.every_cell {
            let dense = Arc::make_mut(&mut self.dense);
            enterprises.iter().for_each(|no| dense.leave_out(*no));
        }
    }

    /// The dense scope behind.
    pub fn dense(&self) -> &Arc<DenseScope> {
        &self.dense
    }

    /// Whether rows of every enterprise may pass.
    pub fn all_open(&self) -> bool {
        self.all_rows && self.narrow.is_none()
    }

    /// Whether the rows of every enterprise are open by themselves; grants then only matter for cells.
    pub fn all_rows(&self) -> bool {
        self.all_rows
    }

    /// Whether no needed column depends on a grant.
    pub fn every_cell(&self) -> bool {
        self.every_cell
    }

    /// Whether some row of `no` may pass.
    #[inline]
    pub fn is_open(&self, no: i32) -> bool {
        self.sets.open.bits.contains(no)
    }

    /// Whether all rows of `no` pass with every needed column visible.
    #[inline]
    pub fn is_full(&self, no: i32) -> bool {
        self.sets.full.bits.contains(no)
    }

    /// Whether every open enterprise is full: then one bit decides about a row and its cells.
    pub fn is_uniform(&self) -> bool {
        self.uniform
    }

    /// How many enterprises the scope covers; `None` when rows of all are open.
    pub fn enterprises(&self) -> Option<u64> {
        if self.all_open() {
            None
        } else {
            Some(self.sets.open.bitmap.len())
        }
    }

    /// The enterprises among `present` whose rows may pass.
    pub fn hits(&self, present: &RoaringBitmap) -> RoaringBitmap {
        if self.all_open() {
            present.clone()
        } else {
            present & &self.sets.open.bitmap
        }
    }

    /// The enterprises among `present` that keep a range from being inside.
    pub fn holes(&self, present: &RoaringBitmap) -> RoaringBitmap {
        match (self.all_rows && self.every_cell, &self.narrow) {
            (true, None) => RoaringBitmap::new(),
            (true, Some(narrow)) => present - narrow,
            (false, _) => present - &self.sets.full.bitmap,
        }
    }
}

/// Whether a shape shows every column of `wanted` in every row of its enterprises, and passes all its rows.
fn shape_is_full(shape: &Shape, wanted: ColumnSet, dates: bool) -> bool {
    let ranged = !mutated(Mutation::RangesTakenForFull);
    if dates && ranged {
        return false;
    }
    let mut shown = ColumnSet::EMPTY;
    let mut passes = false;
    for item in &shape.items {
        if (item.from.is_none() && item.to.is_none()) || !ranged {
            shown = shown.union(item.columns);
            passes |= !item.columns.is_empty();
        }
    }
    let all = wanted.intersection(shown) == wanted;
    passes && (all || mutated(Mutation::ColumnsTakenForAll))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use qihui_catalog::{Catalog, Contract};

    use super::*;

    fn contract() -> Arc<Contract> {
        static CONTRACT: LazyLock<Arc<Contract>> = LazyLock::new(|| {
            let catalog = Catalog::builtin().unwrap();
            let contract = catalog.contract(&"vat_declaration".parse().unwrap());
            Arc::clone(contract.unwrap())
        });
        Arc::clone(&CONTRACT)
    }

    fn scope(members: impl IntoIterator<Item = u32>, subjects: Option<u32>) -> Arc<DatasetScope> {
        Arc::new(DatasetScope {
            contract: contract(),
            columns: Vec::new(),
            all_rows: false,
            shapes: vec![Shape::default(); 2],
            members: vec![RoaringBitmap::new(), members.into_iter().collect()],
            agreements: Vec::new(),
            reasons: Vec::new(),
            subjects: subjects.map(|no| [no].into_iter().collect()),
            statistics: None,
        })
    }

    #[test]
    fn one_scope_has_one_dense_form_and_is_found_by_its_commitment() {
        let kept = DenseScopes::default();
        let (one, other) = (scope([1, 5], None), scope([1, 5], None));
        let dense = kept.get(&one);
        assert!(Arc::ptr_eq(&dense, &kept.get(&one)));
        assert!(!Arc::ptr_eq(&dense, &kept.get(&other)), "another decision");
        assert!(kept.committed(&one.commitment()).is_none(), "not asked for");
        assert_eq!(dense.commitment(), one.commitment());
        let found = kept.committed(&one.commitment());
        assert!(found.is_some_and(|found| Arc::ptr_eq(&found, &dense)));
    }

    #[test]
    fn numbers_before_the_first_and_beyond_the_last_have_nothing() {
        let dense = Arc::new(DenseScope::new(scope([200, 300], None)));
        let numbers = [
            0,
            1,
            63,
            64,
            191,
            192,
            199,
            200,
            201,
            299,
            300,
            301,
            320,
            1 << 31,
        ];
        let shaped = numbers.into_iter().filter(|no| dense.shape_of(*no) > 0);
        assert_eq!(shaped.collect::<Vec<_>>(), [200, 300]);
        let among = NumberSet::of_shapes(dense.first, &dense.shape_of, &[false, true]);
        let listed = NumberSet::from_bitmap(&dense.scope.members[1]);
        for no in numbers.into_iter().filter_map(|no| i32::try_from(no).ok()) {
            let member = [200, 300].contains(&no);
            assert_eq!(
                (among.contains(no), listed.contains(no)),
                (member, member),
                "{no}"
            );
        }
        assert!(!listed.contains(-1));
    }

    #[test]
    fn what_is_one_request_s_own_or_costs_nothing_is_not_kept() {
        let kept = DenseScopes::default();
        for own in [scope([7], Some(7)), scope([], None)] {
            kept.get(&own);
            assert_eq!(Arc::strong_count(&own), 1);
        }
    }

    #[test]
    fn the_longest_unused_go_when_there_are_too_many() {
        let kept = DenseScopes {
            most_numbers: 2000,
            ..DenseScopes::default()
        };
        let large: Vec<_> = (0..3).map(|_| scope([0, 999], None)).collect();
        kept.get(&large[0]);
        kept.get(&large[1]);
        let first = kept.get(&large[0]);
        kept.get(&large[2]);
        assert!(
            Arc::ptr_eq(&first, &kept.get(&large[0])),
            "it was used since"
        );
        assert_eq!(Arc::strong_count(&large[1]), 1, "it is let go of");
        let small: Vec<_> = (0..=MAX_KEPT_SCOPES).map(|_| scope([1], None)).collect();
        small.iter().for_each(|scope| drop(kept.get(scope)));
        assert!(kept.kept.lock().len() <= MAX_KEPT_SCOPES);
    }
}
