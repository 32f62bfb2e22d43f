//! The ledger: who may ask for what, who agreed and who granted, on SQLite.
//!
//! Promises:
//! - What an operation returned is durable; an operation that failed changed nothing.
//! - Everything that happens is an event; events are append-only, numbered without gaps, timed without going back and
//!   hash-chained ([`Ledger::check`] verifies the chain and recomputes the state of every consent from it).
//! - What takes away (pause, withdrawal, revocation, narrowing …) is in force when the operation commits; what gives
//!   (an agreement, a consent that became active, a resumption, a purpose, a contract version) only once its event is
//!   in the audit log ([`Drainer`]).
//! - After something that takes away returned, no reader that holds the [release lock](Losses::release_lock) has a
//!   decision whose [epoch](Losses::epoch) is still current.
//!
//! Limits: one process owns a ledger (its directory is locked by the hub); inside it [`Ledger`] is cheap to clone and
//! every clone shares one writer. Writers of several handles on one file are serialised by SQLite, but epochs are of
//! the handle.

mod agreements;
mod artefacts;
mod change;
mod check;
mod consents;
mod decide;
mod draw;
mod epochs;
mod fold;
mod grants;
mod holdings;
mod kept;
mod kept_scopes;
mod list;
mod losses;
mod marks;
mod numbers;
mod outbox;
mod parties;
mod preview;
mod statistics;
mod subscriptions;
mod transitions;
mod uses;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use qihui_audit::Clock;
use qihui_catalog::{DatasetId, OrgId, PurposeCode, Timestamp};
use sqlx::{SqliteConnection, SqlitePool, sqlite::SqlitePoolOptions};

pub use agreements::StoredAgreement;
pub use artefacts::RecordedArtefact;
pub use check::Checked;
pub use consents::{Consent, ConsentOperation, Signature};
pub use decide::{Decision, DecisionError};
pub use epochs::Taken;
pub use holdings::DELETE_WITHIN_DAYS;
pub use kept::{
    ByConsent, Deletion, DuePart, HeldDataset, Holding, HoldingDocument, HoldingFilter,
    HoldingState, OwnPart, Released,
};
pub use list::{ConsentFilter, Event};
pub use losses::Losses;
pub use outbox::{Drainer, OutboxItem, Sink, SinkError};
pub use parties::{Organisation, OrganisationKind, Signatory};
pub use preview::{DatasetPreview, Hypothesis, Preview, PreviewColumn};
pub use statistics::{Edition, EditionKey, Statistic};
pub use subscriptions::{ConsentStanding, Delivery, Subscription};
pub use uses::{MeteredUse, UsesLeft};

use crate::{
    error::{LedgerError, Result},
    store::{self, events},
    text,
};
use grants::GrantCache;
use numbers::Numbers;
pub(crate) use numbers::store_error as numbers_error;

/// How many connections read at the same time.
const READERS: u32 = 4;
/// How long an operation waits for those before it.
const WRITER_TIMEOUT: Duration = Duration::from_secs(120);
/// How far the clock may lag behind the last event before it counts as set back; less is evened out.
pub const CLOCK_TOLERANCE_MS: i64 = qihui_audit::CLOCK_TOLERANCE_MS;

/// The consent ledger. Clones share one store.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
    actor: Option<Arc<str>>,
}

/// An organisation, a purpose and a dataset: what an epoch is about.
pub(crate) type EpochKey = (OrgId, PurposeCode, DatasetId);

/// Whose the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// This process's.
    Owned,
    /// Another process's: it is only read.
    Followed,
}

