//! Leaks of the program as a whole, with what `docs/leaks.md` says of them. What the gate alone must not do is tested with
//! it, in `query/tests/it/leaks.rs`.
//!
//! The canaries are the codes and the declarations of every enterprise but one: the tax bureau reads them by law, and the
//! bank, to which that one enterprise consented, must not meet them anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qihui_audit::{AuditLog, LogKeys, SystemClock};
use qihui_catalog::Uscc;
use serde_json::Value;

use crate::service::shared::{Service, access_id, ask_bank, ask_tax, bare};
use crate::support::{Answer, Lab, files, query};

/// What nobody but the tax bureau may see.
fn canaries(lab: &Lab) -> BTreeSet<String> {
    let sql = "SELECT uscc, pzxh FROM vat_declaration";
    let answer = lab.tax(sql).done().json();
    let subject = lab.subject();
    let rows = answer["rows"].as_array().unwrap();
    let hidden = rows.iter().filter(|row| row["uscc"] != subject.as_str());
    let words: BTreeSet<String> = hidden
        .flat_map(|row| [&row["uscc"], &row["pzxh"]])
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect();
    assert!(words.len() > 40, "too few canaries: {words:?}");
    assert!(words.iter().all(|word| word.len() >= 8), "{words:?}");
    words
}

/// Checks that bytes hold no canary.
#[track_caller]
fn silent(canaries: &BTreeSet<String>, place: &str, bytes: &[u8]) {
    // Every canary begins in one of few ways; looking for those first is quick.
    let text = String::from_utf8_lossy(bytes);
    for canary in canaries {
        assert!(!text.contains(canary.as_str()), "{place} holds {canary}");
    }
}

/// Statements that reach for more than is there: through errors, nulls, joins, orders, sorts, sets and plans.
const REACHING: [&str; 22] = [
    "SELECT * FROM vat_declaration",
    "SELECT count(*), min(uscc), max(uscc), min(pzxh), max(pzxh) FROM vat_declaration",
    "SELECT uscc FROM vat_declaration WHERE cast(pzxh AS bigint) >= 0",
    "SELECT uscc FROM vat_declaration WHERE cast(uscc AS bigint) >= 0",
    "SELECT count(*) FROM vat_declaration WHERE 1 / (xse - 1) > 0 OR 1 / 0 > 0",
    "SELECT uscc FROM vat_declaration WHERE xse IS NULL",
    "SELECT uscc FROM vat_declaration WHERE xse IS DISTINCT FROM 1 ORDER BY xse DESC LIMIT 100",
    "SELECT string_agg(uscc, ','), string_agg(pzxh, ',') FROM vat_declaration",
    "SELECT array_agg(pzxh) FROM vat_declaration",
    "SELECT a.uscc, b.pzxh FROM vat_declaration a FULL JOIN vat_declaration b ON a.ynse = b.ynse",
    "SELECT a.uscc, b.uscc AS other FROM vat_declaration a CROSS JOIN vat_declaration b",
    "SELECT uscc, row_number() OVER (ORDER BY pzxh) AS n, lag(pzxh) OVER (ORDER BY pzxh) AS b FROM vat_declaration",
    "SELECT DISTINCT uscc FROM vat_declaration UNION SELECT pzxh FROM vat_declaration",
    "SELECT uscc FROM vat_declaration EXCEPT SELECT 'x'",
    "WITH v AS (SELECT * FROM vat_declaration) SELECT v.uscc, md5(v.pzxh) AS h FROM v",
    "SELECT uscc, (SELECT max(pzxh) FROM vat_declaration) AS m FROM vat_declaration",
    "EXPLAIN SELECT uscc, pzxh FROM vat_declaration WHERE xse > 0 ORDER BY pzxh LIMIT 3",
    "EXPLAIN ANALYZE SELECT * FROM vat_declaration",
    "SELECT jxse FROM vat_declaration",
    "SELECT * FROM \"vat_declaration$snapshots\"",
    "SELECT * FROM information_schema.columns",
    "SELECT uscc FROM vat_declaration WHERE regexp_like(pzxh, '(')",
];

