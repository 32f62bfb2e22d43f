//! The connection to a cluster: settings, the group, what the client library tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{
    error::TopicError,
    events::{BrokersBack, BrokersGone},
    position::TopicPosition,
};

/// How the hub reaches its cluster. Nothing of it stands in a feed's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Where to find brokers: `host:port`, separated by commas.
    pub brokers: String,
    /// What the name of the consumer group begins with; the feed's name follows.
    pub group: String,
    /// Names this hub among the members of the group: the same after a restart, another for every hub.
    pub member: String,
    /// How the connection is secured, in the client library's own words (`security.protocol`, `sasl.username` …).
    pub security: BTreeMap<String, String>,
    /// The largest message that is received, in bytes.
    pub message_bytes: usize,
    /// How much is fetched ahead, in bytes.
    pub queued_bytes: usize,
    /// How long a run that is to end waits for brokers, in seconds; one that follows waits for ever.
    pub wait_seconds: u64,
}

impl KafkaSettings {
    /// The largest message that is received, unless configured otherwise: twice what a careless producer may send.
    pub const MESSAGE_BYTES: usize = 128 << 20;
    /// How much is fetched ahead, unless configured otherwise.
    pub const QUEUED_BYTES: usize = 32 << 20;
    /// How long a run that is to end waits for brokers, unless configured otherwise.
    pub const WAIT_SECONDS: u64 = 300;

    /// The group in which `feed` is read.
    pub(crate) fn group_of(&self, feed: &str) -> String {
        format!("{}-{feed}", self.group)
    }

    /// What every connection to the cluster has.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "qihui")
            .set("allow.auto.create.topics", "false")
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.keepalive.enable", "true")
            .set("topic.metadata.refresh.interval.ms", "30000");
        for (name, value) in &self.security {
            config.set(name, value);
        }
        config
    }

    /// A consumer in the group of `feed`. The position is ours alone: nothing is committed or reset by itself.
    pub(super) fn consumer(&self, feed: &str) -> ClientConfig {
        /// More than this is not asked for at once, unless one message is larger.
        const FETCH_BYTES: usize = 16 << 20;
        let receive = self.message_bytes.max(FETCH_BYTES) + (1 << 20);
        let mut config = self.client();
        config
            .set("group.id", self.group_of(feed))
            .set("group.instance.id", &self.member)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("partition.assignment.strategy", "range")
            // Landing a chunk may take longer than the library thinks a reader may think.
            .set("max.poll.interval.ms", "3600000")
            .set("statistics.interval.ms", "5000")
            .set("fetch.max.bytes", FETCH_BYTES.to_string())
            .set("receive.message.max.bytes", receive.to_string())
            .set(
                "queued.max.messages.kbytes",
                (self.queued_bytes / 1024).max(1).to_string(),
            );
        config
    }

    /// A consumer that looks at single messages, in no group.
    pub(super) fn looker(&self, feed: &str) -> ClientConfig {
        let mut config = self.consumer(feed);
        config
            .remove("group.instance.id")
            .set("statistics.interval.ms", "0")
            .set("max.partition.fetch.bytes", "65536")
            .set("queued.min.messages", "1");
        config
    }
}

/// Where reading stands in one partition, messages not handed over yet included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub next: i64,
    /// The message read last.
    pub offset: i64,
    pub sha256: [u8; 32],
}

/// What is known about a connection, shared with the callbacks of the client library.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub marks: BTreeMap<i32, Mark>,
    pub assigned: BTreeSet<i32>,
    /// Partitions were assigned since this was last looked at.
    pub reassigned: bool,
    /// Partitions whose offset the broker keeps for others to see.
    pub kept: BTreeSet<i32>,
    /// The end of each partition, as last reported.
    pub ends: BTreeMap<i32, i64>,
    /// An error that does not pass.
    pub fatal: Option<RDKafkaErrorCode>,
    /// A response was larger than may be received.
    pub oversized: bool,
    gone_since: Option<Instant>,
}

/// Listens to the client library.
pub(super) struct Listener {
    feed: String,
    topic: String,
    known: Mutex<Known>,
}

