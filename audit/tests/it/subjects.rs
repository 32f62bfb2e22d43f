//! The subject index.

use std::fs;
use std::path::Path;

use qihui_audit::{AuditLog, Entry, Finding, Subjects, VerifyError, verify};

use crate::support::*;

/// 65,536 entries and some: one full index block. Entry 500 is wide; 7 is touched by every thousandth entry.
fn full_block(dir: &Path, without: Option<u64>) -> AuditLog {
    create(dir);
    let log = open(dir, quiet());
    let entries: Vec<Entry<'_>> = (0..65_600u64)
        .map(|n| {
            let subjects = match n {
                _ if Some(n) == without => Subjects::none(),
                500 => (0..100_000).collect(),
                n if n % 1_000 == 1 => Subjects::from_iter([7, 9]),
                65_590 => Subjects::one(8),
                _ => Subjects::none(),
            };
            Entry {
                kind: "t",
                body: b"{}",
                subjects,
            }
        })
        .collect();
    for group in entries.chunks(8_192) {
        log.append_many(group).unwrap();
    }
    log
}

#[test]
fn aud_4_all_and_only_the_entries_of_a_subject_are_found_in_full_and_growing_blocks() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("log");
    let log = full_block(&dir, None);
    let mut of_seven: Vec<u64> = (0..66)
        .map(|n| n * 1_000 + 1)
        .filter(|n| *n < 65_600)
        .collect();
    of_seven.push(500);
    of_seven.sort_unstable();
    let check = |log: &AuditLog| {
        assert_eq!(log.entries_touching(7).unwrap(), of_seven);
        assert_eq!(log.entries_touching(8).unwrap(), [500, 65_590]);
        assert_eq!(log.entries_touching(99_999).unwrap(), [500]);
        assert!(log.entries_touching(100_000).unwrap().is_empty());
    };
    check(&log);
    log.close().unwrap();
    let block = dir.join("subjects/000");
    let damages: [&dyn Fn(); 3] = [&|| {}, &|| fs::remove_file(&block).unwrap(), &|| {
        fs::write(&block, b"torn").unwrap()
    }];
    for damage in damages {
        damage();
        let log = open(&dir, quiet());
        check(&log);
        log.close().unwrap();
        verify(&dir, &keys(), None).unwrap();
    }
}

#[test]
fn aud_2_an_index_item_cannot_be_removed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("log");
    full_block(&dir, None).close().unwrap();
    // One who has the keys makes the same log with one item less and puts its index in place of ours.
    let other = scratch.path().join("other");
    full_block(&other, Some(1)).close().unwrap();
    let block = dir.join("subjects/000");
    let genuine = fs::read(&block).unwrap();
    let found = || match verify(&dir, &keys(), None) {
        Err(VerifyError::Tampered(at)) => (at.finding, at.file),
        other => panic!("{other:?}"),
    };
    let at = || "subjects/000".to_owned();
    fs::copy(other.join("subjects/000"), &block).unwrap();
    assert_eq!(found(), (Finding::SubjectIndex, at()));
    for byte in [0, 20, 30, 60, genuine.len() - 1] {
        let mut flipped = genuine.clone();
        flipped[byte] ^= 1;
        fs::write(&block, flipped).unwrap();
        assert_eq!(found(), (Finding::SubjectIndex, at()));
    }
    fs::remove_file(&block).unwrap();
    assert_eq!(found(), (Finding::Missing, at()));
    fs::write(&block, genuine).unwrap();
    verify(&dir, &keys(), None).unwrap();
}

#[test]
fn millions_of_subjects_in_one_entry() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, quiet());
    let many: Subjects = (0..3_000_000u32)
        .map(|n| n.wrapping_mul(2_654_435_761) % 60_000_000)
        .collect();
    let some = many.iter().next().unwrap();
    log.append(&Entry {
        kind: "t",
        body: b"{}",
        subjects: many.clone(),
    })
    .unwrap();
    log.append(&entry("t", b"{}", &[some])).unwrap();
    assert_eq!(log.read(0).unwrap().subjects, many);
    assert_eq!(log.entries_touching(some).unwrap(), [0, 1]);
    log.close().unwrap();
    verify(&dir, &keys(), None).unwrap();
}
