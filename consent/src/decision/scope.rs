//! The function from agreements and grants to a scope.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use qihui_catalog::{Action, Column, Contract, EnterpriseNo, Level, Timestamp};
use roaring::RoaringBitmap;

use super::{
    ActionSet, AggregateOnly, Agreement, AgreementColumn, AgreementId, Basis, ColumnScope,
    ColumnSet, DatasetScope, DecisionRequest, Form, Grant, Reason, ScopeItem, Shape, ShapeItem,
    StatisticsScope, Verdict, Why,
};

/// What of the dataset of `contract` is open to the request. See the [module](super) for the rules.
///
/// Agreements and grants that are for someone else, another purpose or another dataset are ignored, so a caller may
/// pass more than is needed; what it leaves out cannot open anything.
#[must_use]
pub fn scope(
    contract: &Arc<Contract>,
    request: &DecisionRequest,
    agreements: &[Agreement],
    grants: &[Grant],
) -> DatasetScope {
    let mut builder = ScopeBuilder::new(contract, request, agreements);
    let mut by_enterprise: BTreeMap<EnterpriseNo, Vec<&[ScopeItem]>> = BTreeMap::new();
    for grant in grants {
        let concerned = grant.org == request.org
            && grant.purpose == request.purpose
            && grant.items.iter().any(|item| item.dataset == contract.id);
        if concerned && builder.counts(grant.no, GrantTerms::of(grant)) {
            by_enterprise
                .entry(grant.no)
                .or_default()
                .push(&grant.items);
        }
    }
    for (no, items) in by_enterprise {
        let shape = builder.shape(items.into_iter().flatten());
        builder.admit(shape, no);
    }
    builder.finish()
}

/// What decides whether a grant counts, its items apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrantTerms {
    pub(crate) actions: ActionSet,
    pub(crate) starts: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) metered: bool,
}

impl GrantTerms {
    fn of(grant: &Grant) -> Self {
        Self {
            actions: grant.actions,
            starts: grant.starts,
            expires: grant.expires,
            metered: grant.metered,
        }
    }
}

/// Whether something that holds in `[from, until)` holds throughout the time of the request.
pub(crate) fn holds_throughout(
    request: &DecisionRequest,
    from: Timestamp,
    until: Timestamp,
) -> bool {
    from <= request.at && request.at < until && request.until <= until
}

/// The number of a shape inside one builder.
pub(crate) type ShapeNo = usize;

/// What a scope has before any grant was looked at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    columns: Vec<ColumnScope>,
    all_rows: bool,
    agreements: Vec<AgreementId>,
    statistics: Option<StatisticsScope>,
    reasons: Vec<Reason>,
}

/// Builds a scope grant by grant. The ledger uses it directly, so that a million grants need no copies.
pub(crate) struct ScopeBuilder<'a> {
    contract: &'a Arc<Contract>,
    request: &'a DecisionRequest,
    subjects: Option<RoaringBitmap>,
    columns: Vec<ColumnScope>,
    /// The columns that a grant can open something with, by name.
    grantable: HashMap<&'a str, ColumnSet>,
    all_rows: bool,
    agreements: Vec<AgreementId>,
    statistics: Option<StatisticsScope>,
    reasons: Vec<Reason>,
    shapes: Vec<(Shape, Vec<u32>)>,
    numbers_of_shapes: HashMap<Shape, ShapeNo>,
    not_in_time: u64,
    other_actions: u64,
    metered: u64,
}

impl<'a> ScopeBuilder<'a> {
    pub(crate) fn new(
        contract: &'a Arc<Contract>,
        request: &'a DecisionRequest,
        agreements: &[Agreement],
    ) -> Self {
        let mut concerned: Vec<&Agreement> = agreements
            .iter()
            .filter(|a| {
                a.org == request.org
                    && a.dataset == contract.id
                    && a.purposes.contains(&request.purpose)
            })
            .collect();
        concerned.sort_by(|a, b| a.id.cmp(&b.id));
        let (active, inactive): (Vec<_>, Vec<_>) = concerned
            .into_iter()
            .partition(|a| holds_throughout(request, a.valid_from, a.valid_until));
        // What gives figures only opens no row and no column to anything else.
        let (figures, active): (Vec<&Agreement>, Vec<&Agreement>) =
            active.into_iter().partition(|a| a.aggregate_only.is_some());
        let by_statute = active
            .iter()
            .any(|agreement| agreement.basis != Basis::Consent);
        let subjects = request
            .subjects
            .as_ref()
            .map(|subjects| subjects.iter().map(|no| no.0).collect());
        let mut builder = Self {
            contract,
            request,
            subjects,
            columns: Vec::new(),
            grantable: HashMap::new(),
            all_rows: contract.row_level == Level::L1 || by_statute,
            agreements: active
                .iter()
                .map(|agreement| agreement.id.clone())
                .collect(),
            statistics: statistics(contract, request, &figures),
            reasons: Vec::new(),
            shapes: vec![(Shape::default(), Vec::new())],
            numbers_of_shapes: HashMap::from([(Shape::default(), 0)]),
            not_in_time: 0,
            other_actions: 0,
            metered: 0,
        };
        for column in &contract.columns {
            builder.decide_column(column, &active);
        }
        builder.explain_rows(&active, &inactive);
        if let Some(statistics) = builder.statistics.clone() {
            for id in statistics.agreements {
                builder.explain(None, Verdict::Closed, Why::Statistics(id));
            }
        }
        builder
    }

