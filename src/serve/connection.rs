//! Connections: who gets one, what may come over it, and how it ends.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::wire::{Guarded, Marked, Wire};
use super::{Service, local, measure};
use crate::config;
use crate::failure::ProgramError;
use crate::files::check_private;

/// How long it is waited after an accept that failed: usually too many files are open.
const PAUSE: Duration = Duration::from_millis(50);

/// What encrypts, if that is configured.
pub(crate) fn tls(config: &config::Serve) -> Result<Option<TlsAcceptor>, ProgramError> {
    let (certificate, key) = match (&config.tls_certificate, &config.tls_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        _ => {
            let reason = "`serve.tls_certificate` and `serve.tls_key` belong together".to_owned();
            return Err(ProgramError::BadConfiguration { reason });
        }
    };
    check_private(key)?;
    let unreadable = |what, path: &std::path::Path, reason: String| ProgramError::FileUnreadable {
        what,
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("certificate", certificate, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable("private key", key, error.to_string()))?;
    let mut server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| unreadable("certificate", certificate, error.to_string()))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

/// What connections are served with.
#[derive(Clone)]
pub(crate) struct Connections {
    service: Arc<Service>,
    router: Router,
    tls: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
}

impl Connections {
    pub(crate) fn new(service: &Arc<Service>, router: Router, tls: Option<TlsAcceptor>) -> Self {
        Self {
            service: Arc::clone(service),
            router,
            tls,
            room: Arc::new(Semaphore::new(service.limits.connections.max(1))),
        }
    }

    /// Takes connections until the service drains, then waits for those there are.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        socket: UnixListener,
        mut draining: watch::Receiver<bool>,
    ) {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            // With no room left, whoever comes next waits in the system's queue.
            let room = Arc::clone(&self.room).acquire_owned();
            let room = tokio::select! {
                Ok(room) = room => room,
                _ = draining.wait_for(|draining| *draining) => break,
            };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // Small answers should not wait for more.
                        let _ = stream.set_nodelay(true);
                        tasks.spawn(self.clone().remote(stream, room));
                    }
                    Err(error) => pause(&error).await,
                },
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) if local::is_ours(&stream) => {
                        tasks.spawn(self.clone().near(stream, room));
                    }
                    Ok(_) => tracing::warn!("another user's connection to the socket was refused"),
                    Err(error) => pause(&error).await,
                },
                _ = draining.wait_for(|draining| *draining) => break,
            }
        }
        drop((listener, socket));
        while tasks.join_next().await.is_some() {}
    }

    /// A connection over the network.
    async fn remote(self, stream: tokio::net::TcpStream, room: OwnedSemaphorePermit) {
        let wire = Arc::new(Wire::default());
        let guarded = self.guarded(stream, &wire);
        match self.tls.clone() {
            None => self.converse(guarded, wire, room).await,
            Some(tls) => {
                let longest = Duration::from_secs(self.service.limits.header_seconds);
                if let Ok(Ok(stream)) = tokio::time::timeout(longest, tls.accept(guarded)).await {
                    self.converse(stream, wire, room).await;
                }
            }
        }
    }

    fn guarded<S>(&self, stream: S, wire: &Arc<Wire>) -> Guarded<S> {
        let longest = Duration::from_secs(self.service.limits.stall_seconds);
        Guarded::new(stream, Arc::clone(wire), longest)
    }

    async fn converse<S>(self, stream: S, wire: Arc<Wire>, room: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, carried) = (self.router.clone(), Arc::clone(&wire));
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&carried));
            router.clone().oneshot(request)
        });
        self.drive(Marked::new(stream, wire), answer, room).await;
    }

    /// A connection of the command line of this machine.
    async fn near(self, stream: tokio::net::UnixStream, room: OwnedSemaphorePermit) {
        let wire = Arc::new(Wire::default());
        let guarded = self.guarded(stream, &wire);
        let (service, carried) = (Arc::clone(&self.service), Arc::clone(&wire));
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, wire) = (Arc::clone(&service), Arc::clone(&carried));
            async move {
                let answered = local::command(service, wire, request).await;
                Ok::<_, std::convert::Infallible>(
                    answered.unwrap_or_else(IntoResponse::into_response),
                )
            }
        });
        self.drive(Marked::new(guarded, wire), answer, room).await;
    }

    /// Drives a connection to its end.
    async fn drive<S, A, E>(self, stream: Marked<S>, answer: A, room: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: hyper::service::Service<
                Request<Incoming>,
                Response = Response<axum::body::Body>,
                Error = E,
            >,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limits = &self.service.limits;
        measure::connected(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(limits.header_seconds))
            .max_headers(limits.headers)
            .max_buf_size(limits.header_bytes.max(8 << 10))
            .serve_connection(TokioIo::new(stream), answer);
        let mut connection = pin!(connection);
        let mut draining = self.service.draining.clone();
        let mut told = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        // Clients go away in many ways; none of them is news.
                        tracing::debug!(%error, "a connection broke off");
                    }
                    break;
                }
                _ = draining.wait_for(|draining| *draining), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
        measure::connected(false);
        drop(room);
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(PAUSE).await;
}
