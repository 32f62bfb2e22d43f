//! Lands the chunks of one source, one run each.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use crate::{
    IngestError, Outcome, RunOptions,
    checkpoint::{Checkpoint, Delta, PassId, Position},
    chunk::{Chunk, Rejected, RowAt},
    error::Result,
    events::{ChunkLanded, RecordsQuarantined},
    journal::{self, Journal, RunRecord, SourceId},
    landing::{CommitFault, CommitInfo, Landing, LandingRows},
    numbers::Numbering,
    plan::Plan,
    quarantine::{Origin, Quarantine},
    reader,
    reason::{Problem, Reason},
    report::{Counts, ReasonCounts, RunFact},
    run::blocking,
    source::Source,
    tally::Tally,
};

/// How often a chunk is classified again after another writer's commit.
pub(crate) const MAX_TRIES: u32 = 16;

/// What the runs of a feed write, one at a time.
pub(crate) struct State {
    pub numbering: Numbering,
    pub journal: Journal,
    pub quarantine: Quarantine,
}

/// Lands the chunks of one source.
pub(crate) struct Lander {
    plan: Arc<Plan>,
    source: Arc<Source>,
    state: Arc<Mutex<State>>,
    options: RunOptions,
    app_id: String,
    next_run: i64,
    /// The first run of this reading of the source.
    pass: Option<i64>,
    checkpoint: Checkpoint,
}

/// What became of one chunk.
pub(crate) struct Landed {
    pub counts: Counts,
    pub reasons: ReasonCounts,
    /// None in a dry run.
    pub fact: Option<RunFact>,
}

/// A run that an interrupted reading of a source has in its table.
pub(crate) struct Earlier {
    pub record: RunRecord,
    /// The version it made, where that can still be found.
    pub version: Option<i64>,
}

