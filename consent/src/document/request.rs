//! The request for a consent and the wish for a narrower one, as they are written.

use std::collections::BTreeSet;

use qihui_catalog::{Catalog, ConsentId, Contract, Frequency, Level, OrgId, Timestamp, Uscc};
use serde::{Deserialize, Deserializer, Serialize};

use super::{ConsentDocument, ConsentRef, Consumer, DataRange, Notice, PurposeRef, ScopeLine};
use crate::{
    decision::ActionSet,
    error::{LedgerError, Result},
    text,
};

/// The most lines of scope of a consent.
const MAX_SCOPE: usize = 64;

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
    pub(crate) fn into_document(
        self,
        catalog: &Catalog,
        hub: Circumstances,
    ) -> Result<ConsentDocument> {
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
            withdrawal_method: self
                .withdrawal_method
                .unwrap_or_else(|| "qihui consent withdraw".to_owned()),
            supersedes: self.supersedes,
        };
        document.check(hub.now)?;
        document.check_caps(&caps, catalog)?;
        Ok(document)
    }
}

impl NoticeText {
    fn into_notice(self) -> Result<Notice> {
        let malformed = |reason: &str| LedgerError::Malformed {
            what: "consent request",
            reason: reason.to_owned(),
        };
        let hash = match (self.text, self.hash) {
            (Some(text), None) => hex::encode(text::sha256(text.as_bytes())),
            (None, Some(hash))
                if hash.len() == 64
                    && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                hash
            }
            (None, Some(_)) => {
                return Err(malformed(
                    "`notice.hash` must be 64 lower-case hexadecimal digits",
                ));
            }
            _ => return Err(malformed("`notice` needs either `text` or `hash`")),
        };
        let lang_fits = (2..=35).contains(&self.lang.len())
            && self
                .lang
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !lang_fits {
            return Err(malformed(
                "`notice.lang` must be a language tag, for example zh",
            ));
        }
        Ok(Notice {
            hash,
            lang: self.lang,
        })
    }
}

/// Checks every line of a scope against its contract and fills in the contract versions.
pub(super) fn checked_scope(catalog: &Catalog, scope: Vec<ScopeLine>) -> Result<Vec<ScopeLine>> {
    if scope.is_empty() || scope.len() > MAX_SCOPE {
        let reason = format!("`scope` must have 1 to {MAX_SCOPE} items");
        return Err(LedgerError::Malformed {
            what: "consent request",
            reason,
        });
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
            if let Some(asked) = line
                .contract_version
                .filter(|asked| *asked != contract.version)
            {
                let (dataset, current) = (line.dataset, contract.version.clone());
                return Err(LedgerError::ContractVersion {
                    dataset,
                    current,
                    asked: text::shown(&asked),
                });
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
        let reason = format!(
            "the `columns` of `{}` must be at least one, each once",
            contract.id
        );
        return Err(LedgerError::Malformed {
            what: "consent request",
            reason,
        });
    }
    for name in columns {
        match contract.column(name) {
            None => {
                return Err(LedgerError::UnknownColumn {
                    dataset: dataset(),
                    column: text::shown(name),
                });
            }
            Some(column) if column.level == Level::L4 => {
                return Err(LedgerError::ColumnNeverOpened {
                    dataset: dataset(),
                    column: name.clone(),
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_range(contract: &Contract, range: Option<DataRange>) -> Result<()> {
    let refuse = |reason| {
        Err(LedgerError::InvalidDataRange {
            dataset: contract.id.clone(),
            reason,
        })
    };
    let Some(range) = range else { return Ok(()) };
    if contract.event_date.is_none() && (range.from.is_some() || range.to.is_some()) {
        return refuse("its rows have no event date, so leave `data_range` out");
    }
    match range.from.zip(range.to) {
        Some((from, to)) if from >= to => refuse("`from` must lie before `to`"),
        _ => Ok(()),
    }
}
