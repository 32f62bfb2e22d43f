//! Copies of some rows of a column, with nothing of the others.
//!
//! INVARIANT: the arrays made here hold, in every buffer, only values of the rows that were asked for. What is left out is
//! not copied, and a place that stays empty is written as null over a zero; so is a null of the column itself, under which
//! the reader leaves values of rows beside it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, BooleanBufferBuilder,
    MutableArrayData, PrimitiveArray, StringViewArray, StringViewBuilder, downcast_primitive_array,
    make_array,
};
use arrow::array::{ByteView, MAX_INLINE_VIEW_LEN};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::nullif;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::mutations::{Mutation, mutated};

/// The largest buffer of texts, in bytes: offsets into one are signed in some engines.
const LARGEST_TEXTS: u32 = i32::MAX.unsigned_abs();

/// Rows that stand together in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The first.
    pub start: usize,
    /// How many.
    pub rows: usize,
    /// Whether their values are copied; otherwise as many nulls take their place.
    pub shown: bool,
}

impl Piece {
    fn range(self) -> Range<usize> {
        self.start..self.start + self.rows
    }
}

/// A bit per row of some pieces: whether it is shown.
pub fn shown(pieces: &[Piece]) -> BooleanBuffer {
    let mut bits = BooleanBufferBuilder::new(rows_of(pieces));
    for piece in pieces {
        bits.append_n(piece.rows, piece.shown);
    }
    bits.finish()
}

/// The pieces of a batch where a mask is set.
pub fn pieces_of(mask: &BooleanBuffer) -> Vec<Piece> {
    mask.set_slices()
        .map(|(start, end)| Piece {
            start,
            rows: end - start,
            shown: true,
        })
        .collect()
}

/// The rows of `pieces` of a column, in their order.
///
/// # Errors
/// When a piece reaches beyond the column.
pub fn gather(column: &ArrayRef, pieces: &[Piece]) -> Result<ArrayRef, ArrowError> {
    if pieces.iter().any(|piece| piece.range().end > column.len()) {
        return Err(ArrowError::ComputeError(
            "a piece must lie in its column".into(),
        ));
    }
    Ok(downcast_primitive_array!(
        column => Arc::new(primitives(column, pieces)?),
        DataType::Utf8View => match texts(column.as_string_view(), pieces)? {
            Some(texts) => Arc::new(texts),
            None => compact(others(column, pieces)?),
        },
        _ => others(column, pieces)?,
    ))
}

/// Drops buffers of string views that the views no longer need.
pub fn compact(value: ArrayRef) -> ArrayRef {
    match value.data_type() {
        DataType::Utf8View if !mutated(Mutation::TextNotCompacted) => {
            Arc::new(value.as_string_view().gc())
        }
        _ => value,
    }
}

fn rows_of(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.rows).sum()
}

fn primitives<T: ArrowPrimitiveType>(
    column: &PrimitiveArray<T>,
    pieces: &[Piece],
) -> Result<PrimitiveArray<T>, ArrowError> {
    let rows = rows_of(pieces);
    let mut values: Vec<T::Native> = Vec::with_capacity(rows);
    for piece in pieces {
        let copied = piece.shown || mutated(Mutation::HiddenUnderNulls);
        match column.values().get(piece.range()).filter(|_| copied) {
            Some(copied) => values.extend_from_slice(copied),
            None => values.resize(values.len() + piece.rows, T::Native::default()),
        }
    }
    let nulls = nulls(column.nulls(), pieces, rows);
    let blank = nulls.iter().filter(|_| !keeps_nulls());
    for row in blank.flat_map(|nulls| (!nulls.inner()).set_indices().collect::<Vec<_>>()) {
        if let Some(value) = values.get_mut(row) {
            *value = T::Native::default();
        }
    }
    let gathered = PrimitiveArray::try_new(values.into(), nulls)?;
    Ok(gathered.with_data_type(column.data_type().clone()))
}

