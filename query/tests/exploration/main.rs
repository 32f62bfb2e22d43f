//! GATE-4 in many orders: a query and somebody who takes things away, taken by a model checker through the orders in
//! which their threads can meet ([ADR 0055](../../../docs/adr/0055-orders-of-threads.md)).
//!
//! What runs is the gate's own code: the stream of [`GateExec`](qihui_query::exec::GateExec), the account, the epochs and
//! the release point, and the ledger's losses, built with the checker's locks and counters. What stands in for the
//! database is a set of who grants, behind a lock.
//!
//! `cargo test --workspace --features qihui-query/exploration --test exploration` compiles ledger and gate once more.
//! `QIHUI_CASES` is how many worlds are drawn, `QIHUI_SEED` draws one of them again, `QIHUI_PREEMPTIONS` how often an
//! order may take the turn from a thread that could go on (2), `QIHUI_SECONDS` how long one world may take (20).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs
)]

mod explore;
#[path = "../mutations/ordered.rs"]
mod ordered;
mod orders;
mod query;
mod world;
