//! The gate beside plain DataFusion over the same files, beside DuckDB with a permission join and PostgreSQL with
//! row-level security, in one run.
//!
//! `cargo bench -p qihui -p qihui-query --bench gate` lands 20 million rows of 2 million enterprises in a temporary warehouse and
//! runs each query over plain DataFusion (the files as listing tables, its default settings but for the number of
//! threads) and over the gate in four cases: everything granted, half of the enterprises at random, one county (5 %,
//! neighbouring numbers), and 100 different combinations of columns and date ranges. These take turns, so that whatever
//! else the machine does falls on all alike; then it is DuckDB's turn. Strict mode, which sorts what it reads and runs in one
//! thread, is measured with half granted. At last queries are planned without running them.
//!
//! - `QIHUI_BENCH_ROWS` makes it smaller; then nothing is claimed.
//! - `QIHUI_BENCH_DIR`: where the warehouse is kept for the next run.
//! - `QIHUI_BENCH_QUERY`, `QIHUI_BENCH_CASE`: only queries, and only cases, with this in their names.
//! - `QIHUI_BENCH_DUCKDB`: a Python that has the packages duckdb and pyarrow; without it DuckDB is left out.
//! - `QIHUI_BENCH_POSTGRES`: the URL of a database to write to, as a superuser; without it PostgreSQL is left out. It gets
//!   a tenth of the rows, and so does the gate that it is compared with.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::print_stdout,
    missing_docs
)]

mod data;
mod peers;
mod scopes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data::{ROWS_PER_ENTERPRISE, Table};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use peers::Peer;
use qihui_catalog::Timestamp;
use qihui_query::access::reader_context;
use qihui_query::account::Account;
use qihui_query::dense::DenseScope;
use qihui_query::exec::Standing;
use qihui_query::provider::MIN_INSIDE_ROWS;
use qihui_query::session::{self, Planned, SessionSetup};
use scopes::Case;

const THREADS: usize = 2;
const ROWS: u32 = 20_000_000;
const ROUNDS: usize = 7;
/// Whose times are those of the case half in strict mode.
const STRICT: &str = "half, strict";
/// How often it is measured: it takes long.
const STRICT_ROUNDS: usize = 3;
const QUERIES: [(&str, &str); 5] = [
    ("narrow aggregate", "SELECT sum(amount) FROM levy"),
    (
        "group by",
        "SELECT item, count(*), sum(amount) FROM levy GROUP BY item",
    ),
    // By name: the files hold the enterprises' numbers as well, which plain DataFusion would read.
    (
        "wide scan",
        "SELECT uscc, id, day, item, office, note, amount, base, n FROM levy",
    ),
    (
        "join",
        "SELECT r.county, sum(l.amount) FROM levy l JOIN registry r ON l.uscc = r.uscc GROUP BY r.county",
    ),
    (
        "top-k",
        "SELECT id, amount, note FROM levy ORDER BY amount DESC, id LIMIT 100",
    ),
];

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    middle.as_secs_f64() * 1e3
}

async fn drain(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> usize {
    let mut stream = execute_stream(plan, context).unwrap();
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        rows += batch.unwrap().num_rows();
    }
    rows
}

/// DataFusion as it comes, over the same files.
struct Plain(SessionContext);

impl Plain {
    async fn new(tables: &[&Table]) -> Self {
        let config = SessionConfig::new().with_target_partitions(THREADS);
        let context = SessionContext::new_with_config(config);
        for table in tables {
            let options = ParquetReadOptions::default();
            let files = context.read_parquet(table.files.clone(), options).await;
            let name = table.contract.id.as_str();
            context
                .register_table(name, files.unwrap().into_view())
                .unwrap();
        }
        Self(context)
    }

    async fn plan(&self, sql: &str) -> (Arc<dyn ExecutionPlan>, Arc<TaskContext>) {
        let frame = self.0.sql(sql).await.unwrap();
        let context = Arc::new(frame.task_ctx());
        (frame.create_physical_plan().await.unwrap(), context)
    }

    async fn run(&self, sql: &str) -> usize {
        let (plan, context) = self.plan(sql).await;
        drain(plan, context).await
    }
}

/// The gate over tables and their scopes.
struct Gated {
    tables: Vec<(Arc<DenseScope>, Arc<qihui_query::provider::TableVersion>)>,
    reader: Arc<TaskContext>,
    runtime: Arc<RuntimeEnv>,
}

