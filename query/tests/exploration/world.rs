//! Small worlds: a few rows in two streams, who grants, and what is taken away in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use qihui_catalog::{
    Action, Catalog, ColumnType, Contract, DatasetId, EnterpriseNo, OrgId, PurposeCode, Timestamp,
};
use qihui_consent::decision::{
    ActionSet, Agreement, AgreementColumn, AgreementId, Basis, ColumnSet, DecisionRequest, Form,
    Grant, ScopeItem, scope,
};
use qihui_query::access::reader_context;
use qihui_query::dense::{DenseScope, ScanScope};
use qihui_query::provider::{TableFile, TableVersion};
use qihui_query::reader::{Readers, Share};
use qihui_query::rows::{OutputColumn, RowGate};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Enterprises have the numbers from 1 to this.
pub const ENTERPRISES: u32 = 3;
const DATASET: &str = "vat_declaration";
const COLUMN: &str = "xse";

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// What an enterprise granted of the dataset.
    Of(u32),
    /// What an enterprise granted of another dataset: nothing to the query.
    Elsewhere(u32),
    /// Everything: the agreement ends.
    Everything,
}

/// What happens, without the order in which it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// The batches of the two streams of a scan, by the enterprises of their rows.
    pub streams: [Vec<Vec<u32>>; 2],
    /// Whether the first stream reads what is inside, if all of its enterprises grant: it passes unseen, and touches all of
    /// them at once.
    pub inside: bool,
    /// Who grants.
    pub granted: BTreeSet<u32>,
    /// What is taken away, in this order.
    pub losses: Vec<Loss>,
    /// How many of them come between the decision and the streams. When some do, the others come later.
    pub early: usize,
}

impl Story {
    pub fn draw(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let batch = |rng: &mut ChaCha8Rng| -> Vec<u32> {
            let some = (1..=ENTERPRISES).filter(|_| rng.random_bool(0.5));
            let mut some: Vec<u32> = some.collect();
            if some.is_empty() {
                some.push(rng.random_range(1..=ENTERPRISES));
            }
            some
        };
        let streams = [rng.random_range(1..=2), rng.random_range(0..=1)]
            .map(|batches| (0..batches).map(|_| batch(&mut rng)).collect());
        let granted = (1..=ENTERPRISES).filter(|_| rng.random_bool(0.85));
        let granted = granted.collect();
        let losses = (0..rng.random_range(1..=2)).map(|_| {
            let no = rng.random_range(1..=ENTERPRISES);
            let kinds = [
                Loss::Of(no),
                Loss::Of(no),
                Loss::Of(no),
                Loss::Elsewhere(no),
            ];
            match rng.random_bool(0.1) {
                true => Loss::Everything,
                false => *kinds.choose(&mut rng).unwrap(),
            }
        });
        let losses: Vec<Loss> = losses.collect();
        Self {
            inside: rng.random_bool(0.3),
            streams,
            granted,
            early: usize::from(losses.len() > 1 && rng.random_bool(0.3)),
            losses,
        }
    }

    /// The enterprises of a stream.
    pub fn enterprises_of(&self, stream: usize) -> BTreeSet<u32> {
        self.streams[stream].iter().flatten().copied().collect()
    }

    /// The rows of an enterprise, over both streams, in order.
    pub fn rows_of(&self, no: u32) -> impl Iterator<Item = i32> + '_ {
        let rows = self.numbered().into_iter().flatten().flatten();
        rows.filter(move |row| enterprise_of(*row) == no)
    }

    /// How many times a batch may be judged at most, over all of them: once, and once more for each of its enterprises.
    /// What is inside may be read again.
    pub fn judgements(&self) -> usize {
        let again = match self.inside {
            true => 1 + ENTERPRISES as usize,
            false => 0,
        };
        let batches = self.streams.iter().flatten();
        batches.map(|batch| 1 + batch.len()).sum::<usize>() + again
    }

    /// The batches by their rows. No two rows are alike, and each tells whose it is.
    fn numbered(&self) -> [Vec<Vec<i32>>; 2] {
        let mut next = 0;
        let mut number = |no: &u32| {
            next += 1;
            i32::try_from(no * 100).unwrap() + next
        };
        let mut rows = |batch: &Vec<u32>| batch.iter().map(&mut number).collect();
        self.streams
            .each_ref()
            .map(|batches| batches.iter().map(&mut rows).collect())
    }
}

pub fn enterprise_of(row: i32) -> u32 {
    u32::try_from(row / 100).unwrap()
}

/// A story with what it needs that has no threads.
pub struct World {
    pub story: Story,
    pub org: OrgId,
    pub purpose: PurposeCode,
    pub dataset: DatasetId,
    pub elsewhere: DatasetId,
    pub context: Arc<TaskContext>,
    /// All rows, to be looked at.
    pub edge: Arc<dyn ExecutionPlan>,
    pub inside: Option<Inside>,
    pub readers: Readers,
    contract: Arc<Contract>,
    scopes: Mutex<BTreeMap<BTreeSet<u32>, Arc<DenseScope>>>,
}

/// The rows of the first stream, to pass unseen, and those of the second, to be looked at.
pub struct Inside {
    pub plan: Arc<dyn ExecutionPlan>,
    pub edge: Arc<dyn ExecutionPlan>,
}

