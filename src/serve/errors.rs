//! The pages about error codes, which the `type` of every problem points to.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, header};

use super::problem::Problem;
use super::{ServeError, Service};

/// Code and page, in the order of codes.
static PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/error_pages.rs"));

/// The pages need no token: who has none may want to read why.
pub(crate) fn router() -> Router<Arc<Service>> {
    Router::new().route("/errors/{code}", get(page))
}

async fn page(Path(code): Path<String>) -> Result<Response, Problem> {
    let found = PAGES.binary_search_by(|(known, _)| (*known).cmp(code.as_str()));
    let page = found.ok().and_then(|at| PAGES.get(at));
    let (_, text) = page.ok_or(ServeError::NoSuchRoute)?;
    let kind = HeaderValue::from_static("text/markdown; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], *text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_in_the_order_they_are_looked_for() {
        assert!(PAGES.len() > 100);
        assert!(PAGES.is_sorted_by_key(|(code, _)| *code));
    }
}
