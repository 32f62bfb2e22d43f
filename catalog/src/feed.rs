//! Feeds: how a source's files become rows of a dataset.
//!
//! A feed description maps source columns to contract columns and says what the source's own habits are: form,
//! encoding, file names, units, words for true and false, what marks a retraction. It is YAML under `feeds/`.

mod document;
mod message;
mod topic;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    canonical,
    contract::{
        Column, Contract, Unit,
        odcs::{finish, word_of},
    },
    document::{Node, Reader},
    ids::{DatasetId, FeedName},
    problem::{CatalogErrors, Problem, codes},
};

pub use message::{MessageForm, Swap};
pub use topic::{Payload, SourceTopic};

/// The form of a feed's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedFormat {
    /// Comma-separated values with a header row.
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// XML messages of several records each ([`MessageForm`]), or a zip archive of such documents.
    Xml,
    /// A workbook whose sheets have a header row.
    Xlsx,
}

const FORMATS: &[(&str, FeedFormat)] = &[
    ("csv", FeedFormat::Csv),
    ("json-lines", FeedFormat::JsonLines),
    ("xml", FeedFormat::Xml),
    ("xlsx", FeedFormat::Xlsx),
];

impl FeedFormat {
    /// The word for it in files and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        word_of(FORMATS, &self)
    }
}

/// The character encoding of a feed's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// UTF-8 when the file says or shows so, else GB18030.
    Detect,
    /// UTF-8, with or without byte order mark.
    Utf8,
    /// GB18030, which contains GBK and GB2312.
    Gb18030,
}

const ENCODINGS: &[(&str, Encoding)] = &[
    ("detect", Encoding::Detect),
    ("utf-8", Encoding::Utf8),
    ("gb18030", Encoding::Gb18030),
];

impl Encoding {
    /// The word for it in files and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        word_of(ENCODINGS, &self)
    }
}

/// What marks a record that takes an earlier one back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The source column.
    pub column: String,
    /// The value that marks a retraction.
    pub value: String,
}

/// How a source's files become rows of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSpec {
    /// The feed.
    pub name: FeedName,
    /// The version of this description.
    pub version: String,
    /// What it is, in English.
    pub title_en: String,
    /// What it is, in Chinese.
    pub title_cn: String,
    /// The dataset it fills.
    pub dataset: DatasetId,
    /// The form of its files.
    pub format: FeedFormat,
    /// Their encoding. XML documents and workbooks declare their own.
    pub encoding: Encoding,
    /// Which file names belong to it, with `*` for any run of characters. Empty for a feed that reads a topic.
    pub file_pattern: String,
    /// The topic it reads instead of files.
    pub topic: Option<SourceTopic>,
    /// The byte between fields of a CSV file.
    pub delimiter: u8,
    /// The form of its messages, for XML.
    pub message: Option<MessageForm>,
    /// The sheets of a workbook that hold its records; empty: all that are shown.
    pub sheets: BTreeSet<String>,
    /// Source column to contract column. Several names may stand for one column; a file carries at most one of them.
    /// Source names are compared without surrounding white space and without regard to ASCII case.
    pub columns: BTreeMap<String, String>,
    /// Source columns that are known and not taken.
    pub ignored: BTreeSet<String>,
    /// Contract columns that have the same value in every row of the feed.
    pub constants: BTreeMap<String, String>,
    /// The unit in which the source writes bare numbers, per contract column, where it is not the column's own.
    pub units: BTreeMap<String, Unit>,
    /// The source's own words for true and false, besides the usual ones.
    pub booleans: BTreeMap<String, bool>,
    /// What marks a retraction.
    pub tombstone: Option<Tombstone>,
    /// SHA-256 of the canonical JSON.
    pub hash: [u8; 32],
}

/// Words for true and false that every feed knows, in lower case.
const BOOLEANS: &[(&str, bool)] = &[
    ("1", true),
    ("true", true),
    ("t", true),
    ("y", true),
    ("yes", true),
    ("是", true),
    ("0", false),
    ("false", false),
    ("f", false),
    ("n", false),
    ("no", false),
    ("否", false),
];

