//! Random statements over the open columns of a world, made so that every operator and every function of the gate's SQL
//! comes up (`coverage.rs` counts what was planned), and so that most of them can be answered.

use std::sync::LazyLock;

use qihui_catalog::ColumnType;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::world::{ENTERPRISES, uscc};

/// A type of expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Text,
    Int,
    Decimal,
    Float,
    Day,
    Instant,
    Bool,
    /// The rest stand in expressions and answers; nothing is grouped, joined or ordered by them.
    Span,
    Time,
    Bytes,
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

    /// The type of a letter in a template.
    fn of_letter(letter: &str) -> Self {
        match letter {
            "t" => Self::Text,
            "i" => Self::Int,
            "d" => Self::Decimal,
            "f" => Self::Float,
            "y" => Self::Day,
            "z" => Self::Instant,
            "b" => Self::Bool,
            "v" => Self::Span,
            "m" => Self::Time,
            "x" => Self::Bytes,
            other => panic!("no type {other}"),
        }
    }

    /// Its name in SQL, where it has one for casts.
    fn sql(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "bigint",
            Self::Decimal => "decimal(20,4)",
            Self::Float => "double precision",
            Self::Day => "date",
            Self::Instant => "timestamp",
            Self::Bool => "boolean",
            other => panic!("{other:?} is not cast to"),
        }
    }
}

/// Types that values are cast between.
const CAST_TYPES: &[Ty] = &[
    Ty::Text,
    Ty::Int,
    Ty::Decimal,
    Ty::Float,
    Ty::Day,
    Ty::Instant,
    Ty::Bool,
];

