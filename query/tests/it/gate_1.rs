//! GATE-1: a query over the gate answers like the same query over tables that hold only the authorised view.

use qihui_consent::decision::Value;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::grammar::Grammar;
use crate::reference::{View, view};
use crate::run::{Failed, Gated, many, run_physical, seeds, sorted};
use crate::world::World;

const QUERIES: u64 = 8;

pub fn grammar<'a>(views: &[(String, View)], rng: &'a mut ChaCha8Rng) -> Option<Grammar<'a>> {
    let tables: Vec<_> = views
        .iter()
        .filter(|(_, view)| !view.columns.is_empty())
        .map(|(name, view)| {
            (
                name.clone(),
                view.columns
                    .iter()
                    .map(|(_, name, ty)| (name.clone(), *ty))
                    .collect(),
            )
        })
        .collect();
    (!tables.is_empty()).then_some(Grammar {
        tables,
        rng,
        aliases: 0,
    })
}

/// What the statements of some worlds came to.
#[derive(Debug, Default)]
pub struct Tally {
    run: u64,
    failed: u64,
    strict: u64,
    rows: usize,
}

/// The views of a world's tables, by their names.
pub fn views(world: &World) -> Vec<(String, View)> {
    let tables = world.tables.iter();
    tables
        .map(|table| (table.contract.id.to_string(), view(world, table)))
        .collect()
}

pub async fn check(seed: u64, tally: &mut Tally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    let views = views(&world);
    for _ in 0..QUERIES {
        let Some(mut grammar) = grammar(&views, &mut rng) else {
            break;
        };
        let sql = grammar.statement();
        let over_gate = gated.run(&sql, 2, false).await;
        let over_view = run_physical(&views, &gated, &sql).await;
        tally.run += 1;
        match (over_gate, over_view) {
            (Ok(seen), Ok(rows)) => {
                tally.strict += u64::from(seen.strict);
                tally.rows += rows.len();
                if is_ordered(&sql) {
                    let keys = |rows: &[Vec<String>]| -> Vec<String> {
                        rows.iter().map(|row| row[0].clone()).collect()
                    };
                    assert_eq!(keys(&seen.rows), keys(&rows), "seed {seed}: {sql}");
                }
                let rows = sorted(rows);
                assert_eq!(sorted(seen.rows), rows, "seed {seed}: {sql}");
                // The reference is planned by the same rules; the other mode is planned by others.
                if !seen.strict && rng.random_bool(0.5) {
                    let in_order = gated.run(&sql, 1, true).await.unwrap();
                    assert_eq!(sorted(in_order.rows), rows, "seed {seed}, strict: {sql}");
                }
            }
            (Err(a), Err(b)) => {
                tally.failed += 1;
                assert_eq!(a, b, "seed {seed}: {sql}");
                assert_quotes_nothing(&a, &views, &sql);
            }
            (a, b) => {
                let sizes: Vec<usize> = views.iter().map(|(_, view)| view.rows.len()).collect();
                panic!(
                    "seed {seed}: {sql}\n gate: {a:?}\n view: {b:?}\n rows of the views: {sizes:?}"
                )
            }
        }
    }
}

/// Whether a statement asks for its rows in the order of the first column.
fn is_ordered(sql: &str) -> bool {
    let tail = sql.rsplit_once(" ORDER BY 1").map(|(_, tail)| tail);
    tail.is_some_and(|tail| !tail.contains(')'))
}

