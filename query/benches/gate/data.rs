//! The tables of the bench: what was levied, and a registry with a row per enterprise.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use qihui_catalog::{Column, ColumnType, Contract, Level, Partition, Unit};
use qihui_query::provider::{TableFile, TableVersion};
use qihui_warehouse::{Incoming, Warehouse, incoming_schema};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows of `levy` that an enterprise has.
pub const ROWS_PER_ENTERPRISE: u32 = 10;
/// The day of an enterprise's first row, days since the epoch; the others follow thirty days apart.
pub const FIRST_DAY: i32 = 19_000;
/// Enterprises that are landed at a time.
const CHUNK: u32 = 100_000;

/// A table as the bench sees it.
pub struct Table {
    pub contract: Arc<Contract>,
    pub version: Arc<TableVersion>,
    /// Where its files lie.
    pub files: Vec<String>,
}

/// The code of an enterprise.
pub fn uscc(no: u32) -> String {
    format!("91330100{no:010}")
}

fn contract(id: &str, row_level: Level, dated: bool, columns: &[(&str, ColumnType)]) -> Contract {
    let column = |(name, ty): &(&str, ColumnType)| Column {
        name: (*name).into(),
        title_cn: (*name).into(),
        description: (*name).into(),
        ty: *ty,
        nullable: false,
        level: row_level,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    };
    Contract {
        id: id.parse().unwrap(),
        version: "1.0.0".into(),
        title_en: id.into(),
        title_cn: id.into(),
        description: id.into(),
        description_cn: id.into(),
        owner: "tax".into(),
        row_level,
        key: vec!["id".into()],
        uscc: "uscc".into(),
        event_date: dated.then(|| "day".into()),
        sequence: vec!["id".into()],
        partition: Partition::None,
        window: None,
        freshness_days: None,
        feeds: Vec::new(),
        columns: columns.iter().map(column).collect(),
        hash: [0; 32],
    }
}

const MONEY: ColumnType = ColumnType::Decimal {
    precision: 18,
    scale: 2,
};

/// What was levied; `id` names the table.
pub fn levy(id: &str) -> Contract {
    use ColumnType::{Date, Int32, Int64, String};
    let columns = [
        ("uscc", String),
        ("id", Int64),
        ("day", Date),
        ("item", String),
        ("office", String),
        ("note", String),
        ("amount", MONEY),
        ("base", MONEY),
        ("n", Int32),
    ];
    contract(id, Level::L2, true, &columns)
}

/// Who is registered where: open data.
pub fn registry() -> Contract {
    use ColumnType::{Int64, String};
    let columns = [
        ("uscc", String),
        ("id", Int64),
        ("county", String),
        ("industry", String),
    ];
    contract("registry", Level::L1, false, &columns)
}

fn levied(contract: &Contract, first: u32, enterprises: u32, rng: &mut ChaCha8Rng) -> RecordBatch {
    let numbers: Vec<u32> = (first..first + enterprises)
        .flat_map(|no| std::iter::repeat_n(no, ROWS_PER_ENTERPRISE as usize))
        .collect();
    let len = numbers.len();
    let text = |f: &mut dyn FnMut(u32) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            numbers.iter().map(|no| f(*no)),
        ))
    };
    let money = |rng: &mut ChaCha8Rng| -> ArrayRef {
        let values = (0..len).map(|_| rng.random_range(1..100_000_000_i128));
        let values = Decimal128Array::from_iter_values(values);
        Arc::new(values.with_precision_and_scale(18, 2).unwrap())
    };
    let turn = |i: usize| (i % ROWS_PER_ENTERPRISE as usize) as i32;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(
            numbers.iter().map(|no| *no as i32),
        )),
        text(&mut uscc),
        Arc::new(Int64Array::from_iter_values(
            (0..len).map(|i| i64::from(first) * 1000 + i as i64),
        )),
        Arc::new(Date32Array::from_iter_values(
            (0..len).map(|i| FIRST_DAY + 30 * turn(i)),
        )),
        text(&mut |_| format!("item {}", rng.random_range(0..12))),
        text(&mut |no| format!("1330{:06}", no / 4096)),
        text(&mut |_| {
            let number = rng.random_range(0..1_000_000_000);
            format!("paid by transfer number {number}")
        }),
        money(rng),
        money(rng),
        Arc::new(Int32Array::from_iter_values(
            (0..len).map(|i| i as i32 % 97),
        )),
    ];
    RecordBatch::try_new(incoming_schema(contract), columns).unwrap()
}

fn registered(contract: &Contract, first: u32, count: u32, rng: &mut ChaCha8Rng) -> RecordBatch {
    let numbers = first..first + count;
    let text = |f: &mut dyn FnMut(u32) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(numbers.clone().map(f)))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(
            numbers.clone().map(|no| no as i32),
        )),
        text(&mut uscc),
        Arc::new(Int64Array::from_iter_values(numbers.clone().map(i64::from))),
        text(&mut |no| format!("3301{:02}", no / 100_000)),
        text(&mut |_| format!("{}", rng.random_range(1000..1100))),
    ];
    RecordBatch::try_new(incoming_schema(contract), columns).unwrap()
}

type Chunk = fn(&Contract, u32, u32, &mut ChaCha8Rng) -> RecordBatch;

/// Lands what was levied from so many enterprises.
pub async fn land_levy(dir: &Path, id: &str, enterprises: u32) -> Table {
    land(dir, levy(id), enterprises, levied).await
}

/// Lands the registry of so many enterprises.
pub async fn land_registry(dir: &Path, enterprises: u32) -> Table {
    land(dir, registry(), enterprises, registered).await
}

async fn land(dir: &Path, contract: Contract, enterprises: u32, chunk: Chunk) -> Table {
    let warehouse = Warehouse::open(dir).unwrap();
    let table = warehouse.table(&contract).await.unwrap();
    // A folder that is kept has it already.
    let landed = warehouse.snapshot(&contract.id).await.unwrap();
    if landed.is_none_or(|landed| landed.rows() == 0) {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut first = 1;
        while first <= enterprises {
            let count = CHUNK.min(enterprises + 1 - first);
            let rows = chunk(&contract, first, count, &mut rng);
            table
                .land_next("bench", Incoming::records(rows))
                .await
                .unwrap();
            first += count;
        }
    }
    let snapshot = warehouse.snapshot(&contract.id).await.unwrap().unwrap();
    let mut files = Vec::new();
    for file in snapshot.files.iter() {
        files.push(TableFile {
            path: file.path.as_str().into(),
            size: file.size,
            present: warehouse.presence(&snapshot, file).await.unwrap(),
        });
    }
    let folder = dir.join(contract.id.as_str());
    Table {
        files: files
            .iter()
            .map(|file| folder.join(file.path.as_ref()).display().to_string())
            .collect(),
        version: Arc::new(TableVersion {
            version: snapshot.version,
            rows: snapshot.rows(),
            files,
            store: snapshot.object_store(),
        }),
        contract: Arc::new(contract),
    }
}