/// Calls and operators by the type they give. A letter in braces stands for an expression of its type, `s` for a whole
/// number from 0 and `p` for one from 1.
const TEXTS: &[&str] = &[
    "upper({t})",
    "lower({t})",
    "initcap({t})",
    "reverse({t})",
    "btrim({t}, 'a ')",
    "ltrim({t}, 'x')",
    "rtrim({t})",
    "concat({t}, '-', {i})",
    "concat_ws('/', {t}, {t})",
    "coalesce({t}, 'none')",
    "nullif({t}, 'a')",
    "nvl({t}, 'none')",
    "nvl2({t}, {t}, 'none')",
    "replace({t}, 'a', 'oo')",
    "translate({t}, 'ab', 'xy')",
    "to_hex({i})",
    "chr(abs({i}) % 60 + 64)",
    "left({t}, 3)",
    "right({t}, {p})",
    "lpad({t}, abs({i}) % 9, 'xy')",
    "rpad({t}, {p}, 'z')",
    "repeat({t}, abs({i}) % 5)",
    "substr({t}, {p}, 2)",
    "substring({t} FROM 1 FOR 2)",
    "substr_index({t}, ' ', 1)",
    "split_part({t}, ' ', {p})",
    "overlay({t} PLACING 'zz' FROM 1 FOR 1)",
    "regexp_replace({t}, '[ab]+', '-', 'g')",
    "md5({t})",
    "encode({x}, 'hex')",
    "encode({x}, 'base64')",
    "to_char({y}, '%Y/%m')",
    "to_char(({z}) AT TIME ZONE 'Asia/Shanghai', '%d %H')",
    "({t} || {t})",
    "({t} || {t} || {i})",
    "greatest({t}, {t})",
    "least({t}, {t})",
    "CASE WHEN {b} THEN {t} ELSE 'else' END",
    "CASE {t} WHEN 'a' THEN 'first' WHEN 'b' THEN {t} END",
];
const INTS: &[&str] = &[
    "ascii({t})",
    "bit_length({t})",
    "octet_length({t})",
    "character_length({t})",
    "strpos({t}, 'a')",
    "position('a' IN {t})",
    "find_in_set({t}, 'a,b,7')",
    "levenshtein({t}, 'ab')",
    "regexp_count({t}, '[a-z]')",
    "regexp_instr({t}, '[0-9]')",
    "abs({i})",
    "gcd({i}, {i})",
    "lcm({i} % 50, 6)",
    "factorial(abs({i}) % 10)",
    "CAST(date_part('day', {y}) AS bigint)",
    "CAST(EXTRACT(year FROM {z}) AS bigint)",
    "CAST(EXTRACT(hour FROM ({z}) AT TIME ZONE 'Asia/Shanghai') AS bigint)",
    "to_unixtime({z})",
    "CAST(power(2, abs({i}) % 6) AS bigint)",
    "({i} & 6)",
    "({i} | {p})",
    "({i} # {i})",
    "({i} << {s})",
    "({i} >> {s})",
    "({i} + {i})",
    "({i} - {i})",
    "({i} * 2)",
    "({i} / nullif({i}, 0))",
    "({i} % nullif({i}, 0))",
    "(- {i})",
    "try_cast({t} AS bigint)",
    "try_cast({t} AS int)",
    "coalesce({i}, 0)",
    "nullif({i}, {i})",
    "nvl({i}, 7)",
    "greatest({i}, {i})",
    "least({i}, {p})",
    "CASE WHEN {b} THEN {i} ELSE 0 END",
    "(({s}, 'a'))['c0']",
];
const DECIMALS: &[&str] = &[
    "({d} + {d})",
    "({d} - {d})",
    "({d} * 2)",
    "({d} / nullif({d}, 0))",
    "({d} % nullif({d}, 0))",
    "(- {d})",
    "round({d}, 1)",
    "trunc({d}, 1)",
    "abs({d})",
    "ceil({d})",
    "floor({d})",
    "coalesce({d}, {d})",
    "nullif({d}, 1.5)",
    "greatest({d}, {d})",
    "CASE WHEN {b} THEN {d} END",
];
const FLOATS: &[&str] = &[
    "sqrt(abs({f}))",
    "cbrt({f})",
    "exp({f} / 100)",
    "ln(abs({f}) + 1)",
    "log(2, abs({f}) + 1)",
    "log10(abs({f}) + 1)",
    "log2(abs({f}) + 1)",
    "sin({f})",
    "cos({f})",
    "tan({f})",
    "cot({f} + 0.25)",
    "asin({f} / 1000)",
    "acos({f} / 1000)",
    "atan({f})",
    "atan2({f}, {f})",
    "sinh({f} / 100)",
    "cosh({f} / 100)",
    "tanh({f})",
    "asinh({f})",
    "acosh(abs({f}) + 1)",
    "atanh({f} / 1000)",
    "degrees({f})",
    "radians({f})",
    "power({f}, 2)",
    "nanvl({f}, 0)",
    "signum({f})",
    "(pi() * {f})",
    "round({f}, 2)",
    "ceil({f})",
    "floor({f})",
    "trunc({f})",
    "({f} / nullif({f}, 0))",
    "({f} * 2)",
    "({f} + {f})",
    "(- {f})",
    "coalesce({f}, 0)",
];
const DAYS: &[&str] = &[
    "CAST(date_trunc('month', {y}) AS date)",
    "CAST({y} + interval '1 day' AS date)",
    "CAST({y} - interval '1 month' AS date)",
    "coalesce({y}, date '2025-01-01')",
    "nullif({y}, date '2025-01-07')",
    "greatest({y}, {y})",
    "make_date(2025, abs({i}) % 12 + 1, {p})",
    "to_date('2025-01-0' || {p})",
    "current_date()",
    "CASE WHEN {b} THEN {y} ELSE date '2025-02-01' END",
];
const INSTANTS: &[&str] = &[
    "date_trunc('hour', {z})",
    "date_bin(interval '15 minutes', {z}, timestamp '2025-01-01T00:00:00Z')",
    "to_timestamp({i})",
    "to_timestamp_seconds({i})",
    "to_timestamp_millis({i})",
    "to_timestamp_micros({i})",
    "to_timestamp_nanos({i})",
    "from_unixtime({i})",
    "to_local_time({z})",
    "to_local_time(({z}) AT TIME ZONE 'Asia/Shanghai')",
    "(({z}) AT TIME ZONE 'Asia/Shanghai')",
    "now()",
    "({z} + {v})",
    "({z} - {v})",
    "coalesce({z}, {z})",
];
const BOOLS: &[&str] = &[
    "isnan({f})",
    "iszero({f})",
    "contains({t}, 'a')",
    "starts_with({t}, 'a')",
    "ends_with({t}, 'b')",
    "regexp_like({t}, '^[a-z]')",
    "({t} LIKE '%a%')",
    "({t} NOT LIKE 'a_')",
    "({t} ILIKE 'A%')",
    "({t} SIMILAR TO '(a|b)%')",
    "({t} ~ '^a')",
    "({t} ~* '^A')",
    "({t} !~ 'b$')",
    "({t} !~* 'B')",
    "({t} ~~ '%7%')",
    "({t} ~~* '%X%')",
    "({t} !~~ '7%')",
    "({t} !~~* 'X%')",
    "(NOT {b})",
    "({b} IS TRUE)",
    "({b} IS FALSE)",
    "({b} IS UNKNOWN)",
    "({b} IS NOT TRUE)",
    "({b} IS NOT FALSE)",
    "({b} IS NOT UNKNOWN)",
    "({b} AND {b})",
    "({b} OR {b})",
    "({i} IS DISTINCT FROM {i})",
    "({t} IS NOT DISTINCT FROM {t})",
    "({i} <> {i})",
    "({d} >= {d})",
    "({t} < {t})",
    "({y} <= {y})",
    "({z} > {z})",
    "({i} NOT IN ({p}, 7))",
    "({i} NOT BETWEEN {s} AND 5)",
    "({i} BETWEEN {i} AND {i})",
    "coalesce({b}, false)",
];
const SPANS: &[&str] = &["({z} - {z})", "({v} + {v})"];
const TIMES: &[&str] = &[
    "make_time(abs({i}) % 24, 5, 7)",
    "current_time()",
    "CAST({z} AS time)",
];
const BYTES: &[&str] = &[
    "sha224({t})",
    "sha256({t})",
    "sha384({t})",
    "sha512({t})",
    "digest({t}, 'md5')",
    "decode(md5({t}), 'hex')",
];
/// What refuses some values: seldom drawn, so that most statements can be answered.
const REFUSING: &[(Ty, &str)] = &[
    (Ty::Int, "CAST({t} AS bigint)"),
    (Ty::Int, "({i} / {i})"),
    (Ty::Int, "({i} % {i})"),
    (Ty::Decimal, "({d} / {d})"),
    (Ty::Day, "CAST({t} AS date)"),
    (Ty::Day, "make_date(2025, {i}, 1)"),
    (Ty::Text, "chr({i} * 10)"),
];

