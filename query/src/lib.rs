//! The gate: SQL over exactly what an organisation is authorised to see.
//!
//! A query reads [`provider::GatedTable`]s, whose scans end in [`exec::GateExec`]: an opaque leaf that decides
//! about every row and cell before anything else of the plan can look at it. [`plan`] says which plans are
//! accepted, [`session`] puts a query together, and [`access`] wraps it in the two log entries without which
//! nothing is released.
//!
//! # Layers
//!
//! | layer | modules | what it needs |
//! |---|---|---|
//! | the gate over one table | [`provider`], [`exec`], [`rows`], [`gather`], [`ranges`], [`reader`], [`dense`], [`pushdown`], [`forms`], [`account`], `strict` | a scope, a table version |
//! | SQL over gated tables | [`session`], [`plan`], [`functions`], [`explain`], `clauses` | the same for every table of a statement |
//! | bounds | [`bounds`] | memory, spill, turns |
//! | figures over everyone | [`statistics`] | the same as SQL, and what was released before |
//! | gates in another process | [`remote`] | a key that is shared, a ledger to follow |
//! | accesses | [`access`], [`formats`], [`whole`] | the hub: ledger, log, warehouse |
//!
//! The layers above `accesses` need nothing of a hub to run. They know each other in three places: a statement is parsed and
//! measured by [`bounds`] while [`session`] plans it, a gate may stand for one in another process ([`remote`]), and the readers'
//! context comes from [`access::reader_context`].
//!
//! # In a project of one's own
//!
//! The first two layers know neither ledger nor log nor Delta Lake: a host that has its own gives them
//!
//! 1. **a scope**, a [`DatasetScope`](qihui_consent::decision::DatasetScope) from whatever it decides by: columns with their
//!    forms, shapes of what was granted, and the members of each shape as bitmaps of numbers. Any subject of rights that rows
//!    belong to can have a number, a patient as well as an enterprise. [`dense::DenseScope`] is kept from query to query.
//! 2. **a table version**, a [`provider::TableVersion`]: Parquet files in an `object_store`, sorted by an `Int32` column
//!    `_no` (the number) and then by the event date, with a page index, and for each file the bitmap of the numbers in it. Unsorted files are
//!    answered correctly and slowly.
//! 3. **a permit**, an [`exec::Permit`], which is asked before every batch whether rows may still pass.
//! 4. **two contexts of the engine**: the query's, which has no object store, and the readers', which alone has one
//!    ([`access::reader_context`]).
//!
//! [`session::parse`] and [`session::plan`] then give a physical plan to execute, and an [`account::Account`] that says afterwards
//! what passed and whom it touched. `examples/host.rs` is such a host, from the files to the answer.
//!
//! Three things are promised only together, and a host that takes one without the others has a leak:
//!
//! - a [`provider::GatedTable`] hides rows and cells from everything above it, but **which plans may stand above it** is for
//!   [`plan`] to say: the engine has functions that tell file names, nodes that show statistics, and statements that read other files;
//! - an error of the engine may quote a value: only [`QueryError::from_running`] makes of it what may be told;
//! - a batch that has passed can still be stopped, and must be, where bytes leave: see [`access`].
//!
pub mod access;
pub mod account;
pub mod bounds;
mod clauses;
pub mod dense;
pub mod error;
pub mod exec;
pub mod explain;
pub mod formats;
pub mod forms;
pub mod functions;
pub mod gather;
pub mod metadata;
#[cfg(feature = "mutations")]
pub mod mutations;
#[cfg(not(feature = "mutations"))]
mod mutations;
pub mod plan;
pub mod provider;
pub mod pushdown;
pub mod ranges;
pub mod reader;
pub mod remote;
pub mod rows;
pub mod session;
pub mod statistics;
mod strict;
mod sync;
pub mod whole;

pub use error::QueryError;
