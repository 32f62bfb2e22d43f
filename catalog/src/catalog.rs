//! The catalogue as a whole: contracts, feeds and the purpose tree, loaded and checked together.
//!
//! A folder holds `contracts/<dataset>.yaml`, `feeds/<feed>.yaml`, `models/<dataset>.sql`, `declassifications/<id>.yaml`,
//! `topics/<topic>.yaml` and `purposes.yaml`; the folders of models, declassifications and topics may be missing. Loading
//! is all or nothing and reports every problem of every file. The shipped catalogue is compiled in
//! ([`Catalog::builtin`]) and is written out by `init` from [`Catalog::builtin_files`].

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    canonical,
    contract::Contract,
    document::MAX_BYTES,
    feed::FeedSpec,
    ids::{DatasetId, FeedName, TopicName},
    model::{Declassification, Model},
    problem::{CatalogErrors, Problem, codes},
    purpose::PurposeTree,
    topic::TopicSpec,
};

const CONTRACTS: &str = "contracts";
const FEEDS: &str = "feeds";
const MODELS: &str = "models";
const DECLASSIFICATIONS: &str = "declassifications";
const TOPICS: &str = "topics";
const PURPOSES: &str = "purposes.yaml";
/// The most files a folder of the catalogue may hold.
const MAX_FILES: usize = 10_000;

/// Everything the hub knows about its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// The contracts by dataset. Those of products are derived from their models and put in by [`Catalog::with_product`].
    pub contracts: BTreeMap<DatasetId, Arc<Contract>>,
    /// The purpose tree.
    pub purposes: Arc<PurposeTree>,
    /// The feeds by name.
    pub feeds: BTreeMap<FeedName, Arc<FeedSpec>>,
    /// The models by the dataset they make.
    pub models: BTreeMap<DatasetId, Arc<Model>>,
    /// The declassifications by name.
    pub declassifications: BTreeMap<String, Arc<Declassification>>,
    /// The topics by name.
    pub topics: BTreeMap<TopicName, Arc<TopicSpec>>,
}

/// A part of the catalogue as it is recorded in the log: the gate refuses a version that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artefact {
    /// `contract`, `feed`, `topic`, `purposes`, `model` or `declassification`.
    pub kind: &'static str,
    /// The dataset, the feed, the topic, `purposes`, or the name of the declassification.
    pub id: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the canonical JSON.
    pub hash: [u8; 32],
    /// The document as canonical JSON (RFC 8785).
    pub canonical_json: String,
}

macro_rules! builtin {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../", $path)))),+]
    };
}

/// The shipped catalogue: relative path and text.
const BUILTIN: &[(&str, &str)] = builtin![
    "contracts/abnormal_operation.yaml",
    "contracts/admin_licence.yaml",
    "contracts/admin_penalty.yaml",
    "contracts/annual_report.yaml",
    "contracts/customs_credit_rating.yaml",
    "contracts/customs_declaration.yaml",
    "contracts/enterprise_registration.yaml",
    "contracts/public_credit_score.yaml",
    "contracts/tax_credit_rating.yaml",
    "contracts/tax_levy.yaml",
    "contracts/taxpayer.yaml",
    "contracts/vat_declaration.yaml",
    "declassifications/tax_credit_a_list.yaml",
    "feeds/abnormal_operation.yaml",
    "feeds/admin_licence.yaml",
    "feeds/admin_penalty.yaml",
    "feeds/annual_report.yaml",
    "feeds/customs_credit_rating.yaml",
    "feeds/customs_declaration.yaml",
    "feeds/enterprise_registration.yaml",
    "feeds/public_credit_score.yaml",
    "feeds/registry_csv.yaml",
    "feeds/tax_credit_rating.yaml",
    "feeds/tax_levy.yaml",
    "feeds/taxpayer.yaml",
    "feeds/vat_declaration.yaml",
    "models/enterprise_card.sql",
    "purposes.yaml",
];

impl Catalog {
    /// Loads a folder; every problem of every file is reported.
    pub fn load(dir: &Path) -> Result<Self, CatalogErrors> {
        let mut assembly = Assembly::default();
        assembly.read_dir(dir);
        assembly.finish()
    }

