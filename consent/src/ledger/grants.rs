//! The grants to one grantee, kept in memory so that a decision over a million of them takes milliseconds.
//!
//! Promise: what [`Ledger::grants`] returns is what the store holds in the reader's transaction. The copy in memory
//! remembers the revision it is of; what changed since is read again, so that it is right whoever wrote.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sqlx::SqliteConnection;

use super::Ledger;
use crate::{
    decision::{DatasetScope, GrantTerms, ScopeBuilder, ScopeItem, ShapeNo},
    error::{LedgerError, Result},
    store::{
        events,
        grants::{self, Entry},
    },
};

/// From so many changed enterprises on it is cheaper to read everything again.
const MAX_DELTA: usize = 10_000;
/// How many grants are kept in memory over all grantees: 40 bytes each.
const MAX_CACHED: usize = 4_000_000;

/// The grants in force to one grantee, ascending by number.
#[derive(Debug, Clone)]
pub(crate) struct GrantCache {
    revision: u64,
    entries: Arc<Vec<Entry>>,
    terms: Arc<HashMap<u32, Vec<ScopeItem>>>,
}

impl Ledger {
    /// The grants in force to a grantee.
    pub(crate) async fn grants(
        &self,
        reader: &mut SqliteConnection,
        grantee: i64,
    ) -> Result<GrantCache> {
        let revision = events::revision(reader).await?;
        let cached = self.inner.grants.lock().get(&grantee).cloned();
        let cache = match cached {
            Some(cache) if cache.revision == revision => return Ok(cache),
            Some(cache) if cache.revision < revision => {
                Self::renewed(reader, grantee, cache, revision).await?
            }
            _ => Self::loaded(reader, grantee, revision).await?,
        };
        let mut all = self.inner.grants.lock();
        let others: usize = all
            .iter()
            .filter(|(id, _)| **id != grantee)
            .map(|(_, cache)| cache.entries.len())
            .sum();
        if others + cache.entries.len() > MAX_CACHED {
            all.clear();
        }
        all.insert(grantee, cache.clone());
        Ok(cache)
    }

    async fn loaded(
        reader: &mut SqliteConnection,
        grantee: i64,
        revision: u64,
    ) -> Result<GrantCache> {
        let entries = grants::all(reader, grantee).await?;
        let terms = missing_terms(reader, &entries, &HashMap::new()).await?;
        Ok(GrantCache {
            revision,
            entries: Arc::new(entries),
            terms: Arc::new(terms),
        })
    }

    async fn renewed(
        reader: &mut SqliteConnection,
        grantee: i64,
        mut cache: GrantCache,
        revision: u64,
    ) -> Result<GrantCache> {
        let changed = grants::changed(reader, grantee, cache.revision).await?;
        if changed.len() > MAX_DELTA {
            return Self::loaded(reader, grantee, revision).await;
        }
        if !changed.is_empty() {
            let fresh: Vec<Entry> = grants::of(reader, grantee, &changed)
                .await?
                .into_iter()
                .map(|(entry, _)| entry)
                .collect();
            let terms = missing_terms(reader, &fresh, &cache.terms).await?;
            let mut entries: Vec<Entry> = cache
                .entries
                .iter()
                .filter(|entry| changed.binary_search(&entry.no).is_err())
                .copied()
                .collect();
            entries.extend(fresh);
            entries.sort_by_key(|entry| (entry.no, entry.terms));
            cache.entries = Arc::new(entries);
            if !terms.is_empty() {
                Arc::make_mut(&mut cache.terms).extend(terms);
            }
        }
        cache.revision = revision;
        Ok(cache)
    }
}

async fn missing_terms(
    reader: &mut SqliteConnection,
    entries: &[Entry],
    known: &HashMap<u32, Vec<ScopeItem>>,
) -> Result<HashMap<u32, Vec<ScopeItem>>> {
    let wanted: BTreeSet<u32> = entries
        .iter()
        .map(|entry| entry.terms)
        .filter(|terms| !known.contains_key(terms))
        .collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let wanted: Vec<u32> = wanted.into_iter().collect();
    grants::terms(reader, &wanted).await
}

impl GrantCache {
    /// The scope of those of these grants that the log has up to the event `logged`. The same as
    /// [`crate::decision::scope()`] over the same grants, without a copy of each.
    pub(crate) fn scope(&self, mut builder: ScopeBuilder<'_>, logged: u64) -> Result<DatasetScope> {
        let mut single: HashMap<u32, ShapeNo> = HashMap::new();
        let mut several: HashMap<Vec<u32>, ShapeNo> = HashMap::new();
        let mut counting = Vec::new();
        for of_one in self.entries.chunk_by(|a, b| a.no == b.no) {
            counting.clear();
            let no = of_one.first().map_or(0, |entry| entry.no);
            let no = qihui_catalog::EnterpriseNo(no);
            for entry in of_one.iter().filter(|entry| entry.given <= logged) {
                let Entry {
                    actions,
                    starts,
                    expires,
                    metered,
                    ..
                } = *entry;
                if builder.counts(
                    no,
                    GrantTerms {
                        actions,
                        starts,
                        expires,
                        metered,
                    },
                ) {
                    counting.push(entry.terms);
                }
            }
            counting.dedup();
            let known = match counting.as_slice() {
                [] => continue,
                [terms] => single.get(terms),
                terms => several.get(terms),
            };
            let shape = match known {
                Some(shape) => *shape,
                None => {
                    let items = counting.iter().map(|terms| {
                        self.terms
                            .get(terms)
                            .ok_or_else(|| LedgerError::Corrupt("a grant has no terms".to_owned()))
                    });
                    let items: Vec<_> = items.collect::<Result<_>>()?;
                    let shape = builder.shape(items.into_iter().flatten());
                    if let [terms] = counting.as_slice() {
                        single.insert(*terms, shape);
                    } else {
                        several.insert(counting.clone(), shape);
                    }
                    shape
                }
            };
            builder.admit(shape, no);
        }
        Ok(builder.finish())
    }
}
