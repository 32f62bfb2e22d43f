//! Credit: licences and penalties in the form of the double publicity (双公示), and the public credit score.

use chrono::{Datelike, NaiveDate};
use qihui_catalog::Uscc;

use super::Scribe;
use crate::calendar::{Month, add_days, add_years};
use crate::draw::{Draw, ONE_Q16};
use crate::emit::Sequel;
use crate::error::Result;
use crate::population::{Body, Enterprise, places};

/// How far back licences and penalties reach into the first file, in days.
const BACK: i64 = 900;

/// An authority: its name and code.
struct Authority {
    name: String,
    code: Uscc,
}

/// Who decides: name and serial.
#[derive(Clone, Copy)]
struct Bureau(&'static str, &'static str);

const MARKET: Bureau = Bureau("市场监督管理局", "QHGT0001");
const ENVIRONMENT: Bureau = Bureau("生态环境局", "QHGT0002");
const EMERGENCY: Bureau = Bureau("应急管理局", "QHGT0003");
const HOUSING: Bureau = Bureau("住房和城乡建设局", "QHGT0004");
const TRANSPORT: Bureau = Bureau("交通运输局", "QHGT0005");
const AGRICULTURE: Bureau = Bureau("农业农村局", "QHGT0006");

fn authority(enterprise: &Enterprise, bureau: Bureau) -> Result<Authority> {
    let county = places::county_of(&enterprise.county).map_or("", |county| county.name);
    let code = Uscc::from_parts('1', '1', &enterprise.county, bureau.1)
        .or_else(|_| Uscc::from_parts('1', '1', "330000", bureau.1))?;
    Ok(Authority {
        name: format!("{county}{}", bureau.0),
        code,
    })
}

const fn counterpart(enterprise: &Enterprise) -> &'static str {
    match enterprise.body {
        Body::Trader => "个体工商户",
        Body::Company | Body::Cooperative => "法人及非法人组织",
    }
}

/// A day from [`BACK`] days before the span to its end, when the enterprise is active.
fn some_day(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Option<NaiveDate> {
    let earliest = add_days(scribe.span.start(), -BACK);
    let day = add_days(
        earliest,
        scribe
            .draw
            .between(0, (scribe.span.end() - earliest).num_days()),
    );
    Some(day).filter(|day| enterprise.active_on(*day))
}

/// A kind of licence: document, certificate, content, kind, authority.
type Licence = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Bureau,
);

const GENERAL: Licence = (
    "准予登记通知书",
    "营业执照",
    "准予变更（备案）登记",
    "05",
    MARKET,
);

fn licences(section: u8) -> &'static [Licence] {
    match section {
        b'A' => &[
            GENERAL,
            (
                "农药经营许可决定书",
                "农药经营许可证",
                "准予农药经营",
                "01",
                AGRICULTURE,
            ),
        ],
        b'C' => &[
            GENERAL,
            (
                "排污许可决定书",
                "排污许可证",
                "准予排放污染物（废水、废气）",
                "01",
                ENVIRONMENT,
            ),
            (
                "安全生产许可决定书",
                "安全生产许可证",
                "准予从事生产活动",
                "01",
                EMERGENCY,
            ),
        ],
        b'E' => &[
            GENERAL,
            (
                "建筑业企业资质许可决定书",
                "建筑业企业资质证书",
                "核定施工总承包资质",
                "03",
                HOUSING,
            ),
        ],
        b'G' => &[
            GENERAL,
            (
                "道路运输经营许可决定书",
                "道路运输经营许可证",
                "准予道路普通货物运输",
                "01",
                TRANSPORT,
            ),
        ],
        b'F' | b'H' => &[
            GENERAL,
            (
                "食品经营许可决定书",
                "食品经营许可证",
                "预包装食品销售；热食类食品制售",
                "01",
                MARKET,
            ),
        ],
        _ => &[GENERAL],
    }
}

