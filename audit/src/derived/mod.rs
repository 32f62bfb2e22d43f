//! What is derived from the journal: tiles, bundles, subject index, `checkpoint`.
//!
//! It is built off the append path, by a thread of its own and by readers that need it, always from durable entries,
//! and published in order: tiles, bundles and index blocks first, fsynced; then `checkpoint`, under which all of it
//! must be there. On opening, the right edge on disk is taken up if it has the checkpoint's root; if anything about
//! it is missing or torn, everything is built again from the journal. A full tile is believed only if its root is
//! the hash that its parent tile holds for it, up to the edge in memory.
//!
//! **Limit.** The edge, the growing index block (at most 65,536 × 64 postings of 6 bytes) and 256
//! tiles are held in memory.

mod index;
mod nodes;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{LogError, Result};
use crate::format::Head;
use crate::journal::Journal;
use crate::keys::{LogKeys, PublicKey};
use crate::merkle::{Hash, leaf_hash};
use crate::note;
use crate::read::open_touched;
use crate::subjects::{BLOCK_ENTRIES, Block};
use crate::tiles::{
    Batch, Edges, Kind, MAX_TILE_BYTES, TILE_LEVELS, TILE_WIDTH, decode_hashes, encode_hashes,
    partial_tiles, push_bundle, read_limited, tile_path,
};

/// Name of the published checkpoint, in the log's directory.
pub(crate) const CHECKPOINT_FILE: &str = "checkpoint";
/// Full tiles kept in memory for proofs.
const CACHED_TILES: usize = 256;
/// Largest checkpoint file that is read.
const MAX_NOTE_BYTES: usize = 64 << 10;

/// Reads and opens the published checkpoint; `None` when there is none that this log's key signed.
pub(crate) fn published(dir: &Path, public: &PublicKey) -> Option<note::Opened> {
    read_small(&dir.join(CHECKPOINT_FILE)).and_then(|text| note::open(&text, public).ok())
}

/// The text of a checkpoint; `None` when it is not there or too long for one.
pub(crate) fn read_small(path: &Path) -> Option<Vec<u8>> {
    read_limited(path, MAX_NOTE_BYTES).ok()
}

/// The derived part of an open log.
pub(crate) struct Derived {
    journal: Arc<Journal>,
    keys: LogKeys,
    public: PublicKey,
    built: Mutex<Built>,
}

/// What has been built; everything up to `next` entries is in it.
#[derive(Default)]
struct Built {
    /// Taken up from disk, or begun anew.
    ready: bool,
    /// Entries read so far.
    next: u64,
    /// Entries that the published checkpoint covers; all files up to here are written.
    published: u64,
    edges: Edges,
    /// Leaves since the last full bundle.
    bundle: Vec<u8>,
    /// The growing block of the subject index, and the entries that are in it or in blocks before it: at most
    /// `next`.
    block: Block,
    indexed: u64,
    /// Leaf hash of the entry before `next`.
    last: Hash,
    /// Verified full tiles.
    cache: HashMap<(u8, u64), Arc<Vec<Hash>>>,
}

impl Derived {
    pub(crate) fn new(journal: Arc<Journal>, keys: LogKeys, public: PublicKey) -> Derived {
        Derived {
            journal,
            keys,
            public,
            built: Mutex::new(Built::default()),
        }
    }

    /// Brings everything up to `head` and publishes its checkpoint.
    pub(crate) fn publish(&self, head: &Head) -> Result<()> {
        self.current(&mut self.built.lock(), head)
    }

    /// Publishes the newest head, which is asked for while nothing else is published: so the tiles of exactly this head
    /// are there when it is returned.
    pub(crate) fn publish_newest(&self, newest: impl FnOnce() -> Head) -> Result<Head> {
        let mut built = self.built.lock();
        let head = newest();
        self.current(&mut built, &head)?;
        Ok(head)
    }

    /// Entries covered by the published checkpoint, as far as this process knows.
    pub(crate) fn published_size(&self) -> u64 {
        self.built.lock().published
    }

