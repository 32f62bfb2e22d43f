//! A change of the ledger: one transaction that appends events and updates what is computed from them.

use std::sync::Arc;

use qihui_catalog::{DatasetId, EnterpriseNo, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::{Sqlite, SqliteConnection, Transaction};
use tokio::sync::OwnedMutexGuard;

use super::{EpochKey, Inner, Ledger, epochs::Loss, not_before};
use crate::{
    error::{LedgerError, Result},
    store::events::{self, EventRow},
    text,
};

/// The hash before the first event.
pub(crate) const GENESIS: [u8; 32] = [0; 32];

/// A transaction. Dropped before [`Change::commit`] it leaves no trace and no lock: the rollback is under way when the
/// drop returns.
pub(crate) struct Change {
    inner: Arc<Inner>,
    actor: Option<Arc<str>>,
    /// Held until the epochs are raised: they rise in the order of positions, or who saw the later one would never
    /// hear of the earlier.
    turn: OwnedMutexGuard<()>,
    transaction: Transaction<'static, Sqlite>,
    pub(crate) now: Timestamp,
    pub(crate) revision: u64,
    position: u64,
    prev: [u8; 32],
    losses: Vec<(EpochKey, Loss)>,
    /// Datasets of which everything may be lost; none: all.
    sweeping: Vec<Option<DatasetId>>,
}

/// The hash of an event: SHA-256 over the hash before it and the fields, one a line. Only the body, the last, could
/// hold a line break, and canonical JSON has none.
pub(crate) fn hash_of(event: &EventRow) -> [u8; 32] {
    let (position, time, kind, subjects, body) = (
        event.position,
        event.time.0,
        &event.kind,
        &event.subjects,
        &event.body,
    );
    let fields = format!("{position}\n{time}\n{kind}\n{subjects}\n{body}");
    text::sha256(&[event.prev.as_slice(), fields.as_bytes()].concat())
}

impl Change {
    async fn begin(ledger: &Ledger) -> Result<Self> {
        let inner = &ledger.inner;
        let turn = Arc::clone(&inner.turn).lock_owned().await;
        let mut transaction = inner.writer.begin_with("BEGIN IMMEDIATE").await?;
        let last = events::last(&mut transaction).await?;
        let now = not_before(
            Timestamp(inner.clock.now_ms()),
            last.map(|(_, time, _)| time),
        )?;
        let (position, prev) = last.map_or((0, GENESIS), |(position, _, hash)| (position, hash));
        let revision = events::next_revision(&mut transaction).await?;
        let (losses, sweeping) = (Vec::new(), Vec::new());
        Ok(Self {
            inner: Arc::clone(inner),
            actor: ledger.actor.clone(),
            turn,
            transaction,
            now,
            revision,
            position,
            prev,
            losses,
            sweeping,
        })
    }

    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }

    /// The position that the next event will have.
    pub(crate) const fn next_position(&self) -> u64 {
        self.position + 1
    }

    /// Appends an event and returns its position. `body` must be an object.
    pub(crate) async fn append(
        &mut self,
        kind: &str,
        body: &impl Serialize,
        subjects: &[EnterpriseNo],
        consent: Option<(&str, u32)>,
    ) -> Result<u64> {
        let position = self.next_position();
        let body = text::canonical(&completed(body, position, self.actor.as_deref())?)?;
        if body.len() > qihui_audit::MAX_BODY_BYTES {
            // The log would never take it, and nothing after it either.
            let reason = format!(
                "it is larger than the {} bytes the log takes",
                qihui_audit::MAX_BODY_BYTES
            );
            return Err(LedgerError::Malformed {
                what: "event",
                reason,
            });
        }
        let mut event = EventRow {
            position,
            time: self.now,
            kind: kind.to_owned(),
            body,
            subjects: text::canonical(&subjects)?,
            consent: consent.map(|(id, version)| (id.to_owned(), version)),
            prev: self.prev,
            hash: GENESIS,
        };
        event.hash = hash_of(&event);
        events::insert(self.connection(), &event).await?;
        tracing::debug!(position, kind, "event");
        (self.position, self.prev) = (position, event.hash);
        Ok(position)
    }

    /// Notes that this change takes something away.
    pub(crate) fn takes(&mut self, key: EpochKey, loss: Loss) {
        self.losses.push((key, loss));
    }

    /// Notes that this change takes something away from everybody, of one dataset or of all.
    pub(crate) fn takes_from_all(&mut self, dataset: Option<DatasetId>) {
        self.sweeping.push(dataset);
    }

    /// Makes the change durable. What it takes away is in force for every decision and release when this returns.
    ///
    /// Runs to its end even when the caller stops waiting: a withdrawal that was committed must not stay unnoticed by
    /// running queries.
    pub(crate) async fn commit(self) -> Result<()> {
        let Self {
            inner,
            turn,
            transaction,
            position,
            losses,
            sweeping,
            ..
        } = self;
        let finish = async move {
            transaction.commit().await?;
            if !losses.is_empty() || !sweeping.is_empty() {
                inner.losses.take(position, &sweeping, losses).await;
            }
            drop(turn);
            Ok(())
        };
        tokio::spawn(finish).await.unwrap_or_else(|_| {
            Err(LedgerError::Store {
                doing: "written",
                reason: "the commit was interrupted".to_owned(),
                source: None,
            })
        })
    }
}

/// The body of an event with its position and who made it happen.
fn completed(
    body: &impl Serialize,
    position: u64,
    actor: Option<&str>,
) -> Result<Map<String, Value>> {
    match serde_json::to_value(body) {
        Ok(Value::Object(mut body)) => {
            body.insert("ledger_position".to_owned(), position.into());
            if let Some(actor) = actor {
                body.insert("actor".to_owned(), actor.into());
            }
            Ok(body)
        }
        _ => Err(LedgerError::Malformed {
            what: "event",
            reason: "its body must be an object".to_owned(),
        }),
    }
}

impl Ledger {
    /// Begins a change.
    pub(crate) async fn change(&self) -> Result<Change> {
        Change::begin(self).await
    }
}