pub(crate) struct Inner {
    hub: String,
    clock: Arc<dyn Clock>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// A pool of one: the writer.
    writer: SqlitePool,
    readers: SqlitePool,
    losses: Arc<Losses>,
    /// Held from the look at what figures were released until the record of the next.
    statistics: Arc<tokio::sync::Mutex<()>>,
    grants: Mutex<HashMap<i64, GrantCache>>,
    numbers: Numbers,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("hub", &self.inner.hub)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger in this file, creating it where there is none.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut connection = store::open(path).await?;
        let fresh = format!("hub-{}", text::random_hex::<8>()?);
        let hub = events::hub(&mut connection, &fresh).await?;
        Self::over(path, connection, hub, clock, Mode::Owned).await
    }

    /// Follows the ledger in this file, which another process owns: everything can be read and nothing changed.
    ///
    /// Epochs are of the owner's handle. Who follows sees what was taken away by [deciding
    /// again](Ledger::decide_again).
    pub async fn follow(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut connection = store::follow(path).await?;
        let hub = events::known_hub(&mut connection).await?;
        Self::over(path, connection, hub, clock, Mode::Followed).await
    }

    async fn over(
        path: &Path,
        mut connection: SqliteConnection,
        hub: String,
        clock: Arc<dyn Clock>,
        mode: Mode,
    ) -> Result<Self> {
        let position = events::last(&mut connection)
            .await?
            .map_or(0, |(position, _, _)| position);
        sqlx::Connection::close(connection).await?;
        // Neither pool lets go of an idle connection: opening one anew would only cost.
        let pool = || {
            SqlitePoolOptions::new()
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let writer = pool()
            .max_connections(1)
            .acquire_timeout(WRITER_TIMEOUT)
            .connect_lazy_with(store::options(path).read_only(mode == Mode::Followed));
        let readers = pool()
            .max_connections(READERS)
            .min_connections(0)
            .connect_lazy_with(store::options(path).read_only(true));
        let inner = Inner {
            hub,
            clock,
            turn: Arc::default(),
            writer,
            readers,
            losses: Arc::new(Losses::starting_at(position)),
            statistics: Arc::default(),
            grants: Mutex::default(),
            numbers: Numbers::open(path, mode)?,
        };
        Ok(Self {
            inner: Arc::new(inner),
            actor: None,
        })
    }

    /// The same ledger for what `actor` does, `local:root` for example: every event names it.
    #[must_use]
    pub fn acting_as(&self, actor: &str) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            actor: Some(actor.into()),
        }
    }

    /// The name of the hub, which every signed text names; drawn when the ledger was created.
    #[must_use]
    pub fn hub(&self) -> &str {
        &self.inner.hub
    }

    /// The position of the last event; 0 before the first.
    pub async fn position(&self) -> Result<u64> {
        let mut reader = self.inner.reader().await?;
        Ok(events::last(&mut reader)
            .await?
            .map_or(0, |(position, _, _)| position))
    }

    /// The hash of the event at a position: it stands for the whole history up to there. None: there is no such event.
    pub async fn hash_at(&self, position: u64) -> Result<Option<[u8; 32]>> {
        let mut reader = self.inner.reader().await?;
        events::hash_at(&mut reader, position).await
    }

    /// What was taken away, from memory; for those who look before they release, nothing else of the ledger is within reach.
    #[must_use]
    pub fn losses(&self) -> Arc<Losses> {
        Arc::clone(&self.inner.losses)
    }

    /// Closes the files. Without it they are closed when the last clone is gone.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }
}

impl Inner {
    async fn reader(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>> {
        Ok(self.readers.acquire().await?)
    }

    /// The present instant, which never lies before the last event.
    async fn now(&self, connection: &mut SqliteConnection) -> Result<Timestamp> {
        let last = events::last(connection).await?.map(|(_, time, _)| time);
        not_before(Timestamp(self.clock.now_ms()), last)
    }
}

/// `now`, or the time of the last event where the clock lags behind that a little; an error where it lags more.
fn not_before(now: Timestamp, last: Option<Timestamp>) -> Result<Timestamp> {
    match last {
        Some(last) if now.0.saturating_add(CLOCK_TOLERANCE_MS) < last.0 => {
            Err(LedgerError::ClockBack {
                now: now.to_string(),
                last: last.to_string(),
            })
        }
        Some(last) => Ok(now.max(last)),
        None => Ok(now),
    }
}
