//! Building products, whole or only what changed.
//!
//! Promises:
//! - **A product is a function** of its model, the versions of its inputs and the day: built step by step or at once, it
//!   holds the same rows (but for the number of the build that last changed each).
//! - **Only what changed is built.** The enterprises of which a row of an input changed since the last build
//!   (`Warehouse::changes`), or entered or left a disclosure window since its day, are built anew; everything when the
//!   model is another, or when the log of an input no longer tells.
//! - **A killed build loses and repeats nothing.** A build goes by chunks of enterprises, each one commit with the
//!   number of its run. The last one says, in the same commit, what the table was built from; until then the table counts
//!   as built from what it was before, and the next build does the rest and finds the done part unchanged.
//! - **The gate knows by which rules the table was built** ([`STAMP_MARK`]) and refuses it while they are not those that
//!   are recorded. A build under other rules than before takes the mark away with its first commit.
//!
//! Limits: the enterprises of a chunk ([`BuildLimits::enterprises`]) and everything made of them are in memory at once.
//!
//! State, as marks on the product's table: `qihui.product.stamp`
//! ([`qihui_catalog::Catalog::product_stamp`]) and `qihui.product.state`: `{"v":1,"day","inputs":{dataset: version}}`,
//! version -1 for a table that does not exist.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Date32Array, RecordBatch};
use arrow::datatypes::Date32Type;
use qihui_catalog::contract::{USCC_COLUMN, years_after};
use qihui_catalog::{
    Catalog, Contract, DatasetId, Date, DisclosureWindow, EnterpriseNo, EnterpriseNumbers,
    SHOWN_UNTIL_COLUMN, Uscc,
};
use qihui_query::QueryError;
use qihui_query::whole::STAMP_MARK;
use qihui_warehouse::{LandError, Outcome, RunInfo, Table, Warehouse};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::derive::{self, Product};
use super::error::ModelError;
use super::read::{Reader, Source, schema_of, window_columns};
use super::rows::{Difference, Fault, difference, made_columns};

/// The mark on a product's table that says what it was built from.
const STATE_MARK: &str = "qihui.product.state";
/// The version of that mark's format.
const STATE_VERSION: u32 = 1;

/// What a build may use.
#[derive(Debug, Clone)]
pub struct BuildLimits {
    /// Enterprises of one chunk.
    pub enterprises: usize,
    /// Memory of the engine's operators, bytes.
    pub memory_bytes: usize,
    /// Spill files, bytes.
    pub spill_bytes: u64,
    /// Where they go.
    pub spill_dir: PathBuf,
    /// Threads.
    pub threads: usize,
}

impl BuildLimits {
    /// Chunks of this many enterprises keep a build of a hundred wide columns well under a gigabyte.
    pub const ENTERPRISES: usize = 32 << 10;
}

/// What a build needs.
#[derive(Clone)]
pub struct BuildContext {
    /// The catalogue, with the contracts of products ([`derive::complete`]).
    pub catalog: Arc<Catalog>,
    /// The tables.
    pub warehouse: Warehouse,
    /// The numbers of enterprises.
    pub numbers: Arc<dyn EnterpriseNumbers>,
    /// Today in Asia/Shanghai: the day as of which rows are disclosed.
    pub day: Date,
    /// What it may use.
    pub limits: BuildLimits,
}

/// How much was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: the table is built from what there is.
    UpToDate,
    /// The enterprises that changed.
    Incremental,
    /// All.
    Full,
}

/// What became of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct BuildCounts {
    /// Rows that were not there.
    pub inserted: u64,
    /// Rows that took the place of others.
    pub replaced: u64,
    /// Rows that are no longer there.
    pub retracted: u64,
    /// Rows that were built and are the same.
    pub unchanged: u64,
}

/// What a build did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildReport {
    /// The model.
    pub model: DatasetId,
    /// Its version.
    pub version: String,
    /// How much was built.
    pub mode: Mode,
    /// The day as of which.
    pub day: Date,
    /// The version of each input; -1: it does not exist.
    pub inputs: BTreeMap<DatasetId, i64>,
    /// The version of the product's table.
    pub table_version: i64,
    /// How many enterprises were built.
    pub enterprises: u64,
    /// What became of the rows.
    pub counts: BuildCounts,
}

