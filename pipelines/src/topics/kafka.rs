//! Delivery by Kafka: one topic per organisation and topic of the hub, one transaction per page.
//!
//! Promise: a reader with `isolation.level=read_committed` sees every change once, in order per enterprise, whatever is
//! killed when. The transaction that carries a page also carries the progress after it, to a compacted topic; at every
//! start that topic says what arrived, and what the hub has on disk is brought into line with it:
//!
//! | the broker's progress | means | what is done |
//! |---|---|---|
//! | as on disk, a page under way | its transaction never committed | the page is made anew |
//! | one page further | it committed, and the hub was killed before it noted that | the broker's is taken over |
//! | behind, or none though pages arrived | the broker lost what it had acknowledged | everything is brought again, after a reset |
//!
//! Names: events go to `qihui.<org>.<topic>`, progress to `qihui.progress` (key: the subscription). A message is a
//! CloudEvent in binary mode: `ce_` headers, `content-type`, the data as value, and the enterprise's code as key. A reset
//! and a notice about everybody have no key and go to every partition.
//!
//! GATE-4: a page is produced and committed while the release lock is held, within [`RELEASE_TIME`]; a broker that takes
//! longer has its transaction aborted, so an acknowledgement of a withdrawal waits no longer than that. While the
//! broker is gone nothing is held, and the delivery waits and says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use qihui_query::QueryError;
use qihui_query::access::delivery::{Delivery, PageRecord, PageSink};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use ring::digest::{Context, SHA256};
use serde::Serialize;
use tokio::sync::watch;

use super::error::TopicError;
use super::event::{Envelope, Event, Events};
use super::events::{self, BrokerGone, Connected, PageLeft};
use super::page::{Draft, Drafted, PageLimits};
use super::progress::Progress;
use super::{DECIDE_EVERY, Desk, LOOK_EVERY, Topics};

/// The topic of the progresses.
pub const PROGRESS_TOPIC: &str = "qihui.progress";
/// How long a page may take from its first message to its commit, and a second more for every [`RELEASE_STEP`] bytes: only
/// an enterprise with very many rows makes a page that large.
pub const RELEASE_TIME: Duration = Duration::from_secs(2);
/// See [`RELEASE_TIME`].
pub const RELEASE_STEP: usize = 8 << 20;
/// How long an abort may take after that.
const ABORT_TIME: Duration = Duration::from_secs(1);
/// How long a broker may take to say anything at all.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// How long a connection may take to come about.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How long it waits before it tries again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// A connection that lasted so long was a good one.
const LASTING: Duration = Duration::from_secs(60);

type Producer = ThreadedProducer<DefaultProducerContext>;

/// How the brokers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `host:port` of some brokers, joined by commas.
    pub brokers: String,
    /// Partitions of a topic that the hub makes.
    pub partitions: i32,
    /// Further settings of the client library, for example of its security.
    pub client: BTreeMap<String, String>,
    /// How large a page may become.
    pub limits: PageLimits,
}

impl KafkaSettings {
    /// Settings for these brokers, the rest as it is by default.
    #[must_use]
    pub fn new(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            partitions: 3,
            client: BTreeMap::new(),
            limits: PageLimits::default(),
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.client {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}

/// What a delivery came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Delivered {
    /// Pages that arrived.
    pub pages: u64,
    /// Events in them.
    pub events: u64,
}

/// When a delivery ends.
#[derive(Debug)]
pub enum Until {
    /// Once the subscriber holds what it may see; at once when the broker does not answer.
    UpToDate,
    /// When told; meanwhile it follows every change, and waits for a broker that is gone.
    Told(watch::Receiver<bool>),
}

impl Until {
    fn is_over(&self) -> bool {
        match self {
            Self::UpToDate => false,
            // Whoever could tell is gone: that tells as well.
            Self::Told(told) => *told.borrow() || told.has_changed().is_err(),
        }
    }

    /// Ends when told.
    async fn over(&mut self) {
        match self {
            Self::UpToDate => std::future::pending().await,
            Self::Told(told) => {
                let _ = told.wait_for(|over| *over).await;
            }
        }
    }

