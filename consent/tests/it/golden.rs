//! Golden files: what is persisted, and the state machine as a whole.
//!
//! `QIHUI_GOLDEN=write` writes them anew; look at the difference before committing it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use qihui_consent::{
    document::NarrowRequest,
    signing::Operation,
    state::{Actor, ConsentEvent, Pause, Progress, State},
};
use sqlx::Connection;

use crate::fixture::Hub;

fn golden(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("QIHUI_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{} differs; found:\n{found}",
        path.display()
    );
}

fn events() -> Vec<ConsentEvent> {
    let signatory = || "s1".to_owned();
    let by = || Actor::Signatory("s1".to_owned());
    let holder = || Actor::Holder("local:root".to_owned());
    vec![
        ConsentEvent::Requested { threshold: 2 },
        ConsentEvent::Narrowed {
            by: holder(),
            threshold: 2,
            pause: None,
        },
        ConsentEvent::Narrowed {
            by: holder(),
            threshold: 2,
            pause: Some(Pause::Held),
        },
        ConsentEvent::Signed {
            signatory: signatory(),
        },
        ConsentEvent::Signed {
            signatory: "s2".to_owned(),
        },
        ConsentEvent::Rejected { by: by() },
        ConsentEvent::Paused { by: by() },
        ConsentEvent::Paused { by: holder() },
        ConsentEvent::ResumeSigned {
            signatory: signatory(),
        },
        ConsentEvent::ResumeSigned {
            signatory: "s2".to_owned(),
        },
        ConsentEvent::Lifted { by: holder() },
        ConsentEvent::Withdrawn { by: by() },
        ConsentEvent::Revoked {
            by: "steward".to_owned(),
        },
        ConsentEvent::Expired,
        ConsentEvent::Invalidated {
            reason: "x".to_owned(),
        },
        ConsentEvent::Superseded,
    ]
}

fn word(event: &ConsentEvent) -> String {
    match event {
        ConsentEvent::Signed { signatory } | ConsentEvent::ResumeSigned { signatory } => {
            format!("{}({signatory})", event.word())
        }
        ConsentEvent::Paused {
            by: Actor::Holder(_),
        } => "paused(held)".to_owned(),
        ConsentEvent::Narrowed { pause: Some(_), .. } => "narrowed(paused)".to_owned(),
        _ => event.word().to_owned(),
    }
}

fn told(progress: &Progress) -> String {
    let mut text = progress.state.to_string();
    if !progress.signed.is_empty() {
        let _ = write!(
            text,
            "+{}",
            progress
                .signed
                .iter()
                .cloned()
                .collect::<Vec<_>>()
                .join("+")
        );
    }
    if let Some(pause) = progress.pause {
        let _ = write!(text, "/{pause:?}").map(|()| text.make_ascii_uppercase());
    }
    text
}

/// Every reachable progress by name, found by trying every event on every progress.
fn reachable() -> BTreeMap<String, Progress> {
    let mut found: BTreeMap<String, Progress> = BTreeMap::new();
    let mut open: Vec<Option<Progress>> = vec![None];
    while let Some(progress) = open.pop() {
        for event in events() {
            if let Ok(next) = Progress::apply(progress.as_ref(), &event)
                && found.insert(told(&next), next.clone()).is_none()
            {
                open.push(Some(next));
            }
        }
    }
    found
}

#[test]
fn the_state_machine_is_golden() {
    let all = reachable();
    for state in State::ALL {
        assert!(
            all.values().any(|progress| progress.state == state),
            "{state} can be reached"
        );
        assert_eq!(State::from_word(state.as_str()), Some(state));
    }
    let mut table = String::from(
        "# Every progress × every event, for a threshold of 2. What is not listed is refused.\n",
    );
    for (name, progress) in &all {
        for event in events() {
            match Progress::apply(Some(progress), &event) {
                Ok(next) => {
                    assert!(!progress.state.is_terminal(), "{name} is terminal");
                    assert_eq!(next.pause.is_some(), next.state == State::Paused);
                    writeln!(table, "{name} --{}--> {}", word(&event), told(&next)).unwrap();
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    golden("states.txt", &table);
}

#[tokio::test]
async fn the_schema_is_golden() {
    let hub = Hub::empty().await;
    let url = format!(
        "sqlite://{}?mode=ro",
        hub.dir.path().join("ledger.sqlite").display()
    );
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let format: u32 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let statements: Vec<String> = sqlx::query_scalar(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    golden(
        "schema.sql",
        &format!("-- format {format}\n\n{};\n", statements.join(";\n\n")),
    );
}

/// Replaces what is drawn by chance: consent ids, nonces, signatures, hashes of what holds an id, the name of the hub.
fn without_chance(text: &str) -> String {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(start);
        result.push_str(before);
        let length = from
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(from.len());
        let (run, after) = from.split_at(length);
        let is_chance = [16, 20, 32, 64, 128].contains(&run.len())
            && run.bytes().any(|b| b.is_ascii_lowercase());
        if is_chance {
            let count = seen.len();
            let name = seen
                .entry(run.to_owned())
                .or_insert_with(|| format!("<{}#{count}>", run.len()));
            result.push_str(name);
        } else {
            result.push_str(run);
        }
        rest = after;
    }
    result + rest
}

#[tokio::test]
async fn events_are_golden() {
    let hub = Hub::new().await;
    hub.enterprise(1, 2, 2).await;
    let id = hub.request(1, &[]).await.unwrap().document.consent_id;
    let text = hub
        .ledger
        .signing_text(&hub.catalog, &id, Operation::Give, None)
        .await
        .unwrap()
        .text;
    hub.sign(&id, 1, 1, Operation::Give, None).await.unwrap();
    hub.sign(&id, 1, 2, Operation::Give, None).await.unwrap();
    let wish = NarrowRequest::parse("{expires: 2026-03-01}").unwrap();
    hub.sign(&id, 1, 1, Operation::Narrow, Some(wish))
        .await
        .unwrap();
    hub.hold(&id, Operation::Pause).await.unwrap();
    hub.hold(&id, Operation::Resume).await.unwrap();
    hub.ledger
        .acting_as("local:root")
        .revoke_consent(&id, "steward")
        .await
        .unwrap();
    hub.ledger.record_artefacts(&hub.catalog).await.unwrap();
    let mut lines = format!("signing text: {text}\n");
    for event in hub.ledger.events(0, 1000).await.unwrap() {
        writeln!(
            lines,
            "{} {} {:?} {}",
            event.position, event.kind, event.subjects, event.body
        )
        .unwrap();
    }
    golden("events.txt", &without_chance(&lines));
}
