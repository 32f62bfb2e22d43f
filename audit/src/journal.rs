//! The journal as readers see it: segments, where entries lie in them, and reading frames in order.
//!
//! The journal only grows, and readers are shown only what is durable, so they need no lock against the writer.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use ring::aead::LessSafeKey;

use crate::error::{LogError, Result};
use crate::format::{Extent, Frame, Header, KEY_SALT_BYTES, MAX_HEADER_BYTES, extent};
use crate::keys::LogKeys;

/// Directory of the segments, inside the log's directory.
pub(crate) const JOURNAL_DIR: &str = "journal";
const SEGMENT_SUFFIX: &str = ".seg";
/// The position of every so-many-th entry of a segment is remembered.
const STRIDE: u64 = 64;
const READ_BYTES: usize = 1 << 20;

/// Path of a segment, relative to the log's directory.
pub(crate) fn segment_path(first: u64) -> PathBuf {
    Path::new(JOURNAL_DIR).join(format!("{first:020}{SEGMENT_SUFFIX}"))
}

/// First index of a segment from its file name.
pub(crate) fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// The first indices of all segments, ascending, and the names of files that are none.
pub(crate) fn list_segments(dir: &Path) -> Result<(Vec<u64>, Vec<String>)> {
    let journal = dir.join(JOURNAL_DIR);
    let (mut firsts, mut strays) = (Vec::new(), Vec::new());
    for item in std::fs::read_dir(&journal).map_err(|e| LogError::io("list", &journal, e))? {
        let name = item
            .map_err(|e| LogError::io("list", &journal, e))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        match segment_first(&name) {
            Some(first) => firsts.push(first),
            None => strays.push(name),
        }
    }
    firsts.sort_unstable();
    strays.sort_unstable();
    Ok((firsts, strays))
}

/// One segment: what is known of where its entries lie.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) key_salt: [u8; KEY_SALT_BYTES],
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// Offset of the first frame.
    start: u64,
    /// End of the last durable group.
    end: u64,
    /// Index behind the last durable entry.
    next: u64,
    /// Offset of entry `first + n * STRIDE`.
    marks: Vec<u64>,
    /// Whether `marks` covers the segment.
    walked: bool,
}

impl Segment {
    /// A segment whose entries are about to be noted with [`Segment::note`].
    pub(crate) fn new(header: &Header, start: usize) -> Segment {
        let start = start as u64;
        let places = Places {
            start,
            end: start,
            next: header.first(),
            marks: Vec::new(),
            walked: true,
        };
        Segment {
            first: header.first(),
            key_salt: header.key_salt,
            places: Mutex::new(places),
        }
    }

    /// Notes one more durable group: the offsets of its entries and its end.
    pub(crate) fn note(&self, offsets: impl IntoIterator<Item = u64>, end: u64) {
        let mut places = self.places.lock();
        for offset in offsets {
            if (places.next - self.first).is_multiple_of(STRIDE) {
                places.marks.push(offset);
            }
            places.next += 1;
        }
        places.end = end;
    }

    pub(crate) fn end(&self) -> u64 {
        self.places.lock().end
    }
}

/// The readable journal.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    segments: RwLock<Vec<Arc<Segment>>>,
}

