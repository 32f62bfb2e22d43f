//! Tokens: who somebody is, in the words of an issuer that the hub trusts.
//!
//! A token is a signed JWT. Accepted is one whose issuer is the hub's ([`Trusted`]), whose key is in the issuer's set,
//! signed with the algorithm pinned to *that key* (EdDSA, ES256 or RS256; `none` and HMAC never), for the hub's
//! audience, begun and not over (with a little leeway), and not made to last longer than the hub allows. `crit` headers
//! are refused, keys and key addresses in the header ignored.
//!
//! Claims: `iss`, `aud`, `sub`, `iat`, `exp`, optionally `nbf` and `jti`; `roles` (at least one known), and what they
//! reach: `org`, `purposes`, `usccs`, `department`, `feeds`. A claim that cannot be read is an error, not an absence.

use std::sync::Arc;

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use qihui_audit::Clock;
use serde::{Deserialize, Serialize};

use super::keys::{Key, Keys};
use super::{IdentityError, Principal, Role, provider};

/// The longest token.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;
/// The most purposes, enterprises or feeds in a token.
const MAX_NAMES: usize = 256;
/// The longest subject.
const MAX_SUBJECT: usize = 128;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: Audience,
    /// Subject.
    pub sub: String,
    /// When it was made, seconds since the epoch.
    pub iat: i64,
    /// From when it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Until when it holds.
    pub exp: i64,
    /// Its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Roles; words that are not the hub's are of others.
    pub roles: Vec<String>,
    /// The organisation acted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Purposes that may be asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub purposes: Vec<String>,
    /// Unified social credit codes of the enterprises acted for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usccs: Vec<String>,
    /// The department whose datasets are delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub department: Option<String>,
    /// Feeds delivered besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feeds: Vec<String>,
}

/// One audience or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

fn invalid(reason: &'static str) -> IdentityError {
    IdentityError::Invalid { reason }
}

/// Reads each of the words of a claim.
fn each<T: std::str::FromStr, C: FromIterator<T>>(
    words: &[String],
    reason: &'static str,
) -> Result<C, IdentityError> {
    if words.len() > MAX_NAMES {
        return Err(invalid("a claim names too many"));
    }
    let read = words.iter().map(|word| word.parse());
    read.collect::<Result<C, _>>().map_err(|_| invalid(reason))
}

impl Claims {
    /// The principal that the claims name.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`]: a claim cannot be read, or no role is the hub's.
    pub fn principal(&self) -> Result<Principal, IdentityError> {
        let subject = self.sub.as_str();
        let fits = !subject.is_empty()
            && subject.len() <= MAX_SUBJECT
            && !subject.chars().any(|c| c.is_control() || c.is_whitespace());
        if !fits {
            return Err(invalid("its subject is empty, too long or not one word"));
        }
        let ours = self
            .roles
            .iter()
            .filter_map(|role| role.parse::<Role>().ok());
        let roles: std::collections::BTreeSet<Role> = ours.collect();
        if roles.is_empty() {
            return Err(invalid("it has no role of this hub"));
        }
        let org = match &self.org {
            Some(org) => Some(
                org.parse()
                    .map_err(|_| invalid("its `org` is not an identifier"))?,
            ),
            None => None,
        };
        let purposes = each(&self.purposes, "its `purposes` are not codes")?;
        let usccs = each(
            &self.usccs,
            "its `usccs` are not unified social credit codes",
        )?;
        let feeds = each(&self.feeds, "its `feeds` are not names of feeds")?;
        Ok(Principal {
            name: format!("token:{subject}"),
            roles,
            org,
            purposes,
            usccs,
            department: self.department.clone(),
            feeds,
        })
    }
}

/// An issuer and its keys.
pub struct Trusted {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// Its keys.
    pub keys: Keys,
}

/// How long tokens may last, and how exactly clocks agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The longest time from `iat` to `exp`, seconds.
    pub longest_seconds: i64,
    /// How far clocks may differ, seconds.
    pub leeway_seconds: i64,
}

