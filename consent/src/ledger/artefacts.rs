//! Versions of contracts, feeds, models, declassifications and the purpose tree, and whatever else changes the rules.

use qihui_catalog::{Artefact, Catalog, DatasetId};
use serde_json::{Map, Value, json};

use super::Ledger;
use crate::{
    error::{LedgerError, Result},
    store::events,
};

/// A recorded version of an artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedArtefact {
    /// Its version.
    pub version: String,
    /// SHA-256 of its canonical JSON.
    pub hash: [u8; 32],
    /// The event that recorded it.
    pub position: u64,
    /// The entry of the audit log that holds the event.
    pub log_index: u64,
}

impl Ledger {
    /// Records every artefact of the catalogue whose latest recorded version is another; how many. Each takes effect
    /// once logged. A new contract, model or purpose tree ends every running decision about it.
    pub async fn record_artefacts(&self, catalog: &Catalog) -> Result<usize> {
        let mut change = self.change().await?;
        let mut recorded = 0;
        for artefact in catalog.artefacts() {
            let latest =
                events::artefact(change.connection(), artefact.kind, &artefact.id, u64::MAX)
                    .await?;
            if latest.is_some_and(|(_, hash, _)| hash == artefact.hash) {
                continue;
            }
            let Artefact {
                kind,
                id,
                version,
                hash,
                ..
            } = &artefact;
            let body =
                json!({ "hash": hex::encode(hash), "id": id, "kind": kind, "version": version });
            let position = change.append("artefact.recorded", &body, &[], None).await?;
            events::insert_artefact(change.connection(), position, &artefact).await?;
            match *kind {
                "contract" | "model" => change.takes_from_all(id.parse::<DatasetId>().ok()),
                "purposes" => change.takes_from_all(None),
                _ => {}
            }
            recorded += 1;
        }
        if recorded > 0 {
            change.commit().await?;
        }
        Ok(recorded)
    }

    /// Whether this is the latest recorded version of an artefact, and that in the log. An earlier one has been
    /// replaced and does not count: going back is a change that has to be recorded as well.
    pub async fn artefact_recorded(&self, kind: &str, id: &str, hash: &[u8; 32]) -> Result<bool> {
        let mut reader = self.inner.reader().await?;
        let latest = events::artefact(&mut reader, kind, id, u64::MAX).await?;
        match latest {
            Some((_, recorded, position)) if recorded == *hash => {
                Ok(events::log_index(&mut reader, position).await?.is_some())
            }
            _ => Ok(false),
        }
    }

    /// The version of an artefact that is in force: the latest one in the log.
    pub async fn artefact(&self, kind: &str, id: &str) -> Result<Option<RecordedArtefact>> {
        let mut reader = self.inner.reader().await?;
        let logged = events::last_logged(&mut reader)
            .await?
            .map_or(0, |(position, _)| position);
        let Some((version, hash, position)) =
            events::artefact(&mut reader, kind, id, logged).await?
        else {
            return Ok(None);
        };
        let log_index = events::log_index(&mut reader, position).await?;
        let log_index = log_index
            .ok_or_else(|| LedgerError::Corrupt("an event was skipped in the log".to_owned()))?;
        Ok(Some(RecordedArtefact {
            version,
            hash,
            position,
            log_index,
        }))
    }

    /// Records a change of a role, a key, the configuration or anything else outside the ledger; its position. `kind`
    /// is two words joined by a dot, `key.rotated` for example.
    pub async fn record_change(&self, kind: &str, body: Map<String, Value>) -> Result<u64> {
        let word = |word: &str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let reserved = [
            "organisation",
            "purpose",
            "agreement",
            "signatory",
            "consent",
            "artefact",
            "subscription",
            "statistic",
            "holding",
        ];
        if !kind.split_once('.').is_some_and(|(what, happened)| {
            word(what) && word(happened) && kind.len() <= 64 && !reserved.contains(&what)
        }) {
            let reason = "its kind must be two lower-case words joined by a dot, and not one of the ledger's".to_owned();
            return Err(LedgerError::Malformed {
                what: "change",
                reason,
            });
        }
        let mut change = self.change().await?;
        let position = change.append(kind, &Value::Object(body), &[], None).await?;
        change.commit().await?;
        Ok(position)
    }
}
