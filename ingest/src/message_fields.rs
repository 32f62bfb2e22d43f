//! Takes a message apart into its lines, each with the fields of the head.
//!
//! Fields are elements that hold text and nothing else, known to the feed by their names; an element of level L4 or
//! one that the feed ignores is passed over and its text is never put together. A block that the feed ignores is passed
//! over whole. What is wrong in the head or in the shape of a message is wrong with all of it; what is wrong in one
//! line is wrong with that line alone.

use std::{collections::HashMap, ops::Range};

use qihui_catalog::MessageForm;
use quick_xml::{
    NsReader,
    events::{BytesStart, Event},
    name::{NamespaceError, ResolveResult},
};

use crate::{
    fields::{Fields, Slot},
    limits::Limits,
    message::check_attributes,
    reason::Reason,
};

/// A field of the message: its slot, and where its text stands.
type Field = (usize, Range<usize>);

/// Places in [`MessageFields::seen`].
const HEAD: usize = 0;
const LINE: usize = 1;

/// One line of a message.
#[derive(Debug, Clone)]
struct Line {
    /// Its fields, a range of [`Content::fields`].
    fields: Range<usize>,
    /// What is wrong with it.
    fault: Option<Reason>,
}

/// What was found in a message.
#[derive(Debug, Default)]
struct Content {
    text: String,
    head: Vec<Field>,
    fields: Vec<Field>,
    lines: Vec<Line>,
}

/// Takes messages apart.
pub(crate) struct MessageFields {
    form: MessageForm,
    slots: HashMap<String, (usize, Slot)>,
    slot_count: usize,
    swap: Option<Swap>,
    field_bytes: usize,
    /// Which elements the head had, and the line in hand.
    seen: [Vec<bool>; 2],
    content: Content,
}

/// Two slots that change places in some lines.
#[derive(Debug, Clone)]
struct Swap {
    flag: usize,
    value: String,
    slots: (usize, usize),
}

type Reader<'a> = NsReader<&'a [u8]>;

impl MessageFields {
    /// Takes messages of `form` apart whose elements go to `slots`.
    pub fn new(
        form: &MessageForm,
        slots: impl IntoIterator<Item = (String, Slot)>,
        slot_count: usize,
        limits: &Limits,
    ) -> Self {
        let slots: HashMap<String, (usize, Slot)> = slots
            .into_iter()
            .enumerate()
            .map(|(index, (name, slot))| (name, (index, slot)))
            .collect();
        let wanted = |name: &String| match slots.get(name) {
            Some((_, Slot::Wanted(slot))) => Some(*slot),
            _ => None,
        };
        let swap = form.swap.as_ref().and_then(|swap| {
            Some(Swap {
                flag: wanted(&swap.element)?,
                value: swap.value.clone(),
                slots: (wanted(&swap.first)?, wanted(&swap.second)?),
            })
        });
        Self {
            form: form.clone(),
            seen: [vec![false; slots.len()], vec![false; slots.len()]],
            slots,
            slot_count,
            swap,
            field_bytes: limits.field_bytes,
            content: Content::default(),
        }
    }

    /// Reads `text`: the start tag of an envelope, `envelope` bytes long (0: none), and one message. Returns how many
    /// lines it has; they are to be had from [`MessageFields::line`].
    pub fn read(&mut self, text: &str, envelope: usize) -> Result<usize, Reason> {
        self.content.text.clear();
        self.content.head.clear();
        self.content.fields.clear();
        self.content.lines.clear();
        self.seen[HEAD].fill(false);
        let mut reader = NsReader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        if envelope > 0 {
            event(&mut reader)?;
        }
        self.message(&mut reader)?;
        match self.content.lines.len() {
            0 => Err(Reason::NoLines),
            lines => Ok(lines),
        }
    }

    /// Fills `fields` with those of line number `index` of the message read last, and of its head.
    pub fn line(&self, index: usize, fields: &mut Fields) -> Result<(), Reason> {
        let Some(line) = self.content.lines.get(index) else {
            return Err(Reason::BadXml);
        };
        if let Some(fault) = line.fault {
            return Err(fault);
        }
        let own = &self.content.fields[line.fields.clone()];
        fields.set(self.slot_count, self.content.head.iter().chain(own))?;
        if let Some(swap) = &self.swap
            && fields
                .get(self.text(), swap.flag)
                .is_some_and(|flag| crate::value::trim(flag) == swap.value)
        {
            fields.swap(swap.slots.0, swap.slots.1);
        }
        Ok(())
    }

    /// The text that the fields of the message read last are parts of.
    pub fn text(&self) -> &str {
        &self.content.text
    }

    /// The message element: blocks of the head, the list, blocks that are passed over.
    fn message(&mut self, reader: &mut Reader<'_>) -> Result<(), Reason> {
        let start = loop {
            match event(reader)? {
                Event::Start(start) => break start,
                Event::Comment(_) | Event::PI(_) => {}
                _ => return Err(Reason::BadXml),
            }
        };
        self.check_element(reader, &start)?;
        if start.local_name().as_ref() != self.form.message {
            return Err(Reason::UnknownKey);
        }
        let mut blocks: Vec<String> = Vec::new();
        while let Some(block) = child(reader)? {
            self.check_element(reader, &block)?;
            let local = block.local_name().as_ref().to_owned();
            if self.form.ignored.contains(&local) {
                pass_over(reader)?;
                continue;
            }
            let is_list = local == self.form.list;
            if !is_list && !self.form.head.contains(&local) {
                return Err(Reason::UnknownKey);
            }
            if blocks.contains(&local) {
                return Err(Reason::DuplicateKey);
            }
            if is_list {
                self.list(reader)?;
            } else if let Some(fault) = self.block(reader, HEAD)? {
                return Err(fault);
            }
            blocks.push(local);
        }
        Ok(())
    }

