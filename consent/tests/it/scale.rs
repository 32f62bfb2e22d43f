//! Many grants.

use crate::fixture::{Hub, bank, purpose, vat};
use qihui_consent::{
    decision::{ActionSet, Grant, ScopeItem, scope},
    signing::Operation,
};

/// The short cut for many grants comes to the same scope as the pure function over the same grants.
#[tokio::test]
async fn gate_1_the_decision_over_many_grants_is_that_of_the_pure_function() {
    let hub = Hub::new().await;
    for n in 1..=2 {
        hub.enterprise(n, 1, 1).await;
    }
    let (one, two) = (
        hub.granted(1, &[]).await,
        hub.granted(2, &[("[uscc, sales]", "[tax]")]).await,
    );
    let both = hub
        .granted(
            1,
            &[
                ("to: 2026-01-01", "to: 2026-02-01"),
                ("[uscc, sales]", "[tax]"),
            ],
        )
        .await;
    let items =
        |consent: &qihui_consent::ledger::Consent| -> Vec<ScopeItem> { consent.document.items() };
    let grant = |consent: &qihui_consent::ledger::Consent| Grant {
        consent_id: consent.document.consent_id.clone(),
        version: 1,
        no: consent.no,
        org: bank(),
        purpose: purpose("credit.loan"),
        items: items(consent),
        actions: ActionSet::from_iter([qihui_catalog::Action::Query]),
        starts: consent.document.starts,
        expires: consent.document.expires,
        metered: false,
    };
    let agreements: Vec<_> = hub
        .ledger
        .agreements()
        .await
        .unwrap()
        .into_iter()
        .map(|stored| stored.agreement)
        .collect();
    let grants = [grant(&one), grant(&two), grant(&both)];
    let pure = scope(
        &hub.catalog.contracts[&vat()],
        &hub.asked(None),
        &agreements,
        &grants,
    );
    let found = hub
        .decide(None)
        .await
        .unwrap()
        .scopes
        .remove(&vat())
        .unwrap();
    assert_eq!(*found, pure);
    hub.hold(&both.document.consent_id, Operation::Withdraw)
        .await
        .unwrap();
    let pure = scope(
        &hub.catalog.contracts[&vat()],
        &hub.asked(None),
        &agreements,
        &grants[..2],
    );
    let found = hub
        .decide(None)
        .await
        .unwrap()
        .scopes
        .remove(&vat())
        .unwrap();
    assert_eq!(*found, pure, "the copy in memory follows");
}
