//! Consents in the ledger: requested, signed, suspended, narrowed, ended.

use qihui_catalog::{Catalog, ConsentId, EnterpriseNo, Timestamp};
use serde::Serialize;

use super::{Ledger, change::Change, epochs::Loss};
use crate::{
    decision::ScopeItem,
    document::{Circumstances, ConsentDocument, ConsentRequest, NarrowRequest},
    error::{LedgerError, Result},
    signing::{Operation, SignedOperation, SigningKey, SigningText},
    state::{Actor, ConsentEvent, Progress, State, TransitionError},
    store::{
        consents::{self, ConsentRow},
        events,
        grants::{self, Entry, NewGrant},
        parties,
    },
    text,
};

/// How many consents are found to have expired in one change.
const EXPIRY_BATCH: u32 = 500;

/// A consent as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consent {
    /// What it says.
    pub document: ConsentDocument,
    /// The number of the enterprise.
    pub no: EnterpriseNo,
    /// Its state now; EXPIRED from the instant it ends, whether or not that was recorded yet.
    pub state: State,
    /// Whether it permits anything now: it is ACTIVE, begun, and what made it active is in the log.
    pub in_force: bool,
    /// Who has signed what is not yet signed by enough.
    pub signed: Vec<String>,
    /// SHA-256 of the canonical JSON of the document, hexadecimal.
    pub hash: String,
}

impl Consent {
    pub(crate) fn new(row: ConsentRow, logged: u64, now: Timestamp) -> Result<Self> {
        let state = state_at(&row, now);
        let begun = row.document.starts <= now;
        let in_force = state == State::Active && begun && row.given.is_some_and(|given| given <= logged);
        let hash = hex::encode(row.document.hash()?);
        let signed = row.progress.signed.into_iter().collect();
        Ok(Self { document: row.document, no: row.no, state, in_force, signed, hash })
    }
}

/// The state at an instant: a consent whose time is over is EXPIRED even before anyone wrote that down.
pub(crate) fn state_at(row: &ConsentRow, now: Timestamp) -> State {
    let state = row.progress.state;
    if !state.is_terminal() && row.document.expires <= now { State::Expired } else { state }
}

/// A signature as it is recorded with the event it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// The name of the signatory.
    pub signatory: String,
    /// The name of the key: the first 16 hexadecimal digits of its SHA-256.
    pub key_id: String,
    /// The operation.
    pub operation: Operation,
    /// The nonce in the signed text.
    pub nonce: String,
    /// The signature, hexadecimal.
    pub signature: String,
}

/// An operation on a consent, and on whose authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsentOperation {
    /// With the signature of a signatory.
    Signed(SignedOperation),
    /// By whoever holds the hub, without a signature: may only take away, or lift what it suspended itself.
    Held {
        /// The consent.
        consent_id: ConsentId,
        /// The operation.
        operation: Operation,
        /// Who, for example `local:root`.
        by: String,
        /// For a narrowing, what remains.
        narrowed: Option<NarrowRequest>,
    },
}

impl ConsentOperation {
    fn parts(&self) -> (&ConsentId, Operation, Option<&NarrowRequest>) {
        match self {
            Self::Signed(signed) => (&signed.consent_id, signed.operation, signed.narrowed.as_ref()),
            Self::Held { consent_id, operation, narrowed, .. } => (consent_id, *operation, narrowed.as_ref()),
        }
    }

    fn actor(&self) -> Actor {
        match self {
            Self::Signed(signed) => Actor::Signatory(signed.signatory.clone()),
            Self::Held { by, .. } => Actor::Holder(by.clone()),
        }
    }
}

/// What an event of a consent says.
#[derive(Serialize)]
struct Body<'a> {
    consent_id: &'a ConsentId,
    version: u32,
    event: &'a ConsentEvent,
    state: State,
    org: &'a qihui_catalog::OrgId,
    purpose: &'a qihui_catalog::PurposeCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a ConsentDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

