//! Figures about groups, on the real ledger, log and warehouse: what is accepted, told, withheld and recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use qihui_audit::{AuditLog, Clock, LogKeys};
use qihui_catalog::{
    Action, Catalog, Coded, Contract, EnterpriseNumbers, NumberRequest, Timestamp, Uscc,
};
use qihui_consent::agreement::AgreementFile;
use qihui_consent::ledger::{EditionKey, Organisation, OrganisationKind};
use qihui_consent::{Drainer, Ledger};
use qihui_query::QueryError;
use qihui_query::access::{
    AccessRequest, Bounds, Gate, GateParts, Limits, Outlet, StatisticSummary, Summary, accesses_of,
    manifest_of,
};
use qihui_query::formats::Format;
use qihui_warehouse::{Incoming, Warehouse, incoming_schema};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::gate_3::LogSink;

/// A day in June 2026.
struct June;

impl Clock for June {
    fn now_ms(&self) -> i64 {
        "2026-06-15".parse::<Timestamp>().unwrap().0
    }
}

/// An enterprise: its county, its industry, and its sales of January 2026 in fen; none: it declared nothing.
#[derive(Debug, Clone)]
struct Enterprise {
    county: &'static str,
    industry: &'static str,
    sales: Option<i128>,
}

struct Hub {
    dir: PathBuf,
    gate: Gate,
    ledger: Ledger,
    log: Arc<AuditLog>,
    warehouse: Warehouse,
    catalog: Arc<Catalog>,
    codes: Vec<Uscc>,
    numbers: Vec<i32>,
}

const COUNTIES: [&str; 4] = ["330102", "330105", "330106", "330108"];
const INDUSTRIES: [&str; 3] = ["3911", "5211", "6513"];

fn agreement(org: &str, purposes: &str, terms: &str) -> String {
    format!(
        "{{id: {org}-vat, org: {org}, dataset: vat_declaration, purposes: [{purposes}], \
         basis: {{statute: {{law: 统计法 art. 9}}}}, aggregate_only: {terms}, valid_until: 2028-01-01, \
         columns: [{{name: xse}}, {{name: ynse}}]}}"
    )
}

const PURPOSES: &str = "statistics.regional, statistics.research";
const TERMS: &str = "{min_enterprises: 10, p_percent: 10}";

fn table(contract: &Contract, columns: &BTreeMap<&str, ArrayRef>, rows: usize) -> Incoming {
    let schema = incoming_schema(contract);
    let columns = schema.fields().iter().map(|field| {
        let given = columns.get(field.name().as_str()).cloned();
        given.unwrap_or_else(|| new_null_array(field.data_type(), rows))
    });
    let columns = columns.collect();
    Incoming::records(RecordBatch::try_new(schema, columns).unwrap())
}

impl Hub {
    async fn new(dir: &Path, enterprises: &[Enterprise]) -> Self {
        let catalog = Arc::new(Catalog::builtin().unwrap());
        let keys_dir = dir.join("keys");
        std::fs::create_dir(&keys_dir).unwrap();
        let keys = LogKeys::generate(&keys_dir).unwrap();
        AuditLog::create(&dir.join("audit"), &keys, "qihui/test").unwrap();
        let log = AuditLog::open(&dir.join("audit"), &keys, Arc::new(June)).unwrap();
        let log = Arc::new(log);
        let ledger = Ledger::open(&dir.join("ledger.db"), Arc::new(June)).await;
        let ledger = ledger.unwrap();
        ledger.record_artefacts(&catalog).await.unwrap();
        let codes: Vec<Uscc> = (1..=enterprises.len())
            .map(|n| Uscc::from_parts('9', '1', "330100", &format!("{n:08}")).unwrap())
            .collect();
        let wanted: Vec<NumberRequest> = codes
            .iter()
            .map(|uscc| NumberRequest {
                uscc: *uscc,
                county: None,
                section: None,
            })
            .collect();
        let numbers = ledger.assign(&wanted).unwrap();
        let numbers = numbers.iter().map(|no| i32::try_from(no.0).unwrap());
        let warehouse = Warehouse::open(&dir.join("warehouse")).unwrap();
        let hub = Self {
            dir: dir.to_owned(),
            gate: gate(dir, &catalog, &ledger, &log, &warehouse),
            ledger,
            log,
            warehouse,
            catalog,
            codes,
            numbers: numbers.collect(),
        };
        hub.agree("bureau", PURPOSES, TERMS).await;
        hub.register(enterprises, 1).await;
        hub.declare("2026-01", enterprises, 1).await;
        hub
    }