    /// Runs `work` while nothing is published.
    pub(crate) fn paused<T>(&self, work: impl FnOnce() -> T) -> T {
        let _built = self.built.lock();
        work()
    }

    /// Builds everything anew from the journal, whatever is on disk.
    pub(crate) fn rebuild_all(&self, head: &Head) -> Result<()> {
        let mut built = self.built.lock();
        *built = Built::default();
        let done = self.rebuild(&mut built, head).and_then(|()| {
            built.ready = true;
            self.build(&mut built, head)
        });
        if done.is_err() {
            *built = Built::default();
        }
        done
    }

    /// Everything up to `head`; a failure half-way discards what is in memory, so that the next attempt starts from
    /// what is on disk.
    fn current(&self, built: &mut Built, head: &Head) -> Result<()> {
        if built.ready && built.published >= head.size {
            return Ok(());
        }
        let done = self.build(built, head);
        if done.is_err() {
            *built = Built::default();
        }
        done
    }

    fn build(&self, built: &mut Built, head: &Head) -> Result<()> {
        if !built.ready {
            match self.take_up(head)? {
                Some(from_disk) => *built = from_disk,
                None => self.rebuild(built, head)?,
            }
            built.ready = true;
        }
        if built.published < head.size {
            let mut out = Output::new(self.journal.dir());
            self.read_on(built, head.size, Some(&mut out))?;
            self.finish(built, head, out)?;
        }
        Ok(())
    }

    /// Starts from nothing. A checkpoint of other entries than the journal's is left as it is: it is evidence.
    fn rebuild(&self, built: &mut Built, head: &Head) -> Result<()> {
        tracing::warn!(
            entries = head.size,
            "audit log: tiles are missing or torn; building them again"
        );
        *built = Built::default();
        let Some(checkpoint) = published(self.journal.dir(), &self.public) else {
            return Ok(());
        };
        let mut out = Output::new(self.journal.dir());
        self.read_on(built, checkpoint.size.min(head.size), Some(&mut out))?;
        if built.edges.size() != checkpoint.size || built.edges.root() != checkpoint.root {
            let why = "the journal does not hold the entries that this checkpoint covers";
            return Err(LogError::corrupt(Path::new(CHECKPOINT_FILE), 0, why));
        }
        out.batch.sync()
    }

