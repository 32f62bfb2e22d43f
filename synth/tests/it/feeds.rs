//! The feeds of invented enterprises.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use qihui_catalog::{Catalog, Coded, Kind};
use qihui_synth::{MANIFEST_FILE, Manifest, SynthError, SynthOptions, generate};
use ring::digest::{SHA256, digest};

use crate::reader::{Reading, Value, read};

fn options(out: &Path, enterprises: u32, months: u32, seed: u64, ugly: f64) -> SynthOptions {
    SynthOptions {
        out: out.to_owned(),
        enterprises,
        months,
        seed,
        ugly,
        registry: None,
    }
}

/// Generates, reads everything back and compares with the manifest.
fn round(
    enterprises: u32,
    months: u32,
    seed: u64,
    ugly: f64,
) -> (Manifest, BTreeMap<String, Reading>) {
    let folder = tempfile::tempdir().unwrap();
    let report = generate(&options(folder.path(), enterprises, months, seed, ugly)).unwrap();
    let text = fs::read_to_string(folder.path().join(MANIFEST_FILE)).unwrap();
    assert_eq!(
        serde_json::from_str::<Manifest>(&text).unwrap(),
        report.manifest
    );
    (
        report.manifest.clone(),
        reconcile(folder.path(), &report.manifest),
    )
}

/// Reads every feed of a folder and compares with the manifest.
pub fn reconcile(folder: &Path, manifest: &Manifest) -> BTreeMap<String, Reading> {
    let catalog = Catalog::builtin().unwrap();
    let mut readings = BTreeMap::new();
    for feed in &manifest.feeds {
        let reading = read(&catalog, folder, feed);
        for file in &feed.files {
            let takers: Vec<_> = catalog
                .feeds
                .values()
                .filter(|spec| spec.takes_file(&file.name))
                .collect();
            assert!(
                takers.len() == 1 && takers[0].name.as_str() == feed.feed,
                "{}",
                file.name
            );
        }
        assert_eq!(reading.records, feed.records, "{}", feed.feed);
        assert_eq!(reading.outcome, feed.expected, "{}", feed.feed);
        assert_eq!(feed.expected.sum(), feed.records, "{}", feed.feed);
        assert_eq!(reading.live, feed.live, "{}", feed.feed);
        readings.insert(feed.feed.clone(), reading);
    }
    readings
}

/// Name and hash of every file of a folder.
fn hashes(folder: &Path) -> String {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.iter().fold(String::new(), |mut text, name| {
        let bytes = fs::read(folder.join(name)).unwrap();
        writeln!(text, "{}  {name}", hex::encode(digest(&SHA256, &bytes))).unwrap();
        text
    })
}

/// The golden file pins every byte of a small generation. A change of the catalogue's header names, of the draws or of
/// the tables changes it: raise `OUTPUT_VERSION`, then write it anew with `QIHUI_GOLDEN=write`.
#[test]
fn equal_options_give_equal_bytes() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&first, &second] {
        generate(&options(folder.path(), 40, 4, 7, 0.1)).unwrap();
    }
    let found = hashes(first.path());
    assert_eq!(found, hashes(second.path()));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/feeds.sha256");
    if std::env::var_os("QIHUI_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&golden, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(golden).unwrap());
}

#[test]
fn a_smaller_population_is_the_beginning_of_a_greater_one() {
    let (small, great) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = generate(&options(small.path(), 60, 5, 3, 0.05)).unwrap();
    generate(&options(great.path(), 110, 5, 3, 0.05)).unwrap();
    for file in report.manifest.feeds.iter().flat_map(|feed| &feed.files) {
        let (small, great) = (
            fs::read(small.path().join(&file.name)).unwrap(),
            fs::read(great.path().join(&file.name)).unwrap(),
        );
        let beginning = match file.name.rsplit('.').next() {
            Some("xml") => small.strip_suffix(b"</DecMessages>\n").unwrap(),
            // A workbook is packed as a whole; its rows are compared below.
            Some("xlsx") => continue,
            _ => &small,
        };
        assert!(great.starts_with(beginning), "{}", file.name);
    }
    let (small, great) = (reports(small.path()), reports(great.path()));
    assert!(small.len() > 10 && small.iter().all(|(key, row)| great.get(key) == Some(row)));
}

