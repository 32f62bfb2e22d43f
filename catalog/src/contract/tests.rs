//! Wrong contracts, each refused with file, place and reason, and the round trip of right ones.

use std::path::Path;

use super::*;
use crate::{Catalog, ContractError, error::Coded as _};

/// A small right contract. The tests break it in one place each.
const GOOD: &str = r#"apiVersion: v3.0.2
kind: DataContract
id: sample
name: Sample
version: 1.2.3
status: active
domain: tax
description:
  purpose: One row for each sample.
customProperties:
  - {property: rowLevel, value: L2}
  - {property: eventDate, value: day}
  - {property: sequence, value: [changed]}
  - {property: partition, value: month}
  - {property: disclosureWindow, value: {from: day, until: [ended], maxYearsAfter: {column: day, years: 5}}}
  - {property: feeds, value: [sample]}
slaProperties:
  - {property: freshness, value: 7, unit: d}
schema:
  - name: sample
    logicalType: object
    physicalType: table
    businessName: 样例
    description: 每个样例一行。
    properties:
      - {name: uscc, businessName: 统一社会信用代码, description: The enterprise., logicalType: string, physicalType: string, classification: L1, required: true}
      - {name: serial, businessName: 序号, description: The number., logicalType: string, physicalType: string, classification: L2, required: true, primaryKey: true, primaryKeyPosition: 1}
      - {name: day, businessName: 日期, description: The day., logicalType: date, physicalType: date, classification: L2, quality: [{type: custom, engine: qihui, implementation: {rule: notAfter, column: ended}}]}
      - {name: ended, businessName: 截止, description: The end., logicalType: date, physicalType: date, classification: L2}
      - {name: kind, businessName: 类别, description: The kind., logicalType: string, physicalType: string, classification: L2, customProperties: [{property: codeList, value: {name: tax_credit, at: day}}]}
      - {name: amount, businessName: 金额, description: The amount., logicalType: number, physicalType: "decimal(10,2)", classification: L3, quality: [{type: custom, engine: qihui, implementation: {rule: range, min: "-0.5", max: 100}}], customProperties: [{property: publicWhen, value: open}, {property: unit, value: tenThousand}]}
      - {name: open, businessName: 公开, description: The flag., logicalType: boolean, physicalType: boolean, classification: L1}
      - {name: person, businessName: 人, description: A person., logicalType: string, physicalType: string, classification: L4}
      - {name: changed, businessName: 更新, description: The change., logicalType: date, physicalType: timestamp, classification: L2}
"#;

fn read(text: &str) -> Result<Contract, ContractError> {
    Contract::from_yaml(Path::new("contracts/sample.yaml"), text)
}

#[test]
fn a_contract_says_what_its_document_says() {
    let contract = read(GOOD).unwrap();
    assert_eq!(contract.id.as_str(), "sample");
    assert_eq!(
        (contract.version.as_str(), contract.owner.as_str()),
        ("1.2.3", "tax")
    );
    assert_eq!(
        (contract.title_en.as_str(), contract.title_cn.as_str()),
        ("Sample", "样例")
    );
    assert_eq!(contract.row_level, Level::L2);
    assert_eq!(contract.key, ["serial"]);
    assert_eq!(contract.event_date.as_deref(), Some("day"));
    assert_eq!(contract.sequence, ["changed"]);
    assert_eq!(
        (contract.partition, contract.freshness_days),
        (Partition::Month, Some(7))
    );
    let window = contract.window.clone().unwrap();
    assert_eq!(
        (window.from.as_deref(), window.until),
        (Some("day"), vec!["ended".to_owned()])
    );
    assert_eq!(window.max_years_after, Some(("day".to_owned(), 5)));
    let amount = contract.column("amount").unwrap();
    assert_eq!(
        amount.ty,
        ColumnType::Decimal {
            precision: 10,
            scale: 2
        }
    );
    let range = QualityRule::Range {
        min: Some(Bound::Number(-50)),
        max: Some(Bound::Number(10_000)),
    };
    assert_eq!(amount.quality, [range]);
    assert_eq!(
        (amount.public_when.as_deref(), amount.unit),
        (Some("open"), Unit::TenThousand)
    );
    assert_eq!(contract.columns().len(), 9);
    assert_eq!(contract.landed().count(), 8);
    assert!(contract.landed().all(|column| column.name != "person"));
}

