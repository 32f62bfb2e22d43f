//! Questions that are refused before the gate is asked: whoever asks them is known, so each is an access denied (AUD-3).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::{Value, json};

use super::shared::{ENDLESS, Reply, Service, access_id, ask_bank, ask_tax, bare};
use super::story::proven;
use crate::owner;
use crate::support::{Answer, Lab, query};

/// A word of requests that no entry may hold.
const CANARY: &str = "CANARY-OF-THE-REQUEST";

/// What the log of a hub that nobody has open says of accesses that were denied, in order.
fn denied(lab: &Lab) -> Vec<Value> {
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
        &json!({ "purpose": "policy.matching", "sql": sql, "subjects": [CANARY] }),
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
    // The enterprise that was named hears of it, with the proof, and under the name of who it was.
    let listed = proven(&service, &owner, &subject);
    let last = listed.last().unwrap();
    assert_eq!(
        (&last["org"], &last["decision"]),
        (&json!("city_bank"), &json!("denied"))
    );
    assert_eq!(
        (&last["purpose"], &last["rows"]),
        (&json!("supervision.tax"), &json!(0))
    );
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
    let before = denied(&lab).len();
    let words = query("city_bank", "policy.matching", &[]);
    let mut command = lab.command(&words);
    command.arg(OsStr::from_bytes(b"SELECT 'CANARY-OF-THE-REQUEST\xff'"));
    let answer: Answer = command.output().unwrap().into();
    answer.fails(2, "BadUsage", &["UTF-8"]);
    let file = lab.file("answer");
    for (more, code) in [
        (["--action", "view", "--output", &file], "NotForViewing"),
        (["--subject", CANARY, "--format", "csv"], "UsccLength"),
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
    assert_eq!(entries[before]["statement"], Value::Null);
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
