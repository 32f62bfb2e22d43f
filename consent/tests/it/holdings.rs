//! Holdings: what is recorded, what becomes due and why, and what an organisation states.

use std::collections::BTreeSet;

use qihui_catalog::{Action, Coded, ConsentId, EnterpriseNo, Timestamp};
use qihui_consent::{
    Ledger, LedgerError,
    agreement::AgreementFile,
    decision::{AgreementId, DecisionRequest},
    document::NarrowRequest,
    ledger::{
        ByConsent, Consent, DELETE_WITHIN_DAYS, HeldDataset, Holding, HoldingFilter, HoldingState,
        Released,
    },
    signing::Operation,
};
use roaring::RoaringBitmap;
use serde_json::json;
use sqlx::Connection;

use crate::fixture::{AGREEMENT, DAY_MS, Hub, bank, purpose, vat};

const STORE: (&str, &str) = ("[QUERY]", "[QUERY, STORE]");

fn days(days: u32) -> i64 {
    i64::from(days) * DAY_MS
}

async fn stored(hub: &Hub, n: u32, more: &[(&str, &str)]) -> Consent {
    hub.granted(n, &[&[STORE], more].concat()).await
}

/// What remains of a consent that no longer covers sales.
const LESS: &str =
    "scope: [{dataset: vat, columns: [uscc], data_range: {from: 2024-01-01, to: 2026-01-01}}]";

/// Narrows a consent of enterprise `n`.
async fn narrow(hub: &Hub, (id, n): (&ConsentId, u32), wish: &str) {
    let wish = NarrowRequest::parse(wish).unwrap();
    let signed = hub.sign(id, n, 1, Operation::Narrow, Some(wish));
    signed.await.unwrap();
}

/// Another consent of enterprise `n` in the place of one, which no longer covers sales.
async fn replace(hub: &Hub, (id, n): (&ConsentId, u32)) -> Consent {
    let instead = format!("expires: 2026-06-01\nsupersedes: {{consent_id: {id}}}");
    let less = [
        ("expires: 2026-06-01", instead.as_str()),
        ("columns: [uscc, sales]", "columns: [uscc]"),
    ];
    stored(hub, n, &less).await
}

fn set(members: &[EnterpriseNo]) -> RoaringBitmap {
    members.iter().map(|no| no.0).collect()
}

/// A release of sales of these enterprises by consent, as the gate records one.
async fn released(hub: &Hub, access: &str, members: &[EnterpriseNo]) -> Released {
    let request = DecisionRequest {
        action: Action::Store,
        ..hub.asked(None)
    };
    let decision = hub.ledger.decide(&hub.catalog, &request).await.unwrap();
    let held = HeldDataset {
        dataset: vat(),
        columns: vec!["sales".to_owned(), "uscc".to_owned()],
        by_consent: ByConsent::Rows,
    };
    Released {
        access_id: access.to_owned(),
        org: bank(),
        purpose: purpose("credit.loan"),
        datasets: vec![(held, set(members), decision.scopes[&vat()].granted())],
        basis: decision.scopes[&vat()].agreements.iter().cloned().collect(),
        decided_at: decision.ledger_position,
        decided: hub.now(),
        cap_days: Some(90),
        complete: true,
        came_to: Some((Some(7), 70, "ab".repeat(32))),
    }
}

async fn hold(hub: &Hub, access: &str, members: &[EnterpriseNo]) -> Holding {
    let new = released(hub, access, members).await;
    hub.ledger.record_holding(new).await.unwrap()
}

async fn now(hub: &Hub, holding: &Holding) -> Holding {
    hub.ledger
        .holding(&holding.document.holding_id)
        .await
        .unwrap()
}

async fn delete(hub: &Hub, holding: &Holding, everything: bool) -> Result<Holding, LedgerError> {
    let id = &holding.document.holding_id;
    hub.ledger
        .delete_holding(id, "gone from the data mart", everything, "token:lee")
        .await
}

