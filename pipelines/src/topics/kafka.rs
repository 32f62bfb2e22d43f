//! Delivery by Kafka: one topic per organisation and topic of the hub, one transaction per page.
//!
//! Promise: a reader with `isolation.level=read_committed` sees every change once, in order per enterprise, whatever is
//! killed when. The transaction that carries a page also says so in a compacted topic: [`Arrived`], the number of the
//! page under the hub's seal. At every start that topic says what arrived, and the hub brings what it has on disk into
//! line with it:
//!
//! | the seal that the broker has | means | what is done |
//! |---|---|---|
//! | of the last acknowledged page | the transaction of a page under way never committed | that page is made anew |
//! | of the page under way | it committed, and the hub was killed before it noted that | it is acknowledged |
//! | another, or none though pages arrived | the broker lost what it had acknowledged, the hub's disk is an old one, or somebody wrote to the topic | everything is brought again, after a reset |
//!
//! The topic says nothing else: what was brought stands on the hub's disk alone, and nothing that a broker says is taken
//! over from it.
//!
//! Names: events go to `qihui.<org>.<topic>`, seals to `qihui.progress` (partition 0; key: the subscription). A message is
//! a CloudEvent in binary mode: `ce_` headers, `content-type`, the data as value, and the enterprise's code as key. A
//! reset and a notice about everybody have no key and go to every partition, each with the partition in its data: a
//! reset is about what was read of its partition, whose reader knows nothing of the order among partitions. Where the
//! number of partitions changes, enterprises change places, and everything is brought again.
//!
//! GATE-4: a page is produced and committed while the release lock is held, within [`RELEASE_TIME`]; a broker that takes
//! longer has its transaction aborted, so an acknowledgement of a withdrawal waits no longer than that. Where it is the
//! commit that takes longer, it can be neither awaited nor aborted: the connection is closed, and the broker may still
//! carry out what reached it. While the broker is gone nothing is held, and the delivery waits and says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use qihui_catalog::{Coded as _, Timestamp};
use qihui_query::QueryError;
use qihui_query::access::delivery::{Delivery, PageRecord, PageSink};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use ring::digest::{Context, Digest, SHA256};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::cursor::{CursorKey, PageTag};
use super::error::TopicError;
use super::event::{Envelope, Event, Events};
use super::events::{self, BrokerGone, Connected, PageLeft};
use super::page::{Draft, Drafted, PageLimits};
use super::progress::{Pending, Progress};
use super::{DECIDE_EVERY, Desk, LOOK_EVERY, Topics};

/// The topic of the progresses.
pub const PROGRESS_TOPIC: &str = "qihui.progress";
/// How long a page may take from its first message to its commit, and a second more for every [`RELEASE_STEP`] bytes: only
/// an enterprise with very many rows makes a page that large.
pub const RELEASE_TIME: Duration = Duration::from_secs(2);
/// See [`RELEASE_TIME`].
pub const RELEASE_STEP: usize = 8 << 20;
/// Events, and bytes of their data, at which a page takes in no further enterprise: a transaction costs as much as some
/// ten thousand messages, and a page goes in one.
const PAGE_EVENTS: usize = 50_000;
/// See [`PAGE_EVENTS`].
const PAGE_BYTES: usize = 16 << 20;
/// How long an abort may take after that.
const ABORT_TIME: Duration = Duration::from_secs(1);
/// How long a broker may take to say anything at all.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// The largest message, bytes: the client's and, for topics that the hub makes, the broker's limit.
const MAX_MESSAGE: usize = 64 << 20;
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
            limits: PageLimits {
                events: PAGE_EVENTS,
                bytes: PAGE_BYTES,
                ..PageLimits::default()
            },
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
    const fn is_endless(&self) -> bool {
        matches!(self, Self::Told(_))
    }

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

    fn broke_off(&mut self, error: &TopicError) {
        let subscription = self.subscription;
        let TopicError::BrokerUnavailable { reason } = error else {
            return events::waits(subscription, error);
        };
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
    /// None once a transaction failed: its outcome is learnt by the next connection.
    producer: Mutex<Option<Producer>>,
    topic: String,
    partitions: i32,
}