#[test]
fn the_canonical_form_reads_back_as_the_same_contract() {
    let shipped = Catalog::builtin().unwrap();
    let all = shipped
        .contracts
        .values()
        .map(|contract| Contract::clone(contract))
        .chain([read(GOOD).unwrap()]);
    for contract in all {
        let canonical = contract.canonical_json();
        let again = read(&canonical).unwrap();
        assert_eq!(again, contract);
        assert_eq!(again.canonical_json(), canonical);
        assert_eq!(contract.clone().sealed().unwrap(), contract);
    }
}

#[test]
fn comments_and_order_of_keys_do_not_change_the_hash_but_meaning_does() {
    let plain = read(GOOD).unwrap();
    let moved = GOOD.replace(
        "id: sample\nname: Sample\n",
        "# a comment\nname: Sample\nid: sample\n",
    );
    assert_eq!(read(&moved).unwrap().hash, plain.hash);
    let meaning = GOOD.replace("classification: L3", "classification: L2");
    assert_ne!(read(&meaning).unwrap().hash, plain.hash);
}

/// Each line: what is replaced, by what.
const WRONG: &[(&str, &str)] = &[
    ("apiVersion: v3.0.2", "apiVersion: v3.1.0"),
    ("apiVersion: v3.0.2\n", ""),
    ("kind: DataContract", "kind: Data"),
    ("id: sample", "id: Sample"),
    ("id: sample", "id: other"),
    ("version: 1.2.3", "version: 1.2"),
    ("version: 1.2.3", "version: 1.02.3"),
    ("status: active", "status: draft"),
    ("status: active", "status: active\nservers: []"),
    ("domain: tax", "domain: Tax Bureau"),
    ("domain: tax", "domain: 7"),
    ("  purpose: One row for each sample.", "  purpose: ''"),
    (
        "value: L2}\n  - {property: eventDate",
        "value: L4}\n  - {property: eventDate",
    ),
    ("  - {property: rowLevel, value: L2}\n", ""),
    (
        "  - {property: rowLevel, value: L2}",
        "  - {property: rowlevel, value: L2}",
    ),
    (
        "  - {property: rowLevel, value: L2}",
        "  - {property: rowLevel, value: L2}\n  - {property: rowLevel, value: L1}",
    ),
    (
        "  - {property: rowLevel, value: L2}",
        "  - {property: rowLevel, value: L1}",
    ),
    ("value: day}\n", "value: dya}\n"),
    ("value: day}\n", "value: changed}\n"),
    ("value: day}\n", "value: amount}\n"),
    ("  - {property: eventDate, value: day}\n", ""),
    ("value: [changed]", "value: []"),
    ("value: [changed]", "value: [kind]"),
    ("value: [changed]", "value: [person]"),
    ("value: [changed]", "value: [changed, changed]"),
    ("value: month", "value: day"),
    (
        "{from: day, until: [ended], maxYearsAfter: {column: day, years: 5}}",
        "{}",
    ),
    (
        "{from: day, until: [ended], maxYearsAfter: {column: day, years: 5}}",
        "{until: [kind], from: person}",
    ),
    ("years: 5", "years: 0"),
    ("years: 5", "years: 5, months: 1"),
    ("[sample]", "[Sample, sample, sample]"),
    ("property: freshness", "property: latency"),
    ("value: 7, unit: d", "value: 7.5, unit: h"),
    ("  - name: sample\n", "  - name: simple\n"),
    ("physicalType: table", "physicalType: view"),
    ("name: uscc,", "name: tyshxydm,"),
    (
        "name: uscc, businessName: 统一社会信用代码, description: The enterprise., logicalType: string, physicalType: string",
        "name: uscc, businessName: 统一社会信用代码, description: The enterprise., logicalType: integer, physicalType: int64",
    ),
    ("classification: L1, required: true}", "classification: L3}"),
    ("primaryKeyPosition: 1", "primaryKeyPosition: 2"),
    (
        "primaryKey: true, primaryKeyPosition: 1",
        "primaryKeyPosition: 1",
    ),
    (
        "classification: L2, required: true, primaryKey",
        "classification: L3, primaryKey",
    ),
    (
        "classification: L2, required: true, primaryKey",
        "classification: L4, primaryKey",
    ),
    ("name: ended,", "name: _ended,"),
    ("name: ended,", "name: day,"),
    ("name: kind,", "name: Kind,"),
    ("name: kind, businessName: 类别,", "name: kind,"),
    (
        "name: kind, businessName: 类别,",
        "name: kind, businessName: 类别, physicalName: k,",
    ),
    (
        "name: kind, businessName: 类别,",
        "name: kind, businessName: 类别, unique: true,",
    ),
    ("name: tax_credit, at: day", "name: tax_credits, at: day"),
    ("name: tax_credit, at: day", "name: tax_credit, at: changed"),
    ("name: tax_credit, at: day", "name: tax_credit, on: day"),
    ("\"decimal(10,2)\"", "double"),
    ("\"decimal(10,2)\"", "\"decimal(40,2)\""),
    ("\"decimal(10,2)\"", "\"decimal(10,11)\""),
    ("\"decimal(10,2)\"", "\"decimal(10)\""),
    ("\"decimal(10,2)\"", "int32"),
    ("min: \"-0.5\"", "min: \"-0.555\""),
    ("min: \"-0.5\"", "min: -0.5"),
    ("min: \"-0.5\"", "min: \"1e3\""),
    ("min: \"-0.5\"", "min: 101"),
    ("rule: range, min: \"-0.5\", max: 100", "rule: range"),
    (
        "rule: range, min: \"-0.5\", max: 100",
        "rule: regex, regex: '.*'",
    ),
    (
        "rule: range, min: \"-0.5\", max: 100",
        "rule: pattern, pattern: '99'",
    ),
    (
        "rule: range, min: \"-0.5\", max: 100",
        "rule: length, min: 3, max: 2",
    ),
    (
        "rule: notAfter, column: ended",
        "rule: notAfter, column: kind",
    ),
    (
        "[{type: custom, engine: qihui, implementation: {rule: notAfter",
        "[{type: sql, engine: soda, implementation: {rule: notAfter",
    ),
    (
        "property: publicWhen, value: open",
        "property: publicWhen, value: kind",
    ),
    (
        "property: publicWhen, value: open",
        "property: publicWhen, value: shut",
    ),
    (
        "physicalType: boolean, classification: L1",
        "physicalType: boolean, classification: L3",
    ),
    (
        "\"decimal(10,2)\", classification: L3",
        "\"decimal(10,2)\", classification: L1",
    ),
    ("value: tenThousand", "value: 万元"),
    (
        "physicalType: string, classification: L4",
        "physicalType: string, classification: L4, required: true",
    ),
    (
        "physicalType: string, classification: L4",
        "physicalType: string, classification: L5",
    ),
    ("schema:\n", "schema: []\nx:\n"),
    ("id: sample\n", "id: sample\nid: sample\n"),
    ("  - {property: rowLevel, value: L2}\n", "  - *level\n"),
];

