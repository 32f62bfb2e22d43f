//! The ledger against a model of it: random operations, the same states, the same view.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};
use qihui_catalog::ConsentId;
use qihui_consent::{document::NarrowRequest, signing::Operation, state::State};

use crate::fixture::{DAY_MS, Hub, bank, purpose, vat};

#[derive(Debug, Clone)]
enum Step {
    Request,
    Signed {
        consent: usize,
        signatory: u8,
        operation: Operation,
    },
    Held {
        consent: usize,
        operation: Operation,
    },
    Narrow {
        consent: usize,
    },
    Revoke {
        consent: usize,
    },
    Invalidate {
        consent: usize,
    },
    Days(i64),
    Expire,
    Drain,
}

fn steps() -> impl Strategy<Value = Step> {
    let operation = || {
        select(vec![
            Operation::Give,
            Operation::Give,
            Operation::Give,
            Operation::Reject,
            Operation::Pause,
            Operation::Resume,
            Operation::Resume,
            Operation::Withdraw,
        ])
    };
    let held = select(vec![
        Operation::Give,
        Operation::Reject,
        Operation::Pause,
        Operation::Resume,
        Operation::Withdraw,
    ]);
    prop_oneof![
        3 => Just(Step::Request),
        12 => (0_usize..4, 1_u8..=3, operation())
            .prop_map(|(consent, signatory, operation)| Step::Signed { consent, signatory, operation }),
        3 => (0_usize..4, held).prop_map(|(consent, operation)| Step::Held { consent, operation }),
        2 => (0_usize..4).prop_map(|consent| Step::Narrow { consent }),
        1 => (0_usize..4).prop_map(|consent| Step::Revoke { consent }),
        1 => (0_usize..4).prop_map(|consent| Step::Invalidate { consent }),
        2 => (1_i64..40).prop_map(Step::Days),
        1 => Just(Step::Expire),
        5 => Just(Step::Drain),
    ]
}

/// What the model knows of a consent: written from the words of the rules, not from the code.
#[derive(Debug, Clone)]
struct Model {
    id: ConsentId,
    no: u32,
    state: State,
    signed: BTreeSet<u8>,
    /// Paused without a signature.
    held: bool,
    /// Whether what made it active is in the log.
    logged: bool,
    version: u32,
    days_left: i64,
}

const THRESHOLD: usize = 2;

impl Model {
    fn open(&self) -> bool {
        matches!(self.state, State::Requested | State::PartiallySigned)
    }

    fn given(&self) -> bool {
        matches!(self.state, State::Active | State::Paused)
    }

    fn in_force(&self) -> bool {
        self.state == State::Active && self.logged
    }

    /// Does the operation if the rules allow it.
    fn operate(&mut self, operation: Operation, signatory: Option<u8>) -> bool {
        match (operation, signatory) {
            (Operation::Give, Some(who)) if self.open() => {
                if !self.signed.insert(who) {
                    return false;
                }
                self.state = State::PartiallySigned;
                if self.signed.len() >= THRESHOLD {
                    self.become_active();
                }
            }
            (Operation::Resume, Some(who)) if self.state == State::Paused => {
                if !self.signed.insert(who) {
                    return false;
                }
                if self.signed.len() >= THRESHOLD {
                    self.become_active();
                }
            }
            (Operation::Resume, None) if self.state == State::Paused && self.held => {
                self.become_active()
            }
            (Operation::Reject, _) if self.open() => self.state = State::Rejected,
            (Operation::Pause, who) if self.state == State::Active => {
                self.state = State::Paused;
                self.held = who.is_none();
                self.signed.clear();
            }
            (Operation::Pause, who) if self.state == State::Paused => {
                let stronger = self.held && who.is_some();
                if !stronger && self.signed.is_empty() {
                    return false;
                }
                self.held = self.held && who.is_none();
                self.signed.clear();
            }
            (Operation::Withdraw, _) if self.open() || self.given() => {
                self.state = State::Withdrawn
            }
            _ => return false,
        }
        true
    }

    fn become_active(&mut self) {
        self.state = State::Active;
        self.signed.clear();
        self.logged = false;
        self.held = false;
    }

