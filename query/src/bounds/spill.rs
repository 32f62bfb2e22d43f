//! Spill files: what a query's operators put aside when their memory is used up.
//!
//! Promises:
//! - **Nothing to read.** Every file is encrypted under a key of its own that exists only in the memory of this
//!   process, and is authenticated: what was changed on disk is an error, not a value.
//! - **Nothing left.** A file never has a name (`O_TMPFILE`, or unlinked as soon as it is made): when its last user is
//!   gone, or the process is killed, the file system takes it back.
//! - **Bounded.** The files of a query take at most its share of spill space; one byte more ends it with
//!   [`QueryError::OutOfSpill`].
//!
//! Format: chunks of at most [`CHUNK_BYTES`] of plain text, each a length (4 bytes, little-endian: that of the cipher
//! text with its tag) and the cipher text. AES-256-GCM; the nonce is the number of the chunk, which a key of one file
//! never meets twice. A writer seals a chunk when it is full, and when the engine flushes: another thread may read a
//! file that is still written, up to the last flush.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::spill_file::{SpillFile, SpillWriter, TempFileFactory};
use futures::Stream;
use parking_lot::Mutex;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::admission::Ticket;
use super::memory::Gauge;
use crate::error::QueryError;

/// Most plain text of a chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// The length before a chunk.
const HEAD_BYTES: usize = 4;

/// The spill files of one query. Its turn lasts as long as any of them.
pub struct SpillSpace {
    folder: PathBuf,
    used: Arc<Used>,
}

/// What the files of one query take.
struct Used {
    limit: u64,
    bytes: AtomicU64,
    total: Arc<Gauge>,
    _ticket: Option<Arc<Ticket>>,
}

impl SpillSpace {
    /// The files of work that is no query of an organisation, such as making a product. They come into `folder`.
    #[must_use]
    pub fn alone(folder: PathBuf, limit: u64) -> Self {
        Self::new(folder, limit, Arc::default(), None)
    }

    pub(super) fn new(
        folder: PathBuf,
        limit: u64,
        total: Arc<Gauge>,
        ticket: Option<Arc<Ticket>>,
    ) -> Self {
        let used = Arc::new(Used {
            limit,
            bytes: AtomicU64::new(0),
            total,
            _ticket: ticket,
        });
        Self { folder, used }
    }
}

impl TempFileFactory for SpillSpace {
    fn create_temp_file(&self, _: &str) -> Result<Arc<dyn SpillFile>> {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder);
        let file = made.and_then(|()| tempfile::tempfile_in(&self.folder));
        let file = file.map_err(|error| own(unusable(&error)))?;
        Ok(Arc::new(Encrypted(Arc::new(Body {
            file,
            key: new_key().map_err(own)?,
            sealed: Mutex::default(),
            used: Arc::clone(&self.used),
        }))))
    }
}

fn unusable(error: &io::Error) -> QueryError {
    QueryError::SpillFailed {
        message: error.kind().to_string(),
    }
}

fn own(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn new_key() -> Result<LessSafeKey, QueryError> {
    let failed = || QueryError::Internal {
        what: "the key of a spill file",
    };
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_| failed())?;
    let key = UnboundKey::new(&AES_256_GCM, bytes.as_slice()).map_err(|_| failed())?;
    Ok(LessSafeKey::new(key))
}

