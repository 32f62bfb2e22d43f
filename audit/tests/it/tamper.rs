//! AUD-2: every edit of what is on disk is found, alone or against a checkpoint kept elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proptest::prelude::*;
use qihui_audit::{Finding, LogKeys, VerifyError, verify};

use crate::support::*;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A small closed log: two segments, a group of two, subjects, tiles, checkpoint.
fn small_log() -> &'static Files {
    static LOG: OnceLock<Files> = OnceLock::new();
    LOG.get_or_init(|| {
        let scratch = scratch();
        let dir = scratch.path().join("log");
        create(&dir);
        let log = open(&dir, small_segments(1_300));
        append_each(&log, 0, 2);
        log.append_many(&[entry("b", b"{}", &[5]), entry("c", b"", &[])])
            .unwrap();
        append_each(&log, 4, 5);
        log.close().unwrap();
        let files = files(&dir);
        assert_eq!(segments(&files).len(), 2);
        files
    })
}

fn found(dir: &Path) -> Option<Finding> {
    match verify(dir, &keys(), None) {
        Ok(_) => None,
        Err(VerifyError::Tampered(at)) => Some(at.finding),
        Err(error) => panic!("{error}"),
    }
}

fn laid_out(files: &Files) -> tempfile::TempDir {
    let dir = scratch();
    write_files(dir.path(), files);
    dir
}

/// Flips bits of every file that the filter takes, one after the other.
fn flip_all(takes: impl Fn(&Path, usize) -> bool, check: impl Fn(&Path) -> bool) {
    let dir = laid_out(small_log());
    for (path, bytes) in small_log() {
        let file = dir.path().join(path);
        for bit in (0..bytes.len() * 8).filter(|bit| takes(path, *bit)) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, &flipped).unwrap();
            assert!(check(dir.path()), "{} bit {bit}", path.display());
        }
        fs::write(&file, bytes).unwrap();
    }
    assert_eq!(found(dir.path()), None, "and whole again");
}

// Two tests, so that they run side by side.
#[test]
fn aud_2_every_flipped_bit_is_found_in_the_journal() {
    flip_all(
        |path, _| path.starts_with("journal"),
        |dir| found(dir).is_some(),
    );
}

#[test]
fn aud_2_every_flipped_bit_is_found_elsewhere() {
    flip_all(
        |path, _| !path.starts_with("journal"),
        |dir| found(dir).is_some(),
    );
}

/// The public key alone finds accidents everywhere, bodies included: by the checksums.
#[test]
fn aud_2_flipped_bits_are_found_without_the_body_key() {
    let vkey = keys().vkey(ORIGIN);
    flip_all(
        |_, bit| bit % 5 == 0,
        |dir| {
            matches!(
                verify(dir, vkey.as_str(), None),
                Err(VerifyError::Tampered(_))
            )
        },
    );
}

#[test]
fn aud_2_truncation_at_every_length_is_found() {
    let dir = laid_out(small_log());
    for (path, bytes) in small_log() {
        for length in 0..bytes.len() {
            fs::write(dir.path().join(path), &bytes[..length]).unwrap();
            assert!(
                found(dir.path()).is_some(),
                "{} cut to {length}",
                path.display()
            );
        }
        fs::write(dir.path().join(path), bytes).unwrap();
    }
}

#[test]
fn aud_2_a_removed_or_foreign_file_is_found() {
    let dir = laid_out(small_log());
    for (path, bytes) in small_log()
        .iter()
        .filter(|(path, _)| *path != Path::new("lock"))
    {
        fs::remove_file(dir.path().join(path)).unwrap();
        assert!(found(dir.path()).is_some(), "{}", path.display());
        fs::write(dir.path().join(path), bytes).unwrap();
    }
    for (stray, finding) in [
        ("journal/note", Finding::Stray),
        ("tile/0/abc", Finding::Stray),
        ("tile/entries/000.p/005x", Finding::Stray),
        ("tile/0/001", Finding::Truncated),
        ("tile/0/000.p/200", Finding::Truncated),
        ("subjects/000", Finding::Truncated),
        ("journal/00000000000000000099.seg", Finding::Header),
    ] {
        let file = dir.path().join(stray);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, b"x").unwrap();
        let finding_is = found(dir.path());
        assert!(
            finding_is == Some(finding) || (stray.ends_with(".seg") && finding_is.is_none()),
            "{stray}: {finding_is:?}"
        );
        fs::remove_file(&file).unwrap();
    }
}

