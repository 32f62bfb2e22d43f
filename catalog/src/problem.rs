//! What is wrong with the catalogue's files: every problem of every file, not the first.

use std::fmt;

use crate::error::{Coded, Kind};

/// One thing that is wrong with one file of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as it was named by the caller, with `/` between folders.
    pub file: String,
    /// The place inside the document, for example `schema[0].properties[uscc].required`; empty: the whole document.
    pub path: String,
    /// What is wrong and what to do, in one line.
    pub reason: String,
    /// The stable code, a page in `docs/errors/`.
    pub code: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.file, self.reason)
        } else {
            write!(f, "{}: {}: {}", self.file, self.path, self.reason)
        }
    }
}

/// The codes of problems.
pub mod codes {
    /// The file or folder cannot be read, or is too large.
    pub const UNREADABLE: &str = "CatalogUnreadable";
    /// The file is not the YAML that was expected.
    pub const SYNTAX: &str = "CatalogSyntax";
    /// A key that means nothing here.
    pub const UNKNOWN_KEY: &str = "CatalogUnknownKey";
    /// A key that must be there is not.
    pub const MISSING_KEY: &str = "CatalogMissingKey";
    /// A value of the wrong kind or outside what is allowed.
    pub const VALUE: &str = "CatalogValue";
    /// The document reads well but breaks a rule of contracts, feeds or purposes.
    pub const RULE: &str = "CatalogRule";
    /// The document names something that does not exist.
    pub const REFERENCE: &str = "CatalogReference";
    /// The statement of a model cannot be a product.
    pub const MODEL: &str = "CatalogModel";
}

/// Everything that is wrong with a file or with the whole catalogue: never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogErrors {
    first: Problem,
    rest: Vec<Problem>,
}

/// What is wrong with one contract.
pub type ContractError = CatalogErrors;

impl CatalogErrors {
    /// Takes the problems found, in order; none: no error.
    #[must_use]
    pub fn from_problems(problems: Vec<Problem>) -> Option<Self> {
        let mut problems = problems.into_iter();
        let first = problems.next()?;
        Some(Self {
            first,
            rest: problems.collect(),
        })
    }

    /// Every problem.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Every problem, owned.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        std::iter::once(self.first).chain(self.rest).collect()
    }
}

impl From<Problem> for CatalogErrors {
    fn from(first: Problem) -> Self {
        Self {
            first,
            rest: Vec::new(),
        }
    }
}

impl fmt::Display for CatalogErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        match self.rest.len() {
            0 => Ok(()),
            1 => f.write_str(" (and 1 more problem; `qihui catalog check` lists both)"),
            more => write!(
                f,
                " (and {more} more problems; `qihui catalog check` lists them all)"
            ),
        }
    }
}

impl std::error::Error for CatalogErrors {}

impl Coded for CatalogErrors {
    fn code(&self) -> &'static str {
        self.first.code
    }

    fn kind(&self) -> Kind {
        Kind::Failed
    }
}