impl Ledger {
    /// Records a request for a consent; nothing is permitted by it.
    pub async fn request_consent(&self, catalog: &Catalog, request: ConsentRequest) -> Result<Consent> {
        let no = self.number_of(request.principal()?).await?;
        let mut change = Change::begin(&self.inner).await?;
        if !parties::org_exists(change.connection(), request.org()).await? {
            return Err(LedgerError::UnknownOrganisation(request.org().clone()));
        }
        let replaced = match request.supersedes() {
            Some(id) => Some(find(&mut change, id).await?),
            None => None,
        };
        let threshold = parties::threshold(change.connection(), no).await?;
        let id = format!("c-{}", text::random_hex::<10>()?);
        let consent_id = ConsentId::new(id).map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        let document = request.into_document(catalog, Circumstances { consent_id, threshold, now: change.now })?;
        if let Some(replaced) = replaced {
            let same = replaced.document.principal == document.principal
                && replaced.document.consumer == document.consumer
                && replaced.document.purpose == document.purpose;
            if !same {
                let reason = "it is of another enterprise, organisation or purpose";
                return Err(LedgerError::CannotSupersede { id: replaced.document.consent_id, reason });
            }
        }
        let event = ConsentEvent::Requested { threshold };
        let progress = Progress::apply(None, &event).map_err(|reason| refused(&document.consent_id, reason))?;
        let nonce = text::random_hex::<16>()?;
        let requested = change.next_position();
        let mut row = ConsentRow { seq: 0, no, document, progress, nonce, requested, given: None };
        append(&mut change, &row, &event, None).await?;
        row.seq = consents::insert(change.connection(), &row).await?;
        let now = change.now;
        change.commit().await?;
        Consent::new(row, 0, now)
    }

    /// The text a signatory has to sign for an operation now. It changes with every change of state.
    pub async fn signing_text(
        &self,
        catalog: &Catalog,
        id: &ConsentId,
        operation: Operation,
        narrowed: Option<&NarrowRequest>,
    ) -> Result<SigningText> {
        let mut reader = self.inner.reader().await?;
        let now = self.inner.now(&mut reader).await?;
        let row = consents::latest(&mut reader, id).await?.ok_or_else(|| LedgerError::UnknownConsent(id.clone()))?;
        let document = document_of(catalog, &row, operation, narrowed, now)?;
        SigningText::new(&self.inner.hub, operation, &row.nonce, document)
    }

    /// Signs an operation with a key at hand: what a signatory's own program does with [`Ledger::signing_text`] and
    /// [`Ledger::operate`].
    pub async fn sign_with(
        &self,
        catalog: &Catalog,
        id: &ConsentId,
        operation: Operation,
        narrowed: Option<NarrowRequest>,
        (signatory, key): (&str, &SigningKey),
    ) -> Result<Consent> {
        let signing = self.signing_text(catalog, id, operation, narrowed.as_ref()).await?;
        let (consent_id, signatory) = (id.clone(), signatory.to_owned());
        let signature = key.sign(signing.text.as_bytes());
        let signed = SignedOperation { consent_id, operation, signatory, signature, narrowed };
        self.operate(catalog, ConsentOperation::Signed(signed)).await
    }

    /// Does an operation on the latest version of a consent.
    pub async fn operate(&self, catalog: &Catalog, operation: ConsentOperation) -> Result<Consent> {
        let (id, what, narrowed) = operation.parts();
        let mut change = Change::begin(&self.inner).await?;
        let row = find(&mut change, id).await?;
        let event = event_of(&row, what, operation.actor()).map_err(|reason| refused(id, reason))?;
        if state_at(&row, change.now) == State::Expired {
            let reason = TransitionError::Refused { state: State::Expired.as_str(), event: event.word() };
            return Err(refused(id, reason));
        }
        // The state is looked at before the signature: who signs too late should hear that it is too late.
        let after = Progress::apply(Some(&row.progress), &event).map_err(|reason| refused(id, reason))?;
        let document = document_of(catalog, &row, what, narrowed, change.now)?;
        let signature = match &operation {
            ConsentOperation::Signed(signed) => {
                Some(self.verify(&mut change, &row, signed, document.clone()).await?)
            }
            ConsentOperation::Held { .. } => None,
        };
        let row = if what == Operation::Narrow {
            narrow(&mut change, row, document, signature).await?
        } else {
            progress(&mut change, row, event, after, signature).await?
        };
        self.finish(change, row).await
    }

    /// Ends a consent on behalf of another than the enterprise.
    pub async fn revoke_consent(&self, id: &ConsentId, by: &str) -> Result<Consent> {
        self.end(id, ConsentEvent::Revoked { by: by.to_owned() }).await
    }

    /// Declares a consent void, because a key was stolen for example.
    pub async fn invalidate_consent(&self, id: &ConsentId, reason: &str) -> Result<Consent> {
        self.end(id, ConsentEvent::Invalidated { reason: reason.to_owned() }).await
    }

    async fn end(&self, id: &ConsentId, event: ConsentEvent) -> Result<Consent> {
        let mut change = Change::begin(&self.inner).await?;
        let row = find(&mut change, id).await?;
        let after = Progress::apply(Some(&row.progress), &event).map_err(|reason| refused(id, reason))?;
        let row = progress(&mut change, row, event, after, None).await?;
        self.finish(change, row).await
    }

