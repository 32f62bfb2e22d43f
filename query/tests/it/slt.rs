//! The SQL that the hub accepts, statement by statement, in files that are read as documentation: `tests/slt/*.slt`, in
//! the format of sqllogictest, run over the gate in several ways and over tables that physically hold only what the
//! organisation may see. [`crate::town`] is the world they ask about.
//!
//! A statement begins with `query TYPES [rowsort]` and its answer, cells apart by one space, stands below `----`; or it
//! begins with `query error (CODE)`. `UPDATE_GOLDEN=1` writes the answers that the gate gives into the files; whoever
//! does that reads them over. Why there is a reader of that format here: `docs/adr/0049-*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, WindowFunctionDefinition};
use datafusion::physical_plan::collect;
use qihui_query::functions::{
    self, AGGREGATES, FALLIBLE_SCALAR, INFALLIBLE_SCALAR, ORDERED_AGGREGATES, ORDERED_WINDOWS,
    WINDOWS,
};
use qihui_query::{QueryError, session};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::canary;
use crate::gate_2::disguise;
use crate::reference::{View, view};
use crate::run::{Failed, Gated, physical_plan, physical_tables, rows};
use crate::town::town;
use crate::world::World;

/// What a statement is expected to come to.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    /// A letter per column, and the rows.
    Rows {
        types: String,
        sorted: bool,
        rows: Vec<String>,
    },
    /// A stable code.
    Error(String),
}

/// A part of a file: a statement, or whatever stands between two.
#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Statement {
        line: usize,
        sql: String,
        answer: Answer,
    },
}

struct File {
    path: PathBuf,
    parts: Vec<Part>,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slt"))
}

fn files() -> Vec<File> {
    let entries = fs::read_dir(folder()).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    paths.sort();
    assert!(!paths.is_empty());
    paths.into_iter().map(File::read).collect()
}

impl File {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let mut parts = Vec::new();
        let mut lines = text.lines().zip(1..).peekable();
        while let Some((head, line)) = lines.next() {
            let Some(kind) = head.strip_prefix("query ") else {
                parts.push(Part::Text(head.to_owned()));
                continue;
            };
            let block: Vec<&str> =
                std::iter::from_fn(|| lines.next_if(|(text, _)| !text.is_empty()))
                    .map(|(text, _)| text)
                    .collect();
            let mut halves = block.split(|text| *text == "----");
            let sql = halves.next().unwrap().join("\n");
            let rows = halves.next().unwrap_or_default();
            let answer = match kind.strip_prefix("error ") {
                Some(code) => {
                    let code = code
                        .strip_prefix('(')
                        .and_then(|code| code.strip_suffix(')'));
                    let code = code.unwrap_or_else(|| panic!("{}:{line}: (CODE)", path.display()));
                    Answer::Error(code.to_owned())
                }
                None => {
                    let (types, mode) = kind.split_once(' ').unwrap_or((kind, ""));
                    assert!(["", "rowsort"].contains(&mode), "{}:{line}", path.display());
                    Answer::Rows {
                        types: types.to_owned(),
                        sorted: mode == "rowsort",
                        rows: rows.iter().map(|row| (*row).to_owned()).collect(),
                    }
                }
            };
            parts.push(Part::Statement { line, sql, answer });
        }
        Self { path, parts }
    }

    fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }

    fn statements(&self) -> impl Iterator<Item = (usize, &str, &Answer)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Statement { line, sql, answer } => Some((*line, sql.as_str(), answer)),
            Part::Text(_) => None,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(line) => writeln!(text, "{line}").unwrap(),
                Part::Statement { sql, answer, .. } => {
                    writeln!(text, "{}", written(sql, answer)).unwrap();
                }
            }
        }
        text
    }
}

/// A statement with its answer as it stands in a file.
fn written(sql: &str, answer: &Answer) -> String {
    match answer {
        Answer::Error(code) => format!("query error ({code})\n{sql}"),
        Answer::Rows {
            types,
            sorted,
            rows,
        } => {
            let mode = if *sorted { " rowsort" } else { "" };
            let rows: String = rows.iter().map(|row| format!("\n{row}")).collect();
            format!("query {types}{mode}\n{sql}\n----{rows}")
        }
    }
}

/// Where statements are put.
enum Place {
    /// Over the gate, in one of the ways that files may lie and threads be many.
    Gate {
        gated: Gated,
        partitions: usize,
        strict: bool,
    },
    /// Over tables that hold only the views.
    Physical {
        views: Vec<(String, View)>,
        gated: Gated,
    },
}

impl Place {
    async fn gate(layout: u64, partitions: usize, strict: bool) -> Self {
        Self::Gate {
            gated: gated(&town(), layout).await,
            partitions,
            strict,
        }
    }

