//! Consents in the ledger: requested, signed, suspended, narrowed, ended.

use qihui_catalog::{Catalog, ConsentId, EnterpriseNo, Timestamp};
use serde::Serialize;

use super::{
    Ledger,
    change::Change,
    parties::checked_name,
    transitions::{append, document_of, event_of, find, narrow, progress, refused},
};
use crate::{
    document::{Circumstances, ConsentDocument, ConsentRequest, NarrowRequest},
    error::{LedgerError, Result},
    signing::{Operation, SignedOperation, SigningKey, SigningText},
    state::{Actor, ConsentEvent, Progress, State, TransitionError},
    store::{
        consents::{self, ConsentRow},
        events, parties,
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
        let in_force =
            state == State::Active && begun && row.given.is_some_and(|given| given <= logged);
        let hash = hex::encode(row.document.hash()?);
        let signed = row.progress.signed.into_iter().collect();
        Ok(Self {
            document: row.document,
            no: row.no,
            state,
            in_force,
            signed,
            hash,
        })
    }
}

/// The state at an instant: a consent whose time is over is EXPIRED even before anyone wrote that down.
pub(crate) fn state_at(row: &ConsentRow, now: Timestamp) -> State {
    let state = row.progress.state;
    if !state.is_terminal() && row.document.expires <= now {
        State::Expired
    } else {
        state
    }
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
            Self::Signed(signed) => (
                &signed.consent_id,
                signed.operation,
                signed.narrowed.as_ref(),
            ),
            Self::Held {
                consent_id,
                operation,
                narrowed,
                ..
            } => (consent_id, *operation, narrowed.as_ref()),
        }
    }

    fn actor(&self) -> Actor {
        match self {
            Self::Signed(signed) => Actor::Signatory(signed.signatory.clone()),
            Self::Held { by, .. } => Actor::Holder(by.clone()),
        }
    }
}

impl Ledger {
    /// Records a request for a consent; nothing is permitted by it.
    pub async fn request_consent(
        &self,
        catalog: &Catalog,
        request: ConsentRequest,
    ) -> Result<Consent> {
        // A request that is refused anyhow gives no enterprise a number.
        let id = ConsentId::new(format!("c-{}", text::random_hex::<10>()?))
            .map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        let now = Timestamp(self.inner.clock.now_ms());
        let trial = Circumstances {
            consent_id: id.clone(),
            threshold: 1,
            now,
        };
        request.clone().into_document(catalog, trial)?;
        let no = self.number_of(request.principal()?).await?;
        let mut change = self.change().await?;
        if !parties::org_exists(change.connection(), request.org()).await? {
            return Err(LedgerError::UnknownOrganisation(request.org().clone()));
        }
        let replaced = match request.supersedes() {
            Some(id) => Some(find(&mut change, id).await?),
            None => None,
        };
        let threshold = parties::threshold(change.connection(), no).await?;
        let document = request.into_document(
            catalog,
            Circumstances {
                consent_id: id,
                threshold,
                now: change.now,
            },
        )?;
        if let Some(replaced) = replaced {
            let same = replaced.document.principal == document.principal
                && replaced.document.consumer == document.consumer
                && replaced.document.purpose == document.purpose;
            if !same {
                let reason = "it is of another enterprise, organisation or purpose";
                return Err(LedgerError::CannotSupersede {
                    id: replaced.document.consent_id,
                    reason,
                });
            }
        }
        let event = ConsentEvent::Requested { threshold };
        let progress = Progress::apply(None, &event)
            .map_err(|reason| refused(&document.consent_id, reason))?;
        let nonce = text::random_hex::<16>()?;
        let requested = change.next_position();
        let mut row = ConsentRow {
            seq: 0,
            no,
            document,
            progress,
            nonce,
            requested,
            given: None,
        };
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
        let row = consents::latest(&mut reader, id)
            .await?
            .ok_or_else(|| LedgerError::UnknownConsent(id.clone()))?;
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
        let signing = self
            .signing_text(catalog, id, operation, narrowed.as_ref())
            .await?;
        let (consent_id, signatory) = (id.clone(), signatory.to_owned());
        let signature = key.sign(signing.text.as_bytes());
        let signed = SignedOperation {
            consent_id,
            operation,
            signatory,
            signature,
            narrowed,
        };
        self.operate(catalog, ConsentOperation::Signed(signed))
            .await
    }

    /// Does an operation on the latest version of a consent.
    pub async fn operate(&self, catalog: &Catalog, operation: ConsentOperation) -> Result<Consent> {
        let (id, what, narrowed) = operation.parts();
        if let ConsentOperation::Held { by, .. } = &operation {
            checked_name("actor", by)?;
        }
        let mut change = self.change().await?;
        let row = find(&mut change, id).await?;
        let event =
            event_of(&row, what, operation.actor()).map_err(|reason| refused(id, reason))?;
        if state_at(&row, change.now) == State::Expired {
            let reason = TransitionError::Refused {
                state: State::Expired.as_str(),
                event: event.word(),
            };
            return Err(refused(id, reason));
        }
        // The state is looked at before the signature: who signs too late should hear that it is too late.
        let after =
            Progress::apply(Some(&row.progress), &event).map_err(|reason| refused(id, reason))?;
        let document = document_of(catalog, &row, what, narrowed, change.now)?;
        let signature = match &operation {
            ConsentOperation::Signed(signed) => Some(
                self.verify(&mut change, &row, signed, document.clone())
                    .await?,
            ),
            ConsentOperation::Held { .. } => None,
        };
        let row = if what == Operation::Narrow {
            narrow(&mut change, row, document, (operation.actor(), signature)).await?
        } else {
            progress(&mut change, row, event, after, signature).await?
        };
        self.finish(change, row).await
    }

    /// Ends a consent on behalf of another than the enterprise.
    pub async fn revoke_consent(&self, id: &ConsentId, by: &str) -> Result<Consent> {
        self.end(id, ConsentEvent::Revoked { by: by.to_owned() })
            .await
    }

    /// Declares a consent void, because a key was stolen for example.
    pub async fn invalidate_consent(&self, id: &ConsentId, reason: &str) -> Result<Consent> {
        self.end(
            id,
            ConsentEvent::Invalidated {
                reason: reason.to_owned(),
            },
        )
        .await
    }

    async fn end(&self, id: &ConsentId, event: ConsentEvent) -> Result<Consent> {
        if let ConsentEvent::Revoked { by: why } | ConsentEvent::Invalidated { reason: why } =
            &event
        {
            checked_name("actor or reason", why)?;
        }
        let mut change = self.change().await?;
        let row = find(&mut change, id).await?;
        let after =
            Progress::apply(Some(&row.progress), &event).map_err(|reason| refused(id, reason))?;
        let row = progress(&mut change, row, event, after, None).await?;
        self.finish(change, row).await
    }

    /// Records the expiry of every consent whose time is over; how many. It permits nothing already. Holdings whose time
    /// is over are marked as well.
    pub async fn expire_due(&self) -> Result<u64> {
        self.end_lives().await?;
        let mut expired = 0;
        loop {
            let mut change = self.change().await?;
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
        let logged = events::last_logged(change.connection())
            .await?
            .map_or(0, |(position, _)| position);
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
        let found = signatories
            .into_iter()
            .find(|(name, _)| *name == signed.signatory);
        let Some((signatory, key)) = found else {
            return Err(LedgerError::UnknownSignatory(text::shown(
                &signed.signatory,
            )));
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
