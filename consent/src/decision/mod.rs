//! The decision: which rows and cells of a dataset an organisation may see, and why.
//!
//! Promise: [`scope()`] is a pure function of the request, the agreements, the grants and the contract. It has no clock,
//! no I/O and no source of chance; it cannot panic; equal inputs, in whatever order, give equal scopes. Everything
//! that is not opened by one of the rules below stays closed.
//!
//! For organisation g, purpose p, action a, instant t and dataset T let A be the active agreements of (g, T, p). For a
//! row r let K be the active grants of r's enterprise to g for exactly p with action a. A grant covers (r, c) when one
//! of its scope items names T and c and its data range contains r's event date (Asia/Shanghai, half-open; a null date
//! is in no range; without an event-date column the item has no range).
//!
//! | what | open when |
//! |---|---|
//! | column c | level of c is not L4, and some agreement in A names c, or T's `row_level` and c's level are both L1 |
//! | row r | `row_level` is L1, or a statute agreement is in A, or some grant covers (r, some column of A) |
//! | cell (r, c) | c is L1, or `public_when(c)` holds in r, or a statute agreement names c, or a consent agreement names c and a grant covers (r, c) |
//!
//! Limits: the disclosure window of the contract and the value of `public_when` depend on the row alone, so the gate
//! evaluates them; a scope only names the flag column. An agreement or a grant counts only when it holds throughout
//! `[at, until)`, `until` being the deadline of the request: nothing can end while the request runs except by an act
//! that the ledger knows. A contract has at most 128 columns.

mod commitment;
mod form;
#[cfg(test)]
mod form_tests;
mod reason;
mod scope;
mod shape;

#[cfg(test)]
mod reference;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeSet, fmt, sync::Arc};

use qihui_catalog::{
    Action, ConsentId, Contract, DatasetId, Date, EnterpriseNo, OrgId, PurposeCode, Timestamp,
};
use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use form::{Bucket, Form, Mask, Value};
pub use reason::{Reason, Verdict, Why};
pub use scope::scope;
pub(crate) use scope::{GrantTerms, Head, ScopeBuilder, ShapeNo, has_reason, holds_throughout};
pub use shape::{ColumnSet, Shape, ShapeItem};

/// The name of an agreement in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgreementId(pub Arc<str>);

impl AgreementId {
    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgreementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for AgreementId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Who asks for what, when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRequest {
    /// The organisation that asks.
    pub org: OrgId,
    /// The purpose it asks for; grants and agreements for another purpose, above or below it, do not count.
    pub purpose: PurposeCode,
    /// What it wants to do with the rows.
    pub action: Action,
    /// The instant of the decision.
    pub at: Timestamp,
    /// The deadline of the request: what ends before it is left out from the start.
    pub until: Timestamp,
    /// The enterprises the request is about; none: whoever granted.
    pub subjects: Option<Vec<EnterpriseNo>>,
    /// The datasets it touches.
    pub datasets: Vec<DatasetId>,
}

/// What an agreement rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Basis {
    /// The consent of each enterprise: the second key.
    Consent,
    /// A law that needs no consent.
    Statute {
        /// The law and its article.
        law: String,
        /// For how many days the receiver may keep what it opens; none: for as long as the purpose allows at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_life_days: Option<u32>,
    },
}

/// Asks that nothing but figures about groups of enterprises leaves: see docs/statistics.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateOnly {
    /// The fewest enterprises that a figure may be made of; at least [`AggregateOnly::LEAST_ENTERPRISES`].
    pub min_enterprises: u32,
    /// How close, in percent of its value, the second largest contributor of a figure must not come to the largest: 1
    /// to 100.
    pub p_percent: u32,
    /// The spans of event dates that figures are about.
    #[serde(default)]
    pub period: Span,
}

impl AggregateOnly {
    /// No agreement may ask for groups of fewer.
    pub const LEAST_ENTERPRISES: u32 = 10;

    /// What keeps both.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        Self {
            min_enterprises: self.min_enterprises.max(other.min_enterprises),
            p_percent: self.p_percent.max(other.p_percent),
            period: self.period,
        }
    }
}

