//! The log's two secrets, and the public key that verifies it.
//!
//! The signing key (Ed25519) signs heads; the body key (AES-256-GCM, one derived key per segment) encrypts bodies
//! and subject lists. Losing the body key loses the bodies, never the proof of what was recorded when.
//!
//! Key files are one line of ASCII each, readable by their owner only:
//! `audit-signing.key` = `qihui-audit-signing-key-v1:` + base64 of the 32-byte seed (RFC 8032),
//! `audit-body.key` = `qihui-audit-body-key-v1:` + base64 of the 32-byte key.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{LogError, Result};
use crate::format::{Head, KEY_SALT_BYTES};
use crate::note;

/// Name of the file with the signing key.
pub const SIGNING_KEY_FILE: &str = "audit-signing.key";
/// Name of the file with the body key.
pub const BODY_KEY_FILE: &str = "audit-body.key";
const SIGNING_PREFIX: &str = "qihui-audit-signing-key-v1:";
const BODY_PREFIX: &str = "qihui-audit-body-key-v1:";
/// Signature type of the C2SP signed-note format for plain Ed25519.
const NOTE_ED25519: u8 = 1;

/// The secrets of a log. Clones share them.
#[derive(Clone)]
pub struct LogKeys(Arc<Secrets>);

struct Secrets {
    signing: Ed25519KeyPair,
    body: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for LogKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogKeys(..)")
    }
}

impl LogKeys {
    /// New keys, written to [`SIGNING_KEY_FILE`] and [`BODY_KEY_FILE`] in an existing directory, mode 0600, fsynced.
    /// Existing files are never overwritten.
    ///
    /// # Errors
    /// [`LogError::Key`] when a file exists or there is no randomness; [`LogError::Io`].
    pub fn generate(dir: &Path) -> Result<LogKeys> {
        let (mut signing, mut body) = (Zeroizing::new([0u8; 32]), Zeroizing::new([0u8; 32]));
        random(&mut signing[..])?;
        random(&mut body[..])?;
        let keys = LogKeys::from_seeds(&signing, &body)?;
        for (name, prefix, secret) in [
            (SIGNING_KEY_FILE, SIGNING_PREFIX, &signing),
            (BODY_KEY_FILE, BODY_PREFIX, &body),
        ] {
            write_secret(&dir.join(name), prefix, secret)?;
        }
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| LogError::io("fsync", dir, e))?;
        Ok(keys)
    }

    /// Reads what [`LogKeys::generate`] wrote.
    ///
    /// # Errors
    /// [`LogError::Key`] when a file is missing, malformed or readable by others than its owner.
    pub fn load(dir: &Path) -> Result<LogKeys> {
        let signing = read_secret(&dir.join(SIGNING_KEY_FILE), SIGNING_PREFIX)?;
        let body = read_secret(&dir.join(BODY_KEY_FILE), BODY_PREFIX)?;
        LogKeys::from_seeds(&signing, &body)
    }

    /// Keys from a 32-byte Ed25519 seed and a 32-byte body key, e.g. from a key store.
    ///
    /// # Errors
    /// [`LogError::Key`] when ring refuses the seed.
    pub fn from_seeds(signing: &[u8; 32], body: &[u8; 32]) -> Result<LogKeys> {
        let signing = Ed25519KeyPair::from_seed_unchecked(signing)
            .map_err(|_| LogError::key("the signing key is not an Ed25519 seed"))?;
        Ok(LogKeys(Arc::new(Secrets {
            signing,
            body: Zeroizing::new(*body),
        })))
    }

    /// The verifier key of the log of this origin: `<origin>+<key id, 8 hex>+<base64(0x01 ‖ public key)>`, the
    /// signed-note vkey that any tlog tool takes.
    pub fn vkey(&self, origin: &str) -> String {
        self.public(origin).vkey()
    }

    pub(crate) fn public(&self, origin: &str) -> PublicKey {
        let mut key = [0u8; 32];
        // Ed25519 public keys have 32 bytes; a mismatch would leave zeros, which verify nothing.
        if let Ok(bytes) = <[u8; 32]>::try_from(self.0.signing.public_key().as_ref()) {
            key = bytes;
        }
        PublicKey::new(origin, key)
    }

    /// Signs the checkpoint of this size and root.
    pub(crate) fn sign_head(&self, public: &PublicKey, size: u64, root: [u8; 32]) -> Head {
        let text = note::checkpoint_text(&public.origin, size, &root);
        let mut signature = [0u8; 64];
        // Likewise 64 bytes by definition.
        if let Ok(bytes) = <[u8; 64]>::try_from(self.0.signing.sign(text.as_bytes()).as_ref()) {
            signature = bytes;
        }
        Head {
            size,
            root,
            key_id: public.id,
            signature,
        }
    }

    /// The key of one segment: HKDF-SHA256(salt, body key, info).
    pub(crate) fn segment_key(&self, salt: &[u8; KEY_SALT_BYTES]) -> Result<LessSafeKey> {
        self.derive(salt, b"qihui-audit segment v1")
    }

    /// The key of the subject index. Each block is sealed under a random nonce.
    pub(crate) fn index_key(&self) -> Result<LessSafeKey> {
        self.derive(&[], b"qihui-audit subject index v1")
    }

    fn derive(&self, salt: &[u8], info: &[u8]) -> Result<LessSafeKey> {
        let prk = Salt::new(HKDF_SHA256, salt).extract(&self.0.body[..]);
        let info = [info];
        let okm = prk
            .expand(&info, &AES_256_GCM)
            .map_err(|_| LogError::key("cannot derive a key"))?;
        Ok(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

/// Fills the buffer from the operating system's generator.
pub(crate) fn random(buffer: &mut [u8]) -> Result<()> {
    #[cfg(test)]
    if fixed::fill(buffer) {
        return Ok(());
    }
    SystemRandom::new()
        .fill(buffer)
        .map_err(|_| LogError::key("the operating system gives no randomness"))
}

/// Reproducible "randomness" for the golden files, per thread.
#[cfg(test)]
pub(crate) mod fixed {
    use std::cell::Cell;

    thread_local!(static NEXT: Cell<Option<u8>> = const { Cell::new(None) });

    /// From now on, this thread's random bytes count up.
    pub(crate) fn begin() {
        NEXT.set(Some(0));
    }

    pub(super) fn fill(buffer: &mut [u8]) -> bool {
        let Some(mut next) = NEXT.get() else {
            return false;
        };
        buffer.iter_mut().for_each(|byte| {
            *byte = next;
            next = next.wrapping_add(1);
        });
        NEXT.set(Some(next));
        true
    }
}

fn write_secret(path: &Path, prefix: &str, secret: &[u8; 32]) -> Result<()> {
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 45));
    text.push_str(prefix);
    STANDARD.encode_string(secret, &mut text);
    text.push('\n');
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| {
            if e.kind() == std::io::ErrorKind::AlreadyExists {
                return LogError::key(format!(
                    "`{}` exists and is not overwritten",
                    path.display()
                ));
            }
            LogError::io("create", path, e)
        })?;
    // The umask may have cleared bits of the mode; it cannot have set any.
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(|e| LogError::io("protect", path, e))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| LogError::io("write", path, e))
}