#[test]
fn what_is_hidden_is_met_nowhere() {
    let lab = Lab::world();
    let canaries = canaries(&lab);
    lab.granted("uscc, pzxh, skssqq, xse");
    let (analyst, owner) = (lab.analyst(), lab.enterprise());
    let operator = lab.token(&["--role", "operator"]);
    // Little memory, so that what can be put aside is.
    let environment = [
        ("DIAGNOSTICS__LEVEL", "trace"),
        ("QUERY__MEMORY_BYTES", "16777216"),
    ];
    let service = Service::start_with(&lab, &environment);
    let mut answered = 0;
    for sql in REACHING {
        for kind in [
            "application/x-ndjson",
            "text/csv",
            "application/vnd.apache.arrow.stream",
        ] {
            let call = service
                .post("/v1/queries", ask_bank(sql))
                .with("accept", kind);
            let reply = call.with("te", "trailers").with_bearer(&analyst).send();
            let head = format!("{:?} {:?}", reply.headers, reply.trailers);
            silent(&canaries, sql, &reply.body);
            silent(&canaries, sql, head.as_bytes());
            answered += usize::from(reply.status == 200);
        }
    }
    assert!(answered >= 36, "{answered} were answered");
    // What is said of accesses, to who asked, to the enterprise and to the operator.
    let subject = lab.subject();
    let own = format!("/v1/enterprises/{subject}/accesses?limit=100");
    for (path, token) in [(own.as_str(), &owner), ("/metrics", &operator)] {
        let reply = service.get(path).with_bearer(token).send().is(200);
        assert!(!reply.body.is_empty());
        silent(&canaries, path, &reply.body);
    }
    service.tell();
    let (status, said) = service.ended();
    assert!(status.success() && !said.is_empty(), "{said:?}");
    silent(&canaries, "stderr", said.join("\n").as_bytes());
    for file in files(&lab.hub().join("log")) {
        let place = file.display().to_string();
        silent(&canaries, &place, &fs::read(&file).unwrap());
    }
    let bank = bodies_tell_nothing(&lab, &canaries);
    assert!(bank >= answered, "{bank} entries of the bank");
}

/// Opens the body of every entry of the log, as the auditor does. Those of the tax bureau, which sees all of it, may name
/// anybody; no other may. How many are about accesses of the bank.
fn bodies_tell_nothing(lab: &Lab, canaries: &BTreeSet<String>) -> usize {
    let keys = LogKeys::load(&lab.hub().join("keys")).unwrap();
    let folder = lab.hub().join("log");
    let log = AuditLog::open(&folder, &keys, Arc::new(SystemClock)).unwrap();
    let (mut bank, mut subject) = (0, 0);
    for entry in log.scan(0..log.size()) {
        let entry = entry.unwrap();
        let body: Value = serde_json::from_slice(&entry.body).unwrap();
        let kind = entry.leaf.kind.as_str();
        if body["org"] == "tax_bureau" {
            continue;
        }
        let place = format!("entry {}, {kind},", entry.index);
        silent(canaries, &place, &entry.body);
        let text = String::from_utf8_lossy(&entry.body);
        subject += usize::from(text.contains(&lab.subject()));
        bank += usize::from(body["org"] == "city_bank" && kind.starts_with("access."));
    }
    // Bodies that were not opened would not name anybody.
    assert!(subject > 0, "no body names the enterprise that consented");
    bank
}

/// What a process has put aside: the bytes of its open files in a folder, which have no names.
fn put_aside(process: u32, folder: &Path) -> Vec<Vec<u8>> {
    let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let of_folder = open.filter_map(|entry| {
        let path = entry.ok()?.path();
        let target = fs::read_link(&path).ok()?;
        target.starts_with(folder).then(|| fs::read(&path).ok())?
    });
    of_folder.filter(|bytes| !bytes.is_empty()).collect()
}

