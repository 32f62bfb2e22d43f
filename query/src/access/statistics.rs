//! Accesses to figures: which rows they are made of, and the record of what is released.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use qihui_catalog::{Coded, DatasetId, Date, EnterpriseNumbers, Timestamp, Uscc};
use qihui_consent::ledger::{Edition, EditionKey, Statistic};
use qihui_consent::{Decision, Ledger, LedgerError};
use qihui_warehouse::WarehouseError;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;

use super::{AccessRequest, Gate, Prepared, built, unreadable};
use crate::account::Account;
use crate::bounds::Turn;
use crate::error::QueryError;
use crate::exec::Permit;
use crate::provider::{GatedTable, MIN_INSIDE_ROWS, QueryContext, TableVersion};
use crate::session::{ParsedQuery, Planned};
use crate::statistics::exec::{Outcome, Register};
use crate::statistics::{self, Made, Parts};
use crate::whole;

/// The most different questions about one edition. Each tells whether its groups keep the rules, and that is a little.
pub const MAX_QUESTIONS: usize = 256;

/// What an answer says of its figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatisticSummary {
    /// The first event date.
    pub first_day: Date,
    /// The event date after the last.
    pub end_day: Date,
    /// Groups told and withheld, and the hash of the record.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The figures of an access.
pub(super) struct Figures {
    /// The dataset whose rows stay closed.
    pub measured: DatasetId,
    first_day: Date,
    end_day: Date,
    outcome: Arc<Mutex<Option<Outcome>>>,
}

impl Figures {
    /// What the answer says, once the figures are known.
    pub fn summary(&self) -> Option<StatisticSummary> {
        Some(StatisticSummary {
            first_day: self.first_day,
            end_day: self.end_day,
            outcome: self.outcome.lock().clone()?,
        })
    }
}

/// The ledger's record of an edition, for one access.
struct EditionRegister {
    ledger: Ledger,
    edition: Edition,
    access_id: String,
    /// The ledger works on the hub's threads: a query's own are stopped with it, half-way through a commit.
    hub: Handle,
}

impl fmt::Debug for EditionRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EditionRegister")
    }
}

fn failed(error: &LedgerError) -> QueryError {
    QueryError::LedgerFailed {
        message: error.to_string(),
        code: error.code(),
    }
}

fn stopped<T>(_: T) -> QueryError {
    QueryError::Internal {
        what: "the record of a statistic, which was stopped",
    }
}

#[async_trait]
impl Register for EditionRegister {
    async fn begin(
        &self,
        question: [u8; 32],
    ) -> Result<(OwnedMutexGuard<()>, Vec<Statistic>), QueryError> {
        let (ledger, edition) = (self.ledger.clone(), self.edition.clone());
        let work = self.hub.spawn(async move {
            let turn = ledger.statistics_turn().await;
            Ok::<_, LedgerError>((turn, ledger.statistics(&edition).await?))
        });
        let (turn, told) = work
            .await
            .map_err(stopped)?
            .map_err(|error| failed(&error))?;
        let mut asked: Vec<[u8; 32]> = told.iter().map(|one| one.question).collect();
        asked.sort_unstable();
        asked.dedup();
        if asked.len() >= MAX_QUESTIONS && !asked.contains(&question) {
            return Err(QueryError::StatisticBudgetSpent {
                limit: MAX_QUESTIONS,
            });
        }
        Ok((turn, told))
    }

    async fn record(&self, statistic: Statistic) -> Result<[u8; 32], QueryError> {
        let (ledger, edition) = (self.ledger.clone(), self.edition.clone());
        let access_id = self.access_id.clone();
        let work = self.hub.spawn(async move {
            ledger
                .record_statistic(&edition, &access_id, &statistic)
                .await
        });
        let recorded = work.await.map_err(stopped)?;
        recorded.map_err(|error| failed(&error))
    }

    fn numbers(&self, codes: &[Uscc]) -> Result<Vec<u32>, QueryError> {
        let unknown = || QueryError::Warehouse {
            message: "the register of enterprise numbers cannot be read".into(),
        };
        let found = self.ledger.lookup(codes).map_err(|_| unknown())?;
        let numbers = found.into_iter().map(|no| no.map(|no| no.0));
        numbers.collect::<Option<_>>().ok_or_else(unknown)
    }
}

