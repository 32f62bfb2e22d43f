//! Subscriptions: which organisation is brought which topic, for which purpose and how.
//!
//! A subscription opens nothing; the decision is made anew for every delivery. It is kept like an artefact: every
//! change is an event and a new version of one small document.

use qihui_catalog::{
    Action, Artefact, Catalog, ConsentId, DatasetId, Date, EnterpriseNo, OrgId, PurposeCode,
    Timestamp, TopicName, TopicSpec,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Ledger, change::Change, consents::state_at, epochs::Loss};
use crate::{
    error::{LedgerError, Result},
    state::State,
    store::{
        consents::{self, ConsentRow},
        events, parties,
    },
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

    /// Ends a subscription. When this returns nothing is on its way to the subscriber any more.
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
        if let Some(dataset) = dataset_of(change.connection(), &subscription.topic).await? {
            let key = (
                subscription.org.clone(),
                subscription.purpose.clone(),
                dataset,
            );
            change.takes(key, Loss::Everything);
        }
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

    /// How the consent stands that an enterprise's rows were streamed to an organisation under, for a purpose, of a
    /// dataset: of the consents with action STREAM whose uses are not counted the one that ended last, if one ended on
    /// day `since` or later; else the one in force at `at`.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn standing(
        &self,
        no: EnterpriseNo,
        (org, purpose, dataset): (&OrgId, &PurposeCode, &DatasetId),
        at: Timestamp,
        since: Date,
    ) -> Result<Option<ConsentStanding>> {
        let mut reader = self.inner.reader().await?;
        let rows = consents::between(&mut reader, no, org).await?;
        let streamed = rows.iter().filter(|row| {
            let document = &row.document;
            row.given.is_some()
                && document.purpose.code == *purpose
                && document.actions.contains(Action::Stream)
                && !document.is_metered()
                && document.scope.iter().any(|line| line.dataset == *dataset)
        });
        let (mut last, mut in_force) = (None, None);
        for row in streamed {
            let state = state_at(row, at);
            let standing = ConsentStanding {
                consent_id: row.document.consent_id.clone(),
                state,
                data_life_days: row.document.data_life_days,
                expires: row.document.expires,
            };
            if state == State::Active {
                in_force = Some(standing);
                continue;
            }
            let ended = ended_at(&mut reader, row, state).await?;
            let later = last.as_ref().is_none_or(|(last, _)| *last <= ended);
            if later && ended.shanghai_date() >= since {
                last = Some((ended, standing));
            }
        }
        Ok(last.map(|(_, standing)| standing).or(in_force))
    }
}

/// When a version of a consent ended: by itself, or by the last event about it.
async fn ended_at(
    connection: &mut sqlx::SqliteConnection,
    row: &ConsentRow,
    state: State,
) -> Result<Timestamp> {
    let document = &row.document;
    if state == State::Expired {
        return Ok(document.expires);
    }
    let id = document.consent_id.as_str();
    let last = events::last_of_consent(connection, id, document.version).await?;
    Ok(last.unwrap_or(document.starts))
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

/// The dataset of a topic, in its latest recorded version.
async fn dataset_of(
    connection: &mut sqlx::SqliteConnection,
    topic: &TopicName,
) -> Result<Option<DatasetId>> {
    let documents = events::artefacts(connection, "topic").await?;
    let topics = documents
        .iter()
        .filter_map(|document| TopicSpec::from_yaml("kept".as_ref(), document).ok());
    Ok(topics
        .filter(|spec| spec.name == *topic)
        .map(|spec| spec.dataset)
        .next())
}

async fn all(connection: &mut sqlx::SqliteConnection) -> Result<Vec<Subscription>> {
    let documents = events::artefacts(connection, KIND).await?;
    documents
        .iter()
        .map(|document| crate::store::parsed(document, "a subscription"))
        .collect()
}