async fn last_event(hub: &Hub) -> (String, serde_json::Value, Vec<EnterpriseNo>) {
    let events = hub.ledger.events(0, 1000).await.unwrap();
    let event = events.last().unwrap();
    (
        event.kind.clone(),
        serde_json::from_str(&event.body).unwrap(),
        event.subjects.clone(),
    )
}

#[tokio::test]
async fn a_holding_is_kept_for_the_shortest_life_behind_it() {
    let hub = Hub::new().await;
    for n in 1..=3 {
        hub.enterprise(n, 1, 1).await;
    }
    let life = |days: &'static str| ("expires: 2026-06-01", days);
    let long = stored(&hub, 1, &[life("expires: 2026-06-01\ndata_life_days: 60")])
        .await
        .no;
    let short = stored(&hub, 2, &[life("expires: 2026-06-01\ndata_life_days: 20")])
        .await
        .no;
    let default = stored(&hub, 3, &[]).await.no;
    for (access, members, life) in [
        ("a", vec![default], 90),
        ("b", vec![long, default], 60),
        ("c", vec![long, short, default], 20),
    ] {
        let held = hold(&hub, access, &members).await;
        assert_eq!(held.document.data_life_days, Some(life), "{access}");
        assert_eq!(held.keep_until.unwrap().0, hub.now().0 + days(life));
        assert_eq!(held.document.enterprises, members.len() as u64);
        assert_eq!((held.state, held.overdue), (HoldingState::Held, false));
    }
    // The same access is the same holding, whatever is said of it then.
    let again = hold(&hub, "a", &[long]).await;
    assert_eq!(again.document.enterprises, 1);
    let (all, _) = hub
        .ledger
        .holdings(&HoldingFilter::default())
        .await
        .unwrap();
    assert_eq!(all.len(), 3);
    let (kind, body, subjects) = last_event(&hub).await;
    assert_eq!((kind.as_str(), subjects.len()), ("holding.recorded", 3));
    assert_eq!(body["holding"]["sha256"], "ab".repeat(32));
    // A statute says for itself, and what rests on nothing may be kept.
    let by_law = AGREEMENT.replace("id: vat-loan", "id: by-law").replace(
        "basis: consent",
        "basis: {statute: {law: x, data_life_days: 10}}",
    );
    let file = AgreementFile::parse(&by_law).unwrap();
    hub.ledger.add_agreement(&hub.catalog, file).await.unwrap();
    let mut new = released(&hub, "d", &[default]).await;
    new.basis = BTreeSet::from([AgreementId::from("by-law")]);
    new.datasets[0].2.clear();
    let held = hub.ledger.record_holding(new.clone()).await.unwrap();
    assert_eq!(held.document.data_life_days, Some(10));
    (new.basis, new.access_id) = (BTreeSet::new(), "e".to_owned());
    let held = hub.ledger.record_holding(new).await.unwrap();
    assert_eq!(
        (held.document.data_life_days, held.keep_until),
        (None, None)
    );
    let too_long = by_law.replace("data_life_days: 10", "data_life_days: 91");
    let file = AgreementFile::parse(&too_long.replace("by-law", "too-long")).unwrap();
    let refused = hub
        .ledger
        .add_agreement(&hub.catalog, file)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "PurposeCapExceeded");
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn what_is_taken_back_is_due_at_once_and_deleted_part_by_part() {
    let hub = Hub::new().await;
    let mut consents = Vec::new();
    for n in 1..=3 {
        hub.enterprise(n, 1, 1).await;
        consents.push(stored(&hub, n, &[]).await);
    }
    let no: Vec<EnterpriseNo> = consents.iter().map(|consent| consent.no).collect();
    let both = hold(&hub, "both", &no[..2]).await;
    let alone = hold(&hub, "alone", &no[..1]).await;
    let third = hold(&hub, "third", &no[2..]).await;
    let id = &consents[0].document.consent_id;
    hub.hold(id, Operation::Pause).await.unwrap();
    assert_eq!(
        now(&hub, &both).await.state,
        HoldingState::Held,
        "a pause is not for ever"
    );
    hub.advance(1000);
    hub.hold(id, Operation::Withdraw).await.unwrap();
    let due = hub.ledger.holdings_due_to(id).await.unwrap();
    let due: BTreeSet<&str> = due
        .iter()
        .map(|held| held.document.access_id.as_str())
        .collect();
    assert_eq!(due, ["both", "alone"].into());
    let (kind, body, subjects) = last_event(&hub).await;
    assert_eq!(
        (kind.as_str(), subjects.as_slice()),
        ("holding.due", &no[..1])
    );
    assert_eq!(
        (&body["reason"], body["holdings"].as_array().unwrap().len()),
        (&"withdrawn".into(), 2)
    );
    let standing = now(&hub, &both).await;
    assert_eq!(standing.state, HoldingState::DeletionDue);
    assert_eq!(
        standing.delete_by.unwrap().0,
        hub.now().0 + days(DELETE_WITHIN_DAYS)
    );
    assert_eq!(now(&hub, &third).await.state, HoldingState::Held);
    // One enterprise is told of its own part, the other that nothing happened.
    let (own, other) = (
        standing.part_of(no[0], hub.now()),
        standing.part_of(no[1], hub.now()),
    );
    assert_eq!(
        (own.state, own.reason),
        (HoldingState::DeletionDue, Some("withdrawn"))
    );
    assert_eq!(
        (other.state, other.reason, other.delete_by),
        (HoldingState::Held, None, None)
    );
    // Deleted in part, and in whole where that was all.
    let partly = delete(&hub, &both, false).await.unwrap();
    assert_eq!((partly.state, partly.delete_by), (HoldingState::Held, None));
    let own = partly.part_of(no[0], hub.now());
    assert_eq!(
        (own.state, own.deletion.unwrap().by.as_str()),
        (HoldingState::Deleted, "token:lee")
    );
    assert_eq!(partly.part_of(no[1], hub.now()).state, HoldingState::Held);
    assert_eq!(
        delete(&hub, &both, false).await.unwrap_err().code(),
        "NothingToDelete"
    );
    assert_eq!(
        delete(&hub, &alone, false).await.unwrap().state,
        HoldingState::Deleted
    );
    assert_eq!(
        delete(&hub, &alone, true).await.unwrap_err().code(),
        "HoldingDeleted"
    );
    hub.ledger
        .revoke_consent(&consents[1].document.consent_id, "steward")
        .await
        .unwrap();
    assert_eq!(now(&hub, &both).await.due[1].reason, "revoked");
    assert_eq!(
        delete(&hub, &both, false).await.unwrap().state,
        HoldingState::Deleted
    );
    assert_eq!(
        delete(&hub, &third, false).await.unwrap_err().code(),
        "NothingToDelete"
    );
    let gone = delete(&hub, &third, true).await.unwrap();
    assert_eq!(gone.deletion.unwrap().statement, "gone from the data mart");
    for statement in ["", " ", "two\nlines", &"x".repeat(2001)] {
        let refused = hub
            .ledger
            .delete_holding("h-0", statement, false, "x")
            .await;
        assert_eq!(
            refused.unwrap_err().code(),
            "MalformedDocument",
            "{statement:?}"
        );
    }
    let unknown = hub.ledger.delete_holding("h-0", "x", false, "x").await;
    assert_eq!(unknown.unwrap_err().code(), "UnknownHolding");
    hub.ledger.check().await.unwrap();
}

