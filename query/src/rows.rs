//! Which rows pass and which cells show: DESIGN's rule for rows and cells, applied to a batch.
//!
//! INVARIANT: what leaves [`RowGate::check`] holds, in every buffer, only values of cells that are shown. Hidden
//! rows are filtered out, hidden cells are overwritten, and string views are compacted, so that neither a
//! kernel that looks under nulls nor a writer that copies whole buffers can meet a hidden value.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray, Int32Array,
    RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::compute::{FilterBuilder, FilterPredicate, take};
use arrow::datatypes::{DataType, Date32Type, Int32Type, SchemaRef};
use arrow::error::ArrowError;
use datafusion::physical_expr::PhysicalExpr;
use qihui_catalog::ColumnType;
use qihui_consent::decision::{ColumnSet, Form};
use roaring::RoaringBitmap;

use crate::dense::ScanScope;
use crate::forms;

/// A column that a scan delivers or filters on, and where its parts stand in the batches read.
#[derive(Debug, Clone)]
pub struct OutputColumn {
    /// Position among the scope's columns.
    pub scope_index: usize,
    /// Type by the contract.
    pub ty: ColumnType,
    /// How a shown value is disclosed.
    pub form: Form,
    /// Shown in every row that passes, without a grant.
    pub always: bool,
    /// Some consent agreement names it, so a grant may show it.
    pub by_grant: bool,
    /// Position of the value in a batch of the edge scan.
    pub value: usize,
    /// Position of the `public_when` flag in a batch of the edge scan.
    pub flag: Option<usize>,
}

/// One bound of a disclosure window, with the position of its date in a batch of the edge scan.
#[derive(Debug, Clone, Copy)]
pub enum WindowBound {
    /// The row shows from this date on (null: yes).
    From(usize),
    /// The row shows until the day before this date (null: yes).
    Until(usize),
    /// The row shows while the date is later than this day (null: no).
    After(usize, i32),
}

/// Length of the marks of one row.
pub const MARK_BYTES: usize = 16;

/// Decides about the rows of one scan.
#[derive(Debug, Clone)]
pub struct RowGate {
    /// The scope.
    pub scope: Arc<ScanScope>,
    /// The columns delivered, then those only filtered on.
    pub columns: Vec<OutputColumn>,
    /// How many of `columns` are delivered.
    pub delivered: usize,
    /// Schema of `columns`.
    pub checked_schema: SchemaRef,
    /// Schema of what is delivered, with the trace if there is one.
    pub schema: SchemaRef,
    /// Whether every row is delivered with its trace: its enterprise, and which of its cells are withheld
    /// ([`MARK_BYTES`] bytes, little-endian, a bit per delivered column). For deliveries, which compare rows; no
    /// statement ever sees it. Only without conjuncts.
    pub traced: bool,
    /// The user's conjuncts that the scan prunes by, over `checked_schema`.
    pub conjuncts: Vec<Arc<dyn PhysicalExpr>>,
    /// Position of `_no` in a batch of the edge scan.
    pub number: usize,
    /// Position of the event date in a batch of the edge scan, when the dataset has one and grants matter to the scan.
    pub event_date: Option<usize>,
    /// Bounds of the disclosure window.
    pub window: Vec<WindowBound>,
    /// Today in Asia/Shanghai, days since the epoch.
    pub today: i32,
}

/// What a batch came to.
#[derive(Debug)]
pub struct Checked {
    /// The rows that passed, with the delivered columns.
    pub batch: RecordBatch,
    /// How many rows of which enterprise are among them. An enterprise may stand in it more than once.
    pub counts: Vec<(u32, usize)>,
    /// Enterprises with a row among them.
    pub touched: RoaringBitmap,
    /// Cells withheld, per delivered column.
    pub withheld: Vec<u64>,
}

/// What is decided about the rows of a batch.
struct Verdict {
    /// The rows that pass; `None`: all.
    pass: Option<BooleanBuffer>,
    /// How many rows of which enterprise pass, in the order of the batch.
    counts: Vec<Run>,
    /// The columns that grants show in the rows that pass, in their order; `None`: every column.
    shown: Option<Vec<Shown>>,
}

