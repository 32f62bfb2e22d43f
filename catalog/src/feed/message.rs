//! The form of messages that hold several records: a head, and a list of lines.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::FeedFormat;
use crate::{document::Node, problem::codes};

/// The form of an XML message. Names are local names of elements; they are compared exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageForm {
    /// The namespace of every element.
    pub namespace: String,
    /// The element around several messages.
    pub envelope: String,
    /// The element of one message.
    pub message: String,
    /// Its blocks whose fields belong to every line, each at most once.
    pub head: BTreeSet<String>,
    /// Its block with the lines.
    pub list: String,
    /// The element of one line: a record.
    pub line: String,
    /// The most lines of a message.
    pub max_lines: usize,
    /// Its blocks that are known and not taken.
    pub ignored: BTreeSet<String>,
    /// Two fields that stand in each other's place in some messages.
    pub swap: Option<Swap>,
}

/// Two fields that stand in each other's place where another field has a certain value: put right when read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// The field that tells.
    pub element: String,
    /// Its value, where they are swapped.
    pub value: String,
    /// The one field.
    pub first: String,
    /// The other field.
    pub second: String,
}

/// The most lines a feed may allow a message to have.
const MAX_LINES: u32 = 10_000;

/// Reads the form; `format` says whether one is needed at all.
pub(super) fn read(
    node: Option<Node<'_>>,
    format: Option<FeedFormat>,
    root: &Node<'_>,
) -> Option<Option<MessageForm>> {
    match (node, format) {
        (Some(node), Some(FeedFormat::Xml)) => form(&node).map(Some),
        (Some(node), _) => {
            node.problem(codes::RULE, "only XML feeds have messages");
            None
        }
        (None, Some(FeedFormat::Xml)) => {
            root.problem(
                codes::RULE,
                "an XML feed needs `message`: the form of its messages",
            );
            None
        }
        (None, _) => Some(None),
    }
}

fn form(node: &Node<'_>) -> Option<MessageForm> {
    let fields = node.fields()?;
    let namespace = fields.required("namespace").and_then(|node| node.line());
    let envelope = fields.required("envelope").and_then(|node| element(&node));
    let message = fields.required("element").and_then(|node| element(&node));
    let head = fields.required("head").and_then(|node| elements(&node));
    let list = fields.required("list").and_then(|node| element(&node));
    let line = fields.required("line").and_then(|node| element(&node));
    let max_lines = fields
        .required("maxLines")
        .and_then(|node| node.count(1, MAX_LINES));
    let ignored = fields
        .optional("ignored")
        .map_or_else(|| Some(BTreeSet::new()), |node| elements(&node));
    let swap = fields
        .optional("swapped")
        .map_or(Some(None), |node| swap(&node).map(Some));
    let form = MessageForm {
        namespace: namespace?,
        envelope: envelope?,
        message: message?,
        head: head?,
        list: list?,
        line: line?,
        max_lines: usize::try_from(max_lines?).ok()?,
        ignored: ignored?,
        swap: swap?,
    };
    if form.envelope == form.message {
        node.problem(codes::RULE, "envelope and message need names of their own");
    }
    for block in &form.head {
        if *block == form.list || form.ignored.contains(block) {
            node.problem(codes::RULE, format!("the block `{block}` has two roles"));
        }
    }
    if form.ignored.contains(&form.list) {
        node.problem(
            codes::RULE,
            format!("the block `{}` has two roles", form.list),
        );
    }
    Some(form)
}

fn swap(node: &Node<'_>) -> Option<Swap> {
    let fields = node.fields()?;
    let when = fields.required("when").and_then(|node| element(&node));
    let is = fields.required("is").and_then(|node| node.line());
    let pair = fields.required("elements").and_then(|node| {
        let names: Option<Vec<String>> = node.items()?.iter().map(element).collect();
        match names?.as_slice() {
            [first, second] if first != second => Some((first.clone(), second.clone())),
            _ => {
                node.problem(codes::VALUE, "must name two elements");
                None
            }
        }
    });
    let (first, second) = pair?;
    Some(Swap {
        element: when?,
        value: is?,
        first,
        second,
    })
}

