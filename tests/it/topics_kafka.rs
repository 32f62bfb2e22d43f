//! Topics by Kafka, to a real broker: a reader of committed messages sees each change once, whatever is killed when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use qihui_catalog::{Action, Coded};
use qihui_consent::ledger::Delivery;
use qihui_consent::signing::Operation;
use qihui_pipelines::topics::kafka::{KafkaSettings, Received, Until, read_committed, topic_name};
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

/// What a reader holds that applies each message; messages of one enterprise are in order.
fn held(received: &[Received]) -> BTreeMap<String, Map<String, Value>> {
    let mut rows = BTreeMap::new();
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
                rows.insert(key(), row);
            }
            "qihui.record.deleted.v1" => {
                rows.remove(&key())
                    .expect("only what was brought is deleted");
            }
            _ => {}
        }
    }
    rows
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
    assert_eq!((delivered.pages, delivered.events), (5, 10));
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!(held(&received), world.view().await);
    assert_eq!(received.len(), 10);

    // What no waiting heals is said at once, even to a delivery that follows.
    let mut wrong = settings.clone();
    wrong
        .client
        .insert("security.protocol".to_owned(), "x".to_owned());
    let (_tell, told) = tokio::sync::watch::channel(false);
    let error = world.topics.deliver(&wrong, &id, Until::Told(told)).await;
    assert_eq!(error.unwrap_err().code(), "KafkaBadSettings");

    // Killed after a commit, before it was noted: what is on disk says less than the broker.
    let file = world.folder.join(format!("topics/{id}.json"));
    world.land(&[Record::plain(1, 1, "second")]).await;
    let before = std::fs::read(&file).unwrap();
    world
        .topics
        .deliver(&settings, &id, Until::UpToDate)
        .await
        .unwrap();
    std::fs::write(&file, &before).unwrap();
    world.restart();
    let again = world
        .topics
        .deliver(&settings, &id, Until::UpToDate)
        .await
        .unwrap();
    assert_eq!(again.pages, 0, "the broker knows that it arrived");
    let received = read_committed(&settings, &topic).unwrap();
    assert_eq!((received.len(), held(&received)), (11, world.view().await));

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
    world
        .topics
        .deliver(&settings, &id, Until::UpToDate)
        .await
        .unwrap();
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
        11 + 1 + 1 + 2,
        "one change, one notice, two deletions"
    );
}
