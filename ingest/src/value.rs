//! Reads the values that real extracts write: dates, amounts, flags, null words. No allocation, no floats.

use qihui_catalog::{ColumnType, Date, Unit};

use crate::reason::Reason;

/// Days from 0001-01-01 (day 1 of chrono's common era) to 1970-01-01.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;
/// Extracts write civil time of China, which has had no other offset since 1992.
const CHINA_OFFSET_US: i64 = 8 * 3_600 * 1_000_000;
const DAY_US: i64 = 24 * 3_600 * 1_000_000;
const POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1; 39];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// A value in the terms of its column. Text stays where it stands in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Text,
    /// Days since 1970-01-01.
    Date(i32),
    Boolean(bool),
    Int32(i32),
    Int64(i64),
    /// A whole count of the smallest decimal place.
    Decimal(i128),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
}

impl Value {
    /// The number in the column's smallest decimal place.
    pub fn number(self) -> Option<i128> {
        match self {
            Self::Int32(n) => Some(n.into()),
            Self::Int64(n) => Some(n.into()),
            Self::Decimal(n) => Some(n),
            _ => None,
        }
    }
}

/// Takes white space off both ends, the ideographic space included.
pub(crate) fn trim(text: &str) -> &str {
    // The first and last byte decide nearly always: nothing below `!` and nothing outside ASCII to look at.
    match text.as_bytes() {
        [] => text,
        [first, .., last] if is_plain(*first) && is_plain(*last) => text,
        [only] if is_plain(*only) => text,
        _ => text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}'),
    }
}

fn is_plain(byte: u8) -> bool {
    (0x21..0x7F).contains(&byte)
}

/// Whether `text`, already trimmed, is one of the words that mean "no value": nothing, `-`, `N/A`, `无`.
pub(crate) fn is_null_word(text: &str) -> bool {
    match text.len() {
        0 => true,
        1 => text == "-",
        3 => text == "无" || text.eq_ignore_ascii_case("n/a"),
        _ => false,
    }
}

/// Reads `text`, already trimmed and no null word, as a value of type `ty`.
///
/// `shift` is the power of ten between the unit of the source and that of the column.
pub(crate) fn read(text: &str, ty: ColumnType, shift: i32) -> Result<Value, Reason> {
    match ty {
        ColumnType::String => Ok(Value::Text),
        ColumnType::Date => date(text.as_bytes())
            .map(Value::Date)
            .ok_or(Reason::BadDate),
        ColumnType::Boolean => boolean(text).map(Value::Boolean).ok_or(Reason::BadBoolean),
        ColumnType::Int32 => {
            let number = decimal(text.as_bytes(), 10, 0, shift)?;
            i32::try_from(number)
                .map(Value::Int32)
                .map_err(|_| Reason::NumberTooLarge)
        }
        ColumnType::Int64 => {
            let number = decimal(text.as_bytes(), 19, 0, shift)?;
            i64::try_from(number)
                .map(Value::Int64)
                .map_err(|_| Reason::NumberTooLarge)
        }
        ColumnType::Decimal { precision, scale } => {
            decimal(text.as_bytes(), precision.into(), scale.into(), shift).map(Value::Decimal)
        }
        ColumnType::Timestamp => timestamp(text.as_bytes())
            .map(Value::Timestamp)
            .ok_or(Reason::BadTime),
    }
}

/// The power of ten of a unit.
pub(crate) fn unit_exponent(unit: Unit) -> i32 {
    match unit {
        Unit::One => 0,
        Unit::TenThousand => 4,
    }
}

/// `1`, `0`, `是`, `否`, `公示`, `不公示`, `y`, `yes`, `t`, `true`, `n`, `no`, `f`, `false`, letters in any case.
fn boolean(text: &str) -> Option<bool> {
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match text {
        "1" | "是" | "公示" => Some(true),
        "0" | "否" | "不公示" => Some(false),
        _ if is_one_of(&["y", "yes", "t", "true"]) => Some(true),
        _ if is_one_of(&["n", "no", "f", "false"]) => Some(false),
        _ => None,
    }
}

