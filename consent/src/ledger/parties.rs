//! Organisations with their purposes, and the signatories of enterprises.

use std::fmt;

use qihui_catalog::{
    Catalog, EnterpriseNo, EnterpriseNumbers, NumberRequest, NumbersError, OrgId, PurposeCode, Uscc,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Ledger, epochs::Loss};
use crate::{
    error::{LedgerError, Result},
    signing::PublicKey,
    store::{events, parties},
};

/// The longest name of an organisation or a signatory, in characters.
const MAX_NAME: usize = 200;

/// What an organisation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrganisationKind {
    /// A department of the government.
    Department,
    /// A bank.
    Bank,
    /// A service.
    Service,
}

impl OrganisationKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Department, Self::Bank, Self::Service];

    /// The kind as a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Department => "department",
            Self::Bank => "bank",
            Self::Service => "service",
        }
    }
}

impl fmt::Display for OrganisationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for OrganisationKind {
    type Err = LedgerError;

    fn from_str(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| LedgerError::Malformed {
                what: "organisation",
                reason: "its kind must be department, bank or service".to_owned(),
            })
    }
}

/// An organisation: a grantee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Organisation {
    /// Its identifier.
    pub id: OrgId,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: OrganisationKind,
}

/// Who may sign for an enterprise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatory {
    /// The name, unique within the enterprise.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

/// Refuses a name that is empty, too long or cannot be shown in a line.
pub(crate) fn checked_name(what: &'static str, name: &str) -> Result<()> {
    let length = name.chars().count();
    if name.trim() != name
        || !(1..=MAX_NAME).contains(&length)
        || name.chars().any(char::is_control)
    {
        let reason =
            format!("its name must be 1 to {MAX_NAME} characters, without white space around it");
        return Err(LedgerError::Malformed { what, reason });
    }
    Ok(())
}

impl Ledger {
    /// Registers an organisation.
    pub async fn add_org(&self, org: Organisation) -> Result<()> {
        checked_name("organisation", &org.name)?;
        let mut change = self.change().await?;
        if parties::org_exists(change.connection(), &org.id).await? {
            return Err(LedgerError::OrganisationExists(org.id));
        }
        let position = change
            .append(
                "organisation.added",
                &json!({ "organisation": org }),
                &[],
                None,
            )
            .await?;
        parties::insert_org(
            change.connection(),
            &org.id,
            &org.name,
            org.kind.as_str(),
            position,
        )
        .await?;
        change.commit().await
    }

    /// Every organisation, by identifier.
    pub async fn orgs(&self) -> Result<Vec<Organisation>> {
        let mut reader = self.inner.reader().await?;
        let rows = parties::orgs(&mut reader).await?;
        rows.into_iter()
            .map(|(id, name, kind)| {
                Ok(Organisation {
                    id,
                    name,
                    kind: kind.parse()?,
                })
            })
            .collect()
    }

    /// Lets an organisation, or one principal of it, ask for a purpose. In force once logged. Done already: no change.
    pub async fn assign_purpose(
        &self,
        catalog: &Catalog,
        org: &OrgId,
        principal: Option<&str>,
        purpose: &PurposeCode,
    ) -> Result<()> {
        let known = catalog
            .purposes
            .get(purpose)
            .filter(|purpose| !purpose.heading);
        known.ok_or_else(|| LedgerError::UnknownPurpose(purpose.clone()))?;
        if let Some(principal) = principal {
            checked_name("principal", principal)?;
        }
        let mut change = self.change().await?;
        if !parties::org_exists(change.connection(), org).await? {
            return Err(LedgerError::UnknownOrganisation(org.clone()));
        }
        let body = json!({ "org": org, "principal": principal, "purpose": purpose });
        let position = change.append("purpose.assigned", &body, &[], None).await?;
        let principal = principal.unwrap_or_default();
        if parties::assign_purpose(change.connection(), org, principal, purpose, position).await? {
            change.commit().await?;
        }
        Ok(())
    }

    /// Takes a purpose back from an organisation, or from one principal of it. Not assigned: no change.
    pub async fn unassign_purpose(
        &self,
        catalog: &Catalog,
        org: &OrgId,
        principal: Option<&str>,
        purpose: &PurposeCode,
    ) -> Result<()> {
        let mut change = self.change().await?;
        let who = principal.unwrap_or_default();
        if parties::unassign_purpose(change.connection(), org, who, purpose).await? {
            let body = json!({ "org": org, "principal": principal, "purpose": purpose });
            change
                .append("purpose.unassigned", &body, &[], None)
                .await?;
            for dataset in catalog.contracts.keys() {
                change.takes(
                    (org.clone(), purpose.clone(), dataset.clone()),
                    Loss::Everything,
                );
            }
            change.commit().await?;
        }
        Ok(())
    }