/// One message, ready to be sent.
struct Parcel {
    headers: OwnedHeaders,
    /// Where key and value stand in the events.
    event: Event,
    /// Where it goes when it has no key, with the value that it has there.
    to: Option<(i32, Vec<u8>)>,
}

impl Parcel {
    fn value<'a>(&'a self, events: &'a Events) -> &'a [u8] {
        value_of(events, &self.event, self.to.as_ref())
    }
}

fn value_of<'a>(events: &'a Events, event: &Event, to: Option<&'a (i32, Vec<u8>)>) -> &'a [u8] {
    to.map_or_else(|| events.data(event), |(_, value)| value)
}

/// What a broker is told of a page that arrived with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrived {
    subscription: String,
    page: u64,
    /// [`CursorKey::seal`].
    seal: String,
}

/// A page on its way.
struct Shipment {
    line: Arc<Line>,
    /// Taken when it is sent.
    parcels: Vec<Parcel>,
    events: Arc<Events>,
    /// The subscription and what is noted of it with the page.
    arrived: Arc<(String, Vec<u8>)>,
    /// What the broker's side said, when the page did not arrive.
    failure: Option<KafkaError>,
}

#[async_trait]
impl PageSink for Shipment {
    fn longest(&self) -> Duration {
        release_time(self.events.bytes()) + ABORT_TIME
    }

