//! The decision on what the ledger holds.

use std::{collections::BTreeMap, sync::Arc};

use qihui_catalog::{
    Action, Catalog, Coded, ConsentId, Contract, DatasetId, EnterpriseNo, Frequency, Kind, OrgId,
    PurposeCode, Timestamp,
};
use sqlx::SqliteConnection;

use super::{
    Ledger, agreements,
    consents::state_at,
    draw::{Asking, Granted, permits},
    uses::{Left, MeteredUse, cap_of},
};
use crate::{
    decision::{
        Agreement, DatasetScope, DecisionRequest, Grant, ScopeBuilder, holds_throughout, scope,
    },
    document::worded,
    error::{LedgerError, Result},
    state::State,
    store::{
        consents::{self, ConsentRow},
        events, grants, parties,
    },
};

/// A decision, with what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The last event that it takes into account.
    pub ledger_position: u64,
    /// The last event that is in the log: what was given later does not count yet.
    pub logged_position: u64,
    /// The epoch of each dataset, read before anything else: as long as it is the present one, the decision holds.
    pub epochs: BTreeMap<DatasetId, u64>,
    /// The scope of each dataset.
    pub scopes: BTreeMap<DatasetId, Arc<DatasetScope>>,
    /// The uses to count before anything is released ([`Ledger::count_uses`]).
    pub uses: Vec<MeteredUse>,
}

/// Why there is no decision, or a refusal of a named subject. Names the subject by its place in the request.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// No such organisation.
    #[error("no organisation `{0}`")]
    UnknownOrganisation(OrgId),
    /// The organisation may not ask for this purpose.
    #[error(
        "organisation `{org}` has neither an agreement nor an assignment for purpose `{purpose}`"
    )]
    PurposeNotAssigned {
        /// The organisation.
        org: OrgId,
        /// The purpose.
        purpose: PurposeCode,
    },
    /// No such dataset.
    #[error("no dataset `{0}`: see `catalog list`")]
    UnknownDataset(DatasetId),
    /// The request is about somebody, but does not say about whom.
    #[error("a {0} needs a subject: name the enterprise")]
    SubjectRequired(Action),
    /// The request is about several at once.
    #[error("a {0} is about one enterprise: name no other beside it")]
    OneSubjectOnly(Action),
    /// The consent ended.
    #[error("the consent of subject {subject} for `{dataset}` has expired: ask for a new one")]
    ConsentExpired {
        /// The place of the subject in the request, from 1.
        subject: usize,
        /// The dataset.
        dataset: DatasetId,
    },
    /// The consent is suspended.
    #[error("the consent of subject {subject} for `{dataset}` is paused by the enterprise")]
    ConsentPaused {
        /// The place of the subject in the request, from 1.
        subject: usize,
        /// The dataset.
        dataset: DatasetId,
    },
    /// The consent was taken back, refused or declared void.
    #[error("the consent of subject {subject} for `{dataset}` was taken back or refused")]
    ConsentRevoked {
        /// The place of the subject in the request, from 1.
        subject: usize,
        /// The dataset.
        dataset: DatasetId,
    },
    /// The consent does not permit this use, or there is none.
    #[error("no consent of {} permits this: {reason}", subject_name(*subject))]
    InvalidConsentUse {
        /// The place of the subject in the request, from 1.
        subject: Option<usize>,
        /// Why.
        reason: &'static str,
    },
    /// Every use that the consent allows was made.
    #[error("the uses of the consent of {} are used up: {}", subject_name(*subject), next_use(*next))]
    UsesUsedUp {
        /// The place of the subject in the request, from 1.
        subject: Option<usize>,
        /// From when on it may be used again; none: not again.
        next: Option<Timestamp>,
    },
    /// The purpose was used about the enterprise as often as it may be, whatever its consents allow together.
    #[error(
        "purpose `{purpose}` may be used {} about one enterprise, and was about {}: {}",
        worded(*cap), subject_name(*subject), next_use(Some(*next))
    )]
    PurposeUsedUp {
        /// The place of the subject in the request, from 1.
        subject: Option<usize>,
        /// The purpose.
        purpose: PurposeCode,
        /// How often it may be used.
        cap: Frequency,
        /// From when on it may be used again.
        next: Timestamp,
    },
    /// The consent does not hold throughout the time of the request.
    #[error(
        "the consent of subject {subject} for `{dataset}` does not hold throughout the time of the request: it begins \
         later, or ends before the deadline"
    )]
    InvalidDateRange {
        /// The place of the subject in the request, from 1.
        subject: usize,
        /// The dataset.
        dataset: DatasetId,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

fn subject_name(subject: Option<usize>) -> String {
    subject.map_or_else(
        || "the subject".to_owned(),
        |subject| format!("subject {subject}"),
    )
}

fn next_use(next: Option<Timestamp>) -> String {
    next.map_or_else(
        || "ask for a new one".to_owned(),
        |next| format!("the next is possible from {next}"),
    )
}

impl Coded for DecisionError {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownOrganisation(_) => "UnknownOrganisation",
            Self::PurposeNotAssigned { .. } => "PurposeNotAssigned",
            Self::UnknownDataset(_) => "UnknownDataset",
            Self::SubjectRequired(_) => "SubjectRequired",
            Self::OneSubjectOnly(_) => "OneSubjectOnly",
            Self::ConsentExpired { .. } => "ConsentExpired",
            Self::ConsentPaused { .. } => "ConsentPaused",
            Self::ConsentRevoked { .. } => "ConsentRevoked",
            Self::InvalidConsentUse { .. } | Self::UsesUsedUp { .. } => "InvalidConsentUse",
            Self::PurposeUsedUp { .. } => "PurposeUsedUp",
            Self::InvalidDateRange { .. } => "InvalidDateRange",
            Self::Ledger(error) => error.code(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::UnknownDataset(_) => Kind::Failed,
            Self::SubjectRequired(_) | Self::OneSubjectOnly(_) => Kind::Usage,
            Self::Ledger(error) => error.kind(),
            _ => Kind::Denied,
        }
    }
}

