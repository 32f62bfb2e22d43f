//! Cursors: where a subscriber stands, in its own keeping.
//!
//! A cursor names a subscription, the page that is asked for and the version of the page before it, and is
//! authenticated by the hub: it cannot be made up, changed, or used for another subscription. To a subscriber it is
//! opaque. Format: base64url without padding over a version byte (2), the page (u64, big-endian), the [`PageTag`] of
//! the page before it (8 bytes, zero: there was none), the name of the subscription, and the HMAC-SHA256 of all before.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::error::TopicError;

const VERSION: u8 = 2;
const TAG: usize = 32;
/// The longest text that can be a cursor.
const MAX_TEXT: usize = 256;

/// Which version of a page somebody has: the first 8 bytes of the SHA-256 of its events. A page that is made anew after
/// something was taken away has the number of the page that it replaces, and another tag. Zero: no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PageTag([u8; PageTag::LENGTH]);

impl PageTag {
    /// Its length in bytes.
    const LENGTH: usize = 8;

    /// The tag of a page whose events are these bytes.
    #[must_use]
    pub fn of(events: &[u8]) -> Self {
        Self::of_hash(digest(&SHA256, events).as_ref())
    }

    /// The tag of a page whose events have this SHA-256.
    #[must_use]
    pub fn of_hash(hash: &[u8]) -> Self {
        Self(hash.first_chunk().copied().unwrap_or_default())
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl TryFrom<String> for PageTag {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; Self::LENGTH];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl From<PageTag> for String {
    fn from(tag: PageTag) -> Self {
        hex::encode(tag.0)
    }
}

/// What a cursor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The page that is asked for.
    pub page: u64,
    /// The version that the asker has of the page before it.
    pub after: PageTag,
}

/// Makes and reads cursors, and the seals on what the hub leaves with a broker.
pub struct CursorKey(hmac::Key);

impl CursorKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The cursor that asks for a page of a subscription, for who has this version of the page before it.
    #[must_use]
    pub fn cursor(&self, subscription: &str, page: u64, after: PageTag) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&page.to_be_bytes());
        bytes.extend_from_slice(after.as_bytes());
        bytes.extend_from_slice(subscription.as_bytes());
        let tag = hmac::sign(&self.0, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a cursor of this subscription asks for.
    ///
    /// # Errors
    /// [`TopicError::CursorInvalid`] or [`TopicError::CursorForeign`].
    pub fn read(&self, subscription: &str, cursor: &str) -> Result<Asked, TopicError> {
        if cursor.len() > MAX_TEXT {
            return Err(TopicError::CursorInvalid);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(cursor)
            .map_err(|_| TopicError::CursorInvalid)?;
        let split = bytes
            .len()
            .checked_sub(TAG)
            .ok_or(TopicError::CursorInvalid)?;
        let (said, tag) = bytes.split_at(split);
        let genuine = hmac::verify(&self.0, said, tag).is_ok();
        let (Some((&VERSION, rest)), true) = (said.split_first(), genuine) else {
            return Err(TopicError::CursorInvalid);
        };
        let (page, rest) = rest.split_first_chunk().ok_or(TopicError::CursorInvalid)?;
        let (after, name) = rest.split_first_chunk().ok_or(TopicError::CursorInvalid)?;
        if name != subscription.as_bytes() {
            return Err(TopicError::CursorForeign);
        }
        Ok(Asked {
            page: u64::from_be_bytes(*page),
            after: PageTag(*after),
        })
    }
}

/// What a seal is about begins with this, and nothing else that is authenticated does.
const SEAL: &[u8] = b"arrived";

fn sealed(subscription: &str, page: u64, tag: PageTag) -> Vec<u8> {
    [
        SEAL,
        &page.to_be_bytes(),
        tag.as_bytes(),
        subscription.as_bytes(),
    ]
    .concat()
}

impl CursorKey {
    /// The seal, hexadecimal, with which a version of a page is named where others could write.
    #[must_use]
    pub fn seal(&self, subscription: &str, page: u64, tag: PageTag) -> String {
        hex::encode(hmac::sign(&self.0, &sealed(subscription, page, tag)))
    }

    /// Whether that is the seal of this version of this page.
    #[must_use]
    pub fn is_seal(&self, seal: &str, subscription: &str, page: u64, tag: PageTag) -> bool {
        hex::decode(seal).is_ok_and(|seal| {
            hmac::verify(&self.0, &sealed(subscription, page, tag), &seal).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use qihui_catalog::Coded as _;

    use super::*;

    #[test]
    fn a_cursor_is_of_one_subscription_and_one_hub() {
        let key = CursorKey::new(&[7; 32]);
        let after = PageTag::of(b"a page");
        let cursor = key.cursor("s-1", 42, after);
        assert_eq!(key.read("s-1", &cursor).unwrap(), Asked { page: 42, after });
        assert_ne!(PageTag::of(b"another"), after);
        let code = |key: &CursorKey, subscription, cursor: &str| {
            key.read(subscription, cursor).unwrap_err().code()
        };
        assert_eq!(code(&key, "s-2", &cursor), "CursorForeign");
        assert_eq!(
            code(&CursorKey::new(&[8; 32]), "s-1", &cursor),
            "CursorInvalid"
        );
        for bad in ["", "x", "!!!!", &"A".repeat(10_000), &cursor[1..]] {
            assert_eq!(code(&key, "s-1", bad), "CursorInvalid");
        }
        let bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            assert_eq!(
                code(&key, "s-1", &URL_SAFE_NO_PAD.encode(forged)),
                "CursorInvalid"
            );
        }
    }

    #[test]
    fn a_seal_names_one_version_of_one_page() {
        let (key, tag) = (CursorKey::new(&[7; 32]), PageTag::of(b"a page"));
        let seal = key.seal("s-1", 3, tag);
        assert!(key.is_seal(&seal, "s-1", 3, tag));
        assert!(!key.is_seal(&seal, "s-2", 3, tag));
        assert!(!key.is_seal(&seal, "s-1", 4, tag));
        assert!(!key.is_seal(&seal, "s-1", 3, PageTag::of(b"another")));
        assert!(!CursorKey::new(&[8; 32]).is_seal(&seal, "s-1", 3, tag));
        assert!(!key.is_seal("", "s-1", 3, tag) && !key.is_seal("zz", "s-1", 3, tag));
    }
}
