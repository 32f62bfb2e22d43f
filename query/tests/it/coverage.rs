//! The grammar of the property tests reaches all of the gate's SQL: whatever is on an allow list was planned, by statements
//! of the grammar, in every form that matters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::expr::{GroupingSet, NullTreatment};
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, LogicalPlan, WindowFrame, WindowFrameBound,
    WindowFunctionDefinition,
};
use qihui_query::{functions, plan, session};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::gate_1::{grammar, views};
use crate::reference::View;
use crate::world::World;

/// Statements that are planned.
const STATEMENTS: usize = 6_000;
const PER_WORLD: usize = 30;

/// What was planned, and how often.
#[derive(Default)]
struct Planned(BTreeMap<String, u64>);

impl Planned {
    fn note(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }

    fn statement(&mut self, sql: &str, plan: &LogicalPlan) {
        for words in WORDS.iter().filter(|words| sql.contains(**words)) {
            self.note(format!("words {words}"));
        }
        plan.apply_with_subqueries(|node| {
            self.node(node);
            let mut schema = DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    self.expression(expr, &schema);
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })
        .unwrap();
    }

    fn node(&mut self, node: &LogicalPlan) {
        self.note(format!("operator {}", plan::operator(node).0));
        match node {
            LogicalPlan::Join(join) => {
                self.note(format!("join {}", join.join_type));
                self.note(format!(
                    "join that null is equal in: {}",
                    join.null_equality == datafusion::common::NullEquality::NullEqualsNull
                ));
            }
            LogicalPlan::Distinct(Distinct::On(_)) => self.note("distinct on".into()),
            LogicalPlan::Distinct(Distinct::All(_)) => self.note("distinct".into()),
            LogicalPlan::Limit(limit) => {
                self.note(format!("limit with offset: {}", limit.skip.is_some()));
                self.note(format!("limit with count: {}", limit.fetch.is_some()));
            }
            LogicalPlan::Sort(sort) => {
                for key in &sort.expr {
                    self.note(format!(
                        "sort asc {}, nulls first {}",
                        key.asc, key.nulls_first
                    ));
                }
            }
            LogicalPlan::TableScan(scan) => {
                for field in scan.projected_schema.fields() {
                    self.note(format!(
                        "column {}",
                        kind(field.data_type()).unwrap_or("other")
                    ));
                }
            }
            _ => {}
        }
    }

    fn expression(&mut self, expr: &Expr, schema: &DFSchema) {
        self.note(format!("expression {}", expr.variant_name()));
        match expr {
            Expr::BinaryExpr(binary) => self.note(format!("binary {:?}", binary.op)),
            Expr::ScalarFunction(function) => self.note(format!("scalar {}", function.name())),
            Expr::AggregateFunction(function) => {
                self.note(format!("aggregate {}", function.func.name()));
                let params = &function.params;
                for (has, what) in [
                    (params.distinct, "distinct"),
                    (params.filter.is_some(), "filter"),
                    (!params.order_by.is_empty(), "order"),
                    (
                        matches!(params.null_treatment, Some(NullTreatment::IgnoreNulls)),
                        "nulls ignored",
                    ),
                ] {
                    if has {
                        self.note(format!("aggregate with {what}"));
                    }
                }
            }
            Expr::WindowFunction(function) => {
                let name = match &function.fun {
                    WindowFunctionDefinition::WindowUDF(udf) => format!("window {}", udf.name()),
                    WindowFunctionDefinition::AggregateUDF(udf) => {
                        format!("window of aggregate {}", udf.name())
                    }
                };
                let frame = &function.params.window_frame;
                // Then what leaves the frame has to be taken back.
                if !frame.start_bound.is_unbounded() {
                    self.note(format!("moving {name}"));
                }
                self.note(name);
                self.note(bounds(frame));
                let params = &function.params;
                for (has, what) in [
                    (!params.partition_by.is_empty(), "partitions"),
                    (params.filter.is_some(), "filter"),
                    (
                        matches!(params.null_treatment, Some(NullTreatment::IgnoreNulls)),
                        "nulls ignored",
                    ),
                ] {
                    if has {
                        self.note(format!("window with {what}"));
                    }
                }
            }
            Expr::Cast(cast) => self.cast("CAST", &cast.expr, cast.field.data_type(), schema),
            Expr::TryCast(cast) => {
                self.cast("TRY_CAST", &cast.expr, cast.field.data_type(), schema);
            }
            Expr::Case(case) => self.note(format!("case of a value: {}", case.expr.is_some())),
            Expr::InList(list) => self.note(format!("in list, negated: {}", list.negated)),
            Expr::Between(between) => self.note(format!("between, negated: {}", between.negated)),
            Expr::Like(like) => self.note(format!(
                "like, negated: {}, whatever case: {}",
                like.negated, like.case_insensitive
            )),
            Expr::InSubquery(query) => {
                self.note(format!("in subquery, negated: {}", query.negated))
            }
            Expr::Exists(query) => self.note(format!("exists, negated: {}", query.negated)),
            Expr::ScalarSubquery(query) => self.note(format!(
                "scalar subquery, correlated: {}",
                !query.outer_ref_columns.is_empty()
            )),
            Expr::GroupingSet(set) => self.note(format!(
                "grouping {}",
                match set {
                    GroupingSet::Rollup(_) => "rollup",
                    GroupingSet::Cube(_) => "cube",
                    GroupingSet::GroupingSets(_) => "sets",
                }
            )),
            Expr::Literal(value, _) => self.note(format!("literal {}", value.data_type())),
            _ => {}
        }
    }

