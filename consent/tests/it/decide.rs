//! The decision on the ledger: who is told what, uses, previews, and the same as the pure function.

use qihui_catalog::{Action, Coded, Timestamp};
use qihui_consent::{
    DecisionError,
    agreement::AgreementFile,
    decision::{Bucket, DecisionRequest, Form},
    ledger::{Organisation, OrganisationKind},
    signing::Operation,
};

use crate::fixture::{AGREEMENT, DAY_MS, Hub, bank, purpose, vat};

fn code<T: std::fmt::Debug>(result: Result<T, DecisionError>) -> &'static str {
    result.unwrap_err().code()
}

#[tokio::test]
async fn who_may_not_ask_is_told_so() {
    let hub = Hub::new().await;
    let ask = async |change: fn(&mut DecisionRequest)| {
        let mut request = hub.asked(None);
        change(&mut request);
        hub.ledger.decide(&hub.catalog, &request).await
    };
    assert_eq!(
        code(ask(|request| request.org = "nobody".parse().unwrap()).await),
        "UnknownOrganisation"
    );
    assert_eq!(
        code(ask(|request| request.purpose = purpose("stats.region")).await),
        "PurposeNotAssigned"
    );
    assert_eq!(
        code(ask(|request| request.datasets = vec!["nothing".parse().unwrap()]).await),
        "UnknownDataset"
    );
    assert_eq!(
        code(ask(|request| request.action = Action::View).await),
        "SubjectRequired"
    );
    let decision = ask(|_| {}).await.unwrap();
    assert_eq!(
        decision.scopes[&vat()].enterprises(),
        0,
        "an agreement without grants is an ordinary answer"
    );
    assert_eq!(decision.scopes[&vat()].columns.len(), 4);
    // A purpose that was assigned, without an agreement: an ordinary answer as well, with open data only.
    hub.ledger
        .assign_purpose(&hub.catalog, &bank(), None, &purpose("stats.region"))
        .await
        .unwrap();
    let asked = |request: &mut DecisionRequest| {
        request.purpose = purpose("stats.region");
        request.datasets = vec![vat(), "registry".parse().unwrap()];
    };
    assert_eq!(
        code(ask(asked).await),
        "PurposeNotAssigned",
        "not yet in the log"
    );
    hub.drain().await;
    let decision = ask(asked).await.unwrap();
    assert!(decision.scopes[&vat()].columns.is_empty());
    assert_eq!(decision.scopes["registry"].columns.len(), 2);
    hub.ledger
        .unassign_purpose(&hub.catalog, &bank(), None, &purpose("stats.region"))
        .await
        .unwrap();
    assert_eq!(
        code(ask(asked).await),
        "PurposeNotAssigned",
        "taken back at once"
    );
}

