//! How fast a subscriber is brought what it may see: by pull, and by Kafka against a bare producer of the same bytes.
//!
//! `QIHUI_BROKERS=host:port cargo bench --bench topics`; without a broker only the pull is measured. Rows: `QIHUI_ROWS`,
//! 400,000 by default. Also measured: the time from a commit of a table to the consumer.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, missing_docs)]

#[path = "../tests/it/topic_world.rs"]
mod topic_world;

use std::time::Instant;

use qihui_catalog::Action;
use qihui_consent::ledger::Delivery;
use qihui_pipelines::topics::kafka::{
    KafkaSettings, Until, produce_plain, read_committed, topic_name,
};
use qihui_pipelines::topics::pull::PullRequest;
use topic_world::{ENTERPRISES, Look, Record, World, day};

const ALL: [&str; 7] = ["uscc", "id", "name", "n", "amount", "flag", "day"];
const CHUNK: u32 = 20_000;

/// A hub whose enterprises have so many rows together, all granted.
async fn world(folder: &std::path::Path, rows: u32, delivery: Delivery) -> World {
    let mut world = World::new(folder.to_owned(), Look::PLAIN, &ALL, delivery).await;
    for first in (0..rows).step_by(CHUNK as usize) {
        let records: Vec<Record> = (first..rows.min(first + CHUNK))
            .map(|id| Record::plain(1 + id % ENTERPRISES, id, "杭州市某某有限公司"))
            .collect();
        world.land(&records).await;
    }
    for no in 1..=ENTERPRISES {
        world.grant(no, &ALL, None, day(90), Action::Stream).await;
    }
    world
}

fn per_second(count: u64, since: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let count = count as f64;
    count / since.elapsed().as_secs_f64()
}

async fn by_pull(rows: u32) {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), rows, Delivery::Pull).await;
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

async fn by_kafka(rows: u32, brokers: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut world = world(dir.path(), rows, Delivery::Kafka).await;
    let settings = KafkaSettings::new(brokers);
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
    let begun = Instant::now();
    produce_plain(&settings, &format!("{topic}.plain"), &messages).unwrap();
    let bare = per_second(messages.len() as u64, begun);
    println!(
        "kafka, bare producer: {bare:.0}/s; gated is {:.2} of it",
        gated / bare
    );
    world.land(&[Record::plain(1, 0, "changed")]).await;
    let begun = Instant::now();
    world
        .topics
        .deliver(&settings, &id, Until::UpToDate)
        .await
        .unwrap();
    println!(
        "kafka, one change, connection included: {} ms",
        begun.elapsed().as_millis()
    );
}

#[tokio::main]
async fn main() {
    let rows = std::env::var("QIHUI_ROWS")
        .ok()
        .and_then(|rows| rows.parse().ok())
        .unwrap_or(400_000);
    by_pull(rows).await;
    match std::env::var("QIHUI_BROKERS") {
        Ok(brokers) => by_kafka(rows, &brokers).await,
        Err(_) => println!("kafka: not measured, QIHUI_BROKERS names no broker"),
    }
}
