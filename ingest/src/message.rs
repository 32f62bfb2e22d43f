//! Cuts documents of declarations into messages, whatever they hold.
//!
//! A document is one message, or an envelope with any number of them; a source is one document, or the documents of an
//! archive one after the other. Promises: every byte of a document belongs to exactly one message, to the envelope, or
//! to what could not be taken (one record); memory stays within [`Limits::message_bytes`] plus one block; the cuts
//! depend on the bytes alone, never on how they arrive or where reading began.
//!
//! A message that is wrong in itself ends where its element ends, and the next one is read. Where the tags no longer
//! fit each other, the document has a DTD, another encoding or another namespace, or it ends too early, nothing behind
//! can be told apart: the rest of that document is one record.

use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use memchr::memchr_iter;
use qihui_catalog::{Encoding, MessageForm};
use quick_xml::{NsReader, events::Event, name::ResolveResult};
use ring::digest::{Context, Digest, SHA256};

use crate::{
    checkpoint::Position,
    limits::Limits,
    reason::Reason,
    source::Part,
    xml::{self, Kind, Nesting, Step},
};

/// How much is read at a time, in bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// The most attributes of an element; messages have two or three.
pub(crate) const MAX_ATTRIBUTES: usize = 32;
/// The longest start tag of an envelope, in bytes: it is read again with each message.
const MAX_ENVELOPE_BYTES: usize = 4 << 10;
const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One message as it stands in the source, or what is left of a document that cannot be read on.
#[derive(Debug, Clone)]
pub(crate) struct MessageFrame {
    /// Where it starts.
    pub at: Position,
    /// Its length in bytes.
    pub length: u64,
    /// What is wrong with it as a whole.
    pub fault: Option<Reason>,
    /// SHA-256 of all its bytes, when they were not all kept.
    pub sha256: Option<[u8; 32]>,
    /// Where its lines stand, counted from its start; at most one more than a message may have.
    pub lines: Vec<Range<usize>>,
    /// Where it stands in the framer's buffer; none when only its head was kept.
    held: Option<Range<usize>>,
}

/// What is known of the document that is being read.
#[derive(Debug, Clone, Default)]
struct Document {
    encoding: DocumentEncoding,
    /// The start tag of the envelope, decoded.
    envelope: String,
    /// Its name, with prefix, as it stands there.
    envelope_name: Vec<u8>,
    phase: Phase,
    /// Whether anything but white space was there: from then on nothing declares an encoding.
    begun: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Before the first element.
    #[default]
    Prologue,
    /// Inside the envelope.
    Envelope,
    /// After the last element.
    Epilogue,
}

/// The encodings that declarations are sent in. GBK and GB2312 are parts of GB18030.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum DocumentEncoding {
    #[default]
    Utf8,
    Gb18030,
}

/// A record that is too long to be held.
struct Passing {
    hash: Context,
    length: u64,
}

/// Cuts `input` into messages.
pub(crate) struct MessageFramer<R> {
    input: R,
    form: Arc<MessageForm>,
    parts: Vec<Part>,
    /// The length of the source.
    source_bytes: u64,
    /// The document that is being read: a place in `parts`.
    part: usize,
    document: Document,
    buffer: Vec<u8>,
    /// What is not yet consumed is `buffer[start..end]`.
    start: usize,
    end: usize,
    ended: bool,
    /// Where `buffer[start]` stands in the source.
    position: Position,
    message_bytes: usize,
    kept_bytes: usize,
    kept: Vec<u8>,
    /// As in [`crate::frame::Framer`].
    hash: Context,
    hashed: usize,
}

/// What stands next in a document.
enum Next {
    /// A message begins, or an element that is none.
    Message,
    /// The document cannot be read on.
    Rest(Reason),
    /// The document is over.
    Over,
}

