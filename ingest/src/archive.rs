//! Zip archives, opened only after they were looked at.
//!
//! Promises: what the directory claims is checked before anything is unpacked (how many entries, how large, how much
//! larger than the archive), and what comes out is checked against what was claimed; entries that share bytes, are
//! encrypted or have equal names are refused. No entry is ever written under a name of its own, so names lead nowhere.
//!
//! Limits: [`Limits::archive_entries`], [`Limits::archive_bytes`], [`MAX_RATIO`].

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use memchr::memmem;
use zip::{ZipArchive, result::ZipError};

use crate::{
    error::{IngestError, Result},
    limits::Limits,
};

/// How many times larger than the archive its content may be, where it is larger than [`ALWAYS_FINE_BYTES`].
/// XML of real feeds packs 10 to 60 times.
const MAX_RATIO: u64 = 250;
const ALWAYS_FINE_BYTES: u64 = 16 << 20;
/// How much is unpacked at a time, in bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// What every zip archive with an entry begins with.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";

/// Reads a file at an offset of its own, so that readers of one file do not move each other.
#[derive(Debug)]
pub(crate) struct FileReader {
    pub file: File,
    pub offset: u64,
}

impl Read for FileReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if i64::try_from(self.offset).is_err() {
            // Damaged archives point anywhere; behind the end of every file there is nothing.
            return Ok(0);
        }
        let read = self.file.read_at(to, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(offset) => (offset, 0),
            SeekFrom::Current(by) => (self.offset, by),
            SeekFrom::End(by) => (self.file.metadata()?.len(), by),
        };
        let offset = base.checked_add_signed(by);
        self.offset = offset.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.offset)
    }
}

/// One entry, as the directory describes it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub index: usize,
    pub name: String,
    pub bytes: u64,
}

/// A zip archive whose directory was checked.
pub(crate) struct Archive {
    zip: ZipArchive<BufReader<FileReader>>,
    name: String,
    /// Its entries, folders left out, in the order of the directory.
    pub entries: Vec<Entry>,
}

impl Archive {
    /// Opens the archive `file`, known to people as `name`.
    pub fn open(file: File, name: &str, limits: &Limits) -> Result<Self> {
        let refused = |fault: String| IngestError::archive(name, fault);
        let failed = |error| IngestError::io(format!("reading `{name}`"), error);
        let bytes = file.metadata().map_err(failed)?.len();
        let claimed = claimed_entries(&file, bytes).map_err(failed)?;
        match claimed {
            None => return Err(refused("it is cut short or no zip archive".into())),
            Some(claimed) => check_count(claimed, limits).map_err(refused)?,
        }
        let reader = BufReader::new(FileReader { file, offset: 0 });
        let unreadable = |error| zip_fault(name, error);
        let mut zip = ZipArchive::new(reader).map_err(unreadable)?;
        check_count(zip.len() as u64, limits).map_err(refused)?;
        if zip.has_duplicate_names() {
            return Err(refused("two of its entries have one name".into()));
        }
        if zip.has_overlapping_files().map_err(unreadable)? {
            return Err(refused("two of its entries share bytes".into()));
        }
        let mut entries = Vec::with_capacity(zip.len());
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(unreadable)?;
            if entry.encrypted() {
                return Err(refused("it is protected by a password".into()));
            }
            if entry.is_dir() {
                continue;
            }
            let name = entry.name().map_err(unreadable)?.into_owned();
            entries.push(Entry {
                index,
                name,
                bytes: entry.size(),
            });
        }
        let whole: u64 = entries
            .iter()
            .fold(0, |sum: u64, entry| sum.saturating_add(entry.bytes));
        check_size(whole, bytes, limits).map_err(refused)?;
        Ok(Self {
            zip,
            name: name.to_owned(),
            entries,
        })
    }

    /// Unpacks `entry` block by block, and checks that it is as long as it claims.
    pub fn unpack(
        &mut self,
        entry: &Entry,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let name = &self.name;
        let lies = || IngestError::archive(name, "an entry is not as long as it claims".into());
        let mut reader = self
            .zip
            .by_index(entry.index)
            .map_err(|error| zip_fault(name, error))?;
        let mut block = vec![0; BLOCK_BYTES];
        let mut left = entry.bytes;
        loop {
            match reader.read(&mut block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unpacking_failed(name, error)),
                Ok(0) if left == 0 => return Ok(()),
                Ok(0) => return Err(lies()),
                Ok(read) => {
                    left = left.checked_sub(read as u64).ok_or_else(lies)?;
                    take(&block[..read])?;
                }
            }
        }
    }
}

