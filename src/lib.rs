//! The program `qihui`: one data directory, one command line.
//!
//! [`run`] is the whole program as a function: arguments in, bytes on two streams and an exit code out. The binary
//! hands it the process's own streams; the demonstration and the tests hand it buffers and a clock of their own.
//!
//! Promises of the command line:
//! - with `--json` stdout holds exactly one JSON document, whatever happens; everything else goes to stderr;
//! - an error is one line `error[Code]: message` on stderr, its code is a page in `docs/errors`, and its kind is the
//!   exit code: 1 failed, 2 usage, 3 denied;
//! - no message and no diagnostic holds data of an enterprise.
//!
//! Where to read on: [`cli`] says what can be typed, [`hub`] what a data directory is and how it is opened,
//! [`layout`] which file lies where; [`commands`] has one module per command.
//!
//! Architecture Invariant: this crate wires; it decides nothing. What may be seen is decided by `qihui-consent` and
//! enforced by `qihui-query`; no command reads a table but through the gate.

pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
mod diagnostics;
pub mod failure;
pub mod files;
mod forward;
pub mod hub;
pub mod identity;
pub mod kafka;
pub mod layout;
mod principal;
mod progress;
mod report;
mod run;
pub mod serve;
#[cfg(test)]
mod testing;

pub use failure::{Failure, ProgramError};
pub use report::Report;
pub use run::{Surroundings, run};
