//! Failures as answers: RFC 9457 problem documents.
//!
//! `code` is the stable code of the error, `type` the path of its page, which the service itself gives (`/errors/CODE`).
//! [`status_of`] is the one place where codes become statuses. Nothing but the failure's own line is told.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use qihui_catalog::{Coded, Kind};
use serde_json::{Value, json};

use crate::failure::Failure;

/// What goes wrong with a request itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The request cannot be read.
    #[error("the request is wrong: {0}")]
    BadRequest(String),
    /// The document in the request is too large.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// No form of the answer is wanted.
    #[error(
        "no form of the answer is acceptable: ask for application/x-ndjson, text/csv or application/vnd.apache.arrow.stream"
    )]
    NotAcceptable,
    /// The request took too long.
    #[error("the request was not done within {seconds} s")]
    RequestTimedOut {
        /// The limit.
        seconds: u64,
    },
    /// Too much is asked at once.
    #[error("too many queries are running: try again in a moment")]
    TooBusy,
    /// The service is about to end.
    #[error("the service is stopping: try again when it runs")]
    Stopping,
    /// There is nothing at this address.
    #[error("there is nothing at this address: see /openapi.json")]
    NoSuchRoute,
    /// There is something at this address, but not for this method.
    #[error("this address does not take this method: see /openapi.json")]
    MethodNotAllowed,
    /// A page token is not one of this list and this principal.
    #[error(
        "the page token is not one that was given for this list to this principal: begin without one"
    )]
    BadPageToken,
    /// An idempotency key cannot be used.
    #[error("an Idempotency-Key is 1 to 128 printable characters without spaces")]
    BadIdempotencyKey,
    /// An idempotency key was used for something else.
    #[error("this Idempotency-Key was used for another request: draw a new one")]
    IdempotencyConflict,
    /// The request with this key is still being done.
    #[error("the request with this Idempotency-Key is still being done: try again in a moment")]
    RequestInProgress,
    /// The service ended while it did the request with this key.
    #[error(
        "the service was stopped while it did the request with this Idempotency-Key: look whether it took effect, and use a new key if not"
    )]
    OutcomeUnknown,
    /// The answers to repeated requests cannot be kept.
    #[error("the answers to requests cannot be kept: {reason}")]
    AnswersUnavailable {
        /// Why not.
        reason: String,
    },
    /// There is no such access among those that can be looked up.
    #[error("there is no such access among the newest of the log")]
    UnknownAccess,
    /// There is no such run.
    #[error("there is no run {run} of feed `{feed}`")]
    UnknownRun {
        /// The feed.
        feed: String,
        /// The run.
        run: i64,
    },
    /// The log has no such tile.
    #[error("the log has no such tile: the checkpoint says how far it reaches")]
    UnknownTile,
    /// A file on its way into a feed cannot be kept.
    #[error("the file cannot be taken in: {reason}")]
    UploadFailed {
        /// Why not.
        reason: String,
    },
    /// Something broke that should not.
    #[error("the service failed at this request; nothing was released")]
    Panicked,
}

impl Coded for ServeError {
    fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "BadRequest",
            Self::BodyTooLarge { .. } => "BodyTooLarge",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestTimedOut { .. } => "RequestTimedOut",
            Self::TooBusy => "TooBusy",
            Self::Stopping => "Stopping",
            Self::NoSuchRoute => "NoSuchRoute",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::BadPageToken => "BadPageToken",
            Self::BadIdempotencyKey => "BadIdempotencyKey",
            Self::IdempotencyConflict => "IdempotencyConflict",
            Self::RequestInProgress => "RequestInProgress",
            Self::OutcomeUnknown => "OutcomeUnknown",
            Self::AnswersUnavailable { .. } => "AnswersUnavailable",
            Self::UnknownAccess => "UnknownAccess",
            Self::UnknownRun { .. } => "UnknownRun",
            Self::UnknownTile => "UnknownTile",
            Self::UploadFailed { .. } => "UploadFailed",
            Self::Panicked => "InternalError",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::BadRequest(_)
            | Self::NotAcceptable
            | Self::BadPageToken
            | Self::BadIdempotencyKey => Kind::Usage,
            _ => Kind::Failed,
        }
    }
}

