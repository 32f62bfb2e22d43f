//! Bad input: one clear error that says what to do, the right exit code, nothing lost, no data in the message.

use std::fs;

use qihui_consent::signing::SigningKey;

use crate::support::{Answer, Lab, qihui, query, request};

/// Checks that nothing an error says names the enterprise.
#[track_caller]
pub fn says_nothing_of(answer: &Answer, subject: &str) {
    assert!(
        !answer.stderr.contains(subject) && !answer.stdout.contains(subject),
        "{answer:?}"
    );
}

#[test]
fn the_command_line_is_explained() {
    let lab = Lab::bare();
    lab.run(&["frobnicate"])
        .fails(2, "BadUsage", &["frobnicate"]);
    lab.json(&["query", "SELECT 1"])
        .fails(2, "BadUsage", &["--org", "--purpose"]);
    lab.run(&["org", "add", "a b", "--name", "x", "--kind", "bank"])
        .fails(2, "BadUsage", &["A-Z"]);
    lab.run(&[]).fails(2, "BadUsage", &["--help"]);
    let help = lab.run(&["consent", "sign", "--help"]).done();
    assert!(help.stdout.contains("outside the data directory") && help.stderr.is_empty());
    assert!(lab.json(&["--help"]).done().json()["help"].is_string());
    lab.run(&["org", "list"]).fails(1, "NotAHub", &["init"]);
}

