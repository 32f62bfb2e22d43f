//! Notices: what a subscriber is told when an authorisation ends, in whole or part.
//!
//! The rows themselves go by `deleted` and `upserted` events; a notice is about everything else that was made of them.
//! `data`: `dataset`, `topic`, `columns`, `reason` (withdrawn, paused, narrowed, expired, revoked, invalidated,
//! rejected, or agreement: agreements or contract open less), `delete_by` (a day of Asia/Shanghai, included) and, where
//! it is about one enterprise, `uscc`, `consent_id` and `data_life_days`. About everybody: what is still in the copy
//! stays open, since consents open it.
//!
//! A notice follows from scopes alone, never from rows: it says nothing that the enterprise did not tell the
//! organisation when it granted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::Days;
use qihui_catalog::{Date, EnterpriseNo, TopicName};
use qihui_query::QueryError;
use qihui_query::access::Gate;
use qihui_query::access::delivery::{ConsentStanding, ConsentState, Loss, Recipient, View};
use serde_json::json;

use super::event::{EventKind, Events};
use super::interval::IntervalMap;

/// How many days a subscriber has to delete what an enterprise took back, unless it may keep it for less.
pub const DELETE_WITHIN_DAYS: u32 = 7;

/// What notices a page may have to carry.
#[derive(Debug)]
pub struct Due<'a> {
    /// Runs of enterprise numbers, with the views since which the subscriber was not told what ended. Number 0 is
    /// everybody.
    pub since: Vec<(RangeInclusive<u32>, Vec<Arc<View>>)>,
    /// What the subscriber holds.
    pub held: &'a IntervalMap,
    /// How many notices about single enterprises a page carries at most.
    pub at_most: usize,
}

/// What ended between views of the past and the present one.
#[derive(Debug, Default)]
struct Ended {
    for_all: BTreeSet<String>,
    of: BTreeMap<u32, BTreeSet<String>>,
    /// The earliest day of those views.
    day: Date,
}

fn ended(gate: &Gate, recipient: &Recipient, due: &Due<'_>, present: &View) -> Ended {
    let mut ended = Ended {
        day: Date::MAX,
        ..Ended::default()
    };
    let mut losses = HashMap::new();
    for (range, views) in &due.since {
        for view in views {
            ended.day = ended.day.min(view.key().day);
            let losses = losses
                .entry(view.key().clone())
                .or_insert_with(|| gate.losses(recipient, view, present));
            ended.take(range, losses);
        }
    }
    ended
}

impl Ended {
    fn take(&mut self, range: &RangeInclusive<u32>, losses: &[Loss]) {
        for loss in losses {
            match &loss.enterprises {
                None if range.contains(&0) => self.for_all.extend(loss.columns.iter().cloned()),
                None => {}
                Some(numbers) => {
                    for no in numbers.range(range.clone()) {
                        let columns = self.of.entry(no).or_default();
                        columns.extend(loss.columns.iter().cloned());
                    }
                }
            }
        }
    }
}

/// Appends the notices that are due between views of the past and the `present` one, to who may hold something; the
/// last enterprise that has one, if more are due than a page carries.
///
/// # Errors
/// The ledger cannot be read.
pub async fn append(
    gate: &Gate,
    (recipient, topic): (&Recipient, &TopicName),
    due: &Due<'_>,
    present: &View,
    events: &mut Events,
) -> Result<Option<u32>, QueryError> {
    let ended = ended(gate, recipient, due, present);
    let today = present.at().shanghai_date();
    if !ended.for_all.is_empty() {
        let data = json!({
            "dataset": recipient.dataset,
            "topic": topic,
            "columns": ended.for_all,
            "reason": "agreement",
            "delete_by": later(today, DELETE_WITHIN_DAYS),
        });
        push(events, (None, ""), &data)?;
    }
    let mut about: Vec<(u32, BTreeSet<String>)> = ended
        .of
        .into_iter()
        .filter(|(no, _)| !due.held.holds_nothing(*no))
        .collect();
    let more = about.len() > due.at_most;
    about.truncate(due.at_most);
    let numbers: Vec<EnterpriseNo> = about.iter().map(|(no, _)| EnterpriseNo(*no)).collect();
    let codes = gate.codes_of(&numbers)?;
    for ((no, columns), uscc) in about.iter().zip(codes) {
        let no_of = EnterpriseNo(*no);
        let standing = gate.standing(recipient, no_of, present, ended.day).await?;
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
    Ok(about.last().filter(|_| more).map(|(no, _)| *no))
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
            ConsentState::Superseded | ConsentState::Requested | ConsentState::PartiallySigned,
        ) => "narrowed",
        // No consent ended: it is the data authority that opens less.
        Some(ConsentState::Active) | None => "agreement",
    }
}
