//! CloudEvents 1.0 in Kafka messages: finds the record inside, in either of the two modes of the Kafka binding.
//!
//! - **structured**: the value is one JSON object with the attributes and `data` (or `data_base64`); the header
//!   `content-type` says `application/cloudevents+json`, or there is neither it nor any `ce_` header;
//! - **binary**: the value is the data, the attributes are headers that begin with `ce_`.
//!
//! An event has `specversion` 1.0 and non-empty `id`, `source` and `type`, or it is none. Its data must be JSON.
//! Extension attributes are passed over. A batch is no event: Kafka has no batched mode.

use std::{borrow::Cow, fmt, str};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::reason::Reason;

const CONTENT_TYPE: &str = "content-type";
const PREFIX: &str = "ce_";
const STRUCTURED: &str = "application/cloudevents";

/// A message with its headers, in order; a header may come without a value.
pub(crate) struct Message<'m, H> {
    pub headers: H,
    /// None for a message without a value.
    pub value: Option<&'m [u8]>,
}

/// The record in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data<'m> {
    /// A text that should be one JSON object.
    Record(Cow<'m, str>),
    /// The event says that there is nothing (any more).
    Nothing,
}

/// Finds the record in a message.
///
/// # Errors
/// [`Reason::BadCloudEvent`] for what is no event 1.0 with JSON data, [`Reason::BadEncoding`] and [`Reason::NulByte`]
/// for what is no text, [`Reason::DuplicateKey`] for an attribute that stands twice.
pub(crate) fn data<'m, 'h>(
    message: Message<'m, impl Iterator<Item = (&'h str, Option<&'h [u8]>)>>,
) -> Result<Data<'m>, Reason> {
    let mut attributes = Attributes::default();
    let mut content_type = None;
    let mut is_binary = false;
    for (name, value) in message.headers {
        let value = value.unwrap_or_default();
        if name.eq_ignore_ascii_case(CONTENT_TYPE) {
            content_type = Some(str::from_utf8(value).map_err(|_| Reason::BadCloudEvent)?);
        } else if let Some(attribute) = name.strip_prefix(PREFIX) {
            is_binary = true;
            let value = str::from_utf8(value).map_err(|_| Reason::BadCloudEvent)?;
            attributes.take(attribute, value)?;
        }
    }
    let is_structured = content_type.is_some_and(|text| media_type(text).starts_with(STRUCTURED));
    match message.value {
        None => Ok(Data::Nothing),
        Some(value) if is_structured || !is_binary => {
            if let Some(text) = content_type
                && !matches!(
                    media_type(text).as_str(),
                    "application/cloudevents+json" | "application/json"
                )
            {
                return Err(Reason::BadCloudEvent);
            }
            structured(crate::kafka::decode::text(value)?)
        }
        Some(value) => {
            attributes.check()?;
            if content_type.is_some_and(|text| !is_json(text)) {
                return Err(Reason::BadCloudEvent);
            }
            let text = crate::kafka::decode::text(value)?;
            Ok(Data::Record(Cow::Borrowed(text)))
        }
    }
}

fn structured(text: &str) -> Result<Data<'_>, Reason> {
    let mut event = Event::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Reader(&mut event).deserialize(&mut reader);
    let fault = event.fault;
    if read.and_then(|()| reader.end()).is_err() {
        return Err(fault.unwrap_or(Reason::BadJson));
    }
    fault.map_or(Ok(()), Err)?;
    event.attributes.check()?;
    if event.content_type.is_some_and(|text| !is_json(&text)) {
        return Err(Reason::BadCloudEvent);
    }
    match (event.data, event.data_base64) {
        (Some(_), Some(_)) => Err(Reason::BadCloudEvent),
        (Some("null"), None) | (None, None) => Ok(Data::Nothing),
        (Some(data), None) => Ok(Data::Record(Cow::Borrowed(data))),
        (None, Some(encoded)) => {
            let bytes = BASE64
                .decode(encoded.as_bytes())
                .map_err(|_| Reason::BadCloudEvent)?;
            crate::kafka::decode::text(&bytes)?;
            let text = String::from_utf8(bytes).map_err(|_| Reason::BadEncoding)?;
            Ok(Data::Record(Cow::Owned(text)))
        }
    }
}

/// Which of the attributes that every event has were there.
#[derive(Debug, Default)]
struct Attributes {
    version: Option<bool>,
    id: Option<bool>,
    source: Option<bool>,
    kind: Option<bool>,
}

