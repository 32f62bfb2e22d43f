//! Data products: SQL models, what follows from them, and their building.
//!
//! A model ([`qihui_catalog::Model`]) is a statement with a header. [`lineage`] reads from its plan what each column and
//! the rows depend on; [`derive`] makes the product's contract of it; [`build`] fills the product's table and keeps it
//! up with its inputs. The product is then a dataset like any: the gate knows no difference, but that it refuses a
//! table that was built by other rules than those that are recorded.

pub mod build;
pub mod derive;
mod error;
pub mod lineage;
mod read;
mod rows;

pub use build::{
    BuildContext, BuildCounts, BuildFact, BuildLimits, BuildReport, Mode, app_id, build,
    build_facts,
};
pub use derive::{Product, Reason, build_order, complete};
pub use error::ModelError;
pub use lineage::{Parent, Parents, Relation};
