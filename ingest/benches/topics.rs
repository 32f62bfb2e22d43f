//! Lands public credit evaluations from a topic of a real broker, beside a bare consumer of the same topic.
//!
//! `cargo bench -p qihui-ingest --bench topics` prints messages per second of both, and the peak of memory (`VmHWM`, the
//! whole process; the broker is a process of its own). `QIHUI_BENCH_ROWS` sets the number of messages. Enterprise numbers
//! come from memory; everything else is what `feed run` does: decoding, checks, sorting, durable quarantine, journal and
//! Delta commits, positions. The bare consumer reads every message and drops it: what any reader needs at least.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../../tests/it/broker.rs"]
mod broker;
mod common;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use qihui_catalog::{Catalog, FeedName, Payload, SourceTopic, Uscc};
use qihui_ingest::{
    IngestContext, KafkaSettings, RunOptions, Stop, TopicOptions, TopicReport, run_topic,
};
use qihui_warehouse::Warehouse;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tokio::sync::mpsc;

use broker::{Broker, Sent};

use common::{Error, Numbers, peak_mib, with_rows};

const MESSAGES: u32 = 1_000_000;
/// Without `--bench`, as in a run of all tests, only that it works.
const MESSAGES_TO_TRY: u32 = 2_000;
const PARTITIONS: i32 = 8;
const FEED: &str = "scores";
const LEVELS: [&str; 3] = ["优秀", "良好", "中等"];

/// An evaluation of the enterprise `serial`, as a CloudEvent or as it is.
fn message(serial: u32, payload: Payload) -> Result<Sent, Error> {
    let uscc = Uscc::from_parts('9', '1', "330106", &format!("{serial:08}"))?;
    let (day, score) = (serial % 28 + 1, serial % 1000);
    let level = LEVELS[serial as usize % LEVELS.len()];
    let record = format!(
        "{{\"TYSHXYDM\":\"{uscc}\",\"PJRQ\":\"2026-03-{day:02}\",\"ENT_NAME\":\"杭州某某{serial}贸易有限公司\",\
         \"PJFS\":{score}.50,\"PJDJ\":\"{level}\",\"MXBB\":\"v5\",\"DATA_TIME\":\"2026-04-01 10:00:00\"}}"
    );
    let value = match payload {
        Payload::Json => record,
        Payload::CloudEvents => format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{serial}\",\"source\":\"/credit\",\"type\":\"score\",\"data\":{record}}}"
        ),
    };
    let partition = i32::try_from(serial)? % PARTITIONS;
    Ok(Sent {
        key: Some(uscc.to_string().into_bytes()),
        ..Sent::value(partition, value)
    })
}

fn tell(what: &str, messages: u64, bytes: u64, seconds: f64) {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (messages, mib) = (messages as f64, bytes as f64 / f64::from(1 << 20));
    println!(
        "{what}: {:.0} messages/s, {:.1} MiB/s, {seconds:.2} s",
        messages / seconds,
        mib / seconds,
    );
}

/// Reads every message and drops it.
fn bare(broker: &Broker, topic: &str, messages: u32) -> Result<u64, Error> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &broker.address)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    let started = Instant::now();
    consumer.assign(&list)?;
    let (mut read, mut bytes) = (0_u32, 0_u64);
    while read < messages {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => {
                read += 1;
                bytes += message.payload_len() as u64 + message.key_len() as u64;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the broker has fewer messages than were sent".into()),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    tell("a bare consumer", read.into(), bytes, seconds);
    Ok(bytes)
}

async fn landed(
    broker: &Broker,
    topic: &str,
    payload: Payload,
    (messages, bytes): (u32, u64),
) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let mut catalog = Catalog::builtin()?;
    let files: FeedName = "public_credit_score".parse()?;
    let mut feed = catalog.feeds.get(&files).ok_or("no feed")?.as_ref().clone();
    feed.name = FEED.parse()?;
    feed.topic = Some(SourceTopic {
        name: topic.to_owned(),
        payload,
        key: None,
        timestamp: None,
        commit_rows: SourceTopic::COMMIT_ROWS,
        commit_seconds: SourceTopic::COMMIT_SECONDS,
    });
    catalog.feeds.insert(feed.name.clone(), Arc::new(feed));
    let context = IngestContext {
        catalog: Arc::new(catalog),
        warehouse: Warehouse::open(&dir.path().join("warehouse"))?,
        numbers: Arc::new(Numbers::default()),
        state_dir: dir.path().join("state"),
        input_root: None,
    };
    let options = TopicOptions {
        settings: KafkaSettings {
            brokers: broker.address.clone(),
            group: format!("bench-{topic}"),
            member: "bench".to_owned(),
            security: BTreeMap::new(),
            message_bytes: KafkaSettings::MESSAGE_BYTES,
            queued_bytes: KafkaSettings::QUEUED_BYTES,
            wait_seconds: 60,
        },
        run: RunOptions::default(),
        follow: false,
        from_earliest: false,
        stop: Stop::default(),
    };
    let (send, mut facts) = mpsc::channel(64);
    let feed = FEED.parse()?;
    let started = Instant::now();
    let commits = async {
        let mut commits = 0;
        while facts.recv().await.is_some() {
            commits += 1;
        }
        commits
    };
    let (report, commits) = tokio::join!(run_topic(&context, &feed, &options, send), commits);
    let seconds = started.elapsed().as_secs_f64();
    let TopicReport { report, lag } = report?;
    if report.counts.inserted != u64::from(messages) || lag > 0 {
        let (counts, reasons) = (report.counts, report.reasons);
        return Err(format!("not every message landed: {counts:?} {reasons:?}").into());
    }
    let what = format!("landed from {}, {commits} commits", payload.as_str());
    tell(&what, messages.into(), bytes, seconds);
    println!("peak memory {} MiB", peak_mib()?);
    Ok(())
}

async fn measure(messages: u32) -> Result<(), Error> {
    let broker = Broker::shared();
    for payload in [Payload::Json, Payload::CloudEvents] {
        let topic = broker.topic("scores", PARTITIONS);
        let sent = (0..messages).map(|serial| message(serial, payload));
        broker.send(&topic, sent.collect::<Result<Vec<_>, Error>>()?);
        println!("{messages} messages of {}", payload.as_str());
        let bytes = bare(broker, &topic, messages)?;
        landed(broker, &topic, payload, (messages, bytes)).await?;
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    with_rows(MESSAGES, MESSAGES_TO_TRY, measure)
}
