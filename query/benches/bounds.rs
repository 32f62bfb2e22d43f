//! A polite query beside hostile ones, on a whole hub: what it takes alone, and what it takes while others run as long
//! and as hard as they may.
//!
//! `cargo bench -p qihui -p qihui-query --bench bounds`. The bar is three times as long (GATE-5).
#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    unused_imports
)]

#[path = "../tests/it/gate_3.rs"]
mod gate_3;

use std::sync::Arc;
use std::time::{Duration, Instant};

use qihui_query::access::{AccessRequest, Limits};

/// Enterprises, and how often the polite query is asked; the second for a run of all tests, which only shows that it
/// works.
const SIZES: [(u32, usize); 2] = [(50_000, 200), (500, 3)];
const POLITE: &str = "SELECT count(*) AS n FROM enterprise_registration WHERE uscc > '9133'";
const HOSTILE: [&str; 3] = [
    "SELECT count(*) AS n FROM enterprise_registration a, enterprise_registration b \
     WHERE levenshtein(a.uscc, b.uscc) = 99",
    "SELECT count(*) AS n FROM enterprise_registration a, enterprise_registration b \
     WHERE repeat(a.uscc || b.uscc, 50) ~ '(0|1|2)*(7|8)x{0,40}(9|3)+y'",
    "SELECT a.uscc || b.uscc AS c FROM enterprise_registration a, enterprise_registration b ORDER BY c",
];

/// The half and the hundredth longest of many times.
async fn taken(hub: &gate_3::Hub, times: usize) -> (Duration, Duration) {
    let asked = AccessRequest {
        org: "insurer".parse().unwrap(),
        ..gate_3::request(POLITE)
    };
    let mut taken = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        hub.gate.query(&asked, &mut Vec::new()).await.unwrap();
        taken.push(begun.elapsed());
    }
    taken.sort_unstable();
    (taken[times / 2], taken[times - times / 100 - 1])
}

#[tokio::main]
async fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (enterprises, asked) = SIZES[usize::from(!is_bench)];
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        seconds: 3600,
        spill_bytes: 8 << 30,
        ..Limits::default()
    };
    let hub = Arc::new(gate_3::hub_of(dir.path(), enterprises, limits).await);
    taken(&hub, asked).await;
    let (half, slow) = taken(&hub, asked).await;
    println!("alone: p50 {half:?}, p99 {slow:?}");
    for running in 1..=HOSTILE.len() {
        let of = Arc::clone(&hub);
        let sql = HOSTILE[running - 1];
        tokio::spawn(async move {
            let (asked, mut out) = (gate_3::request(sql), std::io::sink());
            let ended = Box::pin(of.gate.query(&asked, &mut out)).await;
            println!("ended: {:?}", ended.map(|summary| summary.rows));
        });
        while hub.bounds.usage().running < running {
            tokio::task::yield_now().await;
        }
        let (beside, slow_beside) = taken(&hub, asked).await;
        let times = beside.as_secs_f64() / half.as_secs_f64();
        println!("beside {running}: p50 {beside:?} ({times:.2} ×), p99 {slow_beside:?}");
    }
    // The hostile ones would go on for an hour.
    std::process::exit(0);
}
