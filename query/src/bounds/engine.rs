//! Threads of a query's own.
//!
//! Each place among the running queries has a small pool of threads, made when it is first needed. A query is planned
//! and computed there, never on the threads that answer connections and write the log: an expression that takes long
//! over one batch holds up nobody but its own query, and the operating system shares the processors among queries that
//! do not yield by themselves.
//!
//! The threads have deep stacks. The depth of a statement is bounded ([`super::statement`]) so that planning, running
//! and dropping what was made of it cannot overflow them.

use std::future::Future;
use std::panic;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::record_batch::RecordBatch;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::admission::Ticket;
use crate::error::QueryError;

/// Stack of each thread; only what is used of it takes memory.
pub const STACK_BYTES: usize = 64 << 20;
/// Threads of a query that wait for files.
const MOST_READERS: usize = 64;

/// The threads of all places.
pub struct Engine {
    threads: usize,
    places: Mutex<Vec<Option<Runtime>>>,
}

impl Engine {
    pub(super) fn new(places: usize, threads: usize) -> Self {
        Self {
            threads,
            places: Mutex::new((0..places).map(|_| None).collect()),
        }
    }

    /// The threads of a place.
    pub(super) fn handle(&self, place: usize) -> Result<Handle, QueryError> {
        let failed = QueryError::Internal {
            what: "the threads of a query",
        };
        let mut places = self.places.lock();
        let Some(runtime) = places.get_mut(place) else {
            return Err(failed);
        };
        if let Some(runtime) = runtime {
            return Ok(runtime.handle().clone());
        }
        let made = Builder::new_multi_thread()
            .worker_threads(self.threads)
            .max_blocking_threads(MOST_READERS)
            .thread_stack_size(STACK_BYTES)
            .thread_name(format!("query-{place}"))
            .enable_all()
            .build();
        let made = made.map_err(|_| failed)?;
        Ok(runtime.insert(made).handle().clone())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A runtime may not be waited for where this may be dropped.
        for runtime in self.places.get_mut().drain(..).flatten() {
            runtime.shutdown_background();
        }
    }
}

/// Work that holds a ticket until it is gone itself.
struct Holding<F> {
    work: F,
    _ticket: Arc<Ticket>,
}

impl<F: Future + Unpin> Future for Holding<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.work.poll_unpin(context)
    }
}

/// A task that ends with whoever waits for it.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does `work` on the threads behind `handle`; it is dropped there when this is.
pub(super) async fn on<T: Send + 'static>(
    handle: &Handle,
    ticket: Arc<Ticket>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, QueryError> {
    let work = Holding {
        work: Box::pin(work),
        _ticket: ticket,
    };
    let mut task = Task(handle.spawn(work));
    match (&mut task.0).await {
        Ok(done) => Ok(done),
        // Caught again where the access gets its end.
        Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
        Err(_) => Err(QueryError::Internal {
            what: "the threads of a query, which were stopped",
        }),
    }
}

/// The batches of a plan, made on the query's own threads, each when it is asked for: nothing passes the gate before.
pub(crate) struct Batches {
    /// Asks for one more batch.
    asks: mpsc::UnboundedSender<()>,
    made: mpsc::UnboundedReceiver<Result<RecordBatch>>,
    task: Task<()>,
}

impl Batches {
    pub(super) fn new(
        handle: &Handle,
        ticket: Arc<Ticket>,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let (sender, made) = mpsc::unbounded_channel();
        let work = Holding {
            work: Box::pin(make(plan, context, asked, sender)),
            _ticket: ticket,
        };
        Self {
            asks,
            made,
            task: Task(handle.spawn(work)),
        }
    }

    /// The next batch; none after the last.
    pub(crate) async fn next(&mut self) -> Option<Result<RecordBatch>> {
        // Who does not listen any more has ended, and what it made is still to be had.
        let _ = self.asks.send(());
        if let Some(batch) = self.made.recv().await {
            return Some(batch);
        }
        match (&mut self.task.0).await {
            Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
            Ok(()) => None,
            Err(_) => Some(datafusion::common::internal_err!(
                "the query's threads ended"
            )),
        }
    }
}

/// Makes a batch each time one is asked for.
async fn make(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    mut asked: mpsc::UnboundedReceiver<()>,
    sender: mpsc::UnboundedSender<Result<RecordBatch>>,
) {
    let mut batches = match execute_stream(plan, context) {
        Ok(batches) => batches,
        Err(error) => {
            let _ = sender.send(Err(error));
            return;
        }
    };
    while asked.recv().await.is_some() {
        let Some(batch) = batches.next().await else {
            return;
        };
        if sender.send(batch).is_err() {
            return;
        }
    }
}