impl From<sqlx::Error> for DecisionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl Ledger {
    /// The decision on a request.
    pub async fn decide(
        &self,
        catalog: &Catalog,
        request: &DecisionRequest,
    ) -> Result<Decision, DecisionError> {
        self.decide_for(catalog, request, None).await
    }

    /// The decision on a request of an access that may have counted its uses before: they are not held against it.
    pub async fn decide_for(
        &self,
        catalog: &Catalog,
        request: &DecisionRequest,
        access_id: Option<&str>,
    ) -> Result<Decision, DecisionError> {
        self.decide_up_to(catalog, request, access_id, None).await
    }

    /// A decision made before, made again: on what the log had up to the event `logged`, without what was taken away
    /// since. It is the same as long as nothing that matters to it was, however much was given meanwhile.
    ///
    /// # Errors
    /// [`LedgerError::Behind`] when the log does not reach that far here; otherwise as [`decide_for`](Self::decide_for).
    pub async fn decide_again(
        &self,
        catalog: &Catalog,
        request: &DecisionRequest,
        access_id: &str,
        logged: u64,
    ) -> Result<Decision, DecisionError> {
        self.decide_up_to(catalog, request, Some(access_id), Some(logged))
            .await
    }

    async fn decide_up_to(
        &self,
        catalog: &Catalog,
        request: &DecisionRequest,
        access_id: Option<&str>,
        up_to: Option<u64>,
    ) -> Result<Decision, DecisionError> {
        if request.action == Action::View {
            match request.subjects.as_deref() {
                None => return Err(DecisionError::SubjectRequired(request.action)),
                Some(subjects) if !is_one(subjects) => {
                    return Err(DecisionError::OneSubjectOnly(request.action));
                }
                Some(_) => {}
            }
        }
        // INVARIANT: epochs first. What is taken away after this line raises one of them, so that the decision is seen
        // to be stale even if it did not see the event.
        let epoch = |dataset: &DatasetId| {
            (
                dataset.clone(),
                self.inner
                    .losses
                    .epoch(&request.org, &request.purpose, dataset),
            )
        };
        let epochs = request.datasets.iter().map(epoch).collect();
        let mut reader = self.inner.reader().await?;
        let mut snapshot = sqlx::Connection::begin(&mut *reader).await?;
        self.inner.now(&mut snapshot).await?;
        let ledger_position = events::last(&mut snapshot)
            .await?
            .map_or(0, |(position, _, _)| position);
        let logged_position = events::last_logged(&mut snapshot)
            .await?
            .map_or(0, |(position, _)| position);
        let logged_position = match up_to {
            Some(position) if position > logged_position => {
                return Err(LedgerError::Behind { position }.into());
            }
            up_to => up_to.unwrap_or(logged_position),
        };
        let agreed = self
            .authority(&mut snapshot, request, logged_position)
            .await?;
        let mut decision = Decision {
            ledger_position,
            logged_position,
            epochs,
            scopes: BTreeMap::new(),
            uses: Vec::new(),
        };
        for dataset in &request.datasets {
            let Some(contract) = catalog.contracts.get(dataset) else {
                return Err(DecisionError::UnknownDataset(dataset.clone()));
            };
            let scope = if request.subjects.is_some() {
                let asking = Asking {
                    request,
                    agreed: &agreed,
                    access_id: access_id.unwrap_or_default(),
                    cap: cap_of(catalog, &request.purpose),
                    logged: logged_position,
                };
                self.named(&mut snapshot, contract, &asking, &mut decision.uses)
                    .await?
            } else {
                self.unnamed(&mut snapshot, contract, request, &agreed, logged_position)
                    .await?
            };
            decision.scopes.insert(dataset.clone(), scope);
        }
        snapshot.rollback().await?;
        Ok(decision)
    }

