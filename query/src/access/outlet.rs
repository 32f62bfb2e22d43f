//! Where an answer goes.
//!
//! The gate hands bytes over in two steps: it waits for room *without* the ledger's release lock, however long the
//! receiver takes, and then, under the lock and after a last look at the epochs, hands them over without waiting. So a
//! slow receiver never holds up somebody who withdraws.
//!
//! An outlet that keeps bytes before they leave the machine (a connection) is given a [`ReleasePermit`] and looks again
//! when they really leave: nothing that was taken away meanwhile may follow.

use std::io::{self, Write};
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{self, BoxFuture};

use super::release::Epochs;
use crate::error::QueryError;
use crate::exec::Permit;
use crate::sync::{ReleaseGuard, ReleaseLock};

/// The right to let bytes of one decision leave, for as long as nothing was taken away from it.
#[derive(Debug, Clone)]
pub struct ReleasePermit {
    epochs: Arc<Epochs>,
    lock: Arc<ReleaseLock>,
}

impl ReleasePermit {
    pub(super) fn new(epochs: Arc<Epochs>) -> Self {
        let lock = epochs.lock();
        Self { epochs, lock }
    }

    /// Whether the decision still stands. Counts only while the lock is held.
    ///
    /// # Errors
    /// [`QueryError::ConsentChanged`]; [`QueryError::TimedOut`] once the time that it was made for is over.
    pub fn check(&self) -> Result<(), QueryError> {
        self.epochs.check()
    }

    /// The lock that is held from [`check`](Self::check) until the bytes are out, if it is free.
    #[must_use]
    pub fn try_hold(&self) -> Option<ReleaseGuard> {
        Arc::clone(&self.lock).try_read_owned().ok()
    }

    /// The same lock, once it is free.
    #[must_use]
    pub fn hold(&self) -> BoxFuture<'static, ReleaseGuard> {
        Box::pin(Arc::clone(&self.lock).read_owned())
    }
}

/// Takes the bytes of one answer.
#[async_trait]
pub trait Outlet: Send {
    /// Told before bytes of a decision come, and again when the decision was made anew before any byte had come.
    fn begin(&mut self, _permit: ReleasePermit) {}

    /// Waits for room. Called without any lock.
    ///
    /// # Errors
    /// The receiver is gone.
    async fn ready(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Takes bytes, without waiting for whoever reads them. Called under the release lock.
    ///
    /// # Errors
    /// They cannot be taken.
    fn release(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits until everything that was taken has left. Called without any lock, once, after the last bytes.
    ///
    /// # Errors
    /// Not all of it left.
    async fn finish(&mut self) -> io::Result<()>;

    /// Ends when the receiver is gone, so that work for nobody can stop; never, where that cannot be known.
    fn gone(&self) -> BoxFuture<'static, ()> {
        Box::pin(future::pending())
    }
}

/// A file, a buffer, the output of this process: whatever takes bytes at once.
#[async_trait]
impl<W: Write + Send> Outlet for W {
    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}
