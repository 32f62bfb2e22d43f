//! A small hub for deliveries, on the real ledger, log and warehouse: one dataset, a topic of it, a subscriber, a few
//! enterprises, and a clock that goes on when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Date32Type;
use async_trait::async_trait;
use qihui_audit::{AuditLog, Clock, Entry, LogKeys};
use qihui_catalog::{
    Action, Catalog, Column, ColumnType, ConsentId, Contract, DatasetId, Date, DisclosureWindow,
    EnterpriseNumbers, Level, NumberRequest, Partition, PurposeTree, Timestamp, TopicSpec, Unit,
    Uscc,
};
use qihui_consent::agreement::AgreementFile;
use qihui_consent::document::{ConsentRequest, NarrowRequest};
use qihui_consent::ledger::{Delivery, Organisation, OrganisationKind, SinkError, Subscription};
use qihui_consent::signing::{Operation, SigningKey};
use qihui_consent::{Drainer, Ledger, OutboxItem, Sink};
use qihui_pipelines::topics::Topics;
use qihui_query::access::{AccessRequest, Bounds, Gate, GateParts, Limits};
use qihui_query::formats::Format;
use qihui_warehouse::{Incoming, Warehouse, incoming_schema};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value};

pub const ENTERPRISES: u32 = 8;
pub const DAY_MS: i64 = 86_400_000;
/// The columns whose cells can be hidden.
pub const CELLS: [&str; 4] = ["name", "n", "amount", "flag"];

const PURPOSES: &str = "
version: 1.0.0
purposes:
  - {code: watch, titleEn: Watching, titleCn: 监测, description: Watching., caps: {maxValidityDays: 400, dataLifeDays: 60}}
  - {code: watch.risk, titleEn: Risk, titleCn: 风险, description: Risk., caps: {maxValidityDays: 400, dataLifeDays: 60}}
";

pub struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct LogSink(Arc<AuditLog>);

#[async_trait]
impl Sink for LogSink {
    async fn append(&self, items: &[OutboxItem]) -> Result<Vec<u64>, SinkError> {
        let entries: Vec<Entry<'_>> = items
            .iter()
            .map(|item| Entry {
                kind: &item.kind,
                body: &item.body,
                subjects: item.subjects.iter().map(|no| no.0).collect(),
            })
            .collect();
        let receipts = self.0.append_many(&entries)?;
        Ok(receipts.iter().map(|receipt| receipt.index).collect())
    }
}

/// How the dataset looks.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub row_level: Level,
    /// Level of `uscc` and `id`.
    pub key_level: Level,
    pub dated: bool,
    pub windowed: bool,
    pub public_when: bool,
    pub statute: bool,
}

impl Look {
    pub const PLAIN: Self = Self {
        row_level: Level::L2,
        key_level: Level::L1,
        dated: true,
        windowed: false,
        public_when: false,
        statute: false,
    };

    pub fn draw(rng: &mut StdRng) -> Self {
        let row_level = *[Level::L1, Level::L2, Level::L2, Level::L3]
            .choose(rng)
            .unwrap();
        Self {
            row_level,
            key_level: if row_level == Level::L1 || rng.random_bool(0.5) {
                Level::L1
            } else {
                Level::L2
            },
            dated: rng.random_bool(0.6),
            windowed: rng.random_bool(0.4),
            public_when: rng.random_bool(0.4),
            statute: rng.random_bool(0.15),
        }
    }
}

fn column(name: &str, ty: ColumnType, level: Level) -> Column {
    Column {
        name: name.to_owned(),
        title_cn: name.to_owned(),
        description: name.to_owned(),
        ty,
        nullable: !matches!(name, "uscc" | "id"),
        level,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    }
}