/// The nonce of a chunk.
fn nonce(chunk: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&chunk.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// How far a file is written.
#[derive(Clone, Copy, Default)]
struct Sealed {
    chunks: u64,
    /// Bytes of the file.
    end: u64,
}

/// A file, its key, and its part of the quota.
struct Body {
    file: File,
    key: LessSafeKey,
    sealed: Mutex<Sealed>,
    used: Arc<Used>,
}

impl Body {
    /// Appends a chunk; `plain` is empty afterwards.
    fn seal(&self, plain: &mut Vec<u8>) -> io::Result<()> {
        if plain.is_empty() {
            return Ok(());
        }
        let mut sealed = self.sealed.lock();
        let broken = || io::Error::other(unusable(&io::ErrorKind::InvalidData.into()));
        let text = &mut *plain;
        self.key
            .seal_in_place_append_tag(nonce(sealed.chunks), Aad::empty(), text)
            .map_err(|_| broken())?;
        let length = u32::try_from(text.len()).map_err(|_| broken())?;
        let bytes = HEAD_BYTES as u64 + u64::from(length);
        self.take(bytes)?;
        let head = length.to_le_bytes();
        let wrote = self.file.write_all_at(&head, sealed.end).and_then(|()| {
            let at = sealed.end + HEAD_BYTES as u64;
            self.file.write_all_at(text, at)
        });
        plain.clear();
        // What could not be written keeps its part of the quota until the file is gone.
        sealed.end += bytes;
        sealed.chunks += 1;
        wrote.map_err(|error| io::Error::other(unusable(&error)))
    }

    /// Takes some of the query's quota.
    fn take(&self, bytes: u64) -> io::Result<()> {
        let used = &self.used;
        let taken = used
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |have| {
                have.checked_add(bytes).filter(|sum| *sum <= used.limit)
            });
        if taken.is_err() {
            let limit = used.limit;
            return Err(io::Error::other(QueryError::OutOfSpill { limit }));
        }
        used.total.add(bytes);
        Ok(())
    }

    /// A chunk in the clear, and where the next one is; none at the end of what is written.
    fn open(&self, chunk: u64, at: u64) -> Result<Option<(Bytes, u64)>, QueryError> {
        let sealed = *self.sealed.lock();
        if chunk >= sealed.chunks {
            return Ok(None);
        }
        let changed = || unusable(&io::ErrorKind::InvalidData.into());
        let mut head = [0; HEAD_BYTES];
        let read = self.file.read_exact_at(&mut head, at);
        read.map_err(|error| unusable(&error))?;
        let length = u32::from_le_bytes(head) as usize;
        if length > CHUNK_BYTES + AES_256_GCM.tag_len() {
            return Err(changed());
        }
        let mut text = vec![0; length];
        let read = self.file.read_exact_at(&mut text, at + HEAD_BYTES as u64);
        read.map_err(|error| unusable(&error))?;
        let plain = self
            .key
            .open_in_place(nonce(chunk), Aad::empty(), &mut text);
        let plain = plain.map_err(|_| changed())?.len();
        text.truncate(plain);
        let next = at + (HEAD_BYTES + length) as u64;
        Ok(Some((Bytes::from(text), next)))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let bytes = self.sealed.get_mut().end;
        self.used.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.used.total.sub(bytes);
    }
}

/// A spill file as the engine sees it: bytes go in and come out in the clear.
struct Encrypted(Arc<Body>);

impl SpillFile for Encrypted {
    fn size(&self) -> Option<u64> {
        Some(self.0.sealed.lock().end)
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        // Read on the query's own threads, as it is written.
        let start = (Arc::clone(&self.0), 0, 0);
        Ok(Box::pin(futures::stream::try_unfold(
            start,
            |(body, chunk, at)| async move {
                let read = body.open(chunk, at).map_err(own)?;
                Ok(read.map(|(plain, next)| (plain, (body, chunk + 1, next))))
            },
        )))
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Writer {
            body: Arc::clone(&self.0),
            plain: Vec::new(),
        }))
    }
}

/// Fills and seals chunks.
struct Writer {
    body: Arc<Body>,
    plain: Vec<u8>,
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.plain.len();
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.plain.extend_from_slice(taken);
        if self.plain.len() == CHUNK_BYTES {
            self.body.seal(&mut self.plain)?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.body.seal(&mut self.plain)
    }
}

