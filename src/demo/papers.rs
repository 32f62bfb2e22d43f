//! The documents of the demonstration: agreements, requests and what remains of one after narrowing.

use std::fmt::Write as _;

/// The bank.
pub const BANK: &str = "demo_bank";
/// The tax department.
pub const TAX: &str = "demo_tax_bureau";
/// What the bank asks for.
pub const PURPOSE: &str = "policy.matching";
/// What the tax department asks for, by law.
pub const SUPERVISION: &str = "supervision.tax";
/// The dataset whose very rows are confidential.
pub const DECLARATIONS: &str = "vat_declaration";
/// The dataset whose amounts each enterprise publishes or not.
pub const REPORTS: &str = "annual_report";

/// The range of event dates that the enterprises open, half-open: what `synth` generates for twelve months.
pub const RANGE: (&str, &str) = ("2025-07-01", "2026-07-01");
/// What is left of it after narrowing.
pub const NARROWED: (&str, &str) = ("2026-04-01", "2026-07-01");

/// The bank's agreement about VAT declarations.
pub fn declarations_agreement() -> String {
    format!(
        "id: demo-declarations
org: {BANK}
dataset: {DECLARATIONS}
purposes: [{PURPOSE}]
basis: consent
valid_until: 2099-12-31
columns:
  - {{name: uscc}}
  - {{name: skssqq, form: clear, reason: the programme looks at single periods}}
  - {{name: xse, form: clear, reason: the programme is for sales below a limit}}
  - {{name: ynse, form: {{bucketed: {{width: 1000}}}}}}
  - {{name: sbzl}}
"
    )
}

/// The bank's agreement about annual reports.
pub fn reports_agreement() -> String {
    format!(
        "id: demo-reports
org: {BANK}
dataset: {REPORTS}
purposes: [{PURPOSE}]
basis: consent
valid_until: 2099-12-31
columns: [{{name: uscc}}, {{name: ancheyear}}, {{name: assgro}}, {{name: vendinc}}]
"
    )
}

/// The tax department's agreement: a law takes the place of consents.
pub fn supervision_agreement() -> String {
    format!(
        "id: demo-supervision
org: {TAX}
dataset: {DECLARATIONS}
purposes: [{SUPERVISION}]
basis: {{statute: {{law: 税收征收管理法 (Law on Tax Collection)}}}}
valid_until: 2099-12-31
columns: [{{name: uscc}}]
"
    )
}

/// The bank's request for an enterprise's consent.
pub fn request(uscc: &str, expires: &str) -> String {
    let (from, to) = RANGE;
    format!(
        "principal: {uscc}
consumer: {{org: {BANK}}}
purpose: {{code: {PURPOSE}}}
notice: {{lang: zh, text: 我行拟查询贵企业的增值税申报与年报，用于匹配惠企贷款政策。}}
scope:
  - dataset: {DECLARATIONS}
    columns: [skssqq, xse, ynse]
    data_range: {{from: {from}, to: {to}}}
  - dataset: {REPORTS}
    columns: [assgro, vendinc]
    data_range: {{from: {from}, to: {to}}}
actions: [QUERY]
expires: {expires}
data_life_days: 90
"
    )
}

/// What remains after narrowing: fewer columns, fewer months, one dataset.
pub fn narrowed() -> String {
    let (from, to) = NARROWED;
    let mut text = String::from("scope:\n");
    let _ = writeln!(text, "  - dataset: {DECLARATIONS}");
    let _ = writeln!(text, "    columns: [skssqq, xse]");
    let _ = writeln!(text, "    data_range: {{from: {from}, to: {to}}}");
    text
}