/// A span of the calendar that figures are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// A month.
    #[default]
    Month,
    /// Three months, from January, April, July or October.
    Quarter,
    /// A year.
    Year,
}

impl Span {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }

    /// The day after the last, if a span of this kind begins on `day`.
    #[must_use]
    pub fn end(self, day: Date) -> Option<Date> {
        use chrono::Datelike;
        let months = match self {
            Self::Month => 1,
            Self::Quarter => 3,
            Self::Year => 12,
        };
        let begins = day.day() == 1 && day.month0().is_multiple_of(months);
        begins
            .then(|| day.checked_add_months(chrono::Months::new(months)))
            .flatten()
    }
}

/// What figures an organisation may have of a dataset whose rows stay closed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatisticsScope {
    /// The terms: the strictest of the agreements'.
    pub terms: AggregateOnly,
    /// The columns that may be summed up, in the order of the contract.
    pub columns: Vec<String>,
    /// The agreements, in order of their names.
    pub agreements: Vec<AgreementId>,
}

/// A column that an agreement names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementColumn {
    /// The column.
    pub name: String,
    /// How it is shown; none: clear, or for an L3 column masked by the default of its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// Why an L3 column has to be shown clear; without a reason it is masked all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Key one: what the data authority agreed with an organisation about one dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Its name.
    pub id: AgreementId,
    /// The organisation.
    pub org: OrgId,
    /// The dataset.
    pub dataset: DatasetId,
    /// The purposes it holds for.
    pub purposes: BTreeSet<PurposeCode>,
    /// What it rests on.
    pub basis: Basis,
    /// What it opens are figures about groups, and no row; none: rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate_only: Option<AggregateOnly>,
    /// The columns it opens, and how each is shown.
    pub columns: Vec<AgreementColumn>,
    /// The first instant it holds.
    pub valid_from: Timestamp,
    /// The instant it no longer holds.
    pub valid_until: Timestamp,
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ActionSet(u8);

impl ActionSet {
    const fn bit(action: Action) -> u8 {
        match action {
            Action::View => 1,
            Action::Query => 2,
            Action::Store => 4,
            Action::Stream => 8,
        }
    }

    /// The set with `action` in it.
    #[must_use]
    pub const fn with(self, action: Action) -> Self {
        Self(self.0 | Self::bit(action))
    }

    /// Whether `action` is in it.
    #[must_use]
    pub const fn contains(self, action: Action) -> bool {
        self.0 & Self::bit(action) != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether everything in it is in `other`.
    #[must_use]
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The set as a number, one bit per action: VIEW 1, QUERY 2, STORE 4, STREAM 8.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set of such a number; bits of no action are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 15)
    }

    /// The actions in it.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        [Action::View, Action::Query, Action::Store, Action::Stream]
            .into_iter()
            .filter(move |a| self.contains(*a))
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        actions.into_iter().fold(Self::default(), Self::with)
    }
}

impl Serialize for ActionSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for ActionSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Action>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

/// One line of a grant's scope: columns of a dataset within a range of event dates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeItem {
    /// The dataset.
    pub dataset: DatasetId,
    /// The columns, by name.
    pub columns: Vec<String>,
    /// The first event date; none: from the beginning.
    #[serde(default)]
    pub from: Option<Date>,
    /// The event date after the last one; none: without end.
    #[serde(default)]
    pub to: Option<Date>,
}

/// Key two: an ACTIVE grant of an enterprise to an organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The consent it comes from.
    pub consent_id: ConsentId,
    /// The version of the consent.
    pub version: u32,
    /// The enterprise that granted.
    pub no: EnterpriseNo,
    /// The organisation it granted to.
    pub org: OrgId,
    /// The purpose it granted for.
    pub purpose: PurposeCode,
    /// What it granted.
    pub items: Vec<ScopeItem>,
    /// What may be done with it.
    pub actions: ActionSet,
    /// The first instant it holds.
    pub starts: Timestamp,
    /// The instant it no longer holds.
    pub expires: Timestamp,
    /// Whether its uses are counted (`max_uses` or `frequency`): then it counts only for requests that name subjects.
    pub metered: bool,
}

