//! Runs feeds: a reader on one thread, landing on another, one commit per chunk.
//!
//! Promises (ING-1…3): every record that was read has exactly one outcome, checked before each commit; quarantine and
//! journal are durable before the commit that relies on them; a process killed anywhere continues where its last
//! commit ended, and the table is the same as if it had never been killed; at most three chunks are in memory.
//!
//! Order of one chunk: enterprise numbers → classify → quarantine (fsync) → journal (fsync) → commit → quarantine of
//! earlier runs settled. Another writer's commit in between starts again at classify, with the same rows.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use qihui_catalog::{Catalog, Contract, EnterpriseNumbers, FeedName, FeedSpec};
use qihui_warehouse::Warehouse;
use tokio::sync::mpsc;

use crate::{
    IngestError, Limits,
    error::Result,
    events::{SourceFailed, SourceFinished, SourceStarted},
    journal::{self, Journal},
    land::{Earlier, Lander, State},
    landing::{Landing, TableLanding},
    numbers::Numbering,
    plan::Plan,
    preview::Preview,
    quarantine::Quarantine,
    reader,
    report::{CheckReport, Counts, FileReport, Progress, ReasonCounts, RunFact, RunReport},
    source::{self, Source},
    tally::Tally,
};

/// What runs of feeds need from the hub.
#[derive(Clone)]
pub struct IngestContext {
    /// Contracts and feeds.
    pub catalog: Arc<Catalog>,
    /// Where rows land.
    pub warehouse: Warehouse,
    /// Who numbers enterprises.
    pub numbers: Arc<dyn EnterpriseNumbers>,
    /// The folder for quarantine and journals.
    pub state_dir: PathBuf,
    /// The folder that every input has to lie in; none: wherever the person at the machine may read.
    pub input_root: Option<PathBuf>,
}

/// What landing needs of it besides the table.
pub(crate) struct Place {
    pub numbers: Arc<dyn EnterpriseNumbers>,
    pub state_dir: PathBuf,
    pub input_root: Option<PathBuf>,
}

impl IngestContext {
    pub(crate) fn place(&self) -> Place {
        Place {
            numbers: Arc::clone(&self.numbers),
            state_dir: self.state_dir.clone(),
            input_root: self.input_root.clone(),
        }
    }
}

/// How a feed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Do everything but write; say what would happen.
    pub dry_run: bool,
    /// The caps on records and chunks.
    pub limits: Limits,
}

/// Runs `feed` over `input`, a file or a folder with files that fit the feed's pattern.
///
/// # Errors
/// What is wrong with a record is no error. What is wrong with a file as a whole (its path, its header, its encoding)
/// is: the other files of the folder are run all the same, and [`IngestError::SomeFiles`] tells at the end. A failing
/// disk, table or ledger ends the run at once; chunks already committed stay, and running the feed again continues
/// behind them.
pub async fn run_feed(
    ctx: &IngestContext,
    feed: &FeedName,
    input: &Path,
    options: &RunOptions,
    progress: Arc<dyn Progress>,
) -> Result<RunReport> {
    let job = Job::new(ctx, feed, options, progress)?;
    if options.dry_run {
        return Ok(job.check(ctx, input).await?.report);
    }
    let table = job.table(ctx).await?;
    let mut landing = TableLanding::new(&job.plan.contract.id, table);
    job.run(&ctx.place(), input, &mut landing, &mut Tally::default())
        .await
}

/// Says what running `feed` over `input` would do: the same steps, without effect.
pub async fn check_file(
    ctx: &IngestContext,
    feed: &FeedName,
    input: &Path,
    options: &RunOptions,
    progress: Arc<dyn Progress>,
) -> Result<CheckReport> {
    Job::new(
        ctx,
        feed,
        &RunOptions {
            dry_run: true,
            ..*options
        },
        progress,
    )?
    .check(ctx, input)
    .await
}

