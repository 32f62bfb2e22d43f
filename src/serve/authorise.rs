//! Who may do what, before any handler runs.
//!
//! The table of operations comes from the OpenAPI document: the `operationId` of a route is the word of its
//! [`Operation`]. A route whose id is no operation is open only if it is one of [`OPEN`]; anything else that matches
//! nothing answers nobody.
//!
//! Whoever has no valid token is refused without an entry in the log: anybody could fill it. So is whoever comes while the
//! service stops, before it is looked who it is. Of all others it is recorded that they were refused what shows rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, header, request::Parts};
use qihui_catalog::Action;
use qihui_query::access::RefusedRequest;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::Operation as Described;

use super::problem::Problem;
use super::{ServeError, Service, measure};
use crate::hub::Hub;
use crate::identity::{About, IdentityError, Operation, Principal};

/// The ids of routes that need no token.
pub const OPEN: [&str; 3] = ["livez", "readyz", "openapi"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Open(&'static str),
    For(Operation),
}

/// What each route does.
#[derive(Debug)]
pub(crate) struct Operations(HashMap<(Method, String), Access>);

impl Operations {
    pub(crate) fn of(document: &OpenApi) -> Self {
        let mut operations = HashMap::new();
        for (path, item) in &document.paths.paths {
            let described = [
                (Method::GET, &item.get),
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            for (method, described) in described {
                if let Some(access) = described.as_ref().and_then(access) {
                    operations.insert((method, path.clone()), access);
                }
            }
        }
        Self(operations)
    }

    fn find(&self, method: &Method, path: &str) -> Option<Access> {
        // The path of the document names a wildcard as any other parameter.
        let key = (method.clone(), path.replace("{*", "{"));
        self.0.get(&key).copied()
    }

    /// What is wrong with a request for nothing that is described.
    fn missing(&self, path: &str) -> ServeError {
        let path = path.replace("{*", "{");
        if self.0.keys().any(|(_, known)| *known == path) {
            ServeError::MethodNotAllowed
        } else {
            ServeError::NoSuchRoute
        }
    }
}

fn access(described: &Described) -> Option<Access> {
    let id = described.operation_id.as_deref()?;
    if let Some(open) = OPEN.into_iter().find(|open| *open == id) {
        return Some(Access::Open(open));
    }
    id.parse().ok().map(Access::For)
}

/// Who asks, and for what.
#[derive(Clone)]
pub(crate) struct Caller {
    pub principal: Principal,
    pub operation: Operation,
    /// The hub, for what they do.
    pub hub: Hub,
}

impl Caller {
    /// Refuses what is out of their reach.
    pub(crate) fn may_on(&self, about: &About<'_>) -> Result<(), IdentityError> {
        self.principal.may_on(self.operation, about)
    }

    /// What is known of a request for rows before it is read.
    pub(crate) fn unread(&self) -> RefusedRequest {
        RefusedRequest {
            principal: self.principal.name.clone(),
            org: self.principal.org.clone(),
            action: (self.operation == Operation::SubscriptionPull).then_some(Action::Stream),
            ..RefusedRequest::default()
        }
    }

    /// Records that a request for rows was refused; gives what the caller is to hear: the refusal, or why it could not be
    /// recorded.
    pub(crate) async fn refused(
        &self,
        asked: RefusedRequest,
        refusal: impl Into<Problem>,
    ) -> Problem {
        Problem(self.hub.refused(asked, refusal.into().0).await)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| IdentityError::Missing.into())
    }
}

/// The token that a request bears.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, IdentityError> {
    let value = headers
        .get(header::AUTHORIZATION)
        .ok_or(IdentityError::Missing)?;
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or(IdentityError::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(IdentityError::Missing);
    }
    Ok(token.trim())
}

/// Lets a request through to its handler, or does not.
pub(crate) async fn guard(
    State(service): State<Arc<Service>>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let path = matched
        .map(|path| path.as_str().to_owned())
        .unwrap_or_default();
    let access = service.operations.find(request.method(), &path);
    let (name, response) = match access {
        None => (
            "none",
            Problem::from(service.operations.missing(&path)).into_response(),
        ),
        Some(Access::Open(name)) => (name, in_time(&service, next.run(request)).await),
        Some(Access::For(operation)) => {
            let response = match admit(&service, request.headers(), operation).await {
                Err(problem) => problem.into_response(),
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    match operation {
                        // These have limits of their own.
                        Operation::Query | Operation::FeedRun | Operation::SubscriptionPull => {
                            next.run(request).await
                        }
                        _ => in_time(&service, next.run(request)).await,
                    }
                }
            };
            (operation.as_str(), response)
        }
    };
    measure::answered(name, response.status().as_u16(), begun.elapsed());
    response
}

async fn admit(
    service: &Service,
    headers: &HeaderMap,
    operation: Operation,
) -> Result<Caller, Problem> {
    if *service.draining.borrow() {
        return Err(ServeError::Stopping.into());
    }
    let principal = service.verifier.principal(bearer(headers)?).await?;
    let hub = service.hub.acting_as(&principal.name);
    let caller = Caller {
        principal,
        operation,
        hub,
    };
    match caller.principal.may(operation) {
        Ok(()) => Ok(caller),
        Err(refusal) if operation.shows_rows() => {
            Err(caller.refused(caller.unread(), refusal).await)
        }
        Err(refusal) => Err(refusal.into()),
    }
}

async fn in_time(service: &Service, work: impl Future<Output = Response>) -> Response {
    let seconds = service.limits.request_seconds;
    match tokio::time::timeout(Duration::from_secs(seconds), work).await {
        Ok(response) => response,
        Err(_) => Problem::from(ServeError::RequestTimedOut { seconds }).into_response(),
    }
}