    /// Waits, but not beyond the end.
    async fn wait(&mut self, time: Duration) {
        let _ = tokio::time::timeout(time, self.over()).await;
    }
}

/// How a delivery goes.
struct Course<'a> {
    subscription: &'a str,
    delivered: Delivered,
    /// Since when it waits for a broker.
    waiting: Option<Instant>,
}

impl Course<'_> {
    fn connected(&mut self, topic: &str) {
        let waited = self.waiting.take().map(|since| since.elapsed());
        let subscription = self.subscription;
        Connected {
            subscription,
            topic,
            waited,
        }
        .emit();
    }

    fn broke_off(&mut self, reason: &str) {
        let subscription = self.subscription;
        if self.waiting.is_none() {
            self.waiting = Some(Instant::now());
            BrokerGone {
                subscription,
                reason,
            }
            .emit();
        }
    }
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        events::over(self.subscription);
    }
}

/// The Kafka topic of a subscription.
#[must_use]
pub fn topic_name(org: &str, topic: &str) -> String {
    format!("qihui.{org}.{topic}")
}

/// An open connection.
struct Line {
    producer: Arc<Producer>,
    topic: String,
    partitions: i32,
}

/// One message, ready to be sent.
struct Parcel {
    headers: OwnedHeaders,
    /// Where key and value stand in the events.
    event: Event,
    partition: Option<i32>,
}

/// A page on its way.
struct Shipment {
    line: Arc<Line>,
    parcels: Arc<Vec<Parcel>>,
    events: Arc<Events>,
    /// The subscription and its progress after the page.
    progress: Arc<(String, Vec<u8>)>,
    /// What the broker's side said, when the page did not arrive.
    failure: Option<KafkaError>,
}

#[async_trait]
impl PageSink for Shipment {
    async fn send(&mut self) -> Result<(), QueryError> {
        let (line, parcels) = (Arc::clone(&self.line), Arc::clone(&self.parcels));
        let (events, progress) = (Arc::clone(&self.events), Arc::clone(&self.progress));
        let work = move || ship(&line, &parcels, &events, &progress);
        let shipped = tokio::task::spawn_blocking(work).await;
        match shipped {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let message = error.to_string();
                self.failure = Some(error);
                Err(QueryError::Output { message })
            }
            Err(_) => Err(QueryError::Internal {
                what: "sending a page",
            }),
        }
    }
}

/// Sends a page in a transaction of its own; aborts it when something fails or takes too long.
fn ship(
    line: &Line,
    parcels: &[Parcel],
    events: &Events,
    progress: &(String, Vec<u8>),
) -> Result<(), KafkaError> {
    let more = u64::try_from(events.bytes() / RELEASE_STEP).unwrap_or(0);
    let deadline = Instant::now() + RELEASE_TIME + Duration::from_secs(more);
    line.producer.begin_transaction()?;
    let shipped = produce(line, parcels, events, progress, deadline).and_then(|()| {
        let left = deadline.saturating_duration_since(Instant::now());
        line.producer.commit_transaction(left)
    });
    if shipped.is_err() {
        // If this fails as well the producer is given up, and its successor aborts.
        let _ = line.producer.abort_transaction(ABORT_TIME);
    }
    shipped
}

fn produce(
    line: &Line,
    parcels: &[Parcel],
    events: &Events,
    progress: &(String, Vec<u8>),
    deadline: Instant,
) -> Result<(), KafkaError> {
    for parcel in parcels {
        let key = events.subject(&parcel.event);
        let mut record = BaseRecord::<str, [u8]>::to(&line.topic)
            .payload(events.data(&parcel.event))
            .headers(parcel.headers.clone());
        if !key.is_empty() {
            record = record.key(key);
        }
        if let Some(partition) = parcel.partition {
            record = record.partition(partition);
        }
        enqueue(line, record, deadline)?;
    }
    let (subscription, bytes) = progress;
    let record = BaseRecord::<str, [u8]>::to(PROGRESS_TOPIC)
        .key(subscription.as_str())
        .payload(bytes.as_slice());
    enqueue(line, record, deadline)
}

