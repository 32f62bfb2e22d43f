//! How fast a subscriber is brought what it may see: by pull, by Kafka against a bare producer of the same bytes, and how
//! soon a change is at a consumer.
//!
//! `QIHUI_BROKERS=host:port cargo bench --bench topics`; without a broker only the pull is measured. `QIHUI_BENCH_ENTERPRISES`
//! (100,000 by default) have four rows each and have granted all of it; the grants are put into the store as if each
//! had been signed. The times from change to consumer are those of a delivery that follows: from the commit of the
//! table until a reader of committed messages has the message.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, missing_docs)]

#[path = "../tests/it/topic_world.rs"]
mod topic_world;

use std::path::Path;
use std::time::{Duration, Instant};

use qihui_catalog::Action;
use qihui_consent::ledger::Delivery;
use qihui_pipelines::topics::kafka::{
    KafkaSettings, Until, produce_plain, read_committed, topic_name,
};
use qihui_pipelines::topics::pull::PullRequest;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use sqlx::Connection as _;
use topic_world::{Look, Record, World, day};

const ALL: [&str; 7] = ["uscc", "id", "name", "n", "amount", "flag", "day"];
const CHUNK: usize = 20_000;
const ROWS_EACH: u32 = 4;
const CHANGES: u32 = 30;

/// A hub of so many enterprises with their rows, all granted.
async fn world(folder: &Path, enterprises: u32, delivery: Delivery) -> World {
    let folder = folder.to_owned();
    let mut world = World::of(folder, Look::PLAIN, &ALL, delivery, enterprises).await;
    let rows: Vec<Record> = (1..=enterprises)
        .flat_map(|no| (0..ROWS_EACH).map(move |id| Record::plain(no, id, "杭州市某某有限公司")))
        .collect();
    for records in rows.chunks(CHUNK) {
        world.land(records).await;
    }
    world.grant(1, &ALL, None, day(90), Action::Stream).await;
    grant_like_the_first(&world, enterprises).await;
    world
}

/// Puts the grants of all others into the store as if each had been signed as that of the first was.
async fn grant_like_the_first(world: &World, enterprises: u32) {
    let url = format!("sqlite://{}", world.folder.join("ledger.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let mut all = connection.begin().await.unwrap();
    let others: Vec<u32> = (2..=enterprises).map(|n| world.number(n)).collect();
    sqlx::query(
        "INSERT INTO grant_row (grantee, no, consent, terms, actions, starts, expires, metered, status, given, revision)
         SELECT g.grantee, other.value, g.consent, g.terms, g.actions, g.starts, g.expires, g.metered, g.status, g.given,
             g.revision
         FROM grant_row AS g, json_each(?1) AS other WHERE g.no = ?2",
    )
    .bind(serde_json::to_string(&others).unwrap())
    .bind(world.number(1))
    .execute(&mut *all)
    .await
    .unwrap();
    sqlx::query("UPDATE revision SET revision = revision + 1000")
        .execute(&mut *all)
        .await
        .unwrap();
    all.commit().await.unwrap();
    connection.close().await.unwrap();
}

fn per_second(count: u64, since: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let count = count as f64;
    count / since.elapsed().as_secs_f64()
}

async fn by_pull(enterprises: u32) {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), enterprises, Delivery::Pull).await;
    let mut request = PullRequest {
        subscription: world.subscription.subscription_id.clone(),
        ..PullRequest::default()
    };
    let (begun, mut events) = (Instant::now(), 0);
    loop {
        let pulled = world
            .topics
            .pull(&request, &mut std::io::sink())
            .await
            .unwrap();
        events += pulled.events;
        request.cursor = Some(pulled.next);
        if !pulled.more {
            break;
        }
    }
    println!("pull: {events} events, {:.0}/s", per_second(events, begun));
}

