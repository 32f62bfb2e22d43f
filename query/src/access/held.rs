//! Releases that may be kept become holdings.
//!
//! The holding is in the ledger after the last byte left and before `access.finished`. When it cannot be recorded, the
//! access gets no end: the next start closes it, and records the holding then, as it does for an access whose process
//! was killed. Who is in such a holding is not known; it is said to be everybody who could be.

use std::collections::BTreeSet;
use std::sync::Arc;

use qihui_catalog::{Action, DatasetId, EnterpriseNo, Timestamp};
use qihui_consent::decision::{AgreementId, ColumnScope, DatasetScope, DecisionRequest};
use qihui_consent::ledger::{HeldDataset, Holding, Released as ToHold};
use roaring::RoaringBitmap;
use serde::Deserialize;
use serde_json::Value;

use super::release::Released;
use super::{AccessRequest, Gate, Prepared, entries};
use crate::error::QueryError;

/// What `access.decided` says, as far as a holding is made from it.
#[derive(Deserialize)]
struct Decided {
    access_id: String,
    org: qihui_catalog::OrgId,
    purpose: qihui_catalog::PurposeCode,
    action: Action,
    ledger_position: u64,
    datasets: Vec<DecidedDataset>,
}

#[derive(Deserialize)]
struct DecidedDataset {
    dataset: DatasetId,
    columns: Vec<String>,
    basis: BTreeSet<AgreementId>,
}

impl Gate {
    /// Records what was released as a holding.
    pub(super) async fn hold(
        &self,
        request: &AccessRequest,
        access_id: &str,
        prepared: &Prepared,
        (complete, rows, released): (bool, u64, &Released),
    ) -> Result<Holding, QueryError> {
        let mut read = entries::columns_read(&prepared.planned.logical);
        let mut passed = prepared.planned.account.passed();
        let mut basis = BTreeSet::new();
        let mut datasets = Vec::new();
        for (dataset, scope) in &prepared.scopes {
            let scope = scope.scope();
            basis.extend(scope.agreements.iter().cloned());
            let held = HeldDataset {
                dataset: dataset.clone(),
                columns: columns(read.remove(dataset.as_str())),
            };
            let members = passed.remove(dataset).unwrap_or_default().touched;
            let by_consent = if rests_on_grants(scope, &held.columns) {
                scope.granted()
            } else {
                RoaringBitmap::new()
            };
            datasets.push((held, members, by_consent));
        }
        let held = ToHold {
            access_id: access_id.to_owned(),
            org: request.org.clone(),
            purpose: request.purpose.clone(),
            datasets,
            basis,
            decided_at: prepared.decision.ledger_position,
            cap_days: self.data_life_days(&request.purpose),
            complete,
            came_to: Some((rows, released.bytes, released.sha256.clone())),
        };
        let recorded = self.parts.ledger.record_holding(held).await;
        recorded.map_err(|error| QueryError::Refused(Box::new(error)))
    }

    /// Records what an access may have released whose process was killed, if it was one for keeping.
    pub(super) async fn hold_interrupted(
        &self,
        decided: &Value,
    ) -> Result<Option<Holding>, QueryError> {
        let store = Some(Action::Store.as_str());
        if decided.get("action").and_then(Value::as_str) != store {
            return Ok(None);
        }
        let Ok(decided) = Decided::deserialize(decided) else {
            return Ok(None);
        };
        let ledger = &self.parts.ledger;
        let used = ledger.used_by(&decided.access_id).await;
        let used = used.map_err(|error| QueryError::Refused(Box::new(error)))?;
        let used: RoaringBitmap = used.into_iter().map(|(_, no)| no.0).collect();
        let mut datasets = Vec::new();
        let mut basis = BTreeSet::new();
        for read in &decided.datasets {
            let present = self.present(&read.dataset).await?;
            let (members, consenting) = match self.open_now(&decided, &read.dataset).await {
                Some(scope) => {
                    let granted = scope.granted() | &used;
                    let members = if scope.all_rows {
                        present
                    } else {
                        present & &granted
                    };
                    let rests = rests_on_grants(&scope, &read.columns);
                    (members, if rests { granted } else { RoaringBitmap::new() })
                }
                // Nothing is open any more; who was in it cannot be told.
                None => (present.clone(), present),
            };
            basis.extend(read.basis.iter().cloned());
            let held = HeldDataset {
                dataset: read.dataset.clone(),
                columns: read.columns.clone(),
            };
            datasets.push((held, members, consenting));
        }
        let cap_days = self.data_life_days(&decided.purpose);
        let held = ToHold {
            access_id: decided.access_id,
            org: decided.org,
            purpose: decided.purpose,
            datasets,
            basis,
            decided_at: decided.ledger_position,
            cap_days,
            complete: false,
            came_to: None,
        };
        let recorded = ledger.record_holding(held).await;
        let recorded = recorded.map_err(|error| QueryError::Refused(Box::new(error)))?;
        Ok(Some(recorded))
    }

    /// What of a dataset is open now to whoever made an access.
    async fn open_now(&self, decided: &Decided, dataset: &DatasetId) -> Option<Arc<DatasetScope>> {
        let at: Timestamp = self.now();
        let request = DecisionRequest {
            org: decided.org.clone(),
            purpose: decided.purpose.clone(),
            action: decided.action,
            at,
            until: at,
            subjects: None::<Vec<EnterpriseNo>>,
            datasets: vec![dataset.clone()],
        };
        let decision = self.parts.ledger.decide(&self.parts.catalog, &request);
        decision.await.ok()?.scopes.remove(dataset)
    }
}

/// Whether grants open a row, or a cell of these columns, that is not open without them.
fn rests_on_grants(scope: &DatasetScope, read: &[String]) -> bool {
    let by_grant =
        |column: &ColumnScope| column.by_grant && !column.always && read.contains(&column.name);
    !scope.all_rows || scope.columns.iter().any(by_grant)
}

fn columns(read: Option<BTreeSet<String>>) -> Vec<String> {
    read.unwrap_or_default().into_iter().collect()
}
