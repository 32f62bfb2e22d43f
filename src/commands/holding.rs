//! `holding list | show | delete`.

use std::collections::BTreeMap;

use qihui_catalog::{EnterpriseNo, EnterpriseNumbers, OrgId, Timestamp, Uscc};
use qihui_consent::ledger::{Deletion, Holding, HoldingFilter};
use serde_json::{Value, json};

use super::{Context, enterprise, with_hub};
use crate::cli::HoldingCommand;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::identity::command::{Reached, on_holding};
use crate::identity::{About, Operation, Principal};
use crate::report::{Report, table};

pub(super) async fn run(command: HoldingCommand, context: &Context<'_>) -> Result<Report, Failure> {
    let opening = &context.opening;
    let principal = context.principal.as_ref();
    match command {
        HoldingCommand::List {
            subject,
            org,
            overdue,
        } => {
            let subject = subject.as_deref().map(enterprise).transpose()?;
            let work = async |hub: &Hub| list(hub, principal, (subject, org, overdue)).await;
            with_hub(opening, work).await
        }
        HoldingCommand::Show { id } => {
            let work = async |hub: &Hub| {
                let reached = match principal {
                    Some(principal) => {
                        on_holding(principal, hub, (Operation::HoldingShow, &id)).await?
                    }
                    None => Reached::Whole,
                };
                show(hub, &id, reached).await
            };
            with_hub(opening, work).await
        }
        HoldingCommand::Delete {
            id,
            statement,
            everything,
        } => {
            let work = async |hub: &Hub| delete(hub, &id, &statement, everything).await;
            with_hub(opening, work).await
        }
    }
}

/// Whether somebody sees whole holdings of a list, or the parts of one enterprise alone.
pub(crate) fn sees_whole(principal: &Principal, operation: Operation, org: Option<&OrgId>) -> bool {
    let about = About {
        org,
        ..About::default()
    };
    principal.may_on(operation, &about).is_ok()
}

async fn list(
    hub: &Hub,
    principal: Option<&Principal>,
    (subject, org, overdue): (Option<Uscc>, Option<OrgId>, bool),
) -> Result<Report, Failure> {
    let whole = principal
        .is_none_or(|principal| sees_whole(principal, Operation::HoldingList, org.as_ref()));
    let number = match subject.map(|uscc| hub.number_of(uscc)).transpose()? {
        Some(None) => return Ok(listed(&[])),
        found => found.flatten(),
    };
    let mut filter = HoldingFilter {
        org,
        enterprise: number,
        overdue,
        ..HoldingFilter::default()
    };
    let now = Timestamp(hub.clock().now_ms());
    let mut entries = Vec::new();
    loop {
        let (page, next) = hub.ledger().holdings(&filter).await?;
        for holding in &page {
            // Whoever asks about an enterprise is shown what that enterprise is shown.
            entries.push(match number {
                Some(no) => part(holding, no, now),
                None if whole => entry(holding),
                None => continue,
            });
        }
        match next {
            Some(mark) => filter.after = Some(mark),
            None => return Ok(listed(&entries)),
        }
    }
}

fn listed(entries: &[Value]) -> Report {
    let cell = |entry: &Value, key: &str| match entry.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let keys = [
        "holding_id",
        "org",
        "purpose",
        "at",
        "state",
        "keep_until",
        "delete_by",
        "overdue",
    ];
    let header = [
        "holding",
        "organisation",
        "purpose",
        "since",
        "state",
        "keep until",
        "delete by",
        "overdue",
    ];
    let rows = entries.iter().map(|entry| keys.map(|key| cell(entry, key)));
    let text = if entries.is_empty() {
        "nobody keeps anything".to_owned()
    } else {
        table(&header, rows)
    };
    Report::new(json!({ "holdings": entries }), text)
}

/// A holding as far as it is reached.
pub(crate) async fn show(hub: &Hub, id: &str, reached: Reached) -> Result<Report, Failure> {
    let holding = hub.ledger().holding(id).await?;
    let json = match reached {
        Reached::Whole => whole(hub, &holding)?,
        Reached::PartOf(uscc) => match hub.number_of(uscc)? {
            Some(no) => part(&holding, no, Timestamp(hub.clock().now_ms())),
            None => Value::Null,
        },
    };
    let text = serde_json::to_string_pretty(&json).unwrap_or_default();
    Ok(Report::new(json, text))
}

/// Records that something of a holding is deleted, and waits until that is in the log.
pub(crate) async fn delete(
    hub: &Hub,
    id: &str,
    statement: &str,
    everything: bool,
) -> Result<Report, Failure> {
    let ledger = hub.ledger();
    let stated = ledger.delete_holding(id, statement, everything, hub.principal());
    let holding = stated.await?;
    hub.acknowledge().await?;
    let text = format!("holding {id}: {}", holding.state.as_str());
    Ok(Report::new(whole(hub, &holding)?, text))
}

fn words(deletion: &Deletion) -> Value {
    json!({ "at": deletion.at, "by": deletion.by, "statement": deletion.statement })
}

/// A holding in a list.
pub(crate) fn entry(holding: &Holding) -> Value {
    let document = &holding.document;
    json!({
        "holding_id": document.holding_id,
        "access_id": document.access_id,
        "org": document.org,
        "purpose": document.purpose,
        "datasets": document.datasets,
        "at": document.at,
        "complete": document.complete,
        "rows": document.rows,
        "bytes": document.bytes,
        "sha256": document.sha256,
        "enterprises": document.enterprises,
        "state": holding.state,
        "keep_until": holding.keep_until,
        "delete_by": holding.delete_by,
        "overdue": holding.overdue,
    })
}

/// All of a holding: for its holder, and for those who answer for the hub.
fn whole(hub: &Hub, holding: &Holding) -> Result<Value, Failure> {
    let numbers: Vec<EnterpriseNo> = holding.due.iter().filter_map(|part| part.no).collect();
    let codes = hub.ledger().uscc_of(&numbers)?;
    let codes: BTreeMap<EnterpriseNo, Option<Uscc>> = numbers.into_iter().zip(codes).collect();
    let due = holding.due.iter().map(|part| {
        json!({
            "uscc": part.no.and_then(|no| codes.get(&no).copied().flatten()),
            "reason": part.reason,
            "consent_id": part.consent_id,
            "since": part.since,
            "delete_by": part.delete_by,
            "deletion": part.deletion.as_ref().map(words),
        })
    });
    let mut json = entry(holding);
    json["basis"] = json!(holding.document.basis);
    json["data_life_days"] = json!(holding.document.data_life_days);
    json["due"] = due.collect();
    json["deletion"] = json!(holding.deletion.as_ref().map(words));
    Ok(json)
}

/// An enterprise's part of a holding: who keeps what of it until when; no totals, and nothing of others.
pub(crate) fn part(holding: &Holding, no: EnterpriseNo, now: Timestamp) -> Value {
    let document = &holding.document;
    let own = holding.part_of(no, now);
    json!({
        "holding_id": document.holding_id,
        "org": document.org,
        "purpose": document.purpose,
        "datasets": document.datasets,
        "at": document.at,
        "state": own.state,
        "keep_until": holding.keep_until,
        "reason": own.reason,
        "delete_by": own.delete_by,
        "overdue": own.overdue,
        "deletion": own.deletion.map(words),
    })
}
