//! What a command has to say: one JSON document for programs, text for people.

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;

/// The result of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// For programs, with `--json`.
    pub json: Value,
    /// The JSON document as text instead, where a value would not hold it as it is.
    pub document: Option<String>,
    /// For people, without it; may be empty.
    pub text: String,
    /// Remarks for stderr, in both cases.
    pub notes: Vec<String>,
}

impl Report {
    /// A report in both forms.
    pub fn new(json: Value, text: impl Into<String>) -> Self {
        Self {
            json,
            document: None,
            text: text.into(),
            notes: Vec::new(),
        }
    }

    /// A report whose JSON document is given as text.
    pub fn with_document(document: String, text: impl Into<String>) -> Self {
        Self {
            document: Some(document),
            ..Self::new(Value::Null, text)
        }
    }

    /// The same with a remark.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// Rows under a header, as people like to read them.
pub(crate) fn table<R>(header: &[&str], rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    table.to_string()
}

/// The text without control characters, line ends aside: names of sheets and documents come from outside, and a
/// terminal obeys them.
fn printable(text: &str) -> String {
    let is_harmless = |c: char| c == '\n' || !c.is_control();
    text.chars()
        .map(|c| {
            if is_harmless(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_holds_nothing_that_a_terminal_obeys() {
        let name = "\u{1b}]0;x\u{7}年报\r\u{9b}2J".to_owned();
        let shown = table(&["sheet"], [vec![name]]);
        assert!(shown.contains("年报"), "{shown}");
        assert!(
            !shown.chars().any(|c| c != '\n' && c.is_control()),
            "{shown:?}"
        );
    }
}