    async fn physical() -> Self {
        let world = town();
        Self::Physical {
            views: views(&world),
            gated: gated(&world, 0).await,
        }
    }

    /// What a statement comes to here.
    async fn answer(&self, sql: &str, sorted: bool) -> Result<Answer, Failed> {
        let query = session::parse(sql)?;
        let (plan, context) = match self {
            Self::Gate {
                gated,
                partitions,
                strict,
            } => {
                let planned = gated.plan(&query, *partitions, *strict).await?;
                (planned.physical, planned.context)
            }
            Self::Physical { views, gated } => physical_plan(&query, views, gated).await?,
        };
        let schema = plan.schema();
        let batches = collect(plan, context)
            .await
            .map_err(|error| QueryError::from_running(&error))?;
        Ok(Answer::Rows {
            types: types(&schema),
            sorted,
            rows: lines(&schema, &batches, sorted),
        })
    }

    /// The same as a file has it: an error by its code.
    async fn told(&self, sql: &str, expected: &Answer) -> (Answer, Option<String>) {
        let sorted = matches!(expected, Answer::Rows { sorted: true, .. });
        match self.answer(sql, sorted).await {
            Ok(answer) => (answer, None),
            // Tables that hold only what may be seen know nothing of what may not.
            Err(error)
                if error.code == "UnknownColumn"
                    && matches!(self, Self::Physical { .. })
                    && *expected == Answer::Error("ColumnNotInAgreement".into()) =>
            {
                (expected.clone(), None)
            }
            Err(error) => (Answer::Error(error.code.to_owned()), Some(error.text)),
        }
    }
}

async fn gated(world: &World, layout: u64) -> Gated {
    Gated::new(world, &mut ChaCha8Rng::seed_from_u64(layout)).await
}

fn views(world: &World) -> Vec<(String, View)> {
    let tables = world.tables.iter();
    tables
        .map(|table| (table.contract.id.to_string(), view(world, table)))
        .collect()
}

/// A letter per column: Text, Integer, decimal or floating-point numbeR, Date, Point in time, Boolean, ? anything else.
fn types(schema: &SchemaRef) -> String {
    let letter = |ty: &DataType| match ty {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => 'T',
        ty if ty.is_integer() => 'I',
        ty if ty.is_floating() || ty.is_decimal() => 'R',
        DataType::Date32 => 'D',
        DataType::Timestamp(..) => 'P',
        DataType::Boolean => 'B',
        _ => '?',
    };
    let fields = schema.fields().iter();
    fields.map(|field| letter(field.data_type())).collect()
}

/// Rows as lines.
fn lines(schema: &SchemaRef, batches: &[RecordBatch], sorted: bool) -> Vec<String> {
    let cell = |(text, field): (String, &arrow::datatypes::FieldRef)| match text.as_str() {
        "∅" => "NULL".to_owned(),
        "" => "(empty)".to_owned(),
        _ if field.data_type().is_floating() => match text.parse::<f64>() {
            Ok(number) => number.to_string(),
            Err(_) => text,
        },
        _ => text.replace('\n', "\\n").replace('\t', "\\t"),
    };
    let mut lines: Vec<String> = rows(batches)
        .into_iter()
        .map(|row| {
            let cells: Vec<String> = row.into_iter().zip(schema.fields()).map(cell).collect();
            cells.join(" ")
        })
        .collect();
    if sorted {
        lines.sort();
    }
    lines
}

