//! A process that dies at any step of a commit leaves the table as it was, or as it should be.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use qihui_catalog::Partition;
use qihui_warehouse::{CommitError, DurableStore, Observer, RunInfo, Step, Warehouse};
use serde_json::Value;

use crate::support::{Record, Row, contract, incoming, land, open, read_table, tiny};

const FOLDER: &str = "QIHUI_CRASH_FOLDER";
const STEP: &str = "QIHUI_CRASH_STEP";

/// Dies, without a word, before a step.
#[derive(Debug)]
struct Die {
    left: AtomicUsize,
}

impl Observer for Die {
    fn before(&self, _: &Step) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            std::process::abort();
        }
        Ok(())
    }
}

fn first() -> Vec<Record> {
    (0..30)
        .map(|serial| Record::new(serial, i32::from(serial % 4) + 1))
        .collect()
}

/// New rows, corrections and a retraction.
fn second() -> Vec<Record> {
    let corrected = (20..40).map(|serial| Record {
        seen: Some(2),
        ..Record::new(serial, i32::from(serial % 4) + 1)
    });
    let gone = Record {
        seen: Some(3),
        retract: true,
        ..Record::new(3, 4)
    };
    corrected.chain([gone]).collect()
}

fn run() -> RunInfo {
    RunInfo {
        app_id: "crash/levy".into(),
        run: 1,
        position: Value::Null,
        input_hash: [1; 32],
    }
}

fn after() -> Vec<Row> {
    let second = second();
    let stays = first()
        .into_iter()
        .filter(|record| !second.iter().any(|newer| newer.serial == record.serial));
    let mut rows: Vec<_> = stays
        .chain(second.iter().cloned())
        .map(|record| record.row())
        .collect();
    rows.sort();
    rows
}

/// What the child does; without its environment it does nothing.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let left = std::env::var(STEP)
        .ok()
        .and_then(|step| step.parse().ok())
        .unwrap_or(usize::MAX);
    let store = DurableStore::observed(Arc::new(Die {
        left: AtomicUsize::new(left),
    }));
    let warehouse = Warehouse::open_with(Path::new(&folder), store, tiny()).unwrap();
    let contract = contract(Partition::Month);
    let table = warehouse.table(&contract).await.unwrap();
    let classified = table
        .classify(incoming(&contract, &second()))
        .await
        .unwrap();
    match table.commit(classified, run()).await {
        Ok(_) => {}
        Err(CommitError::Warehouse(error)) => panic!("{}", qihui_catalog::Coded::code(&error)),
        Err(error) => panic!("{error}"),
    }
}

fn spawn(prefix: &str, folder: &Path, step: Option<usize>) -> std::process::Output {
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{prefix} exec \"$0\" \"$@\""))
        .arg(test);
    command
        .args(["--exact", "crash::child", "--nocapture"])
        .env(FOLDER, folder);
    if let Some(step) = step {
        command.env(STEP, step.to_string());
    }
    command.stdin(Stdio::null()).output().unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[tokio::test]
async fn ing_2_a_process_killed_at_any_step_loses_nothing_and_shows_nothing_half() {
    let contract = contract(Partition::Month);
    let prepared = tempfile::tempdir().unwrap();
    land(
        &open(prepared.path()).table(&contract).await.unwrap(),
        &contract,
        &first(),
    )
    .await;
    let before = read_table(&prepared.path().join("levy"), None).await;
    let after = after();
    let (mut lost, mut kept) = (0, 0);
    for step in 0.. {
        let root = tempfile::tempdir().unwrap();
        copy(prepared.path(), root.path());
        let done = spawn("", root.path(), Some(step)).status.success();
        let rows = read_table(&root.path().join("levy"), None).await;
        if done {
            assert_eq!(rows, after);
            break;
        }
        assert!(
            rows == before || rows == after,
            "step {step} shows half a chunk"
        );
        if rows == before {
            lost += 1
        } else {
            kept += 1
        }
        // The same run again ends as if nothing had happened, and orphans go.
        let warehouse = open(root.path());
        let table = warehouse.table(&contract).await.unwrap();
        let classified = table
            .classify(incoming(&contract, &second()))
            .await
            .unwrap();
        match table.commit(classified, run()).await {
            Ok(_) => assert!(rows == before),
            Err(CommitError::AlreadyCommitted { .. }) => assert!(rows == after),
            Err(error) => panic!("{error}"),
        }
        warehouse
            .vacuum_orphans(&contract.id, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(
            warehouse
                .vacuum_orphans(&contract.id, Duration::ZERO)
                .await
                .unwrap()
                .files,
            0
        );
        assert_eq!(read_table(&root.path().join("levy"), None).await, after);
    }
    assert!(lost > 10 && kept > 0, "{lost} {kept}");
}

#[tokio::test]
async fn a_limit_of_the_system_on_file_sizes_is_a_full_disk() {
    let contract = contract(Partition::Month);
    let root = tempfile::tempdir().unwrap();
    land(
        &open(root.path()).table(&contract).await.unwrap(),
        &contract,
        &first(),
    )
    .await;
    let before = read_table(&root.path().join("levy"), None).await;
    let output = spawn("trap '' XFSZ; ulimit -f 1;", root.path(), None);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("NoSpace"), "{said}");
    assert_eq!(read_table(&root.path().join("levy"), None).await, before);
}
