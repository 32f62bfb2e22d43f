//! The keys of an issuer.
//!
//! A set of keys (JWKS) comes from a file or an address and is read again when a token names a key that is not in it,
//! at most once per [`Source::retry_seconds`], and when it has become old. What cannot be read leaves the last good set
//! in place. Of a set, keys that could not check a signature here are skipped; a key's algorithm is fixed when it is
//! read. Limits: [`MAX_SET_BYTES`], [`MAX_KEYS`], ten seconds; addresses are https, or http on this machine; redirects
//! are not followed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde::Deserialize;

use super::IdentityError;

/// The largest set.
const MAX_SET_BYTES: usize = 1 << 20;
/// The most keys of a set.
const MAX_KEYS: usize = 64;
const FETCH: Duration = Duration::from_secs(10);

/// A key, and the one algorithm it is for.
#[derive(Clone)]
pub struct Key {
    /// Its name.
    pub id: Option<String>,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// What checks signatures.
    pub decoding: DecodingKey,
}

/// Where a set of keys is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// An address.
    Address(reqwest::Url),
}

impl Place {
    /// A place as it is configured: an address with its scheme, or else a file.
    ///
    /// # Errors
    /// What is wrong with an address.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let url = reqwest::Url::parse(text).map_err(|error| error.to_string())?;
        let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        match url.scheme() {
            "https" => Ok(Self::Address(url)),
            "http" if local => Ok(Self::Address(url)),
            _ => Err("keys come over https, or over http from this machine".to_owned()),
        }
    }
}

/// Where a set of keys is read, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub place: Place,
    /// How long a set stays fresh.
    pub refresh_seconds: u64,
    /// How long it is waited before the next attempt.
    pub retry_seconds: u64,
}

/// The keys of an issuer.
pub enum Keys {
    /// One key, which does not change.
    One(Key),
    /// A set that does.
    Set(Box<KeySet>),
}

impl Keys {
    /// The key that a token names; the only one, if it names none.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`]: there is no such key. [`IdentityError::KeysUnavailable`]: no set could ever be read.
    pub async fn find(&self, id: Option<&str>, now_ms: i64) -> Result<Key, IdentityError> {
        let unknown = IdentityError::Invalid {
            reason: "its key is not one of its issuer's",
        };
        match self {
            Self::One(key) if id.is_none() || id == key.id.as_deref() => Ok(key.clone()),
            Self::One(_) => Err(unknown),
            Self::Set(set) => set.find(id, now_ms).await?.ok_or(unknown),
        }
    }
}

struct Read {
    keys: Arc<[Key]>,
    at_ms: i64,
}

/// A set of keys that is read again as needed.
pub struct KeySet {
    source: Source,
    client: Option<reqwest::Client>,
    present: RwLock<Option<Read>>,
    /// When it was last tried; held while somebody tries.
    tried_ms: tokio::sync::Mutex<Option<i64>>,
}

fn unavailable(reason: impl Into<String>) -> IdentityError {
    IdentityError::KeysUnavailable {
        reason: reason.into(),
    }
}