/// One commit of a build, as the product's table keeps it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildFact {
    /// The number of the run.
    pub run: i64,
    /// The version of the product's table that it made.
    pub table_version: i64,
    /// What it was built from: model, mode, day, input versions, whether it was the last of its build.
    #[serde(flatten)]
    pub position: Value,
    /// What became of the rows.
    pub rows: Value,
}

/// What a table was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    v: u32,
    day: Date,
    inputs: BTreeMap<DatasetId, i64>,
}

/// Whose runs are numbered in the product's table.
#[must_use]
pub fn app_id(model: &DatasetId) -> String {
    format!("model/{model}")
}

/// The commits of builds after run `after`, oldest first, as far as the table's log still keeps them.
///
/// # Errors
/// The table cannot be read.
pub async fn build_facts(
    warehouse: &Warehouse,
    model: &DatasetId,
    after: i64,
) -> Result<Vec<BuildFact>, ModelError> {
    let runs = warehouse.runs(model, &app_id(model), after).await?;
    let fact = |commit: qihui_warehouse::RunCommit| BuildFact {
        run: commit.run,
        table_version: commit.version,
        position: commit.position,
        rows: commit.rows,
    };
    Ok(runs.into_iter().map(fact).collect())
}

/// Builds a product: what changed, or `whole`.
///
/// # Errors
/// There is no such model, it cannot be a product, its statement failed on a row, or a table could not be read or
/// written. What was committed before stays and is found by the next build.
pub async fn build(
    context: &BuildContext,
    model: &DatasetId,
    whole: bool,
) -> Result<BuildReport, ModelError> {
    let known = context.catalog.models.get(model);
    let known = known.ok_or_else(|| ModelError::Unknown(model.clone()))?;
    let product = derive::derive(&context.catalog, known)?;
    Box::pin(Build::open(context, product).await?.run(whole)).await
}

/// One build of one product.
struct Build<'a> {
    context: &'a BuildContext,
    product: Product,
    contract: Arc<Contract>,
    table: Table,
    reader: Reader,
    /// The inputs, at the versions that this build reads.
    sources: BTreeMap<DatasetId, Source>,
    /// The product as it stands.
    standing: Source,
    /// What the table was built from, if by the rules in force.
    before: Option<State>,
    /// Whether it was built by the rules in force.
    by_these_rules: bool,
    now: State,
    stamp: String,
}

/// The enterprises to build.
struct Plan {
    mode: Mode,
    enterprises: RoaringBitmap,
}

impl<'a> Build<'a> {
    async fn open(context: &'a BuildContext, product: Product) -> Result<Self, ModelError> {
        let BuildContext {
            catalog, warehouse, ..
        } = context;
        let model = &product.model.name;
        let failed = |source| ModelError::Failed {
            model: model.clone(),
            source,
        };
        let contract = catalog.contract(model);
        let contract = Arc::clone(contract.ok_or_else(|| ModelError::Unknown(model.clone()))?);
        let (mut sources, mut inputs) = (BTreeMap::new(), BTreeMap::new());
        for dataset in &product.inputs {
            let Some(of) = catalog.contract(dataset) else {
                return Err(ModelError::Unknown(dataset.clone()));
            };
            let snapshot = warehouse.snapshot(dataset).await?;
            let source = Source::of(warehouse, of, snapshot.as_ref()).await;
            inputs.insert(dataset.clone(), snapshot.map_or(-1, |s| s.version));
            sources.insert(dataset.clone(), source.map_err(failed)?);
        }
        let table = warehouse.table(&contract).await?;
        let snapshot = warehouse.snapshot(model).await?;
        let stamp = catalog.product_stamp(model).unwrap_or_default();
        let mark = |name| snapshot.as_ref().and_then(|snapshot| snapshot.mark(name));
        let by_these_rules = mark(STAMP_MARK) == Some(stamp.as_str());
        let before: Option<State> = mark(STATE_MARK)
            .and_then(|text| serde_json::from_str(text).ok())
            .filter(|state: &State| by_these_rules && state.v == STATE_VERSION);
        let standing = Source::of(warehouse, &contract, snapshot.as_ref()).await;
        Ok(Self {
            reader: Reader::new(&context.limits, context.day).map_err(failed)?,
            standing: standing.map_err(failed)?.undisclosed(),
            now: State {
                v: STATE_VERSION,
                day: context.day,
                inputs,
            },
            context,
            contract,
            table,
            sources,
            before,
            by_these_rules,
            stamp,
            product,
        })
    }

    fn model(&self) -> &DatasetId {
        &self.product.model.name
    }

