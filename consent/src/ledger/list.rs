//! What the ledger tells about consents and events.

use qihui_catalog::{ConsentId, EnterpriseNo, OrgId, Timestamp};

use super::{Consent, Ledger};
use crate::{
    error::{LedgerError, Result},
    store::{consents, events},
};

/// The most that one page holds.
const MAX_PAGE: u32 = 1000;

/// Which consents to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsentFilter {
    /// Of this enterprise.
    pub enterprise: Option<EnterpriseNo>,
    /// To this organisation.
    pub org: Option<OrgId>,
    /// After the page that ended with this mark; none: the first page.
    pub after: Option<i64>,
    /// At most so many; none: a thousand, which is also the most.
    pub limit: Option<u32>,
}

/// An event of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its position, from 1.
    pub position: u64,
    /// When it happened.
    pub time: Timestamp,
    /// Its kind.
    pub kind: String,
    /// Its body: canonical JSON.
    pub body: String,
    /// The enterprises concerned.
    pub subjects: Vec<EnterpriseNo>,
    /// The hash of the event before it, which chains them.
    pub prev: [u8; 32],
    /// Its hash.
    pub hash: [u8; 32],
}

impl Event {
    fn new(row: events::EventRow) -> Result<Self> {
        let subjects = row.subjects()?;
        let events::EventRow {
            position,
            time,
            kind,
            body,
            prev,
            hash,
            ..
        } = row;
        Ok(Self {
            position,
            time,
            kind,
            body,
            subjects,
            prev,
            hash,
        })
    }
}

impl Ledger {
    /// The latest version of a consent.
    pub async fn consent(&self, id: &ConsentId) -> Result<Consent> {
        self.versions(id)
            .await?
            .pop()
            .ok_or_else(|| LedgerError::UnknownConsent(id.clone()))
    }

    /// Every version of a consent, from the first; none when there is no such consent.
    pub async fn versions(&self, id: &ConsentId) -> Result<Vec<Consent>> {
        let mut reader = self.inner.reader().await?;
        let (now, logged) = self.moment(&mut reader).await?;
        let rows = consents::versions(&mut reader, id).await?;
        rows.into_iter()
            .map(|row| Consent::new(row, logged, now))
            .collect()
    }

    /// A page of consents in their latest versions, oldest first, and the mark of the next page if there is one.
    pub async fn consents(&self, filter: &ConsentFilter) -> Result<(Vec<Consent>, Option<i64>)> {
        let mut reader = self.inner.reader().await?;
        let (now, logged) = self.moment(&mut reader).await?;
        let limit = filter.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
        let after = filter.after.unwrap_or(0);
        let mut rows = consents::list(
            &mut reader,
            filter.enterprise,
            filter.org.as_ref(),
            after,
            limit.saturating_add(1),
        )
        .await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|row| row.seq);
        let consents = rows
            .into_iter()
            .map(|row| Consent::new(row, logged, now))
            .collect::<Result<_>>()?;
        Ok((consents, next))
    }

    /// The events of all versions of a consent, in order.
    pub async fn events_of(&self, id: &ConsentId) -> Result<Vec<Event>> {
        let mut reader = self.inner.reader().await?;
        let rows = events::of_consent(&mut reader, id.as_str()).await?;
        rows.into_iter().map(Event::new).collect()
    }

    /// At most `limit` events after a position, in order.
    pub async fn events(&self, after: u64, limit: u32) -> Result<Vec<Event>> {
        let mut reader = self.inner.reader().await?;
        let rows = events::after(&mut reader, after, limit.clamp(1, MAX_PAGE)).await?;
        rows.into_iter().map(Event::new).collect()
    }

    async fn moment(&self, reader: &mut sqlx::SqliteConnection) -> Result<(Timestamp, u64)> {
        let logged = events::last_logged(reader)
            .await?
            .map_or(0, |(position, _)| position);
        Ok((Timestamp(self.inner.clock.now_ms()), logged))
    }
}
