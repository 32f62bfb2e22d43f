//! Finds and opens the files of a feed, and nothing else.
//!
//! Promises: what is opened is a regular file inside the folder that was named, reached without following a symbolic
//! link (each step is opened relative to the one before with `O_NOFOLLOW`, so nothing can be swapped in between), and
//! it is known by the hash of its content. A wildcard in a path is refused; a feed picks files of a folder by its own
//! pattern. A change of the file while it is read is noticed before the next commit.
//!
//! What is read of a source is its *text*: the file itself, or what is packed in it. An archive of documents is its
//! documents one after the other, a workbook its rows as lines ([`crate::workbook`]). Positions are places in the text;
//! its *parts* (documents, sheets) have names and lines of their own.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use qihui_catalog::{Encoding, FeedFormat, FeedSpec};
use ring::digest::{Context, SHA256};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::{
    IngestError,
    archive::{self, Archive, FileReader},
    error::Result,
    limits::Limits,
    spool::Spool,
    text::{Evidence, TextDecoder},
    workbook::{self, DateSystem},
};

/// How much is read at a time while hashing, in bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// A file that a feed may be read from: a folder and a path inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub root: PathBuf,
    pub relative: PathBuf,
}

/// An opened source, identified by its content.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    /// The unpacked text, where the file is packed.
    unpacked: Option<File>,
    /// Its path inside its folder, for people.
    pub name: String,
    /// The length of its text.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// The parts of its text, in order; never none.
    pub parts: Vec<Part>,
    /// From when a workbook counts days.
    pub dates: DateSystem,
    /// The form of its text, where that is not its own: a later program may write another.
    pub text_form: Option<u32>,
    stamp: Stamp,
}

/// A part of a text: a sheet of a workbook, a document of an archive, or the whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its name; none for a whole file.
    pub name: Option<Arc<str>>,
    /// Where it begins, in bytes.
    pub start: u64,
    /// The line of the text that it begins on.
    pub line: u64,
}

/// The text of a packed source.
struct Unpacked {
    text: File,
    bytes: u64,
    parts: Vec<Part>,
    dates: DateSystem,
}

/// What changes when a file is written to or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// The files that `input` names for `feed`: the file itself, or those of a folder that fit the feed's pattern, by name.
///
/// With a `root` configured, `input` has to lie inside it.
pub(crate) fn find(feed: &FeedSpec, input: &Path, root: Option<&Path>) -> Result<Vec<Found>> {
    if input
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|byte| matches!(byte, b'*' | b'?' | b'['))
    {
        return Err(IngestError::PathIsGlob {
            path: input.to_owned(),
        });
    }
    let input = match root {
        Some(root) => beneath(root, input)?,
        None => whole(input)?,
    };
    let path = input.root.join(&input.relative);
    let meta = fs::symlink_metadata(&path).map_err(|error| missing(&path, error))?;
    if meta.is_symlink() {
        return Err(IngestError::PathIsSymlink { path });
    }
    if !meta.is_dir() {
        return Ok(vec![input]);
    }
    let names = matching(&path, feed)?;
    if names.is_empty() {
        return Err(IngestError::NoFileOfFeed {
            feed: feed.name.to_string(),
            pattern: feed.file_pattern.clone(),
            dir: path,
        });
    }
    // Inside a configured root sources are named from there, otherwise from the folder that was named.
    let (root, folder) = match root {
        Some(_) => (input.root, input.relative),
        None => (path, PathBuf::new()),
    };
    let found = names.into_iter().map(|name| Found {
        root: root.clone(),
        relative: folder.join(name),
    });
    Ok(found.collect())
}

/// Whether the folder `input` holds a file of `feed`. A path to a file counts when its name fits.
pub(crate) fn holds(feed: &FeedSpec, input: &Path) -> Result<bool> {
    if input.is_dir() {
        return Ok(!matching(input, feed)?.is_empty());
    }
    Ok(input
        .file_name()
        .is_some_and(|name| feed.takes_file(&name.to_string_lossy())))
}

