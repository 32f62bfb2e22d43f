//! Topics over the API: a copy that is pulled is the authorised view, at once after every change, and nobody else's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::refused::denied;
use super::shared::{Reply, SOON, Service, forwarded, narrow};
use crate::support::{Lab, request};

const SQL: &str = "SELECT uscc, pzxh, skssqq, xse, ynse FROM vat_declaration";

/// A topic of VAT declarations.
pub fn topic(name: &str, columns: &str) -> String {
    format!(
        "name: {name}\nversion: 1.0.0\ntitleEn: VAT filings\ntitleCn: 增值税申报\ndataset: vat_declaration\ncolumns: [{columns}]\n"
    )
}

/// A declaration of an enterprise as its department sends it: its number, its sales, and the how-manieth version of it.
pub struct Declaration<'a> {
    pub uscc: &'a str,
    pub number: u32,
    pub sales: u32,
    pub version: u32,
}

impl Declaration<'_> {
    /// Its key.
    pub fn key(&self) -> String {
        format!("{:020}", 77_000_000_000_u64 + u64::from(self.number))
    }
}

/// Has a file of declarations taken in.
pub fn declare<'a>(lab: &Lab, declarations: impl IntoIterator<Item = Declaration<'a>>) {
    let path = write_declarations(lab, declarations);
    let ran = lab.json(&["feed", "run", "vat_declaration", "--from", &path]);
    let ran = ran.done().json();
    assert_eq!(ran["feeds"][0]["quarantined"], 0, "{ran}");
}

/// Writes a file of declarations; its path.
pub fn write_declarations<'a>(
    lab: &Lab,
    declarations: impl IntoIterator<Item = Declaration<'a>>,
) -> String {
    let mut csv = "TYSHXYDM,PZXH,NSRSBH,SBZL,NSQXDM,SKSSQQ,SKSSQZ,SBRQ,XSE,YSXSE,MSXSE,XXSE,JXSE,YNSE,YBTSE,ZGSWJGDM,BSRXM,\
                   DATA_TIME,ZFBZ\n"
        .to_owned();
    let first = chrono::NaiveDate::from_ymd_opt(2026, 7, 1).unwrap();
    let first = first.and_hms_opt(8, 0, 0).unwrap();
    for one in declarations {
        let Declaration {
            uscc,
            sales,
            version,
            ..
        } = &one;
        let at = first + chrono::TimeDelta::seconds(i64::from(*version));
        let (key, at) = (one.key(), at.format("%Y%m%d%H%M%S"));
        writeln!(
            csv,
            "{uscc},{key},{uscc},增值税一般纳税人申报,02,20260501,20260531,20260605,{sales},{sales},0,0,0,1.50,1.50,\
             13307230000,某某,{at},N"
        )
        .unwrap();
    }
    lab.write("vat_declaration_more.csv", csv)
}

impl Lab {
    /// A token of a subscriber of the bank.
    pub fn subscriber(&self) -> String {
        self.subscriber_of("city_bank", "policy.matching")
    }

    pub fn subscriber_of(&self, org: &str, purpose: &str) -> String {
        let words = ["--role", "subscriber", "--subject", "sub", "--org", org];
        self.token(&[&words[..], &["--purpose", purpose]].concat())
    }

    /// A consent of the enterprise under which the bank may ask and be brought these columns.
    pub fn granted_stream(&self, columns: &str) -> String {
        let wish = request(&self.subject(), columns, 90).replace("[QUERY]", "[QUERY, STREAM]");
        let file = self.write("stream.yaml", wish);
        let requested = self.json(&["consent", "request", &file]).done().json();
        let id = requested["consent_id"].as_str().unwrap().to_owned();
        self.sign(&id).done();
        id
    }

    /// What the bank may see, by key, without cells that are null.
    fn view(&self) -> BTreeMap<String, Map<String, Value>> {
        let rows = self.bank(SQL).done().json()["rows"].clone();
        let rows = rows.as_array().unwrap().iter().map(|row| {
            let mut row = row.as_object().unwrap().clone();
            row.retain(|_, cell| !cell.is_null());
            (row["pzxh"].as_str().unwrap().to_owned(), row)
        });
        rows.collect()
    }
}

