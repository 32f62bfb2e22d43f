//! Tokens that must not be believed, and keys that change.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use qihui::identity::IdentityError;
use qihui::identity::keys::{KeySet, Keys, Place, Source};
use qihui::identity::token::{Terms, Trusted, Verifier};
use qihui_audit::Clock;
use qihui_consent::signing::SigningKey;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::refused::denied;
use super::shared::Service;
use crate::support::Lab;

fn part(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token as somebody may put it together.
fn forged(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    });
    (parts.next().unwrap(), parts.next().unwrap())
}

fn changed(value: &Value, key: &str, to: Value) -> Value {
    let mut value = value.clone();
    value[key] = to;
    value
}

#[test]
fn a_token_that_is_not_the_issuers_is_not_believed() {
    let lab = Lab::world();
    let token = lab.analyst();
    let service = Service::start(&lab);
    let (header, claims) = parts(&token);
    let pem = fs::read(lab.hub().join("keys/token-issuer.key")).unwrap();
    let (key, other) = (
        SigningKey::parse(&pem).unwrap(),
        SigningKey::generate().unwrap(),
    );
    let ours = |header: &Value, claims: &Value| forged(header, claims, |text| key.sign(text));
    let with = |name: &str, to: Value| ours(&header, &changed(&claims, name, to));
    let headed = |name: &str, to: Value| ours(&changed(&header, name, to), &claims);
    let try_it = |token: &str| service.get("/v1/datasets").with_bearer(token).send();
    // What is made here with the right key is believed: so nothing below fails for another reason.
    try_it(&ours(&header, &claims)).is(200);
    let now = chrono::Utc::now().timestamp();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.public().as_bytes());
    let hs256 = forged(&changed(&header, "alg", json!("HS256")), &claims, |text| {
        hmac::sign(&secret, text).as_ref().to_vec()
    });
    let none = forged(&changed(&header, "alg", json!("none")), &claims, |_| {
        Vec::new()
    });
    let swapped = {
        let (_, rest) = token.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let wider = changed(&claims, "org", json!("tax_bureau"));
        format!("{}.{}.{signature}", part(&header), part(&wider))
    };
    let refused = [
        ("alg none", none),
        ("the public key as a secret", hs256),
        (
            "another key",
            forged(&header, &claims, |text| other.sign(text)),
        ),
        ("other claims under the signature", swapped),
        (
            "another algorithm for the key",
            headed("alg", json!("ES256")),
        ),
        ("an unknown key", headed("kid", json!("0000000000000000"))),
        ("critical headers", headed("crit", json!(["b64"]))),
        ("another type", headed("typ", json!("secevent+jwt"))),
        ("another audience", with("aud", json!("somebody"))),
        (
            "several audiences without this one",
            with("aud", json!(["a", "b"])),
        ),
        (
            "another issuer",
            with("iss", json!("https://elsewhere.example")),
        ),
        ("no issuer", with("iss", Value::Null)),
        ("not yet", with("nbf", json!(now + 3600))),
        ("made in the future", with("iat", json!(now + 3600))),
        (
            "made to last for years",
            with("exp", json!(now + 400 * 86_400)),
        ),
        ("no subject", with("sub", json!(""))),
        ("no role of ours", with("roles", json!(["root"]))),
        ("a purpose that is none", with("purposes", json!(["../"]))),
        ("an enterprise that is none", with("usccs", json!(["123"]))),
        ("two parts", format!("{}.{}", part(&header), part(&claims))),
        ("nothing of the kind", "token".to_owned()),
        ("far too long", "a".repeat(20_000)),
    ];
    for (what, token) in refused {
        let reply = try_it(&token);
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (401, &json!("TokenInvalid")),
            "{what}"
        );
        assert!(reply.headers.contains_key("www-authenticate"));
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(
            !body.contains("tax_bureau") && !body.contains("elsewhere"),
            "{what}: {body}"
        );
    }
    let expired = changed(
        &changed(&claims, "iat", json!(now - 7200)),
        "exp",
        json!(now - 3600),
    );
    try_it(&ours(&header, &expired)).fails(401, "TokenExpired");
    for scheme in ["Basic YTpi", "Bearer", ""] {
        let reply = service
            .get("/v1/datasets")
            .with("authorization", scheme)
            .send();
        reply.fails(401, "TokenMissing");
    }
    service.stop();
}