/// Puts a message into the producer's queue, waiting while that is full.
fn enqueue<'a>(
    line: &Line,
    mut record: BaseRecord<'a, str, [u8]>,
    deadline: Instant,
) -> Result<(), KafkaError> {
    loop {
        match line.producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                if Instant::now() < deadline =>
            {
                record = back;
                line.producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// What an error of the client library means: that the broker is to be waited for, or that waiting is in vain.
fn unavailable(error: &KafkaError) -> TopicError {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => TopicError::BadSettings {
            reason: format!("`{name}`: {reason}"),
        },
        KafkaError::ClientCreation(reason) => TopicError::BadSettings {
            reason: reason.clone(),
        },
        other => TopicError::BrokerUnavailable {
            reason: other.to_string(),
        },
    }
}

fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        other => other.rdkafka_error_code(),
    }
}

/// Whether another producer with the same name has begun.
fn is_taken_over(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(
        code(error),
        Some(Fenced | ProducerFenced | InvalidProducerEpoch)
    )
}

impl Topics {
    /// Delivers a subscription by Kafka.
    ///
    /// # Errors
    /// The subscription is unknown or of another form; gate, ledger, log or file system refuse; another process has taken
    /// over. With [`Until::UpToDate`] also [`TopicError::BrokerUnavailable`]; otherwise the broker is waited for.
    pub async fn deliver(
        &self,
        settings: &KafkaSettings,
        subscription: &str,
        mut until: Until,
    ) -> Result<Delivered, TopicError> {
        if settings.brokers.is_empty() {
            return Err(TopicError::NoBroker);
        }
        let mut course = Course {
            subscription,
            delivered: Delivered::default(),
            waiting: None,
        };
        events::connecting(subscription);
        let mut pause = RETRY.0;
        while !until.is_over() {
            let (before, begun) = (course.delivered, Instant::now());
            match self.attend(settings, &mut until, &mut course).await {
                Ok(()) => break,
                Err(TopicError::BrokerUnavailable { reason })
                    if matches!(until, Until::Told(_)) =>
                {
                    if course.delivered != before || begun.elapsed() >= LASTING {
                        pause = RETRY.0;
                    }
                    course.broke_off(&reason);
                    until.wait(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(course.delivered)
    }

    /// Delivers over one connection, until the end or until it breaks.
    async fn attend(
        &self,
        settings: &KafkaSettings,
        until: &mut Until,
        course: &mut Course<'_>,
    ) -> Result<(), TopicError> {
        let desk = self.desk(course.subscription, Delivery::Kafka).await?;
        let mut turn = desk.lane.turn.lock().await;
        let on_disk = self.progress(&desk, &mut turn)?;
        let (line, arrived) = tokio::select! {
            connected = connect(settings, self.gate.hub(), &desk) => connected?,
            // A broker that does not answer must not keep the hub from ending. Nothing is under way yet.
            () = until.over() => return Ok(()),
        };
        course.connected(&line.topic);
        let mut progress = reconciled(on_disk, arrived);
        self.save(&desk, &progress)?;
        let line = Arc::new(line);
        let mut seen = None;
        let mut decided = Instant::now();
        while !until.is_over() {
            let moment = self.look(&desk.recipient.dataset).await?;
            if seen == Some(moment) && decided.elapsed() < DECIDE_EVERY {
                until.wait(LOOK_EVERY).await;
                continue;
            }
            // Ended subscriptions and changed topics take effect here.
            let desk = self.desk(course.subscription, Delivery::Kafka).await?;
            let present = self.gate.view(&desk.recipient).await?;
            let before = progress.clone();
            let drafter = desk.drafter(self, settings.limits);
            let drafted = tokio::select! {
                drafted = drafter.draft(&mut progress, &present) => drafted?,
                // What was looked at for nothing is looked at again: the file counts.
                () = until.over() => return Ok(()),
            };
            match drafted {
                Drafted::Page(draft) => {
                    let sent = self.ship_page(&desk, &line, &mut progress, *draft).await;
                    match sent {
                        Ok(events) => {
                            course.delivered.pages += 1;
                            course.delivered.events += events;
                        }
                        Err(TopicError::Query(QueryError::ConsentChanged)) => {
                            progress.pending = None;
                        }
                        Err(error) => return Err(error),
                    }
                    continue;
                }
                Drafted::Working => {}
                Drafted::UpToDate => {
                    seen = Some(moment);
                    decided = Instant::now();
                    events::up_to_date(course.subscription);
                }
            }
            if progress != before {
                self.store.keep_scope(&present)?;
                self.save(&desk, &progress)?;
            }
            if seen.is_some() && matches!(until, Until::UpToDate) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Notes a page, sends it with the progress after it, and notes that it arrived. Gives its events.
    async fn ship_page(
        &self,
        desk: &Desk,
        line: &Arc<Line>,
        progress: &mut Progress,
        draft: Draft,
    ) -> Result<u64, TopicError> {
        let Draft {
            pending,
            events,
            view,
        } = draft;
        self.store.keep_scope(&view)?;
        progress.pending = Some(pending.clone());
        self.save(desk, progress)?;
        let mut after = progress.clone();
        after.acknowledge();
        let bytes = serde_json_canonicalizer::to_vec(&after).map_err(|_| QueryError::Internal {
            what: "the form of a progress",
        })?;
        let subscription = &desk.subscription.subscription_id;
        let envelope = desk.envelope(self.gate.hub(), pending.page, pending.at);
        let record = PageRecord {
            subscription: subscription.clone(),
            delivery: Delivery::Kafka,
            page: pending.page,
            events: events.len() as u64,
            bytes: events.bytes() as u64,
            sha256: hash_of(&events),
            by_enterprise: events.by_enterprise(),
        };
        let mut shipment = Shipment {
            line: Arc::clone(line),
            parcels: Arc::new(parcels(&envelope, &events, line.partitions)),
            events: Arc::new(events),
            progress: Arc::new((subscription.clone(), bytes)),
            failure: None,
        };
        let released = self
            .gate
            .release(&desk.recipient, &view, &record, &mut shipment)
            .await;
        if let Some(failure) = &shipment.failure {
            return Err(if is_taken_over(failure) {
                TopicError::DeliveryTakenOver {
                    id: subscription.clone(),
                }
            } else {
                unavailable(failure)
            });
        }
        released?;
        PageLeft {
            subscription: &desk.subscription,
            page: record.page,
            events: record.events,
        }
        .emit();
        *progress = after;
        self.save(desk, progress)?;
        Ok(record.events)
    }
}

/// SHA-256 over key and value of every message in order, each with its length as a u64, big-endian, before it.
fn hash_of(events: &Events) -> String {
    let mut hash = Context::new(&SHA256);
    for event in events.iter() {
        for part in [events.subject(event).as_bytes(), events.data(event)] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex::encode(hash.finish())
}

/// The messages of a page: one per event, but one per partition for what is about everybody.
fn parcels(envelope: &Envelope, events: &Events, partitions: i32) -> Vec<Parcel> {
    let page = envelope.page.to_string();
    let mut parcels = Vec::with_capacity(events.len());
    for event in events.iter() {
        let subject = events.subject(event);
        let id = envelope.id(events, event);
        let mut headers = OwnedHeaders::new_with_capacity(8);
        for (key, value) in [
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_source", &envelope.source),
            ("ce_type", event.kind.as_str()),
            ("ce_time", &envelope.time),
            ("ce_qihuipage", &page),
            ("content-type", "application/json"),
        ] {
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }
        if !subject.is_empty() {
            let value = Some(subject);
            headers = headers.insert(Header {
                key: "ce_subject",
                value,
            });
        }
        let to = if subject.is_empty() {
            (0..partitions.max(1)).map(Some).collect()
        } else {
            vec![None]
        };
        for partition in to {
            parcels.push(Parcel {
                headers: headers.clone(),
                event: event.clone(),
                partition,
            });
        }
    }
    parcels
}

/// What the hub noted, brought into line with what the broker has.
fn reconciled(mut on_disk: Progress, arrived: Option<Progress>) -> Progress {
    let arrived = arrived.filter(|arrived| {
        arrived.subscription == on_disk.subscription && arrived.dataset == on_disk.dataset
    });
    match arrived {
        Some(arrived) if arrived.next_page > on_disk.next_page => arrived,
        Some(arrived) if arrived.next_page == on_disk.next_page => {
            // Aborted, or never sent: nothing of the page under way arrived.
            on_disk.pending = None;
            on_disk
        }
        None if !on_disk.begun => {
            on_disk.pending = None;
            on_disk
        }
        _ => {
            on_disk.restart();
            on_disk
        }
    }
}

/// Opens a connection: topics that are missing are made, a transaction that a predecessor left open is aborted, and
/// the progress that arrived last is read.
async fn connect(
    settings: &KafkaSettings,
    hub: &str,
    desk: &Desk,
) -> Result<(Line, Option<Progress>), TopicError> {
    let subscription = &desk.subscription;
    let id = subscription.subscription_id.clone();
    let topic = topic_name(subscription.org.as_str(), subscription.topic.as_str());
    make_topics(settings, &topic).await?;
    let settings = settings.clone();
    let transactional = format!("qihui.{hub}.{id}");
    let work = move || {
        let producer = producer(&settings, &transactional)?;
        producer.init_transactions(CONNECT_TIME)?;
        let metadata = producer
            .client()
            .fetch_metadata(Some(&topic), CONNECT_TIME)?;
        let partitions = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .map_or(1, |found| found.partitions().len());
        let arrived = read_progress(&settings, &id)?;
        let line = Line {
            producer: Arc::new(producer),
            topic,
            partitions: i32::try_from(partitions).unwrap_or(1),
        };
        Ok::<_, KafkaError>((line, arrived))
    };
    let connected = tokio::task::spawn_blocking(work).await;
    let connected = connected.map_err(|_| QueryError::Internal {
        what: "connecting to Kafka",
    })?;
    let (line, arrived) = connected.map_err(|error| unavailable(&error))?;
    let arrived = match arrived {
        Some(bytes) => {
            let progress = serde_json::from_slice(&bytes);
            Some(progress.map_err(|_| TopicError::ProgressUnusable {
                doing: "read",
                reason: format!("what `{PROGRESS_TOPIC}` holds of it is not what was written"),
            })?)
        }
        None => None,
    };
    Ok((line, arrived))
}

fn producer(settings: &KafkaSettings, transactional: &str) -> Result<Producer, KafkaError> {
    settings
        .config()
        .set("transactional.id", transactional)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("transaction.timeout.ms", "30000")
        .set("message.timeout.ms", "30000")
        .set("queue.buffering.max.messages", "200000")
        .create()
}

async fn make_topics(settings: &KafkaSettings, topic: &str) -> Result<(), TopicError> {
    let admin: AdminClient<DefaultClientContext> = settings
        .config()
        .create()
        .map_err(|error| unavailable(&error))?;
    // Whoever waits for brokers that are gone is to know it soon.
    let greeted = tokio::task::spawn_blocking(move || {
        let greeted = admin.inner().fetch_metadata(None, HELLO_TIME);
        greeted.map(|_| admin)
    });
    let greeted = greeted.await.map_err(|_| QueryError::Internal {
        what: "connecting to Kafka",
    })?;
    let admin = greeted.map_err(|error| unavailable(&error))?;
    // The broker's own replication.
    let replication = || TopicReplication::Fixed(-1);
    let events = NewTopic::new(topic, settings.partitions.max(1), replication());
    let progress = NewTopic::new(PROGRESS_TOPIC, 1, replication()).set("cleanup.policy", "compact");
    let options = AdminOptions::new()
        .operation_timeout(Some(CONNECT_TIME))
        .request_timeout(Some(CONNECT_TIME));
    let made = admin.create_topics([&events, &progress], &options).await;
    for result in made.map_err(|error| unavailable(&error))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(TopicError::BrokerUnavailable {
                    reason: format!("the topic `{name}` cannot be made: {code}"),
                });
            }
        }
    }
    Ok(())
}

/// The last progress of a subscription that was committed, as bytes.
fn read_progress(settings: &KafkaSettings, id: &str) -> Result<Option<Vec<u8>>, KafkaError> {
    let consumer: BaseConsumer = settings
        .config()
        .set("group.id", format!("qihui.progress.{id}"))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(PROGRESS_TOPIC, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let deadline = Instant::now() + CONNECT_TIME;
    let mut found = None;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.key() == Some(id.as_bytes()) => {
                found = message.payload().map(<[u8]>::to_vec);
            }
            Some(Ok(_)) => {}
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
            Some(Err(error)) => return Err(error),
            None if Instant::now() >= deadline => {
                return Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::OperationTimedOut,
                ));
            }
            None => {}
        }
    }
}

/// A message as a reader of committed ones sees it.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub value: Vec<u8>,
}

