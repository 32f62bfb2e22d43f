//! The stage of the demonstration: runs the program's own commands and tells what they answered.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qihui_audit::Clock;
use qihui_catalog::{Coded, Kind};
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::report::table;
use crate::run::{Surroundings, run};

/// A demonstration that does not go as it must: a defect, or a disk that is full.
#[derive(Debug, thiserror::Error)]
#[error("the demonstration broke off: {0}")]
pub(super) struct DemoError(pub String);

impl Coded for DemoError {
    fn code(&self) -> &'static str {
        "DemoFailed"
    }

    fn kind(&self) -> Kind {
        Kind::Failed
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        Self::of(&error)
    }
}

impl From<std::io::Error> for DemoError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

pub(super) type Result<T> = std::result::Result<T, DemoError>;

/// A row of an answer.
pub(super) type Row = Map<String, Value>;

/// What a command answered.
pub(super) struct Answer {
    /// The exit code.
    pub exit: u8,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: String,
}

impl Answer {
    /// The one JSON document on stdout.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.stdout)
            .map_err(|error| DemoError(format!("an answer is no JSON: {error}")))
    }

    /// The rows of an answer in NDJSON.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let lines = self
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| {
                serde_json::from_slice(line)
                    .map_err(|error| DemoError(format!("a row is no JSON: {error}")))
            })
            .collect()
    }
}

/// Where the demonstration happens.
pub(super) struct Stage<'a> {
    /// The hub.
    pub hub: PathBuf,
    /// What lies outside of it: keys of signatories, documents, copies.
    pub outside: PathBuf,
    /// Where the story is told.
    pub story: &'a mut (dyn Write + Send),
    pub clock: Arc<dyn Clock>,
}

impl Stage<'_> {
    /// Begins an act.
    pub fn act(&mut self, number: u32, title: &str, chinese: &str) -> Result<()> {
        Ok(writeln!(self.story, "\n── {number}. {title} · {chinese}")?)
    }

    /// Tells something.
    pub fn say(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            writeln!(self.story, "{}", format!("   {line}").trim_end())?;
        }
        Ok(())
    }

    /// Writes a document outside the hub and gives its path.
    pub fn paper(&self, name: &str, text: &str) -> Result<String> {
        let path = self.outside.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// A path outside the hub.
    pub fn path(&self, name: &str) -> String {
        self.outside.join(name).display().to_string()
    }

    /// Shows a command line as one would type it in the folder outside, and runs it.
    pub fn command(&mut self, words: &[&str]) -> Result<Answer> {
        let outside = format!("{}/", self.outside.display());
        let shown: Vec<String> = words
            .iter()
            .filter(|word| **word != "--json")
            .map(|word| quoted(word.strip_prefix(&outside).unwrap_or(word)))
            .collect();
        writeln!(self.story, "   $ qihui {}", shown.join(" "))?;
        self.story.flush()?;
        let hub = self.hub.clone();
        Ok(self.quietly(&hub, words))
    }

    /// Runs a command line on a hub without showing it.
    pub fn quietly(&self, hub: &Path, words: &[&str]) -> Answer {
        let mut line: Vec<OsString> = vec!["qihui".into(), "--data-dir".into(), hub.into()];
        line.extend(words.iter().map(Into::into));
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut surroundings = Surroundings {
            stdout: &mut stdout,
            stderr: &mut stderr,
            clock: Arc::clone(&self.clock),
            terminal: false,
        };
        let exit = run(line, &mut surroundings);
        Answer {
            exit,
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// A command that must succeed; its JSON document.
    pub fn done(&mut self, words: &[&str]) -> Result<Value> {
        let mut line = words.to_vec();
        line.push("--json");
        let answer = self.command(&line)?;
        if answer.exit != 0 {
            return Err(DemoError(format!(
                "`{}` ended with exit {}: {}",
                words.join(" "),
                answer.exit,
                answer.stderr
            )));
        }
        answer.json()
    }

    /// A command that must be refused with this exit code; what it said is shown.
    pub fn refused(&mut self, exit: u8, words: &[&str]) -> Result<()> {
        let answer = self.command(words)?;
        self.say(answer.stderr.trim_end())?;
        self.say(&format!("(exit {})", answer.exit))?;
        expect(
            answer.exit == exit,
            "a request that must be refused was not",
        )
    }

    /// A query of an organisation, with its answer as a table.
    pub fn query(
        &mut self,
        (org, purpose): (&str, &str),
        columns: &[&str],
        sql: &str,
    ) -> Result<Vec<Row>> {
        let words = [
            "query",
            "--org",
            org,
            "--purpose",
            purpose,
            "--format",
            "ndjson",
            sql,
        ];
        let answer = self.command(&words)?;
        if answer.exit != 0 {
            return Err(DemoError(format!(
                "a query ended with exit {}: {}",
                answer.exit, answer.stderr
            )));
        }
        let rows = answer.rows()?;
        if rows.is_empty() {
            self.say("(no rows)")?;
        } else {
            self.table(columns, &rows)?;
        }
        self.say(answer.stderr.trim_end())?;
        Ok(rows)
    }

    /// Rows as a table.
    pub fn table(&mut self, columns: &[&str], rows: &[Row]) -> Result<()> {
        let cells = rows.iter().map(|row| {
            columns
                .iter()
                .map(|column| shown(row.get(*column)))
                .collect::<Vec<_>>()
        });
        let text = table(columns, cells);
        self.say(&text)
    }
}

/// A value as a cell.
pub(super) fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "NULL".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| shown(Some(value)))
            .collect::<Vec<_>>()
            .join(", "),
        Some(other) => other.to_string(),
    }
}

/// A word of a command line as a shell wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=".contains(c);
    match (
        !word.is_empty() && word.chars().all(plain),
        word.contains('\''),
    ) {
        (true, _) => word.to_owned(),
        (false, false) => format!("'{word}'"),
        (false, true) => format!("\"{word}\""),
    }
}

/// Breaks off unless the story goes as it must.
pub(super) fn expect(holds: bool, what: &str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(DemoError(what.to_owned()))
    }
}

/// A member of a JSON document that must be there.
pub(super) fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str> {
    value
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| DemoError(format!("an answer lacks `{key}`")))
}

/// A number of a JSON document that must be there.
pub(super) fn number(value: &Value, key: &str) -> Result<u64> {
    value
        .get(key)
        .and_then(Value::as_u64)
        .ok_or_else(|| DemoError(format!("an answer lacks `{key}`")))
}

/// Copies a folder with everything in it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
