//! What is said of a gate to another process, as JSON.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion_proto::bytes::Serializeable;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::file::metadata::ParquetMetaData;
use qihui_catalog::{Action, DatasetId, EnterpriseNo, OrgId, PurposeCode, Timestamp};
use qihui_consent::Decision;
use qihui_consent::decision::DecisionRequest;
use serde::{Deserialize, Serialize};

use super::refused;
use crate::error::QueryError;
use crate::exec::GateScan;
use crate::provider::TableVersion;

/// Who asks for what, for whom and why, and on what the answer rests: the same for every gate of an access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessTask {
    /// The access, as in the log.
    pub access_id: String,
    /// The organisation that asks.
    pub org: OrgId,
    /// The purpose.
    pub purpose: PurposeCode,
    /// What is done with the rows.
    pub action: Action,
    /// The enterprises that the request names; none: whoever granted.
    pub subjects: Option<Vec<EnterpriseNo>>,
    /// The instant of the decision, milliseconds since the epoch.
    pub at: i64,
    /// The deadline of the query, milliseconds since the epoch.
    pub until: i64,
    /// The last event of the ledger that the decision takes into account.
    pub ledger_position: u64,
    /// The last event that was in the log then: what was given later does not count.
    pub logged_position: u64,
    /// The hash of the event at `ledger_position`, hexadecimal: it stands for the ledger's whole history.
    pub ledger_hash: String,
    /// The datasets of the statement.
    pub datasets: BTreeMap<DatasetId, DatasetTask>,
    /// Rows that may pass the gates.
    pub max_rows: u64,
}

/// On what the rows of one dataset rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetTask {
    /// SHA-256 of the contract, hexadecimal.
    pub contract: String,
    /// The version of the table; -1: nothing was ever landed.
    pub table_version: i64,
    /// The commitment to the scope, hexadecimal.
    pub commitment: String,
}

impl AccessTask {
    /// What is said of a decision. `ledger_hash` is that of the event at the decision's position.
    #[must_use]
    pub fn new(
        access_id: &str,
        request: &DecisionRequest,
        decision: &Decision,
        ledger_hash: &[u8; 32],
        tables: &BTreeMap<DatasetId, Arc<TableVersion>>,
        max_rows: u64,
    ) -> Self {
        let datasets = decision.scopes.iter().map(|(dataset, scope)| {
            let task = DatasetTask {
                contract: hex::encode(scope.contract.hash),
                table_version: tables.get(dataset).map_or(-1, |table| table.version),
                commitment: hex::encode(scope.commitment()),
            };
            (dataset.clone(), task)
        });
        Self {
            access_id: access_id.to_owned(),
            org: request.org.clone(),
            purpose: request.purpose.clone(),
            action: request.action,
            subjects: request.subjects.clone(),
            at: request.at.0,
            until: request.until.0,
            ledger_position: decision.ledger_position,
            logged_position: decision.logged_position,
            ledger_hash: hex::encode(ledger_hash),
            datasets: datasets.collect(),
            max_rows,
        }
    }

    /// The request that was decided.
    pub(crate) fn request(&self) -> DecisionRequest {
        DecisionRequest {
            org: self.org.clone(),
            purpose: self.purpose.clone(),
            action: self.action,
            at: Timestamp(self.at),
            until: Timestamp(self.until),
            subjects: self.subjects.clone(),
            datasets: self.datasets.keys().cloned().collect(),
        }
    }
}

/// What one scan reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScanTask {
    /// The dataset.
    pub dataset: DatasetId,
    /// The columns that it delivers.
    pub columns: Vec<String>,
    /// The comparisons that it applies itself, each as the engine writes an expression, hexadecimal.
    pub comparisons: Vec<String>,
    /// Whether rows come in one order, in one partition.
    pub strict: bool,
    /// Least length of a run of rows that is passed without a look at each.
    pub min_inside_rows: usize,
    /// The paths of the files that it reads some of.
    pub files: Vec<String>,
    /// What each partition reads.
    pub partitions: Vec<Vec<ShareTask>>,
}

/// Rows of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareTask {
    /// Its position in [`ScanTask::files`].
    pub file: usize,
    /// Row groups, each with the lengths of runs of rows that are left out and taken, in turn; none: all its rows.
    pub groups: BTreeMap<usize, Option<Vec<usize>>>,
}

/// A gate, for another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateTask {
    /// The access that it is of.
    pub access: AccessTask,
    /// What it reads.
    pub scan: ScanTask,
    /// What it delivers: the schema as an Arrow stream, hexadecimal.
    pub schema: String,
}