impl<R: Read> MessageFramer<R> {
    /// Reads `input`, which stands at the start of the document that begins at `part` of the source. `record` counts
    /// what was read before it.
    pub fn new(
        input: R,
        form: &MessageForm,
        (parts, source_bytes): (&[Part], u64),
        part: usize,
        record: u64,
        limits: &Limits,
    ) -> Self {
        let (offset, line) = parts.get(part).map_or((0, 1), |p| (p.start, p.line));
        Self {
            input,
            form: Arc::new(form.clone()),
            parts: parts.to_vec(),
            source_bytes,
            part,
            document: Document::default(),
            buffer: vec![0; limits.message_bytes + xml::MAX_TOKEN_BYTES + BLOCK_BYTES],
            start: 0,
            end: 0,
            ended: false,
            position: Position {
                offset,
                line,
                record,
            },
            message_bytes: limits.message_bytes,
            kept_bytes: limits.kept_bytes,
            kept: Vec::new(),
            hash: Context::new(&SHA256),
            hashed: 0,
        }
    }

    /// Goes on from `from`, a place between two records of the document whose beginning was read by
    /// [`MessageFramer::position`]. `input` stands there.
    pub fn go_on_from(&mut self, input: R, from: Position) {
        if self.document.phase == Phase::Prologue && from.offset > self.position.offset {
            // The document is one message, and that is read.
            self.document.phase = Phase::Epilogue;
        }
        self.input = input;
        (self.start, self.end, self.hashed) = (0, 0, 0);
        self.ended = false;
        self.position = from;
    }

    /// Where the next record starts, or the end of the source.
    pub fn position(&mut self) -> io::Result<Position> {
        self.find_next()?;
        Ok(self.position)
    }

    /// SHA-256 of everything consumed since the last call.
    pub fn take_hash(&mut self) -> Digest {
        self.hash.update(&self.buffer[self.hashed..self.start]);
        self.hashed = self.start;
        std::mem::replace(&mut self.hash, Context::new(&SHA256)).finish()
    }

    /// Counts the records that the message read last turned out to hold.
    pub fn count(&mut self, records: u64) {
        self.position.record += records;
    }

    /// The bytes of `frame`, the message read last: all of them, or its head when `sha256` is set.
    pub fn bytes(&self, frame: &MessageFrame) -> &[u8] {
        match &frame.held {
            Some(range) => &self.buffer[range.clone()],
            None => &self.kept,
        }
    }

    /// The encoding of the message read last.
    pub fn encoding(&self) -> Encoding {
        match self.document.encoding {
            DocumentEncoding::Utf8 => Encoding::Utf8,
            DocumentEncoding::Gb18030 => Encoding::Gb18030,
        }
    }

    /// The start tag of the envelope around the message read last; empty without one.
    pub fn envelope(&self) -> &str {
        &self.document.envelope
    }

    /// The next message, or none at the end of the source. Its records are still to be counted.
    pub fn next(&mut self) -> io::Result<Option<MessageFrame>> {
        match self.find_next()? {
            Next::Over => Ok(None),
            Next::Rest(fault) => self.rest(fault).map(Some),
            Next::Message => self.message().map(Some),
        }
    }

    fn gb18030(&self) -> bool {
        self.document.encoding == DocumentEncoding::Gb18030
    }

    /// Where the document ends that is being read.
    fn document_end(&self) -> u64 {
        self.parts
            .get(self.part + 1)
            .map_or(self.source_bytes, |next| next.start)
    }

    /// How many bytes of the buffer belong to the document, from `start` on.
    fn available(&self) -> usize {
        let left = self.document_end().saturating_sub(self.position.offset);
        usize::try_from(left).map_or(self.end - self.start, |left| {
            left.min(self.end - self.start)
        })
    }

    /// Whether nothing of the document follows what is in the buffer.
    fn is_whole(&self) -> bool {
        self.ended || self.position.offset + self.available() as u64 >= self.document_end()
    }

