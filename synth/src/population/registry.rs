//! A given registry as population: a CSV file with the columns of an enterprise register.
//!
//! Promises: rows whose USCC is not valid after trimming and upper-casing are skipped and counted, as are rows that
//! repeat a USCC; the rest keep their order. Memory: one row, and eight bytes per enterprise to find repetitions.
//! Limits: a row has at most [`ROW_BYTES`], the registry at most [`MAX_ROWS`] rows.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::NaiveDate;
use csv_core::{ReadRecordResult, Reader};
use qihui_catalog::Uscc;

use crate::error::{Result, SynthError};
use crate::population::Registered;

/// The longest row.
pub(crate) const ROW_BYTES: usize = 1 << 20;
/// The most rows.
pub(crate) const MAX_ROWS: u64 = crate::MAX_ENTERPRISES as u64;
const MAX_FIELDS: usize = 256;

/// A registry that has been looked through once.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    path: PathBuf,
    places: Places,
    repeated: Arc<HashSet<u64>>,
    /// Rows that can be taken.
    pub(crate) usable: u64,
    /// Rows without a valid or with a repeated USCC.
    pub(crate) skipped: u64,
}

/// Where the columns stand.
#[derive(Debug, Clone, Copy)]
struct Places {
    uscc: usize,
    name: usize,
    established: usize,
    capital: Option<usize>,
    currency: Option<usize>,
    scope: Option<usize>,
}

impl Registry {
    /// Reads the whole file once, to find out which rows can be taken.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut rows = Rows::open(path)?;
        let places = Places::find(path, &mut rows)?;
        let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
        let (mut usable, mut skipped) = (0, 0);
        while rows.next()? {
            if rows.number > MAX_ROWS {
                return Err(SynthError::Option {
                    option: "--registry",
                    range: "a table of at most 10000000 rows",
                });
            }
            match Uscc::normalise(rows.field(places.uscc)) {
                Ok(uscc) if seen.insert(fingerprint(uscc)) => usable += 1,
                Ok(_) => {
                    repeated.insert(rows.number);
                    skipped += 1;
                }
                Err(_) => skipped += 1,
            }
        }
        Ok(Self {
            path: path.to_owned(),
            places,
            repeated: Arc::new(repeated),
            usable,
            skipped,
        })
    }

    /// Hands over the usable rows in order, until `each` says stop (`false`).
    pub(crate) fn each(&self, mut each: impl FnMut(u64, Registered) -> Result<bool>) -> Result<()> {
        let mut rows = Rows::open(&self.path)?;
        rows.next()?;
        rows.number = 0;
        let mut index = 0;
        while rows.next()? {
            let Ok(uscc) = Uscc::normalise(rows.field(self.places.uscc)) else {
                continue;
            };
            if self.repeated.contains(&rows.number) {
                continue;
            }
            if !each(index, self.places.take(&rows, uscc))? {
                break;
            }
            index += 1;
        }
        Ok(())
    }
}

/// Eight bytes that differ for different codes, but for a negligible chance: what the division and serial make.
fn fingerprint(uscc: Uscc) -> u64 {
    uscc.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

impl Places {
    fn find(path: &Path, rows: &mut Rows) -> Result<Self> {
        rows.next()?;
        rows.number = 0;
        let place = |name: &str| {
            (0..rows.count())
                .find(|index| rows.field(*index).trim_start_matches('\u{feff}') == name)
        };
        let needed = |column: &'static str| {
            place(column).ok_or_else(|| SynthError::RegistryColumn {
                path: path.to_owned(),
                column,
            })
        };
        Ok(Self {
            uscc: needed("uscc")?,
            name: needed("ent_name")?,
            established: needed("est_date")?,
            capital: place("reg_capital_wan"),
            currency: place("reg_capital_currency"),
            scope: place("business_scope"),
        })
    }

    fn take(self, rows: &Rows, uscc: Uscc) -> Registered {
        let text = |place: Option<usize>| place.map_or("", |index| rows.field(index)).trim();
        let currency = text(self.currency);
        Registered {
            uscc,
            name: text(Some(self.name)).to_owned(),
            established: text(Some(self.established)).parse::<NaiveDate>().ok(),
            capital: wan(text(self.capital)),
            currency: if currency.is_empty() {
                "CNY".to_owned()
            } else {
                currency.to_owned()
            },
            scope: text(self.scope).to_owned(),
        }
    }
}

/// An amount in 万 as a count of 10^-4 万.
fn wan(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("0000".chars()).take(4).collect();
    let whole: i64 = whole
        .parse()
        .ok()
        .filter(|value| (0..=900_000_000).contains(value))?;
    Some(whole * 10_000 + digits.parse::<i64>().ok()?)
}

/// Rows of a CSV file with bounded memory.
struct Rows {
    path: PathBuf,
    input: BufReader<File>,
    reader: Reader,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    fields: usize,
    text: String,
    bounds: Vec<usize>,
    number: u64,
}

impl Rows {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| SynthError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            input: BufReader::with_capacity(1 << 16, file),
            reader: Reader::new(),
            bytes: vec![0; 1 << 14],
            ends: vec![0; MAX_FIELDS],
            fields: 0,
            text: String::new(),
            bounds: Vec::new(),
            number: 0,
        })
    }

    /// Moves to the next row; `false` at the end.
    fn next(&mut self) -> Result<bool> {
        let (mut used, mut ended) = (0, 0);
        loop {
            let input = self.input.fill_buf().map_err(|source| SynthError::Io {
                action: "read",
                path: self.path.clone(),
                source,
            })?;
            let (result, read, written, ends) =
                self.reader
                    .read_record(input, &mut self.bytes[used..], &mut self.ends[ended..]);
            self.input.consume(read);
            used += written;
            ended += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.bytes.len() < ROW_BYTES => {
                    let longer = self.bytes.len() * 2;
                    self.bytes.resize(longer, 0);
                }
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err(SynthError::RegistryRow {
                        path: self.path.clone(),
                        row: self.number + 1,
                        limit: ROW_BYTES,
                    });
                }
                ReadRecordResult::Record => {
                    self.number += 1;
                    self.keep(ended);
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    /// Decodes the fields of the row just read.
    fn keep(&mut self, fields: usize) {
        self.fields = fields;
        self.text.clear();
        self.bounds.clear();
        let mut start = 0;
        for end in &self.ends[..fields] {
            self.text
                .push_str(&String::from_utf8_lossy(&self.bytes[start..*end]));
            self.bounds.push(self.text.len());
            start = *end;
        }
    }

    const fn count(&self) -> usize {
        self.fields
    }

    /// A field of the row, empty when there is none.
    fn field(&self, index: usize) -> &str {
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.bounds.get(before).copied().unwrap_or(0));
        let end = self.bounds.get(index).copied().unwrap_or(start);
        self.text.get(start..end).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_in_wan() {
        assert_eq!(wan("130192.3953"), Some(1_301_923_953));
        assert_eq!(wan("50"), Some(500_000));
        assert_eq!(wan("0.5"), Some(5_000));
        assert_eq!(wan(""), None);
        assert_eq!(wan("500(万美元)"), None);
        assert_eq!(wan("-3"), None);
    }
}