/// Subscribes; the subscription's path.
pub fn subscribe(service: &Service, token: &str, topic: &str, purpose: &str) -> String {
    let wish = json!({ "topic": topic, "purpose": purpose }).to_string();
    let made = service.post("/v1/subscriptions", wish).with_bearer(token);
    let made = made.send().is(201).json();
    let id = made["subscription"]["subscription_id"].as_str().unwrap();
    format!("/v1/subscriptions/{id}")
}

/// A subscriber and what it holds.
struct Copy<'a> {
    service: &'a Service,
    token: String,
    pages: String,
    cursor: Option<String>,
    rows: BTreeMap<String, Map<String, Value>>,
    notices: Vec<Value>,
}

impl<'a> Copy<'a> {
    fn new(service: &'a Service, token: &str, subscription: &str) -> Self {
        Self {
            service,
            token: token.to_owned(),
            pages: format!("{subscription}/pages"),
            cursor: None,
            rows: BTreeMap::new(),
            notices: Vec::new(),
        }
    }

    fn ask(&self, mut wanted: Value) -> Reply {
        if let (Some(cursor), None) = (&self.cursor, wanted.get("cursor")) {
            wanted["cursor"] = json!(cursor);
        }
        let asked = self.service.post(&self.pages, wanted.to_string());
        asked.with_bearer(&self.token).send()
    }

    /// Takes the next page in; how many events it had.
    fn pull(&mut self, wanted: Value) -> (usize, bool) {
        let reply = self.ask(wanted).is(200);
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!(reply.header("cache-control"), "no-store");
        let page = reply.json();
        for event in page["events"].as_array().unwrap() {
            let data = &event["data"];
            let key = data["key"]["pzxh"].as_str().map(str::to_owned);
            match event["type"].as_str().unwrap() {
                "qihui.record.upserted.v1" => {
                    let mut row = data["row"].as_object().unwrap().clone();
                    row.retain(|_, cell| !cell.is_null());
                    let old = self.rows.insert(key.unwrap(), row.clone());
                    assert_ne!(old, Some(row), "an event that changes nothing");
                }
                "qihui.record.deleted.v1" => {
                    self.rows.remove(&key.unwrap()).expect("it was brought");
                }
                "qihui.topic.reset.v1" => self.rows.clear(),
                "qihui.authorisation.ended.v1" => self.notices.push(data.clone()),
                other => panic!("{other}"),
            }
        }
        let events = page["events"].as_array().unwrap().len();
        assert_eq!(page["page"].is_null(), events == 0);
        self.cursor = Some(page["next"].as_str().unwrap().to_owned());
        (events, page["more"].as_bool().unwrap())
    }

    /// Pulls until there is nothing more; how many events that were.
    fn follow(&mut self) -> usize {
        let mut all = 0;
        loop {
            let (events, more) = self.pull(json!({}));
            all += events;
            if !more {
                return all;
            }
        }
    }
}

