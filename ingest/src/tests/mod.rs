//! Tests of whole runs. The fixture is a small feed in both formats, a table in memory, and numbers that are a
//! function of the enterprise.

mod bad_input;
#[path = "../../../tests/it/broker.rs"]
mod broker;
mod golden;
mod limits;
mod messages;
mod outcomes;
mod promises;
mod shipped;
mod topics;
mod warehouse;
mod workbooks;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use qihui_catalog::{
    CodeListRef, Column, ColumnType, Contract, DatasetId, Encoding, EnterpriseNo,
    EnterpriseNumbers, FeedFormat, FeedSpec, Level, MessageForm, NumberRequest, NumbersError,
    Partition, QualityRule, Tombstone, Unit, Uscc,
};
use tempfile::TempDir;

use crate::{
    Counts, IngestError, Landing, Limits, Preview, Quarantine, QuarantineEntry, Quiet, RunOptions,
    RunReport,
    run::{Job, Place},
    tally::Tally,
};

/// Numbers enterprises by the serial inside their code, so that every process gives the same numbers.
pub(crate) struct SerialNumbers;

impl SerialNumbers {
    fn number(uscc: &Uscc) -> EnterpriseNo {
        EnterpriseNo(
            uscc.as_str()[8..16]
                .parse::<u32>()
                .map_or(1, |serial| serial + 1),
        )
    }
}

impl EnterpriseNumbers for SerialNumbers {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        Ok(wanted
            .iter()
            .map(|request| Self::number(&request.uscc))
            .collect())
    }

    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        Ok(usccs.iter().map(|uscc| Some(Self::number(uscc))).collect())
    }

    fn uscc_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        Ok(numbers.iter().map(|_| None).collect())
    }
}

/// The code of the enterprise with this serial.
pub(crate) fn uscc(serial: u32) -> String {
    Uscc::from_parts('9', '1', "330106", &format!("{serial:08}"))
        .unwrap()
        .to_string()
}

fn column(name: &str, ty: ColumnType) -> Column {
    Column {
        name: name.to_owned(),
        title_cn: name.to_owned(),
        description: name.to_owned(),
        ty,
        nullable: true,
        level: Level::L2,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    }
}

fn listed(name: &str, list: &str, at: Option<&str>) -> Column {
    let code_list = Some(CodeListRef {
        name: list.to_owned(),
        at: at.map(str::to_owned),
    });
    Column {
        code_list,
        ..column(name, ColumnType::String)
    }
}

/// A contract with every type, a personal column, a code list by date, and rules.
pub(crate) fn contract() -> Contract {
    let money = ColumnType::Decimal {
        precision: 18,
        scale: 2,
    };
    let from_zero = QualityRule::Range {
        min: Some(qihui_catalog::Bound::Number(0)),
        max: None,
    };
    Contract {
        id: DatasetId::new("payments").unwrap(),
        version: "1.0.0".to_owned(),
        title_en: "Payments".to_owned(),
        title_cn: "缴款".to_owned(),
        description: "What was paid".to_owned(),
        description_cn: "缴款".to_owned(),
        owner: "tax".to_owned(),
        row_level: Level::L2,
        key: vec!["serial".to_owned()],
        uscc: "uscc".to_owned(),
        event_date: Some("paid_on".to_owned()),
        sequence: vec!["changed".to_owned()],
        partition: Partition::None,
        window: None,
        freshness_days: None,
        feeds: Vec::new(),
        columns: vec![
            column("uscc", ColumnType::String),
            column("serial", ColumnType::String),
            Column {
                quality: vec![QualityRule::Length { min: 1, max: 40 }],
                ..column("name", ColumnType::String)
            },
            Column {
                level: Level::L4,
                ..column("person", ColumnType::String)
            },
            Column {
                nullable: false,
                quality: vec![from_zero],
                ..column("amount", money)
            },
            listed("amountcur", "currency", None),
            listed("grade", "customs_credit", Some("paid_on")),
            column("paid_on", ColumnType::Date),
            Column {
                quality: vec![QualityRule::NotAfter {
                    column: "paid_on".to_owned(),
                }],
                ..column("due_on", ColumnType::Date)
            },
            column("public", ColumnType::Boolean),
            column("pages", ColumnType::Int32),
            column("visits", ColumnType::Int64),
            column("changed", ColumnType::Timestamp),
            column("department", ColumnType::String),
        ],
        hash: [1; 32],
    }
}

/// The header of the CSV form, and the keys of the JSON form.
pub(crate) const HEADER: &str =
    "code,serial,name,person,amount,currency,grade,paid,due,public,pages,visits,changed,mark,note";

