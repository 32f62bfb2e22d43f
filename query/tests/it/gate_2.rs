//! GATE-2: two warehouses with the same authorised view cannot be told apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use qihui_catalog::{Column, Contract, EnterpriseNo, Level};
use qihui_consent::decision::{Basis, Form, Value};
use qihui_query::account::Account;
use qihui_query::exec::Standing;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::canary;
use crate::grammar::Grammar;
use crate::reference::{View, column_form, view};
use crate::run::{Failed, Gated, Mode, Seen, many, seeds, sorted};
use crate::world::{ENTERPRISES, Row, Table, World, cell, dates_of, row, uscc};

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

/// What may stand in a hidden cell; in that of a code also the code of somebody.
fn hidden_cell_of(column: &Column, rng: &mut ChaCha8Rng) -> Option<Value> {
    match column.name == "uscc" && rng.random_bool(0.5) {
        true => Some(Value::String(uscc(rng.random_range(1..=ENTERPRISES)))),
        false => cell(rng, column, true),
    }
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
            new.cells[i] = hidden_cell_of(column, rng);
        }
    }
    new
}

/// Whether a row's or a cell's standing depends on a column.
fn rules_look_at(contract: &Contract, name: &str) -> bool {
    let window = contract.window.iter().flat_map(dates_of);
    let flags = contract.columns.iter();
    let flags = flags.filter_map(|column| column.public_when.clone());
    let dates = contract.event_date.iter().cloned();
    dates.chain(window).chain(flags).any(|rule| rule == name)
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
    /// In strict mode, with little memory: also what did not fit. These tables are too small for a query to put rows aside
    /// rather than fail; `large` has such.
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
        assert_eq!(canary::in_text(&text), None, "seed {seed}: {sql}\n{text}");
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
        let seen = view(&world, table);
        // A dataset without open columns is none that a query may name.
        if seen.columns.is_empty() || view(&other, now).canonical() != seen.canonical() {
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
        // A sort asks for ten mebibytes before anything else; putting rows in order takes at least a few hundred kibibytes.
        Kind::Memory => {
            let bytes = [0, 400 << 10, 10 << 20, 20 << 20, 30 << 20];
            let bytes: usize = *bytes.choose(rng).unwrap();
            Mode {
                memory: Some(bytes + rng.random_range(0..120_000)),
                ..Mode::STRICT
            }
        }
    }
}

impl Tally {
    fn count(&mut self, seen: &Result<Seen, Failed>) {
        if let Err(failed) = seen {
            self.failed += 1;
            self.short += u64::from(failed.code == "OutOfMemory");
        }
    }
}

/// What a property came to, and whether it was asked of many.
async fn property(kind: Kind, cases: u64) -> (Tally, bool) {
    let mut tally = Tally::default();
    let seeds = seeds(cases, QUERIES);
    let asked = seeds.len() as u64 * QUERIES;
    for seed in seeds {
        check(seed, kind, &mut tally).await;
    }
    println!("GATE-2 ({kind:?}), queries over pairs of warehouses: {tally:?}");
    let many = many(asked, tally.run);
    assert!(
        !many || tally.telling * 2 > tally.run,
        "too few pairs differ for the test to say much"
    );
    (tally, many)
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
    if dates {
        let grants = world.grants.iter_mut();
        for item in grants.flat_map(|grant| &mut grant.items) {
            (item.from, item.to) = (None, None);
        }
    }
}

/// Makes codes, and sometimes days, known of those alone who grant them, which not all do.
fn reticent(world: &mut World, rng: &mut ChaCha8Rng) {
    let dates = rng.random_bool(0.5);
    let names = |name: &str| name == "uscc" || (dates && name == "day");
    for table in &mut world.tables {
        let mut contract = Contract::clone(&table.contract);
        if contract.row_level == Level::L1 {
            contract.row_level = Level::L2;
        }
        let columns = contract.columns.iter_mut();
        for column in columns.filter(|column| names(&column.name)) {
            column.level = Level::L2;
        }
        table.contract = Arc::new(contract);
    }
    for agreement in &mut world.agreements {
        agreement.basis = Basis::Consent;
        let forms = agreement.columns.iter_mut();
        for column in forms.filter(|column| names(&column.name)) {
            column.form = Some(Form::Clear);
        }
    }
    for grant in &mut world.grants {
        let grants_names = rng.random_bool(0.6);
        for item in &mut grant.items {
            item.columns.retain(|name| grants_names || !names(name));
        }
    }
}

