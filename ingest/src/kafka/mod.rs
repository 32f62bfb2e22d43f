//! Feeds that read a topic of Kafka.
//!
//! Promises, beside those of the crate:
//! - **The table is the source of truth.** How far every partition was read is committed together with the rows
//!   ([`TopicPosition`]); whatever is delivered again after a crash, a rebalance or a reset of the group has its outcome
//!   and is not taken a second time. Offsets are told to the broker after the commit, for tools that show lag.
//! - **Another log is noticed.** A topic that was deleted and made again, a broker that came back empty, messages that
//!   were removed before they were read: reading stops and says so ([`TopicError::Replaced`],
//!   [`TopicError::MessagesGone`]); nothing is skipped or read again unless somebody asks for it.
//! - **Bounded.** What is fetched ahead, the largest message and the chunk are capped, whatever producers send.
//!
//! One hub reads a topic. Its place in the consumer group is its own (a static member), so a hub that is killed and
//! started again goes on at once; another member that takes partitions away costs nothing but time, because what was
//! read of them lands all the same and they are read on from there when they come back.
//!
//! Compressed messages: gzip, snappy and lz4.

mod client;
mod cloudevents;
mod consume;
pub(crate) mod decode;
mod error;
mod events;
mod land;
mod position;
mod verify;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use qihui_catalog::FeedName;
use rdkafka::consumer::{CommitMode, Consumer};
use tokio::sync::mpsc;

pub use client::KafkaSettings;
pub use consume::Stop;
pub use error::{Difference, TopicError};
pub use position::{PartitionSpan, SpanError};

pub(crate) use position::TopicPosition;

use self::{
    consume::{Reading, TopicChunk, TopicReader},
    decode::Decoder,
    events::TopicStarted,
    land::{TopicLander, source_name},
};
use crate::{
    IngestError,
    error::Result,
    events::{SourceFailed, SourceFinished},
    journal::Journal,
    land::State,
    landing::{Landing, TableLanding},
    numbers::Numbering,
    preview::Preview,
    quarantine::Quarantine,
    report::{Counts, FileReport, Quiet, ReasonCounts, RunFact, RunReport},
    run::{IngestContext, Job, Place, RunOptions, blocking},
};

/// How a topic is read.
#[derive(Debug, Clone)]
pub struct TopicOptions {
    /// Where and as whom.
    pub settings: KafkaSettings,
    /// As for files.
    pub run: RunOptions,
    /// Go on with what comes, until asked to stop; otherwise the run ends where the topic ended when it began.
    pub follow: bool,
    /// Begin a new reading at the earliest messages.
    pub from_earliest: bool,
    /// Ends the run behind the chunk it is at. It is asked when the run is over, and serves one run.
    pub stop: Stop,
}

/// What became of the messages of a topic.
#[derive(Debug, Clone)]
pub struct TopicReport {
    /// As for files; the topic stands in place of a file, and its runs are told as they end, not here.
    pub report: RunReport,
    /// How many messages came behind the last one that was read, as far as was known at the end.
    pub lag: u64,
}

/// Reads the topic of `feed`. Each run is told to `facts` right behind its commit; when nobody listens any more the
/// reading ends.
///
/// # Errors
/// What is wrong with a message is no error. What is wrong with the topic, the cluster or the configuration is
/// ([`TopicError`]), and so is a failing disk, table or ledger; chunks that were committed stay, and running the feed
/// again goes on behind them.
pub async fn run_topic(
    ctx: &IngestContext,
    feed: &FeedName,
    options: &TopicOptions,
    facts: mpsc::Sender<RunFact>,
) -> Result<TopicReport> {
    let job = Job::new(ctx, feed, &options.run, Arc::new(Quiet))?;
    if options.run.dry_run {
        let mut landing = Preview::new(job.contract(), job.existing_table(ctx).await?);
        return job
            .read_topic(&ctx.place(), options, &mut landing, facts)
            .await;
    }
    let table = job.table(ctx).await?;
    let mut landing = TableLanding::new(&job.contract().id, table);
    job.read_topic(&ctx.place(), options, &mut landing, facts)
        .await
}

impl Job {
    /// Reads the topic of the feed into `landing`.
    pub(crate) async fn read_topic<L: Landing>(
        &self,
        place: &Place,
        options: &TopicOptions,
        landing: &mut L,
        facts: mpsc::Sender<RunFact>,
    ) -> Result<TopicReport> {
        let result = Box::pin(self.read_topic_to_end(place, options, landing, facts)).await;
        if let Err(error) = &result {
            let topic = self.plan.feed.topic.as_ref();
            SourceFailed {
                feed: self.plan.feed.name.as_str(),
                source: topic.map_or("kafka:", |topic| topic.name.as_str()),
                code: error.code(),
            }
            .emit();
        }
        result
    }

