//! The tests of the gate's tests: each mistake that the gate can be told to make is noticed by the properties that are
//! named for it, within the first worlds that they draw; and on the same world the gate without the mistake passes.
//!
//! `cargo test --workspace --features qihui-query/mutations --test mutations` compiles the gate once more, with its
//! mistakes, and this binary. What is made elsewhere of a wrong decision is a mistake of the decision's here: the worlds'
//! tables are read under a scope that was decided for other agreements and grants.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::large_futures,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    unused_imports,
    missing_docs
)]

#[path = "../it/accounts.rs"]
mod accounts;
#[path = "../it/canary.rs"]
mod canary;
#[path = "../it/gate_1.rs"]
mod gate_1;
#[path = "../it/gate_2.rs"]
mod gate_2;
#[path = "../it/gate_3.rs"]
mod gate_3;
#[path = "../it/gate_4.rs"]
mod gate_4;
#[path = "../it/grammar.rs"]
mod grammar;
#[path = "../it/large.rs"]
mod large;
#[path = "../it/reference.rs"]
mod reference;
#[path = "../it/run.rs"]
mod run;
#[path = "../it/world.rs"]
mod world;

mod caught;
mod ordered;