/// A narrower consent, or another in its place, leaves what it still covers.
#[tokio::test]
async fn only_what_is_no_longer_covered_is_due() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let narrow = async |consent: &Consent, wish: &str| {
        let wish = NarrowRequest::parse(wish).unwrap();
        let id = &consent.document.consent_id;
        hub.sign(id, 1, 1, Operation::Narrow, Some(wish))
            .await
            .unwrap()
    };
    let sales = ("columns: [uscc, sales]", "columns: [uscc, sales, tax]");
    for (wish, due) in [
        ("max_uses: 5", false),
        ("expires: 2026-03-01", false),
        (
            "scope: [{dataset: vat, columns: [uscc, sales], data_range: {from: 2024-01-01, to: 2026-01-01}}]",
            false,
        ),
        (
            "scope: [{dataset: vat, columns: [uscc, tax], data_range: {from: 2024-01-01, to: 2026-01-01}}]",
            true,
        ),
        (
            "scope: [{dataset: vat, columns: [uscc, sales, tax], data_range: {from: 2024-06-01, to: 2026-01-01}}]",
            true,
        ),
        ("actions: [QUERY]", true),
    ] {
        let consent = stored(&hub, 1, &[sales]).await;
        let held = hold(&hub, wish, &[consent.no]).await;
        narrow(&consent, wish).await;
        let standing = now(&hub, &held).await;
        assert_eq!(standing.state == HoldingState::DeletionDue, due, "{wish}");
        if due {
            assert_eq!(standing.due[0].reason, "narrowed");
        } else {
            // The narrower version is behind it from then on.
            hub.hold(&consent.document.consent_id, Operation::Withdraw)
                .await
                .unwrap();
            assert_eq!(
                now(&hub, &held).await.state,
                HoldingState::DeletionDue,
                "{wish}"
            );
            continue;
        }
        hub.hold(&consent.document.consent_id, Operation::Withdraw)
            .await
            .unwrap();
    }
    let consent = stored(&hub, 1, &[]).await;
    let held_no = consent.no;
    let held = hold(&hub, "shorter", &[held_no]).await;
    narrow(&consent, "data_life_days: 30").await;
    let end = held.document.at.0 + days(30);
    assert_eq!(now(&hub, &held).await.keep_until.unwrap().0, end);
    let shortened = hub.ledger.events(0, 1000).await.unwrap();
    let shortened: Vec<_> = shortened
        .iter()
        .filter(|event| event.kind == "holding.shortened")
        .collect();
    let [event] = shortened.as_slice() else {
        panic!("{shortened:?}")
    };
    let body: serde_json::Value = serde_json::from_str(&event.body).unwrap();
    let told = json!([{ "holding_id": held.document.holding_id, "keep_until": Timestamp(end) }]);
    assert_eq!(
        (&body["holdings"], event.subjects.as_slice()),
        (&told, &[held_no][..])
    );
    hub.ledger.check().await.unwrap();
    let replace = |columns: &str| {
        let id = &consent.document.consent_id;
        format!("{columns}\nsupersedes: {{consent_id: {id}}}")
    };
    let (same, expires) = (replace("expires: 2026-06-01"), "expires: 2026-06-01");
    stored(&hub, 1, &[(expires, &same)]).await;
    assert_eq!(
        now(&hub, &held).await.state,
        HoldingState::Held,
        "another covers it"
    );
    let later = stored(&hub, 1, &[]).await;
    hub.hold(&later.document.consent_id, Operation::Withdraw)
        .await
        .unwrap();
    assert_eq!(
        now(&hub, &held).await.state,
        HoldingState::Held,
        "given after it was released"
    );
    hub.ledger.check().await.unwrap();
}

