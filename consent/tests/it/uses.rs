//! Uses of consents that count them: exactly once per access, never more than allowed, whoever counts at the same time
//! and whatever is killed when.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use proptest::prelude::*;
use qihui_audit::SystemClock;
use qihui_catalog::{Action, Coded, EnterpriseNo, Timestamp};
use qihui_consent::{
    Decision, DecisionError, Ledger,
    decision::{DecisionRequest, Grant, scope},
    ledger::{Consent, UsesLeft},
    signing::Operation,
};

use crate::fixture::{DAY_MS, Hub, catalog, purpose, vat};

const WATCH: (&str, &str) = ("credit.loan", "credit.watch");

fn expires_with(more: &'static str) -> (&'static str, &'static str) {
    ("expires: 2026-06-01", more)
}

async fn ask(
    hub: &Hub,
    subjects: &[EnterpriseNo],
    code: &str,
    access: &str,
) -> Result<Decision, DecisionError> {
    let request = DecisionRequest {
        purpose: purpose(code),
        ..hub.asked(Some(subjects.to_vec()))
    };
    hub.ledger
        .decide_for(&hub.catalog, &request, Some(access))
        .await
}

/// An access as the gate makes one: decided, then counted.
async fn access(
    hub: &Hub,
    subjects: &[EnterpriseNo],
    code: &str,
    access: &str,
) -> Result<usize, DecisionError> {
    let decision = ask(hub, subjects, code, access).await?;
    Ok(hub.ledger.count_uses(access, &decision).await?.len())
}

async fn left(hub: &Hub, consent: &Consent) -> UsesLeft {
    let id = &consent.document.consent_id;
    let left = hub.ledger.uses_left(&hub.catalog, id).await.unwrap();
    left.expect("its uses are counted")
}

fn code<T: std::fmt::Debug>(result: Result<T, DecisionError>) -> String {
    result.unwrap_err().code().to_owned()
}

#[tokio::test]
async fn what_is_left_is_told_and_the_next_use_with_it() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let terms = expires_with("expires: 2026-06-01\nmax_uses: 3\nfrequency: {count: 2, per: month}");
    let consent = hub.granted(1, &[terms]).await;
    let no = [consent.no];
    let fresh = left(&hub, &consent).await;
    assert_eq!(
        (fresh.made, fresh.left, fresh.next),
        (0, Some(3), Some(hub.now()))
    );
    for id in ["a", "b"] {
        assert_eq!(access(&hub, &no, "credit.loan", id).await.unwrap(), 1);
    }
    let used = left(&hub, &consent).await;
    let february: Timestamp = "2026-02-01".parse().unwrap();
    assert_eq!((used.made, used.left), (2, Some(1)));
    assert_eq!(
        (used.made_in_period, used.period_ends),
        (Some(2), Some(february))
    );
    assert_eq!(used.next, Some(february));
    let refused = access(&hub, &no, "credit.loan", "c").await.unwrap_err();
    assert_eq!(refused.code(), "InvalidConsentUse");
    assert!(
        refused
            .to_string()
            .contains("possible from 2026-01-31T16:00:00.000Z"),
        "{refused}"
    );
    hub.advance(22 * DAY_MS);
    assert_eq!(access(&hub, &no, "credit.loan", "c").await.unwrap(), 1);
    let last = left(&hub, &consent).await;
    assert_eq!((last.made, last.left, last.next), (3, Some(0), None));
    let refused = access(&hub, &no, "credit.loan", "d").await.unwrap_err();
    assert!(
        refused.to_string().contains("ask for a new one"),
        "{refused}"
    );
    // The same access again is not another use.
    assert_eq!(access(&hub, &no, "credit.loan", "c").await.unwrap(), 0);
    assert_eq!(left(&hub, &consent).await.made, 3);
    let plain = hub.granted(1, &[]).await.document.consent_id;
    assert_eq!(
        hub.ledger.uses_left(&hub.catalog, &plain).await.unwrap(),
        None
    );
}