impl ScanTask {
    /// What is said of a scan.
    ///
    /// # Errors
    /// [`QueryError::PlanNotSendable`] for what no statement asks for.
    pub(crate) fn of(scan: &GateScan) -> Result<Self, QueryError> {
        if scan.rows.traced {
            let what = "a scan for a delivery";
            return Err(QueryError::PlanNotSendable { what });
        }
        let asked = &scan.asked;
        let comparisons = asked.conjuncts.iter().map(|conjunct| {
            let bytes = conjunct.to_bytes();
            let what = "a comparison";
            let bytes = bytes.map_err(|_| QueryError::PlanNotSendable { what })?;
            Ok(hex::encode(bytes))
        });
        let dealt = &asked.dealt;
        let partitions = dealt.edges.len();
        let mut files = Vec::new();
        let mut positions = BTreeMap::new();
        let mut all = Vec::with_capacity(partitions);
        for partition in 0..partitions {
            let shares = [&dealt.whole, &dealt.partial, &dealt.edges].into_iter();
            let shares = shares.flat_map(|dealt| dealt.get(partition).into_iter().flatten());
            let shares = shares.filter_map(|share| {
                let path = &scan.readers.table().files.get(share.file)?.path;
                let position = *positions.entry(share.file).or_insert_with(|| {
                    files.push(path.to_string());
                    files.len() - 1
                });
                Some(ShareTask::of(position, &share.rows))
            });
            all.push(shares.collect());
        }
        let columns = scan.rows.schema.fields().iter();
        Ok(Self {
            dataset: scan.dataset.clone(),
            columns: columns.map(|field| field.name().clone()).collect(),
            comparisons: comparisons.collect::<Result<_, QueryError>>()?,
            strict: asked.strict,
            min_inside_rows: asked.min_inside_rows,
            files,
            partitions: all,
        })
    }

    /// The comparisons.
    pub(crate) fn conjuncts(&self) -> Result<Vec<Expr>, QueryError> {
        let unreadable = || refused("a comparison cannot be read");
        let read = |text: &String| {
            let bytes = hex::decode(text).map_err(|_| unreadable())?;
            // It knows no function: a comparison has none.
            Expr::from_bytes_with_ctx(&bytes, &TaskContext::default()).map_err(|_| unreadable())
        };
        self.comparisons.iter().map(read).collect()
    }
}

impl ShareTask {
    fn of(file: usize, rows: &ParquetAccessPlan) -> Self {
        let groups = rows.inner().iter().enumerate();
        let groups = groups.filter_map(|(group, access)| match access {
            RowGroupAccess::Skip => None,
            RowGroupAccess::Scan => Some((group, None)),
            RowGroupAccess::Selection(rows) => Some((group, Some(runs(rows)))),
        });
        Self {
            file,
            groups: groups.collect(),
        }
    }

    /// The rows as a reader takes them.
    ///
    /// # Errors
    /// [`QueryError::PlanRefused`] when the file has other row groups, or row groups of other lengths.
    pub(crate) fn rows(&self, metadata: &ParquetMetaData) -> Result<ParquetAccessPlan, QueryError> {
        let unknown = || refused("it names rows that a file does not have");
        let mut plan = ParquetAccessPlan::new_none(metadata.num_row_groups());
        for (group, runs) in &self.groups {
            let rows = metadata.row_groups().get(*group).ok_or_else(unknown)?;
            plan.scan(*group);
            let Some(runs) = runs else { continue };
            let length = runs
                .iter()
                .try_fold(0_usize, |sum, run| sum.checked_add(*run));
            if length.and_then(|rows| i64::try_from(rows).ok()) != Some(rows.num_rows()) {
                return Err(unknown());
            }
            let selectors = runs.iter().enumerate().map(|(at, rows)| RowSelector {
                row_count: *rows,
                skip: at % 2 == 0,
            });
            plan.scan_selection(*group, selectors.collect::<Vec<_>>().into());
        }
        Ok(plan)
    }
}

/// Rows left out and taken, in turn.
fn runs(rows: &RowSelection) -> Vec<usize> {
    let mut runs = vec![0];
    let mut skips = true;
    for selector in rows.iter() {
        if selector.skip == skips {
            if let Some(last) = runs.last_mut() {
                *last += selector.row_count;
            }
        } else {
            runs.push(selector.row_count);
            skips = selector.skip;
        }
    }
    runs
}

impl GateTask {
    /// What is said of a scan of an access.
    pub(crate) fn of(access: &AccessTask, scan: &GateScan) -> Result<Self, QueryError> {
        let described = access.datasets.contains_key(&scan.dataset);
        if !described {
            let what = "a scan of another access";
            return Err(QueryError::PlanNotSendable { what });
        }
        Ok(Self {
            access: access.clone(),
            scan: ScanTask::of(scan)?,
            schema: hex::encode(schema_to_bytes(&scan.rows.schema)?),
        })
    }

    /// The schema of what it delivers.
    pub(crate) fn schema(&self) -> Result<SchemaRef, QueryError> {
        let bytes = hex::decode(&self.schema).map_err(|_| refused("its schema cannot be read"))?;
        schema_from_bytes(&bytes)
    }
}

/// A schema, as an Arrow stream without batches.
pub(crate) fn schema_to_bytes(schema: &SchemaRef) -> Result<Vec<u8>, QueryError> {
    let mut bytes = Vec::new();
    let written = StreamWriter::try_new(&mut bytes, schema).and_then(|mut to| to.finish());
    let what = "a schema";
    written.map_err(|_| QueryError::PlanNotSendable { what })?;
    Ok(bytes)
}

pub(crate) fn schema_from_bytes(bytes: &[u8]) -> Result<SchemaRef, QueryError> {
    let reader = StreamReader::try_new(Cursor::new(bytes), None);
    let reader = reader.map_err(|_| refused("its schema cannot be read"))?;
    Ok(reader.schema())
}
