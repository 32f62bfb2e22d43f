//! What became of rows between views: the events that bring a subscriber from whatever it may hold to the target.
//!
//! Promise: applied to a copy that equals any of the bases, the events give the target; and where all bases and the
//! target agree on a row, there is no event. So nothing hidden can cause one: the gate has read both sides.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::{Row, RowConverter, Rows, SortField};
use qihui_query::QueryError;
use qihui_query::access::delivery::TracedRows;

use super::event::{EventKind, Events};
use super::json::RowWriter;

/// The columns of a topic, with those that identify a row and the one that names the enterprise.
#[derive(Debug, Clone)]
pub struct Shape {
    /// All columns, in order.
    pub schema: SchemaRef,
    /// The key, by position.
    pub key: Vec<usize>,
    /// `uscc`, by position.
    pub uscc: usize,
}

fn internal<E>(_: E) -> QueryError {
    QueryError::Internal {
        what: "comparing views",
    }
}

/// One side of a comparison, in the order of enterprise and key.
struct Side<'a> {
    rows: &'a TracedRows,
    keys: Rows,
    contents: Option<Rows>,
    order: Vec<usize>,
    next: usize,
}

impl<'a> Side<'a> {
    fn new(
        rows: &'a TracedRows,
        shape: &Shape,
        keys: &RowConverter,
        contents: Option<&RowConverter>,
    ) -> Result<Self, QueryError> {
        let columns: Vec<_> = shape
            .key
            .iter()
            .filter_map(|place| rows.batch.columns().get(*place).cloned())
            .collect();
        let key_rows = keys.convert_columns(&columns).map_err(internal)?;
        let contents = contents
            .map(|contents| {
                contents
                    .convert_columns(rows.batch.columns())
                    .map_err(internal)
            })
            .transpose()?;
        let numbers = rows.numbers.values();
        let number = |row: usize| numbers.get(row).copied().unwrap_or(-1);
        let mut order: Vec<usize> = (0..rows.batch.num_rows()).collect();
        order.sort_unstable_by(|a, b| {
            number(*a)
                .cmp(&number(*b))
                .then_with(|| key_rows.row(*a).cmp(&key_rows.row(*b)))
        });
        Ok(Self {
            rows,
            keys: key_rows,
            contents,
            order,
            next: 0,
        })
    }

    fn row(&self) -> Option<usize> {
        self.order.get(self.next).copied()
    }

    fn number(&self, row: usize) -> i32 {
        self.rows.numbers.values().get(row).copied().unwrap_or(-1)
    }

    /// The enterprise and key of the row that is next.
    fn head(&self) -> Option<(i32, Row<'_>)> {
        self.row().map(|row| (self.number(row), self.keys.row(row)))
    }

