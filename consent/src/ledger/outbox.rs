//! The outbox: every event goes into the audit log, in order, once.
//!
//! Promise: the [`Drainer`] hands events over in the order of their positions and marks each when the log has it; what
//! waited for the log is in force from then on. After a crash between the two the event may be in the log without a
//! mark: [`Drainer::resume`] is told what the log holds after the last mark, so that nothing is handed over twice.
//! Every body holds `ledger_position`. Limits: one drainer at a time.

use std::sync::Arc;

use async_trait::async_trait;
use qihui_catalog::EnterpriseNo;

use super::Ledger;
use crate::{
    error::{LedgerError, Result},
    store::{
        events::{self, EventRow},
        grants,
    },
};

/// How many events are handed over at once.
const BATCH: u32 = 256;

/// An event on its way into the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxItem {
    /// The position of the event.
    pub position: u64,
    /// Its kind: the type of the leaf.
    pub kind: String,
    /// Its body: canonical JSON with `ledger_position`.
    pub body: Vec<u8>,
    /// The enterprises concerned.
    pub subjects: Vec<EnterpriseNo>,
}

/// Why a sink took nothing, in its own words.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// What takes events in: the audit log.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Takes the events, in order, durably and all or none; the index of each entry.
    async fn append(&self, items: &[OutboxItem]) -> Result<Vec<u64>, SinkError>;
}

impl Ledger {
    /// At most `limit` events that are not yet marked as logged, in order.
    pub async fn pending(&self, limit: u32) -> Result<Vec<OutboxItem>> {
        let mut reader = self.inner.reader().await?;
        let logged = events::last_logged(&mut reader)
            .await?
            .map_or(0, |(position, _)| position);
        let rows = events::after(&mut reader, logged, limit).await?;
        rows.into_iter()
            .map(|row: EventRow| {
                let subjects = row.subjects()?;
                Ok(OutboxItem {
                    position: row.position,
                    kind: row.kind,
                    body: row.body.into_bytes(),
                    subjects,
                })
            })
            .collect()
    }

    /// The last event that is marked as logged, and its entry in the log.
    pub async fn last_logged(&self) -> Result<Option<(u64, u64)>> {
        let mut reader = self.inner.reader().await?;
        events::last_logged(&mut reader).await
    }

    /// Marks events as logged: pairs of position and log index, without gaps after the last mark. What they give is in
    /// force when this returns.
    pub async fn mark_logged(&self, marks: &[(u64, u64)]) -> Result<()> {
        let Some((last, _)) = marks.last().copied() else {
            return Ok(());
        };
        let mut change = self.change().await?;
        let mut next = events::last_logged(change.connection())
            .await?
            .map_or(1, |(position, _)| position + 1);
        let present = events::last(change.connection())
            .await?
            .map_or(0, |(position, _, _)| position);
        if last > present {
            let reason =
                "the log holds events that it does not: it is an older copy of itself".to_owned();
            return Err(LedgerError::Corrupt(reason));
        }
        for (position, log_index) in marks {
            if *position != next {
                return Err(LedgerError::OutOfOrder {
                    got: *position,
                    next,
                });
            }
            events::insert_logged(change.connection(), *position, *log_index).await?;
            next += 1;
        }
        let revision = change.revision;
        grants::switch_on(change.connection(), last, revision).await?;
        change.commit().await
    }
}

/// Takes events out of the ledger into a sink.
#[derive(Clone)]
pub struct Drainer {
    ledger: Ledger,
    sink: Arc<dyn Sink>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Drainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drainer")
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

impl Drainer {
    /// A drainer from this ledger into this sink.
    #[must_use]
    pub fn new(ledger: Ledger, sink: Arc<dyn Sink>) -> Self {
        Self {
            ledger,
            sink,
            turn: Arc::default(),
        }
    }

    /// Marks what the log already holds. `found` are the pairs (ledger position, log index) of the entries in the log
    /// after the one that [`Ledger::last_logged`] names, in order; pairs up to the last mark are skipped.
    pub async fn resume(&self, found: impl IntoIterator<Item = (u64, u64)>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let marked = self
            .ledger
            .last_logged()
            .await?
            .map_or(0, |(position, _)| position);
        let found: Vec<_> = found
            .into_iter()
            .filter(|(position, _)| *position > marked)
            .collect();
        self.ledger.mark_logged(&found).await
    }

    /// Hands over every pending event; how many. When the sink refuses, what it took before stays taken.
    pub async fn drain(&self) -> Result<u64> {
        let _turn = self.turn.lock().await;
        let mut drained = 0;
        loop {
            let items = self.ledger.pending(BATCH).await?;
            if items.is_empty() {
                return Ok(drained);
            }
            let indices = self
                .sink
                .append(&items)
                .await
                .map_err(|error| LedgerError::Log {
                    reason: error.to_string(),
                })?;
            if indices.len() != items.len() {
                return Err(LedgerError::Log {
                    reason: "it did not say where every event is".to_owned(),
                });
            }
            let marks: Vec<_> = items
                .iter()
                .map(|item| item.position)
                .zip(indices)
                .collect();
            self.ledger.mark_logged(&marks).await?;
            drained += marks.len() as u64;
        }
    }
}
