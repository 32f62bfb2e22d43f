//! What the program says about itself on stderr.
//!
//! Promise: no enterprise data in diagnostics. Only events of this workspace's own crates pass, which carry positions,
//! names and counts; the engines below may quote values in theirs and are never shown, at any level.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::config::Level;

/// Sends diagnostics of this level and above to stderr. Only the first call of a process has an effect.
pub(crate) fn install(level: Level) {
    let level = match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let ours = Targets::new().with_target("qihui", level);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // The filter is of all and not of the layer: that one keeps what it said last in the thread, and whoever only asks
    // whether something would be said (sqlx does, at every statement) would silence the event that comes next.
    // A demonstration or a test runs many commands in one process.
    let _ = tracing_subscriber::registry()
        .with(ours)
        .with(layer)
        .try_init();
}
