//! The service: a real server on an ephemeral port of the loopback, driven over real connections.

mod answers;
mod command_line;
mod deliveries;
mod encrypted;
mod holdings;
mod hostile;
mod identity;
mod refused;
mod repeated;
mod rights;
pub mod shared;
mod statements;
mod statistics;
mod stopping;
mod story;
mod subscriptions;
