//! GATE-2 for whole hubs: two of them that show an organisation the same cannot be told apart by whatever that organisation
//! is given: the bytes of answers, their heads and trailers, what is said of errors, manifests, lists, figures.
//!
//! Both are copies of one world, so keys, organisations and what the bank agreed on are the same. What is done to them
//! afterwards differs wherever the bank must not see it; see [`Which`].
//!
//! What may differ is named in [`MAY_DIFFER`], [`HEADERS_THAT_MAY_DIFFER`] and [`FIGURES`], each with its reason. Checkpoint and
//! tiles of the log are not compared: they are public, and of everybody. The counties of the two visible enterprises have their
//! numbers in the same order in both hubs; where they have not, answers without ORDER BY come in another order, as
//! `docs/leaks.md` says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::LazyLock;

use qihui_catalog::Uscc;
use serde_json::{Value, json};

use crate::drawn::steadied;
use crate::service::shared::{Reply, Service, forwarded};
use crate::support::{Answer, Lab, query};

/// Nothing else in the shared world is about this purpose.
const PURPOSE: &str = "matching.investment";
/// Rows that a query may have pass the gate. More than the bank sees in any table; in one of the hubs, less than there are.
const ROWS: u64 = 200;
/// The visible declarations: nine of the [`grantor`], six of the [`reserved`].
const VISIBLE: u64 = 15;
const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// When consents end, in both hubs.
static EXPIRES: LazyLock<chrono::NaiveDate> =
    LazyLock::new(|| chrono::Utc::now().date_naive() + chrono::TimeDelta::days(60));

/// The two hubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Fewer hidden rows: some of the world's are voided.
    Sparse,
    /// More of everything that is hidden: enterprises that the other hub never heard of, one of them known before a visible
    /// one of its county; rows in between the visible ones, in the same months and of every kind that statements fall
    /// over; rows of a visible enterprise that its grant does not reach; another value in each withheld cell, in each
    /// column that no agreement opens, and in each bucket; another organisation with agreement and grants.
    Crowded,
}

/// An enterprise that grants every column of the agreement.
fn grantor() -> String {
    code("330106", "QH0000X5")
}

/// An enterprise that grants every column but `ynse`.
fn reserved() -> String {
    code("330783", "QH0000Y5")
}

/// Enterprises that one hub alone knows. The first sits in the county of the [`grantor`].
fn newcomers() -> [String; 3] {
    [
        ("330106", "QH0000N1"),
        ("330400", "QH0000N2"),
        ("330783", "QH0000N3"),
    ]
    .map(|(division, serial)| code(division, serial))
}

fn code(division: &str, serial: &str) -> String {
    Uscc::from_parts('9', '1', division, serial)
        .unwrap()
        .to_string()
}

/// A declaration as its department sends it.
#[derive(Debug, Clone)]
struct Declared {
    uscc: String,
    key: String,
    /// The first day of its period.
    from: String,
    sales: u64,
    due: u64,
    /// Input tax: a column that no agreement opens.
    input: u64,
    /// Which version of the record it is.
    version: u32,
    voided: bool,
}

impl Declared {
    fn line(&self) -> String {
        let Self {
            uscc,
            key,
            from,
            sales,
            due,
            input,
            version,
            voided,
        } = self;
        let flag = if *voided { "Y" } else { "N" };
        let at = format!("20261001{:02}0000", version);
        format!(
            "{uscc},{key},{uscc},一般申报,02,{from},{from},{from},{sales},{sales},0,0,{input},{due},{due},13307230000,某某,{at},{flag}\n"
        )
    }
}

impl Which {
    fn crowded(self) -> bool {
        self == Self::Crowded
    }

