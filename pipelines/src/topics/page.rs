//! Pages: what a subscriber is brought in one step.
//!
//! A page moves a run of enterprise numbers from whatever the subscriber may hold to one target view. It is made by
//! reading, through the gate, the rows of the enterprises that the views may differ in, and comparing them. Runs in which
//! nothing differs advance without a page. Enterprises are never split: the limits of a page are met at the first
//! enterprise that reaches them.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use qihui_catalog::TopicName;
use qihui_query::access::Gate;
use qihui_query::access::delivery::{Recipient, TracedRows, View, ViewKey};
use roaring::RoaringBitmap;

use super::diff::{self, Shape};
use super::error::TopicError;
use super::event::{EventKind, Events};
use super::interval::Bases;
use super::notice;
use super::progress::{Pending, Progress, Store};

/// How many views are kept open.
const MAX_VIEWS: usize = 16;
/// How many enterprises are compared at once at most.
const MAX_CHUNK: u64 = 65_536;
/// A page that covers no enterprise has this range: no enterprise has number 0.
const NOBODY: RangeInclusive<u32> = 0..=0;

/// How large a page may become, and how long it may take to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// Events, at which no further enterprise is taken in.
    pub events: usize,
    /// Bytes of event data, at which no further enterprise is taken in.
    pub bytes: usize,
    /// Time for comparing, after which a page without events is given up for the next call to go on.
    pub time: Duration,
}

impl Default for PageLimits {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 4 << 20,
            time: Duration::from_secs(20),
        }
    }
}

/// A page that is ready to leave.
#[derive(Debug)]
pub struct Draft {
    /// What to note before it leaves.
    pub pending: Pending,
    /// What it says.
    pub events: Events,
    /// The view it brings its subscriber to, under which it is released.
    pub view: View,
}

/// What there is to be brought.
#[derive(Debug)]
pub enum Drafted {
    /// A page.
    Page(Box<Draft>),
    /// Nothing: the subscriber holds exactly what it may see.
    UpToDate,
    /// Nothing yet: the time is used up; some enterprises were found unchanged.
    Working,
}

/// Views of the past that are open.
#[derive(Debug, Default)]
pub struct Views {
    open: Mutex<HashMap<ViewKey, Arc<View>>>,
}

/// Makes the pages of one subscription.
pub struct Drafter<'a> {
    /// The gate.
    pub gate: &'a Gate,
    /// Who receives.
    pub recipient: &'a Recipient,
    /// The topic.
    pub topic: &'a TopicName,
    /// Its columns.
    pub shape: &'a Shape,
    /// The scopes of views.
    pub store: &'a Store,
    /// Views that are open.
    pub views: &'a Views,
    /// How large pages may become.
    pub limits: PageLimits,
}

/// A view that may be held; none: nothing.
type Base = Option<Arc<View>>;

/// How far a run of enterprises got.
enum Reached {
    /// There are events for everybody up to this number.
    Events(u32),
    /// Nothing differs up to the end.
    End,
    /// Nothing differs up to this number, and the time is used up.
    Late(u32),
}

