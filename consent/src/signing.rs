//! Signatures: what a signatory signs, with what, and how the hub checks it.
//!
//! Promise: a signature counts for one operation on one version of one consent at one moment of one hub, because the
//! signed text names all of these. Format of the text: RFC 8785 canonical JSON of
//! `{"consent": <document>, "hub": …, "nonce": …, "operation": …}`; the hub draws a new nonce whenever the state of
//! the consent changes. Ed25519.
//!
//! Keys: a private key is PKCS#8, in PEM (`openssl genpkey -algorithm ed25519`) or DER, or a seed of 32 bytes, raw, in
//! hexadecimal or in base64; a public key is a SubjectPublicKeyInfo, in PEM or DER, or 32 bytes in the same ways.
//! Private keys are read by whoever signs, outside the hub; the hub never holds one.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use qihui_catalog::ConsentId;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    document::{ConsentDocument, NarrowRequest},
    error::{LedgerError, Result},
    text,
};

/// Bytes of a seed and of a public key.
const KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
/// The largest key file.
const MAX_KEY_FILE: u64 = 4096;
/// PKCS#8 v1 of an Ed25519 seed, without the seed (RFC 8410).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];
/// SubjectPublicKeyInfo of an Ed25519 key, without the key (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// What a signatory can do with a consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Give it: counts towards the threshold.
    Give,
    /// Refuse it.
    Reject,
    /// Suspend it.
    Pause,
    /// Resume it: counts towards the threshold.
    Resume,
    /// Take it back.
    Withdraw,
    /// Replace it by a narrower version.
    Narrow,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 6] = [
        Self::Give,
        Self::Reject,
        Self::Pause,
        Self::Resume,
        Self::Withdraw,
        Self::Narrow,
    ];

    /// The operation as written in the signed text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Give => "give",
            Self::Reject => "reject",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Withdraw => "withdraw",
            Self::Narrow => "narrow",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a signatory is to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningText {
    /// The text: canonical JSON.
    pub text: String,
    /// The operation.
    pub operation: Operation,
    /// The document in it: for a narrowing the new version.
    pub document: ConsentDocument,
    /// The nonce in it.
    pub nonce: String,
}

impl SigningText {
    pub(crate) fn new(
        hub: &str,
        operation: Operation,
        nonce: &str,
        document: ConsentDocument,
    ) -> Result<Self> {
        #[derive(Serialize)]
        struct Signed<'a> {
            consent: &'a ConsentDocument,
            hub: &'a str,
            nonce: &'a str,
            operation: Operation,
        }
        let text = text::canonical(&Signed {
            consent: &document,
            hub,
            nonce,
            operation,
        })?;
        Ok(Self {
            text,
            operation,
            document,
            nonce: nonce.to_owned(),
        })
    }
}

/// An operation with the signature of one signatory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOperation {
    /// The consent.
    pub consent_id: ConsentId,
    /// The operation.
    pub operation: Operation,
    /// The name of the signatory.
    pub signatory: String,
    /// The Ed25519 signature over [`SigningText::text`].
    pub signature: Vec<u8>,
    /// For a narrowing, what remains.
    pub narrowed: Option<NarrowRequest>,
}

/// The public key of a signatory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Reads a key from what a file or a command line holds.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let what = "not an Ed25519 public key: give PEM, or 32 bytes in hexadecimal or base64";
        let der = decoded(bytes, "PUBLIC KEY").ok_or_else(|| key_error("", what))?;
        let raw = der.strip_prefix(&SPKI_PREFIX).unwrap_or(&der);
        raw.try_into().map(Self).map_err(|_| key_error("", what))
    }

    /// Reads a key from a file.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_key_file(path)?).map_err(|error| at(error, path))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| LedgerError::Corrupt("a public key has the wrong length".to_owned()))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The name of the key: the first 16 hexadecimal digits of its SHA-256.
    #[must_use]
    pub fn id(&self) -> String {
        text::sha256(&self.0)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The key as SubjectPublicKeyInfo in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[&SPKI_PREFIX[..], &self.0].concat())
    }

    /// Whether `signature` is one of this key over `text`.
    #[must_use]
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(text, signature)
            .is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

