//! Figures about enterprises that were not asked: what is left of them when the process is killed, and when tables are
//! cleaned up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use qihui::hub::Hub;
use qihui::layout::Layout;
use qihui_catalog::{EnterpriseNumbers, Uscc};
use qihui_consent::ledger::{EditionKey, Statistic};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::support::{Answer, Lab, agreement, copy, query};

/// How many questions are asked at most; of every three, two are killed.
const KILLS: usize = 24;
/// The months of which there are declarations, and the day after.
const MONTHS: [&str; 4] = ["2026-04-01", "2026-05-01", "2026-06-01", "2026-07-01"];
/// Fewest enterprises of a city that is asked about: one more than the agreement asks for can be left out.
const LEAST: u64 = 12;

/// A hub with declarations of some hundred enterprises, a bureau of statistics, and one of taxes that sees every row.
pub fn lab() -> Lab {
    let lab = Lab::empty();
    let feeds = lab.synth("400", "3", "0");
    for feed in ["enterprise_registration", "vat_declaration"] {
        lab.run(&["feed", "run", feed, "--from", &feeds]).done();
    }
    for org in ["stat_bureau", "tax_bureau"] {
        let words = ["org", "add", org, "--name", org, "--kind", "department"];
        lab.run(&words).done();
    }
    let law = "{statute: {law: 税收征收管理法}}";
    let tax = lab.write("tax.yaml", agreement("tax_bureau", "supervision.tax", law));
    let figures = lab.write(
        "figures.yaml",
        "{id: stat_bureau-vat, org: stat_bureau, dataset: vat_declaration, purposes: [statistics.regional], \
         basis: {statute: {law: 统计法}}, aggregate_only: {min_enterprises: 10, p_percent: 10}, \
         valid_until: 2099-01-01, columns: [{name: xse}]}",
    );
    for file in [tax, figures] {
        lab.run(&["agreement", "add", &file]).done();
    }
    lab
}

/// The figures of one city in one month.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    city: String,
    /// The place of the month in [`MONTHS`].
    month: usize,
}

impl Question {
    fn days(&self) -> (&'static str, &'static str) {
        (MONTHS[self.month], MONTHS[self.month + 1])
    }

    /// The statement, with another condition or none.
    fn sql(&self, and: &str) -> String {
        let (first, end) = self.days();
        format!(
            "SELECT r.city, count(DISTINCT v.uscc) AS n, sum(v.xse) AS sales \
             FROM vat_declaration v JOIN enterprise_registration r ON v.uscc = r.uscc \
             WHERE v.skssqq >= DATE '{first}' AND v.skssqq < DATE '{end}' AND r.city = '{}'{and} GROUP BY r.city",
            self.city
        )
    }

    fn ask(&self, lab: &Lab, and: &str) -> Answer {
        lab.json(&query(
            "stat_bureau",
            "statistics.regional",
            &[&self.sql(and)],
        ))
    }

    /// The words that print the answer as it leaves.
    fn words(&self) -> Vec<String> {
        let sql = self.sql("");
        let words = query(
            "stat_bureau",
            "statistics.regional",
            &["--format", "ndjson", &sql],
        );
        words.into_iter().map(str::to_owned).collect()
    }

    fn key(&self) -> EditionKey {
        let (first, end) = self.days();
        EditionKey {
            org: "stat_bureau".parse().unwrap(),
            dataset: "vat_declaration".parse().unwrap(),
            first_day: first.parse().unwrap(),
            end_day: end.parse().unwrap(),
        }
    }
}

fn rows(answer: &Value) -> &[Value] {
    answer["rows"].as_array().unwrap()
}

/// Every question that is told as long as nothing else is, with its answer.
fn questions(lab: &Lab) -> Vec<(Question, Value)> {
    let mut found = Vec::new();
    for month in 0..MONTHS.len() - 1 {
        let all = Question {
            city: String::new(),
            month,
        };
        let truth = lab
            .tax(&all.sql("").replace(" AND r.city = ''", ""))
            .done()
            .json();
        for row in rows(&truth)
            .iter()
            .filter(|row| row["n"].as_u64() >= Some(LEAST))
        {
            let city = row["city"].as_str().unwrap().to_owned();
            found.push((Question { city, month }, row.clone()));
        }
    }
    // Months take turns.
    found.sort_by(|(a, _), (b, _)| (&a.city, a.month).cmp(&(&b.city, b.month)));
    found
}

/// The codes of the enterprises of each city.
fn members(lab: &Lab) -> BTreeMap<String, Vec<Uscc>> {
    let sql = "SELECT city, uscc FROM enterprise_registration WHERE city IS NOT NULL";
    let listed = lab.tax(sql).done().json();
    let mut members: BTreeMap<String, Vec<Uscc>> = BTreeMap::new();
    for row in rows(&listed) {
        let [city, uscc] = ["city", "uscc"].map(|name| row[name].as_str().unwrap().to_owned());
        members.entry(city).or_default().push(uscc.parse().unwrap());
    }
    members
}