    /// The agreements of the organisation, if it may ask for the purpose at all.
    async fn authority(
        &self,
        connection: &mut SqliteConnection,
        request: &DecisionRequest,
        logged: u64,
    ) -> Result<Vec<Agreement>, DecisionError> {
        if !parties::org_exists(connection, &request.org).await? {
            return Err(DecisionError::UnknownOrganisation(request.org.clone()));
        }
        let agreed = agreements::effective(connection, &request.org, logged).await?;
        let by_agreement = agreed.iter().any(|agreement| {
            agreement.purposes.contains(&request.purpose)
                && holds_throughout(request, agreement.valid_from, agreement.valid_until)
        });
        let assigned = parties::assignments(connection, &request.org, logged).await?;
        if by_agreement
            || assigned
                .iter()
                .any(|(_, purpose)| *purpose == request.purpose)
        {
            return Ok(agreed);
        }
        let (org, purpose) = (request.org.clone(), request.purpose.clone());
        Err(DecisionError::PurposeNotAssigned { org, purpose })
    }

    /// The scope for whoever granted.
    async fn unnamed(
        &self,
        connection: &mut SqliteConnection,
        contract: &Arc<Contract>,
        request: &DecisionRequest,
        agreed: &[Agreement],
        logged: u64,
    ) -> Result<Arc<DatasetScope>> {
        let builder = ScopeBuilder::new(contract, request, agreed);
        let grantee =
            grants::grantee(connection, &request.org, &request.purpose, &contract.id).await?;
        match grantee.filter(|_| builder.needs_grants()) {
            Some(grantee) => {
                let grants = self.grants(connection, grantee).await?;
                grants.scope(builder, logged)
            }
            None => Ok(Arc::new(builder.finish())),
        }
    }

    /// The scope for named subjects, each of whom must permit the request.
    async fn named(
        &self,
        connection: &mut SqliteConnection,
        contract: &Arc<Contract>,
        asking: &Asking<'_>,
        uses: &mut Vec<MeteredUse>,
    ) -> Result<Arc<DatasetScope>, DecisionError> {
        let request = asking.request;
        let subjects = request.subjects.as_deref().unwrap_or_default();
        let mut of_each: BTreeMap<EnterpriseNo, Granted> = BTreeMap::new();
        for (grant, document) in self
            .grants_of(connection, contract, request, subjects, asking.logged)
            .await?
        {
            let granted = of_each.entry(grant.no).or_default();
            if !grant.metered {
                granted.free.push(grant);
                continue;
            }
            let one = MeteredUse::of(&document, grant.no, asking.cap);
            match one.left(connection, asking.access_id, request.at).await? {
                Left::Some => granted.metered.push((grant, one)),
                none if permits(request, &grant) => granted.note(one, none),
                _ => {}
            }
        }
        let permitted = |no: &EnterpriseNo| {
            let granted = of_each.get(no);
            granted.is_some_and(|granted| granted.permits(request))
        };
        let refused = subjects.iter().position(|no| !permitted(no));
        let mut drawn = Vec::new();
        for granted in of_each.values() {
            granted.draw(contract, asking, (&mut drawn, uses));
        }
        let found = Arc::new(scope(contract, request, asking.agreed, &drawn));
        if found.all_rows || found.columns.is_empty() {
            return Ok(found);
        }
        let Some((index, no)) = refused.and_then(|index| Some((index, subjects.get(index)?)))
        else {
            return Ok(found);
        };
        let asked = Asked {
            request,
            dataset: &contract.id,
            subject: index + 1,
        };
        let used_up = of_each.get(no).and_then(|granted| granted.used_up.as_ref());
        let used_up = used_up.and_then(|(one, none)| one.refusal(*none, Some(index + 1)));
        Err(match used_up {
            Some(refusal) => refusal,
            None => asked.refusal(connection, *no).await?,
        })
    }

