//! An access: a decision, a query under it, and the two log entries without which nothing is released.
//!
//! GATE-3, step by step; each step waits for the one before:
//! 1. decide, and plan the statement over what the decision opens;
//! 2. append `access.decided` (a commitment to the scope, the ledger's position, the table versions) and wait until
//!    it is durable;
//! 3. check that nothing was taken away since the decision, else decide again; count metered uses;
//! 4. release batch by batch, each under the ledger's release lock after a last look at the epochs, once the
//!    [`Outlet`] has room for it;
//! 5. record what may be kept (action STORE) as a holding of the receiver;
//! 6. append `access.finished` (outcome, rows, SHA-256 of the bytes, the enterprises touched) and wait; only then
//!    does the caller hear that the answer is complete.
//!
//! What is refused before step 2 is an `access.denied` entry, and so is what never got here ([`Gate::refused`]). A
//! decision without finish (the process was killed) is closed by [`Gate::close_interrupted`] at the next start, touching its whole scope. [`terms`] says what may be done with
//! an answer under which action.

pub mod delivery;
mod entries;
mod held;
mod history;
mod outlet;
mod refused;
#[cfg(feature = "exploration")]
pub mod release;
#[cfg(not(feature = "exploration"))]
mod release;
mod statistics;
pub mod stored_scope;
pub mod terms;
mod unfinished;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::{
    DefaultObjectStoreRegistry, ObjectStoreRegistry, ObjectStoreUrl,
};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionConfig;
use futures::future::BoxFuture;
use futures::{FutureExt, future};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use qihui_audit::{AuditLog, Clock};
use qihui_catalog::{
    Action, Catalog, Coded, Contract, DatasetId, EnterpriseNo, EnterpriseNumbers, OrgId,
    PurposeCode, Timestamp, Uscc,
};
use qihui_consent::decision::{DatasetScope, DecisionRequest, Form};
use qihui_consent::ledger::MeteredUse;
use qihui_consent::{Decision, Ledger};
use qihui_warehouse::{Snapshot, Warehouse, WarehouseError};
use serde::Serialize;

use crate::account::{Account, Passed};
pub use crate::bounds::{Bounds, Limits};
use crate::bounds::{Turn, statement};
use crate::dense::{DenseScope, DenseScopes};
use crate::error::QueryError;
use crate::exec::Permit;
use crate::explain::explain;
use crate::formats::{Encoder, Format};
use crate::provider::{MIN_INSIDE_ROWS, TableVersion};
use crate::reader::READER_STORE;
use crate::session::{self, ParsedQuery, Planned, SessionSetup};
use crate::whole;
pub use entries::new_access_id;
use entries::{Accessed, Finish};
pub use history::{AccessRecord, Manifest, access_at, accesses_of, manifest_of};
pub use outlet::{Outlet, ReleasePermit};
pub use refused::RefusedRequest;
use release::{Epochs, Release, Released};
use statistics::Figures;
pub use statistics::{MAX_QUESTIONS, StatisticSummary};
pub use terms::{Keep, Terms, VIEW_ROWS};
pub use unfinished::Unfinished;

/// How often a query looks whether what it rests on stands, whatever else it does.
const LOOK: Duration = Duration::from_millis(200);

/// What a gate is made of.
pub struct GateParts {
    /// Contracts and purposes.
    pub catalog: Arc<Catalog>,
    /// Agreements and grants.
    pub ledger: Ledger,
    /// Where accesses are recorded.
    pub log: Arc<AuditLog>,
    /// The tables.
    pub warehouse: Warehouse,
    /// What queries may use: the hub's, whose every gate has the same.
    pub bounds: Arc<Bounds>,
    /// The accesses without an end: the hub's, too.
    pub unfinished: Arc<Unfinished>,
    /// The hub's time.
    pub clock: Arc<dyn Clock>,
}

