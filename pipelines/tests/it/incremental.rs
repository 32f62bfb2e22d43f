//! A product that is kept up with its inputs is the product that is built at once, whatever happened in between.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::buffer::BooleanBuffer;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::collect;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qihui_catalog::{
    Catalog, Contract, DatasetId, Date, EnterpriseNo, EnterpriseNumbers, NumberRequest,
    NumbersError, Timestamp, Uscc,
};
use qihui_pipelines::models::{
    BuildContext, BuildLimits, BuildReport, Mode, ModelError, build, build_facts, complete,
};
use qihui_query::{access, session, whole};
use qihui_warehouse::{DurableStore, Incoming, Limits, Observer, Step, Warehouse, incoming_schema};

use crate::cases;
use crate::support::{Tape, contract_text, rows};

const ENTERPRISES: u32 = 8;

/// The columns of a register (one row each, with a sensitive column that a model filters by) and of penalties (many
/// each, disclosed for a while): name, logical type, physical type, level, what else.
type Shape = &'static [(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
)];
const KEY: &str = "required: true, primaryKey: true, primaryKeyPosition: 1";
const ENT: Shape = &[
    ("uscc", "string", "string", "L1", KEY),
    ("a", "integer", "int64", "L2", "required: false"),
    ("seen", "integer", "int64", "L1", "required: false"),
];
const PEN: Shape = &[
    ("uscc", "string", "string", "L1", "required: true"),
    ("id", "integer", "int64", "L1", KEY),
    ("d", "date", "date", "L1", "required: false"),
    ("gone", "date", "date", "L1", "required: false"),
    ("n", "integer", "int64", "L1", "required: false"),
    ("seen", "integer", "int64", "L1", "required: false"),
];

fn properties(shape: Shape) -> String {
    let property = |(name, logical, physical, level, more): &(&str, &str, &str, &str, &str)| {
        format!(
            "      - {{name: {name}, businessName: 列, description: A column., logicalType: {logical}, physicalType: \
             {physical}, classification: {level}, {more}}}\n"
        )
    };
    shape.iter().map(property).collect()
}

const MODELS: [(&str, &str, &[&str], &str); 3] = [
    (
        "card",
        "[uscc]",
        &["uscc", "a", "pens", "last", "most"],
        "SELECT e.uscc, e.a, coalesce(p.pens, 0) AS pens, p.last, p.most FROM ent e LEFT JOIN \
         (SELECT uscc, count(*) AS pens, max(d) AS last, first_value(n ORDER BY id DESC) AS most FROM pen GROUP BY uscc) p \
         ON e.uscc = p.uscc",
    ),
    (
        "listing",
        "[uscc, id]",
        &["uscc", "id", "n", "a"],
        "SELECT p.uscc, p.id, p.n, e.a FROM pen p JOIN ent e ON p.uscc = e.uscc WHERE e.a > 0",
    ),
    (
        "summary",
        "[uscc]",
        &["uscc", "pens", "entries"],
        "SELECT c.uscc, c.pens, l.entries FROM card c LEFT JOIN \
         (SELECT uscc, count(*) AS entries FROM listing GROUP BY uscc) l ON l.uscc = c.uscc WHERE c.pens > 0",
    ),
];

fn catalog() -> Arc<Catalog> {
    let window = "  - {property: disclosureWindow, value: {from: d, until: [gone], maxYearsAfter: {column: d, years: 1}}}\n";
    let mut files = vec![
        (
            "contracts/ent.yaml".to_owned(),
            contract_text("ent", &properties(ENT), ""),
        ),
        (
            "contracts/pen.yaml".to_owned(),
            contract_text("pen", &properties(PEN), window),
        ),
    ];
    for (name, key, columns, sql) in MODELS {
        let described: String = columns
            .iter()
            .map(|column| {
                format!("--   - {{name: {column}, title_cn: 列, description: A column.}}\n")
            })
            .collect();
        let text = format!(
            "-- name: {name}\n-- version: 1.0.0\n-- title: A\n-- title_cn: 甲\n-- description: A.\n\
             -- description_cn: 甲。\n-- owner: test\n-- key: {key}\n-- columns:\n{described}{sql}\n"
        );
        files.push((format!("models/{name}.sql"), text));
    }
    let mut builtin = Catalog::builtin_files().iter();
    let purposes = builtin.find(|(path, _)| *path == "purposes.yaml").unwrap();
    files.push((purposes.0.to_owned(), purposes.1.to_owned()));
    let files = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()));
    Arc::new(complete(Catalog::from_files(files).unwrap()).unwrap())
}

