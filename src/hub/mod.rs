//! A hub: one data directory, opened.
//!
//! Promises:
//! - **One owner.** A hub is open in one process at a time; others wait, then fail ([`DirectoryLock`]).
//! - **The log is complete.** Opening brings the log up to what ledger and tables hold: events that were committed and
//!   not handed over, feed runs that were committed and not recorded, accesses that were decided and not ended. What
//!   a command acknowledges is in the log before it says so ([`Hub::acknowledge`]).
//! - **Nothing takes effect unrecorded.** Contracts, feeds and purposes count in the version that is in the log; a
//!   changed file has no effect until `catalog check --record` ([`Hub::require_recorded`], and the gate itself). The
//!   configuration is recorded whenever it has changed.
//! - A log or ledger that lost something the other knows of is refused, not repaired.
//!
//! Limits: a broken catalogue stops only the commands that need one; what takes away needs nothing but the ledger
//! ([`Hub::take_away`]).

mod acts;
mod lock;
mod models;
pub mod progress;
mod recover;
mod refusals;
mod runs;

pub(crate) use runs::{FEEDS, FILES_FAILED, outcome};
mod sink;
mod topics;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use qihui_audit::{AuditLog, Clock, LogKeys};
use qihui_catalog::{
    Artefact, Catalog, CatalogErrors, DatasetId, EnterpriseNo, EnterpriseNumbers, TopicSpec, Uscc,
};
use qihui_consent::ledger::Checked;
use qihui_consent::{Drainer, Ledger};
use qihui_ingest::IngestContext;
use qihui_pipelines::topics::Topics;
use qihui_pipelines::topics::progress::kept_versions;
use qihui_query::access::{Bounds, Gate, GateParts, Unfinished};
use qihui_warehouse::Warehouse;

pub use acts::{Act, Acted};
pub use lock::DirectoryLock;
pub use topics::TopicRun;

use crate::config::Config;
use crate::failure::{Failure, ProgramError};
use crate::files;
use crate::layout::Layout;
use crate::principal;
use progress::LogProgress;
use sink::LogSink;

/// What is needed to open a hub.
#[derive(Clone)]
pub struct Opening {
    /// Where it lies.
    pub layout: Layout,
    /// Its configuration.
    pub config: Config,
    /// Its time.
    pub clock: Arc<dyn Clock>,
    /// The hub itself, where this process has it open already, for whoever asks.
    pub shared: Option<Hub>,
}

impl Opening {
    /// Takes the directory, if there is a hub in it.
    ///
    /// # Errors
    /// [`ProgramError::NotAHub`], and as [`DirectoryLock::acquire`].
    pub async fn lock(&self) -> Result<DirectoryLock, ProgramError> {
        if !self.layout.is_hub() {
            return Err(ProgramError::NotAHub {
                dir: self.layout.root().to_owned(),
            });
        }
        let wait = Duration::from_secs(self.config.hub.lock_wait_seconds);
        DirectoryLock::acquire(&self.layout, wait).await
    }

    async fn ledger(&self) -> Result<Ledger, Failure> {
        let ledger = Ledger::open(&self.layout.ledger(), Arc::clone(&self.clock)).await?;
        Ok(ledger.acting_as(&principal::local()))
    }

    /// Checks the ledger against its events, without opening it for writing. None: there is none, and this is no hub but a
    /// copy of a log and its keys.
    ///
    /// # Errors
    /// What the check finds; [`ProgramError::LedgerMissing`].
    pub(crate) async fn check_ledger(&self) -> Result<Option<Checked>, Failure> {
        if let Some(hub) = &self.shared {
            return Ok(Some(hub.ledger.check().await?));
        }
        let path = self.layout.ledger();
        if !path.is_file() {
            return match self.layout.catalog().is_dir() {
                true => Err(self.ledger_missing().into()),
                false => Ok(None),
            };
        }
        let ledger = Ledger::follow(&path, Arc::clone(&self.clock)).await?;
        let checked = ledger.check().await;
        ledger.close().await;
        Ok(Some(checked?))
    }

    fn ledger_missing(&self) -> ProgramError {
        let path = self.layout.ledger();
        ProgramError::LedgerMissing { path }
    }

    fn catalog(&self) -> Result<Arc<Catalog>, CatalogErrors> {
        load_catalog(&self.layout).map(Arc::new)
    }
}

/// The catalogue of a hub, with the contracts of its products.
///
/// # Errors
/// Everything that is wrong with its files.
pub fn load_catalog(layout: &Layout) -> Result<Catalog, CatalogErrors> {
    qihui_pipelines::models::complete(Catalog::load(&layout.catalog())?)
}

/// An open hub, as one principal sees it. Clones and the views of [`Hub::acting_as`] share what is open; a view keeps
/// the catalogue that was in force when it was made. [`Hub::close`] it after work that succeeded; dropping it is safe
/// at any time.
#[derive(Clone)]
pub struct Hub {
    principal: Arc<str>,
    ledger: Ledger,
    catalog: Result<Arc<Catalog>, CatalogErrors>,
    /// Dropped last, with the lock in it.
    shared: Arc<Shared>,
}

