//! Levels of sensitivity and kinds of access.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How sensitive a column or the existence of a row is (public-data grading of Zhejiang).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Public.
    L1,
    /// Needs an agreement with the data authority and a grant of the enterprise.
    L2,
    /// As L2, and masked unless the agreement says clear with a reason.
    L3,
    /// Never opened: dropped at ingestion.
    L4,
}

/// What a requester wants to do with the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Look at named enterprises on a screen.
    View,
    /// Ask SQL.
    Query,
    /// Keep an export or a derived product.
    Store,
    /// Receive changes through a topic.
    Stream,
}

/// Text that is not one of a closed list of words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: use one of {allowed}")]
pub struct WordError {
    what: &'static str,
    allowed: &'static str,
}

impl crate::error::Coded for WordError {
    fn code(&self) -> &'static str {
        "UnknownWord"
    }

    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::Usage
    }
}

macro_rules! words {
    ($type:ident, $what:literal, $allowed:literal, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that stands for this value in files and answers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = WordError;

            fn from_str(text: &str) -> Result<Self, WordError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(WordError { what: $what, allowed: $allowed }),
                }
            }
        }
    };
}

words!(
    Level,
    "a level",
    "L1, L2, L3, L4",
    L1 = "L1",
    L2 = "L2",
    L3 = "L3",
    L4 = "L4"
);
words!(
    Action,
    "an action",
    "VIEW, QUERY, STORE, STREAM",
    View = "VIEW",
    Query = "QUERY",
    Store = "STORE",
    Stream = "STREAM"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_json_agree() {
        for action in Action::ALL {
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
            assert_eq!(action.as_str().parse(), Ok(*action));
        }
        for level in Level::ALL {
            assert_eq!(serde_json::to_value(level).unwrap(), level.as_str());
            assert_eq!(level.as_str().parse(), Ok(*level));
        }
        assert!("view".parse::<Action>().is_err());
        assert!(Level::L1 < Level::L4);
    }
}
