//! Sealing and opening bodies and subject lists; the commitment that a leaf carries. Formats: [`crate::format`].

use ring::aead::{Aad, LessSafeKey, Nonce};

use crate::error::{LogError, Result};
use crate::format::{NONCE_BYTES, SALT_BYTES, TAG_BYTES};
use crate::merkle::{Hash, sha256, sha256_of};

/// Which of the two sealed parts of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Body,
    Subjects,
}

impl Part {
    /// The first bit of the nonce tells the parts apart.
    fn nonce(self, nonce: &[u8; NONCE_BYTES]) -> Nonce {
        let mut nonce = *nonce;
        let [first, ..] = &mut nonce;
        match self {
            Part::Body => *first &= 0x7f,
            Part::Subjects => *first |= 0x80,
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// What a sealed part is bound to: its leaf, and the group the leaf was recorded in.
pub(crate) type Binding = [u8; 40];

pub(crate) fn binding(leaf_hash: &Hash, group: u64) -> Binding {
    let mut bound = [0u8; 40];
    let (first, second) = bound.split_at_mut(32);
    first.copy_from_slice(leaf_hash);
    second.copy_from_slice(&group.to_be_bytes());
    bound
}

/// Appends the sealed form of `plain` to `out`: as long as it plus [`TAG_BYTES`].
pub(crate) fn seal(
    key: &LessSafeKey,
    part: Part,
    nonce: &[u8; NONCE_BYTES],
    binding: &Binding,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = key
        .seal_in_place_separate_tag(
            part.nonce(nonce),
            Aad::from(binding),
            out.get_mut(start..).unwrap_or_default(),
        )
        .map_err(|_| LogError::refused("it cannot be encrypted"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Decrypts in place; the plaintext, or `None` when it is not what was sealed for this binding.
pub(crate) fn open<'a>(
    key: &LessSafeKey,
    part: Part,
    nonce: &[u8; NONCE_BYTES],
    binding: &Binding,
    sealed: &'a mut [u8],
) -> Option<&'a mut [u8]> {
    key.open_in_place(part.nonce(nonce), Aad::from(binding), sealed)
        .ok()
}

pub(crate) fn sealed_len(plain: usize) -> usize {
    if plain == 0 { 0 } else { plain + TAG_BYTES }
}

/// What the leaf commits to. `salted` is salt ‖ body; empty `subjects` means none.
pub(crate) fn body_hash(salted: &[u8], subjects: &[u8]) -> Hash {
    if subjects.is_empty() {
        return sha256(salted);
    }
    commitment(salted, Some(&subjects_hash(salted, subjects)))
}

/// Digest of a subject list under the entry's salt.
pub(crate) fn subjects_hash(salted: &[u8], subjects: &[u8]) -> Hash {
    sha256_of(&[salted.get(..SALT_BYTES).unwrap_or_default(), subjects])
}

/// As [`body_hash`], from the digest of the subject list.
pub(crate) fn commitment(salted: &[u8], subjects: Option<&Hash>) -> Hash {
    match subjects {
        None => sha256(salted),
        Some(digest) => sha256_of(&[salted, &[0], digest]),
    }
}
