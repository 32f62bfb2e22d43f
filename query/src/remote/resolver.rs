//! Finding out, from a ledger and a warehouse, what the gates of one access need.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use qihui_catalog::DatasetId;
use qihui_consent::decision::DatasetScope;
use qihui_consent::{DecisionError, LedgerError};
use qihui_warehouse::WarehouseError;
use tokio::sync::OnceCell;

use super::gate::{GateResolver, Resolved};
use super::lease::{LEASE, Lease};
use super::refused;
use super::task::{AccessTask, DatasetTask};
use super::worker::WorkerParts;
use crate::access;
use crate::account::Account;
use crate::dense::{DenseScope, DenseScopes};
use crate::error::QueryError;
use crate::exec::Permit;
use crate::provider::TableVersion;
use crate::whole;

/// Resolves the gates of one access. All of them share one decision, one account and one lease.
pub(crate) struct Redecided {
    parts: Arc<WorkerParts>,
    access: Arc<AccessTask>,
    account: Arc<Account>,
    lease: Arc<Lease>,
    reader: Arc<TaskContext>,
    kept: Arc<DenseScopes>,
    scopes: OnceCell<BTreeMap<DatasetId, Arc<DenseScope>>>,
    /// The position of the ledger as of which all is well.
    seen: AtomicU64,
}

impl fmt::Debug for Redecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redecided")
            .field("access", &self.access.access_id)
            .finish_non_exhaustive()
    }
}

impl Redecided {
    pub(crate) fn new(
        parts: Arc<WorkerParts>,
        access: Arc<AccessTask>,
        account: Arc<Account>,
        reader: Arc<TaskContext>,
        kept: Arc<DenseScopes>,
    ) -> Self {
        Self {
            parts,
            access,
            account,
            lease: Arc::default(),
            reader,
            kept,
            scopes: OnceCell::new(),
            seen: AtomicU64::new(0),
        }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The scopes, decided again.
    pub(crate) async fn scopes(&self) -> Result<&BTreeMap<DatasetId, Arc<DenseScope>>, QueryError> {
        let decide = async || Ok(self.kept.all(&self.decide().await?));
        self.scopes.get_or_try_init(decide).await
    }

    /// Looks, time and again, whether everything still stands. Ends only when it does not.
    pub(crate) async fn watch(&self) -> QueryError {
        loop {
            tokio::time::sleep(LEASE / 4).await;
            if self.scopes.initialized()
                && let Err(QueryError::ConsentChanged | QueryError::PlanRefused { .. }) =
                    self.look().await
            {
                self.lease.lose();
                return QueryError::ConsentChanged;
            }
        }
    }

    async fn look(&self) -> Result<(), QueryError> {
        let begun = Instant::now();
        if self.position().await? == self.seen.load(Ordering::Acquire) {
            self.lease.renew(begun);
            return Ok(());
        }
        self.decide().await.map(drop)
    }

    async fn position(&self) -> Result<u64, QueryError> {
        self.parts.ledger.position().await.map_err(|_| unheard())
    }

    /// Decides again on what the ledger held then, less what was taken away since; then renews the lease.
    async fn decide(&self) -> Result<BTreeMap<DatasetId, Arc<DatasetScope>>, QueryError> {
        let (parts, access) = (&self.parts, &self.access);
        let begun = Instant::now();
        let position = self.position().await?;
        if position < access.ledger_position {
            return Err(refused("the ledger here does not reach its decision"));
        }
        let hash = parts.ledger.hash_at(access.ledger_position).await;
        let hash = hash.map_err(|_| unheard())?.unwrap_or_default();
        if hex::encode(hash) != access.ledger_hash {
            return Err(refused("the ledger here has another history"));
        }
        for (dataset, task) in &access.datasets {
            self.check_contract(dataset, task, position).await?;
        }
        let (request, logged) = (access.request(), access.logged_position);
        let decision =
            parts
                .ledger
                .decide_again(&parts.catalog, &request, &access.access_id, logged);
        let decision = decision.await.map_err(|error| match error {
            DecisionError::Ledger(LedgerError::Behind { .. }) => {
                refused("the ledger here does not reach its decision")
            }
            DecisionError::Ledger(_) => unheard(),
            _ => self.no_longer(position),
        })?;
        for (dataset, task) in &access.datasets {
            let scope = decision.scopes.get(dataset);
            let commitment = scope.map(|scope| hex::encode(scope.commitment()));
            if commitment.as_ref() != Some(&task.commitment) {
                return Err(self.no_longer(position));
            }
        }
        self.seen.store(position, Ordering::Release);
        self.lease.renew(begun);
        Ok(decision.scopes)
    }

    /// What it means that the decision is another one now.
    fn no_longer(&self, position: u64) -> QueryError {
        if position > self.access.ledger_position {
            QueryError::ConsentChanged
        } else {
            refused("the decision here is another one")
        }
    }

    async fn check_contract(
        &self,
        dataset: &DatasetId,
        task: &DatasetTask,
        position: u64,
    ) -> Result<(), QueryError> {
        let contract = self.parts.catalog.contract(dataset);
        let contract = contract.ok_or_else(|| refused("it reads a dataset unknown here"))?;
        if hex::encode(contract.hash) != task.contract {
            return Err(refused("a contract is another one here"));
        }
        let recorded = access::recorded(&self.parts.catalog, &self.parts.ledger, contract);
        recorded.await.map_err(|error| match error {
            QueryError::ContractNotRecorded { .. } => self.no_longer(position),
            _ => unheard(),
        })
    }

    async fn table(
        &self,
        dataset: &DatasetId,
        task: &DatasetTask,
    ) -> Result<TableVersion, QueryError> {
        if task.table_version < 0 {
            return Ok(whole::never_landed());
        }
        let warehouse = &self.parts.warehouse;
        let snapshot = warehouse.snapshot_at(dataset, task.table_version).await;
        let snapshot = snapshot.map_err(|error| match error {
            WarehouseError::UnknownVersion { .. } => refused("a table version is not kept here"),
            error => QueryError::unreadable(&error),
        })?;
        access::built(&self.parts.catalog, dataset, &snapshot)?;
        whole::table_version(warehouse, &snapshot).await
    }
}

fn unheard() -> QueryError {
    QueryError::LeaseUnavailable {
        seconds: LEASE.as_secs(),
    }
}

#[async_trait]
impl GateResolver for Redecided {
    async fn resolve(
        &self,
        access: &AccessTask,
        dataset: &DatasetId,
    ) -> Result<Resolved, QueryError> {
        let of_another = || refused("a gate of it is of another access");
        if *access != *self.access {
            return Err(of_another());
        }
        let task = access.datasets.get(dataset).ok_or_else(of_another)?;
        let scope = self.scopes().await?.get(dataset).ok_or_else(of_another)?;
        Ok(Resolved {
            scope: Arc::clone(scope),
            table: Arc::new(self.table(dataset, task).await?),
            permit: Arc::clone(&self.lease) as Arc<dyn Permit>,
            account: Arc::clone(&self.account),
            reader: Arc::clone(&self.reader),
            numbers: Some(Arc::new(self.parts.ledger.clone())),
        })
    }
}
