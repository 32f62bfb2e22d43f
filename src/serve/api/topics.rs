//! Topics, subscriptions and their pages.
//!
//! A page leaves as rows of a query do: after its record, under the permit of its decision, and without an end when it
//! breaks off. A subscriber that has everything may wait for the next change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use qihui_catalog::{OrgId, PurposeCode, TopicName};
use qihui_consent::ledger::{Delivery, Subscription};
use qihui_pipelines::topics::page::PageLimits;
use qihui_pipelines::topics::pull::PullRequest;
use qihui_pipelines::topics::{Moment, Topics};
use qihui_query::QueryError;
use qihui_query::access::{Outlet, RefusedRequest};
use serde::Deserialize;
use tokio::sync::SemaphorePermit;
use utoipa::ToSchema;

use super::{Answered, Shared, body_of, document_of, identifier, made, once, read, report_of};
use crate::commands::{subscription, topic};
use crate::failure::Failure;
use crate::identity::{IdentityError, command};
use crate::serve::answer::{BodyOutlet, answer, begun};
use crate::serve::authorise::Caller;
use crate::serve::idempotency::Answer;
use crate::serve::problem::Problem;
use crate::serve::wire::Wire;
use crate::serve::{ServeError, Service};

/// The longest a subscriber may wait for a change, seconds.
const LONGEST_WAIT: u64 = 30;
/// How long a page waits for its turn among all that is read at the same time.
const TURN: Duration = Duration::from_secs(5);

/// A subscription to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSubscription {
    /// The organisation that receives; may be left out where the token names one.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "city_bank")]
    org: Option<OrgId>,
    /// The topic.
    #[schema(value_type = String, example = "filings")]
    topic: TopicName,
    /// What for: a subscriber's token has to name it.
    #[schema(value_type = String, example = "policy.matching")]
    purpose: PurposeCode,
    /// `pull` (the default) or `kafka`.
    #[serde(default = "pull")]
    #[schema(value_type = Option<String>, example = "pull")]
    delivery: Delivery,
}

fn pull() -> Delivery {
    Delivery::Pull
}

/// Which page is asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The cursor that the last page gave as `next`: acknowledges that page. Left out before the first page.
    #[serde(default)]
    cursor: Option<String>,
    /// Begin again, having lost what was held: the page says so, and everything follows.
    #[serde(default)]
    restart: bool,
    /// About so many events, up to 10,000; those of one enterprise stay together.
    #[serde(default)]
    events: Option<usize>,
    /// Wait up to so many seconds, at most 30, for something to bring.
    #[serde(default)]
    wait: u64,
}

/// List the topics.
#[utoipa::path(get, path = "/v1/topics", operation_id = "topic_list", tag = "topics",
    responses((status = 200, description = "The topics.", body = Value)))]
pub(crate) async fn list(caller: Caller) -> Answered {
    Ok(report_of(topic::list(&caller.hub).await?))
}

/// Show a topic.
#[utoipa::path(get, path = "/v1/topics/{topic}", operation_id = "topic_show", tag = "topics",
    params(("topic" = String, Path, description = "The topic.")),
    responses((status = 200, description = "Its dataset, columns and version.", body = Value),
        (status = 404, description = "There is no such topic.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn show(caller: Caller, Path(name): Path<String>) -> Answered {
    let name: TopicName = identifier(&name, "topic")?;
    let found = topic::show(&caller.hub, &name).await?;
    let found = found.ok_or(QueryError::UnknownTopic { name })?;
    Ok(document_of(&found))
}

/// List subscriptions, ended ones too.
#[utoipa::path(get, path = "/v1/subscriptions", operation_id = "subscription_list", tag = "topics",
    responses((status = 200, description = "Those within reach.", body = Value)))]
pub(crate) async fn subscriptions(caller: Caller) -> Answered {
    let listed = subscription::list(&caller.hub, Some(&caller.principal)).await?;
    Ok(report_of(listed))
}

