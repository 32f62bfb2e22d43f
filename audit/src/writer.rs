//! The one writer of the journal: turns a group of prepared entries into one durable write.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::aead::LessSafeKey;

use crate::clock::{CLOCK_TOLERANCE_MS, Clock, text_ms};
use crate::error::{LogError, Result, is_full};
use crate::faults::{Fault, Faults};
use crate::format::{EntryLengths, Head, Header, KEY_SALT_BYTES, begin_entry, push_crc, push_head};
use crate::journal::{JOURNAL_DIR, Journal, Segment, segment_path};
use crate::keys::{LogKeys, PublicKey, random};
use crate::leaf::{MAX_LEAF_BYTES, check_time, encode_into};
use crate::merkle::leaf_hash;
use crate::recovery::{Recovered, Tip, sync_dir};
use crate::seal::{Part, binding, seal, sealed_len};
use crate::sequencer::{Prepared, Receipt};

/// What a failed commit means for the log.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing of the group is in the journal; the next group may succeed.
    Refused(LogError),
    /// What is on disk is not known for certain: nothing may be written until the log is opened again.
    Fatal(LogError),
}

pub(crate) struct Writer {
    dir: PathBuf,
    keys: LogKeys,
    public: PublicKey,
    clock: Arc<dyn Clock>,
    faults: Arc<Faults>,
    segment_bytes: u64,
    journal: Arc<Journal>,
    segment: Arc<Segment>,
    file: File,
    key: LessSafeKey,
    /// Length of the segment up to the last durable group.
    end: u64,
    tip: Tip,
    buffer: Vec<u8>,
    leaf: Vec<u8>,
}

/// What a writer needs besides the recovered segment.
pub(crate) struct Means {
    pub(crate) keys: LogKeys,
    pub(crate) public: PublicKey,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) segment_bytes: u64,
}

impl Writer {
    pub(crate) fn new(
        dir: &Path,
        recovered: Recovered,
        means: Means,
    ) -> Result<(Writer, Arc<Journal>)> {
        let key = means.keys.segment_key(&recovered.segment.key_salt)?;
        let end = recovered.segment.end();
        let journal = Arc::new(Journal::new(dir, &recovered.older, recovered.segment)?);
        let segment = journal
            .last()
            .ok_or_else(|| LogError::corrupt(Path::new(JOURNAL_DIR), 0, "no segment"))?;
        let Means {
            keys,
            public,
            clock,
            faults,
            segment_bytes,
        } = means;
        let (buffer, leaf) = (Vec::new(), Vec::with_capacity(MAX_LEAF_BYTES));
        let (file, tip, dir) = (recovered.file, recovered.tip, dir.to_owned());
        let writer = Writer {
            dir,
            keys,
            public,
            clock,
            faults,
            segment_bytes,
            journal: journal.clone(),
            segment,
            file,
            key,
            end,
            tip,
            buffer,
            leaf,
        };
        Ok((writer, journal))
    }

    /// Makes the group durable: one write, one fdatasync. Either all of it is in the log afterwards or none.
    pub(crate) fn commit(
        &mut self,
        group: &[Vec<Prepared>],
    ) -> Result<(Vec<Receipt>, Head), Failure> {
        if self.end >= self.segment_bytes {
            self.roll()?;
        }
        let time_ms = self.time().map_err(Failure::Refused)?;
        let mut tip = self.tip.clone();
        tip.time_ms = time_ms;
        let (mut receipts, mut offsets) = (Vec::new(), Vec::new());
        self.buffer.clear();
        for prepared in group.iter().flatten() {
            offsets.push(self.end + self.buffer.len() as u64);
            receipts.push(self.push(prepared, &mut tip).map_err(Failure::Refused)?);
        }
        let head = self
            .keys
            .sign_head(&self.public, tip.frontier.size(), tip.frontier.root());
        push_head(&mut self.buffer, &head);
        self.persist()?;
        self.end += self.buffer.len() as u64;
        self.segment.note(offsets, self.end);
        self.tip = tip;
        Ok((receipts, head))
    }

    /// The time of the next group: never before the last entry.
    fn time(&self) -> Result<i64> {
        let (now, last) = (self.clock.now_ms(), self.tip.time_ms);
        check_time(now)?;
        if now.saturating_add(CLOCK_TOLERANCE_MS) < last {
            return Err(LogError::ClockBack {
                now: text_ms(now),
                last: text_ms(last),
            });
        }
        Ok(now.max(last))
    }

    /// Appends one entry frame to the buffer and moves the tip behind it.
    fn push(&mut self, prepared: &Prepared, tip: &mut Tip) -> Result<Receipt> {
        let index = tip.frontier.size();
        self.leaf.clear();
        encode_into(
            &mut self.leaf,
            &prepared.kind,
            tip.time_ms,
            &tip.prev,
            &prepared.body_hash,
        );
        let leaf_hash = leaf_hash(&self.leaf);
        let start = self.buffer.len();
        let lengths = EntryLengths {
            leaf: self.leaf.len(),
            body: sealed_len(prepared.salted.len()),
            subjects: sealed_len(prepared.subjects.len()),
        };
        let group = self.tip.frontier.size();
        begin_entry(&mut self.buffer, index, group, &prepared.nonce, &lengths);
        let binding = binding(&leaf_hash, group);
        self.buffer.extend_from_slice(&self.leaf);
        seal(
            &self.key,
            Part::Body,
            &prepared.nonce,
            &binding,
            &prepared.salted,
            &mut self.buffer,
        )?;
        if !prepared.subjects.is_empty() {
            seal(
                &self.key,
                Part::Subjects,
                &prepared.nonce,
                &binding,
                &prepared.subjects,
                &mut self.buffer,
            )?;
        }
        push_crc(&mut self.buffer, start);
        tip.prev = leaf_hash;
        tip.frontier.push(leaf_hash);
        Ok(Receipt {
            index,
            time_ms: tip.time_ms,
            leaf_hash,
        })
    }

