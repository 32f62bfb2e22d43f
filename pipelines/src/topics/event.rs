//! Events: what a subscriber is told, as CloudEvents 1.0.
//!
//! | `type` | meaning | `data` |
//! |---|---|---|
//! | `qihui.record.upserted.v1` | the subscriber may see this row, and this is all it may see of it | `key`, `row` (shown cells), `withheld` (names of columns) |
//! | `qihui.record.deleted.v1` | the subscriber may no longer see this row, or it is gone | `key` |
//! | `qihui.authorisation.ended.v1` | an authorisation ended in whole or part: what to delete, and by when | see [`super::notice`] |
//! | `qihui.topic.reset.v1` | drop what you hold of the topic, by Kafka: what you read of this partition; everything you may see follows | `topic`, `dataset`, by Kafka `partition` |
//!
//! `source` is `/hubs/<hub>/topics/<topic>`, `subject` the enterprise's unified social credit code, `time` the instant of
//! the page. `id` is a function of subscription, page, type and content: a page that is delivered again as it was has
//! the same ids, and no other page has them. The extension attribute `qihuipage` is the number of the page.

use std::collections::BTreeMap;
use std::ops::Range;

use qihui_catalog::{Timestamp, TopicName};
use qihui_query::QueryError;
use ring::digest::{Context, SHA256};

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// Begin again.
    Reset,
    /// An authorisation ended.
    Ended,
    /// A row may be seen, as given.
    Upserted,
    /// A row may not be seen any more, or is gone.
    Deleted,
}

impl EventKind {
    /// The CloudEvents type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "qihui.topic.reset.v1",
            Self::Ended => "qihui.authorisation.ended.v1",
            Self::Upserted => "qihui.record.upserted.v1",
            Self::Deleted => "qihui.record.deleted.v1",
        }
    }
}

/// One event of a page.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it says.
    pub kind: EventKind,
    /// The enterprise it is about.
    pub no: Option<u32>,
    /// Its code, where the bytes of [`Events`] have it.
    subject: Range<usize>,
    /// The data, where the bytes of [`Events`] have it.
    data: Range<usize>,
}

/// The events of a page in order, over one run of bytes.
#[derive(Debug, Clone, Default)]
pub struct Events {
    bytes: Vec<u8>,
    list: Vec<Event>,
}

impl Events {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes of all data.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The events in order.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.list.iter()
    }

    /// The data of an event: a JSON object.
    #[must_use]
    pub fn data(&self, event: &Event) -> &[u8] {
        self.bytes.get(event.data.clone()).unwrap_or_default()
    }

    /// The code of the enterprise that an event is about; empty when it is about none.
    #[must_use]
    pub fn subject(&self, event: &Event) -> &str {
        let bytes = self.bytes.get(event.subject.clone()).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Appends an event whose data `write` writes.
    ///
    /// # Errors
    /// What `write` says; then nothing is appended.
    pub fn push(
        &mut self,
        kind: EventKind,
        (no, subject): (Option<u32>, &str),
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(subject.as_bytes());
        let data = self.bytes.len();
        if let Err(error) = write(&mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        self.list.push(Event {
            kind,
            no,
            subject: start..data,
            data: data..self.bytes.len(),
        });
        Ok(())
    }

    /// Ends the page with the first enterprise, among those of the events from place `from` on, with which there are at
    /// least so many events or bytes in the page; gives its number. None: there are not so many.
    ///
    /// INVARIANT: from `from` on, the events of an enterprise stand together.
    pub fn cut(&mut self, from: usize, events: usize, bytes: usize) -> Option<u32> {
        let mut end = from;
        for run in self.list.get(from..)?.chunk_by(|a, b| a.no == b.no) {
            end += run.len();
            let last = run.last()?;
            if end >= events || last.data.end >= bytes {
                let (no, kept) = (last.no?, last.data.end);
                self.list.truncate(end);
                self.bytes.truncate(kept);
                return Some(no);
            }
        }
        None
    }

    /// Takes in the events of another page, after its own.
    pub fn append(&mut self, other: &Self) {
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        let moved = |range: &Range<usize>| range.start + shift..range.end + shift;
        self.list.extend(other.list.iter().map(|event| Event {
            kind: event.kind,
            no: event.no,
            subject: moved(&event.subject),
            data: moved(&event.data),
        }));
    }

    /// How many events there are about each enterprise.
    #[must_use]
    pub fn by_enterprise(&self) -> BTreeMap<u32, u64> {
        let mut counts = BTreeMap::new();
        for run in self.list.chunk_by(|a, b| a.no == b.no) {
            if let Some(no) = run.first().and_then(|event| event.no) {
                *counts.entry(no).or_default() += run.len() as u64;
            }
        }
        counts
    }
}

/// What all events of a page have in common.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The subscription.
    pub subscription: String,
    /// The number of the page.
    pub page: u64,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `time`.
    pub time: String,
}

impl Envelope {
    /// The envelope of a page of a subscription to `topic` at the hub `hub`.
    #[must_use]
    pub fn new(hub: &str, topic: &TopicName, subscription: &str, page: u64, at: Timestamp) -> Self {
        Self {
            subscription: subscription.to_owned(),
            page,
            source: format!("/hubs/{hub}/topics/{topic}"),
            time: at.to_string(),
        }
    }

