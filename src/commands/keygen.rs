//! `keygen`: the key pair of a signatory, which the hub never holds.

use std::path::Path;

use qihui_consent::LedgerError;
use qihui_consent::signing::SigningKey;
use serde_json::json;

use super::{Context, shown};
use crate::cli::KeygenArgs;
use crate::failure::Failure;
use crate::files;
use crate::report::Report;

pub(super) fn run(args: &KeygenArgs, context: &Context<'_>) -> Result<Report, Failure> {
    if lies_inside(&args.out, context.opening.layout.root()) {
        return Err(LedgerError::KeyInsideHub.into());
    }
    let key = SigningKey::generate()?;
    key.write_new(&args.out)?;
    let public = args.out.with_added_extension("pub");
    files::write_new(&public, key.public().to_pem().as_bytes(), 0o644)?;
    let json = json!({
        "key": shown(&args.out),
        "public_key": shown(&public),
        "key_id": key.public().id(),
    });
    let text = format!(
        "private key: {} (keep it to yourself)\npublic key: {}",
        shown(&args.out),
        shown(&public)
    );
    Ok(Report::new(json, text))
}

/// Whether a file that is to be made would lie in a folder.
fn lies_inside(file: &Path, folder: &Path) -> bool {
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match (parent.canonicalize(), folder.canonicalize()) {
        (Ok(parent), Ok(folder)) => parent.starts_with(folder),
        // A folder that is not there has nothing in it.
        _ => false,
    }
}
