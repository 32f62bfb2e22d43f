//! The grants to one grantee, kept in memory so that a decision over a million of them takes milliseconds.
//!
//! Promise: what [`Ledger::grants`] returns is what the store holds in the reader's transaction. The copy in memory
//! remembers the revision it is of; what changed since is read again, so that it is right whoever wrote.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sqlx::SqliteConnection;

use super::{
    Ledger,
    kept_scopes::{KeptScopes, Stands},
};
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
    /// Scopes over exactly `entries`.
    scopes: Arc<KeptScopes>,
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
            scopes: Arc::default(),
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
            cache.scopes = Arc::default();
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
    /// [`crate::decision::scope()`] over the same grants, without a copy of each; `builder` names no subjects. Requests
    /// that come to the same share one.
    pub(crate) fn scope(
        &self,
        mut builder: ScopeBuilder<'_>,
        logged: u64,
    ) -> Result<Arc<DatasetScope>> {
        if let Some(scope) = self.scopes.get(&builder, logged) {
            return Ok(scope);
        }
        let (action, head) = (builder.request().action, builder.head());
        let mut stands = Stands::new(builder.request());
        for entry in self.entries.iter() {
            stands.note(entry);
        }
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
        let scope = Arc::new(builder.finish());
        self.scopes.put((action, head, stands), logged, &scope);
        Ok(scope)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};
    use qihui_catalog::{Action, EnterpriseNo, Timestamp};

    use super::*;
    use crate::decision::{
        DecisionRequest, Grant, scope,
        tests::{agreements, contracts, dataset, grants, org, purpose},
    };

    fn cache(grants: &[(Grant, u64)]) -> GrantCache {
        let mut terms: HashMap<u32, Vec<ScopeItem>> = HashMap::new();
        let mut entries = Vec::new();
        for (grant, given) in grants {
            let known = terms.iter().find(|(_, items)| **items == grant.items);
            let next = u32::try_from(terms.len()).unwrap();
            let no = known.map_or(next, |(no, _)| *no);
            terms.entry(no).or_insert_with(|| grant.items.clone());
            entries.push(Entry {
                no: grant.no.0,
                terms: no,
                starts: grant.starts,
                expires: grant.expires,
                actions: grant.actions,
                metered: grant.metered,
                given: *given,
            });
        }
        entries.sort_by_key(|entry| (entry.no, entry.terms));
        GrantCache {
            revision: 1,
            entries: Arc::new(entries),
            terms: Arc::new(terms),
            scopes: Arc::default(),
        }
    }

    proptest! {
        #![proptest_config(Config::with_cases(2048))]

        /// GATE-1, the part of the decision: a scope that is kept from an earlier request is the one that this request
        /// comes to, whatever began, ended, was agreed or got into the log in between.
        #[test]
        fn gate_1_a_scope_that_is_kept_is_that_of_the_rules(
            contract in contracts(),
            terms in vec(agreements(), 1..3),
            grants in vec((grants(), 0_u64..4), 0..10),
            requests in vec((0_i64..3, 0_i64..4, select(vec![0, 0, 0, 1]), any::<bool>(), select(vec![0_u64, 4, 4, 4])), 2..10),
        ) {
            let grants: Vec<(Grant, u64)> = grants
                .into_iter()
                .filter(|(grant, _)| grant.items.iter().any(|item| item.dataset == dataset(0)))
                .map(|(grant, given)| (Grant { org: org(0), purpose: purpose(0), ..grant }, given))
                .collect();
            let cache = cache(&grants);
            let (mut at, mut other) = (0, 0);
            for (later, wait, switch, query, logged) in requests {
                // Mostly on; a decision that is made again goes back.
                at = if later == 2 && wait == 0 { 1 } else { at + later };
                other = (other + switch) % terms.len();
                let request = DecisionRequest {
                    org: org(0),
                    purpose: purpose(0),
                    action: if query { Action::Query } else { Action::View },
                    at: Timestamp(at),
                    until: Timestamp(at + wait),
                    subjects: None,
                    datasets: vec![dataset(0)],
                };
                let agreed = &terms[other];
                let counted: Vec<Grant> = grants
                    .iter()
                    .filter(|(_, given)| *given <= logged)
                    .map(|(grant, _)| grant.clone())
                    .collect();
                let builder = ScopeBuilder::new(&contract, &request, agreed);
                let found = cache.scope(builder, logged).unwrap();
                prop_assert_eq!(&*found, &scope(&contract, &request, agreed, &counted));
            }
        }
    }

    /// Whoever asks for the same gets the same scope, not an equal one, until a grant ends.
    #[test]
    fn a_scope_is_shared_as_long_as_it_stands() {
        let items = vec![ScopeItem {
            dataset: dataset(0),
            columns: vec!["a".to_owned()],
            from: None,
            to: None,
        }];
        let grant = |no, starts, expires| Grant {
            consent_id: qihui_catalog::ConsentId::new("c").unwrap(),
            version: 1,
            no: EnterpriseNo(no),
            org: org(0),
            purpose: purpose(0),
            items: items.clone(),
            actions: [Action::Query].into_iter().collect(),
            starts: Timestamp(starts),
            expires: Timestamp(expires),
            metered: false,
        };
        let cache = cache(&[
            (grant(1, 0, 100), 1),
            (grant(2, 0, 50), 1),
            (grant(3, 30, 100), 1),
        ]);
        let contract = crate::decision::tests::contract(
            "tax",
            qihui_catalog::Level::L2,
            false,
            vec![crate::decision::tests::column(
                "a",
                qihui_catalog::ColumnType::Int64,
                qihui_catalog::Level::L2,
            )],
        );
        let agreed = [crate::decision::Agreement {
            id: "a".into(),
            org: org(0),
            dataset: dataset(0),
            purposes: [purpose(0)].into_iter().collect(),
            basis: crate::decision::Basis::Consent,
            aggregate_only: None,
            columns: vec![crate::decision::AgreementColumn {
                name: "a".to_owned(),
                form: None,
                reason: None,
            }],
            valid_from: Timestamp(0),
            valid_until: Timestamp(1000),
        }];
        let at = |at, until| {
            let request = DecisionRequest {
                org: org(0),
                purpose: purpose(0),
                action: Action::Query,
                at: Timestamp(at),
                until: Timestamp(until),
                subjects: None,
                datasets: vec![dataset(0)],
            };
            let builder = ScopeBuilder::new(&contract, &request, &agreed);
            cache.scope(builder, 1).unwrap()
        };
        let first = at(0, 5);
        assert_eq!(first.enterprises(), 2);
        assert!(Arc::ptr_eq(&first, &at(1, 20)));
        assert!(Arc::ptr_eq(&first, &at(29, 50)));
        let second = at(30, 50);
        assert_eq!(second.enterprises(), 3);
        assert!(Arc::ptr_eq(&second, &at(49, 50)));
        assert_eq!(at(49, 51).enterprises(), 2);
    }
}
