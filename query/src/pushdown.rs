//! Which of the user's filters a scan may use to skip pages.
//!
//! Only comparisons of a column with a literal of the same type that reject null (`=`, `<`, `<=`, `>`, `>=`, IN,
//! BETWEEN, and OR of these on one column, as which the engine writes a short IN), on a column disclosed clear: on what is shown they cannot fail, a hidden cell (null) never satisfies
//! them, and what they skip the gate would have dropped by applying them again after masking.

use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::scalar::ScalarValue;
use qihui_catalog::Uscc;
use qihui_consent::decision::{ColumnScope, Form};

use crate::forms;
use crate::mutations::{Mutation, mutated};

/// The column of `filter` if it may be used, given the columns of the scope and their types.
pub fn column<'a>(
    filter: &Expr,
    columns: &'a [(ColumnScope, qihui_catalog::ColumnType)],
) -> Option<&'a str> {
    let (name, literals) = parts(filter)?;
    let (column, ty) = columns.iter().find(|(column, _)| column.name == name)?;
    let wanted = forms::arrow_type(*ty);
    let clear = column.form == Form::Clear || mutated(Mutation::MaskedPushed);
    let as_is =
        |literal: &ScalarValue| literal.data_type() == wanted || mutated(Mutation::CastPushed);
    let mut literals = literals.into_iter();
    let fits = clear && literals.all(|literal| !literal.is_null() && as_is(literal));
    fits.then_some(column.name.as_str())
}

/// The enterprises that a usable filter on the `uscc` column names, if all it names are codes.
pub fn subjects(filter: &Expr) -> Option<Vec<Uscc>> {
    let (name, literals) = parts(filter)?;
    if !is_equality(filter) || name != "uscc" {
        return None;
    }
    literals
        .iter()
        .map(|literal| literal.try_as_str()??.parse().ok())
        .collect()
}

/// Whether a usable filter names each value that it keeps.
fn is_equality(filter: &Expr) -> bool {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::Eq => true,
            Operator::Or => is_equality(left) && is_equality(right),
            _ => false,
        },
        Expr::InList(_) => true,
        _ => false,
    }
}

fn parts(filter: &Expr) -> Option<(&str, Vec<&ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => {
            let (name, mut literals) = parts(left)?;
            let (other, more) = parts(right)?;
            literals.extend(more);
            (name == other).then_some((name, literals))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let compares = matches!(
                op,
                Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
            );
            match (compares, left.as_ref(), right.as_ref()) {
                (true, Expr::Cast(cast), Expr::Literal(value, _))
                    if mutated(Mutation::CastPushed) =>
                {
                    match cast.expr.as_ref() {
                        Expr::Column(column) => Some((column.name(), vec![value])),
                        _ => None,
                    }
                }
                (true, Expr::Column(column), Expr::Literal(value, _))
                | (true, Expr::Literal(value, _), Expr::Column(column)) => {
                    Some((column.name(), vec![value]))
                }
                _ => None,
            }
        }
        Expr::IsNull(column) if mutated(Mutation::NullTestPushed) => match column.as_ref() {
            Expr::Column(column) => Some((column.name(), Vec::new())),
            _ => None,
        },
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
