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

use std::collections::BTreeSet;

use qihui_catalog::{
    Caps, Catalog, ConsentId, Contract, DatasetId, Date, Frequency, Level, OrgId, Period, PurposeCode, Timestamp, Uscc,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    decision::{ActionSet, ColumnSet, ScopeItem, Shape, ShapeItem},
    error::{LedgerError, Result},
    text,
};

const DAY_MS: i64 = 24 * 3_600_000;
/// The most lines of scope of a consent.
const MAX_SCOPE: usize = 64;
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

/// A request for a consent, as written by the organisation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentRequest {
    principal: Unchecked,
    consumer: Consumer,
    purpose: PurposeRef,
    notice: NoticeText,
    scope: Vec<ScopeLine>,
    actions: ActionSet,
    #[serde(default)]
    starts: Option<Timestamp>,
    expires: Timestamp,
    #[serde(default)]
    data_life_days: Option<u32>,
    #[serde(default)]
    max_uses: Option<u32>,
    #[serde(default)]
    frequency: Option<Frequency>,
    #[serde(default)]
    lawful_basis: Option<String>,
    #[serde(default)]
    withdrawal_method: Option<String>,
    #[serde(default)]
    supersedes: Option<ConsentRef>,
}

/// Text that is checked later, by what never repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unchecked(String);

impl<'de> Deserialize<'de> for Unchecked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            serde_json::Value::Number(number) => Ok(Self(number.to_string())),
            _ => Err(serde::de::Error::custom("`principal` must be text")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoticeText {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    hash: Option<String>,
    lang: String,
}

/// A narrower wish for an existing consent: what is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NarrowRequest {
    /// What remains of the scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<ScopeLine>>,
    /// What remains of the actions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<ActionSet>,
    /// An earlier end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Fewer uses, those already made included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
    /// A shorter life of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_life_days: Option<u32>,
}

impl NarrowRequest {
    /// Reads the wish, in YAML or JSON: any of `scope`, `actions`, `expires`, `max_uses`, `data_life_days`.
    pub fn parse(text: &str) -> Result<Self> {
        text::read("narrower consent", text)
    }
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

/// What the hub adds to a request.
#[derive(Debug, Clone)]
pub(crate) struct Circumstances {
    pub(crate) consent_id: ConsentId,
    pub(crate) threshold: u32,
    pub(crate) now: Timestamp,
}

impl ConsentRequest {
    /// Reads a request, in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self> {
        text::read("consent request", text)
    }

    /// The organisation that asks.
    #[must_use]
    pub const fn org(&self) -> &OrgId {
        &self.consumer.org
    }

    /// The enterprise asked.
    pub fn principal(&self) -> Result<Uscc> {
        Ok(Uscc::normalise(&self.principal.0)?)
    }

    /// The consent that this one is to replace.
    #[must_use]
    pub fn supersedes(&self) -> Option<&ConsentId> {
        self.supersedes.as_ref().map(|other| &other.consent_id)
    }

    /// The first version of the consent, if everything about it is in order.
    pub(crate) fn into_document(self, catalog: &Catalog, hub: Circumstances) -> Result<ConsentDocument> {
        let principal = self.principal()?;
        let purpose = catalog
            .purposes
            .get(&self.purpose.code)
            .filter(|purpose| !purpose.heading)
            .ok_or_else(|| LedgerError::UnknownPurpose(self.purpose.code.clone()))?;
        let caps = purpose.caps;
        let document = ConsentDocument {
            consent_id: hub.consent_id,
            version: 1,
            prev_hash: None,
            principal,
            threshold: hub.threshold,
            notice: self.notice.into_notice()?,
            consumer: self.consumer,
            purpose: self.purpose,
            scope: checked_scope(catalog, self.scope)?,
            actions: self.actions,
            frequency: self.frequency,
            max_uses: self.max_uses,
            starts: self.starts.unwrap_or(hub.now),
            expires: self.expires,
            data_life_days: self.data_life_days.unwrap_or(caps.data_life_days),
            lawful_basis: self.lawful_basis.unwrap_or_else(|| "consent".to_owned()),
            withdrawal_method: self.withdrawal_method.unwrap_or_else(|| "qihui consent withdraw".to_owned()),
            supersedes: self.supersedes,
        };
        document.check(hub.now)?;
        document.check_caps(&caps)?;
        Ok(document)
    }
}