#[tokio::test]
async fn named_subjects_hear_why_not() {
    let hub = Hub::new().await;
    for n in 1..=8 {
        hub.enterprise(n, 1, 1).await;
    }
    let named = async |n: u32| {
        let no = hub
            .ledger
            .signatories(crate::fixture::uscc(n))
            .await
            .map(|_| ());
        no.unwrap();
        use qihui_catalog::EnterpriseNumbers;
        let ledger = hub.ledger.clone();
        let found =
            tokio::task::spawn_blocking(move || ledger.lookup(&[crate::fixture::uscc(n)])).await;
        let no = found.unwrap().unwrap()[0].unwrap();
        hub.decide(Some(vec![no])).await
    };
    let id = async |n, changes: &[(&str, &str)]| hub.granted(n, changes).await.document.consent_id;
    assert_eq!(code(named(1).await), "InvalidConsentUse", "none");
    let requested = hub.request(1, &[]).await.unwrap();
    assert_eq!(code(named(1).await), "InvalidConsentUse", "not signed");
    hub.sign(&requested.document.consent_id, 1, 1, Operation::Give, None)
        .await
        .unwrap();
    assert_eq!(code(named(1).await), "InvalidConsentUse", "not logged");
    hub.drain().await;
    assert_eq!(named(1).await.unwrap().scopes[&vat()].enterprises(), 1);
    let paused = id(2, &[]).await;
    hub.hold(&paused, Operation::Pause).await.unwrap();
    assert_eq!(code(named(2).await), "ConsentPaused");
    let withdrawn = id(3, &[]).await;
    hub.hold(&withdrawn, Operation::Withdraw).await.unwrap();
    assert_eq!(code(named(3).await), "ConsentRevoked");
    let revoked = id(4, &[]).await;
    hub.ledger
        .revoke_consent(&revoked, "steward")
        .await
        .unwrap();
    assert_eq!(code(named(4).await), "ConsentRevoked");
    id(5, &[("[QUERY]", "[VIEW]")]).await;
    assert_eq!(code(named(5).await), "InvalidConsentUse", "another action");
    id(
        6,
        &[(
            "expires: 2026-06-01",
            "starts: 2026-02-01\nexpires: 2026-06-01",
        )],
    )
    .await;
    assert_eq!(code(named(6).await), "InvalidDateRange", "not begun");
    id(7, &[("credit.loan", "stats.region")]).await;
    assert_eq!(code(named(7).await), "InvalidConsentUse", "another purpose");
    id(8, &[("expires: 2026-06-01", "expires: 2026-02-01")]).await;
    hub.advance(22 * DAY_MS);
    assert_eq!(code(named(8).await), "ConsentExpired");
    assert!(named(6).await.is_ok(), "begun by now");
}

#[tokio::test]
async fn uses_are_counted_once_per_access() {
    let hub = Hub::new().await;
    for n in 1..=2 {
        hub.enterprise(n, 1, 1).await;
    }
    let limited = hub
        .granted(
            1,
            &[("expires: 2026-06-01", "expires: 2026-06-01\nmax_uses: 2")],
        )
        .await
        .no;
    let watch = [
        ("credit.loan", "credit.watch"),
        (
            "expires: 2026-06-01",
            "expires: 2026-06-01\nfrequency: {count: 1, per: day}",
        ),
    ];
    assert!(
        hub.request(2, &watch).await.is_err(),
        "once a day can be more than thrice a month"
    );
    let watch = [
        watch[0],
        (
            watch[1].0,
            "expires: 2026-06-01\nfrequency: {count: 1, per: month}",
        ),
    ];
    let monthly = hub.granted(2, &watch).await.no;
    assert!(
        hub.seen().await.is_empty(),
        "uses are counted only where the subject is named"
    );

    let decision = hub.decide(Some(vec![limited])).await.unwrap();
    assert_eq!(decision.uses.len(), 1);
    for access in ["one", "one", "two", "one"] {
        hub.ledger.count_uses(access, &decision).await.unwrap();
    }
    assert_eq!(
        code(hub.ledger.count_uses("three", &decision).await),
        "InvalidConsentUse"
    );
    assert_eq!(
        code(hub.decide(Some(vec![limited])).await),
        "InvalidConsentUse"
    );
    let request = hub.asked(Some(vec![limited]));
    assert!(
        hub.ledger
            .decide_for(&hub.catalog, &request, Some("two"))
            .await
            .is_ok(),
        "its own use does not count"
    );

    let ask = async || {
        let request = DecisionRequest {
            purpose: purpose("credit.watch"),
            ..hub.asked(Some(vec![monthly]))
        };
        hub.ledger.decide(&hub.catalog, &request).await
    };
    let decision = ask().await.unwrap();
    hub.ledger.count_uses("a", &decision).await.unwrap();
    assert_eq!(code(ask().await), "InvalidConsentUse");
    hub.advance(22 * DAY_MS);
    assert!(ask().await.is_ok(), "a new month");
}