/// From when on a process has so much time to live.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    ItsStart,
    /// The first entry that it makes in the log, which is that of its decision.
    ItsDecision,
}

/// Bytes of the hub's log.
fn log_bytes(lab: &Lab) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![Layout::new(&lab.hub()).log()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.len(),
                // It was a temporary file.
                Err(_) => {}
            }
        }
    }
    bytes
}

/// Asks a question, kills the process when so much time has passed, and gives what it had printed by then.
fn printed(lab: &Lab, question: &Question, (since, patience): (Since, Duration)) -> (String, bool) {
    let before = log_bytes(lab);
    let words = question.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let file = lab.path().join("printed");
    let mut child = lab
        .command(&words)
        .stdout(Stdio::from(File::create(&file).unwrap()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = || Instant::now().checked_add(patience);
    let mut until = (since == Since::ItsStart).then(end);
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(_) => break true,
            None if until.flatten().is_some_and(|until| Instant::now() >= until) => break false,
            None if until.is_none() && log_bytes(lab) > before => until = Some(end()),
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    };
    if !ended {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    (fs::read_to_string(&file).unwrap(), !ended)
}

/// What the ledger holds of each question, by the enterprises of its city.
async fn recorded(
    hub: &Hub,
    asked: &[Question],
    cities: &BTreeMap<String, Vec<Uscc>>,
) -> Vec<bool> {
    let mut editions: BTreeMap<usize, Vec<Statistic>> = BTreeMap::new();
    for month in 0..MONTHS.len() - 1 {
        let one = asked.iter().find(|question| question.month == month);
        let Some(key) = one.map(Question::key) else {
            continue;
        };
        if let Some(edition) = hub.ledger().edition(&key).await.unwrap() {
            let told = hub.ledger().statistics(&edition).await.unwrap();
            editions.insert(month, told);
        }
    }
    let of = |question: &Question| {
        let numbers = hub.ledger().lookup(&cities[&question.city]).unwrap();
        let group: BTreeSet<u32> = numbers.into_iter().map(|no| no.unwrap().0).collect();
        let told = editions.get(&question.month);
        told.is_some_and(|told| {
            told.iter()
                .any(|one| one.groups.len() == 1 && one.groups[0].iter().eq(group.iter().copied()))
        })
    };
    asked.iter().map(of).collect()
}

/// The values of a field in the bodies of the entries of a kind.
fn in_log(hub: &Hub, kind: &str, field: &str) -> Vec<String> {
    let entries = hub.log().scan(0..hub.log().size()).map(Result::unwrap);
    let entries = entries.filter(|entry| entry.leaf.kind == kind);
    let bodies = entries.map(|entry| serde_json::from_slice::<Value>(&entry.body).unwrap());
    bodies
        .map(|body| body[field].as_str().unwrap().to_owned())
        .collect()
}

/// The versions of the table of declarations that each decided access was of, as the log has them.
fn versions(lab: &Lab) -> Vec<i64> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hub = runtime.block_on(crate::owner::open(&lab.hub())).unwrap();
    let entries = hub.log().scan(0..hub.log().size()).map(Result::unwrap);
    let decided = entries.filter(|entry| entry.leaf.kind == "access.decided");
    let bodies = decided.map(|entry| serde_json::from_slice::<Value>(&entry.body).unwrap());
    let versions = bodies.filter_map(|body| {
        let mut tables = body["datasets"].as_array()?.iter();
        let table = tables.find(|table| table["dataset"] == "vat_declaration")?;
        table["table_version"].as_i64()
    });
    versions.collect()
}

/// The hub, once a process was killed between its decision and its end: if none was yet, one is killed later and later after
/// it began to write to the log.
async fn interrupted(lab: &Lab, question: &Question) -> Hub {
    for millis in 0..100 {
        let hub = crate::owner::open(&lab.hub()).await.unwrap();
        let outcomes = in_log(&hub, "access.finished", "outcome");
        if outcomes.iter().any(|outcome| outcome == "interrupted") {
            return hub;
        }
        drop(hub);
        let life = Duration::from_millis(millis);
        printed(lab, question, (Since::ItsDecision, life));
    }
    panic!("no process was killed between its decision and its end");
}

/// Killed at any moment: whatever was printed stands in the ledger as told, what stands there counts as told after the next
/// start, is in the log once, and every access has its end.
#[tokio::test(flavor = "multi_thread")]
async fn stat_8_killed_anywhere_whatever_left_is_recorded_and_binds() {
    let lab = lab();
    let untroubled = Lab::bare();
    copy(lab.path(), untroubled.path());
    let cities = members(&lab);
    let questions = questions(&lab);
    let begun = Instant::now();
    questions[0].0.ask(&untroubled, "").done();
    let whole = begun.elapsed();
    let mut chance = SmallRng::seed_from_u64(5);
    let (mut left, mut killed) = (Vec::new(), 0);
    let asked: Vec<Question> = questions
        .iter()
        .map(|(asked, _)| asked.clone())
        .take(KILLS)
        .collect();
    for (at, (question, truth)) in questions.iter().take(KILLS).enumerate() {
        let some = whole.mul_f64(chance.random_range(0.0..1.1));
        // Every third lives on, so that something is told.
        let life = match at % 3 {
            0 => (Since::ItsStart, Duration::MAX),
            1 => (Since::ItsDecision, some / 4),
            _ => (Since::ItsStart, some),
        };
        let (text, was_killed) = printed(&lab, question, life);
        killed += usize::from(was_killed);
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert!(
            lines.into_iter().all(|row| row == *truth),
            "{question:?}: {text}"
        );
        left.push(!text.is_empty());
    }
    let hub = interrupted(&lab, &asked[1]).await;
    let recorded = recorded(&hub, &asked, &cities).await;
    let count = |which: &[bool]| which.iter().filter(|one| **one).count();
    assert!(killed > 0, "every process ended before it was killed");
    assert!(
        count(&recorded) > 0,
        "every process was killed before it told anything"
    );
    for ((question, left), recorded) in asked.iter().zip(&left).zip(&recorded) {
        assert!(
            *recorded || !left,
            "{question:?} was told, and is not recorded"
        );
    }
    let events = in_log(&hub, "statistic.released", "access_id");
    let once: BTreeSet<&String> = events.iter().collect();
    assert_eq!(
        (events.len(), once.len()),
        (count(&recorded), count(&recorded))
    );
    let [decided, finished] =
        ["access.decided", "access.finished"].map(|kind| in_log(&hub, kind, "access_id"));
    let [decided, finished] = [decided, finished].map(BTreeSet::from_iter);
    assert_eq!(decided, finished, "every access has its end");
    drop(hub);

    // All but one of a city: told where the city was not, and nowhere else.
    let mut blocked = 0;
    let of_recorded = asked
        .iter()
        .zip(&recorded)
        .filter(|(_, recorded)| **recorded);
    for (question, _) in of_recorded.take(6) {
        let (first, end) = question.days();
        let one = format!(
            "SELECT min(v.uscc) AS one FROM vat_declaration v JOIN enterprise_registration r ON v.uscc = r.uscc \
             WHERE r.city = '{}' AND v.skssqq >= DATE '{first}' AND v.skssqq < DATE '{end}'",
            question.city
        );
        let one = lab.tax(&one).done().json()["rows"][0]["one"]
            .as_str()
            .unwrap()
            .to_owned();
        let but_one = format!(" AND r.uscc <> '{one}'");
        let answer = question.ask(&lab, &but_one).done().json();
        assert!(
            rows(&answer).is_empty(),
            "{question:?}: the one left out is known"
        );
        if *question == asked[0] {
            continue;
        }
        let told = question.ask(&untroubled, &but_one).done().json();
        blocked += rows(&told).len();
    }
    assert!(blocked > 0, "nothing would have been told anyhow");
    // What was not recorded was not told, and still can be.
    for (question, truth) in questions.iter().take(KILLS) {
        let answer = question.ask(&lab, "").done().json();
        assert_eq!(rows(&answer), std::slice::from_ref(truth), "{question:?}");
    }
    lab.run(&["audit", "verify"]).done();
}

/// Makes what a table's log consists of so many days old.
fn aged(table: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 86_400);
    for entry in fs::read_dir(table.join("_delta_log")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(then).unwrap();
        }
    }
}

