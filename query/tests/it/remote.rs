//! Plans as bytes: what was sent answers like what was planned, and what no hub sends is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::Schema;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, FileSinkConfig, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion_proto::bytes::{Serializeable, physical_plan_to_bytes_with_extension_codec};
use qihui_catalog::{Coded, DatasetId};
use qihui_query::QueryError;
use qihui_query::account::Account;
use qihui_query::dense::DenseScope;
use qihui_query::exec::Standing;
use qihui_query::provider::{GatedTable, QueryContext, TableVersion};
use qihui_query::remote::codec::{GateCodec, from_bytes, to_bytes};
use qihui_query::remote::{
    AccessTask, DatasetTask, GateResolver, PlanKey, Resolved, ScanTask, ShareTask,
};
use qihui_query::session::{self, Planned, SessionSetup};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gate_1::grammar;
use crate::reference::{View, view};
use crate::run::{Failed, Gated, Numbers, rows, seeds, sorted};
use crate::world::{World, at};

const QUERIES: u64 = 6;
const KEY: [u8; 32] = [3; 32];

/// Gives the scopes and tables of a drawn world.
#[derive(Debug)]
struct Here {
    access: Arc<AccessTask>,
    scopes: BTreeMap<DatasetId, Arc<DenseScope>>,
    tables: BTreeMap<DatasetId, Arc<TableVersion>>,
    account: Arc<Account>,
    reader: Arc<TaskContext>,
}

#[async_trait]
impl GateResolver for Here {
    async fn resolve(
        &self,
        access: &AccessTask,
        dataset: &DatasetId,
    ) -> Result<Resolved, QueryError> {
        assert_eq!(*access, *self.access);
        Ok(Resolved {
            scope: Arc::clone(&self.scopes[dataset]),
            table: Arc::clone(&self.tables[dataset]),
            permit: Arc::new(Standing),
            account: Arc::clone(&self.account),
            reader: Arc::clone(&self.reader),
            numbers: Some(Arc::new(Numbers)),
        })
    }
}

fn access(world: &World, gated: &Gated) -> Arc<AccessTask> {
    let datasets = gated.scopes.iter().map(|(dataset, scope)| {
        let task = DatasetTask {
            contract: hex::encode(scope.scope().contract.hash),
            table_version: 1,
            commitment: hex::encode(scope.scope().commitment()),
        };
        (dataset.clone(), task)
    });
    Arc::new(AccessTask {
        access_id: "an access".into(),
        org: world.request.org.clone(),
        purpose: world.request.purpose.clone(),
        action: world.request.action,
        subjects: world.request.subjects.clone(),
        at: world.request.at.0,
        until: world.request.until.0,
        ledger_position: 1,
        logged_position: 1,
        ledger_hash: String::new(),
        datasets: datasets.collect(),
        max_rows: u64::MAX,
    })
}

async fn plan(
    gated: &Gated,
    sql: &str,
    partitions: usize,
    strict: bool,
) -> Result<Planned, QueryError> {
    let query = session::parse(sql)?;
    let setup = SessionSetup {
        scopes: gated.scopes.clone(),
        tables: gated.tables.clone(),
        at: at(),
        permit: Arc::new(Standing),
        numbers: Some(Arc::new(Numbers)),
        runtime: Arc::new(RuntimeEnv::default()),
        reader: Arc::clone(&gated.reader),
        partitions,
        account: Arc::new(Account::new(u64::MAX)),
        strict,
        min_inside_rows: 1,
    };
    session::plan(&query, setup).await
}

fn here(gated: &Gated, access: &Arc<AccessTask>) -> Here {
    Here {
        access: Arc::clone(access),
        scopes: gated.scopes.clone(),
        tables: gated.tables.clone(),
        account: Arc::new(Account::new(u64::MAX)),
        reader: Arc::clone(&gated.reader),
    }
}

fn codecs(access: &Arc<AccessTask>, here: Arc<Here>) -> (GateCodec, GateCodec) {
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let (sender, receiver) = (PlanKey::new(&KEY), PlanKey::new(&KEY));
    (
        GateCodec::sending(sender, Arc::clone(access)),
        GateCodec::receiving(receiver, Arc::clone(access), here, &pool),
    )
}