    fn failed(&self, source: QueryError) -> ModelError {
        ModelError::Failed {
            model: self.model().clone(),
            source,
        }
    }

    fn fault(&self, fault: Fault) -> ModelError {
        match fault {
            Fault::Unsound(what) => ModelError::Unsound {
                model: self.model().clone(),
                what,
            },
            Fault::Kernel(error) => self.failed(QueryError::from_running(&error.into())),
        }
    }

    async fn run(self, whole: bool) -> Result<BuildReport, ModelError> {
        let plan = if whole { None } else { self.changed().await? };
        let plan = plan.unwrap_or_else(|| self.everything());
        let mut report = BuildReport {
            model: self.model().clone(),
            version: self.product.model.version.clone(),
            mode: plan.mode,
            day: self.now.day,
            inputs: self.now.inputs.clone(),
            table_version: self.standing.version.version,
            enterprises: plan.enterprises.len(),
            counts: BuildCounts::default(),
        };
        if plan.mode == Mode::UpToDate {
            return Ok(report);
        }
        let app = app_id(self.model());
        let mut run = self.table.last_run(&app).await?.unwrap_or(0);
        let mut chunks = chunks(&plan.enterprises, self.context.limits.enterprises).peekable();
        while let Some(chunk) = chunks.next() {
            run += 1;
            let last = chunks.peek().is_none();
            let landed = self.land(&chunk, run, plan.mode, last).await?;
            report.table_version = landed.0;
            report.counts.inserted += landed.1.inserted;
            report.counts.replaced += landed.1.replaced;
            report.counts.retracted += landed.1.retracted;
            report.counts.unchanged += landed.1.unchanged;
        }
        Ok(report)
    }

    fn everything(&self) -> Plan {
        let inputs = self.sources.values().map(Source::enterprises);
        Plan {
            mode: Mode::Full,
            enterprises: inputs.fold(self.standing.enterprises(), |all, of| all | of),
        }
    }

    /// The enterprises that may have changed since the last build; none: it cannot be told.
    async fn changed(&self) -> Result<Option<Plan>, ModelError> {
        let Some(before) = &self.before else {
            return Ok(None);
        };
        if *before == self.now {
            return Ok(Some(Plan {
                mode: Mode::UpToDate,
                enterprises: RoaringBitmap::new(),
            }));
        }
        let mut enterprises = RoaringBitmap::new();
        for (dataset, until) in &self.now.inputs {
            let Some(after) = before.inputs.get(dataset) else {
                return Ok(None);
            };
            let changes = self.context.warehouse.changes(dataset, *after, *until);
            match changes.await? {
                Some(changed) => enterprises |= changed,
                None => return Ok(None),
            }
        }
        if before.day != self.now.day {
            for source in self.sources.values() {
                if let Some(window) = &source.contract.window {
                    enterprises |= self.turned(source, window, before.day).await?;
                }
            }
        }
        Ok(Some(Plan {
            mode: Mode::Incremental,
            enterprises,
        }))
    }

    /// The enterprises with a row of whose window a day of beginning or end lies after the day of the last build and
    /// not after today. Not only those that are in another state now: a build in between may have been cut short.
    async fn turned(
        &self,
        source: &Source,
        window: &DisclosureWindow,
        before: Date,
    ) -> Result<RoaringBitmap, ModelError> {
        let rows = self.dates(&source.undisclosed(), window, None).await?;
        let mut codes = Vec::new();
        let (earlier, later) = (before.min(self.now.day), before.max(self.now.day));
        for row in 0..rows.count {
            let turns = |day: &Date| earlier < *day && *day <= later;
            if rows.days(window, row).any(|day| turns(&day)) {
                codes.extend(rows.code(row).and_then(|code| code.parse::<Uscc>().ok()));
            }
        }
        codes.sort_unstable();
        codes.dedup();
        let numbers = Arc::clone(&self.context.numbers);
        let found = tokio::task::spawn_blocking(move || numbers.lookup(&codes)).await;
        let found = found.map_err(|_| self.fault(INTERRUPTED))??;
        Ok(found.into_iter().flatten().map(|no| no.0).collect())
    }

    async fn dates(
        &self,
        source: &Source,
        window: &DisclosureWindow,
        enterprises: Option<&RoaringBitmap>,
    ) -> Result<DatedRows, ModelError> {
        let mut names = vec![USCC_COLUMN];
        names.extend(window_columns(window));
        let rows = self.reader.columns(source, enterprises, &names).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        DatedRows::of(&rows).map_err(|fault| self.fault(fault))
    }

