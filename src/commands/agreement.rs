//! `agreement add | list`.

use std::path::Path;

use qihui_consent::agreement::AgreementFile;
use qihui_consent::decision::{Agreement, Basis};
use qihui_consent::ledger::StoredAgreement;
use serde_json::{Value, json};

use super::{Context, with_hub};
use crate::cli::AgreementCommand;
use crate::failure::Failure;
use crate::files::read_document;
use crate::hub::Hub;
use crate::report::{Report, table};

pub(super) async fn run(
    command: AgreementCommand,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    match command {
        AgreementCommand::Add { file } => add(&file, context).await,
        AgreementCommand::List => with_hub(&context.opening, list).await,
    }
}

async fn add(file: &Path, context: &Context<'_>) -> Result<Report, Failure> {
    let agreement = AgreementFile::parse(&read_document("agreement", file)?)?;
    with_hub(&context.opening, async |hub| agree(hub, agreement).await).await
}

/// Adds an agreement, which is in force when this returns.
pub(crate) async fn agree(hub: &Hub, agreement: AgreementFile) -> Result<Report, Failure> {
    let dataset = agreement.dataset.clone();
    let matters = |kind: &str, id: &str| match kind {
        "contract" => id == dataset.as_str(),
        "purposes" => true,
        _ => false,
    };
    hub.require_recorded(|artefact| matters(artefact.kind, &artefact.id))
        .await?;
    let added = hub
        .ledger()
        .add_agreement(hub.catalog()?, agreement)
        .await?;
    hub.acknowledge().await?;
    let text = format!("agreement {} is in force", added.id);
    Ok(Report::new(json!({ "agreement": added }), text))
}

async fn list(hub: &Hub) -> Result<Report, Failure> {
    let agreements = hub.ledger().agreements().await?;
    let json: Vec<Value> = agreements.iter().map(entry).collect();
    let rows = agreements.iter().map(row);
    let header = [
        "agreement",
        "organisation",
        "dataset",
        "purposes",
        "basis",
        "columns",
        "until",
        "state",
    ];
    Ok(Report::new(
        json!({ "agreements": json }),
        table(&header, rows),
    ))
}

pub(crate) fn entry(stored: &StoredAgreement) -> Value {
    let mut entry = json!(stored.agreement);
    entry["in_force"] = json!(stored.in_force);
    entry["revoked"] = json!(stored.revoked);
    entry
}

fn row(stored: &StoredAgreement) -> Vec<String> {
    let Agreement {
        id,
        org,
        dataset,
        purposes,
        basis,
        columns,
        valid_until,
        ..
    } = &stored.agreement;
    let purposes: Vec<&str> = purposes.iter().map(|purpose| purpose.as_str()).collect();
    let basis = match basis {
        Basis::Consent => "consent".to_owned(),
        Basis::Statute { law, .. } if stored.agreement.aggregate_only.is_some() => {
            format!("{law}, figures only")
        }
        Basis::Statute { law, .. } => law.clone(),
    };
    let state = match (stored.revoked, stored.in_force) {
        (true, _) => "revoked",
        (_, true) => "in force",
        _ => "not in force",
    };
    vec![
        id.to_string(),
        org.to_string(),
        dataset.to_string(),
        purposes.join(", "),
        basis,
        columns.len().to_string(),
        valid_until.to_string(),
        state.to_owned(),
    ]
}