    /// Declarations of which the bank sees the same in both hubs: neither where a sale lies in its bucket, nor what is withheld,
    /// nor what no agreement opens.
    fn visible(self) -> Vec<Declared> {
        let of = |uscc: String, count: u64, first: u64| {
            (0..count).map(move |at| Declared {
                uscc: uscc.clone(),
                key: format!("{:020}", first + at),
                from: format!("2026{:02}01", 1 + at % 6),
                sales: 40_000 + at * 10_000 + if self.crowded() { 9_000 } else { 1 },
                due: 1_000 + at * 100,
                input: if self.crowded() { 31 } else { 17 },
                version: if self.crowded() { 5 } else { 1 },
                voided: false,
            })
        };
        let hidden_due = |one: Declared| Declared {
            due: if self.crowded() { 88_000 } else { 5 },
            ..one
        };
        let reserved = of(reserved(), 6, 500).map(hidden_due);
        of(grantor(), 9, 100).chain(reserved).collect()
    }

    /// Declarations that the bank sees nothing of, given some of those that the world has.
    fn hidden(self, world: &[Declared]) -> Vec<Declared> {
        if !self.crowded() {
            let voided = world.iter().take(12).cloned();
            return voided
                .map(|one| Declared {
                    voided: true,
                    ..one
                })
                .collect();
        }
        let corrected = world.iter().skip(6).cloned().map(|one| Declared {
            sales: 77,
            due: 77,
            ..one
        });
        // Outside the range of its grant.
        let unreached = ["20191201", "20270101"]
            .into_iter()
            .enumerate()
            .map(|(at, from)| Declared {
                uscc: grantor(),
                key: format!("{:020}", 104 + 1000 * (at + 1)),
                from: from.to_owned(),
                sales: 50_000,
                due: 1_400,
                input: 0,
                version: 1,
                voided: false,
            });
        let [.., last] = newcomers();
        corrected.chain(unreached).chain(crowd(&last, 80)).collect()
    }
}

/// Declarations of an enterprise that nobody was granted a look at: their keys are no numbers and lie in between those that
/// are visible, their sales are in a bucket by which nothing can be divided.
fn crowd(uscc: &str, count: u64) -> impl Iterator<Item = Declared> {
    (0..count).map(move |at| Declared {
        uscc: uscc.to_owned(),
        key: format!("{:020}x{at:02}{}", 100 + at % 9, &uscc[14..16]),
        from: format!("2026{:02}01", 1 + at % 6),
        sales: 77,
        due: 77,
        input: 3,
        version: 2,
        voided: false,
    })
}

/// A hub with its service, and who asks it.
struct Hub {
    lab: Lab,
    service: Service,
    analyst: String,
    operator: String,
}

impl Hub {
    fn new(base: &Lab, which: Which, world: &[Declared]) -> Self {
        let lab = Lab::bare();
        crate::support::copy(base.path(), lab.path());
        let service = Service::start_with(&lab, &[("QUERY__ROWS", &ROWS.to_string())]);
        if which.crowded() {
            // The hub knows them before it hears of those who will be visible.
            let [first, second, _] = newcomers();
            declare(&lab, crowd(&first, 40).chain(crowd(&second, 40)));
        }
        for uscc in [grantor(), reserved()] {
            let key = lab.file("owner.key.pub");
            forwarded(&lab, &["signatory", "add", &uscc, "owner", "--key", &key]);
        }
        register(&lab, which);
        let mut rows = which.hidden(world);
        rows.extend(which.visible());
        // In between.
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        declare(&lab, rows);
        grant(
            &lab,
            &grantor(),
            "city_bank",
            "uscc, pzxh, skssqq, xse, ynse, sbzl",
        );
        grant(
            &lab,
            &reserved(),
            "city_bank",
            "uscc, pzxh, skssqq, xse, sbzl",
        );
        if which.crowded() {
            others(&lab);
        }
        let analyst = lab.analyst_of("an.lee", "city_bank", PURPOSE);
        let operator = lab.token(&["--role", "operator"]);
        Self {
            lab,
            service,
            analyst,
            operator,
        }
    }

