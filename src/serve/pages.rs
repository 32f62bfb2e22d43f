//! Page tokens: where the next page of a list begins, for one principal and one list alone.
//!
//! Format: base64url without padding of the mark (i64, big-endian) and the first 16 bytes of HMAC-SHA-256 over
//! principal, list and mark, under a key that lies with the hub's keys. A token says nothing that its bearer does not
//! know, and is good for no other list and no other principal.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::ServeError;
use crate::failure::{Failure, ProgramError};
use crate::files;

const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// Marks and knows page tokens.
pub(crate) struct PageTokens(hmac::Key);

impl PageTokens {
    /// With the key in this file, which is made if there is none.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        if !path.exists() {
            let mut key = [0; KEY_BYTES];
            SystemRandom::new().fill(&mut key).map_err(|_| {
                ProgramError::CannotStart("the system gives no random numbers".to_owned())
            })?;
            files::write_new(path, hex::encode(key).as_bytes(), 0o600)?;
        }
        files::check_private(path)?;
        let text = files::read_document("key of page tokens", path)?;
        let key = hex::decode(text.trim()).ok();
        let key = key.filter(|key| key.len() == KEY_BYTES);
        let key = key.ok_or_else(|| ProgramError::FileUnreadable {
            what: "key of page tokens",
            path: path.to_owned(),
            reason: "it is not 32 bytes in hexadecimal".to_owned(),
        })?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The token of the page after `mark` of a list that a principal looks at.
    pub(crate) fn give(&self, principal: &str, list: &str, mark: i64) -> String {
        let mark = mark.to_be_bytes();
        let tag = hmac::sign(&self.0, &text(principal, list, mark));
        let mut token = mark.to_vec();
        token.extend_from_slice(tag.as_ref().get(..TAG_BYTES).unwrap_or_default());
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// The mark in a token that was given to this principal for this list.
    pub(crate) fn take(&self, principal: &str, list: &str, token: &str) -> Result<i64, ServeError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
        let bytes = bytes.filter(|bytes| bytes.len() == 8 + TAG_BYTES);
        let bytes = bytes.ok_or(ServeError::BadPageToken)?;
        let (mark, tag) = bytes.split_at(8);
        let mark: [u8; 8] = mark.try_into().map_err(|_| ServeError::BadPageToken)?;
        let expected = hmac::sign(&self.0, &text(principal, list, mark));
        let expected = expected.as_ref().get(..TAG_BYTES).unwrap_or_default();
        // In constant time: every byte counts before anything is decided.
        let differs = expected
            .iter()
            .zip(tag)
            .fold(0, |all, (a, b)| all | (a ^ b));
        if differs != 0 {
            return Err(ServeError::BadPageToken);
        }
        Ok(i64::from_be_bytes(mark))
    }
}

/// What is marked. Lengths before the words keep one from running into the next.
fn text(principal: &str, list: &str, mark: [u8; 8]) -> Vec<u8> {
    let mut text = b"qihui page v1".to_vec();
    for word in [principal, list] {
        text.extend_from_slice(&(word.len() as u64).to_be_bytes());
        text.extend_from_slice(word.as_bytes());
    }
    text.extend_from_slice(&mark);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_list_and_one_principal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let tokens = PageTokens::load(&path).unwrap();
        let token = tokens.give("token:a", "consents", 77);
        let again = PageTokens::load(&path).unwrap();
        assert_eq!(again.take("token:a", "consents", &token), Ok(77));
        for (who, list) in [("token:b", "consents"), ("token:a", "accesses")] {
            assert_eq!(again.take(who, list, &token), Err(ServeError::BadPageToken));
        }
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(again.take("token:a", "consents", &forged).is_err(), "{at}");
        }
    }
}
