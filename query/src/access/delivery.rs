//! Deliveries: what a subscriber is brought, read through the gate and released under its record.
//!
//! A delivery brings a subscriber from one authorised view to another. A [`View`] is what an organisation may see of a
//! dataset for a purpose under action STREAM at one moment: a table version, the scope of a decision, a day. This
//! module says what the present view is, opens earlier ones again, tells which enterprises two views differ in, reads
//! rows of a view, and releases bytes between the two log entries of every access (GATE-3), under the release lock
//! and after a last look at the epochs (GATE-4).
//!
//! A row is deliverable when its key and its `uscc` are shown, in the clear: without them nobody could say later which
//! row has changed. A view that does not show them delivers nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, RecordBatch, new_null_array,
};
use arrow::compute::{and, concat_batches, filter_record_batch, is_not_null};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use qihui_catalog::{
    Action, Coded, DatasetId, Date, EnterpriseNo, EnterpriseNumbers, OrgId, PurposeCode, Timestamp,
    TopicName, TopicSpec, Uscc,
};
use qihui_consent::DecisionError;
use qihui_consent::decision::{ColumnScope, DatasetScope, DecisionRequest, Form, Shape, ShapeItem};
pub use qihui_consent::ledger::{ConsentStanding, Delivery, Subscription};
pub use qihui_consent::state::State as ConsentState;
use qihui_warehouse::WarehouseError;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::entries::{DECIDED, FINISHED, Record, new_access_id};
use super::outlet::ReleasePermit;
use super::release::Epochs;
use super::stored_scope;
use super::{Gate, TableVersion, unreadable};
use crate::account::Account;
use crate::dense::DenseScope;
use crate::error::QueryError;
use crate::exec::{Permit, Standing};
use crate::forms::arrow_type;
use crate::provider::{GatedTable, MIN_INSIDE_ROWS, NUMBER, QueryContext, WITHHELD};
use crate::rows::MARK_BYTES;
use crate::whole;

/// What a page of a delivery may take from decision to release. Grants that end sooner are left out.
pub const DELIVERY_SECONDS: u64 = 60;
/// How many rows of a view are read at once at most.
pub const MAX_ROWS_AT_ONCE: u64 = 4 << 20;
/// Up to this many enterprises, the rows of each are in the log entry.
const MAX_COUNTED_ENTERPRISES: usize = 1024;

/// Who is brought what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The person or process that has it delivered, e.g. `local:root`.
    pub principal: String,
    /// The organisation that receives.
    pub org: OrgId,
    /// What for.
    pub purpose: PurposeCode,
    /// The dataset.
    pub dataset: DatasetId,
    /// The columns of the topic.
    pub columns: Vec<String>,
}

/// What identifies a view of one subscription: enough to open it again, with the scope of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewKey {
    /// The commitment to the scope, hexadecimal.
    pub scope: String,
    /// The version of the table; -1: there was none yet.
    pub version: i64,
    /// The day, which decides about disclosure windows.
    pub day: Date,
}

/// An authorised view.
#[derive(Clone)]
pub struct View {
    key: ViewKey,
    scope: Arc<DenseScope>,
    table: Arc<TableVersion>,
    /// Whether rows of it can be delivered at all.
    deliverable: bool,
    at: Timestamp,
    ledger_position: u64,
    /// What it rests on; none for views of the past, which release nothing.
    epochs: Option<Arc<Epochs>>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A view of the past, opened again.
#[derive(Debug)]
pub enum Past {
    /// The view.
    View(Box<View>),
    /// Its table version is gone (erasure).
    VersionGone,
    /// What was kept of its scope is not that scope.
    ScopeDamaged,
}

/// Rows of a view: a batch of the topic's columns, and the trace of each row.
#[derive(Debug, Clone)]
pub struct TracedRows {
    /// The topic's columns; a column that the view does not open is null.
    pub batch: RecordBatch,
    /// The enterprise of each row.
    pub numbers: Int32Array,
    /// The cells withheld in each row, a bit per column.
    pub withheld: Vec<u128>,
}

/// What is no longer open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The enterprises; none: everybody, since agreements or the contract open less.
    pub enterprises: Option<RoaringBitmap>,
    /// The columns of the topic that are lost, some or all of their dates.
    pub columns: Vec<String>,
}

/// What a page is about, for its entries in the log.
#[derive(Debug, Clone)]
pub struct PageRecord {
    /// The subscription.
    pub subscription: String,
    /// How it is delivered.
    pub delivery: Delivery,
    /// The number of the page, from 1.
    pub page: u64,
    /// Events in it.
    pub events: u64,
    /// Bytes that leave.
    pub bytes: u64,
    /// SHA-256 of these bytes, hexadecimal.
    pub sha256: String,
    /// Events about each enterprise.
    pub by_enterprise: BTreeMap<u32, u64>,
}

