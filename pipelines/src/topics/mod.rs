//! Topics: organisations are brought what they may see of a dataset, and every change of it.
//!
//! A topic is some columns of a dataset. A subscription is an organisation, a topic, a purpose and a form of delivery.
//! Promises:
//! - **A copy equals the view.** Whoever applies all events holds exactly what a gated query (action STREAM) would
//!   answer over the topic's columns, for the rows whose key and `uscc` are shown (GATE-1). Where that did not
//!   change there is no event (GATE-2).
//! - **Recorded before it leaves.** A page is an access with its two log entries (GATE-3).
//! - **A withdrawal stops at once.** Pages leave under the release lock after a last look at the epochs (GATE-4); the
//!   next page deletes what is no longer granted, and says what else must go.
//! - **Nothing is lost, and by Kafka nothing is repeated.** How far a subscriber was brought is durable, and is moved only by
//!   an acknowledgement, or in the very transaction that carries the events.
//!
//! Limits: enterprises are never split, so a page is as large as its largest enterprise; memory holds one page and the
//! rows it was compared from. Rows whose key or `uscc` is withheld are not delivered: nobody could say later which
//! of them changed.
//!
//! [`interval`] is what a subscriber holds, [`page`] brings it forward, [`diff`] compares, [`event`] is the format,
//! [`progress`] what is kept on disk, [`pull`] and [`kafka`] how pages travel, [`notice`] what is said when an
//! authorisation ends.

pub mod cursor;
pub mod diff;
pub mod error;
pub mod event;
mod events;
pub mod interval;
pub mod json;
pub mod kafka;
pub mod notice;
pub mod page;
pub mod progress;
pub mod pull;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use qihui_catalog::{DatasetId, OrgId, PurposeCode, Timestamp, TopicName};
use qihui_query::access::Gate;
use qihui_query::access::delivery::{Delivery, Recipient, Subscription, View};

use cursor::CursorKey;
use diff::Shape;
use error::TopicError;
use event::Envelope;
use page::{Drafter, PageLimits, Views};
use progress::{Begun, Progress, Store};

/// How often it is looked whether something changed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often is decided anew though nothing seems to have changed: grants run out by themselves.
const DECIDE_EVERY: Duration = Duration::from_secs(5);

/// What can only change together with a view; see [`Gate::moment`].
pub type Moment = (u64, Option<u64>, i64);

/// The last look at a dataset: when, and what was seen.
type Look = Arc<tokio::sync::Mutex<Option<(Instant, Moment)>>>;

/// The deliveries of one hub.
pub struct Topics {
    gate: Arc<Gate>,
    store: Store,
    cursors: Arc<CursorKey>,
    principal: String,
    lanes: Arc<Mutex<HashMap<String, Arc<Lane>>>>,
    looks: Arc<Mutex<HashMap<DatasetId, Look>>>,
    kept: Arc<Mutex<Kept>>,
}

/// What each subscription may still be compared with.
type Kept = BTreeMap<String, KeptOf>;

#[derive(Debug, Clone)]
struct KeptOf {
    dataset: DatasetId,
    /// Versions of its table.
    versions: BTreeSet<i64>,
    /// Names of scopes.
    scopes: BTreeSet<String>,
}

impl KeptOf {
    fn nothing(dataset: &DatasetId) -> Self {
        Self {
            dataset: dataset.clone(),
            versions: BTreeSet::new(),
            scopes: BTreeSet::new(),
        }
    }

    fn by(progress: &Progress) -> Self {
        let scopes = progress.views().map(|view| view.scope.clone());
        Self {
            dataset: progress.dataset.clone(),
            versions: versions(progress),
            scopes: scopes.collect(),
        }
    }
}

/// What is kept of a subscription while the hub is open.
#[derive(Debug, Default)]
struct Lane {
    /// One delivery at a time; inside, the progress of its subscription as it is on disk, if known.
    turn: tokio::sync::Mutex<Option<Progress>>,
    views: Views,
}

