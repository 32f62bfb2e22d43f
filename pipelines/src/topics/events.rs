//! What operators are told about deliveries: a line of the log, a figure, or both. Figures name a subscription, never an
//! enterprise, and none of them depends on what a subscriber may not see.

use std::time::{Duration, SystemTime};

use qihui_catalog::Coded as _;
use qihui_query::access::delivery::Subscription;
use tracing::{debug, error, info, warn};

use super::error::TopicError;

/// Unix time at which a subscriber was last known to hold everything that it may see. No change that was not delivered is
/// older.
const UP_TO_DATE: &str = "qihui_topic_up_to_date_timestamp_seconds";
/// Whether a delivery waits for a broker: 1 or 0.
const WAITING: &str = "qihui_topic_waiting_for_broker";

/// A delivery begins, and looks for its broker.
pub(super) fn connecting(subscription: &str) {
    metrics::gauge!(WAITING, "subscription" => subscription.to_owned()).set(1.0);
}

/// A page left.
pub(super) struct PageLeft<'a> {
    pub subscription: &'a Subscription,
    pub page: u64,
    pub events: u64,
}

impl PageLeft<'_> {
    pub fn emit(&self) {
        let Self {
            subscription,
            page,
            events,
        } = self;
        let delivery = subscription.delivery.as_str();
        let id = &subscription.subscription_id;
        metrics::counter!("qihui_topic_pages_total", "subscription" => id.clone(), "delivery" => delivery)
            .increment(1);
        metrics::counter!("qihui_topic_events_total", "subscription" => id.clone(), "delivery" => delivery)
            .increment(*events);
        debug!(subscription = id, page, events, "a page left");
    }
}

/// A connection to the broker stands, for the first time or again.
pub(super) struct Connected<'a> {
    pub subscription: &'a str,
    pub topic: &'a str,
    /// How long there was none.
    pub waited: Option<Duration>,
}

impl Connected<'_> {
    pub fn emit(&self) {
        let Self {
            subscription,
            topic,
            waited,
        } = self;
        metrics::gauge!(WAITING, "subscription" => (*subscription).to_owned()).set(0.0);
        match waited {
            None => info!(subscription, topic, "delivering to Kafka"),
            Some(waited) => {
                let waited_seconds = waited.as_secs();
                warn!(
                    subscription,
                    topic, waited_seconds, "delivering to Kafka again"
                );
            }
        }
    }
}

/// The broker does not take the delivery. An error, because somebody may have to do something.
pub(super) struct BrokerGone<'a> {
    pub subscription: &'a str,
    pub reason: &'a str,
}

impl BrokerGone<'_> {
    pub fn emit(&self) {
        let Self {
            subscription,
            reason,
        } = self;
        metrics::gauge!(WAITING, "subscription" => (*subscription).to_owned()).set(1.0);
        error!(subscription, reason, "waiting for Kafka; nothing is lost");
    }
}

/// A delivery cannot go on, for another reason than its broker, and is tried again.
pub(super) fn waits(subscription: &str, error: &TopicError) {
    let code = error.code();
    error!(subscription, code, %error, "a delivery waits; nothing is lost");
}

/// The subscriber holds everything that it may see.
pub(super) fn up_to_date(subscription: &str) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0.0, |now| now.as_secs_f64());
    metrics::gauge!(UP_TO_DATE, "subscription" => subscription.to_owned()).set(now);
}

/// Nothing is delivered any more: the figures about now say nothing.
pub(super) fn over(subscription: &str) {
    for figure in [UP_TO_DATE, WAITING] {
        metrics::gauge!(figure, "subscription" => subscription.to_owned()).set(f64::NAN);
    }
}
