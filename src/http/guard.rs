//! The guard that keeps web pages from using a visitor's browser against this server: the browser can reach addresses that
//! the page's author cannot, and presents the visitor's client certificate. docs/security.md has the threats, one by one.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::problem::Problem;
use super::route;
use crate::config::{Hosts, Origins};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const ALLOW_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const REQUEST_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");

/// A record may be a hostile page: opened by itself, it can run nothing, and is of no origin.
const SANDBOX: HeaderValue =
    HeaderValue::from_static("sandbox; default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
/// Headers that pages of listed origins may read. Those of gRPC-Web stand for browsers that do not know the wildcard.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "*, grpc-status, grpc-message, grpc-status-details-bin, www-authenticate, retry-after, stream-next-offset, \
     stream-up-to-date, stream-cursor, stream-closed",
);
/// Methods of the routes.
pub(super) const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// Seconds for which a browser may remember a preflight: the most that Chromium takes.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("7200");

/// Names of the certificate in use.
type CertificateNames = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Rules for the requests of browsers.
pub struct Guard {
    origins: Origins,
    hosts: Hosts,
    /// TLS ends here, so that pages of the server's own origin have the scheme https.
    is_tls: bool,
    /// Callers have identities, so that whoever shows a token is no page that only uses a visitor's browser.
    has_identities: bool,
    is_certified: CertificateNames,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("origins", &self.origins)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// Request that passed, with what its answer needs.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// Listed origin of the page that asks.
    origin: Option<HeaderValue>,
    /// The request asks whether another may be sent (CORS preflight).
    preflight: Option<Preflight>,
}

#[derive(Clone, Debug)]
struct Preflight {
    headers: Option<HeaderValue>,
    asks_for_network: bool,
}

impl Guard {
    /// Makes the rules. `is_certified` tells whether the certificate in use names a host.
    #[must_use]
    pub fn new(
        origins: Origins,
        hosts: Hosts,
        has_identities: bool,
        is_certified: Option<CertificateNames>,
    ) -> Self {
        let is_tls = is_certified.is_some();
        let is_certified = is_certified.unwrap_or_else(|| Box::new(|_| false));
        Self { origins, hosts, is_tls, has_identities, is_certified }
    }

    /// Decides whether a request may pass.
    ///
    /// # Errors
    /// It may not; the problem is the answer.
    pub fn check(&self, request: &Parts) -> Result<Pass, Problem> {
        let host = host(request)?;
        let origin = self.origin(request, &host)?;
        if origin.is_none() && is_of_another_site(request) && !is_visit(request) {
            return Err(cross_site());
        }
        let is_preflight = request.method == Method::OPTIONS
            && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let preflight = (origin.is_some() && is_preflight).then(|| Preflight {
            headers: request.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            asks_for_network: request.headers.contains_key(REQUEST_NETWORK),
        });
        // A preflight carries no token, and its answer says nothing of the server.
        if preflight.is_none() && !self.may_be_named(request, &host) {
            return Err(wrong_host(&host));
        }
        Ok(Pass { origin, preflight })
    }

    /// Returns the listed origin of the page that asks; none for a page of our own, and without a page.
    fn origin(&self, request: &Parts, host: &str) -> Result<Option<HeaderValue>, Problem> {
        let mut values = request.headers.get_all(header::ORIGIN).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return if request.headers.contains_key(header::ORIGIN) { Err(cross_site()) } else { Ok(None) };
        };
        let origin = value.to_str().map_err(|_| cross_site())?;
        if self.origins.contains(origin) {
            return Ok(Some(value.clone()));
        }
        if self.is_own(origin, host) { Ok(None) } else { Err(cross_site()) }
    }

    /// Returns true for the origin of a page that this server served. Where a proxy ends TLS, its scheme is not known.
    fn is_own(&self, origin: &str, host: &str) -> bool {
        match origin.split_once("://") {
            Some(("https", of)) => of == without_port(host, ":443"),
            Some(("http", of)) => !self.is_tls && of == without_port(host, ":80"),
            _ => false,
        }
    }

    /// Returns false for a name by which another's page may have had a browser come here (DNS rebinding): any name but
    /// those that nobody else can give to this address.
    fn may_be_named(&self, request: &Parts, host: &str) -> bool {
        let has_token = request.headers.contains_key(header::AUTHORIZATION);
        if self.has_identities && (has_token || !route_has_data(request)) {
            return true;
        }
        let name = name_of(host);
        let is_address = name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok();
        let is_local = !name.contains('.') || name.ends_with(".localhost");
        let is_of_cluster = name.ends_with(".svc") || name.ends_with(".svc.cluster.local");
        is_address || is_local || is_of_cluster || self.hosts.contains(name) || (self.is_certified)(name)
    }
}

impl Pass {
    /// Returns the answer to a preflight; none for any other request.
    #[must_use]
    pub fn preflight(&self) -> Option<StatusCode> {
        self.preflight.as_ref().map(|_| StatusCode::NO_CONTENT)
    }

