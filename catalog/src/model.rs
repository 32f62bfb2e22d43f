//! Models: data products written as SQL, and the declassifications that may lower a column of one.
//!
//! A model is a file `models/<dataset>.sql`: a YAML header in the comment lines it begins with, then one SELECT over
//! datasets. The header says what the statement cannot: version, titles, owner, key, event date, and what each column
//! is. Types, levels, lineage and the disclosure window are not written down by anybody: they are derived from the
//! statement (by the member that knows SQL), and the product then has a contract like any dataset.
//!
//! ```text
//! -- name: enterprise_age
//! -- version: 1.0.0
//! -- title: Enterprise age
//! -- title_cn: 企业年龄
//! -- description: One row for each enterprise.
//! -- description_cn: 每户企业一行。
//! -- owner: data_authority
//! -- key: [uscc]
//! -- columns:
//! --   - {name: uscc, title_cn: 统一社会信用代码, description: The enterprise.}
//! --   - {name: estdate, title_cn: 成立日期, description: Established on.}
//! SELECT uscc, estdate FROM enterprise_registration
//! ```
//!
//! A **declassification** is a file `declassifications/<id>.yaml`: it lowers the level of one column of one version of
//! one model, and says why, by what law and who answers for it. It names the statement by its hash, so that it lapses
//! with the first change of the SQL. Both take effect only as versions recorded in the log, like contracts.

use std::fmt::Write as _;

use ring::digest;
use serde_json::{Value, json};

use crate::{
    canonical,
    codes::CodeList,
    contract::{
        USCC_COLUMN, Unit,
        odcs::{LEVELS, UNITS, finish, word_of},
        read::version,
    },
    document::{Node, Reader},
    ids::{DatasetId, is_plain_name},
    level::Level,
    problem::{CatalogErrors, codes},
};

/// The column that the hub adds to every product: the number of the build that last changed the row. It orders the
/// versions of a row.
pub const BUILD_COLUMN: &str = "build_no";
/// The column that the hub adds to a product of which an input has a disclosure window: the first day on which a row
/// that this one was made from is no longer disclosed.
pub const SHOWN_UNTIL_COLUMN: &str = "shown_until";
/// The longest statement, in bytes.
pub const MAX_SQL_BYTES: usize = 64 << 10;

/// What the header says of a column of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelColumn {
    /// The name: that of the statement's output column.
    pub name: String,
    /// The Chinese title.
    pub title_cn: String,
    /// What it means, in English.
    pub description: String,
    /// What amounts count.
    pub unit: Unit,
    /// The list its values come from.
    pub code_list: Option<String>,
}

/// A data product as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The dataset it makes.
    pub name: DatasetId,
    /// The version of the model, `major.minor.patch`; also that of the product's contract.
    pub version: String,
    /// The English title.
    pub title_en: String,
    /// The Chinese title.
    pub title_cn: String,
    /// What a row is, in English.
    pub description: String,
    /// What a row is, in Chinese.
    pub description_cn: String,
    /// Who answers for it.
    pub owner: String,
    /// The columns that identify a row; the enterprise is one of them.
    pub key: Vec<String>,
    /// The date that a grant's data range speaks about.
    pub event_date: Option<String>,
    /// How many days old the newest data may be.
    pub freshness_days: Option<u32>,
    /// The declassifications it relies on.
    pub declassifications: Vec<String>,
    /// Its columns.
    pub columns: Vec<ModelColumn>,
    /// The statement.
    pub sql: String,
    /// SHA-256 of the statement, hexadecimal: what a declassification names.
    pub sql_sha256: String,
    /// SHA-256 of the canonical JSON.
    pub hash: [u8; 32],
}

impl Model {
    pub(crate) fn read(file: &str, text: &str) -> Result<Self, CatalogErrors> {
        let (header, sql) = split(text);
        let reader = Reader::new(file);
        if sql.is_empty() {
            let reason = "there is no statement after the header: write one SELECT";
            reader.note("", codes::MISSING_KEY, reason);
        }
        if sql.len() > MAX_SQL_BYTES {
            let reason = format!("the statement is longer than {MAX_SQL_BYTES} bytes");
            reader.note("", codes::VALUE, reason);
        }
        let model = reader
            .parse(&header)
            .and_then(|value| read(&Node::root(&reader, &value), sql));
        if let Some(model) = &model {
            check(model, &|path, code, reason| reader.note(path, code, reason));
        }
        let mut model = finish(model, reader, "not a model")?;
        model.hash = canonical::hash(&model.canonical_json());
        Ok(model)
    }

