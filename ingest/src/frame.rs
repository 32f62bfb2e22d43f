//! Cuts a byte stream into records, whatever it holds.
//!
//! Promises: every byte belongs to exactly one record, to a line end, or to a blank line; memory stays within
//! [`Limits::record_bytes`] plus one block; after a record that is too long or broken, reading goes on behind its
//! line end. The cuts depend on the bytes alone, never on how they arrive.
//!
//! A record ends at LF; one CR before it belongs to the line end. Blank lines are no records. In CSV a field that
//! *starts* with a quote may hold line ends; a quote elsewhere is an ordinary character. GB18030 needs no decoding
//! here: its trail bytes are never comma, quote or line end.
//!
//! **Broken quoting.** A quote that is opened by mistake would swallow the records behind it. When the grammar shows
//! the mistake (text after a closing quote, no closing quote within `record_bytes` or before the end of the file),
//! only the first line counts as broken and reading goes on with the next. Lines inside a well-formed quoted field
//! are never read as records of their own, so that nobody can smuggle a record in a free-text field.

use std::{
    io::{self, Read},
    ops::Range,
};

use memchr::{memchr, memchr_iter, memchr2};
use ring::digest::{Context, Digest, SHA256};

use crate::{checkpoint::Position, limits::Limits, reason::Reason};

/// How much is read at a time, in bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// The quoting of CSV.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoting {
    /// The byte between fields.
    pub delimiter: u8,
    /// The byte around fields.
    pub quote: u8,
}

/// One record as it stands in the source.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Where it starts.
    pub at: Position,
    /// Its length without the line end, in bytes.
    pub length: u64,
    /// What is wrong with it as a whole.
    pub fault: Option<Reason>,
    /// SHA-256 of all its bytes, when they were not all kept.
    pub sha256: Option<[u8; 32]>,
    bytes: Bytes,
}

#[derive(Debug, Clone)]
enum Bytes {
    /// In the framer's buffer, until the next record is read.
    Buffer(Range<usize>),
    /// The head of a record too long to be held.
    Kept,
}

/// Cuts `input` into records.
pub(crate) struct Framer<R> {
    input: R,
    buffer: Vec<u8>,
    /// What is not yet consumed is `buffer[start..end]`.
    start: usize,
    end: usize,
    ended: bool,
    /// Where `buffer[start]` stands in the source.
    position: Position,
    quoting: Option<Quoting>,
    record_bytes: usize,
    kept_bytes: usize,
    kept: Vec<u8>,
    /// The hash of what was consumed since the last [`Framer::take_hash`]; `buffer[hashed..start]` is still to come.
    hash: Context,
    hashed: usize,
}

/// How far the search for the end of a record has come, relative to its start.
#[derive(Default)]
struct Search {
    at: usize,
    quoted: bool,
    broken: bool,
}

impl<R: Read> Framer<R> {
    /// Reads `input`, which stands at `position` of its source.
    pub fn new(input: R, position: Position, quoting: Option<Quoting>, limits: &Limits) -> Self {
        Self {
            input,
            buffer: vec![0; limits.record_bytes + 2 + BLOCK_BYTES],
            start: 0,
            end: 0,
            ended: false,
            position,
            quoting,
            record_bytes: limits.record_bytes,
            kept_bytes: limits.kept_bytes,
            kept: Vec::new(),
            hash: Context::new(&SHA256),
            hashed: 0,
        }
    }

    /// Where the next record starts, blank lines left out, or the end of the source.
    pub fn position(&mut self) -> io::Result<Position> {
        self.skip_blank_lines()?;
        Ok(self.position)
    }

    /// Says how many records came before: what was read of a header was none.
    pub fn set_records(&mut self, records: u64) {
        self.position.record = records;
    }

    /// Reads on from `input`, which stands at `position` of the same source.
    pub fn turn_to(&mut self, input: R, position: Position) {
        self.hash.update(&self.buffer[self.hashed..self.start]);
        (self.start, self.end, self.hashed) = (0, 0, 0);
        self.ended = false;
        self.input = input;
        self.position = position;
    }

    /// Whether nothing is left to read.
    pub fn at_end(&self) -> bool {
        self.ended && self.start == self.end
    }

    /// SHA-256 of everything consumed since the last call.
    pub fn take_hash(&mut self) -> Digest {
        self.hash.update(&self.buffer[self.hashed..self.start]);
        self.hashed = self.start;
        std::mem::replace(&mut self.hash, Context::new(&SHA256)).finish()
    }

