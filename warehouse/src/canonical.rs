//! What makes two rows the same: canonical encodings of key, content and sequence.
//!
//! - The **key hash** is SHA-256, cut to 128 bits, over `K` and, per key column in the contract's order, `0` for null
//!   or `1` and the value.
//! - The **content hash** is SHA-256, cut to 128 bits, over `C` and, per column of the table that is not null and not
//!   `_no`, its position as one byte and the value. A null leaves no trace, so that a column added later changes no
//!   hash of an old row.
//! - A value is little-endian and of fixed width; text is its length as four bytes and its bytes.
//! - The **sequence** is a string of bytes whose order is the order of versions: per sequence column `0` for null
//!   (lowest) or `1` and the value, big-endian with the sign flipped; text is cut to [`TEXT_LIMIT`] bytes, a zero
//!   byte becomes `0 255`, and `0 0` ends it. No encoding is a prefix of another, so zero padding changes no order.
//!   Versions whose texts differ only beyond the limit tie, and the content hash decides.
//!
//! These encodings are persisted in sidecars and decide which version of a record wins: they never change.

use std::cmp::Ordering;

use arrow::{
    array::{
        Array, ArrayRef, AsArray as _, BooleanArray, Date32Array, Decimal128Array, Int32Array,
        Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{
        DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit,
        TimestampMicrosecondType,
    },
};
use ring::digest::{SHA256, digest};

use crate::{error::WarehouseError, layout::Layout};

/// How many bytes of a text take part in the order of versions.
pub const TEXT_LIMIT: usize = 62;

/// A 128-bit hash; the order of numbers is the order of bytes.
pub type Hash = u128;

/// The column of one type, ready to be encoded row by row.
enum Values<'a> {
    Text(&'a StringArray),
    Day(&'a Date32Array),
    Flag(&'a BooleanArray),
    Int(&'a Int32Array),
    Long(&'a Int64Array),
    Amount(&'a Decimal128Array),
    Instant(&'a TimestampMicrosecondArray),
}

impl<'a> Values<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::Date32 => Self::Day(array.as_primitive::<Date32Type>()),
            DataType::Boolean => Self::Flag(array.as_boolean()),
            DataType::Int32 => Self::Int(array.as_primitive::<Int32Type>()),
            DataType::Int64 => Self::Long(array.as_primitive::<Int64Type>()),
            DataType::Decimal128(..) => Self::Amount(array.as_primitive::<Decimal128Type>()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Instant(array.as_primitive::<TimestampMicrosecondType>())
            }
            _ => return None,
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(a) => a.is_null(row),
            Self::Day(a) => a.is_null(row),
            Self::Flag(a) => a.is_null(row),
            Self::Int(a) => a.is_null(row),
            Self::Long(a) => a.is_null(row),
            Self::Amount(a) => a.is_null(row),
            Self::Instant(a) => a.is_null(row),
        }
    }

    /// Appends the canonical value; the row is not null.
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Text(a) => {
                let text = a.value(row).as_bytes();
                // Arrow's 32-bit offsets bound the length.
                out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                out.extend_from_slice(text);
            }
            Self::Day(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Self::Flag(a) => out.push(u8::from(a.value(row))),
            Self::Int(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Self::Long(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Self::Amount(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Self::Instant(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
        }
    }

    /// Appends the ordered value; the row is not null.
    fn write_ordered(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Text(a) => {
                let text = a.value(row).as_bytes();
                for byte in &text[..text.len().min(TEXT_LIMIT)] {
                    out.push(*byte);
                    if *byte == 0 {
                        out.push(255);
                    }
                }
                out.extend_from_slice(&[0, 0]);
            }
            Self::Day(a) => out.extend_from_slice(&(a.value(row) ^ i32::MIN).to_be_bytes()),
            Self::Flag(a) => out.push(u8::from(a.value(row))),
            Self::Int(a) => out.extend_from_slice(&(a.value(row) ^ i32::MIN).to_be_bytes()),
            Self::Long(a) => out.extend_from_slice(&(a.value(row) ^ i64::MIN).to_be_bytes()),
            Self::Amount(a) => out.extend_from_slice(&(a.value(row) ^ i128::MIN).to_be_bytes()),
            Self::Instant(a) => out.extend_from_slice(&(a.value(row) ^ i64::MIN).to_be_bytes()),
        }
    }
}

/// Sequences of many rows, each padded with zeros to the width of the longest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sequences {
    width: usize,
    bytes: Vec<u8>,
}

impl Sequences {
    pub fn new(width: usize, bytes: Vec<u8>) -> Self {
        Self { width, bytes }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn get(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.width..(row + 1) * self.width]
    }
}

/// The order of two encoded sequences, whatever zeros pad them.
pub(crate) fn compare_sequences(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.len().min(b.len());
    let longer = |rest: &[u8]| rest.iter().any(|byte| *byte != 0);
    a[..common]
        .cmp(&b[..common])
        .then_with(|| longer(&a[common..]).cmp(&longer(&b[common..])))
}

/// What orders the versions of one record: sequence, then retraction over record, then content hash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version<'a> {
    pub sequence: &'a [u8],
    pub retracted: bool,
    pub content: Hash,
}

impl Version<'_> {
    pub fn compare(&self, other: &Version<'_>) -> Ordering {
        compare_sequences(self.sequence, other.sequence)
            .then(self.retracted.cmp(&other.retracted))
            .then(self.content.cmp(&other.content))
    }
}

/// The identity and version of every row of a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fingerprints {
    pub keys: Vec<Hash>,
    pub contents: Vec<Hash>,
    pub sequences: Sequences,
}

fn hash(bytes: &[u8]) -> Hash {
    let digest = digest(&SHA256, bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_ref()[..16]);
    Hash::from_be_bytes(half)
}

impl Fingerprints {
    /// Fingerprints the rows of `batch`, which has the layout's schema.
    pub fn of(layout: &Layout, batch: &RecordBatch) -> Result<Self, WarehouseError> {
        let values = batch
            .columns()
            .iter()
            .zip(batch.schema_ref().fields())
            .map(|(array, field)| {
                Values::of(array).ok_or_else(|| WarehouseError::InvalidBatch {
                    dataset: layout.dataset.clone(),
                    reason: format!("the column `{}` has an unknown type", field.name()),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let rows = batch.num_rows();
        let (mut keys, mut contents) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut buffer = Vec::with_capacity(512);
        for row in 0..rows {
            buffer.clear();
            buffer.push(b'K');
            for column in layout.key.iter().map(|i| &values[*i]) {
                let null = column.is_null(row);
                buffer.push(u8::from(!null));
                if !null {
                    column.write(row, &mut buffer);
                }
            }
            keys.push(hash(&buffer));
            buffer.clear();
            buffer.push(b'C');
            for (position, column) in values.iter().enumerate().skip(1) {
                if !column.is_null(row) {
                    // A contract has at most 128 columns.
                    buffer.push(u8::try_from(position).unwrap_or(u8::MAX));
                    column.write(row, &mut buffer);
                }
            }
            contents.push(hash(&buffer));
        }
        let sequence: Vec<_> = layout.sequence.iter().map(|i| &values[*i]).collect();
        Ok(Self {
            keys,
            contents,
            sequences: sequences(&sequence, rows),
        })
    }
}

impl Fingerprints {
    /// The fingerprints of some rows, in the order given.
    pub fn take(&self, rows: &[u32]) -> Self {
        let width = self.sequences.width();
        let mut bytes = Vec::with_capacity(rows.len() * width);
        rows.iter()
            .for_each(|row| bytes.extend_from_slice(self.sequences.get(*row as usize)));
        Self {
            keys: rows.iter().map(|row| self.keys[*row as usize]).collect(),
            contents: rows
                .iter()
                .map(|row| self.contents[*row as usize])
                .collect(),
            sequences: Sequences::new(width, bytes),
        }
    }
}

fn sequences(columns: &[&Values<'_>], rows: usize) -> Sequences {
    let mut encoded = Vec::new();
    let mut ends = Vec::with_capacity(rows);
    for row in 0..rows {
        for column in columns {
            let null = column.is_null(row);
            encoded.push(u8::from(!null));
            if !null {
                column.write_ordered(row, &mut encoded);
            }
        }
        ends.push(encoded.len());
    }
    let starts = || std::iter::once(0).chain(ends.iter().copied());
    let width = starts()
        .zip(&ends)
        .map(|(start, end)| end - start)
        .max()
        .unwrap_or(0);
    if ends
        .iter()
        .enumerate()
        .all(|(row, end)| *end == (row + 1) * width)
    {
        return Sequences::new(width, encoded);
    }
    let mut bytes = vec![0; rows * width];
    for ((start, end), row) in starts().zip(&ends).zip(0..) {
        bytes[row * width..row * width + (end - start)].copy_from_slice(&encoded[start..*end]);
    }
    Sequences::new(width, bytes)
}

#[cfg(test)]
mod tests;
