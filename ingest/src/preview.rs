//! What would become of records, without landing them.
//!
//! [`Preview`] follows the rules of the warehouse in memory: the greatest version of a record wins, by sequence (null
//! lowest), then retraction over record, then content; the first enterprise of a key keeps it. Laid over a table it
//! answers for the second chunk of a dry run what the first would have done. On its own it is the model that the
//! promise ING-2 is tested against.
//!
//! Limit: it remembers [`Preview::MAX_RECORDS`] records. A dry run over more may count a record as inserted that
//! repeats one far before it.

use std::{cmp::Ordering, collections::HashMap};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int32Type,
    error::ArrowError,
    row::{RowConverter, Rows, SortField},
};
use async_trait::async_trait;
use qihui_catalog::Contract;
use ring::digest::{SHA256, digest};

use crate::{
    IngestError,
    landing::{CommitFault, CommitInfo, Landing, LandingRows, Outcome, TableLanding},
};

/// What orders the versions of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    sequence: Box<[u8]>,
    retracted: bool,
    content: u128,
}

/// The version of a record that wins, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Winner {
    number: i32,
    version: Version,
}

/// The positions of columns in a batch, `_no` counted.
#[derive(Debug, Clone)]
struct Roles {
    key: Vec<usize>,
    sequence: Vec<usize>,
    kept: Vec<bool>,
}

/// A table in memory, or laid over a table.
#[derive(Debug)]
pub struct Preview {
    table: Option<TableLanding>,
    roles: Roles,
    winners: HashMap<u128, Winner>,
    last_run: Option<i64>,
    /// What the last commit said about its source.
    position: Option<serde_json::Value>,
    version: i64,
}

/// The winners a chunk would set.
#[derive(Debug)]
pub struct PreviewClassified(Vec<(u128, Winner)>);

impl Preview {
    /// How many records a preview remembers.
    pub const MAX_RECORDS: usize = 4 << 20;

    /// Over `table`, or over nothing.
    #[must_use]
    pub fn new(contract: &Contract, table: Option<TableLanding>) -> Self {
        let place = |name: &String| {
            contract
                .landed()
                .position(|c| c.name == *name)
                .map(|i| i + 1)
        };
        let places = |names: &[String]| names.iter().filter_map(place).collect::<Vec<_>>();
        let (key, sequence) = (places(&contract.key), places(&contract.sequence));
        let uscc = place(&contract.uscc);
        let kept = (0..=contract.landed().count())
            .map(|i| i == 0 || key.contains(&i) || sequence.contains(&i) || uscc == Some(i))
            .collect();
        Self {
            table,
            roles: Roles {
                key,
                sequence,
                kept,
            },
            winners: HashMap::new(),
            last_run: None,
            position: None,
            version: 0,
        }
    }

    /// A digest of the records it holds: equal for equal tables, whatever order they came in.
    #[must_use]
    pub fn fingerprint(&self) -> (usize, u128) {
        let mut sum = 0_u128;
        let mut live = 0;
        for (key, winner) in &self.winners {
            live += usize::from(!winner.version.retracted);
            let mut bytes = key.to_be_bytes().to_vec();
            bytes.extend_from_slice(&winner.number.to_be_bytes());
            bytes.extend_from_slice(&winner.version.content.to_be_bytes());
            bytes.extend_from_slice(&winner.version.sequence);
            bytes.push(u8::from(winner.version.retracted));
            sum = sum.wrapping_add(hash(&bytes));
        }
        (live, sum)
    }

    /// Outcomes by the remembered records alone, and which rows have a key that was remembered.
    fn decide(
        &self,
        rows: &LandingRows,
        identities: &[(u128, Version)],
    ) -> (Vec<Outcome>, Vec<bool>) {
        let numbers = rows.batch.column(0).as_primitive::<Int32Type>();
        let mut groups: HashMap<u128, Vec<usize>> = HashMap::new();
        for (row, (key, _)) in identities.iter().enumerate() {
            groups.entry(*key).or_default().push(row);
        }
        let (mut outcomes, mut known) = (
            vec![Outcome::Superseded; identities.len()],
            vec![false; identities.len()],
        );
        let version = |row: usize| &identities[row].1;
        for (key, group) in groups {
            let standing = self.winners.get(&key);
            let older = |a: &&usize, b: &&usize| {
                version(**a)
                    .cmp(version(**b))
                    .then(numbers.value(**a).cmp(&numbers.value(**b)))
            };
            let first = || group.iter().min_by(older).map(|row| numbers.value(*row));
            let owner = standing.map(|s| s.number).or_else(first);
            let owned = |row: usize| Some(numbers.value(row)) == owner;
            let newest = group
                .iter()
                .copied()
                .filter(|row| owned(*row))
                .reduce(|best, row| {
                    if version(row).cmp(version(best)) == Ordering::Greater {
                        row
                    } else {
                        best
                    }
                });
            let lands = newest.filter(|row| standing.is_none_or(|s| *version(*row) > s.version));
            let winner = lands.map(version).or(standing.map(|s| &s.version));
            for row in group {
                known[row] = standing.is_some();
                outcomes[row] = match standing.map(|s| s.version.retracted) {
                    _ if !owned(row) => Outcome::UsccChanged,
                    _ if lands == Some(row) && version(row).retracted => Outcome::Retracted,
                    Some(false) if lands == Some(row) => Outcome::Replaced,
                    None | Some(true) if lands == Some(row) => Outcome::Inserted,
                    _ if Some(version(row)) == winner => Outcome::Unchanged,
                    _ => Outcome::Superseded,
                };
            }
        }
        (outcomes, known)
    }
}

