//! A full disk, as a limit on the size of files: nothing half-written, nothing lost, and work goes on once there is
//! room.

use std::fs;
use std::path::Path;
use std::process::Command;

use qihui_catalog::Uscc;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::{Answer, Lab, files, query};

/// Runs a command in which no file may grow beyond so many kibibytes.
fn limited(lab: &Lab, kibibytes: u64, arguments: &[&str]) -> Answer {
    let inner = lab.command(arguments);
    let script = format!("ulimit -f {kibibytes}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("bash");
    shell
        .arg("-c")
        .arg(script)
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(lab.path());
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

/// Registrations with a long text each, which no encoding makes much smaller: the table is larger than the ledger.
fn long_texts(rows: u32) -> String {
    let mut chance = SmallRng::seed_from_u64(5);
    let mut text = "uscc,ent_name,est_date,ent_type,reg_capital_wan,reg_capital_currency,business_scope,province,city,\
                    reg_division_code\n"
        .to_owned();
    for row in 0..rows {
        let uscc = Uscc::from_parts('9', '1', "330100", &format!("{row:08}")).unwrap();
        let scope: String = (0..7000)
            .map(|_| char::from_u32(chance.random_range(0x4e00..0x9fa5)).unwrap())
            .collect();
        text += &format!("{uscc},公司{row},2000-01-01,,1,CNY,{scope},,,330100\n");
    }
    text
}

#[test]
fn no_room_to_land() {
    let lab = Lab::empty();
    let file = lab.write("enterprises.csv", long_texts(80));
    let run = ["feed", "run", "registry_csv", "--from", &file, "--json"];
    let answer = limited(&lab, 600, &run);
    answer.fails(1, "NoSpace", &["free some"]);
    // With room again, everything lands as if nothing had happened.
    let ran = lab.run(&run).done().json();
    let counts =
        ["read", "landed", "quarantined"].map(|key| ran["feeds"][0][key].as_u64().unwrap());
    assert_eq!(counts, [80, 80, 0]);
    lab.run(&["audit", "verify"]).done();
}

/// The quarantine is written before the commit that relies on it; without room for it, nothing lands.
#[test]
fn no_room_for_the_quarantine() {
    let lab = Lab::empty();
    let spoilt = long_texts(80).replace("2000-01-01", "2000-13-01");
    let file = lab.write("enterprises.csv", spoilt);
    let run = ["feed", "run", "registry_csv", "--from", &file, "--json"];
    limited(&lab, 600, &run).fails(1, "NoSpace", &["nothing is lost"]);
    let ran = lab.run(&run).done().json();
    assert_eq!(ran["feeds"][0]["quarantined"], 80);
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
    let ask = query(
        "tax_bureau",
        "supervision.tax",
        &["SELECT uscc FROM vat_declaration"],
    );
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
    let largest = ledger
        .iter()
        .filter(|path| path.exists())
        .map(|path| length(path))
        .max()
        .unwrap();
    while length(&journal) < largest + (128 << 10) {
        lab.bank("SELECT count(*) FROM vat_declaration").done();
    }
    let limit = length(&journal) / 1024;
    let answer = limited(&lab, limit, &["consent", "withdraw", &id, "--json"]);
    answer.fails(3, "LogUnavailable", &["what was taken away is"]);
    assert_eq!(
        lab.json(&["consent", "show", &id]).done().json()["state"],
        "WITHDRAWN"
    );
    let seen = lab.bank("SELECT uscc FROM vat_declaration").done().json();
    assert_eq!(seen["rows"], serde_json::json!([]));
    lab.run(&["audit", "verify"]).done();
}
