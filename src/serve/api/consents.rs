//! The second key: what enterprises grant, and take back.
//!
//! Whoever signs does so outside, with a key that the hub never sees: `…/texts` gives the exact text for an operation now
//! (canonical JSON that names hub, operation and nonce), `…/operations` takes the signature over it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, StatusCode};
use qihui_catalog::{ConsentId, OrgId, Uscc};
use qihui_consent::document::{ConsentRequest, NarrowRequest};
use qihui_consent::ledger::{ConsentFilter, ConsentOperation};
use qihui_consent::signing::{Operation as Act, SIGNATURE_BYTES, SignedOperation};
use qihui_query::access::RefusedRequest;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::{IntoParams, ToSchema};

use super::{
    Answered, Shared, body_of, document_of, identifier, made, once, read, report_of, text_of,
};
use crate::commands::{consent, preview};
use crate::identity::command::on_consent;
use crate::identity::{About, IdentityError};
use crate::serve::authorise::Caller;
use crate::serve::idempotency::Answer;
use crate::serve::problem::Problem;
use crate::serve::{ServeError, Service};

/// The most consents of a page.
const PAGE: u32 = 1000;
const LIST: &str = "consents";

/// Which consents to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those of an enterprise.
    uscc: Option<String>,
    /// Only those to an organisation.
    org: Option<String>,
    /// The page after another: its `next`.
    page: Option<String>,
    /// At most so many, up to 1000.
    limit: Option<u32>,
}

/// What to sign.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    /// `give`, `reject`, `pause`, `resume`, `withdraw` or `narrow`.
    #[schema(value_type = String, example = "give")]
    operation: Act,
    /// For `narrow`, what remains: any of scope, actions, expires, max_uses, data_life_days.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    narrowed: Option<NarrowRequest>,
}

/// A signed operation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signed {
    /// `give`, `reject`, `pause`, `resume`, `withdraw` or `narrow`.
    #[schema(value_type = String, example = "give")]
    operation: Act,
    /// The name of the signatory.
    signatory: String,
    /// The Ed25519 signature over the text, in base64 or hexadecimal.
    signature: String,
    /// For `narrow`, what remains, as in the text.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    narrowed: Option<NarrowRequest>,
}

fn id_of(text: &str) -> Result<ConsentId, ServeError> {
    identifier(text, "consent_id")
}

async fn reached(caller: &Caller, text: &str) -> Result<ConsentId, Problem> {
    let id = id_of(text)?;
    on_consent(&caller.principal, &caller.hub, (caller.operation, &id)).await?;
    Ok(id)
}

/// List consents, oldest first.
#[utoipa::path(get, path = "/v1/consents", operation_id = "consent_list", tag = "consents", params(Which),
    responses((status = 200, description = "A page of them, and the token of the next in `next`.", body = Value)))]
pub(crate) async fn list(
    State(service): Shared,
    caller: Caller,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Answered {
    let Query(which) = which.map_err(|_| ServeError::BadRequest("its query string".to_owned()))?;
    let uscc = which.uscc.as_deref().map(Uscc::normalise).transpose()?;
    let org: Option<OrgId> = which
        .org
        .as_deref()
        .map(|org| identifier(org, "org"))
        .transpose()?;
    let (uscc, org) = narrowest(&caller, uscc, org)?;
    let list = format!("{LIST} {uscc:?} {org:?}");
    let after = which.page.as_deref();
    let after = after.map(|page| service.pages.take(&caller.principal.name, &list, page));
    let number = match uscc {
        Some(uscc) => match caller.hub.number_of(uscc)? {
            // The hub has never heard of it.
            None => return Ok(document_of(&json!({ "consents": [], "next": null }))),
            known => known,
        },
        None => None,
    };
    let filter = ConsentFilter {
        enterprise: number,
        org,
        after: after.transpose()?,
        limit: Some(which.limit.unwrap_or(PAGE).clamp(1, PAGE)),
    };
    let (consents, next) = caller.hub.ledger().consents(&filter).await?;
    let next = next.map(|mark| service.pages.give(&caller.principal.name, &list, mark));
    let consents: Vec<Value> = consents.iter().map(consent::entry).collect();
    Ok(document_of(&json!({ "consents": consents, "next": next })))
}

/// What is listed for somebody: what they ask for, if they reach it; without a wish, what they reach if that is one.
pub(super) fn narrowest(
    caller: &Caller,
    uscc: Option<Uscc>,
    org: Option<OrgId>,
) -> Result<(Option<Uscc>, Option<OrgId>), Problem> {
    let about = About {
        uscc,
        org: org.as_ref(),
        ..About::default()
    };
    if caller.may_on(&about).is_ok() {
        return Ok((uscc, org));
    }
    let operation = caller.operation;
    if uscc.is_some() || org.is_some() {
        return Err(IdentityError::OutOfReach { operation }.into());
    }
    let own = caller.principal.org.clone();
    let about = About {
        org: own.as_ref(),
        ..About::default()
    };
    if own.is_some() && caller.may_on(&about).is_ok() {
        return Ok((None, own));
    }
    let mut enterprises = caller.principal.usccs.iter().copied();
    match (enterprises.next(), enterprises.next()) {
        (Some(only), None) => Ok((Some(only), None)),
        _ => Err(ServeError::BadRequest("say which `uscc` of your token".to_owned()).into()),
    }
}

/// Ask an enterprise for a consent: the document that `qihui consent request` takes, in JSON or YAML.
#[utoipa::path(post, path = "/v1/consents", operation_id = "consent_request", tag = "consents",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body(content = Value, description = "principal, consumer, purpose, notice, scope, actions, expires …"),
    responses((status = 201, description = "It is asked for; nothing is open by it.", body = Value)))]
