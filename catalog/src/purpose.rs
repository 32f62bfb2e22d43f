//! Purposes: the closed tree of what data may be used for, with caps on what an enterprise may grant for each.
//!
//! A code's words are its path: `credit.loan_review` lies under `credit`. Only leaves can be agreed and granted. A
//! purpose without caps of its own has those of the heading above it, and none may exceed them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    canonical,
    contract::{odcs::finish, read::version},
    document::{Node, Reader},
    ids::PurposeCode,
    problem::{CatalogErrors, codes},
};

/// A span of the calendar in which uses are counted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// A day.
    Day,
    /// Seven days.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

const PERIODS: &[(&str, Period)] = &[
    ("day", Period::Day),
    ("week", Period::Week),
    ("month", Period::Month),
    ("year", Period::Year),
];

impl Period {
    /// The fewest days of such a span.
    #[must_use]
    pub const fn days(self) -> u32 {
        match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 28,
            Self::Year => 365,
        }
    }
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frequency {
    /// How many times.
    pub count: u32,
    /// In which span.
    pub per: Period,
}

impl Frequency {
    /// Whether whoever keeps to `self` also keeps to `cap`: not more often on average, and not more at once.
    #[must_use]
    pub const fn within(self, cap: Self) -> bool {
        self.count <= cap.count
            && self.count as u64 * cap.per.days() as u64
                <= cap.count as u64 * self.per.days() as u64
    }
}

/// The most that a grant for a purpose may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caps {
    /// The longest validity of a grant, in days.
    pub max_validity_days: u32,
    /// The longest data range of a grant, in days; none: not limited.
    pub max_range_days: Option<u32>,
    /// The most frequent use; none: not limited.
    pub frequency: Option<Frequency>,
    /// How long a receiver may keep what it got, in days.
    pub data_life_days: u32,
}

/// One purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// Its code.
    pub code: PurposeCode,
    /// The English title.
    pub title_en: String,
    /// The Chinese title.
    pub title_cn: String,
    /// What is and what is not inside it.
    pub description: String,
    /// The purpose above it: its code without the last word.
    pub parent: Option<PurposeCode>,
    /// Whether it is only a heading: it has purposes below and cannot be agreed or granted itself.
    pub heading: bool,
    /// What a grant for it may give at most.
    pub caps: Caps,
}

/// The closed tree of purposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurposeTree {
    /// The version of the tree.
    pub version: String,
    purposes: BTreeMap<PurposeCode, Purpose>,
    /// SHA-256 of the canonical JSON.
    pub hash: [u8; 32],
}

/// The heading of the purposes that ask for figures about many enterprises and for none about one.
const STATISTICS: &str = "statistics";

impl Purpose {
    /// Whether it stands under the heading `statistics`: only for such a purpose may an agreement give figures about
    /// enterprises that were not asked.
    #[must_use]
    pub fn is_statistics(&self) -> bool {
        self.code.as_str().split('.').next() == Some(STATISTICS)
    }
}

impl PurposeTree {
    /// Reads the tree. `path` names the file in problems; the file itself is not read.
    pub fn from_yaml(path: &Path, text: &str) -> Result<Self, CatalogErrors> {
        Self::read(&path.to_string_lossy().replace('\\', "/"), text)
    }

    pub(crate) fn read(file: &str, text: &str) -> Result<Self, CatalogErrors> {
        let reader = Reader::new(file);
        let tree = reader
            .parse(text)
            .and_then(|value| read(&Node::root(&reader, &value)));
        let mut tree = finish(tree, reader, "not a purpose tree")?;
        tree.hash = canonical::hash(&tree.canonical_json());
        Ok(tree)
    }

    /// The purpose of this code.
    #[must_use]
    pub fn get(&self, code: &PurposeCode) -> Option<&Purpose> {
        self.purposes.get(code)
    }

    /// Every purpose in order of its code.
    pub fn iter(&self) -> impl Iterator<Item = &Purpose> {
        self.purposes.values()
    }

    /// The tree as canonical JSON (RFC 8785), every purpose with its caps in full. Reading it back gives the same tree.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        let purposes: Vec<Value> = self.iter().map(write).collect();
        canonical::json(&json!({ "version": self.version, "purposes": purposes }))
    }
}

/// A purpose as it was written, before it is hung into the tree.
struct Draft<'d> {
    node: Node<'d>,
    code: PurposeCode,
    title_en: String,
    title_cn: String,
    description: String,
    caps: Option<Caps>,
}

fn read(root: &Node<'_>) -> Option<PurposeTree> {
    let fields = root.fields()?;
    let version = fields.required("version").and_then(|node| version(&node));
    let list = fields.required("purposes")?;
    let mut drafts: BTreeMap<PurposeCode, Draft<'_>> = BTreeMap::new();
    // Every code that was written, so that a heading with a mistake in it is not reported as absent as well.
    let mut written = BTreeSet::new();
    for item in list.items()? {
        if let Some(draft) = draft(&item, &mut written)
            && let Some(twin) = drafts.insert(draft.code.clone(), draft)
        {
            twin.node
                .problem(codes::RULE, "there are two purposes of this code");
        }
    }
    if drafts.is_empty() {
        list.problem(codes::VALUE, "must hold at least one purpose");
    }
    Some(PurposeTree {
        version: version?,
        purposes: hang(drafts, &written),
        hash: [0; 32],
    })
}

