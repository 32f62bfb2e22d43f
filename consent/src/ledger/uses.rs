//! Uses of consents that count them.

use chrono::{Datelike, Days, NaiveDate};
use qihui_catalog::{ConsentId, EnterpriseNo, Frequency, Period, Timestamp};
use sqlx::SqliteConnection;

use super::{Decision, DecisionError, Ledger};
use crate::{document::ConsentDocument, error::Result, store::consents};

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
}

impl MeteredUse {
    pub(crate) fn of(document: &ConsentDocument, no: EnterpriseNo) -> Self {
        let (max_uses, frequency) = (document.max_uses, document.frequency);
        Self {
            consent_id: document.consent_id.clone(),
            no,
            max_uses,
            frequency,
        }
    }

    /// Whether one more use is allowed at an instant. A use that this access made before does not stand in its way.
    pub(crate) async fn is_left(
        &self,
        connection: &mut SqliteConnection,
        access_id: &str,
        at: Timestamp,
    ) -> Result<bool> {
        if consents::was_used(connection, &self.consent_id, access_id).await? {
            return Ok(true);
        }
        if let Some(max) = self.max_uses {
            let made = consents::uses(connection, &self.consent_id, Timestamp(i64::MIN), access_id)
                .await?;
            if made >= u64::from(max) {
                return Ok(false);
            }
        }
        if let Some(frequency) = self.frequency {
            let since = Timestamp::start_of(period_start(at.shanghai_date(), frequency.per));
            let made = consents::uses(connection, &self.consent_id, since, access_id).await?;
            return Ok(made < u64::from(frequency.count));
        }
        Ok(true)
    }
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
    /// Counts the uses that an access makes by releasing rows under a decision, before the first row. The same access
    /// counts once, however often it is told. When another access took the last use meanwhile, nothing is counted and
    /// nothing may be released.
    pub async fn count_uses(
        &self,
        access_id: &str,
        decision: &Decision,
    ) -> Result<(), DecisionError> {
        if decision.uses.is_empty() {
            return Ok(());
        }
        let mut change = self.change().await?;
        let now = change.now;
        for used in &decision.uses {
            if !used.is_left(change.connection(), access_id, now).await? {
                return Err(DecisionError::InvalidConsentUse {
                    subject: None,
                    reason: "its uses are used up",
                });
            }
            consents::insert_use(change.connection(), &used.consent_id, access_id, now).await?;
        }
        Ok(change.commit().await?)
    }
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
