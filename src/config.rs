//! The configuration: one typed tree, passed explicitly.
//!
//! Defaults < the file (`qihui.toml` in the data directory, or `--config`) < the environment < flags. Unknown keys are
//! refused wherever they come from. A key of the environment is `QIHUI_<SECTION>__<KEY>`, for example
//! `QIHUI_QUERY__SECONDS=30`; other variables that begin with `QIHUI_` are not configuration.
//!
//! The configuration in force is recorded in the log whenever it has changed; only `[diagnostics]` is not part of
//! that, since it has no effect on what the hub does.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::failure::ProgramError;

/// The configuration of a hub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The data directory.
    pub hub: Hub,
    /// Limits of queries.
    pub query: Query,
    /// Limits of feeds.
    pub ingest: Ingest,
    /// What is said on stderr.
    pub diagnostics: Diagnostics,
}

/// `[hub]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// How long a command waits for the process that owns the data directory, in seconds.
    pub lock_wait_seconds: u64,
}

/// `[query]`: each limit has an error of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Memory of a query's operators.
    pub memory_bytes: usize,
    /// Spill files of a query.
    pub spill_bytes: u64,
    /// Time from the decision to the last byte.
    pub seconds: u64,
    /// Rows that may pass the gate.
    pub rows: u64,
    /// Bytes of an answer.
    pub bytes: u64,
    /// Threads that a query uses; 0: as many as the machine has.
    pub threads: usize,
    /// Run every query in strict mode.
    pub strict: bool,
}

/// `[ingest]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    /// The folder that every input of a feed has to lie in; none: wherever the user may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// The longest record.
    pub record_bytes: usize,
    /// The longest field, after decoding.
    pub field_bytes: usize,
    /// The most columns of a file.
    pub columns: usize,
    /// The most records of one run.
    pub chunk_rows: usize,
    /// The most bytes of source that one run reads.
    pub chunk_bytes: usize,
    /// How much of a quarantined record is kept.
    pub kept_bytes: usize,
}

/// `[diagnostics]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagnostics {
    /// What the program says about itself on stderr.
    pub level: Level,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What should be looked at.
    Warn,
    /// What was done.
    Info,
    /// How it was done.
    Debug,
    /// Every step.
    Trace,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            lock_wait_seconds: 10,
        }
    }
}

impl Default for Query {
    fn default() -> Self {
        let limits = qihui_query::access::Limits::default();
        Self {
            memory_bytes: limits.memory_bytes,
            spill_bytes: limits.spill_bytes,
            seconds: limits.seconds,
            rows: limits.rows,
            bytes: limits.bytes,
            threads: 0,
            strict: false,
        }
    }
}

impl Default for Ingest {
    fn default() -> Self {
        let limits = qihui_ingest::Limits::DEFAULT;
        Self {
            root: None,
            record_bytes: limits.record_bytes,
            field_bytes: limits.field_bytes,
            columns: limits.columns,
            chunk_rows: limits.chunk_rows,
            chunk_bytes: limits.chunk_bytes,
            kept_bytes: limits.kept_bytes,
        }
    }
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self {
            level: Level::Error,
        }
    }
}

impl Query {
    /// The limits as the gate takes them.
    #[must_use]
    pub fn limits(&self) -> qihui_query::access::Limits {
        let machine = || std::thread::available_parallelism().map_or(1, usize::from);
        qihui_query::access::Limits {
            memory_bytes: self.memory_bytes,
            spill_bytes: self.spill_bytes,
            seconds: self.seconds,
            rows: self.rows,
            bytes: self.bytes,
            threads: if self.threads == 0 {
                machine()
            } else {
                self.threads
            },
        }
    }
}

impl Ingest {
    /// The limits as ingestion takes them.
    #[must_use]
    pub fn limits(&self) -> qihui_ingest::Limits {
        qihui_ingest::Limits {
            record_bytes: self.record_bytes,
            field_bytes: self.field_bytes,
            columns: self.columns,
            chunk_rows: self.chunk_rows,
            chunk_bytes: self.chunk_bytes,
            kept_bytes: self.kept_bytes,
        }
    }
}

/// What flags say about the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// How often `--verbose` was given.
    pub verbose: u8,
    /// Whether `--strict` was given.
    pub strict: bool,
}

/// The variables of the environment that are configuration: section and key are joined by two underscores.
const ENVIRONMENT_PREFIX: &str = "QIHUI_";
const ENVIRONMENT_SEPARATOR: &str = "__";

