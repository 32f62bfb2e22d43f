//! Questions that are refused before the gate is asked, on their way into the log.
//!
//! Promise: a caller who is known hears a refusal only once its entry is durable. Whoever has no valid token is refused
//! without an entry: anybody could fill the log. So is whoever comes while the service stops, before it is looked who it is.
//!
//! Bounded: at most [`AT_ONCE`] are recorded at the same time, the others wait in line, each on a connection of its own. So
//! somebody who floods is as slow as the log, whose groups get a few small entries more, and pays more for an entry
//! than with a query that is answered, which leaves two. One who goes away while it waits in line was refused nothing.

use std::sync::Arc;

use qihui_catalog::Coded as _;
use qihui_query::access::RefusedRequest;

use super::authorise::Caller;
use super::problem::Problem;
use super::{ServeError, Service};

/// Refusals that are recorded at the same time.
pub(super) const AT_ONCE: u32 = 16;

/// What is known of a question of a caller before it is read.
pub(crate) fn unread(caller: &Caller) -> RefusedRequest {
    RefusedRequest {
        principal: caller.principal.name.clone(),
        org: caller.principal.org.clone(),
        ..RefusedRequest::default()
    }
}

/// Records that a question was refused; gives what the caller is to hear: the refusal, or why it could not be recorded.
pub(crate) async fn record(
    service: &Arc<Service>,
    caller: &Caller,
    asked: RefusedRequest,
    refusal: impl Into<Problem>,
) -> Problem {
    let refusal = refusal.into();
    let Ok(room) = Arc::clone(&service.refusals).acquire_owned().await else {
        return ServeError::Stopping.into();
    };
    let gate = match caller.hub.gate() {
        Ok(gate) => gate,
        Err(failure) => return failure.into(),
    };
    let code = refusal.0.code();
    // In a task of its own: when the client goes away, the entry is made all the same.
    let recorded = tokio::spawn(async move {
        let _room = room;
        gate.refused(&asked, code).await
    });
    match recorded.await {
        Ok(Ok(_)) => refusal,
        Ok(Err(error)) => {
            tracing::warn!(code = error.code(), "a refused question is not in the log");
            error.into()
        }
        Err(_) => ServeError::Panicked.into(),
    }
}
