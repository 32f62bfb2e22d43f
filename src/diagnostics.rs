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
    // A demonstration or a test runs many commands in one process.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(ours))
        .try_init();
}