/// `2019-05-01`, `20190501`, `2019/5/1`, `2019-5-1`, each also with a time of midnight behind it.
pub(crate) fn date(text: &[u8]) -> Option<i32> {
    let (day, rest) = date_prefix(text)?;
    match rest {
        [] => Some(day),
        [b' ' | b'T', time @ ..] if time_of_day(time)? == 0 => Some(day),
        _ => None,
    }
}

/// The date at the start of `text`, and what follows it.
fn date_prefix(text: &[u8]) -> Option<(i32, &[u8])> {
    let year = digits(text.get(..4)?)?;
    match &text[4..] {
        [separator @ (b'-' | b'/'), rest @ ..] => {
            let (month, rest) = one_or_two_digits(rest)?;
            let rest = rest.strip_prefix(&[*separator])?;
            let (day, rest) = one_or_two_digits(rest)?;
            Some((days(year, month, day)?, rest))
        }
        [m1, m2, d1, d2, rest @ ..] => Some((
            days(year, digits(&[*m1, *m2])?, digits(&[*d1, *d2])?)?,
            rest,
        )),
        _ => None,
    }
}

fn days(year: u32, month: u32, day: u32) -> Option<i32> {
    use chrono::Datelike;
    let date = Date::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    Some(date.num_days_from_ce() - EPOCH_DAYS_FROM_CE)
}

/// The calendar day of a count of days since 1970-01-01.
pub(crate) fn date_of(days: i32) -> Option<Date> {
    Date::from_num_days_from_ce_opt(days.checked_add(EPOCH_DAYS_FROM_CE)?)
}

/// The count of days since 1970-01-01.
pub(crate) fn days_of(date: Date) -> i32 {
    use chrono::Datelike;
    date.num_days_from_ce() - EPOCH_DAYS_FROM_CE
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0_u32, |n, byte| {
        byte.is_ascii_digit()
            .then(|| n * 10 + u32::from(byte - b'0'))
    })
}

fn one_or_two_digits(text: &[u8]) -> Option<(u32, &[u8])> {
    match text {
        [a, b, rest @ ..] if b.is_ascii_digit() => Some((digits(&[*a, *b])?, rest)),
        [a, rest @ ..] => Some((digits(&[*a])?, rest)),
        [] => None,
    }
}

/// `hh:mm[:ss[.ffffff]]` or `hhmmss` as microseconds of the day.
fn time_of_day(text: &[u8]) -> Option<i64> {
    let (hour, minute, second, fraction): (u32, u32, u32, &[u8]) = match text {
        [h1, h2, b':', m1, m2] => (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?, 0, &[]),
        [h1, h2, b':', m1, m2, b':', s1, s2, fraction @ ..] => (
            digits(&[*h1, *h2])?,
            digits(&[*m1, *m2])?,
            digits(&[*s1, *s2])?,
            fraction,
        ),
        [h1, h2, m1, m2, s1, s2] => (
            digits(&[*h1, *h2])?,
            digits(&[*m1, *m2])?,
            digits(&[*s1, *s2])?,
            &[],
        ),
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', places @ ..] if (1..=9).contains(&places.len()) => {
            let value = i64::from(digits(places)?);
            match places.len() {
                n @ ..=6 => value * i64::pow(10, u32::try_from(6 - n).ok()?),
                n => value / i64::pow(10, u32::try_from(n - 6).ok()?),
            }
        }
        _ => return None,
    };
    Some(
        (i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second)) * 1_000_000 + micros,
    )
}

