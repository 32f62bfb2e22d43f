//! Enterprise numbers for the rows of a chunk.

use std::{collections::HashMap, sync::Arc};

use arrow::array::{ArrayRef, Int32Array};
use qihui_catalog::{EnterpriseNo, EnterpriseNumbers, NumberRequest, NumbersError, Uscc};

use crate::chunk::Rows;

/// How many numbers are kept at hand, about 40 MB.
const CACHE: usize = 1 << 20;

/// Numbers enterprises, asking the ledger once per chunk for those it has not met.
pub(crate) struct Numbering {
    numbers: Arc<dyn EnterpriseNumbers>,
    known: HashMap<Uscc, EnterpriseNo>,
    /// In a dry run nothing is assigned: an unknown enterprise gets a number from the top of the range down.
    next_unassigned: Option<u32>,
}

impl Numbering {
    pub fn new(numbers: Arc<dyn EnterpriseNumbers>, dry_run: bool) -> Self {
        Self {
            numbers,
            known: HashMap::new(),
            next_unassigned: dry_run.then_some(EnterpriseNo::MAX.0),
        }
    }

    /// The column `_no` of `rows`. Blocks.
    pub fn column(&mut self, rows: &Rows) -> Result<ArrayRef, NumbersError> {
        let missing: Vec<NumberRequest> = rows
            .enterprises
            .iter()
            .filter(|request| !self.known.contains_key(&request.uscc))
            .copied()
            .collect();
        if self.known.len() + missing.len() > CACHE {
            self.known.clear();
            let all = rows.enterprises.clone();
            self.learn(&all)?;
        } else {
            self.learn(&missing)?;
        }
        let by_enterprise: Vec<i32> = rows
            .enterprises
            .iter()
            // INVARIANT: every enterprise of the chunk was learnt above; 0 is refused by the table.
            .map(|request| {
                self.known
                    .get(&request.uscc)
                    .map_or(0, |no| no.0.cast_signed())
            })
            .collect();
        Ok(Arc::new(
            rows.enterprise
                .iter()
                .map(|e| by_enterprise[*e as usize])
                .collect::<Int32Array>(),
        ))
    }

    fn learn(&mut self, wanted: &[NumberRequest]) -> Result<(), NumbersError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(next) = &mut self.next_unassigned else {
            let numbers = self.numbers.assign(wanted)?;
            self.known
                .extend(wanted.iter().map(|request| request.uscc).zip(numbers));
            return Ok(());
        };
        let usccs: Vec<Uscc> = wanted.iter().map(|request| request.uscc).collect();
        for (uscc, number) in usccs.iter().zip(self.numbers.lookup(&usccs)?) {
            let number = number.unwrap_or_else(|| {
                let number = EnterpriseNo(*next);
                *next -= 1;
                number
            });
            self.known.insert(*uscc, number);
        }
        Ok(())
    }
}
