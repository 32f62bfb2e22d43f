//! How long a worker may go on without having heard that what it works on still stands.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::QueryError;
use crate::exec::Permit;

/// After so long without news, nothing leaves.
pub const LEASE: Duration = Duration::from_secs(1);

/// A permit that has to be renewed.
#[derive(Debug, Default)]
pub struct Lease(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    NotYet,
    Until(Instant),
    Lost,
}

impl Lease {
    /// It stood at `seen`: news that began to be gathered later are newer.
    pub fn renew(&self, seen: Instant) {
        let mut state = self.0.lock();
        if !matches!(*state, State::Lost) {
            *state = State::Until(seen + LEASE);
        }
    }

    /// It stands no more, whatever comes.
    pub fn lose(&self) {
        *self.0.lock() = State::Lost;
    }

    fn check_at(&self, now: Instant) -> Result<(), QueryError> {
        match *self.0.lock() {
            State::Until(until) if now < until => Ok(()),
            State::Lost => Err(QueryError::ConsentChanged),
            State::NotYet | State::Until(_) => Err(QueryError::LeaseUnavailable {
                seconds: LEASE.as_secs(),
            }),
        }
    }
}

impl Permit for Lease {
    fn check(&self) -> Result<(), QueryError> {
        self.check_at(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_4_a_worker_that_hears_nothing_releases_nothing() {
        let lease = Lease::default();
        let start = Instant::now();
        let lapsed = |at| {
            let unavailable = lease.check_at(at);
            matches!(unavailable, Err(QueryError::LeaseUnavailable { .. }))
        };
        assert!(lapsed(start), "before it was ever heard");
        lease.renew(start);
        lease.check_at(start + LEASE / 2).unwrap();
        assert!(lapsed(start + LEASE));
        lease.renew(start + LEASE);
        lease.check_at(start + LEASE).unwrap();
        lease.lose();
        lease.renew(start + LEASE);
        let lost = lease.check_at(start + LEASE);
        assert!(
            matches!(lost, Err(QueryError::ConsentChanged)),
            "what was lost stays lost"
        );
    }
}
