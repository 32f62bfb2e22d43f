//! The leaks known from elsewhere, each as a regression test with canaries: hidden rows and cells hold strings
//! and numbers that must occur in nothing observable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::ColumnStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{StatisticsArgs, collect, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use qihui_catalog::{Action, EnterpriseNo, Level, Timestamp};
use qihui_consent::decision::{
    Agreement, AgreementColumn, AgreementId, Basis, Form, Grant, ScopeItem, Value,
};
use qihui_query::QueryError;
use qihui_query::account::Account;
use qihui_query::exec::{GateExec, Permit, Standing};
use qihui_query::formats::{Encoder, Format};
use qihui_query::provider::{GatedTable, QueryContext};
use qihui_query::session::{self, SessionSetup};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::canary::{self, WORD};
use crate::run::{Gated, Seen};
use crate::world::{Row, Table, World, array, at, date, uscc};

/// One dataset; enterprises 1 and 2 granted, 3 to 12 did not, and 2 granted neither `name` nor what follows `n`.
fn world() -> World {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut world = World::draw(&mut rng);
    let mut contract = world.tables[0].contract.as_ref().clone();
    contract.row_level = Level::L2;
    contract.event_date = None;
    contract.window = None;
    let all = ["uscc", "id", "name", "n", "big", "amount", "since", "seen"];
    contract
        .columns
        .retain(|column| all.contains(&column.name.as_str()));
    for column in &mut contract.columns {
        column.public_when = None;
        column.level = if ["uscc", "id"].contains(&column.name.as_str()) {
            Level::L1
        } else {
            Level::L2
        };
    }
    let contract = Arc::new(contract);
    let row = |no: u32, id: i128, name: String, n: i128| {
        let days = i32::try_from(n).unwrap();
        let open = [
            Value::Number(n * 10),
            Value::Number(n * 100),
            Value::Date(date(days)),
            Value::Timestamp(i64::from(days)),
        ];
        let hidden = contract
            .landed()
            .skip(4)
            .map(|column| canary::of(column.ty));
        let mut cells = vec![
            Some(Value::String(uscc(no))),
            Some(Value::Number(id)),
            Some(Value::String(name)),
            Some(Value::Number(n)),
        ];
        match no {
            1 => cells.extend(open.map(Some)),
            _ => cells.extend(hidden),
        }
        Row { no, cells }
    };
    let mut rows = vec![row(1, 1, "10".into(), 4), row(1, 2, "20".into(), 6)];
    rows.push(row(2, 3, format!("{WORD}-in-a-hidden-cell"), 7));
    for no in 3..=12 {
        // Zero divides nothing and the text is no number: both would show in an error.
        rows.extend(
            (0..20).map(|i| row(no, i128::from(no) * 100 + i, format!("{WORD}-{no}-{i}"), 0)),
        );
    }
    let grant = |no: u32, columns: &[&str]| Grant {
        consent_id: format!("c-{no}").parse().unwrap(),
        version: 1,
        no: EnterpriseNo(no),
        org: "bank".parse().unwrap(),
        purpose: "loan".parse().unwrap(),
        items: vec![ScopeItem {
            dataset: contract.id.clone(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            from: None,
            to: None,
        }],
        actions: [Action::Query].into_iter().collect(),
        starts: Timestamp(0),
        expires: Timestamp(i64::MAX),
        metered: false,
    };
    world.grants = vec![grant(1, &all), grant(2, &["uscc", "id", "n"])];
    world.agreements = vec![Agreement {
        id: AgreementId::from("a"),
        org: "bank".parse().unwrap(),
        dataset: contract.id.clone(),
        purposes: ["loan".parse().unwrap()].into(),
        basis: Basis::Consent,
        aggregate_only: None,
        columns: all
            .iter()
            .map(|name| AgreementColumn {
                name: (*name).to_owned(),
                form: Some(Form::Clear),
                reason: None,
            })
            .collect(),
        valid_from: Timestamp(0),
        valid_until: Timestamp(i64::MAX),
    }];
    world.request.subjects = None;
    world.tables = vec![Table { contract, rows }];
    world
}

async fn gated(seed: u64) -> Gated {
    Gated::new(&world(), &mut ChaCha8Rng::seed_from_u64(seed)).await
}

/// Runs a statement over several layouts of the same table; none may show a canary.
async fn run(sql: &str) -> Result<Seen, crate::run::Failed> {
    let mut last = None;
    for seed in 0..4 {
        for partitions in [1, 2] {
            let result = gated(seed).await.run(sql, partitions, false).await;
            let shown = canary::in_text(&format!("{result:?}"));
            assert_eq!(shown, None, "{sql}: {result:?}");
            last = Some(result);
        }
    }
    last.unwrap()
}

async fn rows(sql: &str) -> Vec<Vec<String>> {
    let mut rows = run(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .rows;
    rows.sort();
    rows
}

async fn refused(sql: &str, code: &str) {
    match run(sql).await {
        Err(error) => assert_eq!(error.code, code, "{sql}: {error:?}"),
        Ok(seen) => panic!("{sql} was answered: {seen:?}"),
    }
}

/// CockroachDB 146952, Trino 29465: a predicate that fails on hidden values tells them.
#[tokio::test]
async fn errors_are_no_oracle() {
    let two = vec![vec!["1".to_owned()], vec!["2".to_owned()]];
    assert_eq!(
        rows("SELECT id FROM t WHERE cast(name AS bigint) >= 0").await,
        two
    );
    assert_eq!(
        rows("SELECT id FROM t WHERE name IS NOT NULL AND cast(name AS bigint) >= 0").await,
        two
    );
    assert_eq!(
        rows("SELECT count(*) FROM t WHERE 10 / n >= 0").await,
        [["3"]]
    );
    assert_eq!(
        rows("SELECT count(*) FROM t WHERE 10 % n >= 0 OR name = 'x'").await,
        [["3"]]
    );
    assert_eq!(
        rows("SELECT sum(CASE WHEN 1 / n > 5 THEN 1 ELSE 0 END) FROM t").await,
        [["0"]]
    );
    // On a visible value the error comes, and does not quote it.
    refused(
        "SELECT cast(concat('x', uscc) AS bigint) FROM t",
        "CastFailed",
    )
    .await;
    refused("SELECT 1 / (n - 4) FROM t", "DivisionByZero").await;
}

/// Counts, extremes and statistics come from what passes the gate, not from metadata.
#[tokio::test]
async fn statistics_do_not_speak_of_hidden_rows() {
    assert_eq!(rows("SELECT count(*) FROM t").await, [["3"]]);
    assert_eq!(
        rows("SELECT count(name), min(name), max(name) FROM t").await,
        [["2", "10", "20"]]
    );
    assert_eq!(
        rows("SELECT min(n), max(n), max(id) FROM t").await,
        [["4", "7", "3"]]
    );
    assert_eq!(rows("SELECT count(DISTINCT uscc) FROM t").await, [["2"]]);
    let seen = run("SELECT id FROM t WHERE n = 4").await.unwrap();
    let passed = seen.passed.values().next().unwrap();
    assert_eq!(
        passed.touched.iter().collect::<Vec<_>>(),
        [1],
        "only the subject of the row is touched"
    );
}

/// Predicates that accept null must see the hidden cell as null, and rows hidden as absent.
#[tokio::test]
async fn predicates_that_accept_null_see_masked_cells() {
    assert_eq!(rows("SELECT id FROM t WHERE name IS NULL").await, [["3"]]);
    assert_eq!(
        rows("SELECT id FROM t WHERE name IS DISTINCT FROM '10'").await,
        [["2"], ["3"]]
    );
    assert_eq!(
        rows("SELECT id FROM t WHERE coalesce(name, 'none') = 'none'").await,
        [["3"]]
    );
    assert_eq!(
        rows("SELECT id FROM t WHERE NOT (name = '10')").await,
        [["2"]]
    );
    assert_eq!(
        rows("SELECT id FROM t WHERE name LIKE 'SEC%'").await,
        Vec::<Vec<String>>::new()
    );
    assert_eq!(
        rows("SELECT id FROM t WHERE name > 'A'").await,
        Vec::<Vec<String>>::new()
    );
}

/// LIMIT and OFFSET count visible rows.
#[tokio::test]
async fn limits_count_visible_rows() {
    assert_eq!(rows("SELECT id FROM t LIMIT 2").await, [["1"], ["2"]]);
    assert_eq!(
        rows("SELECT id FROM t ORDER BY n DESC LIMIT 1").await,
        [["3"]]
    );
    assert_eq!(rows("SELECT id FROM t LIMIT 5 OFFSET 2").await, [["3"]]);
    assert_eq!(
        rows("SELECT row_number() OVER (ORDER BY name) AS r, id FROM t")
            .await
            .len(),
        3
    );
}

/// A key that is constant before grouping is null in the sets that leave it out, and a key of an order afterwards: the
/// engine would drop it, and ties would be decided by how rows lie in files.
#[tokio::test]
async fn an_order_over_grouping_sets_keeps_keys_that_were_constant() {
    assert_eq!(
        rows("SELECT k, count(*) FROM (SELECT n, 7 AS k FROM t) GROUP BY CUBE (n, k) ORDER BY k NULLS FIRST LIMIT 1")
            .await,
        [["∅", "1"]]
    );
    assert_eq!(
        rows(
            "SELECT k, row_number() OVER (ORDER BY k NULLS FIRST) AS r \
             FROM (SELECT 7 AS k FROM t) GROUP BY ROLLUP (k) ORDER BY r"
        )
        .await,
        // As `rows` sorts them.
        [["7", "2"], ["∅", "1"]]
    );
}

/// A join's dynamic filter must neither reach below the gate nor bring hidden rows up.
#[tokio::test]
async fn joins_meet_visible_rows_only() {
    assert_eq!(
        rows("SELECT a.id, b.id FROM t a JOIN t b ON a.n = b.n ORDER BY 1")
            .await
            .len(),
        3
    );
    assert_eq!(
        rows("SELECT count(*) FROM t a LEFT JOIN t b ON a.name = b.name WHERE b.id IS NULL").await,
        [["1"]]
    );
    assert_eq!(
        rows("SELECT id FROM t WHERE n IN (SELECT n + 1 FROM t)").await,
        [["3"]]
    );
}

/// EXPLAIN is a function of the statement and the terms; nothing of files, pages or counts of rows.
#[tokio::test]
async fn explain_tells_nothing_of_what_is_below() {
    for sql in [
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN SELECT name FROM t WHERE name = 'SEC'",
    ] {
        let seen = run(sql).await.unwrap();
        for word in [
            "parquet",
            "file",
            "rows=",
            "row_groups",
            "metrics",
            "statistics",
            "part-",
        ] {
            assert!(
                !seen.explain.to_lowercase().contains(word),
                "{word} in {}",
                seen.explain
            );
        }
    }
    refused("EXPLAIN ANALYZE SELECT * FROM t", "NotAllowed").await;
    refused("EXPLAIN VERBOSE SELECT * FROM t", "NotAllowed").await;
}

/// The plan is the user's own; which columns are closed and why is told; of grants that open nothing, nothing is.
#[tokio::test]
async fn explain_says_what_is_closed_and_why() {
    let mut world = world();
    let columns = &mut world.agreements[0].columns;
    columns.retain(|column| column.name != "amount");
    let sql = "SELECT name FROM t WHERE 1 = 1 AND n > 1 ORDER BY n LIMIT 1";
    let explained = async |world: &World| {
        let gated = Gated::new(world, &mut ChaCha8Rng::seed_from_u64(0)).await;
        gated.run(sql, 1, false).await.unwrap().explain
    };
    let told = explained(&world).await;
    let expected = "Limit: skip=0, fetch=1
  Projection: t.name
    Sort: t.n ASC NULLS LAST
      Projection: t.name, t.n
        Filter: Int64(1) = Int64(1) AND t.n > Int64(1)
          TableScan: t
dataset t: rows that a grant covers (2 enterprises); agreement `a` opens it where the enterprise granted it
  uscc: clear, in every row; it is public (L1)
  id: clear, in every row; it is public (L1)
  name: clear, where a grant covers it; agreement `a` opens it where the enterprise granted it
  n: clear, where a grant covers it; agreement `a` opens it where the enterprise granted it
  big: clear, where a grant covers it; agreement `a` opens it where the enterprise granted it
  since: clear, where a grant covers it; agreement `a` opens it where the enterprise granted it
  seen: clear, where a grant covers it; agreement `a` opens it where the enterprise granted it
  closed (no agreement in force names it): amount
";
    assert_eq!(told, expected);
    let grant = |no: u32| Grant {
        consent_id: format!("c-{no}").parse().unwrap(),
        no: EnterpriseNo(no),
        ..world.grants[0].clone()
    };
    let counted = Grant {
        metered: true,
        ..grant(5)
    };
    let for_a_look = Grant {
        actions: [Action::View].into_iter().collect(),
        ..grant(6)
    };
    let over = Grant {
        expires: Timestamp(1),
        ..grant(7)
    };
    world.grants.extend([counted, for_a_look, over]);
    assert_eq!(explained(&world).await, told);
}

/// Everything that is not a query, or reaches past the gated tables.
#[tokio::test]
async fn other_ways_to_data_are_closed() {
    for sql in [
        "SHOW TABLES",
        "SHOW ALL",
        "SHOW COLUMNS FROM t",
        "DESCRIBE t",
        "COPY t TO '/tmp/out.parquet'",
        "COPY (SELECT * FROM t) TO 'out.csv'",
        "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/'",
        "CREATE TABLE x AS SELECT * FROM t",
        "CREATE VIEW x AS SELECT * FROM t",
        "DROP TABLE t",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET n = 1",
        "DELETE FROM t",
        "SET datafusion.execution.batch_size = 1",
        "PREPARE p AS SELECT * FROM t",
        "EXECUTE p",
        "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT * FROM r",
    ] {
        refused(sql, "NotAllowed").await;
    }
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'part-0.parquet'",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM read_parquet('part-0.parquet')",
        "SELECT * FROM parquet_metadata('part-0.parquet')",
        "SELECT * FROM generate_series(1, 10)",
        "SELECT * FROM u",
        "SELECT; SELECT 1",
        "SELECT 1; SELECT 2",
        "",
        "SELEC 1",
    ] {
        refused(sql, "BadSql").await;
    }
}

/// Functions that tell of files, of the engine, or differ from run to run.
#[tokio::test]
async fn telling_functions_are_unknown() {
    for call in [
        "input_file_name()",
        "file_row_index()",
        "version()",
        "random()",
        "uuid()",
        "arrow_metadata(name)",
        "arrow_typeof(name)",
        "approx_distinct(name)",
        "approx_median(n)",
        "approx_percentile_cont(n, 0.5)",
        "any_value(name)",
    ] {
        let failed = run(&format!("SELECT {call} FROM t")).await.unwrap_err();
        let name = call.split('(').next().unwrap();
        assert_eq!(failed.code, "BadSql", "{call}: {failed:?}");
        let unknown = format!("Invalid function '{name}'");
        assert!(failed.text.contains(&unknown), "{call}: {failed:?}");
    }
}

#[tokio::test]
async fn unknown_and_closed_columns_are_told_apart() {
    refused("SELECT nothing FROM t", "UnknownColumn").await;
    refused("SELECT _no FROM t", "UnknownColumn").await;
    let mut world = world();
    world.agreements[0]
        .columns
        .retain(|column| column.name != "amount");
    let gated = Gated::new(&world, &mut ChaCha8Rng::seed_from_u64(0)).await;
    assert_eq!(
        gated
            .run("SELECT amount FROM t", 1, false)
            .await
            .unwrap_err()
            .code,
        "ColumnNotInAgreement"
    );
    assert!(
        !gated
            .run("SELECT * FROM t", 1, false)
            .await
            .unwrap()
            .schema
            .contains("amount")
    );
}

/// No buffer of what passes may hold a hidden value, be it under a null, in a page's dictionary, or behind the
/// rows of a view; so no format that copies buffers can carry one out.
#[tokio::test]
async fn no_buffer_and_no_format_carries_a_hidden_value() {
    for seed in 0..12 {
        for sql in [
            "SELECT * FROM t",
            "SELECT name, n FROM t WHERE n > 0",
            "SELECT name FROM t ORDER BY name",
            "SELECT big, amount, since, seen FROM t",
        ] {
            let gated = gated(seed).await;
            let query = session::parse(sql).unwrap();
            let setup = SessionSetup {
                scopes: gated.scopes.clone(),
                tables: gated.tables.clone(),
                at: at(),
                permit: Arc::new(Standing),
                numbers: None,
                runtime: Arc::new(RuntimeEnv::default()),
                reader: Arc::clone(&gated.reader),
                partitions: 2,
                account: Arc::new(Account::new(u64::MAX)),
                strict: false,
                min_inside_rows: 1,
            };
            let planned = session::plan(&query, setup).await.unwrap();
            let schema = planned.physical.schema();
            let batches = collect(planned.physical, planned.context).await.unwrap();
            assert!(batches.iter().map(RecordBatch::num_rows).sum::<usize>() > 0);
            for batch in &batches {
                for column in batch.columns() {
                    let held = canary::in_buffers(&column.to_data());
                    assert_eq!(held, None, "seed {seed}: {sql}");
                }
            }
            for format in FORMATS {
                let bytes = written(format, &schema, &batches);
                let held = canary::in_bytes(&bytes);
                assert_eq!(held, None, "seed {seed}: {sql} as {format:?}");
                assert!(!bytes.is_empty());
            }
        }
    }
}

const FORMATS: [Format; 5] = [
    Format::Table,
    Format::Csv,
    Format::Ndjson,
    Format::Parquet,
    Format::Arrow,
];

fn written(format: Format, schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
    let mut encoder = Encoder::new(format, schema).unwrap();
    let mut bytes = Vec::new();
    for batch in batches {
        bytes.extend(encoder.batch(batch).unwrap());
    }
    bytes.extend(encoder.finish().unwrap());
    bytes
}

/// What the test above looks for would be found: each hidden value by itself, in an answer of each form.
#[test]
fn hidden_values_would_be_found_in_every_format() {
    let world = world();
    let table = &world.tables[0];
    let row = table.rows.last().unwrap();
    let columns = table.contract.landed().zip(&row.cells);
    let told = ["name", "big", "amount", "since", "seen"];
    for (column, cell) in columns.filter(|(column, _)| told.contains(&column.name.as_str())) {
        let values = array(column.ty, [cell.as_ref()].into_iter(), true);
        let batch = RecordBatch::try_from_iter([(column.name.as_str(), values)]).unwrap();
        for format in FORMATS {
            let bytes = written(format, &batch.schema(), std::slice::from_ref(&batch));
            // A day of four bytes is known by its text alone.
            let binary = [Format::Parquet, Format::Arrow].contains(&format);
            let found = canary::in_bytes(&bytes).is_some();
            assert!(
                found || (binary && column.name == "since"),
                "{} as {format:?}",
                column.name
            );
        }
    }
}

/// The engine's dynamic filters (of joins, of the first rows of an order, of extremes), its statistics and its figures
/// are for operators that it may look into. A gated table in a session of the engine's own making, in which all of them
/// are on, passes every visible row to each scan and says nothing of any: what the engine is told of their number is a guess that is
/// made from the decision.
#[tokio::test]
async fn filters_statistics_and_figures_of_the_engine_end_above_the_gate() {
    let gated = gated(0).await;
    let config = SessionConfig::new().with_collect_statistics(true);
    assert!(config.options().optimizer.enable_dynamic_filter_pushdown);
    for (sql, passes, answer) in [
        (
            "SELECT b.id FROM t a JOIN t b ON a.n = b.n WHERE a.id = 1",
            4,
            1,
        ),
        ("SELECT id FROM t ORDER BY n LIMIT 1", 3, 1),
        (
            "SELECT max(n), min(n), count(*), count(DISTINCT name) FROM t",
            3,
            1,
        ),
        (
            "SELECT id FROM t WHERE name = (SELECT min(name) FROM t)",
            6,
            1,
        ),
    ] {
        let account = Arc::new(Account::new(u64::MAX));
        let context = QueryContext {
            account: Arc::clone(&account),
            permit: Arc::new(Standing),
            strict: Arc::new(AtomicBool::new(false)),
            numbers: None,
            reader: Arc::clone(&gated.reader),
            today: at().shanghai_date(),
            min_inside_rows: 1,
        };
        let scope = Arc::clone(gated.scopes.values().next().unwrap());
        let table = Arc::clone(gated.tables.values().next().unwrap());
        let session = SessionContext::new_with_config(config.clone());
        let table = GatedTable::new(scope, table, context);
        assert!(table.statistics().is_none() && table.constraints().is_none());
        session.register_table("t", Arc::new(table)).unwrap();
        let plan = session
            .sql(sql)
            .await
            .unwrap()
            .create_physical_plan()
            .await
            .unwrap();
        let mut gates = 0;
        plan.apply(|node| {
            if node.is::<GateExec>() {
                gates += 1;
                let known = node.statistics_from_inputs(&[], &StatisticsArgs::new())?;
                // A guess from the decision: two enterprises consented. There are more than two hundred rows.
                assert_eq!(known.num_rows, Precision::Inexact(20));
                assert_eq!(known.total_byte_size, Precision::Absent);
                let columns = known.column_statistics.iter();
                assert!(
                    columns
                        .into_iter()
                        .all(|column| *column == ColumnStatistics::new_unknown())
                );
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let rows = collect(Arc::clone(&plan), session.task_ctx())
            .await
            .unwrap();
        assert_eq!(
            rows.iter().map(RecordBatch::num_rows).sum::<usize>(),
            answer,
            "{sql}"
        );
        plan.apply(|node| {
            if node.is::<GateExec>() {
                assert!(node.metrics().is_none() && node.children().is_empty());
                let shown = displayable(node.as_ref()).one_line().to_string();
                assert_eq!(shown.trim(), "GateExec: dataset=t");
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let passed = account.passed();
        assert!(gates > 0);
        assert_eq!(passed.values().next().unwrap().rows, passes, "{sql}");
    }
}

/// A plan that was made while a consent stood passes nothing after it was taken away.
#[tokio::test]
async fn a_plan_that_was_made_before_a_withdrawal_passes_nothing_after_it() {
    #[derive(Debug, Default)]
    struct Taken(AtomicBool);
    impl Permit for Taken {
        fn check(&self) -> Result<(), QueryError> {
            match self.0.load(Ordering::Relaxed) {
                true => Err(QueryError::ConsentChanged),
                false => Ok(()),
            }
        }
    }
    for (sql, strict) in [
        ("SELECT * FROM t", false),
        ("SELECT * FROM t ORDER BY id", true),
        ("SELECT count(*) FROM t", false),
        ("SELECT a.id FROM t a JOIN t b ON a.id = b.id", false),
    ] {
        let gated = gated(0).await;
        let query = session::parse(sql).unwrap();
        let (account, taken) = (Arc::new(Account::new(u64::MAX)), Arc::new(Taken::default()));
        let permit = Arc::clone(&taken) as Arc<dyn Permit>;
        let planned = gated.plan_under(&query, (2, strict), Arc::clone(&account), permit);
        let planned = planned.await.unwrap();
        taken.0.store(true, Ordering::Relaxed);
        let ran = collect(planned.physical, planned.context).await;
        let refused = QueryError::from_running(&ran.unwrap_err());
        assert!(
            matches!(refused, QueryError::ConsentChanged),
            "{sql}: {refused:?}"
        );
        assert!(
            account.passed().values().all(|passed| passed.rows == 0),
            "{sql}"
        );
        // Without the withdrawal there is something to pass.
        let seen = gated.run(sql, 2, strict).await.unwrap();
        assert!(seen.passed.values().any(|passed| passed.rows > 0));
    }
}

/// The planner makes functions from signs that no registry knows: what is not on a list is refused however it is written.
#[tokio::test]
async fn signs_stand_for_no_function_that_is_on_no_list() {
    for (sql, function) in [
        ("SELECT [n, id] FROM t", "make_array"),
        ("SELECT ARRAY[n, id] FROM t", "make_array"),
        ("SELECT (n, id) FROM t", "struct"),
        ("SELECT id FROM t WHERE (n, id) = (4, 1)", "struct"),
        ("SELECT id FROM t WHERE n = ANY(ARRAY[4, 6])", "array_has"),
        (
            "SELECT array_agg(n) || array_agg(id) FROM t",
            "array_concat",
        ),
        ("SELECT array_agg(n) || 1 FROM t", "array_append"),
        (
            "SELECT array_agg(n) @> array_agg(n) FROM t",
            "array_has_all",
        ),
        ("SELECT array_agg(n)[1:2] FROM t", "array_slice"),
        ("SELECT (SELECT array_agg(n) FROM t)[1]", "array_element"),
        (
            "SELECT id FROM t WHERE id IN (SELECT (n, 1) IS NULL FROM t)",
            "struct",
        ),
    ] {
        let refused = run(sql).await.unwrap_err();
        assert_eq!(refused.code, "NotAllowed", "{sql}: {refused:?}");
        assert!(
            refused.text.contains(&format!("the function {function} ")),
            "{sql}: {refused:?}"
        );
    }
    assert_eq!(
        rows("SELECT array_agg(id ORDER BY id)[2] FROM t").await,
        [["2"]]
    );
}

/// What the engine makes of an operator that it does not know today, it may make up tomorrow.
#[tokio::test]
async fn signs_between_values_are_those_of_a_list() {
    for sign in [
        "->", "->>", "#>", "#>>", "@@", "@?", "@>", "<@", "?|", "?&", "#-",
    ] {
        for sql in [
            format!("SELECT name {sign} 'a' FROM t"),
            format!("SELECT id FROM t WHERE id IN (SELECT n FROM t WHERE name {sign} name)"),
        ] {
            let refused = run(&sql).await.unwrap_err();
            assert_eq!(refused.code, "NotAllowed", "{sql}: {refused:?}");
        }
    }
}

/// What the planner reads over without a word would be an answer to another question.
#[tokio::test]
async fn what_the_planner_reads_over_is_refused() {
    for sql in [
        "SELECT id FROM t TABLESAMPLE BERNOULLI (10)",
        "SELECT id FROM t TABLESAMPLE (1 ROWS)",
        "SELECT id FROM (SELECT id FROM t) AS s TABLESAMPLE SYSTEM (1)",
        "SELECT id FROM t FOR UPDATE",
        "SELECT id FROM t WHERE n IN (SELECT n FROM t FOR SHARE)",
        "WITH w AS (SELECT id FROM t WITH ORDINALITY) SELECT * FROM w",
        "SELECT id FROM t WITH (NOLOCK)",
    ] {
        refused(sql, "NotAllowed").await;
    }
}

/// Errors are of what they say, and quote neither values nor the engine's code.
#[tokio::test]
async fn errors_are_of_what_they_say() {
    refused(
        "SELECT id FROM t WHERE regexp_like(name, '(')",
        "EvaluationFailed",
    )
    .await;
    refused("SELECT id FROM t WHERE name ~ '['", "EvaluationFailed").await;
    refused("SELECT split_part(name, ',', 0) FROM t", "EvaluationFailed").await;
    refused("SELECT 1 / (n - 4) FROM t", "DivisionByZero").await;
    for sql in [
        "SELECT name COLLATE \"C\" FROM t",
        "SELECT name IS NORMALIZED FROM t",
        "SELECT id FROM t WHERE row_number() OVER () = 1",
    ] {
        let error = run(sql).await.unwrap_err();
        assert_eq!(error.code, "NotAllowed", "{sql}");
        let code = ["{", "span", "Span(", "Expr"]
            .iter()
            .find(|code| error.text.contains(**code));
        assert!(
            code.is_none() && error.text.len() < 200,
            "{sql}: {}",
            error.text
        );
    }
}

/// The number filter of a point query touches only its subject, known or not.
#[tokio::test]
async fn a_point_query_touches_its_subject_alone() {
    let seen = run(&format!("SELECT id FROM t WHERE uscc = '{}'", uscc(2)))
        .await
        .unwrap();
    assert_eq!(
        seen.passed
            .values()
            .next()
            .unwrap()
            .touched
            .iter()
            .collect::<Vec<_>>(),
        [2]
    );
    let hidden = run(&format!("SELECT id FROM t WHERE uscc = '{}'", uscc(5)))
        .await
        .unwrap();
    let unknown = run("SELECT id FROM t WHERE uscc = '91330000142911651L'")
        .await
        .unwrap();
    assert_eq!(
        (&hidden.rows, &hidden.passed),
        (&unknown.rows, &unknown.passed)
    );
    assert!(hidden.rows.is_empty());
}
