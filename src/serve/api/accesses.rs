//! Who read what.

use axum::extract::{Path, Query, State};
use qihui_catalog::Uscc;
use qihui_query::access::{access_at, manifest_of};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::log::proof_of;
use super::{Answered, Shared, document_of};
use crate::failure::Failure;
use crate::hub::Hub;
use crate::identity::About;
use crate::serve::ServeError;
use crate::serve::authorise::Caller;

/// How many of the newest entries of the log an access is looked for in.
const SEARCHED: u64 = 100_000;
/// The most accesses of a page.
const PAGE: usize = 200;
const LIST: &str = "accesses";

/// Which accesses to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// The page after another: its `next`.
    page: Option<String>,
    /// At most so many, up to 200.
    limit: Option<usize>,
}

/// Show what an access came to: rows, bytes, their hash, and how many cells were withheld of which column.
#[utoipa::path(get, path = "/v1/accesses/{access_id}", operation_id = "access_show", tag = "accesses",
    params(("access_id" = String, Path, description = "The access, as `Qihui-Access-Id` named it.")),
    responses((status = 200, description = "Its manifest.", body = Value),
        (status = 404, description = "It is not among the newest of the log.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(service): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Answered {
    let log = std::sync::Arc::clone(caller.hub.log());
    let wanted = id.clone();
    let found = tokio::task::spawn_blocking(move || manifest_of(&log, &wanted, SEARCHED));
    let found = found.await.map_err(|_| ServeError::Panicked)??;
    let manifest = found.ok_or(ServeError::UnknownAccess)?;
    let org = manifest.org.parse().ok();
    let about = About {
        principal: Some(&manifest.principal),
        org: org.as_ref(),
        ..About::default()
    };
    // Of an access out of reach nothing is told, not even that it was.
    caller
        .may_on(&about)
        .map_err(|_| ServeError::UnknownAccess)?;
    let reaches_all = caller.may_on(&About::default()).is_ok();
    let manifest = if reaches_all {
        manifest
    } else {
        manifest.for_one_organisation()
    };
    let mut document = json!(manifest);
    if let Some(summary) = service.summary(&id) {
        document["columns"] = json!(summary.columns);
        document["summary"] = json!(summary.datasets);
    }
    Ok(document_of(&document))
}

/// List who accessed an enterprise's data, oldest first, each with the proof that it is in the log.
#[utoipa::path(get, path = "/v1/enterprises/{uscc}/accesses", operation_id = "enterprise_accesses", tag = "accesses",
    params(("uscc" = String, Path, description = "The unified social credit code of the enterprise."), Which),
    responses((status = 200, description = "A page of accesses, the checkpoint their proofs are for, and the token of the next page.",
        body = Value)))]
pub(crate) async fn of_enterprise(
    State(service): Shared,
    caller: Caller,
    Path(uscc): Path<String>,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Answered {
    let Query(which) = which.map_err(|_| ServeError::BadRequest("its query string".to_owned()))?;
    let uscc = Uscc::normalise(&uscc)?;
    caller.may_on(&About {
        uscc: Some(uscc),
        ..About::default()
    })?;
    let list = format!("{LIST} {uscc}");
    let who = caller.principal.name.clone();
    let after = match which.page.as_deref() {
        Some(page) => Some(service.pages.take(&who, &list, page)?),
        None => None,
    };
    let limit = which.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let hub = caller.hub.clone();
    let read = tokio::task::spawn_blocking(move || page(&hub, uscc, after, limit));
    let (mut document, next) = read.await.map_err(|_| ServeError::Panicked)??;
    document["next"] = json!(next.map(|mark| service.pages.give(&who, &list, mark)));
    Ok(document_of(&document))
}

/// A page of accesses, and the mark of the next.
fn page(
    hub: &Hub,
    uscc: Uscc,
    after: Option<i64>,
    limit: usize,
) -> Result<(Value, Option<i64>), Failure> {
    let log = hub.log();
    // Before anything is read: every proof is for this head, which holds all that is listed.
    let checkpoint = log.published_checkpoint()?;
    let size = checkpoint.size;
    let mut accesses = Vec::new();
    let mut next = None;
    if let Some(no) = hub.number_of(uscc)? {
        let begin = after.and_then(|mark| u64::try_from(mark).ok());
        let later = |index: &u64| begin.is_none_or(|mark| *index > mark) && *index < size;
        for index in log.entries_touching(no.0)?.into_iter().filter(later) {
            let Some(access) = access_at(log, index, no)? else {
                continue;
            };
            if accesses.len() == limit {
                let last = accesses
                    .last()
                    .and_then(|last: &Value| last["index"].as_i64());
                next = last;
                break;
            }
            let mut entry = json!(access);
            let (leaf, proof) = proof_of(log, index, size)?;
            entry["leaf"] = json!(leaf);
            entry["proof"] = json!(proof);
            accesses.push(entry);
        }
    }
    let document = json!({
        "accesses": accesses,
        "size": size,
        "checkpoint": checkpoint.note,
        "verifier_key": log.vkey(),
    });
    Ok((document, next))
}
