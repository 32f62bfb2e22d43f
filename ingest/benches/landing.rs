//! Lands a million annual reports of 25 columns from CSV, fully validated, into an empty table, then again.
//!
//! `cargo bench -p qihui-ingest` prints rows per second and the peak of memory (`VmHWM`, the whole process, from start
//! to finish). `QIHUI_BENCH_ROWS` sets the number of rows. Enterprise numbers come from memory, so that the figures
//! are those of ingestion and the warehouse; everything else is what `feed run` does, durable commits included.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod common;

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    sync::Arc,
    time::Instant,
};

use qihui_catalog::{Catalog, FeedFormat, Uscc};
use qihui_ingest::{IngestContext, Quiet, RunOptions, RunReport, run_feed};
use qihui_warehouse::Warehouse;
use rand::{Rng, SeedableRng};

use common::{Error, Numbers, peak_mib, with_rows};

const ROWS: u32 = 1_000_000;
/// Without `--bench`, as in a run of all tests, only that it works.
const ROWS_TO_TRY: u32 = 2_000;
const AMOUNTS: [&str; 8] = [
    "ASSGRO",
    "LIAGRO",
    "TOTEQU",
    "VENDINC",
    "MAIBUSINC",
    "PROGRO",
    "NETINC",
    "RATGRO",
];

/// Writes reports of as many enterprises, in random order, as departments export them.
fn generate(path: &Path, rows: u32) -> Result<u64, Error> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(20_250_101);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write!(file, "UNISCID,ANCHEID,ANCHEYEAR,ANCHEDATE,ENTNAME,BUSST")?;
    for amount in AMOUNTS {
        write!(file, ",{amount},{amount}DIS")?;
    }
    writeln!(file, ",EMPNUM,EMPNUMDIS,DATA_TIME")?;
    let mut line = String::new();
    let mut order: Vec<u32> = (0..rows).collect();
    rand::seq::SliceRandom::shuffle(&mut order[..], &mut random);
    for serial in order {
        line.clear();
        let uscc = Uscc::from_parts('9', '1', "330106", &format!("{serial:08}"))?;
        let (month, day) = (random.random_range(1..=6), random.random_range(1..=28));
        write!(
            line,
            "{uscc},R{serial:010},2024,2025-{month:02}-{day:02},杭州某某{serial}贸易有限公司,开业"
        )?;
        for _ in AMOUNTS {
            let amount: u32 = random.random_range(0..100_000_000);
            let flag = if amount.is_multiple_of(3) {
                "公示"
            } else {
                "不公示"
            };
            write!(line, ",{}.{:02},{flag}", amount / 100, amount % 100)?;
        }
        let (people, minute) = (random.random_range(0..500), random.random_range(0..60));
        writeln!(line, ",{people},1,2025-07-01 10:{minute:02}:00")?;
        file.write_all(line.as_bytes())?;
    }
    file.into_inner()
        .map_err(|error| error.into_error())?
        .sync_all()?;
    Ok(fs::metadata(path)?.len())
}

async fn land(
    context: &IngestContext,
    path: &Path,
    what: &str,
    bytes: u64,
) -> Result<RunReport, Error> {
    let started = Instant::now();
    let report = run_feed(
        context,
        &"annual_report".parse()?,
        path,
        &RunOptions::default(),
        Arc::new(Quiet),
    )
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (rows, mib) = (report.counts.read as f64, bytes as f64 / f64::from(1 << 20));
    println!(
        "{what}: {:.0} rows/s, {:.1} MiB/s, {seconds:.2} s, {} commits, peak memory {} MiB",
        rows / seconds,
        mib / seconds,
        report.runs().count(),
        peak_mib()?,
    );
    Ok(report)
}

/// The shipped catalogue, with annual reports as CSV: reading workbooks is measured in `decoding`.
fn csv_catalog() -> Result<Catalog, Error> {
    let mut catalog = Catalog::builtin()?;
    for feed in catalog.feeds.values_mut() {
        if feed.name.as_str() == "annual_report" {
            let feed = Arc::make_mut(feed);
            feed.format = FeedFormat::Csv;
            feed.file_pattern = "annual_report*.csv".to_owned();
        }
    }
    Ok(catalog)
}

async fn measure(rows: u32) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("annual_report.csv");
    let bytes = generate(&path, rows)?;
    println!("{rows} rows of 25 columns, {} MiB", bytes >> 20);
    let context = IngestContext {
        catalog: Arc::new(csv_catalog()?),
        warehouse: Warehouse::open(&dir.path().join("warehouse"))?,
        numbers: Arc::new(Numbers::default()),
        state_dir: dir.path().join("state"),
        input_root: None,
    };
    let first = land(&context, &path, "into an empty table", bytes).await?;
    if first.counts.inserted != u64::from(rows) {
        return Err(format!(
            "not every row landed: {:?} {:?}",
            first.counts, first.reasons
        )
        .into());
    }
    let second = land(&context, &path, "the same file again", bytes).await?;
    if second.counts.unchanged != u64::from(rows) {
        return Err(format!("not every row is unchanged: {:?}", second.counts).into());
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    with_rows(ROWS, ROWS_TO_TRY, measure)
}
