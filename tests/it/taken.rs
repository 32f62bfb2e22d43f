//! GATE-4, case by case: each way of taking something away, at each moment of each kind of query. On the real ledger,
//! log and warehouse, with a clock that goes on when it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use qihui_catalog::{Action, Catalog, Coded, ConsentId, Contract, Date};
use qihui_consent::decision::AgreementId;
use qihui_consent::ledger::Delivery;
use qihui_consent::signing::Operation;
use qihui_query::QueryError;
use qihui_query::access::{AccessRequest, Outlet, Summary};
use qihui_query::formats::Format;
use serde_json::Value;

use crate::topic_world::{ENTERPRISES, Look, Record, World, day, uscc};

const COLUMNS: [&str; 4] = ["uscc", "id", "name", "n"];
/// Rows of each enterprise: more than a batch, so that an answer comes in several.
const ROWS: u32 = 3_000;
/// Who loses something.
const LOSER: u32 = 1;
const SORT: &str = "SELECT uscc, id, n FROM filing ORDER BY name DESC, id";
const JOIN: &str = "SELECT a.uscc, a.id FROM filing AS a JOIN filing AS b ON a.id = b.id";
const GROUP: &str = "SELECT uscc, id, max(n) AS m FROM filing GROUP BY uscc, id";
const SCAN: &str = "SELECT uscc, id, name FROM filing";

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Withdrawal,
    Pause,
    Narrowing,
    EndOfAgreement,
    ChangeOfContract,
    /// Not a loss: a grant that was to end ends, and somebody writes it down.
    Expiry,
    /// The time of the query is over.
    Deadline,
}

const PERSONAL: [Loss; 3] = [Loss::Withdrawal, Loss::Pause, Loss::Narrowing];

struct Hub {
    world: World,
    grants: BTreeMap<u32, ConsentId>,
}

async fn hub(folder: std::path::PathBuf) -> Hub {
    let mut world = World::new(folder, Look::PLAIN, &COLUMNS, Delivery::Pull).await;
    for n in 1..=ENTERPRISES {
        let records = (0..ROWS).map(|id| Record::plain(n, id, &format!("{}", id % 97)));
        world.land(&records.collect::<Vec<_>>()).await;
    }
    let mut grants = BTreeMap::new();
    for n in 1..=ENTERPRISES {
        grants.insert(n, grant(&world, n, day(200)).await);
    }
    Hub { world, grants }
}

async fn grant(world: &World, n: u32, expires: Date) -> ConsentId {
    world.grant(n, &COLUMNS, None, expires, Action::Query).await
}

/// The rules after a change of the contract.
fn changed(catalog: &Catalog) -> Catalog {
    let mut contracts = catalog.contracts.clone();
    for contract in contracts.values_mut() {
        let next = Contract {
            version: "1.1.0".to_owned(),
            ..contract.as_ref().clone()
        };
        *contract = Arc::new(next.sealed().unwrap());
    }
    Catalog {
        contracts,
        ..catalog.clone()
    }
}

impl Hub {
    /// Takes something away. It is acknowledged when this returns.
    async fn take(&self, loss: Loss) {
        let world = &self.world;
        let narrower = "scope: [{dataset: filing, columns: [uscc, id]}]";
        match loss {
            Loss::Withdrawal => self.sign(Operation::Withdraw, None).await,
            Loss::Pause => self.sign(Operation::Pause, None).await,
            Loss::Narrowing => self.sign(Operation::Narrow, Some(narrower)).await,
            Loss::EndOfAgreement => {
                let id = AgreementId::from("a-1");
                world.ledger.revoke_agreement(&id, "steward").await.unwrap();
            }
            Loss::ChangeOfContract => {
                let catalog = changed(&world.catalog);
                world.ledger.record_artefacts(&catalog).await.unwrap();
            }
            Loss::Expiry => {
                world.pass_ms(5 * 60_000);
                assert!(world.ledger.expire_due().await.unwrap() > 0, "nothing ends");
            }
            Loss::Deadline => world.pass_ms(601_000),
        }
    }