/// What a delivery works with.
struct Desk {
    subscription: Subscription,
    recipient: Recipient,
    /// The hash of the topic, hexadecimal.
    topic: String,
    shape: Shape,
    lane: Arc<Lane>,
}

impl Desk {
    fn drafter<'a>(&'a self, topics: &'a Topics, limits: PageLimits) -> Drafter<'a> {
        Drafter {
            subscription: &self.subscription.subscription_id,
            gate: &topics.gate,
            recipient: &self.recipient,
            topic: &self.subscription.topic,
            shape: &self.shape,
            store: &topics.store,
            views: &self.lane.views,
            limits,
        }
    }

    fn envelope(&self, hub: &str, page: u64, at: Timestamp) -> Envelope {
        let Subscription {
            topic,
            subscription_id,
            ..
        } = &self.subscription;
        Envelope::new(hub, topic, subscription_id, page, at)
    }
}

impl Topics {
    /// The deliveries of the hub behind `gate`, with their progress in `folder`, on behalf of `principal`.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(gate: Arc<Gate>, folder: &Path, principal: &str) -> Result<Self, TopicError> {
        let store = Store::open(folder)?;
        store.sweep()?;
        let kept = store.all()?.into_iter().map(|progress| {
            let kept = KeptOf::by(&progress);
            (progress.subscription, kept)
        });
        let topics = Self {
            gate,
            cursors: Arc::new(CursorKey::new(&store.cursor_key()?)),
            principal: principal.to_owned(),
            lanes: Arc::default(),
            looks: Arc::default(),
            kept: Arc::new(Mutex::new(kept.collect())),
            store,
        };
        let datasets: BTreeSet<DatasetId> = {
            let kept = topics.kept.lock();
            kept.values().map(|kept| kept.dataset.clone()).collect()
        };
        for dataset in &datasets {
            topics.keep(dataset)?;
        }
        Ok(topics)
    }

    /// The same deliveries over another gate of the same hub, on behalf of another principal. All of them share what keeps
    /// two deliveries of one subscription apart: a process opens a hub's deliveries once.
    #[must_use]
    pub fn acting_as(&self, gate: Arc<Gate>, principal: &str) -> Self {
        Self {
            gate,
            store: self.store.clone(),
            cursors: Arc::clone(&self.cursors),
            principal: principal.to_owned(),
            lanes: Arc::clone(&self.lanes),
            looks: Arc::clone(&self.looks),
            kept: Arc::clone(&self.kept),
        }
    }

    /// The gate that everything is read through.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Refuses a subscription that nothing could be delivered to: its key and `uscc` are not open in the clear.
    ///
    /// # Errors
    /// [`TopicError::KeyNotDisclosed`], or what the decision says.
    pub async fn check(
        &self,
        org: &OrgId,
        purpose: &PurposeCode,
        topic: &TopicName,
    ) -> Result<(), TopicError> {
        let spec = self.gate.topic(topic).await?;
        let recipient = Recipient {
            principal: self.principal.clone(),
            org: org.clone(),
            purpose: purpose.clone(),
            dataset: spec.dataset.clone(),
            columns: spec.columns.clone(),
        };
        if self.gate.view(&recipient).await?.is_deliverable() {
            return Ok(());
        }
        Err(TopicError::KeyNotDisclosed {
            org: org.clone(),
            purpose: purpose.clone(),
            topic: topic.clone(),
            dataset: spec.dataset.clone(),
        })
    }

    /// A subscription that has not ended.
    ///
    /// # Errors
    /// [`TopicError::UnknownSubscription`], or the ledger cannot be read.
    pub async fn subscription(&self, id: &str) -> Result<Subscription, TopicError> {
        let all = self.gate.subscriptions().await?;
        self.forget_ended(&all)?;
        all.into_iter()
            .find(|subscription| subscription.subscription_id == id && !subscription.ended)
            .ok_or_else(|| TopicError::UnknownSubscription {
                id: id.chars().take(64).collect(),
            })
    }

    /// How far a subscription was brought, if anything was.
    ///
    /// # Errors
    /// The progress cannot be read.
    pub fn progress_of(&self, id: &str) -> Result<Option<Progress>, TopicError> {
        self.store.load(id)
    }

    async fn desk(&self, id: &str, delivery: Delivery) -> Result<Desk, TopicError> {
        let subscription = self.subscription(id).await?;
        if subscription.delivery != delivery {
            return Err(TopicError::OtherDelivery {
                id: subscription.subscription_id,
                delivery: subscription.delivery.as_str(),
            });
        }
        let topic = self.gate.topic(&subscription.topic).await?;
        let recipient = Recipient {
            principal: self.principal.clone(),
            org: subscription.org.clone(),
            purpose: subscription.purpose.clone(),
            dataset: topic.dataset.clone(),
            columns: topic.columns.clone(),
        };
        let lane = {
            let mut lanes = self.lanes.lock();
            Arc::clone(lanes.entry(lane_of(&subscription)).or_default())
        };
        Ok(Desk {
            shape: self.shape(&recipient)?,
            topic: hex::encode(topic.hash),
            subscription,
            recipient,
            lane,
        })
    }

    /// What is there of a dataset now, or was a moment ago: however many wait for changes, one of them looks.
    async fn look(&self, dataset: &DatasetId) -> Result<Moment, TopicError> {
        let look = {
            let mut looks = self.looks.lock();
            Arc::clone(looks.entry(dataset.clone()).or_default())
        };
        let mut last = look.lock().await;
        if let Some((at, moment)) = *last
            && at.elapsed() < LOOK_EVERY
        {
            return Ok(moment);
        }
        let at = Instant::now();
        let moment = self.gate.moment(dataset).await?;
        *last = Some((at, moment));
        Ok(moment)
    }

    fn shape(&self, recipient: &Recipient) -> Result<Shape, TopicError> {
        let schema = self.gate.topic_schema(recipient)?;
        let place = |name: &String| {
            schema.index_of(name).map_err(|_| {
                TopicError::Query(qihui_query::QueryError::UnknownColumn {
                    column: name.clone(),
                })
            })
        };
        let (key, uscc) = self.gate.key_of(&recipient.dataset)?;
        Ok(Shape {
            key: key.iter().map(place).collect::<Result<_, _>>()?,
            uscc: place(&uscc)?,
            schema,
        })
    }

    /// The progress of a subscription as it is on disk, or how it begins.
    fn progress(&self, desk: &Desk, known: &mut Option<Progress>) -> Result<Progress, TopicError> {
        let id = &desk.subscription.subscription_id;
        let dataset = &desk.recipient.dataset;
        let known = known.take().filter(|known| known.subscription == *id);
        let mut progress = match known {
            Some(progress) => progress,
            None => match self.store.begin(id)? {
                Begun::Known(progress) => *progress,
                Begun::Never => {
                    let mut progress = Progress::new(id, dataset, &desk.topic);
                    // Another subscription may have left rows in this topic of the broker.
                    progress.reset = desk.subscription.delivery == Delivery::Kafka;
                    progress
                }
                Begun::Lost => Progress::lost(id, dataset, &desk.topic, self.gate.time()),
            },
        };
        Self::of_this_topic(desk, &mut progress);
        Ok(progress)
    }

    /// Begins again where the topic is not the one that was brought: other columns, or another dataset. Whether it is.
    fn of_this_topic(desk: &Desk, progress: &mut Progress) -> bool {
        let dataset = &desk.recipient.dataset;
        if progress.dataset == *dataset && progress.topic == desk.topic {
            return true;
        }
        progress.dataset.clone_from(dataset);
        progress.topic.clone_from(&desk.topic);
        progress.restart();
        false
    }

    /// Makes the scope of a view durable, before a progress names it.
    fn keep_scope(&self, desk: &Desk, view: &View) -> Result<(), TopicError> {
        let mut kept = self.kept.lock();
        let of = kept
            .entry(desk.subscription.subscription_id.clone())
            .or_insert_with(|| KeptOf::nothing(&desk.recipient.dataset));
        of.scopes.insert(view.key().scope.clone());
        self.store.keep_scope(view)
    }

    /// Makes a progress durable, has the tables keep what it may be compared with, and lets go what nobody needs any more.
    fn save(&self, desk: &Desk, progress: &Progress) -> Result<(), TopicError> {
        let dataset = &desk.recipient.dataset;
        let id = &desk.subscription.subscription_id;
        let needed = KeptOf::by(progress);
        // First what is needed longer, then what is needed less.
        let old = {
            let mut kept = self.kept.lock();
            let of = kept
                .entry(id.clone())
                .or_insert_with(|| KeptOf::nothing(dataset));
            of.versions.extend(&needed.versions);
            of.scopes.extend(needed.scopes.iter().cloned());
            // A topic of another dataset now: nothing of the old one is needed any more.
            let old = std::mem::replace(&mut of.dataset, dataset.clone());
            (old != *dataset).then_some(old)
        };
        self.keep(dataset)?;
        self.store.save(progress)?;
        self.let_go(id, Some(needed))?;
        if let Some(old) = old {
            self.keep(&old)?;
        }
        self.keep(dataset)
    }

    /// From now on a subscription needs this, or nothing.
    fn let_go(&self, id: &str, needed: Option<KeptOf>) -> Result<(), TopicError> {
        let mut kept = self.kept.lock();
        let old = match needed {
            Some(needed) => kept.insert(id.to_owned(), needed),
            None => kept.remove(id),
        };
        for scope in old.map(|old| old.scopes).unwrap_or_default() {
            if !kept.values().any(|of| of.scopes.contains(&scope)) {
                self.store.remove_scope(&scope)?;
            }
        }
        Ok(())
    }

    fn keep(&self, dataset: &DatasetId) -> Result<(), TopicError> {
        let kept = self.kept.lock();
        let of = kept.values().filter(|of| of.dataset == *dataset);
        let versions = of.flat_map(|of| of.versions.iter().copied()).collect();
        Ok(self.gate.keep(dataset, versions)?)
    }

    /// Forgets how far subscriptions were brought that have ended, unless a delivery is just leaving.
    fn forget_ended(&self, all: &[Subscription]) -> Result<(), TopicError> {
        for ended in all.iter().filter(|subscription| subscription.ended) {
            let id = &ended.subscription_id;
            let lane = self.lanes.lock().get(&lane_of(ended)).cloned();
            let turn = lane.as_ref().map(|lane| lane.turn.try_lock());
            let Some(of) = self.kept.lock().get(id).cloned() else {
                continue;
            };
            if turn.is_some_and(|turn| turn.is_err()) {
                continue;
            }
            self.store.remove(id)?;
            self.let_go(id, None)?;
            self.keep(&of.dataset)?;
        }
        Ok(())
    }
}

/// What deliveries of a subscription take turns by: by Kafka the topic of the broker, so that one subscription has left it
/// before another begins there.
fn lane_of(subscription: &Subscription) -> String {
    match subscription.delivery {
        Delivery::Pull => subscription.subscription_id.clone(),
        Delivery::Kafka => {
            kafka::topic_name(subscription.org.as_str(), subscription.topic.as_str())
        }
    }
}

/// The table versions that a progress may still be compared with.
fn versions(progress: &Progress) -> BTreeSet<i64> {
    let versions = progress.views().map(|view| view.version);
    versions.filter(|version| *version >= 0).collect()
}