pub fn contract(look: Look) -> Contract {
    let decimal = ColumnType::Decimal {
        precision: 12,
        scale: 2,
    };
    let flag_level = if look.public_when {
        look.key_level
    } else {
        Level::L2
    };
    let mut columns = vec![
        column("uscc", ColumnType::String, look.key_level),
        column("id", ColumnType::String, look.key_level),
        column("version", ColumnType::Int64, Level::L1),
        column("flag", ColumnType::Boolean, flag_level),
        column("name", ColumnType::String, Level::L2),
        column("n", ColumnType::Int32, Level::L2),
        column("amount", decimal, Level::L3),
    ];
    if look.dated {
        columns.push(column("day", ColumnType::Date, look.key_level));
    }
    if look.windowed {
        columns.push(column("until", ColumnType::Date, Level::L1));
    }
    if look.public_when {
        columns[4].public_when = Some("flag".to_owned());
    }
    let contract = Contract {
        id: "filing".parse().unwrap(),
        version: "1.0.0".to_owned(),
        title_en: "Filing".to_owned(),
        title_cn: "申报".to_owned(),
        description: "A row.".to_owned(),
        description_cn: "一行。".to_owned(),
        owner: "tax".to_owned(),
        row_level: look.row_level,
        key: vec!["id".to_owned()],
        uscc: "uscc".to_owned(),
        event_date: look.dated.then(|| "day".to_owned()),
        sequence: vec!["version".to_owned()],
        partition: Partition::None,
        window: look.windowed.then(|| DisclosureWindow {
            from: None,
            until: vec!["until".to_owned()],
            max_years_after: None,
        }),
        freshness_days: None,
        feeds: Vec::new(),
        columns,
        hash: [0; 32],
    };
    contract.sealed().unwrap()
}

/// The rules of a hub with this dataset.
pub fn catalog(look: Look) -> Catalog {
    let contract = Arc::new(contract(look));
    let mut columns = vec!["uscc", "id", "name", "n", "amount", "flag"];
    columns.extend(look.dated.then_some("day"));
    let topic = topic(&columns, "1.0.0");
    let purposes = PurposeTree::from_yaml("purposes.yaml".as_ref(), PURPOSES).unwrap();
    Catalog {
        contracts: BTreeMap::from([(contract.id.clone(), contract)]),
        purposes: Arc::new(purposes),
        feeds: BTreeMap::new(),
        models: BTreeMap::new(),
        declassifications: BTreeMap::new(),
        topics: BTreeMap::from([(topic.name.clone(), Arc::new(topic))]),
    }
}

/// A version of a record; nothing of it: it is retracted.
#[derive(Debug, Clone)]
pub struct Record {
    pub no: u32,
    pub id: u32,
    pub name: Option<String>,
    pub n: Option<i32>,
    pub amount: Option<i128>,
    pub flag: Option<bool>,
    pub day: Option<Date>,
    pub until: Option<Date>,
    pub retract: bool,
}

impl Record {
    pub fn plain(no: u32, id: u32, name: &str) -> Self {
        Self {
            no,
            id,
            name: Some(name.to_owned()),
            n: Some(1),
            amount: Some(12_345),
            flag: Some(false),
            day: Some(day(10)),
            until: None,
            retract: false,
        }
    }
}

fn topic(columns: &[&str], version: &str) -> TopicSpec {
    let text = format!(
        "name: filings\nversion: {version}\ntitleEn: Filings\ntitleCn: 申报\ndataset: filing\ncolumns: [{}]\n",
        columns.join(", ")
    );
    TopicSpec::from_yaml("topics/filings.yaml".as_ref(), &text).unwrap()
}

pub fn day(n: u64) -> Date {
    "2026-01-01".parse::<Date>().unwrap() + chrono::Days::new(n)
}

pub fn uscc(n: u32) -> Uscc {
    Uscc::from_parts('9', '1', "330106", &format!("{n:08}")).unwrap()
}