/// The way to the data: every row that leaves the hub leaves through it.
pub struct Gate {
    parts: GateParts,
    reader: Arc<TaskContext>,
    scopes: DenseScopes,
}

/// Who asks what, for whom and why.
#[derive(Debug, Clone)]
pub struct AccessRequest {
    /// The person or process, e.g. `local:root`.
    pub principal: String,
    /// The organisation it acts for.
    pub org: OrgId,
    /// The purpose.
    pub purpose: PurposeCode,
    /// What is done with the rows.
    pub action: Action,
    /// The enterprises asked about; none named: all that the scope covers.
    pub subjects: Vec<Uscc>,
    /// One SELECT statement.
    pub sql: String,
    /// How the answer is written.
    pub format: Format,
    /// Use strict mode whatever the query.
    pub strict: bool,
}

/// What an answer came to.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The access, as in the log.
    pub access_id: String,
    /// Index of the `access.decided` entry.
    pub decided: u64,
    /// Index of the `access.finished` entry.
    pub finished: u64,
    /// Rows of the answer.
    pub rows: u64,
    /// Bytes of the answer.
    pub bytes: u64,
    /// SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
    /// Whether the query ran in strict mode.
    pub strict: bool,
    /// Columns of the answer.
    pub columns: Vec<String>,
    /// What was read of each dataset.
    pub datasets: BTreeMap<DatasetId, DatasetSummary>,
    /// What the receiver may do with it.
    pub terms: Terms,
}

/// What a query read of one dataset.
#[derive(Debug, Clone, Serialize)]
pub struct DatasetSummary {
    /// Version of the table; -1 before anything was landed. None where not every row and cell is open as it is: a version
    /// is made whenever rows of anybody are landed, or corrected in what is closed, and the log alone has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_version: Option<i64>,
    /// How many enterprises the scope covers; none: every one.
    pub enterprises: Option<u64>,
    /// Rows that passed the gate.
    pub rows: u64,
    /// Cells withheld in those rows, per column that the query read.
    pub withheld: BTreeMap<String, u64>,
    /// Enterprises whose grants count for nothing in this answer: something of them was taken away while the query ran,
    /// before a row of theirs had passed.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Of a dataset whose rows stay closed, the groups that were told and withheld; what was read is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistic: Option<StatisticSummary>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde hands to it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Stands for a subject whose code the hub does not know: an enterprise that has no rows and gave no consent, and no
/// refusal or answer may tell the one from the other. No number is as high, since they are stored in 31 bits.
const NOBODY: EnterpriseNo = EnterpriseNo(u32::MAX);

/// Stores of the query's own session: none, so that no statement can reach a file or a network.
#[derive(Debug)]
pub(crate) struct NoStores;

impl ObjectStoreRegistry for NoStores {
    fn register_store(
        &self,
        _: &url::Url,
        _: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, _: &url::Url) -> datafusion::common::Result<Arc<dyn ObjectStore>> {
        datafusion::common::exec_err!("a query reaches no store")
    }
}

fn unreadable(error: &WarehouseError) -> QueryError {
    QueryError::unreadable(error)
}

fn engine(error: &datafusion::error::DataFusionError) -> QueryError {
    QueryError::from_planning(error)
}

/// The context of the readers below the gate, with their cache of file metadata.
///
/// # Errors
/// When the engine cannot be set up.
pub fn reader_context() -> Result<Arc<TaskContext>, QueryError> {
    // The readers are handed their store; the engine only insists on finding one under the scan's URL.
    let registry = DefaultObjectStoreRegistry::new();
    let url = ObjectStoreUrl::parse(READER_STORE).map_err(|error| engine(&error))?;
    registry.register_store(url.as_ref(), Arc::new(InMemory::new()));
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(registry))
        .build_arc()
        .map_err(|error| engine(&error))?;
    Ok(Arc::new(
        TaskContext::default()
            .with_session_config(SessionConfig::new())
            .with_runtime(runtime),
    ))
}

