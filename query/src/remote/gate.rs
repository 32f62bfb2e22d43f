//! A gate that another process described: it finds out what it needs when it is first executed.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use qihui_catalog::{DatasetId, EnterpriseNumbers, Timestamp};
use tokio::sync::OnceCell;

use super::refused;
use super::task::{AccessTask, GateTask};
use crate::account::Account;
use crate::dense::DenseScope;
use crate::error::QueryError;
use crate::exec::Permit;
use crate::provider::{GatedTable, QueryContext, TableVersion};

/// Finds out what the scans of an access need, on the spot.
#[async_trait]
pub trait GateResolver: Send + Sync + fmt::Debug {
    /// What a scan of `dataset` within `access` needs.
    ///
    /// # Errors
    /// [`QueryError::ConsentChanged`] when something that matters to it was taken away since the decision,
    /// [`QueryError::PlanRefused`] when the description does not fit what is found here, or what keeps it from being
    /// found.
    async fn resolve(
        &self,
        access: &AccessTask,
        dataset: &DatasetId,
    ) -> Result<Resolved, QueryError>;
}

/// What a scan needs.
#[derive(Clone)]
pub struct Resolved {
    /// Decides about rows and cells.
    pub scope: Arc<DenseScope>,
    /// The files.
    pub table: Arc<TableVersion>,
    /// Asked before each batch.
    pub permit: Arc<dyn Permit>,
    /// Where passed rows are counted: one for all scans of an access.
    pub account: Arc<Account>,
    /// What the readers below the gate run in.
    pub reader: Arc<TaskContext>,
    /// Resolves enterprises that comparisons name.
    pub numbers: Option<Arc<dyn EnterpriseNumbers>>,
}

/// A described gate, and the gate itself once it is resolved.
pub(crate) struct RemoteGate {
    task: GateTask,
    schema: SchemaRef,
    resolver: Arc<dyn GateResolver>,
    gate: OnceCell<Arc<dyn ExecutionPlan>>,
}

impl RemoteGate {
    pub(crate) fn new(task: GateTask, resolver: Arc<dyn GateResolver>) -> Result<Self, QueryError> {
        if task.scan.strict && task.scan.partitions.len() != 1 {
            return Err(refused("strict mode has one partition"));
        }
        Ok(Self {
            schema: task.schema()?,
            task,
            resolver,
            gate: OnceCell::new(),
        })
    }

    pub(crate) fn task(&self) -> &GateTask {
        &self.task
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The rows of a partition. Nothing is looked up before the first is asked for.
    pub(crate) fn execute(
        self: &Arc<Self>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> SendableRecordBatchStream {
        let gate = Arc::clone(self);
        let batches = futures::stream::once(async move {
            let gate = gate.resolved().await?;
            gate.execute(partition, context)
        });
        let schema = self.schema();
        Box::pin(RecordBatchStreamAdapter::new(schema, batches.try_flatten()))
    }

    async fn resolved(&self) -> Result<&Arc<dyn ExecutionPlan>> {
        self.gate.get_or_try_init(|| self.resolve()).await
    }

    async fn resolve(&self) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = &self.task.scan;
        let external = |error: QueryError| DataFusionError::External(Box::new(error));
        let resolved = self.resolver.resolve(&self.task.access, &scan.dataset);
        let resolved = resolved.await.map_err(external)?;
        let context = QueryContext {
            account: resolved.account,
            permit: resolved.permit,
            strict: Arc::new(scan.strict.into()),
            numbers: resolved.numbers,
            reader: resolved.reader,
            today: Timestamp(self.task.access.at).shanghai_date(),
            min_inside_rows: scan.min_inside_rows,
        };
        let gate = GatedTable::new(resolved.scope, resolved.table, context);
        let gate = gate.scan_of(scan).await?;
        if gate.schema() != self.schema {
            return Err(external(refused("it delivers other columns here")));
        }
        Ok(gate)
    }
}