    /// The shipped catalogue.
    pub fn builtin() -> Result<Self, CatalogErrors> {
        Self::from_files(BUILTIN.iter().copied())
    }

    /// The files of the shipped catalogue: relative path with `/`, and text.
    #[must_use]
    pub fn builtin_files() -> &'static [(&'static str, &'static str)] {
        BUILTIN
    }

    /// A catalogue from files in memory, named by their relative paths.
    pub fn from_files<'f>(
        files: impl IntoIterator<Item = (&'f str, &'f str)>,
    ) -> Result<Self, CatalogErrors> {
        let mut assembly = Assembly::default();
        for (path, text) in files {
            assembly.add(path, text);
        }
        assembly.finish()
    }

    /// The contract of a dataset.
    #[must_use]
    pub fn contract(&self, dataset: &DatasetId) -> Option<&Arc<Contract>> {
        self.contracts.get(dataset)
    }

    /// The same with the contract of a product, which its model must be part of.
    #[must_use]
    pub fn with_product(mut self, contract: Contract) -> Self {
        if self.models.contains_key(&contract.id) {
            self.contracts
                .insert(contract.id.clone(), Arc::new(contract));
        }
        self
    }

    /// The declassifications that a model relies on.
    pub fn declassifications_of<'c>(
        &'c self,
        model: &'c Model,
    ) -> impl Iterator<Item = &'c Arc<Declassification>> {
        model
            .declassifications
            .iter()
            .filter_map(|id| self.declassifications.get(id))
    }

    /// Everything whose recorded version a dataset's rows rely on: its contract, and for a product its model and the
    /// declassifications of that. Kind, name and hash; none: there is no such dataset.
    #[must_use]
    pub fn rules_of(&self, dataset: &DatasetId) -> Vec<(&'static str, &str, [u8; 32])> {
        let mut rules = Vec::new();
        if let Some(contract) = self.contracts.get(dataset) {
            rules.push(("contract", contract.id.as_str(), contract.hash));
        }
        if let Some(model) = self.models.get(dataset) {
            rules.push(("model", model.name.as_str(), model.hash));
            let lowered = self.declassifications_of(model);
            rules.extend(lowered.map(|rule| ("declassification", rule.id.as_str(), rule.hash)));
        }
        rules
    }

    /// What a product's table must be built from to be read: SHA-256 over everything in [`Catalog::rules_of`],
    /// hexadecimal. None: the dataset is no product.
    #[must_use]
    pub fn product_stamp(&self, dataset: &DatasetId) -> Option<String> {
        self.models.get(dataset)?;
        let rules: Vec<_> = self
            .rules_of(dataset)
            .into_iter()
            .map(|(kind, id, hash)| serde_json::json!([kind, id, hash.to_vec()]))
            .collect();
        let hash = canonical::hash(&canonical::json(&rules.into()));
        Some(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Every part of the catalogue as it is recorded in the log: contracts, feeds, topics, the purpose tree, declassifications,
    /// then models.
    #[must_use]
    pub fn artefacts(&self) -> Vec<Artefact> {
        let contracts = self.contracts.values().map(|contract| Artefact {
            kind: "contract",
            id: contract.id.to_string(),
            version: contract.version.clone(),
            hash: contract.hash,
            canonical_json: contract.canonical_json(),
        });
        let feeds = self.feeds.values().map(|feed| Artefact {
            kind: "feed",
            id: feed.name.to_string(),
            version: feed.version.clone(),
            hash: feed.hash,
            canonical_json: feed.canonical_json(),
        });
        let purposes = Artefact {
            kind: "purposes",
            id: "purposes".to_owned(),
            version: self.purposes.version.clone(),
            hash: self.purposes.hash,
            canonical_json: self.purposes.canonical_json(),
        };
        let topics = self.topics.values().map(|topic| Artefact {
            kind: "topic",
            id: topic.name.to_string(),
            version: topic.version.clone(),
            hash: topic.hash,
            canonical_json: topic.canonical_json(),
        });
        let lowered = self.declassifications.values().map(|rule| Artefact {
            kind: "declassification",
            id: rule.id.clone(),
            version: rule.version.clone(),
            hash: rule.hash,
            canonical_json: rule.canonical_json(),
        });
        let models = self.models.values().map(|model| Artefact {
            kind: "model",
            id: model.name.to_string(),
            version: model.version.clone(),
            hash: model.hash,
            canonical_json: model.canonical_json(),
        });
        contracts
            .chain(feeds)
            .chain(topics)
            .chain([purposes])
            .chain(lowered)
            .chain(models)
            .collect()
    }
}

/// Every problem of a catalogue folder; none: it would load.
#[must_use]
pub fn check_dir(dir: &Path) -> Vec<Problem> {
    Catalog::load(dir)
        .err()
        .map(CatalogErrors::into_problems)
        .unwrap_or_default()
}

fn problem(file: &str, path: &str, code: &'static str, reason: impl Into<String>) -> Problem {
    Problem {
        file: file.to_owned(),
        path: path.to_owned(),
        reason: reason.into(),
        code,
    }
}

/// A file is named after what it describes.
fn named(file: &str, key: &str, stem: &str, name: &str) -> Result<(), CatalogErrors> {
    if stem == name {
        return Ok(());
    }
    Err(problem(
        file,
        key,
        codes::RULE,
        "must be the same as the name of the file",
    )
    .into())
}

/// A catalogue that is being put together.
#[derive(Default)]
struct Assembly {
    contracts: BTreeMap<DatasetId, Arc<Contract>>,
    feeds: BTreeMap<FeedName, Arc<FeedSpec>>,
    topics: BTreeMap<TopicName, Arc<TopicSpec>>,
    purposes: Option<PurposeTree>,
    models: BTreeMap<DatasetId, Arc<Model>>,
    declassifications: BTreeMap<String, Arc<Declassification>>,
    /// Files whose content could not be read, so that references to them are not reported as well.
    broken: Vec<String>,
    problems: Vec<Problem>,
}

impl Assembly {
    fn note(&mut self, file: &str, path: &str, code: &'static str, reason: impl Into<String>) {
        self.problems.push(problem(file, path, code, reason));
    }

    fn read_dir(&mut self, dir: &Path) {
        for (folder, ending) in [
            (CONTRACTS, ".yaml"),
            (FEEDS, ".yaml"),
            (MODELS, ".sql"),
            (DECLASSIFICATIONS, ".yaml"),
            (TOPICS, ".yaml"),
        ] {
            match files_in(&dir.join(folder), ending) {
                // A hub may have no products and no topics.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && [MODELS, DECLASSIFICATIONS, TOPICS].contains(&folder) => {}
                Ok(names) => {
                    for name in names {
                        self.read_file(dir, &format!("{folder}/{name}"));
                    }
                }
                Err(error) => self.note(
                    folder,
                    "",
                    codes::UNREADABLE,
                    format!("the folder cannot be read: {error}"),
                ),
            }
        }
        self.read_file(dir, PURPOSES);
    }

    fn read_file(&mut self, dir: &Path, relative: &str) {
        match read_limited(&dir.join(relative)) {
            Ok(text) => self.add(relative, &text),
            Err(error) => {
                self.broken.push(relative.to_owned());
                self.note(
                    relative,
                    "",
                    codes::UNREADABLE,
                    format!("the file cannot be read: {error}"),
                );
            }
        }
    }

    /// Adds one file by its relative path.
    fn add(&mut self, file: &str, text: &str) {
        let name = file.rsplit('/').next().unwrap_or(file);
        let stem = name
            .strip_suffix(".yaml")
            .or_else(|| name.strip_suffix(".sql"))
            .unwrap_or_default();
        let result = match file.split_once('/') {
            Some((CONTRACTS, _)) => Contract::read(file, text).and_then(|contract| {
                named(file, "id", stem, contract.id.as_str())?;
                self.contracts
                    .insert(contract.id.clone(), Arc::new(contract));
                Ok(())
            }),
            Some((FEEDS, _)) => FeedSpec::read(file, text).and_then(|feed| {
                named(file, "name", stem, feed.name.as_str())?;
                self.feeds.insert(feed.name.clone(), Arc::new(feed));
                Ok(())
            }),
            Some((MODELS, _)) => Model::read(file, text).and_then(|model| {
                named(file, "name", stem, model.name.as_str())?;
                self.models.insert(model.name.clone(), Arc::new(model));
                Ok(())
            }),
            Some((DECLASSIFICATIONS, _)) => Declassification::read(file, text).and_then(|rule| {
                named(file, "id", stem, &rule.id)?;
                self.declassifications
                    .insert(rule.id.clone(), Arc::new(rule));
                Ok(())
            }),
            Some((TOPICS, _)) => TopicSpec::read(file, text).and_then(|topic| {
                named(file, "name", stem, topic.name.as_str())?;
                self.topics.insert(topic.name.clone(), Arc::new(topic));
                Ok(())
            }),
            _ if file == PURPOSES => {
                PurposeTree::read(file, text).map(|tree| self.purposes = Some(tree))
            }
            _ => {
                let reason = format!(
                    "does not belong to a catalogue: it is {CONTRACTS}/, {FEEDS}/, {MODELS}/, {DECLASSIFICATIONS}/, {TOPICS}/ and {PURPOSES}"
                );
                Err(problem(file, "", codes::UNREADABLE, reason).into())
            }
        };
        if let Err(errors) = result {
            self.broken.push(file.to_owned());
            self.problems.extend(errors.into_problems());
        }
    }

    fn finish(mut self) -> Result<Catalog, CatalogErrors> {
        self.check_references();
        self.check_patterns();
        self.check_models();
        let missing = || {
            problem(
                PURPOSES,
                "",
                codes::UNREADABLE,
                "the purpose tree is missing",
            )
        };
        if self.purposes.is_none() && !self.is_broken(PURPOSES) {
            self.problems.push(missing());
        }
        if self.contracts.is_empty() && self.broken.is_empty() {
            self.note(CONTRACTS, "", codes::UNREADABLE, "there is no contract");
        }
        match (CatalogErrors::from_problems(self.problems), self.purposes) {
            (Some(errors), _) => Err(errors),
            (None, None) => Err(missing().into()),
            (None, Some(purposes)) => Ok(Catalog {
                contracts: self.contracts,
                purposes: Arc::new(purposes),
                feeds: self.feeds,
                models: self.models,
                declassifications: self.declassifications,
                topics: self.topics,
            }),
        }
    }

    fn is_broken(&self, file: &str) -> bool {
        self.broken.iter().any(|broken| broken == file)
    }

    /// Feeds name their datasets, contracts their feeds, and each side agrees with the other.
    fn check_references(&mut self) {
        let mut found = Vec::new();
        for feed in self.feeds.values() {
            let file = format!("{FEEDS}/{}.yaml", feed.name);
            match self.contracts.get(&feed.dataset) {
                Some(contract) => found.extend(feed.check_against(contract, &file)),
                None if self.is_broken(&format!("{CONTRACTS}/{}.yaml", feed.dataset)) => {}
                None => {
                    let reason = format!("there is no contract `{}`", feed.dataset);
                    found.push(problem(&file, "dataset", codes::REFERENCE, reason));
                }
            }
        }
        for topic in self.topics.values() {
            let file = format!("{TOPICS}/{}.yaml", topic.name);
            match self.contracts.get(&topic.dataset) {
                Some(contract) => found.extend(topic.check_against(contract, &file)),
                None if self.is_broken(&format!("{CONTRACTS}/{}.yaml", topic.dataset)) => {}
                // The contract of a product follows from its model, later.
                None if self.models.contains_key(&topic.dataset) => {}
                None => {
                    let reason = format!("there is no contract `{}`", topic.dataset);
                    found.push(problem(&file, "dataset", codes::REFERENCE, reason));
                }
            }
        }
        for contract in self.contracts.values() {
            for name in &contract.feeds {
                let reason = match self.feeds.get(name) {
                    Some(feed) if feed.dataset == contract.id => continue,
                    Some(feed) => format!("the feed `{name}` fills `{}`", feed.dataset),
                    None if self.is_broken(&format!("{FEEDS}/{name}.yaml")) => continue,
                    None => format!("there is no feed `{name}`"),
                };
                let file = format!("{CONTRACTS}/{}.yaml", contract.id);
                found.push(problem(
                    &file,
                    "customProperties[feeds]",
                    codes::REFERENCE,
                    reason,
                ));
            }
        }
        self.problems.extend(found);
    }

    /// A product is no dataset with a contract of its own, and models and declassifications name each other.
    fn check_models(&mut self) {
        let mut found = Vec::new();
        for model in self.models.values() {
            let file = format!("{MODELS}/{}.sql", model.name);
            let mut refuse = |path: &str, code, reason: String| {
                found.push(problem(&file, path, code, reason));
            };
            if self.contracts.contains_key(&model.name) {
                let reason = "there is a contract of this name: a product's contract is derived, not written";
                refuse("name", codes::RULE, reason.to_owned());
            }
            for id in &model.declassifications {
                let broken = self.is_broken(&format!("{DECLASSIFICATIONS}/{id}.yaml"));
                if !self.declassifications.contains_key(id) && !broken {
                    let reason = format!(
                        "there is no declassification `{}`",
                        id.chars().take(80).collect::<String>()
                    );
                    refuse("declassifications", codes::REFERENCE, reason);
                }
            }
        }
        for rule in self.declassifications.values() {
            let file = format!("{DECLASSIFICATIONS}/{}.yaml", rule.id);
            if let Some((path, reason)) = self.refused_rule(rule) {
                found.push(problem(&file, path, codes::REFERENCE, reason));
            }
        }
        self.problems.extend(found);
    }

    /// Where a declassification does not fit its model, and why.
    fn refused_rule(&self, rule: &Declassification) -> Option<(&'static str, String)> {
        let file = format!("{MODELS}/{}.sql", rule.model);
        let Some(model) = self.models.get(&rule.model) else {
            return (!self.is_broken(&file))
                .then(|| ("model", format!("there is no model `{}`", rule.model)));
        };
        if !model.declassifications.contains(&rule.id) {
            let reason = format!(
                "{file} does not refer to it, so it has no effect: name it there, or remove it"
            );
            return Some(("id", reason));
        }
        if model.version != rule.model_version {
            let reason = format!(
                "the model has version {}: whoever answers for it must look at it again",
                model.version
            );
            return Some(("model_version", reason));
        }
        if model.sql_sha256 != rule.sql_sha256 {
            let reason = format!(
                "the statement has SHA-256 {}: whoever answers for it must look at it again",
                model.sql_sha256
            );
            return Some(("sql_sha256", reason));
        }
        let known = model
            .columns
            .iter()
            .any(|column| column.name == rule.column);
        (!known).then(|| ("column", "the model has no such column".to_owned()))
    }

    /// No file name may belong to two feeds. Patterns are compared by what stands before their first `*`.
    fn check_patterns(&mut self) {
        let prefix = |feed: &FeedSpec| {
            feed.file_pattern
                .split('*')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let suffix = |feed: &FeedSpec| {
            feed.file_pattern
                .rsplit('*')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let files = |feed: &&Arc<FeedSpec>| feed.topic.is_none();
        let feeds: Vec<_> = self.feeds.values().filter(files).cloned().collect();
        for (at, feed) in feeds.iter().enumerate() {
            for other in &feeds[at + 1..] {
                let (p, q) = (prefix(feed), prefix(other));
                let (s, t) = (suffix(feed), suffix(other));
                if (p.starts_with(&q) || q.starts_with(&p)) && (s.ends_with(&t) || t.ends_with(&s))
                {
                    let reason =
                        format!("a file could belong to this feed and to `{}`", other.name);
                    self.note(
                        &format!("{FEEDS}/{}.yaml", feed.name),
                        "filePattern",
                        codes::RULE,
                        reason,
                    );
                }
            }
        }
    }
}

/// The names of the files in a folder with this ending, sorted; hidden and other files are left alone.
fn files_in(dir: &Path, ending: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = PathBuf::from(entry?.file_name());
        let name = name.to_string_lossy();
        if name.ends_with(ending) && !name.starts_with('.') {
            names.push(name.into_owned());
        }
        if names.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads a text file of at most [`MAX_BYTES`].
fn read_limited(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
}

#[cfg(test)]
mod tests;
