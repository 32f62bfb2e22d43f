//! What the receiver may do with an answer, by the action it was asked under.
//!
//! | action | which consents count | what may be asked | what may be kept |
//! |---|---|---|---|
//! | VIEW | those with VIEW | one named enterprise, at most [`VIEW_ROWS`] rows, in a form for a screen | nothing |
//! | QUERY | those with QUERY | anything | nothing beyond the analysis that it was asked for |
//! | STORE | those with STORE | anything | the answer, as a recorded holding, until it says |
//!
//! No action contains another. What is open to everybody (L1) may be kept under each. The hub cannot see what becomes of
//! bytes that have left; it decides who is in them, says what holds, and records it.

use qihui_catalog::{Action, Timestamp};
use qihui_consent::DecisionError;
use serde::Serialize;

use super::AccessRequest;
use crate::error::QueryError;
use crate::formats::Format;

/// The most rows of an answer under VIEW: more than anybody reads on a screen, fewer than a copy needs.
pub const VIEW_ROWS: u64 = 1000;

/// Whether an answer may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// No copy of it.
    No,
    /// Until an instant, as a holding.
    Until,
    /// It is of open data alone.
    Open,
}

/// What the receiver may do with an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// What it was asked for.
    pub action: Action,
    /// Whether it may be kept.
    pub keep: Keep,
    /// Until when at most; what is taken back has to be deleted sooner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<Timestamp>,
    /// The holding it is recorded as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holding: Option<String>,
    /// The same in words.
    pub say: &'static str,
}

impl Terms {
    /// The terms of an answer: whether it is of open data alone, and the holding that it became with its end.
    #[must_use]
    pub fn new(action: Action, open: bool, held: Option<(String, Option<Timestamp>)>) -> Self {
        let is_held = held.is_some();
        let (holding, keep_until) = held.map_or((None, None), |(id, until)| (Some(id), until));
        let (keep, say) = match (open, action) {
            (true, _) => (Keep::Open, "open data: it may be kept and passed on"),
            (false, Action::View) => (
                Keep::No,
                "to be looked at for this purpose: no copy may be kept, nothing passed on",
            ),
            // Without a holding nothing left that could be kept.
            (false, Action::Store) if is_held => (
                Keep::Until,
                "it may be kept for this purpose until `keep_until`, not passed on; what an enterprise takes back has to \
                 be deleted sooner: see the holding",
            ),
            (false, _) => (
                Keep::No,
                "for the analysis that it was asked for: a working copy goes when that is done, nothing is passed on; to \
                 keep an answer, ask for it with action `store`",
            ),
        };
        Self {
            action,
            keep,
            keep_until,
            holding,
            say,
        }
    }
}

/// Refuses what is no look at a screen. That two enterprises are named is seen from their codes, before anybody looks which
/// of them the hub knows: it stands for all that it does not know by one number.
///
/// # Errors
/// [`QueryError::NotForViewing`]; several enterprises named ([`DecisionError::OneSubjectOnly`]).
pub(super) fn check(request: &AccessRequest) -> Result<(), QueryError> {
    match request.action {
        Action::View
            if request
                .subjects
                .iter()
                .any(|code| Some(code) != request.subjects.first()) =>
        {
            Err(QueryError::Refused(Box::new(
                DecisionError::OneSubjectOnly(request.action),
            )))
        }
        Action::View if !matches!(request.format, Format::Table | Format::Ndjson) => {
            Err(QueryError::NotForViewing {
                what: request.format.as_str(),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_store_and_open_data_may_be_kept() {
        let until = Timestamp(7);
        let held = || Some(("h-1".to_owned(), Some(until)));
        for action in [Action::View, Action::Query] {
            let terms = Terms::new(action, false, None);
            assert_eq!((terms.keep, terms.keep_until), (Keep::No, None));
            assert_eq!(Terms::new(action, true, None).keep, Keep::Open);
        }
        let terms = Terms::new(Action::Store, false, held());
        assert_eq!((terms.keep, terms.keep_until), (Keep::Until, Some(until)));
        assert_eq!(Terms::new(Action::Store, false, None).keep, Keep::No);
    }
}
