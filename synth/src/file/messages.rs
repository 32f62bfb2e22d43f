//! Declarations as messages: one head, up to fifty goods lines.
//!
//! Records that follow each other with equal heads share a message, as the lines of one declaration do.

use qihui_catalog::MessageForm;

use crate::plan::Plan;
use crate::row::Row;

/// The version of the interface that messages name.
const VERSION: &str = "4.8";
/// The columns that stand in goods lines; all others stand in the head.
const LINE_COLUMNS: [&str; 17] = [
    "g_no",
    "code_ts",
    "g_name",
    "g_model",
    "g_qty",
    "g_unit",
    "first_qty",
    "first_unit",
    "second_qty",
    "second_unit",
    "decl_price",
    "decl_total",
    "trade_curr",
    "origin_country",
    "destination_country",
    "duty_mode",
    "district_code",
];
/// Blocks of the head that hold single columns; the mark of a retraction has no column.
const BLOCKS: [(&str, &[&str]); 2] = [
    ("DecFreeTxt", &["dec_bp_no"]),
    ("DecExchange", &["data_time", ""]),
];
const HEAD: &str = "DecHead";

/// The messages of one file.
pub(super) struct Messages {
    form: MessageForm,
    gb18030: bool,
    file: usize,
    /// The head of the message that is open; empty when none is.
    open: String,
    lines: usize,
}

impl Messages {
    pub(super) fn new(plan: &Plan, file: usize) -> Self {
        // INVARIANT: every XML feed of the catalogue says what its messages are; without it nothing would be written.
        let form = plan.feed.message.clone().unwrap_or(MessageForm {
            namespace: String::new(),
            envelope: "envelope".to_owned(),
            message: "message".to_owned(),
            head: std::collections::BTreeSet::new(),
            list: "list".to_owned(),
            line: "line".to_owned(),
            max_lines: 1,
            ignored: std::collections::BTreeSet::new(),
            swap: None,
        });
        Self {
            form,
            gb18030: plan.gb18030(file),
            file,
            open: String::new(),
            lines: 0,
        }
    }

    /// What stands before the first message.
    pub(super) fn begin(&self, out: &mut String) {
        let encoding = if self.gb18030 { "GB18030" } else { "UTF-8" };
        out.push_str(&format!(
            "<?xml version=\"1.0\" encoding=\"{encoding}\"?>\n<{} xmlns=\"{}\">\n",
            self.form.envelope, self.form.namespace
        ));
    }

    /// Writes a record: a line of the open message, if that has the same head, or of a new one.
    pub(super) fn put(&mut self, row: &Row<'_>, torn: bool, alone: bool, out: &mut String) {
        let (head, line) = self.blocks(row);
        if alone || self.open != head || self.lines == self.form.max_lines {
            self.close(out);
        }
        if self.open.is_empty() {
            let MessageForm { message, list, .. } = &self.form;
            out.push_str(&format!("<{message} Version=\"{VERSION}\">\n{head}"));
            if torn {
                out.push_str(&format!("</{message}>\n"));
                return;
            }
            out.push_str(&format!("<{list}>\n"));
            self.open = head;
            self.lines = 0;
        }
        out.push_str(&line);
        self.lines += 1;
        if alone {
            self.close(out);
        }
    }

    /// What stands behind the last message.
    pub(super) fn end(&mut self, out: &mut String) {
        self.close(out);
        out.push_str(&format!("</{}>\n", self.form.envelope));
    }

    fn close(&mut self, out: &mut String) {
        if !self.open.is_empty() {
            let MessageForm { message, list, .. } = &self.form;
            out.push_str(&format!("</{list}>\n</{message}>\n"));
            self.open.clear();
        }
    }

    /// The blocks of the head, and the line.
    fn blocks(&self, row: &Row<'_>) -> (String, String) {
        let (mut head, mut line) = (String::new(), String::new());
        let mut others = [const { String::new() }; BLOCKS.len()];
        for (column, element, text) in row.elements(self.file) {
            let block = BLOCKS
                .iter()
                .position(|(_, columns)| columns.contains(&column));
            let out = match block {
                Some(block) => &mut others[block],
                None if LINE_COLUMNS.contains(&column) => &mut line,
                None => &mut head,
            };
            push(element, text, out);
        }
        let mut blocks = format!("<{HEAD}>{head}</{HEAD}>\n");
        for ((name, _), content) in BLOCKS.iter().zip(&others) {
            if !content.is_empty() {
                blocks.push_str(&format!("<{name}>{content}</{name}>\n"));
            }
        }
        let name = &self.form.line;
        (blocks, format!("<{name}>{line}</{name}>\n"))
    }
}

/// Writes an element. The marks for bytes that are put in later stay as they are.
fn push(element: &str, text: &str, out: &mut String) {
    if text.is_empty() {
        out.push_str(&format!("<{element}/>"));
        return;
    }
    let escaped = quick_xml::escape::partial_escape(text);
    out.push_str(&format!("<{element}>{escaped}</{element}>"));
}
