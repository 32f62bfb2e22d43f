//! Derived data products, topics and subscriptions.
//!
//! The crate has its place in the order of dependencies (it may use catalogue, warehouse, ingestion and the gate;
//! only the program uses it) and nothing in it yet: products and topics come after feeds, gate and log stand.