/// The number of an enterprise is in its code.
struct Numbers;

fn code(no: u32) -> Uscc {
    Uscc::from_parts('9', '1', "330100", &format!("{no:08}")).unwrap()
}

impl EnterpriseNumbers for Numbers {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        let codes: Vec<Uscc> = wanted.iter().map(|request| request.uscc).collect();
        Ok(self.lookup(&codes)?.into_iter().flatten().collect())
    }

    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        let number = |code: &Uscc| code.as_str()[8..16].parse().ok().map(EnterpriseNo);
        Ok(usccs.iter().map(number).collect())
    }

    fn uscc_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        Ok(numbers.iter().map(|no| Some(code(no.0))).collect())
    }
}

fn day(days: i32) -> Date {
    Date::from_ymd_opt(2026, 1, 1).unwrap() + chrono::Duration::days(i64::from(days))
}

/// 2026-01-01.
const FIRST_DAY: i32 = 20_454;

fn limits() -> Limits {
    Limits {
        full_bytes: 8 << 10,
        file_rows: 8,
        batch_rows: 4,
        together_bytes: 16 << 10,
        large_bytes: 8 << 10,
    }
}

fn open(folder: &Path) -> Warehouse {
    Warehouse::open_with(folder, DurableStore::new(), limits()).unwrap()
}

/// Fails every step from some step on, as if the process had died there.
#[derive(Debug)]
struct Failing(AtomicUsize);

impl Observer for Failing {
    fn before(&self, _: &Step) -> io::Result<()> {
        let left = self.0.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::Error::other("the end"));
        }
        self.0.store(left - 1, Ordering::SeqCst);
        Ok(())
    }
}

type Rows = Vec<Vec<String>>;

struct Lab {
    catalog: Arc<Catalog>,
    folder: tempfile::TempDir,
    warehouse: Warehouse,
    today: i32,
    seen: i64,
}

/// A record of either dataset: enterprise, id, first and last day, number, sequence.
type Record = (u32, i64, Option<i32>, Option<i32>, i64, i64);

