//! What an organisation keeps: recorded, seen by whom it is about, taken back, stated as deleted.

use qihui_consent::signing::SigningKey;
use serde_json::{Value, json};

use super::shared::{Reply, Service, ask_bank};
use crate::support::{Lab, query};

const SQL: &str = "SELECT uscc, skssqq, xse FROM vat_declaration ORDER BY skssqq";

fn asked(action: &str, subjects: &[String]) -> String {
    let mut question: Value = serde_json::from_str(&ask_bank(SQL)).unwrap();
    question["action"] = json!(action);
    question["subjects"] = json!(subjects);
    question.to_string()
}

fn ask(service: &Service, token: &str, action: &str, subjects: &[String]) -> Reply {
    let call = service.post("/v1/queries", asked(action, subjects));
    call.with_bearer(token).send()
}

fn get(service: &Service, token: &str, path: &str) -> Value {
    service.get(path).with_bearer(token).send().is(200).json()
}

/// Withdraws a consent as the enterprise does: with a signature over the text that is due.
fn withdraw(lab: &Lab, service: &Service, token: &str, consent: &str) -> Value {
    let key = SigningKey::read(&lab.path().join("owner.key"), &lab.hub()).unwrap();
    let path = format!("/v1/consents/{consent}/texts");
    let wish = json!({ "operation": "withdraw" }).to_string();
    let text = service
        .post(&path, wish)
        .with_bearer(token)
        .send()
        .is(200)
        .json();
    let signature = hex::encode(key.sign(text["text"].as_str().unwrap().as_bytes()));
    let signed = json!({ "operation": "withdraw", "signatory": "owner", "signature": signature });
    let path = format!("/v1/consents/{consent}/operations");
    let call = service.post(&path, signed.to_string()).with_bearer(token);
    call.send().is(200).json()
}

