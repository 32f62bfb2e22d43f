//! The gate beside plain DataFusion over the same files, in one run.
//!
//! `cargo bench -p qihui-query --bench gate` lands 5 million rows of 250,000 enterprises in a temporary warehouse
//! and runs each query over plain DataFusion (the files as a listing table, its default settings but for the number
//! of threads) and over the gate with three scopes: everything granted, half of the enterprises at random, and one
//! county (5 %, neighbouring numbers). `QIHUI_BENCH_ROWS` makes it smaller; then nothing is claimed.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    missing_docs
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use qihui_catalog::{
    Action, Column, ColumnType, Contract, DatasetId, EnterpriseNo, Level, Partition, Timestamp,
    Unit,
};
use qihui_consent::decision::{
    self, Agreement, AgreementColumn, AgreementId, Basis, DecisionRequest, Form, Grant, ScopeItem,
};
use qihui_query::access::reader_context;
use qihui_query::account::Account;
use qihui_query::dense::DenseScope;
use qihui_query::exec::Standing;
use qihui_query::provider::{MIN_INSIDE_ROWS, TableFile, TableVersion};
use qihui_query::session::{self, SessionSetup};
use qihui_warehouse::{Incoming, Warehouse, incoming_schema};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROWS_PER_ENTERPRISE: u32 = 20;
const THREADS: usize = 2;
const QUERIES: [(&str, &str); 3] = [
    ("narrow aggregate", "SELECT sum(amount) FROM levy"),
    (
        "group by",
        "SELECT item, count(*), sum(amount) FROM levy GROUP BY item",
    ),
    ("wide scan", "SELECT * FROM levy"),
];

fn contract() -> Contract {
    let column = |name: &str, ty, level| Column {
        name: name.into(),
        title_cn: name.into(),
        description: name.into(),
        ty,
        nullable: false,
        level,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    };
    let money = ColumnType::Decimal {
        precision: 18,
        scale: 2,
    };
    Contract {
        id: "levy".parse().unwrap(),
        version: "1.0.0".into(),
        title_en: "levy".into(),
        title_cn: "levy".into(),
        description: "levy".into(),
        description_cn: "levy".into(),
        owner: "tax".into(),
        row_level: Level::L2,
        key: vec!["id".into()],
        uscc: "uscc".into(),
        event_date: Some("day".into()),
        sequence: vec!["id".into()],
        partition: Partition::None,
        window: None,
        freshness_days: None,
        feeds: Vec::new(),
        columns: vec![
            column("uscc", ColumnType::String, Level::L2),
            column("id", ColumnType::Int64, Level::L2),
            column("day", ColumnType::Date, Level::L2),
            column("item", ColumnType::String, Level::L2),
            column("office", ColumnType::String, Level::L2),
            column("note", ColumnType::String, Level::L2),
            column("amount", money, Level::L2),
            column("base", money, Level::L2),
            column("n", ColumnType::Int32, Level::L2),
        ],
        hash: [0; 32],
    }
}

fn chunk(contract: &Contract, first: u32, enterprises: u32, rng: &mut ChaCha8Rng) -> RecordBatch {
    let numbers: Vec<u32> = (first..first + enterprises)
        .flat_map(|no| std::iter::repeat_n(no, ROWS_PER_ENTERPRISE as usize))
        .collect();
    let len = numbers.len();
    let text = |f: &mut dyn FnMut(u32) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            numbers.iter().map(|no| f(*no)),
        ))
    };
    let money = |rng: &mut ChaCha8Rng| -> ArrayRef {
        let values = (0..len).map(|_| rng.random_range(1..100_000_000_i128));
        Arc::new(
            Decimal128Array::from_iter_values(values)
                .with_precision_and_scale(18, 2)
                .unwrap(),
        )
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(
            numbers.iter().map(|no| *no as i32),
        )),
        text(&mut |no| format!("91330100{no:010}")),
        Arc::new(Int64Array::from_iter_values(
            (0..len).map(|i| i64::from(first) * 1000 + i as i64),
        )),
        Arc::new(Date32Array::from_iter_values(
            (0..len).map(|i| 19_000 + 30 * (i as i32 % 20)),
        )),
        text(&mut |_| format!("item {}", rng.random_range(0..12))),
        text(&mut |no| format!("1330{:06}", no / 4096)),
        text(&mut |_| {
            format!(
                "paid by transfer number {}",
                rng.random_range(0..1_000_000_000)
            )
        }),
        money(rng),
        money(rng),
        Arc::new(Int32Array::from_iter_values(
            (0..len).map(|i| i as i32 % 97),
        )),
    ];
    RecordBatch::try_new(incoming_schema(contract), columns).unwrap()
}

