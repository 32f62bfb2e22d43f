//! A consent from request to end, and everything that must not work.

use std::sync::atomic::Ordering;

use qihui_catalog::{Coded, Kind};
use qihui_consent::{
    Ledger, LedgerError,
    agreement::AgreementFile,
    document::NarrowRequest,
    ledger::{Checked, ConsentOperation, Taken},
    signing::{Operation, SignedOperation},
    state::State,
};
use sqlx::Connection;

use crate::fixture::{AGREEMENT, DAY_MS, Hub, bank, key, purpose, uscc, vat};

fn code<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> &'static str {
    result.unwrap_err().code()
}

#[tokio::test]
async fn gate_4_giving_waits_for_the_log_and_taking_away_does_not() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let consent = hub.request(1, &[]).await.unwrap();
    assert_eq!((consent.state, consent.in_force), (State::Requested, false));
    let id = consent.document.consent_id;
    let signed = hub.sign(&id, 1, 1, Operation::Give, None).await.unwrap();
    assert_eq!(
        (signed.state, signed.in_force),
        (State::Active, false),
        "signed, but not yet in the log"
    );
    assert!(hub.seen().await.is_empty());
    hub.drain().await;
    assert!(hub.ledger.consent(&id).await.unwrap().in_force);
    assert_eq!(hub.seen().await, [signed.no.0]);

    let epoch = hub
        .ledger
        .losses()
        .epoch(&bank(), &purpose("credit.loan"), &vat());
    hub.sink.down.store(true, Ordering::SeqCst);
    let withdrawn = hub.hold(&id, Operation::Withdraw).await.unwrap();
    assert_eq!(withdrawn.state, State::Withdrawn);
    assert!(hub.seen().await.is_empty(), "although the log is down");
    assert!(
        hub.ledger
            .losses()
            .epoch(&bank(), &purpose("credit.loan"), &vat())
            > epoch
    );
    let taken = hub
        .ledger
        .losses()
        .taken_since(&bank(), &purpose("credit.loan"), &vat(), epoch);
    assert_eq!(taken, Taken::From(vec![signed.no]));
    let error = hub.drainer.drain().await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        ("LogUnavailable", Kind::Denied)
    );
    hub.sink.down.store(false, Ordering::SeqCst);
    hub.drain().await;
    let checked = hub.ledger.check().await.unwrap();
    assert_eq!(
        hub.sink.entries.lock().len() as u64,
        checked.events,
        "every event is in the log once"
    );
}

#[tokio::test]
async fn gate_4_a_release_in_progress_delays_the_acknowledgement_of_a_withdrawal() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let id = hub.granted(1, &[]).await.document.consent_id;
    let lock = hub.ledger.losses().release_lock();
    let releasing = lock.read().await;
    let (ledger, catalog) = (hub.ledger.clone(), hub.catalog.clone());
    let withdrawal = tokio::spawn(async move {
        let (by, operation) = ("local:root".to_owned(), Operation::Withdraw);
        let held = ConsentOperation::Held {
            consent_id: id,
            operation,
            by,
            narrowed: None,
        };
        ledger.operate(&catalog, held).await
    });
    // The withdrawal is in force as soon as it is committed, long before it may be acknowledged.
    while !hub.seen().await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!withdrawal.is_finished());
    drop(releasing);
    withdrawal.await.unwrap().unwrap();
}