fn matching(dir: &Path, feed: &FeedSpec) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            if feed.takes_file(&name.to_string_lossy()) {
                names.push(PathBuf::from(name));
            }
        }
        names.sort_unstable();
        Ok(names)
    };
    list().map_err(|error| IngestError::io_at("listing", dir, error))
}

/// A path of a person's own: its last part is the path, all before it the folder.
fn whole(input: &Path) -> Result<Found> {
    let absolute = std::path::absolute(input)
        .map_err(|error| IngestError::io_at("resolving", input, error))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(root), Some(name)) => Ok(Found {
            root: root.to_owned(),
            relative: name.into(),
        }),
        // `/` and paths that end in `..` name a folder.
        _ => Ok(Found {
            root: absolute,
            relative: PathBuf::from("."),
        }),
    }
}

/// A path that has to lie inside `root`.
fn beneath(root: &Path, input: &Path) -> Result<Found> {
    let outside = || IngestError::PathOutsideRoot {
        path: input.to_owned(),
        root: root.to_owned(),
    };
    if input.components().any(|part| part == Component::ParentDir) {
        return Err(outside());
    }
    let root =
        std::path::absolute(root).map_err(|error| IngestError::io_at("resolving", root, error))?;
    let relative = if input.is_absolute() {
        input.strip_prefix(&root).map_err(|_| outside())?
    } else {
        input
    };
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    Ok(Found {
        root,
        relative: relative.to_owned(),
    })
}

fn missing(path: &Path, error: io::Error) -> IngestError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => IngestError::SourceNotFound {
            path: path.to_owned(),
        },
        _ => IngestError::io_at("opening", path, error),
    }
}

impl Source {
    /// Opens a file of `feed`, reads it once, for its hash, and unpacks it if it is packed. What is unpacked lies in or
    /// above `state_dir`, without a name.
    pub fn open(found: &Found, feed: &FeedSpec, state_dir: &Path, limits: &Limits) -> Result<Self> {
        let path = found.root.join(&found.relative);
        let file = open_beneath(found, &path)?;
        let failed = |error| IngestError::io_at("reading", &path, error);
        let stamp = Stamp::of(&file).map_err(failed)?;
        let again = || file.try_clone().map_err(failed);
        let sha256 = hash(FileReader {
            file: again()?,
            offset: 0,
        })
        .map_err(failed)?;
        let name = found.relative.to_string_lossy().into_owned();
        let packed = match feed.format {
            FeedFormat::Csv | FeedFormat::JsonLines => None,
            FeedFormat::Xml if !begins_with(&file, archive::MAGIC).map_err(failed)? => {
                not_empty(stamp.bytes, &name, feed)?;
                None
            }
            FeedFormat::Xml => Some(unpack_documents(again()?, &name, state_dir, limits)?),
            FeedFormat::Xlsx => {
                not_empty(stamp.bytes, &name, feed)?;
                let unpacked = unpack_workbook(again()?, &name, feed, state_dir, limits)?;
                not_empty(unpacked.bytes, &name, feed)?;
                Some(unpacked)
            }
        };
        let whole = || {
            vec![Part {
                name: None,
                start: 0,
                line: 1,
            }]
        };
        let source = match packed {
            None => Self {
                file,
                unpacked: None,
                name,
                bytes: stamp.bytes,
                sha256,
                parts: whole(),
                dates: DateSystem::From1900,
                text_form: None,
                stamp,
            },
            Some(unpacked) => Self {
                file,
                unpacked: Some(unpacked.text),
                name,
                bytes: unpacked.bytes,
                sha256,
                parts: unpacked.parts,
                dates: unpacked.dates,
                text_form: (feed.format == FeedFormat::Xlsx).then_some(workbook::TEXT_FORM),
                stamp,
            },
        };
        source.check_unchanged()?;
        Ok(source)
    }