impl Drafter<'_> {
    /// The next page, or the one under way again.
    ///
    /// `progress` is brought up to what needs no page; whoever sends the page saves it with the page as pending.
    ///
    /// # Errors
    /// What gate, ledger and warehouse say.
    pub async fn draft(
        &self,
        progress: &mut Progress,
        present: &View,
    ) -> Result<Drafted, TopicError> {
        let deadline = Instant::now() + self.limits.time;
        loop {
            let drafted = match progress.pending.clone() {
                Some(pending) => self.again(progress, present, &pending).await?,
                None => self.fresh(progress, present, deadline).await?,
            };
            if let Some(drafted) = drafted {
                return Ok(drafted);
            }
        }
    }

    /// The page under way once more: as it was if that is still authorised, else what is authorised now.
    async fn again(
        &self,
        progress: &mut Progress,
        present: &View,
        pending: &Pending,
    ) -> Result<Option<Drafted>, TopicError> {
        let repeated = self
            .gate
            .at_version(self.recipient, present, &pending.target)
            .await?;
        let (view, at) = match repeated {
            Some(view) => (view, pending.at),
            None => (present.clone(), present.at()),
        };
        if view.key() != &pending.target {
            progress.supersede();
        }
        let mut events = Events::default();
        let Some(noticed_up_to) = self.preface(progress, &view, &mut events).await? else {
            return Ok(None);
        };
        let range = pending.from..=pending.to;
        let runs: Vec<_> = progress.held.intervals().to_vec();
        for interval in runs {
            let from = interval.from.max(pending.from);
            let to = interval.to.min(pending.to);
            if from > to || interval.is_at(view.key()) {
                continue;
            }
            let Some(bases) = self.bases(&interval.bases).await? else {
                progress.pending = None;
                progress.forget();
                return Ok(None);
            };
            let affected = self.affected(&bases, &view, &(from..=to)).await?;
            self.compare(&bases, &view, &affected, &mut events).await?;
        }
        progress.pending = None;
        progress.next_page = pending.page;
        if events.is_empty() {
            // What it said is no longer so, and the subscriber holds nothing else.
            progress
                .held
                .set(&range, &Bases::from([Some(view.key().clone())]));
            return Ok(None);
        }
        Ok(Some(self.page(
            progress,
            &view,
            &range,
            at,
            noticed_up_to,
            events,
        )))
    }

    async fn fresh(
        &self,
        progress: &mut Progress,
        present: &View,
        deadline: Instant,
    ) -> Result<Option<Drafted>, TopicError> {
        let mut events = Events::default();
        let Some(noticed_up_to) = self.preface(progress, present, &mut events).await? else {
            return Ok(None);
        };
        let here = Bases::from([Some(present.key().clone())]);
        let at = present.at();
        while let Some(interval) = progress.held.due(present.key()).cloned() {
            let Some(bases) = self.bases(&interval.bases).await? else {
                progress.forget();
                return Ok(None);
            };
            let range = interval.range();
            let affected = self.affected(&bases, present, &range).await?;
            match self
                .run(&bases, present, &affected, &mut events, deadline)
                .await?
            {
                Reached::Events(last) => {
                    let to = if affected.max() == Some(last) {
                        interval.to
                    } else {
                        last
                    };
                    let range = interval.from..=to;
                    let page = self.page(progress, present, &range, at, noticed_up_to, events);
                    return Ok(Some(page));
                }
                Reached::End => progress.held.set(&range, &here),
                Reached::Late(last) => {
                    progress.held.set(&(interval.from..=last), &here);
                    if events.is_empty() {
                        return Ok(Some(Drafted::Working));
                    }
                    break;
                }
            }
        }
        if events.is_empty() {
            if !progress.noticed.since.is_empty() {
                // Nothing ended that was brought: there is nothing to say about the time before.
                progress.noticed.since = [present.key().clone()].into();
                progress.noticed.partly = None;
            }
            return Ok(Some(Drafted::UpToDate));
        }
        Ok(Some(self.page(
            progress,
            present,
            &NOBODY,
            at,
            noticed_up_to,
            events,
        )))
    }

    fn page(
        &self,
        progress: &Progress,
        view: &View,
        range: &RangeInclusive<u32>,
        at: qihui_catalog::Timestamp,
        noticed_up_to: Option<u32>,
        events: Events,
    ) -> Drafted {
        let pending = Pending {
            page: progress.next_page,
            from: *range.start(),
            to: *range.end(),
            target: view.key().clone(),
            at,
            noticed_up_to,
        };
        Drafted::Page(Box::new(Draft {
            pending,
            events,
            view: view.clone(),
        }))
    }

    /// What a page says before it speaks of rows: a reset, and notices. None when the subscriber must begin again.
    async fn preface(
        &self,
        progress: &mut Progress,
        view: &View,
        events: &mut Events,
    ) -> Result<Option<Option<u32>>, TopicError> {
        if progress.reset {
            let data = serde_json::json!({
                "dataset": self.recipient.dataset,
                "topic": self.topic,
            });
            events.push(EventKind::Reset, (None, ""), |out| {
                serde_json::to_writer(out, &data).map_err(|_| qihui_query::QueryError::Internal {
                    what: "writing a reset",
                })
            })?;
        }
        let mut since = Vec::new();
        for key in progress.noticed.since.clone() {
            if key.scope == view.key().scope {
                continue;
            }
            match self.view(&key).await? {
                Some(view) => since.push(view.as_ref().clone()),
                None => {
                    progress.pending = None;
                    progress.forget();
                    return Ok(None);
                }
            }
        }
        if since.is_empty() {
            return Ok(Some(None));
        }
        let about = (self.recipient, self.topic);
        let last = notice::append(self.gate, about, progress, &since, view, events).await?;
        Ok(Some(last))
    }

    /// A view of the past; none when it can no longer be opened.
    async fn view(&self, key: &ViewKey) -> Result<Option<Arc<View>>, TopicError> {
        if let Some(view) = self.views.open.lock().get(key) {
            return Ok(Some(Arc::clone(view)));
        }
        let Some(bytes) = self.store.scope(key)? else {
            return Ok(None);
        };
        let Some(view) = self.gate.view_at(self.recipient, key, &bytes).await? else {
            return Ok(None);
        };
        let view = Arc::new(view);
        let mut open = self.views.open.lock();
        if open.len() >= MAX_VIEWS {
            open.clear();
        }
        open.insert(key.clone(), Arc::clone(&view));
        Ok(Some(view))
    }

    async fn bases(&self, bases: &Bases) -> Result<Option<Vec<Base>>, TopicError> {
        let mut open = Vec::with_capacity(bases.len());
        for base in bases {
            match base {
                None => open.push(None),
                Some(key) => match self.view(key).await? {
                    Some(view) => open.push(Some(view)),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(open))
    }

    /// The enterprises of a range whose rows may differ between some base and the target.
    async fn affected(
        &self,
        bases: &[Base],
        target: &View,
        range: &RangeInclusive<u32>,
    ) -> Result<RoaringBitmap, TopicError> {
        let mut affected = RoaringBitmap::new();
        for base in bases {
            affected |= match base {
                None => target.enterprises(range),
                Some(base) => self.gate.differing(base, target, range).await?,
            };
        }
        Ok(affected)
    }

    /// Compares chunk by chunk until there are enough events, nobody is left, or the time is used up without any.
    async fn run(
        &self,
        bases: &[Base],
        target: &View,
        affected: &RoaringBitmap,
        events: &mut Events,
        deadline: Instant,
    ) -> Result<Reached, TopicError> {
        let before = events.len();
        let wanted = u64::try_from(self.limits.events).unwrap_or(MAX_CHUNK);
        let mut size = (wanted / target.rows_per_enterprise()).clamp(1, MAX_CHUNK);
        let mut left = affected.clone();
        while let Some(first) = left.min() {
            let last = left.select(u32::try_from(size - 1).unwrap_or(u32::MAX));
            let last = last.or_else(|| left.max()).unwrap_or(first);
            let mut chunk = left.clone();
            if let Some(after) = last.checked_add(1) {
                chunk.remove_range(after..);
            }
            left.remove_range(..=last);
            let known = events.len();
            self.compare(bases, target, &chunk, events).await?;
            let full = events.len() >= self.limits.events || events.bytes() >= self.limits.bytes;
            let late = Instant::now() >= deadline;
            if events.len() > before && (full || late || left.is_empty()) {
                return Ok(Reached::Events(last));
            }
            if late && !left.is_empty() {
                return Ok(Reached::Late(last));
            }
            if events.len() - known < self.limits.events / 4 {
                size = (size * 4).min(MAX_CHUNK);
            }
        }
        Ok(Reached::End)
    }

    /// Reads both sides through the gate and appends what differs.
    async fn compare(
        &self,
        bases: &[Base],
        target: &View,
        chunk: &RoaringBitmap,
        events: &mut Events,
    ) -> Result<(), TopicError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let schema = &self.shape.schema;
        let new = self
            .gate
            .rows(self.recipient, target, chunk, schema)
            .await?;
        let mut old: Vec<TracedRows> = Vec::with_capacity(bases.len());
        for base in bases {
            old.push(match base {
                None => TracedRows::none(schema),
                Some(base) => self.gate.rows(self.recipient, base, chunk, schema).await?,
            });
        }
        Ok(diff::compare(self.shape, &old, &new, events)?)
    }
}
