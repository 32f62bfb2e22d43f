//! Workbooks (xlsx) as lines of text.
//!
//! A workbook is checked, then written down row by row in a text form that is read like any file: one line a row, so
//! that the line of a record is its row; cells between tabs; no line for a hidden sheet. Promises: the same workbook
//! gives the same text; memory holds one row and the shared strings, whatever the workbook claims; a workbook that
//! lies, is cut short or damaged is refused as a whole, before any of its rows is taken.
//!
//! The text of a cell:
//!
//! | cell | written as |
//! |---|---|
//! | nothing, or only white space | nothing; nothing at all behind the last cell of a row |
//! | text | itself; with `'` before it when it begins with a digit, a sign, `.`, `#` or `'`; tab, line end and `\` as `\t`, `\n`, `\r`, `\\` |
//! | number | with the 15 digits that spreadsheets keep; from 10^15 on with an exponent, because the digits behind are lost |
//! | number shown as a day or time | `2024-05-06`, `2024-05-06 10:00:00`, in the date system of the workbook |
//! | true, false | `TRUE`, `FALSE` |
//! | error | `#REF!` and the like |
//! | formula | the value that was kept with it |
//!
//! A bare number in a column of days or times counts days; `20240506` is too great for that and is a day as it stands.
//! Where a cell does not show its number as a day, the number has to be one of a plausible day ([`PLAUSIBLE_YEARS`]):
//! `202405` is a month that somebody wrote as a number, and no day of the year 2454.
//!
//! The library that reads cells believes what a workbook says of itself. So it is given a copy that holds nothing but
//! cells ([`crate::workbook_parts`]).

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::File,
    io::BufReader,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use calamine::{DataRef, Reader as _, Xlsx};
use chrono::{Datelike as _, Days, NaiveDate};

use crate::{
    archive::{Archive, FileReader},
    error::{IngestError, Result},
    limits::Limits,
    reason::Reason,
    source::Part,
    spool::Spool,
    workbook_parts,
};

/// The form of the text that is written here. Whoever changes what stands for a workbook counts it up: a reading that
/// was begun with another form is not continued.
pub(crate) const TEXT_FORM: u32 = 2;
/// The most rows and columns of a sheet, as in every spreadsheet.
pub(crate) const MAX_ROWS: u32 = 1_048_576;
pub(crate) const MAX_COLUMNS: u32 = 16_384;
/// How much of a row is held before it is written, in bytes; one cell comes on top.
const HELD_BYTES: usize = 256 << 10;
/// The years of days that are written as bare numbers.
const PLAUSIBLE_YEARS: std::ops::Range<i32> = 1950..2100;
/// The last day that spreadsheets know, 9999-12-31, counted from 1900.
const LAST_DAY: f64 = 2_958_465.0;
/// From here on a number has lost digits.
const LOSSY: f64 = 1e15;

/// From when days are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DateSystem {
    /// Day 1 is 1900-01-01, and 1900 has a 29 February that never was.
    From1900,
    /// Day 0 is 1904-01-01.
    From1904,
}

/// The text form of a workbook.
pub(crate) struct WorkbookText {
    pub text: File,
    pub bytes: u64,
    /// The sheets that hold anything, with their names.
    pub parts: Vec<Part>,
    pub dates: DateSystem,
}

/// Writes the workbook `file`, known to people as `name`, as text: the sheets named `wanted`, or all that are shown.
pub(crate) fn write_text(
    file: File,
    name: &str,
    wanted: &BTreeSet<String>,
    state_dir: &Path,
    limits: &Limits,
) -> Result<WorkbookText> {
    let mut archive = Archive::open(file, name, limits)?;
    let copy = workbook_parts::copy(&mut archive, name, wanted, state_dir)?;
    let mut writer = TextWriter {
        name,
        spool: Spool::new(state_dir, name, limits.archive_bytes)?,
        parts: Vec::new(),
        dates: copy.dates,
        row: Row::default(),
        cell: String::new(),
    };
    // What the library does not expect it may answer with a panic; that costs the file and not the process.
    let written = catch_unwind(AssertUnwindSafe(|| writer.write(copy.file, &copy.sheets)));
    written.unwrap_or_else(|_| Err(IngestError::workbook(name, "its parts are damaged".into())))?;
    let TextWriter {
        spool,
        parts,
        dates,
        ..
    } = writer;
    Ok(WorkbookText {
        bytes: spool.bytes,
        text: spool.finish()?,
        parts,
        dates,
    })
}

/// Writes the rows of the sheets.
struct TextWriter<'a> {
    name: &'a str,
    spool: Spool,
    parts: Vec<Part>,
    dates: DateSystem,
    row: Row,
    /// The text of the cell in hand.
    cell: String,
}