/// The feed that fills it.
pub(crate) fn feed(format: FeedFormat, encoding: Encoding) -> FeedSpec {
    let columns = [
        ("code", "uscc"),
        ("uscc", "uscc"),
        ("serial", "serial"),
        ("name", "name"),
        ("person", "person"),
        ("amount", "amount"),
        ("currency", "amountcur"),
        ("grade", "grade"),
        ("paid", "paid_on"),
        ("due", "due_on"),
        ("public", "public"),
        ("pages", "pages"),
        ("visits", "visits"),
        ("changed", "changed"),
    ];
    let text = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
    FeedSpec {
        name: "payments".parse().unwrap(),
        version: "1.0.0".to_owned(),
        title_en: "Payments".to_owned(),
        title_cn: "缴款".to_owned(),
        dataset: DatasetId::new("payments").unwrap(),
        format,
        encoding,
        file_pattern: "payments*".to_owned(),
        topic: None,
        delimiter: b',',
        message: (format == FeedFormat::Xml).then(message_form),
        sheets: BTreeSet::new(),
        columns: columns.into_iter().map(text).collect(),
        ignored: BTreeSet::from(["note".to_owned()]),
        constants: BTreeMap::from([text(("department", "税务"))]),
        units: BTreeMap::new(),
        booleans: BTreeMap::new(),
        tombstone: Some(Tombstone {
            column: "mark".to_owned(),
            value: "D".to_owned(),
        }),
        hash: [2; 32],
    }
}

/// The form of its messages.
pub(crate) fn message_form() -> MessageForm {
    MessageForm {
        namespace: NAMESPACE.to_owned(),
        envelope: "Payments".to_owned(),
        message: "Payment".to_owned(),
        head: BTreeSet::from(["Head".to_owned()]),
        list: "Items".to_owned(),
        line: "Item".to_owned(),
        max_lines: 50,
        ignored: BTreeSet::from(["Sign".to_owned()]),
        swap: None,
    }
}

pub(crate) const NAMESPACE: &str = "urn:example:payments";
/// The columns that stand in the head of a message.
const HEAD: [&str; 6] = ["code", "name", "person", "currency", "paid", "note"];

/// The lines of the CSV form as messages: those that follow each other with equal heads share one. What is no record
/// becomes a message that is none.
pub(crate) fn document(lines: &[String]) -> String {
    let mut text =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Payments xmlns=\"{NAMESPACE}\">\n");
    let mut open: Option<String> = None;
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let names: Vec<&str> = HEADER.split(',').collect();
        let fits = cells.len() == names.len();
        let (mut head, mut own) = (String::new(), String::new());
        for (name, cell) in names
            .iter()
            .zip(&cells)
            .filter(|(_, cell)| !cell.is_empty())
        {
            let out = if HEAD.contains(name) {
                &mut head
            } else {
                &mut own
            };
            out.push_str(&format!("<{name}>{cell}</{name}>"));
        }
        if open.as_ref().is_some_and(|open| !fits || *open != head) {
            text.push_str("</Items></Payment>\n");
            open = None;
        }
        if !fits {
            text.push_str("<Payment><Head/></Payment>\n");
            continue;
        }
        if open.is_none() {
            text.push_str(&format!("<Payment><Head>{head}</Head>\n<Items>"));
            open = Some(head);
        }
        text.push_str(&format!("<Item>{own}</Item>\n"));
    }
    if open.is_some() {
        text.push_str("</Items></Payment>\n");
    }
    text.push_str("</Payments>\n");
    text
}

/// The lines of the CSV form as a workbook: a title, the header in the third row, a sheet for every 40 records, and a
/// hidden sheet that is no data. What is no record becomes a row with its text.
pub(crate) fn workbook(lines: &[String]) -> Vec<u8> {
    let mut book = rust_xlsxwriter::Workbook::new();
    let title = rust_xlsxwriter::Format::new().set_bold();
    for lines in lines.chunks(40) {
        let sheet = book.add_worksheet();
        sheet.merge_range(0, 0, 0, 14, "缴款情况", &title).unwrap();
        for (column, name) in (0..).zip(HEADER.split(',')) {
            sheet.write_string(2, column, name).unwrap();
        }
        for (row, line) in (3..).zip(lines) {
            for (column, cell) in (0..).zip(line.split(',')) {
                match cell.parse::<f64>() {
                    Ok(number) if cell.len() < 10 => sheet.write_number(row, column, number),
                    _ => sheet.write_string(row, column, cell),
                }
                .unwrap();
            }
        }
    }
    let hidden = book.add_worksheet();
    hidden.set_hidden(true);
    hidden.write_string(0, 0, "not data").unwrap();
    book.save_to_buffer().unwrap()
}

