//! Agreements in the ledger.

use qihui_catalog::{Catalog, Timestamp};
use serde::Serialize;
use serde_json::json;
use sqlx::SqliteConnection;

use super::{Ledger, epochs::Loss, marks};
use crate::{
    agreement::{AgreementFile, check_conflicts},
    decision::{Agreement, AgreementId},
    error::{LedgerError, Result},
    store::{agreements, events, parties},
    text,
};

/// An agreement with how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredAgreement {
    /// The agreement.
    pub agreement: Agreement,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether it counts: it is in the log, not revoked, and its time is now.
    pub in_force: bool,
}

impl Ledger {
    /// Adds an agreement and returns it as recorded, with every form written out. In force once logged.
    pub async fn add_agreement(&self, catalog: &Catalog, file: AgreementFile) -> Result<Agreement> {
        let mut change = self.change().await?;
        if !parties::org_exists(change.connection(), &file.org).await? {
            return Err(LedgerError::UnknownOrganisation(file.org));
        }
        let fresh = format!("a-{}", text::random_hex::<8>()?);
        let agreement = file.into_agreement(catalog, &fresh, change.now)?;
        if agreements::find(change.connection(), agreement.id.as_str())
            .await?
            .is_some()
        {
            return Err(LedgerError::AgreementExists(agreement.id.to_string()));
        }
        let others = agreements::of_org(change.connection(), &agreement.org).await?;
        let others: Vec<_> = others
            .into_iter()
            .filter(|row| !row.revoked)
            .map(|row| row.agreement)
            .collect();
        check_conflicts(&agreement, &others)?;
        let body = json!({ "agreement": agreement });
        let position = change.append("agreement.added", &body, &[], None).await?;
        agreements::insert(change.connection(), &agreement, position).await?;
        change.commit().await?;
        Ok(agreement)
    }

    /// Ends an agreement now, on behalf of `by`.
    pub async fn revoke_agreement(&self, id: &AgreementId, by: &str) -> Result<()> {
        let mut change = self.change().await?;
        let row = agreements::find(change.connection(), id.as_str())
            .await?
            .filter(|row| !row.revoked);
        let Some(row) = row else {
            return Err(LedgerError::UnknownAgreement(text::shown(id.as_str())));
        };
        let body = json!({ "agreement_id": id, "by": by, "org": row.agreement.org });
        let position = change.append("agreement.revoked", &body, &[], None).await?;
        agreements::revoke(change.connection(), id.as_str(), position).await?;
        marks::agreement_revoked(&mut change, &row.agreement).await?;
        let Agreement {
            org,
            purposes,
            dataset,
            ..
        } = row.agreement;
        for purpose in purposes {
            change.takes((org.clone(), purpose, dataset.clone()), Loss::Everything);
        }
        change.commit().await
    }

    /// Every agreement, by name.
    pub async fn agreements(&self) -> Result<Vec<StoredAgreement>> {
        let mut reader = self.inner.reader().await?;
        let now = Timestamp(self.inner.clock.now_ms());
        let logged = events::last_logged(&mut reader)
            .await?
            .map_or(0, |(position, _)| position);
        let rows = agreements::all(&mut reader).await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let in_time = row.agreement.valid_from <= now && now < row.agreement.valid_until;
                let in_force = in_time && !row.revoked && row.added <= logged;
                StoredAgreement {
                    agreement: row.agreement,
                    revoked: row.revoked,
                    in_force,
                }
            })
            .collect())
    }
}

/// The agreements of an organisation that are in the log and not revoked.
pub(crate) async fn effective(
    connection: &mut SqliteConnection,
    org: &qihui_catalog::OrgId,
    logged: u64,
) -> Result<Vec<Agreement>> {
    let rows = agreements::of_org(connection, org).await?;
    Ok(rows
        .into_iter()
        .filter(|row| !row.revoked && row.added <= logged)
        .map(|row| row.agreement)
        .collect())
}
