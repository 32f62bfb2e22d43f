//! ING-1 and ING-2 as properties, against a table in memory.

use proptest::prelude::*;

use super::*;
use crate::{
    CommitFault, CommitInfo, LandingRows, Outcome, PreviewClassified, checkpoint::Position,
    frame::Framer,
};

/// Good records, records with faults, records that are no records.
fn ugly_line() -> impl Strategy<Value = Vec<u8>> {
    let good =
        (0_u32..40, 0_u32..12, 0_u32..5).prop_map(|(e, s, v)| record(e, s, v, "12.5").into_bytes());
    let gone =
        (0_u32..40, 0_u32..12, 0_u32..5).prop_map(|(e, s, v)| retraction(e, s, v).into_bytes());
    let broken = (good.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut line, at, byte)| {
            let at = at.index(line.len());
            line[at] = byte;
            line
        },
    );
    let cell = prop::sample::select(vec![
        "",
        "-",
        "无",
        "\"",
        "\"a\nb\"",
        "\"a\"\"b\"",
        "\u{feff}",
        "１２",
        "1e5",
        "公示",
        "\0",
        "2099-12-31",
        "💥",
    ]);
    let mixed = prop::collection::vec(cell, 0..20).prop_map(|cells| cells.join(",").into_bytes());
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    prop_oneof![6 => good, 1 => gone, 2 => broken, 2 => mixed, 1 => bytes]
}

fn ugly_file() -> impl Strategy<Value = Vec<u8>> {
    let end = prop::sample::select(vec![&b"\n"[..], b"\r\n", b"\n\n"]);
    prop::collection::vec((ugly_line(), end), 0..60).prop_map(|lines| {
        lines
            .into_iter()
            .flat_map(|(line, end)| [line, end.to_vec()].concat())
            .collect()
    })
}

/// Documents as they come: messages, some of them spoiled; whole, or spoiled as a whole.
fn ugly_document() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => (0_u32..40, 0_u32..12, 0_u32..5).prop_map(|(e, s, v)| record(e, s, v, "12.5")),
        1 => (0_u32..40, 0_u32..12, 0_u32..5).prop_map(|(e, s, v)| retraction(e, s, v)),
        1 => Just("broken".to_owned()),
    ];
    let spoiled = prop::sample::select(vec![
        "<serial>S1</serial>",
        "<Item>",
        "</Item>",
        "</Items>",
        "<!-- -->",
        "<![CDATA[x]]>",
        "&amp;",
        "&#65;",
        "&x;",
        "&",
        "<x:y/>",
        "<a b='1' b='2'/>",
        "<Payment>",
        "</Payment>",
        "</Payments>",
        "\0",
        "<!DOCTYPE a>",
        "<",
        ">",
        "海关",
    ]);
    let change = (any::<prop::sample::Index>(), 0_usize..40, spoiled);
    let lines = prop::collection::vec(line, 0..40);
    (
        lines,
        prop::collection::vec(change, 0..4),
        any::<bool>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(lines, changes, cut, end)| {
            let mut bytes = document(&lines).into_bytes();
            for (at, removed, inserted) in changes {
                let at = at.index(bytes.len());
                let to = (at + removed).min(bytes.len());
                bytes.splice(at..to, inserted.bytes());
            }
            if cut {
                bytes.truncate(end.index(bytes.len()).max(1));
            }
            bytes
        })
}

/// The files of formats that any bytes make a source of.
fn ugly_source() -> impl Strategy<Value = (FeedFormat, Vec<u8>)> {
    let csv =
        ugly_file().prop_map(|body| (FeedFormat::Csv, [HEADER.as_bytes(), b"\n", &body].concat()));
    let json = ugly_file().prop_map(|body| (FeedFormat::JsonLines, body));
    let xml = ugly_document().prop_map(|document| (FeedFormat::Xml, document));
    prop_oneof![1 => csv, 1 => json, 2 => xml]
}

/// Sources of every form for a process that is killed.
fn killed_source() -> impl Strategy<Value = (FeedFormat, Vec<u8>)> {
    let csv = prop::collection::vec(ugly_line(), 1..50)
        .prop_map(|body| [HEADER.as_bytes(), b"\n", &body.join(&b'\n'), b"\n"].concat());
    let line = prop_oneof![
        8 => (0_u32..40, 0_u32..12, 0_u32..5).prop_map(|(e, s, v)| record(e, s, v, "12.5")),
        1 => Just("broken".to_owned()),
    ];
    let xlsx = prop::collection::vec(line, 1..100).prop_map(|lines| workbook(&lines));
    prop_oneof![
        1 => csv.prop_map(|content| (FeedFormat::Csv, content)),
        1 => ugly_document().prop_map(|content| (FeedFormat::Xml, content)),
        1 => xlsx.prop_map(|content| (FeedFormat::Xlsx, content)),
    ]
}

