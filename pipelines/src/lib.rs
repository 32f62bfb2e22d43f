//! Derived data products, topics, subscriptions.
//!
//! - [`models`]: products written as SQL over datasets, their lineage, their contracts, and their building.
//! - [`topics`]: what organisations subscribe to, and how they are brought it.

pub mod models;
pub mod topics;
