//! The leaf: what the tree is made of.
//!
//! A leaf is canonical JSON (RFC 8785: keys in order, no spaces) of at most [`MAX_LEAF_BYTES`]:
//!
//! ```text
//! {"alg":"sha256","body_hash":"<64 hex>","prev":"<64 hex>","time":"2025-01-31T08:00:00.000Z","type":"run.finished","v":1}
//! ```
//!
//! `prev` is the leaf hash (SHA-256(0x00 ‖ leaf), RFC 6962) of the leaf before it, 64 zeros in the first; `time` is
//! UTC with milliseconds and never before that of the leaf before; `type` is `[a-z][a-z0-9_.-]{0,63}`; `body_hash`
//! is described in [`crate::format`]. There is exactly one encoding of a leaf: [`Leaf::parse`] refuses every other.
//! A leaf names nobody: it may be shown to anyone who verifies the tree.

use crate::clock::{TIME_LEN, format_ms, parse_ms, writable};
use crate::error::{LogError, Result};
use crate::merkle::{Hash, leaf_hash};

/// Upper limit on the encoding of a leaf.
pub const MAX_LEAF_BYTES: usize = 300;
/// Upper limit on the length of a leaf's type.
pub const MAX_KIND_BYTES: usize = 64;
/// Version of the leaf format.
pub const LEAF_VERSION: u32 = 1;
/// Hash algorithm of leaf, chain and tree.
pub const LEAF_ALGORITHM: &str = "sha256";

const BODY_HASH: &[u8] = b"{\"alg\":\"sha256\",\"body_hash\":\"";
const PREV: &[u8] = b"\",\"prev\":\"";
const TIME: &[u8] = b"\",\"time\":\"";
const KIND: &[u8] = b"\",\"type\":\"";
const END: &[u8] = b"\",\"v\":1}";

/// One leaf, decoded. Version and algorithm are [`LEAF_VERSION`] and [`LEAF_ALGORITHM`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf's `type`, e.g. `access.decided`.
    pub kind: String,
    /// Milliseconds since the epoch, UTC.
    pub time_ms: i64,
    /// Leaf hash of the leaf before; zeros in the first.
    pub prev: Hash,
    /// Commitment to body and subjects.
    pub body_hash: Hash,
}

impl Leaf {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_LEAF_BYTES);
        encode_into(
            &mut out,
            &self.kind,
            self.time_ms,
            &self.prev,
            &self.body_hash,
        );
        out
    }

    /// RFC 6962 hash of the encoding.
    pub fn hash(&self) -> Hash {
        leaf_hash(&self.encode())
    }

    /// Reads a canonical encoding; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Leaf> {
        let view = LeafView::parse(bytes)?;
        Some(Leaf {
            kind: String::from_utf8(view.kind.to_vec()).ok()?,
            time_ms: view.time_ms,
            prev: view.prev,
            body_hash: view.body_hash,
        })
    }
}

/// A leaf decoded without allocating.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeafView<'a> {
    pub(crate) kind: &'a [u8],
    pub(crate) time_ms: i64,
    pub(crate) prev: Hash,
    pub(crate) body_hash: Hash,
}

impl<'a> LeafView<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<LeafView<'a>> {
        let rest = bytes.strip_prefix(BODY_HASH)?;
        let (body_hash, rest) = rest.split_first_chunk::<64>()?;
        let (prev, rest) = rest.strip_prefix(PREV)?.split_first_chunk::<64>()?;
        let (time, rest) = rest.strip_prefix(TIME)?.split_first_chunk::<TIME_LEN>()?;
        let kind = rest.strip_prefix(KIND)?.strip_suffix(END)?;
        kind_is_valid(kind).then_some(())?;
        Some(LeafView {
            kind,
            time_ms: parse_ms(time)?,
            prev: unhex(prev)?,
            body_hash: unhex(body_hash)?,
        })
    }
}

/// Appends the encoding to `out`. The caller has checked kind and time.
pub(crate) fn encode_into(
    out: &mut Vec<u8>,
    kind: &str,
    time_ms: i64,
    prev: &Hash,
    body_hash: &Hash,
) {
    out.extend_from_slice(BODY_HASH);
    out.extend_from_slice(&tohex(body_hash));
    out.extend_from_slice(PREV);
    out.extend_from_slice(&tohex(prev));
    out.extend_from_slice(TIME);
    out.extend_from_slice(&format_ms(time_ms));
    out.extend_from_slice(KIND);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(END);
}