impl KeySet {
    /// A set that nobody has read yet.
    ///
    /// # Errors
    /// [`IdentityError::KeysUnavailable`]: no connection could be set up.
    pub fn new(source: Source) -> Result<Self, IdentityError> {
        let client = match &source.place {
            Place::File(_) => None,
            Place::Address(_) => {
                let builder = reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::none())
                    .no_proxy()
                    .timeout(FETCH);
                let client = builder.build();
                Some(client.map_err(|_| unavailable("no connection can be set up"))?)
            }
        };
        Ok(Self {
            source,
            client,
            present: RwLock::new(None),
            tried_ms: tokio::sync::Mutex::new(None),
        })
    }

    /// The key of this name, reading the set again if it is unknown or the set is old.
    async fn find(&self, id: Option<&str>, now_ms: i64) -> Result<Option<Key>, IdentityError> {
        let (found, fresh) = self.look(id, now_ms);
        if found.is_some() && fresh {
            return Ok(found);
        }
        let read = self.read_again(now_ms).await;
        let (after, _) = self.look(id, now_ms);
        match (after, read) {
            (Some(key), _) => Ok(Some(key)),
            (None, Err(error)) if self.present.read().is_none() => Err(error),
            (None, _) => Ok(None),
        }
    }

    fn look(&self, id: Option<&str>, now_ms: i64) -> (Option<Key>, bool) {
        let present = self.present.read();
        let Some(read) = present.as_ref() else {
            return (None, false);
        };
        let key = match id {
            Some(id) => read.keys.iter().find(|key| key.id.as_deref() == Some(id)),
            None => read.keys.first().filter(|_| read.keys.len() == 1),
        };
        let lasts = i64::try_from(self.source.refresh_seconds).unwrap_or(i64::MAX / 1000);
        let fresh = now_ms.saturating_sub(read.at_ms) < lasts.saturating_mul(1000);
        (key.cloned(), fresh)
    }

    /// Reads the set, unless that was tried a moment ago.
    async fn read_again(&self, now_ms: i64) -> Result<(), IdentityError> {
        let mut tried = self.tried_ms.lock().await;
        let wait = i64::try_from(self.source.retry_seconds).unwrap_or(i64::MAX / 1000);
        if tried.is_some_and(|at| now_ms.saturating_sub(at) < wait.saturating_mul(1000)) {
            return Err(unavailable("they were asked for a moment ago"));
        }
        *tried = Some(now_ms);
        match self.read().await {
            Ok(keys) => {
                *self.present.write() = Some(Read {
                    keys: keys.into(),
                    at_ms: now_ms,
                });
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "the last good keys of the token issuer stay in use");
                Err(error)
            }
        }
    }

    async fn read(&self) -> Result<Vec<Key>, IdentityError> {
        let bytes = match (&self.source.place, &self.client) {
            (Place::Address(url), Some(client)) => fetch(client, url.clone()).await?,
            (Place::File(path), _) => {
                let read = tokio::fs::read(path).await;
                read.map_err(|error| unavailable(error.kind().to_string()))?
            }
            (Place::Address(_), None) => return Err(unavailable("no connection is set up")),
        };
        if bytes.len() > MAX_SET_BYTES {
            return Err(unavailable("the set is too large"));
        }
        keys_of(&bytes)
    }
}

async fn fetch(client: &reqwest::Client, url: reqwest::Url) -> Result<Vec<u8>, IdentityError> {
    let response = client.get(url).send().await;
    let mut response = response.map_err(|_| unavailable("the issuer does not answer"))?;
    if response.status() != http::StatusCode::OK {
        return Err(unavailable(format!(
            "the issuer answers {}",
            response.status()
        )));
    }
    let mut bytes = Vec::new();
    let broken = |_| unavailable("the issuer's answer breaks off");
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_SET_BYTES {
            return Err(unavailable("the set is too large"));
        }
    }
    Ok(bytes)
}

/// The keys of a set that can be used.
fn keys_of(bytes: &[u8]) -> Result<Vec<Key>, IdentityError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set =
        serde_json::from_slice(bytes).map_err(|_| unavailable("the set is not a JWKS"))?;
    let usable = set.keys.into_iter().take(MAX_KEYS).filter_map(usable);
    let keys: Vec<Key> = usable.collect();
    if keys.is_empty() {
        return Err(unavailable("the set has no key that can be used"));
    }
    Ok(keys)
}

/// A key of a set with the algorithm that it is for; none when it is for something else.
fn usable(value: serde_json::Value) -> Option<Key> {
    let key: Jwk = serde_json::from_value(value).ok()?;
    let signs = key.common.public_key_use.is_none()
        || key.common.public_key_use == Some(PublicKeyUse::Signature);
    let algorithm = match &key.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    let said = match key.common.key_algorithm {
        None => true,
        Some(KeyAlgorithm::EdDSA) => algorithm == Algorithm::EdDSA,
        Some(KeyAlgorithm::ES256) => algorithm == Algorithm::ES256,
        Some(KeyAlgorithm::RS256) => algorithm == Algorithm::RS256,
        Some(_) => false,
    };
    if !signs || !said {
        return None;
    }
    Some(Key {
        id: key.common.key_id.clone(),
        algorithm,
        decoding: DecodingKey::from_jwk(&key).ok()?,
    })
}
