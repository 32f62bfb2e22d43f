//! Uses and holdings on the command line, and what is left of both when the process is killed.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Answer, Lab, query};

const SQL: &str = "SELECT uscc, skssqq, xse FROM vat_declaration ORDER BY skssqq";
/// How often the process is killed.
const KILLS: u32 = 16;

fn bank(lab: &Lab, more: &[&str]) -> Answer {
    lab.json(&query(
        "city_bank",
        "policy.matching",
        &[more, &[SQL]].concat(),
    ))
}

fn uses(lab: &Lab, consent: &str) -> Value {
    lab.json(&["consent", "show", consent]).done().json()["uses"].clone()
}

fn accesses(lab: &Lab) -> Vec<Value> {
    let listed = lab
        .json(&["audit", "accesses", &lab.subject()])
        .done()
        .json();
    listed["accesses"].as_array().unwrap().clone()
}

#[test]
fn uses_are_shown_and_refused_when_they_are_used_up() {
    let lab = Lab::world();
    let consent = lab.granted_with("uscc, skssqq, xse", "actions: [QUERY]\nmax_uses: 2");
    let subject = lab.subject();
    let named = ["--subject", subject.as_str()];
    assert_eq!(
        bank(&lab, &[]).done().json()["rows"],
        json!([]),
        "it counts only where it is named"
    );
    let explained = [&named[..], &["EXPLAIN SELECT xse FROM vat_declaration"]].concat();
    lab.run(&query("city_bank", "policy.matching", &explained))
        .done();
    assert_eq!(uses(&lab, &consent)["made"], 0);
    for left in [1, 0] {
        assert_ne!(bank(&lab, &named).done().json()["rows"], json!([]));
        assert_eq!(uses(&lab, &consent)["left"], left);
    }
    bank(&lab, &named).fails(3, "InvalidConsentUse", &["subject 1", "used up"]);
    // What is refused uses nothing; the enterprise sees each use beside its access.
    let told = uses(&lab, &consent);
    assert_eq!((&told["made"], &told["next"]), (&json!(2), &Value::Null));
    let used: Vec<Value> = accesses(&lab)
        .into_iter()
        .filter(|one| one.get("uses").is_some())
        .collect();
    assert_eq!(used.len(), 2);
    assert!(
        used.iter()
            .all(|one| one["uses"] == json!([consent]) && one["decision"] == "allowed")
    );
    let text = lab.run(&["consent", "show", &consent]).done();
    assert!(
        text.stdout
            .contains("used 2 times, 0 left; no more is possible"),
        "{}",
        text.stdout
    );
}

#[test]
fn a_file_is_for_keeping_only_where_it_is_asked_for() {
    let lab = Lab::world();
    let consent = lab.granted_with("uscc, skssqq, xse", "actions: [QUERY, VIEW, STORE]");
    let subject = lab.subject();
    let file = ["--format", "csv", "--output", "answer.csv"];
    let kept = bank(&lab, &[&file[..], &["--action", "store"]].concat()).done();
    let id = kept.json()["access"]["terms"]["holding"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        kept.stderr.contains(&format!("as holding {id}")),
        "{}",
        kept.stderr
    );
    let shown = lab.json(&["holding", "show", &id]).done().json();
    let bytes = std::fs::read(lab.path().join("answer.csv")).unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
    assert_eq!(shown["sha256"], json!(hex::encode(hash)));
    assert_eq!(shown["bytes"], json!(bytes.len()));
    // Without it the file is a working copy, and says so.
    let answer = bank(&lab, &file).done();
    assert_eq!(answer.json()["access"]["terms"]["keep"], "no");
    assert!(answer.stderr.contains("working copy"), "{}", answer.stderr);
    let view = ["--action", "view", "--subject", subject.as_str()];
    let refused = bank(&lab, &[&view[..], &file[..]].concat());
    refused.fails(2, "NotForViewing", &["file"]);
    bank(&lab, &["--action", "stream"]).fails(2, "BadUsage", &["stream"]);
    let listed = |more: &[&str]| {
        let listed = lab
            .json(&[&["holding", "list"], more].concat())
            .done()
            .json();
        listed["holdings"].as_array().unwrap().len()
    };
    assert_eq!((listed(&[]), listed(&["--subject", &subject])), (1, 1));
    assert_eq!(
        (listed(&["--org", "tax_bureau"]), listed(&["--overdue"])),
        (0, 0)
    );
    let withdrawn = lab.json(&["consent", "withdraw", &consent]).done().json();
    assert_eq!(withdrawn["holdings"][0]["holding_id"], json!(id));
    let statement = ["--statement", "the file is gone"];
    let deleted = lab.json(&[&["holding", "delete", &id], &statement[..]].concat());
    assert_eq!(deleted.done().json()["state"], "DELETED");
    let again = lab.run(&[&["holding", "delete", &id], &statement[..]].concat());
    again.fails(1, "HoldingDeleted", &[&id]);
    lab.run(&["holding", "show", "h-0"])
        .fails(1, "UnknownHolding", &[]);
    // An explanation is nothing to keep.
    let explain = ["--action", "store", "EXPLAIN SELECT 1"];
    lab.run(&query("city_bank", "policy.matching", &explain))
        .done();
    assert_eq!(listed(&[]), 1);
}

/// Killed anywhere: every use that was counted belongs to one access of the log, and every access that may have released
/// something for keeping has its holding.
#[test]
fn aud_5_killed_anywhere_each_access_has_its_use_and_its_holding_once() {
    let lab = Lab::world();
    let consent = lab.granted_with("uscc, skssqq, xse", "actions: [STORE]\nmax_uses: 14");
    let subject = lab.subject();
    let words = query(
        "city_bank",
        "policy.matching",
        &["--action", "store", "--subject", &subject, SQL],
    );
    let begun = Instant::now();
    lab.run(&words).done();
    let whole = begun.elapsed();
    let mut chance = SmallRng::seed_from_u64(11);
    let (mut killed, mut complete) = (0, 1);
    for _ in 0..KILLS {
        let mut command = lab.command(&words);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + whole.mul_f64(chance.random_range(0.2..1.1));
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= until => break None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        match ended {
            Some(status) => complete += u64::from(status.success()),
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
            }
        }
    }
    assert!(killed > 0, "every process ended before it was killed");
    let all = accesses(&lab);
    let made = uses(&lab, &consent)["made"].as_u64().unwrap();
    assert!(
        made >= complete && made <= 14,
        "{made} uses, {complete} answers"
    );
    let used = all
        .iter()
        .filter(|one| one["uses"] == json!([consent]))
        .count() as u64;
    assert_eq!(used, made, "a use is of one access, and in the log");
    let ended = |one: &&Value| one["decision"] != "denied" && one["action"] == "STORE";
    let kept: BTreeSet<String> = all
        .iter()
        .filter(ended)
        .map(|one| one["holding"].as_str().expect("a holding").to_owned())
        .collect();
    assert_eq!(
        kept.len(),
        all.iter().filter(ended).count(),
        "a holding is of one access"
    );
    let listed = lab
        .json(&["holding", "list", "--subject", &subject])
        .done()
        .json();
    let listed: BTreeSet<String> = listed["holdings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["holding_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kept, listed);
    // The uses run out, and no more than were granted were made.
    for _ in made..14 {
        lab.run(&words).done();
    }
    lab.run(&words).fails(3, "InvalidConsentUse", &["used up"]);
    assert_eq!(uses(&lab, &consent)["made"], 14);
    lab.run(&["audit", "verify"]).done();
}
