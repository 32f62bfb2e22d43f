//! A running service, and a client of it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::{Answer, Lab};

/// How long anything may take that should take a moment.
pub const SOON: Duration = Duration::from_secs(60);

/// A service on a lab's hub. Ended when dropped.
pub struct Service {
    child: Child,
    pub address: SocketAddr,
    said: Mutex<mpsc::Receiver<String>>,
}

impl Service {
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &[])
    }

    /// With configuration from the environment.
    pub fn start_with(lab: &Lab, environment: &[(&str, &str)]) -> Self {
        let mut command = lab.command(&["serve", "--listen", "127.0.0.1:0"]);
        for (name, value) in environment {
            command.env(format!("QIHUI_{name}"), value);
        }
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let mut before = Vec::new();
        let address = loop {
            let line = said
                .recv_timeout(SOON)
                .unwrap_or_else(|_| panic!("the service did not start: {before:?}"));
            if line.starts_with("listening at http") {
                let (_, rest) = line.split_once("://").unwrap();
                break rest.split(',').next().unwrap().parse().unwrap();
            }
            before.push(line);
        };
        Self {
            child,
            address,
            said: Mutex::new(said),
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to stop.
    pub fn tell(&self) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
    }

    /// Waits until it says a line on stderr.
    pub fn says(&self, is: impl Fn(&String) -> bool) {
        let said = self.said.lock().unwrap();
        while !is(&said.recv_timeout(SOON).unwrap()) {}
    }

    /// Waits for its end.
    pub fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.said.lock().unwrap().iter().collect());
            }
            assert!(begun.elapsed() < SOON, "the service does not end");
            std::thread::yield_now();
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Stops it, in order.
    pub fn stop(self) {
        self.tell();
        let (status, said) = self.ended();
        assert!(status.success(), "{status}: {said:?}");
    }

    pub fn get<'a>(&'a self, path: &'a str) -> Call<'a> {
        self.call("GET", path)
    }

    pub fn post<'a>(&'a self, path: &'a str, body: impl Into<Bytes>) -> Call<'a> {
        Call {
            body: body.into(),
            ..self.call("POST", path)
        }
    }

    pub fn call<'a>(&'a self, method: &'a str, path: &'a str) -> Call<'a> {
        Call {
            address: self.address,
            method,
            path,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request.
pub struct Call<'a> {
    address: SocketAddr,
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    body: Bytes,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// Whether the answer came to its end.
    pub whole: bool,
}

impl<'a> Call<'a> {
    pub fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn with_bearer(self, token: &str) -> Self {
        self.with("authorization", format!("Bearer {token}"))
    }

    /// Sends it over a connection of its own and reads the answer to the end.
    pub fn send(self) -> Reply {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(SOON, self.sent())
                .await
                .expect("the service answers")
        })
    }

    async fn sent(self) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("host", "hub");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(self.body)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, mut body) = response.into_parts();
        let (mut bytes, mut trailers, mut whole) = (Vec::new(), HeaderMap::new(), true);
        while let Some(frame) = body.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => bytes.extend_from_slice(&data),
                Ok(Err(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        connection.abort();
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: bytes.into(),
            trailers,
            whole,
        }
    }
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert!(self.whole, "the answer broke off");
        self
    }

    /// Checks that it is a problem with this status and code.
    #[track_caller]
    pub fn fails(&self, status: u16, code: &str) {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{body}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{body}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("/errors/{code}"));
        assert_eq!(self.headers["content-type"], "application/problem+json");
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The rows of an NDJSON answer.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        String::from_utf8(self.body.to_vec())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Lab {
    /// A token of this hub.
    pub fn token(&self, arguments: &[&str]) -> String {
        let issued = self.json(&[&["token", "issue"], arguments].concat()).done();
        issued.json()["token"].as_str().unwrap().to_owned()
    }

    /// One of an organisation's analyst, for a purpose.
    pub fn analyst_of(&self, subject: &str, org: &str, purpose: &str) -> String {
        let who = ["--role", "analyst", "--subject", subject];
        self.token(&[&who[..], &["--org", org, "--purpose", purpose]].concat())
    }

    /// One of the bank's analyst.
    pub fn analyst(&self) -> String {
        self.analyst_of("an.lee", "city_bank", "policy.matching")
    }

    /// One of the enterprise with a signatory.
    pub fn enterprise(&self) -> String {
        self.token(&[
            "--role",
            "enterprise",
            "--subject",
            "owner",
            "--uscc",
            &self.subject(),
        ])
    }

    /// One of the tax bureau's analyst, who sees every declaration by law.
    pub fn inspector(&self) -> String {
        self.analyst_of("inspector", "tax_bureau", "supervision.tax")
    }
}

