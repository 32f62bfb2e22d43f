//! The log as its users see it.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use rustix::fs::{FlockOperation, flock};

use crate::clock::Clock;
use crate::derived::{Derived, published, write_checkpoint};
use crate::error::{LogError, Result, VerifyError};
use crate::faults::Faults;
use crate::format::Head;
use crate::journal::{JOURNAL_DIR, Journal, segment_path};
use crate::keys::{LogKeys, PublicKey, VerifyKeys, check_origin};
use crate::merkle::{Frontier, Hash};
use crate::note;
use crate::proof;
use crate::read::{Scan, StoredEntry, read_entry};
use crate::recovery::{Tip, recover, sync_dir};
use crate::sequencer::{Entry, Pending, Prepared, Queue, Receipt, run};
use crate::verify::{Bound, Verified, verify_bounded};
use crate::writer::{Means, Writer, begin_segment, new_header};

pub(crate) const LOCK_FILE: &str = "lock";

/// How a log is run. The defaults are right except in tests.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A segment takes no further group once it is as long. Opening reads one segment.
    pub segment_bytes: u64,
    /// Tiles are published at the latest after so many entries.
    pub publish_entries: u64,
    /// … or after the log has had unpublished entries for so long.
    pub publish_after: Duration,
    /// For tests: makes steps of the append path fail.
    #[doc(hidden)]
    pub faults: Arc<Faults>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 16 << 20,
            publish_entries: 65_536,
            publish_after: Duration::from_secs(2),
            faults: Arc::default(),
        }
    }
}

/// A checkpoint, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The signed note (C2SP tlog-checkpoint).
    pub note: String,
    /// How many entries it covers.
    pub size: u64,
    /// The root of their tree.
    pub root: Hash,
}

/// A tamper-evident log, open for reading and appending. One at a time per directory; share it by reference.
///
/// Dropping it finishes what waits, publishes the tiles and gives the directory free; [`AuditLog::close`] does the
/// same and says whether it worked.
pub struct AuditLog {
    shared: Arc<Shared>,
    sequencer: Option<JoinHandle<()>>,
    publisher: Option<JoinHandle<()>>,
    /// Holds flock(2) until the log is dropped, after the threads are joined.
    _lock: Lock,
}

