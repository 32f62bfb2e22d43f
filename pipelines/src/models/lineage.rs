//! Lineage: which source columns each output column of a statement depends on, and what decides about its rows.
//!
//! Read from the logical plan as it was written, before any optimiser, so that nothing is lost. For every operator the
//! rules say which **parents** an output column has, and which parents its **rows** have. A parent is a column of a
//! dataset, or the *rows* of a dataset: that and how many there are.
//!
//! What is promised, for a statement whose answer is shown to have a unique key ([`Relation::unique`]):
//! - **Values.** Change anything of the sources that is not a parent of column `c`: in every row of the answer that is
//!   there before and after (by its key), `c` is the same.
//! - **Rows.** Change anything that is neither a parent of the rows nor of a key column: the same rows are there.
//!
//! Without a key the two fall together: what is a parent neither of `c` nor of the rows leaves the values of `c`, taken
//! as a multiset, the same. Both are property-tested on random statements.
//!
//! The rules err on the side of more parents. Where conditions count for values, and why:
//!
//! | operator | parents of its columns | parents of its rows |
//! |---|---|---|
//! | scan of a dataset | the column | the dataset's rows, the dates of its disclosure window |
//! | projection | every column in the expression, conditions of CASE included | – |
//! | filter | – (it removes rows, it chooses no values: every row has a key already) | the predicate |
//! | aggregate | arguments, FILTER, ORDER BY; **the rows of its input, conditions below included, and the grouping columns**: they say which rows a value is made from | those of the input, and the grouping columns; none without grouping: there is always one row |
//! | window function | arguments, partition, order; **the rows of its input** | – |
//! | inner join | the condition | both inputs', the condition |
//! | outer join | on the side that may be absent: **the condition and the rows of that side**, which say whether there is a value or NULL | those of the side that stays; the other's and the condition only where that could multiply rows |
//! | semi, anti join | – | both inputs', the condition |
//! | union | those of every branch, by position | every branch's |
//! | distinct | – (`ON`: the columns and the order that choose) | every column |
//! | limit | – | every column, and the rows |
//! | subquery in an expression | its columns and its rows | – |
//!
//! A left join to one row per key (an aggregate grouped by the joined column) therefore leaves the left side's columns
//! and rows free of the right side's parents: that is what keeps a product with one sensitive column useful.
//!
//! The same walk finds out whether rows of an answer are each made from rows of **one enterprise alone**
//! ([`Relation::strays`]): every join, grouping, window and distinct must go by the enterprise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, Result, plan_err};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, Distinct, DistinctOn, Expr, Join, LogicalPlan, Operator, TableScan, Union, Window,
};
use qihui_catalog::contract::USCC_COLUMN;
use qihui_catalog::{Contract, DatasetId};
use serde::Serialize;

/// How many unique keys of one relation are kept in mind.
const MAX_KEYS: usize = 8;

/// Something of a dataset that a value or a row depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parent {
    /// Which rows there are.
    Rows(DatasetId),
    /// A column.
    Column(DatasetId, String),
}

impl Parent {
    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &DatasetId {
        match self {
            Self::Rows(dataset) | Self::Column(dataset, _) => dataset,
        }
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(dataset) => write!(f, "rows of {dataset}"),
            Self::Column(dataset, column) => write!(f, "{dataset}.{column}"),
        }
    }
}

impl Serialize for Parent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parents, each once.
pub type Parents = BTreeSet<Parent>;

/// What is known of the rows that an operator gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relation {
    /// The parents of each column.
    pub columns: Vec<Parents>,
    /// The parents of the rows: what decides which there are and how many.
    pub rows: Parents,
    /// Sets of columns that no two rows agree in; as many as were found.
    pub unique: Vec<BTreeSet<usize>>,
    /// The columns that hold the code of the one enterprise that a row was made from.
    pub enterprise: BTreeSet<usize>,
    /// Whether any dataset was read.
    pub reads: bool,
    /// Why a row may be made from rows of several enterprises; none: it is not.
    pub strays: Vec<String>,
}

impl Relation {
    /// Whether no two rows agree in `columns`.
    #[must_use]
    pub fn is_unique_by(&self, columns: &BTreeSet<usize>) -> bool {
        self.unique.iter().any(|key| key.is_subset(columns))
    }

    fn stray(&mut self, why: impl Into<String>) {
        let why = why.into();
        if !self.strays.contains(&why) {
            self.strays.push(why);
        }
    }
}

