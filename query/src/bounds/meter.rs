//! Memory that the engine takes without telling its pool, told to it.
//!
//! A batch or an array is *charged* by handing it on in buffers that hold a reservation of the query's pool: it is
//! given back when the last of them is dropped, whoever holds it then. No operator has to know.
//!
//! [`MeterExec`] charges what goes into window functions, which keep whole partitions.
//!
//! [`OnceExec`] keeps a nested-loop join from running its first input again. The engine does so when that does not fit
//! into memory, to put it aside; its own comments say that some kinds of join then answer wrongly, an input with
//! exchanges between threads gives nothing the second time, and what passes the gate twice would count twice. Such a
//! join ends with [`QueryError::OutOfMemory`] instead.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::DataType;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;

use crate::error::QueryError;

/// How often a window operator has its input: as it came, and joined.
const COPIES: usize = 2;
/// Longest value that a view holds in itself, bytes.
const INLINE_BYTES: u32 = 12;

/// A reservation of a query's pool under a name.
pub(super) fn reserve(
    pool: &Arc<dyn MemoryPool>,
    name: &'static str,
    bytes: usize,
) -> Result<MemoryReservation> {
    let reservation = MemoryConsumer::new(name).register(pool);
    reservation.try_grow(bytes)?;
    Ok(reservation)
}

/// Bytes that an array would take if it had nothing but its rows.
pub(super) fn bytes_of(array: &ArrayRef) -> usize {
    let data = array.to_data();
    let fixed = data.get_slice_memory_size().unwrap_or_default();
    let long = |lengths: &mut dyn Iterator<Item = u32>| -> usize {
        let long = lengths.filter(|length| *length > INLINE_BYTES);
        long.map(|length| length as usize).sum()
    };
    let views = match array.data_type() {
        DataType::Utf8View => long(&mut array.as_string_view().lengths()),
        DataType::BinaryView => long(&mut array.as_binary_view().lengths()),
        _ => 0,
    };
    fixed + views
}

/// The same array, holding `reservation`.
pub(super) fn charged(array: &ArrayRef, reservation: &Arc<MemoryReservation>) -> Result<ArrayRef> {
    Ok(make_array(holding(array.to_data(), reservation)?))
}

/// A buffer and what is reserved for it.
struct Held {
    buffer: Buffer,
    _reservation: Arc<MemoryReservation>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

fn holding(data: ArrayData, reservation: &Arc<MemoryReservation>) -> Result<ArrayData> {
    let buffers = data.buffers().iter().map(|buffer| {
        Buffer::from(Bytes::from_owner(Held {
            buffer: buffer.clone(),
            _reservation: Arc::clone(reservation),
        }))
    });
    let buffers = buffers.collect();
    let children = data.child_data().iter().cloned();
    let children: Result<Vec<ArrayData>> =
        children.map(|child| holding(child, reservation)).collect();
    let data = data.into_builder().buffers(buffers).child_data(children?);
    Ok(data.build()?)
}

/// A batch that is charged for as long as any part of it lives.
fn charged_batch(batch: &RecordBatch, pool: &Arc<dyn MemoryPool>) -> Result<RecordBatch> {
    let bytes: usize = batch.columns().iter().map(bytes_of).sum();
    if bytes == 0 {
        return Ok(batch.clone());
    }
    let reservation = Arc::new(reserve(pool, "window", bytes.saturating_mul(COPIES))?);
    let columns = batch.columns().iter();
    let columns: Result<Vec<ArrayRef>> = columns
        .map(|column| charged(column, &reservation))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns?,
        &options,
    )?)
}

/// Hands its input on, charged.
#[derive(Debug)]
pub struct MeterExec {
    input: Arc<dyn ExecutionPlan>,
}

impl MeterExec {
    pub(crate) fn over(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input })
    }
}

impl DisplayAs for MeterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeterExec")
    }
}

impl ExecutionPlan for MeterExec {
    fn name(&self) -> &'static str {
        "MeterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self { input })),
            Err(_) => Err(DataFusionError::Internal("a meter has one input".into())),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let pool = Arc::clone(context.memory_pool());
        let batches = self.input.execute(partition, context)?;
        let schema = batches.schema();
        let batches = batches.and_then(move |batch| {
            let charged = charged_batch(&batch, &pool);
            async move { charged }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// Hands its input on, once.
#[derive(Debug)]
pub struct OnceExec {
    input: Arc<dyn ExecutionPlan>,
    ran: AtomicBool,
}

impl OnceExec {
    pub(crate) fn over(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self {
            input,
            ran: AtomicBool::new(false),
        })
    }
}

impl DisplayAs for OnceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnceExec")
    }
}

impl ExecutionPlan for OnceExec {
    fn name(&self) -> &'static str {
        "OnceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Self::over(input)),
            Err(_) => Err(DataFusionError::Internal("it has one input".into())),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if self.ran.swap(true, Ordering::Relaxed) {
            let limit = context.memory_pool().memory_limit();
            let limit = match limit {
                MemoryLimit::Finite(bytes) => bytes as u64,
                _ => u64::MAX,
            };
            let error = QueryError::OutOfMemory { limit };
            return Err(DataFusionError::External(Box::new(error)));
        }
        self.input.execute(partition, context)
    }
}

/// Charges what goes into the window functions of a plan, and keeps its joins from starting over.
///
/// # Errors
/// When the plan cannot be rebuilt.
pub fn metered(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        if node.is::<NestedLoopJoinExec>() {
            let inputs = node.children().into_iter().enumerate();
            let inputs = inputs.map(|(side, input)| match side {
                0 => OnceExec::over(Arc::clone(input)),
                _ => Arc::clone(input),
            });
            let inputs = inputs.collect();
            return replace_children_if_necessary(node, inputs).map(Transformed::yes);
        }
        if !node.is::<WindowAggExec>() && !node.is::<BoundedWindowAggExec>() {
            return Ok(Transformed::no(node));
        }
        let inputs = node.children().into_iter();
        let inputs = inputs.map(|input| MeterExec::over(Arc::clone(input)));
        let inputs = inputs.collect();
        replace_children_if_necessary(node, inputs).map(Transformed::yes)
    })
    .map(|done| done.data)
}
