//! The service over TLS, with a certificate of the tests.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::shared::{Service, ask_tax};
use crate::support::Lab;

/// The certificate and the key of the tests, the key as it must be kept.
fn papers(lab: &Lab) -> (String, String) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    let certificate = lab.write(
        "certificate.pem",
        fs::read(data.join("certificate.pem")).unwrap(),
    );
    let key = lab.write("key.pem", fs::read(data.join("key.pem")).unwrap());
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    (certificate, key)
}

/// What a request is answered over TLS, to the end of the connection.
async fn asked(service: &Service, certificate: &str, request: &str) -> String {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificate).unwrap())
        .unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(service.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_same_over_tls_and_nothing_is_said_without_it() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let lab = Lab::world();
    let (certificate, key) = papers(&lab);
    let inspector = lab.inspector();
    let environment = [
        ("SERVE__TLS_CERTIFICATE", certificate.as_str()),
        ("SERVE__TLS_KEY", key.as_str()),
    ];
    let service = Service::start_with(&lab, &environment);
    let alive = asked(
        &service,
        &certificate,
        "GET /livez HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    let body = ask_tax("SELECT a.uscc, b.xse FROM vat_declaration a CROSS JOIN vat_declaration b");
    let request = format!(
        "POST /v1/queries HTTP/1.1\r\nhost: hub\r\nte: trailers\r\nconnection: close\r\nauthorization: Bearer {inspector}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = asked(&service, &certificate, &request).await;
    let rows: usize = answer
        .lines()
        .find_map(|line| line.strip_prefix("qihui-rows: "))
        .unwrap_or_else(|| panic!("the answer has no end: {}", answer.len()))
        .parse()
        .unwrap();
    assert_eq!(rows, answer.matches("{\"uscc\":\"").count());
    // The command line of this machine needs none of it.
    lab.run(&["org", "list"]).done();
    let mut plain = TcpStream::connect(service.address).await.unwrap();
    plain
        .write_all(b"GET /livez HTTP/1.1\r\nhost: hub\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.windows(4).any(|part| part == b"HTTP"), "{answer:?}");
    service.stop();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let mut open = lab.command(&["serve", "--listen", "127.0.0.1:0"]);
    for (name, value) in environment {
        open.env(format!("QIHUI_{name}"), value);
    }
    let refused = crate::support::Answer::from(open.output().unwrap());
    refused.fails(1, "FileUnreadable", &["chmod 600"]);
}
