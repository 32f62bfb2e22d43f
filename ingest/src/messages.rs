//! Records that are lines of messages: XML.

use std::{io::Read, sync::Arc};

use memchr::memchr_iter;
use ring::digest::Digest;

use crate::{
    IngestError,
    checkpoint::Position,
    chunk::{Gatherer, Rejected, RowAt},
    error::Result,
    fields::Fields,
    limits::Limits,
    message::{MessageFrame, MessageFramer},
    message_fields::MessageFields,
    plan::Plan,
    reader::{Records, failed, reject, weight, whole},
    reason::{Problem, Reason},
    source::Source,
    text::TextDecoder,
};

type Input = Box<dyn Read + Send>;

/// Reads a source message by message.
pub(crate) struct MessageRecords {
    source: Arc<Source>,
    framer: MessageFramer<Input>,
    splitter: MessageFields,
    decoder: TextDecoder,
    /// The start tag of the envelope and the message in hand, decoded.
    text: String,
    fields: Fields,
    limits: Limits,
}

impl MessageRecords {
    /// Opens `source` for reading from `from` on, or from its first record.
    pub fn open(
        source: &Arc<Source>,
        plan: &Arc<Plan>,
        from: Option<Position>,
        limits: &Limits,
    ) -> Result<Self> {
        let no_form = || IngestError::BadFeed {
            feed: plan.feed.name.to_string(),
            fault: "it does not say what its messages are".into(),
        };
        let form = plan.feed.message.as_ref().ok_or_else(no_form)?;
        let read = |offset| -> Result<Input> { Ok(Box::new(source.reader(offset)?)) };
        let part = from.map_or(0, |from| source.part_at(from.offset));
        let start = source.parts.get(part).map_or(0, |part| part.start);
        let mut framer = MessageFramer::new(
            read(start)?,
            form,
            (&source.parts, source.bytes),
            part,
            from.map_or(0, |from| from.record),
            limits,
        );
        if let Some(from) = from {
            let first = framer.position().map_err(|error| failed(source, error))?;
            if from.offset > first.offset {
                framer.go_on_from(read(from.offset)?, from);
            }
        }
        Ok(Self {
            source: Arc::clone(source),
            framer,
            splitter: plan.bind_elements(limits).ok_or_else(no_form)?,
            decoder: TextDecoder::new(qihui_catalog::Encoding::Utf8),
            text: String::new(),
            fields: Fields::default(),
            limits: *limits,
        })
    }

    /// Takes the lines of a message in, and says how many they are and what they weigh; what is wrong with all of it is
    /// said.
    fn take(
        &mut self,
        frame: &MessageFrame,
        gatherer: &mut Gatherer,
        rejected: &mut Vec<Rejected>,
    ) -> Result<(u64, u64), Reason> {
        if let Some(fault) = frame.fault {
            return Err(fault);
        }
        let raw = self.framer.bytes(frame);
        if self.decoder.encoding() != self.framer.encoding() {
            self.decoder = TextDecoder::new(self.framer.encoding());
        }
        self.text.clear();
        self.text.push_str(self.framer.envelope());
        let envelope = self.text.len();
        self.text.push_str(self.decoder.decode(raw)?);
        let lines = self.splitter.read(&self.text, envelope)?;
        if lines != frame.lines.len() {
            // INVARIANT: both see the same tags; if they did not, no line could be told from another.
            return Err(Reason::BadXml);
        }
        // The head is what stands before the first line.
        let head = &raw[..frame.lines.first().map_or(0, |line| line.start)];
        let (mut counted, mut line, mut weighed) = (0, frame.at.line, 0);
        let kept_bytes = self.limits.kept_bytes;
        for (index, range) in frame.lines.iter().enumerate() {
            line += memchr_iter(b'\n', &raw[counted..range.start]).count() as u64;
            counted = range.start;
            weighed += weight(head.len(), range.len() as u64, kept_bytes);
            let at = Position {
                offset: frame.at.offset + range.start as u64,
                line,
                record: 0,
            };
            if let Err(problems) = take_line(
                &self.splitter,
                index,
                &mut self.fields,
                gatherer,
                row_at(at, range.len(), range.start, head.len()),
            ) {
                let raw = (head, &raw[range.clone()]);
                rejected.push(reject(&self.source, at, raw, problems, kept_bytes));
            }
        }
        Ok((lines as u64, weighed))
    }
}

fn row_at(at: Position, length: usize, head_before: usize, head_length: usize) -> RowAt {
    // INVARIANT: a message is no longer than `message_bytes`, far below 4 GiB.
    let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    RowAt {
        offset: at.offset,
        line: at.line,
        length: short(length),
        head_before: short(head_before),
        head_length: short(head_length),
    }
}

fn take_line(
    splitter: &MessageFields,
    index: usize,
    fields: &mut Fields,
    gatherer: &mut Gatherer,
    at: RowAt,
) -> Result<(), Vec<Problem>> {
    splitter.line(index, fields).map_err(whole)?;
    gatherer.take(splitter.text(), fields, at)
}

impl Records for MessageRecords {
    fn position(&mut self) -> Result<Position> {
        let position = self.framer.position();
        position.map_err(|error| failed(&self.source, error))
    }

    fn next(
        &mut self,
        gatherer: &mut Gatherer,
        rejected: &mut Vec<Rejected>,
    ) -> Result<Option<u64>> {
        let frame = self.framer.next();
        let Some(frame) = frame.map_err(|error| failed(&self.source, error))? else {
            return Ok(None);
        };
        let (records, weighed) = match self.take(&frame, gatherer, rejected) {
            Ok(taken) => taken,
            Err(fault) => {
                let raw = self.framer.bytes(&frame);
                let kept_bytes = self.limits.kept_bytes;
                let raw = (&[][..], raw);
                let mut record = reject(&self.source, frame.at, raw, whole(fault), kept_bytes);
                if let Some(sha256) = frame.sha256 {
                    record.sha256 = sha256;
                    record.length = frame.length;
                }
                rejected.push(record);
                (1, weight(0, frame.length, kept_bytes))
            }
        };
        self.framer.count(records);
        Ok(Some(weighed))
    }

    fn take_hash(&mut self) -> Digest {
        self.framer.take_hash()
    }
}
