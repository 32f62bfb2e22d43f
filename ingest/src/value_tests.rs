use proptest::prelude::*;

use super::*;

fn day(text: &str) -> Option<String> {
    date(text.as_bytes())
        .and_then(date_of)
        .map(|date| date.to_string())
}

#[test]
fn dates_have_four_forms() {
    for text in [
        "2019-05-01",
        "20190501",
        "2019/5/1",
        "2019-5-1",
        "2019/05/01",
        "2019-05-01 00:00:00",
        "2019-05-01T00:00:00.000",
    ] {
        assert_eq!(day(text).as_deref(), Some("2019-05-01"), "{text}");
    }
    for (text, long_term) in [("9999-09-09", "9999-09-09"), ("20991231", "2099-12-31")] {
        assert_eq!(day(text).as_deref(), Some(long_term));
    }
    for bad in [
        "2019-02-29",
        "20190230",
        "2019-13-01",
        "2019-05/01",
        "19-05-01",
        "2019-05",
        "2019-05-01x",
        "2019-05-01 10:00:00",
        "",
        "2019051",
        "二〇一九",
        "-019-05-01",
    ] {
        assert_eq!(day(bad), None, "{bad}");
    }
}

#[test]
fn times_without_a_zone_are_chinese() {
    let utc = |text: &str| timestamp(text.as_bytes());
    assert_eq!(utc("1970-01-01 08:00:00"), Some(0));
    assert_eq!(utc("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(utc("1970-01-01T01:00:00+01:00"), Some(0));
    assert_eq!(utc("19700101080001"), Some(1_000_000));
    assert_eq!(utc("1970-01-01 08:00:00.123456"), Some(123_456));
    assert_eq!(utc("1970-01-01 08:00:00.5"), Some(500_000));
    assert_eq!(utc("1970-01-02"), Some(DAY_US - CHINA_OFFSET_US));
    for bad in [
        "1970-01-01 24:00:00",
        "1970-01-01 10",
        "1970-01-01 10:00:00 +08",
        "1970-01-01T",
        "x",
    ] {
        assert_eq!(utc(bad), None, "{bad}");
    }
}

#[test]
fn numbers_are_exact() {
    let number = |text: &str, shift| decimal(text.as_bytes(), 18, 2, shift);
    assert_eq!(number("130192.3953", 4), Ok(130_192_395_300));
    assert_eq!(number("-1.50", 0), Ok(-150));
    assert_eq!(number("+.5", 0), Ok(50));
    assert_eq!(number("7.", 0), Ok(700));
    assert_eq!(number("1e3", 0), Ok(100_000));
    assert_eq!(number("1.25E-0", 0), Ok(125));
    assert_eq!(
        number("0.10000000000000000000000000000000000000000000", 0),
        Ok(10)
    );
    assert_eq!(number(&"0".repeat(100), 0), Ok(0));
    assert_eq!(number("0.001", 0), Err(Reason::TooManyDecimals));
    assert_eq!(number("8000000", -4), Ok(80_000));
    assert_eq!(
        number("9999999999999999.99", 0),
        Ok(999_999_999_999_999_999)
    );
    assert_eq!(number("10000000000000000", 0), Err(Reason::NumberTooLarge));
    assert_eq!(number(&"9".repeat(60), 0), Err(Reason::NumberTooLarge));
    assert_eq!(number("1e999", 0), Err(Reason::NumberTooLarge));
    for bad in [
        "", ".", "-", "1.2.3", "1,000", "1e", "1e+", "0x10", "NaN", "inf", "1 0", "１２", "1e9999",
    ] {
        assert_eq!(number(bad, 0), Err(Reason::BadNumber), "{bad}");
    }
}

#[test]
fn integers_keep_their_range() {
    assert_eq!(
        read("2147483647", ColumnType::Int32, 0),
        Ok(Value::Int32(i32::MAX))
    );
    assert_eq!(
        read("2147483648", ColumnType::Int32, 0),
        Err(Reason::NumberTooLarge)
    );
    assert_eq!(
        read("-9223372036854775808", ColumnType::Int64, 0),
        Ok(Value::Int64(i64::MIN))
    );
    assert_eq!(
        read("9223372036854775808", ColumnType::Int64, 0),
        Err(Reason::NumberTooLarge)
    );
    assert_eq!(read("12.0", ColumnType::Int32, 0), Ok(Value::Int32(12)));
    assert_eq!(
        read("12.5", ColumnType::Int32, 0),
        Err(Reason::TooManyDecimals)
    );
}

#[test]
fn amounts_in_words() {
    let parts = |text: &str| amount(text).map(|a| (a.number.to_owned(), a.exponent, a.currency));
    let some = |number: &str, exponent, currency| Some((number.to_owned(), exponent, currency));
    assert_eq!(
        amount("800万人民币"),
        Some(Amount {
            number: "800",
            exponent: Some(4),
            currency: Some("CNY")
        })
    );
    assert_eq!(parts("800万元人民币"), some("800", Some(4), Some("CNY")));
    assert_eq!(parts("800万元"), some("800", Some(4), None));
    assert_eq!(
        parts("800 万元（人民币）"),
        some("800", Some(4), Some("CNY"))
    );
    assert_eq!(parts("人民币 800万元整"), some("800", Some(4), Some("CNY")));
    assert_eq!(parts("1.5亿元"), some("1.5", Some(8), None));
    assert_eq!(parts("100万美元"), some("100", Some(4), Some("USD")));
    assert_eq!(parts("500000元"), some("500000", Some(0), None));
    for bad in [
        "800",
        "万元",
        "800斤",
        "800万美元人民币",
        "人民币800美元",
        "abc",
        "",
    ] {
        assert_eq!(parts(bad), None, "{bad}");
    }
}

#[test]
fn flags_and_null_words() {
    for (text, flag) in [
        ("1", true),
        ("是", true),
        ("Y", true),
        ("公示", true),
        ("TRUE", true),
        ("0", false),
        ("否", false),
        ("n", false),
        ("不公示", false),
    ] {
        assert_eq!(boolean(text), Some(flag), "{text}");
    }
    assert_eq!(boolean("2"), None);
    for word in [
        "",
        " ",
        "-",
        "N/A",
        "n/a",
        "无",
        " 无 ",
        "\u{3000}-",
        "\u{feff}",
    ] {
        assert!(is_null_word(trim(word)), "{word:?}");
    }
    for word in ["--", "0", "无限", "NA", "一"] {
        assert!(!is_null_word(trim(word)), "{word}");
    }
}

proptest! {
    #[test]
    fn ing_1_no_text_makes_a_reader_panic(text in "[-+.eE0-9/: TZ万亿元人民币美a\u{3000}\"]{0,24}", anything in any::<String>()) {
        for text in [&text, &anything] {
            let text = trim(text);
            let _ = (is_null_word(text), amount(text));
            for ty in [
                ColumnType::String, ColumnType::Date, ColumnType::Boolean, ColumnType::Int32, ColumnType::Int64,
                ColumnType::Decimal { precision: 38, scale: 6 }, ColumnType::Decimal { precision: 5, scale: 0 }, ColumnType::Timestamp,
            ] {
                for shift in [-4, 0, 4] {
                    let _ = read(text, ty, shift);
                }
            }
        }
    }

    #[test]
    fn every_decimal_reads_as_written(value in -(10_i128.pow(17))..10_i128.pow(17), zeros in 0_usize..40) {
        let sign = if value < 0 { "-" } else { "" };
        let (whole, part) = (value.unsigned_abs() / 1_000_000, value.unsigned_abs() % 1_000_000);
        let text = format!("{sign}{}{whole}.{part:06}{}", "0".repeat(zeros), "0".repeat(zeros));
        prop_assert_eq!(decimal(text.as_bytes(), 38, 6, 0), Ok(value));
    }

    #[test]
    fn the_short_way_agrees_with_the_long(text in "[0-9.]{0,20}", exponent in -6..12) {
        if let Some(number) = short_decimal(text.as_bytes(), exponent) {
            prop_assert_eq!(long_decimal(text.as_bytes(), exponent), Ok(number));
        }
    }

    #[test]
    fn every_day_reads_in_every_form(days in -700_000_i32..2_900_000) {
        let date_value = date_of(days).unwrap();
        for form in ["%Y-%m-%d", "%Y%m%d", "%Y/%-m/%-d"] {
            prop_assert_eq!(date(date_value.format(form).to_string().as_bytes()), Some(days));
        }
    }
}