/// A question of the bank.
pub fn ask_bank(sql: &str) -> String {
    serde_json::json!({ "purpose": "policy.matching", "sql": sql }).to_string()
}

/// A question of the tax bureau.
pub fn ask_tax(sql: &str) -> String {
    serde_json::json!({ "purpose": "supervision.tax", "sql": sql }).to_string()
}

/// An answer of some hundred megabytes: far more than any buffer on its way.
pub const ENDLESS: &str = "SELECT a.uscc AS one, b.uscc AS two, c.uscc AS three, a.xse AS turnover \
     FROM vat_declaration a CROSS JOIN vat_declaration b CROSS JOIN vat_declaration c";

/// A request over a bare connection, of which as much is read as the test likes.
pub fn bare(service: &Service, token: &str, body: &str) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(service.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    ask_over(&mut stream, token, body);
    stream
}

/// Asks over a connection.
pub fn ask_over(stream: &mut std::net::TcpStream, token: &str, body: &str) {
    use std::io::Write;
    let request = format!(
        "POST /v1/queries HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
}

/// A connection through which hardly anything fits.
pub fn narrow(address: SocketAddr) -> std::net::TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// How many bytes lie in the buffers of the system, both sides together, when nobody reads from a [`narrow`] connection.
pub fn narrow_holds() -> usize {
    use std::io::{ErrorKind, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = narrow(listener.local_addr().unwrap());
    let (mut server, _) = listener.accept().unwrap();
    server.set_nodelay(true).unwrap();
    server.set_nonblocking(true).unwrap();
    let part = [0; 1 << 14];
    let (mut held, mut full_since) = (0, None);
    loop {
        match server.write(&part) {
            Ok(written) => (held, full_since) = (held + written, None),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                // What is sent off makes room for a little more.
                let since = *full_since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_millis(500) {
                    drop(client);
                    return held;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }
}

/// The head of an answer, up to the empty line; its `qihui-access-id`.
pub fn access_id(stream: &mut std::net::TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    if !head.starts_with("HTTP/1.1 200") {
        let mut rest = [0; 1024];
        let read = stream.read(&mut rest).unwrap_or(0);
        panic!("{head}{}", String::from_utf8_lossy(&rest[..read]));
    }
    let id = head
        .lines()
        .find_map(|line| line.strip_prefix("qihui-access-id: "));
    id.unwrap().to_owned()
}

/// Waits until the log says how an access ended.
pub fn outcome(service: &Service, auditor: &str, access: &str) -> String {
    let begun = Instant::now();
    loop {
        let path = format!("/v1/accesses/{access}");
        let manifest = service
            .get(&path)
            .with_bearer(auditor)
            .send()
            .is(200)
            .json();
        let outcome = manifest["outcome"].as_str().unwrap().to_owned();
        if outcome != "running" {
            return outcome;
        }
        assert!(begun.elapsed() < SOON, "the access does not end");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A command that must have been done by the service.
pub fn forwarded(lab: &Lab, arguments: &[&str]) -> Answer {
    lab.json(arguments).done()
}
