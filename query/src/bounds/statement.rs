//! What a statement may be, found before anything is built from it.
//!
//! - **Length**: [`MAX_STATEMENT_BYTES`].
//! - **Nesting**: the parser goes at most [`MAX_NESTING`] parentheses, queries and prefix operators deep.
//! - **Path**: chains such as `a + b + c + …`, `… AND …`, `… UNION …` or `… JOIN …` nest without parentheses, each
//!   link one deeper. The words and signs on the longest way from the outermost level of the statement to its innermost
//!   are at least as many as its tree is deep; beside commas nothing nests. At most [`MAX_PATH`].
//! - **Tables**: at most [`MAX_TABLES`] are named, those of a WITH as often as it is: `FROM a, b, c` nests in a plan,
//!   though not by words, and a WITH that names another twice, which names another twice, doubles with every step.
//!
//! The last three are not for an operator to change: with them, the threads' stacks ([`super::engine`]) are deep enough
//! for whatever is made from a statement, and for dropping it, which needs no more than the stack of any thread.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Query, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::QueryError;

/// Longest statement, bytes.
pub const MAX_STATEMENT_BYTES: usize = 256 << 10;
/// Deepest nesting that the parser follows.
pub const MAX_NESTING: usize = 64;
/// Most words on the way to the innermost level.
pub const MAX_PATH: usize = 1024;
/// Most tables that a statement names, with each WITH put where it is named.
pub const MAX_TABLES: usize = 256;

/// Checks the text of a statement.
///
/// # Errors
/// [`QueryError::StatementTooLong`], [`QueryError::StatementTooDeep`]; [`QueryError::BadSql`] if it is not made of
/// words.
pub fn check_text(sql: &str) -> Result<(), QueryError> {
    check_length(sql, MAX_STATEMENT_BYTES)?;
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .tokenize()
        .map_err(|error| QueryError::BadSql {
            message: error.to_string(),
        })?;
    let path = longest_path(&tokens);
    if path > MAX_PATH {
        return Err(QueryError::StatementTooDeep);
    }
    Ok(())
}

/// Checks the length of a statement alone.
///
/// # Errors
/// [`QueryError::StatementTooLong`].
pub fn check_length(sql: &str, limit: usize) -> Result<(), QueryError> {
    if sql.len() > limit {
        return Err(QueryError::StatementTooLong { limit });
    }
    Ok(())
}

