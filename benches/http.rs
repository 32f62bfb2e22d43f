//! The point query over HTTP: one named enterprise among many, with decision and both log entries.
//!
//! Measured against the program as it is shipped: a hub is made from synthetic feeds, `serve` runs on the loopback,
//! and clients ask over connections that stay open. `QIHUI_BENCH_ENTERPRISES` (100,000 by default) says how large the hub is,
//! `QIHUI_BENCH_REQUESTS` (2,000) how many requests each part makes. Prints one JSON line: the median and the 95th
//! percentile of one client in milliseconds, requests per second of 32 clients, and beside them the median time of a bare
//! write and fsync of a kilobyte in the same folder, of which a request waits for several.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CLIENTS: usize = 32;
const FSYNCS: usize = 201;
const AGREEMENT: &str = "id: bench
org: bureau
dataset: vat_declaration
purposes: [supervision.tax]
basis: {statute: {law: bench}}
valid_until: 2099-01-01
columns:
  - {name: uscc}
  - {name: skssqq, form: clear, reason: the period}
  - {name: xse, form: clear, reason: decides}
";

fn number(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Hub<'a>(&'a Path);

impl Hub<'_> {
    fn run(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qihui"));
        command.arg("--data-dir").arg(self.0.join("hub"));
        let output = command.args(arguments).arg("--json").output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{arguments:?}: {said}").into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn make(folder: &Path, enterprises: usize) -> Result<Vec<String>> {
    let (hub, feeds) = (Hub(folder), folder.join("feeds"));
    let feeds = feeds.to_str().ok_or("a path")?;
    let count = enterprises.to_string();
    hub.run(&["init"])?;
    hub.run(&[
        "synth",
        "--enterprises",
        &count,
        "--months",
        "3",
        "--out",
        feeds,
    ])?;
    hub.run(&["feed", "run", "--all", "--from", feeds])?;
    hub.run(&[
        "org",
        "add",
        "bureau",
        "--name",
        "Bureau",
        "--kind",
        "department",
    ])?;
    let agreement = folder.join("agreement.yaml");
    fs::write(&agreement, AGREEMENT)?;
    hub.run(&["agreement", "add", agreement.to_str().ok_or("a path")?])?;
    let sql = "SELECT DISTINCT uscc FROM vat_declaration ORDER BY uscc LIMIT 5000";
    let asked = hub.run(&[
        "query",
        "--org",
        "bureau",
        "--purpose",
        "supervision.tax",
        sql,
    ])?;
    let rows = asked["rows"].as_array().ok_or("rows")?;
    Ok(rows
        .iter()
        .filter_map(|row| row["uscc"].as_str().map(str::to_owned))
        .collect())
}

struct Client {
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Client {
    async fn connect(address: &str, token: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let token = token.to_owned();
        Ok(Self { sender, token })
    }

    async fn ask(&mut self, subject: &str) -> Result<Duration> {
        let question = json!({
            "purpose": "supervision.tax",
            "subjects": [subject],
            "sql": format!("SELECT skssqq, xse FROM vat_declaration WHERE uscc = '{subject}'"),
        });
        let request = Request::post("/v1/queries")
            .header("host", "hub")
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::new(Bytes::from(question.to_string())))?;
        let begun = Instant::now();
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status != 200 || body.is_empty() {
            return Err(format!("the answer is {status}").into());
        }
        Ok(begun.elapsed())
    }
}

/// The median time of a write and fsync of a kilobyte at the end of a file.
fn bare_fsync(folder: &Path) -> Result<Duration> {
    let mut file = fs::File::create(folder.join("fsync"))?;
    let mut times = Vec::new();
    for _ in 0..FSYNCS {
        let begun = Instant::now();
        file.write_all(&[7; 1024])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[FSYNCS / 2])
}

async fn measured(
    folder: PathBuf,
    address: String,
    token: String,
    subjects: Vec<String>,
) -> Result<Value> {
    let requests = number("QIHUI_BENCH_REQUESTS", 2000);
    let mut one = Client::connect(&address, &token).await?;
    for subject in subjects.iter().take(20) {
        one.ask(subject).await?;
    }
    let mut times = Vec::with_capacity(requests);
    for subject in subjects.iter().cycle().take(requests) {
        times.push(one.ask(subject).await?);
    }
    let fsync = bare_fsync(&folder)?.as_secs_f64() * 1000.0;
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    let (next, subjects) = (Arc::new(AtomicUsize::new(0)), Arc::new(subjects));
    let begun = Instant::now();
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        let mut client = Client::connect(&address, &token).await?;
        let (next, subjects) = (Arc::clone(&next), Arc::clone(&subjects));
        clients.push(tokio::spawn(async move {
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if turn >= requests {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(());
                }
                client.ask(&subjects[turn % subjects.len()]).await?;
            }
        }));
    }
    for client in clients {
        client.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let rate = requests as f64 / begun.elapsed().as_secs_f64();
    Ok(
        json!({ "p50_ms": at(50), "p95_ms": at(95), "p99_ms": at(99), "fsync_ms": fsync, "clients": CLIENTS, "requests_per_second": rate }),
    )
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let subjects = make(folder.path(), number("QIHUI_BENCH_ENTERPRISES", 100_000))?;
    let issue = [
        "token",
        "issue",
        "--role",
        "analyst",
        "--org",
        "bureau",
        "--purpose",
        "supervision.tax",
    ];
    let token = Hub(folder.path()).run(&issue)?;
    let token = token["token"].as_str().ok_or("a token")?.to_owned();
    let mut service = Command::new(env!("CARGO_BIN_EXE_qihui"))
        .arg("--data-dir")
        .arg(folder.path().join("hub"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()?;
    let said = BufReader::new(service.stderr.take().ok_or("its stderr")?);
    let mut lines = said.lines();
    let address = loop {
        let line = lines.next().ok_or("the service ended")??;
        if let Some(rest) = line.strip_prefix("listening at http://") {
            break rest.split(',').next().unwrap_or_default().to_owned();
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measured(folder.path().to_owned(), address, token, subjects));
    service.kill()?;
    service.wait()?;
    let mut out = std::io::stdout();
    std::io::Write::write_all(&mut out, format!("{}\n", figures?).as_bytes())?;
    Ok(())
}
