//! Takes the text of one record apart into the fields that are wanted.
//!
//! Fields are spans of text, one per *slot*: a landed column of the contract, or the mark of a retraction. What no
//! slot wants (columns of level L4, ignored columns) is passed over and exists nowhere but in the record itself.
//! Nothing is allocated per field. Messages of several records are taken apart in [`crate::message_fields`].

use std::{collections::HashMap, fmt, mem, ops::Range};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use memchr::{memchr, memchr_iter};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    limits::Limits,
    reason::Reason,
    workbook::{self, DateSystem},
};

/// Where a field goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A slot of the record.
    Wanted(usize),
    /// Nowhere.
    Dropped,
}

/// The fields of one record, by slot.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    spans: Vec<Option<Range<usize>>>,
    /// Holds the text of the fields when they do not stand in the record as they are.
    unescaped: String,
    in_record: bool,
}

impl Fields {
    /// The text of `slot`, given the record it was taken from; none when it is absent or null.
    pub fn get<'a>(&'a self, record: &'a str, slot: usize) -> Option<&'a str> {
        let span = self.spans[slot].clone()?;
        if self.in_record {
            record.get(span)
        } else {
            self.unescaped.get(span)
        }
    }

    /// Begins a record of which nothing is known yet.
    pub fn begin(&mut self, slots: usize) {
        self.clear(slots, false);
    }

    /// Whether `slot` holds nothing.
    pub fn is_absent(&self, slot: usize) -> bool {
        self.spans.get(slot).is_none_or(Option::is_none)
    }

    /// Puts a text into `slot` that did not stand in the record.
    ///
    /// Only for records whose fields do not stand in them as they are: JSON, and [`Fields::begin`].
    pub fn put(&mut self, slot: usize, text: &str) {
        let start = self.unescaped.len();
        self.unescaped.push_str(text);
        if let Some(span) = self.spans.get_mut(slot) {
            *span = Some(start..start + text.len());
        }
    }

    /// Takes fields whose texts are parts of one text.
    pub fn set<'f>(
        &mut self,
        slots: usize,
        fields: impl Iterator<Item = &'f (usize, Range<usize>)>,
    ) -> Result<(), Reason> {
        self.clear(slots, true);
        for (slot, span) in fields {
            // Two names of one column contradict each other as two equal names do.
            if self.spans[*slot].replace(span.clone()).is_some() {
                return Err(Reason::DuplicateKey);
            }
        }
        Ok(())
    }

    /// Exchanges two fields.
    pub fn swap(&mut self, one: usize, other: usize) {
        self.spans.swap(one, other);
    }

    fn clear(&mut self, slots: usize, in_record: bool) {
        self.spans.clear();
        self.spans.resize(slots, None);
        self.unescaped.clear();
        self.in_record = in_record;
    }
}

/// Takes CSV records apart.
pub(crate) struct CsvFields {
    delimiter: u8,
    quote: u8,
    /// The slot of each column of the file.
    slots: Vec<Slot>,
    slot_count: usize,
    field_bytes: usize,
    reader: Box<Reader>,
    ends: Vec<usize>,
}

impl CsvFields {
    /// Takes records of a file apart whose columns go to `slots`.
    pub fn new(
        delimiter: u8,
        quote: u8,
        slots: Vec<Slot>,
        slot_count: usize,
        limits: &Limits,
    ) -> Self {
        let ends = vec![0; slots.len() + 1];
        Self {
            delimiter,
            quote,
            slots,
            slot_count,
            field_bytes: limits.field_bytes,
            reader: Box::new(csv_reader(delimiter, quote)),
            ends,
        }
    }

    /// Fills `fields` from `record`, a record without its line end.
    pub fn split(&mut self, record: &str, fields: &mut Fields) -> Result<(), Reason> {
        let quoted = memchr(self.quote, record.as_bytes()).is_some();
        fields.clear(self.slot_count, !quoted);
        let mut column = 0;
        let mut start = 0;
        let mut place = |end: usize, next: usize| {
            let slot = self.slots.get(column).ok_or(Reason::FieldCount)?;
            if end - start > self.field_bytes {
                return Err(Reason::FieldTooLong);
            }
            if let Slot::Wanted(slot) = slot {
                fields.spans[*slot] = Some(start..end);
            }
            column += 1;
            start = next;
            Ok(())
        };
        if quoted {
            let mut text = mem::take(&mut fields.unescaped).into_bytes();
            let count = unquote(
                &mut self.reader,
                record.as_bytes(),
                &mut text,
                &mut self.ends,
            )?;
            // INVARIANT: fields of a text are texts, as delimiter and quote are ASCII.
            fields.unescaped = String::from_utf8(text).map_err(|_| Reason::BadEncoding)?;
            for end in &self.ends[..count] {
                place(*end, *end)?;
            }
        } else {
            for end in memchr_iter(self.delimiter, record.as_bytes()) {
                place(end, end + 1)?;
            }
            place(record.len(), record.len())?;
        }
        if column == self.slots.len() {
            Ok(())
        } else {
            Err(Reason::FieldCount)
        }
    }
}

