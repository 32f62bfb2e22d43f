//! Bad feeds: wrong paths, wrong files, wrong records.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::bad_input::says_nothing_of;
use crate::support::Lab;

#[test]
fn feeds_that_cannot_be_read() {
    let lab = Lab::empty();
    let feed = "enterprise_registration";
    let run = |from: &str| lab.json(&["feed", "run", feed, "--from", from]);
    run(&lab.file("*.csv")).fails(2, "PathIsGlob", &["wildcard"]);
    run(&lab.file("none.csv")).fails(1, "SourceNotFound", &["none.csv"]);
    let target = lab.write("target.csv", "USCC\n");
    symlink(&target, lab.path().join("link.csv")).unwrap();
    run(&lab.file("link.csv")).fails(2, "PathIsSymlink", &["link.csv"]);
    run("/dev/zero").fails(2, "NotARegularFile", &[]);
    run(&lab.write("empty.csv", "")).fails(1, "EmptyFile", &["header"]);
    let secret = "91330000142911651L,某某公司\n";
    let answer = run(&lab.write("headless.csv", secret));
    answer.fails(1, "BadHeader", &["header"]);
    says_nothing_of(&answer, "91330000142911651L");
    lab.json(&["feed", "run", "nosuch", "--from", &target])
        .fails(1, "UnknownFeed", &["feed list"]);
    lab.json(&["feed", "run", "--all"])
        .fails(1, "NoFeedFiles", &["inbox"]);
    lab.run(&["feed", "run"]).fails(2, "BadUsage", &["--all"]);
    let config = lab.hub().join("qihui.toml");
    fs::create_dir(lab.path().join("allowed")).unwrap();
    fs::write(
        &config,
        format!("[ingest]\nroot = \"{}\"\n", lab.file("allowed")),
    )
    .unwrap();
    run(&target).fails(2, "PathOutsideRoot", &["allowed"]);
    run(&lab.file("allowed/../target.csv")).fails(2, "PathOutsideRoot", &[]);
}

/// NUL bytes, mixed encodings and overlong records spoil their own record and no other.
#[test]
fn records_that_cannot_be_read_go_to_quarantine() {
    let lab = Lab::empty();
    let mut content = "uscc,ent_name,est_date,ent_type,reg_capital_wan,reg_capital_currency,business_scope,province,city,\
                       reg_division_code\n"
        .as_bytes()
        .to_vec();
    let row = |name: &[u8]| {
        [
            b"91330000142911651L,",
            name,
            b",2000-01-01,,1,CNY,x,,,330000\n",
        ]
        .concat()
    };
    content.extend(row("茶叶公司".as_bytes()));
    content.extend(row(b"nul\0byte"));
    content.extend(row(b"\xb2\xe8\xd2\xb6\xff"));
    content.extend(row(&vec![b'x'; 2 << 20]));
    let file = lab.write("enterprises_x.csv", content);
    let report = lab
        .json(&["feed", "check", &file, "--feed", "registry_csv"])
        .done()
        .json();
    assert_eq!(
        (&report["read"], &report["quarantined"]),
        (&4.into(), &3.into()),
        "{report}"
    );
    let ran = lab
        .json(&["feed", "run", "registry_csv", "--from", &file])
        .done()
        .json();
    assert_eq!(ran["feeds"][0]["quarantined"], 3);
    let waiting = lab.json(&["feed", "quarantine", "registry_csv"]).done();
    says_nothing_of(&waiting, "91330000142911651L");
    let lines: Vec<_> = waiting.json()["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["line"].clone())
        .collect();
    assert_eq!(lines, [3, 4, 5]);
}

/// What a declaration or a workbook hides costs itself, never the process, and is never told.
#[test]
fn documents_and_workbooks_that_are_made_to_hurt() {
    let lab = Lab::empty();
    let secret = "91330000142911651L";
    let external = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>\
         <DecMessages xmlns=\"http://www.chinaport.gov.cn/dec\"><DecMessage>{secret}&x;</DecMessage></DecMessages>"
    );
    let file = lab.write("customs_declaration_1.xml", external);
    let checked = lab
        .json(&["feed", "check", &file, "--feed", "customs_declaration"])
        .done();
    assert_eq!(checked.json()["problems"][0]["code"], "DoctypeRefused");
    says_nothing_of(&checked, secret);
    let run = |from: &str| lab.json(&["feed", "run", "annual_report", "--from", from]);
    run(&lab.write("annual_report_1.xlsx", "UNISCID,ANCHEID\n")).fails(
        1,
        "BadArchive",
        &["zip archive"],
    );
    run(&lab.write("annual_report_2.xlsx", b"\xD0\xCF\x11\xE0 old")).fails(
        1,
        "BadWorkbook",
        &["xlsx"],
    );
    run(&lab.write("annual_report_3.xlsx", "")).fails(1, "EmptyFile", &[]);
}

