//! What has to be deleted of holdings, and why.
//!
//! A holding rests on a consent when data of its enterprise is in it by consent, for the same organisation and purpose,
//! of a dataset that the consent names with action STORE, and the consent had been in force before: it, an earlier
//! version of it, or one that it took the place of. Where the rows of the dataset are there by consent, naming the dataset
//! is enough, whichever columns were read; where only cells are, one of the columns read has to be named. When such a
//! consent is withdrawn, revoked or declared void, the enterprise's part is due; when it is narrowed or replaced, where
//! what remains no longer covers the rows and cells that the holding was made from. A pause and an expiry give nothing
//! more and leave what was given: its life goes on, and a resumption changes nothing of it. What still covers it, but
//! for a shorter time, ends its life sooner. A revoked agreement makes everything due that rests on it.

use std::collections::{BTreeMap, BTreeSet};

use qihui_catalog::{Action, OrgId, PurposeCode, Timestamp};
use roaring::RoaringBitmap;
use serde::Deserialize;
use serde_json::json;
use sqlx::SqliteConnection;

use super::{
    ByConsent, HoldingDocument,
    change::Change,
    fold::{Shortened, sooner},
    holdings::{DELETE_WITHIN_DAYS, append_due, days_after, members_of},
    kept::LIFE_OVER,
};
use crate::{
    decision::{Agreement, AgreementId},
    document::{ConsentDocument, ScopeLine, is_covered},
    error::Result,
    state::State,
    store::{
        consents::{self, ConsentRow},
        events,
        holdings::{self, DueRow, EVERYTHING, HoldingRow},
        parsed,
    },
};

/// How many holdings one event is about at most.
const BATCH: u32 = 500;

/// Why the part of an enterprise is due once its consent is in this state; none: it is not.
fn reason(state: State) -> Option<&'static str> {
    match state {
        State::Withdrawn => Some("withdrawn"),
        State::Revoked => Some("revoked"),
        State::Invalidated => Some("invalidated"),
        _ => None,
    }
}

/// What a version of a consent opened of what a holding was made from. A line without columns opened rows alone.
fn behind(document: &ConsentDocument, held: &HoldingDocument) -> Vec<ScopeLine> {
    let lines = document.scope.iter().filter_map(|line| {
        let of = held.datasets.iter().find(|of| of.dataset == line.dataset)?;
        let columns = line.columns.iter().filter(|name| of.columns.contains(name));
        let columns: Vec<String> = columns.cloned().collect();
        let opened = match of.by_consent {
            ByConsent::Rows => true,
            ByConsent::Cells => !columns.is_empty(),
            ByConsent::Nothing => false,
        };
        opened.then(|| ScopeLine {
            columns,
            ..line.clone()
        })
    });
    lines.collect()
}

/// The rows that lines open, whichever columns they name: as lines of one column that stands for them all.
fn rows_of<'a>(lines: impl Iterator<Item = &'a ScopeLine>) -> Vec<ScopeLine> {
    let row = |line: &ScopeLine| ScopeLine {
        columns: vec![String::new()],
        ..line.clone()
    };
    lines.map(row).collect()
}

/// Whether a document still opens everything that a version of a consent opened of what a holding was made from.
fn still_covers(by: &ConsentDocument, before: &ConsentDocument, held: &HoldingDocument) -> bool {
    let opened = behind(before, held);
    let has_rows = |line: &&ScopeLine| {
        let mut datasets = held.datasets.iter();
        datasets.any(|of| of.dataset == line.dataset && of.by_consent == ByConsent::Rows)
    };
    let rows = rows_of(opened.iter().filter(has_rows));
    by.actions.contains(Action::Store)
        && is_covered(&opened, &by.scope)
        && is_covered(&rows, &rows_of(by.scope.iter()))
}

/// The holdings that rest on a version of a consent.
async fn resting_on(change: &mut Change, row: &ConsentRow) -> Result<Vec<HoldingRow>> {
    let document = &row.document;
    if !document.actions.contains(Action::Store) {
        return Ok(Vec::new());
    }
    let id = document.consent_id.as_str();
    let Some(since) = events::first_active(change.connection(), id).await? else {
        return Ok(Vec::new());
    };
    let about = (&document.consumer.org, &document.purpose.code);
    let mut found = holdings::kept_with(change.connection(), about, row.no).await?;
    found.retain(|held| since <= held.recorded && !behind(document, &held.document).is_empty());
    Ok(found)
}

