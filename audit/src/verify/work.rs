//! The parallel part: what can be said about frames without knowing what came before.

use std::ops::Range;

use super::feed::Batch;
use crate::error::Finding;
use crate::format::{Frame, Head};
use crate::keys::PublicKey;
use crate::leaf::LeafView;
use crate::merkle::{Hash, leaf_hash};
use crate::seal::{self, Part};
use crate::subjects::Touched;

/// A batch and what was found in it.
pub(super) struct Checked {
    pub(super) batch: Batch,
    pub(super) items: Vec<Item>,
    /// What is wrong with the frame after the items.
    pub(super) wrong: Option<Wrong>,
}

pub(super) struct Wrong {
    pub(super) finding: Finding,
    pub(super) offset: u64,
}

pub(super) enum Item {
    Entry(CheckedEntry),
    Head {
        head: Head,
        signed: bool,
        offset: u64,
        end: u64,
    },
}

pub(super) struct CheckedEntry {
    pub(super) index: u64,
    pub(super) group: u64,
    pub(super) offset: u64,
    /// The leaf, in the batch's bytes.
    pub(super) leaf: Range<usize>,
    pub(super) leaf_hash: Hash,
    pub(super) prev: Hash,
    pub(super) time_ms: i64,
    pub(super) touched: Touched,
}

/// Checks all frames of a batch, up to the first that is wrong.
pub(super) fn check(mut batch: Batch, public: &PublicKey) -> Checked {
    let mut items = Vec::with_capacity(batch.ends.len());
    let mut start = 0;
    let mut wrong = None;
    let ends = std::mem::take(&mut batch.ends);
    for end in &ends {
        let offset = batch.offset + start as u64;
        match frame(&mut batch, start..*end, offset, public) {
            Ok(item) => items.push(item),
            Err(finding) => {
                wrong = Some(Wrong { finding, offset });
                break;
            }
        }
        start = *end;
    }
    batch.ends = ends;
    Checked {
        batch,
        items,
        wrong,
    }
}

fn frame(
    batch: &mut Batch,
    at: Range<usize>,
    offset: u64,
    public: &PublicKey,
) -> Result<Item, Finding> {
    let end = batch.offset + at.end as u64;
    let bytes = batch.bytes.get_mut(at.clone()).ok_or(Finding::Frame)?;
    let entry = match Frame::decode(bytes).ok_or(Finding::Frame)? {
        Frame::Head(head) => {
            return Ok(Item::Head {
                head,
                signed: public.verify_head(&head),
                offset,
                end,
            });
        }
        Frame::Entry(entry) => entry,
    };
    let leaf = LeafView::parse(entry.leaf).ok_or(Finding::Leaf)?;
    let leaf_hash = leaf_hash(entry.leaf);
    let (index, group, nonce) = (entry.index, entry.group, entry.nonce);
    let body = entry.body_at..entry.body_at + entry.body.len();
    let subjects = body.end..body.end + entry.subjects.len();
    let mut checked = CheckedEntry {
        index,
        group,
        offset,
        leaf: at.start + body.start - entry.leaf.len()..at.start + body.start,
        leaf_hash,
        prev: leaf.prev,
        time_ms: leaf.time_ms,
        touched: Touched::None,
    };
    if let Some(key) = &batch.key {
        let body_hash = leaf.body_hash;
        let binding = seal::binding(&leaf_hash, group);
        let split = bytes
            .split_at_mut_checked(subjects.start)
            .ok_or(Finding::Frame)?;
        let sealed_body = split.0.get_mut(body).ok_or(Finding::Frame)?;
        let sealed_subjects = split.1.get_mut(..subjects.len()).ok_or(Finding::Frame)?;
        let salted =
            seal::open(key, Part::Body, &nonce, &binding, sealed_body).ok_or(Finding::Seal)?;
        let plain: &[u8] = if sealed_subjects.is_empty() {
            &[]
        } else {
            seal::open(key, Part::Subjects, &nonce, &binding, sealed_subjects)
                .ok_or(Finding::Seal)?
        };
        if salted.len() < crate::format::SALT_BYTES || seal::body_hash(salted, plain) != body_hash {
            return Err(Finding::BodyHash);
        }
        checked.touched = Touched::of(plain).ok_or(Finding::BodyHash)?;
    }
    Ok(Item::Entry(checked))
}
