//! Records that are lines: CSV, JSON lines, rows of workbooks.

use std::{
    io::{self, Read},
    sync::Arc,
};

use qihui_catalog::FeedFormat;
use ring::digest::Digest;

use crate::{
    IngestError,
    checkpoint::Position,
    chunk::{Gatherer, Rejected, RowAt},
    error::{HeaderFault, Result},
    fields::{self, CsvFields, Fields, JsonFields, RowFields},
    frame::{Frame, Framer},
    limits::Limits,
    plan::{Plan, QUOTE},
    reader::{Records, failed, reject, weight, whole},
    reason::{Problem, Reason},
    source::Source,
    text::TextDecoder,
    workbook,
};

const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";
const GB18030_MARK: &[u8] = b"\x84\x31\x95\x33";
const UTF16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];
/// Among how many rows of a sheet its header is looked for.
const HEADER_ROWS: usize = 64;

type Input = Box<dyn Read + Send>;

/// Reads a source line by line.
pub(crate) struct LineRecords {
    source: Arc<Source>,
    plan: Arc<Plan>,
    /// The part that is being read.
    part: usize,
    framer: Framer<Input>,
    decoder: TextDecoder,
    splitter: Splitter,
    fields: Fields,
    limits: Limits,
}

enum Splitter {
    Csv(CsvFields),
    Json(JsonFields),
    Row(RowFields),
}

impl Splitter {
    fn split(&mut self, record: &str, fields: &mut Fields) -> Result<(), Reason> {
        match self {
            Self::Csv(csv) => csv.split(record, fields),
            Self::Json(json) => json.split(record, fields),
            Self::Row(row) => row.split(record, fields),
        }
    }
}

/// The text of `source` from `offset` on, up to the end of part number `part`.
fn input(source: &Source, offset: u64, part: usize) -> Result<Input> {
    let left = source.part_end(part).saturating_sub(offset);
    Ok(Box::new(source.reader(offset)?.take(left)))
}

impl LineRecords {
    /// Opens `source` for reading from `from` on, or from its first record.
    pub fn open(
        source: &Arc<Source>,
        plan: &Arc<Plan>,
        from: Option<Position>,
        limits: &Limits,
    ) -> Result<Self> {
        let part = from.map_or(0, |from| source.part_at(from.offset));
        let (offset, line) = source.parts.get(part).map_or((0, 1), |p| (p.start, p.line));
        let start = Position {
            offset,
            line,
            record: 0,
        };
        let mut decoder = TextDecoder::new(plan.encoding());
        let mut framer = Framer::new(input(source, offset, part)?, start, plan.quoting(), limits);
        let splitter = match plan.feed.format {
            FeedFormat::Xlsx => {
                check_headers(plan, source, limits)?;
                sheet_header(&mut framer, plan, source, part, limits)?
            }
            _ => {
                pass_mark(&mut framer, plan, &source.name)?;
                file_header(&mut framer, &mut decoder, plan, source, limits)?
            }
        };
        framer.set_records(0);
        let mut records = Self {
            source: Arc::clone(source),
            plan: Arc::clone(plan),
            part,
            framer,
            decoder,
            splitter,
            fields: Fields::default(),
            limits: *limits,
        };
        if let Some(from) = from {
            let rest = input(source, from.offset, part)?;
            records.framer.turn_to(rest, from);
        }
        Ok(records)
    }

    fn take(&mut self, frame: &Frame, gatherer: &mut Gatherer) -> Result<(), Vec<Problem>> {
        if let Some(fault) = frame.fault {
            return Err(whole(fault));
        }
        let text = self
            .decoder
            .decode(self.framer.bytes(frame))
            .map_err(whole)?;
        self.splitter.split(text, &mut self.fields).map_err(whole)?;
        // INVARIANT: a record without fault is no longer than `record_bytes`, far below 4 GiB.
        let length = u32::try_from(frame.length).unwrap_or(u32::MAX);
        let at = RowAt {
            offset: frame.at.offset,
            line: frame.at.line,
            length,
            head_before: 0,
            head_length: 0,
        };
        gatherer.take(text, &self.fields, at)
    }

    fn rejected(&self, frame: &Frame, problems: Vec<Problem>) -> Rejected {
        let raw = self.framer.bytes(frame);
        let mut rejected = reject(
            &self.source,
            frame.at,
            (&[], raw),
            problems,
            self.limits.kept_bytes,
        );
        if let Some(sha256) = frame.sha256 {
            rejected.sha256 = sha256;
            rejected.length = frame.length;
        }
        rejected
    }
}

impl Records for LineRecords {
    fn position(&mut self) -> Result<Position> {
        loop {
            let position = self.framer.position();
            let position = position.map_err(|error| failed(&self.source, error))?;
            if !self.framer.at_end() || self.part + 1 >= self.source.parts.len() {
                return Ok(position);
            }
            self.part += 1;
            let rest = input(&self.source, position.offset, self.part)?;
            self.framer.turn_to(rest, position);
            self.splitter = sheet_header(
                &mut self.framer,
                &self.plan,
                &self.source,
                self.part,
                &self.limits,
            )?;
            self.framer.set_records(position.record);
        }
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
        if self.decoder.needs_evidence(self.framer.bytes(&frame)) {
            self.decoder.learn(self.source.evidence()?);
        }
        if let Err(problems) = self.take(&frame, gatherer) {
            rejected.push(self.rejected(&frame, problems));
        }
        Ok(Some(weight(0, frame.length, self.limits.kept_bytes)))
    }

