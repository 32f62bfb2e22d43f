//! Compares tiles, bundles and index blocks with the entries they are derived from.

use std::path::Path;

use ring::aead::LessSafeKey;

use super::{Outcome, tampering};
use crate::error::{Finding, LogError};
use crate::keys::VerifyKeys;
use crate::merkle::{Frontier, Hash};
use crate::subjects::{BLOCK_ENTRIES, Block, MAX_BLOCK_BYTES, Touched, open_block};
use crate::tiles::{
    Kind, MAX_TILE_BYTES, SUBJECTS_DIR, TEMPORARY, TILE_DIR, TILE_LEVELS, TILE_WIDTH, block_path,
    covered, encode_hashes, parse_block_path, parse_tile_path, partial_tiles, push_bundle,
    read_limited, tile_path,
};

pub(super) struct DerivedCheck<'a> {
    dir: &'a Path,
    /// Entries under the published checkpoint: what must be there, and right.
    published: u64,
    index_key: Option<LessSafeKey>,
    /// Per tile level: the hashes of the tile at hand, and its N.
    levels: Vec<(Vec<Hash>, u64)>,
    bundle: Vec<u8>,
    /// Where each leaf ends in the bundle.
    ends: Vec<usize>,
    block: Block,
}

impl<'a> DerivedCheck<'a> {
    pub(super) fn new(
        dir: &'a Path,
        published: u64,
        keys: &VerifyKeys,
    ) -> Outcome<DerivedCheck<'a>> {
        let index_key = match keys {
            VerifyKeys::Full(keys) => Some(keys.index_key()?),
            VerifyKeys::Public(_) => None,
        };
        let levels = vec![(Vec::with_capacity(TILE_WIDTH), 0); usize::from(TILE_LEVELS)];
        let (bundle, ends) = (Vec::new(), Vec::with_capacity(TILE_WIDTH));
        Ok(DerivedCheck {
            dir,
            published,
            index_key,
            levels,
            bundle,
            ends,
            block: Block::default(),
        })
    }

    /// Whether bodies and subjects are checked.
    pub(super) fn bodies(&self) -> bool {
        self.index_key.is_some()
    }

    /// Adds an entry: to the tree, and to everything derived from it.
    pub(super) fn entry(
        &mut self,
        index: u64,
        leaf: &[u8],
        leaf_hash: &Hash,
        touched: &Touched,
        frontier: &mut Frontier,
    ) -> Outcome<()> {
        push_bundle(&mut self.bundle, leaf);
        self.ends.push(self.bundle.len());
        let levels = &mut self.levels;
        let mut full = 0u8;
        frontier.push_noting(*leaf_hash, |tree_level, hash| {
            if let (0, Some((hashes, _))) =
                (tree_level % 8, levels.get_mut((tree_level / 8) as usize))
            {
                hashes.push(*hash);
                full += u8::from(hashes.len() == TILE_WIDTH);
            }
        });
        if full > 0 {
            self.bundle(index / TILE_WIDTH as u64)?;
            (0..full).try_for_each(|level| self.tile(level))?;
        }
        if self.bodies() {
            self.block.add(index, touched);
        }
        if (index + 1).is_multiple_of(BLOCK_ENTRIES) {
            self.block(index / BLOCK_ENTRIES, leaf_hash)?;
        }
        Ok(())
    }

    /// Compares the bundle at hand in all its stored forms, and begins the next.
    fn bundle(&mut self, n: u64) -> Outcome<()> {
        let ends = &self.ends;
        let content = |width: usize| {
            let end = width
                .checked_sub(1)
                .and_then(|last| ends.get(last))
                .copied()?;
            self.bundle.get(..end)
        };
        self.compare(Kind::Entries, n, ends.len(), Finding::Bundle, content)?;
        self.bundle.clear();
        self.ends.clear();
        Ok(())
    }

    /// Likewise the tile at hand of a level.
    fn tile(&mut self, level: u8) -> Outcome<()> {
        let Some((hashes, n)) = self.levels.get_mut(usize::from(level)) else {
            return Ok(());
        };
        let (bytes, width, number) = (encode_hashes(hashes), hashes.len(), *n);
        hashes.clear();
        *n += 1;
        self.compare(Kind::Hashes(level), number, width, Finding::Tile, |width| {
            bytes.get(..32 * width)
        })
    }

    /// `content` gives the right bytes for a width; forms that the checkpoint does not cover are not relied on.
    fn compare<'c>(
        &self,
        kind: Kind,
        n: u64,
        width: usize,
        finding: Finding,
        content: impl Fn(usize) -> Option<&'c [u8]>,
    ) -> Outcome<()> {
        let mut widths = Vec::new();
        if width == TILE_WIDTH {
            widths.push(TILE_WIDTH);
        }
        let partial = self.dir.join(tile_path(kind, n, 1));
        if let Some(Ok(forms)) = partial.parent().map(std::fs::read_dir) {
            for form in forms {
                let name = form
                    .map_err(|e| LogError::io("list", &partial, e))?
                    .file_name();
                // Other names are reported as strays at the end.
                widths.extend(
                    name.to_str()
                        .and_then(|name| name.parse::<usize>().ok())
                        .filter(|w| *w <= width),
                );
            }
        }
        for width in widths
            .into_iter()
            .filter(|width| covered(kind, n, *width, self.published))
        {
            let path = tile_path(kind, n, width);
            let index = Some(n.saturating_mul(TILE_WIDTH as u64))
                .filter(|_| !matches!(kind, Kind::Hashes(1..)));
            let stored = self.stored(&path, MAX_TILE_BYTES, finding, index)?;
            if content(width) != Some(stored.as_slice()) {
                return Err(tampering(finding, &path, index, None));
            }
        }
        Ok(())
    }

    /// Compares an index block and begins the next. `last` is the leaf hash of its last entry.
    fn block(&mut self, number: u64, last: &Hash) -> Outcome<()> {
        let mut block = std::mem::take(&mut self.block);
        if (number + 1) * BLOCK_ENTRIES > self.published {
            return Ok(());
        }
        let path = block_path(number);
        let index = Some(number * BLOCK_ENTRIES);
        let file = self.stored(&path, MAX_BLOCK_BYTES, Finding::SubjectIndex, index)?;
        match &self.index_key {
            Some(key) if open_block(key, number, last, &file) != Some(block.encode()) => {
                Err(tampering(Finding::SubjectIndex, &path, index, None))
            }
            _ => Ok(()),
        }
    }

    /// The content of a file that must be there; one longer than the log would write is not read.
    fn stored(
        &self,
        path: &Path,
        limit: usize,
        finding: Finding,
        index: Option<u64>,
    ) -> Outcome<Vec<u8>> {
        read_limited(&self.dir.join(path), limit).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => tampering(Finding::Missing, path, index, None),
            std::io::ErrorKind::FileTooLarge => tampering(finding, path, index, None),
            _ => LogError::io("read", path, e).into(),
        })
    }

    /// The right edge, and files that should not be there. `entries` is the size of the journal.
    pub(super) fn finish(mut self, entries: u64) -> Outcome<()> {
        let bundles = self.ends.len();
        if bundles > 0 {
            // The tile of level 0 has not begun a new N yet, so it is the bundle's too.
            let n = self.levels.first().map_or(0, |(_, n)| *n);
            self.bundle(n)?;
        }
        for level in 0..TILE_LEVELS {
            if self
                .levels
                .get(usize::from(level))
                .is_some_and(|(hashes, _)| !hashes.is_empty())
            {
                self.tile(level)?;
            }
        }
        for (kind, n, width) in partial_tiles(self.published) {
            let path = tile_path(kind, n, width);
            if !self.dir.join(&path).is_file() {
                return Err(tampering(Finding::Missing, &path, None, None));
            }
        }
        for top in [TILE_DIR, SUBJECTS_DIR] {
            self.strays(Path::new(top), entries)?;
        }
        Ok(())
    }

    fn strays(&self, path: &Path, entries: u64) -> Outcome<()> {
        let items = match std::fs::read_dir(self.dir.join(path)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| LogError::io("list", path, e))?,
        };
        for item in items {
            let item = item.map_err(|e| LogError::io("list", path, e))?;
            let inner = path.join(item.file_name());
            let kind = item
                .file_type()
                .map_err(|e| LogError::io("stat", &inner, e))?;
            if kind.is_dir() {
                self.strays(&inner, entries)?;
                continue;
            }
            if inner
                .extension()
                .is_some_and(|extension| extension == TEMPORARY)
            {
                continue;
            }
            let text = inner.to_str().unwrap_or_default();
            let within = match (parse_tile_path(text), parse_block_path(text)) {
                (Some((kind, n, width)), _) => covered(kind, n, width, entries),
                (_, Some(n)) => n
                    .checked_add(1)
                    .is_some_and(|n| n.saturating_mul(BLOCK_ENTRIES) <= entries),
                _ => return Err(tampering(Finding::Stray, &inner, None, None)),
            };
            // Only durable entries are ever derived from: what covers more shows that entries are gone.
            if !within {
                return Err(tampering(Finding::Truncated, &inner, Some(entries), None));
            }
        }
        Ok(())
    }
}
