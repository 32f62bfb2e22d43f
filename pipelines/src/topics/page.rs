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
use qihui_query::QueryError;
use qihui_query::access::Gate;
use qihui_query::access::delivery::{Past, Recipient, TracedRows, View, ViewKey};
use roaring::RoaringBitmap;

use super::cursor::PageTag;
use super::diff::{self, Shape};
use super::error::TopicError;
use super::event::{EventKind, Events};
use super::interval::Bases;
use super::notice::{self, Due};
use super::progress::{Pending, Progress, Store};

/// How many views are kept open.
const MAX_VIEWS: usize = 16;
/// How many enterprises are compared at once at most.
const MAX_CHUNK: u64 = 65_536;
/// How many rows of each side are compared at once, as a rule: more only where enterprises have very many.
const MAX_CHUNK_ROWS: u64 = 1 << 18;
/// In how many views a subscriber may be, each after an answer that got lost; then it begins again.
const MAX_UNCERTAINTY: usize = 5;
/// Every so many pages what was never brought goes before what fell behind.
const NEW_EVERY: u64 = 4;
/// How many comparisons of views are remembered.
const MAX_DIFFERENCES: usize = 64;
/// A page that covers no enterprise has this range: no enterprise has number 0.
const NOBODY: RangeInclusive<u32> = 0..=0;
const EVERYBODY: RangeInclusive<u32> = 0..=u32::MAX;

/// How large a page may become, and how long it may take to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// Events, at which no further enterprise is taken in.
    pub events: usize,
    /// Bytes of event data, at which no further enterprise is taken in.
    pub bytes: usize,
    /// Notices about single enterprises.
    pub notices: usize,
    /// Time for comparing, after which a page without events is given up for the next call to go on.
    pub time: Duration,
}

impl Default for PageLimits {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 4 << 20,
            notices: 1000,
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
    /// The enterprises that two views may differ in.
    differing: Mutex<HashMap<(ViewKey, ViewKey), Arc<RoaringBitmap>>>,
}

impl Views {
    /// Forgets all of them; whether there were any.
    fn close(&self) -> bool {
        self.differing.lock().clear();
        let mut open = self.open.lock();
        let any = !open.is_empty();
        open.clear();
        any
    }
}

/// Makes the pages of one subscription.
pub struct Drafter<'a> {
    /// The subscription.
    pub subscription: &'a str,
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

/// A comparison of views, enterprise by enterprise.
struct Walk<'b> {
    bases: &'b [Base],
    target: &'b View,
    /// Whom it has still to look at.
    left: RoaringBitmap,
    /// How many are compared at once, now and at most.
    size: u64,
    most: u64,
}