/// An error says nothing of any row, not even of one that may be seen: no text of more than two letters that the
/// statement does not hold itself.
fn assert_quotes_nothing(failed: &Failed, views: &[(String, View)], sql: &str) {
    let cells = views.iter().flat_map(|(_, view)| &view.rows);
    for value in cells.flat_map(|(_, cells)| cells).flatten() {
        if let Value::String(text) = value {
            let quoted = text.chars().count() > 2 && failed.text.contains(text.as_str());
            assert!(!quoted || sql.contains(text.as_str()), "{sql}: {failed:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_a_query_sees_exactly_the_authorised_view() {
    let mut tally = Tally::default();
    let seeds = seeds(1200, QUERIES);
    let asked = seeds.len() as u64 * QUERIES;
    for seed in seeds {
        check(seed, &mut tally).await;
    }
    let Tally {
        run,
        failed,
        strict,
        rows,
    } = tally;
    println!(
        "GATE-1: {run} queries agreed in {rows} rows, {failed} of them by the same error, {strict} in strict mode"
    );
    assert!(
        !many(asked, run) || failed * 100 < run * 30,
        "too many statements fail for the test to say much"
    );
}

/// A sort below each branch of a union, and a merge above, must not become a sequence of sorted runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_a_window_over_a_union_sees_one_order_in_both_modes() {
    let mut rows_seen = 0;
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let gated = Gated::new(&world, &mut rng).await;
        let sql = "SELECT id, row_number() OVER (ORDER BY id) AS r FROM \
                   (SELECT id FROM t UNION ALL SELECT id FROM t) AS both ORDER BY 1, 2";
        let (Ok(loose), Ok(strict)) = (
            gated.run(sql, 2, false).await,
            gated.run(sql, 1, true).await,
        ) else {
            continue;
        };
        assert_eq!(loose.rows, strict.rows, "seed {seed}");
        for (at, row) in strict.rows.iter().enumerate() {
            assert_eq!(row[1], (at + 1).to_string(), "seed {seed}");
        }
        rows_seen += strict.rows.len();
    }
    assert!(rows_seen > 100, "{rows_seen} rows say little");
}

/// The optimizer makes one key of two that it simplifies to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_an_aggregate_is_ordered_by_two_keys_that_are_one() {
    let mut groups = 0;
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let gated = Gated::new(&world, &mut rng).await;
        let sql = "SELECT kind, first_value(id ORDER BY coalesce(id)) AS f, min(id) AS m \
                   FROM t GROUP BY kind";
        let Ok(seen) = gated.run(sql, 2, false).await else {
            continue;
        };
        for row in &seen.rows {
            assert_eq!(row[1], row[2], "seed {seed}");
        }
        groups += seen.rows.len();
    }
    assert!(groups > 30, "{groups} groups say little");
}

