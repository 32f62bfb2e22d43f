//! The files of a feed, in its format: lines of text, messages, workbooks.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use encoding_rs::GB18030;
use qihui_catalog::FeedFormat;

use crate::calendar::Month;
use crate::emit::Output;
use crate::error::{Result, SynthError};
use crate::manifest::FileManifest;
use crate::plan::Plan;
use crate::row::{NUL_MARK, Row, WRONG_MARK, csv_field};
use crate::workbook::Book;

mod messages;

use messages::Messages;

const BUFFER_BYTES: usize = 32 << 10;

/// One file of a feed.
pub(crate) struct FeedFile<'p> {
    plan: &'p Plan,
    /// Which of the feed's months it is of.
    index: usize,
    name: String,
    path: PathBuf,
    writer: BufWriter<File>,
    records: u64,
    bytes: u64,
    form: Form,
    /// The text in hand.
    text: String,
}

enum Form {
    Lines,
    Messages(Box<Messages>),
    Book(Box<Book>),
}

impl<'p> FeedFile<'p> {
    /// Makes the file of `month`, and writes what comes before its first record. `part` counts the files of the month.
    pub(crate) fn create(
        plan: &'p Plan,
        output: &Output,
        index: usize,
        month: Month,
        part: usize,
    ) -> Result<Self> {
        let part = u32::try_from(part).unwrap_or(u32::MAX);
        let name = plan.file_name(month.year(), month.number(), part);
        let (path, file) = output.create(&name)?;
        let form = match plan.feed.format {
            FeedFormat::Csv | FeedFormat::JsonLines => Form::Lines,
            FeedFormat::Xml => Form::Messages(Box::new(Messages::new(plan, index))),
            FeedFormat::Xlsx => Form::Book(Box::new(Book::new(plan, index, month)?)),
        };
        let mut file = Self {
            plan,
            index,
            name,
            path,
            writer: BufWriter::with_capacity(BUFFER_BYTES, file),
            records: 0,
            bytes: 0,
            form,
            text: String::new(),
        };
        if plan.mark(index) {
            file.text.push('\u{feff}');
        }
        match &file.form {
            Form::Lines if plan.feed.format == FeedFormat::Csv => file.header(),
            Form::Messages(messages) => messages.begin(&mut file.text),
            _ => {}
        }
        file.flush()?;
        Ok(file)
    }

    fn header(&mut self) {
        for (place, source) in self.plan.header(self.index).into_iter().enumerate() {
            if place > 0 {
                self.text.push(char::from(self.plan.feed.delimiter));
            }
            csv_field(self.plan.feed.delimiter, source, &mut self.text);
        }
        self.text.push_str(self.plan.line_end());
    }

    /// Whether the next record has to go into another file.
    pub(crate) fn is_full(&self) -> bool {
        match &self.form {
            Form::Lines | Form::Messages(_) => false,
            Form::Book(book) => book.is_full(),
        }
    }

    /// Writes a record, cut short if it is `torn`, and apart from others if it is to be `alone`.
    pub(crate) fn put(&mut self, row: &Row<'_>, torn: bool, alone: bool) -> Result<()> {
        self.records += 1;
        match &mut self.form {
            Form::Lines => {
                row.write(self.index, usize::from(torn), &mut self.text);
                if torn && self.plan.feed.format == FeedFormat::JsonLines {
                    self.text.pop();
                    self.text.pop();
                }
                self.text.push_str(self.plan.line_end());
            }
            Form::Messages(messages) => messages.put(row, torn, alone, &mut self.text),
            Form::Book(book) => book.put(row, torn)?,
        }
        self.flush()
    }

    /// Writes the text in hand, in the encoding of the file.
    fn flush(&mut self) -> Result<()> {
        let encoded = if self.plan.gb18030(self.index) {
            GB18030.encode(&self.text).0
        } else {
            self.text.as_bytes().into()
        };
        let result = if self.text.contains([NUL_MARK, WRONG_MARK]) {
            let bytes: Vec<u8> = encoded
                .iter()
                .map(|byte| match byte {
                    1 => 0,
                    2 => 0xff,
                    byte => *byte,
                })
                .collect();
            self.writer.write_all(&bytes)
        } else {
            self.writer.write_all(&encoded)
        };
        self.bytes += encoded.len() as u64;
        result.map_err(|source| failed(&self.path, source))?;
        self.text.clear();
        Ok(())
    }

    /// Writes what comes behind the last record.
    pub(crate) fn close(mut self) -> Result<FileManifest> {
        let mut rest = Vec::new();
        match &mut self.form {
            Form::Lines => {}
            Form::Messages(messages) => messages.end(&mut self.text),
            Form::Book(book) => rest = book.finish()?,
        }
        self.flush()?;
        self.bytes += rest.len() as u64;
        let written = self.writer.write_all(&rest);
        written
            .and_then(|()| self.writer.flush())
            .map_err(|source| failed(&self.path, source))?;
        Ok(FileManifest {
            name: self.name,
            records: self.records,
            bytes: self.bytes,
        })
    }
}

fn failed(path: &std::path::Path, source: std::io::Error) -> SynthError {
    SynthError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    }
}
