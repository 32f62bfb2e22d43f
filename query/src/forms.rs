//! Disclosure forms over arrays. What a form means is defined once, by value, in
//! [`qihui_consent::decision::Form`]; here it is carried over columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, StringViewBuilder, new_null_array,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use qihui_catalog::ColumnType;
use qihui_consent::decision::{Form, Value};

use crate::mutations::{Mutation, mutated};

/// Applies `form` to every value of a column of type `ty`; nulls stay null, the type stays.
///
/// # Errors
/// When the array is not of the column's type, which would be a defect of the gate.
pub fn apply(form: Form, ty: ColumnType, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let forgotten = match form {
        Form::Clear => false,
        Form::Masked(_) => mutated(Mutation::MaskForgotten),
        Form::Bucketed(_) => mutated(Mutation::BucketForgotten),
    };
    if form == Form::Clear || forgotten {
        return Ok(Arc::clone(array));
    }
    if !form.fits(ty) {
        return Ok(new_null_array(array.data_type(), array.len()));
    }
    let shown = |value| form.apply(ty, value);
    Ok(match (ty, array.data_type()) {
        (ColumnType::String, DataType::Utf8View) => {
            let mut builder = StringViewBuilder::with_capacity(array.len());
            for text in array.as_string_view() {
                match text.and_then(|text| shown(Value::String(text.to_owned()))) {
                    Some(Value::String(text)) => builder.append_value(text),
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
        (ColumnType::Date, DataType::Date32) => map::<Date32Type>(array, |days| {
            match shown(Value::Date(Date32Type::to_naive_date_opt(days)?))? {
                Value::Date(date) => Some(Date32Type::from_naive_date(date)),
                _ => None,
            }
        }),
        (ColumnType::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            let micros = map_primitive::<TimestampMicrosecondType>(array, |micros| {
                match shown(Value::Timestamp(micros))? {
                    Value::Timestamp(micros) => Some(micros),
                    _ => None,
                }
            });
            Arc::new(micros.with_timezone_opt(zone.clone()))
        }
        (ColumnType::Int32, DataType::Int32) => map::<Int32Type>(array, |n| {
            number(shown(Value::Number(n.into())))?.try_into().ok()
        }),
        (ColumnType::Int64, DataType::Int64) => map::<Int64Type>(array, |n| {
            number(shown(Value::Number(n.into())))?.try_into().ok()
        }),
        (ColumnType::Decimal { .. }, DataType::Decimal128(precision, scale)) => {
            let numbers =
                map_primitive::<Decimal128Type>(array, |n| number(shown(Value::Number(n))));
            Arc::new(numbers.with_precision_and_scale(*precision, *scale)?)
        }
        (ColumnType::Boolean, DataType::Boolean) => new_null_array(&DataType::Boolean, array.len()),
        (_, other) => {
            return Err(ArrowError::SchemaError(format!(
                "a {ty} column cannot be {other}"
            )));
        }
    })
}

fn number(value: Option<Value>) -> Option<i128> {
    match value? {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

fn map<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    f: impl Fn(T::Native) -> Option<T::Native>,
) -> ArrayRef {
    Arc::new(map_primitive::<T>(array, f))
}

fn map_primitive<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    f: impl Fn(T::Native) -> Option<T::Native>,
) -> PrimitiveArray<T> {
    array
        .as_primitive::<T>()
        .iter()
        .map(|value| value.and_then(&f))
        .collect()
}

/// The Arrow type in which the gate hands a column on. Text is handed on as views: short values cost no copy,
/// and [`compact`](crate::rows) keeps buffers free of what is not shown.
pub fn arrow_type(ty: ColumnType) -> DataType {
    match ty {
        ColumnType::String => DataType::Utf8View,
        ColumnType::Date => DataType::Date32,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}
