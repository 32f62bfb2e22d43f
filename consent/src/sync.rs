//! The locks and counters that those who take away share with those who release.
//!
//! They are parking_lot's, tokio's and the standard library's. A build with the feature `exploration` has loom's instead:
//! they work only inside a model, where a test takes the threads through the orders in which they can meet
//! (`query/tests/exploration`).

#[cfg(not(feature = "exploration"))]
mod plain {
    pub use std::sync::atomic::AtomicU64;

    pub use parking_lot::RwLock;

    /// The lock between those who release rows, who read, and those who take something away, who write.
    pub type ReleaseLock = tokio::sync::RwLock<()>;
}

#[cfg(not(feature = "exploration"))]
pub use plain::*;

#[cfg(feature = "exploration")]
pub use explored::*;

#[cfg(feature = "exploration")]
mod explored {
    use std::sync::{Arc, PoisonError};

    use loom::sync::Condvar;
    pub use loom::sync::atomic::AtomicU64;

    /// As parking_lot's.
    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// A lock around a value.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// As parking_lot's.
    #[derive(Debug)]
    pub struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        /// A lock around a value.
        pub fn new(value: T) -> Self {
            Self(loom::sync::RwLock::new(value))
        }

        /// Waits for the lock, to read.
        pub fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits for the lock, to write.
        pub fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// As tokio's, but that who waits holds up its thread: a thread of a model does one thing. Nobody has precedence, so
    /// that there are more orders here than there.
    #[derive(Debug)]
    pub struct ReleaseLock {
        held: Mutex<Held>,
        freed: Condvar,
    }

    /// Somebody holds a [`ReleaseLock`] for writing.
    #[derive(Debug)]
    pub struct Written;

    /// Who holds a [`ReleaseLock`].
    #[derive(Debug, Default)]
    struct Held {
        readers: usize,
        written: bool,
    }

    impl ReleaseLock {
        /// A lock that nobody holds; around nothing, as tokio's is here.
        pub fn new((): ()) -> Self {
            Self {
                held: Mutex::new(Held::default()),
                freed: Condvar::new(),
            }
        }

        /// Waits for the lock, to read.
        pub async fn read(&self) -> ReadGuard<'_> {
            self.hold();
            ReadGuard(self)
        }

        /// Waits for the lock, to write.
        pub async fn write(&self) -> WriteGuard<'_> {
            let mut held = self.held.lock();
            while held.written || held.readers > 0 {
                held = self
                    .freed
                    .wait(held)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            held.written = true;
            WriteGuard(self)
        }

        /// As [`read`](Self::read), for as long as one likes.
        pub async fn read_owned(self: Arc<Self>) -> ReleaseGuard {
            self.hold();
            ReleaseGuard(self)
        }

        /// As [`read_owned`](Self::read_owned), if nobody writes.
        ///
        /// # Errors
        /// Somebody writes.
        pub fn try_read_owned(self: Arc<Self>) -> Result<ReleaseGuard, Written> {
            let mut held = self.held.lock();
            if held.written {
                return Err(Written);
            }
            held.readers += 1;
            drop(held);
            Ok(ReleaseGuard(self))
        }

        fn hold(&self) {
            let mut held = self.held.lock();
            while held.written {
                held = self
                    .freed
                    .wait(held)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            held.readers += 1;
        }

        fn let_go(&self) {
            self.held.lock().readers -= 1;
            self.freed.notify_all();
        }
    }

    /// Holds a [`ReleaseLock`] for reading.
    #[derive(Debug)]
    pub struct ReadGuard<'l>(&'l ReleaseLock);

    impl Drop for ReadGuard<'_> {
        fn drop(&mut self) {
            self.0.let_go();
        }
    }

    /// The same, for as long as one likes.
    #[derive(Debug)]
    pub struct ReleaseGuard(Arc<ReleaseLock>);

    impl Drop for ReleaseGuard {
        fn drop(&mut self) {
            self.0.let_go();
        }
    }

    /// Holds a [`ReleaseLock`] for writing.
    #[derive(Debug)]
    pub struct WriteGuard<'l>(&'l ReleaseLock);

    impl Drop for WriteGuard<'_> {
        fn drop(&mut self) {
            self.0.held.lock().written = false;
            self.0.freed.notify_all();
        }
    }
}