/// Marks the part of an enterprise in holdings as due.
async fn mark(
    change: &mut Change,
    row: &ConsentRow,
    reason: &str,
    held: &[HoldingRow],
) -> Result<()> {
    let now = change.now;
    let whose: RoaringBitmap = [row.no.0].into_iter().collect();
    for held in held.chunks(BATCH as usize) {
        let ids: Vec<&str> = held
            .iter()
            .map(|held| held.document.holding_id.as_str())
            .collect();
        let delete_by = days_after(now, DELETE_WITHIN_DAYS);
        let body = json!({
            "consent_id": row.document.consent_id,
            "delete_by": delete_by,
            "everything": false,
            "holdings": ids,
            "org": row.document.consumer.org,
            "reason": reason,
        });
        let since = append_due(change, &body, &whose).await?;
        for held in held {
            let due = DueRow {
                no: row.no.0,
                reason: reason.to_owned(),
                consent_id: Some(row.document.consent_id.to_string()),
                delete_by: sooner(delete_by, held.keep_until),
                since,
                deleted: None,
            };
            holdings::mark(change.connection(), held.seq, &due).await?;
        }
    }
    Ok(())
}

/// Holdings of which this enterprise's part is not due yet.
async fn not_yet_due(
    change: &mut Change,
    row: &ConsentRow,
    held: Vec<HoldingRow>,
) -> Result<Vec<HoldingRow>> {
    let mut fresh = Vec::new();
    for held in held {
        if !holdings::is_due(change.connection(), held.seq, row.no.0).await? {
            fresh.push(held);
        }
    }
    Ok(fresh)
}

/// What follows for holdings from a version of a consent that was taken back.
pub(super) async fn taken_back(change: &mut Change, row: &ConsentRow) -> Result<()> {
    let Some(reason) = reason(row.progress.state) else {
        return Ok(());
    };
    let held = resting_on(change, row).await?;
    let held = not_yet_due(change, row, held).await?;
    mark(change, row, reason, &held).await
}

/// What follows for holdings from a version of a consent in whose place another document came.
pub(super) async fn replaced(
    change: &mut Change,
    row: &ConsentRow,
    by: &ConsentDocument,
    reason: &str,
) -> Result<()> {
    let (mut due, mut shorter) = (Vec::new(), Vec::new());
    for held in resting_on(change, row).await? {
        let end = days_after(held.document.at, by.data_life_days);
        if !still_covers(by, &row.document, &held.document) {
            due.push(held);
        } else if by.data_life_days < row.document.data_life_days
            && held.keep_until.is_none_or(|until| end < until)
        {
            shorter.push((held, end));
        }
    }
    shorten(change, row, reason, &shorter).await?;
    let due = not_yet_due(change, row, due).await?;
    mark(change, row, reason, &due).await
}

/// Lets holdings be kept no longer than until an instant each.
async fn shorten(
    change: &mut Change,
    row: &ConsentRow,
    reason: &str,
    held: &[(HoldingRow, Timestamp)],
) -> Result<()> {
    for held in held.chunks(BATCH as usize) {
        let holdings = held.iter().map(|(held, keep_until)| Shortened {
            holding_id: held.document.holding_id.clone(),
            keep_until: *keep_until,
        });
        let holdings: Vec<Shortened> = holdings.collect();
        let body = json!({
            "consent_id": row.document.consent_id,
            "holdings": holdings,
            "org": row.document.consumer.org,
            "reason": reason,
        });
        change
            .append("holding.shortened", &body, &[row.no], None)
            .await?;
        for (held, keep_until) in held {
            holdings::shorten(change.connection(), held.seq, *keep_until).await?;
        }
    }
    Ok(())
}

