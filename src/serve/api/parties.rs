//! The first key: organisations, agreements, and who may sign for an enterprise.

use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use qihui_catalog::{OrgId, PurposeCode, Uscc};
use qihui_consent::agreement::AgreementFile;
use qihui_consent::ledger::{Organisation, OrganisationKind};
use qihui_consent::signing::PublicKey;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Answered, Shared, body_of, document_of, made, once, read, text_of};
use crate::commands::{agreement, org, signatory};
use crate::identity::About;
use crate::serve::authorise::Caller;

/// An organisation to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewOrganisation {
    /// Its identifier.
    #[schema(value_type = String, example = "city_bank")]
    id: OrgId,
    /// Its name.
    name: String,
    /// `department`, `bank` or `service`.
    #[schema(value_type = String, example = "bank")]
    kind: OrganisationKind,
    /// Purposes it may ask for without an agreement, to read public data.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    purposes: Vec<PurposeCode>,
}

/// Who may sign for an enterprise.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSignatory {
    /// The unified social credit code of the enterprise.
    uscc: String,
    /// The name that is signed as.
    name: String,
    /// The public key: Ed25519 in PEM, hexadecimal or base64.
    public_key: String,
}

/// List organisations.
#[utoipa::path(get, path = "/v1/organisations", operation_id = "organisation_list", tag = "parties",
    responses((status = 200, description = "Those within reach.", body = Value)))]
pub(crate) async fn organisations(caller: Caller) -> Answered {
    let all = org::list(&caller.hub).await?.json;
    let organisations: Vec<&Value> = all["orgs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| {
            let id = one["id"].as_str().and_then(|id| id.parse::<OrgId>().ok());
            let about = About {
                org: id.as_ref(),
                ..About::default()
            };
            caller.may_on(&about).is_ok()
        })
        .collect();
    Ok(document_of(&json!({ "organisations": organisations })))
}

/// Register an organisation.
#[utoipa::path(post, path = "/v1/organisations", operation_id = "organisation_add", tag = "parties",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body = NewOrganisation,
    responses((status = 201, description = "It is registered.", body = Value),
        (status = 409, description = "There is one of this name.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn add_organisation(
    State(service): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let body = body_of(&service, &headers, body).await?;
    let NewOrganisation {
        id,
        name,
        kind,
        purposes,
    } = read(&body)?;
    let hub = caller.hub.clone();
    once(&service, &caller, (&headers, &[&body]), async move {
        let organisation = Organisation { id, name, kind };
        Ok(made(&org::add(&hub, organisation, &purposes).await?))
    })
    .await
}

/// List agreements of the data authority with organisations.
#[utoipa::path(get, path = "/v1/agreements", operation_id = "agreement_list", tag = "parties",
    responses((status = 200, description = "Those within reach.", body = Value)))]
pub(crate) async fn agreements(caller: Caller) -> Answered {
    let all = caller.hub.ledger().agreements().await?;
    let within = all.iter().filter(|stored| {
        let about = About {
            org: Some(&stored.agreement.org),
            ..About::default()
        };
        caller.may_on(&about).is_ok()
    });
    let agreements: Vec<Value> = within.map(agreement::entry).collect();
    Ok(document_of(&json!({ "agreements": agreements })))
}

/// Add an agreement: the document that `qihui agreement add` takes, in JSON or YAML.
#[utoipa::path(post, path = "/v1/agreements", operation_id = "agreement_add", tag = "parties",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body(content = Value, description = "The agreement: id, org, dataset, purposes, basis, columns with their forms, valid_until."),
    responses((status = 201, description = "It is in force.", body = Value)))]
pub(crate) async fn add_agreement(
    State(service): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let body = body_of(&service, &headers, body).await?;
    let document = AgreementFile::parse(text_of(&body)?)?;
    let hub = caller.hub.clone();
    once(&service, &caller, (&headers, &[&body]), async move {
        Ok(made(&agreement::agree(&hub, document).await?))
    })
    .await
}

/// Register who may sign for an enterprise.
#[utoipa::path(post, path = "/v1/signatories", operation_id = "signatory_add", tag = "parties",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body = NewSignatory,
    responses((status = 201, description = "The signatory may sign.", body = Value)))]
pub(crate) async fn add_signatory(
    State(service): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let body = body_of(&service, &headers, body).await?;
    let NewSignatory {
        uscc,
        name,
        public_key,
    } = read(&body)?;
    let uscc = Uscc::normalise(&uscc)?;
    let key = PublicKey::parse(public_key.as_bytes())?;
    let hub = caller.hub.clone();
    once(&service, &caller, (&headers, &[&body]), async move {
        Ok(made(&signatory::register(&hub, uscc, &name, key).await?))
    })
    .await
}