async fn run(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<Vec<Vec<String>>, Failed> {
    let batches = collect(plan, context).await;
    let batches = batches.map_err(|error| QueryError::from_running(&error))?;
    Ok(sorted(rows(&batches)))
}

/// What was tried.
#[derive(Default, Debug)]
struct Tally {
    sent: u64,
    strict: u64,
    failed: u64,
    not_sendable: u64,
    shared: u64,
}

async fn check(seed: u64, tally: &mut Tally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    let access = access(&world, &gated);
    let views: Vec<(String, View)> = world
        .tables
        .iter()
        .map(|table| (table.contract.id.to_string(), view(&world, table)))
        .collect();
    for _ in 0..QUERIES {
        let Some(mut grammar) = grammar(&views, &mut rng) else {
            return;
        };
        let sql = grammar.statement();
        let (partitions, strict) = (rng.random_range(1..=3), rng.random_bool(0.2));
        let Ok(planned) = plan(&gated, &sql, partitions, strict).await else {
            continue;
        };
        let here = Arc::new(here(&gated, &access));
        let (sending, receiving) = codecs(&access, Arc::clone(&here));
        let bytes = match to_bytes(&planned.physical, &sending, &planned.context) {
            Ok(bytes) => bytes,
            Err(error) => {
                assert_eq!(error.code(), "PlanNotSendable", "seed {seed}: {sql}");
                tally.not_sendable += 1;
                continue;
            }
        };
        let sent = from_bytes(&bytes, &receiving, &planned.context).unwrap();
        assert_eq!(
            sent.schema(),
            planned.physical.schema(),
            "seed {seed}: {sql}"
        );
        let context = &planned.context;
        let of_plan = run(Arc::clone(&planned.physical), Arc::clone(context)).await;
        let of_sent = run(sent, Arc::clone(context)).await;
        assert_eq!(of_sent, of_plan, "seed {seed}: {sql}");
        assert_eq!(
            here.account.passed(),
            planned.account.passed(),
            "seed {seed}: {sql}"
        );
        assert_eq!(
            here.account.rows_by_enterprise(),
            planned.account.rows_by_enterprise(),
            "seed {seed}: {sql}"
        );
        tally.sent += 1;
        tally.strict += u64::from(planned.strict);
        tally.failed += u64::from(of_plan.is_err());
        tally.shared += u64::from(!planned.strict && partitions > 1);
        drop(world.clone());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_a_plan_that_was_sent_answers_like_the_plan() {
    let mut tally = Tally::default();
    for seed in seeds(600, QUERIES) {
        check(seed, &mut tally).await;
    }
    println!("{tally:?}");
    let many = seeds(600, QUERIES).len() >= 100;
    assert!(
        !many || (tally.sent > 300 && tally.shared > 20 && tally.strict > 20),
        "too little was sent to say much: {tally:?}"
    );
    assert!(tally.not_sendable * 10 < tally.sent.max(10), "{tally:?}");
}

/// A world of which something shows.
async fn showing() -> (World, Gated) {
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let gated = Gated::new(&world, &mut rng).await;
        let shows = gated.scopes.values().all(|scope| {
            let scope = scope.scope();
            !scope.columns.is_empty() && scope.columns.len() < scope.contract.landed().count()
        });
        if shows && gated.tables.values().all(|table| !table.files.is_empty()) {
            return (world, gated);
        }
    }
    panic!("no world shows a part of both tables")
}

fn reason(result: Result<impl Sized, QueryError>) -> &'static str {
    match result.map(drop) {
        Err(QueryError::PlanRefused { reason }) => reason,
        Err(error) => panic!("{error}"),
        Ok(()) => "",
    }
}

fn bare_scan(schema: &Arc<Schema>) -> Arc<dyn ExecutionPlan> {
    let source = Arc::new(ParquetSource::new(Arc::clone(schema)));
    let url = ObjectStoreUrl::parse("file:///").unwrap();
    let file = PartitionedFile::new("warehouse/t/part-0.parquet", 1000);
    let config = FileScanConfigBuilder::new(url, source)
        .with_file_groups(vec![FileGroup::new(vec![file])])
        .build();
    DataSourceExec::from_data_source(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_reads_without_a_gate_is_refused() {
    let (world, gated) = showing().await;
    let access = access(&world, &gated);
    let (sending, receiving) = codecs(&access, Arc::new(here(&gated, &access)));
    let planned = plan(&gated, "SELECT * FROM t", 1, false).await.unwrap();
    let gate = &planned.physical;
    let bare = bare_scan(&gate.schema());
    let union = UnionExec::try_new(vec![Arc::clone(gate), Arc::clone(&bare)]).unwrap();
    let explained = ExplainExec::new(gate.schema(), Vec::new(), true);
    let reading = "it reads files without a gate";
    let other = "it holds an operator that no gated plan has";
    for (plan, expected) in [
        (bare, reading),
        (union, reading),
        (sink(gate), other),
        (Arc::new(explained), other),
    ] {
        let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&plan), &sending);
        let bytes = bytes.unwrap();
        assert_eq!(
            reason(from_bytes(&bytes, &receiving, &planned.context)),
            expected
        );
        let written = to_bytes(&plan, &sending, &planned.context);
        assert_eq!(written.unwrap_err().code(), "PlanNotSendable");
    }
}

/// Writes what passes a gate into files.
fn sink(gate: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    use datafusion::datasource::file_format::csv::CsvSink;
    use datafusion::datasource::listing::ListingTableUrl;
    use datafusion::datasource::sink::DataSinkExec;
    use datafusion::logical_expr::dml::InsertOp;
    let config = FileSinkConfig {
        original_url: "file:///tmp/taken".into(),
        object_store_url: ObjectStoreUrl::parse("file:///").unwrap(),
        file_group: FileGroup::default(),
        table_paths: vec![ListingTableUrl::parse("file:///tmp/taken/").unwrap()],
        output_schema: gate.schema(),
        table_partition_cols: Vec::new(),
        insert_op: InsertOp::Append,
        keep_partition_by_columns: false,
        file_extension: "csv".into(),
        file_output_mode: Default::default(),
    };
    let options = datafusion::common::file_options::csv_writer::CsvWriterOptions::new(
        Default::default(),
        datafusion::common::parsers::CompressionTypeVariant::UNCOMPRESSED,
    );
    let sink = CsvSink::new(config, options);
    Arc::new(DataSinkExec::new(Arc::clone(gate), Arc::new(sink), None))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_of_another_key_or_access_or_with_a_changed_byte_is_refused() {
    let (world, gated) = showing().await;
    let access = access(&world, &gated);
    let (sending, receiving) = codecs(&access, Arc::new(here(&gated, &access)));
    let planned = plan(&gated, "SELECT * FROM t", 1, false).await.unwrap();
    let context = &planned.context;
    let bytes = to_bytes(&planned.physical, &sending, context).unwrap();
    let foreign = GateCodec::sending(PlanKey::new(&[4; 32]), Arc::clone(&access));
    let foreign = to_bytes(&planned.physical, &foreign, context).unwrap();
    let broken = "its seal is broken, or of another key";
    assert_eq!(reason(from_bytes(&foreign, &receiving, context)), broken);
    let wider = Arc::new(AccessTask {
        max_rows: 1,
        ..access.as_ref().clone()
    });
    let other = GateCodec::sending(PlanKey::new(&KEY), wider);
    let other = to_bytes(&planned.physical, &other, context).unwrap();
    assert_eq!(
        reason(from_bytes(&other, &receiving, context)),
        "a gate of it is of another access"
    );
    for length in (0..bytes.len()).step_by(31) {
        assert!(from_bytes(&bytes[..length], &receiving, context).is_err());
    }
    // The description, without its envelope: no byte of it can be changed.
    let at = bytes
        .windows(9)
        .position(|part| part == b"access_id")
        .unwrap();
    for at in (at..bytes.len() - 10).step_by(7) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let read = from_bytes(&changed, &receiving, context);
        assert_eq!(reason(read), broken, "byte {at}");
    }
}

/// What a hub that is wrong about a scope, or means harm, could ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_asks_for_more_than_is_open_is_refused() {
    let (_, gated) = showing().await;
    let (dataset, scope) = gated.scopes.first_key_value().unwrap();
    let table = Arc::clone(&gated.tables[dataset]);
    let context = QueryContext {
        account: Arc::new(Account::new(u64::MAX)),
        permit: Arc::new(Standing),
        strict: Arc::new(false.into()),
        numbers: Some(Arc::new(Numbers)),
        reader: Arc::clone(&gated.reader),
        today: at().shanghai_date(),
        min_inside_rows: 1,
    };
    let gate = GatedTable::new(Arc::clone(scope), Arc::clone(&table), context);
    let open = scope.scope().columns[0].name.clone();
    let contract = &scope.scope().contract;
    let closed = contract.landed().find(|column| {
        scope
            .scope()
            .columns
            .iter()
            .all(|open| open.name != column.name)
    });
    let honest = ScanTask {
        dataset: dataset.clone(),
        columns: vec![open.clone()],
        comparisons: Vec::new(),
        strict: false,
        min_inside_rows: 1,
        files: vec![table.files[0].path.to_string()],
        partitions: vec![vec![ShareTask {
            file: 0,
            groups: BTreeMap::from([(0, None)]),
        }]],
    };
    gate.scan_of(&honest).await.unwrap();
    let shares = |groups| vec![vec![ShareTask { file: 0, groups }]];
    let compare = |expr: Expr| vec![hex::encode(expr.to_bytes().unwrap())];
    let wider = "it asks for a column that is not open";
    let rows = "it names rows that a file does not have";
    let compares = "it compares what may not be compared below the gate";
    let file = "it names a file that its table version does not have";
    let cases = [
        (
            ScanTask {
                columns: vec![open.clone(), closed.unwrap().name.clone()],
                ..honest.clone()
            },
            wider,
        ),
        (
            ScanTask {
                columns: vec!["_no".into()],
                ..honest.clone()
            },
            wider,
        ),
        (
            ScanTask {
                comparisons: compare(col(open.as_str()).is_null()),
                ..honest.clone()
            },
            compares,
        ),
        (
            ScanTask {
                comparisons: compare(col("_no").eq(lit(1))),
                ..honest.clone()
            },
            compares,
        ),
        (
            ScanTask {
                comparisons: vec!["00ff".into()],
                ..honest.clone()
            },
            "a comparison cannot be read",
        ),
        (
            ScanTask {
                files: vec!["../other/part-0.parquet".into()],
                ..honest.clone()
            },
            file,
        ),
        (
            ScanTask {
                partitions: vec![vec![ShareTask {
                    file: 1,
                    groups: BTreeMap::new(),
                }]],
                ..honest.clone()
            },
            file,
        ),
        (
            ScanTask {
                partitions: shares(BTreeMap::from([(1000, None)])),
                ..honest.clone()
            },
            rows,
        ),
        (
            ScanTask {
                partitions: shares(BTreeMap::from([(0, Some(vec![0, usize::MAX, 2]))])),
                ..honest.clone()
            },
            rows,
        ),
    ];
    for (task, expected) in cases {
        let refused = gate.scan_of(&task).await;
        let refused = refused.map_err(|error| QueryError::from_running(&error));
        assert_eq!(reason(refused), expected);
    }
}

