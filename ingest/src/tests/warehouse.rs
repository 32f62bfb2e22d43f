//! The same promises over the real warehouse: a process killed at random points, a full disk, old files.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use qihui_warehouse::Warehouse;
use rand::{Rng, SeedableRng};

use super::*;
use crate::TableLanding;

const CHILD: &str = "QIHUI_INGEST_TEST_CHILD";

/// Runs the feed over a file into the table below `dir`.
fn land(fixture: &Fixture, dir: &Path, input: &Path) -> Result<RunReport, IngestError> {
    runtime().block_on(async {
        let failed = |error| IngestError::landing("payments", error);
        let warehouse = Warehouse::open(&dir.join("warehouse")).map_err(failed)?;
        let table = warehouse.table(&fixture.contract).await.map_err(failed)?;
        let mut landing = TableLanding::new(&fixture.contract.id, table);
        let place = Place {
            state_dir: dir.join("state"),
            ..fixture.place()
        };
        fixture
            .job()
            .run(&place, input, &mut landing, &mut Tally::default())
            .await
    })
}

/// Every row of the table below `dir`, as sorted text.
fn table(fixture: &Fixture, dir: &Path) -> Vec<String> {
    let snapshot = runtime().block_on(async {
        let warehouse = Warehouse::open(&dir.join("warehouse")).unwrap();
        warehouse.snapshot(&fixture.contract.id).await.unwrap()
    });
    let root = dir.join("warehouse").join(fixture.contract.id.as_str());
    let mut rows = Vec::new();
    for file in snapshot.iter().flat_map(|snapshot| snapshot.files.iter()) {
        let file = fs::File::open(root.join(&file.path)).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap()
        {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                rows.push(format!("{:?}", batch.slice(row, 1).columns()));
            }
        }
    }
    rows.sort_unstable();
    rows
}

/// A file with corrections, retractions and faults in it.
fn content(records: u32, seed: u64) -> Vec<String> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..records)
        .map(|_| {
            let serial = random.random_range(0..records);
            match random.random_range(0..20) {
                0 => "broken".to_owned(),
                1 => retraction(serial % 97, serial, random.random_range(0..3600)),
                _ => record(
                    serial % 97,
                    serial,
                    random.random_range(0..3600),
                    &serial.to_string(),
                ),
            }
        })
        .collect()
}

fn test_of(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// What a child does: lands the file that its parent wrote.
fn child(dir: &Path) -> Result<RunReport, IngestError> {
    for format in [FeedFormat::Csv, FeedFormat::Xml, FeedFormat::Xlsx] {
        let path = file_of(dir, format);
        if path.exists() {
            return land(&Fixture::of(format).chunks_of(500), dir, &path);
        }
    }
    unreachable!("the parent wrote a file")
}

fn file_of(dir: &Path, format: FeedFormat) -> PathBuf {
    dir.join(format!("payments.{}", format.as_str()))
}

fn kill_fixture() -> Fixture {
    Fixture::csv().chunks_of(500)
}

#[test]
fn ing_2_a_process_killed_at_random_points_leaves_the_same_table() {
    const NAME: &str =
        "tests::warehouse::ing_2_a_process_killed_at_random_points_leaves_the_same_table";
    if let Some(dir) = std::env::var_os(CHILD) {
        child(Path::new(&dir)).unwrap();
        return;
    }
    let rounds: u64 = std::env::var("QIHUI_KILL_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(6);
    let mut all_kills = 0;
    let formats = [FeedFormat::Csv, FeedFormat::Xml, FeedFormat::Xlsx];
    for (round, format) in (0..rounds).zip(formats.into_iter().cycle()) {
        let fixture = Fixture::of(format).chunks_of(500);
        let records = content(6_000, round);
        let file = fixture.render(&records);
        let calm = fixture.dir.path().join("calm");
        let stormy = fixture.dir.path().join("stormy");
        for dir in [&calm, &stormy] {
            fs::create_dir(dir).unwrap();
            fs::write(file_of(dir, format), &file).unwrap();
        }
        let started = Instant::now();
        let expected = child(&calm).unwrap();
        let whole = started.elapsed();
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(round);
        let mut kills = 0;
        loop {
            let mut process = test_of(NAME)
                .env(CHILD, &stormy)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let patience =
                whole.mul_f64(random.random_range(0.05..0.9)) + Duration::from_millis(20);
            let deadline = Instant::now() + patience;
            let ended = loop {
                match process.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if Instant::now() >= deadline => break None,
                    None => std::thread::yield_now(),
                }
            };
            match ended {
                Some(status) => assert!(status.success(), "a run that is not killed succeeds"),
                None => {
                    process.kill().unwrap();
                    process.wait().unwrap();
                    kills += 1;
                }
            }
            if ended.is_some() || kills >= 12 {
                break;
            }
        }
        // One more, undisturbed: it finishes what is unfinished, or finds everything unchanged.
        let last = child(&stormy).unwrap();
        assert_eq!(last.counts.read, expected.counts.read);
        assert_eq!(last.counts.quarantined, expected.counts.quarantined);
        assert_eq!(
            table(&fixture, &stormy),
            table(&fixture, &calm),
            "round {round}, {kills} kills"
        );
        let entries = |dir: &Path| -> Vec<_> {
            let entries = Quarantine::new(&dir.join("state"))
                .entries(&fixture.feed.name)
                .unwrap();
            entries
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.id, entry.problems))
                .collect()
        };
        assert_eq!(entries(&stormy), entries(&calm));
        all_kills += kills;
    }
    assert!(
        all_kills >= rounds,
        "{all_kills} kills in {rounds} rounds prove little"
    );
}

