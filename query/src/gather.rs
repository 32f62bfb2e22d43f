//! Copies of some rows of a column, with nothing of the others.
//!
//! INVARIANT: the arrays made here hold, in every buffer, only values of the rows that were asked for. What is left out is
//! not copied, and a place that stays empty is written as null over a zero; so is a null of the column itself, under which
//! the reader leaves values of rows beside it.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, BooleanBufferBuilder,
    PrimitiveArray, UInt32Array, downcast_primitive_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::compute::{nullif, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::mutations::{Mutation, mutated};

/// Rows that stand together in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: usize,
    rows: usize,
    shown: bool,
}

impl Piece {
    fn range(self) -> Range<usize> {
        self.start..self.start + self.rows
    }
}

/// Rows of a batch that are copied, in order; of some of them the values are, nulls take the place of the others'.
#[derive(Debug, Default)]
pub struct Selection {
    pieces: Vec<Piece>,
    rows: usize,
    hidden: usize,
    shown: OnceCell<BooleanBuffer>,
    indices: OnceCell<UInt32Array>,
}

impl Selection {
    /// Nothing yet, with room for so many groups of rows that stand together.
    pub fn with_capacity(groups: usize) -> Self {
        Self {
            pieces: Vec::with_capacity(groups),
            ..Self::default()
        }
    }

    /// Every row of a batch, with its values.
    pub fn whole(rows: usize) -> Self {
        let mut whole = Self::default();
        whole.push(0, rows, true);
        whole
    }

    /// The rows where a mask is set, with their values.
    pub fn of_mask(mask: &BooleanBuffer) -> Self {
        let mut selection = Self::default();
        for (start, end) in mask.set_slices() {
            selection.push(start, end - start, true);
        }
        selection
    }

    /// Adds rows that stand together from `start` on, with their values or without.
    pub fn push(&mut self, start: usize, rows: usize, shown: bool) {
        if rows == 0 {
            return;
        }
        self.rows += rows;
        self.hidden += if shown { 0 } else { rows };
        match self.pieces.last_mut() {
            Some(last) if last.range().end == start && last.shown == shown => last.rows += rows,
            _ => self.pieces.push(Piece { start, rows, shown }),
        }
    }

    /// How many rows are copied without their values.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// A bit per row: whether its value is copied. To be asked when all rows are in it.
    pub fn shown(&self) -> &BooleanBuffer {
        self.shown.get_or_init(|| {
            let mut words = vec![0_u64; self.rows.div_ceil(64)];
            let mut at = 0;
            for piece in &self.pieces {
                if piece.shown {
                    set_bits(&mut words, at, piece.rows);
                }
                at += piece.rows;
            }
            BooleanBuffer::new(Buffer::from_vec(words), 0, self.rows)
        })
    }

    /// The same rows, without values where a column has none.
    fn where_valid(&self, nulls: &NullBuffer) -> Self {
        let mut valid = Self::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            if !piece.shown {
                valid.push(piece.start, piece.rows, false);
                continue;
            }
            let mut done = 0;
            let bits = nulls.inner().slice(piece.start, piece.rows);
            for (from, to) in bits.set_slices() {
                valid.push(piece.start + done, from - done, false);
                valid.push(piece.start + from, to - from, true);
                done = to;
            }
            valid.push(piece.start + done, piece.rows - done, false);
        }
        valid
    }

    /// The position of each row, null where its value is not copied.
    fn indices(&self) -> &UInt32Array {
        self.indices.get_or_init(|| {
            let mut indices = Vec::with_capacity(self.rows);
            let leaves_out = !mutated(Mutation::HiddenUnderNulls);
            let index = |row: usize| u32::try_from(row).unwrap_or(u32::MAX);
            for piece in &self.pieces {
                match piece.shown || !leaves_out {
                    true => indices.extend(index(piece.start)..index(piece.range().end)),
                    // Beyond every batch: nothing but a null can come of it.
                    false => indices.resize(indices.len() + piece.rows, u32::MAX),
                }
            }
            let hides = self.hidden > 0 && leaves_out;
            let nulls = hides.then(|| NullBuffer::new(self.shown().clone()));
            UInt32Array::new(indices.into(), nulls)
        })
    }
}

/// Sets some bits, at least one, from one on.
fn set_bits(words: &mut [u64], first: usize, bits: usize) {
    let last = first + bits - 1;
    let (from, to) = (u64::MAX << (first % 64), u64::MAX >> (63 - last % 64));
    match words.get_mut(first / 64..=last / 64) {
        Some([only]) => *only |= from & to,
        Some([begin, middle @ .., end]) => {
            *begin |= from;
            middle.fill(u64::MAX);
            *end |= to;
        }
        _ => {}
    }
}

