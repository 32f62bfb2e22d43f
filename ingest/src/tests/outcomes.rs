//! What becomes of records, one kind at a time.

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch},
    compute::concat_batches,
    datatypes::{Decimal128Type, TimestampMicrosecondType},
};
use encoding_rs::GB18030;
use qihui_catalog::{Encoding, FeedFormat};

use super::*;
use crate::{CommitFault, CommitInfo, LandingRows, Outcome};

/// Keeps the rows it is given.
#[derive(Default)]
pub(super) struct Keeper(pub Vec<LandingRows>);

#[async_trait::async_trait]
impl Landing for Keeper {
    type Classified = LandingRows;

    async fn last_run(&mut self, _: &str) -> Result<Option<i64>, IngestError> {
        Ok(None)
    }

    async fn classify(
        &mut self,
        rows: &LandingRows,
    ) -> Result<(Vec<Outcome>, LandingRows), IngestError> {
        Ok((vec![Outcome::Inserted; rows.batch.num_rows()], rows.clone()))
    }

    async fn commit(&mut self, rows: LandingRows, _: &CommitInfo) -> Result<i64, CommitFault> {
        self.0.push(rows);
        Ok(1)
    }
}

/// Printing a time zone would need a database of them.
fn without_zones(batch: &RecordBatch) -> RecordBatch {
    let columns = batch
        .schema_ref()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            let column: ArrayRef = match column.as_primitive_opt::<TimestampMicrosecondType>() {
                Some(times) => Arc::new(times.clone().with_timezone_opt(None::<Arc<str>>)),
                None => Arc::clone(column),
            };
            (field.name().clone(), column)
        });
    RecordBatch::try_from_iter(columns).unwrap()
}

fn counts(report: &RunReport) -> [u64; 7] {
    report.counts.named().map(|(_, count)| count)
}

#[test]
fn values_land_as_they_are_meant() {
    let fixture = Fixture::csv();
    let path = fixture.write_csv(
        "payments.csv",
        &[
            format!("{},S1,某公司,张三,800万人民币,,失信企业,20240506,2024/5/1,公示,3,-,2024-05-06 08:00:00,,x", uscc(7)),
            format!("\u{3000}{} ,S2,\"甲,\"\"乙\"\"\",李四,1.5,N/A,无,9999-09-09,,否,,-5,,,", uscc(8).to_lowercase()),
        ],
    );
    let mut kept = Keeper::default();
    let report = fixture.run(&path, &mut kept).unwrap();
    assert_eq!(
        counts(&report),
        [2, 2, 0, 0, 0, 0, 0],
        "{:?}",
        fixture.reasons()
    );
    let batch = concat_batches(
        kept.0[0].batch.schema_ref(),
        kept.0.iter().map(|rows| &rows.batch),
    )
    .unwrap();
    let text = arrow::util::pretty::pretty_format_batches(&[without_zones(&batch)])
        .unwrap()
        .to_string();
    assert!(
        !text.contains("张三") && !text.contains("李四"),
        "personal columns never land"
    );
    assert!(batch.column_by_name("person").is_none());
    super::golden::compare("values.txt", &text);
    assert_eq!(
        batch
            .column_by_name("amount")
            .unwrap()
            .as_primitive::<Decimal128Type>()
            .value(0),
        800_000_000
    );
}

