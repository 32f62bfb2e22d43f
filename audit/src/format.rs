//! What the log writes, byte by byte. All numbers are big-endian.
//!
//! ```text
//! <dir>/lock                        empty; whoever has the log open holds flock(2) on it
//! <dir>/journal/<first index, 20 digits>.seg      the primary record, fsynced once per group commit
//! <dir>/tile/<level>/<N>[.p/<W>]    Merkle tiles, C2SP tlog-tiles                     ┐ derived from the journal
//! <dir>/tile/entries/<N>[.p/<W>]    entry bundles: leaves, each after its u16 length  │ off the append path, and
//! <dir>/subjects/<N>                subject index, one file per 65,536 entries        ┘ again when missing or torn
//! <dir>/checkpoint                  signed note; all that it covers is in place and fsynced before it is
//! ```
//!
//! # Segment
//! A header, then groups. A group is what one fsync made durable: entry frames, then one head frame. A segment ends
//! with a group; only the last one may be followed by the beginning of a group that was never acknowledged.
//!
//! ```text
//! header   16  "qihui-audit-log\n"        32  leaf hash of the entry before (zeros in the first segment)
//!           4  length of the header       32  salt of the segment's key
//!           1  version, 1                  1  number p of peaks, then p × 32: roots of the maximal perfect
//!           8  index of the first entry        subtrees of the entries before, largest first
//!           8  time of the entry before    1  length of the origin, then the origin
//!              (ms, i64; i64::MIN if none)68  key id and signature of the head of the entries before
//!                                          4  CRC-32 of all before it
//! entry     4  length of what follows      2  length of the leaf
//!           1  kind, 1                     4  length of the sealed body
//!           8  index                       4  length of the sealed subjects, 0 = none
//!           8  index of the first entry       leaf, sealed body, sealed subjects
//!              of its group                4  CRC-32 (IEEE) of all before it in the frame
//!          12  nonce
//! head      4  length of what follows, 113
//!           1  kind, 2                     4  key id
//!           8  size                       64  Ed25519 signature over the checkpoint text of size and root
//!          32  root                        4  CRC-32 of all before it in the frame
//! ```
//!
//! The header repeats the state at its start, so that opening reads one segment, and a lost segment stays a local
//! loss. The CRC tells accidents from tampering early; what proves anything is the chain, the tree and the heads.
//!
//! # Body, salt and subjects
//! The plaintext of a sealed body is a 32-byte random salt, then the body (at most [`crate::MAX_BODY_BYTES`], no NUL
//! byte). The plaintext of sealed subjects is the set in the Roaring portable format. With B = salt ‖ body:
//!
//! ```text
//! body_hash = SHA-256(B)                                           without subjects
//! body_hash = SHA-256(B ‖ 0x00 ‖ SHA-256(salt ‖ subjects))         with subjects
//! ```
//!
//! A body has no NUL byte, so the two cannot be taken for each other, and neither body nor subject list can be
//! changed, added or dropped without breaking the leaf. The salt is inside the sealed part: leaves are public, and
//! without the salt a body cannot be guessed from its hash; disclosing one body discloses that salt only.
//! Both parts are AES-256-GCM under a key of the segment, HKDF-SHA256(salt = the header's key salt, key = the body
//! key, info = "qihui-audit segment v1"); additional data is the leaf hash, then the index of the group's first entry
//! (8), so that no head between two groups can be taken out unseen. The nonce is random, its first bit 0 for
//! the body and 1 for the subjects. It is not derived from the index: a group that was never acknowledged is cut off
//! and its indices are used again, and two bodies under one nonce would give both away. One key per segment keeps
//! the number of random nonces under a key far below the bound of 2^32.
//!
//! # Subject index
//! Per block of 65,536 consecutive entries, once it is full: `"qihui-audit-sub\n"`, block number (8), nonce (12), and
//! sealed (HKDF info "qihui-audit subject index v1"; additional data: magic, block number, leaf hash of the block's last
//! entry): count (4) of wide entries, their offsets in the block (2 each); then (subject 4, offset 2) for each
//! subject of the other entries, in order. An entry is wide when it has more than 64 subjects: the index only points at
//! it, and its own set is asked. Numbers of subjects are readable nowhere without the body key.
//!
//! *Completeness later.* Every subject list is committed by its leaf, so a verifiable map (subject → hash chain over
//! its entries, as a sparse Merkle tree) is a function of the journal. Its root can be recorded as an ordinary entry
//! per period, checked by `verify` like the index, and gives an enterprise the proof that its list is complete, with
//! no change of these formats.

use crate::leaf::MAX_LEAF_BYTES;
use crate::merkle::{Frontier, Hash};

pub(crate) const SEGMENT_MAGIC: &[u8; 16] = b"qihui-audit-log\n";
pub(crate) const FORMAT_VERSION: u8 = 1;
pub(crate) const KEY_SALT_BYTES: usize = 32;
pub(crate) const SALT_BYTES: usize = 32;
pub(crate) const NONCE_BYTES: usize = 12;
pub(crate) const TAG_BYTES: usize = 16;