/// What was released before a pause is taken back after the resumption like anything else.
#[tokio::test]
async fn a_pause_and_a_resumption_change_nothing_of_what_is_due_later() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    for act in ["withdrawn", "revoked", "narrowed", "superseded"] {
        let consent = stored(&hub, 1, &[]).await;
        let id = &consent.document.consent_id;
        let held = hold(&hub, act, &[consent.no]).await;
        hub.hold(id, Operation::Pause).await.unwrap();
        hub.hold(id, Operation::Resume).await.unwrap();
        hub.drain().await;
        match act {
            "withdrawn" => drop(hub.hold(id, Operation::Withdraw).await.unwrap()),
            "revoked" => drop(hub.ledger.revoke_consent(id, "steward").await.unwrap()),
            "narrowed" => narrow(&hub, (id, 1), LESS).await,
            _ => drop(replace(&hub, (id, 1)).await),
        }
        let standing = now(&hub, &held).await;
        assert_eq!(standing.state, HoldingState::DeletionDue, "{act}");
        assert_eq!(standing.due[0].reason, act);
        if act == "narrowed" {
            hub.hold(id, Operation::Withdraw).await.unwrap();
        }
    }
    hub.ledger.check().await.unwrap();
}

/// What took the place of a consent and covers what was released under it is behind that from then on.
#[tokio::test]
async fn a_consent_answers_for_the_one_that_it_took_the_place_of() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let first = stored(&hub, 1, &[]).await;
    let held = hold(&hub, "a", &[first.no]).await;
    let mut last = first;
    for _ in 0..2 {
        let id = &last.document.consent_id;
        let instead = format!("expires: 2026-06-01\nsupersedes: {{consent_id: {id}}}");
        last = stored(&hub, 1, &[("expires: 2026-06-01", &instead)]).await;
        assert_eq!(now(&hub, &held).await.state, HoldingState::Held);
    }
    hub.hold(&last.document.consent_id, Operation::Withdraw)
        .await
        .unwrap();
    let standing = now(&hub, &held).await;
    assert_eq!(standing.state, HoldingState::DeletionDue);
    assert_eq!(
        standing.due[0].consent_id,
        Some(last.document.consent_id.to_string())
    );
    hub.ledger.check().await.unwrap();
}

