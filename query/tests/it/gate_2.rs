//! GATE-2: two warehouses with the same authorised view cannot be told apart.

use std::sync::Arc;

use qihui_catalog::{Contract, EnterpriseNo, Level};
use qihui_consent::decision::Value;
use qihui_query::account::Account;
use qihui_query::exec::Standing;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::grammar::Grammar;
use crate::reference::{View, view};
use crate::run::{Failed, Gated, Mode, Seen, seeds, sorted};
use crate::world::{ENTERPRISES, Row, Table, World, cell, date, dates_of, row, uscc};

const QUERIES: u64 = 6;

/// Another world with the same authorised view: hidden rows come, go and change, hidden cells change.
pub fn disguise(world: &World, rng: &mut ChaCha8Rng) -> World {
    let mut other = world.clone();
    for table in &mut other.tables {
        let before = view(world, table);
        let mut rows = Vec::new();
        for (at, old) in table.rows.iter().enumerate() {
            match before.rows.iter().position(|(visible, _)| *visible == at) {
                None if rng.random_bool(0.4) => {}
                None => rows.push(redrawn(table, old, None, rng)),
                Some(visible) => rows.push(redrawn(table, old, Some((&before, visible)), rng)),
            }
        }
        for _ in 0..*[0, 3, 60, 300].choose(rng).unwrap() {
            let id = rng.random_range(1000..9000);
            // Of anybody, also of enterprises that nobody heard of.
            let no = match rng.random_bool(0.7) {
                true => rng.random_range(1..=ENTERPRISES),
                false => rng.random_range(ENTERPRISES + 1..100_000),
            };
            rows.push(row(rng, &table.contract, no, id, true));
        }
        rows.shuffle(rng);
        table.rows = rows;
    }
    // What turned out visible after all is taken away again.
    for i in 0..other.tables.len() {
        let wanted = view(world, &world.tables[i]);
        let known = wanted.described();
        let table = &other.tables[i];
        let now = view(&other, table);
        let mut left = known;
        let mut drop = Vec::new();
        for ((at, _), row) in now.rows.iter().zip(now.described()) {
            match left.iter().position(|have| *have == row) {
                Some(found) => {
                    left.swap_remove(found);
                }
                None => drop.push(*at),
            }
        }
        let mut at = 0;
        other.tables[i].rows.retain(|_| {
            at += 1;
            !drop.contains(&(at - 1))
        });
    }
    other
}

/// A row with its hidden cells drawn anew; of a visible row, only cells that no rule looks at.
fn redrawn(table: &Table, old: &Row, visible: Option<(&View, usize)>, rng: &mut ChaCha8Rng) -> Row {
    let mut new = old.clone();
    for (i, column) in table.contract.landed().enumerate() {
        let rules = rules_look_at(&table.contract, &column.name);
        let kept = match visible {
            Some(_) => rules,
            None => ["uscc", "id"].contains(&column.name.as_str()),
        };
        let shown = visible.is_some_and(|(view, row)| {
            view.columns
                .iter()
                .position(|(at, ..)| *at == i)
                .is_some_and(|position| !view.withheld[row][position])
        });
        if !kept && !shown {
            new.cells[i] = cell(rng, column, true);
        }
    }
    new
}

/// Whether a row's or a cell's standing depends on a column.
fn rules_look_at(contract: &Contract, name: &str) -> bool {
    let window = contract.window.iter().flat_map(dates_of);
    let flags = contract.columns.iter();
    let flags = flags.filter_map(|column| column.public_when.clone());
    let mut fixed = ["uscc", "id", "day"].map(str::to_owned).into_iter();
    fixed.any(|rule| rule == name) || window.chain(flags).any(|rule| rule == name)
}