    /// What a law lets the tax bureau see of an enterprise.
    fn all_of(&self, uscc: &str) -> Value {
        let sql = format!(
            "SELECT xse, ynse, pzxh FROM vat_declaration WHERE uscc = '{uscc}' ORDER BY pzxh, xse"
        );
        self.lab.tax(&sql).done().json()["rows"].clone()
    }
}

/// Another organisation, what was agreed with it, and who granted it something.
fn others(lab: &Lab) {
    let add = [
        "org",
        "add",
        "river_bank",
        "--name",
        "River Bank",
        "--kind",
        "bank",
    ];
    forwarded(lab, &add);
    let paper = paper("river_bank", "clear, reason: decides").replace(
        "{name: sbzl}",
        "{name: sbzl}\n  - {name: jxse, form: clear, reason: decides}",
    );
    forwarded(lab, &["agreement", "add", &lab.write("river.yaml", paper)]);
    let [newcomer, ..] = newcomers();
    let key = lab.file("owner.key.pub");
    forwarded(
        lab,
        &["signatory", "add", &newcomer, "owner", "--key", &key],
    );
    for uscc in [newcomer, reserved()] {
        grant(lab, &uscc, "river_bank", "uscc, pzxh, skssqq, ynse, jxse");
    }
}

/// What is agreed on declarations with an organisation, sales in some form.
fn paper(org: &str, sales: &str) -> String {
    format!(
        "id: {org}-investment
org: {org}
dataset: vat_declaration
purposes: [{PURPOSE}]
basis: consent
valid_until: 2099-01-01
columns:
  - {{name: uscc}}
  - {{name: pzxh, form: clear, reason: names the declaration}}
  - {{name: skssqq, form: clear, reason: the period}}
  - {{name: xse, form: {sales}}}
  - {{name: ynse, form: clear, reason: decides}}
  - {{name: sbzl}}
"
    )
}

/// Has declarations taken in, all of them.
fn declare(lab: &Lab, rows: impl IntoIterator<Item = Declared>) {
    let mut csv = "TYSHXYDM,PZXH,NSRSBH,SBZL,NSQXDM,SKSSQQ,SKSSQZ,SBRQ,XSE,YSXSE,MSXSE,XXSE,JXSE,YNSE,YBTSE,ZGSWJGDM,BSRXM,\
                   DATA_TIME,ZFBZ\n"
        .to_owned();
    csv.extend(rows.into_iter().map(|row| row.line()));
    take_in(lab, "vat_declaration", &csv);
}

/// Has the two visible enterprises registered, under a number of the registry that is withheld; in one hub it is corrected.
fn register(lab: &Lab, which: Which) {
    let numbers: &[(&str, u32)] = match which {
        Which::Sparse => &[("1100000000000001", 12)],
        Which::Crowded => &[("1100000000000002", 12), ("9900000000000000", 13)],
    };
    for (number, day) in numbers {
        let mut csv = "UNISCID,PRIPID,ENTNAME,REGNO,ENTTYPE,ENTTYPE_CN,REGSTATE,ESTDATE,APPRDATE,OPFROM,OPTO,REGORG,\
                       DOMDISTRICT,PROVINCE,CITY,DOM,INDUSTRYCO,REGCAP,REGCAPCUR,OPSCOPE,LEREP,LEREPCERNO,TEL,DATA_TIME\n"
            .to_owned();
        for (uscc, name) in [(grantor(), "北岸"), (reserved(), "南岸")] {
            let place = &uscc[2..8];
            writeln!(
                csv,
                "{uscc},{number},{name},,1130,,K,2026-03-27,2026-05-12,2026-03-27,,{place},{place},,,,F5232,30,CNY,,,,,\
                 2026-05-{day} 13:28:50"
            )
            .unwrap();
        }
        take_in(lab, "enterprise_registration", &csv);
    }
}

fn take_in(lab: &Lab, feed: &str, csv: &str) {
    let file = lab.write(&format!("{feed}_two_hubs.csv"), csv);
    let ran = forwarded(lab, &["feed", "run", feed, "--from", &file]).json();
    assert_eq!(ran["feeds"][0]["quarantined"], 0, "{ran}");
}

