//! The answers of the API, one golden file each: that of every operation, and the most telling problems of each group.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use qihui_consent::signing::SigningKey;
use serde_json::{Map, Value, json};

use super::shared::{Call, Reply, Service, ask_bank, forwarded};
use super::subscriptions::topic;
use crate::drawn::steadied;
use crate::support::{Lab, agreement, files, request};

/// Operations whose answer has no golden file here: one is a file of the documents, the other is counters.
const ELSEWHERE: [&str; 2] = ["metrics", "openapi"];

fn golden() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/api"))
}

/// The same without what is drawn, dated, or of this lab alone.
fn steady(value: &mut Value, lab: &Lab) {
    match value {
        Value::Object(map) => {
            for (key, one) in map {
                match (key.as_str(), &one) {
                    // A page token, which only this hub knows.
                    ("next", Value::String(_)) => *one = "<page>".into(),
                    _ => steady(one, lab),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|one| steady(one, lab)),
        Value::String(text) => *text = steadied(&text.replace(&lab.subject(), "<subject>")),
        _ => {}
    }
}

/// A body as a document: JSON as it is, rows and lines as lists, other bytes as their number.
fn body(reply: &Reply) -> Value {
    let text = || std::str::from_utf8(&reply.body).unwrap();
    match reply.header("content-type") {
        "application/json" | "application/problem+json" => reply.json(),
        "application/x-ndjson" => reply.rows().into(),
        kind if kind.starts_with("text/") => text().lines().collect(),
        _ => json!({ "bytes": reply.body.len() }),
    }
}

/// Compares an answer with its golden file. A name is that of an operation, of one and the code of a problem, or of one
/// and a form in small letters.
fn told(lab: &Lab, name: &str, call: Call<'_>) -> Reply {
    let reply = call.send();
    let variant = name.split_once('.').map(|(_, variant)| variant);
    match variant.filter(|variant| variant.starts_with(char::is_uppercase)) {
        Some(code) => reply.fails(reply.status, code),
        None => assert!(reply.status < 300 && reply.whole, "{name}: {reply:?}"),
    }
    let mut document = json!({
        "status": reply.status,
        "content_type": reply.header("content-type"),
        "body": body(&reply),
    });
    let trailers = reply.trailers.iter().map(|(name, value)| {
        let text = value.to_str().unwrap();
        let value = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
        (name.to_string(), value)
    });
    let trailers: Map<String, Value> = trailers.collect();
    if !trailers.is_empty() {
        document["trailers"] = trailers.into();
    }
    steady(&mut document, lab);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(golden());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_json_snapshot!(name, document));
    reply
}

#[test]
fn health_catalogue_and_parties() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let steward = lab.token(&["--role", "steward", "--subject", "steward"]);
    let told = |name: &str, call: Call<'_>| told(&lab, name, call);
    let get = |path| service.get(path).with_bearer(&steward);
    let post = |path, body: &Value| service.post(path, body.to_string()).with_bearer(&steward);
    told("livez", service.get("/livez"));
    told("readyz", service.get("/readyz"));
    told("livez.MethodNotAllowed", service.call("DELETE", "/livez"));
    told("readyz.NoSuchRoute", service.get("/ready"));

    told("catalog_list", get("/v1/datasets"));
    told("catalog_show", get("/v1/datasets/abnormal_operation"));
    told("catalog_show.UnknownDataset", get("/v1/datasets/nowhere"));
    told("catalog_list.TokenMissing", service.get("/v1/datasets"));
    told("purpose_list", get("/v1/purposes"));

    let river = json!({ "id": "river_bank", "name": "River Bank", "kind": "bank" });
    told("organisation_add", post("/v1/organisations", &river));
    told(
        "organisation_add.OrganisationExists",
        post("/v1/organisations", &river),
    );
    told("organisation_list", get("/v1/organisations"));
    let paper = agreement("river_bank", "policy.matching", "consent");
    let add = |paper: String| service.post("/v1/agreements", paper).with_bearer(&steward);
    told("agreement_add", add(paper.clone()));
    told("agreement_add.AgreementExists", add(paper.clone()));
    let personal = paper
        .replace("name: ynse", "name: bsrxm")
        .replace("river_bank-vat", "other");
    told("agreement_add.ColumnNeverOpened", add(personal));
    told("agreement_list", get("/v1/agreements"));
    let analyst = lab.analyst();
    let refused = service.post("/v1/agreements", paper).with_bearer(&analyst);
    told("agreement_add.OperationNotAllowed", refused);
    let second = lab.file("second.key");
    lab.run(&["keygen", "--out", &second]).done();
    let signatory = |key: &str| {
        let key = std::fs::read_to_string(lab.path().join(key)).unwrap();
        json!({ "uscc": lab.subject(), "name": "second", "public_key": key })
    };
    let (new, known) = (signatory("second.key.pub"), signatory("owner.key.pub"));
    told("signatory_add.InvalidKey", post("/v1/signatories", &known));
    told("signatory_add", post("/v1/signatories", &new));
    service.stop();
}

