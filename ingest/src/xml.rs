//! Finds tags in raw bytes, so that documents can be cut before they are decoded.
//!
//! Promises: a tag, comment, section or instruction is found where quick-xml finds it, in UTF-8 and in GB18030 (whose
//! trail bytes are never `<`, `>`, `&`, `/` or a quote; `]` they may be, which matters in CDATA alone); nothing is
//! expanded, resolved or kept; a DTD is refused where it begins. What stands inside a tag is left to quick-xml.
//!
//! Limits: [`MAX_DEPTH`] elements inside each other, [`MAX_TOKEN_BYTES`] from `<` to `>`.

use memchr::{memchr, memmem};
use quick_xml::parser::{ElementParser, Parser};

use crate::reason::Reason;

/// The most elements inside each other. A declaration has five.
pub(crate) const MAX_DEPTH: usize = 32;
/// The longest tag, comment, CDATA section or instruction, in bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 1 << 20;

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Start,
    /// `<name/>`
    Empty,
    End,
    /// Bytes before the next `<`, or a part of them.
    Text,
    CData,
    /// A comment or an instruction.
    Aside,
}

/// How far a look at some bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A token and its length in bytes.
    Token(Kind, usize),
    /// The end of the token is not there yet.
    More,
    /// It is not XML, or none that is taken.
    Fault(Reason),
}

/// Looks at the token at the beginning of `bytes`; `ended` says that nothing follows them.
pub(crate) fn step(bytes: &[u8], ended: bool, gb18030: bool) -> Step {
    let (kind, length) = match bytes {
        [] => return unfinished(bytes, ended),
        [b'<', b'/', ..] => (Kind::End, memchr(b'>', bytes).map(|i| i + 1)),
        [b'<', b'?', rest @ ..] => (Kind::Aside, after(rest, b"?>").map(|i| i + 2)),
        [b'<', b'!', ..] => match bang(bytes, gb18030) {
            Ok(found) => found,
            Err(fault) => return Step::Fault(fault),
        },
        [b'<', rest @ ..] => {
            let end = ElementParser::Outside.feed(rest);
            let kind = match end {
                Some(end) if rest[..end].ends_with(b"/") => Kind::Empty,
                _ => Kind::Start,
            };
            (kind, end.map(|end| end + 2))
        }
        text => (Kind::Text, Some(memchr(b'<', text).unwrap_or(text.len()))),
    };
    match length {
        Some(length) if kind == Kind::Text || length <= MAX_TOKEN_BYTES => {
            Step::Token(kind, length)
        }
        Some(_) => Step::Fault(Reason::RecordTooLong),
        None => unfinished(bytes, ended),
    }
}

fn unfinished(bytes: &[u8], ended: bool) -> Step {
    if bytes.len() > MAX_TOKEN_BYTES {
        Step::Fault(Reason::RecordTooLong)
    } else if ended {
        Step::Fault(Reason::Truncated)
    } else {
        Step::More
    }
}

/// What begins with `<!`: a comment, a CDATA section, or what is refused.
fn bang(bytes: &[u8], gb18030: bool) -> Result<(Kind, Option<usize>), Reason> {
    const COMMENT: &[u8] = b"<!--";
    const CDATA: &[u8] = b"<![CDATA[";
    if let Some(rest) = bytes.strip_prefix(COMMENT) {
        return Ok((
            Kind::Aside,
            after(rest, b"-->").map(|end| end + COMMENT.len()),
        ));
    }
    if let Some(rest) = bytes.strip_prefix(CDATA) {
        let end = if gb18030 {
            section_end(rest)
        } else {
            after(rest, b"]]>")
        };
        return Ok((Kind::CData, end.map(|end| end + CDATA.len())));
    }
    if COMMENT.starts_with(bytes) || CDATA.starts_with(bytes) {
        return Ok((Kind::Aside, None));
    }
    // A document type holds entities and more; no message needs one.
    if bytes[2..]
        .iter()
        .zip(b"DOCTYPE")
        .all(|(found, wanted)| found.eq_ignore_ascii_case(wanted))
    {
        return Err(Reason::DoctypeRefused);
    }
    Err(Reason::BadXml)
}

/// Where `mark` ends in `bytes`.
fn after(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    memmem::find(bytes, mark).map(|at| at + mark.len())
}

/// Where `]]>` ends in GB18030 text, stepping over whole characters.
fn section_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte < 0x80 {
            if bytes[at..].starts_with(b"]]>") {
                return Some(at + 3);
            }
            at += 1;
        } else if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
            at += 4;
        } else {
            at += 2;
        }
    }
    None
}

/// The name in a start, empty or end tag, with its prefix.
pub(crate) fn name(tag: &[u8]) -> &[u8] {
    let inner = tag
        .strip_prefix(b"</")
        .or_else(|| tag.strip_prefix(b"<"))
        .unwrap_or(tag);
    let end = inner
        .iter()
        .position(|byte| is_white(*byte) || matches!(byte, b'/' | b'>'))
        .unwrap_or(inner.len());
    &inner[..end]
}

/// A name without its prefix.
pub(crate) fn local(name: &[u8]) -> &[u8] {
    match memchr(b':', name) {
        Some(colon) => &name[colon + 1..],
        None => name,
    }
}

/// White space of XML.
pub(crate) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The open elements.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nesting {
    names: Vec<u8>,
    starts: Vec<usize>,
}

impl Nesting {
    /// How many elements are open.
    pub fn depth(&self) -> usize {
        self.starts.len()
    }

    /// An element begins.
    pub fn open(&mut self, name: &[u8]) -> Result<(), Reason> {
        if name.is_empty() {
            return Err(Reason::BadXml);
        }
        if self.depth() == MAX_DEPTH {
            return Err(Reason::TooDeep);
        }
        self.starts.push(self.names.len());
        self.names.extend_from_slice(name);
        Ok(())
    }