    async fn agree(&self, org: &str, purposes: &str, terms: &str) {
        let added = Organisation {
            id: org.parse().unwrap(),
            name: org.into(),
            kind: OrganisationKind::Department,
        };
        self.ledger.add_org(added).await.unwrap();
        let file = AgreementFile::parse(&agreement(org, purposes, terms)).unwrap();
        self.ledger
            .add_agreement(&self.catalog, file)
            .await
            .unwrap();
        self.drain().await;
    }

    /// The version of the table of declarations that figures were made of. The log alone has it.
    fn version_of(&self, summary: &Summary) -> i64 {
        let dataset = &summary.datasets["vat_declaration"];
        assert_eq!(dataset.table_version, None, "versions count landings");
        let entry = self.log.read(summary.decided).unwrap();
        let body: Value = serde_json::from_slice(&entry.body).unwrap();
        let tables = body["datasets"].as_array().unwrap().iter();
        let mut versions = tables
            .filter(|table| table["dataset"] == "vat_declaration")
            .map(|table| table["table_version"].as_i64().unwrap());
        versions.next().unwrap()
    }

    async fn drain(&self) {
        Drainer::new(
            self.ledger.clone(),
            Arc::new(LogSink(Arc::clone(&self.log))),
        )
        .drain()
        .await
        .unwrap();
    }

    async fn land(&self, dataset: &str, columns: BTreeMap<&str, ArrayRef>, rows: usize) {
        let contract = self.catalog.contract(&dataset.parse().unwrap()).unwrap();
        let target = self.warehouse.table(contract).await.unwrap();
        target
            .land_next(&format!("test/{dataset}"), table(contract, &columns, rows))
            .await
            .unwrap();
    }

    fn texts<'t>(&self, texts: impl Iterator<Item = Option<&'t str>>) -> ArrayRef {
        Arc::new(texts.collect::<StringArray>())
    }

    async fn register(&self, enterprises: &[Enterprise], edition: i64) {
        let codes = self.codes.iter().take(enterprises.len());
        let columns = BTreeMap::from([
            ("_no", self.numbers_of(0..enterprises.len())),
            ("uscc", self.texts(codes.map(|code| Some(code.as_str())))),
            (
                "entname",
                self.texts(enterprises.iter().map(|_| Some("企业"))),
            ),
            (
                "domdistrict",
                self.texts(enterprises.iter().map(|one| Some(one.county))),
            ),
            (
                "industryco",
                self.texts(enterprises.iter().map(|one| Some(one.industry))),
            ),
            ("data_time", instants(edition, enterprises.len())),
        ]);
        self.land("enterprise_registration", columns, enterprises.len())
            .await;
    }

    fn numbers_of(&self, places: impl Iterator<Item = usize>) -> ArrayRef {
        let numbers = places.map(|at| self.numbers[at]);
        Arc::new(numbers.collect::<Int32Array>())
    }

    /// The declarations of a month; an earlier one of the same enterprise and month is replaced.
    async fn declare(&self, month: &str, enterprises: &[Enterprise], edition: i64) {
        let who: Vec<usize> = (0..enterprises.len())
            .filter(|at| enterprises[*at].sales.is_some())
            .collect();
        let names: Vec<String> = who.iter().map(|at| format!("{month}-{at}")).collect();
        let first: chrono::NaiveDate = format!("{month}-01").parse().unwrap();
        let day = arrow::datatypes::Date32Type::from_naive_date(first);
        let amounts = |times: i128| -> ArrayRef {
            let amounts = who.iter().map(|at| enterprises[*at].sales.unwrap() * times);
            let amounts = Decimal128Array::from_iter_values(amounts);
            Arc::new(amounts.with_precision_and_scale(20, 2).unwrap())
        };
        let code = |at: &usize| Some(self.codes[*at].as_str());
        let columns = BTreeMap::from([
            ("_no", self.numbers_of(who.iter().copied())),
            ("uscc", self.texts(who.iter().map(code))),
            ("nsrsbh", self.texts(who.iter().map(code))),
            (
                "pzxh",
                self.texts(names.iter().map(|name| Some(name.as_str()))),
            ),
            (
                "skssqq",
                Arc::new(Date32Array::from(vec![day; who.len()])) as ArrayRef,
            ),
            (
                "skssqz",
                Arc::new(Date32Array::from(vec![day + 27; who.len()])) as ArrayRef,
            ),
            ("xse", amounts(1)),
            ("ynse", amounts(13)),
            ("data_time", instants(edition, who.len())),
        ]);
        self.land("vat_declaration", columns, who.len()).await;
    }

    async fn ask(&self, sql: &str) -> Result<(Vec<Value>, Summary), QueryError> {
        self.ask_for("bureau", "statistics.regional", sql).await
    }

    async fn ask_for(
        &self,
        org: &str,
        purpose: &str,
        sql: &str,
    ) -> Result<(Vec<Value>, Summary), QueryError> {
        let mut out = Vec::new();
        let summary = self
            .gate
            .query(&request(org, purpose, sql), &mut out)
            .await?;
        let lines = String::from_utf8(out).unwrap();
        let rows = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        Ok((rows.collect(), summary))
    }

    async fn refused(&self, sql: &str) -> QueryError {
        match self.ask(sql).await {
            Err(error) => error,
            Ok((rows, _)) => panic!("{sql} was answered: {rows:?}"),
        }
    }
}

