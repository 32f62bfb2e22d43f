//! Tax: who is a taxpayer, what was declared, what was paid, how the year was rated.
//!
//! Declarations and levies come from the same draws ([`filings`]), so the VAT that was declared is the VAT that was paid.

use chrono::{Datelike, NaiveDate};

use super::Scribe;
use crate::calendar::{Month, Span, add_days, add_years};
use crate::draw::{Draw, ONE_Q16};
use crate::emit::Sequel;
use crate::error::Result;
use crate::population::{Body, Enterprise, Status, names, places};
use crate::row::Row;

/// Purpose of the draws that declarations and levies share.
const FILINGS: u64 = 2;

/// One VAT declaration; amounts in fen.
struct Filing {
    from: NaiveDate,
    to: NaiveDate,
    filed: NaiveDate,
    paid: NaiveDate,
    quarterly: bool,
    sales: i64,
    taxable: i64,
    /// Output and input tax of general payers; small ones have neither.
    tax: Option<(i64, i64)>,
    due: i64,
}

/// The declarations that are filed within the span: monthly above 5 million yuan a year, else quarterly, in the first half
/// of the month that follows; risky payers are late more often.
fn filings(
    enterprise: &Enterprise,
    span: Span,
    seed: u64,
    mut each: impl FnMut(&Filing) -> Result<()>,
) -> Result<()> {
    let mut draw = Draw::new(seed, FILINGS, enterprise.index);
    let quarterly = !enterprise.general_taxpayer();
    for month in span.months() {
        if quarterly && month.number() % 3 != 1 {
            continue;
        }
        let length = if quarterly { 3 } else { 1 };
        let first = month.plus(-length);
        let from = first.day(1);
        let to = month.plus(-1).last_day();
        if !enterprise.active_on(to) || enterprise.established > from {
            continue;
        }
        let mut sales = 0;
        for step in 0..length {
            sales += enterprise.monthly_sales(&mut draw, first.plus(step).number());
        }
        let late = draw.chance(u32::try_from(enterprise.risk * enterprise.risk / 30).unwrap_or(0));
        let filed = add_days(
            month.day(1),
            draw.between(1, 14) + if late { 12 } else { 0 },
        );
        let paid = add_days(filed, draw.between(0, 2));
        let exports = if enterprise.trade > 0 {
            draw.between(5, 60)
        } else {
            0
        };
        let input_share = draw.between(68, 97);
        let (taxable, tax, due) = if quarterly {
            let taxable = if sales <= 30_000_000 { 0 } else { sales };
            (taxable, None, taxable / 100)
        } else {
            let taxable = sales * (100 - exports) / 100;
            let output = taxable * enterprise.industry.vat_rate / 100;
            let input = output * input_share / 100;
            (taxable, Some((output, input)), output - input)
        };
        each(&Filing {
            from,
            to,
            filed,
            paid,
            quarterly,
            sales,
            taxable,
            tax,
            due,
        })?;
    }
    Ok(())
}

/// The competent tax office: code and name.
fn office(enterprise: &Enterprise) -> (String, String) {
    let county = places::county_of(&enterprise.county).map_or("", |county| county.name);
    let city = places::city(&enterprise.county);
    (
        format!("1{}0000", enterprise.county),
        format!("国家税务总局{city}市{county}税务局"),
    )
}

/// A number under which the tax office keeps something: prefix, county, enterprise.
fn number(enterprise: &Enterprise, prefix: &str) -> String {
    format!("{prefix}{}{:08}", enterprise.county, enterprise.index)
}

/// One row per enterprise, sent when it registers with the tax office or changes its state.
pub(super) fn taxpayer(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let registered = add_days(enterprise.established, scribe.draw.between(0, 25));
    let back = (scribe.span.start() - registered).num_days();
    let updated = add_days(registered, scribe.draw.between(0, back));
    let clerk = names::person(&mut scribe.draw);
    if updated > scribe.span.end() {
        return Ok(());
    }
    let state_at_end = match enterprise.status {
        Status::Open | Status::MovingOut => "正常",
        Status::Revoked => "非正常",
        Status::Cancelling => "清算",
        Status::Closed => "注销",
    };
    let (known, ends) = scribe.life(enterprise, updated);
    let (code, name) = office(enterprise);
    let row = scribe.begin();
    row.text("uscc", enterprise.uscc.as_str());
    row.text("djxh", &number(enterprise, "1011"));
    row.text("nsrsbh", enterprise.uscc.as_str());
    row.text("nsrmc", &enterprise.name);
    row.date("djrq", Some(registered));
    row.text(
        "nsrzt",
        if ends.is_some() {
            "正常"
        } else {
            state_at_end
        },
    );
    row.flag("ybnsrbz", enterprise.general_taxpayer());
    row.text("hydm", &enterprise.industry.code[1..]);
    row.text("zgswjgdm", &code);
    row.text("zgswjgmc", &name);
    row.text("frmc", &enterprise.person);
    row.text("frzjhm", &enterprise.person_number());
    row.text("bsrxm", &clerk);
    row.date("data_time", Some(known));
    let end = |row: &mut Row<'_>| row.text("nsrzt", state_at_end);
    let sequel = ends.map_or(Sequel::None, |closed| Sequel::Changed(closed, &end));
    scribe.finish_with(known, sequel)
}

