//! Uses and holdings on the command line, and what is left of both when the process is killed.

use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use qihui::config::Config;
use qihui::hub::{Hub, Opening};
use qihui::layout::Layout;
use qihui_audit::{Clock, SystemClock};
use qihui_catalog::{Action, Coded, ConsentId, EnterpriseNo, Level};
use qihui_consent::ledger::{Delivery, HoldingFilter, HoldingState};
use qihui_consent::signing::Operation;
use qihui_query::access::{AccessRequest, Outlet};
use qihui_query::formats::Format;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{Answer, Lab, query};
use crate::topic_world::{Look, Record, World, day, uscc};

const SQL: &str = "SELECT uscc, skssqq, xse FROM vat_declaration ORDER BY skssqq";
/// How often the process is killed.
const KILLS: u32 = 16;

fn bank(lab: &Lab, more: &[&str]) -> Answer {
    lab.json(&query(
        "city_bank",
        "policy.matching",
        &[more, &[SQL]].concat(),
    ))
}

fn uses(lab: &Lab, consent: &str) -> Value {
    lab.json(&["consent", "show", consent]).done().json()["uses"].clone()
}

fn accesses(lab: &Lab) -> Vec<Value> {
    let listed = lab
        .json(&["audit", "accesses", &lab.subject()])
        .done()
        .json();
    listed["accesses"].as_array().unwrap().clone()
}

#[test]
fn uses_are_shown_and_refused_when_they_are_used_up() {
    let lab = Lab::world();
    let consent = lab.granted_with("uscc, skssqq, xse", "actions: [QUERY]\nmax_uses: 2");
    let subject = lab.subject();
    let named = ["--subject", subject.as_str()];
    assert_eq!(
        bank(&lab, &[]).done().json()["rows"],
        json!([]),
        "it counts only where it is named"
    );
    let explained = [&named[..], &["EXPLAIN SELECT xse FROM vat_declaration"]].concat();
    lab.run(&query("city_bank", "policy.matching", &explained))
        .done();
    assert_eq!(uses(&lab, &consent)["made"], 0);
    for left in [1, 0] {
        assert_ne!(bank(&lab, &named).done().json()["rows"], json!([]));
        assert_eq!(uses(&lab, &consent)["left"], left);
    }
    bank(&lab, &named).fails(3, "InvalidConsentUse", &["subject 1", "used up"]);
    // What is refused uses nothing; the enterprise sees each use beside its access.
    let told = uses(&lab, &consent);
    assert_eq!((&told["made"], &told["next"]), (&json!(2), &Value::Null));
    let used: Vec<Value> = accesses(&lab)
        .into_iter()
        .filter(|one| one.get("uses").is_some())
        .collect();
    assert_eq!(used.len(), 2);
    assert!(
        used.iter()
            .all(|one| one["uses"] == json!([consent]) && one["decision"] == "allowed")
    );
    let text = lab.run(&["consent", "show", &consent]).done();
    assert!(
        text.stdout
            .contains("used 2 times, 0 left; no more is possible"),
        "{}",
        text.stdout
    );
}