    fn cast(&mut self, word: &str, from: &Expr, to: &DataType, schema: &DFSchema) {
        let from = from.get_type(schema).ok();
        if let (Some(from), Some(to)) = (from.as_ref().and_then(kind), kind(to)) {
            self.note(format!("{word} {from} to {to}"));
        }
    }
}

/// Which bounds a frame has.
fn bounds(frame: &WindowFrame) -> String {
    let bound = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => "current",
        WindowFrameBound::Preceding(value) if value.is_null() => "first",
        WindowFrameBound::Following(value) if value.is_null() => "last",
        WindowFrameBound::Preceding(_) => "before",
        WindowFrameBound::Following(_) => "after",
    };
    let (from, to) = (bound(&frame.start_bound), bound(&frame.end_bound));
    format!("frame {:?} {from} to {to}", frame.units)
}

/// The kind of a type that values are cast between.
fn kind(ty: &DataType) -> Option<&'static str> {
    Some(match ty {
        DataType::Utf8 | DataType::Utf8View => "text",
        DataType::Int32 | DataType::Int64 => "int",
        DataType::Decimal128(..) => "decimal",
        DataType::Float64 => "float",
        DataType::Date32 => "day",
        DataType::Timestamp(..) => "instant",
        DataType::Boolean => "flag",
        _ => return None,
    })
}

/// Words of statements whose plans do not tell them apart.
const WORDS: &[&str] = &[
    " UNION ALL ",
    " UNION SELECT",
    " INTERSECT SELECT",
    " EXCEPT SELECT",
    "WITH c AS",
    " HAVING ",
    " QUALIFY ",
    " WITHIN GROUP ",
    " LATERAL ",
    " USING (",
    " CROSS JOIN ",
    " SEMI JOIN ",
    " ANTI JOIN ",
    "(VALUES ",
    " = ANY (",
    " >= ALL (",
    "interval '",
    "EXTRACT(",
    " SIMILAR TO ",
    " AT TIME ZONE ",
    " NATURAL JOIN ",
    " NATURAL LEFT JOIN ",
    " NATURAL RIGHT JOIN ",
    " NATURAL FULL JOIN ",
    " UNION BY NAME SELECT",
    " UNION ALL BY NAME SELECT",
    " GROUP BY ALL",
    " WINDOW w AS (",
];

/// What has to be planned, beside what is on the lists of the gate.
const FORMS: &[&str] = &[
    "join Inner",
    "join Left",
    "join Right",
    "join Full",
    "join LeftSemi",
    "join LeftAnti",
    "join RightSemi",
    "join RightAnti",
    "join that null is equal in: true",
    "distinct",
    "distinct on",
    "limit with offset: true",
    "limit with count: true",
    "limit with count: false",
    "sort asc true, nulls first true",
    "sort asc true, nulls first false",
    "sort asc false, nulls first true",
    "sort asc false, nulls first false",
    "column text",
    "column int",
    "column decimal",
    "column day",
    "column instant",
    "column flag",
    "aggregate with distinct",
    "aggregate with filter",
    "aggregate with order",
    "aggregate with nulls ignored",
    "window with partitions",
    "window with filter",
    "window with nulls ignored",
    "frame Rows first to current",
    "frame Rows first to last",
    "frame Rows before to current",
    "frame Rows before to before",
    "frame Rows current to after",
    "frame Rows after to last",
    "frame Range first to current",
    "frame Range current to last",
    "frame Range before to after",
    "frame Groups first to current",
    "frame Groups before to after",
    "case of a value: true",
    "case of a value: false",
    "in list, negated: true",
    "in list, negated: false",
    "between, negated: true",
    "between, negated: false",
    "like, negated: false, whatever case: false",
    "like, negated: true, whatever case: false",
    "like, negated: false, whatever case: true",
    "in subquery, negated: true",
    "in subquery, negated: false",
    "exists, negated: true",
    "exists, negated: false",
    "scalar subquery, correlated: true",
    "scalar subquery, correlated: false",
    "grouping rollup",
    "grouping cube",
    "grouping sets",
];

