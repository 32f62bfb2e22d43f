//! Enterprise numbers, and decisions over a million grants.
//!
//! `cargo bench -p qihui-consent` prints one figure a line. The ledger lies in the system's temporary directory (`TMPDIR`).
//! `QIHUI_BENCH_ENTERPRISES` (default 1,000,000) is the number of enterprises of both parts.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark may end with a panic")]

use std::time::Instant;

use qihui_catalog::{EnterpriseNo, EnterpriseNumbers, NumberRequest, Timestamp, Uscc};
use qihui_consent::Ledger;
use sqlx::Connection;

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/fixture.rs"]
mod fixture;

use fixture::{Hub, uscc, vat};

fn main() {
    // `cargo test --benches` runs this too: then briefly.
    let brief = !std::env::args().any(|argument| argument == "--bench");
    let asked = std::env::var("QIHUI_BENCH_ENTERPRISES")
        .ok()
        .and_then(|value| value.parse().ok());
    let enterprises = asked.unwrap_or(if brief { 2_000 } else { 1_000_000 });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(numbers(enterprises));
    runtime.block_on(decisions(enterprises));
}

/// Enterprises in an order that is not that of their codes, as files have them.
fn wishes(count: u32) -> Vec<NumberRequest> {
    let mut wishes: Vec<NumberRequest> = (0..count)
        .map(|n| {
            let digit = |value: u32| b'0' + u8::try_from(value).unwrap();
            NumberRequest {
                uscc: uscc(n),
                county: Some([b'3', b'3', b'0', b'1', digit(n % 10), digit(n / 10 % 9)]),
                section: char::from_u32(u32::from('A') + n / 7 % 20),
            }
        })
        .collect();
    let mut random = 1_u64;
    for index in (1..wishes.len()).rev() {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        wishes.swap(index, usize::try_from(random >> 33).unwrap() % (index + 1));
    }
    wishes
}

async fn numbers(count: u32) {
    let hub = Hub::empty().await;
    let wishes = wishes(count);
    let rate = |what: &str, work: &dyn Fn()| {
        let start = Instant::now();
        work();
        let seconds = start.elapsed().as_secs_f64();
        println!("{what}: {:.0} a second", f64::from(count) / seconds);
    };
    let store = hub.dir.path().join("ledger.sqlite");
    let again = Ledger::open(&store, hub.clock.clone()).await.unwrap();
    tokio::task::block_in_place(|| {
        rate("assign, new", &|| drop(hub.ledger.assign(&wishes).unwrap()));
        rate("assign, known, from memory", &|| {
            drop(hub.ledger.assign(&wishes).unwrap());
        });
        let usccs: Vec<Uscc> = wishes.iter().map(|wish| wish.uscc).collect();
        rate("lookup, known, from the store", &|| {
            drop(again.lookup(&usccs).unwrap());
        });
        let numbers = hub.ledger.assign(&wishes).unwrap();
        rate("uscc of a number", &|| {
            drop(hub.ledger.uscc_of(&numbers).unwrap());
        });
    });
}

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

async fn decisions(grants: u32) {
    let hub = Hub::new().await;
    for n in 1..=3 {
        hub.enterprise(n, 1, 1).await;
    }
    fill(&hub, grants).await;
    let store = hub.dir.path().join("ledger.sqlite");
    let ledger = Ledger::open(&store, hub.clock.clone()).await.unwrap();
    let timed = async |what: &str| {
        let start = Instant::now();
        let decision = ledger.decide(&hub.catalog, &hub.asked(None)).await.unwrap();
        println!("{what}: {:.0?}", start.elapsed());
        decision
    };
    let cold = timed(&format!("decide, {} grants, first time", grants + 2)).await;
    let scope = &cold.scopes[&vat()];
    assert_eq!(scope.enterprises(), u64::from(grants) + 2);
    assert_eq!(scope.shapes.len(), 3);
    timed("decide, again").await;
    hub.granted(3, &[]).await;
    let more = timed("decide, after one more grant").await;
    assert_eq!(more.scopes[&vat()].enterprises(), u64::from(grants) + 3);
    let start = Instant::now();
    let _ = scope.commitment();
    println!("commitment: {:.0?}", start.elapsed());
    let mut request = hub.asked(Some(vec![EnterpriseNo(9_999 + grants)]));
    request.until = Timestamp(request.at.0 + 1);
    let start = Instant::now();
    ledger.decide(&hub.catalog, &request).await.unwrap();
    println!("decide, one named subject: {:.0?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..100 {
        hub.request(1, &[]).await.unwrap();
    }
    println!("one durable operation: {:.1?}", start.elapsed() / 100);
}
