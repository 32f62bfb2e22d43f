//! The consent ledger of qihui: agreements, grants, the decision, enterprise numbers.
//!
//! Two keys open an enterprise's data. Key one is an [agreement](decision::Agreement) of the data authority with an
//! organisation; key two a [consent](document::ConsentDocument) that the enterprise signed. [`decision`] is the pure
//! function that turns both into what a gate can enforce.

pub mod agreement;
pub mod decision;
pub mod document;
pub mod error;
pub mod ledger;
pub mod signing;
pub mod state;
mod store;
mod text;

pub use error::LedgerError;
pub use ledger::{Decision, DecisionError, Drainer, Ledger, OutboxItem, Sink};
