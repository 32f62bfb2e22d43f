//! The check of everything: the chain of events, and what was computed from them.
//!
//! Promise: a ledger that passes holds an unbroken chain of events, and what its tables say of agreements, of consents with
//! the grants that decisions look up, and of holdings is what these events lead to.
//!
//! Limits: all agreements and all holdings, each with its document and its parts that are due or were deleted, are in memory
//! at once; consents are looked at one by one, with a few statements each. The check sees one snapshot, and until
//! it is done the store cannot take in what was written since. Not computed again: organisations, assigned purposes,
//! signatories, artefacts, figures, subscriptions, how far the log is known to have come, counted uses, enterprise numbers.
//! Whoever writes all of a ledger anew, its chain too, passes; the audit log has its events as well, and the hub compares the
//! last of them whenever it opens.

use std::collections::BTreeMap;

use qihui_catalog::Timestamp;
use serde::Deserialize;
use sqlx::SqliteConnection;

use super::{
    Ledger,
    change::{GENESIS, hash_of},
    fold::Fold,
    holdings::members_hash,
    transitions::by_dataset,
};
use crate::{
    decision::{AgreementId, ScopeItem},
    document::ConsentDocument,
    error::{LedgerError, Result},
    state::{ConsentEvent, Progress, State},
    store::{
        agreements::{self, AgreementRow},
        consents::{self, ConsentRow},
        events,
        grants::{self, GrantRow},
        holdings::{self, StandingRow, Wanted},
        parsed,
    },
};

/// How many rows are looked at at once.
const BATCH: u32 = 1000;

/// What a check looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// The number of events: the last position.
    pub events: u64,
    /// The number of versions of consents.
    pub consents: u64,
    /// The number of holdings.
    pub holdings: u64,
    /// The hash of the last event.
    pub head: [u8; 32],
}

impl Ledger {
    /// Verifies that events are numbered without gaps, that time does not go back, that the chain of hashes holds, that
    /// the versions of every consent are chained, that every version is the document that was recorded, in the state that
    /// its events lead to, with the grants that follow from both, that every agreement is what was added, and that every
    /// holding is what was recorded and stands as its events say.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] with the first contradiction, or the ledger cannot be read.
    pub async fn check(&self) -> Result<Checked> {
        let mut reader = self.inner.reader().await?;
        let mut snapshot = sqlx::Connection::begin(&mut *reader).await?;
        let (mut position, mut head, mut time) = (0, GENESIS, Timestamp(i64::MIN));
        let mut fold = Fold::default();
        loop {
            let batch = events::after(&mut snapshot, position, BATCH).await?;
            if batch.is_empty() {
                break;
            }
            for event in batch {
                let place = event.position;
                let broken = |what: &str| LedgerError::Corrupt(format!("event {place} {what}"));
                if place != position + 1 {
                    return Err(broken("does not follow the one before it"));
                }
                if event.prev != head || hash_of(&event) != event.hash {
                    return Err(broken("was changed: its hash does not hold"));
                }
                if event.time < time {
                    return Err(broken("lies before the one before it"));
                }
                fold.event(&event)?;
                (position, head, time) = (place, event.hash, event.time);
            }
        }
        let agreements = std::mem::take(&mut fold.agreements);
        check_agreements(&mut snapshot, agreements).await?;
        let consents = check_consents(&mut snapshot).await?;
        let holdings = fold.holdings.len() as u64;
        check_holdings(&mut snapshot, fold).await?;
        snapshot.rollback().await?;
        Ok(Checked {
            events: position,
            consents,
            holdings,
            head,
        })
    }
}

/// Every holding is what its events say, and whose data is in it is what the first of them binds it to.
async fn check_holdings(snapshot: &mut SqliteConnection, mut fold: Fold) -> Result<()> {
    let mut wanted = Wanted {
        limit: BATCH,
        ..Wanted::default()
    };
    let mut next = Some(0);
    while let Some(after) = next {
        wanted.after = after;
        let (batch, last) = holdings::list(snapshot, wanted).await?;
        for StandingRow { row, .. } in batch {
            let id = &row.document.holding_id;
            let broken = |what: &str| LedgerError::Corrupt(format!("holding `{id}` {what}"));
            let Some(folded) = fold.holdings.remove(id) else {
                return Err(broken("was never recorded"));
            };
            if (&folded.document, folded.recorded) != (&row.document, row.recorded) {
                return Err(broken("is not what its event says"));
            }
            let due = holdings::due(snapshot, row.seq).await?;
            let stands = (row.keep_until, row.deleted, due);
            if (folded.keep_until, folded.deleted, folded.due()) != stands {
                return Err(broken("does not stand as its events say"));
            }
            let members = holdings::members(snapshot, row.seq).await?;
            if members_hash(&members)? != row.document.members_sha256 {
                return Err(broken("holds data of others than its event says"));
            }
        }
        next = last;
    }
    match fold.holdings.into_keys().next() {
        None => Ok(()),
        Some(id) => Err(LedgerError::Corrupt(format!("holding `{id}` is gone"))),
    }
}

