//! Durable appends and verification, side by side with a bare loop that writes and fsyncs the same bytes.
//!
//! `cargo bench -p qihui-audit` prints one table. Everything runs on the file system of the system's temporary
//! directory (`TMPDIR`). `QIHUI_BENCH_SECONDS` (default 3) is the length of each append run, `QIHUI_BENCH_ENTRIES`
//! (default 1,000,000) the size of the log that is verified. Rates of appends depend on the disk's fsync above all: with one
//! append outstanding per writer, no log can exceed writers / fsync time, which is printed beside it.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark may end with a panic"
)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use qihui_audit::{AuditLog, Entry, LogKeys, LogOptions, Pending, Subjects, SystemClock, verify};

const WRITERS: usize = 64;
const BODY_BYTES: usize = 400;
const ROUNDS: usize = 3;

fn main() {
    let setting = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    // `cargo test --benches` runs this too: then briefly.
    let brief = !std::env::args().any(|argument| argument == "--bench");
    let seconds = if brief {
        Duration::from_millis(200)
    } else {
        Duration::from_secs(setting("QIHUI_BENCH_SECONDS", 3))
    };
    let entries = if brief {
        20_000
    } else {
        setting("QIHUI_BENCH_ENTRIES", 1_000_000)
    };
    let scratch = tempfile::tempdir().unwrap();
    println!(
        "body {BODY_BYTES} bytes, {WRITERS} writers, {:?} processors",
        std::thread::available_parallelism()
    );
    for outstanding in [1, 8] {
        appends(
            scratch.path(),
            outstanding,
            seconds,
            if brief { 1 } else { ROUNDS },
        );
    }
    verification(scratch.path(), entries);
}

fn keys() -> LogKeys {
    LogKeys::from_seeds(&[1; 32], &[2; 32]).unwrap()
}

