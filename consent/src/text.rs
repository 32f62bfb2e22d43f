//! Reading and writing documents: YAML or JSON in, canonical JSON (RFC 8785) out.

use ring::digest::{SHA256, digest};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::error::{LedgerError, Result};

/// The largest document, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 18;
/// The deepest nesting of a document.
const MAX_DEPTH: usize = 16;
/// The most that an error repeats of what it refuses, in characters.
const MAX_SHOWN: usize = 300;

/// A word with so many digits could be a code.
const CODE_DIGITS: usize = 6;

/// Reads a document of YAML, of which JSON is a part. Unknown and repeated keys, aliases and more than one document
/// are refused. The error never quotes the lines of the document, which may name an enterprise.
pub(crate) fn read<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    let malformed = |reason: &str| LedgerError::Malformed {
        what,
        reason: told(reason),
    };
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(malformed(&format!(
            "it is larger than {MAX_DOCUMENT_BYTES} bytes"
        )));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_aliases: 0, max_anchors: 0, max_documents: 1 },
        leading_zero_numbers_as_strings: true,
        strict_booleans: true,
        with_snippet: false,
        reject_unsupported_tags: true,
    };
    let value: Value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| malformed(&format!("not readable as YAML: {error}")))?;
    serde_json::from_value(value).map_err(|error| malformed(&error.to_string()))
}

/// What an error may repeat of a document: one line, not too long, and nothing that could be the code of an enterprise,
/// which a slip of the pen can put anywhere, into the name of a key for example.
fn told(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line
        .chars()
        .take(MAX_SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut told = String::with_capacity(line.len());
    let mut rest = line.as_str();
    while !rest.is_empty() {
        let word = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(word);
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        told.push_str(if digits >= CODE_DIGITS { "…" } else { word });
        let gap = after
            .find(|c: char| c.is_ascii_alphanumeric())
            .unwrap_or(after.len());
        let (gap, next) = after.split_at(gap);
        told.push_str(gap);
        rest = next;
    }
    told
}

/// The canonical JSON of a document.
pub(crate) fn canonical<T: Serialize>(document: &T) -> Result<String> {
    serde_json_canonicalizer::to_string(document)
        .map_err(|_| LedgerError::Corrupt("a document has no canonical form".to_owned()))
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// So many random bytes as lower-case hexadecimal digits.
pub(crate) fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| LedgerError::Corrupt("the system gives no random numbers".to_owned()))?;
    Ok(hex::encode(bytes))
}

/// A word that a user typed, as an error may repeat it.
pub(crate) fn shown(word: &str) -> String {
    word.chars()
        .take(64)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeats_no_code() {
        assert_eq!(
            told("unknown field `91330106000000019Wconsumer`,\n expected `x`"),
            "unknown field `…`, expected `x`"
        );
        assert_eq!(told("at 2026-06-01, line 12"), "at 2026-06-01, line 12");
        assert_eq!(told(""), "");
        assert_eq!(told("名称 000000019W"), "名称 …");
    }
}
