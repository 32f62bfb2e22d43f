//! Preview: what a consent would open, before it is given.
//!
//! Promise: the preview is computed by the same decision as every access, once with the consent as if it were active
//! and once without it; what it shows as opened is the difference. The cells themselves come from running the gate
//! over the [hypothetical](Ledger::hypothetical) scope.

use std::collections::BTreeMap;

use qihui_catalog::{
    Action, Catalog, ConsentId, DatasetId, Date, EnterpriseNo, OrgId, PurposeCode, Timestamp,
};
use serde::Serialize;

use super::{Ledger, agreements, decide::first_instant, transitions::by_dataset};
use crate::{
    decision::{
        ColumnScope, ColumnSet, DatasetScope, DecisionRequest, Form, Grant, ShapeItem, Why,
    },
    document::ConsentDocument,
    error::{LedgerError, Result},
    store::{consents, events},
};

/// What a consent would change for one dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The scope if the consent were active and its agreement as it is.
    pub with: DatasetScope,
    /// The scope without the consent.
    pub without: DatasetScope,
}

/// What a consent would open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The consent.
    pub consent_id: ConsentId,
    /// Its version.
    pub version: u32,
    /// The enterprise.
    pub no: EnterpriseNo,
    /// Who would see it.
    pub org: OrgId,
    /// What for.
    pub purpose: PurposeCode,
    /// The action looked at.
    pub action: Action,
    /// The instant looked at: now, or when the consent starts.
    pub at: Timestamp,
    /// The datasets, by name.
    pub datasets: Vec<DatasetPreview>,
}

/// What a consent would open of one dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetPreview {
    /// The dataset.
    pub dataset: DatasetId,
    /// Whether rows of the enterprise would become visible that are not visible without the consent.
    pub opens_rows: bool,
    /// The columns that the consent names, in the order of the contract.
    pub columns: Vec<PreviewColumn>,
}

/// What a consent would open of one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviewColumn {
    /// Its name.
    pub name: String,
    /// How its cells would be shown; none: not at all, because no agreement in force names the column.
    pub form: Option<Form>,
    /// The event dates, half-open, within which its cells would be shown by this consent and are not without it.
    pub opened: Vec<(Option<Date>, Option<Date>)>,
    /// Whether its cells are shown in every visible row, with or without the consent.
    pub always: bool,
    /// Why, in words.
    pub reasons: Vec<String>,
}

impl Ledger {
    /// What the decision would be for the enterprise of a consent if it were active, and what it is without it.
    pub async fn hypothetical(
        &self,
        catalog: &Catalog,
        id: &ConsentId,
        action: Action,
    ) -> Result<BTreeMap<DatasetId, Hypothesis>> {
        Ok(self.hypotheses(catalog, id, action).await?.1)
    }

    async fn hypotheses(
        &self,
        catalog: &Catalog,
        id: &ConsentId,
        action: Action,
    ) -> Result<(
        DecisionRequest,
        BTreeMap<DatasetId, Hypothesis>,
        ConsentDocument,
    )> {
        let mut reader = self.inner.reader().await?;
        let mut snapshot = sqlx::Connection::begin(&mut *reader).await?;
        let now = self.inner.now(&mut snapshot).await?;
        let row = consents::latest(&mut snapshot, id)
            .await?
            .ok_or_else(|| LedgerError::UnknownConsent(id.clone()))?;
        let document = row.document;
        let at = first_instant(now, document.starts);
        let datasets = by_dataset(&document);
        let request = DecisionRequest {
            org: document.consumer.org.clone(),
            purpose: document.purpose.code.clone(),
            action,
            at,
            until: at,
            subjects: Some(vec![row.no]),
            datasets: datasets
                .iter()
                .map(|(dataset, _)| dataset.clone())
                .collect(),
        };
        let logged = events::last_logged(&mut snapshot)
            .await?
            .map_or(0, |(position, _)| position);
        let agreed = agreements::effective(&mut snapshot, &request.org, logged).await?;
        let mut hypotheses = BTreeMap::new();
        for (dataset, items) in datasets {
            let contract = catalog
                .contracts
                .get(&dataset)
                .ok_or_else(|| LedgerError::UnknownDataset(dataset.clone()))?;
            let grant = Grant {
                consent_id: document.consent_id.clone(),
                version: document.version,
                no: row.no,
                org: request.org.clone(),
                purpose: request.purpose.clone(),
                items,
                actions: document.actions,
                starts: document.starts,
                expires: document.expires,
                metered: document.is_metered(),
            };
            let (with, without) = self
                .with_and_without(&mut snapshot, contract, &request, &agreed, grant)
                .await?;
            hypotheses.insert(dataset, Hypothesis { with, without });
        }
        snapshot.rollback().await?;
        Ok((request, hypotheses, document))
    }

