//! A small dataset, rows for it, and readers that know nothing of the crate under test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Int32Array,
        RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    buffer::BooleanBuffer,
    datatypes::{Date32Type, Decimal128Type, Int32Type, TimestampMicrosecondType},
};
use bytes::Bytes;
use deltalake::DeltaTable;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use qihui_catalog::{Contract, Partition};
use qihui_warehouse::{DurableStore, Incoming, Limits, Table, Warehouse, incoming_schema};

/// A record of the test dataset, or its retraction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub serial: u16,
    pub no: i32,
    pub paid_on: Option<i32>,
    pub amount: Option<i128>,
    pub open: Option<bool>,
    pub note: Option<String>,
    pub seen: Option<i64>,
    pub retract: bool,
}

/// The row a record becomes in the table: everything that a reader sees, by column.
pub type Row = (
    bool,
    i32,
    String,
    String,
    Option<i32>,
    Option<i128>,
    Option<bool>,
    Option<String>,
    Option<i64>,
);

impl Record {
    pub fn new(serial: u16, no: i32) -> Self {
        Self {
            serial,
            no,
            paid_on: Some(20_000),
            amount: Some(i128::from(serial) * 100),
            open: Some(true),
            note: None,
            seen: Some(1),
            retract: false,
        }
    }

    pub fn uscc(&self) -> String {
        format!("USCC{:014}", self.no)
    }

    pub fn key(&self) -> String {
        format!("S{}", self.serial)
    }

    pub fn row(&self) -> Row {
        if self.retract {
            (
                true,
                self.no,
                self.uscc(),
                self.key(),
                None,
                None,
                None,
                None,
                self.seen,
            )
        } else {
            let note = self.note.clone();
            (
                false,
                self.no,
                self.uscc(),
                self.key(),
                self.paid_on,
                self.amount,
                self.open,
                note,
                self.seen,
            )
        }
    }
}

/// Columns: uscc, serial (key), paid_on (event date), amount, open, note, seen (sequence).
pub fn contract(partition: Partition) -> Contract {
    contract_with(partition, "1.0.0", &[])
}

