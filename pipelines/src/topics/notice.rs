//! Notices: what a subscriber is told when an authorisation ends, in whole or part.
//!
//! The rows themselves go by `deleted` and `upserted` events; a notice is about everything else that was made of them.
//! `data`: `dataset`, `topic`, `columns`, `reason` (withdrawn, paused, narrowed, expired, revoked, invalidated,
//! rejected, or agreement: no agreement opens the columns any more), `delete_by` (a day of Asia/Shanghai, included)
//! and, where it is about one enterprise, `uscc`, `consent_id` and `data_life_days`.
//!
//! A notice follows from scopes alone, never from rows: it says nothing that the enterprise did not tell the
//! organisation when it granted.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Days;
use qihui_catalog::{Date, EnterpriseNo, TopicName};
use qihui_query::QueryError;
use qihui_query::access::Gate;
use qihui_query::access::delivery::{ConsentStanding, ConsentState, Recipient, View};
use serde_json::json;

use super::event::{EventKind, Events};
use super::progress::Progress;

/// How many days a subscriber has to delete what an enterprise took back, unless it may keep it for less.
pub const DELETE_WITHIN_DAYS: u32 = 7;
/// How many notices a page carries at most.
pub const MAX_NOTICES: usize = 1000;

/// What ended between the views `since` and the present one.
#[derive(Debug, Default)]
struct Ended {
    for_all: BTreeSet<String>,
    of: BTreeMap<u32, BTreeSet<String>>,
}

fn ended(gate: &Gate, recipient: &Recipient, since: &[View], present: &View) -> Ended {
    let mut ended = Ended::default();
    for view in since {
        for loss in gate.losses(recipient, view, present) {
            match loss.enterprises {
                None => ended.for_all.extend(loss.columns),
                Some(numbers) => {
                    for no in numbers {
                        ended
                            .of
                            .entry(no)
                            .or_default()
                            .extend(loss.columns.iter().cloned());
                    }
                }
            }
        }
    }
    ended
}

/// Appends the notices that are due between the views `since` and the `present` one; the last enterprise that has one,
/// if more are due than a page carries.
///
/// # Errors
/// The ledger cannot be read.
pub async fn append(
    gate: &Gate,
    (recipient, topic): (&Recipient, &TopicName),
    progress: &Progress,
    since: &[View],
    present: &View,
    events: &mut Events,
) -> Result<Option<u32>, QueryError> {
    let ended = ended(gate, recipient, since, present);
    let partly = progress.noticed.partly.as_ref();
    let done = partly
        .filter(|(view, _)| view == present.key())
        .map(|(_, no)| *no);
    let today = present.at().shanghai_date();
    if !ended.for_all.is_empty() && done.is_none() {
        let data = json!({
            "dataset": recipient.dataset,
            "topic": topic,
            "columns": ended.for_all,
            "reason": "agreement",
            "delete_by": later(today, DELETE_WITHIN_DAYS),
        });
        push(events, (None, ""), &data)?;
    }
    let mut due: Vec<(u32, BTreeSet<String>)> = ended
        .of
        .into_iter()
        .filter(|(no, _)| done.is_none_or(|done| *no > done) && !progress.held.holds_nothing(*no))
        .collect();
    let more = due.len() > MAX_NOTICES;
    due.truncate(MAX_NOTICES);
    let numbers: Vec<EnterpriseNo> = due.iter().map(|(no, _)| EnterpriseNo(*no)).collect();
    let codes = gate.codes_of(&numbers)?;
    for ((no, columns), uscc) in due.iter().zip(codes) {
        let standing = gate.standing(recipient, EnterpriseNo(*no)).await?;
        let cap = gate.data_life_days(&recipient.purpose).unwrap_or(0);
        let life = standing
            .as_ref()
            .map_or(cap, |standing| standing.data_life_days);
        let data = json!({
            "dataset": recipient.dataset,
            "topic": topic,
            "uscc": uscc,
            "columns": columns,
            "reason": reason(standing.as_ref()),
            "consent_id": standing.as_ref().map(|standing| &standing.consent_id),
            "data_life_days": life,
            "delete_by": delete_by(standing.as_ref(), today, life),
        });
        push(events, (Some(*no), uscc.as_str()), &data)?;
    }
    Ok(due.last().filter(|_| more).map(|(no, _)| *no))
}

fn push(
    events: &mut Events,
    about: (Option<u32>, &str),
    data: &serde_json::Value,
) -> Result<(), QueryError> {
    events.push(EventKind::Ended, about, |out| {
        serde_json::to_writer(out, data).map_err(|_| QueryError::Internal {
            what: "writing a notice",
        })
    })
}

fn later(day: Date, days: u32) -> Date {
    day.checked_add_days(Days::new(days.into()))
        .unwrap_or(Date::MAX)
}

/// What ran out may be kept for its data life after its end; what was taken back, for a few days at most.
fn delete_by(standing: Option<&ConsentStanding>, today: Date, life: u32) -> Date {
    match standing {
        Some(standing) if standing.state == ConsentState::Expired => {
            later(standing.expires.shanghai_date(), life).max(today)
        }
        _ => later(today, life.min(DELETE_WITHIN_DAYS)),
    }
}

fn reason(standing: Option<&ConsentStanding>) -> &'static str {
    match standing.map(|standing| standing.state) {
        Some(ConsentState::Withdrawn) => "withdrawn",
        Some(ConsentState::Paused) => "paused",
        Some(ConsentState::Expired) => "expired",
        Some(ConsentState::Revoked) => "revoked",
        Some(ConsentState::Invalidated) => "invalidated",
        Some(ConsentState::Rejected) => "rejected",
        Some(
            ConsentState::Active
            | ConsentState::Superseded
            | ConsentState::Requested
            | ConsentState::PartiallySigned,
        ) => "narrowed",
        None => "agreement",
    }
}
