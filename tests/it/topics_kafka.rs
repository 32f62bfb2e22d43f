//! Topics by Kafka, to a real broker: a reader of committed messages sees each change once, whatever is killed when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use qihui_catalog::{Action, Coded};
use qihui_consent::ledger::Delivery;
use qihui_consent::signing::Operation;
use qihui_pipelines::topics::Topics;
use qihui_pipelines::topics::error::TopicError;
use qihui_pipelines::topics::kafka::{
    Delivered, KafkaSettings, PROGRESS_TOPIC, Received, Until, produce_plain, read_committed,
    topic_name,
};
use qihui_pipelines::topics::page::PageLimits;
use serde_json::{Map, Value};

use crate::topic_world::{Look, Record, World, day, uscc};

const ALL: [&str; 7] = ["uscc", "id", "name", "n", "amount", "flag", "day"];

/// A broker on loopback, stopped when the test ends.
struct Broker {
    folder: PathBuf,
    address: String,
}

fn script(command: &str, folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let output = Command::new("bash")
        .arg(script)
        .arg(command)
        .arg(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "kafka {command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Broker {
    fn start(folder: &Path) -> Self {
        Self {
            address: script("start", folder),
            folder: folder.to_owned(),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            script("kill", &self.folder);
        } else {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
            let _ = Command::new("bash")
                .arg(script)
                .arg("kill")
                .arg(&self.folder)
                .output();
        }
    }
}

/// What a reader holds that applies each message as documented, partition after partition: a reset is about what was read
/// of its own.
fn held(received: &[Received]) -> BTreeMap<String, Map<String, Value>> {
    let mut rows: BTreeMap<String, (i32, Map<String, Value>)> = BTreeMap::new();
    for message in received {
        let data: Value = serde_json::from_slice(&message.value).unwrap();
        let key = || data["key"]["id"].as_str().unwrap().to_owned();
        let headers = &message.headers;
        assert_eq!(headers["ce_specversion"], "1.0");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers.get("ce_subject"), message.key.as_ref());
        match headers["ce_type"].as_str() {
            "qihui.record.upserted.v1" => {
                let mut row = data["row"].as_object().unwrap().clone();
                row.retain(|_, value| !value.is_null());
                assert_eq!(row["uscc"].as_str(), message.key.as_deref());
                rows.insert(key(), (message.partition, row));
            }
            "qihui.record.deleted.v1" => {
                rows.remove(&key())
                    .expect("only what was brought is deleted");
            }
            "qihui.topic.reset.v1" => {
                assert_eq!(data["partition"], message.partition);
                rows.retain(|_, (partition, _)| *partition != message.partition);
            }
            _ => {}
        }
    }
    rows.into_iter().map(|(key, (_, row))| (key, row)).collect()
}

/// How many messages of a kind there are.
fn count(received: &[Received], kind: &str) -> usize {
    let kind = format!("qihui.{kind}");
    let of_kind = |message: &&Received| message.headers["ce_type"] == kind;
    received.iter().filter(of_kind).count()
}

/// Ids are unique: nothing was brought twice.
fn assert_once(received: &[Received]) {
    let mut ids: Vec<&String> = received
        .iter()
        .map(|message| &message.headers["ce_id"])
        .collect();
    ids.sort();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "an event was committed twice");
}

fn progress_file(world: &World) -> PathBuf {
    let id = &world.subscription.subscription_id;
    world.folder.join(format!("topics/{id}.json"))
}

