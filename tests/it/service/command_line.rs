//! The command line while a service owns the data directory: every kind of command does what it does without one.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use super::shared::{ENDLESS, SOON, Service, forwarded};
use crate::support::{Lab, agreement, query, request};

#[test]
fn what_only_looks_says_the_same_through_the_service() {
    let lab = Lab::world();
    let id = lab.granted("uscc, xse");
    let sql = "SELECT uscc, xse FROM vat_declaration ORDER BY uscc, xse";
    let tax = query("tax_bureau", "supervision.tax", &["--format"]);
    let feeds = lab.json(&["feed", "list"]).done().json();
    let feed = feeds["feeds"][0]["name"].as_str().unwrap().to_owned();
    let csv = [&tax[..], &["csv", sql]].concat();
    let table = [&tax[..], &["table", sql]].concat();
    let looks: Vec<Vec<&str>> = vec![
        vec!["org", "list"],
        vec!["catalog", "list"],
        vec!["catalog", "show", "vat_declaration"],
        vec!["catalog", "check"],
        vec!["agreement", "list"],
        vec!["feed", "list"],
        vec!["feed", "quarantine", &feed],
        vec!["consent", "show", &id],
        vec!["consent", "list"],
        vec!["consent", "list", "--org", "nobody"],
        csv,
        table,
        query("nobody", "policy.matching", &[sql]),
        vec!["consent", "show", "nothing"],
        vec!["frobnicate"],
        vec!["feed", "run"],
    ];
    let alone: Vec<_> = looks.iter().map(|words| lab.run(words)).collect();
    let service = Service::start(&lab);
    for (words, before) in looks.iter().zip(alone) {
        let after = lab.run(words);
        assert_eq!(
            (after.code, &after.stdout),
            (before.code, &before.stdout),
            "{words:?}"
        );
        // Remarks name entries of the log, which went on; errors are the same to the letter.
        if before.code != 0 {
            assert_eq!(after.stderr, before.stderr, "{words:?}");
        }
        let json = lab.json(words);
        assert!(
            serde_json::from_str::<Value>(&json.stdout).is_ok() || words.contains(&"--format"),
            "{json:?}"
        );
    }
    service.stop();
}