/// What is open.
struct Shared {
    opening: Opening,
    log: Arc<AuditLog>,
    drainer: Drainer,
    catalog: RwLock<Result<Arc<Catalog>, CatalogErrors>>,
    warehouse: Warehouse,
    /// What all queries may use, whichever gate they come through.
    bounds: Arc<Bounds>,
    /// The accesses without an end, whichever gate they came through.
    unfinished: Arc<Unfinished>,
    /// The gate over the catalogue in force, with its cache of file metadata.
    gate: Mutex<Option<(Arc<Catalog>, Arc<Gate>)>>,
    /// What is refused, on its way into the log.
    refusals: refusals::Room,
    /// The deliveries to subscribers, once somebody asked for them.
    topics: Mutex<Option<Topics>>,
    /// Whose turn it is to land rows in a dataset.
    turns: Mutex<BTreeMap<DatasetId, Arc<tokio::sync::Mutex<()>>>>,
    /// What the file said, and what is known now.
    known_before: LogProgress,
    known: Mutex<LogProgress>,
    /// Held while the file is written, so that it never holds less than it did.
    saving: Mutex<()>,
    /// Dropped last: the directory is free once everything in it is closed.
    _lock: DirectoryLock,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("root", &self.layout().root())
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Opens a hub and brings its log up to date.
    ///
    /// # Errors
    /// The directory holds no hub or is in use; log, ledger or warehouse cannot be opened, contradict each other, or
    /// cannot record what is pending.
    pub async fn open(opening: &Opening) -> Result<Self, Failure> {
        let layout = &opening.layout;
        let lock = opening.lock().await?;
        let keys = LogKeys::load(&layout.keys())?;
        let log = AuditLog::open(&layout.log(), &keys, Arc::clone(&opening.clock))?;
        let log = Arc::new(log);
        if log.size() > 0 && !layout.ledger().is_file() {
            return Err(opening.ledger_missing().into());
        }
        empty(&layout.spill())?;
        let ledger = opening.ledger().await?;
        let known = LogProgress::load(&layout.progress());
        let catalog = opening.catalog();
        let shared = Shared {
            drainer: Drainer::new(ledger.clone(), Arc::new(LogSink(Arc::clone(&log)))),
            log,
            catalog: RwLock::new(catalog.clone()),
            warehouse: Warehouse::open(&layout.warehouse())?,
            bounds: Arc::new(Bounds::new(opening.config.query.limits(), layout.spill())),
            unfinished: Arc::default(),
            gate: Mutex::default(),
            refusals: refusals::Room::default(),
            topics: Mutex::default(),
            turns: Mutex::default(),
            known_before: known.clone(),
            known: Mutex::new(known),
            saving: Mutex::default(),
            opening: opening.clone(),
            _lock: lock,
        };
        let hub = Self {
            shared: Arc::new(shared),
            principal: principal::local().into(),
            ledger,
            catalog,
        };
        // Before anything can land: subscribers are still to be compared with these versions.
        for (dataset, versions) in kept_versions(&layout.topics())? {
            hub.shared.warehouse.keep(&dataset, versions)?;
        }
        // Figures of a period are always of the same rows.
        for (dataset, versions) in hub.ledger.edition_tables().await? {
            hub.shared.warehouse.keep_for_good(&dataset, versions)?;
        }
        Box::pin(hub.catch_up()).await?;
        Ok(hub)
    }

