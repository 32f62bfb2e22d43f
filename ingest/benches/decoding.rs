//! Reads customs declarations (XML) and annual reports (workbooks), fully validated, without landing them.
//!
//! `cargo bench -p qihui-ingest --bench decoding` prints MB/s of XML and rows/s of workbooks, the best of
//! [`ROUNDS`] rounds, and the peak of memory. `QIHUI_BENCH_ROWS` sets the number of rows. What is measured is what
//! `feed check` does over an empty table: finding, hashing and unpacking the file, cutting, decoding, checking, numbers
//! from memory, and what would become of each record. Reading and classifying are two threads: for the figure of one
//! core, run it as `taskset -c 0 cargo bench …`.
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

use qihui_catalog::{Catalog, EnterpriseNo, EnterpriseNumbers, NumberRequest, NumbersError, Uscc};
use qihui_ingest::{IngestContext, Quiet, RunOptions, check_file};
use qihui_warehouse::Warehouse;
use rand::{Rng, SeedableRng};
use rust_xlsxwriter::{Format, Workbook};

use common::{Error, peak_mib, with_rows};

const ROWS: u32 = 200_000;
/// Without `--bench`, as in a run of all tests, only that it works.
const ROWS_TO_TRY: u32 = 1_000;
const ROUNDS: u32 = 5;
/// Goods lines of a declaration.
const LINES: u32 = 8;

/// Numbers that are a function of the enterprise.
struct Numbers;

impl EnterpriseNumbers for Numbers {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        let number = |request: &NumberRequest| {
            let serial = request.uscc.as_str()[8..16].parse::<u32>();
            EnterpriseNo(serial.map_or(1, |serial| serial + 1))
        };
        Ok(wanted.iter().map(number).collect())
    }

    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        Ok(vec![None; usccs.len()])
    }

    fn uscc_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        Ok(vec![None; numbers.len()])
    }
}

fn uscc(serial: u32) -> Result<Uscc, Error> {
    Ok(Uscc::from_parts(
        '9',
        '1',
        "330106",
        &format!("{serial:08}"),
    )?)
}

/// Writes declarations of [`LINES`] goods lines each, as they come from the single window.
fn write_declarations(path: &Path, rows: u32) -> Result<(), Error> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(20_260_601);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(file, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(
        file,
        "<DecMessages xmlns=\"http://www.chinaport.gov.cn/dec\">"
    )?;
    for number in 0..rows / LINES {
        let uscc = uscc(number % 20_000)?;
        write!(
            file,
            "<DecMessage Version=\"4.8\">\n<DecHead><TradeCoScc>{uscc}</TradeCoScc><EntryId>29102026{number:010}</EntryId>\
             <IEFlag>E</IEFlag><IEDate>20260601</IEDate><IEPort>3104</IEPort><CustomMaster>2910</CustomMaster>\
             <TradeName>杭州某某{number}进出口有限公司</TradeName><OwnerCodeScc>{uscc}</OwnerCodeScc>\
             <TradeMode>0110</TradeMode><CutMode>101</CutMode><TrafMode>2</TrafMode><TransMode>3</TransMode>\
             <TradeCountry>USA</TradeCountry><WrapType>22</WrapType><PackNo>120</PackNo><GrossWet>1250.5</GrossWet>\
             <NetWt>1153.25</NetWt><ContrNo>HT{number:08}</ContrNo><InputerName>某某</InputerName></DecHead>\n<DecLists>\n"
        )?;
        for line in 1..=LINES {
            let (quantity, price) = (
                random.random_range(1..5_000),
                random.random_range(1..90_000),
            );
            writeln!(
                file,
                "<DecList><GNo>{line}</GNo><CodeTS>6203429062</CodeTS><GName>棉制男式长裤</GName><GModel>梭织|男式|100%棉</GModel>\
                 <GQty>{quantity}</GQty><GUnit>011</GUnit><FirstQty>{quantity}</FirstQty><FirstUnit>011</FirstUnit>\
                 <DeclPrice>{}.{:04}</DeclPrice><DeclTotal>{}</DeclTotal><TradeCurr>USD</TradeCurr>\
                 <OriginCountry>USA</OriginCountry><DestinationCountry>CHN</DestinationCountry><DutyMode>1</DutyMode>\
                 <DistrictCode>33019</DistrictCode></DecList>",
                price / 10_000,
                price % 10_000,
                quantity * 3,
            )?;
        }
        writeln!(
            file,
            "</DecLists>\n<DecExchange><DataTime>2026-06-02 09:{:02}:00</DataTime><DelFlag>0</DelFlag></DecExchange>\n</DecMessage>",
            number % 60
        )?;
    }
    writeln!(file, "</DecMessages>")?;
    file.into_inner()
        .map_err(|error| error.into_error())?
        .sync_all()?;
    Ok(())
}

