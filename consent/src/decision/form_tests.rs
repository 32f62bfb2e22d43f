//! Masks and buckets.

use proptest::prelude::*;
use qihui_catalog::{ColumnType, Date, Timestamp};

use super::{Bucket, Form, Mask, Value};

const AMOUNT: ColumnType = ColumnType::Decimal {
    precision: 6,
    scale: 2,
};

#[test]
fn each_form_fits_its_types() {
    let types = [
        ColumnType::String,
        ColumnType::Date,
        ColumnType::Boolean,
        ColumnType::Int32,
        ColumnType::Int64,
        AMOUNT,
        ColumnType::Timestamp,
    ];
    let fitting = |form: Form| {
        types
            .iter()
            .filter(|ty| form.fits(**ty))
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        fitting(Form::Masked(Mask::KeepEnds { head: 1, tail: 0 })),
        ["string"]
    );
    assert_eq!(fitting(Form::Masked(Mask::Year)), ["date", "timestamp"]);
    assert_eq!(
        fitting(Form::Masked(Mask::Zero)),
        ["int32", "int64", "decimal(6,2)"]
    );
    assert_eq!(fitting(Form::Masked(Mask::Hide)).len(), types.len());
    assert_eq!(
        fitting(Form::Bucketed(Bucket::Width(100))),
        ["int32", "int64", "decimal(6,2)"]
    );
    assert_eq!(
        fitting(Form::Bucketed(Bucket::Width(10_000))),
        ["int32", "int64"],
        "9999.99 never reaches it"
    );
    assert_eq!(fitting(Form::Bucketed(Bucket::Width(0))), [""; 0]);
    assert_eq!(fitting(Form::Bucketed(Bucket::Width(u64::MAX))), [""; 0]);
    assert_eq!(
        fitting(Form::Bucketed(Bucket::Quarter)),
        ["date", "timestamp"]
    );
    for ty in types {
        assert!(Mask::default_for(ty).fits(ty), "{ty}");
    }
}

#[test]
fn text_keeps_its_ends_and_not_its_length() {
    let mask = Mask::KeepEnds { head: 2, tail: 1 };
    for (text, shown) in [
        ("", "***"),
        ("杭", "***"),
        ("杭州市", "***"),
        ("杭州钢铁", "杭州***铁"),
        ("杭州钢铁集团公司", "杭州***司"),
    ] {
        assert_eq!(mask.apply_str(text).as_deref(), Some(shown));
    }
    assert_eq!(Mask::Hide.apply_str("x"), None);
    assert_eq!(
        Mask::Zero.apply_str("x"),
        None,
        "a mask for numbers shows nothing of a text"
    );
}

#[test]
fn numbers_show_the_lower_bound() {
    let width = Bucket::Width(100);
    for (number, bound) in [(0, 0), (99, 0), (100, 100), (-1, -100), (-100, -100)] {
        assert_eq!(
            width.apply_number(number, ColumnType::Int64),
            Some(bound),
            "{number}"
        );
    }
    assert_eq!(
        width.apply_number(12_345, AMOUNT),
        Some(10_000),
        "123.45 lies in the bucket of 100.00"
    );
    assert_eq!(
        width.apply_number(i32::MIN.into(), ColumnType::Int32),
        Some(i32::MIN.into()),
        "the least value"
    );
    assert_eq!(Bucket::Width(0).apply_number(5, ColumnType::Int64), None);
    assert_eq!(Bucket::Month.apply_number(5, ColumnType::Int64), None);
}

#[test]
fn days_show_the_start_of_their_period() {
    let date = Date::from_ymd_opt(2025, 11, 30).unwrap();
    let start = |month| Date::from_ymd_opt(2025, month, 1);
    assert_eq!(Bucket::Month.apply_date(date), start(11));
    assert_eq!(Bucket::Quarter.apply_date(date), start(10));
    assert_eq!(Bucket::Year.apply_date(date), start(1));
    assert_eq!(Mask::Year.apply_date(date), start(1));
    // 2025-12-31T17:00Z is already 2026 in Shanghai, whose year began at 2025-12-31T16:00Z.
    let instant = Timestamp::start_of(Date::from_ymd_opt(2026, 1, 1).unwrap()).0 * 1000;
    assert_eq!(
        Mask::Year.apply_timestamp(instant + 3_600_000_000),
        Some(instant)
    );
    assert_eq!(Bucket::Year.apply_timestamp(i64::MIN), None);
    assert_eq!(Bucket::Year.apply_timestamp(i64::MAX), None);
}

#[test]
fn forms_are_written_as_in_agreement_files() {
    for (form, json) in [
        (Form::Clear, r#""clear""#),
        (
            Form::Masked(Mask::KeepEnds { head: 2, tail: 4 }),
            r#"{"masked":{"keep_ends":{"head":2,"tail":4}}}"#,
        ),
        (Form::Masked(Mask::Year), r#"{"masked":"year"}"#),
        (
            Form::Bucketed(Bucket::Width(1000)),
            r#"{"bucketed":{"width":1000}}"#,
        ),
        (Form::Bucketed(Bucket::Quarter), r#"{"bucketed":"quarter"}"#),
    ] {
        assert_eq!(serde_json::to_string(&form).unwrap(), json);
        assert_eq!(serde_json::from_str::<Form>(json).unwrap(), form);
    }
    assert!(serde_json::from_str::<Form>(r#"{"masked":"rot13"}"#).is_err());
    assert!(
        serde_json::from_str::<Form>(r#"{"masked":{"keep_ends":{"head":1,"tail":1,"x":1}}}"#)
            .is_err()
    );
}

proptest! {
    /// A form keeps the type and shows a bound from below that is itself a fixed point.
    #[test]
    fn gate_1_buckets_are_lower_bounds(number in any::<i64>(), width in 1_u64..1_000_000_000) {
        let bucket = Bucket::Width(width);
        let bound = bucket.apply_number(number.into(), ColumnType::Int64).unwrap();
        prop_assert!(bound <= number.into() && i64::try_from(bound).is_ok());
        prop_assert!(i128::from(number) - bound < width.into());
        prop_assert_eq!(bucket.apply_number(bound, ColumnType::Int64), Some(bound));
    }

    /// Whatever form meets whatever value, nothing panics, and what comes back has the type of what went in.
    #[test]
    fn gate_1_forms_are_total(text in ".{0,12}", number in any::<i128>(), micros in any::<i64>(), head: u8, tail: u8) {
        let forms = [
            Form::Clear, Form::Masked(Mask::KeepEnds { head, tail }), Form::Masked(Mask::Year),
            Form::Masked(Mask::Zero), Form::Masked(Mask::Hide), Form::Bucketed(Bucket::Width(u64::from(head))),
            Form::Bucketed(Bucket::Width(u64::MAX)), Form::Bucketed(Bucket::Month),
        ];
        let values = [
            Value::String(text), Value::Number(number), Value::Timestamp(micros), Value::Boolean(true),
            Value::Date(Date::MIN), Value::Date(Date::MAX),
        ];
        for form in forms {
            for value in &values {
                for ty in [ColumnType::String, ColumnType::Int32, AMOUNT, ColumnType::Decimal { precision: 38, scale: 38 }] {
                    if let Some(shown) = form.apply(ty, value.clone()) {
                        prop_assert_eq!(std::mem::discriminant(&shown), std::mem::discriminant(value));
                    }
                }
            }
        }
    }
}