#[tokio::test]
async fn giving_needs_the_threshold_and_taking_away_anyone() {
    let hub = Hub::new().await;
    hub.enterprise(1, 3, 2).await;
    let id = hub.request(1, &[]).await.unwrap().document.consent_id;
    let one = hub.sign(&id, 1, 1, Operation::Give, None).await.unwrap();
    assert_eq!(
        (one.state, one.signed),
        (State::PartiallySigned, vec!["s1".to_owned()])
    );
    assert_eq!(
        code(hub.sign(&id, 1, 1, Operation::Give, None).await),
        "AlreadySigned"
    );
    assert_eq!(
        hub.sign(&id, 1, 3, Operation::Give, None)
            .await
            .unwrap()
            .state,
        State::Active
    );
    assert_eq!(
        hub.sign(&id, 1, 2, Operation::Pause, None)
            .await
            .unwrap()
            .state,
        State::Paused
    );
    assert_eq!(
        code(hub.hold(&id, Operation::Resume).await),
        "ConsentStateRefuses",
        "what was signed is not lifted so"
    );
    assert_eq!(
        hub.sign(&id, 1, 1, Operation::Resume, None)
            .await
            .unwrap()
            .state,
        State::Paused
    );
    assert_eq!(
        hub.sign(&id, 1, 2, Operation::Resume, None)
            .await
            .unwrap()
            .state,
        State::Active
    );
    assert_eq!(
        hub.hold(&id, Operation::Pause).await.unwrap().state,
        State::Paused
    );
    assert_eq!(
        hub.hold(&id, Operation::Resume).await.unwrap().state,
        State::Active
    );
    assert_eq!(
        code(hub.hold(&id, Operation::Give).await),
        "ConsentStateRefuses"
    );
    assert_eq!(
        hub.sign(&id, 1, 3, Operation::Withdraw, None)
            .await
            .unwrap()
            .state,
        State::Withdrawn
    );
    for operation in [
        Operation::Give,
        Operation::Pause,
        Operation::Resume,
        Operation::Withdraw,
        Operation::Reject,
    ] {
        assert_eq!(
            code(hub.sign(&id, 1, 1, operation, None).await),
            "ConsentStateRefuses",
            "{operation}"
        );
    }
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn a_signature_counts_for_one_text_one_key_one_moment() {
    let hub = Hub::new().await;
    hub.enterprise(1, 2, 1).await;
    let id = hub.request(1, &[]).await.unwrap().document.consent_id;
    let text = hub
        .ledger
        .signing_text(&hub.catalog, &id, Operation::Give, None)
        .await
        .unwrap();
    let attempt = |operation, signatory: &str, signature: Vec<u8>| {
        let (consent_id, signatory) = (id.clone(), signatory.to_owned());
        let signed = SignedOperation {
            consent_id,
            operation,
            signatory,
            signature,
            narrowed: None,
        };
        hub.ledger
            .operate(&hub.catalog, ConsentOperation::Signed(signed))
    };
    let good = key(11).sign(text.text.as_bytes());
    let other_text = key(11).sign(text.text.replace("\"sales\"", "\"uscc\"").as_bytes());
    assert_eq!(
        code(attempt(Operation::Give, "s1", other_text).await),
        "SignatureMismatch"
    );
    assert_eq!(
        code(attempt(Operation::Give, "s1", key(12).sign(text.text.as_bytes())).await),
        "SignatureMismatch"
    );
    assert_eq!(
        code(attempt(Operation::Give, "s2", good.clone()).await),
        "SignatureMismatch"
    );
    assert_eq!(
        code(attempt(Operation::Reject, "s1", good.clone()).await),
        "SignatureMismatch",
        "another operation"
    );
    assert_eq!(
        code(attempt(Operation::Give, "s9", good.clone()).await),
        "UnknownSignatory"
    );
    for length in [0, 63, 65] {
        assert_eq!(
            code(attempt(Operation::Give, "s1", vec![0; length]).await),
            "SignatureMismatch"
        );
    }
    assert_eq!(
        attempt(Operation::Give, "s1", good.clone())
            .await
            .unwrap()
            .state,
        State::Active
    );
    let pause = hub
        .ledger
        .signing_text(&hub.catalog, &id, Operation::Pause, None)
        .await
        .unwrap();
    let pause_signature = key(11).sign(pause.text.as_bytes());
    attempt(Operation::Pause, "s1", pause_signature.clone())
        .await
        .unwrap();
    hub.sign(&id, 1, 1, Operation::Resume, None).await.unwrap();
    assert_eq!(
        code(attempt(Operation::Pause, "s1", pause_signature).await),
        "SignatureMismatch",
        "used before"
    );
    hub.ledger.remove_signatory(uscc(1), "s1").await.unwrap();
    assert_eq!(
        code(hub.sign(&id, 1, 1, Operation::Withdraw, None).await),
        "UnknownSignatory"
    );
}

#[tokio::test]
async fn narrowing_takes_away_at_once_and_can_do_nothing_else() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let consent = hub
        .granted(1, &[("[uscc, sales]", "[uscc, sales, tax]")])
        .await;
    let id = consent.document.consent_id.clone();
    let narrow = |text: &str| NarrowRequest::parse(text).unwrap();
    for (wish, why) in [
        (
            "{scope: [{dataset: vat, columns: [day], data_range: {from: 2024-01-01, to: 2025-01-01}}]}",
            "a column",
        ),
        ("{scope: [{dataset: vat, columns: [sales]}]}", "a range"),
        (
            "{scope: [{dataset: registry, columns: [phone]}]}",
            "a dataset",
        ),
        ("{actions: [QUERY, STREAM]}", "an action"),
        ("{expires: 2026-06-02}", "a later end"),
        ("{data_life_days: 91}", "a longer life"),
        ("{}", "nothing"),
    ] {
        assert_eq!(
            code(
                hub.sign(&id, 1, 1, Operation::Narrow, Some(narrow(wish)))
                    .await
            ),
            "NotNarrower",
            "{why}"
        );
    }
    assert!(hub.sign(&id, 1, 1, Operation::Narrow, None).await.is_err());
    let wish = "{scope: [{dataset: vat, columns: [sales], data_range: {from: 2025-01-01, to: 2025-07-01}}], expires: 2026-03-01}";
    let epoch = hub
        .ledger
        .losses()
        .epoch(&bank(), &purpose("credit.loan"), &vat());
    let next = hub
        .sign(&id, 1, 1, Operation::Narrow, Some(narrow(wish)))
        .await
        .unwrap();
    assert_eq!(
        (next.document.version, next.state, next.in_force),
        (2, State::Active, true),
        "needs no log"
    );
    assert_eq!(
        next.document.prev_hash.as_deref(),
        Some(consent.hash.as_str())
    );
    assert!(
        hub.ledger
            .losses()
            .epoch(&bank(), &purpose("credit.loan"), &vat())
            > epoch
    );
    let scope = &hub.decide(None).await.unwrap().scopes[&vat()];
    assert_eq!(scope.shapes[1].items.len(), 1);
    assert_eq!(
        scope.shapes[1].items[0]
            .columns
            .iter()
            .map(|i| scope.columns[i].name.as_str())
            .collect::<Vec<_>>(),
        ["sales"]
    );
    let versions = hub.ledger.versions(&id).await.unwrap();
    assert_eq!(
        versions.iter().map(|v| v.state).collect::<Vec<_>>(),
        [State::Superseded, State::Active]
    );
    hub.sign(&id, 1, 1, Operation::Pause, None).await.unwrap();
    let paused = hub
        .sign(
            &id,
            1,
            1,
            Operation::Narrow,
            Some(narrow("{expires: 2026-02-01}")),
        )
        .await
        .unwrap();
    assert_eq!((paused.document.version, paused.state), (3, State::Paused));
    hub.sign(&id, 1, 1, Operation::Resume, None).await.unwrap();
    hub.drain().await;
    assert_eq!(hub.seen().await.len(), 1);
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn narrowing_before_the_log_has_it_does_not_jump_the_queue() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let id = hub.request(1, &[]).await.unwrap().document.consent_id;
    hub.sign(&id, 1, 1, Operation::Give, None).await.unwrap();
    let wish = NarrowRequest::parse("{expires: 2026-03-01}").unwrap();
    assert!(
        !hub.sign(&id, 1, 1, Operation::Narrow, Some(wish))
            .await
            .unwrap()
            .in_force
    );
    assert!(hub.seen().await.is_empty());
    hub.drain().await;
    assert_eq!(hub.seen().await.len(), 1);
}

