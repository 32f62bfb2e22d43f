//! [`GateExec`]: the opaque operator at the bottom of every gated plan.
//!
//! It is a leaf: what reads the files stands inside it, out of reach of every optimizer rule, and below it
//! there is nothing to show in EXPLAIN, to push into, or to take statistics from.
//!
//! Architecture Invariant: no value of a hidden row or cell exists above this operator, in any buffer.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt, TryStreamExt};
use qihui_catalog::DatasetId;
use roaring::RoaringBitmap;

use crate::account::Account;
use crate::error::QueryError;
use crate::rows::RowGate;

/// Asked before every batch: may rows still pass?
pub trait Permit: Send + Sync + fmt::Debug {
    /// # Errors
    /// [`QueryError::ConsentChanged`] once what the query relied on was taken away.
    fn check(&self) -> Result<(), QueryError>;
}

/// A permit that nothing takes away.
#[derive(Debug, Clone, Copy)]
pub struct Standing;

impl Permit for Standing {
    fn check(&self) -> Result<(), QueryError> {
        Ok(())
    }
}

/// What all partitions of one gated scan share.
#[derive(Debug)]
pub struct GateScan {
    /// The dataset.
    pub dataset: DatasetId,
    /// Decides about rows and cells.
    pub rows: RowGate,
    /// Where passed rows are counted.
    pub account: Arc<Account>,
    /// Asked before each batch.
    pub permit: Arc<dyn Permit>,
    /// Reads the inside ranges: the output columns only.
    pub inside: Vec<InsideScan>,
    /// Reads the edge ranges: also the number, dates and flags.
    pub edge: Option<Arc<dyn ExecutionPlan>>,
    /// The context that the readers run in; it alone knows the warehouse's object store.
    pub context: Arc<TaskContext>,
}

/// A reader of inside ranges.
#[derive(Debug)]
pub struct InsideScan {
    /// The reader, one partition per partition of the gate.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Whether it reads its files whole.
    pub whole_files: bool,
    /// The enterprises with rows in it.
    pub enterprises: RoaringBitmap,
}

/// The gate as an operator. See the module's text.
pub struct GateExec {
    scan: Arc<GateScan>,
    properties: Arc<PlanProperties>,
}

impl GateExec {
    /// An operator with `partitions` partitions over `scan`.
    pub fn new(scan: Arc<GateScan>, partitions: usize) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&scan.rows.schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            scan,
            properties: Arc::new(properties),
        }
    }
}

impl fmt::Debug for GateExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GateExec({})", self.scan.dataset)
    }
}

impl DisplayAs for GateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "GateExec: dataset={}", self.scan.dataset)
    }
}

impl ExecutionPlan for GateExec {
    fn name(&self) -> &'static str {
        "GateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        leaf(self, &children)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let inner = &self.scan.context;
        let mut inputs = VecDeque::new();
        for (index, inside) in self.scan.inside.iter().enumerate() {
            inputs.push_back(Input {
                stream: inside.plan.execute(partition, Arc::clone(inner))?,
                source: Source::Inside { index, first: true },
            });
        }
        if let Some(edge) = &self.scan.edge {
            let stream = edge.execute(partition, Arc::clone(inner))?;
            inputs.push_back(Input {
                stream,
                source: Source::Edge,
            });
        }
        let batch_rows = context.session_config().batch_size();
        Ok(Box::pin(GateStream {
            scan: Arc::clone(&self.scan),
            inputs,
            coalescer: BatchCoalescer::new(Arc::clone(&self.scan.rows.schema), batch_rows)
                .with_biggest_coalesce_batch_size(Some(batch_rows / 2)),
            finished: false,
        }))
    }
}

/// A gate whose rows come in one partition, in the order of what is visible, in batches cut anew (strict mode).
///
/// Like [`GateExec`] a leaf: an optimizer that saw the sort would find that nobody asked for it, and drop it.
pub struct OrderedGateExec {
    ordered: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl OrderedGateExec {
    /// `ordered` is the gate with what orders its rows, in one partition.
    pub fn new(ordered: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(ordered.schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            ordered,
            properties: Arc::new(properties),
        }
    }
}

impl fmt::Debug for OrderedGateExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OrderedGateExec")
    }
}

impl DisplayAs for OrderedGateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("OrderedGateExec")
    }
}

impl ExecutionPlan for OrderedGateExec {
    fn name(&self) -> &'static str {
        "OrderedGateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        leaf(self, &children)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.ordered.execute(partition, context)
    }
}

/// The inputs of a union one after another, in one partition: in strict mode rows may not arrive as threads please.
#[derive(Debug)]
pub struct SequenceExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl SequenceExec {
    /// All partitions of all `inputs`, which have the given schema, in order.
    pub fn new(schema: SchemaRef, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            inputs,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for SequenceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("SequenceExec")
    }
}

