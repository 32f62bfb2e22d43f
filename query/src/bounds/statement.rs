//! What a statement may be, found before anything is built from it.
//!
//! - **Length**: [`MAX_STATEMENT_BYTES`].
//! - **Nesting**: the parser goes at most [`MAX_NESTING`] parentheses, queries and prefix operators deep.
//! - **Path**: chains such as `a + b + c + …`, `… AND …`, `… UNION …` or `… JOIN …` nest without parentheses, each
//!   link one deeper. The words and signs on the longest way from the outermost level of the statement to its innermost
//!   are at least as many as its tree is deep; beside commas nothing nests. At most [`MAX_PATH`].
//! - **Tables**: at most [`MAX_TABLES`] are named; `FROM a, b, c` nests in a plan, though not by words.
//!
//! The last three are not for an operator to change: with them, the threads' stacks ([`super::engine`]) are deep enough
//! for whatever is made from a statement, and for dropping it, which needs no more than the stack of any thread.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Query, visit_relations};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::QueryError;

/// Longest statement, bytes.
pub const MAX_STATEMENT_BYTES: usize = 256 << 10;
/// Deepest nesting that the parser follows.
pub const MAX_NESTING: usize = 64;
/// Most words on the way to the innermost level.
pub const MAX_PATH: usize = 2048;
/// Most tables that a statement names, each as often as it is named.
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

/// Checks how many tables a query names.
///
/// # Errors
/// [`QueryError::StatementTooLarge`].
pub fn check_tables(query: &Query) -> Result<(), QueryError> {
    let mut tables = 0;
    let walked = visit_relations(query, |_| {
        tables += 1;
        if tables > MAX_TABLES {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    match walked {
        ControlFlow::Break(()) => Err(QueryError::StatementTooLarge {
            what: "names of tables",
            limit: MAX_TABLES as u64,
        }),
        ControlFlow::Continue(()) => Ok(()),
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
