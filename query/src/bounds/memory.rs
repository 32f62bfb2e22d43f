//! The memory of a query's operators.
//!
//! Each query has a pool of its own, of a fixed size: the engine's fair pool, in which operators that can spill share
//! what the others leave. What operators reserve counts here and in the hub's gauge until they give it back.
//!
//! Limits: a reservation that an operator makes without asking (`grow`) may go over the size, by at most what one
//! batch takes; memory of readers below the gate is not of a query's (it is bounded by row groups and threads), so
//! that what lies hidden in a file cannot use up what a query has.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use datafusion::common::Result;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

use super::admission::Ticket;

/// A quantity in use, over all queries of the hub.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// How much is in use.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }
}

/// The pool of one query. Its turn lasts as long as anything is reserved.
pub struct QueryMemory {
    pool: FairSpillPool,
    limit: usize,
    total: Arc<Gauge>,
    stop: Arc<AtomicBool>,
    _ticket: Arc<Ticket>,
}

impl QueryMemory {
    pub(super) fn new(
        limit: usize,
        total: Arc<Gauge>,
        ticket: Arc<Ticket>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            pool: FairSpillPool::new(limit),
            limit,
            total,
            stop,
            _ticket: ticket,
        }
    }

    /// Set once nobody waits for the query any more.
    #[must_use]
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }
}

impl fmt::Debug for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryMemory(limit: {})", self.limit)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &'static str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
        self.total.add(additional as u64);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
        self.total.sub(shrink as u64);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.pool.try_grow(reservation, additional)?;
        self.total.add(additional as u64);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

/// The memory of this machine, or of the control group that the program is in, bytes.
pub fn of_machine() -> Option<usize> {
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<usize>().ok());
    let info = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = info.as_deref().and_then(total_of);
    match (group, machine) {
        (Some(group), Some(machine)) => Some(group.min(machine)),
        (group, machine) => group.or(machine),
    }
}

/// The first line of `/proc/meminfo`, in bytes.
fn total_of(info: &str) -> Option<usize> {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_read() {
        let info = "MemTotal:       24565440 kB\nMemFree:        1024 kB\n";
        assert_eq!(total_of(info), Some(24_565_440 * 1024));
        assert_eq!(total_of("MemFree: 1 kB\n"), None);
    }
}