#[test]
fn every_kind_of_fault_has_its_reason() {
    let fixture = Fixture::csv();
    let good = record(1, 1, 0, "1");
    let with = |place: usize, text: &str| {
        let mut cells: Vec<String> = good.split(',').map(str::to_owned).collect();
        cells[place] = text.to_owned();
        cells.join(",")
    };
    let mut bad_digit = uscc(1);
    bad_digit.replace_range(17.., if bad_digit.ends_with('0') { "1" } else { "0" });
    let long = "长".repeat(41);
    let cases = [
        (with(0, &bad_digit), "UsccCheckDigit in `uscc`"),
        (with(0, "330106000012345"), "UsccLength in `uscc`"),
        (with(0, "-"), "MissingValue in `uscc`"),
        (with(1, "无"), "MissingValue in `serial`"),
        (with(2, &long), "RuleBroken in `name`"),
        (with(4, ""), "MissingValue in `amount`"),
        (with(4, "-1"), "RuleBroken in `amount`"),
        (with(4, "1.005"), "TooManyDecimals in `amount`"),
        (with(4, "99999999999999999"), "NumberTooLarge in `amount`"),
        (with(4, "很多"), "BadNumber in `amount`"),
        (with(4, "5万美元"), "CurrencyMismatch in `amountcur`"),
        (with(5, "ZZZ"), "UnknownCode in `amountcur`"),
        (with(6, "常规企业"), "UnknownCode in `grade`"),
        (with(7, "2024-02-30"), "BadDate in `paid_on`"),
        (with(8, "2024-05-07"), "RuleBroken in `due_on`"),
        (with(9, "也许"), "BadBoolean in `public`"),
        (with(10, "3.5"), "TooManyDecimals in `pages`"),
        (with(10, "3000000000"), "NumberTooLarge in `pages`"),
        (with(12, "昨天"), "BadTime in `changed`"),
        (format!("{good},more"), "FieldCount"),
        ("only,two".to_owned(), "FieldCount"),
        (with(2, "a\0b"), "NulByte"),
        (with(2, "\"a\"b"), "BrokenQuote"),
    ];
    let records: Vec<String> = cases.iter().map(|(record, _)| record.clone()).collect();
    let path = fixture.write_csv("payments.csv", &records);
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    let expected: Vec<_> = (2..)
        .zip(&cases)
        .map(|(line, (_, reason))| (line, (*reason).to_owned()))
        .collect();
    assert_eq!(fixture.reasons(), expected);
    assert_eq!(report.counts.quarantined, cases.len() as u64);
}

#[test]
fn several_problems_of_one_record_are_all_named() {
    let fixture = Fixture::csv();
    let path = fixture.write_csv("payments.csv", &["x,,n,p,y,CNY,,z,,?,a,b,c,,".to_owned()]);
    fixture.run(&path, &mut fixture.preview()).unwrap();
    let named: Vec<String> = fixture.quarantine()[0]
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        named,
        [
            "UsccLength in `uscc`",
            "BadNumber in `amount`",
            "BadDate in `paid_on`",
            "BadBoolean in `public`",
            "BadNumber in `pages`",
            "BadNumber in `visits`",
            "BadTime in `changed`",
            "MissingValue in `serial`",
        ]
    );
}

#[test]
fn json_lines_read_like_csv() {
    let fixture = Fixture::json();
    let good = format!(
        r#"{{"uscc":"{}","serial":"S1","amount":12.50,"paid":"20240506","public":true,"pages":3}}"#,
        uscc(3)
    );
    let lines = [
        good.clone(),
        good.replace("12.50", "1e2").replace("S1", "S2"),
        good.replace("\"S1\"", "7"),
        good.replace("12.50", "[1]"),
        good.replace("12.50", "0.001"),
        good.replace("\"pages\"", "\"seiten\""),
        good.replace("}", ",\"pages\":4}"),
        "not json".to_owned(),
        good.replace("}", ",\"mark\":\"D\"}"),
    ];
    let path = fixture.write("payments.jsonl", lines.join("\n"));
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!(
        fixture.reasons(),
        [
            (4, "NestedValue".to_owned()),
            (5, "TooManyDecimals in `amount`".to_owned()),
            (6, "UnknownKey".to_owned()),
            (7, "DuplicateKey".to_owned()),
            (8, "BadJson".to_owned()),
        ]
    );
    // The retraction beats the record of equal sequence in the same chunk.
    assert_eq!(counts(&report), [9, 2, 0, 0, 1, 1, 5]);
}

#[test]
fn encodings_declared_and_detected() {
    let records = [record(1, 1, 0, "1"), record(2, 2, 0, "2")];
    let text = format!("{HEADER}\r\n{}\r\n", records.join("\r\n"));
    let marked = format!("\u{feff}{text}");
    let gb = GB18030.encode(&text).0.into_owned();
    for (encoding, content, landed) in [
        (Encoding::Detect, text.as_bytes(), 2),
        (Encoding::Detect, marked.as_bytes(), 2),
        (Encoding::Detect, &gb, 2),
        (Encoding::Utf8, text.as_bytes(), 2),
        (Encoding::Utf8, marked.as_bytes(), 2),
        (Encoding::Gb18030, &gb, 2),
        (Encoding::Utf8, &gb, 0),
    ] {
        let fixture = Fixture::new(FeedFormat::Csv, encoding);
        let path = fixture.write("payments.csv", content);
        let report = fixture.run(&path, &mut fixture.preview()).unwrap();
        assert_eq!(
            (report.counts.read, report.landed()),
            (2, landed),
            "{encoding:?}"
        );
    }
}