impl FeedSpec {
    /// Reads a feed description. `path` names the file in problems; the file itself is not read.
    pub fn from_yaml(path: &Path, text: &str) -> Result<Self, CatalogErrors> {
        Self::read(&path.to_string_lossy().replace('\\', "/"), text)
    }

    pub(crate) fn read(file: &str, text: &str) -> Result<Self, CatalogErrors> {
        let reader = Reader::new(file);
        let feed = reader
            .parse(text)
            .and_then(|value| document::read(&Node::root(&reader, &value)));
        let mut feed = finish(feed, reader, "not a feed description")?;
        feed.hash = canonical::hash(&feed.canonical_json());
        Ok(feed)
    }

    /// The contract column that a source column fills.
    #[must_use]
    pub fn column_of(&self, source: &str) -> Option<&str> {
        let source = source.trim();
        let exact = self.columns.get(source);
        let found = exact.or_else(|| {
            self.columns
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(source))
                .map(|(_, column)| column)
        });
        found.map(String::as_str)
    }

    /// Whether a source column is known and not taken.
    #[must_use]
    pub fn ignores(&self, source: &str) -> bool {
        self.ignored
            .iter()
            .any(|name| name.eq_ignore_ascii_case(source.trim()))
    }

    /// Whether a source column marks retractions.
    #[must_use]
    pub fn marks_retraction(&self, source: &str) -> bool {
        self.tombstone
            .as_ref()
            .is_some_and(|mark| mark.column.eq_ignore_ascii_case(source.trim()))
    }

    /// The unit in which the source writes bare numbers of `column`; text that names its unit ("800万") wins over it.
    #[must_use]
    pub fn unit_of(&self, column: &Column) -> Unit {
        self.units.get(&column.name).copied().unwrap_or(column.unit)
    }

    /// What a text means as true or false: the source's own words win over `1`, `true`, `是` and the like.
    #[must_use]
    pub fn boolean_of(&self, text: &str) -> Option<bool> {
        let usual = || {
            BOOLEANS
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(text))
                .map(|(_, value)| *value)
        };
        self.booleans.get(text).copied().or_else(usual)
    }

    /// Whether a file of this name (without folders) belongs to the feed. Where the pattern ends in `.xml`, an archive
    /// of the same name with `.zip` does too.
    #[must_use]
    pub fn takes_file(&self, name: &str) -> bool {
        let archive = || {
            let documents = name.strip_suffix(".zip").map(|stem| format!("{stem}.xml"));
            documents.is_some_and(|documents| matches(&self.file_pattern, &documents))
        };
        let fits =
            || matches(&self.file_pattern, name) || (self.format == FeedFormat::Xml && archive());
        self.topic.is_none() && fits()
    }

    /// The description as canonical JSON (RFC 8785), defaults left out. Reading it back gives the same feed.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        canonical::json(&document::write(self))
    }

    /// What is wrong between this feed and the contract it fills.
    pub(crate) fn check_against(&self, contract: &Contract, file: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut note = |path: String, code, reason: String| {
            problems.push(Problem {
                file: file.to_owned(),
                path,
                reason,
                code,
            });
        };
        let targets = self
            .columns
            .iter()
            .map(|(source, column)| (format!("columns[{source}]"), column));
        let constants = self
            .constants
            .keys()
            .map(|column| (format!("constants[{column}]"), column));
        let units = self
            .units
            .keys()
            .map(|column| (format!("units[{column}]"), column));
        for (path, column) in targets.chain(constants).chain(units) {
            if contract.column(column).is_none() {
                note(
                    path,
                    codes::REFERENCE,
                    format!("`{}` has no column `{column}`", contract.id),
                );
            }
        }
        for column in self
            .units
            .keys()
            .filter_map(|name| contract.column(name))
            .filter(|c| !c.ty.is_number())
        {
            note(
                format!("units[{}]", column.name),
                codes::RULE,
                "only a number has a unit".to_owned(),
            );
        }
        let filled = |name: &String| {
            self.columns.values().any(|c| c == name) || self.constants.contains_key(name)
        };
        for column in contract
            .landed()
            .filter(|column| !column.nullable && !filled(&column.name))
        {
            let reason = format!(
                "the required column `{}` of `{}` is filled by nothing",
                column.name, contract.id
            );
            note("columns".to_owned(), codes::RULE, reason);
        }
        if !contract.feeds.contains(&self.name) {
            let reason = format!("the contract `{}` does not list this feed", contract.id);
            note("dataset".to_owned(), codes::REFERENCE, reason);
        }
        problems
    }
}