    fn list(&mut self, reader: &mut Reader<'_>) -> Result<(), Reason> {
        while let Some(line) = child(reader)? {
            self.check_element(reader, &line)?;
            if line.local_name().as_ref() != self.form.line {
                return Err(Reason::UnknownKey);
            }
            if self.content.lines.len() == self.form.max_lines {
                return Err(Reason::TooManyLines);
            }
            let first = self.content.fields.len();
            self.seen[LINE].fill(false);
            let fault = self.block(reader, LINE)?;
            self.content.lines.push(Line {
                fields: first..self.content.fields.len(),
                fault,
            });
        }
        Ok(())
    }

    /// The fields of a block or a line, up to its end. What is wrong with a field is told and the rest still read.
    fn block(&mut self, reader: &mut Reader<'_>, of: usize) -> Result<Option<Reason>, Reason> {
        let mut fault = None;
        while let Some(start) = child(reader)? {
            self.check_element(reader, &start)?;
            let known = self.slots.get(start.local_name().as_ref()).copied();
            let Some((index, slot)) = known else {
                fault.get_or_insert(Reason::UnknownKey);
                pass_over(reader)?;
                continue;
            };
            if std::mem::replace(&mut self.seen[of][index], true) {
                fault.get_or_insert(Reason::DuplicateKey);
                pass_over(reader)?;
                continue;
            }
            let Slot::Wanted(slot) = slot else {
                pass_over(reader)?;
                continue;
            };
            let begin = self.content.text.len();
            if let Some(wrong) = self.put_together(reader)? {
                fault.get_or_insert(wrong);
            }
            let field = (slot, begin..self.content.text.len());
            if field.1.len() > self.field_bytes {
                fault.get_or_insert(Reason::FieldTooLong);
            }
            if of == HEAD {
                self.content.head.push(field);
            } else {
                self.content.fields.push(field);
            }
        }
        Ok(fault)
    }

    /// The text of a field, up to its end.
    fn put_together(&mut self, reader: &mut Reader<'_>) -> Result<Option<Reason>, Reason> {
        let text = &mut self.content.text;
        loop {
            match event(reader)? {
                Event::Text(part) => text.push_str(&part.xml10_content()),
                Event::CData(part) => text.push_str(&part.xml10_content()),
                Event::GeneralRef(reference) => text.push(character(&reference)?),
                Event::Comment(_) | Event::PI(_) => {}
                Event::End(_) => return Ok(None),
                Event::Start(_) => {
                    pass_over(reader)?;
                    pass_over(reader)?;
                    return Ok(Some(Reason::NestedValue));
                }
                _ => return Err(Reason::BadXml),
            }
        }
    }

    /// An element has few attributes and belongs to the namespace of the feed.
    fn check_element(&self, reader: &Reader<'_>, start: &BytesStart<'_>) -> Result<(), Reason> {
        check_attributes(start)?;
        match reader.resolver().resolve_element(start.name()).0 {
            ResolveResult::Bound(found) if found.0 == self.form.namespace => Ok(()),
            _ => Err(Reason::WrongNamespace),
        }
    }
}

/// The next event; what quick-xml refuses is refused.
fn event<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, Reason> {
    reader.read_event().map_err(|error| match error {
        quick_xml::Error::Namespace(NamespaceError::TooManyBindings(_)) => {
            Reason::TooManyAttributes
        }
        quick_xml::Error::Namespace(_) => Reason::WrongNamespace,
        _ => Reason::BadXml,
    })
}

/// The next element inside the one in hand; none at its end. Text between elements has to be white space.
fn child<'a>(reader: &mut Reader<'a>) -> Result<Option<BytesStart<'a>>, Reason> {
    loop {
        match event(reader)? {
            Event::Start(start) => return Ok(Some(start)),
            Event::End(_) => return Ok(None),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Text(text) if text.bytes().all(crate::xml::is_white) => {}
            Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => {
                return Err(Reason::NestedValue);
            }
            _ => return Err(Reason::BadXml),
        }
    }
}

/// Passes over the rest of the element in hand, checking that it is XML.
fn pass_over(reader: &mut Reader<'_>) -> Result<(), Reason> {
    let mut depth = 0_usize;
    loop {
        match event(reader)? {
            Event::Start(start) => {
                check_attributes(&start)?;
                depth += 1;
            }
            Event::End(_) if depth == 0 => return Ok(()),
            Event::End(_) => depth -= 1,
            Event::GeneralRef(reference) => drop(character(&reference)?),
            Event::Eof | Event::DocType(_) | Event::Decl(_) => return Err(Reason::BadXml),
            _ => {}
        }
    }
}

/// The character that a reference stands for: by number, or one of the five that XML itself defines.
fn character(reference: &quick_xml::events::BytesRef<'_>) -> Result<char, Reason> {
    if reference.is_char_ref() {
        let found = reference.resolve_char_ref().ok().flatten();
        return found
            .filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{7f}'..='\u{9f}'))
            .ok_or(Reason::BadXml);
    }
    match reference.as_ref() {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => Err(Reason::UnknownEntity),
    }
}
