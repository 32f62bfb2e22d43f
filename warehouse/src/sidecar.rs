//! The sidecar of a data file: which enterprises it holds, and an index of its records.
//!
//! A sidecar `_qihui/<stem>.idx` stands beside every data file `…/<stem>.parquet`. It is written, durably, before the
//! commit that adds the data file. It holds nothing that the data file does not: a missing or damaged one is rebuilt
//! from the data file. Records are decided to be new, changed or unchanged from sidecars alone.
//!
//! Format, version 1. Integers are little-endian, hashes big-endian (so that their order is that of their bytes).
//! Every section starts at a multiple of 64 bytes; gaps are zero.
//!
//! | offset | bytes | header |
//! |---|---|---|
//! | 0 | 8 | `QIHUIIDX` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | width of a sequence in bytes, `w` |
//! | 16 | 8 | rows, `n` |
//! | 24 | 8 | size of the data file in bytes |
//! | 32 | 6 × 24 | per section: offset, length, XXH64 with seed 0 |
//! | 176 | 8 | XXH64 of the 176 bytes before |
//!
//! Sections, in order: presence (Roaring bitmap of `_no`, portable format); then `n` entries each, sorted by key hash:
//! key hashes (16 bytes), content hashes (16), sequences (`w`), enterprise numbers (4), row numbers in the data file
//! (4). Hashes and sequences are those of [`crate::canonical`]. Whether a file holds rows or tombstones is said by its
//! partition, not here.

use std::ops::Range;

use bytes::Bytes;
use roaring::RoaringBitmap;
use twox_hash::XxHash64;

use crate::canonical::{Fingerprints, Hash, Sequences};

const MAGIC: &[u8; 8] = b"QIHUIIDX";
const VERSION: u32 = 1;
const ALIGN: usize = 64;
const SECTIONS: usize = 6;
/// How many bytes the header takes; sections start behind it.
pub(crate) const HEADER_BYTES: usize = 32 + SECTIONS * 24 + 8;

const HASH_BYTES: usize = 16;
const NUMBER_BYTES: usize = 4;

/// The sections, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Presence,
    Keys,
    Contents,
    Sequences,
    Numbers,
    Rows,
}

