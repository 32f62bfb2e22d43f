//! Writing files of state so that they are there after a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Replaces `path` by `content`: afterwards the file holds all of the new content, before it all of the old. Only its
/// owner may read it. On the way it lies beside `path`, with `.new` added to the name.
///
/// # Errors
/// What the system says; `path` is then as it was, or as it shall be.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, |file| file.write_all(content))
}

/// As [`replace`], with content that is written piece by piece.
///
/// # Errors
/// As [`replace`], and what `content` says.
pub(crate) fn replace_with(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let staged = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&staged)?;
        let mut writer = BufWriter::new(file);
        content(&mut writer)?;
        writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        fs::rename(&staged, path)?;
        sync_parent(path)
    };
    write().inspect_err(|_| {
        // What is left of it would only take room.
        let _ = fs::remove_file(&staged);
    })
}

/// Makes the entry of `path` in its folder durable.
///
/// # Errors
/// What the system says.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
