//! Mistakes that only an order of threads shows. `tests/exploration` notices them; a property that runs on one thread
//! cannot.

use qihui_query::mutations::Mutation;

pub const ORDERED: &[Mutation] = &[
    Mutation::JudgedForGood,
    Mutation::DroppedInTwoSteps,
    Mutation::DropsCountedLate,
    Mutation::LossesReadLate,
    Mutation::ReleaseUnlocked,
];
