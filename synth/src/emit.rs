//! Writes the records of one feed into its monthly files and keeps the books.
//!
//! A record goes into the file of the month in which it became known, what comes of it later into a later file. Files
//! are made when the first record for them comes. Memory: one record and one buffer per file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use parking_lot::Mutex;
use qihui_catalog::FeedFormat;

use crate::calendar::{Span, add_days};
use crate::draw::Draw;
use crate::error::{Result, SynthError};
use crate::file::FeedFile;
use crate::manifest::{Expected, FeedManifest, FileManifest};
use crate::plan::{DateForm, Plan};
use crate::population::{Enterprise, spare_code};
use crate::row::{NUL_MARK, Row, WRONG_MARK};
use crate::ugly::{Kind, Outcome};

/// Longer than the longest field a hub takes by default (256 KiB), in bytes of UTF-8.
const OVERLONG_BYTES: usize = (256 << 10) + 3;
/// Overlong records are costly; a feed holds at most this many.
const OVERLONG_MOST: u32 = 8;
/// How often a source corrects a figure of its own accord, per million records.
const CORRECTIONS: u32 = 3_000;
/// How often a record is spelled differently from the rest of its source, per million.
const ODD_SPELLING: u32 = 30_000;

/// The folder that feeds are written to.
pub(crate) struct Output {
    folder: PathBuf,
    made: Mutex<Vec<PathBuf>>,
}

impl Output {
    /// Makes the folder, if it is not there.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|source| SynthError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            made: Mutex::new(Vec::new()),
        })
    }

    /// Makes a file; one that is there already is left alone.
    pub(crate) fn create(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.folder.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => {
                self.made.lock().push(path.clone());
                Ok((path, file))
            }
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                Err(SynthError::Exists { path })
            }
            Err(source) => Err(SynthError::Io {
                action: "create",
                path,
                source,
            }),
        }
    }

    /// Removes every file that was made: after a failure nothing half-written stays.
    pub(crate) fn discard(&self) {
        for path in self.made.lock().drain(..) {
            // What cannot be removed is found by its missing manifest.
            let _ = fs::remove_file(path);
        }
    }
}

/// What its source does to a record later, of its own accord.
#[derive(Clone, Copy)]
pub(crate) enum Sequel<'a> {
    None,
    /// It takes it back.
    TakenBack(NaiveDate),
    /// It sends a changed version.
    Changed(NaiveDate, &'a dyn Fn(&mut Row<'_>)),
}

impl Sequel<'_> {
    const fn date(&self) -> Option<NaiveDate> {
        match self {
            Self::None => None,
            Self::TakenBack(date) | Self::Changed(date, _) => Some(*date),
        }
    }
}

/// What is counted while a feed is written.
#[derive(Default)]
struct Books {
    expected: Expected,
    live: u64,
    duplicates: u64,
    corrections: u64,
    retractions: u64,
    ugly: BTreeMap<String, u64>,
}

/// Writes one feed.
pub(crate) struct Emitter<'p> {
    plan: &'p Plan,
    span: Span,
    output: &'p Output,
    ugly_per_million: u32,
    row: Row<'p>,
    files: Vec<Option<FeedFile<'p>>>,
    /// Files of each month that are full.
    done: Vec<Vec<FileManifest>>,
    books: Books,
    fate: Draw,
    spare: String,
    overlong: u32,
}

impl<'p> Emitter<'p> {
    pub(crate) fn new(
        plan: &'p Plan,
        span: Span,
        output: &'p Output,
        ugly_per_million: u32,
    ) -> Self {
        Self {
            plan,
            span,
            output,
            ugly_per_million,
            row: Row::new(plan),
            files: std::iter::repeat_with(|| None).take(span.files()).collect(),
            done: vec![Vec::new(); span.files()],
            books: Books::default(),
            fate: Draw::new(0, 0, 0),
            spare: String::new(),
            overlong: 0,
        }
    }

    /// Turns to the next enterprise; `fate` decides what becomes of its records.
    pub(crate) fn turn_to(&mut self, enterprise: &Enterprise, fate: Draw) -> Result<()> {
        self.fate = fate;
        self.spare = spare_code(enterprise)?.to_string();
        Ok(())
    }

