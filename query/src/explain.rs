//! EXPLAIN as the gate gives it: the user's logical plan, and which columns are restricted and why.
//!
//! The plan is that of the statement as it was written, before the engine or the gate changed anything of it. What is said
//! of each dataset is the terms of the decision: agreements, levels and the contract.
//!
//! It is a function of the statement and the scopes' terms, never of rows: no operator, file, page or count of
//! what lies below the gate appears. Nor does how many grants do not count: they open nothing, so nothing may tell them
//! from grants that were never given. (And a scope that is shared may be older than the request.)

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use qihui_catalog::DatasetId;
use qihui_consent::decision::{ColumnScope, DatasetScope, Reason, StatisticsScope, Verdict, Why};

use crate::dense::DenseScope;

/// The text of EXPLAIN.
pub fn explain(
    written: &LogicalPlan,
    strict: bool,
    scopes: &BTreeMap<DatasetId, Arc<DenseScope>>,
) -> String {
    let mut text = format!("{}\n", written.display_indent());
    if strict {
        text.push_str(
            "mode: strict (an expression may fail or round by order, so rows are taken in order)\n",
        );
    }
    for (dataset, scope) in scopes {
        let scope = scope.scope();
        let _ = match &scope.statistics {
            Some(statistics) => figures(&mut text, dataset, scope, statistics),
            None => rows_and_columns(&mut text, dataset, scope),
        };
    }
    text
}

/// The terms of a dataset that gives figures alone.
fn figures(
    text: &mut String,
    dataset: &DatasetId,
    scope: &DatasetScope,
    statistics: &StatisticsScope,
) -> std::fmt::Result {
    let terms = statistics.terms;
    let agreed = |why: &Why| matches!(why, Why::Statistics(_));
    writeln!(
        text,
        "dataset {dataset}: figures about groups of at least {} enterprises, second largest kept {} percent \
         from the largest, by {}; no row{}\n  summed up: {}",
        terms.min_enterprises,
        terms.p_percent,
        terms.period.as_str(),
        because(reasons(scope, None).filter(|why| agreed(why))),
        statistics.columns.join(", ")
    )
}

/// What of a dataset is open and what is not, and why.
fn rows_and_columns(
    text: &mut String,
    dataset: &DatasetId,
    scope: &DatasetScope,
) -> std::fmt::Result {
    let rows = if scope.all_rows {
        "every row".to_owned()
    } else {
        let enterprises = scope.enterprises();
        format!("rows that a grant covers ({enterprises} enterprises)")
    };
    let window = match scope.contract.window {
        Some(_) => ", within the disclosure window",
        None => "",
    };
    let why = because(reasons(scope, None));
    writeln!(text, "dataset {dataset}: {rows}{window}{why}")?;
    for column in &scope.columns {
        let (name, form) = (&column.name, column.form);
        // Where every row shows it, consents have no part in it.
        let why = reasons(scope, Some(name))
            .filter(|why| !column.always || !matches!(why, Why::Consent(_)));
        let why = because(why);
        writeln!(text, "  {name}: {form}, {}{why}", shown(column))?;
    }
    for (why, columns) in closed(scope) {
        writeln!(text, "  closed ({why}): {}", columns.join(", "))?;
    }
    Ok(())
}

/// In which rows a column is shown.
fn shown(column: &ColumnScope) -> String {
    if column.always {
        return "in every row".to_owned();
    }
    let mut ways = Vec::new();
    if column.by_grant {
        ways.push("where a grant covers it".to_owned());
    }
    if let Some(flag) = &column.public_when {
        ways.push(format!("where {flag} is true"));
    }
    if ways.is_empty() {
        return "nowhere".to_owned();
    }
    ways.join(" or ")
}

/// Why a column, or the rows (none), are open or not, as far as terms decide it.
fn reasons<'a>(scope: &'a DatasetScope, column: Option<&'a str>) -> impl Iterator<Item = &'a Why> {
    let about = move |reason: &&Reason| reason.column.as_deref() == column;
    let reasons = scope.reasons.iter().filter(about).map(|reason| &reason.why);
    reasons.filter(|why| match why {
        Why::Public
        | Why::Statute(_)
        | Why::Consent(_)
        | Why::Statistics(_)
        | Why::PublicWhen(_)
        | Why::NotInAgreement
        | Why::NeverOpened
        | Why::AgreementNotInForce(_)
        | Why::UnknownColumn(_) => true,
        Why::GrantsNotInTime(_) | Why::GrantsForOtherActions(_) | Why::GrantsMetered(_) => false,
    })
}

fn because<'a>(reasons: impl Iterator<Item = &'a Why>) -> String {
    reasons.map(|why| format!("; {why}")).collect()
}

/// The columns that are not shown at all, in the order of the contract, by the reason.
fn closed(scope: &DatasetScope) -> BTreeMap<&Why, Vec<&str>> {
    let place = |name: &str| {
        let mut columns = scope.contract.columns.iter();
        columns.position(|column| column.name == name)
    };
    let closed = scope.reasons.iter().filter_map(|reason| {
        let column = reason.column.as_deref()?;
        (reason.verdict == Verdict::Closed).then_some((place(column), column, &reason.why))
    });
    let mut closed: Vec<_> = closed.collect();
    closed.sort();
    let mut by_reason: BTreeMap<&Why, Vec<&str>> = BTreeMap::new();
    for (_, column, why) in closed {
        by_reason.entry(why).or_default().push(column);
    }
    by_reason
}
