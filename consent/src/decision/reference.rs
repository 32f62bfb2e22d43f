//! The rules of the decision, written down a second time, row by row and as close to their text as code can be.
//! It shares no code with the real one.

use qihui_catalog::{Contract, Date, EnterpriseNo, Level};

use super::{Agreement, Basis, DecisionRequest, Grant};

/// A row, as far as the decision looks at it.
#[derive(Debug, Clone)]
pub struct Row {
    pub no: EnterpriseNo,
    pub event_date: Option<Date>,
    /// The value of every boolean flag column.
    pub flag: Option<bool>,
}

pub struct Reference<'a> {
    pub contract: &'a Contract,
    pub request: &'a DecisionRequest,
    pub agreements: &'a [Agreement],
    pub grants: &'a [Grant],
}

impl Reference<'_> {
    /// A: the active agreements of (g, T, p).
    fn active_agreements(&self) -> Vec<&Agreement> {
        let mut active = Vec::new();
        for agreement in self.agreements {
            if agreement.org != self.request.org
                || agreement.dataset != self.contract.id
                || !agreement.purposes.contains(&self.request.purpose)
            {
                continue;
            }
            if self.request.at < agreement.valid_from
                || self.request.at >= agreement.valid_until
                || agreement.valid_until < self.request.until
            {
                continue;
            }
            active.push(agreement);
        }
        active
    }

    /// K: the active grants of the row's enterprise to g for exactly p with action a.
    fn active_grants(&self, row: &Row) -> Vec<&Grant> {
        let mut active = Vec::new();
        for grant in self.grants {
            let for_this = grant.no == row.no
                && grant.org == self.request.org
                && grant.purpose == self.request.purpose
                && grant.actions.contains(self.request.action);
            let in_time = grant.starts <= self.request.at
                && self.request.at < grant.expires
                && grant.expires >= self.request.until;
            let uses_may_be_counted = !grant.metered || self.request.subjects.is_some();
            if for_this && in_time && uses_may_be_counted {
                active.push(grant);
            }
        }
        active
    }

    fn named_by(&self, agreement: &Agreement, column: &str) -> bool {
        agreement.columns.iter().any(|named| named.name == column)
    }

    /// Whether a grant covers (r, c).
    fn covers(&self, grant: &Grant, row: &Row, column: &str) -> bool {
        for item in &grant.items {
            if item.dataset != self.contract.id || !item.columns.iter().any(|name| name == column) {
                continue;
            }
            let in_range = if self.contract.event_date.is_none() {
                item.from.is_none() && item.to.is_none()
            } else if let Some(date) = row.event_date {
                let after = match item.from {
                    Some(from) => date >= from,
                    None => true,
                };
                let before = match item.to {
                    Some(to) => date < to,
                    None => true,
                };
                after && before
            } else {
                false
            };
            if in_range {
                return true;
            }
        }
        false
    }

    fn covered_by_some(&self, row: &Row, column: &str) -> bool {
        self.active_grants(row)
            .into_iter()
            .any(|grant| self.covers(grant, row, column))
    }

    /// The open columns, in the order of the contract.
    pub fn columns(&self) -> Vec<String> {
        let agreements = self.active_agreements();
        let mut open = Vec::new();
        for column in &self.contract.columns {
            let named = agreements
                .iter()
                .any(|agreement| self.named_by(agreement, &column.name));
            let open_data = self.contract.row_level == Level::L1 && column.level == Level::L1;
            if column.level != Level::L4 && (named || open_data) {
                open.push(column.name.clone());
            }
        }
        open
    }

    /// Whether the row is visible, its disclosure window apart.
    pub fn row_visible(&self, row: &Row) -> bool {
        if self.columns().is_empty() {
            return false;
        }
        if let Some(subjects) = &self.request.subjects
            && !subjects.contains(&row.no)
        {
            return false;
        }
        let agreements = self.active_agreements();
        let some_column_of_a = || {
            self.contract
                .columns
                .iter()
                .filter(|column| column.level != Level::L4)
                .any(|column| {
                    agreements
                        .iter()
                        .any(|agreement| self.named_by(agreement, &column.name))
                        && self.covered_by_some(row, &column.name)
                })
        };
        self.contract.row_level == Level::L1
            || agreements
                .iter()
                .any(|agreement| agreement.basis != Basis::Consent)
            || some_column_of_a()
    }

    /// Whether the cell is shown, given that its row is visible and its column open.
    pub fn cell_shown(&self, row: &Row, name: &str) -> bool {
        let agreements = self.active_agreements();
        let column = self.contract.column(name).unwrap();
        column.level == Level::L1
            || (column.public_when.is_some() && row.flag == Some(true))
            || agreements.iter().any(|agreement| {
                agreement.basis != Basis::Consent && self.named_by(agreement, name)
            })
            || (agreements.iter().any(|agreement| {
                agreement.basis == Basis::Consent && self.named_by(agreement, name)
            }) && self.covered_by_some(row, name))
    }
}
