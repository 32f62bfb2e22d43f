//! Enterprise numbers, for callers that block.
//!
//! Promise: [`EnterpriseNumbers`] of [`Ledger`]. What is asked for in one call is assigned in one durable transaction,
//! or nothing is. Numbers come from blocks of 4,096 per (county, industry section); full blocks chain; 0 is no number.
//!
//! A connection of its own lives on a thread of its own, because ingestion asks from threads without a runtime, a
//! million enterprises at a time. Known enterprises are answered from memory. Limits: at most [`MAX_KNOWN`] are
//! remembered (about 32 bytes each).

use std::{
    collections::HashMap,
    path::Path,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

use parking_lot::RwLock;
use qihui_catalog::{EnterpriseNo, EnterpriseNumbers, NumberRequest, NumbersError, Uscc};
use sqlx::SqliteConnection;
use tokio::runtime::Builder;

use super::{Ledger, Mode};
use crate::{
    error::{LedgerError, Result},
    store::numbers,
};

/// How many enterprises are remembered.
const MAX_KNOWN: usize = 3_000_000;
/// From so many unknown enterprises on it may pay to read all that are stored.
const BULK: usize = 20_000;

type Answer<T> = SyncSender<Result<T, NumbersError>>;

enum Question {
    Assign(Vec<NumberRequest>, usize, Answer<Vec<u32>>),
    Lookup(Vec<Uscc>, usize, Answer<Vec<u32>>),
    Count(Answer<usize>),
    All(Answer<Vec<(Uscc, u32)>>),
    UsccOf(Vec<u32>, Answer<Vec<Option<Uscc>>>),
}

/// Asks the thread that keeps the numbers.
pub(crate) struct Numbers {
    questions: Sender<Question>,
    known: RwLock<HashMap<Uscc, u32>>,
}

impl Numbers {
    pub(crate) fn open(path: &Path, mode: Mode) -> Result<Self> {
        let (questions, asked) = channel();
        let path = path.to_owned();
        thread::Builder::new()
            .name("enterprise-numbers".to_owned())
            .spawn(move || keep(&path, mode, &asked))
            .map_err(|error| LedgerError::Store {
                doing: "opened",
                reason: "no thread for the enterprise numbers".to_owned(),
                source: Some(Box::new(error)),
            })?;
        Ok(Self {
            questions,
            known: RwLock::default(),
        })
    }

    fn ask<T>(&self, question: impl FnOnce(Answer<T>) -> Question) -> Result<T, NumbersError> {
        let gone = || failed("the thread of the enterprise numbers has ended");
        let (answer, answered) = sync_channel(1);
        self.questions.send(question(answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    /// Answers from memory, and for the rest from the store.
    fn answer(
        &self,
        usccs: &[Uscc],
        ask: impl FnOnce(Missing<'_>) -> Result<Vec<u32>, NumbersError>,
    ) -> Result<Vec<u32>, NumbersError> {
        let (mut numbers, mut places, mut remembered) = self.remembered(usccs);
        if places.len() >= BULK && self.learn_all(places.len(), remembered)? {
            (numbers, places, remembered) = self.remembered(usccs);
        }
        if places.is_empty() {
            return Ok(numbers);
        }
        let found = ask(Missing {
            places: &places,
            remembered,
        })?;
        let mut known = self.known.write();
        if known.len() + places.len() > MAX_KNOWN {
            known.clear();
        }
        for (place, number) in places.into_iter().zip(found) {
            if let (Some(slot), Some(uscc)) = (numbers.get_mut(place), usccs.get(place)) {
                *slot = number;
                if number != 0 && known.len() < MAX_KNOWN {
                    known.insert(*uscc, number);
                }
            }
        }
        Ok(numbers)
    }

    /// What memory says, 0 where it says nothing; the places of the latter; and how many enterprises it held then.
    fn remembered(&self, usccs: &[Uscc]) -> (Vec<u32>, Vec<usize>, usize) {
        let known = self.known.read();
        let numbers: Vec<u32> = usccs
            .iter()
            .map(|uscc| known.get(uscc).copied().unwrap_or(0))
            .collect();
        let missing = numbers
            .iter()
            .enumerate()
            .filter(|(_, number)| **number == 0)
            .map(|(place, _)| place);
        let missing = missing.collect();
        (numbers, missing, known.len())
    }

    /// Reads every enterprise into memory, where that is cheaper than asking for `missing` of them one by one.
    fn learn_all(&self, missing: usize, remembered: usize) -> Result<bool, NumbersError> {
        let stored = self.ask(Question::Count)?;
        if stored == remembered || stored > MAX_KNOWN || stored / 8 > missing {
            return Ok(false);
        }
        let all = self.ask(Question::All)?;
        let mut known = self.known.write();
        known.reserve(all.len());
        known.extend(all);
        Ok(true)
    }
}

/// The enterprises that memory does not hold.
struct Missing<'p> {
    places: &'p [usize],
    /// How many it held when they were looked for: when that is how many there are, they have no numbers.
    remembered: usize,
}

fn failed(reason: &str) -> NumbersError {
    NumbersError::Store {
        reason: reason.to_owned(),
        source: None,
    }
}

fn at<T: Copy>(all: &[T], places: &[usize]) -> Vec<T> {
    places
        .iter()
        .filter_map(|place| all.get(*place))
        .copied()
        .collect()
}

impl EnterpriseNumbers for Ledger {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        let numbers = &self.inner.numbers;
        let usccs: Vec<Uscc> = wanted.iter().map(|wanted| wanted.uscc).collect();
        let found = numbers.answer(&usccs, |missing| {
            let wanted = at(wanted, missing.places);
            numbers.ask(|answer| Question::Assign(wanted, missing.remembered, answer))
        })?;
        Ok(found.into_iter().map(EnterpriseNo).collect())
    }

    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        let numbers = &self.inner.numbers;
        let found = numbers.answer(usccs, |missing| {
            let wanted = at(usccs, missing.places);
            numbers.ask(|answer| Question::Lookup(wanted, missing.remembered, answer))
        })?;
        Ok(found
            .into_iter()
            .map(|number| Some(EnterpriseNo(number)).filter(|number| number.0 != 0))
            .collect())
    }

    fn uscc_of(&self, wanted: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        let wanted = wanted.iter().map(|number| number.0).collect();
        self.inner
            .numbers
            .ask(|answer| Question::UsccOf(wanted, answer))
    }
}

/// The thread: answers until nobody can ask any more.
fn keep(path: &Path, mode: Mode, asked: &Receiver<Question>) {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let mut kept: Option<SqliteConnection> = None;
    while let Ok(question) = asked.recv() {
        runtime.block_on(async {
            let store = match opened(&mut kept, path, mode).await {
                Ok(store) => store,
                Err(error) => return question.refuse(error),
            };
            let done = match question {
                Question::Assign(wanted, remembered, answer) => {
                    reply(&answer, numbers::assign(store, &wanted, remembered).await)
                }
                Question::Lookup(usccs, remembered, answer) => {
                    reply(&answer, numbers::lookup(store, &usccs, remembered).await)
                }
                Question::Count(answer) => reply(&answer, numbers::count(store).await),
                Question::All(answer) => reply(&answer, numbers::all(store).await),
                Question::UsccOf(wanted, answer) => {
                    reply(&answer, numbers::uscc_of(store, &wanted).await)
                }
            };
            if !done {
                // With the connection goes whatever was begun on it.
                kept = None;
            }
        });
    }
    if let Some(connection) = kept {
        let _ = runtime.block_on(sqlx::Connection::close(connection));
    }
}

impl Question {
    fn refuse(self, error: NumbersError) {
        match self {
            Self::Assign(_, _, answer) | Self::Lookup(_, _, answer) => reply(&answer, Err(error)),
            Self::Count(answer) => reply(&answer, Err(error)),
            Self::All(answer) => reply(&answer, Err(error)),
            Self::UsccOf(_, answer) => reply(&answer, Err(error)),
        };
    }
}

async fn opened<'c>(
    connection: &'c mut Option<SqliteConnection>,
    path: &Path,
    mode: Mode,
) -> Result<&'c mut SqliteConnection, NumbersError> {
    let open = match connection.take() {
        Some(open) => open,
        None => numbers::open(path, mode).await?,
    };
    Ok(connection.insert(open))
}

/// Answers; whether the answer is a good one. Who asked may have gone.
fn reply<T>(answer: &Answer<T>, result: Result<T, NumbersError>) -> bool {
    let good = result.is_ok();
    let _ = answer.send(result);
    good
}

pub(crate) fn store_error(error: LedgerError) -> NumbersError {
    match error {
        LedgerError::Numbers(error) => error,
        error => NumbersError::Store {
            reason: error.to_string(),
            source: Some(Box::new(error)),
        },
    }
}