impl Attributes {
    fn take(&mut self, name: &str, value: &str) -> Result<(), Reason> {
        let (place, good) = match name {
            "specversion" => (&mut self.version, value == "1.0"),
            "id" => (&mut self.id, !value.is_empty()),
            "source" => (&mut self.source, !value.is_empty()),
            "type" => (&mut self.kind, !value.is_empty()),
            _ => return Ok(()),
        };
        match place.replace(good) {
            None => Ok(()),
            Some(_) => Err(Reason::DuplicateKey),
        }
    }

    fn check(&self) -> Result<(), Reason> {
        let all = [self.version, self.id, self.source, self.kind];
        if all == [Some(true); 4] {
            Ok(())
        } else {
            Err(Reason::BadCloudEvent)
        }
    }
}

/// A media type without its parameters, in lower case.
fn media_type(text: &str) -> String {
    let end = text.find(';').unwrap_or(text.len());
    text[..end].trim().to_ascii_lowercase()
}

fn is_json(text: &str) -> bool {
    let media = media_type(text);
    matches!(media.as_str(), "application/json" | "text/json") || media.ends_with("+json")
}

/// A structured event while it is read.
#[derive(Debug, Default)]
struct Event<'m> {
    attributes: Attributes,
    content_type: Option<String>,
    data: Option<&'m str>,
    data_base64: Option<String>,
    fault: Option<Reason>,
}

impl<'m> Event<'m> {
    fn take(&mut self, key: &str, value: &'m RawValue) -> Result<(), Reason> {
        let twice = |is_there: bool| {
            if is_there {
                Err(Reason::DuplicateKey)
            } else {
                Ok(())
            }
        };
        let text =
            || serde_json::from_str::<String>(value.get()).map_err(|_| Reason::BadCloudEvent);
        match key {
            "data" => {
                twice(self.data.is_some())?;
                self.data = Some(value.get());
            }
            "data_base64" => {
                twice(self.data_base64.is_some())?;
                self.data_base64 = Some(text()?);
            }
            "datacontenttype" => {
                twice(self.content_type.is_some())?;
                self.content_type = Some(text()?);
            }
            "specversion" | "id" | "source" | "type" => self.attributes.take(key, &text()?)?,
            _ => {}
        }
        Ok(())
    }
}

struct Reader<'e, 'm>(&'e mut Event<'m>);

impl<'de> DeserializeSeed<'de> for Reader<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = 0;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            keys += 1;
            if keys > MOST_ATTRIBUTES {
                self.0.fault = Some(Reason::FieldCount);
                map.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom("too many attributes"));
            }
            let value: &'de RawValue = map.next_value()?;
            if let Err(fault) = self.0.take(&key, value) {
                self.0.fault.get_or_insert(fault);
            }
        }
        Ok(())
    }
}

