//! Annual reports as workbooks, the way people save them: a merged title, a line that says when it was taken out, the
//! header below, days as days, codes as text, further sheets once one is long, and a hidden sheet that is not data.
//!
//! A workbook is held until it is full ([`MOST_ROWS`]); then the next file of the month begins.

use rust_xlsxwriter::{
    DocProperties, ExcelDateTime, Format, FormatAlign, Workbook, Worksheet, XlsxError,
};

use crate::calendar::Month;
use crate::error::{Result, SynthError};
use crate::plan::Plan;
use crate::row::{Row, SheetCell};

/// Rows of one workbook.
const MOST_ROWS: u32 = 10_000;
/// Rows of one sheet.
const SHEET_ROWS: u32 = 2_000;

/// A workbook under construction.
pub(crate) struct Book {
    workbook: Workbook,
    header: Vec<String>,
    title: String,
    /// The row that the header stands in, from 0; it differs from file to file.
    header_row: u32,
    rows: u32,
    formats: Formats,
}

struct Formats {
    title: Format,
    day: Format,
    time: Format,
}

impl Book {
    pub(crate) fn new(plan: &Plan, file: usize, month: Month) -> Result<Self> {
        let mut workbook = Workbook::new();
        // The moment of writing would make every run differ.
        let taken_out = moment(month)?;
        let properties = DocProperties::new()
            .set_author("登记注册处")
            .set_creation_datetime(&taken_out);
        workbook.set_properties(&properties);
        let mut book = Self {
            workbook,
            header: plan.header(file).into_iter().map(str::to_owned).collect(),
            title: format!("企业年度报告信息（{}年{}月）", month.year(), month.number()),
            header_row: 2 + u32::try_from(file % 3).unwrap_or(0),
            rows: 0,
            formats: Formats {
                title: Format::new().set_bold().set_align(FormatAlign::Center),
                day: Format::new().set_num_format("yyyy/m/d"),
                time: Format::new().set_num_format("yyyy/m/d h:mm:ss"),
            },
        };
        book.add_sheet(1).map_err(failed)?;
        book.add_hidden_sheet().map_err(failed)?;
        Ok(book)
    }

    /// Whether no more rows go into it.
    pub(crate) const fn is_full(&self) -> bool {
        self.rows >= MOST_ROWS
    }

    fn sheet_name(number: u32) -> String {
        match number {
            1 => "年报".to_owned(),
            _ => format!("年报（{number}）"),
        }
    }

    fn add_sheet(&mut self, number: u32) -> std::result::Result<(), XlsxError> {
        let sheet = self.workbook.add_worksheet();
        sheet.set_name(Self::sheet_name(number))?;
        let last = u16::try_from(self.header.len().saturating_sub(1)).unwrap_or(u16::MAX);
        sheet.merge_range(0, 0, 0, last, &self.title, &self.formats.title)?;
        sheet.write_string(1, 0, "金额单位：万元")?;
        write_header(sheet, self.header_row, &self.header)
    }

    /// What somebody left there: it looks like data and is none.
    fn add_hidden_sheet(&mut self) -> std::result::Result<(), XlsxError> {
        let sheet = self.workbook.add_worksheet();
        sheet.set_name("上年底稿")?.set_hidden(true);
        write_header(sheet, 0, &self.header)?;
        for column in 0..self.header.len() {
            sheet.write_string(1, u16::try_from(column).unwrap_or(u16::MAX), "作废")?;
        }
        Ok(())
    }

    /// Writes a record; a torn one has a cell beside the table.
    pub(crate) fn put(&mut self, row: &Row<'_>, torn: bool) -> Result<()> {
        self.write(row, torn).map_err(failed)
    }

    fn write(&mut self, row: &Row<'_>, torn: bool) -> std::result::Result<(), XlsxError> {
        let number = self.rows / SHEET_ROWS + 1;
        if number > 1 && self.rows.is_multiple_of(SHEET_ROWS) {
            self.add_sheet(number)?;
        }
        let at = self.header_row + 1 + self.rows % SHEET_ROWS;
        self.rows += 1;
        let sheet = self
            .workbook
            .worksheet_from_name(&Self::sheet_name(number))?;
        let mut column = 0;
        for cell in row.cells() {
            match cell {
                SheetCell::Empty => {}
                SheetCell::Text(text) => {
                    sheet.write_string(at, column, text)?;
                }
                SheetCell::Number(number) => {
                    sheet.write_number(at, column, number)?;
                }
                SheetCell::Moment(serial) => {
                    let format = if serial.fract() > 0.0 {
                        &self.formats.time
                    } else {
                        &self.formats.day
                    };
                    sheet.write_number_with_format(at, column, serial, format)?;
                }
            }
            column += 1;
        }
        if torn {
            sheet.write_string(at, column + 1, "见备注")?;
        }
        Ok(())
    }

    /// The bytes of the workbook.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>> {
        self.workbook.save_to_buffer().map_err(failed)
    }
}

fn write_header(
    sheet: &mut Worksheet,
    row: u32,
    header: &[String],
) -> std::result::Result<(), XlsxError> {
    for (column, name) in (0..).zip(header) {
        sheet.write_string(row, column, name)?;
    }
    Ok(())
}

/// The first day of a month.
fn moment(month: Month) -> Result<ExcelDateTime> {
    let year = u16::try_from(month.year()).unwrap_or(1900);
    let number = u8::try_from(month.number()).unwrap_or(1);
    ExcelDateTime::from_ymd(year, number, 1).map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failed(error: XlsxError) -> SynthError {
    SynthError::Workbook {
        reason: error.to_string(),
    }
}