impl Listener {
    pub fn new(feed: &str, topic: &str) -> Self {
        Self {
            feed: feed.to_owned(),
            topic: topic.to_owned(),
            known: Mutex::default(),
        }
    }

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says, once, that no broker answers.
    pub fn gone(&self) {
        let mut known = self.known();
        if known.gone_since.is_none() {
            known.gone_since = Some(Instant::now());
            let (feed, topic) = (self.feed.as_str(), self.topic.as_str());
            BrokersGone { feed, topic }.emit();
        }
    }

    /// Says, once, that brokers answer again.
    pub fn back(&self) {
        let gone = self.known().gone_since.take();
        if let Some(since) = gone {
            let waited_seconds = since.elapsed().as_secs();
            BrokersBack {
                feed: &self.feed,
                topic: &self.topic,
                waited_seconds,
            }
            .emit();
        }
    }

    /// How long no broker has answered.
    pub fn gone_for(&self) -> Option<Duration> {
        self.known().gone_since.map(|since| since.elapsed())
    }

    /// How many messages are waiting, as far as is known.
    pub fn lag(&self) -> u64 {
        let known = self.known();
        let behind = known.ends.iter().map(|(partition, end)| {
            let next = known.marks.get(partition).map_or(0, |mark| mark.next);
            u64::try_from(end - next).unwrap_or(0)
        });
        behind.sum()
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Nothing but this line says why the library hangs up on a broker that sends too much.
        if message.contains("Invalid message size") || message.contains("receive.message.max.bytes")
        {
            self.known().oversized = true;
        }
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        let ends = topic.partitions.values();
        let ends = ends.filter(|of| of.partition >= 0 && of.ls_offset >= 0);
        self.known().ends = ends.map(|of| (of.partition, of.ls_offset)).collect();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        tracing::debug!(
            feed = self.feed,
            ?code,
            reason,
            "the client library reports an error"
        );
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.gone(),
            Some(code) if is_refusal(code) || code == RDKafkaErrorCode::Fatal => {
                self.known().fatal.get_or_insert(code);
            }
            _ => {}
        }
    }
}

impl ConsumerContext for Listener {
    /// Partitions are read from where reading stands, whatever the broker keeps.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let result = if matches!(error, RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
            let mut list = TopicPartitionList::new();
            let mut known = self.known();
            known.assigned.clear();
            for partition in partitions.elements().iter().map(|of| of.partition()) {
                let next = known.marks.get(&partition);
                let from = next.map_or(Offset::Beginning, |mark| Offset::Offset(mark.next));
                let added = list.add_partition_offset(&self.topic, partition, from);
                if added.is_ok() {
                    known.assigned.insert(partition);
                }
            }
            known.reassigned = true;
            drop(known);
            consumer.assign(&list)
        } else {
            self.known().assigned.clear();
            consumer.unassign()
        };
        if let Err(error) = result {
            tracing::warn!(feed = self.feed, %error, "partitions could not be taken over");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        match result {
            Ok(()) => {
                let kept = offsets
                    .elements()
                    .iter()
                    .map(|of| of.partition())
                    .collect::<Vec<_>>();
                self.known().kept.extend(kept);
            }
            Err(error) => {
                tracing::debug!(feed = self.feed, %error, "the broker does not keep our offsets");
            }
        }
    }
}

/// Whether the cluster will not let us, however often we ask.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::SSL
    )
}

/// The offsets of `position` as the broker keeps them, for tools that show lag.
pub(super) fn kept_offsets(position: &TopicPosition) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, at) in &position.partitions {
        // Only an offset that is no offset is refused.
        let _ = list.add_partition_offset(&position.topic, *partition, Offset::Offset(at.next));
    }
    list
}

/// What the library says about a configuration or a call, without values.
pub(super) fn bad_settings(error: &KafkaError) -> TopicError {
    let reason = match error {
        KafkaError::ClientConfig(_, reason, name, _) => format!("`{name}`: {reason}"),
        KafkaError::ClientCreation(reason) => reason.clone(),
        other => other.to_string(),
    };
    TopicError::BadSettings { reason }
}
