//! One record under construction, cell by cell, in the words of its source.

use std::fmt::Write;

use chrono::{Datelike, NaiveDate};
use qihui_catalog::{ColumnType, FeedFormat, Unit};

use crate::plan::{DateForm, Habits, Plan};

/// Stands for a NUL byte until the record is encoded. Never occurs in invented text.
pub(crate) const NUL_MARK: char = '\u{1}';
/// Stands for a byte that no encoding allows until the record is encoded.
pub(crate) const WRONG_MARK: char = '\u{2}';

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Unset,
    Null,
    Text,
    /// May be written without quotes in JSON, and as a number in a workbook.
    Bare,
    /// A day or time, written as such in a workbook: days since 1899-12-30.
    Moment(f64),
}

#[derive(Debug, Clone)]
struct Cell {
    text: String,
    state: State,
}

/// A cell of a workbook.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SheetCell<'r> {
    Empty,
    Text(&'r str),
    Number(f64),
    /// Days since 1899-12-30.
    Moment(f64),
}

/// One record under construction.
#[derive(Debug, Clone)]
pub(crate) struct Row<'p> {
    plan: &'p Plan,
    cells: Vec<Cell>,
    /// Generators set columns in the contract's order, so the next one is usually here.
    next: usize,
    /// Spellings of this record.
    pub(crate) habits: Habits,
    /// Whether an amount is followed by its unit in words.
    pub(crate) wordy: bool,
    /// Second of the day that times of this record bear.
    pub(crate) clock: u32,
    /// The amount, in fen, that a correction changes.
    figure: Option<(usize, i64)>,
    retracted: bool,
    /// A column that the contract does not have was set.
    pub(crate) unknown: Option<&'static str>,
}

impl<'p> Row<'p> {
    pub(crate) fn new(plan: &'p Plan) -> Self {
        Self {
            plan,
            cells: vec![
                Cell {
                    text: String::new(),
                    state: State::Unset
                };
                plan.columns.len()
            ],
            next: 0,
            habits: plan.habits,
            wordy: false,
            clock: 0,
            figure: None,
            retracted: false,
            unknown: None,
        }
    }

    /// Begins a new record.
    pub(crate) fn clear(&mut self, habits: Habits) {
        for cell in &mut self.cells {
            cell.state = State::Unset;
        }
        self.next = 0;
        self.habits = habits;
        self.wordy = false;
        self.figure = None;
        self.retracted = false;
    }

    fn place(&mut self, name: &'static str) -> Option<usize> {
        let is = |index: &usize| {
            self.plan
                .columns
                .get(*index)
                .is_some_and(|column| column.name == name)
        };
        let found = Some(self.next)
            .filter(is)
            .or_else(|| (0..self.plan.columns.len()).find(is));
        match found {
            Some(index) => self.next = index + 1,
            None => self.unknown = Some(name),
        }
        found
    }

    fn put(&mut self, index: usize, state: State) -> &mut String {
        let cell = &mut self.cells[index];
        cell.state = state;
        cell.text.clear();
        &mut cell.text
    }

