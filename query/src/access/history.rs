//! An enterprise's own accesses, out of the log.

use qihui_audit::{AuditLog, LogError};
use qihui_catalog::{EnterpriseNo, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::entries::{DENIED, FINISHED};
use crate::error::QueryError;

/// One access, as the enterprise that it touched may see it: who, when, what for and which columns; never the
/// statement, totals, or another enterprise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessRecord {
    /// Index in the log of the entry that ended the access.
    pub index: u64,
    /// When it ended, RFC 3339.
    pub time: String,
    /// The organisation.
    pub org: String,
    /// The purpose.
    pub purpose: String,
    /// The datasets read.
    pub datasets: Vec<String>,
    /// The columns read, as `dataset.column`.
    pub columns: Vec<String>,
    /// `allowed`, `denied`, `interrupted`, or `failed` when it broke off after the decision.
    pub decision: String,
    /// Rows of this enterprise that were read; none when the access was too wide to count them one by one.
    pub rows: Option<u64>,
}

fn text(value: &Value, key: &str) -> String {
    value
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// All accesses that touched an enterprise, oldest first.
///
/// # Errors
/// [`QueryError::LogUnavailable`] when the log cannot be read.
pub fn accesses_of(log: &AuditLog, no: EnterpriseNo) -> Result<Vec<AccessRecord>, QueryError> {
    let unavailable = |error: LogError| QueryError::LogUnavailable {
        message: error.to_string(),
        code: error.code(),
    };
    let mut records = Vec::new();
    for index in log.entries_touching(no.0).map_err(unavailable)? {
        let entry = log.read(index).map_err(unavailable)?;
        if entry.leaf.kind != FINISHED && entry.leaf.kind != DENIED {
            continue;
        }
        let end: Value = serde_json::from_slice(&entry.body).unwrap_or(Value::Null);
        let decided = match end.get("decided").and_then(Value::as_u64) {
            Some(decided) => {
                let entry = log.read(decided).map_err(unavailable)?;
                serde_json::from_slice(&entry.body).unwrap_or(Value::Null)
            }
            None => end.clone(),
        };
        let (mut datasets, mut columns) = (Vec::new(), Vec::new());
        for dataset in decided
            .get("datasets")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = text(dataset, "dataset");
            for column in dataset
                .get("columns")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                columns.push(format!("{name}.{}", column.as_str().unwrap_or_default()));
            }
            datasets.push(name);
        }
        let decision = match (entry.leaf.kind.as_str(), text(&end, "outcome").as_str()) {
            (DENIED, _) => "denied",
            (_, "complete") => "allowed",
            (_, "interrupted") => "interrupted",
            _ => "failed",
        };
        let rows = match decision {
            "denied" => Some(0),
            _ => end
                .get("rows_by_enterprise")
                .and_then(|rows| rows.get(no.0.to_string()))
                .and_then(Value::as_u64),
        };
        records.push(AccessRecord {
            index,
            time: Timestamp(entry.leaf.time_ms).to_string(),
            org: text(&decided, "org"),
            purpose: text(&decided, "purpose"),
            datasets,
            columns,
            decision: decision.to_owned(),
            rows,
        });
    }
    Ok(records)
}
