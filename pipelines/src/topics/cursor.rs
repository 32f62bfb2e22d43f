//! Cursors: where a subscriber stands, in its own keeping.
//!
//! A cursor names a subscription and the page that is asked for, and is authenticated by the hub: it cannot be made up,
//! changed, or used for another subscription. To a subscriber it is opaque. Format: base64url without padding over
//! a version byte (1), the page (u64, big-endian), the name of the subscription, and the HMAC-SHA256 of all before.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::error::TopicError;

const VERSION: u8 = 1;
const TAG: usize = 32;
/// The longest text that can be a cursor.
const MAX_TEXT: usize = 256;

/// Makes and reads cursors.
pub struct CursorKey(hmac::Key);

impl CursorKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The cursor that asks for a page of a subscription.
    #[must_use]
    pub fn cursor(&self, subscription: &str, page: u64) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&page.to_be_bytes());
        bytes.extend_from_slice(subscription.as_bytes());
        let tag = hmac::sign(&self.0, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The page that a cursor of this subscription asks for.
    ///
    /// # Errors
    /// [`TopicError::CursorInvalid`] or [`TopicError::CursorForeign`].
    pub fn page(&self, subscription: &str, cursor: &str) -> Result<u64, TopicError> {
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
        let (page, name) = rest.split_at_checked(8).ok_or(TopicError::CursorInvalid)?;
        if name != subscription.as_bytes() {
            return Err(TopicError::CursorForeign);
        }
        let page: [u8; 8] = page.try_into().map_err(|_| TopicError::CursorInvalid)?;
        Ok(u64::from_be_bytes(page))
    }
}

#[cfg(test)]
mod tests {
    use qihui_catalog::Coded as _;

    use super::*;

    #[test]
    fn a_cursor_is_of_one_subscription_and_one_hub() {
        let key = CursorKey::new(&[7; 32]);
        let cursor = key.cursor("s-1", 42);
        assert_eq!(key.page("s-1", &cursor).unwrap(), 42);
        let code = |key: &CursorKey, subscription, cursor: &str| {
            key.page(subscription, cursor).unwrap_err().code()
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
}
