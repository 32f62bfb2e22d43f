//! Topics of a real broker: every message has one outcome, whatever happens to reader, group, topic and broker.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use qihui_catalog::{Payload, SourceTopic};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tokio::sync::mpsc;

use super::{
    broker::{Broker, Sent},
    *,
};
use crate::{
    CommitFault, CommitInfo, KafkaSettings, LandingRows, Outcome, RunFact, Stop, TopicOptions,
    TopicReport, preview::PreviewClassified,
};

const PATIENCE: Duration = Duration::from_secs(120);

fn source(topic: &str) -> SourceTopic {
    SourceTopic {
        name: topic.to_owned(),
        payload: Payload::Json,
        key: Some("serial".to_owned()),
        timestamp: Some("changed".to_owned()),
        commit_rows: 40,
        commit_seconds: 1,
    }
}

/// A feed that reads a topic, and where it lands.
struct Reader {
    fixture: Fixture,
    settings: KafkaSettings,
}

impl Reader {
    fn new(address: &str, source: SourceTopic) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut fixture = Fixture::json();
        let mut feed = FeedSpec::clone(&fixture.feed);
        feed.topic = Some(source);
        fixture.feed = Arc::new(feed);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let settings = KafkaSettings {
            brokers: address.to_owned(),
            group: format!("test-{}-{count}", std::process::id()),
            member: format!("hub-{count}"),
            security: BTreeMap::new(),
            message_bytes: KafkaSettings::MESSAGE_BYTES,
            queued_bytes: KafkaSettings::QUEUED_BYTES,
            wait_seconds: 60,
        };
        Self { fixture, settings }
    }

    fn group(&self) -> String {
        self.settings.group_of(self.fixture.feed.name.as_str())
    }

    fn options(&self) -> TopicOptions {
        TopicOptions {
            settings: self.settings.clone(),
            run: self.fixture.options,
            follow: false,
            from_earliest: false,
            stop: Stop::default(),
        }
    }

    fn read_with<L: Landing>(
        &self,
        landing: &mut L,
        options: &TopicOptions,
    ) -> (Result<TopicReport, IngestError>, Vec<RunFact>) {
        runtime().block_on(async {
            let (send, mut facts) = mpsc::channel(4);
            let heard = async {
                let mut heard = Vec::new();
                while let Some(fact) = facts.recv().await {
                    heard.push(fact);
                }
                heard
            };
            let job = self.fixture.job();
            let place = self.fixture.place();
            let read = job.read_topic(&place, options, landing, send);
            tokio::join!(read, heard)
        })
    }

    /// Reads what there is.
    fn read<L: Landing>(&self, landing: &mut L) -> Result<RunReport, IngestError> {
        let (read, facts) = self.read_with(landing, &self.options());
        let TopicReport { report, lag } = read?;
        assert_eq!(lag, 0);
        let told: u64 = facts.iter().map(|fact| fact.counts.read).sum();
        assert_eq!(told, report.counts.read, "every run is told");
        assert_eq!(report.counts.accounted(), report.counts.read);
        Ok(report)
    }

    fn read_anew(&self, landing: &mut Preview) -> RunReport {
        let options = TopicOptions {
            from_earliest: true,
            ..self.options()
        };
        self.read_with(landing, &options).0.unwrap().report
    }

    /// What stands in quarantine: partition and offset, first reason, and bytes.
    fn quarantined(&self) -> Vec<(String, u64, String, Vec<u8>)> {
        let quarantine = Quarantine::new(&self.fixture.state());
        let raw = |entry: &QuarantineEntry| {
            let raw = quarantine.raw(&self.fixture.feed.name, &entry.id);
            raw.unwrap().unwrap()
        };
        let entries = self.fixture.quarantine();
        let mut all: Vec<_> = entries
            .iter()
            .map(|entry| {
                let partition = entry.source.rsplit('/').next().unwrap().to_owned();
                let problem = entry.problems[0].to_string();
                (partition, entry.offset, problem, raw(entry))
            })
            .collect();
        all.sort();
        all
    }
}

