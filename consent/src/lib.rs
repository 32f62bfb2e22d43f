//! The consent ledger of qihui: agreements, grants, the decision, enterprise numbers.
//!
//! Two keys open an enterprise's data. Key one is an [agreement](decision::Agreement) of the data authority with an
//! organisation; key two a [consent](document::ConsentDocument) that the enterprise signed. [`decision`] is the pure
//! function that turns both into what a gate can enforce; [`ledger`] keeps both, with everything that happened to them.
//!
//! Where to read on: [`decision`] has the rules, [`state`] the life of a consent, [`document`] and [`agreement`] the file
//! formats, [`signing`] the signed text and the keys, [`ledger`] the promises of what is stored.
//!
//! Architecture Invariant: the decision knows no clock, no store and no chance; nothing else decides.
//!
//! Architecture Invariant: no error carries data of an enterprise, its code or its name.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

pub mod agreement;
pub mod decision;
pub mod document;
pub mod error;
pub mod ledger;
#[cfg(feature = "exploration")]
pub mod mutations;
#[cfg(not(feature = "exploration"))]
mod mutations;
pub mod signing;
pub mod state;
mod store;
pub mod sync;
mod text;

pub use error::LedgerError;
pub use ledger::{Decision, DecisionError, Drainer, Ledger, OutboxItem, Sink};
