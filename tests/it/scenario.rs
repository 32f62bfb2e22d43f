//! The whole story through the real binary: feeds in, grants decide, SQL out, and a log that proves it.

use std::fs;

use qihui_synth::Manifest;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::support::{Lab, copy, files, query, request};

fn rows(answer: &Value) -> usize {
    answer["rows"].as_array().unwrap().len()
}

/// Every record of generated feeds ends as the generator's manifest says (ING-1), and again: unchanged (ING-2).
#[test]
fn feeds_are_taken_in_completely_and_once() {
    let lab = Lab::empty();
    let feeds = lab.synth("60", "4", "0.15");
    let text = fs::read_to_string(lab.path().join("feeds/manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    let dry = lab
        .json(&["feed", "run", "--all", "--from", &feeds, "--dry-run"])
        .done()
        .json();
    let first = lab
        .json(&["feed", "run", "--all", "--from", &feeds])
        .done()
        .json();
    assert_eq!(
        dry["feeds"], first["feeds"],
        "a dry run says what a run then does"
    );
    let sent = || manifest.feeds.iter().filter(|feed| !feed.files.is_empty());
    assert_eq!(first["feeds"].as_array().unwrap().len(), sent().count());
    for feed in sent() {
        let ran = by_feed(&first, &feed.feed);
        let expected = json!({
            "feed": feed.feed,
            "read": feed.records,
            "landed": feed.expected.landed,
            "unchanged": feed.expected.unchanged,
            "superseded": 0,
            "retracted": feed.expected.retracted,
            "quarantined": feed.expected.quarantined,
        });
        assert_eq!(*ran, expected);
        let waiting = lab.json(&["feed", "quarantine", &feed.feed]).done().json();
        assert_eq!(waiting["total"], feed.expected.quarantined);
    }
    let second = lab
        .json(&["feed", "run", "--all", "--from", &feeds])
        .done()
        .json();
    for ran in second["feeds"].as_array().unwrap() {
        assert_eq!(ran["landed"], 0, "{ran}");
        let sum = ["unchanged", "superseded", "retracted", "quarantined"]
            .map(|key| ran[key].as_u64().unwrap());
        assert_eq!(ran["read"], sum.iter().sum::<u64>());
    }
}

fn by_feed<'a>(answer: &'a Value, feed: &str) -> &'a Value {
    answer["feeds"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["feed"] == feed)
        .unwrap()
}

