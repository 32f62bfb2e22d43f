//! Gates in another process: how a plan is sent to a worker, and what the worker makes of it.
//!
//! What travels is the plan above the gates, as the engine writes it, and for each gate a description: who asks for
//! what and why ([`AccessTask`]: organisation, purpose, action, the ledger's event up to which was decided and its
//! hash, and per dataset the contract, the table version and the commitment to the scope), and what the scan reads
//! ([`ScanTask`]: columns, comparisons, shares of files). Never a scope, a grant, a value or a statistic of a row.
//!
//! A worker trusts nothing that it can find out itself:
//! - It reads only what was sealed with the key that it shares with the hub ([`PlanKey`]), to this worker, once, and
//!   before the deadline of the query ([`Worker`]).
//! - It builds only operators and expressions that a gated plan has, with functions of the gate's list, and refuses a
//!   plan with a leaf that is neither a gate nor a constant ([`codec`]).
//! - A gate is resolved when it is executed ([`GateResolver`]): the worker decides again on its own copy of the ledger,
//!   up to the same event, and goes on only when the scope has the commitment that the hub recorded. Which rows pass
//!   without a look at each follows from that scope alone.
//! - It renews this every quarter of a second; when something was taken away, or it cannot tell for a second, no batch
//!   leaves any more ([`Lease`]).
//!
//! What comes back is rows and, sealed, an account of what passed ([`Report`]), which is part of the hub's account of
//! the access. The hub records, counts uses, and has the last look before bytes leave ([`crate::access`]); a worker has
//! no outlet.

pub mod answer;
pub mod codec;
mod gate;
mod lease;
mod message;
mod report;
mod resolver;
mod seal;
mod task;
mod worker;

pub use answer::{Answer, read_answer};
pub use gate::{GateResolver, Resolved};
pub use lease::{LEASE, Lease};
pub use message::{Addressed, seal_plan};
pub use report::{DatasetReport, Report};
pub use seal::PlanKey;
pub use task::{AccessTask, DatasetTask, GateTask, ScanTask, ShareTask};
pub use worker::{Worker, WorkerParts};

pub(crate) use gate::RemoteGate;

use crate::error::QueryError;

pub(crate) fn refused(reason: &'static str) -> QueryError {
    QueryError::PlanRefused { reason }
}