/// A delivery whose page is recorded and noted, and waits for the release lock: what is on disk, the delivery, the lock.
async fn under_way(
    world: &World,
    settings: &KafkaSettings,
) -> (
    Vec<u8>,
    tokio::task::JoinHandle<Result<Delivered, TopicError>>,
    tokio::sync::OwnedRwLockWriteGuard<()>,
) {
    let lock = world.ledger.losses().release_lock().write_owned().await;
    let gate = std::sync::Arc::clone(&world.gate);
    let topics = world.topics.acting_as(gate, "local:test");
    let (settings, id) = (settings.clone(), world.subscription.subscription_id.clone());
    let entries = world.log.size();
    let deliver = async move { topics.deliver(&settings, &id, Until::UpToDate).await };
    let work = tokio::spawn(deliver);
    loop {
        let noted = std::fs::read(progress_file(world)).unwrap();
        if String::from_utf8_lossy(&noted).contains("\"pending\":{") && world.log.size() > entries {
            return (noted, work, lock);
        }
        assert!(!work.is_finished(), "nothing was delivered");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_reader_sees_each_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&dir.path().join("kafka"));
    let mut settings = KafkaSettings::new(&broker.address);
    settings.limits = PageLimits {
        events: 2,
        ..PageLimits::default()
    };
    let hub = dir.path().join("hub");
    let mut world = World::new(hub, Look::PLAIN, &ALL, Delivery::Kafka).await;
    let id = world.subscription.subscription_id.clone();
    let topic = topic_name("bank", "filings");
    let records: Vec<Record> = (1..=5)
        .flat_map(|no| (1..=2).map(move |id| Record::plain(no, id, "first")))
        .collect();
    world.land(&records).await;
    let mut grants = Vec::new();
    for no in 1..=5 {
        grants.push(world.grant(no, &ALL, None, day(90), Action::Stream).await);
    }
    let delivered = world
        .topics
        .deliver(&settings, &id, Until::UpToDate)
        .await
        .unwrap();
    // One page is the reset with the first enterprise.
    assert_eq!((delivered.pages, delivered.events), (5, 11));
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!(held(&received), world.view().await);
    assert_eq!(count(&received, "topic.reset.v1"), 3, "one per partition");
    assert_eq!(received.len(), 3 + 10);

    // Killed after the page was recorded and noted, before it left: it is made anew.
    world.land(&[Record::plain(1, 1, "second")]).await;
    let (_, work, lock) = under_way(&world, &settings).await;
    work.abort();
    assert!(work.await.is_err());
    drop(lock);
    world.restart();
    let deliver = world.topics.deliver(&settings, &id, Until::UpToDate);
    assert_eq!(deliver.await.unwrap().pages, 1);
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!((received.len(), held(&received)), (14, world.view().await));

    // What no waiting heals is said at once, even to a delivery that follows.
    let mut wrong = settings.clone();
    wrong
        .client
        .insert("security.protocol".to_owned(), "x".to_owned());
    let (_tell, told) = tokio::sync::watch::channel(false);
    let error = world.topics.deliver(&wrong, &id, Until::Told(told)).await;
    assert_eq!(error.unwrap_err().code(), "KafkaBadSettings");

    // Killed after a commit, before it was noted: what is on disk says less than the broker.
    world.land(&[Record::plain(1, 1, "third")]).await;
    let (noted, work, lock) = under_way(&world, &settings).await;
    drop(lock);
    assert_eq!(work.await.unwrap().unwrap().pages, 1);
    std::fs::write(progress_file(&world), &noted).unwrap();
    world.restart();
    let deliver = world.topics.deliver(&settings, &id, Until::UpToDate);
    let again = deliver.await.unwrap();
    assert_eq!(again.pages, 0, "the broker knows that it arrived");
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!((received.len(), held(&received)), (15, world.view().await));
    assert_once(&received);

    // The broker goes, things change, it comes back.
    script("kill", &broker.folder);
    world
        .land(&[Record::plain(2, 1, "while it was gone")])
        .await;
    world.sign(3, &grants[2], Operation::Withdraw, None).await;
    let error = world
        .topics
        .deliver(&settings, &id, Until::UpToDate)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "BrokerUnavailable");
    let address = script("start", &broker.folder);
    assert_eq!(address, broker.address);
    // A broker that has just come back may take longer for a transaction than a page is given.
    let begun = std::time::Instant::now();
    while let Err(error) = world.topics.deliver(&settings, &id, Until::UpToDate).await {
        assert_eq!(error.code(), "BrokerUnavailable");
        assert!(begun.elapsed().as_secs() < 60, "{error}");
    }
    let received = read_committed(&settings, &topic).unwrap();
    assert_once(&received);
    assert_eq!(held(&received), world.view().await);
    let notice = received
        .iter()
        .find(|message| message.headers["ce_type"] == "qihui.authorisation.ended.v1")
        .expect("a notice");
    assert_eq!(notice.key.as_deref(), Some(uscc(3).as_str()));
    assert_eq!(
        received.len(),
        15 + 1 + 1 + 2,
        "one change, one notice, two deletions"
    );
}

/// A delivery that follows, until it is told to end.
struct Follower {
    tell: tokio::sync::watch::Sender<bool>,
    work: tokio::task::JoinHandle<Result<Delivered, TopicError>>,
}

impl Follower {
    fn start(topics: Topics, settings: &KafkaSettings, id: &str) -> Self {
        let (tell, told) = tokio::sync::watch::channel(false);
        let (settings, id) = (settings.clone(), id.to_owned());
        let work = async move { topics.deliver(&settings, &id, Until::Told(told)).await };
        Self {
            tell,
            work: tokio::spawn(work),
        }
    }

