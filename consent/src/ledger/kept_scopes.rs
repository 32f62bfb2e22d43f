//! Scopes over the grants of a grantee, kept while they stay what a decision would come to: queries that ask alike share one,
//! and what is made of it.

use std::sync::Arc;

use parking_lot::Mutex;
use qihui_catalog::{Action, Timestamp};

use crate::{
    decision::{DatasetScope, DecisionRequest, Head, ScopeBuilder},
    store::grants::Entry,
};

/// How many scopes are kept of one grantee: there is one per action, and more only while agreements or contracts change.
const MAX_KEPT: usize = 8;

/// Scopes over one unchanging set of grants, the last used last.
#[derive(Debug, Default)]
pub(super) struct KeptScopes(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    contract: [u8; 32],
    action: Action,
    head: Head,
    stands: Stands,
    scope: Arc<DatasetScope>,
}

/// The requests for which the same of the grants count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stands {
    /// The request that was looked at.
    at: Timestamp,
    until: Timestamp,
    /// The first instant after `at` at which another grant begins.
    begins: Timestamp,
    /// The first instant at which one of those that count ends.
    ends: Timestamp,
    /// The event that the log has to have for all of them to count.
    given: u64,
}

impl Stands {
    pub(super) const fn new(request: &DecisionRequest) -> Self {
        Self {
            at: request.at,
            until: request.until,
            begins: Timestamp(i64::MAX),
            ends: Timestamp(i64::MAX),
            given: 0,
        }
    }

    /// Takes a grant into account.
    pub(super) fn note(&mut self, entry: &Entry) {
        self.given = self.given.max(entry.given);
        if entry.starts > self.at {
            self.begins = self.begins.min(entry.starts);
        } else if self.at < entry.expires && self.until <= entry.expires {
            self.ends = self.ends.min(entry.expires);
        }
    }

    /// Whether the same grants count for `request`. One that had ended, or that ends too early, also does for a later
    /// request; one that has begun has begun.
    fn hold(&self, request: &DecisionRequest, logged: u64) -> bool {
        let (at, until) = (request.at, request.until);
        self.given <= logged
            && (self.at <= at && at < self.begins && at < self.ends)
            && (self.until <= until && until <= self.ends)
    }
}

impl KeptScopes {
    /// The scope that `builder`, which was given no grant yet, would come to.
    pub(super) fn get(&self, builder: &ScopeBuilder<'_>, logged: u64) -> Option<Arc<DatasetScope>> {
        let (request, contract) = (builder.request(), builder.contract());
        let mut kept = self.0.lock();
        let mut heads = kept.iter();
        let at = heads.position(|one| {
            one.action == request.action
                && one.contract == contract.hash
                && one.stands.hold(request, logged)
                && one.head == builder.head()
        })?;
        let found = kept.remove(at);
        let scope = Arc::clone(&found.scope);
        kept.push(found);
        Some(scope)
    }

    /// Keeps a scope that a builder which had this head came to.
    pub(super) fn put(
        &self,
        (action, head, stands): (Action, Head, Stands),
        logged: u64,
        scope: &Arc<DatasetScope>,
    ) {
        if stands.given > logged {
            return;
        }
        let mut kept = self.0.lock();
        let contract = scope.contract.hash;
        // What does not stand any more will not stand again: time goes on.
        kept.retain(|one| one.action != action || one.contract != contract || one.head != head);
        if kept.len() >= MAX_KEPT {
            kept.remove(0);
        }
        kept.push(Kept {
            contract,
            action,
            head,
            stands,
            scope: Arc::clone(scope),
        });
    }
}
