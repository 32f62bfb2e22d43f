//! What a power cut can leave behind: any part of the last, never acknowledged group.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use qihui_audit::{AuditLog, Finding, VerifyError, verify};

use crate::support::*;

/// A log of groups of two, copied while it is open: five groups published, three only in the journal.
fn unpublished(dir: &Path, segment_bytes: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    create(dir);
    let log = open(dir, small_segments(segment_bytes));
    let group = |n: u64| {
        let bodies = [body(n), body(n + 1)];
        log.append_many(&[
            entry("t", bodies[0].as_bytes(), &[1]),
            entry("t", bodies[1].as_bytes(), &[]),
        ])
        .unwrap();
    };
    (0..5).for_each(|n| group(2 * n));
    log.publish().unwrap();
    (5..8).for_each(|n| group(2 * n));
    files(dir)
}

/// Entries that a journal cut off at `length` bytes of its last segment still proves: those before its last whole head.
fn acknowledged(segment: &[u8], first: u64, length: usize) -> u64 {
    let ends = frame_ends(segment);
    let mut entries = first;
    let mut at_head = first;
    for pair in ends.windows(2) {
        if segment[pair[0] + 4] == 1 {
            entries += 1;
        } else if pair[1] <= length {
            at_head = entries;
        }
    }
    at_head
}

fn check_open(dir: &Path, expected: u64) {
    let log = open(dir, quiet());
    assert_eq!(log.size(), expected);
    for (n, entry) in log.scan(0..u64::MAX).enumerate() {
        assert_eq!(entry.unwrap().body, body(n as u64).as_bytes());
    }
    // It goes on where it stopped.
    append_each(&log, expected, expected + 1);
    log.close().unwrap();
    let verified = verify(dir, &keys(), None).unwrap();
    assert_eq!(
        (verified.entries, verified.unfinished_bytes),
        (expected + 1, 0)
    );
}

#[test]
fn aud_5_a_tail_torn_at_any_length_is_cut_off_and_nothing_else() {
    let scratch = scratch();
    let whole = unpublished(&scratch.path().join("log"), u64::MAX);
    let last = segments(&whole).pop().unwrap();
    let segment = &whole[&last];
    let published_end = (0..segment.len())
        .find(|length| acknowledged(segment, 0, *length) == 10)
        .unwrap();
    let dir = scratch.path().join("cut");
    for length in published_end..=segment.len() {
        let _ = std::fs::remove_dir_all(&dir);
        let mut cut = whole.clone();
        cut.get_mut(&last).unwrap().truncate(length);
        write_files(&dir, &cut);
        let expected = acknowledged(segment, 0, length);
        // Verification alone says what opening would keep.
        let verified = verify(&dir, &keys(), None).unwrap();
        assert_eq!(verified.entries, expected);
        assert_eq!(
            verified.unfinished_bytes == 0,
            acknowledged(segment, 0, length - 1) < expected || length == published_end
        );
        if length % 7 == 0 || length == segment.len() {
            check_open(&dir, expected);
        } else {
            assert_eq!(open(&dir, quiet()).size(), expected);
        }
    }
}

/// Below what the checkpoint covers, opening must not heal by cutting.
#[test]
fn aud_5_published_entries_are_never_cut_off() {
    let scratch = scratch();
    let whole = unpublished(&scratch.path().join("log"), u64::MAX);
    let last = segments(&whole).pop().unwrap();
    let segment = whole[&last].clone();
    let dir = scratch.path().join("cut");
    let header = frame_ends(&segment)[0];
    for length in (header..segment.len()).filter(|length| acknowledged(&segment, 0, *length) < 10) {
        let mut cut = whole.clone();
        cut.get_mut(&last).unwrap().truncate(length);
        write_files(&dir, &cut);
        let error = AuditLog::open_with(&dir, &keys(), clock(), quiet()).unwrap_err();
        assert_eq!(error.code(), "LogCorrupt", "{length}");
        assert_eq!(
            std::fs::read(dir.join(&last)).unwrap().len(),
            length,
            "left as it was"
        );
        assert!(verify(&dir, &keys(), None).is_err());
    }
}