/// Puts every statement of every file, and compares.
async fn all_at(place: Place) {
    let mut wrong = String::new();
    for file in files() {
        for (line, sql, expected) in file.statements() {
            let (answer, message) = place.told(sql, expected).await;
            if answer != *expected {
                let message = message.unwrap_or_default();
                let (expected, answer) = (written(sql, expected), written(sql, &answer));
                writeln!(
                    wrong,
                    "{}:{line}:\n{expected}\n\nbut\n\n{answer}\n{message}\n",
                    file.name()
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn gate_1_the_statements_of_the_files_over_the_gate() {
    let place = Place::gate(0, 1, false).await;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        for mut file in files() {
            for part in &mut file.parts {
                // A refusal that is none any more, or an answer that has become one, is for somebody to look at.
                if let Part::Statement { sql, answer, .. } = part
                    && let (now @ Answer::Rows { .. }, _) = place.told(sql, answer).await
                    && matches!(answer, Answer::Rows { .. })
                {
                    *answer = now;
                }
            }
            fs::write(&file.path, file.text()).unwrap();
        }
    }
    all_at(place).await;
}

#[tokio::test]
async fn gate_1_the_statements_of_the_files_over_the_gate_with_threads() {
    all_at(Place::gate(1, 3, false).await).await;
}

#[tokio::test]
async fn gate_1_the_statements_of_the_files_over_the_gate_in_strict_mode() {
    all_at(Place::gate(2, 2, true).await).await;
}

#[tokio::test]
async fn gate_1_the_statements_of_the_files_over_tables_that_hold_nothing_else() {
    all_at(Place::physical().await).await;
}

/// Every statement over pairs of worlds with the same views, in one of which everything hidden is another: other rows,
/// fewer, more, and other values in cells that are withheld or in no agreement. All of these may be canaries.
#[tokio::test]
async fn gate_2_the_statements_of_the_files_tell_nothing_of_hidden_rows() {
    let world = town();
    let views = views(&world);
    let mut differing = 0;
    for seed in 0..6 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let other = disguise(&world, &mut rng);
        for ((_, wanted), table) in views.iter().zip(&other.tables) {
            assert_eq!(
                view(&other, table).canonical(),
                wanted.canonical(),
                "seed {seed}"
            );
        }
        differing += usize::from(format!("{:?}", world.tables) != format!("{:?}", other.tables));
        let (a, b) = (gated(&world, seed).await, gated(&other, seed + 1).await);
        let strict = seed % 2 == 1;
        for file in files() {
            for (line, sql, _) in file.statements() {
                let (x, y) = (a.run(sql, 2, strict).await, b.run(sql, 2, strict).await);
                let place = format!("seed {seed}: {}:{line}: {sql}", file.name());
                let shown = canary::in_text(&format!("{x:?}{y:?}"));
                assert_eq!(shown, None, "{place}\n{y:?}");
                match (x, y) {
                    (Ok(mut x), Ok(mut y)) => {
                        // In strict mode the order of rows agrees as well.
                        if !strict {
                            x.rows.sort();
                            y.rows.sort();
                        }
                        assert_eq!(x, y, "{place}");
                    }
                    (x, y) => assert_eq!(x, y, "{place}"),
                }
            }
        }
    }
    assert_eq!(differing, 6);
}

/// A column that is constant in each part of a union, and not the same in all, is a key of the order above it: in strict
/// mode the parts follow each other, and no part's own order is that of the whole.
#[tokio::test]
async fn gate_1_what_tells_the_parts_of_a_union_apart_is_a_key_in_strict_mode() {
    let union = "SELECT id, 'b' AS what FROM loan UNION ALL SELECT id, 'a' FROM penalty";
    for layout in 0..4 {
        let gated = gated(&town(), layout).await;
        for (tail, expected) in [
            (
                "ORDER BY what, id",
                ["2 a", "3 a", "4 a", "1 b", "2 b", "3 b"].as_slice(),
            ),
            ("ORDER BY what, id LIMIT 4", &["2 a", "3 a", "4 a", "1 b"]),
            (
                "ORDER BY what DESC, id DESC LIMIT 4",
                &["3 b", "2 b", "1 b", "4 a"],
            ),
            ("ORDER BY id, what LIMIT 3", &["1 b", "2 a", "2 b"]),
        ] {
            // Something that can fail makes a query strict by itself.
            for fails in ["", "WHERE 1 / id >= 0 "] {
                let sql = format!("SELECT id, what FROM ({union}) AS u {fails}{tail}");
                for strict in [false, true] {
                    let seen = gated.run(&sql, 3, strict).await.unwrap();
                    assert!(seen.strict || (!strict && fails.is_empty()));
                    let rows: Vec<String> = seen.rows.iter().map(|row| row.join(" ")).collect();
                    assert_eq!(rows, expected, "{sql}, strict: {}", seen.strict);
                }
            }
        }
    }
}

/// The functions that a statement uses, by their names in the lists.
fn functions_of(sql: &str, tables: &[(String, View)], gated: &Gated) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Ok(query) = session::parse(sql) else {
        return names;
    };
    let planned = session::plan_as_written(&query, physical_tables(tables, gated));
    let Ok((plan, _)) = planned else {
        return names;
    };
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let name = match expr {
                    Expr::ScalarFunction(function) => function.name().to_owned(),
                    Expr::AggregateFunction(function) => function.func.name().to_owned(),
                    Expr::WindowFunction(function) => match &function.fun {
                        WindowFunctionDefinition::AggregateUDF(udf) => udf.name().to_owned(),
                        WindowFunctionDefinition::WindowUDF(udf) => udf.name().to_owned(),
                    },
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                names.insert(name);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })
    .unwrap();
    names
}

/// Every name of the lists, and the aggregates that may also stand over a window once.
fn listed() -> BTreeSet<String> {
    let lists = [
        INFALLIBLE_SCALAR,
        FALLIBLE_SCALAR,
        AGGREGATES,
        ORDERED_AGGREGATES,
        WINDOWS,
        ORDERED_WINDOWS,
    ];
    let names = lists.into_iter().flatten();
    names.map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn every_allowed_function_stands_in_a_statement_that_is_answered() {
    let world = town();
    let (tables, gated) = (views(&world), gated(&world, 0).await);
    let mut used = BTreeSet::new();
    let mut count = 0;
    for file in files() {
        for (_, sql, answer) in file.statements() {
            count += 1;
            if matches!(answer, Answer::Rows { .. }) {
                used.extend(functions_of(sql, &tables, &gated));
            }
        }
    }
    let missing: Vec<String> = listed().difference(&used).cloned().collect();
    assert!(missing.is_empty(), "in no statement: {missing:?}");
    let unknown: Vec<String> = used.difference(&listed()).cloned().collect();
    assert!(unknown.is_empty(), "answered, but on no list: {unknown:?}");
    assert!(count >= 300, "{count} statements");
}

fn sql_page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sql.md");
    fs::read_to_string(path).unwrap()
}

/// The rows of the tables of a chapter, in cells.
fn table_rows<'a>(page: &'a str, chapter: &str) -> Vec<Vec<&'a str>> {
    let chapter = page.split("\n## ").find(|text| text.starts_with(chapter));
    let lines = chapter
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| "));
    lines
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// What `docs/sql.md` should say of each function: its other names, and what to note.
fn told_of_functions() -> BTreeMap<String, (BTreeSet<String>, &'static str)> {
    let mut told: BTreeMap<String, (BTreeSet<String>, &'static str)> = BTreeMap::new();
    let mut note = |name: &str, aliases: &[String], text: &'static str| {
        let entry = told.entry(name.to_owned()).or_default();
        let others = aliases.iter().filter(|alias| *alias != name);
        entry.0.extend(others.cloned());
        entry.1 = text;
    };
    for udf in functions::scalar() {
        let fails = FALLIBLE_SCALAR.contains(&udf.name());
        note(
            udf.name(),
            udf.aliases(),
            if fails { "may fail" } else { "" },
        );
    }
    for udf in functions::aggregate() {
        let ordered = ORDERED_AGGREGATES.contains(&udf.name());
        let text = if ordered { "order completed" } else { "" };
        note(udf.name(), udf.aliases(), text);
    }
    for udf in functions::window() {
        let ordered = ORDERED_WINDOWS.contains(&udf.name());
        let text = if ordered { "order completed" } else { "" };
        note(udf.name(), udf.aliases(), text);
    }
    told
}

