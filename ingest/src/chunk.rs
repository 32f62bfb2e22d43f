//! Checks records and gathers the good ones, column by column, into Arrow builders.
//!
//! A record is first read into values of its own (nothing is allocated), then checked, then either appended to every
//! builder or handed to quarantine; a builder never sees half a record.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanBufferBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
        Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
    },
    buffer::BooleanBuffer,
};
use qihui_catalog::{ColumnType, NumberRequest, Uscc};

use crate::{
    checkpoint::Position,
    fields::Fields,
    plan::{Origin, Plan, PlanColumn, Rule, arrow_type},
    reason::{Problem, Reason},
    value::{self, Value},
};

/// The most problems that one record is reported with.
const MAX_PROBLEMS: usize = 16;

/// Where a landed row stood in its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowAt {
    pub offset: u64,
    pub line: u64,
    pub length: u32,
    /// How far before `offset` the head begins that the row shares with others; 0 without one.
    pub head_before: u32,
    pub head_length: u32,
}

/// A record for quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub offset: u64,
    /// The sheet or document it stands in.
    pub part: Option<Arc<str>>,
    /// The line there.
    pub line: u64,
    /// The length of the whole record, in bytes; of a line of a message, with the head before it.
    pub length: u64,
    /// SHA-256 of the whole record.
    pub sha256: [u8; 32],
    pub problems: Vec<Problem>,
    /// The record, or its head.
    pub kept: Vec<u8>,
}

/// The good records of a chunk.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// The landed columns, without `_no`.
    pub columns: Vec<ArrayRef>,
    /// Which rows are retractions.
    pub retract: BooleanBuffer,
    pub at: Vec<RowAt>,
    /// Per row, its enterprise in `enterprises`.
    pub enterprise: Vec<u32>,
    pub enterprises: Vec<NumberRequest>,
}

/// What was read between two positions of a source.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub from: Position,
    pub to: Position,
    pub rows: Rows,
    pub rejected: Vec<Rejected>,
    /// SHA-256 of the bytes from `from` to `to`.
    pub input_hash: [u8; 32],
}

/// Checks the records of one source and gathers the good ones.
pub(crate) struct Gatherer {
    plan: Arc<Plan>,
    builders: Vec<Builder>,
    retract: BooleanBufferBuilder,
    at: Vec<RowAt>,
    enterprise: Vec<u32>,
    enterprises: Vec<NumberRequest>,
    known: HashMap<Uscc, u32>,
    record: Record,
}

/// The values of one record.
#[derive(Default)]
struct Record {
    values: Vec<Value>,
    uscc: Option<Uscc>,
    /// Per column, the currency its amount names.
    currency: Option<(usize, &'static str)>,
    problems: Vec<(Reason, Option<usize>)>,
}

impl Record {
    fn wrong(&mut self, reason: Reason, column: usize) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push((reason, Some(column)));
        }
    }
}

impl Gatherer {
    /// Gathers rows for `plan`.
    pub fn new(plan: Arc<Plan>) -> Self {
        let builders = plan.columns.iter().map(Builder::new).collect();
        Self {
            builders,
            retract: BooleanBufferBuilder::new(0),
            at: Vec::new(),
            enterprise: Vec::new(),
            enterprises: Vec::new(),
            known: HashMap::new(),
            record: Record::default(),
            plan,
        }
    }

    /// Takes a record in, or says what is wrong with it.
    pub fn take(&mut self, text: &str, fields: &Fields, at: RowAt) -> Result<(), Vec<Problem>> {
        self.gather(text, fields, at, false)
    }

    /// Takes the retraction of a record in, of which `fields` hold what is known.
    pub fn take_retraction(&mut self, fields: &Fields, at: RowAt) -> Result<(), Vec<Problem>> {
        self.gather("", fields, at, true)
    }

    fn gather(
        &mut self,
        text: &str,
        fields: &Fields,
        at: RowAt,
        retract: bool,
    ) -> Result<(), Vec<Problem>> {
        let plan = Arc::clone(&self.plan);
        let source = Source {
            plan: &plan,
            text,
            fields,
        };
        let retract = retract || source.is_retraction();
        self.record.values.clear();
        self.record.problems.clear();
        self.record.uscc = None;
        self.record.currency = None;
        for column in 0..plan.columns.len() {
            let value = source.value(column, retract, &mut self.record);
            self.record.values.push(value);
        }
        for column in 0..plan.columns.len() {
            source.check(column, retract, &mut self.record);
        }
        let Some(uscc) = self.record.uscc.filter(|_| self.record.problems.is_empty()) else {
            return Err(self.problems());
        };
        self.append(&source, uscc);
        self.retract.append(retract);
        self.at.push(at);
        let next = u32::try_from(self.enterprises.len()).unwrap_or(u32::MAX);
        let enterprise = *self.known.entry(uscc).or_insert_with(|| {
            self.enterprises
                .push(source.request(uscc, &self.record.values));
            next
        });
        self.enterprise.push(enterprise);
        Ok(())
    }

