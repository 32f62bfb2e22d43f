//! Agreements, artefacts, signatories and keys.

use qihui_catalog::Coded;
use qihui_consent::{
    LedgerError,
    agreement::AgreementFile,
    decision::{Bucket, Form},
    signing::{PublicKey, SigningKey},
};

use crate::fixture::{AGREEMENT, Hub, bank, key, purpose, uscc, vat};

fn code<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> &'static str {
    result.unwrap_err().code()
}

#[tokio::test]
async fn agreements_are_checked_against_the_contract() {
    let hub = Hub::new().await;
    let add = async |changes: &[(&str, &str)]| {
        let mut text = AGREEMENT
            .replace("vat-loan", "other")
            .replace("credit.loan, credit.watch", "stats.region");
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        match AgreementFile::parse(&text) {
            Ok(file) => hub.ledger.add_agreement(&hub.catalog, file).await,
            Err(error) => Err(error),
        }
    };
    for (change, expected) in [
        (("org: bank", "org: nobody"), "UnknownOrganisation"),
        (("dataset: vat", "dataset: nothing"), "UnknownDataset"),
        (("stats.region", "stats"), "UnknownPurpose"),
        (("stats.region", "stats.nothing"), "UnknownPurpose"),
        (("{name: day}", "{name: night}"), "UnknownColumn"),
        (("{name: day}", "{name: '*'}"), "WildcardColumn"),
        (("{name: day}", "{name: officer}"), "ColumnNeverOpened"),
        (
            ("{name: day}", "{name: day, form: {masked: zero}}"),
            "FormDoesNotFit",
        ),
        ((", reason: credit line", ""), "ReasonRequired"),
        (("width: 1000", "width: 0"), "FormDoesNotFit"),
        (("2028-01-01", "2025-01-01"), "InvalidValidity"),
        (
            ("basis: consent", "basis: {statute: {law: ' '}}"),
            "MalformedAgreement",
        ),
        (("basis: consent", "basis: hope"), "MalformedAgreement"),
        (("org: bank", "org: bank\nnote: x"), "MalformedAgreement"),
        (("id: other", "id: vat-loan"), "AgreementExists"),
        (("id: other", "id: ../x"), "MalformedAgreement"),
    ] {
        assert_eq!(code(add(&[change]).await), expected, "{change:?}");
    }
    // The same column in another form for the same purpose and time: nobody could say which holds.
    let loan = ("stats.region", "credit.loan");
    assert_eq!(
        code(add(&[loan, ("width: 1000", "width: 10")]).await),
        "ConflictingForm"
    );
    add(&[
        loan,
        ("width: 1000", "width: 10"),
        (
            "valid_until: 2028-01-01",
            "valid_from: 2028-01-01\nvalid_until: 2029-01-01",
        ),
    ])
    .await
    .unwrap();
    hub.ledger
        .revoke_agreement(&"other".into(), "steward")
        .await
        .unwrap();
    assert_eq!(
        code(
            hub.ledger
                .revoke_agreement(&"other".into(), "steward")
                .await
        ),
        "UnknownAgreement"
    );
    let found = hub.ledger.agreements().await.unwrap();
    let vat_loan = found
        .iter()
        .find(|stored| stored.agreement.id.as_str() == "vat-loan")
        .unwrap();
    assert!(vat_loan.in_force && !vat_loan.revoked);
    let form = |name: &str| {
        vat_loan
            .agreement
            .columns
            .iter()
            .find(|c| c.name == name)
            .unwrap()
            .form
    };
    assert_eq!(form("uscc"), Some(Form::Clear), "forms are written out");
    assert_eq!(form("tax"), Some(Form::Bucketed(Bucket::Width(1000))));
}