impl SpillWriter for Writer {
    fn finish(&mut self) -> Result<()> {
        let sealed = self.body.seal(&mut self.plain);
        sealed.map_err(DataFusionError::IoError)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // No plain text outlives its writer longer than its memory does.
        zeroize::Zeroize::zeroize(&mut self.plain);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures::TryStreamExt as _;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::bounds::{Bounds, Limits};

    async fn space(limit: u64) -> (tempfile::TempDir, Bounds, SpillSpace) {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds::new(Limits::default(), folder.path().join("spill"));
        let ticket = bounds.admission.admit(&"org".parse().unwrap()).await;
        let total = Arc::clone(&bounds.spilled);
        let ticket = Arc::new(ticket.ok().unwrap());
        let space = SpillSpace::new(folder.path().join("spill"), limit, total, Some(ticket));
        (folder, bounds, space)
    }

    async fn read(file: &Arc<dyn SpillFile>) -> Vec<u8> {
        let parts: Vec<Bytes> = file.read_stream().unwrap().try_collect().await.unwrap();
        parts.concat()
    }

    /// What is on disk of a file that has no name: read through its descriptor.
    fn on_disk(file: &Encrypted) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.0.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn encrypted(space: &SpillSpace) -> Encrypted {
        Encrypted(Arc::new(Body {
            file: tempfile::tempfile().unwrap(),
            key: new_key().ok().unwrap(),
            sealed: Mutex::default(),
            used: Arc::clone(&space.used),
        }))
    }

    #[tokio::test]
    async fn gate_5_what_is_spilled_comes_back_and_is_nowhere_to_read() {
        let (folder, bounds, space) = space(1 << 30).await;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        for _ in 0..20 {
            let file = space.create_temp_file("test").unwrap();
            let mut writer = file.open_writer().unwrap();
            let mut written = Vec::new();
            for _ in 0..rng.random_range(0..40) {
                let length = rng.random_range(0..3 * CHUNK_BYTES / 2);
                let part = b"SECRET-501 ".repeat(length / 11 + 1);
                writer.write_all(&part).unwrap();
                written.extend_from_slice(&part);
                if rng.random_bool(0.3) {
                    writer.flush().unwrap();
                    // A reader meanwhile has all that was flushed.
                    assert!(read(&file).await == written);
                }
            }
            writer.finish().unwrap();
            assert!(read(&file).await == written);
            assert_eq!(bounds.usage().spill_bytes, file.size().unwrap());
            let names = std::fs::read_dir(folder.path().join("spill")).unwrap();
            assert_eq!(names.count(), 0, "a spill file has no name");
        }
        assert_eq!(bounds.usage().spill_bytes, 0);
        let file = encrypted(&space);
        let mut writer = file.open_writer().unwrap();
        writer.write_all(&b"SECRET-501 ".repeat(20_000)).unwrap();
        writer.finish().unwrap();
        let disk = on_disk(&file);
        assert!(disk.len() > 220_000);
        assert!(!disk.windows(6).any(|bytes| bytes == b"SECRET"));
    }

    #[tokio::test]
    async fn gate_5_what_was_changed_on_disk_is_an_error() {
        let (_folder, _bounds, space) = space(1 << 30).await;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(8);
        for _ in 0..50 {
            let file = encrypted(&space);
            let mut writer = file.open_writer().unwrap();
            writer.write_all(&vec![7; 150_000]).unwrap();
            writer.finish().unwrap();
            let mut disk = on_disk(&file);
            let at = rng.random_range(0..disk.len());
            disk[at] ^= 1 << rng.random_range(0..8);
            file.0.file.write_all_at(&disk, 0).unwrap();
            let read: Result<Vec<Bytes>> = file.read_stream().unwrap().try_collect().await;
            assert!(read.is_err(), "byte {at}");
        }
    }

    #[tokio::test]
    async fn gate_5_spill_space_is_bounded_and_given_back() {
        let (_folder, bounds, space) = space(200_000).await;
        let first = space.create_temp_file("test").unwrap();
        let mut writer = first.open_writer().unwrap();
        writer.write_all(&vec![1; 150_000]).unwrap();
        writer.finish().unwrap();
        let second = space.create_temp_file("test").unwrap();
        let mut more = second.open_writer().unwrap();
        let full = more.write_all(&vec![2; 80_000]).unwrap_err();
        let inner = full.get_ref().and_then(|error| error.downcast_ref());
        assert!(matches!(
            inner,
            Some(QueryError::OutOfSpill { limit: 200_000 })
        ));
        drop((first, writer));
        let mut again = second.open_writer().unwrap();
        again.write_all(&vec![3; 80_000]).unwrap();
        again.finish().unwrap();
        drop((second, more, again));
        assert_eq!(bounds.usage().spill_bytes, 0);
        assert_eq!(bounds.usage().running, 1);
        drop(space);
        assert_eq!(
            bounds.usage().running,
            0,
            "the turn ends with the last file"
        );
    }
}