/// The rows of a column that are selected, in their order.
///
/// # Errors
/// When a row is beyond the column.
pub fn gather(column: &ArrayRef, selection: &Selection) -> Result<ArrayRef, ArrowError> {
    let mut pieces = selection.pieces.iter();
    if pieces.any(|piece| piece.range().end > column.len()) || u32::try_from(column.len()).is_err()
    {
        return Err(ArrowError::ComputeError(
            "a selected row must be one of the column".into(),
        ));
    }
    Ok(downcast_primitive_array!(
        column => Arc::new(primitives(column, selection)?),
        _ => others(column, selection)?,
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

fn primitives<T: ArrowPrimitiveType>(
    column: &PrimitiveArray<T>,
    selection: &Selection,
) -> Result<PrimitiveArray<T>, ArrowError> {
    let mut values: Vec<T::Native> = Vec::with_capacity(selection.rows);
    for piece in &selection.pieces {
        let copied = piece.shown || mutated(Mutation::HiddenUnderNulls);
        match column.values().get(piece.range()).filter(|_| copied) {
            Some(copied) => values.extend_from_slice(copied),
            None => values.resize(values.len() + piece.rows, T::Native::default()),
        }
    }
    let own = column.nulls().filter(|nulls| nulls.null_count() > 0);
    let nulls = match own {
        Some(own) => Some(nulls(own, selection)),
        None => (selection.hidden > 0).then(|| NullBuffer::new(selection.shown().clone())),
    };
    if let Some(nulls) = nulls.as_ref().filter(|_| own.is_some() && !keeps_nulls()) {
        let blank = !nulls.inner();
        for row in blank.set_indices() {
            if let Some(value) = values.get_mut(row) {
                *value = T::Native::default();
            }
        }
    }
    let gathered = PrimitiveArray::try_new(values.into(), nulls)?;
    Ok(gathered.with_data_type(column.data_type().clone()))
}

/// Which of the selected rows of a column are null.
fn nulls(column: &NullBuffer, selection: &Selection) -> NullBuffer {
    let bits = column.inner();
    let mut valid = BooleanBufferBuilder::new(selection.rows);
    for piece in &selection.pieces {
        if piece.shown {
            let range = piece.range();
            let from = range.start + bits.offset()..range.end + bits.offset();
            valid.append_packed_range(from, bits.values());
        } else {
            valid.append_n(piece.rows, false);
        }
    }
    NullBuffer::new(valid.finish())
}

/// Any other type; of texts, those that are too long to stand in their views are copied into a buffer of their own.
fn others(column: &ArrayRef, selection: &Selection) -> Result<ArrayRef, ArrowError> {
    let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
    let valid = nulls.filter(|_| !keeps_nulls());
    let valid = valid.map(|nulls| selection.where_valid(nulls));
    let selection = valid.as_ref().unwrap_or(selection);
    let gathered = take(column, selection.indices(), None)?;
    if mutated(Mutation::HiddenUnderNulls) {
        let hidden = BooleanArray::new(!selection.shown(), None);
        return nullif(&compact(gathered), &hidden);
    }
    Ok(compact(gathered))
}

/// Whether what lies under nulls stays there.
fn keeps_nulls() -> bool {
    mutated(Mutation::FileNullsKept) || mutated(Mutation::HiddenUnderNulls)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal128Array, StringViewArray};

    use super::*;

    /// The second to the fifth row, the fourth of them without its value.
    fn some() -> Selection {
        let mut selection = Selection::default();
        selection.push(1, 2, true);
        selection.push(3, 1, false);
        selection.push(4, 1, true);
        selection
    }

    fn gathered(column: impl Array + 'static) -> ArrayRef {
        // Not at the beginning of its buffers.
        let column: ArrayRef = Arc::new(column);
        gather(&column.slice(1, column.len() - 1), &some()).unwrap()
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
        let whole = Selection::whole(6);
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
        assert!(gather(&column, &some()).is_err());
        assert_eq!(gather(&column, &Selection::default()).unwrap().len(), 0);
    }

    #[test]
    fn bits_are_set_within_words_and_across() {
        for (first, bits) in [
            (0, 1),
            (3, 60),
            (3, 61),
            (3, 62),
            (63, 1),
            (60, 200),
            (64, 128),
        ] {
            let mut words = [0; 5];
            set_bits(&mut words, first, bits);
            let set = |bit: usize| words[bit / 64] >> (bit % 64) & 1 == 1;
            let expected = |bit| (first..first + bits).contains(&bit);
            assert!(
                (0..320).all(|bit| set(bit) == expected(bit)),
                "{first} {bits}"
            );
        }
    }

    #[test]
    fn rows_that_stand_together_are_one_piece() {
        let mask = BooleanBuffer::from(vec![true, true, false, true]);
        let mut selection = Selection::of_mask(&mask);
        selection.push(4, 1, true);
        selection.push(5, 0, false);
        selection.push(5, 2, false);
        let ranges: Vec<_> = selection.pieces.iter().map(|piece| piece.range()).collect();
        assert_eq!(ranges, [0..2, 3..5, 5..7]);
        assert_eq!((selection.rows, selection.hidden()), (6, 2));
        assert_eq!(
            selection.shown(),
            &BooleanBuffer::from(vec![true, true, true, true, false, false])
        );
    }
}
