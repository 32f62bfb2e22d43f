//! Plans of a hub run by a second process, which has nothing but the hub's files, a key and what it is sent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use qihui_audit::Clock;
use qihui_catalog::{Action, Coded, EnterpriseNo};
use qihui_consent::Ledger;
use qihui_consent::decision::DecisionRequest;
use qihui_consent::ledger::Delivery;
use qihui_consent::signing::Operation;
use qihui_query::QueryError;
use qihui_query::access::{Bounds, Limits, new_access_id, reader_context};
use qihui_query::account::Account;
use qihui_query::dense::DenseScopes;
use qihui_query::exec::Standing;
use qihui_query::remote::{
    AccessTask, Addressed, Answer, LEASE, PlanKey, Worker, WorkerParts, read_answer, seal_plan,
};
use qihui_query::session::{self, Planned, SessionSetup};
use qihui_query::whole;
use qihui_warehouse::Warehouse;

use crate::topic_world::{ENTERPRISES, Look, Record, World, catalog, day, uscc};

const WORKER: &str = "QIHUI_TEST_WORKER";
const KEY: [u8; 32] = [9; 32];
const COLUMNS: [&str; 5] = ["uscc", "id", "name", "n", "day"];
const ROWS: u32 = 300;
const MINUTE_MS: i64 = 60_000;
/// What the end of a plan takes after its lease has run out: the join gives way between two batches, and the answer goes
/// through a pipe and a thread, on a machine whose processors other tests share.
const PASSED_ON: Duration = Duration::from_secs(2);

/// The hub's time, as the parent writes it.
struct FileClock(PathBuf);

impl Clock for FileClock {
    fn now_ms(&self) -> i64 {
        fs::read_to_string(&self.0).unwrap().parse().unwrap()
    }
}

/// What the second process does; without its environment it does nothing. For each message (a length of eight bytes,
/// then the message) it writes a line that says what came of it, and the answer behind its length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(folder) = std::env::var_os(WORKER).map(PathBuf::from) else {
        return;
    };
    let clock = Arc::new(FileClock(folder.join("clock")));
    let path = folder.join("ledger.db");
    let ledger = Ledger::follow(&path, clock.clone());
    let worker = Worker::new(WorkerParts {
        catalog: Arc::new(catalog(Look::PLAIN)),
        ledger: ledger.await.unwrap(),
        warehouse: Warehouse::open(&folder.join("warehouse")).unwrap(),
        bounds: Arc::new(Bounds::new(
            Limits::default(),
            folder.join("spill-of-worker"),
        )),
        clock,
        key: PlanKey::new(&KEY),
    });
    let worker = worker.unwrap();
    let (mut input, mut out) = (std::io::stdin(), std::io::stdout());
    writeln!(out, "\nworker {}", worker.id()).unwrap();
    loop {
        let mut length = [0; 8];
        if input.read_exact(&mut length).is_err() {
            break;
        }
        let mut message = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap()];
        input.read_exact(&mut message).unwrap();
        let mut answer = Vec::new();
        let said = match worker.answer(&message, &mut answer).await {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("{}: {error}", error.code()),
        };
        writeln!(out, "{said}").unwrap();
        out.write_all(&(answer.len() as u64).to_be_bytes()).unwrap();
        out.write_all(&answer).unwrap();
        out.flush().unwrap();
    }
    std::process::exit(0);
}

/// The second process.
struct Second {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    id: String,
}

