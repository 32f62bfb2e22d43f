//! The gate broken on purpose: each [`Mutation`] is one mistake that its tests must notice.
//!
//! Where the code asks [`mutated`], a build with the feature `mutations` makes that mistake on threads that chose it;
//! in every other build the answer is the constant `false`, and nothing of a mistake is compiled in. The feature exists for
//! the tests in `tests/mutations` alone, and does not build without debug assertions.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` breaks the gate: it is for its tests alone");

macro_rules! mistakes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(not(feature = "mutations"), expect(unreachable_pub))]
        pub enum Mutation {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "mutations")]
        impl Mutation {
            /// Every mistake.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mistakes! {
    /// A grant's date range is forgotten.
    RangeForgotten,
    /// The end of a date range is inside.
    RangeEndInside,
    /// A row without event date counts as one of today.
    NullDateInside,
    /// Enterprises with ranges are taken to have none, so that their rows pass unseen.
    RangesTakenForFull,
    /// Enterprises that granted some column are taken to have granted all that the scan needs.
    ColumnsTakenForAll,
    /// The enterprises that the request names do not narrow it.
    SubjectsForgotten,
    /// Rows pass whether a grant covers them or not.
    RowsUncovered,
    /// Cells show whether a grant covers them or not.
    CellsUncovered,
    /// A flag of `public_when` that is null counts as true.
    NullFlagPublic,
    /// `public_when` opens nothing.
    FlagForgotten,
    /// The disclosure window is forgotten.
    WindowForgotten,
    /// The day on which disclosure ends is inside the window.
    WindowEndInside,
    /// A row without a first day of disclosure is inside the window.
    WindowNullBegun,
    /// Rows pass unseen where a window has to be looked at.
    WindowUnseen,
    /// Masked columns are shown clear.
    MaskForgotten,
    /// Bucketed columns are shown clear.
    BucketForgotten,
    /// Forms are applied only to rows that were looked at.
    FormsOnlyAtEdges,
    /// Pushed filters are not applied again to what passes.
    RecheckSkipped,
    /// Rows pass unseen where pushed filters have to be applied again.
    RecheckUnseen,
    /// Hidden cells stay in the buffers, under a null.
    HiddenUnderNulls,
    /// What the reader leaves under the nulls of a file stays there.
    FileNullsKept,
    /// Hidden rows stay in the buffers of text, behind the rows that pass.
    TextNotCompacted,
    /// Withheld cells of rows that the pushed filters drop are counted.
    WithheldUnpassed,
    /// Enterprises of rows that the pushed filters drop count as touched.
    TouchedUnpassed,
    /// Rows that did not pass count towards the limit.
    RowsUnpassed,
    /// Enterprises of a file count as touched wherever one of its ranges is read.
    TouchedByPresence,
    /// Enterprises of rows that pass unseen do not count as touched.
    TouchedForgotten,
    /// A range that has to be looked at passes unseen.
    EdgeTakenForInside,
    /// A page is judged by the numbers of the page before it.
    PagesOffByOne,
    /// A filter with a cast of a column is pushed.
    CastPushed,
    /// A filter that accepts null is pushed.
    NullTestPushed,
    /// A filter on a column that is not shown clear is pushed.
    MaskedPushed,
    /// What is constant in each branch of a union is taken for constant in all.
    UnionsTrusted,
    /// What is constant on a side of an outer join that nulls may stand for is taken for constant in the join.
    OuterJoinsTrusted,
    /// What is constant before grouping sets is taken for constant after them.
    GroupingSetsTrusted,
    /// The number of rows in the files is known above the gate, as an estimate.
    StatisticsPassed,
    /// The number of rows in the files is known above the gate, so that `count(*)` reads nothing.
    CountFromFiles,
    /// A LIMIT reaches the readers.
    LimitPassed,
    /// Rows are promised to come in the order of the last column.
    OrderPromised,
    /// Nobody is asked whether rows may still pass.
    PermitSkipped,
    /// Rows of enterprises that were dropped pass on.
    DroppedPass,
    /// An enterprise is dropped although rows of it have passed.
    TouchedDropped,
    /// Rows pass as they were judged, whoever was dropped meanwhile.
    JudgedForGood,
    /// Whether rows have passed is looked at under one lock, and the drop is made under the next.
    DroppedInTwoSteps,
    /// A stream notes how many were dropped after it has asked who.
    DropsCountedLate,
    /// What is lost during a look at the epochs counts as looked at.
    LossesReadLate,
    /// Bytes leave after a last look at the epochs, but not under the release lock.
    ReleaseUnlocked,
    /// The epochs that a decision rests on are not compared with those of now.
    EpochsIgnored,
    /// No query is strict unless asked to be.
    NeverStrict,
    /// Rows are not put in order in strict mode.
    StrictUnsorted,
    /// In strict mode, rows without columns are handed on as they come.
    StrictUncounted,
    /// In strict mode, putting rows in order shares the memory of what is above.
    StrictShared,
    /// In strict mode, text stays in the buffers that it was sorted in.
    StrictUncut,
    /// An order that decides about rows is not completed.
    OrderIncomplete,
    /// Rows come in the order of the files, whatever it tells.
    AnswerUnordered,
    /// What some grants show of codes and dates counts as shown by all.
    ShownToSome,
    /// Operators that stop early run in parallel.
    StopsInParallel,
    /// The engine's words about a failure are passed on.
    ErrorTexts,
}

/// Whether the gate is to make this mistake.
#[cfg(not(feature = "mutations"))]
#[inline]
pub(crate) const fn mutated(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use chosen::{Chosen, choose, mutated, reached};

#[cfg(feature = "mutations")]
mod chosen {
    use std::cell::Cell;
    use std::marker::PhantomData;

    use super::Mutation;

    thread_local! {
        static CHOSEN: Cell<Option<Mutation>> = const { Cell::new(None) };
        static REACHED: Cell<u64> = const { Cell::new(0) };
    }

    /// Whether the gate is to make this mistake: whether this thread chose it.
    pub fn mutated(mutation: Mutation) -> bool {
        let chosen = CHOSEN.get() == Some(mutation);
        if chosen {
            REACHED.set(REACHED.get() + 1);
        }
        chosen
    }

    /// How often this thread came to a mistake that it had chosen.
    pub fn reached() -> u64 {
        REACHED.get()
    }

    /// What this thread chose, until this is dropped: then what it had chosen before.
    #[derive(Debug)]
    pub struct Chosen {
        before: Option<Mutation>,
        _of_this_thread: PhantomData<*const ()>,
    }

    /// Chooses a mistake for this thread, or none.
    #[must_use]
    pub fn choose(mutation: Option<Mutation>) -> Chosen {
        Chosen {
            before: CHOSEN.replace(mutation),
            _of_this_thread: PhantomData,
        }
    }

    impl Drop for Chosen {
        fn drop(&mut self) {
            CHOSEN.set(self.before);
        }
    }
}
