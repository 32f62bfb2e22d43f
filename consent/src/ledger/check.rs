//! The check of everything: the chain of events, and what was computed from them.

use qihui_catalog::Timestamp;
use serde::Deserialize;

use super::{
    Ledger,
    change::{GENESIS, hash_of},
    fold::Fold,
    holdings::members_hash,
};
use crate::{
    error::{LedgerError, Result},
    state::{ConsentEvent, Progress},
    store::{
        consents, events,
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
    /// The hash of the last event.
    pub head: [u8; 32],
}

impl Ledger {
    /// Verifies that events are numbered without gaps, that time does not go back, that the chain of hashes holds, that
    /// the versions of every consent are chained, that the state of every version is the fold over its events, and that
    /// every holding is what was recorded and stands as its events say.
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
        let consents = Self::check_consents(&mut snapshot).await?;
        Self::check_holdings(&mut snapshot, fold).await?;
        snapshot.rollback().await?;
        Ok(Checked {
            events: position,
            consents,
            head,
        })
    }

    /// Every holding is what its events say, and whose data is in it is what the first of them binds it to.
    async fn check_holdings(snapshot: &mut sqlx::SqliteConnection, mut fold: Fold) -> Result<()> {
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

    async fn check_consents(snapshot: &mut sqlx::SqliteConnection) -> Result<u64> {
        #[derive(Deserialize)]
        struct Body {
            event: ConsentEvent,
        }
        let (mut after, mut count) = (0, 0);
        loop {
            let batch = consents::all(snapshot, after, BATCH).await?;
            let Some(last) = batch.last() else {
                return Ok(count);
            };
            after = last.seq;
            for row in batch {
                let id = &row.document.consent_id;
                let broken = |what: &str| LedgerError::Corrupt(format!("consent `{id}` {what}"));
                let mut happened = Vec::new();
                for event in events::of_consent(snapshot, id.as_str()).await? {
                    if event
                        .consent
                        .as_ref()
                        .is_some_and(|(_, version)| *version == row.document.version)
                    {
                        happened.push(parsed::<Body>(&event.body, "an event")?.event);
                    }
                }
                if Progress::fold(&happened).ok().flatten().as_ref() != Some(&row.progress) {
                    return Err(broken("is not in the state that its events lead to"));
                }
                let before = row
                    .document
                    .version
                    .checked_sub(1)
                    .filter(|version| *version > 0);
                let versions = consents::versions(snapshot, id).await?;
                let before = versions
                    .iter()
                    .find(|other| Some(other.document.version) == before);
                let prev = before
                    .map(|other| other.document.hash().map(hex::encode))
                    .transpose()?;
                if row.document.prev_hash != prev {
                    return Err(broken("does not follow its version before"));
                }
                count += 1;
            }
        }
    }
}
