//! Tables: their files, their contract, their versions, their upkeep.

use std::{collections::BTreeSet, path::Path, time::Duration};

use arrow::{
    array::{AsArray as _, RecordBatch},
    datatypes::{Date32Type, Int32Type},
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use qihui_catalog::{Coded as _, Partition};
use qihui_warehouse::{CommitError, Incoming, RunInfo, Warehouse, WarehouseError};
use serde_json::json;

use crate::support::{
    Record, commit, contract, contract_with, incoming, land, list, open, read_parquet, read_table,
};

fn many(range: std::ops::Range<u16>, seen: i64) -> Vec<Record> {
    range
        .map(|serial| Record {
            no: i32::from(serial) * 7 % 300 + 1,
            paid_on: Some(20_000 + i32::from(serial % 90)),
            seen: Some(seen),
            ..Record::new(serial, 0)
        })
        .collect()
}

fn folder_of(root: &Path) -> std::path::PathBuf {
    root.join("levy")
}

fn assert_files_are_sorted(batches: &[RecordBatch]) {
    let key = |batch: &RecordBatch, i: usize| {
        let numbers = batch
            .column_by_name("_no")
            .unwrap()
            .as_primitive::<Int32Type>();
        let dates = batch
            .column_by_name("paid_on")
            .unwrap()
            .as_primitive::<Date32Type>();
        (
            numbers.value(i),
            arrow::array::Array::is_valid(dates, i).then(|| dates.value(i)),
        )
    };
    let keys: Vec<_> = batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(|i| key(batch, i)))
        .collect();
    assert!(keys.is_sorted());
}

async fn assert_sound(warehouse: &Warehouse, root: &Path) {
    let dataset = "levy".parse().unwrap();
    let snapshot = warehouse.snapshot(&dataset).await.unwrap().unwrap();
    for file in snapshot.files.iter() {
        let batches = read_parquet(&folder_of(root).join(&file.path));
        assert_files_are_sorted(&batches);
        let numbers = batches.iter().flat_map(|batch| {
            batch
                .column(0)
                .as_primitive::<Int32Type>()
                .values()
                .to_vec()
        });
        let numbers: BTreeSet<u32> = numbers.map(i32::unsigned_abs).collect();
        let presence = warehouse.presence(&snapshot, file).await.unwrap();
        assert_eq!(presence.iter().collect::<BTreeSet<_>>(), numbers);
        assert_eq!(
            (Some(&file.no_min), Some(&file.no_max)),
            (numbers.first(), numbers.last())
        );
        assert_eq!(
            file.rows,
            batches
                .iter()
                .map(|batch| batch.num_rows() as u64)
                .sum::<u64>()
        );
    }
    assert!(
        snapshot
            .files
            .is_sorted_by_key(|file| (file.no_min, file.no_max))
    );
}

#[tokio::test]
async fn files_are_sorted_and_bounded_and_few() {
    let root = tempfile::tempdir().unwrap();
    let warehouse = open(root.path());
    let contract = contract(Partition::None);
    let table = warehouse.table(&contract).await.unwrap();
    for start in 0..25 {
        land(&table, &contract, &many(start * 40..start * 40 + 50, 1)).await;
    }
    assert_sound(&warehouse, root.path()).await;
    let files = warehouse
        .snapshot(&contract.id)
        .await
        .unwrap()
        .unwrap()
        .files;
    assert!(files.len() <= 1010 / 64 + 16, "{}", files.len());
    assert!(files.iter().all(|file| file.rows <= 64));
    let before = read_table(&folder_of(root.path()), None).await;
    let done = warehouse.compact(&contract.id).await.unwrap();
    assert!(done.removed >= done.added && done.removed > 0, "{done:?}");
    assert_sound(&warehouse, root.path()).await;
    assert_eq!(read_table(&folder_of(root.path()), None).await, before);
    let files = warehouse
        .snapshot(&contract.id)
        .await
        .unwrap()
        .unwrap()
        .files;
    assert!(
        files
            .windows(2)
            .all(|pair| pair[0].no_max <= pair[1].no_min),
        "{files:?}"
    );
}

#[tokio::test]
async fn corrections_keep_the_ranges_of_large_files() {
    let root = tempfile::tempdir().unwrap();
    let warehouse = open(root.path());
    let contract = contract(Partition::None);
    let table = warehouse.table(&contract).await.unwrap();
    land(&table, &contract, &many(0..1000, 1)).await;
    warehouse.compact(&contract.id).await.unwrap();
    let before = warehouse.snapshot(&contract.id).await.unwrap().unwrap();
    // Every file loses a row and gets it back in another version.
    let corrections: Vec<_> = many(0..1000, 2).into_iter().step_by(20).collect();
    land(&table, &contract, &corrections).await;
    assert_sound(&warehouse, root.path()).await;
    let after = warehouse.snapshot(&contract.id).await.unwrap().unwrap();
    assert_eq!(after.rows(), 1000);
    assert!(
        after.files.len() <= before.files.len() * 2,
        "{} {}",
        before.files.len(),
        after.files.len()
    );
    let seen = read_table(&folder_of(root.path()), None).await;
    assert_eq!(
        seen.iter().filter(|row| row.8 == Some(2)).count(),
        corrections.len()
    );
}

