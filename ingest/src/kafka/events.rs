//! What operators are told about topics. No event carries a value of a record.

use tracing::{error, info, warn};

/// Reading a topic begins, or goes on.
pub(super) struct TopicStarted<'a> {
    pub feed: &'a str,
    pub topic: &'a str,
    pub partitions: usize,
    pub pass: i64,
    pub resumed_after: u64,
}

impl TopicStarted<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            topic,
            partitions,
            pass,
            resumed_after,
        } = self;
        info!(
            feed,
            topic, partitions, pass, resumed_after, "feed topic started"
        );
    }
}

/// How far behind the topic's end reading is.
pub(super) struct TopicLag<'a> {
    pub feed: &'a str,
    pub topic: &'a str,
    pub messages: u64,
}

impl TopicLag<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            topic,
            messages,
        } = self;
        let feed_label = (*feed).to_owned();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("qihui_feed_lag_messages", "feed" => feed_label).set(*messages as f64);
        info!(feed, topic, lag_messages = messages, "feed topic lag");
    }
}

/// No broker answers. An error, because somebody may have to do something.
pub(super) struct BrokersGone<'a> {
    pub feed: &'a str,
    pub topic: &'a str,
}

impl BrokersGone<'_> {
    pub fn emit(&self) {
        let Self { feed, topic } = self;
        error!(feed, topic, "no broker answers: waiting until one does");
    }
}

/// A broker answers again.
pub(super) struct BrokersBack<'a> {
    pub feed: &'a str,
    pub topic: &'a str,
    pub waited_seconds: u64,
}

impl BrokersBack<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            topic,
            waited_seconds,
        } = self;
        warn!(
            feed,
            topic, waited_seconds, "brokers answer again: reading goes on"
        );
    }
}

/// Partitions were given to us or taken away.
pub(super) struct PartitionsAssigned<'a> {
    pub feed: &'a str,
    pub topic: &'a str,
    pub assigned: usize,
    pub partitions: usize,
}

impl PartitionsAssigned<'_> {
    pub fn emit(&self) {
        let Self {
            feed,
            topic,
            assigned,
            partitions,
        } = self;
        info!(
            feed,
            topic, assigned, partitions, "feed topic partitions assigned"
        );
    }
}