fn check_count(entries: u64, limits: &Limits) -> Result<(), String> {
    if entries > limits.archive_entries as u64 {
        return Err(format!(
            "it has {entries} entries, the limit is {}",
            limits.archive_entries
        ));
    }
    Ok(())
}

fn check_size(whole: u64, archive: u64, limits: &Limits) -> Result<(), String> {
    if whole > limits.archive_bytes {
        return Err(format!(
            "it unpacks to {whole} bytes, the limit is {}",
            limits.archive_bytes
        ));
    }
    if whole > ALWAYS_FINE_BYTES && whole / archive.max(1) > MAX_RATIO {
        return Err(format!(
            "it unpacks to more than {MAX_RATIO} times its own length"
        ));
    }
    Ok(())
}

fn zip_fault(name: &str, error: ZipError) -> IngestError {
    match error {
        ZipError::Io(error) => unpacking_failed(name, error),
        ZipError::UnsupportedArchive(_) => {
            IngestError::archive(name, "it is packed in a way that is not taken".into())
        }
        _ => IngestError::archive(name, "its directory is damaged".into()),
    }
}

/// Damage shows as an error of reading too; what the system says stays what it is.
fn unpacking_failed(name: &str, error: io::Error) -> IngestError {
    match error.raw_os_error() {
        Some(_) => IngestError::io(format!("reading `{name}`"), error),
        None => IngestError::archive(name, "an entry is damaged".into()),
    }
}

/// The most entries that an end of the archive claims: of several, a reader takes whichever it likes. None when there
/// is no such end. `bytes` is the length of the file.
fn claimed_entries(file: &File, bytes: u64) -> io::Result<Option<u64>> {
    const END: &[u8] = b"PK\x05\x06";
    const END_BYTES: usize = 22;
    const LONG_END: &[u8] = b"PK\x06\x06";
    const LOCATOR: &[u8] = b"PK\x06\x07";
    const LOCATOR_BYTES: usize = 20;
    const LONGEST_COMMENT: usize = 0xFFFF;
    let tail = bytes.min((END_BYTES + LONGEST_COMMENT + LOCATOR_BYTES) as u64);
    let mut end = vec![0; usize::try_from(tail).unwrap_or(0)];
    file.read_exact_at(&mut end, bytes - tail)?;
    let mut claimed = None;
    let whole = |count: &[u8]| {
        let bytes = count.iter().rev();
        bytes.fold(0_u64, |count, byte| count << 8 | u64::from(*byte))
    };
    for at in memmem::find_iter(&end, END) {
        let Some(count) = end.get(at + 10..at + 12) else {
            continue;
        };
        claimed = claimed.max(Some(whole(count)));
        let locator = at.checked_sub(LOCATOR_BYTES).map(|start| &end[start..at]);
        let Some(locator) = locator.filter(|locator| locator.starts_with(LOCATOR)) else {
            continue;
        };
        let mut count = [0; 8];
        let long_end = whole(&locator[8..16]).saturating_add(32);
        match file.read_exact_at(&mut count, long_end) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
            Ok(()) => claimed = claimed.max(Some(whole(&count))),
        }
    }
    if claimed.is_some() {
        // A long end may also stand where no locator points, before an archive that begins late.
        for at in memmem::find_iter(&end, LONG_END) {
            claimed = claimed.max(end.get(at + 32..at + 40).map(whole));
        }
    }
    Ok(claimed)
}
