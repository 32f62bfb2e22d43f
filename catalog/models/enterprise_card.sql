-- # Every join is a left join to one row per enterprise, so that a card exists for exactly the registered enterprises,
-- # and what one dataset adds restricts its own columns only.
-- name: enterprise_card
-- version: 1.0.0
-- title: Enterprise card
-- title_cn: 企业数字名片
-- description: >-
--   One row for each registered enterprise: who it is, how it is rated, and how many public records there are about it.
--   Records are counted while they are disclosed; a card that counts one whose disclosure has ended is not shown until
--   it is built again.
-- description_cn: 每户登记企业一行：登记信息、信用等级以及各类公开记录的数量和日期。处于公示期内的记录方计入；公示期届满的，名片重新生成前不再展示。
-- owner: data_authority
-- key: [uscc]
-- freshness_days: 1
-- declassifications: [tax_credit_a_list]
-- columns:
--   - {name: uscc, title_cn: 统一社会信用代码, description: "The enterprise: its unified social credit code."}
--   - {name: entname, title_cn: 企业名称, description: Name.}
--   - {name: enttype_cn, title_cn: 市场主体类型, description: Kind of enterprise.}
--   - {name: regstate, title_cn: 登记状态, description: Registration status., code_list: registration_status}
--   - {name: estdate, title_cn: 成立日期, description: Established on.}
--   - {name: apprdate, title_cn: 核准日期, description: The last change of the registration was approved on.}
--   - {name: industryco, title_cn: 行业代码, description: Industry., code_list: industry}
--   - {name: domdistrict, title_cn: 住所所在行政区划, description: Division of the domicile., code_list: division}
--   - {name: regcap, title_cn: 注册资本（万元）, description: "Registered capital, in ten thousand.", unit: tenThousand}
--   - {name: regcapcur, title_cn: 注册资本币种, description: Currency of the capital., code_list: currency}
--   - {name: annual_report_year, title_cn: 最近年报年度, description: The last year an annual report was filed for.}
--   - {name: annual_report_on, title_cn: 最近年报日期, description: The last annual report was filed on.}
--   - {name: employees, title_cn: 从业人数, description: Employees in the last annual report.}
--   - {name: taxpayer_state, title_cn: 纳税人状态, description: State as a taxpayer., code_list: taxpayer_state}
--   - {name: general_taxpayer, title_cn: 一般纳税人标志, description: Whether it is a general VAT taxpayer.}
--   - {name: tax_credit_year, title_cn: 最近纳税信用评价年度, description: The last year with a tax credit rating.}
--   - {name: tax_credit_level, title_cn: 最近纳税信用级别, description: The tax credit level of that year., code_list: tax_credit}
--   - {name: tax_credit_a_year, title_cn: 最近列入A级纳税人名单的年度, description: The last year on the published list of level A.}
--   - {name: customs_credit_level, title_cn: 海关信用等级, description: Customs credit level., code_list: customs_credit}
--   - {name: customs_credit_on, title_cn: 海关信用等级认定日期, description: The customs credit level was decided on.}
--   - {name: public_credit_level, title_cn: 公共信用评价等级, description: Level of the last public credit score., code_list: public_credit_level}
--   - {name: public_credit_on, title_cn: 公共信用评价日期, description: The last public credit score is of this day.}
--   - {name: licences, title_cn: 行政许可数, description: Administrative licences on record.}
--   - {name: licence_on, title_cn: 最近行政许可日期, description: The last of them was decided on.}
--   - {name: penalties, title_cn: 公示期内行政处罚数, description: Administrative penalties that are disclosed.}
--   - {name: penalty_on, title_cn: 最近行政处罚日期, description: The last of them was decided on.}
--   - {name: abnormal_entries, title_cn: 未移出的经营异常记录数, description: Entries in the list of abnormal operations that are disclosed.}
--   - {name: abnormal_on, title_cn: 最近列入经营异常名录日期, description: The last of them was made on.}
--   - {name: customs_declared_on, title_cn: 最近进出口日期, description: The last day on which it imported or exported.}
WITH report AS (
  SELECT uscc, max(ancheyear) AS annual_report_year, max(anchedate) AS annual_report_on,
         first_value(empnum ORDER BY ancheyear DESC, anchedate DESC) AS employees
  FROM annual_report GROUP BY uscc
), payer AS (
  SELECT uscc, first_value(nsrzt ORDER BY djrq DESC NULLS LAST, djxh) AS taxpayer_state,
         bool_or(ybnsrbz) AS general_taxpayer
  FROM taxpayer GROUP BY uscc
), tax AS (
  SELECT uscc, max(pjnd) AS tax_credit_year, first_value(pjjb ORDER BY pjnd DESC) AS tax_credit_level,
         max(CASE WHEN gkbz AND pjjb = 'A' THEN pjnd END) AS tax_credit_a_year
  FROM tax_credit_rating GROUP BY uscc
), customs AS (
  SELECT uscc, first_value(credit_level ORDER BY rdrq DESC) AS customs_credit_level, max(rdrq) AS customs_credit_on
  FROM customs_credit_rating GROUP BY uscc
), score AS (
  SELECT uscc, first_value(pjdj ORDER BY pjrq DESC) AS public_credit_level, max(pjrq) AS public_credit_on
  FROM public_credit_score GROUP BY uscc
), licence AS (
  SELECT uscc, count(*) AS licences, max(xk_jdrq) AS licence_on FROM admin_licence GROUP BY uscc
), penalty AS (
  SELECT uscc, count(*) AS penalties, max(cf_jdrq) AS penalty_on FROM admin_penalty GROUP BY uscc
), abnormal AS (
  SELECT uscc, count(*) AS abnormal_entries, max(abntime) AS abnormal_on FROM abnormal_operation GROUP BY uscc
), trade AS (
  SELECT uscc, max(i_e_date) AS customs_declared_on FROM customs_declaration GROUP BY uscc
)
SELECT e.uscc, e.entname, e.enttype_cn, e.regstate, e.estdate, e.apprdate, e.industryco, e.domdistrict, e.regcap,
       e.regcapcur, report.annual_report_year, report.annual_report_on, report.employees, payer.taxpayer_state,
       payer.general_taxpayer, tax.tax_credit_year, tax.tax_credit_level, tax.tax_credit_a_year,
       customs.customs_credit_level, customs.customs_credit_on, score.public_credit_level, score.public_credit_on,
       coalesce(licence.licences, 0) AS licences, licence.licence_on,
       coalesce(penalty.penalties, 0) AS penalties, penalty.penalty_on,
       coalesce(abnormal.abnormal_entries, 0) AS abnormal_entries, abnormal.abnormal_on,
       trade.customs_declared_on
FROM enterprise_registration AS e
LEFT JOIN report ON report.uscc = e.uscc
LEFT JOIN payer ON payer.uscc = e.uscc
LEFT JOIN tax ON tax.uscc = e.uscc
LEFT JOIN customs ON customs.uscc = e.uscc
LEFT JOIN score ON score.uscc = e.uscc
LEFT JOIN licence ON licence.uscc = e.uscc
LEFT JOIN penalty ON penalty.uscc = e.uscc
LEFT JOIN abnormal ON abnormal.uscc = e.uscc
LEFT JOIN trade ON trade.uscc = e.uscc
