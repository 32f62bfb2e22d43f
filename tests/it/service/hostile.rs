//! Clients that mean no good, or have gone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::shared::{
    ENDLESS, SOON, Service, access_id, ask_bank, ask_over, ask_tax, bare, narrow, narrow_holds,
    outcome,
};
use crate::support::Lab;

/// Reads what a connection gives until it ends; what came.
pub fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut part = vec![0; 1 << 16];
    loop {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return bytes,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
        }
    }
}

#[test]
fn a_huge_body_is_refused_before_it_is_read_and_an_endless_one_when_it_is_too_large() {
    let lab = Lab::empty();
    let steward = lab.token(&["--role", "steward"]);
    let service = Service::start(&lab);
    let connect = || {
        let stream = TcpStream::connect(service.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let head =
        format!("POST /v1/agreements HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {steward}\r\n");
    let mut declared = connect();
    write!(declared, "{head}content-length: 1073741824\r\n\r\n").unwrap();
    let answer = String::from_utf8(to_the_end(&mut declared)).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("BodyTooLarge"),
        "{answer}"
    );
    let mut endless = connect();
    write!(endless, "{head}transfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = [&b"10000\r\n"[..], &[b'a'; 0x10000], b"\r\n"].concat();
    // A gigabyte, if it were taken.
    let sent = (0..16_384)
        .take_while(|_| endless.write_all(&chunk).is_ok())
        .count();
    assert!(sent < 1024, "{sent} chunks of 64 KiB were taken");
    // A body of a route that wants none is not read either.
    let mut stray = connect();
    let head = head.replace("POST /v1/agreements", "GET /v1/datasets");
    write!(stray, "{head}content-length: 1073741824\r\n\r\n").unwrap();
    let answer = String::from_utf8(to_the_end(&mut stray)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    service.get("/livez").send().is(200);
    service.stop();
}

#[test]
fn heads_are_bounded_in_time_and_size() {
    let lab = Lab::empty();
    let limits = [
        ("SERVE__HEADER_SECONDS", "1"),
        ("SERVE__HEADERS", "16"),
        ("SERVE__HEADER_BYTES", "8192"),
    ];
    let service = Service::start_with(&lab, &limits);
    let connect = || {
        let stream = TcpStream::connect(service.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let begun = Instant::now();
    let mut slow = connect();
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: h").unwrap();
    to_the_end(&mut slow);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < SOON / 2,
        "{took:?}"
    );
    let many: String = (0..40).map(|number| format!("x-{number}: y\r\n")).collect();
    for headers in [many, format!("x-long: {}\r\n", "y".repeat(20_000))] {
        let mut stream = connect();
        // The answer may come, and the connection end, before all of it is sent.
        let _ = write!(stream, "GET /livez HTTP/1.1\r\nhost: hub\r\n{headers}\r\n");
        let answer = String::from_utf8_lossy(&to_the_end(&mut stream)).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
    service.get("/livez").send().is(200);
    service.stop();
}

#[test]
fn gate_3_a_client_that_stops_reading_or_goes_away_leaves_no_access_without_its_end() {
    let lab = Lab::world();
    let (inspector, auditor) = (lab.inspector(), lab.token(&["--role", "auditor"]));
    let service = Service::start_with(&lab, &[("SERVE__STALL_SECONDS", "1")]);
    let mut stuck = bare(&service, &inspector, &ask_tax(ENDLESS));
    let stuck_access = access_id(&mut stuck);
    let mut leaving = bare(&service, &inspector, &ask_tax(ENDLESS));
    let left_access = access_id(&mut leaving);
    drop(leaving);
    assert_eq!(outcome(&service, &auditor, &left_access), "OutputFailed");
    assert_eq!(outcome(&service, &auditor, &stuck_access), "OutputFailed");
    // The connection is cut: nobody can take the part for the whole.
    let answer = to_the_end(&mut stuck);
    assert!(!answer.ends_with(b"0\r\n\r\n"));
    // One that went before the first byte was ready.
    let question = ask_tax("SELECT count(*) FROM vat_declaration");
    drop(bare(&service, &inspector, &question));
    service.get("/livez").send().is(200);
    service.stop();
    lab.run(&["audit", "verify"]).done();
}

/// What is withdrawn while an answer is on its way stops leaving at the acknowledgement, and a client that does not
/// read cannot hold up whoever withdraws.
#[test]
fn gate_4_nothing_leaves_after_a_withdrawal_was_acknowledged() {
    let lab = Lab::world();
    let consent = lab.granted("uscc, skssqq, xse");
    let (analyst, auditor) = (lab.analyst(), lab.token(&["--role", "auditor"]));
    let service = Service::start(&lab);
    let rows = service
        .post("/v1/queries", ask_bank("SELECT xse FROM vat_declaration"))
        .with_bearer(&analyst)
        .send();
    let rows = rows.is(200).rows().len();
    // As many copies as make a few million rows out of those of one enterprise.
    let mut copies = 1;
    while rows.pow(copies) < 3_000_000 {
        copies += 1;
    }
    // Each join holds a few rows and streams the rest through.
    let mut sql = "SELECT uscc, xse FROM vat_declaration".to_owned();
    for _ in 1..copies {
        sql = format!("SELECT a.uscc, s.xse FROM vat_declaration a CROSS JOIN ({sql}) s");
    }
    let mut stream = narrow(service.address);
    ask_over(&mut stream, &analyst, &ask_bank(&sql));
    let access = access_id(&mut stream);
    let mut some = vec![0; 1 << 16];
    stream.read_exact(&mut some).unwrap();
    let begun = Instant::now();
    lab.json(&["consent", "withdraw", &consent]).done();
    assert!(
        begun.elapsed() < SOON / 3,
        "the withdrawal was held up: {:?}",
        begun.elapsed()
    );
    // What was in the system's buffers by then may still arrive, and hardly more. That nothing is written to the socket after
    // the acknowledgement is looked at more closely in `src/serve/wire.rs`.
    let rest = to_the_end(&mut stream);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the answer came to its end");
    let held = narrow_holds();
    assert!(
        rest.len() < held + (128 << 10),
        "{} bytes came after the withdrawal; the system holds {held}",
        rest.len()
    );
    assert_eq!(outcome(&service, &auditor, &access), "ConsentChanged");
    let after = service
        .post("/v1/queries", ask_bank("SELECT xse FROM vat_declaration"))
        .with_bearer(&analyst)
        .send();
    assert!(after.is(200).rows().is_empty());
    service.stop();
}

#[test]
fn bodies_that_are_not_what_they_should_be_are_told_apart() {
    let lab = Lab::world();
    let (analyst, steward) = (lab.analyst(), lab.token(&["--role", "steward"]));
    let service = Service::start(&lab);
    let bad = [
        ("/v1/queries", &analyst, "{".to_owned()),
        ("/v1/queries", &analyst, "[]".to_owned()),
        (
            "/v1/queries",
            &analyst,
            json!({ "purpose": "policy.matching" }).to_string(),
        ),
        (
            "/v1/queries",
            &analyst,
            json!({ "purpose": "policy.matching", "sql": "SELECT 1", "roles": ["steward"] })
                .to_string(),
        ),
        (
            "/v1/organisations",
            &steward,
            json!({ "id": "../x", "name": "X", "kind": "bank" }).to_string(),
        ),
        ("/v1/organisations", &steward, "\u{0}".to_owned()),
    ];
    for (path, token, body) in bad {
        let reply = service.post(path, body.clone()).with_bearer(token).send();
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (400, &json!("BadRequest")),
            "{body}"
        );
    }
    let deep = "[".repeat(200_000);
    service
        .post("/v1/queries", deep.clone())
        .with_bearer(&analyst)
        .send()
        .fails(400, "BadRequest");
    let reply = service
        .post("/v1/agreements", deep)
        .with_bearer(&steward)
        .send();
    assert!((400..500).contains(&reply.status), "{reply:?}");
    for path in [
        "/v1/consents/%00",
        "/v1/consents?limit=x",
        "/v1/consents?nonsense=1",
        "/v1/enterprises/123/accesses",
    ] {
        let reply = service.get(path).with_bearer(&analyst).send();
        assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
    }
    service.get("/livez").send().is(200);
    service.stop();
}

#[test]
fn queries_at_once_are_bounded() {
    let lab = Lab::world();
    let inspector = lab.inspector();
    let service = Service::start_with(&lab, &[("SERVE__QUERIES", "1")]);
    let mut first = bare(&service, &inspector, &ask_tax(ENDLESS));
    access_id(&mut first);
    let question = ask_tax("SELECT count(*) FROM vat_declaration");
    service
        .post("/v1/queries", question.clone())
        .with_bearer(&inspector)
        .send()
        .fails(503, "TooBusy");
    drop(first);
    let begun = Instant::now();
    loop {
        let reply = service
            .post("/v1/queries", question.clone())
            .with_bearer(&inspector)
            .send();
        if reply.status == 200 {
            break;
        }
        assert!(begun.elapsed() < SOON, "the place is not given free");
    }
    service.stop();
}
