//! Lands the chunks of a topic, one run each, as files are landed ([`crate::land`]): numbers → classify → quarantine →
//! journal → commit. What differs is the position, which says how far each partition was read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::array::RecordBatch;

use super::{
    consume::TopicChunk,
    error::TopicError,
    position::{Span, TopicPosition},
};
use crate::{
    IngestError, Outcome, RunOptions,
    checkpoint::Position,
    chunk::{Rejected, RowAt},
    error::Result,
    events::{ChunkLanded, RecordsQuarantined},
    journal::{self, RunRecord, SourceId},
    land::{MAX_TRIES, State, account},
    landing::{CommitFault, CommitInfo, Landing, LandingRows},
    plan::Plan,
    quarantine::Origin,
    reader,
    reason::{Problem, Reason},
    report::{Counts, ReasonCounts, RunFact},
    run::blocking,
};

/// How many runs over a topic the journal remembers at least.
const REMEMBERED_RUNS: usize = 1024;

/// Lands the chunks of one topic.
pub(super) struct TopicLander {
    plan: Arc<Plan>,
    state: Arc<Mutex<State>>,
    options: RunOptions,
    app_id: String,
    next_run: i64,
    position: TopicPosition,
}

/// A chunk on its way, without its rows.
struct Remains {
    span: Span,
    at: Vec<RowAt>,
    partitions: Vec<i32>,
    raw: Vec<u8>,
    rejected: Vec<(i32, Rejected)>,
    input_hash: [u8; 32],
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the topic as a source.
pub(super) fn source_name(topic: &str) -> String {
    format!("kafka:{topic}")
}

impl TopicLander {
    /// Finds where to go on. With `anew`, and for a topic that was never read, that is the start of a new reading.
    pub async fn resume<L: Landing>(
        plan: &Arc<Plan>,
        state: &Arc<Mutex<State>>,
        options: RunOptions,
        landing: &mut L,
        (cluster, topic): (&str, &str),
        anew: bool,
    ) -> Result<Self> {
        let app_id = journal::app_id(&plan.feed.name, &plan.contract.id);
        let last_run = landing.last_run(&app_id).await?;
        let next_run = last_run.unwrap_or(0) + 1;
        let mut position = lock(state).journal.topic(last_run).cloned();
        if let (None, Some(run)) = (&position, last_run) {
            // The journal was lost; the table says itself how far it came.
            let committed = landing.position_of(&app_id, run).await?;
            position = committed.as_ref().and_then(TopicPosition::from_json);
        }
        let position = match position.filter(|at| !anew && at.topic == topic) {
            None => TopicPosition::start(cluster, topic, next_run),
            Some(position) if position.cluster == cluster => position,
            Some(_) => {
                let topic = topic.to_owned();
                let difference = super::Difference::Cluster;
                return Err(TopicError::Replaced { topic, difference }.into());
            }
        };
        Ok(Self {
            plan: Arc::clone(plan),
            state: Arc::clone(state),
            options,
            app_id,
            next_run,
            position,
        })
    }

    pub fn position(&self) -> &TopicPosition {
        &self.position
    }

    /// Makes ready for reading these partitions: what a try that was never committed left in quarantine goes.
    pub async fn begin(&self, partitions: impl IntoIterator<Item = i32>) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let from = |partition| self.position.next(partition).unwrap_or(0);
        let origins: Vec<Origin> = partitions
            .into_iter()
            .map(|partition| self.origin(partition, from(partition), from(partition)))
            .collect();
        let state = Arc::clone(&self.state);
        blocking(move || {
            let mut state = lock(&state);
            for origin in &origins {
                state.quarantine.forget_from(origin)?;
            }
            state.journal.trim(REMEMBERED_RUNS)
        })
        .await
    }

    /// Lands one chunk as one run.
    pub async fn land<L: Landing>(
        &mut self,
        chunk: TopicChunk,
        landing: &mut L,
    ) -> Result<(RunFact, ReasonCounts)> {
        let mut reached = self.position.clone();
        reached
            .try_advance(&chunk.span)
            .map_err(|fault| TopicError::Position {
                topic: self.position.topic.clone(),
                fault,
            })?;
        let (rows, remains) = self.rows(chunk).await?;
        let remains = Arc::new(remains);
        for tries in 1..=MAX_TRIES {
            let (outcomes, classified) = landing.classify(&rows).await?;
            let record = self.prepare(&remains, &reached, outcomes).await?;
            let info = self.commit_info(&record, &reached, remains.input_hash)?;
            return match landing.commit(classified, &info).await {
                Ok(version) => {
                    self.position = reached;
                    self.finish(record, version, tries).await
                }
                Err(CommitFault::Conflict) => continue,
                Err(CommitFault::Failed(error)) => Err(error),
            };
        }
        Err(IngestError::Contended {
            dataset: self.plan.contract.id.to_string(),
            tries: MAX_TRIES,
        })
    }

    /// Numbers the enterprises of a chunk and makes its rows a batch.
    async fn rows(&self, chunk: TopicChunk) -> Result<(LandingRows, Remains)> {
        let state = Arc::clone(&self.state);
        let schema = Arc::clone(&self.plan.schema);
        blocking(move || {
            let mut rows = chunk.rows;
            let mut columns = vec![lock(&state).numbering.column(&rows)?];
            columns.append(&mut rows.columns);
            let batch = RecordBatch::try_new(schema, columns).map_err(|error| {
                IngestError::io("making a batch of rows", std::io::Error::other(error))
            })?;
            let retract = rows.retract;
            let remains = Remains {
                span: chunk.span,
                at: rows.at,
                partitions: chunk.partitions,
                raw: chunk.raw,
                rejected: chunk.rejected,
                input_hash: chunk.input_hash,
            };
            Ok((LandingRows { batch, retract }, remains))
        })
        .await
    }

