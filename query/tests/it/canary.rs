//! Values that hidden rows and cells hold and that nothing may show: a word, and a number of each type that nobody computes
//! by chance.

use arrow::array::ArrayData;
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Date32Type};
use qihui_catalog::ColumnType;
use qihui_consent::decision::Value;

use crate::world::array;

/// How hidden texts begin.
pub const WORD: &str = "SECRET";
/// A hidden number of 32 bits.
pub const INT32: i32 = 1_938_274_651;
/// A hidden number of 64 bits.
pub const INT64: i64 = 6_028_531_770_194_637_283;
/// A hidden decimal of twelve digits, and one of 24, without their points.
pub const DECIMALS: [i128; 2] = [827_364_519_031, 827_364_519_031_827_364_519_031];
/// Days since 1970 of a hidden day, 26 August 7391.
pub const DAY: i32 = 1_980_217;
/// Microseconds since 1970 of a hidden instant, on that day.
pub const INSTANT: i64 = 171_090_769_401_123_457;

/// What stands for hidden in a column of a type; none where a type has too few values for one that stands out.
pub fn of(ty: ColumnType) -> Option<Value> {
    Some(match ty {
        ColumnType::String => Value::String(WORD.to_owned()),
        ColumnType::Int32 => Value::Number(INT32.into()),
        ColumnType::Int64 => Value::Number(INT64.into()),
        ColumnType::Decimal { precision, .. } => {
            let mut fitting = DECIMALS.into_iter().rev();
            Value::Number(fitting.find(|n| *n < 10_i128.pow(precision.into()))?)
        }
        ColumnType::Date => Value::Date(Date32Type::to_naive_date_opt(DAY)?),
        ColumnType::Timestamp => Value::Timestamp(INSTANT),
        ColumnType::Boolean => return None,
    })
}

/// What of them stands in a text: the word, the day, or digits that are too many for chance.
pub fn in_text(text: &str) -> Option<&'static str> {
    let words = [
        WORD,
        "7391-08-26",
        "6028531770194637283",
        "8273645190.31",
        "827364519031",
    ];
    words.into_iter().find(|word| text.contains(word))
}

/// What of them stands in the bytes of a file or an answer, as text or in binary.
pub fn in_bytes(bytes: &[u8]) -> Option<&'static str> {
    let found = in_text(&String::from_utf8_lossy(bytes));
    found.or_else(|| number_in(bytes))
}

/// Which number of eight bytes stands in `bytes` in binary.
fn number_in(bytes: &[u8]) -> Option<&'static str> {
    // Of the decimals the last eight bytes; of the long one also as Parquet has it, most significant byte first.
    let [short, long] = DECIMALS.map(|decimal| decimal as i64);
    let numbers = [
        (INT64.to_le_bytes(), "a number"),
        (INSTANT.to_le_bytes(), "an instant"),
        (short.to_le_bytes(), "a decimal"),
        (long.to_le_bytes(), "a long decimal"),
        (long.to_be_bytes(), "a long decimal"),
    ];
    bytes.windows(8).find_map(|window| {
        let mut numbers = numbers.iter();
        let known = numbers.find(|(bytes, _)| bytes == window);
        known.map(|(_, what)| *what)
    })
}

/// What of them stands in the buffers of an array, under a null or behind the values.
pub fn in_buffers(data: &ArrayData) -> Option<&'static str> {
    let (own, what): (&[&[u8]], _) = match data.data_type() {
        DataType::Int32 => (&[&INT32.to_le_bytes()], "a narrow number"),
        DataType::Date32 => (&[&DAY.to_le_bytes()], "a day"),
        DataType::Int64 => (&[&INT64.to_le_bytes()], "a number"),
        DataType::Timestamp(..) => (&[&INSTANT.to_le_bytes()], "an instant"),
        DataType::Decimal128(..) => (
            &[&DECIMALS[0].to_le_bytes(), &DECIMALS[1].to_le_bytes()],
            "a decimal",
        ),
        _ => (&[], ""),
    };
    let holds = |bytes: &[u8]| {
        let mut own = own.iter();
        own.any(|known| bytes.chunks_exact(known.len()).any(|value| value == *known))
    };
    let mut buffers = data.buffers().iter().map(Buffer::as_slice);
    let found = buffers.find_map(|bytes| match holds(bytes) {
        true => Some(what),
        false => in_text(&String::from_utf8_lossy(bytes)),
    });
    found.or_else(|| data.child_data().iter().find_map(in_buffers))
}

/// What is looked for is found where it is: in arrays of each type, and in answers of each form.
#[test]
fn canaries_are_found_where_they_are() {
    let types = [
        ColumnType::String,
        ColumnType::Int32,
        ColumnType::Int64,
        ColumnType::Decimal {
            precision: 12,
            scale: 2,
        },
        ColumnType::Decimal {
            precision: 30,
            scale: 6,
        },
        ColumnType::Date,
        ColumnType::Timestamp,
    ];
    for ty in types {
        let hidden = of(ty).unwrap();
        let column = array(ty, [None, Some(&hidden)].into_iter(), true);
        assert!(in_buffers(&column.to_data()).is_some(), "{ty:?}");
        let column = array(ty, [None].into_iter(), true);
        assert_eq!(in_buffers(&column.to_data()), None, "{ty:?}");
    }
}
