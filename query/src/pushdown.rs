//! Which of the user's filters a scan may use to skip pages.
//!
//! Only comparisons of a column with a literal of the same type that reject null (`=`, `<`, `<=`, `>`, `>=`, IN,
//! BETWEEN), on a column disclosed clear: on what is shown they cannot fail, a hidden cell (null) never satisfies
//! them, and what they skip the gate would have dropped by applying them again after masking.

use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::scalar::ScalarValue;
use qihui_catalog::Uscc;
use qihui_consent::decision::{ColumnScope, Form};

use crate::forms;

/// The column of `filter` if it may be used, given the columns of the scope and their types.
pub fn column<'a>(
    filter: &Expr,
    columns: &'a [(ColumnScope, qihui_catalog::ColumnType)],
) -> Option<&'a str> {
    let (name, literals) = parts(filter)?;
    let (column, ty) = columns.iter().find(|(column, _)| column.name == name)?;
    let wanted = forms::arrow_type(*ty);
    let fits = column.form == Form::Clear
        && literals
            .iter()
            .all(|literal| !literal.is_null() && literal.data_type() == wanted);
    fits.then_some(column.name.as_str())
}

/// The enterprises that a usable filter on the `uscc` column names, if all it names are codes.
pub fn subjects(filter: &Expr) -> Option<Vec<Uscc>> {
    let equality = matches!(
        filter,
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::Eq,
            ..
        }) | Expr::InList(_)
    );
    let (name, literals) = parts(filter)?;
    if !equality || name != "uscc" {
        return None;
    }
    literals
        .iter()
        .map(|literal| literal.try_as_str()??.parse().ok())
        .collect()
}

fn parts(filter: &Expr) -> Option<(&str, Vec<&ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let compares = matches!(
                op,
                Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
            );
            match (compares, left.as_ref(), right.as_ref()) {
                (true, Expr::Column(column), Expr::Literal(value, _))
                | (true, Expr::Literal(value, _), Expr::Column(column)) => {
                    Some((column.name(), vec![value]))
                }
                _ => None,
            }
        }
        Expr::InList(list) if !list.negated => {
            let Expr::Column(column) = list.expr.as_ref() else {
                return None;
            };
            let literals: Option<Vec<_>> = list.list.iter().map(literal).collect();
            Some((column.name(), literals?))
        }
        Expr::Between(between) if !between.negated => {
            let Expr::Column(column) = between.expr.as_ref() else {
                return None;
            };
            Some((
                column.name(),
                vec![literal(&between.low)?, literal(&between.high)?],
            ))
        }
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}