/// Rebuilds the first segment from a choice of its frames.
fn with_frames(change: impl Fn(&mut Vec<Vec<u8>>)) -> Files {
    let mut files = small_log().clone();
    let name = segments(&files)[0].clone();
    let segment = &files[&name];
    let ends = frame_ends(segment);
    let mut frames: Vec<Vec<u8>> = ends
        .windows(2)
        .map(|pair| segment[pair[0]..pair[1]].to_vec())
        .collect();
    let header = segment[..ends[0]].to_vec();
    change(&mut frames);
    files.insert(name, [header, frames.concat()].concat());
    files
}

#[test]
fn aud_2_removed_reordered_and_duplicated_frames_are_found() {
    let count = {
        let files = small_log();
        frame_ends(&files[&segments(files)[0]]).len() - 1
    };
    for a in 0..count {
        let removed = with_frames(|frames| drop(frames.remove(a)));
        assert!(found(laid_out(&removed).path()).is_some(), "removed {a}");
        let doubled = with_frames(|frames| frames.insert(a, frames[a].clone()));
        assert!(found(laid_out(&doubled).path()).is_some(), "doubled {a}");
        for b in a + 1..count {
            let swapped = with_frames(|frames| frames.swap(a, b));
            assert!(
                found(laid_out(&swapped).path()).is_some(),
                "swapped {a} {b}"
            );
        }
    }
}

/// One who knows the format mends the checksum of the frame.
#[test]
fn aud_2_every_changed_byte_is_found_with_mended_checksums() {
    let dir = laid_out(small_log());
    for name in segments(small_log()) {
        let segment = &small_log()[&name];
        let mut start = 0;
        for end in frame_ends(segment) {
            for at in start..end - 4 {
                let mut changed = segment.clone();
                changed[at] ^= 0x04;
                mend_crc(&mut changed[start..end]);
                fs::write(dir.path().join(&name), &changed).unwrap();
                assert!(found(dir.path()).is_some(), "{} byte {at}", name.display());
            }
            start = end;
        }
        fs::write(dir.path().join(&name), segment).unwrap();
    }
}

#[test]
fn aud_2_findings_say_where() {
    let (mut files, first) = (small_log().clone(), segments(small_log())[0].clone());
    let ends = frame_ends(&files[&first]);
    // A byte of the sealed body of entry 1 (the frames are entry 0, head, entry 1, head), checksum mended.
    let segment = files.get_mut(&first).unwrap();
    segment[ends[3] - 30] ^= 1;
    mend_crc(&mut segment[ends[2]..ends[3]]);
    let dir = laid_out(&files);
    let Err(VerifyError::Tampered(at)) = verify(dir.path(), &keys(), None) else {
        panic!("not found")
    };
    assert_eq!(at.finding, Finding::Seal);
    assert_eq!(
        (at.file.as_str(), at.index, at.offset),
        (first.to_str().unwrap(), Some(1), Some(ends[2] as u64))
    );
    assert!(at.to_string().contains("entry 1"), "{at}");
}

/// A log of the same keys and origin with other bodies: what one with all secrets could write.
fn other_history(dir: &Path, entries: u64) {
    create(dir);
    let log = open(dir, small_segments(1_300));
    for n in 0..entries {
        log.append(&entry(
            "test.entry",
            format!("{{\"other\":{n}}}").as_bytes(),
            &[],
        ))
        .unwrap();
    }
    log.close().unwrap();
}