fn nulls(column: Option<&NullBuffer>, pieces: &[Piece], rows: usize) -> Option<NullBuffer> {
    let column = column.filter(|nulls| nulls.null_count() > 0);
    if column.is_none() && pieces.iter().all(|piece| piece.shown) {
        return None;
    }
    let mut valid = BooleanBufferBuilder::new(rows);
    for piece in pieces {
        match column.filter(|_| piece.shown) {
            Some(nulls) => {
                let bits = nulls.inner();
                let range = piece.range();
                let from = range.start + bits.offset()..range.end + bits.offset();
                valid.append_packed_range(from, bits.values());
            }
            None => valid.append_n(piece.rows, piece.shown),
        }
    }
    Some(NullBuffer::new(valid.finish())).filter(|nulls| nulls.null_count() > 0)
}

/// Texts, some of which are too long to stand in their views: these are copied into one buffer. `None` when all are short.
fn texts(
    column: &StringViewArray,
    pieces: &[Piece],
) -> Result<Option<StringViewArray>, ArrowError> {
    if mutated(Mutation::TextNotCompacted) || keeps_nulls() {
        return Ok(None);
    }
    let pieces = where_valid(column.nulls(), pieces);
    let views = column.views();
    let shown = pieces.iter().filter(|piece| piece.shown);
    let shown = shown.flat_map(|piece| views.get(piece.range()).unwrap_or_default());
    let lengths = shown.map(|view| ByteView::from(*view).length);
    let long = lengths.filter(|length| *length > MAX_INLINE_VIEW_LEN);
    let bytes: u64 = long.map(u64::from).sum();
    if bytes == 0 {
        return Ok(None);
    }
    let block = u32::try_from(bytes)
        .unwrap_or(LARGEST_TEXTS)
        .min(LARGEST_TEXTS);
    let mut texts = StringViewBuilder::with_capacity(rows_of(&pieces)).with_fixed_block_size(block);
    for piece in &pieces {
        for row in piece.range() {
            match piece.shown {
                true => texts.try_append_value(column.value(row))?,
                false => texts.append_null(),
            }
        }
    }
    Ok(Some(texts.finish()))
}

/// Any type: of string views, the buffers are still those of the whole column.
fn others(column: &ArrayRef, pieces: &[Piece]) -> Result<ArrayRef, ArrowError> {
    let data = column.to_data();
    let pieces = where_valid(column.nulls(), pieces);
    let hides = pieces.iter().any(|piece| !piece.shown);
    let mut gathered = MutableArrayData::new(vec![&data], hides, rows_of(&pieces));
    let kept = mutated(Mutation::HiddenUnderNulls);
    for piece in &pieces {
        match piece.shown || kept {
            true => gathered.try_extend(0, piece.start, piece.start + piece.rows)?,
            false => gathered.try_extend_nulls(piece.rows)?,
        }
    }
    let gathered = make_array(gathered.freeze());
    if kept {
        let hidden = BooleanArray::new(!&shown(&pieces), None);
        return nullif(&gathered, &hidden);
    }
    Ok(gathered)
}

/// The pieces without the nulls of a column.
fn where_valid(nulls: Option<&NullBuffer>, pieces: &[Piece]) -> Vec<Piece> {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0 && !keeps_nulls());
    let Some(nulls) = nulls else {
        return pieces.to_vec();
    };
    let mut valid = Vec::with_capacity(pieces.len());
    for piece in pieces {
        if !piece.shown {
            valid.push(*piece);
            continue;
        }
        let mut part = |from: usize, to: usize, shown| {
            if from < to {
                valid.push(Piece {
                    start: piece.start + from,
                    rows: to - from,
                    shown,
                });
            }
        };
        let mut done = 0;
        for (from, to) in nulls.inner().slice(piece.start, piece.rows).set_slices() {
            part(done, from, false);
            part(from, to, true);
            done = to;
        }
        part(done, piece.rows, false);
    }
    valid
}

