//! Holdings and agreements as the fold over their events.
//!
//! What the tables say of a holding (until when it may be kept, what of it is due and was deleted) can be computed from the
//! events `holding.recorded`, `holding.shortened`, `holding.due` and `holding.deleted`; what they say of an agreement, from
//! `agreement.added` and `agreement.revoked`. A check computes it again.

use std::collections::BTreeMap;

use qihui_catalog::Timestamp;
use serde::{Deserialize, Serialize};

use super::{HoldingDocument, holdings::days_after};
use crate::{
    decision::{Agreement, AgreementId},
    error::{LedgerError, Result},
    store::{
        agreements::AgreementRow,
        events::EventRow,
        holdings::{DueRow, EVERYTHING},
        parsed,
    },
};

/// A holding that may be kept for less than before, as an event says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shortened {
    pub(super) holding_id: String,
    pub(super) keep_until: Timestamp,
}

/// What events say of a holding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folded {
    pub(super) document: HoldingDocument,
    pub(super) recorded: u64,
    pub(super) keep_until: Option<Timestamp>,
    pub(super) deleted: Option<u64>,
    due: BTreeMap<u32, DueRow>,
}

impl Folded {
    /// What of it is due or was deleted, by enterprise.
    pub(super) fn due(&self) -> Vec<DueRow> {
        self.due.values().cloned().collect()
    }
}

/// Every holding and every agreement by its name.
#[derive(Debug, Default)]
pub(super) struct Fold {
    pub(super) holdings: BTreeMap<String, Folded>,
    pub(super) agreements: BTreeMap<AgreementId, AgreementRow>,
}

#[derive(Deserialize)]
struct Added {
    agreement: Agreement,
}

#[derive(Deserialize)]
struct Revoked {
    agreement_id: AgreementId,
}

#[derive(Deserialize)]
struct Recorded {
    holding: HoldingDocument,
}

#[derive(Deserialize)]
struct LessTime {
    holdings: Vec<Shortened>,
}

#[derive(Deserialize)]
struct Due {
    consent_id: Option<String>,
    delete_by: Timestamp,
    everything: bool,
    holdings: Vec<String>,
    reason: String,
}

#[derive(Deserialize)]
struct Deleted {
    holding_id: String,
    everything: bool,
}

impl Fold {
    /// Takes the next event.
    pub(super) fn event(&mut self, event: &EventRow) -> Result<()> {
        match event.kind.as_str() {
            "holding.recorded" => self.recorded(event),
            "holding.shortened" => self.shortened(event),
            "holding.due" => self.due(event),
            "holding.deleted" => self.deleted(event),
            "agreement.added" => self.added(event),
            "agreement.revoked" => self.revoked(event),
            _ => Ok(()),
        }
    }

    fn added(&mut self, event: &EventRow) -> Result<()> {
        let Added { agreement } = parsed(&event.body, "an event")?;
        let id = agreement.id.clone();
        let row = AgreementRow {
            agreement,
            added: event.position,
            revoked: false,
        };
        match self.agreements.insert(id, row) {
            None => Ok(()),
            Some(_) => Err(broken(event, "adds an agreement again")),
        }
    }

    fn revoked(&mut self, event: &EventRow) -> Result<()> {
        let Revoked { agreement_id } = parsed(&event.body, "an event")?;
        let row = self.agreements.get_mut(&agreement_id);
        let row = row.ok_or_else(|| broken(event, "is about an agreement that was never added"))?;
        row.revoked = true;
        Ok(())
    }

    fn recorded(&mut self, event: &EventRow) -> Result<()> {
        let Recorded { holding } = parsed(&event.body, "an event")?;
        let life = holding.data_life_days;
        let folded = Folded {
            recorded: event.position,
            keep_until: life.map(|days| days_after(holding.at, days)),
            deleted: None,
            due: BTreeMap::new(),
            document: holding,
        };
        let id = folded.document.holding_id.clone();
        match self.holdings.insert(id, folded) {
            None => Ok(()),
            Some(_) => Err(broken(event, "records a holding again")),
        }
    }

    fn shortened(&mut self, event: &EventRow) -> Result<()> {
        let LessTime { holdings } = parsed(&event.body, "an event")?;
        for Shortened {
            holding_id,
            keep_until,
        } in holdings
        {
            let held = self.find(event, &holding_id)?;
            held.keep_until = Some(sooner(keep_until, held.keep_until));
        }
        Ok(())
    }

    fn due(&mut self, event: &EventRow) -> Result<()> {
        let due: Due = parsed(&event.body, "an event")?;
        let no = match (due.everything, event.subjects()?.as_slice()) {
            (true, _) => EVERYTHING,
            (false, [one]) => one.0,
            (false, _) => return Err(broken(event, "does not say whose part is due")),
        };
        for id in &due.holdings {
            let held = self.find(event, id)?;
            let row = DueRow {
                no,
                reason: due.reason.clone(),
                consent_id: due.consent_id.clone(),
                delete_by: match no {
                    EVERYTHING => due.delete_by,
                    _ => sooner(due.delete_by, held.keep_until),
                },
                since: event.position,
                deleted: None,
            };
            held.due.entry(no).or_insert(row);
        }
        Ok(())
    }

    fn deleted(&mut self, event: &EventRow) -> Result<()> {
        let Deleted {
            holding_id,
            everything,
        } = parsed(&event.body, "an event")?;
        let held = self.find(event, &holding_id)?;
        for part in held.due.values_mut() {
            part.deleted = part.deleted.or(Some(event.position));
        }
        if everything {
            held.deleted = Some(event.position);
        }
        Ok(())
    }

    fn find(&mut self, event: &EventRow, id: &str) -> Result<&mut Folded> {
        let held = self.holdings.get_mut(id);
        held.ok_or_else(|| broken(event, "is about a holding that was never recorded"))
    }
}

/// The earlier of an instant and the end of a life, if it has one.
pub(super) fn sooner(instant: Timestamp, end: Option<Timestamp>) -> Timestamp {
    end.map_or(instant, |end| end.min(instant))
}

fn broken(event: &EventRow, what: &str) -> LedgerError {
    LedgerError::Corrupt(format!("event {} {what}", event.position))
}