/// A chunk on its way, without its rows.
struct Remains {
    from: Position,
    to: Position,
    input_hash: [u8; 32],
    at: Vec<RowAt>,
    rejected: Vec<Rejected>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lander {
    pub fn new(
        plan: Arc<Plan>,
        source: Arc<Source>,
        state: Arc<Mutex<State>>,
        options: RunOptions,
    ) -> Self {
        let app_id = journal::app_id(&plan.feed.name, &plan.contract.id);
        Self {
            plan,
            source,
            state,
            options,
            app_id,
            next_run: 1,
            pass: None,
            checkpoint: Checkpoint::default(),
        }
    }

    /// Finds where to continue: the runs of this reading of the source that its table holds already.
    pub async fn resume<L: Landing>(&mut self, landing: &mut L) -> Result<Vec<Earlier>> {
        let last_run = landing.last_run(&self.app_id).await?;
        self.next_run = last_run.unwrap_or(0) + 1;
        if self.options.dry_run {
            return Ok(Vec::new());
        }
        let unfinished = self.unfinished(last_run)?;
        let mut earlier = Vec::with_capacity(unfinished.len());
        for record in unfinished {
            let noted = lock(&self.state).journal.version(record.run);
            let version = match noted {
                Some(version) => Some(version),
                // The process died between that run's commit and its note.
                None => landing.version_of(&self.app_id, record.run).await?,
            };
            earlier.push(Earlier { record, version });
        }
        Ok(earlier)
    }

    /// The runs of this reading that its table holds, whose last is `last_run` at most.
    fn unfinished(&mut self, last_run: Option<i64>) -> Result<Vec<RunRecord>> {
        let state = lock(&self.state);
        let (contract, feed) = (
            hex::encode(self.plan.contract.hash),
            hex::encode(self.plan.feed.hash),
        );
        let unfinished: Vec<RunRecord> = state
            .journal
            .unfinished(last_run, &self.source_id(), (&contract, &feed))
            .into_iter()
            .cloned()
            .collect();
        self.checkpoint = state.journal.checkpoint(last_run)?;
        self.pass = unfinished.first().map(|record| record.pass);
        if let Some(last) = unfinished.last() {
            // The process may have died between that run's commit and this step.
            state
                .quarantine
                .settle(&self.origin(last.run, last.from, last.to))?;
        }
        Ok(unfinished)
    }

    /// Ends the reading of the source: notes the commit of its last run if a process died before it could.
    pub async fn end(&self, earlier: &[Earlier]) -> Result<()> {
        let Some((last, version)) = earlier.last().map(|run| (run.record.run, run.version)) else {
            return Ok(());
        };
        let state = Arc::clone(&self.state);
        blocking(move || {
            let mut state = lock(&state);
            if state.journal.is_noted(last) {
                Ok(())
            } else {
                state.journal.committed(last, version)
            }
        })
        .await
    }

    /// Lands one chunk as one run.
    pub async fn land<L: Landing>(
        &mut self,
        chunk: Chunk,
        landing: &mut L,
        tally: &mut Tally,
    ) -> Result<Landed> {
        let (rows, remains) = self.rows(chunk).await?;
        let remains = Arc::new(remains);
        for tries in 1..=MAX_TRIES {
            let (outcomes, classified) = landing.classify(&rows).await?;
            let prepared = self.prepare(&remains, outcomes).await?;
            let Prepared { record, rejected } = prepared;
            let committed = landing
                .commit(classified, &self.commit_info(&record, remains.input_hash))
                .await;
            let version = match committed {
                Ok(version) => version,
                Err(CommitFault::Conflict) => continue,
                Err(CommitFault::Failed(error)) => return Err(error),
            };
            tally.count(&self.source.name, &remains.rejected, &rejected);
            return self.finish(record, version, tries).await;
        }
        Err(IngestError::Contended {
            dataset: self.plan.contract.id.to_string(),
            tries: MAX_TRIES,
        })
    }

    /// Numbers the enterprises of a chunk and makes its rows a batch.
    async fn rows(&self, chunk: Chunk) -> Result<(LandingRows, Remains)> {
        let Chunk {
            from,
            to,
            mut rows,
            rejected,
            input_hash,
        } = chunk;
        let state = Arc::clone(&self.state);
        let schema: SchemaRef = Arc::clone(&self.plan.schema);
        blocking(move || {
            let mut columns = vec![lock(&state).numbering.column(&rows)?];
            columns.append(&mut rows.columns);
            let batch = RecordBatch::try_new(schema, columns).map_err(|error| {
                IngestError::io("making a batch of rows", std::io::Error::other(error))
            })?;
            let remains = Remains {
                from,
                to,
                input_hash,
                at: mem::take(&mut rows.at),
                rejected,
            };
            Ok((
                LandingRows {
                    batch,
                    retract: rows.retract,
                },
                remains,
            ))
        })
        .await
    }

    /// Accounts for every record of a chunk and writes down, durably, what its commit relies on.
    async fn prepare(
        &mut self,
        remains: &Arc<Remains>,
        outcomes: Vec<Outcome>,
    ) -> Result<Prepared> {
        let run = self.next_run;
        let pass = *self.pass.get_or_insert(run);
        let delta = Delta {
            pass: PassId {
                source: self.source.sha256,
                first_run: pass,
            },
            from: remains.from,
            to: remains.to,
        };
        // Refuse before anything is written; `finish` takes the delta in.
        self.checkpoint
            .clone()
            .try_apply(&delta)
            .map_err(|fault| IngestError::Checkpoint {
                file: self.source.name.clone(),
                fault,
            })?;
        let blank = self.record(run, pass, remains);
        let origin = self.origin(run, remains.from, remains.to);
        let (remains, state, source) = (
            Arc::clone(remains),
            Arc::clone(&self.state),
            Arc::clone(&self.source),
        );
        let options = self.options;
        blocking(move || {
            let moved = moved_rows(&source, &remains, &outcomes, options.limits.kept_bytes)?;
            source.check_unchanged()?;
            let all = remains.rejected.iter().chain(&moved);
            let record = account(blank, &outcomes, all)?;
            if !options.dry_run {
                let mut state = lock(&state);
                let all: Vec<&Rejected> = remains.rejected.iter().chain(&moved).collect();
                state.quarantine.persist(&origin, &all)?;
                state.journal.prepare(record.clone())?;
            }
            Ok(Prepared {
                record,
                rejected: moved,
            })
        })
        .await
    }

    async fn finish(&mut self, record: RunRecord, version: i64, tries: u32) -> Result<Landed> {
        let fault = |fault| IngestError::Checkpoint {
            file: self.source.name.clone(),
            fault,
        };
        if let Some(delta) = record.delta() {
            self.checkpoint.try_apply(&delta).map_err(fault)?;
        }
        self.next_run += 1;
        let feed = self.plan.feed.name.as_str();
        for (reason, records) in &record.reasons {
            RecordsQuarantined {
                feed,
                run: record.run,
                reason: reason.as_str(),
                records: *records,
            }
            .emit();
        }
        if self.options.dry_run {
            return Ok(Landed {
                counts: record.counts,
                reasons: record.reasons,
                fact: None,
            });
        }
        ChunkLanded {
            feed,
            run: record.run,
            version,
            tries,
            counts: record.counts,
        }
        .emit();
        let origin = self.origin(record.run, record.from, record.to);
        let state = Arc::clone(&self.state);
        blocking(move || {
            let mut state = lock(&state);
            state.journal.committed(record.run, Some(version))?;
            state.quarantine.settle(&origin)?;
            let fact = record.fact(Some(version));
            Ok(Landed {
                counts: record.counts,
                reasons: record.reasons,
                fact: Some(fact),
            })
        })
        .await
    }

    /// The record of a run, its counts still open.
    fn record(&self, run: i64, pass: i64, remains: &Remains) -> RunRecord {
        let read = remains.to.record - remains.from.record;
        RunRecord {
            v: RunRecord::FORMAT,
            run,
            feed: self.plan.feed.name.clone(),
            dataset: self.plan.contract.id.clone(),
            source: self.source_id(),
            pass,
            from: remains.from,
            to: remains.to,
            input_hash: hex::encode(remains.input_hash),
            contract_sha256: hex::encode(self.plan.contract.hash),
            feed_sha256: hex::encode(self.plan.feed.hash),
            counts: Counts {
                read,
                ..Counts::default()
            },
            reasons: ReasonCounts::new(),
            topic: None,
            partitions: BTreeMap::new(),
        }
    }

    fn source_id(&self) -> SourceId {
        SourceId {
            path: self.source.name.clone(),
            sha256: hex::encode(self.source.sha256),
            bytes: self.source.bytes,
            text_form: self.source.text_form,
        }
    }

    fn origin(&self, run: i64, from: Position, to: Position) -> Origin {
        Origin {
            feed: self.plan.feed.name.clone(),
            source: self.source.name.clone(),
            sha256: self.source.sha256,
            run,
            from,
            to,
        }
    }

    fn commit_info(&self, record: &RunRecord, input_hash: [u8; 32]) -> CommitInfo {
        let position = serde_json::json!({
            "source": record.source.path, "sha256": record.source.sha256, "pass": record.pass,
            "from": record.from, "to": record.to,
        });
        CommitInfo {
            app_id: self.app_id.clone(),
            run: record.run,
            position,
            input_hash,
        }
    }
}

/// A run whose state is durable.
struct Prepared {
    record: RunRecord,
    /// Rows that the table turned away.
    rejected: Vec<Rejected>,
}

/// The rows that would move a key to another enterprise, fetched again from the source.
fn moved_rows(
    source: &Source,
    remains: &Remains,
    outcomes: &[Outcome],
    kept_bytes: usize,
) -> Result<Vec<Rejected>> {
    let moved = remains
        .at
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| **outcome == Outcome::UsccChanged);
    let problem = || Problem {
        code: Reason::UsccChanged,
        column: Some(qihui_catalog::contract::USCC_COLUMN.to_owned()),
    };
    moved
        .map(|(at, _)| reader::reject_row(source, *at, problem(), kept_bytes))
        .collect()
}

/// Counts what became of every record, and fails if one is unaccounted for (ING-1).
pub(crate) fn account<'r>(
    mut record: RunRecord,
    outcomes: &[Outcome],
    rejected: impl Iterator<Item = &'r Rejected>,
) -> Result<RunRecord> {
    let counts = &mut record.counts;
    for outcome in outcomes {
        match outcome {
            Outcome::Inserted => counts.inserted += 1,
            Outcome::Replaced => counts.replaced += 1,
            Outcome::Unchanged => counts.unchanged += 1,
            Outcome::Superseded => counts.superseded += 1,
            Outcome::Retracted => counts.retracted += 1,
            Outcome::UsccChanged => {}
        }
    }
    for rejected in rejected {
        counts.quarantined += 1;
        if let Some(problem) = rejected.problems.first() {
            *record.reasons.entry(problem.code).or_default() += 1;
        }
    }
    let (read, accounted) = (counts.read, counts.accounted());
    if read != accounted || record.reasons.values().sum::<u64>() != counts.quarantined {
        return Err(IngestError::Unbalanced {
            run: record.run,
            read,
            accounted,
        });
    }
    Ok(record)
}
