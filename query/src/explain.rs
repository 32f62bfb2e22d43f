//! EXPLAIN as the gate gives it: the user's logical plan, and which columns are restricted and why.
//!
//! It is a function of the statement and the scopes' terms, never of rows: no operator, file, page or count of
//! what lies below the gate appears.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use qihui_catalog::DatasetId;

use crate::dense::DenseScope;

/// The text of EXPLAIN.
pub fn explain(
    logical: &LogicalPlan,
    strict: bool,
    scopes: &BTreeMap<DatasetId, Arc<DenseScope>>,
) -> String {
    let mut text = format!("{}\n", logical.display_indent());
    if strict {
        text.push_str(
            "mode: strict (an expression may fail or round by order, so rows are taken in order)\n",
        );
    }
    for (dataset, scope) in scopes {
        let scope = scope.scope();
        if let Some(statistics) = &scope.statistics {
            let terms = statistics.terms;
            let _ = writeln!(
                text,
                "dataset {dataset}: figures about groups of at least {} enterprises, second largest kept {} percent \
                 from the largest, by {}; no row\n  summed up: {}",
                terms.min_enterprises,
                terms.p_percent,
                terms.period.as_str(),
                statistics.columns.join(", ")
            );
            continue;
        }
        let rows = if scope.all_rows {
            "every row".to_owned()
        } else {
            format!(
                "rows that a grant covers ({} enterprises)",
                scope.enterprises()
            )
        };
        let window = if scope.contract.window.is_some() {
            ", within the disclosure window"
        } else {
            ""
        };
        let _ = writeln!(text, "dataset {dataset}: {rows}{window}");
        for column in &scope.columns {
            let shown = if column.always {
                "in every row".to_owned()
            } else {
                let mut ways = Vec::new();
                if column.by_grant {
                    ways.push("where a grant covers it".to_owned());
                }
                if let Some(flag) = &column.public_when {
                    ways.push(format!("where {flag} is true"));
                }
                if ways.is_empty() {
                    "nowhere".to_owned()
                } else {
                    ways.join(" or ")
                }
            };
            let _ = writeln!(text, "  {}: {}, {shown}", column.name, column.form);
        }
    }
    text
}