impl NoticeText {
    fn into_notice(self) -> Result<Notice> {
        let malformed = |reason: &str| LedgerError::Malformed { what: "consent request", reason: reason.to_owned() };
        let hash = match (self.text, self.hash) {
            (Some(text), None) => hex::encode(text::sha256(text.as_bytes())),
            (None, Some(hash)) if hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                hash
            }
            (None, Some(_)) => return Err(malformed("`notice.hash` must be 64 lower-case hexadecimal digits")),
            _ => return Err(malformed("`notice` needs either `text` or `hash`")),
        };
        let lang_fits = (2..=35).contains(&self.lang.len())
            && self.lang.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !lang_fits {
            return Err(malformed("`notice.lang` must be a language tag, for example zh"));
        }
        Ok(Notice { hash, lang: self.lang })
    }
}

/// Checks every line of a scope against its contract and fills in the contract versions.
fn checked_scope(catalog: &Catalog, scope: Vec<ScopeLine>) -> Result<Vec<ScopeLine>> {
    if scope.is_empty() || scope.len() > MAX_SCOPE {
        let reason = format!("`scope` must have 1 to {MAX_SCOPE} items");
        return Err(LedgerError::Malformed { what: "consent request", reason });
    }
    scope
        .into_iter()
        .map(|mut line| {
            let contract = catalog
                .contracts
                .get(&line.dataset)
                .ok_or_else(|| LedgerError::UnknownDataset(line.dataset.clone()))?;
            check_columns(contract, &line.columns)?;
            check_range(contract, line.data_range)?;
            if let Some(asked) = line.contract_version.filter(|asked| *asked != contract.version) {
                let (dataset, current) = (line.dataset, contract.version.clone());
                return Err(LedgerError::ContractVersion { dataset, current, asked: text::shown(&asked) });
            }
            line.contract_version = Some(contract.version.clone());
            Ok(line)
        })
        .collect()
}