#[tokio::test]
async fn pages_are_small_and_indexed_in_every_column() {
    let root = tempfile::tempdir().unwrap();
    let warehouse = Warehouse::open(root.path()).unwrap();
    let contract = contract(Partition::None);
    let table = warehouse.table(&contract).await.unwrap();
    land(&table, &contract, &many(0..30_000, 1)).await;
    let (path, _) = list(&folder_of(root.path()), None).await.pop().unwrap();
    let file = bytes::Bytes::from(std::fs::read(folder_of(root.path()).join(path)).unwrap());
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.try_parse(&file).unwrap();
    let metadata = reader.finish().unwrap();
    let (offsets, indexes) = (
        metadata.offset_index().unwrap(),
        metadata.column_index().unwrap(),
    );
    assert!(file.len() > 0);
    for (group, (offsets, indexes)) in offsets.iter().zip(indexes).enumerate() {
        let starts = |column: usize| {
            offsets[column]
                .page_locations()
                .iter()
                .map(|page| page.first_row_index)
                .collect::<Vec<_>>()
        };
        assert!(starts(0).len() >= 4);
        assert!(starts(0).windows(2).all(|pair| pair[1] - pair[0] <= 8192));
        for column in 0..metadata.row_group(group).num_columns() {
            assert_eq!(starts(column), starts(0));
            assert!(indexes[column].is_some_like());
        }
    }
}

/// Whether a column index holds bounds.
trait Bounds {
    fn is_some_like(&self) -> bool;
}

impl Bounds for parquet::file::page_index::column_index::ColumnIndexMetaData {
    fn is_some_like(&self) -> bool {
        !matches!(self, Self::NONE)
    }
}

#[tokio::test]
async fn a_contract_may_grow_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let warehouse = open(root.path());
    let old = contract(Partition::Year);
    let table = warehouse.table(&old).await.unwrap();
    land(&table, &old, &many(0..10, 1)).await;
    let new = contract_with(Partition::Year, "1.1.0", &["remark"]);
    let table = warehouse.table(&new).await.unwrap();
    let schema = warehouse.snapshot(&new.id).await.unwrap().unwrap().schema;
    let names: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        names,
        [
            "_no", "uscc", "serial", "paid_on", "amount", "open", "note", "seen", "remark"
        ]
    );
    // Rows without the new column are what they were: the same content, the same hash.
    let again = incoming(&new, &many(0..10, 1));
    let mut columns = again.batch.columns().to_vec();
    let remark = again.batch.schema().index_of("remark").unwrap();
    columns[remark] = arrow::array::new_null_array(&arrow::datatypes::DataType::Utf8, 10);
    let again = RecordBatch::try_new(again.batch.schema(), columns).unwrap();
    let outcomes = table
        .classify(Incoming::records(again))
        .await
        .unwrap()
        .counts();
    assert_eq!(outcomes.unchanged, 10);
    // A newer version of one of them is written into the new form.
    land(&table, &new, &many(0..1, 2)).await;
    assert_sound(&warehouse, root.path()).await;
    assert_eq!(read_table(&folder_of(root.path()), None).await.len(), 10);

    for refused in [
        contract(Partition::Year),
        contract_with(Partition::Month, "2.0.0", &["remark"]),
    ] {
        let error = warehouse.table(&refused).await.unwrap_err();
        assert_eq!(error.code(), "ContractIncompatible", "{error}");
    }
}

#[tokio::test]
async fn versions_stay_readable_and_unknown_ones_are_named() {
    let root = tempfile::tempdir().unwrap();
    let warehouse = open(root.path());
    let contract = contract(Partition::None);
    assert!(warehouse.snapshot(&contract.id).await.unwrap().is_none());
    assert!(!folder_of(root.path()).exists());
    let table = warehouse.table(&contract).await.unwrap();
    let mut versions = Vec::new();
    for run in 0..30 {
        let landed = land(&table, &contract, &many(0..10 * (run + 1), 1)).await;
        versions.push((landed.receipt.version, u64::from(10 * (run + 1))));
    }
    for warehouse in [warehouse, open(root.path())] {
        for (version, rows) in &versions {
            let snapshot = warehouse.snapshot_at(&contract.id, *version).await.unwrap();
            assert_eq!((snapshot.version, snapshot.rows()), (*version, *rows));
        }
        for version in [-1, 1_000] {
            let error = warehouse
                .snapshot_at(&contract.id, version)
                .await
                .unwrap_err();
            assert_eq!(error.code(), "UnknownVersion");
        }
    }
    assert!(
        folder_of(root.path())
            .join("_delta_log/_last_checkpoint")
            .exists()
    );
}