    /// The rows gathered since the last call.
    pub fn finish(&mut self) -> Rows {
        self.known.clear();
        Rows {
            columns: self.builders.iter_mut().map(Builder::finish).collect(),
            retract: self.retract.finish(),
            at: std::mem::take(&mut self.at),
            enterprise: std::mem::take(&mut self.enterprise),
            enterprises: std::mem::take(&mut self.enterprises),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let named = |(code, column): &(Reason, Option<usize>)| Problem {
            code: *code,
            column: column.map(|c| self.plan.columns[c].name.clone()),
        };
        self.record.problems.iter().map(named).collect()
    }

    fn append(&mut self, source: &Source<'_>, uscc: Uscc) {
        let currency = self.record.currency;
        for (column, builder) in self.builders.iter_mut().enumerate() {
            let value = self.record.values[column];
            match builder {
                Builder::Text(builder) => match value {
                    _ if column == source.plan.uscc => builder.append_value(uscc.as_str()),
                    Value::Text => builder.append_value(source.text(column)),
                    _ => match currency {
                        Some((of, code)) if of == column => builder.append_value(code),
                        _ => builder.append_null(),
                    },
                },
                Builder::Date(builder) => builder.append_option(match value {
                    Value::Date(days) => Some(days),
                    _ => None,
                }),
                Builder::Boolean(builder) => builder.append_option(match value {
                    Value::Boolean(flag) => Some(flag),
                    _ => None,
                }),
                Builder::Int32(builder) => builder.append_option(match value {
                    Value::Int32(number) => Some(number),
                    _ => None,
                }),
                Builder::Int64(builder) => builder.append_option(match value {
                    Value::Int64(number) => Some(number),
                    _ => None,
                }),
                Builder::Decimal(builder) => builder.append_option(match value {
                    Value::Decimal(number) => Some(number),
                    _ => None,
                }),
                Builder::Timestamp(builder) => builder.append_option(match value {
                    Value::Timestamp(micros) => Some(micros),
                    _ => None,
                }),
            }
        }
    }
}

/// One record and how to read it.
struct Source<'a> {
    plan: &'a Plan,
    text: &'a str,
    fields: &'a Fields,
}

impl<'a> Source<'a> {
    fn is_retraction(&self) -> bool {
        self.plan.mark.as_ref().is_some_and(|(slot, mark)| {
            self.fields
                .get(self.text, *slot)
                .is_some_and(|text| value::trim(text) == mark)
        })
    }