fn check_columns(contract: &Contract, columns: &[String]) -> Result<()> {
    let dataset = || contract.id.clone();
    if columns.iter().any(|column| column.contains('*')) {
        return Err(LedgerError::WildcardColumn { dataset: dataset() });
    }
    let distinct: BTreeSet<_> = columns.iter().collect();
    if columns.is_empty() || distinct.len() < columns.len() {
        let reason = format!("the `columns` of `{}` must be at least one, each once", contract.id);
        return Err(LedgerError::Malformed { what: "consent request", reason });
    }
    for name in columns {
        match contract.column(name) {
            None => return Err(LedgerError::UnknownColumn { dataset: dataset(), column: text::shown(name) }),
            Some(column) if column.level == Level::L4 => {
                return Err(LedgerError::ColumnNeverOpened { dataset: dataset(), column: name.clone() });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_range(contract: &Contract, range: Option<DataRange>) -> Result<()> {
    let refuse = |reason| Err(LedgerError::InvalidDataRange { dataset: contract.id.clone(), reason });
    let Some(range) = range else { return Ok(()) };
    if contract.event_date.is_none() && (range.from.is_some() || range.to.is_some()) {
        return refuse("its rows have no event date, so leave `data_range` out");
    }
    match range.from.zip(range.to) {
        Some((from, to)) if from >= to => refuse("`from` must lie before `to`"),
        _ => Ok(()),
    }
}

impl ConsentDocument {
    /// What holds for every consent, whatever its purpose.
    fn check(&self, now: Timestamp) -> Result<()> {
        let malformed = |reason: &str| {
            Err(LedgerError::Malformed { what: "consent request", reason: reason.to_owned() })
        };
        if self.starts >= self.expires {
            return Err(LedgerError::InvalidValidity("`expires` must lie after `starts`"));
        }
        if self.expires <= now {
            return Err(LedgerError::InvalidValidity("`expires` lies in the past"));
        }
        if self.actions.is_empty() {
            return malformed("`actions` must name at least one of VIEW, QUERY, STORE, STREAM");
        }
        if self.max_uses == Some(0) || self.frequency.is_some_and(|frequency| frequency.count == 0) {
            return malformed("`max_uses` and `frequency.count` must be at least 1");
        }
        if [&self.lawful_basis, &self.withdrawal_method].iter().any(|text| text.chars().count() > MAX_TEXT) {
            return malformed("a text is too long");
        }
        Ok(())
    }

    /// What the purpose allows at most.
    fn check_caps(&self, caps: &Caps) -> Result<()> {
        let purpose = || self.purpose.code.clone();
        let beyond = |what, asked: String, cap: String| {
            Err(LedgerError::BeyondCap { what, asked, purpose: purpose(), cap })
        };
        let length_ms = self.expires.0.saturating_sub(self.starts.0);
        if length_ms > i64::from(caps.max_validity_days).saturating_mul(DAY_MS) {
            let days = length_ms.unsigned_abs().div_ceil(DAY_MS.unsigned_abs());
            return Err(LedgerError::ExpiryBeyondCap { days, purpose: purpose(), cap: caps.max_validity_days });
        }
        if self.data_life_days > caps.data_life_days {
            let (asked, cap) = (self.data_life_days, caps.data_life_days);
            return beyond("the receiver would keep data for", format!("{asked} days"), format!("{cap} days"));
        }
        if let Some(cap) = caps.max_range_days {
            for line in &self.scope {
                let range = line.data_range.unwrap_or_default();
                let days = range.from.zip(range.to).map(|(from, to)| to.signed_duration_since(from).num_days());
                // A range without both ends is longer than any cap.
                if days.is_none_or(|days| days > i64::from(cap)) {
                    let asked = days.map_or_else(|| "without both ends".to_owned(), |days| format!("of {days} days"));
                    return beyond("a data range", asked, format!("{cap} days"));
                }
            }
        }
        match (caps.frequency, self.frequency) {
            (Some(cap), Some(asked)) if !keeps(asked, cap) => {
                beyond("a use", worded(asked), worded(cap))
            }
            (Some(cap), None) => beyond("a use", "as often as one likes".to_owned(), worded(cap)),
            _ => Ok(()),
        }
    }

    /// The next version, with no more than this one opens.
    pub(crate) fn narrowed(&self, catalog: &Catalog, wish: &NarrowRequest, now: Timestamp) -> Result<Self> {
        let refuse = |reason| Err(LedgerError::NotNarrower { id: self.consent_id.clone(), reason });
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
        if self.max_uses.is_some_and(|before| next.max_uses.is_none_or(|after| after > before)) {
            return refuse("it would allow more uses");
        }
        if next.data_life_days > self.data_life_days {
            return refuse("data would be kept longer");
        }
        next.check(now)?;
        let same_scope = is_covered(&self.scope, &next.scope);
        let same = same_scope
            && (next.actions, next.expires, next.max_uses, next.data_life_days)
                == (self.actions, self.expires, self.max_uses, self.data_life_days);
        if same { refuse("it would open the same as before") } else { Ok(next) }
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
                ScopeItem { dataset, columns, from: range.from, to: range.to }
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
                    let columns = line.columns.iter().filter_map(|name| names.binary_search(&name).ok());
                    let range = line.data_range.unwrap_or_default();
                    ShapeItem { columns: columns.collect::<ColumnSet>(), from: range.from, to: range.to }
                })
                .collect()
        };
        let whole = items(whole);
        let both = whole.iter().copied().chain(items(part));
        names.len() <= ColumnSet::CAPACITY && Shape::canonical(both) == Shape::canonical(whole.iter().copied())
    })
}

/// Whether using something as often as `asked` can never be more often than `cap`.
fn keeps(asked: Frequency, cap: Frequency) -> bool {
    /// How many spans of `inner` a span of `outer` can meet at most.
    const fn spans(inner: Period, outer: Period) -> u64 {
        match (inner, outer) {
            (Period::Day, Period::Week) => 7,
            (Period::Day, Period::Month) => 31,
            (Period::Day, Period::Year) => 366,
            (Period::Week, Period::Month) => 6,
            (Period::Week, Period::Year) => 54,
            (Period::Month, Period::Year) => 12,
            _ => 1,
        }
    }
    // A span that crosses the border of a longer one can meet two of them.
    let crossing = matches!((asked.per, cap.per), (Period::Month | Period::Year, Period::Week));
    let most = u64::from(asked.count) * spans(asked.per, cap.per) * if crossing { 2 } else { 1 };
    most <= u64::from(cap.count)
}

fn worded(frequency: Frequency) -> String {
    let per = match frequency.per {
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
        Period::Year => "year",
    };
    format!("{} times a {per}", frequency.count)
}
