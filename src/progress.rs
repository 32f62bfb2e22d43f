//! Progress of feed runs, for people who wait at a terminal.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use qihui_ingest::{FileReport, Position, Progress};

/// Bars on stderr, one per file.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    bars: MultiProgress,
    present: Mutex<HashMap<String, ProgressBar>>,
    current: Mutex<Option<ProgressBar>>,
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:40!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bars {
    fn started(&self, source: &str, bytes: u64, done: u64) {
        let bar = self.bars.add(ProgressBar::new(bytes).with_style(style()));
        bar.set_message(source.to_owned());
        bar.set_position(done);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.insert(source.to_owned(), bar.clone());
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn reading(&self, at: Position) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = current.as_ref() {
            bar.set_position(at.offset);
        }
    }

    fn finished(&self, report: &FileReport) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = present.remove(&report.source) {
            bar.finish_and_clear();
        }
    }
}