    /// The text of a column that has one.
    fn text(&self, column: usize) -> &'a str {
        match &self.plan.columns[column].origin {
            Origin::Field => value::trim(self.fields.get(self.text, column).unwrap_or_default()),
            Origin::Constant { text, .. } => text,
            Origin::Absent => "",
        }
    }

    fn value(&self, column: usize, retract: bool, record: &mut Record) -> Value {
        let plan = &self.plan.columns[column];
        if retract && !plan.identity {
            return Value::Null;
        }
        match &plan.origin {
            Origin::Absent => Value::Null,
            Origin::Constant { value, .. } => *value,
            Origin::Field => {
                let text = self.text(column);
                if value::is_null_word(text) {
                    return Value::Null;
                }
                if column == self.plan.uscc {
                    return match Uscc::normalise(text) {
                        Ok(uscc) => {
                            record.uscc = Some(uscc);
                            Value::Text
                        }
                        Err(error) => {
                            record.wrong(error.into(), column);
                            Value::Text
                        }
                    };
                }
                self.read(plan, column, text, record)
            }
        }
    }

    fn read(&self, plan: &PlanColumn, column: usize, text: &str, record: &mut Record) -> Value {
        if plan.ty == ColumnType::Boolean
            && let Some((_, value)) = self.plan.booleans.iter().find(|(word, _)| word == text)
        {
            // The source's own words win over the usual ones.
            return Value::Boolean(*value);
        }
        let read = match value::read(text, plan.ty, plan.shift) {
            Err(Reason::BadNumber) => self.amount(plan, text, record),
            other => other,
        };
        read.unwrap_or_else(|reason| {
            record.wrong(reason, column);
            // Something stands there: it is wrong, not missing.
            Value::Text
        })
    }

    /// Reads an amount in words, whose unit wins over the source's.
    fn amount(&self, plan: &PlanColumn, text: &str, record: &mut Record) -> Result<Value, Reason> {
        let amount = value::amount(text).ok_or(Reason::BadNumber)?;
        let shift = match amount.exponent {
            None => plan.shift,
            Some(exponent) => exponent - plan.unit_exponent,
        };
        let value = value::read(amount.number, plan.ty, shift)?;
        let Some(currency) = amount.currency else {
            return Ok(value);
        };
        match plan.currency {
            Some(other) => record.currency = Some((other, currency)),
            // Without a column for it the hub's currency is the yuan.
            None if currency == "CNY" => {}
            None => return Err(Reason::CurrencyMismatch),
        }
        Ok(value)
    }

    fn check(&self, column: usize, retract: bool, record: &mut Record) {
        let plan = &self.plan.columns[column];
        let value = record.values[column];
        if value == Value::Null {
            let filled = record.currency.is_some_and(|(of, _)| of == column);
            if !filled && if retract { plan.key } else { plan.required } {
                record.wrong(Reason::MissingValue, column);
            }
            return;
        }
        if let Some((of, code)) = record.currency
            && of == column
            && self.text(column) != code
        {
            record.wrong(Reason::CurrencyMismatch, column);
        }
        // What could not be read has its problem already.
        let unreadable = column == self.plan.uscc && record.uscc.is_none();
        if unreadable
            || plan.rules.is_empty()
            || (value == Value::Text) != (plan.ty == ColumnType::String)
        {
            return;
        }
        for rule in &plan.rules {
            if !self.holds(rule, column, value, &record.values) {
                let reason = if matches!(rule, Rule::Code { .. }) {
                    Reason::UnknownCode
                } else {
                    Reason::RuleBroken
                };
                record.wrong(reason, column);
            }
        }
    }

    fn holds(&self, rule: &Rule, column: usize, value: Value, values: &[Value]) -> bool {
        match rule {
            Rule::Range { min, max } => ordinal(value)
                .is_none_or(|n| min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max)),
            Rule::Length { min, max } => (*min..=*max).contains(&self.text(column).chars().count()),
            Rule::Pattern(pattern) => pattern.matches(self.text(column)),
            Rule::NotAfter(other) => match (ordinal(value), ordinal(values[*other])) {
                (Some(this), Some(other)) => this <= other,
                _ => true,
            },
            Rule::Code { list, at } => {
                let on = at.and_then(|at| match values[at] {
                    Value::Date(days) => value::date_of(days),
                    _ => None,
                });
                list.contains(self.text(column), on)
            }
        }
    }

    fn request(&self, uscc: Uscc, values: &[Value]) -> NumberRequest {
        let text = |column: Option<usize>| {
            column
                .filter(|c| values[*c] == Value::Text)
                .map(|c| self.text(c))
        };
        let county = |column: &usize| -> Option<[u8; 6]> {
            let county: [u8; 6] = text(Some(*column))?.as_bytes().get(..6)?.try_into().ok()?;
            county.iter().all(u8::is_ascii_digit).then_some(county)
        };
        let county = self.plan.counties.iter().find_map(county);
        NumberRequest {
            uscc,
            county,
            section: text(self.plan.industry)
                .and_then(qihui_catalog::codes::industries::section_of),
        }
    }
}

/// The place of a value in the order of its column.
fn ordinal(value: Value) -> Option<i128> {
    match value {
        Value::Date(days) => Some(days.into()),
        Value::Timestamp(micros) => Some(micros.into()),
        other => other.number(),
    }
}

/// The builder of one column.
enum Builder {
    Text(StringBuilder),
    Date(Date32Builder),
    Boolean(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Decimal(Decimal128Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Builder {
    fn new(column: &PlanColumn) -> Self {
        match column.ty {
            ColumnType::String => Self::Text(StringBuilder::new()),
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ColumnType::Int32 => Self::Int32(Int32Builder::new()),
            ColumnType::Int64 => Self::Int64(Int64Builder::new()),
            ColumnType::Decimal { .. } => {
                Self::Decimal(Decimal128Builder::new().with_data_type(arrow_type(column.ty)))
            }
            ColumnType::Timestamp => Self::Timestamp(
                TimestampMicrosecondBuilder::new().with_data_type(arrow_type(column.ty)),
            ),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Decimal(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
        }
    }
}