impl Second {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "remote::child", "--nocapture"])
            .env(WORKER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let id = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "no worker");
            if let Some(id) = line.trim_end().strip_prefix("worker ") {
                break id.to_owned();
            }
        };
        Self {
            child,
            input,
            output,
            id,
        }
    }

    fn send(&mut self, message: &[u8]) {
        let length = (message.len() as u64).to_be_bytes();
        self.input.write_all(&length).unwrap();
        self.input.write_all(message).unwrap();
        self.input.flush().unwrap();
    }

    /// What it says of the message, and its answer.
    fn heard(&mut self) -> (String, Vec<u8>) {
        let mut said = String::new();
        self.output.read_line(&mut said).unwrap();
        let mut length = [0; 8];
        self.output.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap()];
        self.output.read_exact(&mut answer).unwrap();
        (said.trim_end().to_owned(), answer)
    }

    fn run(&mut self, message: &[u8]) -> (String, Vec<u8>) {
        self.send(message);
        self.heard()
    }

    fn answer(&mut self, sealed: &Addressed) -> Answer {
        let (said, answer) = self.run(&sealed.bytes);
        assert_eq!(said, "done");
        read_answer(&answer, &sealed.message, &PlanKey::new(&KEY)).unwrap()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A hub in which four enterprises granted: two everything, one some columns, one a range of days.
async fn hub(folder: &Path) -> World {
    let mut world = World::new(folder.to_owned(), Look::PLAIN, &COLUMNS, Delivery::Pull).await;
    for n in 1..=ENTERPRISES {
        let records = (0..ROWS).map(|id| Record {
            day: Some(day(u64::from(id % 40))),
            n: (id % 7 > 0).then_some((id % 11) as i32),
            ..Record::plain(n, id, &format!("{}名{}", id % 97, n))
        });
        world.land(&records.collect::<Vec<_>>()).await;
    }
    let expires = day(200);
    for n in [1, 2] {
        grant(&world, n).await;
    }
    let some = ["uscc", "id", "n"];
    world.grant(3, &some, None, expires, Action::Query).await;
    let days = Some((day(5), day(20)));
    world.grant(4, &COLUMNS, days, expires, Action::Query).await;
    write_clock(&world);
    world
}

fn write_clock(world: &World) {
    let now = world.clock.now_ms().to_string();
    let (clock, fresh) = (world.folder.join("clock"), world.folder.join("clock.new"));
    fs::write(&fresh, now).unwrap();
    fs::rename(fresh, clock).unwrap();
}

async fn grant(world: &World, n: u32) -> qihui_catalog::ConsentId {
    world
        .grant(n, &COLUMNS, None, day(200), Action::Query)
        .await
}

/// A statement that was decided and planned, not yet run.
struct Asked {
    planned: Planned,
    access: Arc<AccessTask>,
}

impl Asked {
    fn seal(&self, worker: &Second) -> Addressed {
        self.seal_as(worker, &self.access)
    }

    /// The same plan, said to be of another access.
    fn seal_as(&self, worker: &Second, access: &Arc<AccessTask>) -> Addressed {
        let (plan, context) = (&self.planned.physical, &self.planned.context);
        seal_plan(plan, context, access, &worker.id, &PlanKey::new(&KEY)).unwrap()
    }

    async fn run_here(&self) -> Vec<RecordBatch> {
        self.planned.collect().await.unwrap()
    }
}

async fn ask(world: &World, sql: &str, mode: (usize, bool), subjects: Option<Vec<u32>>) -> Asked {
    let dataset = world.dataset();
    let at = qihui_catalog::Timestamp(world.clock.now_ms());
    let numbers = |subjects: Vec<u32>| {
        let numbers = subjects.into_iter().map(|n| EnterpriseNo(world.number(n)));
        numbers.collect()
    };
    let request = DecisionRequest {
        org: "bank".parse().unwrap(),
        purpose: "watch.risk".parse().unwrap(),
        action: Action::Query,
        at,
        until: qihui_catalog::Timestamp(at.0 + 10 * MINUTE_MS),
        subjects: subjects.map(numbers),
        datasets: vec![dataset.clone()],
    };
    let access_id = new_access_id().unwrap();
    let decision = world
        .ledger
        .decide_for(&world.catalog, &request, Some(&access_id))
        .await
        .unwrap();
    let hash = world.ledger.hash_at(decision.ledger_position).await;
    let snapshot = world.warehouse.snapshot(&dataset).await.unwrap().unwrap();
    let table = whole::table_version(&world.warehouse, &snapshot).await;
    let tables = BTreeMap::from([(dataset, Arc::new(table.unwrap()))]);
    let access = AccessTask::new(
        &access_id,
        &request,
        &decision,
        &hash.unwrap().unwrap(),
        &tables,
        1_000_000,
    );
    let setup = SessionSetup {
        scopes: DenseScopes::default().all(&decision.scopes),
        tables,
        at,
        permit: Arc::new(Standing),
        numbers: Some(Arc::new(world.ledger.clone())),
        runtime: Arc::default(),
        reader: reader_context().unwrap(),
        partitions: mode.0,
        account: Arc::new(Account::new(1_000_000)),
        strict: mode.1,
        min_inside_rows: 16,
    };
    let query = session::parse(sql).unwrap();
    Asked {
        planned: session::plan(&query, setup).await.unwrap(),
        access: Arc::new(access),
    }
}

/// Rows as sorted text: no statement but those with an order says in which they come.
fn text(batches: &[RecordBatch]) -> Vec<String> {
    let table = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

const STATEMENTS: [&str; 15] = [
    "SELECT * FROM filing",
    "SELECT uscc, id, name, n FROM filing WHERE n > 3 AND n <= 8",
    "SELECT id, day FROM filing ORDER BY day DESC, id LIMIT 17",
    "SELECT uscc, count(*) AS rows, sum(n) AS s, max(name) AS m FROM filing GROUP BY uscc",
    "SELECT count(*) AS c, count(name) AS names, count(DISTINCT n) AS d FROM filing",
    "SELECT a.uscc, a.id, b.n FROM filing AS a JOIN filing AS b ON a.id = b.id WHERE b.n = 2",
    "SELECT a.id, b.id AS other FROM filing AS a LEFT JOIN filing AS b ON a.n = b.n - 9 AND a.id < b.id",
    "SELECT id FROM filing WHERE n < 2 UNION ALL SELECT name FROM filing WHERE n > 8",
    "SELECT id, rank() OVER (PARTITION BY uscc ORDER BY n) AS r, lag(n) OVER (ORDER BY id) AS l FROM filing",
    "SELECT uscc, sum(n) OVER (PARTITION BY uscc ORDER BY id ROWS 3 PRECEDING) AS s FROM filing",
    "SELECT id FROM filing WHERE n = (SELECT max(n) FROM filing) AND name IN (SELECT name FROM filing WHERE n = 1)",
    "SELECT upper(name) || '-' || id AS x, CASE WHEN n > 5 THEN name ELSE id END AS y FROM filing",
    "SELECT regexp_replace(name, '名', 'N') AS x FROM filing WHERE name LIKE '%' || '7名%' AND id ~ '1$'",
    "SELECT avg(n) AS a, median(n) AS m, string_agg(id, ',' ORDER BY id) AS s FROM filing GROUP BY day",
    "SELECT v.column1 AS x, f.id FROM (VALUES (1), (2)) AS v JOIN filing AS f ON f.n = v.column1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_a_second_process_answers_as_the_first_does() {
    let dir = tempfile::tempdir().unwrap();
    let world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    let mut passed = 0;
    let point = format!("SELECT id, n FROM filing WHERE uscc = '{}'", uscc(2));
    for (at, sql) in STATEMENTS
        .iter()
        .copied()
        .chain([point.as_str()])
        .enumerate()
    {
        for (partitions, strict) in [(2, false), (1, true)] {
            let asked = ask(&world, sql, (partitions, strict), None).await;
            let answer = second.answer(&asked.seal(&second));
            let here = asked.run_here().await;
            assert!(answer.is_complete(), "{}: {sql}", answer.outcome);
            assert_eq!(
                answer.schema,
                Some(asked.planned.physical.schema()),
                "{sql}"
            );
            assert_eq!(text(&answer.batches), text(&here), "{sql}");
            // What passed there counts as if it had passed here.
            let account = Account::new(1_000_000);
            answer.report.add_to(&account).unwrap();
            assert_eq!(account.passed(), asked.planned.account.passed(), "{sql}");
            let counts = asked.planned.account.rows_by_enterprise();
            assert_eq!(account.rows_by_enterprise(), counts, "{sql}");
            passed += account
                .passed()
                .values()
                .map(|passed| passed.rows)
                .sum::<u64>();
            if at == STATEMENTS.len() {
                let touched = account.touched();
                assert_eq!(touched.iter().collect::<Vec<_>>(), [world.number(2)]);
            }
        }
    }
    assert!(passed > 10_000, "{passed} rows say little");
    // Named subjects are part of what is asked.
    let asked = ask(&world, STATEMENTS[0], (2, false), Some(vec![1, 4])).await;
    let answer = second.answer(&asked.seal(&second));
    assert_eq!(text(&answer.batches), text(&asked.run_here().await));
    assert_eq!(answer.report.rows_by_enterprise.unwrap().len(), 2);
}

/// What is given after the decision changes nothing, and neither does a newer version of a table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_a_second_process_stands_where_the_decision_stood() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    let asked = ask(&world, STATEMENTS[0], (2, false), None).await;
    grant(&world, 5).await;
    world.land(&[Record::plain(1, ROWS + 1, "later")]).await;
    let answer = second.answer(&asked.seal(&second));
    assert_eq!(text(&answer.batches), text(&asked.run_here().await));
    let rows =
        |answer: &Answer| -> usize { answer.batches.iter().map(RecordBatch::num_rows).sum() };
    let again = ask(&world, STATEMENTS[0], (2, false), None).await;
    let after = second.answer(&again.seal(&second));
    assert_eq!(rows(&after), rows(&answer) + ROWS as usize + 1);
}

fn outcome(second: &mut Second, sealed: &Addressed) -> String {
    let (said, answer) = second.run(&sealed.bytes);
    let answer = read_answer(&answer, &sealed.message, &PlanKey::new(&KEY)).unwrap();
    assert!(answer.batches.is_empty(), "rows of a refused plan");
    assert!(
        answer.report.datasets.is_empty(),
        "rows passed a refused plan"
    );
    assert!(said.starts_with(&answer.outcome), "{said}");
    answer.outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_what_is_taken_away_before_the_plan_runs_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    for operation in [Operation::Pause, Operation::Withdraw] {
        let id = grant(&world, 6).await;
        let asked = ask(&world, STATEMENTS[0], (2, false), None).await;
        world.sign(6, &id, operation, None).await;
        let sealed = asked.seal(&second);
        assert_eq!(outcome(&mut second, &sealed), "ConsentChanged");
        if operation == Operation::Pause {
            // It is in force again, but the decision is from before.
            world.sign(6, &id, Operation::Resume, None).await;
            let sealed = asked.seal(&second);
            assert_eq!(outcome(&mut second, &sealed), "ConsentChanged");
            world.sign(6, &id, Operation::Withdraw, None).await;
        }
    }
    let asked = ask(&world, STATEMENTS[0], (2, false), None).await;
    let agreement = qihui_consent::decision::AgreementId::from("a-1");
    world
        .ledger
        .revoke_agreement(&agreement, "steward")
        .await
        .unwrap();
    let sealed = asked.seal(&second);
    assert_eq!(outcome(&mut second, &sealed), "ConsentChanged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_what_is_taken_away_while_the_plan_runs_ends_it_within_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    let world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    let id = grant(&world, 6).await;
    // Compares each row with each, three times: it would take minutes.
    let sql = "SELECT count(*) AS c FROM filing AS a JOIN filing AS b ON a.name < b.name \
               JOIN filing AS d ON b.id || a.id > d.id || 'x'";
    let asked = ask(&world, sql, (2, false), None).await;
    let sealed = asked.seal(&second);
    second.send(&sealed.bytes);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.sign(6, &id, Operation::Withdraw, None).await;
    let told = Instant::now();
    let (said, answer) = tokio::task::spawn_blocking(move || second.heard())
        .await
        .unwrap();
    let waited = told.elapsed();
    assert!(said.starts_with("ConsentChanged"), "{said}");
    let answer = read_answer(&answer, &sealed.message, &PlanKey::new(&KEY)).unwrap();
    assert!(answer.batches.is_empty());
    assert!(
        waited < LEASE + PASSED_ON,
        "it went on for {waited:?}, of which the lease is {LEASE:?}"
    );
}

/// A description that another hub, or nobody, would have made, under a true seal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_that_is_not_true_is_refused_under_its_seal() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    let earlier = ask(&world, STATEMENTS[0], (2, false), None).await.access;
    grant(&world, 7).await;
    world.land(&[Record::plain(1, ROWS + 1, "later")]).await;
    let asked = ask(&world, STATEMENTS[0], (2, false), None).await;
    let (dataset, truth) = (world.dataset(), asked.access.as_ref());
    let with = |change: &dyn Fn(&mut AccessTask)| {
        let mut access = truth.clone();
        change(&mut access);
        Arc::new(access)
    };
    let number = EnterpriseNo(world.number(1));
    let there = earlier.datasets[&dataset].clone();
    let cases: [(&str, Arc<AccessTask>); 14] = [
        (
            "another organisation",
            with(&|a| a.org = "other".parse().unwrap()),
        ),
        (
            "another purpose",
            with(&|a| a.purpose = "watch".parse().unwrap()),
        ),
        ("another action", with(&|a| a.action = Action::Store)),
        ("a subject", with(&|a| a.subjects = Some(vec![number]))),
        ("a later deadline", with(&|a| a.until += 400 * 86_400_000)),
        ("an earlier position", with(&|a| a.ledger_position -= 1)),
        ("a later position", with(&|a| a.ledger_position += 1)),
        (
            "an earlier state of the log",
            with(&|a| a.logged_position = earlier.logged_position),
        ),
        (
            "a later state of the log",
            with(&|a| a.logged_position += 1000),
        ),
        (
            "another history",
            with(&|a| a.ledger_hash.replace_range(0..1, "x")),
        ),
        (
            "another contract",
            with(&|a| a.datasets.get_mut(&dataset).unwrap().contract = "00".repeat(32)),
        ),
        (
            "another version of the table",
            with(&|a| a.datasets.get_mut(&dataset).unwrap().table_version = there.table_version),
        ),
        (
            "a version that never was",
            with(&|a| a.datasets.get_mut(&dataset).unwrap().table_version = 1000),
        ),
        (
            "a forged commitment",
            with(&|a| a.datasets.get_mut(&dataset).unwrap().commitment = there.commitment.clone()),
        ),
    ];
    for (what, access) in cases {
        let sealed = asked.seal_as(&second, &access);
        assert_eq!(outcome(&mut second, &sealed), "PlanRefused", "{what}");
    }
    let answer = second.answer(&asked.seal(&second));
    assert_eq!(text(&answer.batches), text(&asked.run_here().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_run_once_in_time_by_the_worker_it_is_for_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    let asked = ask(&world, STATEMENTS[1], (2, false), None).await;
    let sealed = asked.seal(&second);
    let refused = |second: &mut Second, bytes: &[u8], why: &str| {
        let (said, answer) = second.run(bytes);
        assert!(
            said.starts_with("PlanRefused") && said.contains(why),
            "{said}"
        );
        assert!(answer.is_empty(), "an answer to what is not run");
    };
    let broken = "its seal is broken";
    for length in (0..sealed.bytes.len()).step_by(sealed.bytes.len() / 23) {
        refused(&mut second, &sealed.bytes[..length], broken);
    }
    for at in (0..sealed.bytes.len()).step_by(sealed.bytes.len() / 23) {
        let mut changed = sealed.bytes.clone();
        changed[at] ^= 0x10;
        refused(&mut second, &changed, broken);
    }
    let other = PlanKey::new(&[8; 32]);
    let (plan, context) = (&asked.planned.physical, &asked.planned.context);
    let foreign = seal_plan(plan, context, &asked.access, &second.id, &other).unwrap();
    refused(&mut second, &foreign.bytes, broken);

    let answer = second.answer(&sealed);
    assert!(answer.is_complete());
    refused(&mut second, &sealed.bytes, "it was run before");

    // Whoever starts anew has another name: what was sent before is not for it.
    let late = asked.seal(&second);
    let mut third = Second::start(dir.path());
    refused(&mut third, &late.bytes, "it is for another worker");
    world.pass_ms(10 * MINUTE_MS);
    write_clock(&world);
    refused(
        &mut second,
        &late.bytes,
        "the deadline of its query has passed",
    );
}

/// The answer, too, is whole or nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_cut_off_or_changed_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    let asked = ask(&world, STATEMENTS[1], (2, false), None).await;
    let sealed = asked.seal(&second);
    let (_, answer) = second.run(&sealed.bytes);
    let key = PlanKey::new(&KEY);
    read_answer(&answer, &sealed.message, &key).unwrap();
    assert!(read_answer(&answer, "another", &key).is_err());
    assert!(read_answer(&answer, &sealed.message, &PlanKey::new(&[1; 32])).is_err());
    for at in (0..answer.len()).step_by(answer.len() / 97) {
        assert!(
            read_answer(&answer[..at], &sealed.message, &key).is_err(),
            "cut at {at}"
        );
        let mut changed = answer.clone();
        changed[at] ^= 4;
        assert!(
            read_answer(&changed, &sealed.message, &key).is_err(),
            "byte {at}"
        );
    }
}

/// A report of an enterprise that was dropped meanwhile does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_rows_of_an_enterprise_that_was_dropped_meanwhile_end_the_access() {
    let dir = tempfile::tempdir().unwrap();
    let world = hub(dir.path()).await;
    let mut second = Second::start(dir.path());
    let asked = ask(&world, STATEMENTS[0], (2, false), None).await;
    let answer = second.answer(&asked.seal(&second));
    let account = Account::new(1_000_000);
    let gone = [world.number(1)].into_iter().collect();
    assert!(account.drop_untouched(&world.dataset(), &gone));
    let error = answer.report.add_to(&account);
    assert!(matches!(error, Err(QueryError::ConsentChanged)));
    assert!(account.touched().is_empty());
    let small = Account::new(10);
    let error = answer.report.add_to(&small);
    assert!(matches!(error, Err(QueryError::TooManyRows { limit: 10 })));
}
