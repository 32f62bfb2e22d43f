//! Versions of a table that must stay readable, and the enterprises in which two versions may differ.

use std::collections::BTreeSet;
use std::sync::Arc;

use qihui_catalog::DatasetId;
use roaring::RoaringBitmap;

use crate::{
    error::WarehouseError,
    index::{self, DataRef},
    log::{LoggedFile, TableLog, TableState},
    warehouse::Warehouse,
};

impl Warehouse {
    /// The enterprises with rows that differ between versions `from` and `to` of a table, either way round: those that
    /// [`Warehouse::changes`] names, or where the log no longer tells, whoever has a row in a file that only one of the
    /// versions has.
    ///
    /// # Errors
    /// [`WarehouseError::UnknownVersion`] when one of the versions is no longer kept.
    pub async fn changed(
        &self,
        dataset: &DatasetId,
        from: i64,
        to: i64,
    ) -> Result<RoaringBitmap, WarehouseError> {
        let (from, to) = (from.min(to), from.max(to));
        if let Some(changed) = self.changes(dataset, from, to).await? {
            return Ok(changed);
        }
        let log = self.log(dataset)?;
        let (before, after) = (log.at(from).await?, log.at(to).await?);
        by_files(&log, &before, &after).await
    }

    /// Keeps these versions of a table, and what it takes to compare them with later ones, from every clean-up that
    /// follows; replaces what was kept before. Erasure alone goes further. Holds as long as the warehouse is open:
    /// whoever relies on a version says so after every start, before anything lands.
    ///
    /// # Errors
    /// The table cannot be named on its store.
    pub fn keep(&self, dataset: &DatasetId, versions: BTreeSet<i64>) -> Result<(), WarehouseError> {
        self.log(dataset)?.keep(versions);
        Ok(())
    }

    /// Keeps these versions of a table from every clean-up that follows, besides those of [`Warehouse::keep`] and those that
    /// were given before. Erasure alone goes further. Holds as long as the warehouse is open: whoever relies on a version says
    /// so after every start, before anything lands.
    ///
    /// # Errors
    /// The table cannot be named on its store.
    pub fn keep_for_good(
        &self,
        dataset: &DatasetId,
        versions: impl IntoIterator<Item = i64>,
    ) -> Result<(), WarehouseError> {
        self.log(dataset)?.keep_for_good(versions);
        Ok(())
    }
}

async fn presence(
    log: &Arc<TableLog>,
    state: &TableState,
    file: &LoggedFile,
) -> Result<RoaringBitmap, WarehouseError> {
    let data = DataRef {
        path: &file.path,
        size: file.size,
        rows: file.rows,
    };
    index::presence(&log.store(), &state.layout, data).await
}

/// Whoever has a row in a live file that only one of the versions has.
async fn by_files(
    log: &Arc<TableLog>,
    before: &TableState,
    after: &TableState,
) -> Result<RoaringBitmap, WarehouseError> {
    let paths = |state: &TableState| -> BTreeSet<String> {
        state.files.iter().map(|file| file.path.clone()).collect()
    };
    let (old, new) = (paths(before), paths(after));
    let mut changed = RoaringBitmap::new();
    for (state, others) in [(before, &new), (after, &old)] {
        for file in &state.files {
            if !file.place.retracted && !others.contains(&file.path) {
                changed |= presence(log, state, file).await?;
            }
        }
    }
    Ok(changed)
}