/// A good record of the JSON form.
fn json(enterprise: u32, serial: u32, version: u32) -> String {
    serde_json::json!({
        "code": uscc(enterprise), "serial": format!("S{serial}"), "name": format!("某公司{enterprise}"),
        "person": "张三", "amount": serial, "currency": "CNY", "paid": "2024-05-06", "public": true,
        "changed": format!("2024-05-06 {:02}:{:02}:{:02}", version / 3600, version / 60 % 60, version % 60),
        "note": "x",
    })
    .to_string()
}

/// Its retraction.
fn json_retraction(enterprise: u32, serial: u32, version: u32) -> String {
    serde_json::json!({
        "code": uscc(enterprise), "serial": format!("S{serial}"), "mark": "D",
        "changed": format!("2024-05-06 {:02}:{:02}:{:02}", version / 3600, version / 60 % 60, version % 60),
    })
    .to_string()
}

/// Records with corrections, retractions and faults, and the partition each is sent to.
fn messages(records: u32, seed: u64) -> Vec<(i32, String)> {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..records)
        .map(|_| {
            let serial = random.random_range(0..records);
            let version = random.random_range(0..3600);
            let text = match random.random_range(0..20) {
                0 => "{broken".to_owned(),
                1 => json_retraction(serial % 97, serial, version),
                _ => json(serial % 97, serial, version),
            };
            (random.random_range(0..4), text)
        })
        .collect()
}

fn sent(messages: &[(i32, String)]) -> Vec<Sent> {
    let sent = messages
        .iter()
        .map(|(p, text)| Sent::value(*p, text.as_str()));
    sent.collect()
}

/// What a file of the same records makes of an empty table.
fn from_file(messages: &[(i32, String)]) -> (Counts, (usize, u128)) {
    let fixture = Fixture::json();
    let lines: Vec<&str> = messages.iter().map(|(_, text)| text.as_str()).collect();
    let file = fixture.write("payments.jsonl", lines.join("\n") + "\n");
    let mut table = fixture.preview();
    let counts = fixture.run(&file, &mut table).unwrap().counts;
    (counts, table.fingerprint())
}

/// Waits for something to come true.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Reads on in a thread while `meanwhile` happens; it gets a look at how many messages were read, and ends the reading.
fn follow<T>(
    reader: &Reader,
    landing: &mut Preview,
    meanwhile: impl FnOnce(&dyn Fn(u64), &Stop) -> T,
) -> (Result<TopicReport, IngestError>, T) {
    let options = TopicOptions {
        follow: true,
        ..reader.options()
    };
    let stop = options.stop.clone();
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            runtime().block_on(async {
                let (send, mut facts) = mpsc::channel::<RunFact>(4);
                let heard = async {
                    while let Some(fact) = facts.recv().await {
                        count.fetch_add(fact.counts.read, Ordering::Relaxed);
                    }
                };
                let (job, place) = (reader.fixture.job(), reader.fixture.place());
                let read = job.read_topic(&place, &options, landing, send);
                tokio::join!(read, heard).0
            })
        });
        let read = |messages| {
            until("messages are read", || {
                count.load(Ordering::Relaxed) >= messages
            });
        };
        let end = EndAtLast(&stop);
        let done = meanwhile(&read, &stop);
        drop(end);
        (reading.join().unwrap(), done)
    })
}

/// Ends the reading, also when a test fails.
struct EndAtLast<'s>(&'s Stop);

impl Drop for EndAtLast<'_> {
    fn drop(&mut self) {
        self.0.ask();
    }
}

#[test]
fn ing_1_messages_make_the_same_table_as_a_file_of_them() {
    let broker = Broker::shared();
    let topic = broker.topic("same", 4);
    let messages = messages(1000, 1);
    broker.send(&topic, sent(&messages));
    let reader = Reader::new(&broker.address, source(&topic));
    let mut table = reader.fixture.preview();
    let report = reader.read(&mut table).unwrap();
    let (counts, fingerprint) = from_file(&messages);
    assert_eq!(report.counts.read, counts.read);
    assert_eq!(report.counts.quarantined, counts.quarantined);
    assert_eq!(table.fingerprint(), fingerprint);
    assert_eq!(reader.quarantined().len() as u64, counts.quarantined);
    // Everything is read: the next run finds nothing, and whoever resets the group changes nothing.
    assert_eq!(reader.read(&mut table).unwrap().counts, Counts::default());
    reset(&broker.address, &reader.group(), &topic);
    assert_eq!(reader.read(&mut table).unwrap().counts, Counts::default());
    // A restart without its journal knows from the table.
    fs::remove_dir_all(reader.fixture.state().join("runs")).unwrap();
    assert_eq!(reader.read(&mut table).unwrap().counts, Counts::default());
    // Read again on purpose: no row changes.
    let again = reader.read_anew(&mut table).counts;
    assert_eq!((again.read, again.landed()), (counts.read, 0));
    assert_eq!(table.fingerprint(), fingerprint);
}