fn csv_reader(delimiter: u8, quote: u8) -> Reader {
    ReaderBuilder::new()
        .delimiter(delimiter)
        .quote(quote)
        .terminator(Terminator::Any(b'\n'))
        .build()
}

/// Writes the fields of `record` one after the other into `to`, their ends into `ends`, and returns their count.
fn unquote(
    reader: &mut Reader,
    record: &[u8],
    to: &mut Vec<u8>,
    ends: &mut [usize],
) -> Result<usize, Reason> {
    reader.reset();
    to.resize(record.len() + 1, 0);
    let (mut read, mut written, mut count) = (0, 0, 0);
    loop {
        let (result, n, out, found) =
            reader.read_record(&record[read..], &mut to[written..], &mut ends[count..]);
        read += n;
        written += out;
        count += found;
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::Record if read < record.len() => return Err(Reason::BrokenQuote),
            ReadRecordResult::Record | ReadRecordResult::End => {
                to.truncate(written);
                return Ok(count);
            }
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                return Err(Reason::FieldCount);
            }
        }
    }
}

/// The names in a header line.
pub(crate) fn header(
    line: &str,
    delimiter: u8,
    quote: u8,
    limits: &Limits,
) -> Result<Vec<String>, Reason> {
    let mut reader = csv_reader(delimiter, quote);
    let mut text = Vec::new();
    let mut ends = vec![0; limits.columns + 1];
    let count = unquote(&mut reader, line.as_bytes(), &mut text, &mut ends)?;
    let mut start = 0;
    let names = ends[..count].iter().map(|end| {
        let name = String::from_utf8_lossy(&text[start..*end]);
        start = *end;
        crate::value::trim(&name).to_owned()
    });
    Ok(names.collect())
}

/// Takes rows of workbooks apart, in the text form of [`crate::workbook`].
pub(crate) struct RowFields {
    /// The slot of each column of the sheet; none where its header is empty.
    slots: Vec<Option<Slot>>,
    slot_count: usize,
    field_bytes: usize,
    /// The slots that hold days or times, where a bare number counts days.
    moments: Vec<bool>,
    dates: DateSystem,
}

impl RowFields {
    /// Takes rows of a sheet apart whose columns go to `slots`; `moments` says which slots hold days or times.
    pub fn new(
        slots: Vec<Option<Slot>>,
        moments: Vec<bool>,
        dates: DateSystem,
        limits: &Limits,
    ) -> Self {
        Self {
            slots,
            slot_count: moments.len(),
            field_bytes: limits.field_bytes,
            moments,
            dates,
        }
    }

    /// Fills `fields` from `record`, one row.
    pub fn split(&mut self, record: &str, fields: &mut Fields) -> Result<(), Reason> {
        fields.clear(self.slot_count, false);
        for (column, cell) in workbook::cells(record).enumerate() {
            let slot = match self.slots.get(column) {
                Some(Some(slot)) => *slot,
                _ if cell.is_empty() => continue,
                _ => return Err(Reason::FieldCount),
            };
            let Slot::Wanted(slot) = slot else { continue };
            if cell.is_empty() {
                continue;
            }
            let start = fields.unescaped.len();
            let dates = self.moments[slot].then_some(self.dates);
            workbook::read_cell(cell, dates, &mut fields.unescaped)?;
            let end = fields.unescaped.len();
            if end - start > self.field_bytes {
                return Err(Reason::FieldTooLong);
            }
            fields.spans[slot] = Some(start..end);
        }
        Ok(())
    }
}

/// Takes JSON objects apart.
pub(crate) struct JsonFields {
    slots: HashMap<String, (usize, Slot)>,
    slot_count: usize,
    field_bytes: usize,
    columns: usize,
    seen: Vec<bool>,
}

