//! `org add | list`.

use qihui_catalog::PurposeCode;
use qihui_consent::LedgerError;
use qihui_consent::ledger::Organisation;
use serde_json::{Value, json};

use super::preview::LOOKER;
use super::{Context, with_hub};
use crate::cli::OrgCommand;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::report::{Report, table};

pub(super) async fn run(command: OrgCommand, context: &Context<'_>) -> Result<Report, Failure> {
    match command {
        OrgCommand::Add {
            id,
            name,
            kind,
            purpose,
        } => {
            let kind = kind.into();
            let org = Organisation { id, name, kind };
            with_hub(&context.opening, async |hub| add(hub, org, &purpose).await).await
        }
        OrgCommand::List => with_hub(&context.opening, list).await,
    }
}

pub(crate) async fn add(
    hub: &Hub,
    org: Organisation,
    purposes: &[PurposeCode],
) -> Result<Report, Failure> {
    if org.id.as_str() == LOOKER {
        // Whoever reads the accesses of an enterprise must not take one for the other.
        return Err(LedgerError::OrganisationExists(org.id).into());
    }
    let catalog = hub.catalog()?;
    for purpose in purposes {
        let known = catalog.purposes.get(purpose);
        if known.is_none_or(|purpose| purpose.heading) {
            // Before the organisation is registered, not after.
            return Err(LedgerError::UnknownPurpose(purpose.clone()).into());
        }
    }
    hub.ledger().add_org(org.clone()).await?;
    for purpose in purposes {
        hub.ledger()
            .assign_purpose(catalog, &org.id, None, purpose)
            .await?;
    }
    hub.acknowledge().await?;
    let text = format!("registered {}", org.id);
    Ok(Report::new(
        json!({ "org": org, "purposes": purposes }),
        text,
    ))
}

pub(crate) async fn list(hub: &Hub) -> Result<Report, Failure> {
    let (mut listed, mut rows) = (Vec::new(), Vec::new());
    for org in hub.ledger().orgs().await? {
        let assigned = hub.ledger().assigned_purposes(&org.id).await?;
        let purposes: Vec<String> = assigned
            .into_iter()
            .map(|(_, purpose)| purpose.to_string())
            .collect();
        listed.push(entry(&org, &purposes));
        rows.push(vec![
            org.id.to_string(),
            org.name,
            org.kind.to_string(),
            purposes.join(", "),
        ]);
    }
    let header = ["organisation", "name", "kind", "purposes without agreement"];
    Ok(Report::new(json!({ "orgs": listed }), table(&header, rows)))
}

fn entry(org: &Organisation, purposes: &[String]) -> Value {
    json!({ "id": org.id, "name": org.name, "kind": org.kind, "purposes": purposes })
}