/// Where a page goes.
#[async_trait]
pub trait PageSink: Send {
    /// Told before the page is sent under which decision it leaves.
    fn begin(&mut self, _permit: ReleasePermit) {}

    /// Waits for room. Called without any lock.
    async fn ready(&mut self) -> Result<(), QueryError> {
        Ok(())
    }

    /// How long [`send`](Self::send) can take: grants must still hold when it ends.
    fn longest(&self) -> Duration {
        Duration::ZERO
    }

    /// Lets the page leave. Nothing that takes away is acknowledged until this returns, so it must not wait long.
    async fn send(&mut self) -> Result<(), QueryError>;

    /// Waits until everything that was sent has left. Called without any lock.
    async fn finish(&mut self) -> Result<(), QueryError> {
        Ok(())
    }
}

/// The entries that a released page has in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Released {
    /// Index of the `access.decided` entry.
    pub decided: u64,
    /// Index of the `access.finished` entry.
    pub finished: u64,
}

impl View {
    /// What identifies it.
    #[must_use]
    pub fn key(&self) -> &ViewKey {
        &self.key
    }

    /// The instant of its decision.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The instant up to which its grants hold: what ends sooner was left out.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        until(self.at)
    }

    /// The version of the contract it was decided under.
    #[must_use]
    pub fn contract_version(&self) -> &str {
        &self.scope().contract.version
    }

    /// The position of the ledger it was decided at.
    #[must_use]
    pub fn ledger_position(&self) -> u64 {
        self.ledger_position
    }

    /// Whether rows of it can be delivered: key and `uscc` are open, in the clear.
    #[must_use]
    pub fn is_deliverable(&self) -> bool {
        self.deliverable
    }

    /// The bytes under which its scope is kept.
    ///
    /// # Errors
    /// [`QueryError::Internal`], a defect.
    pub fn scope_bytes(&self) -> Result<Vec<u8>, QueryError> {
        stored_scope::encode(self.scope())
    }

    fn scope(&self) -> &DatasetScope {
        self.scope.scope()
    }

    /// The enterprises with rows in the table, within a range of numbers.
    fn present(&self, range: &RangeInclusive<u32>) -> RoaringBitmap {
        let mut present = RoaringBitmap::new();
        for file in &self.table.files {
            present |= file.present.as_ref();
        }
        within(present, range)
    }

    /// Those of `present` that may have a row in the view.
    fn open(&self, present: &RoaringBitmap) -> RoaringBitmap {
        match (self.deliverable, self.scope().all_rows) {
            (false, _) => RoaringBitmap::new(),
            (true, true) => present.clone(),
            (true, false) => present & self.scope().granted(),
        }
    }

    /// The enterprises within a range that may have a row in the view: exactly those with a grant (or all, where rows
    /// are open without one) and a row in the table.
    #[must_use]
    pub fn enterprises(&self, range: &RangeInclusive<u32>) -> RoaringBitmap {
        self.open(&self.present(range))
    }

    /// Rows in the table for each enterprise that has any, on average; at least 1.
    #[must_use]
    pub fn rows_per_enterprise(&self) -> u64 {
        let present = self.present(&(0..=u32::MAX)).len().max(1);
        (self.table.rows / present).max(1)
    }

    /// Whether both decide about rows by the same rules, grants apart.
    fn same_rules(&self, other: &Self) -> bool {
        let (a, b) = (self.scope(), other.scope());
        self.deliverable == other.deliverable
            && a.contract.hash == b.contract.hash
            && a.all_rows == b.all_rows
            && a.columns.len() == b.columns.len()
            && a.columns.iter().zip(&b.columns).all(|(a, b)| {
                (&a.name, a.form, a.always, &a.public_when, a.by_grant)
                    == (&b.name, b.form, b.always, &b.public_when, b.by_grant)
            })
    }
}

/// The end of what a page that is decided at an instant may take.
fn until(at: Timestamp) -> Timestamp {
    let seconds = i64::try_from(DELIVERY_SECONDS).unwrap_or(i64::MAX);
    Timestamp(at.0.saturating_add(seconds.saturating_mul(1000)))
}

fn within(mut numbers: RoaringBitmap, range: &RangeInclusive<u32>) -> RoaringBitmap {
    numbers.remove_range(..*range.start());
    if let Some(after) = range.end().checked_add(1) {
        numbers.remove_range(after..);
    }
    numbers
}

