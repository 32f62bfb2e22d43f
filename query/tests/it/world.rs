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
use parquet::file::properties::{EnabledStatistics, WriterProperties};
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
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use roaring::RoaringBitmap;

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

pub fn date(days: i32) -> Date {
    Date::from_ymd_opt(2025, 1, 1).unwrap() + chrono::Days::new(u64::try_from(days).unwrap())
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

fn column(name: &str, ty: ColumnType, level: Level) -> Column {
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

fn contract(rng: &mut ChaCha8Rng, name: &str) -> Contract {
    let row_level = *[Level::L1, Level::L2, Level::L3].choose(rng).unwrap();
    let dated = rng.random_bool(0.7);
    let mut columns = vec![
        column("uscc", ColumnType::String, Level::L1),
        column("id", ColumnType::Int64, Level::L1),
    ];
    if dated {
        let mut day = column("day", ColumnType::Date, Level::L1);
        day.nullable = rng.random_bool(0.5);
        columns.push(day);
    }
    let windowed = rng.random_bool(0.25);
    if windowed {
        columns.push(column("until", ColumnType::Date, Level::L1));
    }
    columns.push(column("flag", ColumnType::Boolean, Level::L1));
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
    for column in columns.iter_mut().skip(5) {
        if column.level != Level::L1 && rng.random_bool(0.3) {
            column.public_when = Some("flag".into());
        }
    }
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
        event_date: dated.then(|| "day".into()),
        sequence: vec!["id".into()],
        partition: Partition::None,
        window: windowed.then(|| DisclosureWindow {
            from: None,
            until: vec!["until".into()],
            max_years_after: None,
        }),
        freshness_days: None,
        feeds: Vec::new(),
        columns,
        hash: [0; 32],
    }
}

pub fn cell(rng: &mut ChaCha8Rng, column: &Column, hidden: bool) -> Option<Value> {
    if rng.random_bool(0.12) {
        return None;
    }
    Some(match column.ty {
        ColumnType::String if hidden => {
            Value::String(format!("SECRET-{}", rng.random_range(0..1000)))
        }
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
    })
}

pub fn row(rng: &mut ChaCha8Rng, contract: &Contract, no: u32, id: i128, hidden: bool) -> Row {
    let cells = contract
        .landed()
        .map(|column| match column.name.as_str() {
            "uscc" => Some(Value::String(uscc(no))),
            "id" => Some(Value::Number(id)),
            "day" if !column.nullable => Some(Value::Date(date(rng.random_range(0..40)))),
            "until" if rng.random_bool(0.5) => None,
            _ => cell(rng, column, hidden),
        })
        .collect();
    Row { no, cells }
}

fn form(rng: &mut ChaCha8Rng, ty: ColumnType) -> Option<Form> {
    let forms: &[Form] = match ty {
        ColumnType::String => &[
            Form::Masked(Mask::KeepEnds { head: 1, tail: 1 }),
            Form::Masked(Mask::Hide),
        ],
        ColumnType::Date | ColumnType::Timestamp => {
            &[Form::Masked(Mask::Year), Form::Bucketed(Bucket::Month)]
        }
        ColumnType::Boolean => &[Form::Masked(Mask::Hide)],
        _ => &[Form::Masked(Mask::Zero), Form::Bucketed(Bucket::Width(3))],
    };
    match rng.random_range(0..4) {
        0 => forms.choose(rng).copied(),
        1 => None,
        _ => Some(Form::Clear),
    }
}

fn timestamp(days: i64) -> Timestamp {
    Timestamp(1_735_689_600_000 + days * 86_400_000)
}

/// The instant of every decision: day 20 of the world's 40.
pub fn at() -> Timestamp {
    timestamp(20)
}

fn agreements(rng: &mut ChaCha8Rng, tables: &[Table]) -> Vec<Agreement> {
    let mut agreements = Vec::new();
    for table in tables {
        let forms: Vec<Option<Form>> = table
            .contract
            .landed()
            .map(|column| {
                if column.level == Level::L1 && column.name != "name" {
                    Some(Form::Clear)
                } else {
                    form(rng, column.ty)
                }
            })
            .collect();
        for n in 0..rng.random_range(0..3) {
            let share = [0.3, 0.7, 1.0].choose(rng).copied().unwrap();
            let columns = table
                .contract
                .landed()
                .zip(&forms)
                .filter(|_| rng.random_bool(share))
                .map(|(column, form)| AgreementColumn {
                    name: column.name.clone(),
                    form: *form,
                    reason: Some("test".into()),
                })
                .collect();
            let late = rng.random_bool(0.15);
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
                valid_from: timestamp(if late { 21 } else { 0 }),
                valid_until: timestamp(40),
            });
        }
    }
    agreements
}

