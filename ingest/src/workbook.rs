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
//! A bare number in a column of days or times counts days (1 to 2,958,465); `20240506` is too great for that and is a
//! day as it stands.
//!
//! The library that reads cells believes what a workbook says of itself. So it is given a copy that holds only the
//! parts that are needed, each checked first: tags that fit each other, depth, length, count of strings and formats,
//! no DTD, a dimension that goes from a first to a last cell.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use calamine::{DataRef, Reader as _, SheetType, SheetVisible, Xlsx, XlsxError};
use chrono::{Days, NaiveDate};
use memchr::memmem;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    archive::{Archive, Entry, FileReader},
    error::{IngestError, Result},
    limits::Limits,
    reason::Reason,
    source::Part,
    spool::{self, Spool},
    xml::{self, Kind, Nesting, Step},
};

/// The most rows and columns of a sheet, as in every spreadsheet.
const MAX_ROWS: u32 = 1_048_576;
const MAX_COLUMNS: u32 = 16_384;
/// The most sheets that are shown.
const MAX_SHEETS: usize = 256;
/// The most texts that cells share.
const MAX_STRINGS: u64 = 4 << 20;
/// The most formats of cells.
const MAX_FORMATS: u64 = 1 << 16;
/// The most bytes of the shared texts, and of every other part but sheets.
const MAX_STRINGS_BYTES: u64 = 128 << 20;
const MAX_PART_BYTES: u64 = 16 << 20;
/// The longest text of one cell with its markup, in bytes. A cell holds 32,767 characters.
const MAX_CELL_BYTES: u64 = 1 << 20;
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

/// Writes the workbook `file`, known to people as `name`, as text.
pub(crate) fn write_text(
    file: File,
    name: &str,
    state_dir: &Path,
    limits: &Limits,
) -> Result<WorkbookText> {
    let mut archive = Archive::open(file, name, limits)?;
    let (checked, dates) = checked_copy(&mut archive, name, state_dir)?;
    let spool = Spool::new(state_dir, name, limits.archive_bytes)?;
    let mut writer = TextWriter {
        name,
        spool,
        parts: Vec::new(),
        dates,
        line: String::new(),
    };
    // What the library does not expect it may answer with a panic; that costs the file and not the process.
    let written = catch_unwind(AssertUnwindSafe(|| writer.write(checked)));
    written.unwrap_or_else(|_| Err(IngestError::workbook(name, "its parts are damaged".into())))?;
    let TextWriter { spool, parts, .. } = writer;
    Ok(WorkbookText {
        bytes: spool.bytes,
        text: spool.finish()?,
        parts,
        dates,
    })
}

/// Writes the rows of the sheets that are shown.
struct TextWriter<'a> {
    name: &'a str,
    spool: Spool,
    parts: Vec<Part>,
    dates: DateSystem,
    /// The row in hand.
    line: String,
}

