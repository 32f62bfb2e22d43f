//! Paths and files that cannot be run at all: one clear error, nothing written.

use std::os::unix::fs::symlink;

use qihui_catalog::{Encoding, FeedFormat, Kind};

use super::*;

fn code(fixture: &Fixture, input: &Path) -> (&'static str, Kind, String) {
    let error = fixture.run(input, &mut fixture.preview()).unwrap_err();
    assert!(!fixture.state().exists(), "nothing was written");
    (error.code(), error.kind(), error.to_string())
}

#[test]
fn paths_are_refused_with_what_to_do() {
    let fixture = Fixture::csv();
    let good = fixture.write_csv("payments.csv", &[record(1, 1, 0, "1")]);
    let input = fixture.input();
    symlink(&good, input.join("link.csv")).unwrap();
    symlink(&input, fixture.dir.path().join("linked")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, input.join("pipe"), 0o600.into()).unwrap();
    for (path, expected, kind) in [
        (input.join("*.csv"), "PathIsGlob", Kind::Usage),
        (input.join("payments[1].csv"), "PathIsGlob", Kind::Usage),
        (input.join("absent.csv"), "SourceNotFound", Kind::Failed),
        (input.join("link.csv"), "PathIsSymlink", Kind::Usage),
        (
            fixture.dir.path().join("linked"),
            "PathIsSymlink",
            Kind::Usage,
        ),
        (input.join("pipe"), "NotARegularFile", Kind::Usage),
        (PathBuf::from("/dev/zero"), "NotARegularFile", Kind::Usage),
        (good.join("below"), "SourceNotFound", Kind::Failed),
    ] {
        let (code, found, message) = code(&fixture, &path);
        assert_eq!((code, found), (expected, kind), "{message}");
    }
    fs::remove_file(good).unwrap();
    assert_eq!(code(&fixture, &input).0, "NoFileOfFeed");
}

#[test]
fn a_link_in_a_folder_is_refused_even_if_its_name_fits() {
    let fixture = Fixture::csv();
    let outside = fixture.dir.path().join("outside.csv");
    fs::write(&outside, format!("{HEADER}\n{}\n", record(1, 1, 0, "1"))).unwrap();
    symlink(&outside, fixture.input().join("payments.csv")).unwrap();
    assert_eq!(code(&fixture, &fixture.input()).0, "PathIsSymlink");
}

#[test]
fn a_root_confines_paths() {
    let fixture = Fixture::csv();
    let inside = fixture.write_csv("payments.csv", &[record(1, 1, 0, "1")]);
    let outside = fixture.dir.path().join("payments.csv");
    fs::copy(&inside, &outside).unwrap();
    fs::create_dir(fixture.input().join("sub")).unwrap();
    fs::copy(&inside, fixture.input().join("sub/payments.csv")).unwrap();
    symlink(fixture.dir.path(), fixture.input().join("up")).unwrap();
    let place = || Place {
        input_root: Some(fixture.input()),
        ..fixture.place()
    };
    let run = |path: PathBuf| {
        runtime().block_on(async {
            fixture
                .job()
                .run(
                    &place(),
                    &path,
                    &mut fixture.preview(),
                    &mut Tally::default(),
                )
                .await
        })
    };
    for (path, expected) in [
        (outside, Some("PathOutsideRoot")),
        (
            fixture.input().join("../payments.csv"),
            Some("PathOutsideRoot"),
        ),
        (PathBuf::from("../payments.csv"), Some("PathOutsideRoot")),
        (PathBuf::from("/etc/passwd"), Some("PathOutsideRoot")),
        (PathBuf::from("up/payments.csv"), Some("PathIsSymlink")),
        (PathBuf::from("up"), Some("PathIsSymlink")),
        (PathBuf::from("payments.csv"), None),
        (PathBuf::from("sub/payments.csv"), None),
        (PathBuf::from("sub"), None),
        (inside, None),
        (fixture.input(), None),
    ] {
        let result = run(path.clone());
        assert_eq!(
            result.as_ref().err().map(IngestError::code),
            expected,
            "{}: {result:?}",
            path.display()
        );
    }
}

