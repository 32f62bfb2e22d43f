//! How the records of one dataset are written: the feed's header names and format joined with the contract's types.
//!
//! Generators name contract columns; everything a source does differently (header names, units, encoding, spellings)
//! is decided here, from the catalogue.

use std::sync::Arc;

use qihui_catalog::{
    Catalog, Column, ColumnType, Contract, Encoding, FeedFormat, FeedSpec, Level, QualityRule, Unit,
};

use crate::error::{Result, SynthError};

/// How a source spells dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DateForm {
    /// `2019-05-01`
    Dashed,
    /// `20190501`
    Compact,
    /// `2019/5/1`
    Slashed,
}

/// The habits of a source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    pub(crate) date: DateForm,
    /// What stands for null in text files; JSON also uses its own null.
    pub(crate) null: &'static str,
    pub(crate) yes: &'static str,
    pub(crate) no: &'static str,
    /// The encoding where the feed leaves it to be detected.
    pub(crate) gb18030: bool,
    /// Whether UTF-8 files start with a byte order mark.
    pub(crate) mark: bool,
}

/// One column of the contract as the feed writes it.
#[derive(Debug, Clone)]
pub(crate) struct PlanColumn {
    pub(crate) name: String,
    pub(crate) ty: ColumnType,
    pub(crate) nullable: bool,
    /// Header names; a file uses one of them. Empty: the feed does not carry the column.
    pub(crate) sources: Vec<String>,
    /// The unit bare numbers are written in.
    pub(crate) written_in: Unit,
    /// The unit that is stored.
    pub(crate) stored_in: Unit,
}

/// Columns that defects are put into.
#[derive(Debug, Clone, Default)]
pub(crate) struct Targets {
    pub(crate) uscc: Option<usize>,
    pub(crate) dates: Vec<usize>,
    pub(crate) codes: Vec<usize>,
    /// Free text that is landed and not part of the key.
    pub(crate) texts: Vec<usize>,
    pub(crate) sequence: Vec<usize>,
    /// Whether the key identifies a record without the USCC, so that a change of USCC can be seen.
    pub(crate) key_without_uscc: bool,
}

/// How the records of one dataset are written.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) feed: Arc<FeedSpec>,
    pub(crate) habits: Habits,
    pub(crate) columns: Vec<PlanColumn>,
    pub(crate) targets: Targets,
    /// File name before and after the month.
    pattern: (String, String),
    extra_sources: Vec<String>,
}

impl Plan {
    /// Joins the contract of `dataset` with the first of its feeds that is not the registry's.
    pub(crate) fn new(catalog: &Catalog, dataset: &'static str, habits: Habits) -> Result<Self> {
        let contract = catalog
            .contracts
            .iter()
            .find_map(|(id, contract)| (id.as_str() == dataset).then_some(contract))
            .ok_or(SynthError::NoFeed { dataset })?;
        let feed = contract
            .feeds
            .iter()
            .filter(|name| name.as_str() != "registry_csv")
            .filter_map(|name| catalog.feeds.get(name))
            .find(|feed| feed.topic.is_none())
            .ok_or(SynthError::NoFeed { dataset })?;
        let columns: Vec<_> = contract
            .columns()
            .iter()
            .map(|column| plan_column(feed, column))
            .collect();
        let (before, after) =
            feed.file_pattern
                .split_once('*')
                .ok_or_else(|| SynthError::FilePattern {
                    feed: feed.name.to_string(),
                })?;
        let separator = if before.is_empty() || before.ends_with(['_', '-', '.']) {
            ""
        } else {
            "_"
        };
        let extra_sources = match &feed.tombstone {
            Some(tombstone) if !feed.columns.contains_key(&tombstone.column) => {
                vec![tombstone.column.clone()]
            }
            _ => Vec::new(),
        };
        let targets = targets(contract, &columns);
        let pattern = (format!("{before}{separator}"), after.replace('*', ""));
        Ok(Self {
            feed: Arc::clone(feed),
            habits,
            columns,
            targets,
            pattern,
            extra_sources,
        })
    }

