//! A gated plan as bytes, and back.
//!
//! Promise: what was written reads back as the same plan, or it is not written: [`to_bytes`] reads its own bytes and
//! compares. The engine's form of a plan does not hold everything (a window function's IGNORE NULLS or FILTER, for
//! example), and a plan that silently means something else is worse than none.
//!
//! Promise: nothing is built from bytes but the operators of [`check_operator`], expressions of the engine, functions of
//! the gate's list and gates whose description is sealed. A plan with a reader of files, a sink, or a leaf of any other
//! kind is refused before such an operator exists, and once more when the plan is put together.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr,
};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::from_proto::parse_physical_expr_with_converter;
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::physical_expr_node::ExprType;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{PhysicalExprNode, PhysicalPlanNode};
use qihui_catalog::DatasetId;

use super::gate::{GateResolver, RemoteGate, Resolved};
use super::refused;
use super::seal::{Kind, PlanKey};
use super::task::{AccessTask, GateTask, schema_from_bytes, schema_to_bytes};
use crate::bounds::meter::{MeterExec, OnceExec};
use crate::bounds::values::Values;
use crate::error::QueryError;
use crate::exec::{GateExec, Order, OrderedExec};

/// First byte of what stands for an operator of the gate's.
mod tag {
    pub(super) const GATE: u8 = b'G';
    pub(super) const IN_SEQUENCE: u8 = b'S';
    pub(super) const WHEN_ASKED: u8 = b'A';
    pub(super) const FORGOTTEN: u8 = b'F';
    pub(super) const METER: u8 = b'M';
    pub(super) const ONCE: u8 = b'O';
}

/// Writes and reads the operators and functions of gated plans that are not the engine's, for one access.
#[derive(Clone)]
pub struct GateCodec {
    key: PlanKey,
    access: Arc<AccessTask>,
    resolver: Arc<dyn GateResolver>,
    values: Values,
}

impl fmt::Debug for GateCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateCodec")
            .field("access", &self.access.access_id)
            .finish_non_exhaustive()
    }
}

/// Resolves nothing: who sends a plan does not run it.
#[derive(Debug)]
struct Elsewhere;

#[async_trait::async_trait]
impl GateResolver for Elsewhere {
    async fn resolve(&self, _: &AccessTask, _: &DatasetId) -> Result<Resolved, QueryError> {
        Err(refused("it is for another process"))
    }
}

impl GateCodec {
    /// For whoever sends plans of an access.
    #[must_use]
    pub fn sending(key: PlanKey, access: Arc<AccessTask>) -> Self {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        Self::receiving(key, access, Arc::new(Elsewhere), &pool)
    }

    /// For whoever runs plans of an access, and resolves its gates. Functions take their memory from `pool`.
    #[must_use]
    pub fn receiving(
        key: PlanKey,
        access: Arc<AccessTask>,
        resolver: Arc<dyn GateResolver>,
        pool: &Arc<dyn MemoryPool>,
    ) -> Self {
        Self {
            key,
            access,
            resolver,
            values: Values::new(pool),
        }
    }

    fn write_gate(&self, gate: &GateExec, to: &mut Vec<u8>) -> Result<(), QueryError> {
        let what = "a gate that scans nothing of its own";
        let scan = gate.scan().ok_or(QueryError::PlanNotSendable { what })?;
        let task = GateTask::of(&self.access, scan)?;
        let text = serde_json::to_vec(&task);
        let what = "a description";
        let text = text.map_err(|_| QueryError::PlanNotSendable { what })?;
        to.push(tag::GATE);
        to.extend(self.key.seal(Kind::Gate, &text));
        Ok(())
    }

    fn read_gate(&self, sealed: &[u8]) -> Result<GateExec, QueryError> {
        let text = self.key.open(Kind::Gate, sealed)?;
        let task: GateTask = serde_json::from_slice(text)
            .map_err(|_| refused("the description of a gate cannot be read"))?;
        if task.access != *self.access {
            return Err(refused("a gate of it is of another access"));
        }
        let gate = RemoteGate::new(task, Arc::clone(&self.resolver))?;
        Ok(GateExec::remote(Arc::new(gate)))
    }
}

fn write_ordered(ordered: &OrderedExec, to: &mut Vec<u8>) -> Result<(), QueryError> {
    match ordered.order() {
        Order::InSequence => {
            to.push(tag::IN_SEQUENCE);
            to.extend(schema_to_bytes(&ordered.schema())?);
        }
        Order::WhenAsked => to.push(tag::WHEN_ASKED),
        Order::Forgotten => to.push(tag::FORGOTTEN),
    }
    Ok(())
}

