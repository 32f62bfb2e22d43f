//! Opening the journal: finding the last acknowledged entry, and cutting off what was never acknowledged.
//!
//! A crash can leave the beginning of one group behind the last head: any subset of its bytes, since a disk may write
//! them in any order. A group is acknowledged only after the fsync that made it durable, and the next one is written
//! only after that. So what follows the last whole, signed head was never acknowledged, **unless** a whole head that
//! this log signed lies behind the damage, or the `checkpoint` file covers more: then acknowledged entries were
//! damaged, and opening refuses instead of cutting (AUD-5).

use std::fs::{File, OpenOptions};
use std::path::Path;

use crate::error::{LogError, Result};
use crate::format::{
    Frame, HEAD_FRAME_BYTES, HEAD_PREFIX, Head, Header, MAX_HEADER_BYTES, SEGMENT_MAGIC,
};
use crate::journal::{
    FrameReader, JOURNAL_DIR, Segment, Step, list_segments, read_at_most, read_header, segment_path,
};
use crate::keys::PublicKey;
use crate::leaf::LeafView;
use crate::merkle::{Frontier, Hash, leaf_hash};

/// The state behind the last durable entry; what the next entry is built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) frontier: Frontier,
    /// Leaf hash of the last entry; zeros when there is none.
    pub(crate) prev: Hash,
    /// Time of the last entry; `i64::MIN` when there is none.
    pub(crate) time_ms: i64,
}

impl Tip {
    pub(crate) fn of(header: &Header) -> Tip {
        Tip {
            frontier: header.frontier.clone(),
            prev: header.prev,
            time_ms: header.time_ms,
        }
    }
}

/// The last segment, ready to be appended to.
pub(crate) struct Recovered {
    pub(crate) file: File,
    /// First indices of the segments before it.
    pub(crate) older: Vec<u64>,
    pub(crate) segment: Segment,
    pub(crate) tip: Tip,
    pub(crate) head: Head,
    pub(crate) origin: String,
    /// Bytes of an unacknowledged group that were cut off.
    pub(crate) cut: u64,
}

/// Opens the last segment and brings it to its last durable head. `at_least` is the size that the `checkpoint` file
/// covers; `public_of` gives the log's public key for the origin that the header names.
pub(crate) fn recover(
    dir: &Path,
    public_of: impl Fn(&str) -> PublicKey,
    at_least: impl Fn(&PublicKey) -> u64,
) -> Result<Recovered> {
    let (mut firsts, strays) = list_segments(dir)?;
    if let Some(stray) = strays.first() {
        return Err(LogError::corrupt(
            &Path::new(JOURNAL_DIR).join(stray),
            0,
            "not a file of the log",
        ));
    }
    loop {
        let Some(first) = firsts.pop() else {
            return Err(LogError::corrupt(
                Path::new(JOURNAL_DIR),
                0,
                "there is no segment",
            ));
        };
        let path = segment_path(first);
        let full = dir.join(&path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&full)
            .map_err(|e| LogError::io("open", &path, e))?;
        if !firsts.is_empty() && never_begun(&file, &path)? {
            // The process died while it began this segment: no entry can be in it.
            drop(file);
            std::fs::remove_file(&full).map_err(|e| LogError::io("remove", &path, e))?;
            sync_dir(&dir.join(JOURNAL_DIR))?;
            continue;
        }
        return open_last(firsts, file, &path, public_of, at_least);
    }
}

/// Brings the last segment to its last durable head; see [`recover`].
fn open_last(
    older: Vec<u64>,
    file: File,
    path: &Path,
    public_of: impl Fn(&str) -> PublicKey,
    at_least: impl Fn(&PublicKey) -> u64,
) -> Result<Recovered> {
    let (header, start) = read_header(&file, path)?;
    let public = public_of(&header.origin);
    if segment_path(header.first()) != path {
        return Err(LogError::corrupt(
            path,
            0,
            "its header is of another segment",
        ));
    }
    if !public.verify_head(&header.head) {
        return Err(LogError::key(
            "the log is signed by another key than the one given; use the log's own",
        ));
    }
    let scan = scan(&file, path, &header, start)?;
    let (size, covered) = (scan.tip.frontier.size(), at_least(&public));
    if size < covered {
        let why = format!("it ends at entry {size}, its checkpoint covers {covered}");
        return Err(LogError::corrupt(path, scan.end, why));
    }
    if size > header.first() && !public.verify_head(&scan.head) {
        return Err(LogError::corrupt(
            path,
            scan.end,
            "the last head is not signed by the log's key",
        ));
    }
    let cut = cut_tail(&file, path, scan.end, &public)?;
    // A killed process may have written its last group without coming to fsync it. It is shown from now on.
    file.sync_data()
        .map_err(|e| LogError::io("fsync", path, e))?;
    let Scan {
        segment, tip, head, ..
    } = scan;
    Ok(Recovered {
        file,
        older,
        segment,
        tip,
        head,
        origin: header.origin,
        cut,
    })
}

struct Scan {
    segment: Segment,
    tip: Tip,
    head: Head,
    /// End of the last whole group.
    end: u64,
}