#[test]
fn a_file_that_cannot_be_run_does_not_stop_the_others() {
    let lab = Lab::empty();
    let folder = lab.path().join("in");
    fs::create_dir(&folder).unwrap();
    let header = "uscc,ent_name,est_date,ent_type,reg_capital_wan,reg_capital_currency,business_scope,province,city,\
                  reg_division_code\n";
    let row = "91330000142911651L,某公司,2000-01-01,,1,CNY,x,,,330000\n";
    fs::write(folder.join("enterprises_1.csv"), "nothing like a header\n").unwrap();
    fs::write(folder.join("enterprises_2.csv"), format!("{header}{row}")).unwrap();
    fs::write(folder.join("annual_report_1.xlsx"), "no workbook").unwrap();
    fs::write(
        folder.join("customs_declaration_1.zip"),
        "PK\x03\x04 no archive",
    )
    .unwrap();
    let from = folder.to_str().unwrap();
    let answer = lab.json(&["feed", "run", "--all", "--from", from]);
    answer.fails(1, "BadHeader", &["1 of 2 files"]);
    let failed = answer.json()["files_failed"].clone();
    let told = |place: usize| {
        let text = |key: &str| failed[place][key].as_str().unwrap_or_default().to_owned();
        [text("feed"), text("file"), text("code")]
    };
    let expected = [
        ["registry_csv", "enterprises_1.csv", "BadHeader"],
        ["annual_report", "annual_report_1.xlsx", "BadArchive"],
        [
            "customs_declaration",
            "customs_declaration_1.zip",
            "BadArchive",
        ],
    ];
    assert_eq!([0, 1, 2].map(told), expected, "{failed}");
    let feeds = answer.json()["feeds"].clone();
    assert_eq!(feeds.as_array().map(Vec::len), Some(1), "{feeds}");
    assert_eq!(
        (&feeds[0]["feed"], &feeds[0]["landed"]),
        (&json!("registry_csv"), &json!(1))
    );
    for file in ["annual_report_1.xlsx", "customs_declaration_1.zip"] {
        assert!(answer.stderr.contains(file), "{}", answer.stderr);
    }
    let again = lab
        .json(&[
            "feed",
            "run",
            "registry_csv",
            "--from",
            &format!("{from}/enterprises_2.csv"),
        ])
        .done();
    assert_eq!(
        again.json()["feeds"][0]["unchanged"],
        1,
        "it was landed the first time"
    );
}

#[test]
fn synth_says_what_it_cannot_do() {
    let lab = Lab::bare();
    let out = lab.file("out");
    lab.run(&["synth", "--out", &out, "--ugly", "2"])
        .fails(2, "SynthOption", &["--ugly"]);
    lab.run(&[
        "synth",
        "--out",
        &out,
        "--enterprises",
        "3",
        "--months",
        "1",
    ])
    .done();
    lab.run(&["synth", "--out", &out])
        .fails(2, "SynthExists", &["empty folder"]);
    let registry = lab.write("r.csv", "a,b\n1,2\n");
    lab.run(&["synth", "--out", &lab.file("o2"), "--registry", &registry])
        .fails(1, "SynthRegistry", &["uscc"]);
}
