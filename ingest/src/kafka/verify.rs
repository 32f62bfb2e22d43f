//! Is the topic still the one that was read?

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Message,
};

use super::{
    client::{KafkaSettings, Listener, Mark, bad_settings},
    error::{Difference, TopicError},
    position::fingerprint,
};

/// How long one question to a broker may take.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long the messages that were read last may take to come.
const LOOK: Duration = Duration::from_secs(30);

/// Why the question has no answer.
pub(super) enum Unverified {
    /// The topic is another one, or lost messages: nothing may be read.
    Differs(TopicError),
    /// No broker answers: ask again.
    Unanswered(KafkaError),
}

/// Compares the topic with what was read of it: it must still hold everything that was not read, and the message that
/// was read last in each partition where it holds a message there.
///
/// Limit: a message that compaction or retention has removed cannot be looked at; then only the ends count.
pub(super) fn verify(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<Listener>,
    feed: &str,
    topic: &str,
    marks: &BTreeMap<i32, Mark>,
    partitions: &BTreeSet<i32>,
) -> Result<(), Unverified> {
    let mut to_look_at = BTreeMap::new();
    for (&partition, mark) in marks {
        let replaced = |difference| {
            let topic = topic.to_owned();
            Unverified::Differs(TopicError::Replaced { topic, difference })
        };
        if !partitions.contains(&partition) {
            return Err(replaced(Difference::Partition(partition)));
        }
        let (first, end) = consumer
            .fetch_watermarks(topic, partition, ANSWER)
            .map_err(Unverified::Unanswered)?;
        if mark.next > end {
            let next = mark.next;
            return Err(replaced(Difference::Shorter {
                partition,
                end,
                next,
            }));
        }
        if mark.next < first {
            return Err(Unverified::Differs(TopicError::MessagesGone {
                topic: topic.to_owned(),
                partition,
                next: mark.next,
                last: first - 1,
            }));
        }
        if (first..end).contains(&mark.offset) {
            to_look_at.insert(partition, *mark);
        }
    }
    if to_look_at.is_empty() {
        return Ok(());
    }
    look(settings, feed, topic, to_look_at)
}

/// Looks at the messages that were read last.
fn look(
    settings: &KafkaSettings,
    feed: &str,
    topic: &str,
    mut marks: BTreeMap<i32, Mark>,
) -> Result<(), Unverified> {
    let config = settings.looker(feed);
    let looker: BaseConsumer<Listener> = config
        .create_with_context(Listener::new(feed, topic))
        .map_err(|error| Unverified::Differs(bad_settings(&error)))?;
    let mut list = TopicPartitionList::new();
    for (partition, mark) in &marks {
        list.add_partition_offset(topic, *partition, Offset::Offset(mark.offset))
            .map_err(Unverified::Unanswered)?;
    }
    looker.assign(&list).map_err(Unverified::Unanswered)?;
    let until = Instant::now() + LOOK;
    while !marks.is_empty() {
        if Instant::now() >= until {
            return Err(Unverified::Unanswered(KafkaError::NoMessageReceived));
        }
        let message = match looker.poll(Duration::from_millis(200)) {
            None => continue,
            // What stood there is gone, and nothing came after it.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                marks.remove(&partition);
                continue;
            }
            Some(Err(error)) => return Err(Unverified::Unanswered(error)),
            Some(Ok(message)) => message,
        };
        let Some(mark) = marks.remove(&message.partition()) else {
            continue;
        };
        let time = message.timestamp().to_millis();
        let sha256 = fingerprint(message.offset(), time, message.key(), message.payload());
        if message.offset() == mark.offset && sha256 != mark.sha256 {
            let difference = Difference::Message {
                partition: message.partition(),
                offset: mark.offset,
            };
            let topic = topic.to_owned();
            return Err(Unverified::Differs(TopicError::Replaced {
                topic,
                difference,
            }));
        }
    }
    Ok(())
}