    /// Passes over what is no record.
    fn find_next(&mut self) -> io::Result<Next> {
        loop {
            let (step, window) = self.look(0)?;
            let next = match step {
                Step::Token(kind, length) => {
                    self.outside(kind, window.start..window.start + length)?
                }
                // Nothing is left of the document, and what it has to have was there.
                Step::Fault(Reason::Truncated) if window.is_empty() => self.document_over(),
                Step::Fault(fault) => Some(Next::Rest(fault)),
                Step::More => Some(Next::Rest(Reason::Truncated)),
            };
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    /// The document is at its end: turns to the next one, or says what is next.
    fn document_over(&mut self) -> Option<Next> {
        if self.part + 1 >= self.parts.len() {
            return Some(Next::Over);
        }
        self.part += 1;
        self.document = Document::default();
        None
    }

    /// What a token between records means; none when it is passed over.
    fn outside(&mut self, kind: Kind, at: Range<usize>) -> io::Result<Option<Next>> {
        let rest = |fault| Ok(Some(Next::Rest(fault)));
        let last = at.len() == self.available() && self.is_whole();
        let token = &self.buffer[at.clone()];
        match (kind, self.document.phase) {
            (Kind::Text, phase) => return Ok(self.text_outside(phase, at, last)),
            (Kind::Aside, Phase::Epilogue) => {}
            (Kind::Aside, _) if last => return rest(Reason::Truncated),
            (Kind::Aside, Phase::Prologue) if is_declaration(token) => {
                if self.document.begun {
                    return rest(Reason::BadXml);
                }
                match declared_encoding(token) {
                    Some(encoding) => self.document.encoding = encoding,
                    None => return rest(Reason::UnknownEncoding),
                }
            }
            (Kind::Aside, _) => {}
            (Kind::Start | Kind::Empty, Phase::Prologue) => {
                let name = xml::local(xml::name(token));
                if name == self.form.message.as_bytes() {
                    return Ok(Some(Next::Message));
                }
                if name != self.form.envelope.as_bytes() {
                    return rest(Reason::UnknownKey);
                }
                if last && kind == Kind::Start {
                    return rest(Reason::Truncated);
                }
                if let Err(fault) = self.enter(at.clone(), kind) {
                    return rest(fault);
                }
            }
            (Kind::Start | Kind::Empty, Phase::Envelope) => return Ok(Some(Next::Message)),
            (Kind::End, Phase::Envelope) if xml::name(token) == self.document.envelope_name => {
                return self.envelope_end(at.len());
            }
            _ => return rest(Reason::BadXml),
        }
        self.document.begun = true;
        self.consume(at.len());
        Ok(None)
    }

    /// The end tag of the envelope, `tag` bytes long, comes next. It is passed over with what may follow it. If
    /// something else does, what is left of the document begins with the tag: no position is ever between the two, so
    /// that reading goes on from every position as if it had never stopped.
    fn envelope_end(&mut self, tag: usize) -> io::Result<Option<Next>> {
        let mut at = tag;
        while at <= self.message_bytes && !self.ends_behind(at)? {
            let (step, window) = self.look(at)?;
            let fault = match step {
                Step::Token(Kind::Aside, length) => {
                    at += length;
                    continue;
                }
                Step::Token(Kind::Text, length) => {
                    let text = &self.buffer[window.start..window.start + length];
                    if text.iter().all(|byte| xml::is_white(*byte)) {
                        at += length;
                        continue;
                    }
                    Reason::BadXml
                }
                Step::Fault(fault) => fault,
                _ => Reason::BadXml,
            };
            return Ok(Some(Next::Rest(fault)));
        }
        if at > self.message_bytes {
            return Ok(Some(Next::Rest(Reason::RecordTooLong)));
        }
        self.document.phase = Phase::Epilogue;
        self.consume(at);
        Ok(None)
    }

    /// White space between records is passed over; but the last byte of a document that ends too early is a record,
    /// so that its end is not overlooked.
    fn text_outside(&mut self, phase: Phase, at: Range<usize>, last: bool) -> Option<Next> {
        let text = &self.buffer[at.clone()];
        let document_start = self.parts.get(self.part).map_or(0, |part| part.start);
        let begins = phase == Phase::Prologue && self.position.offset == document_start;
        if begins && (text.starts_with(b"\xFF\xFE") || text.starts_with(b"\xFE\xFF")) {
            return Some(Next::Rest(Reason::UnknownEncoding));
        }
        let mark = if begins && text.starts_with(UTF8_MARK) {
            UTF8_MARK.len()
        } else {
            0
        };
        let white = text[mark..]
            .iter()
            .position(|byte| !xml::is_white(*byte))
            .map(|white| mark + white);
        if let Some(white) = white {
            self.consume(white);
            // The last byte of a message that nothing closes (see `message`).
            let is_left_over = self.position.offset + 1 == self.document_end();
            return Some(Next::Rest(if is_left_over && phase == Phase::Envelope {
                Reason::Truncated
            } else {
                Reason::BadXml
            }));
        }
        if last && phase != Phase::Epilogue {
            self.consume(at.len() - 1);
            return Some(Next::Rest(Reason::Truncated));
        }
        self.consume(at.len());
        None
    }

    /// Enters the envelope whose start tag stands at `tag`.
    fn enter(&mut self, tag: Range<usize>, kind: Kind) -> Result<(), Reason> {
        let raw = &self.buffer[tag];
        if raw.len() > MAX_ENVELOPE_BYTES {
            return Err(Reason::RecordTooLong);
        }
        let text = if self.gb18030() {
            encoding_rs::GB18030
                .decode_without_bom_handling_and_without_replacement(raw)
                .ok_or(Reason::BadEncoding)?
                .into_owned()
        } else {
            String::from_utf8(raw.to_vec()).map_err(|_| Reason::BadEncoding)?
        };
        check_root(&text, &self.form.namespace)?;
        self.document.envelope_name = xml::name(raw).to_vec();
        self.document.envelope = text;
        self.document.phase = match kind {
            Kind::Empty => Phase::Epilogue,
            _ => Phase::Envelope,
        };
        Ok(())
    }

    /// The message whose start tag comes next, or the element that stands in its place.
    fn message(&mut self) -> io::Result<MessageFrame> {
        let begin = self.position;
        let mut nesting = Nesting::default();
        let form = Arc::clone(&self.form);
        let mut lines = Lines::new(&form);
        let mut passing: Option<Passing> = None;
        let mut is_message = None;
        let mut at = 0;
        loop {
            let (step, window) = self.look(at)?;
            let Step::Token(kind, length) = step else {
                let fault = match step {
                    Step::Fault(fault) => fault,
                    _ => Reason::Truncated,
                };
                return self.rest_from(begin, at, passing, fault);
            };
            let token = &self.buffer[window.start..window.start + length];
            let passed = passing
                .as_ref()
                .map_or(0, |p| usize::try_from(p.length).unwrap_or(usize::MAX));
            if let Err(fault) = track(
                &mut nesting,
                &mut lines,
                kind,
                token,
                at.saturating_add(passed),
            ) {
                return self.rest_from(begin, at, passing, fault);
            }
            is_message
                .get_or_insert_with(|| xml::local(xml::name(token)) == form.message.as_bytes());
            at += length;
            if nesting.depth() == 0 {
                break;
            }
            if passing.is_some() || at > self.message_bytes {
                self.pass(&mut passing, at);
                at = 0;
            }
        }
        if self.document.phase == Phase::Prologue {
            self.document.phase = Phase::Epilogue;
        }
        let fault = if is_message == Some(false) {
            Some(Reason::UnknownKey)
        } else if lines.found.len() > form.max_lines {
            Some(Reason::TooManyLines)
        } else {
            None
        };
        let cut_short = self.document.phase == Phase::Envelope && self.ends_behind(at)?;
        if passing.is_some() {
            if cut_short {
                return self.rest_from(begin, at, passing, Reason::Truncated);
            }
            self.pass(&mut passing, at);
            return Ok(self.passed(begin, passing, Reason::RecordTooLong));
        }
        let held = self.start..self.start + at;
        // The envelope is not closed: the last byte stays, for the record that says so.
        self.consume(at - usize::from(cut_short));
        Ok(MessageFrame {
            at: begin,
            length: at as u64,
            fault,
            sha256: None,
            lines: lines.found,
            held: Some(held),
        })
    }

    /// Whether the document ends `at` bytes behind the start.
    fn ends_behind(&mut self, at: usize) -> io::Result<bool> {
        while at == self.available() && !self.is_whole() {
            self.fill()?;
        }
        Ok(at == self.available())
    }

    /// All that is left of the document, as one record.
    fn rest(&mut self, fault: Reason) -> io::Result<MessageFrame> {
        self.rest_from(self.position, 0, None, fault)
    }

    /// What began at `begin`, of which `at` bytes stand in the buffer, up to the end of the document.
    fn rest_from(
        &mut self,
        begin: Position,
        at: usize,
        mut passing: Option<Passing>,
        fault: Reason,
    ) -> io::Result<MessageFrame> {
        self.pass(&mut passing, at);
        loop {
            let available = self.available();
            self.pass(&mut passing, available);
            if self.is_whole() || !self.fill()? {
                break;
            }
        }
        self.document.phase = Phase::Epilogue;
        Ok(self.passed(begin, passing, fault))
    }

    /// Hashes and passes over `bytes`, and keeps them as long as there is room.
    fn pass(&mut self, passing: &mut Option<Passing>, bytes: usize) {
        let passing = passing.get_or_insert_with(|| {
            self.kept.clear();
            Passing {
                hash: Context::new(&SHA256),
                length: 0,
            }
        });
        let block = &self.buffer[self.start..self.start + bytes];
        passing.hash.update(block);
        passing.length += bytes as u64;
        let room = self.kept_bytes.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&block[..bytes.min(room)]);
        self.consume(bytes);
    }

    fn passed(&self, at: Position, passing: Option<Passing>, fault: Reason) -> MessageFrame {
        let (hash, length) = passing.map_or_else(
            || (Context::new(&SHA256), 0),
            |passing| (passing.hash, passing.length),
        );
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(hash.finish().as_ref());
        MessageFrame {
            at,
            length,
            fault: Some(fault),
            sha256: Some(sha256),
            lines: Vec::new(),
            held: None,
        }
    }

    /// What stands `at` bytes behind the start, and where that is in the buffer; reads on until that is clear.
    fn look(&mut self, at: usize) -> io::Result<(Step, Range<usize>)> {
        loop {
            let window = self.start + at..self.start + self.available();
            let whole = self.is_whole();
            let step = xml::step(&self.buffer[window.clone()], whole, self.gb18030());
            // Between records it matters whether something follows.
            let open = at == 0
                && matches!(step, Step::Token(_, length) if length == window.len() && length <= BLOCK_BYTES);
            if whole || !(step == Step::More || open) {
                return Ok((step, window));
            }
            self.fill()?;
        }
    }

    fn consume(&mut self, bytes: usize) {
        let lines = memchr_iter(b'\n', &self.buffer[self.start..self.start + bytes]).count();
        self.start += bytes;
        self.position.offset += bytes as u64;
        self.position.line += lines as u64;
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

/// The lines of a message, found while it is cut.
struct Lines<'f> {
    form: &'f MessageForm,
    inside: bool,
    open: Option<usize>,
    found: Vec<Range<usize>>,
}

impl<'f> Lines<'f> {
    fn new(form: &'f MessageForm) -> Self {
        Self {
            form,
            inside: false,
            open: None,
            found: Vec::new(),
        }
    }

    fn add(&mut self, line: Range<usize>) {
        if self.found.len() <= self.form.max_lines {
            self.found.push(line);
        }
    }
}

/// Follows one token of a message, `at` bytes behind its start.
fn track(
    nesting: &mut Nesting,
    lines: &mut Lines<'_>,
    kind: Kind,
    token: &[u8],
    at: usize,
) -> Result<(), Reason> {
    /// Message, list, line.
    const LINE_DEPTH: usize = 3;
    let local = xml::local(xml::name(token));
    let is_line = lines.inside && local == lines.form.line.as_bytes();
    match kind {
        Kind::Text | Kind::CData | Kind::Aside => Ok(()),
        Kind::Start => {
            nesting.open(xml::name(token))?;
            if nesting.depth() + 1 == LINE_DEPTH {
                lines.inside = local == lines.form.list.as_bytes();
            }
            if nesting.depth() == LINE_DEPTH && is_line {
                lines.open = Some(at);
            }
            Ok(())
        }
        Kind::Empty => {
            nesting.open(xml::name(token))?;
            if nesting.depth() == LINE_DEPTH && is_line {
                lines.add(at..at + token.len());
            }
            nesting.close(xml::name(token))
        }
        Kind::End => {
            if nesting.depth() == LINE_DEPTH
                && let Some(open) = lines.open.take()
            {
                lines.add(open..at + token.len());
            }
            if nesting.depth() + 1 == LINE_DEPTH {
                lines.inside = false;
            }
            nesting.close(xml::name(token))
        }
    }
}

/// Whether an instruction is the XML declaration, and not one whose name begins alike.
fn is_declaration(instruction: &[u8]) -> bool {
    let rest = instruction.strip_prefix(b"<?xml");
    rest.and_then(<[u8]>::first)
        .is_some_and(|byte| *byte == b'?' || xml::is_white(*byte))
}

/// The encoding that an XML declaration names; none when it is one that is not taken.
fn declared_encoding(declaration: &[u8]) -> Option<DocumentEncoding> {
    let text = std::str::from_utf8(declaration).ok()?;
    let mut reader = quick_xml::Reader::from_str(text);
    let Ok(Event::Decl(declaration)) = reader.read_event() else {
        return None;
    };
    let Some(name) = declaration.encoding() else {
        return Some(DocumentEncoding::Utf8);
    };
    let name = name.ok()?;
    let is = |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
    if is(&["utf-8", "utf8", "us-ascii"]) {
        Some(DocumentEncoding::Utf8)
    } else if is(&["gb18030", "gbk", "gb2312", "cp936"]) {
        Some(DocumentEncoding::Gb18030)
    } else {
        None
    }
}

/// Checks the start tag of an envelope: few attributes, and the namespace of the feed.
fn check_root(tag: &str, namespace: &str) -> Result<(), Reason> {
    let mut reader = NsReader::from_str(tag);
    match reader.read_resolved_event() {
        Ok((resolved, Event::Start(start) | Event::Empty(start))) => {
            check_attributes(&start)?;
            match resolved {
                ResolveResult::Bound(found) if found.0 == namespace => Ok(()),
                _ => Err(Reason::WrongNamespace),
            }
        }
        _ => Err(Reason::BadXml),
    }
}

/// Refuses an element with many attributes, or with one that is not well-formed.
pub(crate) fn check_attributes(start: &quick_xml::events::BytesStart<'_>) -> Result<(), Reason> {
    if start.attributes_raw().trim().is_empty() {
        return Ok(());
    }
    let mut unchecked = start.attributes();
    if unchecked.with_checks(false).nth(MAX_ATTRIBUTES).is_some() {
        return Err(Reason::TooManyAttributes);
    }
    if start.attributes().all(|attribute| attribute.is_ok()) {
        Ok(())
    } else {
        Err(Reason::BadXml)
    }
}
