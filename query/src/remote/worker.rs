//! A process that runs plans of a hub.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::TaskContext;
use parking_lot::Mutex;
use qihui_audit::Clock;
use qihui_catalog::{Catalog, Coded, Timestamp};
use qihui_consent::Ledger;
use qihui_warehouse::Warehouse;
use tokio::io::AsyncWrite;

use super::answer::AnswerWriter;
use super::codec::{self, GateCodec};
use super::message::{Header, open_plan};
use super::refused;
use super::report::Report;
use super::resolver::Redecided;
use super::seal::{PlanKey, random};
use crate::access::{NoStores, reader_context};
use crate::account::Account;
use crate::bounds::Bounds;
use crate::dense::DenseScopes;
use crate::error::QueryError;
use crate::exec::Permit as _;
use crate::session;

/// What a worker is made of.
pub struct WorkerParts {
    /// Contracts and purposes.
    pub catalog: Arc<Catalog>,
    /// The ledger that the hub owns ([`Ledger::follow`]).
    pub ledger: Ledger,
    /// The tables.
    pub warehouse: Warehouse,
    /// What plans may use here.
    pub bounds: Arc<Bounds>,
    /// The hub's time.
    pub clock: Arc<dyn Clock>,
    /// The key that the hub seals with.
    pub key: PlanKey,
}

/// Runs plans of a hub. It has no log and no outlet: what it makes of a plan goes back to the hub.
pub struct Worker {
    id: String,
    parts: Arc<WorkerParts>,
    reader: Arc<TaskContext>,
    scopes: Arc<DenseScopes>,
    /// The messages that were run, with their deadlines: none is run twice.
    ran: Mutex<BTreeMap<String, i64>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker under a name that nobody had before, so that no message to an earlier one is for it.
    ///
    /// # Errors
    /// When the engine cannot be set up.
    pub fn new(parts: WorkerParts) -> Result<Self, QueryError> {
        Ok(Self {
            id: hex::encode(random::<16>()?),
            parts: Arc::new(parts),
            reader: reader_context()?,
            scopes: Arc::default(),
            ran: Mutex::default(),
        })
    }

    /// Its name, to which plans are sealed.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs a sealed plan and writes the answer to it, which tells of a failure too.
    ///
    /// # Errors
    /// What the plan came to. Nothing is written when the message is not for this worker to run.
    pub async fn answer(
        &self,
        sealed: &[u8],
        out: &mut (dyn AsyncWrite + Unpin + Send),
    ) -> Result<(), QueryError> {
        let (header, plan) = open_plan(sealed, &self.parts.key)?;
        self.admit(&header)?;
        let rows = self.parts.bounds.limits().rows.min(header.access.max_rows);
        let account = Arc::new(Account::new(rows));
        let mut writer = AnswerWriter::new(out).await?;
        let done = Box::pin(self.run(&header, plan, &account, &mut writer)).await;
        let error = done.as_ref().err().map(Coded::code);
        let report = Report::of(&account)?;
        let ended = writer.end(&header.message, error, report, &self.parts.key);
        ended.await.and(done)
    }

    /// Whether a message is for this worker, in time, and new.
    fn admit(&self, header: &Header) -> Result<(), QueryError> {
        let now = self.parts.clock.now_ms();
        if header.worker != self.id {
            return Err(refused("it is for another worker"));
        }
        if header.access.until <= now {
            return Err(refused("the deadline of its query has passed"));
        }
        let mut ran = self.ran.lock();
        ran.retain(|_, until| *until > now);
        let again = ran.insert(header.message.clone(), header.access.until);
        match again {
            None => Ok(()),
            Some(_) => Err(refused("it was run before")),
        }
    }

    async fn run(
        &self,
        header: &Header,
        plan: &[u8],
        account: &Arc<Account>,
        writer: &mut AnswerWriter<'_>,
    ) -> Result<(), QueryError> {
        let access = Arc::new(header.access.clone());
        let turn = self.parts.bounds.turn(&access.org, Arc::new(NoStores));
        let turn = turn.await?;
        let resolver = Arc::new(Redecided::new(
            Arc::clone(&self.parts),
            Arc::clone(&access),
            Arc::clone(account),
            Arc::clone(&self.reader),
            Arc::clone(&self.scopes),
        ));
        let runtime = turn.runtime();
        let codec = GateCodec::receiving(
            self.parts.key.clone(),
            Arc::clone(&access),
            Arc::clone(&resolver) as _,
            &runtime.memory_pool,
        );
        let size = (header.batch_rows, header.partitions);
        let context = session::context(runtime, Timestamp(access.at), size)?;
        let (bytes, functions) = (plan.to_vec(), Arc::clone(&context));
        let plan = turn
            .run(async move { codec::from_bytes(&bytes, &codec, &functions) })
            .await?;
        // A plan whose gates would never be asked is refused all the same.
        resolver.scopes().await?;
        writer.begin(&plan.schema())?;
        let left = access.until.saturating_sub(self.parts.clock.now_ms());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let work = async {
            let mut batches = turn.batches(plan, context);
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(|error| QueryError::from_running(&error))?;
                resolver.lease().check()?;
                writer.batch(&batch).await?;
            }
            resolver.lease().check()
        };
        tokio::select! {
            done = tokio::time::timeout(left, work) => done.unwrap_or(Err(QueryError::TimedOut {
                seconds: left.as_secs(),
            })),
            changed = resolver.watch() => Err(changed),
        }
    }
}
