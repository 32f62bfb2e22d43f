//! GATE-2 over tables of tens of thousands of rows: what hidden rows do to batches, to threads and to memory changes
//! nothing.
//!
//! The other worlds are small, so that every row of a scan stands in one batch. Here a scan has several, which hidden rows
//! cut at other places, and some of the visible rows pass unseen while others are looked at, in another order.

use std::collections::BTreeMap;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use qihui_catalog::{Action, ColumnType, Contract, EnterpriseNo, Level};
use qihui_consent::decision::{
    Agreement, AgreementColumn, AgreementId, Basis, Bucket, DecisionRequest, Form, Grant,
    ScopeItem, Value,
};
use qihui_query::account::Account;
use qihui_query::exec::Standing;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::canary;
use crate::gate_2::{assert_same, comparable};
use crate::reference::view;
use crate::run::{Failed, Gated, Mode, Seen};
use crate::world::{ENTERPRISES, Row, Table, World, at, column, contract_of, date, until, uscc};

/// Visible rows of the larger table, and of the smaller one.
const ROWS: [i128; 2] = [20_000, 600];
/// Of a thousand rows, how many have a number for their name, and an `n` that is not zero.
const NUMBERS: i128 = 300;
/// The days of which those who grant a range give their rows.
const RANGE: std::ops::Range<i32> = 10..30;

/// A number below a thousand, as many rows having each, also of the rows of a batch in the order of `id`.
fn class(id: i128) -> i128 {
    id * 619 % 1000
}

/// What an enterprise has granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granted {
    /// Every column, of any day.
    All,
    /// All but `amount`.
    NoAmount,
    /// All but `uscc`.
    NoCode,
    /// Every column, of [`RANGE`].
    Range,
    Nothing,
}

/// The larger table and the smaller one: who granted what, in which form days are shown, and how long texts are.
struct Town {
    contracts: [Arc<Contract>; 2],
    granted: BTreeMap<u32, Granted>,
    day: Form,
    note_bytes: usize,
}

/// A contract with codes and days of a level.
fn contract(name: &str, level: Level) -> Contract {
    let decimal = ColumnType::Decimal {
        precision: 12,
        scale: 2,
    };
    let mut day = column("day", ColumnType::Date, level);
    day.nullable = false;
    let columns = vec![
        column("uscc", ColumnType::String, level),
        column("id", ColumnType::Int64, Level::L1),
        day,
        column("kind", ColumnType::String, Level::L2),
        column("name", ColumnType::String, Level::L2),
        column("n", ColumnType::Int32, Level::L2),
        column("amount", decimal, Level::L2),
        column("note", ColumnType::String, Level::L2),
    ];
    Contract {
        event_date: Some("day".into()),
        ..contract_of(name, Level::L3, columns)
    }
}

impl Town {
    fn draw(rng: &mut ChaCha8Rng, note_bytes: usize) -> Self {
        let mut kinds = [
            Granted::All,
            Granted::NoAmount,
            Granted::NoCode,
            Granted::Range,
            Granted::Nothing,
        ];
        kinds.shuffle(rng);
        let kinds = kinds.into_iter().cycle();
        let level = *[Level::L1, Level::L2].choose(rng).unwrap();
        Self {
            contracts: ["t", "u"].map(|name| Arc::new(contract(name, level))),
            granted: (1..=ENTERPRISES).zip(kinds).collect(),
            day: *[Form::Clear, Form::Bucketed(Bucket::Month)]
                .choose(rng)
                .unwrap(),
            note_bytes,
        }
    }