impl Journal {
    /// `older` are the first indices of the segments before `last`; they are looked into when first read.
    pub(crate) fn new(dir: &Path, older: &[u64], last: Segment) -> Result<Journal> {
        let mut segments = Vec::with_capacity(older.len() + 1);
        let ends = older.iter().skip(1).copied().chain([last.first]);
        for (first, next) in older.iter().copied().zip(ends) {
            let path = segment_path(first);
            let file = dir.join(&path);
            let length = std::fs::metadata(&file)
                .map_err(|e| LogError::io("stat", &path, e))?
                .len();
            let places = Places {
                end: length,
                next,
                ..Places::default()
            };
            segments.push(Arc::new(Segment {
                first,
                key_salt: [0; KEY_SALT_BYTES],
                places: Mutex::new(places),
            }));
        }
        segments.push(Arc::new(last));
        Ok(Journal {
            dir: dir.to_owned(),
            segments: RwLock::new(segments),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds the segment that the writer has begun.
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        self.segments.write().push(segment);
    }

    pub(crate) fn last(&self) -> Option<Arc<Segment>> {
        self.segments.read().last().cloned()
    }

    /// The segment that holds an entry, and the index behind its last entry.
    fn holding(&self, index: u64) -> Option<(Arc<Segment>, u64)> {
        let segments = self.segments.read();
        let at = segments
            .partition_point(|s| s.first <= index)
            .checked_sub(1)?;
        let segment = segments.get(at)?.clone();
        drop(segments);
        let next = segment.places.lock().next;
        (index < next).then_some((segment, next))
    }

    /// A reader that stands at the entry `index`, with its segment's key if `keys` are given.
    fn reader_at(&self, index: u64, keys: &LogKeys) -> Result<SegmentReader> {
        let missing = || {
            LogError::corrupt(
                &segment_path(index),
                0,
                format!("entry {index} is in no segment"),
            )
        };
        let (segment, next) = self.holding(index).ok_or_else(missing)?;
        let path = segment_path(segment.first);
        let file = File::open(self.dir.join(&path)).map_err(|e| LogError::io("open", &path, e))?;
        let (header, header_length) = read_header(&file, &path)?;
        if header.first() != segment.first {
            return Err(LogError::corrupt(
                &path,
                0,
                "its header is of another segment",
            ));
        }
        let mut places = segment.places.lock();
        if !places.walked {
            walk(&file, &path, header_length, &mut places)?;
        }
        let nth = usize::try_from((index - segment.first) / STRIDE).unwrap_or(usize::MAX);
        let start = places.marks.get(nth).copied().ok_or_else(missing)?;
        let end = places.end;
        drop(places);
        let frames = FrameReader::new(file, path, start..end);
        Ok(SegmentReader {
            frames,
            key: keys.segment_key(&header.key_salt)?,
            next,
        })
    }

    /// Reads entries `range`, in order. The caller has checked that they are durable.
    pub(crate) fn entries<'a>(&'a self, range: Range<u64>, keys: &'a LogKeys) -> Entries<'a> {
        Entries {
            journal: self,
            keys,
            range,
            reader: None,
        }
    }
}

/// Finds where the entries of an older segment lie, by frame lengths alone.
fn walk(file: &File, path: &Path, start: usize, places: &mut Places) -> Result<()> {
    let mut marks = Vec::new();
    let mut n = 0u64;
    let source = file
        .try_clone()
        .map_err(|e| LogError::io("open", path, e))?;
    let mut frames = FrameReader::new(source, path.to_owned(), start as u64..places.end);
    loop {
        match frames.next()? {
            Step::Frame(at, bytes) => {
                if bytes.get(4) == Some(&1) {
                    if n.is_multiple_of(STRIDE) {
                        marks.push(at);
                    }
                    n += 1;
                }
            }
            Step::End => break,
            Step::Broken(at) => return Err(LogError::corrupt(path, at, "not a frame")),
        }
    }
    places.start = start as u64;
    places.marks = marks;
    places.walked = true;
    Ok(())
}

struct SegmentReader {
    frames: FrameReader,
    key: LessSafeKey,
    /// Index behind the segment's last entry.
    next: u64,
}

/// A sequential reader over entries; see [`Journal::entries`].
pub(crate) struct Entries<'a> {
    journal: &'a Journal,
    keys: &'a LogKeys,
    range: Range<u64>,
    reader: Option<SegmentReader>,
}

/// One entry as it lies in the journal, and what opens it.
pub(crate) struct RawEntry<'a> {
    pub(crate) frame: crate::format::EntryFrame<'a>,
    pub(crate) key: &'a LessSafeKey,
    pub(crate) path: &'a Path,
    pub(crate) offset: u64,
}

impl Entries<'_> {
    /// Calls `visit` with the next entry; `None` at the end of the range.
    pub(crate) fn next_with<T>(
        &mut self,
        visit: impl FnOnce(RawEntry<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let wanted = self.range.start;
        if self
            .reader
            .as_ref()
            .is_none_or(|reader| reader.next <= wanted)
        {
            self.reader = Some(self.journal.reader_at(wanted, self.keys)?);
        }
        let Some(SegmentReader { frames, key, .. }) = &mut self.reader else {
            return Ok(None);
        };
        loop {
            let path = frames.path.clone();
            let (offset, bytes) = match frames.next()? {
                Step::Frame(offset, bytes) => (offset, bytes),
                Step::End => {
                    return Err(LogError::corrupt(
                        &path,
                        0,
                        format!("entry {wanted} is missing"),
                    ));
                }
                Step::Broken(at) => return Err(LogError::corrupt(&path, at, "not a frame")),
            };
            match Frame::decode(bytes) {
                Some(Frame::Entry(frame)) if frame.index == wanted => {
                    self.range.start += 1;
                    return visit(RawEntry {
                        frame,
                        key,
                        path: &path,
                        offset,
                    })
                    .map(Some);
                }
                Some(Frame::Entry(frame)) if frame.index > wanted => {
                    return Err(LogError::corrupt(
                        &path,
                        offset,
                        format!("entry {wanted} is not in its place"),
                    ));
                }
                Some(_) => {}
                None => return Err(LogError::corrupt(&path, offset, "damaged frame")),
            }
        }
    }
}

