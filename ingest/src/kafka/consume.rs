//! Reads messages and gathers them into chunks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Message},
    types::RDKafkaRespErr,
};
use ring::digest::{Context, SHA256};

use super::{
    client::{KafkaSettings, Listener, Mark, bad_settings, is_refusal},
    decode::Decoder,
    error::TopicError,
    events::{PartitionsAssigned, TopicLag},
    position::{Seen, Span, SpanOf, TopicPosition, fingerprint, finish, message_bytes},
    verify::{ANSWER, Unverified, verify},
};
use crate::{
    Limits,
    chunk::{Rejected, RowAt, Rows},
    reader,
};

/// How long one look for messages takes at most.
const LOOK: Duration = Duration::from_millis(100);
/// How long partitions may take to be ours before others are said to hold them.
const ASSIGNMENT: Duration = Duration::from_secs(if cfg!(test) { 15 } else { 90 });
/// How long a topic may be unknown: brokers that have just started do not know everything at once.
const UNKNOWN: Duration = Duration::from_secs(10);
/// How often the lag is told.
const TELL_LAG: Duration = Duration::from_secs(30);

/// Asks a run over a topic to end behind the chunk it is at. Clones ask together.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was read between two positions of a topic.
pub(super) struct TopicChunk {
    pub span: Span,
    /// The good messages; where they stand is an offset in `raw` and, as a line, their offset in their partition.
    pub rows: Rows,
    /// Per row, its partition.
    pub partitions: Vec<i32>,
    /// The bytes of the good messages, for those that their table turns away.
    pub raw: Vec<u8>,
    /// What cannot land, with its partition.
    pub rejected: Vec<(i32, Rejected)>,
    /// SHA-256 of what the messages look like, in the order they were read.
    pub input_hash: [u8; 32],
}

/// A chunk that is not whole yet.
struct Gathering {
    spans: BTreeMap<i32, (i64, Mark)>,
    records: u64,
    bytes: u64,
    partitions: Vec<i32>,
    raw: Vec<u8>,
    rejected: Vec<(i32, Rejected)>,
    hash: Context,
    since: Option<Instant>,
}

impl Gathering {
    fn new() -> Self {
        Self {
            spans: BTreeMap::new(),
            records: 0,
            bytes: 0,
            partitions: Vec::new(),
            raw: Vec::new(),
            rejected: Vec::new(),
            hash: Context::new(&SHA256),
            since: None,
        }
    }

    fn finish(self, rows: Rows) -> TopicChunk {
        let of = |(partition, (from, mark)): (i32, (i64, Mark))| {
            let last = Seen {
                offset: mark.offset,
                sha256: hex::encode(mark.sha256),
            };
            (partition, SpanOf { from, last })
        };
        TopicChunk {
            span: Span {
                partitions: self.spans.into_iter().map(of).collect(),
                records: self.records,
                bytes: self.bytes,
            },
            rows,
            partitions: self.partitions,
            raw: self.raw,
            rejected: self.rejected,
            input_hash: finish(self.hash),
        }
    }
}

/// What a reader needs to know.
pub(super) struct Reading {
    pub settings: KafkaSettings,
    pub feed: String,
    pub topic: String,
    pub limits: Limits,
    pub commit_rows: u64,
    pub commit_time: Duration,
    /// Go on behind the ends that the topic had at the start.
    pub follow: bool,
    pub stop: Stop,
}

/// Reads one topic.
pub(super) struct TopicReader {
    reading: Reading,
    consumer: Arc<BaseConsumer<Listener>>,
    decoder: Decoder,
    partitions: BTreeSet<i32>,
    /// Where a run that is to end does, per partition; empty for one that follows.
    ends: BTreeMap<i32, i64>,
    /// Partitions that were read to their end since they were assigned.
    at_end: BTreeSet<i32>,
    /// When there was last a reason to believe that all partitions are ours.
    whole_at: Instant,
    unknown_since: Option<Instant>,
    told_lag: Instant,
}