    /// The grants of named subjects that are in force and in the log up to the event `logged`, with the documents they
    /// come from.
    async fn grants_of(
        &self,
        connection: &mut SqliteConnection,
        contract: &Contract,
        request: &DecisionRequest,
        subjects: &[EnterpriseNo],
        logged: u64,
    ) -> Result<Vec<(Grant, crate::document::ConsentDocument)>> {
        let grantee =
            grants::grantee(connection, &request.org, &request.purpose, &contract.id).await?;
        let Some(grantee) = grantee else {
            return Ok(Vec::new());
        };
        let numbers: Vec<u32> = subjects.iter().map(|no| no.0).collect();
        let mut found = Vec::new();
        let entries = grants::of(connection, grantee, &numbers).await?;
        for (entry, consent) in entries {
            if entry.given > logged {
                continue;
            }
            let row = consents::by_seq(connection, consent).await?;
            let document = row.document;
            let grant = Grant {
                consent_id: document.consent_id.clone(),
                version: document.version,
                no: EnterpriseNo(entry.no),
                org: request.org.clone(),
                purpose: request.purpose.clone(),
                items: document.items(),
                actions: entry.actions,
                starts: entry.starts,
                expires: entry.expires,
                metered: entry.metered,
            };
            found.push((grant, document));
        }
        Ok(found)
    }
}

fn is_one(subjects: &[EnterpriseNo]) -> bool {
    subjects
        .split_first()
        .is_some_and(|(first, others)| others.iter().all(|other| other == first))
}

/// What was asked of a subject that does not permit it.
struct Asked<'a> {
    request: &'a DecisionRequest,
    dataset: &'a DatasetId,
    subject: usize,
}

impl Asked<'_> {
    /// The most helpful reason: that of an active consent, or else of the latest one.
    async fn refusal(
        &self,
        connection: &mut SqliteConnection,
        no: EnterpriseNo,
    ) -> Result<DecisionError> {
        let rows = consents::between(connection, no, &self.request.org).await?;
        let about: Vec<&ConsentRow> = rows
            .iter()
            .filter(|row| {
                row.document
                    .scope
                    .iter()
                    .any(|line| line.dataset == *self.dataset)
            })
            .collect();
        let same: Vec<&ConsentRow> = about
            .iter()
            .copied()
            .filter(|row| row.document.purpose.code == self.request.purpose)
            .collect();
        let active = |row: &&ConsentRow| state_at(row, self.request.at) == State::Active;
        let telling = same.iter().rev().copied().find(active).or_else(|| {
            same.iter()
                .rev()
                .copied()
                .find(|row| row.progress.state != State::Superseded)
        });
        Ok(match telling {
            Some(row) => self.because_of(row),
            None if about.iter().any(active) => self.invalid("it consented to other purposes only"),
            None => self.invalid("it gave none"),
        })
    }

    fn because_of(&self, row: &ConsentRow) -> DecisionError {
        let (subject, dataset) = (self.subject, self.dataset.clone());
        match state_at(row, self.request.at) {
            State::Active if !row.document.actions.contains(self.request.action) => {
                self.invalid("it consented to other actions only")
            }
            State::Active
                if !holds_throughout(self.request, row.document.starts, row.document.expires) =>
            {
                DecisionError::InvalidDateRange { subject, dataset }
            }
            State::Active => self.invalid("its consent is not yet in the log"),
            State::Paused => DecisionError::ConsentPaused { subject, dataset },
            State::Expired => DecisionError::ConsentExpired { subject, dataset },
            State::Requested | State::PartiallySigned => {
                self.invalid("its consent is not signed yet")
            }
            State::Rejected
            | State::Withdrawn
            | State::Revoked
            | State::Invalidated
            | State::Superseded => DecisionError::ConsentRevoked { subject, dataset },
        }
    }

    const fn invalid(&self, reason: &'static str) -> DecisionError {
        DecisionError::InvalidConsentUse {
            subject: Some(self.subject),
            reason,
        }
    }
}

impl Ledger {
    /// The scope of one dataset with and without a grant, for one enterprise, at an instant.
    pub(crate) async fn with_and_without(
        &self,
        connection: &mut SqliteConnection,
        contract: &Arc<Contract>,
        request: &DecisionRequest,
        agreed: &[Agreement],
        hypothesis: Grant,
    ) -> Result<(DatasetScope, DatasetScope)> {
        let subjects = request.subjects.as_deref().unwrap_or_default();
        let other = |grant: &Grant, id: &ConsentId| grant.consent_id != *id;
        let mut grants: Vec<Grant> = self
            .grants_of(connection, contract, request, subjects, u64::MAX)
            .await?
            .into_iter()
            .map(|(grant, _)| grant)
            .filter(|grant| other(grant, &hypothesis.consent_id))
            .collect();
        let without = scope(contract, request, agreed, &grants);
        grants.push(hypothesis);
        Ok((scope(contract, request, agreed, &grants), without))
    }
}

/// The instant from which a consent would hold: now, or when it starts.
pub(crate) fn first_instant(now: Timestamp, starts: Timestamp) -> Timestamp {
    now.max(starts)
}