/// Rows that stand together and in which grants show the same columns.
#[derive(Debug, Clone, Copy)]
struct Shown {
    columns: ColumnSet,
    rows: usize,
}

/// What the scope alone decides about the rows of a batch, its disclosure window apart: in order, rows that stand together,
/// each with whether they pass and what they show.
#[derive(Default)]
struct Ruling {
    parts: Vec<(bool, Shown)>,
    /// How many rows of which enterprise are ruled about.
    runs: Vec<Run>,
    /// How many of these pass.
    passing: Vec<Run>,
}

impl Ruling {
    fn rule(&mut self, pass: bool, columns: ColumnSet, rows: usize) {
        match self.parts.last_mut() {
            Some((passes, shown)) if *passes == pass && (!pass || shown.columns == columns) => {
                shown.rows += rows;
            }
            _ if rows == 0 => {}
            _ => self.parts.push((pass, Shown { columns, rows })),
        }
    }

    /// All rows of an enterprise alike.
    fn rule_run(&mut self, run: Run, pass: bool, columns: ColumnSet) {
        self.rule(pass, columns, run.rows);
        if pass {
            self.passing.push(run);
        }
        self.runs.push(run);
    }

    /// The rows that pass; `None`: all.
    fn pass(&self) -> Option<BooleanBuffer> {
        if self.parts.iter().all(|(passes, _)| *passes) {
            return None;
        }
        let rows = self.parts.iter().map(|(_, shown)| shown.rows).sum();
        let mut pass = BooleanBufferBuilder::new(rows);
        for (passes, shown) in &self.parts {
            pass.append_n(shown.rows, *passes);
        }
        Some(pass.finish())
    }
}

impl RowGate {
    /// The same, when the grants of some enterprises count for nothing.
    #[must_use]
    pub fn without(&self, enterprises: &RoaringBitmap) -> Self {
        Self {
            scope: Arc::new(self.scope.without(enterprises)),
            ..self.clone()
        }
    }

    /// Applies the gate to a batch of the edge scan.
    ///
    /// # Errors
    /// When a kernel refuses the batch, which would be a defect of the gate.
    pub fn check(&self, batch: &RecordBatch) -> Result<Checked, ArrowError> {
        let Verdict {
            pass,
            counts,
            shown,
        } = self.verdict(batch);
        let filtered = Filtered::new(batch, pass.as_ref())?;
        let mut columns = Vec::with_capacity(self.columns.len());
        let mut withheld = vec![None; self.columns.len()];
        for (column, hidden) in self.columns.iter().zip(&mut withheld) {
            let visible = visible(column, shown.as_deref(), &filtered)?;
            let value = match &visible {
                Some(visible) if visible.count_set_bits() < visible.len() => {
                    filtered.shown(column.value, visible)?
                }
                _ => filtered.column(column.value)?,
            };
            *hidden = visible;
            columns.push(compact(forms::apply(column.form, column.ty, &value)?));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(filtered.rows));
        let checked =
            RecordBatch::try_new_with_options(Arc::clone(&self.checked_schema), columns, &options)?;
        if self.traced {
            let numbers = filtered.column(self.number)?;
            return self.deliver_traced(&checked, numbers.as_primitive(), &withheld, counts);
        }
        self.deliver(&checked, counts, &withheld)
    }

    /// Applies the forms to a batch of the inside scan: every row passes, every cell shows.
    ///
    /// `whole_file` says that the scan reads all of its file, so that its buffers hold nothing else.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn pass(&self, batch: &RecordBatch, whole_file: bool) -> Result<RecordBatch, ArrowError> {
        let columns: Result<Vec<ArrayRef>, ArrowError> = self
            .columns
            .iter()
            .zip(batch.columns())
            .map(|(column, value)| {
                let value = forms::apply(column.form, column.ty, value)?;
                Ok(if whole_file { value } else { compact(value) })
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns?, &options)
    }