impl Lab {
    fn new(catalog: &Arc<Catalog>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            catalog: Arc::clone(catalog),
            warehouse: open(folder.path()),
            folder,
            today: 400,
            seen: 0,
        }
    }

    fn contract(&self, name: &str) -> Arc<Contract> {
        Arc::clone(self.catalog.contracts.get(name).unwrap())
    }

    async fn build(
        &self,
        warehouse: &Warehouse,
        name: &str,
        whole: bool,
    ) -> Result<BuildReport, ModelError> {
        let context = BuildContext {
            catalog: Arc::clone(&self.catalog),
            warehouse: warehouse.clone(),
            numbers: Arc::new(Numbers),
            day: day(self.today),
            limits: BuildLimits {
                enterprises: 3,
                memory_bytes: 256 << 20,
                spill_bytes: 1 << 30,
                spill_dir: self.folder.path().join("spill"),
                threads: 1,
            },
        };
        Box::pin(build(&context, &name.parse().unwrap(), whole)).await
    }

    async fn build_all(&self, warehouse: &Warehouse) -> Result<Vec<BuildReport>, ModelError> {
        let mut reports = Vec::new();
        for (name, ..) in MODELS {
            reports.push(self.build(warehouse, name, false).await?);
        }
        Ok(reports)
    }

    /// A batch of new, corrected and withdrawn records.
    async fn land(&mut self, tape: &mut Tape) {
        let name = tape.of(&["ent", "pen", "pen"]);
        let (mut records, mut retract) = (Vec::new(), Vec::new());
        for _ in 0..=tape.pick(5) {
            self.seen += 1;
            let id = u32::try_from(tape.pick(16)).unwrap();
            // A record stays with its enterprise.
            let no = 1 + id % ENTERPRISES;
            let begins = 10 * small(tape, 5) + self.today - 380;
            let gone = tape.chance(60).then(|| self.today + small(tape, 60) - 10);
            let begins = (!tape.chance(10)).then_some(begins);
            let number = i64::from(small(tape, 4)) - 1;
            records.push((no, i64::from(id), begins, gone, number, self.seen));
            retract.push(tape.chance(20));
        }
        self.land_records(name, &records, retract).await;
    }

    async fn land_records(&self, name: &str, records: &[Record], retract: Vec<bool>) {
        let contract = self.contract(name);
        let date = |day: Option<i32>| day.map(|day| day + FIRST_DAY);
        let of = |name: &str| -> ArrayRef {
            let records = records.iter();
            let whole = |of: fn(&Record) -> i64| -> ArrayRef {
                Arc::new(records.clone().map(|r| Some(of(r))).collect::<Int64Array>())
            };
            let dates = |of: fn(&Record) -> Option<i32>| -> ArrayRef {
                Arc::new(
                    records
                        .clone()
                        .map(|r| date(of(r)))
                        .collect::<Date32Array>(),
                )
            };
            match name {
                "_no" => {
                    let numbers = records.clone().map(|r| Some(r.0.cast_signed()));
                    Arc::new(numbers.collect::<Int32Array>())
                }
                "uscc" => {
                    let codes = records.clone().map(|r| Some(code(r.0).to_string()));
                    Arc::new(codes.collect::<StringArray>())
                }
                "id" => whole(|r| r.1),
                "d" => dates(|r| r.2),
                "gone" => dates(|r| r.3),
                "seen" => whole(|r| r.5),
                _ => whole(|r| r.4),
            }
        };
        let schema = incoming_schema(&contract);
        let columns = schema
            .fields()
            .iter()
            .map(|field| of(field.name()))
            .collect();
        let batch = RecordBatch::try_new(schema, columns).unwrap();
        let table = self.warehouse.table(&contract).await.unwrap();
        let retract = Some(BooleanBuffer::from(retract));
        table
            .land_next("feed", Incoming { batch, retract })
            .await
            .unwrap();
    }

    /// Builds while the disk fails from some step on, then opens everything again.
    async fn killed(&mut self, steps: usize) -> bool {
        let store = DurableStore::observed(Arc::new(Failing(AtomicUsize::new(steps))));
        let failed = match Warehouse::open_with(self.folder.path(), store, limits()) {
            Ok(warehouse) => self.build_all(&warehouse).await.is_err(),
            Err(_) => true,
        };
        self.warehouse = open(self.folder.path());
        failed
    }

    /// The rows of a product, but for the numbers of builds.
    async fn product(&self, warehouse: &Warehouse, name: &str) -> Rows {
        let contract = Arc::new(Contract {
            window: None,
            ..self.contract(name).as_ref().clone()
        });
        let Some(snapshot) = warehouse.snapshot(&contract.id).await.unwrap() else {
            return Vec::new();
        };
        let version = whole::table_version(warehouse, &snapshot).await.unwrap();
        let reader = access::reader_context().unwrap();
        let table = whole::table(
            &contract,
            &Arc::new(version),
            None,
            day(self.today),
            &reader,
        );
        let columns: Vec<&str> = contract
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .filter(|name| *name != "build_no")
            .collect();
        let query = format!("SELECT {} FROM {name}", columns.join(", "));
        let (plan, _, context) = session::plan_over(
            &session::parse(&query).unwrap(),
            vec![(name.to_owned(), table)],
            Timestamp(0),
            Arc::new(RuntimeEnv::default()),
            1,
            &AtomicBool::new(false),
        )
        .await
        .unwrap();
        let mut rows = rows(&collect(plan, context).await.unwrap());
        rows.sort();
        rows
    }

    async fn products(&self, warehouse: &Warehouse) -> BTreeMap<&'static str, Rows> {
        let mut products = BTreeMap::new();
        for (name, ..) in MODELS {
            products.insert(name, self.product(warehouse, name).await);
        }
        products
    }

    /// The products as they are when nothing but their inputs was there before.
    async fn rebuilt(&self) -> BTreeMap<&'static str, Rows> {
        let folder = tempfile::tempdir().unwrap();
        for input in ["ent", "pen"] {
            let from = self.folder.path().join(input);
            if from.exists() {
                copy(&from, &folder.path().join(input));
            }
        }
        let warehouse = open(folder.path());
        for report in self.build_all(&warehouse).await.unwrap() {
            assert_eq!(report.mode, Mode::Full);
        }
        self.products(&warehouse).await
    }
}

