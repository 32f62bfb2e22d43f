//! Delivery by pull: the subscriber fetches pages and keeps the cursor; no broker is needed.
//!
//! Asking for page k + 1 acknowledges page k, in the version that the cursor names. Asking for page k again brings the
//! same events with the same ids if they are still authorised, else what is authorised now: another version of page
//! k, which takes into account that the first may have arrived. Who then asks for page k + 1 with the cursor of the first
//! asks for page k again, and so is brought the second. A page is noted durably after `access.decided` and before
//! it leaves: a hub that is killed repeats what may have left, and of what cannot have left nothing is noted.
//!
//! A page is a JSON object: `subscription`, `page` (absent when there are no events), `events` (CloudEvents in their
//! JSON format), `next` (the cursor to ask with) and `more` (whether to ask again at once).
//!
//! A subscriber that has everything can wait for the next change: [`Topics::bring`] says that there is nothing,
//! [`Topics::changed`] waits, [`Topics::say_nothing`] answers that nothing came.

use std::io;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::BoxFuture;
use qihui_catalog::{Action, Coded as _};
use qihui_query::QueryError;
use qihui_query::access::delivery::{Delivery, PageRecord, PageSink, Released};
use qihui_query::access::{Outlet, RefusedRequest, ReleasePermit};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::cursor::{Asked, PageTag};
use super::error::TopicError;
use super::event::{Envelope, Events};
use super::events::PageLeft;
use super::page::{Draft, Drafted, PageLimits};
use super::progress::{Pending, Progress};
use super::{DECIDE_EVERY, Desk, LOOK_EVERY, Moment, Topics};

/// How often a page is made anew when something is taken away while it is made.
const ATTEMPTS: u32 = 5;

/// What a subscriber asks for.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// The subscription.
    pub subscription: String,
    /// The cursor that the last page gave; none: before the first page.
    pub cursor: Option<String>,
    /// Begin again, because the subscriber lost what it held: the first page says so, and everything follows.
    pub restart: bool,
    /// How large the page may become.
    pub limits: PageLimits,
}

/// What a pull came to.
#[derive(Debug, Clone, Serialize)]
pub struct Pulled {
    /// The subscription.
    pub subscription: String,
    /// The page; none: there was nothing to bring.
    pub page: Option<u64>,
    /// Events in it.
    pub events: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// The cursor to ask with next.
    pub next: String,
    /// Whether more may be waiting.
    pub more: bool,
    /// Its entries in the log.
    pub released: Option<Released>,
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn refused(error: io::Error) -> QueryError {
    QueryError::Output {
        message: error.kind().to_string(),
    }
}

/// A page on its way.
struct Out<'a> {
    topics: &'a Topics,
    desk: &'a Desk,
    out: &'a mut dyn Outlet,
    bytes: &'a [u8],
    /// What to note before the page leaves: it is under way.
    noted: &'a Progress,
    /// Whether that was begun.
    noting: bool,
    /// Whether some of it may have left.
    handed_over: bool,
    /// Why it could not be noted.
    failure: Option<TopicError>,
}

#[async_trait]
impl PageSink for Out<'_> {
    fn begin(&mut self, permit: ReleasePermit) {
        self.out.begin(permit);
    }

    async fn ready(&mut self) -> Result<(), QueryError> {
        self.out.ready().await.map_err(refused)?;
        self.noting = true;
        self.topics.save(self.desk, self.noted).map_err(|error| {
            let message = error.to_string();
            self.failure = Some(error);
            QueryError::Output { message }
        })
    }

    async fn send(&mut self) -> Result<(), QueryError> {
        self.handed_over = true;
        self.out.release(self.bytes).map_err(refused)
    }

    async fn finish(&mut self) -> Result<(), QueryError> {
        self.out.finish().await.map_err(refused)
    }
}

/// Why nothing was brought.
enum NotBrought {
    /// Nothing was decided yet, so there is no entry of it.
    Refused(TopicError),
    /// After the page was recorded as decided: its end is recorded as well, unless the log failed.
    Decided(TopicError),
}

impl<E: Into<TopicError>> From<E> for NotBrought {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

impl Topics {
    /// Answers a subscriber that pulls, into `out`.
    ///
    /// # Errors
    /// The cursor does not fit, the subscription is unknown, or gate, ledger, log or file system refuse; it is recorded, unless
    /// the log itself fails. What was not acknowledged is brought again.
    pub async fn pull(
        &self,
        request: &PullRequest,
        out: &mut dyn Outlet,
    ) -> Result<Pulled, TopicError> {
        let pulled = self.bring(request, out).await?;
        if pulled.page.is_some() {
            return Ok(pulled);
        }
        self.say_nothing(pulled, out).await
    }