/// An instant that orders versions.
fn instants(edition: i64, rows: usize) -> ArrayRef {
    let instants = TimestampMicrosecondArray::from(vec![edition; rows]);
    Arc::new(instants.with_timezone("UTC"))
}

fn gate(
    dir: &Path,
    catalog: &Arc<Catalog>,
    ledger: &Ledger,
    log: &Arc<AuditLog>,
    warehouse: &Warehouse,
) -> Gate {
    Gate::new(GateParts {
        catalog: Arc::clone(catalog),
        ledger: ledger.clone(),
        log: Arc::clone(log),
        warehouse: warehouse.clone(),
        bounds: Arc::new(Bounds::new(Limits::default(), dir.join("spill"))),
        unfinished: Arc::default(),
        clock: Arc::new(June),
    })
    .unwrap()
}

fn request(org: &str, purpose: &str, sql: &str) -> AccessRequest {
    AccessRequest {
        principal: "local:test".into(),
        org: org.parse().unwrap(),
        purpose: purpose.parse().unwrap(),
        action: Action::Query,
        subjects: Vec::new(),
        sql: sql.into(),
        format: Format::Ndjson,
        strict: false,
    }
}

fn statistic(summary: &Summary) -> &StatisticSummary {
    summary.datasets["vat_declaration"]
        .statistic
        .as_ref()
        .unwrap()
}

/// Released, too few, dominated, differencing.
fn counts(summary: &Summary) -> [u64; 4] {
    let groups = statistic(summary).outcome.groups;
    [
        groups.released,
        groups.too_few,
        groups.dominated,
        groups.differencing,
    ]
}

/// The statement with these keys and conditions over January.
fn sql(keys: &str, figures: &str, conditions: &str) -> String {
    sql_of("2026-01-01", "2026-02-01", keys, figures, conditions)
}

fn sql_of(from: &str, end: &str, keys: &str, figures: &str, conditions: &str) -> String {
    let (select, by) = match keys {
        "" => (String::new(), String::new()),
        keys => (
            format!("{keys}, "),
            format!(" GROUP BY {keys} ORDER BY {keys}"),
        ),
    };
    let conditions = match conditions {
        "" => String::new(),
        conditions => format!(" AND {conditions}"),
    };
    format!(
        "SELECT {select}{figures} FROM vat_declaration v JOIN enterprise_registration r ON v.uscc = r.uscc \
         WHERE v.skssqq >= DATE '{from}' AND v.skssqq < DATE '{end}'{conditions}{by}"
    )
}

const FIGURES: &str =
    "count(DISTINCT v.uscc) AS n, count(*) AS rows, sum(v.xse) AS s, avg(v.xse) AS a";

/// 20, 25, 30 and 5 enterprises in four counties, every fourth of which declared nothing; nobody dominates.
fn plain() -> Vec<Enterprise> {
    let sizes = [20, 25, 30, 5];
    let mut enterprises = Vec::new();
    for (county, size) in COUNTIES.into_iter().zip(sizes) {
        for n in 0..size {
            enterprises.push(Enterprise {
                county,
                industry: INDUSTRIES[n % 3],
                sales: (n % 4 != 3).then(|| 10_000 + 7 * i128::try_from(n).unwrap()),
            });
        }
    }
    enterprises
}