/// The value of the first cell that a view shows in each row, where it shows it: of the column `name`, by the row's position.
fn shown_cells(view: &View, name: &str) -> BTreeMap<usize, Option<Value>> {
    let position = view.columns.iter().position(|(_, known, _)| known == name);
    let rows = view.rows.iter().zip(&view.withheld);
    let shown = rows.filter_map(|((at, cells), withheld)| {
        let position = position.filter(|position| !withheld[*position])?;
        Some((*at, cells[position].clone()))
    });
    shown.collect()
}

/// Numbers that enterprises can bear instead of their own without a change in what their codes show: by number less one.
fn other_numbers(world: &World, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut alike: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let views: Vec<View> = world
        .tables
        .iter()
        .map(|table| view(world, table))
        .collect();
    let codes: Vec<_> = views.iter().map(|view| shown_cells(view, "uscc")).collect();
    for no in 1..=ENTERPRISES {
        let named = world.request.subjects.iter().flatten();
        let named = named.filter(|subject| subject.0 == no).count() > 0;
        let tables = world.tables.iter().zip(&codes);
        let shown = tables.map(|(table, codes)| {
            let own = codes.iter().find(|(at, _)| table.rows[**at].no == no);
            own.map(|(_, code)| code.clone())
        });
        let known = named.then_some(no);
        let key = format!("{known:?} {:?}", shown.collect::<Vec<_>>());
        alike.entry(key).or_default().push(no);
    }
    let mut numbers: Vec<u32> = (1..=ENTERPRISES).collect();
    for group in alike.values() {
        let mut others = group.clone();
        others.shuffle(rng);
        for (no, other) in group.iter().zip(others) {
            numbers[*no as usize - 1] = other;
        }
    }
    numbers
}

/// The same with other event dates in rows that do not tell.
fn redated(world: &World, rng: &mut ChaCha8Rng) -> World {
    let mut other = world.clone();
    for table in &mut other.tables {
        let dated = table.contract.event_date.as_ref();
        let Some(day) = dated.and_then(|day| table.contract.landed().position(|c| c.name == *day))
        else {
            continue;
        };
        let column = table.contract.landed().nth(day).unwrap().clone();
        let old = table.rows.clone();
        for row in &mut table.rows {
            row.cells[day] = cell(rng, &column, false);
        }
        let by_row = |table: &Table| -> BTreeMap<usize, String> {
            let view = view(world, table);
            let rows = view.rows.iter().map(|(at, _)| *at);
            rows.zip(view.described()).collect()
        };
        let before = Table {
            rows: old.clone(),
            ..table.clone()
        };
        let (before, after) = (by_row(&before), by_row(table));
        for (at, row) in table.rows.iter_mut().enumerate() {
            if before.get(&at) != after.get(&at) {
                row.cells[day] = old[at].cells[day].clone();
            }
        }
    }
    other
}

/// The same with the enterprises under other numbers, where what is shown does not tell them.
fn relabelled(world: &World, rng: &mut ChaCha8Rng) -> World {
    let numbers = other_numbers(world, rng);
    let number = |no: u32| numbers[no as usize - 1];
    let mut other = world.clone();
    for table in &mut other.tables {
        let code = table.contract.landed().position(|c| c.name == "uscc");
        for row in &mut table.rows {
            row.no = number(row.no);
            row.cells[code.unwrap()] = Some(Value::String(uscc(row.no)));
        }
        table.rows.shuffle(rng);
    }
    for grant in &mut other.grants {
        grant.no = EnterpriseNo(number(grant.no.0));
    }
    other
}

/// Whether every row that is seen shows whose it is, and its event date, or there is none: then rows may come in the order
/// of files.
fn tells_all(world: &World, table: &Table, view: &View) -> bool {
    let contract = &table.contract;
    let told = |name: &str| {
        let clear = column_form(world, contract, name) == Form::Clear;
        clear && shown_cells(view, name).len() == view.rows.len()
    };
    let named = world.request.subjects.as_ref();
    let named = named.is_some_and(|subjects| subjects.len() == 1);
    (named || told("uscc")) && contract.event_date.iter().all(|day| told(day))
}

