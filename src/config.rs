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
use crate::kafka::{self, Kafka};

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
    /// Who may ask, and who says who they are.
    pub identity: Identity,
    /// The service.
    pub serve: Serve,
    /// Where topics are.
    pub kafka: Kafka,
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
    /// Memory of a query's operators, if its share of the whole is not less.
    pub memory_bytes: usize,
    /// Memory of all queries' operators, in equal shares; 0: half of what the machine has.
    pub total_memory_bytes: usize,
    /// Spill files of a query, if its share of the whole is not less.
    pub spill_bytes: u64,
    /// Spill files of all queries, in equal shares.
    pub total_spill_bytes: u64,
    /// Time from the decision to the last byte.
    pub seconds: u64,
    /// Rows that may pass the gate.
    pub rows: u64,
    /// Bytes of an answer.
    pub bytes: u64,
    /// Threads that a query uses; 0: as many as the machine has.
    pub threads: usize,
    /// Queries that run at the same time; 0: as many as the machine has threads, and at least four.
    pub running: usize,
    /// Of these, queries of one organisation; 0: all but one.
    pub running_per_organisation: usize,
    /// Queries that wait for their turn.
    pub waiting: usize,
    /// Of these, queries of one organisation.
    pub waiting_per_organisation: usize,
    /// Time that a query waits for its turn.
    pub waiting_seconds: u64,
    /// Length of a statement.
    pub statement_bytes: usize,
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
    /// The longest message of several records.
    pub message_bytes: usize,
    /// The most bytes that an archive or a workbook unpacks to.
    pub archive_bytes: u64,
    /// The most entries of an archive or a workbook.
    pub archive_entries: usize,
    /// The most records of one run.
    pub chunk_rows: usize,
    /// The most bytes of source that one run reads.
    pub chunk_bytes: usize,
    /// How much of a quarantined record is kept.
    pub kept_bytes: usize,
}

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Whether holding the data directory is enough.
    pub profile: Profile,
    /// The audience that tokens must name.
    pub audience: String,
    /// The `iss` of tokens from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The keys of that issuer (a JWKS): an address or a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// How long these keys stay fresh, seconds.
    pub keys_refresh_seconds: u64,
    /// How long it is waited before they are read again because of an unknown key, seconds.
    pub keys_retry_seconds: u64,
    /// The longest life of a token, seconds.
    pub token_seconds: u64,
    /// How far clocks may differ, seconds.
    pub leeway_seconds: u64,
}

/// Who is trusted to say who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Whoever holds the data directory, and the tokens that they issue.
    Embedded,
    /// The configured issuer alone.
    Service,
}

/// `[serve]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// Where to listen.
    pub listen: std::net::SocketAddr,
    /// The certificate chain, PEM; needed beyond this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM, 0600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Connections at the same time.
    pub connections: usize,
    /// Queries at the same time, those included that wait for their turn (`[query]`).
    pub queries: usize,
    /// The largest head of a request.
    pub header_bytes: usize,
    /// The most headers of a request.
    pub headers: usize,
    /// How long the head of a request may take, seconds.
    pub header_seconds: u64,
    /// The largest document in a request.
    pub body_bytes: usize,
    /// The largest file that is delivered.
    pub upload_bytes: u64,
    /// How long a request may take that is neither a query nor a delivery, seconds.
    pub request_seconds: u64,
    /// How long a client may take nothing of an answer, or send nothing of a file, seconds.
    pub stall_seconds: u64,
    /// How long answers may go on after the service was told to stop, seconds.
    pub stop_seconds: u64,
    /// How long the answer to a request with an Idempotency-Key is kept, seconds.
    pub answer_seconds: u64,
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
            total_memory_bytes: 0,
            spill_bytes: limits.spill_bytes,
            total_spill_bytes: limits.total_spill_bytes,
            seconds: limits.seconds,
            rows: limits.rows,
            bytes: limits.bytes,
            threads: 0,
            running: 0,
            running_per_organisation: 0,
            waiting: limits.waiting,
            waiting_per_organisation: limits.waiting_per_organisation,
            waiting_seconds: limits.waiting_seconds,
            statement_bytes: limits.statement_bytes,
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
            message_bytes: limits.message_bytes,
            archive_bytes: limits.archive_bytes,
            archive_entries: limits.archive_entries,
            chunk_rows: limits.chunk_rows,
            chunk_bytes: limits.chunk_bytes,
            kept_bytes: limits.kept_bytes,
        }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            profile: Profile::Embedded,
            audience: "qihui".to_owned(),
            issuer: None,
            keys: None,
            keys_refresh_seconds: 3600,
            keys_retry_seconds: 30,
            token_seconds: 30 * 86_400,
            leeway_seconds: 30,
        }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 8470)),
            tls_certificate: None,
            tls_key: None,
            connections: 1024,
            queries: 1024,
            header_bytes: 64 << 10,
            headers: 64,
            header_seconds: 10,
            body_bytes: 1 << 20,
            upload_bytes: 4 << 30,
            request_seconds: 60,
            stall_seconds: 30,
            stop_seconds: 30,
            answer_seconds: 86_400,
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
        let machine = qihui_query::access::Limits::default();
        let or = |configured: usize, default: usize| match configured {
            0 => default,
            configured => configured,
        };
        let running = or(self.running, machine.running);
        qihui_query::access::Limits {
            memory_bytes: self.memory_bytes,
            total_memory_bytes: or(self.total_memory_bytes, machine.total_memory_bytes),
            spill_bytes: self.spill_bytes,
            total_spill_bytes: self.total_spill_bytes,
            seconds: self.seconds,
            rows: self.rows,
            bytes: self.bytes,
            threads: or(self.threads, machine.threads),
            running,
            running_per_organisation: or(self.running_per_organisation, (running - 1).max(1)),
            waiting: self.waiting,
            waiting_per_organisation: self.waiting_per_organisation,
            waiting_seconds: self.waiting_seconds,
            statement_bytes: self.statement_bytes,
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
            message_bytes: self.message_bytes,
            archive_bytes: self.archive_bytes,
            archive_entries: self.archive_entries,
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
        serde_json::json!({
            "hub": self.hub,
            "identity": self.identity,
            "ingest": self.ingest,
            "kafka": self.kafka,
            "query": self.query,
            "serve": self.serve,
        })
    }
}

