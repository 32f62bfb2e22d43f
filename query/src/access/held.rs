//! Releases that may be kept become holdings.
//!
//! The holding is in the ledger after the last byte left and before `access.finished`. When it cannot be recorded, the
//! access gets no end: the next start closes it, and records the holding then, as it does for an access whose process
//! was killed. Who is in such a holding is not known; it is said to be everybody who could be: whose consent was in force
//! at the decision, and, where rows were open without one, everybody with a row. What became of consents, agreements and
//! rows since makes nobody less a member; what was taken away is due from the start.
//!
//! Limit: that start may be much later, and the rows are those that it finds. Who was in an answer without a consent and
//! has no row any more is not in the holding.

use std::collections::BTreeSet;

use qihui_catalog::{Action, DatasetId, Level, Timestamp};
use qihui_consent::decision::{Agreement, AgreementId, Basis, ColumnScope, DatasetScope};
use qihui_consent::ledger::{ByConsent, HeldDataset, Holding, Released as ToHold};
use roaring::RoaringBitmap;
use serde::Deserialize;
use serde_json::Value;

use super::release::Released;
use super::{AccessRequest, Gate, Prepared};
use crate::error::QueryError;

/// What `access.decided` says, as far as a holding is made from it.
#[derive(Deserialize)]
struct Decided {
    access_id: String,
    org: qihui_catalog::OrgId,
    purpose: qihui_catalog::PurposeCode,
    at: Timestamp,
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
        (rows, released): (Option<u64>, &Released),
    ) -> Result<Holding, QueryError> {
        let mut read = prepared.read.clone();
        let mut passed = prepared.planned.account.passed();
        let mut basis = BTreeSet::new();
        let mut datasets = Vec::new();
        for (dataset, scope) in &prepared.scopes {
            let scope = scope.scope();
            basis.extend(scope.agreements.iter().cloned());
            let columns = columns(read.remove(dataset.as_str()));
            let by_consent = by_consent(scope, &columns);
            let consenting = if by_consent == ByConsent::Nothing {
                RoaringBitmap::new()
            } else {
                scope.granted()
            };
            let held = HeldDataset {
                dataset: dataset.clone(),
                columns,
                by_consent,
            };
            let members = passed.remove(dataset).unwrap_or_default().touched;
            datasets.push((held, members, consenting));
        }
        let held = ToHold {
            access_id: access_id.to_owned(),
            org: request.org.clone(),
            purpose: request.purpose.clone(),
            datasets,
            basis,
            decided_at: prepared.decision.ledger_position,
            decided: prepared.at,
            cap_days: self.data_life_days(&request.purpose),
            complete: rows.is_some(),
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
        let agreements = self.ledger(ledger.agreements().await)?;
        let agreements: Vec<Agreement> = agreements.into_iter().map(|one| one.agreement).collect();
        let mut datasets = Vec::new();
        let mut basis = BTreeSet::new();
        for read in &decided.datasets {
            let present = self.present(&read.dataset).await?;
            let granted = self.granted_then(&decided, &read.dataset).await? | &used;
            // Whose rows were retracted since had them at the decision: of those who granted that is known, and they have
            // to be in it, or a withdrawal would not find what is kept of them. So the rows of now take nobody out who
            // granted; they only add those whose rows were open anyhow, also where consents opened nothing more.
            let (members, by_consent) = match self.opened_then(read, &agreements) {
                Some(ByConsent::Rows) => (granted.clone(), ByConsent::Rows),
                Some(less) => (present | &granted, less),
                // The contract is gone, and with it how much of it is public.
                None => (present | &granted, ByConsent::Rows),
            };
            let consenting = if by_consent == ByConsent::Nothing {
                RoaringBitmap::new()
            } else {
                granted
            };
            basis.extend(read.basis.iter().cloned());
            let held = HeldDataset {
                dataset: read.dataset.clone(),
                columns: read.columns.clone(),
                by_consent,
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
            decided: decided.at,
            cap_days,
            complete: false,
            came_to: None,
        };
        let recorded = ledger.record_holding(held).await;
        let recorded = recorded.map_err(|error| QueryError::Refused(Box::new(error)))?;
        Ok(Some(recorded))
    }

    /// Whose consents, those apart that count their uses, were in force when an access was decided.
    async fn granted_then(
        &self,
        decided: &Decided,
        dataset: &DatasetId,
    ) -> Result<RoaringBitmap, QueryError> {
        let grantee = (&decided.org, &decided.purpose, dataset);
        let when = (decided.ledger_position, decided.at);
        self.ledger(self.parts.ledger.storable_at(grantee, when).await)
    }

    /// What consents opened when an access was decided, by the agreements that it was decided on, whether or not they are
    /// still in force; none: nobody knows the dataset any more.
    fn opened_then(&self, read: &DecidedDataset, agreements: &[Agreement]) -> Option<ByConsent> {
        let contract = self.parts.catalog.contracts.get(&read.dataset)?;
        let behind = |one: &&Agreement| one.dataset == contract.id && read.basis.contains(&one.id);
        let (consents, laws): (Vec<&Agreement>, Vec<&Agreement>) = agreements
            .iter()
            .filter(behind)
            .partition(|one| one.basis == Basis::Consent);
        if contract.row_level != Level::L1 && laws.is_empty() {
            return Some(ByConsent::Rows);
        }
        let names = |of: &[&Agreement], column: &str| {
            let mut columns = of.iter().flat_map(|one| &one.columns);
            columns.any(|named| named.name == column)
        };
        let by_consent = |name: &String| {
            let public = contract.column(name).map(|column| column.level) == Some(Level::L1);
            !public && names(&consents, name) && !names(&laws, name)
        };
        Some(if read.columns.iter().any(by_consent) {
            ByConsent::Cells
        } else {
            ByConsent::Nothing
        })
    }
}

/// What grants open of a dataset, of these columns, that is not open without them.
fn by_consent(scope: &DatasetScope, read: &[String]) -> ByConsent {
    let by_grant =
        |column: &ColumnScope| column.by_grant && !column.always && read.contains(&column.name);
    if !scope.all_rows {
        ByConsent::Rows
    } else if scope.columns.iter().any(by_grant) {
        ByConsent::Cells
    } else {
        ByConsent::Nothing
    }
}

fn columns(read: Option<BTreeSet<String>>) -> Vec<String> {
    read.unwrap_or_default().into_iter().collect()
}