/// Sets the offsets of a group back to the beginning.
fn reset(address: &str, group: &str, topic: &str) {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("group.id", group);
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..4 {
        list.add_partition_offset(topic, partition, Offset::Offset(0))
            .unwrap();
    }
    // A static member may still stand in the group; then a broker refuses, which is as good.
    let _ = consumer.commit(&list, CommitMode::Sync);
}

#[test]
fn ing_1_messages_of_every_kind_have_one_outcome() {
    let broker = Broker::shared();
    let topic = broker.topic("kinds", 2);
    let headers = |more: &[(&str, &str)]| -> Vec<(String, String)> {
        let event = [("ce_id", "1"), ("ce_source", "/s"), ("ce_type", "t")];
        let all = event.iter().chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let structured = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{data}}}"#)
    };
    let retraction_key = format!(r#"{{"code":"{}","serial":"S1"}}"#, uscc(1));
    let time_ms = Some(1_715_000_000_000);
    let mut without_time: serde_json::Value = serde_json::from_str(&json(4, 4, 0)).unwrap();
    without_time.as_object_mut().unwrap().remove("changed");
    without_time.as_object_mut().unwrap().remove("serial");
    let huge = vec![b'x'; 50 << 20];
    let sent = [
        Sent::value(0, structured(&json(1, 1, 1))),
        Sent {
            headers: headers(&[
                ("ce_specversion", "1.0"),
                ("content-type", "application/json"),
            ]),
            ..Sent::value(0, json(2, 2, 1))
        },
        // The key fills what the record lacks, and the message's time.
        Sent {
            key: Some(b"S4".to_vec()),
            time_ms,
            ..Sent::value(0, structured(&without_time.to_string()))
        },
        // Takes the first one back.
        Sent {
            key: Some(retraction_key.into_bytes()),
            time_ms,
            ..Sent::default()
        },
        Sent::value(1, json(3, 3, 1)),
        Sent::value(1, structured("[1]")),
        Sent::value(1, b"\xFF\xFE".to_vec()),
        Sent::default(),
        Sent::value(1, huge.clone()),
        Sent {
            headers: headers(&[("ce_specversion", "0.3")]),
            ..Sent::value(1, json(5, 5, 1))
        },
        Sent::value(1, structured(&json(6, 6, 1))),
    ];
    broker.send(&topic, sent);
    let source = SourceTopic {
        payload: Payload::CloudEvents,
        ..source(&topic)
    };
    let reader = Reader::new(&broker.address, source);
    let mut table = reader.fixture.preview();
    let report = reader.read(&mut table).unwrap();
    assert_eq!(report.counts.read, 11);
    assert_eq!(
        (report.counts.quarantined, report.counts.accounted()),
        (6, 11)
    );
    assert_eq!(table.fingerprint().0, 3, "2, 4 and 6 are left");
    let quarantined = reader.quarantined();
    let told: Vec<_> = quarantined
        .iter()
        .map(|(partition, offset, problem, _)| (partition.as_str(), *offset, problem.as_str()))
        .collect();
    let expected = [
        ("0", 4, "NoValue"),
        ("1", 0, "BadCloudEvent"),
        ("1", 1, "BadJson"),
        ("1", 2, "BadEncoding"),
        ("1", 3, "RecordTooLong"),
        ("1", 4, "BadCloudEvent"),
    ];
    assert_eq!(told, expected);
    assert_eq!(quarantined[1].3, json(3, 3, 1).as_bytes());
    assert_eq!(quarantined[3].3, b"\xFF\xFE");
    assert_eq!(quarantined[4].3, huge[..Limits::DEFAULT.kept_bytes]);
    let entry = reader
        .fixture
        .quarantine()
        .into_iter()
        .find(|entry| entry.length > 1 << 20)
        .unwrap();
    assert_eq!(entry.length, 50 << 20);
}

