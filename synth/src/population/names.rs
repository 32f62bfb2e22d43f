//! Invented names: enterprises, people, roads. Parts are joined at random; nobody real is meant.

use crate::draw::Draw;
use crate::population::Body;

/// First characters of trade names.
const HEADS: &[char] = &[
    '启', '泽', '瀚', '翌', '朗', '越', '禾', '鼎', '骏', '锦', '昊', '卓', '澜', '奕', '铭', '轩',
    '皓', '嵘', '歆', '珩', '砺', '炜', '煜', '煦', '岚', '峤', '沅', '沐', '淳', '湛', '溢', '漾',
    '潇', '瑾', '璟', '璞', '祺', '禹', '稷', '穆',
];

/// Second and third characters of trade names.
const TAILS: &[char] = &[
    '辰', '恒', '途', '航', '谷', '源', '弘', '岳', '川', '槿', '栎', '桓', '屿', '澍', '霖', '霁',
    '颂', '骞', '驰', '骥', '钧', '锐', '镕', '闳', '陌', '隽', '韬', '韵', '颐', '晏', '晟', '晔',
    '景', '曜', '朔', '枫', '楠', '榆', '樾', '毓',
];

/// Characters that GB18030 writes with four bytes.
const RARE: &[char] = &['㛃', '㵑', '䃅', '𬭚', '𬬻', '𫍯'];

const SURNAMES: &[&str] = &[
    "王", "陈", "张", "李", "周", "吴", "徐", "朱", "林", "胡", "叶", "沈", "章", "俞", "诸葛",
    "楼", "应", "杜", "卢", "虞",
];

const ROADS: &[&str] = &[
    "文晖路",
    "学院路",
    "江滨路",
    "工业大道",
    "创业路",
    "科技路",
    "环城东路",
    "人民路",
    "解放路",
    "兴业路",
    "振兴路",
    "望江路",
    "滨海大道",
    "永兴路",
    "新园路",
    "迎宾大道",
];

/// Trade name of two or three characters; one in 500 holds a rare character.
pub(crate) fn trade_name(draw: &mut Draw, out: &mut String) {
    out.push(*draw.pick(HEADS));
    if draw.chance(2_000) {
        out.push(*draw.pick(RARE));
    } else {
        out.push(*draw.pick(TAILS));
    }
    if draw.chance(250_000) {
        out.push(*draw.pick(TAILS));
    }
}

/// The last part of the name.
pub(crate) fn legal_form(draw: &mut Draw, body: Body, large: bool) -> &'static str {
    match body {
        Body::Company if large && draw.chance(300_000) => "股份有限公司",
        Body::Company if draw.chance(60_000) => "有限责任公司",
        Body::Company => "有限公司",
        Body::Trader => draw.pick::<&str>(&["经营部", "商行", "店", "工作室", "加工厂"]),
        Body::Cooperative => "专业合作社",
    }
}

/// An invented person.
pub(crate) fn person(draw: &mut Draw) -> String {
    let mut name = String::from(*draw.pick(SURNAMES));
    name.push(*draw.pick(TAILS));
    if draw.chance(600_000) {
        name.push(*draw.pick(HEADS));
    }
    name
}

/// Road and number.
pub(crate) fn road(draw: &mut Draw) -> String {
    let road = *draw.pick(ROADS);
    let number = draw.between(1, 1999);
    if draw.chance(400_000) {
        format!(
            "{road}{number}号{}幢{}室",
            draw.between(1, 12),
            draw.between(101, 2608)
        )
    } else {
        format!("{road}{number}号")
    }
}
