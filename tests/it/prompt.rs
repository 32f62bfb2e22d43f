//! GATE-4 under load: queries of several kinds run side by side while enterprises grant, narrow, pause, withdraw and let
//! their grants end without a pause, two at a time.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use qihui_catalog::{Action, Coded, ConsentId, Date, Timestamp};
use qihui_consent::ledger::Delivery;
use qihui_consent::signing::Operation;
use qihui_query::access::{AccessRequest, Outlet};
use qihui_query::formats::Format;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::sync::RwLock;

use crate::topic_world::{ENTERPRISES, Look, Record, World, day, uscc};

/// Rows of each enterprise: enough, together, for rows that pass without a look at each.
const ROWS: u32 = 10_000;
/// How often each changer takes something away at least, and at most: until every kind of end was met.
const LOSSES: std::ops::Range<u32> = 20..200;
const STATEMENTS: [&str; 4] = [
    "SELECT uscc, id, name FROM filing",
    "SELECT uscc, id, n FROM filing ORDER BY name DESC, id",
    "SELECT a.uscc, a.id, b.name FROM filing AS a JOIN filing AS b ON a.id = b.id",
    "SELECT uscc, count(*) AS rows, count(name) AS names FROM filing GROUP BY uscc",
];
const READERS: usize = 3;
const COLUMNS: [&str; 4] = ["uscc", "id", "name", "n"];
const NARROWER: &str = "scope: [{dataset: filing, columns: [uscc, id]}]";

/// The ways to lose something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    Withdrawal,
    Narrowing,
    Pause,
    Expiry,
}

/// What of an enterprise may leave, as far as its signatory was told: everything, keys alone, or nothing.
const ALL: u8 = 0;
const KEYS: u8 = 1;
const NOTHING: u8 = 2;

/// What each enterprise was told last.
type Told = Arc<[AtomicU8]>;

/// What readers and changers share.
struct Town {
    world: World,
    told: Told,
    /// Rows that left and should not have.
    late: Arc<AtomicU64>,
    /// Time is moved on by one at a time, and by nobody while somebody signs.
    signing: RwLock<()>,
    over: AtomicBool,
    met: Met,
    /// Queries that came to an end, by reader.
    ended: [AtomicU64; READERS],
}

/// How often queries came to each kind of end.
#[derive(Debug, Default)]
struct Met {
    complete: AtomicU64,
    /// Complete, without an enterprise that had lost its grant, or lost it before anything left.
    without: AtomicU64,
    /// Complete, without an enterprise that was dropped on the way.
    dropped: AtomicU64,
    changed: AtomicU64,
    timed_out: AtomicU64,
}

impl Met {
    fn note(of: &AtomicU64) {
        of.fetch_add(1, Ordering::SeqCst);
    }

    fn all(&self) -> bool {
        let kinds = [&self.without, &self.dropped, &self.changed];
        kinds.iter().all(|kind| kind.load(Ordering::SeqCst) > 0)
    }
}

/// Reads slowly, and looks at every row under the release lock.
struct Watch {
    told: Told,
    codes: BTreeMap<String, usize>,
    /// Rows by enterprise, and how many of them hold what a narrowed grant does not show.
    rows: Vec<(u64, u64)>,
    late: Arc<AtomicU64>,
}

