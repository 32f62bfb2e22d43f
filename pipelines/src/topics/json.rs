//! JSON straight from arrays: no value is boxed on its way into an event.
//!
//! Text as JSON strings, dates as `2026-07-01`, instants as RFC 3339 in UTC with microseconds, booleans and numbers as
//! such; decimals as numbers with all their digits, as query answers have them.

use std::io::Write as _;

use arrow::array::{
    Array, AsArray, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array,
    RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use chrono::SecondsFormat;
use qihui_query::QueryError;

/// A column whose cells can be written.
enum Cells<'a> {
    Text(&'a StringViewArray),
    Date(&'a Date32Array),
    Flag(&'a BooleanArray),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Decimal(&'a Decimal128Array),
    Instant(&'a TimestampMicrosecondArray),
}

/// A batch whose rows can be written as JSON objects.
pub struct RowWriter<'a> {
    /// The name of each column with a colon, as JSON, and its cells.
    columns: Vec<(Vec<u8>, Cells<'a>)>,
}

impl<'a> RowWriter<'a> {
    /// A writer for the rows of `batch`, which has the types of topics.
    ///
    /// # Errors
    /// [`QueryError::Internal`], a defect.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, QueryError> {
        let schema = batch.schema_ref();
        let columns = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| {
                let cells = match column.data_type() {
                    DataType::Utf8View => Cells::Text(column.as_string_view()),
                    DataType::Date32 => Cells::Date(column.as_primitive::<Date32Type>()),
                    DataType::Boolean => Cells::Flag(column.as_boolean()),
                    DataType::Int32 => Cells::Int32(column.as_primitive::<Int32Type>()),
                    DataType::Int64 => Cells::Int64(column.as_primitive::<Int64Type>()),
                    DataType::Decimal128(..) => {
                        Cells::Decimal(column.as_primitive::<Decimal128Type>())
                    }
                    DataType::Timestamp(TimeUnit::Microsecond, _) => {
                        Cells::Instant(column.as_primitive::<TimestampMicrosecondType>())
                    }
                    _ => return Err(internal()),
                };
                let mut name = serde_json::to_vec(field.name()).map_err(|_| internal())?;
                name.push(b':');
                Ok((name, cells))
            });
        Ok(Self {
            columns: columns.collect::<Result<_, _>>()?,
        })
    }

    /// Writes an object of the columns at `places` of a row, but not those in `left_out` (a bit per column).
    ///
    /// # Errors
    /// As [`RowWriter::new`].
    pub fn object(
        &self,
        row: usize,
        places: impl IntoIterator<Item = usize>,
        left_out: u128,
        out: &mut Vec<u8>,
    ) -> Result<(), QueryError> {
        out.push(b'{');
        let mut first = true;
        for place in places {
            if left_out >> place.min(127) & 1 == 1 {
                continue;
            }
            let (name, cells) = self.columns.get(place).ok_or_else(internal)?;
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(name);
            cells.write(row, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// How many columns there are.
    #[must_use]
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The text of a cell, if it is one.
    #[must_use]
    pub fn text(&self, row: usize, place: usize) -> Option<&'a str> {
        match self.columns.get(place)? {
            (_, Cells::Text(array)) if array.is_valid(row) => Some(array.value(row)),
            _ => None,
        }
    }
}

fn internal() -> QueryError {
    QueryError::Internal {
        what: "writing an event",
    }
}

impl Cells<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), QueryError> {
        let array: &dyn Array = match self {
            Self::Text(array) => *array,
            Self::Date(array) => *array,
            Self::Flag(array) => *array,
            Self::Int32(array) => *array,
            Self::Int64(array) => *array,
            Self::Decimal(array) => *array,
            Self::Instant(array) => *array,
        };
        if array.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        let written = match self {
            Self::Text(array) => serde_json::to_writer(&mut *out, array.value(row)).map_err(drop),
            Self::Flag(array) => write!(out, "{}", array.value(row)).map_err(drop),
            Self::Int32(array) => write!(out, "{}", array.value(row)).map_err(drop),
            Self::Int64(array) => write!(out, "{}", array.value(row)).map_err(drop),
            Self::Decimal(array) => decimal(array.value(row), array.scale(), out),
            Self::Date(array) => match Date32Type::to_naive_date_opt(array.value(row)) {
                Some(date) => write!(out, "\"{date}\"").map_err(drop),
                None => Err(()),
            },
            Self::Instant(array) => {
                match chrono::DateTime::from_timestamp_micros(array.value(row)) {
                    Some(instant) => {
                        let text = instant.to_rfc3339_opts(SecondsFormat::Micros, true);
                        write!(out, "\"{text}\"").map_err(drop)
                    }
                    None => Err(()),
                }
            }
        };
        written.map_err(|()| internal())
    }
}

/// A decimal with `scale` digits after the point.
fn decimal(value: i128, scale: i8, out: &mut Vec<u8>) -> Result<(), ()> {
    let scale = u32::from(scale.unsigned_abs());
    if scale == 0 {
        return write!(out, "{value}").map_err(drop);
    }
    let unit = 10_u128.checked_pow(scale).ok_or(())?;
    let (whole, rest) = (value.unsigned_abs() / unit, value.unsigned_abs() % unit);
    let sign = if value < 0 { "-" } else { "" };
    let width = scale as usize;
    write!(out, "{sign}{whole}.{rest:0width$}").map_err(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, new_null_array};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn a_row_is_written_as_json_with_all_its_digits() {
        let decimal = Decimal128Array::from(vec![Some(-5), Some(123_456_789_012_345_678)])
            .with_precision_and_scale(38, 2)
            .unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "name",
                Arc::new(StringViewArray::from(vec![Some("a\"\n杭州"), None])),
            ),
            ("day", Arc::new(Date32Array::from(vec![0, -1]))),
            ("ok", Arc::new(BooleanArray::from(vec![true, false]))),
            ("n", Arc::new(Int32Array::from(vec![-7, 7]))),
            ("big", Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX]))),
            ("amount", Arc::new(decimal)),
            (
                "seen",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![1, 1_735_689_600_000_000])
                        .with_timezone("UTC"),
                ),
            ),
            ("none", new_null_array(&DataType::Int32, 2)),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect();
        let arrays = columns.into_iter().map(|(_, column)| column).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        let writer = RowWriter::new(&batch).unwrap();
        let mut out = Vec::new();
        writer.object(0, 0..8, 1 << 3, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"name":"a\"\n杭州","day":"1970-01-01","ok":true,"big":-9223372036854775808,"amount":-0.05,"seen":"1970-01-01T00:00:00.000001Z","none":null}"#
        );
        let mut out = Vec::new();
        writer.object(1, [5, 0], 0, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"amount":1234567890123456.78,"name":null}"#
        );
    }
}