/// The same with further text columns, named before the sequence column.
pub fn contract_with(partition: Partition, version: &str, further: &[&str]) -> Contract {
    let mut properties = String::new();
    let columns = [
        ("uscc", "string", "string"),
        ("serial", "string", "string"),
        ("paid_on", "date", "date"),
        ("amount", "number", "decimal(18,2)"),
        ("open", "boolean", "boolean"),
        ("note", "string", "string"),
    ];
    let further = further.iter().map(|name| (*name, "string", "string"));
    for (name, logical, physical) in
        columns
            .into_iter()
            .chain(further)
            .chain([("seen", "date", "timestamp")])
    {
        let key = if name == "serial" {
            "        primaryKey: true\n        primaryKeyPosition: 1\n"
        } else {
            ""
        };
        let required = if matches!(name, "uscc" | "serial") {
            "        required: true\n"
        } else {
            ""
        };
        let _ = write!(
            properties,
            "      - name: {name}\n        businessName: {name}\n        description: A column.\n        \
             logicalType: {logical}\n        physicalType: {physical}\n        classification: L2\n{required}{key}"
        );
    }
    let partition = match partition {
        Partition::None => "",
        Partition::Year => "  - property: partition\n    value: year\n",
        Partition::Month => "  - property: partition\n    value: month\n",
    };
    let text = format!(
        "apiVersion: v3.0.2\nkind: DataContract\nid: levy\nname: Levy\nversion: {version}\nstatus: active\n\
         domain: tax\ndescription:\n  purpose: A test.\ncustomProperties:\n  - property: rowLevel\n    value: L2\n  \
         - property: eventDate\n    value: paid_on\n  - property: sequence\n    value: [seen]\n{partition}  \
         - property: feeds\n    value: [levy]\nschema:\n  - name: levy\n    logicalType: object\n    \
         physicalType: table\n    businessName: 征收\n    description: 测试。\n    properties:\n{properties}"
    );
    Contract::from_yaml(Path::new("levy.yaml"), &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub fn incoming(contract: &Contract, records: &[Record]) -> Incoming {
    let schema = incoming_schema(contract);
    let timestamp =
        TimestampMicrosecondArray::from_iter(records.iter().map(|r| r.seen)).with_timezone("UTC");
    let amount = Decimal128Array::from_iter(records.iter().map(|r| r.amount));
    let column = |name: &str| -> ArrayRef {
        match name {
            "_no" => Arc::new(Int32Array::from_iter_values(records.iter().map(|r| r.no))),
            "uscc" => Arc::new(StringArray::from_iter_values(
                records.iter().map(Record::uscc),
            )),
            "serial" => Arc::new(StringArray::from_iter_values(
                records.iter().map(Record::key),
            )),
            "paid_on" => Arc::new(Date32Array::from_iter(records.iter().map(|r| r.paid_on))),
            "amount" => Arc::new(amount.clone().with_precision_and_scale(18, 2).unwrap()),
            "open" => Arc::new(BooleanArray::from_iter(records.iter().map(|r| r.open))),
            "note" => Arc::new(StringArray::from_iter(
                records.iter().map(|r| r.note.as_deref()),
            )),
            "seen" => Arc::new(timestamp.clone()),
            _ => Arc::new(StringArray::from_iter(
                records.iter().map(|r| Some(format!("new {}", r.serial))),
            )),
        }
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| column(field.name()))
        .collect();
    let retract = BooleanBuffer::from_iter(records.iter().map(|r| r.retract));
    Incoming {
        batch: RecordBatch::try_new(schema, columns).unwrap(),
        retract: Some(retract),
    }
}

/// Limits small enough that a few hundred rows meet all of them.
pub fn tiny() -> Limits {
    Limits {
        full_bytes: 1 << 20,
        file_rows: 64,
        batch_rows: 16,
        together_bytes: 6_000,
        large_bytes: 5_500,
    }
}

pub fn open(root: &Path) -> Warehouse {
    Warehouse::open_with(root, DurableStore::new(), tiny()).unwrap()
}

pub async fn land(
    table: &Table,
    contract: &Contract,
    records: &[Record],
) -> qihui_warehouse::Landed {
    table
        .land_next("test/levy", incoming(contract, records))
        .await
        .unwrap()
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a ArrayRef> {
    batch.column_by_name(name)
}

pub fn rows_of(batch: &RecordBatch, retracted: bool) -> Vec<Row> {
    let text = |name: &str, i: usize| {
        let array = column(batch, name)?.as_string::<i32>();
        array.is_valid(i).then(|| array.value(i).to_owned())
    };
    (0..batch.num_rows())
        .map(|i| {
            let date = column(batch, "paid_on")
                .unwrap()
                .as_primitive::<Date32Type>();
            let amount = column(batch, "amount")
                .unwrap()
                .as_primitive::<Decimal128Type>();
            let open = column(batch, "open").unwrap().as_boolean();
            let seen = column(batch, "seen")
                .unwrap()
                .as_primitive::<TimestampMicrosecondType>();
            (
                retracted,
                column(batch, "_no")
                    .unwrap()
                    .as_primitive::<Int32Type>()
                    .value(i),
                text("uscc", i).unwrap(),
                text("serial", i).unwrap(),
                date.is_valid(i).then(|| date.value(i)),
                amount.is_valid(i).then(|| amount.value(i)),
                open.is_valid(i).then(|| open.value(i)),
                text("note", i),
                seen.is_valid(i).then(|| seen.value(i)),
            )
        })
        .collect()
}

pub fn read_parquet(path: &Path) -> Vec<RecordBatch> {
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    ParquetRecordBatchReaderBuilder::try_new(bytes)
        .unwrap()
        .build()
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// The files of a table at a version (none: the newest) as plain `deltalake` lists them: path and partition values.
pub async fn list(
    table: &Path,
    version: Option<u64>,
) -> Vec<(String, BTreeMap<String, Option<String>>)> {
    let url = deltalake::ensure_table_uri(table.to_str().unwrap()).unwrap();
    let builder = deltalake::DeltaTableBuilder::from_url(url).unwrap();
    let table: DeltaTable = match version {
        Some(version) => builder.with_version(version).load().await.unwrap(),
        None => builder.load().await.unwrap(),
    };
    let snapshot = table.snapshot().unwrap();
    let files = snapshot.log_data();
    files
        .iter()
        .map(|file| {
            (
                file.path().into_owned(),
                file.partition_values_map().into_iter().collect(),
            )
        })
        .collect()
}

/// Every row and tombstone of a table, sorted.
pub async fn read_table(table: &Path, version: Option<u64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (path, partition) in list(table, version).await {
        let retracted = partition["_state"].as_deref() == Some("retracted");
        for batch in read_parquet(&table.join(&path)) {
            rows.extend(rows_of(&batch, retracted));
        }
    }
    rows.sort();
    rows
}

/// The actions of one commit.
pub fn commit(table: &Path, version: i64) -> Vec<serde_json::Value> {
    let text =
        std::fs::read_to_string(table.join(format!("_delta_log/{version:020}.json"))).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Records of 300 enterprises over three months.
pub fn many(range: std::ops::Range<u16>, seen: i64) -> Vec<Record> {
    range
        .map(|serial| Record {
            no: i32::from(serial) * 7 % 300 + 1,
            paid_on: Some(20_000 + i32::from(serial % 90)),
            seen: Some(seen),
            ..Record::new(serial, 0)
        })
        .collect()
}

pub fn folder_of(root: &Path) -> std::path::PathBuf {
    root.join("levy")
}

fn assert_files_are_sorted(batches: &[RecordBatch]) {
    let key = |batch: &RecordBatch, i: usize| {
        let numbers = batch
            .column_by_name("_no")
            .unwrap()
            .as_primitive::<Int32Type>();
        let dates = batch
            .column_by_name("paid_on")
            .unwrap()
            .as_primitive::<Date32Type>();
        (
            numbers.value(i),
            arrow::array::Array::is_valid(dates, i).then(|| dates.value(i)),
        )
    };
    let keys: Vec<_> = batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(|i| key(batch, i)))
        .collect();
    assert!(keys.is_sorted());
}

/// The files of the newest version are what its snapshot says, sorted, and their sidecars exact.
pub async fn assert_sound(warehouse: &Warehouse, root: &Path) {
    let dataset = "levy".parse().unwrap();
    let snapshot = warehouse.snapshot(&dataset).await.unwrap().unwrap();
    for file in snapshot.files.iter() {
        let batches = read_parquet(&folder_of(root).join(&file.path));
        assert_files_are_sorted(&batches);
        let numbers = batches.iter().flat_map(|batch| {
            batch
                .column(0)
                .as_primitive::<Int32Type>()
                .values()
                .to_vec()
        });
        let numbers: BTreeSet<u32> = numbers.map(i32::unsigned_abs).collect();
        let presence = warehouse.presence(&snapshot, file).await.unwrap();
        assert_eq!(presence.iter().collect::<BTreeSet<_>>(), numbers);
        assert_eq!(
            (Some(&file.no_min), Some(&file.no_max)),
            (numbers.first(), numbers.last())
        );
        assert_eq!(
            file.rows,
            batches
                .iter()
                .map(|batch| batch.num_rows() as u64)
                .sum::<u64>()
        );
    }
    assert!(
        snapshot
            .files
            .is_sorted_by_key(|file| (file.no_min, file.no_max))
    );
}
