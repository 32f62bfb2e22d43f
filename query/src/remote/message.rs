//! A plan on its way to a worker: sealed, to one worker, for one run, until the deadline of its query.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use serde::{Deserialize, Serialize};

use super::codec::{self, GateCodec};
use super::refused;
use super::seal::{Kind, PlanKey, random};
use super::task::AccessTask;
use crate::error::QueryError;

/// What a plan runs under.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// The name of the message.
    pub message: String,
    /// The worker that it is for ([`Worker::id`](super::Worker::id)).
    pub worker: String,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Threads that the plan was made for.
    pub partitions: usize,
    /// The access that it is of.
    pub access: AccessTask,
}

/// A sealed plan.
#[derive(Debug, Clone)]
pub struct Addressed {
    /// Its name, which the answer bears too.
    pub message: String,
    /// What is sent.
    pub bytes: Vec<u8>,
}

/// Seals a plan of an access, planned in `context`, for the worker of that name.
///
/// # Errors
/// [`QueryError::PlanNotSendable`] when the plan has no form for another process.
pub fn seal_plan(
    plan: &Arc<dyn ExecutionPlan>,
    context: &TaskContext,
    access: &Arc<AccessTask>,
    worker: &str,
    key: &PlanKey,
) -> Result<Addressed, QueryError> {
    let codec = GateCodec::sending(key.clone(), Arc::clone(access));
    let plan = codec::to_bytes(plan, &codec, context)?;
    let header = Header {
        message: hex::encode(random::<16>()?),
        worker: worker.to_owned(),
        batch_rows: context.session_config().batch_size(),
        partitions: context.session_config().target_partitions(),
        access: access.as_ref().clone(),
    };
    let what = "a description";
    let lost = QueryError::PlanNotSendable { what };
    let Ok(text) = serde_json::to_vec(&header) else {
        return Err(lost);
    };
    let length = u32::try_from(text.len()).map_err(|_| lost)?;
    let body = [length.to_be_bytes().as_slice(), &text, &plan].concat();
    Ok(Addressed {
        message: header.message,
        bytes: key.seal(Kind::Plan, &body),
    })
}

/// What a sealed plan says, and the plan.
pub(crate) fn open_plan<'b>(
    bytes: &'b [u8],
    key: &PlanKey,
) -> Result<(Header, &'b [u8]), QueryError> {
    let unreadable = || refused("it cannot be read");
    let body = key.open(Kind::Plan, bytes)?;
    let (length, rest) = body.split_first_chunk().ok_or_else(unreadable)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| unreadable())?;
    let (header, plan) = rest.split_at_checked(length).ok_or_else(unreadable)?;
    let header = serde_json::from_slice(header).map_err(|_| unreadable())?;
    Ok((header, plan))
}
