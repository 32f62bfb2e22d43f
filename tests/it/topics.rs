//! Topics by pull: a copy that follows the events is the authorised view, and hidden changes say nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use qihui_catalog::{Action, Coded, ConsentId};
use qihui_consent::ledger::Delivery;
use qihui_consent::signing::Operation;
use qihui_pipelines::topics::error::TopicError;
use qihui_pipelines::topics::page::PageLimits;
use qihui_pipelines::topics::pull::{PullRequest, Pulled};
use qihui_query::access::Outlet;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

use crate::topic_world::{CELLS, ENTERPRISES, Look, Record, World, day, uscc};

const ALL: [&str; 7] = ["uscc", "id", "name", "n", "amount", "flag", "day"];

/// What a subscriber holds.
#[derive(Debug, Default)]
struct Copy {
    cursor: Option<String>,
    /// Whether an answer got lost, so that the hub cannot know what is held.
    uncertain: bool,
    rows: BTreeMap<String, (Map<String, Value>, Vec<Value>)>,
    notices: Vec<Value>,
    ids: std::collections::BTreeSet<String>,
}

impl Copy {
    /// Applies the events of a page; with `certain`, each must change something.
    fn apply(&mut self, page: &Value, certain: bool) {
        for event in page["events"].as_array().unwrap() {
            let (data, key) = (&event["data"], event["data"]["key"]["id"].as_str());
            match event["type"].as_str().unwrap() {
                "qihui.topic.reset.v1" => self.rows.clear(),
                "qihui.authorisation.ended.v1" => self.notices.push(data.clone()),
                "qihui.record.upserted.v1" => {
                    let mut row = data["row"].as_object().unwrap().clone();
                    row.retain(|_, value| !value.is_null());
                    let withheld = data["withheld"].as_array().unwrap().clone();
                    assert_eq!(event["subject"], row["uscc"]);
                    let new = (row, withheld);
                    let old = self.rows.insert(key.unwrap().to_owned(), new.clone());
                    assert!(
                        !certain || old != Some(new),
                        "an event that changes nothing: {event}"
                    );
                }
                "qihui.record.deleted.v1" => {
                    assert_eq!(data.as_object().unwrap().len(), 1, "only the key: {event}");
                    let old = self.rows.remove(key.unwrap());
                    assert!(
                        !certain || old.is_some(),
                        "a deletion of what was never brought: {event}"
                    );
                }
                other => panic!("{other}"),
            }
            let fresh = self.ids.insert(event["id"].as_str().unwrap().to_owned());
            assert!(fresh || !certain, "an id twice: {event}");
        }
    }

    fn view(&self) -> BTreeMap<String, Map<String, Value>> {
        let rows = self.rows.iter();
        rows.map(|(key, (row, _))| (key.clone(), row.clone()))
            .collect()
    }
}

async fn pull(
    world: &World,
    cursor: Option<&str>,
    limits: PageLimits,
) -> Result<(Pulled, Value, Vec<u8>), TopicError> {
    let request = PullRequest {
        subscription: world.subscription.subscription_id.clone(),
        cursor: cursor.map(str::to_owned),
        restart: false,
        limits,
    };
    let mut out = Vec::new();
    let pulled = world.topics.pull(&request, &mut out).await?;
    let page = serde_json::from_slice(&out).unwrap();
    Ok((pulled, page, out))
}

/// An answer on its way, with something that happens after it was recorded and before it leaves.
struct Meanwhile<'a> {
    event: Option<BoxFuture<'a, ()>>,
    bytes: Vec<u8>,
}