    /// Brings the next page into `out`, if there is anything to bring. If there is not, nothing is written, no entry is made,
    /// and the answer has no page: [`Topics::say_nothing`] writes one.
    ///
    /// # Errors
    /// As [`Topics::pull`].
    pub async fn bring(
        &self,
        request: &PullRequest,
        out: &mut dyn Outlet,
    ) -> Result<Pulled, TopicError> {
        match self.brought(request, out).await {
            Ok(pulled) => Ok(pulled),
            Err(NotBrought::Decided(error)) => Err(error),
            Err(NotBrought::Refused(error)) => {
                self.record_refusal(&request.subscription, &error).await?;
                Err(error)
            }
        }
    }

    /// Records that a subscriber was refused before a page of it was decided about (AUD-3).
    async fn record_refusal(&self, id: &str, error: &TopicError) -> Result<(), TopicError> {
        let all = self.gate.subscriptions().await?;
        let known = all.into_iter().find(|one| one.subscription_id == id);
        let (org, purpose) = known.map(|one| (one.org, one.purpose)).unzip();
        let asked = RefusedRequest {
            principal: self.principal.clone(),
            org,
            purpose,
            action: Some(Action::Stream),
            subjects: Vec::new(),
        };
        Ok(self.gate.refused(&asked, error.code()).await?)
    }

    async fn brought(
        &self,
        request: &PullRequest,
        out: &mut dyn Outlet,
    ) -> Result<Pulled, NotBrought> {
        let desk = self.desk(&request.subscription, Delivery::Pull).await?;
        let mut turn = while_there(out.gone(), desk.lane.turn.lock()).await?;
        let mut progress = self.progress(&desk, &mut turn)?;
        self.take_cursor(request, &desk, &mut progress)?;
        let result = self.next_page(request, &desk, &mut progress, out).await;
        // A failure may have come after the page was noted: what is on disk counts.
        *turn = result.is_ok().then_some(progress);
        result
    }

    /// What the cursor says: acknowledges, repeats, or begins again.
    fn take_cursor(
        &self,
        request: &PullRequest,
        desk: &Desk,
        progress: &mut Progress,
    ) -> Result<(), TopicError> {
        if request.restart {
            progress.restart();
            return self.save(desk, progress);
        }
        let Some(cursor) = &request.cursor else {
            return if progress.begun {
                Err(TopicError::CursorRequired)
            } else {
                Ok(())
            };
        };
        let Asked { page, after } = self.cursors.read(&request.subscription, cursor)?;
        let expected = progress.next_page;
        if page == expected {
            return if after == progress.acknowledged {
                Ok(())
            } else {
                Err(TopicError::CursorReplaced { page: page - 1 })
            };
        }
        if page != expected + 1 {
            return Err(TopicError::CursorOutdated {
                asked: page,
                expected,
            });
        }
        let under_way = progress.pending.as_ref();
        if under_way.is_some_and(|pending| pending.tag == after) {
            progress.acknowledge();
            self.save(desk, progress)?;
        }
        // Else it has a version of the page that was replaced since; what it may hold by that is known. It is brought the
        // version that counts.
        Ok(())
    }

    async fn next_page(
        &self,
        request: &PullRequest,
        desk: &Desk,
        progress: &mut Progress,
        out: &mut dyn Outlet,
    ) -> Result<Pulled, NotBrought> {
        for _ in 0..ATTEMPTS {
            let present = self.gate.view(&desk.recipient).await?;
            let before = progress.clone();
            let drafter = desk.drafter(self, request.limits);
            // Given up in the middle, `progress` is no longer looked at: the file counts.
            let drafted = while_there(out.gone(), drafter.draft(progress, &present)).await?;
            let sent = match drafted {
                Ok(Drafted::Page(draft)) => {
                    let states = (&before, &mut *progress);
                    self.send(request, desk, states, &draft, out).await?
                }
                Ok(drafted) => {
                    if *progress != before {
                        self.keep_scope(desk, &present)?;
                        self.save(desk, progress)?;
                    }
                    let more = matches!(drafted, Drafted::Working);
                    return Ok(self.nothing(request, progress, more));
                }
                Err(TopicError::Query(QueryError::ConsentChanged)) => None,
                Err(error) => return Err(error.into()),
            };
            if let Some(pulled) = sent {
                return Ok(pulled);
            }
            // What was under way before may have arrived, and only that. It may have been the subscription that ended.
            *progress = before;
            self.subscription(&request.subscription).await?;
        }
        Err(QueryError::ConsentChanged.into())
    }

