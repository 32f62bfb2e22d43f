//! The way of the ledger's events into the log.

use std::sync::Arc;

use async_trait::async_trait;
use qihui_audit::{AuditLog, Entry};
use qihui_consent::ledger::SinkError;
use qihui_consent::{OutboxItem, Sink};
use serde_json::Value;

/// What only the log knows: entries of these kinds do not come from the ledger.
const OWN_KINDS: [&str; 3] = ["access.", "feed.", "model."];

/// Hands the ledger's events to the log: kind, body and subjects as they are.
pub(crate) struct LogSink(pub Arc<AuditLog>);

#[async_trait]
impl Sink for LogSink {
    async fn append(&self, items: &[OutboxItem]) -> Result<Vec<u64>, SinkError> {
        let entries: Vec<Entry<'_>> = items
            .iter()
            .map(|item| Entry {
                kind: &item.kind,
                body: &item.body,
                subjects: item.subjects.iter().map(|no| no.0).collect(),
            })
            .collect();
        let receipts = self.0.submit(&entries)?.await?;
        Ok(receipts.iter().map(|receipt| receipt.index).collect())
    }
}

/// The ledger position that an entry carries, if it is one of the ledger's events.
pub(crate) fn ledger_position(kind: &str, body: &Value) -> Option<u64> {
    if OWN_KINDS.iter().any(|own| kind.starts_with(own)) {
        return None;
    }
    body.get("ledger_position").and_then(Value::as_u64)
}