/// Checks how many tables a query names, with those of each WITH as often as it is named.
///
/// # Errors
/// [`QueryError::StatementTooLarge`].
pub fn check_tables(query: &Query) -> Result<(), QueryError> {
    match query.visit(&mut Tables::default()) {
        ControlFlow::Break(()) => Err(QueryError::StatementTooLarge {
            what: "tables",
            limit: MAX_TABLES as u64,
        }),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Counts tables, query by query.
#[derive(Default)]
struct Tables {
    queries: Vec<Counted>,
}

/// A query that is looked at.
#[derive(Default)]
struct Counted {
    tables: usize,
    /// The names of its WITH that are still to come, the next one last: they are the queries that come first in it.
    coming: Vec<String>,
    /// How many tables each name stands for.
    named: HashMap<String, usize>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let names = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = names.map(|table| folded(&table.alias.name));
        let mut coming: Vec<String> = names.collect();
        coming.reverse();
        self.queries.push(Counted {
            coming,
            ..Counted::default()
        });
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = match relation.0.as_slice() {
            [one] => one.as_ident().map(folded),
            _ => None,
        };
        let queries = self.queries.iter().rev();
        let tables = name.and_then(|name| {
            let mut queries = queries;
            queries.find_map(|query| query.named.get(&name)).copied()
        });
        self.add(tables.unwrap_or(1))
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        let Some(done) = self.queries.pop() else {
            return ControlFlow::Continue(());
        };
        if let Some(outer) = self.queries.last_mut()
            && let Some(name) = outer.coming.pop()
        {
            outer.named.insert(name, done.tables);
            return ControlFlow::Continue(());
        }
        self.add(done.tables)
    }
}

impl Tables {
    fn add(&mut self, tables: usize) -> ControlFlow<()> {
        let Some(query) = self.queries.last_mut() else {
            return ControlFlow::Continue(());
        };
        query.tables += tables;
        if query.tables > MAX_TABLES {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// A name as the engine compares it.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

/// What stands between two commas of one level.
#[derive(Clone, Copy, Default)]
struct Segment {
    /// Words of its own.
    own: usize,
    /// The longest path of a level within it.
    within: usize,
    /// The longest of the segments before it on this level.
    before: usize,
}

impl Segment {
    fn path(self) -> usize {
        self.before.max(self.own + self.within)
    }
}

/// The most words from the outermost level to the innermost, without what stands beside behind a comma.
fn longest_path(tokens: &[Token]) -> usize {
    let mut levels: Vec<Segment> = Vec::new();
    let mut here = Segment::default();
    for token in tokens {
        match token {
            Token::Whitespace(_) | Token::EOF => {}
            Token::LParen | Token::LBracket | Token::LBrace => {
                here.own += 1;
                levels.push(here);
                here = Segment::default();
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                // One that closes nothing is for the parser to refuse.
                if let Some(mut outer) = levels.pop() {
                    outer.within = outer.within.max(here.path());
                    here = outer;
                }
            }
            Token::Comma => {
                here = Segment {
                    before: here.path(),
                    ..Segment::default()
                };
            }
            _ => here.own += 1,
        }
    }
    while let Some(mut outer) = levels.pop() {
        outer.within = outer.within.max(here.path());
        here = outer;
    }
    here.path()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(sql: &str) -> usize {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize();
        longest_path(&tokens.unwrap())
    }

    #[test]
    fn gate_5_a_path_counts_what_nests_and_not_what_stands_beside() {
        assert_eq!(path("SELECT a"), 2);
        assert_eq!(path("SELECT a, b, c FROM t"), 3);
        assert_eq!(path("a + b + c"), 5);
        assert_eq!(path("f(a, b, c + d)"), 2 + 3);
        assert_eq!(path("((((a))))"), 5);
        assert_eq!(path("(a + (b + c), d) + e"), 1 + 2 + (2 + 1) + 3);
        assert_eq!(path("((("), 3);
        assert_eq!(path(")))"), 0);
        let list = format!("x IN ({})", vec!["'9133'"; 10_000].join(","));
        assert_eq!(path(&list), 4);
    }

    fn tables(sql: &str) -> Result<(), QueryError> {
        crate::session::parse(sql).map(|_| ())
    }

    #[test]
    fn gate_5_tables_are_counted_as_often_as_they_are_named() {
        let doubling = |steps: usize| {
            let mut sql = "WITH c0 AS (SELECT * FROM t)".to_owned();
            for step in 1..=steps {
                let before = step - 1;
                sql += &format!(
                    ", c{step} AS (SELECT * FROM C{before} x, (SELECT * FROM c{before}) y)"
                );
            }
            format!("{sql} SELECT * FROM c{steps}")
        };
        tables(&doubling(8)).unwrap();
        assert!(matches!(
            tables(&doubling(9)),
            Err(QueryError::StatementTooLarge { limit: 256, .. })
        ));
        // A name means what it last meant to whoever uses it, and a table with a path is a table.
        let inner = format!(
            "WITH t AS (SELECT * FROM t), u AS ({}) SELECT * FROM t, u",
            doubling(7)
        );
        tables(&inner).unwrap();
        let within = format!("SELECT * FROM ({}) a, c8", doubling(7));
        tables(&within).unwrap();
        let list = format!("SELECT * FROM t{}", ", data.t".repeat(MAX_TABLES));
        assert!(tables(&list).is_err());
    }

    #[test]
    fn gate_5_long_and_deep_texts_are_refused_by_their_own_errors() {
        use qihui_catalog::Coded as _;
        let long = " ".repeat(MAX_STATEMENT_BYTES + 1);
        assert_eq!(check_text(&long).unwrap_err().code(), "StatementTooLong");
        let chain = format!("SELECT 1{}", "+1".repeat(MAX_PATH / 2));
        assert_eq!(check_text(&chain).unwrap_err().code(), "StatementTooDeep");
        let below = format!("SELECT 1{}", "+1".repeat(MAX_PATH / 2 - 1));
        check_text(&below).unwrap();
    }
}
