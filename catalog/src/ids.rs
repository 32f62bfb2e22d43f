//! Typed identifiers: cheap to clone, impossible to confuse, checked when made.
//!
//! Datasets, feeds and purposes are named by lower-case words (`[a-z][a-z0-9_]{0,62}`, purposes also with dots),
//! organisations and consents by what their issuer chose (`[A-Za-z0-9_-]{1,64}`).

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Coded, Kind};

/// An identifier that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {what}: use {form}")]
pub struct IdError {
    what: &'static str,
    form: &'static str,
    value: String,
}

impl Coded for IdError {
    fn code(&self) -> &'static str {
        "InvalidIdentifier"
    }

    fn kind(&self) -> Kind {
        Kind::Usage
    }
}

/// The longest part of a refused identifier that its error repeats, in characters.
const SHOWN: usize = 80;

const MAX_NAME: usize = 63;
const MAX_HANDLE: usize = 64;

fn is_name(text: &str, dots: bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || (dots && *b == b'.')
        })
        && (!dots
            || text
                .split('.')
                .all(|part| part.as_bytes().first().is_some_and(u8::is_ascii_lowercase)))
}

/// Whether `text` may name a dataset, a feed or a column: `[a-z][a-z0-9_]{0,62}`.
#[must_use]
pub fn is_plain_name(text: &str) -> bool {
    is_name(text, false)
}

fn is_dotted_name(text: &str) -> bool {
    is_name(text, true)
}

fn is_handle(text: &str) -> bool {
    (1..=MAX_HANDLE).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $form:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the form of `text` and makes the identifier.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, IdError> {
                let text = text.into();
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { what: $what, form: $form, value: text.chars().take(SHOWN).collect() })
                }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// The name of a dataset: a table under a contract.
    DatasetId, "dataset", "a lower-case letter, then at most 62 of a-z, 0-9, _", is_plain_name
);
id!(
    /// The name of a feed: a source that fills a dataset.
    FeedName, "feed", "a lower-case letter, then at most 62 of a-z, 0-9, _", is_plain_name
);
id!(
    /// The name of a topic: what organisations subscribe to.
    TopicName, "topic", "a lower-case letter, then at most 62 of a-z, 0-9, _", is_plain_name
);
id!(
    /// A code of the purpose tree, for example `credit.loan_review`.
    PurposeCode, "purpose", "lower-case words of a-z, 0-9, _ joined by dots, at most 63 characters", is_dotted_name
);
id!(
    /// An organisation that asks for data: a bank, a department, a service.
    OrgId, "organisation", "1 to 64 of A-Z, a-z, 0-9, _, -", is_handle
);
id!(
    /// The name of a consent in the ledger.
    ConsentId, "consent", "1 to 64 of A-Z, a-z, 0-9, _, -", is_handle
);

/// The dense number of an enterprise inside one hub: never reused, 0 is no enterprise.
///
/// Numbers come in blocks of [`EnterpriseNo::BLOCK`] per (county, industry section), so that enterprises of one
/// county lie together in tables and bitmaps. Numbers fit into `i32`, the type of the hidden column `_no`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnterpriseNo(pub u32);

impl EnterpriseNo {
    /// How many numbers a block holds.
    pub const BLOCK: u32 = 4096;
    /// The greatest number.
    pub const MAX: Self = Self(i32::MAX.unsigned_abs());

    /// Whether this is the number of an enterprise: neither 0 nor above [`EnterpriseNo::MAX`].
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0 && self.0 <= Self::MAX.0
    }

    /// The block this number belongs to.
    #[must_use]
    pub const fn block(self) -> u32 {
        self.0 / Self::BLOCK
    }
}

impl fmt::Display for EnterpriseNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_form() {
        for good in ["a", "annual_report", "x9", &"a".repeat(63)] {
            assert!(DatasetId::new(good).is_ok(), "{good}");
            assert!(PurposeCode::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "_a",
            "9a",
            "A",
            "a-b",
            "a.b",
            "年报",
            "a b",
            "a\0",
            &"a".repeat(64),
        ] {
            assert!(DatasetId::new(bad).is_err(), "{bad}");
        }
        assert!(PurposeCode::new("credit.loan_review").is_ok());
        for bad in [".", "a.", ".a", "a..b", "a.9", "a._b", "*"] {
            assert!(PurposeCode::new(bad).is_err(), "{bad}");
        }
        assert!(OrgId::new("Bank-01_x").is_ok());
        for bad in ["", "a b", "../x", "a/b", &"a".repeat(65)] {
            assert!(OrgId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_repeats_little_of_what_it_refused() {
        let error = DatasetId::new("X".repeat(10_000)).unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn identifiers_are_text_in_json() {
        let id: DatasetId = serde_json::from_str("\"tax_levy\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"tax_levy\"");
        assert!(serde_json::from_str::<DatasetId>("\"Tax\"").is_err());
    }

    #[test]
    fn numbers_know_their_block() {
        assert_eq!(EnterpriseNo(4095).block(), 0);
        assert_eq!(EnterpriseNo(4096).block(), 1);
        assert!(!EnterpriseNo(0).is_valid());
        assert!(EnterpriseNo::MAX.is_valid());
        assert!(!EnterpriseNo(u32::MAX).is_valid());
    }
}
