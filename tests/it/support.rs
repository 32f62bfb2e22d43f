//! A hub on a disk, and the real binary to work on it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// How many enterprises the shared world has.
pub const ENTERPRISES: &str = "40";

/// What a command did.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, after checking that the command did what it was asked.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stderr, self.stdout);
        self
    }

    /// Checks exit code and error, in the line and (where there is a document) in the document.
    #[track_caller]
    pub fn fails(&self, exit: i32, code: &str, words: &[&str]) {
        let last = self.stderr.lines().last().unwrap_or_default();
        assert_eq!(self.code, exit, "{self:?}");
        assert!(last.starts_with(&format!("error[{code}]: ")), "{self:?}");
        for word in words {
            assert!(last.contains(word), "`{word}` is not in: {last}");
        }
        if !self.stdout.is_empty() {
            assert_eq!(self.json()["error"]["code"], code);
        }
    }
}

/// Takes from a command what the environment of the tests says about hubs.
pub fn forget_hubs(command: &mut Command) {
    let ours = |name: &OsStr| name.to_string_lossy().starts_with("QIHUI_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
}

/// The binary, without what the environment of the tests says about hubs.
pub fn qihui() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qihui"));
    forget_hubs(&mut command);
    // Whatever the locale, the answers are the same.
    command.env("LC_ALL", "tr_TR.UTF-8");
    command
}

/// A temporary folder with a hub in it.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    /// An empty folder.
    pub fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    /// An empty hub.
    pub fn empty() -> Self {
        let lab = Self::bare();
        lab.run(&["init"]).done();
        lab
    }

    /// A copy of the world that the tests share: forty enterprises over three months, an organisation `city_bank` with
    /// an agreement about VAT declarations, an organisation `tax_bureau` that sees them by law, and a signatory of the
    /// enterprise [`Lab::subject`].
    pub fn world() -> Self {
        static WORLD: OnceLock<Lab> = OnceLock::new();
        let lab = Self::bare();
        copy(WORLD.get_or_init(Self::make_world).path(), lab.path());
        lab
    }

    fn make_world() -> Self {
        let lab = Self::empty();
        let feeds = lab.synth(ENTERPRISES, "3", "0.1");
        lab.run(&["feed", "run", "--all", "--from", &feeds]).done();
        let bank = [
            "org",
            "add",
            "city_bank",
            "--name",
            "City Bank",
            "--kind",
            "bank",
        ];
        lab.run(&[&bank[..], &["--purpose", "matching.supply_demand"]].concat())
            .done();
        lab.run(&[
            "org",
            "add",
            "tax_bureau",
            "--name",
            "税务局",
            "--kind",
            "department",
        ])
        .done();
        lab.write(
            "bank.yaml",
            agreement("city_bank", "policy.matching", "consent"),
        );
        lab.write(
            "tax.yaml",
            agreement(
                "tax_bureau",
                "supervision.tax",
                "{statute: {law: 税收征收管理法}}",
            ),
        );
        lab.run(&["agreement", "add", &lab.file("bank.yaml")])
            .done();
        lab.run(&["agreement", "add", &lab.file("tax.yaml")]).done();
        lab.run(&["keygen", "--out", &lab.file("owner.key")]).done();
        let subject = lab.find_subject();
        lab.run(&[
            "signatory",
            "add",
            &subject,
            "owner",
            "--key",
            &lab.file("owner.key.pub"),
        ])
        .done();
        lab.write("subject", &subject);
        lab
    }

    fn find_subject(&self) -> String {
        let sql = "SELECT uscc FROM vat_declaration GROUP BY uscc HAVING count(xse) >= 2 ORDER BY uscc LIMIT 1";
        let answer = self.tax(sql).done().json();
        answer["rows"][0]["uscc"].as_str().unwrap().to_owned()
    }

    /// The enterprise with a signatory.
    pub fn subject(&self) -> String {
        fs::read_to_string(self.path().join("subject")).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn hub(&self) -> PathBuf {
        self.path().join("hub")
    }

    /// A path in the folder, as an argument.
    pub fn file(&self, name: &str) -> String {
        self.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path().join(name), content).unwrap();
        self.file(name)
    }

    /// The binary, on this hub.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = qihui();
        command
            .arg("--data-dir")
            .arg(self.hub())
            .args(arguments)
            .current_dir(self.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Answer {
        self.command(arguments).output().unwrap().into()
    }

    /// Generates feeds of so many enterprises over so many months, with a share of something wrong; the folder, `feeds`.
    pub fn synth(&self, enterprises: &str, months: &str, ugly: &str) -> String {
        let feeds = self.file("feeds");
        let size = ["--enterprises", enterprises, "--months", months];
        let words = [&["synth", "--out", &feeds, "--ugly", ugly], &size[..]];
        self.run(&words.concat()).done();
        feeds
    }

    /// With one JSON document.
    pub fn json(&self, arguments: &[&str]) -> Answer {
        self.run(&[arguments, &["--json"]].concat())
    }

    /// What the bank is answered.
    pub fn bank(&self, sql: &str) -> Answer {
        self.json(&query("city_bank", "policy.matching", &[sql]))
    }

    /// What the tax bureau is answered, which sees every declaration by law.
    pub fn tax(&self, sql: &str) -> Answer {
        self.json(&query("tax_bureau", "supervision.tax", &[sql]))
    }

    /// Asks the enterprise for a consent over columns, and has it signed.
    pub fn granted(&self, columns: &str) -> String {
        self.granted_with(columns, "actions: [QUERY]")
    }

    /// The same with other lines in place of the actions.
    pub fn granted_with(&self, columns: &str, lines: &str) -> String {
        let wish = request(&self.subject(), columns, 90).replace("actions: [QUERY]", lines);
        let file = self.write("request.yaml", wish);
        let requested = self.json(&["consent", "request", &file]).done().json();
        let id = requested["consent_id"].as_str().unwrap().to_owned();
        self.sign(&id).done();
        id
    }

    pub fn sign(&self, id: &str) -> Answer {
        self.json(&[
            "consent",
            "sign",
            id,
            "--as",
            "owner",
            "--key",
            &self.file("owner.key"),
        ])
    }
}

/// The words of a query of an organisation for a purpose, and what follows them.
pub fn query<'a>(org: &'a str, purpose: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["query", "--org", org, "--purpose", purpose], more].concat()
}

/// An agreement about VAT declarations.
pub fn agreement(org: &str, purpose: &str, basis: &str) -> String {
    format!(
        "id: {org}-vat
org: {org}
dataset: vat_declaration
purposes: [{purpose}]
basis: {basis}
valid_until: 2099-01-01
columns:
  - {{name: uscc}}
  - {{name: pzxh, form: clear, reason: names the declaration}}
  - {{name: skssqq, form: clear, reason: the period}}
  - {{name: xse, form: clear, reason: decides}}
  - {{name: ynse, form: clear, reason: decides}}
"
    )
}

/// A request of the bank for a consent that holds for so many days.
pub fn request(principal: &str, columns: &str, days: i64) -> String {
    // Dates are those of Asia/Shanghai.
    let now = chrono::Utc::now() + chrono::TimeDelta::hours(8);
    let expires = now.date_naive() + chrono::TimeDelta::days(days);
    format!(
        "principal: {principal}
consumer: {{org: city_bank}}
purpose: {{code: policy.matching}}
notice: {{lang: en, text: May the bank look at your declarations?}}
scope:
  - dataset: vat_declaration
    columns: [{columns}]
    data_range: {{from: 2024-01-01, to: 2027-01-01}}
actions: [QUERY]
expires: {expires}
"
    )
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
