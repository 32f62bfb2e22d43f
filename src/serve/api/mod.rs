//! The routes of the API, and the document that describes them.
//!
//! A route is a function with a `utoipa::path` description whose `operation_id` is the word of its
//! [`crate::identity::Operation`]; that is what it is authorised by. The document is OpenAPI 3.1, kept in
//! `docs/openapi/openapi.json` and compared by a test.

mod accesses;
mod catalog;
mod consents;
mod feeds;
mod health;
mod holdings;
mod log;
mod parties;
mod queries;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::authorise::{Caller, guard};
use super::idempotency::{Answer, Repeatable};
use super::problem::Problem;
use super::{ServeError, Service};
use crate::report::Report;

/// What handlers of the API get.
pub(crate) type Shared = axum::extract::State<Arc<Service>>;
/// What they give.
pub(crate) type Answered = Result<Response, Problem>;

/// The description of the API: what `/openapi.json` answers.
#[must_use]
pub fn document() -> String {
    text(&routes().1)
}

pub(crate) fn text(document: &OpenApi) -> String {
    document
        .to_pretty_json()
        .map(|text| text + "\n")
        .unwrap_or_default()
}

/// The routes, and their description.
pub(crate) fn routes() -> (Router<Arc<Service>>, OpenApi) {
    let mut empty = utoipa::openapi::OpenApiBuilder::new()
        .info(
            utoipa::openapi::InfoBuilder::new()
                .title("qihui")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Enterprise data, within what each enterprise has authorised.",
                ))
                .license(Some(utoipa::openapi::License::new("Apache-2.0")))
                .build(),
        )
        .security(Some([SecurityRequirement::new(
            "bearer",
            std::iter::empty::<String>(),
        )]))
        .build();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = utoipa::openapi::ComponentsBuilder::new()
        .security_scheme("bearer", bearer)
        .build();
    empty.components = Some(components);
    let (router, mut document) = OpenApiRouter::with_openapi(empty)
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::openapi))
        .routes(routes!(catalog::list))
        .routes(routes!(catalog::show))
        .routes(routes!(catalog::purposes))
        .routes(routes!(parties::organisations, parties::add_organisation))
        .routes(routes!(parties::agreements, parties::add_agreement))
        .routes(routes!(parties::add_signatory))
        .routes(routes!(consents::list, consents::request))
        .routes(routes!(consents::show))
        .routes(routes!(consents::preview))
        .routes(routes!(consents::text))
        .routes(routes!(consents::operate))
        .routes(routes!(queries::query))
        .routes(routes!(holdings::list))
        .routes(routes!(holdings::show))
        .routes(routes!(holdings::delete))
        .routes(routes!(topics::list))
        .routes(routes!(topics::show))
        .routes(routes!(topics::subscriptions, topics::subscribe))
        .routes(routes!(topics::subscription, topics::end))
        .routes(routes!(topics::page))
        .routes(routes!(accesses::show))
        .routes(routes!(accesses::of_enterprise))
        .routes(routes!(log::checkpoint))
        .routes(routes!(log::proof))
        .routes(routes!(feeds::list))
        .routes(routes!(feeds::runs, feeds::deliver))
        .routes(routes!(feeds::run))
        .routes(routes!(feeds::quarantine))
        .split_for_parts();
    let router = log::with_tiles(router, &mut document);
    (router, document)
}

/// The routes with what stands before them.
pub(crate) fn guarded(routes: Router<Arc<Service>>, service: &Arc<Service>) -> Router {
    let guard = axum::middleware::from_fn_with_state(Arc::clone(service), guard);
    routes
        .method_not_allowed_fallback(async || Problem::from(ServeError::MethodNotAllowed))
        .route_layer(guard)
        .merge(super::errors::router())
        .fallback(async || Problem::from(ServeError::NoSuchRoute))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(Arc::clone(service))
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    // What it said may quote anything.
    tracing::error!("a request made the service panic");
    Problem::from(ServeError::Panicked).into_response()
}

/// A JSON document as an answer.
pub(crate) fn document_of(value: &Value) -> Response {
    json_text(value.to_string())
}

/// What a command has to say to programs, as an answer.
pub(crate) fn report_of(report: Report) -> Response {
    match report.document {
        Some(text) => json_text(text),
        None => document_of(&report.json),
    }
}

fn json_text(text: String) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], Bytes::from(text)).into_response()
}

/// The body of a request, as far as it may be large.
pub(crate) async fn body_of(
    service: &Service,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, Problem> {
    let limit = service.limits.body_bytes;
    let too_large = || ServeError::BodyTooLarge {
        limit: limit as u64,
    };
    if declared(headers).is_some_and(|length| length > limit as u64) {
        pass_over(body);
        return Err(too_large().into());
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large().into()),
        Err(_) => Err(ServeError::BadRequest("its body broke off".to_owned()).into()),
    }
}

/// How much of a body that was refused is taken from the line, and for how long.
const PASSED_OVER: (usize, Duration) = (64 << 20, Duration::from_secs(2));

/// Takes a refused body from the line while its sender is answered. Many clients read an answer only when they have sent
/// all; closed before that, the line would break under them and take the answer with it.
pub(crate) fn pass_over(mut body: Body) {
    let (most, time) = PASSED_OVER;
    tokio::spawn(tokio::time::timeout(time, async move {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > most {
                break;
            }
        }
    }));
}

/// The length that a request says its body has.
pub(crate) fn declared(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// A body as text.
pub(crate) fn text_of(body: &Bytes) -> Result<&str, ServeError> {
    std::str::from_utf8(body).map_err(|_| ServeError::BadRequest("it is not UTF-8 text".to_owned()))
}

/// A body as a JSON document. What is wrong with it is said without its values.
pub(crate) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ServeError> {
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing, unknown or of another type",
            _ => "it is not JSON",
        };
        let (line, column) = (error.line(), error.column());
        ServeError::BadRequest(format!("{what}, at line {line} column {column}"))
    })
}

/// Does a mutating call, once per Idempotency-Key, to its end even when the client does not wait for it.
pub(crate) async fn once(
    service: &Arc<Service>,
    caller: &Caller,
    (headers, asked): (&HeaderMap, &[&[u8]]),
    work: impl Future<Output = Result<Answer, Problem>> + Send + 'static,
) -> Answered {
    let who = (caller.principal.name.as_str(), caller.operation.as_str());
    let request = Repeatable::of(headers, who, asked)?;
    let room = Arc::clone(&service.tasks).acquire_owned().await;
    let room = room.map_err(|_| ServeError::Stopping)?;
    let service = Arc::clone(service);
    let done = tokio::spawn(async move {
        let _room = room;
        service.answers.once(request, work).await
    });
    let answer = done.await.map_err(|_| ServeError::Panicked)??;
    let kind = HeaderValue::from_static(answer.kind());
    let kind = [(header::CONTENT_TYPE, kind)];
    Ok((answer.status, kind, answer.body).into_response())
}

/// The answer to a call that made something.
pub(crate) fn made(report: &Report) -> Answer {
    Answer::new(StatusCode::CREATED, &report.json)
}

/// An identifier in a path or a query.
pub(crate) fn identifier<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, ServeError> {
    text.parse()
        .map_err(|_| ServeError::BadRequest(format!("`{what}` is not one")))
}
