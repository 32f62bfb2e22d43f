//! Questions that are refused before the gate is asked: whoever asks them is known, so each is an access denied (AUD-3).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::{Value, json};

use super::shared::{ENDLESS, Reply, Service, access_id, ask_bank, ask_tax, bare};
use super::story::proven;
use super::subscriptions::{subscribe, topic};
use crate::owner;
use crate::support::{Answer, Lab, query};

/// A word of requests that no entry may hold.
const CANARY: &str = "CANARY-OF-THE-REQUEST";

/// What the log of a hub that nobody has open says of accesses that were denied, in order.
pub fn denied(lab: &Lab) -> Vec<Value> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let hub = owner::open(&lab.hub()).await.unwrap();
        let entries = hub.log().scan(0..hub.log().size()).map(Result::unwrap);
        let bodies: Vec<Vec<u8>> = entries
            .filter(|entry| entry.leaf.kind == "access.denied")
            .map(|entry| entry.body)
            .collect();
        hub.close().await;
        let said = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
        assert!(bodies.iter().all(|body| !said(body).contains(CANARY)));
        let read = |body: &Vec<u8>| serde_json::from_slice(body).unwrap();
        bodies.iter().map(read).collect()
    })
}

/// What an entry says besides the name that it gives the access.
fn told(entry: &Value) -> Value {
    let mut entry = entry.clone();
    let access = entry.as_object_mut().unwrap().remove("access_id");
    assert_eq!(access.unwrap().as_str().unwrap().len(), 32);
    entry
}

/// The entry of a question of which only this is known.
fn of(who: (&str, Option<&str>), read: (Option<&str>, Option<&str>), code: &str) -> Value {
    json!({
        "principal": who.0, "org": who.1, "purpose": read.0, "action": read.1, "statement": null, "code": code,
    })
}

/// Who typed what was refused last: whoever holds the data directory.
#[track_caller]
fn holder(entries: &[Value]) -> &str {
    let name = entries.last().and_then(|last| last["principal"].as_str());
    name.filter(|name| name.starts_with("local:")).unwrap()
}

/// Whose denial an enterprise is shown, and for what.
#[track_caller]
fn denial_of(access: &Value) -> (&str, &str) {
    assert_eq!(access["decision"], "denied", "{access}");
    assert_eq!(access["rows"], 0, "{access}");
    let text = |key: &str| access[key].as_str().unwrap();
    (text("org"), text("purpose"))
}

