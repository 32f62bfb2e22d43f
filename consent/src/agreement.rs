//! Agreement files: what the data authority agreed with an organisation.
//!
//! In YAML or JSON:
//!
//! ```yaml
//! id: city_bank-vat                    # may be left out: the hub names it
//! org: city_bank
//! dataset: vat_declaration
//! purposes: [credit.loan_review]
//! basis: consent                       # or: {statute: {law: "税收征收管理法 art. 6", data_life_days: 365}}
//! valid_from: 2026-01-01               # may be left out: now. A date is its first instant in Asia/Shanghai
//! valid_until: 2028-01-01              # required, half-open; also the expiry of a statute
//! columns:
//!   - {name: uscc}                     # form left out: clear; for an L3 column masked by the default of its type
//!   - {name: sales, form: {bucketed: {width: 100000}}}
//!   - {name: tax_due, form: clear, reason: "decides the credit line"}   # an L3 column shown clear needs a reason
//! ```
//!
//! With `aggregate_only` an agreement gives figures about groups of enterprises and no row; it needs a statute and
//! purposes under `statistics`, names the numbers that may be summed up, and no forms (docs/statistics.md):
//!
//! ```yaml
//! aggregate_only: {min_enterprises: 10, p_percent: 10, period: month}   # period: month (default), quarter or year
//! ```
//!
//! Forms: `clear`; `{masked: {keep_ends: {head: 1, tail: 1}}}`, `{masked: year}`, `{masked: zero}`, `{masked: hide}`;
//! `{bucketed: {width: 1000}}`, `{bucketed: month}`, `{bucketed: quarter}`, `{bucketed: year}`.

use std::collections::BTreeSet;

use qihui_catalog::{
    Catalog, ColumnType, Contract, DatasetId, Level, OrgId, Purpose, PurposeCode, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    decision::{AggregateOnly, Agreement, AgreementColumn, Basis, Form, has_reason},
    error::{LedgerError, Result},
    text,
};

/// The longest name of an agreement.
const MAX_ID: usize = 64;
/// The most digits of a column that is summed up.
const MAX_SUMMED_DIGITS: u8 = 28;
/// The longest text of an agreement, in characters.
const MAX_TEXT: usize = 2000;

/// An agreement as it is written in a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementFile {
    /// Its name; none: the hub names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The organisation.
    pub org: OrgId,
    /// The dataset.
    pub dataset: DatasetId,
    /// The purposes.
    pub purposes: BTreeSet<PurposeCode>,
    /// What it rests on.
    pub basis: Basis,
    /// Figures about groups only, no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate_only: Option<AggregateOnly>,
    /// The columns and their forms.
    pub columns: Vec<AgreementColumn>,
    /// The first instant it holds; none: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    /// The instant it no longer holds.
    pub valid_until: Timestamp,
}

impl AgreementFile {
    /// Reads an agreement, in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self> {
        text::read("agreement", text)
    }

    /// The agreement, if everything about it is in order; `fresh` is the name of one that has none.
    pub(crate) fn into_agreement(
        self,
        catalog: &Catalog,
        fresh: &str,
        now: Timestamp,
    ) -> Result<Agreement> {
        let contract = catalog
            .contracts
            .get(&self.dataset)
            .ok_or_else(|| LedgerError::UnknownDataset(self.dataset.clone()))?;
        if self.purposes.is_empty() {
            return Err(malformed("`purposes` must name at least one"));
        }
        for code in &self.purposes {
            let known = catalog
                .purposes
                .get(code)
                .filter(|purpose| !purpose.heading);
            let known = known.ok_or_else(|| LedgerError::UnknownPurpose(code.clone()))?;
            check_life(&self.basis, known)?;
        }
        match &self.basis {
            Basis::Statute { law, .. }
                if law.trim().is_empty() || law.chars().count() > MAX_TEXT =>
            {
                return Err(malformed("`statute` must cite its `law`"));
            }
            _ => {}
        }
        let columns = match self.aggregate_only {
            Some(terms) => {
                check_aggregate_only(catalog, contract, &self, terms)?;
                summed_columns(contract, &self.columns)?
            }
            None => checked_columns(contract, self.columns)?,
        };
        let valid_from = self.valid_from.unwrap_or(now);
        if valid_from >= self.valid_until {
            return Err(LedgerError::InvalidValidity(
                "`valid_until` must lie after `valid_from`",
            ));
        }
        if self.valid_until <= now {
            return Err(LedgerError::InvalidValidity(
                "`valid_until` lies in the past",
            ));
        }
        let id = self.id.as_deref().unwrap_or(fresh);
        let id_fits = (1..=MAX_ID).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !id_fits {
            return Err(malformed("`id` must be 1 to 64 of A-Z, a-z, 0-9, _, -"));
        }
        Ok(Agreement {
            id: id.into(),
            columns,
            org: self.org,
            dataset: self.dataset,
            purposes: self.purposes,
            basis: self.basis,
            aggregate_only: self.aggregate_only,
            valid_from,
            valid_until: self.valid_until,
        })
    }
}

