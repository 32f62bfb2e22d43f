//! `subscription add | list | show | end | pull | deliver`.

use qihui_consent::ledger::Subscription;
use qihui_pipelines::topics::kafka::{KafkaSettings, Until};
use qihui_pipelines::topics::page::PageLimits;
use qihui_pipelines::topics::pull::PullRequest;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Context, with_hub};
use crate::cli::{DeliverArgs, PullArgs, SubscriptionAddArgs, SubscriptionCommand};
use crate::failure::{Failure, ProgramError};
use crate::hub::Hub;
use crate::report::{Report, table};

pub(super) async fn run(
    command: SubscriptionCommand,
    context: &mut Context<'_>,
) -> Result<Report, Failure> {
    match command {
        SubscriptionCommand::Add(args) => Box::pin(add(args, context)).await,
        SubscriptionCommand::List => with_hub(&context.opening, list).await,
        SubscriptionCommand::Show { id } => Box::pin(show(&id, context)).await,
        SubscriptionCommand::End { id } => end(&id, context).await,
        SubscriptionCommand::Pull(args) => Box::pin(pull(args, context)).await,
        SubscriptionCommand::Deliver(args) => Box::pin(deliver(args, context)).await,
    }
}

async fn add(args: SubscriptionAddArgs, context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let topics = hub.topics()?;
        topics.check(&args.org, &args.purpose, &args.topic).await?;
        let about = (args.org, args.topic, args.purpose);
        let delivery = args.delivery.into();
        let ledger = hub.ledger();
        let added = ledger.add_subscription(hub.catalog()?, about, delivery, hub.principal());
        let added = added.await?;
        hub.acknowledge().await?;
        let text = format!("subscription {} is in force", added.subscription_id);
        Ok(Report::new(json!({ "subscription": added }), text))
    })
    .await
}

async fn list(hub: &Hub) -> Result<Report, Failure> {
    let subscriptions = hub.ledger().subscriptions().await?;
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

async fn show(id: &str, context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let topics = hub.topics()?;
        let subscription = topics.subscription(id).await?;
        let progress = topics.progress_of(id)?;
        let next = progress.as_ref().map_or(1, |progress| progress.next_page);
        let under_way = progress.is_some_and(|progress| progress.pending.is_some());
        let text = format!(
            "{id}: {} is brought topic {} for {} by {}; the next page is {next}{}",
            subscription.org,
            subscription.topic,
            subscription.purpose,
            subscription.delivery.as_str(),
            if under_way { ", under way" } else { "" },
        );
        let json = json!({
            "subscription": subscription,
            "next_page": next,
            "under_way": under_way,
        });
        Ok(Report::new(json, text))
    })
    .await
}

async fn end(id: &str, context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let ended = hub.ledger().end_subscription(id).await?;
        hub.acknowledge().await?;
        Ok(Report::new(
            json!({ "subscription": ended }),
            format!("subscription {id} has ended"),
        ))
    })
    .await
}

async fn pull(args: PullArgs, context: &mut Context<'_>) -> Result<Report, Failure> {
    let (embedded, stdout) = (context.json, &mut *context.stdout);
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
        let topics = hub.topics()?;
        if embedded {
            let mut page = Vec::new();
            topics.pull(&request, &mut page).await?;
            let document = String::from_utf8(page)
                .map_err(|_| ProgramError::OutputFailed("the page is no text".to_owned()))?;
            return Ok(Report::with_document(document, ""));
        }
        let pulled = topics.pull(&request, stdout).await?;
        let mut report = Report::new(Value::Null, "").note(format!("next: {}", pulled.next));
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
        let settings = KafkaSettings::new(&args.brokers.unwrap_or_default());
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
