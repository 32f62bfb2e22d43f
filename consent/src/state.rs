//! The state machine of a consent: a fold over its events.
//!
//! Promise: the state of a version of a consent is [`Progress::apply`] folded over its events and nothing else;
//! terminal states never reopen; only [`State::Active`] permits anything. What gives (a signature that makes it
//! active, a resumption) needs the threshold of signatories; what takes away needs one event.
//!
//! | state \ event | Signed | Rejected | Paused | ResumeSigned | Lifted | Withdrawn | Revoked | Expired | Invalidated | Superseded |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | (none) | – | – | – | – | – | – | – | – | – | – |
//! | REQUESTED | PARTIALLY_SIGNED, ACTIVE¹ | REJECTED | – | – | – | WITHDRAWN | REVOKED | EXPIRED | INVALIDATED | – |
//! | PARTIALLY_SIGNED | PARTIALLY_SIGNED, ACTIVE¹ | REJECTED | – | – | – | WITHDRAWN | REVOKED | EXPIRED | INVALIDATED | – |
//! | ACTIVE | – | – | PAUSED | – | – | WITHDRAWN | REVOKED | EXPIRED | INVALIDATED | SUPERSEDED |
//! | PAUSED | – | – | PAUSED² | PAUSED, ACTIVE¹ | ACTIVE³ | WITHDRAWN | REVOKED | EXPIRED | INVALIDATED | SUPERSEDED |
//! | any terminal | – | – | – | – | – | – | – | – | – | – |
//!
//! `–`: refused. ¹ when the threshold of distinct signatories is reached. ² only where it changes something: while some
//! have signed for resumption it discards what they signed, and a signed pause makes an unsigned one signed. ³ only
//! while the pause was made without a signature, by whoever holds the hub: lifting it restores what the signatories
//! signed and gives nothing beyond. A consent begins with Requested (REQUESTED) or, as a narrower version of one that is
//! ACTIVE or PAUSED, with Narrowed, which keeps that state; neither occurs later.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// The state of one version of a consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Asked for by the organisation; nobody has signed.
    Requested,
    /// Signed by some, not yet by as many as are needed.
    PartiallySigned,
    /// In force.
    Active,
    /// Suspended by the enterprise; may be resumed.
    Paused,
    /// Refused by the enterprise.
    Rejected,
    /// Taken back by the enterprise.
    Withdrawn,
    /// Ended by another than the enterprise.
    Revoked,
    /// Its time is over.
    Expired,
    /// Found void.
    Invalidated,
    /// Replaced by a later version or another consent.
    Superseded,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Requested,
        Self::PartiallySigned,
        Self::Active,
        Self::Paused,
        Self::Rejected,
        Self::Withdrawn,
        Self::Revoked,
        Self::Expired,
        Self::Invalidated,
        Self::Superseded,
    ];

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(
            self,
            Self::Requested | Self::PartiallySigned | Self::Active | Self::Paused
        )
    }

    /// The state as written in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::PartiallySigned => "PARTIALLY_SIGNED",
            Self::Active => "ACTIVE",
            Self::Paused => "PAUSED",
            Self::Rejected => "REJECTED",
            Self::Withdrawn => "WITHDRAWN",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
            Self::Invalidated => "INVALIDATED",
            Self::Superseded => "SUPERSEDED",
        }
    }

    /// The state written so.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who acted for the enterprise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A signatory, with a signature.
    Signatory(String),
    /// Whoever holds the hub, without one, as it names itself, for example `local:root`.
    Holder(String),
}

/// How a consent was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// With the signature of a signatory.
    Signed,
    /// Without a signature.
    Held,
}

/// Something that happened to a version of a consent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConsentEvent {
    /// The organisation asked for it.
    Requested {
        /// How many signatories have to sign.
        threshold: u32,
    },
    /// It came into being as a narrower version of one in this state.
    Narrowed {
        /// Who narrowed it.
        by: Actor,
        /// How many signatories would have to sign for a resumption.
        threshold: u32,
        /// The pause that the version before it was in.
        pause: Option<Pause>,
    },
    /// A signatory gave it.
    Signed {
        /// Who.
        signatory: String,
    },
    /// The enterprise refused it.
    Rejected {
        /// Who.
        by: Actor,
    },
    /// The enterprise suspended it.
    Paused {
        /// Who.
        by: Actor,
    },
    /// A signatory agreed to resume it.
    ResumeSigned {
        /// Who.
        signatory: String,
    },
    /// The enterprise took it back.
    Withdrawn {
        /// Who.
        by: Actor,
    },
    /// Who had suspended it without a signature lifted the suspension.
    Lifted {
        /// Who.
        by: Actor,
    },
    /// Another than the enterprise ended it.
    Revoked {
        /// Who, as the caller names itself.
        by: String,
    },
    /// Its time was over.
    Expired,
    /// It was found void.
    Invalidated {
        /// Why.
        reason: String,
    },
    /// It was replaced.
    Superseded,
}

impl ConsentEvent {
    /// The event as a word, the same as in its JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Requested { .. } => "requested",
            Self::Narrowed { .. } => "narrowed",
            Self::Signed { .. } => "signed",
            Self::Rejected { .. } => "rejected",
            Self::Paused { .. } => "paused",
            Self::ResumeSigned { .. } => "resume_signed",
            Self::Lifted { .. } => "lifted",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Revoked { .. } => "revoked",
            Self::Expired => "expired",
            Self::Invalidated { .. } => "invalidated",
            Self::Superseded => "superseded",
        }
    }
}

