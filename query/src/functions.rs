//! The functions that the gate's SQL knows: an explicit list, so that an upgrade of the engine adds nothing.
//!
//! Left out on purpose: what differs from run to run or by place (`random`, `uuid`, `input_file_name`,
//! `file_row_index`, `any_value`, approximate aggregates), what speaks of the engine or of metadata (`version`,
//! `arrow_metadata`, `arrow_field`, `with_metadata`).
//!
//! What makes large values from small ones is bounded by the query's memory ([`crate::bounds::values`]).

use std::sync::Arc;

use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};

/// Scalar functions that cannot fail on any value of their argument types.
pub const INFALLIBLE_SCALAR: &[&str] = &[
    "ascii",
    "bit_length",
    "btrim",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "contains",
    "current_date",
    "date_part",
    "ends_with",
    "find_in_set",
    "greatest",
    "initcap",
    "isnan",
    "iszero",
    "least",
    "lower",
    "ltrim",
    "md5",
    "now",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "pi",
    "replace",
    "reverse",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "starts_with",
    "strpos",
    "to_hex",
    "translate",
    "upper",
];

/// Scalar functions that may refuse a value.
pub const FALLIBLE_SCALAR: &[&str] = &[
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "chr",
    "cos",
    "cosh",
    "cot",
    "current_time",
    "date_bin",
    "date_trunc",
    "decode",
    "degrees",
    "digest",
    "encode",
    "exp",
    "factorial",
    "floor",
    "from_unixtime",
    "gcd",
    "lcm",
    "left",
    "levenshtein",
    "ln",
    "log",
    "log10",
    "log2",
    "lpad",
    "make_date",
    "make_time",
    "nanvl",
    "overlay",
    "power",
    "radians",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_replace",
    "repeat",
    "right",
    "round",
    "rpad",
    "signum",
    "sin",
    "sinh",
    "split_part",
    "sqrt",
    "substr",
    "substr_index",
    "tan",
    "tanh",
    "to_char",
    "to_date",
    "to_local_time",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
    "trunc",
];

/// Scalar functions without a name in SQL: what the engine makes of brackets, braces, `||` of lists, `@>` and fields.
/// They may refuse a value.
pub const SYNTAX_SCALAR: &[&str] = &[
    "array_append",
    "array_concat",
    "array_element",
    "array_has_all",
    "array_prepend",
    "array_slice",
    "get_field",
    "make_array",
    "struct",
];

/// Whether a scalar function may stand in a query.
pub fn is_scalar(name: &str) -> bool {
    [INFALLIBLE_SCALAR, FALLIBLE_SCALAR, SYNTAX_SCALAR]
        .iter()
        .any(|list| list.contains(&name))
}

/// Aggregates whose result does not depend on the order of rows.
pub const AGGREGATES: &[&str] = &[
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "grouping",
    "max",
    "median",
    "min",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var_pop",
    "var",
];

/// Aggregates whose result depends on the order of rows; their order is completed.
pub const ORDERED_AGGREGATES: &[&str] = &[
    "array_agg",
    "first_value",
    "last_value",
    "nth_value",
    "string_agg",
];

/// Aggregates whose result holds every value: over the frames of a window they would hold each many times.
pub const GROWING_AGGREGATES: &[&str] = &["array_agg", "string_agg"];

/// Window functions that look at peers only.
pub const WINDOWS: &[&str] = &["cume_dist", "dense_rank", "percent_rank", "rank"];

/// Window functions whose result depends on the order among peers; their order is completed.
pub const ORDERED_WINDOWS: &[&str] = &[
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "row_number",
];

/// The allowed scalar functions.
pub fn scalar() -> Vec<Arc<ScalarUDF>> {
    SessionStateDefaults::default_scalar_functions()
        .into_iter()
        .filter(|udf| {
            INFALLIBLE_SCALAR.contains(&udf.name()) || FALLIBLE_SCALAR.contains(&udf.name())
        })
        .collect()
}

/// The allowed aggregates.
pub fn aggregate() -> Vec<Arc<AggregateUDF>> {
    SessionStateDefaults::default_aggregate_functions()
        .into_iter()
        .filter(|udf| AGGREGATES.contains(&udf.name()) || ORDERED_AGGREGATES.contains(&udf.name()))
        .collect()
}

/// The allowed window functions.
pub fn window() -> Vec<Arc<WindowUDF>> {
    SessionStateDefaults::default_window_functions()
        .into_iter()
        .filter(|udf| WINDOWS.contains(&udf.name()) || ORDERED_WINDOWS.contains(&udf.name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A misspelt name would silently take a function away.
    #[test]
    fn every_listed_function_exists() {
        let scalars: Vec<String> = scalar().iter().map(|udf| udf.name().to_owned()).collect();
        for name in INFALLIBLE_SCALAR.iter().chain(FALLIBLE_SCALAR) {
            assert!(scalars.iter().any(|have| have == name), "scalar {name}");
        }
        let aggregates: Vec<String> = aggregate()
            .iter()
            .map(|udf| udf.name().to_owned())
            .collect();
        for name in AGGREGATES.iter().chain(ORDERED_AGGREGATES) {
            assert!(
                aggregates.iter().any(|have| have == name),
                "aggregate {name}"
            );
        }
        let windows: Vec<String> = window().iter().map(|udf| udf.name().to_owned()).collect();
        for name in WINDOWS.iter().chain(ORDERED_WINDOWS) {
            assert!(windows.iter().any(|have| have == name), "window {name}");
        }
    }
}
