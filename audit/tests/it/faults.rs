//! Every step of the append path fails once, in every way.

use std::sync::Arc;

use qihui_audit::{AuditLog, Fault, Faults, LogOptions, verify};

use crate::support::*;

/// What the scenario saw.
#[derive(Default)]
struct Seen {
    /// Bodies with a receipt, by index.
    acknowledged: Vec<(u64, String)>,
    refused: Vec<String>,
    unknown: Vec<String>,
    codes: Vec<&'static str>,
}

/// Twelve appends over several segments; after a failure that ends the log it is opened again.
fn scenario(dir: &std::path::Path, faults: &Arc<Faults>) -> Seen {
    let options = || LogOptions {
        faults: faults.clone(),
        ..small_segments(1_200)
    };
    let mut log = open(dir, options());
    let mut seen = Seen::default();
    for n in 0..12u64 {
        let text = body(n);
        match log.append(&entry("t", text.as_bytes(), &[1])) {
            Ok(receipt) => seen.acknowledged.push((receipt.index, text)),
            Err(error) => {
                assert_eq!(error.kind(), "denied", "{error}");
                seen.codes.push(error.code());
                if error.code() == "LogNoSpace" {
                    assert_eq!(log.failure(), None, "usable once there is space again");
                    seen.refused.push(text);
                } else {
                    seen.unknown.push(text);
                    assert!(log.failure().is_some());
                    let second = log.append(&entry("t", b"after", &[])).unwrap_err();
                    assert_eq!((second.code(), second.kind()), ("LogClosed", "denied"));
                    // What is known to be durable can still be read.
                    assert_eq!(
                        log.scan(0..u64::MAX).filter(Result::is_ok).count() as u64,
                        log.size()
                    );
                    drop(log);
                    log = open(dir, options());
                }
            }
        }
    }
    log.close().unwrap();
    seen
}

#[test]
fn aud_5_no_failing_step_loses_an_acknowledged_entry() {
    let scratch = scratch();
    let counted = Arc::new(Faults::default());
    let dir = scratch.path().join("count");
    create(&dir);
    assert_eq!(scenario(&dir, &counted).acknowledged.len(), 12);
    let steps = counted.steps();
    assert!(steps > 30, "{steps}");
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short] {
        for times in [1, 2, 3] {
            for nth in 0..steps {
                let dir = scratch.path().join(format!("{fault:?}-{times}-{nth}"));
                create(&dir);
                let faults = Arc::new(Faults::default());
                faults.fail(nth, times, fault);
                let seen = scenario(&dir, &faults);
                check(&dir, &seen, &format!("{fault:?} at {nth}, {times} times"));
                std::fs::remove_dir_all(&dir).unwrap();
            }
        }
    }
}

fn check(dir: &std::path::Path, seen: &Seen, what: &str) {
    let log = open(dir, quiet());
    for (index, text) in &seen.acknowledged {
        assert_eq!(log.read(*index).unwrap().body, text.as_bytes(), "{what}");
    }
    let all: Vec<Vec<u8>> = log
        .scan(0..u64::MAX)
        .map(|entry| entry.unwrap().body)
        .collect();
    for text in &seen.refused {
        assert!(
            !all.iter().any(|body| body == text.as_bytes()),
            "{what}: refused and yet there"
        );
    }
    // What is there beyond the acknowledged is what a failed fsync left open, whole and once.
    let open_ends = all
        .iter()
        .filter(|body| seen.unknown.iter().any(|text| text.as_bytes() == *body))
        .count();
    assert_eq!(all.len(), seen.acknowledged.len() + open_ends, "{what}");
    drop(log);
    assert_eq!(
        verify(dir, &keys(), None).unwrap().entries,
        all.len() as u64,
        "{what}"
    );
}

#[test]
fn aud_1_nobody_is_told_durable_when_fsync_failed() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let faults = Arc::new(Faults::default());
    let log = AuditLog::open_with(
        &dir,
        &keys(),
        clock(),
        LogOptions {
            faults: faults.clone(),
            ..quiet()
        },
    )
    .unwrap();
    append_each(&log, 0, 3);
    let (before, checkpoint) = (log.root(), log.checkpoint().unwrap());
    // Steps of an append: write, fsync.
    faults.fail(1, 1, Fault::Io);
    let failed: Vec<_> = std::thread::scope(|scope| {
        let log = &log;
        let writers: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || log.append(&entry("t", b"x", &[])).unwrap_err().code()))
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    assert!(
        failed
            .iter()
            .all(|code| ["LogIo", "LogClosed"].contains(code)),
        "{failed:?}"
    );
    assert!(failed.contains(&"LogIo"));
    assert_eq!(
        (log.root(), log.checkpoint().unwrap()),
        (before, checkpoint)
    );
    drop(log);
    let log = open(&dir, quiet());
    assert_eq!(log.root(), before);
    append_each(&log, 3, 5);
}
