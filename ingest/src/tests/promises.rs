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

fn records_in(fixture: &Fixture, content: &[u8]) -> u64 {
    let quoting = match fixture.feed.format {
        FeedFormat::Csv => Some(crate::frame::Quoting {
            delimiter: b',',
            quote: b'"',
        }),
        FeedFormat::JsonLines => None,
    };
    let mut framer = Framer::new(content, Position::START, quoting, &fixture.options.limits);
    while framer.next().unwrap().is_some() {}
    framer.position().unwrap().record
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn ing_1_every_record_of_an_ugly_file_is_accounted_for(body in ugly_file(), chunk_rows in 1_usize..20, json: bool) {
        let fixture = if json { Fixture::json() } else { Fixture::csv() }.chunks_of(chunk_rows);
        let content = if json { body } else { [HEADER.as_bytes(), b"\n", &body].concat() };
        let path = fixture.write("payments.txt", &content);
        let report = match fixture.run(&path, &mut fixture.preview()) {
            Ok(report) => report,
            // Bytes that look like the mark of an encoding are not text of this feed.
            Err(error) => { prop_assert_eq!(error.code(), "UnexpectedEncoding"); return Ok(()); }
        };
        let expected = records_in(&fixture, &content) - u64::from(!json);
        prop_assert_eq!(report.counts.read, expected);
        prop_assert_eq!(report.counts.accounted(), expected);
        prop_assert_eq!(report.reasons.values().sum::<u64>(), report.counts.quarantined);
        let entries = fixture.quarantine();
        prop_assert_eq!(entries.len() as u64, report.counts.quarantined);
        for entry in entries {
            let raw = Quarantine::new(&fixture.state()).raw(&fixture.feed.name, &entry.id).unwrap().unwrap();
            let at = usize::try_from(entry.offset).unwrap();
            prop_assert_eq!(&raw[..], &content[at..at + raw.len()]);
            prop_assert_eq!(raw.len() as u64, entry.length);
        }
    }

    #[test]
    fn ing_2_order_repetition_and_chunks_do_not_matter(
        records in prop::collection::vec((0_u32..12, 0_u32..6, any::<bool>(), 1_u32..4), 1..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        orders in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        chunk_rows in 1_usize..30,
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

        let fixture = Fixture::csv().chunks_of(chunk_rows);
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut.index(lines.len())).collect();
        bounds.extend([0, lines.len()]);
        bounds.sort_unstable();
        let files: Vec<PathBuf> = bounds.windows(2).filter(|w| w[0] < w[1]).zip(0..)
            .map(|(w, i)| fixture.write_csv(&format!("payments-{i}.csv"), &lines[w[0]..w[1]])).collect();
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
        body in prop::collection::vec(ugly_line(), 1..50),
        chunk_rows in 1_usize..9,
        kills in prop::collection::vec((0_usize..12, 0_usize..5), 0..8),
    ) {
        let content = [HEADER.as_bytes(), b"\n", &body.join(&b'\n'), b"\n"].concat();
        let whole = Fixture::csv().chunks_of(chunk_rows);
        let mut expected = whole.preview();
        let uninterrupted = match whole.run(&whole.write("payments.csv", &content), &mut expected) {
            Ok(report) => report,
            Err(_) => return Ok(()),
        };
        let fixture = Fixture::csv().chunks_of(chunk_rows);
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
        let reached: Vec<_> = report.runs().map(|run| (run.run, run.from, run.to, run.counts)).collect();
        let never_killed: Vec<_> = uninterrupted.runs().map(|run| (run.run, run.from, run.to, run.counts)).collect();
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
struct Mortal {
    inner: Preview,
    steps_left: Option<usize>,
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