#[test]
fn a_file_is_for_keeping_only_where_it_is_asked_for() {
    let lab = Lab::world();
    let consent = lab.granted_with("uscc, skssqq, xse", "actions: [QUERY, VIEW, STORE]");
    let subject = lab.subject();
    let file = ["--format", "csv", "--output", "answer.csv"];
    let kept = bank(&lab, &[&file[..], &["--action", "store"]].concat()).done();
    let id = kept.json()["access"]["terms"]["holding"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        kept.stderr.contains(&format!("as holding {id}")),
        "{}",
        kept.stderr
    );
    let shown = lab.json(&["holding", "show", &id]).done().json();
    let bytes = std::fs::read(lab.path().join("answer.csv")).unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
    assert_eq!(shown["sha256"], json!(hex::encode(hash)));
    assert_eq!(shown["bytes"], json!(bytes.len()));
    // Without it the file is a working copy, and says so.
    let answer = bank(&lab, &file).done();
    assert_eq!(answer.json()["access"]["terms"]["keep"], "no");
    assert!(answer.stderr.contains("working copy"), "{}", answer.stderr);
    let view = ["--action", "view", "--subject", subject.as_str()];
    let refused = bank(&lab, &[&view[..], &file[..]].concat());
    refused.fails(2, "NotForViewing", &["file"]);
    bank(&lab, &["--action", "stream"]).fails(2, "BadUsage", &["stream"]);
    let listed = |more: &[&str]| {
        let listed = lab
            .json(&[&["holding", "list"], more].concat())
            .done()
            .json();
        listed["holdings"].as_array().unwrap().len()
    };
    assert_eq!((listed(&[]), listed(&["--subject", &subject])), (1, 1));
    assert_eq!(
        (listed(&["--org", "tax_bureau"]), listed(&["--overdue"])),
        (0, 0)
    );
    let withdrawn = lab.json(&["consent", "withdraw", &consent]).done().json();
    assert_eq!(withdrawn["holdings"][0]["holding_id"], json!(id));
    let statement = ["--statement", "the file is gone"];
    let deleted = lab.json(&[&["holding", "delete", &id], &statement[..]].concat());
    assert_eq!(deleted.done().json()["state"], "DELETED");
    let again = lab.run(&[&["holding", "delete", &id], &statement[..]].concat());
    again.fails(1, "HoldingDeleted", &[&id]);
    lab.run(&["holding", "show", "h-0"])
        .fails(1, "UnknownHolding", &[]);
    // An explanation is nothing to keep.
    let explain = ["--action", "store", "EXPLAIN SELECT 1"];
    lab.run(&query("city_bank", "policy.matching", &explain))
        .done();
    assert_eq!(listed(&[]), 1);
}

/// Killed anywhere: every use that was counted belongs to one access of the log, and every access that may have released
/// something for keeping has its holding.
#[test]
fn aud_5_killed_anywhere_each_access_has_its_use_and_its_holding_once() {
    let lab = Lab::world();
    let consent = lab.granted_with("uscc, skssqq, xse", "actions: [STORE]\nmax_uses: 14");
    let subject = lab.subject();
    let words = query(
        "city_bank",
        "policy.matching",
        &["--action", "store", "--subject", &subject, SQL],
    );
    let begun = Instant::now();
    lab.run(&words).done();
    let whole = begun.elapsed();
    let mut chance = SmallRng::seed_from_u64(11);
    let (mut killed, mut complete) = (0, 1);
    for _ in 0..KILLS {
        let mut command = lab.command(&words);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + whole.mul_f64(chance.random_range(0.2..1.1));
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= until => break None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        match ended {
            Some(status) => complete += u64::from(status.success()),
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
            }
        }
    }
    assert!(killed > 0, "every process ended before it was killed");
    let all = accesses(&lab);
    let made = uses(&lab, &consent)["made"].as_u64().unwrap();
    assert!(
        made >= complete && made <= 14,
        "{made} uses, {complete} answers"
    );
    let used = all
        .iter()
        .filter(|one| one["uses"] == json!([consent]))
        .count() as u64;
    assert_eq!(used, made, "a use is of one access, and in the log");
    // Killed before its use was counted, an access has released nothing of the enterprise.
    let ended = |one: &&Value| one["action"] == "STORE" && one["uses"] == json!([consent]);
    let kept: BTreeSet<String> = all
        .iter()
        .filter(ended)
        .map(|one| one["holding"].as_str().expect("a holding").to_owned())
        .collect();
    assert_eq!(
        kept.len(),
        all.iter().filter(ended).count(),
        "a holding is of one access"
    );
    let listed = lab
        .json(&["holding", "list", "--subject", &subject])
        .done()
        .json();
    let listed: BTreeSet<String> = listed["holdings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["holding_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kept, listed);
    // The uses run out, and no more than were granted were made.
    for _ in made..14 {
        lab.run(&words).done();
    }
    lab.run(&words).fails(3, "InvalidConsentUse", &["used up"]);
    assert_eq!(uses(&lab, &consent)["made"], 14);
    lab.run(&["audit", "verify"]).done();
}

