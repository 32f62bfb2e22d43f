//! Progress at rest: how far each subscription was brought, and the scopes that this is said in.
//!
//! Promise: what was saved survives a power cut, and a scope is durable before a progress names it. Limits: one process
//! owns the folder (it holds the lock of the data directory).
//!
//! On disk, in one folder: `<subscription>.json`, the [`Progress`] as canonical JSON; `scopes/<commitment>`, a scope
//! (format: `qihui_query::access::stored_scope`); `cursor.key`, 32 random bytes, mode 0600, with which cursors are
//! authenticated. A progress is replaced as a whole: staging file, fsync, rename, fsync of the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use qihui_catalog::{DatasetId, Timestamp};
use qihui_ingest::durable;
use qihui_query::access::delivery::{View, ViewKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::cursor::PageTag;
use super::error::TopicError;
use super::interval::IntervalMap;

/// The version of the format.
const FORMAT: u32 = 2;
/// The largest progress that is read, bytes.
const MAX_BYTES: u64 = 64 << 20;

/// A page that left, or may have left, and was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// Its number.
    pub page: u64,
    /// The first enterprise number it covers.
    pub from: u32,
    /// The last.
    pub to: u32,
    /// What it brings them to.
    pub target: ViewKey,
    /// The instant of its events.
    pub at: Timestamp,
    /// The last enterprise whose notice is in it; none: all notices are.
    pub noticed_up_to: Option<u32>,
    /// Which version of the page it is.
    pub tag: PageTag,
}

impl Pending {
    /// The numbers whose notices are in it.
    fn noticed(&self) -> RangeInclusive<u32> {
        0..=self.noticed_up_to.unwrap_or(u32::MAX)
    }
}

/// How far one subscription was brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    format: u32,
    /// The subscription.
    pub subscription: String,
    /// The dataset of its topic.
    pub dataset: DatasetId,
    /// The hash of the topic as it is brought, hexadecimal.
    pub topic: String,
    /// The partitions of the Kafka topic that it was brought to.
    pub partitions: Option<i32>,
    /// The number of the next page to be made; every page before it but the pending one was acknowledged.
    pub next_page: u64,
    /// Whether a page was ever acknowledged since the (last) beginning.
    pub begun: bool,
    /// Whether the next page begins with a reset, because the subscriber may hold what nobody knows any more.
    pub reset: bool,
    /// Which version of the page before the next one was acknowledged.
    pub acknowledged: PageTag,
    /// What the subscriber holds.
    pub held: IntervalMap,
    /// Since which views it has to be told what ended; at number 0, which no enterprise has, what is about everybody.
    pub noticed: IntervalMap,
    /// The page under way.
    pub pending: Option<Pending>,
}

impl Progress {
    /// The progress of a subscription that was brought nothing yet.
    #[must_use]
    pub fn new(subscription: &str, dataset: &DatasetId, topic: &str) -> Self {
        Self {
            format: FORMAT,
            subscription: subscription.to_owned(),
            dataset: dataset.clone(),
            topic: topic.to_owned(),
            partitions: None,
            next_page: 1,
            begun: false,
            reset: false,
            acknowledged: PageTag::default(),
            held: IntervalMap::default(),
            noticed: IntervalMap::default(),
            pending: None,
        }
    }

    /// The progress of a subscription of which it is not known any more what it was brought: it begins with a reset, and
    /// with a number that no page had before (milliseconds: there never were so many pages).
    #[must_use]
    pub fn lost(subscription: &str, dataset: &DatasetId, topic: &str, now: Timestamp) -> Self {
        Self {
            next_page: u64::try_from(now.0).unwrap_or(1).max(1),
            reset: true,
            ..Self::new(subscription, dataset, topic)
        }
    }

