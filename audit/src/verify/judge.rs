//! The strictly serial part: what depends on everything before.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::derived::DerivedCheck;
use super::feed::Piece;
use super::work::{Checked, CheckedEntry, Item};
use super::{Bound, Outcome, Verified, place, tampering};
use crate::derived::CHECKPOINT_FILE;
use crate::error::{Finding, LogError, Tampering};
use crate::format::Header;
use crate::journal::segment_path;
use crate::keys::PublicKey;
use crate::merkle::{Frontier, Hash};
use crate::note;
use crate::recovery::{Tip, signed_head_behind};

/// Holds the state behind the last entry judged.
pub(super) struct Judge<'a> {
    dir: &'a Path,
    public: PublicKey,
    published: note::Opened,
    outside: Option<note::Opened>,
    derived: DerivedCheck<'a>,
    bound: Option<Bound>,
    tip: Tip,
    /// Size and root of the last head, and where its group ends.
    head: (u64, Hash),
    end: (PathBuf, u64),
    heads: u64,
    segments: u64,
    unfinished: Option<Unfinished>,
}

/// Where the last segment stops being whole.
struct Unfinished {
    at: Tampering,
    bytes: u64,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        dir: &'a Path,
        public: PublicKey,
        published: note::Opened,
        outside: Option<note::Opened>,
        derived: DerivedCheck<'a>,
        bound: Option<Bound>,
    ) -> Judge<'a> {
        let tip = Tip {
            frontier: Frontier::default(),
            prev: Hash::default(),
            time_ms: i64::MIN,
        };
        let head = (0, tip.frontier.root());
        let end = (PathBuf::new(), 0);
        Judge {
            dir,
            public,
            published,
            outside,
            derived,
            bound,
            tip,
            head,
            end,
            heads: 0,
            segments: 0,
            unfinished: None,
        }
    }

    fn size(&self) -> u64 {
        self.tip.frontier.size()
    }

    /// Headers and ends of segments. False: there is nothing more to judge.
    pub(super) fn piece(&mut self, piece: Piece) -> Outcome<bool> {
        match piece {
            Piece::Header {
                path,
                header,
                start,
            } => {
                self.header(&path, &header)?;
                self.end = (path, start);
                // An open log that was empty when it was to be verified.
                return Ok(self.bound.is_none_or(|bound| bound.size != self.size()));
            }
            Piece::Broken { path, offset, last } => return self.broken(&path, offset, last),
            Piece::Frames(_) => {}
        }
        Ok(true)
    }

    fn header(&mut self, path: &Path, header: &Header) -> Outcome<()> {
        let wrong = |finding| tampering(finding, path, Some(header.first()), Some(0));
        if header.first() > self.size() {
            return Err(tampering(
                Finding::Missing,
                &segment_path(self.size()),
                Some(self.size()),
                None,
            ));
        }
        let follows = Tip::of(header) == self.tip
            && self.head.0 == self.size()
            && header.origin == self.public.origin
            && path == segment_path(header.first());
        if !follows {
            return Err(wrong(Finding::Header));
        }
        if !self.public.verify_head(&header.head) {
            return Err(wrong(Finding::Signature));
        }
        if self.segments == 0 {
            self.passed(path)?;
        }
        self.segments += 1;
        Ok(())
    }

    pub(super) fn checked(&mut self, checked: &Checked) -> Outcome<bool> {
        let path = checked.batch.path.as_path();
        for item in &checked.items {
            match item {
                Item::Entry(entry) => self.entry(checked, entry)?,
                Item::Head {
                    head,
                    signed,
                    offset,
                    end,
                } => {
                    let wrong =
                        |finding| Err(tampering(finding, path, Some(head.size), Some(*offset)));
                    if head.size != self.size()
                        || head.size == self.head.0
                        || head.root != self.tip.frontier.root()
                    {
                        return wrong(Finding::Head);
                    }
                    if !signed {
                        return wrong(Finding::Signature);
                    }
                    self.head = (head.size, head.root);
                    self.end.1 = *end;
                    self.heads += 1;
                    if self.bound.is_some_and(|bound| bound.size == head.size) {
                        return Ok(false);
                    }
                }
            }
        }
        match &checked.wrong {
            None => Ok(true),
            Some(wrong) if wrong.finding == Finding::Frame => {
                self.broken(path, wrong.offset, checked.batch.last)
            }
            Some(wrong) => Err(tampering(
                wrong.finding,
                path,
                Some(self.size()),
                Some(wrong.offset),
            )),
        }
    }

    fn entry(&mut self, checked: &Checked, entry: &CheckedEntry) -> Outcome<()> {
        let path = checked.batch.path.as_path();
        let index = self.size();
        let wrong = |finding| Err(tampering(finding, path, Some(index), Some(entry.offset)));
        if entry.index != index {
            return wrong(Finding::Leaf);
        }
        if entry.group != self.head.0 {
            return wrong(Finding::Group);
        }
        if entry.prev != self.tip.prev {
            return wrong(Finding::Chain);
        }
        if entry.time_ms < self.tip.time_ms {
            return wrong(Finding::Time);
        }
        (self.tip.prev, self.tip.time_ms) = (entry.leaf_hash, entry.time_ms);
        let leaf = checked
            .batch
            .bytes
            .get(entry.leaf.clone())
            .unwrap_or_default();
        let frontier = &mut self.tip.frontier;
        self.derived
            .entry(index, leaf, &entry.leaf_hash, &entry.touched, frontier)?;
        self.passed(path)
    }

    /// After each entry: are these the entries that the checkpoints cover?
    fn passed(&self, path: &Path) -> Outcome<()> {
        let size = self.size();
        if size == self.published.size && self.tip.frontier.root() != self.published.root {
            return Err(tampering(
                Finding::Checkpoint,
                Path::new(CHECKPOINT_FILE),
                None,
                None,
            ));
        }
        match self.outside {
            Some(outside) if outside.size == size && outside.root != self.tip.frontier.root() => {
                Err(tampering(Finding::Rewritten, path, Some(size), None))
            }
            _ => Ok(()),
        }
    }

    /// A place where no whole frame is. At the end of the journal it may be a group that a crash interrupted.
    fn broken(&mut self, path: &Path, offset: u64, last: bool) -> Outcome<bool> {
        let at = place(Finding::Frame, path, Some(self.size()), Some(offset));
        if !last {
            return Err(at.into());
        }
        let file = File::open(self.dir.join(path)).map_err(|e| LogError::io("open", path, e))?;
        // In a segment that was only begun, nothing is done yet.
        let done = if path == self.end.0 { self.end.1 } else { 0 };
        if signed_head_behind(&file, path, done, &self.public)?.is_some() {
            return Err(at.into());
        }
        let length = file
            .metadata()
            .map_err(|e| LogError::io("stat", path, e))?
            .len();
        self.unfinished = Some(Unfinished {
            at,
            bytes: length.saturating_sub(done),
        });
        Ok(false)
    }

    pub(super) fn finish(mut self) -> Outcome<Verified> {
        let (entries, root) = self.head;
        let covered = self
            .published
            .size
            .max(self.outside.map_or(0, |outside| outside.size));
        if entries < covered {
            return Err(match self.unfinished {
                Some(unfinished) => unfinished.at.into(),
                None => tampering(
                    Finding::Truncated,
                    &self.end.0,
                    Some(entries),
                    Some(self.end.1),
                ),
            });
        }
        if self.unfinished.is_none() && self.bound.is_none() && self.size() != entries {
            // Whole entries without a head behind them: the process died between them and the head.
            let file = self.dir.join(&self.end.0);
            let length = std::fs::metadata(&file)
                .map_err(|e| LogError::io("stat", &self.end.0, e))?
                .len();
            let at = place(
                Finding::Truncated,
                &self.end.0,
                Some(entries),
                Some(self.end.1),
            );
            self.unfinished = Some(Unfinished {
                at,
                bytes: length.saturating_sub(self.end.1),
            });
        }
        let bodies = self.derived.bodies();
        self.derived.finish(entries)?;
        Ok(Verified {
            entries,
            root,
            heads: self.heads,
            segments: self.segments,
            published: self.published.size,
            unfinished_bytes: self.unfinished.map_or(0, |unfinished| unfinished.bytes),
            bodies,
        })
    }
}