/// Refuses a statute that lets data be kept for longer than a purpose allows at most, or not for a day.
fn check_life(basis: &Basis, purpose: &Purpose) -> Result<()> {
    let cap = purpose.caps.data_life_days;
    match basis {
        Basis::Statute {
            data_life_days: Some(0),
            ..
        } => Err(malformed("`data_life_days` must be at least 1")),
        Basis::Statute {
            data_life_days: Some(days),
            ..
        } if *days > cap => Err(LedgerError::BeyondCap {
            what: "the receiver would keep data for",
            asked: format!("{days} days"),
            purpose: purpose.code.clone(),
            cap: format!("{cap} days"),
        }),
        _ => Ok(()),
    }
}

fn malformed(reason: &str) -> LedgerError {
    LedgerError::Malformed {
        what: "agreement",
        reason: reason.to_owned(),
    }
}

/// Checks what an agreement about figures needs, its columns apart.
fn check_aggregate_only(
    catalog: &Catalog,
    contract: &Contract,
    file: &AgreementFile,
    terms: AggregateOnly,
) -> Result<()> {
    let few = AggregateOnly::LEAST_ENTERPRISES;
    if terms.min_enterprises < few {
        let reason = format!("`min_enterprises` must be {few} or more");
        return Err(malformed(&reason));
    }
    if !(1..=100).contains(&terms.p_percent) {
        return Err(malformed("`p_percent` must be 1 to 100"));
    }
    if file.basis == Basis::Consent {
        return Err(malformed(
            "`aggregate_only` needs a `statute`: the enterprises are not asked",
        ));
    }
    let mut purposes = file.purposes.iter().map(|code| catalog.purposes.get(code));
    if !purposes.all(|purpose| purpose.is_some_and(Purpose::is_statistics)) {
        return Err(malformed(
            "`aggregate_only` is for purposes under `statistics` alone",
        ));
    }
    if contract.row_level == Level::L1 {
        return Err(malformed(
            "the rows of the dataset are public: ask for them as they are",
        ));
    }
    if contract.event_date.is_none() || contract.window.is_some() {
        return Err(malformed(
            "figures need a dataset with an event date and without a disclosure window",
        ));
    }
    Ok(())
}

/// The columns that may be summed up. A value is never shown, so none has a form.
fn summed_columns(
    contract: &Contract,
    columns: &[AgreementColumn],
) -> Result<Vec<AgreementColumn>> {
    let has_form = |column: &AgreementColumn| column.form.is_some_and(|form| form != Form::Clear);
    if columns.iter().any(has_form) {
        return Err(malformed(
            "columns of an `aggregate_only` agreement have no `form`: no value of them is shown",
        ));
    }
    let clear = columns.iter().map(|column| AgreementColumn {
        name: column.name.clone(),
        form: Some(Form::Clear),
        reason: Some("figures only".to_owned()),
    });
    let clear = checked_columns(contract, clear.collect())?;
    // A sum of any number of these fits 38 digits.
    let summable = |ty: ColumnType| match ty {
        ColumnType::Decimal { precision, .. } => precision <= MAX_SUMMED_DIGITS,
        ty => ty.is_number(),
    };
    let other = clear.iter().find(|named| {
        let column = contract.column(&named.name);
        !column.is_some_and(|column| summable(column.ty))
    });
    match other {
        Some(named) => Err(malformed(&format!(
            "column `{}` cannot be summed up: an `aggregate_only` agreement names numbers of up to \
             {MAX_SUMMED_DIGITS} digits",
            named.name
        ))),
        None => Ok(clear),
    }
}