fn small(tape: &mut Tape, below: usize) -> i32 {
    i32::try_from(tape.pick(below)).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What the cases came to, so that a test that hardly tests is noticed.
#[derive(Default, Debug)]
struct Tally {
    incremental: usize,
    full: usize,
    killed: usize,
    rows: usize,
    retracted: u64,
    unchanged: u64,
}

async fn step(lab: &mut Lab, tape: &mut Tape, tally: &mut Tally) -> Result<(), TestCaseError> {
    match tape.pick(10) {
        0..=3 => lab.land(tape).await,
        4 => lab.today += 1 + small(tape, 15),
        5 => {
            let name: DatasetId = tape.of(&["ent", "pen", "card"]).parse().unwrap();
            if lab.warehouse.snapshot(&name).await.unwrap().is_some() {
                lab.warehouse.compact(&name).await.unwrap();
            }
        }
        6 | 7 => {
            let steps = tape.pick(80);
            tally.killed += usize::from(lab.killed(steps).await);
        }
        _ => check(lab, tally).await?,
    }
    Ok(())
}

async fn check(lab: &Lab, tally: &mut Tally) -> Result<(), TestCaseError> {
    for report in lab.build_all(&lab.warehouse).await.unwrap() {
        match report.mode {
            Mode::Incremental => tally.incremental += 1,
            Mode::Full => tally.full += 1,
            Mode::UpToDate => {}
        }
        tally.retracted += report.counts.retracted;
        tally.unchanged += report.counts.unchanged;
    }
    let products = lab.products(&lab.warehouse).await;
    tally.rows += products.values().map(Vec::len).sum::<usize>();
    prop_assert_eq!(&products, &lab.rebuilt().await);
    for report in lab.build_all(&lab.warehouse).await.unwrap() {
        prop_assert_eq!(report.mode, Mode::UpToDate);
    }
    for (name, ..) in MODELS {
        let facts = build_facts(&lab.warehouse, &name.parse().unwrap(), 0).await;
        let runs: Vec<i64> = facts.unwrap().iter().map(|fact| fact.run).collect();
        let count = i64::try_from(runs.len()).unwrap();
        prop_assert_eq!(runs, (1..=count).collect::<Vec<_>>(), "every run once");
    }
    Ok(())
}

#[test]
fn ing_2_an_incremental_build_is_a_full_one() {
    let config = Config {
        cases: cases(12),
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tally = std::cell::RefCell::new(Tally::default());
    let catalog = catalog();
    TestRunner::new(config)
        .run(&prop::collection::vec(any::<u16>(), 100..250), |choices| {
            let mut tape = Tape::new(choices);
            let mut tally = tally.borrow_mut();
            runtime.block_on(async {
                let mut lab = Lab::new(&catalog);
                while !tape.is_used_up() {
                    step(&mut lab, &mut tape, &mut tally).await?;
                }
                check(&lab, &mut tally).await
            })
        })
        .unwrap();
    let tally = tally.into_inner();
    println!("{tally:?}");
    let Tally {
        incremental,
        killed,
        rows,
        retracted,
        ..
    } = tally;
    assert!(incremental > 0 && killed > 0 && rows > 0 && retracted > 0);
}

/// Choices that are always the same.
fn fixed(factor: u32) -> Tape {
    let choice = |n: u32| u16::try_from(n.wrapping_mul(factor) >> 16).unwrap();
    Tape::new((1..4000).map(choice).collect())
}

#[tokio::test]
async fn only_what_changed_is_built() {
    let catalog = catalog();
    let mut lab = Lab::new(&catalog);
    let mut tape = fixed(2_654_435_761);
    for _ in 0..20 {
        lab.land(&mut tape).await;
    }
    lab.land_records("ent", &[(1, 0, None, None, 1, 5000)], vec![false])
        .await;
    let first = lab.build(&lab.warehouse, "card", false).await.unwrap();
    assert_eq!((first.mode, first.counts.unchanged), (Mode::Full, 0));
    assert!(first.counts.inserted > 3);
    // One penalty of one enterprise.
    let penalty = (1, 800, Some(lab.today - 1), Some(lab.today + 3), 9, 5001);
    lab.land_records("pen", &[penalty], vec![false]).await;
    let second = lab.build(&lab.warehouse, "card", false).await.unwrap();
    assert_eq!(
        (second.mode, second.enterprises, second.counts.replaced),
        (Mode::Incremental, 1, 1)
    );
    assert_eq!((second.counts.inserted, second.counts.retracted), (0, 0));
    let whole = lab.build(&lab.warehouse, "card", true).await.unwrap();
    assert_eq!((whole.mode, whole.counts.replaced), (Mode::Full, 0));
    assert_eq!(whole.counts.unchanged, first.counts.inserted);
    // Its publication ends: nothing was landed, and the card changes all the same.
    let pens = |rows: &Rows| {
        let row = rows.iter().find(|row| row[0] == code(1).as_str()).unwrap();
        row[2].parse::<i64>().unwrap()
    };
    let before = lab.product(&lab.warehouse, "card").await;
    lab.today += 3;
    let third = lab.build(&lab.warehouse, "card", false).await.unwrap();
    assert_eq!(third.mode, Mode::Incremental);
    let after = lab.product(&lab.warehouse, "card").await;
    assert!(pens(&before) > pens(&after), "{before:?} {after:?}");
    assert_eq!(after, lab.rebuilt().await["card"]);
}

#[tokio::test]
async fn what_cannot_be_told_is_built_whole() {
    let catalog = catalog();
    let mut lab = Lab::new(&catalog);
    let mut tape = fixed(2_246_822_519);
    for _ in 0..10 {
        lab.land(&mut tape).await;
    }
    let register = [(1, 0, None, None, 1, 5000), (2, 0, None, None, 1, 5001)];
    lab.land_records("ent", &register, vec![false; 2]).await;
    lab.build(&lab.warehouse, "card", false).await.unwrap();
    lab.land(&mut tape).await;
    let gone: roaring::RoaringBitmap = [1, 2].into_iter().collect();
    let ent: DatasetId = "ent".parse().unwrap();
    lab.warehouse.erase(&ent, &gone).await.unwrap();
    let report = lab.build(&lab.warehouse, "card", false).await.unwrap();
    assert_eq!(report.mode, Mode::Full);
    let rows = lab.product(&lab.warehouse, "card").await;
    let erased = [code(1).to_string(), code(2).to_string()];
    assert!(rows.iter().all(|row| !erased.contains(&row[0])));
    assert_eq!(rows, lab.rebuilt().await["card"]);
}
