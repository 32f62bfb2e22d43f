//! Counties of Zhejiang (GB/T 2260), with rough weights of where enterprises are, and retired division codes that old
//! registrations still carry in their USCC.

/// A county-level division of today.
pub(crate) struct County {
    /// Six digits.
    pub(crate) code: &'static str,
    pub(crate) name: &'static str,
    /// Share of enterprises, in thousandths (approximately).
    pub(crate) weight: u32,
    /// The year from which it has issued codes; 0 for most.
    pub(crate) since_year: i32,
}

/// A division code that no longer stands for its county.
pub(crate) struct Retired {
    pub(crate) code: &'static str,
    /// The county of today.
    pub(crate) successor: &'static str,
    /// Registrations up to this year carry the old code.
    pub(crate) until_year: i32,
}

const fn county(code: &'static str, name: &'static str, weight: u32) -> County {
    County {
        code,
        name,
        weight,
        since_year: 0,
    }
}

const fn young(code: &'static str, name: &'static str, weight: u32, since_year: i32) -> County {
    County {
        code,
        name,
        weight,
        since_year,
    }
}

/// Where enterprises are today.
pub(crate) const COUNTIES: &[County] = &[
    county("330102", "上城区", 30),
    county("330105", "拱墅区", 28),
    county("330106", "西湖区", 26),
    county("330108", "滨江区", 18),
    county("330109", "萧山区", 32),
    county("330110", "余杭区", 32),
    county("330111", "富阳区", 12),
    county("330112", "临安区", 10),
    young("330113", "临平区", 16, 2021),
    young("330114", "钱塘区", 11, 2021),
    county("330122", "桐庐县", 6),
    county("330127", "淳安县", 3),
    county("330182", "建德市", 5),
    county("330203", "海曙区", 23),
    county("330205", "江北区", 15),
    county("330206", "北仑区", 19),
    county("330211", "镇海区", 11),
    county("330212", "鄞州区", 35),
    county("330213", "奉化区", 9),
    county("330225", "象山县", 8),
    county("330226", "宁海县", 11),
    county("330281", "余姚市", 22),
    county("330282", "慈溪市", 27),
    county("330302", "鹿城区", 19),
    county("330303", "龙湾区", 13),
    county("330304", "瓯海区", 15),
    county("330305", "洞头区", 2),
    county("330324", "永嘉县", 13),
    county("330326", "平阳县", 11),
    county("330327", "苍南县", 11),
    county("330328", "文成县", 2),
    county("330329", "泰顺县", 3),
    county("330381", "瑞安市", 21),
    county("330382", "乐清市", 27),
    young("330383", "龙港市", 7, 2020),
    county("330402", "南湖区", 11),
    county("330411", "秀洲区", 9),
    county("330421", "嘉善县", 9),
    county("330424", "海盐县", 7),
    county("330481", "海宁市", 16),
    county("330482", "平湖市", 9),
    county("330483", "桐乡市", 14),
    county("330502", "吴兴区", 14),
    county("330503", "南浔区", 7),
    county("330521", "德清县", 8),
    county("330522", "长兴县", 9),
    county("330523", "安吉县", 9),
    county("330602", "越城区", 15),
    county("330603", "柯桥区", 22),
    county("330604", "上虞区", 11),
    county("330624", "新昌县", 6),
    county("330681", "诸暨市", 17),
    county("330683", "嵊州市", 9),
    county("330702", "婺城区", 12),
    county("330703", "金东区", 7),
    county("330723", "武义县", 8),
    county("330726", "浦江县", 8),
    county("330727", "磐安县", 3),
    county("330781", "兰溪市", 6),
    county("330782", "义乌市", 62),
    county("330783", "东阳市", 16),
    county("330784", "永康市", 18),
    county("330802", "柯城区", 7),
    county("330803", "衢江区", 4),
    county("330822", "常山县", 3),
    county("330824", "开化县", 3),
    county("330825", "龙游县", 4),
    county("330881", "江山市", 6),
    county("330902", "定海区", 7),
    county("330903", "普陀区", 6),
    county("330921", "岱山县", 3),
    county("330922", "嵊泗县", 1),
    county("331002", "椒江区", 14),
    county("331003", "黄岩区", 15),
    county("331004", "路桥区", 14),
    county("331022", "三门县", 5),
    county("331023", "天台县", 7),
    county("331024", "仙居县", 5),
    county("331081", "温岭市", 20),
    county("331082", "临海市", 15),
    county("331083", "玉环市", 14),
    county("331102", "莲都区", 8),
    county("331121", "青田县", 4),
    county("331122", "缙云县", 6),
    county("331123", "遂昌县", 3),
    county("331124", "松阳县", 2),
    county("331125", "云和县", 3),
    county("331126", "庆元县", 2),
    county("331127", "景宁畲族自治县", 2),
    county("331181", "龙泉市", 3),
];

const fn retired(code: &'static str, successor: &'static str, until_year: i32) -> Retired {
    Retired {
        code,
        successor,
        until_year,
    }
}

/// Codes that were given up, by the year in which registrations last received them.
pub(crate) const RETIRED: &[Retired] = &[
    retired("330103", "330105", 2020),
    retired("330104", "330102", 2020),
    retired("330181", "330109", 2000),
    retired("330183", "330111", 2013),
    retired("330184", "330110", 2000),
    retired("330185", "330112", 2017),
    retired("330204", "330212", 2016),
    retired("330227", "330212", 2001),
    retired("330283", "330213", 2016),
    retired("330322", "330305", 2015),
    retired("330621", "330603", 2011),
    retired("330682", "330604", 2011),
    retired("331021", "331083", 2017),
    // Still in use elsewhere: the counties that these three were cut out of.
    retired("330110", "330113", 2020),
    retired("330109", "330114", 2020),
    retired("330327", "330383", 2019),
];

/// Prefecture-level cities by digits 3 and 4 of the division code.
pub(crate) fn city(division: &str) -> &'static str {
    match division.get(2..4) {
        Some("01") => "杭州",
        Some("02") => "宁波",
        Some("03") => "温州",
        Some("04") => "嘉兴",
        Some("05") => "湖州",
        Some("06") => "绍兴",
        Some("07") => "金华",
        Some("08") => "衢州",
        Some("09") => "舟山",
        Some("10") => "台州",
        Some("11") => "丽水",
        _ => "浙江",
    }
}

/// Four-digit customs district in whose area a city lies (宁波 31xx, the rest 杭州 29xx).
pub(crate) fn customs_district(division: &str) -> &'static str {
    match division.get(2..4) {
        Some("02") => "3100",
        _ => "2900",
    }
}

/// The first letters of a name: districts use their city's, counties and county-level cities their own.
pub(crate) fn name_prefix(county: &County) -> &'static str {
    if county.name.ends_with('区') {
        city(county.code)
    } else {
        county.name
    }
}

/// The county of today that stands for a division code, if it is known.
pub(crate) fn county_of(division: &str) -> Option<&'static County> {
    let today = |code: &str| COUNTIES.iter().find(|county| county.code == code);
    today(division).or_else(|| {
        RETIRED
            .iter()
            .find(|old| old.code == division)
            .and_then(|old| today(old.successor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_retired_code_has_a_county_of_today() {
        for old in RETIRED {
            assert!(county_of(old.code).is_some(), "{}", old.code);
        }
        assert_eq!(
            county_of("330104").map(|county| county.name),
            Some("上城区")
        );
        assert!(county_of("330100").is_none());
    }

    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(COUNTIES.windows(2).all(|pair| pair[0].code < pair[1].code));
    }
}
