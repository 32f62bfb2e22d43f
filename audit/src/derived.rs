//! What is derived from the journal: tiles, bundles, subject index, `checkpoint`.
//!
//! It is built off the append path, by a thread of its own and by readers that need it, always from durable entries,
//! and published in order: tiles, bundles and index blocks first, fsynced; then `checkpoint`, under which all of it
//! must be there. On opening, the right edge on disk is taken up if it has the checkpoint's root; if anything about
//! it is missing or torn, everything is built again from the journal. A full tile is believed only if its root is
//! the hash that its parent tile holds for it, up to the edge in memory.
//!
//! **Limit.** The edge, the growing index block (at most 65,536 × 64 postings of 6 bytes) and [`CACHED_TILES`]
//! tiles are held in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{LogError, Result};
use crate::format::Head;
use crate::journal::Journal;
use crate::keys::{LogKeys, PublicKey};
use crate::merkle::{Hash, leaf_hash, perfect_root};
use crate::note;
use crate::read::{open_touched, read_entry};
use crate::subjects::{BLOCK_ENTRIES, Block, open_block, seal_block};
use crate::tiles::{
    Batch, Edges, Kind, TILE_LEVELS, TILE_WIDTH, block_path, decode_hashes, encode_hashes,
    partial_tiles, push_bundle, tile_path,
};

/// Name of the published checkpoint, in the log's directory.
pub(crate) const CHECKPOINT_FILE: &str = "checkpoint";
/// Full tiles kept in memory for proofs.
const CACHED_TILES: usize = 256;
/// Largest checkpoint file that is read.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// Reads and opens the published checkpoint; `None` when there is none that this log's key signed.
pub(crate) fn published(dir: &Path, public: &PublicKey) -> Option<note::Opened> {
    read_small(&dir.join(CHECKPOINT_FILE)).and_then(|text| note::open(&text, public).ok())
}

