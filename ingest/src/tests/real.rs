//! The real register: every row accounted for, true reasons, a second run all unchanged.

use qihui_catalog::Catalog;

use super::*;

/// Where the real data lies: `QIHUI_REAL_DATA`.
fn real_file() -> PathBuf {
    let dir = std::env::var_os("QIHUI_REAL_DATA").expect("QIHUI_REAL_DATA names the folder with the real data");
    PathBuf::from(dir).join("enterprises_zhejiang.csv")
}

#[test]
#[ignore = "needs the real register in the folder QIHUI_REAL_DATA"]
fn ing_1_every_row_of_the_real_register_is_accounted_for() {
    let catalog = Catalog::builtin().unwrap();
    let name: qihui_catalog::FeedName = "registry_csv".parse().unwrap();
    let (feed, mut fixture) = (Arc::clone(&catalog.feeds[&name]), Fixture::csv());
    fixture.contract = Arc::clone(&catalog.contracts[&feed.dataset]);
    fixture.feed = feed;
    let mut table = fixture.preview();
    let first = fixture.run(&real_file(), &mut table).unwrap();
    eprintln!("{}", serde_json::to_string_pretty(&(&first.counts, &first.reasons)).unwrap());
    assert_eq!(first.counts.read, 47_168);
    assert_eq!(first.counts.accounted(), 47_168);
    let after = table.fingerprint();
    let second = fixture.run(&real_file(), &mut table).unwrap();
    assert_eq!(second.counts.quarantined, first.counts.quarantined);
    assert_eq!(second.landed(), 0);
    assert_eq!(table.fingerprint(), after);
}