/// The log of a table is cleaned up; the version that figures were told of is still there for other questions.
#[test]
fn stat_6_the_rows_of_a_period_outlive_a_clean_up() {
    let lab = lab();
    let questions = questions(&lab);
    let (first, _) = &questions[0];
    let another = questions
        .iter()
        .skip(1)
        .find(|(other, _)| other.month == first.month);
    let (second, truth) = another.unwrap();
    let before = first.ask(&lab, "").done().json();
    let table = Layout::new(&lab.hub()).warehouse().join("vat_declaration");
    aged(&table, 60);
    // So many commits that the log is summed up and cleaned up behind them, by a process that has not told any figure.
    let more = lab.file("more");
    let words = [
        "synth",
        "--out",
        &more,
        "--enterprises",
        "80",
        "--months",
        "3",
        "--seed",
        "9",
    ];
    lab.run(&words).done();
    let run = ["feed", "run", "vat_declaration", "--from", &more];
    let mut landing = lab.command(&run);
    let landed: Answer = landing
        .env("QIHUI_INGEST__CHUNK_ROWS", "4")
        .output()
        .unwrap()
        .into();
    landed.done();
    let summed_up = fs::read_dir(table.join("_delta_log")).unwrap();
    let summed_up = summed_up.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".parquet")
    });
    assert!(summed_up.count() > 0, "too few commits");
    let again = first.ask(&lab, "").done().json();
    assert_eq!(rows(&again), rows(&before));
    let other = second.ask(&lab, "").done().json();
    assert_eq!(rows(&other), &[truth.clone()][..]);
    let versions = versions(&lab);
    let [.., first, again, other] = versions[..] else {
        panic!("{versions:?}");
    };
    assert_eq!((again, other), (first, first));
}