/// The tax bureau may see every row, and has the engine put rows aside while it sorts them: while the answer waits for a
/// client that does not read, the files are there, without a name, and hold nothing that can be read.
#[test]
fn what_is_put_aside_cannot_be_read_while_it_is_there() {
    let lab = Lab::world();
    let canaries = canaries(&lab);
    let inspector = lab.inspector();
    let memory = [("QUERY__MEMORY_BYTES", "50331648")];
    let service = Service::start_with(&lab, &memory);
    // A million rows: more than its memory holds, and far more than a socket does.
    let vat = "vat_declaration";
    let sql = format!(
        "SELECT a.uscc || b.uscc || c.pzxh AS c FROM {vat} a CROSS JOIN {vat} b CROSS JOIN {vat} c \
         CROSS JOIN (SELECT 1 AS one FROM {vat} LIMIT 4) d ORDER BY c"
    );
    let mut waiting = bare(&service, &inspector, &ask_tax(&sql));
    let id = access_id(&mut waiting);
    let spill = lab.hub().join("spill");
    let aside = put_aside(service.id(), &spill.canonicalize().unwrap());
    let bytes: usize = aside.iter().map(Vec::len).sum();
    assert!(bytes > 1 << 20, "{bytes} bytes are put aside");
    for file in &aside {
        // It is sealed in chunks: rows that can be read would stand at its beginning.
        let start = &file[..file.len().min(1 << 20)];
        silent(&canaries, "a file without a name", start);
    }
    assert!(files(&spill).is_empty(), "a file of {id} has a name");
    // They were there to be read: the answer holds them.
    let mut start = vec![0; 1 << 16];
    waiting.read_exact(&mut start).unwrap();
    let start = String::from_utf8_lossy(&start);
    let told = canaries.iter().filter(|word| start.contains(word.as_str()));
    assert!(told.count() > 0, "{start}");
    drop(waiting);
    service.stop();
}

/// What is done to a data file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// It and its sidecar, so that not even whose rows it has can be found out, lose their ends.
    Both,
    /// It loses its end.
    End,
    /// Its rows are overwritten.
    Rows,
}

/// Damages every data file of a dataset.
fn damage(lab: &Lab, dataset: &str, how: Damage) {
    let all = files(&lab.hub().join("warehouse").join(dataset));
    let ends = |end: &str| {
        let found = all
            .iter()
            .filter(|file| file.to_string_lossy().ends_with(end));
        let found: Vec<_> = found.collect();
        assert!(!found.is_empty(), "no {end} in {all:?}");
        found
    };
    let cut = |files: Vec<&PathBuf>| {
        for file in files {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }
    };
    match how {
        Damage::Both => {
            cut(ends(".idx"));
            cut(ends(".parquet"));
        }
        Damage::End => cut(ends(".parquet")),
        Damage::Rows => {
            for file in ends(".parquet") {
                let mut bytes = fs::read(file).unwrap();
                // The first columns; what says where they are stands at the end.
                let rows = bytes.len() / 8;
                bytes[4..rows].fill(0xff);
                fs::write(file, bytes).unwrap();
            }
        }
    }
}