    /// The same hub for what `principal` does: every entry of the log names it.
    #[must_use]
    pub fn acting_as(&self, principal: &str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            principal: principal.into(),
            ledger: self.ledger.acting_as(principal),
            catalog: self.shared.catalog.read().clone(),
        }
    }

    /// The same hub over the catalogue as its files are now.
    #[must_use]
    pub fn rereading_catalog(&self) -> Self {
        Self {
            catalog: self.shared.opening.catalog(),
            ..self.clone()
        }
    }

    /// Puts this view's catalogue in force for every view that is made from now on.
    pub fn install_catalog(&self) {
        *self.shared.catalog.write() = self.catalog.clone();
    }

    /// Puts a topic in force, and nothing else of the catalogue, for every view that is made from now on.
    pub fn install_topic(&self, topic: &TopicSpec) {
        let mut present = self.shared.catalog.write();
        if let Ok(catalog) = present.as_mut() {
            let mut catalog_with = Catalog::clone(catalog);
            catalog_with
                .topics
                .insert(topic.name.clone(), Arc::new(topic.clone()));
            *catalog = Arc::new(catalog_with);
        }
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.shared.opening.layout
    }

    /// The hub's time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.opening.clock
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.opening.config
    }

    /// Who is asking, as the log names it.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The consent ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Arc<AuditLog> {
        &self.shared.log
    }

    /// The catalogue.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn catalog(&self) -> Result<&Arc<Catalog>, Failure> {
        self.catalog.as_ref().map_err(Failure::of)
    }

    /// The way to the data. One gate serves everybody as long as the catalogue is the same.
    ///
    /// # Errors
    /// The catalogue is broken, or the engine cannot be set up.
    pub fn gate(&self) -> Result<Arc<Gate>, Failure> {
        let catalog = self.catalog()?;
        let mut present = self.shared.gate.lock();
        if let Some((of, gate)) = present.as_ref()
            && Arc::ptr_eq(of, catalog)
        {
            return Ok(Arc::clone(gate));
        }
        let gate = Arc::new(Gate::new(GateParts {
            catalog: Arc::clone(catalog),
            ledger: self.ledger.clone(),
            log: Arc::clone(&self.shared.log),
            warehouse: self.shared.warehouse.clone(),
            bounds: Arc::clone(&self.shared.bounds),
            unfinished: Arc::clone(&self.shared.unfinished),
            clock: Arc::clone(self.clock()),
        })?);
        *present = Some((Arc::clone(catalog), Arc::clone(&gate)));
        Ok(gate)
    }

    /// The deliveries to subscribers.
    ///
    /// # Errors
    /// As [`Hub::gate`], or what is kept of a delivery cannot be read.
    pub fn topics(&self) -> Result<Topics, Failure> {
        let gate = self.gate()?;
        let mut open = self.shared.topics.lock();
        if let Some(topics) = open.as_ref() {
            return Ok(topics.acting_as(gate, &self.principal));
        }
        let folder = self.layout().topics();
        let topics = Topics::open(Arc::clone(&gate), &folder, &self.principal)?;
        let own = topics.acting_as(gate, &self.principal);
        *open = Some(topics);
        Ok(own)
    }

    /// What runs of feeds need.
    ///
    /// # Errors
    /// The catalogue is broken.
    pub fn ingest(&self) -> Result<IngestContext, Failure> {
        Ok(IngestContext {
            catalog: Arc::clone(self.catalog()?),
            warehouse: self.shared.warehouse.clone(),
            numbers: Arc::new(self.ledger.clone()),
            state_dir: self.layout().state(),
            input_root: self.config().ingest.root.clone(),
        })
    }

    /// The number of an enterprise, if the hub knows it.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn number_of(&self, uscc: Uscc) -> Result<Option<EnterpriseNo>, Failure> {
        Ok(self.ledger.lookup(&[uscc])?.into_iter().next().flatten())
    }

    /// Hands what the ledger committed to the log. What gives is in force, and what takes away may be reported as
    /// done, when this returns.
    ///
    /// # Errors
    /// `LogUnavailable`.
    pub async fn acknowledge(&self) -> Result<(), Failure> {
        self.shared.drainer.drain().await?;
        Ok(())
    }

    /// The parts of the catalogue whose present version is not in the log.
    ///
    /// # Errors
    /// The catalogue is broken, or the ledger cannot be read.
    pub async fn unrecorded(&self) -> Result<Vec<Artefact>, Failure> {
        let mut unrecorded = Vec::new();
        for artefact in self.catalog()?.artefacts() {
            let recorded =
                self.ledger
                    .artefact_recorded(artefact.kind, &artefact.id, &artefact.hash);
            if !recorded.await? {
                unrecorded.push(artefact);
            }
        }
        Ok(unrecorded)
    }

    /// Refuses to go on while a part of the catalogue that matters has a version that is not in the log.
    ///
    /// # Errors
    /// [`ProgramError::NotRecorded`], and as [`Hub::unrecorded`].
    pub async fn require_recorded(
        &self,
        matters: impl Fn(&Artefact) -> bool,
    ) -> Result<(), Failure> {
        match self.unrecorded().await?.into_iter().find(matters) {
            None => Ok(()),
            Some(Artefact {
                kind, id, version, ..
            }) => {
                let what = match kind {
                    "purposes" => format!("version {version} of the purpose tree"),
                    _ => format!("version {version} of the {kind} `{id}`"),
                };
                Err(ProgramError::NotRecorded { what }.into())
            }
        }
    }

    /// Notes how far the log was worked through and closes everything. Only for work that succeeded: otherwise the
    /// next opening looks at the entries of this one again.
    pub async fn close(self) {
        let known = {
            let mut known = self.shared.known.lock();
            if self.shared.catalog.read().is_ok() {
                // Otherwise accesses without an end may not have been closed. Those of this process are for the next one.
                let (size, first) = (self.log().size(), self.shared.unfinished.first());
                known.scanned = first.map_or(size, |first| first.min(size));
            }
            known.clone()
        };
        if known != self.shared.known_before
            && let Err(error) = known.save(&self.layout().progress())
        {
            // The next opening reads more of the log, that is all.
            tracing::warn!(%error, "cannot note how far the log was worked through");
        }
        self.ledger.close().await;
    }
}

/// Removes what a process that was killed left in a folder, and makes the folder if it is missing.
fn empty(folder: &Path) -> Result<(), ProgramError> {
    let clear = || -> std::io::Result<()> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)
    };
    clear().map_err(|error| files::unwritable(folder, &error))
}
