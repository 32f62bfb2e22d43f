//! GATE-3: nothing is released before its record is durable. On the real ledger, log and warehouse.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use async_trait::async_trait;
use qihui_audit::{AuditLog, Entry, Fault, Faults, LogKeys, LogOptions, Subjects, SystemClock};
use qihui_catalog::{Action, Catalog, Coded, Contract, EnterpriseNumbers, NumberRequest, Uscc};
use qihui_consent::ledger::{Organisation, OrganisationKind};
use qihui_consent::{Drainer, Ledger, OutboxItem, Sink};
use qihui_query::QueryError;
use qihui_query::access::{
    AccessRequest, Bounds, Gate, GateParts, Limits, RefusedRequest, accesses_of, manifest_of,
};
use qihui_query::formats::Format;
use qihui_warehouse::{Incoming, Warehouse, incoming_schema};
use sqlx::Connection as _;

pub struct LogSink(pub Arc<AuditLog>);

#[async_trait]
impl Sink for LogSink {
    async fn append(
        &self,
        items: &[OutboxItem],
    ) -> Result<Vec<u64>, Box<dyn std::error::Error + Send + Sync>> {
        let entries: Vec<Entry<'_>> = items
            .iter()
            .map(|item| Entry {
                kind: &item.kind,
                body: &item.body,
                subjects: item.subjects.iter().map(|no| no.0).collect::<Subjects>(),
            })
            .collect();
        Ok(self
            .0
            .append_many(&entries)?
            .into_iter()
            .map(|receipt| receipt.index)
            .collect())
    }
}

pub struct Hub {
    pub gate: Gate,
    pub bounds: Arc<Bounds>,
    pub log: Arc<AuditLog>,
    pub ledger: Ledger,
    faults: Arc<Faults>,
    subject: Uscc,
}

pub fn request(sql: &str) -> AccessRequest {
    AccessRequest {
        principal: "local:test".into(),
        org: "bank".parse().unwrap(),
        purpose: "credit.loan_review".parse().unwrap(),
        action: Action::Query,
        subjects: Vec::new(),
        sql: sql.into(),
        format: Format::Csv,
        strict: false,
    }
}