fn schema(names: &[&str]) -> SchemaRef {
    let fields = names
        .iter()
        .map(|name| Field::new(*name, DataType::Int32, false));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A batch of some columns of each row.
fn batch(schema: &SchemaRef, rows: &[i32], columns: &[&dyn Fn(i32) -> i32]) -> RecordBatch {
    let columns = columns.iter().map(|column| {
        let cells: Int32Array = rows.iter().map(|row| column(*row)).collect();
        Arc::new(cells) as ArrayRef
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect()).unwrap()
}

fn number(row: i32) -> i32 {
    i32::try_from(enterprise_of(row)).unwrap()
}

fn plan(batches: &[Vec<RecordBatch>; 2], schema: &SchemaRef) -> Arc<dyn ExecutionPlan> {
    MemorySourceConfig::try_new_exec(batches, Arc::clone(schema), None).unwrap()
}

impl World {
    pub async fn new(story: Story) -> Self {
        let catalog = Catalog::builtin().unwrap();
        let dataset: DatasetId = DATASET.parse().unwrap();
        let looked_at = schema(&["_no", COLUMN]);
        let unseen = schema(&[COLUMN, "_share"]);
        let edge_of = |rows: &Vec<i32>| batch(&looked_at, rows, &[&number, &|row| row]);
        let inside_of = |rows: &Vec<i32>| batch(&unseen, rows, &[&|row| row, &|_| 0]);
        let [first, second] = story.numbered();
        let edges = [&first, &second].map(|rows| rows.iter().map(edge_of).collect::<Vec<_>>());
        let inside = story.inside.then(|| Inside {
            plan: plan(
                &[first.iter().map(inside_of).collect(), Vec::new()],
                &unseen,
            ),
            edge: plan(&[Vec::new(), edges[1].clone()], &looked_at),
        });
        let context = reader_context().unwrap();
        let rows: Vec<i32> = first.into_iter().flatten().collect();
        let table = file(&edge_of(&rows)).await;
        let readers = Readers::new(
            Arc::new(table),
            Arc::clone(&looked_at),
            Arc::clone(&context),
        );
        Self {
            org: "bank".parse().unwrap(),
            purpose: "credit.loan_review".parse().unwrap(),
            elsewhere: "tax_levy".parse().unwrap(),
            contract: Arc::clone(&catalog.contracts[&dataset]),
            scopes: Mutex::default(),
            edge: plan(&edges, &looked_at),
            inside,
            readers,
            context,
            dataset,
            story,
        }
    }

    /// The only share that is inside: the file that holds the rows of the first stream.
    pub fn share(&self) -> Share {
        let groups = 1;
        Share {
            file: 0,
            rows: datafusion::datasource::physical_plan::parquet::ParquetAccessPlan::new_all(
                groups,
            ),
        }
    }

    /// What is open when these grant: the decision.
    pub fn scope(&self, granted: &BTreeSet<u32>) -> Arc<DenseScope> {
        let mut scopes = self.scopes.lock();
        let scope = scopes.entry(granted.clone());
        Arc::clone(scope.or_insert_with(|| self.decide(granted)))
    }

    fn decide(&self, granted: &BTreeSet<u32>) -> Arc<DenseScope> {
        let (start, end) = (Timestamp(0), Timestamp(i64::MAX));
        let agreement = Agreement {
            id: AgreementId::from("a-1"),
            org: self.org.clone(),
            dataset: self.dataset.clone(),
            purposes: [self.purpose.clone()].into(),
            basis: Basis::Consent,
            aggregate_only: None,
            columns: vec![AgreementColumn {
                name: COLUMN.to_owned(),
                form: Some(Form::Clear),
                reason: Some("a test".to_owned()),
            }],
            valid_from: start,
            valid_until: end,
        };
        let grant = |no: &u32| Grant {
            consent_id: format!("c-{no}").parse().unwrap(),
            version: 1,
            no: EnterpriseNo(*no),
            org: self.org.clone(),
            purpose: self.purpose.clone(),
            items: vec![ScopeItem {
                dataset: self.dataset.clone(),
                columns: vec![COLUMN.to_owned()],
                from: None,
                to: None,
            }],
            actions: ActionSet::default().with(Action::Query),
            starts: start,
            expires: end,
            metered: false,
        };
        let grants: Vec<Grant> = granted.iter().map(grant).collect();
        let request = DecisionRequest {
            org: self.org.clone(),
            purpose: self.purpose.clone(),
            action: Action::Query,
            at: Timestamp(1),
            until: Timestamp(2),
            subjects: None,
            datasets: vec![self.dataset.clone()],
        };
        let scope = scope(&self.contract, &request, &[agreement], &grants);
        Arc::new(DenseScope::new(Arc::new(scope)))
    }

    /// What decides about rows under a scope.
    pub fn gate(&self, scope: &Arc<DenseScope>) -> RowGate {
        let shown = schema(&[COLUMN]);
        RowGate {
            scope: Arc::new(ScanScope::new(scope, ColumnSet::of(0), false, None)),
            columns: vec![OutputColumn {
                scope_index: 0,
                ty: ColumnType::Int32,
                form: Form::Clear,
                always: false,
                by_grant: true,
                value: 1,
                flag: None,
            }],
            delivered: 1,
            checked_schema: Arc::clone(&shown),
            schema: shown,
            traced: false,
            conjuncts: Vec::new(),
            number: 0,
            event_date: None,
            window: Vec::new(),
            today: 0,
        }
    }
}

/// A table of one file.
async fn file(batch: &RecordBatch) -> TableVersion {
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (path, size) = (Path::from("rows.parquet"), bytes.len() as u64);
    store.put(&path, bytes.into()).await.unwrap();
    TableVersion {
        version: 1,
        rows: batch.num_rows() as u64,
        files: vec![TableFile {
            path,
            size,
            present: Arc::new((1..=ENTERPRISES).collect()),
        }],
        store,
    }
}
