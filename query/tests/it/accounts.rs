//! The account of an access: exactly the rows that passed, whose they were, and which of their cells were withheld.

use std::collections::BTreeMap;

use qihui_catalog::ColumnType;
use qihui_consent::decision::{Form, Value};
use qihui_query::account::Passed;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::reference::{View, column_form, view};
use crate::run::{Gated, many, seeds};
use crate::world::{ENTERPRISES, Table, World, date, uscc};

const QUERIES: u64 = 8;

/// What a filter that may be pushed keeps.
type Test = Box<dyn Fn(&Value) -> bool + Send>;

/// A filter on one column, as SQL and as what it means; one that may not be pushed keeps every row, as far as the gate
/// goes.
struct Filter {
    position: usize,
    sql: String,
    test: Option<Test>,
}

fn filter(view: &View, position: usize, rng: &mut ChaCha8Rng) -> Option<Filter> {
    let (_, name, ty) = &view.columns[position];
    let made = |sql: String, test: Test| {
        Some(Filter {
            position,
            sql,
            test: Some(test),
        })
    };
    if rng.random_bool(0.25) {
        let sql = match ty {
            ColumnType::Int32 | ColumnType::Int64 if rng.random_bool(0.5) => {
                format!("CAST({name} AS text) < '3'")
            }
            _ => format!("{name} IS NULL"),
        };
        return Some(Filter {
            position,
            sql,
            test: None,
        });
    }
    match ty {
        ColumnType::String => {
            let words: Vec<String> = match name.as_str() {
                "uscc" => (0..rng.random_range(1..4))
                    .map(|_| uscc(rng.random_range(1..=ENTERPRISES)))
                    .collect(),
                _ => ["a", "b", "杭州", "12", "***"]
                    .choose_multiple(rng, 2)
                    .map(|word| (*word).to_owned())
                    .collect(),
            };
            let list: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            let sql = match list.as_slice() {
                [one] => format!("{name} = {one}"),
                list => format!("{name} IN ({})", list.join(", ")),
            };
            let among = move |value: &Value| matches!(value, Value::String(s) if words.contains(s));
            made(sql, Box::new(among))
        }
        ColumnType::Int32 | ColumnType::Int64 => {
            let bound = rng.random_range(-4..30);
            match rng.random_range(0..3) {
                0 => made(
                    format!("{name} < {bound}"),
                    Box::new(move |value| matches!(value, Value::Number(n) if *n < bound)),
                ),
                1 => made(
                    format!("{name} BETWEEN {bound} AND {}", bound + 6),
                    Box::new(
                        move |value| matches!(value, Value::Number(n) if (bound..=bound + 6).contains(n)),
                    ),
                ),
                _ => made(
                    format!("{name} = {bound}"),
                    Box::new(move |value| matches!(value, Value::Number(n) if *n == bound)),
                ),
            }
        }
        ColumnType::Date => {
            let day = date(rng.random_range(0..40));
            made(
                format!("{name} >= date '{day}'"),
                Box::new(move |value| matches!(value, Value::Date(date) if *date >= day)),
            )
        }
        _ => None,
    }
}

/// What the words of the design make of a scan of some columns under some filters: those on columns that are shown clear
/// leave rows out, the others are for whoever reads what passed.
fn expected(
    world: &World,
    table: &Table,
    view: &View,
    scanned: &[usize],
    filters: &[Filter],
) -> Passed {
    let mut passed = Passed::default();
    for ((at, cells), withheld) in view.rows.iter().zip(&view.withheld) {
        let keeps = |filter: &Filter| {
            let name = &view.columns[filter.position].1;
            let clear = column_form(world, &table.contract, name) == Form::Clear;
            match &filter.test {
                Some(test) if clear => cells[filter.position].as_ref().is_some_and(test),
                _ => true,
            }
        };
        if !filters.iter().all(keeps) {
            continue;
        }
        passed.rows += 1;
        passed.touched.insert(table.rows[*at].no);
        for position in scanned.iter().filter(|position| withheld[**position]) {
            let name = view.columns[*position].1.clone();
            *passed.withheld.entry(name).or_default() += 1;
        }
    }
    passed
}