fn read_secret(path: &Path, prefix: &str) -> Result<Zeroizing<[u8; 32]>> {
    let file = File::open(path).map_err(|e| {
        LogError::key(format!(
            "cannot open `{}`: {e}; restore it from its backup",
            path.display()
        ))
    })?;
    let mode = file
        .metadata()
        .map_err(|e| LogError::io("stat", path, e))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(LogError::key(format!(
            "`{}` is readable by others; chmod it to 0600",
            path.display()
        )));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(1024)
        .read_to_string(&mut text)
        .map_err(|e| LogError::io("read", path, e))?;
    let malformed = || {
        LogError::key(format!(
            "`{}` is not a key file of this version",
            path.display()
        ))
    };
    let encoded = text
        .strip_prefix(prefix)
        .ok_or_else(malformed)?
        .trim_end_matches('\n');
    let mut bytes = STANDARD.decode(encoded).map_err(|_| malformed())?;
    let secret = <[u8; 32]>::try_from(bytes.as_slice())
        .map(Zeroizing::new)
        .map_err(|_| malformed());
    bytes.zeroize();
    secret
}

/// The public half: verifies heads and checkpoints of one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub(crate) origin: String,
    pub(crate) id: u32,
    key: [u8; 32],
}

impl PublicKey {
    fn new(origin: &str, key: [u8; 32]) -> PublicKey {
        let mut encoded = vec![NOTE_ED25519];
        encoded.extend_from_slice(&key);
        PublicKey {
            origin: origin.to_owned(),
            id: signed_note::key_id(origin, &encoded),
            key,
        }
    }

