//! The change feed: replayed from the first version on, it gives the table; and it names the enterprises that changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use arrow::array::AsArray as _;
use proptest::prelude::*;
use roaring::RoaringBitmap;
use serde_json::Value;

use crate::{
    ing_2::{chunks, partition},
    support::{Record, Row, commit, contract, land, open, read_parquet, read_table, rows_of},
};

type Bag = BTreeMap<Row, i64>;

fn put(bag: &mut Bag, row: Row, count: i64) {
    let entry = bag.entry(row).or_default();
    *entry += count;
}

fn rows_in(table: &Path, action: &Value) -> Vec<(Row, Option<String>)> {
    let retracted = action["partitionValues"]["_state"] == "retracted";
    let path = table.join(action["path"].as_str().unwrap());
    let mut rows = Vec::new();
    for batch in read_parquet(&path) {
        let words = batch
            .column_by_name("_change_type")
            .map(|column| column.as_string::<i32>().clone());
        let changes =
            (0..batch.num_rows()).map(|i| words.as_ref().map(|words| words.value(i).to_owned()));
        rows.extend(rows_of(&batch, retracted).into_iter().zip(changes));
    }
    rows
}

/// What a reader of the change feed sees of one commit: change files if there are any, else whole files.
fn changes(table: &Path, version: i64) -> Bag {
    let actions = commit(table, version);
    let mut bag = Bag::new();
    let of = |kind: &str| {
        actions
            .iter()
            .filter_map(|action| action.get(kind).cloned())
            .collect::<Vec<_>>()
    };
    let change_files = of("cdc");
    for file in &change_files {
        for (row, change) in rows_in(table, file) {
            match change.as_deref() {
                Some("insert" | "update_postimage") => put(&mut bag, row, 1),
                Some("delete" | "update_preimage") => put(&mut bag, row, -1),
                other => panic!("{other:?}"),
            }
        }
    }
    if change_files.is_empty() {
        for (kind, count) in [("add", 1), ("remove", -1)] {
            for file in of(kind).iter().filter(|file| file["dataChange"] == true) {
                rows_in(table, file)
                    .into_iter()
                    .for_each(|(row, _)| put(&mut bag, row, count));
            }
        }
    }
    bag.retain(|_, count| *count != 0);
    bag
}

#[test]
fn ing_2_the_change_feed_gives_the_table_and_names_who_changed() {
    let config = ProptestConfig {
        cases: 12,
        failure_persistence: None,
        max_shrink_iters: 100,
        ..Default::default()
    };
    proptest::test_runner::TestRunner::new(config)
        .run(&(chunks(80, true), partition()), |(chunks, partition)| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let folder = tempfile::tempdir().unwrap();
                let contract = contract(partition);
                let warehouse = open(folder.path());
                let table = warehouse.table(&contract).await.unwrap();
                for chunk in &chunks {
                    land(&table, &contract, chunk).await;
                }
                let last = warehouse
                    .snapshot(&contract.id)
                    .await
                    .unwrap()
                    .unwrap()
                    .version;
                let path = folder.path().join("levy");
                let mut before = Bag::new();
                let mut all = RoaringBitmap::new();
                for version in 1..=last {
                    let mut after = Bag::new();
                    let rows = read_table(&path, Some(version.unsigned_abs())).await;
                    rows.into_iter().for_each(|row| put(&mut after, row, 1));
                    let mut diff = after.clone();
                    before
                        .into_iter()
                        .for_each(|(row, count)| put(&mut diff, row, -count));
                    diff.retain(|_, count| *count != 0);
                    let moved: RoaringBitmap =
                        diff.keys().map(|row| row.1.cast_unsigned()).collect();
                    let named = warehouse.changes(&contract.id, version - 1, version).await;
                    prop_assert_eq!(named.unwrap(), Some(moved.clone()), "version {}", version);
                    all |= moved;
                    prop_assert_eq!(changes(&path, version), diff, "version {}", version);
                    before = after;
                }
                let named = warehouse.changes(&contract.id, -1, last).await.unwrap();
                prop_assert_eq!(named, Some(all));
                prop_assert_eq!(
                    warehouse.changes(&contract.id, 0, last + 1).await.unwrap(),
                    None
                );
                Ok(())
            })
        })
        .unwrap();
}

/// The enterprises whose rows or tombstones differ between two versions.
async fn differing(path: &Path, a: i64, b: i64) -> BTreeSet<u32> {
    let mut bag = Bag::new();
    for (version, count) in [(a, 1), (b, -1)] {
        let rows = read_table(path, Some(version.unsigned_abs())).await;
        rows.into_iter().for_each(|row| put(&mut bag, row, count));
    }
    bag.retain(|_, count| *count != 0);
    bag.into_keys().map(|row| row.1.unsigned_abs()).collect()
}