/// Two consents, each within the cap of its purpose, may not be used beyond it together.
#[tokio::test]
async fn a_purpose_is_not_used_beyond_its_cap_over_several_consents() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let sales = expires_with("expires: 2026-06-01\nfrequency: {count: 3, per: month}");
    let one = hub.granted(1, &[WATCH, sales]).await;
    let tax = ("[uscc, sales]", "[tax]");
    let earlier = expires_with("expires: 2026-05-01\nfrequency: {count: 3, per: month}");
    let other = hub.granted(1, &[WATCH, earlier, tax]).await;
    let no = [one.no];
    // Each of these opens something that the other does not: an access draws on both, and is one access.
    for id in ["a", "b", "c"] {
        assert_eq!(access(&hub, &no, "credit.watch", id).await.unwrap(), 2);
    }
    let narrowed = hub
        .hold(&one.document.consent_id, Operation::Withdraw)
        .await;
    narrowed.unwrap();
    let third = hub.granted(1, &[WATCH, sales]).await;
    // None of its own uses was made, but the purpose was used three times.
    let told = left(&hub, &third).await;
    let february: Timestamp = "2026-02-01".parse().unwrap();
    assert_eq!(
        (told.made, told.made_for_purpose, told.next),
        (0, Some(3), Some(february))
    );
    let refused = access(&hub, &no, "credit.watch", "d").await.unwrap_err();
    assert_eq!(refused.code(), "PurposeUsedUp", "{refused}");
    assert!(
        refused.to_string().contains("2026-01-31T16:00:00.000Z"),
        "{refused}"
    );
    assert_eq!(
        left(&hub, &other).await.made,
        3,
        "what is refused uses nothing"
    );
    hub.advance(22 * DAY_MS);
    assert_eq!(access(&hub, &no, "credit.watch", "d").await.unwrap(), 2);
}

/// A use is made only where a consent opens something that nothing else opens.
#[tokio::test]
async fn a_consent_that_opens_nothing_more_is_not_used() {
    let hub = Hub::new().await;
    hub.enterprise(1, 1, 1).await;
    let limited = expires_with("expires: 2026-06-01\nmax_uses: 2");
    let metered = hub.granted(1, &[limited]).await;
    let no = [metered.no];
    hub.granted(1, &[]).await;
    assert_eq!(
        access(&hub, &no, "credit.loan", "a").await.unwrap(),
        0,
        "the other is free"
    );
    let more = hub.granted(1, &[limited, ("[uscc, sales]", "[tax]")]).await;
    assert_eq!(access(&hub, &no, "credit.loan", "b").await.unwrap(), 1);
    assert_eq!(left(&hub, &metered).await.made, 0);
    assert_eq!(left(&hub, &more).await.made, 1);
    let decision = ask(&hub, &no, "credit.loan", "c").await.unwrap();
    assert_eq!(
        decision.scopes[&vat()]
            .covered(no[0], "2025-05-05".parse().ok())
            .iter()
            .count(),
        3
    );
    // Of several that open the same, the one that ends first is used.
    hub.enterprise(2, 1, 1).await;
    let late = hub.granted(2, &[limited]).await;
    let early = expires_with("expires: 2026-04-01\nmax_uses: 1");
    let early = hub.granted(2, &[early]).await;
    for (id, early_made, late_made) in [("x", 1, 0), ("y", 1, 1), ("z", 1, 2)] {
        assert_eq!(
            access(&hub, &[late.no], "credit.loan", id).await.unwrap(),
            1
        );
        assert_eq!(left(&hub, &early).await.made, early_made);
        assert_eq!(left(&hub, &late).await.made, late_made);
    }
    assert_eq!(
        code(access(&hub, &[late.no], "credit.loan", "w").await),
        "InvalidConsentUse"
    );
}

/// A consent of one enterprise: columns, months of data, days until it ends, and whether its uses are counted.
#[derive(Debug, Clone)]
struct Given {
    columns: Vec<&'static str>,
    months: (u32, u32),
    days: i64,
    metered: bool,
}

fn given() -> impl Strategy<Value = Given> {
    let columns = prop::sample::subsequence(vec!["day", "sales", "tax"], 1..=3);
    let parts = (
        columns,
        1_u32..6,
        1_u32..7,
        10_i64..14,
        prop::bool::weighted(0.7),
    );
    parts.prop_map(|(columns, from, length, days, metered)| Given {
        columns,
        months: (from, from + length),
        days,
        metered,
    })
}

