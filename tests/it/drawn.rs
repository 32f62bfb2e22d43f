//! What the program prints or answers is drawn or dated in places: identifiers, keys, hashes, times. Here is what these
//! look like; everything else has to be equal.
//!
//! [`Draws`] compares what a document shows with what was printed: a drawn word may be another of its kind, but one that
//! is shown twice has to be printed twice, in the same places. [`steadied`] puts the kind in place of the word.

use std::collections::HashMap;

use chrono::{NaiveDate, TimeDelta, Utc};

/// How long a word of a kind is that a text begins with, if it begins with one.
type Length = fn(&str) -> Option<usize>;

/// What may differ. The first that fits counts.
const DRAWN: [(&str, Length); 5] = [
    ("instant", instant),
    ("day", day),
    // Of a consent, a subscription, a holding, a hub.
    ("id", identifier),
    // Also key ids, nonces, ids of events and accesses.
    ("hash", hexadecimal),
    // Also signatures, cursors, page tokens.
    ("key", base64),
];
const INSTANT: usize = 0;
const DAY: usize = 1;
/// Days that depend on the present lie this far ahead at most; those of the data lie behind.
const AHEAD_DAYS: i64 = 400;

fn shaped(text: &str, shape: &str) -> Option<usize> {
    let fits = |(byte, shape): (u8, u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    };
    let found = text.len() >= shape.len() && text.bytes().zip(shape.bytes()).all(fits);
    found.then_some(shape.len())
}

fn instant(text: &str) -> Option<usize> {
    shaped(text, "0000-00-00T00:00:00.000Z")
}

fn day(text: &str) -> Option<usize> {
    shaped(text, "0000-00-00")
}

/// The length of the longest beginning whose bytes are all of a kind.
fn run(text: &str, of: fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| of(*byte)).count()
}

fn is_hexadecimal(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn identifier(text: &str) -> Option<usize> {
    let known = [("c-", 20), ("s-", 16), ("h-", 16), ("hub-", 16)].into_iter();
    let mut found = known.filter_map(|(prefix, length)| {
        let rest = text.strip_prefix(prefix)?;
        (run(rest, is_hexadecimal) == length).then_some(prefix.len() + length)
    });
    found.next()
}

fn hexadecimal(text: &str) -> Option<usize> {
    let length = run(text, is_hexadecimal);
    [16, 32, 64].contains(&length).then_some(length)
}

fn base64(text: &str) -> Option<usize> {
    let length = run(text, |byte| {
        byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte)
    });
    let has = |of: fn(&u8) -> bool| text.as_bytes()[..length].iter().any(of);
    // A path has letters of one case.
    let mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    (length >= 43 && mixed).then_some(length)
}

/// A piece of a line: as it is, or of a kind that differs.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Fixed(&'a str),
    Drawn(usize, &'a str),
}

fn pieces(line: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut fixed, mut at) = (0, 0);
    let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    while at < line.len() {
        let begins = at == 0 || !is_word(line.as_bytes().get(at - 1));
        let found = DRAWN.iter().enumerate().find_map(|(kind, (_, length))| {
            let length = length(line.get(at..)?)?;
            let ends = !is_word(line.as_bytes().get(at + length));
            (begins && ends).then_some((kind, length))
        });
        let Some((kind, length)) = found else {
            at += 1;
            continue;
        };
        pieces.push(Piece::Fixed(&line[fixed..at]));
        pieces.push(Piece::Drawn(kind, &line[at..at + length]));
        at += length;
        fixed = at;
    }
    pieces.push(Piece::Fixed(&line[fixed..]));
    pieces
}

/// Whether a day depends on the present.
fn is_ahead(day: &str) -> bool {
    let ahead = |day: NaiveDate| day - Utc::now().date_naive();
    let range = TimeDelta::zero()..=TimeDelta::days(AHEAD_DAYS);
    day.parse().is_ok_and(|day| range.contains(&ahead(day)))
}

/// A text with `<kind>` in place of everything that is drawn, and of instants. Days stay: whether one depends on the
/// present changes with the present.
pub fn steadied(text: &str) -> String {
    let pieces = pieces(text).into_iter().map(|piece| match piece {
        Piece::Fixed(text) | Piece::Drawn(DAY, text) => text.to_owned(),
        Piece::Drawn(kind, _) => format!("<{}>", DRAWN[kind].0),
    });
    pieces.collect()
}