    /// Applies the conjuncts to what passed, and counts what is delivered.
    fn deliver(
        &self,
        checked: &RecordBatch,
        counts: Vec<Run>,
        visible: &[Option<BooleanBuffer>],
    ) -> Result<Checked, ArrowError> {
        let mut keep: Option<BooleanBuffer> = None;
        for conjunct in &self.conjuncts {
            let value = conjunct
                .evaluate(checked)
                .and_then(|value| value.into_array(checked.num_rows()))
                .map_err(|e| ArrowError::ExternalError(Box::new(e)))?;
            let value = only_true(value.as_boolean());
            keep = Some(match keep {
                Some(keep) => &keep & &value,
                None => value,
            });
        }
        let withheld = self.withheld(visible, keep.as_ref());
        let indices: Vec<usize> = (0..self.delivered).collect();
        let delivered = checked.project(&indices)?;
        let Some(keep) = keep else {
            return Ok(Checked::new(delivered, counts, withheld));
        };
        let filtered = Filtered::new(&delivered, Some(&keep))?;
        let columns: Result<Vec<ArrayRef>, ArrowError> = (0..self.delivered)
            .map(|i| filtered.column(i).map(compact))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(filtered.rows));
        let batch =
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns?, &options)?;
        Ok(Checked::new(batch, counted(&counts, &keep), withheld))
    }

    /// Cells withheld per delivered column, in the rows that `keep` leaves.
    fn withheld(
        &self,
        visible: &[Option<BooleanBuffer>],
        keep: Option<&BooleanBuffer>,
    ) -> Vec<u64> {
        let delivered = visible.iter().take(self.delivered);
        let cells = delivered.map(|visible| match (visible, keep) {
            (None, _) => 0,
            (Some(visible), None) => visible.len() - visible.count_set_bits(),
            (Some(visible), Some(keep)) => (&!visible & keep).count_set_bits(),
        });
        cells.map(|cells| cells as u64).collect()
    }

    /// Delivers every row that passed, with its trace.
    fn deliver_traced(
        &self,
        checked: &RecordBatch,
        numbers: &Int32Array,
        visible: &[Option<BooleanBuffer>],
        counts: Vec<Run>,
    ) -> Result<Checked, ArrowError> {
        let indices: Vec<usize> = (0..self.delivered).collect();
        let delivered = self.with_trace(&checked.project(&indices)?, numbers, visible)?;
        let withheld = self.withheld(visible, None);
        Ok(Checked::new(delivered, counts, withheld))
    }

    /// The delivered columns, then the enterprise of each row and the marks of its withheld cells.
    fn with_trace(
        &self,
        delivered: &RecordBatch,
        numbers: &Int32Array,
        visible: &[Option<BooleanBuffer>],
    ) -> Result<RecordBatch, ArrowError> {
        let mut marks = vec![0_u128; numbers.len()];
        for (bit, visible) in (0..u128::BITS).zip(visible.iter().take(self.delivered)) {
            let Some(visible) = visible else { continue };
            for row in (!visible).set_indices() {
                if let Some(marks) = marks.get_mut(row) {
                    *marks |= 1 << bit;
                }
            }
        }
        let bytes: Vec<u8> = marks.iter().flat_map(|marks| marks.to_le_bytes()).collect();
        let width = i32::try_from(MARK_BYTES).unwrap_or_default();
        let marks = FixedSizeBinaryArray::try_new(width, Buffer::from_vec(bytes), None)?;
        let trace: [ArrayRef; 2] = [Arc::new(numbers.clone()), Arc::new(marks)];
        let columns = delivered.columns().iter().cloned().chain(trace).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    fn verdict(&self, batch: &RecordBatch) -> Verdict {
        let ruling = self.ruling(batch);
        let by_scope = ruling.pass();
        // Where one bit decides about a row and its cells, every cell of it shows.
        let partly =
            !self.scope.is_uniform() && !(self.scope.every_cell() && self.scope.all_rows());
        let Some(window) = self.window_mask(batch) else {
            let passing = ruling.parts.into_iter().filter(|(passes, _)| *passes);
            return Verdict {
                pass: by_scope,
                counts: ruling.passing,
                shown: partly.then(|| passing.map(|(_, shown)| shown).collect()),
            };
        };
        let pass = by_scope.map_or(window.clone(), |by_scope| &by_scope & &window);
        let mut start = 0;
        let left = ruling.parts.iter().map(|(_, shown)| {
            let rows = pass.slice(start, shown.rows).count_set_bits();
            start += shown.rows;
            let columns = shown.columns;
            Shown { columns, rows }
        });
        Verdict {
            counts: counted(&ruling.runs, &pass),
            shown: partly.then(|| left.collect()),
            pass: Some(pass),
        }
    }

    /// What the scope decides about each row.
    fn ruling(&self, batch: &RecordBatch) -> Ruling {
        let scope = &self.scope;
        let dense = scope.dense();
        let numbers = batch.column(self.number).as_primitive::<Int32Type>();
        let dates = self
            .event_date
            .map(|at| batch.column(at).as_primitive::<Date32Type>());
        let every = ColumnSet(u128::MAX);
        let by_number = scope.is_uniform() || (scope.every_cell() && scope.all_rows());
        let mut ruling = Ruling::default();
        let mut start = 0;
        for run in numbers.values().chunk_by(|a, b| a == b) {
            let rows = run.len();
            let no = run.first().copied().unwrap_or(-1);
            let of = Run { no, rows };
            let open = scope.all_open() || scope.is_open(no);
            if !open || by_number || scope.is_full(no) {
                ruling.rule_run(of, open, every);
                start += rows;
                continue;
            }
            let coverage = dense.coverage(no);
            let mut passing = 0;
            match dates {
                None => {
                    let columns = coverage.undated();
                    let pass = scope.all_rows() || !columns.is_empty();
                    ruling.rule(pass, columns, rows);
                    passing += if pass { rows } else { 0 };
                }
                Some(dates) => {
                    for row in start..start + rows {
                        let columns = match dates.is_valid(row) {
                            true => coverage.at(dates.value(row)),
                            false => ColumnSet::EMPTY,
                        };
                        let pass = scope.all_rows() || !columns.is_empty();
                        ruling.rule(pass, columns, 1);
                        passing += usize::from(pass);
                    }
                }
            }
            if passing > 0 {
                ruling.passing.push(Run { no, rows: passing });
            }
            ruling.runs.push(of);
            start += rows;
        }
        ruling
    }

    /// Rows inside the disclosure window; `None` when all are.
    fn window_mask(&self, batch: &RecordBatch) -> Option<BooleanBuffer> {
        let mut mask: Option<BooleanBuffer> = None;
        for bound in &self.window {
            let (WindowBound::From(at) | WindowBound::Until(at) | WindowBound::After(at, _)) =
                bound;
            let dates = batch.column(*at).as_primitive::<Date32Type>();
            let test = BooleanBuffer::collect_bool(dates.len(), |row| {
                let date = dates.is_valid(row).then(|| dates.value(row));
                match bound {
                    WindowBound::From(_) => date.is_none_or(|date| date <= self.today),
                    WindowBound::Until(_) => date.is_none_or(|date| date > self.today),
                    WindowBound::After(_, day) => date.is_some_and(|date| date > *day),
                }
            });
            mask = Some(match mask {
                Some(mask) => &mask & &test,
                None => test,
            });
        }
        mask
    }
}