/// A table whose process dies at a step.
struct Mortal {
    table: Preview,
    steps_left: u32,
}

impl Mortal {
    fn dies(&mut self) -> bool {
        let dies = self.steps_left == 0;
        self.steps_left = self.steps_left.saturating_sub(1);
        dies
    }
}

#[async_trait::async_trait]
impl Landing for Mortal {
    type Classified = PreviewClassified;

    async fn last_run(&mut self, app_id: &str) -> Result<Option<i64>, IngestError> {
        self.table.last_run(app_id).await
    }

    async fn position_of(
        &mut self,
        app_id: &str,
        run: i64,
    ) -> Result<Option<serde_json::Value>, IngestError> {
        self.table.position_of(app_id, run).await
    }

    async fn classify(
        &mut self,
        rows: &LandingRows,
    ) -> Result<(Vec<Outcome>, PreviewClassified), IngestError> {
        let death = || IngestError::io("being killed", std::io::Error::other("killed"));
        if self.dies() {
            Err(death())
        } else {
            self.table.classify(rows).await
        }
    }

    async fn commit(
        &mut self,
        classified: PreviewClassified,
        info: &CommitInfo,
    ) -> Result<i64, CommitFault> {
        let death = || {
            let error = std::io::Error::other("killed");
            CommitFault::Failed(IngestError::io("being killed", error))
        };
        if self.dies() {
            return Err(death());
        }
        let version = self.table.commit(classified, info).await?;
        if self.dies() {
            Err(death())
        } else {
            Ok(version)
        }
    }
}

#[test]
fn ing_2_killed_at_every_step_nothing_is_lost_or_read_twice() {
    let broker = Broker::shared();
    let topic = broker.topic("steps", 4);
    let messages = messages(130, 2);
    broker.send(&topic, sent(&messages));
    let (counts, fingerprint) = from_file(&messages);
    for lost_journal in [false, true] {
        for steps in 0..9 {
            let reader = Reader::new(&broker.address, source(&topic));
            let table = reader.fixture.preview();
            let mut mortal = Mortal {
                table,
                steps_left: steps,
            };
            assert!(reader.read(&mut mortal).is_err());
            if lost_journal {
                fs::remove_dir_all(reader.fixture.state().join("runs")).ok();
            }
            let mut table = mortal.table;
            let committed = runtime()
                .block_on(table.last_run("payments/payments"))
                .unwrap();
            let left = reader.read(&mut table).unwrap().counts.read;
            assert_eq!(
                left,
                counts.read - 40 * committed.unwrap_or(0).unsigned_abs()
            );
            assert_eq!(table.fingerprint(), fingerprint, "step {steps}");
            assert_eq!(
                reader.quarantined().len() as u64,
                counts.quarantined,
                "step {steps}"
            );
        }
    }
}

#[test]
fn another_log_is_noticed_and_read_only_on_request() {
    let broker = Broker::shared();
    // As long as before, shorter, longer, and empty.
    for again in [8_u32, 3, 20, 0] {
        let topic = broker.topic("replaced", 1);
        let first: Vec<Sent> = (0..8).map(|i| Sent::value(0, json(i, i, 1))).collect();
        broker.send(&topic, first);
        let reader = Reader::new(&broker.address, source(&topic));
        let mut table = reader.fixture.preview();
        assert_eq!(reader.read(&mut table).unwrap().counts.read, 8);
        broker.delete(&topic);
        let error = reader.read(&mut table).unwrap_err();
        assert_eq!(error.code(), "TopicUnknown", "{error}");
        broker.create(&topic, 1);
        broker.send(
            &topic,
            (0..again).map(|i| Sent::value(0, json(i, i + 100, 1))),
        );
        let error = reader.read(&mut table).unwrap_err();
        assert_eq!(error.code(), "TopicReplaced", "{again}: {error}");
        let report = reader.read_anew(&mut table);
        assert_eq!(u32::try_from(report.counts.inserted), Ok(again));
        if again == 0 {
            // A reading begins with its first message: until then nothing says that it is wanted.
            assert!(reader.read(&mut table).is_err());
            broker.send(&topic, [Sent::value(0, json(0, 100, 1))]);
            assert_eq!(reader.read_anew(&mut table).counts.inserted, 1);
        }
        assert_eq!(reader.read(&mut table).unwrap().counts.read, 0);
    }
}

