//! Feeds whose records are messages of a topic.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{contract::odcs::word_of, document::Node, problem::codes};

/// How a message carries its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payload {
    /// The value is one JSON object.
    Json,
    /// The message is a CloudEvent 1.0, structured or binary, whose data is one JSON object.
    CloudEvents,
}

const PAYLOADS: &[(&str, Payload)] = &[
    ("json", Payload::Json),
    ("cloudevents", Payload::CloudEvents),
];

impl Payload {
    /// The word for it in files and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        word_of(PAYLOADS, &self)
    }
}

/// The topic that a feed reads. Where its brokers are is the hub's configuration, never the catalogue's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTopic {
    /// Its name.
    pub name: String,
    /// How its messages carry records.
    pub payload: Payload,
    /// The source column that a message's key stands for. With it, a message without a value is a retraction.
    pub key: Option<String>,
    /// The source column that a message's time stands for where its record has none.
    pub timestamp: Option<String>,
    /// The most records of one commit.
    pub commit_rows: u32,
    /// How long a record may wait for its commit, in seconds.
    pub commit_seconds: u32,
}

impl SourceTopic {
    /// Records of one commit, unless a feed says otherwise.
    pub const COMMIT_ROWS: u32 = 65_536;
    /// Seconds between commits, unless a feed says otherwise.
    pub const COMMIT_SECONDS: u32 = 1;
}

/// Where the records of a feed come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Files,
    Kafka,
}

pub(super) const SOURCES: &[(&str, Source)] = &[("files", Source::Files), ("kafka", Source::Kafka)];

/// Reads what stands under `topic`.
pub(super) fn read(
    node: &Node<'_>,
    columns: Option<&BTreeMap<String, String>>,
) -> Option<SourceTopic> {
    let fields = node.fields()?;
    let column = |name| match fields.optional(name) {
        None => Some(None),
        Some(node) => source_column(&node, columns).map(Some),
    };
    let count = |name, usual, most| {
        fields
            .optional(name)
            .map_or(Some(usual), |node| node.count(1, most))
    };
    let name = fields.required("name").and_then(|node| topic_name(&node));
    let payload = fields
        .optional("payload")
        .map_or(Some(Payload::Json), |node| node.word(PAYLOADS));
    let (key, timestamp) = (column("key"), column("timestamp"));
    let commit_rows = count("commitRows", SourceTopic::COMMIT_ROWS, 1 << 24);
    let commit_seconds = count("commitSeconds", SourceTopic::COMMIT_SECONDS, 3600);
    Some(SourceTopic {
        name: name?,
        payload: payload?,
        key: key?,
        timestamp: timestamp?,
        commit_rows: commit_rows?,
        commit_seconds: commit_seconds?,
    })
}

/// A name that Kafka takes.
fn topic_name(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !matches!(text, "" | "." | "..") && text.len() <= 249 && text.bytes().all(allowed) {
        return Some(text.to_owned());
    }
    node.problem(
        codes::VALUE,
        "must be the name of a topic: at most 249 of A-Z a-z 0-9 . _ -",
    );
    None
}

fn source_column(node: &Node<'_>, columns: Option<&BTreeMap<String, String>>) -> Option<String> {
    let name = node.text()?;
    if columns.is_some_and(|columns| !columns.contains_key(name)) {
        node.problem(codes::REFERENCE, "must be one of the feed's source columns");
    }
    Some(name.to_owned())
}

/// The document of a topic, defaults left out.
pub(super) fn write(topic: &SourceTopic) -> Value {
    let mut document = json!({ "name": topic.name });
    if topic.payload != Payload::Json {
        document["payload"] = json!(topic.payload.as_str());
    }
    if let Some(key) = &topic.key {
        document["key"] = json!(key);
    }
    if let Some(timestamp) = &topic.timestamp {
        document["timestamp"] = json!(timestamp);
    }
    if topic.commit_rows != SourceTopic::COMMIT_ROWS {
        document["commitRows"] = json!(topic.commit_rows);
    }
    if topic.commit_seconds != SourceTopic::COMMIT_SECONDS {
        document["commitSeconds"] = json!(topic.commit_seconds);
    }
    document
}
