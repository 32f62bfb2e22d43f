//! RFC 6962 hashing, and the compact form of a growing tree.

use ring::digest::{SHA256, digest};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// SHA-256 of one buffer.
pub(crate) fn sha256(data: &[u8]) -> Hash {
    let mut out = Hash::default();
    out.copy_from_slice(digest(&SHA256, data).as_ref());
    out
}

/// SHA-256 of several buffers one after the other.
pub(crate) fn sha256_of(parts: &[&[u8]]) -> Hash {
    let mut context = ring::digest::Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = Hash::default();
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Hash of a leaf: SHA-256(0x00 ‖ leaf).
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    sha256_of(&[&[0], leaf])
}

/// Hash of an interior node: SHA-256(0x01 ‖ left ‖ right).
pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut buffer = [1u8; 65];
    let (_, rest) = buffer.split_at_mut(1);
    let (first, second) = rest.split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    sha256(&buffer)
}

/// Root of a perfect subtree over hashes whose number is a power of two.
pub(crate) fn perfect_root(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(node_hash(left, right)),
                _ => None,
            })
            .collect();
    }
    level.first().copied()
}

/// The right edge of a tree: the roots of its maximal perfect subtrees, largest first. It is all that is needed to
/// append and to know the root; there is one peak per set bit of the size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// `None` unless there is one peak per set bit of the size.
    pub(crate) fn new(size: u64, peaks: Vec<Hash>) -> Option<Frontier> {
        (u32::try_from(peaks.len()).ok()? == size.count_ones()).then_some(Frontier { size, peaks })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    pub(crate) fn push(&mut self, leaf_hash: Hash) {
        self.push_noting(leaf_hash, |_, _| {});
    }

    /// Also tells of every perfect subtree that the leaf completes, itself (level 0) included.
    pub(crate) fn push_noting(&mut self, leaf_hash: Hash, mut completed: impl FnMut(u32, &Hash)) {
        let mut hash = leaf_hash;
        completed(0, &hash);
        for level in 1..=self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            completed(level, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    pub(crate) fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => sha256(b""),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;

    #[test]
    fn roots_agree_with_an_independent_implementation() {
        let mut frontier = Frontier::default();
        let mut tree = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
        assert_eq!(frontier.root(), sha256(b""));
        for n in 0..600u32 {
            let leaf = n.to_be_bytes().to_vec();
            frontier.push(leaf_hash(&leaf));
            tree.push(leaf);
            assert_eq!(
                &frontier.root()[..],
                &tree.root().as_bytes()[..],
                "size {}",
                n + 1
            );
        }
    }

    #[test]
    fn a_perfect_subtree_is_the_frontier_of_its_leaves() {
        let hashes: Vec<Hash> = (0..256u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let mut frontier = Frontier::default();
        for hash in &hashes {
            frontier.push(*hash);
        }
        assert_eq!(perfect_root(&hashes), Some(frontier.root()));
        assert_eq!(perfect_root(&hashes[..3]), None);
    }
}
