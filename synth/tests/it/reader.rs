//! Reads feeds as a hub would, with nothing shared with the generator but the catalogue, and counts what becomes of
//! each record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use encoding_rs::GB18030;
use qihui_catalog::codes::CodeList;
use qihui_catalog::{
    Bound, Catalog, Column, ColumnType, Contract, Encoding, FeedFormat, FeedSpec, Level,
    QualityRule, Unit, Uscc, UsccError,
};
use qihui_synth::{Expected, FeedManifest};

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
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let header = match spec.format {
        FeedFormat::Csv => split_csv(
            &decode(spec, lines.next().unwrap()).unwrap(),
            spec.delimiter,
        ),
        FeedFormat::JsonLines => Vec::new(),
    };
    for line in lines.filter(|line| !line.is_empty()) {
        reading.records += 1;
        let read = decode(spec, line)
            .and_then(|text| fields(spec, &header, &text))
            .and_then(|fields| convert(spec, contract, &fields));
        match read {
            Ok((record, retracted)) => land(contract, record, retracted, table, reading),
            Err(reason) => quarantine(&mut reading.outcome, reason),
        }
    }
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

fn decode(spec: &FeedSpec, line: &[u8]) -> Result<String, &'static str> {
    if line.contains(&0) {
        return Err("NulByte");
    }
    let utf8 = || String::from_utf8(line.to_vec()).ok();
    let gb = || {
        GB18030
            .decode_without_bom_handling_and_without_replacement(line)
            .map(String::from)
    };
    match spec.encoding {
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
    let fields: Fields = match spec.format {
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
        FeedFormat::JsonLines => {
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
    };
    if fields
        .iter()
        .any(|(_, text)| text.as_ref().is_some_and(|text| text.len() > FIELD_BYTES))
    {
        return Err("FieldTooLong");
    }
    Ok(fields)
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
