//! Workbooks: what people save, what they save by mistake, and what is made to hurt.

use std::io::{Cursor, Read};

use arrow::{array::AsArray, datatypes::Date32Type};
use proptest::prelude::*;
use rust_xlsxwriter::{Format, Workbook, Worksheet};
use zip::ZipArchive;

use super::{
    limits::{in_child, peak_kb},
    messages::zipped,
    outcomes::Keeper,
    promises::Mortal,
    *,
};

/// The parts of a workbook, after a change.
fn changed(book: &[u8], change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut archive = ZipArchive::new(Cursor::new(book)).unwrap();
    let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.name().unwrap().into_owned();
        let content = change(&name, content);
        parts.push((name, content));
    }
    let parts: Vec<(&str, &[u8])> = parts
        .iter()
        .map(|(n, c)| (n.as_str(), c.as_slice()))
        .collect();
    zipped(&parts)
}

/// The same with one text exchanged in one part.
fn exchanged(book: &[u8], part: &str, old: &str, new: &str) -> Vec<u8> {
    let found = std::cell::Cell::new(false);
    let out = changed(book, |name, content| {
        if name != part {
            return content;
        }
        let text = String::from_utf8(content).unwrap();
        found.set(text.contains(old));
        text.replacen(old, new, 1).into_bytes()
    });
    assert!(found.get(), "{part} holds no {old}");
    out
}

const COLUMNS: [&str; 6] = ["code", "serial", "amount", "paid", "changed", "mark"];

/// A sheet as people make them: something above the header, the header, and cells of every kind below.
fn book(fill: impl Fn(&mut Worksheet, u32)) -> Vec<u8> {
    let mut book = Workbook::new();
    let sheet = book.add_worksheet();
    sheet.set_name("缴款").unwrap();
    sheet
        .merge_range(0, 0, 0, 9, "2024年缴款情况表", &Format::new())
        .unwrap();
    sheet.write_string(2, 1, "单位：元").unwrap();
    for (column, name) in (1..).zip(HEADER.split(',')) {
        sheet.write_string(4, column, format!(" {name} ")).unwrap();
    }
    fill(sheet, 5);
    book.save_to_buffer().unwrap()
}

fn column(name: &str) -> u16 {
    let place = HEADER.split(',').position(|column| column == name).unwrap();
    u16::try_from(place + 1).unwrap()
}

/// A good row of texts.
fn row(sheet: &mut Worksheet, at: u32, serial: u32) {
    let values = [
        uscc(serial),
        format!("S{serial}"),
        "12.5".into(),
        "2024-05-06".into(),
        "2024-05-06 10:00:00".into(),
        String::new(),
    ];
    for (name, value) in COLUMNS.iter().zip(values) {
        sheet.write_string(at, column(name), value).unwrap();
    }
}

fn run(content: &[u8]) -> Result<(Keeper, Fixture, RunReport), IngestError> {
    let fixture = Fixture::xlsx();
    let path = fixture.write("payments.xlsx", content);
    let mut kept = Keeper::default();
    let report = fixture.run(&path, &mut kept)?;
    assert_eq!(report.counts.read, report.counts.accounted());
    Ok((kept, fixture, report))
}