#[test]
fn aud_2_a_replaced_body_is_found() {
    let scratch = scratch();
    other_history(scratch.path(), 5);
    let other = files(scratch.path());
    let name = segments(&other)[0].clone();
    let other_ends = frame_ends(&other[&name]);
    let replacement = other[&name][other_ends[0]..other_ends[1]].to_vec();
    // The whole frame of another history.
    let replaced = with_frames(|frames| frames[0] = replacement.clone());
    assert!(found(laid_out(&replaced).path()).is_some());
    // Only the sealed part, after our own leaf, when both bodies are equally long.
    let sealed = |frame: &[u8]| {
        frame.len()
            - 4
            - usize::try_from(u32::from_be_bytes(frame[35..39].try_into().unwrap())).unwrap()
    };
    let replaced = with_frames(|frames| {
        let (from, to) = (frames[4].clone(), frames[5].clone());
        assert_eq!((from[4], to[4]), (1, 1));
        let mut frame = to[..sealed(&to)].to_vec();
        frame.extend_from_slice(&from[sealed(&from)..from.len() - 4]);
        frame.extend_from_slice(&[0; 4]);
        let length = u32::try_from(frame.len() - 4).unwrap();
        frame[..4].copy_from_slice(&length.to_be_bytes());
        frame[35..43].copy_from_slice(&from[35..43]);
        mend_crc(&mut frame);
        frames[5] = frame;
    });
    assert!(found(laid_out(&replaced).path()).is_some());
}

#[test]
fn aud_2_a_log_of_another_key_is_found() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    write_files(&dir, small_log());
    let other = LogKeys::from_seeds(&[77; 32], &[12; 32]).unwrap();
    let vkey = other.vkey(ORIGIN);
    for result in [
        verify(&dir, &other, None),
        verify(&dir, vkey.as_str(), None),
    ] {
        let Err(VerifyError::Tampered(at)) = result else {
            panic!("not found")
        };
        assert_eq!(at.finding, Finding::Signature);
    }
    let other_body = LogKeys::from_seeds(&[11; 32], &[78; 32]).unwrap();
    let Err(VerifyError::Tampered(at)) = verify(&dir, &other_body, None) else {
        panic!("not found")
    };
    assert_eq!(at.finding, Finding::Seal);
    assert_eq!(verify(&dir, "nonsense", None).unwrap_err().code(), "LogKey");
}

#[test]
fn aud_2_a_restored_old_directory_is_found_against_an_outside_checkpoint() {
    let scratch = scratch();
    let (dir, old) = (scratch.path().join("log"), scratch.path().join("old"));
    create(&dir);
    let log = open(&dir, small_segments(1_300));
    append_each(&log, 0, 4);
    let early = log.checkpoint().unwrap();
    log.close().unwrap();
    write_files(&old, &files(&dir));
    let log = open(&dir, small_segments(1_300));
    append_each(&log, 4, 9);
    let late = log.checkpoint().unwrap();
    log.close().unwrap();

    let finding = |dir: &Path, checkpoint: &str| match verify(dir, &keys(), Some(checkpoint)) {
        Ok(_) => None,
        Err(VerifyError::Tampered(at)) => Some(at.finding),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(finding(&dir, &early), None);
    assert_eq!(finding(&dir, &late), None);
    assert_eq!(finding(&old, &early), None);
    assert_eq!(
        found(&old),
        None,
        "on its own, an older state is a whole log"
    );
    assert_eq!(finding(&old, &late), Some(Finding::Truncated));

    // Written anew with all keys: whole on its own, but not the history that the checkpoints saw.
    for entries in [4, 9, 12] {
        let forged = scratch.path().join(format!("forged-{entries}"));
        other_history(&forged, entries);
        assert_eq!(found(&forged), None);
        assert_eq!(finding(&forged, &early), Some(Finding::Rewritten));
        let expected = if entries < 9 {
            Finding::Truncated
        } else {
            Finding::Rewritten
        };
        assert_eq!(finding(&forged, &late), Some(expected));
    }
    // A checkpoint that is not this log's proves nothing, and says so.
    assert_eq!(
        verify(&dir, &keys(), Some("x")).unwrap_err().code(),
        "LogCheckpoint"
    );
    let forged = late.replace("\n9\n", "\n8\n");
    assert_eq!(
        verify(&dir, &keys(), Some(&forged)).unwrap_err().code(),
        "LogCheckpoint"
    );
}

/// Only the journal is put back; tiles and checkpoint of the later state betray it.
#[test]
fn aud_2_a_restored_old_journal_is_found() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    write_files(&dir, small_log());
    let early = files(&dir);
    let log = open(&dir, small_segments(1_300));
    append_each(&log, 5, 12);
    log.close().unwrap();
    for (path, _) in files(&dir)
        .iter()
        .filter(|(path, _)| path.starts_with("journal"))
    {
        fs::remove_file(dir.join(path)).unwrap();
    }
    write_files(
        &dir,
        &early
            .iter()
            .filter(|(p, _)| p.starts_with("journal"))
            .map(|(p, b)| (p.clone(), b.clone()))
            .collect(),
    );
    assert_eq!(found(&dir), Some(Finding::Truncated));
    assert!(qihui_audit::AuditLog::open_with(&dir, &keys(), clock(), quiet()).is_err());
    // With the old checkpoint too, the newer tiles still do.
    write_files(&dir, &early);
    assert_eq!(found(&dir), Some(Finding::Truncated));
}

