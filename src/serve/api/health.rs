//! Whether the service lives, is ready, and how it does.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::json;

use super::{Answered, Shared, document_of};
use crate::failure::ProgramError;
use crate::serve::ServeError;
use crate::serve::problem::Problem;

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "health", security(()),
    responses((status = 200, description = "It lives.", body = serde_json::Value)))]
pub(crate) async fn livez() -> Response {
    document_of(&json!({ "alive": true }))
}

/// Whether requests can be done: the catalogue is whole, the ledger answers and the log takes entries.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "health", security(()),
    responses((status = 200, description = "It is ready.", body = serde_json::Value),
        (status = 503, description = "It is not: `code` says why.", body = serde_json::Value,
            content_type = "application/problem+json")))]
pub(crate) async fn readyz(State(service): Shared) -> Answered {
    if *service.draining.borrow() {
        return Err(ServeError::Stopping.into());
    }
    let hub = service.hub.acting_as(service.hub.principal());
    hub.catalog()?;
    hub.ledger().position().await?;
    if let Some(reason) = hub.log().failure() {
        return Err(Problem::from(qihui_audit::LogError::Closed { why: reason }));
    }
    Ok(document_of(&json!({ "ready": true })))
}

/// Figures about the service, as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "health",
    responses((status = 200, description = "The figures.", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(service): Shared) -> Response {
    service.figures.run_upkeep();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(header::CONTENT_TYPE, kind)], service.figures.render()).into_response()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "health", security(()),
    responses((status = 200, description = "The description of the API.", body = serde_json::Value)))]
pub(crate) async fn openapi(State(service): Shared) -> Answered {
    if service.openapi.is_empty() {
        return Err(ProgramError::OutputFailed("the description is missing".to_owned()).into());
    }
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind)], service.openapi.clone()).into_response())
}
