//! A data directory has one owner, and its time does not go back.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use qihui::hub::{Hub, Opening};
use qihui::layout::Layout;
use qihui::{Failure, Surroundings, config::Config};
use qihui_audit::{Clock, SystemClock};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::support::{Answer, Lab};

/// Opens a hub in this process.
pub async fn open(dir: &Path) -> Result<Hub, Failure> {
    let opening = Opening {
        layout: Layout::new(dir),
        config: Config::default(),
        clock: Arc::new(SystemClock),
        shared: None,
    };
    Hub::open(&opening).await
}

#[test]
fn others_wait_and_then_say_whom_for() {
    let lab = Lab::empty();
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .open(lab.hub().join("hub.lock"))
        .unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut waiting = lab.command(&["org", "list", "--json"]);
    let answer: Answer = waiting
        .env("QIHUI_HUB__LOCK_WAIT_SECONDS", "0")
        .output()
        .unwrap()
        .into();
    answer.fails(3, "HubBusy", &["in use by process", "stop it"]);
    // Given free while somebody waits: the work is done.
    let waiting = lab
        .command(&["org", "list", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    flock(&lock, FlockOperation::Unlock).unwrap();
    assert!(waiting.wait_with_output().unwrap().status.success());
}

#[test]
fn two_processes_take_turns() {
    let lab = Lab::empty();
    let ids: Vec<String> = (0..6).map(|number| format!("org_{number}")).collect();
    let children: Vec<_> = ids
        .iter()
        .map(|id| {
            lab.command(&["org", "add", id, "--name", id, "--kind", "service"])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let listed = lab.json(&["org", "list"]).done().json();
    assert_eq!(listed["orgs"].as_array().unwrap().len(), 6);
    lab.run(&["audit", "verify"]).done();
}

/// A clock that stands where a test puts it.
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn run(lab: &Lab, clock: &Arc<TestClock>, arguments: &[&str]) -> Answer {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let hub = lab.hub();
    let dir = ["qihui", "--data-dir", hub.to_str().unwrap(), "--json"];
    let mut surroundings = Surroundings {
        stdout: &mut stdout,
        stderr: &mut stderr,
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        terminal: false,
    };
    let code = qihui::run([&dir[..], arguments].concat(), &mut surroundings);
    Answer {
        code: code.into(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

#[test]
fn a_clock_set_back_stops_everything_but_proof() {
    let lab = Lab::bare();
    let noon = 1_800_000_000_000;
    let clock = Arc::new(TestClock(AtomicI64::new(noon)));
    run(&lab, &clock, &["init"]).done();
    let add = [
        "org",
        "add",
        "bank",
        "--name",
        "Bank",
        "--kind",
        "bank",
        "--purpose",
        "matching.supply_demand",
    ];
    run(&lab, &clock, &add).done();
    let ask = [
        "query",
        "--org",
        "bank",
        "--purpose",
        "matching.supply_demand",
        "SELECT count(*) FROM admin_licence",
    ];
    run(&lab, &clock, &ask).done();
    clock.0.store(noon - 3_600_000, Ordering::SeqCst);
    let answer = run(&lab, &clock, &ask);
    answer.fails(3, "ClockBack", &["set the clock right"]);
    assert!(answer.json().get("rows").is_none());
    run(
        &lab,
        &clock,
        &["org", "add", "other", "--name", "Other", "--kind", "bank"],
    )
    .fails(3, "ClockBack", &[]);
    run(&lab, &clock, &["audit", "verify"]).done();
    clock.0.store(noon + 1, Ordering::SeqCst);
    run(&lab, &clock, &ask).done();
    let orgs = run(&lab, &clock, &["org", "list"]).done().json();
    assert_eq!(orgs["orgs"].as_array().map(Vec::len), Some(1));
}

/// A ledger or a log that is gone is missed, not made anew.
#[test]
fn what_is_missing_is_missed() {
    let lab = Lab::world();
    let gone = Lab::bare();
    crate::support::copy(&lab.hub(), &gone.hub());
    std::fs::remove_dir_all(gone.hub().join("ledger")).unwrap();
    std::fs::create_dir(gone.hub().join("ledger")).unwrap();
    gone.run(&["org", "list"])
        .fails(1, "LedgerMissing", &["backup"]);
    let gone = Lab::bare();
    crate::support::copy(&lab.hub(), &gone.hub());
    std::fs::remove_dir_all(gone.hub().join("log")).unwrap();
    gone.run(&["org", "list"]).fails(1, "LogNotFound", &[]);
    gone.run(&["audit", "verify"]).fails(1, "LogNotFound", &[]);
    // The shortcut may be deleted at any time: it is found in the log again.
    std::fs::remove_file(lab.hub().join("state/hub.json")).unwrap();
    let before = lab.json(&["audit", "verify"]).done().json();
    lab.run(&["org", "list"]).done();
    assert_eq!(
        lab.json(&["audit", "verify"]).done().json(),
        before,
        "nothing is recorded twice"
    );
}

#[test]
fn a_changed_configuration_is_recorded_once() {
    let lab = Lab::empty();
    let entries = || -> Value { lab.json(&["audit", "verify"]).done().json()["entries"].clone() };
    lab.run(&["org", "list"]).done();
    let before = entries();
    lab.run(&["org", "list"]).done();
    assert_eq!(entries(), before);
    std::fs::write(lab.hub().join("qihui.toml"), "[query]\nseconds = 30\n").unwrap();
    lab.run(&["org", "list"]).done();
    lab.run(&["org", "list"]).done();
    assert_eq!(entries(), before.as_u64().unwrap() + 1);
}

/// What takes away needs nothing but the ledger.
#[test]
fn a_withdrawal_acts_even_when_the_hub_cannot_be_opened() {
    let lab = Lab::world();
    let id = lab.granted("uscc, xse");
    let (keys, away) = (lab.hub().join("keys"), lab.path().join("keys"));
    std::fs::rename(&keys, &away).unwrap();
    let answer = lab.json(&["consent", "withdraw", &id]);
    answer.fails(1, "LogKey", &["audit-signing.key"]);
    assert!(
        answer.stderr.contains("what was taken away is in force"),
        "{answer:?}"
    );
    lab.run(&["org", "list"]).fails(1, "LogKey", &[]);
    std::fs::rename(&away, &keys).unwrap();
    assert_eq!(
        lab.json(&["consent", "show", &id]).done().json()["state"],
        "WITHDRAWN"
    );
    assert_eq!(
        lab.bank("SELECT uscc FROM vat_declaration").done().json()["rows"],
        serde_json::json!([])
    );
    lab.run(&["audit", "verify"]).done();
}
