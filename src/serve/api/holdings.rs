//! What organisations keep, and what of it has to be deleted.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use http::{HeaderMap, StatusCode};
use qihui_catalog::{OrgId, Timestamp, Uscc};
use qihui_consent::ledger::HoldingFilter;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::consents::narrowest;
use super::{Answered, Shared, body_of, document_of, identifier, once, read, report_of};
use crate::commands::holding;
use crate::identity::command::on_holding;
use crate::serve::ServeError;
use crate::serve::authorise::Caller;
use crate::serve::idempotency::Answer;

/// The most holdings of a page.
const PAGE: u32 = 1000;
const LIST: &str = "holdings";

/// Which holdings to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those with data of an enterprise, as it may see them.
    uscc: Option<String>,
    /// Only those of an organisation.
    org: Option<String>,
    /// Only those of which something should have been deleted by now.
    #[serde(default)]
    overdue: bool,
    /// The page after another: its `next`.
    page: Option<String>,
    /// At most so many, up to 1000.
    limit: Option<u32>,
}

/// The statement of a deletion.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Statement {
    /// What was deleted, where and how, in one line of at most 2000 characters.
    #[schema(example = "rows of the enterprise deleted from the loan data mart and its backups")]
    statement: String,
    /// All of it is deleted, whatever was due.
    #[serde(default)]
    everything: bool,
}

/// List holdings, oldest first.
#[utoipa::path(get, path = "/v1/holdings", operation_id = "holding_list", tag = "holdings", params(Which),
    responses((status = 200, description = "A page of them, and the token of the next in `next`.", body = Value)))]
pub(crate) async fn list(
    State(service): Shared,
    caller: Caller,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Answered {
    let Query(which) = which.map_err(|_| ServeError::BadRequest("its query string".to_owned()))?;
    let uscc = which.uscc.as_deref().map(Uscc::normalise).transpose()?;
    let org = which.org.as_deref();
    let org: Option<OrgId> = org.map(|org| identifier(org, "org")).transpose()?;
    let (uscc, org) = narrowest(&caller, uscc, org)?;
    let list = format!("{LIST} {uscc:?} {org:?} {}", which.overdue);
    let after = which.page.as_deref();
    let after = after.map(|page| service.pages.take(&caller.principal.name, &list, page));
    let number = match uscc.map(|uscc| caller.hub.number_of(uscc)).transpose()? {
        // The hub has never heard of it.
        Some(None) => return Ok(document_of(&json!({ "holdings": [], "next": null }))),
        found => found.flatten(),
    };
    let filter = HoldingFilter {
        enterprise: number,
        org,
        overdue: which.overdue,
        after: after.transpose()?,
        limit: Some(which.limit.unwrap_or(PAGE).clamp(1, PAGE)),
    };
    let (holdings, next) = caller.hub.ledger().holdings(&filter).await?;
    let next = next.map(|mark| service.pages.give(&caller.principal.name, &list, mark));
    let now = Timestamp(caller.hub.clock().now_ms());
    let entries: Vec<Value> = holdings
        .iter()
        .map(|one| match number {
            Some(no) => holding::part(one, no, now),
            None => holding::entry(one),
        })
        .collect();
    Ok(document_of(&json!({ "holdings": entries, "next": next })))
}

/// Show a holding: all of it to its holder, to an enterprise its own part.
#[utoipa::path(get, path = "/v1/holdings/{holding_id}", operation_id = "holding_show", tag = "holdings",
    params(("holding_id" = String, Path, description = "The holding.")),
    responses((status = 200, description = "The holding, and what of it has to be deleted.", body = Value)))]
pub(crate) async fn show(caller: Caller, Path(id): Path<String>) -> Answered {
    let reached = on_holding(&caller.principal, &caller.hub, (caller.operation, &id)).await?;
    Ok(report_of(holding::show(&caller.hub, &id, reached).await?))
}

/// State that what was due of a holding is deleted, or all of it.
#[utoipa::path(post, path = "/v1/holdings/{holding_id}/deletions", operation_id = "holding_delete", tag = "holdings",
    params(("holding_id" = String, Path, description = "The holding."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body = Statement,
    responses((status = 200, description = "How the holding stands now.", body = Value),
        (status = 409, description = "Nothing of it is due, or all of it is deleted already.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(service): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    on_holding(&caller.principal, &caller.hub, (caller.operation, &id)).await?;
    let body = body_of(&service, &headers, body).await?;
    let Statement {
        statement,
        everything,
    } = read(&body)?;
    let hub = caller.hub.clone();
    let asked: [&[u8]; 2] = [id.as_bytes(), &body];
    let about = id.clone();
    once(&service, &caller, (&headers, &asked), async move {
        let stated = holding::delete(&hub, &about, &statement, everything).await?;
        Ok(Answer::new(StatusCode::OK, &stated.json))
    })
    .await
}
