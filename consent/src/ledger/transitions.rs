//! What an event does to a version of a consent, and to what it opens.

use std::collections::BTreeMap;

use qihui_catalog::{Catalog, ConsentId, DatasetId, OrgId, PurposeCode, Timestamp};
use serde::Serialize;

use super::{change::Change, consents::Signature, epochs::Loss, marks};
use crate::{
    decision::ScopeItem,
    document::{ConsentDocument, NarrowRequest},
    error::{LedgerError, Result},
    signing::Operation,
    state::{Actor, ConsentEvent, Progress, State, TransitionError},
    store::{
        consents::{self, ConsentRow},
        events,
        grants::{self, Entry, NewGrant},
    },
    text,
};

/// What an event of a consent says.
#[derive(Serialize)]
struct Body<'a> {
    consent_id: &'a ConsentId,
    version: u32,
    event: &'a ConsentEvent,
    state: State,
    org: &'a OrgId,
    purpose: &'a PurposeCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a ConsentDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

pub(super) fn refused(id: &ConsentId, reason: TransitionError) -> LedgerError {
    LedgerError::Transition {
        id: id.clone(),
        reason,
    }
}

pub(super) async fn find(change: &mut Change, id: &ConsentId) -> Result<ConsentRow> {
    consents::latest(change.connection(), id)
        .await?
        .ok_or_else(|| LedgerError::UnknownConsent(id.clone()))
}

/// The document that an operation is about: the narrower one for a narrowing.
pub(super) fn document_of(
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
            Err(LedgerError::Malformed {
                what: "narrower consent",
                reason,
            })
        }
        (_, None) => Ok(row.document.clone()),
    }
}

/// The event that an operation makes on the version it is about.
pub(super) fn event_of(
    row: &ConsentRow,
    operation: Operation,
    actor: Actor,
) -> Result<ConsentEvent, TransitionError> {
    Ok(match (operation, actor) {
        (Operation::Give, Actor::Signatory(signatory)) => ConsentEvent::Signed { signatory },
        (Operation::Resume, Actor::Signatory(signatory)) => {
            ConsentEvent::ResumeSigned { signatory }
        }
        (Operation::Give, Actor::Holder(_)) => {
            let event = "given without the signature of a signatory";
            return Err(TransitionError::Refused {
                state: row.progress.state.as_str(),
                event,
            });
        }
        (Operation::Resume, by @ Actor::Holder(_)) => ConsentEvent::Lifted { by },
        (Operation::Reject, by) => ConsentEvent::Rejected { by },
        (Operation::Pause, by) => ConsentEvent::Paused { by },
        (Operation::Withdraw, by) => ConsentEvent::Withdrawn { by },
        (Operation::Narrow, _) => ConsentEvent::Superseded,
    })
}

pub(super) async fn append(
    change: &mut Change,
    row: &ConsentRow,
    event: &ConsentEvent,
    signature: Option<Signature>,
) -> Result<u64> {
    let document = &row.document;
    let begins = matches!(
        event,
        ConsentEvent::Requested { .. } | ConsentEvent::Narrowed { .. }
    );
    let body = Body {
        consent_id: &document.consent_id,
        version: document.version,
        event,
        state: row.progress.state,
        org: &document.consumer.org,
        purpose: &document.purpose.code,
        document: begins.then_some(document),
        document_hash: if begins {
            Some(hex::encode(document.hash()?))
        } else {
            None
        },
        signature,
    };
    let consent = Some((document.consent_id.as_str(), document.version));
    change
        .append(
            &format!("consent.{}", event.word()),
            &body,
            &[row.no],
            consent,
        )
        .await
}

