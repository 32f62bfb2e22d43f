//! Deliveries by Kafka that the service runs, to a real broker: begun and ended with their subscriptions, each change once
//! whatever is killed when, and soon.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use qihui_pipelines::topics::kafka::{KafkaSettings, Received, read_committed, topic_name};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use serde_json::{Value, json};

use super::shared::{SOON, Service, forwarded};
use super::subscriptions::{Declaration, declare, topic, write_declarations};
use crate::broker::Broker;
use crate::support::Lab;

/// How often the service is killed.
const KILLS: u32 = 8;
const ENTERPRISES: usize = 12;

/// A topic by this name of the declarations, brought to the tax bureau, which sees all of them by law; the subscription.
fn subscribe(lab: &Lab, name: &str) -> String {
    let file = lab.write("topic.yaml", topic(name, "uscc, pzxh, xse"));
    lab.run(&["topic", "add", &file]).done();
    let words = [
        "subscription",
        "add",
        "--org",
        "tax_bureau",
        "--topic",
        name,
        "--purpose",
        "supervision.tax",
        "--delivery",
        "kafka",
    ];
    let made = lab.json(&words).done().json();
    let id = made["subscription"]["subscription_id"].as_str();
    id.unwrap().to_owned()
}

fn start(lab: &Lab, brokers: &str, more: &[(&str, &str)]) -> Service {
    let environment = [&[("KAFKA__BROKERS", brokers)], more].concat();
    Service::start_with(lab, &environment)
}

/// The sales of every declaration that the tax bureau may see, by key.
fn view(lab: &Lab) -> BTreeMap<String, Value> {
    let rows = lab.tax("SELECT pzxh, xse FROM vat_declaration").done();
    let rows = rows.json()["rows"].clone();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["pzxh"].as_str().unwrap().to_owned(), row["xse"].clone()))
        .collect()
}

/// What somebody holds who applied every message; each has to change something, and comes once. A reset is about what was
/// read of its partition.
fn held(received: &[Received]) -> BTreeMap<String, Value> {
    let mut rows: BTreeMap<String, (i32, Value)> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for message in received {
        let data: Value = serde_json::from_slice(&message.value).unwrap();
        assert!(
            ids.insert(message.headers["ce_id"].clone()),
            "an event was committed twice"
        );
        let key = || data["key"]["pzxh"].as_str().unwrap().to_owned();
        match message.headers["ce_type"].as_str() {
            "qihui.record.upserted.v1" => {
                let new = (message.partition, data["row"]["xse"].clone());
                let old = rows.insert(key(), new.clone());
                assert_ne!(old, Some(new), "an event that changes nothing");
            }
            "qihui.record.deleted.v1" => {
                rows.remove(&key()).expect("it was brought");
            }
            RESET => rows.retain(|_, (partition, _)| *partition != message.partition),
            other => panic!("{other}"),
        }
    }
    rows.into_iter()
        .map(|(key, (_, sales))| (key, sales))
        .collect()
}

const RESET: &str = "qihui.topic.reset.v1";

/// How many messages are about rows, and how many are resets.
fn kinds(received: &[Received]) -> (usize, usize) {
    let is_reset = |message: &&Received| message.headers["ce_type"] == RESET;
    let resets = received.iter().filter(is_reset).count();
    (received.len() - resets, resets)
}

/// Reads the topic again and again until it holds what may be seen.
fn until_up_to_date(lab: &Lab, settings: &KafkaSettings, topic: &str) -> Vec<Received> {
    let view = view(lab);
    let begun = Instant::now();
    loop {
        let received = read_committed(settings, topic).unwrap();
        if held(&received) == view {
            return received;
        }
        assert!(begun.elapsed() < SOON, "the topic does not become the view");
    }
}

fn figures(lab: &Lab, service: &Service) -> String {
    let operator = lab.token(&["--role", "operator"]);
    let figures = service.get("/metrics").with_bearer(&operator).send();
    String::from_utf8(figures.is(200).body.to_vec()).unwrap()
}

