//! Group commit: many writers, one thread that gives entries their place and makes them durable.
//!
//! Writers prepare their entries (salt, body hash, subject list) on their own threads and queue them. The sequencer
//! takes all that wait, assigns index, time and `prev`, writes one buffer, calls fdatasync once, and only then wakes
//! the writers. Before a group it waits a moment for writers that it just woke and expects back, an eighth of an
//! fsync at most: without that, closed-loop writers fall into two halves that wait for each other's fsync.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{LogError, Result};
use crate::format::{MAX_BODY_BYTES, NONCE_BYTES, SALT_BYTES};
use crate::keys::random;
use crate::leaf::check_kind;
use crate::merkle::Hash;
use crate::seal;
use crate::subjects::Subjects;
use crate::writer::{Failure, Writer};

/// Upper limit on the content (bodies and stored subjects) of one call of `append_many`.
pub const MAX_APPEND_BYTES: usize = 256 << 20;
/// Content that may wait in the queue before writers are held up.
const MAX_QUEUE_BYTES: usize = 256 << 20;
/// A group takes no further request once its content exceeds this.
const MAX_GROUP_BYTES: usize = 32 << 20;
/// Longest wait for writers expected back.
const MAX_GATHER: Duration = Duration::from_millis(1);

/// One entry to record.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// The leaf's type, e.g. `access.decided`: `[a-z][a-z0-9_.-]{0,63}`. Public.
    pub kind: &'a str,
    /// What happened, e.g. canonical JSON; at most [`MAX_BODY_BYTES`], without NUL bytes. Encrypted at rest.
    pub body: &'a [u8],
    /// Whom it touches. Encrypted at rest.
    pub subjects: Subjects,
}

/// Proof to a writer that its entry is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The entry's place in the log.
    pub index: u64,
    /// The time its leaf carries, ms since the epoch.
    pub time_ms: i64,
    /// RFC 6962 hash of its leaf.
    pub leaf_hash: Hash,
}

/// An entry with everything that does not depend on its place.
pub(crate) struct Prepared {
    pub(crate) kind: String,
    /// salt ‖ body
    pub(crate) salted: Vec<u8>,
    /// Stored form of the subjects; empty = none.
    pub(crate) subjects: Vec<u8>,
    pub(crate) nonce: [u8; NONCE_BYTES],
    pub(crate) body_hash: Hash,
}

impl Prepared {
    pub(crate) fn new(entry: &Entry<'_>) -> Result<Prepared> {
        check_kind(entry.kind)?;
        if entry.body.len() > MAX_BODY_BYTES {
            return Err(LogError::refused(format!(
                "its body has more than {MAX_BODY_BYTES} bytes"
            )));
        }
        if memchr::memchr(0, entry.body).is_some() {
            return Err(LogError::refused("its body has a NUL byte"));
        }
        let subjects = entry.subjects.encode()?;
        let mut secret = [0u8; SALT_BYTES + NONCE_BYTES];
        random(&mut secret)?;
        let (salt, rest) = secret.split_at(SALT_BYTES);
        let mut nonce = [0u8; NONCE_BYTES];
        nonce.copy_from_slice(rest);
        let mut salted = Vec::with_capacity(SALT_BYTES + entry.body.len());
        salted.extend_from_slice(salt);
        salted.extend_from_slice(entry.body);
        let body_hash = seal::body_hash(&salted, &subjects);
        Ok(Prepared {
            kind: entry.kind.to_owned(),
            salted,
            subjects,
            nonce,
            body_hash,
        })
    }

    fn content(&self) -> usize {
        self.salted.len() + self.subjects.len()
    }
}

/// Entries handed in and not yet known to be durable. Wait for it on a thread with [`Pending::wait`], or `.await` it.
/// Dropping it does not take the entries back.
#[must_use = "the entries are durable only once this has been waited for"]
#[derive(Debug)]
pub struct Pending(Arc<Ticket>);

impl Pending {
    /// Blocks until the entries are durable or refused.
    ///
    /// # Errors
    /// As [`crate::AuditLog::append`].
    pub fn wait(self) -> Result<Vec<Receipt>> {
        let mut slot = self.0.slot.lock();
        loop {
            if let Some(result) = slot.result.take() {
                return result;
            }
            self.0.done.wait(&mut slot);
        }
    }
}

impl Future for Pending {
    type Output = Result<Vec<Receipt>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.slot.lock();
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[derive(Debug, Default)]
struct Ticket {
    slot: Mutex<Slot>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    result: Option<Result<Vec<Receipt>>>,
    waker: Option<Waker>,
}

/// The sequencer's side of a ticket. Dropped without an answer, it answers that the log is closed: no writer waits for
/// ever, even should the sequencer panic.
struct Reply(Option<Arc<Ticket>>);

impl Reply {
    fn give(mut self, result: Result<Vec<Receipt>>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<Vec<Receipt>>) {
        let Some(ticket) = self.0.take() else { return };
        let waker = {
            let mut slot = ticket.slot.lock();
            slot.result = Some(result);
            ticket.done.notify_one();
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Err(LogError::Closed {
            why: "its sequencer ended".into(),
        }));
    }
}

struct Request {
    entries: Vec<Prepared>,
    content: usize,
    reply: Reply,
}

/// The queue between writers and sequencer.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    work: Condvar,
    room: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Request>,
    content: usize,
    /// The sequencer is woken when so many requests wait.
    wake_at: usize,
    closing: bool,
    /// Why the log takes no more entries.
    dead: Option<String>,
}

