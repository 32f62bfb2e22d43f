//! From what a product's table holds and what its statement now gives to the rows that land.
//!
//! A row that is the same but for its build number is left alone; one that the statement no longer gives is retracted.
//! So what the table's change feed says of a product is what changed about an enterprise, and nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int32Array, Int64Array, RecordBatch};
use arrow::array::{BooleanBufferBuilder, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use qihui_catalog::contract::USCC_COLUMN;
use qihui_catalog::{BUILD_COLUMN, Contract};
use qihui_warehouse::{Incoming, NO_COLUMN, incoming_schema};

/// What does not fit between a product's rows and what was shown about its statement.
#[derive(Debug)]
pub(super) enum Fault {
    Unsound(&'static str),
    Kernel(ArrowError),
}

impl From<ArrowError> for Fault {
    fn from(error: ArrowError) -> Self {
        Self::Kernel(error)
    }
}

/// The rows of a chunk that land.
#[derive(Debug)]
pub(super) struct Difference {
    pub incoming: Incoming,
    /// Rows that stay as they are.
    pub unchanged: u64,
}

/// The columns of a product that its statement, or the windows of its inputs, give: all but the build number.
pub(super) fn made_columns(contract: &Contract) -> Vec<&str> {
    contract
        .landed()
        .map(|column| column.name.as_str())
        .filter(|name| *name != BUILD_COLUMN)
        .collect()
}

fn encoded(batch: &RecordBatch, names: &[&str]) -> Result<Rows, Fault> {
    let columns: Option<Vec<ArrayRef>> = names
        .iter()
        .map(|name| batch.column_by_name(name).cloned())
        .collect();
    let columns = columns.ok_or(Fault::Unsound("a column is missing"))?;
    let fields = columns
        .iter()
        .map(|column| SortField::new(column.data_type().clone()))
        .collect();
    Ok(RowConverter::new(fields)?.convert_columns(&columns)?)
}

/// Compares the rows that a product's table holds with those that it should hold. Both have the made columns;
/// `numbers` gives the number of each enterprise that they may be about.
pub(super) fn difference(
    contract: &Contract,
    old: &RecordBatch,
    new: &RecordBatch,
    numbers: &HashMap<String, i32>,
    build: i64,
) -> Result<Difference, Fault> {
    let key: Vec<&str> = contract.key.iter().map(String::as_str).collect();
    let made = made_columns(contract);
    for name in &key {
        let column = new.column_by_name(name);
        if column.is_none_or(|column| column.null_count() > 0) {
            return Err(Fault::Unsound("a key column is null"));
        }
    }
    let (old_keys, new_keys) = (encoded(old, &key)?, encoded(new, &key)?);
    let (old_rows, new_rows) = (encoded(old, &made)?, encoded(new, &made)?);
    let mut standing = HashMap::with_capacity(old.num_rows());
    for (row, key) in (0_u32..).zip(&old_keys) {
        standing.insert(key, row);
    }
    let mut given = HashSet::with_capacity(new.num_rows());
    let (mut lands, mut leaves, mut unchanged) = (Vec::new(), Vec::new(), 0);
    for (row, key) in (0_u32..).zip(&new_keys) {
        if !given.insert(key) {
            return Err(Fault::Unsound("two rows agree in the key"));
        }
        let same = standing
            .get(&key)
            .is_some_and(|at| old_rows.row(*at as usize) == new_rows.row(row as usize));
        if same {
            unchanged += 1;
        } else {
            lands.push(row);
        }
    }
    for (row, key) in (0_u32..).zip(&old_keys) {
        if !given.contains(&key) {
            leaves.push(row);
        }
    }
    let (lands, leaves) = (UInt32Array::from(lands), UInt32Array::from(leaves));
    let incoming = incoming(contract, [(new, &lands), (old, &leaves)], numbers, build)?;
    Ok(Difference {
        incoming,
        unchanged,
    })
}

/// A chunk of the rows that land, then those that leave.
fn incoming(
    contract: &Contract,
    [(new, lands), (old, leaves)]: [(&RecordBatch, &UInt32Array); 2],
    numbers: &HashMap<String, i32>,
    build: i64,
) -> Result<Incoming, Fault> {
    let schema = incoming_schema(contract);
    let rows = lands.len() + leaves.len();
    let chosen = |name: &str| -> Result<ArrayRef, Fault> {
        let of = |batch: &RecordBatch, rows: &UInt32Array| {
            let column = batch.column_by_name(name);
            let column = column.ok_or(Fault::Unsound("a column is missing"))?;
            Ok::<_, Fault>(take(column, rows, None)?)
        };
        let (lands, leaves) = (of(new, lands)?, of(old, leaves)?);
        Ok(concat(&[lands.as_ref(), leaves.as_ref()])?)
    };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match field.name().as_str() {
            NO_COLUMN => numbered(&chosen(USCC_COLUMN)?, numbers)?,
            BUILD_COLUMN => Arc::new(Int64Array::from(vec![build; rows])),
            name => chosen(name)?,
        });
    }
    let mut retract = BooleanBufferBuilder::new(rows);
    retract.append_n(lands.len(), false);
    retract.append_n(leaves.len(), true);
    Ok(Incoming {
        batch: RecordBatch::try_new(schema, columns)?,
        retract: Some(retract.finish()),
    })
}

fn numbered(codes: &ArrayRef, numbers: &HashMap<String, i32>) -> Result<ArrayRef, Fault> {
    debug_assert_eq!(codes.data_type(), &DataType::Utf8);
    let number = |code: Option<&str>| {
        code.and_then(|code| numbers.get(code).copied())
            .ok_or(Fault::Unsound(
                "a row is about an enterprise that was not read",
            ))
    };
    let numbers = codes
        .as_string::<i32>()
        .iter()
        .map(number)
        .collect::<Result<Vec<i32>, _>>()?;
    Ok(Arc::new(Int32Array::from(numbers)))
}