#[test]
fn a_wrong_contract_names_file_place_and_reason() {
    let mut report = String::new();
    for (from, to) in WRONG {
        assert!(GOOD.contains(from), "{from}");
        let problems = read(&GOOD.replacen(from, to, 1))
            .expect_err(to)
            .into_problems();
        let short = |text: &str| {
            text.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .chars()
                .take(90)
                .collect::<String>()
        };
        report.push_str(&format!("{} => {}\n", short(from), short(to)));
        for problem in problems {
            assert_eq!(problem.file, "contracts/sample.yaml");
            report.push_str(&format!("  [{}] {problem}\n", problem.code));
        }
    }
    crate::golden("wrong_contracts", &report);
}

#[test]
fn every_mistake_is_reported_not_the_first() {
    let text = GOOD
        .replace("version: 1.2.3", "version: x")
        .replace("classification: L3", "classification: L9")
        .replace("value: month", "value: century");
    let error = read(&text).unwrap_err();
    assert_eq!(error.problems().count(), 3);
    assert_eq!(error.code(), "CatalogValue");
    assert!(
        error
            .to_string()
            .ends_with("(and 2 more problems; `qihui catalog check` lists them all)")
    );
}

#[test]
fn at_most_128_columns() {
    let column = |at: usize| {
        format!(
            "      - {{name: c{at}, businessName: 列, description: A column., logicalType: string, physicalType: string, \
             classification: L2}}\n"
        )
    };
    let with = |extra: usize| {
        read(&format!(
            "{GOOD}{}",
            (0..extra).map(column).collect::<String>()
        ))
    };
    assert_eq!(with(MAX_COLUMNS - 9).unwrap().columns().len(), MAX_COLUMNS);
    let error = with(MAX_COLUMNS - 8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "contracts/sample.yaml: schema[0].properties: 129 columns: a contract has at most 128"
    );
}