    /// Reads entries up to `size` into the edge; with an output, also writes what becomes full.
    fn read_on(
        &self,
        built: &mut Built,
        size: u64,
        mut out: Option<&mut Output<'_>>,
    ) -> Result<()> {
        let mut entries = self.journal.entries(built.next..size, &self.keys);
        while built.next < size {
            let next = entries.next_with(|raw| {
                push_bundle(&mut built.bundle, raw.frame.leaf);
                Ok((leaf_hash(raw.frame.leaf), open_touched(&raw)?))
            });
            let Some((hash, touched)) = next? else { break };
            let index = built.next;
            built.next += 1;
            built.last = hash;
            if built.indexed == index {
                built.block.add(index, &touched);
                built.indexed += 1;
            }
            let full = built.edges.push(hash);
            if full.is_empty() {
                continue;
            }
            let bundle = std::mem::take(&mut built.bundle);
            if let Some(out) = &mut out {
                out.full(Kind::Entries, index / TILE_WIDTH as u64, &bundle)?;
                for tile in full {
                    out.full(
                        Kind::Hashes(tile.level),
                        tile.n,
                        &encode_hashes(&tile.hashes),
                    )?;
                }
                if built.next.is_multiple_of(BLOCK_ENTRIES) {
                    self.finish_block(built, &mut out.batch)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the partial tiles, makes everything durable, then publishes the checkpoint.
    fn finish(&self, built: &mut Built, head: &Head, mut out: Output<'_>) -> Result<()> {
        if built.edges.size() != head.size || built.edges.root() != head.root {
            return Err(LogError::corrupt(
                Path::new(CHECKPOINT_FILE),
                0,
                "the tiles do not have the root of the head",
            ));
        }
        for (kind, n, width) in partial_tiles(head.size) {
            out.batch
                .write(tile_path(kind, n, width), &built.partial(kind))?;
        }
        out.batch.sync()?;
        write_checkpoint(
            self.journal.dir(),
            &note::signed(&self.public.origin, head)?,
        )?;
        built.published = head.size;
        out.remove_superseded();
        Ok(())
    }

    /// The state as published on disk, if it is whole: the edge of every level, the leaves and the index block that
    /// were growing.
    fn take_up(&self, head: &Head) -> Result<Option<Built>> {
        let dir = self.journal.dir();
        let Some(checkpoint) = published(dir, &self.public).filter(|c| c.size <= head.size) else {
            return Ok(None);
        };
        let size = checkpoint.size;
        let bundle_start = size - size % TILE_WIDTH as u64;
        let mut levels = vec![Vec::new()];
        for level in 1..TILE_LEVELS {
            let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
            let width = usize::try_from(hashes % TILE_WIDTH as u64).unwrap_or(0);
            let mut edge = Vec::with_capacity(TILE_WIDTH);
            if width > 0 {
                let path = dir.join(tile_path(
                    Kind::Hashes(level),
                    hashes / TILE_WIDTH as u64,
                    width,
                ));
                match read_limited(&path, MAX_TILE_BYTES)
                    .ok()
                    .as_deref()
                    .and_then(decode_hashes)
                {
                    Some(read) => edge.extend(read),
                    None => return Ok(None),
                }
            }
            levels.push(edge);
        }
        let Some(edges) = Edges::new(bundle_start, levels) else {
            return Ok(None);
        };
        let indexed = size - size % BLOCK_ENTRIES;
        let mut built = Built {
            next: bundle_start,
            indexed,
            published: size,
            edges,
            ..Built::default()
        };
        self.read_on(&mut built, size, None)?;
        let right = partial_tiles(size).into_iter().all(|(kind, n, width)| {
            let stored = read_limited(&dir.join(tile_path(kind, n, width)), MAX_TILE_BYTES);
            stored.is_ok_and(|stored| stored == built.partial(kind))
        });
        Ok((right && built.edges.root() == checkpoint.root).then_some(built))
    }
}

impl Built {
    /// The content of the partial tile or bundle at the right edge.
    fn partial(&self, kind: Kind) -> Vec<u8> {
        match kind {
            Kind::Entries => self.bundle.clone(),
            Kind::Hashes(level) => encode_hashes(self.edges.level(level)),
        }
    }
}

/// What is being published.
struct Output<'a> {
    dir: &'a Path,
    batch: Batch<'a>,
    /// Directories with partial forms of what has become full.
    superseded: Vec<PathBuf>,
}

impl<'a> Output<'a> {
    fn new(dir: &'a Path) -> Output<'a> {
        Output {
            dir,
            batch: Batch::new(dir),
            superseded: Vec::new(),
        }
    }

    fn full(&mut self, kind: Kind, n: u64, content: &[u8]) -> Result<()> {
        self.batch.write(tile_path(kind, n, TILE_WIDTH), content)?;
        self.superseded
            .extend(tile_path(kind, n, 1).parent().map(Path::to_owned));
        Ok(())
    }

    /// tlog-tiles lets partial forms go once the full one is published.
    fn remove_superseded(self) {
        for path in self.superseded {
            if let Err(error) = std::fs::remove_dir_all(self.dir.join(&path))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "audit log: cannot remove superseded partial tiles");
            }
        }
    }
}

/// Replaces the published checkpoint, durably.
pub(crate) fn write_checkpoint(dir: &Path, text: &str) -> Result<()> {
    let mut batch = Batch::new(dir);
    batch.write(PathBuf::from(CHECKPOINT_FILE), text.as_bytes())?;
    batch.sync()
}

const _: () = assert!(BLOCK_ENTRIES.is_multiple_of(TILE_WIDTH as u64));
