//! `consent preview`: the exact columns and cells that a consent would open, before it is given.
//!
//! The columns come from the decision with the consent and without it; the cells from running the gate over the scope
//! that the decision would have. Looking is an access like any other and is recorded as one, also when it is refused.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::JsonArray;
use arrow::util::pretty::pretty_format_batches;
use qihui_catalog::{Action, ConsentId, DatasetId, OrgId, PurposeCode, Timestamp};
use qihui_consent::LedgerError;
use qihui_consent::decision::DatasetScope;
use qihui_consent::ledger::{DatasetPreview, Preview, PreviewColumn};
use qihui_query::access::{AccessRequest, RefusedRequest};
use qihui_query::formats::Format;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Context, with_hub};
use crate::failure::{Failure, ProgramError};
use crate::hub::Hub;
use crate::identity::Principal;
use crate::report::{Report, table};

/// Who looks, as the enterprise's list of accesses shows it: not the organisation that asks, which sees nothing.
pub(super) const LOOKER: &str = "consent_preview";

pub(super) async fn run(id: &ConsentId, context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| look(hub, id).await).await
}

/// Looks at what a consent would open.
pub(crate) async fn look(hub: &Hub, id: &ConsentId) -> Result<Report, Failure> {
    let wish = match wish(hub, id).await {
        Ok(wish) => wish,
        Err(failure) => {
            let asked = asked(hub, None, id).await?;
            return Err(hub.refused(asked, failure).await);
        }
    };
    let gate = hub.gate()?;
    let cells = Box::pin(gate.preview(&wish.request, wish.scopes)).await?;
    report(&wish.preview, &cells.into_iter().collect())
}

/// What is known of a preview that is refused before the gate is asked. The organisation is that of the principal's token,
/// if it is one's; the enterprise is the one that is asked for the consent.
pub(crate) async fn asked(
    hub: &Hub,
    principal: Option<&Principal>,
    id: &ConsentId,
) -> Result<RefusedRequest, Failure> {
    let document = match hub.ledger().consent(id).await {
        Ok(consent) => Some(consent.document),
        Err(LedgerError::UnknownConsent(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let org = match principal.and_then(|principal| principal.org.clone()) {
        Some(org) => org,
        None => OrgId::new(LOOKER)?,
    };
    let purpose = document.as_ref().map(|document| &document.purpose.code);
    Ok(RefusedRequest {
        principal: hub.principal().to_owned(),
        org: Some(org),
        purpose: purpose.cloned(),
        action: None,
        subjects: document.iter().map(|document| document.principal).collect(),
    })
}

/// What is asked of the gate.
struct Wish {
    preview: Preview,
    request: AccessRequest,
    scopes: BTreeMap<DatasetId, DatasetScope>,
}

async fn wish(hub: &Hub, id: &ConsentId) -> Result<Wish, Failure> {
    hub.require_recorded(|artefact| artefact.kind != "feed")
        .await?;
    let ledger = hub.ledger();
    let preview = ledger.preview(hub.catalog()?, id).await?;
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
    Ok(Wish {
        preview,
        request,
        scopes,
    })
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
