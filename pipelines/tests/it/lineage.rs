//! Lineage: exact on statements whose parents are known, and never too little on random ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qihui_pipelines::models::lineage::{Parent, Relation};
use qihui_query::session;

use crate::cases;
use crate::support::{Small, Tape, answer, lineage_of, world};

fn of(sql: &str) -> Relation {
    let world = world(&mut Tape::new(Vec::new()));
    lineage_of(&world, &session::parse(sql).unwrap())
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn named(parents: &BTreeSet<Parent>) -> String {
    let names: Vec<String> = parents.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// The parents of the rows, then those of each column.
#[track_caller]
fn has(sql: &str, rows: &str, columns: &[&str]) {
    let relation = of(sql);
    assert_eq!(named(&relation.rows), rows, "rows of {sql}");
    let found: Vec<String> = relation.columns.iter().map(named).collect();
    assert_eq!(found, columns, "{sql}");
}

#[test]
fn each_operator_has_its_parents() {
    has(
        "SELECT a + b, s, 1 FROM reg",
        "rows of reg",
        &["reg.a, reg.b", "reg.s", ""],
    );
    has(
        "SELECT CASE WHEN a > 1 THEN s END FROM reg WHERE b = 1",
        "rows of reg, reg.b",
        &["reg.a, reg.s"],
    );
    has(
        "SELECT uscc, max(n) FROM lic WHERE kind = 'v1' GROUP BY uscc",
        "rows of lic, lic.kind, lic.uscc",
        &["lic.uscc", "rows of lic, lic.kind, lic.n, lic.uscc"],
    );
    has("SELECT count(*) FROM lic", "", &["rows of lic"]);
    has(
        "SELECT uscc, count(*) FILTER (WHERE n > 1) FROM lic GROUP BY uscc HAVING max(id) > 2",
        "rows of lic, lic.id, lic.uscc",
        &["lic.uscc", "rows of lic, lic.n, lic.uscc"],
    );
    has(
        "SELECT first_value(score ORDER BY year DESC) FROM rate GROUP BY uscc",
        "rows of rate, rate.uscc",
        &["rows of rate, rate.score, rate.uscc, rate.year"],
    );
    has(
        "SELECT b, rank() OVER (PARTITION BY uscc ORDER BY a) FROM reg",
        "rows of reg",
        &["reg.b", "rows of reg, reg.a, reg.uscc"],
    );
    has(
        "SELECT a FROM reg UNION ALL SELECT n FROM lic",
        "rows of lic, rows of reg",
        &["lic.n, reg.a"],
    );
    has(
        "SELECT DISTINCT a, b FROM reg",
        "rows of reg, reg.a, reg.b",
        &["reg.a", "reg.b"],
    );
}

#[test]
fn what_a_left_join_adds_restricts_its_own_columns_only() {
    let one = "(SELECT uscc, max(n) AS m FROM lic WHERE kind = 'v1' GROUP BY uscc)";
    has(
        &format!("SELECT r.a, l.m FROM reg r LEFT JOIN {one} l ON r.uscc = l.uscc"),
        "rows of reg",
        &["reg.a", "rows of lic, lic.kind, lic.n, lic.uscc, reg.uscc"],
    );
    // Several licences of an enterprise multiply its rows; an inner join removes those without.
    has(
        "SELECT r.a, l.n FROM reg r LEFT JOIN lic l ON r.uscc = l.uscc",
        "rows of lic, rows of reg, lic.uscc, reg.uscc",
        &["reg.a", "rows of lic, lic.n, lic.uscc, reg.uscc"],
    );
    has(
        &format!("SELECT r.a, l.m FROM reg r JOIN {one} l ON r.uscc = l.uscc"),
        "rows of lic, rows of reg, lic.kind, lic.uscc, reg.uscc",
        &[
            "lic.uscc, reg.a, reg.uscc",
            "rows of lic, lic.kind, lic.n, lic.uscc, reg.uscc",
        ],
    );
    // A condition on what may be absent decides about the row.
    has(
        &format!("SELECT r.a FROM reg r LEFT JOIN {one} l ON r.uscc = l.uscc WHERE l.m > 1"),
        "rows of lic, rows of reg, lic.kind, lic.n, lic.uscc, reg.uscc",
        &["reg.a"],
    );
}

#[test]
fn subqueries_and_common_tables_are_looked_through() {
    has(
        "WITH x AS (SELECT uscc, n + 1 AS m FROM lic) SELECT m FROM x",
        "rows of lic",
        &["lic.n"],
    );
    has(
        "SELECT (SELECT max(n) FROM lic WHERE lic.uscc = reg.uscc) FROM reg",
        "rows of reg",
        &["rows of lic, lic.n, lic.uscc, reg.uscc"],
    );
    has(
        "SELECT a FROM reg WHERE uscc IN (SELECT uscc FROM lic WHERE n = 1)",
        "rows of lic, rows of reg, lic.n, lic.uscc, reg.uscc",
        &["reg.a"],
    );
    has(
        "SELECT a FROM reg WHERE EXISTS (SELECT 1 FROM lic WHERE n = reg.b)",
        "rows of lic, rows of reg, lic.n, reg.b",
        &["reg.a"],
    );
}

/// A relation of a random statement: its text and its columns, each with whether it is a text.
struct Part {
    sql: String,
    columns: Vec<(String, bool)>,
}

struct Grammar<'t> {
    tape: &'t mut Tape,
    names: usize,
}

impl Grammar<'_> {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("k{}", self.names)
    }

    fn base(&mut self) -> Part {
        let (name, columns, _) = self.tape.of(&crate::support::SHAPES);
        let mut given = Vec::new();
        let mut items = Vec::new();
        for (column, text) in columns {
            if *column == "uscc" || self.tape.chance(70) {
                let alias = self.name();
                items.push(format!("{column} AS {alias}"));
                given.push((alias, *text));
            }
        }
        Part {
            sql: format!("SELECT {} FROM {name}", items.join(", ")),
            columns: given,
        }
    }

    fn column(&mut self, part: &Part, text: bool) -> String {
        let fitting: Vec<&String> = part
            .columns
            .iter()
            .filter(|(_, of)| *of == text)
            .map(|(name, _)| name)
            .collect();
        match fitting.is_empty() {
            true if text => "'v1'".to_owned(),
            true => "1".to_owned(),
            false => fitting[self.tape.pick(fitting.len())].clone(),
        }
    }

    fn value(&mut self, part: &Part, text: bool) -> String {
        let a = self.column(part, text);
        let b = self.column(part, text);
        match self.tape.pick(8) {
            0..=3 => a,
            4 => format!("coalesce({a}, {b})"),
            5 => {
                let condition = self.condition(part);
                format!("CASE WHEN {condition} THEN {a} ELSE {b} END")
            }
            6 if text => format!("concat({a}, {b})"),
            6 => format!("({a} + {b})"),
            _ if text => format!("nullif({a}, {b})"),
            _ => format!(
                "CASE WHEN {} IS NULL THEN {a} ELSE 7 END",
                self.column(part, true)
            ),
        }
    }

    fn condition(&mut self, part: &Part) -> String {
        let (a, b) = (self.column(part, false), self.column(part, false));
        let text = self.column(part, true);
        match self.tape.pick(9) {
            0 => format!("{a} = {b}"),
            1 => format!("{a} > {}", self.tape.pick(4)),
            2 => format!("{text} = 'v{}'", self.tape.pick(4)),
            3 => format!("{a} IS NULL"),
            4 => format!("{a} IN (1, 2) OR {b} = 3"),
            5 => format!(
                "{text} IN (SELECT uscc FROM lic WHERE n > {})",
                self.tape.pick(3)
            ),
            6 => {
                format!("EXISTS (SELECT 1 FROM rate WHERE rate.uscc = {text} AND rate.score >= 1)")
            }
            7 => format!("{a} < (SELECT max(score) FROM rate)"),
            _ => format!("NOT ({a} BETWEEN 1 AND {b})"),
        }
    }

    fn selected(&mut self, part: &Part, more: usize) -> (Vec<String>, Vec<(String, bool)>) {
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        for (name, text) in &part.columns {
            if self.tape.chance(75) {
                let alias = self.name();
                items.push(format!("{name} AS {alias}"));
                columns.push((alias, *text));
            }
        }
        for _ in 0..more {
            let (text, alias) = (self.tape.chance(40), self.name());
            items.push(format!("{} AS {alias}", self.value(part, text)));
            columns.push((alias, text));
        }
        (items, columns)
    }

    fn part(&mut self, depth: usize) -> Part {
        if depth == 0 || self.tape.is_used_up() {
            return self.base();
        }
        match self.tape.pick(12) {
            0 | 1 => self.projected(depth),
            2 | 3 => self.filtered(depth),
            4 | 5 => self.grouped(depth),
            6..=8 => self.joined(depth),
            9 => self.united(depth),
            10 => self.windowed(depth),
            _ => self.chosen(depth),
        }
    }

    fn projected(&mut self, depth: usize) -> Part {
        let part = self.part(depth - 1);
        let more = 1 + self.tape.pick(2);
        let (items, columns) = self.selected(&part, more);
        Part {
            sql: format!("SELECT {} FROM ({}) AS t", items.join(", "), part.sql),
            columns,
        }
    }

    fn filtered(&mut self, depth: usize) -> Part {
        let part = self.part(depth - 1);
        let condition = self.condition(&part);
        Part {
            sql: format!("SELECT * FROM ({}) AS t WHERE {condition}", part.sql),
            columns: part.columns,
        }
    }

    fn grouped(&mut self, depth: usize) -> Part {
        let part = self.part(depth - 1);
        let (mut items, mut columns, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (name, text)) in part.columns.iter().enumerate() {
            if (at == 0 && self.tape.chance(80)) || self.tape.chance(20) {
                let alias = self.name();
                items.push(format!("{name} AS {alias}"));
                columns.push((alias, *text));
                keys.push(name.clone());
            }
        }
        for _ in 0..1 + self.tape.pick(2) {
            let (alias, x, y) = (
                self.name(),
                self.value(&part, false),
                self.column(&part, false),
            );
            let condition = self.condition(&part);
            let aggregate = match self.tape.pick(7) {
                0 => "count(*)".to_owned(),
                1 => format!("count(DISTINCT {x})"),
                2 => format!("sum({x})"),
                3 => format!("min({x})"),
                4 => format!("first_value({x} ORDER BY {y} DESC)"),
                5 => format!("max({x}) FILTER (WHERE {y} > 1)"),
                _ => format!("max(CASE WHEN {condition} THEN {x} END)"),
            };
            items.push(format!("{aggregate} AS {alias}"));
            columns.push((alias, false));
        }
        let by = if keys.is_empty() {
            String::new()
        } else {
            format!(" GROUP BY {}", keys.join(", "))
        };
        let having = match self.tape.chance(25) {
            true => format!(" HAVING count(*) > {}", self.tape.pick(2)),
            false => String::new(),
        };
        Part {
            sql: format!(
                "SELECT {} FROM ({}) AS t{by}{having}",
                items.join(", "),
                part.sql
            ),
            columns,
        }
    }

    fn joined(&mut self, depth: usize) -> Part {
        let (left, right) = (self.part(depth - 1), self.part(depth - 1));
        let kind = self.tape.of(&[
            "JOIN",
            "LEFT JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "LEFT SEMI JOIN",
            "LEFT ANTI JOIN",
        ]);
        let text = self.tape.chance(85);
        let first = |part: &Part| {
            let fitting = part.columns.iter().find(|(_, of)| *of == text);
            fitting.map(|(name, _)| name.clone())
        };
        let on = match (first(&left), first(&right)) {
            (Some(l), Some(r)) => format!("{l} = {r}"),
            _ => "1 = 1".to_owned(),
        };
        let more = match self.tape.chance(25) {
            true => {
                let (l, r) = (self.column(&left, false), self.column(&right, false));
                format!(" AND {l} <= {r}")
            }
            false => String::new(),
        };
        let mut columns = left.columns.clone();
        if !kind.contains("SEMI") && !kind.contains("ANTI") {
            columns.extend(right.columns.iter().cloned());
        }
        let items: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        Part {
            sql: format!(
                "SELECT {} FROM ({}) AS l {kind} ({}) AS r ON {on}{more}",
                items.join(", "),
                left.sql,
                right.sql
            ),
            columns,
        }
    }

    fn united(&mut self, depth: usize) -> Part {
        let (left, right) = (self.part(depth - 1), self.part(depth - 1));
        let columns: Vec<(String, bool)> = (0..1 + self.tape.pick(2))
            .map(|at| (self.name(), at == 0))
            .collect();
        let mut side = |part: &Part| {
            let items: Vec<String> = columns
                .iter()
                .map(|(name, text)| format!("{} AS {name}", self.value(part, *text)))
                .collect();
            format!("SELECT {} FROM ({}) AS t", items.join(", "), part.sql)
        };
        let (left, right) = (side(&left), side(&right));
        let all = if self.tape.chance(50) {
            "UNION ALL"
        } else {
            "UNION"
        };
        Part {
            sql: format!("{left} {all} {right}"),
            columns,
        }
    }

    fn windowed(&mut self, depth: usize) -> Part {
        let part = self.part(depth - 1);
        let (by, order, x) = (
            self.column(&part, true),
            self.column(&part, false),
            self.column(&part, false),
        );
        let function = match self.tape.pick(4) {
            0 => "row_number()".to_owned(),
            1 => "rank()".to_owned(),
            2 => format!("sum({x})"),
            _ => format!("lag({x})"),
        };
        let alias = self.name();
        let mut columns = part.columns.clone();
        columns.push((alias.clone(), false));
        let over = format!("PARTITION BY {by} ORDER BY {order}");
        Part {
            sql: format!(
                "SELECT *, CAST({function} OVER ({over}) AS bigint) AS {alias} FROM ({}) AS t",
                part.sql
            ),
            columns,
        }
    }

    fn chosen(&mut self, depth: usize) -> Part {
        let part = self.part(depth - 1);
        let order = self.column(&part, false);
        match self.tape.pick(3) {
            0 => Part {
                sql: format!("SELECT DISTINCT * FROM ({}) AS t", part.sql),
                columns: part.columns,
            },
            1 => {
                let (first, _) = part.columns[0].clone();
                Part {
                    sql: format!(
                        "SELECT DISTINCT ON ({first}) * FROM ({}) AS t ORDER BY {first}, {order}",
                        part.sql
                    ),
                    columns: part.columns,
                }
            }
            _ => Part {
                sql: format!(
                    "SELECT * FROM ({}) AS t ORDER BY {order} LIMIT {}",
                    part.sql,
                    1 + self.tape.pick(3)
                ),
                columns: part.columns,
            },
        }
    }
}