struct Shared {
    dir: PathBuf,
    keys: LogKeys,
    public: PublicKey,
    journal: Arc<Journal>,
    head: RwLock<Head>,
    queue: Queue,
    derived: Derived,
    options: LogOptions,
    /// Whether the publisher should end.
    closing: Mutex<bool>,
    publisher_wake: Condvar,
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog")
            .field("dir", &self.shared.dir)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Creates an empty log in `dir`, which must not exist or be empty. `origin` names the log in its checkpoints
    /// (1 to 200 printable ASCII characters, no space, no plus; by custom a URL without scheme). Appears whole or
    /// not at all.
    ///
    /// # Errors
    /// [`LogError::Exists`], [`LogError::Key`] (origin), [`LogError::Io`], [`LogError::NoSpace`].
    pub fn create(dir: &Path, keys: &LogKeys, origin: &str) -> Result<()> {
        check_origin(origin)?;
        let exists = || LogError::Exists {
            dir: dir.display().to_string(),
        };
        if fs::read_dir(dir).is_ok_and(|mut content| content.next().is_some()) {
            return Err(exists());
        }
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(|e| LogError::io("create", parent, e))?;
        let new = dir.with_added_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|e| LogError::io("remove", &new, e))?;
        }
        let journal = new.join(JOURNAL_DIR);
        fs::create_dir_all(&journal).map_err(|e| LogError::io("create", &journal, e))?;
        let public = keys.public(origin);
        let tip = Tip {
            frontier: Frontier::default(),
            prev: Hash::default(),
            time_ms: i64::MIN,
        };
        let head = keys.sign_head(&public, 0, tip.frontier.root());
        let path = segment_path(0);
        begin_segment(
            &new.join(&path),
            &path,
            &new_header(&tip, origin, head)?,
            &Faults::default(),
        )?;
        File::create(new.join(LOCK_FILE))
            .map_err(|e| LogError::io("create", &new.join(LOCK_FILE), e))?;
        write_checkpoint(&new, &note::signed(origin, &head)?)?;
        sync_dir(&new)?;
        fs::rename(&new, dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::NotADirectory => exists(),
            _ => LogError::io("rename", &new, e),
        })?;
        sync_dir(parent)
    }

    /// Opens the log with the default options. Entries that were acknowledged are there; the beginning of a group
    /// that was not is cut off.
    ///
    /// # Errors
    /// [`LogError::NotFound`], [`LogError::Locked`], [`LogError::Key`] (another log's keys), [`LogError::Corrupt`]
    /// when acknowledged entries are damaged, [`LogError::Io`].
    pub fn open(dir: &Path, keys: &LogKeys, clock: Arc<dyn Clock>) -> Result<AuditLog> {
        AuditLog::open_with(dir, keys, clock, LogOptions::default())
    }

    /// As [`AuditLog::open`].
    ///
    /// # Errors
    /// As [`AuditLog::open`].
    pub fn open_with(
        dir: &Path,
        keys: &LogKeys,
        clock: Arc<dyn Clock>,
        options: LogOptions,
    ) -> Result<AuditLog> {
        if !dir.join(JOURNAL_DIR).is_dir() {
            return Err(LogError::NotFound {
                dir: dir.display().to_string(),
            });
        }
        let lock = lock(dir, FlockOperation::NonBlockingLockExclusive)?;
        let covers =
            |public: &PublicKey| published(dir, public).map_or(0, |checkpoint| checkpoint.size);
        let recovered = recover(dir, |origin| keys.public(origin), covers)?;
        if recovered.cut > 0 {
            tracing::warn!(
                bytes = recovered.cut,
                "audit log: cut off a group that was never acknowledged"
            );
        }
        let public = keys.public(&recovered.origin);
        let head = recovered.head;
        let means = Means {
            keys: keys.clone(),
            public: public.clone(),
            clock,
            faults: options.faults.clone(),
            segment_bytes: options.segment_bytes,
        };
        let (writer, journal) = Writer::new(dir, recovered, means)?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            keys: keys.clone(),
            derived: Derived::new(journal.clone(), keys.clone(), public.clone()),
            public,
            journal,
            head: RwLock::new(head),
            queue: Queue::default(),
            options,
            closing: Mutex::new(false),
            publisher_wake: Condvar::new(),
        });
        let mut log = AuditLog {
            shared: shared.clone(),
            sequencer: None,
            publisher: None,
            _lock: lock,
        };
        let (for_sequencer, for_publisher) = (shared.clone(), shared);
        log.sequencer = Some(spawn("audit-sequencer", move || {
            for_sequencer.sequence(writer)
        })?);
        log.publisher = Some(spawn("audit-publisher", move || {
            for_publisher.publish_in_turn()
        })?);
        Ok(log)
    }

    /// Records an entry; returns once it is durable (AUD-1).
    ///
    /// # Errors
    /// [`LogError::Refused`] for an entry beyond the limits; [`LogError::ClockBack`]; [`LogError::NoSpace`], after
    /// which nothing of it is in the log and it may be repeated; [`LogError::Io`] when a write or fsync failed: then
    /// whether it was recorded is known only after opening again, and until then every append is
    /// [`LogError::Closed`].
    pub fn append(&self, entry: &Entry<'_>) -> Result<Receipt> {
        let receipts = self.append_many(std::slice::from_ref(entry))?;
        receipts.into_iter().next().ok_or_else(|| LogError::Closed {
            why: "no receipt was given".into(),
        })
    }

    /// Records entries next to each other, in one group: all of them or none.
    ///
    /// # Errors
    /// As [`AuditLog::append`].
    pub fn append_many(&self, entries: &[Entry<'_>]) -> Result<Vec<Receipt>> {
        self.submit(entries)?.wait()
    }

    /// Hands entries in without waiting; as [`AuditLog::append_many`] once the result is waited for or awaited.
    /// Blocks only while the queue is over its limit.
    ///
    /// # Errors
    /// Those known at once: [`LogError::Refused`], [`LogError::Closed`].
    pub fn submit(&self, entries: &[Entry<'_>]) -> Result<Pending> {
        let prepared = entries
            .iter()
            .map(Prepared::new)
            .collect::<Result<Vec<_>>>()?;
        self.shared.queue.submit(prepared)
    }

    /// Number of durable entries.
    pub fn size(&self) -> u64 {
        self.shared.head.read().size
    }

    /// Size and root of the tree of all durable entries.
    pub fn root(&self) -> (u64, Hash) {
        let head = self.shared.head.read();
        (head.size, head.root)
    }

    /// Root of the tree of the first `size` entries.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`]; what reading and publishing tiles gives.
    pub fn root_at(&self, size: u64) -> Result<Hash> {
        proof::root_at(&self.shared.derived, &self.head(), size)
    }

    /// The newest checkpoint: a signed note over all durable entries.
    ///
    /// # Errors
    /// [`LogError::Checkpoint`] when it cannot be written as a note.
    pub fn checkpoint(&self) -> Result<String> {
        note::signed(&self.shared.public.origin, &self.head())
    }

    /// The newest checkpoint together with what it says, for proofs that are to lead to it. Tiles and bundles are
    /// published as far as it reaches before it is given away, so that whoever has it can fetch them.
    ///
    /// # Errors
    /// [`LogError::Checkpoint`]; what [`AuditLog::publish`] gives.
    pub fn published_checkpoint(&self) -> Result<Checkpoint> {
        let head = self.shared.derived.publish_newest(|| self.head())?;
        let note = note::signed(&self.shared.public.origin, &head)?;
        Ok(Checkpoint {
            note,
            size: head.size,
            root: head.root,
        })
    }

    /// The signed-note verifier key of this log.
    pub fn vkey(&self) -> String {
        self.shared.public.vkey()
    }

    /// The name of this log in its checkpoints.
    pub fn origin(&self) -> &str {
        &self.shared.public.origin
    }

    /// The directory of this log.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::Corrupt`], [`LogError::Io`].
    pub fn read(&self, index: u64) -> Result<StoredEntry> {
        let size = self.size();
        if index >= size {
            return Err(LogError::OutOfRange { size, asked: index });
        }
        read_entry(&self.shared.journal, &self.shared.keys, index)
    }

    /// Iterates over the durable entries of the range, in order and in bounded memory; what lies beyond the end of the
    /// log is left out.
    pub fn scan(&self, range: Range<u64>) -> Scan {
        let size = self.size();
        let range = range.start.min(size)..range.end.min(size);
        Scan::new(self.shared.journal.clone(), self.shared.keys.clone(), range)
    }

    /// The audit path of entry `index` in the tree of `size` entries, lowest sibling first.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`]; what reading and publishing tiles gives.
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<Vec<Hash>> {
        proof::inclusion(&self.shared.derived, &self.head(), index, size)
    }

    /// The proof that the tree of `new` entries begins with that of `old`.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`]; what reading and publishing tiles gives.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>> {
        proof::consistency(&self.shared.derived, &self.head(), old, new)
    }

    /// Indices of all durable entries that touch the subject, ascending.
    ///
    /// # Errors
    /// What reading the journal and publishing tiles gives.
    pub fn entries_touching(&self, subject: u32) -> Result<Vec<u64>> {
        self.shared.derived.entries_touching(&self.head(), subject)
    }

    /// Brings tiles, bundles, subject index and the `checkpoint` file up to the newest entry now.
    ///
    /// # Errors
    /// [`LogError::NoSpace`], [`LogError::Io`], [`LogError::Corrupt`].
    pub fn publish(&self) -> Result<()> {
        self.shared.derived.publish(&self.head())
    }

    /// Builds tiles, bundles, subject index and `checkpoint` anew from the journal, as after `verify` found one of them
    /// damaged. A checkpoint that the journal contradicts is left as it is, and is an error.
    ///
    /// # Errors
    /// As [`AuditLog::publish`].
    pub fn rebuild(&self) -> Result<()> {
        self.shared.derived.rebuild_all(&self.head())
    }

    /// Verifies everything on disk up to the newest entry while the log stays open for appending; see
    /// [`crate::verify()`].
    ///
    /// # Errors
    /// As [`crate::verify()`].
    pub fn verify(&self, outside_checkpoint: Option<&str>) -> Result<Verified, VerifyError> {
        let shared = &self.shared;
        shared.derived.paused(|| {
            let bound = Bound {
                size: shared.head.read().size,
            };
            verify_bounded(
                &shared.dir,
                &VerifyKeys::Full(shared.keys.clone()),
                outside_checkpoint,
                Some(bound),
            )
        })
    }

    /// Why the log takes no more entries, if it does not.
    pub fn failure(&self) -> Option<String> {
        self.shared.queue.dead()
    }

    /// Finishes what waits, publishes, and gives the directory free.
    ///
    /// # Errors
    /// What the last publishing gave. The log is closed all the same, and no entry is lost.
    pub fn close(mut self) -> Result<()> {
        self.stop();
        self.publish()
    }

    fn head(&self) -> Head {
        *self.shared.head.read()
    }

    fn stop(&mut self) {
        self.shared.queue.close();
        *self.shared.closing.lock() = true;
        self.shared.publisher_wake.notify_all();
        for thread in [self.sequencer.take(), self.publisher.take()]
            .into_iter()
            .flatten()
        {
            if thread.join().is_err() {
                tracing::error!("a thread of the audit log panicked");
            }
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.stop();
        if let Err(error) = self.publish() {
            tracing::warn!(code = error.code(), %error, "audit log: cannot publish tiles on closing");
        }
    }
}

impl Shared {
    fn sequence(&self, writer: Writer) {
        let mut seen = self.derived.published_size();
        run(&self.queue, writer, |head| {
            *self.head.write() = *head;
            if head.size >= seen + self.options.publish_entries {
                seen = head.size;
                self.publisher_wake.notify_one();
            }
        });
    }

    /// The publisher thread: at the latest `publish_after` after an entry, its tiles are there. Failures only delay
    /// it: the journal alone is the record.
    fn publish_in_turn(&self) {
        let mut failing = false;
        let mut closing = self.closing.lock();
        while !*closing {
            let until = Instant::now() + self.options.publish_after;
            let _ = self.publisher_wake.wait_until(&mut closing, until);
            if *closing {
                break;
            }
            drop(closing);
            let result = self.derived.publish(&self.head.read().clone());
            if let Err(error) = &result
                && !failing
            {
                tracing::warn!(code = error.code(), %error, "audit log: cannot publish tiles; trying again later");
            }
            failing = result.is_err();
            closing = self.closing.lock();
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|e| LogError::io("start the thread of", Path::new(name), e))
}

/// flock(2) on the log's lock file, until dropped.
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a process that was forked meanwhile, until it executes its program.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "audit log: cannot unlock its directory");
        }
    }
}

/// Takes the lock without waiting.
pub(crate) fn lock(dir: &Path, operation: FlockOperation) -> Result<Lock> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| LogError::io("open", &path, e))?;
    flock(&file, operation).map_err(|e| {
        if e == rustix::io::Errno::WOULDBLOCK {
            return LogError::Locked {
                dir: dir.display().to_string(),
            };
        }
        LogError::io("lock", &path, e.into())
    })?;
    Ok(Lock(file))
}