/// A column that is open to the organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnScope {
    /// Its name.
    pub name: String,
    /// How a cell of it is shown where it is shown.
    pub form: Form,
    /// Whether every cell of it is shown in every visible row: it is L1, or a statute agreement names it.
    pub always: bool,
    /// The boolean column that opens a cell of it in a row where it is true.
    pub public_when: Option<String>,
    /// Whether a consent agreement names it, so that a grant opens its cells.
    pub by_grant: bool,
    /// The agreements that name it, in order of their names.
    pub agreements: Vec<AgreementId>,
}

/// What of one dataset is open, in a form that a gate can evaluate row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetScope {
    /// The contract of the dataset.
    pub contract: Arc<Contract>,
    /// The columns that are open, in the order of the contract. None: the dataset is not in any agreement.
    pub columns: Vec<ColumnScope>,
    /// Whether rows are visible without a grant: `row_level` is L1, or a statute agreement is in force.
    pub all_rows: bool,
    /// What the grants of an enterprise cover, each distinct combination once; the first is "nothing".
    pub shapes: Vec<Shape>,
    /// The enterprises of each shape; those of the first, which are all others, are not listed. Disjoint.
    pub members: Vec<RoaringBitmap>,
    /// The agreements in force, in order of their names.
    pub agreements: Vec<AgreementId>,
    /// Why each column is open or not, and why the rows are; in a fixed order.
    pub reasons: Vec<Reason>,
    /// The enterprises that the request is about; rows of others are not visible. None: no such restriction.
    pub subjects: Option<RoaringBitmap>,
    /// The figures that may be had of the dataset, whatever rows and columns are open; none: no figures.
    pub statistics: Option<StatisticsScope>,
}

impl DatasetScope {
    /// The shape of what this enterprise granted, an index into [`DatasetScope::shapes`]; 0: nothing.
    #[must_use]
    pub fn shape_of(&self, no: EnterpriseNo) -> usize {
        self.members
            .iter()
            .position(|members| members.contains(no.0))
            .unwrap_or(0)
    }

    /// The open columns that the grants of this enterprise cover in a row of this event date.
    #[must_use]
    pub fn covered(&self, no: EnterpriseNo, event_date: Option<Date>) -> ColumnSet {
        let dated = self.contract.event_date.is_some();
        self.shapes
            .get(self.shape_of(no))
            .map_or(ColumnSet::EMPTY, |shape| {
                shape.columns_at(dated, event_date)
            })
    }

    /// Whether a row of this enterprise and event date is visible, its disclosure window apart.
    #[must_use]
    pub fn row_visible(&self, no: EnterpriseNo, event_date: Option<Date>) -> bool {
        !self.columns.is_empty()
            && self
                .subjects
                .as_ref()
                .is_none_or(|subjects| subjects.contains(no.0))
            && (self.all_rows || !self.covered(no, event_date).is_empty())
    }

    /// Whether the cell of column `index` is shown in a visible row; `flag` is the value of its `public_when` column.
    #[must_use]
    pub fn cell_shown(
        &self,
        index: usize,
        no: EnterpriseNo,
        event_date: Option<Date>,
        flag: Option<bool>,
    ) -> bool {
        self.columns.get(index).is_some_and(|column| {
            column.always
                || (column.public_when.is_some() && flag == Some(true))
                || (column.by_grant && self.covered(no, event_date).contains(index))
        })
    }

    /// How many enterprises granted something that is open here.
    #[must_use]
    pub fn enterprises(&self) -> u64 {
        self.members.iter().map(RoaringBitmap::len).sum()
    }

    /// Every enterprise that granted something that is open here.
    #[must_use]
    pub fn granted(&self) -> RoaringBitmap {
        self.members
            .iter()
            .fold(RoaringBitmap::new(), |all, members| all | members)
    }
}
