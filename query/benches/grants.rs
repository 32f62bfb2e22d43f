//! A hub on which a million enterprises have two grants each: a point query of one of them, decision and both log entries
//! included, beside a bare fsync; and a long query while a million short grants end, and while a thousand enterprises withdraw
//! of which no row has passed: neither may starve it (GATE-4, ADR 0047).
//!
//! `cargo bench -p qihui -p qihui-query --bench grants` prints one figure a line. The hub lies in the system's temporary
//! directory (`TMPDIR`). `QIHUI_BENCH_ENTERPRISES` (default 1,000,000) is how many enterprises have a row, a long grant and
//! a short one; `QIHUI_BENCH_SCANS` (default 200) how often the long query reads them all, so how long it takes.
//!
//! Every enterprise has both grants, so that the query sees the same rows whether short ones end or not. They end one
//! after another by the hub's clock, which goes on as quickly as the ledger writes ends down, and their entries go into the
//! log, as in the service. Who withdraws has a grant and no row: it is in the scope, and every stream has to leave it out.
#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    unused_imports
)]

#[path = "../../consent/tests/it/fixture.rs"]
mod fixture;
#[path = "../tests/it/gate_3.rs"]
mod gate_3;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Date32Array, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use qihui_audit::{AuditLog, LogKeys, LogOptions};
use qihui_catalog::{Action, Catalog, ConsentId, EnterpriseNumbers, NumberRequest};
use qihui_consent::ledger::Consent;
use qihui_consent::signing::Operation;
use qihui_consent::{Drainer, Ledger};
use qihui_query::access::{
    AccessRequest, Bounds, Gate, GateParts, Limits, Outlet, ReleasePermit, Summary,
};
use qihui_query::formats::Format;
use qihui_warehouse::{Incoming, Warehouse, incoming_schema};
use sqlx::{Connection, SqliteConnection};

/// Enterprises and scans; the second for a run of all tests, which only shows that it works.
const SIZES: [(u32, u32); 2] = [(1_000_000, 200), (2_000, 8)];
/// Those who withdraw.
const WITHDRAWING: u32 = 1_000;
/// The first of the made enterprises; before it are those of the fixture.
const FIRST: u32 = 100;
/// In how many steps the clock brings the ends of the short grants, and how far it goes in each.
const STEPS: u32 = 1_000;
const STEP_MS: i64 = 3_000;
/// How long a query may take by the hub's clock: more than all steps.
const SECONDS: u64 = 7_200;
/// Rows that land at once.
const CHUNK: u32 = 250_000;

struct Hub {
    base: fixture::Hub,
    gate: Gate,
    log: Drainer,
    withdrawing: Vec<ConsentId>,
}

fn size(name: &str, default: u32) -> u32 {
    let asked = std::env::var(name).ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Enterprises with a row each.
fn rows(catalog: &Catalog, of: Range<u32>, numbers: &[i32]) -> RecordBatch {
    let schema = incoming_schema(&catalog.contracts[&fixture::vat()]);
    let count = numbers.len();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "_no" => Arc::new(Int32Array::from(numbers.to_vec())),
            "uscc" => {
                let codes = of.clone().map(|n| Some(fixture::uscc(n).to_string()));
                Arc::new(codes.collect::<StringArray>())
            }
            // 1 June 2025, which the grants' range holds.
            "day" => Arc::new(Date32Array::from(vec![20_240; count])),
            _ => new_null_array(field.data_type(), count),
        }
    });
    let columns = columns.collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// Lands a row of each enterprise, and gives those without one their numbers as well.
async fn land(base: &fixture::Hub, enterprises: u32) -> Warehouse {
    let warehouse = Warehouse::open(&base.dir.path().join("warehouse")).unwrap();
    let table = warehouse.table(&base.catalog.contracts[&fixture::vat()]);
    let table = table.await.unwrap();
    let (end, mut from) = (FIRST + enterprises, FIRST);
    while from < end + WITHDRAWING {
        let to = if from < end {
            end.min(from + CHUNK)
        } else {
            end + WITHDRAWING
        };
        let wishes = (from..to).map(|n| NumberRequest {
            uscc: fixture::uscc(n),
            county: None,
            section: None,
        });
        let wishes: Vec<NumberRequest> = wishes.collect();
        let numbers = tokio::task::block_in_place(|| base.ledger.assign(&wishes).unwrap());
        if from < end {
            let numbers = numbers.iter().map(|no| i32::try_from(no.0).unwrap());
            let landed = rows(&base.catalog, from..to, &numbers.collect::<Vec<_>>());
            let landed = table.land_next("bench/vat", Incoming::records(landed));
            landed.await.unwrap();
        }
        from = to;
    }
    warehouse
}

