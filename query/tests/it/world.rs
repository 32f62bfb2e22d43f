//! Random worlds: two datasets, their rows and files, agreements and grants.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch,
    StringArray, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Date32Type, Field, Schema};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use qihui_catalog::{
    Action, Column, ColumnType, ConsentId, Contract, DatasetId, Date, DisclosureWindow,
    EnterpriseNo, Level, OrgId, Partition, PurposeCode, Timestamp, Unit, Uscc,
};
use qihui_consent::decision::{
    ActionSet, Agreement, AgreementColumn, AgreementId, Basis, Bucket, DecisionRequest, Form,
    Grant, Mask, ScopeItem, Value,
};
use qihui_query::forms::arrow_type;
use qihui_query::provider::{TableFile, TableVersion};
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use roaring::RoaringBitmap;

use crate::canary;

pub const ENTERPRISES: u32 = 12;

#[derive(Debug, Clone)]
pub struct Row {
    pub no: u32,
    /// One per landed column, in the order of the contract.
    pub cells: Vec<Option<Value>>,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub contract: Arc<Contract>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone)]
pub struct World {
    pub tables: Vec<Table>,
    pub agreements: Vec<Agreement>,
    pub grants: Vec<Grant>,
    pub request: DecisionRequest,
}

/// So many days after (or before) the first of the world's.
pub fn date(days: i32) -> Date {
    Date::from_ymd_opt(2025, 1, 1).unwrap() + chrono::TimeDelta::days(days.into())
}

/// The code of an enterprise.
pub fn uscc(no: u32) -> String {
    Uscc::from_parts('9', '1', "330100", &format!("{no:08}"))
        .unwrap()
        .to_string()
}

/// The enterprise of a code.
pub fn number_of(code: &Uscc) -> Option<EnterpriseNo> {
    (1..=ENTERPRISES)
        .find(|no| uscc(*no) == code.as_str())
        .map(EnterpriseNo)
}

pub fn column(name: &str, ty: ColumnType, level: Level) -> Column {
    Column {
        name: name.into(),
        title_cn: name.into(),
        description: name.into(),
        ty,
        nullable: true,
        level,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    }
}

fn level(rng: &mut ChaCha8Rng) -> Level {
    *[Level::L1, Level::L2, Level::L2, Level::L3]
        .choose(rng)
        .unwrap()
}

/// The level of a column that tells which row it is, or whether it may be shown: that of rows, or one below it.
fn level_below(rng: &mut ChaCha8Rng, row_level: Level) -> Level {
    let levels = [Level::L1, Level::L1, Level::L1, Level::L2, Level::L3];
    let levels = levels.into_iter().filter(|level| *level <= row_level);
    levels.choose(rng).unwrap()
}

fn contract(rng: &mut ChaCha8Rng, name: &str) -> Contract {
    let row_level = *[Level::L1, Level::L2, Level::L3].choose(rng).unwrap();
    let dated = rng.random_bool(0.7);
    let mut id = column("id", ColumnType::Int64, level_below(rng, row_level));
    id.nullable = false;
    let code = level_below(rng, row_level);
    let mut columns = vec![column("uscc", ColumnType::String, code), id];
    if dated {
        let mut day = column("day", ColumnType::Date, level_below(rng, row_level));
        day.nullable = rng.random_bool(0.5);
        columns.push(day);
    }
    let window = window(rng);
    for name in window.iter().flat_map(dates_of) {
        let level = level_below(rng, row_level);
        columns.push(column(&name, ColumnType::Date, level));
    }
    let flag_level = if rng.random_bool(0.8) {
        Level::L1
    } else {
        Level::L2
    };
    columns.push(column("flag", ColumnType::Boolean, flag_level));
    let fixed = columns.len();
    columns.push(column("name", ColumnType::String, level(rng)));
    columns.push(column("kind", ColumnType::String, level(rng)));
    columns.push(column("n", ColumnType::Int32, level(rng)));
    columns.push(column("big", ColumnType::Int64, level(rng)));
    columns.push(column(
        "amount",
        ColumnType::Decimal {
            precision: 12,
            scale: 2,
        },
        level(rng),
    ));
    columns.push(column("since", ColumnType::Date, level(rng)));
    columns.push(column("seen", ColumnType::Timestamp, level(rng)));
    for (name, ty) in more_columns() {
        if rng.random_bool(0.25) {
            columns.push(column(name, ty, level(rng)));
        }
    }
    // Never landed: nothing may look for it in a file.
    if rng.random_bool(0.2) {
        let at = rng.random_range(fixed..=columns.len());
        columns.insert(at, column("personal", ColumnType::String, Level::L4));
    }
    for (at, column) in columns.iter_mut().enumerate() {
        let share = if at < fixed { 0.1 } else { 0.3 };
        let open = column.level == Level::L1 || column.name == "flag";
        if !open && rng.random_bool(share) {
            column.public_when = Some("flag".into());
        }
    }
    Contract {
        event_date: dated.then(|| "day".into()),
        window,
        ..contract_of(name, row_level, columns)
    }
}