/// The annual reports of a folder.
fn reports(folder: &Path) -> BTreeMap<String, BTreeMap<String, Value>> {
    let text = fs::read_to_string(folder.join(MANIFEST_FILE)).unwrap();
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    let feed = manifest.feed("annual_report").unwrap();
    let rows = read(&Catalog::builtin().unwrap(), folder, feed).rows;
    rows.into_iter()
        .map(|row| (row["ancheid"].text().to_owned(), row))
        .collect()
}

/// What a declaration looks like, and that some are in the old encoding.
#[test]
fn declarations_are_messages_of_several_lines() {
    let folder = tempfile::tempdir().unwrap();
    generate(&options(folder.path(), 400, 6, 9, 0.0)).unwrap();
    let (mut lines, mut messages, mut old) = (0, 0, 0);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "xml") {
            let bytes = fs::read(&path).unwrap();
            let count = |mark: &str| memmem(&bytes, mark.as_bytes());
            lines += count("<DecList>");
            messages += count("<DecMessage ");
            old += usize::from(
                count("encoding=\"GB18030\"") > 0 && std::str::from_utf8(&bytes).is_err(),
            );
            assert_eq!(
                count("<InputerName>"),
                count("<DecMessage "),
                "one person a message"
            );
        }
    }
    assert!(
        messages > 50 && lines > messages * 3 / 2,
        "{lines} lines in {messages} messages"
    );
    assert!(old > 0);
}

fn memmem(bytes: &[u8], mark: &[u8]) -> usize {
    bytes
        .windows(mark.len())
        .filter(|window| *window == mark)
        .count()
}

#[test]
fn ing_1_clean_feeds_hold_nothing_to_refuse() {
    let (manifest, readings) = round(1_500, 12, 11, 0.0);
    assert_eq!(manifest.feeds.len(), 12);
    for feed in &manifest.feeds {
        assert_eq!(
            (
                feed.expected.quarantined,
                feed.expected.unchanged,
                feed.ugly_records
            ),
            (0, 0, 0),
            "{}",
            feed.feed
        );
        assert!(
            feed.records > 20,
            "{} has {} records",
            feed.feed,
            feed.records
        );
    }
    let registered = &readings["enterprise_registration"].enterprises;
    assert_eq!(registered.len(), 1_500);
    for (feed, reading) in &readings {
        assert!(reading.enterprises.is_subset(registered), "{feed}");
    }
    assert!(manifest.feed("admin_penalty").unwrap().retractions > 0);
    assert!(
        manifest
            .feeds
            .iter()
            .map(|feed| feed.corrections)
            .sum::<u64>()
            > 100
    );
}

#[test]
fn ing_1_every_kind_of_ugliness_is_what_the_manifest_says() {
    let (manifest, _) = round(700, 12, 5, 0.2);
    let mut kinds = BTreeMap::new();
    for (kind, count) in manifest.feeds.iter().flat_map(|feed| &feed.ugly) {
        *kinds.entry(kind.as_str()).or_insert(0) += count;
    }
    let expected = [
        "bad_check_digit",
        "bad_date",
        "bad_symbol",
        "changed_uscc",
        "correction",
        "duplicate",
        "lower_case",
        "nul",
        "old_number",
        "overlong",
        "retraction",
        "torn",
        "unknown_code",
        "wrong_bytes",
    ];
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), expected);
    let records: u64 = manifest
        .feeds
        .iter()
        .map(|feed| feed.records - feed.duplicates - feed.retractions)
        .sum();
    let ugly: u64 = kinds.values().sum();
    let share = ugly * 100 / records;
    assert!((19..=22).contains(&share), "{ugly} of {records}");
}

fn number(record: &BTreeMap<String, Value>, column: &str) -> i128 {
    record.get(column).map_or(0, Value::number)
}

/// Sum of a column per enterprise.
fn sums(reading: &Reading, column: &str) -> BTreeMap<String, i128> {
    let mut sums: BTreeMap<String, i128> = BTreeMap::new();
    for row in &reading.rows {
        *sums.entry(row["uscc"].text().to_owned()).or_default() += number(row, column);
    }
    sums
}