/// Upper limit on the body of an entry.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// Upper limit on the stored form of an entry's subjects (Roaring; 64 MiB hold any set of 30 million numbers).
pub const MAX_SUBJECTS_BYTES: usize = 64 << 20;

const KIND_ENTRY: u8 = 1;
const KIND_HEAD: u8 = 2;
const CRC_BYTES: usize = 4;
const ENTRY_FIXED: usize = 4 + 1 + 8 + 8 + NONCE_BYTES + 2 + 4 + 4;
/// Whole length of a head frame.
pub(crate) const HEAD_FRAME_BYTES: usize = 4 + 1 + 8 + 32 + 4 + 64 + CRC_BYTES;
/// How every head frame begins; used to look for one behind a damaged place.
pub(crate) const HEAD_PREFIX: [u8; 5] = [0, 0, 0, 113, KIND_HEAD];
const MIN_FRAME_BYTES: usize = HEAD_FRAME_BYTES;
pub(crate) const MAX_FRAME_BYTES: usize = ENTRY_FIXED
    + MAX_LEAF_BYTES
    + (SALT_BYTES + MAX_BODY_BYTES + TAG_BYTES)
    + (MAX_SUBJECTS_BYTES + TAG_BYTES)
    + CRC_BYTES;
/// A header with all 64 peaks and the longest origin.
pub(crate) const MAX_HEADER_BYTES: usize =
    16 + 4 + 1 + 8 + 8 + 32 + KEY_SALT_BYTES + 1 + 64 * 32 + 1 + 255 + 68 + CRC_BYTES;

/// A signed tree head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) key_id: u32,
    pub(crate) signature: [u8; 64],
}

/// The state at the start of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Time of the entry before; `i64::MIN` when there is none.
    pub(crate) time_ms: i64,
    pub(crate) prev: Hash,
    pub(crate) key_salt: [u8; KEY_SALT_BYTES],
    pub(crate) frontier: Frontier,
    pub(crate) origin: String,
    pub(crate) head: Head,
}

impl Header {
    pub(crate) fn first(&self) -> u64 {
        self.frontier.size()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_HEADER_BYTES);
        let peaks = self.frontier.peaks();
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.push(FORMAT_VERSION);
        out.extend_from_slice(&self.first().to_be_bytes());
        out.extend_from_slice(&self.time_ms.to_be_bytes());
        out.extend_from_slice(&self.prev);
        out.extend_from_slice(&self.key_salt);
        // At most 64 peaks and an origin of at most 200 bytes, both checked where they are made.
        out.push(u8::try_from(peaks.len()).unwrap_or(u8::MAX));
        peaks.iter().for_each(|peak| out.extend_from_slice(peak));
        out.push(u8::try_from(self.origin.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(self.origin.as_bytes());
        out.extend_from_slice(&self.head.key_id.to_be_bytes());
        out.extend_from_slice(&self.head.signature);
        let length = out.len() + CRC_BYTES;
        set_u32(&mut out, 16, length);
        push_crc(&mut out, 0);
        out
    }

    /// Reads a header at the start of `bytes`; also its length.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Header, usize)> {
        let mut length = Reader(bytes.get(16..20)?);
        let length = usize::try_from(length.u32()?).ok()?;
        let whole = checked(bytes.get(..length)?)?;
        let mut r = Reader(whole);
        (r.take(16)? == SEGMENT_MAGIC).then_some(())?;
        r.u32()?;
        (r.u8()? == FORMAT_VERSION).then_some(())?;
        let size = r.u64()?;
        let time_ms = i64::from_be_bytes(r.array()?);
        let prev = r.array()?;
        let key_salt = r.array()?;
        let mut peaks = Vec::new();
        for _ in 0..r.u8()? {
            peaks.push(r.array()?);
        }
        let frontier = Frontier::new(size, peaks)?;
        let origin_length = usize::from(r.u8()?);
        let origin = String::from_utf8(r.take(origin_length)?.to_vec()).ok()?;
        let head = Head {
            size,
            root: frontier.root(),
            key_id: r.u32()?,
            signature: r.array()?,
        };
        r.0.is_empty().then_some((
            Header {
                time_ms,
                prev,
                key_salt,
                frontier,
                origin,
                head,
            },
            length,
        ))
    }
}

/// An entry frame, still sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryFrame<'a> {
    pub(crate) index: u64,
    /// Index of the first entry of its group: the size of the head before.
    pub(crate) group: u64,
    pub(crate) nonce: [u8; NONCE_BYTES],
    pub(crate) leaf: &'a [u8],
    pub(crate) body: &'a [u8],
    pub(crate) subjects: &'a [u8],
    /// Offset of `body` in the frame.
    pub(crate) body_at: usize,
}

/// A frame of a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Frame<'a> {
    Entry(EntryFrame<'a>),
    Head(Head),
}

