//! From a model to its product's contract: types, levels, window.
//!
//! - **A column is as restricted as its most restricted parent** ([`super::lineage`]), where the rows of a dataset count
//!   with its row level, and a parent that its own contract opens row by row (`public_when`) with its full level: the
//!   product's row does not say whose flag was set.
//! - **A row is as restricted as what decides that it is there**, and never less than its key, its enterprise, its event
//!   date and its disclosure window.
//! - A recorded declassification lowers one column of one version of one model.
//! - A column of level L4 does not exist in any table, so it can be nobody's parent: naming one is refused.
//! - Refused as well: what depends on when it is asked (`now()`), what is not made of rows of one enterprise alone (one
//!   enterprise's grant would open what another's data say), and an answer without a provably unique key.
//!
//! **Windows.** Rows outside a dataset's disclosure window on the day of a build are not read. A product with such an
//! input gets the column `shown_until`: the first day on which a row of this enterprise that was read leaves its window.
//! It is the product's own window: a row that is not built again by then disappears, it does not tell on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use qihui_catalog::contract::USCC_COLUMN;
use qihui_catalog::problem::codes;
use qihui_catalog::{
    BUILD_COLUMN, Catalog, CatalogErrors, CodeListRef, Column, ColumnType, Contract, DatasetId,
    DisclosureWindow, Level, Model, ModelColumn, Partition, Problem, SHOWN_UNTIL_COLUMN, Unit,
};
use qihui_query::QueryError;
use qihui_query::session::{self, ParsedQuery};
use qihui_warehouse::{NO_COLUMN, incoming_schema};
use serde::Serialize;

use super::lineage::{Parent, Parents, lineage};

/// Where a level comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The level in force.
    pub level: Level,
    /// The level that the parents give.
    pub inherited: Level,
    /// The parents that give it; none at L1.
    pub because_of: Parents,
    /// Every parent.
    pub parents: Parents,
    /// The declassification that lowers it.
    pub declassified_by: Option<String>,
}

/// A product: a model with everything that follows from it.
#[derive(Debug, Clone)]
pub struct Product {
    /// The model.
    pub model: Arc<Model>,
    /// The contract of the product.
    pub contract: Contract,
    /// Why each column has its level, in the order of the contract.
    pub columns: Vec<(String, Reason)>,
    /// Why the rows have theirs.
    pub rows: Reason,
    /// The datasets that it is made from.
    pub inputs: BTreeSet<DatasetId>,
    /// The statement, read.
    pub(crate) query: ParsedQuery,
}

/// The catalogue with the contracts of all its products.
///
/// # Errors
/// Every model that cannot be a product, with its file and the reason.
pub fn complete(mut catalog: Catalog) -> Result<Catalog, CatalogErrors> {
    let mut problems = Vec::new();
    for model in in_order(&catalog, &mut problems) {
        match derive(&catalog, &model) {
            Ok(product) => catalog = catalog.with_product(product.contract),
            Err(errors) => problems.extend(errors.into_problems()),
        }
    }
    CatalogErrors::from_problems(problems).map_or(Ok(catalog), Err)
}

/// The models of a catalogue, each after those whose products it reads.
#[must_use]
pub fn build_order(catalog: &Catalog) -> Vec<DatasetId> {
    let models = in_order(catalog, &mut Vec::new());
    models.into_iter().map(|model| model.name.clone()).collect()
}

fn in_order(catalog: &Catalog, problems: &mut Vec<Problem>) -> Vec<Arc<Model>> {
    let mut waiting: Vec<(Arc<Model>, BTreeSet<String>)> = Vec::new();
    for model in catalog.models.values() {
        match tables_of(model) {
            Ok((_, tables)) => waiting.push((Arc::clone(model), tables)),
            Err(errors) => problems.extend(errors.into_problems()),
        }
    }
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let names: BTreeSet<String> = waiting
            .iter()
            .map(|(model, _)| model.name.to_string())
            .collect();
        let (ready, rest): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|(_, tables)| tables.is_disjoint(&names));
        if ready.is_empty() {
            let reason = "it is made from itself, by way of the products it reads";
            problems.extend(rest.iter().map(|(model, _)| problem(model, "", reason)));
            break;
        }
        ordered.extend(ready.into_iter().map(|(model, _)| model));
        waiting = rest;
    }
    ordered
}