#[tokio::test]
async fn artefacts_count_once_logged_and_only_the_latest() {
    let hub = Hub::empty().await;
    let hash = hub.catalog.contracts[&vat()].hash;
    let recorded = async |hash| {
        hub.ledger
            .artefact_recorded("contract", "vat", &hash)
            .await
            .unwrap()
    };
    assert_eq!(hub.ledger.record_artefacts(&hub.catalog).await.unwrap(), 3);
    assert!(!recorded(hash).await, "not yet in the log");
    hub.drain().await;
    assert!(recorded(hash).await);
    assert_eq!(
        hub.ledger.record_artefacts(&hub.catalog).await.unwrap(),
        0,
        "nothing new"
    );
    let mut changed = hub.catalog.clone();
    let contract = std::sync::Arc::make_mut(changed.contracts.get_mut(&vat()).unwrap());
    (contract.hash, contract.version) = ([2; 32], "1.1.0".to_owned());
    let epoch = hub
        .ledger
        .losses()
        .epoch(&bank(), &purpose("credit.loan"), &vat());
    assert_eq!(hub.ledger.record_artefacts(&changed).await.unwrap(), 1);
    assert!(
        hub.ledger
            .losses()
            .epoch(&bank(), &purpose("credit.loan"), &vat())
            > epoch,
        "running decisions end"
    );
    assert!(!recorded(hash).await && !recorded([2; 32]).await);
    assert_eq!(
        hub.ledger
            .artefact("contract", "vat")
            .await
            .unwrap()
            .unwrap()
            .version,
        "1.0.0"
    );
    hub.drain().await;
    assert!(!recorded(hash).await && recorded([2; 32]).await);
    let body = serde_json::json!({"name": "x"})
        .as_object()
        .unwrap()
        .clone();
    hub.ledger
        .record_change("key.rotated", body.clone())
        .await
        .unwrap();
    for kind in ["key", "key.", "Key.rotated", "consent.signed", "a.b.c"] {
        assert!(
            hub.ledger.record_change(kind, body.clone()).await.is_err(),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn signatories_have_distinct_names_and_keys() {
    let hub = Hub::new().await;
    hub.enterprise(1, 2, 2).await;
    assert_eq!(
        code(
            hub.ledger
                .add_signatory(uscc(1), "s1", key(99).public())
                .await
        ),
        "SignatoryExists"
    );
    assert_eq!(
        code(
            hub.ledger
                .add_signatory(uscc(1), "s3", key(11).public())
                .await
        ),
        "InvalidKey"
    );
    assert_eq!(
        code(hub.ledger.set_threshold(uscc(1), 3).await),
        "InvalidThreshold"
    );
    assert_eq!(
        code(hub.ledger.set_threshold(uscc(1), 0).await),
        "InvalidThreshold"
    );
    assert_eq!(
        code(hub.ledger.remove_signatory(uscc(1), "s1").await),
        "InvalidThreshold"
    );
    assert_eq!(
        code(hub.ledger.remove_signatory(uscc(2), "s1").await),
        "UnknownSignatory"
    );
    assert_eq!(hub.ledger.signatories(uscc(1)).await.unwrap().len(), 2);
}

#[test]
fn keys_are_read_in_every_usual_form_and_not_from_inside_the_hub() {
    let outside = tempfile::tempdir().unwrap();
    let hub = tempfile::tempdir().unwrap();
    let made = key(7);
    let path = outside.path().join("key.pem");
    made.write_new(&path).unwrap();
    assert!(made.write_new(&path).is_err(), "never over another key");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let read = SigningKey::read(&path, hub.path()).unwrap();
    assert_eq!(read.public(), made.public());
    assert_eq!(
        format!("{read:?}"),
        format!("SigningKey({})", made.public().id())
    );
    for text in [
        hex::encode([7; 32]),
        "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n".to_owned(),
    ] {
        assert_eq!(
            SigningKey::parse(text.as_bytes()).unwrap().public(),
            made.public()
        );
    }
    assert_eq!(SigningKey::parse(&[7; 32]).unwrap().public(), made.public());
    let public = made.public();
    for text in [public.to_pem(), hex::encode(public.as_bytes())] {
        assert_eq!(PublicKey::parse(text.as_bytes()).unwrap(), public);
    }
    for bad in [
        &b""[..],
        b"x",
        b"-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----",
        &[0; 31],
        &[0; 33],
    ] {
        assert_eq!(code(SigningKey::parse(bad)), "InvalidKey");
        assert_eq!(code(PublicKey::parse(bad)), "InvalidKey");
    }
    assert!(
        SigningKey::parse(public.to_pem().as_bytes()).is_err(),
        "a public key is no private key"
    );
    let inside = hub.path().join("sub");
    std::fs::create_dir(&inside).unwrap();
    std::fs::copy(&path, inside.join("key")).unwrap();
    assert_eq!(
        code(SigningKey::read(&inside.join("key"), hub.path())),
        "KeyInsideHub"
    );
    std::os::unix::fs::symlink(inside.join("key"), outside.path().join("link")).unwrap();
    assert_eq!(
        code(SigningKey::read(&outside.path().join("link"), hub.path())),
        "KeyInsideHub"
    );
    assert_eq!(
        code(SigningKey::read(&outside.path().join("none"), hub.path())),
        "InvalidKey"
    );
}

#[tokio::test]
async fn a_subscription_is_added_once_and_ends() {
    use qihui_catalog::OrgId;
    use qihui_consent::ledger::Delivery;
    let hub = Hub::new().await;
    let about = |purpose: &str| {
        (
            crate::fixture::bank(),
            "filings".parse().unwrap(),
            crate::fixture::purpose(purpose),
        )
    };
    let add = async |purpose: &str, delivery| {
        hub.ledger
            .add_subscription(&hub.catalog, about(purpose), delivery, "local:root")
            .await
    };
    let pull = add("credit.loan", Delivery::Pull).await.unwrap();
    let other = add("credit.watch", Delivery::Pull).await.unwrap();
    let kafka = add("credit.loan", Delivery::Kafka).await.unwrap();
    for (purpose, delivery) in [
        ("credit.loan", Delivery::Pull),
        // Its readers could not keep two purposes apart.
        ("credit.watch", Delivery::Kafka),
    ] {
        let error = add(purpose, delivery).await.unwrap_err();
        assert_eq!(error.code(), "SubscriptionExists");
    }
    assert_eq!(
        add("credit", Delivery::Pull).await.unwrap_err().code(),
        "UnknownPurpose"
    );
    let nobody: OrgId = "nobody".parse().unwrap();
    let (_, topic, purpose) = about("credit.loan");
    let error = hub
        .ledger
        .add_subscription(&hub.catalog, (nobody, topic, purpose), Delivery::Pull, "x")
        .await
        .unwrap_err();
    assert_eq!(error.code(), "UnknownOrganisation");
    let ended = hub
        .ledger
        .end_subscription(&pull.subscription_id)
        .await
        .unwrap();
    assert!(ended.ended);
    let error = hub
        .ledger
        .end_subscription(&pull.subscription_id)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "UnknownSubscription");
    add("credit.loan", Delivery::Pull).await.unwrap();
    let all = hub.ledger.subscriptions().await.unwrap();
    assert_eq!(all.len(), 4);
    assert!(all.contains(&ended) && all.contains(&other) && all.contains(&kafka));
    hub.drain().await;
    let kinds: Vec<String> = hub
        .sink
        .entries
        .lock()
        .iter()
        .map(|item| item.kind.clone())
        .collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "subscription.added")
            .count(),
        4
    );
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "subscription.ended")
            .count(),
        1
    );
    hub.ledger.check().await.unwrap();
}