#[test]
fn an_enterprise_decides_what_a_bank_sees() {
    let lab = Lab::world();
    let subject = lab.subject();
    let all = "SELECT uscc, skssqq, xse, ynse FROM vat_declaration ORDER BY uscc, skssqq";
    let truth = lab.tax(&format!(
        "SELECT uscc, skssqq, xse, ynse FROM vat_declaration WHERE uscc = '{subject}'"
    ));
    let truth = rows(&truth.done().json());
    assert!(truth >= 2);

    // Nothing is seen without a grant; asking is an ordinary question.
    assert_eq!(rows(&lab.bank(all).done().json()), 0);

    // The preview shows the cells, and opens nothing.
    let file = lab.write(
        "request.yaml",
        request(&subject, "uscc, skssqq, xse, ynse", 90),
    );
    let requested = lab.json(&["consent", "request", &file]).done().json();
    let id = requested["consent_id"].as_str().unwrap();
    assert_eq!(requested["state"], "REQUESTED");
    let preview = lab.json(&["consent", "preview", id]).done().json();
    assert_eq!(rows(&preview["datasets"][0]), truth);
    assert_eq!(rows(&lab.bank(all).done().json()), 0);

    // The grant opens exactly that.
    assert_eq!(lab.sign(id).done().json()["state"], "ACTIVE");
    let seen = lab.bank(all).done().json();
    assert_eq!(rows(&seen), truth);
    assert!(
        seen["rows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["uscc"] == subject.as_str())
    );
    let read = &seen["access"]["datasets"]["vat_declaration"];
    assert_eq!(
        (&read["enterprises"], &read["rows"]),
        (&json!(1), &json!(truth))
    );

    // Narrowed: the sales are withheld, and the answer says how many.
    let less = "scope: [{dataset: vat_declaration, columns: [uscc, skssqq, ynse], \
                data_range: {from: 2024-01-01, to: 2027-01-01}}]\n";
    let file = lab.write("less.yaml", less);
    let narrowed = lab.json(&["consent", "narrow", id, &file]).done().json();
    assert_eq!(
        (&narrowed["version"], &narrowed["state"]),
        (&json!(2), &json!("ACTIVE"))
    );
    let seen = lab.bank(all).done().json();
    assert_eq!(rows(&seen), truth);
    assert!(
        seen["rows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["xse"].is_null())
    );
    assert_eq!(
        seen["access"]["datasets"]["vat_declaration"]["withheld"]["xse"],
        truth
    );

    // Paused and resumed by the holder of the hub; withdrawn by the signatory, for good.
    lab.json(&["consent", "pause", id]).done();
    assert_eq!(rows(&lab.bank(all).done().json()), 0);
    assert_eq!(
        lab.json(&["consent", "resume", id]).done().json()["state"],
        "ACTIVE"
    );
    assert_eq!(rows(&lab.bank(all).done().json()), truth);
    let owner = ["--as", "owner", "--key", &lab.file("owner.key")];
    let withdrawn = lab
        .json(&[&["consent", "withdraw", id], &owner[..]].concat())
        .done()
        .json();
    assert_eq!(withdrawn["state"], "WITHDRAWN");
    assert_eq!(rows(&lab.bank(all).done().json()), 0);
    lab.sign(id).fails(1, "ConsentStateRefuses", &["WITHDRAWN"]);
    let named = query(
        "city_bank",
        "policy.matching",
        &["--subject", &subject, all],
    );
    lab.run(&named).fails(3, "ConsentRevoked", &["subject 1"]);

    // The enterprise reads who accessed what.
    let accesses = lab.json(&["audit", "accesses", &subject]).done().json();
    let accesses = accesses["accesses"].as_array().unwrap();
    let of_bank: Vec<_> = accesses
        .iter()
        .filter(|access| access["org"] == "city_bank")
        .collect();
    let decisions: Vec<_> = of_bank
        .iter()
        .map(|access| access["decision"].as_str().unwrap())
        .collect();
    assert_eq!(decisions, ["allowed", "allowed", "allowed", "denied"]);
    assert!(of_bank.iter().take(3).all(|access| access["rows"] == truth));
    assert!(
        of_bank[0]["columns"]
            .as_array()
            .unwrap()
            .contains(&json!("vat_declaration.xse"))
    );

    // Another enterprise reads of none of this.
    let sql =
        format!("SELECT uscc FROM vat_declaration WHERE uscc <> '{subject}' ORDER BY uscc LIMIT 1");
    let other = lab.tax(&sql).done().json()["rows"][0]["uscc"]
        .as_str()
        .unwrap()
        .to_owned();
    let accesses = lab.json(&["audit", "accesses", &other]).done();
    assert!(accesses.stdout.contains("tax_bureau") && !accesses.stdout.contains("city_bank"));
}

/// Whatever is said on stderr at whatever level, and whatever lies in the log, names no enterprise.
#[test]
fn diagnostics_and_log_hold_no_data() {
    let lab = Lab::world();
    let subject = lab.subject();
    let feeds = lab.file("feeds");
    let sql = format!("SELECT * FROM vat_declaration WHERE uscc = '{subject}'");
    let ask = query("tax_bureau", "supervision.tax", &[&sql]);
    let run = ["feed", "run", "--all", "--from", &feeds];
    let id = lab.granted("uscc, xse");
    let (preview, withdraw) = (["consent", "preview", &id], ["consent", "withdraw", &id]);
    for arguments in [
        &run[..],
        &ask,
        &preview,
        &withdraw,
        &["audit", "accesses", &subject],
    ] {
        let mut command = lab.command(arguments);
        let output = command
            .env("QIHUI_DIAGNOSTICS__LEVEL", "trace")
            .output()
            .unwrap();
        assert!(output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains(&subject), "{said}");
        if arguments[0] == "feed" {
            assert!(said.contains("feed source finished"), "{said}");
        }
    }
    for file in files(&lab.hub().join("log")) {
        let bytes = fs::read(&file).unwrap();
        let holds = |word: &str| {
            bytes
                .windows(word.len())
                .any(|window| window == word.as_bytes())
        };
        assert!(
            !holds(&subject) && !holds("city_bank"),
            "{}",
            file.display()
        );
    }
}

#[test]
fn the_log_proves_itself_and_a_forgery_is_caught() {
    let lab = Lab::world();
    let checkpoint = lab.run(&["audit", "checkpoint"]).done();
    let kept = lab.write("checkpoint", &checkpoint.stdout);
    lab.granted("uscc, xse");
    lab.bank("SELECT count(xse) FROM vat_declaration").done();
    let whole = lab
        .json(&["audit", "verify", "--checkpoint", &kept])
        .done()
        .json();
    assert_eq!(whole["ok"], true);

    // A proof that other tools of such logs can read.
    let index = whole["entries"].as_u64().unwrap() - 1;
    let proof = lab
        .json(&["audit", "proof", &index.to_string()])
        .done()
        .json();
    check_proof(&proof);
    lab.run(&["audit", "proof", "1000000"])
        .fails(1, "LogOutOfRange", &[]);

    // Any byte of the record, changed on a copy.
    let journal = files(&lab.hub().join("log"))
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    let journal = journal.unwrap();
    let relative = journal.strip_prefix(lab.hub()).unwrap();
    let length = fs::metadata(&journal).unwrap().len();
    for place in [length / 3, length / 2, length - 100] {
        let forged = Lab::bare();
        copy(&lab.hub(), &forged.hub());
        let mut bytes = fs::read(forged.hub().join(relative)).unwrap();
        bytes[usize::try_from(place).unwrap()] ^= 1;
        fs::write(forged.hub().join(relative), bytes).unwrap();
        let caught = forged.json(&["audit", "verify"]);
        caught.fails(1, "LogTampered", &["broken at"]);
        assert_eq!(caught.json()["ok"], false);
    }

    // A log put back to an earlier state is whole in itself, and does not continue a later checkpoint.
    let later = lab.write("later", lab.run(&["audit", "checkpoint"]).done().stdout);
    let world = Lab::world();
    world.run(&["audit", "verify"]).done();
    let put_back = Lab::bare();
    copy(&lab.hub(), &put_back.hub());
    fs::remove_dir_all(put_back.hub().join("log")).unwrap();
    copy(&world.hub().join("log"), &put_back.hub().join("log"));
    put_back
        .run(&["audit", "verify", "--checkpoint", &later])
        .fails(1, "LogTampered", &["missing"]);
    put_back
        .run(&["org", "list"])
        .fails(3, "LogTruncated", &["backup"]);
}

/// With the log, the ledger: what somebody changes in its file by hand is caught.
#[tokio::test]
async fn the_ledger_is_verified_with_the_log() {
    let lab = Lab::world();
    lab.granted_with("uscc, skssqq, xse", "actions: [STORE]");
    let keep = ["--action", "store", "SELECT xse FROM vat_declaration"];
    lab.run(&query("city_bank", "policy.matching", &keep))
        .done();
    let verified = lab.json(&["audit", "verify"]).done().json();
    let ledger = &verified["ledger"];
    assert_eq!(
        (&ledger["consents"], &ledger["holdings"]),
        (&1.into(), &1.into())
    );
    let log = lab.hub().join("log");
    let before = files(&log);
    for (change, words) in [
        (
            "UPDATE holding SET keep_until = keep_until + 1",
            "does not stand as",
        ),
        (
            "UPDATE grant_row SET expires = expires + 86400000",
            "opens something else",
        ),
        ("DELETE FROM holding", "is gone"),
    ] {
        let forged = Lab::bare();
        copy(&lab.hub(), &forged.hub());
        let options = SqliteConnectOptions::new()
            .filename(forged.hub().join("ledger/ledger.db"))
            .foreign_keys(false);
        let mut file = SqliteConnection::connect_with(&options).await.unwrap();
        let done = sqlx::query(change).execute(&mut file).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{change}");
        file.close().await.unwrap();
        let caught = forged.json(&["audit", "verify"]);
        caught.fails(1, "LedgerCorrupt", &[words, "restore it from a backup"]);
        let (caught, entries) = (caught.json(), &verified["entries"]);
        assert_eq!(
            (&caught["ok"], &caught["entries"]),
            (&false.into(), entries)
        );
    }
    assert_eq!(files(&log), before, "whoever verifies writes nothing");

    // Of a hub it is missed; a copy of the log and its keys has none.
    let gone = Lab::bare();
    copy(&lab.hub(), &gone.hub());
    fs::remove_dir_all(gone.hub().join("ledger")).unwrap();
    let missed = gone.json(&["audit", "verify"]);
    missed.fails(1, "LedgerMissing", &["backup"]);
    assert_eq!(missed.json()["ok"], false);
    let part = Lab::bare();
    for folder in ["log", "keys"] {
        copy(&lab.hub().join(folder), &part.hub().join(folder));
    }
    let verified = part.json(&["audit", "verify"]).done().json();
    assert_eq!(
        (&verified["ok"], &verified["ledger"]),
        (&true.into(), &Value::Null)
    );
}

fn check_proof(proof: &Value) {
    let hash = |text: &Value| -> [u8; 32] {
        hex::decode(text.as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap()
    };
    let path: Vec<_> = proof["proof"]
        .as_array()
        .unwrap()
        .iter()
        .map(hash)
        .collect();
    let (index, size) = (
        proof["index"].as_u64().unwrap(),
        proof["size"].as_u64().unwrap(),
    );
    let leaf = qihui_audit::leaf_hash(proof["leaf"].as_str().unwrap().as_bytes());
    assert_eq!(leaf, hash(&proof["leaf_hash"]));
    assert!(qihui_audit::check_inclusion(
        &path,
        size,
        &hash(&proof["root"]),
        index,
        &leaf
    ));
    assert!(!qihui_audit::check_inclusion(
        &path,
        size,
        &hash(&proof["root"]),
        index,
        &[0; 32]
    ));
}

/// A contract that was changed has no effect until it is recorded; then it has.
#[test]
fn a_changed_contract_waits_for_its_record() {
    let lab = Lab::world();
    let path = lab.hub().join("catalog/contracts/vat_declaration.yaml");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("version: 1.0.0", "version: 1.1.0");
    fs::write(&path, text).unwrap();
    let sql = "SELECT count(*) FROM vat_declaration";
    lab.tax(sql)
        .fails(3, "ContractNotRecorded", &["vat_declaration"]);
    let feeds = lab.file("feeds");
    let feed = ["feed", "run", "vat_declaration", "--from", &feeds];
    lab.run(&feed).fails(
        3,
        "ContractNotRecorded",
        &["1.1.0", "catalog check --record"],
    );
    let checked = lab.json(&["catalog", "check"]).done().json();
    assert_eq!(checked["unrecorded"][0]["id"], "vat_declaration");
    let recorded = lab.json(&["catalog", "check", "--record"]).done().json();
    assert_eq!(recorded["recorded"][0]["version"], "1.1.0");
    lab.tax(sql).done();
    lab.run(&feed).done();
}

/// What was decided and not ended is closed at the next start, and nothing of a killed command is lost.
#[test]
fn the_answer_reaches_files_whole() {
    let lab = Lab::world();
    let target = lab.file("answer.csv");
    let ask = query(
        "tax_bureau",
        "supervision.tax",
        &["--format", "csv", "--output", &target],
    );
    lab.run(&[&ask[..], &["SELECT uscc, xse FROM vat_declaration"]].concat())
        .done();
    let before = fs::read_to_string(&target).unwrap();
    assert!(before.starts_with("uscc,xse\n"));
    // A query that fails half-way leaves the file as it was.
    let bad = "SELECT uscc, 1 / (count(*) - count(*)) FROM vat_declaration GROUP BY uscc";
    lab.run(&[&ask[..], &[bad]].concat())
        .fails(1, "DivisionByZero", &[]);
    assert_eq!(fs::read_to_string(&target).unwrap(), before);
    assert!(fs::read_dir(lab.path()).unwrap().all(|entry| {
        !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".qihui")
    }));
}