/// An outlet on whose way something happens.
struct Way<'a> {
    world: &'a World,
    /// Withdrawn by the second enterprise before the first byte.
    withdrawn: Option<ConsentId>,
    /// Bytes that are taken before the receiver goes away.
    room: usize,
    taken: Vec<u8>,
}

#[async_trait]
impl Outlet for Way<'_> {
    async fn ready(&mut self) -> io::Result<()> {
        if let Some(id) = self.withdrawn.take() {
            self.world.sign(2, &id, Operation::Withdraw, None).await;
        }
        Ok(())
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.taken.len() >= self.room {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.taken.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn world(dir: &tempfile::TempDir, action: Action, rows: u32) -> (World, Vec<ConsentId>) {
    world_of(dir, Look::PLAIN, action, rows).await
}

async fn world_of(
    dir: &tempfile::TempDir,
    look: Look,
    action: Action,
    rows: u32,
) -> (World, Vec<ConsentId>) {
    let columns = ["uscc", "id", "name"];
    let dir = dir.path().to_owned();
    let mut world = World::new(dir, look, &columns, Delivery::Pull).await;
    let mut consents = Vec::new();
    for n in 1..=2 {
        let records = (0..rows).map(|id| Record::plain(n, id, "name"));
        world.land(&records.collect::<Vec<_>>()).await;
        consents.push(world.grant(n, &columns, None, day(200), action).await);
    }
    (world, consents)
}

fn request(action: Action) -> AccessRequest {
    AccessRequest {
        principal: "local:test".to_owned(),
        org: "bank".parse().unwrap(),
        purpose: "watch.risk".parse().unwrap(),
        action,
        subjects: vec![uscc(1), uscc(2)],
        sql: "SELECT uscc, id, name FROM filing".to_owned(),
        format: Format::Ndjson,
        strict: false,
    }
}

/// A query that is decided again because somebody withdrew makes one use of the others, not two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_query_that_is_restarted_uses_a_consent_once() {
    let dir = tempfile::tempdir().unwrap();
    let (world, consents) = world(&dir, Action::Query, 4).await;
    let once = Some("max_uses: 1");
    world.sign(1, &consents[0], Operation::Narrow, once).await;
    // The second enterprise granted the same twice, and takes one of them back on the way.
    let columns = ["uscc", "id"];
    world
        .grant(2, &columns, None, day(100), Action::Query)
        .await;
    let mut out = Way {
        world: &world,
        withdrawn: Some(consents[1].clone()),
        room: usize::MAX,
        taken: Vec::new(),
    };
    let summary = world.gate.query(&request(Action::Query), &mut out).await;
    assert_eq!(summary.unwrap().rows, 8);
    let mut outcomes = Vec::new();
    let mut uses = 0;
    for entry in world.log.scan(0..world.log.size()) {
        let entry = entry.unwrap();
        let body: Value = serde_json::from_slice(&entry.body).unwrap_or_default();
        if entry.leaf.kind == "access.finished" {
            outcomes.push(body["outcome"].as_str().unwrap().to_owned());
            uses += body["uses"].as_array().map_or(0, Vec::len);
        }
    }
    assert_eq!(
        (outcomes, uses),
        (vec!["ConsentChanged".to_owned(), "complete".to_owned()], 1)
    );
    let left = world.ledger.uses_left(&world.catalog, &consents[0]).await;
    assert_eq!(left.unwrap().unwrap().left, Some(0));
    let refused = world
        .gate
        .query(&request(Action::Query), &mut Vec::new())
        .await;
    assert_eq!(refused.unwrap_err().code(), "InvalidConsentUse");
}

/// Who goes away in the middle holds what had left by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_an_answer_is_held_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let (world, _) = world(&dir, Action::Store, 20_000).await;
    let mut out = Way {
        world: &world,
        withdrawn: None,
        room: 1,
        taken: Vec::new(),
    };
    let error = world.gate.query(&request(Action::Store), &mut out).await;
    assert_eq!(error.unwrap_err().code(), "OutputFailed");
    assert!(!out.taken.is_empty());
    let (held, _) = world
        .ledger
        .holdings(&HoldingFilter::default())
        .await
        .unwrap();
    let [held] = held.as_slice() else {
        panic!("{held:?}")
    };
    // How many rows a part of an answer has was not counted: not none of them.
    assert_eq!((held.document.complete, held.document.rows), (false, None));
    assert_eq!(
        (held.state, held.document.data_life_days),
        (HoldingState::Held, Some(60))
    );
    // What is told of its bytes may be more than arrived, never less.
    assert!(held.document.bytes.unwrap() >= out.taken.len() as u64);
    // Where nothing left there is nothing to hold.
    (out.room, out.withdrawn) = (0, None);
    out.taken.clear();
    let error = world.gate.query(&request(Action::Store), &mut out).await;
    assert_eq!(error.unwrap_err().code(), "OutputFailed");
    let (all, _) = world
        .ledger
        .holdings(&HoldingFilter::default())
        .await
        .unwrap();
    assert_eq!(all.len(), 2, "it was handed over, so that it may have left");
    world.ledger.check().await.unwrap();
}