/// Monthly or quarterly VAT declarations.
pub(super) fn vat_declaration(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let code = office(enterprise).0;
    let clerk = names::person(&mut scribe.draw);
    filings(enterprise, scribe.span, scribe.seed, |filing| {
        let month = Month::of(filing.filed);
        let row = scribe.begin();
        row.text("uscc", enterprise.uscc.as_str());
        row.text(
            "pzxh",
            &number(
                enterprise,
                &format!("{}{:02}", month.year(), month.number()),
            ),
        );
        row.text("nsrsbh", enterprise.uscc.as_str());
        row.text(
            "sbzl",
            if filing.quarterly {
                "增值税小规模纳税人申报"
            } else {
                "增值税一般纳税人申报"
            },
        );
        row.text("nsqxdm", if filing.quarterly { "03" } else { "02" });
        row.date("skssqq", Some(filing.from));
        row.date("skssqz", Some(filing.to));
        row.date("sbrq", Some(filing.filed));
        row.figure("xse", filing.sales);
        row.amount("ysxse", filing.taxable);
        row.amount("msxse", filing.sales - filing.taxable);
        match filing.tax {
            Some((output, input)) => {
                row.amount("xxse", output);
                row.amount("jxse", input);
            }
            None => {
                row.null("xxse");
                row.null("jxse");
            }
        }
        row.amount("ynse", filing.due);
        row.amount("ybtse", filing.due);
        row.text("zgswjgdm", &code);
        row.text("bsrxm", &clerk);
        row.date("data_time", Some(filing.filed));
        scribe.finish(filing.filed)
    })
}

/// What was paid: VAT with the levies that hang on it, and every quarter income and stamp tax.
pub(super) fn tax_levy(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let office = office(enterprise).1;
    filings(enterprise, scribe.span, scribe.seed, |filing| {
        // Cities levy 7 % of VAT, counties and towns 5 %.
        let upkeep = if enterprise.county.as_bytes()[4] < b'2' {
            7
        } else {
            5
        };
        let mut items = vec![
            ("增值税", "商业及其他增值税", filing.due),
            (
                "城市维护建设税",
                "市区（增值税附征）",
                filing.due * upkeep / 100,
            ),
        ];
        if filing.to.month() % 3 == 0 {
            let quarter = if filing.quarterly {
                filing.sales
            } else {
                filing.sales * 3
            };
            let margin = scribe.draw.between(-6, 14);
            items.push(("教育费附加", "增值税教育费附加", filing.due * 3 / 100));
            items.push(("印花税", "买卖合同", quarter * 3 / 10_000));
            if enterprise.body == Body::Company {
                items.push(("企业所得税", "应纳税所得额", quarter / 100 * margin / 20));
            }
        }
        let month = Month::of(filing.paid);
        let voucher = number(
            enterprise,
            &format!("3{}{:02}", month.year(), month.number()),
        );
        let mut detail = 0;
        for (item, kind, fen) in items {
            if fen < 100 {
                continue;
            }
            detail += 1;
            let row = scribe.begin();
            row.text("uscc", enterprise.uscc.as_str());
            row.text("yzpzxh", &voucher);
            row.number("yzpzmxxh", detail);
            row.text("nsrsbh", enterprise.uscc.as_str());
            row.text("nsrmc", &enterprise.name);
            row.text("zsxmmc", item);
            row.text("zspmmc", kind);
            row.date("skssqq", Some(filing.from));
            row.date("skssqz", Some(filing.to));
            row.date("rkrq", Some(filing.paid));
            row.figure("ybtse", fen);
            row.text("skzlmc", "正税");
            row.text("zgswjgmc", &office);
            row.date("data_time", Some(filing.paid));
            scribe.finish(filing.paid)?;
        }
        Ok(())
    })
}

/// The yearly rating, decided in April for the year before. Risk lowers it; what is new is rated M.
pub(super) fn tax_credit_rating(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    if enterprise.body == Body::Trader {
        return Ok(());
    }
    let office = office(enterprise).1;
    for year in scribe.span.start().year() - 1..=scribe.span.end().year() {
        let rated = add_days(Month::new(year, 4).day(8), scribe.draw.between(0, 16));
        let noise = 3 * scribe.draw.normal_q16() / ONE_Q16;
        let in_reach = rated <= scribe.span.end() && add_years(rated, 1) >= scribe.span.start();
        if !in_reach || !enterprise.active_on(rated) || enterprise.year() >= year {
            continue;
        }
        let score = 96 - enterprise.risk * enterprise.risk / 11_000 + noise;
        let score = if scribe.neutral {
            score.clamp(70, 89)
        } else {
            score.clamp(11, 100)
        };
        let fresh = enterprise.year() + 1 >= year || enterprise.sales == 0;
        let level = match score {
            70.. if fresh => "M",
            90.. => "A",
            70.. => "B",
            40.. => "C",
            _ => "D",
        };
        let row = scribe.begin();
        row.text("uscc", enterprise.uscc.as_str());
        row.number("pjnd", i64::from(year - 1));
        row.text("nsrsbh", enterprise.uscc.as_str());
        row.text("nsrmc", &enterprise.name);
        row.text("pjjb", level);
        row.number("pjdf", score);
        row.flag("gkbz", level == "A");
        row.date("pjrq", Some(rated));
        row.date("yxqq", Some(rated));
        row.date("yxqz", Some(add_days(add_years(rated, 1), -1)));
        row.text("pjjgmc", &office);
        row.date("data_time", Some(rated));
        scribe.finish(rated)?;
    }
    Ok(())
}
