//! Counts what is wrong with records, for the people who will correct them.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    chunk::Rejected,
    reason::Problem,
    report::{ProblemLine, ProblemReport},
};

/// Every problem of every record, by kind and column.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Problem, (u64, Vec<ProblemLine>)>);

impl Tally {
    /// Takes the rejected records of a chunk in.
    pub fn count(&mut self, source: &str, rejected: &[Rejected], moved: &[Rejected]) {
        for rejected in rejected.iter().chain(moved) {
            for problem in &rejected.problems {
                let (records, lines) = self.0.entry(problem.clone()).or_default();
                *records += 1;
                if lines.iter().filter(|l| l.source == source).count() < ProblemReport::MAX_LINES {
                    lines.push(ProblemLine {
                        source: source.to_owned(),
                        part: rejected.part.as_deref().map(str::to_owned),
                        line: rejected.line,
                    });
                }
            }
        }
    }

    /// Most frequent first.
    pub fn problems(self) -> Vec<ProblemReport> {
        let mut problems: Vec<_> = self
            .0
            .into_iter()
            .map(
                |(Problem { code, column }, (records, lines))| ProblemReport {
                    code,
                    column,
                    records,
                    lines,
                },
            )
            .collect();
        problems.sort_by_key(|problem| Reverse(problem.records));
        problems
    }
}