    /// Writes the buffer behind the last durable group and makes it durable.
    fn persist(&mut self) -> Result<(), Failure> {
        let path = segment_path(self.segment.first);
        if let Err(error) = write_at(&self.file, &self.buffer, self.end, &self.faults) {
            // Not all bytes are written, so the head, which comes last, is not whole: cutting off loses nothing.
            let cut = self
                .faults
                .check()
                .and_then(|()| self.file.set_len(self.end));
            return Err(match cut {
                Ok(()) if is_full(&error) => Failure::Refused(LogError::NoSpace),
                Ok(()) => Failure::Fatal(LogError::io("write", &path, error)),
                Err(second) => Failure::Fatal(io_error("truncate", &path, second)),
            });
        }
        if let Err(error) = self.faults.check().and_then(|()| self.file.sync_data()) {
            // The kernel may have dropped the pages and call them clean: a second fsync would prove nothing. The
            // group is taken out of sight, so that opening again cannot build on it without its being on disk.
            if let Err(second) = self.file.set_len(self.end) {
                tracing::warn!(error = %second, "audit log: cannot cut off a group whose fsync failed");
            }
            return Err(Failure::Fatal(io_error("fsync", &path, error)));
        }
        Ok(())
    }

    /// Begins the next segment. Its header is durable before it is used.
    fn roll(&mut self) -> Result<(), Failure> {
        let (size, root) = (self.tip.frontier.size(), self.tip.frontier.root());
        let head = self.keys.sign_head(&self.public, size, root);
        let path = segment_path(size);
        let full = self.dir.join(&path);
        let begun = new_header(&self.tip, &self.public.origin, head).and_then(|header| {
            let file = begin_segment(&full, &path, &header, &self.faults)?;
            let key = self.keys.segment_key(&header.key_salt)?;
            Ok((file, header, key))
        });
        match begun {
            Ok((file, header, key)) => {
                let start = header.encode().len();
                self.segment = Arc::new(Segment::new(&header, start));
                self.journal.push(self.segment.clone());
                (self.file, self.key, self.end) = (file, key, start as u64);
                Ok(())
            }
            Err(error) => {
                // Left behind, it would be taken for the last segment when the log is opened again.
                let gone = match std::fs::remove_file(&full) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => self.faults.check(),
                };
                let gone = gone.and_then(|()| {
                    File::open(self.dir.join(JOURNAL_DIR)).and_then(|d| d.sync_all())
                });
                Err(match gone {
                    Ok(()) if matches!(error, LogError::NoSpace) => Failure::Refused(error),
                    Ok(()) => Failure::Fatal(error),
                    Err(second) => Failure::Fatal(io_error("remove", &path, second)),
                })
            }
        }
    }
}

/// The header that follows the tip, under a fresh key salt.
pub(crate) fn new_header(tip: &Tip, origin: &str, head: Head) -> Result<Header> {
    let mut key_salt = [0u8; KEY_SALT_BYTES];
    random(&mut key_salt)?;
    Ok(Header {
        time_ms: tip.time_ms,
        prev: tip.prev,
        key_salt,
        frontier: tip.frontier.clone(),
        origin: origin.to_owned(),
        head,
    })
}

/// Creates a segment file and makes its header and its name durable.
pub(crate) fn begin_segment(
    full: &Path,
    path: &Path,
    header: &Header,
    faults: &Faults,
) -> Result<File> {
    let io = |what, e| LogError::io(what, path, e);
    faults.check().map_err(|e| io("create", e))?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(full)
        .map_err(|e| io("create", e))?;
    write_at(&file, &header.encode(), 0, faults).map_err(|e| io("write", e))?;
    faults
        .check()
        .and_then(|()| file.sync_all())
        .map_err(|e| io("fsync", e))?;
    faults.check().map_err(|e| io("fsync", e))?;
    full.parent().map_or(Ok(()), sync_dir)?;
    Ok(file)
}

/// Writes all bytes at the offset, or fails as the test's plan says.
fn write_at(file: &File, bytes: &[u8], offset: u64, faults: &Faults) -> io::Result<()> {
    match faults.next() {
        None => file.write_all_at(bytes, offset),
        Some(fault) => {
            if fault == Fault::Short {
                file.write_all_at(bytes.get(..bytes.len() / 2).unwrap_or_default(), offset)?;
            }
            Err(fault.error())
        }
    }
}

/// An I/O error that must not read as "no space, repeat": whether anything was recorded is not known.
fn io_error(what: &'static str, path: &Path, source: io::Error) -> LogError {
    LogError::Io {
        what,
        file: path.display().to_string(),
        source: Arc::new(source),
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        Failure::Refused(error)
    }
}
