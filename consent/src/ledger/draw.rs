//! Which consents of a named enterprise a request draws on.

use std::sync::Arc;

use qihui_catalog::{Contract, EnterpriseNo, Frequency};

use super::uses::{Left, MeteredUse};
use crate::decision::{Agreement, DecisionRequest, Grant, holds_throughout, scope};

/// Who asks, as what, under which agreements.
pub(super) struct Asking<'a> {
    pub(super) request: &'a DecisionRequest,
    pub(super) agreed: &'a [Agreement],
    pub(super) access_id: &'a str,
    /// What is not in the log up to this event does not count.
    pub(super) logged: u64,
    /// How often the purpose may be used about one enterprise.
    pub(super) cap: Option<Frequency>,
}

/// What one named enterprise granted.
#[derive(Default)]
pub(super) struct Granted {
    pub(super) free: Vec<Grant>,
    /// What counts its uses and has one left.
    pub(super) metered: Vec<(Grant, MeteredUse)>,
    /// What would permit the request, had it a use left.
    pub(super) used_up: Option<(MeteredUse, Left)>,
}

impl Granted {
    /// Notes why a use is not left. That the purpose was used too often is the better reason: it holds for all consents.
    pub(super) fn note(&mut self, one: MeteredUse, none: Left) {
        let capped = |none: &Left| matches!(none, Left::Capped(..));
        if !self
            .used_up
            .as_ref()
            .is_some_and(|(_, known)| capped(known))
        {
            self.used_up = Some((one, none));
        }
    }

    pub(super) fn permits(&self, request: &DecisionRequest) -> bool {
        let metered = self.metered.iter().map(|(grant, _)| grant);
        let mut all = self.free.iter().chain(metered);
        all.any(|grant| permits(request, grant))
    }

    /// Draws on what is free, and on as few uses as open the same as all of them: none that could be left out. Of two that
    /// open the same, the one that ends first is used.
    pub(super) fn draw(
        &self,
        contract: &Arc<Contract>,
        asking: &Asking<'_>,
        (drawn, uses): (&mut Vec<Grant>, &mut Vec<MeteredUse>),
    ) {
        let mut metered: Vec<_> = self.metered.iter().collect();
        metered.sort_by_key(|(grant, _)| (grant.expires, grant.consent_id.clone()));
        let opened = |metered: &[&(Grant, MeteredUse)]| {
            let metered = metered.iter().map(|(grant, _)| grant);
            let grants: Vec<Grant> = self.free.iter().chain(metered).cloned().collect();
            let scope = scope(contract, asking.request, asking.agreed, &grants);
            let no = grants.first().map_or(EnterpriseNo(0), |grant| grant.no);
            let shape = scope.shapes.get(scope.shape_of(no)).cloned();
            (shape, grants)
        };
        let (all, _) = opened(&metered);
        for at in (0..metered.len()).rev() {
            let left_out = metered.remove(at);
            if opened(&metered).0 != all {
                metered.insert(at, left_out);
            }
        }
        drawn.extend(opened(&metered).1);
        for (_, one) in metered {
            if !uses.contains(one) {
                uses.push(one.clone());
            }
        }
    }
}

/// Whether a grant in force is for this action and holds throughout the time of the request.
pub(super) fn permits(request: &DecisionRequest, grant: &Grant) -> bool {
    grant.actions.contains(request.action) && holds_throughout(request, grant.starts, grant.expires)
}
