//! Threads of a query's own.
//!
//! Each place among the running queries has a small pool of threads, made when it is first needed. A query is planned
//! and computed there, never on the threads that answer connections and write the log: an expression that takes long
//! over one batch holds up nobody but its own query, and the operating system shares the processors among queries that
//! do not yield by themselves.
//!
//! A query that has run for [`LONG`] gives way: its threads get a lower priority, so that many such queries together leave
//! most of the processors to one that is soon done ([`Crew::give_way`]). Who may lower a priority may not raise it again;
//! so the place's next query gets new threads.
//!
//! The threads have deep stacks. The depth of a statement is bounded ([`super::statement`]) so that planning, running
//! and dropping what was made of it cannot overflow them.

use std::future::Future;
use std::panic;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use rustix::process::{Pid, getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::admission::Ticket;
use crate::error::QueryError;

/// Stack of each thread; only what is used of it takes memory.
pub const STACK_BYTES: usize = 64 << 20;
/// What has run for so long is no quick question.
pub const LONG: Duration = Duration::from_millis(100);
/// The priority of what gives way (`nice`): a thread of it gets about a tenth of a processor that another one wants.
pub(super) const WAY_GIVEN: i32 = 10;
/// Threads of a query that wait for files.
const MOST_READERS: usize = 64;

/// The threads of all places.
pub struct Engine {
    threads: usize,
    places: Vec<Mutex<Option<Place>>>,
}

/// The threads of a place.
struct Place {
    runtime: Runtime,
    crew: Arc<Crew>,
}

/// Who the threads of a place are to the system.
#[derive(Default)]
pub(super) struct Crew {
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    /// Those that run. INVARIANT: none is in it that has ended, whose number may be another's.
    threads: Vec<Pid>,
    give_way: bool,
}

impl Crew {
    fn join(&self) {
        let Some(thread) = this_thread() else { return };
        let mut members = self.members.lock();
        members.threads.push(thread);
        if members.give_way {
            lower(thread);
        }
    }

    fn leave(&self) {
        let thread = this_thread();
        let mut members = self.members.lock();
        members.threads.retain(|other| Some(*other) != thread);
    }

    /// Lets the threads have a processor when hardly anybody else wants it, those that are yet to start as well.
    pub(super) fn give_way(&self) {
        let mut members = self.members.lock();
        members.give_way = true;
        members.threads.iter().copied().for_each(lower);
    }

    fn gives_way(&self) -> bool {
        self.members.lock().give_way
    }
}

/// The number of this thread; none where the system does not tell.
pub(super) fn this_thread() -> Option<Pid> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    Pid::from_raw(link.file_name()?.to_str()?.parse().ok()?)
}

/// Lowers the priority of a thread. Where that is not allowed, queries share the processors evenly.
fn lower(thread: Pid) {
    if getpriority_process(Some(thread)).is_ok_and(|now| now >= WAY_GIVEN) {
        return;
    }
    if let Err(error) = setpriority_process(Some(thread), WAY_GIVEN) {
        tracing::debug!(%error, "the priority of a query's thread cannot be lowered");
    }
}

impl Engine {
    pub(super) fn new(places: usize, threads: usize) -> Self {
        Self {
            threads,
            places: (0..places).map(|_| Mutex::default()).collect(),
        }
    }

    /// The threads of a place.
    pub(super) fn handle(&self, place: usize) -> Result<(Handle, Arc<Crew>), QueryError> {
        let failed = QueryError::Internal {
            what: "the threads of a query",
        };
        let Some(slot) = self.places.get(place) else {
            return Err(failed);
        };
        let mut slot = slot.lock();
        // Of the query before, everything was given back when it gave up its place.
        if let Some(old) = slot.take_if(|place| place.crew.gives_way()) {
            old.runtime.shutdown_background();
        }
        if let Some(place) = &*slot {
            return Ok((place.runtime.handle().clone(), Arc::clone(&place.crew)));
        }
        let crew = Arc::new(Crew::default());
        let (joining, leaving) = (Arc::clone(&crew), Arc::clone(&crew));
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.threads)
            .max_blocking_threads(MOST_READERS)
            .thread_stack_size(STACK_BYTES)
            .thread_name(format!("query-{place}"))
            .on_thread_start(move || joining.join())
            .on_thread_stop(move || leaving.leave())
            .enable_all()
            .build();
        let runtime = runtime.map_err(|_| failed)?;
        let made = slot.insert(Place { runtime, crew });
        Ok((made.runtime.handle().clone(), Arc::clone(&made.crew)))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A runtime may not be waited for where this may be dropped.
        let places = self.places.iter_mut();
        for place in places.filter_map(|place| place.get_mut().take()) {
            place.runtime.shutdown_background();
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// The number and the priority of a thread that works for a place now.
    fn thread_of(engine: &Engine) -> (Pid, i32) {
        let (sender, receiver) = channel();
        engine.handle(0).unwrap().0.spawn(async move {
            let thread = this_thread().unwrap();
            let _ = sender.send((thread, getpriority_process(Some(thread)).unwrap()));
        });
        receiver.recv().unwrap()
    }

    #[test]
    fn gate_5_what_has_run_for_long_gives_way_and_the_next_query_does_not() {
        let engine = Engine::new(1, 1);
        let (first, usual) = thread_of(&engine);
        assert_eq!(thread_of(&engine), (first, usual), "threads are kept");
        let (old, crew) = engine.handle(0).unwrap();
        crew.give_way();
        // The tests themselves may run with a low priority.
        let given = WAY_GIVEN.max(usual);
        assert_eq!(getpriority_process(Some(first)).unwrap(), given);
        // So has what it starts from then on.
        let (sender, receiver) = channel();
        old.spawn_blocking(move || {
            let _ = sender.send(getpriority_process(this_thread()).unwrap());
        });
        assert_eq!(receiver.recv().unwrap(), given);
        let (second, priority) = thread_of(&engine);
        assert_eq!(priority, usual);
        assert_ne!(first, second);
    }
}
