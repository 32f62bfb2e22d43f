//! Declarations as XML messages: what lands, what does not and why, and what it costs the next one.

use std::io::{Cursor, Write};

use arrow::array::AsArray;
use encoding_rs::GB18030;
use qihui_catalog::Catalog;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::{outcomes::Keeper, *};

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