impl<'a> Frame<'a> {
    /// Reads exactly one whole frame; `None` when anything about it is wrong, the checksum included.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let mut r = Reader(checked(bytes)?);
        (usize::try_from(r.u32()?).ok()?.checked_add(4)? == bytes.len()).then_some(())?;
        let frame = match r.u8()? {
            KIND_ENTRY => {
                let (index, group, nonce) = (r.u64()?, r.u64()?, r.array()?);
                let leaf_length = usize::from(r.u16()?);
                (leaf_length <= MAX_LEAF_BYTES).then_some(())?;
                let (body_length, subjects_length) = (r.u32()?, r.u32()?);
                let leaf = r.take(leaf_length)?;
                let body = r.take(usize::try_from(body_length).ok()?)?;
                let subjects = r.take(usize::try_from(subjects_length).ok()?)?;
                Frame::Entry(EntryFrame {
                    index,
                    group,
                    nonce,
                    leaf,
                    body,
                    subjects,
                    body_at: ENTRY_FIXED + leaf_length,
                })
            }
            KIND_HEAD => Frame::Head(Head {
                size: r.u64()?,
                root: r.array()?,
                key_id: r.u32()?,
                signature: r.array()?,
            }),
            _ => return None,
        };
        r.0.is_empty().then_some(frame)
    }
}

/// What the first bytes of a frame say about its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The whole frame has this many bytes.
    Known(usize),
    /// Fewer than four bytes are there.
    Short,
    /// No frame has this length.
    Impossible,
}

pub(crate) fn extent(bytes: &[u8]) -> Extent {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Extent::Short;
    };
    match usize::try_from(u32::from_be_bytes(*length))
        .ok()
        .and_then(|n| n.checked_add(4))
    {
        Some(n) if (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&n) => Extent::Known(n),
        _ => Extent::Impossible,
    }
}

/// The sealed lengths of an entry frame, for writing its fixed part before its content.
pub(crate) struct EntryLengths {
    pub(crate) leaf: usize,
    pub(crate) body: usize,
    pub(crate) subjects: usize,
}

/// Begins an entry frame: everything before the leaf. Content follows, then [`push_crc`] from the frame's start.
pub(crate) fn begin_entry(
    out: &mut Vec<u8>,
    index: u64,
    group: u64,
    nonce: &[u8; NONCE_BYTES],
    lengths: &EntryLengths,
) {
    let length = ENTRY_FIXED - 4 + lengths.leaf + lengths.body + lengths.subjects + CRC_BYTES;
    // INVARIANT: MAX_FRAME_BYTES is below u32::MAX and MAX_LEAF_BYTES below u16::MAX; bodies, subjects and types were
    // checked against their limits when the entry was handed in.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    out.push(KIND_ENTRY);
    out.extend_from_slice(&index.to_be_bytes());
    out.extend_from_slice(&group.to_be_bytes());
    out.extend_from_slice(nonce);
    out.extend_from_slice(&u16::try_from(lengths.leaf).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&u32::try_from(lengths.body).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&u32::try_from(lengths.subjects).unwrap_or(0).to_be_bytes());
}

/// Appends a head frame.
pub(crate) fn push_head(out: &mut Vec<u8>, head: &Head) {
    let start = out.len();
    out.extend_from_slice(&HEAD_PREFIX);
    out.extend_from_slice(&head.size.to_be_bytes());
    out.extend_from_slice(&head.root);
    out.extend_from_slice(&head.key_id.to_be_bytes());
    out.extend_from_slice(&head.signature);
    push_crc(out, start);
}

/// Appends the CRC-32 of everything from `start`.
pub(crate) fn push_crc(out: &mut Vec<u8>, start: usize) {
    let crc = crc32fast::hash(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&crc.to_be_bytes());
}

fn set_u32(out: &mut [u8], at: usize, value: usize) {
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes());
    }
}

/// The bytes without their CRC, if it is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    (crc32fast::hash(content) == u32::from_be_bytes(*crc)).then_some(content)
}

/// Takes fields off the front of a buffer; never panics.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        let mut frontier = Frontier::default();
        for n in 0..5u8 {
            frontier.push([n; 32]);
        }
        let head = Head {
            size: 5,
            root: frontier.root(),
            key_id: 7,
            signature: [8; 64],
        };
        Header {
            time_ms: 42,
            prev: [1; 32],
            key_salt: [2; 32],
            frontier,
            origin: "hub".into(),
            head,
        }
    }

    #[test]
    fn a_header_survives_and_no_part_of_it_can_change() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Some((header(), bytes.len())));
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert_eq!(Header::decode(&changed), None, "bit {at}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frame::decode(&bytes);
            let _ = Header::decode(&bytes);
            let _ = extent(&bytes);
            let mut sealed = bytes;
            push_crc(&mut sealed, 0);
            let _ = Frame::decode(&sealed);
            let _ = Header::decode(&sealed);
        }
    }
}
