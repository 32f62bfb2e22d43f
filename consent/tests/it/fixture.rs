//! A small hub: two datasets, three purposes, a bank, enterprises with keys.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use qihui_audit::Clock;
use qihui_catalog::{
    Action, Catalog, Column, ColumnType, ConsentId, Contract, DatasetId, EnterpriseNo, Level,
    OrgId, Partition, PurposeCode, PurposeTree, Timestamp, Unit, Uscc,
};
use qihui_consent::{
    Decision, DecisionError, Drainer, Ledger, LedgerError, OutboxItem, Sink,
    agreement::AgreementFile,
    decision::DecisionRequest,
    document::{ConsentRequest, NarrowRequest},
    ledger::{Consent, ConsentOperation, Organisation, OrganisationKind, SinkError},
    signing::{Operation, SigningKey},
};
use tempfile::TempDir;

pub const DAY_MS: i64 = 86_400_000;

pub struct TestClock(pub AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A log in memory that can be made to fail.
#[derive(Default)]
pub struct MemorySink {
    pub entries: Mutex<Vec<OutboxItem>>,
    pub down: AtomicBool,
}

#[async_trait]
impl Sink for MemorySink {
    async fn append(&self, items: &[OutboxItem]) -> Result<Vec<u64>, SinkError> {
        if self.down.load(Ordering::SeqCst) {
            return Err("the log is down".into());
        }
        let mut entries = self.entries.lock();
        Ok(items
            .iter()
            .map(|item| {
                entries.push(item.clone());
                entries.len() as u64 - 1
            })
            .collect())
    }
}

pub struct Hub {
    pub dir: TempDir,
    pub clock: Arc<TestClock>,
    pub ledger: Ledger,
    pub catalog: Catalog,
    pub sink: Arc<MemorySink>,
    pub drainer: Drainer,
}

const PURPOSES: &str = "
version: 1.0.0
purposes:
  - {code: credit, titleEn: Finance, titleCn: 金融, description: Finance., caps: {maxValidityDays: 400, dataLifeDays: 100}}
  - {code: credit.loan, titleEn: Loan, titleCn: 贷款, description: Loan.,
     caps: {maxValidityDays: 180, maxRangeDays: 800, dataLifeDays: 90}}
  - {code: credit.watch, titleEn: Watch, titleCn: 贷后, description: Watch.,
     caps: {maxValidityDays: 180, frequency: {count: 3, per: month}, dataLifeDays: 90}}
  - {code: stats, titleEn: Figures, titleCn: 统计, description: Figures., caps: {maxValidityDays: 400, dataLifeDays: 90}}
  - {code: stats.region, titleEn: Regions, titleCn: 区域, description: Regions., caps: {maxValidityDays: 400, dataLifeDays: 90}}
";

fn column(name: &str, ty: ColumnType, level: Level) -> Column {
    Column {
        name: name.to_owned(),
        title_cn: name.to_owned(),
        description: name.to_owned(),
        ty,
        nullable: true,
        level,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    }
}

fn contract(
    id: &str,
    row_level: Level,
    event_date: Option<&str>,
    columns: Vec<Column>,
) -> (DatasetId, Arc<Contract>) {
    let contract = Contract {
        id: id.parse().unwrap(),
        version: "1.0.0".to_owned(),
        title_en: id.to_owned(),
        title_cn: id.to_owned(),
        description: id.to_owned(),
        description_cn: id.to_owned(),
        owner: "tax".to_owned(),
        row_level,
        key: vec!["uscc".to_owned()],
        uscc: "uscc".to_owned(),
        event_date: event_date.map(str::to_owned),
        sequence: Vec::new(),
        partition: Partition::None,
        window: None,
        freshness_days: None,
        feeds: Vec::new(),
        columns,
        hash: [1; 32],
    };
    (contract.id.clone(), Arc::new(contract))
}

pub fn catalog() -> Catalog {
    let vat = vec![
        column("uscc", ColumnType::String, Level::L1),
        column("day", ColumnType::Date, Level::L2),
        column(
            "sales",
            ColumnType::Decimal {
                precision: 18,
                scale: 2,
            },
            Level::L3,
        ),
        column(
            "tax",
            ColumnType::Decimal {
                precision: 18,
                scale: 2,
            },
            Level::L3,
        ),
        column("officer", ColumnType::String, Level::L4),
    ];
    let registry = vec![
        column("uscc", ColumnType::String, Level::L1),
        column("name", ColumnType::String, Level::L1),
        column("phone", ColumnType::String, Level::L2),
    ];
    let purposes =
        PurposeTree::from_yaml(PathBuf::from("purposes.yaml").as_path(), PURPOSES).unwrap();
    Catalog {
        contracts: BTreeMap::from([
            contract("vat", Level::L3, Some("day"), vat),
            contract("registry", Level::L1, None, registry),
        ]),
        purposes: Arc::new(purposes),
        feeds: BTreeMap::new(),
        models: BTreeMap::new(),
        declassifications: BTreeMap::new(),
        topics: BTreeMap::new(),
    }
}

pub fn uscc(n: u32) -> Uscc {
    Uscc::from_parts('9', '1', "330106", &format!("{n:08}")).unwrap()
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed_bytes([n; 32]).unwrap()
}

pub fn bank() -> OrgId {
    "bank".parse().unwrap()
}

pub fn purpose(code: &str) -> PurposeCode {
    code.parse().unwrap()
}

pub fn vat() -> DatasetId {
    "vat".parse().unwrap()
}

pub const AGREEMENT: &str = "
id: vat-loan
org: bank
dataset: vat
purposes: [credit.loan, credit.watch]
basis: consent
valid_until: 2028-01-01
columns: [{name: uscc}, {name: day}, {name: sales, form: clear, reason: credit line}, {name: tax, form: {bucketed: {width: 1000}}}]
";

/// A request as the bank writes it, with changes to its text.
pub fn request_text(n: u32, changes: &[(&str, &str)]) -> String {
    let mut text = format!(
        "
principal: {}
consumer: {{org: bank}}
purpose: {{code: credit.loan}}
notice: {{lang: zh, text: 授权书}}
scope:
  - dataset: vat
    columns: [uscc, sales]
    data_range: {{from: 2024-01-01, to: 2026-01-01}}
actions: [QUERY]
expires: 2026-06-01
",
        uscc(n)
    );
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

impl Hub {
    /// An empty hub, at 2026-01-10 in Shanghai.
    pub async fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let start: Timestamp = "2026-01-10".parse().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(start.0)));
        let ledger = Ledger::open(&dir.path().join("ledger.sqlite"), clock.clone())
            .await
            .unwrap();
        let sink = Arc::new(MemorySink::default());
        let drainer = Drainer::new(ledger.clone(), sink.clone());
        Self {
            dir,
            clock,
            ledger,
            catalog: catalog(),
            sink,
            drainer,
        }
    }

    /// A hub with a bank that has an agreement.
    pub async fn new() -> Self {
        Self::with_a_bank(Self::empty().await).await
    }

    /// The same with its ledger in a folder that is kept, by another clock.
    pub async fn on(dir: &std::path::Path, clock: Arc<dyn Clock>) -> Self {
        let ledger = Ledger::open(&dir.join("ledger.sqlite"), clock)
            .await
            .unwrap();
        let hub = Self::empty().await;
        let drainer = Drainer::new(ledger.clone(), hub.sink.clone());
        let hub = Self {
            ledger,
            drainer,
            ..hub
        };
        Self::with_a_bank(hub).await
    }

    async fn with_a_bank(hub: Self) -> Self {
        let org = Organisation {
            id: bank(),
            name: "城市银行".to_owned(),
            kind: OrganisationKind::Bank,
        };
        hub.ledger.add_org(org).await.unwrap();
        let file = AgreementFile::parse(AGREEMENT).unwrap();
        hub.ledger.add_agreement(&hub.catalog, file).await.unwrap();
        hub.drain().await;
        hub
    }

    pub async fn drain(&self) {
        self.drainer.drain().await.unwrap();
    }

    pub fn advance(&self, ms: i64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.clock.now_ms())
    }

    /// Enterprise `n` with signatories `s1`, `s2` … whose keys are `n * 10 + i`.
    pub async fn enterprise(&self, n: u32, signatories: u8, threshold: u32) {
        for i in 1..=signatories {
            let key = key(u8::try_from(n * 10).unwrap() + i).public();
            self.ledger
                .add_signatory(uscc(n), &format!("s{i}"), key)
                .await
                .unwrap();
        }
        if threshold > 1 {
            self.ledger.set_threshold(uscc(n), threshold).await.unwrap();
        }
    }

    pub async fn request(&self, n: u32, changes: &[(&str, &str)]) -> Result<Consent, LedgerError> {
        let request = ConsentRequest::parse(&request_text(n, changes))?;
        self.ledger.request_consent(&self.catalog, request).await
    }

    pub async fn sign(
        &self,
        id: &ConsentId,
        n: u32,
        i: u8,
        operation: Operation,
        narrowed: Option<NarrowRequest>,
    ) -> Result<Consent, LedgerError> {
        let key = key(u8::try_from(n * 10).unwrap() + i);
        let name = format!("s{i}");
        self.ledger
            .sign_with(&self.catalog, id, operation, narrowed, (&name, &key))
            .await
    }

    pub async fn hold(&self, id: &ConsentId, operation: Operation) -> Result<Consent, LedgerError> {
        let by = "local:root".to_owned();
        let held = ConsentOperation::Held {
            consent_id: id.clone(),
            operation,
            by,
            narrowed: None,
        };
        self.ledger.operate(&self.catalog, held).await
    }

    /// A consent of enterprise `n`, given and in force.
    pub async fn granted(&self, n: u32, changes: &[(&str, &str)]) -> Consent {
        let consent = self.request(n, changes).await.unwrap();
        let consent = self
            .sign(&consent.document.consent_id, n, 1, Operation::Give, None)
            .await
            .unwrap();
        self.drain().await;
        self.ledger
            .consent(&consent.document.consent_id)
            .await
            .unwrap()
    }

    pub fn asked(&self, subjects: Option<Vec<EnterpriseNo>>) -> DecisionRequest {
        DecisionRequest {
            org: bank(),
            purpose: purpose("credit.loan"),
            action: Action::Query,
            at: self.now(),
            until: Timestamp(self.now().0 + 60_000),
            subjects,
            datasets: vec![vat()],
        }
    }

    pub async fn decide(
        &self,
        subjects: Option<Vec<EnterpriseNo>>,
    ) -> Result<Decision, DecisionError> {
        self.ledger
            .decide(&self.catalog, &self.asked(subjects))
            .await
    }

    /// The numbers of the enterprises of which the bank sees something.
    pub async fn seen(&self) -> Vec<u32> {
        self.decide(None).await.unwrap().scopes[&vat()]
            .granted()
            .iter()
            .collect()
    }
}