/// The private key of a signatory, in the hands of the signatory. Wiped from memory when dropped; never printed.
pub struct SigningKey {
    seed: Zeroizing<[u8; KEY_BYTES]>,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut *seed)
            .map_err(|_| key_error("", "the system gives no random numbers"))?;
        Self::from_seed(seed)
    }

    /// The key of a seed; for tests and demonstrations that have to be repeatable.
    pub fn from_seed_bytes(seed: [u8; KEY_BYTES]) -> Result<Self> {
        Self::from_seed(Zeroizing::new(seed))
    }

    fn from_seed(seed: Zeroizing<[u8; KEY_BYTES]>) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed)
            .map_err(|_| key_error("", "not an Ed25519 seed"))?;
        Ok(Self { seed, pair })
    }

    /// Reads a key from what a file holds.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let what = "not an Ed25519 private key: give PKCS#8, or a seed of 32 bytes in hexadecimal or base64";
        let der = Zeroizing::new(decoded(bytes, "PRIVATE KEY").ok_or_else(|| key_error("", what))?);
        // A key in PKCS#8 version 2 has the same beginning but for lengths and version, and the public key after it.
        let seed = if der.len() == KEY_BYTES {
            der.get(..)
        } else if let Some(seed) = der.strip_prefix(&PKCS8_PREFIX) {
            Some(seed)
        } else {
            Ed25519KeyPair::from_pkcs8(&der)
                .is_ok()
                .then(|| der.get(16..16 + KEY_BYTES))
                .flatten()
        };
        let seed: [u8; KEY_BYTES] = seed
            .and_then(|seed| seed.try_into().ok())
            .ok_or_else(|| key_error("", what))?;
        Self::from_seed(Zeroizing::new(seed))
    }

    /// Reads a key from a file that lies outside the hub's directory.
    pub fn read(path: &Path, hub_dir: &Path) -> Result<Self> {
        let cannot = |_| at(key_error("", "the file cannot be read"), path);
        let real = path.canonicalize().map_err(cannot)?;
        if hub_dir
            .canonicalize()
            .is_ok_and(|hub| real.starts_with(hub))
        {
            return Err(LedgerError::KeyInsideHub);
        }
        let bytes = Zeroizing::new(read_key_file(&real)?);
        Self::parse(&bytes).map_err(|error| at(error, path))
    }

    /// Writes the key to a new file that only its owner can read, as PKCS#8 in PEM.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        let der = Zeroizing::new([&PKCS8_PREFIX[..], &*self.seed].concat());
        let pem = Zeroizing::new(pem("PRIVATE KEY", &der));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(path)
            .and_then(|mut file| {
                file.write_all(pem.as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .map_err(|_| {
                at(
                    key_error("", "the file cannot be written, or exists already"),
                    path,
                )
            })
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// The signature over a text.
    #[must_use]
    pub fn sign(&self, text: &[u8]) -> Vec<u8> {
        self.pair.sign(text).as_ref().to_vec()
    }
}

fn key_error(place: &str, reason: &'static str) -> LedgerError {
    LedgerError::Key {
        place: place.to_owned(),
        reason,
    }
}

fn at(error: LedgerError, path: &Path) -> LedgerError {
    match error {
        LedgerError::Key { reason, .. } => key_error(&format!(" in `{}`", path.display()), reason),
        other => other,
    }
}

fn read_key_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_KEY_FILE + 1).read_to_end(&mut bytes))
        .map_err(|_| at(key_error("", "the file cannot be read"), path))?;
    if bytes.len() as u64 > MAX_KEY_FILE {
        return Err(at(key_error("", "the file is too large for a key"), path));
    }
    Ok(bytes)
}

/// The bytes behind PEM, hexadecimal, base64 or nothing of the kind.
fn decoded(bytes: &[u8], label: &str) -> Option<Vec<u8>> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let text = text.trim();
        let (begin, end) = (
            format!("-----BEGIN {label}-----"),
            format!("-----END {label}-----"),
        );
        let (inner, is_pem) = match text
            .strip_prefix(&begin)
            .and_then(|rest| rest.strip_suffix(&end))
        {
            Some(inner) => (inner, true),
            None => (text, false),
        };
        let dense = Zeroizing::new(inner.split_whitespace().collect::<String>());
        if !is_pem
            && dense.len() == 2 * KEY_BYTES
            && let Ok(raw) = hex::decode(&*dense)
        {
            return Some(raw);
        }
        if let Ok(raw) = BASE64_STANDARD.decode(&*dense) {
            return Some(raw);
        }
    }
    // A raw file of printable bytes would be ambiguous, but no key consists of 32 of them.
    Some(bytes.to_vec())
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in BASE64_STANDARD.encode(der).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
