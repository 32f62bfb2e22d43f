//! The whole story over the API, by each of its users.

use arrow::ipc::reader::StreamReader;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use qihui_audit::{check_inclusion, leaf_hash};
use qihui_consent::signing::SigningKey;
use serde_json::{Value, json};

use super::shared::{Service, ask_bank};
use crate::support::{Lab, agreement, query, request};

/// Signs an operation as the owner does: outside, over the text that the hub gives.
fn operate(service: &Service, lab: &Lab, id: &str, wish: &Value) -> Value {
    let owner = lab.enterprise();
    let path = format!("/v1/consents/{id}/texts");
    let given = service
        .post(&path, wish.to_string())
        .with_bearer(&owner)
        .send()
        .is(200)
        .json();
    let text = given["text"].as_str().unwrap();
    let named: Value = serde_json::from_str(text).unwrap();
    assert_eq!(named["operation"], wish["operation"]);
    assert_eq!(named["nonce"], given["nonce"]);
    let key = SigningKey::read(&lab.path().join("owner.key"), &lab.hub()).unwrap();
    let mut signed = wish.clone();
    signed["signatory"] = json!("owner");
    signed["signature"] = json!(BASE64_STANDARD.encode(key.sign(text.as_bytes())));
    let path = format!("/v1/consents/{id}/operations");
    let done = service
        .post(&path, signed.to_string())
        .with_bearer(&owner)
        .send();
    done.is(200).json()
}

