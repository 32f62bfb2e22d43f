//! The command line of this machine, while the service owns the data directory: see [`crate::forward`].
//!
//! Whoever connects must be the user that the service runs as; that is what holding the directory means. In the service
//! profile a token is needed all the same.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use qihui_query::access::{Outlet, ReleasePermit};
use tokio::net::{UnixListener, UnixStream};

use super::answer::{AnswerBody, BodyOutlet, answer};
use super::authorise::bearer;
use super::problem::Problem;
use super::wire::Wire;
use super::{ServeError, Service, bind_socket};
use crate::failure::{Failure, ProgramError};
use crate::forward::{COMMAND_PATH, Frame, Line, MAX_LINE_BYTES};
use crate::hub::Opening;
use crate::identity::Principal;
use crate::run::{Forwarded, Surroundings, run_over};

pub(crate) fn listen(path: &Path) -> Result<UnixListener, ProgramError> {
    bind_socket(path).map_err(|error| ProgramError::CannotListen {
        at: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// Whether the other end is of the user that the service runs as.
pub(crate) fn is_ours(stream: &UnixStream) -> bool {
    let user = rustix::process::getuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user)
}

/// Where rows of a forwarded query go: frames of stdout, under the permit of their decision.
struct Framed<'a>(&'a mut BodyOutlet);

#[async_trait]
impl Outlet for Framed<'_> {
    fn begin(&mut self, permit: ReleasePermit) {
        self.0.begin(permit);
    }

    async fn ready(&mut self) -> io::Result<()> {
        self.0.ready().await
    }

    fn release(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.send(Frame::Stdout.around(bytes))
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.0.finish().await
    }

    fn gone(&self) -> BoxFuture<'static, ()> {
        self.0.gone()
    }
}

/// What a command says besides rows, until it has ended: a few lines, or one document.
#[derive(Default)]
struct Said(Vec<u8>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does a command line.
pub(crate) async fn command(
    service: Arc<Service>,
    wire: Arc<Wire>,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    if request.uri().path() != COMMAND_PATH || request.method() != http::Method::POST {
        return Err(ServeError::NoSuchRoute.into());
    }
    let principal = principal_of(&service, request.headers()).await;
    let limited = http_body_util::Limited::new(request.into_body(), MAX_LINE_BYTES);
    let wrong = || ServeError::BadRequest("it is not a command line".to_owned());
    let body = limited.collect().await.map_err(|_| wrong())?.to_bytes();
    let line: Line = serde_json::from_slice(&body).map_err(|_| wrong())?;
    let (arguments, directory) = line.read().ok_or_else(wrong)?;
    let room = Arc::clone(&service.tasks).acquire_owned().await;
    let room = room.map_err(|_| ServeError::Stopping)?;
    let (outlet, body, _started) = answer(&wire, service.stop.clone());
    let job = Job {
        service,
        arguments,
        directory,
        principal,
    };
    // Commands are not made to move between threads; one of its own drives each.
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _room = room;
        runtime.block_on(job.done(outlet));
    });
    Ok(streamed(body))
}

/// Whose command line it is; none: of whoever holds the data directory.
async fn principal_of(
    service: &Service,
    headers: &HeaderMap,
) -> Result<Option<Principal>, Failure> {
    if service.holders_allowed {
        return Ok(None);
    }
    let token = bearer(headers)?;
    Ok(Some(service.verifier.principal(token).await?))
}

fn streamed(body: AnswerBody) -> Response {
    Response::new(Body::new(body))
}

struct Job {
    service: Arc<Service>,
    arguments: Vec<OsString>,
    directory: PathBuf,
    principal: Result<Option<Principal>, Failure>,
}

impl Job {
    async fn done(self, mut outlet: BodyOutlet) {
        let hub = &self.service.hub;
        let opening = Opening {
            layout: hub.layout().clone(),
            config: hub.config().clone(),
            clock: Arc::clone(hub.clock()),
            shared: None,
        };
        let (mut stdout, mut stderr) = (Said::default(), Said::default());
        let code = {
            let mut rows = Framed(&mut outlet);
            let line = Forwarded {
                arguments: self.arguments,
                directory: self.directory,
                principal: self.principal,
                rows: &mut rows,
            };
            let mut surroundings = Surroundings {
                stdout: &mut stdout,
                stderr: &mut stderr,
                clock: Arc::clone(hub.clock()),
                terminal: false,
            };
            Box::pin(run_over(hub, opening, line, &mut surroundings)).await
        };
        let frames: [Bytes; 3] = [
            Frame::Stdout.around(&stdout.0),
            Frame::Stderr.around(&stderr.0),
            Frame::Exit.around(&[code]),
        ];
        for frame in frames {
            if outlet.send(frame).is_err() {
                // Whoever typed it is gone; what was done is done.
                return;
            }
        }
        outlet.end(None);
    }
}
