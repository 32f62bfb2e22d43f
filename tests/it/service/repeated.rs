//! Requests with an Idempotency-Key.

use serde_json::json;

use super::shared::Service;
use crate::support::{Lab, request};

#[test]
fn a_repeated_request_happens_once() {
    let lab = Lab::world();
    let (analyst, steward) = (
        lab.analyst(),
        lab.token(&["--role", "steward", "--subject", "one"]),
    );
    let colleague = lab.token(&["--role", "steward", "--subject", "two"]);
    let service = Service::start(&lab);
    let add = |token: &str, key: &str, id: &str| {
        let body = json!({ "id": id, "name": "Name", "kind": "service" }).to_string();
        service
            .post("/v1/organisations", body)
            .with_bearer(token)
            .with("idempotency-key", key)
            .send()
    };
    let first = add(&steward, "k-1", "alpha").is(201);
    let again = add(&steward, "k-1", "alpha").is(201);
    assert_eq!(first.body, again.body);
    assert_eq!(first.headers["content-type"], again.headers["content-type"]);
    add(&steward, "k-1", "beta").fails(422, "IdempotencyConflict");
    // Another principal's key is another key: there the organisation exists by now, and that answer is kept too.
    add(&colleague, "k-1", "alpha").fails(409, "OrganisationExists");
    add(&colleague, "k-1", "alpha").fails(409, "OrganisationExists");
    for key in ["", "two words", &"k".repeat(129)] {
        add(&steward, key, "gamma").fails(400, "BadIdempotencyKey");
    }
    // The same key for another operation is another key as well.
    let wish = request(&lab.subject(), "uscc, xse", 90);
    let ask = || {
        service
            .post("/v1/consents", wish.clone())
            .with_bearer(&analyst)
            .with("idempotency-key", "k-1")
            .send()
    };
    let asked = ask().is(201).json();
    assert_eq!(ask().is(201).json(), asked, "one consent, not two");
    let listed = service
        .get("/v1/consents")
        .with_bearer(&analyst)
        .send()
        .is(200)
        .json();
    assert_eq!(listed["consents"].as_array().unwrap().len(), 1);
    service.stop();
    // The answer outlives the service.
    let service = Service::start(&lab);
    let body = json!({ "id": "alpha", "name": "Name", "kind": "service" }).to_string();
    let kept = service
        .post("/v1/organisations", body)
        .with_bearer(&steward)
        .with("idempotency-key", "k-1")
        .send();
    assert_eq!(kept.is(201).body, first.body);
    service.stop();
    assert_eq!(
        crate::support::files(&lab.hub().join("state"))
            .iter()
            .filter(|file| { file.ends_with("answers.db") })
            .count(),
        1
    );
}

#[test]
fn the_same_request_at_the_same_time_happens_once() {
    let lab = Lab::world();
    let analyst = lab.analyst();
    let service = Service::start(&lab);
    let wish = request(&lab.subject(), "uscc, xse", 90);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    service
                        .post("/v1/consents", wish.clone())
                        .with_bearer(&analyst)
                        .with("idempotency-key", "one")
                        .send()
                        .status
                })
            })
            .collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(
        statuses.iter().all(|status| [201, 409].contains(status)) && statuses.contains(&201),
        "{statuses:?}"
    );
    let listed = service
        .get("/v1/consents")
        .with_bearer(&analyst)
        .send()
        .is(200)
        .json();
    assert_eq!(listed["consents"].as_array().unwrap().len(), 1);
    service.stop();
}
