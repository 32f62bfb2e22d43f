//! One process owns a data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::failure::ProgramError;
use crate::files::unwritable;
use crate::layout::Layout;

/// How often it is looked whether the owner has gone.
const RETRY: Duration = Duration::from_millis(25);

/// The ownership of a data directory, until dropped.
#[derive(Debug)]
pub struct DirectoryLock(File);

impl DirectoryLock {
    /// Takes the directory, waiting for its owner to end.
    ///
    /// # Errors
    /// [`ProgramError::HubBusy`] when it does not end in time; [`ProgramError::FileUnwritable`].
    pub async fn acquire(layout: &Layout, wait: Duration) -> Result<Self, ProgramError> {
        let path = layout.lock();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unwritable(&path, &error))?;
        let until = Instant::now() + wait;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < until => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(ProgramError::HubBusy {
                        dir: layout.root().to_owned(),
                        holder: holder(&mut file),
                        seconds: wait.as_secs(),
                    });
                }
                Err(error) => return Err(unwritable(&path, &error.into())),
            }
        }
        // For the message of whoever waits; that it cannot be written (a full disk) is no reason not to work.
        let _ = note_owner(&mut file);
        Ok(Self(file))
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a process that was forked meanwhile, until it executes its program.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn note_owner(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(32).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(id)) => format!("process {id}"),
        _ => "another process".to_owned(),
    }
}
