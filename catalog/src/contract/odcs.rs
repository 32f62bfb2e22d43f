//! Contracts as Open Data Contract Standard v3.0.2 documents.
//!
//! Where the standard has a key it is used: `id`, `name` (English title), `version`, `domain` (the owner department),
//! `description.purpose` (English), `slaProperties` (freshness), one `schema` object whose `businessName` and
//! `description` are Chinese, per property `businessName` (Chinese title), `description`, `logicalType`,
//! `physicalType` (the exact type), `required`, `classification` (the level), `primaryKey` and `primaryKeyPosition`
//! (the key), `quality` with `type: custom, engine: qihui`. What the standard lacks is in `customProperties`: of the
//! contract `rowLevel`, `eventDate`, `sequence`, `partition`, `disclosureWindow`, `feeds`; of a property `publicWhen`,
//! `codeList`, `unit`. Any other key, of the standard or not, is refused: what the hub would ignore must not look as
//! if it were in force.

use std::path::Path;

use super::{Contract, Partition, Unit, check, read, write};
use crate::{
    canonical,
    document::{Node, Reader},
    level::Level,
    problem::{CatalogErrors, ContractError, Problem, codes},
};

pub(super) const API_VERSION: &str = "v3.0.2";
pub(super) const ENGINE: &str = "qihui";
pub(crate) const LEVELS: &[(&str, Level)] = &[
    ("L1", Level::L1),
    ("L2", Level::L2),
    ("L3", Level::L3),
    ("L4", Level::L4),
];
pub(super) const PARTITIONS: &[(&str, Partition)] = &[
    ("none", Partition::None),
    ("year", Partition::Year),
    ("month", Partition::Month),
];
pub(crate) const UNITS: &[(&str, Unit)] = &[("one", Unit::One), ("tenThousand", Unit::TenThousand)];

/// The word of a closed list that stands for `value`.
pub(crate) fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| known == value)
        .map_or("", |(word, _)| word)
}

impl Contract {
    /// Reads a contract from an Open Data Contract Standard v3.0.2 document and checks every rule. `path` names the
    /// file in problems; the file itself is not read.
    pub fn from_yaml(path: &Path, text: &str) -> Result<Self, ContractError> {
        Self::read(&path.to_string_lossy().replace('\\', "/"), text)
    }

    pub(crate) fn read(file: &str, text: &str) -> Result<Self, CatalogErrors> {
        let reader = Reader::new(file);
        let contract = reader
            .parse(text)
            .and_then(|value| read::contract(&Node::root(&reader, &value)));
        if let Some(contract) = &contract {
            check::check(contract, &|path, code, reason| {
                reader.note(path, code, reason)
            });
        }
        finish(contract, reader, "not a contract").map(Self::hashed)
    }

    /// Checks every rule and fills in the hash of a contract that was put together in memory.
    pub fn sealed(self) -> Result<Self, ContractError> {
        let reader = Reader::new(self.id.as_str());
        check::check(&self, &|path, code, reason| reader.note(path, code, reason));
        finish(Some(self), reader, "not a contract").map(Self::hashed)
    }

    fn hashed(mut self) -> Self {
        self.hash = canonical::hash(&self.canonical_json());
        self
    }

    /// The contract as canonical JSON (RFC 8785) of its standard document, defaults left out. Reading it back gives
    /// the same contract.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        canonical::json(&write::contract(self))
    }
}

/// What was read, unless something was wrong with it. `what` is said in the impossible case of a reader that gave up
/// without saying why: the document is refused all the same.
pub(crate) fn finish<T>(read: Option<T>, reader: Reader, what: &str) -> Result<T, CatalogErrors> {
    let file = reader.file().to_owned();
    match (read, CatalogErrors::from_problems(reader.into_problems())) {
        (Some(read), None) => Ok(read),
        (_, Some(errors)) => Err(errors),
        (None, None) => Err(Problem {
            file,
            path: String::new(),
            reason: what.to_owned(),
            code: codes::VALUE,
        }
        .into()),
    }
}