fn decimal(fen: i128, digits: u32) -> String {
    let whole = 10_i128.pow(digits);
    format!(
        "{}.{:0width$}",
        fen / whole,
        fen % whole,
        width = digits as usize
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_3_what_is_told_is_what_the_tables_hold() {
    let dir = tempfile::tempdir().unwrap();
    let enterprises = plain();
    let hub = Hub::new(dir.path(), &enterprises).await;
    let (rows, summary) = hub.ask(&sql("r.domdistrict", FIGURES, "")).await.unwrap();
    // The fourth county has four declarations: it is not told, and nothing says which it is.
    assert_eq!(counts(&summary), [3, 1, 0, 0]);
    assert_eq!(rows.len(), 3);
    for row in &rows {
        let county = row["domdistrict"].as_str().unwrap();
        let sales: Vec<i128> = enterprises
            .iter()
            .filter(|one| one.county == county)
            .filter_map(|one| one.sales)
            .collect();
        let (sum, count) = (sales.iter().sum::<i128>(), sales.len());
        assert_eq!((&row["n"], &row["rows"]), (&count.into(), &count.into()));
        assert_eq!(
            row["s"]
                .to_string()
                .trim_matches('"')
                .parse::<f64>()
                .unwrap(),
            decimal(sum, 2).parse::<f64>().unwrap()
        );
        let mean = sum * 10_000 / i128::try_from(count).unwrap();
        assert_eq!(
            row["a"]
                .to_string()
                .trim_matches('"')
                .parse::<f64>()
                .unwrap(),
            decimal(mean, 6).parse::<f64>().unwrap()
        );
    }
    // What was read of everybody is not told: neither rows nor enterprises.
    let of = &summary.datasets["vat_declaration"];
    assert_eq!(
        (of.rows, of.enterprises, of.withheld.values().sum::<u64>()),
        (0, None, 0)
    );
    let manifest = manifest_of(&hub.log, &summary.access_id, 100)
        .unwrap()
        .unwrap();
    let read = manifest.datasets.as_array().unwrap().iter();
    let of = read
        .clone()
        .find(|one| one["dataset"] == "vat_declaration")
        .unwrap();
    assert!(
        of.get("rows").is_none() && of.get("enterprises").is_none(),
        "{of}"
    );
    assert_eq!(of["statistic"]["too_few"], 1);
    assert_eq!(
        manifest.decisions[1]["basis"],
        serde_json::json!(["bureau-vat"])
    );
    // Above the groups only what was told is there: a total of the answer is not one of everybody.
    let above = format!(
        "SELECT sum(n) AS n, count(*) AS groups FROM ({})",
        sql("r.domdistrict", FIGURES, "")
    );
    let (rows, _) = hub.ask(&above).await.unwrap();
    assert_eq!((&rows[0]["n"], &rows[0]["groups"]), (&57.into(), &3.into()));
    let having = sql("r.domdistrict", FIGURES, "")
        .replace(" ORDER BY", " HAVING sum(v.xse) > 1700 ORDER BY");
    assert_eq!(hub.ask(&having).await.unwrap().0.len(), 2);
    let limited = sql("r.domdistrict", FIGURES, "") + " DESC LIMIT 1";
    let (rows, _) = hub.ask(&limited).await.unwrap();
    assert_eq!((rows.len(), &rows[0]["domdistrict"]), (1, &"330106".into()));
    // A group of nobody, and one of too few, are the same.
    for conditions in ["r.domdistrict = '330108'", "r.domdistrict = 'nowhere'"] {
        let (rows, summary) = hub.ask(&sql("", FIGURES, conditions)).await.unwrap();
        assert_eq!(
            (rows.len(), counts(&summary)),
            (0, [0, 1, 0, 0]),
            "{conditions}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_4_nothing_but_figures_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path(), &plain()).await;
    let over = |select: &str, rest: &str| {
        format!(
            "SELECT {select} FROM vat_declaration v JOIN enterprise_registration r ON v.uscc = r.uscc \
             WHERE v.skssqq >= DATE '2026-01-01' AND v.skssqq < DATE '2026-02-01'{rest}"
        )
    };
    let group = " GROUP BY r.domdistrict";
    let statements = [
        "SELECT * FROM vat_declaration".to_owned(),
        "SELECT sum(xse) FROM vat_declaration".to_owned(),
        over("v.xse", ""),
        over("count(*), v.uscc", " GROUP BY v.uscc"),
        over("count(*), v.skssqq", " GROUP BY v.skssqq"),
        over("count(*)", " AND v.xse > 100"),
        over("count(*)", " AND v.uscc = '91330100000000010U'"),
        over("count(*)", " AND v.xse / 0 > 1"),
        over("count(*)", " AND cast(v.uscc AS bigint) > 0"),
        over("count(*)", " AND r.uscc IN (SELECT uscc FROM vat_declaration)"),
        over("max(v.xse)", group),
        over("min(v.xse)", group),
        over("sum(v.xse * v.xse)", group),
        over("sum(CASE WHEN r.uscc = 'x' THEN v.xse END)", group),
        over("sum(v.xse) FILTER (WHERE r.regstate = 'K')", group),
        over("sum(DISTINCT v.xse)", group),
        over("stddev(v.xse)", group),
        over("count(DISTINCT v.xse)", group),
        over("count(v.skssqq)", group),
        over("array_agg(v.xse)", group),
        over("sum(v.xse)", " GROUP BY ROLLUP (r.domdistrict)"),
        over("sum(v.xse)", " GROUP BY r.domdistrict, v.xse"),
        format!("{} UNION ALL {}", over("sum(v.xse)", group), over("sum(v.ynse)", group)),
        format!(
            "SELECT * FROM enterprise_registration e JOIN ({}) f ON true",
            over("sum(v.xse)", group)
        ),
        "SELECT count(*) FROM vat_declaration v JOIN vat_declaration r ON v.uscc = r.uscc".to_owned(),
        "SELECT count(*) FROM vat_declaration v, annual_report r WHERE v.uscc = r.uscc".to_owned(),
        "SELECT count(*) FROM vat_declaration v LEFT JOIN enterprise_registration r ON v.uscc = r.uscc".to_owned(),
        "SELECT count(*) FROM vat_declaration v JOIN enterprise_registration r ON v.uscc <> r.uscc".to_owned(),
        "SELECT count(*) FROM vat_declaration v CROSS JOIN enterprise_registration r".to_owned(),
        "SELECT count(*) FROM vat_declaration v JOIN enterprise_registration r ON v.pzxh = r.uscc".to_owned(),
    ];
    for statement in &statements {
        let error = hub.refused(statement).await;
        let fits = ["StatisticNotAllowed", "ColumnNotInAgreement"].contains(&error.code());
        assert!(fits, "{statement}: {} {error}", error.code());
    }
    // The columns that nobody agreed on, and those of the register that are not public.
    for statement in [
        over("sum(v.ysxse)", group),
        over("count(*)", " GROUP BY r.pripid"),
    ] {
        assert_eq!(hub.refused(&statement).await.code(), "ColumnNotInAgreement");
    }
    let whole = sql("", "count(*)", "");
    let periods = [
        (
            "v.skssqq < DATE '2026-02-01'",
            "v.skssqq < DATE '2026-01-31'",
        ),
        (" AND v.skssqq < DATE '2026-02-01'", ""),
        ("DATE '2026-01-01'", "DATE '2025-01-01'"),
        ("DATE '2026-01-01'", "DATE '2026-01-02'"),
        (
            "v.skssqq >= DATE '2026-01-01'",
            "date_part('month', v.skssqq) = 1",
        ),
        (
            "DATE '2026-01-01' AND v.skssqq < DATE '2026-02-01'",
            "DATE '2026-06-01' AND v.skssqq < DATE '2026-07-01'",
        ),
    ];
    for (from, to) in periods {
        assert!(whole.contains(from));
        let error = hub.refused(&whole.replace(from, to)).await;
        assert_eq!(error.code(), "StatisticPeriodRefused", "{to}: {error}");
    }
    // Other ways to write what is accepted.
    let between = whole.replace(
        "v.skssqq >= DATE '2026-01-01' AND v.skssqq < DATE '2026-02-01'",
        "v.skssqq BETWEEN '2026-01-01' AND '2026-01-31'",
    );
    let using = whole.replace("ON v.uscc = r.uscc", "USING (uscc)");
    for statement in [&whole, &between, &using] {
        let (rows, _) = hub.ask(statement).await.unwrap();
        assert_eq!(rows[0]["count(*)"], 61, "{statement}");
    }
    // Named subjects, other actions, and other purposes have nothing of it.
    let mut named = request("bureau", "statistics.regional", &whole);
    named.subjects = vec![hub.codes[0]];
    let error = hub.gate.query(&named, &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.code(), "StatisticNotAllowed");
    let stored = AccessRequest {
        action: Action::Store,
        ..request("bureau", "statistics.regional", &whole)
    };
    let error = hub.gate.query(&stored, &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.code(), "DatasetNotInAgreement");
    // EXPLAIN tells the terms and asks nothing.
    let mut out = Vec::new();
    let explain = format!("EXPLAIN {}", sql("r.industryco", FIGURES, ""));
    let request = request("bureau", "statistics.regional", &explain);
    hub.gate.query(&request, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("at least 10 enterprises"), "{text}");
    let hidden = ["StatisticsExec", "GateExec", "file"];
    assert!(!hidden.iter().any(|word| text.contains(word)), "{text}");
}

/// Differences with what was told before are withheld: across purposes of one organisation, and after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_5_what_was_told_binds_what_is_told_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(dir.path(), &plain()).await;
    let one = hub.codes[0].to_string();
    let all = sql("", FIGURES, "r.domdistrict = '330102'");
    let but_one = sql(
        "",
        FIGURES,
        &format!("r.domdistrict = '330102' AND r.uscc <> '{one}'"),
    );
    assert_eq!(hub.ask(&all).await.unwrap().0.len(), 1);
    let (rows, summary) = hub.ask(&but_one).await.unwrap();
    assert_eq!((rows.len(), counts(&summary)), (0, [0, 0, 0, 1]));
    let (rows, _) = hub
        .ask_for("bureau", "statistics.research", &but_one)
        .await
        .unwrap();
    assert!(rows.is_empty());
    // Whether one has rows at all makes no difference: it is public who would be told by difference.
    let silent = hub.codes[3].to_string();
    let but_silent = but_one.replace(&one, &silent);
    assert_eq!(counts(&hub.ask(&but_silent).await.unwrap().1), [0, 0, 0, 1]);
    // The hub is opened again.
    hub.ledger.close().await;
    hub.ledger = Ledger::open(&hub.dir.join("ledger.db"), Arc::new(June))
        .await
        .unwrap();
    hub.gate = gate(
        &hub.dir,
        &hub.catalog,
        &hub.ledger,
        &hub.log,
        &hub.warehouse,
    );
    assert_eq!(counts(&hub.ask(&but_one).await.unwrap().1), [0, 0, 0, 1]);
    assert_eq!(
        hub.ask(&all).await.unwrap().0.len(),
        1,
        "what was told is told again"
    );
    // Another organisation was told nothing yet.
    hub.agree("institute", PURPOSES, TERMS).await;
    let (rows, _) = hub
        .ask_for("institute", "statistics.research", &but_one)
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    hub.ledger.check().await.unwrap();
}

/// What changes after the first question changes nothing that is told of its period, or the change itself would be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_6_a_period_is_always_of_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut enterprises = plain();
    let hub = Hub::new(dir.path(), &enterprises).await;
    let all = sql("r.domdistrict", FIGURES, "");
    let (before, summary) = hub.ask(&all).await.unwrap();
    let version = hub.version_of(&summary);
    // A correction of one, and an enterprise that moves.
    enterprises[0].sales = Some(777_777);
    enterprises[1].county = COUNTIES[2];
    hub.declare("2026-01", &enterprises, 2).await;
    hub.register(&enterprises, 2).await;
    let (after, summary) = hub.ask(&all).await.unwrap();
    assert_eq!(before, after);
    assert_eq!(hub.version_of(&summary), version);
    assert_eq!(
        statistic(&summary).outcome.recorded,
        None,
        "it is recorded already"
    );
    // So does another question about the same period; the next period is of the tables as they are now.
    let (rows, _) = hub.ask(&sql("", FIGURES, "")).await.unwrap();
    assert!(
        rows.is_empty(),
        "the four of the small county would be told"
    );
    hub.declare("2026-02", &enterprises, 1).await;
    let february = sql_of(
        "2026-02-01",
        "2026-03-01",
        "r.domdistrict",
        FIGURES,
        "r.domdistrict = '330106'",
    );
    let (rows, summary) = hub.ask(&february).await.unwrap();
    assert_eq!(rows[0]["n"], 24, "with the one that moved");
    assert!(hub.version_of(&summary) > version);
    // A quarter would tell of March by its difference with the months.
    hub.agree(
        "yearly",
        "statistics.regional",
        "{min_enterprises: 10, p_percent: 10, period: quarter}",
    )
    .await;
    let quarter = sql_of("2026-01-01", "2026-04-01", "", "count(*) AS n", "");
    let (rows, _) = hub
        .ask_for("yearly", "statistics.regional", &quarter)
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    let key = EditionKey {
        org: "bureau".parse().unwrap(),
        dataset: "vat_declaration".parse().unwrap(),
        first_day: "2026-01-01".parse().unwrap(),
        end_day: "2026-04-01".parse().unwrap(),
    };
    assert_eq!(
        hub.ledger
            .open_edition(&key, &BTreeMap::new())
            .await
            .unwrap(),
        None
    );
}

/// Of two questions whose difference is one enterprise, asked at the same time, one is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stat_7_questions_at_the_same_time_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path(), &plain()).await;
    for round in 0..6_usize {
        let county = COUNTIES[round % 3];
        let month = format!("2026-0{}", 1 + round / 3);
        if round == 3 {
            hub.declare("2026-02", &plain(), 1).await;
        }
        let end = format!("2026-0{}-01", 2 + round / 3);
        let one = hub.codes[[0, 20, 45][round % 3]].to_string();
        let from = format!("{month}-01");
        let all = sql_of(
            &from,
            &end,
            "",
            FIGURES,
            &format!("r.domdistrict = '{county}'"),
        );
        let but_one = sql_of(
            &from,
            &end,
            "",
            FIGURES,
            &format!("r.domdistrict = '{county}' AND r.uscc <> '{one}'"),
        );
        let (a, b) = tokio::join!(hub.ask(&all), hub.ask(&but_one));
        let told = a.unwrap().0.len() + b.unwrap().0.len();
        assert_eq!(told, 1, "round {round}");
    }
}

/// Looks, when the first bytes arrive, whether the record is there.
struct Watching {
    ledger: Ledger,
    recorded: Option<bool>,
}

#[async_trait::async_trait]
impl Outlet for Watching {
    fn release(&mut self, _: &[u8]) -> std::io::Result<()> {
        let ledger = self.ledger.clone();
        let events = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(ledger.events(0, 1000))
        });
        let events = events.unwrap();
        let there = events
            .iter()
            .any(|event| event.kind == "statistic.released");
        self.recorded.get_or_insert(there);
        Ok(())
    }

    async fn finish(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_8_the_record_is_durable_before_the_first_byte() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path(), &plain()).await;
    let mut out = Watching {
        ledger: hub.ledger.clone(),
        recorded: None,
    };
    let all = sql("r.domdistrict", FIGURES, "");
    let request = request("bureau", "statistics.regional", &all);
    let summary = hub.gate.query(&request, &mut out).await.unwrap();
    assert_eq!(out.recorded, Some(true));
    // The log names the record: by the access, and by the event of the ledger.
    let hash = statistic(&summary).outcome.recorded.clone().unwrap();
    hub.drain().await;
    let bodies: Vec<(String, String)> = hub
        .log
        .scan(0..hub.log.size())
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.leaf.kind, String::from_utf8(entry.body).unwrap()))
        .collect();
    for kind in ["statistic.released", "access.finished"] {
        let named = bodies
            .iter()
            .any(|(of, body)| of == kind && body.contains(&hash));
        assert!(named, "{kind}");
    }
    // Every enterprise whose rows were read finds it in its list, as what it was; the others do not.
    let enterprises = plain();
    for at in [0, 3, 79] {
        let no = hub.ledger.lookup(&[hub.codes[at]]).unwrap()[0].unwrap();
        let accesses = accesses_of(&hub.log, no).unwrap();
        assert_eq!(accesses.len(), 1, "everybody is in the public register");
        assert!(accesses[0].statistic);
        let rows = 1 + u64::from(enterprises[at].sales.is_some());
        assert_eq!(accesses[0].rows, Some(rows));
    }
}

