//! [`StatisticsExec`]: the operator that lets figures about groups through, and nothing else.
//!
//! It is a leaf: the plan below it, which reads rows of enterprises that were not asked, stands inside it, out of reach
//! of every optimizer rule. Below, each enterprise's contributions are summed up; here groups are formed of them, the
//! [rules](super::rules) decide, what is told is recorded durably ([`Register`]), and only then does anything leave.
//!
//! Architecture Invariant: nothing but released groups leaves this operator, and no error of it depends on what a
//! group that is withheld holds.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use async_trait::async_trait;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, execute_stream,
};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use qihui_catalog::Uscc;
use qihui_consent::ledger::Statistic;
use roaring::RoaringBitmap;
use serde::Serialize;
use tokio::sync::OwnedMutexGuard;

use super::rules::{self, Counts, Enterprises, Measure, Terms, Withheld};
use super::statement::Figure;
use crate::error::QueryError;

/// The most groups of one question.
pub const MAX_GROUPS: usize = 100_000;

/// What was released before, and the record of what is about to be.
#[async_trait]
pub trait Register: Send + Sync + fmt::Debug {
    /// What was released of the edition. Nobody else records anything until the guard is dropped.
    ///
    /// # Errors
    /// The ledger cannot be read, or the edition's questions are used up.
    async fn begin(
        &self,
        question: [u8; 32],
    ) -> Result<(OwnedMutexGuard<()>, Vec<Statistic>), QueryError>;

    /// Makes the record durable.
    ///
    /// # Errors
    /// The ledger cannot be written; then nothing may be released.
    async fn record(&self, statistic: Statistic) -> Result<[u8; 32], QueryError>;

    /// The numbers of enterprises.
    ///
    /// # Errors
    /// The register cannot be read, or does not know one of them.
    fn numbers(&self, codes: &[Uscc]) -> Result<Vec<u32>, QueryError>;
}

/// What a question came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Groups told and withheld.
    #[serde(flatten)]
    pub groups: Counts,
    /// Hash of the record of the groups, hexadecimal; none: they were all recorded before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<String>,
}

/// What the operator has to know.
pub struct Asked {
    /// Each enterprise's contributions: its code in the public dataset, whether it is asked about, the keys, its code
    /// in the dataset of figures, its rows; then per column the sum and the number of its values.
    pub contributions: Arc<dyn ExecutionPlan>,
    /// What to run that in.
    pub context: Arc<TaskContext>,
    /// How many keys there are.
    pub keys: usize,
    /// What is told of each group, behind the keys.
    pub figures: Vec<Figure>,
    /// The columns that there are contributions of.
    pub columns: Vec<String>,
    /// SHA-256 of the question.
    pub question: [u8; 32],
    /// The rules.
    pub terms: Terms,
    /// The schema of what leaves.
    pub schema: SchemaRef,
    /// What was released.
    pub register: Arc<dyn Register>,
    /// Told once it is known.
    pub outcome: Arc<Mutex<Option<Outcome>>>,
}

/// See the module's text.
pub struct StatisticsExec {
    asked: Arc<Asked>,
    properties: Arc<PlanProperties>,
}

impl StatisticsExec {
    /// The operator for a question.
    #[must_use]
    pub fn new(asked: Arc<Asked>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&asked.schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            asked,
            properties: Arc::new(properties),
        }
    }
}

impl fmt::Debug for StatisticsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatisticsExec")
    }
}

impl DisplayAs for StatisticsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("StatisticsExec")
    }
}

impl ExecutionPlan for StatisticsExec {
    fn name(&self) -> &'static str {
        "StatisticsExec"
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
            Err(defect("a statistic takes no children"))
        }
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let asked = Arc::clone(&self.asked);
        let schema = Arc::clone(&asked.schema);
        let size = context.session_config().batch_size();
        let told = async move {
            let batch = asked.answer().await?;
            let slices = (0..batch.num_rows())
                .step_by(size.max(1))
                .map(|from| Ok(batch.slice(from, size.min(batch.num_rows() - from))))
                .collect::<Vec<_>>();
            Ok::<_, DataFusionError>(futures::stream::iter(slices))
        };
        let stream = futures::stream::once(told).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

fn defect(what: &str) -> DataFusionError {
    DataFusionError::Internal(what.to_owned())
}

