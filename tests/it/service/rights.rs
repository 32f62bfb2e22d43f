//! Every operation of the OpenAPI document: without a token, with a role that may not, and about what is another's.

use std::fs;
use std::path::Path;

use qihui::identity::operation::reach;
use qihui::identity::{Operation, Reach, Role};
use serde_json::{Value, json};

use super::shared::{Service, ask_bank};
use crate::support::{Lab, query, request};

/// The operations that need no token. The list may only shrink.
const OPEN: [&str; 3] = ["livez", "openapi", "readyz"];

#[test]
fn the_description_is_the_golden_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi/openapi.json");
    let present = qihui::serve::api::document();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &present).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    assert!(
        present == golden,
        "the API is not what docs/openapi/openapi.json says: UPDATE_GOLDEN=1 writes it anew"
    );
    let document: Value = serde_json::from_str(&present).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
}

/// An operation of the description: its word, method, path.
fn operations() -> Vec<(String, String, String)> {
    let document: Value = serde_json::from_str(&qihui::serve::api::document()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            operations.push((id, method.to_uppercase(), path.clone()));
        }
    }
    operations
}

struct World {
    lab: Lab,
    service: Service,
    consent: String,
    feed: String,
    subscription: String,
    holding: String,
}

fn world() -> World {
    let lab = Lab::world();
    // The tax bureau keeps what it sees of the one enterprise, by law.
    let keep = [
        "--action",
        "store",
        "--subject",
        &lab.subject(),
        "SELECT xse FROM vat_declaration",
    ];
    let kept = lab
        .json(&query("tax_bureau", "supervision.tax", &keep))
        .done()
        .json();
    let service = Service::start(&lab);
    let analyst = lab.analyst();
    let wish = request(&lab.subject(), "uscc, xse", 90);
    let asked = service
        .post("/v1/consents", wish)
        .with_bearer(&analyst)
        .send()
        .is(201)
        .json();
    let feeds = lab.json(&["feed", "list"]).done().json();
    let file = lab.write(
        "topic.yaml",
        super::subscriptions::topic("filings", "uscc, pzxh"),
    );
    lab.run(&["topic", "add", &file]).done();
    let wish = json!({ "topic": "filings", "purpose": "policy.matching" });
    let subscribed = service
        .post("/v1/subscriptions", wish.to_string())
        .with_bearer(&lab.subscriber())
        .send()
        .is(201)
        .json();
    let subscription = subscribed["subscription"]["subscription_id"].as_str();
    World {
        subscription: subscription.unwrap().to_owned(),
        holding: kept["access"]["terms"]["holding"]
            .as_str()
            .unwrap()
            .to_owned(),
        consent: asked["consent_id"].as_str().unwrap().to_owned(),
        feed: feeds["feeds"][0]["name"].as_str().unwrap().to_owned(),
        service,
        lab,
    }
}

impl World {
    /// A path with everything in it that there is.
    fn filled(&self, path: &str) -> String {
        path.replace("{dataset}", "vat_declaration")
            .replace("{consent_id}", &self.consent)
            .replace("{access_id}", "00000000000000000000000000000000")
            .replace("{uscc}", &self.lab.subject())
            .replace("{index}", "0")
            .replace("{feed}", &self.feed)
            .replace("{run}", "1")
            .replace("{topic}", "filings")
            .replace("{subscription_id}", &self.subscription)
            .replace("{holding_id}", &self.holding)
            .replace("{path}", "0/000.p/1")
    }

    fn token_of(&self, role: Role) -> String {
        let subject = self.lab.subject();
        let reaches: &[&str] = match role {
            Role::Enterprise => &["--uscc", &subject],
            Role::Analyst | Role::Subscriber => {
                &["--org", "city_bank", "--purpose", "policy.matching"]
            }
            Role::FeedOwner => &["--feed", &self.feed],
            _ => &[],
        };
        self.lab
            .token(&[&["--role", role.as_str()], reaches].concat())
    }
}