#[async_trait]
impl Outlet for Meanwhile<'_> {
    async fn ready(&mut self) -> std::io::Result<()> {
        if let Some(event) = self.event.take() {
            event.await;
        }
        Ok(())
    }

    fn release(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Pulls a page while something happens.
async fn pull_while(
    world: &World,
    cursor: Option<&str>,
    event: BoxFuture<'_, ()>,
) -> Result<(Pulled, Value), TopicError> {
    let request = PullRequest {
        subscription: world.subscription.subscription_id.clone(),
        cursor: cursor.map(str::to_owned),
        ..PullRequest::default()
    };
    let mut out = Meanwhile {
        event: Some(event),
        bytes: Vec::new(),
    };
    let pulled = world.topics.pull(&request, &mut out).await?;
    Ok((pulled, serde_json::from_slice(&out.bytes).unwrap()))
}

fn kinds(page: &Value) -> Vec<&str> {
    let events = page["events"].as_array().unwrap().iter();
    events
        .map(|event| {
            let kind = event["type"].as_str().unwrap();
            kind.strip_prefix("qihui.").unwrap()
        })
        .collect()
}

/// The bytes of a page are those whose hash is in the log, between its two entries.
fn assert_recorded(world: &World, pulled: &Pulled, bytes: &[u8]) {
    let Some(released) = pulled.released else {
        assert_eq!(pulled.events, 0);
        return;
    };
    let body =
        |index| -> Value { serde_json::from_slice(&world.log.read(index).unwrap().body).unwrap() };
    let (decided, finished) = (body(released.decided), body(released.finished));
    assert_eq!(finished["decided"], released.decided);
    assert_eq!(decided["action"], "STREAM");
    assert_eq!(decided["page"], pulled.page.unwrap());
    assert_eq!(finished["outcome"], "complete");
    assert_eq!(finished["sha256"], hex::encode(digest(&SHA256, bytes)));
}

/// Pulls until there is nothing more.
async fn follow(world: &World, copy: &mut Copy, limits: PageLimits) {
    loop {
        let (pulled, page, bytes) = pull(world, copy.cursor.as_deref(), limits).await.unwrap();
        assert_recorded(world, &pulled, &bytes);
        copy.apply(&page, true);
        copy.cursor = Some(pulled.next);
        if !pulled.more {
            return;
        }
    }
}

/// A random way to the present, with answers that get lost and hubs that start again; then the copy must be the view.
async fn sync(world: &mut World, copy: &mut Copy, rng: &mut StdRng) {
    for _ in 0..200 {
        let certain = !copy.uncertain;
        let limits = PageLimits {
            events: *[1, 3, 1000].choose(rng).unwrap(),
            ..PageLimits::default()
        };
        if rng.random_bool(0.2) {
            world.restart();
        }
        let (pulled, page, bytes) = pull(world, copy.cursor.as_deref(), limits).await.unwrap();
        assert_recorded(world, &pulled, &bytes);
        assert!(
            !String::from_utf8(bytes.clone()).unwrap().contains("SECRET"),
            "what nobody granted left the hub"
        );
        if pulled.page.is_some() && rng.random_bool(0.25) {
            // The answer got lost; or it arrived, and only its cursor got lost.
            if rng.random_bool(0.5) {
                copy.apply(&page, certain);
            }
            if rng.random_bool(0.5) {
                let (again, same, _) = pull(world, copy.cursor.as_deref(), limits).await.unwrap();
                assert_eq!(again.page, pulled.page);
                assert_eq!(same, page, "nothing happened, so the page is the same");
            }
            copy.uncertain = true;
            if rng.random_bool(0.5) {
                // What happens now must not be lost on somebody who may hold the lost page.
                return;
            }
            continue;
        }
        copy.apply(&page, certain);
        copy.cursor = Some(pulled.next);
        copy.uncertain = false;
        if !pulled.more {
            assert_eq!(copy.view(), world.view().await);
            return;
        }
    }
    panic!("the subscriber never arrives");
}

fn record(rng: &mut StdRng, granted: bool) -> Record {
    let no = if granted {
        rng.random_range(1..ENTERPRISES)
    } else {
        // The last one never grants anything.
        ENTERPRISES
    };
    let words = ["a", "b", "杭州 \"x\"", ""];
    let name = if granted {
        (*words.choose(rng).unwrap()).to_owned()
    } else {
        format!("SECRET-{}", rng.random_range(0..100))
    };
    let date = |rng: &mut StdRng, low, high| {
        rng.random_bool(0.8)
            .then(|| day(rng.random_range(low..high)))
    };
    Record {
        no,
        id: rng.random_range(0..6),
        name: rng.random_bool(0.85).then_some(name),
        n: rng.random_bool(0.85).then(|| rng.random_range(-2..3)),
        amount: rng.random_bool(0.85).then(|| rng.random_range(-5000..5000)),
        flag: rng.random_bool(0.85).then(|| rng.random_bool(0.5)),
        day: date(rng, 0, 60),
        until: date(rng, 25, 70),
        retract: rng.random_bool(0.15),
    }
}

/// Columns of a grant: the key as a rule.
fn columns(rng: &mut StdRng, look: Look) -> Vec<&'static str> {
    let mut columns: Vec<&str> = CELLS.into_iter().filter(|_| rng.random_bool(0.6)).collect();
    if columns.is_empty() || rng.random_bool(0.9) {
        columns.extend(["uscc", "id"]);
        columns.extend((look.dated && rng.random_bool(0.7)).then_some("day"));
    }
    columns
}