/// Who withdraws takes back what only a consent opened, not what a law opens as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_law_opens_is_not_taken_back_with_a_consent() {
    for (by_law, due) in [(&["uscc", "id", "name"][..], 0), (&["uscc", "id"], 1)] {
        let dir = tempfile::tempdir().unwrap();
        let (world, consents) = world(&dir, Action::Store, 4).await;
        world.agree_on("law", by_law, true).await;
        let mut out = Vec::new();
        let summary = world.gate.query(&request(Action::Store), &mut out).await;
        let id = summary.unwrap().terms.holding.unwrap();
        world.sign(1, &consents[0], Operation::Withdraw, None).await;
        let held = world.ledger.holding(&id).await.unwrap();
        assert_eq!(
            (held.document.enterprises, held.due.len()),
            (2, due),
            "{by_law:?}"
        );
        let named = world.ledger.holdings_due_to(&consents[0]).await.unwrap();
        assert_eq!(named.len(), due);
    }
}

/// Who is counted is in the answer, though nothing of it was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_of_rows_rests_on_the_consents_that_open_them() {
    for (look, due) in [
        (Look::PLAIN, 1),
        (
            Look {
                row_level: Level::L1,
                ..Look::PLAIN
            },
            0,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (world, consents) = world_of(&dir, look, Action::Store, 4).await;
        let counted = AccessRequest {
            sql: "SELECT count(*) AS n FROM filing".to_owned(),
            ..request(Action::Store)
        };
        let mut out = Vec::new();
        let summary = world.gate.query(&counted, &mut out).await.unwrap();
        assert_eq!(out, b"{\"n\":8}\n");
        let id = summary.terms.holding.unwrap();
        world.sign(1, &consents[0], Operation::Withdraw, None).await;
        let held = world.ledger.holding(&id).await.unwrap();
        assert_eq!((held.document.enterprises, held.due.len()), (2, due));
    }
}

/// Stops on the last step of its way, for good.
struct Stuck {
    taken: Vec<u8>,
    last: Arc<Notify>,
}

#[async_trait]
impl Outlet for Stuck {
    async fn ready(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.taken.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.last.notify_one();
        std::future::pending().await
    }
}

