//! `consent request | preview | sign | pause | resume | withdraw | narrow | show | list`.

use std::path::Path;

use qihui_catalog::{ConsentId, OrgId};
use qihui_consent::document::{ConsentRequest, NarrowRequest};
use qihui_consent::ledger::{Consent, ConsentFilter, Event, UsesLeft};
use qihui_consent::signing::{Operation, SigningKey};
use serde_json::{Value, json};

use super::{Context, enterprise, holding, preview, with_hub};
use crate::cli::{ConsentCommand, OperationArgs};
use crate::failure::Failure;
use crate::files::read_document;
use crate::hub::{Act, Acted, Hub};
use crate::identity::{self, About};
use crate::report::{Report, table};

pub(super) async fn run(command: ConsentCommand, context: &Context<'_>) -> Result<Report, Failure> {
    match command {
        ConsentCommand::Request { file } => request(&file, context).await,
        ConsentCommand::Preview { id } => Box::pin(preview::run(&id, context)).await,
        ConsentCommand::Sign { id, signatory, key } => {
            let (signatory, key) = (Some(signatory), Some(key));
            let args = OperationArgs { id, signatory, key };
            give(act(args, Operation::Give, None, context)?, context).await
        }
        ConsentCommand::Resume(args) => {
            give(act(args, Operation::Resume, None, context)?, context).await
        }
        ConsentCommand::Pause(args) => {
            take(act(args, Operation::Pause, None, context)?, context).await
        }
        ConsentCommand::Withdraw(args) => {
            take(act(args, Operation::Withdraw, None, context)?, context).await
        }
        ConsentCommand::Narrow { operation, file } => {
            let wish = NarrowRequest::parse(&read_document("narrower consent", &file)?)?;
            take(
                act(operation, Operation::Narrow, Some(wish), context)?,
                context,
            )
            .await
        }
        ConsentCommand::Show { id } => {
            with_hub(&context.opening, async |hub| show(hub, &id).await).await
        }
        ConsentCommand::List { subject, org } => list(subject, org, context).await,
    }
}

async fn request(file: &Path, context: &Context<'_>) -> Result<Report, Failure> {
    let request = ConsentRequest::parse(&read_document("consent request", file)?)?;
    if let Some(principal) = &context.principal {
        let about = About {
            org: Some(request.org()),
            ..About::default()
        };
        principal.may_on(identity::Operation::ConsentRequest, &about)?;
    }
    with_hub(&context.opening, async |hub| ask(hub, request).await).await
}

/// Asks an enterprise for a consent.
pub(crate) async fn ask(hub: &Hub, request: ConsentRequest) -> Result<Report, Failure> {
    // A request names any number of datasets and fixes the versions of their contracts.
    hub.require_recorded(|artefact| artefact.kind != "feed")
        .await?;
    let consent = hub
        .ledger()
        .request_consent(hub.catalog()?, request)
        .await?;
    hub.acknowledge().await?;
    Ok(standing(&consent))
}

fn act(
    args: OperationArgs,
    operation: Operation,
    narrowed: Option<NarrowRequest>,
    context: &Context<'_>,
) -> Result<Act, Failure> {
    let signatory = match args.signatory.zip(args.key) {
        Some((name, key)) => {
            let hub = context.opening.layout.root();
            Some((name, SigningKey::read(&key, hub)?))
        }
        None => None,
    };
    Ok(Act {
        id: args.id,
        operation,
        narrowed,
        signatory,
    })
}

async fn give(act: Act, context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        hub.require_recorded(|artefact| artefact.kind != "feed")
            .await?;
        Ok(standing(&hub.act(&act).await?.consent))
    })
    .await
}

async fn take(act: Act, context: &Context<'_>) -> Result<Report, Failure> {
    let acted = Box::pin(Hub::take_away(&context.opening, &act)).await?;
    Ok(taken(&acted))
}

/// How a consent stands after something was taken away, and who still has to delete what because of that.
pub(crate) fn taken(acted: &Acted) -> Report {
    let mut report = standing(&acted.consent);
    if acted.holdings.is_empty() {
        return report;
    }
    // As the enterprise may see them.
    let own = |held| holding::part(held, acted.consent.no, acted.at);
    let holdings: Vec<Value> = acted.holdings.iter().map(own).collect();
    for holding in &holdings {
        let word = |key: &str| holding.get(key).and_then(Value::as_str).unwrap_or("?");
        report.text += &format!(
            "\n{} has to delete its copy of {} by {} ({})",
            word("org"),
            word("at"),
            word("delete_by"),
            word("holding_id")
        );
    }
    report.json["holdings"] = json!(holdings);
    report
}

