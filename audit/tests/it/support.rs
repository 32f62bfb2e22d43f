//! What the tests share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use qihui_audit::{AuditLog, Clock, Entry, LogKeys, LogOptions, Subjects};

/// A clock that tests set.
#[derive(Debug)]
pub struct TestClock(pub AtomicI64);

pub const START_MS: i64 = 1_760_000_000_000;

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub fn clock() -> Arc<TestClock> {
    Arc::new(TestClock(AtomicI64::new(START_MS)))
}

pub const ORIGIN: &str = "hub.example/log";

pub fn keys() -> LogKeys {
    LogKeys::from_seeds(&[11; 32], &[12; 32]).unwrap()
}

/// Nothing is published unless the test says so.
pub fn quiet() -> LogOptions {
    LogOptions {
        publish_entries: u64::MAX,
        publish_after: Duration::from_secs(3_600),
        ..LogOptions::default()
    }
}

pub fn small_segments(segment_bytes: u64) -> LogOptions {
    LogOptions {
        segment_bytes,
        ..quiet()
    }
}

pub fn create(dir: &Path) {
    AuditLog::create(dir, &keys(), ORIGIN).unwrap();
}

pub fn open(dir: &Path, options: LogOptions) -> AuditLog {
    AuditLog::open_with(dir, &keys(), clock(), options).unwrap()
}

pub fn entry<'a>(kind: &'a str, body: &'a [u8], subjects: &[u32]) -> Entry<'a> {
    Entry {
        kind,
        body,
        subjects: subjects.iter().copied().collect::<Subjects>(),
    }
}

/// Entry number `n` of a made-up history.
pub fn body(n: u64) -> String {
    format!("{{\"n\":{n}}}")
}

/// Appends entries `from..to`, each its own group, every third touching a subject.
pub fn append_each(log: &AuditLog, from: u64, to: u64) {
    for n in from..to {
        let subjects: &[u32] = if n % 3 == 0 { &[7, 70_000] } else { &[] };
        let receipt = log
            .append(&entry("test.entry", body(n).as_bytes(), subjects))
            .unwrap();
        assert_eq!(receipt.index, n);
    }
}

/// All files below a directory, by relative path.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(top: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for item in fs::read_dir(dir).unwrap() {
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

pub fn write_files(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in files {
        let to = dir.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

/// Paths of the journal's segments, relative, in order.
pub fn segments(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    files
        .keys()
        .filter(|path| path.starts_with("journal"))
        .cloned()
        .collect()
}

/// Where header and frames of a segment end. The format is documented; the tests read it on their own.
pub fn frame_ends(segment: &[u8]) -> Vec<usize> {
    let number = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let mut ends = vec![number(16)];
    while *ends.last().unwrap() < segment.len() {
        let at = *ends.last().unwrap();
        ends.push(at + 4 + number(at));
    }
    ends
}

/// Recomputes the CRC-32 at the end of a header or frame, as one who tampers would.
pub fn mend_crc(frame: &mut [u8]) {
    let at = frame.len() - 4;
    let crc = crc32(&frame[..at]);
    frame[at..].copy_from_slice(&crc.to_be_bytes());
}

/// CRC-32 (IEEE), bit by bit: independent of the crate that the log uses.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// A directory that goes with the test: in memory where that is possible, since thousands of real fsyncs test the
/// disk, not the log. The tests that kill processes and fill disks use the disk.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}
