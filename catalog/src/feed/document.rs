//! Feed descriptions as YAML documents: reading and writing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    ENCODINGS, Encoding, FORMATS, FeedFormat, FeedSpec, Tombstone, message,
    topic::{self, SOURCES, Source},
};
use crate::{
    contract::{
        Unit,
        odcs::{UNITS, word_of},
        read::version,
    },
    document::Node,
    ids::{DatasetId, FeedName, is_plain_name},
    problem::codes,
};

/// Reads the whole document.
pub(super) fn read(root: &Node<'_>) -> Option<FeedSpec> {
    let fields = root.fields()?;
    let name = fields
        .required("name")
        .and_then(|node| node.parsed::<FeedName>());
    let version = fields.required("version").and_then(|node| version(&node));
    let title_en = fields.required("titleEn").and_then(|node| node.line());
    let title_cn = fields.required("titleCn").and_then(|node| node.line());
    let dataset = fields
        .required("dataset")
        .and_then(|node| node.parsed::<DatasetId>());
    let format = fields
        .required("format")
        .and_then(|node| node.word(FORMATS));
    let encoding = fields
        .optional("encoding")
        .map_or(Some(Encoding::Detect), |node| encoding(&node, format));
    let source = fields
        .optional("source")
        .map_or(Some(Source::Files), |node| node.word(SOURCES));
    let file_pattern = match source {
        Some(Source::Kafka) => Some(String::new()),
        _ => fields
            .required("filePattern")
            .and_then(|node| file_pattern(&node)),
    };
    let delimiter = fields
        .optional("delimiter")
        .map_or(Some(b','), |node| delimiter(&node, format));
    let message = message::read(fields.optional("message"), format, root);
    let sheets = fields
        .optional("sheets")
        .map_or_else(|| Some(BTreeSet::new()), |node| sheets(&node, format));
    let columns = fields.required("columns").and_then(|node| columns(&node));
    let topic = match source {
        Some(Source::Kafka) => fields
            .required("topic")
            .and_then(|node| topic::read(&node, columns.as_ref()).map(Some)),
        _ => Some(None),
    };
    let ignored = fields
        .optional("ignored")
        .map_or_else(|| Some(BTreeSet::new()), |node| names(&node));
    let constants = map(fields.optional("constants"), |node| node.line());
    let units = map(fields.optional("units"), |node| node.word(UNITS));
    let booleans = map(fields.optional("booleans"), |node| node.boolean());
    let tombstone = fields
        .optional("tombstone")
        .map_or(Some(None), |node| tombstone(&node).map(Some));
    let feed = FeedSpec {
        name: name?,
        version: version?,
        title_en: title_en?,
        title_cn: title_cn?,
        dataset: dataset?,
        format: format?,
        encoding: encoding?,
        file_pattern: file_pattern?,
        topic: topic?,
        delimiter: delimiter?,
        message: message?,
        sheets: sheets?,
        columns: columns?,
        ignored: ignored?,
        constants: constants?,
        units: units?,
        booleans: booleans?,
        tombstone: tombstone?,
        hash: [0; 32],
    };
    check_sources(&feed, root);
    check_swap(&feed, root);
    Some(feed)
}

/// Fields that change places are columns of the feed.
fn check_swap(feed: &FeedSpec, root: &Node<'_>) {
    let Some(swap) = feed.message.as_ref().and_then(|form| form.swap.as_ref()) else {
        return;
    };
    for name in [&swap.element, &swap.first, &swap.second] {
        if !feed.columns.contains_key(name) {
            root.problem(
                codes::REFERENCE,
                format!("`message.swapped` names `{name}`, which `columns` does not map"),
            );
        }
    }
}

/// A source column has one role only, however it is spelt; messages are JSON.
fn check_sources(feed: &FeedSpec, root: &Node<'_>) {
    let is_json = feed.format == FeedFormat::JsonLines && feed.encoding != Encoding::Gb18030;
    if feed.topic.is_some() && !is_json {
        root.problem(
            codes::RULE,
            "messages of a topic have the format `json-lines`, in UTF-8",
        );
    }
    let mut seen = BTreeSet::new();
    let mark = feed.tombstone.iter().map(|mark| &mark.column);
    for source in feed.columns.keys().chain(&feed.ignored).chain(mark) {
        if !seen.insert(source.to_ascii_lowercase()) {
            root.problem(
                codes::RULE,
                format!("the source column `{source}` has two roles"),
            );
        }
    }
    for column in feed
        .constants
        .keys()
        .filter(|column| feed.columns.values().any(|filled| filled == *column))
    {
        root.problem(
            codes::RULE,
            format!("`{column}` is filled by a source column and by a constant"),
        );
    }
}

