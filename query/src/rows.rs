//! Which rows pass and which cells show: DESIGN's rule for rows and cells, applied to a batch.
//!
//! INVARIANT: what leaves [`RowGate::check`] holds, in every buffer, only values of cells that are shown. Hidden
//! rows are filtered out, hidden cells are overwritten, and string views are compacted, so that neither a
//! kernel that looks under nulls nor a writer that copies whole buffers can meet a hidden value.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, Date32Array,
    FixedSizeBinaryArray, Int32Array, RecordBatch, RecordBatchOptions,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{Date32Type, Int32Type, SchemaRef};
use arrow::error::ArrowError;
use datafusion::physical_expr::PhysicalExpr;
use qihui_catalog::ColumnType;
use qihui_consent::decision::{ColumnSet, Form};
use roaring::RoaringBitmap;

use crate::dense::{Coverage, ScanScope, Span};
use crate::forms;
use crate::gather::{Selection, compact, gather};
use crate::mutations::{Mutation, mutated};

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
    /// The row shows from this date on (null: no).
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
#[derive(Default)]
struct Verdict {
    /// The rows that pass, in order.
    places: Vec<Place>,
    /// How many rows of which enterprise pass, in the order of the batch.
    counts: Vec<Run>,
    /// How many rows pass.
    rows: usize,
}

/// Rows of a batch that stand together, all of which pass, and in which grants show the same columns.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    rows: usize,
    columns: ColumnSet,
}

impl Verdict {
    /// Lets rows pass that follow those that passed before.
    fn pass(&mut self, start: usize, rows: usize, columns: ColumnSet) {
        self.rows += rows;
        match self.places.last_mut() {
            Some(last) if last.start + last.rows == start && last.columns == columns => {
                last.rows += rows;
            }
            _ if rows == 0 => {}
            _ => self.places.push(Place {
                start,
                rows,
                columns,
            }),
        }
    }

    /// Counts rows that passed.
    fn count(&mut self, no: i32, rows: usize) {
        if rows > 0 {
            self.counts.push(Run { no, rows });
        }
    }

    /// The rows that pass, those where a column that needs a grant does not show without their values.
    fn selection(&self, column: Option<usize>) -> Selection {
        let mut selection = Selection::with_capacity(self.places.len());
        for place in &self.places {
            let shown = column.is_none_or(|column| place.columns.contains(column));
            selection.push(place.start, place.rows, shown);
        }
        selection
    }

    /// The same by a bit per row that passes.
    fn selection_by(&self, visible: &BooleanBuffer) -> Selection {
        let mut selection = Selection::with_capacity(self.places.len());
        let mut before = 0;
        for place in &self.places {
            let mut done = 0;
            for (from, to) in visible.slice(before, place.rows).set_slices() {
                selection.push(place.start + done, from - done, false);
                selection.push(place.start + from, to - from, true);
                done = to;
            }
            selection.push(place.start + done, place.rows - done, false);
            before += place.rows;
        }
        selection
    }
}

impl RowGate {
    /// From now on, the grants of some enterprises count for nothing.
    pub fn leave_out(&mut self, enterprises: &[u32]) {
        Arc::make_mut(&mut self.scope).leave_out(enterprises);
    }