    /// Begins again: the next page says so, and brings everything.
    pub fn restart(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.next_page = pending.page + 1;
        }
        // A cursor from before must not fit.
        self.next_page += 1;
        self.begun = false;
        self.acknowledged = PageTag::default();
        self.forget();
    }

    /// The views that the subscriber was brought to can no longer be opened: it has to begin again.
    pub fn forget(&mut self) {
        self.reset = true;
        self.held = IntervalMap::default();
        self.noticed = IntervalMap::default();
    }

    /// The page under way has arrived.
    pub fn acknowledge(&mut self) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let bases = BTreeSet::from([Some(pending.target.clone())]);
        self.held.set(&(pending.from..=pending.to), &bases);
        self.noticed.set(&pending.noticed(), &bases);
        self.next_page = pending.page + 1;
        self.acknowledged = pending.tag;
        self.begun = true;
        self.reset = false;
    }

    /// The page under way may or may not have arrived, and another takes its place.
    pub fn supersede(&mut self) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.held.add(&(pending.from..=pending.to), &pending.target);
        self.noticed.add(&pending.noticed(), &pending.target);
    }

    /// Every view that a later page may be compared with.
    pub fn views(&self) -> impl Iterator<Item = &ViewKey> {
        let pending = self.pending.iter().map(|pending| &pending.target);
        self.held.views().chain(pending).chain(self.noticed.views())
    }
}

/// The folder of progresses.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

fn unusable(doing: &'static str) -> impl Fn(io::Error) -> TopicError {
    move |error| TopicError::ProgressUnusable {
        doing,
        reason: error.to_string(),
    }
}

fn damaged(reason: &str) -> TopicError {
    TopicError::ProgressUnusable {
        doing: "read",
        reason: format!("{reason}; restore it from a backup, or begin the subscription again"),
    }
}

impl Store {
    /// The store in a folder, which is made when missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self, TopicError> {
        fs::create_dir_all(folder.join("scopes")).map_err(unusable("kept"))?;
        let store = Self {
            folder: folder.to_owned(),
        };
        sync_folder(folder).map_err(unusable("kept"))?;
        Ok(store)
    }

    fn path(&self, subscription: &str) -> PathBuf {
        self.folder.join(format!("{subscription}.json"))
    }

    /// The progress of a subscription, if it has any.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn load(&self, subscription: &str) -> Result<Option<Progress>, TopicError> {
        match read_progress(&self.path(subscription))? {
            Found::Progress(progress) => Ok(Some(*progress)),
            Found::Nothing => Ok(None),
            Found::Damaged(reason) => Err(damaged(reason)),
        }
    }

    /// The progress of a subscription for a delivery. One that is damaged is moved aside, to `<subscription>.damaged`, and
    /// said to be lost.
    ///
    /// # Errors
    /// It cannot be read or moved.
    pub fn begin(&self, subscription: &str) -> Result<Begun, TopicError> {
        let path = self.path(subscription);
        match read_progress(&path)? {
            Found::Progress(progress) => Ok(Begun::Known(progress)),
            Found::Nothing if path.with_extension("damaged").exists() => Ok(Begun::Lost),
            Found::Nothing => Ok(Begun::Never),
            Found::Damaged(reason) => {
                tracing::error!(
                    subscription,
                    reason,
                    "the progress of a subscription is damaged: it begins again, with a reset"
                );
                fs::rename(&path, path.with_extension("damaged")).map_err(unusable("kept"))?;
                sync_folder(&self.folder).map_err(unusable("kept"))?;
                Ok(Begun::Lost)
            }
        }
    }

    /// Makes a progress durable.
    ///
    /// # Errors
    /// It cannot be written; what was saved before stands.
    pub fn save(&self, progress: &Progress) -> Result<(), TopicError> {
        let bytes = serde_json_canonicalizer::to_vec(progress)
            .map_err(|_| damaged("it has no canonical form"))?;
        durable::replace(&self.path(&progress.subscription), &bytes).map_err(unusable("kept"))
    }

    /// Makes the scope of a view durable.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_scope(&self, view: &View) -> Result<(), TopicError> {
        let path = self.folder.join("scopes").join(&view.key().scope);
        if path.exists() {
            return Ok(());
        }
        durable::replace(&path, &view.scope_bytes()?).map_err(unusable("kept"))
    }

    /// The bytes of the scope of a view; none when it is gone.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn scope(&self, view: &ViewKey) -> Result<Option<Vec<u8>>, TopicError> {
        match fs::read(self.folder.join("scopes").join(&view.scope)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable("read")(error)),
        }
    }

    /// Removes a scope that nobody needs, or that turned out to be damaged, so that it can be kept anew.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_scope(&self, scope: &str) -> Result<(), TopicError> {
        removed(&self.folder.join("scopes").join(scope))
    }

    /// Removes the progress of a subscription that ended.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, subscription: &str) -> Result<(), TopicError> {
        removed(&self.path(subscription))
    }

    /// Every progress in the folder that can be read.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> Result<Vec<Progress>, TopicError> {
        all_in(&self.folder)
    }

    /// Removes scopes that no progress names.
    ///
    /// # Errors
    /// The folder cannot be read; a scope that cannot be removed stays.
    pub fn sweep(&self) -> Result<usize, TopicError> {
        let named: BTreeSet<String> = self
            .all()?
            .iter()
            .flat_map(|progress| {
                progress
                    .views()
                    .map(|view| view.scope.clone())
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut removed = 0;
        for entry in fs::read_dir(self.folder.join("scopes")).map_err(unusable("read"))? {
            let entry = entry.map_err(unusable("read"))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| !named.contains(name))
                && fs::remove_file(entry.path()).is_ok()
            {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// The key that authenticates cursors, drawn when there is none yet.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn cursor_key(&self) -> Result<[u8; 32], TopicError> {
        let path = self.folder.join("cursor.key");
        match fs::read(&path) {
            Ok(bytes) => bytes
                .try_into()
                .map_err(|_| damaged("the key of the cursors has another length")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                SystemRandom::new()
                    .fill(&mut key)
                    .map_err(|_| damaged("there is no randomness"))?;
                durable::replace(&path, &key).map_err(unusable("kept"))?;
                Ok(key)
            }
            Err(error) => Err(unusable("read")(error)),
        }
    }
}

/// The table versions that subscriptions may still be compared with, by dataset: what a warehouse must keep, and what
/// it has to be told before anything lands. An absent folder keeps nothing, and so does a progress that cannot be read:
/// its subscription begins again when it is next delivered.
///
/// # Errors
/// The folder cannot be read.
pub fn kept_versions(folder: &Path) -> Result<BTreeMap<DatasetId, BTreeSet<i64>>, TopicError> {
    let mut kept: BTreeMap<DatasetId, BTreeSet<i64>> = BTreeMap::new();
    if !folder.exists() {
        return Ok(kept);
    }
    for progress in all_in(folder)? {
        let versions = progress.views().map(|view| view.version);
        kept.entry(progress.dataset.clone())
            .or_default()
            .extend(versions.filter(|version| *version >= 0));
    }
    Ok(kept)
}

fn all_in(folder: &Path) -> Result<Vec<Progress>, TopicError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unusable("read"))? {
        let path = entry.map_err(unusable("read"))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read_progress(&path) {
            Ok(Found::Progress(progress)) => found.push(*progress),
            Ok(Found::Nothing) => {}
            Ok(Found::Damaged(reason)) => left_out(&path, reason),
            Err(error) => left_out(&path, &error.to_string()),
        }
    }
    Ok(found)
}