async fn by_kafka(enterprises: u32, brokers: &str) {
    let settings = KafkaSettings::new(brokers);
    // A broker makes its own topics with the first transaction, which takes it seconds.
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path(), 1, Delivery::Kafka).await;
    let id = &first.subscription.subscription_id;
    first
        .topics
        .deliver(&settings, id, Until::UpToDate)
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut world = world(dir.path(), enterprises, Delivery::Kafka).await;
    let id = world.subscription.subscription_id.clone();
    let topic = topic_name("bank", "filings");
    let begun = Instant::now();
    let delivered = world
        .topics
        .deliver(&settings, &id, Until::UpToDate)
        .await
        .unwrap();
    let gated = per_second(delivered.events, begun);
    println!("kafka, gated: {} events, {gated:.0}/s", delivered.events);
    let messages = read_committed(&settings, &topic).unwrap();
    let plain = format!("{topic}.plain");
    make(&settings, &plain).await;
    let begun = Instant::now();
    produce_plain(&settings, &plain, &messages).unwrap();
    let bare = per_second(messages.len() as u64, begun);
    println!(
        "kafka, bare producer: {bare:.0}/s; gated is {:.2} of it",
        gated / bare
    );
    drop(messages);
    following(&mut world, &settings, &topic).await;
}

/// Makes a topic like those of the hub.
async fn make(settings: &KafkaSettings, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .create()
        .unwrap();
    let topic = NewTopic::new(topic, settings.partitions, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let made = admin.create_topics([&topic], &options).await.unwrap();
    made.into_iter().for_each(|made| {
        made.unwrap();
    });
}

/// Changes one row after another under a delivery that follows.
async fn following(world: &mut World, settings: &KafkaSettings, topic: &str) {
    let (tell, told) = tokio::sync::watch::channel(false);
    let topics = world
        .topics
        .acting_as(std::sync::Arc::clone(&world.gate), "local:bench");
    let (to, id) = (settings.clone(), world.subscription.subscription_id.clone());
    let delivery = async move { topics.deliver(&to, &id, Until::Told(told)).await };
    let delivery = tokio::spawn(delivery);
    let mut arrivals = arrivals(settings, topic);
    let mut times = Vec::new();
    for change in 0..=CHANGES {
        let name = format!("change {change}");
        world.land(&[Record::plain(1 + change, 0, &name)]).await;
        let committed = Instant::now();
        while !arrivals
            .recv()
            .await
            .unwrap()
            .contains(&format!("\"{name}\""))
        {}
        times.push(committed.elapsed());
    }
    // The first waits for the connection as well.
    times.remove(0);
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_millis();
    println!(
        "kafka, from commit to consumer: median {} ms, 95 of 100 within {} ms, at most {} ms",
        at(50),
        at(95),
        at(100)
    );
    tell.send(true).unwrap();
    delivery.await.unwrap().unwrap();
}

/// The values of committed messages, as they come, from the end of the topic on.
fn arrivals(settings: &KafkaSettings, topic: &str) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("group.id", "qihui.bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap();
    let limit = Duration::from_secs(20);
    let metadata = consumer.fetch_metadata(Some(topic), limit).unwrap();
    let mut assignment = rdkafka::TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let (_, end) = consumer
            .fetch_watermarks(topic, partition.id(), limit)
            .unwrap();
        assignment
            .add_partition_offset(topic, partition.id(), rdkafka::Offset::Offset(end))
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while !send.is_closed() {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let value = message.payload().unwrap_or_default();
                if send
                    .send(String::from_utf8_lossy(value).into_owned())
                    .is_err()
                {
                    return;
                }
            }
        }
    });
    receive
}

#[tokio::main]
async fn main() {
    // Without `--bench`, as in a run of all tests, only that it works.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let enterprises = std::env::var("QIHUI_BENCH_ENTERPRISES")
        .ok()
        .and_then(|enterprises| enterprises.parse().ok())
        .unwrap_or(if is_bench { 100_000 } else { 200 })
        .max(CHANGES + 1);
    by_pull(enterprises).await;
    match std::env::var("QIHUI_BROKERS") {
        Ok(brokers) => by_kafka(enterprises, &brokers).await,
        Err(_) => println!("kafka: not measured, QIHUI_BROKERS names no broker"),
    }
}
