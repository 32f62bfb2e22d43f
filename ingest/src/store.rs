//! Writing state so that it is there after a power cut.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use crate::{
    durable,
    error::{IngestError, Result},
};

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

/// See [`durable::replace`].
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    durable::replace(path, content).map_err(|error| IngestError::io_at("writing", path, error))
}

/// See [`durable::replace_with`].
pub(crate) fn replace_with(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let mut fault = None;
    let replaced = durable::replace_with(path, |file| {
        content(file).map_err(|error| {
            fault = Some(error);
            io::Error::other("its content could not be made")
        })
    });
    match fault {
        Some(fault) => Err(fault),
        None => replaced.map_err(|error| IngestError::io_at("writing", path, error)),
    }
}

/// Removes `path` durably.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let remove = || -> io::Result<()> {
        fs::remove_file(path)?;
        durable::sync_parent(path)
    };
    remove().map_err(|error| IngestError::io_at("removing", path, error))
}