/// Changes one thing of the world: the cells of a column, or the rows of a dataset. What was changed.
fn disturbed(world: &[Small], tape: &mut Tape) -> (Vec<Small>, Parent) {
    let mut world = world.to_vec();
    let which = tape.pick(world.len());
    let dataset = &mut world[which];
    let id = dataset.name.parse().unwrap();
    if tape.chance(30) {
        if tape.chance(50) && !dataset.rows.is_empty() {
            let gone = tape.pick(dataset.rows.len());
            dataset.rows.remove(gone);
        } else {
            let serial = 50 + dataset.rows.len() as i64;
            let row = dataset.columns.iter().map(|(name, _)| match *name {
                "uscc" => Some(tape.pick(7) as i64),
                "id" => Some(serial),
                _ => Some(tape.pick(5) as i64),
            });
            let row = row.collect();
            dataset.rows.push(row);
        }
        *dataset = dataset.clone().keyed();
        return (world, Parent::Rows(id));
    }
    let at = tape.pick(dataset.columns.len());
    let name = dataset.columns[at].0;
    let keyed = dataset.key.contains(&name);
    for (serial, row) in (100..).zip(&mut dataset.rows) {
        if tape.chance(60) {
            row[at] = match tape.pick(6) {
                _ if keyed => Some(serial),
                0 if name != "uscc" => None,
                n => Some(n as i64),
            };
        }
    }
    (world, Parent::Column(id, name.to_owned()))
}