/// Puts a copy of a consent and its grant into the store for each of some enterprises, as if each had been signed. They
/// end after one another, from `expires` on, or all with `template` when that is none.
async fn copy(
    store: &mut SqliteConnection,
    template: &Consent,
    name: &str,
    of: Range<u32>,
    expires: Option<i64>,
) {
    let document = &template.document;
    sqlx::query(
        "INSERT INTO consent (consent_id, version, org, purpose, no, state, progress, nonce, starts, expires, document,
             hash, requested, given)
         SELECT n.id, c.version, c.org, c.purpose, n.no, c.state, c.progress, c.nonce, c.starts, n.expires,
             replace(replace(replace(c.document, c.consent_id, n.id), ?2, n.uscc),
                 ?3, strftime('%Y-%m-%dT%H:%M:%fZ', n.expires / 1000.0, 'unixepoch')),
             c.hash, c.requested, c.given
         FROM consent AS c, (SELECT no, uscc, ?4 || no AS id, coalesce(?5 + no % ?6 * ?7, ?8) AS expires
             FROM enterprise WHERE uscc BETWEEN ?9 AND ?10) AS n
         WHERE c.consent_id = ?1",
    )
    .bind(document.consent_id.as_str())
    .bind(fixture::uscc(1).as_str())
    .bind(document.expires.to_string())
    .bind(name)
    .bind(expires)
    .bind(STEPS)
    .bind(STEP_MS)
    .bind(document.expires.0)
    .bind(fixture::uscc(of.start).as_str())
    .bind(fixture::uscc(of.end - 1).as_str())
    .execute(&mut *store)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO grant_row (grantee, no, consent, terms, actions, starts, expires, metered, status, given, revision)
         SELECT g.grantee, c.no, c.seq, g.terms, g.actions, g.starts, c.expires, g.metered, 2, g.given, g.revision
         FROM consent AS c, grant_row AS g
         WHERE c.consent_id GLOB ?1 || '[0-9]*' AND g.no = ?2",
    )
    .bind(name)
    .bind(template.no.0)
    .execute(store)
    .await
    .unwrap();
}