    pub(crate) fn parse(vkey: &str) -> Result<PublicKey> {
        let malformed =
            || LogError::key("malformed verifier key; expected <origin>+<id>+<base64 key>");
        let mut parts = vkey.trim_end_matches('\n').splitn(3, '+');
        let (origin, id, encoded) = match (parts.next(), parts.next(), parts.next()) {
            (Some(origin), Some(id), Some(encoded)) => (origin, id, encoded),
            _ => return Err(malformed()),
        };
        check_origin(origin)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| malformed())?;
        let key = match bytes.split_first() {
            Some((&NOTE_ED25519, key)) => <[u8; 32]>::try_from(key).map_err(|_| malformed())?,
            _ => return Err(malformed()),
        };
        let public = PublicKey::new(origin, key);
        if id != format!("{:08x}", public.id) {
            return Err(LogError::key(
                "the verifier key's id does not match its key; it was altered or mistyped",
            ));
        }
        Ok(public)
    }

    pub(crate) fn vkey(&self) -> String {
        let mut encoded = vec![NOTE_ED25519];
        encoded.extend_from_slice(&self.key);
        format!(
            "{}+{:08x}+{}",
            self.origin,
            self.id,
            STANDARD.encode(encoded)
        )
    }

    pub(crate) fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key)
            .verify(text, signature)
            .is_ok()
    }

    /// Whether this key signed the head.
    pub(crate) fn verify_head(&self, head: &Head) -> bool {
        head.key_id == self.id
            && self.verify(
                note::checkpoint_text(&self.origin, head.size, &head.root).as_bytes(),
                &head.signature,
            )
    }
}

/// An origin is a signed-note key name: not empty, no white space, no plus; here also printable ASCII, at most 200.
pub(crate) fn check_origin(origin: &str) -> Result<()> {
    if signed_note::is_key_name_valid(origin)
        && origin.len() <= 200
        && origin.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(());
    }
    Err(LogError::key(
        "the log's origin must be 1 to 200 printable ASCII characters without space and plus",
    ))
}

/// With which knowledge a log is verified.
#[derive(Debug, Clone)]
pub enum VerifyKeys {
    /// Everything: bodies and subject lists are decrypted and checked too.
    Full(LogKeys),
    /// The signed-note vkey only: frames, leaves, chain, tree, heads, tiles and checkpoint are checked.
    Public(String),
}

impl From<&LogKeys> for VerifyKeys {
    fn from(keys: &LogKeys) -> VerifyKeys {
        VerifyKeys::Full(keys.clone())
    }
}

impl From<&str> for VerifyKeys {
    fn from(vkey: &str) -> VerifyKeys {
        VerifyKeys::Public(vkey.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files_survive_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let keys = LogKeys::generate(dir.path()).unwrap();
        assert_eq!(
            LogKeys::load(dir.path()).unwrap().vkey("hub"),
            keys.vkey("hub")
        );
        assert_eq!(LogKeys::generate(dir.path()).unwrap_err().code(), "LogKey");
        let path = dir.path().join(BODY_KEY_FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(
            LogKeys::load(dir.path())
                .unwrap_err()
                .to_string()
                .contains("readable by others")
        );
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "qihui-audit-body-key-v1:AAAA\n").unwrap();
        assert_eq!(LogKeys::load(dir.path()).unwrap_err().code(), "LogKey");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(LogKeys::load(dir.path()).unwrap_err().code(), "LogKey");
    }

    /// The vkey is one that the reference implementation takes, and it verifies what we sign.
    #[test]
    fn the_vkey_is_a_signed_note_vkey() {
        let keys = LogKeys::from_seeds(&[1; 32], &[2; 32]).unwrap();
        let vkey = keys.vkey("hub.example/log");
        let public = PublicKey::parse(&vkey).unwrap();
        assert_eq!(public.vkey(), vkey);
        let head = keys.sign_head(&public, 7, [9; 32]);
        let text = note::signed(&public.origin, &head).unwrap();
        let verifier = signed_note::StandardVerifier::new(&vkey).unwrap();
        let known = signed_note::VerifierList::new(vec![Box::new(verifier)]);
        let parsed = signed_note::Note::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(parsed.verify(&known).unwrap().0.len(), 1);
        for bad in ["", "a+b", "hub+00000000+AQ==", &vkey.replace("hub", "hob")] {
            assert_eq!(PublicKey::parse(bad).unwrap_err().code(), "LogKey", "{bad}");
        }
    }
}
