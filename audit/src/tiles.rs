//! Tiles of the Merkle tree and bundles of leaves, in the C2SP tlog-tiles layout.
//!
//! A tile of level L holds up to 256 consecutive hashes (32 bytes each) of tree level 8·L; an entry bundle holds the
//! 256 leaves under a level-0 tile, each after its length (u16, big-endian). Full tiles never change; the tile at
//! the right edge has a partial form per published width.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{LogError, Result};
use crate::leaf::MAX_LEAF_BYTES;
use crate::merkle::{Hash, perfect_root};
use crate::recovery::sync_dir;

/// Hashes of a full tile, leaves of a full bundle.
pub(crate) const TILE_WIDTH: usize = 256;
/// Tile levels: 8 × 8 tree levels hold 2^64 entries.
pub(crate) const TILE_LEVELS: u8 = 8;
pub(crate) const TILE_DIR: &str = "tile";
pub(crate) const SUBJECTS_DIR: &str = "subjects";
/// Longest tile or bundle.
pub(crate) const MAX_TILE_BYTES: usize = TILE_WIDTH * (2 + MAX_LEAF_BYTES);
/// Suffix of a file that is being written.
pub(crate) const TEMPORARY: &str = "tmp";

/// What lies under `tile/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Hashes of this tile level.
    Hashes(u8),
    /// Leaves.
    Entries,
}

/// Path of a tile or bundle, relative to the log's directory: `tile/<level|entries>/<N>[.p/<W>]`.
pub(crate) fn tile_path(kind: Kind, n: u64, width: usize) -> PathBuf {
    let level = match kind {
        Kind::Hashes(level) => level.to_string(),
        Kind::Entries => "entries".to_owned(),
    };
    let mut path = format!("{TILE_DIR}/{level}/{}", number_path(n));
    if width < TILE_WIDTH {
        path.push_str(&format!(".p/{width}"));
    }
    PathBuf::from(path)
}

/// Path of a block of the subject index.
pub(crate) fn block_path(n: u64) -> PathBuf {
    PathBuf::from(format!("{SUBJECTS_DIR}/{}", number_path(n)))
}