pub fn comparable(seen: &Seen) -> Seen {
    Seen {
        rows: sorted(seen.rows.clone()),
        ..seen.clone()
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In parallel: rows in any order.
    Parallel,
    /// In strict mode: rows in their order.
    Strict,
    /// In strict mode, with little memory: also what did not fit, and what was put aside.
    Memory,
}

/// What the statements over some pairs of worlds came to.
#[derive(Debug, Default)]
pub struct Tally {
    run: u64,
    /// Over pairs that differ in something hidden.
    telling: u64,
    failed: u64,
    /// Ended for want of memory.
    short: u64,
    /// Put rows aside.
    spilled: u64,
}

pub async fn check(seed: u64, kind: Kind, tally: &mut Tally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6a7e_0002);
    let world = World::draw(&mut rng);
    let other = disguise(&world, &mut rng);
    let views: Vec<View> = world
        .tables
        .iter()
        .map(|table| view(&world, table))
        .collect();
    for (table, wanted) in other.tables.iter().zip(&views) {
        if view(&other, table).canonical() != wanted.canonical() {
            return;
        }
    }
    let differ = |(a, b): (&Table, &Table)| format!("{:?}", a.rows) != format!("{:?}", b.rows);
    let telling = world.tables.iter().zip(&other.tables).any(differ);
    let (a, b) = (
        Gated::new(&world, &mut rng).await,
        Gated::new(&other, &mut rng).await,
    );
    let tables: Vec<_> = world
        .tables
        .iter()
        .zip(&views)
        .filter(|(_, view)| !view.columns.is_empty())
        .map(|(table, view)| {
            let columns = view
                .columns
                .iter()
                .map(|(_, name, ty)| (name.clone(), *ty))
                .collect();
            (table.contract.id.to_string(), columns)
        })
        .collect();
    if tables.is_empty() {
        return;
    }
    for _ in 0..QUERIES {
        let sql = Grammar {
            tables: tables.clone(),
            rng: &mut rng,
            aliases: 0,
        }
        .statement();
        let mode = mode(kind, &mut rng);
        let most_rows = match rng.random_bool(0.2) {
            true => rng.random_range(0..40),
            false => u64::MAX,
        };
        let accounts = [(); 2].map(|()| Arc::new(Account::new(most_rows)));
        let run = |gated: &Gated, account: &Arc<Account>| {
            let (gated, account) = (gated.clone(), Arc::clone(account));
            let sql = sql.clone();
            async move { gated.run_in(mode, &sql, account, Arc::new(Standing)).await }
        };
        let seen_a = run(&a, &accounts[0]).await;
        let seen_b = run(&b, &accounts[1]).await;
        tally.run += 1;
        tally.telling += u64::from(telling);
        tally.count(&seen_a);
        let text = format!("{seen_b:?}");
        assert!(!text.contains("SECRET"), "seed {seed}: {sql}\n{text}");
        match (&seen_a, &seen_b) {
            (Ok(x), Ok(y)) if kind == Kind::Parallel => {
                assert_same(
                    &comparable(x),
                    &comparable(y),
                    &format!("seed {seed}: {sql}"),
                );
            }
            (Ok(x), Ok(y)) => assert_same(x, y, &format!("seed {seed}, {mode:?}: {sql}")),
            (Err(x), Err(y)) => assert_eq!(x, y, "seed {seed}, {mode:?}: {sql}"),
            (x, y) => {
                let [x, y] = [x, y].map(|seen| seen.as_ref().map(|seen| seen.rows.len()));
                panic!("seed {seed}, {mode:?}: {sql}\n {x:?}\n {y:?}");
            }
        }
        // The record of an access that failed says what had passed until then.
        // Where a batch goes over a limit, it says more or less by how long the batch was.
        let whole = |seen: &Result<Seen, Failed>| match seen {
            Ok(_) => true,
            Err(failed) => failed.code != "TooManyRows",
        };
        if kind != Kind::Parallel && whole(&seen_a) {
            let [a, b] = accounts.map(|account| account.passed());
            assert_eq!(a, b, "seed {seed}, {mode:?}: {sql}");
        }
    }
}

/// Two answers show the same; what differs is said by itself, since an answer is long.
pub fn assert_same(x: &Seen, y: &Seen, of: &str) {
    assert_eq!(x.schema, y.schema, "{of}");
    assert_eq!(x.explain, y.explain, "{of}");
    assert_eq!(x.rows, y.rows, "{of}");
    assert_eq!(x.passed, y.passed, "{of}");
    assert_eq!(x.spilled, y.spilled, "{of}");
    assert!(x == y, "the bytes of the answer differ, {of}\n{x:?}\n{y:?}");
}

