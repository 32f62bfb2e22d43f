//! Industries (GB/T 4754-2017 classes) with rough Zhejiang weights, and the goods their enterprises send abroad.

/// What enterprises of one class are like.
#[derive(Debug)]
pub(crate) struct Industry {
    /// Section letter and four digits.
    pub(crate) code: &'static str,
    /// The word in an enterprise name.
    pub(crate) word: &'static str,
    /// Business scope, in the words registers use.
    pub(crate) scope: &'static str,
    /// Share of enterprises.
    pub(crate) weight: u32,
    /// Median number of people of a micro enterprise, in tenths.
    pub(crate) people: i64,
    /// Median yearly sales per person, 万元.
    pub(crate) sales_per_head: i64,
    /// Standard VAT rate, per cent.
    pub(crate) vat_rate: i64,
    /// Chance that an enterprise of median size trades abroad, per million.
    pub(crate) exporter: u32,
    /// Goods it deals in; empty for services.
    pub(crate) goods: &'static [Good],
    /// Bias of seasonality.
    pub(crate) season: Season,
}

/// When in the year sales peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Season {
    /// Little change, a dip in the month of the spring festival.
    Even,
    /// Before Christmas: shipped August to October.
    Christmas,
    /// November and the month before the spring festival.
    Retail,
    /// Harvest, May to June and September to October.
    Harvest,
    /// Closing of accounts, December and June.
    YearEnd,
}

impl Season {
    /// Factor on an average month, in hundredths; twelve of them sum to 1200.
    pub(crate) const fn factors(self) -> [i64; 12] {
        match self {
            Self::Even => [104, 62, 103, 102, 103, 104, 102, 102, 104, 102, 105, 107],
            Self::Christmas => [92, 48, 82, 90, 98, 108, 122, 138, 140, 118, 88, 76],
            Self::Retail => [128, 84, 86, 90, 96, 104, 88, 90, 98, 104, 132, 100],
            Self::Harvest => [84, 66, 82, 108, 138, 126, 88, 90, 130, 124, 88, 76],
            Self::YearEnd => [70, 52, 84, 92, 100, 136, 88, 92, 104, 98, 112, 172],
        }
    }
}

/// A commodity with its unit and price.
#[derive(Debug)]
pub(crate) struct Good {
    /// Ten digits, the first six of HS 2022.
    pub(crate) hs: &'static str,
    pub(crate) name: &'static str,
    /// Customs unit code.
    pub(crate) unit: &'static str,
    /// Median price per unit, US cents.
    pub(crate) price: i64,
    /// Weight per unit, grams.
    pub(crate) grams: i64,
}

const fn good(
    hs: &'static str,
    name: &'static str,
    unit: &'static str,
    price: i64,
    grams: i64,
) -> Good {
    Good {
        hs,
        name,
        unit,
        price,
        grams,
    }
}

const PIECE: &str = "007";
const ITEM: &str = "011";
const SET: &str = "006";
const DEVICE: &str = "001";
const PAIR: &str = "025";
const METRE: &str = "030";
const KILOGRAM: &str = "035";