/// A contract over columns of which `uscc` and `id` are two, without event date and window.
pub fn contract_of(name: &str, row_level: Level, columns: Vec<Column>) -> Contract {
    Contract {
        id: name.parse().unwrap(),
        version: "1.0.0".into(),
        title_en: name.into(),
        title_cn: name.into(),
        description: name.into(),
        description_cn: name.into(),
        owner: "test".into(),
        row_level,
        key: vec!["id".into()],
        uscc: "uscc".into(),
        event_date: None,
        sequence: vec!["id".into()],
        partition: Partition::None,
        window: None,
        freshness_days: None,
        feeds: Vec::new(),
        columns,
        hash: [0; 32],
    }
}

/// Columns that a dataset may have besides.
fn more_columns() -> [(&'static str, ColumnType); 6] {
    let decimal = |precision, scale| ColumnType::Decimal { precision, scale };
    [
        ("code", ColumnType::String),
        ("note", ColumnType::String),
        ("share", decimal(5, 4)),
        ("price", decimal(30, 6)),
        ("paid", ColumnType::Timestamp),
        ("closed", ColumnType::Boolean),
    ]
}

/// A disclosure window, of a quarter of all datasets.
fn window(rng: &mut ChaCha8Rng) -> Option<DisclosureWindow> {
    if rng.random_bool(0.75) {
        return None;
    }
    let until: &[&str] = [
        &["until"][..],
        &["until", "until"],
        &["until", "ended"],
        &[],
    ]
    .choose(rng)
    .unwrap();
    Some(DisclosureWindow {
        from: rng.random_bool(0.5).then(|| "begun".into()),
        until: until.iter().map(|name| (*name).to_owned()).collect(),
        max_years_after: rng.random_bool(0.4).then(|| ("decided".into(), 1)),
    })
}

/// The columns that a disclosure window looks at, each once.
pub fn dates_of(window: &DisclosureWindow) -> Vec<String> {
    let after = window.max_years_after.iter().map(|(column, _)| column);
    let mut names: Vec<String> = window
        .from
        .iter()
        .chain(&window.until)
        .chain(after)
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

/// A value that nobody is to see: text that is known by its beginning, numbers and days that would show as the least
/// or greatest of a page, and such as nobody computes by chance.
fn hidden_cell(rng: &mut ChaCha8Rng, column: &Column) -> Value {
    let canary = rng.random_bool(0.3).then(|| canary::of(column.ty));
    if let Some(canary) = canary.flatten() {
        return canary;
    }
    let extreme = rng.random_bool(0.5);
    let sign = if rng.random_bool(0.5) { 1 } else { -1 };
    match column.ty {
        ColumnType::String => {
            let tail = *["", "-and-what-follows-it-in-a-page", "~~~~~~~~~~"]
                .choose(rng)
                .unwrap();
            Value::String(format!(
                "{}-{}{tail}",
                canary::WORD,
                rng.random_range(0..1000)
            ))
        }
        ColumnType::Date if extreme => {
            let year = if sign > 0 { 9999 } else { 1 };
            Value::Date(Date::from_ymd_opt(year, 1, 1).unwrap())
        }
        ColumnType::Int32 if extreme => Value::Number(i128::from(i32::MAX) * sign),
        ColumnType::Int64 if extreme => Value::Number(i128::from(i64::MAX) * sign),
        ColumnType::Decimal { precision, .. } if extreme => {
            Value::Number((10_i128.pow(precision.into()) - 1) * sign)
        }
        ColumnType::Timestamp if extreme => {
            Value::Timestamp(253_000_000_000_000_000 * i64::try_from(sign).unwrap())
        }
        _ => shown_cell(rng, column),
    }
}

pub fn cell(rng: &mut ChaCha8Rng, column: &Column, hidden: bool) -> Option<Value> {
    if column.nullable && rng.random_bool(0.12) {
        return None;
    }
    Some(match hidden {
        true => hidden_cell(rng, column),
        false => shown_cell(rng, column),
    })
}

fn shown_cell(rng: &mut ChaCha8Rng, column: &Column) -> Value {
    match column.ty {
        ColumnType::String => {
            let words = [
                "a",
                "b",
                "杭州",
                "12",
                "7",
                "-3",
                "x y",
                "",
                "宁波市舟山港务集团公司",
            ];
            Value::String((*words.choose(rng).unwrap()).to_owned())
        }
        ColumnType::Date => Value::Date(date(rng.random_range(0..40))),
        ColumnType::Boolean => Value::Boolean(rng.random_bool(0.5)),
        ColumnType::Int32 => Value::Number(rng.random_range(-4..6)),
        ColumnType::Int64 => Value::Number(rng.random_range(-40..60)),
        ColumnType::Decimal { .. } => Value::Number(rng.random_range(-500..2000)),
        ColumnType::Timestamp => {
            Value::Timestamp(1_735_689_600_000_000 + rng.random_range(0..40) * 43_200_000_000)
        }
    }
}

pub fn row(rng: &mut ChaCha8Rng, contract: &Contract, no: u32, id: i128, hidden: bool) -> Row {
    let cells = contract
        .landed()
        .map(|column| match column.name.as_str() {
            "uscc" => Some(Value::String(uscc(no))),
            "id" => Some(Value::Number(id)),
            "day" if !column.nullable => Some(Value::Date(date(rng.random_range(0..40)))),
            "until" | "ended" if rng.random_bool(0.5) => None,
            // The last day of its year, in half of the rows.
            "decided" => Some(Value::Date(date(rng.random_range(10..30) - 365))),
            "begun" => rng
                .random_bool(0.8)
                .then(|| Value::Date(date(rng.random_range(0..26)))),
            _ => cell(rng, column, hidden),
        })
        .collect();
    Row { no, cells }
}

/// The forms that agreements show a column in: clear, one mask, and a bucket where the type has one. Agreements may
/// differ; then the one that shows least counts.
fn forms(rng: &mut ChaCha8Rng, column: &Column) -> Vec<Option<Form>> {
    if rng.random_bool(0.4) {
        return vec![Some(Form::Clear)];
    }
    let (masks, buckets): (&[Mask], &[Bucket]) = match column.ty {
        ColumnType::String => (
            &[
                Mask::KeepEnds { head: 1, tail: 1 },
                Mask::KeepEnds { head: 0, tail: 2 },
                Mask::Hide,
            ],
            &[],
        ),
        ColumnType::Date | ColumnType::Timestamp => (
            &[Mask::Year, Mask::Hide],
            &[Bucket::Month, Bucket::Quarter, Bucket::Year],
        ),
        ColumnType::Boolean => (&[Mask::Hide], &[]),
        _ => (
            &[Mask::Zero, Mask::Hide],
            &[Bucket::Width(1), Bucket::Width(3)],
        ),
    };
    // What an agreement without a form means for an L3 column is a mask, too: there is one.
    let mask = match column.level {
        Level::L3 => Mask::default_for(column.ty),
        _ => *masks.choose(rng).unwrap(),
    };
    let bucket = buckets.choose(rng).map(|bucket| Form::Bucketed(*bucket));
    let bucket = bucket.filter(|bucket| bucket.fits(column.ty));
    let mut forms = vec![None, Some(Form::Clear), Some(Form::Masked(mask))];
    forms.extend(bucket.map(Some));
    forms.retain(|_| rng.random_bool(0.6));
    if forms.is_empty() {
        forms.push(Some(Form::Clear));
    }
    forms
}

fn timestamp(days: i64) -> Timestamp {
    Timestamp(1_735_689_600_000 + days * 86_400_000)
}

/// The instant of every decision: day 20 of the world's 40.
pub fn at() -> Timestamp {
    timestamp(20)
}

/// The deadline of every request.
pub fn until() -> Timestamp {
    Timestamp(at().0 + 60_000)
}

/// When something begins that mostly holds: before, at, or after the instant of the decision.
fn begins(rng: &mut ChaCha8Rng) -> Timestamp {
    match rng.random_range(0..20) {
        0 => at(),
        1 => Timestamp(at().0 + 1),
        2 => timestamp(30),
        _ => timestamp(1),
    }
}

/// When it ends: after, at, or before the deadline.
fn ends(rng: &mut ChaCha8Rng) -> Timestamp {
    match rng.random_range(0..20) {
        0 => until(),
        1 => Timestamp(until().0 - 1),
        2 => timestamp(10),
        _ => timestamp(40),
    }
}

fn agreements(rng: &mut ChaCha8Rng, tables: &[Table]) -> Vec<Agreement> {
    let mut agreements = Vec::new();
    for table in tables {
        let forms: Vec<Vec<Option<Form>>> = table
            .contract
            .landed()
            .map(|column| {
                let open = column.level == Level::L1 && column.name != "name";
                match open && rng.random_bool(0.8) {
                    true => vec![Some(Form::Clear)],
                    false => forms(rng, column),
                }
            })
            .collect();
        for n in 0..*[0, 1, 1, 2, 3].choose(rng).unwrap() {
            let share = [0.3, 0.7, 1.0].choose(rng).copied().unwrap();
            let mut columns = Vec::new();
            for (column, forms) in table.contract.landed().zip(&forms) {
                if rng.random_bool(share) {
                    columns.push(AgreementColumn {
                        name: column.name.clone(),
                        form: *forms.choose(rng).unwrap(),
                        reason: rng.random_bool(0.8).then(|| "test".into()),
                    });
                }
            }
            agreements.push(Agreement {
                id: AgreementId::from(format!("{}-{n}", table.contract.id).as_str()),
                org: (if rng.random_bool(0.9) {
                    "bank"
                } else {
                    "other"
                })
                .parse()
                .unwrap(),
                dataset: table.contract.id.clone(),
                purposes: [(if rng.random_bool(0.9) {
                    "loan"
                } else {
                    "audit"
                })
                .parse()
                .unwrap()]
                .into(),
                basis: if rng.random_bool(0.2) {
                    Basis::Statute {
                        law: "law".into(),
                        data_life_days: None,
                    }
                } else {
                    Basis::Consent
                },
                aggregate_only: None,
                columns,
                valid_from: begins(rng),
                valid_until: ends(rng),
            });
        }
    }
    agreements
}

/// A line of a grant: some columns of a dataset, in some range of days.
fn item(rng: &mut ChaCha8Rng, contract: &Contract) -> ScopeItem {
    let share = [0.4, 1.0, 1.0].choose(rng).copied().unwrap();
    let dated = contract.event_date.is_some() && rng.random_bool(0.4);
    let from = rng.random_range(0..30);
    let to = from + *[0, 1, 5, 10, 30].choose(rng).unwrap();
    ScopeItem {
        dataset: contract.id.clone(),
        columns: contract
            .landed()
            .filter(|_| rng.random_bool(share))
            .map(|column| column.name.clone())
            .collect(),
        from: (dated && rng.random_bool(0.7)).then(|| date(from)),
        to: (dated && rng.random_bool(0.7)).then(|| date(to)),
    }
}

fn grants(rng: &mut ChaCha8Rng, tables: &[Table]) -> Vec<Grant> {
    let mut grants = Vec::new();
    for no in 1..=ENTERPRISES {
        for n in 0..*[0, 0, 1, 1, 1, 2, 3].choose(rng).unwrap() {
            let mut items = Vec::new();
            for table in tables {
                for _ in 0..*[0, 1, 1, 1, 2].choose(rng).unwrap() {
                    items.push(item(rng, &table.contract));
                }
            }
            grants.push(Grant {
                consent_id: format!("c-{no}-{n}").parse::<ConsentId>().unwrap(),
                version: 1,
                no: EnterpriseNo(no),
                org: (if rng.random_bool(0.95) {
                    "bank"
                } else {
                    "other"
                })
                .parse()
                .unwrap(),
                purpose: (if rng.random_bool(0.95) {
                    "loan"
                } else {
                    "audit"
                })
                .parse()
                .unwrap(),
                items,
                actions: if rng.random_bool(0.93) {
                    [Action::Query, Action::View].into_iter().collect()
                } else {
                    ActionSet::default().with(Action::Stream)
                },
                starts: begins(rng),
                expires: ends(rng),
                metered: rng.random_bool(0.05),
            });
        }
    }
    grants
}

impl World {
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let tables: Vec<Table> = ["t", "u"]
            .into_iter()
            .map(|name| {
                let contract = Arc::new(contract(rng, name));
                let count = *[0, 1, 5, 30, 80, 150].choose(rng).unwrap();
                let rows = (0..count)
                    .map(|id| {
                        let no = rng.random_range(1..=ENTERPRISES);
                        row(rng, &contract, no, id, false)
                    })
                    .collect();
                Table { contract, rows }
            })
            .collect();
        let mut agreements = agreements(rng, &tables);
        // Most worlds should show something.
        if rng.random_bool(0.8) {
            for table in &tables {
                let columns = table
                    .contract
                    .landed()
                    .filter(|_| rng.random_bool(0.9))
                    .map(|column| AgreementColumn {
                        name: column.name.clone(),
                        form: None,
                        reason: None,
                    })
                    .collect();
                if !agreements.iter().any(|a| a.dataset == table.contract.id) {
                    agreements.push(Agreement {
                        id: AgreementId::from(format!("{}-all", table.contract.id).as_str()),
                        org: "bank".parse().unwrap(),
                        dataset: table.contract.id.clone(),
                        purposes: ["loan".parse().unwrap()].into(),
                        basis: Basis::Consent,
                        aggregate_only: None,
                        columns,
                        valid_from: timestamp(0),
                        valid_until: timestamp(40),
                    });
                }
            }
        }
        let grants = grants(rng, &tables);
        let subjects = rng.random_bool(0.1).then(|| {
            (0..3)
                .map(|_| EnterpriseNo(rng.random_range(1..=ENTERPRISES)))
                .collect()
        });
        let request = DecisionRequest {
            org: "bank".parse::<OrgId>().unwrap(),
            purpose: "loan".parse::<PurposeCode>().unwrap(),
            action: Action::Query,
            at: at(),
            until: until(),
            subjects,
            datasets: tables
                .iter()
                .map(|table| table.contract.id.clone())
                .collect::<Vec<DatasetId>>(),
        };
        Self {
            tables,
            agreements,
            grants,
            request,
        }
    }
}

/// An array of values of a column; `views` in the gate's text type, else as files hold it.
pub fn array<'a>(
    ty: ColumnType,
    cells: impl Iterator<Item = Option<&'a Value>>,
    views: bool,
) -> ArrayRef {
    let number = |cell: Option<&Value>| match cell {
        Some(Value::Number(n)) => Some(*n),
        _ => None,
    };
    let text = |cell: Option<&'a Value>| match cell {
        Some(Value::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match ty {
        ColumnType::String if views => Arc::new(cells.map(text).collect::<StringViewArray>()),
        ColumnType::String => Arc::new(cells.map(text).collect::<StringArray>()),
        ColumnType::Date => Arc::new(
            cells
                .map(|cell| match cell {
                    Some(Value::Date(date)) => Some(Date32Type::from_naive_date(*date)),
                    _ => None,
                })
                .collect::<Date32Array>(),
        ),
        ColumnType::Boolean => Arc::new(
            cells
                .map(|cell| match cell {
                    Some(Value::Boolean(b)) => Some(*b),
                    _ => None,
                })
                .collect::<BooleanArray>(),
        ),
        ColumnType::Int32 => Arc::new(
            cells
                .map(|c| number(c).map(|n| n as i32))
                .collect::<Int32Array>(),
        ),
        ColumnType::Int64 => Arc::new(
            cells
                .map(|c| number(c).map(|n| n as i64))
                .collect::<Int64Array>(),
        ),
        ColumnType::Decimal { precision, scale } => Arc::new(
            cells
                .map(number)
                .collect::<Decimal128Array>()
                .with_precision_and_scale(precision, scale)
                .unwrap(),
        ),
        ColumnType::Timestamp => Arc::new(
            cells
                .map(|cell| match cell {
                    Some(Value::Timestamp(t)) => Some(*t),
                    _ => None,
                })
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    }
}

/// How files are written.
pub type Properties = fn(&mut ChaCha8Rng) -> WriterProperties;

/// How a small file is written: row groups and pages of any size, statistics of pages, of row groups, cut short, or none.
pub fn properties(rng: &mut ChaCha8Rng) -> WriterProperties {
    let statistics = [
        EnabledStatistics::Page,
        EnabledStatistics::Page,
        EnabledStatistics::Chunk,
        EnabledStatistics::None,
    ];
    let version = match rng.random_bool(0.5) {
        true => WriterVersion::PARQUET_1_0,
        false => WriterVersion::PARQUET_2_0,
    };
    WriterProperties::builder()
        .set_writer_version(version)
        .set_max_row_group_row_count(Some(*[7, 20, 1000].choose(rng).unwrap()))
        .set_data_page_row_count_limit(*[1, 3, 8, 1000].choose(rng).unwrap())
        .set_write_batch_size(*[1, 2].choose(rng).unwrap())
        .set_dictionary_enabled(rng.random_bool(0.5))
        .set_statistics_enabled(*statistics.choose(rng).unwrap())
        .set_column_index_truncate_length(*[Some(2), Some(64), None].choose(rng).unwrap())
        .set_statistics_truncate_length(*[Some(2), Some(64), None].choose(rng).unwrap())
        .set_bloom_filter_enabled(rng.random_bool(0.2))
        .set_compression(Compression::UNCOMPRESSED)
        .build()
}

fn written(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

impl Table {
    /// Writes the rows as the warehouse would, in files of random sizes.
    pub async fn write(&self, rng: &mut ChaCha8Rng, properties: Properties) -> TableVersion {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let day = self
            .contract
            .landed()
            .position(|column| Some(&column.name) == self.contract.event_date.as_ref());
        let mut files = Vec::new();
        for (i, mut rows) in self.shares(rng).into_iter().enumerate() {
            if rows.is_empty() && rng.random_bool(0.8) {
                continue;
            }
            rows.sort_by_key(|row| {
                let date = day.and_then(|day| match row.cells[day] {
                    Some(Value::Date(date)) => Some(date),
                    _ => None,
                });
                (row.no, date)
            });
            // As no file of the warehouse is; the gate looks, and does not rely on it.
            if rng.random_bool(0.05) {
                rows.shuffle(rng);
            }
            let batch = self.physical(&rows);
            let bytes = written(&batch, properties(rng));
            // Unlike any other's, as the warehouse names them: metadata is cached by it.
            let path = Path::from(format!("{}-{i}.parquet", self.contract.id));
            let size = bytes.len() as u64;
            store.put(&path, bytes.into()).await.unwrap();
            let present: RoaringBitmap = rows.iter().map(|row| row.no).collect();
            files.push(TableFile {
                path,
                size,
                present: Arc::new(present),
            });
        }
        files.shuffle(rng);
        TableVersion {
            version: 1,
            rows: self.rows.len() as u64,
            files,
            store,
        }
    }

    /// The rows of each file: anybody's in any, or each file those of neighbouring enterprises.
    fn shares(&self, rng: &mut ChaCha8Rng) -> Vec<Vec<&Row>> {
        let count = rng.random_range(1..=5);
        let by_number = rng.random_bool(0.4);
        let mut shares: Vec<Vec<&Row>> = vec![Vec::new(); count];
        for row in &self.rows {
            let at = match by_number {
                true => (row.no as usize * count / (ENTERPRISES as usize + 1)).min(count - 1),
                false => rng.random_range(0..count),
            };
            shares[at].push(row);
        }
        shares
    }

    fn physical(&self, rows: &[&Row]) -> RecordBatch {
        let mut fields = vec![Field::new("_no", DataType::Int32, false)];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(
            rows.iter()
                .map(|row| i32::try_from(row.no).unwrap())
                .collect::<Int32Array>(),
        )];
        for (i, column) in self.contract.landed().enumerate() {
            let ty = match column.ty {
                ColumnType::String => DataType::Utf8,
                ty => arrow_type(ty),
            };
            fields.push(Field::new(&column.name, ty, true));
            columns.push(array(
                column.ty,
                rows.iter().map(|row| row.cells[i].as_ref()),
                false,
            ));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }
}