impl JsonFields {
    /// Takes objects apart whose keys go to `slots`.
    pub fn new(
        slots: impl IntoIterator<Item = (String, Slot)>,
        slot_count: usize,
        limits: &Limits,
    ) -> Self {
        let slots: HashMap<_, _> = slots
            .into_iter()
            .enumerate()
            .map(|(index, (name, slot))| (name, (index, slot)))
            .collect();
        let seen = vec![false; slots.len()];
        Self {
            slots,
            slot_count,
            field_bytes: limits.field_bytes,
            columns: limits.columns,
            seen,
        }
    }

    /// Fills `fields` from `record`, one line.
    pub fn split(&mut self, record: &str, fields: &mut Fields) -> Result<(), Reason> {
        fields.clear(self.slot_count, false);
        self.seen.fill(false);
        let mut object = Object {
            of: self,
            fields,
            fault: None,
            keys: 0,
        };
        let mut reader = serde_json::Deserializer::from_str(record);
        let read = reader.deserialize_map(&mut object);
        let fault = object.fault;
        match read.and_then(|()| reader.end()) {
            Err(_) => Err(fault.unwrap_or(Reason::BadJson)),
            Ok(()) => fault.map_or(Ok(()), Err),
        }
    }
}

/// One object on its way into [`Fields`].
struct Object<'a> {
    of: &'a mut JsonFields,
    fields: &'a mut Fields,
    fault: Option<Reason>,
    keys: usize,
}

impl Object<'_> {
    fn take(&mut self, (index, slot): (usize, Slot), value: &str) -> Result<(), Reason> {
        if mem::replace(&mut self.of.seen[index], true) {
            return Err(Reason::DuplicateKey);
        }
        match value.as_bytes().first() {
            Some(b'{' | b'[') => return Err(Reason::NestedValue),
            Some(b'n') | None => return Ok(()),
            Some(_) => {}
        }
        if value.len() > self.of.field_bytes.saturating_mul(6) {
            return Err(Reason::FieldTooLong);
        }
        let Slot::Wanted(slot) = slot else {
            return Ok(());
        };
        let start = self.fields.unescaped.len();
        match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
            None => self.fields.unescaped.push_str(value),
            Some(text) if memchr(b'\\', text.as_bytes()).is_none() => {
                self.fields.unescaped.push_str(text);
            }
            Some(_) => {
                let text: String = serde_json::from_str(value).map_err(|_| Reason::BadJson)?;
                if memchr(0, text.as_bytes()).is_some() {
                    return Err(Reason::NulByte);
                }
                self.fields.unescaped.push_str(&text);
            }
        }
        let end = self.fields.unescaped.len();
        if end - start > self.of.field_bytes {
            return Err(Reason::FieldTooLong);
        }
        // Two names of one column in one object contradict each other as two equal keys do.
        match self.fields.spans[slot].replace(start..end) {
            None => Ok(()),
            Some(_) => Err(Reason::DuplicateKey),
        }
    }
}

impl<'de> Visitor<'de> for &mut Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(&self.of.slots))? {
            self.keys += 1;
            if self.keys > self.of.columns {
                self.fault = Some(Reason::FieldCount);
                return Err(A::Error::custom("too many keys"));
            }
            let Some(key) = key else {
                self.fault.get_or_insert(Reason::UnknownKey);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: &RawValue = map.next_value()?;
            if let Err(fault) = self.take(key, value.get()) {
                self.fault.get_or_insert(fault);
            }
        }
        Ok(())
    }
}

