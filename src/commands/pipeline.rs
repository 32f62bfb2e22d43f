//! `pipeline list | run | check`, and what `catalog show` says of a product.

use qihui_catalog::{Catalog, DatasetId, Model};
use qihui_pipelines::models::derive::derive;
use qihui_pipelines::models::{BuildReport, ModelError, Product, Reason, build_order};
use serde_json::{Map, Value, json};

use super::catalog::with_checked_hub;
use super::{Context, with_hub};
use crate::cli::{PipelineCommand, PipelineRunArgs};
use crate::failure::Failure;
use crate::report::{Report, table};

pub(super) async fn run(
    command: PipelineCommand,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    match command {
        PipelineCommand::List => list(context).await,
        PipelineCommand::Run(args) => run_models(args, context).await,
        PipelineCommand::Check { name } => check(name.as_ref(), context).await,
    }
}

/// The products of a catalogue, each after those it is made from.
fn products(catalog: &Catalog) -> Result<Vec<Product>, Failure> {
    let mut products = Vec::new();
    for name in build_order(catalog) {
        products.push(product(catalog, &name)?);
    }
    Ok(products)
}

fn product(catalog: &Catalog, name: &DatasetId) -> Result<Product, Failure> {
    let model = catalog.models.get(name);
    let model = model.ok_or_else(|| ModelError::Unknown(name.clone()))?;
    Ok(derive(catalog, model)?)
}

fn names(inputs: impl IntoIterator<Item = impl ToString>) -> String {
    let names: Vec<String> = inputs.into_iter().map(|name| name.to_string()).collect();
    names.join(", ")
}

async fn list(context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let unrecorded = hub.unrecorded().await?;
        let recorded = |model: &Model| {
            !unrecorded
                .iter()
                .any(|artefact| artefact.kind == "model" && artefact.id == model.name.as_str())
        };
        let (mut json, mut rows) = (Vec::new(), Vec::new());
        for Product {
            model,
            contract,
            inputs,
            ..
        } in products(hub.catalog()?)?
        {
            json.push(json!({
                "name": model.name,
                "title": model.title_en,
                "title_cn": model.title_cn,
                "owner": model.owner,
                "version": model.version,
                "row_level": contract.row_level,
                "inputs": inputs,
                "recorded": recorded(&model),
            }));
            rows.push(vec![
                model.name.to_string(),
                model.title_en.clone(),
                model.title_cn.clone(),
                model.version.clone(),
                contract.row_level.to_string(),
                names(&inputs),
                (if recorded(&model) { "yes" } else { "no" }).to_owned(),
            ]);
        }
        let header = [
            "product",
            "title",
            "title (zh)",
            "version",
            "row level",
            "made from",
            "recorded",
        ];
        Ok(Report::new(json!({ "models": json }), table(&header, rows)))
    })
    .await
}

async fn run_models(args: PipelineRunArgs, context: &Context<'_>) -> Result<Report, Failure> {
    let reports = with_hub(&context.opening, async |hub| {
        let chosen = match &args.name {
            Some(name) => vec![name.clone()],
            None => build_order(hub.catalog()?),
        };
        let mut reports = Vec::with_capacity(chosen.len());
        for name in chosen {
            match Box::pin(hub.run_model(&name, args.whole)).await {
                Ok(report) => reports.push(report),
                Err(failure) => return Err(after(failure, &reports)),
            }
        }
        Ok(reports)
    })
    .await?;
    let json: Vec<Value> = reports.iter().map(outcome).collect();
    Ok(Report::new(json!({ "models": json }), outcomes(&reports)))
}

/// A failure after products that were built: they stay built, so they are told.
fn after(failure: Failure, done: &[BuildReport]) -> Failure {
    if done.is_empty() {
        return failure;
    }
    let told = done
        .iter()
        .map(|report| format!("product {}: done", report.model));
    failure
        .with("models", done.iter().map(outcome).collect())
        .with_details(told)
}

/// What a build did; `built` is the sum of the counts below it.
fn outcome(report: &BuildReport) -> Value {
    let counts = &report.counts;
    json!({
        "model": report.model,
        "version": report.version,
        "mode": report.mode,
        "day": report.day,
        "inputs": report.inputs,
        "table_version": report.table_version,
        "enterprises": report.enterprises,
        "built": counts.inserted + counts.replaced + counts.retracted + counts.unchanged,
        "inserted": counts.inserted,
        "replaced": counts.replaced,
        "retracted": counts.retracted,
        "unchanged": counts.unchanged,
    })
}

fn outcomes(reports: &[BuildReport]) -> String {
    let rows = reports.iter().map(|report| {
        let json = outcome(report);
        let text = |key: &str| match &json[key] {
            Value::String(text) => text.replace('_', " "),
            other => other.to_string(),
        };
        let name = report.model.to_string();
        let rest = [
            "mode",
            "enterprises",
            "inserted",
            "replaced",
            "retracted",
            "unchanged",
            "table_version",
        ];
        std::iter::once(name)
            .chain(rest.map(text))
            .collect::<Vec<_>>()
    });
    let header = [
        "product",
        "built",
        "enterprises",
        "inserted",
        "replaced",
        "retracted",
        "unchanged",
        "version",
    ];
    table(&header, rows)
}

async fn check(name: Option<&DatasetId>, context: &Context<'_>) -> Result<Report, Failure> {
    with_checked_hub(context, async |hub| {
        let catalog = hub.catalog()?;
        let products = match name {
            Some(name) => vec![product(catalog, name)?],
            None => products(catalog)?,
        };
        let json: Map<String, Value> = products
            .iter()
            .map(|product| (product.model.name.to_string(), lineage_json(product)))
            .collect();
        let text: Vec<String> = products
            .iter()
            .map(|product| {
                format!(
                    "{}: in order\n{}",
                    product.model.name,
                    lineage_text(product)
                )
            })
            .collect();
        let json = json!({ "ok": true, "models": json });
        Ok(Report::new(json, text.join("\n")))
    })
    .await
}

/// Why each column and the rows of a product have their level.
pub(super) fn lineage_json(product: &Product) -> Value {
    let columns: Vec<Value> = product
        .columns
        .iter()
        .map(|(name, reason)| {
            let mut json = json!(reason);
            json["column"] = json!(name);
            json
        })
        .collect();
    json!({
        "model_version": product.model.version,
        "sql_sha256": product.model.sql_sha256,
        "inputs": product.inputs,
        "rows": product.rows,
        "columns": columns,
    })
}

fn why(reason: &Reason) -> String {
    let lowered = reason
        .declassified_by
        .as_ref()
        .map(|rule| format!("{} by its parents, lowered by {rule}; ", reason.inherited));
    format!(
        "{}{}",
        lowered.unwrap_or_default(),
        names(&reason.because_of)
    )
}

/// The same for people.
pub(super) fn lineage_text(product: &Product) -> String {
    let row = |name: &str, reason: &Reason| {
        vec![
            name.to_owned(),
            reason.level.to_string(),
            why(reason),
            names(&reason.parents),
        ]
    };
    let rows = std::iter::once(row("(the row)", &product.rows));
    let columns = product
        .columns
        .iter()
        .map(|(name, reason)| row(name, reason));
    table(
        &["column", "level", "because of", "made from"],
        rows.chain(columns),
    )
}

/// The lineage of a dataset, if it is a product.
pub(super) fn product_of(
    catalog: &Catalog,
    dataset: &DatasetId,
) -> Result<Option<Product>, Failure> {
    if !catalog.models.contains_key(dataset) {
        return Ok(None);
    }
    product(catalog, dataset).map(Some)
}
