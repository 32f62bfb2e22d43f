//! Verification: reads everything and trusts nothing but the key it is given.
//!
//! Recomputed and compared, from the first byte on: segment headers, frame checksums, the canonical encoding of each
//! leaf, the chain, the order of times, with the body key every body and subject list against its leaf, the root and
//! signature of every head, every tile, bundle and index block under the published checkpoint, the checkpoint itself,
//! and that no file is there that the log did not write. With a checkpoint kept elsewhere, the tree of its size must
//! have its root: that finds a log that was cut back or written anew, key and all (AUD-2).
//!
//! Splitting the journal into batches and the strictly serial part (chain, tree, comparison of tiles) run on the
//! calling thread; checksums, hashes, decryption and signatures on as many threads as there are processors. Memory: a few
//! batches of 512 KiB (or the largest frame) and one tile per level.
//!
//! **Limits.** The first contradiction is reported. A group behind the last head that has no signed head after it is
//! taken for one that a crash interrupted and is reported as `unfinished_bytes`, unless the checkpoint covers it.
//! Without the body key, altered ciphertext whose checksum was recomputed is not seen.

mod derived;
mod feed;
mod judge;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use crate::derived::{CHECKPOINT_FILE, read_small};
use crate::error::{Finding, LogError, Tampering, VerifyError};
use crate::journal::{JOURNAL_DIR, list_segments, segment_path};
use crate::keys::{PublicKey, VerifyKeys};
use crate::log::{Lock, lock};
use crate::merkle::Hash;
use crate::note::{self, NotOpened};
use derived::DerivedCheck;
use feed::{Batch, Feeder, Piece};
use judge::Judge;
use work::{Checked, check};

/// Bytes of the journal that are checked as one piece of work.
const BATCH_BYTES: usize = 512 << 10;

type Outcome<T> = std::result::Result<T, VerifyError>;

/// What was found to be whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Number of entries.
    pub entries: u64,
    /// Root of their tree.
    pub root: Hash,
    /// Number of signed heads, one per group commit.
    pub heads: u64,
    /// Number of journal segments.
    pub segments: u64,
    /// Entries that the published checkpoint covers.
    pub published: u64,
    /// Bytes behind the last head: a group that was never acknowledged. The log cuts them off when it is opened.
    pub unfinished_bytes: u64,
    /// Whether bodies, subject lists and subject index were checked too (they need the body key).
    pub bodies: bool,
}

/// Verifies the log in `dir`; `keys` are the log's keys, or its signed-note vkey. See the module's description.
/// No process may have the log open; while one has, use [`crate::AuditLog::verify`] in it.
///
/// # Errors
/// [`VerifyError::Tampered`] with the first contradiction; [`VerifyError::Log`] when the log cannot be judged:
/// unreadable files, malformed keys or outside checkpoint, [`LogError::Locked`], [`LogError::NotFound`].
pub fn verify(
    dir: &Path,
    keys: impl Into<VerifyKeys>,
    outside_checkpoint: Option<&str>,
) -> Outcome<Verified> {
    if !dir.join(JOURNAL_DIR).is_dir() {
        return Err(LogError::NotFound {
            dir: dir.display().to_string(),
        }
        .into());
    }
    let _lock = lock_for_reading(dir)?;
    verify_bounded(dir, &keys.into(), outside_checkpoint, None)
}