#[test]
fn patterns_fit_whole_texts() {
    let pattern = Pattern::new("99-AN").unwrap();
    assert!(pattern.matches("12-X9"));
    for bad in ["12-x9", "12-X", "12-X99", "1２-X9", "", "12_X9"] {
        assert!(!pattern.matches(bad), "{bad}");
    }
    assert!(Pattern::new("").is_none() && Pattern::new(&"9".repeat(65)).is_none());
}

#[test]
fn a_window_opens_and_closes_on_its_days() {
    let window = DisclosureWindow {
        from: Some("from".to_owned()),
        until: vec!["until".to_owned(), "removed".to_owned()],
        max_years_after: Some(("decided".to_owned(), 5)),
    };
    let day = |text: &str| crate::time::parse_date(text);
    let open = |today: &str, dates: [Option<Date>; 4]| {
        let [from, until, removed, decided] = dates;
        window.is_open(day(today).unwrap(), |column| match column {
            "from" => from,
            "until" => until,
            "removed" => removed,
            _ => decided,
        })
    };
    let from = day("2020-02-29");
    assert!(open("2020-02-29", [from, None, None, from]));
    assert!(!open("2020-02-28", [from, None, None, from]), "not yet");
    assert!(open("2025-02-27", [from, None, None, from]));
    assert!(
        !open("2025-02-28", [from, None, None, from]),
        "five years are over"
    );
    assert!(open("2021-01-01", [from, day("2021-01-02"), None, from]));
    assert!(
        !open("2021-01-02", [from, day("2021-01-02"), None, from]),
        "ends on its day"
    );
    assert!(
        !open("2021-01-01", [from, None, day("2020-12-31"), from]),
        "any end ends it"
    );
    assert!(
        !open("2021-01-01", [None, None, None, from]),
        "no beginning"
    );
    assert!(
        !open("2021-01-01", [from, None, None, None]),
        "no date to count from"
    );
    assert_eq!(years_after(Date::MAX, 1), Date::MAX);
    assert!(DisclosureWindow::default().is_open(Date::MIN, |_| None));
}

mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::{FeedSpec, PurposeTree};

    fn read_everything(text: &str) {
        let path = Path::new("x.yaml");
        if let Ok(contract) = Contract::from_yaml(path, text) {
            assert_eq!(
                Contract::from_yaml(path, &contract.canonical_json()),
                Ok(contract)
            );
        }
        let _ = FeedSpec::from_yaml(path, text);
        let _ = PurposeTree::from_yaml(path, text);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            read_everything(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_yaml_like_text_makes_the_reader_panic(text in "[a-c:\\-\\[\\]{}&*!|>'\"#%@, \\n\\t0-9.~?]{0,200}") {
            read_everything(&text);
        }

        /// A right contract with a stretch of bytes overwritten, cut or repeated.
        #[test]
        fn no_damaged_contract_makes_the_reader_panic(
            from in 0..GOOD.len(), length in 0_usize..60, filler in prop::collection::vec(any::<u8>(), 0..20), twice: bool,
        ) {
            let mut bytes = GOOD.as_bytes().to_vec();
            let to = (from + length).min(bytes.len());
            let part = if twice { bytes[from..to].to_vec() } else { filler };
            bytes.splice(if twice { to..to } else { from..to }, part);
            read_everything(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn decimal_literals_round_trip(number: i64, scale in 0_u32..12) {
            let number = i128::from(number);
            let text = write::literal(Bound::Number(number), scale);
            prop_assert_eq!(read_column::parse_decimal(&text, scale), Some(number));
        }
    }
}