/// Whether what lies under nulls stays there.
fn keeps_nulls() -> bool {
    mutated(Mutation::FileNullsKept) || mutated(Mutation::HiddenUnderNulls)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal128Array, StringViewArray};

    use super::*;

    const PIECES: [Piece; 3] = [
        Piece {
            start: 1,
            rows: 2,
            shown: true,
        },
        Piece {
            start: 3,
            rows: 1,
            shown: false,
        },
        Piece {
            start: 4,
            rows: 1,
            shown: true,
        },
    ];

    fn gathered(column: impl Array + 'static) -> ArrayRef {
        // Not at the beginning of its buffers.
        let column: ArrayRef = Arc::new(column);
        gather(&column.slice(1, column.len() - 1), &PIECES).unwrap()
    }

    #[test]
    fn rows_come_in_order_and_hidden_ones_are_null_over_zero() {
        let dates = gathered(Date32Array::from(vec![9, 0, 1, 2, 3, 4]));
        assert_eq!(
            dates.as_ref(),
            &Date32Array::from(vec![Some(1), Some(2), None, Some(4)]) as &dyn Array
        );
        let dates: &Date32Array = dates.as_primitive();
        assert_eq!(dates.values(), &[1, 2, 0, 4]);
        let sparse = gathered(Date32Array::from(vec![
            None,
            Some(0),
            None,
            Some(2),
            Some(3),
            None,
        ]));
        assert_eq!(
            sparse.as_ref(),
            &Date32Array::from(vec![None, Some(2), None, None]) as &dyn Array
        );
        let flags = gathered(BooleanArray::from(vec![
            true, true, false, true, true, true,
        ]));
        assert_eq!(
            flags.as_ref(),
            &BooleanArray::from(vec![Some(false), Some(true), None, Some(true)]) as &dyn Array
        );
    }

    #[test]
    fn types_stay_and_no_buffer_holds_what_was_left_out() {
        let money = Decimal128Array::from(vec![9, 0, 1, 2, 3, 4]);
        let money = gathered(money.with_precision_and_scale(18, 2).unwrap());
        assert_eq!(money.data_type(), &DataType::Decimal128(18, 2));
        let names = ["", "left out, a long one", "a long name of one", "short"];
        let names = names
            .into_iter()
            .chain(["hidden, a long one", "a long name of two"]);
        let names = gathered(StringViewArray::from_iter_values(names));
        let expected = [
            Some("a long name of one"),
            Some("short"),
            None,
            Some("a long name of two"),
        ];
        assert_eq!(
            names.as_ref(),
            &expected.into_iter().collect::<StringViewArray>() as &dyn Array
        );
        for buffer in names.to_data().buffers() {
            let text = String::from_utf8_lossy(buffer.as_slice());
            assert!(!text.contains("left out") && !text.contains("hidden"));
        }
    }

    /// The reader fills the places of nulls with values of rows beside them.
    #[test]
    fn what_lies_under_nulls_is_overwritten() {
        let nulls = NullBuffer::from(vec![true, false, false, true, true, false]);
        let whole = [Piece {
            start: 0,
            rows: 6,
            shown: true,
        }];
        let days = Date32Array::new(vec![1, 7, 7, 2, 3, 7].into(), Some(nulls.clone()));
        let days = gather(&(Arc::new(days) as ArrayRef), &whole).unwrap();
        assert_eq!(
            days.as_primitive::<arrow::datatypes::Date32Type>().values(),
            &[1, 0, 0, 2, 3, 0]
        );
        let names = ["a", "hidden, a long one", "hidden", "b", "c", "hidden"];
        let names = StringViewArray::from_iter_values(names);
        let names = StringViewArray::try_new(
            names.views().clone(),
            names.data_buffers().to_vec(),
            Some(nulls),
        );
        let names = gather(&(Arc::new(names.unwrap()) as ArrayRef), &whole).unwrap();
        assert_eq!(names.null_count(), 3);
        for buffer in names.to_data().buffers() {
            assert!(!String::from_utf8_lossy(buffer.as_slice()).contains("hidden"));
        }
    }

    #[test]
    fn what_reaches_beyond_is_refused() {
        let column: ArrayRef = Arc::new(Date32Array::from(vec![0]));
        assert!(gather(&column, &PIECES).is_err());
        assert_eq!(gather(&column, &[]).unwrap().len(), 0);
    }

    #[test]
    fn pieces_are_where_a_mask_is_set() {
        let mask = BooleanBuffer::from(vec![true, true, false, true]);
        let places: Vec<_> = pieces_of(&mask).iter().map(|piece| piece.range()).collect();
        assert_eq!(places, [0..2, 3..4]);
    }
}
