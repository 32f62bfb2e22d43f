//! Every mistake, and which properties notice it.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Once;

use futures::FutureExt;
use qihui_catalog::Timestamp;
use qihui_query::mutations::{Mutation, choose, reached};

use crate::gate_2::Kind;
use crate::ordered::ORDERED;
use crate::run::believe;
use crate::world::World;
use crate::{accounts, gate_1, gate_2, gate_4, large};

/// Most worlds that a property draws for one mistake.
const WORLDS: u64 = 250;
/// The same where each has tens of thousands of rows.
const LARGE_WORLDS: u64 = 20;

/// A property of the gate, world by world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Property {
    /// GATE-1: the rows of the authorised view, and errors that quote nothing.
    Exact,
    /// GATE-1: the account of what passed.
    Account,
    /// GATE-1: windows over the rows of each value.
    Windows,
    /// GATE-1: unions of constants have an order.
    Union,
    /// GATE-1: rows that an outer join fills up have their place in an order.
    OuterJoin,
    /// GATE-1: keys that grouping sets leave out have theirs.
    GroupingSets,
    /// GATE-2, in parallel.
    Parallel,
    /// GATE-2, byte by byte.
    Strict,
    /// GATE-2, for statements that stop or fail early.
    Fragile,
    /// GATE-2: the order of rows.
    Order,
    /// GATE-2, for statements that depend on where batches are cut.
    Cut,
    /// GATE-2, for statements that stop early over many batches.
    Stop,
    /// GATE-2, for statements that put rows aside.
    Memory,
    /// GATE-4: who withdraws while a query runs.
    Withdrawals,
    /// GATE-4: bytes that are ready to leave.
    Release,
}
use Property::{
    Account, Cut, Exact, Fragile, GroupingSets, Memory, Order, OuterJoin, Parallel, Release, Stop,
    Strict, Union, Windows, Withdrawals,
};

impl Property {
    async fn check(self, seed: u64) {
        match self {
            Exact => gate_1::check(seed, &mut gate_1::Tally::default()).await,
            Account => accounts::check(seed, &mut accounts::Tally::default()).await,
            Windows => drop(gate_1::check_windows(seed).await),
            Union => gate_1::check_union(seed).await,
            OuterJoin => drop(gate_1::check_outer_join(seed).await),
            GroupingSets => drop(gate_1::check_grouping_sets(seed).await),
            Parallel => gate_2::check(seed, Kind::Parallel, &mut gate_2::Tally::default()).await,
            Strict => gate_2::check(seed, Kind::Strict, &mut gate_2::Tally::default()).await,
            Fragile => drop(gate_2::check_fragile(seed).await),
            Order => gate_2::check_order(seed, &mut gate_2::OrderTally::default()).await,
            Cut => large::check_cut(seed, &mut large::Tally::default()).await,
            Stop => large::check_stopping(seed, &mut large::Tally::default()).await,
            Memory => large::check_memory(seed, &mut large::Tally::default()).await,
            Withdrawals => gate_4::check(seed, &mut gate_4::Tally::default()).await,
            Release => gate_4::check_release().await,
        }
    }

    fn worlds(self) -> u64 {
        match self {
            Release => 1,
            Cut | Stop | Memory => LARGE_WORLDS,
            _ => WORLDS,
        }
    }

    /// Whether the property holds on a world. Everything runs on this thread, which is the one that makes the mistake.
    fn holds(self, seed: u64) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        EXPECTED.set(true);
        let done = runtime.block_on(AssertUnwindSafe(self.check(seed)).catch_unwind());
        EXPECTED.set(false);
        done.is_ok()
    }
}

thread_local! {
    /// Whether a panic of this thread is what a test waits for.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Panics that are waited for say nothing.
fn hold_tongue() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !EXPECTED.get() {
                say(panic);
            }
        }));
    });
}

/// A mistake of the gate, or of the decision that it goes by.
#[derive(Clone, Copy)]
enum Mistake {
    Gate(Mutation),
    Decision(fn(&mut World)),
}

