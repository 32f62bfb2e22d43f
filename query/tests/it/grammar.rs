//! Random statements over the open columns of a world: joins, aggregates, windows, set operations, subqueries,
//! CTEs, ORDER BY and LIMIT.

use qihui_catalog::ColumnType;

use crate::world::{ENTERPRISES, uscc};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// A type of expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Text,
    Int,
    Decimal,
    Day,
    Instant,
    Bool,
}

impl Ty {
    fn of(ty: ColumnType) -> Self {
        match ty {
            ColumnType::String => Self::Text,
            ColumnType::Int32 | ColumnType::Int64 => Self::Int,
            ColumnType::Decimal { .. } => Self::Decimal,
            ColumnType::Date => Self::Day,
            ColumnType::Timestamp => Self::Instant,
            ColumnType::Boolean => Self::Bool,
        }
    }
}

/// A table in a FROM clause: its alias and columns.
#[derive(Debug, Clone)]
pub struct Source {
    pub alias: String,
    pub columns: Vec<(String, Ty)>,
}

/// The datasets a statement may name, with their open columns.
pub struct Grammar<'a> {
    pub tables: Vec<(String, Vec<(String, ColumnType)>)>,
    pub rng: &'a mut ChaCha8Rng,
    pub aliases: usize,
}

