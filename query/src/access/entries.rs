//! The log entries of an access, as canonical JSON.
//!
//! `access.decided`: access_id, principal, org, purpose, action, subjects (how many were named), statement, format,
//! at, ledger_position, strict, datasets[] {dataset, contract_version, contract_hash, table_version, columns,
//! commitment, basis}, statistic (true where figures are asked for). `access.finished`: access_id, decided (the index of that entry), outcome, rows, bytes, sha256,
//! datasets[] {dataset, rows, enterprises, withheld}, or {dataset, statistic} where figures were told, rows_by_enterprise
//! (while there are few), uses[] {consent_id, no} of consents that count them, holding and keep_until where the answer may
//! be kept. `access.denied`: access_id, principal, org, purpose, action, statement, code; of a request that was refused
//! before it was read, what is not known is null (see `refused`). The enterprises touched are the
//! entry's subjects, and those whose consent was used.

use std::collections::BTreeMap;

use qihui_audit::{Entry, LogError, Pending, Subjects};
use qihui_catalog::{DatasetId, EnterpriseNo};
use qihui_consent::ledger::Holding;
use ring::rand::{SecureRandom, SystemRandom};
use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::unfinished::WithoutEnd;
use super::{AccessRequest, Figures, Gate, Prepared, unreadable};
use crate::account::Account;
use crate::error::QueryError;
use crate::whole;

pub const DECIDED: &str = "access.decided";
pub const FINISHED: &str = "access.finished";
pub const DENIED: &str = "access.denied";

/// An entry about to be recorded.
pub struct Record {
    pub kind: &'static str,
    pub body: Value,
    pub subjects: RoaringBitmap,
}

/// A name for an access that nobody can guess.
pub fn new_access_id() -> Result<String, QueryError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| QueryError::Internal {
            what: "the random source",
        })?;
    Ok(hex::encode(bytes))
}

/// How an access ended.
pub struct Finish<'a> {
    pub decided: u64,
    pub outcome: &'a str,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
    pub account: &'a Account,
    pub figures: Option<&'a Figures>,
    /// The consents that it drew on, and whose they are.
    pub uses: Vec<(String, EnterpriseNo)>,
    /// What the receiver keeps of it.
    pub holding: Option<&'a Holding>,
}

/// What both entries of an access have in common.
pub struct Accessed {
    access_id: String,
    decided: Value,
}

impl Accessed {
    pub fn new(request: &AccessRequest, access_id: &str, prepared: &Prepared) -> Self {
        let read = &prepared.read;
        let datasets: Vec<Value> = prepared
            .scopes
            .iter()
            .map(|(dataset, scope)| {
                let commitment = scope.commitment();
                let scope = scope.scope();
                let mut basis = scope.agreements.clone();
                basis.extend(
                    scope
                        .statistics
                        .iter()
                        .flat_map(|one| one.agreements.clone()),
                );
                json!({
                    "dataset": dataset,
                    "contract_version": scope.contract.version,
                    "contract_hash": hex::encode(scope.contract.hash),
                    "table_version": prepared.tables.get(dataset).map_or(-1, |table| table.version),
                    "columns": read.get(dataset.as_str()).cloned().unwrap_or_default(),
                    "commitment": hex::encode(commitment),
                    "basis": basis,
                })
            })
            .collect();
        let mut decided = json!({
            "access_id": access_id,
            "principal": request.principal,
            "org": request.org,
            "purpose": request.purpose,
            "action": request.action,
            "subjects": request.subjects.len(),
            "statement": printable(&request.sql),
            "format": request.format.as_str(),
            "at": prepared.at,
            "ledger_position": prepared.decision.ledger_position,
            "strict": prepared.planned.strict,
            "datasets": datasets,
        });
        if prepared.figures.is_some() {
            decided["statistic"] = true.into();
        }
        Self {
            access_id: access_id.to_owned(),
            decided,
        }
    }

    pub fn decided(&self) -> Record {
        Record {
            kind: DECIDED,
            body: self.decided.clone(),
            subjects: RoaringBitmap::new(),
        }
    }

    pub fn finished(&self, finish: &Finish<'_>) -> Record {
        let passed = finish.account.passed();
        let datasets: Vec<Value> = passed
            .iter()
            .map(|(dataset, passed)| {
                // How many rows and enterprises there are in all is told to nobody; who they are stands in the subjects.
                if let Some(figures) = finish.figures.filter(|one| one.measured == *dataset) {
                    return json!({ "dataset": dataset, "statistic": figures.summary() });
                }
                let mut entry = json!({
                    "dataset": dataset,
                    "rows": passed.rows,
                    "enterprises": passed.touched.len(),
                    "withheld": passed.withheld,
                });
                if !passed.dropped.is_empty() {
                    entry["dropped"] = passed.dropped.len().into();
                }
                entry
            })
            .collect();
        let by_enterprise = finish.account.rows_by_enterprise().map(|rows| {
            rows.into_iter()
                .map(|(no, rows)| (no.to_string(), rows))
                .collect::<BTreeMap<_, _>>()
        });
        let mut body = json!({
            "access_id": self.access_id,
            "decided": finish.decided,
            "outcome": finish.outcome,
            "rows": finish.rows,
            "bytes": finish.bytes,
            "sha256": finish.sha256,
            "datasets": datasets,
            "rows_by_enterprise": by_enterprise,
        });
        let mut subjects = finish.account.touched();
        subjects.extend(finish.uses.iter().map(|(_, no)| no.0));
        follow(&mut body, &finish.uses, finish.holding);
        Record {
            kind: FINISHED,
            body,
            subjects,
        }
    }
}