/// The first world on which a property does not hold with a mistake.
fn first_caught(mistake: Mistake, property: Property) -> Option<u64> {
    let mutation = match mistake {
        Mistake::Gate(mutation) => Some(mutation),
        Mistake::Decision(_) => None,
    };
    (0..property.worlds()).find(|seed| {
        if let Mistake::Decision(believed) = mistake {
            believe(believed);
        }
        let made = choose(mutation);
        let holds = property.holds(*seed);
        drop(made);
        believe(|_| {});
        !holds
    })
}

/// Each of the properties notices the mistake, and holds on the same world without it.
fn caught(mistake: Mistake, properties: &[Property]) {
    hold_tongue();
    for property in properties {
        let before = reached();
        let seed = first_caught(mistake, *property);
        let times = reached() - before;
        let seed = seed.unwrap_or_else(|| {
            let worlds = property.worlds();
            panic!("survives {worlds} worlds of {property:?}, made {times} times")
        });
        assert!(
            property.holds(seed),
            "{property:?} does not hold on world {seed} without the mistake"
        );
        println!("{property:?} notices it on world {seed}");
    }
}

macro_rules! mistakes {
    ($($name:ident: $mutation:ident => $properties:expr;)*) => {
        $(#[test]
        fn $name() {
            caught(Mistake::Gate(Mutation::$mutation), &$properties);
        })*

        const TESTED: &[Mutation] = &[$(Mutation::$mutation,)*];
    };
}

mistakes! {
    a_date_range_is_forgotten: RangeForgotten => [Exact, Account];
    the_end_of_a_date_range_is_inside: RangeEndInside => [Exact, Account];
    a_null_date_is_inside_a_range: NullDateInside => [Exact, Account];
    ranges_are_taken_for_none: RangesTakenForFull => [Exact, Account];
    some_columns_are_taken_for_all: ColumnsTakenForAll => [Exact, Account];
    named_subjects_do_not_narrow: SubjectsForgotten => [Exact, Account];
    rows_pass_that_nothing_covers: RowsUncovered => [Exact, Account, Parallel];
    cells_show_that_nothing_covers: CellsUncovered => [Exact, Account, Parallel];
    a_null_flag_is_public: NullFlagPublic => [Exact, Account];
    a_flag_opens_nothing: FlagForgotten => [Exact, Account];
    the_window_is_forgotten: WindowForgotten => [Exact, Account, Parallel];
    the_last_day_of_the_window_is_one_later: WindowEndInside => [Exact, Account];
    a_window_without_begin_has_begun: WindowNullBegun => [Exact, Account];
    the_window_is_not_looked_at_inside: WindowUnseen => [Exact, Account];
    masked_shows_clear: MaskForgotten => [Exact];
    bucketed_shows_clear: BucketForgotten => [Exact];
    forms_are_for_edges_only: FormsOnlyAtEdges => [Exact];
    pushed_filters_are_not_applied_again: RecheckSkipped => [Account, Parallel];
    pushed_filters_are_not_applied_inside: RecheckUnseen => [Account];
    hidden_cells_stay_under_nulls: HiddenUnderNulls => [Parallel];
    the_reader_s_leavings_stay_under_nulls: FileNullsKept => [Parallel, Strict];
    text_of_hidden_rows_stays_in_buffers: TextNotCompacted => [Parallel];
    withheld_cells_of_rows_that_did_not_pass_count: WithheldUnpassed => [Account];
    enterprises_whose_rows_did_not_pass_are_touched: TouchedUnpassed => [Account, Parallel];
    rows_that_did_not_pass_count_towards_the_limit: RowsUnpassed => [Account, Parallel];
    a_whole_file_is_touched_by_a_part: TouchedByPresence => [Account];
    rows_that_pass_unseen_touch_nobody: TouchedForgotten => [Account];
    an_edge_is_taken_for_inside: EdgeTakenForInside => [Exact, Account, Parallel];
    pages_are_judged_by_their_neighbours: PagesOffByOne => [Exact, Account];
    a_cast_is_pushed: CastPushed => [Account];
    a_test_for_null_is_pushed: NullTestPushed => [Account];
    a_filter_on_a_masked_column_is_pushed: MaskedPushed => [Account];
    unions_are_trusted: UnionsTrusted => [Union];
    outer_joins_are_trusted: OuterJoinsTrusted => [OuterJoin];
    grouping_sets_are_trusted: GroupingSetsTrusted => [GroupingSets];
    statistics_pass_through: StatisticsPassed => [Strict];
    a_count_comes_from_the_files: CountFromFiles => [Exact, Parallel];
    a_limit_reaches_the_readers: LimitPassed => [Fragile];
    an_order_is_promised: OrderPromised => [Windows];
    nobody_asks_for_the_permit: PermitSkipped => [Withdrawals];
    dropped_enterprises_pass_on: DroppedPass => [Withdrawals];
    a_touched_enterprise_is_dropped: TouchedDropped => [Withdrawals];
    epochs_are_not_compared: EpochsIgnored => [Release];
    no_query_is_strict_by_itself: NeverStrict => [Cut];
    what_stops_early_runs_in_parallel: StopsInParallel => [Stop];
    strict_mode_does_not_sort: StrictUnsorted => [Strict, Cut];
    rows_without_columns_are_not_taken_in: StrictUncounted => [Stop];
    what_puts_rows_in_order_shares_memory: StrictShared => [Memory];
    strict_mode_keeps_buffers: StrictUncut => [Strict];
    an_order_that_decides_stays_incomplete: OrderIncomplete => [Parallel];
    rows_come_in_the_order_of_the_files: AnswerUnordered => [Order];
    what_some_show_counts_as_shown_by_all: ShownToSome => [Order];
    words_of_the_engine_are_passed_on: ErrorTexts => [Exact];
}