/// One thing that happens to the hub.
async fn happen(world: &mut World, grants: &mut Vec<(u32, ConsentId)>, rng: &mut StdRng) {
    match rng.random_range(0..14) {
        0..=4 => {
            let granted = world.look.row_level != qihui_catalog::Level::L1 && !world.look.statute;
            let records: Vec<Record> = (0..rng.random_range(1..8))
                .map(|_| {
                    let visible = !granted || rng.random_bool(0.8);
                    let mut record = record(rng, visible);
                    if !granted {
                        record.no = rng.random_range(1..=ENTERPRISES);
                    }
                    record
                })
                .collect();
            let mut seen = std::collections::BTreeSet::new();
            let records: Vec<Record> = records
                .into_iter()
                .filter(|record| seen.insert((record.no, record.id)))
                .collect();
            world.land(&records).await;
        }
        5..=7 => {
            let n = rng.random_range(1..ENTERPRISES);
            let columns = columns(rng, world.look);
            let range = (world.look.dated && rng.random_bool(0.4)).then(|| {
                let from = rng.random_range(0..40);
                (day(from), day(from + rng.random_range(1..40)))
            });
            let action = if rng.random_bool(0.9) {
                Action::Stream
            } else {
                Action::Query
            };
            let today = world.gate.time().shanghai_date();
            let expires = today + chrono::Days::new(rng.random_range(1..40));
            let id = world.grant(n, &columns, range, expires, action).await;
            grants.push((n, id));
        }
        8..=10 if !grants.is_empty() => {
            let at = rng.random_range(0..grants.len());
            let (n, id) = grants[at].clone();
            let state = world.ledger.consent(&id).await.unwrap().state;
            let operation = match (state, rng.random_range(0..3)) {
                (qihui_consent::state::State::Active, 0) => Operation::Pause,
                (qihui_consent::state::State::Paused, 0 | 1) => Operation::Resume,
                (qihui_consent::state::State::Active | qihui_consent::state::State::Paused, _) => {
                    Operation::Withdraw
                }
                _ => {
                    grants.remove(at);
                    return;
                }
            };
            world.sign(n, &id, operation, None).await;
        }
        11 => world.pass_days(rng.random_range(1..6)),
        12 => {
            world.warehouse.compact(&world.dataset()).await.unwrap();
        }
        _ => {
            let old = std::time::Duration::ZERO;
            world
                .warehouse
                .vacuum_orphans(&world.dataset(), old)
                .await
                .unwrap();
        }
    }
}

