//! How a contract becomes a table: columns, order, partitions, properties.
//!
//! The first column is `_no`, the hidden enterprise number, and the only one that is never null; then come the landed
//! columns of the contract. Every other column may be null in the file, because a tombstone fills only the key, `uscc`
//! and the sequence; what a row must have is checked before it lands. Columns keep the position they got when they
//! were added: new ones go to the end, wherever the contract names them. Look columns up by name.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use qihui_catalog::{Column, ColumnType, Contract, DatasetId, Partition, contract::USCC_COLUMN};
use serde_json::{Value, json};

use crate::error::WarehouseError;

/// The hidden column with the enterprise number.
pub const NO_COLUMN: &str = "_no";
/// The partition column that tells rows from tombstones.
pub const STATE_COLUMN: &str = "_state";
/// The partition column with the year or month of the event date.
pub const PERIOD_COLUMN: &str = "_period";
/// `_state` of rows.
pub const LIVE: &str = "live";
/// `_state` of tombstones.
pub const RETRACTED: &str = "retracted";
/// The table property with what the table is built on: key, sequence, event date, partition.
pub(crate) const FRAME_PROPERTY: &str = "qihui.layout";
const FRAME_VERSION: u64 = 1;

/// The Arrow type of a contract's column type.
#[must_use]
pub fn arrow_type(ty: ColumnType) -> DataType {
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

fn field(column: &Column) -> Field {
    Field::new(&column.name, arrow_type(column.ty), true)
}

/// The schema that [`crate::Incoming::batch`] must have: `_no`, then the landed columns in the contract's order.
///
/// A table whose contract grew may keep its columns in another order ([`crate::Snapshot::schema`]).
#[must_use]
pub fn incoming_schema(contract: &Contract) -> SchemaRef {
    let no = Field::new(NO_COLUMN, DataType::Int32, false);
    Arc::new(Schema::new(
        std::iter::once(no)
            .chain(contract.landed().map(field))
            .collect::<Vec<_>>(),
    ))
}

/// What of the contract a table is built on. It is kept with the table and never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    key: Vec<String>,
    sequence: Vec<String>,
    event_date: Option<String>,
    partition: Partition,
}

impl Frame {
    fn of(contract: &Contract) -> Self {
        Self {
            key: contract.key.clone(),
            sequence: contract.sequence.clone(),
            event_date: contract.event_date.clone(),
            partition: if contract.event_date.is_some() {
                contract.partition
            } else {
                Partition::None
            },
        }
    }

    fn to_json(&self) -> Value {
        let partition = match self.partition {
            Partition::None => "none",
            Partition::Year => "year",
            Partition::Month => "month",
        };
        json!({
            "version": FRAME_VERSION,
            "key": self.key,
            "sequence": self.sequence,
            "eventDate": self.event_date,
            "partition": partition,
        })
    }

    fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let names = |name: &str| {
            let names = value.get(name)?.as_array()?.iter();
            names
                .map(|name| name.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        };
        if value.get("version")?.as_u64()? != FRAME_VERSION {
            return None;
        }
        Some(Self {
            key: names("key")?,
            sequence: names("sequence")?,
            event_date: value.get("eventDate")?.as_str().map(str::to_owned),
            partition: match value.get("partition")?.as_str()? {
                "none" => Partition::None,
                "year" => Partition::Year,
                "month" => Partition::Month,
                _ => return None,
            },
        })
    }
}

/// Where files are cut. Only tests use other than the default limits.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A file is closed once it has this many bytes; the last batch may carry it beyond, within 128 MB.
    pub full_bytes: usize,
    /// The greatest number of rows of a file.
    pub file_rows: usize,
    /// How many rows are decoded, merged or encoded at a time; at most `file_rows`.
    pub batch_rows: usize,
    /// Files of one partition that lose rows are written again as one while they are no larger than this together.
    pub together_bytes: u64,
    /// Files from this size on are not merged for being small.
    pub large_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            full_bytes: 112 << 20,
            file_rows: 2 << 20,
            batch_rows: 64 << 10,
            together_bytes: 32 << 20,
            large_bytes: 32 << 20,
        }
    }
}

/// The physical form of a table.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub dataset: DatasetId,
    pub limits: Limits,
    frame: Frame,
    /// `_no` and the landed columns in the order of the table.
    pub schema: SchemaRef,
    /// Positions of the key columns, in the order of the contract's key.
    pub key: Vec<usize>,
    /// Positions of the sequence columns, most significant first.
    pub sequence: Vec<usize>,
    pub event_date: Option<usize>,
    pub partition: Partition,
    /// Whether a tombstone keeps the column.
    pub kept: Vec<bool>,
}

impl Layout {
    /// The layout of a new table.
    pub fn of(contract: &Contract) -> Result<Self, WarehouseError> {
        Self::build(
            contract.id.clone(),
            Frame::of(contract),
            incoming_schema(contract),
        )
    }

    /// The layout of a table as its log describes it: the schema, and what [`Layout::frame`] wrote.
    pub fn stored(
        dataset: &DatasetId,
        schema: SchemaRef,
        frame: &str,
    ) -> Result<Self, WarehouseError> {
        let frame = Frame::from_json(frame).ok_or_else(|| WarehouseError::UnsupportedTable {
            dataset: dataset.clone(),
            reason: format!("its property `{FRAME_PROPERTY}` cannot be read"),
        })?;
        Self::build(dataset.clone(), frame, schema)
    }