    /// Opens the column, or not, and says why.
    fn decide_column(&mut self, column: &'a Column, active: &[&Agreement]) {
        if column.level == Level::L4 {
            return self.explain(Some(&column.name), Verdict::Closed, Why::NeverOpened);
        }
        let naming: Vec<(&Agreement, &AgreementColumn)> = active
            .iter()
            .flat_map(|agreement| {
                agreement
                    .columns
                    .iter()
                    .map(move |named| (*agreement, named))
            })
            .filter(|(_, named)| named.name == column.name)
            .collect();
        let public = column.level == Level::L1;
        let open_data = public && self.contract.row_level == Level::L1;
        if (naming.is_empty() && !open_data) || self.columns.len() >= ColumnSet::CAPACITY {
            return self.explain(Some(&column.name), Verdict::Closed, Why::NotInAgreement);
        }
        let by_grant = naming
            .iter()
            .any(|(agreement, _)| agreement.basis == Basis::Consent);
        let by_statute = naming
            .iter()
            .any(|(agreement, _)| agreement.basis != Basis::Consent);
        let always = public || by_statute;
        let verdict = if always {
            Verdict::Open
        } else {
            Verdict::Restricted
        };
        if public {
            self.explain(Some(&column.name), verdict, Why::Public);
        }
        let mut agreements = Vec::with_capacity(naming.len());
        for (agreement, _) in &naming {
            let id = agreement.id.clone();
            if agreements.last() != Some(&id) {
                agreements.push(id.clone());
                let why = if agreement.basis == Basis::Consent {
                    Why::Consent(id)
                } else {
                    Why::Statute(id)
                };
                self.explain(Some(&column.name), verdict, why);
            }
        }
        if let Some(flag) = column.public_when.as_ref().filter(|_| !always) {
            self.explain(Some(&column.name), verdict, Why::PublicWhen(flag.clone()));
        }
        let form = naming
            .iter()
            .map(|(_, named)| form_of(column, named))
            .reduce(Form::stricter)
            .unwrap_or_default();
        // A grant needs a column of A to make a row visible, and one that is not shown anyhow to show a cell.
        if !naming.is_empty() && !(self.all_rows && (always || !by_grant)) {
            self.grantable
                .insert(&column.name, ColumnSet::of(self.columns.len()));
        }
        self.columns.push(ColumnScope {
            name: column.name.clone(),
            form,
            always,
            public_when: column.public_when.clone(),
            by_grant,
            agreements,
        });
    }

    fn explain_rows(&mut self, active: &[&Agreement], inactive: &[&Agreement]) {
        if self.contract.row_level == Level::L1 {
            self.explain(None, Verdict::Open, Why::Public);
        }
        for agreement in active {
            let id = agreement.id.clone();
            match agreement.basis {
                Basis::Statute { .. } => self.explain(None, Verdict::Open, Why::Statute(id)),
                Basis::Consent if !self.all_rows => {
                    self.explain(None, Verdict::Restricted, Why::Consent(id))
                }
                Basis::Consent => {}
            }
            for named in &agreement.columns {
                if self.contract.column(&named.name).is_none() {
                    let why = Why::UnknownColumn(agreement.id.clone());
                    self.explain(Some(&named.name), Verdict::Closed, why);
                }
            }
        }
        if self.columns.is_empty() {
            self.explain(None, Verdict::Closed, Why::NotInAgreement);
        }
        for agreement in inactive {
            self.explain(
                None,
                Verdict::Closed,
                Why::AgreementNotInForce(agreement.id.clone()),
            );
        }
    }

    fn explain(&mut self, column: Option<&str>, verdict: Verdict, why: Why) {
        self.reasons.push(Reason {
            column: column.map(str::to_owned),
            verdict,
            why,
        });
    }

    /// What it has so far. Two builders that were given no grants yet, for equal contracts and requests that differ in
    /// nothing but their times, do the same with equal grants, if their heads are equal and the same of the grants count.
    pub(crate) fn head(&self) -> Head {
        Head {
            columns: self.columns.clone(),
            all_rows: self.all_rows,
            agreements: self.agreements.clone(),
            statistics: self.statistics.clone(),
            reasons: self.reasons.clone(),
        }
    }

    /// The contract that it is of.
    pub(crate) fn contract(&self) -> &Arc<Contract> {
        self.contract
    }

    /// The request that it is for.
    pub(crate) fn request(&self) -> &DecisionRequest {
        self.request
    }

    /// Whether a grant could open anything; where none can, they need not be looked up.
    pub(crate) fn needs_grants(&self) -> bool {
        !self.grantable.is_empty()
    }