/// The enterprises whose shape is another in `b` than in `a`.
fn reshaped(a: &DatasetScope, b: &DatasetScope) -> RoaringBitmap {
    let by_shape = |scope: &DatasetScope| -> HashMap<Shape, RoaringBitmap> {
        let pairs = scope
            .shapes
            .iter()
            .cloned()
            .zip(scope.members.iter().cloned());
        pairs.skip(1).collect()
    };
    let (a, b) = (by_shape(a), by_shape(b));
    let none = RoaringBitmap::new();
    let mut changed = RoaringBitmap::new();
    for (these, others) in [(&a, &b), (&b, &a)] {
        for (shape, members) in these {
            changed |= members - others.get(shape).unwrap_or(&none);
        }
    }
    changed
}

/// The enterprises with grants in `old` that may cover less in `new`, by the indices of their shapes in both.
fn shape_changes(old: &View, new: &View) -> BTreeMap<(usize, usize), RoaringBitmap> {
    let mut concerned = old.scope().granted();
    if old.same_rules(new) {
        concerned &= reshaped(old.scope(), new.scope());
    }
    let mut changes: BTreeMap<(usize, usize), RoaringBitmap> = BTreeMap::new();
    for no in concerned {
        let shapes = (old.scope.shape_of(no), new.scope.shape_of(no));
        changes.entry(shapes).or_default().insert(no);
    }
    changes
}

/// What decides about the cells of a column, grants apart.
struct Rule<'a> {
    scope: &'a DatasetScope,
    /// Where the column stands in the scope.
    index: usize,
    column: &'a ColumnScope,
}

impl<'a> Rule<'a> {
    /// The rule for a column in a view that can be delivered; none: it is shown nowhere.
    fn of(view: &'a View, name: &str) -> Option<Self> {
        let scope = view.scope();
        let mut columns = scope.columns.iter().enumerate();
        let (index, column) = columns.find(|(_, column)| column.name == *name)?;
        view.deliverable.then_some(Self {
            scope,
            index,
            column,
        })
    }

    /// Whether every cell is shown, whoever granted what.
    fn is_open(&self) -> bool {
        self.scope.all_rows && self.column.always
    }

    /// The dates in which grants of this shape show its cells: ascending, half-open, neither overlapping nor touching.
    fn dates(&self, shape: &Shape) -> Vec<(Date, Date)> {
        // Where a column is always shown, whatever shows the row shows its cell.
        let showing = |item: &&ShapeItem| {
            item.columns.contains(self.index) || (self.column.always && !item.columns.is_empty())
        };
        let mut dates: Vec<(Date, Date)> = shape
            .items
            .iter()
            .filter(showing)
            .map(|item| (item.from.unwrap_or(Date::MIN), item.to.unwrap_or(Date::MAX)))
            .collect();
        dates.sort_unstable();
        let mut joined: Vec<(Date, Date)> = Vec::with_capacity(dates.len());
        for (from, to) in dates {
            match joined.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => joined.push((from, to)),
            }
        }
        joined
    }

    /// Whether `after` shows less of the column to everybody, whatever was granted.
    fn is_wider_than(&self, after: &Self) -> bool {
        let (was, is) = (self.column.form, after.column.form);
        let restyled = was != is && was.stricter(is) == is;
        let unflagged = self.column.public_when.is_some()
            && !after.column.always
            && after.column.public_when != self.column.public_when;
        (self.is_open() && !after.is_open()) || restyled || unflagged
    }

    /// Whether grants of the shape `before` showed cells for some dates that those of the shape `now` do not.
    fn lost_by(&self, before: &Shape, after: &Self, now: &Shape) -> bool {
        if after.is_open() {
            return false;
        }
        let left = after.dates(now);
        let within = |(from, to): &(Date, Date)| left.iter().any(|(a, b)| a <= from && to <= b);
        !self.dates(before).iter().all(within)
    }
}