    /// This layout, grown by the columns that are new in `contract`.
    pub fn grown(&self, contract: &Contract) -> Result<Self, WarehouseError> {
        let wanted = incoming_schema(contract);
        let refuse = |reason: String| WarehouseError::ContractIncompatible {
            dataset: contract.id.clone(),
            reason,
        };
        if Frame::of(contract) != self.frame {
            return Err(refuse(
                "it changes the key, the sequence, the event date or the partition".to_owned(),
            ));
        }
        for field in self.schema.fields() {
            match wanted.field_with_name(field.name()) {
                Err(_) => {
                    return Err(refuse(format!(
                        "it no longer lands the column `{}`",
                        field.name()
                    )));
                }
                Ok(new) if new.data_type() != field.data_type() => {
                    return Err(refuse(format!(
                        "it changes the type of the column `{}`",
                        field.name()
                    )));
                }
                Ok(_) => {}
            }
        }
        let new = wanted
            .fields()
            .iter()
            .filter(|field| self.schema.field_with_name(field.name()).is_err());
        let fields: Vec<_> = self.schema.fields().iter().chain(new).cloned().collect();
        Self::build(
            self.dataset.clone(),
            self.frame.clone(),
            Arc::new(Schema::new(fields)),
        )
    }

    fn build(dataset: DatasetId, frame: Frame, schema: SchemaRef) -> Result<Self, WarehouseError> {
        let position = |name: &String| {
            schema
                .index_of(name)
                .map_err(|_| WarehouseError::ContractIncompatible {
                    dataset: dataset.clone(),
                    reason: format!("it lands no column `{name}`"),
                })
        };
        let positions =
            |names: &[String]| names.iter().map(position).collect::<Result<Vec<_>, _>>();
        let (key, sequence) = (positions(&frame.key)?, positions(&frame.sequence)?);
        let uscc = position(&USCC_COLUMN.to_owned())?;
        let event_date = frame.event_date.as_ref().map(position).transpose()?;
        let kept = (0..schema.fields().len())
            .map(|i| i == 0 || i == uscc || key.contains(&i) || sequence.contains(&i));
        Ok(Self {
            limits: Limits::default(),
            kept: kept.collect(),
            key,
            sequence,
            event_date,
            partition: frame.partition,
            dataset,
            frame,
            schema,
        })
    }

    /// The property that keeps what the table is built on.
    pub fn frame(&self) -> String {
        self.frame.to_json().to_string()
    }

    /// The partition columns, in the table's order.
    pub fn partition_columns(&self) -> &'static [&'static str] {
        match self.partition {
            Partition::None => &[STATE_COLUMN],
            Partition::Year | Partition::Month => &[STATE_COLUMN, PERIOD_COLUMN],
        }
    }

    /// The columns the log keeps least and greatest values of: `_no`, keys, dates.
    pub fn statistics_columns(&self) -> Vec<usize> {
        let plain = |i: &usize| {
            matches!(
                self.schema.field(*i).data_type(),
                DataType::Int32 | DataType::Int64 | DataType::Utf8
            )
        };
        (0..self.schema.fields().len())
            .filter(|i| {
                *i == 0
                    || *self.schema.field(*i).data_type() == DataType::Date32
                    || (self.key.contains(i) && plain(i))
            })
            .collect()
    }

    /// The name of the period that holds `days` since the epoch: `2025` or `2025-03`.
    pub fn period(&self, days: Option<i32>) -> Option<String> {
        let date = arrow::temporal_conversions::date32_to_datetime(days?)?;
        match self.partition {
            Partition::None => None,
            Partition::Year => Some(date.format("%Y").to_string()),
            Partition::Month => Some(date.format("%Y-%m").to_string()),
        }
    }
}

/// A partition of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub retracted: bool,
    /// None: the table is not cut by period, or the event date is null.
    pub period: Option<String>,
}

impl Place {
    pub fn state(&self) -> &'static str {
        if self.retracted { RETRACTED } else { LIVE }
    }

    /// Values of the partition columns, as the log spells them.
    pub fn values(
        &self,
        layout_columns: &[&str],
    ) -> std::collections::HashMap<String, Option<String>> {
        let value = |column: &&str| match *column {
            STATE_COLUMN => Some(self.state().to_owned()),
            _ => self.period.clone(),
        };
        layout_columns
            .iter()
            .map(|column| ((*column).to_owned(), value(column)))
            .collect()
    }

    /// The folder of the partition, relative to the table.
    pub fn folder(&self, layout_columns: &[&str]) -> String {
        let part = |column: &&str| match *column {
            STATE_COLUMN => format!("{STATE_COLUMN}={}", self.state()),
            _ => format!(
                "{PERIOD_COLUMN}={}",
                self.period
                    .as_deref()
                    .unwrap_or("__HIVE_DEFAULT_PARTITION__")
            ),
        };
        layout_columns
            .iter()
            .map(part)
            .collect::<Vec<_>>()
            .join("/")
    }
}