/// Every agreement is what its events say.
async fn check_agreements(
    snapshot: &mut SqliteConnection,
    mut folded: BTreeMap<AgreementId, AgreementRow>,
) -> Result<()> {
    let broken = |id: &str, what| LedgerError::Corrupt(format!("agreement `{id}` {what}"));
    for row in agreements::all(snapshot).await? {
        let id = row.agreement.id.clone();
        if folded.remove(&id).as_ref() != Some(&row) {
            return Err(broken(id.as_str(), "is not what its events say"));
        }
    }
    if let Some(id) = agreements::contradicting(snapshot).await? {
        return Err(broken(&id, "is listed as another than it is"));
    }
    match folded.into_keys().next() {
        None => Ok(()),
        Some(id) => Err(broken(id.as_str(), "is gone")),
    }
}

/// Every version of a consent is what its events say, and none is gone.
async fn check_consents(snapshot: &mut SqliteConnection) -> Result<u64> {
    let logged = events::last_logged(snapshot).await?;
    let logged = logged.map_or(0, |(position, _)| position);
    let (mut after, mut count) = (0, 0);
    loop {
        let batch = consents::all(snapshot, after, BATCH).await?;
        let Some(last) = batch.last() else {
            break;
        };
        after = last.seq;
        for row in batch {
            let broken = |what: &str| {
                let id = &row.document.consent_id;
                LedgerError::Corrupt(format!("consent `{id}` {what}"))
            };
            check_events(snapshot, &row, broken).await?;
            check_version(snapshot, &row, broken).await?;
            check_grants(snapshot, &row, logged, broken).await?;
            count += 1;
        }
    }
    // Now that every document is known to be one.
    match consents::contradicting(snapshot).await? {
        None => Ok(count),
        Some(id) => {
            let what = format!("consent `{id}` is gone, or is listed as another than it is");
            Err(LedgerError::Corrupt(what))
        }
    }
}

/// A version is the document that was recorded of its enterprise, in the state that its events lead to.
async fn check_events(
    snapshot: &mut SqliteConnection,
    row: &ConsentRow,
    broken: impl Fn(&str) -> LedgerError,
) -> Result<()> {
    #[derive(Deserialize)]
    struct Body {
        event: ConsentEvent,
        document: Option<ConsentDocument>,
    }
    let mut happened = Vec::new();
    let mut recorded = None;
    for event in events::of_consent(snapshot, row.document.consent_id.as_str()).await? {
        let of = event.consent.as_ref().map(|(_, version)| *version);
        if of != Some(row.document.version) {
            continue;
        }
        if event.subjects()? != [row.no] {
            return Err(broken("is of another enterprise than its events say"));
        }
        let body: Body = parsed(&event.body, "an event")?;
        recorded = recorded.or(body.document);
        happened.push(body.event);
    }
    if recorded.as_ref() != Some(&row.document) {
        return Err(broken("is not the document that its event says"));
    }
    if Progress::fold(&happened).ok().flatten().as_ref() != Some(&row.progress) {
        return Err(broken("is not in the state that its events lead to"));
    }
    Ok(())
}

/// A version names the hash of the one before it.
async fn check_version(
    snapshot: &mut SqliteConnection,
    row: &ConsentRow,
    broken: impl Fn(&str) -> LedgerError,
) -> Result<()> {
    let document = &row.document;
    let prev = match document.version.checked_sub(1) {
        None | Some(0) => None,
        Some(before) => {
            let id = document.consent_id.as_str();
            let before = consents::version(snapshot, id, before).await?;
            before.map(|before| before.document.hash()).transpose()?
        }
    };
    if document.prev_hash != prev.map(hex::encode) {
        return Err(broken("does not follow its version before"));
    }
    Ok(())
}

/// What decisions look up of a version is what its document opens, and in force exactly while it is and its giving is in
/// the log.
async fn check_grants(
    snapshot: &mut SqliteConnection,
    row: &ConsentRow,
    logged: u64,
    broken: impl Fn(&str) -> LedgerError,
) -> Result<()> {
    let document = &row.document;
    let opened = by_dataset(document).into_iter();
    let mut opened: BTreeMap<_, Vec<ScopeItem>> = opened.collect();
    let is_active = row.progress.state == State::Active;
    for grant in grants::of_consent(snapshot, row.seq).await? {
        let items = opened.remove(&grant.dataset);
        let status = match is_active {
            false => grants::OFF,
            true if grant.given <= logged => grants::ON,
            true => grants::WAITING,
        };
        let expected = items.map(|items| GrantRow {
            org: document.consumer.org.clone(),
            purpose: document.purpose.code.clone(),
            dataset: grant.dataset.clone(),
            no: row.no,
            items,
            starts: document.starts,
            expires: document.expires,
            actions: document.actions,
            metered: document.is_metered(),
            data_life: document.data_life_days,
            given: row.given.unwrap_or(row.requested),
            status,
        });
        if expected.as_ref() != Some(&grant) {
            return Err(broken("opens something else than its events say"));
        }
    }
    // What was suspended before it was narrowed opened nothing yet.
    if is_active && !opened.is_empty() {
        return Err(broken("opens less than its events say"));
    }
    Ok(())
}
