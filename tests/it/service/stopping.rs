//! The end of a service.

use std::io::Read;

use super::shared::{ENDLESS, Service, access_id, ask_tax, bare};
use crate::support::Lab;

#[test]
fn gate_3_a_service_that_is_stopped_ends_every_access() {
    let lab = Lab::world();
    let inspector = lab.inspector();
    let service = Service::start_with(&lab, &[("SERVE__STOP_SECONDS", "1")]);
    let mut running = bare(&service, &inspector, &ask_tax(ENDLESS));
    access_id(&mut running);
    let mut some = vec![0; 1 << 12];
    running.read_exact(&mut some).unwrap();
    service.tell();
    let (status, said) = service.ended();
    assert!(status.success(), "{said:?}");
    let mut rest = Vec::new();
    let _ = running.read_to_end(&mut rest);
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "a part was given for the whole"
    );
    // The end was written by the service, not by whoever came after it.
    let accesses = lab
        .json(&["audit", "accesses", &lab.subject()])
        .done()
        .json();
    let last = accesses["accesses"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (last["org"].as_str(), last["decision"].as_str()),
        (Some("tax_bureau"), Some("failed"))
    );
    assert!(!lab.hub().join("hub.sock").exists());
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn a_service_that_was_killed_is_no_obstacle() {
    let lab = Lab::world();
    let inspector = lab.inspector();
    let service = Service::start(&lab);
    let mut running = bare(&service, &inspector, &ask_tax(ENDLESS));
    access_id(&mut running);
    // Killed: its socket stays, its access has no end.
    drop(service);
    assert!(lab.hub().join("hub.sock").exists());
    lab.run(&["org", "list"]).done();
    let accesses = lab
        .json(&["audit", "accesses", &lab.subject()])
        .done()
        .json();
    let last = accesses["accesses"].as_array().unwrap().last().unwrap();
    assert_eq!(last["decision"], "interrupted");
    let again = Service::start(&lab);
    again.get("/livez").send().is(200);
    again.stop();
}

#[test]
fn what_runs_may_end_and_nothing_new_begins() {
    let lab = Lab::world();
    let inspector = lab.inspector();
    let service = Service::start(&lab);
    let idle = std::net::TcpStream::connect(service.address).unwrap();
    let question = ask_tax("SELECT count(*) AS n FROM vat_declaration");
    let reply = service
        .post("/v1/queries", question)
        .with_bearer(&inspector)
        .send();
    assert!(reply.is(200).rows()[0]["n"].as_i64().unwrap() > 0);
    service.tell();
    let (status, said) = service.ended();
    assert!(status.success(), "{said:?}");
    drop(idle);
}
