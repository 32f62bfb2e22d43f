//! Tables: their pages, their contract, their versions, their runs.

use std::path::Path;

use arrow::array::RecordBatch;
use parquet::file::{
    metadata::{PageIndexPolicy, ParquetMetaDataReader},
    page_index::{column_index::ColumnIndexMetaData, offset_index::OffsetIndexMetaData},
};
use qihui_catalog::{Coded as _, Partition};
use qihui_warehouse::{CommitError, Incoming, RunInfo, Warehouse, WarehouseError};
use serde_json::json;

use crate::support::{
    Record, assert_sound, commit, contract, contract_with, folder_of, incoming, land, list, many,
    open, read_table,
};

#[tokio::test]
async fn pages_are_small_and_indexed_in_every_column() {
    let root = tempfile::tempdir().unwrap();
    let warehouse = Warehouse::open(root.path()).unwrap();
    let contract = contract(Partition::None);
    let table = warehouse.table(&contract).await.unwrap();
    land(&table, &contract, &many(0..30_000, 1)).await;
    assert_pages(root.path(), 30_000).await;
    // A merge hands over pieces of any size.
    let corrections: Vec<_> = many(0..30_000, 2).into_iter().step_by(77).collect();
    land(&table, &contract, &corrections).await;
    assert_pages(root.path(), 30_000).await;
}

async fn assert_pages(root: &Path, rows: i64) {
    let [(path, _)] = &list(&folder_of(root), None).await[..] else {
        panic!("one file is expected");
    };
    let file = bytes::Bytes::from(std::fs::read(folder_of(root).join(path)).unwrap());
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.try_parse(&file).unwrap();
    let metadata = reader.finish().unwrap();
    let (offsets, indexes) = (
        metadata.offset_index().unwrap(),
        metadata.column_index().unwrap(),
    );
    let [(offsets, indexes)] = &offsets.iter().zip(indexes).collect::<Vec<_>>()[..] else {
        panic!("one row group is expected");
    };
    let starts = |column: &OffsetIndexMetaData| {
        let pages = column.page_locations().iter();
        pages.map(|page| page.first_row_index).collect::<Vec<_>>()
    };
    let wanted: Vec<i64> = (0..rows).step_by(8192).collect();
    assert!(offsets.iter().all(|column| starts(column) == wanted));
    assert!(
        indexes
            .iter()
            .all(|column| !matches!(column, ColumnIndexMetaData::NONE))
    );
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
    land(&table, &contract, std::slice::from_ref(&tombstone)).await;
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
