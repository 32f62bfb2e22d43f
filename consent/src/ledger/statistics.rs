//! Figures about groups of enterprises: of which rows they are made, and which were released (docs/statistics.md).
//!
//! Promises:
//! - An edition (organisation, dataset, span of event dates) is made of one version of each table, for ever; no two
//!   editions of one organisation and dataset have a day in common.
//! - What [`Ledger::record_statistic`] returned for is durable. Records are never changed, and the event
//!   `statistic.released` holds the hash of each, so that the audit log proves them.
//!
//! Limits: the ledger keeps records; whether figures may be released is decided by whoever holds
//! [`Ledger::statistics_turn`] from the look at the records until the next one.

use std::collections::{BTreeMap, BTreeSet};

use qihui_catalog::{DatasetId, Date, OrgId};
use roaring::RoaringBitmap;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use super::Ledger;
use crate::{
    error::{LedgerError, Result},
    store::{self, parsed, statistics::StatisticRow},
    text,
};

/// What an edition is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EditionKey {
    /// The organisation that has the figures, for whatever purpose.
    pub org: OrgId,
    /// The dataset whose rows stay closed.
    pub dataset: DatasetId,
    /// The first event date.
    pub first_day: Date,
    /// The event date after the last.
    pub end_day: Date,
}

/// An edition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    id: i64,
    /// What it is of.
    pub key: EditionKey,
    /// The version of each table that its figures are made of.
    pub tables: BTreeMap<DatasetId, i64>,
}

impl Edition {
    /// An edition that the ledger does not know: of which nothing can be released.
    #[must_use]
    pub fn unrecorded(key: EditionKey, tables: BTreeMap<DatasetId, i64>) -> Self {
        Self { id: 0, key, tables }
    }
}

/// What was released in answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistic {
    /// SHA-256 of the question.
    pub question: [u8; 32],
    /// What was told of each group.
    pub measures: Vec<String>,
    /// The enterprises of each group, by their numbers. Disjoint.
    pub groups: Vec<RoaringBitmap>,
}

fn corrupt() -> LedgerError {
    LedgerError::Corrupt("the record of a statistic cannot be read".to_owned())
}

impl Statistic {
    fn read(row: &StatisticRow) -> Result<Self> {
        let sizes: Vec<usize> = parsed(&row.sizes, "the record of a statistic")?;
        let mut rest = row.groups.as_slice();
        let mut groups = Vec::with_capacity(sizes.len());
        for size in sizes {
            let (group, after) = rest.split_at_checked(size).ok_or_else(corrupt)?;
            groups.push(RoaringBitmap::deserialize_from(group).map_err(|_| corrupt())?);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(corrupt());
        }
        Ok(Self {
            question: store::hash(&row.question)?,
            measures: parsed(&row.measures, "the record of a statistic")?,
            groups,
        })
    }

    fn written(&self, position: u64) -> Result<StatisticRow> {
        let mut groups = Vec::new();
        let mut sizes = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let before = groups.len();
            group.serialize_into(&mut groups).map_err(|_| corrupt())?;
            sizes.push(groups.len() - before);
        }
        Ok(StatisticRow {
            question: self.question.to_vec(),
            position,
            measures: text::canonical(&self.measures)?,
            sizes: text::canonical(&sizes)?,
            groups,
        })
    }
}

impl Ledger {
    /// The edition of a key, over the tables in the versions given, unless it exists: then over those that it was made
    /// of, and over the given ones of tables that it did not need yet. None: another edition of the organisation has a
    /// day in common with it.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn open_edition(
        &self,
        key: &EditionKey,
        versions: &BTreeMap<DatasetId, i64>,
    ) -> Result<Option<Edition>> {
        if let Some(edition) = self.edition(key).await?
            && versions
                .keys()
                .all(|table| edition.tables.contains_key(table))
        {
            return Ok(Some(edition));
        }
        let mut change = self.change().await?;
        let connection = change.connection();
        if store::statistics::overlaps(connection, key).await? {
            return Ok(None);
        }
        let id = match store::statistics::edition(connection, key).await? {
            Some(id) => id,
            None => store::statistics::insert_edition(connection, key).await?,
        };
        let known = store::statistics::tables(connection, id).await?;
        for (table, version) in versions {
            if !known.iter().any(|(known, _)| known == table.as_str()) {
                store::statistics::insert_table(connection, id, table, *version).await?;
            }
        }
        change.commit().await?;
        self.edition(key).await
    }

    /// The edition of a key, if there is one.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn edition(&self, key: &EditionKey) -> Result<Option<Edition>> {
        let mut reader = self.inner.reader().await?;
        let Some(id) = store::statistics::edition(&mut reader, key).await? else {
            return Ok(None);
        };
        let tables = store::statistics::tables(&mut reader, id).await?;
        let tables = tables
            .into_iter()
            .map(|(table, version)| Ok((store::named(&table, "a dataset")?, version)))
            .collect::<Result<_>>()?;
        let key = key.clone();
        Ok(Some(Edition { id, key, tables }))
    }

    /// The versions of tables that editions are made of: they have to stay readable.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn edition_tables(&self) -> Result<BTreeMap<DatasetId, BTreeSet<i64>>> {
        let mut reader = self.inner.reader().await?;
        let mut versions: BTreeMap<DatasetId, BTreeSet<i64>> = BTreeMap::new();
        for (table, version) in store::statistics::all_tables(&mut reader).await? {
            let table = store::named(&table, "a dataset")?;
            versions.entry(table).or_default().insert(version);
        }
        Ok(versions)
    }

    /// The turn of whoever looks at what was released and adds to it. Nobody else records a statistic meanwhile.
    pub async fn statistics_turn(&self) -> OwnedMutexGuard<()> {
        std::sync::Arc::clone(&self.inner.statistics)
            .lock_owned()
            .await
    }

    /// What was released of an edition, oldest first.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn statistics(&self, edition: &Edition) -> Result<Vec<Statistic>> {
        let mut reader = self.inner.reader().await?;
        let rows = store::statistics::statistics(&mut reader, edition.id).await?;
        rows.iter().map(Statistic::read).collect()
    }

    /// Records what is about to be released of an edition by an access. Durable when it returns the hash of the record.
    ///
    /// # Errors
    /// The ledger cannot be written; then nothing may be released.
    pub async fn record_statistic(
        &self,
        edition: &Edition,
        access_id: &str,
        statistic: &Statistic,
    ) -> Result<[u8; 32]> {
        let mut change = self.change().await?;
        let row = statistic.written(change.next_position())?;
        let hash = text::sha256(&row.groups);
        let key = &edition.key;
        let body = json!({
            "access_id": access_id,
            "org": key.org,
            "dataset": key.dataset,
            "first_day": key.first_day,
            "end_day": key.end_day,
            "tables": edition.tables,
            "question": hex::encode(statistic.question),
            "measures": statistic.measures,
            "groups": statistic.groups.len(),
            "groups_hash": hex::encode(hash),
        });
        change
            .append("statistic.released", &body, &[], None)
            .await?;
        store::statistics::insert_statistic(change.connection(), edition.id, &row).await?;
        change.commit().await?;
        Ok(hash)
    }
}