/// Statements whose outcome would depend on how rows fall to threads and into batches: a guard before what fails, and
/// operators that stop before their input ends.
pub async fn check_fragile(seed: u64) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xf7a6);
    let world = World::draw(&mut rng);
    let other = disguise(&world, &mut rng);
    for (table, now) in world.tables.iter().zip(&other.tables) {
        if view(&other, now).canonical() != view(&world, table).canonical() {
            return 0;
        }
    }
    let (a, b) = (
        Gated::new(&world, &mut rng).await,
        Gated::new(&other, &mut rng).await,
    );
    let mut answered = 0;
    let most = rng.random_range(1..20);
    for sql in [
        "SELECT id FROM t WHERE id % 9 = 0 AND 100 / n >= 0".to_owned(),
        "SELECT id FROM t WHERE id % 6 = 1 AND 100 / n >= 0".to_owned(),
        format!("SELECT count(*) AS g0 FROM (SELECT FROM t LIMIT {most}) AS some"),
        format!("SELECT count(*) AS g0 FROM t AS x JOIN (SELECT FROM u LIMIT {most}) AS y ON true"),
    ] {
        let seen_a = a.run(&sql, 2, false).await;
        let seen_b = b.run(&sql, 2, false).await;
        match (&seen_a, &seen_b) {
            (Ok(x), Ok(y)) => {
                assert_same(
                    &comparable(x),
                    &comparable(y),
                    &format!("seed {seed}: {sql}"),
                );
                answered += 1;
            }
            _ => assert_eq!(seen_a, seen_b, "seed {seed}: {sql}"),
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_what_stops_or_fails_early_does_so_whatever_is_hidden() {
    let mut answered = 0;
    for seed in 0..60 {
        answered += check_fragile(seed).await;
    }
    assert!(answered > 60, "{answered} answers say little");
}

fn mode(kind: Kind, rng: &mut ChaCha8Rng) -> Mode {
    match kind {
        Kind::Parallel => Mode {
            min_inside_rows: *[1_usize, 1, 5, 1000].choose(rng).unwrap(),
            ..Mode::PARALLEL
        },
        Kind::Strict => Mode::STRICT,
        // A sort asks for ten mebibytes before anything else.
        Kind::Memory => Mode {
            memory: Some((rng.random_range(0..4) * (10 << 20)) + rng.random_range(0..120_000)),
            ..Mode::STRICT
        },
    }
}

impl Tally {
    fn count(&mut self, seen: &Result<Seen, Failed>) {
        match seen {
            Ok(seen) => self.spilled += u64::from(!seen.spilled.is_empty()),
            Err(failed) => {
                self.failed += 1;
                self.short += u64::from(failed.code == "OutOfMemory");
            }
        }
    }
}

async fn property(kind: Kind, cases: u64) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds(cases, QUERIES) {
        check(seed, kind, &mut tally).await;
    }
    println!("GATE-2 ({kind:?}), queries over pairs of warehouses: {tally:?}");
    assert!(
        tally.run < 60 || tally.telling * 2 > tally.run,
        "too few pairs differ for the test to say much"
    );
    tally
}

/// Makes nobody sees who an enterprise is, and sometimes nobody when something was.
fn anonymous(world: &mut World, dates: bool) {
    let hidden = |name: &str| name == "uscc" || (dates && name == "day");
    for table in &mut world.tables {
        let mut contract = Contract::clone(&table.contract);
        let columns = contract.columns.iter_mut();
        for column in columns.filter(|column| hidden(&column.name)) {
            column.level = Level::L2;
        }
        table.contract = Arc::new(contract);
    }
    for agreement in &mut world.agreements {
        agreement.columns.retain(|column| !hidden(&column.name));
    }
    world.request.subjects = None;
    if dates {
        let grants = world.grants.iter_mut();
        for item in grants.flat_map(|grant| &mut grant.items) {
            (item.from, item.to) = (None, None);
        }
    }
}

/// The same with the enterprises under other numbers, and (where `dates` are hidden) days drawn anew.
fn relabelled(world: &World, dates: bool, rng: &mut ChaCha8Rng) -> World {
    let mut numbers: Vec<u32> = (1..=ENTERPRISES).collect();
    numbers.shuffle(rng);
    let number = |no: u32| numbers[no as usize - 1];
    let mut other = world.clone();
    for table in &mut other.tables {
        let names = table.contract.landed();
        let names: Vec<String> = names.map(|column| column.name.clone()).collect();
        for row in &mut table.rows {
            row.no = number(row.no);
            for (name, cell) in names.iter().zip(&mut row.cells) {
                match (name.as_str(), cell.is_some()) {
                    ("uscc", _) => *cell = Some(Value::String(uscc(row.no))),
                    ("day", true) if dates => {
                        *cell = Some(Value::Date(date(rng.random_range(0..40))))
                    }
                    _ => {}
                }
            }
        }
        table.rows.shuffle(rng);
    }
    for grant in &mut other.grants {
        grant.no = EnterpriseNo(number(grant.no.0));
    }
    other
}

/// How many statements over worlds that differ in who is who came to rows of several enterprises, in the same order.
pub async fn check_order(seed: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6a7e_0002_0bde);
    let dates = rng.random_bool(0.5);
    let mut world = World::draw(&mut rng);
    anonymous(&mut world, dates);
    let other = relabelled(&world, dates, &mut rng);
    let mut tables = Vec::new();
    for (table, now) in world.tables.iter().zip(&other.tables) {
        let seen = view(&world, table);
        // All but whose the rows are.
        let shown = |view: &View| {
            let rows = view.described().into_iter();
            let rows = rows.map(|row| row.split_once(' ').map(|(_, cells)| cells.to_owned()));
            let mut rows: Vec<Option<String>> = rows.collect();
            rows.sort();
            rows
        };
        assert!(shown(&seen) == shown(&view(&other, now)), "seed {seed}");
        let columns = seen.columns.iter();
        let columns: Vec<_> = columns.map(|(_, name, ty)| (name.clone(), *ty)).collect();
        if !columns.is_empty() {
            tables.push((table.contract.id.to_string(), columns));
        }
    }
    if tables.is_empty() {
        return 0;
    }
    let (a, b) = (
        Gated::new(&world, &mut rng).await,
        Gated::new(&other, &mut rng).await,
    );
    let mut said = 0;
    for n in 0..QUERIES {
        let sql = match (n, tables.choose(&mut rng)) {
            (0, Some((name, columns))) => {
                let (column, _) = columns.choose(&mut rng).unwrap();
                format!("SELECT *, {column} AS again FROM {name}")
            }
            _ => Grammar {
                tables: tables.clone(),
                rng: &mut rng,
                aliases: 0,
            }
            .statement(),
        };
        let mode = match rng.random_bool(0.3) {
            true => Mode::STRICT,
            false => Mode::PARALLEL,
        };
        let run = async |gated: &Gated| {
            let account = Arc::new(Account::new(u64::MAX));
            gated.run_in(mode, &sql, account, Arc::new(Standing)).await
        };
        match (run(&a).await, run(&b).await) {
            (Ok(x), Ok(y)) => {
                // Who was touched is for the record alone; how many were is told.
                let known = |seen: &Seen| {
                    let passed = seen.passed.values().map(|passed| {
                        let touched = passed.touched.len();
                        (passed.rows, touched, passed.withheld.clone())
                    });
                    let passed: Vec<_> = passed.collect();
                    let answer = (seen.schema.clone(), seen.rows.clone(), seen.explain.clone());
                    (answer, passed, seen.strict, seen.sha256.clone())
                };
                let touched = x.passed.values().map(|passed| passed.touched.len()).max();
                said += u64::from(x.rows.len() > 1 && touched > Some(1));
                assert_eq!(known(&x), known(&y), "seed {seed}, {mode:?}: {sql}");
            }
            (x, y) => assert_eq!(x, y, "seed {seed}, {mode:?}: {sql}"),
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_the_order_of_rows_tells_nothing_of_what_they_do_not_show() {
    let (mut run, mut said) = (0, 0);
    for seed in seeds(300, QUERIES) {
        run += QUERIES;
        said += check_order(seed).await;
    }
    println!(
        "GATE-2 (order), queries over pairs of warehouses: {run}, of which with something to order: {said}"
    );
    assert!(
        run < 60 || said * 8 > run,
        "{said} answers of {run} say little"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_hidden_rows_and_cells_change_nothing_observable() {
    property(Kind::Parallel, 900).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_strict_mode_even_keeps_the_order_of_rows() {
    property(Kind::Strict, 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_hidden_rows_change_nothing_when_memory_is_short() {
    let tally = property(Kind::Memory, 300).await;
    assert!(
        tally.run < 250 || (tally.short > 20 && tally.short * 10 < tally.run * 9),
        "memory is too large or too small to say much: {tally:?}"
    );
}

/// A world in which nothing is hidden would make the test above empty.
#[test]
fn worlds_hide_something() {
    let mut hiding = 0;
    for seed in 0..50 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let hides = world.tables.iter().any(|table| {
            let view = view(&world, table);
            view.rows.len() < table.rows.len()
                || view.withheld.iter().flatten().any(|hidden| *hidden)
                || table
                    .contract
                    .columns
                    .iter()
                    .any(|column| column.level > Level::L1)
        });
        hiding += u32::from(hides);
    }
    assert!(hiding > 30);
}
