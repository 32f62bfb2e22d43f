//! A change of the ledger: one transaction that appends events and updates what is computed from them.

use std::sync::Arc;

use qihui_catalog::{DatasetId, EnterpriseNo, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::SqliteConnection;
use tokio::sync::OwnedMutexGuard;

use super::{EpochKey, Inner, epochs::Loss, not_before};
use crate::{
    error::{LedgerError, Result},
    store::events::{self, EventRow},
    text,
};

/// The hash before the first event.
pub(crate) const GENESIS: [u8; 32] = [0; 32];

/// The one connection that writes, and whether a change was left unfinished on it.
pub(crate) struct Writer {
    connection: SqliteConnection,
    unfinished: bool,
}

impl Writer {
    pub(crate) fn new(connection: SqliteConnection) -> Self {
        Self { connection, unfinished: false }
    }
}

/// A transaction. Dropped before [`Change::commit`] it leaves no trace.
pub(crate) struct Change {
    inner: Arc<Inner>,
    writer: OwnedMutexGuard<Writer>,
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
    let (position, time, kind, subjects, body) =
        (event.position, event.time.0, &event.kind, &event.subjects, &event.body);
    let fields = format!("{position}\n{time}\n{kind}\n{subjects}\n{body}");
    text::sha256(&[event.prev.as_slice(), fields.as_bytes()].concat())
}

impl Change {
    pub(crate) async fn begin(inner: &Arc<Inner>) -> Result<Self> {
        let mut writer = Arc::clone(&inner.writer).lock_owned().await;
        if writer.unfinished {
            // Whoever began it was dropped half-way. The rollback fails when nothing was begun, which is as well.
            let _ = sqlx::query("ROLLBACK").execute(&mut writer.connection).await;
        }
        writer.unfinished = true;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut writer.connection).await?;
        let last = events::last(&mut writer.connection).await?;
        let now = not_before(Timestamp(inner.clock.now_ms()), last.map(|(_, time, _)| time))?;
        let (position, prev) = last.map_or((0, GENESIS), |(position, _, hash)| (position, hash));
        let revision = events::next_revision(&mut writer.connection).await?;
        let (losses, sweeping) = (Vec::new(), Vec::new());
        Ok(Self { inner: Arc::clone(inner), writer, now, revision, position, prev, losses, sweeping })
    }

    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.writer.connection
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
        let body = with_position(body, position)?;
        let mut event = EventRow {
            position,
            time: self.now,
            kind: kind.to_owned(),
            body: text::canonical(&body)?,
            subjects: text::canonical(&subjects)?,
            consent: consent.map(|(id, version)| (id.to_owned(), version)),
            prev: self.prev,
            hash: GENESIS,
        };
        event.hash = hash_of(&event);
        events::insert(self.connection(), &event).await?;
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
    pub(crate) async fn commit(mut self) -> Result<()> {
        let finish = async move {
            sqlx::query("COMMIT").execute(&mut self.writer.connection).await?;
            self.writer.unfinished = false;
            if !self.losses.is_empty() || !self.sweeping.is_empty() {
                let _nothing_is_being_released = self.inner.release.write().await;
                let mut epochs = self.inner.epochs.write();
                for dataset in &self.sweeping {
                    epochs.bump_all(self.position, dataset.as_ref());
                }
                for (key, loss) in std::mem::take(&mut self.losses) {
                    epochs.bump(self.position, key, loss);
                }
            }
            Ok(())
        };
        tokio::spawn(finish).await.unwrap_or_else(|_| {
            Err(LedgerError::Store { doing: "written", reason: "the commit was interrupted".to_owned(), source: None })
        })
    }
}

/// The body of an event with its position in it.
fn with_position(body: &impl Serialize, position: u64) -> Result<Map<String, Value>> {
    match serde_json::to_value(body) {
        Ok(Value::Object(mut body)) => {
            body.insert("ledger_position".to_owned(), position.into());
            Ok(body)
        }
        _ => Err(LedgerError::Malformed { what: "event", reason: "its body must be an object".to_owned() }),
    }
}