    /// Sets a text; an empty one is null.
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        if let Some(index) = self.place(name) {
            self.put(
                index,
                if text.is_empty() {
                    State::Null
                } else {
                    State::Text
                },
            )
            .push_str(text);
        }
    }

    /// Sets a whole number.
    pub(crate) fn number(&mut self, name: &'static str, number: i64) {
        if let Some(index) = self.place(name) {
            let _ = write!(self.put(index, State::Bare), "{number}");
        }
    }

    /// Sets a date, or null.
    pub(crate) fn date(&mut self, name: &'static str, date: Option<NaiveDate>) {
        if let Some(index) = self.place(name) {
            self.put_date(index, date);
        }
    }

    fn put_date(&mut self, index: usize, date: Option<NaiveDate>) {
        let Some(date) = date else {
            self.put(index, State::Null);
            return;
        };
        let form = self.habits.date;
        let time = self.plan.columns[index].ty == ColumnType::Timestamp;
        let clock = self.clock;
        // Who types days as text spells them in a way of their own.
        let moment = self.plan.feed.format == FeedFormat::Xlsx && form == self.plan.habits.date;
        let state = if moment {
            State::Moment(serial(date, time.then_some(clock)))
        } else {
            State::Text
        };
        let text = self.put(index, state);
        let year = u32::try_from(date.year()).unwrap_or(0);
        let (month, day) = (date.month(), date.day());
        let separator = match form {
            DateForm::Dashed => "-",
            DateForm::Compact => "",
            DateForm::Slashed => "/",
        };
        let width = if form == DateForm::Slashed { 1 } else { 2 };
        digits(text, year, 4);
        text.push_str(separator);
        digits(text, month, width);
        text.push_str(separator);
        digits(text, day, width);
        if time {
            let (gap, colon) = if form == DateForm::Compact {
                ("", "")
            } else {
                (" ", ":")
            };
            text.push_str(gap);
            digits(text, clock / 3600 % 24, 2);
            text.push_str(colon);
            digits(text, clock / 60 % 60, 2);
            text.push_str(colon);
            digits(text, clock % 60, 2);
        }
    }

    /// Sets yes or no.
    pub(crate) fn flag(&mut self, name: &'static str, flag: bool) {
        if let Some(index) = self.place(name) {
            let word = if flag {
                self.habits.yes
            } else {
                self.habits.no
            };
            self.put(index, State::Text).push_str(word);
        }
    }

    /// Sets an amount of money given in fen, in the unit that the source writes.
    pub(crate) fn amount(&mut self, name: &'static str, fen: i64) {
        if let Some(index) = self.place(name) {
            self.put_amount(index, fen);
        }
    }

    /// Like [`Row::amount`]; a correction changes this one.
    pub(crate) fn figure(&mut self, name: &'static str, fen: i64) {
        if let Some(index) = self.place(name) {
            self.put_amount(index, fen);
            self.figure = Some((index, fen));
        }
    }

    fn put_amount(&mut self, index: usize, fen: i64) {
        let column = &self.plan.columns[index];
        let scale = column.ty.scale().unwrap_or(2);
        let stored_places = if column.stored_in == Unit::TenThousand {
            6
        } else {
            2
        };
        // What the stored scale cannot hold is not written either.
        let grain = 10_i64.pow(u32::saturating_sub(stored_places, scale));
        let fen = fen / grain * grain;
        let places = if column.written_in == Unit::TenThousand {
            6
        } else {
            2
        };
        let written_in = column.written_in;
        let wordy = self.wordy;
        let text = self.put(index, if wordy { State::Text } else { State::Bare });
        decimal(text, i128::from(fen), places, 0);
        if wordy {
            text.push_str(if written_in == Unit::TenThousand {
                "万人民币"
            } else {
                "元"
            });
        }
    }

    /// Sets a decimal: `value` × 10^-`places`, with at least `least` digits after the point.
    pub(crate) fn decimal(&mut self, name: &'static str, value: i64, places: u32, least: u32) {
        if let Some(index) = self.place(name) {
            decimal(
                self.put(index, State::Bare),
                i128::from(value),
                places,
                least,
            );
        }
    }

    /// Sets a column to null.
    pub(crate) fn null(&mut self, name: &'static str) {
        if let Some(index) = self.place(name) {
            self.put(index, State::Null);
        }
    }

    /// Whether the cell holds a value.
    pub(crate) fn holds(&self, index: usize) -> bool {
        matches!(
            self.cells[index].state,
            State::Text | State::Bare | State::Moment(_)
        )
    }

    pub(crate) fn cell(&self, index: usize) -> &str {
        &self.cells[index].text
    }

    /// Replaces what a cell holds.
    pub(crate) fn replace(&mut self, index: usize, text: &str) {
        self.put(index, State::Text).push_str(text);
    }

    /// Appends to what a cell holds.
    pub(crate) fn append(&mut self, index: usize, mark: char) {
        self.cells[index].text.push(mark);
    }

    /// Gives the record a later place in the order of its versions.
    pub(crate) fn supersede(&mut self, date: NaiveDate) {
        if let Some(index) = self.plan.targets.sequence.first().copied() {
            self.put_date(index, Some(date));
        }
    }

    /// Changes the figure; `false` when the record has none.
    pub(crate) fn change_figure(&mut self, per_cent: i64) -> bool {
        let Some((index, fen)) = self.figure else {
            return false;
        };
        // One yuan more, so that it changes even when it is small.
        self.put_amount(
            index,
            fen.saturating_add(fen / 100 * per_cent).saturating_add(100),
        );
        true
    }

    /// Whether there is an amount that a correction could change.
    pub(crate) const fn has_figure(&self) -> bool {
        self.figure.is_some()
    }

    /// Leaves the amounts as they are in what follows.
    pub(crate) const fn forget_figure(&mut self) {
        self.figure = None;
    }

    /// Makes the record a retraction.
    pub(crate) fn retract(&mut self) {
        self.retracted = true;
    }

    /// A column without a value that needs one.
    pub(crate) fn missing(&self) -> Option<&'p str> {
        let missing = |index: &usize| {
            let column = &self.plan.columns[*index];
            !column.nullable && !column.sources.is_empty() && !self.holds(*index)
        };
        (0..self.plan.columns.len())
            .find(missing)
            .map(|index| self.plan.columns[index].name.as_str())
    }

    /// Writes the record as a line of its format, without line end, leaving out the last `cut` columns.
    pub(crate) fn write(&self, file: usize, cut: usize, out: &mut String) {
        match self.plan.feed.format {
            FeedFormat::Csv => self.write_csv(cut, out),
            FeedFormat::JsonLines => self.write_json(file, out),
            // Records of these are no lines: see `elements` and `cells`.
            FeedFormat::Xml | FeedFormat::Xlsx => {}
        }
    }

    /// The elements of the record, in the order of the contract, then the mark of a retraction: name and text.
    pub(crate) fn elements(&self, file: usize) -> impl Iterator<Item = (&str, &str, &str)> {
        let columns = self.plan.columns.iter().zip(&self.cells);
        let own = columns.filter_map(move |(column, cell)| {
            let source = column.source(file)?;
            let text = match cell.state {
                State::Unset => return None,
                State::Null => self.habits.null,
                State::Text | State::Bare | State::Moment(_) => &cell.text,
            };
            Some((column.name.as_str(), source, text))
        });
        let marks = self.plan.extra_sources().iter().map(|source| {
            let mark = self.tombstone_of(source);
            (
                "",
                source.as_str(),
                mark.unwrap_or_else(|| self.plan.living_mark()),
            )
        });
        own.chain(marks)
    }

    /// The cells of the record, in the order of the header.
    pub(crate) fn cells(&self) -> impl Iterator<Item = SheetCell<'_>> {
        let columns = self.plan.columns.iter().zip(&self.cells);
        let own = columns
            .filter(|(column, _)| !column.sources.is_empty())
            .map(|(_, cell)| match cell.state {
                State::Unset => SheetCell::Empty,
                State::Null if self.habits.null.is_empty() => SheetCell::Empty,
                State::Null => SheetCell::Text(self.habits.null),
                State::Text => SheetCell::Text(&cell.text),
                State::Bare => match cell.text.parse() {
                    Ok(number) => SheetCell::Number(number),
                    Err(_) => SheetCell::Text(&cell.text),
                },
                State::Moment(serial) => SheetCell::Moment(serial),
            });
        let marks = self.plan.extra_sources().iter().map(|source| {
            let mark = self.tombstone_of(source);
            SheetCell::Text(mark.unwrap_or_else(|| self.plan.living_mark()))
        });
        own.chain(marks)
    }

    fn tombstone_of(&self, source: &str) -> Option<&'p str> {
        let tombstone = self.plan.feed.tombstone.as_ref()?;
        (self.retracted && tombstone.column == source).then_some(tombstone.value.as_str())
    }

    fn write_csv(&self, cut: usize, out: &mut String) {
        let written = self
            .plan
            .columns
            .iter()
            .filter(|column| !column.sources.is_empty())
            .count()
            + self.plan.extra_sources().len();
        let mut left = written.saturating_sub(cut);
        for (column, cell) in self
            .plan
            .columns
            .iter()
            .zip(&self.cells)
            .filter(|(column, _)| !column.sources.is_empty())
        {
            if left == 0 {
                break;
            }
            let tombstone = column
                .sources
                .iter()
                .find_map(|source| self.tombstone_of(source));
            let text = match cell.state {
                _ if tombstone.is_some() => tombstone.unwrap_or_default(),
                State::Unset | State::Null => self.habits.null,
                State::Text | State::Bare | State::Moment(_) => &cell.text,
            };
            csv_field(self.plan.feed.delimiter, text, out);
            left -= 1;
            if left > 0 {
                out.push(char::from(self.plan.feed.delimiter));
            }
        }
        for source in self.plan.extra_sources() {
            if left == 0 {
                break;
            }
            out.push_str(
                self.tombstone_of(source)
                    .unwrap_or_else(|| self.plan.living_mark()),
            );
            left -= 1;
            if left > 0 {
                out.push(char::from(self.plan.feed.delimiter));
            }
        }
    }

    fn write_json(&self, file: usize, out: &mut String) {
        out.push('{');
        for (column, cell) in self.plan.columns.iter().zip(&self.cells) {
            let Some(source) = column.source(file) else {
                continue;
            };
            let tombstone = column
                .sources
                .iter()
                .find_map(|source| self.tombstone_of(source));
            if cell.state == State::Unset && tombstone.is_none() {
                continue;
            }
            if out.len() > 1 {
                out.push(',');
            }
            json_string(source, out);
            out.push(':');
            match (tombstone, cell.state) {
                (Some(value), _) => json_string(value, out),
                (None, State::Null | State::Unset) if self.habits.null.is_empty() => {
                    out.push_str("null")
                }
                (None, State::Null | State::Unset) => json_string(self.habits.null, out),
                (None, State::Bare) => out.push_str(&cell.text),
                (None, State::Text | State::Moment(_)) => json_string(&cell.text, out),
            }
        }
        for source in self.plan.extra_sources() {
            if let Some(value) = self.tombstone_of(source) {
                out.push(',');
                json_string(source, out);
                out.push(':');
                json_string(value, out);
            }
        }
        out.push('}');
    }
}