#[test]
fn aud_3_a_question_that_is_refused_before_the_gate_is_an_entry() {
    let lab = Lab::world();
    let analyst = lab.analyst();
    let steward = lab.token(&["--role", "steward", "--subject", "ma"]);
    let (inspector, owner) = (lab.inspector(), lab.enterprise());
    let before = denied(&lab).len();
    let service = Service::start_with(&lab, &[("SERVE__QUERIES", "1")]);
    let ask = |token: &str, body: &Value| -> Reply {
        let call = service.post("/v1/queries", body.to_string());
        call.with_bearer(token).send()
    };
    let sql = format!("SELECT '{CANARY}'");
    let subject = lab.subject();
    // It claims to be another organisation's, which must not get into anybody's list.
    let foreign = json!({ "purpose": "supervision.tax", "org": "tax_bureau", "sql": sql, "subjects": [subject] });
    ask(&analyst, &foreign).fails(403, "OutOfReach");
    let other_purpose = json!({ "purpose": "credit.scoring", "sql": sql, "action": "store" });
    ask(&analyst, &other_purpose).fails(403, "OutOfReach");
    ask(
        &analyst,
        &json!({ "purpose": "policy.matching", "sql": sql, "subjects": [CANARY, subject] }),
    )
    .fails(400, "UsccLength");
    ask(&analyst, &json!({ "purpose": CANARY, "sql": sql })).fails(400, "BadRequest");
    let call = service
        .post("/v1/queries", ask_bank(&sql))
        .with("accept", "text/html");
    call.with_bearer(&analyst)
        .send()
        .fails(406, "NotAcceptable");
    ask(
        &steward,
        &json!({ "purpose": "policy.matching", "sql": sql }),
    )
    .fails(403, "OperationNotAllowed");
    let mut endless = bare(&service, &inspector, &ask_tax(ENDLESS));
    access_id(&mut endless);
    ask(
        &analyst,
        &json!({ "purpose": "policy.matching", "sql": sql }),
    )
    .fails(503, "TooBusy");
    // Anybody could fill the log with what nobody signed.
    let call = service.post("/v1/queries", ask_bank(&sql));
    call.send().fails(401, "TokenMissing");
    ask("nonsense", &json!({})).fails(401, "TokenInvalid");
    // The enterprise that was named hears of it, with the proof, and under the name of who it was; also where what was named
    // beside it is no enterprise.
    let listed = proven(&service, &owner, &subject);
    let [.., foreign, mistyped] = &listed[..] else {
        panic!("{listed:?}");
    };
    for (access, purpose) in [(foreign, "supervision.tax"), (mistyped, "policy.matching")] {
        assert_eq!(denial_of(access), ("city_bank", purpose), "{access}");
    }
    drop(endless);
    service.stop();
    lab.run(&["audit", "verify"]).done();

    let (bank, read) = (("token:an.lee", Some("city_bank")), Some("policy.matching"));
    let query = Some("QUERY");
    let expected = [
        of(bank, (Some("supervision.tax"), query), "OutOfReach"),
        of(bank, (Some("credit.scoring"), Some("STORE")), "OutOfReach"),
        of(bank, (read, query), "UsccLength"),
        of(bank, (None, None), "BadRequest"),
        of(bank, (None, None), "NotAcceptable"),
        of(("token:ma", None), (None, None), "OperationNotAllowed"),
        of(bank, (read, query), "TooBusy"),
    ];
    let entries = denied(&lab);
    let entries: Vec<Value> = entries[before..].iter().map(told).collect();
    assert_eq!(entries, expected);
}

