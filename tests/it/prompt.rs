//! GATE-4 under load: queries of several kinds run side by side while enterprises grant and withdraw without a pause.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use qihui_catalog::{Action, Coded};
use qihui_consent::ledger::Delivery;
use qihui_consent::signing::Operation;
use qihui_query::access::{AccessRequest, Outlet};
use qihui_query::formats::Format;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::topic_world::{ENTERPRISES, Look, Record, World, day, uscc};

/// Rows of each enterprise: enough, together, for rows that pass without a look at each.
const ROWS: u32 = 10_000;
const CHANGES: u32 = 24;
const STATEMENTS: [&str; 4] = [
    "SELECT uscc, id, name FROM filing",
    "SELECT uscc, id, n FROM filing ORDER BY name DESC, id",
    "SELECT a.uscc, a.id FROM filing AS a JOIN filing AS b ON a.id = b.id",
    "SELECT uscc, count(*) AS rows FROM filing GROUP BY uscc",
];

/// Which enterprises have withdrawn, as far as they were told.
type Gone = Arc<[AtomicBool]>;

/// Reads slowly, and looks at every row under the release lock.
struct Watch {
    gone: Gone,
    codes: BTreeMap<String, usize>,
    rows: Vec<u64>,
    late: Arc<AtomicU64>,
}

#[async_trait]
impl Outlet for Watch {
    async fn ready(&mut self) -> io::Result<()> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(())
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let row: Value = serde_json::from_slice(line).map_err(io::Error::other)?;
            let at = self.codes[row["uscc"].as_str().unwrap_or_default()];
            self.rows[at] += row["rows"].as_u64().unwrap_or(1);
            if self.gone[at].load(Ordering::SeqCst) {
                self.late.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the queries of one reader came to.
#[derive(Default, Debug)]
struct Tally {
    complete: u64,
    /// Complete, without enterprises that withdrew meanwhile.
    without: u64,
    changed: u64,
}

async fn read(
    world: &World,
    gone: Gone,
    late: Arc<AtomicU64>,
    seed: u64,
    over: &AtomicBool,
) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    while !over.load(Ordering::SeqCst) {
        let request = AccessRequest {
            principal: "local:test".to_owned(),
            org: "bank".parse().unwrap(),
            purpose: "watch.risk".parse().unwrap(),
            action: Action::Query,
            subjects: Vec::new(),
            sql: STATEMENTS[rng.random_range(0..STATEMENTS.len())].to_owned(),
            format: Format::Ndjson,
            strict: rng.random_bool(0.2),
        };
        let mut watch = Watch {
            gone: Arc::clone(&gone),
            codes: (1..=ENTERPRISES)
                .map(|n| uscc(n).to_string())
                .zip(0..)
                .collect(),
            rows: vec![0; ENTERPRISES as usize],
            late: Arc::clone(&late),
        };
        match world.gate.query(&request, &mut watch).await {
            Ok(summary) => {
                for rows in &watch.rows {
                    let all = u64::from(ROWS);
                    assert!(
                        [0, all].contains(rows),
                        "{rows} of {all} rows: {}",
                        request.sql
                    );
                }
                tally.complete += 1;
                tally.without += u64::from(summary.datasets.values().any(|d| d.dropped > 0));
            }
            Err(error) => {
                assert_eq!(error.code(), "ConsentChanged", "{error}");
                tally.changed += 1;
            }
        }
    }
    tally
}

/// One enterprise after another withdraws, and grants again.
async fn change(world: &World, gone: &Gone) {
    let mut rng = StdRng::seed_from_u64(4);
    let expires = day(200);
    let mut grants = Vec::new();
    for n in 1..=ENTERPRISES {
        grants.push(grant(world, n, expires).await);
    }
    for _ in 0..CHANGES {
        let n = rng.random_range(1..=ENTERPRISES);
        let at = n as usize - 1;
        world.sign(n, &grants[at], Operation::Withdraw, None).await;
        gone[at].store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
        gone[at].store(false, Ordering::SeqCst);
        grants[at] = grant(world, n, expires).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
    }
}

async fn grant(world: &World, n: u32, expires: qihui_catalog::Date) -> qihui_catalog::ConsentId {
    let columns = ["uscc", "id", "name", "n"];
    world.grant(n, &columns, None, expires, Action::Query).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "how much was tried")]
async fn gate_4_no_row_leaves_after_its_enterprise_was_told_that_none_will() {
    let dir = tempfile::tempdir().unwrap();
    let columns = ["uscc", "id", "name", "n"];
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &columns, Delivery::Pull).await;
    for n in 1..=ENTERPRISES {
        let records = (0..ROWS).map(|id| Record::plain(n, id, &format!("{}", id % 977)));
        world.land(&records.collect::<Vec<_>>()).await;
    }
    let gone: Gone = (0..ENTERPRISES).map(|_| AtomicBool::new(false)).collect();
    let (late, over) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
    let readers = async {
        let readers =
            (0..3).map(|seed| read(&world, Arc::clone(&gone), Arc::clone(&late), seed, &over));
        futures::future::join_all(readers).await
    };
    let changes = async {
        change(&world, &gone).await;
        over.store(true, Ordering::SeqCst);
    };
    let (tallies, ()) = tokio::join!(readers, changes);
    assert_eq!(
        late.load(Ordering::SeqCst),
        0,
        "rows left after a withdrawal was acknowledged"
    );
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (complete, without, changed) =
        (sum(|t| t.complete), sum(|t| t.without), sum(|t| t.changed));
    println!(
        "{complete} answers were complete, {without} of them without somebody; {changed} ended"
    );
    assert!(complete > 10, "{tallies:?}");
    assert!(without + changed > 0, "{tallies:?}");

    let mut open = BTreeMap::new();
    for entry in world.log.scan(0..world.log.size()) {
        let entry = entry.unwrap();
        let body: Value = serde_json::from_slice(&entry.body).unwrap_or_default();
        match entry.leaf.kind.as_str() {
            "access.decided" => drop(open.insert(entry.index, body)),
            "access.finished" => drop(open.remove(&body["decided"].as_u64().unwrap())),
            _ => {}
        }
    }
    assert!(open.is_empty(), "accesses without an end: {open:?}");
}
