//! Tests of the generated feeds, read back by a reader of their own.
#![allow(clippy::unwrap_used, missing_docs)]

mod feeds;
mod reader;
mod registry;
