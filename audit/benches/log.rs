//! Durable appends and verification, side by side with a bare loop that writes and fsyncs the same bytes.
//!
//! `cargo bench -p qihui-audit` prints one table. Everything runs on the file system of the system's temporary
//! directory (`TMPDIR`). `QIHUI_BENCH_ROUNDS` (default 9) is the number of half-second append runs, `QIHUI_BENCH_ENTRIES`
//! (default 1,000,000) the size of the log that is verified. Appends depend on the disk's fsync above all: with one
//! append outstanding per writer, no log can exceed writers / fsync time.
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
const ROUND: Duration = Duration::from_millis(500);

fn main() {
    let setting = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    // `cargo test --benches` runs this too: then briefly.
    let brief = !std::env::args().any(|argument| argument == "--bench");
    let rounds = if brief {
        1
    } else {
        setting("QIHUI_BENCH_ROUNDS", 9)
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
        appends(scratch.path(), outstanding, rounds);
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
    elapsed: Duration,
    /// The bytes of each group, as they lie in the journal.
    groups: Vec<Vec<u8>>,
}

/// Log and bare loops take turns, so that a noisy disk disturbs all alike.
fn appends(scratch: &Path, outstanding: usize, rounds: u64) {
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        let dir = scratch.join(format!("appends-{outstanding}-{round}"));
        let run = log_run(&dir, outstanding, ROUND);
        let asleep = bare_run(&scratch.join("bare"), &run.groups, false);
        let awake = bare_run(&scratch.join("bare"), &run.groups, true);
        let groups = run.groups.len() as f64;
        let rate = |elapsed: Duration| run.entries as f64 / elapsed.as_secs_f64();
        let fsync_ms = |elapsed: Duration| elapsed.as_secs_f64() * 1e3 / groups;
        println!(
            "append, {outstanding} outstanding: log {:.0}/s ({:.1} entries and {:.2} ms a group) | bare loop {:.0}/s \
             ({:.2} ms) | bare loop beside a busy thread {:.0}/s ({:.2} ms)",
            rate(run.elapsed),
            run.entries as f64 / groups,
            fsync_ms(run.elapsed),
            rate(asleep),
            fsync_ms(asleep),
            rate(awake),
            fsync_ms(awake),
        );
        for (rates, elapsed) in rates.iter_mut().zip([run.elapsed, asleep, awake]) {
            rates.push(rate(elapsed));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
    let [log, asleep, awake] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!(
        "append, {outstanding} outstanding, median: log {log:.0}/s = {:.2} x the bare loop ({asleep:.0}/s), {:.2} x \
         the one beside a busy thread ({awake:.0}/s)",
        log / asleep,
        log / awake
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
    log.close().unwrap();
    Run {
        entries,
        elapsed,
        groups: groups(&dir.join("journal")),
    }
}

/// The groups of a journal: frames up to and with each head.
fn groups(journal: &Path) -> Vec<Vec<u8>> {
    let mut segments: Vec<_> = std::fs::read_dir(journal)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    segments.sort();
    let mut groups = Vec::new();
    for segment in segments {
        let bytes = std::fs::read(segment).unwrap();
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut start = number(16);
        let mut at = start;
        while at < bytes.len() {
            let head = bytes[at + 4] == 2;
            at += 4 + number(at);
            if head {
                groups.push(bytes[start..at].to_vec());
                start = at;
            }
        }
    }
    groups
}

/// Writes and fdatasyncs the same bytes in the same groups, and nothing else. A loop that sleeps in fsync lets the
/// processor go idle, which on virtual machines makes each fsync slower than it is under the log's threads: beside a
/// busy thread it does not.
fn bare_run(path: &Path, groups: &[Vec<u8>], busy: bool) -> Duration {
    let stop = AtomicBool::new(!busy);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let mut file = File::create(path).unwrap();
        let started = Instant::now();
        for group in groups {
            file.write_all(group).unwrap();
            file.sync_data().unwrap();
        }
        let elapsed = started.elapsed();
        stop.store(true, Ordering::Relaxed);
        elapsed
    })
}

fn verification(scratch: &Path, entries: u64) {
    for (group, share) in [(64, 1), (1_024, 1), (1, 20)] {
        let entries = entries / share;
        let dir = scratch.join(format!("verify-{group}"));
        AuditLog::create(&dir, &keys(), "bench").unwrap();
        let options = LogOptions {
            publish_entries: u64::MAX,
            publish_after: Duration::from_secs(3_600),
            ..LogOptions::default()
        };
        let log = AuditLog::open_with(&dir, &keys(), Arc::new(SystemClock), options).unwrap();
        // Each group is waited for, or they would be joined.
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
            let (started, cpu) = (Instant::now(), cpu_seconds());
            let verified = match public {
                false => verify(&dir, &keys(), None),
                true => verify(&dir, keys().vkey("bench").as_str(), None),
            }
            .unwrap();
            let (elapsed, cpu) = (started.elapsed(), cpu_seconds() - cpu);
            assert_eq!(verified.entries, entries);
            println!(
                "verify {what}, groups of {group}: {entries} entries in {:.2} s = {:.0}/s; processor time {:.2} us an entry",
                elapsed.as_secs_f64(),
                entries as f64 / elapsed.as_secs_f64(),
                cpu * 1e6 / entries as f64
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

/// Processor time of this process so far, in steps of 10 ms; on a machine with other work it says more than the clock.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