/// How far a run of enterprises got.
enum Reached {
    /// There are events for everybody up to this number; none: up to the end.
    Events(Option<u32>),
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
                Some(pending) => self.again(progress, present, &pending).await,
                None => self.fresh(progress, present, deadline).await,
            };
            match drafted {
                Ok(Some(drafted)) => return Ok(drafted),
                Ok(None) => {}
                // A view that was opened before an erasure reads files that are gone: it has to be opened anew, and then is
                // said to be gone.
                Err(TopicError::Query(QueryError::Warehouse { .. })) if self.views.close() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A page that says that everything is to be dropped, and nothing else.
    ///
    /// # Errors
    /// [`QueryError::Internal`], a defect.
    pub fn reset(&self, progress: &Progress, present: &View) -> Result<Draft, TopicError> {
        let mut events = Events::default();
        self.push_reset(&mut events)?;
        Ok(self.draft_of(progress, present, &NOBODY, present.at(), None, events))
    }

    fn push_reset(&self, events: &mut Events) -> Result<(), TopicError> {
        let data = serde_json::json!({
            "dataset": self.recipient.dataset,
            "topic": self.topic,
        });
        let written = events.push(EventKind::Reset, (None, ""), |out| {
            serde_json::to_writer(out, &data).map_err(|_| QueryError::Internal {
                what: "writing a reset",
            })
        });
        Ok(written?)
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
            if progress.held.uncertainty() > MAX_UNCERTAINTY {
                progress.forget();
                return Ok(None);
            }
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
            let mut walk = self.walk(&bases, &view, affected);
            while self.step(&mut walk, &mut events).await?.is_some() {}
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
        let new_first = progress.next_page.is_multiple_of(NEW_EVERY);
        while let Some(interval) = progress.held.due(present.key(), new_first).cloned() {
            let Some(bases) = self.bases(&interval.bases).await? else {
                progress.forget();
                return Ok(None);
            };
            let range = interval.range();
            let affected = self.affected(&bases, present, &range).await?;
            let walk = self.walk(&bases, present, affected);
            match self.run(walk, &mut events, deadline).await? {
                Reached::Events(last) => {
                    let range = interval.from..=last.unwrap_or(interval.to);
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
            if progress.noticed.views().next().is_some() {
                // Nothing ended that was brought: there is nothing to say about the time before.
                progress.noticed.set(&EVERYBODY, &here);
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
        let draft = self.draft_of(progress, view, range, at, noticed_up_to, events);
        Drafted::Page(Box::new(draft))
    }

    fn draft_of(
        &self,
        progress: &Progress,
        view: &View,
        range: &RangeInclusive<u32>,
        at: qihui_catalog::Timestamp,
        noticed_up_to: Option<u32>,
        events: Events,
    ) -> Draft {
        let pending = Pending {
            page: progress.next_page,
            from: *range.start(),
            to: *range.end(),
            target: view.key().clone(),
            at,
            noticed_up_to,
            // Known when the page has its final form.
            tag: PageTag::default(),
        };
        Draft {
            pending,
            events,
            view: view.clone(),
        }
    }

    /// What a page says before it speaks of rows: a reset, and notices. None when the subscriber must begin again.
    async fn preface(
        &self,
        progress: &mut Progress,
        view: &View,
        events: &mut Events,
    ) -> Result<Option<Option<u32>>, TopicError> {
        if progress.reset {
            self.push_reset(events)?;
        }
        let mut since = Vec::new();
        for interval in progress.noticed.intervals().to_vec() {
            let mut views = Vec::new();
            for key in interval.bases.iter().flatten() {
                if key.scope == view.key().scope {
                    continue;
                }
                let Some(view) = self.view(key).await? else {
                    progress.pending = None;
                    progress.forget();
                    return Ok(None);
                };
                views.push(view);
            }
            if !views.is_empty() {
                since.push((interval.range(), views));
            }
        }
        if since.is_empty() {
            return Ok(Some(None));
        }
        let about = (self.recipient, self.topic);
        let due = Due {
            since,
            held: &progress.held,
            at_most: self.limits.notices.max(1),
        };
        let last = notice::append(self.gate, about, &due, view, events).await?;
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
        let view = match self.gate.view_at(self.recipient, key, &bytes).await? {
            Past::View(view) => Arc::new(*view),
            Past::VersionGone => return Ok(None),
            Past::ScopeDamaged => {
                self.store.remove_scope(&key.scope)?;
                return Ok(None);
            }
        };
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
                Some(base) => within(&*self.differing(base, target).await?, range),
            };
        }
        Ok(affected)
    }

    /// The enterprises that two views may differ in.
    async fn differing(
        &self,
        base: &View,
        target: &View,
    ) -> Result<Arc<RoaringBitmap>, TopicError> {
        let pair = (base.key().clone(), target.key().clone());
        if let Some(known) = self.views.differing.lock().get(&pair) {
            return Ok(Arc::clone(known));
        }
        let differing = self.gate.differing(base, target, &EVERYBODY).await?;
        let differing = Arc::new(differing);
        let mut all = self.views.differing.lock();
        if all.len() >= MAX_DIFFERENCES {
            all.clear();
        }
        all.insert(pair, Arc::clone(&differing));
        Ok(differing)
    }

    fn walk<'b>(&self, bases: &'b [Base], target: &'b View, left: RoaringBitmap) -> Walk<'b> {
        let rows = target.rows_per_enterprise();
        let most = (MAX_CHUNK_ROWS / rows).clamp(1, MAX_CHUNK);
        let wanted = u64::try_from(self.limits.events).unwrap_or(MAX_CHUNK);
        Walk {
            bases,
            target,
            left,
            size: (wanted / rows).clamp(1, most),
            most,
        }
    }

    /// Compares until there are enough events, nobody is left, or the time is used up without any.
    async fn run(
        &self,
        mut walk: Walk<'_>,
        events: &mut Events,
        deadline: Instant,
    ) -> Result<Reached, TopicError> {
        let before = events.len();
        while let Some(last) = self.step(&mut walk, events).await? {
            // Where a page ends must follow from what its subscriber may see: how many enterprises were compared at
            // once does not.
            if let Some(last) = events.cut(before, self.limits.events, self.limits.bytes) {
                return Ok(Reached::Events(Some(last)));
            }
            let (any, late) = (events.len() > before, Instant::now() >= deadline);
            match (any, walk.left.is_empty(), late) {
                (true, true, _) => return Ok(Reached::Events(None)),
                (true, false, true) => return Ok(Reached::Events(Some(last))),
                (false, false, true) => return Ok(Reached::Late(last)),
                _ => {}
            }
        }
        Ok(Reached::End)
    }

    /// Compares the next enterprises of a walk and appends what differs; gives the last of them. None: nobody is left.
    async fn step(
        &self,
        walk: &mut Walk<'_>,
        events: &mut Events,
    ) -> Result<Option<u32>, TopicError> {
        while let Some(first) = walk.left.min() {
            let last = walk
                .left
                .select(u32::try_from(walk.size - 1).unwrap_or(u32::MAX));
            let last = last.or_else(|| walk.left.max()).unwrap_or(first);
            let mut chunk = walk.left.clone();
            if let Some(after) = last.checked_add(1) {
                chunk.remove_range(after..);
            }
            let known = events.len();
            match self.compare(walk.bases, walk.target, &chunk, events).await {
                Err(TopicError::Query(QueryError::TooManyRows { limit })) => {
                    if chunk.len() == 1 {
                        let id = self.subscription.to_owned();
                        return Err(TopicError::EnterpriseTooLarge { id, limit });
                    }
                    walk.size = (chunk.len() / 4).max(1);
                    continue;
                }
                compared => compared?,
            }
            walk.left.remove_range(..=last);
            if events.len() - known < self.limits.events / 4 {
                walk.size = (walk.size * 4).min(walk.most);
            }
            return Ok(Some(last));
        }
        Ok(None)
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

fn within(numbers: &RoaringBitmap, range: &RangeInclusive<u32>) -> RoaringBitmap {
    let mut run = RoaringBitmap::new();
    run.insert_range(range.clone());
    numbers & run
}
