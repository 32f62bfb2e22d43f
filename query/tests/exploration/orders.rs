//! Which stories are taken through their orders, and which mistakes are noticed there.

use std::panic::catch_unwind;
use std::time::Instant;

use qihui_consent::mutations as ledger;
use qihui_query::mutations::{Mutation, choose};

use crate::explore::{Orders, Reach, explore, number};
use crate::ordered::ORDERED;
use crate::query::Outcome;
use crate::world::{Loss, Story};

/// How many worlds are drawn, unless the environment says so.
const WORLDS: u64 = 24;

/// Seeds of worlds: `QIHUI_SEED` alone, or the first `QIHUI_CASES`.
fn seeds(default: u64) -> std::ops::Range<u64> {
    match number("QIHUI_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("QIHUI_CASES").unwrap_or(default),
    }
}

fn story(streams: [&[&[u32]]; 2], inside: bool, losses: &[Loss]) -> Story {
    Story {
        streams: streams.map(|batches| batches.iter().map(|batch| batch.to_vec()).collect()),
        inside,
        granted: [1, 2, 3].into(),
        losses: losses.to_vec(),
        early: 0,
    }
}

/// Random stories, each in its orders.
#[test]
fn gate_4_in_every_order_what_is_taken_stays_and_what_stays_is_complete() {
    let reach = Reach::asked();
    let mut all = Orders::new();
    for seed in seeds(WORLDS) {
        let story = Story::draw(seed);
        println!("world {seed}: {story:?}");
        let started = Instant::now();
        let orders = explore(story, reach);
        println!("world {seed}: {orders:?} in {:?}", started.elapsed());
        for (outcome, orders) in orders {
            *all.entry(outcome).or_default() += orders;
        }
    }
    let orders: u64 = all.values().sum();
    println!("GATE-4: {orders} orders: {all:?}");
    let ends = [Outcome::Whole, Outcome::Without, Outcome::Ended];
    let few = seeds(WORLDS).count() < 12;
    let enough = few || ends.iter().all(|end| all.contains_key(end));
    assert!(enough, "too little happened: {all:?}");
}

/// A mistake of the gate, or of the ledger.
#[derive(Debug, Clone, Copy)]
enum Mistake {
    Gate(Mutation),
    Ledger(ledger::Mutation),
}

/// What does not hold in some order of a story with a mistake; `None` if everything holds in all.
fn found(story: &Story, reach: Reach, mistake: Mistake) -> Option<String> {
    let (of_gate, of_ledger) = match mistake {
        Mistake::Gate(mutation) => (Some(mutation), None),
        Mistake::Ledger(mutation) => (None, Some(mutation)),
    };
    let story = story.clone();
    let made = choose(of_gate);
    ledger::choose(of_ledger);
    let explored = catch_unwind(move || explore(story, reach));
    ledger::choose(None);
    drop(made);
    let why = explored.err()?;
    Some(why.downcast_ref::<String>().cloned().unwrap_or_default())
}

/// Some order of the story shows the mistake, by something that says `symptom`; without the mistake none does.
fn noticed(mistake: Mistake, story: &Story, symptom: &str) {
    let reach = Reach::asked();
    let started = Instant::now();
    let why = found(story, reach, mistake).unwrap_or_else(|| panic!("{mistake:?} is not noticed"));
    println!("{mistake:?} after {:?}: {why}", started.elapsed());
    assert!(why.contains(symptom), "{why}");
    explore(story.clone(), reach);
}

macro_rules! mistakes {
    ($($name:ident: $mistake:expr, $story:expr => $symptom:expr;)*) => {
        $(#[test]
        fn $name() {
            noticed($mistake, &$story, $symptom);
        })*

        const NOTICED: &[Mistake] = &[$($mistake,)*];
    };
}

mistakes! {
    rows_pass_as_they_were_judged: Mistake::Gate(Mutation::JudgedForGood),
        story([&[&[1]], &[&[2]]], false, &[Loss::Of(1)]) => "dropped although touched";
    a_drop_takes_two_steps: Mistake::Gate(Mutation::DroppedInTwoSteps),
        story([&[&[1]], &[&[2]]], false, &[Loss::Of(1)]) => "dropped although touched";
    a_touched_enterprise_is_dropped: Mistake::Gate(Mutation::TouchedDropped),
        story([&[&[1]], &[]], false, &[Loss::Of(1)]) => "the last look is wrong";
    dropped_enterprises_pass_on: Mistake::Gate(Mutation::DroppedPass),
        story([&[&[1]], &[]], false, &[Loss::Of(1)]) => "dropped although touched";
    drops_are_counted_late: Mistake::Gate(Mutation::DropsCountedLate),
        Story { early: 1, ..story([&[&[1, 2]], &[&[3]]], false, &[Loss::Of(1), Loss::Of(2)]) } => "goes on for ever";
    losses_are_read_late: Mistake::Gate(Mutation::LossesReadLate),
        story([&[&[1]], &[]], false, &[Loss::Of(1)]) => "was missed";
    epochs_are_not_compared: Mistake::Gate(Mutation::EpochsIgnored),
        story([&[&[1]], &[]], false, &[Loss::Of(1)]) => "was missed";
    bytes_leave_without_the_lock: Mistake::Gate(Mutation::ReleaseUnlocked),
        story([&[&[1]], &[]], false, &[Loss::Of(1)]) => "was acknowledged";
    the_last_loss_is_told_early: Mistake::Ledger(ledger::Mutation::LastLossEarly),
        story([&[&[1]], &[]], false, &[Loss::Of(1)]) => "was missed";
    a_withdrawal_does_not_wait: Mistake::Ledger(ledger::Mutation::ReleaseNotAwaited),
        story([&[&[1]], &[]], false, &[Loss::Of(1)]) => "was acknowledged";
}

/// The tests of `tests/mutations` leave these to the tests here.
#[test]
fn every_mistake_of_an_order_has_its_case() {
    for mutation in ORDERED {
        let known = |mistake: &Mistake| matches!(mistake, Mistake::Gate(of) if of == mutation);
        assert!(NOTICED.iter().any(known), "{mutation:?}");
    }
}