    /// An element ends; it has to be the one that began last.
    pub fn close(&mut self, name: &[u8]) -> Result<(), Reason> {
        let start = self.starts.pop().ok_or(Reason::BadXml)?;
        let expected = &self.names[start..];
        let fits = expected == name;
        self.names.truncate(start);
        if fits { Ok(()) } else { Err(Reason::BadXml) }
    }
}

#[cfg(test)]
mod tests {
    use encoding_rs::GB18030;
    use proptest::prelude::*;
    use quick_xml::{Reader, events::Event};

    use super::*;

    /// The kinds of the tokens of a whole document, texts left out, or the first fault.
    fn tokens(bytes: &[u8], gb18030: bool) -> Result<Vec<(Kind, Vec<u8>)>, Reason> {
        let (mut at, mut found) = (0, Vec::new());
        while at < bytes.len() {
            match step(&bytes[at..], true, gb18030) {
                Step::Token(kind, length) => {
                    if kind != Kind::Text {
                        found.push((kind, bytes[at..at + length].to_vec()));
                    }
                    at += length;
                }
                Step::Fault(fault) => return Err(fault),
                Step::More => unreachable!("nothing follows"),
            }
        }
        Ok(found)
    }

    fn kinds(text: &str) -> Result<Vec<Kind>, Reason> {
        tokens(text.as_bytes(), false)
            .map(|found| found.into_iter().map(|(kind, _)| kind).collect())
    }

    #[test]
    fn tokens_end_where_they_end() {
        use Kind::{Aside, CData, Empty, End, Start};
        assert_eq!(
            kinds(
                "<?xml version='1.0'?><a x='>' y=\"/>\"><b/><!-- > <c> -->t<![CDATA[</a>]]></a >"
            ),
            Ok(vec![Aside, Start, Empty, Aside, CData, End])
        );
        for (text, fault) in [
            ("<!DOCTYPE a [<!ENTITY x 'y'>]><a/>", Reason::DoctypeRefused),
            ("<!doctype a><a/>", Reason::DoctypeRefused),
            ("<!ELEMENT a>", Reason::BadXml),
            ("<a x='1", Reason::Truncated),
            ("<![CDATA[ ]]", Reason::Truncated),
            ("<!-", Reason::Truncated),
        ] {
            assert_eq!(kinds(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn names_have_prefixes_and_locals() {
        assert_eq!(name(b"<dec:DecHead a='1'>"), b"dec:DecHead");
        assert_eq!(name(b"</DecHead\n>"), b"DecHead");
        assert_eq!(name(b"<DecHead/>"), b"DecHead");
        assert_eq!(local(b"dec:DecHead"), b"DecHead");
    }

    #[test]
    fn a_trail_byte_is_no_bracket() {
        // A character whose second byte is `]`: with `]>` behind it the bytes look like the end of the section.
        let bracket =
            ('\u{4e00}'..'\u{9fff}').find(|c| GB18030.encode(&c.to_string()).0.ends_with(b"]"));
        let text = format!("<a><![CDATA[{}]>]]></a>", bracket.unwrap());
        let raw = GB18030.encode(&text).0.into_owned();
        assert!(memmem::find(&raw, b"]]>").unwrap() < raw.len() - 7);
        let found = tokens(&raw, true).unwrap();
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn tokens_and_depth_are_capped() {
        let long = format!("<a x='{}'>", "y".repeat(MAX_TOKEN_BYTES));
        assert_eq!(
            step(long.as_bytes(), false, false),
            Step::Fault(Reason::RecordTooLong)
        );
        let open = format!("<!--{}", "y".repeat(MAX_TOKEN_BYTES));
        assert_eq!(
            step(open.as_bytes(), false, false),
            Step::Fault(Reason::RecordTooLong)
        );
        let mut nesting = Nesting::default();
        for _ in 0..MAX_DEPTH {
            nesting.open(b"a").unwrap();
        }
        assert_eq!(nesting.open(b"a"), Err(Reason::TooDeep));
        assert_eq!(nesting.close(b"b"), Err(Reason::BadXml));
    }

    /// Markup and text as they come, well-formed or not.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "<a>",
            "</a>",
            "<b x='1' y=\">\">",
            "</b>",
            "<c/>",
            "text 海关",
            "<!-- x > -->",
            "<![CDATA[<a>]]>",
            "&amp;",
            "]]>",
        ]);
        prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn tags_are_found_where_quick_xml_finds_them(text in pieces()) {
            let mut reader = Reader::from_str(&text);
            let config = reader.config_mut();
            config.check_end_names = false;
            config.allow_unmatched_ends = true;
            let mut expected = Vec::new();
            let mut before = 0;
            loop {
                let event = reader.read_event().unwrap();
                let at = usize::try_from(reader.buffer_position()).unwrap();
                let raw = text.as_bytes()[before..at].to_vec();
                before = at;
                expected.push((match event {
                    Event::Start(_) => Kind::Start,
                    Event::Empty(_) => Kind::Empty,
                    Event::End(_) => Kind::End,
                    Event::CData(_) => Kind::CData,
                    Event::Comment(_) | Event::PI(_) | Event::Decl(_) => Kind::Aside,
                    Event::Eof => break,
                    Event::Text(_) | Event::GeneralRef(_) | Event::DocType(_) => continue,
                }, raw));
            }
            prop_assert_eq!(tokens(text.as_bytes(), false).unwrap(), expected);
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), ended: bool, gb18030: bool) {
            if let Step::Token(_, length) = step(&bytes, ended, gb18030) {
                prop_assert!(length > 0 && length <= bytes.len());
            }
        }
    }
}