#[test]
fn whoever_changed_between_two_versions_is_named() {
    let config = ProptestConfig {
        cases: 12,
        failure_persistence: None,
        max_shrink_iters: 100,
        ..Default::default()
    };
    proptest::test_runner::TestRunner::new(config)
        .run(&(chunks(80, true), partition()), |(chunks, partition)| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let folder = tempfile::tempdir().unwrap();
                let contract = contract(partition);
                let warehouse = open(folder.path());
                let table = warehouse.table(&contract).await.unwrap();
                for chunk in &chunks {
                    land(&table, &contract, chunk).await;
                }
                let path = folder.path().join("levy");
                let last = warehouse
                    .snapshot(&contract.id)
                    .await
                    .unwrap()
                    .unwrap()
                    .version;
                for from in 0..last {
                    for to in [from + 1, last] {
                        let named = warehouse.changed(&contract.id, from, to).await.unwrap();
                        let named: BTreeSet<u32> = named.iter().collect();
                        let real = differing(&path, from, to).await;
                        prop_assert!(named.is_superset(&real), "{from} to {to}");
                        if to == from + 1 {
                            prop_assert_eq!(
                                &named,
                                &real,
                                "one commit is exact: {} to {}",
                                from,
                                to
                            );
                        }
                        let back = warehouse.changed(&contract.id, to, from).await.unwrap();
                        prop_assert_eq!(back.iter().collect::<BTreeSet<u32>>(), named);
                    }
                }
                Ok(())
            })
        })
        .unwrap();
}

/// Makes what the log of a table consists of so many days old.
fn aged(table: &Path, days: u64) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
    for entry in std::fs::read_dir(table.join("_delta_log")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(then).unwrap();
        }
    }
}

/// What is kept for good outlives the clean-up of the log, whatever is kept for now; without it the version is gone.
#[tokio::test]
async fn versions_that_are_kept_for_good_survive_the_clean_up_of_the_log() {
    for for_good in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let contract = contract(qihui_catalog::Partition::None);
        let warehouse = open(folder.path());
        let table = warehouse.table(&contract).await.unwrap();
        land(&table, &contract, &[Record::new(1, 1)]).await;
        let snapshot = warehouse.snapshot(&contract.id).await.unwrap().unwrap();
        let first = snapshot.version;
        if for_good {
            warehouse.keep_for_good(&contract.id, [first]).unwrap();
        }
        // Subscribers come and go.
        warehouse.keep(&contract.id, [first].into()).unwrap();
        warehouse.keep(&contract.id, BTreeSet::new()).unwrap();
        let path = folder.path().join("levy");
        let mut record = Record::new(1, 1);
        for seen in 1..60 {
            if seen % 19 == 0 {
                aged(&path, 60);
            }
            record.seen = Some(seen);
            land(&table, &contract, &[record.clone()]).await;
        }
        warehouse
            .vacuum_orphans(&contract.id, std::time::Duration::ZERO)
            .await
            .unwrap();
        let found = open(folder.path()).snapshot_at(&contract.id, first).await;
        assert_eq!(found.is_ok(), for_good, "{found:?}");
        if for_good {
            assert_eq!(read_table(&path, Some(first.unsigned_abs())).await.len(), 1);
        }
    }
}

#[tokio::test]
async fn versions_that_are_kept_survive_a_clean_up_and_compare_without_their_commits() {
    let folder = tempfile::tempdir().unwrap();
    let contract = contract(qihui_catalog::Partition::None);
    let warehouse = open(folder.path());
    let table = warehouse.table(&contract).await.unwrap();
    land(&table, &contract, &[Record::new(1, 1), Record::new(2, 2)]).await;
    let first = warehouse
        .snapshot(&contract.id)
        .await
        .unwrap()
        .unwrap()
        .version;
    warehouse.keep(&contract.id, [first].into()).unwrap();
    let mut changed = Record::new(2, 2);
    changed.seen = Some(9);
    changed.note = Some("other".to_owned());
    land(&table, &contract, &[changed]).await;
    let path = folder.path().join("levy");
    let before = read_table(&path, Some(first.unsigned_abs())).await;
    warehouse
        .vacuum_orphans(&contract.id, std::time::Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(read_table(&path, Some(first.unsigned_abs())).await, before);
    let last = warehouse
        .snapshot(&contract.id)
        .await
        .unwrap()
        .unwrap()
        .version;
    let exact = warehouse.changed(&contract.id, first, last).await.unwrap();
    assert_eq!(exact.iter().collect::<Vec<_>>(), [2]);
    // Without its change file the commit says nothing, and the files are compared: whoever is in them may have changed.
    std::fs::remove_dir_all(path.join("_change_data")).unwrap();
    let wider = warehouse.changed(&contract.id, first, last).await.unwrap();
    assert_eq!(wider.iter().collect::<Vec<_>>(), [1, 2]);
    let unknown = warehouse.changed(&contract.id, first, last + 5).await;
    assert!(unknown.is_err());
}
