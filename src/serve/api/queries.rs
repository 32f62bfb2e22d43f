//! SQL over the gate.
//!
//! Rows stream in the form that `Accept` asks for. The status is decided by then: an error before the first byte is a
//! problem, one after it breaks the answer off. What the answer came to follows in trailers where the client takes them
//! (`TE: trailers`), and is always to be had as the manifest of the access.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use qihui_catalog::{Action, Coded, OrgId, PurposeCode, Uscc};
use qihui_query::QueryError;
use qihui_query::access::{AccessRequest, Gate, RefusedRequest, Summary, new_access_id};
use qihui_query::formats::Format;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::{Answered, Shared, body_of, read};
use crate::cli::Doing;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::identity::{IdentityError, command};
use crate::serve::answer::{BodyOutlet, answer, begun};
use crate::serve::authorise::Caller;
use crate::serve::problem::Problem;
use crate::serve::wire::Wire;
use crate::serve::{ServeError, Service, measure};

/// Header with the name of the access.
const ACCESS_ID: HeaderName = HeaderName::from_static("qihui-access-id");
/// Trailer with the number of rows.
const ROWS: HeaderName = HeaderName::from_static("qihui-rows");
/// Trailer with what the answer came to: one JSON document.
const SUMMARY: HeaderName = HeaderName::from_static("qihui-summary");
/// The largest trailer; what is larger is only in the manifest.
const MAX_TRAILER: usize = 16 << 10;

/// A question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// What for: one of the purposes in the token.
    #[schema(value_type = String, example = "policy.matching")]
    purpose: PurposeCode,
    /// The organisation in the token; may be left out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    org: Option<OrgId>,
    /// Unified social credit codes of the enterprises asked about; none: all that may be seen.
    #[serde(default)]
    subjects: Vec<String>,
    /// What the answer is for: `view` (one named enterprise, on a screen), `query` (the default: an analysis, nothing is
    /// kept) or `store` (to be kept, as a recorded holding).
    #[serde(default = "query_it")]
    #[schema(value_type = Option<String>, example = "query")]
    action: Doing,
    /// One SELECT statement, or EXPLAIN and one.
    sql: String,
    /// Slower, and equal down to the byte for equal visible rows.
    #[serde(default)]
    strict: bool,
}

fn query_it() -> Doing {
    Doing::Query
}

/// Ask SQL over what the organisation may see for the purpose.
#[utoipa::path(post, path = "/v1/queries", operation_id = "query", tag = "queries", request_body = Question,
    responses((status = 200, description = "The rows. `Qihui-Access-Id` names the access; `Qihui-Rows` and `Qihui-Summary` follow as trailers.",
        content((String = "application/x-ndjson"), (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"))),
        (status = 400, description = "The request cannot be read; recorded as refused.", body = serde_json::Value,
            content_type = "application/problem+json"),
        (status = 403, description = "Refused, and recorded as refused.", body = serde_json::Value,
            content_type = "application/problem+json"),
        (status = 422, description = "The statement cannot be answered.", body = serde_json::Value,
            content_type = "application/problem+json")))]
pub(crate) async fn query(
    State(service): Shared,
    Extension(wire): Extension<Arc<Wire>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let mut known = caller.unread();
    let admitted = admitted(&service, &caller, &headers, body, &mut known).await;
    let Admitted {
        request,
        kind,
        room,
    } = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(caller.refused(known, refusal).await),
    };
    let gate = caller.hub.gate()?;
    let access_id = new_access_id()?;
    let (outlet, body, started) = answer(&wire, service.stop.clone());
    let run = Run {
        service,
        hub: caller.hub.clone(),
        gate,
        request,
        access_id: access_id.clone(),
        trailers: takes_trailers(&headers),
    };
    // In a task of its own: when the client goes away, the access still gets its end.
    let trailers = run.trailers;
    let running = tokio::spawn(async move {
        let _room = room;
        Box::pin(run.until_its_end(outlet)).await
    });
    begun(started, running).await?;
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&access_id) {
        headers.insert(ACCESS_ID, id);
    }
    if trailers {
        let names = HeaderValue::from_static("qihui-rows, qihui-summary");
        headers.insert(header::TRAILER, names);
    }
    Ok(response)
}

/// A question that goes to the gate.
struct Admitted {
    request: AccessRequest,
    /// The media type of the answer.
    kind: &'static str,
    /// Its place among the queries that run.
    room: OwnedSemaphorePermit,
}