/// A damaged byte before a whole signed head is damage to acknowledged entries, published or not.
#[test]
fn aud_5_damage_before_a_signed_head_is_not_taken_for_a_torn_tail() {
    let scratch = scratch();
    let whole = unpublished(&scratch.path().join("log"), u64::MAX);
    let last = segments(&whole).pop().unwrap();
    let ends = frame_ends(&whole[&last]);
    let last_head = ends[ends.len() - 2];
    let dir = scratch.path().join("damaged");
    for at in 0..last_head {
        let mut damaged = whole.clone();
        damaged.get_mut(&last).unwrap()[at] ^= 0x10;
        write_files(&dir, &damaged);
        assert!(
            AuditLog::open_with(&dir, &keys(), clock(), quiet()).is_err(),
            "byte {at}"
        );
        assert!(
            matches!(verify(&dir, &keys(), None), Err(VerifyError::Tampered(_))),
            "byte {at}"
        );
    }
}

/// The process died while it began a segment.
#[test]
fn aud_5_a_segment_that_was_never_begun_is_removed() {
    let scratch = scratch();
    let whole = unpublished(&scratch.path().join("log"), 1_500);
    let names = segments(&whole);
    assert!(names.len() > 2);
    let header =
        whole[names.last().unwrap()][..frame_ends(&whole[names.last().unwrap()])[0]].to_vec();
    let next = PathBuf::from("journal/00000000000000000016.seg");
    let dir = scratch.path().join("cut");
    for length in (0..header.len()).step_by(5) {
        for zeros in [false, true] {
            let _ = std::fs::remove_dir_all(&dir);
            let mut begun = whole.clone();
            let mut bytes = header.clone();
            if zeros {
                bytes[length..].fill(0);
            } else {
                bytes.truncate(length);
            }
            begun.insert(next.clone(), bytes);
            write_files(&dir, &begun);
            assert_eq!(verify(&dir, &keys(), None).unwrap().entries, 16);
            check_open(&dir, 16);
        }
    }
}

#[test]
fn whole_entries_without_a_head_are_unfinished() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    let whole = unpublished(&dir, u64::MAX);
    let last = segments(&whole).pop().unwrap();
    let ends = frame_ends(&whole[&last]);
    let cut = scratch.path().join("cut");
    write_files(&cut, &whole);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(cut.join(&last))
        .unwrap();
    file.set_len(ends[ends.len() - 2] as u64).unwrap();
    let verified = verify(&cut, &keys(), None).unwrap();
    assert_eq!(
        (verified.entries, verified.unfinished_bytes),
        (14, (ends[ends.len() - 2] - ends[ends.len() - 4]) as u64)
    );
    // In any other place it is damage.
    drop(file);
    let other = scratch.path().join("many");
    let many = unpublished(&other, 1_500);
    let names = segments(&many);
    let short = scratch.path().join("short");
    write_files(&short, &many);
    let ends = frame_ends(&many[&names[0]]);
    let first = std::fs::OpenOptions::new()
        .write(true)
        .open(short.join(&names[0]))
        .unwrap();
    first.set_len(ends[ends.len() - 2] as u64).unwrap();
    let Err(VerifyError::Tampered(at)) = verify(&short, &keys(), None) else {
        panic!("not found")
    };
    assert_eq!(at.finding, Finding::Header);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A disk writes the blocks of an unacknowledged group in any order, or not: every acknowledged entry stays.
    #[test]
    fn aud_5_any_part_of_the_last_group_may_be_missing(holes in prop::collection::vec((0usize..1_500, 1usize..600), 1..4)) {
        let scratch = scratch();
        let whole = unpublished(&scratch.path().join("log"), u64::MAX);
        let last = segments(&whole).pop().unwrap();
        let mut torn = whole;
        let segment = torn.get_mut(&last).unwrap();
        let ends = frame_ends(segment);
        let group = ends[ends.len() - 4];
        let before = segment.clone();
        for (at, length) in holes {
            let at = (group + at).min(segment.len());
            let to = (at + length).min(segment.len());
            segment[at..to].fill(0);
        }
        let dir = scratch.path().join("torn");
        write_files(&dir, &torn);
        let head_whole = torn[&last][ends[ends.len() - 2]..] == before[ends[ends.len() - 2]..];
        if torn[&last] == before {
            check_open(&dir, 16);
        } else if head_whole {
            // From a whole head without its entries one must assume that they were acknowledged.
            prop_assert!(AuditLog::open_with(&dir, &keys(), clock(), quiet()).is_err());
        } else {
            check_open(&dir, 14);
        }
    }
}