fn external(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl PhysicalExtensionCodec for GateCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let unknown = || external(refused("it holds an operator that no gated plan has"));
        let (tag, rest) = bytes.split_first().ok_or_else(unknown)?;
        let one = || match inputs {
            [input] if rest.is_empty() => Ok(Arc::clone(input)),
            _ => Err(unknown()),
        };
        Ok(match *tag {
            tag::GATE if inputs.is_empty() => Arc::new(self.read_gate(rest).map_err(external)?),
            tag::IN_SEQUENCE => {
                let schema = schema_from_bytes(rest).map_err(external)?;
                Arc::new(OrderedExec::in_sequence(schema, inputs.to_vec()))
            }
            tag::WHEN_ASKED => Arc::new(OrderedExec::when_asked(one()?)),
            tag::FORGOTTEN => Arc::new(OrderedExec::forgotten(one()?)),
            tag::METER => MeterExec::over(one()?),
            tag::ONCE => OnceExec::over(one()?),
            _ => return Err(unknown()),
        })
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        to: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let written = if let Some(gate) = node.downcast_ref::<GateExec>() {
            self.write_gate(gate, to)
        } else if let Some(ordered) = node.downcast_ref::<OrderedExec>() {
            write_ordered(ordered, to)
        } else if node.is::<MeterExec>() {
            to.push(tag::METER);
            Ok(())
        } else if node.is::<OnceExec>() {
            to.push(tag::ONCE);
            Ok(())
        } else {
            let what = "an operator";
            Err(QueryError::PlanNotSendable { what })
        };
        written.map_err(external)
    }

    fn try_encode_udf(&self, function: &ScalarUDF, to: &mut Vec<u8>) -> Result<()> {
        // Every other function is known by its name.
        to.extend(Values::written(function));
        Ok(())
    }

    fn try_decode_udf(&self, _: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        let unknown = || external(refused("it holds a function that no gated plan has"));
        self.values.read(bytes).ok_or_else(unknown)
    }
}

/// Lets through what a gated plan is made of, on the way in.
struct Guard;

impl PhysicalProtoConverterExtension for Guard {
    fn proto_to_execution_plan(
        &self,
        node: &PhysicalPlanNode,
        context: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        check_operator(node).map_err(external)?;
        node.try_into_physical_plan_with_context(context, self)
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        PhysicalPlanNode::try_from_physical_plan_with_converter(Arc::clone(plan), codec, self)
    }

    fn proto_to_physical_expr(
        &self,
        node: &PhysicalExprNode,
        schema: &arrow::datatypes::Schema,
        context: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        check_expression(node).map_err(external)?;
        parse_physical_expr_with_converter(node, schema, context, self)
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        serialize_physical_expr_with_converter(expr, codec, self)
    }
}

/// Whether a gated plan has operators of this kind. Exhaustive, so that what a new version of the engine adds has to be
/// looked at.
fn check_operator(node: &PhysicalPlanNode) -> Result<(), QueryError> {
    use PhysicalPlanType as Type;
    match &node.physical_plan_type {
        Some(
            Type::Projection(_)
            | Type::Filter(_)
            | Type::CoalesceBatches(_)
            | Type::Merge(_)
            | Type::Repartition(_)
            | Type::GlobalLimit(_)
            | Type::LocalLimit(_)
            | Type::Window(_)
            | Type::Aggregate(_)
            | Type::HashJoin(_)
            | Type::SortMergeJoin(_)
            | Type::CrossJoin(_)
            | Type::NestedLoopJoin(_)
            | Type::Union(_)
            | Type::Interleave(_)
            | Type::Sort(_)
            | Type::SortPreservingMerge(_)
            | Type::ScalarSubquery(_)
            | Type::Cooperative(_)
            | Type::Empty(_)
            | Type::PlaceholderRow(_)
            | Type::MemoryScan(_)
            | Type::Extension(_),
        ) => Ok(()),
        Some(
            Type::ParquetScan(_)
            | Type::CsvScan(_)
            | Type::JsonScan(_)
            | Type::AvroScan(_)
            | Type::ArrowScan(_),
        ) => Err(refused("it reads files without a gate")),
        Some(
            Type::JsonSink(_)
            | Type::CsvSink(_)
            | Type::ParquetSink(_)
            | Type::Explain(_)
            | Type::Analyze(_)
            | Type::Unnest(_)
            | Type::GenerateSeries(_)
            | Type::SymmetricHashJoin(_)
            | Type::AsyncFunc(_)
            | Type::Buffer(_),
        )
        | None => Err(refused("it holds an operator that no gated plan has")),
    }
}

fn check_expression(node: &PhysicalExprNode) -> Result<(), QueryError> {
    match &node.expr_type {
        Some(
            ExprType::HigherOrderUdf(_)
            | ExprType::Lambda(_)
            | ExprType::LambdaVariable(_)
            | ExprType::Extension(_),
        )
        | None => Err(refused("it holds an expression that no gated plan has")),
        Some(_) => Ok(()),
    }
}