fn days(kept: &Keeper) -> Vec<Option<i32>> {
    kept.0
        .iter()
        .flat_map(|rows| {
            let paid = rows.batch.column_by_name("paid_on").unwrap();
            paid.as_primitive::<Date32Type>().iter().collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn cells_of_every_kind_are_read_for_what_they_are() {
    let content = book(|sheet, at| {
        let day = Format::new().set_num_format("yyyy-mm-dd");
        for i in 0..6 {
            row(sheet, at + i, i + 1);
        }
        // A day shown as a day, one that shows its number, one that is written as a number, one before the leap day.
        sheet
            .write_number_with_format(at, column("paid"), 45_418.0, &day)
            .unwrap();
        sheet
            .write_number(at + 1, column("paid"), 45_418.0)
            .unwrap();
        sheet
            .write_number(at + 2, column("paid"), 20_240_506.0)
            .unwrap();
        sheet
            .write_number_with_format(at + 3, column("paid"), 59.0, &day)
            .unwrap();
        sheet.write_number(at, column("amount"), 1234.56).unwrap();
        sheet
            .write_number(at + 1, column("amount"), 0.1 + 0.2)
            .unwrap();
        sheet.write_number(at + 2, column("amount"), 1e14).unwrap();
        sheet
            .write_number_with_format(
                at,
                column("changed"),
                45_418.5,
                &Format::new().set_num_format("yyyy/m/d h:mm"),
            )
            .unwrap();
        sheet.write_boolean(at, column("public"), true).unwrap();
        sheet
            .write_formula(
                at,
                column("pages"),
                rust_xlsxwriter::Formula::new("=1+2").set_result("3"),
            )
            .unwrap();
        // An empty row, and one of nothing but white space, are no records.
        row(sheet, at + 8, 9);
        sheet.write_string(at + 9, 1, "  ").unwrap();
    });
    let (kept, fixture, report) = run(&content).unwrap();
    assert_eq!(fixture.reasons(), []);
    assert_eq!(report.landed(), 7);
    assert_eq!(
        days(&kept)[..4],
        [Some(19_849), Some(19_849), Some(19_849), Some(-25_509)]
    );
    let amounts = kept.0[0].batch.column_by_name("amount").unwrap();
    let amounts = amounts.as_primitive::<arrow::datatypes::Decimal128Type>();
    assert_eq!(amounts.values()[..3], [123_456, 30, 10_000_000_000_000_000]);
    let changed = kept.0[0].batch.column_by_name("changed").unwrap();
    let changed = changed.as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    assert_eq!(changed.value(0), 1_714_968_000_000_000, "noon in China");
}

#[test]
fn days_are_counted_from_1904_where_the_workbook_says_so() {
    let content = book(|sheet, at| {
        let day = Format::new().set_num_format("yyyy-mm-dd");
        row(sheet, at, 1);
        row(sheet, at + 1, 2);
        sheet
            .write_number_with_format(at, column("paid"), 43_956.0, &day)
            .unwrap();
        sheet
            .write_number(at + 1, column("paid"), 43_956.0)
            .unwrap();
    });
    let content = exchanged(
        &content,
        "xl/workbook.xml",
        "<workbookPr ",
        "<workbookPr date1904=\"1\" ",
    );
    let (kept, ..) = run(&content).unwrap();
    assert_eq!(days(&kept), [Some(19_849); 2]);
}

#[test]
fn cells_that_are_wrong_cost_their_row() {
    let content = book(|sheet, at| {
        for i in 0..8 {
            row(sheet, at + i, i + 1);
        }
        // A code that became a number has lost digits: nothing is made of it.
        sheet
            .write_number(at, column("code"), 913_300_001_429_116_510.0)
            .unwrap();
        sheet
            .write_string(at + 1, column("paid"), "2024年5月6日")
            .unwrap();
        sheet.write_number(at + 2, column("paid"), 60.0).unwrap();
        sheet.write_string(at + 3, 20, "beside the table").unwrap();
        sheet.write_number(at + 4, column("amount"), 0.001).unwrap();
        sheet.write_string(at + 5, column("paid"), "45418").unwrap();
        sheet
            .write_string(at + 6, column("name"), "'#REF!")
            .unwrap();
        sheet
            .write_string(at + 9, column("code"), "填表人：张三")
            .unwrap();
    });
    let content = changed(&content, |name, part| {
        if name != "xl/worksheets/sheet1.xml" {
            return part;
        }
        let text = String::from_utf8(part).unwrap();
        let start = text.rfind("<row r=\"13\"").unwrap();
        let cell = format!("<c r=\"D{}\" t=\"e\"><v>#REF!</v></c>", 13);
        let at = start
            + text[start..]
                .find("<c r=\"E13\"")
                .unwrap_or_else(|| text[start..].find("<c r=\"F13\"").unwrap());
        format!("{}{cell}{}", &text[..at], &text[at..]).into_bytes()
    });
    let (_, fixture, report) = run(&content).unwrap();
    let expected = [
        (6, "UsccLength in `uscc`"),
        (7, "BadDate in `paid_on`"),
        (8, "BadDate"),
        (9, "FieldCount"),
        (10, "TooManyDecimals in `amount`"),
        (11, "BadDate in `paid_on`"),
        (13, "CellError"),
        (15, "UsccSymbol in `uscc`"),
    ];
    assert_eq!(
        fixture.reasons(),
        expected.map(|(line, reason)| (line, reason.to_owned()))
    );
    assert_eq!(report.landed(), 1);
    let entry = fixture.quarantine().remove(3);
    assert_eq!(entry.part.as_deref(), Some("缴款"));
    let raw = Quarantine::new(&fixture.state())
        .raw(&fixture.feed.name, &entry.id)
        .unwrap()
        .unwrap();
    let raw = String::from_utf8(raw).unwrap();
    assert!(
        raw.starts_with(&format!("\t'{}\tS4\t", uscc(4))) && raw.ends_with("\tbeside the table"),
        "{raw}"
    );
}

#[test]
fn sheets_are_read_one_after_the_other_and_hidden_ones_not_at_all() {
    let mut book = Workbook::new();
    let header = |sheet: &mut Worksheet, names: &[&str], at: u32| {
        for (column, name) in (0..).zip(names) {
            sheet.write_string(at, column, *name).unwrap();
        }
    };
    let all: Vec<&str> = HEADER.split(',').collect();
    let mut turned = all.clone();
    turned.reverse();
    let cells = |sheet: &mut Worksheet, names: &[&str], at: u32, line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        for (column, name) in (0..).zip(names) {
            let place = all.iter().position(|other| other == name).unwrap();
            sheet
                .write_string(at, column, cells.get(place).copied().unwrap_or_default())
                .unwrap();
        }
    };
    for (name, names, at) in [
        ("一", &all, 0),
        ("空", &all, 0),
        ("隐", &all, 0),
        ("二", &turned, 3),
    ] {
        let sheet = book.add_worksheet();
        sheet.set_name(name).unwrap();
        match name {
            "空" => {}
            "隐" => {
                sheet.set_hidden(true);
                header(sheet, names, at);
                cells(sheet, names, at + 1, &record(7, 7, 0, "7"));
            }
            _ => {
                header(sheet, names, at);
                cells(sheet, names, at + 1, &record(at + 1, at + 1, 0, "1"));
                cells(sheet, names, at + 2, &record(at + 2, at + 2, 0, "x"));
            }
        }
    }
    let content = book.save_to_buffer().unwrap();
    let (_, fixture, report) = run(&content).unwrap();
    assert_eq!((report.counts.read, report.landed()), (4, 2));
    let places: Vec<_> = fixture
        .quarantine()
        .into_iter()
        .map(|entry| (entry.part.unwrap(), entry.line))
        .collect();
    assert_eq!(places, [("一".to_owned(), 3), ("二".to_owned(), 6)]);
}

#[test]
fn the_text_form_is_stable() {
    let content = book(|sheet, at| {
        row(sheet, at, 1);
        sheet
            .write_string(at, column("name"), "tab\tand\nline \\ end")
            .unwrap();
        sheet
            .write_string(at + 2, column("name"), "'quoted")
            .unwrap();
        for (column, number) in (1..).zip([
            0.0,
            -0.5,
            1e15,
            1.0 / 3.0,
            1e-7,
            123_456_789_012_345.0,
            2.5e-10,
        ]) {
            sheet.write_number(at + 3, column, number).unwrap();
        }
        sheet.write_boolean(at + 3, 9, false).unwrap();
        let day = Format::new().set_num_format("yyyy-mm-dd");
        for (column, serial) in (10..).zip([
            1.0,
            60.0,
            61.0,
            45_418.999_999_999_9,
            2_958_465.0,
            2_958_466.0,
        ]) {
            sheet
                .write_number_with_format(at + 3, column, serial, &day)
                .unwrap();
        }
    });
    let fixture = Fixture::xlsx();
    let path = fixture.write("payments.xlsx", &content);
    let file = fs::File::open(&path).unwrap();
    let text = crate::workbook::write_text(
        file,
        "payments.xlsx",
        &fixture.feed.sheets,
        &fixture.state(),
        &Limits::DEFAULT,
    )
    .unwrap();
    let mut shown = String::new();
    let mut reader = crate::archive::FileReader {
        file: text.text,
        offset: 0,
    };
    reader.read_to_string(&mut shown).unwrap();
    assert_eq!(shown.len() as u64, text.bytes);
    super::golden::compare("workbook.txt", &shown);
}

fn refused(content: &[u8], code: &str, says: &str) {
    let fixture = Fixture::xlsx();
    let path = fixture.write("payments.xlsx", content);
    let error = fixture.run(&path, &mut fixture.preview()).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(says), "{error}, not {says}");
    assert!(!fixture.state().exists(), "nothing was written");
}

#[test]
fn workbooks_that_lie_or_are_damaged_are_refused_whole() {
    let good = book(|sheet, at| (0..200).for_each(|i| row(sheet, at + i, i)));
    const SHEET: &str = "xl/worksheets/sheet1.xml";
    const STRINGS: &str = "xl/sharedStrings.xml";
    refused(b"", "EmptyFile", "is empty");
    refused(b"USCC,NAME\n", "BadArchive", "no zip archive");
    refused(
        b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1 old",
        "BadWorkbook",
        "before xlsx",
    );
    refused(&good[..good.len() / 2], "BadArchive", "cut short");
    refused(
        &zipped(&[("a.txt", b"x")]),
        "BadWorkbook",
        "do not fit together",
    );
    let mut wrong = good.clone();
    let at = memchr::memmem::find(&wrong, SHEET.as_bytes()).unwrap() + 200;
    wrong[at] ^= 0x10;
    refused(&wrong, "BadArchive", "damaged");
    for (part, old, new, says) in [
        (
            SHEET,
            "<sheetData>",
            "<sheetData><row r=\"1\"><c r=\"AAAAAAAAAAAAAAAA1\"/></row>",
            "is nowhere",
        ),
        (
            STRINGS,
            "<sst ",
            "<sst\x0CuniqueCount=\"99999999999\" ",
            "not what the workbook says it is",
        ),
        (
            SHEET,
            "<sheetData>",
            "<sheetData><row r=\"1\"><c r=\"A1\" r=\"B1\"/></row>",
            "damaged attributes",
        ),
        (
            SHEET,
            "<sheetData>",
            "<sheetData><row r=\"1\"><c s=\"0\"\x0Cr=\"A1\"/></row>",
            "damaged attributes",
        ),
        (
            SHEET,
            "<sheetData>",
            "<sheetData><row r=\"9\"><c r=\"A9\"><v>1</v></c></row>",
            "damaged at row",
        ),
        (SHEET, "</sheetData>", "", "tags that do not fit"),
        (
            SHEET,
            "<sheetData>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><sheetData>",
            "has a DTD",
        ),
        (
            "xl/styles.xml",
            "<fonts",
            &format!("{}<fonts", "<a>".repeat(50)),
            "too deep",
        ),
    ] {
        refused(&exchanged(&good, part, old, new), "BadWorkbook", says);
    }
    let deep = exchanged(
        &good,
        STRINGS,
        "<si>",
        &format!("<si><t>{}</t></si><si>", "x".repeat(2 << 20)),
    );
    refused(&deep, "BadWorkbook", "more than 1 MiB");
    let bomb = exchanged(
        &good,
        SHEET,
        "<sheetData>",
        &format!("<sheetData>{}", " ".repeat(64 << 20)),
    );
    refused(&bomb, "BadArchive", "250 times its own length");
}

/// What the reader of cells would believe: it aborts the process, or fills its memory, on each of these.
#[test]
fn ing_3_what_a_workbook_claims_of_itself_is_not_believed() {
    let good = book(|sheet, at| (0..3).for_each(|i| row(sheet, at + i, i)));
    const SHEET: &str = "xl/worksheets/sheet1.xml";
    const STRINGS: &str = "xl/sharedStrings.xml";
    for (part, old, new) in [
        (
            STRINGS,
            "uniqueCount=\"",
            "uniqueCount=\"99999999999\" x=\"",
        ),
        (
            STRINGS,
            "<sst ",
            "<sst x=\"\"uniqueCount=\"99999999999\" y=\"\" ",
        ),
        (
            STRINGS,
            "<sst ",
            "<sst x=\" uniqueCount='1' \" uniqueCount=\"99999999999\" y=\"\" ",
        ),
        (SHEET, "<dimension ref=\"", "<dimension ref=\"Z9:A1\" x=\""),
        (
            SHEET,
            "<dimension ref=\"",
            "<dimension x=\"\"ref=\"A1:XFE1048577\" y=\"",
        ),
    ] {
        let (_, _, report) = run(&exchanged(&good, part, old, new)).unwrap();
        assert_eq!(report.landed(), 3, "{new}");
    }
}

#[test]
fn a_text_is_capped_however_it_is_cut() {
    let good = book(|sheet, at| row(sheet, at, 1));
    let piece = "x".repeat(400 << 10);
    for between in [
        "<!---->",
        "<?a?>",
        "<b/>",
        "</t><t>",
        "<![CDATA[y]]>",
        "&amp;",
        "</t></r><r><t>",
    ] {
        let (open, close) = match between.contains("<r>") {
            true => ("<r><t>", "</t></r>"),
            false => ("<t>", "</t>"),
        };
        let text = format!("<si>{open}{piece}{between}{piece}{between}{piece}{close}</si><si>");
        let part = "xl/sharedStrings.xml";
        refused(
            &exchanged(&good, part, "<si>", &text),
            "BadWorkbook",
            "more than 1 MiB",
        );
        let text = format!(
            "<c t=\"inlineStr\"><is>{open}{piece}{between}{piece}{between}{piece}{close}</is></c>"
        );
        let (part, row) = ("xl/worksheets/sheet1.xml", "<row r=\"1\">");
        let content = exchanged(
            &good,
            part,
            "<sheetData>",
            &format!("<sheetData>{row}{text}</row>"),
        );
        refused(&content, "BadWorkbook", "more than 1 MiB");
    }
}

/// A cell of the first record, written by hand.
fn with_cell(good: &[u8], name: &str, cell: &str) -> Vec<u8> {
    let place = format!(
        "{}6",
        ["A", "B", "C", "D", "E", "F", "G", "H", "I"][usize::from(column(name))]
    );
    changed(good, |part, content| {
        if part != "xl/worksheets/sheet1.xml" {
            return content;
        }
        let text = String::from_utf8(content).unwrap();
        let start = text.find(&format!("<c r=\"{place}\"")).unwrap();
        let end = start + text[start..].find("</c>").unwrap() + "</c>".len();
        format!(
            "{}{}{}",
            &text[..start],
            cell.replace('@', &place),
            &text[end..]
        )
        .into_bytes()
    })
}

#[test]
fn a_cell_has_one_value_in_the_form_of_its_kind() {
    let good = book(|sheet, at| {
        row(sheet, at, 1);
        sheet.write_number(at, column("paid"), 45_418.0).unwrap();
    });
    for (cell, says) in [
        (
            "<c r=\"@\" t=\"s\"><v> 1 </v></c>",
            "not written as its kind",
        ),
        (
            "<c r=\"@\" t=\"s\"><v>&#49;</v></c>",
            "not written as its kind",
        ),
        (
            "<c r=\"@\"><v><![CDATA[7]]></v></c>",
            "not written as its kind",
        ),
        (
            "<c r=\"@\" t=\"str\"><v><![CDATA[7]]></v></c>",
            "not written as its kind",
        ),
        ("<c r=\"@\"><v>&#55;</v></c>", "not written as its kind"),
        ("<c r=\"@\"><v>1</v><v>2</v></c>", "two values"),
        ("<c r=\"@\"><v>1</v><is><t>2</t></is></c>", "two values"),
        (
            "<c r=\"@\" t=\"x\"><v>1</v></c>",
            "a kind that there is not",
        ),
        (
            "<c r=\"@\" s=\"-1\"><v>1</v></c>",
            "whose format has no number",
        ),
    ] {
        refused(&with_cell(&good, "amount", cell), "BadWorkbook", says);
    }
    for cell in [
        "<c r=\"@\"><v>7</v><f>1+6</f></c>",
        "<c r=\"@\" t=\"inlineStr\"><is><t>7</t></is><v>8</v></c>",
        "<c r=\"@\" t=\"inlineStr\"><is><t><![CDATA[7]]></t></is><f>1</f></c>",
        "<c r=\"@\"><v><!-- seven -->7</v><extLst><ext/></extLst></c>",
    ] {
        let (kept, ..) = run(&with_cell(&good, "amount", cell)).unwrap();
        let amounts = kept.0[0].batch.column_by_name("amount").unwrap();
        let amounts = amounts.as_primitive::<arrow::datatypes::Decimal128Type>();
        assert_eq!(amounts.values()[..], [700], "{cell}");
    }
}

#[test]
fn a_number_that_is_no_plausible_day_is_no_day() {
    let day = Format::new().set_num_format("yyyy-mm-dd");
    let content = book(|sheet, at| {
        for i in 0..6 {
            row(sheet, at + i, i + 1);
        }
        for (i, number) in (0..).zip([202_405.0, 2024.0, 18_263.0, 18_264.0, 73_050.0]) {
            sheet.write_number(at + i, column("paid"), number).unwrap();
        }
        // Whoever sees a day there means it.
        let paid = column("paid");
        sheet
            .write_number_with_format(at + 5, paid, 202_405.0, &day)
            .unwrap();
    });
    let (kept, fixture, _) = run(&content).unwrap();
    let wrong = [6, 7, 8].map(|line| (line, "BadDate".to_owned()));
    assert_eq!(fixture.reasons(), wrong);
    let first = -7_305;
    assert_eq!(
        days(&kept),
        [Some(first), Some(first + 54_786), Some(176_836)]
    );
}

#[test]
fn ing_3_a_row_of_any_length_costs_itself() {
    if !in_child("tests::workbooks::ing_3_a_row_of_any_length_costs_itself") {
        return;
    }
    let limits = Limits {
        archive_bytes: 8 << 20,
        record_bytes: 512 << 10,
        ..Limits::DEFAULT
    };
    let text = format!("<t>{}</t>", "x".repeat(300 << 10));
    let long = |cells: usize| {
        let good = book(|sheet, at| (0..3).for_each(|i| row(sheet, at + i, i)));
        let shared = exchanged(
            &good,
            "xl/sharedStrings.xml",
            "<si>",
            &format!("<si>{text}</si><si>"),
        );
        changed(&shared, |name, part| {
            if name != "xl/worksheets/sheet1.xml" {
                return part;
            }
            // The texts that were there have moved on by one.
            let sheet = String::from_utf8(part).unwrap();
            let mut out = String::new();
            let mut pieces = sheet.split("t=\"s\"><v>");
            out.push_str(pieces.next().unwrap());
            for piece in pieces {
                let (number, rest) = piece.split_once('<').unwrap();
                let number = number.parse::<u32>().unwrap() + 1;
                out.push_str(&format!("t=\"s\"><v>{number}<{rest}"));
            }
            let cells = "<c t=\"s\"><v>0</v></c>".repeat(cells);
            let end = "</sheetData>";
            out.replace(end, &format!("<row r=\"9\">{cells}</row>{end}"))
                .into_bytes()
        })
    };
    let fixture = Fixture::xlsx().limits(limits);
    let path = fixture.write("payments.xlsx", long(20));
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!(report.landed(), 3);
    let entry = fixture.quarantine().remove(0);
    assert_eq!(
        (entry.line, entry.problems[0].to_string().as_str()),
        (9, "RecordTooLong")
    );
    assert_eq!(entry.length, 20 * (300 << 10) + 19);
    let fixture = Fixture::xlsx().limits(limits);
    let path = fixture.write("payments.xlsx", long(16_384));
    let error = fixture.run(&path, &mut fixture.preview()).unwrap_err();
    assert_eq!(error.code(), "BadArchive", "{error}");
    assert!(peak_kb() < 96 << 10, "{} kB", peak_kb());
}

#[test]
fn ing_3_formats_are_capped() {
    let good = book(|sheet, at| row(sheet, at, 1));
    const STYLES: &str = "xl/styles.xml";
    let code = |length: usize| {
        let code = "x".repeat(length);
        format!("<numFmts><numFmt numFmtId=\"200\" formatCode=\"{code}\"/></numFmts><fonts")
    };
    refused(
        &exchanged(&good, STYLES, "<fonts", &code(4 << 10)),
        "BadWorkbook",
        "more than 2 KiB",
    );
    let xfs = format!("{}</cellXfs>", "<xf numFmtId=\"200\"/>".repeat(70_000));
    refused(
        &exchanged(&good, STYLES, "</cellXfs>", &xfs),
        "BadWorkbook",
        "too many texts or formats",
    );
    // Fonts, however long their names, are nothing that a cell needs.
    let font = format!(
        "<font><name val=\"{}\"/></font></fonts>",
        "x".repeat(900 << 10)
    );
    let (_, _, report) = run(&exchanged(&good, STYLES, "</fonts>", &font)).unwrap();
    assert_eq!(report.landed(), 1);
}

/// A workbook with sheets of these names, each with one record.
fn sheets(names: &[&str]) -> Vec<u8> {
    let mut book = Workbook::new();
    for (serial, name) in (1..).zip(names) {
        let sheet = book.add_worksheet();
        sheet.set_name(*name).unwrap();
        for (column, name) in (1..).zip(HEADER.split(',')) {
            sheet.write_string(0, column, name).unwrap();
        }
        row(sheet, 1, serial);
    }
    book.save_to_buffer().unwrap()
}

#[test]
fn parts_are_what_relationships_say_and_each_is_one_thing() {
    let good = sheets(&["一", "二"]);
    const BOOK: &str = "xl/workbook.xml";
    const RELATIONS: &str = "xl/_rels/workbook.xml.rels";
    let refuses = |part: &str, old: &str, new: &str, says: &str| {
        refused(&exchanged(&good, part, old, new), "BadWorkbook", says);
    };
    refuses(
        BOOK,
        "name=\"二\"",
        "name=\"一\"",
        "two sheets have the name",
    );
    refuses(
        BOOK,
        "name=\"二\"",
        "name=\"一\" state=\"hidden\"",
        "two sheets have the name",
    );
    refuses(
        BOOK,
        "name=\"二\"",
        "name=\"一\" state=\"sideways\"",
        "neither shown nor hidden",
    );
    refuses(BOOK, "rId2", "rId1", "uses its part");
    refuses(RELATIONS, "sheet2.xml", "sheet1.xml", "uses its part");
    refuses(RELATIONS, "sheet2.xml", "../workbook.xml", "uses its part");
    refuses(RELATIONS, "sheet2.xml", "sheet7.xml", "is missing");
    refuses(
        "_rels/.rels",
        "xl/workbook.xml",
        "xl/worksheets/sheet1.xml",
        "not what the workbook says it is",
    );
    let single = changed(&good, |name, part| {
        if name != "_rels/.rels" {
            return part;
        }
        let text = String::from_utf8(part).unwrap();
        let text = text
            .replace('"', "'")
            .replace("xl/workbook.xml", "xl/worksheets/sheet1.xml");
        text.into_bytes()
    });
    refused(&single, "BadWorkbook", "not what the workbook says it is");
    let listed = "<sheet name=\"x\" sheetId=\"9\" r:id=\"rId1\"/>".repeat(20_000);
    refuses(
        BOOK,
        "<sheets>",
        &format!("<sheets>{listed}"),
        "too many sheets",
    );
}

/// A hidden sheet is not read, whatever it is called.
#[test]
fn a_feed_may_name_its_sheets() {
    let content = sheets(&["说明", "年报 "]);
    let mut fixture = Fixture::xlsx();
    let feed = Arc::make_mut(&mut fixture.feed);
    feed.sheets.insert("年报".to_owned());
    let path = fixture.write("payments.xlsx", &content);
    let mut kept = Keeper::default();
    assert_eq!(fixture.run(&path, &mut kept).unwrap().landed(), 1);
    let serials = kept.0[0].batch.column_by_name("serial").unwrap();
    assert_eq!(serials.as_string::<i32>().value(0), "S2");
    let hidden = exchanged(
        &content,
        "xl/workbook.xml",
        "name=\"年报 \"",
        "name=\"年报\" state=\"hidden\"",
    );
    let path = fixture.write("payments.xlsx", hidden);
    let error = fixture.run(&path, &mut kept).unwrap_err();
    assert_eq!(error.code(), "BadWorkbook");
    assert!(
        error.to_string().contains("it shows no sheet `年报`"),
        "{error}"
    );
}

#[test]
fn a_sheet_without_a_header_costs_the_file_before_anything_lands() {
    let mut book = Workbook::new();
    for name in ["一", "二", "说明"] {
        let sheet = book.add_worksheet();
        sheet.set_name(name).unwrap();
        if name == "说明" {
            sheet.write_string(0, 0, "本表由登记机关导出").unwrap();
            continue;
        }
        for (column, name) in (1..).zip(HEADER.split(',')) {
            sheet.write_string(0, column, name).unwrap();
        }
        (1..9).for_each(|at| row(sheet, at, at));
    }
    let content = book.save_to_buffer().unwrap();
    for chunk_rows in [1, 100] {
        let fixture = Fixture::xlsx().chunks_of(chunk_rows);
        let path = fixture.write("payments.xlsx", &content);
        let mut kept = Keeper::default();
        let error = fixture.run(&path, &mut kept).unwrap_err();
        assert_eq!(error.code(), "BadHeader");
        assert!(error.to_string().contains("sheet `说明`"), "{error}");
        assert!(kept.0.is_empty(), "with chunks of {chunk_rows}");
    }
}

/// What an older program made of a workbook is not gone on from.
#[test]
fn ing_2_another_text_of_the_same_workbook_is_read_from_its_start() {
    let content = sheets(&["一", "二", "三"]);
    for (new, resumed_after) in [(",\"text_form\":2", 2), (",\"text_form\":1", 0), ("", 0)] {
        let fixture = Fixture::xlsx().chunks_of(1);
        let path = fixture.write("payments.xlsx", &content);
        // The process dies right behind its second commit.
        let mut table = Mortal {
            inner: fixture.preview(),
            steps_left: Some(5),
        };
        assert!(fixture.run(&path, &mut table).is_err());
        table.steps_left = None;
        let journal = fixture.state().join("runs/payments.jsonl");
        let text = fs::read_to_string(&journal).unwrap();
        assert!(text.contains(",\"text_form\":2"));
        fs::write(&journal, text.replace(",\"text_form\":2", new)).unwrap();
        let report = fixture.run(&path, &mut table).unwrap();
        assert_eq!(report.files[0].resumed_after, resumed_after);
        assert_eq!(report.counts.read, 3);
    }
}

#[test]
fn a_sheet_without_a_header_is_named() {
    let mut book = Workbook::new();
    let sheet = book.add_worksheet();
    sheet
        .set_name("说明")
        .unwrap()
        .write_string(0, 0, "本表由登记机关导出")
        .unwrap();
    let content = book.save_to_buffer().unwrap();
    refused(&content, "BadHeader", "sheet `说明`");
    let mut book = Workbook::new();
    book.add_worksheet();
    refused(&book.save_to_buffer().unwrap(), "EmptyFile", "rows");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ing_1_a_spoiled_workbook_is_refused_or_accounted_for(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        inside in any::<bool>(),
        part in prop::sample::select(vec!["xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/workbook.xml", "xl/styles.xml"]),
    ) {
        let good = book(|sheet, at| (0..12).for_each(|i| row(sheet, at + i, i)));
        let spoil = |mut bytes: Vec<u8>| {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        };
        let content = if inside {
            changed(&good, |name, content| if name == part { spoil(content) } else { content })
        } else {
            spoil(good)
        };
        let fixture = Fixture::xlsx();
        let path = fixture.write("payments.xlsx", content);
        match fixture.run(&path, &mut fixture.preview()) {
            Ok(report) => {
                prop_assert_eq!(report.counts.read, report.counts.accounted());
                prop_assert_eq!(fixture.quarantine().len() as u64, report.counts.quarantined);
            }
            Err(error) => prop_assert!(
                ["BadArchive", "BadWorkbook", "BadHeader", "EmptyFile"].contains(&error.code()), "{error}"
            ),
        }
    }
}
