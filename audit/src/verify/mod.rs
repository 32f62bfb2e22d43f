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
//! batches of [`BATCH_BYTES`] (or the largest frame) and one tile per level.
//!
//! **Limits.** The first contradiction is reported. A group behind the last head that has no signed head after it is
//! taken for one that a crash interrupted and is reported as `unfinished_bytes`, unless the checkpoint covers it.
//! Without the body key, altered ciphertext whose checksum was recomputed is not seen.

mod derived;
mod feed;
mod work;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use crate::derived::{CHECKPOINT_FILE, read_small};
use crate::error::{Finding, LogError, Tampering, VerifyError};
use crate::format::Header;
use crate::journal::{JOURNAL_DIR, list_segments, segment_path};
use crate::keys::{PublicKey, VerifyKeys};
use crate::log::{Lock, lock};
use crate::merkle::{Frontier, Hash};
use crate::note::{self, NotOpened};
use crate::recovery::{Tip, signed_head_behind};
use derived::DerivedCheck;
use feed::{Batch, Feeder, Piece};
use work::{Checked, Item, check};

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
            scope.spawn(move || {
                loop {
                    let job = job_queue.lock().recv();
                    let Ok((number, batch)) = job else { break };
                    if results.send((number, check(batch, public))).is_err() {
                        break;
                    }
                }
            });
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

enum Judgeable {
    Piece(Piece),
    Checked(Checked),
}

/// The serial part: what depends on everything before.
struct Judge<'a> {
    dir: &'a Path,
    public: PublicKey,
    published: note::Opened,
    outside: Option<note::Opened>,
    derived: DerivedCheck<'a>,
    bound: Option<Bound>,
    tip: Tip,
    /// Size and root of the last head, and where its group ends.
    head: (u64, Hash),
    end: (PathBuf, u64),
    heads: u64,
    segments: u64,
    unfinished: Option<Unfinished>,
}

/// Where the last segment stops being whole.
struct Unfinished {
    at: Tampering,
    bytes: u64,
}

