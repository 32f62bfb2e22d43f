//! Writing state so that it is there after a power cut.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use crate::error::{IngestError, Result};

/// Makes `dir` and its parents, readable by the owner alone, durably.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let make = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for parent in dir
            .ancestors()
            .skip(1)
            .take(2)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    make().map_err(|error| IngestError::io_at("making the folder", dir, error))
}

/// Replaces `path` by `content`: afterwards the file holds all of the new content, before it all of the old.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().map_err(|error| {
        // What is left of it would only take room.
        let _ = fs::remove_file(&temporary);
        IngestError::io_at("writing", path, error)
    })
}

/// Removes `path` durably.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let remove = || -> io::Result<()> {
        fs::remove_file(path)?;
        sync_parent(path)
    };
    remove().map_err(|error| IngestError::io_at("removing", path, error))
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