pub(crate) async fn request(
    State(service): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let body = body_of(&service, &headers, body).await?;
    let wish = ConsentRequest::parse(text_of(&body)?)?;
    let about = About {
        org: Some(wish.org()),
        ..About::default()
    };
    caller.may_on(&about)?;
    let hub = caller.hub.clone();
    once(&service, &caller, (&headers, &[&body]), async move {
        Ok(made(&consent::ask(&hub, wish).await?))
    })
    .await
}

/// Show a consent with everything that happened to it.
#[utoipa::path(get, path = "/v1/consents/{consent_id}", operation_id = "consent_show", tag = "consents",
    params(("consent_id" = String, Path, description = "The consent.")),
    responses((status = 200, description = "The consent.", body = Value)))]
pub(crate) async fn show(caller: Caller, Path(id): Path<String>) -> Answered {
    let id = reached(&caller, &id).await?;
    Ok(report_of(consent::show(&caller.hub, &id).await?))
}

/// The consent that a preview is asked of, and a place for it. What was read of one that is refused is in `known`.
async fn admitted(
    service: &Service,
    caller: &Caller,
    id: Result<Path<String>, PathRejection>,
    known: &mut RefusedRequest,
) -> Result<(ConsentId, OwnedSemaphorePermit), Problem> {
    let Path(id) = id.map_err(|_| ServeError::BadRequest("its path".to_owned()))?;
    let id = id_of(&id)?;
    *known = preview::asked(&caller.hub, Some(&caller.principal), &id).await?;
    on_consent(&caller.principal, &caller.hub, (caller.operation, &id)).await?;
    let room = Arc::clone(&service.queries).try_acquire_owned();
    Ok((id, room.map_err(|_| ServeError::TooBusy)?))
}

/// Show the exact columns and cells that a consent would open. Looking is an access and recorded as one.
#[utoipa::path(get, path = "/v1/consents/{consent_id}/preview", operation_id = "consent_preview", tag = "consents",
    params(("consent_id" = String, Path, description = "The consent.")),
    responses((status = 200, description = "What it would open.", body = Value)))]
pub(crate) async fn preview(
    State(service): Shared,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Answered {
    let mut known = caller.unread();
    let (id, room) = match admitted(&service, &caller, id, &mut known).await {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(caller.refused(known, refusal).await),
    };
    let hub = caller.hub.clone();
    let looked = tokio::spawn(async move {
        let _room = room;
        Box::pin(preview::look(&hub, &id)).await
    });
    Ok(report_of(looked.await.map_err(|_| ServeError::Panicked)??))
}

/// Get the text that a signatory has to sign for an operation now. It changes with every change of state.
#[utoipa::path(post, path = "/v1/consents/{consent_id}/texts", operation_id = "consent_text", tag = "consents",
    params(("consent_id" = String, Path, description = "The consent.")), request_body = Wish,
    responses((status = 200, description = "`text` is to be signed, byte for byte.", body = Value)))]
pub(crate) async fn text(
    State(service): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let id = reached(&caller, &id).await?;
    let body = body_of(&service, &headers, body).await?;
    let Wish {
        operation,
        narrowed,
    } = read(&body)?;
    let hub = &caller.hub;
    let text = hub
        .ledger()
        .signing_text(hub.catalog()?, &id, operation, narrowed.as_ref())
        .await?;
    Ok(document_of(&json!({
        "consent_id": id,
        "operation": text.operation,
        "nonce": text.nonce,
        "text": text.text,
        "document": text.document,
    })))
}

/// Give, refuse, pause, resume, narrow or withdraw a consent, with the signature of a signatory.
#[utoipa::path(post, path = "/v1/consents/{consent_id}/operations", operation_id = "consent_operate", tag = "consents",
    params(("consent_id" = String, Path, description = "The consent."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body = Signed,
    responses((status = 200, description = "How the consent stands now; in `holdings` who has to delete what because of it.", body = Value),
        (status = 403, description = "The signature is not one of the signatory over the text that is due.", body = Value,
            content_type = "application/problem+json"),
        (status = 409, description = "Its state does not allow it.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn operate(
    State(service): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let id = reached(&caller, &id).await?;
    let body = body_of(&service, &headers, body).await?;
    let Signed {
        operation,
        signatory,
        signature,
        narrowed,
    } = read(&body)?;
    let signed = ConsentOperation::Signed(SignedOperation {
        consent_id: id.clone(),
        operation,
        signatory,
        signature: signature_of(&signature)?,
        narrowed,
    });
    let hub = caller.hub.clone();
    let asked: [&[u8]; 2] = [id.as_str().as_bytes(), &body];
    once(&service, &caller, (&headers, &asked), async move {
        if matches!(operation, Act::Give | Act::Resume) {
            hub.require_recorded(|artefact| artefact.kind != "feed")
                .await?;
        }
        let standing = consent::taken(&hub.operate(signed).await?).json;
        Ok(Answer::new(StatusCode::OK, &standing))
    })
    .await
}

fn signature_of(text: &str) -> Result<Vec<u8>, ServeError> {
    let read = hex::decode(text)
        .ok()
        .or_else(|| BASE64_STANDARD.decode(text).ok());
    read.filter(|bytes| bytes.len() == SIGNATURE_BYTES)
        .ok_or_else(|| {
            ServeError::BadRequest(format!(
                "`signature` is not {SIGNATURE_BYTES} bytes in base64 or hexadecimal"
            ))
        })
}
