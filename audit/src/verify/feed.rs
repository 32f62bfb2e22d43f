//! Cuts the journal into headers and batches of whole frames, in order.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::aead::LessSafeKey;

use super::{BATCH_BYTES, Outcome, tampering};
use crate::error::{Finding, LogError};
use crate::format::{Extent, Header, MAX_HEADER_BYTES, extent};
use crate::journal::{read_at_most, segment_path};
use crate::keys::VerifyKeys;

/// A piece of the journal, in order.
pub(super) enum Piece {
    /// A segment begins.
    Header {
        path: PathBuf,
        header: Box<Header>,
        start: u64,
    },
    /// Whole frames, judged by their lengths.
    Frames(Batch),
    /// No frame begins here, though the segment goes on; nothing more of the journal follows.
    Broken {
        path: PathBuf,
        offset: u64,
        last: bool,
    },
}

/// Consecutive frames of one segment.
pub(super) struct Batch {
    pub(super) path: Arc<PathBuf>,
    /// Whether it is of the last segment.
    pub(super) last: bool,
    /// The segment's key, when bodies are to be checked.
    pub(super) key: Option<Arc<LessSafeKey>>,
    /// Offset of the first byte in the file.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// Where each frame ends in `bytes`.
    pub(super) ends: Vec<usize>,
}

struct Current {
    file: File,
    path: Arc<PathBuf>,
    key: Option<Arc<LessSafeKey>>,
    offset: u64,
    last: bool,
}

pub(super) struct Feeder<'a> {
    dir: &'a Path,
    segments: VecDeque<u64>,
    keys: &'a VerifyKeys,
    current: Option<Current>,
    spare: Vec<(Vec<u8>, Vec<usize>)>,
}

impl<'a> Feeder<'a> {
    pub(super) fn new(dir: &'a Path, segments: Vec<u64>, keys: &'a VerifyKeys) -> Feeder<'a> {
        Feeder {
            dir,
            segments: segments.into(),
            keys,
            current: None,
            spare: Vec::new(),
        }
    }

    /// Takes a judged batch's buffers back.
    pub(super) fn recycle(&mut self, batch: Batch) {
        self.spare.push((batch.bytes, batch.ends));
    }

    pub(super) fn next(&mut self) -> Outcome<Option<Piece>> {
        if let Some(current) = self.current.take()
            && let Some(piece) = self.frames(current)?
        {
            return Ok(Some(piece));
        }
        match self.segments.pop_front() {
            Some(first) => self.begin(first).map(Some),
            None => Ok(None),
        }
    }

    fn begin(&mut self, first: u64) -> Outcome<Piece> {
        let path = segment_path(first);
        let file = File::open(self.dir.join(&path)).map_err(|e| LogError::io("open", &path, e))?;
        let last = self.segments.is_empty();
        let Some((header, start)) = header(&file, &path)? else {
            // A segment whose beginning a crash interrupted holds no entry; nothing may follow it.
            self.segments.clear();
            return Ok(Piece::Broken {
                path,
                offset: 0,
                last: last && first > 0,
            });
        };
        let key = match self.keys {
            VerifyKeys::Full(keys) => Some(Arc::new(keys.segment_key(&header.key_salt)?)),
            VerifyKeys::Public(_) => None,
        };
        let start = start as u64;
        self.current = Some(Current {
            file,
            path: Arc::new(path.clone()),
            key,
            offset: start,
            last,
        });
        Ok(Piece::Header {
            path,
            header: Box::new(header),
            start,
        })
    }

    /// The next batch of the segment; `None` at its end.
    fn frames(&mut self, mut current: Current) -> Outcome<Option<Piece>> {
        let (mut bytes, mut ends) = self.spare.pop().unwrap_or_default();
        ends.clear();
        let mut wanted = BATCH_BYTES;
        let impossible = loop {
            if bytes.len() < wanted {
                bytes.resize(wanted, 0);
            }
            let room = bytes.get_mut(..wanted).unwrap_or_default();
            let n = read_at_most(&current.file, room, current.offset)
                .map_err(|e| LogError::io("read", &current.path, e))?;
            let have = room.get(..n).unwrap_or_default();
            let (larger, impossible) = split(have, &mut ends);
            match larger {
                // The first frame is larger than a batch: read it whole.
                Some(length) if ends.is_empty() && n == wanted => wanted = length,
                Some(_) if ends.is_empty() => break true,
                _ if n == 0 => {
                    self.spare.push((bytes, ends));
                    return Ok(None);
                }
                _ => break impossible,
            }
        };
        let Some(end) = ends.last().copied() else {
            debug_assert!(impossible);
            self.segments.clear();
            let path = current.path.as_path().to_owned();
            return Ok(Some(Piece::Broken {
                path,
                offset: current.offset,
                last: current.last,
            }));
        };
        bytes.truncate(end);
        let batch = Batch {
            path: current.path.clone(),
            last: current.last,
            key: current.key.clone(),
            offset: current.offset,
            bytes,
            ends,
        };
        current.offset += end as u64;
        self.current = Some(current);
        Ok(Some(Piece::Frames(batch)))
    }
}

/// Notes where frames end. Returns the length of a frame that goes on behind the bytes, and whether the bytes stop
/// being frames.
fn split(bytes: &[u8], ends: &mut Vec<usize>) -> (Option<usize>, bool) {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match extent(rest) {
            Extent::Known(length) if length <= rest.len() => {
                at += length;
                ends.push(at);
            }
            Extent::Known(length) => return (Some(length), false),
            Extent::Short if rest.is_empty() => return (None, false),
            Extent::Short => return (Some(4), false),
            Extent::Impossible => return (None, true),
        }
    }
}

fn header(file: &File, path: &Path) -> Outcome<Option<(Header, usize)>> {
    let mut bytes = vec![0; MAX_HEADER_BYTES];
    let n = read_at_most(file, &mut bytes, 0).map_err(|e| LogError::io("read", path, e))?;
    Ok(Header::decode(bytes.get(..n).unwrap_or_default()))
}

/// The origin that the first segment names.
pub(super) fn claimed_origin(dir: &Path) -> Outcome<String> {
    let path = segment_path(0);
    let file = File::open(dir.join(&path)).map_err(|e| LogError::io("open", &path, e))?;
    match header(&file, &path)? {
        Some((header, _)) => Ok(header.origin),
        None => Err(tampering(Finding::Header, &path, Some(0), Some(0))),
    }
}
