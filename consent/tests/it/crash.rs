//! AUD-5 of the ledger: a process that is killed loses nothing that it acknowledged.
//!
//! The test starts itself as a child that works on a ledger, drains into a file, and writes down each acknowledgement
//! before it goes on; then it kills the child with SIGKILL at some moment, many times over the same ledger.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use qihui_audit::SystemClock;
use qihui_consent::{
    Drainer, Ledger, OutboxItem, Sink,
    document::{ConsentRequest, NarrowRequest},
    ledger::{Organisation, OrganisationKind, SinkError},
    signing::Operation,
};

use crate::fixture::{bank, catalog, key, request_text, uscc};

/// Where the child finds its folder.
const DIR: &str = "QIHUI_CRASH_DIR";
const KILLS: usize = 25;
/// What a line of the child begins with.
const ACKNOWLEDGED: &str = "acknowledged";

/// A log in a file: one line per event, synced.
struct FileSink(Mutex<(File, u64)>);

impl FileSink {
    fn open(path: &Path) -> (Self, Vec<(u64, u64)>) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // A torn last line was never acknowledged; a real log drops it when it is opened.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.set_len(whole as u64).unwrap();
        let lines = text[..whole].lines();
        let found: Vec<(u64, u64)> = lines
            .enumerate()
            .map(|(index, line)| {
                (
                    line.split(' ').next().unwrap().parse().unwrap(),
                    index as u64,
                )
            })
            .collect();
        (Self(Mutex::new((file, found.len() as u64))), found)
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn append(&self, items: &[OutboxItem]) -> Result<Vec<u64>, SinkError> {
        let mut log = self.0.lock();
        let text: String = items
            .iter()
            .map(|item| format!("{} {}\n", item.position, item.kind))
            .collect();
        log.0.write_all(text.as_bytes())?;
        log.0.sync_data()?;
        let first = log.1;
        log.1 += items.len() as u64;
        Ok((first..log.1).collect())
    }
}

fn acknowledge(path: &Path, line: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
    file.sync_data().unwrap();
    let mut told = std::io::stdout().lock();
    writeln!(told, "{ACKNOWLEDGED} {line}")
        .and_then(|()| told.flush())
        .unwrap();
}

async fn open(dir: &Path) -> (Ledger, Drainer) {
    let ledger = Ledger::open(&dir.join("ledger.sqlite"), Arc::new(SystemClock))
        .await
        .unwrap();
    let (sink, found) = FileSink::open(&dir.join("log"));
    let drainer = Drainer::new(ledger.clone(), Arc::new(sink));
    drainer.resume(found).await.unwrap();
    (ledger, drainer)
}

/// What the child does; it never returns by itself.
async fn act_for_ever(dir: &Path) {
    let (ledger, drainer) = open(dir).await;
    let catalog = catalog();
    let acks = dir.join("acks");
    let org = Organisation {
        id: bank(),
        name: "x".to_owned(),
        kind: OrganisationKind::Bank,
    };
    let _ = ledger.add_org(org).await;
    let _ = ledger.add_signatory(uscc(1), "s1", key(11).public()).await;
    let tomorrow =
        qihui_catalog::Timestamp(chrono::Utc::now().timestamp_millis() + 86_400_000).to_string();
    let soon =
        qihui_catalog::Timestamp(chrono::Utc::now().timestamp_millis() + 43_200_000).to_string();
    loop {
        let text = request_text(1, &[("2026-06-01", &tomorrow)]);
        let consent = ledger
            .request_consent(&catalog, ConsentRequest::parse(&text).unwrap())
            .await
            .unwrap();
        let id = consent.document.consent_id;
        acknowledge(&acks, &format!("{id} 1 REQUESTED"));
        ledger
            .sign_with(&catalog, &id, Operation::Give, None, ("s1", &key(11)))
            .await
            .unwrap();
        acknowledge(&acks, &format!("{id} 1 ACTIVE"));
        drainer.drain().await.unwrap();
        let wish = NarrowRequest::parse(&format!("expires: {soon}")).unwrap();
        ledger
            .sign_with(
                &catalog,
                &id,
                Operation::Narrow,
                Some(wish),
                ("s1", &key(11)),
            )
            .await
            .unwrap();
        acknowledge(&acks, &format!("{id} 1 SUPERSEDED"));
        acknowledge(&acks, &format!("{id} 2 ACTIVE"));
        ledger
            .sign_with(&catalog, &id, Operation::Withdraw, None, ("s1", &key(11)))
            .await
            .unwrap();
        acknowledge(&acks, &format!("{id} 2 WITHDRAWN"));
        drainer.drain().await.unwrap();
    }
}

fn rank(state: &str) -> usize {
    ["REQUESTED", "ACTIVE", "SUPERSEDED", "WITHDRAWN"]
        .iter()
        .position(|known| *known == state)
        .unwrap()
}

/// Started again with a folder in its environment, this test is the child.
#[tokio::test]
async fn aud_5_a_killed_process_loses_nothing() {
    if let Some(dir) = std::env::var_os(DIR) {
        return act_for_ever(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::aud_5_a_killed_process_loses_nothing",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // After so many acknowledgements, at whatever the child is doing then.
        let told = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let _ = told
            .filter(|line| line.starts_with(ACKNOWLEDGED))
            .take(1 + kill * 7 % 23)
            .count();
        child.kill().unwrap();
        child.wait().unwrap();
        let (ledger, drainer) = open(dir.path()).await;
        let checked = ledger.check().await.unwrap();
        let lines: Vec<String> = match File::open(dir.path().join("acks")) {
            Ok(file) => BufReader::new(file).lines().map(Result::unwrap).collect(),
            Err(_) => Vec::new(),
        };
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [id, version, state] = words.as_slice() else {
                continue;
            };
            let versions = ledger.versions(&id.parse().unwrap()).await.unwrap();
            let found = versions
                .iter()
                .find(|one| one.document.version.to_string() == *version);
            let found = found.unwrap_or_else(|| panic!("{line} is gone"));
            assert!(
                rank(found.state.as_str()) >= rank(state),
                "{line} is {} again",
                found.state
            );
        }
        acknowledged = lines.len();
        drainer.drain().await.unwrap();
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let positions: Vec<u64> = log
            .lines()
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(
            positions,
            (1..=checked.events).collect::<Vec<_>>(),
            "each event is in the log once, in order"
        );
    }
    assert!(
        acknowledged > KILLS,
        "the children did something: {acknowledged}"
    );
}
