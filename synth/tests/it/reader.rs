//! Reads feeds as a hub would, with nothing shared with the generator but the catalogue, and counts what becomes of
//! each record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Cursor;
use std::path::Path;

use calamine::{Data, Reader as _, SheetVisible};
use encoding_rs::GB18030;
use qihui_catalog::codes::CodeList;
use qihui_catalog::{
    Bound, Catalog, Column, ColumnType, Contract, Encoding, FeedFormat, FeedSpec, Level,
    MessageForm, QualityRule, Unit, Uscc, UsccError,
};
use qihui_synth::{Expected, FeedManifest};
use quick_xml::events::Event;

const FIELD_BYTES: usize = 256 << 10;

/// A value of a record that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    /// Day number.
    Date(i64),
    Flag(bool),
    /// In the smallest decimal place of the column.
    Number(i128),
    /// Seconds.
    Time(i64),
}

impl Value {
    pub fn number(&self) -> i128 {
        match self {
            Self::Number(number) => *number,
            _ => panic!("no number: {self:?}"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => panic!("no text: {self:?}"),
        }
    }
}

pub type Record = BTreeMap<String, Value>;

/// What reading a feed came to.
#[derive(Debug, Default)]
pub struct Reading {
    pub records: u64,
    pub outcome: Expected,
    pub live: u64,
    /// The rows in the table at the end.
    pub rows: Vec<Record>,
    /// Enterprises of all accepted records.
    pub enterprises: BTreeSet<String>,
}

struct Version {
    uscc: String,
    sequence: Vec<Option<i64>>,
    /// `None` after a retraction.
    row: Option<Record>,
}

/// Reads the files of a feed in the order of their names.
pub fn read(catalog: &Catalog, folder: &Path, feed: &FeedManifest) -> Reading {
    let spec = catalog
        .feeds
        .iter()
        .find(|(name, _)| name.as_str() == feed.feed)
        .unwrap()
        .1;
    let contract = catalog.contract(&spec.dataset).unwrap();
    let (before, after) = spec.file_pattern.split_once('*').unwrap();
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(before) && name.ends_with(after))
        .collect();
    names.sort();
    assert_eq!(
        names,
        feed.files
            .iter()
            .map(|file| file.name.clone())
            .collect::<Vec<_>>(),
        "files of {}",
        feed.feed
    );
    let mut reading = Reading::default();
    let mut table = HashMap::new();
    for (name, file) in names.iter().zip(&feed.files) {
        let bytes = fs::read(folder.join(name)).unwrap();
        assert_eq!(bytes.len() as u64, file.bytes, "{name}");
        let before = reading.records;
        read_file(spec, contract, &bytes, &mut table, &mut reading);
        assert_eq!(reading.records - before, file.records, "{name}");
    }
    reading.rows = table
        .into_values()
        .filter_map(|version: Version| version.row)
        .collect();
    reading.live = reading.rows.len() as u64;
    reading
}

fn read_file(
    spec: &FeedSpec,
    contract: &Contract,
    bytes: &[u8],
    table: &mut HashMap<Vec<String>, Version>,
    reading: &mut Reading,
) {
    let records = match spec.format {
        FeedFormat::Csv | FeedFormat::JsonLines => lines(spec, bytes),
        FeedFormat::Xml => messages(spec, bytes),
        FeedFormat::Xlsx => rows(bytes),
    };
    for fields in records {
        reading.records += 1;
        let read = fields
            .and_then(checked_lengths)
            .and_then(|fields| convert(spec, contract, &fields));
        match read {
            Ok((record, retracted)) => land(contract, record, retracted, table, reading),
            Err(reason) => quarantine(&mut reading.outcome, reason),
        }
    }
}

type Read = Result<Fields, &'static str>;

/// The records of a file of lines.
fn lines(spec: &FeedSpec, bytes: &[u8]) -> Vec<Read> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let header = match spec.format {
        FeedFormat::Csv => split_csv(
            &decode(spec.encoding, lines.next().unwrap()).unwrap(),
            spec.delimiter,
        ),
        _ => Vec::new(),
    };
    lines
        .filter(|line| !line.is_empty())
        .map(|line| decode(spec.encoding, line).and_then(|text| fields(spec, &header, &text)))
        .collect()
}