/// The lineage of a statement.
///
/// # Errors
/// An operator of the plan is not known here.
pub fn lineage(plan: &LogicalPlan, contracts: &BTreeMap<DatasetId, &Contract>) -> Result<Relation> {
    Walk { contracts }.relation(plan, &[])
}

/// An outer query that a subquery may refer to.
type Outer<'a> = (&'a Relation, &'a DFSchema);

struct Walk<'a> {
    contracts: &'a BTreeMap<DatasetId, &'a Contract>,
}

fn all(parents: &[Parents]) -> Parents {
    parents.iter().flatten().cloned().collect()
}

fn untraced() -> DataFusionError {
    DataFusionError::Plan("a column cannot be traced".to_owned())
}

/// The column that an expression is, aliases aside.
fn plain(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => plain(&alias.expr),
        _ => None,
    }
}

/// For each column of `schema` that is given on unchanged, where it is first found among `exprs`.
fn images(exprs: &[Expr], schema: &DFSchema) -> BTreeMap<usize, usize> {
    let mut images = BTreeMap::new();
    for (at, expr) in exprs.iter().enumerate() {
        if let Some(from) = plain(expr).and_then(|column| schema.maybe_index_of_column(column)) {
            images.entry(from).or_insert(at);
        }
    }
    images
}

fn mapped(set: &BTreeSet<usize>, images: &BTreeMap<usize, usize>) -> Option<BTreeSet<usize>> {
    set.iter().map(|from| images.get(from).copied()).collect()
}