/// Tells who somebody is from a token.
pub struct Verifier {
    trusted: Vec<Trusted>,
    audience: String,
    terms: Terms,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    /// A verifier for tokens of these issuers for this audience.
    #[must_use]
    pub fn new(trusted: Vec<Trusted>, audience: &str, terms: Terms, clock: Arc<dyn Clock>) -> Self {
        provider::install();
        Self {
            trusted,
            audience: audience.to_owned(),
            terms,
            clock,
        }
    }

    /// Who the bearer of a token is.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`], [`IdentityError::Expired`], [`IdentityError::KeysUnavailable`].
    pub async fn principal(&self, token: &str) -> Result<Principal, IdentityError> {
        self.claims(token).await?.principal()
    }

    /// What a token says, once everything about it was checked.
    ///
    /// # Errors
    /// As [`Verifier::principal`].
    pub async fn claims(&self, token: &str) -> Result<Claims, IdentityError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid("it is too long"));
        }
        let header = decode_header(token).map_err(|_| invalid("it is not a signed JWT"))?;
        check_header(&header)?;
        let trusted = self.issuer_of(token)?;
        let key = trusted
            .keys
            .find(header.kid.as_deref(), self.clock.now_ms());
        let key = key.await?;
        if key.algorithm != header.alg {
            return Err(invalid("its algorithm is not the one of its key"));
        }
        let claims = self.verified(token, &key, &trusted.issuer)?;
        self.check_times(&claims)?;
        Ok(claims)
    }

    /// The issuer that a token claims to be of; nothing of it is believed yet.
    fn issuer_of(&self, token: &str) -> Result<&Trusted, IdentityError> {
        #[derive(Deserialize)]
        struct Claimed {
            iss: String,
        }
        let claimed: Claimed =
            insecure_decode_claims(token).map_err(|_| invalid("it does not say who issued it"))?;
        let mut trusted = self.trusted.iter();
        trusted
            .find(|trusted| trusted.issuer == claimed.iss)
            .ok_or_else(|| invalid("its issuer is not one of this hub's"))
    }

    fn verified(&self, token: &str, key: &Key, issuer: &str) -> Result<Claims, IdentityError> {
        let mut validation = Validation::new(key.algorithm);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Times are looked at below, by the hub's clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let decoded = decode::<Claims>(token, &key.decoding, &validation);
        let claims = decoded.map_err(|error| match error.kind() {
            ErrorKind::InvalidAudience => invalid("it is for another audience"),
            ErrorKind::InvalidIssuer => invalid("its issuer is not one of this hub's"),
            ErrorKind::Json(_) | ErrorKind::MissingRequiredClaim(_) => {
                invalid("a claim is missing or cannot be read")
            }
            _ => invalid("its signature is not of its issuer"),
        })?;
        if claims.claims.iss != issuer || !claims.claims.aud.names(&self.audience) {
            return Err(invalid("it is for another audience"));
        }
        Ok(claims.claims)
    }

    fn check_times(&self, claims: &Claims) -> Result<(), IdentityError> {
        let now = self.clock.now_ms().div_euclid(1000);
        let Terms {
            longest_seconds,
            leeway_seconds,
        } = self.terms;
        if claims.exp.saturating_add(leeway_seconds) <= now {
            return Err(IdentityError::Expired);
        }
        let begins = claims.nbf.unwrap_or(claims.iat).max(claims.iat);
        if begins > now.saturating_add(leeway_seconds) {
            return Err(invalid("it is not valid yet"));
        }
        let lasts = claims.exp.saturating_sub(claims.iat);
        if lasts <= 0 || lasts > longest_seconds {
            return Err(invalid("it was made to last longer than this hub allows"));
        }
        Ok(())
    }
}

fn check_header(header: &Header) -> Result<(), IdentityError> {
    if !matches!(
        header.alg,
        Algorithm::EdDSA | Algorithm::ES256 | Algorithm::RS256
    ) {
        return Err(invalid("its algorithm is not EdDSA, ES256 or RS256"));
    }
    if header.crit.is_some() {
        return Err(invalid("it has critical headers"));
    }
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    if !["jwt", "at+jwt", "application/at+jwt"].contains(&kind.as_str()) {
        return Err(invalid("it is of another type"));
    }
    Ok(())
}