fn left_out(path: &Path, reason: &str) {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    tracing::error!(%file, reason, "a progress cannot be read; its subscription will begin again");
}

/// What is known of a subscription whose delivery begins.
#[derive(Debug)]
pub enum Begun {
    /// How far it was brought.
    Known(Box<Progress>),
    /// It was never brought anything.
    Never,
    /// It may have been brought something, and nobody knows what.
    Lost,
}

/// What stands where a progress should be.
enum Found {
    Progress(Box<Progress>),
    Nothing,
    Damaged(&'static str),
}

fn read_progress(path: &Path) -> Result<Found, TopicError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Ok(Found::Damaged("it is too large"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(unusable("read")(error)),
    }
    let bytes = fs::read(path).map_err(unusable("read"))?;
    Ok(match serde_json::from_slice::<Progress>(&bytes) {
        Ok(progress) if progress.format == FORMAT => Found::Progress(Box::new(progress)),
        Ok(_) => Found::Damaged("it was written by another version of the program"),
        Err(_) => Found::Damaged("it is not what was written"),
    })
}

fn removed(path: &Path) -> Result<(), TopicError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable("kept")(error)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(version: i64) -> ViewKey {
        ViewKey {
            scope: format!("{version:064x}"),
            version,
            day: "2026-07-01".parse().unwrap(),
        }
    }