#[async_trait]
impl Outlet for Watch {
    async fn ready(&mut self) -> io::Result<()> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(())
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        for line in bytes.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let row: Value = serde_json::from_slice(line).map_err(io::Error::other)?;
            let at = self.codes[row["uscc"].as_str().unwrap_or_default()];
            let rows = row["rows"].as_u64().unwrap_or(1);
            let one = u64::from(!row["name"].is_null() || !row["n"].is_null());
            let full = row["names"].as_u64().unwrap_or(one);
            self.rows[at].0 += rows;
            self.rows[at].1 += full;
            let granted = match self.told[at].load(Ordering::SeqCst) {
                ALL => true,
                KEYS => full == 0,
                _ => false,
            };
            self.late.fetch_add(u64::from(!granted), Ordering::SeqCst);
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Town {
    /// One reader: query after query.
    async fn read(&self, reader: usize, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.over.load(Ordering::SeqCst) {
            let request = AccessRequest {
                principal: "local:test".to_owned(),
                org: "bank".parse().unwrap(),
                purpose: "watch.risk".parse().unwrap(),
                action: Action::Query,
                subjects: Vec::new(),
                sql: (*STATEMENTS.choose(&mut rng).unwrap()).to_owned(),
                format: Format::Ndjson,
                strict: rng.random_bool(0.2),
            };
            self.ask(&request).await;
            Met::note(&self.ended[reader]);
        }
    }

    /// Waits until every query that is running now has ended.
    async fn all_ended(&self) {
        let of = |ended: &AtomicU64| ended.load(Ordering::SeqCst);
        let before = self.ended.each_ref().map(of);
        while (0..READERS).any(|reader| of(&self.ended[reader]) == before[reader]) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn ask(&self, request: &AccessRequest) {
        let codes = (1..=ENTERPRISES).map(|n| uscc(n).to_string()).zip(0..);
        let mut watch = Watch {
            told: Arc::clone(&self.told),
            codes: codes.collect(),
            rows: vec![(0, 0); ENTERPRISES as usize],
            late: Arc::clone(&self.late),
        };
        let begun = self.world.gate.time();
        match Box::pin(self.world.gate.query(request, &mut watch)).await {
            Ok(summary) => {
                let all = u64::from(ROWS);
                for (rows, full) in &watch.rows {
                    let whole = [0, all].contains(rows) && [0, *rows].contains(full);
                    assert!(whole, "{rows} and {full} of {all} rows: {}", request.sql);
                }
                Met::note(&self.met.complete);
                if summary.datasets.values().any(|d| d.dropped > 0) {
                    Met::note(&self.met.dropped);
                } else if watch.rows.iter().any(|(rows, _)| *rows == 0) {
                    Met::note(&self.met.without);
                }
            }
            Err(error) if error.code() == "TimedOut" => {
                // Nobody computes for ten minutes here: the clock went on.
                let took = self.world.gate.time().0 - begun.0;
                assert!(took >= 600_000, "timed out after {took} ms");
                Met::note(&self.met.timed_out);
            }
            Err(error) => {
                assert_eq!(error.code(), "ConsentChanged", "{error}");
                Met::note(&self.met.changed);
            }
        }
    }

    fn tell(&self, n: u32, what: u8) {
        self.told[n as usize - 1].store(what, Ordering::SeqCst);
    }

    /// Grants everything. What may leave is told before: from then on it may, at some moment.
    async fn grant(&self, n: u32, expires: Date) -> ConsentId {
        self.tell(n, ALL);
        let action = Action::Query;
        self.world.grant(n, &COLUMNS, None, expires, action).await
    }

    async fn sign(&self, n: u32, id: &ConsentId, operation: Operation, narrowed: Option<&str>) {
        let _signing = self.signing.read().await;
        self.world.sign(n, id, operation, narrowed).await;
    }

    /// One changer: enterprise after enterprise of `own` loses what it had granted and grants again.
    async fn change(&self, own: &[u32], seed: u64) -> BTreeMap<Loss, u32> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut losses = BTreeMap::new();
        let mut grants = BTreeMap::new();
        for n in own {
            let _signing = self.signing.read().await;
            grants.insert(*n, self.grant(*n, day(330)).await);
        }
        for round in 0..LOSSES.end {
            if round >= LOSSES.start && self.met.all() {
                break;
            }
            let n = *own.choose(&mut rng).unwrap();
            let loss = match rng.random_range(0..9) {
                0..=2 => Loss::Withdrawal,
                3 | 4 => Loss::Narrowing,
                5..=7 => Loss::Pause,
                _ => Loss::Expiry,
            };
            *losses.entry(loss).or_default() += 1;
            let id = self.lose(n, &grants[&n], loss, &mut rng).await;
            grants.insert(n, id);
            pause(&mut rng).await;
        }
        losses
    }

    /// An enterprise loses a grant in a way, and gives one again.
    async fn lose(&self, n: u32, id: &ConsentId, loss: Loss, rng: &mut StdRng) -> ConsentId {
        match loss {
            Loss::Pause => {
                self.sign(n, id, Operation::Pause, None).await;
                self.tell(n, NOTHING);
                pause(rng).await;
                self.tell(n, ALL);
                self.sign(n, id, Operation::Resume, None).await;
                return id.clone();
            }
            Loss::Narrowing => {
                let narrower = Some(NARROWER);
                self.sign(n, id, Operation::Narrow, narrower).await;
                self.tell(n, KEYS);
                pause(rng).await;
                self.sign(n, id, Operation::Withdraw, None).await;
            }
            Loss::Withdrawal => self.sign(n, id, Operation::Withdraw, None).await,
            Loss::Expiry => {
                self.sign(n, id, Operation::Withdraw, None).await;
                self.expire(n, rng).await;
            }
        }
        self.tell(n, NOTHING);
        pause(rng).await;
        let _signing = self.signing.read().await;
        self.grant(n, day(330)).await
    }

    /// Grants until a midnight that is more than a query's time away, and lets that come.
    async fn expire(&self, n: u32, rng: &mut StdRng) {
        let midnight = |n: u64| day(n).to_string().parse::<Timestamp>().unwrap().0;
        let ends = {
            let _signing = self.signing.read().await;
            let now = self.world.gate.time().0;
            let mut days = 0..330;
            let ends = days.find(|days| midnight(*days) > now + 1_200_000).unwrap();
            self.grant(n, day(ends)).await;
            midnight(ends)
        };
        pause(rng).await;
        let _alone = self.signing.write().await;
        // Those that count on the grant run out of time before it ends, and nobody tells them.
        let left = ends - self.world.gate.time().0;
        self.world.pass_ms(left.max(0));
        self.all_ended().await;
        self.tell(n, NOTHING);
        self.world.ledger.expire_due().await.unwrap();
    }
}

async fn pause(rng: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
}

async fn town(folder: std::path::PathBuf) -> Town {
    let mut world = World::new(folder, Look::PLAIN, &COLUMNS, Delivery::Pull).await;
    for n in 1..=ENTERPRISES {
        let records = (0..ROWS).map(|id| Record::plain(n, id, &format!("{}", id % 977)));
        world.land(&records.collect::<Vec<_>>()).await;
    }
    Town {
        world,
        told: (0..ENTERPRISES).map(|_| AtomicU8::new(NOTHING)).collect(),
        late: Arc::default(),
        signing: RwLock::default(),
        over: AtomicBool::new(false),
        met: Met::default(),
        ended: Default::default(),
    }
}

/// The seed of a run, from the environment: the order of what happens is the machine's all the same.
fn seed() -> u64 {
    let seed = std::env::var("QIHUI_SEED").ok();
    seed.and_then(|seed| seed.parse().ok()).unwrap_or(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "how much was tried")]
async fn gate_4_no_row_leaves_after_its_enterprise_was_told_that_none_will() {
    let dir = tempfile::tempdir().unwrap();
    let town = town(dir.path().to_owned()).await;
    let own: Vec<u32> = (1..=ENTERPRISES).collect();
    let (odd, even) = own.split_at(own.len() / 2);
    let seed = seed() * 10;
    let readers = (0..READERS).zip(seed..);
    let readers = futures::future::join_all(readers.map(|(n, seed)| town.read(n, seed)));
    let changes = async {
        let lost = tokio::join!(town.change(odd, seed + 3), town.change(even, seed + 4));
        town.over.store(true, Ordering::SeqCst);
        lost
    };
    let (_, lost) = tokio::join!(readers, changes);
    println!("{lost:?}: {:?}", town.met);
    let late = town.late.load(Ordering::SeqCst);
    assert_eq!(late, 0, "rows left after they were taken away");
    assert!(
        town.met.all(),
        "not every kind of end was met: {:?}",
        town.met
    );
    let mut ways = lost.0.keys().chain(lost.1.keys()).collect::<Vec<_>>();
    ways.sort();
    ways.dedup();
    assert_eq!(ways.len(), 4, "not everything was lost in every way");
    assert!(
        unfinished(&town.world).is_empty(),
        "accesses without an end"
    );
}

/// The accesses that were decided and have no end in the log.
fn unfinished(world: &World) -> Vec<u64> {
    let mut open = Vec::new();
    for entry in world.log.scan(0..world.log.size()) {
        let entry = entry.unwrap();
        let body: Value = serde_json::from_slice(&entry.body).unwrap_or_default();
        match entry.leaf.kind.as_str() {
            "access.decided" => open.push(entry.index),
            "access.finished" => {
                let decided = body["decided"].as_u64().unwrap();
                open.retain(|index| *index != decided);
            }
            _ => {}
        }
    }
    open
}