/// Groups of three digits, all but the last after an `x`: 1234067 is `x001/x234/067`.
fn number_path(n: u64) -> String {
    let mut path = format!("{:03}", n % 1000);
    let mut rest = n / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// Inverse of [`tile_path`], on the path's text: kind, N and width.
pub(crate) fn parse_tile_path(path: &str) -> Option<(Kind, u64, usize)> {
    let (level, number) = path
        .strip_prefix(TILE_DIR)?
        .strip_prefix('/')?
        .split_once('/')?;
    let kind = match level {
        "entries" => Kind::Entries,
        digits => Kind::Hashes(digits.parse().ok().filter(|level| *level < TILE_LEVELS)?),
    };
    let (number, width) = match number.split_once(".p/") {
        Some((number, width)) => (
            number,
            width.parse().ok().filter(|w| (1..TILE_WIDTH).contains(w))?,
        ),
        None => (number, TILE_WIDTH),
    };
    let n = parse_number_path(number)?;
    (tile_path(kind, n, width).to_str() == Some(path)).then_some((kind, n, width))
}

/// Inverse of [`block_path`].
pub(crate) fn parse_block_path(path: &str) -> Option<u64> {
    let n = parse_number_path(path.strip_prefix(SUBJECTS_DIR)?.strip_prefix('/')?)?;
    (block_path(n).to_str() == Some(path)).then_some(n)
}

fn parse_number_path(number: &str) -> Option<u64> {
    number.split('/').try_fold(0u64, |n, part| {
        let digits: u64 = part.strip_prefix('x').unwrap_or(part).parse().ok()?;
        n.checked_mul(1000)?.checked_add(digits)
    })
}

/// Whether a tile or bundle covers only entries before `size`.
pub(crate) fn covered(kind: Kind, n: u64, width: usize, size: u64) -> bool {
    let level = match kind {
        Kind::Hashes(level) => u32::from(level),
        Kind::Entries => 0,
    };
    let hashes = size.checked_shr(8 * level).unwrap_or(0);
    n.checked_mul(TILE_WIDTH as u64)
        .and_then(|start| start.checked_add(width as u64))
        .is_some_and(|end| end <= hashes)
}

/// Every tile and bundle of a tree of this size at its right edge: (kind, N, width) of the partial ones.
pub(crate) fn partial_tiles(size: u64) -> Vec<(Kind, u64, usize)> {
    let mut partial = Vec::new();
    for level in 0..TILE_LEVELS {
        let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
        let width = usize::try_from(hashes % TILE_WIDTH as u64).unwrap_or(0);
        if width > 0 {
            partial.push((Kind::Hashes(level), hashes / TILE_WIDTH as u64, width));
            if level == 0 {
                partial.push((Kind::Entries, hashes / TILE_WIDTH as u64, width));
            }
        }
    }
    partial
}

/// The growing right edge of all tile levels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Edges {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// A tile that has just become full.
pub(crate) struct FullTile {
    pub(crate) level: u8,
    pub(crate) n: u64,
    pub(crate) hashes: Vec<Hash>,
}

impl Edges {
    /// Edges from the hashes of the partial tile of each level; they must be as many as the size says.
    pub(crate) fn new(size: u64, levels: Vec<Vec<Hash>>) -> Option<Edges> {
        let fits = levels.iter().enumerate().all(|(level, hashes)| {
            let count = u32::try_from(8 * level)
                .ok()
                .and_then(|bits| size.checked_shr(bits))
                .unwrap_or(0);
            hashes.len() as u64 == count % TILE_WIDTH as u64
        });
        (fits && levels.len() <= usize::from(TILE_LEVELS)).then_some(Edges { size, levels })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of a level's partial tile.
    pub(crate) fn level(&self, level: u8) -> &[Hash] {
        self.levels
            .get(usize::from(level))
            .map_or(&[], Vec::as_slice)
    }

    /// N of a level's partial tile.
    pub(crate) fn number(&self, level: u8) -> u64 {
        self.size
            .checked_shr(8 * (u32::from(level) + 1))
            .unwrap_or(0)
    }

    /// Adds a leaf hash; returns the tiles it completes, lowest level first.
    pub(crate) fn push(&mut self, leaf_hash: Hash) -> Vec<FullTile> {
        self.size += 1;
        let mut full = Vec::new();
        let mut hash = leaf_hash;
        for level in 0..TILE_LEVELS {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::with_capacity(TILE_WIDTH));
            }
            let Some(edge) = self.levels.get_mut(usize::from(level)) else {
                break;
            };
            edge.push(hash);
            if edge.len() < TILE_WIDTH {
                break;
            }
            let hashes = std::mem::take(edge);
            let Some(root) = perfect_root(&hashes) else {
                break;
            };
            hash = root;
            // The size already counts the leaf, so the full tile is the one before the edge.
            let n = self
                .size
                .checked_shr(8 * (u32::from(level) + 1))
                .unwrap_or(0)
                .saturating_sub(1);
            full.push(FullTile { level, n, hashes });
        }
        full
    }

    /// Root of the tree, from the edges alone.
    pub(crate) fn root(&self) -> Hash {
        let mut right: Option<Hash> = None;
        for hashes in &self.levels {
            // Within a level: the perfect subtrees of the partial tile, smallest (rightmost) first.
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let width = 1usize << rest.len().trailing_zeros();
                let (left, subtree) = rest.split_at(rest.len() - width);
                rest = left;
                let Some(root) = perfect_root(subtree) else {
                    break;
                };
                right = Some(right.map_or(root, |right| crate::merkle::node_hash(&root, &right)));
            }
        }
        right.unwrap_or_else(|| crate::merkle::sha256(b""))
    }
}

/// The bytes of a tile.
pub(crate) fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// Hashes from a tile's bytes; `None` when they are not whole hashes.
pub(crate) fn decode_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// A whole file, unless it is longer than what the log would write: files may have been tampered with.
pub(crate) fn read_limited(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Appends one leaf to a bundle.
pub(crate) fn push_bundle(bundle: &mut Vec<u8>, leaf: &[u8]) {
    // INVARIANT: a leaf has at most 300 bytes.
    bundle.extend_from_slice(&u16::try_from(leaf.len()).unwrap_or(u16::MAX).to_be_bytes());
    bundle.extend_from_slice(leaf);
}

/// Writes files by way of a temporary name and remembers what has to be fsynced.
pub(crate) struct Batch<'a> {
    dir: &'a Path,
    files: Vec<PathBuf>,
}

