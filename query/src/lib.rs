//! The gate: SQL over exactly what an organisation is authorised to see.
//!
//! A query reads [`provider::GatedTable`]s, whose scans end in [`exec::GateExec`]: an opaque leaf that decides
//! about every row and cell before anything else of the plan can look at it. [`plan`] says which plans are
//! accepted, [`session`] puts a query together, and [`access`] wraps it in the two log entries without which
//! nothing is released.

pub mod access;
pub mod account;
pub mod bounds;
pub mod dense;
pub mod error;
pub mod exec;
pub mod explain;
pub mod formats;
pub mod forms;
pub mod functions;
pub mod gather;
pub mod metadata;
pub mod plan;
pub mod provider;
pub mod pushdown;
pub mod ranges;
pub mod reader;
pub mod rows;
pub mod session;
pub mod whole;

pub use error::QueryError;