#[tokio::test]
async fn a_run_commits_once_even_after_a_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let contract = contract(Partition::None);
    let run = |run| RunInfo {
        app_id: "f/levy".into(),
        run,
        position: json!({ "line": run }),
        input_hash: [7; 32],
    };
    let table = open(root.path()).table(&contract).await.unwrap();
    assert_eq!(table.last_run("f/levy").await.unwrap(), None);
    for i in 0..25_u16 {
        let classified = table
            .classify(incoming(&contract, &many(i..i + 1, 1)))
            .await
            .unwrap();
        table.commit(classified, run(i64::from(i))).await.unwrap();
    }
    let table = open(root.path()).table(&contract).await.unwrap();
    assert_eq!(table.last_run("f/levy").await.unwrap(), Some(24));
    assert_eq!(table.last_run("other").await.unwrap(), None);
    let classified = table
        .classify(incoming(&contract, &many(100..101, 1)))
        .await
        .unwrap();
    let error = table.commit(classified, run(24)).await.unwrap_err();
    assert!(
        matches!(error, CommitError::AlreadyCommitted { last: 24, .. }),
        "{error}"
    );
    // A chunk that says nothing new still carries its run.
    let classified = table
        .classify(incoming(&contract, &many(0..1, 1)))
        .await
        .unwrap();
    table.commit(classified, run(25)).await.unwrap();
    assert_eq!(table.last_run("f/levy").await.unwrap(), Some(25));
}

#[tokio::test]
async fn the_second_to_commit_has_to_classify_again() {
    let root = tempfile::tempdir().unwrap();
    let contract = contract(Partition::None);
    // Two warehouses stand for two processes: neither knows of the other's commits but through the log.
    let (one, two) = (open(root.path()), open(root.path()));
    let (one, two) = (
        one.table(&contract).await.unwrap(),
        two.table(&contract).await.unwrap(),
    );
    let run = |app: &str| RunInfo {
        app_id: app.into(),
        run: 0,
        position: json!(null),
        input_hash: [0; 32],
    };
    let mine = one
        .classify(incoming(&contract, &many(0..5, 1)))
        .await
        .unwrap();
    let theirs = two
        .classify(incoming(&contract, &many(3..8, 2)))
        .await
        .unwrap();
    two.commit(theirs, run("two")).await.unwrap();
    let error = one.commit(mine, run("one")).await.unwrap_err();
    assert!(
        matches!(error, CommitError::Conflict { version: 0, .. }),
        "{error}"
    );
    let counts = one
        .classify(incoming(&contract, &many(0..5, 1)))
        .await
        .unwrap()
        .counts();
    assert_eq!((counts.inserted, counts.superseded), (3, 2));
}

#[tokio::test]
async fn rows_of_another_form_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let contract = contract(Partition::None);
    let table = open(root.path()).table(&contract).await.unwrap();
    let good = incoming(&contract, &many(0..3, 1));
    let fewer = Incoming::records(good.batch.project(&[0, 1, 2]).unwrap());
    let swapped = good.batch.project(&[0, 1, 1, 3, 4, 5, 6, 7]).unwrap();
    let zero = incoming(&contract, &[Record::new(1, 0)]);
    let marks = Incoming {
        retract: Some(arrow::buffer::BooleanBuffer::new_set(2)),
        ..good.clone()
    };
    for bad in [fewer, Incoming::records(swapped), zero, marks] {
        let error = table.classify(bad).await.unwrap_err();
        assert!(
            matches!(error, WarehouseError::InvalidBatch { .. }),
            "{error}"
        );
    }
    assert_eq!(table.classify(good).await.unwrap().counts().inserted, 3);
}

#[tokio::test]
async fn a_lost_or_damaged_sidecar_is_built_again() {
    let root = tempfile::tempdir().unwrap();
    let contract = contract(Partition::None);
    let table = open(root.path()).table(&contract).await.unwrap();
    let rows = many(0..40, 1);
    land(&table, &contract, &rows).await;
    let folder = folder_of(root.path()).join("_qihui");
    let path = std::fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&path).unwrap();
    let damages = (0..whole.len()).step_by(97).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    let cuts = [0, 7, 100, 184, whole.len() - 1].map(|length| whole[..length].to_vec());
    for bytes in damages.chain(cuts).chain([[&whole[..], b"x"].concat()]) {
        std::fs::write(&path, &bytes).unwrap();
        let warehouse = open(root.path());
        let table = warehouse.table(&contract).await.unwrap();
        assert_eq!(
            table
                .classify(incoming(&contract, &rows))
                .await
                .unwrap()
                .counts()
                .unchanged,
            40
        );
        assert_sound(&warehouse, root.path()).await;
    }
    std::fs::remove_file(&path).unwrap();
    let warehouse = open(root.path());
    assert_sound(&warehouse, root.path()).await;
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