/// An answer of which every byte left, and nothing came after: as a killed process leaves it.
async fn broken_off(world: &World) {
    let last = Arc::new(Notify::new());
    let mut out = Stuck {
        taken: Vec::new(),
        last: Arc::clone(&last),
    };
    let everybody = AccessRequest {
        subjects: Vec::new(),
        ..request(Action::Store)
    };
    tokio::select! {
        ended = world.gate.query(&everybody, &mut out) => panic!("{ended:?}"),
        () = last.notified() => {}
    }
    assert!(!out.taken.is_empty());
}

/// Whatever becomes of a consent or an agreement before the next start: who could be in the answer is in the holding.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_took_back_before_the_next_start_is_in_the_holding_all_the_same() {
    let everything = Some("everything");
    for (act, due) in [
        ("withdraw", Some("withdrawn")),
        ("narrow", Some("narrowed")),
        ("revoke", Some("revoked")),
        ("pause", None),
        ("expire", None),
        ("end the agreement", everything),
        ("end the law", everything),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut world, consents) = world(&dir, Action::Store, 4).await;
        // One without a consent, and one with a consent that opens nothing for keeping.
        for n in 3..=4 {
            world.land(&[Record::plain(n, 0, "name")]).await;
        }
        let columns = ["uscc", "id", "name"];
        world
            .grant(3, &columns, None, day(200), Action::Query)
            .await;
        if act == "end the law" {
            world.agree_on("law", &["uscc", "id", "name"], true).await;
        }
        broken_off(&world).await;
        // One that consents only now.
        world
            .grant(4, &columns, None, day(300), Action::Store)
            .await;
        match act {
            "withdraw" => world.sign(1, &consents[0], Operation::Withdraw, None).await,
            "pause" => world.sign(1, &consents[0], Operation::Pause, None).await,
            "narrow" => {
                let rest = Some("scope: [{dataset: filing, columns: [uscc, id]}]");
                world.sign(1, &consents[0], Operation::Narrow, rest).await;
            }
            "revoke" => {
                let revoked = world.ledger.revoke_consent(&consents[0], "steward");
                revoked.await.unwrap();
            }
            "expire" => {
                world.pass_days(190);
                world.ledger.expire_due().await.unwrap();
            }
            agreement => {
                let id = if agreement == "end the law" {
                    "law"
                } else {
                    "a-1"
                };
                let id = id.into();
                let revoked = world.ledger.revoke_agreement(&id, "steward");
                revoked.await.unwrap();
            }
        }
        assert_eq!(world.gate.close_interrupted(0).await.unwrap(), 1);
        let filter = HoldingFilter::default();
        let (held, _) = world.ledger.holdings(&filter).await.unwrap();
        let [held] = held.as_slice() else {
            panic!("{act}: {held:?}")
        };
        let held = world.ledger.holding(&held.document.holding_id).await;
        let held = held.unwrap();
        let all = if act == "end the law" { 4 } else { 2 };
        assert_eq!(held.document.enterprises, all, "{act}");
        for n in 1..=2 {
            let no = EnterpriseNo(world.number(n));
            let is_held = world.ledger.is_held(&held.document.holding_id, no).await;
            assert!(is_held.unwrap(), "{act}: {n}");
        }
        assert_eq!(held.document.data_life_days, Some(60), "{act}");
        let parts: Vec<_> = held
            .due
            .iter()
            .map(|part| (part.no, &*part.reason))
            .collect();
        let no = EnterpriseNo(world.number(1));
        match due {
            None => assert_eq!(parts, [], "{act}"),
            Some("everything") => assert_eq!(parts, [(None, "agreement")], "{act}"),
            Some(reason) => assert_eq!(parts, [(Some(no), reason)], "{act}"),
        }
        world.ledger.check().await.unwrap();
    }
}