    async fn stop(self) -> Result<Delivered, TopicError> {
        self.tell.send(true).unwrap();
        self.work.await.unwrap()
    }
}

/// Reads until what is held is what may be seen.
async fn arrives(world: &World, settings: &KafkaSettings, topic: &str) -> Vec<Received> {
    for _ in 0..240 {
        if let Ok(received) = read_committed(settings, topic)
            && held(&received) == world.view().await
        {
            return received;
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    panic!("it never arrives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_lives_through_what_happens_and_a_successor_begins_with_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&dir.path().join("kafka"));
    let settings = KafkaSettings::new(&broker.address);
    let mut world = World::new(dir.path().join("hub"), Look::PLAIN, &ALL, Delivery::Kafka).await;
    let first = world.subscription.subscription_id.clone();
    let topic = topic_name("bank", "filings");
    let own = |world: &World| {
        let gate = std::sync::Arc::clone(&world.gate);
        world.topics.acting_as(gate, "local:test")
    };
    let records: Vec<Record> = (1..=4).map(|no| Record::plain(no, 1, "first")).collect();
    world.land(&records).await;
    for no in 1..=4 {
        world.grant(no, &ALL, None, day(90), Action::Stream).await;
    }
    let follower = Follower::start(own(&world), &settings, &first);
    arrives(&world, &settings, &topic).await;
    // Grants come and go while pages are made.
    for turn in 0..12 {
        let consent = world.grant(5, &ALL, None, day(90), Action::Stream).await;
        world
            .land(&[Record::plain(5, 1, "x"), Record::plain(1, 2 + turn, "x")])
            .await;
        world.sign(5, &consent, Operation::Withdraw, None).await;
    }
    let received = arrives(&world, &settings, &topic).await;
    assert_once(&received);
    assert!(!follower.work.is_finished());

    // It leaves with a reset when its subscription ends; a successor begins with one.
    world.ledger.end_subscription(&first).await.unwrap();
    let ended = follower.work.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), "UnknownSubscription");
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!(count(&received, "topic.reset.v1"), 3 + 3);
    assert!(held(&received).is_empty(), "its readers hold nothing");
    let about = (
        "bank".parse().unwrap(),
        "filings".parse().unwrap(),
        "watch.risk".parse().unwrap(),
    );
    let added = world
        .ledger
        .add_subscription(&world.catalog, about, Delivery::Kafka, "test");
    let second = added.await.unwrap().subscription_id;
    let follower = Follower::start(own(&world), &settings, &second);
    let received = arrives(&world, &settings, &topic).await;
    assert_eq!(count(&received, "topic.reset.v1"), 3 + 3 + 3);
    assert_once(&received);

    // Another process takes over, and this one stops.
    let folder = world.folder.join("topics");
    let gate = std::sync::Arc::clone(&world.gate);
    let other = Topics::open(gate, &folder, "local:other").unwrap();
    other
        .deliver(&settings, &second, Until::UpToDate)
        .await
        .unwrap();
    world.land(&[Record::plain(2, 9, "after")]).await;
    let fenced = follower.work.await.unwrap().unwrap_err();
    assert_eq!(fenced.code(), "DeliveryTakenOver");
    other
        .deliver(&settings, &second, Until::UpToDate)
        .await
        .unwrap();
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!(held(&received), world.view().await);
    assert_once(&received);

    // Somebody writes into the topic of the seals: everything comes again, and stays right.
    let forged = Received {
        partition: 0,
        key: Some(second.clone()),
        headers: BTreeMap::new(),
        value: format!(r#"{{"subscription":"{second}","page":7,"seal":"00"}}"#).into_bytes(),
    };
    produce_plain(&settings, PROGRESS_TOPIC, &[forged]).unwrap();
    other
        .deliver(&settings, &second, Until::UpToDate)
        .await
        .unwrap();
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!(count(&received, "topic.reset.v1"), 3 + 3 + 3 + 3);
    assert_eq!(held(&received), world.view().await);

    // A broker that lost everything is brought everything, after a reset.
    drop(broker);
    let empty = Broker::start(&dir.path().join("empty"));
    let settings = KafkaSettings::new(&empty.address);
    let follower = Follower::start(other, &settings, &second);
    let received = arrives(&world, &settings, &topic).await;
    assert_eq!(count(&received, "topic.reset.v1"), 3);
    follower.stop().await.unwrap();
}
