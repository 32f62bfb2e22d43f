//! `topic list | add`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use qihui_catalog::{Catalog, CatalogErrors, TopicName, TopicSpec};
use serde_json::{Value, json};

use super::{Context, with_hub};
use crate::cli::TopicCommand;
use crate::failure::{Failure, ProgramError};
use crate::files::{self, read_document, unwritable};
use crate::hub::Hub;
use crate::report::{Report, table};

pub(super) async fn run(command: TopicCommand, context: &Context<'_>) -> Result<Report, Failure> {
    match command {
        TopicCommand::List => with_hub(&context.opening, list).await,
        TopicCommand::Add { file } => add(&file, context).await,
    }
}

/// The topics, each with whether its version is in the log: otherwise it has no effect.
async fn known(hub: &Hub) -> Result<Vec<(Arc<TopicSpec>, bool)>, Failure> {
    let unrecorded = hub.unrecorded().await?;
    let recorded = |topic: &TopicSpec| {
        !unrecorded
            .iter()
            .any(|artefact| artefact.kind == "topic" && artefact.id == topic.name.as_str())
    };
    let topics = hub.catalog()?.topics.values();
    Ok(topics
        .map(|topic| (Arc::clone(topic), recorded(topic)))
        .collect())
}

fn entry((topic, recorded): &(Arc<TopicSpec>, bool)) -> Value {
    json!({
        "topic": topic.name,
        "title": topic.title_en,
        "title_cn": topic.title_cn,
        "dataset": topic.dataset,
        "columns": topic.columns,
        "version": topic.version,
        "recorded": recorded,
    })
}

/// A topic; none: there is no such topic.
pub(crate) async fn show(hub: &Hub, name: &TopicName) -> Result<Option<Value>, Failure> {
    let topics = known(hub).await?;
    let found = topics.iter().find(|(topic, _)| topic.name == *name);
    Ok(found.map(entry))
}

pub(crate) async fn list(hub: &Hub) -> Result<Report, Failure> {
    let topics = known(hub).await?;
    let json: Vec<Value> = topics.iter().map(entry).collect();
    let rows = topics.iter().map(|(topic, recorded)| {
        vec![
            topic.name.to_string(),
            topic.title_en.clone(),
            topic.title_cn.clone(),
            topic.dataset.to_string(),
            topic.columns.len().to_string(),
            topic.version.clone(),
            (if *recorded { "yes" } else { "no" }).to_owned(),
        ]
    });
    let header = [
        "topic",
        "title",
        "title (zh)",
        "dataset",
        "columns",
        "version",
        "recorded",
    ];
    Ok(Report::new(json!({ "topics": json }), table(&header, rows)))
}

async fn add(file: &Path, context: &Context<'_>) -> Result<Report, Failure> {
    let text = read_document("topic", file)?;
    let topic = TopicSpec::from_yaml(file, &text)?;
    with_hub(&context.opening, async |hub| {
        let catalog = hub.catalog()?;
        let contract = catalog
            .contract(&topic.dataset)
            .ok_or_else(|| ProgramError::UnknownDataset(topic.dataset.to_string()))?;
        let problems = topic.check_against(contract, &file.to_string_lossy());
        if let Some(errors) = CatalogErrors::from_problems(problems) {
            return Err(errors.into());
        }
        let matters = |kind: &str, id: &str| match kind {
            "contract" => id == topic.dataset.as_str(),
            "purposes" => true,
            _ => false,
        };
        hub.require_recorded(|artefact| matters(artefact.kind, &artefact.id))
            .await?;
        let path = hub.layout().topic(topic.name.as_str());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
        }
        files::replace(&path, text.as_bytes())?;
        // Nothing but the topic is recorded by adding one.
        let only = Catalog {
            contracts: BTreeMap::new(),
            purposes: Arc::clone(&catalog.purposes),
            feeds: BTreeMap::new(),
            models: BTreeMap::new(),
            declassifications: BTreeMap::new(),
            topics: BTreeMap::from([(topic.name.clone(), Arc::new(topic.clone()))]),
        };
        hub.ledger().record_artefacts(&only).await?;
        hub.acknowledge().await?;
        hub.install_topic(&topic);
        let text = format!(
            "topic {} is in force, version {}",
            topic.name, topic.version
        );
        let json = json!({ "topic": topic.name, "version": topic.version });
        Ok(Report::new(json, text))
    })
    .await
}
