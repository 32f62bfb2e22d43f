//! Ordinary use, limits, clock, and a second opener.

use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};

use qihui_audit::{
    AuditLog, CLOCK_TOLERANCE_MS, Entry, Leaf, LogKeys, MAX_BODY_BYTES, Subjects, SystemClock,
    body_commitment, verify,
};

use crate::support::*;

#[test]
fn what_is_appended_is_read_back() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, small_segments(2_000));
    assert_eq!(log.size(), 0);
    append_each(&log, 0, 30);
    let first = log
        .append_many(&[
            entry("a", b"1", &[]),
            entry("b", b"", &[1]),
            entry("c", b"3", &[]),
        ])
        .unwrap();
    assert_eq!(
        first.iter().map(|r| r.index).collect::<Vec<_>>(),
        [30, 31, 32]
    );

    drop(log);
    for options in [quiet(), small_segments(2_000)] {
        let log = open(&dir, options);
        assert_eq!(log.size(), 33);
        let mut prev = [0; 32];
        for (n, entry) in log.scan(0..u64::MAX).enumerate() {
            let entry = entry.unwrap();
            assert_eq!((entry.index, entry.leaf.prev), (n as u64, prev));
            assert_eq!(entry, log.read(n as u64).unwrap());
            let digest = entry.subjects_digest.as_ref();
            assert_eq!(
                body_commitment(&entry.salt, &entry.body, digest),
                entry.leaf.body_hash
            );
            assert_eq!(digest.is_some(), !entry.subjects.is_empty());
            prev = entry.leaf.hash();
            if n < 30 {
                assert_eq!(entry.body, body(n as u64).as_bytes());
            }
        }
        assert_eq!(log.read(31).unwrap().subjects, Subjects::one(1));
        assert_eq!(log.read(33).unwrap_err().code(), "LogOutOfRange");
        assert_eq!(log.scan(31..100).count(), 2);
        drop(log);
        let verified = verify(&dir, &keys(), None).unwrap();
        assert_eq!(
            (
                verified.entries,
                verified.published,
                verified.unfinished_bytes
            ),
            (33, 33, 0)
        );
        assert!(verified.segments > 3 && verified.bodies);
        assert!(
            !verify(&dir, keys().vkey(ORIGIN).as_str(), None)
                .unwrap()
                .bodies
        );
    }
}

#[test]
fn aud_1_many_writers_get_each_its_own_place() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, small_segments(20_000));
    let mut seen: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16u32)
            .map(|writer| {
                let log = &log;
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for n in 0..25u64 {
                        let text = format!("{writer}-{n}");
                        let receipt = log.append(&entry("t", text.as_bytes(), &[writer])).unwrap();
                        assert!(
                            log.size() > receipt.index,
                            "durable before the receipt is given"
                        );
                        let read = log.read(receipt.index).unwrap();
                        assert_eq!(
                            (read.body, read.leaf.hash()),
                            (text.into_bytes(), receipt.leaf_hash)
                        );
                        mine.push(receipt.index);
                    }
                    assert_eq!(log.entries_touching(writer).unwrap(), mine);
                    mine
                })
            })
            .collect();
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect()
    });
    seen.sort_unstable();
    assert_eq!(seen, (0..400).collect::<Vec<_>>());
    // While it is open for appending.
    assert_eq!(log.verify(None).unwrap().entries, 400);
    let checkpoint = log.checkpoint().unwrap();
    log.close().unwrap();
    assert_eq!(
        verify(&dir, &keys(), Some(&checkpoint)).unwrap().entries,
        400
    );
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn entries_can_be_awaited() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, quiet());
    let mut pending: Vec<_> = (0..10u32)
        .map(|n| log.submit(&[entry("t", b"x", &[n])]).unwrap())
        .collect();
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    for (n, pending) in pending.iter_mut().enumerate() {
        let receipts = loop {
            match std::pin::Pin::new(&mut *pending).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => break result.unwrap(),
                Poll::Pending => std::thread::park(),
            }
        };
        assert_eq!(receipts[0].index, n as u64);
    }
    assert!(log.append_many(&[]).unwrap().is_empty());
}

#[test]
fn entries_beyond_the_limits_are_refused() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, quiet());
    let large = vec![b'x'; MAX_BODY_BYTES + 1];
    for bad in [
        entry("Upper", b"", &[]),
        entry("t", b"a\0b", &[]),
        entry("t", &large, &[]),
    ] {
        let error = log.append(&bad).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("LogEntryRefused", "failed"));
    }
    let receipt = log.append(&entry("t", &large[1..], &[])).unwrap();
    assert_eq!(log.read(receipt.index).unwrap().body.len(), MAX_BODY_BYTES);
    log.close().unwrap();
    assert_eq!(verify(&dir, &keys(), None).unwrap().entries, 1);
}