/// The row in hand.
#[derive(Default)]
struct Row {
    number: u32,
    /// The column of the last cell that holds anything.
    column: u32,
    /// What is not written yet.
    text: String,
    /// Whether a part of it is written.
    begun: bool,
    /// How many rows of the sheet are written.
    before: u32,
}

impl TextWriter<'_> {
    fn write(&mut self, copy: File, sheets: &[String]) -> Result<()> {
        let reader = BufReader::new(FileReader {
            file: copy,
            offset: 0,
        });
        let damaged =
            |_| IngestError::workbook(self.name, "its parts do not fit together".to_owned());
        let mut workbook = Xlsx::new(reader).map_err(damaged)?;
        (1..)
            .zip(sheets)
            .try_for_each(|(number, sheet)| self.sheet(&mut workbook, number, sheet))
    }

    fn sheet(
        &mut self,
        workbook: &mut Xlsx<BufReader<FileReader>>,
        number: u32,
        sheet: &str,
    ) -> Result<()> {
        let (start, first_line) = (self.spool.bytes, self.spool.line);
        let name = self.name;
        let fault = |row: u32| {
            let at = row.saturating_add(1);
            IngestError::workbook(name, format!("the sheet `{sheet}` is damaged at row {at}"))
        };
        let mut cells = workbook
            .worksheet_cells_reader(&number.to_string())
            .map_err(|_| fault(0))?;
        self.row = Row::default();
        // The first column that is free.
        let mut free = 0;
        while let Some(cell) = cells.next_cell().map_err(|_| fault(self.row.number))? {
            let (row, column) = cell.get_position();
            if row > self.row.number {
                self.end_row(row)?;
                free = 0;
            }
            if row < self.row.number || column < free || row >= MAX_ROWS || column >= MAX_COLUMNS {
                return Err(fault(row));
            }
            self.cell.clear();
            write_cell(cell.get_value(), self.dates, &mut self.cell);
            if !self.cell.is_empty() {
                self.add_cell(column)?;
                free = column + 1;
            }
        }
        self.end_row(0)?;
        if self.spool.bytes > start {
            self.parts.push(Part {
                name: Some(Arc::from(sheet)),
                start,
                line: first_line,
            });
        }
        Ok(())
    }

    /// Adds the cell in hand to its row, behind the tabs of the columns before it.
    fn add_cell(&mut self, column: u32) -> Result<()> {
        for _ in self.row.column..column {
            self.row.text.push('\t');
        }
        self.row.column = column;
        self.row.text.push_str(&self.cell);
        if self.row.text.len() > HELD_BYTES {
            self.write_row()?;
        }
        Ok(())
    }

    /// Writes what is held of the row in hand, and the empty rows before it.
    fn write_row(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.row.begun, true) {
            for _ in self.row.before..self.row.number {
                self.spool.write(b"\n")?;
            }
        }
        self.spool.write(self.row.text.as_bytes())?;
        self.row.text.clear();
        Ok(())
    }

    /// Ends the row in hand, if anything is in it, and goes on with row number `next`.
    fn end_row(&mut self, next: u32) -> Result<()> {
        if self.row.begun || !self.row.text.is_empty() {
            self.row.text.push('\n');
            self.write_row()?;
            self.row.before = self.row.number + 1;
        }
        self.row.begun = false;
        self.row.column = 0;
        self.row.number = next;
        Ok(())
    }
}

/// Writes the text of a cell.
fn write_cell(value: &DataRef<'_>, dates: DateSystem, out: &mut String) {
    match value {
        DataRef::Empty => {}
        DataRef::String(text) => write_text_cell(text, out),
        DataRef::SharedString(text) => write_text_cell(text, out),
        DataRef::Int(number) => {
            let _ = write!(out, "{number}");
        }
        DataRef::Float(number) => write_number(*number, out),
        DataRef::Bool(flag) => out.push_str(if *flag { "TRUE" } else { "FALSE" }),
        DataRef::DateTime(serial) => {
            let shown = serial.is_datetime().then(|| moment(serial.as_f64(), dates));
            match shown.flatten() {
                Some(moment) => write_moment(moment, out),
                None => write_number(serial.as_f64(), out),
            }
        }
        DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => escape(text, out),
        DataRef::Error(error) => {
            let text = error.to_string();
            out.push_str(if text.starts_with('#') {
                &text
            } else {
                "#ERROR!"
            });
        }
    }
}

