//! Inclusion and consistency proofs, against an independent implementation; tiles missing or torn.

use std::fs;
use std::path::Path;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use qihui_audit::{AuditLog, Hash, check_consistency, check_inclusion, verify};
use sha2::Sha256;

use crate::support::*;

type Tree = MemoryBackedTree<Sha256, Vec<u8>>;

/// A log with `n` entries and, for every size, the independent tree's root.
fn log_and_tree(dir: &Path, n: u64) -> (AuditLog, Vec<Vec<u8>>, Vec<RootHash<Sha256>>) {
    create(dir);
    let log = open(dir, small_segments(30_000));
    let bodies: Vec<String> = (0..n).map(body).collect();
    let entries: Vec<_> = bodies
        .iter()
        .map(|body| entry("t", body.as_bytes(), &[]))
        .collect();
    for group in entries.chunks(37) {
        log.append_many(group).unwrap();
    }
    let leaves: Vec<Vec<u8>> = log
        .scan(0..n)
        .map(|entry| entry.unwrap().leaf.encode())
        .collect();
    let mut tree = Tree::new();
    let mut roots = vec![tree.root()];
    for leaf in &leaves {
        tree.push(leaf.clone());
        roots.push(tree.root());
    }
    (log, leaves, roots)
}

fn digests(proof: &[Hash]) -> Vec<ct_merkle::digest::Output<Sha256>> {
    proof.iter().map(|hash| (*hash).into()).collect()
}

fn root(tree: &RootHash<Sha256>) -> Hash {
    (*tree.as_bytes()).into()
}

#[test]
fn aud_2_inclusion_proofs_agree_with_an_independent_implementation() {
    let scratch = scratch();
    let (log, leaves, roots) = log_and_tree(&scratch.path().join("log"), 530);
    for size in [1, 2, 3, 7, 8, 255, 256, 257, 300, 511, 512, 513, 530] {
        let expected = &roots[usize::try_from(size).unwrap()];
        assert_eq!(log.root_at(size).unwrap(), root(expected));
        for index in (0..size).filter(|index| size < 10 || index % 11 == 0 || index + 2 > size) {
            let proof = log.inclusion_proof(index, size).unwrap();
            let leaf = &leaves[usize::try_from(index).unwrap()];
            let independent = InclusionProof::<Sha256>::from_digests(&digests(&proof));
            expected
                .verify_inclusion(leaf, index, &independent)
                .unwrap();
            let hash = qihui_audit::leaf_hash(leaf);
            assert!(check_inclusion(&proof, size, &root(expected), index, &hash));
            assert!(!check_inclusion(
                &proof,
                size,
                &root(expected),
                index,
                &[0; 32]
            ));
            assert!(!check_inclusion(&proof, size, &[0; 32], index, &hash));
            assert!(
                size == 1 || !check_inclusion(&proof[1..], size, &root(expected), index, &hash)
            );
        }
    }
    assert_eq!(
        log.inclusion_proof(530, 530).unwrap_err().code(),
        "LogOutOfRange"
    );
    assert_eq!(
        log.inclusion_proof(0, 531).unwrap_err().code(),
        "LogOutOfRange"
    );
}

#[test]
fn aud_2_consistency_proofs_agree_with_an_independent_implementation() {
    let scratch = scratch();
    let (log, _, roots) = log_and_tree(&scratch.path().join("log"), 530);
    let sizes = [0u64, 1, 2, 3, 5, 8, 100, 255, 256, 257, 300, 512, 529, 530];
    for (old, new) in sizes
        .iter()
        .flat_map(|old| sizes.iter().map(move |new| (*old, *new)))
    {
        if old > new {
            assert_eq!(
                log.consistency_proof(old, new).unwrap_err().code(),
                "LogOutOfRange"
            );
            continue;
        }
        let proof = log.consistency_proof(old, new).unwrap();
        let (old_tree, new_tree) = (
            &roots[usize::try_from(old).unwrap()],
            &roots[usize::try_from(new).unwrap()],
        );
        let (old_root, new_root) = (root(old_tree), root(new_tree));
        assert!(
            check_consistency(&proof, (new, &new_root), (old, &old_root)),
            "{old} {new}"
        );
        assert!(
            !check_consistency(&proof, (new, &new_root), (old, &[9; 32])),
            "{old} {new}"
        );
        if 0 < old && old < new {
            let independent = ConsistencyProof::<Sha256>::from_digests(&digests(&proof));
            new_tree.verify_consistency(old_tree, &independent).unwrap();
            assert!(!check_consistency(
                &proof,
                (new, &[9; 32]),
                (old, &old_root)
            ));
        }
    }
}