fn grants(rng: &mut ChaCha8Rng, tables: &[Table]) -> Vec<Grant> {
    let mut grants = Vec::new();
    for no in 1..=ENTERPRISES {
        for n in 0..*[0, 0, 1, 1, 2].choose(rng).unwrap() {
            let items = tables
                .iter()
                .filter(|_| rng.random_bool(0.8))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|table| {
                    let share = [0.4, 1.0].choose(rng).copied().unwrap();
                    let dated = table.contract.event_date.is_some() && rng.random_bool(0.4);
                    let from = rng.random_range(0..30);
                    ScopeItem {
                        dataset: table.contract.id.clone(),
                        columns: table
                            .contract
                            .landed()
                            .filter(|_| rng.random_bool(share))
                            .map(|column| column.name.clone())
                            .collect(),
                        from: (dated && rng.random_bool(0.7)).then(|| date(from)),
                        to: (dated && rng.random_bool(0.7)).then(|| date(from + 10)),
                    }
                })
                .collect();
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
                starts: timestamp(if rng.random_bool(0.95) { 1 } else { 30 }),
                expires: timestamp(if rng.random_bool(0.95) { 40 } else { 10 }),
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
                let count = *[0, 1, 5, 30, 80].choose(rng).unwrap();
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
            until: Timestamp(at().0 + 60_000),
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

impl Table {
    /// Writes the rows as the warehouse would, in files, row groups and pages of random sizes.
    pub async fn write(&self, rng: &mut ChaCha8Rng) -> TableVersion {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let day = self
            .contract
            .landed()
            .position(|column| Some(&column.name) == self.contract.event_date.as_ref());
        let mut files = Vec::new();
        let count = rng.random_range(1..=3);
        let mut shares: Vec<Vec<&Row>> = vec![Vec::new(); count];
        for row in &self.rows {
            shares[rng.random_range(0..count)].push(row);
        }
        for (i, mut rows) in shares.into_iter().enumerate() {
            if rows.is_empty() {
                continue;
            }
            rows.sort_by_key(|row| {
                let date = day.and_then(|day| match row.cells[day] {
                    Some(Value::Date(date)) => Some(date),
                    _ => None,
                });
                (row.no, date)
            });
            let batch = self.physical(&rows);
            let properties = WriterProperties::builder()
                .set_max_row_group_row_count(Some(*[7, 20, 1000].choose(rng).unwrap()))
                .set_data_page_row_count_limit(*[3, 8, 1000].choose(rng).unwrap())
                .set_write_batch_size(2)
                .set_dictionary_enabled(rng.random_bool(0.5))
                .set_statistics_enabled(
                    *[EnabledStatistics::Page, EnabledStatistics::Chunk]
                        .choose(rng)
                        .unwrap(),
                )
                .set_compression(Compression::UNCOMPRESSED)
                .build();
            let mut bytes = Vec::new();
            let mut writer =
                ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
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
        TableVersion {
            version: 1,
            rows: self.rows.len() as u64,
            files,
            store,
        }
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