impl<'a> Judge<'a> {
    fn new(
        dir: &'a Path,
        public: PublicKey,
        published: note::Opened,
        outside: Option<note::Opened>,
        derived: DerivedCheck<'a>,
        bound: Option<Bound>,
    ) -> Judge<'a> {
        let tip = Tip {
            frontier: Frontier::default(),
            prev: Hash::default(),
            time_ms: i64::MIN,
        };
        let head = (0, tip.frontier.root());
        let end = (PathBuf::new(), 0);
        Judge {
            dir,
            public,
            published,
            outside,
            derived,
            bound,
            tip,
            head,
            end,
            heads: 0,
            segments: 0,
            unfinished: None,
        }
    }

    fn size(&self) -> u64 {
        self.tip.frontier.size()
    }

    /// Headers and ends of segments. False: there is nothing more to judge.
    fn piece(&mut self, piece: Piece) -> Outcome<bool> {
        match piece {
            Piece::Header {
                path,
                header,
                start,
            } => {
                self.header(&path, &header)?;
                self.end = (path, start);
            }
            Piece::Broken { path, offset, last } => return self.broken(&path, offset, last),
            Piece::Frames(_) => {}
        }
        Ok(true)
    }

    fn header(&mut self, path: &Path, header: &Header) -> Outcome<()> {
        let wrong = |finding| tampering(finding, path, Some(header.first()), Some(0));
        if header.first() > self.size() {
            return Err(tampering(
                Finding::Missing,
                &segment_path(self.size()),
                Some(self.size()),
                None,
            ));
        }
        let follows = Tip::of(header) == self.tip
            && self.head.0 == self.size()
            && header.origin == self.public.origin
            && path == segment_path(header.first());
        if !follows {
            return Err(wrong(Finding::Header));
        }
        if !self.public.verify_head(&header.head) {
            return Err(wrong(Finding::Signature));
        }
        if self.segments == 0 {
            self.passed(path)?;
        }
        self.segments += 1;
        Ok(())
    }

    fn checked(&mut self, checked: &Checked) -> Outcome<bool> {
        let path = checked.batch.path.as_path();
        for item in &checked.items {
            match item {
                Item::Entry(entry) => {
                    let index = self.size();
                    let wrong =
                        |finding| Err(tampering(finding, path, Some(index), Some(entry.offset)));
                    if entry.index != index {
                        return wrong(Finding::Leaf);
                    }
                    if entry.group != self.head.0 {
                        return wrong(Finding::Group);
                    }
                    if entry.prev != self.tip.prev {
                        return wrong(Finding::Chain);
                    }
                    if entry.time_ms < self.tip.time_ms {
                        return wrong(Finding::Time);
                    }
                    (self.tip.prev, self.tip.time_ms) = (entry.leaf_hash, entry.time_ms);
                    let leaf = checked
                        .batch
                        .bytes
                        .get(entry.leaf.clone())
                        .unwrap_or_default();
                    self.derived.entry(
                        index,
                        leaf,
                        &entry.leaf_hash,
                        &entry.touched,
                        &mut self.tip.frontier,
                    )?;
                    self.passed(path)?;
                }
                Item::Head {
                    head,
                    signed,
                    offset,
                    end,
                } => {
                    let wrong =
                        |finding| Err(tampering(finding, path, Some(head.size), Some(*offset)));
                    if head.size != self.size()
                        || head.size == self.head.0
                        || head.root != self.tip.frontier.root()
                    {
                        return wrong(Finding::Head);
                    }
                    if !signed {
                        return wrong(Finding::Signature);
                    }
                    self.head = (head.size, head.root);
                    self.end.1 = *end;
                    self.heads += 1;
                    if self.bound.is_some_and(|bound| bound.size == head.size) {
                        return Ok(false);
                    }
                }
            }
        }
        match &checked.wrong {
            None => Ok(true),
            Some(wrong) if wrong.finding == Finding::Frame => {
                self.broken(path, wrong.offset, checked.batch.last)
            }
            Some(wrong) => Err(tampering(
                wrong.finding,
                path,
                Some(self.size()),
                Some(wrong.offset),
            )),
        }
    }

    /// After each entry: are these the entries that the checkpoints cover?
    fn passed(&self, path: &Path) -> Outcome<()> {
        let size = self.size();
        if size == self.published.size && self.tip.frontier.root() != self.published.root {
            return Err(tampering(
                Finding::Checkpoint,
                Path::new(CHECKPOINT_FILE),
                None,
                None,
            ));
        }
        match self.outside {
            Some(outside) if outside.size == size && outside.root != self.tip.frontier.root() => {
                Err(tampering(Finding::Rewritten, path, Some(size), None))
            }
            _ => Ok(()),
        }
    }

    /// A place where no whole frame is. At the end of the journal it may be a group that a crash interrupted.
    fn broken(&mut self, path: &Path, offset: u64, last: bool) -> Outcome<bool> {
        let at = place(Finding::Frame, path, Some(self.size()), Some(offset));
        if !last {
            return Err(at.into());
        }
        let file = File::open(self.dir.join(path)).map_err(|e| LogError::io("open", path, e))?;
        // In a segment that was only begun, nothing is done yet.
        let done = if path == self.end.0 { self.end.1 } else { 0 };
        if signed_head_behind(&file, path, done, &self.public)?.is_some() {
            return Err(at.into());
        }
        let length = file
            .metadata()
            .map_err(|e| LogError::io("stat", path, e))?
            .len();
        self.unfinished = Some(Unfinished {
            at,
            bytes: length.saturating_sub(done),
        });
        Ok(false)
    }

    fn finish(mut self) -> Outcome<Verified> {
        let (entries, root) = self.head;
        let covered = self
            .published
            .size
            .max(self.outside.map_or(0, |outside| outside.size));
        if entries < covered {
            return Err(match self.unfinished {
                Some(unfinished) => unfinished.at.into(),
                None => tampering(
                    Finding::Truncated,
                    &self.end.0,
                    Some(entries),
                    Some(self.end.1),
                ),
            });
        }
        if self.unfinished.is_none() && self.bound.is_none() && self.size() != entries {
            // Whole entries without a head behind them: the process died between them and the head.
            let file = self.dir.join(&self.end.0);
            let length = std::fs::metadata(&file)
                .map_err(|e| LogError::io("stat", &self.end.0, e))?
                .len();
            let at = place(
                Finding::Truncated,
                &self.end.0,
                Some(entries),
                Some(self.end.1),
            );
            self.unfinished = Some(Unfinished {
                at,
                bytes: length.saturating_sub(self.end.1),
            });
        }
        let bodies = self.derived.bodies();
        self.derived.finish(entries)?;
        Ok(Verified {
            entries,
            root,
            heads: self.heads,
            segments: self.segments,
            published: self.published.size,
            unfinished_bytes: self.unfinished.map_or(0, |unfinished| unfinished.bytes),
            bodies,
        })
    }
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
