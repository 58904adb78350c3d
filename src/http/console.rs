//! The console: one page for people, at `/`. It reaches the server by the public API only, with the rights of its reader.
//! The content security policy lets the page run its own script and style, and nothing that a record may hold.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, header};
use ring::digest::{SHA256, digest};

/// The page, of its parts. The scripts are one element, in which the later ones use what the earlier ones define.
const PAGE: &str = concat!(
    include_str!("console/head.html"),
    "<style>\n",
    include_str!("console/style.css"),
    "</style>\n",
    include_str!("console/body.html"),
    "<script>\n",
    include_str!("console/base.js"),
    include_str!("console/table.js"),
    include_str!("console/topics.js"),
    include_str!("console/topic.js"),
    include_str!("console/groups.js"),
    include_str!("console/group.js"),
    include_str!("console/server.js"),
    include_str!("console/route.js"),
    "</script>\n</body>\n</html>\n"
);

/// Content Security Policy of the page.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (style, script) = (hash("style"), hash("script"));
    let policy = format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    HeaderValue::try_from(policy).expect("a hash in base64 is ASCII")
});

/// Answers `GET /`.
pub async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        // A page of an older server would ask for what the newer one answers differently.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, PAGE).into_response()
}

/// Returns the source of the policy that allows the only element of a name.
fn hash(element: &str) -> String {
    let digest = digest(&SHA256, inside(element).as_bytes());
    format!("sha256-{}", STANDARD.encode(digest))
}

/// Returns the text of the only element of a name.
fn inside(element: &str) -> &'static str {
    let after = PAGE.split_once(&format!("<{element}>")).map_or("", |(_, after)| after);
    after.split_once(&format!("</{element}>")).map_or("", |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::{PAGE, POLICY, inside};

    /// Most bytes of the page.
    const BYTES_MAX: usize = 80 * 1024;

    #[test]
    fn the_page_is_small_and_needs_nothing_from_elsewhere() {
        assert!(PAGE.len() <= BYTES_MAX, "{} bytes", PAGE.len());
        for foreign in ["src=", "http://", "https://", "@import", "url("] {
            let found = PAGE.replace("http://www.w3.org/2000/svg", "").contains(foreign);
            assert!(!found, "the page contains {foreign}");
        }
    }

    #[test]
    fn the_policy_allows_one_script_and_one_style() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(inside(element).len() > 1000, "{element}");
        }
        let policy = POLICY.to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert_eq!(policy.matches("'sha256-").count(), 2, "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn the_script_never_makes_elements_of_text() {
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!inside("script").contains(sink), "{sink}");
        }
    }
}