/// How far a version of a consent has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The state.
    pub state: State,
    /// How many signatories have to sign what gives.
    pub threshold: u32,
    /// Who signed the giving or, while paused, the resumption.
    pub signed: BTreeSet<String>,
    /// The suspension it is in: there is one exactly in the state PAUSED.
    pub pause: Option<Pause>,
}

/// Why an event cannot follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The state does not allow it.
    #[error("in state {state} it cannot be {event}")]
    Refused {
        /// The state.
        state: &'static str,
        /// The event.
        event: &'static str,
    },
    /// This signatory signed before.
    #[error("signatory `{signatory}` has signed this already: another signatory has to")]
    AlreadySigned {
        /// Who.
        signatory: String,
    },
    /// A threshold of 0 would make a consent without anyone's consent.
    #[error("a consent needs at least one signatory")]
    NoThreshold,
}

impl Progress {
    /// The progress of a consent to which all of `events` happened, in order.
    pub fn fold<'e>(
        events: impl IntoIterator<Item = &'e ConsentEvent>,
    ) -> Result<Option<Self>, TransitionError> {
        events
            .into_iter()
            .try_fold(None, |progress: Option<Self>, event| {
                Self::apply(progress.as_ref(), event).map(Some)
            })
    }

    /// The progress after `event`, which may be the first.
    pub fn apply(progress: Option<&Self>, event: &ConsentEvent) -> Result<Self, TransitionError> {
        let Some(before) = progress else {
            return Self::begin(event);
        };
        let to = |state| {
            Ok(Self {
                state,
                threshold: before.threshold,
                signed: BTreeSet::new(),
                pause: None,
            })
        };
        let paused = |pause| Self {
            pause: Some(pause),
            ..Self::new(State::Paused, before.threshold)
        };
        let open = matches!(before.state, State::Requested | State::PartiallySigned);
        let given = matches!(before.state, State::Active | State::Paused);
        match (event, before.pause) {
            (ConsentEvent::Signed { signatory }, _) if open => {
                before.sign(signatory, State::PartiallySigned)
            }
            (ConsentEvent::Rejected { .. }, _) if open => to(State::Rejected),
            (ConsentEvent::Paused { by }, None) if given => Ok(paused(by.pause())),
            (ConsentEvent::Paused { by }, Some(pause)) => {
                let after = paused(pause.min(by.pause()));
                if after == *before {
                    Err(before.refusal(event))
                } else {
                    Ok(after)
                }
            }
            (ConsentEvent::ResumeSigned { signatory }, Some(_)) => {
                before.sign(signatory, State::Paused)
            }
            (ConsentEvent::Lifted { .. }, Some(Pause::Held)) => to(State::Active),
            (ConsentEvent::Superseded, _) if given => to(State::Superseded),
            (ConsentEvent::Withdrawn { .. }, _) if open || given => to(State::Withdrawn),
            (ConsentEvent::Revoked { .. }, _) if open || given => to(State::Revoked),
            (ConsentEvent::Expired, _) if open || given => to(State::Expired),
            (ConsentEvent::Invalidated { .. }, _) if open || given => to(State::Invalidated),
            _ => Err(before.refusal(event)),
        }
    }

    const fn new(state: State, threshold: u32) -> Self {
        Self {
            state,
            threshold,
            signed: BTreeSet::new(),
            pause: None,
        }
    }

    const fn refusal(&self, event: &ConsentEvent) -> TransitionError {
        TransitionError::Refused {
            state: self.state.as_str(),
            event: event.word(),
        }
    }

    fn begin(event: &ConsentEvent) -> Result<Self, TransitionError> {
        let progress = match event {
            ConsentEvent::Requested { threshold } => Self::new(State::Requested, *threshold),
            ConsentEvent::Narrowed {
                threshold,
                pause: None,
                ..
            } => Self::new(State::Active, *threshold),
            ConsentEvent::Narrowed {
                threshold, pause, ..
            } => Self {
                pause: *pause,
                ..Self::new(State::Paused, *threshold)
            },
            _ => {
                return Err(TransitionError::Refused {
                    state: "NONE",
                    event: event.word(),
                });
            }
        };
        if progress.threshold == 0 {
            Err(TransitionError::NoThreshold)
        } else {
            Ok(progress)
        }
    }

    /// One more signature; ACTIVE when enough have signed, `short` before that.
    fn sign(&self, signatory: &str, short: State) -> Result<Self, TransitionError> {
        let mut signed = self.signed.clone();
        if !signed.insert(signatory.to_owned()) {
            return Err(TransitionError::AlreadySigned {
                signatory: signatory.to_owned(),
            });
        }
        let enough = u32::try_from(signed.len()).is_ok_and(|count| count >= self.threshold);
        Ok(if enough {
            Self::new(State::Active, self.threshold)
        } else {
            Self {
                state: short,
                signed,
                ..self.clone()
            }
        })
    }
}

impl Actor {
    const fn pause(&self) -> Pause {
        match self {
            Self::Signatory(_) => Pause::Signed,
            Self::Holder(_) => Pause::Held,
        }
    }
}