#[rustfmt::skip]
const TEXTILE: &[Good] = &[
    good("5407520000", "染色涤纶机织物", METRE, 92, 180),
    good("6006220000", "棉制染色针织布", KILOGRAM, 640, 1000),
    good("5806320000", "化纤制狭幅机织物", KILOGRAM, 720, 1000),
    good("5407610000", "聚酯非变形长丝机织物", METRE, 85, 150),
];
#[rustfmt::skip]
const CLOTHES: &[Good] = &[
    good("6109100010", "棉制针织T恤衫", ITEM, 310, 160),
    good("6203429062", "男式棉制长裤", ITEM, 720, 480),
    good("6115960000", "化纤制短袜", PAIR, 46, 50),
    good("6505009900", "针织帽", PIECE, 130, 80),
];
#[rustfmt::skip]
const HOME_TEXTILE: &[Good] = &[
    good("6302601000", "棉制浴巾", ITEM, 260, 420),
    good("6303920000", "化纤制窗帘", ITEM, 480, 900),
    good("5603121000", "化纤无纺布", KILOGRAM, 210, 1000),
];
#[rustfmt::skip]
const SHOES: &[Good] = &[
    good("6403990090", "皮面休闲鞋", PAIR, 1350, 900),
    good("6402999000", "塑料面运动鞋", PAIR, 520, 700),
    good("4202920000", "化纤面背包", PIECE, 480, 650),
];
#[rustfmt::skip]
const PLASTIC: &[Good] = &[
    good("3926909090", "塑料制品", KILOGRAM, 390, 1000),
    good("3924100000", "塑料餐具", KILOGRAM, 340, 1000),
    good("5402330000", "涤纶弹力丝", KILOGRAM, 165, 1000),
];
#[rustfmt::skip]
const METAL: &[Good] = &[
    good("7318151090", "钢铁制螺栓", KILOGRAM, 180, 1000),
    good("7323930000", "不锈钢保温杯", PIECE, 310, 350),
    good("8301400000", "门锁", PIECE, 640, 700),
    good("8302410000", "建筑用金属配件", KILOGRAM, 420, 1000),
    good("7615109090", "铝制锅具", PIECE, 520, 900),
    good("8205590000", "手工工具", PIECE, 190, 300),
];
#[rustfmt::skip]
const MACHINE: &[Good] = &[
    good("8481804090", "阀门", SET, 560, 800),
    good("8482102000", "深沟球轴承", SET, 85, 150),
    good("8414301400", "压缩机", DEVICE, 3600, 9000),
    good("8467299000", "手提式电动工具", DEVICE, 2400, 2300),
    good("8483409000", "减速机", DEVICE, 9800, 16000),
    good("8480719090", "注塑模具", SET, 620_000, 850_000),
];
#[rustfmt::skip]
const ELECTRIC: &[Good] = &[
    good("8536500000", "开关", PIECE, 75, 60),
    good("8544422900", "带接头电线", KILOGRAM, 980, 1000),
    good("8501400000", "单相交流电动机", DEVICE, 1450, 4200),
    good("9405420090", "LED灯具", PIECE, 620, 800),
    good("8516310000", "电吹风", PIECE, 780, 700),
    good("8507600090", "锂离子电池", PIECE, 2900, 1500),
    good("8541430000", "光伏组件", PIECE, 7200, 26_000),
];
#[rustfmt::skip]
const VEHICLE: &[Good] = &[
    good("8708999990", "汽车零件", KILOGRAM, 560, 1000),
    good("8712003000", "自行车", DEVICE, 7900, 14_000),
];
#[rustfmt::skip]
const TOY: &[Good] = &[
    good("9503008900", "玩具", KILOGRAM, 720, 1000),
    good("9505100090", "圣诞用品", KILOGRAM, 540, 1000),
    good("7117190000", "仿首饰", KILOGRAM, 2600, 1000),
    good("6702903000", "化纤制仿真花", KILOGRAM, 620, 1000),
    good("9608100000", "圆珠笔", PIECE, 9, 10),
];
#[rustfmt::skip]
const FURNITURE: &[Good] = &[
    good("9401619000", "木框架软垫坐具", PIECE, 6800, 18_000),
    good("9403609990", "木家具", PIECE, 5400, 24_000),
    good("4409291090", "木地板条", KILOGRAM, 190, 1000),
];
#[rustfmt::skip]
const CHEMICAL: &[Good] = &[
    good("3204170000", "颜料制品", KILOGRAM, 760, 1000),
    good("2933990099", "杂环化合物", KILOGRAM, 3200, 1000),
    good("3004909099", "混合药品", KILOGRAM, 5200, 1000),
];
#[rustfmt::skip]
const FOOD: &[Good] = &[
    good("0902109000", "绿茶", KILOGRAM, 760, 1000),
    good("2008999000", "水果罐头", KILOGRAM, 210, 1000),
    good("0306170090", "冻虾仁", KILOGRAM, 780, 1000),
];
#[rustfmt::skip]
const INSTRUMENT: &[Good] = &[
    good("9018909990", "医疗器械", PIECE, 1800, 600),
    good("8542311990", "处理器及控制器", PIECE, 210, 5),
];

#[expect(clippy::too_many_arguments, reason = "one line of the table below")]
const fn industry(
    code: &'static str,
    word: &'static str,
    scope: &'static str,
    weight: u32,
    people: i64,
    sales_per_head: i64,
    vat_rate: i64,
    exporter: u32,
    goods: &'static [Good],
    season: Season,
) -> Industry {
    Industry {
        code,
        word,
        scope,
        weight,
        people,
        sales_per_head,
        vat_rate,
        exporter,
        goods,
        season,
    }
}

use Season::{Christmas, Even, Harvest, Retail, YearEnd};