    /// The purposes assigned to an organisation and in force: the principal, or none for all of them, and the purpose.
    pub async fn assigned_purposes(
        &self,
        org: &OrgId,
    ) -> Result<Vec<(Option<String>, PurposeCode)>> {
        let mut reader = self.inner.reader().await?;
        let logged = events::last_logged(&mut reader)
            .await?
            .map_or(0, |(position, _)| position);
        let rows = parties::assignments(&mut reader, org, logged).await?;
        Ok(rows
            .into_iter()
            .map(|(who, purpose)| (Some(who).filter(|who| !who.is_empty()), purpose))
            .collect())
    }

    /// Registers who may sign for an enterprise, which gets a number if it has none.
    pub async fn add_signatory(&self, uscc: Uscc, name: &str, key: PublicKey) -> Result<()> {
        checked_name("signatory", name)?;
        let no = self.number_of(uscc).await?;
        let mut change = self.change().await?;
        let present = parties::signatories(change.connection(), no).await?;
        if present.iter().any(|(other, _)| other == name) {
            return Err(LedgerError::SignatoryExists(name.to_owned()));
        }
        if present.iter().any(|(_, other)| *other == key) {
            // One key under two names would let one person reach a threshold of two.
            let reason = "another signatory of this enterprise has it already";
            return Err(LedgerError::Key {
                place: String::new(),
                reason,
            });
        }
        let body = json!({ "key": hex::encode(key.as_bytes()), "key_id": key.id(), "name": name, "principal": uscc });
        let position = change.append("signatory.added", &body, &[no], None).await?;
        parties::insert_signatory(change.connection(), no, name, &key, position).await?;
        change.commit().await
    }

    /// Removes a signatory: nothing it signs from now on counts.
    pub async fn remove_signatory(&self, uscc: Uscc, name: &str) -> Result<()> {
        let no = self.known_number(uscc).await?;
        let no = no.ok_or_else(|| LedgerError::UnknownSignatory(name.to_owned()))?;
        let mut change = self.change().await?;
        let left = parties::signatories(change.connection(), no)
            .await?
            .len()
            .saturating_sub(1);
        let body = json!({ "name": name, "principal": uscc });
        let position = change
            .append("signatory.removed", &body, &[no], None)
            .await?;
        if !parties::remove_signatory(change.connection(), no, name, position).await? {
            return Err(LedgerError::UnknownSignatory(name.to_owned()));
        }
        let threshold = parties::threshold(change.connection(), no).await?;
        let count = u32::try_from(left).unwrap_or(u32::MAX);
        if threshold > 1 && threshold > count {
            return Err(LedgerError::InvalidThreshold { threshold, count });
        }
        change.commit().await
    }

    /// The present signatories of an enterprise, by name.
    pub async fn signatories(&self, uscc: Uscc) -> Result<Vec<Signatory>> {
        let Some(no) = self.known_number(uscc).await? else {
            return Ok(Vec::new());
        };
        let mut reader = self.inner.reader().await?;
        let rows = parties::signatories(&mut reader, no).await?;
        Ok(rows
            .into_iter()
            .map(|(name, key)| Signatory { name, key })
            .collect())
    }

    /// Says how many signatories have to sign what an enterprise gives, from the next request on. One by default.
    pub async fn set_threshold(&self, uscc: Uscc, threshold: u32) -> Result<()> {
        let no = self.known_number(uscc).await?;
        let no = no.ok_or(LedgerError::InvalidThreshold {
            threshold,
            count: 0,
        })?;
        let mut change = self.change().await?;
        let count = parties::signatories(change.connection(), no).await?.len();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if threshold == 0 || threshold > count {
            return Err(LedgerError::InvalidThreshold { threshold, count });
        }
        let body = json!({ "principal": uscc, "threshold": threshold });
        change
            .append("signatory.threshold_set", &body, &[no], None)
            .await?;
        parties::set_threshold(change.connection(), no, threshold).await?;
        change.commit().await
    }

    /// The number of an enterprise, assigned if it has none.
    pub(crate) async fn number_of(&self, uscc: Uscc) -> Result<EnterpriseNo> {
        let wanted = [NumberRequest {
            uscc,
            county: None,
            section: None,
        }];
        let numbers = self.asked(move |ledger| ledger.assign(&wanted)).await?;
        numbers
            .first()
            .copied()
            .ok_or_else(|| LedgerError::Corrupt("no number was assigned".to_owned()))
    }

    /// The number of an enterprise, if it has one.
    async fn known_number(&self, uscc: Uscc) -> Result<Option<EnterpriseNo>> {
        let found = self.asked(move |ledger| ledger.lookup(&[uscc])).await?;
        Ok(found.first().copied().flatten())
    }

    /// Asks for numbers on a thread that may block.
    async fn asked<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, NumbersError> + Send + 'static,
    ) -> Result<T> {
        let ledger = self.clone();
        let answer = tokio::task::spawn_blocking(move || question(&ledger)).await;
        Ok(answer
            .map_err(|_| LedgerError::Corrupt("the numbers could not be asked".to_owned()))??)
    }
}