/// The goods lines of a document, each with the fields of its head. Every element stands on a line of its own but for
/// the fields, so that messages can be told apart as text.
fn messages(spec: &FeedSpec, bytes: &[u8]) -> Vec<Read> {
    let form = spec.message.as_ref().unwrap();
    let gb = bytes.starts_with(b"<?xml version=\"1.0\" encoding=\"GB18030\"?>");
    let encoding = if gb {
        Encoding::Gb18030
    } else {
        Encoding::Utf8
    };
    let head = format!("<{} xmlns=\"{}\">", form.envelope, form.namespace);
    let mut lines = bytes.split(|byte| *byte == b'\n');
    assert!(lines.next().unwrap().starts_with(b"<?xml "));
    assert_eq!(lines.next().unwrap(), head.as_bytes());
    let mut read = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    let end = format!("</{}>", form.message);
    for line in lines {
        if line.starts_with(format!("<{} ", form.message).as_bytes()) {
            assert!(open.replace(Vec::new()).is_none(), "a message in a message");
        }
        let Some(message) = &mut open else {
            assert!(line.is_empty() || line == format!("</{}>", form.envelope).as_bytes());
            continue;
        };
        message.extend_from_slice(line);
        if line == end.as_bytes() {
            let message = open.take().unwrap();
            match decode(encoding, &message) {
                Err(reason) => read.push(Err(reason)),
                Ok(text) => read.extend(message_lines(form, &text)),
            }
        }
    }
    assert!(open.is_none() && !read.is_empty());
    read
}

fn message_lines(form: &MessageForm, text: &str) -> Vec<Read> {
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let (mut path, mut head, mut lines) = (Vec::new(), Fields::new(), Vec::new());
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                path.push(start.local_name().as_ref().to_owned());
                let of_line = path.get(1) == Some(&form.list);
                match (path.len(), of_line) {
                    (3, true) => lines.push(Fields::new()),
                    (3, false) => head.push((path[2].clone(), Some(String::new()))),
                    (4, _) => lines
                        .last_mut()
                        .unwrap()
                        .push((path[3].clone(), Some(String::new()))),
                    _ => {}
                }
            }
            Event::End(_) => {
                path.pop();
            }
            Event::Text(text) => push(&path, form, &mut head, &mut lines, &text.xml10_content()),
            Event::GeneralRef(name) => {
                let text = quick_xml::escape::resolve_xml_entity(&name).unwrap();
                push(&path, form, &mut head, &mut lines, text);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(lines.len() <= form.max_lines);
    if lines.is_empty() {
        return vec![Err("NoLines")];
    }
    let whole = |line: Fields| {
        let mut fields: Fields = head.iter().cloned().chain(line).collect();
        put_right(form, &mut fields);
        Ok(fields)
    };
    lines.into_iter().map(whole).collect()
}

fn push(path: &[String], form: &MessageForm, head: &mut Fields, lines: &mut [Fields], text: &str) {
    let of_line = path.get(1) == Some(&form.list);
    let fields = match (path.len(), of_line) {
        (3, false) => head,
        (4, true) => lines.last_mut().unwrap(),
        _ => return,
    };
    fields
        .last_mut()
        .unwrap()
        .1
        .as_mut()
        .unwrap()
        .push_str(text);
}

/// Exchanges the fields that stand in each other's place.
fn put_right(form: &MessageForm, fields: &mut Fields) {
    let swap = form.swap.as_ref().unwrap();
    let is = |name: &str, other: &str| name == other;
    if !fields
        .iter()
        .any(|(name, text)| is(name, &swap.element) && text.as_deref() == Some(&swap.value))
    {
        return;
    }
    for (name, _) in fields {
        if is(name, &swap.first) {
            name.clone_from(&swap.second);
        } else if is(name, &swap.second) {
            name.clone_from(&swap.first);
        }
    }
}