/// As long as somebody else is between the look at the records and the next of them, nothing is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_8_nothing_leaves_before_its_turn() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path(), &plain()).await;
    let turn = hub.ledger.statistics_turn().await;
    let asked = request(
        "bureau",
        "statistics.regional",
        &sql("r.domdistrict", FIGURES, ""),
    );
    let mut out = Vec::new();
    {
        let answer = hub.gate.query(&asked, &mut out);
        tokio::pin!(answer);
        let patience = std::time::Duration::from_millis(500);
        assert!(tokio::time::timeout(patience, &mut answer).await.is_err());
        drop(turn);
        answer.await.unwrap();
    }
    assert!(!out.is_empty());
}

/// What withheld groups hold is seen in nothing: neither rows, counts, sizes nor errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_9_withheld_groups_are_not_seen() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let questions = [
        sql("r.domdistrict", FIGURES, ""),
        sql("r.domdistrict, r.industryco", "sum(v.ynse) AS s", ""),
        sql("r.industryco", FIGURES, "r.domdistrict <> '330105'"),
        sql("", "count(*) AS n", ""),
    ];
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let mut enterprises = plain();
        for one in &mut enterprises {
            if one.county == "330108" {
                // The same four declare, whatever they declare.
                one.sales = one
                    .sales
                    .map(|_| rng.random_range(-10_i128.pow(17)..10_i128.pow(17)));
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::new(dir.path(), &enterprises).await;
        let mut all = String::new();
        for question in &questions {
            // Whatever was told of others is not changed by what they declare, unless it is told with them.
            let alone = question.replace(" WHERE ", " WHERE r.domdistrict <> 'x' AND ");
            match hub.ask(&alone).await {
                Ok((rows, summary)) => {
                    let told: Vec<&Value> = rows
                        .iter()
                        .filter(|row| row.get("domdistrict").is_some())
                        .collect();
                    all += &format!("{told:?}");
                    if question.contains("GROUP BY r.domdistrict") {
                        all += &format!("{:?} {}", counts(&summary), summary.bytes);
                    }
                }
                Err(error) => all += &error.to_string(),
            }
        }
        seen.insert(all);
    }
    assert_eq!(seen.len(), 1, "{seen:#?}");
}