#[test]
fn nothing_is_reached_without_a_token_or_with_a_role_that_may_not() {
    let world = world();
    let operations = operations();
    let mut open: Vec<&str> = Vec::new();
    for (id, method, path) in &operations {
        let path = world.filled(path);
        let reply = world.service.call(method, &path).send();
        if id.parse::<Operation>().is_ok() {
            reply.fails(401, "TokenMissing");
        } else {
            assert!(reply.status < 300, "{id}: {reply:?}");
            open.push(id);
        }
    }
    open.sort_unstable();
    assert_eq!(open, OPEN);
    for operation in Operation::ALL {
        let has_route = operations.iter().any(|(id, ..)| id == operation.as_str());
        let of_the_command_line = [
            Operation::CatalogRecord,
            Operation::LogVerify,
            Operation::PipelineRun,
            Operation::SubscriptionDeliver,
        ];
        assert!(
            has_route || of_the_command_line.contains(operation),
            "{operation}"
        );
    }
    for role in Role::ALL {
        let token = world.token_of(role);
        for (id, method, path) in &operations {
            let Ok(operation) = id.parse::<Operation>() else {
                continue;
            };
            let path = world.filled(path);
            let reply = world.service.call(method, &path).with_bearer(&token).send();
            match reach(role, operation) {
                None => reply.fails(403, "OperationNotAllowed"),
                Some(_) => assert!(
                    reply.status != 401 && reply.json_code() != "OperationNotAllowed",
                    "{role} {id}: {reply:?}"
                ),
            }
        }
    }
    world.service.stop();
}

