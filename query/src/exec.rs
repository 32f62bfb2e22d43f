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
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use arrow::array::AsArray;
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{Int32Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Statistics};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, replace_children_if_necessary,
};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties, StatisticsArgs,
};
use futures::{Stream, StreamExt, TryStreamExt};
use qihui_catalog::DatasetId;
use roaring::RoaringBitmap;

use crate::account::Account;
use crate::error::QueryError;
use crate::mutations::{Mutation, mutated};
use crate::reader::{Dealt, Readers, Share};
use crate::remote::RemoteGate;
use crate::rows::{self, RowGate};
use crate::strict;

/// Rows of the largest batches that readers hand over: what the engine has for its default.
const READER_ROWS: usize = 8192;

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
    pub rows: Arc<RowGate>,
    /// Where passed rows are counted.
    pub account: Arc<Account>,
    /// Asked before each batch.
    pub permit: Arc<dyn Permit>,
    /// Reads the inside ranges: the output columns only.
    pub inside: Vec<InsideScan>,
    /// Reads the edge ranges: also the number, dates and flags.
    pub edge: Option<Arc<dyn ExecutionPlan>>,
    /// The columns of the edge ranges.
    pub edge_columns: Vec<usize>,
    /// Opens files again, when what was inside has become an edge.
    pub readers: Readers,
    /// See [`about_rows`](crate::provider::about_rows).
    pub about_rows: Option<usize>,
    /// What the scan was asked for, to ask another process for the same.
    pub asked: Asked,
}

/// What a scan was asked for.
#[derive(Debug)]
pub struct Asked {
    /// The comparisons that it applies itself.
    pub conjuncts: Vec<Expr>,
    /// Whether rows come in one order, in one partition.
    pub strict: bool,
    /// Least length of a run of rows that is passed without a look at each.
    pub min_inside_rows: usize,
    /// What each partition takes.
    pub dealt: Dealt,
}

/// A reader of inside ranges.
#[derive(Debug)]
pub struct InsideScan {
    /// The reader, one partition per partition of the gate. Behind the columns it delivers a row's position in `shares`.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Whether it reads its files whole.
    pub whole_files: bool,
    /// What it reads.
    pub shares: Vec<InsideShare>,
}

/// A share of an inside reader.
#[derive(Debug)]
pub struct InsideShare {
    share: Share,
    /// The enterprises with rows in it, and perhaps others of its file.
    enterprises: Arc<RoaringBitmap>,
    /// Whether its rows are to be looked at one by one after all.
    again: AtomicBool,
}

impl InsideShare {
    /// A share that holds no rows but those of `enterprises`.
    pub fn new(share: Share, enterprises: Arc<RoaringBitmap>) -> Self {
        Self {
            share,
            enterprises,
            again: AtomicBool::new(false),
        }
    }
}

/// The gate as an operator. See the module's text.
pub struct GateExec {
    body: Body,
    about_rows: Option<usize>,
    properties: Arc<PlanProperties>,
}

/// What stands inside a gate.
enum Body {
    /// Rows as the files deliver them.
    Scan(Arc<GateScan>),
    /// A gate and what orders its rows, in one partition (strict mode): an optimizer that saw the sort would find
    /// that nobody asked for it, and drop it. The buffers of its batches hold what the rows show, in their order. With
    /// the gate's scan, if it is a gate's.
    Ordered(Arc<dyn ExecutionPlan>, Option<Arc<GateScan>>),
    /// A gate that another process described. It is resolved when it is first executed.
    Remote(Arc<RemoteGate>),
}

impl GateExec {
    /// An operator with `partitions` partitions over `scan`.
    pub fn new(scan: Arc<GateScan>, partitions: usize) -> Self {
        let schema = Arc::clone(&scan.rows.schema);
        Self {
            about_rows: scan.about_rows,
            body: Body::Scan(scan),
            properties: properties(schema, partitions, EmissionType::Incremental),
        }
    }

    /// An operator that delivers the rows of `ordered`, which has one partition, as they come.
    pub fn ordered(ordered: Arc<dyn ExecutionPlan>, about_rows: Option<usize>) -> Self {
        let schema = ordered.schema();
        Self {
            about_rows,
            body: Body::Ordered(ordered, None),
            properties: properties(schema, 1, EmissionType::Final),
        }
    }