    async fn sign(&self, operation: Operation, narrowed: Option<&str>) {
        let id = &self.grants[&LOSER];
        self.world.sign(LOSER, id, operation, narrowed).await;
    }

    fn request(sql: &str, strict: bool) -> AccessRequest {
        AccessRequest {
            principal: "local:test".to_owned(),
            org: "bank".parse().unwrap(),
            purpose: "watch.risk".parse().unwrap(),
            action: Action::Query,
            subjects: Vec::new(),
            sql: sql.to_owned(),
            format: Format::Ndjson,
            strict,
        }
    }

    /// How often an access was decided, and how it ended.
    fn recorded(&self, from: u64) -> (usize, Vec<String>) {
        let (mut decided, mut ends) = (0, Vec::new());
        for entry in self.world.log.scan(from..self.world.log.size()) {
            let entry = entry.unwrap();
            let body: Value = serde_json::from_slice(&entry.body).unwrap_or_default();
            match entry.leaf.kind.as_str() {
                "access.decided" => decided += 1,
                "access.finished" => ends.push(body["outcome"].as_str().unwrap().to_owned()),
                "access.denied" => ends.push(format!("denied: {}", body["code"].as_str().unwrap())),
                _ => {}
            }
        }
        (decided, ends)
    }
}

/// A receiver during whose wait for room things happen.
struct Receiver<'h> {
    hub: &'h Hub,
    /// What happens before the n-th piece leaves.
    plan: BTreeMap<usize, Loss>,
    asked: usize,
    /// Rows by enterprise.
    rows: BTreeMap<String, u32>,
    /// Rows that left after something was taken away that they rest on.
    late: u32,
    taken: bool,
    slow: Duration,
}

#[async_trait]
impl Outlet for Receiver<'_> {
    async fn ready(&mut self) -> io::Result<()> {
        tokio::time::sleep(self.slow).await;
        // First of all: a query that hears of the loss waits for this no longer, and would have it happen once more.
        let loss = self.plan.remove(&self.asked);
        self.asked += 1;
        if let Some(loss) = loss {
            self.taken = loss != Loss::Expiry;
            self.hub.take(loss).await;
        }
        Ok(())
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        for line in bytes.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
            let row: Value = serde_json::from_slice(line).map_err(io::Error::other)?;
            let code = row["uscc"].as_str().unwrap_or_default().to_owned();
            // What a narrowed grant still shows may leave; what it showed before may not.
            let lost = code == uscc(LOSER).as_str() && row.get("n").or(row.get("name")).is_some();
            self.late += u32::from(self.taken && lost);
            *self.rows.entry(code).or_default() += 1;
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn run<'h>(
    hub: &'h Hub,
    sql: &str,
    strict: bool,
    plan: &[(usize, Loss)],
) -> (
    Result<Summary, QueryError>,
    Receiver<'h>,
    (usize, Vec<String>),
) {
    let from = hub.world.log.size();
    let mut receiver = Receiver {
        hub,
        plan: plan.iter().copied().collect(),
        asked: 0,
        rows: BTreeMap::new(),
        late: 0,
        taken: false,
        slow: Duration::from_millis(1),
    };
    let request = Hub::request(sql, strict);
    let answer = Box::pin(hub.world.gate.query(&request, &mut receiver)).await;
    let recorded = hub.recorded(from);
    (answer, receiver, recorded)
}

