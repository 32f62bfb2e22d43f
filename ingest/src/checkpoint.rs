//! How far a source has been read, and the rules by which that moves.
//!
//! A *source* is a file identified by the hash of its content: renamed or moved, it is the same source. A *pass* is one
//! reading of a source from start to end; it consists of *runs*, each a chunk `(from, to]` landed by one commit. A
//! finished source that is fed again begins a new pass, whose records all turn out unchanged or superseded.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A place between two records of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Bytes before it.
    pub offset: u64,
    /// The line it stands on, from 1.
    pub line: u64,
    /// Records before it, header not counted.
    pub record: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self {
        offset: 0,
        line: 1,
        record: 0,
    };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {} (byte {}, record {})",
            self.line, self.offset, self.record
        )
    }
}

/// A reading of a source: the hash of its content, and the first run of the reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassId {
    /// SHA-256 of the source.
    pub source: [u8; 32],
    /// The first run of the pass.
    pub first_run: i64,
}

/// What one run read of one pass: the records after `from`, up to and with the one that ends at `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    /// The pass.
    pub pass: PassId,
    /// Where the run before ended.
    pub from: Position,
    /// Where this run ends.
    pub to: Position,
}

/// A delta that a checkpoint does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// It ends before it starts, or is empty.
    #[error("it ends at {to}, not after its start at {from}")]
    Backwards {
        /// Its start.
        from: Position,
        /// Its end.
        to: Position,
    },
    /// It starts behind the checkpoint: records would be lost.
    #[error("it starts at {from}, but only {current} was reached")]
    Gap {
        /// Its start.
        from: Position,
        /// The checkpoint.
        current: Position,
    },
    /// It starts before the checkpoint: records would count twice.
    #[error("it starts at {from}, but {current} was reached already")]
    Overlap {
        /// Its start.
        from: Position,
        /// The checkpoint.
        current: Position,
    },
}

/// How far each pass has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint(BTreeMap<PassId, Position>);

impl Checkpoint {
    /// How far `pass` has come.
    #[must_use]
    pub fn position(&self, pass: PassId) -> Option<Position> {
        self.0.get(&pass).copied()
    }

    /// Takes `delta` in, or leaves the checkpoint as it is.
    ///
    /// `current` is where the pass stands, by byte offset; a pass not seen yet may start anywhere up to its first
    /// record (a header and an encoding mark lie before it).
    ///
    /// | the delta                  | pass unknown   | `from` = `current` | `from` > `current` | `from` < `current` |
    /// |----------------------------|----------------|--------------------|--------------------|--------------------|
    /// | `to` > `from`, more records | taken: `to`   | taken: `to`        | [`DeltaError::Gap`] | [`DeltaError::Overlap`] |
    /// | `to` = `from`, or no record | `Backwards`   | `Backwards`        | `Backwards`        | `Backwards`        |
    /// | `to` < `from`              | `Backwards`    | `Backwards`        | `Backwards`        | `Backwards`        |
    /// | first record of `from` > 0 | [`DeltaError::Gap`] | as above      | as above           | as above           |
    pub fn try_apply(&mut self, delta: &Delta) -> Result<(), DeltaError> {
        let Delta { pass, from, to } = *delta;
        if to.offset <= from.offset || to.record <= from.record || to.line < from.line {
            return Err(DeltaError::Backwards { from, to });
        }
        match self.position(pass) {
            None if from.record > 0 => {
                return Err(DeltaError::Gap {
                    from,
                    current: Position::START,
                });
            }
            Some(current) if from.offset > current.offset => {
                return Err(DeltaError::Gap { from, current });
            }
            Some(current) if from.offset < current.offset => {
                return Err(DeltaError::Overlap { from, current });
            }
            _ => {}
        }
        self.0.insert(pass, to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(record: u64) -> Position {
        Position {
            offset: 10 + record * 5,
            line: 2 + record,
            record,
        }
    }

    fn delta(from: u64, to: u64) -> Delta {
        Delta {
            pass: PassId {
                source: [7; 32],
                first_run: 1,
            },
            from: at(from),
            to: at(to),
        }
    }

    #[test]
    fn ing_2_the_truth_table_of_deltas() {
        let mut seen = Checkpoint::default();
        assert!(matches!(
            seen.try_apply(&delta(1, 2)),
            Err(DeltaError::Gap { .. })
        ));
        assert!(matches!(
            seen.try_apply(&delta(0, 0)),
            Err(DeltaError::Backwards { .. })
        ));
        assert_eq!(seen, Checkpoint::default());
        assert_eq!(seen.try_apply(&delta(0, 3)), Ok(()));
        for (from, to) in [(3, 3), (4, 2), (0, 0)] {
            assert!(
                matches!(
                    seen.try_apply(&delta(from, to)),
                    Err(DeltaError::Backwards { .. })
                ),
                "{from} {to}"
            );
        }
        assert!(matches!(
            seen.try_apply(&delta(4, 6)),
            Err(DeltaError::Gap { .. })
        ));
        assert!(matches!(
            seen.try_apply(&delta(2, 6)),
            Err(DeltaError::Overlap { .. })
        ));
        assert!(matches!(
            seen.try_apply(&delta(0, 3)),
            Err(DeltaError::Overlap { .. })
        ));
        assert_eq!(seen.position(delta(0, 1).pass), Some(at(3)));
        assert_eq!(seen.try_apply(&delta(3, 9)), Ok(()));
        let mut other = delta(0, 1);
        other.pass.first_run = 2;
        assert_eq!(seen.try_apply(&other), Ok(()));
        assert_eq!(seen.position(delta(0, 1).pass), Some(at(9)));
    }
}
