//! The local issuer: in the embedded profile, whoever holds the data directory gives others their tokens.
//!
//! Its key (Ed25519, PKCS#8 in PEM, 0600) lies with the hub's keys and is made when it is first needed. Its tokens name
//! the hub as issuer; each is recorded in the log as `token.issued`, without the token itself.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use qihui_consent::signing::SigningKey;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};

use super::keys::{Key, Keys};
use super::token::{Claims, Trusted};
use super::{IdentityError, provider};
use crate::failure::{Failure, ProgramError};
use crate::hub::Hub;

/// The kind of the entry that says a token was issued.
const ISSUED: &str = "token.issued";
/// The kind of the entry that names the issuer's key.
const KEY_CREATED: &str = "token.key_created";

/// The local issuer of a hub.
pub struct LocalIssuer {
    name: String,
    key_id: String,
    public: [u8; 32],
    private: EncodingKey,
}

impl std::fmt::Debug for LocalIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalIssuer")
            .field("name", &self.name)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl LocalIssuer {
    /// The issuer of a hub, with its key, which is made and recorded if there is none.
    ///
    /// # Errors
    /// The key cannot be read or written, or the log takes nothing.
    pub async fn of(hub: &Hub) -> Result<Self, Failure> {
        provider::install();
        let path = hub.layout().issuer_key();
        if !path.exists() {
            let key = SigningKey::generate()?;
            key.write_new(&path)?;
            let mut body = Map::new();
            body.insert("key_id".to_owned(), key.public().id().into());
            hub.ledger().record_change(KEY_CREATED, body).await?;
            hub.acknowledge().await?;
        }
        let (key, der) = read(&path)?;
        Ok(Self {
            name: issuer_name(hub),
            key_id: key.public().id(),
            public: *key.public().as_bytes(),
            private: EncodingKey::from_ed_der(&der),
        })
    }

    /// Signs claims; their issuer is this one.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`]: no token comes of it.
    pub fn sign(&self, claims: &Claims) -> Result<String, IdentityError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id.clone());
        encode(&header, claims, &self.private).map_err(|_| IdentityError::Invalid {
            reason: "it cannot be signed",
        })
    }

    /// Signs claims and records that they were.
    ///
    /// # Errors
    /// As [`LocalIssuer::sign`], or the log takes nothing; then there is no token.
    pub async fn issue(&self, hub: &Hub, claims: &Claims) -> Result<String, Failure> {
        let token = self.sign(claims)?;
        let body = serde_json::to_value(claims).unwrap_or(Value::Null);
        if let Value::Object(body) = body {
            hub.ledger().record_change(ISSUED, body).await?;
        }
        hub.acknowledge().await?;
        Ok(token)
    }

    /// The issuer's name, as its tokens say it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is trusted of it.
    #[must_use]
    pub fn trusted(&self) -> Trusted {
        Trusted {
            issuer: self.name.clone(),
            keys: Keys::One(Key {
                id: Some(self.key_id.clone()),
                algorithm: Algorithm::EdDSA,
                decoding: DecodingKey::from_ed_der(&self.public),
            }),
        }
    }
}

/// What tokens of the local issuer say who issued them: the hub.
#[must_use]
pub fn issuer_name(hub: &Hub) -> String {
    format!("qihui:{}", hub.ledger().hub())
}

/// A name for a token that nobody can guess.
///
/// # Errors
/// [`ProgramError::CannotStart`]: the system gives no random numbers.
pub fn new_token_id() -> Result<String, ProgramError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ProgramError::CannotStart("the system gives no random numbers".to_owned()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn read(path: &Path) -> Result<(SigningKey, Vec<u8>), Failure> {
    let unreadable = |reason: String| ProgramError::FileUnreadable {
        what: "key of the token issuer",
        path: path.to_owned(),
        reason,
    };
    crate::files::check_private(path)?;
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let inner: String = text
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let der = BASE64_STANDARD.decode(inner);
    let der = der.map_err(|_| unreadable("it is not PEM".to_owned()))?;
    Ok((SigningKey::parse(text.as_bytes())?, der))
}
