//! How fast chunks land: `cargo bench -p qihui-warehouse --bench landing_speed -- [ROWS]`.
//!
//! Twenty columns, as a tax or customs feed has them; figures for an empty table, the same chunk again (all
//! unchanged), and one in a hundred rows corrected. One chunk, no parsing: what landing leaves for the rest.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch,
        StringArray,
    },
    datatypes::{DataType, SchemaRef},
};
use qihui_catalog::Contract;
use qihui_warehouse::{Incoming, Warehouse, incoming_schema};

fn contract(partition: &str) -> Contract {
    let mut columns = vec![
        ("uscc", "string", "string"),
        ("serial", "string", "string"),
        ("paid_on", "date", "date"),
    ];
    let names: Vec<String> = (0..16).map(|i| format!("c{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        columns.push(match i % 8 {
            0 | 1 => (name, "number", "decimal(20,2)"),
            2 => (name, "date", "date"),
            3 => (name, "boolean", "boolean"),
            4 => (name, "integer", "int32"),
            _ => (name, "string", "string"),
        });
    }
    columns.push(("seen", "integer", "int64"));
    let mut properties = String::new();
    for (name, logical, physical) in columns {
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
    let text = format!(
        "apiVersion: v3.0.2\nkind: DataContract\nid: speed\nname: Speed\nversion: 1.0.0\nstatus: active\n\
         domain: tax\ndescription:\n  purpose: A measurement.\ncustomProperties:\n  - property: rowLevel\n    \
         value: L2\n  - property: eventDate\n    value: paid_on\n  - property: sequence\n    value: [seen]\n\
         {partition}  - property: feeds\n    value: [speed]\nschema:\n  - name: speed\n    logicalType: object\n    \
         physicalType: table\n    businessName: 速度\n    description: 测量。\n    properties:\n{properties}"
    );
    Contract::from_yaml(std::path::Path::new("speed.yaml"), &text).expect("the contract is sound")
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[expect(clippy::cast_possible_truncation, reason = "values are small")]
fn column(name: &str, ty: &DataType, rows: u64, corrected: u64) -> ArrayRef {
    let salt = name.bytes().map(u64::from).sum::<u64>();
    let random = move |row: u64| mix(row * 64 + salt);
    let changed = move |row: u64| corrected > 0 && row.is_multiple_of(corrected);
    let no = |row: u64| (mix(row) % 200_000 + 1) as i32;
    match (name, ty) {
        ("_no", _) => Arc::new(Int32Array::from_iter_values((0..rows).map(no))),
        ("uscc", _) => Arc::new(StringArray::from_iter_values(
            (0..rows).map(|row| format!("91330100{:010}", no(row))),
        )),
        ("serial", _) => Arc::new(StringArray::from_iter_values(
            (0..rows).map(|row| format!("LEVY{row:016}")),
        )),
        ("seen", _) => Arc::new(Int64Array::from_iter_values(
            (0..rows).map(|row| i64::from(changed(row))),
        )),
        (_, DataType::Date32) => Arc::new(Date32Array::from_iter_values(
            (0..rows).map(|row| 19_700 + (random(row) % 700) as i32),
        )),
        (_, DataType::Boolean) => Arc::new(BooleanArray::from_iter(
            (0..rows).map(|row| Some(random(row) % 2 == 0)),
        )),
        (_, DataType::Int32) => Arc::new(Int32Array::from_iter_values(
            (0..rows).map(|row| (random(row) % 5_000) as i32),
        )),
        (_, DataType::Decimal128(precision, scale)) => Arc::new(
            Decimal128Array::from_iter_values(
                (0..rows).map(|row| i128::from(random(row) % 100_000_000)),
            )
            .with_precision_and_scale(*precision, *scale)
            .expect("the type is the contract's"),
        ),
        _ => Arc::new(StringArray::from_iter_values(
            (0..rows).map(|row| format!("征收项目{:05}", random(row) % 20_000)),
        )),
    }
}

fn chunk(schema: &SchemaRef, rows: u64, corrected: u64) -> Incoming {
    let columns = schema
        .fields()
        .iter()
        .map(|field| column(field.name(), field.data_type(), rows, corrected));
    Incoming::records(
        RecordBatch::try_new(Arc::clone(schema), columns.collect())
            .expect("columns fit the schema"),
    )
}

#[expect(clippy::print_stdout, reason = "figures are what this program is for")]
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // CI runs it with few rows, to see that it runs.
    let few = std::env::var("QIHUI_BENCH_ROWS").ok();
    let mut rows = std::env::args()
        .chain(few)
        .filter_map(|rows| rows.parse().ok());
    let rows: u64 = rows.next().unwrap_or(1_000_000);
    for (title, partition) in [
        ("one partition", ""),
        ("by month", "  - property: partition\n    value: month\n"),
    ] {
        let contract = contract(partition);
        let root = tempfile::tempdir().expect("a folder for the table");
        let warehouse = Warehouse::open(root.path()).expect("the warehouse opens");
        let table = warehouse.table(&contract).await.expect("the table opens");
        let schema = incoming_schema(&contract);
        for (name, corrected) in [
            ("empty table", 0),
            ("all unchanged", 0),
            ("1 % corrected", 100),
        ] {
            let incoming = chunk(&schema, rows, corrected);
            let start = Instant::now();
            let classified = table
                .classify(incoming)
                .await
                .expect("rows have the table's form");
            let classify = start.elapsed();
            let run = table
                .last_run("speed/speed")
                .await
                .expect("the log is readable")
                .unwrap_or(-1)
                + 1;
            let info = qihui_warehouse::RunInfo {
                app_id: "speed/speed".to_owned(),
                run,
                position: serde_json::Value::Null,
                input_hash: [0; 32],
            };
            let counts = table
                .commit(classified, info)
                .await
                .expect("the chunk lands")
                .counts;
            let whole = start.elapsed();
            let speed = u128::from(rows) * 1_000_000 / whole.as_micros().max(1);
            println!(
                "{title}, {name}: {speed} rows/s (classify {} ms, commit {} ms) {counts:?}",
                classify.as_millis(),
                (whole - classify).as_millis()
            );
        }
        let snapshot = warehouse
            .snapshot(&contract.id)
            .await
            .expect("readable")
            .expect("the table is there");
        let bytes: u64 = snapshot.files.iter().map(|file| file.size).sum();
        println!(
            "{title}: {} files, {} bytes a row",
            snapshot.files.len(),
            bytes / snapshot.rows().max(1)
        );
    }
}
