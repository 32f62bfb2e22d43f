//! The datasets of the four departments: one function each that turns an enterprise into records.

mod credit;
mod customs;
mod market;
mod tax;

use chrono::NaiveDate;

use crate::calendar::Span;
use crate::draw::Draw;
use crate::emit::{Emitter, Sequel};
use crate::error::Result;
use crate::plan::{DateForm, Habits};
use crate::population::Enterprise;
use crate::row::Row;

/// Purpose of the draws that decide what becomes of a dataset's records; added to the dataset's own number.
const FATE: u64 = 1 << 32;

/// How the records of one dataset are made.
pub(crate) struct Dataset {
    pub(crate) id: &'static str,
    /// Number of its draws. Never changed, never reused.
    number: u64,
    /// Whether it may be generated for real enterprises.
    pub(crate) neutral: bool,
    pub(crate) habits: Habits,
    rows: fn(&Enterprise, &mut Scribe<'_>) -> Result<()>,
}

/// What a dataset's function works with.
pub(crate) struct Scribe<'p> {
    pub(crate) span: Span,
    /// Whether the enterprises are real: nothing unfavourable may be written.
    pub(crate) neutral: bool,
    pub(crate) seed: u64,
    pub(crate) draw: Draw,
    out: Emitter<'p>,
}

impl<'p> Scribe<'p> {
    pub(crate) fn new(span: Span, neutral: bool, seed: u64, out: Emitter<'p>) -> Self {
        Self {
            span,
            neutral,
            seed,
            draw: Draw::new(0, 0, 0),
            out,
        }
    }

    /// When a record about the life of an enterprise that is known since `known` is sent, and the later day on which its end
    /// is reported; an end in the same file is reported at once.
    pub(crate) fn life(
        &self,
        enterprise: &Enterprise,
        known: NaiveDate,
    ) -> (NaiveDate, Option<NaiveDate>) {
        match enterprise.closed {
            Some(closed) if self.span.file_of(closed) > self.span.file_of(known) => {
                (known, Some(closed))
            }
            Some(closed) => (known.max(closed), None),
            None => (known, None),
        }
    }

    /// Begins a record.
    pub(crate) fn begin(&mut self) -> &mut Row<'p> {
        self.out.begin()
    }

    /// Begins another record of the same message.
    pub(crate) fn go_on(&mut self) -> &mut Row<'p> {
        self.out.go_on()
    }

    /// Finishes the record, which became known on `known`.
    pub(crate) fn finish(&mut self, known: NaiveDate) -> Result<()> {
        self.out.finish(known, Sequel::None)
    }

    /// Finishes a record that its source changes or takes back later.
    pub(crate) fn finish_with(&mut self, known: NaiveDate, sequel: Sequel<'_>) -> Result<()> {
        self.out.finish(known, sequel)
    }

    pub(crate) fn into_emitter(self) -> Emitter<'p> {
        self.out
    }
}

impl Dataset {
    /// Writes the records of one enterprise.
    pub(crate) fn write(&self, enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
        let seed = scribe.seed;
        scribe.draw = Draw::new(seed, self.number, enterprise.index);
        scribe.out.turn_to(
            enterprise,
            Draw::new(seed, FATE + self.number, enterprise.index),
        )?;
        (self.rows)(enterprise, scribe)
    }
}

const fn habits(
    date: DateForm,
    null: &'static str,
    yes: &'static str,
    no: &'static str,
    gb18030: bool,
    mark: bool,
) -> Habits {
    Habits {
        date,
        null,
        yes,
        no,
        gb18030,
        mark,
    }
}

use DateForm::{Compact, Dashed, Slashed};

/// Every dataset, in the order of the departments.
pub(crate) const DATASETS: &[Dataset] = &[
    Dataset {
        id: "enterprise_registration",
        number: 16,
        neutral: true,
        habits: habits(Dashed, "", "1", "0", true, false),
        rows: market::registration,
    },
    Dataset {
        id: "annual_report",
        number: 17,
        neutral: true,
        habits: habits(Slashed, "N/A", "公示", "不公示", true, false),
        rows: market::annual_report,
    },
    Dataset {
        id: "abnormal_operation",
        number: 18,
        neutral: false,
        habits: habits(Dashed, "无", "是", "否", false, true),
        rows: market::abnormal_operation,
    },
    Dataset {
        id: "taxpayer",
        number: 19,
        neutral: true,
        habits: habits(Compact, "", "Y", "N", true, false),
        rows: tax::taxpayer,
    },
    Dataset {
        id: "vat_declaration",
        number: 20,
        neutral: true,
        habits: habits(Compact, "-", "Y", "N", true, false),
        rows: tax::vat_declaration,
    },
    Dataset {
        id: "tax_levy",
        number: 21,
        neutral: true,
        habits: habits(Dashed, "", "Y", "N", false, true),
        rows: tax::tax_levy,
    },
    Dataset {
        id: "tax_credit_rating",
        number: 22,
        neutral: true,
        habits: habits(Slashed, "-", "是", "否", false, true),
        rows: tax::tax_credit_rating,
    },
    Dataset {
        id: "customs_declaration",
        number: 23,
        neutral: true,
        habits: habits(Compact, "", "1", "0", false, false),
        rows: customs::declaration,
    },
    Dataset {
        id: "customs_credit_rating",
        number: 24,
        neutral: true,
        habits: habits(Dashed, "", "1", "0", false, true),
        rows: customs::credit_rating,
    },
    Dataset {
        id: "admin_licence",
        number: 25,
        neutral: true,
        habits: habits(Slashed, "", "是", "否", false, false),
        rows: credit::licence,
    },
    Dataset {
        id: "admin_penalty",
        number: 26,
        neutral: false,
        habits: habits(Dashed, "", "是", "否", false, false),
        rows: credit::penalty,
    },
    Dataset {
        id: "public_credit_score",
        number: 27,
        neutral: false,
        habits: habits(Dashed, "", "1", "0", false, true),
        rows: credit::public_score,
    },
];
