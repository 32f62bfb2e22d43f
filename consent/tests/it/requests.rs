//! What a request may not say, and what the parser does with anything else.

use proptest::{prelude::*, test_runner::Config};
use qihui_catalog::{Coded, Kind};
use qihui_consent::{
    agreement::AgreementFile,
    document::{ConsentRequest, NarrowRequest},
};

use crate::fixture::{AGREEMENT, Hub, request_text, uscc};

#[tokio::test]
async fn each_mistake_has_its_own_error() {
    let hub = Hub::new().await;
    let range = "{from: 2024-01-01, to: 2026-01-01}";
    let end = "expires: 2026-06-01";
    for (change, code) in [
        (("[uscc, sales]", "['*']"), "WildcardColumn"),
        (("[uscc, sales]", "[sales, '*']"), "WildcardColumn"),
        (("[uscc, sales]", "[]"), "MalformedConsent"),
        (("[uscc, sales]", "[sales, sales]"), "MalformedConsent"),
        (("[uscc, sales]", "[profit]"), "UnknownColumn"),
        (("[uscc, sales]", "[officer]"), "ColumnNeverOpened"),
        (("dataset: vat", "dataset: nothing"), "UnknownDataset"),
        (
            ("dataset: vat", "dataset: vat\n    contract_version: 9.9.9"),
            "ContractVersionMismatch",
        ),
        (("org: bank", "org: nobody"), "UnknownOrganisation"),
        (("credit.loan", "credit"), "UnknownPurpose"),
        (("credit.loan", "credit.nothing"), "UnknownPurpose"),
        ((end, "expires: 2026-07-20"), "ExpiryBeyondCap"),
        ((end, "expires: 2026-01-09"), "InvalidValidity"),
        (
            (end, "starts: 2026-06-01\nexpires: 2026-06-01"),
            "InvalidValidity",
        ),
        ((end, ""), "MalformedConsent"),
        (
            (range, "{from: 2024-01-01, to: 2024-01-01}"),
            "InvalidDataRange",
        ),
        (
            (range, "{from: 2020-01-01, to: 2026-01-01}"),
            "PurposeCapExceeded",
        ),
        ((range, "{from: 2024-01-01}"), "PurposeCapExceeded"),
        (
            (end, "expires: 2026-06-01\ndata_life_days: 91"),
            "PurposeCapExceeded",
        ),
        (("credit.loan", "credit.watch"), "PurposeCapExceeded"),
        (
            (end, "expires: 2026-06-01\nmax_uses: 0"),
            "MalformedConsent",
        ),
        ((end, "expires: 2026-06-01\nmaxUses: 1"), "MalformedConsent"),
        ((end, "expires: soon"), "MalformedConsent"),
        (("[QUERY]", "[]"), "MalformedConsent"),
        (("[QUERY]", "[EVERYTHING]"), "MalformedConsent"),
        (("text: 授权书", "hash: abc"), "MalformedConsent"),
        (("lang: zh", "lang: 中文"), "MalformedConsent"),
        (("principal: ", "principal: X"), "InvalidPrincipal"),
        (("principal: ", "principal: [1]\nx: "), "MalformedConsent"),
    ] {
        let error = hub
            .request(1, &[change])
            .await
            .expect_err(&format!("{change:?}"));
        assert_eq!(error.code(), code, "{change:?}: {error}");
        assert!(
            !error.to_string().contains(&uscc(1).as_str()[8..]),
            "an error names no enterprise: {error}"
        );
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    assert_eq!(ConsentRequest::parse("{").unwrap_err().kind(), Kind::Usage);
    let before = hub.ledger.position().await.unwrap();
    hub.request(1, &[]).await.unwrap();
    assert_eq!(
        hub.ledger.position().await.unwrap(),
        before + 1,
        "refused requests left nothing behind"
    );
    let range = (
        "dataset: vat\n    columns: [uscc, sales]",
        "dataset: registry\n    columns: [phone]",
    );
    assert_eq!(
        hub.request(1, &[range]).await.unwrap_err().code(),
        "InvalidDataRange",
        "it has no event date"
    );
}

#[test]
fn json_is_read_as_well() {
    let text = format!(
        r#"{{"principal": "{}", "consumer": {{"org": "bank"}}, "purpose": {{"code": "credit.loan"}},
           "notice": {{"lang": "zh", "text": "x"}}, "scope": [{{"dataset": "vat", "columns": ["sales"]}}],
           "actions": ["QUERY"], "expires": "2026-06-01T00:00:00+08:00"}}"#,
        uscc(1)
    );
    assert_eq!(
        ConsentRequest::parse(&text).unwrap().principal().unwrap(),
        uscc(1)
    );
}

proptest! {
    #![proptest_config(Config { cases: 2000, failure_persistence: None, ..Config::default() })]

    /// Whatever comes: an answer or an error of one line, no panic, and no enterprise in the error.
    #[test]
    fn a_damaged_document_is_refused_in_one_line(
        cuts in proptest::collection::vec((any::<proptest::sample::Index>(), 0_usize..12, "[\\PC\\n\\t\\x00]{0,8}"), 1..4),
        which in 0_u8..3,
    ) {
        let mut text = match which {
            0 => request_text(1, &[]),
            1 => AGREEMENT.to_owned(),
            _ => "{scope: [{dataset: vat, columns: [sales]}], expires: 2026-03-01}".to_owned(),
        };
        for (at, length, insert) in cuts {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            let end = (at + length).min(chars.len());
            chars.splice(at..end, insert.chars());
            text = chars.into_iter().collect();
        }
        let error = match which {
            0 => ConsentRequest::parse(&text).err(),
            1 => AgreementFile::parse(&text).err(),
            _ => NarrowRequest::parse(&text).err(),
        };
        if let Some(error) = error {
            let error = error.to_string();
            prop_assert!(!error.contains('\n') && error.len() < 1000, "{}", error);
            prop_assert!(!error.contains(&uscc(1).as_str()[8..]), "{}", error);
        }
    }

    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}") {
        let _ = (ConsentRequest::parse(&text), AgreementFile::parse(&text), NarrowRequest::parse(&text));
    }
}
