//! Where a hub keeps what: the layout of a data directory.
//!
//! ```text
//! qihui.toml                 configuration; its absence means the defaults
//! hub.lock                   flock of the one process that owns the directory; holds its process id
//! keys/                      the log's keys, 0600 in 0700 (formats: qihui_audit::LogKeys), the key of the token issuer
//!                            and the one that marks page tokens; never a signatory's key
//! catalog/contracts/*.yaml   the contracts in force, one file per dataset
//! catalog/feeds/*.yaml       how departments' files become rows
//! catalog/models/*.sql       data products as SQL, one file per product
//! catalog/declassifications/*.yaml   what lowers a column of a product, and why
//! catalog/topics/*.yaml      what organisations can subscribe to; may be missing
//! catalog/purposes.yaml      the purpose tree
//! ledger/ledger.db           agreements, consents, enterprise numbers (SQLite, with its -wal and -shm)
//! log/                       the tamper-evident log (format: qihui_audit::format)
//! warehouse/<dataset>/       the tables (format: qihui_warehouse)
//! state/runs/                what every feed run read, before its commit (format: qihui_ingest)
//! state/quarantine/          records that could not land, readable by the hub alone
//! state/topics/              how far each subscription was brought (format: qihui_pipelines::topics::progress)
//! state/hub.json             how far the log was worked through (format: hub::progress); may be deleted
//! spill/                     what queries spill while they run; emptied at every start
//! state/answers.db           answers to requests with an Idempotency-Key (format: serve::idempotency)
//! uploads/                   files on their way into a feed; emptied at every start of the service
//! hub.sock                   where the command line finds the service that owns the directory, 0600
//! inbox/                     where `feed run` looks without --from
//! ```
//!
//! Everything but `qihui.toml`, `catalog/` and `inbox/` is written by the program alone.

use std::path::{Path, PathBuf};

/// The paths inside a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the data directory `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The data directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a hub lies here: it has a log or keys.
    #[must_use]
    pub fn is_hub(&self) -> bool {
        self.log().is_dir() || self.keys().is_dir()
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("qihui.toml")
    }

    /// The lock of the owning process.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("hub.lock")
    }

    /// The folder of the log's keys.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The folder of contracts, feeds and purposes.
    #[must_use]
    pub fn catalog(&self) -> PathBuf {
        self.root.join("catalog")
    }

    /// The consent ledger.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger").join("ledger.db")
    }

    /// The folder of the log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The folder of the tables.
    #[must_use]
    pub fn warehouse(&self) -> PathBuf {
        self.root.join("warehouse")
    }

    /// The folder of run journals and quarantine.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The file of a topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> PathBuf {
        self.catalog().join("topics").join(format!("{name}.yaml"))
    }

    /// The folder of how far subscriptions were brought.
    #[must_use]
    pub fn topics(&self) -> PathBuf {
        self.state().join("topics")
    }

    /// How far the log was worked through.
    #[must_use]
    pub fn progress(&self) -> PathBuf {
        self.state().join("hub.json")
    }

    /// The folder for spilled data.
    #[must_use]
    pub fn spill(&self) -> PathBuf {
        self.root.join("spill")
    }

    /// The folder where feeds are looked for by default.
    #[must_use]
    pub fn inbox(&self) -> PathBuf {
        self.root.join("inbox")
    }

    /// The key of the local token issuer.
    #[must_use]
    pub fn issuer_key(&self) -> PathBuf {
        self.keys().join("token-issuer.key")
    }

    /// The key that marks page tokens.
    #[must_use]
    pub fn page_key(&self) -> PathBuf {
        self.keys().join("page-tokens.key")
    }

    /// The answers that are kept for repeated requests.
    #[must_use]
    pub fn answers(&self) -> PathBuf {
        self.state().join("answers.db")
    }

    /// The folder of files on their way into a feed.
    #[must_use]
    pub fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// The socket of the service that owns the directory.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("hub.sock")
    }

    /// The folders of a new hub, each after the one it lies in.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let catalog = self.catalog();
        vec![
            self.keys(),
            catalog.join("contracts"),
            catalog.join("feeds"),
            catalog.join("models"),
            catalog.join("declassifications"),
            self.root.join("ledger"),
            self.warehouse(),
            self.state(),
            self.spill(),
            self.inbox(),
        ]
    }
}
