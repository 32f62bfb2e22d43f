//! Feeds that read a topic, by the real program from a real broker.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::broker::{Broker, Sent};
use crate::support::{Answer, Lab, copy, files, query};

/// How often the process is killed.
const KILLS: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// A hub with a feed `licences` that reads `topic`, and an organisation that sees licences by law.
fn lab(topic: &str) -> Lab {
    let lab = Lab::empty();
    let catalog = lab.hub().join("catalog");
    let contract = catalog.join("contracts/admin_licence.yaml");
    let text = fs::read_to_string(&contract).unwrap();
    let with_feed = text.replace("[admin_licence]", "[admin_licence, licences]");
    assert_ne!(with_feed, text);
    let with_feed = with_feed.replace("version: 1.0.0", "version: 1.1.0");
    fs::write(&contract, with_feed).unwrap();
    let feed = fs::read_to_string(catalog.join("feeds/admin_licence.yaml")).unwrap();
    let feed = feed.replace("name: admin_licence", "name: licences");
    let source = format!("source: kafka\ntopic: {{name: {topic}, commitRows: 25}}");
    let pattern = feed
        .lines()
        .find(|line| line.starts_with("filePattern"))
        .unwrap();
    let feed = feed.replace(pattern, &source);
    fs::write(catalog.join("feeds/licences.yaml"), feed).unwrap();
    lab.run(&["catalog", "check", "--record"]).done();
    let org = [
        "org",
        "add",
        "office",
        "--name",
        "Office",
        "--kind",
        "department",
    ];
    lab.run(&org).done();
    let statute = "id: office-licences
org: office
dataset: admin_licence
purposes: [supervision.tax]
basis: {statute: {law: x}}
valid_until: 2099-01-01
columns:
  - {name: uscc}
  - {name: xk_wsh, form: clear, reason: names the licence}
  - {name: xk_jdrq, form: clear, reason: the day}
";
    let file = lab.write("office.yaml", statute);
    lab.run(&["agreement", "add", &file]).done();
    lab
}

/// Lines of the licences that `synth` writes, bad ones included.
fn lines(lab: &Lab) -> (String, Vec<String>) {
    lab.synth("800", "6", "0.1");
    let mut all = Vec::new();
    for file in files(&lab.path().join("feeds")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("admin_licence") {
            // As bytes would: a line that is no text stays a line.
            let content = fs::read(&file).unwrap();
            let lines = content
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            let lines = lines.filter_map(|line| String::from_utf8(line.to_vec()).ok());
            all.extend(lines.map(|line| line.trim_end_matches('\r').to_owned()));
        }
    }
    assert!(all.len() > 200, "{}", all.len());
    let whole = all.join("\n") + "\n";
    (lab.write("licences.jsonl", whole), all)
}

/// Records of one key go to one partition, as producers send them: the order of messages counts within a partition, and a
/// key belongs to the enterprise that brought it first.
fn messages(lines: &[String]) -> impl Iterator<Item = Sent> {
    lines.iter().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap_or_default();
        let key = record["XK_WSH"].as_str().unwrap_or_default();
        let sum: u32 = key.bytes().map(u32::from).sum();
        Sent::value(i32::try_from(sum % 4).unwrap(), line.as_str())
    })
}

fn feed_run(lab: &Lab, broker: &str, more: &[&str]) -> std::process::Command {
    let mut command = lab.command(&[&["feed", "run", "licences", "--json"], more].concat());
    command.env("QIHUI_KAFKA__BROKERS", broker);
    command
}

fn table(lab: &Lab) -> Value {
    let sql = "SELECT * FROM admin_licence ORDER BY uscc, xk_wsh, xk_jdrq";
    let words = query("office", "supervision.tax", &[sql]);
    lab.json(&words).done().json()["rows"].clone()
}

fn in_quarantine(lab: &Lab) -> u64 {
    let listed = lab.json(&["feed", "quarantine", "licences"]).done();
    listed.json()["total"].as_u64().unwrap()
}