fn external(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// What the enterprises contribute, and the groups they are in.
struct Gathered {
    enterprises: Enterprises,
    /// Per column, the sum of each enterprise.
    sums: Vec<Vec<i128>>,
    /// Per column, the number of values of each enterprise.
    values: Vec<Vec<i128>>,
    /// The keys of each group, in their order; none without GROUP BY.
    keys: Vec<Option<OwnedRow>>,
    converter: RowConverter,
    _memory: MemoryReservation,
}

impl Asked {
    /// The groups that are told, once that is recorded.
    async fn answer(&self) -> Result<RecordBatch> {
        let gathered = self.gather().await?;
        let register = Arc::clone(&self.register);
        let (_turn, told) = register.begin(self.question).await.map_err(external)?;
        let verdicts = self.decide(&gathered, &told);
        let statistic = Statistic {
            question: self.question,
            measures: self.measures(),
            groups: released_groups(&gathered, &verdicts),
        };
        let recorded = if told.contains(&statistic) {
            None
        } else {
            let hash = register.record(statistic).await.map_err(external)?;
            Some(hex::encode(hash))
        };
        *self.outcome.lock() = Some(Outcome {
            groups: Counts::of(&verdicts),
            recorded,
        });
        self.told(&gathered, &verdicts)
    }

    /// What is told of each group, by name, each once: what the record says.
    fn measures(&self) -> Vec<String> {
        let mut names: Vec<String> = self.figures.iter().flat_map(measures_of).collect();
        names.sort();
        names.dedup();
        names
    }

    fn decide(&self, gathered: &Gathered, told: &[Statistic]) -> Vec<Option<Withheld>> {
        let all: Vec<&RoaringBitmap> = told.iter().flat_map(|one| &one.groups).collect();
        let measures: Vec<Measure<'_>> = self
            .measures()
            .iter()
            .filter_map(|name| {
                let of = told.iter().filter(|one| one.measures.contains(name));
                Some(Measure {
                    contributions: self.contributions_of(gathered, name)?,
                    told: of.flat_map(|one| &one.groups).collect(),
                })
            })
            .collect();
        rules::decide(
            &gathered.enterprises,
            gathered.keys.len(),
            &all,
            &measures,
            self.terms,
        )
    }

    fn contributions_of<'g>(&self, gathered: &'g Gathered, measure: &str) -> Option<&'g [i128]> {
        let (kind, name) = measure.split_once(':').unwrap_or((measure, ""));
        if kind == "rows" {
            return Some(&gathered.enterprises.rows);
        }
        let at = self.columns.iter().position(|column| column == name)?;
        let columns = match kind {
            "sum" => &gathered.sums,
            _ => &gathered.values,
        };
        columns.get(at).map(Vec::as_slice)
    }

    /// Runs the plan below.
    async fn gather(&self) -> Result<Gathered> {
        let consumer = MemoryConsumer::new("StatisticsExec");
        let memory = consumer.register(self.context.memory_pool());
        let fields = self.contributions.schema();
        let keys = fields.fields().iter().skip(2).take(self.keys);
        let keys: Vec<SortField> = keys
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        let mut gathering = Gathering {
            asked: self,
            converter: RowConverter::new(keys)?,
            groups: HashMap::new(),
            enterprises: Enterprises::default(),
            sums: vec![Vec::new(); self.columns.len()],
            values: vec![Vec::new(); self.columns.len()],
        };
        if self.keys == 0 {
            // Without GROUP BY there is one group, whoever is in it.
            gathering.groups.insert(None, 0);
        }
        let contributions = Arc::clone(&self.contributions);
        let mut batches = execute_stream(contributions, Arc::clone(&self.context))?;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            // Numbers, groups and contributions as they are kept, and the keys of groups twice.
            let each = 64 + 64 * self.columns.len();
            memory.try_grow(batch.num_rows() * each + batch.get_array_memory_size())?;
            gathering.add(&batch)?;
        }
        gathering.finish(memory)
    }

    /// The released groups as rows.
    fn told(&self, gathered: &Gathered, verdicts: &[Option<Withheld>]) -> Result<RecordBatch> {
        let released: Vec<usize> = verdicts
            .iter()
            .enumerate()
            .filter_map(|(group, verdict)| verdict.is_none().then_some(group))
            .collect();
        let totals = Totals::of(gathered, verdicts.len());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        if self.keys > 0 {
            let rows = released
                .iter()
                .filter_map(|group| gathered.keys.get(*group));
            let rows = rows.flatten().map(OwnedRow::row);
            columns.extend(gathered.converter.convert_rows(rows)?);
        }
        for figure in &self.figures {
            columns.push(self.figure(figure, &totals, &released)?);
        }
        let typed: Result<Vec<ArrayRef>> = columns
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| Ok(cast(column, field.data_type())?))
            .collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), typed?)?)
    }

    fn figure(&self, figure: &Figure, totals: &Totals, released: &[usize]) -> Result<ArrayRef> {
        let of = |list: &[i128]| -> Vec<i128> {
            let picked = released.iter().map(|group| list.get(*group).copied());
            picked.map(Option::unwrap_or_default).collect()
        };
        let column = |name: &String| {
            let at = self.columns.iter().position(|column| column == name);
            at.ok_or_else(|| defect("a figure of no column"))
        };
        let counts = |list: &[i128]| -> ArrayRef {
            let counts = of(list).into_iter().map(|count| i64::try_from(count).ok());
            Arc::new(counts.collect::<Int64Array>())
        };
        Ok(match figure {
            Figure::Enterprises => counts(&totals.enterprises),
            Figure::Rows => counts(&totals.rows),
            Figure::Values(name) => counts(totals.values(column(name)?)),
            Figure::Sum(name) => {
                let at = column(name)?;
                let sums = Decimal128Array::from_iter_values(of(totals.sums(at)));
                Arc::new(sums.with_precision_and_scale(38, self.scale(at))?)
            }
            Figure::Average(name) => {
                let at = column(name)?;
                let sums = of(totals.sums(at));
                let counts = of(totals.values(at));
                self.average(figure, self.scale(at), sums.into_iter().zip(counts))?
            }
        })
    }

    /// Digits after the point of the sums of a column.
    fn scale(&self, column: usize) -> i8 {
        let schema = self.contributions.schema();
        match schema.fields().get(self.keys + 4 + 2 * column) {
            Some(field) => match field.data_type() {
                DataType::Decimal128(_, scale) => *scale,
                _ => 0,
            },
            None => 0,
        }
    }

    fn average(
        &self,
        figure: &Figure,
        scale: i8,
        groups: impl Iterator<Item = (i128, i128)>,
    ) -> Result<ArrayRef> {
        let at = self.figures.iter().position(|one| one == figure);
        let field = at.and_then(|at| self.schema.fields().get(self.keys + at));
        let field = field.ok_or_else(|| defect("a figure without a column"))?;
        Ok(match field.data_type() {
            DataType::Decimal128(precision, wanted) => {
                let digits = u32::try_from(wanted - scale).unwrap_or_default();
                let factor = 10_i128.checked_pow(digits).unwrap_or(1);
                let means = groups.map(|(sum, count)| sum.checked_mul(factor)?.checked_div(count));
                let means: Decimal128Array = means.collect();
                Arc::new(means.with_precision_and_scale(*precision, *wanted)?)
            }
            #[expect(clippy::cast_precision_loss, reason = "what avg of whole numbers is")]
            _ => {
                let means =
                    groups.map(|(sum, count)| (count != 0).then(|| sum as f64 / count as f64));
                Arc::new(means.collect::<Float64Array>())
            }
        })
    }
}

