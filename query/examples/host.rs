//! The gate in a project of one's own: a hospital's readings, which patients open to a study. No ledger, no log, no Delta
//! Lake: the host says itself what was granted, and has the files.
//!
//! `cargo run -p qihui-query --example host` prints what the study sees, and what of it was withheld.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use arrow::array::{Date32Array, Decimal128Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use qihui_catalog::{Column, ColumnType, Contract, Date, Level, Partition, Timestamp, Unit};
use qihui_consent::decision::{
    Bucket, ColumnScope, ColumnSet, DatasetScope, Form, Shape, ShapeItem,
};
use qihui_query::access::reader_context;
use qihui_query::account::Account;
use qihui_query::dense::DenseScope;
use qihui_query::exec::Standing;
use qihui_query::provider::{MIN_INSIDE_ROWS, NUMBER, TableFile, TableVersion};
use qihui_query::session::{self, SessionSetup};
use roaring::RoaringBitmap;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const VALUE: ColumnType = ColumnType::Decimal {
    precision: 5,
    scale: 1,
};
/// 1 March 2026, in days since the epoch.
const MARCH: i32 = 20_513;

/// What the table is: its columns, whom a row belongs to (`uscc`; here the patient's pseudonym), and when it is of.
fn contract() -> Result<Contract> {
    let column = |name: &str, ty| Column {
        name: name.into(),
        title_cn: name.into(),
        description: name.into(),
        ty,
        nullable: false,
        level: Level::L3,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    };
    Ok(Contract {
        id: "reading".parse()?,
        version: "1.0.0".into(),
        title_en: "Readings".into(),
        title_cn: "读数".into(),
        description: "What was measured".into(),
        description_cn: "测得的值".into(),
        owner: "hospital".into(),
        row_level: Level::L3,
        key: vec!["patient".into(), "day".into()],
        uscc: "patient".into(),
        event_date: Some("day".into()),
        sequence: vec!["day".into()],
        partition: Partition::None,
        window: None,
        freshness_days: None,
        feeds: Vec::new(),
        columns: vec![
            column("patient", ColumnType::String),
            column("day", ColumnType::Date),
            column("pulse", ColumnType::Int32),
            column("sugar", VALUE),
        ],
        hash: [0; 32],
    })
}

/// One Parquet file, sorted by the patient's number and the day, with a page index. The number is never shown.
async fn files() -> Result<TableVersion> {
    let schema = Schema::new(vec![
        Field::new(NUMBER, DataType::Int32, false),
        Field::new("patient", DataType::Utf8, false),
        Field::new("day", DataType::Date32, false),
        Field::new("pulse", DataType::Int32, false),
        Field::new("sugar", DataType::Decimal128(5, 1), false),
    ]);
    let sugar = Decimal128Array::from(vec![51, 53, 60, 61, 99]).with_precision_and_scale(5, 1)?;
    let rows = RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(Int32Array::from(vec![1, 1, 2, 2, 3])),
            Arc::new(StringArray::from(vec!["ann", "ann", "bo", "bo", "cy"])),
            Arc::new(Date32Array::from(vec![
                MARCH - 9,
                MARCH,
                MARCH,
                MARCH + 1,
                MARCH,
            ])),
            Arc::new(Int32Array::from(vec![61, 64, 70, 72, 80])),
            Arc::new(sugar),
        ],
    )?;
    let properties = WriterProperties::builder()
        .set_statistics_enabled(EnabledStatistics::Page)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties))?;
    writer.write(&rows)?;
    writer.close()?;
    let (store, path) = (Arc::new(InMemory::new()), Path::from("readings-1.parquet"));
    let file = TableFile {
        path: path.clone(),
        size: bytes.len() as u64,
        present: Arc::new([1, 2, 3].into_iter().collect()),
    };
    store.put(&path, PutPayload::from(bytes)).await?;
    Ok(TableVersion {
        version: 1,
        rows: 5,
        files: vec![file],
        store: store as Arc<dyn ObjectStore>,
    })
}

/// Ann (1) opens everything from March on, Bo (2) all but the sugar, Cy (3) nothing. The sugar is shown in steps of 1.
fn scope(contract: Contract) -> Result<DatasetScope> {
    let column = |name: &str, form| ColumnScope {
        name: name.into(),
        form,
        always: false,
        public_when: None,
        by_grant: true,
        agreements: Vec::new(),
    };
    let shape = |columns: &[usize], from: Option<Date>| {
        Shape::canonical([ShapeItem {
            columns: columns.iter().copied().collect::<ColumnSet>(),
            from,
            to: None,
        }])
    };
    Ok(DatasetScope {
        contract: Arc::new(contract),
        columns: vec![
            column("patient", Form::Clear),
            column("day", Form::Clear),
            column("pulse", Form::Clear),
            column("sugar", Form::Bucketed(Bucket::Width(1))),
        ],
        all_rows: false,
        shapes: vec![
            Shape::default(),
            shape(&[0, 1, 2, 3], Some("2026-03-01".parse()?)),
            shape(&[0, 1, 2], None),
        ],
        members: vec![RoaringBitmap::new(), [1].into(), [2].into()],
        agreements: Vec::new(),
        reasons: Vec::new(),
        subjects: None,
        statistics: None,
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let contract = contract()?;
    let dataset = contract.id.clone();
    // Kept from query to query as long as the same grants count.
    let scope = Arc::new(DenseScope::new(Arc::new(scope(contract)?)));
    let setup = SessionSetup {
        scopes: BTreeMap::from([(dataset.clone(), scope)]),
        tables: BTreeMap::from([(dataset.clone(), Arc::new(files().await?))]),
        at: Timestamp(1_774_000_000_000),
        // A host that lets grants be withdrawn gives its own, which is asked before every batch.
        permit: Arc::new(Standing),
        numbers: None,
        runtime: Arc::new(RuntimeEnv::default()),
        reader: reader_context()?,
        partitions: 2,
        account: Arc::new(Account::new(1_000_000)),
        strict: false,
        min_inside_rows: MIN_INSIDE_ROWS,
    };
    let statement = session::parse("SELECT * FROM reading ORDER BY patient, day")?;
    let planned = session::plan(&statement, setup).await?;
    println!("{}", pretty_format_batches(&planned.collect().await?)?);
    for (dataset, passed) in planned.account.passed() {
        println!(
            "{dataset}: {} rows of patients {:?}; withheld: {:?}",
            passed.rows, passed.touched, passed.withheld
        );
    }
    Ok(())
}