#[test]
fn gate_1_a_copy_pulled_over_the_api_is_the_authorised_view() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    let (subject, token) = (lab.subject(), lab.subscriber());
    lab.write(
        "filings.yaml",
        topic("filings", "uscc, pzxh, skssqq, xse, ynse"),
    );
    let get = |path: &str| service.get(path).with_bearer(&token).send();
    assert_eq!(get("/v1/topics").is(200).json()["topics"], json!([]));
    // Added through the service, in force at once.
    forwarded(&lab, &["topic", "add", "filings.yaml"]);
    let listed = get("/v1/topics").is(200).json();
    assert_eq!(listed["topics"][0]["topic"], "filings");
    let shown = get("/v1/topics/filings").is(200).json();
    assert_eq!(
        (&shown["dataset"], &shown["recorded"]),
        (&json!("vat_declaration"), &json!(true))
    );
    get("/v1/topics/none").fails(404, "UnknownTopic");

    let path = subscribe(&service, &token, "filings", "policy.matching");
    let mut copy = Copy::new(&service, &token, &path);
    assert_eq!(copy.follow(), 0, "an agreement alone opens nothing");

    // A grant brings that enterprise's rows, whole and nothing else.
    let consent = lab.granted_stream("uscc, pzxh, skssqq, xse");
    assert!(copy.follow() > 0);
    let view = lab.view();
    assert!(!view.is_empty() && view.values().all(|row| row["uscc"] == subject.as_str()));
    assert_eq!(copy.rows, view);

    // A change brings the row that changed; a change of what is hidden, nothing.
    let version = |sales, version| Declaration {
        uscc: &subject,
        number: 1,
        sales,
        version,
    };
    declare(&lab, [version(1000, 1)]);
    assert_eq!(copy.follow(), 1);
    declare(&lab, [version(2000, 2)]);
    let before = copy.cursor.clone();
    assert_eq!(copy.pull(json!({})), (1, true));
    assert_eq!(copy.rows, lab.view());
    let others = lab.tax(SQL).done().json()["rows"].clone();
    let others = others.as_array().unwrap();
    let hidden = others.iter().find(|row| row["uscc"] != subject.as_str());
    let hidden = hidden.unwrap()["uscc"].as_str().unwrap();
    declare(
        &lab,
        [Declaration {
            uscc: hidden,
            number: 2,
            sales: 5,
            version: 3,
        }],
    );
    // Asked again with the cursor of before: the same answer, byte for byte, until it is acknowledged.
    let again = |cursor: &Option<String>| {
        let body = copy.ask(json!({ "cursor": cursor })).is(200).body;
        assert_eq!(body, copy.ask(json!({ "cursor": cursor })).is(200).body);
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    let repeated = again(&before);
    assert_eq!(repeated["next"], json!(copy.cursor));
    assert_eq!(copy.follow(), 0, "what is hidden says nothing");

    // A cursor is of its subscription and of its moment.
    copy.ask(json!({ "cursor": before }))
        .fails(409, "CursorOutdated");
    copy.ask(json!({ "cursor": "AAAA" }))
        .fails(400, "CursorInvalid");
    let fresh = service.post(&copy.pages, "").with_bearer(&token);
    fresh.send().fails(409, "CursorRequired");
    copy.ask(json!({ "restart": true }))
        .fails(400, "BadRequest");
    copy.ask(json!({ "org": "tax_bureau" }))
        .fails(400, "BadRequest");

    // Taken back: the rows go, and what is to be deleted is named.
    lab.json(&["consent", "withdraw", &consent]).done();
    assert!(copy.follow() > 1);
    assert_eq!((copy.rows.len(), lab.view().len()), (0, 0));
    let [notice] = &copy.notices[..] else {
        panic!("one notice: {:?}", copy.notices);
    };
    assert_eq!(
        (&notice["uscc"], &notice["consent_id"]),
        (&json!(subject), &json!(consent))
    );
    assert_eq!(notice["dataset"], "vat_declaration");
    assert!(notice["delete_by"].is_string(), "{notice}");
    assert_eq!(copy.follow(), 0);

    // Whoever lost what it held begins again.
    lab.granted_stream("uscc, pzxh, xse");
    copy.follow();
    let held = std::mem::take(&mut copy.rows);
    copy.cursor = None;
    assert!(copy.pull(json!({ "restart": true })).0 > 1);
    copy.follow();
    assert_eq!(copy.rows, held);

    // The enterprise sees every page that held something of it.
    let accesses = forwarded(&lab, &["audit", "accesses", &subject]).json();
    let pages = accesses["accesses"].as_array().unwrap().iter();
    let brought: Vec<&Value> = pages
        .filter(|access| access["org"] == "city_bank" && access["decision"] == "allowed")
        .collect();
    assert!(brought.len() >= 6, "{accesses}");

    // An end ends it.
    let end = || service.call("DELETE", &path).with_bearer(&token).send();
    assert_eq!(end().is(200).json()["subscription"]["ended"], true);
    end().fails(404, "UnknownSubscription");
    copy.ask(json!({})).fails(404, "UnknownSubscription");
    assert_eq!(get(&path).is(200).json()["subscription"]["ended"], true);
    service.stop();
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn subscriptions_are_of_their_organisation_and_purpose() {
    let lab = Lab::world();
    let service = Service::start(&lab);
    for name in ["filings", "sales"] {
        let file = lab.write("topic.yaml", topic(name, "uscc, pzxh, xse"));
        forwarded(&lab, &["topic", "add", &file]);
    }
    let (bank, tax) = (
        lab.subscriber(),
        lab.subscriber_of("tax_bureau", "supervision.tax"),
    );
    let steward = lab.token(&["--role", "steward"]);
    let wish = |wish: Value, token: &str| {
        let made = service.post("/v1/subscriptions", wish.to_string());
        made.with_bearer(token).send()
    };
    // Nobody subscribes for others, for a purpose that is not in the token, or to what cannot be brought.
    let filings = json!({ "topic": "filings", "purpose": "policy.matching" });
    let mut others = filings.clone();
    others["org"] = json!("city_bank");
    wish(others.clone(), &tax).fails(403, "OutOfReach");
    wish(filings.clone(), &tax).fails(403, "OutOfReach");
    wish(filings.clone(), &lab.analyst()).fails(403, "OperationNotAllowed");
    wish(filings.clone(), &steward).fails(403, "OutOfReach");
    let unagreed = lab.subscriber_of("city_bank", "matching.supply_demand");
    wish(
        json!({ "topic": "filings", "purpose": "matching.supply_demand" }),
        &unagreed,
    )
    .fails(403, "KeyNotDisclosed");
    wish(
        json!({ "topic": "none", "purpose": "policy.matching" }),
        &bank,
    )
    .fails(404, "UnknownTopic");
    // Safe to repeat; a second one like it is refused.
    let add = || {
        let made = service.post("/v1/subscriptions", filings.to_string());
        let made = made.with_bearer(&bank).with("idempotency-key", "one");
        made.send().is(201).json()
    };
    let made = add();
    assert_eq!(made, add());
    wish(filings.clone(), &bank).fails(409, "SubscriptionExists");
    // The data authority subscribes whom it names.
    let by_law = json!({ "org": "tax_bureau", "topic": "filings", "purpose": "supervision.tax" });
    let of_tax = wish(by_law, &steward).is(201).json();
    let path = |made: &Value| {
        let id = made["subscription"]["subscription_id"].as_str().unwrap();
        format!("/v1/subscriptions/{id}")
    };
    let (own, of_tax) = (path(&made), path(&of_tax));
    let listed = |token: &str| {
        let listed = service.get("/v1/subscriptions").with_bearer(token).send();
        let listed = listed.is(200).json()["subscriptions"].clone();
        listed.as_array().unwrap().len()
    };
    assert_eq!((listed(&bank), listed(&tax), listed(&steward)), (1, 1, 2));

    // A cursor of another subscription, of another organisation or of one's own, is refused.
    let second = subscribe(&service, &bank, "sales", "policy.matching");
    let cursor = |path: &str, token: &str| {
        let mut copy = Copy::new(&service, token, path);
        copy.pull(json!({}));
        copy.cursor.unwrap()
    };
    for foreign in [cursor(&second, &bank), cursor(&of_tax, &tax)] {
        let copy = Copy::new(&service, &bank, &own);
        copy.ask(json!({ "cursor": foreign }))
            .fails(403, "CursorForeign");
    }
    // The subscription of another organisation, whatever cursor.
    for token in [&tax, &unagreed] {
        let copy = Copy::new(&service, token, &own);
        copy.ask(json!({})).fails(403, "OutOfReach");
        copy.ask(json!({ "cursor": cursor(&own, &bank) }))
            .fails(403, "OutOfReach");
        let get = service.get(&own).with_bearer(token).send();
        get.fails(403, "OutOfReach");
        let end = service.call("DELETE", &own).with_bearer(token).send();
        end.fails(403, "OutOfReach");
    }
    let none = "/v1/subscriptions/s-0000000000000000";
    let get = |token: &str| service.get(none).with_bearer(token).send();
    get(&bank).fails(403, "OutOfReach");
    get(&steward).fails(404, "UnknownSubscription");
    // Rows leave to their receiver alone; whoever runs the hub can stop them.
    let page = Copy::new(&service, &steward, &own).ask(json!({}));
    page.fails(403, "OperationNotAllowed");
    let operator = lab.token(&["--role", "operator"]);
    let end = service.call("DELETE", &of_tax).with_bearer(&operator);
    end.send().is(200);
    service.stop();
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn a_subscriber_that_waits_is_told_at_once() {
    let lab = Lab::world();
    let (subject, token) = (lab.subject(), lab.subscriber());
    let file = lab.write("topic.yaml", topic("filings", "uscc, pzxh, xse"));
    lab.run(&["topic", "add", &file]).done();
    lab.granted_stream("uscc, pzxh, xse");
    let service = Service::start(&lab);
    let path = subscribe(&service, &token, "filings", "policy.matching");
    let mut copy = Copy::new(&service, &token, &path);
    copy.follow();
    let begun = Instant::now();
    assert_eq!(copy.pull(json!({ "wait": 1 })), (0, false));
    assert!(begun.elapsed() >= Duration::from_millis(900));
    // Waiting while it changes.
    let (answered, landed) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let got = copy.pull(json!({ "wait": 30 }));
            (got, Instant::now())
        });
        declare(
            &lab,
            [Declaration {
                uscc: &subject,
                number: 1,
                sales: 1000,
                version: 1,
            }],
        );
        let landed = Instant::now();
        let (got, at) = waiting.join().unwrap();
        assert_eq!(got, (1, true));
        (at, landed)
    });
    let took = answered.saturating_duration_since(landed);
    println!("told {took:?} after the feed was acknowledged");
    assert!(took < Duration::from_secs(5), "{took:?}");
    copy.follow();
    // One that waits does not keep the service from ending, and gets its answer.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| copy.pull(json!({ "wait": 30 })));
        // It waits once it has been admitted.
        let figures = lab.token(&["--role", "operator"]);
        let begun = Instant::now();
        while connections(&service, &figures) < 2 {
            assert!(begun.elapsed() < SOON);
        }
        let begun = Instant::now();
        service.tell();
        assert_eq!(waiting.join().unwrap(), (0, false));
        assert!(begun.elapsed() < Duration::from_secs(10));
    });
    let (status, said) = service.ended();
    assert!(status.success(), "{said:?}");
}