/// Whose rows were retracted before the next start, but not its consent: it is in the holding all the same, and hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_rows_before_the_next_start_is_in_the_holding_all_the_same() {
    let open_rows = Look {
        row_level: Level::L1,
        ..Look::PLAIN
    };
    let by_law = Some(&["uscc", "id", "name"][..]);
    for (look, law, members, due) in [
        (Look::PLAIN, None, 2, 1),
        (open_rows, None, 3, 1),
        (Look::PLAIN, by_law, 3, 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut world, consents) = world_of(&dir, look, Action::Store, 4).await;
        world.land(&[Record::plain(3, 0, "name")]).await;
        if let Some(columns) = law {
            world.agree_on("law", columns, true).await;
        }
        broken_off(&world).await;
        let gone = (0..4).map(|id| Record {
            retract: true,
            ..Record::plain(1, id, "name")
        });
        world.land(&gone.collect::<Vec<_>>()).await;
        assert_eq!(world.gate.close_interrupted(0).await.unwrap(), 1);
        let filter = HoldingFilter::default();
        let (held, _) = world.ledger.holdings(&filter).await.unwrap();
        let [held] = held.as_slice() else {
            panic!("{held:?}")
        };
        let id = &held.document.holding_id;
        let case = (look.row_level, law);
        assert_eq!(held.document.enterprises, members, "{case:?}");
        let no = EnterpriseNo(world.number(1));
        assert!(world.ledger.is_held(id, no).await.unwrap(), "{case:?}");
        world.sign(1, &consents[0], Operation::Withdraw, None).await;
        let named = world.ledger.holdings_due_to(&consents[0]).await.unwrap();
        assert_eq!(named.len(), due, "{case:?}");
        world.ledger.check().await.unwrap();
    }
}

/// Sets the clock back when the last byte has left, so that the ledger takes no holding.
struct SetBack(Arc<Offset>);

/// The time of the machine, and so many milliseconds.
struct Offset(AtomicI64);

impl Clock for Offset {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.0.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Outlet for SetBack {
    async fn ready(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn release(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.0.0.store(-3_600_000, Ordering::SeqCst);
        Ok(())
    }
}

/// An answer whose holding could not be recorded has its end and its holding after the next start, also when the hub was
/// closed in order.
#[test]
fn what_could_not_be_recorded_is_seen_to_by_the_next_start() {
    let lab = Lab::world();
    lab.granted_with("uscc, skssqq, xse", "actions: [STORE]");
    let clock = Arc::new(Offset(AtomicI64::new(0)));
    let opening = Opening {
        layout: Layout::new(&lab.hub()),
        config: Config::default(),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        shared: None,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let hub = Box::pin(Hub::open(&opening)).await.unwrap();
        let request = AccessRequest {
            org: "city_bank".parse().unwrap(),
            purpose: "policy.matching".parse().unwrap(),
            subjects: Vec::new(),
            sql: SQL.to_owned(),
            ..request(Action::Store)
        };
        let mut out = SetBack(Arc::clone(&clock));
        let gate = hub.gate().unwrap();
        let failed = Box::pin(gate.query(&request, &mut out)).await;
        assert_eq!(failed.unwrap_err().code(), "ClockBack");
        clock.0.store(0, Ordering::SeqCst);
        // The service goes on and answers others before it is stopped, from one catalogue after another.
        hub.rereading_catalog().install_catalog();
        let hub = hub.acting_as("local:other");
        let gate = hub.gate().unwrap();
        let mut out = Vec::new();
        Box::pin(gate.query(&request, &mut out)).await.unwrap();
        drop(gate);
        hub.close().await;
    });
    for _ in 0..2 {
        let listed = lab.json(&["holding", "list"]).done().json();
        assert_eq!(listed["holdings"].as_array().unwrap().len(), 2, "{listed}");
    }
    let mut ended: Vec<(String, bool)> = accesses(&lab)
        .iter()
        .filter(|one| one["action"] == "STORE")
        .map(|one| {
            (
                one["decision"].as_str().unwrap().to_owned(),
                one["holding"].is_string(),
            )
        })
        .collect();
    ended.sort();
    assert_eq!(
        ended,
        [
            ("allowed".to_owned(), true),
            ("interrupted".to_owned(), true)
        ]
    );
    lab.run(&["audit", "verify"]).done();
}
