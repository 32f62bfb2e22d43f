//! What a statement comes to when it is planned, found before anything walks it as a tree.
//!
//! A plan shares its parts: a WITH that names another twice is small to write, and twice as large to plan, with every
//! step. So does a computed column that is used twice in the next: optimizers put such expressions into each other.
//! [`Weight`] is computed over the shared form, each part once, as if everything was put where it is used.
//!
//! It is a function of the statement and the schemas alone.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::scalar::ScalarValue;

use crate::error::QueryError;

/// Most operators, columns and expressions that a statement comes to.
pub const MAX_OPERATIONS: u64 = 200_000;
/// What the values of one batch of one operator should take, bytes.
const BATCH_BYTES: u64 = 64 << 20;
/// Fewest rows of a batch.
const LEAST_ROWS: u64 = 64;
/// What a value of a column or of an expression is taken to have, bytes.
const VALUE_BYTES: u64 = 16;

/// What a plan comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Operators, columns and expressions.
    pub operations: u64,
    /// Bytes per row of the operator with most; what columns of tables hold is taken for short.
    pub row_bytes: u64,
}

impl Weight {
    /// How many rows its batches should have, if not `most`: an operator makes its columns whole batches at a time,
    /// and a text in the statement becomes as many texts as a batch has rows.
    #[must_use]
    pub fn batch_rows(self, most: usize) -> usize {
        let rows = (BATCH_BYTES / self.row_bytes.max(1)).max(LEAST_ROWS);
        usize::try_from(rows).map_or(most, |rows| rows.min(most))
    }
}

/// Weighs a plan.
///
/// # Errors
/// [`QueryError::StatementTooLarge`].
pub fn weigh(plan: &LogicalPlan) -> Result<Weight, QueryError> {
    let mut scale = Scale {
        seen: HashMap::new(),
        widest: VALUE_BYTES,
    };
    let measure = scale.measure(plan);
    let measure = measure.map_err(|error| QueryError::from_planning(&error))?;
    if measure.operations > MAX_OPERATIONS {
        return Err(QueryError::StatementTooLarge {
            what: "operators, columns and expressions",
            limit: MAX_OPERATIONS,
        });
    }
    Ok(Weight {
        operations: measure.operations,
        row_bytes: scale.widest,
    })
}

/// What an expression comes to with everything put in.
#[derive(Clone, Copy)]
struct Size {
    operations: u64,
    bytes: u64,
}

impl Size {
    const COLUMN: Self = Self {
        operations: 1,
        bytes: VALUE_BYTES,
    };