    async fn send(&mut self) -> Result<(), QueryError> {
        let (line, parcels) = (Arc::clone(&self.line), std::mem::take(&mut self.parcels));
        let (events, arrived) = (Arc::clone(&self.events), Arc::clone(&self.arrived));
        let work = move || ship(&line, parcels, &events, &arrived);
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

/// The longest time that a page of so many bytes may take.
fn release_time(bytes: usize) -> Duration {
    let more = u64::try_from(bytes / RELEASE_STEP).unwrap_or(0);
    RELEASE_TIME + Duration::from_secs(more)
}

/// Sends a page in a transaction of its own. If that fails or takes too long the connection is closed.
fn ship(
    line: &Line,
    parcels: Vec<Parcel>,
    events: &Events,
    arrived: &(String, Vec<u8>),
) -> Result<(), KafkaError> {
    let deadline = Instant::now() + release_time(events.bytes());
    let mut place = line.producer.lock();
    let producer = place.take().ok_or(KafkaError::Canceled)?;
    producer.begin_transaction()?;
    let produced = produce(&producer, line, parcels, events, arrived, deadline)
        // A commit flushes as well, and would then take its whole time once more.
        .and_then(|()| producer.flush(left(deadline)));
    if let Err(error) = produced {
        // If this fails as well the successor aborts.
        let _ = producer.abort_transaction(ABORT_TIME);
        return Err(error);
    }
    // A commit that was cut off can be neither finished nor aborted by this producer.
    producer.commit_transaction(left(deadline))?;
    *place = Some(producer);
    Ok(())
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn produce(
    producer: &Producer,
    line: &Line,
    parcels: Vec<Parcel>,
    events: &Events,
    (subscription, arrived): &(String, Vec<u8>),
    deadline: Instant,
) -> Result<(), KafkaError> {
    for parcel in parcels {
        let Parcel { headers, event, to } = parcel;
        let key = events.subject(&event);
        let mut record = BaseRecord::<str, [u8]>::to(&line.topic)
            .payload(value_of(events, &event, to.as_ref()))
            .headers(headers);
        if !key.is_empty() {
            record = record.key(key);
        }
        if let Some((partition, _)) = &to {
            record = record.partition(*partition);
        }
        enqueue(producer, record, deadline)?;
    }
    let record = BaseRecord::<str, [u8]>::to(PROGRESS_TOPIC)
        .partition(0)
        .key(subscription.as_str())
        .payload(arrived.as_slice());
    enqueue(producer, record, deadline)
}

/// Puts a message into the producer's queue, waiting while that is full.
fn enqueue<'a>(
    producer: &Producer,
    mut record: BaseRecord<'a, str, [u8]>,
    deadline: Instant,
) -> Result<(), KafkaError> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                if Instant::now() < deadline =>
            {
                record = back;
                producer.poll(Duration::from_millis(5));
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

/// Whether a message is larger than the broker, or the client, is set to take.
fn is_too_large(error: &KafkaError) -> bool {
    code(error) == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// Whether another producer with the same name has begun.
fn is_taken_over(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(
        code(error),
        Some(Fenced | ProducerFenced | InvalidProducerEpoch)
    )
}

/// Whether trying again cannot help.
const fn is_final(error: &TopicError) -> bool {
    matches!(
        error,
        TopicError::UnknownSubscription { .. }
            | TopicError::DeliveryTakenOver { .. }
            | TopicError::OtherDelivery { .. }
            | TopicError::NoBroker
            | TopicError::BadSettings { .. }
    )
}

impl Topics {
    /// Delivers a subscription by Kafka.
    ///
    /// # Errors
    /// The subscription is unknown or of another form, no broker is named, or another process has taken over. With
    /// [`Until::UpToDate`] also what broker, gate, ledger, log or file system say; otherwise they are waited for.
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
                Err(error) if until.is_endless() && !is_final(&error) => {
                    if course.delivered != before || begun.elapsed() >= LASTING {
                        pause = RETRY.0;
                    }
                    course.broke_off(&error);
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
        let mut desk = self.desk(course.subscription, Delivery::Kafka).await?;
        let lane = Arc::clone(&desk.lane);
        let mut turn = lane.turn.lock().await;
        let on_disk = self.progress(&desk, &mut turn)?;
        let (line, arrived) = tokio::select! {
            connected = connect(settings, self.gate.hub(), &desk) => connected?,
            // A broker that does not answer must not keep the hub from ending. Nothing is under way yet.
            () = until.over() => return Ok(()),
        };
        course.connected(&line.topic);
        let mut progress = reconciled(&self.cursors, on_disk, arrived.as_deref(), self.gate.time());
        moved(&mut progress, line.partitions);
        self.save(&desk, &progress)?;
        let line = Arc::new(line);
        let followed = self
            .follow(settings, until, course, (&mut desk, &line, &mut progress))
            .await;
        // Whoever told it to end may have done so because its subscription ended.
        let over = matches!(
            followed,
            Ok(()) | Err(TopicError::UnknownSubscription { .. })
        );
        if over
            && let Err(TopicError::UnknownSubscription { .. }) =
                self.subscription(course.subscription).await
        {
            self.take_leave(&desk, &line, &mut progress).await;
        }
        followed
    }

    /// Brings every change over a connection, until the end or until it breaks.
    async fn follow(
        &self,
        settings: &KafkaSettings,
        until: &mut Until,
        course: &mut Course<'_>,
        (desk, line, progress): (&mut Desk, &Arc<Line>, &mut Progress),
    ) -> Result<(), TopicError> {
        let mut seen = None;
        let mut decided = Instant::now();
        while !until.is_over() {
            let moment = self.look(&desk.recipient.dataset).await?;
            if seen == Some(moment) && decided.elapsed() < DECIDE_EVERY {
                until.wait(LOOK_EVERY).await;
                continue;
            }
            // Ended subscriptions and changed topics take effect here.
            *desk = self.desk(course.subscription, Delivery::Kafka).await?;
            Self::of_this_topic(desk, progress);
            let present = self.gate.view(&desk.recipient).await?;
            let before = progress.clone();
            let drafter = desk.drafter(self, settings.limits);
            let drafted = tokio::select! {
                drafted = drafter.draft(progress, &present) => drafted,
                // What was looked at for nothing is looked at again: the file counts.
                () = until.over() => return Ok(()),
            };
            let done = match drafted {
                Ok(Drafted::Page(draft)) => {
                    let sent = self.ship_page(desk, line, progress, *draft).await;
                    sent.map(Some)
                }
                Ok(Drafted::Working) => Ok(None),
                Ok(Drafted::UpToDate) => {
                    seen = Some(moment);
                    decided = Instant::now();
                    events::up_to_date(course.subscription);
                    Ok(None)
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(Some(events)) => {
                    course.delivered.pages += 1;
                    course.delivered.events += events;
                    continue;
                }
                Ok(None) => {}
                // Something was taken away meanwhile, and nothing left: what is authorised now is brought.
                Err(TopicError::Query(QueryError::ConsentChanged)) => {
                    *progress = before;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if *progress != before {
                self.keep_scope(desk, &present)?;
                self.save(desk, progress)?;
            }
            if seen.is_some() && !until.is_endless() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Has the readers of a subscription that ended drop what it brought: another may come in its place. If that fails,
    /// the other begins with a reset all the same.
    async fn take_leave(&self, desk: &Desk, line: &Arc<Line>, progress: &mut Progress) {
        let leaving = async {
            progress.restart();
            let present = self.gate.view(&desk.recipient).await?;
            let drafter = desk.drafter(self, PageLimits::default());
            let draft = drafter.reset(progress, &present)?;
            self.ship_page(desk, line, progress, draft).await
        };
        if let Err(error) = leaving.await {
            let subscription = desk.subscription.subscription_id.as_str();
            tracing::warn!(subscription, code = error.code(), %error, "no last reset was sent");
        }
    }

    /// Notes a page, sends it with its seal, and notes that it arrived. Gives its events.
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
        let subscription = &desk.subscription.subscription_id;
        let envelope = desk.envelope(self.gate.hub(), pending.page, pending.at);
        let parcels = parcels(&envelope, &events, line.partitions)?;
        let hash = hash_of(&events, &parcels);
        let tag = PageTag::of_hash(hash.as_ref());
        let arrived = Arrived {
            subscription: subscription.clone(),
            page: pending.page,
            seal: self.cursors.seal(subscription, pending.page, tag),
        };
        let arrived = serde_json::to_vec(&arrived).map_err(|_| QueryError::Internal {
            what: "the form of a seal",
        })?;
        let values = parcels.iter().map(|parcel| parcel.value(&events).len());
        let record = PageRecord {
            subscription: subscription.clone(),
            delivery: Delivery::Kafka,
            page: pending.page,
            events: events.len() as u64,
            bytes: values.sum::<usize>() as u64,
            sha256: hex::encode(hash),
            by_enterprise: events.by_enterprise(),
        };
        self.keep_scope(desk, &view)?;
        let mut noted = progress.clone();
        noted.pending = Some(Pending { tag, ..pending });
        self.save(desk, &noted)?;
        let mut shipment = Shipment {
            line: Arc::clone(line),
            parcels,
            events: Arc::new(events),
            arrived: Arc::new((subscription.clone(), arrived)),
            failure: None,
        };
        let released = self
            .gate
            .release(&desk.recipient, &view, &record, &mut shipment)
            .await;
        if let Some(failure) = &shipment.failure {
            let id = subscription.clone();
            return Err(if is_taken_over(failure) {
                TopicError::DeliveryTakenOver { id }
            } else if is_too_large(failure) {
                TopicError::EventTooLarge { id }
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
        noted.acknowledge();
        *progress = noted;
        self.save(desk, progress)?;
        Ok(record.events)
    }
}

/// SHA-256 over key and value of every message in order, each with its length as a u64, big-endian, before it.
fn hash_of(events: &Events, parcels: &[Parcel]) -> Digest {
    let mut hash = Context::new(&SHA256);
    for parcel in parcels {
        let key = events.subject(&parcel.event).as_bytes();
        for part in [key, parcel.value(events)] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finish()
}

/// The messages of a page: one per event, but one per partition for what is about everybody.
fn parcels(
    envelope: &Envelope,
    events: &Events,
    partitions: i32,
) -> Result<Vec<Parcel>, QueryError> {
    let page = envelope.page.to_string();
    let mut parcels = Vec::with_capacity(events.len());
    for event in events.iter() {
        let places: Vec<Option<(i32, Vec<u8>)>> = if events.subject(event).is_empty() {
            let places = (0..partitions.max(1)).map(|partition| {
                let value = in_partition(events.data(event), partition)?;
                Ok(Some((partition, value)))
            });
            places.collect::<Result<_, QueryError>>()?
        } else {
            vec![None]
        };
        for to in places {
            parcels.push(Parcel {
                headers: headers(envelope, &page, events, event, to.as_ref()),
                event: event.clone(),
                to,
            });
        }
    }
    Ok(parcels)
}

/// The data of what is about everybody, as it stands in one partition.
fn in_partition(data: &[u8], partition: i32) -> Result<Vec<u8>, QueryError> {
    let internal = |_| QueryError::Internal {
        what: "writing an event",
    };
    let mut data: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(data).map_err(internal)?;
    data.insert("partition".to_owned(), partition.into());
    serde_json::to_vec(&data).map_err(internal)
}

fn headers(
    envelope: &Envelope,
    page: &str,
    events: &Events,
    event: &Event,
    to: Option<&(i32, Vec<u8>)>,
) -> OwnedHeaders {
    let subject = events.subject(event);
    let data = value_of(events, event, to);
    let id = envelope.id_of(event.kind, subject, data);
    let mut headers = OwnedHeaders::new_with_capacity(8);
    for (key, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_source", &envelope.source),
        ("ce_type", event.kind.as_str()),
        ("ce_time", &envelope.time),
        ("ce_qihuipage", page),
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
    headers
}

/// What the hub noted, brought into line with what the broker says arrived.
fn reconciled(
    seals: &CursorKey,
    mut on_disk: Progress,
    arrived: Option<&[u8]>,
    now: Timestamp,
) -> Progress {
    let said: Option<Arrived> = arrived.and_then(|bytes| serde_json::from_slice(bytes).ok());
    let says = |page: u64, tag| {
        said.as_ref().is_some_and(|said| {
            let id = &on_disk.subscription;
            said.subscription == *id
                && said.page == page
                && seals.is_seal(&said.seal, id, page, tag)
        })
    };
    let under_way = on_disk.pending.as_ref();
    if under_way.is_some_and(|pending| says(pending.page, pending.tag)) {
        on_disk.acknowledge();
    } else if (arrived.is_none() && !on_disk.begun)
        || (on_disk.begun && says(on_disk.next_page - 1, on_disk.acknowledged))
    {
        // Aborted, or never sent: nothing of the page under way arrived.
        on_disk.pending = None;
    } else {
        on_disk.restart();
        // Whatever pages the broker has, none of them had this number.
        let fresh = u64::try_from(now.0).unwrap_or(0);
        on_disk.next_page = on_disk.next_page.max(fresh);
    }
    on_disk
}

/// Begins again where the topic has other partitions than before: enterprises are in other ones now.
fn moved(progress: &mut Progress, partitions: i32) {
    if progress.partitions.is_some_and(|known| known != partitions) {
        progress.restart();
    }
    progress.partitions = Some(partitions);
}

/// Opens a connection: topics that are missing are made, a transaction that a predecessor left open is aborted, and
/// what is said to have arrived last is read.
async fn connect(
    settings: &KafkaSettings,
    hub: &str,
    desk: &Desk,
) -> Result<(Line, Option<Vec<u8>>), TopicError> {
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
        let arrived = read_arrived(&settings, &id)?;
        let line = Line {
            producer: Mutex::new(Some(producer)),
            topic,
            partitions: i32::try_from(partitions).unwrap_or(1),
        };
        Ok::<_, KafkaError>((line, arrived))
    };
    let connected = tokio::task::spawn_blocking(work).await;
    let connected = connected.map_err(|_| QueryError::Internal {
        what: "connecting to Kafka",
    })?;
    connected.map_err(|error| unavailable(&error))
}

fn producer(settings: &KafkaSettings, transactional: &str) -> Result<Producer, KafkaError> {
    let mut config = settings.config();
    if !settings.client.contains_key("message.max.bytes") {
        config.set("message.max.bytes", MAX_MESSAGE.to_string());
    }
    config
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
    let largest = MAX_MESSAGE.to_string();
    let events = NewTopic::new(topic, settings.partitions.max(1), replication())
        .set("max.message.bytes", &largest);
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

/// The last seal of a subscription that was committed, as bytes.
fn read_arrived(settings: &KafkaSettings, id: &str) -> Result<Option<Vec<u8>>, KafkaError> {
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
    pub partition: i32,
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
                    partition: message.partition(),
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
    use qihui_query::access::delivery::ViewKey;

    const KEY: [u8; 32] = [7; 32];

    fn progress(next_page: u64) -> Progress {
        let mut progress = Progress::new("s-1", &"filing".parse().unwrap(), "");
        for page in 1..next_page {
            progress.pending = Some(pending(page));
            progress.acknowledge();
        }
        progress
    }

    fn arrived(page: u64) -> Vec<u8> {
        let arrived = Arrived {
            subscription: "s-1".to_owned(),
            page,
            seal: CursorKey::new(&KEY).seal("s-1", page, pending(page).tag),
        };
        serde_json::to_vec(&arrived).unwrap()
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
            tag: PageTag::of(&page.to_be_bytes()),
        }
    }

    #[test]
    fn what_arrived_is_what_the_broker_has_the_seal_of() {
        let seals = CursorKey::new(&KEY);
        let with = |progress: &Progress, arrived: Option<Vec<u8>>| {
            reconciled(
                &seals,
                progress.clone(),
                arrived.as_deref(),
                Timestamp(1000),
            )
        };
        let mut under_way = progress(3);
        under_way.pending = Some(pending(3));
        assert_eq!(with(&under_way, Some(arrived(2))), progress(3), "aborted");
        assert_eq!(with(&under_way, Some(arrived(3))), progress(4), "committed");
        let mut first = progress(1);
        first.pending = Some(pending(1));
        assert_eq!(with(&first, None), progress(1));
        assert_eq!(with(&first, Some(arrived(1))), progress(2));

        let forged = |page: u64, seal: &str| {
            let json = serde_json::json!({"subscription": "s-1", "page": page, "seal": seal});
            Some(json.to_string().into_bytes())
        };
        let other = CursorKey::new(&[8; 32]).seal("s-1", 3, pending(3).tag);
        let another_version = seals.seal("s-1", 3, PageTag::of(b"another"));
        let of_another = seals.seal("s-2", 3, pending(3).tag);
        for wrong in [
            None,
            Some(arrived(1)),
            Some(arrived(4)),
            Some(b"{}".to_vec()),
            forged(3, ""),
            forged(3, &other),
            forged(3, &another_version),
            forged(3, &of_another),
            forged(u64::MAX, &seals.seal("s-1", 3, pending(3).tag)),
        ] {
            let anew = with(&under_way, wrong);
            assert!(anew.reset && !anew.begun && anew.pending.is_none());
            assert_eq!((anew.views().count(), anew.next_page), (0, 1000));
        }
        let stray = with(&progress(1), Some(arrived(1)));
        assert!(stray.reset, "the broker has what the hub knows nothing of");
    }

    #[test]
    fn other_partitions_begin_again() {
        let mut known = progress(3);
        moved(&mut known, 3);
        assert!(!known.reset, "it is noted");
        moved(&mut known, 3);
        assert!(!known.reset);
        moved(&mut known, 4);
        assert!(known.reset && known.partitions == Some(4));
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
        let parcels = parcels(&envelope, &events, 3).unwrap();
        let places: Vec<_> = parcels
            .iter()
            .map(|parcel| parcel.to.as_ref().map(|(place, _)| *place))
            .collect();
        assert_eq!(places, [Some(0), Some(1), Some(2), None]);
        let values: Vec<_> = parcels
            .iter()
            .map(|parcel| std::str::from_utf8(parcel.value(&events)).unwrap())
            .collect();
        assert_eq!(
            values,
            [
                r#"{"partition":0}"#,
                r#"{"partition":1}"#,
                r#"{"partition":2}"#,
                "{}"
            ]
        );
        let ids: std::collections::BTreeSet<_> = parcels
            .iter()
            .map(|parcel| {
                let headers = parcel.headers.as_borrowed();
                let id = headers.iter().find(|header| header.key == "ce_id");
                id.unwrap().value.unwrap().to_vec()
            })
            .collect();
        assert_eq!(ids.len(), 4, "each copy has an id of its own");
    }
}