/// Which shown words stood for which printed ones so far.
#[derive(Debug, Default)]
pub struct Draws {
    printed: HashMap<String, String>,
    shown: HashMap<String, String>,
}

impl Draws {
    /// Compares what is shown with what was printed. The error is what to tell about the first line that differs.
    pub fn compare(&mut self, shown: &str, printed: &str) -> Result<(), String> {
        let (mut shown, mut printed) = (shown.lines(), printed.lines());
        loop {
            match (shown.next(), printed.next()) {
                (None, None) => return Ok(()),
                (Some(one), Some(other)) if self.alike(one, other) => {}
                (one, other) => {
                    let line = |line: Option<&str>| line.unwrap_or("(nothing more)").to_owned();
                    return Err(format!(
                        "  shown:   {}\n  printed: {}",
                        line(one),
                        line(other)
                    ));
                }
            }
        }
    }

    fn alike(&mut self, shown: &str, printed: &str) -> bool {
        let (shown, printed) = (pieces(shown), pieces(printed));
        let mut pairs = shown.iter().zip(&printed);
        shown.len() == printed.len()
            && pairs.all(|pair| match pair {
                (Piece::Fixed(one), Piece::Fixed(other)) => one == other,
                (Piece::Drawn(kind, one), Piece::Drawn(other_kind, other)) => {
                    kind == other_kind && self.stands_for(*kind, one, other)
                }
                _ => false,
            })
    }

    fn stands_for(&mut self, kind: usize, shown: &str, printed: &str) -> bool {
        match kind {
            // Two that differ once may be the same another time.
            INSTANT => true,
            DAY => shown == printed || is_ahead(printed),
            _ => {
                let first = self.printed.entry(shown.to_owned());
                let back = self.shown.entry(printed.to_owned());
                first.or_insert_with(|| printed.to_owned()) == printed
                    && back.or_insert_with(|| shown.to_owned()) == shown
            }
        }
    }
}

#[test]
fn only_what_is_drawn_may_differ() {
    let alike = |shown: &str, printed: &str| Draws::default().compare(shown, printed).is_ok();
    assert!(alike("a\nb 1\n", "a\nb 1\n"));
    assert!(!alike("b 1\n", "b 2\n") && !alike("a\n", "a\nb\n") && !alike("a\nb\n", "a\n"));
    let (one, other) = ("c-00112233445566778899", "c-99887766554433221100");
    assert!(alike(
        &format!("consent {one}: ACTIVE"),
        &format!("consent {other}: ACTIVE")
    ));
    assert!(!alike(
        &format!("consent {one}: ACTIVE"),
        &format!("consent {other}: PAUSED")
    ));
    assert!(!alike(one, "c-1"));
    // What is shown once and again is printed once and again.
    assert!(alike(&format!("{one} {one}"), &format!("{other} {other}")));
    assert!(!alike(&format!("{one} {one}"), &format!("{other} {one}")));
    assert!(!alike(&format!("{one} {other}"), &format!("{one} {one}")));
    assert!(alike(
        "at 2026-11-23T02:44:20.138Z",
        "at 2027-01-02T03:04:05.006Z"
    ));
    let soon = Utc::now().date_naive() + TimeDelta::days(7);
    assert!(alike("by 2026-11-30", &format!("by {soon}")));
    assert!(!alike("from 2026-03-01", "from 2026-03-02"));
    let (hash, key) = (
        "ab".repeat(32),
        "Wr+U2zlm4si0QVoG8XTKbQCTdWOjxausKa3VvOiYApI=",
    );
    assert!(alike(&hash, &"cd".repeat(32)) && !alike(&hash, key));
    assert!(alike(key, "5sTz7oesMRUf9YyyBY0A/UdTPPiHm3TBEDinrK56e8Q="));
    assert_eq!(
        steadied(&format!("{one} by 2026-03-01: {hash}\n{key}")),
        "<id> by 2026-03-01: <hash>\n<key>"
    );
    // A code of an enterprise, the number of a document and a long path are nobody's draw.
    assert!(!alike("91330782QH0000079P", "91330681QHA0ECXRXA"));
    assert!(!alike("20260433078200000000", "20260433078200000001"));
    let long = "a/long/path/of/a/file/which/nobody/has/drawn/1";
    assert!(!alike(long, &long.replace('1', "2")));
}
