//! GATE-5: what one query may use, and what all of them may together.
//!
//! One [`Bounds`] per hub. A query first waits for its [`Turn`] ([`admission`]): at most `running` queries run at the
//! same time, and organisations take turns. With its turn it gets a fixed share of the hub's memory ([`memory`]) and
//! spill space ([`spill`]) and threads of its own ([`engine`]). A share is never lent and never grows: what a query is
//! given does not depend on what others do, so nobody sees in an error of theirs how busy somebody else is, and the sum
//! of the shares is the hub's limit.
//!
//! Whatever ends a query (its end, an error, a limit, a receiver that is gone) drops its plan; a turn is over when the
//! last byte of memory and the last spill file of its query are given back, and not before.
//!
//! What a statement may be is bounded before anything is built from it ([`statement`], [`dialect`], [`weight`]); the memory that
//! operators of the engine take without telling its pool is told to it here ([`values`], [`meter`]).

pub mod admission;
pub mod dialect;
pub mod engine;
pub mod memory;
pub mod meter;
pub mod spill;
pub mod statement;
pub mod values;
pub mod weight;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use qihui_catalog::OrgId;
use tokio::runtime::Handle;

use admission::{Admission, Ticket};
use engine::Engine;
use memory::{Gauge, QueryMemory};
use spill::SpillSpace;

use crate::error::QueryError;

/// What a query may use. Every limit has an error of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of a query's operators, bytes. A query gets at most its share of `total_memory_bytes`.
    pub memory_bytes: usize,
    /// Memory of the operators of all queries, bytes.
    pub total_memory_bytes: usize,
    /// Spill files of a query, bytes. A query gets at most its share of `total_spill_bytes`.
    pub spill_bytes: u64,
    /// Spill files of all queries, bytes.
    pub total_spill_bytes: u64,
    /// Time from the decision to the last byte, seconds.
    pub seconds: u64,
    /// Rows that may pass the gate.
    pub rows: u64,
    /// Bytes of the answer.
    pub bytes: u64,
    /// Threads that a query uses.
    pub threads: usize,
    /// Queries that run at the same time.
    pub running: usize,
    /// Of these, queries of one organisation.
    pub running_per_organisation: usize,
    /// Queries that wait for their turn.
    pub waiting: usize,
    /// Of these, queries of one organisation.
    pub waiting_per_organisation: usize,
    /// Time that a query waits for its turn, seconds.
    pub waiting_seconds: u64,
    /// Length of a statement, bytes; at most [`MAX_STATEMENT_BYTES`](statement::MAX_STATEMENT_BYTES).
    pub statement_bytes: usize,
}

/// Queries at the same time, at least, if the configuration does not say.
const LEAST_RUNNING: usize = 4;
/// What is taken for the memory of a machine that does not tell.
const UNKNOWN_MACHINE_BYTES: usize = 8 << 30;

impl Default for Limits {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let running = threads.max(LEAST_RUNNING);
        Self {
            memory_bytes: 2 << 30,
            total_memory_bytes: memory::of_machine().unwrap_or(UNKNOWN_MACHINE_BYTES) / 2,
            spill_bytes: 16 << 30,
            total_spill_bytes: 64 << 30,
            seconds: 600,
            rows: 1_000_000_000,
            bytes: 4 << 30,
            threads,
            running,
            running_per_organisation: running - 1,
            waiting: 1024,
            waiting_per_organisation: 128,
            waiting_seconds: 60,
            statement_bytes: statement::MAX_STATEMENT_BYTES,
        }
    }
}

impl Limits {
    /// Memory that every running query gets, bytes.
    #[must_use]
    pub fn memory_share(&self) -> usize {
        self.memory_bytes
            .min(self.total_memory_bytes / self.running.max(1))
    }

    /// Spill space that every running query gets, bytes.
    #[must_use]
    pub fn spill_share(&self) -> u64 {
        let running = u64::try_from(self.running.max(1)).unwrap_or(u64::MAX);
        self.spill_bytes.min(self.total_spill_bytes / running)
    }
}

/// The bounds of one hub: every query of it runs within.
pub struct Bounds {
    limits: Limits,
    spill_dir: PathBuf,
    admission: Arc<Admission>,
    engine: Engine,
    memory: Arc<Gauge>,
    spilled: Arc<Gauge>,
}

/// What is in use at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Queries that have their turn.
    pub running: usize,
    /// Queries that wait for it.
    pub waiting: usize,
    /// Memory of operators, bytes.
    pub memory_bytes: u64,
    /// Spill files, bytes.
    pub spill_bytes: u64,
}