impl Gate {
    /// A gate over a hub's parts.
    ///
    /// # Errors
    /// When the engine cannot be set up.
    pub fn new(parts: GateParts) -> Result<Self, QueryError> {
        Ok(Self {
            reader: reader_context()?,
            parts,
            scopes: DenseScopes::default(),
        })
    }

    /// Answers a request into `out`. Bytes reach it only once the decision is durable; this returns only once the
    /// finish is, so what was written is complete exactly when it returns `Ok`.
    ///
    /// # Errors
    /// [`QueryError`]; the refusal or failure is in the log, unless the log itself fails, and then nothing leaves.
    pub async fn query(
        &self,
        request: &AccessRequest,
        out: &mut dyn Outlet,
    ) -> Result<Summary, QueryError> {
        Box::pin(self.query_as(&entries::new_access_id()?, request, out)).await
    }

    /// The same under a name from [`new_access_id`], for callers that tell it before the answer is complete.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn query_as(
        &self,
        access_id: &str,
        request: &AccessRequest,
        out: &mut dyn Outlet,
    ) -> Result<Summary, QueryError> {
        let turn = match terms::check(request) {
            Ok(()) => self.turn(request, out.gone()).await,
            Err(error) => Err(error),
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(error) => return Err(self.denied(request, access_id, error).await),
        };
        // A change before the first byte is answered by deciding again, once.
        for last in [false, true] {
            let mut prepared =
                match survive(Box::pin(self.prepare(request, access_id, &turn))).await {
                    Ok(prepared) => prepared,
                    Err(error) => return Err(self.denied(request, access_id, error).await),
                };
            prepared.decide_again = !last;
            prepared.leaves = true;
            match self.run(request, access_id, prepared, out, &turn).await {
                Err((QueryError::ConsentChanged, false)) if !last => {}
                Err((error, _)) => return Err(error),
                Ok(summary) => return Ok(summary),
            }
        }
        Err(QueryError::ConsentChanged)
    }

    /// The rows that a hypothetical scope shows: what an enterprise looks at before it grants. Recorded like any
    /// access, as one by `principal` about `consent`.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn preview(
        &self,
        request: &AccessRequest,
        scopes: BTreeMap<DatasetId, DatasetScope>,
    ) -> Result<Vec<(DatasetId, RecordBatch)>, QueryError> {
        let turn = match self.turn(request, future::pending().boxed()).await {
            Ok(turn) => turn,
            Err(error) => {
                self.refused(&request.into(), error.code()).await?;
                return Err(error);
            }
        };
        let mut shown = Vec::new();
        for (dataset, scope) in scopes {
            if scope.columns.is_empty() {
                continue;
            }
            let request = AccessRequest {
                sql: format!("SELECT * FROM {dataset}"),
                ..request.clone()
            };
            let rows = self.preview_of(&request, (&dataset, scope), &turn).await?;
            shown.push((dataset, rows));
        }
        Ok(shown)
    }

    /// The rows of one dataset that a hypothetical scope shows.
    async fn preview_of(
        &self,
        request: &AccessRequest,
        about: (&DatasetId, DatasetScope),
        turn: &Turn,
    ) -> Result<RecordBatch, QueryError> {
        let access_id = entries::new_access_id()?;
        let planned = survive(Box::pin(self.plan_preview(request, about, turn))).await;
        let prepared = match planned {
            Ok(prepared) => prepared,
            Err(error) => return Err(self.denied(request, &access_id, error).await),
        };
        let mut batches = Vec::new();
        let schema = prepared.planned.physical.schema();
        self.run_with(
            request,
            &access_id,
            prepared,
            &mut std::io::sink(),
            &mut |batch| {
                batches.push(batch.clone());
            },
            turn,
        )
        .await
        .map_err(|(error, _)| error)?;
        arrow::compute::concat_batches(&schema, &batches).map_err(|_| QueryError::Internal {
            what: "joining a preview's batches",
        })
    }

    /// Plans a preview over its hypothetical scope, as if that had been decided.
    async fn plan_preview(
        &self,
        request: &AccessRequest,
        (dataset, scope): (&DatasetId, DatasetScope),
        turn: &Turn,
    ) -> Result<Prepared, QueryError> {
        let query = session::parse(&request.sql)?;
        let decision = Decision {
            ledger_position: self.ledger(self.parts.ledger.position().await)?,
            logged_position: 0,
            epochs: BTreeMap::new(),
            scopes: BTreeMap::from([(dataset.clone(), Arc::new(scope))]),
            uses: Vec::new(),
        };
        self.plan(request, query, decision, self.now(), turn).await
    }

    /// Waits for the turn of a request, until its receiver is `gone`.
    async fn turn(
        &self,
        request: &AccessRequest,
        gone: BoxFuture<'static, ()>,
    ) -> Result<Turn, QueryError> {
        let bounds = &self.parts.bounds;
        statement::check_length(&request.sql, bounds.limits().statement_bytes)?;
        tokio::select! {
            turn = bounds.turn(&request.org, Arc::new(NoStores)) => turn,
            () = gone => Err(receiver_gone()),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.parts.clock.now_ms())
    }

    /// When a query that was decided at an instant is over.
    fn deadline(&self, at: Timestamp) -> Timestamp {
        let seconds = i64::try_from(self.limits().seconds).unwrap_or(i64::MAX / 1000);
        Timestamp(at.0.saturating_add(seconds.saturating_mul(1000)))
    }

    fn ledger<T>(&self, result: Result<T, qihui_consent::LedgerError>) -> Result<T, QueryError> {
        result.map_err(|error| QueryError::Refused(Box::new(error)))
    }

    /// Decides, and plans the statement over what is open.
    async fn prepare(
        &self,
        request: &AccessRequest,
        access_id: &str,
        turn: &Turn,
    ) -> Result<Prepared, QueryError> {
        let sql = request.sql.clone();
        let query = turn.run(async move { session::parse(&sql) }).await?;
        let datasets = self.datasets(&query)?;
        let subjects = self.subjects(&request.subjects)?;
        let at = self.now();
        let mut decision = self
            .parts
            .ledger
            .decide_for(
                &self.parts.catalog,
                &DecisionRequest {
                    org: request.org.clone(),
                    purpose: request.purpose.clone(),
                    action: request.action,
                    at,
                    until: self.deadline(at),
                    subjects,
                    datasets: datasets
                        .iter()
                        .map(|contract| contract.id.clone())
                        .collect(),
                },
                Some(access_id),
            )
            .await
            .map_err(|error| QueryError::Refused(Box::new(error)))?;
        for contract in &datasets {
            self.recorded(contract).await?;
        }
        for scope in decision.scopes.values_mut() {
            let named = scope.subjects.as_ref();
            if named.is_some_and(|subjects| subjects.contains(NOBODY.0)) {
                let scope = Arc::make_mut(scope);
                scope.subjects = scope.subjects.take().map(|mut subjects| {
                    subjects.remove(NOBODY.0);
                    subjects
                });
            }
        }
        if let Some(parts) = crate::statistics::parts(&decision.scopes)? {
            let of = (request, access_id);
            let planning = self.plan_statistic(of, query, decision, parts, (at, turn));
            return Box::pin(planning).await;
        }
        for (dataset, scope) in &decision.scopes {
            if scope.columns.is_empty() {
                return Err(QueryError::DatasetNotInAgreement {
                    dataset: dataset.clone(),
                    org: request.org.clone(),
                    purpose: request.purpose.clone(),
                });
            }
        }
        self.plan(request, query, decision, at, turn).await
    }

    /// The contracts of the tables that a statement names.
    fn datasets(&self, query: &ParsedQuery) -> Result<Vec<Arc<Contract>>, QueryError> {
        let mut contracts: BTreeMap<DatasetId, Arc<Contract>> = BTreeMap::new();
        for name in &query.tables {
            let plain = name
                .strip_prefix("qihui.data.")
                .or_else(|| name.strip_prefix("data."))
                .unwrap_or(name);
            let contract = plain
                .parse()
                .ok()
                .and_then(|id: DatasetId| self.parts.catalog.contract(&id).cloned());
            let contract =
                contract.ok_or_else(|| QueryError::UnknownDataset { name: name.clone() })?;
            contracts.insert(contract.id.clone(), contract);
        }
        Ok(contracts.into_values().collect())
    }

    fn subjects(&self, codes: &[Uscc]) -> Result<Option<Vec<EnterpriseNo>>, QueryError> {
        if codes.is_empty() {
            return Ok(None);
        }
        let found = self
            .parts
            .ledger
            .lookup(codes)
            .map_err(|error| QueryError::Refused(Box::new(error)))?;
        let numbers = found.into_iter().map(|no| no.unwrap_or(NOBODY));
        Ok(Some(numbers.collect()))
    }

    async fn recorded(&self, contract: &Contract) -> Result<(), QueryError> {
        recorded(&self.parts.catalog, &self.parts.ledger, contract).await
    }

    async fn plan(
        &self,
        request: &AccessRequest,
        query: ParsedQuery,
        decision: Decision,
        at: Timestamp,
        turn: &Turn,
    ) -> Result<Prepared, QueryError> {
        let scopes = self.scopes.all(&decision.scopes);
        let mut tables = BTreeMap::new();
        for dataset in scopes.keys() {
            tables.insert(dataset.clone(), Arc::new(self.table(dataset).await?));
        }
        let account = Arc::new(Account::new(self.limits().rows));
        let epochs = self.epochs(request, (&decision, at), &account, &scopes);
        let setup = SessionSetup {
            scopes: scopes.clone(),
            tables: tables.clone(),
            at,
            permit: Arc::clone(&epochs) as Arc<dyn Permit>,
            numbers: Some(Arc::new(self.parts.ledger.clone())),
            runtime: turn.runtime(),
            reader: Arc::clone(&self.reader),
            partitions: self.limits().threads.max(1),
            account,
            strict: request.strict,
            min_inside_rows: MIN_INSIDE_ROWS,
        };
        let explain = query.explain;
        let planned = turn
            .run(Box::pin(async move { session::plan(&query, setup).await }))
            .await
            .map_err(|error| self.limited(error))?;
        Ok(Prepared {
            explain,
            decision,
            at,
            scopes,
            tables,
            read: planned.read.clone(),
            planned,
            epochs,
            decide_again: false,
            figures: None,
            leaves: false,
        })
    }

    /// What a query looks at as long as it runs: whether the decision that it rests on, made at an instant, still stands.
    fn epochs(
        &self,
        request: &AccessRequest,
        (decision, at): (&Decision, Timestamp),
        account: &Arc<Account>,
        scopes: &BTreeMap<DatasetId, Arc<DenseScope>>,
    ) -> Arc<Epochs> {
        let epochs = Epochs::new(
            self.parts.ledger.losses(),
            request.org.clone(),
            request.purpose.clone(),
            decision.epochs.clone(),
        );
        let clock = Arc::clone(&self.parts.clock);
        let seconds = self.limits().seconds;
        let epochs = epochs.dropping(Arc::clone(account), scopes.clone());
        Arc::new(epochs.until(clock, self.deadline(at), seconds))
    }

    fn limits(&self) -> &Limits {
        self.parts.bounds.limits()
    }

    async fn table(&self, dataset: &DatasetId) -> Result<TableVersion, QueryError> {
        match self.parts.warehouse.snapshot(dataset).await {
            Ok(Some(snapshot)) => {
                built(&self.parts.catalog, dataset, &snapshot)?;
                whole::table_version(&self.parts.warehouse, &snapshot).await
            }
            Ok(None) => Ok(whole::never_landed()),
            Err(error) => Err(unreadable(&error)),
        }
    }

    async fn run(
        &self,
        request: &AccessRequest,
        access_id: &str,
        prepared: Prepared,
        out: &mut dyn Outlet,
        turn: &Turn,
    ) -> Result<Summary, (QueryError, bool)> {
        self.run_with(request, access_id, prepared, out, &mut |_| {}, turn)
            .await
    }

    /// Records, runs, releases, records. The flag of an error says whether a byte was released.
    async fn run_with(
        &self,
        request: &AccessRequest,
        access_id: &str,
        prepared: Prepared,
        out: &mut dyn Outlet,
        seen: &mut (dyn FnMut(&RecordBatch) + Send),
        turn: &Turn,
    ) -> Result<Summary, (QueryError, bool)> {
        let accessed = Accessed::new(request, access_id, &prepared);
        let (decided, without_end) = self
            .record_decision(&accessed.decided())
            .await
            .map_err(|error| (error, false))?;
        let gone = out.gone();
        let mut release = Release::new(Arc::clone(&prepared.epochs), out, self.limits().bytes);
        let (outcome, uses) = match self.count_uses(access_id, &prepared).await {
            Ok(uses) => {
                let work = survive(self.stream(request, &prepared, &mut release, seen, turn));
                let outcome = tokio::select! {
                    result = work => result,
                    // A connection is cut, too, when what it carries was taken away: that is the better reason.
                    () = gone => Err(prepared.epochs.check().err().unwrap_or_else(receiver_gone)),
                };
                (outcome, uses)
            }
            Err(error) => (Err(error), Vec::new()),
        };
        let (error, rows) = match outcome {
            Ok(rows) => (None, rows),
            Err(error) => (Some(error), 0),
        };
        let released = release.finish();
        let begun = released.bytes > 0;
        let keeps = prepared.leaves && request.action == Action::Store && !prepared.explain;
        let holding = if keeps && begun {
            // How many rows a part of an answer has was not counted.
            let came_to = (error.is_none().then_some(rows), &released);
            let held = self.hold(request, access_id, &prepared, came_to).await;
            // Without its holding the access gets no end: the next start sees to both.
            Some(held.map_err(|error| (error, begun))?)
        } else {
            None
        };
        let finish = Finish {
            decided,
            outcome: error.as_ref().map_or("complete", Coded::code),
            rows,
            bytes: released.bytes,
            sha256: released.sha256.clone(),
            account: &prepared.planned.account,
            figures: prepared.figures.as_ref(),
            uses: uses.iter().map(named).collect(),
            holding: holding.as_ref(),
        };
        let finished = accessed.finished(&finish);
        let finished = self.record_end(&finished, without_end).await;
        let kept = holding.map(|held| (held.document.holding_id, held.keep_until));
        let terms = Terms::new(request.action, prepared.is_open_data(), kept);
        match (error, finished) {
            (Some(error), _) => Err((error, begun)),
            (None, Err(error)) => Err((error, begun)),
            (None, Ok(finished)) => {
                let entries = (decided, finished);
                Ok(summary(
                    access_id, &prepared, entries, rows, released, terms,
                ))
            }
        }
    }

    /// Counts the uses that an access makes, unless something was taken away since its decision or no row can come of it.
    async fn count_uses(
        &self,
        access_id: &str,
        prepared: &Prepared,
    ) -> Result<Vec<MeteredUse>, QueryError> {
        if prepared.explain {
            return Ok(Vec::new());
        }
        if prepared.decide_again && !prepared.epochs.are_current() {
            return Err(QueryError::ConsentChanged);
        }
        let counted = self.parts.ledger.count_uses(access_id, &prepared.decision);
        counted
            .await
            .map_err(|error| QueryError::Refused(Box::new(error)))
    }

    /// Runs the plan and releases its batches; gives the rows of the answer.
    async fn stream(
        &self,
        request: &AccessRequest,
        prepared: &Prepared,
        release: &mut Release<'_>,
        seen: &mut (dyn FnMut(&RecordBatch) + Send),
        turn: &Turn,
    ) -> Result<u64, QueryError> {
        if prepared.explain {
            let (written, strict) = (prepared.planned.written.clone(), prepared.planned.strict);
            let scopes = prepared.scopes.clone();
            let text = turn
                .run(async move { Ok(explain(&written, strict, &scopes)) })
                .await?;
            release.bytes(text.as_bytes()).await?;
            release.all_left().await?;
            return Ok(0);
        }
        if prepared.decide_again && !prepared.epochs.are_current() {
            return Err(QueryError::ConsentChanged);
        }
        let limit = prepared.epochs.left();
        let limit = limit.unwrap_or(Duration::from_secs(self.limits().seconds));
        let work = async {
            let physical = Arc::clone(&prepared.planned.physical);
            let mut encoder = Encoder::new(request.format, &physical.schema())?;
            let context = Arc::clone(&prepared.planned.context);
            let mut batches = turn.batches(physical, context);
            let mut rows = 0;
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(|error| self.running(&error))?;
                rows += batch.num_rows() as u64;
                if prepared.leaves && request.action == Action::View && rows > VIEW_ROWS {
                    return Err(QueryError::TooLargeToView { limit: VIEW_ROWS });
                }
                let bytes = encoder.batch(&batch)?;
                release.bytes(&bytes).await?;
                seen(&batch);
            }
            release.bytes(&encoder.finish()?).await?;
            release.all_left().await?;
            Ok(rows)
        };
        let work = watched(&prepared.epochs, work);
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(QueryError::TimedOut {
                seconds: self.limits().seconds,
            }),
        }
    }

    /// A failure while running, with the limit that it met.
    fn running(&self, error: &datafusion::error::DataFusionError) -> QueryError {
        self.limited(QueryError::from_running(error))
    }

    /// The same with the limit that the engine does not tell.
    fn limited(&self, error: QueryError) -> QueryError {
        match error {
            QueryError::OutOfMemory { .. } => QueryError::OutOfMemory {
                limit: self.limits().memory_share() as u64,
            },
            error => error,
        }
    }
}