impl TextWriter<'_> {
    fn write(&mut self, checked: File) -> Result<()> {
        let reader = BufReader::new(FileReader {
            file: checked,
            offset: 0,
        });
        let mut workbook = Xlsx::new(reader).map_err(|error| {
            let fault = match error {
                XlsxError::Password => "it is protected by a password",
                _ => "its parts do not fit together",
            };
            IngestError::workbook(self.name, fault.into())
        })?;
        let shown: Vec<String> = workbook
            .sheets_metadata()
            .iter()
            .filter(|sheet| {
                sheet.typ == SheetType::WorkSheet && sheet.visible == SheetVisible::Visible
            })
            .map(|sheet| sheet.name.clone())
            .collect();
        if shown.len() > MAX_SHEETS {
            let fault = format!("it shows {} sheets, the limit is {MAX_SHEETS}", shown.len());
            return Err(IngestError::workbook(self.name, fault));
        }
        shown
            .iter()
            .try_for_each(|sheet| self.sheet(&mut workbook, sheet))
    }

    fn sheet(&mut self, workbook: &mut Xlsx<BufReader<FileReader>>, sheet: &str) -> Result<()> {
        let (start, first_line) = (self.spool.bytes, self.spool.line);
        // Rows written so far, and the row in hand with the next free column.
        let (mut written, mut row, mut column) = (0, 0, 0);
        let name = self.name;
        let fault = |row: u32| {
            let at = row.saturating_add(1);
            IngestError::workbook(name, format!("the sheet `{sheet}` is damaged at row {at}"))
        };
        let mut cells = workbook
            .worksheet_cells_reader(sheet)
            .map_err(|_| fault(0))?;
        self.line.clear();
        while let Some(cell) = cells.next_cell().map_err(|_| fault(row))? {
            let (at_row, at_column) = cell.get_position();
            if at_row != row {
                self.end_row(&mut written, row)?;
                column = 0;
            }
            if at_row < row || at_column < column || at_row >= MAX_ROWS || at_column >= MAX_COLUMNS
            {
                return Err(fault(at_row));
            }
            row = at_row;
            let before = self.line.len();
            for _ in column..at_column {
                self.line.push('\t');
            }
            let tabs = self.line.len();
            write_cell(cell.get_value(), self.dates, &mut self.line);
            if self.line.len() == tabs {
                // An empty cell: its place is kept by the next one that is not.
                self.line.truncate(before);
            } else {
                self.line.push('\t');
                column = at_column + 1;
            }
        }
        self.end_row(&mut written, row)?;
        if self.spool.bytes > start {
            self.parts.push(Part {
                name: Some(Arc::from(sheet)),
                start,
                line: first_line,
            });
        }
        Ok(())
    }

    /// Writes the row in hand, if anything is in it, and the empty ones before it.
    fn end_row(&mut self, written: &mut u32, row: u32) -> Result<()> {
        // The tab behind the last cell.
        self.line.pop();
        if self.line.is_empty() {
            return Ok(());
        }
        for _ in *written..row {
            self.spool.write(b"\n")?;
        }
        self.line.push('\n');
        self.spool.write(self.line.as_bytes())?;
        self.line.clear();
        *written = row + 1;
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
        DataRef::DateTime(moment) => {
            if !moment.is_datetime() || write_moment(moment.as_f64(), dates, out).is_none() {
                write_number(moment.as_f64(), out);
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

/// Writes the day (and time, if it is not midnight) that a count of days stands for; none when it is no day.
fn write_moment(serial: f64, dates: DateSystem, out: &mut String) -> Option<()> {
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
    if chrono::Datelike::year(&day) > 9999 {
        return None;
    }
    let _ = write!(out, "{day}");
    if millis > 0 {
        let seconds = millis / 1000;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let _ = write!(out, " {hour:02}:{minute:02}:{second:02}");
        if millis % 1000 > 0 {
            let _ = write!(out, ".{:03}", millis % 1000);
        }
    }
    Some(())
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
        return write_moment(serial, dates, out).ok_or(Reason::BadDate);
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

/// What a part of a workbook is to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartKind {
    Sheet,
    Strings,
    Styles,
    /// The workbook, its theme, and how parts hang together.
    Frame,
    /// Pictures, drawings, properties: not needed.
    Other,
}

fn part_kind(name: &str) -> PartKind {
    let name = name.replace('\\', "/").to_ascii_lowercase();
    let file = name.rsplit('/').next().unwrap_or_default();
    if !(file.ends_with(".xml") || file.ends_with(".rels")) {
        return PartKind::Other;
    }
    match file {
        "sharedstrings.xml" => PartKind::Strings,
        "styles.xml" => PartKind::Styles,
        ".rels" => PartKind::Frame,
        _ if file.starts_with("workbook") => PartKind::Frame,
        _ if name.contains("worksheets/_rels/") => PartKind::Other,
        _ if name.contains("worksheets/") => PartKind::Sheet,
        _ if name.contains("theme/") && !file.ends_with(".rels") => PartKind::Frame,
        _ => PartKind::Other,
    }
}

/// Copies the parts that are needed, each checked, into a workbook that lies about nothing.
fn checked_copy(archive: &mut Archive, name: &str, state_dir: &Path) -> Result<(File, DateSystem)> {
    let failed = |error: std::io::Error| IngestError::io(format!("unpacking `{name}`"), error);
    let zip_failed = |error: zip::result::ZipError| failed(error.into());
    let mut copy = ZipWriter::new(BufWriter::new(spool::nameless(state_dir)?));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut dates = DateSystem::From1900;
    let entries: Vec<Entry> = archive.entries.clone();
    for entry in entries {
        let kind = part_kind(&entry.name);
        let most = match kind {
            PartKind::Other => continue,
            PartKind::Sheet => u64::MAX,
            PartKind::Strings => MAX_STRINGS_BYTES,
            PartKind::Styles | PartKind::Frame => MAX_PART_BYTES,
        };
        let refused =
            |fault: &str| IngestError::workbook(name, format!("its part `{}` {fault}", entry.name));
        if entry.bytes > most {
            return Err(refused(&format!("is longer than {most} bytes")));
        }
        copy.start_file(&*entry.name, stored).map_err(zip_failed)?;
        let mut check = PartCheck::new(kind);
        archive.unpack(&entry, |block| {
            check.take(block, false).map_err(refused)?;
            copy.write_all(block).map_err(failed)
        })?;
        check.take(&[], true).map_err(refused)?;
        if check.from_1904 {
            dates = DateSystem::From1904;
        }
    }
    let file = copy
        .finish()
        .map_err(zip_failed)?
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    Ok((file, dates))
}

/// Follows the tags of one part.
struct PartCheck {
    kind: PartKind,
    nesting: Nesting,
    /// What is not looked at yet.
    rest: Vec<u8>,
    /// Bytes since the last tag.
    text: u64,
    /// Texts or formats so far.
    count: u64,
    from_1904: bool,
}

impl PartCheck {
    fn new(kind: PartKind) -> Self {
        Self {
            kind,
            nesting: Nesting::default(),
            rest: Vec::new(),
            text: 0,
            count: 0,
            from_1904: false,
        }
    }

    /// Looks at the next block; `ended` says that it is the last.
    fn take(&mut self, block: &[u8], ended: bool) -> Result<(), &'static str> {
        let joined;
        let bytes = if self.rest.is_empty() {
            block
        } else {
            self.rest.extend_from_slice(block);
            joined = std::mem::take(&mut self.rest);
            &joined
        };
        let mut at = 0;
        while at < bytes.len() {
            match xml::step(&bytes[at..], ended, false) {
                Step::Token(kind, length) => {
                    self.token(kind, &bytes[at..at + length])?;
                    at += length;
                }
                Step::More => break,
                Step::Fault(Reason::DoctypeRefused) => return Err("has a DTD"),
                Step::Fault(Reason::RecordTooLong) => return Err("has a tag of more than 1 MiB"),
                Step::Fault(_) => return Err("is cut short or damaged"),
            }
        }
        self.rest = bytes[at..].to_vec();
        if ended && self.nesting.depth() > 0 {
            return Err("is cut short");
        }
        Ok(())
    }

    fn token(&mut self, kind: Kind, token: &[u8]) -> Result<(), &'static str> {
        self.text = if kind == Kind::Text {
            self.text.saturating_add(token.len() as u64)
        } else {
            0
        };
        if self.text > MAX_CELL_BYTES {
            return Err("has a text of more than 1 MiB");
        }
        let name = xml::name(token);
        let fits = match kind {
            Kind::Start => {
                self.tag(xml::local(name), token)?;
                self.nesting.open(name)
            }
            Kind::Empty => self.tag(xml::local(name), token).map(|()| Ok(()))?,
            Kind::End => self.nesting.close(name),
            Kind::Text | Kind::CData | Kind::Aside => Ok(()),
        };
        fits.map_err(|fault| match fault {
            Reason::TooDeep => "has elements too deep inside each other",
            _ => "has tags that do not fit each other",
        })
    }

    /// What tags claim.
    fn tag(&mut self, local: &[u8], token: &[u8]) -> Result<(), &'static str> {
        let (counted, most) = match self.kind {
            PartKind::Strings => (local == b"si", MAX_STRINGS),
            PartKind::Styles => (
                matches!(local, b"xf" | b"font" | b"fill" | b"border" | b"numFmt"),
                MAX_FORMATS,
            ),
            _ => (false, 0),
        };
        self.count += u64::from(counted);
        if counted && self.count > most {
            return Err("has too many texts or formats");
        }
        match (self.kind, local) {
            (PartKind::Strings, b"sst") => {
                let claimed = attribute(token, b"uniqueCount");
                let fine =
                    claimed.is_none_or(|text| number(text).is_some_and(|n| n <= MAX_STRINGS));
                fine.then_some(()).ok_or("claims more texts than any has")
            }
            (PartKind::Sheet, b"dimension") => {
                let fine = attribute(token, b"ref").is_none_or(is_area);
                fine.then_some(()).ok_or("claims an area that no sheet has")
            }
            (PartKind::Frame, b"workbookPr") => {
                let flag = attribute(token, b"date1904");
                self.from_1904 |= matches!(flag, Some(b"1" | b"true"));
                Ok(())
            }
            // A sheet must not be read as what it is not.
            (PartKind::Frame, b"Relationship")
                if memmem::find(token, b"officeDocument\"").is_some()
                    && memmem::find(token, b"worksheets").is_some() =>
            {
                Err("calls a sheet the workbook")
            }
            _ => Ok(()),
        }
    }
}

