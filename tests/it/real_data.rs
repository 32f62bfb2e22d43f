//! The real register: every row accounted for, true reasons, a second run all unchanged.

use std::path::PathBuf;

use crate::support::Lab;

/// Rows of the register.
const ROWS: u64 = 47_168;
/// Rows whose province cell does not name a province: the only ones that are wrong.
const WRONG: u64 = 2;

#[test]
#[ignore = "real enterprises may not be copied into a repository: scripts/test runs this where QIHUI_REAL_DATA names their folder"]
#[expect(
    clippy::print_stderr,
    reason = "the counts are what this test is run for"
)]
fn ing_1_every_row_of_the_real_register_is_accounted_for() {
    let folder = std::env::var_os("QIHUI_REAL_DATA").expect("QIHUI_REAL_DATA names the folder");
    let file = PathBuf::from(folder).join("enterprises_zhejiang.csv");
    let lab = Lab::empty();
    let run = [
        "feed",
        "run",
        "registry_csv",
        "--from",
        file.to_str().unwrap(),
    ];
    let first = lab.json(&run).done();
    let (counts, remarks) = (first.json()["feeds"][0].clone(), first.stderr);
    eprintln!("first run: {counts}\n{remarks}");
    assert_eq!(counts["read"], ROWS);
    assert_eq!(counts["landed"], ROWS - WRONG);
    assert_eq!(counts["quarantined"], WRONG);
    let waiting = lab
        .json(&["feed", "quarantine", "registry_csv"])
        .done()
        .json();
    for record in waiting["records"].as_array().unwrap() {
        assert_eq!(record["problems"][0]["column"], "province", "{record}");
    }
    let again = lab.json(&run).done().json()["feeds"][0].clone();
    eprintln!("second run: {again}");
    assert_eq!(again["unchanged"], ROWS - WRONG);
    assert_eq!(again["quarantined"], WRONG);
    lab.run(&[
        "org",
        "add",
        "x",
        "--name",
        "x",
        "--kind",
        "service",
        "--purpose",
        "matching.supply_demand",
    ])
    .done();
    let ask = ["query", "--org", "x", "--purpose", "matching.supply_demand"];
    let sql =
        "SELECT count(*) AS n, count(DISTINCT uscc) AS enterprises FROM enterprise_registration";
    let answer = lab.json(&[&ask[..], &[sql]].concat()).done().json();
    assert_eq!(answer["rows"][0]["n"], ROWS - WRONG);
    assert_eq!(answer["rows"][0]["enterprises"], ROWS - WRONG);
    lab.run(&["audit", "verify"]).done();
}