/// Where a row is in an answer only by a consent, the answer rests on it though none of its columns was read.
#[tokio::test]
async fn rows_rest_on_a_consent_whichever_columns_were_read() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let whole = "{from: 2024-01-01, to: 2026-01-01}";
    let later = "{from: 2025-01-01, to: 2026-01-01}";
    let tax =
        |range: &str| format!("scope: [{{dataset: vat, columns: [tax], data_range: {range}}}]");
    for (read, by_consent, wish, due) in [
        ("", ByConsent::Rows, None, true),
        ("tax", ByConsent::Rows, None, true),
        ("tax", ByConsent::Cells, None, false),
        ("sales", ByConsent::Cells, None, true),
        ("sales", ByConsent::Nothing, None, false),
        // A narrower consent still opens the rows of the dates that it keeps, whichever columns.
        ("", ByConsent::Rows, Some(tax(whole)), false),
        ("", ByConsent::Rows, Some(tax(later)), true),
        ("sales", ByConsent::Rows, Some(tax(whole)), true),
    ] {
        let columns = ("columns: [uscc, sales]", "columns: [sales]");
        let wider = ("columns: [uscc, sales]", "columns: [sales, tax]");
        let consent = stored(&hub, 1, &[if wish.is_some() { wider } else { columns }]).await;
        let id = &consent.document.consent_id;
        let case = format!("{read:?} {by_consent:?} {wish:?}");
        let mut new = released(&hub, &case, &[consent.no]).await;
        new.datasets[0].0.columns = read.split_whitespace().map(str::to_owned).collect();
        new.datasets[0].0.by_consent = by_consent;
        let held = hub.ledger.record_holding(new).await.unwrap();
        match &wish {
            Some(wish) => {
                let wish = NarrowRequest::parse(wish).unwrap();
                let signed = hub.sign(id, 1, 1, Operation::Narrow, Some(wish));
                signed.await.unwrap();
            }
            None => drop(hub.hold(id, Operation::Withdraw).await.unwrap()),
        }
        let standing = now(&hub, &held).await;
        assert_eq!(standing.state == HoldingState::DeletionDue, due, "{case}");
        if wish.is_some() {
            hub.hold(id, Operation::Withdraw).await.unwrap();
        }
        if by_consent == ByConsent::Rows {
            assert_eq!(now(&hub, &held).await.state, HoldingState::DeletionDue);
        }
    }
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn what_was_taken_away_while_it_was_released_is_due_from_the_start() {
    let hub = Hub::new().await;
    for n in 1..=3 {
        hub.enterprise(n, 1, 1).await;
    }
    let first = stored(&hub, 1, &[]).await;
    let second = stored(&hub, 2, &[]).await;
    let on_the_way = released(&hub, "late", &[first.no, second.no]).await;
    hub.hold(&first.document.consent_id, Operation::Withdraw)
        .await
        .unwrap();
    let held = hub.ledger.record_holding(on_the_way).await.unwrap();
    assert_eq!(held.state, HoldingState::DeletionDue);
    let due: Vec<_> = held.due.iter().map(|part| part.no).collect();
    assert_eq!(due, [Some(first.no)]);
    for reason in ["narrowed", "superseded"] {
        let third = stored(&hub, 3, &[]).await;
        let id = &third.document.consent_id;
        let on_the_way = released(&hub, reason, &[third.no]).await;
        let last = match reason {
            "narrowed" => {
                narrow(&hub, (id, 3), LESS).await;
                id.clone()
            }
            _ => replace(&hub, (id, 3)).await.document.consent_id,
        };
        let held = hub.ledger.record_holding(on_the_way).await.unwrap();
        assert_eq!(held.due.len(), 1, "{reason}");
        assert_eq!(held.due[0].reason, reason);
        hub.hold(&last, Operation::Withdraw).await.unwrap();
    }
    let on_the_way = released(&hub, "revoked", &[second.no]).await;
    hub.ledger
        .revoke_agreement(&"vat-loan".into(), "steward")
        .await
        .unwrap();
    let held_before = now(&hub, &held).await;
    assert_eq!(held_before.due[0].reason, "agreement", "all of it is due");
    assert_eq!(
        held_before.part_of(second.no, hub.now()).reason,
        Some("agreement")
    );
    let held = hub.ledger.record_holding(on_the_way).await.unwrap();
    assert_eq!(
        (held.state, held.due[0].no),
        (HoldingState::DeletionDue, None)
    );
    assert_eq!(
        delete(&hub, &held, false).await.unwrap().state,
        HoldingState::Deleted
    );
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn what_was_kept_for_its_life_is_due_and_overdue_without_anybody_writing_it_down() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let life = (
        "expires: 2026-06-01",
        "expires: 2026-06-01\ndata_life_days: 5",
    );
    let no = stored(&hub, 1, &[life]).await.no;
    let held = hold(&hub, "a", &[no]).await;
    let overdue = async || {
        let filter = HoldingFilter {
            overdue: true,
            ..HoldingFilter::default()
        };
        hub.ledger.holdings(&filter).await.unwrap().0.len()
    };
    hub.advance(days(5) - 1);
    assert_eq!(
        (now(&hub, &held).await.state, overdue().await),
        (HoldingState::Held, 0)
    );
    hub.advance(1);
    let standing = now(&hub, &held).await;
    assert_eq!(
        (standing.state, standing.overdue),
        (HoldingState::DeletionDue, false)
    );
    assert_eq!(standing.part_of(no, hub.now()).reason, Some("life_over"));
    let events = hub.ledger.position().await.unwrap();
    hub.advance(1);
    assert_eq!(overdue().await, 1);
    for _ in 0..2 {
        hub.ledger.expire_due().await.unwrap();
        assert_eq!(
            hub.ledger.position().await.unwrap(),
            events + 1,
            "it is written down once"
        );
    }
    assert_eq!(last_event(&hub).await.1["reason"], "life_over");
    let gone = delete(&hub, &held, false).await.unwrap();
    assert_eq!(
        (gone.state, gone.overdue, overdue().await),
        (HoldingState::Deleted, false, 0)
    );
    assert_eq!(gone.part_of(no, hub.now()).state, HoldingState::Deleted);
    hub.ledger.check().await.unwrap();
}