/// Everything that has to be planned.
fn wanted() -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = FORMS.iter().map(|form| (*form).to_owned()).collect();
    let mut add = |before: &str, names: &[&str]| {
        wanted.extend(names.iter().map(|name| format!("{before} {name}")));
    };
    add("words", WORDS);
    add("operator", plan::ALLOWED_OPERATORS);
    add("expression", plan::ALLOWED_EXPRESSIONS);
    let binary: Vec<String> = plan::ALLOWED_BINARY
        .iter()
        .map(|op| format!("{op:?}"))
        .collect();
    add(
        "binary",
        &binary.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    add("scalar", functions::INFALLIBLE_SCALAR);
    add("scalar", functions::FALLIBLE_SCALAR);
    add("aggregate", functions::AGGREGATES);
    add("aggregate", functions::ORDERED_AGGREGATES);
    // By that name the other functions over a window are no aggregates, and `grouping` is for keys alone.
    let over_windows = functions::AGGREGATES.iter().copied();
    let over_windows: Vec<&str> = over_windows.filter(|name| *name != "grouping").collect();
    add("window of aggregate", &over_windows);
    let mut moving = over_windows.clone();
    moving.retain(|name| !ONLY_GROWING.contains(name));
    add("moving window of aggregate", &moving);
    add("window", functions::WINDOWS);
    add("window", functions::ORDERED_WINDOWS);
    let types = [
        DataType::Utf8View,
        DataType::Int64,
        DataType::Decimal128(20, 4),
        DataType::Float64,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Boolean,
    ];
    for from in &types {
        for to in types.iter().filter(|to| can_cast_types(from, to)) {
            let (from, to) = (kind(from).unwrap(), kind(to).unwrap());
            if from != to && !UNPLANNED_CASTS.contains(&(from, to)) {
                wanted.insert(format!("CAST {from} to {to}"));
                wanted.insert(format!("TRY_CAST {from} to {to}"));
            }
        }
    }
    wanted
}

/// Aggregates that the engine cannot take a value back from, so that it refuses frames that move.
const ONLY_GROWING: &[&str] = &["bit_and", "bit_or", "bool_and", "bool_or"];

/// Casts that a kernel has and the planner does not.
const UNPLANNED_CASTS: &[(&str, &str)] = &[];

fn memory_tables(views: &[(String, View)]) -> Vec<(String, Arc<dyn TableProvider>)> {
    let tables = views.iter().map(|(name, view)| {
        let batch = view.batch();
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
        (name.clone(), Arc::new(table) as Arc<dyn TableProvider>)
    });
    tables.collect()
}

/// A function that is allowed and never drawn would be one that no property speaks of.
#[test]
fn the_grammar_reaches_every_operator_and_every_allowed_function() {
    let (mut planned, mut statements, mut refused) = (Planned::default(), 0, BTreeMap::new());
    for seed in 0_u64.. {
        if statements >= STATEMENTS {
            break;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let views = views(&world);
        for _ in 0..PER_WORLD {
            let Some(mut grammar) = grammar(&views, &mut rng) else {
                break;
            };
            let sql = grammar.statement();
            statements += 1;
            let parsed = session::parse(&sql);
            let made =
                parsed.and_then(|query| session::plan_as_written(&query, memory_tables(&views)));
            match made {
                Ok((plan, _)) => planned.statement(&sql, &plan),
                Err(error) => *refused.entry(error.to_string()).or_insert(0) += 1,
            }
        }
    }
    let count: u32 = refused.values().sum();
    let mut often: Vec<_> = refused.into_iter().collect();
    often.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    often.truncate(12);
    println!("{count} of {statements} statements cannot be planned; most often: {often:#?}");
    let mut seldom: Vec<_> = wanted()
        .into_iter()
        .filter_map(|what| Some((*planned.0.get(&what)?, what)))
        .collect();
    seldom.sort();
    seldom.truncate(12);
    println!("planned most seldom: {seldom:?}");
    let missing: Vec<_> = wanted()
        .into_iter()
        .filter(|what| !planned.0.contains_key(what))
        .collect();
    assert!(missing.is_empty(), "never planned: {missing:#?}");
    assert!(
        count as usize * 10 < statements,
        "too many cannot be planned"
    );
}