    /// The row that is next, if it has this enterprise and key.
    fn at(&self, head: &(i32, Row<'_>)) -> Option<usize> {
        let found = self.head()?;
        (found.0 == head.0 && found.1 == head.1)
            .then(|| self.row())
            .flatten()
    }

    fn same_row(&self, row: usize, other: &Self, of_other: usize) -> bool {
        let marks = |side: &Self, row: usize| side.rows.withheld.get(row).copied();
        marks(self, row) == marks(other, of_other)
            && match (&self.contents, &other.contents) {
                (Some(a), Some(b)) => a.row(row) == b.row(of_other),
                _ => false,
            }
    }
}

/// Appends the events that bring a copy that equals any of `bases` to `target`, by enterprise and key.
///
/// # Errors
/// [`QueryError::Internal`], a defect.
pub fn compare(
    shape: &Shape,
    bases: &[TracedRows],
    target: &TracedRows,
    events: &mut Events,
) -> Result<(), QueryError> {
    let field = |place: &usize| {
        let field = shape.schema.fields().get(*place);
        field.map(|field| SortField::new(field.data_type().clone()))
    };
    let keys: Vec<SortField> = shape.key.iter().filter_map(field).collect();
    let keys = RowConverter::new(keys).map_err(internal)?;
    // Contents matter only where there is something to compare with.
    let contents = if bases.iter().any(|base| base.batch.num_rows() > 0) {
        let fields = shape.schema.fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        Some(RowConverter::new(fields.collect()).map_err(internal)?)
    } else {
        None
    };
    let mut target = Side::new(target, shape, &keys, contents.as_ref())?;
    let mut sides = Vec::with_capacity(bases.len());
    for base in bases {
        sides.push(Side::new(base, shape, &keys, contents.as_ref())?);
    }
    let writers: Result<Vec<RowWriter<'_>>, QueryError> = bases
        .iter()
        .map(|base| RowWriter::new(&base.batch))
        .collect();
    let mut writer = Writer {
        shape,
        target: RowWriter::new(&target.rows.batch)?,
        bases: writers?,
        names: names(&target.rows.batch)?,
        events,
    };
    while step(&mut target, &mut sides, &mut writer)? {}
    Ok(())
}

/// Deals with the least enterprise and key of all sides; false when there is none left.
fn step(
    target: &mut Side<'_>,
    bases: &mut [Side<'_>],
    writer: &mut Writer<'_>,
) -> Result<bool, QueryError> {
    let least = std::iter::once(&*target)
        .chain(bases.iter())
        .filter_map(Side::head)
        .min_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    let Some(least) = least else {
        return Ok(false);
    };
    let row = target.at(&least);
    let old: Vec<Option<usize>> = bases.iter().map(|base| base.at(&least)).collect();
    match row {
        Some(row) => {
            let same = |(base, old): (&Side<'_>, &Option<usize>)| {
                old.is_some_and(|old| target.same_row(row, base, old))
            };
            if !bases.iter().zip(&old).all(same) {
                writer.upserted(target, row)?;
            }
        }
        None => {
            let held = old
                .iter()
                .enumerate()
                .find_map(|(at, row)| Some((at, (*row)?)));
            if let Some((at, row)) = held
                && let Some(base) = bases.get(at)
            {
                writer.deleted(at, base, row)?;
            }
        }
    }
    target.next += usize::from(row.is_some());
    for (base, old) in bases.iter_mut().zip(old) {
        base.next += usize::from(old.is_some());
    }
    Ok(true)
}

/// The names of columns as JSON.
fn names(batch: &RecordBatch) -> Result<Vec<Vec<u8>>, QueryError> {
    let fields = batch.schema_ref().fields().iter();
    fields
        .map(|field| serde_json::to_vec(field.name()).map_err(internal))
        .collect()
}

/// Writes events from rows.
struct Writer<'a> {
    shape: &'a Shape,
    target: RowWriter<'a>,
    bases: Vec<RowWriter<'a>>,
    names: Vec<Vec<u8>>,
    events: &'a mut Events,
}

impl Writer<'_> {
    fn upserted(&mut self, target: &Side<'_>, row: usize) -> Result<(), QueryError> {
        let withheld = target.rows.withheld.get(row).copied().unwrap_or(u128::MAX);
        let (shape, writer, names) = (self.shape, &self.target, &self.names);
        let about = about(target.number(row), writer.text(row, shape.uscc));
        self.events.push(EventKind::Upserted, about, |out| {
            out.extend_from_slice(b"{\"key\":");
            writer.object(row, shape.key.iter().copied(), 0, out)?;
            out.extend_from_slice(b",\"row\":");
            writer.object(row, 0..writer.width(), withheld, out)?;
            out.extend_from_slice(b",\"withheld\":[");
            let mut first = true;
            for (place, name) in names.iter().enumerate() {
                if withheld >> place.min(127) & 1 == 1 {
                    if !std::mem::take(&mut first) {
                        out.push(b',');
                    }
                    out.extend_from_slice(name);
                }
            }
            out.extend_from_slice(b"]}");
            Ok(())
        })
    }

    fn deleted(&mut self, at: usize, base: &Side<'_>, row: usize) -> Result<(), QueryError> {
        let Some(writer) = self.bases.get(at) else {
            return Err(internal(()));
        };
        let shape = self.shape;
        let about = about(base.number(row), writer.text(row, shape.uscc));
        self.events.push(EventKind::Deleted, about, |out| {
            out.extend_from_slice(b"{\"key\":");
            writer.object(row, shape.key.iter().copied(), 0, out)?;
            out.push(b'}');
            Ok(())
        })
    }
}

fn about(number: i32, uscc: Option<&str>) -> (Option<u32>, &str) {
    (u32::try_from(number).ok(), uscc.unwrap_or_default())
}
