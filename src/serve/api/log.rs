//! The log: its signed head, its tiles, and proofs. None of these names anybody: they are hashes and leaves.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{HeaderValue, header};
use qihui_audit::{AuditLog, LogError};
use serde_json::{Value, json};
use utoipa::Path as _;
use utoipa::openapi::OpenApi;

use super::{Answered, document_of};
use crate::failure::Failure;
use crate::serve::authorise::Caller;
use crate::serve::{ServeError, Service};

/// Where tiles lie in the paths of the API.
const TILES: &str = "/v1/log/tile/{*path}";

/// Get the newest signed checkpoint. Keep it elsewhere: whatever is changed later contradicts it.
#[utoipa::path(get, path = "/v1/log/checkpoint", operation_id = "log_checkpoint", tag = "log",
    responses((status = 200, description = "A signed note (c2sp.org/tlog-checkpoint).", body = String,
        content_type = "text/plain")))]
pub(crate) async fn checkpoint(caller: Caller) -> Answered {
    let hub = caller.hub.clone();
    let published = tokio::task::spawn_blocking(move || hub.log().published_checkpoint());
    let published = published.await.map_err(|_| ServeError::Panicked)?;
    let note = published.map_err(Failure::from)?.note;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut response = ([(header::CONTENT_TYPE, kind)], note).into_response();
    if let Ok(key) = HeaderValue::from_str(&caller.hub.log().vkey()) {
        response.headers_mut().insert("qihui-verifier-key", key);
    }
    Ok(response)
}

/// Prove that an entry is in the log.
#[utoipa::path(get, path = "/v1/log/entries/{index}/proof", operation_id = "log_proof", tag = "log",
    params(("index" = u64, Path, description = "The entry.")),
    responses((status = 200, description = "Its leaf, and its inclusion proof for the checkpoint.", body = serde_json::Value),
        (status = 404, description = "There is no such entry.", body = serde_json::Value,
            content_type = "application/problem+json")))]
pub(crate) async fn proof(caller: Caller, Path(index): Path<String>) -> Answered {
    let index: u64 = super::identifier(&index, "index")?;
    let hub = caller.hub.clone();
    let proven = tokio::task::spawn_blocking(move || proven(hub.log(), index));
    let document = proven.await.map_err(|_| ServeError::Panicked)??;
    Ok(document_of(&document))
}

/// An entry with its proof, and the checkpoint that the proof leads to.
fn proven(log: &AuditLog, index: u64) -> Result<Value, Failure> {
    let checkpoint = log.published_checkpoint()?;
    if index >= checkpoint.size {
        return Err(ServeError::UnknownTile.into());
    }
    let (leaf, proof) = proof_of(log, index, checkpoint.size)?;
    Ok(json!({
        "index": index,
        "size": checkpoint.size,
        "root": hex::encode(checkpoint.root),
        "leaf": leaf,
        "proof": proof,
        "checkpoint": checkpoint.note,
        "verifier_key": log.vkey(),
    }))
}

/// The leaf of an entry, and its inclusion proof in the tree of a size, hexadecimal.
pub(super) fn proof_of(
    log: &AuditLog,
    index: u64,
    size: u64,
) -> Result<(String, Vec<String>), LogError> {
    let leaf = log.read(index)?.leaf.encode();
    let proof = log.inclusion_proof(index, size)?;
    let leaf = String::from_utf8_lossy(&leaf).into_owned();
    Ok((leaf, proof.iter().map(hex::encode).collect()))
}

/// Get a tile: hashes of a level, or a bundle of leaves (c2sp.org/tlog-tiles).
#[utoipa::path(get, path = "/v1/log/tile/{path}", operation_id = "log_tile", tag = "log",
    params(("path" = String, Path, description = "`<level>/<N>` or `entries/<N>`, with `.p/<W>` after it for a partial tile.")),
    responses((status = 200, description = "The tile.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "The published checkpoint does not reach so far.", body = serde_json::Value,
            content_type = "application/problem+json")))]
pub(crate) async fn tile(caller: Caller, Path(path): Path<String>) -> Answered {
    let file = tile_file(&path).ok_or(ServeError::UnknownTile)?;
    let file = caller.hub.log().dir().join("tile").join(file);
    let bytes = tokio::fs::read(file).await;
    let bytes = bytes.map_err(|_| ServeError::UnknownTile)?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
}

/// The path of a tile below the folder of tiles; none when it is not the path of one.
fn tile_file(path: &str) -> Option<PathBuf> {
    let (tile, width) = match path.split_once(".p/") {
        Some((tile, width)) => (tile, Some(width)),
        None => (path, None),
    };
    let fits = |width: &str| {
        width
            .parse::<u16>()
            .is_ok_and(|width| (1..256).contains(&width))
    };
    if width.is_some_and(|width| !fits(width)) {
        return None;
    }
    let mut parts = tile.split('/');
    let level = parts.next()?;
    let is_level = level == "entries" || level.parse::<u8>().is_ok_and(|level| level < 8);
    let digits = |part: &str| part.len() == 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut numbers: Vec<&str> = parts.collect();
    let last = numbers.pop()?;
    let groups = numbers
        .iter()
        .all(|part| part.strip_prefix('x').is_some_and(digits));
    (is_level && digits(last) && groups && numbers.len() < 8).then(|| PathBuf::from(path))
}

/// Adds the tiles, whose paths have any number of parts, to routes and description.
pub(super) fn with_tiles(
    router: Router<Arc<Service>>,
    document: &mut OpenApi,
) -> Router<Arc<Service>> {
    let described = __path_tile::operation();
    let methods = __path_tile::methods();
    let mut operation = described;
    operation.tags = Some(vec!["log".to_owned()]);
    document
        .paths
        .add_path_operation(__path_tile::path(), methods, operation);
    router.route(TILES, get(tile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_tiles_reach_a_file() {
        for path in [
            "0/000",
            "0/x001/x234/067",
            "entries/001.p/17",
            "7/999.p/255",
        ] {
            assert_eq!(tile_file(path), Some(PathBuf::from(path)));
        }
        for path in [
            "../keys",
            "0/../000",
            "8/000",
            "entries/1",
            "0/000.p/0",
            "0/000.p/256",
            "0/x01/000",
            "0/000/",
            "entries",
            "0/0x1",
            "0/000.p/../../../x",
            "",
        ] {
            assert_eq!(tile_file(path), None, "{path}");
        }
    }
}