/// What the statements over worlds that differ in who is who came to.
#[derive(Debug, Default)]
pub struct OrderTally {
    run: u64,
    /// Came to rows of several enterprises, in the same order.
    said: u64,
    /// Of these, over worlds in which some rows that are seen show their code, and some do not.
    partly: u64,
}

/// Makes a world whose rows do not all show whose they are.
fn veil(world: &mut World, rng: &mut ChaCha8Rng) {
    world.request.subjects = rng
        .random_bool(0.1)
        .then(|| [EnterpriseNo(rng.random_range(1..=ENTERPRISES))].into());
    match rng.random_range(0..5) {
        0 | 1 => {
            let dates = rng.random_bool(0.5);
            anonymous(world, dates);
        }
        2 | 3 => reticent(world, rng),
        _ => {}
    }
}

/// What both worlds of a pair are to show alike.
#[derive(Debug, PartialEq)]
struct Known {
    schema: String,
    explain: String,
    rows: Vec<Vec<String>>,
    /// Per dataset: rows, how many enterprises were touched (which ones is for the record alone), cells withheld.
    passed: Vec<(u64, u64, BTreeMap<String, u64>)>,
    strict: bool,
    sha256: String,
}

impl Known {
    fn of(seen: &Seen, ordered: bool) -> Self {
        let passed = seen.passed.values();
        let passed = passed.map(|passed| {
            let touched = passed.touched.len();
            (passed.rows, touched, passed.withheld.clone())
        });
        Self {
            schema: seen.schema.clone(),
            explain: seen.explain.clone(),
            rows: match ordered {
                true => seen.rows.clone(),
                false => sorted(seen.rows.clone()),
            },
            passed: passed.collect(),
            strict: seen.strict,
            sha256: seen.sha256.clone(),
        }
    }
}

pub async fn check_order(seed: u64, tally: &mut OrderTally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6a7e_0002_0bde);
    let mut world = World::draw(&mut rng);
    veil(&mut world, &mut rng);
    let other = redated(&world, &mut rng);
    let other = relabelled(&other, &mut rng);
    let mut tables = Vec::new();
    let (mut told, mut partly) = (true, false);
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
            told &= tells_all(&world, table, &seen);
            let codes = shown_cells(&seen, "uscc").len();
            partly |= codes > 0 && codes < seen.rows.len();
            tables.push((table.contract.id.to_string(), columns));
        }
    }
    if tables.is_empty() {
        return;
    }
    let (a, b) = (
        Gated::new(&world, &mut rng).await,
        Gated::new(&other, &mut rng).await,
    );
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
        tally.run += 1;
        match (run(&a).await, run(&b).await) {
            (Ok(x), Ok(y)) => {
                let ordered = !told || x.strict;
                let (known, other) = (Known::of(&x, ordered), Known::of(&y, ordered));
                let several = known.passed.iter().any(|(_, touched, _)| *touched > 1);
                let says = ordered && several && x.rows.len() > 1;
                tally.said += u64::from(says);
                tally.partly += u64::from(says && partly);
                assert_eq!(known, other, "seed {seed}, {mode:?}: {sql}");
            }
            (x, y) => assert_eq!(x, y, "seed {seed}, {mode:?}: {sql}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_the_order_of_rows_tells_nothing_of_what_they_do_not_show() {
    let mut tally = OrderTally::default();
    let seeds = seeds(400, QUERIES);
    let asked = seeds.len() as u64 * QUERIES;
    for seed in seeds {
        check_order(seed, &mut tally).await;
    }
    println!("GATE-2 (order), queries over pairs of warehouses: {tally:?}");
    assert!(
        !many(asked, tally.run) || (tally.said * 8 > tally.run && tally.partly * 40 > tally.run),
        "too little came in an order for the test to say much: {tally:?}"
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
    let (tally, many) = property(Kind::Memory, 300).await;
    assert!(
        !many || (tally.short > 20 && tally.short * 10 < tally.run * 9),
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