/// Checks every column against the contract and writes its form out.
fn checked_columns(
    contract: &Contract,
    columns: Vec<AgreementColumn>,
) -> Result<Vec<AgreementColumn>> {
    let distinct: BTreeSet<_> = columns.iter().map(|column| column.name.clone()).collect();
    if columns.is_empty() || distinct.len() < columns.len() {
        return Err(malformed("`columns` must name at least one, each once"));
    }
    columns
        .into_iter()
        .map(|mut named| {
            let (dataset, name) = (contract.id.clone(), text::shown(&named.name));
            if named.name.contains('*') {
                return Err(LedgerError::WildcardColumn { dataset });
            }
            let Some(column) = contract.column(&named.name) else {
                return Err(LedgerError::UnknownColumn {
                    dataset,
                    column: name,
                });
            };
            if column.level == Level::L4 {
                return Err(LedgerError::ColumnNeverOpened {
                    dataset,
                    column: name,
                });
            }
            let form = named
                .form
                .unwrap_or_else(|| Form::default_for(column.level, column.ty));
            if !form.fits(column.ty) {
                let (ty, form) = (column.ty.to_string(), form.to_string());
                return Err(LedgerError::FormDoesNotFit {
                    dataset,
                    column: name,
                    ty,
                    form,
                });
            }
            if form == Form::Clear && column.level == Level::L3 && !has_reason(&named) {
                return Err(LedgerError::ReasonRequired {
                    dataset,
                    column: name,
                });
            }
            if named
                .reason
                .as_ref()
                .is_some_and(|reason| reason.chars().count() > MAX_TEXT)
            {
                return Err(malformed("a `reason` is too long"));
            }
            named.form = Some(form);
            Ok(named)
        })
        .collect()
}

/// Refuses an agreement that shows a column in another form than one of `others` for the same organisation, dataset
/// and purpose at the same time: nobody could say which holds.
pub(crate) fn check_conflicts(agreement: &Agreement, others: &[Agreement]) -> Result<()> {
    let overlapping = others.iter().filter(|other| {
        other.org == agreement.org
            && other.dataset == agreement.dataset
            && other.valid_from < agreement.valid_until
            && agreement.valid_from < other.valid_until
    });
    for other in overlapping {
        check_figures(agreement, other)?;
        if other.purposes.is_disjoint(&agreement.purposes) {
            continue;
        }
        for column in &agreement.columns {
            let differs = other
                .columns
                .iter()
                .find(|there| there.name == column.name && there.form != column.form);
            if let Some(there) = differs {
                return Err(LedgerError::ConflictingForm {
                    other: other.id.to_string(),
                    column: column.name.clone(),
                    form: there.form.unwrap_or_default().to_string(),
                });
            }
        }
    }
    Ok(())
}

/// Refuses figures beside rows for one purpose, and figures about other spans of time than those of `other`, for any
/// purpose: they could be subtracted from each other.
fn check_figures(agreement: &Agreement, other: &Agreement) -> Result<()> {
    let same_purpose = !other.purposes.is_disjoint(&agreement.purposes);
    match (agreement.aggregate_only, other.aggregate_only) {
        (Some(own), Some(others)) if own.period != others.period => Err(malformed(&format!(
            "agreement `{}` gives the same organisation figures by {}: `period` must be the same",
            other.id,
            others.period.as_str()
        ))),
        (Some(_), None) | (None, Some(_)) if same_purpose => Err(malformed(&format!(
            "of this dataset, agreement `{}` and this one would open rows and figures for the same purpose",
            other.id
        ))),
        _ => Ok(()),
    }
}