/// Up to so many files are fsynced one by one; beyond, the file system as a whole.
const FEW_FILES: usize = 24;

impl<'a> Batch<'a> {
    pub(crate) fn new(dir: &'a Path) -> Batch<'a> {
        Batch {
            dir,
            files: Vec::new(),
        }
    }

    /// Writes a file whole; under its own name it is never torn by a crash of the process.
    pub(crate) fn write(&mut self, path: PathBuf, bytes: &[u8]) -> Result<()> {
        let io = |what, e| LogError::io(what, &path, e);
        let full = self.dir.join(&path);
        let temporary = full.with_added_extension(TEMPORARY);
        let open = || {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)
        };
        let mut file = match open() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                full.parent()
                    .map_or(Ok(()), fs::create_dir_all)
                    .map_err(|e| io("create", e))?;
                open()
            }
            other => other,
        }
        .map_err(|e| io("create", e))?;
        file.write_all(bytes).map_err(|e| io("write", e))?;
        fs::rename(&temporary, &full).map_err(|e| io("rename", e))?;
        self.files.push(path);
        Ok(())
    }

    /// Makes everything written so far durable, names included.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let files = std::mem::take(&mut self.files);
        if files.len() > FEW_FILES && sync_file_system(self.dir)? {
            return Ok(());
        }
        let mut dirs = std::collections::BTreeSet::new();
        for path in &files {
            let full = self.dir.join(path);
            File::open(&full)
                .and_then(|f| f.sync_all())
                .map_err(|e| LogError::io("fsync", path, e))?;
            dirs.extend(path.ancestors().skip(1).map(Path::to_owned));
        }
        dirs.iter()
            .try_for_each(|dir| sync_dir(&self.dir.join(dir)))
    }
}

/// Flushes the file system that holds `dir`; false where the operating system has no such call.
#[cfg(target_os = "linux")]
fn sync_file_system(dir: &Path) -> Result<bool> {
    let dir_file = File::open(dir).map_err(|e| LogError::io("open", dir, e))?;
    rustix::fs::syncfs(&dir_file).map_err(|e| LogError::io("fsync", dir, e.into()))?;
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_dir: &Path) -> Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Frontier, leaf_hash};
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_tlog_tiles() {
        for (kind, n, width, path) in [
            (Kind::Hashes(0), 0, 256, "tile/0/000"),
            (Kind::Hashes(0), 1_234_067, 256, "tile/0/x001/x234/067"),
            (Kind::Hashes(1), 7, 3, "tile/1/007.p/3"),
            (Kind::Entries, 1_000, 12, "tile/entries/x001/000.p/12"),
        ] {
            assert_eq!(tile_path(kind, n, width).to_str(), Some(path));
            assert_eq!(parse_tile_path(path), Some((kind, n, width)));
        }
        for stray in [
            "tile/0/0",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/9/000",
            "tile/0/x000/001",
            "tile/x",
            "",
        ] {
            assert_eq!(parse_tile_path(stray), None, "{stray}");
        }
        assert_eq!(parse_block_path("subjects/x001/000"), Some(1_000));
    }

    #[test]
    fn edges_are_the_tree_at_every_size() {
        let (mut edges, mut frontier) = (Edges::default(), Frontier::default());
        let mut full = Vec::new();
        for n in 0..70_000u32 {
            assert!(n % 997 != 0 || edges.root() == frontier.root(), "size {n}");
            let hash = leaf_hash(&n.to_be_bytes());
            frontier.push(hash);
            full.extend(
                edges
                    .push(hash)
                    .into_iter()
                    .map(|tile| (tile.level, tile.n)),
            );
        }
        assert_eq!(edges.root(), frontier.root());
        assert_eq!(full.iter().filter(|(level, _)| *level == 0).count(), 273);
        assert_eq!(
            full.iter()
                .filter(|(level, _)| *level == 1)
                .collect::<Vec<_>>(),
            [&(1, 0)]
        );
    }

    proptest! {
        #[test]
        fn tile_paths_survive(level in 0u8..8, n: u64, width in 1usize..=256) {
            let path = tile_path(Kind::Hashes(level), n, width);
            prop_assert_eq!(parse_tile_path(path.to_str().unwrap()), Some((Kind::Hashes(level), n, width)));
        }
    }
}