/// Aggregates of any type, besides those that stand below for what their frames may be.
const AGGREGATES: &[&str] = &[
    "count(*)",
    "count({t})",
    "count({i})",
    "count(DISTINCT {t})",
    "count(DISTINCT {i})",
    "count(*) FILTER (WHERE {b})",
    "sum({i})",
    "sum({d})",
    "sum(DISTINCT {i})",
    "sum({i}) FILTER (WHERE {b})",
    "avg({i})",
    "min({t})",
    "max({t})",
    "min({d})",
    "max({y})",
    "min({z})",
    "max({i})",
    "min({b})",
    "median({d})",
    "percentile_cont(0.5) WITHIN GROUP (ORDER BY {f})",
    "array_agg({t})",
    "array_agg(DISTINCT {i})",
    "array_agg({i} ORDER BY {t} DESC)",
    "string_agg({t}, '|')",
    "string_agg({t}, '|' ORDER BY {t})",
    "first_value({t} ORDER BY {i})",
    "last_value({i} ORDER BY {y} DESC NULLS LAST)",
    "nth_value({i}, {p} ORDER BY {d})",
    "first_value({t} ORDER BY {i}) IGNORE NULLS",
    "array_agg({i} ORDER BY {i})",
];

/// Window functions by what their frame may be: none, or any.
const UNFRAMED: &[&str] = &[
    "row_number()",
    "rank()",
    "dense_rank()",
    "percent_rank()",
    "cume_dist()",
    "ntile({p})",
    "lag({t})",
    "lag({i}, 2, 0)",
    "lag({i}) IGNORE NULLS",
    "lead({i})",
    "lead({t}, 1)",
    "lead({t}) IGNORE NULLS",
];
const FRAMED: &[&str] = &[
    "sum({i})",
    "sum({d})",
    "sum({i}) FILTER (WHERE {b})",
    "count(*)",
    "count({t})",
    "count({t}) FILTER (WHERE {b})",
    "avg({i})",
    "min({t})",
    "max({i})",
    "first_value({t})",
    "first_value({i}) IGNORE NULLS",
    "last_value({i})",
    "last_value({t}) IGNORE NULLS",
    "nth_value({t}, {p})",
];
/// Aggregates that take values back as a frame moves on.
const RETRACTING: &[&str] = &[
    "avg({d})",
    "bit_xor({i})",
    "corr({f}, {f})",
    "covar_pop({f}, {i})",
    "covar_samp({i}, {f})",
    "median({i})",
    "percentile_cont({f}, 0.25)",
    "regr_avgx({f}, {i})",
    "regr_avgy({f}, {i})",
    "regr_count({f}, {i})",
    "regr_intercept({f}, {i})",
    "regr_r2({f}, {i})",
    "regr_slope({f}, {i})",
    "regr_sxx({f}, {i})",
    "regr_sxy({f}, {i})",
    "regr_syy({f}, {i})",
    "stddev({i})",
    "stddev_pop({f})",
    "sum({f})",
    "var({d})",
    "var_pop({i})",
];
/// Aggregates that cannot: their frames only grow.
const GROWING: &[&str] = &[
    "bit_and({i})",
    "bit_or({i})",
    "bool_and({b})",
    "bool_or({b})",
];
/// Every aggregate.
static EVERY_AGGREGATE: LazyLock<Vec<&str>> =
    LazyLock::new(|| [AGGREGATES, RETRACTING, GROWING].concat());
