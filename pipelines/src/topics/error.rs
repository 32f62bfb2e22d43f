//! What can go wrong with a delivery, said without a value of any row.

use qihui_catalog::{Coded, DatasetId, Kind, OrgId, PurposeCode, TopicName};
use qihui_query::QueryError;

/// Why nothing was delivered, or a delivery broke off. What was not acknowledged is delivered again.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The gate, the ledger, the log or the warehouse refused or failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// There is no subscription of this name that has not ended.
    #[error(
        "no subscription `{id}` that has not ended; `qihui subscription list` shows what there is"
    )]
    UnknownSubscription {
        /// The name.
        id: String,
    },
    /// The subscription is delivered in another form.
    #[error(
        "subscription `{id}` is delivered by {delivery}; use that, or add another subscription"
    )]
    OtherDelivery {
        /// The subscription.
        id: String,
        /// Its form.
        delivery: &'static str,
    },
    /// The agreement does not open what names a record.
    #[error(
        "`{org}` may not see the key and `uscc` of `{dataset}` in the clear for `{purpose}`, so nothing of topic \
         `{topic}` can be delivered; ask the data authority for an agreement that names them"
    )]
    KeyNotDisclosed {
        /// The organisation.
        org: OrgId,
        /// The purpose.
        purpose: PurposeCode,
        /// The topic.
        topic: TopicName,
        /// Its dataset.
        dataset: DatasetId,
    },
    /// A cursor that this hub did not give out, or that was changed.
    #[error(
        "this is not a cursor of this hub; pass on what the last page gave as `next`, unchanged"
    )]
    CursorInvalid,
    /// A cursor of another subscription.
    #[error(
        "the cursor belongs to another subscription; use the one that the last page of this one gave"
    )]
    CursorForeign,
    /// A cursor of a page that was acknowledged long ago, or from before a restart.
    #[error(
        "the cursor asks for page {asked}, but page {expected} is next: what came before was acknowledged. Use the \
         newest cursor, or begin again with a restart"
    )]
    CursorOutdated {
        /// The page asked for.
        asked: u64,
        /// The page that is next.
        expected: u64,
    },
    /// A cursor of a version of a page that was replaced, and its replacement acknowledged: two hold copies that differ.
    #[error(
        "the cursor comes from a version of page {page} that was replaced, and the replacement was acknowledged. Use the \
         newest cursor, or begin again with a restart"
    )]
    CursorReplaced {
        /// The page.
        page: u64,
    },
    /// Pages were acknowledged, so the subscriber must say where it stands.
    #[error(
        "pages of this subscription were acknowledged: pass the cursor that the last one gave, or begin again with a \
         restart, dropping what you hold"
    )]
    CursorRequired,
    /// The progress of a subscription cannot be read or kept.
    #[error("the progress of a subscription cannot be {doing}: {reason}")]
    ProgressUnusable {
        /// What was being done.
        doing: &'static str,
        /// What the file system says, or what is wrong with the file.
        reason: String,
    },
    /// No broker is named.
    #[error(
        "no Kafka broker is named; configure `kafka.brokers`, or say where one is, `--brokers host:port`"
    )]
    NoBroker,
    /// The client library refused the configuration.
    #[error("the configuration under [kafka] does not work: {reason}")]
    BadSettings {
        /// What it says, without values.
        reason: String,
    },
    /// The broker does not answer, or refuses.
    #[error("Kafka does not take the delivery: {reason}; it is tried again, and nothing is lost")]
    BrokerUnavailable {
        /// What the client library says.
        reason: String,
    },
    /// The broker does not take a message as large as a row is.
    #[error(
        "an event of subscription `{id}` is larger than Kafka takes: raise `max.message.bytes` of its topic, and \
         `message.max.bytes` of the client if that is set; the delivery waits"
    )]
    EventTooLarge {
        /// The subscription.
        id: String,
    },
    /// An enterprise has more rows than can be compared at once.
    #[error(
        "an enterprise has more than {limit} rows in the dataset of subscription `{id}`: it cannot be delivered; a topic \
         of a data product with fewer rows can"
    )]
    EnterpriseTooLarge {
        /// The subscription.
        id: String,
        /// Rows that can be compared at once.
        limit: u64,
    },
    /// Another process delivers this subscription.
    #[error("another process has taken over the delivery of subscription `{id}`; this one stops")]
    DeliveryTakenOver {
        /// The subscription.
        id: String,
    },
}

impl Coded for TopicError {
    fn code(&self) -> &'static str {
        match self {
            Self::Query(error) => error.code(),
            Self::UnknownSubscription { .. } => "UnknownSubscription",
            Self::OtherDelivery { .. } => "OtherDelivery",
            Self::KeyNotDisclosed { .. } => "KeyNotDisclosed",
            Self::CursorInvalid => "CursorInvalid",
            Self::CursorForeign => "CursorForeign",
            Self::CursorOutdated { .. } | Self::CursorReplaced { .. } => "CursorOutdated",
            Self::CursorRequired => "CursorRequired",
            Self::ProgressUnusable { .. } => "ProgressUnusable",
            Self::NoBroker => "NoBroker",
            Self::BadSettings { .. } => "KafkaBadSettings",
            Self::BrokerUnavailable { .. } => "BrokerUnavailable",
            Self::EventTooLarge { .. } => "EventTooLarge",
            Self::EnterpriseTooLarge { .. } => "EnterpriseTooLarge",
            Self::DeliveryTakenOver { .. } => "DeliveryTakenOver",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Query(error) => error.kind(),
            Self::CursorForeign | Self::KeyNotDisclosed { .. } => Kind::Denied,
            Self::CursorInvalid
            | Self::CursorRequired
            | Self::OtherDelivery { .. }
            | Self::BadSettings { .. } => Kind::Usage,
            _ => Kind::Failed,
        }
    }
}