fn draft<'d>(item: &Node<'d>, written: &mut BTreeSet<PurposeCode>) -> Option<Draft<'d>> {
    let unnamed = item.fields()?;
    let code = unnamed
        .required("code")
        .and_then(|code| code.parsed::<PurposeCode>());
    unnamed.leave();
    let code = code?;
    written.insert(code.clone());
    let node = item.clone().named(code.as_str());
    let fields = node.fields()?;
    let _ = fields.required("code");
    let title_en = fields.required("titleEn").and_then(|title| title.line());
    let title_cn = fields.required("titleCn").and_then(|title| title.line());
    let description = fields.required("description").and_then(|text| text.line());
    let caps = fields
        .optional("caps")
        .map_or(Some(None), |caps| read_caps(&caps).map(Some));
    drop(fields);
    Some(Draft {
        node,
        code,
        title_en: title_en?,
        title_cn: title_cn?,
        description: description?,
        caps: caps?,
    })
}

fn read_caps(node: &Node<'_>) -> Option<Caps> {
    const LIFE: u32 = 36_600;
    let fields = node.fields()?;
    let max_validity_days = fields
        .required("maxValidityDays")
        .and_then(|days| days.count(1, LIFE));
    let max_range_days = fields
        .optional("maxRangeDays")
        .map_or(Some(None), |days| days.count(1, LIFE).map(Some));
    let data_life_days = fields
        .required("dataLifeDays")
        .and_then(|days| days.count(1, LIFE));
    let frequency = fields
        .optional("frequency")
        .map_or(Some(None), |frequency| {
            let fields = frequency.fields()?;
            let count = fields
                .required("count")
                .and_then(|count| count.count(1, 1_000_000));
            let per = fields.required("per").and_then(|per| per.word(PERIODS));
            Some(Some(Frequency {
                count: count?,
                per: per?,
            }))
        });
    Some(Caps {
        max_validity_days: max_validity_days?,
        max_range_days: max_range_days?,
        frequency: frequency?,
        data_life_days: data_life_days?,
    })
}

/// Hangs every purpose under its heading. Codes sort headings before what is below them.
fn hang(
    drafts: BTreeMap<PurposeCode, Draft<'_>>,
    written: &BTreeSet<PurposeCode>,
) -> BTreeMap<PurposeCode, Purpose> {
    let mut purposes: BTreeMap<PurposeCode, Purpose> = BTreeMap::new();
    for (code, draft) in drafts {
        let above = code.as_str().rsplit_once('.').map(|(above, _)| above);
        let parent = above.and_then(|above| purposes.get_mut(above));
        if let (Some(above), None) = (above, &parent) {
            if !written.contains(above) {
                draft.node.problem(
                    codes::REFERENCE,
                    format!("there is no purpose `{above}` above it"),
                );
            }
            continue;
        }
        let limit = parent.as_ref().map(|parent| parent.caps);
        let Some(caps) = draft.caps.or(limit) else {
            draft.node.problem(
                codes::MISSING_KEY,
                "`caps` is missing: a purpose at the top says what a grant may give",
            );
            continue;
        };
        if let Some(limit) = limit {
            check_caps(&draft.node, caps, limit);
        }
        let parent = parent.map(|parent| {
            parent.heading = true;
            parent.code.clone()
        });
        let Draft {
            title_en,
            title_cn,
            description,
            ..
        } = draft;
        let purpose = Purpose {
            code: code.clone(),
            title_en,
            title_cn,
            description,
            parent,
            heading: false,
            caps,
        };
        purposes.insert(code, purpose);
    }
    purposes
}

fn check_caps(node: &Node<'_>, caps: Caps, limit: Caps) {
    let above = |own: Option<u32>, limit: Option<u32>| {
        limit.is_some_and(|limit| own.is_none_or(|own| own > limit))
    };
    let wider = [
        (
            "maxValidityDays",
            caps.max_validity_days > limit.max_validity_days,
        ),
        (
            "maxRangeDays",
            above(caps.max_range_days, limit.max_range_days),
        ),
        ("dataLifeDays", caps.data_life_days > limit.data_life_days),
        (
            "frequency",
            limit
                .frequency
                .is_some_and(|limit| caps.frequency.is_none_or(|own| !own.within(limit))),
        ),
    ];
    for (key, _) in wider.into_iter().filter(|(_, wider)| *wider) {
        node.problem(
            codes::RULE,
            format!("`caps.{key}` is wider than that of the purpose above it"),
        );
    }
}

fn write(purpose: &Purpose) -> Value {
    let mut caps = json!({
        "maxValidityDays": purpose.caps.max_validity_days,
        "dataLifeDays": purpose.caps.data_life_days,
    });
    if let Some(days) = purpose.caps.max_range_days {
        caps["maxRangeDays"] = json!(days);
    }
    if let Some(frequency) = purpose.caps.frequency {
        caps["frequency"] = json!(frequency);
    }
    json!({
        "code": purpose.code,
        "titleEn": purpose.title_en,
        "titleCn": purpose.title_cn,
        "description": purpose.description,
        "caps": caps,
    })
}
