//! Whom an entry touches: an opaque set of numbers per entry, and the index that finds a number's entries.
//! Formats: [`crate::format`].

use ring::aead::{Aad, LessSafeKey, Nonce};
use roaring::RoaringBitmap;

use crate::error::{LogError, Result};
use crate::format::{MAX_SUBJECTS_BYTES, NONCE_BYTES, Reader, TAG_BYTES};
use crate::keys::random;
use crate::merkle::Hash;

/// Entries per block of the subject index.
pub(crate) const BLOCK_ENTRIES: u64 = 65_536;
/// Entries with more subjects than this are wide.
pub(crate) const NARROW_SUBJECTS: u64 = 64;
/// A set of at most [`NARROW_SUBJECTS`] numbers is never longer than this in the Roaring format (each in a container
/// of its own: 8 bytes, and 4 + 4 + 2 per number).
pub(crate) const NARROW_BYTES: usize = 8 + 64 * 10;
/// A block in which every entry has as many subjects as a narrow one can.
pub(crate) const MAX_BLOCK_BYTES: usize =
    16 + 8 + NONCE_BYTES + 4 + 65_536 * (2 + 64 * 6) + TAG_BYTES;
const BLOCK_MAGIC: &[u8; 16] = b"qihui-audit-sub\n";

/// The set of numbers that an entry touches; the log does not know what they number. Cheap when empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Subjects(RoaringBitmap);

impl Subjects {
    /// Touches none.
    pub fn none() -> Subjects {
        Subjects::default()
    }

    /// Touches one.
    pub fn one(subject: u32) -> Subjects {
        Subjects::from_iter([subject])
    }

    /// Whether it touches none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many it touches.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether it touches this one.
    pub fn contains(&self, subject: u32) -> bool {
        self.0.contains(subject)
    }

    /// All, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }

    /// As a bitmap.
    pub fn as_bitmap(&self) -> &RoaringBitmap {
        &self.0
    }

    /// The stored form; empty for no subjects.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let mut compact = self.0.clone();
        compact.optimize();
        if compact.serialized_size() > MAX_SUBJECTS_BYTES {
            return Err(LogError::refused(format!(
                "its subjects take more than {MAX_SUBJECTS_BYTES} bytes"
            )));
        }
        let mut out = Vec::with_capacity(compact.serialized_size());
        compact
            .serialize_into(&mut out)
            .map_err(|_| LogError::refused("its subjects cannot be written"))?;
        Ok(out)
    }

    /// Reads the stored form; `None` unless it is one, used up to its end.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Subjects> {
        if bytes.is_empty() {
            return Some(Subjects::none());
        }
        let bitmap = RoaringBitmap::deserialize_from(&mut bytes).ok()?;
        (bytes.is_empty() && !bitmap.is_empty()).then_some(Subjects(bitmap))
    }
}

impl FromIterator<u32> for Subjects {
    fn from_iter<I: IntoIterator<Item = u32>>(subjects: I) -> Subjects {
        Subjects(subjects.into_iter().collect())
    }
}

impl From<RoaringBitmap> for Subjects {
    fn from(bitmap: RoaringBitmap) -> Subjects {
        Subjects(bitmap)
    }
}

/// What the index needs to know of one entry's subjects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Touched {
    #[default]
    None,
    /// All of them, ascending.
    Narrow(Vec<u32>),
    /// Too many for the index.
    Wide,
}

impl Touched {
    /// Judges a plaintext subject list; `None` when it is not one.
    pub(crate) fn of(plain: &[u8]) -> Option<Touched> {
        let subjects = Subjects::decode(plain)?;
        Some(match subjects.len() {
            0 => Touched::None,
            n if n <= NARROW_SUBJECTS => Touched::Narrow(subjects.iter().collect()),
            _ => Touched::Wide,
        })
    }

    /// Whether a sealed list of this length can only be wide, so that it need not be decrypted to know.
    pub(crate) fn surely_wide(sealed: usize) -> bool {
        sealed > NARROW_BYTES + TAG_BYTES
    }
}

/// The index of one block of entries, complete or growing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Offsets of wide entries, ascending.
    pub(crate) wide: Vec<u16>,
    /// (subject, offset); sorted when encoded.
    postings: Vec<(u32, u16)>,
}

impl Block {
    /// Adds the entry at `index`; entries come in order.
    pub(crate) fn add(&mut self, index: u64, touched: &Touched) {
        // INVARIANT: a block has 65,536 entries, so an offset fits.
        let offset = u16::try_from(index % BLOCK_ENTRIES).unwrap_or(u16::MAX);
        match touched {
            Touched::None => {}
            Touched::Narrow(subjects) => self
                .postings
                .extend(subjects.iter().map(|subject| (*subject, offset))),
            Touched::Wide => self.wide.push(offset),
        }
    }