/// A plan as bytes.
///
/// # Errors
/// [`QueryError::PlanNotSendable`] when the engine's form does not hold all of it.
pub fn to_bytes(
    plan: &Arc<dyn ExecutionPlan>,
    codec: &GateCodec,
    context: &TaskContext,
) -> Result<Vec<u8>, QueryError> {
    let lost = |what| QueryError::PlanNotSendable { what };
    let plan = in_normal_form(plan).map_err(|_| lost("a union"))?;
    let bytes = physical_plan_to_bytes_with_proto_converter(Arc::clone(&plan), codec, &Guard)
        .map_err(|_| lost("an operator or an expression"))?;
    let read = from_bytes(&bytes, codec, context).map_err(|_| lost("a part"))?;
    if drawn(&read) != drawn(&plan) {
        return Err(lost("a detail of an operator"));
    }
    Ok(bytes.into())
}

/// The plan with its unions made anew: they bring their inputs to one schema, as they do when they are read.
fn in_normal_form(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let made = Arc::clone(plan).transform_up(|node| {
        let inputs = || node.children().into_iter().cloned().collect();
        Ok(if node.is::<UnionExec>() {
            Transformed::yes(UnionExec::try_new(inputs())?)
        } else if node.is::<InterleaveExec>() {
            Transformed::yes(Arc::new(InterleaveExec::try_new(inputs())?) as _)
        } else {
            Transformed::no(node)
        })
    });
    made.map(|made| made.data)
}

/// The plan in `bytes`. `context` knows the functions of gated queries, and no others.
///
/// # Errors
/// [`QueryError::PlanRefused`].
pub fn from_bytes(
    bytes: &[u8],
    codec: &GateCodec,
    context: &TaskContext,
) -> Result<Arc<dyn ExecutionPlan>, QueryError> {
    let read = physical_plan_from_bytes_with_proto_converter(bytes, context, codec, &Guard);
    let plan = read.map_err(|error| match QueryError::from_running(&error) {
        refused @ QueryError::PlanRefused { .. } => refused,
        _ => refused("it cannot be read"),
    })?;
    check_leaves(&plan)?;
    Ok(plan)
}

/// A plan holds gates that are resolved here, and constants.
fn check_leaves(plan: &Arc<dyn ExecutionPlan>) -> Result<(), QueryError> {
    let mut bare = false;
    let walked = plan.apply(|node| {
        let gate = node.downcast_ref::<GateExec>();
        bare = node.children().is_empty()
            && !gate.is_some_and(GateExec::is_remote)
            && !node.is::<EmptyExec>()
            && !node.is::<PlaceholderRowExec>()
            && !is_values(node);
        Ok(match bare {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    });
    match walked {
        Ok(_) if !bare => Ok(()),
        _ => Err(refused("it reads something without a gate")),
    }
}

/// Rows that the statement itself holds.
fn is_values(node: &Arc<dyn ExecutionPlan>) -> bool {
    let source = node.downcast_ref::<DataSourceExec>();
    source.is_some_and(|source| source.data_source().is::<MemorySourceConfig>())
}

/// A plan in words, with all that its operators say of themselves.
fn drawn(plan: &Arc<dyn ExecutionPlan>) -> String {
    let mut text = displayable(plan.as_ref()).indent(true).to_string();
    // What the engine draws of a window function leaves out how it treats nulls, and which rows it takes.
    let _ = plan.apply(|node| {
        let plain = node.downcast_ref::<WindowAggExec>();
        let bounded = node.downcast_ref::<BoundedWindowAggExec>();
        let functions = plain
            .map(WindowAggExec::window_expr)
            .or_else(|| bounded.map(BoundedWindowAggExec::window_expr));
        for function in functions.into_iter().flatten() {
            text.push_str(&function_drawn(function));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    text
}

/// A window function in words. Of an aggregate, without the schema that it was planned in, of which it keeps a copy.
fn function_drawn(function: &Arc<dyn WindowExpr>) -> String {
    let text = format!("{function:?}\n");
    let any = function.as_any();
    let plain = any.downcast_ref::<PlainAggregateWindowExpr>();
    let sliding = any.downcast_ref::<SlidingAggregateWindowExpr>();
    let aggregate = plain
        .map(PlainAggregateWindowExpr::get_aggregate_expr)
        .or_else(|| sliding.map(SlidingAggregateWindowExpr::get_aggregate_expr));
    let Some(aggregate) = aggregate else {
        return text;
    };
    let told = format!(
        "{:?} {:?} {:?} {} {} {}",
        aggregate.fun(),
        aggregate.expressions(),
        aggregate.order_bys(),
        aggregate.is_distinct(),
        aggregate.ignore_nulls(),
        aggregate.is_reversed(),
    );
    text.replace(&format!("{aggregate:?}"), &told)
}