#[tokio::test]
async fn a_consent_can_replace_another_once_it_is_active() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    hub.enterprise(2, 1, 1).await;
    let old = hub.granted(1, &[]).await.document.consent_id;
    let supersedes = format!("expires: 2026-06-01\nsupersedes: {{consent_id: {old}}}");
    let change = ("expires: 2026-06-01", supersedes.as_str());
    assert_eq!(code(hub.request(2, &[change]).await), "CannotSupersede");
    let new = hub
        .request(1, &[change, ("[uscc, sales]", "[uscc, sales, tax]")])
        .await
        .unwrap()
        .document
        .consent_id;
    assert_eq!(
        hub.ledger.consent(&old).await.unwrap().state,
        State::Active,
        "not before it is signed"
    );
    hub.sign(&new, 1, 1, Operation::Give, None).await.unwrap();
    assert_eq!(
        hub.ledger.consent(&old).await.unwrap().state,
        State::Superseded
    );
    hub.drain().await;
    assert_eq!(hub.seen().await.len(), 1);
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn a_consent_ends_by_itself() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let id = hub.granted(1, &[]).await.document.consent_id;
    hub.advance(141 * DAY_MS + DAY_MS);
    let consent = hub.ledger.consent(&id).await.unwrap();
    assert_eq!((consent.state, consent.in_force), (State::Expired, false));
    assert!(
        hub.seen().await.is_empty(),
        "whether or not anyone wrote it down"
    );
    assert_eq!(
        code(hub.sign(&id, 1, 1, Operation::Pause, None).await),
        "ConsentStateRefuses"
    );
    assert_eq!(hub.ledger.expire_due().await.unwrap(), 1);
    assert_eq!(hub.ledger.expire_due().await.unwrap(), 0);
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn the_clock_never_goes_back() {
    let hub = Hub::new().await;
    hub.advance(-1500);
    hub.enterprise(1, 1, 1).await;
    let events = hub.ledger.events(0, 100).await.unwrap();
    assert!(
        events.is_sorted_by_key(|event| event.time),
        "a small lag is evened out"
    );
    hub.advance(-3_600_000);
    assert_eq!(code(hub.request(1, &[]).await), "ClockBack");
    assert_eq!(hub.decide(None).await.unwrap_err().code(), "ClockBack");
    assert_eq!(
        hub.ledger.events(0, 100).await.unwrap().len(),
        events.len(),
        "nothing was written"
    );
    hub.advance(3_600_000);
    hub.request(1, &[]).await.unwrap();
}