fn grant_of(consent: &Consent, metered: bool) -> Grant {
    let document = &consent.document;
    Grant {
        consent_id: document.consent_id.clone(),
        version: document.version,
        no: consent.no,
        org: document.consumer.org.clone(),
        purpose: document.purpose.code.clone(),
        items: document.items(),
        actions: document.actions,
        starts: document.starts,
        expires: document.expires,
        metered,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What is drawn on opens what everything together opens, and no use of it could be left out.
    #[test]
    fn gate_1_uses_are_those_that_open_something(all in prop::collection::vec(given(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::new().await;
            hub.enterprise(1, 1, 1).await;
            let mut grants = Vec::new();
            for Given { columns, months: (from, to), days, metered } in all {
                let ends = Timestamp(hub.now().0 + days * DAY_MS);
                let uses = if metered { "\nmax_uses: 5" } else { "" };
                let changes = [
                    ("[uscc, sales]", format!("[{}]", columns.join(", "))),
                    ("from: 2024-01-01, to: 2026-01-01", format!("from: 2025-{from:02}-01, to: 2025-{to:02}-01")),
                    ("expires: 2026-06-01", format!("expires: {ends}{uses}")),
                ];
                let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
                let consent = hub.granted(1, &changes).await;
                grants.push(grant_of(&consent, metered));
            }
            let no = grants[0].no;
            let request = hub.asked(Some(vec![no]));
            let agreements: Vec<_> = hub.ledger.agreements().await.unwrap().into_iter().map(|one| one.agreement).collect();
            let opened = |grants: &[Grant]| {
                scope(&hub.catalog.contracts[&vat()], &request, &agreements, grants).commitment()
            };
            let decision = ask(&hub, &[no], "credit.loan", "a").await.unwrap();
            assert_eq!(decision.scopes[&vat()].commitment(), opened(&grants));
            let used: BTreeSet<_> = decision.uses.iter().map(|used| used.consent_id.clone()).collect();
            let drawn: Vec<Grant> = grants.iter().filter(|one| !one.metered || used.contains(&one.consent_id)).cloned().collect();
            for id in &used {
                let without: Vec<Grant> = drawn.iter().filter(|one| one.consent_id != *id).cloned().collect();
                assert_ne!(opened(&without), opened(&grants), "{id} could be left out");
            }
        });
    }
}

/// Several subjects: all of them are used once, or none.
#[tokio::test]
async fn uses_of_several_subjects_are_all_or_nothing() {
    let hub = Hub::new().await;
    for n in 1..=3 {
        hub.enterprise(n, 1, 1).await;
    }
    let many = expires_with("expires: 2026-06-01\nmax_uses: 9");
    let once = expires_with("expires: 2026-06-01\nmax_uses: 1");
    let (a, b, c) = (
        hub.granted(1, &[many]).await,
        hub.granted(2, &[once]).await,
        hub.granted(3, &[many]).await,
    );
    let all = [a.no, b.no, c.no];
    // Two accesses are decided while a use of everybody is left; only one can have the last of the second.
    let first = ask(&hub, &all, "credit.loan", "first").await.unwrap();
    let second = ask(&hub, &all, "credit.loan", "second").await.unwrap();
    assert_eq!(
        hub.ledger.count_uses("first", &first).await.unwrap().len(),
        3
    );
    assert_eq!(
        code(hub.ledger.count_uses("second", &second).await),
        "InvalidConsentUse"
    );
    for consent in [&a, &b, &c] {
        assert_eq!(left(&hub, consent).await.made, 1);
    }
    let refused = access(&hub, &all, "credit.loan", "third")
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("subject 2"), "{refused}");
    assert_eq!(left(&hub, &a).await.made, 1);
    let used = hub.ledger.used_by("first").await.unwrap();
    let used: BTreeSet<EnterpriseNo> = used.into_iter().map(|(_, no)| no).collect();
    assert_eq!(used, all.into_iter().collect());
}

#[tokio::test]
async fn a_view_is_of_one_named_enterprise() {
    let hub = Hub::new().await;
    for n in 1..=2 {
        hub.enterprise(n, 1, 1).await;
    }
    let a = hub.granted(1, &[("[QUERY]", "[VIEW]")]).await.no;
    let b = hub.granted(2, &[("[QUERY]", "[VIEW]")]).await.no;
    let view = async |subjects: Option<Vec<EnterpriseNo>>, action| {
        let request = DecisionRequest {
            action,
            ..hub.asked(subjects)
        };
        hub.ledger.decide(&hub.catalog, &request).await
    };
    assert_eq!(code(view(None, Action::View).await), "SubjectRequired");
    assert_eq!(
        code(view(Some(vec![a, b]), Action::View).await),
        "OneSubjectOnly"
    );
    let seen = view(Some(vec![a, a]), Action::View).await.unwrap();
    assert_eq!(seen.scopes[&vat()].enterprises(), 1);
    for other in [Action::Query, Action::Store] {
        assert_eq!(code(view(Some(vec![a]), other).await), "InvalidConsentUse");
    }
}

/// What a model of uses is made of: when, in days and minutes of January and later, which access, about whom.
#[derive(Debug, Clone)]
struct Asked {
    minutes_later: u16,
    access: u8,
    both: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let later = prop_oneof![3 => 0_u16..30, 2 => 300_u16..2000, 1 => 20_000_u16..45_000];
    (later, 0_u8..30, any::<bool>()).prop_map(|(minutes_later, access, both)| Asked {
        minutes_later,
        access,
        both,
    })
}