/// What a consent allows counts though it ended, or was suspended, while the answer was on its way; and what was given
/// meanwhile does not.
#[tokio::test]
async fn a_life_is_that_of_the_consents_at_the_decision() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    hub.enterprise(2, 1, 1).await;
    let short = (
        "expires: 2026-06-01",
        "expires: 2026-01-20\ndata_life_days: 20",
    );
    let no = stored(&hub, 2, &[]).await.no;
    for act in ["pause", "withdraw", "narrow", "shorten", "expire", "give"] {
        let consent = match act {
            "give" => None,
            _ => Some(stored(&hub, 1, &[short]).await),
        };
        let one = consent.as_ref().map_or(no, |consent| consent.no);
        let on_the_way = released(&hub, act, &[one, no]).await;
        let id = consent.map(|consent| consent.document.consent_id);
        match (act, &id) {
            ("pause", Some(id)) => drop(hub.hold(id, Operation::Pause).await.unwrap()),
            ("withdraw", Some(id)) => drop(hub.hold(id, Operation::Withdraw).await.unwrap()),
            ("narrow", Some(id)) => narrow(&hub, (id, 1), "actions: [QUERY]").await,
            ("shorten", Some(id)) => narrow(&hub, (id, 1), "data_life_days: 7").await,
            ("give", _) => {
                let short = (
                    "expires: 2026-06-01",
                    "expires: 2026-06-01\ndata_life_days: 7",
                );
                stored(&hub, 2, &[short]).await;
            }
            _ => {
                hub.advance(days(11));
                hub.ledger.expire_due().await.unwrap();
            }
        }
        let held = hub.ledger.record_holding(on_the_way).await.unwrap();
        let life = if act == "give" { 90 } else { 20 };
        assert_eq!(held.document.data_life_days, Some(life), "{act}");
        // What was narrowed since covers it for less time, which is an event of its own.
        let left = if act == "shorten" { 7 } else { life };
        let end = held.document.at.0 + days(left);
        assert_eq!(held.keep_until.unwrap().0, end, "{act}");
        if let Some(id) = id {
            drop(hub.hold(&id, Operation::Withdraw).await);
        }
    }
    hub.ledger.check().await.unwrap();
}