    /// The same, knowing what is scanned: such an operator can be sent to another process.
    #[must_use]
    pub fn of(self, scan: Arc<GateScan>) -> Self {
        match self.body {
            Body::Ordered(ordered, _) => Self {
                body: Body::Ordered(ordered, Some(scan)),
                ..self
            },
            _ => self,
        }
    }

    /// A gate that another process described.
    pub(crate) fn remote(gate: Arc<RemoteGate>) -> Self {
        let task = &gate.task().scan;
        let emission = match task.strict {
            true => EmissionType::Final,
            false => EmissionType::Incremental,
        };
        Self {
            about_rows: None,
            properties: properties(gate.schema(), task.partitions.len(), emission),
            body: Body::Remote(gate),
        }
    }

    /// What it scans; none when that is for another process to say.
    pub(crate) fn scan(&self) -> Option<&Arc<GateScan>> {
        match &self.body {
            Body::Scan(scan) => Some(scan),
            Body::Ordered(_, scan) => scan.as_ref(),
            Body::Remote(_) => None,
        }
    }

    /// Whether another process described it.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.body, Body::Remote(_))
    }
}

/// The properties of an operator that promises nothing about its rows.
fn properties(schema: SchemaRef, partitions: usize, emission: EmissionType) -> Arc<PlanProperties> {
    let last = schema.fields().iter().enumerate().next_back();
    let last = last.filter(|_| mutated(Mutation::OrderPromised));
    let last = last.map(|(at, field)| Arc::new(Column::new(field.name(), at)));
    let known = match last {
        Some(last) => {
            let promised = [[PhysicalSortExpr::new_default(last)]];
            EquivalenceProperties::new_with_orderings(schema, promised)
        }
        None => EquivalenceProperties::new(schema),
    };
    Arc::new(PlanProperties::new(
        known,
        Partitioning::UnknownPartitioning(partitions),
        emission,
        Boundedness::Bounded,
    ))
}

impl fmt::Debug for GateExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as(DisplayFormatType::Default, f)
    }
}

impl DisplayAs for GateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.body {
            Body::Scan(scan) => write!(f, "GateExec: dataset={}", scan.dataset),
            Body::Ordered(..) => f.write_str("GateExec: ordered"),
            Body::Remote(gate) if gate.task().scan.strict => f.write_str("GateExec: ordered"),
            Body::Remote(gate) => write!(f, "GateExec: dataset={}", gate.task().scan.dataset),
        }
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
        if children.is_empty() {
            Ok(self)
        } else {
            Err(DataFusionError::Internal(
                "the gate takes no children".into(),
            ))
        }
    }

    /// Nothing but a rough number of rows, from which the engine chooses the side of a join that it keeps in memory: see
    /// [`about_rows`](crate::provider::about_rows).
    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        arguments: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        if let (Some(rows), None) = (self.about_rows, arguments.partition()) {
            statistics.num_rows = match mutated(Mutation::CountFromFiles) {
                true => Precision::Exact(rows),
                false => Precision::Inexact(rows),
            };
        }
        Ok(Arc::new(statistics))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let scan = match &self.body {
            Body::Scan(scan) => scan,
            Body::Ordered(ordered, _) => return strict::batches(ordered, partition, &context),
            Body::Remote(gate) => return Ok(gate.execute(partition, context)),
        };
        let inner = scan.readers.context();
        let mut inputs = VecDeque::new();
        for (index, inside) in scan.inside.iter().enumerate() {
            inputs.push_back(Input::Inside {
                scan: index,
                stream: inside.plan.execute(partition, Arc::clone(inner))?,
            });
        }
        if let Some(edge) = &scan.edge {
            inputs.push_back(Input::Edge(edge.execute(partition, Arc::clone(inner))?));
        }
        let batch_rows = context.session_config().batch_size();
        Ok(Box::pin(GateStream {
            scan: Arc::clone(scan),
            rows: Arc::clone(&scan.rows),
            drops: 0,
            dropped: RoaringBitmap::new(),
            known: 0,
            recorded: None,
            inputs,
            coalescer: BatchCoalescer::new(Arc::clone(&scan.rows.schema), batch_rows)
                // Where a statement needs small batches, large ones are cut.
                .with_biggest_coalesce_batch_size(
                    (batch_rows >= READER_ROWS).then_some(batch_rows / 4),
                ),
            small: batch_rows < READER_ROWS,
            finished: false,
        }))
    }
}