/// What the engine's form of a plan does not hold keeps the plan from being sent; it never changes its meaning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_bytes_cannot_hold_is_not_sent() {
    let (world, gated) = showing().await;
    let access = access(&world, &gated);
    let (sending, _) = codecs(&access, Arc::new(here(&gated, &access)));
    let column = &gated.scopes[&"t".parse::<DatasetId>().unwrap()]
        .scope()
        .columns[0]
        .name;
    for function in [
        format!("lag({column}) IGNORE NULLS"),
        format!("count({column}) FILTER (WHERE {column} IS NOT NULL)"),
    ] {
        let sql = format!("SELECT {function} OVER (ORDER BY {column}) FROM t");
        let planned = plan(&gated, &sql, 1, false).await.unwrap();
        let written = to_bytes(&planned.physical, &sending, &planned.context);
        assert_eq!(written.unwrap_err().code(), "PlanNotSendable", "{sql}");
        let plain = sql.replace(" IGNORE NULLS", "");
        let plain = plain.split(" FILTER").next().unwrap().to_owned();
        let plain = if plain.contains("OVER") {
            plain
        } else {
            format!("{plain} OVER (ORDER BY {column}) FROM t")
        };
        let planned = plan(&gated, &plain, 1, false).await.unwrap();
        to_bytes(&planned.physical, &sending, &planned.context).unwrap();
    }
}
