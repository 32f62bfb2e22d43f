//! Feed runs, each with its entry in the log.
//!
//! `feed.run`: everything of [`RunFact`] (input hash → table version, counts), the feed, the dataset and on whose
//! behalf. `feed.failed`: the feed, the code of the error and on whose behalf. Neither touches an enterprise: a run is
//! no access. A run is recorded after its commit; one whose process died in between, at the next opening.

use std::path::Path;
use std::sync::Arc;

use qihui_audit::{Entry, Subjects};
use qihui_catalog::{DatasetId, FeedName};
use qihui_ingest::{
    CheckReport, IngestContext, IngestError, Progress, Quiet, RunFact, RunOptions, RunReport,
};
use serde_json::{Value, json};

use super::Hub;
use super::progress::LogProgress;
use super::recover::FEED_RUN;
use crate::failure::{Failure, ProgramError};

const FEED_FAILED: &str = "feed.failed";
/// How many runs are recorded in one group.
const GROUP: usize = 64;

impl Hub {
    /// Runs a feed over a file or folder and records what its table now holds.
    ///
    /// # Errors
    /// There is no such feed, its description or contract is not in the log, or the run failed; what it had committed
    /// before is recorded all the same.
    pub async fn run_feed(
        &self,
        feed: &FeedName,
        input: &Path,
        dry_run: bool,
        progress: Arc<dyn Progress>,
    ) -> Result<RunReport, Failure> {
        self.run_feed_in(&self.ingest()?, feed, input, (dry_run, progress))
            .await
    }

    /// Runs a feed over a file that the hub itself put where it lies, wherever inputs of users have to lie.
    ///
    /// # Errors
    /// As [`Hub::run_feed`].
    pub async fn run_feed_spooled(
        &self,
        feed: &FeedName,
        file: &Path,
    ) -> Result<RunReport, Failure> {
        let context = IngestContext {
            input_root: None,
            ..self.ingest()?
        };
        let quiet = Arc::new(Quiet) as Arc<dyn Progress>;
        self.run_feed_in(&context, feed, file, (false, quiet)).await
    }

    async fn run_feed_in(
        &self,
        context: &IngestContext,
        feed: &FeedName,
        input: &Path,
        (dry_run, progress): (bool, Arc<dyn Progress>),
    ) -> Result<RunReport, Failure> {
        let options = self.feed_options(feed, dry_run).await?;
        let turn = self.turn(&self.dataset_of(feed)?);
        // Runs into one dataset come one after the other: each classifies its records by what the table holds.
        let _turn = turn.lock().await;
        let run = Box::pin(qihui_ingest::run_feed(
            context, feed, input, &options, progress,
        ));
        if dry_run {
            return run.await.map_err(|error| failed_run(error, feed, input));
        }
        self.announce(|known| known.pending.insert(feed.clone()))?;
        let result = run.await.map_err(|error| failed_run(error, feed, input));
        let recorded = self.record_end(feed, result.as_ref().err()).await;
        let report = result?;
        recorded?;
        Ok(report)
    }

    fn dataset_of(&self, feed: &FeedName) -> Result<DatasetId, Failure> {
        let spec = self.catalog()?.feeds.get(feed);
        let spec = spec.ok_or_else(|| ProgramError::UnknownFeed(feed.to_string()))?;
        Ok(spec.dataset.clone())
    }

    /// What whoever lands rows in a dataset holds.
    pub(super) fn turn(&self, dataset: &DatasetId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.shared.turns.lock();
        Arc::clone(turns.entry(dataset.clone()).or_default())
    }

    /// Says what running a feed over a file would do.
    ///
    /// # Errors
    /// As [`Hub::run_feed`].
    pub async fn check_feed(
        &self,
        feed: &FeedName,
        input: &Path,
        progress: Arc<dyn Progress>,
    ) -> Result<CheckReport, Failure> {
        let context = self.ingest()?;
        let options = self.feed_options(feed, true).await?;
        let check = qihui_ingest::check_file(&context, feed, input, &options, progress);
        Ok(Box::pin(check).await?)
    }

    pub(super) async fn feed_options(
        &self,
        feed: &FeedName,
        dry_run: bool,
    ) -> Result<RunOptions, Failure> {
        let spec = self.catalog()?.feeds.get(feed);
        let spec = spec.ok_or_else(|| ProgramError::UnknownFeed(feed.to_string()))?;
        let matters = |kind: &str, id: &str| match kind {
            "feed" => id == feed.as_str(),
            "contract" => id == spec.dataset.as_str(),
            _ => false,
        };
        self.require_recorded(|artefact| matters(artefact.kind, &artefact.id))
            .await?;
        Ok(RunOptions {
            dry_run,
            limits: self.config().ingest.limits(),
        })
    }

    /// Notes, durably, that a table may soon hold more than the log knows.
    pub(super) fn announce(
        &self,
        note: impl FnOnce(&mut LogProgress) -> bool,
    ) -> Result<(), ProgramError> {
        let _saving = self.shared.saving.lock();
        let known = {
            let mut known = self.shared.known.lock();
            note(&mut known);
            known.clone()
        };
        known.save(&self.layout().progress())
    }

