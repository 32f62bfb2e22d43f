//! The command line, when a service owns the data directory: arguments and working directory go there over the Unix
//! socket in the directory, what the command says comes back as it says it.
//!
//! The socket speaks HTTP/1.1 with one request, `POST /command`: a JSON document [`Line`]. The answer is a sequence of
//! frames: one byte (1 stdout, 2 stderr, 3 the exit code), the length of what follows (u32, big-endian), and that. An
//! answer without an exit code was cut off.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::failure::{Failure, ProgramError};
use crate::layout::Layout;
use crate::run::Surroundings;

/// The longest path of a socket that the system takes.
const MAX_SOCKET_PATH: usize = 100;
/// The largest command line, as a JSON document.
pub(crate) const MAX_LINE_BYTES: usize = 4 << 20;
/// The path of the request.
pub(crate) const COMMAND_PATH: &str = "/command";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    Stdout = 1,
    Stderr = 2,
    Exit = 3,
}

impl Frame {
    /// The frame around some bytes.
    pub(crate) fn around(self, bytes: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(5 + bytes.len());
        frame.extend_from_slice(&[self as u8]);
        frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(bytes);
        frame.freeze()
    }
}

/// A command line on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// The arguments, the program's name first; each hexadecimal, since not all are text.
    pub arguments: Vec<String>,
    /// The working directory, hexadecimal.
    pub directory: String,
}

impl Line {
    fn new(arguments: &[OsString], directory: &Path) -> Self {
        let hex = |text: &OsStr| hex::encode(text.as_bytes());
        Self {
            arguments: arguments.iter().map(|argument| hex(argument)).collect(),
            directory: hex(directory.as_os_str()),
        }
    }

    /// The arguments and the working directory; none when they are not hexadecimal.
    pub(crate) fn read(&self) -> Option<(Vec<OsString>, PathBuf)> {
        let text = |hex: &String| hex::decode(hex).ok().map(OsString::from_vec);
        let arguments: Option<Vec<OsString>> = self.arguments.iter().map(text).collect();
        Some((arguments?, PathBuf::from(text(&self.directory)?)))
    }
}

/// Runs something with a path to a socket that is short enough for the system.
pub(crate) fn with_short_path<T>(
    socket: &Path,
    work: impl FnOnce(&Path) -> std::io::Result<T>,
) -> std::io::Result<T> {
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        return work(socket);
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return work(socket);
    };
    let folder = std::fs::File::open(folder)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    work(&through.join(name))
}

/// Does a command line where the directory's service is, if there is one; its exit code.
///
/// # Errors
/// [`ProgramError::ServiceGone`], or the answer cannot be written.
pub(crate) async fn forward(
    layout: &Layout,
    arguments: &[OsString],
    token: Option<&str>,
    around: &mut Surroundings<'_>,
) -> Result<Option<u8>, Failure> {
    let connected = with_short_path(&layout.socket(), |path| {
        std::os::unix::net::UnixStream::connect(path)
    });
    let Ok(stream) = connected else {
        // Nobody is there: whoever was left its socket behind.
        return Ok(None);
    };
    let gone = |_: std::io::Error| Failure::from(ProgramError::ServiceGone);
    stream.set_nonblocking(true).map_err(gone)?;
    let stream = UnixStream::from_std(stream).map_err(gone)?;
    let directory = std::env::current_dir().map_err(gone)?;
    let line = Line::new(arguments, &directory);
    answered(stream, &line, token, around).await.map(Some)
}

async fn answered(
    stream: UnixStream,
    line: &Line,
    token: Option<&str>,
    around: &mut Surroundings<'_>,
) -> Result<u8, Failure> {
    let gone = || Failure::from(ProgramError::ServiceGone);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|_| gone())?;
    let connection = tokio::spawn(connection);
    let body = serde_json::to_vec(line).map_err(|_| gone())?;
    let mut request = http::Request::post(COMMAND_PATH).header(http::header::HOST, "hub");
    if let Some(token) = token {
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| gone())?;
    let response = sender.send_request(request).await.map_err(|_| gone())?;
    let mut body = response.into_body();
    let mut waiting = BytesMut::new();
    let mut code = None;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| gone())?.into_data() {
            waiting.extend_from_slice(&data);
        }
        while let Some((kind, bytes)) = next(&mut waiting) {
            match kind {
                1 => write(around.stdout, &bytes)?,
                2 => write(around.stderr, &bytes)?,
                _ => code = bytes.first().copied(),
            }
        }
    }
    connection.abort();
    code.ok_or_else(gone)
}

/// Takes a whole frame off the front, if there is one.
fn next(waiting: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (kind, length) = match waiting.get(..5)? {
        [kind, length @ ..] => (*kind, length.try_into().ok()?),
        [] => return None,
    };
    let length = u32::from_be_bytes(length) as usize;
    if waiting.len() < 5 + length {
        return None;
    }
    waiting.advance(5);
    Some((kind, waiting.split_to(length).freeze()))
}

fn write(out: &mut (dyn Write + Send), bytes: &[u8]) -> Result<(), Failure> {
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| ProgramError::OutputFailed(error.kind().to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_however_they_are_cut() {
        let whole = [
            Frame::Stdout.around(b"rows"),
            Frame::Stderr.around(b""),
            Frame::Exit.around(&[3]),
        ]
        .concat();
        for cut in 0..whole.len() {
            let mut waiting = BytesMut::new();
            let mut read = Vec::new();
            for part in [&whole[..cut], &whole[cut..]] {
                waiting.extend_from_slice(part);
                read.extend(std::iter::from_fn(|| next(&mut waiting)));
            }
            let read: Vec<(u8, &[u8])> = read
                .iter()
                .map(|(kind, bytes)| (*kind, &bytes[..]))
                .collect();
            assert_eq!(read, [(1, &b"rows"[..]), (2, b""), (3, &[3])]);
        }
    }

    #[test]
    fn a_command_line_arrives_as_it_was_typed() {
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let line = Line::new(std::slice::from_ref(&odd), Path::new("/tmp/企业"));
        let text = serde_json::to_string(&line).unwrap();
        let line: Line = serde_json::from_str(&text).unwrap();
        assert_eq!(line.read(), Some((vec![odd], PathBuf::from("/tmp/企业"))));
    }
}