#[test]
fn the_configuration_is_checked() {
    let lab = Lab::empty();
    let config = lab.hub().join("qihui.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, "[query]\nsecond = 5\n").unwrap();
    lab.json(&["org", "list"])
        .fails(2, "BadConfiguration", &["second", "qihui.toml"]);
    fs::write(&config, good).unwrap();
    let mut by_environment = lab.command(&["org", "list"]);
    let answer: Answer = by_environment
        .env("QIHUI_QUERY__SECOND", "5")
        .output()
        .unwrap()
        .into();
    answer.fails(2, "BadConfiguration", &["second"]);
    lab.run(&["org", "list", "--config", "none.toml"])
        .fails(2, "BadConfiguration", &["none.toml"]);
    lab.run(&["org", "list"]).done();
}

#[test]
fn a_hub_is_not_made_twice_or_over_something() {
    let lab = Lab::empty();
    lab.run(&["init"])
        .fails(1, "HubExists", &["nothing was changed"]);
    let other = Lab::bare();
    fs::create_dir(other.hub()).unwrap();
    fs::write(other.hub().join("precious"), "x").unwrap();
    other
        .run(&["init"])
        .fails(1, "DirectoryNotEmpty", &["empty directory"]);
    fs::remove_file(other.hub().join("precious")).unwrap();
    other.run(&["init"]).done();
    let third = Lab::bare();
    third
        .run(&["init", "--origin", "two words"])
        .fails(1, "LogKey", &["origin"]);
    assert_eq!(
        fs::read_dir(third.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn queries_that_cannot_be_answered() {
    let lab = Lab::world();
    for (sql, exit, code, words) in [
        (
            "SELECT * FROM nosuch",
            1,
            "UnknownDataset",
            &["nosuch", "catalog list"][..],
        ),
        (
            "SELECT nosuch FROM vat_declaration",
            1,
            "UnknownColumn",
            &["nosuch"],
        ),
        (
            "SELECT jxse FROM vat_declaration",
            1,
            "ColumnNotInAgreement",
            &["jxse", "not in your agreement"],
        ),
        (
            "SELECT * FROM tax_levy",
            1,
            "DatasetNotInAgreement",
            &["tax_levy", "city_bank"],
        ),
        ("SELEC 1", 1, "BadSql", &[]),
        ("SELECT 1; SELECT 2", 1, "BadSql", &["one statement"]),
        ("CREATE TABLE t (a int)", 1, "NotAllowed", &["SELECT"]),
        ("DROP TABLE vat_declaration", 1, "NotAllowed", &[]),
        (
            "INSERT INTO vat_declaration VALUES (1)",
            1,
            "NotAllowed",
            &["INSERT"],
        ),
        (
            "COPY vat_declaration TO '/tmp/x.csv'",
            1,
            "NotAllowed",
            &["COPY"],
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            1,
            "NotAllowed",
            &["EXTERNAL"],
        ),
        (
            "SELECT * FROM \"/etc/passwd\"",
            1,
            "UnknownDataset",
            &["/etc/passwd"],
        ),
        (
            "SELECT * FROM 'file:///etc/passwd'",
            1,
            "UnknownDataset",
            &["file:///etc/passwd"],
        ),
        ("SHOW TABLES", 1, "NotAllowed", &["SHOW"]),
    ] {
        let answer = lab.bank(sql);
        answer.fails(exit, code, words);
        says_nothing_of(&answer, &lab.subject());
    }
    let sql = "SELECT count(*) FROM vat_declaration";
    lab.run(&query("nobody", "policy.matching", &[sql])).fails(
        3,
        "UnknownOrganisation",
        &["nobody"],
    );
    let unassigned = query("city_bank", "credit.scoring", &[sql]);
    lab.run(&unassigned)
        .fails(3, "PurposeNotAssigned", &["credit.scoring"]);
    // An assignment without agreement opens public data, and nothing else.
    let open = query("city_bank", "matching.supply_demand", &[]);
    lab.json(&[&open[..], &["SELECT count(*) FROM enterprise_registration"]].concat())
        .done();
    lab.run(&[&open[..], &[sql]].concat())
        .fails(1, "DatasetNotInAgreement", &["vat_declaration"]);
    // A subject is named by a valid code that the hub knows; the code is not repeated.
    let subject = query("city_bank", "policy.matching", &[sql, "--subject"]);
    let answer = lab.run(&[&subject[..], &["913300001429116510"]].concat());
    answer.fails(2, "UsccCheckDigit", &[]);
    says_nothing_of(&answer, "913300001429116510");
    lab.run(&[&subject[..], &["91330000142911651L"]].concat())
        .fails(3, "InvalidConsentUse", &["subject 1"]);
    let binary = ["--format", "parquet"];
    lab.json(&[&open[..], &["SELECT 1"], &binary[..]].concat())
        .fails(2, "BadUsage", &["--output"]);
}

#[test]
fn refusals_are_in_the_log() {
    let lab = Lab::world();
    let before = lab.json(&["audit", "verify"]).done().json()["entries"]
        .as_u64()
        .unwrap();
    lab.bank("SELECT * FROM nosuch")
        .fails(1, "UnknownDataset", &[]);
    lab.bank("SELECT jxse FROM vat_declaration")
        .fails(1, "ColumnNotInAgreement", &[]);
    let after = lab.json(&["audit", "verify"]).done().json()["entries"]
        .as_u64()
        .unwrap();
    assert_eq!(after, before + 2);
}

#[test]
fn consents_that_cannot_be_asked_for() {
    let lab = Lab::world();
    let subject = lab.subject();
    let good = request(&subject, "uscc, xse", 90);
    for (bad, exit, code, words) in [
        (
            good.replace("expires", "expiry"),
            2,
            "MalformedConsent",
            &["expiry"][..],
        ),
        (format!("{good}{good}"), 2, "MalformedConsent", &[]),
        (
            good.replace("[QUERY]", "[]"),
            2,
            "MalformedConsent",
            &["actions"],
        ),
        (
            request(&subject, "'*'", 90),
            2,
            "WildcardColumn",
            &["one by one"],
        ),
        (
            request(&subject, "uscc, nosuch", 90),
            1,
            "UnknownColumn",
            &["nosuch", "catalog show"],
        ),
        (
            request(&subject, "bsrxm", 90),
            1,
            "ColumnNeverOpened",
            &["L4"],
        ),
        (
            request(&subject, "uscc", 800),
            1,
            "ExpiryBeyondCap",
            &["730", "policy.matching"],
        ),
        (
            request(&subject, "uscc", -1),
            1,
            "InvalidValidity",
            &["after `starts`"],
        ),
        (
            request(&subject, "uscc", -300).replace("actions", "starts: 2025-12-01\nactions"),
            1,
            "InvalidValidity",
            &["past"],
        ),
        (
            good.replace("from: 2024", "from: 2014"),
            1,
            "PurposeCapExceeded",
            &["1827"],
        ),
        (
            good.replace("city_bank", "nobody"),
            1,
            "UnknownOrganisation",
            &["nobody"],
        ),
        (
            good.replace("policy.matching", "policy.nothing"),
            1,
            "UnknownPurpose",
            &["policy.nothing"],
        ),
        (
            good.replace(&subject, "913300001429116510"),
            1,
            "InvalidPrincipal",
            &[],
        ),
        (
            good.replace("vat_declaration", "vat"),
            1,
            "UnknownDataset",
            &["vat"],
        ),
    ] {
        let file = lab.write("bad.yaml", bad);
        let answer = lab.json(&["consent", "request", &file]);
        answer.fails(exit, code, words);
        says_nothing_of(&answer, &subject);
    }
    lab.run(&["consent", "request", "none.yaml"])
        .fails(1, "FileUnreadable", &["none.yaml"]);
    lab.run(&["consent", "show", "c-none"])
        .fails(1, "UnknownConsent", &["consent list"]);
    assert_eq!(
        lab.json(&["consent", "list"]).done().json()["consents"],
        serde_json::json!([])
    );
}

#[test]
fn signatures_that_do_not_count() {
    let lab = Lab::world();
    let file = lab.write("request.yaml", request(&lab.subject(), "uscc, xse", 90));
    let requested = lab.json(&["consent", "request", &file]).done().json();
    let id = requested["consent_id"].as_str().unwrap();
    // The key of somebody else.
    lab.run(&["keygen", "--out", &lab.file("other.key")]).done();
    let other = [
        "consent",
        "sign",
        id,
        "--as",
        "owner",
        "--key",
        &lab.file("other.key"),
    ];
    lab.json(&other).fails(3, "SignatureMismatch", &["owner"]);
    let nobody = [
        "consent",
        "sign",
        id,
        "--as",
        "nobody",
        "--key",
        &lab.file("owner.key"),
    ];
    lab.run(&nobody).fails(1, "UnknownSignatory", &["nobody"]);
    // A key has no place in the hub.
    fs::copy(lab.file("owner.key"), lab.hub().join("inbox/owner.key")).unwrap();
    let inside = lab.hub().join("inbox/owner.key");
    let inside = [
        "consent",
        "sign",
        id,
        "--as",
        "owner",
        "--key",
        inside.to_str().unwrap(),
    ];
    lab.run(&inside).fails(1, "KeyInsideHub", &["elsewhere"]);
    lab.run(&[
        "keygen",
        "--out",
        lab.hub().join("inbox/new.key").to_str().unwrap(),
    ])
    .fails(1, "KeyInsideHub", &[]);
    lab.run(&["keygen", "--out", &lab.file("owner.key")])
        .fails(1, "InvalidKey", &["exists"]);
    // Taking away with a wrong key takes nothing away; nobody can give without a key.
    lab.sign(id).done();
    let other = [
        "consent",
        "withdraw",
        id,
        "--as",
        "owner",
        "--key",
        &lab.file("other.key"),
    ];
    lab.run(&other).fails(3, "SignatureMismatch", &[]);
    assert_eq!(
        lab.json(&["consent", "show", id]).done().json()["state"],
        "ACTIVE"
    );
    lab.run(&["consent", "sign", id, "--as", "owner"])
        .fails(2, "BadUsage", &["--key"]);
}

/// A signature over another text: over another consent, and over the same at another moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_over_other_text_does_not_count() {
    use qihui_consent::ledger::ConsentOperation;
    use qihui_consent::signing::{Operation, SignedOperation};

    let lab = Lab::world();
    let ids: Vec<qihui_catalog::ConsentId> = ["uscc", "uscc, xse"]
        .iter()
        .map(|columns| {
            let file = lab.write("request.yaml", request(&lab.subject(), columns, 90));
            let requested = lab.json(&["consent", "request", &file]).done().json();
            requested["consent_id"].as_str().unwrap().parse().unwrap()
        })
        .collect();
    let key = SigningKey::read(&lab.path().join("owner.key"), &lab.hub()).unwrap();
    let hub = crate::owner::open(&lab.hub()).await.unwrap();
    let (ledger, catalog) = (hub.ledger(), hub.catalog().unwrap());
    let text = ledger
        .signing_text(catalog, &ids[0], Operation::Give, None)
        .await
        .unwrap()
        .text;
    for (id, text) in [
        (&ids[1], text.clone()),
        (&ids[0], text.replace("\"give\"", "\"pause\"")),
    ] {
        let signed = SignedOperation {
            consent_id: id.clone(),
            operation: Operation::Give,
            signatory: "owner".to_owned(),
            signature: key.sign(text.as_bytes()),
            narrowed: None,
        };
        let refused = ledger
            .operate(catalog, ConsentOperation::Signed(signed))
            .await
            .unwrap_err();
        let failure = qihui::Failure::from(refused);
        assert_eq!(
            (failure.code(), failure.kind().exit_code()),
            ("SignatureMismatch", 3)
        );
    }
}

#[test]
fn a_broken_catalogue_is_named_and_stops_no_withdrawal() {
    let lab = Lab::world();
    let id = lab.granted("uscc, xse");
    let path = lab.hub().join("catalog/contracts/tax_levy.yaml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        good.replace("status: active", "status: active\nstatuss: active"),
    )
    .unwrap();
    let checked = lab.json(&["catalog", "check"]);
    checked.fails(
        1,
        "CatalogUnknownKey",
        &["contracts/tax_levy.yaml", "statuss"],
    );
    assert_eq!(
        checked.json()["problems"][0]["file"],
        "contracts/tax_levy.yaml"
    );
    lab.bank("SELECT 1")
        .fails(1, "CatalogUnknownKey", &["tax_levy.yaml"]);
    assert_eq!(
        lab.json(&["consent", "withdraw", &id]).done().json()["state"],
        "WITHDRAWN"
    );
    fs::write(&path, good).unwrap();
    lab.run(&["catalog", "check"]).done();
}

#[test]
fn an_unwritable_answer_is_an_error() {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let status = qihui()
        .arg("--help")
        .stdout(full)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}
