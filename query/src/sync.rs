//! The locks and counters that the threads of a query share with each other and with those who take something away.
//!
//! As in [`qihui_consent::sync`]: in a build with the feature `exploration` they are those of a model checker.

#[cfg(feature = "exploration")]
pub(crate) use qihui_consent::sync::{AtomicU64, Mutex, ReleaseGuard};

pub(crate) use qihui_consent::sync::ReleaseLock;
#[cfg(not(feature = "exploration"))]
pub(crate) use {
    parking_lot::Mutex, std::sync::atomic::AtomicU64,
    tokio::sync::OwnedRwLockReadGuard as OwnedGuard,
};

/// Holds the ledger's release lock for reading.
#[cfg(not(feature = "exploration"))]
pub(crate) type ReleaseGuard = OwnedGuard<()>;
