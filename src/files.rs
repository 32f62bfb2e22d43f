//! Reading and writing the small files that commands are given or leave behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use qihui_ingest::durable;

use crate::failure::ProgramError;

/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// Reads a text file that a user named.
///
/// # Errors
/// [`ProgramError::FileUnreadable`]: it is not there, not a file, not UTF-8, or too large.
pub fn read_document(what: &'static str, path: &Path) -> Result<String, ProgramError> {
    let unreadable = |reason: String| ProgramError::FileUnreadable {
        what,
        path: path.to_owned(),
        reason,
    };
    let system = |error: io::Error| unreadable(error.to_string());
    if !fs::metadata(path).map_err(system)?.is_file() {
        return Err(unreadable("it is not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes))
        .map_err(system)?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(unreadable(format!(
            "it is larger than {MAX_DOCUMENT_BYTES} bytes"
        )));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))
}

/// Writes a new file, durably.
///
/// # Errors
/// [`ProgramError::FileUnwritable`].
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), ProgramError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| unwritable(path, &error))
}

/// Replaces a file by new content, durably: afterwards it holds all of the new, before it all of the old.
///
/// # Errors
/// [`ProgramError::FileUnwritable`].
pub fn replace(path: &Path, content: &[u8]) -> Result<(), ProgramError> {
    durable::replace(path, content).map_err(|error| unwritable(path, &error))
}

pub(crate) fn unwritable(path: &Path, error: &io::Error) -> ProgramError {
    ProgramError::FileUnwritable {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Refuses a file with a secret in it that others may read.
///
/// # Errors
/// [`ProgramError::FileUnreadable`]: it is not there, or its permissions are too wide.
pub fn check_private(path: &Path) -> Result<(), ProgramError> {
    let unreadable = |reason: String| ProgramError::FileUnreadable {
        what: "key",
        path: path.to_owned(),
        reason,
    };
    let found = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if std::os::unix::fs::MetadataExt::mode(&found) & 0o077 != 0 {
        let reason = "others may read it: `chmod 600` it".to_owned();
        return Err(unreadable(reason));
    }
    Ok(())
}
