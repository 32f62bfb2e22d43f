//! The release point: the last look before bytes leave.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qihui_audit::Clock;
use qihui_catalog::{DatasetId, OrgId, PurposeCode, Timestamp};
use qihui_consent::ledger::{Losses, Taken};
use ring::digest::{Context, SHA256};
use roaring::RoaringBitmap;

use super::outlet::{Outlet, ReleasePermit};
use crate::account::Account;
use crate::dense::DenseScope;
use crate::error::QueryError;
use crate::exec::Permit;
use crate::mutations::{Mutation, mutated};
use crate::sync::{AtomicU64, Mutex, ReleaseLock};

/// The epochs that a decision rests on.
pub struct Epochs {
    losses: Arc<Losses>,
    org: OrgId,
    purpose: PurposeCode,
    /// When enterprises may be dropped of which nothing passed.
    dropping: Option<Dropping>,
    deadline: Option<Deadline>,
    /// [`Losses::last`] as of which all is well.
    seen: AtomicU64,
    decided: Mutex<BTreeMap<DatasetId, u64>>,
}

/// What tells whether a query may go on without somebody.
struct Dropping {
    /// What passed so far.
    account: Arc<Account>,
    /// Who granted anything that is open.
    scopes: BTreeMap<DatasetId, Arc<DenseScope>>,
}

/// Until when a decision may be used.
struct Deadline {
    clock: Arc<dyn Clock>,
    until: Timestamp,
    seconds: u64,
}

impl Epochs {
    /// The epochs of a decision that falls with the first loss.
    pub fn new(
        losses: Arc<Losses>,
        org: OrgId,
        purpose: PurposeCode,
        decided: BTreeMap<DatasetId, u64>,
    ) -> Self {
        Self {
            losses,
            org,
            purpose,
            dropping: None,
            deadline: None,
            // Not looked at yet; no event has this position.
            seen: AtomicU64::new(u64::MAX),
            decided: Mutex::new(decided),
        }
    }

    /// The same for a query, which drops enterprises that lost something before any of their rows had passed, and goes
    /// on without them. Losses of those that opened nothing in `scopes` are none of it.
    pub fn dropping(
        self,
        account: Arc<Account>,
        scopes: BTreeMap<DatasetId, Arc<DenseScope>>,
    ) -> Self {
        Self {
            dropping: Some(Dropping { account, scopes }),
            ..self
        }
    }

    /// The same for a decision that holds until an instant, `seconds` after it was made. What ends by itself ends
    /// later, or was left out, so that nothing may leave after that.
    pub fn until(self, clock: Arc<dyn Clock>, until: Timestamp, seconds: u64) -> Self {
        Self {
            deadline: Some(Deadline {
                clock,
                until,
                seconds,
            }),
            ..self
        }
    }

    /// How much time is left; none when there is no end.
    pub fn left(&self) -> Option<Duration> {
        let deadline = self.deadline.as_ref()?;
        let left = deadline.until.0.saturating_sub(deadline.clock.now_ms());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// Whether nothing at all was taken away since the decision.
    pub fn are_current(&self) -> bool {
        let decided = self.decided.lock();
        decided.iter().all(|(dataset, epoch)| {
            mutated(Mutation::EpochsIgnored)
                || self.losses.epoch(&self.org, &self.purpose, dataset) == *epoch
        })
    }

    /// Whether the query may go on without what a dataset lost since `epoch`.
    fn survives(&self, dataset: &DatasetId, epoch: u64) -> bool {
        let Some(Dropping { account, scopes }) = &self.dropping else {
            return false;
        };
        let taken = self
            .losses
            .taken_since(&self.org, &self.purpose, dataset, epoch);
        match taken {
            Taken::From(enterprises) => {
                let scope = scopes.get(dataset);
                let concerned = |no: &u32| scope.is_none_or(|scope| scope.shape_of(*no) > 0);
                let enterprises = enterprises.iter().map(|no| no.0);
                let concerned: RoaringBitmap = enterprises.filter(concerned).collect();
                concerned.is_empty() || account.drop_untouched(dataset, &concerned)
            }
            Taken::Everything => false,
        }
    }

    pub(super) fn lock(&self) -> Arc<ReleaseLock> {
        self.losses.release_lock()
    }
}

impl fmt::Debug for Epochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epochs")
            .field("decided", &self.decided)
            .finish_non_exhaustive()
    }
}