/// The rows of the sheets of a workbook that are shown.
fn rows(bytes: &[u8]) -> Vec<Read> {
    let mut book = calamine::Xlsx::new(Cursor::new(bytes)).unwrap();
    let sheets: Vec<_> = book.sheets_metadata().to_vec();
    assert!(
        sheets
            .iter()
            .any(|sheet| sheet.visible == SheetVisible::Hidden)
    );
    let mut read = Vec::new();
    for sheet in sheets
        .iter()
        .filter(|sheet| sheet.visible == SheetVisible::Visible)
    {
        let range = book.worksheet_range(&sheet.name).unwrap();
        let text = |cell: &Data| match cell {
            Data::DateTime(moment) => shown(moment.as_f64()),
            other => other.to_string(),
        };
        let mut rows = range
            .rows()
            .skip_while(|row| row.iter().filter(|cell| **cell != Data::Empty).count() < 4);
        let header: Vec<String> = rows.next().unwrap().iter().map(text).collect();
        let columns = header
            .iter()
            .position(String::is_empty)
            .unwrap_or(header.len());
        assert!(range.start().is_some_and(|start| start == (0, 0)));
        for row in rows {
            let beside = row[columns..].iter().any(|cell| *cell != Data::Empty);
            let cells = header[..columns]
                .iter()
                .cloned()
                .zip(row.iter().map(|cell| Some(text(cell))));
            read.push(if beside {
                Err("FieldCount")
            } else {
                Ok(cells.collect())
            });
        }
    }
    read
}

/// The day and time that a count of days since 1899-12-30 stands for.
fn shown(serial: f64) -> String {
    let epoch = chrono::NaiveDate::from_ymd_opt(1899, 12, 30)
        .unwrap()
        .and_hms_opt(0, 0, 0)
        .unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "days of this century")]
    let at = epoch + chrono::TimeDelta::seconds((serial * 86_400.0).round() as i64);
    let form = if serial.fract() == 0.0 {
        "%Y-%m-%d"
    } else {
        "%Y-%m-%d %H:%M:%S"
    };
    at.format(form).to_string()
}

fn checked_lengths(fields: Fields) -> Read {
    let too_long = |(_, text): &(String, Option<String>)| {
        text.as_ref().is_some_and(|text| text.len() > FIELD_BYTES)
    };
    if fields.iter().any(too_long) {
        return Err("FieldTooLong");
    }
    Ok(fields)
}

fn quarantine(outcome: &mut Expected, reason: &str) {
    outcome.quarantined += 1;
    *outcome
        .quarantined_by_reason
        .entry(reason.to_owned())
        .or_default() += 1;
}

fn land(
    contract: &Contract,
    record: Record,
    retracted: bool,
    table: &mut HashMap<Vec<String>, Version>,
    reading: &mut Reading,
) {
    let key: Vec<String> = contract
        .key
        .iter()
        .map(|column| format!("{:?}", record.get(column)))
        .collect();
    let uscc = record["uscc"].text().to_owned();
    let sequence = contract
        .sequence
        .iter()
        .map(|column| match record.get(column) {
            Some(Value::Time(at) | Value::Date(at)) => Some(*at),
            _ => None,
        });
    let sequence: Vec<_> = sequence.collect();
    let version = Version {
        uscc: uscc.clone(),
        sequence,
        row: (!retracted).then_some(record),
    };
    match table.get_mut(&key) {
        Some(old) if old.uscc != uscc => return quarantine(&mut reading.outcome, "UsccChanged"),
        Some(old) if old.sequence == version.sequence => {
            assert_eq!(
                old.row, version.row,
                "two versions of {key:?} claim one place in the order"
            );
            reading.outcome.unchanged += 1;
        }
        Some(old) => {
            assert!(
                old.sequence < version.sequence,
                "a version of {key:?} comes too late"
            );
            if retracted {
                reading.outcome.retracted += 1
            } else {
                reading.outcome.landed += 1
            }
            *old = version;
        }
        None => {
            assert!(!retracted, "a retraction of what never came: {key:?}");
            reading.outcome.landed += 1;
            table.insert(key, version);
        }
    }
    reading.enterprises.insert(uscc);
}

