//! Feeds that read a topic: each run has its entry in the log as soon as its commit stands, however long the reading
//! goes on. If the log cannot take an entry, the reading ends.

use qihui_catalog::FeedName;
use qihui_ingest::{RunFact, Stop, TopicOptions, TopicReport};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;

use super::Hub;
use crate::failure::{Failure, ProgramError};

/// How many runs may wait for their entries.
const WAITING_RUNS: usize = 64;

/// How a topic is to be read.
#[derive(Debug, Clone, Default)]
pub struct TopicRun {
    /// Write nothing.
    pub dry_run: bool,
    /// Go on until told to end.
    pub follow: bool,
    /// Begin a new reading at the earliest messages.
    pub from_earliest: bool,
    /// Ends the reading.
    pub stop: Stop,
}

impl Hub {
    /// Reads the topic of a feed and records what its table then holds.
    ///
    /// # Errors
    /// There is no such feed, its description or contract is not in the log, the feed reads no topic, the log cannot be
    /// written, or the reading failed; what it had committed before is recorded all the same.
    pub async fn run_topic(&self, feed: &FeedName, how: &TopicRun) -> Result<TopicReport, Failure> {
        let context = self.ingest()?;
        let options = TopicOptions {
            settings: self.config().kafka.settings(&self.name())?,
            run: self.feed_options(feed, how.dry_run).await?,
            follow: how.follow,
            from_earliest: how.from_earliest,
            stop: how.stop.clone(),
        };
        let (send, mut facts) = mpsc::channel(WAITING_RUNS);
        let run = Box::pin(qihui_ingest::run_topic(&context, feed, &options, send));
        if how.dry_run {
            let unrecorded = async { while facts.recv().await.is_some() {} };
            return Ok(tokio::join!(run, unrecorded).0?);
        }
        self.announce(|known| known.pending.insert(feed.clone()))?;
        let (report, recorded) = tokio::join!(run, self.record_as_they_come(feed, facts));
        let report = report.map_err(Failure::from);
        let ended = self.record_end(feed, report.as_ref().err()).await;
        let report = report?;
        recorded?;
        ended?;
        Ok(report)
    }

    async fn record_as_they_come(
        &self,
        feed: &FeedName,
        mut facts: mpsc::Receiver<RunFact>,
    ) -> Result<(), Failure> {
        let catalog = self.catalog()?;
        let spec = catalog.feeds.get(feed);
        let spec = spec.ok_or_else(|| ProgramError::UnknownFeed(feed.to_string()))?;
        let mut group = Vec::with_capacity(WAITING_RUNS);
        while facts.recv_many(&mut group, WAITING_RUNS).await > 0 {
            self.record_facts(feed, spec.dataset.as_str(), &group)
                .await?;
            group.clear();
        }
        Ok(())
    }

    /// Names this hub among all, without saying anything about it.
    fn name(&self) -> String {
        let key = digest(&SHA256, self.log().vkey().as_bytes());
        hex::encode(&key.as_ref()[..8])
    }
}
