//! Declarations as XML messages: what lands, what does not and why, and what it costs the next one.

use std::io::{Cursor, Write};

use arrow::array::AsArray;
use encoding_rs::GB18030;
use qihui_catalog::Catalog;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::{outcomes::Keeper, promises::Mortal, *};
use crate::{Position, reader, source, source::Source};

/// An archive with these entries.
pub(super) fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, content) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn item(serial: u32) -> String {
    format!("<Item><serial>S{serial}</serial><amount>1</amount></Item>")
}

fn message(serial: u32) -> String {
    format!(
        "<Payment><Head><code>{}</code></Head><Items>{}</Items></Payment>",
        uscc(serial),
        item(serial)
    )
}

/// A document with these messages.
fn around(messages: &[&str]) -> String {
    format!(
        "<Payments xmlns='{NAMESPACE}'>\n{}\n</Payments>\n",
        messages.join("\n")
    )
}

/// Landed records, and the reasons of the others by line.
fn run(content: &[u8]) -> (u64, Vec<(u64, String)>) {
    let fixture = Fixture::xml();
    let path = fixture.write("payments.xml", content);
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!(report.counts.read, report.counts.accounted());
    (report.landed(), fixture.reasons())
}

#[test]
fn a_bad_message_does_not_take_the_next_one_with_it() {
    let good = message(1);
    let cases = [
        (good.replace("S1", "&file;"), "UnknownEntity"),
        (good.replace("<Head>", "<Head a='1' a='2'>"), "BadXml"),
        (good.replace("S1", "&"), "BadXml"),
        (good.replace("S1", "&#0;"), "BadXml"),
        (good.replace("S1", "a\0b"), "NulByte"),
        (
            good.replace("<Payment>", "<Payment xmlns='urn:other'>"),
            "WrongNamespace",
        ),
        (
            good.replace("<serial>", "<serial xmlns=''>"),
            "WrongNamespace",
        ),
        (
            good.replace("<Payment>", "<x:Payment>")
                .replace("</Payment>", "</x:Payment>"),
            "WrongNamespace",
        ),
        (good.replace("<code>", "<city/><code>"), "UnknownKey"),
        (good.replace("Items>", "Things>"), "UnknownKey"),
        (good.replace("Payment>", "Invoice>"), "UnknownKey"),
        (good.replace("<code>", "<code/><code>"), "DuplicateKey"),
        (good.replace("<Items>", "<Head/><Items>"), "DuplicateKey"),
        (good.replace("<code>", "<code><b/>"), "NestedValue"),
        (good.replace("<Items>", "text<Items>"), "NestedValue"),
        (good.replace(&item(1), ""), "NoLines"),
        (good.replace(&item(1), &item(1).repeat(51)), "TooManyLines"),
    ];
    for (bad, reason) in &cases {
        let document = around(&[&message(2), bad, &message(3)]);
        assert_eq!(
            run(document.as_bytes()),
            (2, vec![(3, (*reason).to_owned())]),
            "{bad}"
        );
    }
    let many: String = (0..40).map(|i| format!(" a{i}='1'")).collect();
    let bad = good.replace("<Head>", &format!("<Head{many}>"));
    let bindings = many.replace(" a", " xmlns:a");
    let bound = good.replace("<Head>", &format!("<Head{bindings}>"));
    for bad in [bad, bound] {
        let document = around(&[&bad, &message(3)]);
        assert_eq!(
            run(document.as_bytes()),
            (1, vec![(2, "TooManyAttributes".to_owned())])
        );
    }
    let (landed, reasons) = run(around(&[&good.replace(&item(1), &item(1).repeat(50))]).as_bytes());
    assert_eq!(
        (landed, reasons),
        (1, vec![]),
        "fifty lines are fine, and equal ones are one"
    );
}