/// Where a column shows among the rows that passed; `None` when everywhere.
fn visible(
    column: &OutputColumn,
    shown: Option<&[Shown]>,
    filtered: &Filtered<'_>,
) -> Result<Option<BooleanBuffer>, ArrowError> {
    if column.always {
        return Ok(None);
    }
    let by_grant = match (column.by_grant, shown) {
        (true, None) => return Ok(None),
        (true, Some(shown)) => {
            let mut visible = BooleanBufferBuilder::new(filtered.rows);
            for part in shown {
                visible.append_n(part.rows, part.columns.contains(column.scope_index));
            }
            visible.finish()
        }
        (false, _) => BooleanBuffer::new_unset(filtered.rows),
    };
    let Some(flag) = column.flag else {
        return Ok(Some(by_grant));
    };
    let flag = only_true(filtered.column(flag)?.as_boolean());
    Ok(Some(&by_grant | &flag))
}

/// Where a boolean column is true: null is no.
fn only_true(array: &BooleanArray) -> BooleanBuffer {
    match array.nulls() {
        Some(nulls) => array.values() & nulls.inner(),
        None => array.values().clone(),
    }
}

/// A batch with only its passing rows, filtered column by column as they are asked for.
struct Filtered<'a> {
    batch: &'a RecordBatch,
    pass: Option<&'a BooleanBuffer>,
    predicate: Option<FilterPredicate>,
    rows: usize,
}

