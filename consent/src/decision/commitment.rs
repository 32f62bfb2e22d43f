//! The commitment to a scope: what the log keeps so that a scope can be proven later without being told now.
//!
//! Format: SHA-256 over `qihui scope v1`, then every field in a fixed order, numbers big-endian, each text and each
//! list preceded by its length as a u64. What is committed to is what opens: contract, columns with their forms,
//! rows, shapes, members, subjects, agreements and, where there are any, figures; reasons are not part of it. Bitmaps are written as their ascending
//! members, because the serialised form of a Roaring bitmap depends on how it was built.

use qihui_catalog::Date;
use ring::digest::{Context, SHA256};
use roaring::RoaringBitmap;

use super::{Bucket, ColumnScope, DatasetScope, Form, Mask, Shape, StatisticsScope};

impl DatasetScope {
    /// SHA-256 over a canonical encoding of everything this scope opens.
    #[must_use]
    pub fn commitment(&self) -> [u8; 32] {
        let mut encoder = Encoder(Context::new(&SHA256));
        encoder.text("qihui scope v1");
        encoder.text(self.contract.id.as_str());
        encoder.0.update(&self.contract.hash);
        encoder.list(&self.columns, Encoder::column);
        encoder.byte(self.all_rows.into());
        encoder.list(&self.shapes, Encoder::shape);
        encoder.list(&self.members, Encoder::numbers);
        encoder.list(&self.agreements, |encoder, id| encoder.text(id.as_str()));
        encoder.list(self.subjects.as_slice(), Encoder::numbers);
        if let Some(statistics) = &self.statistics {
            encoder.statistics(statistics);
        }
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(encoder.0.finish().as_ref()) {
            *to = *from;
        }
        hash
    }
}

/// How many members are hashed at once.
const CHUNK: usize = 1024;

struct Encoder(Context);

impl Encoder {
    fn byte(&mut self, byte: u8) {
        self.0.update(&[byte]);
    }

    fn count(&mut self, count: usize) {
        self.0
            .update(&u64::try_from(count).unwrap_or(u64::MAX).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.count(items.len());
        for item in items {
            write(self, item);
        }
    }

    fn column(&mut self, column: &ColumnScope) {
        self.text(&column.name);
        let (kind, parameters): (u8, [u8; 8]) = match column.form {
            Form::Clear => (0, [0; 8]),
            Form::Masked(Mask::KeepEnds { head, tail }) => (1, [0, 0, 0, 0, 0, 0, head, tail]),
            Form::Masked(Mask::Year) => (2, [0; 8]),
            Form::Masked(Mask::Zero) => (3, [0; 8]),
            Form::Masked(Mask::Hide) => (4, [0; 8]),
            Form::Bucketed(Bucket::Width(width)) => (5, width.to_be_bytes()),
            Form::Bucketed(Bucket::Month) => (6, [0; 8]),
            Form::Bucketed(Bucket::Quarter) => (7, [0; 8]),
            Form::Bucketed(Bucket::Year) => (8, [0; 8]),
        };
        self.byte(kind);
        self.0.update(&parameters);
        self.byte(u8::from(column.always) | u8::from(column.by_grant) << 1);
        self.list(column.public_when.as_slice(), |encoder, flag| {
            encoder.text(flag)
        });
        self.list(&column.agreements, |encoder, id| encoder.text(id.as_str()));
    }

    fn date(&mut self, date: Option<Date>) {
        let epoch = chrono::DateTime::UNIX_EPOCH.date_naive();
        let days = date.map(|date| date.signed_duration_since(epoch).num_days());
        self.byte(days.is_some().into());
        self.0.update(&days.unwrap_or_default().to_be_bytes());
    }

    fn shape(&mut self, shape: &Shape) {
        self.list(&shape.items, |encoder, item| {
            encoder.0.update(&item.columns.0.to_be_bytes());
            encoder.date(item.from);
            encoder.date(item.to);
        });
    }

    fn statistics(&mut self, statistics: &StatisticsScope) {
        let terms = statistics.terms;
        self.text("statistics");
        self.0.update(&terms.min_enterprises.to_be_bytes());
        self.0.update(&terms.p_percent.to_be_bytes());
        self.text(terms.period.as_str());
        self.list(&statistics.columns, |encoder, name| encoder.text(name));
        self.list(&statistics.agreements, |encoder, id| {
            encoder.text(id.as_str());
        });
    }

    fn numbers(&mut self, numbers: &RoaringBitmap) {
        self.0.update(&numbers.len().to_be_bytes());
        let mut chunk = Vec::with_capacity(CHUNK * 4);
        for number in numbers {
            chunk.extend_from_slice(&number.to_be_bytes());
            if chunk.len() == CHUNK * 4 {
                self.0.update(&chunk);
                chunk.clear();
            }
        }
        self.0.update(&chunk);
    }
}