/// How many records a file of lines holds, header not counted; none for messages, which are records only once they
/// are taken apart.
fn lines_in(fixture: &Fixture, content: &[u8]) -> Option<u64> {
    let (quoting, header) = match fixture.feed.format {
        FeedFormat::Csv => {
            let quoting = crate::frame::Quoting {
                delimiter: b',',
                quote: b'"',
            };
            (Some(quoting), 1)
        }
        FeedFormat::JsonLines => (None, 0),
        FeedFormat::Xml | FeedFormat::Xlsx => return None,
    };
    // What marks the encoding is no part of the first line.
    let text = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
    let mut framer = Framer::new(text, Position::START, quoting, &fixture.options.limits);
    while framer.next().unwrap().is_some() {}
    Some(framer.position().unwrap().record - header)
}

/// A file of lines that holds nothing but the mark of its encoding holds no record.
#[test]
fn ing_1_the_mark_of_an_encoding_is_no_record() {
    let fixture = Fixture::of(FeedFormat::JsonLines);
    for (content, lines) in [(&b"\xEF\xBB\xBF\n"[..], 0), (b"\xEF\xBB\xBFx\n", 1)] {
        let path = fixture.write("payments.txt", content);
        let report = fixture.run(&path, &mut fixture.preview()).unwrap();
        assert_eq!(report.counts.read, lines);
        assert_eq!(lines_in(&fixture, content), Some(lines));
    }
}