/// A province: a holding of a million enterprises is recorded, found by one of them, and marked, in little time and room.
#[tokio::test]
async fn a_holding_of_very_many_is_found_by_each() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let consent = stored(&hub, 1, &[]).await;
    let mut new = released(&hub, "many", &[consent.no]).await;
    new.datasets[0].1.insert_range(1..=1_000_000);
    let held = hub.ledger.record_holding(new).await.unwrap();
    assert_eq!(held.document.enterprises, 1_000_000);
    let (_, _, subjects) = last_event(&hub).await;
    assert!(subjects.is_empty(), "too many to be named");
    for (no, found) in [(1, 1), (65_536, 1), (1_000_000, 1), (1_000_001, 0)] {
        let filter = HoldingFilter {
            enterprise: Some(EnterpriseNo(no)),
            ..HoldingFilter::default()
        };
        let (listed, _) = hub.ledger.holdings(&filter).await.unwrap();
        assert_eq!(listed.len(), found, "{no}");
    }
    hub.hold(&consent.document.consent_id, Operation::Withdraw)
        .await
        .unwrap();
    let standing = now(&hub, &held).await;
    assert_eq!(standing.due.len(), 1);
    assert_eq!(
        standing.part_of(EnterpriseNo(77), hub.now()).state,
        HoldingState::Held
    );
    hub.ledger.check().await.unwrap();
}

