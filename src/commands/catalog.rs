//! `catalog list | show | check`.

use qihui_catalog::{Artefact, Catalog, CatalogErrors, Contract, DatasetId, Problem};
use serde_json::{Value, json};

use super::pipeline::{lineage_json, lineage_text, product_of};
use super::{Context, with_hub};
use crate::cli::CatalogCommand;
use crate::failure::{Failure, ProgramError};
use crate::hub::{Hub, load_catalog};
use crate::report::{Report, table};

/// The word that stands for the purpose tree.
const PURPOSES: &str = "purposes";

pub(super) async fn run(command: CatalogCommand, context: &Context<'_>) -> Result<Report, Failure> {
    match command {
        CatalogCommand::List => list(context).await,
        CatalogCommand::Show { dataset } => show(&dataset, context).await,
        CatalogCommand::Check { record } => check(record, context).await,
    }
}

async fn list(context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let unrecorded = hub.unrecorded().await?;
        let recorded = |contract: &Contract| {
            !unrecorded
                .iter()
                .any(|artefact| artefact.kind == "contract" && artefact.id == contract.id.as_str())
        };
        let contracts = hub.catalog()?.contracts.values();
        let datasets: Vec<Value> = contracts
            .clone()
            .map(|contract| {
                json!({
                    "dataset": contract.id,
                    "title": contract.title_en,
                    "title_cn": contract.title_cn,
                    "owner": contract.owner,
                    "row_level": contract.row_level,
                    "version": contract.version,
                    "recorded": recorded(contract),
                })
            })
            .collect();
        let rows = contracts.map(|contract| {
            vec![
                contract.id.to_string(),
                contract.title_en.clone(),
                contract.title_cn.clone(),
                contract.owner.clone(),
                contract.row_level.to_string(),
                contract.version.clone(),
                (if recorded(contract) { "yes" } else { "no" }).to_owned(),
            ]
        });
        let header = [
            "dataset",
            "title",
            "title (zh)",
            "owner",
            "row level",
            "version",
            "recorded",
        ];
        Ok(Report::new(
            json!({ "datasets": datasets }),
            table(&header, rows),
        ))
    })
    .await
}

async fn show(dataset: &DatasetId, context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let catalog = hub.catalog()?;
        if dataset.as_str() == PURPOSES {
            return Ok(purposes(catalog));
        }
        let contract = catalog
            .contract(dataset)
            .ok_or_else(|| ProgramError::UnknownDataset(dataset.to_string()))?;
        let (mut json, mut text) = (parsed(&contract.canonical_json()), described(contract));
        if let Some(product) = product_of(catalog, dataset)? {
            json["lineage"] = lineage_json(&product);
            text = format!("{text}\n{}", lineage_text(&product));
        }
        Ok(Report::new(json, text))
    })
    .await
}

/// A document that the catalogue wrote itself.
fn parsed(canonical: &str) -> Value {
    serde_json::from_str(canonical).unwrap_or(Value::Null)
}

fn purposes(catalog: &Catalog) -> Report {
    let tree = &catalog.purposes;
    let rows = tree.iter().map(|purpose| {
        let days =
            |days: Option<u32>| days.map_or_else(|| "any".to_owned(), |days| days.to_string());
        vec![
            purpose.code.to_string(),
            purpose.title_en.clone(),
            purpose.title_cn.clone(),
            (if purpose.heading { "heading" } else { "" }).to_owned(),
            purpose.caps.max_validity_days.to_string(),
            days(purpose.caps.max_range_days),
            purpose.caps.frequency.map_or_else(
                || "any".to_owned(),
                |cap| format!("{} a {:?}", cap.count, cap.per).to_lowercase(),
            ),
            purpose.caps.data_life_days.to_string(),
        ]
    });
    let header = [
        "purpose",
        "title",
        "title (zh)",
        "",
        "valid, days",
        "range, days",
        "uses",
        "kept, days",
    ];
    Report::new(parsed(&tree.canonical_json()), table(&header, rows))
}