    /// A row that is seen.
    fn visible(&self, rng: &mut ChaCha8Rng, id: i128) -> Row {
        loop {
            let no = rng.random_range(1..=ENTERPRISES);
            let day = match self.granted[&no] {
                Granted::Nothing => continue,
                Granted::Range => rng.random_range(RANGE),
                Granted::All | Granted::NoAmount | Granted::NoCode => rng.random_range(0..40),
            };
            let class = class(id);
            let name = match class < NUMBERS {
                true => class.to_string(),
                false => format!("w{}", rng.random_range(0..500)),
            };
            let kind = if class < NUMBERS { "number" } else { "word" };
            let n = if class < NUMBERS { 1 + id % 7 } else { 0 };
            // Nearly equal and large: how they deviate is mostly rounding.
            let amount = 987_654_321_000 + rng.random_range(0..1000);
            return self.row(rng, (no, id, day), [kind, &name], [n, amount]);
        }
    }

    /// A row that nobody is to see, on which everything would fail.
    fn hidden(&self, rng: &mut ChaCha8Rng) -> Row {
        loop {
            let no = match rng.random_bool(0.8) {
                true => rng.random_range(1..=ENTERPRISES),
                false => rng.random_range(ENTERPRISES + 1..100_000),
            };
            let day = match self.granted.get(&no) {
                None | Some(Granted::Nothing) => rng.random_range(0..40),
                Some(Granted::Range) => *[RANGE.start - 1, RANGE.end].choose(rng).unwrap(),
                Some(Granted::All | Granted::NoAmount | Granted::NoCode) => continue,
            };
            let id = rng.random_range(0..ROWS[0]);
            return self.row(rng, (no, id, day), ["number", canary::WORD], [0, 0]);
        }
    }

    /// Puts other values into the cells of a visible row that nobody is to see.
    fn disguise(&self, rng: &mut ChaCha8Rng, table: usize, row: &mut Row) {
        let contract = &self.contracts[table];
        let names = contract.landed().zip(&mut row.cells);
        for (column, cell) in names {
            match (self.granted[&row.no], column.name.as_str()) {
                (Granted::NoAmount, "amount") => *cell = canary::of(column.ty),
                (Granted::NoCode, "uscc") if column.level > Level::L1 => {
                    let code = uscc(rng.random_range(1..=ENTERPRISES));
                    let code = [code, canary::WORD.to_owned()].choose(rng).cloned();
                    *cell = code.map(Value::String);
                }
                _ => {}
            }
        }
    }

    fn row(
        &self,
        rng: &mut ChaCha8Rng,
        (no, id, day): (u32, i128, i32),
        [kind, name]: [&str; 2],
        [n, amount]: [i128; 2],
    ) -> Row {
        let bytes = rng.random_range(0..=self.note_bytes);
        let letters = (0..8).map(|_| char::from(rng.random_range(b'a'..=b'z')));
        let letters: Vec<char> = letters.collect();
        let note: String = letters.iter().cycle().take(bytes).collect();
        let text = |text: &str| Some(Value::String(text.to_owned()));
        let number = |number| Some(Value::Number(number));
        Row {
            no,
            cells: vec![
                text(&uscc(no)),
                number(id),
                Some(Value::Date(date(day))),
                text(kind),
                text(name),
                number(n),
                number(amount),
                text(&note),
            ],
        }
    }

    fn agreement(&self, contract: &Contract) -> Agreement {
        let columns = contract.landed().map(|column| AgreementColumn {
            name: column.name.clone(),
            form: Some(match column.name == "day" {
                true => self.day,
                false => Form::Clear,
            }),
            reason: None,
        });
        Agreement {
            id: AgreementId::from(contract.id.as_str()),
            org: "bank".parse().unwrap(),
            dataset: contract.id.clone(),
            purposes: ["loan".parse().unwrap()].into(),
            basis: Basis::Consent,
            aggregate_only: None,
            columns: columns.collect(),
            valid_from: at(),
            valid_until: until(),
        }
    }

