//! One query and one who takes things away, in one order, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt};
use loom::sync::atomic::AtomicU64;
use loom::thread;
use qihui_catalog::{DatasetId, EnterpriseNo};
use qihui_consent::ledger::Losses;
use qihui_consent::sync::Mutex;
use qihui_query::QueryError;
use qihui_query::access::release::{Epochs, Release};
use qihui_query::account::{Account, Passed};
use qihui_query::exec::{Asked, GateExec, GateScan, InsideScan, InsideShare, Permit};
use qihui_query::reader::Dealt;

use crate::world::{Loss, World, enterprise_of};

/// What does not hold is said, and the order is run to its end: no thread of a model is left in the middle of something.
macro_rules! holds {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

/// Stack of a thread of the model, in words.
const STACK: usize = 256 << 10;

/// The ledger, as far as a query and a withdrawal meet in it.
struct Ledger {
    losses: Arc<Losses>,
    /// The database: who grants.
    granted: Mutex<BTreeSet<u32>>,
    /// What was acknowledged: a bit for each position of an event.
    acknowledged: AtomicU64,
}

impl Ledger {
    /// Takes away some of what the story says, as `Change::commit` does: the database first, then whoever is running.
    fn take(&self, world: &World, which: Range<usize>) {
        let losses = (1..).zip(&world.story.losses);
        for (position, loss) in losses.take(which.end).skip(which.start) {
            let key =
                |dataset: &DatasetId| (world.org.clone(), world.purpose.clone(), dataset.clone());
            let (key, no) = match loss {
                Loss::Of(no) => {
                    self.granted.lock().remove(no);
                    (key(&world.dataset), Some(EnterpriseNo(*no)))
                }
                Loss::Elsewhere(no) => (key(&world.elsewhere), Some(EnterpriseNo(*no))),
                Loss::Everything => (key(&world.dataset), None),
            };
            at_once(self.losses.take_from(position, key, no));
            self.acknowledged.fetch_or(1 << position, Ordering::SeqCst);
        }
    }
}

/// The result of what waits for nothing but locks.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing is waited for")
}

/// A decision, and what it rests on.
struct Decided {
    epoch: u64,
    granted: BTreeSet<u32>,
}

/// A permit that counts how often it is asked, and says no when that is more often than it can be.
#[derive(Debug)]
struct Counting {
    epochs: Arc<Epochs>,
    asked: AtomicUsize,
    most: usize,
}

impl Counting {
    fn too_often(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > self.most
    }
}

impl Permit for Counting {
    fn check(&self) -> Result<(), QueryError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.too_often() {
            return Err(QueryError::TimedOut { seconds: 0 });
        }
        self.epochs.check()
    }
}

/// Who gets the answer: nothing that was taken away, and acknowledged, may reach it.
struct Receiver<'w> {
    world: &'w World,
    ledger: &'w Ledger,
    epoch: u64,
    rows: Vec<i32>,
    /// What left too late.
    late: Option<String>,
}

impl io::Write for Receiver<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A change of nothing, so that the latest is seen.
        let acknowledged = self.ledger.acknowledged.fetch_or(0, Ordering::SeqCst);
        let rows = bytes
            .chunks_exact(4)
            .map(|row| i32::from_le_bytes(row.try_into().unwrap()));
        let rows: Vec<i32> = rows.collect();
        for (position, loss) in (1_u64..).zip(&self.world.story.losses) {
            if acknowledged & (1 << position) == 0 || position <= self.epoch {
                continue;
            }
            let late = match loss {
                Loss::Of(no) => rows.iter().any(|row| enterprise_of(*row) == *no),
                Loss::Elsewhere(_) => false,
                Loss::Everything => true,
            };
            if late {
                self.late = Some(format!("{rows:?} left after {loss:?} was acknowledged"));
            }
        }
        self.rows.extend(rows);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// With all that was decided.
    Whole,
    /// Without somebody.
    Without,
    /// [`QueryError::ConsentChanged`].
    Ended,
}