fn described(contract: &Contract) -> String {
    let facts = [
        ("title", contract.title_en.clone()),
        ("title (zh)", contract.title_cn.clone()),
        ("version", contract.version.clone()),
        ("owner", contract.owner.clone()),
        ("row level", contract.row_level.to_string()),
        ("key", contract.key.join(", ")),
        (
            "event date",
            contract.event_date.clone().unwrap_or_default(),
        ),
        ("sequence", contract.sequence.join(", ")),
        (
            "feeds",
            contract
                .feeds
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ),
    ];
    let facts = facts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}: {value}\n"));
    let columns = contract.columns().iter().map(|column| {
        vec![
            column.name.clone(),
            column.ty.to_string(),
            column.level.to_string(),
            column.public_when.clone().unwrap_or_default(),
            column.title_cn.clone(),
            column.description.clone(),
        ]
    });
    let header = [
        "column",
        "type",
        "level",
        "public when",
        "title (zh)",
        "what it is",
    ];
    format!(
        "{}{}\n{}",
        facts.collect::<String>(),
        contract.description,
        table(&header, columns)
    )
}

async fn check(record: bool, context: &Context<'_>) -> Result<Report, Failure> {
    with_checked_hub(context, async |hub| {
        let unrecorded = hub.unrecorded().await?;
        if record && !unrecorded.is_empty() {
            hub.ledger().record_artefacts(hub.catalog()?).await?;
            hub.acknowledge().await?;
            hub.install_catalog();
        }
        Ok(checked(hub.catalog()?, &unrecorded, record))
    })
    .await
}

/// Checks the catalogue, then works on the hub. Before the hub is opened: a broken catalogue is what commands are for
/// that check one.
pub(super) async fn with_checked_hub<T>(
    context: &Context<'_>,
    work: impl AsyncFnOnce(&Hub) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let layout = &context.opening.layout;
    if layout.is_hub()
        && let Err(errors) = load_catalog(layout)
    {
        return Err(refused(&errors));
    }
    with_hub(&context.opening, async |hub| {
        work(&hub.rereading_catalog()).await
    })
    .await
}

fn refused(errors: &CatalogErrors) -> Failure {
    let problems: Vec<&Problem> = errors.problems().collect();
    let listed: Vec<Value> = problems
        .iter()
        .map(|problem| {
            json!({
                "file": problem.file,
                "path": problem.path,
                "reason": problem.reason,
                "code": problem.code,
            })
        })
        .collect();
    Failure::of(errors)
        .with("problems", Value::Array(listed))
        .with_details(problems.iter().skip(1).map(ToString::to_string))
}

fn checked(catalog: &Catalog, unrecorded: &[Artefact], record: bool) -> Report {
    let versions = |artefacts: &[Artefact]| -> Value {
        artefacts
            .iter()
            .map(|artefact| {
                json!({ "kind": artefact.kind, "id": artefact.id, "version": artefact.version })
            })
            .collect()
    };
    let (recorded, unrecorded) = if record {
        (unrecorded, &[][..])
    } else {
        (&[][..], unrecorded)
    };
    let models = catalog.models.len();
    let (contracts, feeds) = (catalog.contracts.len() - models, catalog.feeds.len());
    let purposes = catalog.purposes.iter().count();
    let json = json!({
        "ok": true,
        "contracts": contracts,
        "feeds": feeds,
        "models": models,
        "purposes": purposes,
        "recorded": versions(recorded),
        "unrecorded": versions(unrecorded),
    });
    let mut text = format!(
        "{contracts} contracts, {feeds} feeds, {models} models and {purposes} purposes are in order"
    );
    for artefact in recorded {
        text += &format!(
            "\nrecorded: {} {} {}",
            artefact.kind, artefact.id, artefact.version
        );
    }
    for artefact in unrecorded {
        text += &format!(
            "\nnot in the log: {} {} {}",
            artefact.kind, artefact.id, artefact.version
        );
    }
    let report = Report::new(json, text);
    if unrecorded.is_empty() {
        return report;
    }
    report
        .note("what is not in the log has no effect yet: `qihui catalog check --record` records it")
}