impl TopicReader {
    /// Connects, and learns which partitions the topic has and how the cluster names itself. Blocks until a broker
    /// answers, somebody asks to stop (then there is none), or patience ends.
    pub fn connect(
        reading: Reading,
        decoder: Decoder,
    ) -> Result<Option<(Self, String)>, TopicError> {
        let listener = Listener::new(&reading.feed, &reading.topic);
        let config = reading.settings.consumer(&reading.feed);
        let consumer = config
            .create_with_context(listener)
            .map_err(|error| bad_settings(&error))?;
        let mut reader = Self {
            reading,
            consumer: Arc::new(consumer),
            decoder,
            partitions: BTreeSet::new(),
            ends: BTreeMap::new(),
            at_end: BTreeSet::new(),
            whole_at: Instant::now(),
            unknown_since: None,
            told_lag: Instant::now(),
        };
        if !reader.learn_partitions()? {
            return Ok(None);
        }
        let Some(cluster) = reader.until_answered(|reader| {
            let cluster = reader.consumer.client().fetch_cluster_id(ANSWER);
            cluster.ok_or(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut))
        })?
        else {
            return Ok(None);
        };
        Ok(Some((reader, cluster)))
    }

    /// The consumer, for what is to be told to the broker.
    pub fn consumer(&self) -> Arc<BaseConsumer<Listener>> {
        Arc::clone(&self.consumer)
    }

    pub fn partitions(&self) -> &BTreeSet<i32> {
        &self.partitions
    }

    /// Begins to read from `position` on, if the topic is still the one it speaks of. False when asked to stop.
    pub fn begin(&mut self, position: &TopicPosition) -> Result<bool, TopicError> {
        let mut marks = BTreeMap::new();
        for (partition, at) in &position.partitions {
            let mut sha256 = [0; 32];
            if hex::decode_to_slice(&at.last.sha256, &mut sha256).is_err() {
                return Err(self.failed("the position in the table is damaged"));
            }
            let (next, offset) = (at.next, at.last.offset);
            let mark = Mark {
                next,
                offset,
                sha256,
            };
            marks.insert(*partition, mark);
        }
        self.consumer.context().known().marks = marks;
        if !self.verify()? {
            return Ok(false);
        }
        if !self.reading.follow {
            for partition in self.partitions.clone() {
                let marks = self.until_answered(|reader| {
                    let topic = &reader.reading.topic;
                    reader.consumer.fetch_watermarks(topic, partition, ANSWER)
                })?;
                let Some((first, end)) = marks else {
                    return Ok(false);
                };
                if end > first {
                    self.ends.insert(partition, end);
                }
            }
        }
        let subscribed = self.consumer.subscribe(&[&self.reading.topic]);
        subscribed.map_err(|error| bad_settings(&error))?;
        self.whole_at = Instant::now();
        Ok(true)
    }

    /// The next chunk; none when everything there was to read is read, or somebody asked to stop.
    pub fn next_chunk(&mut self) -> Result<Option<TopicChunk>, TopicError> {
        let mut gathering = Gathering::new();
        let consumer = Arc::clone(&self.consumer);
        while !self.is_whole(&gathering) && !self.reading.stop.is_asked() && !self.is_drained() {
            let polled = consumer.poll(LOOK);
            self.listen()?;
            match polled {
                None => self.check_assignment()?,
                Some(Ok(message)) => self.take(&message, &mut gathering),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.answered();
                    self.at_end.insert(partition);
                }
                Some(Err(error)) => self.trouble(&error)?,
            }
        }
        if gathering.records == 0 {
            return Ok(None);
        }
        // Whoever deletes a topic deletes the offsets that are kept for it.
        if self.was_forgotten() && !self.verify()? {
            return Ok(None);
        }
        Ok(Some(gathering.finish(self.decoder.finish())))
    }

    /// How many messages are waiting, as far as can be told.
    pub fn lag(&self) -> u64 {
        let topic = &self.reading.topic;
        for partition in &self.partitions {
            if let Ok((_, end)) = self.consumer.fetch_watermarks(topic, *partition, ANSWER) {
                self.consumer.context().known().ends.insert(*partition, end);
            }
        }
        self.consumer.context().lag()
    }

    fn is_whole(&self, gathering: &Gathering) -> bool {
        let due = gathering
            .since
            .is_some_and(|since| since.elapsed() >= self.reading.commit_time);
        due || gathering.records >= self.reading.commit_rows
            || gathering.bytes >= self.reading.limits.chunk_bytes as u64
    }

    /// Whether a run that is to end has read everything that was there when it began.
    fn is_drained(&self) -> bool {
        let known = self.consumer.context().known();
        let read = |(partition, end): (&i32, &i64)| {
            let next = known.marks.get(partition).map_or(0, |mark| mark.next);
            next >= *end || self.at_end.contains(partition)
        };
        !self.reading.follow && self.ends.iter().all(read)
    }

    fn take(&mut self, message: &BorrowedMessage<'_>, gathering: &mut Gathering) {
        self.answered();
        let (partition, offset) = (message.partition(), message.offset());
        let next = self
            .consumer
            .context()
            .known()
            .marks
            .get(&partition)
            .map(|mark| mark.next);
        if next.is_some_and(|next| offset < next) {
            // Delivered again: it has its outcome.
            return;
        }
        let (key, value) = (message.key(), message.payload());
        let sha256 = fingerprint(offset, message.timestamp().to_millis(), key, value);
        let mark = Mark {
            next: offset + 1,
            offset,
            sha256,
        };
        self.consumer
            .context()
            .known()
            .marks
            .insert(partition, mark);
        gathering.since.get_or_insert_with(Instant::now);
        gathering.hash.update(&sha256);
        gathering.records += 1;
        gathering.bytes += message_bytes(key, value);
        let span = gathering
            .spans
            .entry(partition)
            .or_insert((next.unwrap_or(offset), mark));
        span.1 = mark;
        let bytes = value.or(key).unwrap_or_default();
        let at = RowAt {
            offset: gathering.raw.len() as u64,
            line: offset.cast_unsigned(),
            // INVARIANT: a message is at most 2 GiB, which the client library bounds.
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            head_before: 0,
            head_length: 0,
        };
        match self.decoder.take(message, at) {
            Ok(()) => {
                gathering.partitions.push(partition);
                gathering.raw.extend_from_slice(bytes);
            }
            Err(problems) => {
                let kept = self.reading.limits.kept_bytes;
                let rejected = reader::reject_bytes(offset.cast_unsigned(), bytes, problems, kept);
                gathering.rejected.push((partition, rejected));
            }
        }
    }

    /// Something came from a broker.
    fn answered(&mut self) {
        self.consumer.context().back();
        self.unknown_since = None;
    }

    /// Acts on what the client library has told since the last look.
    fn listen(&mut self) -> Result<(), TopicError> {
        let (reassigned, assigned, fatal, oversized) = {
            let mut known = self.consumer.context().known();
            let reassigned = std::mem::take(&mut known.reassigned);
            let oversized = std::mem::take(&mut known.oversized);
            (
                reassigned,
                known.assigned.clone(),
                known.fatal.take(),
                oversized,
            )
        };
        if let Some(code) = fatal {
            self.fatal(code)?;
        }
        if oversized {
            return Err(TopicError::MessageTooLarge {
                topic: self.reading.topic.clone(),
                limit: self.reading.settings.message_bytes,
            });
        }
        if reassigned {
            self.at_end.clear();
            self.answered();
            PartitionsAssigned {
                feed: &self.reading.feed,
                topic: &self.reading.topic,
                assigned: assigned.len(),
                partitions: self.partitions.len(),
            }
            .emit();
            self.partitions.extend(assigned);
            self.verify()?;
        }
        if self.told_lag.elapsed() >= TELL_LAG {
            self.told_lag = Instant::now();
            TopicLag {
                feed: &self.reading.feed,
                topic: &self.reading.topic,
                messages: self.consumer.context().lag(),
            }
            .emit();
        }
        Ok(())
    }

    /// A run that is to end cannot wait for partitions that others hold.
    fn check_assignment(&mut self) -> Result<(), TopicError> {
        self.check_patience()?;
        let assigned = self.consumer.context().known().assigned.clone();
        let missing = self.ends.keys().filter(|p| !assigned.contains(p)).count();
        if missing == 0 || self.consumer.context().gone_for().is_some() {
            self.whole_at = Instant::now();
        }
        if self.whole_at.elapsed() < ASSIGNMENT {
            return Ok(());
        }
        Err(TopicError::PartitionsElsewhere {
            topic: self.reading.topic.clone(),
            group: self.reading.settings.group_of(&self.reading.feed),
            missing,
            partitions: self.partitions.len(),
        })
    }

    /// A run that is to end does not wait for ever.
    fn check_patience(&self) -> Result<(), TopicError> {
        let seconds = self.reading.settings.wait_seconds;
        let gone_for = self.consumer.context().gone_for();
        if self.reading.follow || gone_for.is_none_or(|gone| gone.as_secs() < seconds) {
            return Ok(());
        }
        Err(TopicError::Unavailable {
            brokers: self.reading.settings.brokers.clone(),
            seconds,
        })
    }

    /// An error among the messages: it passes, or it ends the reading.
    fn trouble(&mut self, error: &KafkaError) -> Result<(), TopicError> {
        let Some(code) = error.rdkafka_error_code() else {
            return Err(self.failed(&error.to_string()));
        };
        tracing::debug!(feed = self.reading.feed, %error, "an error among the messages");
        match code {
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition => {
                if !self.learn_partitions()? || !self.verify()? {
                    return Ok(());
                }
                self.seek()
            }
            // The log no longer holds where we stand; looking says why.
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                if self.verify()? { self.seek() } else { Ok(()) }
            }
            RDKafkaErrorCode::MessageSizeTooLarge => Err(TopicError::MessageTooLarge {
                topic: self.reading.topic.clone(),
                limit: self.reading.settings.message_bytes,
            }),
            RDKafkaErrorCode::AllBrokersDown => {
                self.consumer.context().gone();
                Ok(())
            }
            code if matches!(error, KafkaError::MessageConsumptionFatal(_)) => self.fatal(code),
            code if is_refusal(code) || code == RDKafkaErrorCode::Fatal => self.fatal(code),
            RDKafkaErrorCode::NotImplemented | RDKafkaErrorCode::BadCompression => {
                Err(self.failed(&code.to_string()))
            }
            // Timeouts, changes of leaders, connections that broke: the client library tries again.
            _ => self.check_patience(),
        }
    }

    /// Reads on from where reading stands, in all partitions that are ours.
    fn seek(&mut self) -> Result<(), TopicError> {
        let mut list = TopicPartitionList::new();
        {
            let known = self.consumer.context().known();
            for partition in &known.assigned {
                let mark = known.marks.get(partition);
                let from = mark.map_or(Offset::Beginning, |mark| Offset::Offset(mark.next));
                let _ = list.add_partition_offset(&self.reading.topic, *partition, from);
            }
        }
        match self.consumer.assign(&list) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    fn fatal(&self, code: RDKafkaErrorCode) -> Result<(), TopicError> {
        let topic = self.reading.topic.clone();
        let code = match self.consumer.client().fatal_error() {
            Some((code, _)) => code,
            None => code,
        };
        Err(match code {
            RDKafkaErrorCode::FencedInstanceId => TopicError::Displaced {
                topic,
                group: self.reading.settings.group_of(&self.reading.feed),
            },
            code if is_refusal(code) => TopicError::Refused {
                topic,
                reason: code.to_string(),
            },
            code => self.failed(&code.to_string()),
        })
    }

    fn failed(&self, reason: &str) -> TopicError {
        TopicError::Failed {
            topic: self.reading.topic.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Whether the broker has forgotten offsets that it kept for this topic.
    fn was_forgotten(&self) -> bool {
        let topic = &self.reading.topic;
        let kept = self.consumer.context().known().kept.clone();
        let mut list = TopicPartitionList::new();
        for partition in &kept {
            list.add_partition(topic, *partition);
        }
        if kept.is_empty() {
            return false;
        }
        let Ok(answer) = self.consumer.committed_offsets(list, ANSWER) else {
            return false;
        };
        let forgotten = answer.elements().into_iter();
        let forgotten = forgotten.filter(|of| !matches!(of.offset(), Offset::Offset(_)));
        let forgotten: Vec<i32> = forgotten.map(|of| of.partition()).collect();
        let mut known = self.consumer.context().known();
        for partition in &forgotten {
            known.kept.remove(partition);
        }
        !forgotten.is_empty()
    }

    /// Asks the brokers whether the topic is still the one that was read. False when asked to stop meanwhile.
    fn verify(&mut self) -> Result<bool, TopicError> {
        let marks = self.consumer.context().known().marks.clone();
        let verified = self.until(|reader| {
            let reading = &reader.reading;
            let (feed, topic) = (&reading.feed, &reading.topic);
            let partitions = &reader.partitions;
            match verify(
                &reading.settings,
                &reader.consumer,
                feed,
                topic,
                &marks,
                partitions,
            ) {
                Ok(()) => Ok(Some(())),
                Err(Unverified::Differs(error)) => Err(error),
                Err(Unverified::Unanswered(error)) => reader.unanswered(&error).map(|()| None),
            }
        })?;
        Ok(verified.is_some())
    }

    /// Learns which partitions the topic has. False when asked to stop meanwhile.
    fn learn_partitions(&mut self) -> Result<bool, TopicError> {
        let found = self.until(|reader| {
            let metadata = reader
                .consumer
                .fetch_metadata(Some(&reader.reading.topic), ANSWER);
            let metadata = match metadata {
                Ok(metadata) => metadata,
                Err(error) => return reader.unanswered(&error).map(|()| None),
            };
            let topic = metadata.topics().first();
            match topic.map(|topic| (topic.error(), topic.partitions())) {
                Some((None, partitions)) if !partitions.is_empty() => {
                    let ids = partitions.iter().map(|partition| partition.id());
                    Ok(Some(ids.collect::<BTreeSet<i32>>()))
                }
                Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), _)) => {
                    Err(TopicError::Refused {
                        topic: reader.reading.topic.clone(),
                        reason: RDKafkaErrorCode::TopicAuthorizationFailed.to_string(),
                    })
                }
                _ => reader.unknown().map(|()| None),
            }
        })?;
        let known = found.is_some();
        if let Some(partitions) = found {
            self.partitions = partitions;
        }
        Ok(known)
    }

    /// The topic is not known (yet, or any more).
    fn unknown(&mut self) -> Result<(), TopicError> {
        let since = *self.unknown_since.get_or_insert_with(Instant::now);
        if since.elapsed() < UNKNOWN {
            std::thread::sleep(LOOK);
            return Ok(());
        }
        Err(TopicError::UnknownTopic {
            topic: self.reading.topic.clone(),
            feed: self.reading.feed.clone(),
        })
    }

    /// A question was not answered: ask again, or give up.
    fn unanswered(&mut self, error: &KafkaError) -> Result<(), TopicError> {
        match error.rdkafka_error_code() {
            Some(code) if is_refusal(code) => return self.fatal(code),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return self.unknown();
            }
            _ => {}
        }
        // Serves what the library has to tell, before anybody subscribes.
        let _ = self.consumer.poll(LOOK);
        let (fatal, gone) = {
            let mut known = self.consumer.context().known();
            (
                known.fatal.take(),
                matches!(error, KafkaError::MetadataFetch(_)),
            )
        };
        if let Some(code) = fatal {
            return self.fatal(code);
        }
        if gone {
            self.consumer.context().gone();
        }
        self.check_patience()
    }

    /// Asks a question again until it is answered. None when asked to stop meanwhile.
    fn until_answered<T>(
        &mut self,
        ask: impl Fn(&Self) -> Result<T, KafkaError>,
    ) -> Result<Option<T>, TopicError> {
        self.until(|reader| match ask(reader) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => reader.unanswered(&error).map(|()| None),
        })
    }

    fn until<T>(
        &mut self,
        mut ask: impl FnMut(&mut Self) -> Result<Option<T>, TopicError>,
    ) -> Result<Option<T>, TopicError> {
        while !self.reading.stop.is_asked() {
            if let Some(answer) = ask(self)? {
                self.answered();
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}