pub(crate) fn check_kind(kind: &str) -> Result<()> {
    if kind_is_valid(kind.as_bytes()) {
        return Ok(());
    }
    Err(LogError::refused(format!(
        "its type must be a lower-case letter, then at most {} of a-z 0-9 _ . -",
        MAX_KIND_BYTES - 1
    )))
}

pub(crate) fn check_time(ms: i64) -> Result<()> {
    if writable(ms) {
        return Ok(());
    }
    Err(LogError::refused(
        "the clock shows a year outside 1 to 9999; set the clock right",
    ))
}

fn kind_is_valid(kind: &[u8]) -> bool {
    kind.len() <= MAX_KIND_BYTES
        && kind.first().is_some_and(u8::is_ascii_lowercase)
        && kind.iter().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-')
        })
}

fn tohex(hash: &Hash) -> [u8; 64] {
    let mut out = [b'0'; 64];
    for (pair, byte) in out.chunks_exact_mut(2).zip(hash) {
        if let [high, low] = pair {
            (*high, *low) = (digit(byte >> 4), digit(byte & 15));
        }
    }
    out
}

fn digit(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' - 10 + nibble
    }
}

/// Lower-case digits only: upper-case ones would be a second encoding of the same leaf.
fn unhex(text: &[u8; 64]) -> Option<Hash> {
    let mut out = Hash::default();
    let mut bad = 0u8;
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        if let [high, low] = pair {
            let (high, low) = (nibble(*high), nibble(*low));
            bad |= (high | low) & 0xf0;
            *byte = (high << 4) | (low & 15);
        }
    }
    (bad == 0).then_some(out)
}

/// 0xff for what is no lower-case hexadecimal digit.
fn nibble(digit: u8) -> u8 {
    const TABLE: [u8; 256] = {
        let mut table = [0xffu8; 256];
        let mut n = 0u8;
        while n < 16 {
            let digit = if n < 10 { b'0' + n } else { b'a' - 10 + n };
            #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
            {
                table[digit as usize] = n;
            }
            n += 1;
        }
        table
    };
    TABLE.get(usize::from(digit)).copied().unwrap_or(0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaf(kind: &str, time_ms: i64, prev: Hash, body_hash: Hash) -> Leaf {
        Leaf {
            kind: kind.into(),
            time_ms,
            prev,
            body_hash,
        }
    }

    #[test]
    fn the_encoding_is_rfc_8785() {
        let leaf = leaf("access.decided", 1_738_310_400_000, [7; 32], [0xab; 32]);
        let value: serde_json::Value = serde_json::from_slice(&leaf.encode()).unwrap();
        let canonical = serde_json_canonicalizer::to_vec(&value).unwrap();
        assert_eq!(leaf.encode(), canonical);
        assert_eq!(value["alg"], LEAF_ALGORITHM);
        assert_eq!(value["v"], LEAF_VERSION);
        assert_eq!(value["time"], "2025-01-31T08:00:00.000Z");
    }

    #[test]
    fn the_longest_leaf_fits() {
        let longest = leaf(&"a".repeat(MAX_KIND_BYTES), i64::MAX, [255; 32], [255; 32]);
        assert!(longest.encode().len() <= MAX_LEAF_BYTES);
    }

    #[test]
    fn types_are_checked() {
        for good in ["a", "access.decided", "run-2_x"] {
            assert!(check_kind(good).is_ok());
        }
        for bad in ["", "A", "1a", "a b", "a\"", "é", &"a".repeat(65)] {
            assert!(check_kind(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_leaf_survives(kind in "[a-z][a-z0-9_.-]{0,63}", time_ms in 0i64..200_000_000_000_000,
                           prev: [u8; 32], body_hash: [u8; 32]) {
            let leaf = leaf(&kind, time_ms, prev, body_hash);
            prop_assert_eq!(Leaf::parse(&leaf.encode()), Some(leaf));
        }

        /// Every text that parses is the one encoding of what was parsed.
        #[test]
        fn aud_2_one_encoding_per_leaf(at in 0usize..240, byte: u8) {
            let mut text = leaf("run.finished", 1_738_310_400_000, [0x5c; 32], [0xa9; 32]).encode();
            let at = at % text.len();
            text[at] = byte;
            if let Some(leaf) = Leaf::parse(&text) {
                prop_assert_eq!(leaf.encode(), text);
            }
        }
    }
}
