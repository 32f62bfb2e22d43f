//! What to do with the fields of a source: feed and contract, bound to each other and to one file.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use qihui_catalog::{
    Bound, Column, ColumnType, Contract, Encoding, FeedFormat, FeedSpec, Level, QualityRule,
    codes::CodeList,
};

use crate::{
    IngestError,
    error::{HeaderFault, Result},
    fields::{CsvFields, JsonFields, RowFields, Slot},
    frame::Quoting,
    limits::Limits,
    message_fields::MessageFields,
    value::{self, Value},
    workbook::DateSystem,
};

/// The hidden column of enterprise numbers.
pub(crate) const NUMBER_COLUMN: &str = "_no";
/// The quote of CSV files.
pub(crate) const QUOTE: u8 = b'"';
/// The code lists whose codes place an enterprise near its neighbours.
const DIVISION_LIST: &str = "division";
/// Of several columns with a division the one that says where an enterprise sits comes first.
const SEAT_COLUMN: &str = "domdistrict";
const INDUSTRY_LIST: &str = "industry";
const CURRENCY_LIST: &str = "currency";

/// Where the value of a column comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A field of the record.
    Field,
    /// The feed gives every record the same.
    Constant {
        /// The value.
        value: Value,
        /// Its text, for text columns.
        text: String,
    },
    /// Nothing: the feed does not carry it.
    Absent,
}

/// A check of one value against others, or against bounds.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    /// A number or day, in the column's terms, both bounds included.
    Range {
        min: Option<i128>,
        max: Option<i128>,
    },
    /// A count of characters, both bounds included.
    Length { min: usize, max: usize },
    /// The shape of a text.
    Pattern(qihui_catalog::Pattern),
    /// Not after the value of another column.
    NotAfter(usize),
    /// A code of a list, in the edition of the day in another column.
    Code {
        list: &'static CodeList,
        at: Option<usize>,
    },
}

/// A landed column.
#[derive(Debug, Clone)]
pub(crate) struct PlanColumn {
    pub name: String,
    pub ty: ColumnType,
    pub origin: Origin,
    /// A row must have it.
    pub required: bool,
    /// A retraction must carry it too: it is part of the key, the enterprise, or part of the sequence.
    pub identity: bool,
    /// A retraction must have it.
    pub key: bool,
    /// The power of ten between the source's unit and the column's.
    pub shift: i32,
    /// The power of ten of the column's unit.
    pub unit_exponent: i32,
    /// The column that names the currency of this amount.
    pub currency: Option<usize>,
    pub rules: Vec<Rule>,
}

/// Feed and contract, bound to each other.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub feed: Arc<FeedSpec>,
    pub contract: Arc<Contract>,
    pub columns: Vec<PlanColumn>,
    /// The slot of the enterprise.
    pub uscc: usize,
    /// The columns with a division the enterprise sits in, the best first.
    pub counties: Vec<usize>,
    /// The column with its industry.
    pub industry: Option<usize>,
    /// The source's own words for true and false.
    pub booleans: Vec<(String, bool)>,
    /// The slot that marks a retraction, and the value that does.
    pub mark: Option<(usize, String)>,
    /// `_no` and the landed columns.
    pub schema: SchemaRef,
}