/// The classes that enterprises are drawn from.
#[rustfmt::skip]
pub(crate) const INDUSTRIES: &[Industry] = &[
    industry("A0141", "蔬菜", "蔬菜种植、销售", 8, 60, 18, 9, 4_000, FOOD, Harvest),
    industry("A0164", "茶业", "茶叶种植、初加工、销售", 7, 60, 20, 9, 40_000, FOOD, Harvest),
    industry("A0159", "果业", "水果种植、销售", 8, 55, 16, 9, 4_000, FOOD, Harvest),
    industry("A0411", "水产", "海水养殖、水产品销售", 4, 70, 35, 9, 30_000, FOOD, Harvest),
    industry("C1371", "食品", "蔬菜加工，食品生产", 9, 180, 62, 13, 130_000, FOOD, Harvest),
    industry("C1751", "纺织", "化纤织造加工，纺织品制造、销售", 24, 220, 68, 13, 260_000, TEXTILE, Even),
    industry("C1761", "针织", "针织布、针织品制造、销售", 14, 200, 55, 13, 250_000, TEXTILE, Even),
    industry("C1773", "家纺", "窗帘、布艺、床上用品制造、销售", 12, 210, 52, 13, 330_000, HOME_TEXTILE, Christmas),
    industry("C1819", "服饰", "服装制造、销售", 22, 240, 42, 13, 290_000, CLOTHES, Even),
    industry("C1952", "鞋业", "皮鞋、鞋材制造、销售", 13, 280, 38, 13, 280_000, SHOES, Even),
    industry("C2110", "家具", "木质家具制造、销售", 11, 240, 48, 13, 310_000, FURNITURE, Christmas),
    industry("C2319", "印务", "包装装潢、其他印刷品印刷", 9, 150, 46, 13, 40_000, &[], Even),
    industry("C2412", "文具", "笔、文具制造、销售", 6, 210, 45, 13, 360_000, TOY, Even),
    industry("C2459", "玩具", "玩具、工艺品制造、销售", 11, 230, 40, 13, 420_000, TOY, Christmas),
    industry("C2669", "化工", "专用化学产品制造、销售（不含危险化学品）", 9, 260, 130, 13, 220_000, CHEMICAL, Even),
    industry("C2720", "药业", "化学药品制剂制造", 2, 900, 95, 13, 260_000, CHEMICAL, Even),
    industry("C2927", "塑业", "日用塑料制品制造、销售", 21, 190, 52, 13, 260_000, PLASTIC, Even),
    industry("C3311", "钢构", "金属结构制造、安装", 8, 240, 72, 13, 60_000, METAL, YearEnd),
    industry("C3351", "五金", "建筑、家具用金属配件制造、销售", 23, 200, 50, 13, 300_000, METAL, Even),
    industry("C3443", "阀门", "阀门和旋塞制造、销售", 12, 240, 55, 13, 330_000, MACHINE, Even),
    industry("C3451", "轴承", "滚动轴承制造、销售", 9, 250, 56, 13, 300_000, MACHINE, Even),
    industry("C3482", "紧固件", "紧固件制造、销售", 8, 190, 66, 13, 300_000, METAL, Even),
    industry("C3525", "模具", "模具制造、加工、销售", 15, 170, 44, 13, 170_000, MACHINE, Even),
    industry("C3484", "机械", "机械零部件加工、制造、销售", 26, 190, 48, 13, 160_000, MACHINE, Even),
    industry("C3670", "汽车配件", "汽车零部件及配件制造、销售", 17, 320, 70, 13, 290_000, VEHICLE, Even),
    industry("C3823", "电气", "配电开关控制设备制造、销售", 19, 230, 66, 13, 190_000, ELECTRIC, Even),
    industry("C3812", "电机", "电动机、泵制造、销售", 10, 260, 62, 13, 300_000, ELECTRIC, Even),
    industry("C3825", "新能源", "光伏设备及元器件制造、销售", 5, 420, 150, 13, 330_000, ELECTRIC, Even),
    industry("C3854", "电器", "家用厨房电器具制造、销售", 11, 330, 66, 13, 380_000, ELECTRIC, Christmas),
    industry("C3872", "照明", "照明灯具制造、销售", 9, 220, 52, 13, 370_000, ELECTRIC, Christmas),
    industry("C3989", "电子", "电子元件制造、销售", 12, 280, 60, 13, 260_000, INSTRUMENT, Even),
    industry("C3584", "医疗器械", "医疗器械生产、销售", 4, 360, 66, 13, 260_000, INSTRUMENT, Even),
    industry("E4813", "市政工程", "市政道路工程施工", 11, 160, 95, 9, 0, &[], YearEnd),
    industry("E5011", "装饰工程", "公共建筑装饰和装修", 22, 80, 70, 9, 0, &[], YearEnd),
    industry("E4910", "机电安装", "电气安装，机电设备安装", 12, 90, 68, 9, 0, &[], YearEnd),
    industry("F5131", "纺织品", "纺织品、针织品及原料批发", 46, 42, 210, 13, 110_000, TEXTILE, Even),
    industry("F5132", "服装贸易", "服装批发、零售", 30, 38, 120, 13, 90_000, CLOTHES, Retail),
    industry("F5135", "日用品", "厨具卫具及日用杂品批发", 28, 36, 130, 13, 110_000, PLASTIC, Christmas),
    industry("F5146", "工艺品", "首饰、工艺品批发", 30, 38, 120, 13, 180_000, TOY, Christmas),
    industry("F5165", "建材", "建材批发、零售", 36, 38, 190, 13, 8_000, METAL, YearEnd),
    industry("F5174", "五金贸易", "五金产品批发", 32, 38, 160, 13, 70_000, METAL, Even),
    industry("F5179", "机电设备", "机械设备及电子产品批发", 30, 44, 180, 13, 60_000, MACHINE, Even),
    industry("F5181", "进出口", "货物进出口、技术进出口，贸易代理", 34, 62, 420, 13, 760_000, TOY, Christmas),
    industry("F5211", "百货", "百货零售", 26, 34, 66, 13, 0, &[], Retail),
    industry("F5232", "服装店", "服装零售", 22, 26, 42, 13, 0, &[], Retail),
    industry("F5292", "电子商务", "互联网零售，日用百货销售", 58, 44, 125, 13, 40_000, TOY, Retail),
    industry("G5431", "运输", "普通货物道路运输", 20, 88, 52, 9, 0, &[], Even),
    industry("G5821", "货运代理", "国内、国际货物运输代理", 13, 84, 160, 6, 0, &[], Christmas),
    industry("H6110", "酒店管理", "住宿、餐饮服务", 6, 210, 22, 6, 0, &[], Retail),
    industry("H6210", "餐饮", "正餐服务", 17, 92, 18, 6, 0, &[], Retail),
    industry("I6513", "软件", "应用软件开发、销售，计算机技术服务", 30, 92, 46, 6, 6_000, &[], YearEnd),
    industry("I6531", "信息技术", "信息系统集成服务", 18, 92, 56, 6, 0, &[], YearEnd),
    industry("I6432", "网络科技", "互联网生活服务平台，信息咨询", 20, 84, 60, 6, 0, &[], Retail),
    industry("K7010", "房地产开发", "房地产开发经营", 8, 130, 320, 9, 0, &[], YearEnd),
    industry("K7020", "物业管理", "物业管理服务", 11, 230, 18, 6, 0, &[], Even),
    industry("L7212", "投资管理", "投资与资产管理（未经金融等监管部门批准不得从事金融服务）", 20, 28, 40, 6, 0, &[], YearEnd),
    industry("L7249", "企业管理咨询", "企业管理咨询，商务信息咨询", 26, 36, 30, 6, 0, &[], Even),
    industry("L7259", "广告", "广告设计、制作、代理、发布", 20, 46, 42, 6, 0, &[], Retail),
    industry("M7320", "科技", "技术开发、技术服务、技术咨询", 40, 84, 48, 6, 4_000, &[], YearEnd),
    industry("M7484", "建筑设计", "工程设计活动", 9, 120, 42, 6, 0, &[], YearEnd),
    industry("N7840", "园林", "园林绿化工程，绿化管理", 8, 96, 42, 9, 0, &[], YearEnd),
    industry("O8040", "美容美发", "理发及美容服务", 9, 40, 12, 6, 0, &[], Retail),
    industry("O8111", "汽车服务", "汽车修理与维护", 9, 66, 26, 13, 0, &[], Even),
    industry("R8890", "文化传媒", "文化艺术交流活动策划，会展服务", 16, 48, 34, 6, 0, &[], Retail),
];

/// The class that a name suggests, or else a business scope: the longest industry word that occurs.
pub(crate) fn index_by_name(name: &str, scope: &str) -> Option<usize> {
    let longest = |text: &str| {
        INDUSTRIES
            .iter()
            .enumerate()
            .filter(|(_, industry)| text.contains(industry.word))
            .max_by_key(|(_, industry)| industry.word.len())
            .map(|(index, _)| index)
    };
    longest(name).or_else(|| longest(scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seasons_average_to_one() {
        for season in [Even, Christmas, Retail, Harvest, YearEnd] {
            assert_eq!(season.factors().iter().sum::<i64>(), 1200);
        }
    }

    #[test]
    fn exporters_have_goods() {
        for industry in INDUSTRIES {
            assert!(
                industry.goods.is_empty() || industry.goods.iter().all(|good| good.hs.len() == 10),
                "{}",
                industry.code
            );
        }
    }

    #[test]
    fn a_name_leads_to_its_class() {
        let class = index_by_name("某某汽车配件有限公司", "").map(|index| INDUSTRIES[index].code);
        assert_eq!(class, Some("C3670"));
    }
}
