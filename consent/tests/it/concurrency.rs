//! Several writers at once.

use std::sync::Arc;

use qihui_catalog::{EnterpriseNumbers, NumberRequest};

use qihui_consent::{
    Drainer, Ledger,
    document::ConsentRequest,
    ledger::{Organisation, OrganisationKind},
    signing::Operation,
    state::State,
};

use crate::fixture::{Hub, bank, catalog, key, request_text, uscc};

/// Two handles on one file, as two processes would have, and several tasks on each.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_two_handles_are_serialised() {
    let hub = Hub::new().await;
    let other = Ledger::open(&hub.dir.path().join("ledger.sqlite"), hub.clock.clone())
        .await
        .unwrap();
    let tasks: Vec<_> = (1_u8..=12)
        .map(|n| {
            let ledger = if n % 2 == 0 {
                hub.ledger.clone()
            } else {
                other.clone()
            };
            tokio::spawn(async move {
                let catalog = catalog();
                ledger
                    .add_signatory(uscc(n.into()), "s1", key(n).public())
                    .await
                    .unwrap();
                let request = ConsentRequest::parse(&request_text(n.into(), &[])).unwrap();
                let id = ledger
                    .request_consent(&catalog, request)
                    .await
                    .unwrap()
                    .document
                    .consent_id;
                ledger
                    .sign_with(&catalog, &id, Operation::Give, None, ("s1", &key(n)))
                    .await
                    .unwrap();
                id
            })
        })
        .collect();
    for task in tasks {
        let id = task.await.unwrap();
        assert_eq!(other.consent(&id).await.unwrap().state, State::Active);
    }
    let checked = hub.ledger.check().await.unwrap();
    assert_eq!((checked.events, checked.consents), (2 + 12 * 3, 12));
    hub.drain().await;
    assert_eq!(hub.seen().await.len(), 12);
    // The other handle never drained, but sees what is in the log.
    let request = hub.asked(None);
    let scope = other
        .decide(&hub.catalog, &request)
        .await
        .unwrap()
        .scopes
        .remove(&crate::fixture::vat())
        .unwrap();
    assert_eq!(scope.enterprises(), 12);
}

/// Only one of two opposite operations can win, and both handles agree which.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_two_signatures_over_one_text_wins() {
    let hub = Arc::new(Hub::new().await);
    hub.enterprise(1, 2, 1).await;
    for _ in 0..10 {
        let id = hub.request(1, &[]).await.unwrap().document.consent_id;
        let (a, b) = tokio::join!(
            hub.sign(&id, 1, 1, Operation::Give, None),
            hub.sign(&id, 1, 2, Operation::Reject, None),
        );
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    }
    hub.ledger.check().await.unwrap();
}

/// Drainers that meet hand every event over once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drainer_hands_each_event_over_once() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    for _ in 0..40 {
        hub.request(1, &[]).await.unwrap();
    }
    let drainers: Vec<_> = (0..4)
        .map(|_| {
            let drainer: Drainer = hub.drainer.clone();
            tokio::spawn(async move { drainer.drain().await.unwrap() })
        })
        .collect();
    let mut drained = 0;
    for drainer in drainers {
        drained += drainer.await.unwrap();
    }
    let entries = hub.sink.entries.lock();
    assert_eq!(drained, 41);
    let positions: Vec<u64> = entries.iter().map(|entry| entry.position).collect();
    assert_eq!(positions, (1..=entries.len() as u64).collect::<Vec<_>>());
}

/// What was refused lets go of the store at once, even where the runtime has no turn to tidy up: the numbers have a
/// connection of their own and would wait for half a minute, then fail.
#[tokio::test]
async fn a_refused_operation_leaves_no_lock() {
    let hub = Hub::new().await;
    let org = Organisation {
        id: bank(),
        name: "x".to_owned(),
        kind: OrganisationKind::Bank,
    };
    for n in 0..5 {
        hub.ledger.add_org(org.clone()).await.unwrap_err();
        let wish = NumberRequest {
            uscc: uscc(n),
            county: None,
            section: None,
        };
        hub.ledger.assign(&[wish]).unwrap();
    }
}
