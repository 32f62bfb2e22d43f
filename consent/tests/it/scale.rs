//! Figures with a million grants.

use std::time::Instant;

use qihui_catalog::{EnterpriseNo, Timestamp};
use qihui_consent::{
    Ledger,
    decision::{ActionSet, Grant, ScopeItem, scope},
    signing::Operation,
};
use sqlx::Connection;

use crate::fixture::{Hub, bank, purpose, vat};

/// Puts grants of `count` enterprises into the store, one in a hundred with another scope, as if each had been signed.
async fn fill(hub: &Hub, count: u32) {
    let consent = hub.granted(1, &[]).await;
    hub.granted(2, &[("[uscc, sales]", "[tax]")]).await;
    let url = format!(
        "sqlite://{}",
        hub.dir.path().join("ledger.sqlite").display()
    );
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(
        "WITH RECURSIVE n (no) AS (SELECT 10000 UNION ALL SELECT no + 1 FROM n WHERE no < 9999 + ?1)
         INSERT INTO grant_row (grantee, no, consent, terms, actions, starts, expires, metered, status, given, revision)
         SELECT g.grantee, n.no, g.consent, CASE WHEN n.no % 100 = 0 THEN 3 - g.terms ELSE g.terms END, g.actions,
             g.starts, g.expires + n.no, 0, 2, g.given, g.revision
         FROM n, grant_row AS g WHERE g.no = ?2",
    )
    .bind(count)
    .bind(consent.no.0)
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query("UPDATE revision SET revision = revision + 1000")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

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
    assert_eq!(found, pure);
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
    assert_eq!(found, pure, "the copy in memory follows");
}

/// Run with `cargo test --release -p qihui-consent -- --ignored figures --nocapture`.
#[tokio::test]
#[ignore = "a measurement, meant for an optimised build"]
async fn figures_of_a_million_grants() {
    let hub = Hub::new().await;
    for n in 1..=3 {
        hub.enterprise(n, 1, 1).await;
    }
    fill(&hub, 1_000_000).await;
    let ledger = Ledger::open(&hub.dir.path().join("ledger.sqlite"), hub.clock.clone())
        .await
        .unwrap();
    let timed = async |what: &str| {
        let start = Instant::now();
        let decision = ledger.decide(&hub.catalog, &hub.asked(None)).await.unwrap();
        crate::fixture::tell(&format!("{what}: {:.0?}", start.elapsed()));
        decision
    };
    let cold = timed("decide, 1,000,002 grants, first time").await;
    let scope = &cold.scopes[&vat()];
    assert_eq!((scope.enterprises(), scope.shapes.len()), (1_000_002, 3));
    timed("decide, again").await;
    hub.granted(3, &[]).await;
    assert_eq!(
        timed("decide, after one more grant").await.scopes[&vat()].enterprises(),
        1_000_003
    );
    let start = Instant::now();
    let _ = scope.commitment();
    crate::fixture::tell(&format!("commitment: {:.0?}", start.elapsed()));
    let start = Instant::now();
    let mut request = hub.asked(Some(vec![EnterpriseNo(20_000)]));
    request.until = Timestamp(request.at.0 + 1);
    ledger.decide(&hub.catalog, &request).await.unwrap();
    crate::fixture::tell(&format!(
        "decide, one named subject: {:.0?}",
        start.elapsed()
    ));
    let start = Instant::now();
    for _ in 0..100 {
        hub.request(1, &[]).await.unwrap();
    }
    crate::fixture::tell(&format!(
        "one durable operation: {:.1?}",
        start.elapsed() / 100
    ));
}
