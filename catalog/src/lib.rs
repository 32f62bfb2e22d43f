//! The vocabulary of qihui: typed identifiers, data contracts, code lists, the purpose tree.
//!
//! Everything here is a value or a pure function; the only I/O is reading the catalogue's own files. What is read is
//! checked as a whole: a [`Catalog`] exists only when every contract, feed and purpose keeps every rule, and whoever
//! loads one is told every problem with its file and place.
//!
//! ```
//! use qihui_catalog::{Catalog, DatasetId, Level, Uscc};
//!
//! let catalog = Catalog::builtin()?;
//! let report = catalog.contract(&DatasetId::new("annual_report")?).expect("a shipped dataset");
//! let assets = report.column("assgro").expect("a column of it");
//! assert_eq!((assets.level, assets.public_when.as_deref()), (Level::L2, Some("assgrodis")));
//!
//! let uscc = Uscc::normalise(" 91330000142911651l ")?;
//! assert_eq!(uscc.division(), "330000");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod canonical;
mod catalog;
pub mod codes;
pub mod contract;
mod document;
pub mod error;
pub mod feed;
pub mod ids;
pub mod level;
pub mod model;
pub mod numbers;
pub mod problem;
pub mod purpose;
pub mod time;
pub mod topic;
pub mod uscc;

pub use catalog::{Artefact, Catalog, check_dir};
pub use codes::CodeList;
pub use contract::{
    Bound, CodeListRef, Column, ColumnType, Contract, DisclosureWindow, Partition, Pattern,
    QualityRule, Unit, years_after,
};
pub use error::{Coded, Kind};
pub use feed::{
    Encoding, FeedFormat, FeedSpec, MessageForm, Payload, SourceTopic, Swap, Tombstone,
};
pub use ids::{
    ConsentId, DatasetId, EnterpriseNo, FeedName, IdError, OrgId, PurposeCode, TopicName,
};
pub use level::{Action, Level, WordError};
pub use model::{BUILD_COLUMN, Declassification, Model, ModelColumn, SHOWN_UNTIL_COLUMN};
pub use numbers::{EnterpriseNumbers, NumberRequest, NumbersError};
pub use problem::{CatalogErrors, ContractError, Problem};
pub use purpose::{Caps, Frequency, Period, Purpose, PurposeTree};
pub use time::{Date, Timestamp, TimestampError};
pub use topic::TopicSpec;
pub use uscc::{Uscc, UsccError};

/// Compares with a golden file under `tests/golden`; `INSTA_UPDATE=always` writes it anew.
#[cfg(test)]
fn golden(name: &str, content: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../tests/golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, content));
}