impl Queue {
    /// Queues entries; blocks while [`MAX_QUEUE_BYTES`] wait already.
    pub(crate) fn submit(&self, entries: Vec<Prepared>) -> Result<Pending> {
        let ticket = Arc::new(Ticket::default());
        if entries.is_empty() {
            Reply(Some(ticket.clone())).give(Ok(Vec::new()));
            return Ok(Pending(ticket));
        }
        let content = entries.iter().map(Prepared::content).sum::<usize>();
        if content > MAX_APPEND_BYTES {
            return Err(LogError::refused(format!(
                "more than {MAX_APPEND_BYTES} bytes in one call"
            )));
        }
        let mut state = self.state.lock();
        loop {
            if let Some(why) = &state.dead {
                return Err(LogError::Closed { why: why.clone() });
            }
            if state.closing {
                return Err(LogError::Closed {
                    why: "it was closed".into(),
                });
            }
            if state.content == 0 || state.content + content <= MAX_QUEUE_BYTES {
                break;
            }
            self.room.wait(&mut state);
        }
        state.content += content;
        state.waiting.push_back(Request {
            entries,
            content,
            reply: Reply(Some(ticket.clone())),
        });
        if state.waiting.len() >= state.wake_at {
            self.work.notify_one();
        }
        Ok(Pending(ticket))
    }

    /// Takes no more entries; the sequencer finishes those that wait, then ends.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.work.notify_one();
        self.room.notify_all();
    }

    /// Why the log takes no more entries, if so.
    pub(crate) fn dead(&self) -> Option<String> {
        self.state.lock().dead.clone()
    }

    /// Waits for a group; `None` once closed and empty. `expected` requests are waited for up to `patience`.
    fn take(&self, expected: usize, patience: Duration) -> Option<Vec<Request>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closing {
                return None;
            }
            state.wake_at = 1;
            self.work.wait(&mut state);
        }
        if state.waiting.len() < expected && !state.closing {
            state.wake_at = expected;
            let until = Instant::now() + patience;
            while state.waiting.len() < expected
                && !state.closing
                && !self.work.wait_until(&mut state, until).timed_out()
            {}
        }
        let mut group = Vec::with_capacity(state.waiting.len());
        let mut content = 0;
        while content <= MAX_GROUP_BYTES
            && let Some(request) = state.waiting.pop_front()
        {
            content += request.content;
            group.push(request);
        }
        state.content = state.content.saturating_sub(content);
        self.room.notify_all();
        Some(group)
    }

    /// Ends the log: what waits and what comes later is refused.
    fn poison(&self, why: &str) {
        let waiting = {
            let mut state = self.state.lock();
            state.dead.get_or_insert_with(|| why.to_owned());
            state.content = 0;
            self.room.notify_all();
            std::mem::take(&mut state.waiting)
        };
        for request in waiting {
            request.reply.give(Err(LogError::Closed {
                why: why.to_owned(),
            }));
        }
    }

    fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

/// The sequencer thread. `committed` is told of each durable group before its writers are woken.
pub(crate) fn run(
    queue: &Queue,
    mut writer: Writer,
    mut committed: impl FnMut(&crate::format::Head),
) {
    let _closed_at_the_end = Closing(queue);
    let mut expected = 1;
    let mut patience = Duration::ZERO;
    while let Some(group) = queue.take(expected, patience) {
        let started = Instant::now();
        let (requests, entries): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|r| ((r.reply, r.entries.len()), r.entries))
            .unzip();
        match writer.commit(&entries) {
            Ok((receipts, head)) => {
                committed(&head);
                let mut receipts = receipts.into_iter();
                expected = requests.len() + queue.waiting();
                for (reply, count) in requests {
                    reply.give(Ok(receipts.by_ref().take(count).collect()));
                }
            }
            Err(Failure::Refused(error)) => {
                expected = 1;
                requests
                    .into_iter()
                    .for_each(|(reply, _)| reply.give(Err(error.clone())));
            }
            Err(Failure::Fatal(error)) => {
                tracing::error!(code = error.code(), %error, "audit log failed; it takes no more entries");
                queue.poison(&error.to_string());
                requests
                    .into_iter()
                    .for_each(|(reply, _)| reply.give(Err(error.clone())));
            }
        }
        // A moving average of the cost of a group; waiting costs at most an eighth of it.
        patience = (patience * 7 / 8 + started.elapsed() / 64).min(MAX_GATHER);
    }
}

/// However the sequencer ends, the queue takes nothing more.
struct Closing<'a>(&'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.poison(if std::thread::panicking() {
            "its sequencer panicked"
        } else {
            "it was closed"
        });
    }
}