/// What was taken in by an operator that takes in everything is touched, although nothing has left: the query is decided
/// again by itself, once, and answers without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_loss_before_the_first_byte_is_answered_by_one_restart() {
    for loss in PERSONAL {
        let dir = tempfile::tempdir().unwrap();
        let mut hub = hub(dir.path().to_owned()).await;
        for (sql, strict) in [(SORT, false), (SORT, true), (JOIN, false), (GROUP, false)] {
            let (answer, receiver, (decided, ends)) = run(&hub, sql, strict, &[(0, loss)]).await;
            let what = format!("{loss:?}, {sql}");
            let summary = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(receiver.late, 0, "{what}");
            assert_eq!(decided, 2, "{what}");
            assert_eq!(ends, ["ConsentChanged", "complete"], "{what}");
            let loser = receiver.rows.get(uscc(LOSER).as_str()).copied();
            let shown = (loss == Loss::Narrowing).then_some(ROWS);
            assert_eq!(loser, shown, "{what}");
            assert_eq!(receiver.rows[uscc(2).as_str()], ROWS, "{what}");
            assert_eq!(summary.datasets[&hub.world.dataset()].dropped, 0, "{what}");
            match loss {
                Loss::Pause => hub.sign(Operation::Resume, None).await,
                Loss::Narrowing => hub.sign(Operation::Withdraw, None).await,
                _ => {}
            }
            if loss != Loss::Pause {
                let fresh = grant(&hub.world, LOSER, day(200)).await;
                hub.grants.insert(LOSER, fresh);
            }
        }
    }
}

/// The second loss is answered by the error: a query is not decided again without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_query_starts_again_once() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path().to_owned()).await;
    let (id, other) = (hub.grants[&LOSER].clone(), hub.grants[&2].clone());
    let other = Hub {
        grants: BTreeMap::from([(LOSER, other)]),
        world: hub.world,
    };
    // The second time, somebody else withdraws, whose rows were taken in as well.
    let hub = Hub {
        grants: BTreeMap::from([(LOSER, id)]),
        world: other.world,
    };
    struct Twice<'h>(&'h Hub, ConsentId, usize, usize);
    #[async_trait]
    impl Outlet for Twice<'_> {
        async fn ready(&mut self) -> io::Result<()> {
            self.2 += 1;
            match self.2 {
                1 => self.0.take(Loss::Withdrawal).await,
                2 => {
                    let (world, second) = (&self.0.world, &self.1);
                    world.sign(2, second, Operation::Withdraw, None).await;
                }
                _ => {}
            }
            Ok(())
        }
        fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.3 += bytes.len();
            Ok(())
        }
        async fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let second = other.grants[&LOSER].clone();
    let from = hub.world.log.size();
    let mut outlet = Twice(&hub, second, 0, 0);
    let request = Hub::request(SORT, false);
    let answer = Box::pin(hub.world.gate.query(&request, &mut outlet)).await;
    assert_eq!(answer.unwrap_err().code(), "ConsentChanged");
    assert_eq!(outlet.3, 0, "bytes left");
    let (decided, ends) = hub.recorded(from);
    assert_eq!((decided, ends), (2, vec!["ConsentChanged".to_owned(); 2]));
}

/// What has left cannot be taken back: the answer breaks off, and is not begun again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_loss_after_the_first_byte_ends_the_answer() {
    for loss in [
        Loss::Withdrawal,
        Loss::Pause,
        Loss::Narrowing,
        Loss::EndOfAgreement,
        Loss::ChangeOfContract,
    ] {
        for (sql, strict) in [(SORT, false), (JOIN, false), (SCAN, true)] {
            let dir = tempfile::tempdir().unwrap();
            let hub = hub(dir.path().to_owned()).await;
            let (answer, receiver, (decided, ends)) = run(&hub, sql, strict, &[(1, loss)]).await;
            let what = format!("{loss:?}, {sql}");
            assert_eq!(answer.unwrap_err().code(), "ConsentChanged", "{what}");
            assert_eq!(
                (decided, ends),
                (1, vec!["ConsentChanged".to_owned()]),
                "{what}"
            );
            assert_eq!(receiver.late, 0, "{what}");
            assert!(!receiver.rows.is_empty(), "{what}: something had left");
        }
    }
}

/// What takes from everybody leaves nothing to decide again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_the_end_of_an_agreement_or_contract_refuses_the_restart() {
    for (loss, refusal) in [
        (Loss::EndOfAgreement, "PurposeNotAssigned"),
        (Loss::ChangeOfContract, "ContractNotRecorded"),
    ] {
        for sql in [SCAN, SORT] {
            let dir = tempfile::tempdir().unwrap();
            let hub = hub(dir.path().to_owned()).await;
            let (answer, receiver, (decided, ends)) = run(&hub, sql, false, &[(0, loss)]).await;
            assert_eq!(answer.unwrap_err().code(), refusal, "{loss:?}");
            assert!(receiver.rows.is_empty());
            assert_eq!(decided, 1);
            assert_eq!(
                ends,
                ["ConsentChanged".to_owned(), format!("denied: {refusal}")]
            );
        }
    }
}

