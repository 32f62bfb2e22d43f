//! Figures about groups: agreements that allow them, and the record of what was released.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use qihui_catalog::{Action, Catalog, Coded, PurposeTree};
use qihui_consent::{
    Ledger,
    agreement::AgreementFile,
    decision::{AgreementColumn, DatasetScope, Span},
    ledger::{Edition, EditionKey, Statistic},
};
use sqlx::Connection;

use crate::fixture::{Hub, bank, purpose, vat};

/// The hub's catalogue with a purpose for statistics.
fn catalog(hub: &Hub) -> Catalog {
    let tree = "
version: 1.0.0
purposes:
  - {code: credit, titleEn: Finance, titleCn: 金融, description: Finance., caps: {maxValidityDays: 400, dataLifeDays: 100}}
  - {code: credit.loan, titleEn: Loan, titleCn: 贷款, description: Loan.}
  - {code: statistics, titleEn: Figures, titleCn: 统计, description: Figures., caps: {maxValidityDays: 400, dataLifeDays: 90}}
  - {code: statistics.region, titleEn: Regions, titleCn: 区域, description: Regions.}
";
    let tree = PurposeTree::from_yaml(Path::new("purposes.yaml"), tree).unwrap();
    Catalog {
        purposes: Arc::new(tree),
        ..hub.catalog.clone()
    }
}