#[test]
fn a_bad_line_does_not_take_its_neighbours_with_it() {
    let lines = [
        item(1),
        item(2).replace("<amount>", "<amount/><amount>"),
        item(3).replace("<amount>", "<colour/><amount>"),
        item(4).replace("<amount>1", "<amount><b>1</b>"),
        item(5).replace("</amount>", "</amount><grade>头等</grade>"),
        item(6).replace("<amount>1", &format!("<amount>{}", "1".repeat(300 << 10))),
        item(7).replace("<serial>", "<code>1</code><serial>"),
        item(8).replace("<amount>1", "<amount>x"),
        item(9),
    ];
    let message = message(1).replace(&item(1), &lines.join("\n"));
    let document = around(&[&message]);
    let expected = [
        (3, "DuplicateKey"),
        (4, "UnknownKey"),
        (5, "NestedValue"),
        (6, "UnknownCode in `grade`"),
        (7, "FieldTooLong"),
        (8, "DuplicateKey"),
        (9, "BadNumber in `amount`"),
    ];
    let expected = expected
        .map(|(line, reason)| (line, reason.to_owned()))
        .to_vec();
    assert_eq!(run(document.as_bytes()), (2, expected));
}

#[test]
fn what_cannot_be_told_apart_is_one_record() {
    let (good, doc) = (message(1), around(&[&message(1), &message(2), &message(3)]));
    let cut = doc.find("S2").unwrap();
    let deep = good.replace("S1", &format!("{}1{}", "<a>".repeat(40), "</a>".repeat(40)));
    let cases: Vec<(String, u64, (u64, &str))> = vec![
        (
            format!("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>{doc}"),
            0,
            (1, "DoctypeRefused"),
        ),
        (
            format!("<?xml version='1.0'?>\n<!DOCTYPE a SYSTEM 'http://a/b.dtd'>{doc}"),
            0,
            (2, "DoctypeRefused"),
        ),
        (
            doc.replace(NAMESPACE, "urn:other"),
            0,
            (1, "WrongNamespace"),
        ),
        (doc.replace("Payments", "Receipts"), 0, (1, "UnknownKey")),
        (doc[..cut].to_owned(), 1, (3, "Truncated")),
        (doc.replace("</Payments>\n", ""), 3, (4, "Truncated")),
        (
            doc.trim_end().replace("\n</Payments>", ""),
            3,
            (4, "Truncated"),
        ),
        (doc.replace("</Payments>", "</Payment>"), 3, (5, "BadXml")),
        (
            doc.replace("</Payments>", "</Payments><more/>"),
            3,
            (5, "BadXml"),
        ),
        (doc.replacen("</Items>", "</Item>", 1), 0, (2, "BadXml")),
        (
            doc.replacen("</Payment>\n", "</Payment>stray\n", 1),
            1,
            (2, "BadXml"),
        ),
        (around(&[&good, &deep, &message(3)]), 1, (3, "TooDeep")),
        (
            "<?xml version='1.0' encoding='UTF-16'?><a/>".to_owned(),
            0,
            (1, "UnknownEncoding"),
        ),
        (
            "<?xml version='1.0' encoding='latin1'?><a/>".to_owned(),
            0,
            (1, "UnknownEncoding"),
        ),
        ("not xml at all".to_owned(), 0, (1, "BadXml")),
        (" \n ".to_owned(), 0, (2, "Truncated")),
        ("<!-- nothing -->".to_owned(), 0, (1, "Truncated")),
        (
            format!("<Payments xmlns='{NAMESPACE}'>"),
            0,
            (1, "Truncated"),
        ),
    ];
    for (document, landed, (line, reason)) in cases {
        assert_eq!(
            run(document.as_bytes()),
            (landed, vec![(line, reason.to_owned())]),
            "{document}"
        );
    }
    let utf16: Vec<u8> = [0xFF, 0xFE]
        .into_iter()
        .chain(doc.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    assert_eq!(run(&utf16), (0, vec![(1, "UnknownEncoding".to_owned())]));
    let fixture = Fixture::xml();
    let error = fixture
        .run(&fixture.write("payments.xml", ""), &mut fixture.preview())
        .unwrap_err();
    assert_eq!(error.code(), "EmptyFile");
}

#[test]
fn one_message_may_be_the_document_and_prefixes_do_not_matter() {
    let alone = message(1).replace(
        "<Payment>",
        &format!("<Payment xmlns='{NAMESPACE}' Version='1'>"),
    );
    let marked = format!(
        "\u{feff}<?xml version='1.0'?>\n<!-- from the old system -->\n{alone}\n<!-- end -->"
    );
    let prefixed = message(1)
        .replace("</", "</p:")
        .replace('<', "<p:")
        .replace("<p:/p:", "</p:")
        .replace("<p:Payment>", &format!("<p:Payment xmlns:p='{NAMESPACE}'>"));
    let inherited = around(&[&message(1)])
        .replace("</", "</p:")
        .replace('<', "<p:")
        .replace("<p:/p:", "</p:")
        .replace("xmlns=", "xmlns:p=");
    for document in [alone, marked, prefixed, inherited] {
        assert_eq!(run(document.as_bytes()), (1, vec![]), "{document}");
    }
    let empty = format!("<Payments xmlns='{NAMESPACE}'/>");
    assert_eq!(run(empty.as_bytes()), (0, vec![]));
}

#[test]
fn text_sections_and_references_are_text() {
    let fixture = Fixture::xml();
    let document = around(&[&message(1).replace(
        "<code>",
        "<name>A &amp; B &#20844;&#x53F8;<![CDATA[ <甲> &amp; ]]><!-- not this --></name><code>",
    )]);
    let path = fixture.write("payments.xml", document);
    let mut kept = Keeper::default();
    fixture.run(&path, &mut kept).unwrap();
    let batch = &kept.0[0].batch;
    let name = batch
        .column_by_name("name")
        .unwrap()
        .as_string::<i32>()
        .value(0);
    assert_eq!(name, "A & B 公司 <甲> &amp;");
}

#[test]
fn documents_declare_their_encoding() {
    // 燶 and 嗕 end in bytes that look like markup of ASCII in GBK.
    let text =
        around(&[&message(1).replace("<code>", "<name><![CDATA[嗕燶某公司]]></name><code>")]);
    for name in ["GB18030", "gbk", "GB2312"] {
        let declared = format!("<?xml version=\"1.0\" encoding=\"{name}\"?>{text}");
        let raw = GB18030.encode(&declared).0.into_owned();
        assert_eq!(run(&raw), (1, vec![]), "{name}");
    }
    let wrong = GB18030
        .encode(&format!("<?xml version=\"1.0\"?>{text}"))
        .0
        .into_owned();
    assert_eq!(run(&wrong), (0, vec![(2, "BadEncoding".to_owned())]));
}

#[test]
fn a_message_too_long_to_hold_is_one_record() {
    let limits = Limits {
        message_bytes: 4 << 10,
        kept_bytes: 64,
        ..Limits::DEFAULT
    };
    let fixture = Fixture::xml().limits(limits);
    let long = message(1).replace("S1", &format!("<!--{}-->", "x".repeat(9_000)).repeat(700));
    let path = fixture.write("payments.xml", around(&[&message(2), &long, &message(3)]));
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!(report.landed(), 2);
    let entry = fixture.quarantine().remove(0);
    assert_eq!(
        (entry.line, entry.length, entry.problems[0].to_string()),
        (3, long.len() as u64, "RecordTooLong".to_owned())
    );
    let raw = Quarantine::new(&fixture.state())
        .raw(&fixture.feed.name, &entry.id)
        .unwrap()
        .unwrap();
    assert_eq!(raw, &long.as_bytes()[..64]);
}

#[test]
fn a_quarantined_line_comes_with_its_head() {
    let fixture = Fixture::xml();
    let mut table = fixture.preview();
    let first = around(&[&message(1)]);
    fixture
        .run(&fixture.write("payments-1.xml", &first), &mut table)
        .unwrap();
    let other = around(&[
        &message(2).replace("S2", "S1"),
        &message(3).replace("<amount>1", "<amount>x"),
    ]);
    fixture
        .run(&fixture.write("payments-2.xml", &other), &mut table)
        .unwrap();
    assert_eq!(
        fixture.reasons(),
        [
            (2, "UsccChanged in `uscc`".to_owned()),
            (3, "BadNumber in `amount`".to_owned())
        ]
    );
    for entry in fixture.quarantine() {
        let raw = Quarantine::new(&fixture.state())
            .raw(&fixture.feed.name, &entry.id)
            .unwrap()
            .unwrap();
        let raw = String::from_utf8(raw).unwrap();
        assert!(
            raw.starts_with("<Payment><Head><code>") && raw.ends_with("</Item>"),
            "{raw}"
        );
        assert!(other[usize::try_from(entry.offset).unwrap()..].starts_with("<Item>"));
    }
}

/// What a reader says of one chunk: where it is, what of it lands, and what does not and why.
type Told = (Position, Position, usize, Vec<(u64, u64, String)>, [u8; 32]);

/// The chunks of a source from `from` on.
fn chunks(fixture: &Fixture, source: &Arc<Source>, from: Option<Position>) -> Vec<Told> {
    let plan = Arc::clone(&fixture.job().plan);
    let mut reader = reader::open(source, &plan, from, &fixture.options.limits).unwrap();
    let mut told = Vec::new();
    while let Some(chunk) = reader.next_chunk(&mut |_| {}).unwrap() {
        let rejected = chunk.rejected.iter();
        let rejected = rejected.map(|r| (r.offset, r.length, r.problems[0].to_string()));
        let rows = chunk.rows.at.len();
        told.push((
            chunk.from,
            chunk.to,
            rows,
            rejected.collect(),
            chunk.input_hash,
        ));
    }
    told
}

/// Every kind of thing at every place of a document: reading goes on from every position as if it had never stopped.
#[test]
fn ing_2_reading_goes_on_from_every_position_of_a_damaged_document() {
    let open = format!("<Payments xmlns='{NAMESPACE}'>");
    let pieces = [
        "<?xml version='1.0'?>".to_owned(),
        open.clone(),
        "\n".to_owned(),
        message(1),
        "\n".to_owned(),
        message(2),
        "</Payments>".to_owned(),
        "\n".to_owned(),
    ];
    let inserted = [
        "</Payments>".to_owned(),
        "<Payments/>".to_owned(),
        open,
        message(3),
        message(4).replace("<amount>1", "<amount>x"),
        message(5).replace("</Payment>", ""),
        "<!-- aside -->".to_owned(),
        "<?xml version='1.0' encoding='GBK'?>".to_owned(),
        "<?xml-stylesheet href='a'?>".to_owned(),
        "stray".to_owned(),
        " \n".to_owned(),
        "<![CDATA[x]]>".to_owned(),
        "<!DOCTYPE a>".to_owned(),
        "<more/>".to_owned(),
        "<".to_owned(),
    ];
    let fixture = Fixture::xml().chunks_of(1);
    let mut resumed = 0;
    for (place, what) in (0..=pieces.len()).flat_map(|at| inserted.iter().map(move |i| (at, i))) {
        let mut damaged = pieces.to_vec();
        damaged.insert(place, what.clone());
        let (whole, single) = (damaged.concat(), damaged[2..].concat());
        let alone = single.replacen("<Payment>", &format!("<Payment xmlns='{NAMESPACE}'>"), 1);
        let archive = zipped(&[("1.xml", whole.as_bytes()), ("2.xml", alone.as_bytes())]);
        for content in [whole.as_bytes(), alone.as_bytes(), &archive] {
            let path = fixture.write("payments.xml", content);
            let found = source::find(&fixture.feed, &path, None).unwrap().remove(0);
            let limits = &fixture.options.limits;
            let source = Source::open(&found, &fixture.feed, &fixture.state(), limits).unwrap();
            let source = Arc::new(source);
            let never_stopped = chunks(&fixture, &source, None);
            for (at, chunk) in (1..).zip(&never_stopped) {
                let rest = chunks(&fixture, &source, Some(chunk.1));
                assert_eq!(
                    rest,
                    never_stopped[at..],
                    "behind {at} of {}",
                    String::from_utf8_lossy(content)
                );
                resumed += 1;
            }
        }
    }
    assert!(resumed > 1_000, "{resumed}");
}

/// As a process sees it: killed behind its first run, and run again.
#[test]
fn ing_2_what_stands_behind_the_envelope_never_lands() {
    let document = around(&[&message(1)]).trim_end().to_owned() + &message(2) + &message(3);
    let fixture = Fixture::xml().chunks_of(1);
    let path = fixture.write("payments.xml", &document);
    let mut table = Mortal {
        inner: fixture.preview(),
        steps_left: Some(2),
    };
    assert!(
        fixture.run(&path, &mut table).is_err(),
        "killed behind its first commit"
    );
    table.steps_left = None;
    let report = fixture.run(&path, &mut table).unwrap();
    assert_eq!((report.landed(), report.counts.quarantined), (1, 1));
    let entry = fixture.quarantine().remove(0);
    assert_eq!(entry.problems[0].to_string(), "BadXml");
    let offset = usize::try_from(entry.offset).unwrap();
    assert!(document[offset..].starts_with("</Payments><Payment>"));
}

#[test]
fn what_may_follow_the_envelope_is_capped() {
    let limits = Limits {
        message_bytes: 4 << 10,
        ..Limits::DEFAULT
    };
    let document = |length: usize| around(&[&message(1)]) + &" ".repeat(length);
    for (length, expected) in [
        (3 << 10, None),
        (8 << 10, Some("RecordTooLong")),
        (3 << 20, Some("RecordTooLong")),
    ] {
        let fixture = Fixture::xml().limits(limits);
        let path = fixture.write("payments.xml", document(length));
        let report = fixture.run(&path, &mut fixture.preview()).unwrap();
        assert_eq!(report.landed(), 1);
        let reasons: Vec<String> = fixture
            .reasons()
            .into_iter()
            .map(|(_, reason)| reason)
            .collect();
        assert_eq!(reasons, expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn the_declaration_is_told_from_what_begins_like_it() {
    let good = around(&[&message(1)]);
    for before in [
        "<?xml version='1.0'?><?xml-stylesheet type='text/xsl' href='a.xsl'?>",
        "<?xml-stylesheet href='a.xsl'?>",
        "\n<?xml version='1.0'?>",
    ] {
        assert_eq!(
            run(format!("{before}{good}").as_bytes()),
            (1, vec![]),
            "{before}"
        );
    }
    for before in [
        "<?xml version='1.0'?><?xml version='1.0' encoding='GBK'?>",
        "<!-- --><?xml version='1.0' encoding='GBK'?>",
    ] {
        let told = run(format!("{before}{good}").as_bytes());
        assert_eq!(told, (0, vec![(1, "BadXml".to_owned())]), "{before}");
    }
}

#[test]
fn an_envelope_has_a_short_tag() {
    let tag = |length: usize| format!("<Payments a='{}' ", "x".repeat(length));
    let good = around(&[&message(1)]);
    assert_eq!(
        run(good.replace("<Payments ", &tag(3_000)).as_bytes()),
        (1, vec![])
    );
    let told = run(good.replace("<Payments ", &tag(5_000)).as_bytes());
    assert_eq!(told, (0, vec![(1, "RecordTooLong".to_owned())]));
}

#[test]
fn of_a_long_head_each_line_keeps_the_beginning() {
    let fixture = Fixture::xml();
    let long = format!("<Head><!--{}-->", "x".repeat(20 << 10));
    let bad = message(1)
        .replace("<Head>", &long)
        .replace("<amount>1", "<amount>x");
    let path = fixture.write("payments.xml", around(&[&bad]));
    fixture.run(&path, &mut fixture.preview()).unwrap();
    let entry = fixture.quarantine().remove(0);
    let head = bad.find("<Item>").unwrap();
    let line = item(1).replace("<amount>1", "<amount>x");
    assert_eq!(entry.length, (head + line.len()) as u64);
    let raw = Quarantine::new(&fixture.state())
        .raw(&fixture.feed.name, &entry.id)
        .unwrap()
        .unwrap();
    assert_eq!(raw, [&bad.as_bytes()[..8 << 10], line.as_bytes()].concat());
    let whole = format!("{}{line}", &bad[..head]);
    let sha256 = ring::digest::digest(&ring::digest::SHA256, whole.as_bytes());
    assert_eq!(entry.sha256, hex::encode(sha256));
}

#[test]
fn what_macos_adds_to_an_archive_is_no_document() {
    let good = around(&[&message(1)]);
    let fixture = Fixture::xml();
    let archive = zipped(&[
        ("1.xml", good.as_bytes()),
        ("__MACOSX/._1.xml", b"\0\x05\x16\x07"),
    ]);
    let path = fixture.write("payments.zip", archive);
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!((report.counts.read, report.landed()), (1, 1));
}

#[test]
fn an_archive_with_two_ends_has_as_many_entries_as_either_says() {
    let small = Limits {
        archive_entries: 3,
        ..Limits::DEFAULT
    };
    let good = around(&[&message(1)]);
    let end = |entries: u16| {
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
        end.extend([entries.to_le_bytes(), entries.to_le_bytes()].concat());
        end.resize(22, 0);
        end
    };
    let mut long_end = b"PK\x06\x06".to_vec();
    long_end.resize(32, 0);
    long_end.extend(9_u64.to_le_bytes());
    long_end.resize(56, 0);
    for (before, after) in [(end(9), end(0)), (end(0), end(9)), (long_end, end(1))] {
        let fixture = Fixture::xml().limits(small);
        let archive = [zipped(&[("1.xml", good.as_bytes())]), before, after].concat();
        let path = fixture.write("payments.zip", archive);
        let error = fixture.run(&path, &mut fixture.preview()).unwrap_err();
        assert!(error.to_string().contains("it has 9 entries"), "{error}");
    }
}

#[test]
fn an_archive_is_its_documents() {
    let fixture = Fixture::xml().chunks_of(1);
    let gb = GB18030
        .encode(&format!(
            "<?xml version='1.0' encoding='GBK'?>\n{}",
            around(&[&message(1)])
        ))
        .0
        .into_owned();
    let cut = around(&[&message(2), &message(3)]);
    let cut = &cut.as_bytes()[..cut.find("S3").unwrap()];
    let whole = around(&[&message(4), &message(5).replace("<amount>1", "<amount>x")]);
    let archive = zipped(&[
        ("a/1.xml", &gb),
        ("a/2.xml", cut),
        ("a/3.XML", whole.as_bytes()),
    ]);
    let path = fixture.write("payments.zip", archive);
    let mut table = fixture.preview();
    let report = fixture.run(&path, &mut table).unwrap();
    assert_eq!((report.counts.read, report.landed()), (5, 3));
    let places: Vec<_> = fixture
        .quarantine()
        .into_iter()
        .map(|entry| {
            (
                entry.part.unwrap(),
                entry.line,
                entry.problems[0].to_string(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            ("a/2.xml".to_owned(), 3, "Truncated".to_owned()),
            ("a/3.XML".to_owned(), 3, "BadNumber in `amount`".to_owned()),
        ]
    );
    let again = fixture.run(&path, &mut table).unwrap();
    assert_eq!(
        (
            again.landed(),
            again.counts.unchanged,
            again.counts.quarantined
        ),
        (0, 3, 2)
    );
}

#[test]
fn archives_that_are_not_taken() {
    let good = around(&[&message(1)]);
    let bomb = vec![b' '; 64 << 20];
    let fixture = || Fixture::xml();
    let small = Limits {
        archive_bytes: 1 << 20,
        archive_entries: 3,
        ..Limits::DEFAULT
    };
    let many: Vec<(String, &[u8])> = (0..4)
        .map(|i| (format!("{i}.xml"), good.as_bytes()))
        .collect();
    let many: Vec<(&str, &[u8])> = many
        .iter()
        .map(|(name, content)| (name.as_str(), *content))
        .collect();
    let whole = zipped(&[("1.xml", good.as_bytes())]);
    let mut lying = whole.clone();
    // The length that the directory claims for the document.
    let directory = memchr::memmem::rfind(&lying, b"PK\x01\x02").unwrap();
    lying[directory + 24] -= 10;
    let mut damaged = whole.clone();
    damaged[40] ^= 0x55;
    let cases = [
        (
            fixture(),
            zipped(&[("1.xml", good.as_bytes()), ("2.pdf", b"%PDF")]),
            "`2.pdf` is no XML document",
        ),
        (fixture(), zipped(&[("1.xml", b"")]), "is empty"),
        (
            fixture(),
            zipped(&[("1.xml", &bomb)]),
            "250 times its own length",
        ),
        (
            fixture().limits(small),
            zipped(&[("1.xml", &bomb)]),
            "the limit is 1048576",
        ),
        (
            fixture().limits(small),
            zipped(&many),
            "it has 4 entries, the limit is 3",
        ),
        (
            fixture(),
            whole[..whole.len() - 30].to_vec(),
            "it is cut short",
        ),
        (fixture(), lying, "an entry is"),
        (fixture(), damaged, "is damaged"),
    ];
    for (fixture, archive, says) in cases {
        let path = fixture.write("payments.zip", archive);
        let error = fixture.run(&path, &mut fixture.preview()).unwrap_err();
        assert_eq!(error.code(), "BadArchive", "{error}");
        assert!(error.to_string().contains(says), "{error}, not {says}");
        assert!(!fixture.state().exists(), "nothing was written");
    }
}

/// The shipped feed: an import and an export, as they are sent.
#[test]
fn exports_are_put_right_and_personal_fields_dropped() {
    let catalog = Catalog::builtin().unwrap();
    let feed = Arc::clone(&catalog.feeds["customs_declaration"]);
    let fixture = Fixture {
        contract: Arc::clone(&catalog.contracts[&feed.dataset]),
        feed,
        ..Fixture::xml()
    };
    let declaration = |flag: &str, number: u32, origin: &str, destination: &str| {
        format!(
            "<DecMessage Version=\"4.8\"><DecHead><IEFlag>{flag}</IEFlag><EntryId>29102026{number:010}</EntryId>\
             <TradeCoScc>{}</TradeCoScc><IEDate>20260501</IEDate><InputerName>录入甲</InputerName><TypistNo>8800001</TypistNo>\
             <DeclareName>申报乙</DeclareName><TradeMode>0110</TradeMode></DecHead><DecLists>\
             <DecList><GNo>1</GNo><CodeTS>6203429062</CodeTS><GName>棉制长裤</GName><OriginCountry>{origin}</OriginCountry>\
             <DestinationCountry>{destination}</DestinationCountry><TradeCurr>USD</TradeCurr></DecList>\
             <DecList><GNo>2</GNo><CodeTS>6203429062</CodeTS><TradeCurr>美元</TradeCurr></DecList></DecLists>\
             <DecContainers><DecContainer><ContainerId>X</ContainerId></DecContainer></DecContainers>\
             <DecFreeTxt><DecBpNo>13800000000</DecBpNo></DecFreeTxt><DecSign><OperName>操作丙</OperName></DecSign>\
             <DecExchange><DataTime>2026-05-02 08:00:00</DataTime><DelFlag>0</DelFlag></DecExchange></DecMessage>",
            uscc(number)
        )
    };
    let document = format!(
        "<DecMessages xmlns=\"http://www.chinaport.gov.cn/dec\">{}{}</DecMessages>",
        declaration("I", 1, "DEU", "CHN"),
        declaration("E", 2, "USA", "CHN"),
    );
    let path = fixture.write("customs_declaration_1.xml", document);
    let mut kept = Keeper::default();
    let report = fixture.run(&path, &mut kept).unwrap();
    assert_eq!((report.counts.read, report.landed()), (4, 2));
    assert_eq!(
        fixture
            .reasons()
            .iter()
            .map(|(_, reason)| reason.as_str())
            .collect::<Vec<_>>(),
        ["UnknownCode in `trade_curr`"; 2]
    );
    let batch = &kept.0[0].batch;
    let texts = |name: &str| {
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        (column.value(0).to_owned(), column.value(1).to_owned())
    };
    assert_eq!(
        texts("origin_country"),
        ("DEU".to_owned(), "CHN".to_owned())
    );
    assert_eq!(
        texts("destination_country"),
        ("CHN".to_owned(), "USA".to_owned())
    );
    let shown = format!("{batch:?}");
    for personal in ["录入甲", "8800001", "申报乙", "13800000000", "操作丙"] {
        assert!(!shown.contains(personal), "{personal}");
    }
}
