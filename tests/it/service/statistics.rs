//! Figures about enterprises that were not asked, on the command line and over HTTP.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::shared::Service;
use crate::figures::lab;
use crate::support::{Lab, query};

const FIGURES: &str = "SELECT r.city, count(DISTINCT v.uscc) AS n, count(*) AS filed, sum(v.xse) AS sales \
     FROM vat_declaration v JOIN enterprise_registration r ON v.uscc = r.uscc \
     WHERE v.skssqq >= DATE '2026-04-01' AND v.skssqq < DATE '2026-05-01' GROUP BY r.city ORDER BY r.city";

fn by_city(rows: &[Value]) -> BTreeMap<String, &Value> {
    let city = |row: &Value| row["city"].as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (city(row), row)).collect()
}

#[test]
fn figures_are_told_alike_on_the_command_line_and_over_http() {
    let lab = lab();
    let ask = |sql: &str| lab.json(&query("stat_bureau", "statistics.regional", &[sql]));
    let truth = lab.tax(FIGURES).done().json();
    let truth = truth["rows"].as_array().unwrap();
    let truth = by_city(truth);
    let answer = ask(FIGURES).done().json();
    let told = answer["rows"].as_array().unwrap();
    assert!(!told.is_empty() && told.len() < truth.len(), "{told:?}");
    for (city, row) in by_city(told) {
        assert_eq!(row, truth[&city], "{city}");
        assert!(row["n"].as_u64() >= Some(10));
    }
    let read = &answer["access"]["datasets"]["vat_declaration"];
    let groups = &read["statistic"];
    assert_eq!(
        (&read["rows"], &groups["released"]),
        (&json!(0), &json!(told.len()))
    );
    let small = truth
        .values()
        .filter(|row| row["n"].as_u64() < Some(10))
        .count();
    assert!(groups["too_few"].as_u64() >= Some(small as u64));
    let said = lab
        .run(&query("stat_bureau", "statistics.regional", &[FIGURES]))
        .done();
    assert!(
        said.stderr.contains("groups told") && said.stderr.contains("withheld"),
        "{}",
        said.stderr
    );

    // Rows, groups of one, and conditions over what is not public are refused.
    let rows = "SELECT * FROM vat_declaration";
    ask(rows).fails(
        1,
        "StatisticNotAllowed",
        &["joined on `uscc`", "docs/statistics.md"],
    );
    let filtered = FIGURES.replace(" GROUP BY", " AND v.xse > 1000000 GROUP BY");
    ask(&filtered).fails(1, "StatisticNotAllowed", &["xse"]);
    let early = FIGURES.replace("2026-05-01", "2026-04-30");
    ask(&early).fails(1, "StatisticPeriodRefused", &["month"]);

    // Over HTTP it is the same answer.
    let token = lab.token(&[
        "--role",
        "analyst",
        "--subject",
        "li",
        "--org",
        "stat_bureau",
        "--purpose",
        "statistics.regional",
    ]);
    let service = Service::start(&lab);
    let asked = |sql: &str| {
        let body = json!({ "purpose": "statistics.regional", "sql": sql }).to_string();
        service.post("/v1/queries", body).with_bearer(&token).send()
    };
    assert_eq!(&asked(FIGURES).is(200).rows(), told);
    asked(rows).fails(422, "StatisticNotAllowed");
    // All but one enterprise of a city that was told: the difference would be that one.
    let city = told[0]["city"].as_str().unwrap();
    let one = lab.tax_over(
        &service,
        &format!(
            "SELECT uscc FROM enterprise_registration WHERE city = '{city}' ORDER BY uscc LIMIT 1"
        ),
    );
    let one = one[0]["uscc"].as_str().unwrap().to_owned();
    let but_one = FIGURES.replace(
        " GROUP BY",
        &format!(" AND r.city = '{city}' AND r.uscc <> '{one}' GROUP BY"),
    );
    assert!(asked(&but_one).is(200).rows().is_empty());
    service.stop();

    // Every enterprise of which rows were read finds it in its list, as what it was.
    let declared = lab
        .tax("SELECT uscc FROM vat_declaration ORDER BY uscc LIMIT 1")
        .done()
        .json();
    let declared = declared["rows"][0]["uscc"].as_str().unwrap().to_owned();
    let accesses = lab.json(&["audit", "accesses", &declared]).done().json();
    let of_bureau: Vec<&Value> = accesses["accesses"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|access| access["org"] == "stat_bureau")
        .collect();
    assert!(!of_bureau.is_empty());
    assert!(of_bureau.iter().all(|access| access["statistic"] == true));
    lab.json(&["audit", "verify"]).done();
}

impl Lab {
    /// What the tax bureau is answered by a running service.
    fn tax_over(&self, service: &Service, sql: &str) -> Vec<Value> {
        let inspector = self.inspector();
        let body = super::shared::ask_tax(sql);
        let reply = service
            .post("/v1/queries", body)
            .with_bearer(&inspector)
            .send();
        reply.is(200).rows()
    }
}