    /// The model as canonical JSON (RFC 8785): the form that is hashed and recorded.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        let column = |column: &ModelColumn| {
            json!({
                "name": column.name,
                "title_cn": column.title_cn,
                "description": column.description,
                "unit": word_of(UNITS, &column.unit),
                "code_list": column.code_list,
            })
        };
        canonical::json(&json!({
            "name": self.name,
            "version": self.version,
            "title": self.title_en,
            "title_cn": self.title_cn,
            "description": self.description,
            "description_cn": self.description_cn,
            "owner": self.owner,
            "key": self.key,
            "event_date": self.event_date,
            "freshness_days": self.freshness_days,
            "declassifications": self.declassifications,
            "columns": self.columns.iter().map(column).collect::<Vec<_>>(),
            "sql": self.sql,
        }))
    }
}

/// The header without its comment marks, every line in its place so that problems of YAML name the right line, and
/// the statement.
fn split(text: &str) -> (String, &str) {
    let mut header = String::new();
    let mut rest = text;
    while let Some(comment) = rest.strip_prefix("--") {
        let (line, after) = comment.split_once('\n').unwrap_or((comment, ""));
        let line = line.strip_suffix('\r').unwrap_or(line);
        header.push_str(line.strip_prefix(' ').unwrap_or(line));
        header.push('\n');
        rest = after;
    }
    (header, rest.trim().trim_end_matches(';').trim_end())
}