fn rows(contract: &Contract, codes: &[Uscc], numbers: &[i32]) -> RecordBatch {
    let schema = incoming_schema(contract);
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "_no" => Arc::new(Int32Array::from(numbers.to_vec())) as ArrayRef,
            "uscc" => Arc::new(
                codes
                    .iter()
                    .map(|code| Some(code.as_str()))
                    .collect::<StringArray>(),
            ),
            _ => new_null_array(field.data_type(), codes.len()),
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// A hub with three registered enterprises and a bank that may read open data.
async fn hub(dir: &Path) -> Hub {
    hub_of(dir, 3, Limits::default()).await
}

/// A hub with so many registered enterprises; a bank and an insurer may read open data, within limits.
pub async fn hub_of(dir: &Path, enterprises: u32, limits: Limits) -> Hub {
    let catalog = Arc::new(Catalog::builtin().unwrap());
    let keys_dir = dir.join("keys");
    std::fs::create_dir(&keys_dir).unwrap();
    let keys = LogKeys::generate(&keys_dir).unwrap();
    AuditLog::create(&dir.join("audit"), &keys, "qihui/test").unwrap();
    let faults = Arc::new(Faults::default());
    let options = LogOptions {
        faults: Arc::clone(&faults),
        ..LogOptions::default()
    };
    let log =
        AuditLog::open_with(&dir.join("audit"), &keys, Arc::new(SystemClock), options).unwrap();
    let log = Arc::new(log);
    let ledger = Ledger::open(&dir.join("ledger.db"), Arc::new(SystemClock))
        .await
        .unwrap();
    ledger.record_artefacts(&catalog).await.unwrap();
    for id in ["bank", "insurer"] {
        let org = Organisation {
            id: id.parse().unwrap(),
            name: id.into(),
            kind: OrganisationKind::Bank,
        };
        ledger.add_org(org).await.unwrap();
        let purpose = "credit.loan_review".parse().unwrap();
        ledger
            .assign_purpose(&catalog, &id.parse().unwrap(), None, &purpose)
            .await
            .unwrap();
    }
    Drainer::new(ledger.clone(), Arc::new(LogSink(Arc::clone(&log))))
        .drain()
        .await
        .unwrap();

    let codes: Vec<Uscc> = (1..=enterprises)
        .map(|n| Uscc::from_parts('9', '1', "330100", &format!("{n:08}")).unwrap())
        .collect();
    let wanted: Vec<NumberRequest> = codes
        .iter()
        .map(|uscc| NumberRequest {
            uscc: *uscc,
            county: None,
            section: None,
        })
        .collect();
    let numbers = ledger.assign(&wanted).unwrap();
    let warehouse = Warehouse::open(&dir.join("warehouse")).unwrap();
    let contract = catalog
        .contract(&"enterprise_registration".parse().unwrap())
        .unwrap();
    let table = warehouse.table(contract).await.unwrap();
    let numbers: Vec<i32> = numbers
        .iter()
        .map(|no| i32::try_from(no.0).unwrap())
        .collect();
    table
        .land_next(
            "test/enterprise_registration",
            Incoming::records(rows(contract, &codes, &numbers)),
        )
        .await
        .unwrap();
    let bounds = Arc::new(Bounds::new(limits, dir.join("spill")));
    let gate = Gate::new(GateParts {
        catalog,
        ledger: ledger.clone(),
        log: Arc::clone(&log),
        warehouse,
        bounds: Arc::clone(&bounds),
        unfinished: Arc::default(),
        clock: Arc::new(SystemClock),
    })
    .unwrap();
    Hub {
        gate,
        bounds,
        log,
        ledger,
        faults,
        subject: codes[1],
    }
}

pub fn kinds(log: &AuditLog) -> Vec<String> {
    log.scan(0..log.size())
        .map(|entry| entry.unwrap().leaf.kind)
        .filter(|kind| kind.starts_with("access."))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_3_an_answer_stands_between_two_durable_entries() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path()).await;
    let mut out = Vec::new();
    let sql = "SELECT uscc FROM enterprise_registration ORDER BY uscc";
    let summary = hub.gate.query(&request(sql), &mut out).await.unwrap();
    assert_eq!(
        (summary.rows, out.iter().filter(|b| **b == b'\n').count()),
        (3, 4)
    );
    assert_eq!(summary.bytes, out.len() as u64);
    let hash = ring::digest::digest(&ring::digest::SHA256, &out);
    assert_eq!(summary.sha256, hex::encode(hash));
    assert_eq!(kinds(&hub.log), ["access.decided", "access.finished"]);
    let no = hub.ledger.lookup(&[hub.subject]).unwrap()[0].unwrap();
    let accesses = accesses_of(&hub.log, no).unwrap();
    assert_eq!(accesses.len(), 1);
    let access = &accesses[0];
    assert_eq!(
        (access.org.as_str(), access.decision.as_str(), access.rows),
        ("bank", "allowed", Some(1))
    );
    assert_eq!(access.columns, ["enterprise_registration.uscc"]);
    // The commitment to the scope is for whoever may look at every access.
    let manifest = manifest_of(&hub.log, &summary.access_id, 10).unwrap();
    let manifest = manifest.unwrap();
    let commitment = manifest.decisions[0]["commitment"].as_str();
    assert_eq!(commitment.map(str::len), Some(64), "{manifest:?}");
    let own = manifest.clone().for_one_organisation();
    let keys = |value: &serde_json::Value| value[0].as_object().unwrap().len();
    assert!(own.decisions[0].get("commitment").is_none(), "{own:?}");
    assert_eq!(keys(&own.decisions) + 1, keys(&manifest.decisions));
}

/// Panics when it is written to, as a defect of the engine would.
struct Broken;