async fn land(dir: &Path, contract: &Contract, enterprises: u32) -> Arc<TableVersion> {
    let warehouse = Warehouse::open(dir).unwrap();
    let table = warehouse.table(contract).await.unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut first = 1;
    while first <= enterprises {
        let count = 50_000.min(enterprises + 1 - first);
        table
            .land_next(
                "bench/levy",
                Incoming::records(chunk(contract, first, count, &mut rng)),
            )
            .await
            .unwrap();
        first += count;
    }
    let snapshot = warehouse.snapshot(&contract.id).await.unwrap().unwrap();
    let mut files = Vec::new();
    for file in snapshot.files.iter() {
        let present = warehouse.presence(&snapshot, file).await.unwrap();
        files.push(TableFile {
            path: file.path.as_str().into(),
            size: file.size,
            present,
        });
    }
    Arc::new(TableVersion {
        version: snapshot.version,
        rows: snapshot.rows(),
        files,
        store: snapshot.object_store(),
    })
}

fn scope(contract: &Arc<Contract>, granted: impl Iterator<Item = u32>) -> Arc<DenseScope> {
    let names: Vec<String> = contract
        .columns
        .iter()
        .map(|column| column.name.clone())
        .collect();
    let agreement = Agreement {
        id: AgreementId::from("a"),
        org: "bank".parse().unwrap(),
        dataset: contract.id.clone(),
        purposes: ["loan".parse().unwrap()].into(),
        basis: Basis::Consent,
        columns: names
            .iter()
            .map(|name| AgreementColumn {
                name: name.clone(),
                form: Some(Form::Clear),
                reason: None,
            })
            .collect(),
        valid_from: Timestamp(0),
        valid_until: Timestamp(i64::MAX),
    };
    let grants: Vec<Grant> = granted
        .map(|no| Grant {
            consent_id: format!("c-{no}").parse().unwrap(),
            version: 1,
            no: EnterpriseNo(no),
            org: "bank".parse().unwrap(),
            purpose: "loan".parse().unwrap(),
            items: vec![ScopeItem {
                dataset: contract.id.clone(),
                columns: names.clone(),
                from: None,
                to: None,
            }],
            actions: [Action::Query].into_iter().collect(),
            starts: Timestamp(0),
            expires: Timestamp(i64::MAX),
            metered: false,
        })
        .collect();
    let request = DecisionRequest {
        org: "bank".parse().unwrap(),
        purpose: "loan".parse().unwrap(),
        action: Action::Query,
        at: Timestamp(1_000),
        until: Timestamp(2_000),
        subjects: None,
        datasets: vec![contract.id.clone()],
    };
    Arc::new(DenseScope::new(Arc::new(decision::scope(
        contract,
        &request,
        &[agreement],
        &grants,
    ))))
}

async fn drain(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<datafusion::execution::TaskContext>,
) -> usize {
    let mut stream = execute_stream(plan, context).unwrap();
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        rows += batch.unwrap().num_rows();
    }
    rows
}

async fn plain(context: &SessionContext, sql: &str) -> usize {
    let frame = context.sql(sql).await.unwrap();
    let task = Arc::new(frame.task_ctx());
    drain(frame.create_physical_plan().await.unwrap(), task).await
}