fn bag(rows: &[Vec<String>], column: usize) -> Vec<&String> {
    let mut bag: Vec<&String> = rows.iter().map(|row| &row[column]).collect();
    bag.sort();
    bag
}

fn by_key<'r>(
    rows: &'r [Vec<String>],
    key: &BTreeSet<usize>,
) -> BTreeMap<Vec<&'r String>, &'r Vec<String>> {
    rows.iter()
        .map(|row| (key.iter().map(|at| &row[*at]).collect(), row))
        .collect()
}

/// What the cases came to, so that a test that hardly tests is noticed.
#[derive(Default)]
struct Tally {
    drawn: usize,
    accepted: usize,
    spared: usize,
    keyed: usize,
    local: usize,
    moved: usize,
}

fn check(
    relation: &Relation,
    changed: &Parent,
    before: &[Vec<String>],
    after: &[Vec<String>],
    tally: &mut Tally,
) -> Result<(), TestCaseError> {
    for (column, parents) in relation.columns.iter().enumerate() {
        if !parents.contains(changed) && !relation.rows.contains(changed) {
            tally.spared += 1;
            prop_assert_eq!(
                bag(before, column),
                bag(after, column),
                "column {} without {}",
                column,
                changed
            );
        }
    }
    for key in &relation.unique {
        let (old, new) = (by_key(before, key), by_key(after, key));
        prop_assert_eq!(old.len(), before.len(), "not unique by {:?}", key);
        prop_assert_eq!(new.len(), after.len(), "not unique by {:?}", key);
        let of_key = |at: &usize| relation.columns[*at].contains(changed);
        if !relation.rows.contains(changed) && !key.iter().any(of_key) {
            prop_assert!(old.keys().eq(new.keys()), "other rows without {}", changed);
        }
        for (key, row) in &old {
            let Some(other) = new.get(key) else { continue };
            for (column, parents) in relation.columns.iter().enumerate() {
                if !parents.contains(changed) {
                    tally.keyed += 1;
                    prop_assert_eq!(
                        &row[column],
                        &other[column],
                        "column {} without {}",
                        column,
                        changed
                    );
                }
            }
        }
    }
    Ok(())
}