#[test]
fn what_belongs_together_goes_together() {
    let (_, readings) = round(2_000, 12, 1, 0.0);
    taxes_follow_declarations(&readings);
    ratings_follow_behaviour(&readings);
    // Only those with goods meet customs, and they are a minority.
    let traders = sums(&readings["customs_declaration"], "decl_total");
    assert!(
        (100..600).contains(&traders.len()),
        "{} trade abroad",
        traders.len()
    );
    assert!(readings["customs_credit_rating"].enterprises.len() < 600);
    // Some amounts are published, more are not.
    let reports = &readings["annual_report"].rows;
    let open = reports
        .iter()
        .filter(|row| row["vendincdis"] == Value::Flag(true))
        .count()
        * 100
        / reports.len();
    assert!((20..60).contains(&open), "{open} % publish");
    // Large ones report more income.
    let mean = |large: bool| {
        let rows = reports
            .iter()
            .filter(|row| (number(row, "empnum") > 50) == large);
        let incomes: Vec<i128> = rows.map(|row| number(row, "vendinc")).collect();
        incomes.iter().sum::<i128>() / i128::try_from(incomes.len()).unwrap()
    };
    assert!(mean(true) > 4 * mean(false));
}

/// What was declared is what was paid, and the spring festival shows.
fn taxes_follow_declarations(readings: &BTreeMap<String, Reading>) {
    let paid = readings["tax_levy"]
        .rows
        .iter()
        .filter(|row| row["zsxmmc"].text() == "增值税");
    let paid: i128 = paid.map(|row| number(row, "ybtse")).sum();
    let due: i128 = sums(&readings["vat_declaration"], "ynse").values().sum();
    assert!((paid - due).abs() < due / 50, "paid {paid}, due {due}");
    let month = |first: &str| {
        let first = Value::Date(
            (first.parse::<chrono::NaiveDate>().unwrap() - chrono::NaiveDate::default()).num_days(),
        );
        let rows = readings["vat_declaration"].rows.iter();
        let rows = rows.filter(|row| row["nsqxdm"].text() == "02" && row["skssqq"] == first);
        rows.map(|row| number(row, "xse")).sum::<i128>()
    };
    assert!(month("2026-02-01") * 10 < month("2025-12-01") * 9);
}

/// Scores fall with penalties; most are rated B or better, some worse, M for the new.
fn ratings_follow_behaviour(readings: &BTreeMap<String, Reading>) {
    let penalised = &readings["admin_penalty"].enterprises;
    let mean = |wanted: bool| {
        let rows = readings["public_credit_score"].rows.iter();
        let rows = rows.filter(|row| penalised.contains(row["uscc"].text()) == wanted);
        let scores: Vec<i128> = rows.map(|row| number(row, "pjfs")).collect();
        scores.iter().sum::<i128>() / i128::try_from(scores.len()).unwrap()
    };
    assert!(
        mean(true) + 1_500 < mean(false),
        "{} with, {} without penalties",
        mean(true),
        mean(false)
    );
    let mut levels: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &readings["tax_credit_rating"].rows {
        *levels.entry(row["pjjb"].text()).or_default() += 1;
    }
    assert_eq!(
        levels.keys().copied().collect::<Vec<_>>(),
        ["A", "B", "C", "D", "M"],
        "{levels:?}"
    );
    assert!(
        levels["B"] > levels["C"] && levels["C"] > levels["D"] && levels["A"] > levels["C"],
        "{levels:?}"
    );
}

#[test]
fn options_outside_their_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for bad in [
        options(folder.path(), 0, 1, 0, 0.0),
        options(folder.path(), 1, 0, 0, 0.0),
        options(folder.path(), 1, 121, 0, 0.0),
        options(folder.path(), 1, 1, 0, 1.5),
        options(folder.path(), 1, 1, 0, f64::NAN),
    ] {
        let error = generate(&bad).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("SynthOption", Kind::Usage));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    generate(&options(folder.path(), 3, 1, 0, 0.0)).unwrap();
    let before = hashes(folder.path());
    let error = generate(&options(folder.path(), 3, 2, 0, 0.0)).unwrap_err();
    assert!(matches!(error, SynthError::Exists { .. }), "{error}");
    assert_eq!(before, hashes(folder.path()));
}

#[test]
fn a_failure_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("vat_declaration_202606.csv");
    fs::write(&foreign, "kept").unwrap();
    let error = generate(&options(folder.path(), 20, 2, 0, 0.0)).unwrap_err();
    assert!(matches!(error, SynthError::Exists { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(foreign).unwrap(), "kept");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn ing_1_the_manifest_holds_for_any_options(
        enterprises in 1_u32..60, months in 1_u32..26, seed: u64, ugly in prop::sample::select(vec![0.0, 0.03, 0.5, 1.0])
    ) {
        round(enterprises, months, seed, ugly);
    }
}
