//! Inclusion and consistency proofs (RFC 6962 §2.1.1, §2.1.2), made from the tiles and checked without a log.

use tlog_tiles::{
    HashReader, check_record, check_tree, prove_record, prove_tree, split_stored_hash_index,
    tree_hash,
};

use crate::derived::Derived;
use crate::error::{LogError, Result};
use crate::format::Head;
use crate::merkle::Hash;

type Node = tlog_tiles::Hash;

/// Reads tree nodes for the proof algorithms of `tlog_tiles`; keeps the log's own error.
struct Nodes<'a> {
    derived: &'a Derived,
    head: &'a Head,
    failed: std::cell::RefCell<Option<LogError>>,
}

impl HashReader for Nodes<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Node>, tlog_tiles::Error> {
        let wanted: Vec<_> = indexes
            .iter()
            .map(|index| split_stored_hash_index(*index))
            .collect();
        self.derived
            .nodes(self.head, &wanted)
            .map(|hashes| hashes.into_iter().map(tlog_tiles::Hash).collect())
            .map_err(|error| {
                *self.failed.borrow_mut() = Some(error);
                tlog_tiles::Error::InvalidTile
            })
    }
}

impl<'a> Nodes<'a> {
    fn new(derived: &'a Derived, head: &'a Head) -> Nodes<'a> {
        Nodes {
            derived,
            head,
            failed: std::cell::RefCell::new(None),
        }
    }

    /// Turns the library's failure into ours.
    fn or_own_error<T>(&self, result: Result<T, tlog_tiles::Error>) -> Result<T> {
        result.map_err(|error| {
            let own = self.failed.borrow_mut().take();
            own.unwrap_or_else(|| {
                LogError::corrupt(
                    std::path::Path::new(crate::tiles::TILE_DIR),
                    0,
                    error.to_string(),
                )
            })
        })
    }
}

pub(crate) fn inclusion(
    derived: &Derived,
    head: &Head,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>> {
    in_log(head, size)?;
    if index >= size {
        return Err(LogError::OutOfRange { size, asked: index });
    }
    let nodes = Nodes::new(derived, head);
    nodes
        .or_own_error(prove_record(size, index, &nodes))
        .map(plain)
}

pub(crate) fn consistency(derived: &Derived, head: &Head, old: u64, new: u64) -> Result<Vec<Hash>> {
    in_log(head, new)?;
    if old > new {
        return Err(LogError::OutOfRange {
            size: new,
            asked: old,
        });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let nodes = Nodes::new(derived, head);
    nodes.or_own_error(prove_tree(new, old, &nodes)).map(plain)
}

pub(crate) fn root_at(derived: &Derived, head: &Head, size: u64) -> Result<Hash> {
    in_log(head, size)?;
    let nodes = Nodes::new(derived, head);
    nodes
        .or_own_error(tree_hash(size, &nodes))
        .map(|hash| hash.0)
}

fn in_log(head: &Head, size: u64) -> Result<()> {
    if size <= head.size {
        return Ok(());
    }
    Err(LogError::OutOfRange {
        size: head.size,
        asked: size,
    })
}

fn plain(proof: Vec<Node>) -> Vec<Hash> {
    proof.into_iter().map(|hash| hash.0).collect()
}

/// A proof has at most one hash per tree level; longer ones are refused before the recursive check.
const MAX_PROOF: usize = 128;

/// Whether `proof` shows that the tree of this size and root has `leaf_hash` at `index`.
pub fn check_inclusion(
    proof: &[Hash],
    size: u64,
    root: &Hash,
    index: u64,
    leaf_hash: &Hash,
) -> bool {
    let proof: Vec<Node> = proof.iter().copied().map(tlog_tiles::Hash).collect();
    proof.len() <= MAX_PROOF
        && check_record(
            &proof,
            size,
            tlog_tiles::Hash(*root),
            index,
            tlog_tiles::Hash(*leaf_hash),
        )
        .is_ok()
}

/// Whether `proof` shows that the tree (new size, root) begins with the tree (old size, root).
pub fn check_consistency(proof: &[Hash], new: (u64, &Hash), old: (u64, &Hash)) -> bool {
    if old.0 == 0 {
        return proof.is_empty() && old.1 == &crate::merkle::sha256(b"");
    }
    let proof: Vec<Node> = proof.iter().copied().map(tlog_tiles::Hash).collect();
    let (new_root, old_root) = (tlog_tiles::Hash(*new.1), tlog_tiles::Hash(*old.1));
    proof.len() <= MAX_PROOF && check_tree(&proof, new.0, new_root, old.0, old_root).is_ok()
}