#[test]
fn another_log_is_noticed_while_it_is_read() {
    let broker = Broker::shared();
    let topic = broker.topic("under-way", 1);
    broker.send(&topic, (0..8).map(|i| Sent::value(0, json(i, i, 1))));
    let reader = Reader::new(&broker.address, source(&topic));
    let mut table = reader.fixture.preview();
    let (read, ()) = follow(&reader, &mut table, |read, stop| {
        read(8);
        broker.delete(&topic);
        broker.create(&topic, 1);
        broker.send(&topic, (0..60).map(|i| Sent::value(0, json(i, i + 100, 1))));
        // It ends by itself.
        let end = Instant::now() + PATIENCE;
        until("the reading ends", || {
            stop.is_asked() || Instant::now() > end - PATIENCE * 3 / 4
        });
    });
    let error = read.unwrap_err();
    assert_eq!(error.code(), "TopicReplaced", "{error}");
    assert_eq!(
        table.fingerprint().0,
        8,
        "nothing of the other log was taken"
    );
}

#[test]
fn messages_that_were_removed_unread_are_missed() {
    let broker = Broker::shared();
    let topic = broker.topic("removed", 1);
    broker.send(&topic, (0..10).map(|i| Sent::value(0, json(i, i, 1))));
    let reader = Reader::new(&broker.address, source(&topic));
    let mut table = reader.fixture.preview();
    // What was removed before the first reading was never promised.
    broker.remove_before(&topic, 0, 2);
    assert_eq!(reader.read(&mut table).unwrap().counts.read, 8);
    broker.send(&topic, (10..20).map(|i| Sent::value(0, json(i, i, 1))));
    broker.remove_before(&topic, 0, 10);
    broker.remove_before(&topic, 0, 15);
    let error = reader.read(&mut table).unwrap_err();
    assert_eq!(error.code(), "TopicMessagesGone", "{error}");
    assert!(
        error
            .to_string()
            .contains("messages 10 to 14 of partition 0"),
        "{error}"
    );
    assert_eq!(reader.read_anew(&mut table).counts.inserted, 5);
    // Removed after they were read: nobody misses them.
    broker.remove_before(&topic, 0, 20);
    assert_eq!(reader.read(&mut table).unwrap().counts.read, 0);
}

#[test]
fn ing_2_a_rebalance_neither_loses_nor_repeats() {
    let broker = Broker::shared();
    let topic = broker.topic("rebalance", 4);
    let messages = messages(600, 3);
    let reader = Reader::new(&broker.address, source(&topic));
    let mut table = reader.fixture.preview();
    let other = |member: &str| -> BaseConsumer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &broker.address)
            .set("group.id", reader.group())
            .set("group.instance.id", member)
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "6000")
            .set("enable.auto.commit", "false");
        config.create().unwrap()
    };
    let (read, ()) = follow(&reader, &mut table, |read, _| {
        for (turn, part) in messages.chunks(150).enumerate() {
            broker.send(&topic, sent(part));
            read(20);
            // Another reader comes, holds some of the partitions for a while, and goes.
            let other = other(&format!("other-{turn}"));
            other.subscribe(&[&topic]).unwrap();
            until("the other one has partitions", || {
                let _ = other.poll(Duration::from_millis(50));
                other.assignment().unwrap().count() > 0
            });
            drop(other);
        }
        read(600);
    });
    let (counts, fingerprint) = from_file(&messages);
    let report = read.unwrap().report;
    assert_eq!(report.counts.read, counts.read);
    assert_eq!(report.counts.quarantined, counts.quarantined);
    assert_eq!(table.fingerprint(), fingerprint);
}