/// The measures that a figure tells of.
fn measures_of(figure: &Figure) -> Vec<String> {
    match figure {
        // How many enterprises have rows is told of by the first rule.
        Figure::Enterprises => Vec::new(),
        Figure::Rows => vec!["rows".to_owned()],
        Figure::Values(name) => vec![format!("values:{name}")],
        Figure::Sum(name) => vec![format!("sum:{name}")],
        Figure::Average(name) => vec![format!("sum:{name}"), format!("values:{name}")],
    }
}

/// The members of the groups that are told.
fn released_groups(gathered: &Gathered, verdicts: &[Option<Withheld>]) -> Vec<RoaringBitmap> {
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); verdicts.len()];
    let enterprises = &gathered.enterprises;
    for (number, group) in enterprises.numbers.iter().zip(&enterprises.groups) {
        if let Some(members) = group.and_then(|group| members.get_mut(group as usize)) {
            members.push(*number);
        }
    }
    members
        .into_iter()
        .zip(verdicts)
        .filter(|(_, verdict)| verdict.is_none())
        .map(|(mut members, _)| {
            members.sort_unstable();
            members.into_iter().collect()
        })
        .collect()
}

/// The groups' totals.
struct Totals {
    enterprises: Vec<i128>,
    rows: Vec<i128>,
    sums: Vec<Vec<i128>>,
    values: Vec<Vec<i128>>,
}

impl Totals {
    fn of(gathered: &Gathered, groups: usize) -> Self {
        let enterprises = &gathered.enterprises;
        let total = |contributions: &[i128]| {
            let mut totals = vec![0_i128; groups];
            for (group, contribution) in enterprises.groups.iter().zip(contributions) {
                if let Some(total) = group.and_then(|group| totals.get_mut(group as usize)) {
                    *total = total.saturating_add(*contribution);
                }
            }
            totals
        };
        let present: Vec<i128> = enterprises
            .rows
            .iter()
            .map(|rows| i128::from(*rows > 0))
            .collect();
        Self {
            enterprises: total(&present),
            rows: total(&enterprises.rows),
            sums: gathered.sums.iter().map(|sums| total(sums)).collect(),
            values: gathered.values.iter().map(|values| total(values)).collect(),
        }
    }

    fn sums(&self, column: usize) -> &[i128] {
        self.sums.get(column).map_or(&[], Vec::as_slice)
    }

