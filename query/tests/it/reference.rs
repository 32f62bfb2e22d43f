//! The authorised view, row by row, straight from the words of the design; and nothing shared with the gate.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema};
use qihui_catalog::{Column, ColumnType, Contract, Date, Level};
use qihui_consent::decision::{Agreement, Basis, Form, Mask, Value};
use qihui_query::forms::arrow_type;

use crate::world::{Row, Table, World, array};

/// The rows and cells of one dataset that the world's request may see.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Open columns with their positions among the landed columns.
    pub columns: Vec<(usize, String, ColumnType)>,
    /// Per visible row: its position in the table, and its cells; the inner `None` is a null.
    pub rows: Vec<(usize, Vec<Option<Value>>)>,
    /// Per visible row: the enterprise whose it is.
    pub owners: Vec<u32>,
    /// Per visible row and open column: whether the cell is withheld.
    pub withheld: Vec<Vec<bool>>,
}

fn active<'a>(world: &'a World, contract: &Contract) -> Vec<&'a Agreement> {
    let request = &world.request;
    world
        .agreements
        .iter()
        .filter(|a| {
            a.org == request.org
                && a.dataset == contract.id
                && a.purposes.contains(&request.purpose)
                && a.valid_from <= request.at
                && request.until <= a.valid_until
        })
        .collect()
}

fn value<'a>(contract: &Contract, row: &'a Row, name: &str) -> Option<&'a Value> {
    let at = contract
        .landed()
        .position(|column| column.name == name)
        .unwrap();
    row.cells[at].as_ref()
}

fn day(contract: &Contract, row: &Row) -> Option<Date> {
    match value(contract, row, contract.event_date.as_ref()?) {
        Some(Value::Date(date)) => Some(*date),
        _ => None,
    }
}

/// Whether some grant covers (row, column).
fn covered(world: &World, contract: &Contract, row: &Row, column: &str) -> bool {
    let request = &world.request;
    world.grants.iter().any(|grant| {
        grant.no.0 == row.no
            && grant.org == request.org
            && grant.purpose == request.purpose
            && grant.actions.contains(request.action)
            && grant.starts <= request.at
            && request.until <= grant.expires
            && (!grant.metered || request.subjects.is_some())
            && grant.items.iter().any(|item| {
                item.dataset == contract.id
                    && item.columns.iter().any(|name| name == column)
                    && (contract.event_date.is_none()
                        || day(contract, row).is_some_and(|day| {
                            item.from.is_none_or(|from| from <= day)
                                && item.to.is_none_or(|to| day < to)
                        }))
            })
    })
}

/// Whether the row may be shown at all on this day.
fn disclosed(contract: &Contract, row: &Row, today: Date) -> bool {
    let Some(window) = &contract.window else {
        return true;
    };
    let date = |name: &str| match value(contract, row, name) {
        Some(Value::Date(date)) => Some(*date),
        _ => None,
    };
    let begun = match &window.from {
        Some(from) => date(from).is_some_and(|from| from <= today),
        None => true,
    };
    let ended = window
        .until
        .iter()
        .any(|until| date(until).is_some_and(|day| day <= today));
    let in_time = match &window.max_years_after {
        Some((column, years)) => date(column).is_some_and(|day| {
            day.checked_add_months(chrono::Months::new(12 * years))
                .unwrap()
                > today
        }),
        None => true,
    };
    begun && !ended && in_time
}

/// The form in which a world's request sees a column.
pub fn column_form(world: &World, contract: &Contract, name: &str) -> Form {
    form(&active(world, contract), contract.column(name).unwrap())
}

