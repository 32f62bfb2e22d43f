//! What was taken away, as those see it who release: all of it in memory.
//!
//! Promise: when [`Losses::take`] has returned, nobody who holds the [release lock](Losses::release_lock) has a decision
//! whose [epoch](Losses::epoch) is still the present one, although it rests on what was taken; and [`Losses::last`] is
//! another than before. `query/tests/exploration` takes this and the gate's side of it through the orders in which threads
//! can meet.

use std::sync::{Arc, atomic::Ordering};

use qihui_catalog::{DatasetId, OrgId, PurposeCode};

use super::{
    EpochKey,
    epochs::{Epochs, Loss, Taken},
};
use crate::{
    mutations::{Mutation, mutated},
    sync::{AtomicU64, ReleaseLock, RwLock},
};

/// What was taken away since a ledger was opened.
pub struct Losses {
    epochs: RwLock<Epochs>,
    /// The position of the last event that took something away; written under `epochs`.
    last: AtomicU64,
    release: Arc<ReleaseLock>,
}

impl std::fmt::Debug for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Losses").finish_non_exhaustive()
    }
}

impl Losses {
    /// Nothing since the event at `position`.
    pub(crate) fn starting_at(position: u64) -> Self {
        Self {
            epochs: RwLock::new(Epochs::starting_at(position)),
            last: AtomicU64::new(position),
            release: Arc::new(ReleaseLock::new(())),
        }
    }

    /// Counts what took something away from what an organisation sees of a dataset for a purpose.
    ///
    /// A decision holds as long as the epochs it names are the present ones. Epochs never fall, across restarts too.
    #[must_use]
    pub fn epoch(&self, org: &OrgId, purpose: &PurposeCode, dataset: &DatasetId) -> u64 {
        let key = (org.clone(), purpose.clone(), dataset.clone());
        self.epochs.read().of(&key)
    }

    /// No epoch has changed as long as this is the same: what is looked at before every batch.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Whose grants were taken away since an epoch.
    #[must_use]
    pub fn taken_since(
        &self,
        org: &OrgId,
        purpose: &PurposeCode,
        dataset: &DatasetId,
        epoch: u64,
    ) -> Taken {
        let key = (org.clone(), purpose.clone(), dataset.clone());
        self.epochs.read().taken_since(&key, epoch)
    }

    /// The lock that whoever releases rows holds for reading from the last look at the epoch until the bytes are out.
    /// What takes away is acknowledged only after it was held for writing.
    #[must_use]
    pub fn release_lock(&self) -> Arc<ReleaseLock> {
        Arc::clone(&self.release)
    }

    /// Notes what the event at `position` took away: from everybody, of one dataset or of all, and from single keys.
    /// Waits for what is being released; it is in force for every decision and release when this returns.
    pub(crate) async fn take(
        &self,
        position: u64,
        sweeping: &[Option<DatasetId>],
        losses: Vec<(EpochKey, Loss)>,
    ) {
        let _nothing_is_being_released = match mutated(Mutation::ReleaseNotAwaited) {
            true => None,
            false => Some(self.release.write().await),
        };
        if mutated(Mutation::LastLossEarly) {
            self.last.store(position, Ordering::Release);
        }
        let mut epochs = self.epochs.write();
        for dataset in sweeping {
            epochs.bump_all(position, dataset.as_ref());
        }
        for (key, loss) in losses {
            epochs.bump(position, key, loss);
        }
        // INVARIANT: after the epochs, and before anybody else can write them: who sees this position finds what happened
        // up to it in the epochs.
        self.last.store(position, Ordering::Release);
    }
}

/// What a model of the gate needs of the ledger.
#[cfg(feature = "exploration")]
impl Losses {
    /// Nothing yet.
    #[must_use]
    pub fn none() -> Self {
        Self::starting_at(0)
    }

    /// The event at `position` takes from an enterprise what it granted; of none named, from everybody.
    pub async fn take_from(
        &self,
        position: u64,
        key: (OrgId, PurposeCode, DatasetId),
        no: Option<qihui_catalog::EnterpriseNo>,
    ) {
        let loss = no.map_or(Loss::Everything, Loss::Of);
        self.take(position, &[], vec![(key, loss)]).await;
    }
}
