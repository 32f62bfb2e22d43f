//! Epochs: what was taken away since a decision was made.
//!
//! Promise: the epoch of (organisation, purpose, dataset) is the position of the last event that took something away
//! from it, or a later position; so it never falls. After a restart every epoch is the last position: no decision from
//! before can still be running. What ends by itself, at the time that was agreed, raises no epoch: a decision leaves out
//! whatever ends before its deadline, and nothing is released under it after that. Limits: the enterprises of the last [`REMEMBERED`] events are kept per key; whoever
//! asks about an older epoch hears that everything may be gone.

use std::collections::{HashMap, VecDeque};

use qihui_catalog::{DatasetId, EnterpriseNo};

use super::EpochKey;

/// How many events are remembered per key: more than happen while a query sorts.
const REMEMBERED: usize = 16_384;

/// What was taken away.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// Possibly everything: an agreement, a purpose or a contract changed, or it is too long ago to say.
    Everything,
    /// Something that these enterprises had granted; of no one, if it is empty. In the order in which it was taken, an
    /// enterprise as often as it lost something: it is copied while whoever takes something away waits, so that nothing is
    /// made of it here.
    From(Vec<EnterpriseNo>),
}

/// What an event takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Everything,
    Of(EnterpriseNo),
}

#[derive(Debug)]
pub(crate) struct Epochs {
    /// The epoch of every key of which nothing is known.
    start: u64,
    keys: HashMap<EpochKey, History>,
}

#[derive(Debug)]
struct History {
    /// Up to here everything may have been taken away.
    floor: u64,
    losses: VecDeque<(u64, EnterpriseNo)>,
}

impl History {
    fn epoch(&self) -> u64 {
        self.losses
            .back()
            .map_or(self.floor, |(position, _)| *position)
    }
}

impl Epochs {
    pub(crate) fn starting_at(position: u64) -> Self {
        Self {
            start: position,
            keys: HashMap::new(),
        }
    }

    pub(crate) fn of(&self, key: &EpochKey) -> u64 {
        self.keys
            .get(key)
            .map_or(self.start, |history| history.epoch().max(self.start))
    }

    pub(crate) fn taken_since(&self, key: &EpochKey, epoch: u64) -> Taken {
        let floor = self.keys.get(key).map_or(0, |history| history.floor);
        if epoch < floor.max(self.start) {
            return Taken::Everything;
        }
        let Some(history) = self.keys.get(key) else {
            return Taken::From(Vec::new());
        };
        // In the order of positions: what is asked for is at the end.
        let known = history
            .losses
            .partition_point(|(position, _)| *position <= epoch);
        let losses = history.losses.range(known..);
        Taken::From(losses.map(|(_, no)| *no).collect())
    }

    /// Notes that the event at `position` took something away from a key.
    pub(crate) fn bump(&mut self, position: u64, key: EpochKey, loss: Loss) {
        let start = self.start;
        let history = self.keys.entry(key).or_insert_with(|| History {
            floor: start,
            losses: VecDeque::new(),
        });
        match loss {
            Loss::Everything => {
                history.floor = position;
                history.losses.clear();
            }
            Loss::Of(no) => history.losses.push_back((position, no)),
        }
        while history.losses.len() > REMEMBERED {
            if let Some((forgotten, _)) = history.losses.pop_front() {
                history.floor = forgotten;
            }
        }
    }

    /// Notes that the event at `position` took something away from every key, or from every key of a dataset.
    pub(crate) fn bump_all(&mut self, position: u64, dataset: Option<&DatasetId>) {
        // INVARIANT: keys without a history have the epoch `start`, so a change to a dataset raises it for all.
        self.start = self.start.max(position);
        self.keys
            .retain(|(_, _, of), _| dataset.is_some_and(|dataset| dataset != of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(dataset: &str) -> EpochKey {
        (
            "bank".parse().unwrap(),
            "credit".parse().unwrap(),
            dataset.parse().unwrap(),
        )
    }

    #[test]
    fn gate_4_an_epoch_rises_with_every_loss_and_says_whose() {
        let mut epochs = Epochs::starting_at(10);
        assert_eq!(epochs.of(&key("tax")), 10);
        epochs.bump(11, key("tax"), Loss::Of(EnterpriseNo(7)));
        epochs.bump(12, key("tax"), Loss::Of(EnterpriseNo(9)));
        assert_eq!(
            (epochs.of(&key("tax")), epochs.of(&key("customs"))),
            (12, 10)
        );
        assert_eq!(
            epochs.taken_since(&key("tax"), 11),
            Taken::From(vec![EnterpriseNo(9)])
        );
        assert_eq!(
            epochs.taken_since(&key("tax"), 10),
            Taken::From(vec![EnterpriseNo(7), EnterpriseNo(9)])
        );
        assert_eq!(epochs.taken_since(&key("tax"), 12), Taken::From(Vec::new()));
        assert_eq!(
            epochs.taken_since(&key("tax"), 9),
            Taken::Everything,
            "from before the restart"
        );
        epochs.bump(13, key("tax"), Loss::Everything);
        assert_eq!(epochs.taken_since(&key("tax"), 12), Taken::Everything);
        assert_eq!(epochs.taken_since(&key("tax"), 13), Taken::From(Vec::new()));
    }

    #[test]
    fn gate_4_what_is_forgotten_counts_as_everything() {
        let mut epochs = Epochs::starting_at(0);
        let last = REMEMBERED as u64 + 1000;
        for position in 1..=last {
            epochs.bump(position, key("tax"), Loss::Of(EnterpriseNo(1)));
        }
        assert_eq!(epochs.of(&key("tax")), last);
        assert_eq!(epochs.taken_since(&key("tax"), 900), Taken::Everything);
        assert_eq!(
            epochs.taken_since(&key("tax"), last - 10),
            Taken::From(vec![EnterpriseNo(1); 10])
        );
        assert_eq!(
            epochs.taken_since(&key("tax"), last - REMEMBERED as u64),
            Taken::From(vec![EnterpriseNo(1); REMEMBERED]),
            "everything that is remembered"
        );
    }

    #[test]
    fn gate_4_a_new_contract_ends_every_decision() {
        let mut epochs = Epochs::starting_at(0);
        epochs.bump(1, key("tax"), Loss::Of(EnterpriseNo(1)));
        epochs.bump(2, key("customs"), Loss::Of(EnterpriseNo(1)));
        epochs.bump_all(3, Some(&key("tax").2));
        assert_eq!((epochs.of(&key("tax")), epochs.of(&key("customs"))), (3, 3));
        assert_eq!(epochs.taken_since(&key("tax"), 2), Taken::Everything);
    }
}
