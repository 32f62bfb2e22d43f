//! The rows of a gate in strict mode: one order, batches cut anew, and memory in which hidden rows have no part.
//!
//! The sort that puts rows in order gets them in batches as hidden rows have cut them, and beside each other as files and
//! ranges have brought them. What it takes for them, when it puts some aside and what it lacks to merge them depends on that.
//! So it has memory of its own: a third of what the query has left when it starts. All of it counts as used from the first row
//! to the last, whatever of it is in use, so that what is above has as much left for the same visible rows. The less it is,
//! the fewer rows the batches have that it sorts, so that it need not fail.
//!
//! A third that is too little for any sort is refused before the first row, so that what passed until then tells nothing.
//!
//! Limits: a sort that cannot hold a few batches in its third does fail (rows of several kilobytes each), and where it does
//! depends on how they were cut. What it puts aside counts as the query's spill as it is.

use std::sync::Arc;

use arrow::compute::BatchCoalescer;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryReservation,
};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt};

use crate::mutations::{Mutation, mutated};
use crate::rows;

/// What part of the memory that a query has left is for putting rows in order.
const PART: usize = 3;
/// What part of its memory a sort keeps free to merge what it holds.
const KEPT_TO_MERGE: usize = 3;
/// Bytes of its memory for each row of a batch that it sorts.
const BYTES_PER_ROW: usize = 8 << 10;
/// Fewest rows of such a batch.
const LEAST_ROWS: usize = 16;

/// The rows of `ordered`, a gate and what orders its rows.
///
/// # Errors
/// When the query has no memory left, or `ordered` cannot start.
pub(crate) fn batches(
    ordered: &Arc<dyn ExecutionPlan>,
    partition: usize,
    context: &Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let (own, reservation) = memory(context)?;
    let batch_rows = context.session_config().batch_size();
    let cut_anew = own.session_config().batch_size() != batch_rows;
    let batches = ordered.execute(partition, own)?;
    let mut batches = holding(batches, reservation);
    let schema = batches.schema();
    if schema.fields().is_empty() && !mutated(Mutation::StrictUncounted) {
        return Ok(counted(batches, batch_rows));
    }
    if cut_anew {
        batches = cut(batches, batch_rows);
    }
    // What a sort hands on still stands in the buffers that it got it in.
    let batches = batches.and_then(async |batch| match mutated(Mutation::StrictUncut) {
        true => Ok(batch),
        false => Ok(rows::compacted(&batch)?),
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
}

/// A context with a part of the memory that is left in `context`, and what holds it there.
fn memory(context: &Arc<TaskContext>) -> Result<(Arc<TaskContext>, Option<MemoryReservation>)> {
    let pool = context.memory_pool();
    let limit = match pool.memory_limit() {
        MemoryLimit::Finite(limit) if !mutated(Mutation::StrictShared) => limit,
        _ => return Ok((Arc::clone(context), None)),
    };
    let bytes = limit.saturating_sub(pool.reserved()) / PART;
    let reservation = MemoryConsumer::new("strict mode").register(pool);
    reservation.try_grow(bytes)?;
    if bytes < LEAST_ROWS * BYTES_PER_ROW {
        let message = "what is left is too little to put rows in order".to_owned();
        return Err(DataFusionError::ResourcesExhausted(message));
    }
    let runtime = RuntimeEnvBuilder::from_runtime_env(&context.runtime_env())
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes)))
        .build_arc()?;
    let mut config = context.session_config().clone();
    let rows = (bytes / BYTES_PER_ROW).clamp(LEAST_ROWS, config.batch_size().max(LEAST_ROWS));
    let execution = &mut config.options_mut().execution;
    execution.sort_spill_reservation_bytes = bytes / KEPT_TO_MERGE;
    execution.batch_size = ConfigNonZeroUsize::try_new(rows)?;
    let own = TaskContext::new(
        context.task_id(),
        context.session_id(),
        config,
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        runtime,
    );
    Ok((Arc::new(own), Some(reservation)))
}

/// `batches`, with what was reserved for them until the last was handed on.
fn holding(
    batches: SendableRecordBatchStream,
    reservation: Option<MemoryReservation>,
) -> SendableRecordBatchStream {
    let schema = batches.schema();
    let held = futures::stream::unfold((batches, reservation), async |(mut batches, held)| {
        let batch = batches.next().await?;
        Some((batch, (batches, held)))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, held))
}

/// Rows in batches of so many.
fn cut(batches: SendableRecordBatchStream, batch_rows: usize) -> SendableRecordBatchStream {
    let schema = batches.schema();
    let coalescer = BatchCoalescer::new(Arc::clone(&schema), batch_rows);
    let state = (batches, coalescer, false);
    let cut =
        futures::stream::try_unfold(state, async |(mut batches, mut coalescer, mut ended)| {
            loop {
                if let Some(batch) = coalescer.next_completed_batch() {
                    return Ok(Some((batch, (batches, coalescer, ended))));
                }
                if ended {
                    return Ok(None);
                }
                match batches.try_next().await? {
                    Some(batch) => coalescer.push_batch(batch)?,
                    None => {
                        ended = true;
                        coalescer.finish_buffered_batch()?;
                    }
                }
            }
        });
    Box::pin(RecordBatchStreamAdapter::new(schema, cut))
}

/// Rows without columns, cut anew. Every one passes before the first is handed on: no sort takes them in, since there is
/// nothing to sort them by, and who needs a few would stop where hidden rows have put the end of a batch.
fn counted(batches: SendableRecordBatchStream, batch_rows: usize) -> SendableRecordBatchStream {
    let schema = batches.schema();
    let of = Arc::clone(&schema);
    let rows = batches.try_fold(0, async |rows: usize, batch| Ok(rows + batch.num_rows()));
    let cut = futures::stream::once(rows).map_ok(move |rows| {
        let starts = (0..rows).step_by(batch_rows.max(1));
        let schema = Arc::clone(&of);
        futures::stream::iter(starts.map(move |start| {
            let rows = batch_rows.min(rows - start);
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options);
            Ok(batch?)
        }))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, cut.try_flatten()))
}