fn ended(child: &mut Child, until: Instant) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// The numbers of the runs in the log, as they stand there.
async fn runs(lab: &Lab) -> Vec<i64> {
    let hub = crate::owner::open(&lab.hub()).await.unwrap();
    let entries = hub.log().scan(0..u64::MAX).map(Result::unwrap);
    let runs = entries.filter(|entry| entry.leaf.kind == "feed.run");
    let body =
        |entry: qihui_audit::StoredEntry| -> Value { serde_json::from_slice(&entry.body).unwrap() };
    runs.map(|entry| body(entry)["run"].as_i64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ing_2_killed_anywhere_a_followed_topic_makes_the_table_of_its_file() {
    let broker = Broker::shared();
    let topic = broker.topic("licences", 4);
    let lab = lab(&topic);
    let (file, lines) = lines(&lab);
    // The same feed takes the same records from a file: that is the table to compare with.
    let by_file = Lab::bare();
    copy(lab.path(), by_file.path());
    let from_file: Answer = by_file
        .json(&["feed", "run", "licences", "--from", &file])
        .done();
    let expected = from_file.json()["feeds"][0].clone();
    assert_eq!(expected["read"], lines.len());
    let mut chance = SmallRng::seed_from_u64(11);
    let mut killed = 0;
    let turns = usize::try_from(KILLS).unwrap();
    for part in lines.chunks(lines.len().div_ceil(turns)) {
        broker.send(&topic, messages(part));
        let mut follow = feed_run(&lab, &broker.address, &["--follow"]);
        let mut child = follow
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_millis(chance.random_range(100..3500));
        assert!(!ended(&mut child, until), "a followed topic has no end");
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    assert!(killed >= turns / 2);
    // What is left, and then an end as it should be.
    let last: Answer = feed_run(&lab, &broker.address, &[])
        .output()
        .unwrap()
        .into();
    let last = last.done().json();
    assert_eq!(last["feeds"][0]["lag"], 0);
    let mut child = feed_run(&lab, &broker.address, &["--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(!ended(&mut child, Instant::now() + Duration::from_secs(2)));
    terminate(&child);
    assert!(ended(&mut child, Instant::now() + PATIENCE));
    let output: Answer = child.wait_with_output().unwrap().into();
    assert_eq!(output.done().json()["feeds"][0]["read"], 0);
    assert!(table(&lab) == table(&by_file), "the tables differ");
    assert_eq!(
        in_quarantine(&lab),
        expected["quarantined"].as_u64().unwrap()
    );
    let runs = runs(&lab).await;
    let each_once: Vec<i64> = (1..=i64::try_from(runs.len()).unwrap()).collect();
    assert_eq!(runs, each_once, "every run is in the log, once, in order");
    lab.run(&["audit", "verify"]).done();
}

#[test]
fn a_topic_is_refused_with_a_reason() {
    let broker = Broker::shared();
    let lab = lab("never.made");
    let fails = |arguments: &[&str], brokers: &str, exit: i32, code: &str, words: &[&str]| {
        let mut command = lab.command(arguments);
        let answer: Answer = command
            .env("QIHUI_KAFKA__BROKERS", brokers)
            .output()
            .unwrap()
            .into();
        answer.fails(exit, code, words);
    };
    let run = ["feed", "run", "licences", "--json"];
    fails(
        &run,
        "",
        2,
        "KafkaNotConfigured",
        &["`licences`", "[kafka]"],
    );
    fails(&run, &broker.address, 1, "TopicUnknown", &["`never.made`"]);
    let follow = ["feed", "run", "vat_declaration", "--follow", "--json"];
    fails(
        &follow,
        &broker.address,
        2,
        "FeedIsNoTopic",
        &["`vat_declaration`"],
    );
    let both = [
        "feed", "run", "licences", "--follow", "--from", "x", "--json",
    ];
    fails(&both, &broker.address, 2, "BadUsage", &["--follow"]);
    let mut impatient = lab.command(&run);
    impatient
        .env("QIHUI_KAFKA__BROKERS", "127.0.0.1:1")
        .env("QIHUI_KAFKA__WAIT_SECONDS", "1");
    let answer: Answer = impatient.output().unwrap().into();
    answer.fails(
        1,
        "KafkaUnavailable",
        &["127.0.0.1:1", "1 s", "nothing is lost"],
    );
    assert!(
        answer.stderr.contains("no broker answers: waiting"),
        "{}",
        answer.stderr
    );
    // The password is nowhere but in its file.
    let password = lab.write("password", "s3cret-of-kafka\n");
    let mut wrong = lab.command(&run);
    wrong
        .env("QIHUI_KAFKA__BROKERS", &broker.address)
        .env("QIHUI_KAFKA__SASL_PASSWORD_FILE", &password)
        .env("QIHUI_KAFKA__SECURITY_PROTOCOL", "pigeon");
    let answer: Answer = wrong.output().unwrap().into();
    answer.fails(2, "KafkaBadSettings", &["security.protocol"]);
    for file in files(&lab.hub()) {
        let content = fs::read(&file).unwrap();
        let secret = b"s3cret-of-kafka";
        assert!(
            !content.windows(secret.len()).any(|window| window == secret),
            "{file:?}"
        );
    }
}