impl Config {
    /// Puts the configuration together. `file` is read when it is there; `must_exist` says that it was asked for.
    ///
    /// # Errors
    /// [`ProgramError::BadConfiguration`] naming the key and where it comes from.
    pub fn load(file: &Path, must_exist: bool, flags: &Flags) -> Result<Self, ProgramError> {
        if must_exist && !file.is_file() {
            let reason = format!("there is no file `{}`", file.display());
            return Err(ProgramError::BadConfiguration { reason });
        }
        let environment = Env::prefixed(ENVIRONMENT_PREFIX)
            .filter(|key| key.as_str().contains(ENVIRONMENT_SEPARATOR))
            .split(ENVIRONMENT_SEPARATOR);
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if file.is_file() {
            figment = figment.merge(Toml::file_exact(file));
        }
        figment = figment.merge(environment);
        if flags.strict {
            figment = figment.merge(Serialized::default("query.strict", true));
        }
        if flags.verbose > 0 {
            let level = if flags.verbose == 1 {
                Level::Info
            } else {
                Level::Debug
            };
            figment = figment.merge(Serialized::default("diagnostics.level", level));
        }
        figment
            .extract()
            .map_err(|error| ProgramError::BadConfiguration {
                reason: error.to_string(),
            })
    }

    /// What is recorded of it in the log.
    #[must_use]
    pub fn recorded(&self) -> serde_json::Value {
        serde_json::json!({ "hub": self.hub, "ingest": self.ingest, "query": self.query })
    }
}

/// The configuration file of a new hub: every key with its default, commented out.
#[must_use]
pub fn template() -> String {
    let default = Config::default();
    let Query {
        memory_bytes,
        spill_bytes,
        seconds,
        rows,
        bytes,
        threads,
        strict,
    } = default.query;
    let Ingest {
        root: _,
        record_bytes,
        field_bytes,
        columns,
        chunk_rows,
        chunk_bytes,
        kept_bytes,
    } = default.ingest;
    let wait = default.hub.lock_wait_seconds;
    format!(
        "# Configuration of this hub. Every key shows its default; remove the `#` to change it.
# The environment overrides it: QIHUI_QUERY__SECONDS=30. Unknown keys are refused.

[hub]
# How long a command waits for the process that owns the data directory.
# lock_wait_seconds = {wait}

[query]
# memory_bytes = {memory_bytes}
# spill_bytes = {spill_bytes}
# seconds = {seconds}
# Rows that may pass the gate, bytes of an answer.
# rows = {rows}
# bytes = {bytes}
# 0: as many threads as the machine has.
# threads = {threads}
# Slower, and equal down to the byte for equal visible rows.
# strict = {strict}

[ingest]
# The folder that every input has to lie in; without it, wherever the user may read.
# root = \"/srv/feeds\"
# record_bytes = {record_bytes}
# field_bytes = {field_bytes}
# columns = {columns}
# Records and bytes of one run: one commit each.
# chunk_rows = {chunk_rows}
# chunk_bytes = {chunk_bytes}
# How much of a quarantined record is kept.
# kept_bytes = {kept_bytes}

[diagnostics]
# off, error, warn, info, debug or trace, on stderr.
# level = \"error\"
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ProgramError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("qihui.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file, true, &Flags::default())
    }

    #[test]
    fn the_template_holds_the_defaults() {
        assert_eq!(load(&template()).unwrap(), Config::default());
        let uncommented: String = template()
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let mut config = load(&uncommented).unwrap();
        assert_eq!(config.ingest.root.take(), Some("/srv/feeds".into()));
        assert_eq!(config, Config::default(), "every key is in the template");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for (text, word) in [
            ("[query]\nsecond = 3\n", "second"),
            ("[querry]\nseconds = 3\n", "querry"),
            ("[query]\nseconds = \"soon\"\n", "seconds"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn flags_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("qihui.toml");
        std::fs::write(&file, "[query]\nseconds = 7\nstrict = false\n").unwrap();
        let flags = Flags {
            verbose: 2,
            strict: true,
        };
        let config = Config::load(&file, true, &flags).unwrap();
        assert_eq!((config.query.seconds, config.query.strict), (7, true));
        assert_eq!(config.diagnostics.level, Level::Debug);
        assert!(Config::load(&dir.path().join("none.toml"), true, &flags).is_err());
        assert!(Config::load(&dir.path().join("none.toml"), false, &flags).is_ok());
    }
}
