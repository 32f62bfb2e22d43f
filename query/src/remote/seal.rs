//! Messages between a hub and its workers, sealed with a key that they share: HMAC-SHA-256 over what the message is,
//! its length and its bytes.

use std::fmt;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::refused;
use crate::error::QueryError;

/// Bytes of a seal.
const SEAL_BYTES: usize = 32;

/// What a sealed text is: one kind is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The description of one gate.
    Gate,
    /// A plan for a worker.
    Plan,
    /// How a plan ended.
    End,
}

impl Kind {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Gate => b"qihui gate 1\n",
            Self::Plan => b"qihui plan 1\n",
            Self::End => b"qihui end 1\n",
        }
    }
}

/// The key that a hub and its workers share.
#[derive(Clone)]
pub struct PlanKey(hmac::Key);

impl fmt::Debug for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlanKey")
    }
}

impl PlanKey {
    /// The key with these bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A new secret.
    ///
    /// # Errors
    /// [`QueryError::Internal`] when the system has no random bytes.
    pub fn draw() -> Result<[u8; 32], QueryError> {
        random()
    }

    /// `body` behind its seal.
    pub(crate) fn seal(&self, kind: Kind, body: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.0, &[kind.label(), body].concat());
        [tag.as_ref(), body].concat()
    }

    /// What was sealed.
    pub(crate) fn open<'b>(&self, kind: Kind, sealed: &'b [u8]) -> Result<&'b [u8], QueryError> {
        let broken = || refused("its seal is broken, or of another key");
        let (tag, body) = sealed.split_at_checked(SEAL_BYTES).ok_or_else(broken)?;
        let signed = [kind.label(), body].concat();
        hmac::verify(&self.0, &signed, tag).map_err(|_| broken())?;
        Ok(body)
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], QueryError> {
    let mut bytes = [0; N];
    let failed = |_| QueryError::Internal {
        what: "the random source",
    };
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_its_kind_its_key_and_every_byte() {
        let key = PlanKey::new(&[7; 32]);
        let sealed = key.seal(Kind::Gate, b"columns");
        assert_eq!(key.open(Kind::Gate, &sealed).unwrap(), b"columns");
        assert!(key.open(Kind::Plan, &sealed).is_err());
        assert!(PlanKey::new(&[8; 32]).open(Kind::Gate, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(Kind::Gate, &changed).is_err(), "byte {at}");
            assert!(key.open(Kind::Gate, &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