/// Uses by the calendar of Shanghai, written down a second time: which month and day an instant is of.
fn calendar(at: Timestamp) -> (String, String) {
    let local = chrono::DateTime::from_timestamp_millis(at.0 + 8 * 3_600_000).unwrap();
    (
        local.format("%Y-%m").to_string(),
        local.format("%Y-%m-%d").to_string(),
    )
}

/// The first enterprise allows 7 uses, 3 a month; the second 4 a day.
#[derive(Default)]
struct Model {
    first: BTreeMap<u8, String>,
    second: BTreeMap<u8, String>,
}

impl Model {
    fn allows(&self, access: u8, both: bool, at: Timestamp) -> bool {
        let (month, day) = calendar(at);
        let in_month = self.first.values().filter(|made| **made == month).count();
        let in_day = self.second.values().filter(|made| **made == day).count();
        let first = self.first.contains_key(&access) || (self.first.len() < 7 && in_month < 3);
        let second = self.second.contains_key(&access) || in_day < 4;
        first && (second || !both)
    }

    fn count(&mut self, access: u8, both: bool, at: Timestamp) {
        let (month, day) = calendar(at);
        self.first.entry(access).or_insert(month);
        if both {
            self.second.entry(access).or_insert(day);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The ledger counts as the model does, access for access, over days, months and repetitions.
    #[test]
    fn gate_1_uses_are_counted_once_per_access_and_no_more_than_granted(all in prop::collection::vec(asked(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::new().await;
            for n in 1..=2 {
                hub.enterprise(n, 1, 1).await;
            }
            let monthly = expires_with("expires: 2026-06-01\nmax_uses: 7\nfrequency: {count: 3, per: month}");
            let daily = expires_with("expires: 2026-06-01\nfrequency: {count: 4, per: day}");
            let (first, second) = (hub.granted(1, &[monthly]).await, hub.granted(2, &[daily]).await);
            let mut model = Model::default();
            for Asked { minutes_later, access: id, both } in all {
                hub.advance(i64::from(minutes_later) * 60_000);
                let at = hub.now();
                if at.0 + 60_000 >= first.document.expires.0 {
                    break;
                }
                let subjects = if both { vec![first.no, second.no] } else { vec![first.no] };
                let made = access(&hub, &subjects, "credit.loan", &format!("access-{id}")).await;
                assert_eq!(made.is_ok(), model.allows(id, both, at), "{made:?} at {at}");
                if made.is_ok() {
                    model.count(id, both, at);
                }
                assert_eq!(left(&hub, &first).await.made, model.first.len() as u64);
                assert_eq!(left(&hub, &second).await.made, model.second.len() as u64);
            }
        });
    }
}

/// Many at once: as many accesses succeed as there are uses, each counted once, through two handles on one file.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gate_1_of_many_at_once_no_more_succeed_than_granted() {
    let hub = Arc::new(Hub::new().await);
    hub.enterprise(1, 1, 1).await;
    let terms = expires_with("expires: 2026-06-01\nmax_uses: 5");
    let consent = hub.granted(1, &[terms]).await;
    let path = hub.dir.path().join("ledger.sqlite");
    let other = Ledger::open(&path, hub.clock.clone());
    let other = other.await.unwrap();
    let accesses: Vec<_> = (0..24)
        .map(|n| {
            let ledger = if n % 2 == 0 {
                hub.ledger.clone()
            } else {
                other.clone()
            };
            let (hub, no) = (Arc::clone(&hub), consent.no);
            tokio::spawn(async move {
                // Three tell of each access.
                let id = format!("access-{}", n / 3);
                let request = hub.asked(Some(vec![no]));
                let decided = ledger.decide_for(&hub.catalog, &request, Some(&id)).await;
                let counted = match decided {
                    Ok(decision) => ledger
                        .count_uses(&id, &decision)
                        .await
                        .map(|made| made.len()),
                    Err(error) => Err(error),
                };
                (id, counted)
            })
        })
        .collect();
    let (mut succeeded, mut counted) = (BTreeSet::new(), 0);
    for access in accesses {
        match access.await.unwrap() {
            (id, Ok(made)) => {
                succeeded.insert(id);
                counted += made;
            }
            (_, Err(error)) => assert_eq!(error.code(), "InvalidConsentUse"),
        }
    }
    assert_eq!((succeeded.len(), counted), (5, 5));
    assert_eq!(left(&hub, &consent).await.left, Some(0));
}

const KILLS: usize = 20;
const MAX_USES: usize = 60;

/// Where the child finds its folder.
const DIR: &str = "QIHUI_CRASH_DIR";

/// What the child does: makes one access after another, and says what it is at.
async fn count_for_ever(dir: &Path) {
    let path = dir.join("ledger.sqlite");
    let ledger = Ledger::open(&path, Arc::new(SystemClock));
    let ledger = ledger.await.unwrap();
    let catalog = catalog();
    let run = std::env::var("QIHUI_CRASH_RUN").unwrap();
    let no: u32 = std::env::var("QIHUI_CRASH_NO").unwrap().parse().unwrap();
    let say = |line: String| {
        let mut told = std::io::stdout().lock();
        writeln!(told, "told {line}")
            .and_then(|()| told.flush())
            .unwrap();
    };
    for n in 0.. {
        let id = format!("{run}-{n}");
        let at = Timestamp(chrono::Utc::now().timestamp_millis());
        let request = DecisionRequest {
            org: crate::fixture::bank(),
            purpose: purpose("credit.loan"),
            action: Action::Query,
            at,
            until: at,
            subjects: Some(vec![EnterpriseNo(no)]),
            datasets: vec![vat()],
        };
        say(format!("begun {id}"));
        let Ok(decision) = ledger.decide_for(&catalog, &request, Some(&id)).await else {
            say(format!("refused {id}"));
            continue;
        };
        say(format!("decided {id}"));
        ledger.count_uses(&id, &decision).await.unwrap();
        say(format!("counted {id}"));
    }
}

/// Killed with SIGKILL at any moment of an access, many times over the same ledger: what was said to be counted is,
/// nothing is counted twice, what is told again costs nothing, and no more is counted than was granted.
#[tokio::test]
async fn aud_5_a_killed_process_counts_each_access_once() {
    // Started again with a folder in its environment, this test is the child.
    if let Some(dir) = std::env::var_os(DIR) {
        return count_for_ever(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::on(dir.path(), Arc::new(SystemClock)).await;
    hub.enterprise(1, 1, 1).await;
    let expires = Timestamp(chrono::Utc::now().timestamp_millis() + DAY_MS).to_string();
    let terms = format!("expires: {expires}\nmax_uses: {MAX_USES}");
    let consent = hub.granted(1, &[("expires: 2026-06-01", &terms)]).await;
    let (id, no) = (consent.document.consent_id, consent.no);
    let catalog = catalog();
    hub.ledger.close().await;
    let mut counted: BTreeSet<String> = BTreeSet::new();
    let mut begun: Vec<String> = Vec::new();
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "uses::aud_5_a_killed_process_counts_each_access_once",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .env("QIHUI_CRASH_RUN", kill.to_string())
            .env("QIHUI_CRASH_NO", no.0.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.map_while(Result::ok);
        let told = told.filter_map(|line| line.strip_prefix("told ").map(str::to_owned));
        // One more line each time: between the decision and the count, during it, behind it …
        let mut told = told.take(3 + kill);
        for line in told.by_ref() {
            let (what, access) = line.split_once(' ').unwrap();
            match what {
                "begun" => begun.push(access.to_owned()),
                "counted" => drop(counted.insert(access.to_owned())),
                _ => {}
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path, Arc::new(SystemClock));
        let ledger = ledger.await.unwrap();
        let made = ledger.uses_left(&catalog, &id).await.unwrap().unwrap().made;
        for access in &counted {
            assert_eq!(
                ledger.used_by(access).await.unwrap().len(),
                1,
                "{access} is not counted"
            );
        }
        assert!(
            made >= counted.len() as u64 && made <= MAX_USES as u64,
            "{made}"
        );
        // Whoever was killed in between may tell of the access again.
        let at = Timestamp(chrono::Utc::now().timestamp_millis());
        if let Some(access) = begun.last() {
            let request = DecisionRequest {
                at,
                until: at,
                ..hub.asked(Some(vec![no]))
            };
            for _ in 0..2 {
                if let Ok(decision) = ledger.decide_for(&catalog, &request, Some(access)).await {
                    ledger.count_uses(access, &decision).await.unwrap();
                    counted.insert(access.clone());
                }
            }
        }
        ledger.check().await.unwrap();
        ledger.close().await;
    }
    assert!(
        counted.len() > KILLS,
        "the children did something: {}",
        counted.len()
    );
    assert_eq!(
        begun.len().min(MAX_USES),
        MAX_USES,
        "the uses ran out at the end"
    );
}