    /// Adds to an answer what browsers need to know.
    pub fn protect(&self, headers: &mut HeaderMap) {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(SANDBOX);
        let readers = if self.origin.is_some() { "cross-origin" } else { "same-origin" };
        headers.insert(CORP, HeaderValue::from_static(readers));
        let Some(origin) = &self.origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        let Some(preflight) = &self.preflight else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
        if let Some(asked) = &preflight.headers {
            // The wildcard would not cover authorization.
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        if preflight.asks_for_network {
            headers.insert(ALLOW_NETWORK, HeaderValue::from_static("true"));
        }
    }
}

fn cross_site() -> Problem {
    let detail = "a page of another origin asks: list the origin in --http-origins if its pages may, and have a proxy in \
                  between pass the header host on";
    Problem::new(StatusCode::FORBIDDEN, "CROSS_SITE", detail)
}

fn wrong_host(host: &str) -> Problem {
    let detail = format!(
        "this server does not know itself by the name {:?}: list the name in --http-hosts, or use the address",
        name_of(host)
    );
    Problem::new(StatusCode::MISDIRECTED_REQUEST, "WRONG_HOST", detail)
}

/// Returns the host and port that a request names, in lower case.
fn host(request: &Parts) -> Result<String, Problem> {
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "PROTOCOL_VIOLATION", detail);
    let mut values = request.headers.get_all(header::HOST).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(bad("the request has more than one header host"));
    }
    let named = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let text = match named.or(first.map(HeaderValue::as_bytes)) {
        Some(text) => text,
        // Checks of old load balancers; a browser always names the host.
        None if request.version < Version::HTTP_11 => b"localhost",
        None => return Err(bad("the request has no header host")),
    };
    let text = std::str::from_utf8(text).map_err(|_| bad("the header host is not text"))?;
    // What is no authority would be taken for a name that it is not.
    let is_authority = !text.contains('@') && text.parse::<http::uri::Authority>().is_ok();
    if is_authority { Ok(text.to_ascii_lowercase()) } else { Err(bad("the header host names no host")) }
}

/// Returns a host without its port and without the dot of the root.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn without_port<'a>(host: &'a str, port: &str) -> &'a str {
    host.strip_suffix(port).unwrap_or(host)
}

/// Returns true if a browser says that a page of another site or of a sibling of this one asks.
fn is_of_another_site(request: &Parts) -> bool {
    let site = request.headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    !matches!(site, None | Some(b"same-origin" | b"none"))
}

/// Returns true if somebody followed a link to the console.
fn is_visit(request: &Parts) -> bool {
    let is = |name, value: &[u8]| request.headers.get(name).is_some_and(|is| is.as_bytes() == value);
    request.method == Method::GET
        && path(&request.uri) == "/"
        && is(SEC_FETCH_MODE, b"navigate")
        && is(SEC_FETCH_DEST, b"document")
}

/// Returns true if the answer may show something of the topics.
fn route_has_data(request: &Parts) -> bool {
    let path = path(&request.uri);
    request.method != Method::GET || route::needs_identity(path)
}

fn path(uri: &Uri) -> &str {
    uri.path()
}

#[cfg(test)]
mod tests {
    use super::Guard;
    use http::request::Parts;
    use http::{HeaderMap, Request};

    fn guard(has_identities: bool, is_tls: bool) -> Guard {
        let certified: Option<super::CertificateNames> =
            if is_tls { Some(Box::new(|name| name == "certified.example")) } else { None };
        let origins = "https://app.example".parse().unwrap();
        Guard::new(origins, "known.example".parse().unwrap(), has_identities, certified)
    }

    /// Makes a request of a line `METHOD path` and headers.
    fn request(line: &str, headers: &[(&str, &str)]) -> Parts {
        let (method, path) = line.split_once(' ').unwrap();
        let builder = Request::builder().method(method).uri(path);
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap().into_parts().0
    }