    fn take_hash(&mut self) -> Digest {
        self.framer.take_hash()
    }
}

/// Reads the header of a file, if its form has one.
fn file_header(
    framer: &mut Framer<Input>,
    decoder: &mut TextDecoder,
    plan: &Plan,
    source: &Source,
    limits: &Limits,
) -> Result<Splitter> {
    if plan.feed.format != FeedFormat::Csv {
        return Ok(Splitter::Json(plan.bind_keys(limits)));
    }
    let frame = framer
        .next()
        .map_err(|error| failed(source, error))?
        .ok_or_else(|| IngestError::EmptyFile {
            file: source.name.clone(),
            feed: plan.feed.name.to_string(),
        })?;
    if decoder.needs_evidence(framer.bytes(&frame)) {
        decoder.learn(source.evidence()?);
    }
    let csv = bind_header(framer, &frame, decoder, plan, limits);
    let csv = csv.map_err(|fault| bad_header(source.name.clone(), plan, fault))?;
    Ok(Splitter::Csv(csv))
}

fn bad_header(file: String, plan: &Plan, fault: HeaderFault) -> IngestError {
    IngestError::BadHeader {
        file,
        feed: plan.feed.name.to_string(),
        fault,
    }
}

/// Looks at the header of every sheet, so that a workbook is refused before the first of its rows is taken.
fn check_headers(plan: &Plan, source: &Source, limits: &Limits) -> Result<()> {
    for (part, begins) in source.parts.iter().enumerate() {
        let start = Position {
            offset: begins.start,
            line: begins.line,
            record: 0,
        };
        let rows = input(source, start.offset, part)?;
        let mut framer = Framer::new(rows, start, plan.quoting(), limits);
        sheet_header(&mut framer, plan, source, part, limits)?;
    }
    Ok(())
}

/// Finds the header row of a sheet: the first of its rows in which at least half of the expected columns are.
///
/// What stands above it (a title, a unit, a date) is no record.
fn sheet_header(
    framer: &mut Framer<Input>,
    plan: &Plan,
    source: &Source,
    part: usize,
    limits: &Limits,
) -> Result<Splitter> {
    let sheet = source.parts.get(part).and_then(|part| part.name.as_deref());
    let file = format!("{}`, sheet `{}", source.name, sheet.unwrap_or_default());
    let (mut most, mut wanted) = (0, plan.expected_among(&[]).1);
    for _ in 0..HEADER_ROWS {
        let frame = framer.next().map_err(|error| failed(source, error))?;
        let Some(frame) = frame else { break };
        let Some(names) = row_names(framer.bytes(&frame)) else {
            continue;
        };
        let (found, expected) = plan.expected_among(&names);
        (most, wanted) = (most.max(found), expected);
        if found * 2 >= expected {
            let row = plan.bind_row(&names, source.dates, limits);
            let row = row.map_err(|fault| bad_header(file, plan, fault))?;
            return Ok(Splitter::Row(row));
        }
    }
    let fault = HeaderFault::NotAHeader {
        found: most,
        expected: wanted,
    };
    Err(bad_header(file, plan, fault))
}

/// The texts of the cells of a row that may be a header.
fn row_names(row: &[u8]) -> Option<Vec<String>> {
    let row = std::str::from_utf8(row).ok()?;
    let names = workbook::cells(row).map(|cell| {
        let mut name = String::new();
        workbook::read_cell(cell, None, &mut name).ok()?;
        Some(crate::value::trim(&name).to_owned())
    });
    names.collect()
}

/// Passes over an encoding mark; one that contradicts the feed fails the file.
fn pass_mark<R: Read>(framer: &mut Framer<R>, plan: &Plan, file: &str) -> Result<()> {
    use qihui_catalog::Encoding;
    let failed = |error: io::Error| IngestError::io(format!("reading `{file}`"), error);
    let unexpected = |found| IngestError::UnexpectedEncoding {
        file: file.to_owned(),
        feed: plan.feed.name.to_string(),
        found,
        expected: match plan.feed.encoding {
            Encoding::Detect => "UTF-8 or GB18030",
            Encoding::Utf8 => "UTF-8",
            Encoding::Gb18030 => "GB18030",
        },
    };
    for mark in UTF16_MARKS {
        if framer.starts_with(mark).map_err(failed)? {
            return Err(unexpected("UTF-16"));
        }
    }
    for (mark, name, other) in [
        (UTF8_MARK, "UTF-8", Encoding::Gb18030),
        (GB18030_MARK, "GB18030", Encoding::Utf8),
    ] {
        if framer.skip_mark(mark).map_err(failed)? {
            return if plan.feed.encoding == other {
                Err(unexpected(name))
            } else {
                Ok(())
            };
        }
    }
    Ok(())
}

fn bind_header<R: Read>(
    framer: &Framer<R>,
    frame: &Frame,
    decoder: &mut TextDecoder,
    plan: &Plan,
    limits: &Limits,
) -> Result<CsvFields, HeaderFault> {
    let unreadable = |reason: Reason| HeaderFault::Unreadable(reason.as_str());
    if let Some(fault) = frame.fault {
        return Err(unreadable(fault));
    }
    let line = decoder.decode(framer.bytes(frame)).map_err(unreadable)?;
    let names =
        fields::header(line, plan.feed.delimiter, QUOTE, limits).map_err(
            |reason| match reason {
                Reason::FieldCount => HeaderFault::TooManyColumns {
                    found: limits.columns + 1,
                    limit: limits.columns,
                },
                other => unreadable(other),
            },
        )?;
    plan.bind_header(&names, limits)
}