#[test]
fn the_page_of_the_accepted_sql_has_every_function_once() {
    let page = sql_page();
    let mut on_page: BTreeMap<String, (BTreeSet<String>, String)> = BTreeMap::new();
    for cells in table_rows(&page, "Functions") {
        let Some(name) = cells[0].strip_prefix('`') else {
            continue;
        };
        let name = name.trim_end_matches('`').to_owned();
        let aliases = cells[1].split('`').skip(1).step_by(2);
        let aliases = aliases.map(str::to_owned).collect();
        assert!(!cells[2].is_empty(), "{name} gives nothing");
        let note = cells
            .get(3)
            .map_or("", |note| note.trim_matches('|').trim());
        let before = on_page.insert(name.clone(), (aliases, note.to_owned()));
        assert!(before.is_none(), "{name} stands twice");
    }
    let told = told_of_functions();
    let mut wrong = String::new();
    for name in on_page.keys().chain(told.keys()).collect::<BTreeSet<_>>() {
        let (is, should) = (on_page.get(name), told.get(name));
        let agree = is
            .zip(should)
            .is_some_and(|(is, should)| is.0 == should.0 && is.1 == should.1);
        if !agree {
            writeln!(wrong, "{name}: {is:?}, and should be {should:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn what_the_page_of_the_accepted_sql_calls_refused_is_refused_with_its_code() {
    let page = sql_page();
    let place = Place::gate(0, 1, false).await;
    let known = views(&town());
    let mut refused = 0;
    for cells in table_rows(&page, "What is refused") {
        let Some(sql) = cells[1]
            .strip_prefix('`')
            .and_then(|sql| sql.strip_suffix('`'))
        else {
            continue;
        };
        let code = cells[2].trim_start_matches('[').split(']').next().unwrap();
        let expected = Answer::Error(code.to_owned());
        // The catalogue is asked about datasets before anything is planned.
        let unknown = session::parse(sql).is_ok_and(|query| {
            let known = |table: &String| known.iter().any(|(name, _)| name == table);
            !query.tables.iter().all(known)
        });
        let answer = match unknown {
            true => Answer::Error("UnknownDataset".into()),
            false => place.told(sql, &expected).await.0,
        };
        assert_eq!(answer, expected, "{sql}");
        refused += 1;
    }
    assert!(refused > 25, "{refused} examples");
}