impl Gate {
    /// The present view of a recipient.
    ///
    /// A recipient that no agreement speaks of any more has a view without rows: whatever it was brought has to go.
    ///
    /// # Errors
    /// The organisation or dataset is unknown, the contract is not in the log, or a store cannot be read.
    pub async fn view(&self, recipient: &Recipient) -> Result<View, QueryError> {
        let dataset = &recipient.dataset;
        let contract = self.parts.catalog.contract(dataset).cloned();
        let contract = contract.ok_or_else(|| QueryError::UnknownDataset {
            name: dataset.to_string(),
        })?;
        let at = self.now();
        let request = DecisionRequest {
            org: recipient.org.clone(),
            purpose: recipient.purpose.clone(),
            action: Action::Stream,
            at,
            until: until(at),
            subjects: None,
            datasets: vec![dataset.clone()],
        };
        let ledger = &self.parts.ledger;
        // INVARIANT: the epoch before the decision; see `Ledger::decide_for`.
        let epoch = ledger
            .losses()
            .epoch(&recipient.org, &recipient.purpose, dataset);
        let (scope, position, epochs) = match ledger.decide(&self.parts.catalog, &request).await {
            Ok(mut decision) => {
                let scope = decision.scopes.remove(dataset);
                let scope = scope.ok_or(QueryError::Internal { what: "a decision" })?;
                (scope, decision.ledger_position, decision.epochs)
            }
            Err(DecisionError::PurposeNotAssigned { .. }) => (
                Arc::new(nothing(&contract)),
                self.ledger(ledger.position().await)?,
                BTreeMap::from([(dataset.clone(), epoch)]),
            ),
            Err(error) => return Err(QueryError::Refused(Box::new(error))),
        };
        self.recorded(&contract).await?;
        let epochs = Epochs::new(
            ledger.losses(),
            recipient.org.clone(),
            recipient.purpose.clone(),
            epochs,
        );
        let table = Arc::new(self.table(dataset).await?);
        let scope = self.scopes.get(&scope);
        Ok(View {
            key: ViewKey {
                scope: hex::encode(scope.commitment()),
                version: table.version,
                day: at.shanghai_date(),
            },
            deliverable: is_deliverable(scope.scope()),
            scope,
            table,
            at,
            ledger_position: position,
            epochs: Some(Arc::new(epochs)),
        })
    }

    /// A view of the past, under the scope kept in `bytes`.
    ///
    /// # Errors
    /// The warehouse cannot be read.
    pub async fn view_at(
        &self,
        recipient: &Recipient,
        key: &ViewKey,
        bytes: &[u8],
    ) -> Result<Past, QueryError> {
        let mut commitment = [0; 32];
        hex::decode_to_slice(&key.scope, &mut commitment).map_err(|_| QueryError::Internal {
            what: "the name of a scope",
        })?;
        let Ok(scope) = stored_scope::decode(bytes, &commitment) else {
            return Ok(Past::ScopeDamaged);
        };
        let kept = self.scopes.committed(&commitment);
        let scope = kept.unwrap_or_else(|| Arc::new(DenseScope::new(Arc::new(scope))));
        let table = if key.version < 0 {
            whole::never_landed()
        } else {
            let found = self
                .parts
                .warehouse
                .snapshot_at(&recipient.dataset, key.version);
            match found.await {
                Ok(snapshot) => whole::table_version(&self.parts.warehouse, &snapshot).await?,
                Err(WarehouseError::UnknownVersion { .. }) => return Ok(Past::VersionGone),
                Err(error) => return Err(unreadable(&error)),
            }
        };
        Ok(Past::View(Box::new(View {
            key: key.clone(),
            deliverable: is_deliverable(scope.scope()),
            scope,
            table: Arc::new(table),
            at: self.now(),
            ledger_position: 0,
            epochs: None,
        })))
    }