impl Plan {
    /// Binds `feed` to `contract`.
    pub fn new(feed: &Arc<FeedSpec>, contract: &Arc<Contract>) -> Result<Self> {
        let bad = |fault: String| IngestError::BadFeed {
            feed: feed.name.to_string(),
            fault,
        };
        check_encoding(feed).map_err(bad)?;
        if (feed.format == FeedFormat::Xml) != feed.message.is_some() {
            return Err(bad(
                "XML feeds, and no others, say what their messages are".into()
            ));
        }
        let landed: Vec<&Column> = contract.landed().collect();
        let index: BTreeMap<&str, usize> = landed
            .iter()
            .enumerate()
            .map(|(i, c)| (c.name.as_str(), i))
            .collect();
        for column in feed.columns.values().chain(feed.constants.keys()) {
            if contract.column(column).is_none() {
                return Err(bad(format!(
                    "it fills `{column}`, which the contract `{}` does not have",
                    contract.id
                )));
            }
        }
        let columns = landed
            .iter()
            .map(|c| plan_column(feed, contract, c, &index))
            .collect::<Result<Vec<_>, _>>()
            .map_err(bad)?;
        if let Some(column) = columns
            .iter()
            .find(|c| (c.required || c.key) && c.origin == Origin::Absent)
        {
            return Err(bad(format!(
                "nothing fills the column `{}`, which every row must have",
                column.name
            )));
        }
        let uscc = *index
            .get(contract.uscc.as_str())
            .ok_or_else(|| bad("the contract lands no `uscc`".into()))?;
        if columns[uscc].origin != Origin::Field {
            return Err(bad("`uscc` has to come from a column of the source".into()));
        }
        let listed = |list: &'static str| {
            let of_list = move |c: &Column| c.code_list.as_ref().is_some_and(|r| r.name == list);
            landed
                .iter()
                .enumerate()
                .filter(move |(_, c)| c.ty == ColumnType::String && of_list(c))
                .map(|(i, _)| i)
        };
        let mut counties: Vec<usize> = listed(DIVISION_LIST).collect();
        counties.sort_by_key(|i| landed[*i].name != SEAT_COLUMN);
        let mut plan = Self {
            uscc,
            counties,
            industry: listed(INDUSTRY_LIST).next(),
            booleans: feed
                .booleans
                .iter()
                .map(|(word, value)| (word.clone(), *value))
                .collect(),
            mark: None,
            schema: schema(&landed),
            feed: Arc::clone(feed),
            contract: Arc::clone(contract),
            columns,
        };
        plan.mark =
            feed.tombstone
                .as_ref()
                .and_then(|tombstone| match plan.slot(&tombstone.column)? {
                    Slot::Wanted(slot) => Some((slot, tombstone.value.clone())),
                    Slot::Dropped => None,
                });
        Ok(plan)
    }

    /// The slot of the mark of a retraction, behind those of the columns.
    pub fn mark_slot(&self) -> usize {
        self.columns.len()
    }

    /// How many slots a record has.
    pub fn slot_count(&self) -> usize {
        self.columns.len() + 1
    }

    /// How the bytes of the source are cut into records.
    pub fn quoting(&self) -> Option<Quoting> {
        match self.feed.format {
            FeedFormat::Csv => Some(Quoting {
                delimiter: self.feed.delimiter,
                quote: QUOTE,
            }),
            FeedFormat::JsonLines | FeedFormat::Xml | FeedFormat::Xlsx => None,
        }
    }

    /// The encoding of the lines of the source.
    pub fn encoding(&self) -> Encoding {
        match self.feed.format {
            FeedFormat::Csv | FeedFormat::JsonLines => self.feed.encoding,
            FeedFormat::Xml | FeedFormat::Xlsx => Encoding::Utf8,
        }
    }

    /// Binds the names in a header line to slots.
    pub fn bind_header(&self, names: &[String], limits: &Limits) -> Result<CsvFields, HeaderFault> {
        let slots = self.bind_names(names, limits)?;
        Ok(CsvFields::new(
            self.feed.delimiter,
            QUOTE,
            slots,
            self.slot_count(),
            limits,
        ))
    }

    /// Binds the cells of a header row to slots; cells without text are no columns.
    pub fn bind_row(
        &self,
        cells: &[String],
        dates: DateSystem,
        limits: &Limits,
    ) -> Result<RowFields, HeaderFault> {
        let names: Vec<String> = cells.iter().filter(|c| !c.is_empty()).cloned().collect();
        let mut bound = self.bind_names(&names, limits)?.into_iter();
        let slots = cells
            .iter()
            .map(|cell| if cell.is_empty() { None } else { bound.next() })
            .collect();
        let is_moment = |c: &PlanColumn| matches!(c.ty, ColumnType::Date | ColumnType::Timestamp);
        let mut moments: Vec<bool> = self.columns.iter().map(is_moment).collect();
        moments.resize(self.slot_count(), false);
        Ok(RowFields::new(slots, moments, dates, limits))
    }

    /// How many of the columns that the feed maps are among `names`, and how many there are.
    pub fn expected_among(&self, names: &[String]) -> (usize, usize) {
        let known: Vec<Option<Slot>> = names.iter().map(|name| self.slot(name)).collect();
        let expected = self.expected();
        let found = expected
            .iter()
            .filter(|(slot, _)| known.contains(&Some(Slot::Wanted(*slot))))
            .count();
        (found, expected.len())
    }

    fn bind_names(&self, names: &[String], limits: &Limits) -> Result<Vec<Slot>, HeaderFault> {
        if names.len() > limits.columns {
            return Err(HeaderFault::TooManyColumns {
                found: names.len(),
                limit: limits.columns,
            });
        }
        let expected = self.expected();
        let known: Vec<Option<Slot>> = names.iter().map(|name| self.slot(name)).collect();
        let is_there = |slot: usize| known.contains(&Some(Slot::Wanted(slot)));
        let found = expected.iter().filter(|(slot, _)| is_there(*slot)).count();
        if found * 2 < expected.len() {
            return Err(HeaderFault::NotAHeader {
                found,
                expected: expected.len(),
            });
        }
        let unknown: Vec<String> = names
            .iter()
            .zip(&known)
            .filter(|(_, slot)| slot.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        if !unknown.is_empty() {
            return Err(HeaderFault::Unknown { columns: unknown });
        }
        let again = |i: usize, j: usize| {
            let same_column = known[i] == known[j] && matches!(known[i], Some(Slot::Wanted(_)));
            same_column || names[i].eq_ignore_ascii_case(&names[j])
        };
        let twice: Vec<String> = (0..names.len())
            .filter(|i| (0..*i).any(|j| again(*i, j)))
            .map(|i| names[i].clone())
            .collect();
        if !twice.is_empty() {
            return Err(HeaderFault::Duplicate { columns: twice });
        }
        let missing: Vec<String> = expected
            .iter()
            .filter(|(slot, _)| !is_there(*slot))
            .map(|(_, options)| options.join(" or "))
            .collect();
        if !missing.is_empty() {
            return Err(HeaderFault::Missing { columns: missing });
        }
        Ok(known.into_iter().flatten().collect())
    }

    /// Binds the keys of JSON objects to slots.
    pub fn bind_keys(&self, limits: &Limits) -> JsonFields {
        JsonFields::new(self.named_slots(), self.slot_count(), limits)
    }

    /// Binds the elements of messages to slots; none when the feed has no messages.
    pub fn bind_elements(&self, limits: &Limits) -> Option<MessageFields> {
        let form = self.feed.message.as_ref()?;
        let slots = self.named_slots();
        Some(MessageFields::new(form, slots, self.slot_count(), limits))
    }

    /// Every name that the feed knows, with its slot.
    fn named_slots(&self) -> impl Iterator<Item = (String, Slot)> {
        let mark = self.feed.tombstone.iter().map(|t| &t.column);
        let mut names: Vec<&String> = self
            .feed
            .columns
            .keys()
            .chain(&self.feed.ignored)
            .chain(mark)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.slot(name)?)))
    }

    /// Where the source column `name` goes; none when the feed does not know it.
    ///
    /// A mark of retraction that also fills a column goes to the column; [`Plan::mark`] says where to look.
    pub fn slot(&self, name: &str) -> Option<Slot> {
        let is_mark = self.feed.marks_retraction(name);
        if let Some(column) = self.feed.column_of(name) {
            let landed = self.columns.iter().position(|c| c.name == column);
            return Some(match landed {
                Some(slot) => Slot::Wanted(slot),
                None if is_mark => Slot::Wanted(self.mark_slot()),
                None => Slot::Dropped,
            });
        }
        if is_mark {
            return Some(Slot::Wanted(self.mark_slot()));
        }
        self.feed.ignores(name).then_some(Slot::Dropped)
    }

    /// What a file must carry: per landed column that the feed maps, and for the mark of retractions, the names that
    /// may stand for it.
    fn expected(&self) -> Vec<(usize, Vec<&str>)> {
        let mut expected: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        let mark = self.feed.tombstone.iter().map(|t| &t.column);
        for name in self.feed.columns.keys().chain(mark) {
            if let Some(Slot::Wanted(slot)) = self.slot(name) {
                let names = expected.entry(slot).or_default();
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        expected.into_iter().collect()
    }
}

/// Delimiters that may stand inside a GB18030 character would cut it in two.
fn check_encoding(feed: &FeedSpec) -> Result<(), String> {
    if feed.format != FeedFormat::Csv {
        return Ok(());
    }
    let delimiter = feed.delimiter;
    if matches!(delimiter, QUOTE | b'\n' | b'\r' | 0) || !delimiter.is_ascii() {
        return Err(
            "its delimiter cannot separate fields: use a comma, a semicolon, a tab or a bar".into(),
        );
    }
    if feed.encoding != Encoding::Utf8 && (delimiter.is_ascii_digit() || delimiter >= 0x40) {
        let shown = char::from(delimiter);
        return Err(format!(
            "its delimiter `{shown}` may be part of a GB18030 character: declare `utf-8` or use another"
        ));
    }
    Ok(())
}

fn plan_column(
    feed: &FeedSpec,
    contract: &Contract,
    column: &Column,
    index: &BTreeMap<&str, usize>,
) -> Result<PlanColumn, String> {
    let name = &column.name;
    let shift = value::unit_exponent(feed.unit_of(column)) - value::unit_exponent(column.unit);
    let mapped = feed.columns.values().any(|c| c == name);
    let origin = match feed.constants.get(name) {
        Some(_) if mapped => {
            return Err(format!(
                "it fills `{name}` both from a column and with a constant"
            ));
        }
        Some(text) => constant(column, text)?,
        None if mapped => Origin::Field,
        None => Origin::Absent,
    };
    let landed = |other: &String| {
        index
            .get(other.as_str())
            .copied()
            .ok_or_else(|| format!("`{name}` refers to `{other}`, which does not land"))
    };
    let mut rules = Vec::new();
    for rule in &column.quality {
        match rule {
            QualityRule::NotNull => {}
            QualityRule::Range { min, max } => {
                rules.push(Rule::Range {
                    min: min.map(bound),
                    max: max.map(bound),
                });
            }
            QualityRule::Length { min, max } => rules.push(Rule::Length {
                min: *min as usize,
                max: *max as usize,
            }),
            QualityRule::Pattern(pattern) => rules.push(Rule::Pattern(pattern.clone())),
            QualityRule::NotAfter { column } => rules.push(Rule::NotAfter(landed(column)?)),
        }
    }
    if let Some(reference) = &column.code_list {
        let list = CodeList::get(&reference.name).ok_or_else(|| {
            format!(
                "`{name}` takes its codes from `{}`, a list nobody knows",
                reference.name
            )
        })?;
        let at = reference.at.as_ref().map(landed).transpose()?;
        rules.push(Rule::Code { list, at });
    }
    let key = contract.key.contains(name) || contract.uscc == *name;
    Ok(PlanColumn {
        name: name.clone(),
        ty: column.ty,
        origin,
        required: !column.nullable || key || column.quality.contains(&QualityRule::NotNull),
        identity: key || contract.sequence.contains(name),
        key,
        shift,
        unit_exponent: value::unit_exponent(column.unit),
        currency: currency_of(contract, column, index),
        rules,
    })
}

fn constant(column: &Column, text: &str) -> Result<Origin, String> {
    let name = &column.name;
    if column.level == Level::L4 {
        return Err(format!("it fills `{name}`, which is never landed"));
    }
    let value = value::read(value::trim(text), column.ty, 0)
        .map_err(|reason| format!("its constant for `{name}` is no {} ({reason})", column.ty))?;
    Ok(Origin::Constant {
        value,
        text: value::trim(text).to_owned(),
    })
}

fn bound(bound: Bound) -> i128 {
    match bound {
        Bound::Number(number) => number,
        Bound::Date(date) => value::days_of(date).into(),
    }
}

/// The column with the currency of the amount `column`: its name with `cur` or `_currency` behind it.
fn currency_of(
    contract: &Contract,
    column: &Column,
    index: &BTreeMap<&str, usize>,
) -> Option<usize> {
    if !column.ty.is_number() {
        return None;
    }
    let name = &column.name;
    [
        format!("{name}cur"),
        format!("{name}_cur"),
        format!("{name}_currency"),
    ]
    .iter()
    .find_map(|other| {
        let other_column = contract.column(other)?;
        let is_currency = other_column
            .code_list
            .as_ref()
            .is_some_and(|r| r.name == CURRENCY_LIST);
        (is_currency && other_column.ty == ColumnType::String)
            .then(|| index.get(other.as_str()).copied())
            .flatten()
    })
}

fn schema(landed: &[&Column]) -> SchemaRef {
    let number = Field::new(NUMBER_COLUMN, DataType::Int32, false);
    let columns = landed
        .iter()
        .map(|c| Field::new(&c.name, arrow_type(c.ty), true));
    Arc::new(Schema::new(
        std::iter::once(number).chain(columns).collect::<Vec<_>>(),
    ))
}

/// The Arrow type of a column.
pub(crate) fn arrow_type(ty: ColumnType) -> DataType {
    match ty {
        ColumnType::String => DataType::Utf8,
        ColumnType::Date => DataType::Date32,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}
