//! Reading entries back: decrypted, and checked against what their leaf commits to.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{LogError, Result};
use crate::format::SALT_BYTES;
use crate::journal::{Journal, RawEntry};
use crate::keys::LogKeys;
use crate::leaf::Leaf;
use crate::merkle::{Hash, leaf_hash};
use crate::seal::{self, Part};
use crate::subjects::{Subjects, Touched};

/// An entry as read back.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEntry {
    /// Its place in the log.
    pub index: u64,
    /// Its leaf.
    pub leaf: Leaf,
    /// Its body, as handed in.
    pub body: Vec<u8>,
    /// Whom it touches.
    pub subjects: Subjects,
    /// With the body (and the digest of the subjects) this recomputes the leaf's `body_hash`; disclosing it opens
    /// the commitment of this entry only.
    pub salt: [u8; SALT_BYTES],
    /// SHA-256(salt ‖ subjects as stored), if there are subjects: stands for them in a disclosure.
    pub subjects_digest: Option<Hash>,
}

/// The commitment that a leaf carries: what a holder of a disclosed body recomputes.
pub fn body_commitment(salt: &[u8; 32], body: &[u8], subjects_digest: Option<&Hash>) -> Hash {
    seal::commitment(&[salt.as_slice(), body].concat(), subjects_digest)
}

/// Decrypts one entry and checks it against its leaf.
pub(crate) fn open_entry(raw: &RawEntry<'_>) -> Result<StoredEntry> {
    let damaged = |why: &str| {
        LogError::corrupt(
            raw.path,
            raw.offset,
            format!("entry {}: {why}", raw.frame.index),
        )
    };
    let leaf = Leaf::parse(raw.frame.leaf).ok_or_else(|| damaged("malformed leaf"))?;
    let binding = seal::binding(&leaf_hash(raw.frame.leaf), raw.frame.group);
    let mut sealed = raw.frame.body.to_vec();
    let salted = seal::open(raw.key, Part::Body, &raw.frame.nonce, &binding, &mut sealed)
        .ok_or_else(|| damaged("its body does not decrypt"))?;
    let stored_subjects = plain_subjects(raw)?;
    if seal::body_hash(salted, &stored_subjects) != leaf.body_hash {
        return Err(damaged("its body is not the one its leaf commits to"));
    }
    let (salt, body) = salted
        .split_first_chunk()
        .ok_or_else(|| damaged("its body has no salt"))?;
    let subjects =
        Subjects::decode(&stored_subjects).ok_or_else(|| damaged("malformed subjects"))?;
    let subjects_digest =
        (!stored_subjects.is_empty()).then(|| seal::subjects_hash(salted, &stored_subjects));
    Ok(StoredEntry {
        index: raw.frame.index,
        leaf,
        body: body.to_vec(),
        subjects,
        salt: *salt,
        subjects_digest,
    })
}

/// Decrypts the subjects only; what is read was authenticated with the leaf by the AEAD.
pub(crate) fn open_subjects(raw: &RawEntry<'_>) -> Result<Subjects> {
    let plain = plain_subjects(raw)?;
    let malformed = || LogError::corrupt(raw.path, raw.offset, "malformed subjects");
    Subjects::decode(&plain).ok_or_else(malformed)
}

/// What the subject index needs; a list that can only be wide is not decrypted.
pub(crate) fn open_touched(raw: &RawEntry<'_>) -> Result<Touched> {
    if raw.frame.subjects.is_empty() {
        return Ok(Touched::None);
    }
    if Touched::surely_wide(raw.frame.subjects.len()) {
        return Ok(Touched::Wide);
    }
    let plain = plain_subjects(raw)?;
    Touched::of(&plain).ok_or_else(|| LogError::corrupt(raw.path, raw.offset, "malformed subjects"))
}

fn plain_subjects(raw: &RawEntry<'_>) -> Result<Vec<u8>> {
    if raw.frame.subjects.is_empty() {
        return Ok(Vec::new());
    }
    let binding = seal::binding(&leaf_hash(raw.frame.leaf), raw.frame.group);
    let mut sealed = raw.frame.subjects.to_vec();
    let plain = seal::open(
        raw.key,
        Part::Subjects,
        &raw.frame.nonce,
        &binding,
        &mut sealed,
    )
    .ok_or_else(|| LogError::corrupt(raw.path, raw.offset, "its subjects do not decrypt"))?;
    Ok(plain.to_vec())
}

/// Reads one durable entry.
pub(crate) fn read_entry(journal: &Journal, keys: &LogKeys, index: u64) -> Result<StoredEntry> {
    let missing = || LogError::OutOfRange {
        size: index,
        asked: index,
    };
    journal
        .entries(index..index + 1, keys)
        .next_with(|raw| open_entry(&raw))?
        .ok_or_else(missing)
}

/// Iterator over durable entries in order; holds one chunk of them in memory.
pub struct Scan {
    journal: Arc<Journal>,
    keys: LogKeys,
    range: Range<u64>,
    chunk: std::vec::IntoIter<StoredEntry>,
}

/// Entries decoded at a time, unless they are large.
const CHUNK_ENTRIES: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

impl Scan {
    pub(crate) fn new(journal: Arc<Journal>, keys: LogKeys, range: Range<u64>) -> Scan {
        Scan {
            journal,
            keys,
            range,
            chunk: Vec::new().into_iter(),
        }
    }

    fn refill(&mut self) -> Result<()> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        let mut entries = self.journal.entries(self.range.clone(), &self.keys);
        while chunk.len() < CHUNK_ENTRIES && bytes < CHUNK_BYTES {
            let Some(entry) = entries.next_with(|raw| open_entry(&raw))? else {
                break;
            };
            bytes += entry.body.len();
            chunk.push(entry);
        }
        self.range.start += chunk.len() as u64;
        self.chunk = chunk.into_iter();
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<StoredEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.chunk.next() {
            return Some(Ok(entry));
        }
        if self.range.is_empty() {
            return None;
        }
        if let Err(error) = self.refill() {
            self.range.start = self.range.end;
            return Some(Err(error));
        }
        self.chunk.next().map(Ok)
    }
}
