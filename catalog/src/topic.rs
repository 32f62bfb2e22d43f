//! Topics: what organisations may subscribe to. A topic is some columns of a dataset or data product.
//!
//! ```yaml
//! name: vat_filings
//! version: 1.0.0
//! titleEn: VAT filings
//! titleCn: 增值税申报
//! dataset: vat_declaration
//! columns: [uscc, pzxh, skssqq, skssqz, sales]    # the key and `uscc` must be among them
//! ```
//!
//! A topic opens nothing: what a subscriber gets of it is decided for every delivery, by agreements and consents.

use std::path::Path;

use serde_json::json;

use crate::{
    canonical,
    contract::{Contract, odcs::finish, read::version},
    document::{Node, Reader},
    ids::{DatasetId, TopicName},
    level::Level,
    problem::{CatalogErrors, Problem, codes},
};

/// A topic: a dataset with a list of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: TopicName,
    /// The version, `major.minor.patch`.
    pub version: String,
    /// The English title.
    pub title_en: String,
    /// The Chinese title.
    pub title_cn: String,
    /// The dataset.
    pub dataset: DatasetId,
    /// The columns, in the order in which events carry them; the dataset's key and `uscc` are among them.
    pub columns: Vec<String>,
    /// SHA-256 of the canonical JSON.
    pub hash: [u8; 32],
}

impl TopicSpec {
    /// Reads a topic, in YAML or JSON. `path` names the file in problems; the file itself is not read.
    ///
    /// # Errors
    /// Every problem of the document.
    pub fn from_yaml(path: &Path, text: &str) -> Result<Self, CatalogErrors> {
        Self::read(&path.to_string_lossy().replace('\\', "/"), text)
    }

    pub(crate) fn read(file: &str, text: &str) -> Result<Self, CatalogErrors> {
        let reader = Reader::new(file);
        let topic = reader
            .parse(text)
            .and_then(|value| document(&Node::root(&reader, &value)));
        let mut topic = finish(topic, reader, "not a topic")?;
        topic.hash = canonical::hash(&topic.canonical_json());
        Ok(topic)
    }

    /// The topic as canonical JSON (RFC 8785). Reading it back gives the same topic.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        canonical::json(&json!({
            "name": self.name,
            "version": self.version,
            "titleEn": self.title_en,
            "titleCn": self.title_cn,
            "dataset": self.dataset,
            "columns": self.columns,
        }))
    }

    /// What is wrong between this topic and the contract of its dataset.
    #[must_use]
    pub fn check_against(&self, contract: &Contract, file: &str) -> Vec<Problem> {
        let problem = |code, reason: String| Problem {
            file: file.to_owned(),
            path: "columns".to_owned(),
            reason,
            code,
        };
        let mut problems = Vec::new();
        for name in &self.columns {
            match contract.column(name).map(|column| column.level) {
                None => problems.push(problem(
                    codes::REFERENCE,
                    format!("`{}` has no column `{name}`", contract.id),
                )),
                Some(Level::L4) => problems.push(problem(
                    codes::RULE,
                    format!("`{name}` is personal (L4) and is never opened"),
                )),
                Some(_) => {}
            }
        }
        for name in contract.key.iter().chain([&contract.uscc]) {
            if !self.columns.contains(name) {
                problems.push(problem(
                    codes::RULE,
                    format!("`{name}` must be among them: a subscriber finds its rows by it"),
                ));
            }
        }
        problems
    }
}

fn document(root: &Node<'_>) -> Option<TopicSpec> {
    let fields = root.fields()?;
    let name = fields
        .required("name")
        .and_then(|node| node.parsed::<TopicName>());
    let version = fields.required("version").and_then(|node| version(&node));
    let title_en = fields.required("titleEn").and_then(|node| node.line());
    let title_cn = fields.required("titleCn").and_then(|node| node.line());
    let dataset = fields
        .required("dataset")
        .and_then(|node| node.parsed::<DatasetId>());
    let columns = fields.required("columns").and_then(|node| columns(&node));
    Some(TopicSpec {
        name: name?,
        version: version?,
        title_en: title_en?,
        title_cn: title_cn?,
        dataset: dataset?,
        columns: columns?,
        hash: [0; 32],
    })
}

/// Column names, each once.
fn columns(node: &Node<'_>) -> Option<Vec<String>> {
    let mut columns: Vec<String> = Vec::new();
    for item in node.items()? {
        let name = item.text()?;
        if columns.iter().any(|known| known == name) {
            item.problem(codes::RULE, format!("`{name}` is named twice"));
            return None;
        }
        columns.push(name.to_owned());
    }
    if columns.is_empty() {
        node.problem(codes::VALUE, "must name at least one column");
        return None;
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;

    const FILINGS: &str = "name: ratings\nversion: 1.0.0\ntitleEn: Ratings\ntitleCn: 评级\ndataset: \
                           tax_credit_rating\ncolumns: [uscc, pjnd, pjjb]\n";

    #[test]
    fn a_topic_reads_back_as_it_was_written() {
        let topic = TopicSpec::read("x.yaml", FILINGS).unwrap();
        assert_eq!(topic.columns, ["uscc", "pjnd", "pjjb"]);
        let again = TopicSpec::read("y.json", &topic.canonical_json()).unwrap();
        assert_eq!(again, topic);
    }

    #[test]
    fn what_is_wrong_with_a_topic_is_said_with_its_place() {
        let catalog = Catalog::builtin().unwrap();
        let contract = catalog
            .contract(&"tax_credit_rating".parse().unwrap())
            .unwrap();
        let without_key = FILINGS.replace("uscc, ", "nothing, ");
        let topic = TopicSpec::read("x.yaml", &without_key).unwrap();
        let found: Vec<String> = topic
            .check_against(contract, "topics/ratings.yaml")
            .iter()
            .map(|problem| format!("{} {problem}", problem.code))
            .collect();
        assert!(
            found
                .iter()
                .any(|text| text.contains("no column `nothing`"))
        );
        assert!(
            found
                .iter()
                .any(|text| text.contains("`uscc` must be among them"))
        );
        for (bad, code) in [
            (FILINGS.replace("pjjb]", "pjjb, pjjb]"), codes::RULE),
            (FILINGS.replace("[uscc, pjnd, pjjb]", "[]"), codes::VALUE),
            (format!("{FILINGS}filter: x\n"), codes::UNKNOWN_KEY),
            (FILINGS.replace("ratings\n", "Ratings\n"), codes::VALUE),
        ] {
            let errors = TopicSpec::read("x.yaml", &bad).unwrap_err();
            assert!(
                errors.problems().any(|problem| problem.code == code),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_catalogue_checks_its_topics() {
        let files = || Catalog::builtin_files().iter().copied();
        let catalog =
            Catalog::from_files(files().chain([("topics/ratings.yaml", FILINGS)])).unwrap();
        assert!(
            catalog
                .artefacts()
                .iter()
                .any(|artefact| (artefact.kind, artefact.id.as_str()) == ("topic", "ratings"))
        );
        let lost = FILINGS.replace("tax_credit_rating", "nowhere");
        let errors = Catalog::from_files(files().chain([("topics/ratings.yaml", lost.as_str())]))
            .unwrap_err();
        assert!(
            errors
                .problems()
                .any(|problem| problem.code == codes::REFERENCE)
        );
    }
}
