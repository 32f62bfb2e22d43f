//! What a consent says: the request for one, and the document that is signed.
//!
//! A request is written by the organisation, in YAML or JSON:
//!
//! ```yaml
//! principal: 91330000142911651L        # the enterprise
//! consumer: {org: city_bank}
//! purpose: {code: credit.loan_review}
//! notice: {lang: zh, text: "…"}        # or {lang: zh, hash: <SHA-256 of the text, hexadecimal>}
//! scope:
//!   - dataset: vat_declaration
//!     columns: [sales, tax_due]         # listed, never *
//!     data_range: {from: 2024-01-01, to: 2026-01-01}   # event dates, half-open; may be left out
//! actions: [QUERY]                     # VIEW, QUERY, STORE, STREAM
//! starts: 2026-01-01                   # left out: now. A date is its first instant in Asia/Shanghai
//! expires: 2026-07-01                  # required, half-open
//! data_life_days: 90                   # how long the receiver may keep what it got; left out: the cap of the purpose
//! max_uses: 10                         # may be left out
//! frequency: {count: 3, per: month}    # may be left out
//! ```
//!
//! Also `contract_version` in a scope item, `lawful_basis`, `withdrawal_method`, and `supersedes: {consent_id}` for one
//! that is to replace another of the same enterprise, organisation and purpose. Every other key is refused.
//!
//! Signed is the [`ConsentDocument`], in canonical JSON (RFC 8785). Its hash chains the versions of a consent.

mod caps;
mod request;

use std::collections::BTreeSet;

use qihui_catalog::{
    Catalog, ConsentId, DatasetId, Date, Frequency, OrgId, PurposeCode, Timestamp, Uscc,
};
use serde::{Deserialize, Serialize};

pub(crate) use caps::worded;
pub(crate) use request::Circumstances;
use request::checked_scope;
pub use request::{ConsentRequest, NarrowRequest};

use crate::{
    decision::{ActionSet, ColumnSet, ScopeItem, Shape, ShapeItem},
    error::{LedgerError, Result},
    text,
};

/// The longest free text of a consent, in characters.
const MAX_TEXT: usize = 2000;

/// The text that the enterprise was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// SHA-256 of the text, hexadecimal.
    pub hash: String,
    /// Its language, for example `zh`.
    pub lang: String,
}

/// Who is to receive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// The organisation.
    pub org: OrgId,
}

/// What for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurposeRef {
    /// The code of the purpose.
    pub code: PurposeCode,
}

/// Another consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentRef {
    /// Its name.
    pub consent_id: ConsentId,
}

/// A range of event dates, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRange {
    /// The first day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Date>,
    /// The day after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Date>,
}

/// Columns of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeLine {
    /// The dataset.
    pub dataset: DatasetId,
    /// The version of its contract; filled in by the hub where a request leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract_version: Option<String>,
    /// The columns.
    pub columns: Vec<String>,
    /// The event dates; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_range: Option<DataRange>,
}

/// One version of a consent: what is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentDocument {
    /// The name of the consent, the same in all versions.
    pub consent_id: ConsentId,
    /// The version, from 1.
    pub version: u32,
    /// SHA-256 of the canonical JSON of the version before it, hexadecimal.
    pub prev_hash: Option<String>,
    /// The enterprise.
    pub principal: Uscc,
    /// How many signatories have to sign what gives.
    pub threshold: u32,
    /// The notice.
    pub notice: Notice,
    /// Who receives.
    pub consumer: Consumer,
    /// What for.
    pub purpose: PurposeRef,
    /// Which data.
    pub scope: Vec<ScopeLine>,
    /// What may be done with it.
    pub actions: ActionSet,
    /// How often it may be used.
    pub frequency: Option<Frequency>,
    /// How often it may be used in all.
    pub max_uses: Option<u32>,
    /// The first instant it holds.
    pub starts: Timestamp,
    /// The instant it no longer holds.
    pub expires: Timestamp,
    /// How long the receiver may keep what it got, in days.
    pub data_life_days: u32,
    /// The lawful basis.
    pub lawful_basis: String,
    /// How to withdraw.
    pub withdrawal_method: String,
    /// The consent that this one replaces once it is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<ConsentRef>,
}