/// Licences and registrations that were granted.
pub(super) fn licence(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let rate = scribe.draw.between(0, 2 + enterprise.people.min(200) / 60);
    for serial in 0..rate {
        let kinds = licences(enterprise.industry.code.as_bytes()[0]);
        let (document, certificate, content, kind, bureau) = *scribe.draw.pick(kinds);
        let years = i32::try_from(scribe.draw.between(3, 5)).unwrap_or(3);
        let withdrawn = scribe.draw.chance(8_000);
        let Some(decided) = some_day(enterprise, scribe) else {
            continue;
        };
        let until = if kind == "05" {
            NaiveDate::from_ymd_opt(2099, 12, 31)
        } else {
            Some(add_years(decided, years))
        };
        let authority = authority(enterprise, bureau)?;
        let known = add_days(decided, 3);
        let row = scribe.begin();
        row.text("uscc", enterprise.uscc.as_str());
        row.text("xk_xdr_mc", &enterprise.name);
        row.text("xk_xdr_lb", counterpart(enterprise));
        row.text("xk_xdr_zzjg", enterprise.organisation_code());
        row.text("xk_frdb", &enterprise.person);
        row.text("xk_fr_zjlx", "身份证");
        row.text("xk_fr_zjhm", &enterprise.person_number());
        row.text("xk_xkws", document);
        row.text(
            "xk_wsh",
            &document_number(enterprise, decided, "许", serial),
        );
        row.text("xk_xklb", kind);
        row.text("xk_xkzs", certificate);
        row.text(
            "xk_xkbh",
            &format!("XK{}{:08}{serial:02}", enterprise.county, enterprise.index),
        );
        row.text("xk_nr", content);
        row.date("xk_jdrq", Some(decided));
        row.date("xk_yxqz", Some(decided));
        row.date("xk_yxqzi", until);
        row.text("xk_xkjg", &authority.name);
        row.text("xk_xkjgdm", authority.code.as_str());
        row.text("xk_zt", "1");
        row.text("xk_lydw", &authority.name);
        row.text("xk_lydwdm", authority.code.as_str());
        row.date("data_time", Some(known));
        let sequel = if withdrawn {
            Sequel::TakenBack(add_days(known, 45))
        } else {
            Sequel::None
        };
        scribe.finish_with(known.min(scribe.span.end()), sequel)?;
    }
    Ok(())
}

fn document_number(enterprise: &Enterprise, decided: NaiveDate, word: &str, serial: i64) -> String {
    let county = places::county_of(&enterprise.county).map_or("浙", |county| county.name);
    let first: String = county.chars().take(1).collect();
    format!(
        "{first}市监{word}〔{}〕{:08}-{serial}号",
        decided.year(),
        enterprise.index
    )
}

/// A kind of offence: what was done, on what ground, authority, gravity (0 minor, 1 ordinary, 2 serious).
type Offence = (&'static str, &'static str, &'static str, Bureau, u8);

const ADVERTISING: Offence = (
    "发布虚假广告",
    "在经营场所及网络店铺发布与实际情况不符的广告",
    "《中华人民共和国广告法》第五十五条第一款",
    MARKET,
    1,
);
const PRICES: Offence = (
    "未按规定明码标价",
    "销售商品未标明价格",
    "《中华人民共和国价格法》第四十二条",
    MARKET,
    0,
);
const QUALITY: Offence = (
    "销售不合格产品",
    "经抽样检验，所售产品不符合国家标准",
    "《中华人民共和国产品质量法》第四十九条",
    MARKET,
    1,
);
const SEWAGE: Offence = (
    "超标排放水污染物",
    "废水总排口化学需氧量超过排放标准",
    "《中华人民共和国水污染防治法》第八十三条",
    ENVIRONMENT,
    2,
);
const HAZARDS: Offence = (
    "未如实记录隐患排查治理情况",
    "未将事故隐患排查治理情况如实记录",
    "《中华人民共和国安全生产法》第九十七条",
    EMERGENCY,
    1,
);
const UNLICENSED: Offence = (
    "未取得施工许可证擅自施工",
    "工程未取得施工许可证即开工建设",
    "《建设工程质量管理条例》第五十七条",
    HOUSING,
    2,
);
const VEHICLES: Offence = (
    "使用技术状况不合格的车辆",
    "使用技术状况不符合规定的车辆从事道路运输",
    "《中华人民共和国道路运输条例》第七十条",
    TRANSPORT,
    0,
);

fn offences(section: u8) -> &'static [Offence] {
    match section {
        b'C' => &[QUALITY, SEWAGE, HAZARDS, HAZARDS],
        b'E' => &[UNLICENSED, HAZARDS, HAZARDS],
        b'G' => &[VEHICLES, VEHICLES, HAZARDS],
        b'F' | b'H' => &[ADVERTISING, PRICES, QUALITY],
        _ => &[ADVERTISING, PRICES],
    }
}

/// Penalties: risky enterprises collect them; repair or revocation takes them back.
pub(super) fn penalty(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let likely = u32::try_from(20_000 + enterprise.risk * enterprise.risk / 3).unwrap_or(0);
    for serial in 0..3 {
        if !scribe.draw.chance(likely) {
            return Ok(());
        }
        if let Some(decided) = some_day(enterprise, scribe) {
            one_penalty(enterprise, scribe, decided, serial)?;
        }
    }
    Ok(())
}

/// What a penalty comes to: kind, content, fine and forfeited gains in fen.
struct Measure {
    kind: &'static str,
    content: String,
    fine: i64,
    gains: i64,
}

