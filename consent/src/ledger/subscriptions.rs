//! Subscriptions: which organisation is brought which topic, for which purpose and how.
//!
//! A subscription opens nothing; the decision is made anew for every delivery. It is kept like an artefact: every
//! change is an event and a new version of one small document.

use qihui_catalog::{
    Artefact, Catalog, ConsentId, DatasetId, EnterpriseNo, OrgId, PurposeCode, Timestamp, TopicName,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Ledger, change::Change, consents::state_at};
use crate::{
    error::{LedgerError, Result},
    state::State,
    store::{consents, events, parties},
    text,
};

/// The kind under which subscriptions are kept.
const KIND: &str = "subscription";

/// How a subscription's events reach the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// The subscriber fetches pages.
    Pull,
    /// The hub writes to a Kafka topic of the organisation's own.
    Kafka,
}

impl Delivery {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Kafka => "kafka",
        }
    }
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// Its name, drawn by the hub: `s-` and hexadecimal digits.
    pub subscription_id: String,
    /// The organisation that receives.
    pub org: OrgId,
    /// The topic.
    pub topic: TopicName,
    /// What for.
    pub purpose: PurposeCode,
    /// How it is delivered.
    pub delivery: Delivery,
    /// Who added it.
    pub added_by: String,
    /// Whether it has ended; what has ended delivers nothing more.
    pub ended: bool,
}

/// How the consent that an enterprise's rows came under stands now: what a notice to a subscriber is written from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentStanding {
    /// The consent.
    pub consent_id: ConsentId,
    /// Its state now.
    pub state: State,
    /// How long the receiver may keep what it got, in days.
    pub data_life_days: u32,
    /// The instant it ends or ended by itself.
    pub expires: Timestamp,
}

impl Ledger {
    /// Adds a subscription of an organisation to a topic, on behalf of `by`.
    ///
    /// # Errors
    /// The organisation or the purpose is unknown, or there is a subscription of this kind already; by Kafka, one to
    /// this topic for whatever purpose.
    pub async fn add_subscription(
        &self,
        catalog: &Catalog,
        (org, topic, purpose): (OrgId, TopicName, PurposeCode),
        delivery: Delivery,
        by: &str,
    ) -> Result<Subscription> {
        let known = catalog
            .purposes
            .get(&purpose)
            .filter(|purpose| !purpose.heading);
        known.ok_or_else(|| LedgerError::UnknownPurpose(purpose.clone()))?;
        let mut change = self.change().await?;
        if !parties::org_exists(change.connection(), &org).await? {
            return Err(LedgerError::UnknownOrganisation(org));
        }
        let others = all(change.connection()).await?;
        // By Kafka an organisation reads one topic of the broker per topic of the hub, and could not keep two purposes
        // apart in it.
        let same = |other: &Subscription| {
            !other.ended
                && (&other.org, &other.topic, other.delivery) == (&org, &topic, delivery)
                && (other.purpose == purpose || delivery == Delivery::Kafka)
        };
        if let Some(other) = others.into_iter().find(same) {
            return Err(LedgerError::SubscriptionExists(other.subscription_id));
        }
        let subscription = Subscription {
            subscription_id: format!("s-{}", text::random_hex::<8>()?),
            org,
            topic,
            purpose,
            delivery,
            added_by: by.to_owned(),
            ended: false,
        };
        record(&mut change, "subscription.added", "1", &subscription).await?;
        change.commit().await?;
        Ok(subscription)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// There is none of this name that has not ended.
    pub async fn end_subscription(&self, id: &str) -> Result<Subscription> {
        let mut change = self.change().await?;
        let found = all(change.connection()).await?;
        let found = found
            .into_iter()
            .find(|subscription| subscription.subscription_id == id && !subscription.ended);
        let mut subscription =
            found.ok_or_else(|| LedgerError::UnknownSubscription(text::shown(id)))?;
        subscription.ended = true;
        record(&mut change, "subscription.ended", "2", &subscription).await?;
        change.commit().await?;
        Ok(subscription)
    }

    /// Every subscription, ended ones too, by name.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn subscriptions(&self) -> Result<Vec<Subscription>> {
        let mut reader = self.inner.reader().await?;
        all(&mut reader).await
    }

    /// How the consent of an enterprise to an organisation about a dataset stands: the one in force, or else the latest
    /// that ever permitted anything.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn standing(
        &self,
        no: EnterpriseNo,
        (org, purpose, dataset): (&OrgId, &PurposeCode, &DatasetId),
        at: Timestamp,
    ) -> Result<Option<ConsentStanding>> {
        let mut reader = self.inner.reader().await?;
        let rows = consents::between(&mut reader, no, org).await?;
        let about = rows.iter().filter(|row| {
            row.given.is_some()
                && row.document.purpose.code == *purpose
                && row
                    .document
                    .scope
                    .iter()
                    .any(|line| line.dataset == *dataset)
        });
        let mut found: Option<ConsentStanding> = None;
        for row in about {
            let state = state_at(row, at);
            let better = state == State::Active
                || (state != State::Superseded
                    && found
                        .as_ref()
                        .is_none_or(|found| found.state != State::Active))
                || found.is_none();
            if better {
                found = Some(ConsentStanding {
                    consent_id: row.document.consent_id.clone(),
                    state,
                    data_life_days: row.document.data_life_days,
                    expires: row.document.expires,
                });
            }
        }
        Ok(found)
    }
}

async fn record(
    change: &mut Change,
    kind: &str,
    version: &str,
    subscription: &Subscription,
) -> Result<()> {
    let canonical_json = text::canonical(subscription)?;
    let body = json!({ "subscription": subscription });
    let position = change.append(kind, &body, &[], None).await?;
    let artefact = Artefact {
        kind: KIND,
        id: subscription.subscription_id.clone(),
        version: version.to_owned(),
        hash: text::sha256(canonical_json.as_bytes()),
        canonical_json,
    };
    events::insert_artefact(change.connection(), position, &artefact).await
}

async fn all(connection: &mut sqlx::SqliteConnection) -> Result<Vec<Subscription>> {
    let documents = events::artefacts(connection, KIND).await?;
    documents
        .iter()
        .map(|document| crate::store::parsed(document, "a subscription"))
        .collect()
}