impl Gated {
    async fn plan(&self, scope: &Arc<DenseScope>, sql: &str, strict: bool) -> Planned {
        let id = |scope: &DenseScope| scope.scope().contract.id.clone();
        // The case's scope instead of that of the same dataset.
        let mut scopes: BTreeMap<_, _> = self
            .tables
            .iter()
            .map(|(scope, _)| (id(scope), Arc::clone(scope)))
            .collect();
        scopes.insert(id(scope), Arc::clone(scope));
        let tables = self
            .tables
            .iter()
            .map(|(scope, table)| (id(scope), Arc::clone(table)));
        let setup = SessionSetup {
            scopes,
            tables: tables.collect(),
            at: Timestamp(1_000),
            permit: Arc::new(Standing),
            numbers: None,
            runtime: Arc::clone(&self.runtime),
            reader: Arc::clone(&self.reader),
            partitions: THREADS,
            account: Arc::new(Account::new(u64::MAX)),
            strict,
            min_inside_rows: MIN_INSIDE_ROWS,
        };
        let statement = session::parse(sql).unwrap();
        session::plan(&statement, setup).await.unwrap()
    }

    async fn run(&self, scope: &Arc<DenseScope>, sql: &str, strict: bool) -> usize {
        let planned = self.plan(scope, sql, strict).await;
        drain(planned.physical, planned.context).await
    }
}

/// Times of one query by who ran it.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<Duration>>);

impl Times {
    fn add(&mut self, who: &str, time: Duration) {
        self.0.entry(who.to_owned()).or_default().push(time);
    }

    /// The median in milliseconds, without the first, which warms the caches.
    fn median(&self, who: &str) -> Option<f64> {
        let times = self.0.get(who)?;
        Some(median(times.get(1..).unwrap_or(times).to_vec()))
    }
}

struct Bench {
    plain: Plain,
    gated: Gated,
    cases: Vec<Case>,
    duckdb: Option<Peer>,
    rounds: usize,
}

impl Bench {
    async fn query(&mut self, name: &str, sql: &str) {
        let mut times = Times::default();
        for _ in 0..=self.rounds {
            let begun = Instant::now();
            self.plain.run(sql).await;
            times.add("plain", begun.elapsed());
            for case in &self.cases {
                let begun = Instant::now();
                self.gated.run(&case.scope, sql, false).await;
                times.add(case.name, begun.elapsed());
            }
        }
        // Afterwards: in between, both would leave the others cold caches and no memory.
        let half = self.cases.iter().find(|case| case.name == "half");
        for case in std::iter::repeat_n(half, STRICT_ROUNDS).flatten() {
            let begun = Instant::now();
            self.gated.run(&case.scope, sql, true).await;
            times.add(STRICT, begun.elapsed());
        }
        for _ in 0..=self.rounds {
            for case in &self.cases {
                if let Some(duckdb) = &mut self.duckdb {
                    let view = format!("levy_{}", case.name);
                    let sql = sql.replace("FROM levy", &format!("FROM {view}"));
                    let (time, _) = duckdb.run(&sql).unwrap();
                    times.add(&view, time);
                }
            }
        }
        let plain = times.median("plain").unwrap();
        print!("{name:18} plain {plain:8.1}");
        for case in &self.cases {
            let time = times.median(case.name).unwrap();
            print!("  {} {time:8.1} ({:.2}x)", case.name, time / plain);
            if let Some(duckdb) = times.median(&format!("levy_{}", case.name)) {
                print!(" [duckdb {duckdb:.1}]");
            }
        }
        if let Some(time) = times.median(STRICT) {
            print!("  {STRICT} {time:8.1} ({:.2}x)", time / plain);
        }
        println!();
    }