/// Follows a segment's frames to the last whole group; a frame that is whole but wrong is damage no crash makes.
fn scan(file: &File, path: &Path, header: &Header, start: usize) -> Result<Scan> {
    let length = file
        .metadata()
        .map_err(|e| LogError::io("stat", path, e))?
        .len();
    let source = file
        .try_clone()
        .map_err(|e| LogError::io("open", path, e))?;
    let mut frames = FrameReader::new(
        source,
        path.to_owned(),
        start as u64..length.max(start as u64),
    );
    let mut done = Scan {
        segment: Segment::new(header, start),
        tip: Tip::of(header),
        head: header.head,
        end: start as u64,
    };
    let mut tip = done.tip.clone();
    let mut offsets = Vec::new();
    while let Step::Frame(at, bytes) = frames.next()? {
        let wrong = |why: &str| Err(LogError::corrupt(path, at, why));
        match Frame::decode(bytes) {
            None => break,
            Some(Frame::Entry(entry)) => {
                let Some(leaf) = LeafView::parse(entry.leaf) else {
                    return wrong("malformed leaf");
                };
                if entry.index != tip.frontier.size()
                    || entry.group != done.tip.frontier.size()
                    || leaf.prev != tip.prev
                    || leaf.time_ms < tip.time_ms
                {
                    return wrong("the entry does not follow from the one before it");
                }
                (tip.prev, tip.time_ms) = (leaf_hash(entry.leaf), leaf.time_ms);
                tip.frontier.push(tip.prev);
                offsets.push(at);
            }
            Some(Frame::Head(head)) => {
                if offsets.is_empty()
                    || head.size != tip.frontier.size()
                    || head.root != tip.frontier.root()
                {
                    return wrong("the head is not that of the entries before it");
                }
                done.end = at + bytes.len() as u64;
                done.segment.note(offsets.drain(..), done.end);
                done.tip.clone_from(&tip);
                done.head = head;
            }
        }
    }
    Ok(done)
}

/// Cuts the file off after its last durable group, unless a signed head lies behind. Returns the bytes cut.
fn cut_tail(file: &File, path: &Path, end: u64, public: &PublicKey) -> Result<u64> {
    let length = file
        .metadata()
        .map_err(|e| LogError::io("stat", path, e))?
        .len();
    if length == end {
        return Ok(0);
    }
    if let Some(at) = signed_head_behind(file, path, end, public)? {
        let why =
            format!("an acknowledged head follows at byte {at}, but what is between is damaged");
        return Err(LogError::corrupt(path, end, why));
    }
    file.set_len(end)
        .and_then(|()| file.sync_all())
        .map_err(|e| LogError::io("truncate", path, e))?;
    Ok(length - end)
}

/// Offset of the first whole head behind `from` that the log's key signed.
pub(crate) fn signed_head_behind(
    file: &File,
    path: &Path,
    from: u64,
    public: &PublicKey,
) -> Result<Option<u64>> {
    const WINDOW: usize = 4 << 20;
    let finder = memchr::memmem::Finder::new(&HEAD_PREFIX);
    let mut window = vec![0u8; WINDOW];
    let mut base = from;
    loop {
        let n = read_at_most(file, &mut window, base).map_err(|e| LogError::io("read", path, e))?;
        let have = window.get(..n).unwrap_or_default();
        for at in finder.find_iter(have) {
            if let Some(bytes) = have.get(at..at + HEAD_FRAME_BYTES)
                && let Some(Frame::Head(head)) = Frame::decode(bytes)
                && public.verify_head(&head)
            {
                return Ok(Some(base + at as u64));
            }
        }
        if n < WINDOW {
            return Ok(None);
        }
        // The next window overlaps, so that a head across the border is seen whole.
        base += (WINDOW - HEAD_FRAME_BYTES) as u64;
    }
}

/// Whether the file is no longer than a header and holds none: a segment whose beginning a crash interrupted. The
/// writer makes the header durable before it writes the first group behind it.
fn never_begun(file: &File, path: &Path) -> Result<bool> {
    let length = file
        .metadata()
        .map_err(|e| LogError::io("stat", path, e))?
        .len();
    if length > MAX_HEADER_BYTES as u64 {
        return Ok(false);
    }
    let mut bytes = vec![0u8; MAX_HEADER_BYTES];
    let n = read_at_most(file, &mut bytes, 0).map_err(|e| LogError::io("read", path, e))?;
    let bytes = bytes.get(..n).unwrap_or_default();
    if Header::decode(bytes).is_some() {
        return Ok(false);
    }
    // A damaged header with a group behind it is not a beginning.
    let group_behind = memchr::memmem::find_iter(bytes, &HEAD_PREFIX)
        .filter_map(|at| bytes.get(at..at + HEAD_FRAME_BYTES))
        .any(|head| Frame::decode(head).is_some());
    // What the disk did not write reads as zeros.
    let begun_like_one = bytes
        .iter()
        .zip(SEGMENT_MAGIC)
        .all(|(byte, magic)| byte == magic || *byte == 0);
    Ok(begun_like_one && !group_behind)
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| LogError::io("fsync", dir, e))
}