#[tokio::test]
async fn a_preview_shows_exactly_what_the_decision_would_open() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let scope = "columns: [uscc, sales, tax]\n    data_range: {from: 2024-01-01, to: 2026-01-01}\n  - dataset: registry\n    columns: [phone]\n";
    let consent = hub
        .request(
            1,
            &[(
                "columns: [uscc, sales]\n    data_range: {from: 2024-01-01, to: 2026-01-01}\n",
                scope,
            )],
        )
        .await
        .unwrap();
    let id = consent.document.consent_id;
    let preview = hub.ledger.preview(&hub.catalog, &id).await.unwrap();
    let [registry, tax] = preview.datasets.as_slice() else {
        panic!("{preview:?}")
    };
    assert_eq!(registry.columns[0].form, None, "no agreement names it");
    assert!(!registry.columns[0].reasons.is_empty());
    assert!(tax.opens_rows);
    let forms: Vec<_> = tax
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.form))
        .collect();
    let bucket = Some(Form::Bucketed(Bucket::Width(1000)));
    assert_eq!(
        forms,
        [
            ("uscc", Some(Form::Clear)),
            ("sales", Some(Form::Clear)),
            ("tax", bucket)
        ]
    );
    let day = |text: &str| Some(text.parse().unwrap());
    assert_eq!(
        tax.columns[1].opened,
        [(day("2024-01-01"), day("2026-01-01"))]
    );
    assert!(tax.columns[0].always && tax.columns[0].opened.is_empty());

    let hypothesis = &hub
        .ledger
        .hypothetical(&hub.catalog, &id, Action::Query)
        .await
        .unwrap()[&vat()];
    hub.sign(&id, 1, 1, Operation::Give, None).await.unwrap();
    hub.drain().await;
    let real = hub.decide(Some(vec![consent.no])).await.unwrap();
    assert_eq!(
        hypothesis.with.commitment(),
        real.scopes[&vat()].commitment()
    );

    // A second consent opens only what the first does not.
    let more = hub
        .request(
            1,
            &[
                ("to: 2026-01-01", "to: 2026-03-01"),
                ("[uscc, sales]", "[sales]"),
            ],
        )
        .await
        .unwrap();
    let preview = hub
        .ledger
        .preview(&hub.catalog, &more.document.consent_id)
        .await
        .unwrap();
    assert_eq!(
        preview.datasets[0].columns[0].opened,
        [(day("2026-01-01"), day("2026-03-01"))]
    );
}

#[tokio::test]
async fn what_ends_before_the_deadline_is_left_out() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    hub.granted(1, &[("expires: 2026-06-01", "expires: 2026-01-11")])
        .await;
    assert_eq!(hub.seen().await.len(), 1);
    let at = "2026-01-11".parse::<Timestamp>().unwrap().0 - 59_999;
    hub.clock.0.store(at, std::sync::atomic::Ordering::SeqCst);
    let scope = &hub.decide(None).await.unwrap().scopes[&vat()];
    assert_eq!(scope.enterprises(), 0);
    assert!(scope.reasons.iter().any(|reason| {
        reason
            .to_string()
            .contains("1 grants do not hold throughout")
    }));
}

#[tokio::test]
async fn a_revoked_agreement_closes_everything_under_it() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    hub.granted(1, &[]).await;
    let other = Organisation {
        id: "shop".parse().unwrap(),
        name: "x".to_owned(),
        kind: OrganisationKind::Service,
    };
    hub.ledger.add_org(other).await.unwrap();
    let file = AgreementFile::parse(
        &AGREEMENT
            .replace("org: bank", "org: shop")
            .replace("vat-loan", "shop"),
    )
    .unwrap();
    hub.ledger.add_agreement(&hub.catalog, file).await.unwrap();
    hub.drain().await;
    let mut request = hub.asked(None);
    request.org = "shop".parse().unwrap();
    assert_eq!(
        hub.ledger
            .decide(&hub.catalog, &request)
            .await
            .unwrap()
            .scopes[&vat()]
            .enterprises(),
        0,
        "not its grant"
    );
    let epoch = hub
        .ledger
        .losses()
        .epoch(&bank(), &purpose("credit.loan"), &vat());
    hub.ledger
        .revoke_agreement(&"vat-loan".into(), "steward")
        .await
        .unwrap();
    assert!(
        hub.ledger
            .losses()
            .epoch(&bank(), &purpose("credit.loan"), &vat())
            > epoch
    );
    assert_eq!(code(hub.decide(None).await), "PurposeNotAssigned");
}