    /// Begins a record.
    pub(crate) fn begin(&mut self) -> &mut Row<'p> {
        let mut habits = self.plan.habits;
        if self.fate.chance(ODD_SPELLING) {
            habits.date =
                *self
                    .fate
                    .pick(&[DateForm::Dashed, DateForm::Compact, DateForm::Slashed]);
            habits.null = *self.fate.pick::<&str>(&["", "N/A", "-", "无"]);
        }
        self.row.clear(habits);
        // Exchanges run from six in the morning to ten at night.
        self.row.clock = 21_600 + self.fate.below(57_600);
        &mut self.row
    }

    /// Begins another record of the message in hand: spelled and sent like the one before.
    pub(crate) fn go_on(&mut self) -> &mut Row<'p> {
        let habits = self.row.habits;
        self.row.clear(habits);
        &mut self.row
    }

    /// Finishes the record, which became known on `known`.
    pub(crate) fn finish(&mut self, known: NaiveDate, sequel: Sequel<'_>) -> Result<()> {
        self.check()?;
        let file = self.span.file_of(known);
        let ugly = self.fate.chance(self.ugly_per_million);
        let kind = if ugly {
            let possible = Kind::ALL.map(|kind| self.can(kind));
            Kind::draw(&mut self.fate, &possible)
        } else {
            None
        };
        match kind {
            Some(kind) => {
                *self.books.ugly.entry(kind.name().to_owned()).or_default() += 1;
                if kind.is_extra() {
                    self.intact(file)?;
                    let later = self.later(file);
                    self.extra(kind, file, later)
                } else {
                    self.defect(kind, file)
                }
            }
            None => {
                self.intact(file)?;
                let date = sequel
                    .date()
                    .filter(|date| *date <= self.span.end() && self.span.file_of(*date) > file);
                match (sequel, date) {
                    (Sequel::TakenBack(_), Some(date)) if self.can(Kind::Retraction) => {
                        return self.extra(Kind::Retraction, file, (self.span.file_of(date), date));
                    }
                    (Sequel::Changed(_, change), Some(date)) if self.can(Kind::Correction) => {
                        change(&mut self.row);
                        self.row.forget_figure();
                        return self.extra(Kind::Correction, file, (self.span.file_of(date), date));
                    }
                    _ => {}
                }
                if self.row.has_figure() && self.fate.chance(CORRECTIONS) {
                    let later = self.later(file);
                    return self.extra(Kind::Correction, file, later);
                }
                Ok(())
            }
        }
    }

    /// Refuses a record that does not fit the contract: the generator is out of step with the catalogue.
    fn check(&self) -> Result<()> {
        let wrong = self.row.unknown.or_else(|| self.row.missing());
        wrong.map_or(Ok(()), |column| {
            Err(SynthError::Column {
                dataset: self.plan.feed.dataset.to_string(),
                column: column.to_owned(),
            })
        })
    }

    /// Whether an ugliness can happen to the record.
    fn can(&self, kind: Kind) -> bool {
        let targets = &self.plan.targets;
        match kind {
            Kind::BadCheckDigit | Kind::BadSymbol | Kind::OldNumber | Kind::LowerCase => {
                targets.uscc.is_some()
            }
            // Spreadsheets write no such bytes and no cell so long.
            Kind::WrongBytes | Kind::Nul | Kind::Overlong
                if self.plan.feed.format == FeedFormat::Xlsx =>
            {
                false
            }
            Kind::WrongBytes | Kind::Nul => self.target(&targets.texts).is_some(),
            Kind::Overlong => {
                self.overlong < OVERLONG_MOST && self.target(&targets.texts).is_some()
            }
            Kind::BadDate => self.target(&targets.dates).is_some(),
            Kind::UnknownCode => self.target(&targets.codes).is_some(),
            Kind::Torn | Kind::Duplicate => true,
            Kind::Correction => !targets.sequence.is_empty(),
            Kind::Retraction => !targets.sequence.is_empty() && self.plan.feed.tombstone.is_some(),
            Kind::ChangedUscc => {
                targets.uscc.is_some() && !targets.sequence.is_empty() && targets.key_without_uscc
            }
        }
    }

    /// The first of some columns that holds a value.
    fn target(&self, columns: &[usize]) -> Option<usize> {
        columns.iter().copied().find(|index| self.row.holds(*index))
    }

    /// A later file, and a day in its month.
    fn later(&mut self, file: usize) -> (usize, NaiveDate) {
        let last = self.span.files() - 1;
        let later = (file + 1 + self.fate.below(2) as usize).min(last);
        let day = self.fate.between(0, 24);
        (later, add_days(self.span.file_month(later).day(1), day))
    }

    /// Writes the record as it is.
    fn intact(&mut self, file: usize) -> Result<()> {
        self.write(file, false, false)?;
        self.books.expected.landed += 1;
        self.books.live += 1;
        Ok(())
    }

    /// Writes the record with something wrong.
    fn defect(&mut self, kind: Kind, file: usize) -> Result<()> {
        let targets = &self.plan.targets;
        let text = self.target(&targets.texts);
        match kind {
            Kind::BadCheckDigit | Kind::BadSymbol | Kind::OldNumber | Kind::LowerCase => {
                self.spoil_code(kind)
            }
            Kind::WrongBytes => self.append(text, WRONG_MARK),
            Kind::Nul => self.append(text, NUL_MARK),
            Kind::Overlong => {
                self.overlong += 1;
                self.replace(text, &"长".repeat(OVERLONG_BYTES / 3));
            }
            Kind::BadDate => {
                let bad = *self.fate.pick(&[
                    "2025-02-30",
                    "20251301",
                    "2025/4/31",
                    "0000-00-00",
                    "2025年5月1日",
                ]);
                self.replace(self.target(&targets.dates), bad);
            }
            Kind::UnknownCode => self.replace(self.target(&targets.codes), "?7"),
            Kind::Torn
            | Kind::Duplicate
            | Kind::Correction
            | Kind::Retraction
            | Kind::ChangedUscc => {}
        }
        self.write(file, kind == Kind::Torn, true)?;
        self.book(kind);
        Ok(())
    }

    fn append(&mut self, target: Option<usize>, mark: char) {
        if let Some(index) = target {
            self.row.append(index, mark);
        }
    }

    fn replace(&mut self, target: Option<usize>, text: &str) {
        if let Some(index) = target {
            self.row.replace(index, text);
        }
    }

    fn spoil_code(&mut self, kind: Kind) {
        let Some(index) = self.plan.targets.uscc else {
            return;
        };
        let code = self.row.cell(index);
        let (head, last) = code.split_at(code.len().saturating_sub(1));
        let spoiled = match kind {
            Kind::BadCheckDigit => format!("{head}{}", if last == "7" { "8" } else { "7" }),
            Kind::BadSymbol => format!("{}O{}", &code[..9], &code[10..]),
            Kind::OldNumber => format!(
                "33{:013}",
                self.fate.between(100_000_000_000, 9_999_999_999_999)
            ),
            _ => format!("{} ", code.to_ascii_lowercase()),
        };
        self.row.replace(index, &spoiled);
    }

    /// Writes a record that follows an intact one.
    fn extra(&mut self, kind: Kind, file: usize, (later, date): (usize, NaiveDate)) -> Result<()> {
        match kind {
            Kind::Correction => {
                self.row.supersede(date);
                let per_cent = self.fate.between(-5, 9);
                self.row.change_figure(per_cent);
            }
            Kind::Retraction => {
                self.row.supersede(date);
                self.row.retract();
            }
            Kind::ChangedUscc => {
                self.row.supersede(date);
                let spare = std::mem::take(&mut self.spare);
                self.replace(self.plan.targets.uscc, &spare);
                self.spare = spare;
            }
            _ => {}
        }
        let into = if kind == Kind::Duplicate { file } else { later };
        self.write(into, false, kind == Kind::ChangedUscc)?;
        match kind {
            Kind::Duplicate => self.books.duplicates += 1,
            Kind::Correction => self.books.corrections += 1,
            Kind::Retraction => {
                self.books.retractions += 1;
                self.books.live -= 1;
            }
            _ => {}
        }
        self.book(kind);
        Ok(())
    }

    fn book(&mut self, kind: Kind) {
        let expected = &mut self.books.expected;
        match kind.outcome(self.plan.feed.format) {
            Outcome::Landed => {
                expected.landed += 1;
                self.books.live += u64::from(!kind.is_extra());
            }
            Outcome::Unchanged => expected.unchanged += 1,
            Outcome::Retracted => expected.retracted += 1,
            Outcome::Quarantined(reason) => {
                expected.quarantined += 1;
                *expected
                    .quarantined_by_reason
                    .entry(reason.to_owned())
                    .or_default() += 1;
            }
        }
    }

    /// Writes the record into a file; `alone` keeps it apart from records before and behind it.
    fn write(&mut self, file: usize, torn: bool, alone: bool) -> Result<()> {
        if self.files[file].as_ref().is_some_and(FeedFile::is_full)
            && let Some(full) = self.files[file].take()
        {
            self.done[file].push(full.close()?);
        }
        let open = match &mut self.files[file] {
            Some(open) => open,
            empty => {
                let part = self.done[file].len() + 1;
                let month = self.span.file_month(file);
                empty.insert(FeedFile::create(self.plan, self.output, file, month, part)?)
            }
        };
        open.put(&self.row, torn, alone)
    }

    /// Closes the files and says what was written.
    pub(crate) fn close(self) -> Result<FeedManifest> {
        let mut files = Vec::new();
        for (mut done, last) in self.done.into_iter().zip(self.files) {
            files.append(&mut done);
            if let Some(last) = last {
                files.push(last.close()?);
            }
        }
        let books = self.books;
        Ok(FeedManifest {
            feed: self.plan.feed.name.to_string(),
            dataset: self.plan.feed.dataset.to_string(),
            records: files.iter().map(|file| file.records).sum(),
            files,
            expected: books.expected,
            live: books.live,
            duplicates: books.duplicates,
            corrections: books.corrections,
            retractions: books.retractions,
            ugly_records: books.ugly.values().sum(),
            ugly: books.ugly,
        })
    }
}
