//! `consent preview`: the exact columns and cells that a consent would open, before it is given.
//!
//! The columns come from the decision with the consent and without it; the cells from running the gate over the scope
//! that the decision would have. Looking is an access like any other and is recorded as one.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::JsonArray;
use arrow::util::pretty::pretty_format_batches;
use qihui_catalog::{Action, ConsentId, DatasetId, OrgId, PurposeCode, Timestamp};
use qihui_consent::ledger::{DatasetPreview, Preview, PreviewColumn};
use qihui_query::access::AccessRequest;
use qihui_query::formats::Format;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Context, with_hub};
use crate::failure::{Failure, ProgramError};
use crate::hub::Hub;
use crate::report::{Report, table};

/// Who looks, as the enterprise's list of accesses shows it: not the organisation that asks, which sees nothing.
pub(super) const LOOKER: &str = "consent_preview";

pub(super) async fn run(id: &ConsentId, context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| look(hub, id).await).await
}

/// Looks at what a consent would open.
pub(crate) async fn look(hub: &Hub, id: &ConsentId) -> Result<Report, Failure> {
    hub.require_recorded(|artefact| artefact.kind != "feed")
        .await?;
    let preview = hub.ledger().preview(hub.catalog()?, id).await?;
    let cells = Box::pin(cells(hub, id, &preview)).await?;
    report(&preview, &cells)
}

async fn cells(
    hub: &Hub,
    id: &ConsentId,
    preview: &Preview,
) -> Result<BTreeMap<DatasetId, RecordBatch>, Failure> {
    let ledger = hub.ledger();
    let found = ledger
        .hypothetical(hub.catalog()?, id, preview.action)
        .await?;
    let scopes = found
        .into_iter()
        .map(|(dataset, found)| (dataset, found.with))
        .collect();
    let request = AccessRequest {
        principal: hub.principal().to_owned(),
        org: OrgId::new(LOOKER)?,
        purpose: preview.purpose.clone(),
        action: preview.action,
        subjects: vec![ledger.consent(id).await?.document.principal],
        sql: String::new(),
        format: Format::Ndjson,
        // Rows in a fixed order, for whoever compares.
        strict: true,
    };
    let shown = hub.gate()?.preview(&request, scopes).await?;
    Ok(shown.into_iter().collect())
}

/// The document: what the ledger says, without the hub's own number of the enterprise, and the cells as the engine
/// writes them; a decimal read as a number of the machine would no longer be the same.
#[derive(Serialize)]
struct Shown<'a> {
    consent_id: &'a ConsentId,
    version: u32,
    org: &'a OrgId,
    purpose: &'a PurposeCode,
    action: Action,
    at: Timestamp,
    datasets: Vec<ShownDataset<'a>>,
}

#[derive(Serialize)]
struct ShownDataset<'a> {
    #[serde(flatten)]
    preview: &'a DatasetPreview,
    rows: Box<RawValue>,
}

fn report(preview: &Preview, cells: &BTreeMap<DatasetId, RecordBatch>) -> Result<Report, Failure> {
    let mut text = format!(
        "consent {} version {} would let {} ({}, {}) see:",
        preview.consent_id, preview.version, preview.org, preview.purpose, preview.action
    );
    let mut datasets = Vec::with_capacity(preview.datasets.len());
    for dataset in &preview.datasets {
        let cells = cells.get(&dataset.dataset);
        text += &format!("\n\n{}\n{}", dataset.dataset, columns(dataset));
        if let Some(batch) = cells {
            text += &format!("\n{}", pretty(batch)?);
        }
        datasets.push(ShownDataset {
            preview: dataset,
            rows: rows(cells)?,
        });
    }
    let shown = Shown {
        consent_id: &preview.consent_id,
        version: preview.version,
        org: &preview.org,
        purpose: &preview.purpose,
        action: preview.action,
        at: preview.at,
        datasets,
    };
    let document = serde_json::to_string(&shown).map_err(|_| no_json())?;
    Ok(Report::with_document(document, text))
}

fn columns(preview: &DatasetPreview) -> String {
    let row = |column: &PreviewColumn| {
        let form = column
            .form
            .map_or_else(|| "not shown".to_owned(), |form| form.to_string());
        let opened: Vec<String> = column
            .opened
            .iter()
            .map(|(from, to)| {
                let day = |day: &Option<_>| {
                    day.map_or_else(
                        || "…".to_owned(),
                        |day: qihui_catalog::Date| day.to_string(),
                    )
                };
                format!("{} to {}", day(from), day(to))
            })
            .collect();
        let opened = match (column.always, opened.is_empty()) {
            (true, _) => "shown anyhow".to_owned(),
            (_, true) => "nothing".to_owned(),
            _ => opened.join(", "),
        };
        vec![column.name.clone(), form, opened, column.reasons.join("; ")]
    };
    table(
        &["column", "form", "opened", "why"],
        preview.columns.iter().map(row),
    )
}

fn unwritable(_: arrow::error::ArrowError) -> ProgramError {
    // The engine's words may quote a value.
    ProgramError::OutputFailed("a cell has no text form".to_owned())
}

fn pretty(batch: &RecordBatch) -> Result<String, ProgramError> {
    Ok(pretty_format_batches(std::slice::from_ref(batch))
        .map_err(unwritable)?
        .to_string())
}

fn no_json() -> ProgramError {
    ProgramError::OutputFailed("the cells are no JSON".to_owned())
}

fn rows(cells: Option<&RecordBatch>) -> Result<Box<RawValue>, ProgramError> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, JsonArray>(Vec::new());
    if let Some(batch) = cells {
        writer.write(batch).map_err(unwritable)?;
    }
    writer.finish().map_err(unwritable)?;
    let text = String::from_utf8(writer.into_inner()).map_err(|_| no_json())?;
    RawValue::from_string(text).map_err(|_| no_json())
}