/// Makes a change in a copy of a ledger, as somebody would who has the file; what its check then finds.
async fn changed(hub: &Hub, change: &str) -> Result<Checked, LedgerError> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ledger.sqlite", "ledger.sqlite-wal"] {
        let from = hub.dir.path().join(name);
        if from.exists() {
            std::fs::copy(from, dir.path().join(name)).unwrap();
        }
    }
    let copy = dir.path().join("ledger.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&copy)
        .foreign_keys(false);
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(change.to_owned()))
        .execute(&mut connection)
        .await
        .unwrap();
    assert!(done.rows_affected() > 0, "{change}");
    connection.close().await.unwrap();
    let ledger = Ledger::open(&copy, hub.clock.clone()).await.unwrap();
    let checked = ledger.check().await;
    ledger.close().await;
    checked
}

/// Whatever decisions look up, somebody who changes it in the file is found out: by hand nothing can be opened.
#[tokio::test]
async fn a_changed_agreement_or_consent_is_found() {
    let hub = Hub::new().await;
    for n in 1..=4 {
        hub.enterprise(n, 1, 1).await;
    }
    let narrowed = hub.granted(1, &[]).await.document.consent_id;
    let wish = NarrowRequest::parse("data_life_days: 30").unwrap();
    let signed = hub.sign(&narrowed, 1, 1, Operation::Narrow, Some(wish));
    signed.await.unwrap();
    let withdrawn = hub.granted(2, &[]).await.document.consent_id;
    hub.hold(&withdrawn, Operation::Withdraw).await.unwrap();
    // Suspended, and narrowed while it is: it opens nothing until it is resumed.
    let paused = hub.granted(3, &[]).await.document.consent_id;
    hub.hold(&paused, Operation::Pause).await.unwrap();
    let wish = NarrowRequest::parse("data_life_days: 30").unwrap();
    let signed = hub.sign(&paused, 3, 1, Operation::Narrow, Some(wish));
    signed.await.unwrap();
    let another = AGREEMENT.replace("vat-loan", "vat-watch");
    let another = AgreementFile::parse(&another).unwrap();
    hub.ledger
        .add_agreement(&hub.catalog, another)
        .await
        .unwrap();
    let ended = "vat-watch".into();
    let revoked = hub.ledger.revoke_agreement(&ended, "steward");
    revoked.await.unwrap();
    hub.drain().await;
    let waiting = hub.request(4, &[]).await.unwrap().document.consent_id;
    let signed = hub.sign(&waiting, 4, 1, Operation::Give, None);
    signed.await.unwrap();
    hub.ledger.check().await.unwrap();
    hub.ledger.close().await;
    let nothing = "UPDATE consent SET nonce = nonce";
    assert_eq!(changed(&hub, nothing).await.unwrap().consents, 6);
    for change in [
        "UPDATE agreement SET document = replace(document, '2027-', '2037-')",
        "UPDATE agreement SET document = '{'",
        "UPDATE agreement SET org = 'other' WHERE id = 'vat-loan'",
        "UPDATE agreement SET revoked = NULL WHERE revoked IS NOT NULL",
        "INSERT INTO agreement SELECT 'mine', org, replace(document, 'vat-loan', 'mine'), added, NULL FROM agreement LIMIT 1",
        "DELETE FROM agreement",
        "UPDATE consent SET document = replace(document, '\"sales\"', '\"tax\"') WHERE no = 1",
        "UPDATE consent SET document = '{'",
        "UPDATE consent SET progress = replace(progress, 'WITHDRAWN', 'ACTIVE'), state = 'ACTIVE' WHERE state = 'WITHDRAWN'",
        "UPDATE consent SET state = 'ACTIVE' WHERE state = 'WITHDRAWN'",
        "UPDATE consent SET no = 77 WHERE state = 'ACTIVE'",
        "UPDATE consent SET org = 'other'",
        "UPDATE consent SET purpose = 'credit.watch'",
        "DELETE FROM consent WHERE state = 'WITHDRAWN'",
        // Open what was withdrawn, what is narrower now, what waits for the log; or what nobody granted.
        "UPDATE grant_row SET status = 2 WHERE status = 0",
        "UPDATE grant_row SET status = 2 WHERE status = 1",
        "UPDATE grant_row SET given = 1 WHERE status = 1",
        "UPDATE grant_row SET expires = expires + 1 WHERE status = 2",
        "UPDATE grant_row SET starts = starts - 1 WHERE status = 2",
        "UPDATE grant_row SET actions = 15 WHERE status = 2",
        "UPDATE grant_row SET data_life = 90 WHERE status = 2",
        "UPDATE grant_row SET metered = 1 WHERE status = 2",
        "UPDATE grant_row SET no = 77 WHERE status = 2",
        "UPDATE terms SET items = replace(items, '\"sales\"', '\"tax\"')",
        "UPDATE grantee SET purpose = 'credit.watch'",
        "INSERT INTO grant_row SELECT 99, no, consent, terms, actions, starts, expires, metered, status, given, revision,
             data_life FROM grant_row WHERE status = 2",
        "INSERT INTO grantee (id, org, purpose, dataset) VALUES (99, 'bank', 'credit.loan', 'registry');
         INSERT INTO grant_row SELECT 99, no, consent, terms, actions, starts, expires, metered, status, given, revision,
             data_life FROM grant_row WHERE status = 2",
        "DELETE FROM grant_row WHERE status = 2",
    ] {
        let found = changed(&hub, change).await.expect_err(change);
        assert_eq!(found.code(), "LedgerCorrupt", "{change}: {found}");
    }
}
