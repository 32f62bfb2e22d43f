//! Requests that are refused before the gate is asked, on their way into the log.
//!
//! Promise: whoever is known hears a refusal only once its entry is durable, over the API as on the command line.
//!
//! Bounded: at most [`AT_ONCE`] are recorded at the same time, the others wait in line, each for as long as its caller is
//! there. So somebody who floods is as slow as the log, whose groups get a few small entries more, and pays more for an
//! entry than with a query that is answered, which leaves two. One who goes away while it waits in line was refused nothing.

use std::sync::Arc;

use qihui_query::QueryError;
use qihui_query::access::RefusedRequest;
use tokio::sync::Semaphore;

use super::Hub;
use crate::failure::Failure;

/// Refusals that are recorded at the same time.
const AT_ONCE: u32 = 16;

/// The places of refusals that are being recorded.
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE as usize)))
    }
}

/// What only a defect could bring about.
const DEFECT: QueryError = QueryError::Internal {
    what: "the record of a refusal",
};

impl Hub {
    /// Records that a request was refused; gives what its caller is to hear: the refusal, or why it could not be recorded.
    pub async fn refused(&self, asked: RefusedRequest, refusal: Failure) -> Failure {
        let code = refusal.code();
        match self.record_refusal(asked, code).await {
            Ok(()) => refusal,
            Err(failure) => {
                let code = failure.code();
                tracing::warn!(code, "a refused request is not in the log");
                failure
            }
        }
    }

    async fn record_refusal(
        &self,
        asked: RefusedRequest,
        code: &'static str,
    ) -> Result<(), Failure> {
        let room = Arc::clone(&self.shared.refusals.0);
        let room = room.acquire_owned().await.map_err(|_| DEFECT)?;
        let gate = self.gate()?;
        // In a task of its own: the entry is the log's from the first moment on, and its place must not be given to another
        // before it is durable, though the caller may be gone by then.
        let recorded = tokio::spawn(async move {
            let _room = room;
            gate.refused(&asked, code).await
        });
        Ok(recorded.await.map_err(|_| DEFECT)??)
    }

    /// Waits until no refusal is on its way into the log; whether that can be said.
    pub(crate) async fn refusals_are_recorded(&self) -> bool {
        self.shared.refusals.0.acquire_many(AT_ONCE).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;
    use qihui_audit::{Clock, SystemClock};

    use super::*;
    use crate::testing::hub_with_bank;

    fn denied(hub: &Hub) -> usize {
        let entries = hub.log().scan(0..hub.log().size());
        let kinds = entries.map(|entry| entry.unwrap().leaf.kind);
        kinds.filter(|kind| kind == "access.denied").count()
    }

    /// Nothing but this thread works for the hub, so what was not waited for has not been done.
    #[test]
    fn aud_3_a_refusal_keeps_its_place_until_its_entry_is_durable() {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let opening = hub_with_bank(dir.path(), &clock);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = Box::pin(Hub::open(&opening)).await.unwrap();
            let places = || hub.shared.refusals.0.available_permits();
            let all = AT_ONCE as usize;
            let refused = || hub.refused(RefusedRequest::default(), DEFECT.into());
            let before = denied(&hub);
            assert_eq!(places(), all);
            {
                let mut goes_away = pin!(refused());
                assert!(poll!(&mut goes_away).is_pending());
            }
            // Whoever it was is gone; its place is not free before its entry is there.
            assert_eq!((places(), denied(&hub)), (all - 1, before));
            assert!(hub.refusals_are_recorded().await);
            assert_eq!((places(), denied(&hub)), (all, before + 1));

            let taken = Arc::clone(&hub.shared.refusals.0);
            let taken = taken.acquire_many_owned(AT_ONCE).await.unwrap();
            {
                let mut in_line = pin!(refused());
                assert!(poll!(&mut in_line).is_pending());
                tokio::task::yield_now().await;
                assert!(poll!(&mut in_line).is_pending());
            }
            drop(taken);
            assert!(hub.refusals_are_recorded().await);
            assert_eq!(denied(&hub), before + 1, "who went away in line");
            assert_eq!(refused().await.code(), "InternalError");
            assert_eq!(denied(&hub), before + 2);
        });
    }
}
