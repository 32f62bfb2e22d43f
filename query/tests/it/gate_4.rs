//! GATE-4: what is taken away while a query runs is not in its answer; and whoever lost nothing stays in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use qihui_catalog::{Catalog, DatasetId};
use qihui_query::QueryError;
use qihui_query::access::{Limits, Outlet};
use qihui_query::account::Account;
use qihui_query::exec::Permit;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use roaring::RoaringBitmap;

use crate::gate_1::grammar;
use crate::gate_3::{Hub, hub_of, request};
use crate::reference::{View, view};
use crate::run::{Gated, run_physical, seeds, sorted};
use crate::world::{ENTERPRISES, World};

const QUERIES: u64 = 6;

/// Takes the organisation's purpose away when bytes are about to leave.
struct Taking<'h> {
    hub: &'h Hub,
    bytes: Vec<u8>,
}

#[async_trait]
impl Outlet for Taking<'_> {
    async fn ready(&mut self) -> io::Result<()> {
        let (org, purpose) = (
            "bank".parse().unwrap(),
            "credit.loan_review".parse().unwrap(),
        );
        let catalog = Catalog::builtin().unwrap();
        let taken = self
            .hub
            .ledger
            .unassign_purpose(&catalog, &org, None, &purpose);
        taken.await.unwrap();
        Ok(())
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether bytes that are ready stay in the hub when what they rested on was taken away.
pub async fn check_release() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub_of(dir.path(), 3, Limits::default()).await;
    let mut out = Taking {
        hub: &hub,
        bytes: Vec::new(),
    };
    let sql = "SELECT uscc FROM enterprise_registration";
    let answer = hub.gate.query(&request(sql), &mut out).await;
    assert!(out.bytes.is_empty(), "{} bytes left", out.bytes.len());
    assert!(answer.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_what_is_ready_to_leave_stays_when_its_ground_is_taken() {
    check_release().await;
}

/// Enterprises that withdraw everything when the gate asks for the n-th time.
#[derive(Debug)]
struct Withdrawals {
    account: Arc<Account>,
    datasets: Vec<DatasetId>,
    asked: AtomicU64,
    due: Mutex<Vec<(u64, u32)>>,
}

impl Permit for Withdrawals {
    fn check(&self) -> Result<(), QueryError> {
        let now = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut due = self.due.lock();
        while let Some((_, no)) = due.last().filter(|(at, _)| *at <= now) {
            let enterprise = RoaringBitmap::from_iter([*no]);
            let drop = |dataset| self.account.drop_untouched(dataset, &enterprise);
            if !self.datasets.iter().all(drop) {
                return Err(QueryError::ConsentChanged);
            }
            due.pop();
        }
        Ok(())
    }
}

/// What queries came to.
#[derive(Default)]
pub struct Tally {
    /// Went on without somebody.
    without: u64,
    /// Ended, since somebody's row had passed.
    ended: u64,
    /// Nothing was taken away before the end.
    untroubled: u64,
}

pub async fn check(seed: u64, tally: &mut Tally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    let views = |world: &World| -> Vec<(String, View)> {
        let tables = world.tables.iter();
        tables
            .map(|table| (table.contract.id.to_string(), view(world, table)))
            .collect()
    };
    let before = views(&world);
    for _ in 0..QUERIES {
        let Some(mut grammar) = grammar(&before, &mut rng) else {
            break;
        };
        let sql = grammar.statement();
        let account = Arc::new(Account::new(u64::MAX));
        let mut due: Vec<(u64, u32)> = (0..rng.random_range(1..4))
            .map(|_| (rng.random_range(0..8), rng.random_range(1..=ENTERPRISES)))
            .collect();
        due.sort_by(|a, b| b.cmp(a));
        let all = due.clone();
        let withdrawals = Arc::new(Withdrawals {
            account: Arc::clone(&account),
            datasets: gated.tables.keys().cloned().collect(),
            asked: AtomicU64::new(0),
            due: Mutex::new(due),
        });
        let mode = (rng.random_range(1..=2), rng.random_bool(0.3));
        let permit = Arc::clone(&withdrawals) as Arc<dyn Permit>;
        let seen = gated.run_under(&sql, mode, Arc::clone(&account), permit);
        let seen = seen.await;
        for (dataset, passed) in account.passed() {
            let open_rows = gated.scopes[&dataset].scope().all_rows;
            assert!(
                open_rows || passed.touched.is_disjoint(&passed.dropped),
                "seed {seed}, {dataset}: {sql}"
            );
        }
        if seen.as_ref().is_err_and(|e| e.code == "ConsentChanged") {
            tally.ended += 1;
            continue;
        }
        let left = withdrawals.due.lock().len();
        // Who withdrew before the first question is gone, whether anybody asked or not.
        let asked = all[left..].iter();
        let before = all.iter().filter(|(at, _)| *at == 0);
        let gone: RoaringBitmap = asked.chain(before).map(|(_, no)| *no).collect();
        match gone.is_empty() {
            true => tally.untroubled += 1,
            false => tally.without += 1,
        }
        let mut after = world.clone();
        after.grants.retain(|grant| !gone.contains(grant.no.0));
        match (seen, run_physical(&views(&after), &gated, &sql).await) {
            (Ok(seen), Ok(rows)) => {
                assert_eq!(sorted(seen.rows), sorted(rows), "seed {seed}: {sql}");
            }
            (Err(a), Err(b)) => assert_eq!(a, b, "seed {seed}: {sql}"),
            (a, b) => panic!("seed {seed}: {sql}\n gate: {a:?}\n view: {b:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_who_withdraws_untouched_is_left_out_and_the_query_goes_on() {
    let mut tally = Tally::default();
    for seed in seeds(600, QUERIES) {
        check(seed, &mut tally).await;
    }
    let Tally {
        without,
        ended,
        untroubled,
    } = tally;
    println!(
        "GATE-4: {without} queries went on without somebody, {ended} ended, {untroubled} were untroubled"
    );
    assert!(
        (without > 100 && ended > 20) || seeds(600, QUERIES).len() < 100,
        "too few queries to say much"
    );
}