    /// Has a page recorded, notes it, and lets it leave; none: something was taken away before anything left. Where nothing
    /// left, nothing of it stays noted.
    async fn send(
        &self,
        request: &PullRequest,
        desk: &Desk,
        (before, progress): (&Progress, &mut Progress),
        draft: &Draft,
        out: &mut dyn Outlet,
    ) -> Result<Option<Pulled>, NotBrought> {
        let page = draft.pending.page;
        let envelope = desk.envelope(self.gate.hub(), page, draft.pending.at);
        let mut bytes = body(&envelope, &draft.events);
        let tag = PageTag::of(&bytes);
        let next = self.cursors.cursor(&request.subscription, page + 1, tag);
        end(&mut bytes, &next);
        self.keep_scope(desk, &draft.view)?;
        let mut noted = progress.clone();
        noted.pending = Some(Pending {
            tag,
            ..draft.pending.clone()
        });
        let record = PageRecord {
            subscription: request.subscription.clone(),
            delivery: Delivery::Pull,
            page,
            events: draft.events.len() as u64,
            bytes: bytes.len() as u64,
            sha256: hex::encode(digest(&SHA256, &bytes)),
            by_enterprise: draft.events.by_enterprise(),
        };
        let mut sink = Out {
            topics: self,
            desk,
            out,
            bytes: &bytes,
            noted: &noted,
            noting: false,
            handed_over: false,
            failure: None,
        };
        let released = self
            .gate
            .release(&desk.recipient, &draft.view, &record, &mut sink)
            .await;
        let (noting, handed_over, failure) = (sink.noting, sink.handed_over, sink.failure);
        if noting && !handed_over {
            self.save(desk, before).map_err(NotBrought::Decided)?;
        }
        if let Some(failure) = failure {
            return Err(NotBrought::Decided(failure));
        }
        let released = match released {
            Err(QueryError::ConsentChanged) if !handed_over => return Ok(None),
            released => released.map_err(|error| NotBrought::Decided(error.into()))?,
        };
        *progress = noted;
        PageLeft {
            subscription: &desk.subscription,
            page,
            events: record.events,
        }
        .emit();
        Ok(Some(Pulled {
            subscription: request.subscription.clone(),
            page: Some(page),
            events: record.events,
            bytes: record.bytes,
            next,
            more: true,
            released: Some(released),
        }))
    }

    fn nothing(&self, request: &PullRequest, progress: &Progress, more: bool) -> Pulled {
        let subscription = request.subscription.clone();
        Pulled {
            page: None,
            events: 0,
            bytes: 0,
            next: self
                .cursors
                .cursor(&subscription, progress.next_page, progress.acknowledged),
            more,
            released: None,
            subscription,
        }
    }

    /// Answers that there was nothing to bring. No row leaves, so there is nothing to record.
    ///
    /// # Errors
    /// `out` takes nothing.
    pub async fn say_nothing(
        &self,
        pulled: Pulled,
        out: &mut dyn Outlet,
    ) -> Result<Pulled, TopicError> {
        let answer = serde_json::json!({
            "subscription": pulled.subscription,
            "events": [],
            "next": pulled.next,
            "more": pulled.more,
        });
        let bytes = answer.to_string();
        out.ready().await.map_err(refused)?;
        out.release(bytes.as_bytes()).map_err(refused)?;
        out.finish().await.map_err(refused)?;
        Ok(Pulled {
            bytes: bytes.len() as u64,
            ..pulled
        })
    }

    /// What [`Topics::changed`] is to compare with: taken before [`Topics::bring`], so that no change falls between.
    ///
    /// # Errors
    /// The subscription is unknown, or a store cannot be read.
    pub async fn moment(&self, subscription: &str) -> Result<Moment, TopicError> {
        let desk = self.desk(subscription, Delivery::Pull).await?;
        self.look(&desk.recipient.dataset).await
    }

    /// Waits until something happened since `seen` that the subscriber's view may depend on, and no longer than `time`; the
    /// view may have changed by itself as well, so this ends from time to time without any reason.
    ///
    /// # Errors
    /// As [`Topics::moment`].
    pub async fn changed(
        &self,
        subscription: &str,
        seen: Moment,
        time: Duration,
    ) -> Result<(), TopicError> {
        let until = Instant::now() + time.min(DECIDE_EVERY);
        let desk = self.desk(subscription, Delivery::Pull).await?;
        while self.look(&desk.recipient.dataset).await? == seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY.min(left)).await;
        }
        Ok(())
    }
}

/// Works as long as there is somebody to work for.
async fn while_there<T>(
    gone: BoxFuture<'static, ()>,
    work: impl Future<Output = T>,
) -> Result<T, TopicError> {
    tokio::select! {
        done = work => Ok(done),
        () = gone => Err(refused(io::ErrorKind::BrokenPipe.into()).into()),
    }
}

/// A page as it leaves, but for its end.
fn body(envelope: &Envelope, events: &Events) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.bytes() + events.len() * 256 + 256);
    out.extend_from_slice(b"{\"subscription\":\"");
    out.extend_from_slice(envelope.subscription.as_bytes());
    out.extend_from_slice(b"\",\"page\":");
    out.extend_from_slice(envelope.page.to_string().as_bytes());
    out.extend_from_slice(b",\"events\":[");
    let mut first = true;
    for event in events.iter() {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        envelope.write(events, event, &mut out);
    }
    out
}

/// Ends a page with the cursor to ask with next.
fn end(page: &mut Vec<u8>, next: &str) {
    page.extend_from_slice(b"],\"next\":\"");
    page.extend_from_slice(next.as_bytes());
    page.extend_from_slice(b"\",\"more\":true}");
}