/// Files have names, and there are as many as rows of everybody make: whoever asks hears that one cannot be read, and no more.
#[test]
fn what_cannot_be_read_is_named_to_the_operator_alone() {
    let dataset = "vat_declaration";
    for how in [Damage::Both, Damage::End, Damage::Rows] {
        let lab = Lab::world();
        lab.granted("uscc, xse");
        let (analyst, inspector) = (lab.analyst(), lab.inspector());
        damage(&lab, dataset, how);
        let folder = lab.hub().display().to_string();
        let says_no_file = |said: &str| {
            for word in ["part-", ".parquet", ".idx", "_qihui", "warehouse/", &folder] {
                assert!(!said.contains(word), "{how:?}: {word} in {said}");
            }
        };
        let service = Service::start_with(&lab, &[("DIAGNOSTICS__LEVEL", "error")]);
        let sql = "SELECT uscc, xse FROM vat_declaration ORDER BY xse";
        for (token, question) in [(&analyst, ask_bank(sql)), (&inspector, ask_tax(sql))] {
            let call = service.post("/v1/queries", question).with_bearer(token);
            let reply = call.send();
            reply.fails(500, "WarehouseUnreadable");
            says_no_file(&String::from_utf8_lossy(&reply.body));
        }
        service.tell();
        let (_, said) = service.ended();
        let told = |word: &str| said.iter().any(|line| line.contains(word));
        // What is wrong in the middle is found by the engine, whose words may quote values.
        let where_it_is = match how {
            Damage::Rows => told("rows of a table cannot be read") && told(dataset),
            Damage::Both | Damage::End => told("part-"),
        };
        assert!(where_it_is, "{how:?}: {said:?}");
        let answer = lab.tax(sql);
        answer.fails(1, "WarehouseUnreadable", &["operator"]);
        let error = answer.stderr.lines().last().unwrap();
        assert!(error.starts_with("error["), "{error}");
        says_no_file(error);
        says_no_file(&answer.stdout);
    }
}

/// Whether the hub knows a code is a matter of rows that are hidden: who names an enterprise that has some, and gave no
/// consent, hears what one hears of a code that nobody bears.
#[test]
fn a_subject_that_is_unknown_and_one_that_is_hidden_are_answered_alike() {
    let lab = Lab::world();
    let subject = lab.subject();
    let hidden = canaries(&lab)
        .into_iter()
        .find(|word| word.len() == 18 && *word != subject);
    let (hidden, unknown) = (hidden.unwrap(), "91330000142911651L".to_owned());
    let known = |code: &str| {
        let sql = format!("SELECT count(*) AS n FROM vat_declaration WHERE uscc = '{code}'");
        lab.tax(&sql).done().json()["rows"][0]["n"]
            .as_i64()
            .unwrap()
            > 0
    };
    assert!(known(&hidden) && !known(&unknown));
    let told = |sql: &str, codes: &[&str]| -> (i32, String) {
        let named: Vec<&str> = codes.iter().flat_map(|code| ["--subject", *code]).collect();
        let ask = query("city_bank", "policy.matching", &[sql]);
        let answer: Answer = lab.run(&[&ask[..], &named].concat());
        let last = answer.stderr.lines().last().unwrap_or_default().to_owned();
        (answer.code, last)
    };
    let vat = "SELECT uscc FROM vat_declaration";
    for sql in [
        vat,
        "EXPLAIN SELECT uscc FROM vat_declaration",
        "SELECT uscc FROM tax_levy",
        "SELECT jxse FROM vat_declaration",
        "SELECT nosuch FROM vat_declaration",
        "SELECT * FROM nosuch",
        "SELEC",
    ] {
        assert_eq!(told(sql, &[&hidden]), told(sql, &[&unknown]), "{sql}");
    }
    lab.granted("uscc, xse");
    assert_eq!(told(vat, &[&subject]).0, 0);
    for codes in [[&subject, &hidden], [&hidden, &subject]] {
        let there = told(vat, &codes.map(|code| code.as_str()));
        let codes = codes.map(|code| if *code == hidden { &unknown } else { code });
        assert_eq!(there, told(vat, &codes.map(|code| code.as_str())));
        assert_eq!(there.0, 3, "{there:?}");
    }
    // A look at a screen is of one enterprise; how many are named is seen from their codes alone.
    let also_unknown = Uscc::from_parts('9', '1', "330100", "00000001").unwrap();
    let also_unknown = also_unknown.as_str();
    assert!(!known(also_unknown));
    lab.granted_with("uscc, pzxh", "actions: [VIEW]");
    let looked = |codes: [&str; 2]| {
        let named = codes.map(|code| ["--subject", code]).concat();
        let ask = query("city_bank", "policy.matching", &["--action", "view", vat]);
        let answer = lab.run(&[&ask[..], &named].concat());
        let last = answer.stderr.lines().last().unwrap_or_default().to_owned();
        (answer.code, last)
    };
    assert_eq!(looked([&subject, &subject]).0, 0);
    let two = looked([&subject, &hidden]);
    assert!(two.1.contains("OneSubjectOnly"), "{two:?}");
    for codes in [
        [unknown.as_str(), also_unknown],
        [&unknown, &hidden],
        [&hidden, &unknown],
        [&unknown, &subject],
        [&subject, &unknown],
    ] {
        assert_eq!(looked(codes), two, "{codes:?}");
    }
    assert_eq!(looked([&unknown, &unknown]), looked([&hidden, &hidden]));
    // Where rows need no consent, there are none of an enterprise that is not known.
    let open = query(
        "city_bank",
        "matching.supply_demand",
        &["--subject", &unknown],
    );
    let sql = "SELECT count(*) AS n FROM enterprise_registration";
    let answer = lab.json(&[&open[..], &[sql]].concat()).done().json();
    assert_eq!(answer["rows"][0]["n"], 0);
}