    /// Plans without running: with a scope that no query was planned with before, and again.
    async fn planning(&self, rows: u32) {
        let Some(case) = self.cases.iter().find(|case| case.name == "half") else {
            return;
        };
        let sql = QUERIES[0].1;
        let fresh = Arc::new(DenseScope::new(Arc::clone(case.scope.scope())));
        let begun = Instant::now();
        self.gated.plan(&fresh, sql, false).await;
        let first = begun.elapsed().as_secs_f64() * 1e3;
        let mut times = Times::default();
        for _ in 0..21 {
            let begun = Instant::now();
            self.plain.plan(sql).await;
            times.add("plain", begun.elapsed());
            let begun = Instant::now();
            self.gated.plan(&fresh, sql, false).await;
            times.add("gated", begun.elapsed());
        }
        let (plain, gated) = (times.median("plain"), times.median("gated"));
        println!(
            "planning, {} enterprises of {} granted, ms: plain {:.2}, over the gate {:.2}, the first time {first:.2}",
            case.granted.len(),
            rows / ROWS_PER_ENTERPRISE,
            plain.unwrap_or_default(),
            gated.unwrap_or_default(),
        );
    }
}

/// The gate beside PostgreSQL, over a table of a tenth of the size, half of the enterprises granted.
async fn beside_postgres(url: &str, table: &Table, gated: &Gated, case: &Case, rounds: usize) {
    let mut postgres = peers::postgres(url, table, case).unwrap();
    for (name, sql) in &QUERIES[..2] {
        let of_part = sql.replace("FROM levy", &format!("FROM {}", table.contract.id));
        let mut times = Times::default();
        for _ in 0..=rounds {
            let begun = Instant::now();
            gated.run(&case.scope, &of_part, false).await;
            times.add("gate", begun.elapsed());
            let (time, _) = postgres.run(sql).unwrap();
            times.add("postgres", time);
        }
        let (gate, postgres) = (times.median("gate"), times.median("postgres"));
        let (gate, postgres) = (gate.unwrap_or_default(), postgres.unwrap_or_default());
        println!(
            "{name:18} {} rows, half granted: gate {gate:8.1}  PostgreSQL {postgres:8.1} ({:.0} times as long)",
            table.version.rows,
            postgres / gate
        );
    }
}

fn main() {
    let rows = variable("QIHUI_BENCH_ROWS").and_then(|rows| rows.parse().ok());
    // Without `--bench`, as in a run of all tests, only that it works.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let rows = rows.unwrap_or(if is_bench { ROWS } else { 20_000 });
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .unwrap()
        .block_on(run(rows));
}

async fn run(rows: u32) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = variable("QIHUI_BENCH_DIR").map_or(temporary.path().to_owned(), PathBuf::from);
    let dir = dir.join(rows.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let enterprises = (rows / ROWS_PER_ENTERPRISE).max(200);
    let rounds = if rows < 1_000_000 { 1 } else { ROUNDS };
    let levy = data::land_levy(&dir, "levy", enterprises).await;
    let registry = data::land_registry(&dir, enterprises).await;
    let part = data::land_levy(&dir, "levy_part", enterprises / 10).await;
    let mut cases = scopes::cases(&levy.contract, enterprises);
    let wanted = variable("QIHUI_BENCH_CASE").unwrap_or_default();
    cases.retain(|case| case.name.contains(&wanted));
    let of_part = scopes::cases(&part.contract, enterprises / 10);
    let tables = [&levy, &registry];
    let duckdb = variable("QIHUI_BENCH_DUCKDB").map(|python| {
        let mut peer = peers::duckdb(&python, THREADS, &tables).unwrap();
        for case in &cases {
            peers::permit_in_duckdb(&mut peer, case).unwrap();
        }
        peer
    });
    let open = [&levy, &registry, &part].map(|table| {
        let scope = scopes::open(&table.contract);
        (scope, Arc::clone(&table.version))
    });
    let mut bench = Bench {
        plain: Plain::new(&tables).await,
        gated: Gated {
            tables: open.into(),
            reader: reader_context().unwrap(),
            runtime: Arc::new(RuntimeEnv::default()),
        },
        cases,
        duckdb,
        rounds,
    };
    println!(
        "{rows} rows, {} files, {THREADS} threads, median of {rounds} rounds, ms (ratio to plain)",
        levy.files.len()
    );
    let wanted = variable("QIHUI_BENCH_QUERY").unwrap_or_default();
    for (name, sql) in QUERIES {
        if name.contains(&wanted) {
            bench.query(name, sql).await;
        }
    }
    bench.planning(rows).await;
    if let Some(url) = variable("QIHUI_BENCH_POSTGRES") {
        let half = of_part.iter().find(|case| case.name == "half").unwrap();
        beside_postgres(&url, &part, &bench.gated, half, rounds).await;
    }
}