impl Grammar<'_> {
    fn pick<'b>(&mut self, words: &[&'b str]) -> &'b str {
        words.choose(self.rng).copied().unwrap()
    }

    fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("a{}", self.aliases)
    }

    /// A whole statement.
    pub fn statement(&mut self) -> String {
        match self.rng.random_range(0..10) {
            0 => {
                let body = self.select(2, None);
                format!("WITH c AS ({body}) SELECT * FROM c{}", self.tail(None))
            }
            1 | 2 => {
                let types: Vec<Ty> = (0..self.rng.random_range(1..=3))
                    .map(|_| self.ty())
                    .collect();
                let left = self.select(1, Some(&types));
                let right = self.select(1, Some(&types));
                let op = self.pick(&[
                    "UNION",
                    "UNION ALL",
                    "INTERSECT",
                    "EXCEPT",
                    "EXCEPT ALL",
                    "INTERSECT ALL",
                ]);
                format!("{left} {op} {right}")
            }
            _ => {
                let body = self.select(2, None);
                let tail = self.tail(None);
                format!("{body}{tail}")
            }
        }
    }

    fn ty(&mut self) -> Ty {
        *[Ty::Text, Ty::Int, Ty::Decimal, Ty::Day, Ty::Bool]
            .choose(self.rng)
            .unwrap()
    }

    /// ORDER BY and LIMIT.
    fn tail(&mut self, _: Option<()>) -> String {
        match self.rng.random_range(0..6) {
            0 => format!(
                " ORDER BY 1{}",
                self.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"])
            ),
            1 => format!(" ORDER BY 1 LIMIT {}", self.rng.random_range(0..6)),
            2 => format!(
                " LIMIT {} OFFSET {}",
                self.rng.random_range(0..9),
                self.rng.random_range(0..3)
            ),
            _ => String::new(),
        }
    }

    /// A SELECT; with `types`, one output column of each.
    fn select(&mut self, depth: u32, types: Option<&[Ty]>) -> String {
        let (from, sources) = self.from(depth);
        let filter = if self.chance(0.6) {
            format!(" WHERE {}", self.predicate(&sources, depth))
        } else {
            String::new()
        };
        if let Some(types) = types {
            let columns: Vec<String> = types
                .iter()
                .enumerate()
                .map(|(i, ty)| {
                    let expr = self.expr(&sources, *ty, 1);
                    let expr = match ty {
                        Ty::Int => format!("try_cast({expr} AS bigint)"),
                        Ty::Decimal => format!("try_cast({expr} AS decimal(20,4))"),
                        _ => expr,
                    };
                    format!("{expr} AS o{i}")
                })
                .collect();
            return format!("SELECT {} FROM {from}{filter}", columns.join(", "));
        }
        match self.rng.random_range(0..8) {
            0 | 1 => self.grouped(&from, &filter, &sources),
            2 => self.windowed(&from, &filter, &sources),
            3 if sources.len() == 1 => format!("SELECT * FROM {from}{filter}"),
            4 => {
                let total = self.aggregates(&sources);
                format!("SELECT {total} FROM {from}{filter}")
            }
            _ => {
                let columns = self.columns(&sources);
                let distinct = if self.chance(0.2) { "DISTINCT " } else { "" };
                format!("SELECT {distinct}{columns} FROM {from}{filter}")
            }
        }
    }

    fn columns(&mut self, sources: &[Source]) -> String {
        let count = self.rng.random_range(1..=4);
        let columns: Vec<String> = (0..count)
            .map(|i| {
                let ty = self.ty();
                format!("{} AS o{i}", self.expr(sources, ty, 2))
            })
            .collect();
        columns.join(", ")
    }

    fn grouped(&mut self, from: &str, filter: &str, sources: &[Source]) -> String {
        let keys: Vec<String> = (0..self.rng.random_range(1..=2))
            .map(|_| {
                let ty = self.ty();
                self.expr(sources, ty, 1)
            })
            .collect();
        let selected: Vec<String> = keys
            .iter()
            .enumerate()
            .map(|(i, key)| format!("{key} AS k{i}"))
            .collect();
        let total = self.aggregates(sources);
        let having = if self.chance(0.3) {
            " HAVING count(*) > 1"
        } else {
            ""
        };
        let by = match self.rng.random_range(0..8) {
            0 => format!("ROLLUP ({})", keys.join(", ")),
            1 => format!("CUBE ({})", keys.join(", ")),
            _ => keys.join(", "),
        };
        format!(
            "SELECT {}, {total} FROM {from}{filter} GROUP BY {by}{having}",
            selected.join(", ")
        )
    }

    fn aggregates(&mut self, sources: &[Source]) -> String {
        let mut list = Vec::new();
        for i in 0..self.rng.random_range(1..=3) {
            let int = self.expr(sources, Ty::Int, 1);
            let decimal = self.expr(sources, Ty::Decimal, 1);
            let ty = self.ty();
            let any = self.expr(sources, ty, 1);
            let text = self.expr(sources, Ty::Text, 1);
            let flag = self.expr(sources, Ty::Bool, 1);
            let call = match self.rng.random_range(0..18) {
                0 => "count(*)".to_owned(),
                1 => format!("count({any})"),
                2 => format!("count(DISTINCT {any})"),
                3 => format!("sum({int})"),
                4 => format!("sum({decimal})"),
                5 => format!("avg({decimal})"),
                6 => format!("avg({int})"),
                7 => format!("min({any})"),
                8 => format!("max({any})"),
                9 => format!("string_agg({text}, '|' ORDER BY {text})"),
                10 => format!("array_agg({any})"),
                11 => format!("first_value({any} ORDER BY {int})"),
                12 => format!("last_value({any} ORDER BY {int})"),
                13 => format!("bool_and({flag})"),
                14 => format!("median({int})"),
                15 => format!("stddev({int})"),
                16 => format!("count(*) FILTER (WHERE {flag})"),
                _ => format!("bit_xor({int})"),
            };
            list.push(format!("{call} AS g{i}"));
        }
        list.join(", ")
    }

    fn windowed(&mut self, from: &str, filter: &str, sources: &[Source]) -> String {
        let ty = self.ty();
        let value = self.expr(sources, ty, 1);
        let int = self.expr(sources, Ty::Int, 1);
        let key = self.ty();
        let order = self.expr(sources, key, 0);
        let part = self.expr(sources, Ty::Text, 0);
        let over = if self.chance(0.5) {
            format!("PARTITION BY {part} ORDER BY {order}")
        } else {
            format!("ORDER BY {order}")
        };
        let call = match self.rng.random_range(0..12) {
            0 => format!("row_number() OVER ({over})"),
            1 => format!("rank() OVER ({over})"),
            2 => format!("dense_rank() OVER ({over})"),
            3 => format!("lag({value}) OVER ({over})"),
            4 => format!("lead({value}) OVER ({over})"),
            5 => format!("first_value({value}) OVER ({over})"),
            6 => format!("last_value({value}) OVER ({over})"),
            7 => format!("sum({int}) OVER ({over})"),
            8 => format!("sum({int}) OVER ({over} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"),
            9 => format!("ntile(3) OVER ({over})"),
            10 => format!("count(*) OVER (PARTITION BY {part})"),
            _ => format!("nth_value({value}, 2) OVER ({over})"),
        };
        format!("SELECT {value} AS o0, {call} AS w0 FROM {from}{filter}")
    }

    fn from(&mut self, depth: u32) -> (String, Vec<Source>) {
        let (first, left) = self.table(depth);
        if depth == 0 || !self.chance(0.3) {
            return (first, vec![left]);
        }
        let (second, right) = self.table(0);
        let kind = self.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let sources = vec![left.clone(), right.clone()];
        let ty = self.ty();
        let (a, b) = (self.column(&[left], ty), self.column(&[right], ty));
        let on = match (a, b) {
            (Some(a), Some(b)) => format!("{a} = {b}"),
            _ => "1 = 1".to_owned(),
        };
        let more = if self.chance(0.3) {
            format!(" AND {}", self.simple(&sources))
        } else {
            String::new()
        };
        (format!("{first} {kind} {second} ON {on}{more}"), sources)
    }

    fn table(&mut self, depth: u32) -> (String, Source) {
        let alias = self.alias();
        if depth > 1 && self.chance(0.15) {
            let types: Vec<Ty> = (0..3).map(|_| self.ty()).collect();
            let body = self.select(depth - 1, Some(&types));
            let columns = types
                .iter()
                .enumerate()
                .map(|(i, ty)| (format!("o{i}"), *ty))
                .collect();
            return (format!("({body}) AS {alias}"), Source { alias, columns });
        }
        let at = self.rng.random_range(0..self.tables.len());
        let (name, columns) = &self.tables[at];
        let columns = columns
            .iter()
            .map(|(name, ty)| (name.clone(), Ty::of(*ty)))
            .collect();
        (format!("{name} AS {alias}"), Source { alias, columns })
    }

    fn column(&mut self, sources: &[Source], ty: Ty) -> Option<String> {
        let fitting: Vec<String> = sources
            .iter()
            .flat_map(|source| {
                source
                    .columns
                    .iter()
                    .filter(|(_, have)| *have == ty)
                    .map(|(name, _)| format!("{}.{name}", source.alias))
            })
            .collect();
        fitting.choose(self.rng).cloned()
    }

    fn literal(&mut self, ty: Ty) -> String {
        match ty {
            Ty::Text if self.chance(0.3) => {
                format!("'{}'", uscc(self.rng.random_range(1..=ENTERPRISES)))
            }
            Ty::Text => format!("'{}'", self.pick(&["a", "b", "杭州", "7", "a***", "***"])),
            Ty::Int => self.rng.random_range(-4..8).to_string(),
            Ty::Decimal => format!("{}.5", self.rng.random_range(0..12)),
            Ty::Day => format!("date '2025-01-{:02}'", self.rng.random_range(1..31)),
            Ty::Instant => "timestamp '2025-01-10T00:00:00Z'".to_owned(),
            Ty::Bool => self.pick(&["true", "false"]).to_owned(),
        }
    }

    fn expr(&mut self, sources: &[Source], ty: Ty, depth: u32) -> String {
        if depth == 0 || self.chance(0.5) {
            let column = if self.chance(0.9) {
                self.column(sources, ty)
            } else {
                None
            };
            return column.unwrap_or_else(|| self.literal(ty));
        }
        let d = depth - 1;
        match ty {
            Ty::Text => {
                let text = self.expr(sources, Ty::Text, d);
                let int = self.expr(sources, Ty::Int, d);
                match self.rng.random_range(0..14) {
                    0 => format!("upper({text})"),
                    1 => format!("substr({text}, 1, 2)"),
                    2 => format!("concat({text}, '-', {int})"),
                    3 => format!("coalesce({text}, 'none')"),
                    4 => format!("replace({text}, 'a', 'o')"),
                    5 => format!("({text} || 'z')"),
                    6 => format!("split_part({text}, ' ', 1)"),
                    7 => format!("left({text}, 3)"),
                    8 => format!("nullif({text}, 'a')"),
                    9 => format!("repeat({text}, {int} % 5)"),
                    10 => format!("lpad({text}, {int} % 9, 'xy')"),
                    11 => format!("rpad({text}, 4)"),
                    12 => {
                        let other = self.expr(sources, Ty::Text, d);
                        format!("({text} || {other} || {int})")
                    }
                    _ => format!(
                        "CASE WHEN {} THEN {text} ELSE 'else' END",
                        self.simple(sources)
                    ),
                }
            }
            Ty::Int => {
                let int = self.expr(sources, Ty::Int, d);
                let other = self.expr(sources, Ty::Int, d);
                match self.rng.random_range(0..12) {
                    0 => format!("({int} + {other})"),
                    1 => format!("({int} * 2)"),
                    2 => format!("({int} / {other})"),
                    3 => format!("({int} % {other})"),
                    4 => format!("abs({int})"),
                    5 => format!("character_length({})", self.expr(sources, Ty::Text, d)),
                    6 => format!("CAST({} AS bigint)", self.expr(sources, Ty::Text, d)),
                    7 => format!("try_cast({} AS bigint)", self.expr(sources, Ty::Text, d)),
                    8 => format!(
                        "CAST(date_part('day', {}) AS bigint)",
                        self.expr(sources, Ty::Day, d)
                    ),
                    9 => format!("greatest({int}, {other})"),
                    10 => format!("levenshtein({}, 'ab')", self.expr(sources, Ty::Text, d)),
                    _ => format!("coalesce({int}, 0)"),
                }
            }
            Ty::Decimal => {
                let decimal = self.expr(sources, Ty::Decimal, d);
                let other = self.expr(sources, Ty::Decimal, d);
                match self.rng.random_range(0..5) {
                    0 => format!("({decimal} + {other})"),
                    1 => format!("({decimal} * 2)"),
                    2 => format!("({decimal} / {other})"),
                    3 => format!("round({decimal}, 1)"),
                    _ => format!("coalesce({decimal}, {other})"),
                }
            }
            Ty::Day => {
                let day = self.expr(sources, Ty::Day, d);
                match self.rng.random_range(0..3) {
                    0 => format!("CAST(date_trunc('month', {day}) AS date)"),
                    1 => format!("({day} + interval '1 day')::date"),
                    _ => format!("coalesce({day}, date '2025-01-01')"),
                }
            }
            Ty::Instant => self.literal(ty),
            Ty::Bool => format!("({})", self.predicate_flat(sources, d)),
        }
    }

    /// A predicate that can be pushed to a scan, or nearly.
    fn simple(&mut self, sources: &[Source]) -> String {
        let ty = self.ty();
        let Some(column) = self.column(sources, ty) else {
            return "1 = 1".to_owned();
        };
        let literal = self.literal(ty);
        match self.rng.random_range(0..7) {
            0 => format!("{column} IS NULL"),
            1 => format!("{column} IS NOT NULL"),
            2 => format!("{column} IN ({literal}, {})", self.literal(ty)),
            3 if ty != Ty::Bool => format!("{column} BETWEEN {literal} AND {}", self.literal(ty)),
            4 => format!("{column} <> {literal}"),
            _ => format!(
                "{column} {} {literal}",
                self.pick(&["=", "<", ">", "<=", ">="])
            ),
        }
    }

    fn predicate_flat(&mut self, sources: &[Source], depth: u32) -> String {
        if self.chance(0.6) {
            return self.simple(sources);
        }
        let ty = self.ty();
        let (a, b) = (self.expr(sources, ty, depth), self.expr(sources, ty, depth));
        match self.rng.random_range(0..5) {
            0 => format!("{a} IS DISTINCT FROM {b}"),
            1 => format!("{} LIKE '%a%'", self.expr(sources, Ty::Text, depth)),
            2 => format!(
                "regexp_like({}, '^[a-z]')",
                self.expr(sources, Ty::Text, depth)
            ),
            _ => format!("{a} {} {b}", self.pick(&["=", "<>", "<", ">="])),
        }
    }

    fn predicate(&mut self, sources: &[Source], depth: u32) -> String {
        let mut text = self.predicate_flat(sources, 2);
        while self.chance(0.35) {
            let next = match self.rng.random_range(0..5) {
                0 if depth > 0 => self.subquery(sources, depth),
                1 => format!("NOT ({})", self.predicate_flat(sources, 1)),
                _ => self.predicate_flat(sources, 2),
            };
            text = format!("{text} {} {next}", self.pick(&["AND", "AND", "OR"]));
        }
        text
    }

    fn subquery(&mut self, sources: &[Source], depth: u32) -> String {
        let ty = self.ty();
        let outer = self.expr(sources, ty, 0);
        let (from, inner) = self.from(depth - 1);
        let value = self.expr(&inner, ty, 0);
        match self.rng.random_range(0..4) {
            0 => format!("{outer} IN (SELECT {value} FROM {from})"),
            1 => format!("{outer} NOT IN (SELECT {value} FROM {from} WHERE {value} IS NOT NULL)"),
            2 => format!("EXISTS (SELECT 1 FROM {from} WHERE {value} = {outer})"),
            _ => format!("{outer} >= (SELECT max({value}) FROM {from})"),
        }
    }
}
