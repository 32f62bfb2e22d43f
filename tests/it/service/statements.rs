//! Statements that are none, too long, or prepared for later; and answers that nobody waits for to their end.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use serde_json::json;

use super::hostile::to_the_end;
use super::shared::{ENDLESS, SOON, Service, access_id, ask_bank, ask_tax, bare, outcome};
use crate::support::{Answer, Lab, query};

/// How many entries the log has.
fn entries(lab: &Lab) -> u64 {
    let verified = lab.json(&["audit", "verify"]).done().json();
    verified["entries"].as_u64().unwrap()
}

#[test]
fn a_statement_that_is_no_text_is_refused_on_every_way_in() {
    let lab = Lab::world();
    let analyst = lab.analyst();
    let service = Service::start(&lab);
    let before = entries(&lab);
    let mut broken = br#"{"purpose": "policy.matching", "sql": "SELECT '"#.to_vec();
    broken.extend([0xff, 0xfe]);
    broken.extend(br#"'"}"#);
    let surrogate = br#"{"purpose": "policy.matching", "sql": "SELECT '\ud800'"}"#.to_vec();
    let utf_16: Vec<u8> = ask_bank("SELECT 1")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for body in [broken, surrogate, utf_16] {
        let reply = service
            .post("/v1/queries", body)
            .with_bearer(&analyst)
            .send();
        reply.fails(400, "BadRequest");
    }
    // Nothing was decided: each is recorded as refused.
    assert_eq!(entries(&lab), before + 3);
    // Letters without glyphs, and a zero, are text.
    let zero = ask_bank("SELECT '\u{0}\u{202e}\u{feff}' AS odd");
    let reply = service
        .post("/v1/queries", zero)
        .with_bearer(&analyst)
        .send();
    assert_eq!(
        reply.is(200).rows(),
        [json!({ "odd": "\u{0}\u{202e}\u{feff}" })]
    );
    // The command line, through the service and without it.
    let words = query("city_bank", "policy.matching", &[]);
    let by_hand = || {
        let before = entries(&lab);
        let mut command = lab.command(&words);
        command.arg(OsStr::from_bytes(b"SELECT '\xff'"));
        let answer: Answer = command.output().unwrap().into();
        answer.fails(2, "BadUsage", &["UTF-8"]);
        assert_eq!(entries(&lab), before + 1);
    };
    by_hand();
    service.stop();
    by_hand();
}

#[test]
fn a_long_statement_is_refused_by_its_length_and_recorded_as_refused() {
    let lab = Lab::world();
    let analyst = lab.analyst();
    let service = Service::start(&lab);
    let ask = |sql: &str| {
        let call = service.post("/v1/queries", ask_bank(sql));
        call.with_bearer(&analyst).send()
    };
    let of_length = |bytes: usize| format!("SELECT '{}'", "x".repeat(bytes - 9));
    let before = entries(&lab);
    let begun = Instant::now();
    // Ten megabytes are no document: they are refused by the length they are said to have, and nobody waits for them.
    let length = ask_bank(&of_length(10 << 20)).len();
    let mut connection = TcpStream::connect(service.address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "POST /v1/queries HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {analyst}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).unwrap();
    let answer = String::from_utf8(to_the_end(&mut connection)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("BodyTooLarge"));
    // Who sends them all the same before it reads can do so, and gets the answer.
    let mut connection = TcpStream::connect(service.address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(&vec![b'x'; length]).unwrap();
    let answer = String::from_utf8(to_the_end(&mut connection)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("BodyTooLarge"));
    // Refused unread, and recorded.
    assert_eq!(entries(&lab), before + 2);
    // What a document may hold is more than what a statement may be.
    ask(&of_length((256 << 10) + 1)).fails(422, "StatementTooLong");
    ask(&format!("SELECT {}", "(".repeat(200_000))).fails(422, "StatementTooDeep");
    ask(&format!("SELECT 1{}", " OR 1 = 1".repeat(20_000))).fails(422, "StatementTooDeep");
    assert_eq!(entries(&lab), before + 5);
    assert!(begun.elapsed() < SOON / 2, "{:?}", begun.elapsed());
    ask(&of_length(256 << 10)).is(200);
    service.stop();
}

/// There are no sessions: nothing is prepared for later, so nothing that was prepared outlives a withdrawal.
#[test]
fn nothing_can_be_prepared_before_a_withdrawal_and_asked_after_it() {
    let lab = Lab::world();
    let consent = lab.granted("uscc, xse");
    let analyst = lab.analyst();
    let service = Service::start(&lab);
    let ask = |sql: &str| {
        let call = service.post("/v1/queries", ask_bank(sql));
        call.with_bearer(&analyst).send()
    };
    let sql = "SELECT xse FROM vat_declaration";
    let prepare = format!("PREPARE p AS {sql}");
    let all = [
        &prepare,
        "EXECUTE p",
        "EXECUTE p (1)",
        "DEALLOCATE p",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH 1 FROM c",
    ];
    let refused = || {
        for sql in all {
            let reply = ask(sql);
            assert_eq!(reply.status, 422, "{sql}");
            let code = reply.json()["code"].clone();
            assert!(code == "NotAllowed" || code == "BadSql", "{sql}: {code}");
        }
        ask("SELECT xse FROM vat_declaration WHERE uscc = $1").fails(422, "NotAllowed");
    };
    assert!(!ask(sql).is(200).rows().is_empty());
    refused();
    lab.json(&["consent", "withdraw", &consent]).done();
    refused();
    assert!(ask(sql).is(200).rows().is_empty());
    service.stop();
}

/// How many leave.
const LEAVING: usize = 8;

/// Clients that leave in the middle, one after another, more than there are places: each access has its end, and its
/// place, its memory and its open files are there for the next.
#[test]
fn what_a_client_leaves_behind_is_given_back() {
    let lab = Lab::world();
    let (inspector, auditor) = (lab.inspector(), lab.token(&["--role", "auditor"]));
    let limits = [
        ("QUERY__RUNNING", "2"),
        ("QUERY__RUNNING_PER_ORGANISATION", "1"),
        ("QUERY__WAITING_PER_ORGANISATION", "2"),
    ];
    let service = Service::start_with(&lab, &limits);
    let ask = || {
        let question = ask_tax("SELECT count(*) AS n FROM vat_declaration");
        let call = service.post("/v1/queries", question);
        call.with_bearer(&inspector).send().is(200).rows()
    };
    let rows = ask();
    let opened = || {
        fs::read_dir(format!("/proc/{}/fd", service.id()))
            .unwrap()
            .count()
    };
    let before = opened();
    for _ in 0..LEAVING {
        let mut stream = bare(&service, &inspector, &ask_tax(ENDLESS));
        let access = access_id(&mut stream);
        drop(stream);
        assert_eq!(outcome(&service, &auditor, &access), "OutputFailed");
    }
    assert_eq!(ask(), rows);
    let begun = Instant::now();
    // Whoever left had a connection at least. The service itself may meanwhile have opened a few to its ledger.
    while opened() > before + LEAVING / 2 {
        assert!(
            begun.elapsed() < SOON,
            "{} files, {before} before",
            opened()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    service.stop();
    lab.run(&["audit", "verify"]).done();
}