struct Bench {
    id: DatasetId,
    table: Arc<TableVersion>,
    reader: Arc<datafusion::execution::TaskContext>,
    runtime: Arc<RuntimeEnv>,
}

impl Bench {
    async fn gated(&self, scope: &Arc<DenseScope>, sql: &str) -> usize {
        let setup = SessionSetup {
            scopes: BTreeMap::from([(self.id.clone(), Arc::clone(scope))]),
            tables: BTreeMap::from([(self.id.clone(), Arc::clone(&self.table))]),
            at: Timestamp(1_000),
            permit: Arc::new(Standing),
            numbers: None,
            runtime: Arc::clone(&self.runtime),
            reader: Arc::clone(&self.reader),
            partitions: THREADS,
            account: Arc::new(Account::new(u64::MAX)),
            strict: false,
            min_inside_rows: MIN_INSIDE_ROWS,
        };
        let planned = session::plan(&session::parse(sql).unwrap(), setup)
            .await
            .unwrap();
        drain(planned.physical, planned.context).await
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() {
    let rows: u32 = std::env::var("QIHUI_BENCH_ROWS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(5_000_000);
    let rounds = if rows < 1_000_000 { 1 } else { 9 };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .unwrap()
        .block_on(run(rows, rounds));
}

async fn run(rows: u32, rounds: usize) {
    let dir = tempfile::tempdir().unwrap();
    let contract = Arc::new(contract());
    let enterprises = (rows / ROWS_PER_ENTERPRISE).max(20);
    let table = land(dir.path(), &contract, enterprises).await;
    let bench = Bench {
        id: contract.id.clone(),
        table,
        reader: reader_context().unwrap(),
        runtime: Arc::new(RuntimeEnv::default()),
    };
    let context =
        SessionContext::new_with_config(SessionConfig::new().with_target_partitions(THREADS));
    let files: Vec<String> = bench
        .table
        .files
        .iter()
        .map(|file| {
            dir.path()
                .join("levy")
                .join(file.path.as_ref())
                .display()
                .to_string()
        })
        .collect();
    context
        .register_table(
            "levy",
            context
                .read_parquet(files, ParquetReadOptions::default())
                .await
                .unwrap()
                .into_view(),
        )
        .unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let county = enterprises / 20;
    let scopes = [
        ("all", scope(&contract, 1..=enterprises)),
        (
            "half",
            scope(
                &contract,
                (1..=enterprises).filter(|_| rng.random_bool(0.5)),
            ),
        ),
        (
            "county",
            scope(&contract, enterprises / 2..enterprises / 2 + county),
        ),
    ];
    println!(
        "{rows} rows, {} files, {THREADS} threads, median of {rounds} rounds, ms (ratio to plain)",
        bench.table.files.len()
    );
    for (name, sql) in QUERIES {
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        // In turn, so that whatever else the machine does falls on all alike.
        for _ in 0..=rounds {
            let start = Instant::now();
            plain(&context, sql).await;
            times.entry("plain").or_default().push(start.elapsed());
            for (scope_name, scope) in &scopes {
                let start = Instant::now();
                bench.gated(scope, sql).await;
                times.entry(scope_name).or_default().push(start.elapsed());
            }
        }
        let plain = median(times["plain"].split_off_first());
        print!("{name:18} plain {plain:8.1}");
        for (scope_name, _) in &scopes {
            let time = median(times[scope_name].split_off_first());
            print!("  {scope_name} {time:8.1} ({:.2}x)", time / plain);
        }
        println!();
    }
}

/// The measurements without the first, which warms the caches.
trait Warm {
    fn split_off_first(&self) -> Vec<Duration>;
}

impl Warm for Vec<Duration> {
    fn split_off_first(&self) -> Vec<Duration> {
        self[1..].to_vec()
    }
}