/// A signed consent to an organisation.
fn grant(lab: &Lab, uscc: &str, org: &str, columns: &str) {
    let expires = *EXPIRES;
    let wish = format!(
        "principal: {uscc}
consumer: {{org: {org}}}
purpose: {{code: {PURPOSE}}}
notice: {{lang: en, text: May it look at your declarations?}}
scope:
  - dataset: vat_declaration
    columns: [{columns}]
    data_range: {{from: 2025-01-01, to: 2027-01-01}}
actions: [VIEW, QUERY, STORE]
data_life_days: 30
expires: {expires}
"
    );
    let file = lab.write("wish.yaml", wish);
    let asked = forwarded(lab, &["consent", "request", &file]).json();
    lab.sign(asked["consent_id"].as_str().unwrap()).done();
}

/// What of an answer's documents may differ, and why. Nothing else may.
const MAY_DIFFER: [(&str, &str); 6] = [
    ("access_id", "it is drawn"),
    (
        "decided",
        "a place in the log: what happens to others has entries, too",
    ),
    ("finished", "as `decided`"),
    ("holding", "it is drawn"),
    ("keep_until", "it is counted from the instant of the answer"),
    ("consent_id", "it is drawn"),
];
/// Heads and why they may differ.
const HEADERS_THAT_MAY_DIFFER: [(&str, &str); 2] =
    [("date", "the time"), ("qihui-access-id", "it is drawn")];
/// Figures of queries. The others are left out: times (`_seconds`) are bounded, not equalised; connections are those of the
/// moment; requests of other operations, deliveries, the log, the tables and the process are of everybody.
const FIGURES: [&str; 3] = [
    "qihui_queries_total{",
    "qihui_query_rows_total ",
    "qihui_http_requests_total{operation=\"query\"",
];

/// A document without what may differ.
fn steady(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, one) in fields {
                let may = MAY_DIFFER.iter().any(|(field, _)| field == name);
                match one {
                    Value::String(_) | Value::Number(_) if may => *one = "<differs>".into(),
                    one => steady(one),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(steady),
        _ => {}
    }
}

fn document(bytes: &[u8]) -> Value {
    let mut document = serde_json::from_slice(bytes).unwrap();
    steady(&mut document);
    document
}

/// A question over HTTP.
#[derive(Debug, Clone)]
struct Question {
    body: Value,
    form: &'static str,
    /// Whether the order of the rows is no accident of threads.
    ordered: bool,
    /// The code of the error that it meets; none: it is answered.
    fails: Option<&'static str>,
}

impl Question {
    fn of(sql: &str) -> Self {
        let body = json!({ "purpose": PURPOSE, "sql": sql });
        Self {
            body,
            form: NDJSON,
            ordered: true,
            fails: None,
        }
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.body[field] = value;
        self
    }

    fn unordered(self) -> Self {
        Self {
            ordered: false,
            ..self
        }
    }

    fn fails(self, code: &'static str) -> Self {
        let fails = Some(code);
        Self { fails, ..self }
    }

    fn strict(self) -> Self {
        self.with("strict", json!(true))
    }

    fn written_as(self, form: &'static str) -> Self {
        Self { form, ..self }
    }

    fn doing(self, action: &str) -> Self {
        self.with("action", json!(action))
    }

    fn about(self, codes: &[&str]) -> Self {
        self.with("subjects", json!(codes))
    }
}

/// What who asks is given.
#[derive(Debug, PartialEq)]
struct Told {
    status: u16,
    whole: bool,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    trailers: BTreeMap<String, Value>,
    manifest: Option<Value>,
}