/// Looks a key up while it is read.
struct Key<'a>(&'a HashMap<String, (usize, Slot)>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<(usize, Slot)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<(usize, Slot)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        // Names are nearly always written as declared; ASCII case and white space around them do not count.
        let alike = || {
            self.0
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key.trim()))
                .map(|(_, slot)| slot)
        };
        Ok(self.0.get(key).or_else(alike).copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted(count: usize) -> Vec<Slot> {
        (0..count).map(Slot::Wanted).collect()
    }

    fn csv(record: &str, columns: usize) -> Result<Vec<String>, Reason> {
        let mut fields = Fields::default();
        CsvFields::new(b',', b'"', wanted(columns), columns, &Limits::DEFAULT)
            .split(record, &mut fields)?;
        Ok((0..columns)
            .map(|slot| fields.get(record, slot).unwrap().to_owned())
            .collect())
    }

    fn json(record: &str) -> Result<Vec<Option<String>>, Reason> {
        let slots = [
            ("a", Slot::Wanted(0)),
            ("b", Slot::Wanted(1)),
            ("b2", Slot::Wanted(1)),
            ("secret", Slot::Dropped),
        ];
        let mut fields = Fields::default();
        JsonFields::new(
            slots.map(|(name, slot)| (name.to_owned(), slot)),
            2,
            &Limits::DEFAULT,
        )
        .split(record, &mut fields)?;
        Ok((0..2)
            .map(|slot| fields.get(record, slot).map(str::to_owned))
            .collect())
    }

    #[test]
    fn csv_records_with_and_without_quotes() {
        assert_eq!(csv("a,b,c", 3).unwrap(), ["a", "b", "c"]);
        assert_eq!(csv(",,", 3).unwrap(), ["", "", ""]);
        assert_eq!(
            csv("\"a,1\",\"b\"\"q\",c\"d", 3).unwrap(),
            ["a,1", "b\"q", "c\"d"]
        );
        assert_eq!(
            csv("\"line\nend\",,\"\"", 3).unwrap(),
            ["line\nend", "", ""]
        );
        assert_eq!(csv("\"a\",", 2).unwrap(), ["a", ""]);
        for (record, columns) in [
            ("a,b", 3),
            ("a,b,c,d", 3),
            ("\"a\",b", 3),
            ("\"a\",b,c,d,e,f,g", 3),
        ] {
            assert_eq!(csv(record, columns), Err(Reason::FieldCount), "{record}");
        }
        let long = "x".repeat(Limits::DEFAULT.field_bytes + 1);
        assert_eq!(csv(&format!("a,{long}"), 2), Err(Reason::FieldTooLong));
        assert_eq!(csv(&format!("\"a\",{long}"), 2), Err(Reason::FieldTooLong));
    }

    #[test]
    fn json_objects_are_flat_and_unambiguous() {
        let some = |a: &str, b: &str| Ok(vec![Some(a.to_owned()), Some(b.to_owned())]);
        assert_eq!(
            json(r#"{"a":"x","b":12.3400000000000000000001}"#),
            some("x", "12.3400000000000000000001")
        );
        assert_eq!(
            json(r#" { "b2" : true , "a" : "tab\tA" } "#),
            some("tab\tA", "true")
        );
        assert_eq!(
            json(r#"{"a":null,"secret":"110101"}"#),
            Ok(vec![None, None])
        );
        assert_eq!(json(r#"{"a":"1","a":"2"}"#), Err(Reason::DuplicateKey));
        assert_eq!(json(r#"{"b":"1","b2":"2"}"#), Err(Reason::DuplicateKey));
        assert_eq!(json(r#"{"a":"1","z":"2"}"#), Err(Reason::UnknownKey));
        assert_eq!(json(r#"{"a":{"x":1}}"#), Err(Reason::NestedValue));
        assert_eq!(json(r#"{"a":"\u0000"}"#), Err(Reason::NulByte));
        for bad in [
            "",
            "[]",
            "1",
            "{",
            r#"{"a":1}x"#,
            r#"{"a":01}"#,
            r#"{"a":"\ud800"}"#,
            r#"{a:1}"#,
        ] {
            assert_eq!(json(bad), Err(Reason::BadJson), "{bad}");
        }
        let deep = format!(r#"{{"z":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(json(&deep).is_err());
    }

    proptest! {
        #[test]
        fn csv_without_quotes_reads_the_same_either_way(cells in prop::collection::vec("[a-z一-龥 ]{0,6}", 2..6)) {
            let plain = cells.join(",");
            let quoted = cells.iter().map(|cell| format!("\"{cell}\"")).collect::<Vec<_>>().join(",");
            let got = csv(&plain, cells.len());
            prop_assert_eq!(got.as_ref(), Ok(&cells));
            let got = csv(&quoted, cells.len());
            prop_assert_eq!(got.as_ref(), Ok(&cells));
        }

        #[test]
        fn ing_1_no_record_makes_a_splitter_panic(text in "[a-c,\"\n\r{}:\\[\\]0-9\\\\]{0,40}", anything in any::<String>()) {
            for record in [&text, &anything] {
                let _ = (csv(record, 3), json(record), header(record, b',', b'"', &Limits::DEFAULT));
            }
        }
    }
}