/// The runs of `feed` that its table holds, later than run `after`: what a hub that was killed between a commit and
/// its entry in the audit log still has to record.
pub async fn effective_runs(
    ctx: &IngestContext,
    feed: &FeedName,
    after: i64,
) -> Result<Vec<RunFact>> {
    let job = Job::new(
        ctx,
        feed,
        &RunOptions::default(),
        Arc::new(crate::report::Quiet),
    )?;
    let contract = &job.plan.contract;
    if job.snapshot_is_absent(ctx).await? {
        return Ok(Vec::new());
    }
    let mut landing = TableLanding::new(&contract.id, job.table(ctx).await?);
    let app_id = journal::app_id(feed, &contract.id);
    let last = landing.last_run(&app_id).await?;
    let journal = Journal::open(&ctx.state_dir, feed)?;
    let mut facts = Vec::new();
    for record in journal.effective(last).filter(|record| record.run > after) {
        let version = match journal.version(record.run) {
            Some(version) => Some(version),
            None => landing.version_of(&app_id, record.run).await?,
        };
        facts.push(record.fact(version));
    }
    Ok(facts)
}

/// Whether `input` holds something for `feed`: a file whose name fits, or a folder with one.
pub fn has_input(feed: &FeedSpec, input: &Path) -> Result<bool> {
    source::holds(feed, input)
}

/// One feed, bound to its contract.
pub(crate) struct Job {
    pub(crate) plan: Arc<Plan>,
    options: RunOptions,
    progress: Arc<dyn Progress>,
}

impl Job {
    pub(crate) fn new(
        ctx: &IngestContext,
        feed: &FeedName,
        options: &RunOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let bad = |fault: &str| IngestError::BadFeed {
            feed: feed.to_string(),
            fault: fault.to_owned(),
        };
        let spec = ctx
            .catalog
            .feeds
            .get(feed)
            .ok_or_else(|| bad("the catalog has no feed of this name"))?;
        let contract: &Arc<Contract> = ctx
            .catalog
            .contracts
            .get(&spec.dataset)
            .ok_or_else(|| bad("its dataset has no contract"))?;
        Self::bind(spec, contract, options, progress)
    }

    pub(crate) fn bind(
        spec: &Arc<FeedSpec>,
        contract: &Arc<Contract>,
        options: &RunOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        options.limits.check()?;
        Ok(Self {
            plan: Arc::new(Plan::new(spec, contract)?),
            options: *options,
            progress,
        })
    }

    pub(crate) fn contract(&self) -> &Contract {
        &self.plan.contract
    }

    /// The table, if there is one: it is made by the first run, not by a look at what it would do.
    pub(crate) async fn existing_table(&self, ctx: &IngestContext) -> Result<Option<TableLanding>> {
        if self.snapshot_is_absent(ctx).await? {
            return Ok(None);
        }
        let table = self.table(ctx).await?;
        Ok(Some(TableLanding::new(&self.plan.contract.id, table)))
    }

    async fn snapshot_is_absent(&self, ctx: &IngestContext) -> Result<bool> {
        let snapshot = ctx.warehouse.snapshot(&self.plan.contract.id).await;
        snapshot
            .map(|s| s.is_none())
            .map_err(|error| self.table_failed(error))
    }

    pub(crate) async fn table(&self, ctx: &IngestContext) -> Result<qihui_warehouse::Table> {
        ctx.warehouse
            .table(&self.plan.contract)
            .await
            .map_err(|error| self.table_failed(error))
    }

    fn table_failed(&self, error: qihui_warehouse::WarehouseError) -> IngestError {
        IngestError::landing(self.plan.contract.id.as_str(), error)
    }

    async fn check(&self, ctx: &IngestContext, input: &Path) -> Result<CheckReport> {
        let table = self.existing_table(ctx).await?;
        let mut tally = Tally::default();
        let mut landing = Preview::new(&self.plan.contract, table);
        let report = self
            .run(&ctx.place(), input, &mut landing, &mut tally)
            .await?;
        Ok(CheckReport {
            report,
            problems: tally.problems(),
        })
    }