/// The form of a column: that of the agreement that shows least of it.
fn form(agreements: &[&Agreement], column: &Column) -> Form {
    let forms: Vec<Form> = agreements
        .iter()
        .flat_map(|a| &a.columns)
        .filter(|named| named.name == column.name)
        .map(|named| match named.form {
            Some(Form::Clear) if column.level == Level::L3 && named.reason.is_none() => {
                Form::Masked(Mask::default_for(column.ty))
            }
            None if column.level == Level::L3 => Form::Masked(Mask::default_for(column.ty)),
            None => Form::Clear,
            Some(form) => form,
        })
        .collect();
    let masked = forms.iter().find(|form| matches!(form, Form::Masked(_)));
    let bucketed = forms.iter().find(|form| matches!(form, Form::Bucketed(_)));
    masked.or(bucketed).copied().unwrap_or(Form::Clear)
}

pub fn view(world: &World, table: &Table) -> View {
    let contract = &table.contract;
    let agreements = active(world, contract);
    let statute = |agreement: &&&Agreement| matches!(agreement.basis, Basis::Statute { .. });
    let names =
        |agreement: &Agreement, column: &str| agreement.columns.iter().any(|c| c.name == column);
    let columns: Vec<(usize, String, ColumnType)> = contract
        .landed()
        .enumerate()
        .filter(|(_, column)| {
            agreements.iter().any(|a| names(a, &column.name))
                || (contract.row_level == Level::L1 && column.level == Level::L1)
        })
        .map(|(i, column)| (i, column.name.clone(), column.ty))
        .collect();
    let today = world.request.at.shanghai_date();
    let mut rows = Vec::new();
    let mut owners = Vec::new();
    let mut withheld = Vec::new();
    for (at, row) in table.rows.iter().enumerate() {
        let asked = world
            .request
            .subjects
            .as_ref()
            .is_none_or(|s| s.iter().any(|no| no.0 == row.no));
        let in_window = disclosed(contract, row, today);
        let open = contract.row_level == Level::L1
            || agreements.iter().filter(statute).count() > 0
            || columns
                .iter()
                .any(|(_, name, _)| covered(world, contract, row, name));
        if columns.is_empty() || !asked || !in_window || !open {
            continue;
        }
        let mut cells = Vec::new();
        let mut hidden = Vec::new();
        for (i, name, ty) in &columns {
            let column = contract.column(name).unwrap();
            let public = column
                .public_when
                .as_ref()
                .is_some_and(|flag| value(contract, row, flag) == Some(&Value::Boolean(true)));
            let shown = column.level == Level::L1
                || public
                || agreements.iter().filter(statute).any(|a| names(a, name))
                || (agreements
                    .iter()
                    .any(|a| a.basis == Basis::Consent && names(a, name))
                    && covered(world, contract, row, name));
            let form = form(&agreements, column);
            let cell = row.cells[*i]
                .clone()
                .filter(|_| shown)
                .and_then(|value| form.apply(*ty, value));
            cells.push(cell);
            hidden.push(!shown);
        }
        rows.push((at, cells));
        owners.push(row.no);
        withheld.push(hidden);
    }
    View {
        columns,
        rows,
        owners,
        withheld,
    }
}

impl View {
    /// The view as a table that physically holds nothing else, rows in a canonical order.
    pub fn batch(&self) -> RecordBatch {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .map(|(_, name, ty)| Field::new(name, arrow_type(*ty), true))
            .collect();
        let columns: Vec<ArrayRef> = (0..self.columns.len())
            .map(|i| {
                array(
                    self.columns[i].2,
                    self.rows.iter().map(|(_, cells)| cells[i].as_ref()),
                    true,
                )
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).unwrap()
    }

    /// The rows as text, sorted: what two worlds must have in common to be indistinguishable.
    pub fn canonical(&self) -> Vec<String> {
        let mut rows = self.described();
        rows.sort();
        rows
    }

    /// The rows as text: whose, with what in their cells, and which cells are withheld.
    pub fn described(&self) -> Vec<String> {
        self.rows
            .iter()
            .zip(&self.owners)
            .zip(&self.withheld)
            .map(|(((_, cells), no), withheld)| format!("{no} {cells:?} {withheld:?}"))
            .collect()
    }
}