/// An operator of this module above the gate: how it treats its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// All partitions of all inputs, one after another, in one partition: in strict mode the rows of a union may not
    /// arrive as threads please.
    InSequence,
    /// The one input as it is, but started only when its first row is asked for. A join never asks its second side
    /// when the first is empty; the engine starts some operators before they are asked, and whether these were quick
    /// enough to draw rows through the gate would be a race, seen in what the access touched.
    WhenAsked,
    /// The one input as it is, of which nothing is known: neither constants nor an order.
    Forgotten,
}

/// See [`Order`].
#[derive(Debug)]
pub struct OrderedExec {
    order: Order,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl OrderedExec {
    /// `inputs`, which have the given schema, in sequence.
    pub(crate) fn in_sequence(schema: SchemaRef, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Self {
        Self {
            order: Order::InSequence,
            inputs,
            properties: properties(schema, 1, EmissionType::Incremental),
        }
    }

    /// `input`, of which nothing is known.
    pub(crate) fn forgotten(input: Arc<dyn ExecutionPlan>) -> Self {
        let of = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            of.output_partitioning().clone(),
            of.emission_type,
            of.boundedness,
        );
        Self {
            order: Order::Forgotten,
            properties: Arc::new(properties),
            inputs: vec![input],
        }
    }

    /// `input`, started when it is first asked.
    pub(crate) fn when_asked(input: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            order: Order::WhenAsked,
            properties: Arc::clone(input.properties()),
            inputs: vec![input],
        }
    }
}

impl OrderedExec {
    pub(crate) fn order(&self) -> Order {
        self.order
    }
}

impl DisplayAs for OrderedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "OrderedExec: {:?}", self.order)
    }
}