fn problem(model: &Model, path: &str, reason: impl Into<String>) -> Problem {
    Problem {
        file: format!("models/{}.sql", model.name),
        path: path.to_owned(),
        reason: reason.into(),
        code: codes::MODEL,
    }
}

fn refused(model: &Model, reason: impl Into<String>) -> CatalogErrors {
    problem(model, "sql", reason).into()
}

fn tables_of(model: &Model) -> Result<(ParsedQuery, BTreeSet<String>), CatalogErrors> {
    let query = session::parse(&model.sql).map_err(|error| refused(model, error.to_string()))?;
    if query.explain {
        return Err(refused(model, "write a SELECT, not EXPLAIN"));
    }
    let tables = query.tables.iter().cloned().collect();
    Ok((query, tables))
}

/// Derives a product from its model. The contracts of the products it reads must be in the catalogue.
///
/// # Errors
/// What keeps the model from being a product.
pub fn derive(catalog: &Catalog, model: &Arc<Model>) -> Result<Product, CatalogErrors> {
    let (query, tables) = tables_of(model)?;
    let mut contracts: BTreeMap<DatasetId, &Contract> = BTreeMap::new();
    let mut unknown = Vec::new();
    for name in &tables {
        match name
            .parse()
            .ok()
            .and_then(|id: DatasetId| catalog.contract(&id))
        {
            Some(contract) => {
                contracts.insert(contract.id.clone(), contract);
            }
            None => unknown.push(problem(
                model,
                "sql",
                format!("there is no dataset `{name}`"),
            )),
        }
    }
    if let Some(errors) = CatalogErrors::from_problems(unknown) {
        return Err(errors);
    }
    if contracts.is_empty() {
        return Err(refused(model, "it reads no dataset"));
    }
    let (plan, answer) = session::plan_as_written(&query, empty_tables(&contracts))
        .map_err(|error| refused(model, spoken(&error, &contracts)))?;
    refuse_time(model, &plan)?;
    Derivation {
        catalog,
        model,
        contracts: &contracts,
    }
    .product(query, &plan, &answer)
}

fn empty_tables(
    contracts: &BTreeMap<DatasetId, &Contract>,
) -> Vec<(String, Arc<dyn TableProvider>)> {
    let table = |(dataset, contract): (&DatasetId, &&Contract)| {
        let schema = incoming_schema(contract);
        let landed = schema.fields().iter().filter(|f| f.name() != NO_COLUMN);
        let schema = Arc::new(Schema::new(landed.cloned().collect::<Vec<_>>()));
        let table: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(schema));
        (dataset.to_string(), table)
    };
    contracts.iter().map(table).collect()
}

/// The engine's refusal; that of a column which is never opened says so.
fn spoken(error: &QueryError, contracts: &BTreeMap<DatasetId, &Contract>) -> String {
    let QueryError::UnknownColumn { column } = error else {
        return error.to_string();
    };
    let never = contracts.values().find(|contract| {
        let known = contract.column(column);
        known.is_some_and(|known| known.level == Level::L4)
    });
    match never {
        Some(contract) => format!(
            "`{column}` of `{}` is of level L4: it is dropped at the door and can be part of nothing",
            contract.id
        ),
        None => error.to_string(),
    }
}

