//! Derived data products, topics, subscriptions.
//!
//! - [`models`]: products written as SQL over datasets, their lineage, their contracts, and their building.

pub mod models;