const FRAMES: &[&str] = &[
    "ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
    "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
    "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
    "ROWS BETWEEN CURRENT ROW AND 2 FOLLOWING",
    "ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING",
    "ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING",
    "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
    "GROUPS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
];
/// Frames that move by values or by groups of peers: for what does not look at the order among peers.
const MOVING: &[&str] = &[
    "RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING",
    "GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
];

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

    /// A type that values can be grouped, joined and ordered by.
    fn ty(&mut self) -> Ty {
        *[
            Ty::Text,
            Ty::Text,
            Ty::Int,
            Ty::Int,
            Ty::Decimal,
            Ty::Day,
            Ty::Instant,
            Ty::Bool,
        ]
        .choose(self.rng)
        .unwrap()
    }

    /// A type of a column of the answer.
    fn shown_ty(&mut self) -> Ty {
        match self.rng.random_range(0..12) {
            0 => *[Ty::Span, Ty::Time, Ty::Bytes].choose(self.rng).unwrap(),
            1 | 2 => Ty::Float,
            _ => self.ty(),
        }
    }

    fn types(&mut self, most: usize) -> Vec<Ty> {
        (0..self.rng.random_range(1..=most))
            .map(|_| self.ty())
            .collect()
    }

    /// A whole statement.
    pub fn statement(&mut self) -> String {
        match self.rng.random_range(0..24) {
            0 | 1 => self.with(),
            2..=4 => self.set_operation(),
            5 => self.distinct_on(),
            6 => self.qualified(),
            7 => self.constants(),
            8 => self.only_some(),
            _ => {
                let body = self.select(2, None);
                let tail = self.tail();
                format!("{body}{tail}")
            }
        }
    }

    fn with(&mut self) -> String {
        let types = self.types(3);
        let twice = self.chance(0.5);
        // What is joined with itself is one table: rows of two would be too many.
        let first = self.select(u32::from(!twice), Some(&types));
        let columns: Vec<_> = named_outputs(&types);
        let source = |alias: &str| Source {
            alias: alias.to_owned(),
            columns: columns.clone(),
        };
        if !twice {
            let shown = self.columns(&[source("c")]);
            let tail = self.tail();
            return format!("WITH c AS ({first}) SELECT {shown} FROM c{tail}");
        }
        let (x, y) = (source("x"), source("y"));
        let both = [x, y];
        let shown = self.columns(&both);
        format!(
            "WITH c AS ({first}), e AS (SELECT * FROM c) SELECT {shown} FROM c AS x JOIN e AS y ON x.o0 = y.o0"
        )
    }

    fn set_operation(&mut self) -> String {
        let mut types = self.types(3);
        let left = self.select(1, Some(&types));
        let mut op = self.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
        if self.chance(0.2) {
            op = self.pick(&["UNION BY NAME", "UNION ALL BY NAME"]);
            // A column that only the second side has.
            if self.chance(0.5) {
                types.push(self.ty());
            }
        }
        let right = self.select(1, Some(&types));
        let tail = self.tail();
        format!("{left} {op} {right}{tail}")
    }

    fn distinct_on(&mut self) -> String {
        let (from, sources) = self.from(1);
        let key = self.ty();
        let key = self.expr(&sources, key, 0);
        let columns = self.columns(&sources);
        let order = match self.chance(0.5) {
            true => {
                let ty = self.ty();
                format!(" ORDER BY {key}, {}", self.expr(&sources, ty, 0))
            }
            false => String::new(),
        };
        format!("SELECT DISTINCT ON ({key}) {columns} FROM {from}{order}")
    }

    fn qualified(&mut self) -> String {
        let (from, sources) = self.from(0);
        let columns = self.columns(&sources);
        let part = self.expr(&sources, Ty::Text, 0);
        let order = self.expr(&sources, Ty::Int, 0);
        format!(
            "SELECT {columns} FROM {from} QUALIFY row_number() OVER (PARTITION BY {part} ORDER BY {order}) < 3"
        )
    }

    /// Without a table, or over VALUES.
    fn constants(&mut self) -> String {
        if self.chance(0.5) {
            let shown = self.columns(&[]);
            return format!("SELECT {shown}");
        }
        let types = self.types(3);
        let (values, source) = self.values(&types);
        let shown = self.columns(&[source]);
        format!("SELECT {shown} FROM {values}{}", self.tail())
    }

    /// What an engine would like to answer without looking at every row.
    fn only_some(&mut self) -> String {
        let (from, sources) = self.from(0);
        let limit = self.rng.random_range(0..5);
        match self.rng.random_range(0..4) {
            0 => format!("SELECT 'x' AS o0 FROM {from} LIMIT {limit}"),
            1 => format!("SELECT count(*) AS g0 FROM {from}"),
            2 => {
                let shown = self.pick(&["", " 1 AS o0"]);
                format!(
                    "SELECT count(*) AS g0 FROM (SELECT{shown} FROM {from} LIMIT {limit}) AS some"
                )
            }
            _ => {
                let ty = self.ty();
                let value = self.expr(&sources, ty, 0);
                format!(
                    "SELECT min({value}) AS g0, max({value}) AS g1, count({value}) AS g2 FROM {from}"
                )
            }
        }
    }

    fn values(&mut self, types: &[Ty]) -> (String, Source) {
        let rows: Vec<String> = (0..self.rng.random_range(1..4))
            .map(|row| {
                let cells: Vec<String> = types
                    .iter()
                    .map(|ty| match row > 0 && self.chance(0.2) {
                        true => "NULL".to_owned(),
                        false => self.literal(*ty),
                    })
                    .collect();
                format!("({})", cells.join(", "))
            })
            .collect();
        let alias = self.alias();
        let columns = named_outputs(types);
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let text = format!(
            "(VALUES {}) AS {alias} ({})",
            rows.join(", "),
            names.join(", ")
        );
        (text, Source { alias, columns })
    }

    /// ORDER BY and LIMIT.
    fn tail(&mut self) -> String {
        match self.rng.random_range(0..8) {
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
            3 => format!(" OFFSET {}", self.rng.random_range(0..4)),
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
                        Ty::Int | Ty::Decimal | Ty::Instant => {
                            format!("try_cast({expr} AS {})", ty.sql())
                        }
                        _ => expr,
                    };
                    format!("{expr} AS o{i}")
                })
                .collect();
            return format!("SELECT {} FROM {from}{filter}", columns.join(", "));
        }
        match self.rng.random_range(0..10) {
            0..=2 => self.grouped(&from, &filter, &sources),
            3 | 9 => self.windowed(&from, &filter, &sources),
            4 if sources.len() == 1 => format!("SELECT * FROM {from}{filter}"),
            5 => {
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
                if self.chance(0.01) {
                    return format!("{} AS o{i}", self.filled("({s}, 'a')", sources, 1));
                }
                let ty = self.shown_ty();
                format!("{} AS o{i}", self.expr(sources, ty, 2))
            })
            .collect();
        columns.join(", ")
    }

    fn grouped(&mut self, from: &str, filter: &str, sources: &[Source]) -> String {
        let keys: Vec<String> = (0..self.rng.random_range(1..=2))
            .map(|_| {
                let ty = self.ty();
                let depth = u32::from(self.chance(0.3));
                self.expr(sources, ty, depth)
            })
            .collect();
        let mut selected: Vec<String> = keys
            .iter()
            .enumerate()
            .map(|(i, key)| format!("{key} AS k{i}"))
            .collect();
        let total = self.aggregates(sources);
        let having = match self.rng.random_range(0..6) {
            0 => " HAVING count(*) > 1".to_owned(),
            1 => format!(" HAVING max({}) >= 0", self.expr(sources, Ty::Int, 0)),
            _ => String::new(),
        };
        let list = keys.join(", ");
        let by = match self.rng.random_range(0..10) {
            9 => "ALL".to_owned(),
            0 => format!("ROLLUP ({list})"),
            1 => format!("CUBE ({list})"),
            2 => format!("GROUPING SETS (({list}), ({}), ())", keys[0]),
            _ => list,
        };
        if by.contains(" (") && self.chance(0.7) && keys.iter().all(|key| key.contains('.')) {
            selected.push(format!("grouping({}) AS whole", keys[0]));
        }
        format!(
            "SELECT {}, {total} FROM {from}{filter} GROUP BY {by}{having}",
            selected.join(", ")
        )
    }

    fn aggregates(&mut self, sources: &[Source]) -> String {
        let list: Vec<String> = (0..self.rng.random_range(1..=3))
            .map(|i| {
                let call = self.pick(&EVERY_AGGREGATE);
                let depth = u32::from(self.chance(0.3));
                format!("{} AS g{i}", self.filled(call, sources, depth))
            })
            .collect();
        list.join(", ")
    }

    fn windowed(&mut self, from: &str, filter: &str, sources: &[Source]) -> String {
        let ty = self.ty();
        let value = self.expr(sources, ty, 1);
        let part = match self.chance(0.5) {
            true => format!("PARTITION BY {} ", self.expr(sources, Ty::Text, 0)),
            false => String::new(),
        };
        let key = self.ty();
        let order = self.expr(sources, key, 0);
        let direction = self.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        let over = format!("{part}ORDER BY {order}{direction}");
        let (call, over) = match self.rng.random_range(0..12) {
            0..=2 => (self.pick(UNFRAMED), over),
            3 | 4 => (self.pick(FRAMED), format!("{over} {}", self.pick(FRAMES))),
            5..=7 => (
                self.pick(RETRACTING),
                format!("{over} {}", self.pick(FRAMES)),
            ),
            8 => (self.pick(GROWING), over),
            9 | 10 => {
                let order = self.expr(sources, Ty::Int, 0);
                let frame = self.pick(MOVING);
                let common = ["sum({i})", "count(*)", "max({t})", "min({y})"];
                let call = match self.chance(0.5) {
                    true => self.pick(&common),
                    false => self.pick(RETRACTING),
                };
                (call, format!("{part}ORDER BY {order} {frame}"))
            }
            _ => (self.pick(&["count(*)", "sum({i})", "max({y})"]), part),
        };
        let call = self.filled(call, sources, 1);
        match self.chance(0.2) {
            true => format!(
                "SELECT {value} AS o0, {call} OVER w AS w0 FROM {from}{filter} WINDOW w AS ({over})"
            ),
            false => {
                format!("SELECT {value} AS o0, {call} OVER ({over}) AS w0 FROM {from}{filter}")
            }
        }
    }

    fn from(&mut self, depth: u32) -> (String, Vec<Source>) {
        let (first, left) = self.table(depth);
        if depth == 0 || !self.chance(0.4) {
            return (first, vec![left]);
        }
        let (second, right) = self.table(0);
        match self.rng.random_range(0..16) {
            0 => return (format!("{first} CROSS JOIN {second}"), vec![left, right]),
            1 => {
                let shared = left
                    .columns
                    .iter()
                    .find(|column| right.columns.contains(column));
                if let Some((name, _)) = shared {
                    let text = format!("{first} JOIN {second} USING ({name})");
                    return (text, vec![left, right]);
                }
            }
            3 => {
                let shared = left.columns.iter();
                let shared = shared.filter(|column| right.columns.contains(column));
                let shared: Vec<(String, Ty)> = shared.cloned().collect();
                if let Some((name, ty)) = shared.choose(self.rng).cloned() {
                    let alias = self.alias();
                    let kind = self.pick(&["", " LEFT", " RIGHT", " FULL"]);
                    let other = format!("(SELECT {}.{name} FROM {second}) AS {alias}", right.alias);
                    let text = format!("{first} NATURAL{kind} JOIN {other}");
                    let columns = vec![(name, ty)];
                    return (text, vec![left, Source { alias, columns }]);
                }
            }
            2 => {
                let ty = self.ty();
                if let (Some(outer), Some(inner)) = (
                    self.column(std::slice::from_ref(&left), ty),
                    self.column(std::slice::from_ref(&right), ty),
                ) {
                    let alias = self.alias();
                    let columns = vec![("o0".to_owned(), ty)];
                    let body =
                        format!("SELECT {inner} AS o0 FROM {second} WHERE {inner} = {outer}");
                    let kind = self.pick(&["CROSS JOIN", "JOIN", "LEFT JOIN"]);
                    let on = if kind == "CROSS JOIN" { "" } else { " ON true" };
                    let text = format!("{first} {kind} LATERAL ({body}) AS {alias}{on}");
                    return (text, vec![left, Source { alias, columns }]);
                }
            }
            _ => {}
        }
        let kind = self.pick(&[
            "JOIN",
            "JOIN",
            "LEFT JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "LEFT SEMI JOIN",
            "LEFT ANTI JOIN",
            "RIGHT SEMI JOIN",
            "RIGHT ANTI JOIN",
        ]);
        let both = vec![left.clone(), right.clone()];
        let ty = self.ty();
        let (a, b) = (
            self.column(std::slice::from_ref(&left), ty),
            self.column(std::slice::from_ref(&right), ty),
        );
        let on = match (a, b) {
            (Some(a), Some(b)) if self.chance(0.85) => format!("{a} = {b}"),
            (Some(a), Some(b)) => format!("{a} >= {b}"),
            _ => "1 = 1".to_owned(),
        };
        let more = if self.chance(0.3) {
            format!(" AND {}", self.simple(&both))
        } else {
            String::new()
        };
        let seen = match kind {
            "LEFT SEMI JOIN" | "LEFT ANTI JOIN" => vec![left],
            "RIGHT SEMI JOIN" | "RIGHT ANTI JOIN" => vec![right],
            _ => both,
        };
        (format!("{first} {kind} {second} ON {on}{more}"), seen)
    }

    fn table(&mut self, depth: u32) -> (String, Source) {
        if depth > 1 && self.chance(0.15) {
            let types: Vec<Ty> = (0..3).map(|_| self.ty()).collect();
            let body = self.select(depth - 1, Some(&types));
            let tail = if self.chance(0.2) { " LIMIT 4" } else { "" };
            let alias = self.alias();
            let columns = named_outputs(&types);
            return (
                format!("({body}{tail}) AS {alias}"),
                Source { alias, columns },
            );
        }
        if self.chance(0.04) {
            let types = self.types(3);
            return self.values(&types);
        }
        let alias = self.alias();
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
            Ty::Float => format!(
                "CAST({}.25 AS double precision)",
                self.rng.random_range(0..9)
            ),
            Ty::Day => format!("date '2025-01-{:02}'", self.rng.random_range(1..31)),
            Ty::Instant => format!(
                "timestamp '2025-01-{:02}T12:00:00Z'",
                self.rng.random_range(1..31)
            ),
            Ty::Bool => self.pick(&["true", "false"]).to_owned(),
            Ty::Span => format!(
                "interval '{} {}'",
                self.rng.random_range(1..5),
                self.pick(&["days", "hours", "months", "minutes"])
            ),
            Ty::Time => "time '08:30:00'".to_owned(),
            Ty::Bytes => "decode('00ff', 'hex')".to_owned(),
        }
    }

    /// An expression of a type, so many operators deep.
    fn expr(&mut self, sources: &[Source], ty: Ty, depth: u32) -> String {
        if depth == 0 || self.chance(0.4) {
            let column = if self.chance(0.92) {
                self.column(sources, ty)
            } else {
                None
            };
            return match (column, ty) {
                (Some(column), _) => column,
                (None, Ty::Float) => match self.chance(0.5) {
                    true => format!(
                        "CAST({} AS double precision)",
                        self.expr(sources, Ty::Int, 0)
                    ),
                    false => format!(
                        "CAST({} AS double precision)",
                        self.expr(sources, Ty::Decimal, 0)
                    ),
                },
                (None, Ty::Bytes) => format!("sha256({})", self.expr(sources, Ty::Text, 0)),
                (None, ty) => self.literal(ty),
            };
        }
        let d = depth - 1;
        if CAST_TYPES.contains(&ty) && self.chance(0.1) {
            return self.cast(sources, ty, d);
        }
        if self.chance(0.02) {
            let refusing: Vec<&str> = REFUSING
                .iter()
                .filter(|(of, _)| *of == ty)
                .map(|(_, text)| *text)
                .collect();
            if let Some(template) = refusing.choose(self.rng) {
                return self.filled(template, sources, d);
            }
        }
        if ty == Ty::Bool && self.chance(0.5) {
            return format!("({})", self.simple(sources));
        }
        let templates = match ty {
            Ty::Text => TEXTS,
            Ty::Int => INTS,
            Ty::Decimal => DECIMALS,
            Ty::Float => FLOATS,
            Ty::Day => DAYS,
            Ty::Instant => INSTANTS,
            Ty::Bool => BOOLS,
            Ty::Span => SPANS,
            Ty::Time => TIMES,
            Ty::Bytes => BYTES,
        };
        let template = self.pick(templates);
        self.filled(template, sources, d)
    }

    /// A cast from any type that can be; one that can refuse values mostly as TRY_CAST.
    fn cast(&mut self, sources: &[Source], to: Ty, depth: u32) -> String {
        let from: &[Ty] = match to {
            Ty::Text => CAST_TYPES,
            Ty::Int => &[
                Ty::Text,
                Ty::Int,
                Ty::Decimal,
                Ty::Float,
                Ty::Bool,
                Ty::Instant,
                Ty::Day,
            ],
            Ty::Decimal => &[Ty::Text, Ty::Int, Ty::Decimal, Ty::Float, Ty::Instant],
            Ty::Float => &[
                Ty::Text,
                Ty::Int,
                Ty::Decimal,
                Ty::Float,
                Ty::Bool,
                Ty::Instant,
            ],
            Ty::Day => &[Ty::Text, Ty::Int, Ty::Day, Ty::Instant],
            Ty::Instant => &[
                Ty::Text,
                Ty::Int,
                Ty::Decimal,
                Ty::Float,
                Ty::Day,
                Ty::Instant,
            ],
            _ => &[Ty::Text, Ty::Int, Ty::Float, Ty::Bool],
        };
        let from = *from.choose(self.rng).unwrap();
        let inner = self.expr(sources, from, depth);
        let refuses = from == Ty::Text && to != Ty::Text;
        let try_cast = match refuses {
            true => self.chance(0.8),
            false => self.chance(0.3),
        };
        // A day as a number goes by way of the narrow one.
        let to = match (from, to) {
            (Ty::Day, Ty::Int) | (Ty::Int, Ty::Int) => "int",
            (_, to) => to.sql(),
        };
        match try_cast {
            true => format!("TRY_CAST({inner} AS {to})"),
            false => format!("CAST({inner} AS {to})"),
        }
    }

    /// A template with its letters replaced.
    fn filled(&mut self, template: &str, sources: &[Source], depth: u32) -> String {
        let mut text = String::with_capacity(template.len() * 4);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (letter, after) = after.split_once('}').unwrap();
            text.push_str(before);
            match letter {
                "s" => text.push_str(&self.rng.random_range(0..4).to_string()),
                "p" => text.push_str(&self.rng.random_range(1..4).to_string()),
                letter => text.push_str(&self.expr(sources, Ty::of_letter(letter), depth)),
            }
            rest = after;
        }
        text.push_str(rest);
        text
    }

    /// A predicate that can be pushed to a scan, or nearly.
    fn simple(&mut self, sources: &[Source]) -> String {
        let ty = self.ty();
        let Some(column) = self.column(sources, ty) else {
            return "1 = 1".to_owned();
        };
        let literal = match column.ends_with(".uscc") && self.chance(0.7) {
            true => format!("'{}'", uscc(self.rng.random_range(1..=ENTERPRISES))),
            false => self.literal(ty),
        };
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
        if self.chance(0.5) {
            return self.expr(sources, Ty::Bool, depth + 1);
        }
        let ty = self.ty();
        let (a, b) = (self.expr(sources, ty, depth), self.expr(sources, ty, depth));
        format!(
            "({a} {} {b})",
            self.pick(&["=", "<>", "<", ">=", "IS DISTINCT FROM"])
        )
    }

    fn predicate(&mut self, sources: &[Source], depth: u32) -> String {
        let mut text = match depth > 0 && self.chance(0.08) {
            true => self.subquery(sources, depth),
            false => self.predicate_flat(sources, 2),
        };
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
        match self.rng.random_range(0..9) {
            0 => format!("{outer} IN (SELECT {value} FROM {from})"),
            1 => format!("{outer} NOT IN (SELECT {value} FROM {from} WHERE {value} IS NOT NULL)"),
            2 => format!("EXISTS (SELECT 1 FROM {from} WHERE {value} = {outer})"),
            3 => format!("NOT EXISTS (SELECT 1 FROM {from} WHERE {value} = {outer})"),
            4 => format!("{outer} = (SELECT max({value}) FROM {from} WHERE {value} <= {outer})"),
            5 => format!("{outer} = ANY (SELECT {value} FROM {from})"),
            6 => format!("{outer} >= ALL (SELECT {value} FROM {from} WHERE {value} IS NOT NULL)"),
            7 => format!("(SELECT count(*) FROM {from} WHERE {value} = {outer}) > 1"),
            _ => format!("{outer} >= (SELECT max({value}) FROM {from})"),
        }
    }
}

/// The columns o0, o1 … of these types.
fn named_outputs(types: &[Ty]) -> Vec<(String, Ty)> {
    let named = types.iter().enumerate();
    named.map(|(i, ty)| (format!("o{i}"), *ty)).collect()
}