/// The scan of a world under a decision. As planning has it, what is inside passes unseen only when all of its enterprises
/// grant; otherwise every row is looked at.
fn scan(
    world: &World,
    decided: &Decided,
    account: &Arc<Account>,
    permit: Arc<dyn Permit>,
) -> GateScan {
    let first = world.story.enterprises_of(0);
    let inside = world.inside.as_ref();
    let inside = inside.filter(|_| first.is_subset(&decided.granted));
    let edge = inside.map_or(&world.edge, |inside| &inside.edge);
    let shares = || {
        let enterprises = Arc::new(first.iter().copied().collect());
        vec![InsideShare::new(world.share(), enterprises)]
    };
    let inside = inside.map(|inside| InsideScan {
        plan: Arc::clone(&inside.plan),
        whole_files: true,
        shares: shares(),
    });
    GateScan {
        dataset: world.dataset.clone(),
        rows: Arc::new(world.gate(&world.scope(&decided.granted))),
        account: Arc::clone(account),
        permit,
        inside: inside.into_iter().collect(),
        edge: Some(Arc::clone(edge)),
        edge_columns: vec![0, 1],
        readers: world.readers.clone(),
        about_rows: None,
        asked: Asked {
            conjuncts: Vec::new(),
            strict: false,
            min_inside_rows: 1,
            dealt: Dealt::default(),
        },
    }
}

/// The next batch that a stream of the gate hands upward.
fn next(stream: &mut SendableRecordBatchStream) -> Option<Result<Vec<i32>, QueryError>> {
    let batch = at_once(stream.next())?;
    Some(match batch {
        Ok(batch) => Ok(batch
            .column(0)
            .as_primitive::<Int32Type>()
            .values()
            .to_vec()),
        Err(error) => Err(QueryError::from_running(&error)),
    })
}

/// All that a stream hands upward, and how it ended.
fn drain(mut stream: SendableRecordBatchStream) -> (Vec<i32>, Result<(), QueryError>) {
    let mut rows = Vec::new();
    while let Some(batch) = next(&mut stream) {
        match batch {
            Ok(batch) => rows.extend(batch),
            Err(error) => return (rows, Err(error)),
        }
    }
    (rows, Ok(()))
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let thread = thread::Builder::new().stack_size(STACK);
    thread.spawn(work).unwrap()
}

/// A query beside one who takes things away. One thread runs the first stream and lets rows leave as they come, as the
/// answer's does; another runs the second; a third takes away.
///
/// # Errors
/// What does not hold.
pub fn run(world: &Arc<World>) -> Result<Outcome, String> {
    let ledger = Arc::new(Ledger {
        losses: Arc::new(Losses::none()),
        granted: Mutex::new(world.story.granted.clone()),
        acknowledged: AtomicU64::new(0),
    });
    let asking = spawn({
        let (ledger, world) = (Arc::clone(&ledger), Arc::clone(world));
        move || ask(&world, &ledger)
    });
    asking.join().unwrap()
}

