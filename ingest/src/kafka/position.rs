//! How far a topic has been read, and the rule by which that moves.
//!
//! A *reading* of a topic is a pass: it begins at the earliest message of every partition and never ends. Its position
//! says, per partition, the offset of the next message and how the message before it looked. It is committed together
//! with the rows it stands for and is the only thing a restart goes by; offsets kept by the broker are for the eyes of
//! others.
//!
//! **Why the last message is part of it.** An offset means something in one log only. A topic that was deleted and made
//! again, or a broker that was restarted with empty disks, gives the same offsets to other messages; reading on at the
//! old offset would skip what stands before it without a word. So a position also names the cluster, and for each
//! partition the message that was read last: if another one stands there now, the log is another one.
//!
//! Format (in the commit under `position`, and in the journal):
//! `{"v":1,"cluster":…,"topic":…,"pass":…,"records":…,"bytes":…,"partitions":{"0":{"next":…,"last":{…}}}}`.

use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Position;

/// The version of the format.
const FORMAT: u8 = 1;

/// What a message looked like: enough to know it again, nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    /// Its offset.
    pub offset: i64,
    /// SHA-256 of its offset, time, key and value, hexadecimal.
    pub sha256: String,
}

/// How far one partition has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartitionPosition {
    /// The offset of the next message.
    pub next: i64,
    /// The message read last.
    pub last: Seen,
}

/// How far a topic has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopicPosition {
    pub v: u8,
    /// The cluster, as it names itself.
    pub cluster: String,
    pub topic: String,
    /// The first run of this reading.
    pub pass: i64,
    /// Messages read so far.
    pub records: u64,
    /// Their bytes, counted as [`message_bytes`] does.
    pub bytes: u64,
    pub partitions: BTreeMap<i32, PartitionPosition>,
}

/// What one run read of one partition: the messages from offset `from` up to, not with, `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionSpan {
    /// The offset of its first message, or where the run before ended.
    pub from: i64,
    /// The offset behind its last message.
    pub to: i64,
}

/// What one run read of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub partitions: BTreeMap<i32, SpanOf>,
    pub records: u64,
    pub bytes: u64,
}

/// What one run read of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpanOf {
    pub from: i64,
    pub last: Seen,
}

/// A span that a position does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// It has no message, or ends before it starts.
    #[error("it holds no message of partition {partition}")]
    Empty {
        /// The partition.
        partition: i32,
    },
    /// It starts behind the position: messages would be lost.
    #[error("it starts at offset {from} of partition {partition}, but only {next} was reached")]
    Gap {
        /// The partition.
        partition: i32,
        /// Its start.
        from: i64,
        /// The position.
        next: i64,
    },
    /// It starts before the position: messages would count twice.
    #[error("it starts at offset {from} of partition {partition}, but {next} was reached already")]
    Overlap {
        /// The partition.
        partition: i32,
        /// Its start.
        from: i64,
        /// The position.
        next: i64,
    },
}

impl TopicPosition {
    /// Before the first message of a topic.
    pub fn start(cluster: &str, topic: &str, pass: i64) -> Self {
        Self {
            v: FORMAT,
            cluster: cluster.to_owned(),
            topic: topic.to_owned(),
            pass,
            records: 0,
            bytes: 0,
            partitions: BTreeMap::new(),
        }
    }

    /// Reads what a commit carries; none when it is the position of something else.
    pub fn from_json(position: &serde_json::Value) -> Option<Self> {
        let position: Self = serde_json::from_value(position.clone()).ok()?;
        (position.v == FORMAT).then_some(position)
    }

    /// The offset of the next message of a partition; none when none was read yet.
    pub fn next(&self, partition: i32) -> Option<i64> {
        self.partitions.get(&partition).map(|at| at.next)
    }

    /// Takes `span` in, or leaves the position as it is.
    ///
    /// Per partition of the span, `next` being where the position stands:
    ///
    /// | the span                     | partition unknown | `from` = `next` | `from` > `next`  | `from` < `next`      |
    /// |------------------------------|-------------------|-----------------|------------------|----------------------|
    /// | last message at or behind `from` | taken         | taken           | [`SpanError::Gap`] | [`SpanError::Overlap`] |
    /// | last message before `from`   | [`SpanError::Empty`] | `Empty`      | `Empty`          | `Empty`              |
    ///
    /// The messages of a partition need not be numbered without holes: compaction and transactions leave some.
    pub fn try_advance(&mut self, span: &Span) -> Result<(), SpanError> {
        for (&partition, of) in &span.partitions {
            let from = of.from;
            if of.last.offset < from {
                return Err(SpanError::Empty { partition });
            }
            match self.next(partition) {
                Some(next) if from > next => {
                    return Err(SpanError::Gap {
                        partition,
                        from,
                        next,
                    });
                }
                Some(next) if from < next => {
                    return Err(SpanError::Overlap {
                        partition,
                        from,
                        next,
                    });
                }
                _ => {}
            }
        }
        self.records += span.records;
        self.bytes += span.bytes;
        for (&partition, of) in &span.partitions {
            let at = PartitionPosition {
                next: of.last.offset + 1,
                last: of.last.clone(),
            };
            self.partitions.insert(partition, at);
        }
        Ok(())
    }

    /// The position as a place in one sequence: messages in the order they were read, whatever their partition.
    pub fn in_sequence(&self) -> Position {
        Position {
            offset: self.bytes,
            line: self.records + 1,
            record: self.records,
        }
    }