impl<'a> Filtered<'a> {
    fn new(batch: &'a RecordBatch, pass: Option<&'a BooleanBuffer>) -> Result<Self, ArrowError> {
        let rows = pass.map_or(batch.num_rows(), BooleanBuffer::count_set_bits);
        if pass.is_some_and(|pass| pass.len() != batch.num_rows()) {
            return Err(ArrowError::ComputeError(
                "a verdict must have a bit per row".into(),
            ));
        }
        let predicate = pass.filter(|_| rows < batch.num_rows()).map(|pass| {
            FilterBuilder::new(&BooleanArray::new(pass.clone(), None))
                .optimize()
                .build()
        });
        Ok(Self {
            batch,
            pass,
            predicate,
            rows,
        })
    }

    fn column(&self, at: usize) -> Result<ArrayRef, ArrowError> {
        match &self.predicate {
            None => Ok(Arc::clone(self.batch.column(at))),
            Some(predicate) => predicate.filter(self.batch.column(at)),
        }
    }

    /// A column whose cells show where `visible` says so, a bit per passing row. What stands under the others is nothing: a
    /// position beyond the end of the column takes no value along.
    fn shown(&self, at: usize, visible: &BooleanBuffer) -> Result<ArrayRef, ArrowError> {
        let nothing = u32::MAX;
        let mut from = vec![nothing; self.rows];
        match self.pass {
            None => {
                for row in visible.set_indices() {
                    if let (Some(from), Ok(row)) = (from.get_mut(row), u32::try_from(row)) {
                        *from = row;
                    }
                }
            }
            Some(pass) => {
                let places = from.iter_mut().zip(visible).zip(pass.set_indices());
                for ((from, visible), row) in places {
                    *from = match visible {
                        true => u32::try_from(row).unwrap_or(nothing),
                        false => nothing,
                    };
                }
            }
        }
        let from = UInt32Array::new(from.into(), Some(NullBuffer::new(visible.clone())));
        take(self.batch.column(at), &from, None)
    }
}

/// Drops buffers of string views that the views no longer need.
fn compact(value: ArrayRef) -> ArrayRef {
    match value.data_type() {
        DataType::Utf8View => Arc::new(value.as_string_view().gc()),
        _ => value,
    }
}

/// Rows of one enterprise that stand together.
#[derive(Debug, Clone, Copy)]
struct Run {
    no: i32,
    rows: usize,
}

/// The runs of those rows that a mask leaves.
fn counted(runs: &[Run], mask: &BooleanBuffer) -> Vec<Run> {
    let mut start = 0;
    let mut left = Vec::with_capacity(runs.len());
    for run in runs {
        let rows = mask.slice(start, run.rows).count_set_bits();
        start += run.rows;
        if rows > 0 {
            left.push(Run { no: run.no, rows });
        }
    }
    left
}

impl Checked {
    fn new(batch: RecordBatch, runs: Vec<Run>, withheld: Vec<u64>) -> Self {
        let counts: Vec<(u32, usize)> = runs
            .into_iter()
            .filter_map(|run| Some((u32::try_from(run.no).ok()?, run.rows)))
            .collect();
        let numbers = counts.iter().map(|(no, _)| *no);
        // Files are sorted, so each batch nearly always is.
        let sorted = counts.is_sorted_by(|(a, _), (b, _)| a < b);
        let touched = if sorted {
            RoaringBitmap::from_sorted_iter(numbers).unwrap_or_default()
        } else {
            numbers.collect()
        };
        Self {
            batch,
            counts,
            touched,
            withheld,
        }
    }
}