fn body(n: u64) -> Vec<u8> {
    let mut body = format!("{{\"n\":{n},\"statement\":\"").into_bytes();
    body.resize(BODY_BYTES - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

/// What one run of appends did.
struct Run {
    entries: u64,
    groups: u64,
    bytes: u64,
    elapsed: Duration,
}

impl Run {
    fn rate(&self) -> f64 {
        self.entries as f64 / self.elapsed.as_secs_f64()
    }
}

/// Log and bare loop take turns, so that a noisy disk disturbs both alike.
fn appends(scratch: &Path, outstanding: usize, length: Duration, rounds: usize) {
    let (mut log_rates, mut bare_rates) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let dir = scratch.join(format!("appends-{outstanding}-{round}"));
        let run = log_run(&dir, outstanding, length);
        let (per_group, bytes) = (
            run.entries as f64 / run.groups as f64,
            run.bytes / run.groups,
        );
        let (groups, bare_elapsed) = bare_run(
            &scratch.join("bare"),
            usize::try_from(bytes).unwrap(),
            length,
        );
        let bare_rate = groups as f64 * per_group / bare_elapsed.as_secs_f64();
        let fsync = bare_elapsed.as_secs_f64() / groups as f64;
        println!(
            "append {outstanding} outstanding: log {:>7.0}/s ({per_group:.1} entries, {bytes} bytes a group) | bare loop \
             {bare_rate:>7.0}/s (fsync {:.2} ms) | ratio {:.2} | writers x outstanding / fsync {:>7.0}/s",
            run.rate(),
            fsync * 1e3,
            run.rate() / bare_rate,
            (WRITERS * outstanding) as f64 / fsync,
        );
        log_rates.push(run.rate());
        bare_rates.push(bare_rate);
        std::fs::remove_dir_all(&dir).unwrap();
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (log, bare) = (median(&mut log_rates), median(&mut bare_rates));
    println!(
        "append {outstanding} outstanding, median: log {log:.0}/s, bare loop {bare:.0}/s, ratio {:.2}",
        log / bare
    );
}

fn log_run(dir: &Path, outstanding: usize, length: Duration) -> Run {
    AuditLog::create(dir, &keys(), "bench").unwrap();
    let log = AuditLog::open(dir, &keys(), Arc::new(SystemClock)).unwrap();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (log, stop, done) = (&log, &stop, &done);
            scope.spawn(move || {
                let body = body(writer as u64);
                let entry = [Entry {
                    kind: "access.decided",
                    body: &body,
                    subjects: Subjects::none(),
                }];
                let mut waiting = std::collections::VecDeque::<Pending>::new();
                while !stop.load(Ordering::Relaxed) {
                    while waiting.len() < outstanding {
                        waiting.push_back(log.submit(&entry).unwrap());
                    }
                    waiting.pop_front().unwrap().wait().unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
                for pending in waiting {
                    pending.wait().unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
    });
    let elapsed = started.elapsed();
    let entries = done.load(Ordering::Relaxed);
    assert_eq!(log.size(), entries);
    let bytes = std::fs::read_dir(dir.join("journal"))
        .unwrap()
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum();
    let groups = log.verify(None).unwrap().heads;
    Run {
        entries,
        groups,
        bytes,
        elapsed,
    }
}

/// Writes and fdatasyncs as many bytes as the log's average group, again and again.
fn bare_run(path: &Path, bytes: usize, length: Duration) -> (u64, Duration) {
    let mut file = File::create(path).unwrap();
    let buffer = vec![0x5a; bytes];
    let started = Instant::now();
    let mut groups = 0;
    while started.elapsed() < length {
        file.write_all(&buffer).unwrap();
        file.sync_data().unwrap();
        groups += 1;
    }
    (groups, started.elapsed())
}

fn verification(scratch: &Path, entries: u64) {
    for (group, share) in [(64, 1), (1_024, 1), (1, 20)] {
        let entries = entries / share;
        let dir = scratch.join(format!("verify-{group}"));
        AuditLog::create(&dir, &keys(), "bench").unwrap();
        let options = LogOptions {
            publish_entries: u64::MAX,
            ..LogOptions::default()
        };
        let log = AuditLog::open_with(&dir, &keys(), Arc::new(SystemClock), options).unwrap();
        // Many groups at once in the queue would be joined into one: each is waited for. Fewer fsyncs by far fewer, if
        // larger, groups is what the second row shows.
        let mut written = 0;
        while written < entries {
            let bodies: Vec<Vec<u8>> = (written..(written + group).min(entries))
                .map(body)
                .collect();
            let all: Vec<Entry<'_>> = bodies
                .iter()
                .map(|body| Entry {
                    kind: "access.decided",
                    body,
                    subjects: Subjects::none(),
                })
                .collect();
            log.append_many(&all).unwrap();
            written += all.len() as u64;
        }
        let started = Instant::now();
        log.close().unwrap();
        let published = started.elapsed();
        let started = Instant::now();
        let opened = AuditLog::open(&dir, &keys(), Arc::new(SystemClock)).unwrap();
        let opening = started.elapsed();
        drop(opened);
        for (what, public) in [("with bodies", false), ("public key only", true)] {
            let started = Instant::now();
            let verified = match public {
                false => verify(&dir, &keys(), None),
                true => verify(&dir, keys().vkey("bench").as_str(), None),
            }
            .unwrap();
            let elapsed = started.elapsed();
            assert_eq!(verified.entries, entries);
            println!(
                "verify {what}, groups of {group}: {entries} entries in {:.2} s = {:.0}/s",
                elapsed.as_secs_f64(),
                entries as f64 / elapsed.as_secs_f64()
            );
        }
        println!(
            "  building its tiles {:.2} s = {:.0}/s; opening it {:.0} ms",
            published.as_secs_f64(),
            entries as f64 / published.as_secs_f64(),
            opening.as_secs_f64() * 1e3
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
