//! Administrative divisions (GB/T 2260): the codes of Zhejiang through time and the divisions of the country.
//!
//! The code inside an enterprise's USCC names the division *at the time it was issued*, so it is checked against every
//! division Zhejiang ever had (since 1980), plus the `33xx01` codes (市辖区) that city-level authorities use. For other
//! provinces only the province is checked, because their history is not known here.

use std::{collections::BTreeMap, sync::OnceLock};

const HISTORY: &str = include_str!("../../data/divisions_zhejiang_history.csv");
const CHINA: &str = include_str!("../../data/divisions_china.csv");
/// The codes of the urban districts as a whole, which the lists of divisions leave out.
const SEATS: [&str; 11] = [
    "330101", "330201", "330301", "330401", "330501", "330601", "330701", "330801", "330901",
    "331001", "331101",
];

/// The province of the hub.
const PROVINCE: &[u8; 2] = b"33";
/// The prefix that stands for the state itself (`100000`): codes issued by the national registry.
const STATE: usize = 10;

/// Every known division, present or past, in order of its code, with its latest name.
#[must_use]
pub fn all() -> &'static [(&'static str, &'static str)] {
    static ALL: OnceLock<Vec<(&str, &str)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut latest: BTreeMap<&str, (&str, &str)> =
            SEATS.iter().map(|code| (*code, ("", "市辖区"))).collect();
        for line in HISTORY.lines().skip(1) {
            let mut fields = line.split(',');
            let mut next = || fields.next().unwrap_or_default();
            let (code, name, _, last) = (next(), next(), next(), next());
            let known = latest.entry(code).or_insert((last, name));
            if known.0 < last {
                *known = (last, name);
            }
        }
        for (code, name) in CHINA
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(','))
        {
            latest.insert(code, ("", name));
        }
        latest
            .into_iter()
            .map(|(code, (_, name))| (code, name))
            .collect()
    })
}

/// What [`issues_codes`] looks into: made once, two loads a look-up.
struct Issuers {
    /// One bit for each code `33xxxx`.
    zhejiang: [u64; 157],
    /// Whether a two-digit prefix is a province.
    provinces: [bool; 100],
}

fn issuers() -> &'static Issuers {
    static ISSUERS: OnceLock<Issuers> = OnceLock::new();
    ISSUERS.get_or_init(|| {
        let mut issuers = Issuers {
            zhejiang: [0; 157],
            provinces: [false; 100],
        };
        issuers.provinces[STATE] = true;
        for (code, _) in all() {
            let Some(number) = number(code.as_bytes()) else {
                continue;
            };
            issuers.provinces[number / 10_000 % 100] = true;
            if code.as_bytes().starts_with(PROVINCE) {
                let rest = number % 10_000;
                issuers.zhejiang[rest / 64] |= 1 << (rest % 64);
            }
        }
        issuers
    })
}

fn number(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum * 10 + usize::from(digit - b'0'))
    })
}

/// Whether an authority of this division issues or ever issued unified social credit codes.
#[must_use]
pub fn issues_codes(division: &[u8; 6]) -> bool {
    let Some(code) = number(division) else {
        return false;
    };
    let issuers = issuers();
    if division.starts_with(PROVINCE) {
        let rest = code % 10_000;
        issuers.zhejiang[rest / 64] >> (rest % 64) & 1 == 1
    } else {
        issuers.provinces[code / 10_000]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_issued_by_divisions_present_and_past() {
        for good in [
            b"330106", b"330125", b"330201", b"330114", b"330000", b"100000", b"110105", b"659999",
        ] {
            assert!(issues_codes(good), "{good:?}");
        }
        for bad in [
            b"339999", b"330199", b"990000", b"000000", b"33010A", b"170000",
        ] {
            assert!(!issues_codes(bad), "{bad:?}");
        }
    }

    #[test]
    fn divisions_are_sorted_distinct_and_named() {
        assert!(all().windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(
            all()
                .iter()
                .all(|(code, name)| number(code.as_bytes()).is_some()
                    && code.len() == 6
                    && !name.is_empty())
        );
        let name = |code| {
            all()
                .iter()
                .find(|(known, _)| *known == code)
                .map(|(_, name)| *name)
        };
        assert_eq!(name("330206"), Some("北仑区"), "the latest name");
        assert_eq!(name("330125"), Some("余杭县"), "a division of the past");
        assert_eq!(name("330201"), Some("市辖区"));
    }
}