#[derive(Debug, Default)]
pub struct Tally {
    run: u64,
    rows: u64,
    withheld: u64,
    filtered: u64,
}

pub async fn check(seed: u64, tally: &mut Tally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xacc0);
    let world = World::draw(&mut rng);
    let gated = Gated::new(&world, &mut rng).await;
    for _ in 0..QUERIES {
        let table = world.tables.choose(&mut rng).unwrap();
        let view = view(&world, table);
        if view.columns.is_empty() {
            continue;
        }
        let mut positions: Vec<usize> = (0..view.columns.len()).collect();
        positions.shuffle(&mut rng);
        let shown = rng.random_range(1..=positions.len());
        let filters: Vec<Filter> = positions
            .iter()
            .rev()
            .take(rng.random_range(0..3))
            .filter_map(|position| filter(&view, *position, &mut rng))
            .collect();
        let mut scanned: Vec<usize> = positions[..shown].to_vec();
        scanned.extend(filters.iter().map(|filter| filter.position));
        scanned.sort_unstable();
        scanned.dedup();
        let names: Vec<&str> = positions[..shown]
            .iter()
            .map(|position| view.columns[*position].1.as_str())
            .collect();
        let wheres: Vec<&str> = filters.iter().map(|filter| filter.sql.as_str()).collect();
        let sql = format!(
            "SELECT {} FROM {}{}{}",
            names.join(", "),
            table.contract.id,
            if wheres.is_empty() { "" } else { " WHERE " },
            wheres.join(" AND ")
        );
        let wanted = expected(&world, table, &view, &scanned, &filters);
        for (partitions, strict) in [(2, false), (1, true)] {
            let seen = gated.run(&sql, partitions, strict).await.unwrap();
            let mut passed: BTreeMap<_, _> = seen.passed;
            let passed = passed.remove(&table.contract.id).unwrap_or_default();
            assert_eq!(passed, wanted, "seed {seed}: {sql}");
        }
        tally.run += 1;
        tally.rows += wanted.rows;
        tally.withheld += wanted.withheld.values().sum::<u64>();
        tally.filtered += u64::from(!filters.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_1_the_account_says_exactly_what_passed() {
    let mut tally = Tally::default();
    let seeds = seeds(600, QUERIES);
    let asked = seeds.len() as u64 * QUERIES;
    for seed in seeds {
        check(seed, &mut tally).await;
    }
    println!("accounts: {tally:?}");
    assert!(
        !many(asked, tally.run) || (tally.withheld > 500 && tally.filtered > 100),
        "too little is withheld or filtered to say much: {tally:?}"
    );
}

/// The engine writes a short IN as OR: it names its subjects all the same.
#[tokio::test]
async fn gate_1_a_short_in_list_touches_its_subjects_alone() {
    let mut touched = 0;
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let gated = Gated::new(&world, &mut rng).await;
        let sql = format!(
            "SELECT id FROM t WHERE uscc IN ('{}', '{}', '{}')",
            uscc(2),
            uscc(3),
            uscc(7)
        );
        // Codes that are masked narrow nothing.
        if column_form(&world, &world.tables[0].contract, "uscc") != Form::Clear {
            continue;
        }
        let Ok(seen) = gated.run(&sql, 2, false).await else {
            continue;
        };
        for passed in seen.passed.values() {
            let others = passed.touched.iter().filter(|no| ![2, 3, 7].contains(no));
            assert_eq!(others.count(), 0, "seed {seed}: {:?}", passed.touched);
            touched += passed.touched.len();
        }
    }
    assert!(touched > 10, "{touched} touched enterprises say little");
}