/// A product is a function of its inputs and the day of its build, not of the moment: refuses what is not.
fn refuse_time(model: &Model, plan: &LogicalPlan) -> Result<(), CatalogErrors> {
    let mut found: Option<String> = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(function) = expr
                    && function.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(function.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    match (walked, found) {
        (Ok(_), None) => Ok(()),
        (_, Some(name)) => Err(refused(
            model,
            format!("`{name}` depends on when it is asked: give the dates as columns instead"),
        )),
        (Err(_), None) => Err(refused(model, "the statement cannot be looked through")),
    }
}

struct Derivation<'a> {
    catalog: &'a Catalog,
    model: &'a Arc<Model>,
    contracts: &'a BTreeMap<DatasetId, &'a Contract>,
}

impl Derivation<'_> {
    fn product(
        &self,
        query: ParsedQuery,
        plan: &LogicalPlan,
        answer: &Schema,
    ) -> Result<Product, CatalogErrors> {
        let model = self.model;
        let relation = lineage(plan, self.contracts)
            .map_err(|error| refused(model, QueryError::from_planning(&error).to_string()))?;
        let names: Vec<&String> = answer.fields().iter().map(|field| field.name()).collect();
        let documented = self.documented(&names)?;
        let mut problems = Vec::new();
        for why in &relation.strays {
            let reason = format!(
                "{why}: a row of a product is made from rows of its own enterprise alone, so joins, groups and windows \
                 go by `{USCC_COLUMN}`"
            );
            problems.push(problem(model, "sql", reason));
        }
        let at = |name: &str| names.iter().position(|have| *have == name);
        if !at(USCC_COLUMN).is_some_and(|uscc| relation.enterprise.contains(&uscc)) {
            let reason = format!(
                "its column `{USCC_COLUMN}` must be the enterprise column of a dataset, unchanged and never null"
            );
            problems.push(problem(model, "sql", reason));
        }
        let key: Option<BTreeSet<usize>> = model.key.iter().map(|name| at(name)).collect();
        if !key.is_some_and(|key| relation.is_unique_by(&key)) {
            let reason = "it cannot be shown that no two rows agree in the key: group by the key, and join only what has \
                          one row for each";
            problems.push(problem(model, "key", reason));
        }
        if let Some(errors) = CatalogErrors::from_problems(problems) {
            return Err(errors);
        }
        let mut columns = Vec::with_capacity(names.len() + 2);
        let mut reasons = Vec::with_capacity(names.len() + 2);
        for ((name, parents), (field, known)) in names
            .iter()
            .zip(&relation.columns)
            .zip(answer.fields().iter().zip(&documented))
        {
            let reason = self.reason(name, parents.clone())?;
            columns.push(self.column(known, field.data_type(), reason.level)?);
            reasons.push(((*name).clone(), reason));
        }
        let rows = self.rows(&relation.rows, &reasons);
        self.own_columns(&rows, &mut columns, &mut reasons);
        let contract = self.contract(columns, rows.level)?;
        Ok(Product {
            model: Arc::clone(model),
            contract,
            columns: reasons,
            rows,
            inputs: self.contracts.keys().cloned().collect(),
            query,
        })
    }

    /// What the header says of each output column, in their order.
    fn documented(&self, names: &[&String]) -> Result<Vec<&ModelColumn>, CatalogErrors> {
        let (model, mut problems) = (self.model, Vec::new());
        let mut documented = Vec::with_capacity(names.len());
        for name in names {
            match model.columns.iter().find(|column| column.name == **name) {
                Some(column) => documented.push(column),
                None => {
                    let reason =
                        format!("the statement gives a column `{name}` that is not described");
                    problems.push(problem(model, "columns", reason));
                }
            }
        }
        for column in &model.columns {
            if !names.iter().any(|name| **name == column.name) {
                let at = format!("columns[{}]", column.name);
                problems.push(problem(model, &at, "the statement gives no such column"));
            }
        }
        CatalogErrors::from_problems(problems).map_or(Ok(documented), Err)
    }

    fn level_of(&self, parent: &Parent) -> Level {
        let contract = self.contracts.get(parent.dataset());
        let level = contract.and_then(|contract| match parent {
            Parent::Rows(_) => Some(contract.row_level),
            Parent::Column(_, name) => contract.column(name).map(|column| column.level),
        });
        // INVARIANT: every parent comes from these contracts; were one not to be found, nothing would be opened.
        level.unwrap_or(Level::L4)
    }

    /// The level that parents give, and those that give it.
    fn inherited(&self, parents: Parents) -> Reason {
        let levels = parents.iter().map(|parent| self.level_of(parent));
        let inherited = levels.max().unwrap_or(Level::L1);
        let decisive = |parent: &&Parent| self.level_of(parent) == inherited;
        let because_of = match inherited {
            Level::L1 => Parents::new(),
            _ => parents.iter().filter(decisive).cloned().collect(),
        };
        Reason {
            level: inherited,
            inherited,
            because_of,
            parents,
            declassified_by: None,
        }
    }

    /// The level of an output column, lowered if a declassification says so.
    fn reason(&self, name: &str, parents: Parents) -> Result<Reason, CatalogErrors> {
        let mut reason = self.inherited(parents);
        for rule in self.catalog.declassifications_of(self.model) {
            if rule.column != name {
                continue;
            }
            let refuse = |why: String| Problem {
                file: format!("declassifications/{}.yaml", rule.id),
                path: "level".to_owned(),
                reason: why,
                code: codes::RULE,
            };
            if reason.declassified_by.is_some() {
                let why = "another declassification lowers the same column".to_owned();
                return Err(refuse(why).into());
            }
            if rule.level >= reason.inherited {
                let why = format!(
                    "the column is of level {} by its parents: there is nothing to lower",
                    reason.inherited
                );
                return Err(refuse(why).into());
            }
            reason.level = rule.level;
            reason.declassified_by = Some(rule.id.clone());
        }
        Ok(reason)
    }

    fn window_parents(&self) -> Parents {
        let mut parents = Parents::new();
        for (dataset, contract) in self.contracts {
            let Some(window) = &contract.window else {
                continue;
            };
            let years = window.max_years_after.iter().map(|(column, _)| column);
            let dates = window.from.iter().chain(&window.until).chain(years);
            parents.extend(dates.map(|date| Parent::Column(dataset.clone(), date.clone())));
            parents.insert(Parent::Rows(dataset.clone()));
        }
        parents
    }

    fn is_windowed(&self) -> bool {
        self.contracts
            .values()
            .any(|contract| contract.window.is_some())
    }

    /// The level of a row: what decides that it is there and shown, and never less than what identifies it.
    fn rows(&self, rows: &Parents, reasons: &[(String, Reason)]) -> Reason {
        let mut reason = self.inherited(rows.union(&self.window_parents()).cloned().collect());
        let model = self.model;
        let identifying = |name: &String| {
            name == USCC_COLUMN
                || model.key.contains(name)
                || model.event_date.as_ref() == Some(name)
        };
        for (_, of) in reasons.iter().filter(|(name, _)| identifying(name)) {
            if of.level > reason.level {
                reason.because_of.clear();
                reason.level = of.level;
                reason.inherited = of.level;
            }
            if of.level == reason.level && of.level > Level::L1 {
                reason.because_of.extend(of.because_of.iter().cloned());
            }
            reason.parents.extend(of.parents.iter().cloned());
        }
        reason
    }

    /// The columns that the hub adds.
    fn own_columns(
        &self,
        rows: &Reason,
        columns: &mut Vec<Column>,
        reasons: &mut Vec<(String, Reason)>,
    ) {
        let own = |name: &str, title_cn: &str, description: &str, ty, level| Column {
            name: name.to_owned(),
            title_cn: title_cn.to_owned(),
            description: description.to_owned(),
            ty,
            nullable: name == SHOWN_UNTIL_COLUMN,
            level,
            public_when: None,
            code_list: None,
            quality: Vec::new(),
            unit: Unit::One,
        };
        if self.is_windowed() {
            let reason = self.inherited(self.window_parents());
            columns.push(own(
                SHOWN_UNTIL_COLUMN,
                "展示截止日",
                "The first day on which a record that the row was made from is no longer disclosed.",
                ColumnType::Date,
                reason.level,
            ));
            reasons.push((SHOWN_UNTIL_COLUMN.to_owned(), reason));
        }
        // The number of a build tells that something of the row changed, whatever it was, so it has every parent; and
        // no declassification of one column speaks about it.
        let every = reasons.iter().flat_map(|(_, of)| of.parents.iter());
        let every = every.chain(&rows.parents).cloned().collect();
        let reason = self.inherited(every);
        columns.push(own(
            BUILD_COLUMN,
            "生成批次",
            "The number of the build that last changed the row; orders the versions of a row.",
            ColumnType::Int64,
            reason.level,
        ));
        reasons.push((BUILD_COLUMN.to_owned(), reason));
    }

    fn column(
        &self,
        known: &ModelColumn,
        ty: &DataType,
        level: Level,
    ) -> Result<Column, CatalogErrors> {
        let model = self.model;
        let at = format!("columns[{}]", known.name);
        let Some(ty) = column_type(ty) else {
            let reason = format!(
                "is of type {ty}, which contracts do not know: cast it to text, a date, a boolean, an integer or a decimal"
            );
            return Err(problem(model, &at, reason).into());
        };
        let name = &known.name;
        let required = name == USCC_COLUMN || model.key.contains(name);
        let code_list = known.code_list.as_ref();
        Ok(Column {
            name: name.clone(),
            title_cn: known.title_cn.clone(),
            description: known.description.clone(),
            ty,
            nullable: !required,
            level,
            public_when: None,
            code_list: code_list.map(|list| CodeListRef {
                name: list.clone(),
                at: None,
            }),
            quality: Vec::new(),
            unit: known.unit,
        })
    }

    fn contract(&self, columns: Vec<Column>, row_level: Level) -> Result<Contract, CatalogErrors> {
        let model = self.model;
        let window = self.is_windowed().then(|| DisclosureWindow {
            until: vec![SHOWN_UNTIL_COLUMN.to_owned()],
            ..DisclosureWindow::default()
        });
        let contract = Contract {
            id: model.name.clone(),
            version: model.version.clone(),
            title_en: model.title_en.clone(),
            title_cn: model.title_cn.clone(),
            description: model.description.clone(),
            description_cn: model.description_cn.clone(),
            owner: model.owner.clone(),
            row_level,
            key: model.key.clone(),
            uscc: USCC_COLUMN.to_owned(),
            event_date: model.event_date.clone(),
            sequence: vec![BUILD_COLUMN.to_owned()],
            partition: Partition::None,
            window,
            freshness_days: model.freshness_days,
            feeds: Vec::new(),
            columns,
            hash: [0; 32],
        };
        contract.sealed().map_err(|errors| {
            let of_contract = |found: &Problem| {
                let reason = format!("its contract would break a rule: {}", found.reason);
                problem(model, &found.path, reason)
            };
            let problems = errors.problems().map(of_contract).collect();
            CatalogErrors::from_problems(problems).unwrap_or(errors)
        })
    }
}

/// The contract's type for a type of the engine; none: contracts have no such type.
fn column_type(ty: &DataType) -> Option<ColumnType> {
    Some(match ty {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::String,
        DataType::Date32 => ColumnType::Date,
        DataType::Boolean => ColumnType::Boolean,
        DataType::Int32 => ColumnType::Int32,
        DataType::Int64 => ColumnType::Int64,
        DataType::Decimal128(precision, scale) => ColumnType::Decimal {
            precision: *precision,
            scale: *scale,
        },
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
            ColumnType::Timestamp
        }
        _ => return None,
    })
}