    /// The file that holds the text.
    fn text(&self) -> &File {
        self.unpacked.as_ref().unwrap_or(&self.file)
    }

    /// The part that the byte at `offset` of the text belongs to: its place in [`Source::parts`].
    pub fn part_at(&self, offset: u64) -> usize {
        let after = self.parts.partition_point(|part| part.start <= offset);
        after.saturating_sub(1)
    }

    /// Where part number `part` ends.
    pub fn part_end(&self, part: usize) -> u64 {
        self.parts
            .get(part + 1)
            .map_or(self.bytes, |next| next.start)
    }

    /// The part that a place in the text lies in, by name, and its line there.
    pub fn place(&self, offset: u64, line: u64) -> (Option<Arc<str>>, u64) {
        match self.parts.get(self.part_at(offset)) {
            Some(part) => (part.name.clone(), line + 1 - part.line.min(line)),
            None => (None, line),
        }
    }

    /// Reads the file once more, for what its lines say about its encoding.
    pub fn evidence(&self) -> Result<Evidence> {
        weigh(self.reader(0)?).map_err(|error| self.failed(error))
    }

    /// A reader of its own from `offset` on.
    pub fn reader(&self, offset: u64) -> Result<impl Read + Send + use<>> {
        let reader = || -> io::Result<FileReader> {
            Ok(FileReader {
                file: self.text().try_clone()?,
                offset,
            })
        };
        reader().map_err(|error| self.failed(error))
    }

    /// The bytes of one record.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.text()
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => IngestError::SourceChanged {
                    file: self.name.clone(),
                },
                _ => self.failed(error),
            })?;
        Ok(bytes)
    }

    /// Fails if the file is no longer what it was when it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = Stamp::of(&self.file).map_err(|error| self.failed(error))?;
        if now == self.stamp {
            Ok(())
        } else {
            Err(IngestError::SourceChanged {
                file: self.name.clone(),
            })
        }
    }

    fn failed(&self, error: io::Error) -> IngestError {
        IngestError::io_at("reading", Path::new(&self.name), error)
    }
}

fn begins_with(file: &File, magic: &[u8]) -> io::Result<bool> {
    let mut begin = vec![0; magic.len()];
    match file.read_exact_at(&mut begin, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(begin == magic),
    }
}

fn not_empty(bytes: u64, name: &str, feed: &FeedSpec) -> Result<()> {
    if bytes > 0 {
        return Ok(());
    }
    Err(IngestError::EmptyFile {
        file: name.to_owned(),
        feed: feed.name.to_string(),
    })
}

/// Where macOS puts what it knows of files beside them.
const RESOURCE_FORKS: &str = "__MACOSX/";

/// Writes the documents of an archive one after the other.
fn unpack_documents(file: File, name: &str, state_dir: &Path, limits: &Limits) -> Result<Unpacked> {
    let refused = |fault: String| IngestError::archive(name, fault);
    let mut archive = Archive::open(file, name, limits)?;
    let mut spool = Spool::new(state_dir, name, limits.archive_bytes)?;
    let mut parts = Vec::with_capacity(archive.entries.len());
    for entry in archive.entries.clone() {
        if entry.name.starts_with(RESOURCE_FORKS) {
            continue;
        }
        if !entry.name.to_ascii_lowercase().ends_with(".xml") {
            return Err(refused(format!("`{}` is no XML document", entry.name)));
        }
        if entry.bytes == 0 {
            return Err(refused(format!("the document `{}` is empty", entry.name)));
        }
        parts.push(Part {
            name: Some(Arc::from(&*entry.name)),
            start: spool.bytes,
            line: spool.line,
        });
        archive.unpack(&entry, |block| spool.write(block))?;
        // Documents begin on lines of their own, so that lines count from 1 in each of them.
        spool.write(b"\n")?;
    }
    if parts.is_empty() {
        return Err(refused("it holds no document".into()));
    }
    Ok(Unpacked {
        bytes: spool.bytes,
        text: spool.finish()?,
        parts,
        dates: DateSystem::From1900,
    })
}

