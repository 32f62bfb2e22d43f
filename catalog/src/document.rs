//! Reading YAML documents so that every mistake is reported with its place.
//!
//! Serde stops at the first mistake and knows no place, so a document becomes a tree first and is then read key by
//! key; every key that nobody asked for is a problem. Limits: [`MAX_BYTES`] a file, [`MAX_DEPTH`] levels, no aliases
//! (nothing here needs them, and they can make a small file large).

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::problem::{Problem, codes};

/// The largest file of the catalogue, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting of a document.
const MAX_DEPTH: usize = 24;
/// The longest text in a document, in characters.
const MAX_TEXT: usize = 4000;

/// Collects the problems of one file.
pub(crate) struct Reader {
    file: String,
    problems: RefCell<Vec<Problem>>,
}

impl Reader {
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            problems: RefCell::default(),
        }
    }

    /// Parses `text`; a problem is noted when it is not YAML.
    pub(crate) fn parse(&self, text: &str) -> Option<Value> {
        if text.len() > MAX_BYTES {
            self.note(
                "",
                codes::UNREADABLE,
                format!("the file is larger than {MAX_BYTES} bytes"),
            );
            return None;
        }
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_aliases: 0, max_anchors: 0, max_documents: 1 },
            leading_zero_numbers_as_strings: true,
            strict_booleans: true,
            with_snippet: false,
            reject_unsupported_tags: true,
        };
        match serde_saphyr::from_str_with_options::<Value>(text, options) {
            Ok(value) => Some(value),
            Err(error) => {
                let reason = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
                let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
                self.note(
                    "",
                    codes::SYNTAX,
                    format!("not readable as YAML: {}", shorten(&reason)),
                );
                None
            }
        }
    }

    pub(crate) fn note(&self, path: &str, code: &'static str, reason: impl Into<String>) {
        let problem = Problem {
            file: self.file.clone(),
            path: path.to_owned(),
            reason: reason.into(),
            code,
        };
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// At most 200 characters of a text that is repeated in a problem.
fn shorten(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A place in a document with the value there.
#[derive(Clone)]
pub(crate) struct Node<'d> {
    reader: &'d Reader,
    value: &'d Value,
    path: String,
}

impl<'d> Node<'d> {
    pub(crate) fn root(reader: &'d Reader, value: &'d Value) -> Self {
        Self {
            reader,
            value,
            path: String::new(),
        }
    }

    /// The same place under another name, for items that have a name of their own.
    pub(crate) fn named(mut self, name: &str) -> Self {
        if let Some(bracket) = self.path.rfind('[') {
            self.path.truncate(bracket);
            let _ = write!(self.path, "[{}]", shorten(name));
        }
        self
    }

    pub(crate) fn problem(&self, code: &'static str, reason: impl Into<String>) {
        self.reader.note(&self.path, code, reason);
    }

    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) if text.trim().is_empty() => "empty text".to_owned(),
            Value::String(_) => "text".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "keys and values".to_owned(),
        };
        self.problem(codes::VALUE, format!("must be {wanted}, found {found}"));
        None
    }

    pub(crate) fn text(&self) -> Option<&'d str> {
        match self.value {
            Value::String(text) if text.trim().is_empty() => self.wrong("text that is not empty"),
            Value::String(text) if text.chars().count() > MAX_TEXT => {
                self.wrong(&format!("text of at most {MAX_TEXT} characters"))
            }
            Value::String(text)
                if text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') =>
            {
                self.wrong("text without control characters")
            }
            Value::String(text) => Some(text.trim()),
            _ => self.wrong("text"),
        }
    }

    /// The text, if it is text at all; notes no problem.
    pub(crate) fn as_text(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    /// Text on one line: line breaks of folded text become spaces.
    pub(crate) fn line(&self) -> Option<String> {
        self.text()
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong("true or false"))
    }

    pub(crate) fn count(&self, min: u32, max: u32) -> Option<u32> {
        self.value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .or_else(|| self.wrong(&format!("a whole number from {min} to {max}")))
    }

    /// A date, a whole number or a decimal written as text, exactly as written.
    pub(crate) fn literal(&self) -> Option<String> {
        match self.value {
            Value::String(_) => self.text().map(str::to_owned),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            _ => self.wrong("a whole number, or a decimal number or date in quotes"),
        }
    }

    /// Text read by the type's own rule.
    pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self) -> Option<T> {
        self.text()?
            .parse()
            .map_err(|error: T::Err| self.problem(codes::VALUE, error.to_string()))
            .ok()
    }

    /// One of a closed list of words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let allowed = words
                .iter()
                .map(|(word, _)| *word)
                .collect::<Vec<_>>()
                .join(", ");
            self.problem(
                codes::VALUE,
                format!("`{}` is unknown here: use one of {allowed}", shorten(text)),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Option<Vec<Node<'d>>> {
        let Value::Array(items) = self.value else {
            return self.wrong("a list");
        };
        let place = |(at, value)| Node {
            reader: self.reader,
            value,
            path: format!("{}[{at}]", self.path),
        };
        Some(items.iter().enumerate().map(place).collect())
    }

    /// The keys and values.
    pub(crate) fn fields(&self) -> Option<Fields<'d>> {
        match self.value {
            Value::Object(map) => Some(Fields::new(self.clone(), map)),
            _ => self.wrong("keys and values"),
        }
    }

    /// Every key with its value, for maps whose keys are names of the writer's own.
    pub(crate) fn entries(&self) -> Option<Vec<(&'d str, Node<'d>)>> {
        let Value::Object(map) = self.value else {
            return self.wrong("keys and values");
        };
        let place = |(key, value): (&'d String, &'d Value)| {
            let path = format!("{}[{}]", self.path, shorten(key));
            (
                key.as_str(),
                Node {
                    reader: self.reader,
                    value,
                    path,
                },
            )
        };
        Some(map.iter().map(place).collect())
    }

    /// A key with its value, for lists of `{property, value}`.
    pub(crate) fn with_value_of(&self, other: &Node<'d>) -> Self {
        Self {
            reader: self.reader,
            value: other.value,
            path: self.path.clone(),
        }
    }
}

