//! Uses of consents that count them.
//!
//! Promises:
//! - An access makes at most one use of a consent, however often it is counted; no more accesses than allowed are counted,
//!   whoever counts at the same time. What was counted is durable, before anything is released.
//! - All uses of an access are counted, or none.
//!
//! A frequency is counted per period of the calendar in Asia/Shanghai: a day from midnight, a week from Monday, a month from
//! its first day, a year from 1 January. The instant of a use is that at which it is counted. A use that is counted stays:
//! an access that breaks off has used it.
//!
//! Where a purpose caps the frequency, no enterprise is accessed by an organisation for it more often, over all the consents
//! whose uses are counted that it gave.

use chrono::{Datelike, Days, Months, NaiveDate};
use qihui_catalog::{
    Catalog, ConsentId, EnterpriseNo, Frequency, OrgId, Period, PurposeCode, Timestamp,
};
use serde::Serialize;
use sqlx::SqliteConnection;

use super::{Decision, DecisionError, Ledger, consents::state_at};
use crate::{
    document::ConsentDocument,
    error::{LedgerError, Result},
    state::State,
    store::consents,
};

/// A use that an access makes of a consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeteredUse {
    /// The consent.
    pub consent_id: ConsentId,
    /// The enterprise.
    pub no: EnterpriseNo,
    /// How many uses it allows in all.
    pub max_uses: Option<u32>,
    /// How often it may be used.
    pub frequency: Option<Frequency>,
    /// The organisation it was given to.
    pub org: OrgId,
    /// The purpose it was given for.
    pub purpose: PurposeCode,
    /// How often the purpose may be used about one enterprise.
    pub cap: Option<Frequency>,
}

/// Whether one more use is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// It is.
    Some,
    /// Not of this consent; from the instant on, if ever.
    UsedUp(Option<Timestamp>),
    /// Not for this purpose, which was used this often, before the instant.
    Capped(Frequency, Timestamp),
}

impl MeteredUse {
    pub(crate) fn of(document: &ConsentDocument, no: EnterpriseNo, cap: Option<Frequency>) -> Self {
        let (max_uses, frequency) = (document.max_uses, document.frequency);
        Self {
            consent_id: document.consent_id.clone(),
            no,
            max_uses,
            frequency,
            org: document.consumer.org.clone(),
            purpose: document.purpose.code.clone(),
            cap,
        }
    }

    /// Whether one more use is possible at an instant. A use that this access made before does not stand in its way.
    pub(crate) async fn left(
        &self,
        connection: &mut SqliteConnection,
        access_id: &str,
        at: Timestamp,
    ) -> Result<Left> {
        if consents::was_used(connection, &self.consent_id, access_id).await? {
            return Ok(Left::Some);
        }
        if let Some(max) = self.max_uses {
            let made = consents::uses(connection, &self.consent_id, Timestamp(i64::MIN), access_id);
            if made.await? >= u64::from(max) {
                return Ok(Left::UsedUp(None));
            }
        }
        if let Some(frequency) = self.frequency {
            let (begin, end) = period(at, frequency.per);
            let made = consents::uses(connection, &self.consent_id, begin, access_id).await?;
            if made >= u64::from(frequency.count) {
                return Ok(Left::UsedUp(Some(end)));
            }
        }
        if let Some(cap) = self.cap {
            let (begin, end) = period(at, cap.per);
            let about = (self.no, &self.org, &self.purpose);
            let made = consents::accesses(connection, about, begin, access_id).await?;
            if made >= u64::from(cap.count) {
                return Ok(Left::Capped(cap, end));
            }
        }
        Ok(Left::Some)
    }

    /// The refusal of a use that is not possible, about the subject at this place of the request.
    pub(crate) fn refusal(&self, left: Left, subject: Option<usize>) -> Option<DecisionError> {
        match left {
            Left::Some => None,
            Left::UsedUp(next) => Some(DecisionError::UsesUsedUp { subject, next }),
            Left::Capped(cap, next) => Some(DecisionError::PurposeUsedUp {
                subject,
                purpose: self.purpose.clone(),
                cap,
                next,
            }),
        }
    }
}

/// What is left of a consent whose uses are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsesLeft {
    /// How many uses were made of it.
    pub made: u64,
    /// How many it allows in all; none: as many as the frequency allows.
    pub max_uses: Option<u32>,
    /// How many of these are left.
    pub left: Option<u64>,
    /// How often it may be used.
    pub frequency: Option<Frequency>,
    /// How many uses were made in the present period of the frequency.
    pub made_in_period: Option<u64>,
    /// When that period ends.
    pub period_ends: Option<Timestamp>,
    /// How often the purpose may be used about this enterprise, over all consents that count their uses.
    pub purpose_cap: Option<Frequency>,
    /// How many accesses there were in the present period of that cap.
    pub made_for_purpose: Option<u64>,
    /// The earliest instant at which one more use is possible, as things stand; none: never again, or not in this state.
    pub next: Option<Timestamp>,
}

/// The calendar period, in Asia/Shanghai, that an instant lies in: its first instant and the one after its last.
fn period(at: Timestamp, period: Period) -> (Timestamp, Timestamp) {
    let begin = period_start(at.shanghai_date(), period);
    let end = match period {
        Period::Day => begin.checked_add_days(Days::new(1)),
        Period::Week => begin.checked_add_days(Days::new(7)),
        Period::Month => begin.checked_add_months(Months::new(1)),
        Period::Year => begin.checked_add_months(Months::new(12)),
    };
    let end = end.unwrap_or(NaiveDate::MAX);
    (Timestamp::start_of(begin), Timestamp::start_of(end))
}