impl super::shared::Reply {
    /// The code of a problem; nothing, if it is none.
    fn json_code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

#[test]
fn what_is_anothers_is_out_of_reach() {
    let world = world();
    let (service, lab) = (&world.service, &world.lab);
    let subject = lab.subject();
    let all = lab
        .tax("SELECT DISTINCT uscc FROM vat_declaration ORDER BY uscc")
        .done()
        .json();
    let other = all["rows"].as_array().unwrap().iter();
    let other = other
        .map(|row| row["uscc"].as_str().unwrap())
        .find(|uscc| *uscc != subject)
        .unwrap();
    let stranger = lab.token(&["--role", "enterprise", "--uscc", other]);
    let tax = lab.inspector();
    let wish = json!({ "operation": "withdraw" }).to_string();
    let signed =
        json!({ "operation": "withdraw", "signatory": "owner", "signature": "00".repeat(64) });
    let consent = format!("/v1/consents/{}", world.consent);
    let holding = format!("/v1/holdings/{}", world.holding);
    // As another enterprise, with every operation that reaches enterprises.
    let calls = [
        (Operation::ConsentShow, service.get(&consent)),
        (
            Operation::ConsentPreview,
            service.get(&format!("{consent}/preview")),
        ),
        (
            Operation::ConsentText,
            service.post(&format!("{consent}/texts"), wish),
        ),
        (
            Operation::ConsentOperate,
            service.post(&format!("{consent}/operations"), signed.to_string()),
        ),
        (
            Operation::ConsentList,
            service.get(&format!("/v1/consents?uscc={subject}")),
        ),
        (
            Operation::EnterpriseAccesses,
            service.get(&format!("/v1/enterprises/{subject}/accesses")),
        ),
        (Operation::HoldingShow, service.get(&holding)),
        (
            Operation::HoldingList,
            service.get(&format!("/v1/holdings?uscc={subject}")),
        ),
    ]
    .map(|(operation, call)| (operation, call.with_bearer(&stranger).send()));
    let tried: Vec<Operation> = calls.iter().map(|(operation, _)| *operation).collect();
    for operation in Operation::ALL {
        let reaches = reach(Role::Enterprise, *operation) == Some(Reach::Enterprises);
        assert_eq!(
            reaches,
            tried.contains(operation),
            "{operation} is not tried"
        );
    }
    for (_, reply) in calls {
        reply.fails(403, "OutOfReach");
    }
    let own = service
        .get("/v1/consents")
        .with_bearer(&stranger)
        .send()
        .is(200)
        .json();
    assert_eq!(own["consents"], json!([]));
    let kept = service
        .get("/v1/holdings")
        .with_bearer(&stranger)
        .send()
        .is(200)
        .json();
    assert_eq!(kept["holdings"], json!([]));
    // What another organisation keeps, with every operation on it.
    let stated = json!({ "statement": "gone" }).to_string();
    let analyst = lab.analyst();
    for call in [
        service.get(&holding),
        service.get("/v1/holdings?org=tax_bureau"),
        service.get(&format!("/v1/holdings?uscc={subject}")),
        service.get("/v1/holdings/h-0000000000000000"),
        service.post(&format!("{holding}/deletions"), stated),
    ] {
        call.with_bearer(&analyst).send().fails(403, "OutOfReach");
    }
    let kept = service
        .get("/v1/holdings")
        .with_bearer(&analyst)
        .send()
        .is(200)
        .json();
    assert_eq!(kept["holdings"], json!([]));
    // As another organisation, with every operation that reaches organisations.
    let lists = ["/v1/organisations", "/v1/agreements"];
    for (path, key) in lists.into_iter().zip(["id", "org"]) {
        let listed = service.get(path).with_bearer(&tax).send().is(200).json();
        let listed = listed.as_object().unwrap().values().next().unwrap().clone();
        let listed = listed.as_array().unwrap();
        assert!(listed.iter().all(|one| one[key] == "tax_bureau") && listed.len() == 1);
    }
    service
        .get(&consent)
        .with_bearer(&tax)
        .send()
        .fails(403, "OutOfReach");
    service
        .get("/v1/consents?org=city_bank")
        .with_bearer(&tax)
        .send()
        .fails(403, "OutOfReach");
    let own = service
        .get("/v1/consents")
        .with_bearer(&tax)
        .send()
        .is(200)
        .json();
    assert_eq!(own["consents"], json!([]));
    let for_the_bank = request(&subject, "uscc, xse", 90);
    service
        .post("/v1/consents", for_the_bank)
        .with_bearer(&tax)
        .send()
        .fails(403, "OutOfReach");
    let sql = "SELECT uscc FROM vat_declaration";
    service
        .post("/v1/queries", ask_bank(sql))
        .with_bearer(&tax)
        .send()
        .fails(403, "OutOfReach");
    let mut question = json!({ "purpose": "supervision.tax", "org": "city_bank", "sql": sql });
    service
        .post("/v1/queries", question.to_string())
        .with_bearer(&tax)
        .send()
        .fails(403, "OutOfReach");
    question["org"] = json!("tax_bureau");
    let answer = service
        .post("/v1/queries", question.to_string())
        .with_bearer(&tax)
        .send()
        .is(200);
    // Another organisation's subscription, with every operation that reaches a subscriber's own.
    let receiver = lab.subscriber_of("tax_bureau", "supervision.tax");
    let subscription = format!("/v1/subscriptions/{}", world.subscription);
    let brought_to_the_bank =
        json!({ "org": "city_bank", "topic": "filings", "purpose": "policy.matching" });
    let calls = [
        (Operation::SubscriptionShow, service.get(&subscription)),
        (
            Operation::SubscriptionEnd,
            service.call("DELETE", &subscription),
        ),
        (
            Operation::SubscriptionPull,
            service.post(&format!("{subscription}/pages"), "{}"),
        ),
        (
            Operation::SubscriptionAdd,
            service.post("/v1/subscriptions", brought_to_the_bank.to_string()),
        ),
        (
            Operation::ConsentRequest,
            service.post("/v1/consents", request(&subject, "uscc, xse", 90)),
        ),
        (Operation::ConsentShow, service.get(&consent)),
        (
            Operation::ConsentList,
            service.get("/v1/consents?org=city_bank"),
        ),
    ]
    .map(|(operation, call)| (operation, call.with_bearer(&receiver).send()));
    let lists = [
        Operation::OrganisationList,
        Operation::AgreementList,
        Operation::SubscriptionList,
    ];
    for operation in Operation::ALL {
        let reaches = reach(Role::Subscriber, *operation) == Some(Reach::Organisation);
        let tried = lists.contains(operation) || calls.iter().any(|(one, _)| one == operation);
        assert_eq!(reaches, tried, "{operation} is not tried");
    }
    for (_, reply) in calls {
        reply.fails(403, "OutOfReach");
    }
    let listed = service
        .get("/v1/subscriptions")
        .with_bearer(&receiver)
        .send()
        .is(200)
        .json();
    assert_eq!(listed["subscriptions"], json!([]));
    // An access is its maker's; to others it does not exist.
    let path = format!("/v1/accesses/{}", answer.header("qihui-access-id"));
    service.get(&path).with_bearer(&tax).send().is(200);
    service
        .get(&path)
        .with_bearer(&lab.analyst())
        .send()
        .fails(404, "UnknownAccess");
    // Feeds of another department.
    let feeds = lab.json(&["feed", "list"]).done().json();
    let names: Vec<&str> = feeds["feeds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|feed| feed["name"].as_str().unwrap())
        .collect();
    let clerk = lab.token(&["--role", "feed_owner", "--feed", names[1]]);
    let listed = service
        .get("/v1/feeds")
        .with_bearer(&clerk)
        .send()
        .is(200)
        .json();
    assert_eq!(listed["feeds"].as_array().unwrap().len(), 1);
    for path in [
        format!("/v1/feeds/{}/runs", names[0]),
        format!("/v1/feeds/{}/quarantine", names[0]),
    ] {
        service
            .get(&path)
            .with_bearer(&clerk)
            .send()
            .fails(403, "OutOfReach");
    }
    let path = format!("/v1/feeds/{}/runs?name=a.csv", names[0]);
    service
        .post(&path, "x")
        .with_bearer(&clerk)
        .send()
        .fails(403, "OutOfReach");
    world.service.stop();
}

#[test]
fn a_page_token_is_of_one_list_and_one_principal() {
    let world = world();
    let (service, lab) = (&world.service, &world.lab);
    let analyst = lab.analyst();
    for _ in 0..2 {
        let wish = request(&lab.subject(), "uscc, xse", 90);
        service
            .post("/v1/consents", wish)
            .with_bearer(&analyst)
            .send()
            .is(201);
    }
    let first = service
        .get("/v1/consents?limit=2")
        .with_bearer(&analyst)
        .send()
        .is(200)
        .json();
    assert_eq!(first["consents"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let path = format!("/v1/consents?page={next}");
    let second = service
        .get(&path)
        .with_bearer(&analyst)
        .send()
        .is(200)
        .json();
    assert_eq!(second["consents"].as_array().unwrap().len(), 1);
    assert_eq!(second["next"], Value::Null);
    let colleague = [
        "--role",
        "analyst",
        "--subject",
        "colleague",
        "--org",
        "city_bank",
        "--purpose",
        "policy.matching",
    ];
    let colleague = lab.token(&colleague);
    service
        .get(&path)
        .with_bearer(&colleague)
        .send()
        .fails(400, "BadPageToken");
    let elsewhere = format!("/v1/consents?org=city_bank&page={next}");
    service.get(&elsewhere).with_bearer(&analyst).send().is(200);
    let owner = lab.enterprise();
    let elsewhere = format!("/v1/enterprises/{}/accesses?page={next}", lab.subject());
    service
        .get(&elsewhere)
        .with_bearer(&owner)
        .send()
        .fails(400, "BadPageToken");
    world.service.stop();
}

#[test]
fn what_is_not_there_says_so_and_pages_are_served() {
    let lab = Lab::empty();
    let service = Service::start(&lab);
    service.get("/v1/nothing").send().fails(404, "NoSuchRoute");
    service
        .call("DELETE", "/livez")
        .send()
        .fails(405, "MethodNotAllowed");
    let page = service.get("/errors/TokenMissing").send().is(200);
    assert!(String::from_utf8_lossy(&page.body).contains("TokenMissing"));
    service
        .get("/errors/..%2FREADME")
        .send()
        .fails(404, "NoSuchRoute");
    let described = service.get("/openapi.json").send().is(200);
    assert_eq!(described.body, qihui::serve::api::document());
    let operator = lab.token(&["--role", "operator"]);
    let figures = service
        .get("/metrics")
        .with_bearer(&operator)
        .send()
        .is(200);
    let figures = String::from_utf8(figures.body.to_vec()).unwrap();
    assert!(figures.contains("qihui_http_requests_total"), "{figures}");
    service.get("/readyz").send().is(200);
    service.stop();
}