/// The same statement, asked in turn by those who may see nothing, one enterprise and everything, and again after each
/// change: nothing of an answer, a plan or a decision is kept for another principal, purpose or time.
#[test]
fn nothing_is_kept_for_another_principal_or_another_time() {
    let lab = Lab::world();
    let (analyst, inspector) = (lab.analyst(), lab.inspector());
    let service = Service::start(&lab);
    // Every condition of the statement can be used to skip pages, and what is skipped could be remembered.
    let sql =
        "SELECT uscc, xse FROM vat_declaration WHERE xse > 0 AND uscc > '0' ORDER BY uscc, xse";
    let ask = |question: String, token: &str| -> Vec<Value> {
        // Answers to requests that may be repeated are kept; a question is none of them.
        let call = service
            .post("/v1/queries", question)
            .with("idempotency-key", "once");
        call.with_bearer(token).send().is(200).rows()
    };
    let all = ask(ask_tax(sql), &inspector);
    let of_subject = |row: &&Value| row["uscc"] == lab.subject().as_str();
    let own: Vec<Value> = all.iter().filter(of_subject).cloned().collect();
    assert!(!own.is_empty() && own.len() < all.len());
    let in_turn = |bank: &[Value]| {
        for _ in 0..3 {
            assert_eq!(ask(ask_bank(sql), &analyst), bank);
            assert_eq!(ask(ask_tax(sql), &inspector), all);
        }
    };
    in_turn(&[]);
    let first = lab.granted("uscc, xse");
    in_turn(&own);
    let paused = ["consent", "pause", &first];
    lab.json(&paused).done();
    in_turn(&[]);
    lab.json(&["consent", "resume", &first]).done();
    in_turn(&own);
    lab.json(&["consent", "withdraw", &first]).done();
    in_turn(&[]);
    lab.granted("uscc, xse");
    in_turn(&own);
    service.stop();
}

/// The rows of the table of `docs/leaks.md` whose last cell names tests.
fn named_tests() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/leaks.md")).unwrap();
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let tests = cells.last().unwrap().split('`').skip(1).step_by(2);
        (line.to_owned(), tests.map(str::to_owned).collect())
    })
    .collect()
}

#[test]
fn every_test_that_the_table_of_leaks_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [
        "tests",
        "query/tests",
        "query/src",
        "consent/src",
        "pipelines/src",
    ];
    let sources: Vec<String> = places
        .iter()
        .flat_map(|place| files(&root.join(place)))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let rows = named_tests();
    assert!(
        rows.len() > 20,
        "the table is written in another way than this test reads"
    );
    for (row, tests) in rows {
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let definition = format!("fn {test}(");
            let there = sources.iter().any(|text| {
                let mut found = text.match_indices(&definition);
                found.any(|(at, _)| {
                    let before = text[..at].trim_end_matches("async ").trim_end();
                    before.ends_with(']') && before.contains("test")
                })
            });
            assert!(there, "`{test}` is no test: {row}");
        }
    }
}