/// The content of a file that must be small; `None` when it is not there or not small.
pub(crate) fn read_small(path: &Path) -> Option<Vec<u8>> {
    (std::fs::metadata(path).ok()?.len() <= MAX_NOTE_BYTES).then(|| std::fs::read(path).ok())?
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
    /// The growing block of the subject index.
    block: Block,
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

    /// Entries covered by the published checkpoint, as far as this process knows.
    pub(crate) fn published_size(&self) -> u64 {
        self.built.lock().published
    }

    /// Runs `work` while nothing is published.
    pub(crate) fn paused<T>(&self, work: impl FnOnce() -> T) -> T {
        let _built = self.built.lock();
        work()
    }

    /// Hashes of perfect subtrees, given as (tree level, number), after bringing the tiles up to `head`.
    pub(crate) fn nodes(&self, head: &Head, wanted: &[(u8, u64)]) -> Result<Vec<Hash>> {
        let mut built = self.built.lock();
        self.current(&mut built, head)?;
        wanted
            .iter()
            .map(|(level, n)| self.node(&mut built, *level, *n))
            .collect()
    }

    /// All entries before `head` that touch the subject, ascending.
    pub(crate) fn entries_touching(&self, head: &Head, subject: u32) -> Result<Vec<u64>> {
        let mut built = self.built.lock();
        self.current(&mut built, head)?;
        let full = built.next / BLOCK_ENTRIES;
        let mut found = Vec::new();
        for number in 0..full {
            let block = self.block(number)?;
            self.touching(number, &block, subject, &mut found)?;
        }
        self.touching(full, &built.block, subject, &mut found)?;
        Ok(found)
    }

    fn touching(
        &self,
        number: u64,
        block: &Block,
        subject: u32,
        found: &mut Vec<u64>,
    ) -> Result<()> {
        let start = number * BLOCK_ENTRIES;
        let from = found.len();
        found.extend(
            block
                .narrow(subject)
                .into_iter()
                .map(|offset| start + u64::from(offset)),
        );
        for offset in &block.wide {
            let index = start + u64::from(*offset);
            let touches = self
                .journal
                .entries(index..index + 1, &self.keys)
                .next_with(|raw| crate::read::open_subjects(&raw).map(|s| s.contains(subject)))?;
            if touches == Some(true) {
                found.push(index);
            }
        }
        if let Some(new) = found.get_mut(from..) {
            new.sort_unstable();
        }
        Ok(())
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
            let mut batch = Batch::new(self.journal.dir());
            let mut superseded = Vec::new();
            self.read_on(built, head.size, Some((&mut batch, &mut superseded)))?;
            self.finish(built, head, batch, &superseded)?;
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
        let mut batch = Batch::new(self.journal.dir());
        let mut superseded = Vec::new();
        self.read_on(
            built,
            checkpoint.size.min(head.size),
            Some((&mut batch, &mut superseded)),
        )?;
        if built.edges.size() != checkpoint.size || built.edges.root() != checkpoint.root {
            let why = "the journal does not hold the entries that this checkpoint covers";
            return Err(LogError::corrupt(Path::new(CHECKPOINT_FILE), 0, why));
        }
        batch.sync()
    }

    /// Reads entries up to `size` into the edge; with a batch, also writes what becomes full.
    fn read_on(
        &self,
        built: &mut Built,
        size: u64,
        mut out: Option<(&mut Batch<'_>, &mut Vec<PathBuf>)>,
    ) -> Result<()> {
        let mut entries = self.journal.entries(built.next..size, &self.keys);
        while built.next < size {
            let Some((leaf, touched)) =
                entries.next_with(|raw| Ok((raw.frame.leaf.to_vec(), open_touched(&raw)?)))?
            else {
                break;
            };
            let index = built.next;
            built.next += 1;
            built.last = leaf_hash(&leaf);
            built.block.add(index, &touched);
            if index >= built.edges.size() {
                push_bundle(&mut built.bundle, &leaf);
                let full = built.edges.push(built.last);
                if !full.is_empty() {
                    let bundle = std::mem::take(&mut built.bundle);
                    if let Some((batch, superseded)) = &mut out {
                        let n = index / TILE_WIDTH as u64;
                        batch.write(tile_path(Kind::Entries, n, TILE_WIDTH), &bundle)?;
                        superseded.push(tile_path(Kind::Entries, n, 1));
                        for tile in full {
                            let kind = Kind::Hashes(tile.level);
                            batch.write(
                                tile_path(kind, tile.n, TILE_WIDTH),
                                &encode_hashes(&tile.hashes),
                            )?;
                            superseded.push(tile_path(kind, tile.n, 1));
                        }
                    }
                }
            }
            if built.next.is_multiple_of(BLOCK_ENTRIES) {
                let plain = std::mem::take(&mut built.block).encode();
                if let Some((batch, _)) = &mut out {
                    self.write_block(batch, index / BLOCK_ENTRIES, &built.last, &plain)?;
                }
            }
        }
        Ok(())
    }

    fn write_block(
        &self,
        batch: &mut Batch<'_>,
        number: u64,
        last: &Hash,
        plain: &[u8],
    ) -> Result<()> {
        batch.write(
            block_path(number),
            &seal_block(&self.keys.index_key()?, number, last, plain)?,
        )
    }

    /// Writes the partial tiles, makes everything durable, then publishes the checkpoint.
    fn finish(
        &self,
        built: &mut Built,
        head: &Head,
        mut batch: Batch<'_>,
        superseded: &[PathBuf],
    ) -> Result<()> {
        if built.edges.size() != head.size || built.edges.root() != head.root {
            return Err(LogError::corrupt(
                Path::new(CHECKPOINT_FILE),
                0,
                "the tiles do not have the root of the head",
            ));
        }
        for (kind, n, width) in partial_tiles(head.size) {
            match kind {
                Kind::Entries => batch.write(tile_path(kind, n, width), &built.bundle)?,
                Kind::Hashes(level) => {
                    batch.write(
                        tile_path(kind, n, width),
                        &encode_hashes(built.edges.level(level)),
                    )?;
                }
            }
        }
        batch.sync()?;
        write_checkpoint(
            self.journal.dir(),
            &note::signed(&self.public.origin, head)?,
        )?;
        built.published = head.size;
        // Partial forms of tiles that are now full; tlog-tiles lets them go.
        for path in superseded.iter().filter_map(|path| path.parent()) {
            if let Err(error) = std::fs::remove_dir_all(self.journal.dir().join(path))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "audit log: cannot remove superseded partial tiles");
            }
        }
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
                match std::fs::read(path).ok().as_deref().and_then(decode_hashes) {
                    Some(read) => edge.extend(read),
                    None => return Ok(None),
                }
            }
            levels.push(edge);
        }
        let Some(edges) = Edges::new(bundle_start, levels) else {
            return Ok(None);
        };
        let partial_there = partial_tiles(size)
            .iter()
            .all(|(kind, n, w)| dir.join(tile_path(*kind, *n, *w)).is_file());
        if !partial_there {
            return Ok(None);
        }
        let mut built = Built {
            next: size - size % BLOCK_ENTRIES,
            published: size,
            edges,
            ..Built::default()
        };
        self.read_on(&mut built, size, None)?;
        Ok((built.edges.root() == checkpoint.root).then_some(built))
    }

    fn node(&self, built: &mut Built, level: u8, n: u64) -> Result<Hash> {
        let outside = || {
            LogError::corrupt(
                Path::new(crate::tiles::TILE_DIR),
                0,
                "a node outside the tree was asked for",
            )
        };
        let (tile_level, within) = (level / 8, level % 8);
        let start = n.checked_shl(u32::from(within)).ok_or_else(outside)?;
        let tile = self.tile(built, tile_level, start / TILE_WIDTH as u64)?;
        let from = usize::try_from(start % TILE_WIDTH as u64).map_err(|_| outside())?;
        tile.get(from..from + (1 << within))
            .and_then(perfect_root)
            .ok_or_else(outside)
    }

    /// A tile that is known to belong to the tree: the edge, or a full tile whose root its parent holds.
    fn tile(&self, built: &mut Built, level: u8, n: u64) -> Result<Arc<Vec<Hash>>> {
        if n == built.edges.number(level) {
            return Ok(Arc::new(built.edges.level(level).to_vec()));
        }
        if let Some(tile) = built.cache.get(&(level, n)) {
            return Ok(tile.clone());
        }
        let path = tile_path(Kind::Hashes(level), n, TILE_WIDTH);
        let damaged = |why| LogError::corrupt(&path, 0, why);
        if level + 1 >= TILE_LEVELS || n > built.edges.number(level) {
            return Err(damaged("the tile is outside the tree"));
        }
        let parent = self.tile(built, level + 1, n / TILE_WIDTH as u64)?;
        let nth = usize::try_from(n % TILE_WIDTH as u64).unwrap_or(usize::MAX);
        let expected = *parent
            .get(nth)
            .ok_or_else(|| damaged("the tile is outside the tree"))?;
        let belongs = |hashes: &Vec<Hash>| {
            hashes.len() == TILE_WIDTH && perfect_root(hashes) == Some(expected)
        };
        let on_disk = std::fs::read(self.journal.dir().join(&path))
            .ok()
            .and_then(|bytes| decode_hashes(&bytes));
        let hashes = match on_disk.filter(&belongs) {
            Some(hashes) => hashes,
            None => {
                let again = self.tile_again(level, n)?;
                if !belongs(&again) {
                    return Err(damaged("the entries under it are not those of the tree"));
                }
                tracing::warn!(path = %path.display(), "audit log: tile was missing or torn; written again");
                let mut batch = Batch::new(self.journal.dir());
                batch.write(path, &encode_hashes(&again))?;
                batch.sync()?;
                again
            }
        };
        let tile = Arc::new(hashes);
        if built.cache.len() >= CACHED_TILES {
            built.cache.clear();
        }
        built.cache.insert((level, n), tile.clone());
        Ok(tile)
    }

    /// Computes a full tile from what is below it.
    fn tile_again(&self, level: u8, n: u64) -> Result<Vec<Hash>> {
        let start = n * TILE_WIDTH as u64;
        let range = start..start + TILE_WIDTH as u64;
        if level == 0 {
            let mut entries = self.journal.entries(range, &self.keys);
            let mut hashes = Vec::with_capacity(TILE_WIDTH);
            while let Some(hash) = entries.next_with(|raw| Ok(leaf_hash(raw.frame.leaf)))? {
                hashes.push(hash);
            }
            return Ok(hashes);
        }
        // Not through `tile`, which would ask this very tile what its children's roots are.
        let mut hashes = Vec::with_capacity(TILE_WIDTH);
        for child in range {
            let path =
                self.journal
                    .dir()
                    .join(tile_path(Kind::Hashes(level - 1), child, TILE_WIDTH));
            let on_disk = std::fs::read(path)
                .ok()
                .and_then(|bytes| decode_hashes(&bytes));
            let child_hashes = match on_disk.filter(|hashes| hashes.len() == TILE_WIDTH) {
                Some(hashes) => hashes,
                None => self.tile_again(level - 1, child)?,
            };
            hashes.extend(perfect_root(&child_hashes));
        }
        Ok(hashes)
    }

    /// A full block of the subject index; built again from the journal when it is missing or torn.
    fn block(&self, number: u64) -> Result<Block> {
        let last_index = (number + 1) * BLOCK_ENTRIES - 1;
        let last = read_entry(&self.journal, &self.keys, last_index)?
            .leaf
            .hash();
        let path = block_path(number);
        let file = std::fs::read(self.journal.dir().join(&path)).ok();
        let key = self.keys.index_key()?;
        let stored = file
            .and_then(|file| open_block(&key, number, &last, &file))
            .and_then(|p| Block::decode(&p));
        if let Some(block) = stored {
            return Ok(block);
        }
        tracing::warn!(path = %path.display(), "audit log: subject index was missing or torn; building it again");
        let mut block = Block::default();
        let range = number * BLOCK_ENTRIES..last_index + 1;
        let mut index = range.start;
        let mut entries = self.journal.entries(range, &self.keys);
        while let Some(touched) = entries.next_with(|raw| open_touched(&raw))? {
            block.add(index, &touched);
            index += 1;
        }
        let mut batch = Batch::new(self.journal.dir());
        let plain = block.encode();
        self.write_block(&mut batch, number, &last, &plain)?;
        batch.sync()?;
        Ok(block)
    }
}

/// Replaces the published checkpoint, durably.
pub(crate) fn write_checkpoint(dir: &Path, text: &str) -> Result<()> {
    let mut batch = Batch::new(dir);
    batch.write(PathBuf::from(CHECKPOINT_FILE), text.as_bytes())?;
    batch.sync()
}

const _: () = assert!(BLOCK_ENTRIES.is_multiple_of(TILE_WIDTH as u64));