/// A date with an optional time and zone (`Z`, `+08:00`, `+0800`); without a zone it is time of China.
fn timestamp(text: &[u8]) -> Option<i64> {
    let (day, rest) = date_prefix(text)?;
    let midnight = i64::from(day) * DAY_US;
    let rest = match rest {
        [] => return Some(midnight - CHINA_OFFSET_US),
        [b' ' | b'T', rest @ ..] => rest,
        rest => rest,
    };
    let zone_at = rest
        .iter()
        .position(|b| matches!(b, b'Z' | b'+' | b'-'))
        .unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let offset = match zone {
        [] => CHINA_OFFSET_US,
        [b'Z'] => 0,
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 14 || minutes > 59 {
                return None;
            }
            let size = (i64::from(hours) * 3_600 + i64::from(minutes) * 60) * 1_000_000;
            if *sign == b'-' { -size } else { size }
        }
        _ => return None,
    };
    Some(midnight + time_of_day(time)? - offset)
}

/// Reads `[+-]digits[.digits][e[+-]digits]` exactly, times 10^`shift`, as a count of 10^-`scale`.
pub(crate) fn decimal(text: &[u8], precision: u32, scale: i32, shift: i32) -> Result<i128, Reason> {
    let (negative, digits_text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let number = match short_decimal(digits_text, scale + shift) {
        Some(number) => number,
        None => long_decimal(digits_text, scale + shift)?,
    };
    let bound = POWERS_OF_TEN
        .get(precision as usize)
        .copied()
        .unwrap_or(i128::MAX);
    if number >= bound {
        return Err(Reason::NumberTooLarge);
    }
    Ok(if negative { -number } else { number })
}

/// The common case: up to 18 digits and a point, all places fitting the column; none sends the text the long way.
fn short_decimal(text: &[u8], exponent: i32) -> Option<i128> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    let (mut value, mut places, mut seen, mut point) = (0_u64, 0, false, false);
    for byte in text {
        match byte {
            b'0'..=b'9' => {
                seen = true;
                value = value * 10 + u64::from(byte - b'0');
                places += i32::from(point);
            }
            b'.' if !point => point = true,
            _ => return None,
        }
    }
    // A number of 18 digits times 10^20 stays below 10^38.
    let power = usize::try_from(exponent - places)
        .ok()
        .filter(|power| seen && *power <= 20)?;
    Some(i128::from(value) * POWERS_OF_TEN[power])
}

fn long_decimal(text: &[u8], exponent: i32) -> Result<i128, Reason> {
    let mut mantissa = Mantissa::default();
    let (mut exponent, mut seen, mut point) = (exponent, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                seen = true;
                mantissa.push(byte - b'0');
                exponent -= i32::from(point);
            }
            b'.' if !point => point = true,
            b'e' | b'E' if seen => {
                exponent += written_exponent(&text[at + 1..]).ok_or(Reason::BadNumber)?;
                break;
            }
            _ => return Err(Reason::BadNumber),
        }
    }
    if seen {
        mantissa.scaled(exponent)
    } else {
        Err(Reason::BadNumber)
    }
}

fn written_exponent(text: &[u8]) -> Option<i32> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if text.is_empty() || text.len() > 3 {
        return None;
    }
    let size = i32::try_from(digits(text)?).ok()?;
    Some(if negative { -size } else { size })
}

/// The digits of a number: a value, and zeros behind it that are not yet part of the value.
///
/// Keeping trailing zeros apart lets `1.500000…0` of any length fit, and any number of leading zeros.
#[derive(Default)]
struct Mantissa {
    value: i128,
    zeros: i32,
    too_large: bool,
}

impl Mantissa {
    #[inline]
    fn push(&mut self, digit: u8) {
        if digit == 0 {
            self.zeros += i32::from(self.value != 0);
            return;
        }
        let zeros = std::mem::take(&mut self.zeros);
        let next = usize::try_from(zeros + 1)
            .ok()
            .and_then(|places| POWERS_OF_TEN.get(places))
            .and_then(|power| self.value.checked_mul(*power))
            .and_then(|value| value.checked_add(digit.into()));
        match next {
            Some(value) => self.value = value,
            // More than 38 significant digits fit no column.
            None => self.too_large = true,
        }
    }

