//! The templates of the routes, by which metrics, the access log and the registry of calls name a request: paths have
//! names of topics in them, and labels must be few.

/// Templates of all routes; `{name}` stands for one segment.
pub(super) const TEMPLATES: &[&str] = &[
    "/",
    "/v1/groups",
    "/v1/openapi.json",
    "/v1/server",
    "/v1/topics",
    "/v1/topics/{topic}",
    "/v1/topics/{topic}/records",
    "/v1/topics/{topic}/trim",
    "/v1/topics/{topic}/groups",
    "/v1/topics/{topic}/groups/{group}",
    "/v1/topics/{topic}/groups/{group}/lease",
    "/v1/topics/{topic}/groups/{group}/redrive",
    "/v1/topics/{topic}/groups/{group}/seek",
    "/v1/topics/{topic}/groups/{group}/settle",
    "/v1/streams/{topic}",
];

/// Template of a path that belongs to no route.
pub const NO_ROUTE: &str = "_other";

/// Routes below `/v1/` that answer everybody.
const PUBLIC: [&str; 1] = ["/v1/openapi.json"];

/// Returns the template of the route that a path belongs to; one name for all paths that belong to none.
#[must_use]
pub fn template(path: &str) -> &'static str {
    TEMPLATES.iter().copied().find(|template| fits(template, path)).unwrap_or(NO_ROUTE)
}

/// Returns true if a caller of this path needs an identity, where identities are configured.
#[must_use]
pub fn needs_identity(path: &str) -> bool {
    path.starts_with("/v1/") && !PUBLIC.contains(&path)
}

fn fits(template: &str, path: &str) -> bool {
    let (mut parts, mut segments) = (template.split('/'), path.split('/'));
    loop {
        match (parts.next(), segments.next()) {
            (None, None) => return true,
            (Some(part), Some(segment)) if part == segment => {}
            (Some(part), Some(segment)) if part.starts_with('{') && !segment.is_empty() => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{needs_identity, template};

    #[test]
    fn paths_are_named_by_their_templates() {
        for (path, expected) in [
            ("/", "/"),
            ("/v1/topics", "/v1/topics"),
            ("/v1/topics/orders", "/v1/topics/{topic}"),
            ("/v1/topics/orders/records", "/v1/topics/{topic}/records"),
            ("/v1/topics//records", "_other"),
            ("/v1/topics/", "_other"),
            ("/v1/topics/a/b/c/d/e/f", "_other"),
            ("", "_other"),
        ] {
            assert_eq!(template(path), expected, "{path}");
        }
    }

    #[test]
    fn everything_of_the_api_but_its_description_needs_an_identity() {
        assert!(needs_identity("/v1/topics") && needs_identity("/v1/anything"));
        assert!(!needs_identity("/v1/openapi.json") && !needs_identity("/"));
    }
}