    /// Accounts for every message of a chunk and writes down, durably, what its commit relies on.
    async fn prepare(
        &self,
        remains: &Arc<Remains>,
        reached: &TopicPosition,
        outcomes: Vec<Outcome>,
    ) -> Result<RunRecord> {
        let blank = self.record(remains, reached);
        let spans = remains.span.told();
        let origins = spans
            .iter()
            .map(|(partition, span)| (*partition, self.origin(*partition, span.from, span.to)));
        let origins: BTreeMap<i32, Origin> = origins.collect();
        let (remains, state, options) =
            (Arc::clone(remains), Arc::clone(&self.state), self.options);
        blocking(move || {
            let moved = moved_rows(&remains, &outcomes, options.limits.kept_bytes);
            let all = || remains.rejected.iter().chain(&moved);
            let record = account(blank, &outcomes, all().map(|(_, rejected)| rejected))?;
            if options.dry_run {
                return Ok(record);
            }
            let mut state = lock(&state);
            for (partition, origin) in &origins {
                let of_it = all().filter(|(of, _)| of == partition);
                let of_it: Vec<&Rejected> = of_it.map(|(_, rejected)| rejected).collect();
                // A chunk may be tried again after another writer's commit, with other outcomes.
                state.quarantine.forget_from(origin)?;
                state.quarantine.persist(origin, &of_it)?;
            }
            state.journal.prepare(record.clone())?;
            Ok(record)
        })
        .await
    }

    async fn finish(
        &mut self,
        record: RunRecord,
        version: i64,
        tries: u32,
    ) -> Result<(RunFact, ReasonCounts)> {
        self.next_run += 1;
        let feed = self.plan.feed.name.as_str();
        let (run, counts) = (record.run, record.counts);
        for (reason, records) in &record.reasons {
            RecordsQuarantined {
                feed,
                run,
                reason: reason.as_str(),
                records: *records,
            }
            .emit();
        }
        ChunkLanded {
            feed,
            run,
            version,
            tries,
            counts,
        }
        .emit();
        let fact = record.fact(Some(version));
        if !self.options.dry_run {
            let state = Arc::clone(&self.state);
            blocking(move || {
                let journal = &mut lock(&state).journal;
                journal.committed(run, Some(version))?;
                journal.trim(REMEMBERED_RUNS)
            })
            .await?;
        }
        Ok((fact, record.reasons))
    }

    /// The record of a run, its counts still open.
    fn record(&self, remains: &Remains, reached: &TopicPosition) -> RunRecord {
        let read = reached.records - self.position.records;
        RunRecord {
            v: RunRecord::FORMAT,
            run: self.next_run,
            feed: self.plan.feed.name.clone(),
            dataset: self.plan.contract.id.clone(),
            source: SourceId {
                path: source_name(&self.position.topic),
                sha256: hex::encode(self.position.identity(None)),
                bytes: reached.bytes,
                text_form: None,
            },
            pass: self.position.pass,
            from: self.position.in_sequence(),
            to: reached.in_sequence(),
            input_hash: hex::encode(remains.input_hash),
            contract_sha256: hex::encode(self.plan.contract.hash),
            feed_sha256: hex::encode(self.plan.feed.hash),
            counts: Counts {
                read,
                ..Counts::default()
            },
            reasons: ReasonCounts::new(),
            topic: Some(reached.clone()),
            partitions: remains.span.told(),
        }
    }

    /// What quarantined messages of a partition belong to. Offsets stand for bytes, lines and records.
    fn origin(&self, partition: i32, from: i64, to: i64) -> Origin {
        let at = |offset: i64| Position {
            offset: offset.cast_unsigned(),
            line: offset.cast_unsigned(),
            record: offset.cast_unsigned(),
        };
        Origin {
            feed: self.plan.feed.name.clone(),
            source: format!("{}/{partition}", source_name(&self.position.topic)),
            sha256: self.position.identity(Some(partition)),
            run: self.next_run,
            from: at(from),
            to: at(to),
        }
    }

    fn commit_info(
        &self,
        record: &RunRecord,
        reached: &TopicPosition,
        input_hash: [u8; 32],
    ) -> Result<CommitInfo> {
        let position = serde_json::to_value(reached)
            .map_err(|error| IngestError::io("writing a position", error.into()))?;
        Ok(CommitInfo {
            app_id: self.app_id.clone(),
            run: record.run,
            position,
            input_hash,
        })
    }
}

/// The rows that would move a key to another enterprise, from the bytes that were kept of them.
fn moved_rows(remains: &Remains, outcomes: &[Outcome], kept_bytes: usize) -> Vec<(i32, Rejected)> {
    let problem = || Problem {
        code: Reason::UsccChanged,
        column: Some(qihui_catalog::contract::USCC_COLUMN.to_owned()),
    };
    let rows = remains.at.iter().zip(&remains.partitions).zip(outcomes);
    rows.filter(|(_, outcome)| **outcome == Outcome::UsccChanged)
        .map(|((at, partition), _)| {
            // INVARIANT: `at` was made of the length of `raw` when these bytes were put there.
            let start = usize::try_from(at.offset).unwrap_or(usize::MAX);
            let bytes = remains
                .raw
                .get(start..start.saturating_add(at.length as usize));
            let bytes = bytes.unwrap_or_default();
            (
                *partition,
                reader::reject_bytes(at.line, bytes, vec![problem()], kept_bytes),
            )
        })
        .collect()
}