#[test]
fn consents() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let (analyst, owner) = (lab.analyst(), lab.enterprise());
    let told = |name: &str, call: Call<'_>| told(&lab, name, call);
    let wish = request(&lab.subject(), "uscc, skssqq, xse", 90);
    let ask = |wish: String| service.post("/v1/consents", wish).with_bearer(&analyst);
    let long = request(&lab.subject(), "uscc, xse", 9000);
    let malformed = wish.replace("notice", "remark");
    let asked = told("consent_request", ask(wish)).json();
    told("consent_request.ExpiryBeyondCap", ask(long));
    told("consent_request.MalformedConsent", ask(malformed));

    let consent = format!("/v1/consents/{}", asked["consent_id"].as_str().unwrap());
    let at = |more: &str| format!("{consent}{more}");
    let (preview, texts, operations) = (at("/preview"), at("/texts"), at("/operations"));
    let get = |path| service.get(path).with_bearer(&owner);
    told("consent_preview", get(&preview));
    told(
        "consent_show.OutOfReach",
        get("/v1/consents/c-00000000000000000000"),
    );

    let key = SigningKey::read(&lab.path().join("owner.key"), &lab.hub()).unwrap();
    let operate = |text: &str| {
        let signature = BASE64_STANDARD.encode(key.sign(text.as_bytes()));
        let give = json!({ "operation": "give", "signatory": "owner", "signature": signature });
        service
            .post(&operations, give.to_string())
            .with_bearer(&owner)
    };
    let give = json!({ "operation": "give" }).to_string();
    let text = told(
        "consent_text",
        service.post(&texts, give).with_bearer(&owner),
    )
    .json();
    let text = text["text"].as_str().unwrap();
    told("consent_operate.SignatureMismatch", operate("another text"));
    told("consent_operate", operate(text));
    told("consent_operate.ConsentStateRefuses", operate(text));
    told("consent_show", get(&consent));
    told(
        "consent_list",
        service.get("/v1/consents?limit=1").with_bearer(&analyst),
    );
    service.stop();
}

/// A table gets a version whenever rows of anybody land: that is told only to who may see all of them.
#[test]
fn an_answer_names_versions_of_open_tables_only() {
    let lab = Lab::world();
    lab.granted("uscc, skssqq, xse");
    let service = Service::start(&lab);
    let analyst = lab.analyst();
    let version = |dataset: &str| {
        let sql = format!("SELECT count(*) AS n FROM {dataset}");
        let asked = service.post("/v1/queries", ask_bank(&sql));
        let answer = asked.with_bearer(&analyst).with("te", "trailers").send();
        let answer = answer.is(200);
        let path = format!("/v1/accesses/{}", answer.header("qihui-access-id"));
        let access = service.get(&path).with_bearer(&analyst).send();
        let told: Value =
            serde_json::from_str(answer.trailers["qihui-summary"].to_str().unwrap()).unwrap();
        let told = told["datasets"][dataset].clone();
        let access = access.is(200).json();
        assert_eq!(access["summary"][dataset], told);
        for closed in ["table_version", "commitment"] {
            assert!(access["decisions"][0].get(closed).is_none(), "{closed}");
        }
        told.get("table_version").and_then(Value::as_i64)
    };
    assert!(version("customs_credit_rating").is_some_and(|version| version > 0));
    assert_eq!(version("vat_declaration"), None);
    // Its rows are open, and one of its columns is not.
    assert_eq!(version("enterprise_registration"), None);
    service.stop();
}

