//! An answer of the gate as the body of a response.
//!
//! The gate writes into a [`BodyOutlet`], the server reads an [`AnswerBody`]. The end of the body (with its trailers)
//! comes only after the access was recorded as finished; an answer that breaks off has no end, so the connection is cut
//! and no client can take a part for the whole. At most [`WINDOW_BYTES`] (or one batch) are between the two.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame};
use qihui_query::access::{Outlet, ReleasePermit};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::ServeError;
use super::problem::Problem;
use super::wire::{Delivery, Wire};
use crate::failure::Failure;

/// How much of an answer may be under way before the gate waits.
const WINDOW_BYTES: u64 = 256 << 10;

enum Part {
    Bytes(Bytes),
    /// The answer is whole.
    End(Option<HeaderMap>),
}

/// Where the gate writes.
pub(crate) struct BodyOutlet {
    parts: UnboundedSender<Part>,
    delivery: Arc<Delivery>,
    /// Told of the first bytes.
    started: Option<oneshot::Sender<()>>,
    /// Whether the service stops and nothing more may be waited for.
    stop: watch::Receiver<bool>,
}

/// What the server reads.
pub(crate) struct AnswerBody {
    parts: UnboundedReceiver<Part>,
    delivery: Arc<Delivery>,
    ended: bool,
}

/// Both ends of an answer that goes through a connection, and word of its first bytes.
pub(crate) fn answer(
    wire: &Wire,
    stop: watch::Receiver<bool>,
) -> (BodyOutlet, AnswerBody, oneshot::Receiver<()>) {
    let delivery = Arc::new(Delivery::default());
    wire.carry(Arc::clone(&delivery));
    let (sender, parts) = unbounded_channel();
    let (first, started) = oneshot::channel();
    let outlet = BodyOutlet {
        parts: sender,
        delivery: Arc::clone(&delivery),
        started: Some(first),
        stop,
    };
    let body = AnswerBody {
        parts,
        delivery,
        ended: false,
    };
    (outlet, body, started)
}

/// Waits for the first bytes of an answer that `running` writes, or for its end: with no bytes it is either empty or says
/// why there are none.
pub(crate) async fn begun<E>(
    started: oneshot::Receiver<()>,
    mut running: JoinHandle<Result<(), E>>,
) -> Result<(), Problem>
where
    E: Into<Failure>,
{
    let ended = tokio::select! {
        first = started => match first {
            Ok(()) => return Ok(()),
            Err(_) => running.await,
        },
        ended = &mut running => ended,
    };
    Ok(ended.map_err(|_| ServeError::Panicked)??)
}

impl BodyOutlet {
    /// Hands bytes over that need no permit, or were given one already.
    pub(crate) fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.delivery.hand(bytes.len() as u64);
        let sent = self.parts.send(Part::Bytes(bytes));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        if let Some(started) = self.started.take() {
            // If nobody waits for the first bytes any more, the next wait finds out.
            let _ = started.send(());
        }
        Ok(())
    }

    /// Says that the answer is whole.
    pub(crate) fn end(self, trailers: Option<HeaderMap>) {
        // A client that is gone by now has everything but the end.
        let _ = self.parts.send(Part::End(trailers));
    }

    /// Waits until at most `bytes` are under way.
    async fn until_under_way(&mut self, bytes: u64) -> io::Result<()> {
        loop {
            let progress = self.delivery.progress.notified();
            tokio::pin!(progress);
            // From here on no progress is missed.
            progress.as_mut().enable();
            if self.parts.is_closed() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if *self.stop.borrow() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.delivery.under_way() <= bytes {
                return Ok(());
            }
            tokio::select! {
                () = progress => {}
                () = self.parts.closed() => {}
                changed = self.stop.changed() => changed.map_err(|_| io::ErrorKind::Interrupted)?,
            }
        }
    }
}

#[async_trait]
impl Outlet for BodyOutlet {
    fn begin(&mut self, permit: ReleasePermit) {
        self.delivery.rest_on(permit);
    }

    async fn ready(&mut self) -> io::Result<()> {
        self.until_under_way(WINDOW_BYTES).await
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(Bytes::copy_from_slice(bytes))
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.until_under_way(0).await?;
        self.delivery.rest_on_nothing();
        Ok(())
    }

    fn gone(&self) -> BoxFuture<'static, ()> {
        let (parts, mut stop) = (self.parts.clone(), self.stop.clone());
        Box::pin(async move {
            tokio::select! {
                () = parts.closed() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.ended {
            this.delivery.end();
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.parts.poll_recv(context)) {
            Some(Part::Bytes(bytes)) => {
                this.delivery.take(bytes.len() as u64);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Part::End(trailers)) => {
                this.ended = true;
                this.delivery.end();
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            None => {
                this.ended = true;
                Some(Err(io::Error::other("the answer broke off")))
            }
        })
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.delivery.end();
    }
}