#[tokio::test]
async fn orphans_go_and_older_versions_stay() {
    let root = tempfile::tempdir().unwrap();
    let warehouse = open(root.path());
    let contract = contract(Partition::Month);
    let table = warehouse.table(&contract).await.unwrap();
    land(&table, &contract, &many(0..50, 1)).await;
    land(&table, &contract, &many(20..70, 2)).await;
    let folder = folder_of(root.path());
    for orphan in [
        "_state=live/part-x.parquet",
        "_qihui/part-x.idx",
        "_change_data/cdc-x.parquet",
        "_qihui/a.idx#17",
    ] {
        std::fs::create_dir_all(folder.join(orphan).parent().unwrap()).unwrap();
        std::fs::write(folder.join(orphan), b"left behind").unwrap();
    }
    assert_eq!(
        warehouse
            .vacuum_orphans(&contract.id, Duration::from_secs(3600))
            .await
            .unwrap()
            .files,
        0
    );
    let done = warehouse
        .vacuum_orphans(&contract.id, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((done.files, done.bytes), (4, 44));
    for version in 1..=2 {
        read_table(&folder, Some(version)).await;
    }
    assert_sound(&warehouse, root.path()).await;
}

#[tokio::test]
async fn tombstones_hold_no_more_than_they_must() {
    let root = tempfile::tempdir().unwrap();
    let contract = contract(Partition::Month);
    let warehouse = open(root.path());
    let table = warehouse.table(&contract).await.unwrap();
    let tombstone = Record {
        retract: true,
        note: Some("secret".into()),
        ..Record::new(1, 9)
    };
    land(&table, &contract, &[tombstone.clone()]).await;
    let rows = read_table(&folder_of(root.path()), None).await;
    assert_eq!(rows, [tombstone.row()]);
    // The gate never sees it.
    assert_eq!(
        warehouse
            .snapshot(&contract.id)
            .await
            .unwrap()
            .unwrap()
            .files
            .len(),
        0
    );
    let adds = commit(&folder_of(root.path()), 1)
        .iter()
        .filter(|action| action.get("add").is_some())
        .count();
    assert_eq!(adds, 1);
}

#[tokio::test]
async fn erased_enterprises_are_in_no_file() {
    let root = tempfile::tempdir().unwrap();
    let contract = contract(Partition::Year);
    let warehouse = open(root.path());
    let table = warehouse.table(&contract).await.unwrap();
    let canary = |seen| Record {
        note: Some(format!("canary-{seen}")),
        seen: Some(seen),
        ..Record::new(7, 9)
    };
    let other = |seen| Record {
        seen: Some(seen),
        ..Record::new(8, 10)
    };
    for seen in 0..5 {
        land(&table, &contract, &[canary(seen), other(seen)]).await;
    }
    land(
        &table,
        &contract,
        &[Record {
            retract: true,
            seen: Some(9),
            ..Record::new(70, 9)
        }],
    )
    .await;
    let enterprises = [9_u32].into_iter().collect();
    let done = warehouse.erase(&contract.id, &enterprises).await.unwrap();
    assert_eq!(done.rows, 2);
    let folder = folder_of(root.path());
    assert_eq!(read_table(&folder, None).await, [other(4).row()]);
    let mut files = Vec::new();
    walk(root.path(), &mut files);
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        let found = |text: &str| {
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        assert!(!found("canary") && !found(&canary(0).uscc()), "{file:?}");
    }
    // One data file with its sidecar, the last commit, its checkpoint and the hint.
    assert_eq!(files.len(), 5, "{files:?}");
    // The table goes on, runs are remembered, and a repetition finds nothing.
    assert_eq!(table.last_run("test/levy").await.unwrap(), Some(5));
    assert_eq!(
        warehouse
            .erase(&contract.id, &enterprises)
            .await
            .unwrap()
            .rows,
        0
    );
    land(&table, &contract, &[other(5)]).await;
    let table = open(root.path()).table(&contract).await.unwrap();
    assert_eq!(table.last_run("test/levy").await.unwrap(), Some(6));
    assert_eq!(read_table(&folder, None).await, [other(5).row()]);
}

fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files)
        } else {
            files.push(path)
        }
    }
}
