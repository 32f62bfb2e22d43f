//! The release point of a connection: the last look before bytes of an answer reach the socket.
//!
//! Promises (GATE-4): while an answer of the gate is on its way through a connection, no byte is written to the socket
//! but under the ledger's release lock and after the decision was found to stand; otherwise the connection is cut. So
//! nothing of it leaves after something that takes away was acknowledged, whatever buffers lie between.
//!
//! It has two halves around whatever encrypts: [`Guarded`] lies directly on the socket and looks; [`Marked`] lies above
//! and learns, when the server flushes, that everything handed over so far has left. A client that takes nothing for a
//! while is cut off.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use qihui_query::access::ReleasePermit;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedRwLockReadGuard};
use tokio::time::Sleep;

/// An answer on its way: how much was handed over, taken by the server, and out.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    permit: Mutex<Option<ReleasePermit>>,
    handed: AtomicU64,
    taken: AtomicU64,
    left: AtomicU64,
    ended: AtomicBool,
    /// Whoever hands over waits here for `left` to grow.
    pub progress: Notify,
}

impl Delivery {
    pub(crate) fn rest_on(&self, permit: ReleasePermit) {
        *self.permit.lock() = Some(permit);
    }

    /// Everything has left: what follows (the end) rests on nothing.
    pub(crate) fn rest_on_nothing(&self) {
        *self.permit.lock() = None;
    }

    pub(crate) fn hand(&self, bytes: u64) {
        self.handed.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn take(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Nothing more will be taken.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Bytes that were handed over and have not left.
    pub(crate) fn under_way(&self) -> u64 {
        let left = self.left.load(Ordering::SeqCst);
        self.handed.load(Ordering::SeqCst).saturating_sub(left)
    }

    fn flushed(&self) -> bool {
        let taken = self.taken.load(Ordering::SeqCst);
        self.left.store(taken, Ordering::SeqCst);
        self.progress.notify_waiters();
        self.ended.load(Ordering::SeqCst)
    }
}

/// What answers are on their way through a connection. More than one only while the end of one and the beginning of the
/// next share a buffer.
#[derive(Debug, Default)]
pub(crate) struct Wire(Mutex<Vec<Arc<Delivery>>>);

impl Wire {
    pub(crate) fn carry(&self, delivery: Arc<Delivery>) {
        self.0.lock().push(delivery);
    }

    fn permits(&self) -> Vec<ReleasePermit> {
        let carried = self.0.lock();
        let permits = carried.iter().filter_map(|one| one.permit.lock().clone());
        permits.collect()
    }

    fn flushed(&self) {
        self.0.lock().retain(|delivery| !delivery.flushed());
    }
}

type Guard = OwnedRwLockReadGuard<()>;

/// The half on the socket.
pub(crate) struct Guarded<S> {
    inner: S,
    wire: Arc<Wire>,
    /// The release lock, while somebody who takes away has it.
    waiting: Option<Pin<Box<dyn Future<Output = Guard> + Send>>>,
    longest_stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(inner: S, wire: Arc<Wire>, longest_stall: Duration) -> Self {
        Self {
            inner,
            wire,
            waiting: None,
            longest_stall,
            stalled: None,
        }
    }

    /// The lock under which bytes may be written now; none, when nothing on the wire needs one.
    fn hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Guard>>> {
        let permits = self.wire.permits();
        let Some(first) = permits.first() else {
            self.waiting = None;
            return Poll::Ready(Ok(None));
        };
        let guard = match (&mut self.waiting, first.try_hold()) {
            (None, Some(guard)) => guard,
            (waiting, _) => {
                let lock = waiting.get_or_insert_with(|| first.hold());
                ready!(lock.as_mut().poll(context))
            }
        };
        self.waiting = None;
        if permits.iter().any(|permit| permit.check().is_err()) {
            let reason = "what the answer rests on was taken away";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)));
        }
        Poll::Ready(Ok(Some(guard)))
    }

    /// Ends a connection on which nothing moves.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let longest = self.longest_stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let _held = ready!(this.hold(context))?;
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.watch(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let _held = ready!(this.hold(context))?;
        let written = Pin::new(&mut this.inner).poll_write_vectored(context, bytes);
        this.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(context);
        this.watch(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closed = Pin::new(&mut this.inner).poll_shutdown(context);
        this.watch(context, closed)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(context, buffer)
    }
}

/// The half below the server.
pub(crate) struct Marked<S> {
    inner: S,
    wire: Arc<Wire>,
}

impl<S> Marked<S> {
    pub(crate) fn new(inner: S, wire: Arc<Wire>) -> Self {
        Self { inner, wire }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Marked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_flush(context))?;
        this.wire.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Marked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(context, buffer)
    }
}