    fn grant(&self, no: u32, granted: Granted) -> Grant {
        let (from, to) = match granted {
            Granted::Range => (Some(date(RANGE.start)), Some(date(RANGE.end))),
            _ => (None, None),
        };
        let item = |contract: &Arc<Contract>| {
            let names = contract.landed().map(|column| column.name.clone());
            let kept = match granted {
                Granted::NoAmount => "amount",
                Granted::NoCode => "uscc",
                _ => "",
            };
            let shown = |name: &String| name != kept;
            ScopeItem {
                dataset: contract.id.clone(),
                columns: names.filter(shown).collect(),
                from,
                to,
            }
        };
        Grant {
            consent_id: format!("c-{no}").parse().unwrap(),
            version: 1,
            no: EnterpriseNo(no),
            org: "bank".parse().unwrap(),
            purpose: "loan".parse().unwrap(),
            items: self.contracts.iter().map(item).collect(),
            actions: [Action::Query].into_iter().collect(),
            starts: at(),
            expires: until(),
            metered: false,
        }
    }

    /// Tables of these rows.
    fn world(&self, rows: [Vec<Row>; 2]) -> World {
        let contracts = self.contracts.iter();
        let granted = self.granted.iter();
        let granted = granted.filter(|(_, granted)| **granted != Granted::Nothing);
        World {
            tables: contracts
                .zip(rows)
                .map(|(contract, rows)| Table {
                    contract: Arc::clone(contract),
                    rows,
                })
                .collect(),
            agreements: self.contracts.iter().map(|c| self.agreement(c)).collect(),
            grants: granted
                .map(|(no, granted)| self.grant(*no, *granted))
                .collect(),
            request: DecisionRequest {
                org: "bank".parse().unwrap(),
                purpose: "loan".parse().unwrap(),
                action: Action::Query,
                at: at(),
                until: until(),
                subjects: None,
                datasets: self.contracts.iter().map(|c| c.id.clone()).collect(),
            },
        }
    }
}

/// Row groups and pages as large as these tables allow.
fn properties(rng: &mut ChaCha8Rng) -> WriterProperties {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(*[3000, 9000, 100_000].choose(rng).unwrap()))
        .set_data_page_row_count_limit(*[100, 500, 3000].choose(rng).unwrap())
        .set_write_batch_size(100)
        .set_compression(Compression::UNCOMPRESSED)
        .build()
}

/// Two warehouses with the same authorised view, of which the second holds other hidden rows.
async fn pair(rng: &mut ChaCha8Rng, note_bytes: usize) -> [Gated; 2] {
    let town = Town::draw(rng, note_bytes);
    let visible = ROWS.map(|rows| {
        (0..rows)
            .map(|id| town.visible(rng, id))
            .collect::<Vec<_>>()
    });
    let mut made = Vec::new();
    for share in [rng.random_range(0.0..0.2), rng.random_range(0.3..1.5)] {
        let mut rows = visible.clone();
        for (table, rows) in rows.iter_mut().enumerate() {
            for row in rows.iter_mut() {
                town.disguise(rng, table, row);
            }
            let hidden = (rows.len() as f64 * share) as usize;
            rows.extend((0..hidden).map(|_| town.hidden(rng)));
            rows.shuffle(rng);
        }
        made.push(town.world(rows));
    }
    let views = made.iter().map(|world| {
        let views = world.tables.iter().map(|table| view(world, table));
        views.map(|view| view.canonical()).collect::<Vec<_>>()
    });
    let views: Vec<_> = views.collect();
    assert!(views[0] == views[1] && views[0][0].len() == ROWS[0] as usize);
    let mut gated = Vec::new();
    for world in &made {
        gated.push(Gated::written(world, rng, properties).await);
    }
    gated.try_into().ok().unwrap()
}