/// Key and version of every row.
fn identities(roles: &Roles, rows: &LandingRows) -> Result<Vec<(u128, Version)>, ArrowError> {
    let batch = &rows.batch;
    let all: Vec<usize> = (1..batch.num_columns()).collect();
    let kept: Vec<usize> = all.iter().copied().filter(|i| roles.kept[*i]).collect();
    let (key, sequence) = (encode(batch, &roles.key)?, encode(batch, &roles.sequence)?);
    let (content, remains) = (encode(batch, &all)?, encode(batch, &kept)?);
    let identity = |row: usize| {
        let retracted = rows.retract.value(row);
        let content = bytes(if retracted { &remains } else { &content }, row, hash);
        let sequence = bytes(&sequence, row, |sequence| sequence.into());
        (
            bytes(&key, row, hash),
            Version {
                sequence,
                retracted,
                content,
            },
        )
    };
    Ok((0..batch.num_rows()).map(identity).collect())
}

/// The rows of some columns as strings of bytes whose order is that of the values, null lowest; none without columns.
fn encode(batch: &RecordBatch, columns: &[usize]) -> Result<Option<Rows>, ArrowError> {
    if columns.is_empty() {
        return Ok(None);
    }
    let arrays: Vec<_> = columns.iter().map(|i| batch.column(*i).clone()).collect();
    let fields = arrays
        .iter()
        .map(|array| SortField::new(array.data_type().clone()))
        .collect();
    RowConverter::new(fields)?
        .convert_columns(&arrays)
        .map(Some)
}

fn bytes<T>(rows: &Option<Rows>, row: usize, make: impl Fn(&[u8]) -> T) -> T {
    match rows {
        Some(rows) => make(rows.row(row).as_ref()),
        None => make(&[]),
    }
}

fn hash(bytes: &[u8]) -> u128 {
    let mut half = [0; 16];
    half.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..16]);
    u128::from_be_bytes(half)
}

#[async_trait]
impl Landing for Preview {
    type Classified = PreviewClassified;

    async fn last_run(&mut self, app_id: &str) -> Result<Option<i64>, IngestError> {
        match &mut self.table {
            Some(table) => table.last_run(app_id).await,
            None => Ok(self.last_run),
        }
    }

    async fn version_of(&mut self, app_id: &str, run: i64) -> Result<Option<i64>, IngestError> {
        match &mut self.table {
            Some(table) => table.version_of(app_id, run).await,
            // On its own every commit is a run and a version, both counted from 1.
            None => Ok(Some(run).filter(|run| self.last_run >= Some(*run))),
        }
    }

    async fn position_of(
        &mut self,
        app_id: &str,
        run: i64,
    ) -> Result<Option<serde_json::Value>, IngestError> {
        match &mut self.table {
            Some(table) => table.position_of(app_id, run).await,
            None if self.last_run == Some(run) => Ok(self.position.clone()),
            None => Ok(None),
        }
    }

    async fn classify(
        &mut self,
        rows: &LandingRows,
    ) -> Result<(Vec<Outcome>, Self::Classified), IngestError> {
        let fault = |error| {
            IngestError::io(
                "comparing records",
                std::io::Error::other::<ArrowError>(error),
            )
        };
        let identities = identities(&self.roles, rows).map_err(fault)?;
        let (mut outcomes, known) = self.decide(rows, &identities);
        if let Some(table) = &mut self.table {
            let (of_table, _) = table.classify(rows).await?;
            // A remembered winner beats whatever the table holds; for other keys the table decides.
            for (row, outcome) in of_table
                .into_iter()
                .enumerate()
                .filter(|(row, _)| !known[*row])
            {
                outcomes[row] = outcome;
            }
        }
        let numbers = rows.batch.column(0).as_primitive::<Int32Type>();
        let lands = |outcome: &Outcome| {
            matches!(
                outcome,
                Outcome::Inserted | Outcome::Replaced | Outcome::Retracted
            )
        };
        let winners = identities
            .into_iter()
            .zip(&outcomes)
            .enumerate()
            .filter(|(_, (_, outcome))| lands(outcome));
        let winners = winners
            .map(|(row, ((key, version), _))| {
                (
                    key,
                    Winner {
                        number: numbers.value(row),
                        version,
                    },
                )
            })
            .collect();
        Ok((outcomes, PreviewClassified(winners)))
    }

    async fn commit(
        &mut self,
        classified: Self::Classified,
        info: &CommitInfo,
    ) -> Result<i64, CommitFault> {
        for (key, winner) in classified.0 {
            if self.winners.len() < Self::MAX_RECORDS || self.winners.contains_key(&key) {
                self.winners.insert(key, winner);
            }
        }
        self.last_run = Some(info.run);
        self.position = Some(info.position.clone());
        self.version += 1;
        Ok(self.version)
    }
}