/// Grants that end before the query's deadline are left out from the start. Their end, and that somebody writes it down,
/// is nothing to the query: it drops nobody, is not decided again, and its answer is complete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_what_ends_by_itself_ends_no_query() {
    for sql in [SCAN, SORT, JOIN, GROUP] {
        let dir = tempfile::tempdir().unwrap();
        let mut hub = hub(dir.path().to_owned()).await;
        hub.sign(Operation::Withdraw, None).await;
        // Two minutes before a midnight at which the grant ends.
        let ends = "2026-02-03".parse::<qihui_catalog::Timestamp>().unwrap();
        let fresh = grant(&hub.world, LOSER, "2026-02-03".parse().unwrap()).await;
        hub.grants.insert(LOSER, fresh);
        hub.world
            .pass_ms(ends.0 - hub.world.gate.time().0 - 120_000);
        let loss = hub.world.ledger.losses().last();
        for moment in [0, 1] {
            if moment == 1 {
                // Once more, with a grant that ends on the next day.
                let fresh = grant(&hub.world, LOSER, "2026-02-04".parse().unwrap()).await;
                hub.grants.insert(LOSER, fresh);
                hub.world.pass_ms(86_400_000 - 5 * 60_000);
            }
            let (answer, receiver, (decided, ends)) =
                run(&hub, sql, false, &[(moment, Loss::Expiry)]).await;
            let summary = answer.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(summary.datasets[&hub.world.dataset()].dropped, 0, "{sql}");
            assert_eq!((decided, ends), (1, vec!["complete".to_owned()]), "{sql}");
            let others = (2..=ENTERPRISES).map(|n| (uscc(n).to_string(), ROWS));
            assert_eq!(receiver.rows, others.collect(), "{sql}");
        }
        assert_eq!(
            hub.world.ledger.losses().last(),
            loss,
            "it takes nothing from anybody"
        );
    }
}

/// A query that is still running at its deadline ends there, by the hub's clock: grants may end from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_nothing_leaves_after_the_deadline_of_the_decision() {
    for (sql, moment) in [(SCAN, 0), (SORT, 0), (SCAN, 1), (JOIN, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(dir.path().to_owned()).await;
        let (answer, receiver, (decided, ends)) =
            run(&hub, sql, false, &[(moment, Loss::Deadline)]).await;
        assert_eq!(answer.unwrap_err().code(), "TimedOut", "{sql}");
        assert_eq!((decided, ends), (1, vec!["TimedOut".to_owned()]), "{sql}");
        assert_eq!(receiver.late, 0, "{sql}");
        assert_eq!(receiver.rows.is_empty(), moment == 0, "{sql}");
    }
}

/// A query that looks at nothing, because it computes for long over what has passed, ends soon all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_query_that_computes_for_long_ends_soon() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path().to_owned()).await;
    // Compares every row with every other, three times: it would take hours.
    let sql = "SELECT count(*) AS c FROM filing AS a JOIN filing AS b ON a.name < b.name \
               JOIN filing AS d ON b.id || a.id > d.id || 'x'";
    let request = Hub::request(sql, false);
    let mut out = Vec::new();
    let query = hub.world.gate.query(&request, &mut out);
    let agreement = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        hub.take(Loss::EndOfAgreement).await;
        std::time::Instant::now()
    };
    let (answer, taken) = tokio::join!(query, agreement);
    assert_eq!(answer.unwrap_err().code(), "PurposeNotAssigned");
    assert!(
        taken.elapsed() < Duration::from_secs(5),
        "{:?}",
        taken.elapsed()
    );
    assert!(out.is_empty());
}