fn seeds(cases: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    match number("QIHUI_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("QIHUI_CASES").unwrap_or(cases)).collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "what fails is named by its seed")]
async fn gate_1_a_copy_that_follows_the_events_is_the_authorised_view() {
    let (mut rows, mut notices) = (0, 0);
    for seed in seeds(24) {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let look = Look::draw(&mut rng);
        let dir = tempfile::tempdir().unwrap();
        let mut agreed: Vec<&str> = ALL
            .into_iter()
            .filter(|name| *name != "day" || look.dated)
            .collect();
        if rng.random_bool(0.3) {
            agreed.retain(|name| *name != "n");
        }
        let mut world = World::new(dir.path().to_owned(), look, &agreed, Delivery::Pull).await;
        let (mut copy, mut grants) = (Copy::default(), Vec::new());
        let mut revoked = false;
        for step in 0..30 {
            happen(&mut world, &mut grants, &mut rng).await;
            if step == 20 && rng.random_bool(0.3) {
                let id = "a-1".into();
                world.ledger.revoke_agreement(&id, "test").await.unwrap();
                revoked = true;
            }
            if step == 24 && revoked {
                world.agree("a-2", &agreed).await;
            }
            if rng.random_bool(0.5) {
                sync(&mut world, &mut copy, &mut rng).await;
            }
        }
        let limits = PageLimits::default();
        loop {
            let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
            copy.apply(&page, false);
            copy.cursor = Some(pulled.next);
            if !pulled.more {
                break;
            }
        }
        assert_eq!(copy.view(), world.view().await, "seed {seed}");
        rows += copy.rows.len();
        notices += copy.notices.len();
    }
    assert!(
        rows > 20 || seeds(24).len() < 24,
        "the worlds are too empty to say much: {rows}"
    );
    assert!(
        notices > 5 || seeds(24).len() < 24,
        "hardly anything was taken away: {notices}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_hidden_changes_emit_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[
            Record::plain(1, 1, "seen"),
            Record::plain(2, 1, "SECRET"),
            Record::plain(1, 2, "out of range"),
        ])
        .await;
    let mut late = Record::plain(1, 3, "SECRET");
    late.day = Some(day(200));
    world.land(&[late.clone()]).await;
    let columns = ["uscc", "id", "day", "name", "flag"];
    world
        .grant(
            1,
            &columns,
            Some((day(0), day(100))),
            day(90),
            Action::Stream,
        )
        .await;
    world.grant(2, &ALL, None, day(90), Action::Query).await;
    let mut copy = Copy::default();
    follow(&world, &mut copy, PageLimits::default()).await;
    assert_eq!(copy.rows.len(), 2);
    let quiet = async |world: &World, copy: &Copy, what: &str| {
        let entries = world.log.size();
        let (pulled, page, _) = pull(world, copy.cursor.as_deref(), PageLimits::default())
            .await
            .unwrap();
        assert_eq!((pulled.page, pulled.events), (None, 0), "{what}: {page}");
        assert_eq!(Some(&pulled.next), copy.cursor.as_ref(), "{what}");
        assert_eq!(
            world.log.size(),
            entries,
            "{what}: nothing left, so nothing is recorded"
        );
    };
    quiet(&world, &copy, "nothing happened").await;
    let mut hidden_cell = Record::plain(1, 1, "seen");
    hidden_cell.n = Some(77);
    hidden_cell.amount = None;
    world.land(&[hidden_cell]).await;
    quiet(&world, &copy, "only withheld cells changed").await;
    late.name = Some("SECRET again".to_owned());
    world
        .land(&[
            late,
            Record::plain(2, 1, "SECRET too"),
            Record::plain(5, 9, "SECRET new"),
        ])
        .await;
    quiet(
        &world,
        &copy,
        "rows outside of the granted dates, and of others, changed",
    )
    .await;
    world.grant(3, &ALL, None, day(90), Action::Stream).await;
    quiet(&world, &copy, "an enterprise without rows granted").await;
    world
        .grant(
            1,
            &["uscc", "id", "name"],
            Some((day(0), day(50))),
            day(80),
            Action::Stream,
        )
        .await;
    quiet(&world, &copy, "a grant that opens nothing further").await;
    world.warehouse.compact(&world.dataset()).await.unwrap();
    world.pass_days(1);
    quiet(&world, &copy, "files were tidied, and a day passed").await;
    world.land(&[Record::plain(1, 1, "changed")]).await;
    let (pulled, _, _) = pull(&world, copy.cursor.as_deref(), PageLimits::default())
        .await
        .unwrap();
    assert_eq!(pulled.events, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_withdrawal_stops_at_once_and_says_what_must_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[Record::plain(1, 1, "one"), Record::plain(2, 1, "two")])
        .await;
    let first = world.grant(1, &ALL, None, day(90), Action::Stream).await;
    let second = world.grant(2, &ALL, None, day(90), Action::Stream).await;
    let mut copy = Copy::default();
    follow(&world, &mut copy, PageLimits::default()).await;
    assert_eq!((copy.rows.len(), copy.notices.len()), (2, 0));

    world.sign(1, &first, Operation::Withdraw, None).await;
    world
        .land(&[Record::plain(1, 1, "after the withdrawal")])
        .await;
    let (pulled, page, bytes) = pull(&world, copy.cursor.as_deref(), PageLimits::default())
        .await
        .unwrap();
    assert!(!String::from_utf8(bytes).unwrap().contains("after"));
    let kinds: Vec<&str> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["qihui.authorisation.ended.v1", "qihui.record.deleted.v1"]
    );
    copy.apply(&page, true);
    copy.cursor = Some(pulled.next);
    let notice = &copy.notices[0];
    assert_eq!(notice["uscc"], uscc(1).as_str());
    assert_eq!(notice["reason"], "withdrawn");
    assert_eq!(notice["consent_id"], first.as_str());
    assert_eq!(notice["delete_by"], "2026-02-08");
    assert_eq!(notice["columns"].as_array().unwrap().len(), 7);

    let narrower = "scope: [{dataset: filing, columns: [uscc, id, day, name]}]";
    world
        .sign(2, &second, Operation::Narrow, Some(narrower))
        .await;
    follow(&world, &mut copy, PageLimits::default()).await;
    assert_eq!(copy.notices[1]["reason"], "narrowed");
    assert_eq!(
        copy.notices[1]["columns"],
        serde_json::json!(["amount", "flag", "n"])
    );
    assert_eq!(copy.view(), world.view().await);
    let (row, withheld) = copy.rows.values().next().unwrap();
    assert_eq!(row["name"], "two");
    assert_eq!(withheld, &["n", "amount", "flag"]);

    world.pass_days(200);
    follow(&world, &mut copy, PageLimits::default()).await;
    assert!(copy.rows.is_empty(), "the grant has run out");
    assert_eq!(copy.notices.last().unwrap()["reason"], "expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_acknowledge_repeat_and_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[
            Record::plain(1, 1, "one"),
            Record::plain(2, 1, "two"),
            Record::plain(3, 1, "three"),
        ])
        .await;
    for n in 1..=3 {
        world.grant(n, &ALL, None, day(90), Action::Stream).await;
    }
    let one = PageLimits {
        events: 1,
        ..PageLimits::default()
    };
    let (first, page, _) = pull(&world, None, one).await.unwrap();
    let (again, same, _) = pull(&world, None, one).await.unwrap();
    assert_eq!((first.page, again.page, &page), (Some(1), Some(1), &same));
    let (second, _, _) = pull(&world, Some(&first.next), one).await.unwrap();
    assert_eq!(second.page, Some(2));
    let code = async |cursor: Option<&str>| pull(&world, cursor, one).await.unwrap_err().code();
    assert_eq!(code(None).await, "CursorRequired");
    assert_eq!(code(Some("nonsense")).await, "CursorInvalid");
    let (third, _, _) = pull(&world, Some(&second.next), one).await.unwrap();
    assert_eq!(code(Some(&first.next)).await, "CursorOutdated");
    // Another subscription's cursor.
    let about = (
        "bank".parse().unwrap(),
        "filings".parse().unwrap(),
        "watch.risk".parse().unwrap(),
    );
    let ended = &world.subscription.subscription_id;
    world.ledger.end_subscription(ended).await.unwrap();
    assert_eq!(code(Some(&third.next)).await, "UnknownSubscription");
    let other = world
        .ledger
        .add_subscription(&world.catalog, about, Delivery::Pull, "test")
        .await
        .unwrap();
    let request = PullRequest {
        subscription: other.subscription_id,
        cursor: Some(third.next),
        ..PullRequest::default()
    };
    let error = world
        .topics
        .pull(&request, &mut Vec::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "CursorForeign");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_erasure_or_a_restart_everything_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[Record::plain(1, 1, "one"), Record::plain(2, 1, "two")])
        .await;
    for n in 1..=2 {
        world.grant(n, &ALL, None, day(90), Action::Stream).await;
    }
    let mut copy = Copy::default();
    follow(&world, &mut copy, PageLimits::default()).await;
    assert_eq!(copy.rows.len(), 2);
    let erased = [world.number(1)].into_iter().collect();
    world
        .warehouse
        .erase(&world.dataset(), &erased)
        .await
        .unwrap();
    let limits = PageLimits::default();
    let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
    assert_eq!(page["events"][0]["type"], "qihui.topic.reset.v1");
    copy.apply(&page, true);
    copy.cursor = Some(pulled.next);
    assert_eq!(copy.view(), world.view().await);
    assert_eq!(copy.rows.len(), 1);
    let request = PullRequest {
        subscription: world.subscription.subscription_id.clone(),
        restart: true,
        ..PullRequest::default()
    };
    let mut out = Vec::new();
    world.topics.pull(&request, &mut out).await.unwrap();
    let page: Value = serde_json::from_slice(&out).unwrap();
    let old = copy.cursor.take();
    assert_eq!(page["events"][0]["type"], "qihui.topic.reset.v1");
    assert_eq!(page["events"].as_array().unwrap().len(), 2);
    let error = pull(&world, old.as_deref(), limits).await.unwrap_err();
    assert_eq!(error.code(), "CursorOutdated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_what_was_withdrawn_while_its_page_was_made_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[Record::plain(1, 1, "one"), Record::plain(2, 1, "two")])
        .await;
    let consent = world.grant(1, &ALL, None, day(90), Action::Stream).await;
    world.grant(2, &ALL, None, day(90), Action::Stream).await;
    let withdrawal = world.sign(1, &consent, Operation::Withdraw, None);
    let (pulled, page) = pull_while(&world, None, withdrawal.boxed()).await.unwrap();
    // Nothing says that there ever were rows of the first: not for it, and not for the subscriber.
    assert_eq!(kinds(&page), ["record.upserted.v1"]);
    assert_eq!(page["events"][0]["subject"], uscc(2).as_str());
    let mut copy = Copy {
        cursor: Some(pulled.next),
        ..Copy::default()
    };
    copy.apply(&page, true);
    follow(&world, &mut copy, PageLimits::default()).await;
    assert_eq!(copy.view(), world.view().await);
    assert!(copy.notices.is_empty());
    for index in 0..world.log.size() {
        let entry = world.log.read(index).unwrap();
        let of_first = entry.leaf.kind == "access.finished"
            && String::from_utf8(entry.body)
                .unwrap()
                .contains(&format!("\"{}\":", world.number(1)));
        assert!(!of_first, "an access to what never left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_page_that_takes_longer_than_its_grants_are_certain_to_hold_does_not_leave() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world.land(&[Record::plain(1, 1, "one")]).await;
    world.grant(1, &ALL, None, day(90), Action::Stream).await;
    let late = async { world.pass_ms(60_000) };
    let error = pull_while(&world, None, late.boxed()).await.unwrap_err();
    assert_eq!(error.code(), "TimedOut");
    let (pulled, _, _) = pull(&world, None, PageLimits::default()).await.unwrap();
    assert_eq!((pulled.page, pulled.events), (Some(1), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_a_page_that_could_not_leave_is_not_under_way_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world.land(&[Record::plain(1, 1, "one")]).await;
    let consent = world.grant(1, &ALL, None, day(90), Action::Stream).await;
    // Killed while the page waits for room: it was recorded, and cannot have left.
    let forever = futures::future::pending().boxed();
    let page = pull_while(&world, None, forever);
    let killed = tokio::time::timeout(std::time::Duration::from_secs(2), page).await;
    assert!(killed.is_err());
    world.restart();
    world.sign(1, &consent, Operation::Withdraw, None).await;
    let (pulled, page, _) = pull(&world, None, PageLimits::default()).await.unwrap();
    assert_eq!((pulled.page, pulled.events), (None, 0), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_4_ending_a_subscription_stops_the_page_that_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world.land(&[Record::plain(1, 1, "one")]).await;
    world.grant(1, &ALL, None, day(90), Action::Stream).await;
    let id = world.subscription.subscription_id.clone();
    let mut out = Meanwhile {
        event: Some(
            world
                .ledger
                .end_subscription(&id)
                .map(|ended| assert!(ended.unwrap().ended))
                .boxed(),
        ),
        bytes: Vec::new(),
    };
    let request = PullRequest {
        subscription: id.clone(),
        ..PullRequest::default()
    };
    let error = world.topics.pull(&request, &mut out).await.unwrap_err();
    assert_eq!(error.code(), "UnknownSubscription");
    assert!(out.bytes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_acknowledges_the_version_of_the_page_that_gave_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[Record::plain(1, 1, "one"), Record::plain(2, 1, "two")])
        .await;
    let consent = world.grant(1, &ALL, None, day(90), Action::Stream).await;
    world.grant(2, &ALL, None, day(90), Action::Stream).await;
    let limits = PageLimits::default();
    // The first version of the page arrives; a second is made after a withdrawal, and is lost.
    let (first, page, _) = pull(&world, None, limits).await.unwrap();
    let mut copy = Copy::default();
    copy.apply(&page, true);
    assert_eq!(copy.rows.len(), 2);
    world.sign(1, &consent, Operation::Withdraw, None).await;
    let (lost, _, _) = pull(&world, None, limits).await.unwrap();
    assert_eq!(lost.page, first.page);
    assert_ne!(lost.next, first.next);
    // Who holds the first asks on, and is brought what took the place of it.
    copy.cursor = Some(first.next.clone());
    copy.uncertain = true;
    let (again, page, _) = pull(&world, Some(&first.next), limits).await.unwrap();
    assert_eq!((again.page, &again.next), (lost.page, &lost.next));
    copy.apply(&page, false);
    assert_eq!(copy.view(), world.view().await);
    let (done, _, _) = pull(&world, Some(&again.next), limits).await.unwrap();
    assert_eq!(done.page, None);
    // Once the second was acknowledged, who still holds only the first has to begin again.
    let error = pull(&world, Some(&first.next), limits).await.unwrap_err();
    assert_eq!(error.code(), "CursorOutdated");
    assert!(matches!(error, TopicError::CursorReplaced { page: 1 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_of_the_topic_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world.land(&[Record::plain(1, 1, "one")]).await;
    world.grant(1, &ALL, None, day(90), Action::Stream).await;
    let mut copy = Copy::default();
    follow(&world, &mut copy, PageLimits::default()).await;
    assert!(copy.rows.values().all(|(row, _)| row.contains_key("name")));
    for restarted in [false, true] {
        let columns: &[&str] = if restarted {
            &["uscc", "id", "name"]
        } else {
            &["uscc", "id", "n"]
        };
        world.replace_topic(columns).await;
        if restarted {
            world.restart();
        }
        let error = pull(&world, copy.cursor.as_deref(), PageLimits::default()).await;
        assert_eq!(error.unwrap_err().code(), "CursorOutdated");
        copy.cursor = None;
        let (pulled, page, _) = pull(&world, None, PageLimits::default()).await.unwrap();
        assert_eq!(kinds(&page), ["topic.reset.v1", "record.upserted.v1"]);
        copy.apply(&page, false);
        copy.cursor = Some(pulled.next);
        follow(&world, &mut copy, PageLimits::default()).await;
        assert_eq!(copy.view(), world.view().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_progress_or_scope_begins_one_subscription_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world.land(&[Record::plain(1, 1, "one")]).await;
    world.grant(1, &ALL, None, day(90), Action::Stream).await;
    let mut copy = Copy::default();
    follow(&world, &mut copy, PageLimits::default()).await;
    let topics = world.folder.join("topics");
    for scope in std::fs::read_dir(topics.join("scopes")).unwrap() {
        std::fs::write(scope.unwrap().path(), b"qihui scope 1\n{}\n").unwrap();
    }
    world.restart();
    world.grant(2, &ALL, None, day(90), Action::Stream).await;
    let limits = PageLimits::default();
    let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
    assert_eq!(kinds(&page), ["topic.reset.v1", "record.upserted.v1"]);
    copy.apply(&page, false);
    copy.cursor = Some(pulled.next);
    follow(&world, &mut copy, limits).await;

    let id = world.subscription.subscription_id.clone();
    std::fs::write(topics.join(format!("{id}.json")), b"{").unwrap();
    world.restart();
    let error = pull(&world, copy.cursor.as_deref(), limits).await;
    assert_eq!(error.unwrap_err().code(), "CursorOutdated");
    let (_, page, _) = pull(&world, None, limits).await.unwrap();
    assert_eq!(kinds(&page), ["topic.reset.v1", "record.upserted.v1"]);
    assert!(topics.join(format!("{id}.damaged")).exists());
}

/// Notices of a page, as (subject or none, reason, consent).
fn notices(page: &Value) -> Vec<(Option<String>, String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "qihui.authorisation.ended.v1")
        .map(|event| {
            let data = &event["data"];
            let reason = text(&data["reason"]).unwrap();
            (text(&event["subject"]), reason, text(&data["consent_id"]))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_names_what_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[Record::plain(1, 1, "one"), Record::plain(2, 1, "two")])
        .await;
    let to_ask = world.grant(2, &ALL, None, day(60), Action::Query).await;
    let streamed = world.grant(2, &ALL, None, day(90), Action::Stream).await;
    let last = world.grant(1, &ALL, None, day(40), Action::Stream).await;
    let later = world.grant(2, &ALL, None, day(90), Action::Query).await;
    let mut copy = Copy::default();
    let limits = PageLimits::default();
    follow(&world, &mut copy, limits).await;
    // What is left out because it ends within the time of the page has expired, and was not narrowed.
    let ends = "2026-02-10".parse::<qihui_catalog::Timestamp>().unwrap();
    world.pass_ms(ends.0 - world.gate.time().0 - 30_000);
    let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
    let about = |n: u32, reason: &str, consent: &ConsentId| {
        vec![(
            Some(uscc(n).to_string()),
            reason.to_owned(),
            Some(consent.to_string()),
        )]
    };
    assert_eq!(notices(&page), about(1, "expired", &last));
    copy.apply(&page, true);
    copy.cursor = Some(pulled.next);
    // Of several consents the one under which rows were brought.
    world.sign(2, &streamed, Operation::Withdraw, None).await;
    world.sign(2, &to_ask, Operation::Pause, None).await;
    world.sign(2, &later, Operation::Withdraw, None).await;
    let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
    assert_eq!(notices(&page), about(2, "withdrawn", &streamed));
    copy.apply(&page, true);
    copy.cursor = Some(pulled.next);
    // And of those that came after each other, the one that ended last.
    let again = world.grant(2, &ALL, None, day(90), Action::Stream).await;
    follow(&world, &mut copy, limits).await;
    world.sign(2, &again, Operation::Pause, None).await;
    let (_, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
    assert_eq!(notices(&page), about(2, "paused", &again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agreements_that_open_more_say_nothing_and_those_that_open_less_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world
        .land(&[Record::plain(1, 1, "one"), Record::plain(2, 1, "two")])
        .await;
    let consent = world.grant(1, &ALL, None, day(90), Action::Stream).await;
    let mut copy = Copy::default();
    let limits = PageLimits::default();
    follow(&world, &mut copy, limits).await;
    assert_eq!(copy.rows.len(), 1);
    world.agree_on("a-law", &ALL, true).await;
    follow(&world, &mut copy, limits).await;
    assert_eq!((copy.rows.len(), copy.notices.len()), (2, 0));
    // A consent that ends takes nothing away from what a law opens.
    world.sign(1, &consent, Operation::Pause, None).await;
    follow(&world, &mut copy, limits).await;
    assert_eq!((copy.rows.len(), copy.notices.len()), (2, 0));
    world.sign(1, &consent, Operation::Resume, None).await;
    let law = "a-law".into();
    world.ledger.revoke_agreement(&law, "test").await.unwrap();
    world.drain().await;
    let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
    assert_eq!(notices(&page), [(None, "agreement".to_owned(), None)]);
    copy.apply(&page, true);
    copy.cursor = Some(pulled.next);
    follow(&world, &mut copy, limits).await;
    assert_eq!(copy.view(), world.view().await);
    assert_eq!(copy.rows.len(), 1, "what is granted stays");
    let columns = copy.notices[0]["columns"].as_array().unwrap();
    assert_eq!(columns.len(), 7, "{columns:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_come_to_an_end_while_other_things_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    let records: Vec<Record> = (1..=6).map(|no| Record::plain(no, 1, "one")).collect();
    world.land(&records).await;
    let mut consents = Vec::new();
    for no in 1..=6 {
        consents.push(world.grant(no, &ALL, None, day(90), Action::Stream).await);
    }
    let mut copy = Copy::default();
    follow(&world, &mut copy, PageLimits::default()).await;
    for no in 1..=5 {
        let consent = &consents[no as usize - 1];
        world.sign(no, consent, Operation::Withdraw, None).await;
    }
    let limits = PageLimits {
        notices: 2,
        ..PageLimits::default()
    };
    for turn in 0..8 {
        // Rows change, and grants: of one that was told already, and of another.
        world.land(&[Record::plain(6, turn, "again")]).await;
        world
            .grant(
                7,
                &["uscc", "id"],
                None,
                day(50 + u64::from(turn)),
                Action::Stream,
            )
            .await;
        let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
        copy.apply(&page, true);
        copy.cursor = Some(pulled.next);
        if turn == 1 {
            let again = world.grant(1, &ALL, None, day(90), Action::Stream).await;
            let (pulled, page, _) = pull(&world, copy.cursor.as_deref(), limits).await.unwrap();
            copy.apply(&page, true);
            copy.cursor = Some(pulled.next);
            world.sign(1, &again, Operation::Withdraw, None).await;
        }
    }
    let mut told: Vec<&str> = copy
        .notices
        .iter()
        .map(|notice| notice["uscc"].as_str().unwrap())
        .collect();
    told.sort_unstable();
    let codes: Vec<_> = [1, 1, 2, 3, 4, 5].into_iter().map(uscc).collect();
    let mut expected: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(
        told, expected,
        "each once, and the one that granted again twice"
    );
    follow(&world, &mut copy, PageLimits::default()).await;
    assert_eq!(copy.view(), world.view().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_page_that_may_have_arrived_is_followed_by_its_notice() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().to_owned(), Look::PLAIN, &ALL, Delivery::Pull).await;
    world.land(&[Record::plain(1, 1, "one")]).await;
    let consent = world.grant(1, &ALL, None, day(90), Action::Stream).await;
    let limits = PageLimits::default();
    pull(&world, None, limits).await.unwrap();
    world.sign(1, &consent, Operation::Withdraw, None).await;
    let (_, page, _) = pull(&world, None, limits).await.unwrap();
    assert_eq!(
        kinds(&page),
        ["authorisation.ended.v1", "record.deleted.v1"]
    );
}

/// Two hubs whose subscribers may see the same, and whose hidden rows have nothing to do with each other.
async fn twins(folder: &std::path::Path, seed: u64) -> [World; 2] {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut worlds = Vec::new();
    let shown: Vec<Record> = (0..rng.random_range(5..25))
        .map(|id| {
            let mut record = record(&mut rng, true);
            (record.no, record.id) = (rng.random_range(1..6), id);
            (record.day, record.until) = (Some(day(rng.random_range(0..20))), None);
            record.retract = false;
            record
        })
        .collect();
    let granted: Vec<u32> = (1..6).filter(|_| rng.random_bool(0.8)).collect();
    let ranges: Vec<_> = granted.iter().map(|_| rng.random_bool(0.3)).collect();
    for hidden in [0, rng.random_range(1..400)] {
        let folder = folder.join(format!("{hidden}"));
        let mut world = World::new(folder, Look::PLAIN, &ALL, Delivery::Pull).await;
        let mut records = shown.clone();
        records.extend((0..hidden).map(|id| {
            // Of who grants nothing, or of dates that nobody grants.
            let no = *[ENTERPRISES, rng.random_range(1..=ENTERPRISES)]
                .choose(&mut rng)
                .unwrap();
            let mut record = Record::plain(no, 1000 + id, "SECRET");
            record.day = Some(day(300));
            record
        }));
        world.land(&records).await;
        for (no, short) in granted.iter().zip(&ranges) {
            let to = if *short { day(10) } else { day(100) };
            world
                .grant(*no, &ALL, Some((day(0), to)), day(90), Action::Stream)
                .await;
        }
        worlds.push(world);
    }
    worlds.try_into().ok().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_pages_do_not_depend_on_hidden_rows() {
    let mut pages = 0;
    for seed in seeds(6) {
        let dir = tempfile::tempdir().unwrap();
        let mut worlds = twins(dir.path(), seed).await;
        for turn in 0..3_u32 {
            let limits = PageLimits {
                events: [1, 3, 4][turn as usize],
                ..PageLimits::default()
            };
            let mut seen = Vec::new();
            for world in &worlds {
                let mut told = Vec::new();
                let mut cursor = std::fs::read_to_string(world.folder.join("cursor")).ok();
                loop {
                    let (pulled, page, _) = pull(world, cursor.as_deref(), limits).await.unwrap();
                    let events: Vec<(String, Value)> = page["events"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|event| (event["type"].to_string(), event["data"].clone()))
                        .collect();
                    told.push((pulled.page, events));
                    cursor = Some(pulled.next);
                    if !pulled.more {
                        break;
                    }
                }
                std::fs::write(world.folder.join("cursor"), cursor.unwrap()).unwrap();
                seen.push(told);
            }
            assert_eq!(seen[0], seen[1], "seed {seed}, turn {turn}");
            pages += seen[0].len();
            for (world, hidden) in worlds.iter_mut().zip([0, turn]) {
                let mut records: Vec<Record> = (1..6)
                    .map(|no| Record::plain(no, 500 + turn, "later"))
                    .collect();
                records.extend((0..hidden * 50).map(|id| {
                    let mut record = Record::plain(1 + id % 6, 2000 + id, "SECRET");
                    record.day = Some(day(300));
                    record
                }));
                world.land(&records).await;
            }
        }
    }
    assert!(
        pages > 20 || seeds(6).len() < 6,
        "hardly anything was brought"
    );
}
