//! Where chunks land: what ingestion asks of a table.

use arrow::{array::RecordBatch, buffer::BooleanBuffer};
use async_trait::async_trait;
use qihui_warehouse::{CommitError, Incoming, RunInfo, Table, WarehouseError};

pub use qihui_warehouse::Outcome;

use crate::IngestError;

/// Rows on their way into a table: `_no` and the landed columns, in the order of the contract.
#[derive(Debug, Clone)]
pub struct LandingRows {
    /// The rows.
    pub batch: RecordBatch,
    /// Which of them are retractions.
    pub retract: BooleanBuffer,
}

/// What a commit carries besides rows.
#[derive(Debug, Clone)]
pub struct CommitInfo {
    /// The feed and dataset whose runs are numbered, `feed/dataset`.
    pub app_id: String,
    /// The run.
    pub run: i64,
    /// Where the source was read up to, as a JSON document.
    pub position: serde_json::Value,
    /// SHA-256 of what was read.
    pub input_hash: [u8; 32],
}

/// Why a commit did not happen.
#[derive(Debug)]
pub enum CommitFault {
    /// Another commit came first: classify again.
    Conflict,
    /// It failed for good.
    Failed(IngestError),
}

/// A table that chunks land in.
///
/// A run lands by `classify`, then whatever has to be durable first (quarantine, journal), then `commit`: all rows of
/// the chunk become visible at once, together with the number of the run, or nothing does.
#[async_trait]
pub trait Landing: Send {
    /// What is known about a chunk between the two steps.
    type Classified: Send;

    /// The last run whose commit the table holds.
    async fn last_run(&mut self, app_id: &str) -> Result<Option<i64>, IngestError>;

    /// The version that a run of the table's made, where that can still be found.
    async fn version_of(&mut self, app_id: &str, run: i64) -> Result<Option<i64>, IngestError> {
        let _ = (app_id, run);
        Ok(None)
    }

    /// The position that the commit of a run carries; none when the table does not know it (any more).
    async fn position_of(
        &mut self,
        app_id: &str,
        run: i64,
    ) -> Result<Option<serde_json::Value>, IngestError> {
        let _ = (app_id, run);
        Ok(None)
    }

    /// What would become of each row.
    async fn classify(
        &mut self,
        rows: &LandingRows,
    ) -> Result<(Vec<Outcome>, Self::Classified), IngestError>;

    /// Lands the rows; returns the version of the table that holds them.
    async fn commit(
        &mut self,
        classified: Self::Classified,
        info: &CommitInfo,
    ) -> Result<i64, CommitFault>;
}

/// Lands in a table of the warehouse.
#[derive(Debug)]
pub struct TableLanding {
    dataset: String,
    table: Table,
}

impl TableLanding {
    /// Lands in `table`.
    #[must_use]
    pub fn new(dataset: &qihui_catalog::DatasetId, table: Table) -> Self {
        Self {
            dataset: dataset.to_string(),
            table,
        }
    }

    fn failed(&self, error: WarehouseError) -> IngestError {
        IngestError::landing(&self.dataset, error)
    }
}

#[async_trait]
impl Landing for TableLanding {
    type Classified = qihui_warehouse::Classified;

    async fn last_run(&mut self, app_id: &str) -> Result<Option<i64>, IngestError> {
        self.table
            .last_run(app_id)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn version_of(&mut self, app_id: &str, run: i64) -> Result<Option<i64>, IngestError> {
        self.table
            .version_of(app_id, run)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn position_of(
        &mut self,
        app_id: &str,
        run: i64,
    ) -> Result<Option<serde_json::Value>, IngestError> {
        self.table
            .position_of(app_id, run)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn classify(
        &mut self,
        rows: &LandingRows,
    ) -> Result<(Vec<Outcome>, Self::Classified), IngestError> {
        let retract = (rows.retract.count_set_bits() > 0).then(|| rows.retract.clone());
        let incoming = Incoming {
            batch: rows.batch.clone(),
            retract,
        };
        let classified = self
            .table
            .classify(incoming)
            .await
            .map_err(|error| self.failed(error))?;
        Ok((classified.outcomes().to_vec(), classified))
    }

    async fn commit(
        &mut self,
        classified: Self::Classified,
        info: &CommitInfo,
    ) -> Result<i64, CommitFault> {
        let run = RunInfo {
            app_id: info.app_id.clone(),
            run: info.run,
            position: info.position.clone(),
            input_hash: info.input_hash,
        };
        match self.table.commit(classified, run).await {
            Ok(receipt) => Ok(receipt.version),
            Err(CommitError::Conflict { .. }) => Err(CommitFault::Conflict),
            Err(CommitError::Warehouse(error)) => Err(CommitFault::Failed(self.failed(error))),
            Err(other) => Err(CommitFault::Failed(IngestError::landing(
                &self.dataset,
                other,
            ))),
        }
    }
}