#[test]
fn a_clock_set_back_is_refused_and_a_little_slewing_is_not() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let clock = clock();
    let open = || AuditLog::open_with(&dir, &keys(), clock.clone(), quiet()).unwrap();
    let log = open();
    let one = entry("t", b"1", &[]);
    assert_eq!(log.append(&one).unwrap().time_ms, START_MS);
    clock
        .0
        .store(START_MS - CLOCK_TOLERANCE_MS, Ordering::Relaxed);
    assert_eq!(log.append(&one).unwrap().time_ms, START_MS);
    clock
        .0
        .store(START_MS - CLOCK_TOLERANCE_MS - 1, Ordering::Relaxed);
    for log in [log, {
        // The same after opening again, in another process say.
        let second = scratch.path().join("copy");
        write_files(&second, &files(&dir));
        AuditLog::open_with(&second, &keys(), clock.clone(), quiet()).unwrap()
    }] {
        let error = log.append(&one).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("ClockBack", "denied"));
        assert!(
            error.to_string().contains("2025-10-09T08:53:20.000Z"),
            "{error}"
        );
        assert_eq!(log.size(), 2);
        drop(log);
    }
    clock.0.store(START_MS + 5, Ordering::Relaxed);
    let log = open();
    assert_eq!(log.append(&one).unwrap().time_ms, START_MS + 5);
}

#[test]
fn a_second_opener_is_told() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, quiet());
    let error = AuditLog::open(&dir, &keys(), Arc::new(SystemClock)).unwrap_err();
    assert_eq!((error.code(), error.kind()), ("LogLocked", "denied"));
    assert_eq!(verify(&dir, &keys(), None).unwrap_err().code(), "LogLocked");
    drop(log);
    AuditLog::open(&dir, &keys(), Arc::new(SystemClock)).unwrap();
}

#[test]
fn logs_are_created_once_and_opened_with_their_keys() {
    let scratch = scratch();
    let dir = scratch.path().join("deep").join("log");
    assert_eq!(
        AuditLog::open(&dir, &keys(), clock()).unwrap_err().code(),
        "LogNotFound"
    );
    assert_eq!(
        verify(&dir, &keys(), None).unwrap_err().code(),
        "LogNotFound"
    );
    assert_eq!(
        AuditLog::create(&dir, &keys(), "with space")
            .unwrap_err()
            .code(),
        "LogKey"
    );
    create(&dir);
    assert_eq!(
        AuditLog::create(&dir, &keys(), ORIGIN).unwrap_err().code(),
        "LogExists"
    );
    let other = LogKeys::from_seeds(&[99; 32], &[12; 32]).unwrap();
    assert_eq!(
        AuditLog::open(&dir, &other, clock()).unwrap_err().code(),
        "LogKey"
    );
    let log = open(&dir, quiet());
    assert_eq!((log.origin(), log.dir()), (ORIGIN, dir.as_path()));
    assert_eq!(log.vkey(), keys().vkey(ORIGIN));
    // An empty log has a checkpoint, too.
    let checkpoint = log.checkpoint().unwrap();
    assert!(
        checkpoint.starts_with("hub.example/log\n0\n47DEQpj8HBSa"),
        "{checkpoint}"
    );
    drop(log);
    assert_eq!(verify(&dir, &keys(), Some(&checkpoint)).unwrap().entries, 0);
}

/// Nothing that a body or subject list says is readable in the files, and leaves name nobody.
#[test]
fn bodies_and_subjects_are_encrypted_at_rest() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, quiet());
    let subject = u32::from_le_bytes(*b"SUBJ");
    let canary = Entry {
        kind: "t",
        body: b"{\"statement\":\"CANARY-1\"}",
        subjects: Subjects::one(subject),
    };
    log.append(&canary).unwrap();
    log.close().unwrap();
    for (path, bytes) in files(&dir) {
        for secret in [&b"CANARY"[..], b"SUBJ", b"JBUS", b"statement"] {
            assert!(
                memchr::memmem::find(&bytes, secret).is_none(),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn a_leaf_is_small_and_public() {
    let leaf = Leaf {
        kind: "t".into(),
        time_ms: START_MS,
        prev: [1; 32],
        body_hash: [2; 32],
    };
    assert!(leaf.encode().len() <= qihui_audit::MAX_LEAF_BYTES);
    assert_eq!(Leaf::parse(&leaf.encode()), Some(leaf));
}