#[test]
fn issued_tokens_are_recorded_and_make_sense() {
    let lab = Lab::world();
    let issued = ["token", "issue", "--role", "analyst", "--org", "city_bank"];
    lab.json(&issued).fails(2, "BadTokenClaims", &["--purpose"]);
    lab.json(&["token", "issue", "--role", "enterprise"])
        .fails(2, "BadTokenClaims", &["--uscc"]);
    let long = ["token", "issue", "--role", "auditor", "--ttl", "4000d"];
    lab.json(&long)
        .fails(2, "BadTokenClaims", &["lasts at most"]);
    let entries = || {
        lab.json(&["audit", "verify"]).done().json()["entries"]
            .as_u64()
            .unwrap()
    };
    lab.token(&["--role", "auditor"]);
    let before = entries();
    let token = lab.token(&["--role", "auditor", "--subject", "a"]);
    assert_eq!(entries(), before + 1);
    let key = lab.hub().join("keys/token-issuer.key");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&key).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    // The log names the bearer and never holds the token.
    for file in crate::support::files(&lab.hub()) {
        let content = fs::read(file).unwrap();
        assert!(
            !content
                .windows(token.len())
                .any(|part| part == token.as_bytes())
        );
    }
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    lab.json(&["token", "issue", "--role", "auditor"])
        .fails(1, "FileUnreadable", &["chmod 600"]);
}

struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// An issuer that publishes its keys over HTTP, on this machine.
struct Issuer {
    url: String,
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (set, asked) = (
            Arc::new(Mutex::new(None::<String>)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (published, counted) = (Arc::clone(&set), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines
                    .next()
                    .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
                {}
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = match published.lock().unwrap().as_ref() {
                    Some(set) => format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{set}",
                        set.len()
                    ),
                    None => "HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                        .to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url, set, asked }
    }

    fn publish(&self, keys: &[&Signer]) {
        // Keys of kinds that the hub does not take are no reason to drop those it does.
        let strange = json!({ "kty": "EC", "crv": "secp256k1", "kid": "x", "x": "AA", "y": "AA" });
        let mut set = vec![
            strange,
            json!({ "kty": "oct", "kid": "secret", "k": "c2VjcmV0" }),
        ];
        set.extend(keys.iter().map(|key| key.public()));
        *self.set.lock().unwrap() = Some(json!({ "keys": set }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A key of the issuer.
enum Signer {
    Ed(&'static str, SigningKey),
    Ec(&'static str, EcdsaKeyPair),
}

impl Signer {
    fn ed(id: &'static str) -> Self {
        Self::Ed(id, SigningKey::generate().unwrap())
    }

    fn ec(id: &'static str) -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let der = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::Ec(
            id,
            EcdsaKeyPair::from_pkcs8(kind, der.as_ref(), &random).unwrap(),
        )
    }

    fn public(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ed(id, key) => json!({
                "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": id, "x": encode(key.public().as_bytes()),
            }),
            Self::Ec(id, key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": id, "x": x, "y": y })
            }
        }
    }

    fn token(&self, now_ms: i64) -> String {
        let now = now_ms / 1000;
        let claims = json!({
            "iss": "https://id.example", "aud": ["qihui", "other"], "sub": "clerk", "iat": now, "exp": now + 600,
            "roles": ["auditor", "wiki-editor"],
        });
        match self {
            Self::Ed(id, key) => {
                let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": id });
                forged(&header, &claims, |text| key.sign(text))
            }
            Self::Ec(id, key) => {
                let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": id });
                forged(&header, &claims, |text| {
                    key.sign(&SystemRandom::new(), text)
                        .unwrap()
                        .as_ref()
                        .to_vec()
                })
            }
        }
    }
}

fn verifier(place: &str, clock: &Arc<HandClock>) -> Verifier {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let source = Source {
        place: Place::parse(place).unwrap(),
        refresh_seconds: 3600,
        retry_seconds: 30,
    };
    let trusted = Trusted {
        issuer: "https://id.example".to_owned(),
        keys: Keys::Set(Box::new(KeySet::new(source).unwrap())),
    };
    let terms = Terms {
        longest_seconds: 3600,
        leeway_seconds: 30,
    };
    Verifier::new(
        vec![trusted],
        "qihui",
        terms,
        Arc::clone(clock) as Arc<dyn Clock>,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_issuer_change_without_a_restart() {
    let issuer = Issuer::start();
    let clock = Arc::new(HandClock(AtomicI64::new(1_800_000_000_000)));
    let later = |seconds: i64| clock.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    let now = || clock.now_ms();
    let verifier = verifier(&issuer.url, &clock);
    let (first, second) = (Signer::ed("one"), Signer::ec("two"));
    // No set could be read yet: that is not the token's fault.
    let refused = verifier.principal(&first.token(now())).await;
    assert!(
        matches!(refused, Err(IdentityError::KeysUnavailable { .. })),
        "{refused:?}"
    );
    issuer.publish(&[&first]);
    later(31);
    let principal = verifier.principal(&first.token(now())).await.unwrap();
    assert_eq!(principal.name, "token:clerk");
    let asked = issuer.asked();
    verifier.principal(&first.token(now())).await.unwrap();
    assert_eq!(issuer.asked(), asked, "a fresh set is not read again");
    // An unknown key: read again, but not at every attempt.
    later(31);
    assert!(verifier.principal(&second.token(now())).await.is_err());
    for _ in 0..20 {
        assert!(verifier.principal(&second.token(now())).await.is_err());
    }
    assert_eq!(issuer.asked(), asked + 1);
    issuer.publish(&[&first, &second]);
    later(31);
    verifier.principal(&second.token(now())).await.unwrap();
    // Withdrawn keys go with the next reading; an issuer that is gone leaves the last good set.
    issuer.publish(&[&second]);
    later(3601);
    assert!(verifier.principal(&first.token(now())).await.is_err());
    *issuer.set.lock().unwrap() = None;
    later(3601);
    verifier.principal(&second.token(now())).await.unwrap();
    *issuer.set.lock().unwrap() = Some("{".to_owned());
    later(3601);
    verifier.principal(&second.token(now())).await.unwrap();
    // A symmetric key of the set checks nothing.
    let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let (_, claims) = parts(&second.token(now()));
    let header = json!({ "alg": "HS256", "typ": "JWT", "kid": "secret" });
    let token = forged(&header, &claims, |text| {
        hmac::sign(&secret, text).as_ref().to_vec()
    });
    assert!(verifier.principal(&token).await.is_err());
}

#[test]
fn keys_come_over_https_or_from_this_machine() {
    for place in [
        "http://id.example/keys",
        "ftp://id.example/keys",
        "https://",
    ] {
        assert!(Place::parse(place).is_err(), "{place}");
    }
    for place in [
        "https://id.example/keys",
        "http://127.0.0.1:8080/keys",
        "/etc/qihui/keys.json",
    ] {
        assert!(Place::parse(place).is_ok(), "{place}");
    }
}

#[test]
fn in_the_service_profile_every_command_needs_a_token() {
    let lab = Lab::world();
    let key = Signer::ed("one");
    let set = lab.write("keys.json", json!({ "keys": [key.public()] }).to_string());
    let now = chrono::Utc::now().timestamp_millis();
    let with_roles = |roles: Value, more: Value| {
        let Signer::Ed(id, signing) = &key else {
            unreachable!()
        };
        let (_, mut claims) = parts(&key.token(now));
        claims["roles"] = roles;
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        forged(
            &json!({ "alg": "EdDSA", "typ": "JWT", "kid": id }),
            &claims,
            |text| signing.sign(text),
        )
    };
    let steward = with_roles(json!(["steward"]), json!({}));
    let analyst = with_roles(
        json!(["analyst"]),
        json!({ "org": "tax_bureau", "purposes": ["supervision.tax"] }),
    );
    let subscriber = |org: &str, purpose: &str| {
        let claims = json!({ "org": org, "purposes": [purpose] });
        let token = with_roles(json!(["subscriber"]), claims);
        lab.write(&format!("subscriber-of-{org}.jwt"), token)
    };
    let bank = subscriber("city_bank", "policy.matching");
    let tax = subscriber("tax_bureau", "supervision.tax");
    let operator = lab.write("operator.jwt", with_roles(json!(["operator"]), json!({})));
    let filings = lab.write(
        "filings.yaml",
        super::subscriptions::topic("filings", "uscc, pzxh, xse"),
    );
    let steward = lab.write("steward.jwt", steward);
    let analyst_file = lab.write("analyst.jwt", &analyst);
    let config = format!(
        "[identity]\nprofile = \"service\"\nissuer = \"https://id.example\"\nkeys = \"{set}\"\n"
    );
    let consent = lab.granted("uscc, xse");
    let denied_before = denied(&lab).len();
    fs::write(lab.hub().join("qihui.toml"), config).unwrap();
    let commands = |lab: &Lab| {
        lab.json(&["org", "list"])
            .fails(3, "TokenMissing", &["--token-file"]);
        lab.json(&["org", "list", "--token-file", &steward]).done();
        lab.json(&["org", "list", "--token-file", &analyst_file])
            .fails(3, "OutOfReach", &[]);
        lab.json(&["agreement", "list", "--token-file", &analyst_file])
            .fails(3, "OutOfReach", &[]);
        lab.json(&[
            "token",
            "issue",
            "--role",
            "auditor",
            "--token-file",
            &steward,
        ])
        .fails(3, "NoLocalIssuer", &[]);
        let query = |org: &str, purpose: &str| {
            let sql = "SELECT count(*) AS n FROM vat_declaration";
            lab.json(&[
                "query",
                "--org",
                org,
                "--purpose",
                purpose,
                sql,
                "--token-file",
                &analyst_file,
            ])
        };
        query("city_bank", "policy.matching").fails(3, "OutOfReach", &[]);
        query("tax_bureau", "policy.matching").fails(3, "OutOfReach", &[]);
        let preview = [
            "consent",
            "preview",
            &consent,
            "--token-file",
            &analyst_file,
        ];
        lab.json(&preview).fails(3, "OperationNotAllowed", &[]);
        let counted = query("tax_bureau", "supervision.tax").done().json();
        assert!(counted["rows"][0]["n"].as_i64().unwrap() > 0);
    };
    commands(&lab);
    // Topics: taken out and read by their receiver.
    let words = ["topic", "add", &filings, "--token-file"];
    let topic = |token: &str| lab.json(&[&words[..], &[token]].concat());
    topic(&bank).fails(3, "OperationNotAllowed", &[]);
    topic(&steward).done();
    let add = |token: &str| {
        let words = [
            "subscription",
            "add",
            "--org",
            "city_bank",
            "--topic",
            "filings",
            "--purpose",
            "policy.matching",
            "--token-file",
            token,
        ];
        lab.json(&words)
    };
    add(&tax).fails(3, "OutOfReach", &[]);
    let made = add(&bank).done().json();
    let id = made["subscription"]["subscription_id"].as_str().unwrap();
    let subscribed = |lab: &Lab| {
        let ask = |words: &[&str], token: &str| {
            let words = [&["subscription"], words, &["--token-file", token]].concat();
            lab.json(&words)
        };
        let listed = |token| ask(&["list"], token).done().json()["subscriptions"].clone();
        assert_eq!(listed(&bank).as_array().unwrap().len(), 1);
        assert_eq!(listed(&tax), json!([]));
        ask(&["list"], &analyst_file).fails(3, "OperationNotAllowed", &[]);
        ask(&["show", id], &bank).done();
        ask(&["show", id], &tax).fails(3, "OutOfReach", &[]);
        let page = ask(&["pull", id], &bank).done().json();
        assert_eq!(page["events"], json!([]));
        ask(&["pull", id], &tax).fails(3, "OutOfReach", &[]);
        ask(&["pull", id], &steward).fails(3, "OperationNotAllowed", &[]);
        ask(&["end", id], &tax).fails(3, "OutOfReach", &[]);
    };
    subscribed(&lab);
    // Where events go is said by the configuration, not by whoever types.
    let deliver = |token: &str, more: &[&str]| {
        let words = [
            "subscription",
            "deliver",
            id,
            "--once",
            "--token-file",
            token,
        ];
        lab.json(&[&words[..], more].concat())
    };
    deliver(&bank, &[]).fails(3, "OperationNotAllowed", &[]);
    deliver(&operator, &["--brokers", "127.0.0.1:1"]).fails(3, "OutOfReach", &[]);
    deliver(&operator, &[]).fails(1, "NoBroker", &["kafka.brokers"]);
    // The same through the service, and over the network.
    let service = Service::start(&lab);
    commands(&lab);
    subscribed(&lab);
    let question = super::shared::ask_tax("SELECT count(*) AS n FROM vat_declaration");
    service
        .post("/v1/queries", question)
        .with_bearer(&analyst)
        .send()
        .is(200);
    service.stop();
    // Whoever was refused rows is in the log for each, whichever way it asked.
    let entries = denied(&lab);
    let entries = entries[denied_before..].iter();
    let entries = entries.map(|entry| {
        ["org", "purpose", "action", "code"].map(|key| entry[key].as_str().unwrap_or("-"))
    });
    let (tax, read) = ("tax_bureau", "policy.matching");
    let once = [
        [tax, read, "QUERY", "OutOfReach"],
        [tax, read, "QUERY", "OutOfReach"],
        [tax, read, "-", "OperationNotAllowed"],
        [tax, "-", "STREAM", "OutOfReach"],
        ["-", "-", "STREAM", "OperationNotAllowed"],
    ];
    assert_eq!(entries.collect::<Vec<_>>(), [once, once].concat());
    // Beyond this machine only encrypted, and no key that others may read.
    let open = lab.json(&["serve", "--listen", "0.0.0.0:0"]);
    open.fails(2, "BadConfiguration", &["tls_certificate"]);
    let key = lab.hub().join("keys/audit-body.key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    lab.json(&["serve", "--listen", "127.0.0.1:0"])
        .fails(1, "FileUnreadable", &["chmod 600"]);
}
