//! The caps on everything a source can make large (ING-3).

use crate::{IngestError, error::Result};

/// Caps on records and chunks. Whatever a source holds, memory stays within a small multiple of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest record, line ends not counted, in bytes.
    pub record_bytes: usize,
    /// The longest field, after decoding to UTF-8, in bytes.
    pub field_bytes: usize,
    /// The most columns of a CSV file or a sheet, or keys of a JSON object.
    pub columns: usize,
    /// The longest message of several records, in bytes.
    pub message_bytes: usize,
    /// The most bytes that an archive or a workbook unpacks to.
    pub archive_bytes: u64,
    /// The most entries of an archive or a workbook.
    pub archive_entries: usize,
    /// The most records of one run.
    pub chunk_rows: usize,
    /// The most bytes of source that one run reads, and the most that it would keep of its records if none of them could
    /// land (one record or message more may be read).
    pub chunk_bytes: usize,
    /// How much of a quarantined record is kept, in bytes; its length and hash always are.
    pub kept_bytes: usize,
}

impl Limits {
    /// The limits of a hub without other configuration.
    ///
    /// A chunk of a quarter million records lets the reader and the table work at the same time on files of a
    /// million, keeps two chunks and their sorted copy well under 1 GiB, and makes files of a useful size.
    pub const DEFAULT: Self = Self {
        record_bytes: 1 << 20,
        field_bytes: 256 << 10,
        columns: 512,
        message_bytes: 4 << 20,
        archive_bytes: 2 << 30,
        archive_entries: 10_000,
        chunk_rows: 262_144,
        chunk_bytes: 128 << 20,
        kept_bytes: 64 << 10,
    };

    /// Refuses limits that cannot work.
    pub fn check(&self) -> Result<()> {
        const MAX: usize = 1 << 30;
        let rules = [
            ("record_bytes", self.record_bytes, 64, 64 << 20),
            (
                "field_bytes",
                self.field_bytes,
                32,
                self.record_bytes.saturating_mul(3),
            ),
            ("columns", self.columns, 1, 4096),
            ("message_bytes", self.message_bytes, 1 << 10, 64 << 20),
            (
                "archive_bytes",
                usize::try_from(self.archive_bytes).unwrap_or(usize::MAX),
                1 << 10,
                4095 << 20,
            ),
            ("archive_entries", self.archive_entries, 1, 65_535),
            ("chunk_rows", self.chunk_rows, 1, 1 << 24),
            ("chunk_bytes", self.chunk_bytes, 1, MAX),
            ("kept_bytes", self.kept_bytes, 0, self.record_bytes),
        ];
        for (limit, value, least, most) in rules {
            let reason = match value {
                v if v < least => "it is too small to read any record",
                v if v > most => "it would no longer bound memory",
                _ => continue,
            };
            return Err(IngestError::BadLimit {
                limit,
                value: value as u64,
                reason,
            });
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