impl Gate {
    /// Plans a statement over a dataset of figures, over the rows of its edition.
    pub(super) async fn plan_statistic(
        &self,
        (request, access_id): (&AccessRequest, &str),
        query: ParsedQuery,
        decision: Decision,
        parts: Parts,
        (at, turn): (Timestamp, &Turn),
    ) -> Result<Prepared, QueryError> {
        if !request.subjects.is_empty() {
            return Err(QueryError::StatisticNotAllowed {
                what: "named enterprises; leave the subjects out".to_owned(),
            });
        }
        let explain = query.explain;
        let (scopes, runtime) = (decision.scopes.clone(), turn.runtime());
        let reading = parts.clone();
        let statement = turn
            .run(async move { statistics::read(&query, &reading, &scopes, at, runtime).await })
            .await?;
        let key = EditionKey {
            org: request.org.clone(),
            dataset: parts.measured.clone(),
            first_day: statement.question.first_day,
            end_day: statement.question.end_day,
        };
        let edition = self.edition(&key, &parts, explain).await?;
        let mut tables = BTreeMap::new();
        for (dataset, version) in &edition.tables {
            if [&parts.measured, &parts.frame].contains(&dataset) {
                let table = self.table_at(dataset, *version).await?;
                tables.insert(dataset.clone(), Arc::new(table));
            }
        }
        let account = Arc::new(Account::new(self.limits().rows));
        let dense = self.scopes.all(&decision.scopes);
        let epochs = self.epochs(request, (&decision, at), &account, &dense);
        let strict = Arc::new(AtomicBool::new(request.strict));
        let context = QueryContext {
            account: Arc::clone(&account),
            permit: Arc::clone(&epochs) as Arc<dyn Permit>,
            strict: Arc::clone(&strict),
            numbers: None,
            reader: Arc::clone(&self.reader),
            today: at.shanghai_date(),
            min_inside_rows: MIN_INSIDE_ROWS,
        };
        let [measured, frame] = statement.scopes().map(|scope| {
            let scope = self.scopes.get(scope);
            let table = tables.get(&scope.scope().contract.id).cloned();
            let table: Arc<TableVersion> = table.unwrap_or_else(|| Arc::new(whole::never_landed()));
            Arc::new(GatedTable::new(scope, table, context.clone())) as _
        });
        let figures = Figures {
            measured: parts.measured,
            first_day: key.first_day,
            end_day: key.end_day,
            outcome: Arc::default(),
        };
        let made = Made {
            measured,
            frame,
            register: Arc::new(EditionRegister {
                ledger: self.parts.ledger.clone(),
                edition,
                access_id: access_id.to_owned(),
                hub: Handle::current(),
            }),
            strict: Arc::clone(&strict),
            outcome: Arc::clone(&figures.outcome),
        };
        let read = statement.read.clone();
        let (runtime, partitions) = (turn.runtime(), self.limits().threads.max(1));
        let planned = turn
            .run(Box::pin(statement.plan(made, at, runtime, partitions)))
            .await
            .map_err(|error| self.limited(error))?;
        Ok(Prepared {
            explain,
            scopes: dense,
            decision,
            at,
            tables,
            planned: Planned {
                physical: planned.physical,
                context: planned.context,
                account,
                written: planned.written,
                read: read.clone(),
                strict: strict.load(Ordering::Relaxed),
            },
            epochs,
            decide_again: false,
            leaves: false,
            read,
            figures: Some(figures),
        })
    }

    /// The edition that figures are of, over the tables as they are now if it is new. An EXPLAIN makes none.
    async fn edition(
        &self,
        key: &EditionKey,
        parts: &Parts,
        explain: bool,
    ) -> Result<Edition, QueryError> {
        let mut versions = BTreeMap::new();
        for dataset in [&parts.measured, &parts.frame] {
            let snapshot = self.parts.warehouse.snapshot(dataset).await;
            let Some(snapshot) = snapshot.map_err(|error| unreadable(&error))? else {
                return Err(QueryError::StatisticPeriodRefused {
                    reason: format!("nothing was ever landed for `{dataset}`"),
                });
            };
            versions.insert(dataset.clone(), snapshot.version);
        }
        let ledger = &self.parts.ledger;
        let edition = match explain {
            true => self.ledger(ledger.edition(key).await)?,
            false => self.ledger(ledger.open_edition(key, &versions).await)?,
        };
        match edition {
            Some(edition) => {
                // Of a new one, before a clean-up could come to them: they are, or just were, the last.
                for (dataset, version) in &edition.tables {
                    let kept = self.parts.warehouse.keep_for_good(dataset, [*version]);
                    kept.map_err(|error| unreadable(&error))?;
                }
                Ok(edition)
            }
            None if explain => Ok(Edition::unrecorded(key.clone(), versions)),
            None => Err(QueryError::StatisticPeriodRefused {
                reason:
                    "figures of other periods that have days in common with it were told already"
                        .to_owned(),
            }),
        }
    }

    /// A table at the version that an edition is made of.
    async fn table_at(
        &self,
        dataset: &DatasetId,
        version: i64,
    ) -> Result<TableVersion, QueryError> {
        match self.parts.warehouse.snapshot_at(dataset, version).await {
            Ok(snapshot) => {
                built(&self.parts.catalog, dataset, &snapshot)?;
                whole::table_version(&self.parts.warehouse, &snapshot).await
            }
            Err(WarehouseError::UnknownVersion { .. }) => {
                let dataset = dataset.clone();
                Err(QueryError::StatisticEditionGone { dataset })
            }
            Err(error) => Err(unreadable(&error)),
        }
    }
}
