//! The tags of one part of a workbook: what they say, and what of them cells are made of.
//!
//! Promises: tags fit each other; no tag is copied but the usual one of a cell, whose values were looked at: each is
//! written anew from a name and from attributes that a strict parser read; a cell has at most one value, in the form of
//! its type; depth, texts and counts are capped, a DTD is refused.
//!
//! | part | what is kept |
//! |---|---|
//! | sheet | `sheetData`, `row` (`r`), `c` (`r`, `s`, `t`), `v` or `is`, `r` and `t` in it (`xml:space`) |
//! | shared strings | `si`, `r` and `t` in it |
//! | styles | `numFmt` (`numFmtId`, `formatCode`), `xf` of `cellXfs` (`numFmtId`) |
//! | workbook, relationships | nothing: what they say is handed on |

use std::borrow::Cow;

use quick_xml::{escape::unescape, events::BytesStart};

use crate::{
    reason::Reason,
    workbook::{MAX_COLUMNS, MAX_ROWS},
    xml::{self, Kind, Nesting, Step},
};

/// The most sheets that a workbook lists, and the most relationships of a part.
const MAX_LISTED: usize = 1 << 14;
/// The most texts that cells share.
const MAX_STRINGS: u64 = 4 << 20;
/// The most formats of cells.
const MAX_FORMATS: u64 = 1 << 16;
/// The longest tag of a format, in bytes. Spreadsheets take 255 characters.
const MAX_FORMAT_BYTES: usize = 2 << 10;
/// The longest text of one cell, in bytes as it stands in its part. A cell holds 32,767 characters.
const MAX_CELL_BYTES: u64 = 1 << 20;

/// What a part of a workbook is to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    Relations,
    Workbook,
    Strings,
    Styles,
    Sheet,
}

impl PartKind {
    /// The name of its outermost element.
    fn root(self) -> &'static str {
        match self {
            Self::Relations => "Relationships",
            Self::Workbook => "workbook",
            Self::Strings => "sst",
            Self::Styles => "styleSheet",
            Self::Sheet => "worksheet",
        }
    }

    /// What an element is called in the copy; none when it is not kept.
    fn element(self, place: Place) -> Option<&'static str> {
        Some(match place {
            Place::Outside => return None,
            Place::Root => self.root(),
            Place::List(element) | Place::Leaf(element) | Place::Text(element) => element,
            Place::Row => "row",
            Place::Cell => "c",
            Place::Value => "v",
            Place::Run => "r",
            Place::Words => "t",
        })
    }

    /// What the element `local` is, inside of `parent`.
    fn place(self, parent: Place, local: &[u8]) -> Place {
        match (self, parent, local) {
            (Self::Relations, Place::Root, b"Relationship") => Place::Leaf("Relationship"),
            (Self::Workbook, Place::Root, b"workbookPr") => Place::Leaf("workbookPr"),
            (Self::Workbook, Place::Root, b"sheets") => Place::List("sheets"),
            (Self::Workbook, Place::List(_), b"sheet") => Place::Leaf("sheet"),
            (Self::Styles, Place::Root, b"numFmts") => Place::List("numFmts"),
            (Self::Styles, Place::Root, b"cellXfs") => Place::List("cellXfs"),
            (Self::Styles, Place::List("numFmts"), b"numFmt") => Place::Leaf("numFmt"),
            (Self::Styles, Place::List("cellXfs"), b"xf") => Place::Leaf("xf"),
            (Self::Strings, Place::Root, b"si") => Place::Text("si"),
            (Self::Sheet, Place::Root, b"sheetData") => Place::List("sheetData"),
            (Self::Sheet, Place::List(_), b"row") => Place::Row,
            (Self::Sheet, Place::Row, b"c") => Place::Cell,
            (Self::Sheet, Place::Cell, b"v") => Place::Value,
            (Self::Sheet, Place::Cell, b"is") => Place::Text("is"),
            (_, Place::Text(_), b"r") => Place::Run,
            (_, Place::Text(_) | Place::Run, b"t") => Place::Words,
            _ => Place::Outside,
        }
    }
}