impl Hub {
    fn ask(&self, question: &Question) -> Told {
        let call = self.service.post("/v1/queries", question.body.to_string());
        let call = call.with("accept", question.form).with("te", "trailers");
        let reply = call.with_bearer(&self.analyst).send();
        let mut told = told(&reply);
        told.manifest = reply.headers.get("qihui-access-id").map(|id| {
            let path = format!("/v1/accesses/{}", id.to_str().unwrap());
            let shown = self.service.get(&path).with_bearer(&self.analyst).send();
            document(&shown.is(200).body)
        });
        if !question.ordered {
            told.disordered();
        }
        told
    }

    /// A list that the bank may look at; in a hub's own order where names are drawn.
    fn list(&self, path: &str) -> Vec<String> {
        let reply = self
            .service
            .get(path)
            .with_bearer(&self.analyst)
            .send()
            .is(200);
        let listed = document(&reply.body);
        let lists = listed
            .as_object()
            .unwrap()
            .values()
            .filter_map(Value::as_array);
        let mut lines: Vec<String> = lists
            .flatten()
            .map(|one| steadied(&one.to_string()))
            .collect();
        lines.sort();
        lines
    }

    fn figures(&self) -> Vec<String> {
        let reply = self
            .service
            .get("/metrics")
            .with_bearer(&self.operator)
            .send()
            .is(200);
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        let lines = text
            .lines()
            .filter(|line| FIGURES.iter().any(|figure| line.starts_with(figure)));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// The command line: what it prints, and what it says beside it.
    fn command(&self, more: &[&str]) -> (i32, String, String) {
        let answer: Answer = self.lab.run(&query("city_bank", PURPOSE, more));
        // Where the entries are in the log is no secret, and depends on everybody.
        let lines = answer
            .stderr
            .lines()
            .map(|line| line.split("; recorded as entries").next().unwrap());
        let said = lines.collect::<Vec<_>>().join("\n");
        (answer.code, answer.stdout, said)
    }
}

fn told(reply: &Reply) -> Told {
    let headers = reply
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let may_differ = |name: &str| {
        HEADERS_THAT_MAY_DIFFER
            .iter()
            .any(|(header, _)| *header == name)
    };
    let trailers = reply
        .trailers
        .iter()
        .map(|(name, value)| (name.to_string(), document(value.as_bytes())));
    Told {
        status: reply.status,
        whole: reply.whole,
        headers: headers.filter(|(name, _)| !may_differ(name)).collect(),
        body: reply.body.to_vec(),
        trailers: trailers.collect(),
        manifest: None,
    }
}

impl Told {
    /// The code of the error that it is; none: it is an answer.
    fn code(&self) -> Option<String> {
        let fails = (self.status != 200).then(|| document(&self.body))?;
        Some(fails["code"].as_str().unwrap().to_owned())
    }