    /// What identifies this reading, or one partition of it.
    pub fn identity(&self, partition: Option<i32>) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        hash.update(b"qihui topic 1\0");
        for part in [&self.cluster, &self.topic] {
            hash.update(part.as_bytes());
            hash.update(b"\0");
        }
        hash.update(&self.pass.to_be_bytes());
        if let Some(partition) = partition {
            hash.update(&partition.to_be_bytes());
        }
        finish(hash)
    }
}

impl Span {
    /// What is told about it.
    pub fn told(&self) -> BTreeMap<i32, PartitionSpan> {
        let told = |(partition, of): (&i32, &SpanOf)| {
            let to = of.last.offset + 1;
            (*partition, PartitionSpan { from: of.from, to })
        };
        self.partitions.iter().map(told).collect()
    }
}

/// How many bytes a message counts for: never none, so that every message moves the position.
pub(crate) fn message_bytes(key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
    1 + key.map_or(0, <[u8]>::len) as u64 + value.map_or(0, <[u8]>::len) as u64
}

/// SHA-256 of what makes a message itself.
pub(crate) fn fingerprint(
    offset: i64,
    time_ms: Option<i64>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(&offset.to_be_bytes());
    hash.update(&time_ms.unwrap_or(i64::MIN).to_be_bytes());
    for part in [key, value] {
        match part {
            None => hash.update(&u64::MAX.to_be_bytes()),
            Some(bytes) => {
                hash.update(&(bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
        }
    }
    finish(hash)
}

pub(crate) fn finish(hash: Context) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(hash.finish().as_ref());
    sha256
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(parts: &[(i32, i64, i64)]) -> Span {
        let of = |&(partition, from, last): &(i32, i64, i64)| {
            let sha256 = "00".repeat(32);
            let last = Seen {
                offset: last,
                sha256,
            };
            (partition, SpanOf { from, last })
        };
        Span {
            partitions: parts.iter().map(of).collect(),
            records: 1,
            bytes: 10,
        }
    }

    #[test]
    fn ing_2_the_truth_table_of_spans() {
        let mut at = TopicPosition::start("c", "t", 1);
        let untouched = at.clone();
        assert_eq!(
            at.try_advance(&span(&[(0, 5, 4)])),
            Err(SpanError::Empty { partition: 0 })
        );
        assert_eq!(at, untouched);
        // A partition may begin anywhere: what was before is gone.
        assert_eq!(at.try_advance(&span(&[(0, 5, 5), (3, 0, 9)])), Ok(()));
        assert_eq!(
            (at.next(0), at.next(3), at.next(1)),
            (Some(6), Some(10), None)
        );
        let before = at.clone();
        let faults = [
            (span(&[(0, 6, 5)]), SpanError::Empty { partition: 0 }),
            (
                span(&[(0, 7, 7)]),
                SpanError::Gap {
                    partition: 0,
                    from: 7,
                    next: 6,
                },
            ),
            (
                span(&[(0, 6, 7), (3, 9, 12)]),
                SpanError::Overlap {
                    partition: 3,
                    from: 9,
                    next: 10,
                },
            ),
        ];
        for (span, fault) in faults {
            assert_eq!(at.try_advance(&span), Err(fault));
            assert_eq!(at, before, "all of a span is taken, or nothing");
        }
        assert_eq!(at.try_advance(&span(&[(0, 6, 20)])), Ok(()));
        assert_eq!(at.next(0), Some(21));
    }

    #[test]
    fn a_position_survives_its_format() {
        let mut at = TopicPosition::start("c", "t", 7);
        at.try_advance(&span(&[(0, 5, 5), (11, 0, 9)])).unwrap();
        let json = serde_json::to_value(&at).unwrap();
        assert_eq!(TopicPosition::from_json(&json), Some(at));
        let file = serde_json::json!({"source": "a.csv", "sha256": "00"});
        assert_eq!(TopicPosition::from_json(&file), None);
        assert_eq!(TopicPosition::from_json(&serde_json::Value::Null), None);
    }

    proptest! {
        /// Whatever spans are offered: those that were taken are, per partition, one after the other without a gap.
        #[test]
        fn ing_2_taken_spans_follow_each_other(
            offered in prop::collection::vec(prop::collection::vec((0..3_i32, 0..30_i64, 0..8_i64), 1..3), 0..60)
        ) {
            let mut at = TopicPosition::start("c", "t", 1);
            let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
            let mut taken = 0;
            for parts in offered {
                let parts: Vec<_> = parts.into_iter().map(|(p, from, more)| (p, from, from + more - 1)).collect();
                let span = span(&parts);
                if at.try_advance(&span).is_ok() {
                    taken += 1;
                    for (partition, of) in &span.partitions {
                        if let Some(end) = ends.insert(*partition, of.last.offset + 1) {
                            prop_assert_eq!(end, of.from);
                        }
                    }
                }
            }
            prop_assert_eq!(at.records, taken);
            for (partition, end) in ends {
                prop_assert_eq!(at.next(partition), Some(end));
            }
        }

        #[test]
        fn messages_that_differ_look_different(
            a in (0..3_i64, prop::option::of(0..3_i64), prop::option::of("[ab]{0,2}"), prop::option::of("[ab]{0,2}")),
            b in (0..3_i64, prop::option::of(0..3_i64), prop::option::of("[ab]{0,2}"), prop::option::of("[ab]{0,2}")),
        ) {
            let print = |m: &(i64, Option<i64>, Option<String>, Option<String>)| {
                fingerprint(m.0, m.1, m.2.as_ref().map(String::as_bytes), m.3.as_ref().map(String::as_bytes))
            };
            prop_assert_eq!(a == b, print(&a) == print(&b));
        }
    }
}