    pub(crate) async fn run<L: Landing>(
        &self,
        place: &Place,
        input: &Path,
        landing: &mut L,
        tally: &mut Tally,
    ) -> Result<RunReport> {
        let files = source::find(&self.plan.feed, input, place.input_root.as_deref())?;
        let state = Arc::new(Mutex::new(State {
            numbering: Numbering::new(Arc::clone(&place.numbers), self.options.dry_run),
            journal: Journal::open(&place.state_dir, &self.plan.feed.name)?,
            quarantine: Quarantine::new(&place.state_dir),
        }));
        let mut report = RunReport {
            feed: self.plan.feed.name.clone(),
            dataset: self.plan.contract.id.clone(),
            dry_run: self.options.dry_run,
            counts: Counts::default(),
            reasons: ReasonCounts::new(),
            files: Vec::with_capacity(files.len()),
        };
        let (of, mut failed) = (files.len(), Vec::new());
        let named_alone = !input.is_dir();
        for found in files {
            let name = found.relative.display().to_string();
            let file = async {
                let (spec, limits) = (Arc::clone(&self.plan.feed), self.options.limits);
                let state_dir = place.state_dir.clone();
                let open = move || Source::open(&found, &spec, &state_dir, &limits);
                let source = blocking(open).await?;
                self.run_source(Arc::new(source), &state, landing, tally)
                    .await
            };
            let file = file.await.inspect_err(|error| {
                SourceFailed {
                    feed: self.plan.feed.name.as_str(),
                    source: &name,
                    code: error.code(),
                }
                .emit();
            });
            let file = match file {
                Ok(file) => file,
                // The other files can do nothing for what is wrong with this one.
                Err(error) if !named_alone && error.is_of_source() => {
                    failed.push((name, error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            report.counts += file.counts;
            for (reason, count) in &file.reasons {
                *report.reasons.entry(*reason).or_default() += count;
            }
            report.files.push(file);
        }
        let mut failed = failed.into_iter();
        let Some((file, first)) = failed.next() else {
            return Ok(report);
        };
        Err(IngestError::SomeFiles {
            file,
            first: Box::new(first),
            more: failed.collect(),
            of,
            done: Box::new(report),
        })
    }

    async fn run_source<L: Landing>(
        &self,
        source: Arc<Source>,
        state: &Arc<Mutex<State>>,
        landing: &mut L,
        tally: &mut Tally,
    ) -> Result<FileReport> {
        let mut lander = Lander::new(
            Arc::clone(&self.plan),
            Arc::clone(&source),
            Arc::clone(state),
            self.options,
        );
        let earlier = lander.resume(landing).await?;
        let mut report = self.begin(&source, &earlier);
        let from = earlier.last().map(|run| run.record.to);
        let (send, mut chunks) = mpsc::channel(1);
        let reading = {
            let (plan, source, limits) = (
                Arc::clone(&self.plan),
                Arc::clone(&source),
                self.options.limits,
            );
            let progress = Arc::clone(&self.progress);
            blocking(move || {
                let mut reader = reader::open(&source, &plan, from, &limits)?;
                while let Some(chunk) = reader.next_chunk(&mut |at| progress.reading(at))? {
                    if send.blocking_send(chunk).is_err() {
                        break;
                    }
                }
                Ok(())
            })
        };
        let landing_all = async {
            while let Some(chunk) = chunks.recv().await {
                let to = chunk.to;
                let landed = lander.land(chunk, landing, tally).await?;
                report.counts += landed.counts;
                for (reason, count) in landed.reasons {
                    *report.reasons.entry(reason).or_default() += count;
                }
                report.runs.extend(landed.fact);
                self.progress.landed(to, &report.counts);
            }
            drop(chunks);
            Ok(())
        };
        // Landing ends early only with an error, which closes the channel and so ends the reader.
        let (read, landed) = tokio::join!(reading, landing_all);
        landed.and(read)?;
        lander.end(&earlier).await?;
        SourceFinished {
            feed: self.plan.feed.name.as_str(),
            source: &source.name,
            counts: report.counts,
        }
        .emit();
        self.progress.finished(&report);
        Ok(report)
    }

    /// The report of a file, with what an interrupted earlier invocation did.
    fn begin(&self, source: &Source, earlier: &[Earlier]) -> FileReport {
        let mut report = FileReport {
            source: source.name.clone(),
            source_sha256: hex::encode(source.sha256),
            counts: Counts::default(),
            reasons: ReasonCounts::new(),
            resumed_after: 0,
            runs: Vec::new(),
        };
        for Earlier { record, version } in earlier {
            report.counts += record.counts;
            for (reason, count) in &record.reasons {
                *report.reasons.entry(*reason).or_default() += count;
            }
            report.runs.push(record.fact(*version));
        }
        report.resumed_after = report.counts.read;
        let done = earlier.last().map_or(0, |run| run.record.to.offset);
        self.progress.started(&source.name, source.bytes, done);
        SourceStarted {
            feed: self.plan.feed.name.as_str(),
            source: &source.name,
            bytes: source.bytes,
            resumed_after: report.resumed_after,
        }
        .emit();
        report
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The task was not cancelled, so it panicked: go on with that.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(IngestError::io(
                "waiting for a task",
                std::io::Error::other(error),
            )),
        },
    }
}
