//! Other engines, each a child that reads statements and answers when one is done.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::data::Table;
use crate::scopes::Case;

/// What a child says when a statement is done.
const DONE: &str = "== done";

/// Another engine under its own process.
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// How a child is asked to say that it is done; none: it says so by itself after every line.
    marker: Option<&'static str>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    fn start(mut command: Command, marker: Option<&'static str>) -> std::io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || std::io::Error::other("no pipe");
        Ok(Self {
            input: child.stdin.take().ok_or_else(missing)?,
            output: BufReader::new(child.stdout.take().ok_or_else(missing)?),
            child,
            marker,
        })
    }

    /// Runs a statement, all of whose rows are fetched; gives how many lines the child said.
    pub fn run(&mut self, sql: &str) -> std::io::Result<(Duration, Vec<String>)> {
        let begun = Instant::now();
        let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(self.input, "{line};")?;
        if let Some(marker) = self.marker {
            writeln!(self.input, "{marker}")?;
        }
        self.input.flush()?;
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err(std::io::Error::other(format!("{sql}: the child ended")));
            }
            if line.trim_end() == DONE {
                return Ok((begun.elapsed(), said));
            }
            said.push(line.trim_end().to_owned());
        }
    }
}

/// DuckDB in Python over the same files, with a permission table for each case.
pub fn duckdb(python: &str, threads: usize, tables: &[&Table]) -> std::io::Result<Peer> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gate/duckdb_peer.py");
    let mut command = Command::new(python);
    command.arg(program);
    let mut peer = Peer::start(command, None)?;
    peer.run(&format!("SET threads = {threads}"))?;
    for table in tables {
        let files: Vec<String> = table.files.iter().map(|file| format!("'{file}'")).collect();
        let (name, files) = (table.contract.id.as_str(), files.join(", "));
        peer.run(&format!(
            "CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])"
        ))?;
    }
    Ok(peer)
}

/// The columns of a permission table, beside the enterprise's number.
const COLUMNS: [&str; 6] = ["item", "office", "note", "amount", "base", "n"];

/// Makes a permission table of DuckDB for a case, and the view of `levy` that joins it.
pub fn permit_in_duckdb(peer: &mut Peer, case: &Case) -> std::io::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("permissions.csv");
    write_permissions(case, &file)?;
    let name = case.name;
    peer.run(&format!(
        "CREATE TABLE permission_{name} AS SELECT * FROM read_csv('{}', header = true)",
        file.display()
    ))?;
    peer.run(&format!(
        "CREATE VIEW levy_{name} AS {}",
        permitted("levy", &format!("permission_{name}"))
    ))?;
    Ok(())
}

/// The statement that shows of `levy` what `permission` permits.
fn permitted(levy: &str, permission: &str) -> String {
    let cells = COLUMNS.map(|name| format!("CASE WHEN p.{name} THEN l.{name} END AS {name}"));
    format!(
        "SELECT l.uscc, l.id, l.day, {} FROM {levy} l JOIN {permission} p \
         ON l._no = p.no AND l.day >= p.first AND l.day < p.last",
        cells.join(", ")
    )
}

fn write_permissions(case: &Case, file: &Path) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    writeln!(out, "no,first,last,{}", COLUMNS.join(","))?;
    let day = |day: i32, none: &str| {
        arrow::datatypes::Date32Type::to_naive_date_opt(day)
            .filter(|_| day != i32::MIN && day != i32::MAX)
            .map_or_else(|| none.to_owned(), |day| day.to_string())
    };
    let lines: Vec<String> = case
        .permissions
        .iter()
        .map(|permission| {
            let cells = COLUMNS.map(|name| permission.columns.contains(&name).to_string());
            let from = day(permission.from, "1900-01-01");
            let to = day(permission.to, "2200-01-01");
            format!("{from},{to},{}", cells.join(","))
        })
        .collect();
    for (no, permission) in &case.granted {
        writeln!(out, "{no},{}", lines[*permission])?;
    }
    out.flush()
}

/// PostgreSQL with row-level security over `table`: the row's enterprise stands in the case's permission table.
///
/// `url` is that of a database that its role may write to; the statements of the bench are those of a role that the
/// policy applies to.
pub fn postgres(url: &str, table: &Table, case: &Case) -> std::io::Result<Peer> {
    let mut command = Command::new("psql");
    command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", url]);
    let mut peer = Peer::start(command, Some("\\echo == done"))?;
    for sql in [
        "DROP TABLE IF EXISTS levy, permission",
        "CREATE UNLOGGED TABLE levy (_no int, uscc text, id bigint, day date, item text, office text, note text, \
         amount numeric(18, 2), base numeric(18, 2), n int)",
        "CREATE UNLOGGED TABLE permission (no int PRIMARY KEY)",
    ] {
        peer.run(sql)?;
    }
    copy_rows(&mut peer, table)?;
    let numbers = case.granted.iter().map(|(no, _)| no.to_string());
    copy(&mut peer, "permission", numbers)?;
    for sql in [
        "CREATE INDEX ON levy (_no)",
        "ALTER TABLE levy ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY permitted ON levy USING (EXISTS (SELECT 1 FROM permission p WHERE p.no = levy._no))",
        "DO $$ BEGIN CREATE ROLE bench_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT SELECT ON levy, permission TO bench_reader",
        "VACUUM ANALYZE levy",
        "VACUUM ANALYZE permission",
        "SET ROLE bench_reader",
    ] {
        peer.run(sql)?;
    }
    Ok(peer)
}

fn copy_rows(peer: &mut Peer, table: &Table) -> std::io::Result<()> {
    for file in &table.files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file)?)?;
        for batch in reader.build()? {
            let batch = batch.map_err(std::io::Error::other)?;
            let options = FormatOptions::default().with_null("\\N");
            let columns = batch.columns().iter();
            let columns: Vec<ArrayFormatter<'_>> = columns
                .map(|column| ArrayFormatter::try_new(column, &options))
                .collect::<Result<_, _>>()
                .map_err(std::io::Error::other)?;
            assert!(batch.column(0).as_primitive_opt::<Int32Type>().is_some());
            let rows = (0..batch.num_rows()).map(|row| {
                let cells = columns.iter().map(|column| column.value(row).to_string());
                cells.collect::<Vec<_>>().join("\t")
            });
            copy(peer, "levy", rows)?;
        }
    }
    Ok(())
}

fn copy(peer: &mut Peer, table: &str, rows: impl Iterator<Item = String>) -> std::io::Result<()> {
    writeln!(peer.input, "COPY {table} FROM STDIN;")?;
    for row in rows {
        writeln!(peer.input, "{row}")?;
    }
    writeln!(peer.input, "\\.")?;
    peer.run("SELECT 1").map(|_| ())
}
