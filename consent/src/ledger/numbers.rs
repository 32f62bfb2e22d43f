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
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

use parking_lot::RwLock;
use qihui_catalog::{EnterpriseNo, EnterpriseNumbers, NumberRequest, NumbersError, Uscc};
use sqlx::SqliteConnection;
use tokio::runtime::Builder;

use super::Ledger;
use crate::{
    error::{LedgerError, Result},
    store::{self, numbers},
};

/// How many enterprises are remembered.
const MAX_KNOWN: usize = 3_000_000;

type Answer<T> = SyncSender<Result<T, NumbersError>>;

enum Question {
    Assign(Vec<NumberRequest>, Answer<Vec<u32>>),
    Lookup(Vec<Uscc>, Answer<Vec<u32>>),
    UsccOf(Vec<u32>, Answer<Vec<Option<Uscc>>>),
}

/// Asks the thread that keeps the numbers.
pub(crate) struct Numbers {
    questions: Sender<Question>,
    known: RwLock<HashMap<Uscc, u32>>,
}

impl Numbers {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (questions, asked) = channel();
        let path = path.to_owned();
        thread::Builder::new().name("enterprise-numbers".to_owned()).spawn(move || keep(&path, &asked)).map_err(
            |error| LedgerError::Store {
                doing: "opened",
                reason: "no thread for the enterprise numbers".to_owned(),
                source: Some(Box::new(error)),
            },
        )?;
        Ok(Self { questions, known: RwLock::default() })
    }

    fn ask<T>(&self, question: impl FnOnce(Answer<T>) -> Question) -> Result<T, NumbersError> {
        let gone = || failed("the thread of the enterprise numbers has ended");
        let (answer, answered) = sync_channel(1);
        self.questions.send(question(answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    /// Answers from memory, and for the rest from the store: `wanted` are the enterprises, `ask` gets their places.
    fn answer(
        &self,
        wanted: impl ExactSizeIterator<Item = Uscc> + Clone,
        ask: impl FnOnce(&[usize]) -> Result<Vec<u32>, NumbersError>,
    ) -> Result<Vec<u32>, NumbersError> {
        let mut numbers = Vec::with_capacity(wanted.len());
        let mut unknown = Vec::new();
        {
            let known = self.known.read();
            for (place, uscc) in wanted.clone().enumerate() {
                let number = known.get(&uscc).copied().unwrap_or(0);
                if number == 0 {
                    unknown.push(place);
                }
                numbers.push(number);
            }
        }
        if unknown.is_empty() {
            return Ok(numbers);
        }
        let found = ask(&unknown)?;
        for (place, number) in unknown.iter().zip(found) {
            if let Some(slot) = numbers.get_mut(*place) {
                *slot = number;
            }
        }
        let mut known = self.known.write();
        if known.len() + unknown.len() > MAX_KNOWN {
            known.clear();
        }
        let learned = wanted.zip(&numbers).filter(|(_, number)| **number != 0);
        for (uscc, number) in learned.take(MAX_KNOWN) {
            known.insert(uscc, *number);
        }
        Ok(numbers)
    }
}

fn failed(reason: &str) -> NumbersError {
    NumbersError::Store { reason: reason.to_owned(), source: None }
}

fn at<T: Copy>(all: &[T], places: &[usize]) -> Vec<T> {
    places.iter().filter_map(|place| all.get(*place)).copied().collect()
}

impl EnterpriseNumbers for Ledger {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        let numbers = &self.inner.numbers;
        let found = numbers.answer(wanted.iter().map(|wanted| wanted.uscc), |places| {
            let missing = at(wanted, places);
            numbers.ask(|answer| Question::Assign(missing, answer))
        })?;
        Ok(found.into_iter().map(EnterpriseNo).collect())
    }

    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        let numbers = &self.inner.numbers;
        let found = numbers.answer(usccs.iter().copied(), |places| {
            let missing = at(usccs, places);
            numbers.ask(|answer| Question::Lookup(missing, answer))
        })?;
        Ok(found.into_iter().map(|number| Some(EnterpriseNo(number)).filter(|number| number.0 != 0)).collect())
    }

    fn uscc_of(&self, wanted: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        let wanted = wanted.iter().map(|number| number.0).collect();
        self.inner.numbers.ask(|answer| Question::UsccOf(wanted, answer))
    }
}

/// The thread: answers until nobody can ask any more.
fn keep(path: &PathBuf, asked: &Receiver<Question>) {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
    let mut connection: Option<SqliteConnection> = None;
    while let Ok(question) = asked.recv() {
        runtime.block_on(async {
            match question {
                Question::Assign(wanted, answer) => {
                    let result = async { numbers::assign(opened(&mut connection, path).await?, &wanted).await }.await;
                    reply(&answer, result, &mut connection);
                }
                Question::Lookup(usccs, answer) => {
                    let result = async { numbers::lookup(opened(&mut connection, path).await?, &usccs).await }.await;
                    reply(&answer, result, &mut connection);
                }
                Question::UsccOf(wanted, answer) => {
                    let result = async { numbers::uscc_of(opened(&mut connection, path).await?, &wanted).await }.await;
                    reply(&answer, result, &mut connection);
                }
            }
        });
    }
    if let Some(connection) = connection {
        let _ = runtime.block_on(sqlx::Connection::close(connection));
    }
}

async fn opened<'c>(
    connection: &'c mut Option<SqliteConnection>,
    path: &Path,
) -> Result<&'c mut SqliteConnection, NumbersError> {
    let open = match connection.take() {
        Some(open) => open,
        None => store::open(path).await.map_err(store_error)?,
    };
    Ok(connection.insert(open))
}

/// Answers; after a failure the connection is opened anew for the next question.
fn reply<T>(answer: &Answer<T>, result: Result<T, NumbersError>, connection: &mut Option<SqliteConnection>) {
    if result.is_err() {
        *connection = None;
    }
    // Who asked may have gone.
    let _ = answer.send(result);
}

pub(crate) fn store_error(error: LedgerError) -> NumbersError {
    match error {
        LedgerError::Numbers(error) => error,
        error => NumbersError::Store { reason: error.to_string(), source: Some(Box::new(error)) },
    }
}