fn sha256(text: &str) -> String {
    let mut hex = String::new();
    for byte in digest::digest(&digest::SHA256, text.as_bytes()).as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn words(node: &Node<'_>) -> Option<Vec<String>> {
    let items = node.items()?;
    let read: Vec<String> = items
        .iter()
        .filter_map(|item| item.text().map(str::to_owned))
        .collect();
    (read.len() == items.len()).then_some(read)
}

fn read(root: &Node<'_>, sql: &str) -> Option<Model> {
    let fields = root.fields()?;
    let line = |key| fields.required(key).and_then(|node: Node<'_>| node.line());
    let name = fields.required("name").and_then(|node| node.parsed());
    let version = fields.required("version").and_then(|node| version(&node));
    let (title_en, title_cn) = (line("title"), line("title_cn"));
    let (description, description_cn) = (line("description"), line("description_cn"));
    let owner = line("owner");
    let key = fields.required("key").and_then(|node| words(&node));
    let event_date = fields.optional("event_date").map(|node| node.line());
    let freshness = fields
        .optional("freshness_days")
        .map(|node| node.count(1, 3660));
    let declassifications = fields
        .optional("declassifications")
        .map_or_else(|| Some(Vec::new()), |node| words(&node));
    let columns = fields.required("columns").and_then(|node| {
        let items = node.items()?;
        let read: Vec<ModelColumn> = items.iter().filter_map(column).collect();
        (read.len() == items.len()).then_some(read)
    });
    Some(Model {
        name: name?,
        version: version?,
        title_en: title_en?,
        title_cn: title_cn?,
        description: description?,
        description_cn: description_cn?,
        owner: owner?,
        key: key?,
        event_date: event_date.map_or(Some(None), |date| date.map(Some))?,
        freshness_days: freshness.map_or(Some(None), |days| days.map(Some))?,
        declassifications: declassifications?,
        columns: columns?,
        sql: sql.to_owned(),
        sql_sha256: sha256(sql),
        hash: [0; 32],
    })
}

fn column(node: &Node<'_>) -> Option<ModelColumn> {
    let unnamed = node.fields()?;
    let name = unnamed.required("name").and_then(|name| name.text());
    unnamed.leave();
    let node = node.clone().named(name?);
    let fields = node.fields()?;
    let name = fields.required("name")?.text()?.to_owned();
    let title_cn = fields.required("title_cn").and_then(|title| title.line());
    let description = fields.required("description").and_then(|text| text.line());
    let unit = fields
        .optional("unit")
        .map_or(Some(Unit::One), |unit| unit.word(UNITS));
    let code_list = fields.optional("code_list").map(|list| {
        let name = list.text()?;
        if CodeList::get(name).is_none() {
            list.problem(codes::REFERENCE, "there is no such code list");
            return None;
        }
        Some(name.to_owned())
    });
    drop(fields);
    Some(ModelColumn {
        name,
        title_cn: title_cn?,
        description: description?,
        unit: unit?,
        code_list: code_list.map_or(Some(None), |list| list.map(Some))?,
    })
}

/// The rules of a header that need no statement. What a contract demands is checked on the derived contract.
fn check(model: &Model, report: &dyn Fn(&str, &'static str, String)) {
    let mut seen = std::collections::BTreeSet::new();
    for column in &model.columns {
        let at = format!("columns[{}].name", column.name);
        if !is_plain_name(&column.name) {
            let form = "a column name is a lower-case letter, then at most 62 of a-z, 0-9, _";
            report(&at, codes::VALUE, form.to_owned());
        }
        if [BUILD_COLUMN, SHOWN_UNTIL_COLUMN].contains(&column.name.as_str()) {
            let rule = "the hub adds a column of this name itself: call it otherwise";
            report(&at, codes::RULE, rule.to_owned());
        }
        if !seen.insert(column.name.as_str()) {
            let rule = "there are two columns of this name";
            report(&at, codes::RULE, rule.to_owned());
        }
    }
    if !model.key.iter().any(|name| name == USCC_COLUMN) {
        let rule = format!("the key must contain `{USCC_COLUMN}`: a row belongs to one enterprise");
        report("key", codes::RULE, rule);
    }
    let named = model.key.iter().map(|name| ("key", name));
    for (at, name) in named.chain(model.event_date.iter().map(|name| ("event_date", name))) {
        if !seen.contains(name.as_str()) {
            let reason = format!("`{}` is not among the columns", shorten(name));
            report(at, codes::REFERENCE, reason);
        }
    }
    let mut ids = std::collections::BTreeSet::new();
    for id in model.declassifications.iter().filter(|id| !ids.insert(*id)) {
        let reason = format!("`{}` is listed twice", shorten(id));
        report("declassifications", codes::RULE, reason);
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A recorded decision to lower the level of one column of one version of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declassification {
    /// Its name.
    pub id: String,
    /// The version of the document.
    pub version: String,
    /// The model.
    pub model: DatasetId,
    /// The version of the model.
    pub model_version: String,
    /// SHA-256 of the model's statement, hexadecimal.
    pub sql_sha256: String,
    /// The column of the product.
    pub column: String,
    /// The level it gets: below the one that follows from its parents.
    pub level: Level,
    /// Why what the column tells is less sensitive than what it is made from.
    pub reason: String,
    /// The law or rule that allows it.
    pub law: String,
    /// Who answers for it.
    pub author: String,
    /// SHA-256 of the canonical JSON.
    pub hash: [u8; 32],
}

impl Declassification {
    pub(crate) fn read(file: &str, text: &str) -> Result<Self, CatalogErrors> {
        let reader = Reader::new(file);
        let rule = reader
            .parse(text)
            .and_then(|value| read_rule(&Node::root(&reader, &value)));
        let mut rule = finish(rule, reader, "not a declassification")?;
        rule.hash = canonical::hash(&rule.canonical_json());
        Ok(rule)
    }

    /// The declassification as canonical JSON (RFC 8785): the form that is hashed and recorded.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        let value: Value = json!({
            "id": self.id,
            "version": self.version,
            "model": self.model,
            "model_version": self.model_version,
            "sql_sha256": self.sql_sha256,
            "column": self.column,
            "level": self.level.as_str(),
            "reason": self.reason,
            "law": self.law,
            "author": self.author,
        });
        canonical::json(&value)
    }
}

fn read_rule(root: &Node<'_>) -> Option<Declassification> {
    let fields = root.fields()?;
    let line = |key| fields.required(key).and_then(|node: Node<'_>| node.line());
    let id = fields.required("id").and_then(|node| {
        let id = node.text()?;
        if !is_plain_name(id) {
            node.problem(
                codes::VALUE,
                "a name is a lower-case letter, then at most 62 of a-z, 0-9, _",
            );
            return None;
        }
        Some(id.to_owned())
    });
    let own_version = fields.required("version").and_then(|node| version(&node));
    let model = fields.required("model").and_then(|node| node.parsed());
    let model_version = fields
        .required("model_version")
        .and_then(|node| version(&node));
    let sql_sha256 = fields.required("sql_sha256").and_then(|node| {
        let text = node.text()?;
        let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 64 || !text.bytes().all(hexadecimal) {
            node.problem(
                codes::VALUE,
                "must be a SHA-256 in 64 lower-case hexadecimal digits",
            );
            return None;
        }
        Some(text.to_owned())
    });
    let column = line("column");
    // L3 is the greatest level a column can have, so nothing is lowered to it; L4 never becomes a parent at all.
    let level = fields
        .required("level")
        .and_then(|node| node.word(&LEVELS[..2]));
    let (reason, law, author) = (line("reason"), line("law"), line("author"));
    Some(Declassification {
        id: id?,
        version: own_version?,
        model: model?,
        model_version: model_version?,
        sql_sha256: sql_sha256?,
        column: column?,
        level: level?,
        reason: reason?,
        law: law?,
        author: author?,
        hash: [0; 32],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = "-- name: age\n-- version: 1.0.0\n-- title: Age\n-- title_cn: 年龄\n\
        -- description: One row each.\n-- description_cn: 每户一行。\n-- owner: data_authority\n-- key: [uscc]\n\
        -- columns:\n--   - {name: uscc, title_cn: 代码, description: The enterprise.}\n\
        -- \n--   - {name: cap, title_cn: 资本, description: Capital., unit: tenThousand}\n\
        SELECT uscc, regcap AS cap\n-- not the header\nFROM enterprise_registration;\n";

    fn problems(text: &str) -> Vec<String> {
        Model::read("models/age.sql", text)
            .unwrap_err()
            .problems()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_model_is_a_header_and_a_statement() {
        let model = Model::read("models/age.sql", MODEL).unwrap();
        assert_eq!(model.name.as_str(), "age");
        assert_eq!(
            model.sql,
            "SELECT uscc, regcap AS cap\n-- not the header\nFROM enterprise_registration"
        );
        assert_eq!(model.columns[1].unit, Unit::TenThousand);
        let windows = Model::read("models/age.sql", &MODEL.replace('\n', "\r\n")).unwrap();
        assert_eq!(windows.columns, model.columns);
    }

    #[test]
    fn whatever_is_changed_changes_the_hash_and_only_sql_the_hash_of_the_sql() {
        let model = Model::read("models/age.sql", MODEL).unwrap();
        for (from, to) in [
            ("1.0.0", "1.0.1"),
            ("Age", "Years"),
            ("key: [uscc]", "key: [uscc, cap]"),
            ("tenThousand", "one"),
        ] {
            let other = Model::read("models/age.sql", &MODEL.replace(from, to)).unwrap();
            assert_ne!(other.hash, model.hash, "{from}");
            assert_eq!(other.sql_sha256, model.sql_sha256, "{from}");
        }
        let other = Model::read("models/age.sql", &MODEL.replace("regcap", "estdate")).unwrap();
        assert_ne!(
            (other.hash, &other.sql_sha256),
            (model.hash, &model.sql_sha256)
        );
    }

    #[test]
    fn wrong_headers_are_refused_with_their_place() {
        let cases = [
            (
                "-- key: [uscc]",
                "-- key: [cap]",
                "key: the key must contain `uscc`",
            ),
            (
                "-- key: [uscc]",
                "-- key: [uscc, x]",
                "key: `x` is not among the columns",
            ),
            (
                "name: cap",
                "name: build_no",
                "columns[build_no].name: the hub adds a column of this name",
            ),
            (
                "name: cap",
                "name: uscc",
                "there are two columns of this name",
            ),
            ("title: Age", "titel: Age", "unknown key `titel`"),
            (
                "unit: tenThousand",
                "unit: dozen",
                "columns[cap].unit: `dozen` is unknown here",
            ),
            (
                "unit: tenThousand",
                "code_list: nowhere",
                "columns[cap].code_list: there is no such code list",
            ),
            ("-- owner: data_authority\n", "", "`owner` is missing"),
        ];
        for (from, to, wanted) in cases {
            let found = problems(&MODEL.replace(from, to));
            assert!(
                found.iter().any(|problem| problem.contains(wanted)),
                "{wanted}: {found:?}"
            );
            assert!(
                found
                    .iter()
                    .all(|problem| problem.starts_with("models/age.sql: "))
            );
        }
        let header = MODEL.split_once("SELECT").unwrap().0;
        assert!(problems(header)[0].contains("there is no statement"));
        assert!(
            problems("SELECT 1")
                .iter()
                .any(|problem| problem.contains("keys and values"))
        );
    }

    const RULE: &str = "id: open_a\nversion: 1.0.0\nmodel: age\nmodel_version: 1.0.0\ncolumn: cap\nlevel: L1\n\
        sql_sha256: 0000000000000000000000000000000000000000000000000000000000000000\n\
        reason: It is public.\nlaw: 条例第九条\nauthor: steward\n";

    #[test]
    fn a_declassification_says_everything_or_is_refused() {
        let rule = Declassification::read("declassifications/open_a.yaml", RULE).unwrap();
        assert_eq!((rule.column.as_str(), rule.level), ("cap", Level::L1));
        let keys = [
            "version",
            "model",
            "model_version",
            "column",
            "level",
            "sql_sha256",
            "reason",
            "law",
            "author",
        ];
        for key in keys {
            let text: String = RULE
                .lines()
                .filter(|line| !line.starts_with(&format!("{key}:")))
                .map(|line| format!("{line}\n"))
                .collect();
            let errors =
                Declassification::read("declassifications/open_a.yaml", &text).unwrap_err();
            assert!(
                errors.to_string().contains(&format!("`{key}` is missing")),
                "{errors}"
            );
        }
        for (from, to) in [
            ("level: L1", "level: L3"),
            ("level: L1", "level: L4"),
            ("0000\n", "000g\n"),
        ] {
            assert!(
                Declassification::read("x.yaml", &RULE.replace(from, to)).is_err(),
                "{to}"
            );
        }
    }
}