#[test]
fn ing_2_a_full_disk_loses_nothing() {
    const NAME: &str = "tests::warehouse::ing_2_a_full_disk_loses_nothing";
    if let Some(dir) = std::env::var_os(CHILD) {
        let error = child(Path::new(&dir)).unwrap_err();
        assert_eq!(error.code(), "NoSpace", "{error}");
        return;
    }
    let fixture = kill_fixture();
    let (calm, full) = (
        fixture.dir.path().join("calm"),
        fixture.dir.path().join("full"),
    );
    let records = content(3_000, 1);
    for dir in [&calm, &full] {
        fs::create_dir(dir).unwrap();
        fs::write(
            dir.join("payments.csv"),
            format!("{HEADER}\n{}\n", records.join("\n")),
        )
        .unwrap();
    }
    child(&calm).unwrap();
    // A limit on the size of files fails like a full disk; the shell has the signal ignored, as `write` then returns.
    for blocks in [1, 4, 8, 16] {
        let status = Command::new("sh")
            .args([
                "-c",
                &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""),
            ])
            .arg(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, &full)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "with {blocks} blocks");
    }
    child(&full).unwrap();
    assert_eq!(table(&fixture, &full), table(&fixture, &calm));
}

#[test]
fn ing_2_old_and_repeated_files_change_nothing() {
    let fixture = kill_fixture();
    let dir = fixture.dir.path().to_owned();
    let all = content(4_000, 3);
    let (old, new) = all.split_at(2_000);
    let (old, new) = (
        fixture.write_csv("payments-old.csv", old),
        fixture.write_csv("payments-new.csv", new),
    );
    land(&fixture, &dir, &old).unwrap();
    let first = land(&fixture, &dir, &new).unwrap();
    assert_eq!(first.counts.read, first.counts.accounted());
    let after = table(&fixture, &dir);
    for file in [&old, &new, &old] {
        let again = land(&fixture, &dir, file).unwrap();
        assert_eq!((again.landed(), again.counts.retracted), (0, 0));
        assert_eq!(table(&fixture, &dir), after);
    }
    // The other way round, into another table.
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    land(&fixture, &other, &new).unwrap();
    land(&fixture, &other, &old).unwrap();
    assert_eq!(table(&fixture, &other), after);
}

#[test]
fn a_check_tells_what_the_table_will_say_and_makes_none() {
    let fixture = kill_fixture();
    let (dir, path) = (
        fixture.dir.path().to_owned(),
        fixture.write_csv("payments.csv", &content(2_000, 5)),
    );
    let preview = || {
        let checked = Fixture {
            options: RunOptions {
                dry_run: true,
                ..fixture.options
            },
            ..kill_fixture()
        };
        runtime().block_on(async {
            let warehouse = Warehouse::open(&dir.join("warehouse")).unwrap();
            let table = match warehouse.snapshot(&fixture.contract.id).await.unwrap() {
                None => None,
                Some(_) => {
                    let table = warehouse.table(&fixture.contract).await.unwrap();
                    Some(TableLanding::new(&fixture.contract.id, table))
                }
            };
            let mut landing = Preview::new(&fixture.contract, table);
            let place = Place {
                state_dir: dir.join("state"),
                ..fixture.place()
            };
            checked
                .job()
                .run(&place, &path, &mut landing, &mut Tally::default())
                .await
                .unwrap()
        })
    };
    let told = preview();
    assert!(!dir.join("state").exists() && !dir.join("warehouse").join("payments").exists());
    let done = land(&fixture, &dir, &path).unwrap();
    assert_eq!((told.counts, told.reasons), (done.counts, done.reasons));
    let told = preview();
    let done = land(&fixture, &dir, &path).unwrap();
    assert_eq!((told.counts, told.reasons), (done.counts, done.reasons));
}

#[test]
fn ing_2_a_version_that_was_not_noted_is_found_in_the_table() {
    let fixture = kill_fixture();
    let dir = fixture.dir.path().to_owned();
    let path = fixture.write_csv("payments.csv", &content(1_200, 9));
    let versions = |report: &RunReport| report.runs().map(|run| run.version).collect::<Vec<_>>();
    let first = land(&fixture, &dir, &path).unwrap();
    assert_eq!(versions(&first).len(), 3);
    // As if the process had died between the last commit and its note.
    let journal = dir.join("state/runs/payments.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let (before, noted) = text.trim_end().rsplit_once('\n').unwrap();
    assert!(noted.contains("committed"), "{noted}");
    fs::write(&journal, format!("{before}\n")).unwrap();
    let again = land(&fixture, &dir, &path).unwrap();
    assert_eq!(versions(&again), versions(&first));
    assert!(versions(&again).iter().all(Option::is_some));
}