/// Refuses a contract or purpose tree whose version is not in the log.
pub(crate) async fn recorded(
    catalog: &Catalog,
    ledger: &Ledger,
    contract: &Contract,
) -> Result<(), QueryError> {
    let mut rules = catalog.rules_of(&contract.id);
    rules.push(("purposes", "purposes", catalog.purposes.hash));
    for (kind, id, hash) in rules {
        let recorded = ledger.artefact_recorded(kind, id, &hash).await;
        if !recorded.map_err(|error| QueryError::Refused(Box::new(error)))? {
            return Err(QueryError::ContractNotRecorded {
                dataset: contract.id.clone(),
                version: contract.version.clone(),
            });
        }
    }
    Ok(())
}

/// Refuses a product whose rows were made by other rules than those that are recorded: its contract would speak of
/// columns that its table does not hold.
pub(crate) fn built(
    catalog: &Catalog,
    dataset: &DatasetId,
    snapshot: &Snapshot,
) -> Result<(), QueryError> {
    match catalog.product_stamp(dataset) {
        Some(stamp) if snapshot.mark(whole::STAMP_MARK) != Some(stamp.as_str()) => {
            Err(QueryError::ProductNotBuilt {
                dataset: dataset.clone(),
            })
        }
        _ => Ok(()),
    }
}