#[test]
fn two_keys_open_a_row_and_one_closes_it() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let subject = lab.subject();
    let (analyst, owner) = (lab.analyst(), lab.enterprise());
    let steward = lab.token(&["--role", "steward", "--subject", "steward"]);

    // The data authority agrees with another organisation: the first key.
    let new = json!({ "id": "river_bank", "name": "River Bank", "kind": "bank" });
    let made = service
        .post("/v1/organisations", new.to_string())
        .with_bearer(&steward)
        .send();
    assert_eq!(made.is(201).json()["org"]["id"], "river_bank");
    let paper = agreement("river_bank", "policy.matching", "consent");
    service
        .post("/v1/agreements", paper)
        .with_bearer(&steward)
        .send()
        .is(201);
    let agreements = service
        .get("/v1/agreements")
        .with_bearer(&analyst)
        .send()
        .is(200)
        .json();
    let agreed: Vec<&str> = agreements["agreements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["org"].as_str().unwrap())
        .collect();
    assert_eq!(
        agreed,
        ["city_bank"],
        "an analyst sees the agreements of its own organisation"
    );

    // The analyst asks; nothing is open by asking.
    let wish = request(&subject, "uscc, skssqq, xse", 90);
    let asked = service
        .post("/v1/consents", wish)
        .with_bearer(&analyst)
        .send()
        .is(201)
        .json();
    let id = asked["consent_id"].as_str().unwrap().to_owned();
    let sql = "SELECT uscc, xse FROM vat_declaration ORDER BY uscc, skssqq";
    let query = || {
        service
            .post("/v1/queries", ask_bank(sql))
            .with_bearer(&analyst)
            .with("te", "trailers")
            .send()
    };
    assert_eq!(query().is(200).rows(), [] as [Value; 0]);

    // The enterprise looks, and gives the second key.
    let path = format!("/v1/consents/{id}/preview");
    let preview = service.get(&path).with_bearer(&owner).send().is(200).json();
    let rows = preview["datasets"][0]["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["uscc"] == subject.as_str()) && !rows.is_empty());
    let given = operate(&service, &lab, &id, &json!({ "operation": "give" }));
    assert_eq!(given["state"], "ACTIVE");

    // The analyst sees exactly that enterprise, and what was withheld.
    let answer = query().is(200);
    let shown = answer.rows();
    assert_eq!(shown.len(), rows.len());
    assert!(shown.iter().all(|row| row["uscc"] == subject.as_str()));
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert_eq!(
        answer.trailers["qihui-rows"],
        shown.len().to_string().as_str()
    );
    let summary: Value =
        serde_json::from_str(answer.trailers["qihui-summary"].to_str().unwrap()).unwrap();
    assert_eq!(summary["datasets"]["vat_declaration"]["enterprises"], 1);
    assert_eq!(summary["datasets"]["vat_declaration"]["withheld"]["xse"], 0);
    let access = answer.header("qihui-access-id").to_owned();
    let path = format!("/v1/accesses/{access}");
    let manifest = service
        .get(&path)
        .with_bearer(&analyst)
        .send()
        .is(200)
        .json();
    assert_eq!(manifest["outcome"], "complete");
    assert_eq!(manifest["rows"], shown.len());
    assert_eq!(manifest["bytes"], answer.body.len());
    let hash = ring::digest::digest(&ring::digest::SHA256, &answer.body);
    assert_eq!(manifest["sha256"], hex::encode(hash));

    // Paused and resumed, then taken back: nothing is left to see.
    operate(&service, &lab, &id, &json!({ "operation": "pause" }));
    assert!(query().is(200).rows().is_empty());
    operate(&service, &lab, &id, &json!({ "operation": "resume" }));
    assert_eq!(query().is(200).rows().len(), shown.len());
    let narrowed = json!({ "operation": "narrow", "narrowed": {
        "scope": [{ "dataset": "vat_declaration", "columns": ["uscc", "skssqq"],
            "data_range": { "from": "2024-01-01", "to": "2027-01-01" } }]
    } });
    operate(&service, &lab, &id, &narrowed);
    let less = query().is(200).rows();
    assert!(
        less.iter()
            .all(|row| row.get("xse").is_none_or(Value::is_null)),
        "{less:?}"
    );
    let taken = operate(&service, &lab, &id, &json!({ "operation": "withdraw" }));
    assert_eq!(taken["state"], "WITHDRAWN");
    assert!(query().is(200).rows().is_empty());

    // The enterprise sees who read what, page by page, each access proven.
    let accesses = proven(&service, &owner, &subject);
    let reads = accesses
        .iter()
        .filter(|one| one["org"] == "city_bank" && one["decision"] == "allowed");
    assert_eq!(reads.count(), 3, "{accesses:?}");
    assert!(accesses.iter().any(|one| one["org"] == "consent_preview"));
    service.stop();
    lab.run(&["audit", "verify"]).done();
}

/// Every access of an enterprise, in pages of two; each must be in the tree of the checkpoint.
pub fn proven(service: &Service, token: &str, uscc: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut next = String::new();
    loop {
        let path = format!("/v1/enterprises/{uscc}/accesses?limit=2{next}");
        let page = service.get(&path).with_bearer(token).send().is(200).json();
        let note = page["checkpoint"].as_str().unwrap();
        let root = BASE64_STANDARD
            .decode(note.lines().nth(2).unwrap())
            .unwrap();
        let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
        assert_eq!(page["size"], size);
        for access in page["accesses"].as_array().unwrap() {
            let proof: Vec<[u8; 32]> = access["proof"]
                .as_array()
                .unwrap()
                .iter()
                .map(|hash| {
                    hex::decode(hash.as_str().unwrap())
                        .unwrap()
                        .try_into()
                        .unwrap()
                })
                .collect();
            let leaf = leaf_hash(access["leaf"].as_str().unwrap().as_bytes());
            let index = access["index"].as_u64().unwrap();
            let root: [u8; 32] = root.clone().try_into().unwrap();
            assert!(check_inclusion(&proof, size, &root, index, &leaf));
            let other = leaf_hash(b"another");
            assert!(!check_inclusion(&proof, size, &root, index, &other));
            all.push(access.clone());
        }
        match page["next"].as_str() {
            Some(token) => next = format!("&page={token}"),
            None => return all,
        }
    }
}

/// Two enterprises, and accesses that touched one, the other, both or neither: each is in the lists of exactly those whose
/// rows passed or who were named, with its proof; and `verify` derives the same lists anew from all entries.
#[test]
fn aud_4_an_enterprise_gets_all_and_only_its_accesses() {
    let lab = Lab::world();
    let one = lab.subject();
    let all = lab.tax("SELECT DISTINCT uscc FROM vat_declaration").done();
    let all = all.json()["rows"].as_array().unwrap().clone();
    let mut codes = all.iter().map(|row| row["uscc"].as_str().unwrap());
    let other = codes.find(|code| *code != one).unwrap().to_owned();
    let entries = || lab.json(&["audit", "verify"]).done().json()["entries"].clone();
    let begun = entries().as_u64().unwrap();
    let mut expected = [Vec::new(), Vec::new()];
    for (condition, touched) in [
        (format!("uscc = '{one}'"), [true, false]),
        (format!("uscc = '{other}'"), [false, true]),
        (format!("uscc IN ('{one}', '{other}')"), [true, true]),
        (format!("uscc NOT IN ('{one}', '{other}')"), [true, true]),
        ("uscc IS NOT NULL".to_owned(), [true, true]),
        ("uscc = '91330000142911651L'".to_owned(), [false, false]),
    ] {
        let sql = format!("SELECT count(*) AS n FROM vat_declaration WHERE {condition}");
        let answer = lab.tax(&sql).done().json();
        let index = answer["access"]["finished"].as_u64().unwrap();
        for (list, touched) in expected.iter_mut().zip(touched) {
            list.extend(touched.then_some(index));
        }
    }
    // The bank has no consent: it sees nobody, and hears no for whom it names.
    lab.bank("SELECT count(*) AS n FROM vat_declaration").done();
    let named = [
        "--subject",
        &other,
        "SELECT count(*) AS n FROM vat_declaration",
    ];
    let denied = lab.run(&query("city_bank", "policy.matching", &named));
    denied.fails(3, "InvalidConsentUse", &[]);
    expected[1].push(entries().as_u64().unwrap() - 1);
    let service = Service::start(&lab);
    for (code, expected) in [&one, &other].into_iter().zip(expected) {
        let role = ["--role", "enterprise", "--subject", "owner"];
        let token = lab.token(&[&role[..], &["--uscc", code]].concat());
        let listed = proven(&service, &token, code);
        let listed = listed
            .iter()
            .map(|access| access["index"].as_u64().unwrap());
        let listed: Vec<u64> = listed.filter(|index| *index >= begun).collect();
        assert_eq!(listed, expected);
    }
    service.stop();
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let inspector = lab.inspector();
    let sql = "SELECT uscc, xse FROM vat_declaration ORDER BY uscc, skssqq, pzxh LIMIT 5";
    let ask = |accept: &str| {
        let question = super::shared::ask_tax(sql);
        service
            .post("/v1/queries", question)
            .with_bearer(&inspector)
            .with("accept", accept)
            .send()
    };
    let rows = ask("application/x-ndjson").is(200).rows();
    assert_eq!(rows.len(), 5);
    let csv = ask("text/csv").is(200);
    let csv = String::from_utf8(csv.body.to_vec()).unwrap();
    assert_eq!(csv.lines().next(), Some("uscc,xse"));
    assert_eq!(csv.lines().count(), 6);
    let arrow = ask("application/vnd.apache.arrow.stream").is(200);
    let batches = StreamReader::try_new(&arrow.body[..], None).unwrap();
    let read: usize = batches.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(read, 5);
    ask("text/html").fails(406, "NotAcceptable");
    // Errors before the first byte are problems, and denials are recorded.
    let wrong = [
        ("SELECT nothing FROM vat_declaration", 422, "UnknownColumn"),
        ("SELECT 1 FROM nowhere", 404, "UnknownDataset"),
        ("DELETE FROM vat_declaration", 422, "NotAllowed"),
        (
            "SELECT * FROM customs_declaration",
            422,
            "DatasetNotInAgreement",
        ),
    ];
    for (sql, status, code) in wrong {
        let question = super::shared::ask_tax(sql);
        service
            .post("/v1/queries", question)
            .with_bearer(&inspector)
            .send()
            .fails(status, code);
    }
    service.stop();
}

#[test]
fn a_department_delivers_a_file_and_accounts_for_it() {
    let lab = Lab::world();
    let feeds = lab.json(&["feed", "list"]).done().json();
    let vat = feeds["feeds"].as_array().unwrap().iter();
    let vat = vat.filter(|feed| feed["dataset"] == "vat_declaration");
    let feed = vat
        .map(|feed| feed["name"].as_str().unwrap())
        .next()
        .unwrap()
        .to_owned();
    let file = crate::support::files(&lab.path().join("feeds"));
    let file = file.into_iter().find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        lab.json(&["feed", "check", path.to_str().unwrap(), "--feed", &feed])
            .code
            == 0
            && name.contains("vat")
    });
    let file = file.unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let service = Service::start(&lab);
    let owner = lab.token(&[
        "--role",
        "feed_owner",
        "--subject",
        "clerk",
        "--feed",
        &feed,
    ]);
    let path = format!("/v1/feeds/{feed}/runs?name={name}");
    let content = std::fs::read(&file).unwrap();
    let ran = service
        .post(&path, content)
        .with_bearer(&owner)
        .send()
        .is(201)
        .json();
    // The world has it already (ING-2): every record is accounted for, and none is new.
    let count = |what: &str| ran[what].as_u64().unwrap();
    assert!(count("read") > 0 && count("landed") == 0, "{ran}");
    let sum: u64 = [
        "landed",
        "unchanged",
        "superseded",
        "retracted",
        "quarantined",
    ]
    .map(count)
    .iter()
    .sum();
    assert_eq!(count("read"), sum);
    let path = format!("/v1/feeds/{feed}/runs?limit=1");
    let page = service.get(&path).with_bearer(&owner).send().is(200).json();
    assert_eq!(page["runs"].as_array().unwrap().len(), 1);
    let run = page["runs"][0]["run"].as_i64().unwrap();
    let path = format!("/v1/feeds/{feed}/runs/{run}");
    let shown = service.get(&path).with_bearer(&owner).send().is(200).json();
    assert_eq!(shown["run"], page["runs"][0]);
    let path = format!("/v1/feeds/{feed}/quarantine?limit=1");
    let waiting = service.get(&path).with_bearer(&owner).send().is(200).json();
    assert!(waiting["records"].as_array().unwrap().len() <= 1);
    let path = format!("/v1/feeds/{feed}/runs/999999");
    service
        .get(&path)
        .with_bearer(&owner)
        .send()
        .fails(404, "UnknownRun");
    let bad = format!("/v1/feeds/{feed}/runs?name=..%2Fescape.csv");
    service
        .post(&bad, "x")
        .with_bearer(&owner)
        .send()
        .fails(400, "BadRequest");
    let left = crate::support::files(&lab.hub().join("uploads"));
    assert!(left.is_empty(), "{left:?}");
    service.stop();
}