/// A mistake without a case would be one that nobody knows to be noticed.
#[test]
fn every_mistake_has_its_case() {
    for mutation in Mutation::ALL {
        let known = TESTED.contains(mutation) || ORDERED.contains(mutation);
        assert!(known, "{mutation:?}");
    }
}

macro_rules! decisions {
    ($($name:ident: $believed:expr;)*) => {
        $(#[test]
        fn $name() {
            caught(Mistake::Decision($believed), &[Exact, Account]);
        })*
    };
}

decisions! {
    a_metered_grant_counts_without_a_subject: |world| {
        for grant in &mut world.grants {
            grant.metered = false;
        }
    };
    a_grant_for_another_purpose_counts: |world| {
        for grant in &mut world.grants {
            grant.purpose = world.request.purpose.clone();
        }
    };
    a_grant_to_another_organisation_counts: |world| {
        for grant in &mut world.grants {
            grant.org = world.request.org.clone();
        }
    };
    a_grant_for_another_action_counts: |world| {
        for grant in &mut world.grants {
            grant.actions = grant.actions.with(world.request.action);
        }
    };
    an_expired_grant_counts: |world| {
        for grant in &mut world.grants {
            grant.expires = Timestamp(i64::MAX);
        }
    };
    a_grant_that_ends_during_the_query_counts: |world| {
        world.request.until = world.request.at;
    };
    a_grant_that_has_not_begun_counts: |world| {
        for grant in &mut world.grants {
            grant.starts = Timestamp(0);
        }
    };
    an_agreement_with_another_organisation_counts: |world| {
        for agreement in &mut world.agreements {
            agreement.org = world.request.org.clone();
        }
    };
    an_agreement_for_another_purpose_counts: |world| {
        for agreement in &mut world.agreements {
            agreement.purposes.insert(world.request.purpose.clone());
        }
    };
    an_agreement_that_is_over_counts: |world| {
        for agreement in &mut world.agreements {
            agreement.valid_until = Timestamp(i64::MAX);
        }
    };
    an_agreement_that_has_not_begun_counts: |world| {
        for agreement in &mut world.agreements {
            agreement.valid_from = Timestamp(0);
        }
    };
}