fn elements(node: &Node<'_>) -> Option<BTreeSet<String>> {
    node.items()?.iter().map(element).collect()
}

fn element(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if begins && text.len() <= 64 && text.bytes().all(goes_on) {
        return Some(text.to_owned());
    }
    node.problem(
        codes::VALUE,
        "must be the name of an element, without prefix",
    );
    None
}

/// The document of a form, as [`read`] takes it.
pub(super) fn write(form: &MessageForm) -> Value {
    let mut document = json!({
        "namespace": form.namespace,
        "envelope": form.envelope,
        "element": form.message,
        "head": form.head,
        "list": form.list,
        "line": form.line,
        "maxLines": form.max_lines,
    });
    if !form.ignored.is_empty() {
        document["ignored"] = json!(form.ignored);
    }
    if let Some(swap) = &form.swap {
        document["swapped"] = json!({
            "when": swap.element, "is": swap.value, "elements": [swap.first, swap.second],
        });
    }
    document
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{Catalog, FeedSpec};

    fn feed(text: &str) -> Result<FeedSpec, Vec<String>> {
        FeedSpec::from_yaml(Path::new("feeds/x.yaml"), text).map_err(|errors| {
            let problems = errors.into_problems().into_iter();
            problems.map(|problem| problem.reason).collect()
        })
    }

    fn shipped() -> String {
        let mut files = Catalog::builtin_files().iter();
        let found = files.find(|(path, _)| *path == "feeds/customs_declaration.yaml");
        found.unwrap().1.to_owned()
    }

    #[test]
    fn a_form_is_read_as_it_is_written() {
        let read = feed(&shipped()).unwrap();
        let form = read.message.as_ref().unwrap();
        assert_eq!((form.line.as_str(), form.max_lines), ("DecList", 50));
        assert_eq!(form.swap.as_ref().unwrap().first, "OriginCountry");
        assert_eq!(feed(&read.canonical_json()).unwrap(), read);
    }

    #[test]
    fn an_archive_of_documents_belongs_to_the_feed() {
        let read = feed(&shipped()).unwrap();
        for name in [
            "customs_declaration_202601.xml",
            "customs_declaration_202601.zip",
        ] {
            assert!(read.takes_file(name), "{name}");
        }
        assert!(!read.takes_file("customs_declaration_202601.csv"));
        assert!(!read.takes_file("customs_credit_rating.zip"));
    }

    #[test]
    fn forms_that_cannot_work_are_refused() {
        for (old, new, says) in [
            ("format: xml", "format: csv", "only XML feeds have messages"),
            (
                "format: xml",
                "format: xml\nencoding: utf-8",
                "declare their own encoding",
            ),
            ("maxLines: 50", "maxLines: 0", "a whole number from 1"),
            ("line: DecList", "line: dec:List", "without prefix"),
            (
                "envelope: DecMessages",
                "envelope: DecMessage",
                "names of their own",
            ),
            ("list: DecLists", "list: DecHead", "has two roles"),
            ("when: IEFlag", "when: Flag", "does not map"),
            (
                "[OriginCountry, DestinationCountry]",
                "[OriginCountry]",
                "must name two elements",
            ),
        ] {
            let text = shipped();
            assert!(text.contains(old), "{old}");
            let problems = feed(&text.replacen(old, new, 1)).unwrap_err();
            assert!(
                problems.iter().any(|problem| problem.contains(says)),
                "{problems:?}, not {says}"
            );
        }
        let text = shipped();
        let (before, rest) = text.split_once("message:\n").unwrap();
        let (_, after) = rest.split_once("columns:\n").unwrap();
        let problems = feed(&format!("{before}columns:\n{after}")).unwrap_err();
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("needs `message`")),
            "{problems:?}"
        );
    }
}