/// What both warehouses of a pair answer, which is the same.
async fn same(pair: &[Gated; 2], mode: Mode, sql: &str, of: &str) -> Result<Seen, Failed> {
    let run = async |gated: &Gated| {
        let account = Arc::new(Account::new(u64::MAX));
        let seen = gated.run_in(mode, sql, Arc::clone(&account), Arc::new(Standing));
        (seen.await, account.passed())
    };
    let (seen_a, passed_a) = run(&pair[0]).await;
    let (seen_b, passed_b) = run(&pair[1]).await;
    match (&seen_a, &seen_b) {
        (Ok(x), Ok(y)) if x.strict => assert_same(x, y, of),
        (Ok(x), Ok(y)) => assert_same(&comparable(x), &comparable(y), of),
        (Err(x), Err(y)) => {
            assert_eq!(x, y, "{of}");
            assert_eq!(passed_a, passed_b, "{of}");
        }
        (x, y) => {
            let [x, y] = [x, y].map(|seen| seen.as_ref().map(|seen| seen.rows.len()));
            panic!("{of}\n {x:?}\n {y:?}");
        }
    }
    seen_a
}

/// Statements whose outcome would depend on where batches are cut.
fn cut(rng: &mut ChaCha8Rng) -> Vec<String> {
    let mut statements: Vec<String> = [
        "SELECT CAST(sum(CAST(amount AS DOUBLE) / 7) AS VARCHAR) AS g FROM t",
        "SELECT n, stddev(CAST(amount AS DOUBLE)) AS g FROM t GROUP BY n",
        "SELECT CAST(avg(CAST(t.amount AS DOUBLE)) AS VARCHAR) AS g FROM t JOIN u ON t.name = u.name",
    ]
    .map(str::to_owned)
    .into();
    statements.push("SELECT max(CAST(name AS BIGINT)) AS g FROM t".to_owned());
    // The engine looks at the right side of AND alone where the left keeps no more than a fifth of a batch.
    for share in [186, rng.random_range(187..194), rng.random_range(194..198)] {
        for fails in ["100 / n >= 0", "CAST(name AS BIGINT) >= 0"] {
            let guard = format!("id * 619 % 1000 < {share}");
            statements.push(format!("SELECT id FROM t WHERE {guard} AND {fails}"));
        }
    }
    statements
}

/// Statements that have all they need before the tables end.
fn stopping(rng: &mut ChaCha8Rng) -> Vec<String> {
    let most = rng.random_range(1..200);
    vec![
        format!("SELECT count(*) AS g FROM (SELECT FROM t LIMIT {most}) AS some"),
        format!("SELECT count(*) AS g FROM u JOIN (SELECT FROM t LIMIT {most}) AS some ON true"),
        format!("SELECT 1 AS one FROM t LIMIT {most}"),
        format!("SELECT n FROM t WHERE n = 3 LIMIT {most}"),
        format!(
            "SELECT amount FROM t WHERE kind = 'word' AND amount IS NULL ORDER BY kind LIMIT {most}"
        ),
    ]
}

/// Statements that threads share.
const SHARED: [&str; 5] = [
    "SELECT kind, n, count(*) AS g, sum(amount) AS s, min(name) AS a, max(day) AS z FROM t GROUP BY kind, n",
    "SELECT id, name, uscc FROM t ORDER BY name DESC LIMIT 20",
    "SELECT id, n, day FROM t WHERE id % 50 = 1",
    "SELECT max(r) AS g, sum(r) AS s FROM (SELECT row_number() OVER (PARTITION BY kind ORDER BY day) AS r FROM t) AS x",
    "SELECT u.kind, count(*) AS g FROM t JOIN u ON t.name = u.name GROUP BY u.kind",
];

/// What the statements over some pairs came to.
#[derive(Debug, Default)]
pub struct Tally {
    run: u64,
    answered: u64,
    /// Put rows aside above the gate.
    spilled: u64,
    /// Ended for want of memory.
    short: u64,
}

impl Tally {
    fn count(&mut self, seen: &Result<Seen, Failed>) {
        self.run += 1;
        match seen {
            Ok(seen) => {
                self.answered += 1;
                self.spilled += u64::from(!seen.spilled.is_empty());
            }
            Err(failed) => self.short += u64::from(failed.code == "OutOfMemory"),
        }
    }
}

