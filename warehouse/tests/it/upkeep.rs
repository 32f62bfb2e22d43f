//! Upkeep: few files, no orphans, no lost sidecar, nothing of what was erased.

use std::{path::Path, time::Duration};

use qihui_catalog::Partition;

use crate::support::{
    Record, assert_sound, contract, folder_of, incoming, land, many, open, read_table,
};

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
