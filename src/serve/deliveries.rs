//! Deliveries by Kafka: the service runs that of every subscription in force.
//!
//! Promises:
//! - **All of them, and no others.** A subscription that is added is delivered within a moment, one that has ended no longer.
//!   A catalogue that comes in force is in force for deliveries too: they begin anew under it.
//! - **They go on.** A broker that is gone is waited for (see [`qihui_pipelines::topics::kafka`]); whatever else fails is
//!   tried again, after a pause that grows. Each change of state is one line of the log.
//! - **A clean end.** Told to stop, every delivery ends behind the page that it is at.
//!
//! Limits: each has a task and a connection of its own. What only a change of configuration or an end of another process
//! can heal is not tried again before the service starts again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use qihui_catalog::Catalog;
use qihui_consent::ledger::Delivery;
use qihui_pipelines::topics::kafka::{Delivered, Until};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{ServeError, measure};
use crate::failure::Failure;
use crate::hub::Hub;

/// How often it is looked which subscriptions there are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long is waited before a delivery is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A delivery that lasted so long began well.
const LASTING: Duration = Duration::from_secs(300);

/// A delivery that runs.
struct Running {
    tell: watch::Sender<bool>,
    /// What it goes by.
    catalog: Arc<Catalog>,
    task: AbortHandle,
}

/// The deliveries of a hub.
struct Deliveries {
    hub: Hub,
    running: HashMap<String, Running>,
    tasks: JoinSet<()>,
    /// The position of the ledger and the catalogue that what runs was last compared with.
    seen: Option<(u64, Arc<Catalog>)>,
}

/// Runs the deliveries of a hub until it drains, and ends when the last of them has ended.
pub(crate) async fn run(hub: Hub, mut draining: watch::Receiver<bool>) {
    let mut deliveries = Deliveries {
        hub,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        seen: None,
    };
    loop {
        if let Err(failure) = deliveries.compare().await {
            let code = failure.code();
            tracing::warn!(code, "it cannot be said which subscriptions there are");
        }
        measure::delivering(deliveries.running.len());
        tokio::select! {
            _ = draining.wait_for(|draining| *draining) => break,
            Some(_) = deliveries.tasks.join_next() => deliveries.seen = None,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    for running in deliveries.running.values() {
        running.tell.send_replace(true);
    }
    while deliveries.tasks.join_next().await.is_some() {}
}

impl Deliveries {
    /// Starts what is missing and stops what is no longer wanted, or goes by a catalogue of the past.
    async fn compare(&mut self) -> Result<(), Failure> {
        self.running.retain(|_, one| !one.task.is_finished());
        let present = self.hub.acting_as(self.hub.principal());
        let catalog = present.catalog()?;
        let position = present.ledger().position().await?;
        if let Some((at, of)) = &self.seen
            && *at == position
            && Arc::ptr_eq(of, catalog)
        {
            return Ok(());
        }
        let subscriptions = present.ledger().subscriptions().await?;
        let wanted: BTreeSet<String> = subscriptions
            .into_iter()
            .filter(|one| !one.ended && one.delivery == Delivery::Kafka)
            .map(|one| one.subscription_id)
            .collect();
        for (id, running) in &self.running {
            if !wanted.contains(id) || !Arc::ptr_eq(&running.catalog, catalog) {
                // It starts again, if it is to, when it has ended.
                running.tell.send_replace(true);
            }
        }
        for id in wanted {
            if !self.running.contains_key(&id) {
                let (tell, told) = watch::channel(false);
                let task = self.tasks.spawn(attend(present.clone(), id.clone(), told));
                let catalog = Arc::clone(catalog);
                let running = Running {
                    tell,
                    catalog,
                    task,
                };
                self.running.insert(id, running);
            }
        }
        self.seen = Some((position, Arc::clone(catalog)));
        Ok(())
    }
}

/// Delivers a subscription until told to end, whatever happens.
async fn attend(hub: Hub, subscription: String, mut told: watch::Receiver<bool>) {
    let mut pause = RETRY.0;
    while !*told.borrow() {
        let begun = Instant::now();
        let failure = match deliver(&hub, &subscription, told.clone()).await {
            Ok(Delivered { pages, events }) => {
                tracing::info!(subscription, pages, events, "delivery ended");
                return;
            }
            Err(failure) => failure,
        };
        let (code, reason) = (failure.code(), failure.message());
        measure::delivery_failed(code);
        match code {
            // Ended in the meantime.
            "UnknownSubscription" => return,
            "NoBroker" | "KafkaBadSettings" | "DeliveryTakenOver" => {
                tracing::error!(subscription, code, reason, "delivery stopped");
                let _ = told.wait_for(|told| *told).await;
                return;
            }
            _ => {}
        }
        if begun.elapsed() >= LASTING {
            pause = RETRY.0;
        }
        let pause_seconds = pause.as_secs();
        tracing::error!(
            subscription,
            code,
            reason,
            pause_seconds,
            "delivery failed: it is tried again"
        );
        let _ = tokio::time::timeout(pause, told.wait_for(|told| *told)).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// One attempt, in a task of its own, so that nothing that goes wrong in it ends more than itself.
async fn deliver(
    hub: &Hub,
    subscription: &str,
    told: watch::Receiver<bool>,
) -> Result<Delivered, Failure> {
    let settings = hub.config().kafka.delivery()?;
    let topics = hub.topics()?;
    let subscription = subscription.to_owned();
    let delivering = tokio::spawn(async move {
        let until = Until::Told(told);
        topics.deliver(&settings, &subscription, until).await
    });
    Ok(delivering.await.map_err(|_| ServeError::Panicked)??)
}