fn decode(encoding: Encoding, line: &[u8]) -> Result<String, &'static str> {
    if line.contains(&0) {
        return Err("NulByte");
    }
    let utf8 = || String::from_utf8(line.to_vec()).ok();
    let gb = || {
        GB18030
            .decode_without_bom_handling_and_without_replacement(line)
            .map(String::from)
    };
    match encoding {
        Encoding::Utf8 => utf8(),
        Encoding::Gb18030 => gb(),
        Encoding::Detect => utf8().or_else(gb),
    }
    .ok_or("BadEncoding")
}

fn split_csv(line: &str, delimiter: u8) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            c if c == char::from(delimiter) && !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

/// Source column and text.
type Fields = Vec<(String, Option<String>)>;

fn fields(spec: &FeedSpec, header: &[String], text: &str) -> Result<Fields, &'static str> {
    Ok(match spec.format {
        FeedFormat::Csv => {
            let cells = split_csv(text, spec.delimiter);
            if cells.len() != header.len() {
                return Err("FieldCount");
            }
            header
                .iter()
                .cloned()
                .zip(cells.into_iter().map(Some))
                .collect()
        }
        _ => {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|_| "BadJson")?;
            object
                .into_iter()
                .map(|(name, value)| match value {
                    serde_json::Value::Null => (name, None),
                    serde_json::Value::String(text) => (name, Some(text)),
                    other => (name, Some(other.to_string())),
                })
                .collect()
        }
    })
}

fn convert(
    spec: &FeedSpec,
    contract: &Contract,
    fields: &Fields,
) -> Result<(Record, bool), &'static str> {
    let mut record = Record::new();
    let mut retracted = false;
    for (source, text) in fields {
        let text = text.as_deref().unwrap_or("").trim();
        if let Some(tombstone) = spec
            .tombstone
            .as_ref()
            .filter(|tombstone| tombstone.column == *source)
        {
            retracted = text == tombstone.value;
            continue;
        }
        if spec.ignores(source) {
            continue;
        }
        let name = spec
            .columns
            .get(source)
            .unwrap_or_else(|| panic!("{}: unknown source column {source}", spec.name));
        let column = contract.column(name).unwrap();
        if column.level == Level::L4 || matches!(text, "" | "-" | "N/A" | "无") {
            continue;
        }
        let value = value(spec, column, text)?;
        assert!(
            record.insert(name.clone(), value).is_none(),
            "{name} comes twice"
        );
    }
    for column in contract.landed() {
        match record.get(&column.name) {
            Some(value) => check(contract, column, value, &record)?,
            None if column.nullable && !contract.key.contains(&column.name) => {}
            None => return Err("MissingValue"),
        }
    }
    Ok((record, retracted))
}

fn value(spec: &FeedSpec, column: &Column, text: &str) -> Result<Value, &'static str> {
    if column.name == "uscc" {
        return match Uscc::normalise(text) {
            Ok(uscc) => Ok(Value::Text(uscc.to_string())),
            Err(UsccError::CheckDigit) => Err("UsccCheckDigit"),
            Err(UsccError::Symbol) => Err("UsccSymbol"),
            Err(UsccError::Length) => Err("UsccLength"),
            Err(_) => Err("another fault of the code"),
        };
    }
    Ok(match column.ty {
        ColumnType::String => Value::Text(text.to_owned()),
        ColumnType::Date => Value::Date(day(text).ok_or("BadDate")?),
        ColumnType::Timestamp => Value::Time(second(text).ok_or("BadTime")?),
        ColumnType::Boolean => Value::Flag(match text {
            "1" | "Y" | "是" => true,
            "0" | "N" | "否" => false,
            word => *spec.booleans.get(word).ok_or("BadBoolean")?,
        }),
        ColumnType::Int32 | ColumnType::Int64 => {
            Value::Number(text.parse().map_err(|_| "BadNumber")?)
        }
        ColumnType::Decimal { scale, .. } => Value::Number(decimal(
            spec,
            column,
            text,
            u32::from(scale.unsigned_abs()),
        )?),
    })
}