    /// The id of an event: 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self, events: &Events, event: &Event) -> String {
        self.id_of(event.kind, events.subject(event), events.data(event))
    }

    /// The id of an event of this kind about `subject` with this data.
    #[must_use]
    pub fn id_of(&self, kind: EventKind, subject: &str, data: &[u8]) -> String {
        let mut hash = Context::new(&SHA256);
        hash.update(self.subscription.as_bytes());
        hash.update(&[0]);
        hash.update(&self.page.to_be_bytes());
        hash.update(kind.as_str().as_bytes());
        hash.update(&[0]);
        hash.update(subject.as_bytes());
        hash.update(&[0]);
        hash.update(data);
        let digest = hash.finish();
        hex::encode(digest.as_ref().get(..16).unwrap_or_default())
    }

    /// Writes an event in the JSON format of CloudEvents.
    pub fn write(&self, events: &Events, event: &Event, out: &mut Vec<u8>) {
        let id = self.id(events, event);
        let subject = events.subject(event);
        for part in [
            "{\"specversion\":\"1.0\",\"id\":\"",
            &id,
            "\",\"source\":\"",
            &self.source,
            "\",\"type\":\"",
            event.kind.as_str(),
            "\",\"time\":\"",
            &self.time,
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        if !subject.is_empty() {
            out.extend_from_slice(b"\",\"subject\":\"");
            out.extend_from_slice(subject.as_bytes());
        }
        out.extend_from_slice(b"\",\"datacontenttype\":\"application/json\",\"qihuipage\":\"");
        out.extend_from_slice(self.page.to_string().as_bytes());
        out.extend_from_slice(b"\",\"data\":");
        out.extend_from_slice(events.data(event));
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Events {
        let mut events = Events::default();
        let data = |text: &'static str| {
            move |out: &mut Vec<u8>| {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
        };
        events
            .push(
                EventKind::Upserted,
                (Some(7), "91330000142911651L"),
                data(r#"{"key":{"id":1}}"#),
            )
            .unwrap();
        events
            .push(
                EventKind::Deleted,
                (Some(7), "91330000142911651L"),
                data(r#"{"key":{"id":1}}"#),
            )
            .unwrap();
        events
            .push(EventKind::Reset, (None, ""), data("{}"))
            .unwrap();
        events
    }

    #[test]
    fn events_are_written_as_cloud_events() {
        let topic = "filings".parse().unwrap();
        let envelope = Envelope::new("hub-1", &topic, "s-1", 3, Timestamp(0));
        let events = events();
        let mut seen = Vec::new();
        for event in events.iter() {
            let mut out = Vec::new();
            envelope.write(&events, event, &mut out);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(value["specversion"], "1.0");
            assert_eq!(value["source"], "/hubs/hub-1/topics/filings");
            assert_eq!(value["qihuipage"], "3");
            assert_eq!(value["time"], "1970-01-01T00:00:00.000Z");
            seen.push((
                value["type"].as_str().unwrap().to_owned(),
                value.get("subject").cloned(),
                value["id"].as_str().unwrap().to_owned(),
            ));
        }
        assert_eq!(seen[0].0, "qihui.record.upserted.v1");
        assert_eq!(seen[0].1, Some("91330000142911651L".into()));
        assert_eq!(seen[2].1, None);
        assert!(seen[0].2 != seen[1].2, "the type is part of the id");
        let next = Envelope {
            page: 4,
            ..envelope.clone()
        };
        let first = events.iter().next().unwrap();
        assert_ne!(next.id(&events, first), envelope.id(&events, first));
        assert_eq!(envelope.id(&events, first), seen[0].2);
        assert_eq!(events.by_enterprise(), BTreeMap::from([(7, 2)]));
    }

    #[test]
    fn a_page_is_cut_where_an_enterprise_ends() {
        let page = |events: usize, bytes: usize| {
            let mut page = Events::default();
            for (no, count) in [(3, 2), (4, 1), (9, 3)] {
                for _ in 0..count {
                    let write = |out: &mut Vec<u8>| {
                        out.extend_from_slice(b"12345678");
                        Ok(())
                    };
                    page.push(EventKind::Upserted, (Some(no), "ab"), write)
                        .unwrap();
                }
            }
            let cut = page.cut(0, events, bytes);
            (cut, page.len(), page.bytes())
        };
        assert_eq!(page(1, 1000), (Some(3), 2, 20));
        assert_eq!(page(2, 1000), (Some(3), 2, 20));
        assert_eq!(page(3, 1000), (Some(4), 3, 30));
        assert_eq!(page(4, 1000), (Some(9), 6, 60));
        assert_eq!(page(7, 1000), (None, 6, 60));
        assert_eq!(page(100, 21), (Some(4), 3, 30));
        assert_eq!(Events::default().cut(0, 1, 1), None);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let mut events = events();
        let (count, bytes) = (events.len(), events.bytes());
        let failed = events.push(EventKind::Deleted, (None, "x"), |out| {
            out.push(b'{');
            Err(QueryError::Internal { what: "a test" })
        });
        assert!(failed.is_err());
        assert_eq!((events.len(), events.bytes()), (count, bytes));
        let mut all = Events::default();
        all.append(&events);
        all.append(&events);
        let last = all.iter().last().unwrap();
        assert_eq!((all.len(), all.data(last)), (6, &b"{}"[..]));
    }
}