#[test]
fn queries_accesses_and_log() {
    let lab = Lab::world();
    let id = lab.granted("uscc, skssqq, xse");
    let service = Service::start(&lab);
    let (analyst, owner, subject) = (lab.analyst(), lab.enterprise(), lab.subject());
    let told = |name: &str, call: Call<'_>| told(&lab, name, call);
    let ask = |question: String| service.post("/v1/queries", question).with_bearer(&analyst);
    let query = |sql: &str| ask(ask_bank(sql));
    let sql = "SELECT uscc, skssqq, xse, ynse FROM vat_declaration ORDER BY skssqq LIMIT 2";
    let answer = told("query", query(sql).with("te", "trailers"));
    told("query.csv", query(sql).with("accept", "text/csv"));
    told("query.BadSql", query("SELECT FROM"));
    told(
        "query.ColumnNotInAgreement",
        query("SELECT jxse FROM vat_declaration"),
    );
    told("query.NotAllowed", query("DELETE FROM vat_declaration"));
    told(
        "query.NotAcceptable",
        query(sql).with("accept", "text/html"),
    );
    told(
        "query.OutOfReach",
        ask(ask_bank(sql).replace("policy.matching", "credit.scoring")),
    );

    let get = |path, token: &str| service.get(path).with_bearer(token);
    let access = format!("/v1/accesses/{}", answer.header("qihui-access-id"));
    told("access_show", get(&access, &analyst));
    let unknown = "/v1/accesses/00000000000000000000000000000000";
    told("access_show.UnknownAccess", get(unknown, &analyst));
    let accesses = format!("/v1/enterprises/{subject}/accesses?limit=2");
    told("enterprise_accesses", get(&accesses, &owner));
    told(
        "enterprise_accesses.OperationNotAllowed",
        get(&accesses, &analyst),
    );

    forwarded(&lab, &["consent", "withdraw", &id]);
    let mut named: Value = serde_json::from_str(&ask_bank(sql)).unwrap();
    named["subjects"] = json!([subject]);
    told("query.ConsentRevoked", ask(named.to_string()));

    told("log_proof", get("/v1/log/entries/0/proof", &owner));
    told(
        "log_proof.UnknownTile",
        get("/v1/log/entries/9999999/proof", &owner),
    );
    let checkpoint = told("log_checkpoint", get("/v1/log/checkpoint", &owner));
    let size = std::str::from_utf8(&checkpoint.body)
        .unwrap()
        .lines()
        .nth(1);
    let tile = format!("/v1/log/tile/0/000.p/{}", size.unwrap());
    told("log_tile", get(&tile, &owner));
    told("log_tile.UnknownTile", get("/v1/log/tile/9/000", &owner));
    service.stop();
}

#[test]
fn holdings() {
    let lab = Lab::world();
    lab.granted_with("uscc, skssqq, xse", "actions: [STORE, VIEW]\nmax_uses: 2");
    let service = Service::start(&lab);
    let (analyst, owner, subject) = (lab.analyst(), lab.enterprise(), lab.subject());
    let told = |name: &str, call: Call<'_>| told(&lab, name, call);
    let sql = "SELECT uscc, skssqq, xse FROM vat_declaration ORDER BY skssqq LIMIT 1";
    let ask = |action: &str| {
        let mut question: Value = serde_json::from_str(&ask_bank(sql)).unwrap();
        question["action"] = json!(action);
        question["subjects"] = json!([subject]);
        service
            .post("/v1/queries", question.to_string())
            .with_bearer(&analyst)
    };
    told("query.store", ask("store").with("te", "trailers"));
    told(
        "query.NotForViewing",
        ask("view").with("accept", "text/csv"),
    );
    told("query.view", ask("view"));
    told("query.InvalidConsentUse", ask("view"));
    let post = |path, body: Value| service.post(path, body.to_string()).with_bearer(&analyst);
    let get = |path, token: &str| service.get(path).with_bearer(token);
    let listed = told("holding_list", get("/v1/holdings", &analyst)).json();
    told(
        "holding_list.BadPageToken",
        get("/v1/holdings?page=another", &analyst),
    );
    let id = listed["holdings"][0]["holding_id"].as_str().unwrap();
    let one = format!("/v1/holdings/{id}");
    told("holding_show", get(&one, &owner));
    told(
        "holding_show.OutOfReach",
        get("/v1/holdings/h-0000000000000000", &owner),
    );
    let deletions = format!("{one}/deletions");
    let stated = json!({ "statement": "deleted from the data mart and its backups" });
    told(
        "holding_delete.NothingToDelete",
        post(&deletions, stated.clone()),
    );
    let all = json!({ "statement": "the data mart was taken down", "everything": true });
    told("holding_delete", post(&deletions, all));
    told("holding_delete.HoldingDeleted", post(&deletions, stated));
    service.stop();
}

