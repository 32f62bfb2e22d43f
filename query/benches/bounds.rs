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

const ENTERPRISES: u32 = 50_000;
const TIMES: usize = 200;
const POLITE: &str = "SELECT count(*) AS n FROM enterprise_registration WHERE uscc > '9133'";
const HOSTILE: [&str; 3] = [
    "SELECT count(*) AS n FROM enterprise_registration a, enterprise_registration b \
     WHERE levenshtein(a.uscc, b.uscc) = 99",
    "SELECT count(*) AS n FROM enterprise_registration a, enterprise_registration b \
     WHERE repeat(a.uscc || b.uscc, 50) ~ '(0|1|2)*(7|8)x{0,40}(9|3)+y'",
    "SELECT a.uscc || b.uscc AS c FROM enterprise_registration a, enterprise_registration b ORDER BY c",
];

/// The half and the hundredth longest of many times.
async fn taken(hub: &gate_3::Hub) -> (Duration, Duration) {
    let asked = AccessRequest {
        org: "insurer".parse().unwrap(),
        ..gate_3::request(POLITE)
    };
    let mut taken = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        hub.gate.query(&asked, &mut Vec::new()).await.unwrap();
        taken.push(begun.elapsed());
    }
    taken.sort_unstable();
    (taken[TIMES / 2], taken[TIMES - TIMES / 100 - 1])
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        seconds: 3600,
        spill_bytes: 8 << 30,
        ..Limits::default()
    };
    let hub = Arc::new(gate_3::hub_of(dir.path(), ENTERPRISES, limits).await);
    taken(&hub).await;
    let (half, slow) = taken(&hub).await;
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
        let (beside, slow_beside) = taken(&hub).await;
        let times = beside.as_secs_f64() / half.as_secs_f64();
        println!("beside {running}: p50 {beside:?} ({times:.2} ×), p99 {slow_beside:?}");
    }
    // The hostile ones would go on for an hour.
    std::process::exit(0);
}