/// What an element is, where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not kept, and nothing in it.
    Outside,
    Root,
    List(&'static str),
    /// Kept with attributes alone.
    Leaf(&'static str),
    Row,
    Cell,
    /// The value of a cell.
    Value,
    /// A text: its words, in runs or without.
    Text(&'static str),
    Run,
    Words,
}

/// How the value of a cell is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// As a number, a flag or an error: without references.
    Plain,
    /// As the place of a shared text.
    Index,
    /// As text.
    Text,
    /// In the cell itself.
    Inline,
}

/// A relationship of a part.
pub(crate) struct Relation {
    pub role: String,
    pub target: String,
}

impl Relation {
    pub fn is(&self, role: &str) -> bool {
        self.role.rsplit_once('/').is_some_and(|(_, r)| r == role)
    }
}

/// A sheet as the workbook lists it.
pub(crate) struct SheetEntry {
    pub name: String,
    pub shown: bool,
    pub relation: String,
}

/// What a part says of others.
#[derive(Default)]
pub(crate) struct Found {
    pub relations: Vec<(String, Relation)>,
    pub sheets: Vec<SheetEntry>,
    pub from_1904: bool,
}

pub(crate) type Fault = &'static str;

/// Follows the tags of one part, and keeps what cells are made of.
pub(crate) struct PartReader {
    kind: PartKind,
    nesting: Nesting,
    /// What the open elements are.
    places: Vec<Place>,
    has_root: bool,
    /// What is not looked at yet.
    rest: Vec<u8>,
    /// What is kept of what was looked at.
    pub kept: Vec<u8>,
    /// Texts or formats so far.
    count: u64,
    /// Bytes of the text of this cell so far.
    text: u64,
    /// How the value of this cell is written, and whether it was there.
    written: Written,
    has_value: bool,
    pub found: Found,
}

impl PartReader {
    pub fn new(kind: PartKind) -> Self {
        Self {
            kind,
            nesting: Nesting::default(),
            places: Vec::new(),
            has_root: false,
            rest: Vec::new(),
            kept: Vec::new(),
            count: 0,
            text: 0,
            written: Written::Plain,
            has_value: false,
            found: Found::default(),
        }
    }

    /// Looks at the next block; `ended` says that it is the last.
    pub fn read(&mut self, block: &[u8], ended: bool) -> Result<(), Fault> {
        let joined;
        let bytes = if self.rest.is_empty() {
            block
        } else {
            self.rest.extend_from_slice(block);
            joined = std::mem::take(&mut self.rest);
            &joined
        };
        let mut at = 0;
        while at < bytes.len() {
            match xml::step(&bytes[at..], ended, false) {
                Step::Token(kind, length) => {
                    self.token(kind, &bytes[at..at + length])?;
                    at += length;
                }
                Step::More => break,
                Step::Fault(Reason::DoctypeRefused) => return Err("has a DTD"),
                Step::Fault(Reason::RecordTooLong) => return Err("has a tag of more than 1 MiB"),
                Step::Fault(_) => return Err("is cut short or damaged"),
            }
        }
        self.rest = bytes[at..].to_vec();
        if ended && (self.nesting.depth() > 0 || !self.has_root) {
            return Err("is cut short");
        }
        Ok(())
    }

    fn token(&mut self, kind: Kind, token: &[u8]) -> Result<(), Fault> {
        let name = xml::name(token);
        let fits = match kind {
            Kind::Start => {
                let place = self.start(xml::local(name), token, false)?;
                self.places.push(place);
                self.nesting.open(name)
            }
            Kind::Empty => {
                self.start(xml::local(name), token, true)?;
                let opened = self.nesting.open(name);
                opened.and_then(|()| self.nesting.close(name))
            }
            Kind::End => {
                if let Some(place) = self.places.pop() {
                    self.end(place);
                }
                self.nesting.close(name)
            }
            Kind::Text => return self.text(token, false),
            Kind::CData => return self.text(token, true),
            Kind::Aside => return Ok(()),
        };
        fits.map_err(|fault| match fault {
            Reason::TooDeep => "has elements too deep inside each other",
            _ => "has tags that do not fit each other",
        })
    }

    /// An element begins: what it is, and what of its tag is kept.
    fn start(&mut self, local: &[u8], tag: &[u8], empty: bool) -> Result<Place, Fault> {
        let place = match self.places.last() {
            Some(parent) => self.kind.place(*parent, local),
            None if self.has_root => return Err("has tags that do not fit each other"),
            None if local == self.kind.root().as_bytes() => Place::Root,
            None => return Err("is not what the workbook says it is"),
        };
        self.has_root = true;
        let place = self.in_cell(place)?;
        let Some(element) = self.kind.element(place) else {
            return Ok(place);
        };
        self.kept.push(b'<');
        self.kept.extend_from_slice(element.as_bytes());
        match place {
            Place::Cell => self.cell(tag)?,
            Place::Row => self.row(tag)?,
            Place::Words => self.words(tag)?,
            Place::Leaf(element) => self.leaf(element, tag)?,
            Place::Text(_) => self.counted(MAX_STRINGS)?,
            _ => {}
        }
        self.kept
            .extend_from_slice(if empty { b"/>" } else { b">" });
        Ok(place)
    }

    /// A cell has one value; what stands beside it (a formula, what is left of an older one) is not kept.
    fn in_cell(&mut self, place: Place) -> Result<Place, Fault> {
        match place {
            Place::Value if self.written == Written::Inline => return Ok(Place::Outside),
            Place::Value | Place::Text("is") if self.has_value => {
                return Err("has a cell with two values");
            }
            Place::Value | Place::Text("is") => self.has_value = true,
            Place::Cell => self.has_value = false,
            _ => {}
        }
        if matches!(place, Place::Cell | Place::Text(_)) {
            self.text = 0;
        }
        Ok(place)
    }

    fn end(&mut self, place: Place) {
        let Some(element) = self.kind.element(place) else {
            return;
        };
        self.kept.extend_from_slice(b"</");
        self.kept.extend_from_slice(element.as_bytes());
        self.kept.push(b'>');
    }

    /// A text, or a part of one.
    fn text(&mut self, text: &[u8], section: bool) -> Result<(), Fault> {
        let fine = match self.places.last() {
            Some(Place::Words) => true,
            Some(Place::Value) => match self.written {
                Written::Text => !section,
                Written::Index => !section && text.iter().all(u8::is_ascii_digit),
                _ => !section && memchr::memchr(b'&', text).is_none(),
            },
            _ => return Ok(()),
        };
        if !fine {
            return Err("has a value that is not written as its kind is");
        }
        self.text = self.text.saturating_add(text.len() as u64);
        if self.text > MAX_CELL_BYTES {
            return Err("has a text of more than 1 MiB");
        }
        self.kept.extend_from_slice(text);
        Ok(())
    }

    fn counted(&mut self, most: u64) -> Result<(), Fault> {
        if self.kind == PartKind::Sheet {
            return Ok(());
        }
        self.count += 1;
        (self.count <= most)
            .then_some(())
            .ok_or("has too many texts or formats")
    }

    fn row(&mut self, tag: &[u8]) -> Result<(), Fault> {
        attributes(tag, |name, value| {
            if name != "r" {
                return Ok(());
            }
            if !is_number(value.as_bytes(), 7) {
                return Err("has a row that is nowhere");
            }
            self.keep(name, value);
            Ok(())
        })
    }

    fn cell(&mut self, tag: &[u8]) -> Result<(), Fault> {
        self.written = Written::Plain;
        let Some((values, end)) = usual_cell(tag) else {
            return attributes(tag, |name, value| {
                if self.of_cell(name, value.as_bytes())? {
                    self.keep(name, value);
                }
                Ok(())
            });
        };
        for (name, value) in ["r", "s", "t"].into_iter().zip(values) {
            if let Some(value) = value {
                self.of_cell(name, value)?;
            }
        }
        self.kept.extend_from_slice(&tag[b"<c".len()..end]);
        Ok(())
    }

    /// Whether an attribute of a cell is kept.
    fn of_cell(&mut self, name: &str, value: &[u8]) -> Result<bool, Fault> {
        match name {
            "r" if !is_cell(value) => Err("has a cell that is nowhere"),
            "s" if !is_number(value, 9) => Err("has a cell whose format has no number"),
            "r" | "s" => Ok(true),
            "t" => {
                self.written = match value {
                    b"n" | b"b" | b"e" => Written::Plain,
                    b"s" => Written::Index,
                    b"str" | b"d" => Written::Text,
                    b"inlineStr" => Written::Inline,
                    _ => return Err("has a cell of a kind that there is not"),
                };
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn words(&mut self, tag: &[u8]) -> Result<(), Fault> {
        attributes(tag, |name, value| {
            if name == "xml:space" && value == "preserve" {
                self.keep(name, value);
            }
            Ok(())
        })
    }

    fn leaf(&mut self, element: &str, tag: &[u8]) -> Result<(), Fault> {
        match element {
            "Relationship" => self.relation(tag),
            "sheet" => self.sheet(tag),
            "workbookPr" => attributes(tag, |name, value| {
                self.found.from_1904 |= name == "date1904" && matches!(value, "1" | "true");
                Ok(())
            }),
            _ => {
                self.counted(MAX_FORMATS)?;
                if tag.len() > MAX_FORMAT_BYTES {
                    return Err("has a format of more than 2 KiB");
                }
                attributes(tag, |name, value| {
                    if matches!(name, "numFmtId" | "formatCode") {
                        self.keep(name, value);
                    }
                    Ok(())
                })
            }
        }
    }

    fn relation(&mut self, tag: &[u8]) -> Result<(), Fault> {
        let (mut id, mut role, mut target, mut outside) = Default::default();
        attributes(tag, |name, value| {
            match name {
                "Id" => id = plain(value)?,
                "Type" => role = plain(value)?,
                "Target" => target = plain(value)?,
                "TargetMode" => outside = value == "External",
                _ => {}
            }
            Ok(())
        })?;
        if self.found.relations.len() >= MAX_LISTED {
            return Err("has too many relationships");
        }
        if !outside {
            self.found.relations.push((id, Relation { role, target }));
        }
        Ok(())
    }

    fn sheet(&mut self, tag: &[u8]) -> Result<(), Fault> {
        let (mut name, mut relation, mut shown) = (String::new(), String::new(), true);
        attributes(tag, |attribute, value| {
            match attribute {
                "name" => name = plain(value)?,
                "state" => {
                    shown = match value {
                        "visible" => true,
                        "hidden" | "veryHidden" => false,
                        _ => return Err("has a sheet that is neither shown nor hidden"),
                    }
                }
                _ if attribute.ends_with(":id") => relation = plain(value)?,
                _ => {}
            }
            Ok(())
        })?;
        if self.found.sheets.len() >= MAX_LISTED {
            return Err("lists too many sheets");
        }
        self.found.sheets.push(SheetEntry {
            name,
            shown,
            relation,
        });
        Ok(())
    }

    /// Keeps an attribute of the tag in hand.
    fn keep(&mut self, name: &str, value: &str) {
        let value = match value.contains('"') {
            true => Cow::Owned(value.replace('"', "&quot;")),
            false => Cow::Borrowed(value),
        };
        for piece in [" ", name, "=\"", &value, "\""] {
            self.kept.extend_from_slice(piece.as_bytes());
        }
    }
}

/// The place, format and kind of a cell whose tag is written as nearly every program writes it, and where they end: a
/// workbook has millions of them. Nothing else fits in between: a value ends with the quote behind it.
fn usual_cell(tag: &[u8]) -> Option<([Option<&[u8]>; 3], usize)> {
    let mut rest = tag.strip_prefix(b"<c")?;
    let mut value = |begin: &[u8]| {
        let value = rest.strip_prefix(begin)?;
        let end = memchr::memchr(b'"', value)?;
        rest = &value[end + 1..];
        Some(&value[..end])
    };
    let values = [value(b" r=\""), value(b" s=\""), value(b" t=\"")];
    matches!(rest, b">" | b"/>").then_some((values, tag.len() - rest.len()))
}

/// Hands the attributes of a start or empty tag to `take`, in order, as they stand there; refuses a tag that has one
/// twice, or anything in it that is none.
fn attributes(
    tag: &[u8],
    mut take: impl FnMut(&str, &str) -> Result<(), Fault>,
) -> Result<(), Fault> {
    const DAMAGED: Fault = "has a tag with damaged attributes";
    let inner = tag
        .strip_prefix(b"<")
        .and_then(|tag| tag.strip_suffix(b">"));
    let inner = inner.ok_or(DAMAGED)?;
    let inner = inner.strip_suffix(b"/").unwrap_or(inner);
    let name = xml::name(tag).len();
    if inner.len() == name {
        return Ok(());
    }
    let inner = std::str::from_utf8(inner).map_err(|_| DAMAGED)?;
    for attribute in BytesStart::from_content(inner, name).attributes() {
        let attribute = attribute.map_err(|_| DAMAGED)?;
        let key = attribute.key.0;
        let is_name = |byte: u8| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b':' | b'_' | b'-' | b'.')
                || byte >= 0x80
        };
        if key.is_empty() || !key.bytes().all(is_name) {
            return Err(DAMAGED);
        }
        take(key, &attribute.value)?;
    }
    Ok(())
}

/// The text that an attribute stands for.
fn plain(value: &str) -> Result<String, Fault> {
    let text = unescape(value).map_err(|_| "has a tag with damaged attributes")?;
    Ok(text.into_owned())
}

fn is_number(text: &[u8], digits: usize) -> bool {
    (1..=digits).contains(&text.len()) && text.iter().all(u8::is_ascii_digit)
}

/// Whether `text` names a cell, such as `AB12`.
fn is_cell(text: &[u8]) -> bool {
    let is_letter = |byte: &&u8| byte.is_ascii_alphabetic();
    let (letters, row) = text.split_at(text.iter().take_while(is_letter).count());
    if !(1..=3).contains(&letters.len()) || !is_number(row, 7) {
        return false;
    }
    let column = letters.iter().fold(0, |column, letter| {
        column * 26 + u32::from(letter.to_ascii_uppercase() - b'A') + 1
    });
    let row = row
        .iter()
        .fold(0, |row, digit| row * 10 + u32::from(digit - b'0'));
    (1..=MAX_COLUMNS).contains(&column) && (1..=MAX_ROWS).contains(&row)
}