#[test]
fn partitions_that_others_hold_are_not_waited_for_for_ever() {
    let broker = Broker::shared();
    let topic = broker.topic("elsewhere", 2);
    broker.send(&topic, (0..2).map(|i| Sent::value(i, json(0, 0, 1))));
    let reader = Reader::new(&broker.address, source(&topic));
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &broker.address)
        .set("group.id", reader.group())
        .set("partition.assignment.strategy", "range");
    let other: BaseConsumer = config.create().unwrap();
    other.subscribe(&[&topic]).unwrap();
    until("the other one has partitions", || {
        let _ = other.poll(Duration::from_millis(50));
        other.assignment().unwrap().count() == 2
    });
    let stop = Stop::default();
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.is_asked() {
                let _ = other.poll(Duration::from_millis(50));
            }
        });
        let _end = EndAtLast(&stop);
        reader.read(&mut reader.fixture.preview()).unwrap_err()
    });
    assert_eq!(error.code(), "TopicReadElsewhere", "{error}");
    assert!(error.to_string().contains("1 of 2 partitions"), "{error}");
}

#[test]
fn a_broker_that_goes_is_waited_for_and_one_that_forgets_is_noticed() {
    let broker = Broker::own();
    let topic = broker.topic("gone", 2);
    let messages = messages(400, 4);
    let on_two = |part: &[(i32, String)]| {
        let on_two = |(p, text): &(i32, String)| Sent::value(p % 2, text.as_str());
        part.iter().map(on_two).collect::<Vec<_>>()
    };
    broker.send(&topic, on_two(&messages[..200]));
    let reader = Reader::new(&broker.address, source(&topic));
    let mut table = reader.fixture.preview();
    let (read, ()) = follow(&reader, &mut table, |read, _| {
        read(120);
        broker.kill();
        thread::sleep(Duration::from_secs(4));
        broker.start();
        broker.send(&topic, on_two(&messages[200..300]));
        read(300);
        broker.stop();
        broker.start();
        broker.send(&topic, on_two(&messages[300..]));
        read(400);
    });
    let (counts, fingerprint) = from_file(&messages);
    assert_eq!(read.unwrap().report.counts.read, counts.read);
    assert_eq!(table.fingerprint(), fingerprint);
    broker.stop();
    // A run that is to end gives up, and says for how long it asked.
    let mut hasty = Reader::new(&broker.address, source(&topic));
    hasty.settings.wait_seconds = 1;
    let error = hasty.read(&mut hasty.fixture.preview()).unwrap_err();
    assert_eq!(error.code(), "KafkaUnavailable", "{error}");
    broker.lose_everything();
    broker.start();
    let error = reader.read(&mut table).unwrap_err();
    assert_eq!(error.code(), "TopicUnknown", "{error}");
    broker.create(&topic, 2);
    broker.send(&topic, on_two(&messages));
    let error = reader.read(&mut table).unwrap_err();
    assert_eq!(error.code(), "TopicReplaced", "{error}");
    assert!(error.to_string().contains("another cluster"), "{error}");
    assert_eq!(reader.read_anew(&mut table).counts.landed(), 0);
}

#[test]
fn ing_3_a_message_beyond_what_may_be_received_is_said() {
    let broker = Broker::shared();
    let topic = broker.topic("huge", 1);
    broker.send(&topic, [Sent::value(0, vec![b'x'; 20 << 20])]);
    let mut reader = Reader::new(&broker.address, source(&topic));
    reader.settings.message_bytes = 1 << 20;
    let error = reader.read(&mut reader.fixture.preview()).unwrap_err();
    assert_eq!(error.code(), "MessageTooLarge", "{error}");
    reader.settings.message_bytes = 32 << 20;
    let report = reader.read(&mut reader.fixture.preview()).unwrap();
    assert_eq!(report.counts.quarantined, 1);
}