/// Fines grow with gravity and size, in whole hundreds of yuan; minor offences often end with a warning.
fn measure(enterprise: &Enterprise, draw: &mut Draw, gravity: u8) -> Measure {
    let least = [100_000, 500_000, 2_000_000][usize::from(gravity.min(2))];
    let fine =
        draw.log_normal(least * (10 + enterprise.people.min(300)) / 20, ONE_Q16) / 10_000 * 10_000;
    let warned = gravity == 0 && draw.chance(400_000);
    let forfeits = draw.chance(200_000);
    let share = draw.between(500, 9_000);
    if warned {
        let content = "责令改正，予以警告".to_owned();
        return Measure {
            kind: "警告",
            content,
            fine: 0,
            gains: 0,
        };
    }
    let fine = fine.max(10_000);
    let content = format!("责令改正，并处罚款人民币{}元", fine / 100);
    if forfeits {
        let kind = "罚款；没收违法所得、没收非法财物";
        return Measure {
            kind,
            content,
            fine,
            gains: fine / 10_000 * share,
        };
    }
    Measure {
        kind: "罚款",
        content,
        fine,
        gains: 0,
    }
}

fn one_penalty(
    enterprise: &Enterprise,
    scribe: &mut Scribe<'_>,
    decided: NaiveDate,
    serial: i64,
) -> Result<()> {
    let draw = &mut scribe.draw;
    let (offence, facts, ground, bureau, gravity) =
        *draw.pick(offences(enterprise.industry.code.as_bytes()[0]));
    let publication = match gravity {
        0 => add_days(decided, 90),
        1 => add_years(decided, 1),
        _ => add_years(decided, 3),
    };
    let measure = measure(enterprise, draw, gravity);
    let repaired = match gravity {
        0 => draw.chance(250_000),
        1 => draw.chance(150_000),
        _ => draw.chance(40_000),
    };
    let repair = add_days(decided, draw.between(60, 240));
    let authority = authority(enterprise, bureau)?;
    let known = add_days(decided, 4).min(scribe.span.end());
    let row = scribe.begin();
    row.text("uscc", enterprise.uscc.as_str());
    row.text("cf_xdr_mc", &enterprise.name);
    row.text("cf_xdr_lb", counterpart(enterprise));
    row.text("cf_xdr_zzjg", enterprise.organisation_code());
    row.text("cf_frdb", &enterprise.person);
    row.text("cf_fr_zjlx", "身份证");
    row.text("cf_fr_zjhm", &enterprise.person_number());
    row.text(
        "cf_wsh",
        &document_number(enterprise, decided, "罚", serial),
    );
    row.text("cf_wfxw", offence);
    row.text("cf_sy", facts);
    row.text("cf_yj", ground);
    row.text("cf_cflb", measure.kind);
    row.text("cf_nr", &measure.content);
    row.figure("cf_nr_fk", measure.fine);
    row.amount("cf_nr_wfff", measure.gains);
    row.date("cf_jdrq", Some(decided));
    row.date("cf_yxq", Some(publication));
    row.date("cf_gsjzq", Some(publication));
    row.text("cf_cfjg", &authority.name);
    row.text("cf_cfjgdm", authority.code.as_str());
    row.text("cf_sjly", &authority.name);
    row.text("cf_sjlydm", authority.code.as_str());
    row.date("data_time", Some(known));
    let sequel = if repaired {
        Sequel::TakenBack(repair)
    } else {
        Sequel::None
    };
    scribe.finish_with(known, sequel)
}

/// The score, every quarter.
pub(super) fn public_score(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    for month in scribe.span.months().filter(|month| month.number() % 3 == 0) {
        let noise = 12 * scribe.draw.normal_q16() / ONE_Q16;
        let hundredths = scribe.draw.between(0, 99);
        let evaluated = month.day(15);
        if !enterprise.active_on(evaluated) {
            continue;
        }
        let size = enterprise.people.min(500) / 10;
        let score = (900 - enterprise.risk * 6 / 10 + size + noise).clamp(0, 999);
        let level = match score {
            850.. => "优秀",
            720.. => "良好",
            560.. => "中等",
            420.. => "较差",
            _ => "差",
        };
        let row = scribe.begin();
        row.text("uscc", enterprise.uscc.as_str());
        row.date("pjrq", Some(evaluated));
        row.text("ent_name", &enterprise.name);
        row.decimal("pjfs", score * 100 + hundredths, 2, 0);
        row.text("pjdj", level);
        row.text("mxbb", model_version(month));
        row.date("data_time", Some(evaluated));
        scribe.finish(evaluated)?;
    }
    Ok(())
}

fn model_version(month: Month) -> &'static str {
    if month.year() < 2026 { "5.0" } else { "5.1" }
}
