//! Accesses out of the log: an enterprise's own, and one that somebody made.

use qihui_audit::{AuditLog, LogError};
use qihui_catalog::{Action, EnterpriseNo, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::entries::{DECIDED, DENIED, FINISHED};
use super::terms::Terms;
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
    /// Whether nothing of this enterprise left but its part in figures about groups.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub statistic: bool,
    /// What the answer was for: `VIEW`, `QUERY`, `STORE` or `STREAM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The consents of this enterprise, of those that count their uses, that it used once each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<String>,
    /// The holding that the receiver keeps of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holding: Option<String>,
}

fn text(value: &Value, key: &str) -> String {
    value
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

#[allow(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn unavailable(error: LogError) -> QueryError {
    QueryError::LogUnavailable {
        message: error.to_string(),
        code: error.code(),
    }
}

/// All accesses that touched an enterprise, oldest first.
///
/// # Errors
/// [`QueryError::LogUnavailable`] when the log cannot be read.
pub fn accesses_of(log: &AuditLog, no: EnterpriseNo) -> Result<Vec<AccessRecord>, QueryError> {
    let mut records = Vec::new();
    for index in log.entries_touching(no.0).map_err(unavailable)? {
        records.extend(access_at(log, index, no)?);
    }
    Ok(records)
}

/// The access that ended with an entry touching an enterprise; none when the entry is of another kind. Which entries
/// touch it is known to [`AuditLog::entries_touching`].
///
/// # Errors
/// [`QueryError::LogUnavailable`] when the log cannot be read.
pub fn access_at(
    log: &AuditLog,
    index: u64,
    no: EnterpriseNo,
) -> Result<Option<AccessRecord>, QueryError> {
    let entry = log.read(index).map_err(unavailable)?;
    if entry.leaf.kind != FINISHED && entry.leaf.kind != DENIED {
        return Ok(None);
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
            .and_then(Value::as_object)
            .map(|rows| rows.get(&no.0.to_string()))
            .map(|rows| rows.and_then(Value::as_u64).unwrap_or(0)),
    };
    let uses = end
        .get("uses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let own = uses.filter(|one| one.get("no").and_then(Value::as_u64) == Some(no.0.into()));
    let uses = own.map(|one| text(one, "consent_id")).collect();
    let word = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).map(str::to_owned);
    Ok(Some(AccessRecord {
        index,
        time: Timestamp(entry.leaf.time_ms).to_string(),
        org: text(&decided, "org"),
        purpose: text(&decided, "purpose"),
        datasets,
        columns,
        decision: decision.to_owned(),
        rows,
        statistic: decided.get("statistic").and_then(Value::as_bool) == Some(true),
        action: word(&decided, "action"),
        uses,
        holding: word(&end, "holding"),
    }))
}

/// What the log says of one access to whoever made it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// The access.
    pub access_id: String,
    /// Who asked.
    pub principal: String,
    /// For which organisation.
    pub org: String,
    /// What for.
    pub purpose: String,
    /// Index of the `access.decided` entry; none when it was denied.
    pub decided: Option<u64>,
    /// Index of the `access.finished` or `access.denied` entry; none while it runs.
    pub finished: Option<u64>,
    /// `complete`, `running`, `denied`, `interrupted`, or the code of the error that it broke off with.
    pub outcome: String,
    /// The code of a refusal.
    pub code: Option<String>,
    /// Rows of the answer.
    pub rows: Option<u64>,
    /// Bytes that were handed over.
    pub bytes: Option<u64>,
    /// SHA-256 of these bytes, hexadecimal.
    pub sha256: Option<String>,
    /// What was decided per dataset: columns, contract version, commitment, basis. The version of the table is in the log
    /// alone: there is another one whenever rows of anybody were landed. The commitment is for whoever may look at every
    /// access: see [`Manifest::for_one_organisation`].
    pub decisions: Value,
    /// What was read per dataset: rows, enterprises with a row in it, cells withheld per column.
    pub datasets: Value,
    /// What the receiver may do with the answer; none where there is none.
    pub terms: Option<Terms>,
}