    fn end(&mut self, state: State) -> bool {
        let can = self.open() || self.given();
        if can {
            self.state = state;
        }
        can
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let hub = Hub::new().await;
    for n in 1..=4 {
        hub.enterprise(n, 3, u32::try_from(THRESHOLD).unwrap())
            .await;
    }
    let mut models: Vec<Model> = Vec::new();
    let key = (bank(), purpose("credit.loan"), vat());
    let epoch = || hub.ledger.losses().epoch(&key.0, &key.1, &key.2);
    for step in steps {
        let in_force: BTreeSet<usize> = (0..models.len())
            .filter(|i| models[*i].in_force())
            .collect();
        let before = epoch();
        match &step {
            Step::Request => {
                let n = u32::try_from(models.len()).unwrap() % 4 + 1;
                let day = qihui_catalog::Timestamp(hub.now().0 + 100 * DAY_MS).to_string();
                let consent = hub.request(n, &[("2026-06-01", &day)]).await.unwrap();
                models.push(Model {
                    id: consent.document.consent_id,
                    no: consent.no.0,
                    state: State::Requested,
                    signed: BTreeSet::new(),
                    held: false,
                    logged: false,
                    version: 1,
                    days_left: 100,
                });
            }
            Step::Days(days) => {
                hub.advance(days * DAY_MS);
                for model in &mut models {
                    model.days_left -= days;
                    if model.days_left <= 0 {
                        model.end(State::Expired);
                    }
                }
            }
            Step::Expire => {
                hub.ledger.expire_due().await.unwrap();
            }
            Step::Drain => {
                hub.drain().await;
                models.iter_mut().for_each(|model| model.logged = true);
            }
            Step::Signed {
                consent,
                signatory,
                operation,
            } => {
                let Some(model) = models.get_mut(*consent) else {
                    continue;
                };
                let n = u32::try_from(*consent).unwrap() % 4 + 1;
                let done = hub.sign(&model.id, n, *signatory, *operation, None).await;
                prop_assert_eq!(
                    model.operate(*operation, Some(*signatory)),
                    done.is_ok(),
                    "{:?}: {:?}",
                    step,
                    done
                );
            }
            Step::Held { consent, operation } => {
                let Some(model) = models.get_mut(*consent) else {
                    continue;
                };
                let done = hub.hold(&model.id, *operation).await;
                prop_assert_eq!(
                    model.operate(*operation, None),
                    done.is_ok(),
                    "{:?}: {:?}",
                    step,
                    done
                );
            }
            Step::Narrow { consent } => {
                let Some(model) = models.get_mut(*consent) else {
                    continue;
                };
                let n = u32::try_from(*consent).unwrap() % 4 + 1;
                let left = model.days_left - 1;
                let end = qihui_catalog::Timestamp(hub.now().0 + left * DAY_MS).to_string();
                let wish = NarrowRequest::parse(&format!("expires: {end}")).unwrap();
                let can = model.given() && left > 0;
                let done = hub
                    .sign(&model.id, n, 1, Operation::Narrow, Some(wish))
                    .await;
                prop_assert_eq!(can, done.is_ok(), "{:?}", done);
                if can {
                    model.version += 1;
                    model.days_left = left;
                    model.signed.clear();
                }
            }
            Step::Revoke { consent } => {
                let Some(model) = models.get_mut(*consent) else {
                    continue;
                };
                let done = hub.ledger.revoke_consent(&model.id, "steward").await;
                // Revoking one whose time is over is refused only once its expiry was recorded.
                if model.state == State::Expired {
                    continue;
                }
                prop_assert_eq!(model.end(State::Revoked), done.is_ok());
            }
            Step::Invalidate { consent } => {
                let Some(model) = models.get_mut(*consent) else {
                    continue;
                };
                if model.state == State::Expired {
                    continue;
                }
                let done = hub.ledger.invalidate_consent(&model.id, "stolen key").await;
                prop_assert_eq!(model.end(State::Invalidated), done.is_ok());
            }
        }
        for model in &models {
            let consent = hub.ledger.consent(&model.id).await.unwrap();
            prop_assert_eq!(consent.document.version, model.version);
            let ended_twice = model.state == State::Expired && consent.state.is_terminal();
            prop_assert!(
                consent.state == model.state || ended_twice,
                "{:?}: {} {:?}",
                step,
                consent.state,
                model
            );
            prop_assert_eq!(
                consent.in_force,
                model.in_force(),
                "{:?}: {:?}",
                step,
                model
            );
        }
        let expected: BTreeSet<u32> = models
            .iter()
            .filter(|model| model.in_force())
            .map(|model| model.no)
            .collect();
        let seen: BTreeSet<u32> = hub.seen().await.into_iter().collect();
        prop_assert_eq!(seen, expected, "{:?}", step);
        let lost = in_force.iter().any(|i| !models[*i].in_force());
        prop_assert!(epoch() >= before);
        if lost && !matches!(step, Step::Days(_)) {
            prop_assert!(
                epoch() > before,
                "what takes away raises the epoch: {:?}",
                step
            );
        }
    }
    hub.ledger.check().await.unwrap();
    hub.drain().await;
    let entries = hub.sink.entries.lock().len() as u64;
    prop_assert_eq!(entries, hub.ledger.position().await.unwrap());
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, max_shrink_iters: 200, ..Config::default() })]

    #[test]
    fn gate_4_the_ledger_does_what_the_model_does(steps in vec(steps(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