    /// The view of `key`, releasable, if the present view has the same scope and day: then whatever was authorised in
    /// it still is. None: it is not, or its table version is gone.
    ///
    /// # Errors
    /// The warehouse cannot be read.
    pub async fn at_version(
        &self,
        recipient: &Recipient,
        present: &View,
        key: &ViewKey,
    ) -> Result<Option<View>, QueryError> {
        if present.key.scope != key.scope || present.key.day != key.day {
            return Ok(None);
        }
        if present.key == *key {
            return Ok(Some(present.clone()));
        }
        let found = self
            .parts
            .warehouse
            .snapshot_at(&recipient.dataset, key.version);
        match found.await {
            Ok(snapshot) => Ok(Some(View {
                key: key.clone(),
                table: Arc::new(whole::table_version(&self.parts.warehouse, &snapshot).await?),
                ..present.clone()
            })),
            Err(WarehouseError::UnknownVersion { .. }) => Ok(None),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// The enterprises within a range that the two views may differ in: those whose rows changed between the table
    /// versions, those whose grants changed, and everybody where the day or a rule changed that decides about rows.
    ///
    /// # Errors
    /// The warehouse cannot be read.
    pub async fn differing(
        &self,
        old: &View,
        new: &View,
        range: &RangeInclusive<u32>,
    ) -> Result<RoaringBitmap, QueryError> {
        let present = old.present(range) | new.present(range);
        let open = old.open(&present) | new.open(&present);
        let windowed = new.scope().contract.window.is_some();
        if !old.same_rules(new) || (windowed && old.key.day != new.key.day) {
            return Ok(open);
        }
        let changed = match (old.key.version, new.key.version) {
            (a, b) if a == b => RoaringBitmap::new(),
            (a, b) if a < 0 || b < 0 => return Ok(open),
            (a, b) => {
                let dataset = &new.scope().contract.id;
                match self.parts.warehouse.changed(dataset, a, b).await {
                    Ok(changed) => changed,
                    // Nobody knows any more; who opens the old view is told that it is gone.
                    Err(WarehouseError::UnknownVersion { .. }) => return Ok(open),
                    Err(error) => return Err(unreadable(&error)),
                }
            }
        };
        Ok(open & (changed | reshaped(old.scope(), new.scope())))
    }

    /// What could be seen in `old` and no longer can in `new`, of the recipient's columns: by a rule for everybody, or by
    /// the grants of enterprises. Says nothing of rows, nor of disclosure windows.
    #[must_use]
    pub fn losses(&self, recipient: &Recipient, old: &View, new: &View) -> Vec<Loss> {
        let mut losses = Vec::new();
        let (mut lost, mut ruled) = (Vec::new(), Vec::new());
        for name in &recipient.columns {
            match (Rule::of(old, name), Rule::of(new, name)) {
                (None, _) => {}
                (Some(before), Some(after)) if !before.is_wider_than(&after) => {
                    ruled.push((name, before, after));
                }
                (Some(_), _) => lost.push(name.clone()),
            }
        }
        if !lost.is_empty() {
            losses.push(Loss {
                enterprises: None,
                columns: lost,
            });
        }
        for ((was, is), enterprises) in shape_changes(old, new) {
            let shape = |view: &View, index: usize| {
                let shapes = &view.scope().shapes;
                shapes.get(index).cloned().unwrap_or_default()
            };
            let (before, now) = (shape(old, was), shape(new, is));
            let columns: Vec<String> = ruled
                .iter()
                .filter(|(_, rule, after)| rule.lost_by(&before, after, &now))
                .map(|(name, ..)| (*name).clone())
                .collect();
            if !columns.is_empty() {
                losses.push(Loss {
                    enterprises: Some(enterprises),
                    columns,
                });
            }
        }
        losses
    }

    /// The columns of a topic as rows of it have them.
    ///
    /// # Errors
    /// [`QueryError::UnknownDataset`] or [`QueryError::UnknownColumn`].
    pub fn topic_schema(&self, recipient: &Recipient) -> Result<SchemaRef, QueryError> {
        let contract = self.parts.catalog.contract(&recipient.dataset);
        let contract = contract.ok_or_else(|| QueryError::UnknownDataset {
            name: recipient.dataset.to_string(),
        })?;
        let field = |name: &String| {
            let column = contract
                .column(name)
                .ok_or_else(|| QueryError::UnknownColumn {
                    column: name.clone(),
                })?;
            Ok(Field::new(name, arrow_type(column.ty), true))
        };
        let fields: Result<Vec<Field>, QueryError> = recipient.columns.iter().map(field).collect();
        Ok(Arc::new(Schema::new(fields?)))
    }

    /// The key of a dataset, and its column of the enterprise.
    ///
    /// # Errors
    /// [`QueryError::UnknownDataset`].
    pub fn key_of(&self, dataset: &DatasetId) -> Result<(Vec<String>, String), QueryError> {
        let contract = self.parts.catalog.contract(dataset);
        let contract = contract.ok_or_else(|| QueryError::UnknownDataset {
            name: dataset.to_string(),
        })?;
        Ok((contract.key.clone(), contract.uscc.clone()))
    }

    /// The deliverable rows of some enterprises in a view, through the gate.
    ///
    /// # Errors
    /// [`QueryError::TooManyRows`], [`QueryError::ConsentChanged`], or the warehouse cannot be read.
    pub async fn rows(
        &self,
        recipient: &Recipient,
        view: &View,
        enterprises: &RoaringBitmap,
        schema: &SchemaRef,
    ) -> Result<TracedRows, QueryError> {
        if !view.deliverable || enterprises.is_empty() {
            return Ok(TracedRows::none(schema));
        }
        let scope = view.scope();
        // Where each topic column stands in the view.
        let mut opened = Vec::new();
        let mut place = Vec::with_capacity(recipient.columns.len());
        for name in &recipient.columns {
            let found = scope.columns.iter().position(|column| column.name == *name);
            place.push(found.map(|index| {
                opened.push(index);
                opened.len() - 1
            }));
        }
        let context = QueryContext {
            account: Arc::new(Account::new(self.limits().rows.min(MAX_ROWS_AT_ONCE))),
            permit: match &view.epochs {
                Some(epochs) => Arc::clone(epochs) as Arc<dyn Permit>,
                None => Arc::new(Standing),
            },
            strict: Arc::default(),
            numbers: None,
            reader: Arc::clone(&self.reader),
            today: view.key.day,
            min_inside_rows: MIN_INSIDE_ROWS,
        };
        let running = |error| QueryError::from_running(&error);
        let table = GatedTable::new(Arc::clone(&view.scope), Arc::clone(&view.table), context);
        let scan = table.traced(&opened, enterprises).await.map_err(running)?;
        let read_schema = scan.schema();
        let batches = collect(scan, Arc::new(TaskContext::default()));
        let limit = Duration::from_secs(self.limits().seconds);
        let batches = tokio::time::timeout(limit, batches).await;
        let batches = batches
            .map_err(|_| QueryError::TimedOut {
                seconds: limit.as_secs(),
            })?
            .map_err(running)?;
        let read = concat_batches(&read_schema, &batches).map_err(|_| joining())?;
        arranged(&read, &place, schema, &scope.contract.key)
    }

    /// Records a page, lets it leave through `sink`, and records how that ended.
    ///
    /// # Errors
    /// [`QueryError::ConsentChanged`] when something was taken away since the view was decided: nothing left, decide
    /// again. [`QueryError::TimedOut`] when it was decided too long ago. [`QueryError::LogUnavailable`], and nothing left
    /// unless the first entry was written. What the sink says.
    pub async fn release(
        &self,
        recipient: &Recipient,
        view: &View,
        page: &PageRecord,
        sink: &mut dyn PageSink,
    ) -> Result<Released, QueryError> {
        let access_id = new_access_id()?;
        let decided = Record {
            kind: DECIDED,
            body: decided(recipient, view, page, &access_id),
            subjects: RoaringBitmap::new(),
        };
        let (decided, without_end) = self.record_decision(&decided).await?;
        let (sent, handed_over) = self.let_go(view, sink).await;
        let ended = (sent.as_ref().err(), handed_over);
        let finished = finished(recipient, page, &access_id, decided, ended);
        let finished = self.record_end(&finished, without_end).await;
        sent?;
        Ok(Released {
            decided,
            finished: finished?,
        })
    }

    /// Lets a page leave under the release lock after a last look; whether anything was handed over.
    ///
    /// All of it has to leave within [`DELIVERY_SECONDS`] of the decision: later, a grant may have ended that it counted on.
    async fn let_go(&self, view: &View, sink: &mut dyn PageSink) -> (Result<(), QueryError>, bool) {
        let Some(epochs) = &view.epochs else {
            return (Err(QueryError::ConsentChanged), false);
        };
        let time_left = || {
            let left = view.until().0.saturating_sub(self.now().0);
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        };
        sink.begin(ReleasePermit::new(Arc::clone(epochs)));
        if let Err(error) = in_time(time_left(), sink.ready()).await {
            return (Err(error), false);
        }
        // As in `Release::bytes`: what was lost is worked through before the lock.
        if let Err(error) = epochs.check() {
            return (Err(error), false);
        }
        let sent = {
            let lock = epochs.lock();
            let _reading = lock.read().await;
            if time_left() <= sink.longest() {
                return (Err(too_slow()), false);
            }
            if let Err(error) = epochs.check() {
                return (Err(error), false);
            }
            sink.send().await
        };
        if sent.is_err() {
            return (sent, true);
        }
        let left = in_time(time_left(), sink.finish()).await;
        // A way out closes when something was taken away as well: that is the better reason.
        let left = left.map_err(|error| epochs.check().err().unwrap_or(error));
        (left, true)
    }

    /// The topic of this name, if its version is in the log.
    ///
    /// # Errors
    /// [`QueryError::UnknownTopic`], [`QueryError::TopicNotRecorded`], or the ledger cannot be read.
    pub async fn topic(&self, name: &TopicName) -> Result<Arc<TopicSpec>, QueryError> {
        let topic = self.parts.catalog.topics.get(name);
        let topic = topic.ok_or_else(|| QueryError::UnknownTopic { name: name.clone() })?;
        let ledger = &self.parts.ledger;
        let recorded = ledger.artefact_recorded("topic", name.as_str(), &topic.hash);
        if self.ledger(recorded.await)? {
            Ok(Arc::clone(topic))
        } else {
            Err(QueryError::TopicNotRecorded {
                topic: name.clone(),
                version: topic.version.clone(),
            })
        }
    }

    /// Every subscription, ended ones too.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn subscriptions(&self) -> Result<Vec<Subscription>, QueryError> {
        self.ledger(self.parts.ledger.subscriptions().await)
    }

    /// How the consent of an enterprise stands that a recipient's rows came under, as the decision of a view sees it: the
    /// one that ended last, if one did on day `since` or later, else the one in force.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn standing(
        &self,
        recipient: &Recipient,
        no: EnterpriseNo,
        view: &View,
        since: Date,
    ) -> Result<Option<ConsentStanding>, QueryError> {
        let about = (&recipient.org, &recipient.purpose, &recipient.dataset);
        let ledger = &self.parts.ledger;
        self.ledger(ledger.standing(no, about, view.until(), since).await)
    }