/// The bytes of an entry are those of the source: at its place, for a line of a message with its head before them.
fn stands_in(raw: &[u8], offset: usize, content: &[u8]) -> bool {
    let source = &content[offset..];
    let with_head = |own: usize| {
        source.starts_with(&raw[own..]) && memchr::memmem::find(content, &raw[..own]).is_some()
    };
    source.starts_with(raw) || memchr::memmem::find_iter(raw, b"<Item").any(with_head)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn ing_1_every_record_of_an_ugly_file_is_accounted_for((format, content) in ugly_source(), chunk_rows in 1_usize..20) {
        let fixture = Fixture::of(format).chunks_of(chunk_rows);
        let path = fixture.write("payments.txt", &content);
        let report = match fixture.run(&path, &mut fixture.preview()) {
            Ok(report) => report,
            // Bytes that look like the mark of an encoding are not text of this feed.
            Err(error) => {
                prop_assert_eq!(error.code(), "UnexpectedEncoding");
                prop_assert!(format != FeedFormat::Xml);
                return Ok(());
            }
        };
        if let Some(expected) = lines_in(&fixture, &content) {
            prop_assert_eq!(report.counts.read, expected);
        }
        prop_assert_eq!(report.counts.accounted(), report.counts.read);
        prop_assert_eq!(report.reasons.values().sum::<u64>(), report.counts.quarantined);
        let entries = fixture.quarantine();
        prop_assert_eq!(entries.len() as u64, report.counts.quarantined);
        for entry in entries {
            let raw = Quarantine::new(&fixture.state()).raw(&fixture.feed.name, &entry.id).unwrap().unwrap();
            let at = usize::try_from(entry.offset).unwrap();
            prop_assert!(stands_in(&raw, at, &content), "{} at {at}", entry.problems[0]);
            prop_assert_eq!(raw.len() as u64, entry.length);
        }
    }

    #[test]
    fn ing_2_order_repetition_and_chunks_do_not_matter(
        records in prop::collection::vec((0_u32..12, 0_u32..6, any::<bool>(), 1_u32..4), 1..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        orders in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        chunk_rows in 1_usize..30,
        format in prop::sample::select(vec![FeedFormat::Csv, FeedFormat::Xml, FeedFormat::Xlsx]),
    ) {
        // A serial belongs to one enterprise for ever: who is first to claim one is a matter of order.
        let line = |(serial, version, gone, amount): &(u32, u32, bool, u32)| match gone {
            true => retraction(*serial, *serial, *version),
            false => record(*serial, *serial, *version, &amount.to_string()),
        };
        let lines: Vec<String> = records.iter().map(line).collect();
        let whole = Fixture::csv();
        let mut expected = whole.preview();
        whole.run(&whole.write_csv("payments.csv", &lines), &mut expected).unwrap();

        let fixture = Fixture::of(format).chunks_of(chunk_rows);
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut.index(lines.len())).collect();
        bounds.extend([0, lines.len()]);
        bounds.sort_unstable();
        let files: Vec<PathBuf> = bounds.windows(2).filter(|w| w[0] < w[1]).zip(0..)
            .map(|(w, i)| fixture.write_records(&format!("payments-{i}"), &lines[w[0]..w[1]])).collect();
        let mut table = fixture.preview();
        for file in orders.iter().map(|order| order.index(files.len())).chain(0..files.len()) {
            fixture.run(&files[file], &mut table).unwrap();
        }
        prop_assert_eq!(table.fingerprint(), expected.fingerprint());
        let again = fixture.run(&fixture.input(), &mut table).unwrap();
        prop_assert_eq!(again.landed() + again.counts.retracted, 0);
        prop_assert_eq!(table.fingerprint(), expected.fingerprint());
    }

    #[test]
    fn ing_2_killed_anywhere_and_resumed_is_as_never_killed(
        (format, content) in killed_source(),
        chunk_rows in 1_usize..9,
        kills in prop::collection::vec((0_usize..12, 0_usize..5), 0..8),
    ) {
        let whole = Fixture::of(format).chunks_of(chunk_rows);
        let mut expected = whole.preview();
        let uninterrupted = match whole.run(&whole.write("payments.csv", &content), &mut expected) {
            Ok(report) => report,
            Err(_) => return Ok(()),
        };
        let fixture = Fixture::of(format).chunks_of(chunk_rows);
        let path = fixture.write("payments.csv", &content);
        let mut table = Mortal { inner: fixture.preview(), steps_left: None };
        for (step, torn_bytes) in kills {
            table.steps_left = Some(step);
            if fixture.run(&path, &mut table).is_ok() {
                // It came through: what follows is another reading, with other counts.
                prop_assert_eq!(table.inner.fingerprint(), expected.fingerprint());
                return Ok(());
            }
            tear_journal(&fixture, torn_bytes);
        }
        table.steps_left = None;
        let report = fixture.run(&path, &mut table).unwrap();
        prop_assert_eq!(table.inner.fingerprint(), expected.fingerprint());
        prop_assert_eq!(report.counts, uninterrupted.counts);
        prop_assert_eq!(fixture.reasons(), whole.reasons());
        let reached: Vec<_> = report.runs().map(|run| (run.run, run.from, run.to, run.input_hash.clone(), run.counts)).collect();
        let never_killed: Vec<_> = uninterrupted.runs().map(|run| (run.run, run.from, run.to, run.input_hash.clone(), run.counts)).collect();
        prop_assert_eq!(reached, never_killed);
    }
}

/// A crash in the middle of a line leaves a part of it.
fn tear_journal(fixture: &Fixture, bytes: usize) {
    let path = fixture.state().join("runs/payments.jsonl");
    if let Ok(mut content) = fs::read(&path) {
        content.extend_from_slice(&b"{\"prepared\":{"[..bytes]);
        fs::write(&path, content).unwrap();
    }
}

/// A table whose process dies after a number of steps; every other death comes right after a commit.
pub(super) struct Mortal {
    pub inner: Preview,
    pub steps_left: Option<usize>,
}

