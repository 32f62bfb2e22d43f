//! Who is asking, and what they may do.
//!
//! Promises:
//! - **Only the token says.** Organisation, purposes, enterprises and feeds come from a verified token and from nothing
//!   else a caller sends ([`Principal`]).
//! - **One table.** What a role may do, and how far it reaches, is [`operation::reach`]; its golden file is the whole
//!   matrix. No interface has rules of its own.
//! - **Pinned.** Issuer, audience and, per key, the algorithm are the hub's choice, never the token's ([`token`]).
//!
//! In the embedded profile whoever holds the data directory may do everything, and may issue tokens to others
//! ([`issuer`]); in the service profile every command needs a token of the configured issuer ([`keys`]).

pub mod command;
mod error;
pub mod issuer;
pub mod keys;
pub mod operation;
mod provider;
pub mod token;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use qihui_catalog::{FeedName, OrgId, PurposeCode, Uscc};
use serde::{Deserialize, Serialize};

pub use error::IdentityError;
pub use operation::{Operation, Reach};

/// What somebody is to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Acts for enterprises: looks at what is asked of them, grants, takes back, and sees who read what.
    Enterprise,
    /// Asks for an organisation.
    Analyst,
    /// Receives topics for an organisation.
    Subscriber,
    /// Delivers the records of a department.
    FeedOwner,
    /// The data authority: organisations, agreements, signatories.
    Steward,
    /// Checks the log.
    Auditor,
    /// Runs the hub.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] = [
        Self::Enterprise,
        Self::Analyst,
        Self::Subscriber,
        Self::FeedOwner,
        Self::Steward,
        Self::Auditor,
        Self::Operator,
    ];

    /// The word for it, in tokens and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enterprise => "enterprise",
            Self::Analyst => "analyst",
            Self::Subscriber => "subscriber",
            Self::FeedOwner => "feed_owner",
            Self::Steward => "steward",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| {
                let words: Vec<&str> = Self::ALL.iter().map(|role| role.as_str()).collect();
                format!("`{text}` is not a role: use one of {}", words.join(", "))
            })
    }
}

/// Somebody whose token was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Who, as the log names it: `token:<subject>`.
    pub name: String,
    /// What they are.
    pub roles: BTreeSet<Role>,
    /// The organisation they act for.
    pub org: Option<OrgId>,
    /// What they may ask for.
    pub purposes: BTreeSet<PurposeCode>,
    /// The enterprises they act for.
    pub usccs: BTreeSet<Uscc>,
    /// The department whose datasets they deliver.
    pub department: Option<String>,
    /// The feeds they deliver besides.
    pub feeds: BTreeSet<FeedName>,
}

impl Principal {
    /// How far the widest of their roles reaches with an operation; none: they may not do it at all.
    #[must_use]
    pub fn reach(&self, operation: Operation) -> Vec<Reach> {
        let mut reaches: Vec<Reach> = self
            .roles
            .iter()
            .filter_map(|role| operation::reach(*role, operation))
            .collect();
        reaches.sort_unstable();
        reaches.dedup();
        reaches
    }

    /// Refuses an operation that none of their roles may do.
    ///
    /// # Errors
    /// [`IdentityError::NotAllowed`].
    pub fn may(&self, operation: Operation) -> Result<(), IdentityError> {
        if self.reach(operation).is_empty() {
            return Err(IdentityError::NotAllowed { operation });
        }
        Ok(())
    }

    /// Refuses an operation on something that is out of their reach. `about` says what it belongs to.
    ///
    /// # Errors
    /// [`IdentityError::NotAllowed`] for the operation, [`IdentityError::OutOfReach`] for the thing.
    pub fn may_on(&self, operation: Operation, about: &About<'_>) -> Result<(), IdentityError> {
        self.may(operation)?;
        let within = |reach: &Reach| match reach {
            Reach::All => true,
            Reach::Organisation => self.org.as_ref().is_some_and(|org| about.org == Some(org)),
            Reach::Enterprises => about.uscc.is_some_and(|uscc| self.usccs.contains(&uscc)),
            Reach::Feeds => {
                let named = about.feed.is_some_and(|feed| self.feeds.contains(feed));
                let owned = self.department.is_some() && self.department.as_deref() == about.owner;
                named || owned
            }
            Reach::Own => about.principal == Some(self.name.as_str()),
        };
        if self.reach(operation).iter().any(within) {
            return Ok(());
        }
        Err(IdentityError::OutOfReach { operation })
    }
}

/// What something belongs to, where it belongs to anybody.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    /// The organisation that asks or is agreed with.
    pub org: Option<&'a OrgId>,
    /// The enterprise it is about.
    pub uscc: Option<Uscc>,
    /// The feed.
    pub feed: Option<&'a FeedName>,
    /// The department that owns the feed's dataset.
    pub owner: Option<&'a str>,
    /// Who did it.
    pub principal: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn analyst() -> Principal {
        Principal {
            name: "token:an".to_owned(),
            roles: [Role::Analyst].into(),
            org: Some("bank".parse().unwrap()),
            purposes: BTreeSet::new(),
            usccs: BTreeSet::new(),
            department: None,
            feeds: BTreeSet::new(),
        }
    }

    #[test]
    fn a_role_reaches_what_its_token_names() {
        let (own, other) = ("bank".parse().unwrap(), "other".parse().unwrap());
        let about = |org| About {
            org: Some(org),
            ..About::default()
        };
        let analyst = analyst();
        assert!(analyst.may_on(Operation::Query, &about(&own)).is_ok());
        let refused = analyst.may_on(Operation::Query, &about(&other));
        assert!(matches!(refused, Err(IdentityError::OutOfReach { .. })));
        let refused = analyst.may(Operation::AgreementAdd);
        assert!(matches!(refused, Err(IdentityError::NotAllowed { .. })));
        let nobody = Principal {
            org: None,
            ..analyst
        };
        assert!(nobody.may_on(Operation::Query, &About::default()).is_err());
    }

    #[test]
    fn a_department_reaches_the_feeds_of_its_datasets() {
        let owner = Principal {
            roles: [Role::FeedOwner].into(),
            department: Some("tax".to_owned()),
            ..analyst()
        };
        let of = |owner| About {
            owner: Some(owner),
            ..About::default()
        };
        assert!(owner.may_on(Operation::FeedRun, &of("tax")).is_ok());
        assert!(owner.may_on(Operation::FeedRun, &of("customs")).is_err());
    }
}
