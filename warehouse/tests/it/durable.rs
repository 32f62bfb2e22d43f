//! The store fsyncs in the right order, and a full disk leaves nothing half done.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use object_store::{
    ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path as StorePath,
};
use qihui_catalog::{Coded as _, Partition};
use qihui_warehouse::{DurableStore, Observer, Step, Warehouse};

use crate::support::{Record, contract, incoming, land, open, read_table, tiny};

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Step>>);

impl Observer for Recorder {
    fn before(&self, step: &Step) -> io::Result<()> {
        self.0.lock().unwrap().push(step.clone());
        Ok(())
    }
}

/// Fails with a full disk from step `left` on.
#[derive(Debug)]
struct Full {
    left: AtomicUsize,
}

impl Observer for Full {
    fn before(&self, step: &Step) -> io::Result<()> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        match (left, step) {
            (Ok(_), _) | (_, Step::Delete(_)) => Ok(()),
            (Err(_), _) => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

fn batch(seen: i64) -> Vec<Record> {
    let date = |serial: u16| Some(20_000 + i32::from(serial) * 11);
    (0..12)
        .map(|serial| Record {
            seen: Some(seen),
            paid_on: date(serial),
            ..Record::new(serial, 5)
        })
        .collect()
}

fn check_order(steps: &[Step]) -> usize {
    let mut published = 0;
    for (at, step) in steps.iter().enumerate() {
        let Step::Publish(target) = step else {
            continue;
        };
        published += 1;
        let name = target.file_name().unwrap().to_str().unwrap();
        let staged = |path: &PathBuf| {
            path.parent() == target.parent()
                && path
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with(name)
        };
        assert!(
            steps[..at]
                .iter()
                .any(|step| matches!(step, Step::SyncFile(path) if staged(path))),
            "{target:?} got its name before its bytes were durable"
        );
        let folder = target.parent().unwrap();
        assert!(
            steps[at..]
                .iter()
                .any(|step| matches!(step, Step::SyncFolder(path) if path == folder)),
            "the name {target:?} is not durable"
        );
    }
    published
}

#[tokio::test]
async fn everything_a_commit_names_is_durable_before_it() {
    let root = tempfile::tempdir().unwrap();
    let recorder = Arc::new(Recorder::default());
    let observer: Arc<dyn Observer> = recorder.clone();
    let warehouse = Warehouse::open_with(
        &root.path().join("deep/er"),
        DurableStore::observed(observer),
        tiny(),
    );
    let contract = contract(Partition::Month);
    let table = warehouse.unwrap().table(&contract).await.unwrap();
    land(&table, &contract, &batch(1)).await;
    land(&table, &contract, &batch(2)).await;
    let steps = recorder.0.lock().unwrap().clone();
    assert!(check_order(&steps) > 20);
    // The commit of version 2 is published after the folders of all other files of its chunk were synced.
    let is_commit = |path: &Path, version: u64| path.ends_with(format!("{version:020}.json"));
    let commit = |version| {
        steps
            .iter()
            .position(|step| matches!(step, Step::Publish(path) if is_commit(path, version)))
            .unwrap()
    };
    let chunk = &steps[commit(1)..commit(2)];
    let last_file = chunk
        .iter()
        .rposition(|step| matches!(step, Step::Publish(path) if !is_commit(path, 1)));
    let after = &chunk[last_file.unwrap()..];
    assert!(after.iter().any(|step| matches!(step, Step::SyncFolder(_))));
    // New folders are durable in the folder above.
    for folder in [
        "deep",
        "deep/er",
        "deep/er/levy",
        "deep/er/levy/_state=live",
    ] {
        let above = root.path().join(folder).parent().unwrap().to_owned();
        assert!(steps.contains(&Step::SyncFolder(above)), "{folder}");
    }
}

#[tokio::test]
async fn the_store_keeps_the_contract_of_object_stores() {
    let root = tempfile::tempdir().unwrap();
    let recorder = Arc::new(Recorder::default());
    let observer: Arc<dyn Observer> = recorder.clone();
    let store = DurableStore::observed(observer);
    let path = |name: &str| StorePath::from_absolute_path(root.path().join(name)).unwrap();
    let create = || PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    let put = |name: &'static str, text: &'static [u8], options| {
        let (store, path) = (store.clone(), path(name));
        async move {
            store
                .put_opts(&path, PutPayload::from_static(text), options)
                .await
        }
    };
    put("a/b/c", b"one", create()).await.unwrap();
    let error = put("a/b/c", b"two", create()).await.unwrap_err();
    assert!(
        matches!(error, object_store::Error::AlreadyExists { .. }),
        "{error}"
    );
    put("a/b/c", b"three", PutOptions::default()).await.unwrap();
    let read = |name: &str| {
        let (store, path) = (store.clone(), path(name));
        async move { store.get(&path).await.unwrap().bytes().await.unwrap() }
    };
    assert_eq!(read("a/b/c").await, "three");
    let mut upload = store.put_multipart(&path("a/m")).await.unwrap();
    let parts = [
        upload.put_part("x".repeat(10).into()),
        upload.put_part("y".into()),
    ];
    // Parts may finish in any order, and nothing shows before the end.
    for part in parts.into_iter().rev() {
        part.await.unwrap();
    }
    assert!(matches!(
        store.head(&path("a/m")).await,
        Err(object_store::Error::NotFound { .. })
    ));
    upload.complete().await.unwrap();
    assert_eq!(read("a/m").await, "xxxxxxxxxxy");
    drop(store.put_multipart(&path("a/n")).await.unwrap());
    store
        .put_multipart(&path("a/n"))
        .await
        .unwrap()
        .abort()
        .await
        .unwrap();
    store.copy(&path("a/m"), &path("d/m")).await.unwrap();
    assert!(
        store
            .copy_if_not_exists(&path("a/m"), &path("a/b/c"))
            .await
            .is_err()
    );
    store.rename(&path("a/b/c"), &path("d/c")).await.unwrap();
    assert_eq!(
        (read("d/m").await, read("d/c").await),
        ("xxxxxxxxxxy".into(), "three".into())
    );
    assert!(matches!(
        store.copy(&path("no"), &path("x")).await,
        Err(object_store::Error::NotFound { .. })
    ));
    store.delete(&path("d/m")).await.unwrap();
    let mut left: Vec<_> = walk(root.path());
    left.sort();
    assert_eq!(left, ["a/m", "d/c"]);
    let steps = recorder.0.lock().unwrap().clone();
    check_order(&steps);
    assert!(steps.contains(&Step::SyncFolder(root.path().join("d"))));
}

fn walk(folder: &Path) -> Vec<String> {
    fn inner(root: &Path, folder: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                inner(root, &path, out);
            } else {
                out.push(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }
    let mut out = Vec::new();
    inner(folder, folder, &mut out);
    out
}

#[tokio::test]
async fn a_disk_that_fills_up_at_any_step_loses_nothing() {
    let contract = contract(Partition::Year);
    let model = |records: &[Record]| {
        let mut rows: Vec<_> = records.iter().map(Record::row).collect();
        rows.sort();
        rows
    };
    let (mut step, mut failures) = (0, 0);
    loop {
        let root = tempfile::tempdir().unwrap();
        land(
            &open(root.path()).table(&contract).await.unwrap(),
            &contract,
            &batch(1),
        )
        .await;
        let before = walk(root.path());
        let full = Arc::new(Full {
            left: AtomicUsize::new(step),
        });
        let warehouse =
            Warehouse::open_with(root.path(), DurableStore::observed(full), tiny()).unwrap();
        let table = warehouse.table(&contract).await.unwrap();
        let landed = table
            .land_next("test/levy", incoming(&contract, &batch(2)))
            .await;
        let rows = read_table(&root.path().join("levy"), None).await;
        match landed {
            Ok(_) => {
                assert_eq!(rows, model(&batch(2)));
                break;
            }
            Err(error) => {
                assert_eq!(error.code(), "NoSpace", "{error}");
                failures += 1;
                // The commit either stands whole, when only its last fsync failed, or not at all.
                assert!(rows == model(&batch(1)) || rows == model(&batch(2)));
                if rows == model(&batch(1)) {
                    assert_eq!(
                        walk(root.path()).len(),
                        before.len(),
                        "something stayed behind"
                    );
                }
            }
        }
        // With space again, the same run ends as it should have.
        let table = open(root.path()).table(&contract).await.unwrap();
        land(&table, &contract, &batch(2)).await;
        assert_eq!(
            read_table(&root.path().join("levy"), None).await,
            model(&batch(2))
        );
        step += 1;
    }
    assert!(failures > 10, "{failures}");
}