impl ConsentDocument {
    /// What holds for every consent, whatever its purpose.
    pub(super) fn check(&self, now: Timestamp) -> Result<()> {
        let malformed = |reason: &str| {
            Err(LedgerError::Malformed {
                what: "consent request",
                reason: reason.to_owned(),
            })
        };
        if self.starts >= self.expires {
            return Err(LedgerError::InvalidValidity(
                "`expires` must lie after `starts`",
            ));
        }
        if self.expires <= now {
            return Err(LedgerError::InvalidValidity("`expires` lies in the past"));
        }
        if self.actions.is_empty() {
            return malformed("`actions` must name at least one of VIEW, QUERY, STORE, STREAM");
        }
        if self.max_uses == Some(0) || self.frequency.is_some_and(|frequency| frequency.count == 0)
        {
            return malformed("`max_uses` and `frequency.count` must be at least 1");
        }
        if [&self.lawful_basis, &self.withdrawal_method]
            .iter()
            .any(|text| text.chars().count() > MAX_TEXT)
        {
            return malformed("a text is too long");
        }
        Ok(())
    }

    /// The next version, with no more than this one opens.
    pub(crate) fn narrowed(
        &self,
        catalog: &Catalog,
        wish: &NarrowRequest,
        now: Timestamp,
    ) -> Result<Self> {
        let refuse = |reason| {
            Err(LedgerError::NotNarrower {
                id: self.consent_id.clone(),
                reason,
            })
        };
        let mut next = self.clone();
        next.version = self.version.saturating_add(1);
        next.prev_hash = Some(hex::encode(self.hash()?));
        next.supersedes = None;
        if let Some(scope) = &wish.scope {
            next.scope = checked_scope(catalog, scope.clone())?;
            if !is_covered(&next.scope, &self.scope) {
                return refuse("its scope names something that the consent does not open");
            }
        }
        next.actions = wish.actions.unwrap_or(self.actions);
        next.expires = wish.expires.unwrap_or(self.expires);
        next.max_uses = wish.max_uses.or(self.max_uses);
        next.data_life_days = wish.data_life_days.unwrap_or(self.data_life_days);
        if !next.actions.is_subset(self.actions) {
            return refuse("it names an action that the consent does not");
        }
        if next.expires > self.expires {
            return refuse("it would end later");
        }
        if self
            .max_uses
            .is_some_and(|before| next.max_uses.is_none_or(|after| after > before))
        {
            return refuse("it would allow more uses");
        }
        if next.data_life_days > self.data_life_days {
            return refuse("data would be kept longer");
        }
        next.check(now)?;
        let same_scope = is_covered(&self.scope, &next.scope);
        let same = same_scope
            && (
                next.actions,
                next.expires,
                next.max_uses,
                next.data_life_days,
            ) == (
                self.actions,
                self.expires,
                self.max_uses,
                self.data_life_days,
            );
        if same {
            refuse("it would open the same as before")
        } else {
            Ok(next)
        }
    }

    /// The canonical JSON.
    pub fn canonical_json(&self) -> Result<String> {
        text::canonical(self)
    }

    /// SHA-256 of the canonical JSON.
    pub fn hash(&self) -> Result<[u8; 32]> {
        Ok(text::sha256(self.canonical_json()?.as_bytes()))
    }

    /// Whether uses of it are counted.
    #[must_use]
    pub const fn is_metered(&self) -> bool {
        self.max_uses.is_some() || self.frequency.is_some()
    }

    /// The scope as the decision reads it.
    #[must_use]
    pub fn items(&self) -> Vec<ScopeItem> {
        self.scope
            .iter()
            .map(|line| {
                let range = line.data_range.unwrap_or_default();
                let (dataset, columns) = (line.dataset.clone(), line.columns.clone());
                ScopeItem {
                    dataset,
                    columns,
                    from: range.from,
                    to: range.to,
                }
            })
            .collect()
    }
}

/// Whether everything that `part` opens is opened by `whole`.
pub(crate) fn is_covered(part: &[ScopeLine], whole: &[ScopeLine]) -> bool {
    let datasets: BTreeSet<_> = part.iter().map(|line| &line.dataset).collect();
    datasets.into_iter().all(|dataset| {
        let names: Vec<&String> = part
            .iter()
            .chain(whole)
            .filter(|line| line.dataset == *dataset)
            .flat_map(|line| &line.columns)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let items = |lines: &'_ [ScopeLine]| -> Vec<ShapeItem> {
            lines
                .iter()
                .filter(|line| line.dataset == *dataset)
                .map(|line| {
                    let columns = line
                        .columns
                        .iter()
                        .filter_map(|name| names.binary_search(&name).ok());
                    let range = line.data_range.unwrap_or_default();
                    ShapeItem {
                        columns: columns.collect::<ColumnSet>(),
                        from: range.from,
                        to: range.to,
                    }
                })
                .collect()
        };
        let whole = items(whole);
        let both = whole.iter().copied().chain(items(part));
        names.len() <= ColumnSet::CAPACITY
            && Shape::canonical(both) == Shape::canonical(whole.iter().copied())
    })
}