    /// The numbers of a chunk's enterprises, by their codes.
    async fn numbers(&self, chunk: &RoaringBitmap) -> Result<HashMap<String, i32>, ModelError> {
        let wanted: Vec<EnterpriseNo> = chunk.iter().map(EnterpriseNo).collect();
        let numbers = Arc::clone(&self.context.numbers);
        let found = tokio::task::spawn_blocking(move || {
            let codes = numbers.uscc_of(&wanted)?;
            let pairs = codes
                .into_iter()
                .zip(wanted)
                .filter_map(|(code, no)| Some((code?.to_string(), no.0.cast_signed())));
            Ok::<_, ModelError>(pairs.collect())
        });
        found.await.map_err(|_| self.fault(INTERRUPTED))?
    }

    /// The rows that the product should hold of a chunk's enterprises.
    async fn made(&self, chunk: &RoaringBitmap) -> Result<RecordBatch, ModelError> {
        let names = made_columns(&self.contract);
        let given = names.iter().filter(|name| **name != SHOWN_UNTIL_COLUMN);
        let schema = schema_of(given.filter_map(|name| self.contract.column(name)));
        let query = &self.product.query;
        let rows = self
            .reader
            .answer(query, &self.sources, Some(chunk), &schema);
        let rows = rows.await.map_err(|error| self.failed(error))?;
        if !names.contains(&SHOWN_UNTIL_COLUMN) {
            return Ok(rows);
        }
        let ends = self.ends(chunk).await?;
        let codes = rows.column_by_name(USCC_COLUMN).cloned();
        let codes = codes.ok_or_else(|| self.fault(Fault::Unsound("a column is missing")))?;
        let end = |code: Option<&str>| {
            let end = ends.get(code?)?;
            Some(Date32Type::from_naive_date(*end))
        };
        let ends: Date32Array = codes.as_string::<i32>().iter().map(end).collect();
        let columns: Vec<ArrayRef> = rows
            .columns()
            .iter()
            .cloned()
            .chain([Arc::new(ends) as ArrayRef])
            .collect();
        let schema = schema_of(names.iter().filter_map(|name| self.contract.column(name)));
        RecordBatch::try_new(schema, columns).map_err(|error| self.fault(error.into()))
    }

    /// For each enterprise, the first day on which a row of it that is read is no longer disclosed.
    async fn ends(&self, chunk: &RoaringBitmap) -> Result<HashMap<String, Date>, ModelError> {
        let mut ends: HashMap<String, Date> = HashMap::new();
        for source in self.sources.values() {
            let Some(window) = &source.contract.window else {
                continue;
            };
            let rows = self.dates(source, window, Some(chunk)).await?;
            for row in 0..rows.count {
                if let (Some(code), Some(end)) = (rows.code(row), rows.end(window, row)) {
                    let first = ends.entry(code.to_owned()).or_insert(end);
                    *first = end.min(*first);
                }
            }
        }
        Ok(ends)
    }

    /// Builds and lands one chunk; the version it made.
    async fn land(
        &self,
        chunk: &RoaringBitmap,
        run: i64,
        mode: Mode,
        last: bool,
    ) -> Result<(i64, BuildCounts), ModelError> {
        let numbers = self.numbers(chunk).await?;
        let new = self.made(chunk).await?;
        let names = made_columns(&self.contract);
        let old = self.reader.columns(&self.standing, Some(chunk), &names);
        let old = old.await.map_err(|error| self.failed(error))?;
        let contract = Arc::clone(&self.contract);
        let compared =
            tokio::task::spawn_blocking(move || difference(&contract, &old, &new, &numbers, run));
        let compared = compared.await.map_err(|_| self.fault(INTERRUPTED))?;
        let Difference {
            incoming,
            unchanged,
        } = compared.map_err(|fault| self.fault(fault))?;
        let position = self.position(chunk, mode, last, unchanged);
        let info = RunInfo {
            app_id: app_id(self.model()),
            run,
            input_hash: hash_of(&position),
            position,
        };
        let marks = self.marks(last);
        let landed = self
            .table
            .land_marked(incoming, &info, &marks, |_| Ok::<(), Infallible>(()))
            .await
            .map_err(|error| match error {
                LandError::Commit(error) => ModelError::Commit(error),
                // Nothing is done before the commit that could fail.
                _ => self.fault(INTERRUPTED),
            })?;
        let fits = |outcome: &Outcome| {
            matches!(
                outcome,
                Outcome::Inserted | Outcome::Replaced | Outcome::Retracted
            )
        };
        if !landed.outcomes.iter().all(fits) {
            return Err(self.fault(Fault::Unsound("a row was turned away by the table")));
        }
        let counts = landed.receipt.counts;
        Ok((
            landed.receipt.version,
            BuildCounts {
                inserted: counts.inserted,
                replaced: counts.replaced,
                retracted: counts.retracted,
                unchanged,
            },
        ))
    }