fn file_pattern(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'*');
    let anchored = text
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    if anchored && text.len() <= 128 && text.bytes().all(allowed) && !text.contains("..") {
        return Some(text.to_owned());
    }
    node.problem(
        codes::VALUE,
        "must begin with a letter or digit and hold only A-Z a-z 0-9 _ - . and *, no folder",
    );
    None
}

fn encoding(node: &Node<'_>, format: Option<FeedFormat>) -> Option<Encoding> {
    if matches!(format, Some(FeedFormat::Xml | FeedFormat::Xlsx)) {
        node.problem(
            codes::RULE,
            "XML documents and workbooks declare their own encoding",
        );
    }
    node.word(ENCODINGS)
}

fn delimiter(node: &Node<'_>, format: Option<FeedFormat>) -> Option<u8> {
    if format.is_some_and(|format| format != FeedFormat::Csv) {
        node.problem(codes::RULE, "only CSV files have a delimiter");
    }
    node.word(&[
        ("comma", b','),
        ("tab", b'\t'),
        ("semicolon", b';'),
        ("pipe", b'|'),
    ])
}

fn sheets(node: &Node<'_>, format: Option<FeedFormat>) -> Option<BTreeSet<String>> {
    if format.is_some_and(|format| format != FeedFormat::Xlsx) {
        node.problem(codes::RULE, "only workbooks have sheets");
    }
    names(node)
}

fn columns(node: &Node<'_>) -> Option<BTreeMap<String, String>> {
    let columns = map(Some(node.clone()), |value| {
        let name = value.text()?;
        if !is_plain_name(name) {
            value.problem(codes::VALUE, "must name a column of the contract");
        }
        Some(name.to_owned())
    })?;
    if columns.is_empty() {
        node.problem(codes::VALUE, "must map at least one source column");
    }
    Some(columns)
}

/// A map of the writer's own keys; every wrong value is reported.
fn map<T>(
    node: Option<Node<'_>>,
    read: impl Fn(&Node<'_>) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    let Some(node) = node else {
        return Some(BTreeMap::new());
    };
    let mut map = BTreeMap::new();
    let mut complete = true;
    for (key, value) in node.entries()? {
        if key.is_empty() || key.trim() != key || key.chars().any(char::is_control) {
            value.problem(
                codes::VALUE,
                "a key must be text without white space around it",
            );
        }
        match read(&value) {
            Some(read) => drop(map.insert(key.to_owned(), read)),
            None => complete = false,
        }
    }
    complete.then_some(map)
}

fn names(node: &Node<'_>) -> Option<BTreeSet<String>> {
    Some(
        node.items()?
            .iter()
            .filter_map(|item| item.text().map(str::to_owned))
            .collect(),
    )
}

fn tombstone(node: &Node<'_>) -> Option<Tombstone> {
    let fields = node.fields()?;
    let (column, value) = (fields.required("column"), fields.required("value"));
    Some(Tombstone {
        column: column?.text()?.to_owned(),
        value: value?.text()?.to_owned(),
    })
}

/// The document of a feed: the form that is hashed and recorded. Defaults are left out.
pub(super) fn write(feed: &FeedSpec) -> Value {
    let mut document = json!({
        "name": feed.name,
        "version": feed.version,
        "titleEn": feed.title_en,
        "titleCn": feed.title_cn,
        "dataset": feed.dataset,
        "format": feed.format.as_str(),
        "columns": feed.columns,
    });
    match &feed.topic {
        None => document["filePattern"] = json!(feed.file_pattern),
        Some(topic) => {
            document["source"] = json!("kafka");
            document["topic"] = topic::write(topic);
        }
    }
    if feed.encoding != Encoding::Detect {
        document["encoding"] = json!(feed.encoding.as_str());
    }
    match feed.delimiter {
        b'\t' => document["delimiter"] = json!("tab"),
        b';' => document["delimiter"] = json!("semicolon"),
        b'|' => document["delimiter"] = json!("pipe"),
        _ => {}
    }
    if let Some(form) = &feed.message {
        document["message"] = message::write(form);
    }
    if !feed.sheets.is_empty() {
        document["sheets"] = json!(feed.sheets);
    }
    if !feed.ignored.is_empty() {
        document["ignored"] = json!(feed.ignored);
    }
    if !feed.constants.is_empty() {
        document["constants"] = json!(feed.constants);
    }
    if !feed.units.is_empty() {
        let unit = |(column, unit): (&String, &Unit)| (column.clone(), json!(word_of(UNITS, unit)));
        document["units"] = feed.units.iter().map(unit).collect();
    }
    if !feed.booleans.is_empty() {
        document["booleans"] = json!(feed.booleans);
    }
    if let Some(mark) = &feed.tombstone {
        document["tombstone"] = json!({ "column": mark.column, "value": mark.value });
    }
    document
}
