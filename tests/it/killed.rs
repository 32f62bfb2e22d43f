//! Feed runs, killed at random points and resumed: the table is the same, and the log has every run once (ING-2).

use std::process::Stdio;
use std::time::{Duration, Instant};

use qihui::hub::Hub;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::support::{Lab, copy};

/// How often the process is killed.
const KILLS: u32 = 25;
/// Small chunks, so that a run is many commits.
const CHUNK: (&str, &str) = ("QIHUI_INGEST__CHUNK_ROWS", "25");

fn feeds() -> Lab {
    let lab = Lab::empty();
    lab.synth("60", "6", "0.1");
    lab.run(&[
        "org",
        "add",
        "tax_bureau",
        "--name",
        "Tax",
        "--kind",
        "department",
    ])
    .done();
    let statute = crate::support::agreement("tax_bureau", "supervision.tax", "{statute: {law: x}}");
    let file = lab.write("tax.yaml", statute);
    lab.run(&["agreement", "add", &file]).done();
    lab
}

fn table(lab: &Lab) -> Value {
    let sql = "SELECT * FROM vat_declaration ORDER BY pzxh";
    lab.tax(sql).done().json()["rows"].clone()
}

/// The runs of the feed in the log: number and table version.
async fn runs(lab: &Lab) -> Vec<i64> {
    let hub: Hub = crate::owner::open(&lab.hub()).await.unwrap();
    let entries = hub.log().scan(0..u64::MAX).map(Result::unwrap);
    entries
        .filter(|entry| entry.leaf.kind == "feed.run")
        .map(|entry| {
            serde_json::from_slice::<Value>(&entry.body).unwrap()["run"]
                .as_i64()
                .unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ing_2_killed_anywhere_and_resumed_the_table_is_the_same() {
    let lab = feeds();
    let untroubled = Lab::bare();
    copy(lab.path(), untroubled.path());
    let source = lab.file("feeds");
    let run = [
        "feed",
        "run",
        "vat_declaration",
        "--from",
        &source,
        "--json",
    ];
    let mut plain = untroubled.command(&run);
    let begun = Instant::now();
    let report: Value = {
        let output = plain.env(CHUNK.0, CHUNK.1).output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let whole = begun.elapsed();
    let mut chance = SmallRng::seed_from_u64(7);
    let mut killed = 0;
    for _ in 0..KILLS {
        let mut command = lab.command(&run);
        command
            .env(CHUNK.0, CHUNK.1)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + whole.mul_f64(chance.random_range(0.05..1.0));
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= until => break None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if ended.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        }
    }
    assert!(killed > 0, "every process ended before it was killed");
    let last = lab.command(&run).env(CHUNK.0, CHUNK.1).output().unwrap();
    assert!(
        last.status.success(),
        "{}",
        String::from_utf8_lossy(&last.stderr)
    );
    // Without the rows in the message.
    assert!(table(&lab) == table(&untroubled), "the tables differ");
    let waiting = |lab: &Lab| {
        lab.json(&["feed", "quarantine", "vat_declaration"])
            .done()
            .json()["total"]
            .clone()
    };
    assert_eq!(waiting(&lab), report["feeds"][0]["quarantined"]);
    assert_eq!(waiting(&lab), waiting(&untroubled));
    // Old files again, newest first: nothing is undone.
    let mut files: Vec<_> = crate::support::files(&lab.path().join("feeds"))
        .into_iter()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vat_"))
        })
        .collect();
    files.reverse();
    for file in files {
        lab.run(&[
            "feed",
            "run",
            "vat_declaration",
            "--from",
            file.to_str().unwrap(),
        ])
        .done();
    }
    assert!(
        table(&lab) == table(&untroubled),
        "an old file changed the table"
    );
    let recorded = runs(&lab).await;
    let consecutive: Vec<i64> = (1..=i64::try_from(recorded.len()).unwrap()).collect();
    assert_eq!(
        recorded, consecutive,
        "every run is in the log, once and in order"
    );
    lab.run(&["audit", "verify"]).done();
}

/// A query that is killed is closed at the next start, and touches its whole scope.
#[tokio::test(flavor = "multi_thread")]
async fn gate_3_an_interrupted_access_is_closed_at_the_next_start() {
    let lab = Lab::world();
    let subject = lab.subject();
    let before = lab.json(&["audit", "accesses", &subject]).done().json();
    {
        // A decision without its end, as a killed process leaves it.
        let hub = crate::owner::open(&lab.hub()).await.unwrap();
        let body = br#"{"access_id":"x","org":"city_bank","purpose":"policy.matching","datasets":[{"dataset":"vat_declaration","columns":["xse"]}]}"#;
        let subjects = qihui_audit::Subjects::none();
        hub.log()
            .append(&qihui_audit::Entry {
                kind: "access.decided",
                body,
                subjects,
            })
            .unwrap();
    }
    let after = lab.json(&["audit", "accesses", &subject]).done().json();
    let (before, after) = (
        before["accesses"].as_array().unwrap(),
        after["accesses"].as_array().unwrap(),
    );
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after.last().unwrap()["decision"], "interrupted");
    let again = lab.json(&["audit", "accesses", &subject]).done().json();
    assert_eq!(
        again["accesses"].as_array().unwrap().len(),
        after.len(),
        "it is closed once"
    );
}

/// An event that the ledger committed is in the log after the next start, once: whether its process died before it
/// was handed over or right behind.
#[tokio::test(flavor = "multi_thread")]
async fn aud_3_events_reach_the_log_once_after_a_crash() {
    let lab = Lab::empty();
    let org = |id: &str| qihui_consent::ledger::Organisation {
        id: id.parse().unwrap(),
        name: id.to_owned(),
        kind: qihui_consent::ledger::OrganisationKind::Bank,
    };
    let size = |lab: &Lab| {
        lab.json(&["audit", "verify"]).done().json()["entries"]
            .as_u64()
            .unwrap()
    };
    let before = size(&lab);
    {
        let hub = crate::owner::open(&lab.hub()).await.unwrap();
        hub.ledger().add_org(org("before")).await.unwrap();
    }
    lab.run(&["org", "list"]).done();
    assert_eq!(size(&lab), before + 1);
    {
        let hub = crate::owner::open(&lab.hub()).await.unwrap();
        hub.ledger().add_org(org("behind")).await.unwrap();
        let waiting = hub.ledger().pending(10).await.unwrap();
        let subjects = qihui_audit::Subjects::none();
        let entry = qihui_audit::Entry {
            kind: &waiting[0].kind,
            body: &waiting[0].body,
            subjects,
        };
        hub.log().append(&entry).unwrap();
    }
    for _ in 0..2 {
        let listed = lab.json(&["org", "list"]).done().json();
        assert_eq!(listed["orgs"].as_array().map(Vec::len), Some(2));
        assert_eq!(size(&lab), before + 2);
    }
}
