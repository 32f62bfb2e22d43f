//! What can stop the reading of a topic.

use qihui_catalog::error::{Coded, Kind};

use super::position::SpanError;

/// Why a topic could not be read (on).
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The configuration names no brokers.
    #[error(
        "the feed `{feed}` reads a topic, but no brokers are configured: set `brokers` under [kafka]"
    )]
    NotConfigured {
        /// The feed.
        feed: String,
    },
    /// The feed reads files.
    #[error(
        "the feed `{feed}` reads files, not a topic: `--follow` and `--from-earliest` are for topics"
    )]
    NotATopic {
        /// The feed.
        feed: String,
    },
    /// The client library refused the configuration.
    #[error("the configuration under [kafka] does not work: {reason}")]
    BadSettings {
        /// What it says.
        reason: String,
    },
    /// No broker answered in time.
    #[error(
        "no broker of `{brokers}` answered for {seconds} s: nothing is lost, run the feed again once one does"
    )]
    Unavailable {
        /// Where brokers were looked for.
        brokers: String,
        /// How long.
        seconds: u64,
    },
    /// The cluster does not let this hub read.
    #[error("the cluster refuses this hub to read the topic `{topic}`: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker says.
        reason: String,
    },
    /// There is no such topic.
    #[error("there is no topic `{topic}`: have it made, or correct the feed `{feed}`")]
    UnknownTopic {
        /// The topic.
        topic: String,
        /// The feed.
        feed: String,
    },
    /// The topic is another one than was read before.
    #[error(
        "the topic `{topic}` is not the one that was read before: {difference}; nothing was skipped and nothing read \
         twice. If that is meant, read it from its start with `--from-earliest`"
    )]
    Replaced {
        /// The topic.
        topic: String,
        /// What shows it.
        difference: Difference,
    },
    /// Messages that were not read yet are gone.
    #[error(
        "messages {next} to {last} of partition {partition} of `{topic}` were removed before they were read: have them \
         sent again, then read what is there with `--from-earliest`"
    )]
    MessagesGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that is gone.
        next: i64,
        /// The last offset that is gone.
        last: i64,
    },
    /// Others in the group hold partitions.
    #[error(
        "{missing} of {partitions} partitions of `{topic}` are read by another member of the group `{group}`: a topic \
         belongs to one hub, end the other reader or change `group` under [kafka]"
    )]
    PartitionsElsewhere {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// How many partitions others hold.
        missing: usize,
        /// How many there are.
        partitions: usize,
    },
    /// The place in the group was taken.
    #[error(
        "another process reads the topic `{topic}` in the name of this hub (group `{group}`): end one of them"
    )]
    Displaced {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
    },
    /// A message that cannot be received.
    #[error(
        "a message of `{topic}` is larger than `message_bytes` under [kafka] ({limit}): raise it and run the feed again"
    )]
    MessageTooLarge {
        /// The topic.
        topic: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A run that does not continue where the one before ended.
    #[error("the run does not fit the position of `{topic}`: {fault}")]
    Position {
        /// The topic.
        topic: String,
        /// How it does not fit.
        #[source]
        fault: SpanError,
    },
    /// Anything else that the client library reports and that does not pass.
    #[error("reading the topic `{topic}` failed: {reason}")]
    Failed {
        /// The topic.
        topic: String,
        /// What the client library says.
        reason: String,
    },
}

/// What shows that a topic is another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// It is in another cluster.
    #[error("it lies in another cluster")]
    Cluster,
    /// It has lost a partition.
    #[error("it has no partition {0} any more")]
    Partition(i32),
    /// It ends before what was read.
    #[error("partition {partition} ends at offset {end}, and {next} was reached")]
    Shorter {
        /// The partition.
        partition: i32,
        /// Its end.
        end: i64,
        /// Where reading stood.
        next: i64,
    },
    /// Another message stands where one was read.
    #[error("another message stands at offset {offset} of partition {partition}")]
    Message {
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
}

impl Coded for TopicError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotConfigured { .. } => "KafkaNotConfigured",
            Self::NotATopic { .. } => "FeedIsNoTopic",
            Self::BadSettings { .. } => "KafkaBadSettings",
            Self::Unavailable { .. } => "KafkaUnavailable",
            Self::Refused { .. } => "KafkaRefused",
            Self::UnknownTopic { .. } => "TopicUnknown",
            Self::Replaced { .. } => "TopicReplaced",
            Self::MessagesGone { .. } => "TopicMessagesGone",
            Self::PartitionsElsewhere { .. } => "TopicReadElsewhere",
            Self::Displaced { .. } => "TopicDisplaced",
            Self::MessageTooLarge { .. } => "MessageTooLarge",
            Self::Position { .. } => "CheckpointMismatch",
            Self::Failed { .. } => "TopicFailed",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::NotConfigured { .. } | Self::NotATopic { .. } | Self::BadSettings { .. } => {
                Kind::Usage
            }
            _ => Kind::Failed,
        }
    }
}