/// Reads a question and finds it a place. What was read of one that is refused is in `known`.
async fn admitted(
    service: &Service,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    known: &mut RefusedRequest,
) -> Result<Admitted, Problem> {
    let (format, kind) = wanted(headers)?;
    let question: Question = read(&body_of(service, headers, body).await?)?;
    known.purpose = Some(question.purpose.clone());
    known.action = Some(question.action.into());
    let request = asked(caller, question, format, known)?;
    let room = Arc::clone(&service.queries).try_acquire_owned();
    let room = room.map_err(|_| ServeError::TooBusy)?;
    Ok(Admitted {
        request,
        kind,
        room,
    })
}

/// The form of the answer, and its media type.
fn wanted(headers: &HeaderMap) -> Result<(Format, &'static str), ServeError> {
    const FORMS: [(Format, &str); 3] = [
        (Format::Ndjson, "application/x-ndjson"),
        (Format::Csv, "text/csv"),
        (Format::Arrow, "application/vnd.apache.arrow.stream"),
    ];
    let accepted = headers.get_all(header::ACCEPT).iter();
    let accepted: Vec<&str> = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.split(';').next().unwrap_or_default().trim())
        .collect();
    let any = accepted.is_empty() || accepted.contains(&"*/*");
    let named = accepted.iter().find_map(|wanted| {
        let mut forms = FORMS.into_iter();
        forms.find(|(_, kind)| kind.eq_ignore_ascii_case(wanted))
    });
    named
        .or(any.then_some(FORMS[0]))
        .ok_or(ServeError::NotAcceptable)
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case("trailers"))
}

/// What is asked of the gate: organisation and purpose only as the token has them.
fn asked(
    caller: &Caller,
    question: Question,
    format: Format,
    known: &mut RefusedRequest,
) -> Result<AccessRequest, Failure> {
    let subjects = question.subjects.iter();
    let subjects = subjects.map(|code| Uscc::normalise(code));
    // Whoever can be read hears of the refusal, whatever stands beside it.
    known.subjects = subjects.clone().filter_map(Result::ok).collect();
    let subjects: Result<Vec<Uscc>, _> = subjects.collect();
    let operation = caller.operation;
    let own = caller.principal.org.clone();
    let org = question.org.or(own);
    let org = org.ok_or(IdentityError::OutOfReach { operation })?;
    command::query(&caller.principal, &org, &question.purpose)?;
    Ok(AccessRequest {
        principal: caller.principal.name.clone(),
        org,
        purpose: question.purpose,
        action: question.action.into(),
        subjects: subjects?,
        sql: question.sql,
        format,
        strict: question.strict || caller.hub.config().query.strict,
    })
}

/// A query on its way.
struct Run {
    service: Arc<Service>,
    hub: Hub,
    gate: Arc<Gate>,
    request: AccessRequest,
    access_id: String,
    trailers: bool,
}

impl Run {
    async fn until_its_end(self, mut outlet: BodyOutlet) -> Result<(), QueryError> {
        let asked = self
            .gate
            .query_as(&self.access_id, &self.request, &mut outlet);
        let answered = asked.await;
        if self.request.action == Action::Store
            && let Err(failure) = self.hub.acknowledge().await
        {
            // It is in the ledger, and handed to the log with whatever comes next.
            tracing::warn!(code = failure.code(), "a holding is not yet in the log");
        }
        match answered {
            Ok(summary) => {
                measure::queried("complete", summary.rows);
                let trailers = self.trailers.then(|| trailers(&summary));
                self.service.remember(summary);
                outlet.end(trailers);
                Ok(())
            }
            Err(error) => {
                measure::queried(error.code(), 0);
                Err(error)
            }
        }
    }
}

fn trailers(summary: &Summary) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(ROWS, summary.rows.into());
    let text = serde_json::to_string(summary).unwrap_or_default();
    // Names of columns that a query gives itself need not be ASCII; the manifest has them all.
    let fits = text.len() <= MAX_TRAILER && text.is_ascii();
    if let Some(value) = HeaderValue::from_str(&text).ok().filter(|_| fits) {
        trailers.insert(SUMMARY, value);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> Result<(Format, &'static str), ServeError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        wanted(&headers)
    }

    #[test]
    fn the_form_is_the_first_that_is_asked_for_and_known() {
        assert_eq!(wanted(&HeaderMap::new()).unwrap().0, Format::Ndjson);
        assert_eq!(accept("*/*").unwrap().0, Format::Ndjson);
        assert_eq!(
            accept("text/html, text/csv;q=0.5, */*").unwrap().0,
            Format::Csv
        );
        let arrow = "application/vnd.apache.arrow.stream";
        assert_eq!(accept(arrow).unwrap(), (Format::Arrow, arrow));
        assert_eq!(accept("text/html"), Err(ServeError::NotAcceptable));
    }
}