/// The most attributes of an event, extensions included.
const MOST_ATTRIBUTES: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
    const BINARY: [(&str, &str); 4] = [
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_source", "/s"),
        ("ce_type", "t"),
    ];

    fn read(headers: &[(&str, &str)], value: Option<&[u8]>) -> Result<Option<String>, Reason> {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        Ok(match data(Message { headers, value })? {
            Data::Record(text) => Some(text.into_owned()),
            Data::Nothing => None,
        })
    }

    fn structured(value: &str) -> Result<Option<String>, Reason> {
        read(
            &[(
                "content-type",
                "application/cloudevents+json; charset=UTF-8",
            )],
            Some(value.as_bytes()),
        )
    }

    #[test]
    fn both_modes_give_the_same_record() {
        let record = Ok(Some(r#"{"a":1}"#.to_owned()));
        assert_eq!(structured(EVENT), record);
        assert_eq!(read(&[], Some(EVENT.as_bytes())), record);
        assert_eq!(read(&BINARY, Some(br#"{"a":1}"#)), record);
        let mut with_type = BINARY.to_vec();
        with_type.push(("Content-Type", "application/vnd.x+json; v=1"));
        assert_eq!(read(&with_type, Some(br#"{"a":1}"#)), record);
        let encoded = EVENT.replace(r#""data":{"a":1}"#, r#""data_base64":"eyJhIjoxfQ==""#);
        assert_eq!(structured(&encoded), record);
        let extended = EVENT.replace("{\"spec", "{\"traceparent\":\"x\",\"extra\":[1,{}],\"spec");
        assert_eq!(structured(&extended), record);
    }

    #[test]
    fn an_event_without_data_says_that_there_is_nothing() {
        assert_eq!(
            structured(&EVENT.replace(r#","data":{"a":1}"#, "")),
            Ok(None)
        );
        assert_eq!(structured(&EVENT.replace(r#"{"a":1}"#, "null")), Ok(None));
        assert_eq!(read(&BINARY, None), Ok(None));
        assert_eq!(read(&[], None), Ok(None));
    }

    #[test]
    fn what_is_no_event_is_not_taken_for_one() {
        for (from, to) in [
            (r#""specversion":"1.0","#, ""),
            (r#""specversion":"1.0""#, r#""specversion":"0.3""#),
            (r#""specversion":"1.0""#, r#""specversion":1.0"#),
            (r#""id":"1""#, r#""id":"""#),
            (r#""source":"/s","#, ""),
            (r#""type":"t","#, ""),
            (
                r#""type":"t","#,
                r#""type":"t","datacontenttype":"text/xml","#,
            ),
            (
                r#""data":{"a":1}"#,
                r#""data":{"a":1},"data_base64":"eyJhIjoxfQ==""#,
            ),
            (r#""data":{"a":1}"#, r#""data_base64":"!""#),
        ] {
            let text = EVENT.replace(from, to);
            assert_ne!(text, EVENT);
            assert_eq!(structured(&text), Err(Reason::BadCloudEvent), "{text}");
        }
        assert_eq!(
            structured(&EVENT.replace("\"id\":\"1\"", "\"id\":\"1\",\"id\":\"2\"")),
            Err(Reason::DuplicateKey)
        );
        assert_eq!(structured("[]"), Err(Reason::BadJson));
        assert_eq!(structured(&EVENT[1..]), Err(Reason::BadJson));
        assert_eq!(structured(&format!("{EVENT}{EVENT}")), Err(Reason::BadJson));
        let batch = [("content-type", "application/cloudevents-batch+json")];
        assert_eq!(
            read(&batch, Some(EVENT.as_bytes())),
            Err(Reason::BadCloudEvent)
        );
        assert_eq!(read(&BINARY[1..], Some(b"{}")), Err(Reason::BadCloudEvent));
        let twice = [&BINARY[..], &BINARY[..1]].concat();
        assert_eq!(read(&twice, Some(b"{}")), Err(Reason::DuplicateKey));
        assert_eq!(read(&BINARY, Some(b"\xFF")), Err(Reason::BadEncoding));
        assert_eq!(read(&BINARY, Some(b"{\"a\":\"\0\"}")), Err(Reason::NulByte));
        let many: String = (0..300).map(|i| format!("\"x{i}\":1,")).collect();
        assert_eq!(
            structured(&EVENT.replace("{\"spec", &format!("{{{many}\"spec"))),
            Err(Reason::FieldCount)
        );
    }

    fn any_headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        let name = prop::sample::select(vec![
            "content-type",
            "ce_id",
            "ce_specversion",
            "ce_source",
            "ce_type",
            "ce_x",
            "y",
        ]);
        let value = prop_oneof![
            prop::sample::select(vec![
                "1.0",
                "application/json",
                "application/cloudevents+json",
                "",
                "a"
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec((name.prop_map(str::to_owned), value), 0..8)
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "\\PC{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Nothing that stands in a message makes the decoder fail other than by a reason.
        #[test]
        fn ing_3_any_message_is_an_event_or_has_a_reason(
            headers in any_headers(),
            value in prop::option::of(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                (0..EVENT.len(), any::<u8>()).prop_map(|(at, byte)| {
                    let mut event = EVENT.as_bytes().to_vec();
                    event[at] = byte;
                    event
                }),
                (0..EVENT.len()).prop_map(|end| EVENT.as_bytes()[..end].to_vec()),
            ]),
        ) {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice())));
            let _ = data(Message { headers, value: value.as_deref() });
        }

        /// Whatever the data, the three ways to carry it mean the same.
        #[test]
        fn ing_1_the_modes_agree_on_any_data(value in any_json(), id in "\\PC{1,8}") {
            let text = value.to_string();
            let expected = Ok((!value.is_null()).then(|| value.clone()));
            let json = |read: Result<Option<String>, Reason>| {
                read.map(|text| text.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap()))
            };
            let mut event = serde_json::json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t"});
            event["data"] = value.clone();
            prop_assert_eq!(json(structured(&event.to_string())), expected);
            let headers = [("ce_specversion", "1.0"), ("ce_id", id.as_str()), ("ce_source", "/s"), ("ce_type", "t")];
            prop_assert_eq!(json(read(&headers, Some(text.as_bytes()))), Ok(Some(value.clone())));
            event.as_object_mut().unwrap().remove("data");
            event["data_base64"] = BASE64.encode(&text).into();
            prop_assert_eq!(json(structured(&event.to_string())), Ok(Some(value)));
        }
    }
}
