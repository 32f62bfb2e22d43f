//! Whose turn it is: a bounded number of queries run, organisations take turns, and nobody waits for ever.
//!
//! Promises:
//! - At most `running` queries have a [`Ticket`], at most `running_per_organisation` of them of one organisation.
//! - A place that becomes free goes to the organisation that has waited longest since it last got one; within an
//!   organisation, to the query that came first. So an organisation's only query waits for one place per *organisation*
//!   before it, however many queries these have waiting.
//! - At most `waiting` queries wait, at most `waiting_per_organisation` of one organisation: one more is refused at
//!   once. None waits longer than `waiting_seconds`.
//! - A query that no longer waits (its receiver is gone) leaves the queue at once.
//!
//! The order of turns is decided under one lock by [`Queue`], which knows neither time nor threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use qihui_catalog::OrgId;
use tokio::sync::oneshot;

use super::Limits;
use crate::error::QueryError;

/// Gives queries their turns.
pub struct Admission {
    queue: Mutex<Queue<oneshot::Sender<Ticket>>>,
    longest_wait: Duration,
}

/// The right to run: a place of its own among those that run, until it is dropped.
pub struct Ticket {
    admission: Arc<Admission>,
    org: OrgId,
    slot: usize,
}

impl Ticket {
    /// Which place it is, from zero.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.queue.lock().leave(&self.org, self.slot);
        self.admission.hand_out();
    }
}

/// A query in the queue; leaves it when dropped.
struct Waiting<'a> {
    admission: &'a Arc<Admission>,
    org: &'a OrgId,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.admission.queue.lock().give_up(self.org, self.number);
    }
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            queue: Mutex::new(Queue::new(limits)),
            longest_wait: Duration::from_secs(limits.waiting_seconds),
        }
    }

    /// How many run and how many wait.
    pub(super) fn counts(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.running(), queue.waiting)
    }

    /// Waits for a place.
    pub(super) async fn admit(self: &Arc<Self>, org: &OrgId) -> Result<Ticket, QueryError> {
        let (sender, receiver) = oneshot::channel();
        let entered = self.queue.lock().enter(org, sender);
        let number = match entered {
            Entered::Runs(slot) => return Ok(self.ticket(org, slot)),
            Entered::Refused { limit } => return Err(QueryError::QueueFull { limit }),
            Entered::Waits(number) => number,
        };
        // Dropped before the receiver: a ticket that arrives meanwhile is given back by the receiver's end.
        let _waiting = Waiting {
            admission: self,
            org,
            number,
        };
        match tokio::time::timeout(self.longest_wait, receiver).await {
            Ok(Ok(ticket)) => Ok(ticket),
            Ok(Err(_)) | Err(_) => Err(QueryError::WaitedTooLong {
                seconds: self.longest_wait.as_secs(),
            }),
        }
    }

    fn ticket(self: &Arc<Self>, org: &OrgId, slot: usize) -> Ticket {
        Ticket {
            admission: Arc::clone(self),
            org: org.clone(),
            slot,
        }
    }

    /// Gives free places to those whose turn it is.
    fn hand_out(self: &Arc<Self>) {
        loop {
            // The lock is not held while a ticket is sent: one that nobody takes any more comes back here.
            let next = self.queue.lock().next();
            let Some((org, slot, sender)) = next else {
                return;
            };
            let _ = sender.send(self.ticket(&org, slot));
        }
    }
}

/// What came of a query that asked for a place.
#[derive(Debug, PartialEq, Eq)]
enum Entered {
    /// It has this place.
    Runs(usize),
    /// It waits under this number.
    Waits(u64),
    /// As many as may are waiting.
    Refused { limit: usize },
}

/// Who runs and who waits; `W` is how a waiting query is told.
struct Queue<W> {
    limits: Limits,
    /// Places that nobody has, the next one last.
    free: Vec<usize>,
    running: BTreeMap<OrgId, usize>,
    queues: BTreeMap<OrgId, VecDeque<(u64, W)>>,
    /// The organisations with a query waiting, the next one first.
    turns: VecDeque<OrgId>,
    waiting: usize,
    numbers: u64,
}