    /// Forgets the order of the lines, and so the hash of them.
    fn disordered(&mut self) {
        let mut lines: Vec<&[u8]> = self.body.split(|byte| *byte == b'\n').collect();
        lines.sort_unstable();
        self.body = lines.join(&b'\n');
        let documents = self.manifest.iter_mut().chain(self.trailers.values_mut());
        for hash in documents.filter_map(|document| document.get_mut("sha256")) {
            *hash = "<of another order>".into();
        }
    }
}

const ALL: &str = "SELECT * FROM vat_declaration ORDER BY pzxh";
const PLAIN: &str = "SELECT uscc, pzxh, xse FROM vat_declaration";
/// Of a table whose rows are open to everybody.
const REGISTRY: &str = "SELECT uscc, entname, regorg FROM enterprise_registration ORDER BY uscc";

/// Rows and figures of all that may be seen.
const OF_ALL: [&str; 13] = [
    "SELECT count(*) AS n, count(DISTINCT uscc) AS e, sum(xse) AS s, avg(ynse) AS a, min(ynse) AS lo, max(ynse) AS hi, \
     min(pzxh) AS first, max(pzxh) AS last, count(ynse) AS known FROM vat_declaration",
    "SELECT skssqq, count(*) AS n, max(ynse) AS hi, min(xse) AS lo FROM vat_declaration GROUP BY skssqq ORDER BY skssqq",
    "SELECT pzxh, row_number() OVER (ORDER BY xse, pzxh) AS n FROM vat_declaration ORDER BY n",
    "SELECT count(*) AS n FROM vat_declaration WHERE skssqq < DATE '2025-01-01' OR xse = 0 OR ynse = 77",
    "SELECT pzxh, xse FROM vat_declaration ORDER BY xse DESC, pzxh LIMIT 4",
    "SELECT count(*) AS n FROM (SELECT FROM vat_declaration LIMIT 100) AS some",
    // Cells that are withheld, among those that are not.
    "SELECT pzxh FROM vat_declaration WHERE ynse IS NULL ORDER BY pzxh",
    "SELECT pzxh, coalesce(ynse, 0) AS due FROM vat_declaration ORDER BY due, pzxh",
    "SELECT a.pzxh, b.pzxh AS other FROM vat_declaration a JOIN vat_declaration b ON a.ynse = b.ynse \
     ORDER BY a.pzxh, b.pzxh",
    "SELECT uscc, pripid FROM enterprise_registration ORDER BY uscc",
    "SELECT r.entname, v.pzxh, v.ynse FROM enterprise_registration r JOIN vat_declaration v ON v.uscc = r.uscc \
     ORDER BY v.pzxh",
    // These would fail on hidden values.
    "SELECT max(cast(pzxh AS decimal(20, 0))) AS k, min(1 / (ynse - 77)) AS x FROM vat_declaration",
    "SELECT count(*) AS n FROM vat_declaration WHERE 1 / xse > 0 OR ynse IS NULL",
];

/// Statements that are refused or fail, and the code of the error. Two fail on visible values.
const FAILING: [(&str, &str); 12] = [
    (
        "SELECT cast(sbzl AS bigint) AS kind FROM vat_declaration",
        "CastFailed",
    ),
    (
        "SELECT 1 / (ynse - 1300) AS x FROM vat_declaration",
        "DivisionByZero",
    ),
    ("DROP TABLE vat_declaration", "NotAllowed"),
    (
        "EXPLAIN ANALYZE SELECT uscc FROM vat_declaration",
        "NotAllowed",
    ),
    ("SELECT * FROM nosuch", "UnknownDataset"),
    (
        "SELECT * FROM \"vat_declaration$snapshots\"",
        "UnknownDataset",
    ),
    ("SELECT * FROM information_schema.tables", "UnknownDataset"),
    ("SELECT * FROM tax_levy", "DatasetNotInAgreement"),
    ("SELECT jxse FROM vat_declaration", "ColumnNotInAgreement"),
    ("SELECT nosuch FROM vat_declaration", "UnknownColumn"),
    ("SELECT random() FROM vat_declaration", "BadSql"),
    ("SELEC", "BadSql"),
];

/// Everything that is asked over HTTP.
fn questions() -> Vec<Question> {
    let of = Question::of;
    let mut questions = vec![
        of(ALL),
        of(ALL).strict(),
        of(ALL).written_as(CSV),
        of(ALL).written_as(ARROW),
        of(PLAIN).unordered(),
        of(PLAIN).strict(),
        of(PLAIN).strict().doing("store"),
        of("SELECT pzxh FROM vat_declaration LIMIT 3").unordered(),
        of("SELECT pzxh, skssqq FROM vat_declaration LIMIT 5 OFFSET 4").unordered(),
        of(REGISTRY),
        of(&repeated(ROWS / VISIBLE)),
        of(&repeated(ROWS / VISIBLE + 1)).fails("TooManyRows"),
        of(PLAIN)
            .with("purpose", json!("policy.matching"))
            .fails("OutOfReach"),
        of(PLAIN)
            .with("org", json!("river_bank"))
            .fails("OutOfReach"),
        of(PLAIN).with("wish", json!(1)).fails("BadRequest"),
    ];
    questions.extend(OF_ALL.map(of));
    questions.extend(FAILING.map(|(sql, code)| of(sql).fails(code)));
    questions.extend(about_single_enterprises());
    questions
}

/// A statement by which every visible declaration passes the gate so many times.
fn repeated(times: u64) -> String {
    let times = usize::try_from(times).unwrap();
    let parts = vec!["SELECT ynse FROM vat_declaration"; times].join(" UNION ALL ");
    format!("SELECT count(*) AS n, count(ynse) AS known FROM ({parts})")
}

/// Those that name enterprises: visible ones, and one that one hub does not know and the other hides.
fn about_single_enterprises() -> Vec<Question> {
    let of = Question::of;
    let (grantor, reserved, [newcomer, ..]) = (grantor(), reserved(), newcomers());
    let (grantor, reserved, newcomer) = (grantor.as_str(), reserved.as_str(), newcomer.as_str());
    let refused = "InvalidConsentUse";
    let vat = "vat_declaration";
    vec![
        of(ALL).about(&[grantor]),
        of(ALL).about(&[reserved]).strict(),
        of(ALL).about(&[grantor, reserved]),
        of(ALL).about(&[grantor]).doing("view"),
        of(ALL).about(&[newcomer]).fails(refused),
        of(ALL).about(&[grantor, newcomer]).fails(refused),
        of(ALL).about(&[newcomer]).doing("view").fails(refused),
        of(REGISTRY).about(&[newcomer]),
        of(&format!("EXPLAIN {PLAIN}"))
            .about(&[newcomer])
            .fails(refused),
        of(PLAIN).about(&["91330000"]).fails("UsccLength"),
        of(&format!(
            "SELECT * FROM {vat} WHERE uscc = '{grantor}' ORDER BY pzxh"
        )),
        of(&format!("SELECT * FROM {vat} WHERE uscc = '{newcomer}'")),
        of(&format!(
            "SELECT count(*) AS n FROM {vat} WHERE uscc IN ('{newcomer}', '{reserved}')"
        )),
        of(&format!(
            "EXPLAIN SELECT * FROM {vat} WHERE uscc = '{newcomer}' AND xse > 3"
        )),
    ]
}

/// A world with two more agreements of the bank, and some declarations that it has.
fn base() -> (Lab, Vec<Declared>) {
    let base = Lab::world();
    let declarations = base.write(
        "investment.yaml",
        paper("city_bank", "{bucketed: {width: 10000}}"),
    );
    let registry = base.write(
        "registry.yaml",
        format!(
            "{{id: city_bank-registry, org: city_bank, dataset: enterprise_registration, purposes: [{PURPOSE}], basis: consent, \
             valid_until: 2099-01-01, columns: [{{name: uscc}}, {{name: entname}}, {{name: regorg}}, {{name: pripid}}]}}"
        ),
    );
    for file in [declarations, registry] {
        base.run(&["agreement", "add", &file]).done();
    }
    let sql = "SELECT uscc, pzxh, skssqq FROM vat_declaration ORDER BY pzxh LIMIT 24";
    let rows = base.tax(sql).done().json()["rows"].clone();
    let of = |row: &Value| Declared {
        uscc: row["uscc"].as_str().unwrap().to_owned(),
        key: row["pzxh"].as_str().unwrap().to_owned(),
        from: row["skssqq"].as_str().unwrap().replace('-', ""),
        sales: 1,
        due: 1,
        input: 1,
        version: 9,
        voided: false,
    };
    (base, rows.as_array().unwrap().iter().map(of).collect())
}

/// Checks that the hubs differ in what is hidden: whoever may see all of it tells them apart.
fn differ_where_hidden(sparse: &Hub, crowded: &Hub, world: &[Declared]) {
    for uscc in [grantor(), reserved(), world[0].uscc.clone()]
        .iter()
        .chain(&newcomers())
    {
        assert_ne!(sparse.all_of(uscc), crowded.all_of(uscc), "{uscc}");
    }
    let count = "SELECT count(*) AS n FROM vat_declaration";
    let few = sparse.lab.tax(count).done().json()["rows"][0]["n"].as_u64();
    assert!(few < Some(ROWS), "{few:?}");
    crowded.lab.tax(count).fails(1, "TooManyRows", &[]);
}

#[test]
fn gate_2_two_hubs_with_the_same_views_answer_alike() {
    let (base, world) = base();
    let [sparse, crowded] =
        [Which::Sparse, Which::Crowded].map(|which| Hub::new(&base, which, &world));
    let mut rows = 0;
    for question in questions() {
        let [one, other] = [&sparse, &crowded].map(|hub| hub.ask(&question));
        assert_eq!(one.code().as_deref(), question.fails, "{question:?}");
        assert_eq!(one.manifest.is_some(), one.status == 200, "{question:?}");
        assert_alike(&one, &other, &question);
        rows += one
            .trailers
            .get("qihui-rows")
            .and_then(Value::as_u64)
            .unwrap_or(0);
    }
    assert!(rows > 10 * VISIBLE, "{rows} rows in all say little");
    by_hand(&sparse, &crowded);
    for path in [
        "/v1/agreements",
        "/v1/organisations",
        "/v1/consents",
        "/v1/holdings",
        "/v1/datasets",
        "/v1/topics",
    ] {
        let [one, other] = [&sparse, &crowded].map(|hub| hub.list(path));
        assert_eq!(one, other, "{path}");
        // There are no topics.
        assert!(!one.is_empty() || path == "/v1/topics", "{path}");
    }
    let [one, other] = [&sparse, &crowded].map(Hub::figures);
    assert_eq!(one, other);
    let begins = |figure: &&str| one.iter().any(|line| line.starts_with(*figure));
    assert!(FIGURES.iter().all(begins), "{one:?}");
    // Last, since these are queries as well.
    differ_where_hidden(&sparse, &crowded, &world);
}

/// The same, one part after another, so that what differs is seen.
#[track_caller]
fn assert_alike(one: &Told, other: &Told, of: &Question) {
    let text = |told: &Told| String::from_utf8_lossy(&told.body).into_owned();
    assert_eq!(text(one), text(other), "{of:?}");
    assert_eq!(one.trailers, other.trailers, "{of:?}");
    assert_eq!(one.manifest, other.manifest, "{of:?}");
    assert_eq!(one, other, "{of:?}");
}

/// By the command line: a table for the eye, one document, CSV, and a file.
fn by_hand(sparse: &Hub, crowded: &Hub) {
    let all = "SELECT * FROM vat_declaration ORDER BY pzxh";
    let (grantor, [newcomer, ..]) = (grantor(), newcomers());
    for more in [
        vec![all],
        vec!["--strict", "SELECT uscc, xse, ynse FROM vat_declaration"],
        vec!["--format", "csv", all],
        vec!["--subject", &grantor, "--action", "view", all],
        vec!["--subject", &newcomer, all],
        vec!["SELECT cast(sbzl AS bigint) AS kind FROM vat_declaration"],
        vec!["SELECT * FROM nosuch"],
    ] {
        assert_eq!(sparse.command(&more), crowded.command(&more), "{more:?}");
    }
    let [one, other] = [sparse, crowded].map(|hub| {
        let answer = hub.lab.json(&query("city_bank", PURPOSE, &[all])).done();
        document(answer.stdout.as_bytes())
    });
    assert_eq!(one, other);
    assert_eq!(
        one["rows"].as_array().map(Vec::len),
        usize::try_from(VISIBLE).ok()
    );
    let [one, other] = [sparse, crowded].map(|hub| {
        let file = hub.lab.file("answer.parquet");
        let words = ["--format", "parquet", "--output", &file, all];
        hub.lab.run(&query("city_bank", PURPOSE, &words)).done();
        fs::read(file).unwrap()
    });
    assert!(one == other, "the bytes of the files differ");
}