    fn pending(page: u64, (from, to): (u32, u32), version: i64) -> Pending {
        Pending {
            page,
            from,
            to,
            target: view(version),
            at: Timestamp(1_782_864_000_000),
            noticed_up_to: None,
            tag: PageTag::of(&version.to_be_bytes()),
        }
    }

    /// A progress with one of everything.
    fn progress() -> Progress {
        let mut progress = Progress::new(
            "s-0123456789abcdef",
            &"filing".parse().unwrap(),
            &"ab".repeat(32),
        );
        progress.pending = Some(pending(1, (0, 4095), 3));
        progress.acknowledge();
        progress.pending = Some(pending(2, (0, 100), 4));
        progress.supersede();
        progress.pending = Some(Pending {
            noticed_up_to: Some(17),
            ..pending(2, (0, 100), 5)
        });
        progress
    }

    #[test]
    fn the_format_is_the_recorded_one() {
        let written = serde_json_canonicalizer::to_string(&progress()).unwrap();
        let golden = include_str!("../../tests/golden/progress-2.json");
        assert_eq!(
            written,
            golden.trim_end(),
            "a change of format needs a new version"
        );
        let read: Progress = serde_json::from_str(golden).unwrap();
        assert_eq!(read, progress());
    }

    #[test]
    fn a_page_that_may_have_arrived_is_remembered() {
        let superseded = progress();
        let held = &superseded.held.intervals()[0];
        assert_eq!(held.range(), 0..=100);
        assert_eq!(held.bases, BTreeSet::from([Some(view(3)), Some(view(4))]));
        let mut arrived = superseded;
        arrived.acknowledge();
        assert!(arrived.held.intervals()[0].is_at(&view(5)));
        assert!(arrived.noticed.intervals()[0].is_at(&view(5)));
        assert_eq!(arrived.noticed.intervals()[0].to, 17);
        assert_eq!(
            arrived.noticed.intervals()[1].bases,
            BTreeSet::from([Some(view(3)), Some(view(4))])
        );
        assert_eq!((arrived.next_page, arrived.begun), (3, true));
        let mut again = arrived.clone();
        again.restart();
        assert!(again.reset && !again.begun && again.next_page > arrived.next_page);
        assert_eq!(again.views().count(), 0);
    }

    #[test]
    fn notices_of_a_first_page_that_may_have_arrived_are_remembered() {
        let mut progress = Progress::new("s-1", &"filing".parse().unwrap(), "");
        progress.pending = Some(pending(1, (0, 9), 1));
        progress.supersede();
        assert_eq!(
            progress.noticed.intervals()[0].bases,
            BTreeSet::from([None, Some(view(1))])
        );
    }

    #[test]
    fn what_was_saved_is_read_and_what_is_damaged_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let progress = progress();
        assert_eq!(store.load(&progress.subscription).unwrap(), None);
        store.save(&progress).unwrap();
        assert_eq!(
            store.load(&progress.subscription).unwrap(),
            Some(progress.clone())
        );
        let kept = kept_versions(folder.path()).unwrap();
        assert_eq!(kept[&progress.dataset], BTreeSet::from([3, 4, 5]));
        assert_eq!(store.cursor_key().unwrap(), store.cursor_key().unwrap());
        fs::write(folder.path().join("scopes").join("00"), b"x").unwrap();
        assert_eq!(store.sweep().unwrap(), 1);
        let path = store.path(&progress.subscription);
        let text = fs::read_to_string(&path).unwrap();
        for bad in [
            &text[1..],
            &text.replace("\"format\":2", "\"format\":1"),
            "{}",
        ] {
            fs::write(&path, bad).unwrap();
            assert!(store.load(&progress.subscription).is_err());
            assert!(store.all().unwrap().is_empty());
            assert!(kept_versions(folder.path()).unwrap().is_empty());
            let begun = store.begin(&progress.subscription).unwrap();
            assert!(matches!(begun, Begun::Lost), "{bad}");
            let begun = store.begin(&progress.subscription).unwrap();
            assert!(matches!(begun, Begun::Lost), "until there is a new one");
            assert_eq!(
                fs::read_to_string(path.with_extension("damaged")).unwrap(),
                bad
            );
        }
    }
}