    pub(super) async fn record_end(
        &self,
        feed: &FeedName,
        failure: Option<&Failure>,
    ) -> Result<(), Failure> {
        self.record_runs(feed).await?;
        let Some(failure) = failure else {
            return Ok(());
        };
        let body = json!({ "by": self.principal, "code": failure.code(), "feed": feed });
        self.record(&[(FEED_FAILED, body)]).await
    }

    /// Records the runs of a feed that its table holds and the log does not.
    pub(super) async fn record_runs(&self, feed: &FeedName) -> Result<(), Failure> {
        let context = self.ingest()?;
        if let Some(spec) = context.catalog.feeds.get(feed) {
            let after = self
                .shared
                .known
                .lock()
                .runs
                .get(feed)
                .copied()
                .unwrap_or(0);
            let runs = qihui_ingest::effective_runs(&context, feed, after).await?;
            for group in runs.chunks(GROUP) {
                self.record_facts(feed, spec.dataset.as_str(), group)
                    .await?;
            }
        }
        self.shared.known.lock().pending.remove(feed);
        Ok(())
    }

    /// Records runs that their table holds.
    pub(super) async fn record_facts(
        &self,
        feed: &FeedName,
        dataset: &str,
        facts: &[RunFact],
    ) -> Result<(), Failure> {
        let Some(last) = facts.last() else {
            return Ok(());
        };
        let entries = facts.iter().map(|run| {
            let body = self.run_body(feed, dataset, run);
            (FEED_RUN, body)
        });
        let entries: Vec<_> = entries.collect();
        self.record(&entries).await?;
        self.shared.known.lock().runs.insert(feed.clone(), last.run);
        Ok(())
    }

    fn run_body(&self, feed: &FeedName, dataset: &str, run: &RunFact) -> Value {
        let mut body = json!(run);
        body["by"] = json!(self.principal);
        body["dataset"] = json!(dataset);
        body["feed"] = json!(feed);
        body
    }

    /// Appends entries that touch no enterprise and waits until they are durable.
    pub(super) async fn record(&self, entries: &[(&'static str, Value)]) -> Result<(), Failure> {
        let bodies: Vec<String> = entries.iter().map(|(_, body)| canonical(body)).collect();
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .zip(&bodies)
            .map(|((kind, _), body)| Entry {
                kind,
                body: body.as_bytes(),
                subjects: Subjects::none(),
            })
            .collect();
        self.log().submit(&entries)?.await?;
        Ok(())
    }
}

/// What [`Failure`]s of runs name beside the error: what became of feeds that were run, wholly or in part.
pub(crate) const FEEDS: &str = "feeds";
/// And, where the error is about files, those that could not be run.
pub(crate) const FILES_FAILED: &str = "files_failed";

/// What became of the records of a feed; `read` is the sum of the rest.
pub(crate) fn outcome(report: &RunReport) -> Value {
    let counts = &report.counts;
    json!({
        "feed": report.feed,
        "read": counts.read,
        "landed": counts.landed(),
        "unchanged": counts.unchanged,
        "superseded": counts.superseded,
        "retracted": counts.retracted,
        "quarantined": counts.quarantined,
    })
}

/// A failed run over `input`, with the files that failed and what became of the others.
fn failed_run(error: IngestError, feed: &FeedName, input: &Path) -> Failure {
    if !error.is_of_source() {
        return Failure::from(error);
    }
    let told = |file: &str, error: &IngestError| json!({ "code": error.code(), "feed": feed, "file": file });
    let (files, done, lines) = match &error {
        IngestError::SomeFiles {
            file,
            first,
            more,
            done,
            ..
        } => {
            let others = more.iter();
            let files = std::iter::once(told(file, first))
                .chain(others.clone().map(|(file, error)| told(file, error)));
            let lines = others.map(|(file, error)| format!("`{file}`: {error}"));
            let done = Some(&**done).filter(|done| !done.files.is_empty());
            (files.collect::<Vec<_>>(), done, lines.collect::<Vec<_>>())
        }
        _ => {
            let name = input.file_name().unwrap_or(input.as_os_str());
            let file = told(&name.to_string_lossy(), &error);
            (vec![file], None, Vec::new())
        }
    };
    let (done_json, done_line) = (done.map(outcome), done.map(in_part));
    let lines: Vec<String> = done_line.into_iter().chain(lines).collect();
    let failure = Failure::from(error)
        .with_details(lines)
        .with(FILES_FAILED, Value::Array(files));
    match done_json {
        Some(outcome) => failure.with(FEEDS, json!([outcome])),
        None => failure,
    }
}

fn in_part(done: &RunReport) -> String {
    let counts = &done.counts;
    format!(
        "feed {}: {} files run, {} read, {} landed, {} quarantined",
        done.feed,
        done.files.len(),
        counts.read,
        counts.landed(),
        counts.quarantined
    )
}

/// Canonical JSON. A value has one unless it holds a number beyond what JSON may; then its plain form stands for it.
fn canonical(body: &Value) -> String {
    serde_json_canonicalizer::to_string(body).unwrap_or_else(|_| body.to_string())
}
