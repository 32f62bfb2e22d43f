//! Accesses that were decided and have no end in the log.
//!
//! Promises: every `access.decided` entry of this process that has no `access.finished` yet has an index of at least
//! [`Unfinished::first`]; also one whose request went away while the entry was on its way. So whoever notes how far the
//! log was worked through notes no more than that, and the next start finds each access that still needs its end
//! ([`Gate::close_interrupted`](super::Gate::close_interrupted)).

use std::collections::BTreeMap;
use std::sync::Arc;

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
}

/// An access that was decided, or is about to be, and has no end in the log. If it never gets one, it stays known.
#[must_use]
pub(super) struct WithoutEnd {
    among: Arc<Unfinished>,
    least: u64,
}

impl WithoutEnd {
    /// A decision is about to be handed to a log of `size` entries.
    pub(super) fn begin(among: &Arc<Unfinished>, size: u64) -> Self {
        let count = &mut *among.open.lock();
        let count = count.entry(size).or_default();
        *count = count.saturating_add(1);
        Self {
            among: Arc::clone(among),
            least: size,
        }
    }

    /// Its end is in the log, or it never was.
    pub(super) fn ended(self) {
        let mut open = self.among.open.lock();
        if let Some(count) = open.get_mut(&self.least) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.least);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_without_an_end_is_known_from_before_it_is_recorded() {
        let unfinished = Arc::default();
        assert_eq!(Unfinished::first(&unfinished), None);
        // Two at once: which of them becomes the earlier entry is not known.
        let (one, other) = [5, 5]
            .map(|size| WithoutEnd::begin(&unfinished, size))
            .into();
        let later = WithoutEnd::begin(&unfinished, 7);
        one.ended();
        assert_eq!(unfinished.first(), Some(5), "one is still on its way");
        other.ended();
        assert_eq!(unfinished.first(), Some(7));
        // What went away without an end is found by the next start.
        drop(later);
        assert_eq!(unfinished.first(), Some(7));
    }
}