#[test]
fn headers_that_do_not_fit() {
    let cases = [
        ("", "EmptyFile", "is empty"),
        ("\n\n", "EmptyFile", "is empty"),
        (
            &HEADER.replace("amount", "amount,amount"),
            "BadHeader",
            "more than once `amount`",
        ),
        (
            &HEADER.replace("code", "code,uscc"),
            "BadHeader",
            "more than once `uscc`",
        ),
        (
            &HEADER.replace(",amount", ""),
            "BadHeader",
            "missing `amount`",
        ),
        (
            &HEADER.replace("code", "unit"),
            "BadHeader",
            "unknown `unit`",
        ),
        (
            &HEADER.replace("code,", ""),
            "BadHeader",
            "missing `code or uscc`",
        ),
        (&HEADER.replace(",mark", ""), "BadHeader", "missing `mark`"),
        (&format!("\"{HEADER}"), "BadHeader", "BrokenQuote"),
        (
            &format!("{HEADER}{}", ",note".repeat(600)),
            "BadHeader",
            "the limit is 512",
        ),
    ];
    for (header, expected, says) in cases {
        let fixture = Fixture::csv();
        let path = fixture.write("payments.csv", header);
        let (code, _, message) = code(&fixture, &path);
        assert_eq!(code, expected, "{message}");
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn a_file_without_a_header_gives_nothing_away() {
    let fixture = Fixture::csv();
    let path = fixture.write("payments.csv", record(1, 1, 0, "1"));
    let (_, _, message) = code(&fixture, &path);
    assert!(message.contains("is it a header line?"), "{message}");
    assert!(
        !message.contains(&uscc(1)) && !message.contains("某公司"),
        "{message}"
    );
}

#[test]
fn a_personal_or_ignored_column_may_be_left_out() {
    let fixture = Fixture::csv();
    let cut = |line: &str| {
        line.split(',')
            .enumerate()
            .filter(|(i, _)| *i != 3 && *i != 14)
            .map(|(_, c)| c.to_owned())
            .collect::<Vec<_>>()
            .join(",")
    };
    let path = fixture.write(
        "payments.csv",
        format!("{}\n{}\n", cut(HEADER), cut(&record(1, 1, 0, "1"))),
    );
    assert_eq!(
        fixture.run(&path, &mut fixture.preview()).unwrap().landed(),
        1
    );
}

#[test]
fn encoding_marks_that_contradict_the_feed() {
    let text = format!("{HEADER}\n");
    for (encoding, mark) in [
        (Encoding::Gb18030, "\u{feff}".as_bytes()),
        (Encoding::Utf8, b"\x84\x31\x95\x33"),
        (Encoding::Detect, b"\xFF\xFE"),
    ] {
        let fixture = Fixture::new(FeedFormat::Csv, encoding);
        let path = fixture.write("payments.csv", [mark, text.as_bytes()].concat());
        assert_eq!(code(&fixture, &path).0, "UnexpectedEncoding");
    }
}

#[test]
fn feeds_that_do_not_fit_their_contract() {
    let fault = |change: &dyn Fn(&mut FeedSpec)| {
        let mut spec = feed(FeedFormat::Csv, Encoding::Detect);
        change(&mut spec);
        let job = Job::bind(
            &Arc::new(spec),
            &Arc::new(contract()),
            &RunOptions::default(),
            Arc::new(Quiet),
        );
        let error = job.err().unwrap();
        assert_eq!(error.code(), "BadFeed");
        error.to_string()
    };
    assert!(fault(&|spec| spec.delimiter = b'|').contains("may be part of a GB18030 character"));
    assert!(fault(&|spec| spec.delimiter = b'"').contains("cannot separate"));
    assert!(
        fault(&|spec| drop(spec.columns.insert("x".into(), "nowhere".into())))
            .contains("`nowhere`")
    );
    assert!(
        fault(&|spec| drop(spec.columns.remove("amount")))
            .contains("nothing fills the column `amount`")
    );
    assert!(
        fault(&|spec| drop(spec.constants.insert("pages".into(), "many".into())))
            .contains("`pages`")
    );
    assert!(
        fault(&|spec| drop(spec.constants.insert("amount".into(), "1".into()))).contains("both")
    );
}

#[test]
fn an_empty_file_of_json_lines_is_no_record() {
    let fixture = Fixture::json();
    let path = fixture.write("payments.jsonl", "\n\n");
    let report = fixture.run(&path, &mut fixture.preview()).unwrap();
    assert_eq!(
        (report.counts, report.runs().count()),
        (crate::Counts::default(), 0)
    );
}