#[tokio::test]
async fn lists_have_pages() {
    let hub = Hub::new().await;
    for n in 1..=2 {
        hub.enterprise(n, 1, 1).await;
    }
    let (a, b) = (stored(&hub, 1, &[]).await.no, stored(&hub, 2, &[]).await.no);
    for n in 0..9 {
        let no = if n % 3 == 0 { b } else { a };
        hold(&hub, &format!("{n}"), &[no]).await;
    }
    for (enterprise, all) in [(None, 9), (Some(a), 6), (Some(b), 3)] {
        for limit in [1, 2, 3, 100] {
            let mut filter = HoldingFilter {
                enterprise,
                limit: Some(limit),
                ..HoldingFilter::default()
            };
            let mut seen = Vec::new();
            loop {
                let (page, next) = hub.ledger.holdings(&filter).await.unwrap();
                assert!(page.len() <= limit as usize);
                seen.extend(page.into_iter().map(|held| held.document.access_id));
                match next {
                    Some(mark) => filter.after = Some(mark),
                    None => break,
                }
            }
            assert_eq!(seen.len(), all, "{enterprise:?} {limit}");
            assert!(seen.is_sorted(), "{seen:?}");
        }
    }
    let nobody = HoldingFilter {
        org: "nobody".parse().ok(),
        ..HoldingFilter::default()
    };
    assert!(hub.ledger.holdings(&nobody).await.unwrap().0.is_empty());
}

/// What somebody changed in the file is found.
#[tokio::test]
async fn a_changed_holding_is_found() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let consent = stored(&hub, 1, &[]).await;
    hold(&hub, "a", &[consent.no]).await;
    hub.hold(&consent.document.consent_id, Operation::Withdraw)
        .await
        .unwrap();
    hub.ledger.check().await.unwrap();
    hub.ledger.close().await;
    let path = hub.dir.path().join("ledger.sqlite");
    let url = format!("sqlite://{}", path.display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let changes = [
        "UPDATE holding_members SET members = consenting",
        "DELETE FROM holding_members",
    ];
    for change in changes {
        assert!(
            sqlx::query(change).execute(&mut connection).await.is_err(),
            "{change}"
        );
    }
    let changes = [
        (
            "UPDATE holding SET document = replace(document, '\"rows\":7', '\"rows\":8')",
            "UPDATE holding SET document = replace(document, '\"rows\":8', '\"rows\":7')",
        ),
        (
            "UPDATE holding SET keep_until = keep_until + 1",
            "UPDATE holding SET keep_until = keep_until - 1",
        ),
        (
            "UPDATE holding SET deleted = 1",
            "UPDATE holding SET deleted = NULL",
        ),
        (
            "UPDATE holding_due SET delete_by = delete_by + 1",
            "UPDATE holding_due SET delete_by = delete_by - 1",
        ),
        (
            "UPDATE holding_due SET deleted = 1",
            "UPDATE holding_due SET deleted = NULL",
        ),
        ("DELETE FROM holding_due", ""),
    ];
    for (change, back) in changes {
        let done = sqlx::query(change).execute(&mut connection).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{change}");
        let ledger = Ledger::open(&path, hub.clock.clone()).await.unwrap();
        let error = ledger.check().await.expect_err(change);
        assert_eq!(error.code(), "LedgerCorrupt");
        ledger.close().await;
        sqlx::raw_sql(back).execute(&mut connection).await.unwrap();
    }
}

/// A ledger of format 1 becomes one of the present format, with what its grants let be kept.
#[tokio::test]
async fn a_ledger_of_the_first_format_is_brought_up() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let life = (
        "expires: 2026-06-01",
        "expires: 2026-06-01\ndata_life_days: 12",
    );
    let no = stored(&hub, 1, &[life]).await.no;
    hub.ledger.close().await;
    let path = hub.dir.path().join("ledger.sqlite");
    let url = format!("sqlite://{}", path.display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let back = "DROP TABLE holding_due; DROP TABLE holding_members; DROP TABLE holding; DROP INDEX use_of_access;
        ALTER TABLE grant_row DROP COLUMN data_life; DROP TABLE statistic; DROP TABLE edition_table; DROP TABLE edition;
        PRAGMA user_version = 1";
    sqlx::raw_sql(back).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let ledger = Ledger::open(&path, hub.clock.clone()).await.unwrap();
    let hub = Hub { ledger, ..hub };
    let held = hold(&hub, "a", &[no]).await;
    assert_eq!(held.document.data_life_days, Some(12));
    hub.ledger.check().await.unwrap();
}