    fn values(&self, column: usize) -> &[i128] {
        self.values.get(column).map_or(&[], Vec::as_slice)
    }
}

/// [`Gathered`] in the making.
struct Gathering<'a> {
    asked: &'a Asked,
    converter: RowConverter,
    groups: HashMap<Option<OwnedRow>, u32>,
    enterprises: Enterprises,
    sums: Vec<Vec<i128>>,
    values: Vec<Vec<i128>>,
}

impl Gathering<'_> {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.asked.keys;
        let chosen = column(batch, 1)?;
        let chosen: &BooleanArray = chosen.as_boolean_opt().ok_or_else(wrong_type)?;
        let codes = codes(&column(batch, 0)?, &column(batch, 2 + keys)?)?;
        let numbers = self.asked.register.numbers(&codes).map_err(external)?;
        self.enterprises.numbers.extend(numbers);
        let key_columns: Vec<ArrayRef> = (2..2 + keys)
            .map(|at| column(batch, at))
            .collect::<Result<_>>()?;
        let rows = match keys {
            0 => None,
            _ => Some(self.converter.convert_columns(&key_columns)?),
        };
        for row in 0..batch.num_rows() {
            let group = if chosen.is_valid(row) && chosen.value(row) {
                let key = rows.as_ref().map(|rows| rows.row(row).owned());
                Some(self.group(key)?)
            } else {
                None
            };
            self.enterprises.groups.push(group);
        }
        let counts = column(batch, 3 + keys)?;
        self.enterprises.rows.extend(whole(&counts)?);
        let columns = self.sums.iter_mut().zip(&mut self.values).enumerate();
        for (at, (sums, values)) in columns {
            let sum = column(batch, 4 + keys + 2 * at)?;
            let sum = sum
                .as_primitive_opt::<Decimal128Type>()
                .ok_or_else(wrong_type)?;
            sums.extend(sum.iter().map(Option::unwrap_or_default));
            values.extend(whole(&column(batch, 5 + keys + 2 * at)?)?);
        }
        Ok(())
    }

    fn group(&mut self, key: Option<OwnedRow>) -> Result<u32> {
        let next = self.groups.len();
        if let Some(group) = self.groups.get(&key) {
            return Ok(*group);
        }
        if next >= MAX_GROUPS {
            let what = "groups of a statistic";
            let limit = MAX_GROUPS as u64;
            return Err(external(QueryError::StatementTooLarge { what, limit }));
        }
        let next = u32::try_from(next).map_err(|_| defect("too many groups"))?;
        self.groups.insert(key, next);
        Ok(next)
    }

    /// Numbers the groups in the order of their keys.
    fn finish(self, memory: MemoryReservation) -> Result<Gathered> {
        let mut ordered: Vec<(Option<OwnedRow>, u32)> = self.groups.into_iter().collect();
        ordered.sort_by(|a, b| a.0.cmp(&b.0));
        let mut renamed = vec![0_u32; ordered.len()];
        for (new, (_, old)) in ordered.iter().enumerate() {
            if let (Some(name), Ok(new)) = (renamed.get_mut(*old as usize), u32::try_from(new)) {
                *name = new;
            }
        }
        let mut enterprises = self.enterprises;
        for group in enterprises.groups.iter_mut().flatten() {
            *group = renamed.get(*group as usize).copied().unwrap_or_default();
        }
        Ok(Gathered {
            enterprises,
            sums: self.sums,
            values: self.values,
            keys: ordered.into_iter().map(|(key, _)| key).collect(),
            converter: self.converter,
            _memory: memory,
        })
    }
}

fn wrong_type() -> DataFusionError {
    defect("a contribution of another type")
}

fn column(batch: &RecordBatch, at: usize) -> Result<ArrayRef> {
    let column = batch.columns().get(at).cloned();
    column.ok_or_else(|| defect("a contribution is missing"))
}

/// Whole numbers; null is none.
fn whole(column: &ArrayRef) -> Result<Vec<i128>> {
    let column = column
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(wrong_type)?;
    let numbers = column
        .iter()
        .map(|number| i128::from(number.unwrap_or_default()));
    Ok(numbers.collect())
}

/// The enterprise of each row: by its code in either dataset.
fn codes(frame: &ArrayRef, measured: &ArrayRef) -> Result<Vec<Uscc>> {
    let [frame, measured]: [Option<&StringViewArray>; 2] =
        [frame, measured].map(|column| column.as_string_view_opt());
    let (Some(frame), Some(measured)) = (frame, measured) else {
        return Err(wrong_type());
    };
    let codes = frame.iter().zip(measured).map(|(frame, measured)| {
        let code = frame.or(measured).and_then(|code| code.parse().ok());
        code.ok_or_else(|| defect("a row of no enterprise"))
    });
    codes.collect()
}