/// Writes annual reports of 25 columns: a title, the header in the third row, days as days, amounts as numbers.
fn write_reports(path: &Path, rows: u32) -> Result<(), Error> {
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
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(20_260_601);
    let day = Format::new().set_num_format("yyyy/m/d");
    let mut header: Vec<String> = [
        "UNISCID",
        "ANCHEID",
        "ANCHEYEAR",
        "ANCHEDATE",
        "ENTNAME",
        "BUSST",
    ]
    .map(str::to_owned)
    .to_vec();
    for amount in AMOUNTS {
        header.extend([amount.to_owned(), format!("{amount}DIS")]);
    }
    header.extend(["EMPNUM", "EMPNUMDIS", "DATA_TIME"].map(str::to_owned));
    let mut workbook = Workbook::new();
    let sheet = workbook.add_worksheet();
    sheet.merge_range(0, 0, 0, 24, "企业年度报告信息", &day)?;
    for (column, name) in (0..).zip(&header) {
        sheet.write_string(2, column, name)?;
    }
    let mut cell = String::new();
    for (at, serial) in (3..).zip(0..rows) {
        sheet.write_string(at, 0, uscc(serial)?.as_str())?;
        cell.clear();
        write!(cell, "R{serial:010}")?;
        sheet.write_string(at, 1, &cell)?;
        sheet.write_number(at, 2, 2024)?;
        sheet.write_number_with_format(at, 3, 45_700 + serial % 170, &day)?;
        sheet.write_string(at, 4, format!("杭州某某{serial}贸易有限公司"))?;
        sheet.write_string(at, 5, "开业")?;
        for column in (6..22).step_by(2) {
            let amount: u32 = random.random_range(0..100_000_000);
            sheet.write_number(at, column, f64::from(amount) / 100.0)?;
            let flag = if amount.is_multiple_of(3) {
                "公示"
            } else {
                "不公示"
            };
            sheet.write_string(at, column + 1, flag)?;
        }
        sheet.write_number(at, 22, serial % 500)?;
        sheet.write_string(at, 23, "公示")?;
        sheet.write_number_with_format(at, 24, 45_900.5, &day)?;
    }
    workbook.save(path)?;
    Ok(())
}

/// Checks a file a few times; every record of it has to be good.
async fn measure(dir: &Path, feed: &str, path: &Path, rows: u32) -> Result<(), Error> {
    let context = IngestContext {
        catalog: Arc::new(Catalog::builtin()?),
        warehouse: Warehouse::open(&dir.join("warehouse"))?,
        numbers: Arc::new(Numbers),
        state_dir: dir.join("state"),
        input_root: None,
    };
    let options = RunOptions::default();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let checked = check_file(&context, &feed.parse()?, path, &options, Arc::new(Quiet)).await?;
        best = best.min(started.elapsed().as_secs_f64());
        let counts = checked.report.counts;
        if counts.inserted != u64::from(rows) {
            return Err(format!(
                "not every record is good: {counts:?} {:?}",
                checked.problems
            )
            .into());
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let megabytes = fs::metadata(path)?.len() as f64 / 1e6;
    println!(
        "{feed}: {:.0} rows/s, {:.1} MB/s of {megabytes:.1} MB, {best:.2} s, peak memory {} MiB",
        f64::from(rows) / best,
        megabytes / best,
        peak_mib()?,
    );
    Ok(())
}

async fn run(rows: u32) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let declarations = dir.path().join("customs_declaration.xml");
    write_declarations(&declarations, rows)?;
    measure(
        dir.path(),
        "customs_declaration",
        &declarations,
        rows / LINES * LINES,
    )
    .await?;
    let reports = dir.path().join("annual_report.xlsx");
    write_reports(&reports, rows)?;
    measure(dir.path(), "annual_report", &reports, rows).await
}

fn main() -> Result<(), Error> {
    with_rows(ROWS, ROWS_TO_TRY, run)
}