fn unpack_workbook(
    file: File,
    name: &str,
    feed: &FeedSpec,
    state_dir: &Path,
    limits: &Limits,
) -> Result<Unpacked> {
    const OLD_OFFICE: &[u8] = b"\xD0\xCF\x11\xE0";
    if begins_with(&file, OLD_OFFICE)
        .map_err(|error| IngestError::io(format!("reading `{name}`"), error))?
    {
        let fault = "it is of the form before xlsx, or protected by a password";
        return Err(IngestError::workbook(name, fault.into()));
    }
    let text = workbook::write_text(file, name, &feed.sheets, state_dir, limits)?;
    Ok(Unpacked {
        text: text.text,
        bytes: text.bytes,
        parts: text.parts,
        dates: text.dates,
    })
}

fn open_beneath(found: &Found, path: &Path) -> Result<File> {
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |at: &OwnedFd, name: &OsStr, flags| {
        openat(at, name, flags, Mode::empty()).map_err(io::Error::from)
    };
    let mut at: OwnedFd = openat(CWD, &found.root, folder, Mode::empty())
        .map_err(|e| missing(&found.root, e.into()))?;
    let mut parts: Vec<&OsStr> = found
        .relative
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let Some(last) = parts.pop() else {
        return Err(IngestError::NotARegularFile {
            path: path.to_owned(),
        });
    };
    for name in parts {
        at = open(&at, name, folder | OFlags::NOFOLLOW).map_err(|error| refused(path, error))?;
    }
    // Without O_NONBLOCK opening a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(&at, last, flags).map_err(|error| refused(path, error))?);
    let meta = file
        .metadata()
        .map_err(|error| IngestError::io_at("opening", path, error))?;
    if !meta.is_file() {
        return Err(IngestError::NotARegularFile {
            path: path.to_owned(),
        });
    }
    Ok(file)
}

fn refused(path: &Path, error: io::Error) -> IngestError {
    const ELOOP: i32 = 40;
    const ENOTDIR: i32 = 20;
    const ENXIO: i32 = 6;
    match error.raw_os_error() {
        Some(ELOOP) => IngestError::PathIsSymlink {
            path: path.to_owned(),
        },
        Some(ENOTDIR) if path.parent().is_some_and(|parent| parent.is_symlink()) => {
            IngestError::PathIsSymlink {
                path: path.to_owned(),
            }
        }
        Some(ENXIO) => IngestError::NotARegularFile {
            path: path.to_owned(),
        },
        _ => missing(path, error),
    }
}

fn hash(mut file: FileReader) -> io::Result<[u8; 32]> {
    let mut hash = Context::new(&SHA256);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => break,
            read => hash.update(&block[..read?]),
        }
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(hash.finish().as_ref());
    Ok(sha256)
}

fn weigh(mut file: impl Read) -> io::Result<Evidence> {
    let mut decoder = TextDecoder::new(Encoding::Detect);
    let mut evidence = Evidence::default();
    let mut block = vec![0; BLOCK_BYTES];
    // `block[..kept]` is the start of a line whose end is not yet read.
    let mut kept = 0;
    let mut overlong = false;
    loop {
        let read = match file.read(&mut block[kept..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let filled = kept + read;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &block[..filled]) {
            if !std::mem::take(&mut overlong) {
                evidence.see(&block[start..end], &mut decoder);
            }
            start = end + 1;
        }
        if read == 0 {
            if !overlong {
                evidence.see(&block[start..filled], &mut decoder);
            }
            return Ok(evidence);
        }
        kept = filled - start;
        if kept == block.len() {
            // Such a line is too long to be a record; its bytes are no evidence.
            overlong = true;
            kept = 0;
        } else {
            block.copy_within(start..filled, 0);
        }
    }
}