/// Everything derived can be thrown away or torn: it is built again, and right.
#[test]
fn tiles_are_built_again_when_missing_or_torn() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    let (log, leaves, roots) = log_and_tree(&dir, 530);
    log.close().unwrap();
    let proves = |log: &AuditLog| {
        for index in [0u64, 255, 256, 511, 529] {
            let proof = log.inclusion_proof(index, 530).unwrap();
            let hash = qihui_audit::leaf_hash(&leaves[usize::try_from(index).unwrap()]);
            assert!(check_inclusion(
                &proof,
                530,
                &root(&roots[530]),
                index,
                &hash
            ));
        }
    };
    let tear = |path: &str| fs::write(dir.join(path), b"torn").unwrap();
    let damages: [&dyn Fn(); 8] = [
        &|| tear("tile/0/002.p/18"),
        &|| tear("tile/entries/002.p/18"),
        &|| fs::remove_dir_all(dir.join("tile")).unwrap(),
        &|| tear("tile/0/001"),
        &|| tear("tile/1/000.p/2"),
        &|| fs::remove_file(dir.join("checkpoint")).unwrap(),
        &|| tear("checkpoint"),
        &|| fs::remove_file(dir.join("tile/0/000")).unwrap(),
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        damage();
        assert!(verify(&dir, &keys(), None).is_err(), "damage {n}");
        let log = open(&dir, quiet());
        proves(&log);
        log.close().unwrap();
        assert_eq!(
            verify(&dir, &keys(), None).unwrap().published,
            530,
            "damage {n}"
        );
    }
}

/// What no proof reads is put right on demand.
#[test]
fn everything_derived_is_built_anew_on_demand() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    log_and_tree(&dir, 530).0.close().unwrap();
    let whole = files(&dir);
    for path in whole.keys().filter(|path| path.starts_with("tile")) {
        for torn in [false, true] {
            fs::remove_file(dir.join(path)).unwrap();
            if torn {
                fs::write(dir.join(path), b"torn").unwrap();
            }
            assert!(verify(&dir, &keys(), None).is_err());
            let log = open(&dir, quiet());
            log.rebuild().unwrap();
            log.close().unwrap();
            verify(&dir, &keys(), None).unwrap();
            assert_eq!(files(&dir), whole);
        }
    }
}

/// A checkpoint that the journal contradicts is evidence: it is not overwritten.
#[test]
fn aud_2_a_contradicting_checkpoint_is_kept() {
    let scratch = scratch();
    let (dir, other) = (scratch.path().join("log"), scratch.path().join("other"));
    log_and_tree(&dir, 20).0.close().unwrap();
    create(&other);
    let log = open(&other, quiet());
    append_each(&log, 0, 10);
    log.close().unwrap();
    fs::copy(other.join("checkpoint"), dir.join("checkpoint")).unwrap();
    let evidence = fs::read(dir.join("checkpoint")).unwrap();
    let log = open(&dir, quiet());
    assert_eq!(log.publish().unwrap_err().code(), "LogCorrupt");
    assert_eq!(log.rebuild().unwrap_err().code(), "LogCorrupt");
    assert_eq!(log.inclusion_proof(0, 20).unwrap_err().code(), "LogCorrupt");
    append_each(&log, 20, 21);
    drop(log);
    assert_eq!(fs::read(dir.join("checkpoint")).unwrap(), evidence);
    assert!(verify(&dir, &keys(), None).is_err());
}

#[test]
fn tiles_grow_with_the_log_and_old_partial_ones_go() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let mut size = 0;
    for more in [1u64, 100, 154, 1, 1, 255, 300] {
        let log = open(&dir, quiet());
        let bodies: Vec<String> = (size..size + more).map(body).collect();
        log.append_many(
            &bodies
                .iter()
                .map(|body| entry("t", body.as_bytes(), &[]))
                .collect::<Vec<_>>(),
        )
        .unwrap();
        size += more;
        log.close().unwrap();
        assert_eq!(verify(&dir, &keys(), None).unwrap().published, size);
    }
    assert!(dir.join("tile/entries/002").is_file());
    assert!(!dir.join("tile/entries/002.p").exists());
    assert!(dir.join("tile/0/003.p/44").is_file());
    assert_eq!(fs::read(dir.join("tile/0/000")).unwrap().len(), 256 * 32);
}

/// A proof leads to the checkpoint that it comes with, and the tiles of a checkpoint are there when it is, whatever is
/// appended meanwhile.
#[test]
fn aud_2_a_checkpoint_comes_with_its_tiles() {
    let scratch = scratch();
    let dir = scratch.path().join("log");
    create(&dir);
    let log = open(&dir, small_segments(30_000));
    std::thread::scope(|scope| {
        let writers = [0, 1].map(|writer| {
            let log = &log;
            scope.spawn(move || {
                for n in 0..300 {
                    let body = body(writer * 1000 + n);
                    log.append(&entry("t", body.as_bytes(), &[])).unwrap();
                }
            })
        });
        while !writers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let checkpoint = log.published_checkpoint().unwrap();
            let mut lines = checkpoint.note.lines().skip(1);
            let size: u64 = lines.next().unwrap().parse().unwrap();
            assert_eq!(size, checkpoint.size);
            assert_eq!(log.root_at(size).unwrap(), checkpoint.root);
            let Some(last) = size.checked_sub(1) else {
                continue;
            };
            let leaf = log.read(last).unwrap().leaf.hash();
            let proof = log.inclusion_proof(last, size).unwrap();
            assert!(check_inclusion(&proof, size, &checkpoint.root, last, &leaf));
            let tile = format!("tile/0/{:03}", last / 256);
            let partial = dir.join(format!("{tile}.p/{}", size % 256));
            // A partial tile goes once the full one is there.
            assert!(partial.exists() || dir.join(tile).exists(), "{size}");
        }
    });
    let last = log.published_checkpoint().unwrap();
    assert_eq!((last.size, last.note), (600, log.checkpoint().unwrap()));
}