/// The configuration file of a new hub: every key with its default, commented out.
#[must_use]
pub fn template() -> String {
    let default = Config::default();
    let Query {
        memory_bytes,
        total_memory_bytes,
        spill_bytes,
        total_spill_bytes,
        seconds,
        rows,
        bytes,
        threads,
        running,
        running_per_organisation,
        waiting,
        waiting_per_organisation,
        waiting_seconds,
        statement_bytes,
        strict,
    } = default.query;
    let Ingest {
        root: _,
        record_bytes,
        field_bytes,
        columns,
        message_bytes,
        archive_bytes,
        archive_entries,
        chunk_rows,
        chunk_bytes,
        kept_bytes,
    } = default.ingest;
    let Identity {
        audience,
        keys_refresh_seconds,
        keys_retry_seconds,
        token_seconds,
        leeway_seconds,
        ..
    } = default.identity;
    let Serve {
        listen,
        tls_certificate: _,
        tls_key: _,
        connections,
        queries,
        header_bytes,
        headers,
        header_seconds,
        body_bytes,
        upload_bytes,
        request_seconds,
        stall_seconds,
        stop_seconds,
        answer_seconds,
    } = default.serve;
    let wait = default.hub.lock_wait_seconds;
    let kafka = kafka::template();
    format!(
        "# Configuration of this hub. Every key shows its default; remove the `#` to change it.
# The environment overrides it: QIHUI_QUERY__SECONDS=30. Unknown keys are refused.

[hub]
# How long a command waits for the process that owns the data directory.
# lock_wait_seconds = {wait}

[query]
# Memory and spill files of a query, and of all: a query gets an equal share of the whole, and no more than its own.
# memory_bytes = {memory_bytes}
# 0: half of the memory that the machine has.
# total_memory_bytes = {total_memory_bytes}
# spill_bytes = {spill_bytes}
# total_spill_bytes = {total_spill_bytes}
# seconds = {seconds}
# Rows that may pass the gate, bytes of an answer.
# rows = {rows}
# bytes = {bytes}
# 0: as many threads as the machine has.
# threads = {threads}
# Queries at the same time, and of one organisation. 0: as many as the machine has threads, at least four; all but one.
# running = {running}
# running_per_organisation = {running_per_organisation}
# Queries that wait for their turn, and of one organisation, and how long one waits. Organisations take turns.
# waiting = {waiting}
# waiting_per_organisation = {waiting_per_organisation}
# waiting_seconds = {waiting_seconds}
# The longest statement; at most 262144.
# statement_bytes = {statement_bytes}
# Slower, and equal down to the byte for equal visible rows.
# strict = {strict}

[ingest]
# The folder that every input has to lie in; without it, wherever the user may read.
# root = \"/srv/feeds\"
# record_bytes = {record_bytes}
# field_bytes = {field_bytes}
# columns = {columns}
# The longest message of several records, and what archives and workbooks may unpack to.
# message_bytes = {message_bytes}
# archive_bytes = {archive_bytes}
# archive_entries = {archive_entries}
# Records and bytes of one run: one commit each.
# chunk_rows = {chunk_rows}
# chunk_bytes = {chunk_bytes}
# How much of a quarantined record is kept.
# kept_bytes = {kept_bytes}

[identity]
# embedded: whoever holds this directory may do everything and issues tokens. service: every command needs a token.
# profile = \"embedded\"
# audience = \"{audience}\"
# The issuer of tokens and its keys (a JWKS), by address or file. The service profile needs both.
# issuer = \"https://identity.example\"
# keys = \"https://identity.example/jwks.json\"
# keys_refresh_seconds = {keys_refresh_seconds}
# keys_retry_seconds = {keys_retry_seconds}
# The longest life of a token.
# token_seconds = {token_seconds}
# leeway_seconds = {leeway_seconds}

[serve]
# listen = \"{listen}\"
# Needed beyond this machine. PEM; the key must be readable by its owner alone.
# tls_certificate = \"/etc/qihui/chain.pem\"
# tls_key = \"/etc/qihui/key.pem\"
# connections = {connections}
# Queries at once, those included that wait for their turn.
# queries = {queries}
# header_bytes = {header_bytes}
# headers = {headers}
# header_seconds = {header_seconds}
# body_bytes = {body_bytes}
# upload_bytes = {upload_bytes}
# request_seconds = {request_seconds}
# How long a client may take nothing of an answer.
# stall_seconds = {stall_seconds}
# How long answers may go on after the service was told to stop.
# stop_seconds = {stop_seconds}
# How long the answer to a request with an Idempotency-Key is kept.
# answer_seconds = {answer_seconds}

{kafka}
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
        assert!(config.identity.issuer.take().is_some());
        assert!(config.identity.keys.take().is_some());
        assert!(config.serve.tls_certificate.take().is_some());
        assert!(config.serve.tls_key.take().is_some());
        let sasl_password_file = config.kafka.sasl_password_file.take();
        assert_eq!(sasl_password_file, Some("/etc/qihui/kafka-password".into()));
        config.kafka = Kafka {
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            ..config.kafka
        };
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