    /// Offsets of the narrow entries that touch the subject, ascending.
    pub(crate) fn narrow(&self, subject: u32) -> Vec<u16> {
        let mut found: Vec<u16> = self
            .postings
            .iter()
            .filter(|(s, _)| *s == subject)
            .map(|(_, offset)| *offset)
            .collect();
        found.sort_unstable();
        found
    }

    pub(crate) fn encode(&mut self) -> Vec<u8> {
        self.postings.sort_unstable();
        let mut out = Vec::with_capacity(4 + 2 * self.wide.len() + 6 * self.postings.len());
        // INVARIANT: at most 65,536 offsets.
        out.extend_from_slice(
            &u32::try_from(self.wide.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        self.wide
            .iter()
            .for_each(|offset| out.extend_from_slice(&offset.to_be_bytes()));
        for (subject, offset) in &self.postings {
            out.extend_from_slice(&subject.to_be_bytes());
            out.extend_from_slice(&offset.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(plain: &[u8]) -> Option<Block> {
        let mut r = Reader(plain);
        let mut block = Block::default();
        for _ in 0..r.u32()? {
            block.wide.push(r.u16()?);
        }
        while !r.0.is_empty() {
            block.postings.push((r.u32()?, r.u16()?));
        }
        Some(block)
    }
}

/// The file of a block. `last` is the leaf hash of the block's last entry.
pub(crate) fn seal_block(
    key: &LessSafeKey,
    number: u64,
    last: &Hash,
    plain: &[u8],
) -> Result<Vec<u8>> {
    let mut nonce = [0u8; NONCE_BYTES];
    random(&mut nonce)?;
    let mut out = Vec::with_capacity(16 + 8 + NONCE_BYTES + plain.len() + TAG_BYTES);
    out.extend_from_slice(BLOCK_MAGIC);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(block_aad(number, last)),
            out.get_mut(start..).unwrap_or_default(),
        )
        .map_err(|_| LogError::key("the subject index cannot be encrypted"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// The plaintext of a block's file; `None` when it is not that block's.
pub(crate) fn open_block(
    key: &LessSafeKey,
    number: u64,
    last: &Hash,
    file: &[u8],
) -> Option<Vec<u8>> {
    let mut r = Reader(file);
    (r.take(16)? == BLOCK_MAGIC && r.u64()? == number).then_some(())?;
    let nonce = Nonce::assume_unique_for_key(r.array()?);
    let mut sealed = r.0.to_vec();
    let plain = key
        .open_in_place(nonce, Aad::from(block_aad(number, last)), &mut sealed)
        .ok()?;
    Some(plain.to_vec())
}

fn block_aad(number: u64, last: &Hash) -> [u8; 56] {
    let mut aad = [0u8; 56];
    let parts = BLOCK_MAGIC
        .iter()
        .chain(&number.to_be_bytes())
        .chain(last)
        .copied()
        .collect::<Vec<u8>>();
    aad.iter_mut()
        .zip(parts)
        .for_each(|(place, byte)| *place = byte);
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn subjects_survive(list in prop::collection::btree_set(any::<u32>(), 0..200)) {
            let subjects: Subjects = list.iter().copied().collect();
            let stored = subjects.encode().unwrap();
            prop_assert_eq!(Subjects::decode(&stored).unwrap(), subjects);
            if list.len() <= 64 {
                prop_assert!(stored.len() <= NARROW_BYTES);
            }
            let mut longer = stored;
            longer.push(0);
            prop_assert_eq!(Subjects::decode(&longer), None);
        }

        #[test]
        fn a_block_survives(entries in prop::collection::vec(prop::collection::vec(0u32..50, 0..4), 0..50)) {
            let mut block = Block::default();
            for (index, list) in entries.iter().enumerate() {
                let subjects: Subjects = list.iter().copied().collect();
                block.add(index as u64, &Touched::of(&subjects.encode().unwrap()).unwrap());
            }
            let decoded = Block::decode(&block.encode()).unwrap();
            for subject in 0..50 {
                let expected: Vec<u16> = entries.iter().enumerate().filter(|(_, list)| list.contains(&subject))
                    .map(|(index, _)| u16::try_from(index).unwrap()).collect();
                prop_assert_eq!(decoded.narrow(subject), expected);
            }
        }
    }
}
