//! Mistakes of the ledger, made on purpose where `query/tests/exploration` has to notice them: see `qihui_query`'s module
//! of the same name. Without the feature `exploration` nothing of them is compiled.

#[cfg(all(feature = "exploration", not(debug_assertions)))]
compile_error!(
    "the feature `exploration` breaks the ledger: it is for the tests of the gate alone"
);

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// The position of the last loss is told before the epochs are raised.
    LastLossEarly,
    /// Something is taken away while rows are being released.
    ReleaseNotAwaited,
}

/// Whether the ledger is to make this mistake.
#[cfg(not(feature = "exploration"))]
#[inline]
pub(crate) const fn mutated(_: Mutation) -> bool {
    false
}

#[cfg(feature = "exploration")]
pub use chosen::{choose, mutated};

#[cfg(feature = "exploration")]
mod chosen {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static CHOSEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether this thread chose the mistake.
    pub fn mutated(mutation: Mutation) -> bool {
        CHOSEN.get() == Some(mutation)
    }

    /// Chooses a mistake for this thread, or none.
    pub fn choose(mutation: Option<Mutation>) {
        CHOSEN.set(mutation);
    }
}