/// Adds what followed from an access: uses of consents, and a holding.
fn follow(body: &mut Value, uses: &[(String, EnterpriseNo)], holding: Option<&Holding>) {
    if !uses.is_empty() {
        let uses = uses
            .iter()
            .map(|(consent_id, no)| json!({ "consent_id": consent_id, "no": no }));
        body["uses"] = uses.collect();
    }
    if let Some(holding) = holding {
        body["holding"] = json!(holding.document.holding_id);
        body["keep_until"] = json!(holding.keep_until);
    }
}

/// A statement as the log can hold it: bodies have no NUL.
pub(super) fn printable(sql: &str) -> String {
    sql.chars()
        .take(crate::bounds::statement::MAX_STATEMENT_BYTES)
        .map(|c| if c == '\0' { '\u{fffd}' } else { c })
        .collect()
}

fn unavailable(error: &LogError) -> QueryError {
    QueryError::LogUnavailable {
        message: error.to_string(),
        code: error.code(),
    }
}

/// The index of an entry that was handed to the log, once it is durable.
async fn durable(submitted: Pending) -> Result<u64, QueryError> {
    let receipts = submitted.await.map_err(|error| unavailable(&error))?;
    let receipt = receipts.first().ok_or(QueryError::Internal {
        what: "the receipt of a log entry",
    })?;
    Ok(receipt.index)
}

impl Gate {
    /// Appends an entry and waits until it is durable; gives its index.
    pub(super) async fn record(&self, record: &Record) -> Result<u64, QueryError> {
        durable(self.submit(record)?).await
    }

    /// Records a decision; with its index comes what [`record_end`](Self::record_end) wants.
    pub(super) async fn record_decision(
        &self,
        record: &Record,
    ) -> Result<(u64, WithoutEnd), QueryError> {
        let begun = WithoutEnd::begin(&self.parts.unfinished, self.parts.log.size());
        let submitted = match self.submit(record) {
            Ok(submitted) => submitted,
            Err(error) => {
                // It is no entry and will be none.
                begun.ended();
                return Err(error);
            }
        };
        Ok((durable(submitted).await?, begun))
    }

    /// Records how an access ended that this process decided.
    pub(super) async fn record_end(
        &self,
        record: &Record,
        begun: WithoutEnd,
    ) -> Result<u64, QueryError> {
        let index = self.record(record).await?;
        begun.ended();
        Ok(index)
    }

    /// Hands an entry to the log.
    fn submit(&self, record: &Record) -> Result<Pending, QueryError> {
        let body =
            serde_json_canonicalizer::to_vec(&record.body).map_err(|_| QueryError::Internal {
                what: "the form of a log entry",
            })?;
        let entry = Entry {
            kind: record.kind,
            body: &body,
            subjects: Subjects::from(record.subjects.clone()),
        };
        let submitted = self.parts.log.submit(&[entry]);
        submitted.map_err(|error| unavailable(&error))
    }

    /// Closes the decisions in `log[from..]` that have no finish: their outcome is `interrupted`, and they touch
    /// their whole scope, that is every enterprise with a row in the tables that they could read. Gives how many.
    ///
    /// # Errors
    /// [`QueryError::LogUnavailable`] when the log cannot be read or appended to.
    pub async fn close_interrupted(&self, from: u64) -> Result<u64, QueryError> {
        let mut open: BTreeMap<u64, Value> = BTreeMap::new();
        for entry in self.parts.log.scan(from..self.parts.log.size()) {
            let entry = entry.map_err(|error| unavailable(&error))?;
            match entry.leaf.kind.as_str() {
                DECIDED => {
                    open.insert(
                        entry.index,
                        serde_json::from_slice(&entry.body).unwrap_or(Value::Null),
                    );
                }
                FINISHED => {
                    let body: Value = serde_json::from_slice(&entry.body).unwrap_or(Value::Null);
                    if let Some(decided) = body.get("decided").and_then(Value::as_u64) {
                        open.remove(&decided);
                    }
                }
                _ => {}
            }
        }
        let count = open.len() as u64;
        for (index, decided) in open {
            let mut touched = RoaringBitmap::new();
            for dataset in decided
                .get("datasets")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let id = dataset
                    .get("dataset")
                    .and_then(Value::as_str)
                    .and_then(|id| id.parse().ok());
                if let Some(id) = id {
                    touched |= self.present(&id).await?;
                }
            }
            let mut body = json!({
                "access_id": decided.get("access_id"),
                "decided": index,
                "outcome": "interrupted",
            });
            let access_id = decided.get("access_id").and_then(Value::as_str);
            let uses = self.parts.ledger.used_by(access_id.unwrap_or_default());
            let uses = uses
                .await
                .map_err(|error| QueryError::Refused(Box::new(error)))?;
            let holding = self.hold_interrupted(&decided).await?;
            touched.extend(uses.iter().map(|(_, no)| no.0));
            follow(&mut body, &uses, holding.as_ref());
            self.record(&Record {
                kind: FINISHED,
                body,
                subjects: touched,
            })
            .await?;
        }
        Ok(count)
    }

    /// Every enterprise with a row in a dataset, whether or not it may be read now: a product that waits to be built must
    /// not keep the hub from opening.
    pub(super) async fn present(&self, dataset: &DatasetId) -> Result<RoaringBitmap, QueryError> {
        let snapshot = self.parts.warehouse.snapshot(dataset).await;
        let Some(snapshot) = snapshot.map_err(|error| unreadable(&error))? else {
            return Ok(RoaringBitmap::new());
        };
        let table = whole::table_version(&self.parts.warehouse, &snapshot).await?;
        Ok(table.files.iter().fold(RoaringBitmap::new(), |all, file| {
            all | file.present.as_ref()
        }))
    }
}
