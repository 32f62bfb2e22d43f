//! A full disk, as a limit on the size of files: nothing half-written, nothing lost, and work goes on once there is
//! room.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Answer, Lab, files};

/// Runs a command in which no file may grow beyond so many kibibytes.
fn limited(lab: &Lab, kibibytes: u64, arguments: &[&str]) -> Answer {
    let inner = lab.command(arguments);
    let script = format!("ulimit -f {kibibytes}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args()).current_dir(lab.path());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.output().unwrap().into()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn no_room_to_land() {
    let lab = Lab::empty();
    let feeds = lab.file("feeds");
    lab.run(&["synth", "--enterprises", "300", "--months", "6", "--ugly", "0.05", "--out", &feeds]).done();
    let run = ["feed", "run", "customs_declaration", "--from", &feeds, "--json"];
    let answer = limited(&lab, 24, &run);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("no space"), "{answer:?}");
    // With room again, everything lands as if nothing had happened.
    let ran = lab.run(&run).done().json();
    let other = Lab::empty();
    let untroubled = other.run(&["feed", "run", "customs_declaration", "--from", &feeds, "--json"]).done().json();
    let ran_read = &ran["feeds"][0]["read"];
    assert_eq!(ran_read, &untroubled["feeds"][0]["read"]);
    assert_eq!(ran["feeds"][0]["quarantined"], untroubled["feeds"][0]["quarantined"]);
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn no_room_to_record_an_access() {
    let lab = Lab::world();
    let journal = files(&lab.hub().join("log/journal")).pop().unwrap();
    let ledger = length(&lab.hub().join("ledger/ledger.db"));
    // The log has to be the larger of the two, so that the limit meets it first.
    while length(&journal) < ledger + 8192 {
        lab.bank("SELECT count(*) FROM vat_declaration").done();
    }
    let (before, limit) = (length(&journal), length(&journal) / 1024);
    let ask = ["query", "--org", "tax_bureau", "--purpose", "supervision.tax", "SELECT uscc FROM vat_declaration"];
    let answer = limited(&lab, limit, &ask);
    answer.fails(3, "LogUnavailable", &["nothing is released", "free space"]);
    assert_eq!(answer.stdout, "", "nothing was released");
    assert!(length(&journal) <= before + 1024);
    assert!(!lab.run(&ask).done().stdout.is_empty());
    lab.run(&["audit", "verify"]).done();
}

/// What takes away acts even when the log has no room; its entry follows.
#[test]
fn no_room_to_record_a_withdrawal() {
    let lab = Lab::world();
    let id = lab.granted("uscc, xse");
    let journal = files(&lab.hub().join("log/journal")).pop().unwrap();
    let ledger = ["ledger.db", "ledger.db-wal"].map(|name| lab.hub().join("ledger").join(name));
    let largest = ledger.iter().filter(|path| path.exists()).map(|path| length(path)).max().unwrap();
    while length(&journal) < largest + (128 << 10) {
        lab.bank("SELECT count(*) FROM vat_declaration").done();
    }
    let limit = length(&journal) / 1024;
    let answer = limited(&lab, limit, &["consent", "withdraw", &id, "--json"]);
    answer.fails(3, "LogUnavailable", &["what was taken away is"]);
    assert_eq!(lab.json(&["consent", "show", &id]).done().json()["state"], "WITHDRAWN");
    let seen = lab.bank("SELECT uscc FROM vat_declaration").done().json();
    assert_eq!(seen["rows"], serde_json::json!([]));
    lab.run(&["audit", "verify"]).done();
}