fn receiver_gone() -> QueryError {
    QueryError::Output {
        message: "the receiver is gone".to_owned(),
    }
}

/// Does `work` as long as what it rests on stands. A query that sorts, or waits for a slow receiver, looks at nothing
/// itself; and nobody remembers all losses for ever.
async fn watched<T>(
    epochs: &Epochs,
    work: impl Future<Output = Result<T, QueryError>>,
) -> Result<T, QueryError> {
    let mut work = std::pin::pin!(work);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = looks.tick() => epochs.check()?,
        }
    }
}

/// An engine that panics is an engine that failed: the access still gets its end in the log.
async fn survive<T>(work: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
    let failed = QueryError::Internal {
        what: "the engine, which stopped unexpectedly",
    };
    let work = AssertUnwindSafe(work).catch_unwind();
    work.await.unwrap_or(Err(failed))
}

/// A decision and the plan under it.
struct Prepared {
    explain: bool,
    decision: Decision,
    at: Timestamp,
    scopes: BTreeMap<DatasetId, Arc<DenseScope>>,
    tables: BTreeMap<DatasetId, Arc<TableVersion>>,
    planned: Planned,
    epochs: Arc<Epochs>,
    /// Whether a change before the first batch ends the run, so that it is decided anew.
    decide_again: bool,
    /// The columns read of each table.
    read: BTreeMap<String, BTreeSet<String>>,
    /// The figures that are told, when rows stay closed.
    figures: Option<Figures>,
    /// Whether the answer leaves the hub; a preview is of what nobody has yet.
    leaves: bool,
}