fn write_text_cell(text: &str, out: &mut String) {
    let text = crate::value::trim(text);
    if matches!(
        text.as_bytes().first(),
        Some(b'0'..=b'9' | b'+' | b'-' | b'.' | b'#' | b'\'')
    ) {
        out.push('\'');
    }
    escape(text, out);
}

fn escape(text: &str, out: &mut String) {
    if !text
        .bytes()
        .any(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b'\\'))
    {
        out.push_str(text);
        return;
    }
    for character in text.chars() {
        match character {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            other => out.push(other),
        }
    }
}

/// Writes a number with 15 digits, as spreadsheets show it.
fn write_number(number: f64, out: &mut String) {
    let start = out.len();
    let size = number.abs();
    if number == 0.0 || (1e-9..LOSSY).contains(&size) {
        // The shortest text that stands for the number; nearly always it has no more digits than count.
        let _ = write!(out, "{}", if number == 0.0 { 0.0 } else { number });
        let digits = out[start..].bytes().filter(u8::is_ascii_digit).count();
        if digits <= 15 {
            return;
        }
        out.truncate(start);
    }
    let text = format!("{number:.14e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        out.push_str("#NUM!");
        return;
    };
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    match exponent.parse::<i32>() {
        Ok(exponent) if (-9..15).contains(&exponent) => positional(mantissa, exponent, out),
        _ => {
            let _ = write!(out, "{mantissa}E{exponent}");
        }
    }
}

/// Writes `mantissa` × 10^`exponent` without an exponent; the mantissa has one digit before its point.
fn positional(mantissa: &str, exponent: i32, out: &mut String) {
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    out.push_str(sign);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    match usize::try_from(exponent) {
        Ok(exponent) if digits.len() > exponent + 1 => {
            out.push_str(&digits[..=exponent]);
            out.push('.');
            out.push_str(&digits[exponent + 1..]);
        }
        Ok(exponent) => {
            let width = exponent + 1;
            let _ = write!(out, "{digits:0<width$}");
        }
        Err(_) => {
            let zeros = usize::try_from(-1 - exponent).unwrap_or(0);
            let _ = write!(out, "0.{:0<zeros$}{digits}", "");
        }
    }
}

/// The day and the milliseconds of it that a count of days stands for; none when it is no day.
fn moment(serial: f64, dates: DateSystem) -> Option<(NaiveDate, u32)> {
    const DAY_MS: u32 = 86_400_000;
    if !(0.0..=LAST_DAY + 1.0).contains(&serial) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be between 0 and three million"
    )]
    let (mut days, mut millis) = (
        serial.floor() as u64,
        (serial.fract() * f64::from(DAY_MS)).round() as u32,
    );
    if millis == DAY_MS {
        (days, millis) = (days + 1, 0);
    }
    let epoch = match (dates, days) {
        (DateSystem::From1904, _) => NaiveDate::from_ymd_opt(1904, 1, 1),
        (DateSystem::From1900, 0 | 60) => None,
        (DateSystem::From1900, 1..60) => NaiveDate::from_ymd_opt(1899, 12, 31),
        (DateSystem::From1900, _) => NaiveDate::from_ymd_opt(1899, 12, 30),
    };
    let day = epoch?.checked_add_days(Days::new(days))?;
    (day.year() <= 9999).then_some((day, millis))
}

/// Writes a day, and its time if it is not midnight.
fn write_moment((day, millis): (NaiveDate, u32), out: &mut String) {
    let _ = write!(out, "{day}");
    if millis > 0 {
        let seconds = millis / 1000;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let _ = write!(out, " {hour:02}:{minute:02}:{second:02}");
        if millis % 1000 > 0 {
            let _ = write!(out, ".{:03}", millis % 1000);
        }
    }
}

/// The cells of a line.
pub(crate) fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split('\t')
}

/// Reads the text form of a cell. With a date system, the column holds days or times.
pub(crate) fn read_cell(
    cell: &str,
    dates: Option<DateSystem>,
    out: &mut String,
) -> Result<(), Reason> {
    if let Some(text) = cell.strip_prefix('\'') {
        unescape(text, out);
        return Ok(());
    }
    if cell.starts_with('#') {
        return Err(Reason::CellError);
    }
    if let Some(dates) = dates
        && let Ok(serial) = cell.parse::<f64>()
        && serial.abs() <= LAST_DAY + 1.0
    {
        let moment = moment(serial, dates).filter(|(day, _)| PLAUSIBLE_YEARS.contains(&day.year()));
        write_moment(moment.ok_or(Reason::BadDate)?, out);
        return Ok(());
    }
    unescape(cell, out);
    Ok(())
}

fn unescape(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut characters = after.chars();
        match characters.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some(other) => out.push(other),
            None => {}
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
}