    /// What a consent would open, for the first of its actions.
    pub async fn preview(&self, catalog: &Catalog, id: &ConsentId) -> Result<Preview> {
        let action = self
            .consent(id)
            .await?
            .document
            .actions
            .iter()
            .next()
            .unwrap_or(Action::Query);
        let (request, hypotheses, document) = self.hypotheses(catalog, id, action).await?;
        let no = request
            .subjects
            .as_deref()
            .and_then(<[_]>::first)
            .copied()
            .unwrap_or(EnterpriseNo(0));
        let datasets = hypotheses
            .iter()
            .map(|(dataset, found)| dataset_preview(dataset, found, &document, no));
        Ok(Preview {
            consent_id: document.consent_id.clone(),
            version: document.version,
            no,
            org: request.org,
            purpose: request.purpose,
            action,
            at: request.at,
            datasets: datasets.collect(),
        })
    }
}

/// What one consent changes about one dataset: a pure function of the two scopes.
fn dataset_preview(
    dataset: &DatasetId,
    found: &Hypothesis,
    document: &ConsentDocument,
    no: EnterpriseNo,
) -> DatasetPreview {
    let named = |name: &str| {
        document.scope.iter().any(|line| {
            line.dataset == *dataset && line.columns.iter().any(|column| column == name)
        })
    };
    let items = |scope: &DatasetScope| {
        scope
            .shapes
            .get(scope.shape_of(no))
            .map(|shape| shape.items.clone())
    };
    let (with, without) = (
        items(&found.with).unwrap_or_default(),
        items(&found.without).unwrap_or_default(),
    );
    let columns = found
        .with
        .contract
        .landed()
        .filter(|column| named(&column.name))
        .map(|column| {
            let place = found
                .with
                .columns
                .iter()
                .position(|open| open.name == column.name);
            let scope = place.and_then(|index| found.with.columns.get(index));
            PreviewColumn {
                name: column.name.clone(),
                form: scope.map(|scope| scope.form),
                opened: place.map_or_else(Vec::new, |index| opened(scope, index, &with, &without)),
                always: scope.is_some_and(|scope| scope.always),
                reasons: reasons(&found.with, &column.name),
            }
        });
    let opens_rows = !found.with.all_rows && with != without;
    DatasetPreview {
        dataset: dataset.clone(),
        opens_rows,
        columns: columns.collect(),
    }
}

/// The ranges that cover a column with the consent and not without it.
fn opened(
    scope: Option<&ColumnScope>,
    index: usize,
    with: &[ShapeItem],
    without: &[ShapeItem],
) -> Vec<(Option<Date>, Option<Date>)> {
    if !scope.is_some_and(|scope| scope.by_grant && !scope.always) {
        return Vec::new();
    }
    let ranges = |items: &[ShapeItem]| -> Vec<(Option<Date>, Option<Date>)> {
        let covering = items
            .iter()
            .filter(|item| item.columns.intersection(ColumnSet::of(index)) != ColumnSet::EMPTY);
        covering.map(|item| (item.from, item.to)).collect()
    };
    let mut left = ranges(with);
    for (from, to) in ranges(without) {
        left = left
            .into_iter()
            .flat_map(|range| cut(range, (from, to)))
            .collect();
    }
    left.sort_unstable();
    left
}

/// A range without another one: at most what lies before and what lies after it.
fn cut(
    (from, to): (Option<Date>, Option<Date>),
    (hole_from, hole_to): (Option<Date>, Option<Date>),
) -> Vec<(Option<Date>, Option<Date>)> {
    let apart = to.zip(hole_from).is_some_and(|(to, hole)| to <= hole)
        || from.zip(hole_to).is_some_and(|(from, hole)| hole <= from);
    if apart {
        return vec![(from, to)];
    }
    let mut left = Vec::new();
    if let Some(hole) = hole_from.filter(|hole| from.is_none_or(|from| from < *hole)) {
        left.push((from, Some(hole)));
    }
    if let Some(hole) = hole_to.filter(|hole| to.is_none_or(|to| *hole < to)) {
        left.push((Some(hole), to));
    }
    left
}

fn reasons(scope: &DatasetScope, column: &str) -> Vec<String> {
    let of_column = scope
        .reasons
        .iter()
        .filter(|reason| reason.column.as_deref() == Some(column));
    let of_column: Vec<&Why> = of_column.map(|reason| &reason.why).collect();
    of_column.into_iter().map(ToString::to_string).collect()
}