impl Permit for Epochs {
    fn check(&self) -> Result<(), QueryError> {
        if let Some(deadline) = &self.deadline
            && deadline.clock.now_ms() >= deadline.until.0
        {
            let seconds = deadline.seconds;
            return Err(QueryError::TimedOut { seconds });
        }
        let last_loss = self.losses.last();
        if self.seen.load(Ordering::Acquire) == last_loss {
            return Ok(());
        }
        let mut decided = self.decided.lock();
        for (dataset, epoch) in decided.iter_mut() {
            // What is lost between these two looks is seen by the next.
            let present = self.losses.epoch(&self.org, &self.purpose, dataset);
            if present != *epoch && !mutated(Mutation::EpochsIgnored) {
                if !self.survives(dataset, *epoch) {
                    return Err(QueryError::ConsentChanged);
                }
                *epoch = present;
            }
        }
        let last_loss = match mutated(Mutation::LossesReadLate) {
            true => self.losses.last(),
            false => last_loss,
        };
        self.seen.store(last_loss, Ordering::Release);
        Ok(())
    }
}

/// Counts and hashes what leaves, and lets nothing leave once something was taken away.
pub struct Release<'a> {
    epochs: Arc<Epochs>,
    out: &'a mut dyn Outlet,
    limit: u64,
    bytes: u64,
    hash: Context,
}

/// What left.
pub struct Released {
    /// How many bytes.
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

impl<'a> Release<'a> {
    /// Lets at most `limit` bytes leave to `out`, under these epochs.
    pub fn new(epochs: Arc<Epochs>, out: &'a mut dyn Outlet, limit: u64) -> Self {
        out.begin(ReleasePermit::new(Arc::clone(&epochs)));
        Self {
            epochs,
            out,
            limit,
            bytes: 0,
            hash: Context::new(&SHA256),
        }
    }

    /// Releases some bytes. Whoever takes something away waits for the lock held here, so that after its
    /// acknowledgement nothing leaves that it took.
    pub async fn bytes(&mut self, bytes: &[u8]) -> Result<(), QueryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let total = self.bytes + bytes.len() as u64;
        if total > self.limit {
            return Err(QueryError::TooManyBytes { limit: self.limit });
        }
        let ready = self.out.ready().await;
        ready.map_err(|error| self.refused(&error))?;
        // What was lost until now is worked through before the lock, which everybody's releases hang on: under it, this is
        // nearly always one look.
        self.epochs.check()?;
        let lock = self.epochs.lock();
        let _reading = match mutated(Mutation::ReleaseUnlocked) {
            true => None,
            false => Some(lock.read().await),
        };
        self.epochs.check()?;
        // What is handed over counts as delivered: the record may say too much, never too little.
        self.bytes = total;
        self.hash.update(bytes);
        let taken = self.out.release(bytes);
        taken.map_err(|error| self.refused(&error))
    }

    /// Waits until everything has left.
    pub async fn all_left(&mut self) -> Result<(), QueryError> {
        let left = self.out.finish().await;
        left.map_err(|error| self.refused(&error))
    }

    /// An outlet closes when something was taken away as well: that is the better reason.
    fn refused(&self, error: &io::Error) -> QueryError {
        match self.epochs.check() {
            Err(changed) => changed,
            Ok(()) => QueryError::Output {
                message: error.kind().to_string(),
            },
        }
    }

    /// What left; whether it has all arrived is for [`all_left`](Self::all_left) to say.
    pub fn finish(self) -> Released {
        Released {
            bytes: self.bytes,
            sha256: hex::encode(self.hash.finish()),
        }
    }
}