impl ExecutionPlan for OrderedExec {
    fn name(&self) -> &'static str {
        "OrderedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![self.order == Order::WhenAsked; self.inputs.len()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
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
        Ok(Arc::new(match (self.order, children.first()) {
            (Order::Forgotten, Some(input)) => Self::forgotten(Arc::clone(input)),
            _ => Self {
                order: self.order,
                inputs: children,
                properties: Arc::clone(&self.properties),
            },
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let parts: Vec<(Arc<dyn ExecutionPlan>, usize)> = match self.order {
            Order::InSequence => self
                .inputs
                .iter()
                .flat_map(|input| {
                    let partitions = input.properties().output_partitioning().partition_count();
                    (0..partitions).map(|partition| (Arc::clone(input), partition))
                })
                .collect(),
            Order::WhenAsked | Order::Forgotten => self
                .inputs
                .iter()
                .map(|input| (Arc::clone(input), partition))
                .collect(),
        };
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

/// The rule that lets nothing be known of the sides of outer joins that nulls may stand for, of grouping sets, which leave
/// keys out, nor of the branches of a union.
///
/// The engine keeps what is constant there (a literal in a subquery, a column that a filter pins) for constant above, where
/// nulls or other values stand beside it, and drops it from the keys of a sort or a grouping: with a LIMIT, rows are missing
/// that should be there, and which ones depends on how the query was planned.
#[derive(Debug)]
pub struct FalseConstants;

impl PhysicalOptimizerRule for FalseConstants {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let outer = join_type(&node).filter(|_| !mutated(Mutation::OuterJoinsTrusted));
            let forgotten = match outer {
                Some(JoinType::Left) => vec![false, true],
                Some(JoinType::Right) => vec![true, false],
                Some(JoinType::Full) => vec![true, true],
                None if node.is::<UnionExec>() => {
                    vec![!mutated(Mutation::UnionsTrusted); node.children().len()]
                }
                None if groups_by_sets(&node) && !mutated(Mutation::GroupingSetsTrusted) => {
                    return Ok(Transformed::yes(Arc::new(OrderedExec::forgotten(node))));
                }
                _ => return Ok(Transformed::no(node)),
            };
            let sides = node
                .children()
                .into_iter()
                .zip(forgotten)
                .map(|(side, forget)| match forget {
                    true => Arc::new(OrderedExec::forgotten(Arc::clone(side))) as _,
                    false => Arc::clone(side),
                })
                .collect();
            replace_children_if_necessary(node, sides).map(Transformed::yes)
        })
        .map(|done| done.data)
    }

    fn name(&self) -> &'static str {
        "false_constants"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether a node groups by several sets of keys.
fn groups_by_sets(node: &Arc<dyn ExecutionPlan>) -> bool {
    let aggregate = node.downcast_ref::<AggregateExec>();
    aggregate.is_some_and(|aggregate| aggregate.group_expr().has_grouping_set())
}

fn join_type(node: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    let of_hash = node.downcast_ref::<HashJoinExec>();
    let of_loop = node.downcast_ref::<NestedLoopJoinExec>();
    let of_merge = node.downcast_ref::<SortMergeJoinExec>();
    of_hash
        .map(|join| *join.join_type())
        .or_else(|| of_loop.map(|join| *join.join_type()))
        .or_else(|| of_merge.map(SortMergeJoinExec::join_type))
}

/// Makes one partition of several, wherever a plan does, in sequence and not as threads please.
///
/// What stands between a union and that place works on each part by itself, as with the columns that are constant in
/// one part and not in all: they are no keys there of a sort that keeps its first rows, and are ones above.
///
/// # Errors
/// When the plan cannot be rebuilt.
pub fn in_sequence(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|node| {
        if node.is::<InterleaveExec>() || (is_union(&node) && mutated(Mutation::UnionsTrusted)) {
            let inputs = node.children().into_iter().cloned().collect();
            return Ok(Transformed::yes(sequence(node.schema(), inputs)));
        }
        match node.children()[..] {
            [input] if partitions(input) > 1 => joined(&node, input),
            _ => Ok(Transformed::no(node)),
        }
    })?;
    let plan = plan.data;
    Ok(match partitions(&plan) {
        0 | 1 => plan,
        _ => sequence(plan.schema(), vec![plan]),
    })
}

/// What takes the place of an operator that makes one partition of those of `input`; others stay.
fn joined(
    node: &Arc<dyn ExecutionPlan>,
    input: &Arc<dyn ExecutionPlan>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let in_sequence = || sequence(input.schema(), vec![Arc::clone(input)]);
    let sorted = |order: LexOrdering| SortExec::new(order, in_sequence());
    if node.is::<CoalescePartitionsExec>() {
        return Ok(Transformed::yes(match node.fetch() {
            Some(rows) => Arc::new(GlobalLimitExec::new(in_sequence(), 0, Some(rows))),
            None => in_sequence(),
        }));
    }
    if let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() {
        let sort = sorted(merge.expr().clone()).with_fetch(merge.fetch());
        return Ok(Transformed::yes(Arc::new(sort)));
    }
    if !node.is::<RepartitionExec>() {
        return Ok(Transformed::no(Arc::clone(node)));
    }
    let order = node.properties().output_ordering().cloned();
    let input = order.map_or_else(in_sequence, |order| Arc::new(sorted(order)));
    match partitions(node) {
        1 => Ok(Transformed::yes(input)),
        _ => replace_children_if_necessary(Arc::clone(node), vec![input]).map(Transformed::yes),
    }
}

fn sequence(schema: SchemaRef, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Arc<dyn ExecutionPlan> {
    Arc::new(OrderedExec::in_sequence(schema, inputs))
}

fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.properties().output_partitioning().partition_count()
}

/// Lets each side of the joins of a plan start when it is asked.
///
/// # Errors
/// When the plan cannot be rebuilt.
pub fn when_asked(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        if node.children().len() < 2 || is_union(&node) || node.is::<OrderedExec>() {
            return Ok(Transformed::no(node));
        }
        let sides = node
            .children()
            .into_iter()
            .map(|side| Arc::new(OrderedExec::when_asked(Arc::clone(side))) as _)
            .collect();
        replace_children_if_necessary(node, sides).map(Transformed::yes)
    })
    .map(|done| done.data)
}

