//! The readable form of a source that is packed: written once, then read like any file.
//!
//! It has no name, so nothing of it stays behind when the process ends, however it ends. It lies in the hub's own
//! folder, not where others could look, and is no longer than [`Limits::archive_bytes`].

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use memchr::memchr_iter;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{IngestError, Result};

const BUFFER_BYTES: usize = 1 << 20;

/// A file without a name.
pub(crate) fn nameless(state_dir: &Path) -> Result<File> {
    // A look at what a run would do makes no folder, so the nearest one that is there has to do.
    let dir = state_dir
        .ancestors()
        .find(|dir| dir.is_dir())
        .unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => named_no_longer(dir),
        Err(error) => Err(IngestError::io_at("unpacking into", dir, error.into())),
    }
}

/// On file systems that make no file without a name: a file whose name is taken away at once.
fn named_no_longer(dir: &Path) -> Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path: PathBuf = dir.join(format!(".unpacked-{}-{number}", std::process::id()));
    let make = || -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    make().map_err(|error| IngestError::io_at("unpacking into", dir, error))
}

/// Where the readable form of a source is written to.
pub(crate) struct Spool {
    writer: BufWriter<File>,
    /// What was written, in bytes.
    pub bytes: u64,
    /// The line that stands next, from 1.
    pub line: u64,
    most: u64,
    source: String,
}

impl Spool {
    /// For the source `name`; holds at most `most` bytes.
    pub fn new(state_dir: &Path, name: &str, most: u64) -> Result<Self> {
        Ok(Self {
            writer: BufWriter::with_capacity(BUFFER_BYTES, nameless(state_dir)?),
            bytes: 0,
            line: 1,
            most,
            source: name.to_owned(),
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.most {
            return Err(IngestError::archive(
                &self.source,
                format!("it unpacks to more than {} bytes", self.most),
            ));
        }
        self.line += memchr_iter(b'\n', bytes).count() as u64;
        self.writer
            .write_all(bytes)
            .map_err(|error| self.failed(error))
    }

    /// Everything is written.
    pub fn finish(self) -> Result<File> {
        let source = self.source;
        self.writer
            .into_inner()
            .map_err(|error| IngestError::io(format!("unpacking `{source}`"), error.into_error()))
    }

    fn failed(&self, error: io::Error) -> IngestError {
        IngestError::io(format!("unpacking `{}`", self.source), error)
    }
}
