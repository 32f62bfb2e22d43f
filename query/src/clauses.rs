//! Clauses that the engine's planner reads over without a word. They are refused, so that no answer is to another
//! question than was asked: a sample of a table would be all of it, and a version of it the present one. Likewise EXCEPT ALL
//! and INTERSECT ALL, which do not count how often the second side has a row: of two rows against one, the engine leaves none
//! and keeps both.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Query, Select, SetExpr, SetOperator, SetQuantifier, TableFactor, Visit, Visitor,
};

use crate::error::QueryError;

/// Refuses a query that holds such a clause anywhere.
///
/// # Errors
/// [`QueryError::NotAllowed`] names the clause.
pub fn refuse_unheard(query: &Query) -> Result<(), QueryError> {
    match query.visit(&mut Unheard) {
        ControlFlow::Break(what) => Err(QueryError::NotAllowed { what: what.into() }),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Unheard;

/// Whether a set operation would have to count copies of rows. What stands in parentheses is a query of its own.
fn subtracts_copies(body: &SetExpr) -> bool {
    let mut bodies = vec![body];
    while let Some(body) = bodies.pop() {
        let SetExpr::SetOperation {
            op,
            set_quantifier,
            left,
            right,
        } = body
        else {
            continue;
        };
        let all = [SetQuantifier::All, SetQuantifier::AllByName].contains(set_quantifier);
        if all && *op != SetOperator::Union {
            return true;
        }
        bodies.extend([left.as_ref(), right.as_ref()]);
    }
    false
}

/// Ends the visit with the first of these clauses that is there.
fn first_of(clauses: &[(bool, &'static str)]) -> ControlFlow<&'static str> {
    match clauses.iter().find(|(there, _)| *there) {
        Some((_, what)) => ControlFlow::Break(what),
        None => ControlFlow::Continue(()),
    }
}

impl Visitor for Unheard {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        first_of(&[
            (!query.locks.is_empty(), "FOR UPDATE or FOR SHARE"),
            (query.for_clause.is_some(), "FOR XML, JSON or BROWSE"),
            (query.settings.is_some(), "SETTINGS"),
            (query.format_clause.is_some(), "FORMAT"),
            (subtracts_copies(&query.body), "EXCEPT ALL or INTERSECT ALL"),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        first_of(&[
            (select.prewhere.is_some(), "PREWHERE"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (select.value_table_mode.is_some(), "AS STRUCT or AS VALUE"),
            (select.select_modifiers.is_some(), "a modifier of SELECT"),
        ])
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Self::Break> {
        match table {
            TableFactor::Table {
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => first_of(&[
                (sample.is_some(), "TABLESAMPLE"),
                (version.is_some(), "a version of a table"),
                (*with_ordinality, "WITH ORDINALITY"),
                (!partitions.is_empty(), "PARTITION"),
                (json_path.is_some(), "a path into a table"),
                (
                    !with_hints.is_empty() || !index_hints.is_empty(),
                    "a hint about a table",
                ),
            ]),
            TableFactor::Derived { sample, .. } => first_of(&[(sample.is_some(), "TABLESAMPLE")]),
            _ => ControlFlow::Continue(()),
        }
    }
}