/// Whether an operator of a plan may stop before its input has ended, with no sort or grouping in between that takes
/// in everything first. How much passes the gate until then is a matter of batches and threads.
pub fn stops_early(plan: &Arc<dyn ExecutionPlan>) -> bool {
    fn search(node: &Arc<dyn ExecutionPlan>, stopped: bool) -> bool {
        let takes_all = match node.downcast_ref::<AggregateExec>() {
            Some(grouping) => grouping.input_order_mode() == &InputOrderMode::Linear,
            None => node.is::<SortExec>(),
        };
        let limits = node.is::<GlobalLimitExec>() || node.is::<LocalLimitExec>();
        let limits = limits || (node.fetch().is_some() && !node.is::<SortExec>());
        let stopped = limits || (stopped && !takes_all);
        match node.downcast_ref::<GateExec>() {
            Some(gate) => stopped && matches!(gate.body, Body::Scan(_)),
            None => node
                .children()
                .into_iter()
                .any(|child| search(child, stopped)),
        }
    }
    search(plan, false)
}

fn is_union(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<UnionExec>() || node.is::<InterleaveExec>()
}

/// Where batches come from.
enum Input {
    /// Rows that pass unseen, of one of the inside scans.
    Inside {
        scan: usize,
        stream: SendableRecordBatchStream,
    },
    /// Rows to look at.
    Edge(SendableRecordBatchStream),
    /// A share of an inside scan whose rows are to be looked at, since some of its enterprises were dropped.
    Again { scan: usize, share: usize },
}

/// The stream of one partition: inside ranges first, then edges.
struct GateStream {
    scan: Arc<GateScan>,
    /// Decides about rows: the scan's, without the enterprises that were dropped.
    rows: Arc<RowGate>,
    /// [`Account::drops`] when it was last looked at.
    drops: u64,
    /// The enterprises that `rows` leaves out, and how many of those that were dropped these are.
    dropped: RoaringBitmap,
    known: usize,
    /// The share whose enterprises were recorded last, by its scan and position.
    recorded: Option<(usize, usize)>,
    inputs: VecDeque<Input>,
    coalescer: BatchCoalescer,
    /// Whether batches are cut that otherwise keep each the whole text that they were cut of.
    small: bool,
    finished: bool,
}

/// A batch that was judged.
struct Judged {
    batch: RecordBatch,
    touched: RoaringBitmap,
    /// How many rows of which enterprise, where that is known.
    counts: Option<Vec<(u32, usize)>>,
    /// Cells withheld, per delivered column.
    withheld: Vec<u64>,
}

impl GateStream {
    /// Takes a batch of the inside scan `inside`, or of an edge scan, through the gate into the coalescer.
    fn admit(&mut self, inside: Option<usize>, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let scan = Arc::clone(&self.scan);
        loop {
            if !mutated(Mutation::PermitSkipped) {
                scan.permit.check().map_err(external)?;
            }
            self.leave_out_dropped();
            let share = inside
                .map(|index| share_of(&scan, index, batch))
                .transpose()?;
            let judged = match share {
                // Whose first batch was recorded cannot be dropped any more.
                Some((at, share))
                    if self.recorded == Some(at)
                        || share.enterprises.is_disjoint(&self.dropped) =>
                {
                    self.pass(at, share, batch)?
                }
                Some((at, share)) => {
                    if !share.again.swap(true, Ordering::Relaxed) {
                        let (scan, share) = at;
                        self.inputs.push_back(Input::Again { scan, share });
                    }
                    return Ok(());
                }
                None => {
                    let checked = self.rows.check(batch)?;
                    Judged {
                        batch: checked.batch,
                        touched: checked.touched,
                        counts: Some(checked.counts),
                        withheld: checked.withheld,
                    }
                }
            };
            let names = scan.rows.schema.fields().iter();
            let names = names.map(|field| field.name().clone());
            let recorded = scan.account.record(
                &scan.dataset,
                self.known,
                match mutated(Mutation::RowsUnpassed) {
                    true => batch.num_rows() as u64,
                    false => judged.batch.num_rows() as u64,
                },
                &judged.touched,
                names.zip(judged.withheld),
            );
            if recorded.map_err(external)? {
                scan.account.count(judged.counts.as_deref());
                self.recorded = share.map(|(at, _)| at);
                if judged.batch.num_rows() > 0 {
                    self.coalescer.push_batch(judged.batch)?;
                }
                return Ok(());
            }
        }
    }