type Statements = fn(&mut ChaCha8Rng) -> Vec<String>;

async fn check(seed: u64, statements: Statements, tally: &mut Tally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6a7e_0002_1a46);
    let pair = pair(&mut rng, 8).await;
    let mode = Mode {
        min_inside_rows: *[1, 1000].choose(&mut rng).unwrap(),
        ..Mode::PARALLEL
    };
    for sql in statements(&mut rng) {
        let of = format!("seed {seed}, {mode:?}: {sql}");
        tally.count(&same(&pair, mode, &sql, &of).await);
    }
}

pub async fn check_cut(seed: u64, tally: &mut Tally) {
    check(seed, cut, tally).await;
}

pub async fn check_stopping(seed: u64, tally: &mut Tally) {
    check(seed, stopping, tally).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_where_batches_are_cut_tells_nothing() {
    let mut tally = Tally::default();
    for seed in 0..4 {
        check_cut(seed, &mut tally).await;
    }
    println!("GATE-2 (batches): {tally:?}");
    assert!(
        tally.answered * 2 > tally.run && tally.answered < tally.run,
        "{tally:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_where_a_query_stops_tells_nothing() {
    let mut tally = Tally::default();
    for seed in 0..4 {
        check_stopping(seed, &mut tally).await;
    }
    println!("GATE-2 (stopping): {tally:?}");
    assert_eq!(tally.answered, tally.run, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_how_threads_share_many_rows_tells_nothing() {
    let mut tally = Tally::default();
    let shared = |_: &mut ChaCha8Rng| SHARED.map(str::to_owned).into();
    for seed in 0..4 {
        check(seed, shared, &mut tally).await;
    }
    println!("GATE-2 (threads): {tally:?}");
    assert_eq!(tally.answered, tally.run, "{tally:?}");
}

/// Statements that keep most of what they read, and how many mebibytes they get. By where it lies in its range each fails
/// for want of memory, puts rows aside or needs to do neither; the windows of the fourth put nothing aside.
const KEEPING: [(&str, std::ops::Range<usize>); 5] = [
    ("SELECT id, name FROM t ORDER BY note, id", 24..42),
    (
        "SELECT count(*) AS g, max(m) AS m FROM (SELECT DISTINCT note, name AS m FROM t) AS x",
        12..16,
    ),
    (
        "SELECT kind, count(DISTINCT note) AS g FROM t GROUP BY kind",
        17..34,
    ),
    (
        "SELECT sum(r) AS g FROM (SELECT row_number() OVER (PARTITION BY kind ORDER BY note) AS r FROM t) AS x",
        42..52,
    ),
    (
        "SELECT t.id, u.id AS i FROM t JOIN u ON t.name = u.name ORDER BY t.note, u.note",
        36..52,
    ),
];

pub async fn check_memory(seed: u64, tally: &mut Tally) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6a7e_0002_3e30);
    let pair = pair(&mut rng, 1000).await;
    for (sql, mebibytes) in KEEPING {
        let bytes = mebibytes.start << 20..mebibytes.end << 20;
        let mode = Mode {
            memory: Some(rng.random_range(bytes)),
            min_inside_rows: *[1, 1000].choose(&mut rng).unwrap(),
            ..Mode::STRICT
        };
        let of = format!("seed {seed}, {mode:?}: {sql}");
        tally.count(&same(&pair, mode, sql, &of).await);
    }
}

/// In strict mode what is put aside, and for want of what a query fails, is a function of what is visible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_2_what_is_put_aside_tells_nothing() {
    let mut tally = Tally::default();
    for seed in 0..4 {
        check_memory(seed, &mut tally).await;
    }
    println!("GATE-2 (spill): {tally:?}");
    assert!(tally.spilled * 3 > tally.run, "{tally:?}");
    assert!(tally.short * 8 > tally.run, "{tally:?}");
}