/// Everything committed in a topic, partition by partition. For tests.
#[doc(hidden)]
pub fn read_committed(
    settings: &KafkaSettings,
    topic: &str,
) -> Result<Vec<Received>, Box<dyn std::error::Error>> {
    let consumer: BaseConsumer = settings
        .config()
        .set("group.id", "qihui.reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), CONNECT_TIME)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let mut left = found.map_or(0, |found| found.partitions().len());
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(left)? {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut received = Vec::new();
    while left > 0 {
        match consumer.poll(CONNECT_TIME) {
            Some(Ok(message)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = message.headers().map(|headers| {
                    let pairs = headers.iter();
                    pairs
                        .map(|header| {
                            (
                                header.key.to_owned(),
                                header.value.map(text).unwrap_or_default(),
                            )
                        })
                        .collect()
                });
                received.push(Received {
                    key: message.key().map(text),
                    headers: headers.unwrap_or_default(),
                    value: message.payload().unwrap_or_default().to_vec(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the broker does not answer".into()),
        }
    }
    Ok(received)
}

/// The same messages by a producer that does nothing else. For benchmarks.
#[doc(hidden)]
pub fn produce_plain(
    settings: &KafkaSettings,
    topic: &str,
    messages: &[Received],
) -> Result<(), KafkaError> {
    let producer: Producer = settings
        .config()
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    for message in messages {
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for (key, value) in &message.headers {
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }
        let mut record = BaseRecord::<str, [u8]>::to(topic)
            .payload(message.value.as_slice())
            .headers(headers);
        if let Some(key) = &message.key {
            record = record.key(key.as_str());
        }
        let mut left = Some(record);
        while let Some(record) = left.take() {
            match producer.send(record) {
                Ok(()) => {}
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(5));
                    left = Some(back);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
    producer.flush(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::event::EventKind;
    use crate::topics::progress::Pending;
    use qihui_catalog::Timestamp;
    use qihui_query::access::delivery::ViewKey;

    fn progress(next_page: u64) -> Progress {
        let mut progress = Progress::new("s-1", &"filing".parse().unwrap());
        for page in 1..next_page {
            progress.pending = Some(pending(page));
            progress.acknowledge();
        }
        progress
    }

    fn pending(page: u64) -> Pending {
        Pending {
            page,
            from: 0,
            to: 9,
            target: ViewKey {
                scope: "00".repeat(32),
                version: i64::try_from(page).unwrap(),
                day: "2026-07-01".parse().unwrap(),
            },
            at: Timestamp(0),
            noticed_up_to: None,
        }
    }

    #[test]
    fn what_arrived_is_what_the_broker_says() {
        let mut under_way = progress(3);
        under_way.pending = Some(pending(3));
        let again = reconciled(under_way.clone(), Some(progress(3)));
        assert_eq!(
            (again.pending, again.next_page, again.reset),
            (None, 3, false)
        );
        let further = reconciled(under_way.clone(), Some(progress(4)));
        assert_eq!(further, progress(4));
        for lost in [None, Some(progress(2))] {
            let anew = reconciled(under_way.clone(), lost);
            assert!(anew.reset && anew.pending.is_none() && anew.next_page > 4);
            assert_eq!(anew.views().count(), 0);
        }
        let mut first = progress(1);
        first.pending = Some(pending(1));
        assert_eq!(reconciled(first, None), progress(1));
    }

    #[test]
    fn what_is_about_everybody_goes_to_every_partition() {
        let mut events = Events::default();
        let data = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"{}");
            Ok(())
        };
        events.push(EventKind::Reset, (None, ""), data).unwrap();
        events
            .push(EventKind::Upserted, (Some(1), "X"), data)
            .unwrap();
        let topic = "filings".parse().unwrap();
        let envelope = Envelope::new("hub", &topic, "s-1", 1, Timestamp(0));
        let parcels = parcels(&envelope, &events, 3);
        let partitions: Vec<_> = parcels.iter().map(|parcel| parcel.partition).collect();
        assert_eq!(partitions, [Some(0), Some(1), Some(2), None]);
    }
}
