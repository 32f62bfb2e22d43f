//! `subscription add | list | show | end | pull | deliver`.

use qihui_catalog::{Action, OrgId, PurposeCode, TopicName};
use qihui_consent::ledger::{Delivery, Subscription};
use qihui_pipelines::topics::error::TopicError;
use qihui_pipelines::topics::kafka::{Until, topic_name};
use qihui_pipelines::topics::page::PageLimits;
use qihui_pipelines::topics::pull::PullRequest;
use qihui_query::access::RefusedRequest;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Context, with_hub};
use crate::cli::{DeliverArgs, PullArgs, SubscriptionCommand};
use crate::failure::{Failure, ProgramError};
use crate::hub::Hub;
use crate::identity::command::reaches;
use crate::identity::{Operation, Principal};
use crate::report::{Report, table};

pub(super) async fn run(
    command: SubscriptionCommand,
    context: &mut Context<'_>,
) -> Result<Report, Failure> {
    let opening = &context.opening;
    match command {
        SubscriptionCommand::Add(args) => {
            let about = (args.org, args.topic, args.purpose);
            let delivery = args.delivery.into();
            let added = with_hub(opening, async |hub| subscribe(hub, about, delivery).await);
            Box::pin(added).await
        }
        SubscriptionCommand::List => {
            let principal = context.principal.as_ref();
            with_hub(opening, async |hub| list(hub, principal).await).await
        }
        SubscriptionCommand::Show { id } => {
            with_hub(opening, async |hub| show(hub, &id).await).await
        }
        SubscriptionCommand::End { id } => with_hub(opening, async |hub| end(hub, &id).await).await,
        SubscriptionCommand::Pull(args) => Box::pin(pull(args, context)).await,
        SubscriptionCommand::Deliver(args) => Box::pin(deliver(args, context)).await,
    }
}

/// Subscribes an organisation to a topic, if something of it could be delivered.
pub(crate) async fn subscribe(
    hub: &Hub,
    about: (OrgId, TopicName, PurposeCode),
    delivery: Delivery,
) -> Result<Report, Failure> {
    let (org, topic, purpose) = &about;
    hub.topics()?.check(org, purpose, topic).await?;
    let ledger = hub.ledger();
    let added = ledger.add_subscription(hub.catalog()?, about, delivery, hub.principal());
    let added = added.await?;
    hub.acknowledge().await?;
    let text = format!("subscription {} is in force", added.subscription_id);
    Ok(Report::new(json!({ "subscription": added }), text))
}

/// The subscriptions within reach, ended ones too; without a principal, all.
pub(crate) async fn list(hub: &Hub, principal: Option<&Principal>) -> Result<Report, Failure> {
    let mut subscriptions = hub.ledger().subscriptions().await?;
    if let Some(principal) = principal {
        let operation = Operation::SubscriptionList;
        subscriptions.retain(|one| reaches(principal, operation, one).is_ok());
    }
    let rows = subscriptions.iter().map(|subscription| {
        vec![
            subscription.subscription_id.clone(),
            subscription.org.to_string(),
            subscription.topic.to_string(),
            subscription.purpose.to_string(),
            subscription.delivery.as_str().to_owned(),
            state(subscription).to_owned(),
        ]
    });
    let header = [
        "subscription",
        "organisation",
        "topic",
        "purpose",
        "delivery",
        "state",
    ];
    let text = table(&header, rows);
    Ok(Report::new(json!({ "subscriptions": subscriptions }), text))
}

fn state(subscription: &Subscription) -> &'static str {
    if subscription.ended {
        "ended"
    } else {
        "in force"
    }
}

/// A subscription, ended or not, and how far it was brought.
pub(crate) async fn show(hub: &Hub, id: &str) -> Result<Report, Failure> {
    let all = hub.ledger().subscriptions().await?;
    let found = all.into_iter().find(|one| one.subscription_id == id);
    let subscription = found.ok_or_else(|| TopicError::UnknownSubscription {
        id: id.chars().take(64).collect(),
    })?;
    let progress = hub.topics()?.progress_of(&subscription.subscription_id)?;
    let next = progress.as_ref().map_or(1, |progress| progress.next_page);
    let under_way = progress.is_some_and(|progress| progress.pending.is_some());
    let Subscription {
        org,
        topic,
        purpose,
        delivery,
        ..
    } = &subscription;
    let mut text = format!(
        "{id}: {org} is brought topic {topic} for {purpose} by {}; {}; the next page is {next}{}",
        delivery.as_str(),
        state(&subscription),
        if under_way { ", under way" } else { "" },
    );
    let mut json = json!({
        "subscription": subscription,
        "next_page": next,
        "under_way": under_way,
    });
    if *delivery == Delivery::Kafka {
        let topic = topic_name(org.as_str(), topic.as_str());
        text += &format!("\nits events are in the topic {topic} of the broker");
        json["kafka_topic"] = json!(topic);
    }
    Ok(Report::new(json, text))
}

/// Ends a subscription: nothing more is delivered.
pub(crate) async fn end(hub: &Hub, id: &str) -> Result<Report, Failure> {
    let ended = hub.ledger().end_subscription(id).await?;
    hub.acknowledge().await?;
    let text = format!("subscription {} has ended", ended.subscription_id);
    Ok(Report::new(json!({ "subscription": ended }), text))
}

/// What is known of a pull before its subscription is looked for.
pub(super) fn asked(hub: &Hub, principal: Option<&Principal>) -> RefusedRequest {
    RefusedRequest {
        principal: hub.principal().to_owned(),
        org: principal.and_then(|principal| principal.org.clone()),
        action: Some(Action::Stream),
        ..RefusedRequest::default()
    }
}

async fn pull(args: PullArgs, context: &mut Context<'_>) -> Result<Report, Failure> {
    let stdout = &mut *context.stdout;
    with_hub(&context.opening, async |hub| {
        let default = PageLimits::default();
        let request = PullRequest {
            subscription: args.id,
            cursor: args.cursor,
            restart: args.restart,
            limits: PageLimits {
                events: args.events.unwrap_or(default.events),
                ..default
            },
        };
        let topics = match hub.topics() {
            Ok(topics) => topics,
            Err(failure) => return Err(hub.refused(asked(hub, None), failure).await),
        };
        let pulled = topics.pull(&request, stdout).await?;
        // The page is the document, and has left as one: what is to come is the end of its line.
        let mut report =
            Report::with_document(String::new(), "").note(format!("next: {}", pulled.next));
        if let Some(released) = pulled.released {
            report = report.note(format!(
                "{} events; recorded as entries {} and {} of the log",
                pulled.events, released.decided, released.finished
            ));
        }
        Ok(report)
    })
    .await
}

async fn deliver(args: DeliverArgs, context: &mut Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let mut settings = hub.config().kafka.delivery()?;
        if let Some(brokers) = args.brokers {
            settings.brokers = brokers;
        }
        let topics = hub.topics()?;
        let delivered = if args.once {
            topics.deliver(&settings, &args.id, Until::UpToDate).await?
        } else {
            let (tell, told) = watch::channel(false);
            let cannot = |error: std::io::Error| ProgramError::CannotStart(error.to_string());
            let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
            let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
            tokio::spawn(async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                // Whoever listened may have ended by itself.
                let _ = tell.send(true);
            });
            let until = Until::Told(told);
            topics.deliver(&settings, &args.id, until).await?
        };
        let text = format!("{} events in {} pages", delivered.events, delivered.pages);
        Ok(Report::new(json!({ "delivered": delivered }), text))
    })
    .await
}