fn figures(change: &[(&str, &str)]) -> AgreementFile {
    let mut text = "{id: vat-figures, org: bank, dataset: vat, purposes: [statistics.region], \
         basis: {statute: {law: Statistics Law}}, aggregate_only: {min_enterprises: 10, p_percent: 10}, \
         valid_until: 2028-01-01, columns: [{name: sales}]}"
        .to_owned();
    for (from, to) in change {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    AgreementFile::parse(&text).unwrap()
}

/// Figures about groups: what an agreement about them needs, and that it opens nothing else.
#[tokio::test]
async fn agreements_about_figures_open_no_row() {
    let hub = Hub::new().await;
    let catalog = catalog(&hub);
    let add = async |change: &[(&str, &str)]| {
        let added = hub.ledger.add_agreement(&catalog, figures(change)).await;
        added.map_err(|error| (error.code(), error.to_string()))
    };
    for (change, says) in [
        (("min_enterprises: 10", "min_enterprises: 9"), "10 or more"),
        (("p_percent: 10", "p_percent: 0"), "1 to 100"),
        (("p_percent: 10", "p_percent: 101"), "1 to 100"),
        (("{statute: {law: Statistics Law}}", "consent"), "statute"),
        (("statistics.region", "credit.loan"), "under `statistics`"),
        (("dataset: vat", "dataset: registry"), "public"),
        (
            ("{name: sales}", "{name: sales, form: {masked: zero}}"),
            "no `form`",
        ),
        (("{name: sales}", "{name: uscc}"), "summed up"),
        (("{name: sales}", "{name: day}"), "summed up"),
    ] {
        let (code, text) = add(&[change]).await.unwrap_err();
        assert!(
            code == "MalformedAgreement" && text.contains(says),
            "{change:?}: {text}"
        );
    }
    let (code, _) = add(&[("{name: sales}", "{name: officer}")])
        .await
        .unwrap_err();
    assert_eq!(code, "ColumnNeverOpened");
    add(&[]).await.unwrap();
    // Rows for the same purpose, and figures by other periods, would be subtracted from these.
    let other = ("id: vat-figures", "id: other");
    let (_, text) = add(&[other, ("p_percent: 10", "p_percent: 10, period: year")])
        .await
        .unwrap_err();
    assert!(text.contains("by month"), "{text}");
    let rows = figures(&[
        other,
        (" aggregate_only: {min_enterprises: 10, p_percent: 10},", ""),
    ]);
    let rows = AgreementFile {
        columns: vec![AgreementColumn {
            name: "uscc".to_owned(),
            form: None,
            reason: None,
        }],
        ..rows
    };
    let error = hub.ledger.add_agreement(&catalog, rows).await.unwrap_err();
    assert!(error.to_string().contains("rows and figures"), "{error}");
    add(&[
        other,
        (
            "min_enterprises: 10, p_percent: 10",
            "min_enterprises: 20, p_percent: 5",
        ),
        ("{name: sales}", "{name: tax}"),
    ])
    .await
    .unwrap();
    hub.drain().await;
    let ask = async |action| {
        let mut request = hub.asked(None);
        request.purpose = purpose("statistics.region");
        request.action = action;
        request.datasets = vec![vat()];
        hub.ledger.decide(&catalog, &request).await.unwrap().scopes[&vat()].clone()
    };
    let scope = ask(Action::Query).await;
    assert!(scope.columns.is_empty() && !scope.all_rows && scope.agreements.is_empty());
    let statistics = scope.statistics.clone().unwrap();
    assert_eq!(
        (statistics.terms.min_enterprises, statistics.terms.p_percent),
        (20, 10)
    );
    assert_eq!(statistics.columns, ["sales", "tax"]);
    assert_eq!(statistics.agreements.len(), 2);
    // What is committed to says so; topics and exports have none of it.
    let without = DatasetScope {
        statistics: None,
        ..DatasetScope::clone(&scope)
    };
    assert_ne!(scope.commitment(), without.commitment());
    for action in [Action::Stream, Action::Store] {
        assert_eq!(ask(action).await.statistics, None);
    }
}

fn january() -> EditionKey {
    EditionKey {
        org: bank(),
        dataset: vat(),
        first_day: "2026-01-01".parse().unwrap(),
        end_day: "2026-02-01".parse().unwrap(),
    }
}

async fn opened(ledger: &Ledger, key: &EditionKey, vat_version: i64) -> Option<Edition> {
    let versions = BTreeMap::from([(vat(), vat_version)]);
    ledger.open_edition(key, &versions).await.unwrap()
}

#[tokio::test]
async fn an_edition_keeps_its_versions_and_its_days() {
    let hub = Hub::new().await;
    let key = january();
    assert_eq!(hub.ledger.edition(&key).await.unwrap(), None);
    let first = opened(&hub.ledger, &key, 4).await.unwrap();
    assert_eq!(first.tables[&vat()], 4);
    assert_eq!(opened(&hub.ledger, &key, 9).await.unwrap(), first);
    // A table that it did not need before is taken as it is now.
    let more = BTreeMap::from([(vat(), 9), ("registry".parse().unwrap(), 7)]);
    let more = hub.ledger.open_edition(&key, &more).await.unwrap().unwrap();
    assert_eq!((more.tables[&vat()], more.tables["registry"]), (4, 7));
    // No day twice, but for somebody else or another dataset.
    let overlapping = |first: &str, end: &str| EditionKey {
        first_day: first.parse().unwrap(),
        end_day: end.parse().unwrap(),
        ..january()
    };
    for (first, end) in [
        ("2026-01-01", "2026-04-01"),
        ("2025-01-01", "2026-01-02"),
        ("2026-01-31", "2026-03-01"),
        ("2026-01-10", "2026-01-11"),
    ] {
        let key = overlapping(first, end);
        assert_eq!(opened(&hub.ledger, &key, 9).await, None, "{first}");
    }
    for key in [
        overlapping("2026-02-01", "2026-03-01"),
        overlapping("2025-12-01", "2026-01-01"),
        EditionKey {
            dataset: "registry".parse().unwrap(),
            ..overlapping("2026-01-01", "2026-04-01")
        },
    ] {
        assert!(opened(&hub.ledger, &key, 9).await.is_some());
    }
}

#[tokio::test]
async fn records_of_figures_are_kept_and_never_changed() {
    let hub = Hub::new().await;
    let edition = opened(&hub.ledger, &january(), 4).await.unwrap();
    let told = Statistic {
        question: [3; 32],
        measures: vec!["rows".to_owned(), "sum:sales".to_owned()],
        groups: vec![(0..5000).collect(), [70_000, 80_000].into()],
    };
    let nothing = Statistic {
        question: [4; 32],
        measures: Vec::new(),
        groups: Vec::new(),
    };
    let hash = hub
        .ledger
        .record_statistic(&edition, "x", &told)
        .await
        .unwrap();
    hub.ledger
        .record_statistic(&edition, "y", &nothing)
        .await
        .unwrap();
    let expected = [told, nothing];
    assert_eq!(hub.ledger.statistics(&edition).await.unwrap(), expected);
    // The event holds the hash and goes to the log.
    hub.drain().await;
    let events = hub.ledger.events(0, 1000).await.unwrap();
    let event = events
        .iter()
        .find(|event| event.kind == "statistic.released");
    assert!(event.unwrap().body.contains(&hex::encode(hash)));
    hub.ledger.check().await.unwrap();
    // After a restart it is all there, and nobody can take it back.
    hub.ledger.close().await;
    let path = hub.dir.path().join("ledger.sqlite");
    let ledger = Ledger::open(&path, hub.clock.clone()).await.unwrap();
    let edition = ledger.edition(&january()).await.unwrap().unwrap();
    assert_eq!(ledger.statistics(&edition).await.unwrap(), expected);
    ledger.close().await;
    let url = format!("sqlite://{}", path.display());
    let mut store = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for sql in [
        "DELETE FROM statistic",
        "UPDATE statistic SET groups = x''",
        "UPDATE edition_table SET version = 5",
        "DELETE FROM edition_table",
        "UPDATE edition SET end_day = '2026-01-02'",
    ] {
        assert!(
            sqlx::raw_sql(sql).execute(&mut store).await.is_err(),
            "{sql}"
        );
    }
}

#[test]
fn spans_begin_where_the_calendar_has_them() {
    let end = |span: Span, day: &str| span.end(day.parse().unwrap()).map(|day| day.to_string());
    assert_eq!(
        end(Span::Month, "2024-02-01").as_deref(),
        Some("2024-03-01")
    );
    assert_eq!(
        end(Span::Quarter, "2025-10-01").as_deref(),
        Some("2026-01-01")
    );
    assert_eq!(end(Span::Year, "2025-01-01").as_deref(), Some("2026-01-01"));
    for (span, day) in [
        (Span::Month, "2024-02-02"),
        (Span::Quarter, "2025-02-01"),
        (Span::Year, "2025-04-01"),
    ] {
        assert_eq!(end(span, day), None);
    }
}
