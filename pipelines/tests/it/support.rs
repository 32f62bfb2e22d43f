//! Small datasets in memory, statements over them, and a tape of choices that proptest can shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::collect;
use qihui_catalog::{Contract, DatasetId, Timestamp};
use qihui_pipelines::models::lineage::{Relation, lineage};
use qihui_query::QueryError;
use qihui_query::session::{self, ParsedQuery};

/// Choices, one after the other; all zero once used up.
#[derive(Debug, Clone)]
pub struct Tape {
    choices: Vec<u16>,
    next: usize,
}

impl Tape {
    pub fn new(choices: Vec<u16>) -> Self {
        Self { choices, next: 0 }
    }

    /// A number below `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        let choice = self.choices.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        usize::from(choice) % n.max(1)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.pick(100) < percent
    }

    pub fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.pick(items.len())]
    }

    pub fn is_used_up(&self) -> bool {
        self.next >= self.choices.len()
    }
}

/// A cell: an integer or null, for text columns written with a letter before it.
pub type Cell = Option<i64>;

/// A dataset of the small world: whole numbers and texts, some of them the key.
#[derive(Debug, Clone)]
pub struct Small {
    pub name: &'static str,
    /// Name, and whether it is a text.
    pub columns: &'static [(&'static str, bool)],
    pub key: &'static [&'static str],
    pub rows: Vec<Vec<Cell>>,
}

/// A dataset: its name, its columns with whether each is text, its key.
type Form = (
    &'static str,
    &'static [(&'static str, bool)],
    &'static [&'static str],
);

/// The enterprises, the licences of each, and a rating a year.
pub const SHAPES: [Form; 3] = [
    (
        "reg",
        &[("uscc", true), ("a", false), ("b", false), ("s", true)],
        &["uscc"],
    ),
    (
        "lic",
        &[("uscc", true), ("id", false), ("n", false), ("kind", true)],
        &["id"],
    ),
    (
        "rate",
        &[
            ("uscc", true),
            ("year", false),
            ("score", false),
            ("flag", false),
        ],
        &["uscc", "year"],
    ),
];

impl Small {
    pub fn at(&self, column: &str) -> usize {
        self.columns
            .iter()
            .position(|(name, _)| *name == column)
            .unwrap()
    }

    /// Removes rows that agree in the key with an earlier one, or lack a part of it.
    pub fn keyed(mut self) -> Self {
        let key: Vec<usize> = self.key.iter().map(|name| self.at(name)).collect();
        let mut seen = BTreeSet::new();
        self.rows.retain(|row| {
            let key: Vec<Cell> = key.iter().map(|at| row[*at]).collect();
            key.iter().all(Option::is_some) && row[0].is_some() && seen.insert(key)
        });
        self
    }

    pub fn schema(&self) -> SchemaRef {
        let field = |(name, text): &(&str, bool)| {
            let ty = if *text {
                DataType::Utf8
            } else {
                DataType::Int64
            };
            Field::new(*name, ty, true)
        };
        Arc::new(Schema::new(
            self.columns.iter().map(field).collect::<Vec<_>>(),
        ))
    }

    pub fn batch(&self) -> RecordBatch {
        let column = |(at, (_, text)): (usize, &(&str, bool))| -> ArrayRef {
            let cells = self.rows.iter().map(|row| row[at]);
            if *text {
                let texts: StringArray = cells.map(|cell| cell.map(|n| format!("v{n}"))).collect();
                Arc::new(texts)
            } else {
                Arc::new(cells.collect::<Int64Array>())
            }
        };
        let columns = self.columns.iter().enumerate().map(column).collect();
        RecordBatch::try_new(self.schema(), columns).unwrap()
    }

    /// Its contract: every column of its own level does not matter here, the key and the window do.
    pub fn contract(&self) -> Contract {
        let mut properties = String::new();
        for (name, text) in self.columns {
            let (logical, physical) = if *text {
                ("string", "string")
            } else {
                ("integer", "int64")
            };
            let required = *name == "uscc" || self.key.contains(name);
            properties += &format!(
                "      - name: {name}\n        businessName: {name}\n        description: A column.\n        \
                 logicalType: {logical}\n        physicalType: {physical}\n        classification: L1\n        \
                 required: {required}\n"
            );
            if let Some(at) = self.key.iter().position(|key| key == name) {
                properties += &format!(
                    "        primaryKey: true\n        primaryKeyPosition: {}\n",
                    at + 1
                );
            }
        }
        properties += "      - {name: seen, businessName: seen, description: A column., logicalType: integer, \
             physicalType: int64, classification: L1}\n";
        contract(self.name, &properties, "")
    }
}