/// How a consent stands, in short.
pub(crate) fn standing(consent: &Consent) -> Report {
    let document = &consent.document;
    let json = json!({
        "consent_id": document.consent_id,
        "version": document.version,
        "state": consent.state,
    });
    let text = format!(
        "consent {} version {}: {}",
        document.consent_id, document.version, consent.state
    );
    Report::new(json, text)
}

pub(crate) async fn show(hub: &Hub, id: &ConsentId) -> Result<Report, Failure> {
    let consent = hub.ledger().consent(id).await?;
    let versions = hub.ledger().versions(id).await?;
    let events = hub.ledger().events_of(id).await?;
    let uses = hub.ledger().uses_left(hub.catalog()?, id).await?;
    let mut json = json!({
        "consent_id": id,
        "version": consent.document.version,
        "state": consent.state,
        "in_force": consent.in_force,
        "signed": consent.signed,
        "hash": consent.hash,
        "document": consent.document,
        "versions": versions
            .iter()
            .map(|one| json!({ "version": one.document.version, "state": one.state, "hash": one.hash }))
            .collect::<Vec<_>>(),
        "events": events
            .iter()
            .map(|event| json!({ "position": event.position, "time": event.time, "kind": event.kind }))
            .collect::<Vec<_>>(),
    });
    let document = serde_json::to_string_pretty(&consent.document).unwrap_or_default();
    let text = format!(
        "{}{}{}\n{document}\n{}",
        standing(&consent).text,
        if consent.in_force { ", in force" } else { "" },
        uses.as_ref().map_or_else(String::new, in_words),
        history(&events)
    );
    if uses.is_some() {
        json["uses"] = json!(uses);
    }
    Ok(Report::new(json, text))
}

/// What is left of a consent whose uses are counted.
fn in_words(uses: &UsesLeft) -> String {
    let left = uses
        .left
        .map_or_else(String::new, |left| format!(", {left} left"));
    let next = match uses.next {
        Some(next) => format!("one more is possible from {next}"),
        None => "no more is possible".to_owned(),
    };
    format!("\nused {} times{left}; {next}", uses.made)
}

fn history(events: &[Event]) -> String {
    let rows = events.iter().map(|event| {
        vec![
            event.position.to_string(),
            event.time.to_string(),
            event.kind.clone(),
        ]
    });
    table(&["position", "time", "what happened"], rows)
}

async fn list(
    subject: Option<String>,
    org: Option<OrgId>,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    let subject = subject.as_deref().map(enterprise).transpose()?;
    let consents = with_hub(&context.opening, async |hub| {
        let number = match subject {
            Some(uscc) => match hub.number_of(uscc)? {
                // The hub has never heard of it.
                None => return Ok(Vec::new()),
                known => known,
            },
            None => None,
        };
        let mut filter = ConsentFilter {
            enterprise: number,
            org,
            ..ConsentFilter::default()
        };
        let mut all = Vec::new();
        loop {
            let (page, next) = hub.ledger().consents(&filter).await?;
            all.extend(page);
            match next {
                Some(mark) => filter.after = Some(mark),
                None => return Ok(all),
            }
        }
    })
    .await?;
    let json: Vec<Value> = consents.iter().map(entry).collect();
    let header = [
        "consent",
        "version",
        "state",
        "in force",
        "principal",
        "organisation",
        "purpose",
        "expires",
    ];
    Ok(Report::new(
        json!({ "consents": json }),
        table(&header, consents.iter().map(row)),
    ))
}

pub(crate) fn entry(consent: &Consent) -> Value {
    let document = &consent.document;
    json!({
        "consent_id": document.consent_id,
        "version": document.version,
        "state": consent.state,
        "in_force": consent.in_force,
        "principal": document.principal,
        "org": document.consumer.org,
        "purpose": document.purpose.code,
        "starts": document.starts,
        "expires": document.expires,
    })
}

fn row(consent: &Consent) -> Vec<String> {
    let document = &consent.document;
    vec![
        document.consent_id.to_string(),
        document.version.to_string(),
        consent.state.to_string(),
        (if consent.in_force { "yes" } else { "no" }).to_owned(),
        document.principal.to_string(),
        document.consumer.org.to_string(),
        document.purpose.code.to_string(),
        document.expires.to_string(),
    ]
}
