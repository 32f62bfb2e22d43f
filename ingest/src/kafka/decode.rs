//! From a message to a checked record.

use std::{borrow::Cow, str, sync::Arc};

use chrono::{DateTime, FixedOffset, Utc};
use memchr::memchr;
use qihui_catalog::{ColumnType, Payload, SourceTopic};
use rdkafka::message::{Headers, Message};

use crate::{
    IngestError, Limits,
    chunk::{Gatherer, RowAt, Rows},
    error::Result,
    fields::{Fields, JsonFields, Slot},
    kafka::cloudevents::{self, Data},
    plan::Plan,
    reason::{Problem, Reason},
};

/// The time of China, whose days dates are.
const CHINA_OFFSET_SECONDS: i32 = 8 * 3600;

/// Takes messages of one topic apart and gathers the good ones.
pub(crate) struct Decoder {
    payload: Payload,
    /// Whether a message without a value is a retraction, and the slot of its key where that lands.
    key: Option<Option<usize>>,
    /// The slot of the message's time, and whether it is a day.
    time: Option<(usize, bool)>,
    keys: JsonFields,
    fields: Fields,
    slots: usize,
    gatherer: Gatherer,
    limits: Limits,
}

impl Decoder {
    /// Decodes messages of `topic` as `plan` says.
    pub fn new(plan: &Arc<Plan>, topic: &SourceTopic, limits: &Limits) -> Result<Self> {
        let slot = |name: &String| match plan.slot(name) {
            Some(Slot::Wanted(slot)) => Some(slot),
            Some(Slot::Dropped) | None => None,
        };
        let time = topic.timestamp.as_ref().and_then(slot);
        let time = time.map(|slot| match plan.columns.get(slot).map(|c| c.ty) {
            Some(ColumnType::Timestamp) => Ok((slot, false)),
            Some(ColumnType::Date) => Ok((slot, true)),
            _ => Err(IngestError::BadFeed {
                feed: plan.feed.name.to_string(),
                fault: "the time of a message can only fill a date or a timestamp".to_owned(),
            }),
        });
        Ok(Self {
            payload: topic.payload,
            key: topic.key.as_ref().map(slot),
            time: time.transpose()?,
            keys: plan.bind_keys(limits),
            fields: Fields::default(),
            slots: plan.slot_count(),
            gatherer: Gatherer::new(Arc::clone(plan)),
            limits: *limits,
        })
    }

    /// Takes a message in, or says what is wrong with it.
    pub fn take<M: Message>(&mut self, message: &M, at: RowAt) -> Result<(), Vec<Problem>> {
        let whole = |code| vec![Problem { code, column: None }];
        let record = self.record(message).map_err(whole)?;
        match record {
            Data::Record(text) => {
                self.keys.split(&text, &mut self.fields).map_err(whole)?;
                self.fill(message).map_err(whole)?;
                self.gatherer.take(&text, &self.fields, at)
            }
            Data::Nothing => {
                self.retraction(message).map_err(whole)?;
                self.gatherer.take_retraction(&self.fields, at)
            }
        }
    }

    /// The good records taken in since the last call.
    pub fn finish(&mut self) -> Rows {
        self.gatherer.finish()
    }

    fn record<'m, M: Message>(&self, message: &'m M) -> Result<Data<'m>, Reason> {
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let (key, value) = (message.key(), message.payload());
        if length(key).max(length(value)) > self.limits.record_bytes {
            return Err(Reason::RecordTooLong);
        }
        match (self.payload, value) {
            (Payload::Json, None) => Ok(Data::Nothing),
            (Payload::Json, Some(value)) => Ok(Data::Record(Cow::Borrowed(text(value)?))),
            (Payload::CloudEvents, value) => {
                let headers = message.headers();
                let headers = headers.iter().flat_map(|headers| headers.iter());
                let headers = headers.map(|header| (header.key, header.value));
                cloudevents::data(cloudevents::Message { headers, value })
            }
        }
    }

    /// What a message without a value takes back: its key is the JSON object of a record's key, or the one column that
    /// the feed says it is.
    fn retraction<M: Message>(&mut self, message: &M) -> Result<(), Reason> {
        let (Some(_), Some(key)) = (self.key, message.key()) else {
            return Err(Reason::NoValue);
        };
        let key = text(key)?;
        if is_object(key) {
            self.keys.split(key, &mut self.fields)?;
        } else {
            self.fields.begin(self.slots);
        }
        self.fill(message)
    }

    /// Fills what the record lacks from key and time of the message.
    fn fill<M: Message>(&mut self, message: &M) -> Result<(), Reason> {
        if let (Some(Some(slot)), Some(key)) = (self.key, message.key())
            && self.fields.is_absent(slot)
        {
            let key = text(key)?;
            if key.len() > self.limits.field_bytes {
                return Err(Reason::FieldTooLong);
            }
            if !is_object(key) {
                self.fields.put(slot, key);
            }
        }
        if let (Some((slot, is_day)), Some(time_ms)) = (self.time, message.timestamp().to_millis())
            && self.fields.is_absent(slot)
            && let Some(time) = DateTime::<Utc>::from_timestamp_millis(time_ms)
        {
            self.fields.put(slot, &written(time, is_day));
        }
        Ok(())
    }
}

/// A time as a source would write it.
fn written(time: DateTime<Utc>, is_day: bool) -> String {
    if !is_day {
        return time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    }
    let day = FixedOffset::east_opt(CHINA_OFFSET_SECONDS).map_or(time.date_naive(), |china| {
        time.with_timezone(&china).date_naive()
    });
    day.format("%Y-%m-%d").to_string()
}

fn is_object(key: &str) -> bool {
    key.trim_start().starts_with('{')
}

/// Bytes as the text that a record has to be.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Reason> {
    if memchr(0, bytes).is_some() {
        return Err(Reason::NulByte);
    }
    str::from_utf8(bytes).map_err(|_| Reason::BadEncoding)
}