    fn add(&mut self, other: Self) {
        self.operations = self.operations.saturating_add(other.operations);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn max(self, other: Self) -> Self {
        Self {
            operations: self.operations.max(other.operations),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

/// What a part of a plan comes to, and what each of its columns does.
struct Measure {
    operations: u64,
    columns: Vec<Size>,
}

struct Scale {
    /// By address: the parts of a plan do not move while it is weighed.
    seen: HashMap<*const LogicalPlan, Arc<Measure>>,
    widest: u64,
}

impl Scale {
    fn measure(&mut self, plan: &LogicalPlan) -> Result<Arc<Measure>> {
        let place: *const LogicalPlan = plan;
        if let Some(seen) = self.seen.get(&place) {
            return Ok(Arc::clone(seen));
        }
        let mut operations = 1 + plan.schema().fields().len() as u64;
        let mut inputs = Vec::new();
        for input in plan.inputs() {
            let measure = self.measure(input)?;
            operations = operations.saturating_add(measure.operations);
            inputs.push((input, measure));
        }
        let mut known: HashMap<&str, Size> = HashMap::new();
        for (input, measure) in &inputs {
            for (field, size) in input.schema().fields().iter().zip(&measure.columns) {
                let known = known.entry(field.name()).or_insert(*size);
                *known = known.max(*size);
            }
        }
        let mut all = Size {
            operations: 0,
            bytes: 0,
        };
        plan.apply_expressions(|expr| {
            all.add(self.size(expr, &known)?);
            Ok(TreeNodeRecursion::Continue)
        })?;
        operations = operations.saturating_add(all.operations);
        self.widest = self.widest.max(all.bytes);
        let inputs: Vec<Arc<Measure>> = inputs.into_iter().map(|(_, input)| input).collect();
        let measure = Arc::new(Measure {
            operations,
            columns: self.columns(plan, &inputs, &known)?,
        });
        self.seen.insert(place, Arc::clone(&measure));
        Ok(measure)
    }

    fn size(&mut self, expr: &Expr, known: &HashMap<&str, Size>) -> Result<Size> {
        let mut size = Size {
            operations: 0,
            bytes: 0,
        };
        expr.apply(|node| {
            let query = match node {
                Expr::ScalarSubquery(query) => Some(query),
                Expr::Exists(exists) => Some(&exists.subquery),
                Expr::InSubquery(within) => Some(&within.subquery),
                Expr::SetComparison(comparison) => Some(&comparison.subquery),
                _ => None,
            };
            size.add(match (node, query) {
                (_, Some(query)) => Size {
                    operations: self.measure(&query.subquery)?.operations,
                    bytes: VALUE_BYTES,
                },
                (Expr::Column(column), _) => {
                    let known = known.get(column.name.as_str());
                    known.copied().unwrap_or(Size::COLUMN)
                }
                (Expr::Literal(value, _), _) => Size {
                    operations: 1,
                    bytes: VALUE_BYTES + text_bytes(value),
                },
                _ => Size::COLUMN,
            });
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(size)
    }

    /// What each column of a plan comes to.
    fn columns(
        &mut self,
        plan: &LogicalPlan,
        inputs: &[Arc<Measure>],
        known: &HashMap<&str, Size>,
    ) -> Result<Vec<Size>> {
        let width = plan.schema().fields().len();
        let exprs: &[Expr] = match plan {
            LogicalPlan::Projection(projection) => &projection.expr,
            LogicalPlan::Distinct(Distinct::On(on)) => &on.select_expr,
            LogicalPlan::Aggregate(aggregate) => &aggregate.group_expr,
            _ => &[],
        };
        let mut columns = Vec::with_capacity(width);
        for expr in exprs {
            columns.push(self.size(expr, known)?);
        }
        match plan {
            LogicalPlan::Projection(_) | LogicalPlan::Distinct(Distinct::On(_)) => {}
            // Grouping sets have columns of their own: each is taken for the largest.
            LogicalPlan::Aggregate(aggregate)
                if columns.len() + aggregate.aggr_expr.len() != width =>
            {
                columns = vec![largest(&columns); width];
            }
            LogicalPlan::Aggregate(_) => {}
            LogicalPlan::Union(_) => {
                for input in inputs {
                    columns.resize(columns.len().max(input.columns.len()), Size::COLUMN);
                    for (column, other) in columns.iter_mut().zip(&input.columns) {
                        *column = column.max(*other);
                    }
                }
            }
            _ => {
                let parts = inputs
                    .iter()
                    .flat_map(|input| input.columns.iter().copied());
                columns.extend(parts);
            }
        }
        // What a window or a mark join adds; what a semi join leaves out.
        columns.resize(width, Size::COLUMN);
        Ok(columns)
    }
}

fn largest(sizes: &[Size]) -> Size {
    sizes
        .iter()
        .fold(Size::COLUMN, |most, size| most.max(*size))
}

fn text_bytes(value: &ScalarValue) -> u64 {
    match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::Utf8View(Some(text))
        | ScalarValue::LargeUtf8(Some(text)) => text.len() as u64,
        ScalarValue::Binary(Some(bytes))
        | ScalarValue::BinaryView(Some(bytes))
        | ScalarValue::LargeBinary(Some(bytes)) => bytes.len() as u64,
        _ => 0,
    }
}