/// An amount as the source writes it, in the smallest place of the column.
fn decimal(spec: &FeedSpec, column: &Column, text: &str, scale: u32) -> Result<i128, &'static str> {
    let (text, written_in) = match text.strip_suffix("万人民币") {
        Some(number) => (number, Unit::TenThousand),
        None => text
            .strip_suffix('元')
            .map_or((text, spec.unit_of(column)), |number| (number, Unit::One)),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction}")
        .parse::<i128>()
        .map_err(|_| "BadNumber")?;
    let exponent = |unit: Unit| if unit == Unit::TenThousand { 4_i32 } else { 0 };
    let shift = i32::try_from(scale).unwrap() + exponent(written_in)
        - exponent(column.unit)
        - i32::try_from(fraction.len()).unwrap();
    let power = 10_i128.pow(shift.unsigned_abs());
    match shift {
        0.. => Ok(digits * power),
        _ if digits % power == 0 => Ok(digits / power),
        _ => Err("TooManyDecimals"),
    }
}

fn day(text: &str) -> Option<i64> {
    let parts: Vec<&str> = match text.len() {
        8 if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            vec![&text[..4], &text[4..6], &text[6..]]
        }
        _ => text.split(['-', '/']).collect(),
    };
    let [year, month, day] = parts[..] else {
        return None;
    };
    let date = chrono::NaiveDate::from_ymd_opt(
        year.parse().ok()?,
        month.parse().ok()?,
        day.parse().ok()?,
    )?;
    (year.len() == 4).then_some((date - chrono::NaiveDate::default()).num_days())
}

fn second(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ').unwrap_or_else(|| text.split_at(8));
    let time = time.replace(':', "");
    let part = |range: std::ops::Range<usize>| time.get(range)?.parse::<i64>().ok();
    Some(day(date)? * 86_400 + part(0..2)? * 3600 + part(2..4)? * 60 + part(4..6)?)
}

fn check(
    contract: &Contract,
    column: &Column,
    value: &Value,
    record: &Record,
) -> Result<(), &'static str> {
    for rule in &column.quality {
        let fine = match (rule, value) {
            (QualityRule::Range { min, max }, _) => {
                let at = |bound: &Bound| match bound {
                    Bound::Number(number) => *number,
                    Bound::Date(date) => {
                        i128::from((*date - chrono::NaiveDate::default()).num_days())
                    }
                };
                let value = match value {
                    Value::Number(number) => *number,
                    Value::Date(day) => i128::from(*day),
                    _ => panic!("a range of what is no number: {}", column.name),
                };
                min.as_ref().is_none_or(|min| at(min) <= value)
                    && max.as_ref().is_none_or(|max| value <= at(max))
            }
            (QualityRule::Length { min, max }, Value::Text(text)) => {
                (*min as usize..=*max as usize).contains(&text.chars().count())
            }
            (QualityRule::Pattern(pattern), Value::Text(text)) => pattern.matches(text),
            (QualityRule::NotAfter { column }, Value::Date(day)) => match record.get(column) {
                Some(Value::Date(later)) => day <= later,
                _ => true,
            },
            _ => true,
        };
        if !fine {
            panic!("{}.{} breaks {rule:?}", contract.id, column.name);
        }
    }
    let Some(list) = &column.code_list else {
        return Ok(());
    };
    let on = list
        .at
        .as_ref()
        .and_then(|at| record.get(at))
        .map(|value| match value {
            Value::Date(day) => chrono::NaiveDate::default() + chrono::TimeDelta::days(*day),
            _ => panic!("no date: {}", column.name),
        });
    if CodeList::get(&list.name)
        .unwrap()
        .contains(value.text(), on)
    {
        Ok(())
    } else {
        Err("UnknownCode")
    }
}