#[test]
fn ing_2_faults_of_brokers_pass() {
    use RDKafkaRespErr as Fault;
    let cluster = MockCluster::new(3).unwrap();
    cluster.create_topic("faults", 4, 3).unwrap();
    let messages = messages(300, 5);
    produce(&cluster.bootstrap_servers(), &messages);
    let reader = Reader::new(&cluster.bootstrap_servers(), source("faults"));
    let mut table = reader.fixture.preview();
    let fetch = [
        Fault::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Fault::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Fault::RD_KAFKA_RESP_ERR__TRANSPORT,
        Fault::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        Fault::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
    ];
    let group = [
        Fault::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        Fault::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Fault::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
    ];
    cluster.request_errors(RDKafkaApiKey::Fetch, &fetch);
    cluster.request_errors(RDKafkaApiKey::ListOffsets, &fetch[1..3]);
    cluster.request_errors(RDKafkaApiKey::JoinGroup, &group[..2]);
    cluster.request_errors(RDKafkaApiKey::Heartbeat, &group);
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &group);
    let (read, ()) = follow(&reader, &mut table, |read, _| {
        read(50);
        for broker in 1..=3 {
            for partition in 0..4 {
                cluster
                    .partition_leader("faults", partition, Some(broker))
                    .unwrap();
            }
            cluster
                .broker_round_trip_time(broker, Duration::from_millis(300))
                .unwrap();
            cluster.broker_down(broker % 3 + 1).unwrap();
            produce(&cluster.bootstrap_servers(), &messages[..20]);
            cluster.broker_up(broker % 3 + 1).unwrap();
            cluster
                .broker_round_trip_time(broker, Duration::ZERO)
                .unwrap();
        }
        read(360);
    });
    let mut all = messages.clone();
    for _ in 0..3 {
        all.extend_from_slice(&messages[..20]);
    }
    let (counts, fingerprint) = from_file(&all);
    assert_eq!(read.unwrap().report.counts.read, counts.read);
    assert_eq!(table.fingerprint(), fingerprint);
}

/// Produces to a mock cluster, which has no script.
fn produce(address: &str, messages: &[(i32, String)]) {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("enable.idempotence", "true");
    let producer: BaseProducer = config.create().unwrap();
    for (partition, text) in messages {
        let record: BaseRecord<'_, (), str> =
            BaseRecord::to("faults").partition(*partition).payload(text);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

#[test]
fn topics_that_cannot_be_read_are_refused_with_a_reason() {
    let broker = Broker::shared();
    let mut reader = Reader::new(&broker.address, source("never.made"));
    let error = reader.read(&mut reader.fixture.preview()).unwrap_err();
    assert_eq!(error.code(), "TopicUnknown", "{error}");
    reader.settings.brokers = " ".to_owned();
    let error = reader.read(&mut reader.fixture.preview()).unwrap_err();
    assert_eq!(error.code(), "KafkaNotConfigured", "{error}");
    reader.settings.brokers.clone_from(&broker.address);
    reader
        .settings
        .security
        .insert("security.protocol".to_owned(), "carrier pigeon".to_owned());
    let error = reader.read(&mut reader.fixture.preview()).unwrap_err();
    assert_eq!(error.code(), "KafkaBadSettings", "{error}");
    let files = Fixture::json();
    reader.fixture = files;
    let error = reader.read(&mut reader.fixture.preview()).unwrap_err();
    assert_eq!(error.code(), "FeedIsNoTopic", "{error}");
}

#[test]
fn a_dry_run_over_a_topic_changes_nothing() {
    let broker = Broker::shared();
    let topic = broker.topic("dry", 2);
    let messages: Vec<_> = messages(100, 6)
        .into_iter()
        .map(|(p, m)| (p % 2, m))
        .collect();
    broker.send(&topic, sent(&messages));
    let mut reader = Reader::new(&broker.address, source(&topic));
    reader.fixture.options.dry_run = true;
    let report = reader.read(&mut reader.fixture.preview()).unwrap();
    assert_eq!((report.dry_run, report.counts.read), (true, 100));
    assert!(!reader.fixture.state().exists());
    reader.fixture.options.dry_run = false;
    let report = reader.read(&mut reader.fixture.preview()).unwrap();
    assert_eq!(report.counts.read, 100);
}

#[test]
fn a_failure_ends_the_following_of_a_quiet_topic() {
    let broker = Broker::shared();
    let topic = broker.topic("quiet", 1);
    broker.send(&topic, [Sent::value(0, json(1, 1, 1))]);
    let reader = Reader::new(&broker.address, source(&topic));
    let options = TopicOptions {
        follow: true,
        ..reader.options()
    };
    let mut mortal = Mortal {
        table: reader.fixture.preview(),
        steps_left: 1,
    };
    let (read, facts) = reader.read_with(&mut mortal, &options);
    assert_eq!(read.unwrap_err().code(), "IngestIo");
    assert!(facts.is_empty());
}