    async fn read_topic_to_end<L: Landing>(
        &self,
        place: &Place,
        options: &TopicOptions,
        landing: &mut L,
        facts: mpsc::Sender<RunFact>,
    ) -> Result<TopicReport> {
        let feed = &self.plan.feed;
        let topic = feed.topic.as_ref().ok_or_else(|| TopicError::NotATopic {
            feed: feed.name.to_string(),
        })?;
        let reading = self.reading(options, topic)?;
        let _ended = EndOnDrop(options.stop.clone());
        let decoder = Decoder::new(&self.plan, topic, &options.run.limits)?;
        let connected = blocking(move || Ok(TopicReader::connect(reading, decoder)?)).await?;
        let Some((mut reader, cluster)) = connected else {
            return Ok(self.report(options, None, Totals::default(), 0));
        };
        let state = Arc::new(Mutex::new(State {
            numbering: Numbering::new(Arc::clone(&place.numbers), options.run.dry_run),
            journal: Journal::open(&place.state_dir, &feed.name)?,
            quarantine: Quarantine::new(&place.state_dir),
        }));
        let of = (cluster.as_str(), topic.name.as_str());
        let anew = options.from_earliest;
        let mut lander =
            TopicLander::resume(&self.plan, &state, options.run, landing, of, anew).await?;
        lander.begin(reader.partitions().iter().copied()).await?;
        TopicStarted {
            feed: feed.name.as_str(),
            topic: &topic.name,
            partitions: reader.partitions().len(),
            pass: lander.position().pass,
            resumed_after: lander.position().records,
        }
        .emit();
        let position = lander.position().clone();
        let consumer = reader.consumer();
        let (send, chunks) = mpsc::channel(1);
        let stop = options.stop.clone();
        let reading = blocking(move || {
            if reader.begin(&position)? {
                while let Some(chunk) = reader.next_chunk()? {
                    if send.blocking_send(chunk).is_err() {
                        break;
                    }
                }
            }
            drop(send);
            Ok(reader.lag())
        });
        let landing_all = async {
            let listener = Told {
                facts,
                stop,
                consumer: (!options.run.dry_run).then_some(consumer),
            };
            let landed = land_all(&mut lander, landing, chunks, &listener).await;
            // Ends the reader, which may be waiting for a message that never comes.
            listener.stop.ask();
            landed
        };
        let (lag, totals) = tokio::join!(reading, landing_all);
        let (totals, lag) = (totals?, lag?);
        SourceFinished {
            feed: feed.name.as_str(),
            source: &source_name(&topic.name),
            counts: totals.counts,
        }
        .emit();
        Ok(self.report(options, Some(lander.position()), totals, lag))
    }

    fn reading(
        &self,
        options: &TopicOptions,
        topic: &qihui_catalog::SourceTopic,
    ) -> Result<Reading, TopicError> {
        let feed = self.plan.feed.name.to_string();
        if options.settings.brokers.trim().is_empty() {
            return Err(TopicError::NotConfigured { feed });
        }
        let limits = options.run.limits;
        Ok(Reading {
            settings: options.settings.clone(),
            feed,
            topic: topic.name.clone(),
            limits,
            commit_rows: u64::from(topic.commit_rows).min(limits.chunk_rows as u64),
            commit_time: Duration::from_secs(topic.commit_seconds.into()),
            follow: options.follow,
            stop: options.stop.clone(),
        })
    }

    fn report(
        &self,
        options: &TopicOptions,
        position: Option<&TopicPosition>,
        totals: Totals,
        lag: u64,
    ) -> TopicReport {
        let topic = self.plan.feed.topic.as_ref();
        let Totals { counts, reasons } = totals;
        let identity = position.map(|position| hex::encode(position.identity(None)));
        let file = FileReport {
            source: topic
                .map(|topic| source_name(&topic.name))
                .unwrap_or_default(),
            source_sha256: identity.unwrap_or_default(),
            counts,
            reasons: reasons.clone(),
            resumed_after: position.map_or(0, |position| position.records - counts.read),
            runs: Vec::new(),
        };
        let report = RunReport {
            feed: self.plan.feed.name.clone(),
            dataset: self.plan.contract.id.clone(),
            dry_run: options.run.dry_run,
            counts,
            reasons,
            files: vec![file],
        };
        TopicReport { report, lag }
    }
}

/// What became of the messages so far.
#[derive(Default)]
struct Totals {
    counts: Counts,
    reasons: ReasonCounts,
}

/// Ends the reader when nobody waits for it any more.
struct EndOnDrop(Stop);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.ask();
    }
}

/// Who hears of a run that was committed.
struct Told {
    facts: mpsc::Sender<RunFact>,
    stop: Stop,
    /// Tells the broker, which only keeps it for others to see.
    consumer: Option<Arc<rdkafka::consumer::BaseConsumer<client::Listener>>>,
}

impl Told {
    async fn tell(&self, fact: RunFact, position: &TopicPosition) {
        if self.facts.send(fact).await.is_err() {
            self.stop.ask();
        }
        if let Some(consumer) = &self.consumer {
            let offsets = client::kept_offsets(position);
            if let Err(error) = consumer.commit(&offsets, CommitMode::Async) {
                tracing::debug!(topic = position.topic, %error, "offsets could not be told to the broker");
            }
        }
    }
}

async fn land_all<L: Landing>(
    lander: &mut TopicLander,
    landing: &mut L,
    mut chunks: mpsc::Receiver<TopicChunk>,
    told: &Told,
) -> Result<Totals, IngestError> {
    let mut totals = Totals::default();
    while let Some(chunk) = chunks.recv().await {
        let (fact, reasons) = lander.land(chunk, landing).await?;
        totals.counts += fact.counts;
        for (reason, count) in reasons {
            *totals.reasons.entry(reason).or_default() += count;
        }
        told.tell(fact, lander.position()).await;
    }
    Ok(totals)
}