/// The value of an attribute of a tag, as it stands there.
fn attribute<'a>(tag: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = tag;
    while let Some(at) = memmem::find(rest, name) {
        let before = at.checked_sub(1).and_then(|i| rest.get(i));
        let after = &rest[at + name.len()..];
        let value = after.trim_ascii_start().strip_prefix(b"=");
        if before.is_some_and(|byte| xml::is_white(*byte))
            && let Some([quote @ (b'"' | b'\''), value @ ..]) = value.map(<[u8]>::trim_ascii_start)
        {
            return memchr::memchr(*quote, value).map(|end| &value[..end]);
        }
        rest = after;
    }
    None
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// Whether `text` names a cell, or a first and a last one.
fn is_area(text: &[u8]) -> bool {
    let mut cells = text.split(|byte| *byte == b':').map(cell_at);
    match (cells.next(), cells.next(), cells.next()) {
        (Some(Some(_)), None, None) => true,
        (Some(Some(first)), Some(Some(last)), None) => first.0 <= last.0 && first.1 <= last.1,
        _ => false,
    }
}

/// Column and row of a cell such as `AB12`.
fn cell_at(text: &[u8]) -> Option<(u32, u32)> {
    let letters = text
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    let (letters, digits) = text.split_at(letters);
    if !(1..=3).contains(&letters.len()) || !(1..=7).contains(&digits.len()) {
        return None;
    }
    let column = letters.iter().fold(0, |column, letter| {
        column * 26 + u32::from(letter.to_ascii_uppercase() - b'A') + 1
    });
    let row = number(digits).and_then(|row| u32::try_from(row).ok())?;
    ((1..=MAX_COLUMNS).contains(&column) && (1..=MAX_ROWS).contains(&row)).then_some((column, row))
}