impl Mortal {
    fn dies(&mut self) -> bool {
        match &mut self.steps_left {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    fn death() -> IngestError {
        IngestError::io("being killed", std::io::Error::other("killed"))
    }
}

#[async_trait::async_trait]
impl Landing for Mortal {
    type Classified = PreviewClassified;

    async fn last_run(&mut self, app_id: &str) -> Result<Option<i64>, IngestError> {
        self.inner.last_run(app_id).await
    }

    async fn version_of(&mut self, app_id: &str, run: i64) -> Result<Option<i64>, IngestError> {
        self.inner.version_of(app_id, run).await
    }

    async fn classify(
        &mut self,
        rows: &LandingRows,
    ) -> Result<(Vec<Outcome>, PreviewClassified), IngestError> {
        if self.dies() {
            Err(Self::death())
        } else {
            self.inner.classify(rows).await
        }
    }

    async fn commit(
        &mut self,
        classified: PreviewClassified,
        info: &CommitInfo,
    ) -> Result<i64, CommitFault> {
        if self.dies() {
            return Err(CommitFault::Failed(Self::death()));
        }
        let version = self.inner.commit(classified, info).await?;
        if self.dies() {
            Err(CommitFault::Failed(Self::death()))
        } else {
            Ok(version)
        }
    }
}

#[test]
fn ing_2_another_writers_commit_only_costs_a_try() {
    struct Busy(Preview, u32);
    #[async_trait::async_trait]
    impl Landing for Busy {
        type Classified = PreviewClassified;
        async fn last_run(&mut self, app_id: &str) -> Result<Option<i64>, IngestError> {
            self.0.last_run(app_id).await
        }
        async fn classify(
            &mut self,
            rows: &LandingRows,
        ) -> Result<(Vec<Outcome>, PreviewClassified), IngestError> {
            self.0.classify(rows).await
        }
        async fn commit(
            &mut self,
            classified: PreviewClassified,
            info: &CommitInfo,
        ) -> Result<i64, CommitFault> {
            match self.1.checked_sub(1) {
                None => self.0.commit(classified, info).await,
                Some(left) => {
                    self.1 = left;
                    Err(CommitFault::Conflict)
                }
            }
        }
    }
    let fixture = Fixture::csv();
    let path = fixture.write_csv("payments.csv", &[record(1, 1, 0, "1"), "broken".to_owned()]);
    let mut table = Busy(fixture.preview(), 3);
    let report = fixture.run(&path, &mut table).unwrap();
    assert_eq!(
        (
            report.landed(),
            report.counts.quarantined,
            report.runs().count()
        ),
        (1, 1, 1)
    );
    let mut table = Busy(fixture.preview(), u32::MAX);
    assert_eq!(
        fixture.run(&path, &mut table).unwrap_err().code(),
        "TableContended"
    );
}

#[test]
fn ing_2_a_file_that_changes_while_it_is_read_is_not_landed() {
    struct Writer(Preview, PathBuf);
    #[async_trait::async_trait]
    impl Landing for Writer {
        type Classified = PreviewClassified;
        async fn last_run(&mut self, app_id: &str) -> Result<Option<i64>, IngestError> {
            self.0.last_run(app_id).await
        }
        async fn classify(
            &mut self,
            rows: &LandingRows,
        ) -> Result<(Vec<Outcome>, PreviewClassified), IngestError> {
            use std::io::Write;
            fs::OpenOptions::new()
                .append(true)
                .open(&self.1)
                .unwrap()
                .write_all(b"more\n")
                .unwrap();
            self.0.classify(rows).await
        }
        async fn commit(
            &mut self,
            _: PreviewClassified,
            _: &CommitInfo,
        ) -> Result<i64, CommitFault> {
            unreachable!("nothing of a changed file is committed")
        }
    }
    let fixture = Fixture::csv();
    let path = fixture.write_csv("payments.csv", &[record(1, 1, 0, "1")]);
    let mut table = Writer(fixture.preview(), path.clone());
    assert_eq!(
        fixture.run(&path, &mut table).unwrap_err().code(),
        "SourceChanged"
    );
}

#[test]
fn ing_2_a_run_killed_right_after_its_commit_knows_its_version() {
    let fixture = Fixture::csv();
    let path = fixture.write_csv("payments.csv", &[record(1, 1, 0, "1")]);
    let mut table = Mortal {
        inner: fixture.preview(),
        steps_left: Some(2),
    };
    assert!(
        fixture.run(&path, &mut table).is_err(),
        "killed after its commit"
    );
    table.steps_left = None;
    let report = fixture.run(&path, &mut table).unwrap();
    let versions: Vec<_> = report.runs().map(|run| (run.run, run.version)).collect();
    assert_eq!(versions, [(1, Some(1))]);
}

#[test]
fn a_file_that_cannot_be_run_does_not_stop_the_others() {
    let fixture = Fixture::csv();
    fixture.write_csv("payments-1.csv", &[record(1, 1, 0, "1")]);
    fixture.write("payments-2.csv", "nothing like a header\n");
    fixture.write("payments-3.csv", "");
    fixture.write_csv("payments-4.csv", &[record(4, 4, 0, "4")]);
    let mut table = fixture.preview();
    let error = fixture.run(&fixture.input(), &mut table).unwrap_err();
    assert_eq!(error.code(), "BadHeader");
    assert!(
        error
            .to_string()
            .starts_with("2 of 4 files could not be run"),
        "{error}"
    );
    let IngestError::SomeFiles { more, done, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((more.len(), more[0].1.code()), (1, "EmptyFile"));
    assert_eq!((done.files.len(), done.landed()), (2, 2));
    assert_eq!(table.fingerprint().0, 2);
}