/// The first day of the calendar period, in Asia/Shanghai, that a day lies in; weeks begin on Monday.
fn period_start(day: NaiveDate, period: Period) -> NaiveDate {
    let start = match period {
        Period::Day => Some(day),
        Period::Week => {
            day.checked_sub_days(Days::new(u64::from(day.weekday().num_days_from_monday())))
        }
        Period::Month => NaiveDate::from_ymd_opt(day.year(), day.month(), 1),
        Period::Year => NaiveDate::from_ymd_opt(day.year(), 1, 1),
    };
    start.unwrap_or(day)
}

impl Ledger {
    /// Counts the uses that an access makes by releasing rows under a decision, before the first row; those that were not
    /// counted before. The same access counts once, however often it is told. When another access took the last use
    /// meanwhile, nothing is counted and nothing may be released.
    ///
    /// # Errors
    /// No use is left, or the ledger cannot be written.
    pub async fn count_uses(
        &self,
        access_id: &str,
        decision: &Decision,
    ) -> Result<Vec<MeteredUse>, DecisionError> {
        if decision.uses.is_empty() {
            return Ok(Vec::new());
        }
        let mut change = self.change().await?;
        let now = change.now;
        let mut counted = Vec::new();
        for used in &decision.uses {
            let left = used.left(change.connection(), access_id, now).await?;
            if let Some(refusal) = used.refusal(left, None) {
                return Err(refusal);
            }
            let id = &used.consent_id;
            if consents::insert_use(change.connection(), id, access_id, now).await? {
                counted.push(used.clone());
            }
        }
        change.commit().await?;
        Ok(counted)
    }

    /// The consents that an access drew on, and whose they are.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn used_by(&self, access_id: &str) -> Result<Vec<(String, EnterpriseNo)>> {
        let mut reader = self.inner.reader().await?;
        consents::used_by(&mut reader, access_id).await
    }

    /// What is left of a consent; none where its uses are not counted.
    ///
    /// # Errors
    /// There is no such consent, or the ledger cannot be read.
    pub async fn uses_left(&self, catalog: &Catalog, id: &ConsentId) -> Result<Option<UsesLeft>> {
        let mut reader = self.inner.reader().await?;
        let now = self.inner.now(&mut reader).await?;
        let row = consents::latest(&mut reader, id).await?;
        let row = row.ok_or_else(|| LedgerError::UnknownConsent(id.clone()))?;
        if !row.document.is_metered() {
            return Ok(None);
        }
        let used = MeteredUse::of(
            &row.document,
            row.no,
            cap_of(catalog, &row.document.purpose.code),
        );
        let ever = Timestamp(i64::MIN);
        let made = consents::uses(&mut reader, id, ever, "").await?;
        let left = used.max_uses.map(|max| u64::from(max).saturating_sub(made));
        let mut next = Some(now.max(row.document.starts));
        let mut not_before = |count: u32, made: u64, end: Timestamp| {
            if made >= u64::from(count) {
                next = next.map(|next| next.max(end));
            }
        };
        let (mut in_period, mut for_purpose, mut period_ends) = (None, None, None);
        if let Some(frequency) = used.frequency {
            let (begin, end) = period(now, frequency.per);
            let made = consents::uses(&mut reader, id, begin, "").await?;
            not_before(frequency.count, made, end);
            (in_period, period_ends) = (Some(made), Some(end));
        }
        if let Some(cap) = used.cap {
            let (begin, end) = period(now, cap.per);
            let about = (used.no, &used.org, &used.purpose);
            let made = consents::accesses(&mut reader, about, begin, "").await?;
            not_before(cap.count, made, end);
            for_purpose = Some(made);
        }
        let possible = state_at(&row, now) == State::Active && left != Some(0);
        Ok(Some(UsesLeft {
            made,
            max_uses: used.max_uses,
            left,
            frequency: used.frequency,
            made_in_period: in_period,
            period_ends,
            purpose_cap: used.cap,
            made_for_purpose: for_purpose,
            next: next.filter(|next| possible && *next < row.document.expires),
        }))
    }
}

/// How often a purpose may be used about one enterprise.
pub(crate) fn cap_of(catalog: &Catalog, purpose: &PurposeCode) -> Option<Frequency> {
    catalog.purposes.get(purpose)?.caps.frequency
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_follow_the_calendar() {
        let day = |y, m, d| NaiveDate::from_ymd_opt(y, m, d).unwrap();
        let thursday = day(2026, 1, 1);
        assert_eq!(period_start(thursday, Period::Day), thursday);
        assert_eq!(period_start(thursday, Period::Week), day(2025, 12, 29));
        assert_eq!(
            period_start(day(2026, 2, 28), Period::Month),
            day(2026, 2, 1)
        );
        assert_eq!(
            period_start(day(2026, 2, 28), Period::Year),
            day(2026, 1, 1)
        );
        assert_eq!(
            period_start(NaiveDate::MIN, Period::Week),
            NaiveDate::MIN,
            "no day before the first"
        );
    }
}