/// A log on read-only media cannot be open for writing.
fn lock_for_reading(dir: &Path) -> Outcome<Option<Lock>> {
    match lock(dir, FlockOperation::NonBlockingLockShared) {
        Ok(lock) => Ok(Some(lock)),
        Err(LogError::Io { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// How far an open log is verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) size: u64,
}

pub(crate) fn verify_bounded(
    dir: &Path,
    keys: &VerifyKeys,
    outside_checkpoint: Option<&str>,
    bound: Option<Bound>,
) -> Outcome<Verified> {
    let (firsts, strays) = list_segments(dir)?;
    if let Some(stray) = strays.first() {
        return Err(tampering(
            Finding::Stray,
            &Path::new(JOURNAL_DIR).join(stray),
            None,
            None,
        ));
    }
    if firsts.first() != Some(&0) {
        return Err(tampering(Finding::Missing, &segment_path(0), Some(0), None));
    }
    let public = match keys {
        VerifyKeys::Public(vkey) => PublicKey::parse(vkey)?,
        // Which origin the log claims; its signatures prove it.
        VerifyKeys::Full(keys) => keys.public(&feed::claimed_origin(dir)?),
    };
    let outside = match outside_checkpoint {
        None => None,
        Some(text) => Some(note::open(text.as_bytes(), &public).map_err(LogError::from)?),
    };
    let published = published_checkpoint(dir, &public)?;
    let derived = DerivedCheck::new(dir, published.size, keys)?;
    let mut judge = Judge::new(dir, public.clone(), published, outside, derived, bound);
    let feeder = Feeder::new(dir, firsts, keys);
    pipeline(feeder, &public, &mut judge)?;
    judge.finish()
}

fn published_checkpoint(dir: &Path, public: &PublicKey) -> Outcome<note::Opened> {
    let path = Path::new(CHECKPOINT_FILE);
    if !dir.join(path).exists() {
        return Err(tampering(Finding::Missing, path, None, None));
    }
    let opened = read_small(&dir.join(path))
        .ok_or(NotOpened::Malformed)
        .and_then(|text| note::open(&text, public));
    opened.map_err(|why| {
        let finding = if why == NotOpened::Malformed {
            Finding::Checkpoint
        } else {
            Finding::Signature
        };
        tampering(finding, path, None, None)
    })
}

/// Feeds batches to the workers and their results, in order, to the judge.
fn pipeline(mut feeder: Feeder<'_>, public: &PublicKey, judge: &mut Judge<'_>) -> Outcome<()> {
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(16);
    let in_flight_limit = workers * 2 + 2;
    let (jobs, job_queue) = mpsc::channel::<(u64, Batch)>();
    let job_queue = Mutex::new(job_queue);
    let (results, done) = mpsc::channel::<(u64, Checked)>();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let results = results.clone();
            let job_queue = &job_queue;
            scope.spawn(move || work(job_queue, &results, public));
        }
        drop(results);
        // Dropped on every way out, so that the workers end.
        let jobs = jobs;
        let mut ready = BTreeMap::new();
        let (mut fed, mut judged, mut in_flight) = (0u64, 0u64, 0usize);
        let mut more = true;
        loop {
            while more && in_flight < in_flight_limit {
                match feeder.next()? {
                    None => more = false,
                    Some(Piece::Frames(batch)) => {
                        in_flight += 1;
                        if jobs.send((fed, batch)).is_err() {
                            more = false;
                        }
                        fed += 1;
                    }
                    Some(other) => {
                        ready.insert(fed, Judgeable::Piece(other));
                        fed += 1;
                    }
                }
            }
            while let Some(next) = ready.remove(&judged) {
                judged += 1;
                let go_on = match next {
                    Judgeable::Piece(piece) => judge.piece(piece)?,
                    Judgeable::Checked(checked) => {
                        let go_on = judge.checked(&checked)?;
                        feeder.recycle(checked.batch);
                        go_on
                    }
                };
                if !go_on {
                    return Ok(());
                }
            }
            if judged == fed && !more {
                return Ok(());
            }
            if in_flight > 0 {
                let Ok((number, checked)) = done.recv() else {
                    return Ok(());
                };
                in_flight -= 1;
                ready.insert(number, Judgeable::Checked(checked));
            }
        }
    })
}

/// A worker: checks batches until there are no more.
fn work(
    jobs: &Mutex<mpsc::Receiver<(u64, Batch)>>,
    results: &mpsc::Sender<(u64, Checked)>,
    public: &PublicKey,
) {
    loop {
        let job = jobs.lock().recv();
        let Ok((number, batch)) = job else { break };
        if results.send((number, check(batch, public))).is_err() {
            break;
        }
    }
}

enum Judgeable {
    Piece(Piece),
    Checked(Checked),
}

fn place(finding: Finding, path: &Path, index: Option<u64>, offset: Option<u64>) -> Tampering {
    Tampering {
        finding,
        file: path.display().to_string(),
        index,
        offset,
    }
}

fn tampering(
    finding: Finding,
    path: &Path,
    index: Option<u64>,
    offset: Option<u64>,
) -> VerifyError {
    place(finding, path, index, offset).into()
}