    /// What was inside, passed. Its enterprises are recorded with its first batch.
    fn pass(&self, at: (usize, usize), share: &InsideShare, batch: &RecordBatch) -> Result<Judged> {
        let whole = self
            .scan
            .inside
            .get(at.0)
            .is_some_and(|inside| inside.whole_files);
        let touched = if self.recorded == Some(at) || mutated(Mutation::TouchedForgotten) {
            RoaringBitmap::new()
        } else {
            share.enterprises.as_ref().clone()
        };
        Ok(Judged {
            batch: self.rows.pass(batch, whole)?,
            touched,
            counts: None,
            withheld: Vec::new(),
        })
    }

    /// Takes note of what was dropped since the last batch.
    fn leave_out_dropped(&mut self) {
        let drops = self.scan.account.drops();
        if drops == self.drops {
            return;
        }
        let (account, dataset) = (&self.scan.account, &self.scan.dataset);
        let fresh = account.dropped_since(dataset, self.known);
        self.known += fresh.len();
        if !fresh.is_empty() {
            // The first time, the stream gets a copy of its own; from then on a drop costs what it takes to clear a bit.
            if !mutated(Mutation::DroppedPass) {
                Arc::make_mut(&mut self.rows).leave_out(&fresh);
                self.dropped.extend(fresh);
            }
        }
        self.drops = match mutated(Mutation::DropsCountedLate) {
            true => account.drops(),
            false => drops,
        };
    }
}

/// The share that a batch of an inside scan is of, and where it stands.
fn share_of<'s>(
    scan: &'s GateScan,
    index: usize,
    batch: &RecordBatch,
) -> Result<((usize, usize), &'s InsideShare)> {
    let unknown = || DataFusionError::Internal("a batch of no share".into());
    let shares = batch.columns().last().ok_or_else(unknown)?;
    let shares = shares.as_primitive_opt::<Int32Type>().ok_or_else(unknown)?;
    let position = shares.values().first().copied().ok_or_else(unknown)?;
    let position = usize::try_from(position).map_err(|_| unknown())?;
    let inside = scan.inside.get(index).ok_or_else(unknown)?;
    let share = inside.shares.get(position).ok_or_else(unknown)?;
    Ok(((index, position), share))
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
                let batch = match this.small {
                    true => rows::compacted(&batch),
                    false => Ok(batch),
                };
                return Poll::Ready(Some(Ok(batch?)));
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
            let (inside, stream) = match input {
                Input::Inside { scan, stream } => (Some(*scan), stream),
                Input::Edge(stream) => (None, stream),
                Input::Again { scan, share } => {
                    match this.scan.again(*scan, *share) {
                        Ok(stream) => *input = Input::Edge(stream),
                        Err(error) => return this.fail(error),
                    }
                    continue;
                }
            };
            match futures::ready!(stream.poll_next_unpin(cx)) {
                None => {
                    this.inputs.pop_front();
                }
                Some(batch) => {
                    if batch.is_err() {
                        // The engine's words may quote values.
                        let version = this.scan.readers.table().version;
                        tracing::error!(dataset = %this.scan.dataset, version, "rows of a table cannot be read");
                    }
                    let admitted = batch.and_then(|batch| this.admit(inside, &batch));
                    if let Err(error) = admitted {
                        return this.fail(error);
                    }
                }
            }
        }
    }
}

impl GateStream {
    fn fail(&mut self, error: DataFusionError) -> Poll<Option<Result<RecordBatch>>> {
        self.inputs.clear();
        self.finished = true;
        Poll::Ready(Some(Err(error)))
    }
}

impl GateScan {
    /// The rows of a share of an inside scan, to look at.
    fn again(&self, scan: usize, share: usize) -> Result<SendableRecordBatchStream> {
        let inside = self.inside.get(scan);
        let share = inside.and_then(|inside| inside.shares.get(share));
        let share = share.ok_or_else(|| DataFusionError::Internal("no such share".into()))?;
        let reader = self.readers.again(&share.share, &self.edge_columns)?;
        reader.execute(0, Arc::clone(self.readers.context()))
    }
}

impl RecordBatchStream for GateStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.scan.rows.schema)
    }
}