fn checksum(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// Collects the rows of one data file, in file order, and writes its sidecar.
#[derive(Debug, Default)]
pub(crate) struct SidecarBuilder {
    order: Vec<(Hash, u32)>,
    contents: Vec<Hash>,
    numbers: Vec<u32>,
    width: usize,
    sequences: Vec<u8>,
}

impl SidecarBuilder {
    pub fn rows(&self) -> usize {
        self.order.len()
    }

    pub fn push(&mut self, fingerprints: &Fingerprints, numbers: &[i32]) {
        let rows = numbers.len();
        self.widen(fingerprints.sequences.width());
        // A data file holds far fewer rows than u32 counts (`datafile::MAX_ROWS`).
        let first = u32::try_from(self.order.len()).unwrap_or(u32::MAX);
        self.order
            .extend(fingerprints.keys.iter().copied().zip(first..));
        self.contents.extend_from_slice(&fingerprints.contents);
        self.numbers
            .extend(numbers.iter().map(|no| no.cast_unsigned()));
        for row in 0..rows {
            let sequence = fingerprints.sequences.get(row);
            self.sequences.extend_from_slice(sequence);
            self.sequences
                .resize(self.sequences.len() + self.width - sequence.len(), 0);
        }
    }

    fn widen(&mut self, width: usize) {
        if width > self.width {
            let rows = self.rows();
            let mut wider = vec![0; rows * width];
            for row in 0..rows {
                wider[row * width..row * width + self.width]
                    .copy_from_slice(&self.sequences[row * self.width..(row + 1) * self.width]);
            }
            (self.width, self.sequences) = (width, wider);
        }
    }

    /// The sidecar of a data file of `data_bytes` bytes.
    pub fn finish(mut self, data_bytes: u64) -> Vec<u8> {
        self.order.sort_unstable();
        let rows = self.rows();
        let presence = self.presence();
        let mut out = Vec::with_capacity(
            HEADER_BYTES
                + presence.len()
                + rows * (2 * HASH_BYTES + self.width + 2 * NUMBER_BYTES)
                + SECTIONS * ALIGN,
        );
        out.resize(HEADER_BYTES, 0);
        let mut directory = Vec::with_capacity(SECTIONS * 24);
        let mut section = |out: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>)| {
            out.resize(out.len().next_multiple_of(ALIGN), 0);
            let start = out.len();
            write(out);
            let entry = [
                start as u64,
                (out.len() - start) as u64,
                checksum(&out[start..]),
            ];
            directory.extend(entry.iter().flat_map(|number| number.to_le_bytes()));
        };
        let rows_in_order = || self.order.iter().map(|(_, row)| *row as usize);
        section(&mut out, &|out| out.extend_from_slice(&presence));
        section(&mut out, &|out| {
            self.order
                .iter()
                .for_each(|(key, _)| out.extend_from_slice(&key.to_be_bytes()))
        });
        section(&mut out, &|out| {
            rows_in_order()
                .for_each(|row| out.extend_from_slice(&self.contents[row].to_be_bytes()));
        });
        section(&mut out, &|out| {
            rows_in_order().for_each(|row| {
                out.extend_from_slice(&self.sequences[row * self.width..(row + 1) * self.width])
            });
        });
        section(&mut out, &|out| {
            rows_in_order().for_each(|row| out.extend_from_slice(&self.numbers[row].to_le_bytes()));
        });
        section(&mut out, &|out| {
            self.order
                .iter()
                .for_each(|(_, row)| out.extend_from_slice(&row.to_le_bytes()))
        });

        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&u32::try_from(self.width).unwrap_or(u32::MAX).to_le_bytes());
        header.extend_from_slice(&(rows as u64).to_le_bytes());
        header.extend_from_slice(&data_bytes.to_le_bytes());
        header.extend_from_slice(&directory);
        header.extend_from_slice(&checksum(&header).to_le_bytes());
        out[..HEADER_BYTES].copy_from_slice(&header);
        out
    }

    fn presence(&self) -> Vec<u8> {
        // Files are sorted by number, so this appends.
        let mut bitmap = RoaringBitmap::new();
        let mut last = None;
        for no in &self.numbers {
            if last != Some(*no) {
                bitmap.insert(*no);
                last = Some(*no);
            }
        }
        let mut bytes = Vec::with_capacity(bitmap.serialized_size());
        // Writing to memory cannot fail.
        let _ = bitmap.serialize_into(&mut bytes);
        bytes
    }
}

/// Why bytes are not a sidecar of the data file in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotASidecar(pub &'static str);

/// The checked header of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub rows: usize,
    width: usize,
    sections: [(u64, u64, u64); SECTIONS],
}

impl Header {
    /// Reads and checks the first [`HEADER_BYTES`] of a sidecar that stands beside a data file of `data_bytes` bytes
    /// and `rows` rows.
    pub fn parse(bytes: &[u8], data_bytes: u64, rows: u64) -> Result<Self, NotASidecar> {
        let (header, rest) = bytes
            .split_at_checked(HEADER_BYTES - 8)
            .ok_or(NotASidecar("the header is cut short"))?;
        if !header.starts_with(MAGIC) {
            return Err(NotASidecar("it is no sidecar"));
        }
        if rest.first_chunk() != Some(&checksum(header).to_le_bytes()) {
            return Err(NotASidecar("the checksum of the header is wrong"));
        }
        let u32_at = |at: usize| {
            header[at..]
                .first_chunk()
                .map_or(0, |b| u32::from_le_bytes(*b))
        };
        let u64_at = |at: usize| {
            header[at..]
                .first_chunk()
                .map_or(0, |b| u64::from_le_bytes(*b))
        };
        if u32_at(8) != VERSION {
            return Err(NotASidecar("its version is unknown"));
        }
        if u64_at(16) != rows || u64_at(24) != data_bytes {
            return Err(NotASidecar("it belongs to another data file"));
        }
        let sections = std::array::from_fn(|i| {
            let at = 32 + i * 24;
            (u64_at(at), u64_at(at + 8), u64_at(at + 16))
        });
        let rows = usize::try_from(rows).map_err(|_| NotASidecar("it has too many rows"))?;
        let header = Self {
            rows,
            width: u32_at(12) as usize,
            sections,
        };
        let wanted = [
            HASH_BYTES,
            HASH_BYTES,
            header.width,
            NUMBER_BYTES,
            NUMBER_BYTES,
        ];
        for ((_, length, _), width) in header.sections.iter().skip(1).zip(wanted) {
            if rows.checked_mul(width).map(|bytes| bytes as u64) != Some(*length) {
                return Err(NotASidecar("a section has the wrong length"));
            }
        }
        Ok(header)
    }