/// Takes a version from one state to the next, with everything that follows from it.
pub(super) async fn progress(
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
        let ended = matches!(event, ConsentEvent::Expired);
        take_grants(
            change,
            &row,
            if ended { Taking::Nothing } else { Taking::Loss },
        )
        .await?;
    }
    consents::update(change.connection(), &row).await?;
    if before.state != state {
        marks::taken_back(change, &row).await?;
    }
    if gives && before.state != State::Paused {
        supersede_other(change, &row).await?;
    }
    Ok(row)
}

/// Ends the consent that this one replaces.
async fn supersede_other(change: &mut Change, row: &ConsentRow) -> Result<()> {
    let Some(other) = &row.document.supersedes else {
        return Ok(());
    };
    let other = find(change, &other.consent_id).await?;
    let event = ConsentEvent::Superseded;
    // One that ended by itself in the meantime needs no end.
    if let Ok(after) = Progress::apply(Some(&other.progress), &event) {
        let other = Box::pin(progress(change, other, event, after, None)).await?;
        marks::replaced(change, &other, &row.document, "superseded").await?;
    }
    Ok(())
}

/// Replaces a version by a narrower one in the same state.
pub(super) async fn narrow(
    change: &mut Change,
    mut old: ConsentRow,
    document: ConsentDocument,
    (by, signature): (Actor, Option<Signature>),
) -> Result<ConsentRow> {
    let id = old.document.consent_id.clone();
    let (threshold, pause) = (old.progress.threshold, old.progress.pause);
    let begin = ConsentEvent::Narrowed {
        by,
        threshold,
        pause,
    };
    let now_progress = Progress::apply(None, &begin).map_err(|reason| refused(&id, reason))?;
    old.progress = Progress::apply(Some(&old.progress), &ConsentEvent::Superseded)
        .map_err(|e| refused(&id, e))?;
    append(change, &old, &ConsentEvent::Superseded, None).await?;
    consents::update(change.connection(), &old).await?;
    take_grants(change, &old, Taking::Loss).await?;
    let requested = change.next_position();
    let nonce = text::random_hex::<16>()?;
    let mut row = ConsentRow {
        seq: 0,
        no: old.no,
        document,
        progress: now_progress,
        nonce,
        requested,
        given: old.given,
    };
    append(change, &row, &begin, signature).await?;
    row.seq = consents::insert(change.connection(), &row).await?;
    marks::replaced(change, &old, &row.document, "narrowed").await?;
    if row.progress.state == State::Active {
        // It opens a part of what is open, so it need not wait for the log; unless the whole still waits.
        let logged = events::last_logged(change.connection())
            .await?
            .map_or(0, |(position, _)| position);
        let in_force = row.given.is_some_and(|given| given <= logged);
        put_grants(
            change,
            &row,
            if in_force {
                grants::ON
            } else {
                grants::WAITING
            },
        )
        .await?;
    }
    Ok(row)
}

/// The scope of a document by dataset.
pub(crate) fn by_dataset(document: &ConsentDocument) -> Vec<(DatasetId, Vec<ScopeItem>)> {
    let mut datasets: BTreeMap<_, Vec<ScopeItem>> = BTreeMap::new();
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
            given,
        };
        let grant = NewGrant {
            grantee,
            consent: row.seq,
            entry,
            status,
            data_life: document.data_life_days,
            revision,
        };
        grants::put(change.connection(), grant).await?;
    }
    Ok(())
}

/// What the end of grants takes from decisions that rest on them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taking {
    Loss,
    /// They ended when they were to end: no decision reaches that far.
    Nothing,
}

async fn take_grants(change: &mut Change, row: &ConsentRow, taking: Taking) -> Result<()> {
    let revision = change.revision;
    grants::switch_off(change.connection(), row.seq, revision).await?;
    if taking == Taking::Nothing {
        return Ok(());
    }
    let document = &row.document;
    for (dataset, _) in by_dataset(document) {
        let key = (
            document.consumer.org.clone(),
            document.purpose.code.clone(),
            dataset,
        );
        change.takes(key, Loss::Of(row.no));
    }
    Ok(())
}