/// The status of an answer that says this went wrong.
fn status_of(code: &str, kind: Kind) -> StatusCode {
    match code {
        "TokenMissing" | "TokenInvalid" | "TokenExpired" => StatusCode::UNAUTHORIZED,
        "BodyTooLarge" => StatusCode::PAYLOAD_TOO_LARGE,
        "NotAcceptable" => StatusCode::NOT_ACCEPTABLE,
        "RequestTimedOut" => StatusCode::REQUEST_TIMEOUT,
        "MethodNotAllowed" => StatusCode::METHOD_NOT_ALLOWED,
        "TooBusy"
        | "QueueFull"
        | "WaitedTooLong"
        | "Stopping"
        | "AnswersUnavailable"
        | "IssuerKeysUnavailable"
        | "ClockBack"
        | "LeaseUnavailable"
        | "LedgerBehind"
        | "NumbersUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "NoSpace" | "LogNoSpace" | "LedgerNoSpace" => StatusCode::INSUFFICIENT_STORAGE,
        "TimedOut" => StatusCode::GATEWAY_TIMEOUT,
        "IdempotencyConflict" | "TooManyRows" | "TooManyBytes" | "OutOfMemory" | "OutOfSpill" => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        "SpillFailed" => StatusCode::INTERNAL_SERVER_ERROR,
        "RequestInProgress"
        | "OutcomeUnknown"
        | "ConsentStateRefuses"
        | "ConsentChanged"
        | "AlreadySigned"
        | "ConflictingForm"
        | "CannotSupersede"
        | "HoldingDeleted"
        | "NothingToDelete"
        | "CursorOutdated"
        | "CursorRequired"
        | "OtherDelivery" => StatusCode::CONFLICT,
        "SignatureMismatch" => StatusCode::FORBIDDEN,
        "InternalError" | "UploadFailed" | "OutputFailed" | "PlanRefused" | "PlanNotSendable"
        | "ProgressUnusable" => StatusCode::INTERNAL_SERVER_ERROR,
        _ if code.starts_with("Log") || code == "LedgerUnavailable" => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ if code.starts_with("Ledger") || code.starts_with("Warehouse") => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        // A column or table that is not in the agreement is an error of the statement, not of the address.
        "UnknownColumn" | "ColumnNotInAgreement" | "DatasetNotInAgreement" => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        "NoSuchRoute" => StatusCode::NOT_FOUND,
        _ if code.starts_with("Unknown") => StatusCode::NOT_FOUND,
        _ if code.ends_with("Exists") => StatusCode::CONFLICT,
        _ => match kind {
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Usage => StatusCode::BAD_REQUEST,
            Kind::Failed => StatusCode::UNPROCESSABLE_ENTITY,
        },
    }
}

/// A failure on its way out.
#[derive(Debug)]
pub(crate) struct Problem(pub Failure);

impl<E: Into<Failure>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl Problem {
    pub(crate) fn status(&self) -> StatusCode {
        status_of(self.0.code(), self.0.kind())
    }

    pub(crate) fn document(&self) -> Value {
        let status = self.status();
        let code = self.0.code();
        json!({
            "type": format!("/errors/{code}"),
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.0.message(),
            "code": code,
        })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Bytes::from(self.document().to_string())).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, how);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_status_of_what_they_are() {
        for (code, kind, status) in [
            ("TokenExpired", Kind::Denied, 401),
            ("OperationNotAllowed", Kind::Denied, 403),
            ("ConsentExpired", Kind::Denied, 403),
            ("UnknownConsent", Kind::Failed, 404),
            ("OrganisationExists", Kind::Failed, 409),
            ("CursorForeign", Kind::Denied, 403),
            ("CursorInvalid", Kind::Usage, 400),
            ("CursorRequired", Kind::Usage, 409),
            ("BadSql", Kind::Failed, 422),
            ("DatasetNotInAgreement", Kind::Failed, 422),
            ("LogUnavailable", Kind::Denied, 503),
            ("LedgerCorrupt", Kind::Failed, 500),
            ("BadRequest", Kind::Usage, 400),
        ] {
            assert_eq!(status_of(code, kind).as_u16(), status, "{code}");
        }
    }

    #[test]
    fn a_problem_says_its_code_and_where_its_page_is() {
        let document = Problem::from(ServeError::TooBusy).document();
        assert_eq!(document["type"], "/errors/TooBusy");
        assert_eq!(
            (&document["code"], &document["status"]),
            (&json!("TooBusy"), &json!(503))
        );
    }
}