/// An answer that strays nowhere is that of each enterprise by itself.
async fn check_local(
    world: &[Small],
    query: &session::ParsedQuery,
    relation: &Relation,
    whole: &[Vec<String>],
    tape: &mut Tape,
) -> Result<bool, TestCaseError> {
    let Some(at) = relation
        .enterprise
        .first()
        .filter(|_| relation.strays.is_empty())
    else {
        return Ok(false);
    };
    let some: BTreeSet<i64> = (0..5).filter(|_| tape.chance(50)).collect();
    let mut part = world.to_vec();
    for dataset in &mut part {
        dataset
            .rows
            .retain(|row| row[0].is_some_and(|no| some.contains(&no)));
    }
    let codes: BTreeSet<String> = some.iter().map(|no| format!("v{no}")).collect();
    let mut expected: Vec<_> = whole
        .iter()
        .filter(|row| codes.contains(&row[*at]))
        .cloned()
        .collect();
    let mut found = answer(&part, query).await.unwrap();
    expected.sort();
    found.sort();
    prop_assert_eq!(found, expected, "by the enterprises {:?}", some);
    Ok(true)
}

#[test]
fn lineage_never_leaves_a_parent_out() {
    let config = Config {
        cases: cases(300),
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tally = std::cell::RefCell::new(Tally::default());
    TestRunner::new(config)
        .run(&prop::collection::vec(any::<u16>(), 150..600), |choices| {
            let mut tape = Tape::new(choices);
            let small = world(&mut tape);
            let depth = 1 + tape.pick(4);
            let sql = Grammar {
                tape: &mut tape,
                names: 0,
            }
            .part(depth)
            .sql;
            let mut tally = tally.borrow_mut();
            tally.drawn += 1;
            let Ok(query) = session::parse(&sql) else {
                return Ok(());
            };
            let Ok(relation) = lineage_of(&small, &query) else {
                return Ok(());
            };
            runtime.block_on(async {
                let Ok(before) = answer(&small, &query).await else {
                    return Ok(());
                };
                tally.accepted += 1;
                for _ in 0..6 {
                    let (other, changed) = disturbed(&small, &mut tape);
                    let Ok(after) = answer(&other, &query).await else {
                        continue;
                    };
                    tally.moved += usize::from(after != before);
                    check(&relation, &changed, &before, &after, &mut tally)
                        .map_err(|error| TestCaseError::fail(format!("{error}\n{sql}")))?;
                }
                tally.local += usize::from(
                    check_local(&small, &query, &relation, &before, &mut tape)
                        .await
                        .map_err(|error| TestCaseError::fail(format!("{error}\n{sql}")))?,
                );
                Ok(())
            })
        })
        .unwrap();
    let tally = tally.into_inner();
    let Tally {
        drawn,
        accepted,
        spared,
        keyed,
        local,
        moved,
    } = tally;
    println!(
        "{accepted} of {drawn} statements, {spared} and {keyed} columns spared, {local} local, {moved} changed"
    );
    assert!(
        accepted * 3 > drawn * 2,
        "{accepted} of {drawn} statements were accepted"
    );
    assert!(spared > accepted && keyed > accepted && moved > accepted && local * 20 > accepted);
}