    /// The name of the file of a month; `part` counts further files of the month, from 2.
    pub(crate) fn file_name(&self, year: i32, month: u32, part: u32) -> String {
        let (before, after) = &self.pattern;
        match part {
            0 | 1 => format!("{before}{year:04}{month:02}{after}"),
            _ => format!("{before}{year:04}{month:02}_{part:03}{after}"),
        }
    }

    /// Whether file number `file` is written in GB18030.
    pub(crate) fn gb18030(&self, file: usize) -> bool {
        match (self.feed.format, self.feed.encoding) {
            // Declarations come from an old system and a new one.
            (FeedFormat::Xml, _) => file % 2 == 1,
            (FeedFormat::Xlsx, _) | (_, Encoding::Utf8) => false,
            (_, Encoding::Gb18030) => true,
            (_, Encoding::Detect) => self.habits.gb18030,
        }
    }

    /// Whether file number `file` starts with the UTF-8 byte order mark.
    pub(crate) fn mark(&self, file: usize) -> bool {
        self.habits.mark && !self.gb18030(file) && self.feed.format == FeedFormat::Csv
    }

    pub(crate) fn line_end(&self) -> &'static str {
        // Spreadsheets and old extracts end lines as Windows does.
        if self.feed.format == FeedFormat::Csv {
            "\r\n"
        } else {
            "\n"
        }
    }

    /// The header of a file; where a column has several names, later files use later ones.
    pub(crate) fn header(&self, file: usize) -> Vec<&str> {
        let columns = self.columns.iter().filter_map(|column| column.source(file));
        columns
            .chain(self.extra_sources.iter().map(String::as_str))
            .collect()
    }

    /// What stands in the tombstone column of a record that is not taken back.
    pub(crate) fn living_mark(&self) -> &'static str {
        match self
            .feed
            .tombstone
            .as_ref()
            .map(|tombstone| tombstone.value.as_str())
        {
            Some("0") => "1",
            Some("1") => "0",
            Some("Y") => "N",
            _ => "",
        }
    }

    /// The tombstone column if it stands outside the contract.
    pub(crate) fn extra_sources(&self) -> &[String] {
        &self.extra_sources
    }
}

impl PlanColumn {
    /// The header name that file number `file` uses.
    pub(crate) fn source(&self, file: usize) -> Option<&str> {
        let alternatives = self.sources.len();
        (alternatives > 0).then(|| self.sources[file % alternatives].as_str())
    }
}

fn plan_column(feed: &FeedSpec, column: &Column) -> PlanColumn {
    let sources = feed
        .columns
        .iter()
        .filter(|(_, target)| **target == column.name)
        .map(|(source, _)| source.clone());
    PlanColumn {
        name: column.name.clone(),
        ty: column.ty,
        nullable: column.nullable,
        sources: sources.collect(),
        written_in: feed.unit_of(column),
        stored_in: column.unit,
    }
}

fn has_pattern(column: &Column) -> bool {
    column
        .quality
        .iter()
        .any(|rule| matches!(rule, QualityRule::Pattern(_)))
}

fn targets(contract: &Contract, columns: &[PlanColumn]) -> Targets {
    let mut targets = Targets {
        key_without_uscc: !contract.key.contains(&contract.uscc),
        ..Targets::default()
    };
    for (index, (column, plan)) in contract.columns().iter().zip(columns).enumerate() {
        if plan.sources.is_empty() || column.level == Level::L4 {
            continue;
        }
        let in_key = contract.key.contains(&column.name);
        if column.name == contract.uscc {
            targets.uscc = Some(index);
        } else if column.ty == ColumnType::Date {
            targets.dates.push(index);
        } else if column.code_list.is_some() {
            targets.codes.push(index);
        } else if column.ty == ColumnType::String && !in_key && !has_pattern(column) {
            targets.texts.push(index);
        }
    }
    let place = |name: &String| columns.iter().position(|column| column.name == *name);
    targets.sequence = contract.sequence.iter().filter_map(place).collect();
    targets
}