fn ask(world: &Arc<World>, ledger: &Arc<Ledger>) -> Result<Outcome, String> {
    let all = world.story.losses.len();
    let take_from = |first| {
        let (ledger, world) = (Arc::clone(ledger), Arc::clone(world));
        spawn(move || ledger.take(&world, first..all))
    };
    let early = world.story.early;
    let taking = (early == 0).then(|| take_from(0));
    let losses = &ledger.losses;
    // As `Ledger::decide_up_to`: the epoch before the database.
    let epoch = losses.epoch(&world.org, &world.purpose, &world.dataset);
    let granted = ledger.granted.lock().clone();
    let decided = Decided { epoch, granted };
    let taking = taking.unwrap_or_else(|| {
        ledger.take(world, 0..early);
        take_from(early)
    });
    let account = Arc::new(Account::new(u64::MAX));
    let epochs = Epochs::new(
        Arc::clone(losses),
        world.org.clone(),
        world.purpose.clone(),
        BTreeMap::from([(world.dataset.clone(), epoch)]),
    );
    let scopes = BTreeMap::from([(world.dataset.clone(), world.scope(&decided.granted))]);
    let epochs = Arc::new(epochs.dropping(Arc::clone(&account), scopes));
    let permit = Arc::new(Counting {
        epochs: Arc::clone(&epochs),
        asked: AtomicUsize::new(0),
        most: world.story.judgements(),
    });
    let scan = scan(
        world,
        &decided,
        &account,
        Arc::clone(&permit) as Arc<dyn Permit>,
    );
    let gate = GateExec::new(Arc::new(scan), 2);
    let stream = |partition| gate.execute(partition, Arc::clone(&world.context)).unwrap();
    let (mut first, second) = (stream(0), stream(1));
    let second = spawn(move || drain(second));

    let mut receiver = Receiver {
        world,
        ledger,
        epoch,
        rows: Vec::new(),
        late: None,
    };
    let mut release = Release::new(Arc::clone(&epochs), &mut receiver, u64::MAX);
    let mut let_go = |rows: &[i32]| {
        let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        at_once(release.bytes(&bytes))
    };
    let mut handed = Vec::new();
    let mut ended = Ok(());
    while let Some(batch) = next(&mut first) {
        ended = batch.and_then(|rows| {
            handed.extend_from_slice(&rows);
            let_go(&rows)
        });
        if ended.is_err() {
            break;
        }
    }
    let (rows, end) = second.join().unwrap();
    handed.extend_from_slice(&rows);
    let ended = ended.and(end).and_then(|()| let_go(&rows));
    drop(release);
    let Receiver {
        rows: left, late, ..
    } = receiver;
    taking.join().unwrap();

    holds!(!permit.too_often(), "a query goes on for ever");
    let passed = account.passed().remove(&world.dataset).unwrap_or_default();
    check_rows(world, &decided, &passed, (&handed, &left), ended.is_ok())?;
    // Everything is acknowledged by now: a last look has to have noticed it, whoever looked before.
    let last = epochs.check();
    let passed = account.passed().remove(&world.dataset).unwrap_or_default();
    check_last_look(world, &decided, &passed, last.is_ok())?;
    holds!(late.is_none(), "{}", late.unwrap_or_default());
    match ended {
        Err(QueryError::ConsentChanged) => {
            holds!(last.is_err(), "ended for nothing");
            Ok(Outcome::Ended)
        }
        Err(error) => Err(error.to_string()),
        Ok(()) if passed.dropped.is_empty() => Ok(Outcome::Whole),
        Ok(()) => Ok(Outcome::Without),
    }
}

/// The account says whose rows were handed upward; nobody who was dropped is among them; and an answer that is complete is
/// that over the view without the dropped.
fn check_rows(
    world: &World,
    decided: &Decided,
    passed: &Passed,
    (handed, left): (&[i32], &[i32]),
    complete: bool,
) -> Result<(), String> {
    let (touched, dropped) = (&passed.touched, &passed.dropped);
    holds!(
        touched.is_disjoint(dropped),
        "dropped although touched: {passed:?}"
    );
    let whose: BTreeSet<u32> = handed.iter().map(|row| enterprise_of(*row)).collect();
    let known = whose.iter().all(|no| touched.contains(*no));
    holds!(
        known,
        "rows that the account does not know: {handed:?}, {passed:?}"
    );
    let known = left.iter().all(|row| handed.contains(row));
    holds!(known, "{left:?} left of {handed:?}");
    if !complete {
        return Ok(());
    }
    let as_told = whose == touched.iter().collect() && passed.rows == handed.len() as u64;
    holds!(
        as_told,
        "the account is of other rows: {handed:?}, {passed:?}"
    );
    let stayed = decided.granted.iter().filter(|no| !dropped.contains(**no));
    let mut wanted: Vec<i32> = stayed.flat_map(|no| world.story.rows_of(*no)).collect();
    let mut left = left.to_vec();
    wanted.sort_unstable();
    left.sort_unstable();
    holds!(
        left == wanted,
        "{left:?} left instead of {wanted:?}: {passed:?}"
    );
    Ok(())
}

/// Of whom something was taken since the decision, no row has passed, and they are dropped; or the last look says no.
fn check_last_look(
    world: &World,
    decided: &Decided,
    passed: &Passed,
    fine: bool,
) -> Result<(), String> {
    let since = (1_u64..).zip(&world.story.losses);
    let since = since.filter(|(position, _)| *position > decided.epoch);
    let mut broken = false;
    for (_, loss) in since {
        match loss {
            Loss::Of(no) if decided.granted.contains(no) => {
                broken |= passed.touched.contains(*no);
                let noticed = !fine || passed.dropped.contains(*no);
                holds!(noticed, "{loss:?} was missed: {passed:?}");
            }
            Loss::Of(_) | Loss::Elsewhere(_) => {}
            Loss::Everything => broken = true,
        }
    }
    holds!(fine != broken, "the last look is wrong: {passed:?}");
    Ok(())
}
