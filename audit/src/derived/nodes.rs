//! Tree nodes out of tiles that are known to belong to the tree.

use std::path::Path;
use std::sync::Arc;

use super::{Built, CACHED_TILES, Derived};
use crate::error::{LogError, Result};
use crate::format::Head;
use crate::merkle::{Hash, leaf_hash, perfect_root};
use crate::tiles::{
    Batch, Kind, MAX_TILE_BYTES, TILE_DIR, TILE_LEVELS, TILE_WIDTH, decode_hashes, encode_hashes,
    read_limited, tile_path,
};

impl Derived {
    /// Hashes of perfect subtrees, given as (tree level, number), after bringing the tiles up to `head`.
    pub(crate) fn nodes(&self, head: &Head, wanted: &[(u8, u64)]) -> Result<Vec<Hash>> {
        let mut built = self.built.lock();
        self.current(&mut built, head)?;
        wanted
            .iter()
            .map(|(level, n)| self.node(&mut built, *level, *n))
            .collect()
    }

    pub(super) fn node(&self, built: &mut Built, level: u8, n: u64) -> Result<Hash> {
        let outside = || {
            LogError::corrupt(
                Path::new(TILE_DIR),
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

    /// The edge, or a full tile whose root its parent tile holds.
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
        let belongs = |hashes: &Vec<Hash>| perfect_root(hashes) == Some(expected);
        let hashes = match self.full_tile_on_disk(level, n).filter(&belongs) {
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

    /// A stored full tile, not yet known to be right.
    fn full_tile_on_disk(&self, level: u8, n: u64) -> Option<Vec<Hash>> {
        let path = self
            .journal
            .dir()
            .join(tile_path(Kind::Hashes(level), n, TILE_WIDTH));
        let bytes = read_limited(&path, MAX_TILE_BYTES).ok()?;
        decode_hashes(&bytes).filter(|hashes| hashes.len() == TILE_WIDTH)
    }

    /// Computes a full tile from what is below it.
    fn tile_again(&self, level: u8, n: u64) -> Result<Vec<Hash>> {
        let start = n * TILE_WIDTH as u64;
        let range = start..start + TILE_WIDTH as u64;
        let mut hashes = Vec::with_capacity(TILE_WIDTH);
        if level == 0 {
            let mut entries = self.journal.entries(range, &self.keys);
            while let Some(hash) = entries.next_with(|raw| Ok(leaf_hash(raw.frame.leaf)))? {
                hashes.push(hash);
            }
            return Ok(hashes);
        }
        // Not through `tile`, which would ask this very tile what its children's roots are.
        for child in range {
            let child_hashes = match self.full_tile_on_disk(level - 1, child) {
                Some(hashes) => hashes,
                None => self.tile_again(level - 1, child)?,
            };
            hashes.extend(perfect_root(&child_hashes));
        }
        Ok(hashes)
    }
}