#[test]
fn what_changes_something_changes_it_through_the_service() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    forwarded(
        &lab,
        &["org", "add", "river", "--name", "River", "--kind", "bank"],
    );
    // Paths are those of whoever types, not of the service.
    lab.write(
        "river.yaml",
        agreement("river", "policy.matching", "consent"),
    );
    forwarded(&lab, &["agreement", "add", "river.yaml"]);
    let id = lab.granted("uscc, skssqq, xse");
    let looked = forwarded(&lab, &["consent", "preview", &id]).json();
    assert!(!looked["datasets"][0]["rows"].as_array().unwrap().is_empty());
    let key = lab.file("owner.key");
    let signed = |what: &str| {
        forwarded(
            &lab,
            &["consent", what, &id, "--as", "owner", "--key", &key],
        )
        .json()["state"]
            .clone()
    };
    assert_eq!(signed("pause"), "PAUSED");
    assert_eq!(signed("resume"), "ACTIVE");
    let sql = "SELECT uscc, xse FROM vat_declaration";
    assert!(
        !lab.bank(sql).done().json()["rows"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    lab.write("less.yaml", "scope: [{dataset: vat_declaration, columns: [uscc, skssqq], data_range: {from: 2024-01-01, to: 2027-01-01}}]\n");
    forwarded(&lab, &["consent", "narrow", &id, "less.yaml"]);
    let rows = lab.bank(sql).done().json();
    assert!(
        rows["rows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["xse"].is_null())
    );
    let ask = query(
        "tax_bureau",
        "supervision.tax",
        &["--format", "parquet", "--output", "answer.parquet", sql],
    );
    forwarded(&lab, &ask);
    assert!(
        fs::read(lab.path().join("answer.parquet"))
            .unwrap()
            .starts_with(b"PAR1")
    );
    assert_eq!(signed("withdraw"), "WITHDRAWN");
    assert_eq!(lab.bank(sql).done().json()["rows"], json!([]));
    forwarded(&lab, &["keygen", "--out", "second.key"]);
    forwarded(
        &lab,
        &[
            "signatory",
            "add",
            &lab.subject(),
            "second",
            "--key",
            "second.key.pub",
        ],
    );
    let file = lab.write("again.yaml", request(&lab.subject(), "uscc", 30));
    forwarded(&lab, &["consent", "request", &file]);
    let ran = forwarded(&lab, &["feed", "run", "--all", "--from", "feeds"]).json();
    assert!(
        ran["feeds"]
            .as_array()
            .unwrap()
            .iter()
            .all(|feed| feed["landed"] == 0)
    );
    let verified = forwarded(&lab, &["audit", "verify"]).json();
    assert_eq!(verified["ok"], true);
    assert_eq!(verified["ledger"]["consents"], 3);
    let checkpoint = forwarded(&lab, &["audit", "checkpoint"]).json();
    fs::write(
        lab.path().join("kept"),
        checkpoint["checkpoint"].as_str().unwrap(),
    )
    .unwrap();
    let accesses = forwarded(&lab, &["audit", "accesses", &lab.subject()]).json();
    assert!(accesses["accesses"].as_array().unwrap().len() >= 3);
    service.stop();
    lab.run(&["audit", "verify", "--checkpoint", "kept"]).done();
}

#[test]
fn a_new_contract_takes_effect_without_a_restart() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let path = lab.hub().join("catalog/contracts/vat_declaration.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("version:"))
        .unwrap()
        .to_owned();
    let checked = |words: &[&str]| forwarded(&lab, &[&["catalog", "check"], words].concat()).json();
    assert_eq!(checked(&[])["unrecorded"], json!([]));
    fs::write(&path, text.replace(&line, "version: 9.0.1")).unwrap();
    assert_eq!(checked(&[])["unrecorded"].as_array().unwrap().len(), 1);
    // Changed and not recorded: what is in force stays so.
    lab.tax("SELECT count(*) FROM vat_declaration").done();
    assert_eq!(
        checked(&["--record"])["recorded"].as_array().unwrap().len(),
        1
    );
    lab.tax("SELECT count(*) FROM vat_declaration").done();
    let shown = forwarded(&lab, &["catalog", "show", "vat_declaration"]).json();
    assert_eq!(shown["version"], "9.0.1");
    service.stop();
}

#[test]
fn feeds_run_at_the_same_time_land_as_one_after_the_other() {
    let lab = Lab::empty();
    lab.synth("30", "2", "0");
    let service = Service::start(&lab);
    let running: Vec<_> = (0..3)
        .map(|_| {
            lab.command(&["feed", "run", "--all", "--from", "feeds", "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut landed = 0;
    for run in running {
        let answer: crate::support::Answer = run.wait_with_output().unwrap().into();
        let answer = answer.done().json();
        for feed in answer["feeds"].as_array().unwrap() {
            let count = |what: &str| feed[what].as_u64().unwrap();
            assert_eq!(
                count("read"),
                count("landed") + count("unchanged") + count("superseded") + count("retracted")
            );
            landed += count("landed");
        }
    }
    let once = lab
        .json(&["feed", "run", "--all", "--from", "feeds"])
        .done()
        .json();
    let read: u64 = once["feeds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|feed| feed["read"].as_u64().unwrap())
        .sum();
    assert_eq!(landed, read, "every record landed once");
    service.stop();
}

#[test]
fn gate_3_whoever_typed_it_may_go_away() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let mut typed = lab
        .command(&query(
            "tax_bureau",
            "supervision.tax",
            &["--format", "csv", ENDLESS],
        ))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut some = vec![0; 1 << 12];
    std::io::Read::read_exact(typed.stdout.as_mut().unwrap(), &mut some).unwrap();
    typed.kill().unwrap();
    typed.wait().unwrap();
    let begun = std::time::Instant::now();
    loop {
        let accesses = forwarded(&lab, &["audit", "accesses", &lab.subject()]).json();
        let last = accesses["accesses"].as_array().unwrap().last().cloned();
        if last.is_some_and(|last| last["decision"] == "failed") {
            break;
        }
        assert!(begun.elapsed() < SOON, "the access does not end");
    }
    // A second service would own the same directory.
    let mut second = lab.command(&["serve", "--listen", "127.0.0.1:0"]);
    let second = second
        .env("QIHUI_HUB__LOCK_WAIT_SECONDS", "0")
        .output()
        .unwrap();
    crate::support::Answer::from(second).fails(3, "HubBusy", &["in use by process"]);
    service.stop();
}
