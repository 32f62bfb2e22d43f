//! Integration tests of the gate.
//!
//! The property tests draw worlds (schemas, rows, files, agreements, grants) and queries from numbered seeds.
//! `QIHUI_CASES` sets how many queries are drawn; a failure prints its seed and `QIHUI_SEED` runs that one alone.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::large_futures,
    clippy::print_stdout,
    missing_docs
)]

mod accounts;
mod canary;
mod coverage;
mod gate_1;
mod gate_2;
mod gate_3;
mod gate_4;
mod gate_5;
mod grammar;
mod large;
mod leaks;
mod reference;
mod remote;
mod run;
mod slt;
mod statistics;
mod stored_scope;
mod town;
mod world;