/// Waits until a figure about a subscription is so.
fn await_figure(lab: &Lab, service: &Service, name: &str, is: impl Fn(f64) -> bool) {
    let begun = Instant::now();
    loop {
        let text = figures(lab, service);
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        if value.is_some_and(&is) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{name}: {text}");
    }
}

/// A reader of committed messages of a topic, from its beginning.
fn reader(broker: &Broker, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &broker.address)
        .set("group.id", format!("reader-of-{topic}"))
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("topic.metadata.refresh.interval.ms", "500")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    consumer
}

/// Waits for a message about a key.
fn await_key(reader: &BaseConsumer, key: &str) -> Instant {
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        if let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) {
            let data: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            if data["key"]["pzxh"] == key {
                return Instant::now();
            }
        }
    }
    panic!("no message about what changed");
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn a_change_is_with_the_consumer_soon_and_deliveries_follow_their_subscriptions() {
    let broker = Broker::shared();
    let lab = Lab::world();
    let service = start(&lab, &broker.address, &[]);
    // Added while the service runs: it begins by itself.
    let id = subscribe(&lab, "soon");
    let name = topic_name("tax_bureau", "soon");
    let shown = forwarded(&lab, &["subscription", "show", &id]).json();
    assert_eq!(shown["kafka_topic"], name.as_str());
    let up_to_date = format!("qihui_topic_up_to_date_timestamp_seconds{{subscription=\"{id}\"}}");
    let waiting = format!("qihui_topic_waiting_for_broker{{subscription=\"{id}\"}}");
    await_figure(&lab, &service, &up_to_date, |at| at > 0.0);
    let settings = KafkaSettings::new(&broker.address);
    let (brought, resets) = kinds(&until_up_to_date(&lab, &settings, &name));
    assert!(
        brought > 0 && resets == 3,
        "it begins with a reset of every partition"
    );
    let reader = reader(broker, &name);
    let subject = lab.subject();
    let one = |number, version| Declaration {
        uscc: &subject,
        number,
        sales: 7,
        version,
    };
    let mut slowest = Duration::ZERO;
    for number in 1..=5 {
        declare(&lab, [one(number, 1)]);
        // The feed was acknowledged: its rows are in the table since before that.
        let landed = Instant::now();
        let took = await_key(&reader, &one(number, 1).key()).saturating_duration_since(landed);
        slowest = slowest.max(took);
    }
    println!("change to consumer: {slowest:?} at most");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let figure = format!("qihui_topic_events_total{{subscription=\"{id}\",delivery=\"kafka\"}}");
    await_figure(&lab, &service, &figure, |events| {
        // The reset is one event.
        (events - (1.0 + brought as f64 + 5.0)).abs() < 0.5
    });
    // A catalogue that comes in force is in force for deliveries: they begin anew, and go on where they were.
    let file = lab.write("topic.yaml", topic("beside", "uscc, pzxh"));
    forwarded(&lab, &["topic", "add", &file]);
    await_figure(&lab, &service, &waiting, |waits| waits > 0.5);
    declare(&lab, [one(7, 1)]);
    await_key(&reader, &one(7, 1).key());
    // One delivery at a time: the service's own.
    lab.json(&["subscription", "deliver", &id, "--once"]).fails(
        1,
        "NotWhileServing",
        &["subscription deliver"],
    );
    // Ended: nothing more comes, and what is brought to others goes on.
    forwarded(&lab, &["subscription", "end", &id]);
    await_figure(&lab, &service, "qihui_deliveries ", |running| running < 0.5);
    declare(&lab, [one(6, 1)]);
    let other = subscribe(&lab, "later");
    let later = topic_name("tax_bureau", "later");
    await_figure(&lab, &service, "qihui_deliveries ", |running| running > 0.5);
    until_up_to_date(&lab, &settings, &later);
    let received = read_committed(&settings, &name).unwrap();
    assert!(!held(&received).contains_key(&one(6, 1).key()));
    assert!(kinds(&received).0 == brought + 6 && other != id);
    let begun = Instant::now();
    service.tell();
    let (status, said) = service.ended();
    assert!(status.success(), "{said:?}");
    println!("ended {:?} after it was told", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10));
    lab.run(&["audit", "verify"]).done();
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn gate_3_a_service_killed_while_it_delivers_brings_each_change_once() {
    let broker = Broker::shared();
    let lab = Lab::world();
    let id = subscribe(&lab, "killed");
    let name = topic_name("tax_bureau", "killed");
    // Each run of a feed is many commits, and so many pages.
    let small = [("INGEST__CHUNK_ROWS", "2")];
    let enterprises: Vec<String> = lab
        .tax("SELECT DISTINCT uscc FROM vat_declaration ORDER BY uscc")
        .done()
        .json()["rows"]
        .as_array()
        .unwrap()
        .iter()
        .take(ENTERPRISES)
        .map(|row| row["uscc"].as_str().unwrap().to_owned())
        .collect();
    let version = |version: u32| {
        (0..).zip(&enterprises).flat_map(move |(place, uscc)| {
            (0..5).map(move |number| Declaration {
                uscc,
                number: place * 100 + number,
                sales: 1000 * version + number,
                version,
            })
        })
    };
    let waiting = format!("qihui_topic_waiting_for_broker{{subscription=\"{id}\"}}");
    let mut chance = SmallRng::seed_from_u64(11);
    let mut pages = Vec::new();
    for round in 1..=KILLS {
        let service = start(&lab, &broker.address, &small);
        await_figure(&lab, &service, &waiting, |waits| waits < 0.5);
        let file = write_declarations(&lab, version(round));
        let mut run = lab
            .command(&["feed", "run", "vat_declaration", "--from", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_millis(chance.random_range(200..2500));
        while Instant::now() < until {
            std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
        // SIGKILL.
        drop(service);
        run.wait().unwrap();
        let shown = lab.json(&["subscription", "show", &id]).done().json();
        pages.push(shown["next_page"].as_u64().unwrap() - 1);
    }
    assert!(
        pages.windows(2).filter(|two| two[0] < two[1]).count() > 3,
        "it was killed before it delivered: {pages:?}"
    );
    let service = start(&lab, &broker.address, &small);
    declare(&lab, version(KILLS));
    let settings = KafkaSettings::new(&broker.address);
    let received = until_up_to_date(&lab, &settings, &name);
    assert_eq!(kinds(&received).1, 3, "it never had to begin again");
    println!("{} events; pages at each kill: {pages:?}", received.len());
    service.stop();
    // Every page that left has its two entries, and the log is whole.
    lab.run(&["audit", "verify"]).done();
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn while_there_is_no_broker_the_service_waits_and_ends_when_told() {
    let lab = Lab::world();
    let id = subscribe(&lab, "nowhere");
    // Nobody listens there.
    let service = start(&lab, "127.0.0.1:1", &[("DIAGNOSTICS__LEVEL", "info")]);
    let waiting = format!("qihui_topic_waiting_for_broker{{subscription=\"{id}\"}}");
    await_figure(&lab, &service, &waiting, |waits| waits > 0.5);
    let waiting_is_said = |line: &String| line.contains("waiting for Kafka");
    service.says(waiting_is_said);
    // Everything else goes on, withdrawals too.
    declare(
        &lab,
        [Declaration {
            uscc: &lab.subject(),
            number: 1,
            sales: 1,
            version: 1,
        }],
    );
    let begun = Instant::now();
    service.tell();
    let (status, said) = service.ended();
    assert!(status.success(), "{said:?}");
    println!("ended {:?} after it was told", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(
        !said.iter().any(waiting_is_said),
        "a state is said once: {said:?}"
    );
    // Without a broker in the configuration it says so once.
    let service = Service::start(&lab);
    let begun = Instant::now();
    while !figures(&lab, &service).contains("qihui_delivery_failures_total{code=\"NoBroker\"} 1") {
        assert!(begun.elapsed() < SOON);
    }
    let listed = forwarded(&lab, &["subscription", "list"]).json();
    assert_eq!(listed["subscriptions"][0]["ended"], json!(false));
    service.tell();
    let (status, said) = service.ended();
    assert!(status.success(), "{said:?}");
    let told = said.iter().filter(|line| line.contains("delivery stopped"));
    assert_eq!(told.count(), 1, "{said:?}");
}