    /// The value times 10^`exponent`.
    fn scaled(&self, exponent: i32) -> Result<i128, Reason> {
        if self.too_large {
            return Err(Reason::NumberTooLarge);
        }
        if self.value == 0 {
            return Ok(0);
        }
        // The value does not end in a zero: a negative power would cut digits off.
        let places = usize::try_from(exponent + self.zeros).map_err(|_| Reason::TooManyDecimals)?;
        let power = POWERS_OF_TEN.get(places).ok_or(Reason::NumberTooLarge)?;
        self.value.checked_mul(*power).ok_or(Reason::NumberTooLarge)
    }
}

/// An amount written in words: `800万人民币`, `1.5亿元`, `人民币800万元`, `100万美元`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amount<'a> {
    /// The number.
    pub number: &'a str,
    /// The power of ten its words name; without one the unit of the source holds.
    pub exponent: Option<i32>,
    /// The currency its words name, ISO 4217.
    pub currency: Option<&'static str>,
}

const CURRENCY_WORDS: [(&str, &str); 20] = [
    ("人民币", "CNY"),
    ("元人民币", "CNY"),
    ("美元", "USD"),
    ("美金", "USD"),
    ("港元", "HKD"),
    ("港币", "HKD"),
    ("欧元", "EUR"),
    ("日元", "JPY"),
    ("英镑", "GBP"),
    ("新台币", "TWD"),
    ("台币", "TWD"),
    ("澳门元", "MOP"),
    ("韩元", "KRW"),
    ("新加坡元", "SGD"),
    ("加拿大元", "CAD"),
    ("加元", "CAD"),
    ("澳大利亚元", "AUD"),
    ("澳元", "AUD"),
    ("瑞士法郎", "CHF"),
    ("卢布", "RUB"),
];

/// Takes an amount in words apart; none when it is no such thing.
pub(crate) fn amount(text: &str) -> Option<Amount<'_>> {
    let (before, text) = currency_prefix(text);
    let end = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, words) = text.split_at(end);
    let words = trim(words);
    let (exponent, words) = scale_word(words);
    let (after, yuan) = currency_suffix(trim(words))?;
    let currency = match (before, after) {
        (Some(a), Some(b)) if a != b => return None,
        (a, b) => a.or(b),
    };
    if number.is_empty() || (exponent.is_none() && currency.is_none() && !yuan) {
        return None;
    }
    // "500000元" names its unit: one.
    let exponent = exponent.or(yuan.then_some(0));
    Some(Amount {
        number,
        exponent,
        currency,
    })
}

fn currency_prefix(text: &str) -> (Option<&'static str>, &str) {
    for (word, code) in CURRENCY_WORDS {
        if let Some(rest) = text.strip_prefix(word) {
            return (Some(code), trim(rest));
        }
    }
    (None, text)
}

fn scale_word(words: &str) -> (Option<i32>, &str) {
    for (word, exponent) in [
        ("万亿", 12),
        ("千万", 7),
        ("百万", 6),
        ("万", 4),
        ("亿", 8),
        ("千", 3),
    ] {
        if let Some(rest) = words.strip_prefix(word) {
            return (Some(exponent), rest);
        }
    }
    (None, words)
}

/// The currency the rest of an amount names, and whether it names a plain unit of money.
fn currency_suffix(words: &str) -> Option<(Option<&'static str>, bool)> {
    if words.is_empty() {
        return Some((None, false));
    }
    let words = words
        .strip_prefix(['(', '（'])
        .map_or(words, |w| w.trim_end_matches([')', '）']));
    if let Some((_, code)) = CURRENCY_WORDS.iter().find(|(word, _)| *word == words) {
        return Some((Some(code), true));
    }
    let rest = words.strip_prefix(['元', '圆'])?;
    let rest = rest.strip_prefix(['整', '正']).unwrap_or(rest);
    let rest = rest
        .strip_prefix(['(', '（'])
        .map_or(rest, |w| w.trim_end_matches([')', '）']));
    match rest {
        "" => Some((None, true)),
        rest => CURRENCY_WORDS
            .iter()
            .find(|(word, _)| *word == rest)
            .map(|(_, code)| (Some(*code), true)),
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