/// A period answers so many different questions, and after that only the same again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_10_questions_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path(), &plain()).await;
    let key = EditionKey {
        org: "bureau".parse().unwrap(),
        dataset: "vat_declaration".parse().unwrap(),
        first_day: "2026-01-01".parse().unwrap(),
        end_day: "2026-02-01".parse().unwrap(),
    };
    let first = sql("r.domdistrict", FIGURES, "");
    hub.ask(&first).await.unwrap();
    let edition = hub.ledger.edition(&key).await.unwrap().unwrap();
    for n in 1..qihui_query::access::MAX_QUESTIONS {
        let statistic = qihui_consent::ledger::Statistic {
            question: [u8::try_from(n).unwrap(); 32],
            measures: vec!["rows".to_owned()],
            groups: Vec::new(),
        };
        hub.ledger
            .record_statistic(&edition, "x", &statistic)
            .await
            .unwrap();
    }
    let error = hub.refused(&sql("r.industryco", FIGURES, "")).await;
    assert_eq!(error.code(), "StatisticBudgetSpent", "{error}");
    assert_eq!(hub.ask(&first).await.unwrap().0.len(), 3);
    let recorded = hub.ledger.statistics(&edition).await.unwrap();
    assert_eq!(recorded.len(), qihui_query::access::MAX_QUESTIONS);
    assert_eq!(
        recorded[0]
            .groups
            .iter()
            .map(roaring::RoaringBitmap::len)
            .sum::<u64>(),
        75
    );
}

