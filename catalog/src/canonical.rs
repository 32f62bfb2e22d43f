//! Canonical JSON (RFC 8785) and its SHA-256: what makes two documents the same.

use ring::digest;
use serde_json::Value;

/// The canonical JSON of a value.
pub(crate) fn json(value: &Value) -> String {
    // INVARIANT: a `Value` has text keys and finite numbers only, the two things that could fail to serialise; the
    // fallback is plain JSON, whose keys are sorted as well.
    serde_json_canonicalizer::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// SHA-256 of a text.
pub(crate) fn hash(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}