    /// The bytes of `frame`, the record read last: all of them, or its head when `sha256` is set.
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        match &frame.bytes {
            Bytes::Buffer(range) => &self.buffer[range.clone()],
            Bytes::Kept => &self.kept,
        }
    }

    /// Passes over `bytes` at the start of the source, such as an encoding mark.
    pub fn skip_mark(&mut self, mark: &[u8]) -> io::Result<bool> {
        while self.end - self.start < mark.len() && self.fill()? {}
        let found = self.buffer[self.start..self.end].starts_with(mark);
        if found {
            self.consume(mark.len(), 0);
        }
        Ok(found)
    }

    /// Whether the source goes on with `mark`.
    pub fn starts_with(&mut self, mark: &[u8]) -> io::Result<bool> {
        while self.end - self.start < mark.len() && self.fill()? {}
        Ok(self.buffer[self.start..self.end].starts_with(mark))
    }

    /// The next record, or none at the end of the source.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        self.skip_blank_lines()?;
        if self.start == self.end {
            return Ok(None);
        }
        let at = self.position;
        let mut search = Search::default();
        let limit = self.record_bytes + 2;
        let end = loop {
            if let Some(end) = self.search(&mut search) {
                break Some(end);
            }
            if search.at >= limit {
                break None;
            }
            if !self.fill()? {
                // A quote at the very end is now known to close its field.
                break self.search(&mut search);
            }
        };
        let end = match end {
            Some(end) => Some(end),
            None if self.ended && self.end - self.start <= limit => {
                search.broken |= search.quoted;
                Some(self.end - self.start)
            }
            None => None,
        };
        let frame = match end {
            Some(end) => self.whole(at, end, search.broken),
            None => match memchr(b'\n', &self.buffer[self.start..self.start + limit]) {
                Some(first) if self.quoting.is_some() => self.whole(at, first, true),
                _ => self.overlong(at)?,
            },
        };
        self.position.record += 1;
        Ok(Some(frame))
    }

    /// A record that lies in the buffer and ends at `end`; a broken one ends with its first line.
    fn whole(&mut self, at: Position, end: usize, broken: bool) -> Frame {
        let record = &self.buffer[self.start..self.start + end];
        let end = if broken {
            memchr(b'\n', record).unwrap_or(end)
        } else {
            end
        };
        let record = &record[..end];
        let text = record.strip_suffix(b"\r").unwrap_or(record).len();
        let lines = memchr_iter(b'\n', record).count() as u64;
        let range = self.start..self.start + text;
        let fault = if text > self.record_bytes {
            Some(Reason::RecordTooLong)
        } else {
            broken.then_some(Reason::BrokenQuote)
        };
        let line_end = usize::from(self.start + end < self.end);
        self.consume(end + line_end, lines + line_end as u64);
        Frame {
            at,
            length: text as u64,
            fault,
            sha256: None,
            bytes: Bytes::Buffer(range),
        }
    }

    /// A record of one line that is longer than the limit: its head is kept, the rest is hashed and passed over.
    fn overlong(&mut self, at: Position) -> io::Result<Frame> {
        self.kept.clear();
        let mut hash = Context::new(&SHA256);
        let mut length = 0_u64;
        let mut held_back_cr = false;
        loop {
            let block = &self.buffer[self.start..self.end];
            let line_end = memchr(b'\n', block);
            let part = &block[..line_end.unwrap_or(block.len())];
            if !part.is_empty() && held_back_cr {
                hash.update(b"\r");
                length += 1;
                if self.kept.len() < self.kept_bytes {
                    self.kept.push(b'\r');
                }
            }
            held_back_cr = if part.is_empty() {
                held_back_cr
            } else {
                part.ends_with(b"\r")
            };
            let text = part.strip_suffix(b"\r").unwrap_or(part);
            hash.update(text);
            length += text.len() as u64;
            let room = self.kept_bytes - self.kept.len();
            self.kept.extend_from_slice(&text[..text.len().min(room)]);
            self.consume(
                part.len() + usize::from(line_end.is_some()),
                u64::from(line_end.is_some()),
            );
            if line_end.is_some() || !self.fill()? {
                break;
            }
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(hash.finish().as_ref());
        Ok(Frame {
            at,
            length,
            fault: Some(Reason::RecordTooLong),
            sha256: Some(sha256),
            bytes: Bytes::Kept,
        })
    }

    /// Searches on for the end of the record in the buffer, no further than one record may reach.
    fn search(&self, search: &mut Search) -> Option<usize> {
        let window = &self.buffer[self.start..self.end.min(self.start + self.record_bytes + 2)];
        let Some(Quoting { delimiter, quote }) = self.quoting else {
            let found = memchr(b'\n', &window[search.at..]).map(|i| search.at + i);
            search.at = window.len();
            return found;
        };
        loop {
            if search.quoted {
                let Some(i) = memchr(quote, &window[search.at..]) else {
                    search.at = window.len();
                    return None;
                };
                let closing = search.at + i;
                match window.get(closing + 1) {
                    Some(next) if *next == quote => {
                        search.at = closing + 2;
                        continue;
                    }
                    Some(next) => {
                        search.broken |= !(*next == delimiter || *next == b'\n' || *next == b'\r')
                    }
                    // The next byte decides; look again once it is there.
                    None if !self.ended && window.len() < self.record_bytes + 2 => {
                        search.at = closing;
                        return None;
                    }
                    None => {}
                }
                search.quoted = false;
                search.at = closing + 1;
            }
            let Some(i) = memchr2(quote, b'\n', &window[search.at..]) else {
                search.at = window.len();
                return None;
            };
            let found = search.at + i;
            if window[found] == b'\n' {
                return Some(found);
            }
            search.quoted = found == 0 || window[found - 1] == delimiter;
            search.at = found + 1;
        }
    }

    fn skip_blank_lines(&mut self) -> io::Result<()> {
        loop {
            while self.end - self.start < 2 && self.fill()? {}
            match &self.buffer[self.start..self.end] {
                [b'\n', ..] => self.consume(1, 1),
                [b'\r', b'\n', ..] => self.consume(2, 1),
                [b'\r'] => self.consume(1, 0),
                _ => return Ok(()),
            }
        }
    }

    fn consume(&mut self, bytes: usize, lines: u64) {
        self.start += bytes;
        self.position.offset += bytes as u64;
        self.position.line += lines;
    }

    /// Reads one block more; false at the end of the source. Ranges into the buffer are void afterwards.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.buffer.len() - self.end < BLOCK_BYTES {
            self.hash.update(&self.buffer[self.hashed..self.start]);
            self.hashed = 0;
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let read = loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.end += read;
        self.ended = read == 0;
        Ok(!self.ended)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CSV: Option<Quoting> = Some(Quoting {
        delimiter: b',',
        quote: b'"',
    });

    fn limits(record_bytes: usize) -> Limits {
        Limits {
            record_bytes,
            kept_bytes: record_bytes / 2,
            ..Limits::DEFAULT
        }
    }

    type Seen = (Vec<u8>, u64, u64, Option<Reason>);

    fn frames(input: &[u8], quoting: Option<Quoting>, limits: &Limits) -> (Vec<Seen>, Position) {
        let mut framer = Framer::new(input, Position::START, quoting, limits);
        let mut seen = Vec::new();
        while let Some(frame) = framer.next().unwrap() {
            seen.push((
                framer.bytes(&frame).to_vec(),
                frame.at.line,
                frame.length,
                frame.fault,
            ));
        }
        (seen, framer.position().unwrap())
    }

    fn texts(input: &str) -> Vec<String> {
        let (seen, _) = frames(input.as_bytes(), CSV, &limits(1 << 10));
        seen.iter()
            .map(|(raw, _, _, fault)| {
                format!(
                    "{}{}",
                    if fault.is_some() { "!" } else { "" },
                    String::from_utf8_lossy(raw)
                )
            })
            .collect()
    }

    #[test]
    fn line_ends_and_blank_lines() {
        assert_eq!(texts("a,b\nc,d\r\n\n\r\ne\rf\n"), ["a,b", "c,d", "e\rf"]);
        assert_eq!(texts("no line end"), ["no line end"]);
        assert_eq!(texts("\n\n\r\n"), Vec::<String>::new());
        assert_eq!(texts("a\r"), ["a"]);
    }

    #[test]
    fn quoted_fields_hold_line_ends() {
        assert_eq!(texts("a,\"b\nc\",d\ne\n"), ["a,\"b\nc\",d", "e"]);
        assert_eq!(
            texts("\"a\"\"\n\"\"b\",c\nd\n"),
            ["\"a\"\"\n\"\"b\",c", "d"]
        );
        assert_eq!(texts("5\" pipe,x\ny\n"), ["5\" pipe,x", "y"]);
    }

    #[test]
    fn a_stray_quote_costs_one_line() {
        assert_eq!(texts("a,\"oops\nb,c\nd,e\n"), ["!a,\"oops", "b,c", "d,e"]);
        assert_eq!(
            texts("a,\"oops\nb,\"c,d\"\ne\n"),
            ["!a,\"oops", "b,\"c,d\"", "e"]
        );
        assert_eq!(texts("\"a\"b,c\nd\n"), ["!\"a\"b,c", "d"]);
    }

    #[test]
    fn lines_inside_a_proper_field_are_never_records() {
        assert_eq!(
            texts("x,\"free\n9133,evil\n\"\ny\n"),
            ["x,\"free\n9133,evil\n\"", "y"]
        );
    }

    #[test]
    fn an_endless_line_is_cut_and_reading_goes_on() {
        let mut input = b"a\n".to_vec();
        input.extend(std::iter::repeat_n(b'x', 5 << 20));
        input.extend_from_slice(b"\r\nb\n");
        let limits = limits(1 << 10);
        for quoting in [None, CSV] {
            let (seen, end) = frames(&input, quoting, &limits);
            assert_eq!(seen.len(), 3);
            assert_eq!(
                (seen[1].0.len(), seen[1].2, seen[1].3),
                (512, 5 << 20, Some(Reason::RecordTooLong))
            );
            assert_eq!(seen[2], (b"b".to_vec(), 3, 1, None));
            assert_eq!(end.offset, input.len() as u64);
        }
    }

    #[test]
    fn an_endless_quoted_field_is_cut_and_reading_goes_on() {
        let mut input = b"a,\"".to_vec();
        input.extend(std::iter::repeat_n(b'x', 5 << 20));
        input.extend_from_slice(b"\"\nb\n");
        let (seen, _) = frames(&input, CSV, &limits(1 << 10));
        assert_eq!(
            (seen.len(), seen[0].2, seen[0].3),
            (2, (5 << 20) + 4, Some(Reason::RecordTooLong))
        );
        assert_eq!(seen[1].0, b"b");
    }

    /// Gives its bytes in pieces of the given sizes, over and over.
    struct Drip<'a>(&'a [u8], Vec<usize>, usize);

    impl Read for Drip<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let size = self.1[self.2 % self.1.len()]
                .min(self.0.len())
                .min(to.len());
            self.2 += 1;
            to[..size].copy_from_slice(&self.0[..size]);
            self.0 = &self.0[size..];
            Ok(size)
        }
    }

    fn ugly() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop_oneof![
                4 => prop::sample::select(b"ab,\"\n\r".to_vec()).prop_map(|b| vec![b]),
                1 => any::<u8>().prop_map(|b| vec![b]),
                1 => (1_usize..90).prop_map(|n| vec![b'x'; n]),
            ],
            0..120,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn ing_1_cuts_depend_on_the_bytes_alone(input in ugly(), sizes in prop::collection::vec(1_usize..7, 1..4), quoted: bool) {
            let quoting = if quoted { CSV } else { None };
            let limits = limits(64);
            let (whole, end) = frames(&input, quoting, &limits);
            let mut framer = Framer::new(Drip(&input, sizes, 0), Position::START, quoting, &limits);
            let mut dripped = Vec::new();
            while let Some(frame) = framer.next().unwrap() {
                dripped.push((framer.bytes(&frame).to_vec(), frame.at.line, frame.length, frame.fault));
            }
            prop_assert_eq!(&whole, &dripped);
            prop_assert_eq!(end.offset, input.len() as u64);
            prop_assert_eq!(end.record, whole.len() as u64);
            let mut hash = Context::new(&SHA256);
            hash.update(&input);
            let (taken, expected) = (framer.take_hash(), hash.finish());
            prop_assert_eq!(taken.as_ref(), expected.as_ref());
        }

        #[test]
        fn ing_1_reading_can_start_at_any_record(input in ugly(), quoted: bool) {
            let quoting = if quoted { CSV } else { None };
            let limits = limits(64);
            let (whole, _) = frames(&input, quoting, &limits);
            let mut framer = Framer::new(&input[..], Position::START, quoting, &limits);
            for done in 0..whole.len() {
                let at = framer.position().unwrap();
                let from = usize::try_from(at.offset).unwrap();
                let mut rest = Framer::new(&input[from..], at, quoting, &limits);
                let mut seen = Vec::new();
                while let Some(frame) = rest.next().unwrap() {
                    seen.push((rest.bytes(&frame).to_vec(), frame.at.line, frame.length, frame.fault));
                }
                prop_assert_eq!(&seen[..], &whole[done..]);
                framer.next().unwrap();
            }
        }
    }
}
