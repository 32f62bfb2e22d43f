//! How far the log was worked through at the last clean end: a shortcut, never a source of truth.
//!
//! Format of `state/hub.json`: one JSON object, replaced as a whole. Everything in it can be found in the log again
//! by reading it from the start, which is what happens when the file is absent or unreadable. `pending` and
//! `pending_models` alone are written before the work they announce: the feeds and models whose runs may be in a table
//! and not yet in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use qihui_catalog::{DatasetId, FeedName};
use serde::{Deserialize, Serialize};

use crate::failure::ProgramError;
use crate::files;

/// The version of the format.
const FORMAT: u32 = 1;

/// What is known of the log without reading it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogProgress {
    v: u32,
    /// Entries before this one need no further work: the ledger knows its own, every access among them has an end.
    pub scanned: u64,
    /// SHA-256 of the configuration that was recorded last.
    pub configuration: Option<String>,
    /// The last run of each feed that is in the log.
    pub runs: BTreeMap<FeedName, i64>,
    /// Feeds that were being run.
    pub pending: BTreeSet<FeedName>,
    /// The last run of each model that is in the log.
    #[serde(default)]
    pub model_runs: BTreeMap<DatasetId, i64>,
    /// Models that were being built.
    #[serde(default)]
    pub pending_models: BTreeSet<DatasetId>,
}

impl LogProgress {
    /// Reads the file; nothing is known when it is absent or unreadable.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        let known = std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        known.filter(|known| known.v == FORMAT).unwrap_or_default()
    }

    /// Writes the file, durably.
    ///
    /// # Errors
    /// [`ProgramError::FileUnwritable`].
    pub fn save(&self, path: &Path) -> Result<(), ProgramError> {
        let text = serde_json::to_vec(&Self {
            v: FORMAT,
            ..self.clone()
        });
        let mut text = text.map_err(|error| files::unwritable(path, &error.into()))?;
        text.push(b'\n');
        files::replace(path, &text)
    }
}
