//! `init`: an empty hub, whole or not at all.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use qihui_audit::{AuditLog, LogKeys};
use qihui_catalog::Catalog;
use qihui_ingest::durable;
use rand::Rng;
use serde_json::json;

use super::{Context, shown, with_hub};
use crate::cli::InitArgs;
use crate::config;
use crate::failure::{Failure, ProgramError};
use crate::files::{self, unwritable};
use crate::layout::Layout;
use crate::report::Report;

pub(super) async fn run(args: &InitArgs, context: &Context<'_>) -> Result<Report, Failure> {
    let target = context.opening.layout.clone();
    check_free(&target)?;
    let parent = parent_of(target.root());
    fs::create_dir_all(&parent).map_err(|error| unwritable(&parent, &error))?;
    // Made beside its place and moved there: a hub that is half made is never seen.
    let beside = tempfile::Builder::new()
        .prefix(".qihui-init-")
        .tempdir_in(&parent)
        .map_err(|error| unwritable(&parent, &error))?;
    build(&Layout::new(beside.path()), args.origin.as_deref())?;
    fs::rename(beside.path(), target.root()).map_err(|error| cannot_place(&target, &error))?;
    // It has moved: there is nothing left to remove.
    let _ = beside.keep();
    durable::sync_parent(target.root()).map_err(|error| unwritable(&parent, &error))?;
    with_hub(&context.opening, async |hub| {
        let (catalog, log) = (hub.catalog()?, hub.log());
        let datasets = catalog.contracts.len() - catalog.models.len();
        let json = json!({
            "data_dir": shown(target.root()),
            "origin": log.origin(),
            "verifier_key": log.vkey(),
            "datasets": datasets,
            "products": catalog.models.len(),
            "feeds": catalog.feeds.len(),
            "entries": log.size(),
        });
        let text = format!(
            "a hub in {} with {datasets} datasets and {} feeds\nlog verifier key: {}",
            shown(target.root()),
            catalog.feeds.len(),
            log.vkey()
        );
        Ok(Report::new(json, text))
    })
    .await
}

fn check_free(target: &Layout) -> Result<(), ProgramError> {
    let dir = target.root().to_owned();
    if target.is_hub() {
        return Err(ProgramError::HubExists { dir });
    }
    match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unwritable(&dir, &error)),
        Ok(mut content) => match content.next() {
            None => Ok(()),
            Some(_) => Err(ProgramError::DirectoryNotEmpty { dir }),
        },
    }
}

fn parent_of(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn cannot_place(target: &Layout, error: &io::Error) -> ProgramError {
    let dir = target.root();
    match error.kind() {
        io::ErrorKind::DirectoryNotEmpty => ProgramError::DirectoryNotEmpty {
            dir: dir.to_owned(),
        },
        io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
            ProgramError::FileUnwritable {
                path: dir.to_owned(),
                reason: "it is a mount point: make the hub in a folder inside it".to_owned(),
            }
        }
        _ => unwritable(dir, error),
    }
}

fn build(layout: &Layout, origin: Option<&str>) -> Result<(), Failure> {
    for folder in layout.folders() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| unwritable(&folder, &error))?;
    }
    files::write_new(&layout.config(), config::template().as_bytes(), 0o644)?;
    for (path, text) in Catalog::builtin_files() {
        files::write_new(&layout.catalog().join(path), text.as_bytes(), 0o644)?;
    }
    let keys = LogKeys::generate(&layout.keys())?;
    let drawn = format!("qihui.local/{:016x}", rand::rng().random::<u64>());
    AuditLog::create(&layout.log(), &keys, origin.unwrap_or(&drawn))?;
    for folder in layout
        .folders()
        .iter()
        .chain([&layout.catalog(), &layout.root().to_owned()])
    {
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| unwritable(folder, &error))?;
    }
    Ok(())
}