#[test]
fn mixed_encodings_are_read_record_by_record_when_detected() {
    let (utf8, gb) = (record(1, 1, 0, "1"), record(2, 2, 0, "2"));
    let mut content = format!("{HEADER}\n{utf8}\n").into_bytes();
    content.extend_from_slice(&GB18030.encode(&gb).0);
    content.extend_from_slice(b"\n\xFF\xFE,broken\n");
    let detected = Fixture::csv();
    let report = detected
        .run(
            &detected.write("payments.csv", &content),
            &mut detected.preview(),
        )
        .unwrap();
    assert_eq!((report.counts.read, report.landed()), (3, 2));
    assert_eq!(detected.reasons(), [(4, "BadEncoding".to_owned())]);
    let declared = Fixture::new(FeedFormat::Csv, Encoding::Utf8);
    let report = declared
        .run(
            &declared.write("payments.csv", &content),
            &mut declared.preview(),
        )
        .unwrap();
    assert_eq!((report.counts.read, report.landed()), (3, 1));
}

#[test]
fn corrections_retractions_and_old_files() {
    let fixture = Fixture::csv();
    let mut table = fixture.preview();
    let first = fixture.write_csv(
        "payments-1.csv",
        &[
            record(1, 1, 1, "10"),
            record(2, 2, 1, "20"),
            record(3, 3, 1, "30"),
        ],
    );
    let second = fixture.write_csv(
        "payments-2.csv",
        &[
            record(1, 1, 2, "11"),
            retraction(2, 2, 2),
            record(9, 3, 2, "31"),
        ],
    );
    assert_eq!(
        counts(&fixture.run(&first, &mut table).unwrap()),
        [3, 3, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        counts(&fixture.run(&second, &mut table).unwrap()),
        [3, 0, 1, 0, 0, 1, 1]
    );
    assert_eq!(fixture.reasons(), [(4, "UsccChanged in `uscc`".to_owned())]);
    let after = table.fingerprint();
    assert_eq!(
        counts(&fixture.run(&first, &mut table).unwrap()),
        [3, 0, 0, 1, 2, 0, 0]
    );
    assert_eq!(
        counts(&fixture.run(&second, &mut table).unwrap()),
        [3, 0, 0, 2, 0, 0, 1]
    );
    assert_eq!(table.fingerprint(), after);
}

#[test]
fn a_dry_run_says_what_a_run_then_does() {
    let records: Vec<String> = (0..50)
        .map(|i| {
            if i % 7 == 3 {
                "broken".to_owned()
            } else {
                record(i % 5, i % 11, i, "1")
            }
        })
        .collect();
    let mut fixture = Fixture::csv().chunks_of(8);
    let path = fixture.write_csv("payments.csv", &records);
    fixture.options.dry_run = true;
    let told = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert!(!fixture.state().exists(), "a dry run writes nothing");
    assert_eq!(told.runs().count(), 0);
    fixture.options.dry_run = false;
    let done = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!((told.counts, told.reasons), (done.counts, done.reasons));
}

#[test]
fn a_corrected_contract_empties_the_quarantine() {
    let mut fixture = Fixture::csv();
    let mut table = fixture.preview();
    let path = fixture.write_csv(
        "payments.csv",
        &[record(1, 1, 0, "-5"), record(2, 2, 0, "x")],
    );
    assert_eq!(
        fixture.run(&path, &mut table).unwrap().counts.quarantined,
        2
    );
    let mut contract = contract();
    contract
        .columns
        .iter_mut()
        .for_each(|column| column.quality.clear());
    contract.hash = [9; 32];
    fixture.contract = Arc::new(contract);
    let report = fixture.run(&path, &mut table).unwrap();
    assert_eq!((report.landed(), report.counts.quarantined), (1, 1));
    assert_eq!(fixture.reasons(), [(3, "BadNumber in `amount`".to_owned())]);
}