    /// The codes of enterprises, in order.
    ///
    /// # Errors
    /// The ledger cannot be read, or a number is not assigned.
    pub fn codes_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Uscc>, QueryError> {
        let found = self.parts.ledger.uscc_of(numbers);
        let found = found.map_err(|error| QueryError::Refused(Box::new(error)))?;
        let codes: Option<Vec<Uscc>> = found.into_iter().collect();
        codes.ok_or(QueryError::Internal {
            what: "an enterprise number",
        })
    }

    /// The longest time, in days, that a receiver may keep data for a purpose, by the tree of purposes.
    #[must_use]
    pub fn data_life_days(&self, purpose: &PurposeCode) -> Option<u32> {
        let purpose = self.parts.catalog.purposes.get(purpose)?;
        Some(purpose.caps.data_life_days)
    }

    /// Keeps versions of a table from clean-up; see [`qihui_warehouse::Warehouse::keep`].
    ///
    /// # Errors
    /// The warehouse cannot be read.
    pub fn keep(&self, dataset: &DatasetId, versions: BTreeSet<i64>) -> Result<(), QueryError> {
        let kept = self.parts.warehouse.keep(dataset, versions);
        kept.map_err(|error| unreadable(&error))
    }

    /// The name of the hub.
    #[must_use]
    pub fn hub(&self) -> &str {
        self.parts.ledger.hub()
    }