impl ExecutionPlan for SequenceExec {
    fn name(&self) -> &'static str {
        "SequenceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.schema(), children)))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let parts: Vec<(Arc<dyn ExecutionPlan>, usize)> = self
            .inputs
            .iter()
            .flat_map(|input| {
                let partitions = input.properties().output_partitioning().partition_count();
                (0..partitions).map(|partition| (Arc::clone(input), partition))
            })
            .collect();
        let renamed = Arc::clone(&schema);
        let batches = futures::stream::iter(parts)
            .map(move |(input, partition)| input.execute(partition, Arc::clone(&context)))
            .try_flatten()
            .and_then(move |batch| {
                let schema = Arc::clone(&renamed);
                async move { Ok(batch.with_schema(schema)?) }
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// Puts unions of a plan in order.
///
/// # Errors
/// When the plan cannot be rebuilt.
pub fn in_sequence(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        if node.is::<UnionExec>() || node.is::<InterleaveExec>() {
            let inputs = node.children().into_iter().cloned().collect();
            return Ok(Transformed::yes(
                Arc::new(SequenceExec::new(node.schema(), inputs)) as _,
            ));
        }
        Ok(Transformed::no(node))
    })
    .map(|done| done.data)
}

fn leaf(
    gate: Arc<dyn ExecutionPlan>,
    children: &[Arc<dyn ExecutionPlan>],
) -> Result<Arc<dyn ExecutionPlan>> {
    if children.is_empty() {
        Ok(gate)
    } else {
        Err(DataFusionError::Internal(
            "the gate takes no children".into(),
        ))
    }
}

/// Where a batch comes from; `first`: the enterprises of the inside scan are still to be recorded.
#[derive(Debug, Clone, Copy)]
enum Source {
    Inside { index: usize, first: bool },
    Edge,
}

struct Input {
    stream: SendableRecordBatchStream,
    source: Source,
}

/// The stream of one partition: inside ranges first, then edges.
struct GateStream {
    scan: Arc<GateScan>,
    inputs: VecDeque<Input>,
    coalescer: BatchCoalescer,
    finished: bool,
}

impl GateStream {
    /// Takes a batch of a reader through the gate, into the coalescer.
    fn admit(&mut self, source: Source, batch: &RecordBatch) -> Result<()> {
        self.scan.permit.check().map_err(external)?;
        let scan = &self.scan;
        let (batch, touched, withheld) = match source {
            Source::Inside { index, first } => {
                let inside = scan.inside.get(index);
                let whole = inside.is_some_and(|inside| inside.whole_files);
                let touched = match inside {
                    Some(inside) if first => inside.enterprises.clone(),
                    _ => RoaringBitmap::new(),
                };
                scan.account.count(None);
                (scan.rows.pass(batch, whole)?, touched, Vec::new())
            }
            Source::Edge => {
                let checked = scan.rows.check(batch)?;
                scan.account.count(Some(checked.numbers.values()));
                (checked.batch, checked.touched, checked.withheld)
            }
        };
        let names = scan
            .rows
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone());
        scan.account
            .record(
                &scan.dataset,
                batch.num_rows() as u64,
                &touched,
                names.zip(withheld),
            )
            .map_err(external)?;
        if batch.num_rows() > 0 {
            self.coalescer.push_batch(batch)?;
        }
        Ok(())
    }
}

fn external(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl Stream for GateStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(batch) = this.coalescer.next_completed_batch() {
                return Poll::Ready(Some(Ok(batch)));
            }
            let Some(input) = this.inputs.front_mut() else {
                if std::mem::replace(&mut this.finished, true) {
                    return Poll::Ready(None);
                }
                if let Err(error) = this.coalescer.finish_buffered_batch() {
                    return Poll::Ready(Some(Err(error.into())));
                }
                continue;
            };
            match futures::ready!(input.stream.poll_next_unpin(cx)) {
                None => {
                    this.inputs.pop_front();
                }
                Some(batch) => {
                    let source = input.source;
                    let admitted = batch.and_then(|batch| this.admit(source, &batch));
                    if let Err(error) = admitted {
                        this.inputs.clear();
                        this.finished = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let (Source::Inside { .. }, Some(input)) = (source, this.inputs.front_mut())
                    {
                        input.source = input.source.seen();
                    }
                }
            }
        }
    }
}

impl Source {
    /// The same source once its enterprises are recorded.
    fn seen(self) -> Self {
        match self {
            Self::Inside { index, .. } => Self::Inside {
                index,
                first: false,
            },
            Self::Edge => Self::Edge,
        }
    }
}

impl RecordBatchStream for GateStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.scan.rows.schema)
    }
}