/// A literal on the side of an outer join that nulls may stand for is no constant of the join. Whether the world says
/// something of it.
pub async fn check_outer_join(seed: u64) -> bool {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    let mut mixed = false;
    for (join, other) in [
        ("(SELECT 1 AS o FROM t) AS a RIGHT JOIN t AS b", "RIGHT"),
        ("t AS b LEFT JOIN (SELECT 1 AS o FROM t) AS a", "LEFT"),
        ("(SELECT 1 AS o FROM t) AS a FULL JOIN t AS b", "FULL"),
    ] {
        let join = format!("FROM {join} ON b.kind IS NOT NULL");
        let all = format!("SELECT a.o, b.id {join} GROUP BY a.o, b.id");
        let few = format!("{all} ORDER BY 1, 2 LIMIT 3");
        let Ok(all) = gated.run(&all, 2, false).await else {
            continue;
        };
        let matched = all.rows.iter().filter(|row| row[0] == "1").count();
        mixed |= matched > 0 && matched < all.rows.len();
        for (partitions, strict) in [(1, false), (2, false), (1, true)] {
            let few = gated.run(&few, partitions, strict).await.unwrap();
            let first = few.rows.iter().take_while(|row| row[0] == "1").count();
            let of = format!("seed {seed}, {other}: {:?}", few.rows);
            assert_eq!(first, matched.min(3), "{of}");
        }
    }
    mixed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_rows_that_an_outer_join_fills_up_have_their_place_in_the_order() {
    let mut mixed = 0;
    for seed in 0..20 {
        mixed += usize::from(check_outer_join(seed).await);
    }
    assert!(mixed > 2, "{mixed} worlds say little");
}

/// What is constant before grouping sets is none after them, which leave it out. How many groups the world has.
pub async fn check_grouping_sets(seed: u64) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    let sql = "SELECT kind, id, count(*) AS c FROM t WHERE kind = 'a' AND id IS NOT NULL \
               GROUP BY GROUPING SETS ((kind, id), (id)) ORDER BY kind, id";
    let mut groups = 0;
    for (partitions, strict) in [(1, false), (2, false), (1, true)] {
        let Ok(seen) = gated.run(sql, partitions, strict).await else {
            continue;
        };
        let half = seen.rows.len() / 2;
        let (with, without) = seen.rows.split_at(half);
        let of = format!("seed {seed}, {partitions}, {strict}: {:?}", seen.rows);
        assert!(with.iter().all(|row| row[0] == "a"), "{of}");
        assert!(without.iter().all(|row| row[0] == "∅"), "{of}");
        groups = half;
    }
    groups
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_keys_that_grouping_sets_leave_out_have_their_place_in_the_order() {
    let mut groups = 0;
    for seed in 0..60 {
        groups += check_grouping_sets(seed).await;
    }
    assert!(groups > 20, "{groups} groups say little");
}

/// The engine finds some of its own plans in parallel unsound; then the statement is planned in sequence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_what_cannot_be_planned_in_parallel_is_planned_in_sequence() {
    let mut planned = 0;
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let gated = Gated::new(&world, &mut rng).await;
        let sql = "SELECT * FROM (SELECT a3.flag AS o0, try_cast(greatest(a2.n, a2.id) AS bigint) AS o1, \
                   (a3.id >= a2.id) AS o2 FROM t AS a2 LEFT JOIN u AS a3 ON a2.since = a3.day) AS a1 \
                   WHERE a1.o1 = -3 LIMIT 2";
        match gated.run(sql, 2, false).await {
            Ok(_) => planned += 1,
            Err(failed) => assert_ne!(failed.code, "BadSql", "seed {seed}: {failed:?}"),
        }
    }
    assert!(planned > 5, "{planned} worlds say little");
}

/// Windows over the rows of each value of each column: an engine that were told of an order below would look for them among
/// neighbours. How many columns had more than one row.
pub async fn check_windows(seed: u64) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    let views = views(&world);
    let mut several = 0;
    for (table, view) in &views {
        for (_, column, _) in &view.columns {
            let sql = format!(
                "SELECT {column} AS o0, count(*) OVER (PARTITION BY {column}) AS g FROM {table}"
            );
            let wanted = sorted(run_physical(&views, &gated, &sql).await.unwrap());
            several += usize::from(wanted.len() > 1);
            for (partitions, strict) in [(1, false), (2, false), (1, true)] {
                let seen = gated.run(&sql, partitions, strict).await.unwrap();
                let of = format!("seed {seed}, {partitions}, {strict}: {sql}");
                assert_eq!(sorted(seen.rows), wanted, "{of}");
            }
        }
    }
    several
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_a_window_has_every_row_of_its_value() {
    let mut several = 0;
    for seed in 0..20 {
        several += check_windows(seed).await;
    }
    assert!(several > 60, "{several} columns say little");
}

/// What is constant in each branch of a union is not constant in it.
pub async fn check_union(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    let both = "SELECT true AS o0 FROM t UNION ALL SELECT false AS o0 FROM t";
    let Ok(all) = gated.run(both, 2, false).await else {
        return;
    };
    let half = all.rows.len() / 2;
    let first = format!("{both} ORDER BY 1 LIMIT {half}");
    let rest = format!("{both} OFFSET {half}");
    for (partitions, strict) in [(1, false), (2, false), (1, true)] {
        for (sql, wanted) in [(&first, "false"), (&rest, "true")] {
            let seen = gated.run(sql, partitions, strict).await.unwrap();
            let right = seen.rows.iter().filter(|row| row[0] == wanted).count();
            assert_eq!(right, half, "seed {seed}, {partitions}, {strict}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_a_union_of_constants_has_an_order() {
    for seed in 0..40 {
        check_union(seed).await;
    }
}