    /// Applies the gate to a batch of the edge scan.
    ///
    /// # Errors
    /// When a kernel refuses the batch, which would be a defect of the gate.
    pub fn check(&self, batch: &RecordBatch) -> Result<Checked, ArrowError> {
        let verdict = self.verdict(batch);
        let every = verdict.selection(None);
        let mut columns = Vec::with_capacity(self.columns.len());
        // What is selected of a column, where it does not show everywhere.
        let mut partly = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let shown = self.shown(column, &verdict, batch, &every)?;
            let selection = shown.as_ref().unwrap_or(&every);
            let value = gather(batch.column(column.value), selection)?;
            partly.push(shown);
            columns.push(match column.form {
                Form::Clear => value,
                // What a form leaves out must not stay in a buffer.
                form => compact(forms::apply(form, column.ty, &value)?),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(verdict.rows));
        let checked =
            RecordBatch::try_new_with_options(Arc::clone(&self.checked_schema), columns, &options)?;
        if self.traced {
            let numbers = gather(batch.column(self.number), &every)?;
            let numbers = numbers.as_primitive();
            return self.deliver_traced(&checked, numbers, &partly, verdict.counts);
        }
        self.deliver(&checked, verdict.counts, &partly)
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
                let form = match mutated(Mutation::FormsOnlyAtEdges) {
                    true => Form::Clear,
                    false => column.form,
                };
                let value = forms::apply(form, column.ty, value)?;
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
        partly: &[Option<Selection>],
    ) -> Result<Checked, ArrowError> {
        let mut keep: Option<BooleanBuffer> = None;
        let again = !mutated(Mutation::RecheckSkipped);
        for conjunct in self.conjuncts.iter().filter(|_| again) {
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
        let passed = keep.as_ref();
        let passed = passed.filter(|_| !mutated(Mutation::WithheldUnpassed));
        let withheld = self.withheld(partly, passed);
        let indices: Vec<usize> = (0..self.delivered).collect();
        let delivered = checked.project(&indices)?;
        let Some(keep) = keep else {
            return Ok(Checked::new(delivered, counts, withheld));
        };
        let kept = Selection::of_mask(&keep);
        let columns = delivered.columns().iter();
        let columns: Result<Vec<ArrayRef>, ArrowError> =
            columns.map(|column| gather(column, &kept)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(keep.count_set_bits()));
        let batch =
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns?, &options)?;
        let counts = match mutated(Mutation::TouchedUnpassed) {
            true => counts,
            false => counted(&counts, &keep),
        };
        Ok(Checked::new(batch, counts, withheld))
    }

    /// Cells withheld per delivered column, in the rows that `keep` leaves.
    fn withheld(&self, partly: &[Option<Selection>], keep: Option<&BooleanBuffer>) -> Vec<u64> {
        let delivered = partly.iter().take(self.delivered);
        let cells = delivered.map(|selection| match (selection, keep) {
            (None, _) => 0,
            (Some(selection), None) => selection.hidden(),
            (Some(selection), Some(keep)) => (&!selection.shown() & keep).count_set_bits(),
        });
        cells.map(|cells| cells as u64).collect()
    }

    /// Delivers every row that passed, with its trace.
    fn deliver_traced(
        &self,
        checked: &RecordBatch,
        numbers: &Int32Array,
        partly: &[Option<Selection>],
        counts: Vec<Run>,
    ) -> Result<Checked, ArrowError> {
        let indices: Vec<usize> = (0..self.delivered).collect();
        let delivered = self.with_trace(&checked.project(&indices)?, numbers, partly)?;
        let withheld = self.withheld(partly, None);
        Ok(Checked::new(delivered, counts, withheld))
    }

    /// The delivered columns, then the enterprise of each row and the marks of its withheld cells.
    fn with_trace(
        &self,
        delivered: &RecordBatch,
        numbers: &Int32Array,
        partly: &[Option<Selection>],
    ) -> Result<RecordBatch, ArrowError> {
        let mut marks = vec![0_u128; numbers.len()];
        for (bit, selection) in (0..u128::BITS).zip(partly.iter().take(self.delivered)) {
            let Some(selection) = selection else { continue };
            for row in (!selection.shown()).set_indices() {
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
        let window = self.window_mask(batch);
        let Some(window) = window.filter(|_| !mutated(Mutation::WindowForgotten)) else {
            return ruling;
        };
        // What the scope lets pass, where the window is open.
        let mut verdict = Verdict::default();
        for place in &ruling.places {
            for (from, to) in window.slice(place.start, place.rows).set_slices() {
                verdict.pass(place.start + from, to - from, place.columns);
            }
        }
        let mut pass = BooleanBufferBuilder::new(window.len());
        for place in &verdict.places {
            pass.append_n(place.start - pass.len(), false);
            pass.append_n(place.rows, true);
        }
        pass.append_n(window.len() - pass.len(), false);
        let numbers = batch.column(self.number).as_primitive::<Int32Type>();
        verdict.counts = counted(&runs(numbers.values()), &pass.finish());
        verdict
    }

    /// What the scope alone decides, the disclosure window apart.
    fn ruling(&self, batch: &RecordBatch) -> Verdict {
        let scope = &self.scope;
        let numbers = batch.column(self.number).as_primitive::<Int32Type>();
        let dates = self
            .event_date
            .map(|at| batch.column(at).as_primitive::<Date32Type>());
        let every = ColumnSet(u128::MAX);
        let by_number = self.is_decided_by_number();
        let days = Days::new(numbers.values(), dates);
        let few = numbers.len() / ROWS_OF_MOST;
        let mut verdict = Verdict {
            places: Vec::with_capacity(few),
            counts: Vec::with_capacity(few),
            rows: 0,
        };
        let mut start = 0;
        for run in numbers.values().chunk_by(|a, b| a == b) {
            let rows = run.len();
            let no = run.first().copied().unwrap_or(-1);
            if scope.all_open() || scope.is_open(no) || mutated(Mutation::RowsUncovered) {
                if by_number || scope.is_full(no) {
                    verdict.pass(start, rows, every);
                    verdict.count(no, rows);
                } else {
                    let before = verdict.rows;
                    let coverage = scope.dense().coverage(no);
                    self.rule(&mut verdict, start..start + rows, &coverage, days.as_ref());
                    verdict.count(no, verdict.rows - before);
                }
            }
            start += rows;
        }
        verdict
    }

    /// Rows of one enterprise, by what its grants cover.
    fn rule(
        &self,
        verdict: &mut Verdict,
        rows: Range<usize>,
        coverage: &Coverage<'_>,
        days: Option<&Days<'_>>,
    ) {
        let all_rows = self.scope.all_rows();
        let mut pass = |rows: Range<usize>, columns: ColumnSet| {
            if all_rows || !columns.is_empty() || mutated(Mutation::RowsUncovered) {
                verdict.pass(rows.start, rows.len(), columns);
            }
        };
        let Some(days) = days else {
            return pass(rows, coverage.undated());
        };
        let mut from = rows.start;
        while let Some(day) = days.values.get(from..rows.end).and_then(<[i32]>::first) {
            if days.is_null(from) {
                let columns = match mutated(Mutation::NullDateInside) {
                    true => coverage.at(self.today).columns,
                    false => ColumnSet::EMPTY,
                };
                pass(from..from + 1, columns);
                from += 1;
                continue;
            }
            let span = coverage.at(*day);
            let to = days.end_of(from..rows.end, &span);
            pass(from..to, span.columns);
            from = to;
        }
    }

    /// Whether one bit decides about a row and all of its cells.
    fn is_decided_by_number(&self) -> bool {
        self.scope.is_uniform() || (self.scope.every_cell() && self.scope.all_rows())
    }

    /// What is selected of a column; `None`: it shows in every row that passes.
    fn shown(
        &self,
        column: &OutputColumn,
        verdict: &Verdict,
        batch: &RecordBatch,
        every: &Selection,
    ) -> Result<Option<Selection>, ArrowError> {
        let everywhere = column.always || mutated(Mutation::CellsUncovered);
        if everywhere || (column.by_grant && self.is_decided_by_number()) {
            return Ok(None);
        }
        let by_grant = match column.by_grant {
            true => verdict.selection(Some(column.scope_index)),
            false => verdict.selection_by(&BooleanBuffer::new_unset(verdict.rows)),
        };
        let Some(flag) = column.flag else {
            return Ok(Some(by_grant));
        };
        let flag = gather(batch.column(flag), every)?;
        let flag = match flag.as_boolean() {
            _ if mutated(Mutation::FlagForgotten) => return Ok(Some(by_grant)),
            flag if mutated(Mutation::NullFlagPublic) => {
                BooleanBuffer::collect_bool(flag.len(), |row| flag.is_null(row) || flag.value(row))
            }
            flag => only_true(flag),
        };
        let visible = by_grant.shown() | &flag;
        Ok(Some(verdict.selection_by(&visible)))
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
                    WindowBound::From(_) if mutated(Mutation::WindowNullBegun) => {
                        date.is_none_or(|date| date <= self.today)
                    }
                    WindowBound::From(_) => date.is_some_and(|date| date <= self.today),
                    WindowBound::Until(_) if mutated(Mutation::WindowEndInside) => {
                        date.is_none_or(|date| date >= self.today)
                    }
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

/// Where a boolean column is true: null is no.
fn only_true(array: &BooleanArray) -> BooleanBuffer {
    match array.nulls() {
        Some(nulls) => array.values() & nulls.inner(),
        None => array.values().clone(),
    }
}

/// The batch with buffers that hold what its rows show, in their order.
///
/// # Errors
/// When the columns make no batch, which would be a defect of the gate.
pub fn compacted(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let every = Selection::whole(batch.num_rows());
    let columns = batch.columns().iter();
    let columns: Result<Vec<ArrayRef>, ArrowError> =
        columns.map(|column| gather(column, &every)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns?, &options)
}

/// The event dates of a batch, days since the epoch.
struct Days<'a> {
    values: &'a [i32],
    nulls: Option<&'a NullBuffer>,
    /// No row is without a date, and within each run of an enterprise's rows the dates ascend, as files keep them.
    ascending: bool,
}

impl<'a> Days<'a> {
    fn new(numbers: &[i32], dates: Option<&'a Date32Array>) -> Option<Self> {
        let dates = dates?;
        let values: &[i32] = dates.values();
        let nulls = dates.nulls().filter(|nulls| nulls.null_count() > 0);
        let next = numbers.iter().skip(1).zip(values.iter().skip(1));
        let pairs = numbers.iter().zip(values).zip(next);
        // Without a way out, so that it is done for many rows at a time.
        let falls = pairs.fold(false, |falls, ((no, day), (next, then))| {
            falls | ((no == next) & (day > then))
        });
        Some(Self {
            values,
            nulls,
            ascending: nulls.is_none() && !falls,
        })
    }

    fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// Where the rows end that stand together from the first of some rows of one enterprise on, and are of days of a span
    /// that begins with the first row's.
    fn end_of(&self, rows: Range<usize>, span: &Span) -> usize {
        let values = self.values.get(rows.clone()).unwrap_or_default();
        let together = match self.ascending {
            // Most enterprises have so few that counting them all is quicker than looking for the first of the others.
            true if values.len() <= FEW_ROWS => {
                let within = values.iter().map(|day| u32::from(*day <= span.last));
                within.fold(0_u32, u32::wrapping_add) as usize
            }
            true => values.partition_point(|day| *day <= span.last),
            false => {
                let days = (rows.start..).zip(values);
                let held = |day| span.first <= day && day <= span.last;
                days.take_while(|(row, day)| !self.is_null(*row) && held(**day))
                    .count()
            }
        };
        // The first at least, lest there be no end.
        rows.start + together.max(1)
    }
}

/// See [`Days::end_of`].
const FEW_ROWS: usize = 64;

/// Rows that stand together, of one enterprise, in most tables: what a batch comes to seldom needs more room than this says.
const ROWS_OF_MOST: usize = 8;

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