    /// Where `section` lies in the file.
    pub fn range(&self, section: Section) -> Range<u64> {
        let (offset, length, _) = self.sections[section as usize];
        offset..offset.saturating_add(length)
    }

    /// Checks the bytes of `section`.
    pub fn check(&self, section: Section, bytes: &[u8]) -> Result<(), NotASidecar> {
        let (_, length, sum) = self.sections[section as usize];
        if bytes.len() as u64 == length && checksum(bytes) == sum {
            Ok(())
        } else {
            Err(NotASidecar("the checksum of a section is wrong"))
        }
    }

    /// Reads the bitmap of enterprise numbers out of its section.
    pub fn presence(&self, bytes: &[u8]) -> Result<RoaringBitmap, NotASidecar> {
        self.check(Section::Presence, bytes)?;
        RoaringBitmap::deserialize_from(bytes).map_err(|_| NotASidecar("the bitmap cannot be read"))
    }

    /// Reads the key hashes out of their section.
    pub fn keys(&self, bytes: Bytes) -> Result<Keys, NotASidecar> {
        self.check(Section::Keys, &bytes)?;
        Ok(Keys(bytes))
    }

    /// Reads what stands beside the keys: the sections from the contents on, in order.
    pub fn records(&self, sections: [Bytes; 4]) -> Result<Records, NotASidecar> {
        let order = [
            Section::Contents,
            Section::Sequences,
            Section::Numbers,
            Section::Rows,
        ];
        for (section, bytes) in order.into_iter().zip(&sections) {
            self.check(section, bytes)?;
        }
        let [contents, sequences, numbers, rows] = sections;
        Ok(Records {
            contents,
            sequences: Sequences::new(self.width, sequences.into()),
            numbers,
            rows,
        })
    }
}

/// The sorted key hashes of a data file.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Bytes);

impl Keys {
    pub fn len(&self) -> usize {
        self.0.len() / HASH_BYTES
    }

    pub fn get(&self, entry: usize) -> Hash {
        let at = entry * HASH_BYTES;
        self.0[at..]
            .first_chunk()
            .map_or(0, |bytes| Hash::from_be_bytes(*bytes))
    }

    /// Calls `found(position in wanted, entry)` for each of the `wanted` keys, sorted and distinct, that is here.
    pub fn intersect(&self, wanted: &[Hash], mut found: impl FnMut(usize, usize)) {
        let (mut entry, entries) = (0, self.len());
        for (position, key) in wanted.iter().enumerate() {
            entry = self.seek(entry, *key);
            if entry == entries {
                return;
            }
            if self.get(entry) == *key {
                found(position, entry);
                entry += 1;
            }
        }
    }

    /// The first entry from `from` on that is not less than `key`: doubling steps, then bisection, so that a few keys
    /// cost few probes and many keys cost one pass.
    fn seek(&self, from: usize, key: Hash) -> usize {
        let entries = self.len();
        let (mut low, mut step) = (from, 1);
        let mut high = from;
        while high < entries && self.get(high) < key {
            low = high + 1;
            high = high.saturating_add(step);
            step *= 2;
        }
        let mut high = high.min(entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle) < key {
                low = middle + 1
            } else {
                high = middle
            }
        }
        low
    }
}

/// What a sidecar knows of each record, in the order of the keys.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    contents: Bytes,
    sequences: Sequences,
    numbers: Bytes,
    rows: Bytes,
}

impl Records {
    pub fn content(&self, entry: usize) -> Hash {
        self.contents[entry * HASH_BYTES..]
            .first_chunk()
            .map_or(0, |bytes| Hash::from_be_bytes(*bytes))
    }

    pub fn sequence(&self, entry: usize) -> &[u8] {
        self.sequences.get(entry)
    }

    pub fn no(&self, entry: usize) -> u32 {
        self.numbers[entry * NUMBER_BYTES..]
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    pub fn row(&self, entry: usize) -> u32 {
        self.rows[entry * NUMBER_BYTES..]
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests;