    fn position(&self, chunk: &RoaringBitmap, mode: Mode, last: bool, unchanged: u64) -> Value {
        let model = &self.product.model;
        json!({
            "model_version": model.version,
            "model_sha256": hex::encode(model.hash),
            "mode": mode,
            "day": self.now.day,
            "inputs": self.now.inputs,
            "before": self.before.as_ref().map(|before| &before.inputs),
            "enterprises": chunk.len(),
            "last": last,
            "unchanged": unchanged,
        })
    }

    /// What the commit of a chunk puts on the table.
    fn marks(&self, last: bool) -> Vec<(&'static str, String)> {
        if last {
            // A map of text and numbers has JSON.
            let state = serde_json::to_string(&self.now).unwrap_or_default();
            return vec![(STAMP_MARK, self.stamp.clone()), (STATE_MARK, state)];
        }
        if self.by_these_rules {
            return Vec::new();
        }
        vec![(STAMP_MARK, String::new())]
    }
}

const INTERRUPTED: Fault = Fault::Unsound("a background task ended early");

fn hash_of(position: &Value) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, position.to_string().as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// The numbers in chunks, ascending; one empty chunk when there is none, because what a table was built from is to be
/// noted all the same.
fn chunks(enterprises: &RoaringBitmap, size: usize) -> impl Iterator<Item = RoaringBitmap> {
    let mut left = enterprises.iter();
    let mut first = true;
    std::iter::from_fn(move || {
        let chunk: RoaringBitmap = left.by_ref().take(size.max(1)).collect();
        let given = (first || !chunk.is_empty()).then_some(chunk);
        first = false;
        given
    })
}

/// Rows of an enterprise code and dates.
struct DatedRows {
    count: usize,
    codes: ArrayRef,
    dates: HashMap<String, Date32Array>,
}

impl DatedRows {
    fn of(batch: &RecordBatch) -> Result<Self, Fault> {
        let mut dates = HashMap::new();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if let Some(column) = column.as_primitive_opt::<Date32Type>() {
                dates.insert(field.name().clone(), column.clone());
            }
        }
        let codes = batch.column_by_name(USCC_COLUMN).cloned();
        let codes = codes.filter(|codes| codes.as_string_opt::<i32>().is_some());
        Ok(Self {
            count: batch.num_rows(),
            codes: codes.ok_or(Fault::Unsound("a column is missing"))?,
            dates,
        })
    }

    fn code(&self, row: usize) -> Option<&str> {
        let codes = self.codes.as_string::<i32>();
        (!codes.is_null(row)).then(|| codes.value(row))
    }

    fn date(&self, name: &str, row: usize) -> Option<Date> {
        let dates = self.dates.get(name)?;
        if dates.is_null(row) {
            return None;
        }
        Date32Type::to_naive_date_opt(dates.value(row))
    }

    /// The days on which disclosure of a row ends; the first of them does.
    fn ends<'a>(
        &'a self,
        window: &'a DisclosureWindow,
        row: usize,
    ) -> impl Iterator<Item = Date> + 'a {
        let until = window.until.iter();
        let until = until.filter_map(move |name| self.date(name, row));
        let years = window.max_years_after.iter();
        let years =
            years.filter_map(move |(name, years)| Some(years_after(self.date(name, row)?, *years)));
        until.chain(years)
    }

    /// The first day on which a row that is disclosed is no longer; none: it stays.
    fn end(&self, window: &DisclosureWindow, row: usize) -> Option<Date> {
        self.ends(window, row).min()
    }

    /// The days on which a row may enter or leave its window.
    fn days<'a>(
        &'a self,
        window: &'a DisclosureWindow,
        row: usize,
    ) -> impl Iterator<Item = Date> + 'a {
        let from = window.from.iter();
        let from = from.filter_map(move |name| self.date(name, row));
        from.chain(self.ends(window, row))
    }
}