    /// Whether a grant of this enterprise counts for the request; keeps count of those that do not.
    pub(crate) fn counts(&mut self, no: EnterpriseNo, terms: GrantTerms) -> bool {
        if self
            .subjects
            .as_ref()
            .is_some_and(|subjects| !subjects.contains(no.0))
        {
            return false;
        }
        if !holds_throughout(self.request, terms.starts, terms.expires) {
            self.not_in_time += 1;
            return false;
        }
        if !terms.actions.contains(self.request.action) {
            self.other_actions += 1;
            return false;
        }
        if terms.metered && self.subjects.is_none() {
            self.metered += 1;
            return false;
        }
        true
    }

    /// The shape of these items together; 0 when they cover nothing that is open.
    pub(crate) fn shape<'g>(&mut self, items: impl IntoIterator<Item = &'g ScopeItem>) -> ShapeNo {
        let dated = self.contract.event_date.is_some();
        let shape = Shape::canonical(items.into_iter().filter_map(|item| {
            // An item with a range says nothing about rows without a date.
            let applies = item.dataset == self.contract.id
                && (dated || (item.from.is_none() && item.to.is_none()));
            let columns = item
                .columns
                .iter()
                .filter_map(|name| self.grantable.get(name.as_str()))
                .fold(ColumnSet::EMPTY, |set, column| set.union(*column));
            applies.then_some(ShapeItem {
                columns,
                from: item.from,
                to: item.to,
            })
        }));
        let next = self.shapes.len();
        let number = *self.numbers_of_shapes.entry(shape.clone()).or_insert(next);
        if number == next {
            self.shapes.push((shape, Vec::new()));
        }
        number
    }

    /// Counts the enterprise among those of the shape. Each enterprise may be admitted once.
    pub(crate) fn admit(&mut self, shape: ShapeNo, no: EnterpriseNo) {
        if let Some((_, members)) = self.shapes.get_mut(shape).filter(|_| shape > 0) {
            members.push(no.0);
        }
    }

    pub(crate) fn finish(mut self) -> DatasetScope {
        for (count, why) in [
            (self.not_in_time, Why::GrantsNotInTime as fn(u64) -> Why),
            (self.other_actions, Why::GrantsForOtherActions),
            (self.metered, Why::GrantsMetered),
        ] {
            if count > 0 {
                self.explain(None, Verdict::Closed, why(count));
            }
        }
        self.reasons.sort();
        self.reasons.dedup();
        // Ascending shapes: the result does not depend on the order in which grants came. "Nothing" is the least.
        let mut shapes = self.shapes;
        shapes.retain(|(shape, members)| shape.items.is_empty() || !members.is_empty());
        shapes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let (shapes, members) = shapes
            .into_iter()
            .map(|(shape, members)| (shape, bitmap(members)))
            .unzip();
        DatasetScope {
            contract: Arc::clone(self.contract),
            columns: self.columns,
            all_rows: self.all_rows,
            shapes,
            members,
            agreements: self.agreements,
            reasons: self.reasons,
            subjects: self.subjects,
            statistics: self.statistics,
        }
    }
}

/// The figures that agreements in force give. Only SQL over everybody has any, and only where rows are not public.
fn statistics(
    contract: &Contract,
    request: &DecisionRequest,
    figures: &[&Agreement],
) -> Option<StatisticsScope> {
    let terms = figures
        .iter()
        .filter_map(|agreement| agreement.aggregate_only)
        .reduce(AggregateOnly::stricter)?;
    if request.action != Action::Query || contract.row_level == Level::L1 {
        return None;
    }
    let named = |column: &&Column| {
        let agreed = figures.iter().any(|agreement| {
            let mut columns = agreement.columns.iter();
            columns.any(|named| named.name == column.name)
        });
        column.ty.is_number() && agreed
    };
    let columns = contract.landed().filter(named);
    Some(StatisticsScope {
        terms,
        columns: columns.map(|column| column.name.clone()).collect(),
        agreements: figures
            .iter()
            .map(|agreement| agreement.id.clone())
            .collect(),
    })
}

/// The form in which an agreement shows a column. Without a reason an L3 column stays masked, and a form that does
/// not fit the type of the column (its contract changed since) gives way to the mask of the type.
fn form_of(column: &Column, named: &AgreementColumn) -> Form {
    let fallback = Form::default_for(column.level, column.ty);
    match named.form {
        None => fallback,
        Some(form) if !form.fits(column.ty) => Form::default_for(Level::L3, column.ty),
        Some(Form::Clear) if column.level > Level::L2 && !has_reason(named) => fallback,
        Some(form) => form,
    }
}

/// Whether the agreement says why it shows the column as it does.
pub(crate) fn has_reason(named: &AgreementColumn) -> bool {
    named
        .reason
        .as_ref()
        .is_some_and(|reason| !reason.trim().is_empty())
}

fn bitmap(mut members: Vec<u32>) -> RoaringBitmap {
    members.sort_unstable();
    members.dedup();
    members.into_iter().collect()
}
