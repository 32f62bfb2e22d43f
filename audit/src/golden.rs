//! Golden files: what is written today, byte for byte, and that it is still read.
//!
//! A change of format shows as a diff of `tests/golden/`. Set `UPDATE_GOLDEN=1` to write the files anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::derived::Derived;
use crate::keys::{LogKeys, PublicKey, fixed};
use crate::log::{AuditLog, LogOptions};
use crate::merkle::Hash;
use crate::recovery::recover;
use crate::sequencer::{Entry, Prepared};
use crate::subjects::{Block, Subjects, Touched, open_block, seal_block};
use crate::writer::{Means, Writer};

struct Fixed;

impl Clock for Fixed {
    fn now_ms(&self) -> i64 {
        1_738_310_400_123
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn keys() -> LogKeys {
    LogKeys::from_seeds(&[1; 32], &[2; 32]).unwrap()
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(top: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for item in fs::read_dir(dir).into_iter().flatten() {
            let path = item.unwrap().path();
            if path.is_dir() {
                walk(top, &path, found);
            } else {
                found.insert(
                    path.strip_prefix(top).unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

/// Two segments, three groups, five entries, without threads, so that the "random" bytes come in order.
fn write_log(dir: &Path) {
    let keys = keys();
    AuditLog::create(dir, &keys, "hub.example/log").unwrap();
    let recovered = recover(dir, |origin| keys.public(origin), |_: &PublicKey| 0).unwrap();
    let public = keys.public(&recovered.origin);
    let means = Means {
        keys: keys.clone(),
        public: public.clone(),
        clock: Arc::new(Fixed),
        faults: Arc::default(),
        segment_bytes: 1_000,
    };
    let (mut writer, journal) = Writer::new(dir, recovered, means).unwrap();
    let entry = |kind, body: &'static str, subjects: &[u32]| {
        let subjects: Subjects = subjects.iter().copied().collect();
        Prepared::new(&Entry {
            kind,
            body: body.as_bytes(),
            subjects,
        })
        .unwrap()
    };
    let groups = [
        vec![
            entry("hub.created", "{}", &[]),
            entry("consent.active", r#"{"no":7}"#, &[7]),
        ],
        vec![entry(
            "access.decided",
            r#"{"rows":null}"#,
            &[7, 8, 4_000_000_000],
        )],
        vec![
            entry("access.finished", "", &[]),
            entry("run.finished", r#"{"read":3}"#, &[]),
        ],
    ];
    let mut last = None;
    for group in groups {
        last = Some(writer.commit(&[group]).unwrap().1);
    }
    Derived::new(journal, keys, public)
        .publish(&last.unwrap())
        .unwrap();
}

#[test]
fn every_format_is_the_golden_one() {
    fixed::begin();
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("log");
    write_log(&dir);
    let block = block_file();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = fs::remove_dir_all(golden("log-v1"));
        for (path, bytes) in files(&dir) {
            let to = golden("log-v1").join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, bytes).unwrap();
        }
        fs::write(golden("subject-index-v1"), &block).unwrap();
    }
    let (written, expected) = (files(&dir), files(&golden("log-v1")));
    assert_eq!(
        written.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (path, bytes) in &expected {
        assert_eq!(
            &written[path],
            bytes,
            "{} is written differently; a new format version?",
            path.display()
        );
    }
    assert_eq!(fs::read(golden("subject-index-v1")).unwrap(), block);
}

fn block_file() -> Vec<u8> {
    let mut block = Block::default();
    block.add(65_536, &Touched::Narrow(vec![7, 9]));
    block.add(65_537, &Touched::Wide);
    block.add(131_071, &Touched::Narrow(vec![7]));
    seal_block(&keys().index_key().unwrap(), 1, &[3; 32], &block.encode()).unwrap()
}

#[test]
fn the_golden_index_block_is_read() {
    let file = fs::read(golden("subject-index-v1")).unwrap();
    let key = keys().index_key().unwrap();
    let block = Block::decode(&open_block(&key, 1, &[3; 32], &file).unwrap()).unwrap();
    assert_eq!(
        (block.narrow(7), block.narrow(9), block.wide),
        (vec![0, 65_535], vec![0], vec![1])
    );
    assert!(open_block(&key, 2, &[3; 32], &file).is_none());
    assert!(open_block(&key, 1, &[4; 32], &file).is_none());
}

#[test]
fn the_golden_log_is_read_and_goes_on() {
    let scratch = tempfile::tempdir().unwrap();
    for (path, bytes) in files(&golden("log-v1")) {
        let to = scratch.path().join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    let verified = crate::verify(scratch.path(), &keys(), None).unwrap();
    assert_eq!(
        (
            verified.entries,
            verified.heads,
            verified.segments,
            verified.published
        ),
        (5, 3, 2, 5)
    );
    let log = AuditLog::open_with(
        scratch.path(),
        &keys(),
        Arc::new(SystemClock),
        LogOptions::default(),
    )
    .unwrap();
    let entries: Vec<_> = log.scan(0..u64::MAX).map(Result::unwrap).collect();
    assert_eq!(entries[0].leaf.prev, Hash::default());
    assert_eq!(entries[2].leaf.kind, "access.decided");
    assert_eq!(entries[2].body, br#"{"rows":null}"#);
    assert_eq!(
        entries[2].subjects.iter().collect::<Vec<_>>(),
        [7, 8, 4_000_000_000]
    );
    assert_eq!(log.entries_touching(7).unwrap(), [1, 2]);
    log.append(&Entry {
        kind: "hub.opened",
        body: b"{}",
        subjects: Subjects::none(),
    })
    .unwrap();
    log.close().unwrap();
    assert_eq!(
        crate::verify(scratch.path(), &keys(), None)
            .unwrap()
            .entries,
        6
    );
}
