//! A process that appends is killed, again and again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use qihui_audit::{AuditLog, LogOptions, SystemClock, verify};

use crate::support::*;

const DIR: &str = "QIHUI_AUDIT_CRASH_DIR";
const KILLS: u64 = 30;

/// What the child does: four writers append for ever; each receipt is told on standard error after it was given.
fn append_for_ever(dir: &Path) {
    let options = LogOptions {
        segment_bytes: 6_000,
        publish_entries: 40,
        publish_after: Duration::from_millis(5),
        ..LogOptions::default()
    };
    let log = AuditLog::open_with(dir, &keys(), Arc::new(SystemClock), options).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4u32 {
            let log = &log;
            scope.spawn(move || {
                for n in 0u64.. {
                    let text = format!("{}-{writer}-{n}", std::process::id());
                    let many = vec![entry("t", text.as_bytes(), &[writer]); 1 + (n % 3) as usize];
                    for receipt in log.append_many(&many).unwrap() {
                        // One write call per line: a killed child tells whole lines or none.
                        let line = format!("{} {text}\n", receipt.index);
                        std::io::stderr().write_all(line.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
}

/// Started again with a folder in its environment, this test is the child.
#[test]
fn aud_5_a_killed_writer_loses_no_acknowledged_entry() {
    if let Some(dir) = std::env::var_os(DIR) {
        return append_for_ever(Path::new(&dir));
    }
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("log");
    create(&dir);
    let mut acknowledged = BTreeMap::new();
    let mut cut = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::aud_5_a_killed_writer_loses_no_acknowledged_entry",
                "--nocapture",
                "--quiet",
            ])
            .env(DIR, &dir)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        // Killed after a number of receipts that differs each time; the other writers are anywhere then.
        for _ in 0..(kill * 17) % 90 {
            note(&told.next().unwrap().unwrap(), &mut acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        told.map_while(Result::ok)
            .for_each(|line| note(&line, &mut acknowledged));

        let verified = verify(&dir, &keys(), None).unwrap();
        cut += u64::from(verified.unfinished_bytes > 0);
        assert!(verified.entries >= acknowledged.len() as u64);
        if kill % 5 == 4 {
            let log = open_after_crash(&dir);
            for (index, text) in &acknowledged {
                assert_eq!(log.read(*index).unwrap().body, text.as_bytes());
            }
            assert_eq!(log.size(), verified.entries);
            drop(log);
            assert_eq!(
                verify(&dir, &keys(), None).unwrap().published,
                verified.entries
            );
        }
    }
    assert!(
        acknowledged.len() > 500,
        "{} entries, {cut} torn tails",
        acknowledged.len()
    );
}

fn open_after_crash(dir: &Path) -> AuditLog {
    AuditLog::open_with(dir, &keys(), Arc::new(SystemClock), quiet()).unwrap()
}

fn note(line: &str, acknowledged: &mut BTreeMap<u64, String>) {
    let (index, text) = line.split_once(' ').unwrap();
    acknowledged.insert(index.parse().unwrap(), text.to_owned());
}
