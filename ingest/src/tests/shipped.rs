//! The feeds that ship with the program.

use std::sync::Mutex;

use qihui_catalog::Catalog;

use super::*;

/// Keeps what it is asked for.
#[derive(Default)]
struct Asked(Mutex<Vec<NumberRequest>>);

impl EnterpriseNumbers for Asked {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        self.0.lock().unwrap().extend_from_slice(wanted);
        SerialNumbers.assign(wanted)
    }

    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        SerialNumbers.lookup(usccs)
    }

    fn uscc_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        SerialNumbers.uscc_of(numbers)
    }
}

fn shipped(name: &str) -> Fixture {
    let catalog = Catalog::builtin().unwrap();
    let feed = Arc::clone(&catalog.feeds[name]);
    let contract = Arc::clone(&catalog.contracts[&feed.dataset]);
    Fixture {
        feed,
        contract,
        ..Fixture::csv()
    }
}

#[test]
fn every_shipped_feed_fits_its_contract() {
    for name in Catalog::builtin().unwrap().feeds.keys() {
        shipped(name.as_str()).job();
    }
}

#[test]
fn enterprises_are_numbered_by_where_they_sit_and_what_they_do() {
    let fixture = shipped("registry_csv");
    let header = "uscc,ent_name,est_date,ent_type,reg_capital_wan,reg_capital_currency,business_scope,province,city,reg_division_code";
    let row = |serial, division: &str| {
        format!(
            "{},某公司,2001-02-03,,500,CNY,,浙江,杭州,{division}",
            uscc(serial)
        )
    };
    let rows = [row(1, "330108"), row(2, ""), row(1, "330108")];
    let path = fixture.write(
        "enterprises.csv",
        format!("{header}\n{}\n", rows.join("\n")),
    );
    let asked = Arc::new(Asked::default());
    let numbers: Arc<dyn EnterpriseNumbers> = Arc::<Asked>::clone(&asked);
    let place = Place {
        numbers,
        ..fixture.place()
    };
    let run = async {
        fixture
            .job()
            .run(&place, &path, &mut fixture.preview(), &mut Tally::default())
            .await
    };
    let report = runtime().block_on(run).unwrap();
    assert_eq!(report.counts.accounted(), 3);
    let asked: Vec<_> = asked
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|request| (request.county, request.section))
        .collect();
    assert_eq!(
        asked,
        [(Some(*b"330108"), None), (None, None)],
        "each enterprise once, without a seat none is made up"
    );
    let plan = crate::plan::Plan::new(&shipped("enterprise_registration").feed, &fixture.contract)
        .unwrap();
    let name = |column: &usize| plan.columns[*column].name.clone();
    assert_eq!(
        plan.counties.iter().map(name).collect::<Vec<_>>(),
        ["domdistrict", "regorg"]
    );
    assert_eq!(
        plan.industry.as_ref().map(name).as_deref(),
        Some("industryco")
    );
}