impl Manifest {
    /// The manifest for an organisation that may look at its own accesses only: without the commitments to the scopes. A
    /// commitment is to numbers of enterprises: who tries them all finds those in its own scope, and so how many of their
    /// county the hub heard of before.
    #[must_use]
    pub fn for_one_organisation(mut self) -> Self {
        strip(&mut self.decisions, "commitment");
        self
    }
}

/// Looks for an access among the last `newest` entries, newest first.
///
/// # Errors
/// [`QueryError::LogUnavailable`] when the log cannot be read.
pub fn manifest_of(
    log: &AuditLog,
    access_id: &str,
    newest: u64,
) -> Result<Option<Manifest>, QueryError> {
    let size = log.size();
    for index in (size.saturating_sub(newest)..size).rev() {
        let entry = log.read(index).map_err(unavailable)?;
        let kind = entry.leaf.kind.as_str();
        if ![DECIDED, FINISHED, DENIED].contains(&kind) {
            continue;
        }
        let body: Value = serde_json::from_slice(&entry.body).unwrap_or(Value::Null);
        if text(&body, "access_id") == access_id {
            return manifest(log, index, kind, &body).map(Some);
        }
    }
    Ok(None)
}

/// Takes a field out of what is said of each dataset.
fn strip(datasets: &mut Value, field: &str) {
    let datasets = datasets.as_array_mut().into_iter().flatten();
    for dataset in datasets.filter_map(Value::as_object_mut) {
        dataset.remove(field);
    }
}

fn manifest(log: &AuditLog, index: u64, kind: &str, end: &Value) -> Result<Manifest, QueryError> {
    let decided = match kind {
        DECIDED => Some(index),
        _ => end.get("decided").and_then(Value::as_u64),
    };
    let decision = match decided.filter(|at| *at != index) {
        Some(at) => {
            let entry = log.read(at).map_err(unavailable)?;
            serde_json::from_slice(&entry.body).unwrap_or(Value::Null)
        }
        None => end.clone(),
    };
    let number = |key: &str| end.get(key).and_then(Value::as_u64);
    let words = |key: &str| end.get(key).and_then(Value::as_str).map(str::to_owned);
    let part = |of: &Value| of.get("datasets").cloned().unwrap_or(Value::Null);
    let mut decisions = match kind {
        DENIED => Value::Null,
        _ => part(&decision),
    };
    strip(&mut decisions, "table_version");
    let terms = (kind == FINISHED).then(|| terms(&decision, end)).flatten();
    Ok(Manifest {
        access_id: text(end, "access_id"),
        principal: text(&decision, "principal"),
        org: text(&decision, "org"),
        purpose: text(&decision, "purpose"),
        decided,
        finished: (kind != DECIDED).then_some(index),
        outcome: match kind {
            DECIDED => "running".to_owned(),
            DENIED => "denied".to_owned(),
            _ => text(end, "outcome"),
        },
        code: words("code"),
        rows: number("rows"),
        bytes: number("bytes"),
        sha256: words("sha256"),
        decisions,
        datasets: if kind == FINISHED {
            part(end)
        } else {
            Value::Null
        },
        terms,
    })
}

fn terms(decision: &Value, end: &Value) -> Option<Terms> {
    let action = decision.get("action")?.as_str()?.parse().ok()?;
    if action == Action::Stream {
        // A subscriber's copy is kept up to what is open, by events.
        return None;
    }
    let datasets = decision.get("datasets")?.as_array()?;
    let is_open = |dataset: &Value| {
        let basis = dataset.get("basis").and_then(Value::as_array);
        basis.is_some_and(Vec::is_empty)
    };
    let holding = end.get("holding").and_then(Value::as_str);
    let until = end.get("keep_until").and_then(Value::as_str);
    let held = holding.map(|id| (id.to_owned(), until.and_then(|until| until.parse().ok())));
    Some(Terms::new(action, datasets.iter().all(is_open), held))
}