#[derive(Debug, Clone)]
enum Edit {
    Overwrite { at: usize, bytes: Vec<u8> },
    Insert { at: usize, bytes: Vec<u8> },
    Delete { at: usize, length: usize },
    Swap { a: usize, b: usize, length: usize },
    Append { bytes: Vec<u8> },
}

impl Edit {
    fn apply(&self, file: &mut Vec<u8>) {
        let place = |at: usize, file: &Vec<u8>| at % (file.len() + 1);
        match self {
            Edit::Overwrite { at, bytes } => {
                let at = place(*at, file);
                for (old, new) in file[at..].iter_mut().zip(bytes) {
                    *old = *new;
                }
            }
            Edit::Insert { at, bytes } => {
                let at = place(*at, file);
                file.splice(at..at, bytes.iter().copied());
            }
            Edit::Delete { at, length } => {
                let at = place(*at, file);
                let to = (at + length).min(file.len());
                file.drain(at..to);
            }
            Edit::Swap { a, b, length } => {
                let (a, b) = (place(*a, file), place(*b, file));
                for n in 0..*length {
                    if a.max(b) + n < file.len() {
                        file.swap(a + n, b + n);
                    }
                }
            }
            Edit::Append { bytes } => file.extend_from_slice(bytes),
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..80);
    prop_oneof![
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Edit::Overwrite { at, bytes }),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        (any::<usize>(), 1usize..400).prop_map(|(at, length)| Edit::Delete { at, length }),
        (any::<usize>(), any::<usize>(), 1usize..300).prop_map(|(a, b, length)| Edit::Swap {
            a,
            b,
            length
        }),
        bytes().prop_map(|bytes| Edit::Append { bytes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// Whatever is done to one or several files, `verify` says no, or what it says yes to is the same log: bytes
    /// behind the last head are reported, and are no entries.
    #[test]
    fn aud_2_any_edit_is_found(edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..4)) {
        let mut files = small_log().clone();
        let names: Vec<PathBuf> = files.keys().filter(|path| *path != Path::new("lock")).cloned().collect();
        for (which, edit) in &edits {
            edit.apply(files.get_mut(&names[which.index(names.len())]).unwrap());
        }
        let dir = laid_out(&files);
        match verify(dir.path(), &keys(), None) {
            Err(VerifyError::Tampered(_)) => {}
            Err(error) => prop_assert!(false, "{error}"),
            Ok(verified) => {
                let last = segments(small_log()).pop().unwrap();
                let longer = files[&last].len() - small_log()[&last].len();
                prop_assert_eq!(verified.unfinished_bytes, longer as u64);
                files.get_mut(&last).unwrap().truncate(small_log()[&last].len());
                prop_assert_eq!(&files, small_log());
            }
        }
    }
}
