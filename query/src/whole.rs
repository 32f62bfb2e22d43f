//! Tables as the hub itself reads them, to make products of them: every row that is disclosed on a day, every column,
//! of some or all enterprises.
//!
//! **Nothing that is read here leaves the hub.** Rows go into tables of the hub alone, and from there to somebody only
//! through the gate, under contracts that are as strict as what went in. Who releases rows uses [`crate::access`].
//!
//! The reading goes through the same operator as everybody's ([`GatedTable`]), with a scope that covers everything:
//! so a disclosure window ends for a product on the very day on which it ends for everybody, and a few enterprises are
//! found as fast as for a query about them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use datafusion::catalog::TableProvider;
use datafusion::execution::TaskContext;
use object_store::memory::InMemory;
use qihui_catalog::{Contract, Date};
use qihui_consent::decision::{ColumnScope, DatasetScope, Form, Shape};
use qihui_warehouse::{Snapshot, Warehouse};
use roaring::RoaringBitmap;

use crate::account::Account;
use crate::dense::DenseScope;
use crate::error::QueryError;
use crate::exec::Standing;
use crate::provider::{GatedTable, MIN_INSIDE_ROWS, QueryContext, TableFile, TableVersion};

/// The mark on a product's table that says by which rules its rows were made:
/// [`qihui_catalog::Catalog::product_stamp`].
pub const STAMP_MARK: &str = "qihui.product.stamp";

/// The files of a snapshot, with the enterprises in each.
///
/// # Errors
/// [`QueryError::Warehouse`].
pub async fn table_version(
    warehouse: &Warehouse,
    snapshot: &Snapshot,
) -> Result<TableVersion, QueryError> {
    let mut files = Vec::with_capacity(snapshot.files.len());
    for file in snapshot.files.iter() {
        let present = warehouse.presence(snapshot, file).await;
        files.push(TableFile {
            path: file.path.as_str().into(),
            size: file.size,
            present: present.map_err(|error| QueryError::unreadable(&error))?,
        });
    }
    Ok(TableVersion {
        version: snapshot.version,
        rows: snapshot.rows(),
        files,
        store: snapshot.object_store(),
    })
}

/// A table that nothing was ever landed in.
#[must_use]
pub fn never_landed() -> TableVersion {
    TableVersion {
        version: -1,
        rows: 0,
        files: Vec::new(),
        store: Arc::new(InMemory::new()),
    }
}

/// Every column of the rows of `enterprises` (none: of all) that the contract discloses on `day`. A contract without
/// its window gives every row.
#[must_use]
pub fn table(
    contract: &Arc<Contract>,
    version: &Arc<TableVersion>,
    enterprises: Option<&RoaringBitmap>,
    day: Date,
    reader: &Arc<TaskContext>,
) -> Arc<dyn TableProvider> {
    let columns = contract.landed().map(|column| ColumnScope {
        name: column.name.clone(),
        form: Form::Clear,
        always: true,
        public_when: None,
        by_grant: false,
        agreements: Vec::new(),
    });
    let scope = DatasetScope {
        contract: Arc::clone(contract),
        columns: columns.collect(),
        all_rows: true,
        shapes: vec![Shape::default()],
        members: vec![RoaringBitmap::new()],
        agreements: Vec::new(),
        reasons: Vec::new(),
        subjects: enterprises.cloned(),
        statistics: None,
    };
    let context = QueryContext {
        account: Arc::new(Account::new(u64::MAX)),
        permit: Arc::new(Standing),
        strict: Arc::new(AtomicBool::new(false)),
        numbers: None,
        reader: Arc::clone(reader),
        today: day,
        min_inside_rows: MIN_INSIDE_ROWS,
    };
    let scope = Arc::new(DenseScope::new(Arc::new(scope)));
    Arc::new(GatedTable::new(scope, Arc::clone(version), context))
}