/// A folder with files of a feed, and the state of its runs.
pub(crate) struct Fixture {
    pub dir: TempDir,
    pub feed: Arc<FeedSpec>,
    pub contract: Arc<Contract>,
    pub options: RunOptions,
}

impl Fixture {
    pub fn new(format: FeedFormat, encoding: Encoding) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        let (feed, contract) = (Arc::new(feed(format, encoding)), Arc::new(contract()));
        Self {
            dir,
            feed,
            contract,
            options: RunOptions::default(),
        }
    }

    pub fn csv() -> Self {
        Self::new(FeedFormat::Csv, Encoding::Detect)
    }

    pub fn json() -> Self {
        Self::new(FeedFormat::JsonLines, Encoding::Utf8)
    }

    pub fn xml() -> Self {
        Self::new(FeedFormat::Xml, Encoding::Detect)
    }

    pub fn xlsx() -> Self {
        Self::new(FeedFormat::Xlsx, Encoding::Detect)
    }

    pub fn of(format: FeedFormat) -> Self {
        match format {
            FeedFormat::Csv => Self::csv(),
            FeedFormat::JsonLines => Self::json(),
            FeedFormat::Xml => Self::xml(),
            FeedFormat::Xlsx => Self::xlsx(),
        }
    }

    /// The lines of the CSV form in the format of the feed.
    pub fn render(&self, lines: &[String]) -> Vec<u8> {
        match self.feed.format {
            FeedFormat::Csv => format!("{HEADER}\n{}\n", lines.join("\n")).into_bytes(),
            FeedFormat::JsonLines => unreachable!("no test asks for it"),
            FeedFormat::Xml => document(lines).into_bytes(),
            FeedFormat::Xlsx => workbook(lines),
        }
    }

    /// Writes a file with the lines of the CSV form, in the format of the feed.
    pub fn write_records(&self, name: &str, lines: &[String]) -> PathBuf {
        self.write(name, self.render(lines))
    }

    pub fn chunks_of(mut self, chunk_rows: usize) -> Self {
        self.options.limits.chunk_rows = chunk_rows;
        self
    }

    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    pub fn input(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.input().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes a CSV file with the header of the feed.
    pub fn write_csv(&self, name: &str, records: &[String]) -> PathBuf {
        self.write(name, format!("{HEADER}\n{}\n", records.join("\n")))
    }

    pub fn preview(&self) -> Preview {
        Preview::new(&self.contract, None)
    }

    pub fn place(&self) -> Place {
        Place {
            numbers: Arc::new(SerialNumbers),
            state_dir: self.state(),
            input_root: None,
        }
    }

    pub fn job(&self) -> Job {
        Job::bind(&self.feed, &self.contract, &self.options, Arc::new(Quiet)).unwrap()
    }

    pub fn run<L: Landing>(&self, input: &Path, landing: &mut L) -> Result<RunReport, IngestError> {
        let run = async {
            self.job()
                .run(&self.place(), input, landing, &mut Tally::default())
                .await
        };
        runtime().block_on(run)
    }

    pub fn quarantine(&self) -> Vec<QuarantineEntry> {
        let entries = Quarantine::new(&self.state())
            .entries(&self.feed.name)
            .unwrap();
        entries.collect::<Result<_, _>>().unwrap()
    }

    /// The first reason of each quarantined record, by line.
    pub fn reasons(&self) -> Vec<(u64, String)> {
        self.quarantine()
            .iter()
            .map(|entry| (entry.line, entry.problems[0].to_string()))
            .collect()
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A good record of the CSV form; `version` orders the versions of a serial.
pub(crate) fn record(enterprise: u32, serial: u32, version: u32, amount: &str) -> String {
    format!(
        "{},S{serial},某公司{enterprise},张三,{amount},CNY,失信企业,2024-05-06,2024/5/1,是,3,4,2024-05-06 10:{:02}:{:02},,x",
        uscc(enterprise),
        version / 60,
        version % 60,
    )
}

/// A retraction in the CSV form.
pub(crate) fn retraction(enterprise: u32, serial: u32, version: u32) -> String {
    let (minute, second) = (version / 60, version % 60);
    format!(
        "{},S{serial},,,,,,,,,,,2024-05-06 10:{minute:02}:{second:02},D,",
        uscc(enterprise)
    )
}