pub struct World {
    pub folder: PathBuf,
    pub look: Look,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<TestClock>,
    pub ledger: Ledger,
    pub log: Arc<AuditLog>,
    pub warehouse: Warehouse,
    pub gate: Arc<Gate>,
    pub topics: Topics,
    pub drainer: Drainer,
    pub subscription: Subscription,
    numbers: Vec<u32>,
    version: i64,
}

impl World {
    /// A hub at 2026-02-01 with a subscriber that has an agreement about every column, or about some.
    pub async fn new(folder: PathBuf, look: Look, agreed: &[&str], delivery: Delivery) -> Self {
        Self::of(folder, look, agreed, delivery, ENTERPRISES).await
    }

    /// The same with so many enterprises, of which the first [`ENTERPRISES`] can sign.
    pub async fn of(
        folder: PathBuf,
        look: Look,
        agreed: &[&str],
        delivery: Delivery,
        enterprises: u32,
    ) -> Self {
        let catalog = Arc::new(catalog(look));
        let start: Timestamp = "2026-02-01".parse().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(start.0 + DAY_MS / 2)));
        std::fs::create_dir_all(folder.join("keys")).unwrap();
        let keys = LogKeys::generate(&folder.join("keys")).unwrap();
        AuditLog::create(&folder.join("log"), &keys, "qihui/test").unwrap();
        let log = Arc::new(AuditLog::open(&folder.join("log"), &keys, clock.clone()).unwrap());
        let ledger = Ledger::open(&folder.join("ledger.db"), clock.clone())
            .await
            .unwrap();
        let warehouse = Warehouse::open(&folder.join("warehouse")).unwrap();
        let gate = Gate::new(GateParts {
            catalog: Arc::clone(&catalog),
            ledger: ledger.clone(),
            log: Arc::clone(&log),
            warehouse: warehouse.clone(),
            bounds: Arc::new(Bounds::new(Limits::default(), folder.join("spill"))),
            unfinished: Arc::default(),
            clock: clock.clone(),
        });
        let gate = Arc::new(gate.unwrap());
        let drainer = Drainer::new(ledger.clone(), Arc::new(LogSink(Arc::clone(&log))));
        ledger.record_artefacts(&catalog).await.unwrap();
        let org = Organisation {
            id: "bank".parse().unwrap(),
            name: "Bank".to_owned(),
            kind: OrganisationKind::Bank,
        };
        ledger.add_org(org).await.unwrap();
        let about = (
            "bank".parse().unwrap(),
            "filings".parse().unwrap(),
            "watch.risk".parse().unwrap(),
        );
        let added = ledger.add_subscription(&catalog, about, delivery, "test");
        let subscription = added.await.unwrap();
        let codes: Vec<NumberRequest> = (1..=enterprises)
            .map(|n| NumberRequest {
                uscc: uscc(n),
                county: None,
                section: None,
            })
            .collect();
        let numbers = ledger
            .assign(&codes)
            .unwrap()
            .iter()
            .map(|no| no.0)
            .collect();
        for n in 1..=ENTERPRISES {
            let key = key(n).public();
            ledger.add_signatory(uscc(n), "chief", key).await.unwrap();
        }
        let topics = Topics::open(Arc::clone(&gate), &folder.join("topics"), "local:test").unwrap();
        let world = Self {
            folder,
            look,
            catalog,
            clock,
            ledger,
            log,
            warehouse,
            gate,
            topics,
            drainer,
            subscription,
            numbers,
            version: 0,
        };
        world.agree("a-1", agreed).await;
        world
    }

    pub fn dataset(&self) -> DatasetId {
        "filing".parse().unwrap()
    }

    pub fn number(&self, n: u32) -> u32 {
        self.numbers[n as usize - 1]
    }

    pub fn pass_days(&self, days: i64) {
        self.pass_ms(days * DAY_MS);
    }

    pub fn pass_ms(&self, ms: i64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// The topic has these columns from now on.
    pub async fn replace_topic(&mut self, columns: &[&str]) {
        let topic = topic(columns, "2.0.0");
        let catalog = Catalog {
            topics: BTreeMap::from([(topic.name.clone(), Arc::new(topic))]),
            ..Catalog::clone(&self.catalog)
        };
        self.catalog = Arc::new(catalog);
        self.ledger.record_artefacts(&self.catalog).await.unwrap();
        self.drain().await;
        let gate = Gate::new(GateParts {
            catalog: Arc::clone(&self.catalog),
            ledger: self.ledger.clone(),
            log: Arc::clone(&self.log),
            warehouse: self.warehouse.clone(),
            bounds: Arc::new(Bounds::new(Limits::default(), self.folder.join("spill"))),
            unfinished: Arc::default(),
            clock: self.clock.clone(),
        });
        self.gate = Arc::new(gate.unwrap());
        self.topics = self.topics.acting_as(Arc::clone(&self.gate), "local:test");
    }

    pub async fn drain(&self) {
        self.drainer.drain().await.unwrap();
    }

    /// The process starts again: nothing is remembered but what is on disk.
    pub fn restart(&mut self) {
        let folder = self.folder.join("topics");
        self.topics = Topics::open(Arc::clone(&self.gate), &folder, "local:test").unwrap();
    }

    /// An agreement about some columns, key and `uscc` always in the clear.
    pub async fn agree(&self, id: &str, columns: &[&str]) {
        self.agree_on(id, columns, self.look.statute).await;
    }

    /// The same, by a law or by consent.
    pub async fn agree_on(&self, id: &str, columns: &[&str], statute: bool) {
        let basis = if statute {
            "{statute: {law: \"a law\"}}"
        } else {
            "consent"
        };
        let columns: Vec<String> = columns
            .iter()
            .map(|name| match *name {
                "amount" => "{name: amount, form: {bucketed: {width: 10}}}".to_owned(),
                name => format!("{{name: {name}, form: clear}}"),
            })
            .collect();
        let text = format!(
            "id: {id}\norg: bank\ndataset: filing\npurposes: [watch.risk]\nbasis: {basis}\nvalid_until: 2026-12-01\ncolumns: [{}]\n",
            columns.join(", ")
        );
        let file = AgreementFile::parse(&text).unwrap();
        self.ledger
            .add_agreement(&self.catalog, file)
            .await
            .unwrap();
        self.drain().await;
    }

    /// A consent of enterprise `n`, in force.
    pub async fn grant(
        &self,
        n: u32,
        columns: &[&str],
        range: Option<(Date, Date)>,
        expires: Date,
        action: Action,
    ) -> ConsentId {
        let range = range.map_or_else(String::new, |(from, to)| {
            format!("\n    data_range: {{from: {from}, to: {to}}}")
        });
        let text = format!(
            "principal: {}\nconsumer: {{org: bank}}\npurpose: {{code: watch.risk}}\nnotice: {{lang: zh, text: 授权书}}\n\
             scope:\n  - dataset: filing\n    columns: [{}]{range}\nactions: [{action}]\nexpires: {expires}\n",
            uscc(n),
            columns.join(", "),
        );
        let request = ConsentRequest::parse(&text).unwrap();
        let consent = self
            .ledger
            .request_consent(&self.catalog, request)
            .await
            .unwrap();
        let id = consent.document.consent_id;
        self.sign(n, &id, Operation::Give, None).await;
        id
    }

    pub async fn sign(&self, n: u32, id: &ConsentId, operation: Operation, narrowed: Option<&str>) {
        let narrowed = narrowed.map(|text| NarrowRequest::parse(text).unwrap());
        let key = key(n);
        let signed = self
            .ledger
            .sign_with(&self.catalog, id, operation, narrowed, ("chief", &key));
        signed.await.unwrap();
        self.drain().await;
    }

    /// Lands versions of records, each newer than all before.
    pub async fn land(&mut self, records: &[Record]) {
        let contract = Arc::clone(self.catalog.contract(&self.dataset()).unwrap());
        let schema = incoming_schema(&contract);
        let first = self.version;
        self.version += i64::try_from(records.len()).unwrap();
        let days = |of: fn(&Record) -> Option<Date>| -> ArrayRef {
            let days = records
                .iter()
                .map(|record| of(record).map(Date32Type::from_naive_date));
            Arc::new(days.collect::<Date32Array>())
        };
        let columns = schema.fields().iter().map(|field| -> ArrayRef {
            match field.name().as_str() {
                "_no" => Arc::new(
                    records
                        .iter()
                        .map(|record| i32::try_from(self.number(record.no)).unwrap())
                        .collect::<Int32Array>(),
                ),
                "uscc" => Arc::new(StringArray::from_iter_values(
                    records.iter().map(|record| uscc(record.no).to_string()),
                )),
                "id" => Arc::new(StringArray::from_iter_values(
                    records
                        .iter()
                        .map(|record| format!("{}-{}", record.no, record.id)),
                )),
                "version" => Arc::new((first..).take(records.len()).collect::<Int64Array>()),
                "flag" => Arc::new(
                    records
                        .iter()
                        .map(|record| record.flag)
                        .collect::<BooleanArray>(),
                ),
                "name" => Arc::new(
                    records
                        .iter()
                        .map(|record| record.name.clone())
                        .collect::<StringArray>(),
                ),
                "n" => Arc::new(
                    records
                        .iter()
                        .map(|record| record.n)
                        .collect::<Int32Array>(),
                ),
                "amount" => Arc::new(
                    records
                        .iter()
                        .map(|record| record.amount)
                        .collect::<Decimal128Array>()
                        .with_precision_and_scale(12, 2)
                        .unwrap(),
                ),
                "day" => days(|record| record.day),
                "until" => days(|record| record.until),
                other => panic!("{other}"),
            }
        });
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
        let retract = BooleanBuffer::from_iter(records.iter().map(|record| record.retract));
        let incoming = Incoming {
            batch,
            retract: Some(retract),
        };
        let table = self.warehouse.table(&contract).await.unwrap();
        table.land_next("test/filing", incoming).await.unwrap();
    }

    /// What a gated query answers over the topic's columns: rows by key, cells that are null left out.
    pub async fn view(&self) -> BTreeMap<String, Map<String, Value>> {
        let topic = &self.catalog.topics[&self.subscription.topic];
        let request = AccessRequest {
            principal: "local:test".to_owned(),
            org: "bank".parse().unwrap(),
            purpose: "watch.risk".parse().unwrap(),
            action: Action::Stream,
            subjects: Vec::new(),
            sql: "SELECT * FROM filing".to_owned(),
            format: Format::Ndjson,
            strict: false,
        };
        let mut out = Vec::new();
        if let Err(error) = self.gate.query(&request, &mut out).await {
            let code = qihui_catalog::Coded::code(&error);
            assert!(
                ["DatasetNotInAgreement", "PurposeNotAssigned"].contains(&code),
                "{error}"
            );
            return BTreeMap::new();
        }
        let columns: BTreeSet<&str> = topic.columns.iter().map(String::as_str).collect();
        let mut rows = BTreeMap::new();
        for line in String::from_utf8(out).unwrap().lines() {
            let row: Map<String, Value> = serde_json::from_str(line).unwrap();
            let row: Map<String, Value> = row
                .into_iter()
                .filter(|(name, value)| columns.contains(name.as_str()) && !value.is_null())
                .collect();
            if let (Some(Value::String(id)), true) = (row.get("id"), row.contains_key("uscc")) {
                let id = id.clone();
                rows.insert(id, row);
            }
        }
        rows
    }
}

fn key(n: u32) -> SigningKey {
    SigningKey::from_seed_bytes([u8::try_from(n).unwrap(); 32]).unwrap()
}