impl Walk<'_> {
    fn relation(&self, plan: &LogicalPlan, outer: &[Outer<'_>]) -> Result<Relation> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan, outer),
            LogicalPlan::Projection(projection) => {
                let input = self.relation(&projection.input, outer)?;
                self.projection(input, projection.input.schema(), &projection.expr, outer)
            }
            LogicalPlan::Filter(filter) => {
                let mut input = self.relation(&filter.input, outer)?;
                let of =
                    self.parents(&filter.predicate, &mut input, filter.input.schema(), outer)?;
                input.rows.extend(of);
                Ok(input)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate, outer),
            LogicalPlan::Window(window) => self.window(window, outer),
            LogicalPlan::Join(join) => self.join(join, outer),
            LogicalPlan::Union(union) => self.union(union, outer),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let mut input = self.relation(input, outer)?;
                input.rows.extend(all(&input.columns));
                input.unique.push((0..input.columns.len()).collect());
                if input.reads && input.enterprise.is_empty() {
                    input.stray("DISTINCT without the enterprise among its columns");
                }
                Ok(input)
            }
            LogicalPlan::Distinct(Distinct::On(on)) => self.distinct_on(on, outer),
            LogicalPlan::Limit(limit) => {
                let mut input = self.relation(&limit.input, outer)?;
                input.rows.extend(all(&input.columns));
                input.stray("LIMIT");
                Ok(input)
            }
            LogicalPlan::Sort(sort) => self.relation(&sort.input, outer),
            LogicalPlan::SubqueryAlias(alias) => self.relation(&alias.input, outer),
            LogicalPlan::Subquery(subquery) => self.relation(&subquery.subquery, outer),
            LogicalPlan::EmptyRelation(empty) => Ok(Relation {
                columns: vec![Parents::new(); empty.schema.fields().len()],
                unique: vec![BTreeSet::new()],
                ..Relation::default()
            }),
            LogicalPlan::Values(values) => Ok(Relation {
                columns: vec![Parents::new(); values.schema.fields().len()],
                ..Relation::default()
            }),
            _ => plan_err!("an operator of the statement is not known to lineage"),
        }
    }

    fn scan(&self, scan: &TableScan, outer: &[Outer<'_>]) -> Result<Relation> {
        let name = scan.table_name.table();
        let Some((dataset, contract)) = self.contracts.get_key_value(name) else {
            return plan_err!("there is no dataset `{name}`");
        };
        let column = |name: &str| Parent::Column(dataset.clone(), name.to_owned());
        let fields = scan.projected_schema.fields();
        let mut rows = Parents::from([Parent::Rows(dataset.clone())]);
        if let Some(window) = &contract.window {
            let years = window.max_years_after.iter().map(|(column, _)| column);
            let dates = window.from.iter().chain(&window.until).chain(years);
            rows.extend(dates.map(|name| column(name)));
        }
        let at = |name: &String| fields.iter().position(|field| field.name() == name);
        let key: Option<BTreeSet<usize>> = contract.key.iter().map(at).collect();
        let mut relation = Relation {
            columns: fields
                .iter()
                .map(|field| Parents::from([column(field.name())]))
                .collect(),
            rows,
            unique: key.into_iter().collect(),
            enterprise: at(&USCC_COLUMN.to_owned()).into_iter().collect(),
            reads: true,
            strays: Vec::new(),
        };
        for filter in &scan.filters {
            let of = self.parents(filter, &mut relation, &scan.projected_schema, outer)?;
            relation.rows.extend(of);
        }
        Ok(relation)
    }

    fn projection(
        &self,
        mut input: Relation,
        schema: &DFSchema,
        exprs: &[Expr],
        outer: &[Outer<'_>],
    ) -> Result<Relation> {
        let mut columns = Vec::with_capacity(exprs.len());
        for expr in exprs {
            columns.push(self.parents(expr, &mut input, schema, outer)?);
        }
        let images = images(exprs, schema);
        let kept = |(at, expr): (usize, &Expr)| {
            let from = schema.maybe_index_of_column(plain(expr)?)?;
            input.enterprise.contains(&from).then_some(at)
        };
        Ok(Relation {
            columns,
            unique: input
                .unique
                .iter()
                .filter_map(|key| mapped(key, &images))
                .collect(),
            enterprise: exprs.iter().enumerate().filter_map(kept).collect(),
            ..input
        })
    }

    fn aggregate(&self, aggregate: &Aggregate, outer: &[Outer<'_>]) -> Result<Relation> {
        let schema = aggregate.input.schema();
        let mut input = self.relation(&aggregate.input, outer)?;
        let (mut columns, mut groups) = (Vec::new(), Parents::new());
        let mut enterprise = BTreeSet::new();
        for (at, expr) in aggregate.group_expr.iter().enumerate() {
            if matches!(expr, Expr::GroupingSet(_)) {
                return plan_err!("ROLLUP, CUBE and GROUPING SETS are not known to lineage");
            }
            let from = plain(expr).and_then(|column| schema.maybe_index_of_column(column));
            if from.is_some_and(|from| input.enterprise.contains(&from)) {
                enterprise.insert(at);
            }
            let of = self.parents(expr, &mut input, schema, outer)?;
            groups.extend(of.iter().cloned());
            columns.push(of);
        }
        if input.reads && enterprise.is_empty() {
            input.stray("an aggregate that is not grouped by the enterprise");
        }
        for expr in &aggregate.aggr_expr {
            let mut of = self.parents(expr, &mut input, schema, outer)?;
            of.extend(input.rows.iter().chain(&groups).cloned());
            columns.push(of);
        }
        let grouped = aggregate.group_expr.len();
        let rows = match grouped {
            0 => Parents::new(),
            _ => input.rows.union(&groups).cloned().collect(),
        };
        Ok(Relation {
            columns,
            rows,
            unique: vec![(0..grouped).collect()],
            enterprise,
            reads: input.reads,
            strays: input.strays,
        })
    }

    fn window(&self, window: &Window, outer: &[Outer<'_>]) -> Result<Relation> {
        let schema = window.input.schema();
        let mut input = self.relation(&window.input, outer)?;
        for expr in &window.window_expr {
            let mut partitioned = true;
            expr.apply(|expr| {
                if let Expr::WindowFunction(function) = expr {
                    let by_enterprise = |expr: &Expr| {
                        plain(expr)
                            .and_then(|column| schema.maybe_index_of_column(column))
                            .is_some_and(|from| input.enterprise.contains(&from))
                    };
                    partitioned &= function.params.partition_by.iter().any(by_enterprise);
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            if !partitioned && input.reads {
                input.stray("a window that is not partitioned by the enterprise");
            }
            let mut of = self.parents(expr, &mut input, schema, outer)?;
            of.extend(input.rows.iter().cloned());
            input.columns.push(of);
        }
        Ok(input)
    }

    fn distinct_on(&self, on: &DistinctOn, outer: &[Outer<'_>]) -> Result<Relation> {
        let schema = on.input.schema();
        let mut input = self.relation(&on.input, outer)?;
        let (mut chosen, mut keys) = (input.rows.clone(), Parents::new());
        let mut by_enterprise = false;
        for expr in &on.on_expr {
            keys.extend(self.parents(expr, &mut input, schema, outer)?);
            let from = plain(expr).and_then(|column| schema.maybe_index_of_column(column));
            by_enterprise |= from.is_some_and(|from| input.enterprise.contains(&from));
        }
        for sort in on.sort_expr.iter().flatten() {
            chosen.extend(self.parents(&sort.expr, &mut input, schema, outer)?);
        }
        chosen.extend(keys.iter().cloned());
        if input.reads && !by_enterprise {
            input.stray("DISTINCT ON without the enterprise");
        }
        input.unique.clear();
        let mut given = self.projection(input, schema, &on.select_expr, outer)?;
        let of_on = |expr: &Expr| {
            on.select_expr
                .iter()
                .position(|given| plain_same(given, expr))
        };
        given.unique.extend(
            on.on_expr
                .iter()
                .map(of_on)
                .collect::<Option<BTreeSet<_>>>(),
        );
        for column in &mut given.columns {
            column.extend(chosen.iter().cloned());
        }
        given.rows.extend(keys);
        Ok(given)
    }

    fn union(&self, union: &Union, outer: &[Outer<'_>]) -> Result<Relation> {
        let mut whole: Option<Relation> = None;
        for input in &union.inputs {
            let branch = self.relation(input, outer)?;
            whole = Some(match whole {
                None => branch,
                Some(mut whole) => {
                    for (column, of) in whole.columns.iter_mut().zip(branch.columns) {
                        column.extend(of);
                    }
                    whole.rows.extend(branch.rows);
                    whole.enterprise = &whole.enterprise & &branch.enterprise;
                    whole.reads |= branch.reads;
                    for why in branch.strays {
                        whole.stray(why);
                    }
                    whole
                }
            });
        }
        let mut whole = whole.unwrap_or_default();
        if union.inputs.len() > 1 {
            whole.unique.clear();
        }
        Ok(whole)
    }

    fn join(&self, join: &Join, outer: &[Outer<'_>]) -> Result<Relation> {
        let left = self.relation(&join.left, outer)?;
        let right = self.relation(&join.right, outer)?;
        let width = left.columns.len();
        let (left_schema, right_schema) = (join.left.schema(), join.right.schema());
        let mut both = Relation {
            columns: left.columns.iter().chain(&right.columns).cloned().collect(),
            reads: left.reads || right.reads,
            strays: left.strays.clone(),
            ..Relation::default()
        };
        right.strays.iter().for_each(|why| both.stray(why.clone()));
        let both_schema = left_schema.join(right_schema)?;
        let mut condition = Parents::new();
        let mut equal = Vec::new();
        let conjuncts = join.filter.iter().flat_map(split_conjunction);
        for conjunct in conjuncts {
            condition.extend(self.parents(conjunct, &mut both, &both_schema, outer)?);
            if let Expr::BinaryExpr(equality) = conjunct
                && equality.op == Operator::Eq
            {
                equal.push((equality.left.as_ref(), equality.right.as_ref()));
            }
        }
        for (l, r) in &join.on {
            condition.extend(self.parents(l, &mut both, &both_schema, outer)?);
            condition.extend(self.parents(r, &mut both, &both_schema, outer)?);
            equal.push((l, r));
        }
        let mut pairs = Pairs::default();
        for (a, b) in equal {
            let at =
                |expr| plain(expr).and_then(|column| both_schema.maybe_index_of_column(column));
            match (at(a), at(b)) {
                (Some(l), Some(r)) if l < width && r >= width => pairs.add(l, r - width),
                (Some(r), Some(l)) if l < width && r >= width => pairs.add(l, r - width),
                _ => {}
            }
        }
        let by_enterprise = pairs
            .pairs
            .iter()
            .any(|(l, r)| left.enterprise.contains(l) && right.enterprise.contains(r));
        if left.reads && right.reads && !by_enterprise {
            both.stray("a join that is not by the enterprise");
        }
        combine(join.join_type, [&left, &right], &pairs, &condition, both)
    }

    /// The parents of an expression over `input`.
    fn parents(
        &self,
        expr: &Expr,
        input: &mut Relation,
        schema: &DFSchema,
        outer: &[Outer<'_>],
    ) -> Result<Parents> {
        let mut parents = Parents::new();
        let mut subqueries = Vec::new();
        expr.apply(|expr| {
            match expr {
                Expr::Column(column) => {
                    let at = schema.maybe_index_of_column(column);
                    let of = at
                        .and_then(|at| input.columns.get(at))
                        .ok_or_else(untraced)?;
                    parents.extend(of.iter().cloned());
                }
                Expr::OuterReferenceColumn(_, column) => {
                    parents.extend(referenced(column, outer)?.iter().cloned());
                }
                Expr::ScalarSubquery(subquery) => subqueries.push((subquery, true)),
                Expr::InSubquery(within) => subqueries.push((&within.subquery, true)),
                Expr::SetComparison(comparison) => subqueries.push((&comparison.subquery, true)),
                Expr::Exists(exists) => subqueries.push((&exists.subquery, false)),
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        if subqueries.is_empty() {
            return Ok(parents);
        }
        let mut found = Vec::with_capacity(subqueries.len());
        {
            let outer: Vec<Outer<'_>> = outer.iter().copied().chain([(&*input, schema)]).collect();
            for (subquery, values) in subqueries {
                found.push((self.relation(&subquery.subquery, &outer)?, values));
            }
        }
        for (relation, values) in found {
            if values {
                parents.extend(all(&relation.columns));
            }
            parents.extend(relation.rows);
            for why in relation.strays {
                input.stray(why);
            }
            if relation.reads {
                input.stray("a subquery inside an expression");
            }
        }
        Ok(parents)
    }
}

fn plain_same(a: &Expr, b: &Expr) -> bool {
    match (plain(a), plain(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// The parents of a column of an enclosing query, looked for from the inside out.
fn referenced<'a>(column: &Column, outer: &[Outer<'a>]) -> Result<&'a Parents> {
    outer
        .iter()
        .rev()
        .find_map(|(relation, schema)| {
            let at = schema.maybe_index_of_column(column)?;
            relation.columns.get(at)
        })
        .ok_or_else(untraced)
}

/// The columns that a join holds equal.
#[derive(Default)]
struct Pairs {
    pairs: Vec<(usize, usize)>,
    left: BTreeSet<usize>,
    right: BTreeSet<usize>,
}

impl Pairs {
    fn add(&mut self, left: usize, right: usize) {
        self.pairs.push((left, right));
        self.left.insert(left);
        self.right.insert(right);
    }
}

/// The rows of a join of two relations, of which `both` has the columns.
fn combine(
    join_type: JoinType,
    [left, right]: [&Relation; 2],
    pairs: &Pairs,
    condition: &Parents,
    mut both: Relation,
) -> Result<Relation> {
    let width = left.columns.len();
    let shifted = |set: &BTreeSet<usize>| set.iter().map(|at| at + width).collect::<BTreeSet<_>>();
    // At most one row of the other side meets each row of this one.
    let (one_right, one_left) = (
        right.is_unique_by(&pairs.right),
        left.is_unique_by(&pairs.left),
    );
    let everything = || -> Parents {
        let rows = left.rows.iter().chain(&right.rows).chain(condition);
        rows.cloned().collect()
    };
    let (left_optional, right_optional) = match join_type {
        JoinType::Inner => (false, false),
        JoinType::Left => (false, true),
        JoinType::Right => (true, false),
        JoinType::Full => (true, true),
        JoinType::LeftSemi | JoinType::LeftAnti => return Ok(half(left, everything(), both)),
        JoinType::RightSemi | JoinType::RightAnti => return Ok(half(right, everything(), both)),
        JoinType::LeftMark | JoinType::RightMark => {
            return plan_err!("a mark join is not known to lineage");
        }
    };
    for (at, column) in both.columns.iter_mut().enumerate() {
        let (optional, other_by_one) = if at < width {
            (left_optional, one_left)
        } else {
            (right_optional, one_right)
        };
        // Which row is met is said by the condition wherever that row is known by the other side's key, and in an
        // inner join that is both ways round.
        if optional || (other_by_one && !(left_optional || right_optional)) {
            column.extend(condition.iter().cloned());
        }
        if optional {
            let side = if at < width { left } else { right };
            column.extend(side.rows.iter().cloned());
        }
    }
    both.rows = match (left_optional, right_optional) {
        (false, true) if one_right => left.rows.clone(),
        (true, false) if one_left => right.rows.clone(),
        _ => everything(),
    };
    let mut unique = Vec::new();
    if one_right && !left_optional {
        unique.extend(left.unique.iter().cloned());
    }
    if one_left && !right_optional {
        unique.extend(right.unique.iter().map(shifted));
    }
    // A row of a full join that met none has nulls where a key of nulls may stand as well.
    if !(left_optional && right_optional) {
        for key in &left.unique {
            unique.extend(right.unique.iter().map(|other| key | &shifted(other)));
        }
    }
    unique.truncate(MAX_KEYS);
    both.unique = unique;
    both.enterprise = match (left_optional, right_optional) {
        (false, false) => &left.enterprise | &shifted(&right.enterprise),
        (false, true) => left.enterprise.clone(),
        (true, false) => shifted(&right.enterprise),
        (true, true) => {
            both.stray("a full join");
            BTreeSet::new()
        }
    };
    Ok(both)
}

/// A join of which only one side is given on.
fn half(side: &Relation, rows: Parents, both: Relation) -> Relation {
    Relation {
        rows,
        strays: both.strays,
        reads: both.reads,
        ..side.clone()
    }
}