#[test]
fn what_is_kept_is_seen_taken_back_and_deleted() {
    let lab = Lab::world();
    let consent = lab.granted_with(
        "uscc, skssqq, xse",
        "actions: [QUERY, STORE]\ndata_life_days: 30",
    );
    let service = Service::start(&lab);
    let (analyst, owner, subject) = (lab.analyst(), lab.enterprise(), lab.subject());
    let answer = ask(&service, &analyst, "store", &[]).is(200);
    let rows = answer.rows().len() as u64;
    assert!(rows > 0);
    let access = answer.header("qihui-access-id").to_owned();
    let manifest = get(&service, &analyst, &format!("/v1/accesses/{access}"));
    let terms = &manifest["terms"];
    assert_eq!(
        (&terms["action"], &terms["keep"]),
        (&json!("STORE"), &json!("until"))
    );
    let id = terms["holding"].as_str().unwrap().to_owned();
    let one = format!("/v1/holdings/{id}");
    // The holder sees what it is; its hash is that of the bytes that arrived.
    let held = get(&service, &analyst, &one);
    let sha256 = ring::digest::digest(&ring::digest::SHA256, &answer.body);
    assert_eq!(held["sha256"], json!(hex::encode(sha256)));
    assert_eq!(
        (&held["rows"], &held["enterprises"]),
        (&json!(rows), &json!(1))
    );
    assert_eq!(
        (&held["state"], &held["keep_until"]),
        (&json!("HELD"), &terms["keep_until"])
    );
    assert_eq!(held["data_life_days"], 30);
    assert_eq!(
        held["datasets"],
        json!([{ "dataset": "vat_declaration", "columns": ["skssqq", "uscc", "xse"] }])
    );
    // The enterprise sees who keeps what of it, beside the access, and no totals.
    let accesses = get(
        &service,
        &owner,
        &format!("/v1/enterprises/{subject}/accesses"),
    );
    let last = accesses["accesses"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(
        (&last["action"], &last["holding"]),
        (&json!("STORE"), &json!(id))
    );
    let own = get(&service, &owner, "/v1/holdings");
    let own = own["holdings"].as_array().unwrap();
    assert_eq!(
        (own.len(), &own[0]["org"], &own[0]["state"]),
        (1, &json!("city_bank"), &json!("HELD"))
    );
    for hidden in ["rows", "bytes", "sha256", "enterprises", "due", "access_id"] {
        assert!(own[0].get(hidden).is_none(), "{hidden}");
    }
    // Under QUERY nothing is kept, and nothing is recorded as kept.
    let answer = ask(&service, &analyst, "query", &[]).is(200);
    let path = format!("/v1/accesses/{}", answer.header("qihui-access-id"));
    let terms = get(&service, &analyst, &path)["terms"].clone();
    assert_eq!((&terms["keep"], terms.get("holding")), (&json!("no"), None));
    let open = json!({ "purpose": "policy.matching", "sql": "SELECT count(*) FROM enterprise_registration" });
    let answer = service
        .post("/v1/queries", open.to_string())
        .with_bearer(&analyst)
        .send()
        .is(200);
    let path = format!("/v1/accesses/{}", answer.header("qihui-access-id"));
    assert_eq!(get(&service, &analyst, &path)["terms"]["keep"], "open");

    // What is taken back is named at once, to whoever takes it back and to the holder.
    let withdrawn = withdraw(&lab, &service, &owner, &consent);
    assert_eq!(withdrawn["state"], "WITHDRAWN");
    let due = withdrawn["holdings"].as_array().unwrap();
    assert_eq!((due.len(), &due[0]["holding_id"]), (1, &json!(id)));
    assert_eq!(
        (&due[0]["org"], &due[0]["reason"]),
        (&json!("city_bank"), &json!("withdrawn"))
    );
    assert!(due[0]["delete_by"].is_string());
    let held = get(&service, &analyst, &one);
    assert_eq!(
        (&held["state"], &held["due"][0]["uscc"]),
        (&json!("DELETION_DUE"), &json!(subject))
    );
    let auditor = lab.token(&["--role", "auditor", "--subject", "auditor"]);
    let listed = get(&service, &auditor, "/v1/holdings");
    assert_eq!(listed["holdings"][0]["state"], "DELETION_DUE");
    assert_eq!(
        get(&service, &auditor, "/v1/holdings?overdue=true")["holdings"],
        json!([])
    );
    // Only the holder states the deletion; once, however often it is sent.
    let stated = json!({ "statement": "rows deleted from the loan data mart" }).to_string();
    let deletions = format!("{one}/deletions");
    for other in [&owner, &auditor] {
        let call = service.post(&deletions, stated.clone()).with_bearer(other);
        call.send().fails(403, "OperationNotAllowed");
    }
    let state = |key: &str| {
        let call = service
            .post(&deletions, stated.clone())
            .with("idempotency-key", key);
        call.with_bearer(&analyst).send()
    };
    let (first, again) = (state("one").is(200), state("one").is(200));
    assert_eq!(
        (first.json()["state"].as_str(), &first.body),
        (Some("DELETED"), &again.body)
    );
    state("two").fails(409, "HoldingDeleted");
    let own = get(&service, &owner, &one);
    assert_eq!(
        (&own["state"], &own["deletion"]["by"]),
        (&json!("DELETED"), &json!("token:an.lee"))
    );
    service.stop();
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn a_look_is_at_one_enterprise_and_has_few_rows() {
    let lab = Lab::world();
    lab.granted_with("uscc, skssqq, xse", "actions: [VIEW]");
    let service = Service::start(&lab);
    let (analyst, subject) = (lab.analyst(), lab.subject());
    let look = |subjects: &[String]| ask(&service, &analyst, "view", subjects);
    assert!(
        !look(std::slice::from_ref(&subject))
            .is(200)
            .rows()
            .is_empty()
    );
    look(&[]).fails(400, "SubjectRequired");
    let all = lab
        .tax("SELECT DISTINCT uscc FROM vat_declaration ORDER BY uscc")
        .done()
        .json();
    let codes = all["rows"].as_array().unwrap().iter();
    let codes = codes.map(|row| row["uscc"].as_str().unwrap().to_owned());
    let other = codes.into_iter().find(|uscc| *uscc != subject).unwrap();
    look(&[subject.clone(), other]).fails(400, "OneSubjectOnly");
    let question = asked("view", std::slice::from_ref(&subject));
    for accept in ["text/csv", "application/vnd.apache.arrow.stream"] {
        let call = service
            .post("/v1/queries", question.clone())
            .with("accept", accept);
        call.with_bearer(&analyst)
            .send()
            .fails(400, "NotForViewing");
    }
    // 1,000 rows and no more, of which nothing leaves.
    let many = |rows: usize| {
        let mut question: Value = serde_json::from_str(&question).unwrap();
        let lines: Vec<String> = (0..rows).map(|n| format!("({n})")).collect();
        let cross = format!(
            "SELECT n, s FROM (VALUES {}) AS t(n) CROSS JOIN (SELECT sum(xse) AS s FROM vat_declaration)",
            lines.join(", ")
        );
        question["sql"] = json!(cross);
        let call = service.post("/v1/queries", question.to_string());
        call.with_bearer(&analyst).send()
    };
    assert_eq!(many(1000).is(200).rows().len(), 1000);
    many(1001).fails(422, "TooLargeToView");
    let stream = ask(&service, &analyst, "stream", &[]);
    stream.fails(400, "BadRequest");
    // Nothing else opens by it.
    let answer = ask(&service, &analyst, "query", &[]).is(200);
    assert!(answer.rows().is_empty());
    ask(&service, &analyst, "store", &[subject]).fails(403, "InvalidConsentUse");
    service.stop();
}

#[test]
fn holdings_have_pages_of_their_own() {
    let lab = Lab::world();
    lab.granted_with("uscc, skssqq, xse", "actions: [STORE]");
    for _ in 0..3 {
        lab.run(&query(
            "city_bank",
            "policy.matching",
            &["--action", "store", SQL],
        ))
        .done();
    }
    let service = Service::start(&lab);
    for token in [
        lab.analyst(),
        lab.enterprise(),
        lab.token(&["--role", "steward", "--subject", "s"]),
    ] {
        let (mut seen, mut path) = (Vec::new(), "/v1/holdings?limit=2".to_owned());
        loop {
            let page = get(&service, &token, &path);
            let ids = page["holdings"].as_array().unwrap().iter();
            seen.extend(ids.map(|one| one["holding_id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => path = format!("/v1/holdings?limit=2&page={next}"),
                None => break,
            }
        }
        assert_eq!(seen.len(), 3);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 3);
    }
    let page = get(&service, &lab.analyst(), "/v1/holdings?limit=1");
    let foreign = format!("/v1/holdings?page={}", page["next"].as_str().unwrap());
    service
        .get(&foreign)
        .with_bearer(&lab.enterprise())
        .send()
        .fails(400, "BadPageToken");
    let overdue = format!("{foreign}&overdue=true");
    service
        .get(&overdue)
        .with_bearer(&lab.analyst())
        .send()
        .fails(400, "BadPageToken");
    service.stop();
}