/// A day, and the second of it, as workbooks count them.
fn serial(date: NaiveDate, second: Option<u32>) -> f64 {
    const EPOCH: Option<NaiveDate> = NaiveDate::from_ymd_opt(1899, 12, 30);
    let days = EPOCH.map_or(0, |epoch| (date - epoch).num_days());
    let days = i32::try_from(days).map_or(0.0, f64::from);
    days + second.map_or(0.0, |second| f64::from(second % 86_400) / 86_400.0)
}

/// Writes a number below 10,000 with at least `width` digits.
fn digits(out: &mut String, value: u32, width: usize) {
    for (place, power) in [(4, 1000), (3, 100), (2, 10), (1, 1)] {
        if place <= width || value >= power {
            out.push(char::from_digit(value / power % 10, 10).unwrap_or('0'));
        }
    }
}

/// Writes `value` × 10^-`places` with at least `least` digits after the point and no further zeros.
fn decimal(out: &mut String, value: i128, places: u32, least: u32) {
    let one = 10_u128.pow(places);
    let magnitude = value.unsigned_abs();
    if value < 0 {
        out.push('-');
    }
    let _ = write!(out, "{}", magnitude / one);
    let (mut fraction, mut digits) = (magnitude % one, places);
    while digits > least && fraction % 10 == 0 {
        fraction /= 10;
        digits -= 1;
    }
    if digits > 0 {
        let width = usize::try_from(digits).unwrap_or(0);
        let _ = write!(out, ".{fraction:0width$}");
    }
}