    /// Records the expiry of every consent whose time is over; how many. It permits nothing already.
    pub async fn expire_due(&self) -> Result<u64> {
        let mut expired = 0;
        loop {
            let mut change = Change::begin(&self.inner).await?;
            let now = change.now;
            let due = consents::due(change.connection(), now, EXPIRY_BATCH).await?;
            if due.is_empty() {
                return Ok(expired);
            }
            expired += due.len() as u64;
            for row in due {
                let event = ConsentEvent::Expired;
                let after = Progress::apply(Some(&row.progress), &event)
                    .map_err(|reason| refused(&row.document.consent_id, reason))?;
                progress(&mut change, row, event, after, None).await?;
            }
            change.commit().await?;
        }
    }

    async fn finish(&self, mut change: Change, row: ConsentRow) -> Result<Consent> {
        let logged = events::last_logged(change.connection()).await?.map_or(0, |(position, _)| position);
        let now = change.now;
        change.commit().await?;
        Consent::new(row, logged, now)
    }

    /// Checks a signature against the text that is due now.
    async fn verify(
        &self,
        change: &mut Change,
        row: &ConsentRow,
        signed: &SignedOperation,
        document: ConsentDocument,
    ) -> Result<Signature> {
        let signatories = parties::signatories(change.connection(), row.no).await?;
        let found = signatories.into_iter().find(|(name, _)| *name == signed.signatory);
        let Some((signatory, key)) = found else {
            return Err(LedgerError::UnknownSignatory(text::shown(&signed.signatory)));
        };
        let text = SigningText::new(&self.inner.hub, signed.operation, &row.nonce, document)?;
        if !key.verifies(text.text.as_bytes(), &signed.signature) {
            return Err(LedgerError::SignatureMismatch(signatory));
        }
        Ok(Signature {
            signatory,
            key_id: key.id(),
            operation: signed.operation,
            nonce: row.nonce.clone(),
            signature: hex::encode(&signed.signature),
        })
    }
}

fn refused(id: &ConsentId, reason: TransitionError) -> LedgerError {
    LedgerError::Transition { id: id.clone(), reason }
}

async fn find(change: &mut Change, id: &ConsentId) -> Result<ConsentRow> {
    consents::latest(change.connection(), id).await?.ok_or_else(|| LedgerError::UnknownConsent(id.clone()))
}

/// The document that an operation is about: the narrower one for a narrowing.
fn document_of(
    catalog: &Catalog,
    row: &ConsentRow,
    operation: Operation,
    narrowed: Option<&NarrowRequest>,
    now: Timestamp,
) -> Result<ConsentDocument> {
    match (operation, narrowed) {
        (Operation::Narrow, Some(wish)) => row.document.narrowed(catalog, wish, now),
        (Operation::Narrow, None) | (_, Some(_)) => {
            let reason = "say what remains for a narrowing, and for nothing else".to_owned();
            Err(LedgerError::Malformed { what: "narrower consent", reason })
        }
        (_, None) => Ok(row.document.clone()),
    }
}

/// The event that an operation makes on the version it is about.
fn event_of(row: &ConsentRow, operation: Operation, actor: Actor) -> Result<ConsentEvent, TransitionError> {
    Ok(match (operation, actor) {
        (Operation::Give, Actor::Signatory(signatory)) => ConsentEvent::Signed { signatory },
        (Operation::Resume, Actor::Signatory(signatory)) => ConsentEvent::ResumeSigned { signatory },
        (Operation::Give, Actor::Holder(_)) => {
            let event = "given without the signature of a signatory";
            return Err(TransitionError::Refused { state: row.progress.state.as_str(), event });
        }
        (Operation::Resume, by @ Actor::Holder(_)) => ConsentEvent::Lifted { by },
        (Operation::Reject, by) => ConsentEvent::Rejected { by },
        (Operation::Pause, by) => ConsentEvent::Paused { by },
        (Operation::Withdraw, by) => ConsentEvent::Withdrawn { by },
        (Operation::Narrow, _) => ConsentEvent::Superseded,
    })
}

async fn append(
    change: &mut Change,
    row: &ConsentRow,
    event: &ConsentEvent,
    signature: Option<Signature>,
) -> Result<u64> {
    let document = &row.document;
    let begins = matches!(event, ConsentEvent::Requested { .. } | ConsentEvent::Narrowed { .. });
    let body = Body {
        consent_id: &document.consent_id,
        version: document.version,
        event,
        state: row.progress.state,
        org: &document.consumer.org,
        purpose: &document.purpose.code,
        document: begins.then_some(document),
        document_hash: if begins { Some(hex::encode(document.hash()?)) } else { None },
        signature,
    };
    let consent = Some((document.consent_id.as_str(), document.version));
    change.append(&format!("consent.{}", event.word()), &body, &[row.no], consent).await
}