/// Keys and values, of which each key must be asked for.
pub(crate) struct Fields<'d> {
    node: Node<'d>,
    map: &'d Map<String, Value>,
    asked: RefCell<Vec<&'static str>>,
    lenient: Cell<bool>,
}

impl<'d> Fields<'d> {
    fn new(node: Node<'d>, map: &'d Map<String, Value>) -> Self {
        Self {
            node,
            map,
            asked: RefCell::default(),
            lenient: Cell::new(false),
        }
    }

    pub(crate) fn optional(&self, key: &'static str) -> Option<Node<'d>> {
        self.asked.borrow_mut().push(key);
        let value = self.map.get(key)?;
        let separator = if self.node.path.is_empty() { "" } else { "." };
        Some(Node {
            reader: self.node.reader,
            value,
            path: format!("{}{separator}{key}", self.node.path),
        })
    }

    pub(crate) fn required(&self, key: &'static str) -> Option<Node<'d>> {
        let found = self.optional(key);
        if found.is_none() {
            self.node
                .problem(codes::MISSING_KEY, format!("`{key}` is missing"));
        }
        found
    }

    /// Gives up the check for unknown keys, after a problem that explains them.
    pub(crate) fn leave(&self) {
        self.lenient.set(true);
    }
}

impl Drop for Fields<'_> {
    /// Reports every key that was not asked for.
    fn drop(&mut self) {
        if self.lenient.get() {
            return;
        }
        let asked = self.asked.borrow();
        for key in self.map.keys().filter(|key| !asked.contains(&key.as_str())) {
            let reason = format!(
                "unknown key `{}`: known here are {}",
                shorten(key),
                asked.join(", ")
            );
            self.node.problem(codes::UNKNOWN_KEY, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, read: impl FnOnce(Node<'_>)) -> Vec<String> {
        let reader = Reader::new("x.yaml");
        if let Some(value) = reader.parse(text) {
            read(Node::root(&reader, &value));
        }
        reader
            .into_problems()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_document_is_small_flat_and_plain() {
        for text in [
            "a: &x 1\nb: *x",
            "a: 1\na: 2",
            "a: 1\n---\nb: 2",
            "a: !thing 1",
            &"[".repeat(100),
            "\0",
            "a: [1",
        ] {
            let found = problems(text, |_| {});
            assert!(
                found.len() == 1 && found[0].starts_with("x.yaml: not readable as YAML: "),
                "{text:?}: {found:?}"
            );
        }
        assert!(problems(&" ".repeat(MAX_BYTES + 1), |_| {})[0].contains("larger than"));
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let found = problems("a: 1\nb: [x, 2]\nc: {d: yes}\nz: 0", |root| {
            let fields = root.fields().unwrap();
            let _ = fields.required("a").unwrap().text();
            for item in fields.required("b").unwrap().items().unwrap() {
                let _ = item.text();
            }
            let inner = fields.required("c").unwrap().fields().unwrap();
            let _ = inner.required("d").unwrap().boolean();
            let _ = fields.required("e");
        });
        assert_eq!(
            found,
            [
                "x.yaml: a: must be text, found the number 1",
                "x.yaml: b[1]: must be text, found the number 2",
                "x.yaml: c.d: must be true or false, found text",
                "x.yaml: `e` is missing",
                "x.yaml: unknown key `z`: known here are a, b, c, e",
            ]
        );
    }

    #[test]
    fn numbers_with_leading_zeros_stay_text() {
        let reader = Reader::new("x.yaml");
        let value = reader.parse("a: 007\nb: 2026-01-31\nc: no").unwrap();
        assert_eq!(
            value,
            serde_json::json!({"a": "007", "b": "2026-01-31", "c": "no"})
        );
    }
}