/// Writes a field, quoted where it must be.
pub(crate) fn csv_field(delimiter: u8, text: &str, out: &mut String) {
    let quoted = text
        .bytes()
        .any(|byte| byte == delimiter || matches!(byte, b'"' | b'\r' | b'\n'));
    if !quoted {
        out.push_str(text);
        return;
    }
    out.push('"');
    for character in text.chars() {
        if character == '"' {
            out.push('"');
        }
        out.push(character);
    }
    out.push('"');
}

/// Writes a JSON string. The marks for bytes that are put in later stay as they are.
fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            NUL_MARK | WRONG_MARK => out.push(character),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: i128, places: u32, least: u32) -> String {
        let mut text = String::new();
        decimal(&mut text, value, places, least);
        text
    }

    #[test]
    fn decimals() {
        assert_eq!(shown(1_234_560_000, 6, 0), "1234.56");
        assert_eq!(shown(8_000_000, 6, 0), "8");
        assert_eq!(shown(8_000_000, 6, 6), "8.000000");
        assert_eq!(shown(-5, 2, 0), "-0.05");
        assert_eq!(shown(0, 2, 2), "0.00");
    }

    #[test]
    fn digits_are_padded() {
        let shown = |value, width| {
            let mut out = String::new();
            digits(&mut out, value, width);
            out
        };
        assert_eq!(
            [
                shown(2026, 4),
                shown(7, 2),
                shown(7, 1),
                shown(12, 1),
                shown(0, 2)
            ],
            ["2026", "07", "7", "12", "00"]
        );
    }

    #[test]
    fn fields_are_quoted_where_needed() {
        let field = |text| {
            let mut out = String::new();
            csv_field(b',', text, &mut out);
            out
        };
        assert_eq!(field("a"), "a");
        assert_eq!(field("a,b"), "\"a,b\"");
        assert_eq!(field("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn json_strings_are_escaped() {
        let mut out = String::new();
        json_string("a\"\\\n\u{7}浙", &mut out);
        assert_eq!(out, "\"a\\\"\\\\\\n\\u0007浙\"");
    }
}
