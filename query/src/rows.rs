//! Which rows pass and which cells show: DESIGN's rule for rows and cells, applied to a batch.
//!
//! INVARIANT: what leaves [`RowGate::check`] holds, in every buffer, only values of cells that are shown. Hidden
//! rows are filtered out, hidden cells are overwritten, and string views are compacted, so that neither a
//! kernel that looks under nulls nor a writer that copies whole buffers can meet a hidden value.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray, Int32Array,
    RecordBatch, RecordBatchOptions, Scalar, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{FilterBuilder, FilterPredicate};
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

/// Rows that pass, and for each passing row the columns that grants show; `None` = all / every column.
struct Verdict {
    pass: Option<BooleanBuffer>,
    shown: Option<Vec<ColumnSet>>,
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
        let numbers = batch.column(self.number).as_primitive::<Int32Type>();
        let runs = runs(numbers.values());
        let verdict = self.verdict(batch, &runs);
        let counts = match &verdict.pass {
            Some(pass) => counted(&runs, pass),
            None => runs,
        };
        let filtered = Filtered::new(batch, verdict.pass.as_ref())?;
        let mut columns = Vec::with_capacity(self.columns.len());
        let mut withheld = vec![None; self.columns.len()];
        for (column, hidden) in self.columns.iter().zip(&mut withheld) {
            let visible = visible(column, verdict.shown.as_deref(), &filtered)?;
            let value = filtered.column(column.value)?;
            let value = match &visible {
                Some(visible) if visible.count_set_bits() < visible.len() => hide(&value, visible)?,
                _ => value,
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

    fn verdict(&self, batch: &RecordBatch, runs: &[Run]) -> Verdict {
        let window = self.window_mask(batch);
        let (rows, shown) = self.by_scope(batch, runs);
        let pass = match (window, rows) {
            (Some(a), Some(b)) => Some(&a & &b),
            (a, b) => a.or(b),
        };
        let shown = match (&pass, shown) {
            (Some(pass), Some(shown)) => Some(
                pass.set_indices()
                    .filter_map(|row| shown.get(row).copied())
                    .collect(),
            ),
            (_, shown) => shown,
        };
        Verdict { pass, shown }
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

    /// Rows that the scope passes and the columns that grants show in each row of the batch.
    fn by_scope(
        &self,
        batch: &RecordBatch,
        runs: &[Run],
    ) -> (Option<BooleanBuffer>, Option<Vec<ColumnSet>>) {
        let scope = &self.scope;
        let len = batch.num_rows();
        let open = || {
            let mut open = BooleanBufferBuilder::new(len);
            for run in runs {
                open.append_n(run.rows, scope.is_open(run.no));
            }
            open.finish()
        };
        if scope.is_uniform() {
            return (Some(open()), None);
        }
        if scope.every_cell() && scope.all_rows() {
            return ((!scope.all_open()).then(open), None);
        }
        let dates = self
            .event_date
            .map(|at| batch.column(at).as_primitive::<Date32Type>());
        let mut shown = Vec::with_capacity(len);
        let mut pass = BooleanBufferBuilder::new(len);
        for run in runs {
            if scope.is_full(run.no) {
                shown.extend(std::iter::repeat_n(ColumnSet(u128::MAX), run.rows));
                pass.append_n(run.rows, true);
            } else if scope.all_open() || scope.is_open(run.no) {
                let dense = scope.dense();
                for row in shown.len()..shown.len() + run.rows {
                    let day = dates.and_then(|dates| dates.is_valid(row).then(|| dates.value(row)));
                    let columns = dense.covered(run.no, dates.is_some(), day);
                    pass.append(scope.all_rows() || !columns.is_empty());
                    shown.push(columns);
                }
            } else {
                shown.extend(std::iter::repeat_n(ColumnSet::EMPTY, run.rows));
                pass.append_n(run.rows, false);
            }
        }
        (Some(pass.finish()), Some(shown))
    }
}

/// Where a column shows among the rows that passed; `None` when everywhere.
fn visible(
    column: &OutputColumn,
    shown: Option<&[ColumnSet]>,
    filtered: &Filtered<'_>,
) -> Result<Option<BooleanBuffer>, ArrowError> {
    if column.always {
        return Ok(None);
    }
    let by_grant = match (column.by_grant, shown) {
        (true, None) => return Ok(None),
        (true, Some(shown)) => BooleanBuffer::collect_bool(shown.len(), |row| {
            shown
                .get(row)
                .is_some_and(|set| set.contains(column.scope_index))
        }),
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
    predicate: Option<FilterPredicate>,
    rows: usize,
}

impl<'a> Filtered<'a> {
    fn new(batch: &'a RecordBatch, pass: Option<&BooleanBuffer>) -> Result<Self, ArrowError> {
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
}

/// Overwrites the cells that do not show with nulls.
fn hide(value: &ArrayRef, visible: &BooleanBuffer) -> Result<ArrayRef, ArrowError> {
    let null = Scalar::new(new_null_array(value.data_type(), 1));
    zip(&BooleanArray::new(visible.clone(), None), value, &null)
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

/// The runs of a column of enterprise numbers.
fn runs(numbers: &[i32]) -> Vec<Run> {
    let runs = numbers.chunk_by(|a, b| a == b);
    runs.map(|run| Run {
        no: run.first().copied().unwrap_or(-1),
        rows: run.len(),
    })
    .collect()
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
