//! Integration tests of products.
//!
//! The property tests draw statements, tables and histories from proptest; `QIHUI_CASES` sets how many.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::print_stdout,
    missing_docs
)]

mod card;
mod incremental;
mod lineage;
mod refused;
mod support;

/// How many cases a property test draws.
fn cases(usual: u32) -> u32 {
    let wanted = std::env::var("QIHUI_CASES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(usual)
}
