//! Accesses that were decided and have no end in the log.
//!
//! Promises: every `access.decided` entry of this process that has no `access.finished` yet has an index of at least
//! [`Unfinished::first`]; also one whose request went away while the entry was on its way. So whoever notes how far the
//! log was worked through notes no more than that, and the next start finds each access that still needs its end
//! ([`Gate::close_interrupted`](super::Gate::close_interrupted)).

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// The accesses of a hub without an end, whichever gate they came through.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// How many there are by the least index that their decision can have.
    open: Mutex<BTreeMap<u64, u32>>,
}

impl Unfinished {
    /// The least index that a decision without an end can have; none: every access has its end.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.open.lock().keys().next().copied()
    }

    /// A decision is handed to a log of `size` entries.
    pub(super) fn begin(&self, size: u64) {
        add(&mut self.open.lock(), size);
    }

    /// The decision that was handed over at `size` became the entry `index`.
    pub(super) fn decided(&self, size: u64, index: u64) {
        let mut open = self.open.lock();
        add(&mut open, index);
        remove(&mut open, size);
    }

    /// The access that was decided with the entry `index` has its end.
    pub(super) fn finished(&self, index: u64) {
        remove(&mut self.open.lock(), index);
    }
}

fn add(open: &mut BTreeMap<u64, u32>, index: u64) {
    let count = open.entry(index).or_default();
    *count = count.saturating_add(1);
}

fn remove(open: &mut BTreeMap<u64, u32>, index: u64) {
    if let Some(count) = open.get_mut(&index) {
        *count -= 1;
        if *count == 0 {
            open.remove(&index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_without_an_end_is_known_from_before_it_is_recorded() {
        let unfinished = Unfinished::default();
        assert_eq!(unfinished.first(), None);
        // Two at once: the second becomes the earlier entry, and the index of the one is the size at the other.
        unfinished.begin(5);
        unfinished.begin(5);
        unfinished.decided(5, 6);
        assert_eq!(unfinished.first(), Some(5));
        unfinished.begin(6);
        unfinished.decided(5, 5);
        unfinished.finished(5);
        assert_eq!(unfinished.first(), Some(6));
        unfinished.finished(6);
        assert_eq!(unfinished.first(), Some(6), "one is still on its way");
        unfinished.decided(6, 9);
        assert_eq!(unfinished.first(), Some(9));
        unfinished.finished(9);
        // The end of an access of an earlier process.
        unfinished.finished(2);
        assert_eq!(unfinished.first(), None);
    }
}