impl std::io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("a defect")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_3_a_panic_leaves_no_access_without_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path()).await;
    let sql = "SELECT uscc FROM enterprise_registration";
    let error = hub.gate.query(&request(sql), &mut Broken).await;
    assert_eq!(error.unwrap_err().code(), "InternalError");
    assert_eq!(kinds(&hub.log), ["access.decided", "access.finished"]);
    // Nothing is left locked: who takes something away does not wait, and the next query runs.
    drop(hub.ledger.losses().release_lock().try_write().unwrap());
    hub.gate
        .query(&request(sql), &mut Vec::new())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_3_without_the_log_nothing_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path()).await;
    let sql = "SELECT uscc FROM enterprise_registration";
    let before = hub.faults.steps();
    hub.gate
        .query(&request(sql), &mut Vec::new())
        .await
        .unwrap();
    let steps = hub.faults.steps() - before;
    assert!(
        steps >= 4,
        "two group commits have a write and an fsync each"
    );
    // A full disk leaves the log usable, so that every step can fail in turn.
    for step in 0..steps {
        let recorded = kinds(&hub.log)
            .iter()
            .filter(|kind| *kind == "access.decided")
            .count();
        hub.faults.fail(step, 1, Fault::NoSpace);
        let mut out = Vec::new();
        let result = hub.gate.query(&request(sql), &mut out).await;
        hub.faults.clear();
        let decided = kinds(&hub.log)
            .iter()
            .filter(|kind| *kind == "access.decided")
            .count()
            > recorded;
        match result {
            Ok(_) => assert!(decided, "step {step}: an answer without its record"),
            Err(error) => {
                assert_eq!(error.code(), "LogUnavailable", "step {step}: {error}");
                assert!(
                    decided || out.is_empty(),
                    "step {step}: bytes left before the decision was recorded"
                );
            }
        }
        if hub.log.failure().is_some() {
            // The step was an fsync: the log refuses everything until it is opened again, and so does the gate.
            let mut out = Vec::new();
            let error = hub.gate.query(&request(sql), &mut out).await.unwrap_err();
            assert_eq!((error.code(), out.is_empty()), ("LogUnavailable", true));
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_3_refusals_are_recorded_and_interrupted_accesses_closed() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path()).await;
    let mut out = Vec::new();
    let unknown = AccessRequest {
        org: "nobody".parse().unwrap(),
        ..request("SELECT uscc FROM enterprise_registration")
    };
    for (request, code) in [
        (unknown, "UnknownOrganisation"),
        (
            request("SELECT * FROM vat_declaration"),
            "DatasetNotInAgreement",
        ),
        (request("SELECT * FROM '/etc/passwd'"), "UnknownDataset"),
        (request("DROP TABLE enterprise_registration"), "NotAllowed"),
    ] {
        let error: QueryError = hub.gate.query(&request, &mut out).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    assert!(out.is_empty());
    assert_eq!(kinds(&hub.log), ["access.denied"; 4]);
    // As a killed process leaves it: a decision and no finish.
    let body = br#"{"access_id":"x","datasets":[{"columns":["uscc"],"dataset":"enterprise_registration"}],"org":"bank","purpose":"credit.loan_review"}"#;
    hub.log
        .append(&Entry {
            kind: "access.decided",
            body,
            subjects: Subjects::none(),
        })
        .unwrap();
    assert_eq!(hub.gate.close_interrupted(0).await.unwrap(), 1);
    assert_eq!(hub.gate.close_interrupted(0).await.unwrap(), 0);
    let no = hub.ledger.lookup(&[hub.subject]).unwrap()[0].unwrap();
    let accesses = accesses_of(&hub.log, no).unwrap();
    assert_eq!(
        accesses.last().map(|access| access.decision.as_str()),
        Some("interrupted")
    );
}

/// A preview that does not get as far as its decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aud_3_a_preview_that_gets_no_turn_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path()).await;
    let long = AccessRequest {
        subjects: vec![hub.subject],
        ..request(&" ".repeat(1 << 20))
    };
    let shown = hub.gate.preview(&long, BTreeMap::new()).await;
    assert_eq!(shown.unwrap_err().code(), "StatementTooLong");
    assert_eq!(kinds(&hub.log), ["access.denied"]);
    let no = hub.ledger.lookup(&[hub.subject]).unwrap()[0].unwrap();
    let accesses = accesses_of(&hub.log, no).unwrap();
    assert_eq!(accesses[0].decision, "denied");
}

/// While nobody can say who was named, there is no refusal that those who were named would not hear of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aud_3_a_refusal_waits_for_the_numbers_of_whom_it_is_about() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path()).await;
    // One that nobody knows is looked for in the file.
    let path = dir.path().join("ledger.db");
    let change = async |statement: &'static str| {
        let url = format!("sqlite:{}", path.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let changed = sqlx::query(statement).execute(&mut connection).await;
        changed.unwrap();
        connection.close().await.unwrap();
    };
    let unknown = Uscc::from_parts('9', '1', "330100", "99999999").unwrap();
    let named = AccessRequest {
        subjects: vec![hub.subject, unknown],
        ..request("DROP TABLE enterprise_registration")
    };
    let unread = RefusedRequest::from(&named);
    let said = async || {
        let asked = hub.gate.query(&named, &mut Vec::new()).await;
        let refused = hub.gate.refused(&unread, "BadRequest").await;
        [asked.err(), refused.err()].map(|error| error.map(|error| error.code()))
    };
    change("ALTER TABLE number_block RENAME TO away").await;
    assert_eq!(said().await, [Some("NumbersUnavailable"); 2]);
    assert!(kinds(&hub.log).is_empty());
    change("ALTER TABLE away RENAME TO number_block").await;
    assert_eq!(said().await, [Some("NotAllowed"), None]);
    assert_eq!(kinds(&hub.log), ["access.denied"; 2]);
    let no = hub.ledger.lookup(&[hub.subject]).unwrap()[0].unwrap();
    assert_eq!(accesses_of(&hub.log, no).unwrap().len(), 2);
}
