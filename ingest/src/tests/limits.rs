//! ING-3: whatever a source holds, memory stays bounded and reading goes on.

use std::{
    fs::File,
    io::{BufWriter, Seek, SeekFrom, Write},
    process::Command,
};

use super::*;

const CHILD: &str = "QIHUI_INGEST_TEST_LIMITS";

/// The greatest amount of memory this process ever held, in kB.
pub(super) fn peak_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs this test alone in a process of its own, whose peak of memory is then its own.
pub(super) fn in_child(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

#[test]
fn ing_3_a_line_of_two_gib_is_quarantined_in_bounded_memory() {
    if !in_child("tests::limits::ing_3_a_line_of_two_gib_is_quarantined_in_bounded_memory") {
        return;
    }
    const LINE: u64 = 2 << 30;
    for (fixture, before) in [
        (Fixture::csv(), format!("{HEADER}\n")),
        (Fixture::json(), String::new()),
    ] {
        let path = fixture.input().join("payments.txt");
        let mut file = BufWriter::new(File::create(&path).unwrap());
        file.write_all(before.as_bytes()).unwrap();
        // A hole reads as NUL bytes and takes no room.
        file.seek(SeekFrom::Current(i64::try_from(LINE).unwrap()))
            .unwrap();
        let good = match before.is_empty() {
            false => record(1, 1, 0, "1"),
            true => format!(r#"{{"uscc":"{}","serial":"S1","amount":1}}"#, uscc(1)),
        };
        write!(file, "\n{good}\n").unwrap();
        file.into_inner().unwrap();
        let report = fixture.run(&path, &mut fixture.preview()).unwrap();
        assert_eq!(
            (
                report.counts.read,
                report.landed(),
                report.counts.quarantined
            ),
            (2, 1, 1)
        );
        let entry = fixture.quarantine().remove(0);
        assert_eq!(
            (entry.problems[0].code, entry.length),
            (crate::Reason::RecordTooLong, LINE)
        );
        let kept = Quarantine::new(&fixture.state())
            .raw(&fixture.feed.name, &entry.id)
            .unwrap()
            .unwrap();
        assert_eq!(kept.len(), Limits::DEFAULT.kept_bytes);
    }
    assert!(peak_kb() < 64 << 10, "{} kB", peak_kb());
}

/// Lands everything and keeps nothing.
struct Nothing;

#[async_trait::async_trait]
impl Landing for Nothing {
    type Classified = ();
    async fn last_run(&mut self, _: &str) -> Result<Option<i64>, IngestError> {
        Ok(None)
    }
    async fn classify(
        &mut self,
        rows: &crate::LandingRows,
    ) -> Result<(Vec<crate::Outcome>, ()), IngestError> {
        Ok((vec![crate::Outcome::Inserted; rows.batch.num_rows()], ()))
    }
    async fn commit(&mut self, (): (), _: &crate::CommitInfo) -> Result<i64, crate::CommitFault> {
        Ok(1)
    }
}

/// Writes a workbook of `lines` rows, part by part, as no library has to hold it.
fn write_workbook(path: &Path, lines: impl Iterator<Item = String>) {
    let mut zip = zip::ZipWriter::new(BufWriter::new(File::create(path).unwrap()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    const OFFICE: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let parts = [
        (
            "_rels/.rels",
            format!(
                "<Relationships><Relationship Id=\"a\" Type=\"{OFFICE}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            format!(
                "<Relationships><Relationship Id=\"b\" Type=\"{OFFICE}/worksheet\" Target=\"worksheets/sheet1.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/workbook.xml",
            "<workbook><sheets><sheet name=\"s\" sheetId=\"1\" r:id=\"b\"/></sheets></workbook>"
                .to_owned(),
        ),
    ];
    for (name, content) in parts {
        zip.start_file(name, options).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.start_file("xl/worksheets/sheet1.xml", options).unwrap();
    zip.write_all(b"<worksheet><sheetData>").unwrap();
    for line in std::iter::once(HEADER.to_owned()).chain(lines) {
        let cells = line
            .split(',')
            .map(|cell| format!("<c t=\"inlineStr\"><is><t>{cell}</t></is></c>"));
        write!(zip, "<row>{}</row>", cells.collect::<String>()).unwrap();
    }
    zip.write_all(b"</sheetData></worksheet>").unwrap();
    zip.finish().unwrap().flush().unwrap();
}

#[test]
fn ing_3_memory_does_not_grow_with_the_file() {
    if !in_child("tests::limits::ing_3_memory_does_not_grow_with_the_file") {
        return;
    }
    let limits = Limits {
        chunk_rows: 2_000,
        record_bytes: 1 << 16,
        field_bytes: 1 << 15,
        kept_bytes: 1 << 10,
        ..Limits::DEFAULT
    };
    let line = |i: u32| match i % 5 {
        0 => format!("wrong,{i}"),
        _ => record(i, i, 0, "1"),
    };
    for (format, records) in [
        (FeedFormat::Csv, 200_000),
        (FeedFormat::Xml, 100_000),
        (FeedFormat::Xlsx, 100_000),
    ] {
        let fixture = Fixture::of(format).limits(limits);
        let path = fixture.input().join("payments");
        let lines = (0..records).map(line);
        if format == FeedFormat::Xlsx {
            write_workbook(&path, lines);
        } else {
            let mut file = BufWriter::new(File::create(&path).unwrap());
            match format {
                FeedFormat::Csv => writeln!(file, "{HEADER}").unwrap(),
                _ => writeln!(file, "<Payments xmlns='{NAMESPACE}'>").unwrap(),
            }
            for line in lines {
                match format {
                    FeedFormat::Csv => writeln!(file, "{line}").unwrap(),
                    _ => {
                        let document = document(&[line]);
                        let body = document.lines().skip(2).filter(|l| *l != "</Payments>");
                        body.for_each(|l| writeln!(file, "{l}").unwrap());
                    }
                }
            }
            if format == FeedFormat::Xml {
                writeln!(file, "</Payments>").unwrap();
            }
            file.into_inner().unwrap();
        }
        let report = fixture.run(&path, &mut Nothing).unwrap();
        assert_eq!(
            (report.counts.read, report.counts.quarantined),
            (records.into(), (records / 5).into())
        );
        assert!(
            peak_kb() < 96 << 10,
            "{} kB for a file of {} kB, {format:?}",
            peak_kb(),
            fs::metadata(&path).unwrap().len() / 1024
        );
    }
}

/// Lines that share a long head keep it each: what a chunk holds is counted in what is kept, not in what was read.
#[test]
fn ing_3_bad_lines_under_a_long_head_are_held_in_bounded_memory() {
    if !in_child("tests::limits::ing_3_bad_lines_under_a_long_head_are_held_in_bounded_memory") {
        return;
    }
    const MESSAGES: u64 = 300;
    let limits = Limits {
        chunk_bytes: 8 << 20,
        ..Limits::DEFAULT
    };
    let head = format!("<code>{}</code><!--{}-->", uscc(1), "x".repeat(60 << 10));
    // Half of them are wrong by themselves, the others belong to somebody else.
    let line = |serial: usize| match serial % 2 {
        0 => "<Item><amount>x</amount></Item>".to_owned(),
        _ => format!("<Item><serial>S{serial}</serial><amount>1</amount></Item>"),
    };
    let items: String = (0..50).map(line).collect();
    let fixture = Fixture::xml().limits(limits);
    let path = fixture.input().join("payments.xml");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    writeln!(file, "<Payments xmlns='{NAMESPACE}'>").unwrap();
    for _ in 0..MESSAGES {
        writeln!(
            file,
            "<Payment><Head>{head}</Head><Items>{items}</Items></Payment>"
        )
        .unwrap();
    }
    writeln!(file, "</Payments>").unwrap();
    file.into_inner().unwrap();
    let report = fixture.run(&path, &mut SomebodyElse).unwrap();
    assert_eq!(report.counts.quarantined, MESSAGES * 50);
    assert!(peak_kb() < 128 << 10, "{} kB", peak_kb());
    assert_eq!(fixture.quarantine().len() as u64, MESSAGES * 50);
}

/// Every row would move its key to another enterprise.
struct SomebodyElse;

#[async_trait::async_trait]
impl Landing for SomebodyElse {
    type Classified = ();
    async fn last_run(&mut self, _: &str) -> Result<Option<i64>, IngestError> {
        Ok(None)
    }
    async fn classify(
        &mut self,
        rows: &crate::LandingRows,
    ) -> Result<(Vec<crate::Outcome>, ()), IngestError> {
        Ok((vec![crate::Outcome::UsccChanged; rows.batch.num_rows()], ()))
    }
    async fn commit(&mut self, (): (), _: &crate::CommitInfo) -> Result<i64, crate::CommitFault> {
        Ok(1)
    }
}

#[test]
fn ing_3_fields_and_columns_are_capped() {
    let limits = Limits {
        record_bytes: 1 << 12,
        field_bytes: 1 << 8,
        kept_bytes: 16,
        ..Limits::DEFAULT
    };
    let fixture = Fixture::csv().limits(limits);
    let long = |length: usize| record(1, 1, 0, "1").replace("某公司1", &"x".repeat(length));
    let path = fixture.write_csv(
        "payments.csv",
        &[long(30), long(300), long(5_000), record(2, 2, 0, "1")],
    );
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!((report.landed(), report.counts.quarantined), (2, 2));
    assert_eq!(
        fixture.reasons(),
        [
            (3, "FieldTooLong".to_owned()),
            (4, "RecordTooLong".to_owned())
        ]
    );
}

#[test]
fn limits_that_cannot_work_are_refused() {
    for limits in [
        Limits {
            record_bytes: 0,
            ..Limits::DEFAULT
        },
        Limits {
            record_bytes: usize::MAX,
            ..Limits::DEFAULT
        },
        Limits {
            chunk_rows: 0,
            ..Limits::DEFAULT
        },
        Limits {
            kept_bytes: 2 << 20,
            ..Limits::DEFAULT
        },
    ] {
        assert_eq!(limits.check().unwrap_err().code(), "BadLimit");
    }
    assert!(Limits::DEFAULT.check().is_ok());
}
