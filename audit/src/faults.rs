//! A hook for tests: makes chosen steps of the append path fail.
//!
//! Every write, fsync, truncation and start of a segment is a step. A test counts the steps of a run without faults
//! and repeats the run with the n-th step failing, for every n.

use parking_lot::Mutex;
use std::io;

/// How a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written; the disk is full.
    NoSpace,
    /// Nothing is written; input/output error.
    Io,
    /// Half of the bytes are written, then the disk is full.
    Short,
}

#[derive(Debug, Default)]
struct Plan {
    taken: u64,
    from: u64,
    left: u64,
    fault: Option<Fault>,
}

/// See the module's description. The default injects nothing.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Plan>);

impl Faults {
    /// Makes `times` steps fail, beginning with the `nth` from now (0 is the next).
    pub fn fail(&self, nth: u64, times: u64, fault: Fault) {
        let mut plan = self.0.lock();
        plan.from = plan.taken.saturating_add(nth);
        plan.left = times;
        plan.fault = Some(fault);
    }

    /// No more failures.
    pub fn clear(&self) {
        self.0.lock().fault = None;
    }

    /// Steps taken so far, failed ones included.
    pub fn steps(&self) -> u64 {
        self.0.lock().taken
    }

    /// Called before a step; `Some` is how it must fail.
    pub(crate) fn next(&self) -> Option<Fault> {
        let mut plan = self.0.lock();
        let step = plan.taken;
        plan.taken += 1;
        if step < plan.from || plan.left == 0 {
            return None;
        }
        let fault = plan.fault?;
        plan.left -= 1;
        Some(fault)
    }

    /// As an error, for steps that write nothing.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.next().map_or(Ok(()), |fault| Err(fault.error()))
    }
}

impl Fault {
    pub(crate) fn error(self) -> io::Error {
        match self {
            Fault::NoSpace | Fault::Short => io::ErrorKind::StorageFull.into(),
            Fault::Io => io::Error::other("injected fault"),
        }
    }
}