    /// The hub's time.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.now()
    }

    /// What can only change together with a view, cheap to ask: the last event of the ledger, the last that counts,
    /// and the version of the table.
    ///
    /// # Errors
    /// A store cannot be read.
    pub async fn moment(&self, dataset: &DatasetId) -> Result<(u64, Option<u64>, i64), QueryError> {
        let ledger = &self.parts.ledger;
        let position = self.ledger(ledger.position().await)?;
        let logged = self.ledger(ledger.last_logged().await)?;
        let snapshot = self.parts.warehouse.snapshot(dataset).await;
        let snapshot = snapshot.map_err(|error| unreadable(&error))?;
        Ok((
            position,
            logged.map(|(position, _)| position),
            snapshot.map_or(-1, |snapshot| snapshot.version),
        ))
    }
}

fn too_slow() -> QueryError {
    QueryError::TimedOut {
        seconds: DELIVERY_SECONDS,
    }
}

fn joining() -> QueryError {
    QueryError::Internal {
        what: "joining batches",
    }
}

/// What a sink is given time for.
async fn in_time(
    time: Duration,
    work: impl Future<Output = Result<(), QueryError>>,
) -> Result<(), QueryError> {
    let done = tokio::time::timeout(time, work).await;
    done.unwrap_or_else(|_| Err(too_slow()))
}

/// The scope that opens nothing.
fn nothing(contract: &Arc<qihui_catalog::Contract>) -> DatasetScope {
    DatasetScope {
        contract: Arc::clone(contract),
        columns: Vec::new(),
        all_rows: false,
        shapes: vec![Shape::default()],
        members: vec![RoaringBitmap::new()],
        agreements: Vec::new(),
        reasons: Vec::new(),
        subjects: None,
        statistics: None,
    }
}

/// Whether key and `uscc` are open in the clear.
fn is_deliverable(scope: &DatasetScope) -> bool {
    let contract = &scope.contract;
    contract.key.iter().chain([&contract.uscc]).all(|name| {
        scope
            .columns
            .iter()
            .any(|column| column.name == *name && column.form == Form::Clear)
    })
}

impl TracedRows {
    /// No rows.
    #[must_use]
    pub fn none(schema: &SchemaRef) -> Self {
        Self {
            batch: RecordBatch::new_empty(Arc::clone(schema)),
            numbers: Int32Array::from(Vec::<i32>::new()),
            withheld: Vec::new(),
        }
    }
}