impl<W> Queue<W> {
    fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            free: (0..limits.running.max(1)).rev().collect(),
            running: BTreeMap::new(),
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            numbers: 0,
        }
    }

    fn running(&self) -> usize {
        self.running.values().sum()
    }

    /// Whether an organisation may run one more.
    fn may_run(&self, org: &OrgId) -> bool {
        let most = self.limits.running_per_organisation.max(1);
        self.running.get(org).copied().unwrap_or(0) < most
    }

    fn run(&mut self, org: &OrgId, slot: usize) {
        *self.running.entry(org.clone()).or_default() += 1;
        debug_assert!(!self.free.contains(&slot), "a place is taken once");
    }

    fn enter(&mut self, org: &OrgId, waiter: W) -> Entered {
        // INVARIANT: when a place is free, whoever waits is of an organisation that may not run one more.
        if !self.queues.contains_key(org)
            && self.may_run(org)
            && let Some(slot) = self.free.pop()
        {
            self.run(org, slot);
            return Entered::Runs(slot);
        }
        let own = self.queues.get(org).map_or(0, VecDeque::len);
        if own >= self.limits.waiting_per_organisation {
            return Entered::Refused {
                limit: self.limits.waiting_per_organisation,
            };
        }
        if self.waiting >= self.limits.waiting {
            return Entered::Refused {
                limit: self.limits.waiting,
            };
        }
        if own == 0 {
            self.turns.push_back(org.clone());
        }
        let number = self.numbers;
        self.numbers += 1;
        self.waiting += 1;
        let queue = self.queues.entry(org.clone()).or_default();
        queue.push_back((number, waiter));
        Entered::Waits(number)
    }

    /// The next query that gets a place, if one is free.
    fn next(&mut self) -> Option<(OrgId, usize, W)> {
        let slot = *self.free.last()?;
        let at = self.turns.iter().position(|org| self.may_run(org))?;
        let org = self.turns.remove(at)?;
        let queue = self.queues.get_mut(&org)?;
        let (_, waiter) = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&org);
        } else {
            self.turns.push_back(org.clone());
        }
        self.waiting -= 1;
        self.free.pop();
        self.run(&org, slot);
        Some((org, slot, waiter))
    }

    /// A query that ran gives its place back.
    fn leave(&mut self, org: &OrgId, slot: usize) {
        self.free.push(slot);
        if let Some(running) = self.running.get_mut(org) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(org);
            }
        }
    }

    /// A query no longer waits, if it still did.
    fn give_up(&mut self, org: &OrgId, number: u64) {
        let Some(queue) = self.queues.get_mut(org) else {
            return;
        };
        let Some(at) = queue.iter().position(|(waits, _)| *waits == number) else {
            return;
        };
        queue.remove(at);
        self.waiting -= 1;
        if queue.is_empty() {
            self.queues.remove(org);
            self.turns.retain(|waits| waits != org);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(name: &str) -> OrgId {
        name.parse().unwrap()
    }

    fn limits(running: usize, per_organisation: usize) -> Limits {
        Limits {
            running,
            running_per_organisation: per_organisation,
            waiting: 1000,
            waiting_per_organisation: 500,
            waiting_seconds: 1,
            ..Limits::default()
        }
    }

    #[test]
    fn gate_5_one_query_waits_for_one_place_behind_a_hundred_of_another() {
        let mut queue = Queue::new(&limits(2, 2));
        let (many, single) = (org("many"), org("single"));
        let runs: Vec<Entered> = (0..2).map(|n| queue.enter(&many, n)).collect();
        assert_eq!(runs, [Entered::Runs(0), Entered::Runs(1)]);
        for n in 2..102 {
            assert!(matches!(queue.enter(&many, n), Entered::Waits(_)));
        }
        assert!(matches!(queue.enter(&single, 1000), Entered::Waits(_)));
        // The first place goes to whoever came first, the second to the other organisation.
        queue.leave(&many, 0);
        assert_eq!(queue.next(), Some((many.clone(), 0, 2)));
        assert_eq!(queue.next(), None);
        queue.leave(&many, 1);
        assert_eq!(queue.next(), Some((single, 1, 1000)));
        queue.leave(&many, 0);
        assert_eq!(queue.next(), Some((many, 0, 3)));
    }

    #[test]
    fn gate_5_no_organisation_has_every_place() {
        let mut queue = Queue::new(&limits(3, 2));
        let (greedy, other) = (org("greedy"), org("other"));
        assert_eq!(queue.enter(&greedy, 0), Entered::Runs(0));
        assert_eq!(queue.enter(&greedy, 1), Entered::Runs(1));
        assert_eq!(queue.enter(&greedy, 2), Entered::Waits(0));
        assert_eq!(queue.next(), None, "its third waits though a place is free");
        assert_eq!(queue.enter(&other, 3), Entered::Runs(2));
        queue.leave(&greedy, 0);
        assert_eq!(queue.next(), Some((greedy, 0, 2)));
    }

    #[test]
    fn gate_5_the_queue_is_bounded() {
        let few = Limits {
            waiting: 3,
            waiting_per_organisation: 2,
            ..limits(1, 1)
        };
        let mut queue = Queue::new(&few);
        let (a, b, c) = (org("a"), org("b"), org("c"));
        assert_eq!(queue.enter(&a, 0), Entered::Runs(0));
        assert_eq!(queue.enter(&a, 0), Entered::Waits(0));
        assert_eq!(queue.enter(&a, 0), Entered::Waits(1));
        assert_eq!(queue.enter(&a, 0), Entered::Refused { limit: 2 });
        assert_eq!(queue.enter(&b, 0), Entered::Waits(2));
        assert_eq!(queue.enter(&c, 0), Entered::Refused { limit: 3 });
        // Who gives up makes room, and giving up twice changes nothing.
        queue.give_up(&a, 0);
        queue.give_up(&a, 0);
        assert_eq!(queue.enter(&c, 0), Entered::Waits(3));
        queue.give_up(&b, 2);
        assert_eq!(queue.waiting, 2);
    }

    /// Whatever comes and goes: no place has two queries, no query is lost, and nobody waits while he might run.
    #[test]
    fn gate_5_random_comings_and_goings_keep_the_invariants() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        for _ in 0..200 {
            let running = rng.random_range(1..5);
            let limits = Limits {
                waiting: rng.random_range(0..20),
                waiting_per_organisation: rng.random_range(0..8),
                ..limits(running, rng.random_range(1..5))
            };
            let mut queue = Queue::new(&limits);
            let orgs = [org("a"), org("b"), org("c")];
            let mut run: Vec<(OrgId, usize)> = Vec::new();
            let mut waits: Vec<(OrgId, u64)> = Vec::new();
            for step in 0..200_u64 {
                let org = &orgs[rng.random_range(0..3)];
                match rng.random_range(0..4) {
                    0 | 1 => match queue.enter(org, step) {
                        Entered::Runs(slot) => run.push((org.clone(), slot)),
                        Entered::Waits(number) => waits.push((org.clone(), number)),
                        Entered::Refused { .. } => {}
                    },
                    2 if !run.is_empty() => {
                        let (org, slot) = run.swap_remove(rng.random_range(0..run.len()));
                        queue.leave(&org, slot);
                    }
                    _ if !waits.is_empty() => {
                        let (org, number) = waits.swap_remove(rng.random_range(0..waits.len()));
                        queue.give_up(&org, number);
                    }
                    _ => {}
                }
                while let Some((org, slot, _)) = queue.next() {
                    // The first of the organisation's that waits.
                    let at = waits.iter().enumerate().filter(|(_, (of, _))| *of == org);
                    let (at, _) = at.min_by_key(|(_, (_, number))| *number).unwrap();
                    waits.swap_remove(at);
                    run.push((org, slot));
                }
                let mut slots: Vec<usize> = run.iter().map(|(_, slot)| *slot).collect();
                slots.sort_unstable();
                slots.dedup();
                assert_eq!(slots.len(), run.len());
                assert!(run.len() <= running);
                assert_eq!((queue.running(), queue.waiting), (run.len(), waits.len()));
                for org in &orgs {
                    let of = run.iter().filter(|(of, _)| of == org).count();
                    assert!(of <= limits.running_per_organisation);
                    let idle = run.len() < running && of < limits.running_per_organisation;
                    assert!(!idle || !waits.iter().any(|(of, _)| of == org));
                }
            }
        }
    }

    #[tokio::test]
    async fn gate_5_nobody_waits_for_ever() {
        let impatient = Limits {
            waiting_seconds: 0,
            ..limits(1, 1)
        };
        let admission = Arc::new(Admission::new(&impatient));
        let _held = admission.admit(&org("a")).await.ok().unwrap();
        let error = admission.admit(&org("b")).await.err().unwrap();
        assert!(matches!(error, QueryError::WaitedTooLong { seconds: 0 }));
        assert_eq!(admission.counts(), (1, 0));
    }

    #[tokio::test]
    async fn gate_5_a_place_that_nobody_waits_for_any_more_is_free() {
        let patient = Limits {
            waiting_seconds: 3600,
            ..limits(1, 1)
        };
        let admission = Arc::new(Admission::new(&patient));
        let (org_b, org_c) = (org("b"), org("c"));
        for crossing in [false, true] {
            let held = admission.admit(&org("a")).await.ok().unwrap();
            let mut waits = Box::pin(admission.admit(&org_b));
            assert!(futures::poll!(waits.as_mut()).is_pending());
            assert_eq!(admission.counts(), (1, 1));
            if crossing {
                // The place is given to it, and it goes before it has seen that.
                drop(held);
                assert_eq!(admission.counts(), (1, 0));
                drop(waits);
            } else {
                drop(waits);
                assert_eq!(admission.counts(), (1, 0));
                drop(held);
            }
            assert_eq!(admission.counts(), (0, 0));
        }
        admission.admit(&org_c).await.ok().unwrap();
    }
}