#[test]
fn the_log_is_public_as_far_as_it_names_nobody() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let auditor = lab.token(&["--role", "auditor", "--subject", "auditor"]);
    let checkpoint = service
        .get("/v1/log/checkpoint")
        .with_bearer(&auditor)
        .send()
        .is(200);
    let file = lab.write("kept.txt", &checkpoint.body);
    service
        .get("/v1/log/entries/99999999/proof")
        .with_bearer(&auditor)
        .send()
        .fails(404, "UnknownTile");
    let size: u64 = std::str::from_utf8(&checkpoint.body)
        .unwrap()
        .lines()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let first = if size >= 256 {
        "000".to_owned()
    } else {
        format!("000.p/{size}")
    };
    let path = format!("/v1/log/tile/0/{first}");
    let tile = service.get(&path).with_bearer(&auditor).send().is(200);
    let proof = service
        .get("/v1/log/entries/0/proof")
        .with_bearer(&auditor)
        .send()
        .is(200)
        .json();
    assert_eq!(proof["index"], 0);
    let entries = size.min(256);
    assert_eq!(tile.body.len() as u64, entries * 32);
    let leaf = leaf_hash(proof["leaf"].as_str().unwrap().as_bytes());
    assert_eq!(tile.body[..32], leaf);
    for path in [
        "/v1/log/tile/0/999",
        "/v1/log/tile/..%2F..%2Fkeys",
        "/v1/log/tile/0/../../../keys/audit-body.key",
    ] {
        assert_eq!(
            service.get(path).with_bearer(&auditor).send().status,
            404,
            "{path}"
        );
    }
    service.stop();
    lab.run(&["audit", "verify", "--checkpoint", &file]).done();
}