/// Somebody asks by lists of enterprises, again and again with a few more or less, and puts everything together that was
/// told: in every set of enterprises that are in the same told groups there are ten with rows, or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_1_lists_of_enterprises_tell_of_ten_or_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let enterprises = plain();
    let hub = Hub::new(dir.path(), &enterprises).await;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut told: Vec<BTreeSet<usize>> = Vec::new();
    let mut withheld = 0;
    for _ in 0..40 {
        // Some of four quarters of everybody, and often a few more or less.
        let quarters: Vec<bool> = (0..4).map(|_| rng.random_bool(0.6)).collect();
        let mut list: BTreeSet<usize> = (0..enterprises.len())
            .filter(|at| quarters[at / 20])
            .collect();
        for _ in 0..[0, 0, 1, 3][rng.random_range(0..4)] {
            let one = rng.random_range(0..enterprises.len());
            if !list.remove(&one) {
                list.insert(one);
            }
        }
        if list.is_empty() {
            continue;
        }
        let codes: Vec<String> = list
            .iter()
            .map(|at| format!("'{}'", hub.codes[*at]))
            .collect();
        let by = ["r.industryco", ""][rng.random_range(0..2)];
        let figure = ["sum(v.xse)", "sum(v.ynse)"][rng.random_range(0..2)];
        let figures = format!("count(DISTINCT v.uscc) AS n, {figure} AS s");
        let question = sql(by, &figures, &format!("r.uscc IN ({})", codes.join(", ")));
        let (rows, summary) = hub.ask(&question).await.unwrap();
        withheld += counts(&summary)[1..].iter().sum::<u64>();
        for row in rows {
            let industry = row.get("industryco").and_then(Value::as_str);
            let group: BTreeSet<usize> = list
                .iter()
                .copied()
                .filter(|at| industry.is_none_or(|of| enterprises[*at].industry == of))
                .collect();
            let declared = group.iter().filter(|at| enterprises[**at].sales.is_some());
            assert_eq!(row["n"], declared.count());
            told.push(group);
        }
    }
    assert!(
        told.len() > 3 && withheld > 10,
        "{} told, {withheld} withheld",
        told.len()
    );
    let mut alike: BTreeMap<Vec<bool>, usize> = BTreeMap::new();
    for (at, one) in enterprises.iter().enumerate() {
        let of: Vec<bool> = told.iter().map(|group| group.contains(&at)).collect();
        *alike.entry(of).or_default() += usize::from(one.sales.is_some());
    }
    assert!(alike.len() > 2, "the groups were all the same");
    for (of, count) in alike {
        assert!(
            !of.contains(&true) || count >= 10,
            "{count} enterprises in {of:?}"
        );
    }
}
