//! The ledger as its callers see it.

mod concurrency;
mod crash;
mod decide;
mod fixture;
mod golden;
mod holdings;
mod lifecycle;
mod model;
mod numbers;
mod parties;
mod requests;
mod scale;
mod statistics;
mod uses;