#[test]
fn feeds_and_their_runs() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let role = ["--role", "feed_owner", "--subject", "clerk", "--feed"];
    let clerk = lab.token(&[&role[..], &["vat_declaration"]].concat());
    let told = |name: &str, call: Call<'_>| told(&lab, name, call.with_bearer(&clerk));
    let get = |path| service.get(path);
    let feed = "/v1/feeds/vat_declaration";
    let at = |more: &str| format!("{feed}{more}");
    told("feed_list", get("/v1/feeds"));
    let mut sent = files(&lab.path().join("feeds")).into_iter();
    let last = sent.rfind(|path| path.to_string_lossy().contains("vat_declaration_"));
    let file = last.unwrap();
    let deliver = at(&format!(
        "/runs?name={}",
        file.file_name().unwrap().display()
    ));
    told(
        "feed_run",
        service.post(&deliver, std::fs::read(&file).unwrap()),
    );
    told(
        "feed_run.BadHeader",
        service.post(&deliver, "no,header\n1,2\n"),
    );
    let outside = at("/runs?name=..%2Fx.csv");
    told("feed_run.BadRequest", service.post(&outside, "x"));
    let (runs, run, none) = (at("/runs?limit=1"), at("/runs/1"), at("/runs/999999"));
    told("run_list", get(&runs));
    told("run_show", get(&run));
    told("run_show.UnknownRun", get(&none));
    let waiting = at("/quarantine?limit=1");
    told("quarantine_list", get(&waiting));
    told(
        "quarantine_list.OutOfReach",
        get("/v1/feeds/taxpayer/quarantine"),
    );
    let foreign = at("/quarantine?page=another");
    told("quarantine_list.BadPageToken", get(&foreign));
    service.stop();
}

#[test]
fn topics_and_subscriptions() {
    let lab = Lab::world();
    lab.write("filings.yaml", topic("filings", "uscc, pzxh, skssqq, xse"));
    lab.run(&["topic", "add", "filings.yaml"]).done();
    lab.granted_stream("uscc, pzxh, skssqq, xse");
    let service = Service::start(&lab);
    let subscriber = lab.subscriber();
    let told = |name: &str, call: Call<'_>| told(&lab, name, call.with_bearer(&subscriber));
    let post = |path, body: Value| service.post(path, body.to_string());
    told("topic_list", service.get("/v1/topics"));
    told("topic_show", service.get("/v1/topics/filings"));
    told("topic_show.UnknownTopic", service.get("/v1/topics/none"));
    let wish = json!({ "topic": "filings", "purpose": "policy.matching" });
    let add = |wish: &Value| post("/v1/subscriptions", wish.clone());
    let made = told("subscription_add", add(&wish)).json();
    told("subscription_add.SubscriptionExists", add(&wish));
    told("subscription_list", service.get("/v1/subscriptions"));
    let id = made["subscription"]["subscription_id"].as_str().unwrap();
    let one = format!("/v1/subscriptions/{id}");
    let pages = format!("{one}/pages");
    told("subscription_show", service.get(&one));
    told("subscription_pull", post(&pages, json!({ "events": 1 })));
    told(
        "subscription_pull.CursorInvalid",
        post(&pages, json!({ "cursor": "another" })),
    );
    told("subscription_end", service.call("DELETE", &one));
    told(
        "subscription_pull.UnknownSubscription",
        post(&pages, json!({})),
    );
    told(
        "subscription_show.OutOfReach",
        service.get("/v1/subscriptions/s-0"),
    );
    service.stop();
}

/// Every operation of the description has a golden answer, and every golden file is of an operation.
#[test]
fn every_operation_has_a_golden_answer() {
    let document: Value = serde_json::from_str(&qihui::serve::api::document()).unwrap();
    let items = document["paths"].as_object().unwrap().values();
    let operations: BTreeSet<&str> = items
        .flat_map(|item| item.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .filter(|operation| !ELSEWHERE.contains(operation))
        .collect();
    let names: Vec<String> = files(golden())
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let (mut answered, mut of_operations) = (BTreeSet::new(), BTreeSet::new());
    for name in &names {
        let (operation, problem) = name.split_once('.').unwrap_or((name, ""));
        of_operations.insert(operation);
        if problem.is_empty() {
            answered.insert(operation);
        }
    }
    assert_eq!(answered, operations);
    assert_eq!(of_operations, operations);
}