/// Subscribe an organisation to a topic.
#[utoipa::path(post, path = "/v1/subscriptions", operation_id = "subscription_add", tag = "topics",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body = NewSubscription,
    responses((status = 201, description = "It is in force.", body = Value),
        (status = 403, description = "Nothing of the topic could be delivered.", body = Value,
            content_type = "application/problem+json"),
        (status = 409, description = "There is one like it.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn subscribe(
    State(service): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let body = body_of(&service, &headers, body).await?;
    let NewSubscription {
        org,
        topic,
        purpose,
        delivery,
    } = read(&body)?;
    let org = org.or_else(|| caller.principal.org.clone());
    let org = org.ok_or(IdentityError::OutOfReach {
        operation: caller.operation,
    })?;
    command::subscribe(&caller.principal, &org, &purpose)?;
    let hub = caller.hub.clone();
    once(&service, &caller, (&headers, &[&body]), async move {
        let added = subscription::subscribe(&hub, (org, topic, purpose), delivery);
        Ok(made(&Box::pin(added).await?))
    })
    .await
}

/// Show a subscription and how far it was brought.
#[utoipa::path(get, path = "/v1/subscriptions/{subscription_id}", operation_id = "subscription_show", tag = "topics",
    params(("subscription_id" = String, Path, description = "The subscription.")),
    responses((status = 200, description = "The subscription, and the number of its next page.", body = Value),
        (status = 404, description = "There is no such subscription.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn subscription(caller: Caller, Path(id): Path<String>) -> Answered {
    reached(&caller, &id).await?;
    Ok(report_of(subscription::show(&caller.hub, &id).await?))
}

/// End a subscription: nothing more is delivered.
#[utoipa::path(delete, path = "/v1/subscriptions/{subscription_id}", operation_id = "subscription_end", tag = "topics",
    params(("subscription_id" = String, Path, description = "The subscription."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    responses((status = 200, description = "It has ended.", body = Value),
        (status = 404, description = "There is no such subscription that has not ended.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn end(
    State(service): Shared,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Answered {
    reached(&caller, &id).await?;
    let (hub, asked) = (caller.hub.clone(), id.clone());
    once(
        &service,
        &caller,
        (&headers, &[asked.as_bytes()]),
        async move {
            let report = subscription::end(&hub, &id).await?;
            Ok(Answer::new(StatusCode::OK, &report.json))
        },
    )
    .await
}

async fn reached(caller: &Caller, id: &str) -> Result<Subscription, Failure> {
    let asked = (caller.operation, id);
    command::on_subscription(&caller.principal, &caller.hub, asked).await
}

/// Fetch the next page of a subscription. Asking with a page's `next` acknowledges that page; asking with the same cursor
/// again brings the same events, as far as they are still authorised.
#[utoipa::path(post, path = "/v1/subscriptions/{subscription_id}/pages", operation_id = "subscription_pull", tag = "topics",
    params(("subscription_id" = String, Path, description = "The subscription.")),
    request_body(content = inline(Wanted), description = "Which page; nothing: the first."),
    responses((status = 200, description = "A page: `subscription`, `page` (absent without events), `events` (CloudEvents), `next` (the cursor to ask with) and `more` (ask again at once).",
            body = Value),
        (status = 400, description = "The cursor is none.", body = Value,
            content_type = "application/problem+json"),
        (status = 403, description = "The subscription or the cursor is another's.", body = Value,
            content_type = "application/problem+json"),
        (status = 409, description = "The cursor is not the one that is next.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn page(
    State(service): Shared,
    Extension(wire): Extension<Arc<Wire>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let mut known = caller.unread();
    let admitted = admitted(&service, &caller, (id, &headers, body), &mut known).await;
    let (request, wait, topics) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(caller.refused(known, refusal).await),
    };
    let room = Arc::clone(&service.tasks).acquire_owned().await;
    let room = room.map_err(|_| ServeError::Stopping)?;
    let (outlet, body, started) = answer(&wire, service.stop.clone());
    let pull = Pull {
        service,
        caller,
        known,
        topics,
        request,
        wait,
    };
    // In a task of its own: when the client goes away, the access still gets its end.
    let running = tokio::spawn(async move {
        let _room = room;
        Box::pin(pull.until_its_end(outlet)).await
    });
    begun(started, running).await?;
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Reads what is asked for, how long it may be waited for, and who brings it. What was read of a request that is refused is
/// in `known`.
async fn admitted(
    service: &Service,
    caller: &Caller,
    (id, headers, body): (Result<Path<String>, PathRejection>, &HeaderMap, Body),
    known: &mut RefusedRequest,
) -> Result<(PullRequest, Duration, Topics), Problem> {
    let Path(id) = id.map_err(|_| ServeError::BadRequest("its path".to_owned()))?;
    known.purpose = Some(reached(caller, &id).await?.purpose);
    let body = body_of(service, headers, body).await?;
    let wanted: Wanted = if body.is_empty() {
        Wanted::default()
    } else {
        read(&body)?
    };
    let wait = Duration::from_secs(wanted.wait.min(LONGEST_WAIT));
    Ok((asked(id, wanted)?, wait, caller.hub.topics()?))
}

fn asked(subscription: String, wanted: Wanted) -> Result<PullRequest, ServeError> {
    let Wanted {
        cursor,
        restart,
        events,
        ..
    } = wanted;
    if restart && cursor.is_some() {
        let reason = "`restart` begins again and takes no `cursor`".to_owned();
        return Err(ServeError::BadRequest(reason));
    }
    let most = PageLimits::default();
    Ok(PullRequest {
        subscription,
        cursor,
        restart,
        limits: PageLimits {
            events: events.unwrap_or(most.events).clamp(1, most.events),
            ..most
        },
    })
}

/// A page on its way.
struct Pull {
    service: Arc<Service>,
    caller: Caller,
    /// What the log hears of it if it is refused.
    known: RefusedRequest,
    topics: Topics,
    request: PullRequest,
    wait: Duration,
}

impl Pull {
    async fn until_its_end(mut self, mut outlet: BodyOutlet) -> Result<(), Failure> {
        let until = Instant::now() + self.wait;
        let mut draining = self.service.draining.clone();
        loop {
            let (seen, room) = match self.turn().await {
                Ok(turn) => turn,
                Err(refusal) => return Err(self.refused(refusal).await),
            };
            // What is refused from here on is recorded where it is refused.
            let pulled = self.topics.bring(&self.request, &mut outlet).await?;
            drop(room);
            if pulled.page.is_some() {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if pulled.more || left.is_zero() || *draining.borrow() {
                self.topics.say_nothing(pulled, &mut outlet).await?;
                break;
            }
            // What was acknowledged stays so, and nobody begins again twice.
            self.request.cursor = Some(pulled.next);
            self.request.restart = false;
            let changed = tokio::select! {
                changed = self.topics.changed(&self.request.subscription, seen, left) => changed,
                _ = draining.wait_for(|draining| *draining) => Ok(()),
                () = outlet.gone() => return Ok(()),
            };
            if let Err(error) = changed {
                return Err(self.refused(error.into()).await);
            }
        }
        outlet.end(None);
        Ok(())
    }

    /// Waits for its turn among all that is read at the same time. What changes from the given moment on is not missed: it
    /// was before anything is looked at.
    async fn turn(&self) -> Result<(Moment, SemaphorePermit<'_>), Failure> {
        let seen = self.topics.moment(&self.request.subscription).await?;
        let room = tokio::time::timeout(TURN, self.service.queries.acquire()).await;
        match room {
            Ok(Ok(room)) => Ok((seen, room)),
            _ => Err(ServeError::TooBusy.into()),
        }
    }

    async fn refused(&self, refusal: Failure) -> Failure {
        let known = self.known.clone();
        self.caller.refused(known, refusal).await.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_within_bounds() {
        let wanted = |text: &str| asked("s-1".to_owned(), serde_json::from_str(text).unwrap());
        let most = PageLimits::default().events;
        assert_eq!(wanted("{}").unwrap().limits.events, most);
        assert_eq!(wanted(r#"{"events": 0}"#).unwrap().limits.events, 1);
        assert_eq!(
            wanted(r#"{"events": 90000000}"#).unwrap().limits.events,
            most
        );
        assert!(wanted(r#"{"restart": true}"#).unwrap().restart);
        assert!(wanted(r#"{"restart": true, "cursor": "x"}"#).is_err());
        assert!(serde_json::from_str::<Wanted>(r#"{"org": "other"}"#).is_err());
    }
}