impl Prepared {
    /// Whether every row and cell of the answer is open to everybody.
    fn is_open_data(&self) -> bool {
        let mut scopes = self.scopes.values().map(|scope| scope.scope());
        self.figures.is_none() && scopes.all(|scope| scope.agreements.is_empty())
    }
}

/// Whether every row of a dataset is open, and every cell in it as it is.
fn every_cell(scope: &DatasetScope) -> bool {
    let is_open = |name: &str| {
        let mut columns = scope.columns.iter();
        columns.any(|column| column.name == name && column.always && column.form == Form::Clear)
    };
    let every_row = scope.all_rows && scope.subjects.is_none() && scope.contract.window.is_none();
    every_row && scope.contract.landed().all(|column| is_open(&column.name))
}

fn summary(
    access_id: &str,
    prepared: &Prepared,
    (decided, finished): (u64, u64),
    rows: u64,
    released: Released,
    terms: Terms,
) -> Summary {
    let mut passed = prepared.planned.account.passed();
    let mut read = prepared.read.clone();
    let datasets = prepared
        .scopes
        .iter()
        .map(|(dataset, scope)| {
            let figures = prepared.figures.as_ref();
            let figures = figures.filter(|figures| figures.measured == *dataset);
            // What was read of everybody is nobody's to know.
            let passed = match figures {
                Some(_) => Passed::default(),
                None => passed.remove(dataset).unwrap_or_default(),
            };
            let scope = scope.scope();
            let columns = read.remove(dataset.as_str()).unwrap_or_default();
            let mut withheld: BTreeMap<String, u64> =
                columns.into_iter().map(|column| (column, 0)).collect();
            withheld.extend(passed.withheld);
            let table = prepared.tables.get(dataset);
            let summary = DatasetSummary {
                table_version: every_cell(scope).then(|| table.map_or(-1, |table| table.version)),
                enterprises: (!scope.all_rows && figures.is_none()).then(|| scope.enterprises()),
                rows: passed.rows,
                withheld,
                dropped: passed.dropped.len(),
                statistic: figures.and_then(Figures::summary),
            };
            (dataset.clone(), summary)
        })
        .collect();
    let schema = prepared.planned.physical.schema();
    Summary {
        access_id: access_id.to_owned(),
        decided,
        finished,
        rows,
        bytes: released.bytes,
        sha256: released.sha256,
        strict: prepared.planned.strict,
        columns: schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect(),
        datasets,
        terms,
    }
}

fn named(used: &MeteredUse) -> (String, EnterpriseNo) {
    (used.consent_id.to_string(), used.no)
}