/// Reads and checks the header at the start of a segment; also its length.
pub(crate) fn read_header(file: &File, path: &Path) -> Result<(Header, usize)> {
    let mut bytes = vec![0; MAX_HEADER_BYTES];
    let n = read_at_most(file, &mut bytes, 0).map_err(|e| LogError::io("read", path, e))?;
    Header::decode(bytes.get(..n).unwrap_or_default())
        .ok_or_else(|| LogError::corrupt(path, 0, "the segment header is damaged"))
}

/// Fills the buffer as far as the file goes.
pub(crate) fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// What [`FrameReader::next`] met.
pub(crate) enum Step<'a> {
    /// A frame by its length, with its offset; not otherwise checked.
    Frame(u64, &'a [u8]),
    /// The end of the range, exactly after a frame.
    End,
    /// No whole frame begins at this offset.
    Broken(u64),
}

/// Splits a range of a segment into frames. Memory: one buffer, as large as the largest frame met.
pub(crate) struct FrameReader {
    file: File,
    pub(crate) path: PathBuf,
    /// Offset in the file of the byte behind the buffer's content.
    ahead: u64,
    end: u64,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
}

impl FrameReader {
    pub(crate) fn new(file: File, path: PathBuf, range: Range<u64>) -> FrameReader {
        FrameReader {
            file,
            path,
            ahead: range.start,
            end: range.end,
            buffer: Vec::new(),
            at: 0,
            filled: 0,
        }
    }

    pub(crate) fn next(&mut self) -> Result<Step<'_>> {
        let mut known = self.look();
        while let Err(need) = known {
            if !self.fill(need)? {
                let at = self.ahead - (self.filled - self.at) as u64;
                return Ok(if self.at == self.filled {
                    Step::End
                } else {
                    Step::Broken(at)
                });
            }
            known = self.look();
        }
        let offset = self.ahead - (self.filled - self.at) as u64;
        let Ok(Some(length)) = known else {
            return Ok(Step::Broken(offset));
        };
        let frame = self
            .buffer
            .get(self.at..self.at + length)
            .unwrap_or_default();
        self.at += length;
        Ok(Step::Frame(offset, frame))
    }

    /// Length of the frame at hand; `Ok(None)` when it is impossible, `Err` with the bytes needed to see it whole.
    fn look(&self) -> Result<Option<usize>, usize> {
        let have = self.buffer.get(self.at..self.filled).unwrap_or_default();
        match extent(have) {
            Extent::Known(length) if length <= have.len() => Ok(Some(length)),
            Extent::Known(length) => Err(length),
            Extent::Short => Err(4),
            Extent::Impossible => Ok(None),
        }
    }

    /// Reads on until `need` bytes are at hand; false when the range ends before.
    fn fill(&mut self, need: usize) -> Result<bool> {
        let have = self.filled - self.at;
        let left = self.end.saturating_sub(self.ahead);
        if (need as u64) > have as u64 + left {
            return Ok(false);
        }
        self.buffer.copy_within(self.at..self.filled, 0);
        (self.at, self.filled) = (0, have);
        let more = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(READ_BYTES.max(need) - have);
        if self.buffer.len() < have + more {
            self.buffer.resize(have + more, 0);
        }
        let room = self.buffer.get_mut(have..have + more).unwrap_or_default();
        let n = read_at_most(&self.file, room, self.ahead)
            .map_err(|e| LogError::io("read", &self.path, e))?;
        self.ahead += n as u64;
        self.filled += n;
        // The file may be shorter than its range when somebody cuts it under us.
        Ok(self.filled >= need)
    }
}