/// The consents of those who withdraw.
async fn ids(store: &mut SqliteConnection) -> Vec<ConsentId> {
    let ids = sqlx::query_scalar("SELECT consent_id FROM consent WHERE consent_id GLOB 'gone-*'");
    let ids: Vec<String> = ids.fetch_all(store).await.unwrap();
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

async fn hub(enterprises: u32) -> Hub {
    let mut base = fixture::Hub::new().await;
    base.ledger.record_artefacts(&base.catalog).await.unwrap();
    base.enterprise(1, 1, 1).await;
    let template = base.granted(1, &[]).await;
    let dir = base.dir.path().to_owned();
    let warehouse = land(&base, enterprises).await;
    base.ledger.close().await;

    let (of, end) = (FIRST..FIRST + enterprises, FIRST + enterprises);
    let store = dir.join("ledger.sqlite");
    let url = format!("sqlite://{}", store.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
    let soon = base.now().0 + STEP_MS;
    copy(&mut connection, &template, "long-", of.clone(), None).await;
    copy(&mut connection, &template, "short-", of, Some(soon)).await;
    copy(
        &mut connection,
        &template,
        "gone-",
        end..end + WITHDRAWING,
        None,
    )
    .await;
    sqlx::query("COMMIT")
        .execute(&mut connection)
        .await
        .unwrap();
    let withdrawing = ids(&mut connection).await;
    connection.close().await.unwrap();
    base.ledger = Ledger::open(&store, base.clock.clone()).await.unwrap();

    let keys_dir = dir.join("keys");
    std::fs::create_dir(&keys_dir).unwrap();
    let keys = LogKeys::generate(&keys_dir).unwrap();
    AuditLog::create(&dir.join("audit"), &keys, "qihui/bench").unwrap();
    let log = AuditLog::open_with(
        &dir.join("audit"),
        &keys,
        base.clock.clone(),
        LogOptions::default(),
    );
    let log = Arc::new(log.unwrap());
    let limits = Limits {
        seconds: SECONDS,
        ..Limits::default()
    };
    let gate = Gate::new(GateParts {
        catalog: Arc::new(base.catalog.clone()),
        ledger: base.ledger.clone(),
        log: Arc::clone(&log),
        warehouse,
        bounds: Arc::new(Bounds::new(limits, dir.join("spill"))),
        unfinished: Arc::default(),
        clock: base.clock.clone(),
    });
    let log = Drainer::new(base.ledger.clone(), Arc::new(gate_3::LogSink(log)));
    Hub {
        base,
        gate: gate.unwrap(),
        log,
        withdrawing,
    }
}

/// Takes the answer, and knows how often the query was decided.
#[derive(Default)]
struct Receiver {
    decided: u32,
    bytes: Vec<u8>,
}

#[async_trait]
impl Outlet for Receiver {
    fn begin(&mut self, _: ReleasePermit) {
        self.decided += 1;
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The half and the hundredth longest of what `times` point queries take, each of another enterprise.
async fn point(hub: &Hub, enterprises: u32, times: u32) -> (Duration, Duration) {
    let mut taken = Vec::new();
    for n in 0..times {
        // Far apart, so that the next one is not beside what was just read.
        let subject = fixture::uscc(FIRST + n.wrapping_mul(7919) % enterprises);
        let request = AccessRequest {
            subjects: vec![subject],
            sql: format!("SELECT day FROM vat WHERE uscc = '{subject}'"),
            ..asking()
        };
        let mut receiver = Receiver::default();
        let begun = Instant::now();
        let summary = hub.gate.query(&request, &mut receiver).await.unwrap();
        taken.push(begun.elapsed());
        assert_eq!(summary.rows, 1);
    }
    middle_and_slow(taken)
}

/// The half and the hundredth longest of what a write and fsync of a kilobyte takes, where the hub lies.
fn bare_fsync(hub: &Hub, times: u32) -> (Duration, Duration) {
    let mut file = std::fs::File::create(hub.base.dir.path().join("fsync")).unwrap();
    let mut taken = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        io::Write::write_all(&mut file, &[7; 1024]).unwrap();
        file.sync_data().unwrap();
        taken.push(begun.elapsed());
    }
    middle_and_slow(taken)
}

fn middle_and_slow(mut taken: Vec<Duration>) -> (Duration, Duration) {
    taken.sort_unstable();
    (
        taken[taken.len() / 2],
        taken[taken.len() - taken.len() / 100 - 1],
    )
}

/// A statement that reads something so many times, no deeper than it has to be.
fn all_of(scan: &str, times: u32) -> String {
    match times {
        0 | 1 => scan.to_owned(),
        _ => {
            let half = times / 2;
            let (left, right) = (all_of(scan, half), all_of(scan, times - half));
            format!("({left}) UNION ALL ({right})")
        }
    }
}

fn asking() -> AccessRequest {
    AccessRequest {
        principal: "local:bench".into(),
        org: fixture::bank(),
        purpose: fixture::purpose("credit.loan"),
        action: Action::Query,
        subjects: Vec::new(),
        sql: String::new(),
        format: Format::Csv,
        strict: false,
    }
}

/// What a query took, and how often it was decided. It has to be complete.
async fn asked(hub: &Hub, enterprises: u32, scans: u32) -> (Duration, Summary, u32) {
    let scan = "SELECT count(*) AS n FROM vat WHERE levenshtein(uscc, '91330106MA27U0000X') > 0";
    let request = AccessRequest {
        sql: all_of(scan, scans),
        ..asking()
    };
    let mut receiver = Receiver::default();
    let begun = Instant::now();
    let summary = hub.gate.query(&request, &mut receiver).await.unwrap();
    let taken = begun.elapsed();
    let text = String::from_utf8(receiver.bytes).unwrap();
    let (counted, wanted) = (text.lines().skip(1), enterprises.to_string());
    assert_eq!(
        counted.filter(|line| *line == wanted).count(),
        scans as usize
    );
    (taken, summary, receiver.decided)
}

/// Lets short grants end until there are none or somebody says stop; how many.
async fn end(hub: Arc<Hub>, stop: Arc<AtomicBool>) -> u64 {
    let mut ended = 0;
    for _ in 0..STEPS {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        hub.base.advance(STEP_MS);
        ended += hub.base.ledger.expire_due().await.unwrap();
        hub.log.drain().await.unwrap();
    }
    ended
}

/// Withdraws until nobody is left or somebody says stop; how many did, and the longest wait for an acknowledgement.
async fn withdraw(hub: Arc<Hub>, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut withdrawn, mut slowest) = (0, Duration::ZERO);
    for id in &hub.withdrawing {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        hub.base.hold(id, Operation::Withdraw).await.unwrap();
        hub.log.drain().await.unwrap();
        slowest = slowest.max(begun.elapsed());
        withdrawn += 1;
    }
    (withdrawn, slowest)
}

#[tokio::main]
async fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (enterprises, scans) = SIZES[usize::from(!is_bench)];
    let enterprises = size("QIHUI_BENCH_ENTERPRISES", enterprises);
    let scans = size("QIHUI_BENCH_SCANS", scans);
    let hub = Arc::new(hub(enterprises).await);
    let dataset = fixture::vat();
    println!(
        "{enterprises} enterprises, each with a row, a long grant and a short one; {scans} scans"
    );
    // What is read the first time is kept.
    asked(&hub, enterprises, 1).await;
    let times = if is_bench { 2_000 } else { 20 };
    point(&hub, enterprises, times / 20).await;
    let (fsync, slow_fsync) = bare_fsync(&hub, times);
    let (taken, slow) = point(&hub, enterprises, times).await;
    println!(
        "one named enterprise: p50 {taken:.2?}, p99 {slow:.2?}; a bare fsync: p50 {fsync:.2?}, p99 {slow_fsync:.2?}"
    );
    let (alone, summary, _) = asked(&hub, enterprises, scans).await;
    let scope = u64::from(enterprises + WITHDRAWING + 1);
    assert_eq!(summary.datasets[&dataset].enterprises, Some(scope));
    println!("alone: {alone:.2?}");

    let stop = Arc::new(AtomicBool::new(false));
    let ending = tokio::spawn(end(Arc::clone(&hub), Arc::clone(&stop)));
    let (taken, summary, decided) = asked(&hub, enterprises, scans).await;
    stop.store(true, Ordering::Relaxed);
    assert_eq!(decided, 1, "what ends by itself ends no query");
    let ended = ending.await.unwrap();
    assert_eq!(summary.datasets[&dataset].dropped, 0);
    assert!(ended > 0);
    let times = |taken: Duration| taken.as_secs_f64() / alone.as_secs_f64();
    let rate = f64::from(u32::try_from(ended).unwrap()) / taken.as_secs_f64();
    println!(
        "while {ended} short grants end ({rate:.0} a second): {taken:.2?} ({:.2} ×)",
        times(taken)
    );

    let stop = Arc::new(AtomicBool::new(false));
    let withdrawing = tokio::spawn(withdraw(Arc::clone(&hub), Arc::clone(&stop)));
    let (taken, summary, decided) = asked(&hub, enterprises, scans).await;
    stop.store(true, Ordering::Relaxed);
    let (withdrawn, slowest) = withdrawing.await.unwrap();
    let dropped = summary.datasets[&dataset].dropped;
    assert!(dropped <= withdrawn);
    println!(
        "while {withdrawn} withdraw, {dropped} of them dropped, decided {decided} times: {taken:.2?} ({:.2} ×); the slowest acknowledged after {slowest:.2?}",
        times(taken)
    );
    let (again, _, _) = asked(&hub, enterprises, scans).await;
    println!("alone once more: {again:.2?} ({:.2} ×)", times(again));
}
