//! What passed the gates of a worker, told to the hub: its part of the account of the access.

use std::collections::BTreeMap;

use qihui_catalog::DatasetId;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::refused;
use crate::account::{Account, Passed};
use crate::error::QueryError;

/// What passed, over all gates of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What passed of each dataset.
    pub datasets: BTreeMap<DatasetId, DatasetReport>,
    /// How many rows of each enterprise passed, if they were few enough to count.
    pub rows_by_enterprise: Option<BTreeMap<u32, u64>>,
}

/// What passed of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetReport {
    /// Rows.
    pub rows: u64,
    /// Enterprises with a row among them: a portable Roaring bitmap, hexadecimal.
    pub touched: String,
    /// Cells withheld, per column.
    pub withheld: BTreeMap<String, u64>,
    /// Enterprises that were left out, since something of them was taken away before any of their rows had passed.
    pub dropped: String,
}

fn written(numbers: &RoaringBitmap) -> Result<String, QueryError> {
    let mut bytes = Vec::with_capacity(numbers.serialized_size());
    let failed = |_| QueryError::Internal {
        what: "the form of a report",
    };
    numbers.serialize_into(&mut bytes).map_err(failed)?;
    Ok(hex::encode(bytes))
}

fn read(text: &str) -> Result<RoaringBitmap, QueryError> {
    let broken = || refused("its report cannot be read");
    let bytes = hex::decode(text).map_err(|_| broken())?;
    RoaringBitmap::deserialize_from(bytes.as_slice()).map_err(|_| broken())
}

impl Report {
    /// What an account says.
    pub(crate) fn of(account: &Account) -> Result<Self, QueryError> {
        let datasets = account.passed().into_iter().map(|(dataset, passed)| {
            let report = DatasetReport {
                rows: passed.rows,
                touched: written(&passed.touched)?,
                withheld: passed.withheld,
                dropped: written(&passed.dropped)?,
            };
            Ok((dataset, report))
        });
        Ok(Self {
            datasets: datasets.collect::<Result<_, QueryError>>()?,
            rows_by_enterprise: account.rows_by_enterprise(),
        })
    }

    /// Adds what passed to the account of the access.
    ///
    /// # Errors
    /// [`QueryError::ConsentChanged`] when an enterprise was dropped on one side and touched on the other,
    /// [`QueryError::TooManyRows`] when it is too much together, and [`QueryError::PlanRefused`] when the report cannot
    /// be read.
    pub fn add_to(&self, account: &Account) -> Result<(), QueryError> {
        let passed = self.datasets.iter().map(|(dataset, report)| {
            let passed = Passed {
                rows: report.rows,
                touched: read(&report.touched)?,
                withheld: report.withheld.clone(),
                dropped: read(&report.dropped)?,
            };
            Ok((dataset.clone(), passed))
        });
        let passed: BTreeMap<DatasetId, Passed> = passed.collect::<Result<_, QueryError>>()?;
        account.add(&passed, self.rows_by_enterprise.as_ref())
    }
}