/// How many connections the service has.
fn connections(service: &Service, operator: &str) -> u32 {
    let figures = service.get("/metrics").with_bearer(operator).send().is(200);
    let figures = String::from_utf8(figures.body.to_vec()).unwrap();
    let line = figures
        .lines()
        .find_map(|line| line.strip_prefix("qihui_connections "));
    line.unwrap().parse().unwrap()
}

#[test]
fn gate_4_a_page_that_is_on_its_way_stops_at_a_withdrawal() {
    let lab = Lab::world();
    let (subject, token) = (lab.subject(), lab.subscriber());
    let file = lab.write("topic.yaml", topic("filings", "uscc, pzxh, xse"));
    lab.run(&["topic", "add", &file]).done();
    // So many that no buffer of the system holds them.
    declare(
        &lab,
        (0..20_000).map(|number| Declaration {
            uscc: &subject,
            number,
            sales: number,
            version: 1,
        }),
    );
    let consent = lab.granted_stream("uscc, pzxh, xse");
    let denied_before = denied(&lab).len();
    let service = Service::start(&lab);
    let path = subscribe(&service, &token, "filings", "policy.matching");
    let mut stream = narrow(service.address);
    write!(
        stream,
        "POST {path}/pages HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
    )
    .unwrap();
    let mut some = [0; 1 << 12];
    stream.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200"));
    let begun = Instant::now();
    lab.json(&["consent", "withdraw", &consent]).done();
    let took = begun.elapsed();
    assert!(took < SOON / 3, "the withdrawal was held up: {took:?}");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the page came to its end");
    let whole = 20_000 * 300;
    assert!(rest.len() < whole / 2, "{} bytes came after it", rest.len());
    // The record says that it broke off, and names the enterprise: some may have left.
    let accesses = forwarded(&lab, &["audit", "accesses", &subject]).json();
    let last = accesses["accesses"].as_array().unwrap().last().unwrap();
    assert_eq!(last["org"], "city_bank");
    assert_eq!(last["decision"], "failed", "{last}");
    // Asked again: what may have arrived has to go.
    let mut copy = Copy::new(&service, &token, &path);
    let reply = copy.ask(json!({})).is(200).json();
    let events = reply["events"].as_array().unwrap();
    let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!(kinds("qihui.record.upserted.v1"), 0);
    assert!(kinds("qihui.record.deleted.v1") > 20_000 - 1);
    copy.cursor = Some(reply["next"].as_str().unwrap().to_owned());
    copy.follow();
    assert_eq!(copy.rows.len(), 0);
    service.stop();
    // What breaks off after its decision has an end, and is no refusal besides.
    assert_eq!(denied(&lab).len(), denied_before);
    lab.run(&["audit", "verify"]).done();
}