impl Bounds {
    /// Bounds with nothing in use. Spill files come into `spill_dir`, which is made when it is first needed.
    #[must_use]
    pub fn new(limits: Limits, spill_dir: PathBuf) -> Self {
        Self {
            admission: Arc::new(Admission::new(&limits)),
            engine: Engine::new(limits.running.max(1), limits.threads.max(1)),
            limits,
            spill_dir,
            memory: Arc::default(),
            spilled: Arc::default(),
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is in use now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (running, waiting) = self.admission.counts();
        Usage {
            running,
            waiting,
            memory_bytes: self.memory.now(),
            spill_bytes: self.spilled.now(),
        }
    }

    /// Waits for the turn of a query of `org`, which will find its stores in `stores`.
    ///
    /// # Errors
    /// [`QueryError::QueueFull`] at once, [`QueryError::WaitedTooLong`] later, or the engine cannot be set up.
    pub async fn turn(
        &self,
        org: &OrgId,
        stores: Arc<dyn ObjectStoreRegistry>,
    ) -> Result<Turn, QueryError> {
        let ticket = Arc::new(self.admission.admit(org).await?);
        let (handle, crew) = self.engine.handle(ticket.slot())?;
        let running = Arc::downgrade(&ticket);
        tokio::spawn(async move {
            tokio::time::sleep(engine::LONG).await;
            // Held, so that the place is still this query's.
            if let Some(_ticket) = running.upgrade() {
                crew.give_way();
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let memory = QueryMemory::new(
            self.limits.memory_share(),
            Arc::clone(&self.memory),
            Arc::clone(&ticket),
            Arc::clone(&stop),
        );
        let space = SpillSpace::new(
            self.spill_dir.clone(),
            self.limits.spill_share(),
            Arc::clone(&self.spilled),
            Some(Arc::clone(&ticket)),
        );
        let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(space));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(memory))
            .with_disk_manager_builder(disk)
            .with_object_store_registry(stores)
            .build_arc()
            .map_err(|error| QueryError::from_planning(&error))?;
        Ok(Turn {
            runtime,
            handle,
            ticket,
            stop,
            limit: Duration::from_secs(self.limits.seconds),
        })
    }
}

/// The turn of one query. It is over when this, and everything that the query made in it, is dropped.
pub struct Turn {
    runtime: Arc<RuntimeEnv>,
    handle: Handle,
    ticket: Arc<Ticket>,
    stop: Arc<AtomicBool>,
    limit: Duration,
}

impl Turn {
    /// Memory and spill of the query.
    #[must_use]
    pub fn runtime(&self) -> Arc<RuntimeEnv> {
        Arc::clone(&self.runtime)
    }

    /// Does `work` on the query's own threads, for as long as a query may run; it is dropped there when this is.
    ///
    /// # Errors
    /// [`QueryError::TimedOut`], and an internal error when it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let work = engine::on(&self.handle, Arc::clone(&self.ticket), work);
        match tokio::time::timeout(self.limit, work).await {
            Ok(done) => done?,
            Err(_) => Err(QueryError::TimedOut {
                seconds: self.limit.as_secs(),
            }),
        }
    }

    /// The batches of a plan, made on the query's own threads.
    pub(crate) fn batches(
        &self,
        plan: Arc<dyn datafusion::physical_plan::ExecutionPlan>,
        context: Arc<datafusion::execution::TaskContext>,
    ) -> engine::Batches {
        engine::Batches::new(&self.handle, Arc::clone(&self.ticket), plan, context)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // What still computes for this query finds out between two rows.
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use datafusion::execution::object_store::DefaultObjectStoreRegistry;
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn gate_5_a_turn_that_takes_long_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds::new(Limits::default(), folder.path().to_owned());
        let stores = Arc::new(DefaultObjectStoreRegistry::new());
        let org = "bank".parse().unwrap();
        let turn = bounds.turn(&org, stores).await.unwrap();
        let priority = || {
            let now = async { Ok(getpriority_process(engine::this_thread()).unwrap()) };
            turn.run(now)
        };
        let begun = Instant::now();
        // As low as it goes: the tests themselves may run with a low one.
        while priority().await.unwrap() < engine::WAY_GIVEN {
            assert!(begun.elapsed() < 100 * engine::LONG, "it never gave way");
            tokio::time::sleep(engine::LONG / 10).await;
        }
    }
}