    fn code(guard: &Guard, line: &str, headers: &[(&str, &str)]) -> u16 {
        match guard.check(&request(line, headers)) {
            Ok(pass) => pass.preflight().map_or(200, |code| code.as_u16()),
            Err(problem) => problem.status().as_u16(),
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused_whatever_the_method() {
        let open = guard(false, false);
        let cases: &[(&[(&str, &str)], u16)] = &[
            (&[], 200),
            (&[("sec-fetch-site", "same-origin")], 200),
            (&[("sec-fetch-site", "none")], 200),
            (&[("sec-fetch-site", "cross-site")], 403),
            (&[("sec-fetch-site", "same-site")], 403),
            (&[("sec-fetch-site", "something-new")], 403),
            (&[("origin", "http://localhost:8080")], 200),
            (&[("origin", "https://localhost:8080")], 200),
            (&[("origin", "http://localhost:8081")], 403),
            (&[("origin", "http://evil.example")], 403),
            (&[("origin", "null")], 403),
            (&[("origin", "https://app.example")], 200),
            (&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], 200),
            (&[("origin", "https://app.example"), ("origin", "http://evil.example")], 403),
            (&[("origin", "https://app.example.evil.example")], 403),
            (&[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-site")], 403),
        ];
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            for (headers, expected) in cases {
                let headers = [&[("host", "localhost:8080")], *headers].concat();
                let line = format!("{method} /v1/topics");
                assert_eq!(code(&open, &line, &headers), *expected, "{line} {headers:?}");
            }
        }
    }

    #[test]
    fn a_link_leads_to_the_console_and_nowhere_else() {
        let open = guard(false, false);
        let visit = |line: &str, dest: &str, mode: &str| {
            let headers = [
                ("host", "localhost:8080"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            code(&open, line, &headers)
        };
        assert_eq!(visit("GET /", "document", "navigate"), 200);
        assert_eq!(visit("GET /", "iframe", "navigate"), 403);
        assert_eq!(visit("GET /", "script", "no-cors"), 403);
        assert_eq!(visit("POST /", "document", "navigate"), 403);
        assert_eq!(visit("GET /v1/topics", "document", "navigate"), 403);
    }

    #[test]
    fn only_names_that_nobody_else_can_give_to_this_address_are_known() {
        for (host, expected) in [
            ("127.0.0.1:8080", 200),
            ("10.1.2.3", 200),
            ("[::1]:8080", 200),
            ("localhost", 200),
            ("LOCALHOST:8080", 200),
            ("streamway.localhost:8080", 200),
            ("streamway:8080", 200),
            ("streamway.prod.svc", 200),
            ("streamway.prod.svc.cluster.local:8080", 200),
            ("known.example", 200),
            ("Known.Example.:443", 200),
            ("certified.example", 421),
            ("rebound.example", 421),
            ("127.0.0.1.rebound.example", 421),
            ("svc.rebound.example", 421),
            ("rebound.example:127", 421),
            ("user@localhost", 400),
            ("local host", 400),
            ("", 400),
        ] {
            assert_eq!(code(&guard(false, false), "GET /v1/topics", &[("host", host)]), expected, "{host}");
        }
        assert_eq!(code(&guard(false, true), "GET /v1/topics", &[("host", "certified.example")]), 200);
        assert_eq!(code(&guard(false, false), "GET /v1/topics", &[]), 400);
        let twice = [("host", "localhost"), ("host", "rebound.example")];
        assert_eq!(code(&guard(false, false), "GET /v1/topics", &twice), 400);
        let absolute = "GET http://rebound.example/v1/topics";
        assert_eq!(code(&guard(false, false), absolute, &[("host", "localhost")]), 421);
    }

    #[test]
    fn a_token_makes_up_for_the_name_where_tokens_are_checked() {
        let host = ("host", "rebound.example");
        let token = [host, ("authorization", "Bearer x")];
        assert_eq!(code(&guard(true, false), "GET /v1/topics", &token), 200);
        assert_eq!(code(&guard(true, false), "GET /v1/topics", &[host]), 421, "a certificate may identify");
        assert_eq!(code(&guard(false, false), "GET /v1/topics", &token), 421, "any page can send a header");
        assert_eq!(code(&guard(true, false), "GET /", &[host]), 200, "the console itself shows nothing");
        assert_eq!(code(&guard(false, false), "GET /", &[host]), 421);
    }

    #[test]
    fn over_tls_a_page_of_plain_http_is_another_origin() {
        let tls = guard(false, true);
        for (origin, expected) in [("https://localhost", 200), ("http://localhost", 403)] {
            assert_eq!(code(&tls, "POST /v1/topics", &[("host", "localhost"), ("origin", origin)]), expected);
        }
        let own_port = [("host", "localhost:443"), ("origin", "https://localhost")];
        assert_eq!(code(&tls, "POST /v1/topics", &own_port), 200);
    }

    #[test]
    fn listed_origins_may_read_what_others_may_not() {
        let ask = |origin: &str| {
            let headers = [
                ("host", "rebound.example"),
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization,content-type"),
            ];
            guard(true, false).check(&request("OPTIONS /v1/topics", &headers))
        };
        let mut headers = HeaderMap::new();
        let pass = ask("https://app.example").unwrap();
        assert_eq!(pass.preflight().unwrap().as_u16(), 204);
        pass.protect(&mut headers);
        assert_eq!(headers["access-control-allow-origin"], "https://app.example");
        assert_eq!(headers["access-control-allow-headers"], "authorization,content-type");
        assert_eq!(headers["cross-origin-resource-policy"], "cross-origin");
        assert!(!headers.contains_key("access-control-allow-credentials"));
        assert!(ask("https://evil.example").is_err());

        let own = request("GET /v1/topics", &[("host", "localhost")]);
        let mut headers = HeaderMap::new();
        guard(false, false).check(&own).unwrap().protect(&mut headers);
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(headers["content-security-policy"].to_str().unwrap().starts_with("sandbox"));
        assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
}