/// Whether `name` fits `pattern`, where `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*').filter(|part| !part.is_empty()) {
        let Some((_, after)) = name.split_once(part) else {
            return false;
        };
        name = after;
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KAFKA: &str = "name: licences
version: 1.0.0
titleEn: Licences
titleCn: 许可
dataset: admin_licence
format: json-lines
source: kafka
topic: {name: a.b-c, payload: cloudevents, key: WS, timestamp: T, commitRows: 5, commitSeconds: 2}
columns: {WS: xk_wsh, T: data_time}
";

    #[test]
    fn a_feed_reads_a_topic_or_files_not_both() {
        let feed = FeedSpec::read("f.yaml", KAFKA).unwrap();
        let topic = feed.topic.as_ref().unwrap();
        assert_eq!(
            (topic.name.as_str(), topic.payload),
            ("a.b-c", Payload::CloudEvents)
        );
        assert_eq!((topic.commit_rows, topic.commit_seconds), (5, 2));
        assert!(!feed.takes_file("") && !feed.takes_file("a.b-c"));
        let again = FeedSpec::read("f.yaml", &feed.canonical_json()).unwrap();
        assert_eq!(again, feed);
        for (from, to) in [
            ("source: kafka\n", ""),
            ("format: json-lines", "format: csv"),
            ("name: a.b-c", "name: 'a b'"),
            ("name: a.b-c", "name: .."),
            ("key: WS", "key: OTHER"),
            ("payload: cloudevents", "payload: avro"),
            ("columns:", "filePattern: x*.jsonl\ncolumns:"),
            ("columns:", "encoding: gb18030\ncolumns:"),
            ("commitSeconds: 2", "brokers: localhost"),
        ] {
            let text = KAFKA.replace(from, to);
            assert_ne!(text, KAFKA);
            assert!(FeedSpec::read("f.yaml", &text).is_err(), "{to}");
        }
        let topic = KAFKA
            .lines()
            .find(|line| line.starts_with("topic"))
            .unwrap();
        assert!(FeedSpec::read("f.yaml", &KAFKA.replace(topic, "")).is_err());
    }

    #[test]
    fn only_workbooks_have_sheets() {
        let text = "name: reports
version: 1.0.0
titleEn: Reports
titleCn: 年报
dataset: annual_report
format: xlsx
filePattern: reports*.xlsx
sheets: [年报, 补报]
columns: {A: ancheid}
";
        let feed = FeedSpec::read("f.yaml", text).unwrap();
        assert!(feed.sheets.iter().eq(["年报", "补报"]));
        let again = FeedSpec::read("f.yaml", &feed.canonical_json()).unwrap();
        assert_eq!(again, feed);
        let without =
            FeedSpec::read("f.yaml", &text.replace("sheets: [年报, 补报]\n", "")).unwrap();
        assert_ne!(without.hash, feed.hash);
        assert!(FeedSpec::read("f.yaml", &text.replace("format: xlsx", "format: csv")).is_err());
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in [
            ("a*.csv", "a.csv"),
            ("a*.csv", "a_2024.csv"),
            ("a.csv", "a.csv"),
            ("a*b*c", "axbyc"),
            ("a*", "a"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a*.csv", "b.csv"),
            ("a*.csv", "a.csv.gz"),
            ("a.csv", "a.csv2"),
            ("a*b*c", "acb"),
            ("a*aa", "aa"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