/// Takes a version from one state to the next, with everything that follows from it.
async fn progress(
    change: &mut Change,
    mut row: ConsentRow,
    event: ConsentEvent,
    after: Progress,
    signature: Option<Signature>,
) -> Result<ConsentRow> {
    let before = std::mem::replace(&mut row.progress, after);
    let state = row.progress.state;
    let position = append(change, &row, &event, signature).await?;
    if before.state != state || row.progress.signed.is_empty() {
        // Whatever was signed before is of the past.
        row.nonce = text::random_hex::<16>()?;
    }
    let gives = state == State::Active && before.state != State::Active;
    if gives {
        row.given = Some(position);
        put_grants(change, &row, grants::WAITING).await?;
    } else if before.state == State::Active {
        take_grants(change, &row).await?;
    }
    consents::update(change.connection(), &row).await?;
    if gives && before.state != State::Paused {
        supersede_other(change, &row).await?;
    }
    Ok(row)
}

/// Ends the consent that this one replaces.
async fn supersede_other(change: &mut Change, row: &ConsentRow) -> Result<()> {
    let Some(other) = &row.document.supersedes else { return Ok(()) };
    let other = find(change, &other.consent_id).await?;
    let event = ConsentEvent::Superseded;
    // One that ended by itself in the meantime needs no end.
    if let Ok(after) = Progress::apply(Some(&other.progress), &event) {
        Box::pin(progress(change, other, event, after, None)).await?;
    }
    Ok(())
}

/// Replaces a version by a narrower one in the same state.
async fn narrow(
    change: &mut Change,
    mut old: ConsentRow,
    document: ConsentDocument,
    signature: Option<Signature>,
) -> Result<ConsentRow> {
    let id = old.document.consent_id.clone();
    let (threshold, pause) = (old.progress.threshold, old.progress.pause);
    let begin = ConsentEvent::Narrowed { threshold, pause };
    let now_progress = Progress::apply(None, &begin).map_err(|reason| refused(&id, reason))?;
    old.progress = Progress::apply(Some(&old.progress), &ConsentEvent::Superseded).map_err(|e| refused(&id, e))?;
    append(change, &old, &ConsentEvent::Superseded, None).await?;
    consents::update(change.connection(), &old).await?;
    take_grants(change, &old).await?;
    let requested = change.next_position();
    let nonce = text::random_hex::<16>()?;
    let mut row = ConsentRow { seq: 0, no: old.no, document, progress: now_progress, nonce, requested, given: old.given };
    append(change, &row, &begin, signature).await?;
    row.seq = consents::insert(change.connection(), &row).await?;
    if row.progress.state == State::Active {
        // It opens a part of what is open, so it need not wait for the log; unless the whole still waits.
        let logged = events::last_logged(change.connection()).await?.map_or(0, |(position, _)| position);
        let in_force = row.given.is_some_and(|given| given <= logged);
        put_grants(change, &row, if in_force { grants::ON } else { grants::WAITING }).await?;
    }
    Ok(row)
}

/// The scope of a document by dataset.
pub(crate) fn by_dataset(document: &ConsentDocument) -> Vec<(qihui_catalog::DatasetId, Vec<ScopeItem>)> {
    let mut datasets: std::collections::BTreeMap<_, Vec<ScopeItem>> = std::collections::BTreeMap::new();
    for item in document.items() {
        datasets.entry(item.dataset.clone()).or_default().push(item);
    }
    datasets.into_iter().collect()
}

async fn put_grants(change: &mut Change, row: &ConsentRow, status: i64) -> Result<()> {
    let document = &row.document;
    let (revision, given) = (change.revision, row.given.unwrap_or(row.requested));
    for (dataset, items) in by_dataset(document) {
        let (org, purpose) = (&document.consumer.org, &document.purpose.code);
        let grantee = grants::ensure_grantee(change.connection(), org, purpose, &dataset).await?;
        let terms = grants::ensure_terms(change.connection(), &items).await?;
        let entry = Entry {
            no: row.no.0,
            terms: crate::store::fit(terms, "the number of terms")?,
            starts: document.starts,
            expires: document.expires,
            actions: document.actions,
            metered: document.is_metered(),
        };
        let grant = NewGrant { grantee, consent: row.seq, entry, status, given, revision };
        grants::put(change.connection(), grant).await?;
    }
    Ok(())
}

async fn take_grants(change: &mut Change, row: &ConsentRow) -> Result<()> {
    let revision = change.revision;
    grants::switch_off(change.connection(), row.seq, revision).await?;
    let document = &row.document;
    for (dataset, _) in by_dataset(document) {
        let key = (document.consumer.org.clone(), document.purpose.code.clone(), dataset);
        change.takes(key, Loss::Of(row.no));
    }
    Ok(())
}