#[test]
fn aud_3_a_question_that_the_command_line_refuses_is_an_entry() {
    let lab = Lab::world();
    let subject = lab.subject();
    let before = denied(&lab).len();
    let words = query("city_bank", "policy.matching", &[]);
    let mut command = lab.command(&words);
    command.arg(OsStr::from_bytes(b"SELECT 'CANARY-OF-THE-REQUEST\xff'"));
    let answer: Answer = command.output().unwrap().into();
    answer.fails(2, "BadUsage", &["UTF-8"]);
    let file = lab.file("answer");
    for (more, code) in [
        (["--action", "view", "--output", &file], "NotForViewing"),
        (["--subject", CANARY, "--subject", &subject], "UsccLength"),
    ] {
        let more = [&more[..], &["SELECT 1"]].concat();
        lab.run(&query("city_bank", "policy.matching", &more))
            .fails(2, code, &[]);
    }
    // A command line that is none asks nothing.
    lab.run(&["query", "--org", "city_bank", "SELECT 1"])
        .fails(2, "BadUsage", &["--purpose"]);
    let entries = denied(&lab);
    let codes: Vec<&str> = entries[before..]
        .iter()
        .map(|entry| entry["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["BadUsage", "NotForViewing", "UsccLength"]);
    assert_eq!(entries[before]["org"], "city_bank");
    let accesses = lab.json(&["audit", "accesses", &subject]).done().json();
    let last = accesses["accesses"].as_array().unwrap().last().unwrap();
    assert_eq!(denial_of(last), ("city_bank", "policy.matching"));
    assert_eq!(entries[before]["statement"], Value::Null);
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn aud_3_a_pull_that_is_refused_is_an_entry() {
    let lab = Lab::world();
    let file = lab.write("filings.yaml", topic("filings", "uscc, pzxh, xse"));
    lab.run(&["topic", "add", &file]).done();
    let bank = lab.subscriber();
    let tax = lab.subscriber_of("tax_bureau", "supervision.tax");
    let steward = lab.token(&["--role", "steward", "--subject", "ma"]);
    let before = denied(&lab).len();
    let service = Service::start(&lab);
    let path = subscribe(&service, &bank, "filings", "policy.matching");
    let pages = format!("{path}/pages");
    let pull = |token: &str, body: &str| {
        let call = service.post(&pages, body.to_owned());
        call.with_bearer(token).send()
    };
    pull(&tax, "").fails(403, "OutOfReach");
    pull(&steward, "").fails(403, "OperationNotAllowed");
    pull(&bank, "{").fails(400, "BadRequest");
    let cursor = json!({ "cursor": CANARY }).to_string();
    pull(&bank, &cursor).fails(400, "CursorInvalid");
    let unreadable = service.post("/v1/subscriptions/%ff/pages", "");
    let unreadable = unreadable.with_bearer(&bank).send();
    unreadable.fails(400, "BadRequest");
    // Nobody's, and one that brings nothing: neither is refused anything.
    service.post(&pages, "").send().fails(401, "TokenMissing");
    pull(&bank, "").is(200);
    let end = service.call("DELETE", &path).with_bearer(&bank);
    end.send().is(200);
    pull(&bank, "").fails(404, "UnknownSubscription");
    service.stop();
    let id = path.rsplit('/').next().unwrap();
    for id in [id, CANARY] {
        let pulled = lab.run(&["subscription", "pull", id]);
        pulled.fails(1, "UnknownSubscription", &[]);
    }

    let who = ("token:sub", Some("city_bank"));
    let (stream, read) = (Some("STREAM"), Some("policy.matching"));
    let ma = ("token:ma", None);
    let entries: Vec<Value> = denied(&lab)[before..].iter().map(told).collect();
    let local = holder(&entries);
    let expected = [
        of(
            ("token:sub", Some("tax_bureau")),
            (None, stream),
            "OutOfReach",
        ),
        of(ma, (None, stream), "OperationNotAllowed"),
        of(who, (read, stream), "BadRequest"),
        of(who, (read, stream), "CursorInvalid"),
        of(who, (None, stream), "BadRequest"),
        of(who, (read, stream), "UnknownSubscription"),
        of((local, who.1), (read, stream), "UnknownSubscription"),
        of((local, None), (None, stream), "UnknownSubscription"),
    ];
    assert_eq!(entries, expected);
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn aud_3_a_preview_that_is_refused_is_an_entry() {
    let lab = Lab::world();
    let subject = lab.subject();
    let id = lab.granted("uscc, xse");
    let (owner, analyst) = (lab.enterprise(), lab.analyst());
    let rival = ["--role", "enterprise", "--subject", "rival", "--uscc"];
    let other = lab.tax("SELECT max(uscc) AS uscc FROM vat_declaration");
    let other = other.done().json()["rows"][0]["uscc"].clone();
    let rival = lab.token(&[&rival[..], &[other.as_str().unwrap()]].concat());
    let before = denied(&lab).len();
    let service = Service::start_with(&lab, &[("SERVE__QUERIES", "1")]);
    let look = |token: &str, id: &str| {
        let path = format!("/v1/consents/{id}/preview");
        service.get(&path).with_bearer(token).send()
    };
    look(&rival, &id).fails(403, "OutOfReach");
    look(&analyst, &id).fails(403, "OperationNotAllowed");
    look(&owner, "c-0").fails(403, "OutOfReach");
    look(&owner, "CANARY-OF-THE-REQUEST%20").fails(400, "BadRequest");
    look(&owner, "%ff").fails(400, "BadRequest");
    let mut endless = bare(&service, &lab.inspector(), &ask_tax(ENDLESS));
    access_id(&mut endless);
    look(&owner, &id).fails(503, "TooBusy");
    drop(endless);
    service.stop();
    let preview = || lab.run(&["consent", "preview", &id]);
    // Before the gate: what is in force is not what the files say.
    let contract = lab.hub().join("catalog/contracts/vat_declaration.yaml");
    let text = fs::read_to_string(&contract).unwrap();
    let changed = text.replacen("version: ", "version: 9", 1);
    assert_ne!(changed, text);
    fs::write(&contract, changed).unwrap();
    preview().fails(3, "ContractNotRecorded", &[]);
    fs::write(&contract, text).unwrap();
    preview().done();
    // By the gate: what its table is made of cannot be read.
    let table = lab.hub().join("warehouse/vat_declaration");
    let away = lab.path().join("away");
    fs::create_dir(&away).unwrap();
    let parts: Vec<_> = fs::read_dir(&table).unwrap().map(Result::unwrap).collect();
    let parts = parts.iter().filter(|part| part.file_name() != "_delta_log");
    for part in parts.clone() {
        fs::rename(part.path(), away.join(part.file_name())).unwrap();
    }
    preview().fails(1, "WarehouseUnreadable", &[]);
    for part in parts {
        fs::rename(away.join(part.file_name()), part.path()).unwrap();
    }

    let entries: Vec<Value> = denied(&lab)[before..].iter().map(told).collect();
    let (looker, purpose) = (Some("consent_preview"), Some("policy.matching"));
    let bank = ("token:an.lee", Some("city_bank"));
    let (local, owner) = (holder(&entries), "token:owner");
    let mut by_the_gate = of(
        (local, looker),
        (purpose, Some("QUERY")),
        "WarehouseUnreadable",
    );
    by_the_gate["statement"] = json!("SELECT * FROM vat_declaration");
    let expected = [
        of(("token:rival", looker), (purpose, None), "OutOfReach"),
        of(bank, (None, None), "OperationNotAllowed"),
        of((owner, looker), (None, None), "OutOfReach"),
        of((owner, None), (None, None), "BadRequest"),
        of((owner, None), (None, None), "BadRequest"),
        of((owner, looker), (purpose, None), "TooBusy"),
        of((local, looker), (purpose, None), "ContractNotRecorded"),
        by_the_gate,
    ];
    assert_eq!(entries, expected);
    // The enterprise whose consent it is hears of each that named it.
    let accesses = lab.json(&["audit", "accesses", &subject]).done().json();
    let looked = accesses["accesses"].as_array().unwrap().iter();
    let looked = looked.filter(|one| one["org"] == "consent_preview");
    let looked: Vec<&str> = looked
        .map(|one| one["decision"].as_str().unwrap())
        .collect();
    assert_eq!(looked, ["denied", "denied", "denied", "allowed", "denied"]);
    lab.run(&["audit", "verify"]).done();
}

/// Connections that ask nonsense.
const FLOODING: usize = 40;
/// How often each does.
const TIMES: usize = 10;

/// Somebody who floods gets an entry for each, and is waited for by nobody: others are answered meanwhile.
#[test]
fn aud_3_a_flood_of_refused_questions_is_recorded_one_by_one() {
    let lab = Lab::world();
    let (analyst, inspector) = (lab.analyst(), lab.inspector());
    let before = denied(&lab).len();
    let service = Service::start(&lab);
    std::thread::scope(|scope| {
        for _ in 0..FLOODING {
            scope.spawn(|| {
                for _ in 0..TIMES {
                    let call = service.post("/v1/queries", "{").with_bearer(&analyst);
                    call.send().fails(400, "BadRequest");
                }
            });
        }
        let question = ask_tax("SELECT count(*) AS n FROM vat_declaration");
        for _ in 0..3 {
            let call = service.post("/v1/queries", question.clone());
            call.with_bearer(&inspector).send().is(200);
        }
    });
    service.stop();
    assert_eq!(denied(&lab).len() - before, FLOODING * TIMES);
    lab.run(&["audit", "verify"]).done();
}