/// The text of a contract of one dataset from that of its properties and of further custom properties.
pub fn contract_text(name: &str, properties: &str, custom: &str) -> String {
    format!(
        "apiVersion: v3.0.2\nkind: DataContract\nid: {name}\nname: {name}\nversion: 1.0.0\nstatus: active\n\
         domain: test\ndescription: {{purpose: A dataset.}}\ncustomProperties:\n  \
         - {{property: rowLevel, value: L1}}\n  - {{property: sequence, value: [seen]}}\n{custom}\
         schema:\n  - name: {name}\n    logicalType: object\n    physicalType: table\n    businessName: {name}\n    \
         description: 数据集。\n    properties:\n{properties}"
    )
}

/// A contract of one dataset.
pub fn contract(name: &str, properties: &str, custom: &str) -> Contract {
    Contract::from_yaml(Path::new(name), &contract_text(name, properties, custom)).unwrap()
}

/// Every dataset with rows drawn from the tape.
pub fn world(tape: &mut Tape) -> Vec<Small> {
    let small = |(name, columns, key)| Small {
        name,
        columns,
        key,
        rows: Vec::new(),
    };
    let mut world: Vec<Small> = SHAPES.into_iter().map(small).collect();
    for dataset in &mut world {
        for row in 0..3 + tape.pick(6) {
            dataset.rows.push(drawn(dataset, tape, row));
        }
        *dataset = dataset.clone().keyed();
    }
    world
}

fn drawn(dataset: &Small, tape: &mut Tape, row: usize) -> Vec<Cell> {
    let cell = |(name, _): &(&str, bool)| match *name {
        "uscc" => Some(tape.pick(5) as i64),
        "id" => Some(row as i64),
        _ if tape.chance(15) => None,
        _ => Some(tape.pick(4) as i64),
    };
    dataset.columns.iter().map(cell).collect()
}

/// The lineage of a statement over the small world.
pub fn lineage_of(world: &[Small], query: &ParsedQuery) -> Result<Relation, String> {
    let contracts: Vec<Contract> = world.iter().map(Small::contract).collect();
    let contracts: BTreeMap<DatasetId, &Contract> =
        contracts.iter().map(|c| (c.id.clone(), c)).collect();
    let (plan, _) =
        session::plan_as_written(query, tables(world)).map_err(|error| error.to_string())?;
    lineage(&plan, &contracts).map_err(|error| error.to_string())
}

fn tables(world: &[Small]) -> Vec<(String, Arc<dyn TableProvider>)> {
    let table = |dataset: &Small| {
        let batches = match dataset.rows.is_empty() {
            true => Vec::new(),
            false => vec![dataset.batch()],
        };
        let table = MemTable::try_new(dataset.schema(), vec![batches]).unwrap();
        (
            dataset.name.to_owned(),
            Arc::new(table) as Arc<dyn TableProvider>,
        )
    };
    world.iter().map(table).collect()
}

/// The rows of a statement over the small world, as text.
pub async fn answer(world: &[Small], query: &ParsedQuery) -> Result<Vec<Vec<String>>, QueryError> {
    let strict = AtomicBool::new(false);
    let runtime = Arc::new(RuntimeEnv::default());
    let (plan, _, context) =
        session::plan_over(query, tables(world), Timestamp(0), runtime, 2, &strict).await?;
    // The engine panics over an aggregate that is ordered by the same column under two names.
    let batches = tokio::spawn(collect(plan, context)).await;
    let batches = batches.map_err(|_| QueryError::Internal { what: "a panic" })?;
    Ok(rows(
        &batches.map_err(|error| QueryError::from_running(&error))?,
    ))
}

/// Rows as text.
pub fn rows(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("∅");
    let mut rows = Vec::new();
    for batch in batches {
        let formatters: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref() as &dyn Array, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(
                formatters
                    .iter()
                    .map(|f| f.value(row).to_string())
                    .collect(),
            );
        }
    }
    rows
}
