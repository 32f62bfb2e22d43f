//! Bringing the log up to what ledger and tables hold, at every opening.

use std::collections::BTreeMap;

use qihui_catalog::{DatasetId, FeedName};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use super::Hub;
use super::sink::ledger_position;
use crate::failure::{Failure, ProgramError};

/// The kind of a feed run's entry; see [`super::runs`].
pub(super) const FEED_RUN: &str = "feed.run";
/// The kind of a model run's entry; see [`super::models`].
pub(super) const MODEL_RUN: &str = "model.run";
/// The kind of the entry that holds the configuration.
const CONFIGURATION: &str = "configuration.recorded";
/// The kind of the entry that names the log's own key.
const KEY: &str = "key.created";

/// What entries say that matters after a start.
#[derive(Default)]
struct Found {
    /// Ledger position and log index.
    events: Vec<(u64, u64)>,
    runs: BTreeMap<FeedName, i64>,
    model_runs: BTreeMap<DatasetId, i64>,
    configuration: Option<String>,
}

impl Hub {
    /// See the promises of [`super`]. The order matters: what the log holds is learnt before anything is handed over
    /// to it again.
    pub(super) async fn catch_up(&self) -> Result<(), Failure> {
        self.check_ends().await?;
        let from = self.shared.known_before.scanned;
        let found = self.read_log(from)?;
        self.shared.drainer.resume(found.events).await?;
        {
            let mut known = self.shared.known.lock();
            known.runs.extend(found.runs);
            known.model_runs.extend(found.model_runs);
            known.configuration = found.configuration.or(known.configuration.take());
            if from == 0 && self.log().size() > 0 {
                // The file is new or was lost: any feed may have runs that are not in the log.
                let feeds = self.catalog.iter().flat_map(|catalog| catalog.feeds.keys());
                known.pending.extend(feeds.cloned());
                let models = self
                    .catalog
                    .iter()
                    .flat_map(|catalog| catalog.models.keys());
                known.pending_models.extend(models.cloned());
            }
        }
        self.ledger.expire_due().await?;
        self.record_beginning().await?;
        self.acknowledge().await?;
        if from < self.log().size() && self.catalog.is_ok() {
            Box::pin(self.gate()?.close_interrupted(from)).await?;
            // What may be kept of them is a holding by now.
            self.acknowledge().await?;
        }
        if self.catalog.is_ok() {
            let pending = self.shared.known.lock().pending.clone();
            for feed in pending {
                Box::pin(self.record_runs(&feed)).await?;
            }
            let pending = self.shared.known.lock().pending_models.clone();
            for model in pending {
                self.record_model_runs(&model).await?;
            }
        }
        Ok(())
    }

    /// Refuses a log that ends before what is known of it, and one that is not this ledger's.
    async fn check_ends(&self) -> Result<(), Failure> {
        let size = self.log().size();
        let truncated = |known| Err(ProgramError::LogTruncated { size, known }.into());
        if self.shared.known_before.scanned > size {
            return truncated(self.shared.known_before.scanned - 1);
        }
        if size > 0 && self.ledger.position().await? == 0 {
            return Err(self.shared.opening.ledger_missing().into());
        }
        let Some((position, index)) = self.ledger.last_logged().await? else {
            return Ok(());
        };
        if index >= size {
            return truncated(index);
        }
        let entry = self.log().read(index)?;
        let body = serde_json::from_slice(&entry.body).unwrap_or(Value::Null);
        if ledger_position(&entry.leaf.kind, &body) == Some(position) {
            return Ok(());
        }
        Err(ProgramError::LogMismatch { index }.into())
    }

    /// Reads the entries from `from` on.
    fn read_log(&self, from: u64) -> Result<Found, Failure> {
        let mut found = Found::default();
        for entry in self.log().scan(from..self.log().size()) {
            let entry = entry?;
            let body: Value = serde_json::from_slice(&entry.body).unwrap_or(Value::Null);
            if let Some(position) = ledger_position(&entry.leaf.kind, &body) {
                found.events.push((position, entry.index));
            }
            match entry.leaf.kind.as_str() {
                FEED_RUN => {
                    let feed = body.get("feed").and_then(Value::as_str);
                    let feed = feed.and_then(|feed| feed.parse::<FeedName>().ok());
                    let run = body.get("run").and_then(Value::as_i64);
                    if let Some((feed, run)) = feed.zip(run) {
                        let last = found.runs.entry(feed).or_default();
                        *last = run.max(*last);
                    }
                }
                MODEL_RUN => {
                    let model = body.get("model").and_then(Value::as_str);
                    let model = model.and_then(|model| model.parse::<DatasetId>().ok());
                    let run = body.get("run").and_then(Value::as_i64);
                    if let Some((model, run)) = model.zip(run) {
                        let last = found.model_runs.entry(model).or_default();
                        *last = run.max(*last);
                    }
                }
                CONFIGURATION => {
                    let hash = body.get("sha256").and_then(Value::as_str);
                    found.configuration = hash.map(str::to_owned);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Records what a hub begins with, and the configuration when it is another than before.
    async fn record_beginning(&self) -> Result<(), Failure> {
        if self.ledger.position().await? == 0 {
            let mut key = Map::new();
            key.insert("key".to_owned(), self.log().vkey().into());
            self.ledger.record_change(KEY, key).await?;
            self.ledger.record_artefacts(self.catalog()?).await?;
        }
        let configuration = self.config().recorded();
        let hash = sha256(&configuration)?;
        if self.shared.known.lock().configuration.as_deref() == Some(&hash) {
            return Ok(());
        }
        let body = json!({ "by": self.principal, "configuration": configuration, "sha256": hash });
        if let Value::Object(body) = body {
            self.ledger.record_change(CONFIGURATION, body).await?;
        }
        self.shared.known.lock().configuration = Some(hash);
        Ok(())
    }
}

/// SHA-256 of the canonical JSON of a document, hexadecimal.
fn sha256(document: &Value) -> Result<String, ProgramError> {
    let text =
        serde_json_canonicalizer::to_vec(document).map_err(|_| ProgramError::BadConfiguration {
            reason: "it has no canonical form".to_owned(),
        })?;
    Ok(hex::encode(digest(&SHA256, &text)))
}