/// Marks a whole holding as due.
async fn mark_whole(
    change: &mut Change,
    held: &HoldingRow,
    reason: &str,
    delete_by: Timestamp,
) -> Result<()> {
    let whose = members_of(change, held.seq).await?;
    let body = json!({
        "delete_by": delete_by,
        "everything": true,
        "holdings": [held.document.holding_id],
        "org": held.document.org,
        "reason": reason,
    });
    let since = append_due(change, &body, &whose).await?;
    let due = DueRow {
        no: EVERYTHING,
        reason: reason.to_owned(),
        consent_id: None,
        delete_by,
        since,
        deleted: None,
    };
    holdings::mark(change.connection(), held.seq, &due).await?;
    Ok(())
}

/// Marks a whole holding as due because of an agreement that was revoked, if it rests on that and is not due yet.
async fn agreement_ended(
    change: &mut Change,
    held: &HoldingRow,
    agreement: &AgreementId,
) -> Result<()> {
    if !held.document.basis.contains(agreement)
        || holdings::is_due(change.connection(), held.seq, EVERYTHING).await?
    {
        return Ok(());
    }
    let delete_by = days_after(change.now, DELETE_WITHIN_DAYS);
    let delete_by = sooner(delete_by, held.keep_until);
    mark_whole(change, held, "agreement", delete_by).await
}

/// What follows for holdings from an agreement that was revoked.
pub(super) async fn agreement_revoked(change: &mut Change, agreement: &Agreement) -> Result<()> {
    for purpose in &agreement.purposes {
        for held in holdings::kept(change.connection(), &agreement.org, purpose).await? {
            agreement_ended(change, &held, &agreement.id).await?;
        }
    }
    Ok(())
}

/// Marks holdings whose time is over; how many.
pub(super) async fn lives_over(change: &mut Change) -> Result<u64> {
    let now = change.now;
    let over = holdings::ending(change.connection(), now, BATCH).await?;
    for held in &over {
        let end = held.keep_until.unwrap_or(now);
        mark_whole(change, held, LIFE_OVER, end).await?;
    }
    Ok(over.len() as u64)
}

/// What ended since a decision.
#[derive(Default)]
pub(super) struct Ended {
    /// Versions of consents to the organisation for the purpose, by the position of the event that ended each.
    consents: BTreeMap<u64, (String, u32)>,
    agreements: BTreeSet<AgreementId>,
    /// It was looked for up to here, at least.
    position: u64,
}

impl Ended {
    /// Nothing yet since a decision that was made at `position`.
    pub(super) fn since(position: u64) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// Adds what ended since it was last looked for. Many events may be between a decision and the end of its release; who
    /// looks outside a transaction first keeps nobody waiting but for the last few.
    pub(super) async fn look(
        &mut self,
        connection: &mut SqliteConnection,
        about: (&OrgId, &PurposeCode),
    ) -> Result<()> {
        #[derive(Deserialize)]
        struct Revoked {
            agreement_id: AgreementId,
        }
        let last = events::last(connection).await?;
        let after = self.position;
        let ended = events::consents_ended_after(connection, about, after).await?;
        self.consents.extend(ended);
        for body in events::bodies_after(connection, after, "agreement.revoked").await? {
            let Revoked { agreement_id } = parsed(&body, "a revocation")?;
            self.agreements.insert(agreement_id);
        }
        self.position = last.map_or(after, |(position, _, _)| position);
        Ok(())
    }
}

/// Marks what was taken away between the decision of a release and its record.
pub(super) async fn taken_meanwhile(
    change: &mut Change,
    document: &HoldingDocument,
    mut ended: Ended,
) -> Result<()> {
    let about = (&document.org, &document.purpose);
    ended.look(change.connection(), about).await?;
    for (id, version) in ended.consents.into_values() {
        let Some(row) = consents::version(change.connection(), &id, version).await? else {
            continue;
        };
        match row.progress.state {
            State::Superseded => {
                let by = consents::successor(change.connection(), &row).await?;
                if let Some(by) = by {
                    let is_next = by.consent_id == row.document.consent_id;
                    let reason = if is_next { "narrowed" } else { "superseded" };
                    replaced(change, &row, &by, reason).await?;
                }
            }
            _ => taken_back(change, &row).await?,
        }
    }
    for agreement_id in ended.agreements {
        let held = holdings::find(change.connection(), &document.holding_id).await?;
        if let Some(held) = held {
            agreement_ended(change, &held, &agreement_id).await?;
        }
    }
    Ok(())
}