/// Rows as they were read, in the columns of the topic, without those whose key or `uscc` is withheld.
fn arranged(
    read: &RecordBatch,
    place: &[Option<usize>],
    schema: &SchemaRef,
    key: &[String],
) -> Result<TracedRows, QueryError> {
    let mut shown: Option<BooleanArray> = None;
    for name in key.iter().map(String::as_str).chain(["uscc"]) {
        let column = read.column_by_name(name).ok_or_else(joining)?;
        let present = is_not_null(column).map_err(|_| joining())?;
        shown = Some(match shown {
            Some(shown) => and(&shown, &present).map_err(|_| joining())?,
            None => present,
        });
    }
    let read = match shown {
        Some(shown) if shown.true_count() < shown.len() => {
            filter_record_batch(read, &shown).map_err(|_| joining())?
        }
        _ => read.clone(),
    };
    let rows = read.num_rows();
    let columns: Vec<ArrayRef> = place
        .iter()
        .zip(schema.fields())
        .map(|(place, field)| match place {
            Some(index) => Arc::clone(read.column(*index)),
            None => new_null_array(field.data_type(), rows),
        })
        .collect();
    let numbers = read.column_by_name(NUMBER).ok_or_else(joining)?;
    let marks = read.column_by_name(WITHHELD).ok_or_else(joining)?;
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).map_err(|_| joining())?;
    Ok(TracedRows {
        batch,
        numbers: numbers.as_primitive::<Int32Type>().clone(),
        withheld: withheld(marks, place)?,
    })
}

/// The marks of rows, moved from the columns read to those of the topic.
fn withheld(marks: &ArrayRef, place: &[Option<usize>]) -> Result<Vec<u128>, QueryError> {
    if !matches!(marks.data_type(), DataType::FixedSizeBinary(_)) {
        return Err(joining());
    }
    let absent = (0..u128::BITS)
        .zip(place)
        .filter(|(_, place)| place.is_none())
        .fold(0, |set, (bit, _)| set | 1_u128 << bit);
    let moved = |marks: u128| {
        let bits = (0..u128::BITS).zip(place).filter(|(_, place)| {
            place.is_some_and(|index| {
                marks
                    .checked_shr(u32::try_from(index).unwrap_or(u32::MAX))
                    .is_some_and(|marks| marks & 1 == 1)
            })
        });
        bits.fold(absent, |set, (bit, _)| set | 1_u128 << bit)
    };
    let straight = place
        .iter()
        .enumerate()
        .all(|(at, place)| *place == Some(at));
    let read = |bytes: Option<&[u8]>| -> Result<u128, QueryError> {
        let bytes: [u8; MARK_BYTES] = bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(joining)?;
        let marks = u128::from_le_bytes(bytes);
        Ok(if straight || marks == 0 {
            marks | absent
        } else {
            moved(marks)
        })
    };
    marks.as_fixed_size_binary().iter().map(read).collect()
}

fn decided(recipient: &Recipient, view: &View, page: &PageRecord, access_id: &str) -> Value {
    let scope = view.scope();
    json!({
        "access_id": access_id,
        "principal": recipient.principal,
        "org": recipient.org,
        "purpose": recipient.purpose,
        "action": Action::Stream,
        "subjects": 0,
        "statement": format!("subscription {} page {}", page.subscription, page.page),
        "subscription": page.subscription,
        "page": page.page,
        "format": page.delivery.as_str(),
        "at": view.at,
        "ledger_position": view.ledger_position,
        "strict": false,
        "datasets": [{
            "dataset": recipient.dataset,
            "contract_version": scope.contract.version,
            "contract_hash": hex::encode(scope.contract.hash),
            "table_version": view.key.version,
            "columns": recipient.columns,
            "commitment": view.key.scope,
            "basis": scope.agreements,
        }],
    })
}

fn finished(
    recipient: &Recipient,
    page: &PageRecord,
    access_id: &str,
    decided: u64,
    (error, handed_over): (Option<&QueryError>, bool),
) -> Record {
    // Of what was handed over and failed, some bytes may have left: the record may say too much, never too little.
    let nothing = !handed_over;
    let touched: RoaringBitmap = if nothing {
        RoaringBitmap::new()
    } else {
        page.by_enterprise.keys().copied().collect()
    };
    let count = |number: u64| if nothing { 0 } else { number };
    let few = page.by_enterprise.len() <= MAX_COUNTED_ENTERPRISES && !nothing;
    let by_enterprise = few.then(|| -> BTreeMap<String, u64> {
        let counts = page.by_enterprise.iter();
        counts
            .map(|(no, events)| (no.to_string(), *events))
            .collect()
    });
    let body = json!({
        "access_id": access_id,
        "decided": decided,
        "outcome": error.map_or("complete", Coded::code),
        "rows": count(page.events),
        "bytes": count(page.bytes),
        "sha256": if nothing { String::new() } else { page.sha256.clone() },
        "datasets": [{
            "dataset": recipient.dataset,
            "rows": count(page.events),
            "enterprises": touched.len(),
            "withheld": {},
        }],
        "rows_by_enterprise": by_enterprise,
    });
    Record {
        kind: FINISHED,
        body,
        subjects: touched,
    }
}
