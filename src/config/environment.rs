//! The `STREAMWAY_*` variables: those that are settings, those of clients, those that Kubernetes sets, and
//! all others, which are mistakes.

use std::path::PathBuf;

use super::settings::{Override, PREFIX, SETTINGS, Setting};

/// Variable that names the file; not itself a setting.
pub const CONFIG_VARIABLE: &str = "STREAMWAY_CONFIG";

/// Variables that are not settings of the server but a client's. None may be both.
pub(super) const OTHER_VARIABLES: [&str; 11] = [
    CONFIG_VARIABLE,
    "STREAMWAY_SERVER",
    "STREAMWAY_CLIENT_TLS_CA",
    "STREAMWAY_CLIENT_TLS_CERT",
    "STREAMWAY_CLIENT_TLS_KEY",
    "STREAMWAY_CLIENT_TLS_SERVER_NAME",
    "STREAMWAY_TOKEN",
    "STREAMWAY_TOKEN_FILE",
    "STREAMWAY_TOKEN_OVER_PLAINTEXT",
    "STREAMWAY_COMPRESSION",
    "STREAMWAY_CONTEXT",
];

/// Returns the file that the environment names.
pub(super) fn config_file(environment: &[(String, String)]) -> Option<PathBuf> {
    let named = environment.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
    named.map(|(_, path)| path.into())
}

/// Reads the variables that are settings.
pub(super) fn read(
    environment: &[(String, String)],
    overrides: &mut Vec<Override>,
    errors: &mut Vec<String>,
) {
    let variables: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if let Some(at) = variables.iter().position(|variable| variable == name) {
            let source = format!("environment {name}");
            overrides.push(Override { setting: SETTINGS[at], value: value.clone(), source });
        } else if !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(rest, value) {
            let known = variables.iter().map(String::as_str);
            errors.push(format!("unknown environment variable {name}{}", suggestion(name, known)));
        }
    }
}

/// Tells whether Kubernetes set a variable: for a Service named `streamway` or `streamway-anything`, every pod
/// of the namespace gets `STREAMWAY_…SERVICE_HOST`, `…SERVICE_PORT`, `…SERVICE_PORT_<name>`,
/// `…PORT=tcp://…` and `…PORT_<number>_TCP…`, and must start all the same. `STREAMWAY_PORT=9000`, which only
/// looks like one, is a mistake.
fn is_service_link(rest: &str, value: &str) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let service =
        parts.ends_with(&["SERVICE", "HOST"]) || parts.windows(2).any(|pair| pair == ["SERVICE", "PORT"]);
    let is_number = |part: &str| part.parse::<u16>().is_ok();
    let of_port =
        |run: &[&str]| run[0] == "PORT" && is_number(run[1]) && matches!(run[2], "TCP" | "UDP" | "SCTP");
    let link = match parts.split_last() {
        Some((&("PROTO" | "PORT" | "ADDR"), before)) => {
            before.last_chunk::<3>().is_some_and(|run| of_port(run))
        }
        _ => value.contains("://") && parts.last_chunk::<3>().is_some_and(|run| of_port(run)),
    };
    let url = parts.last() == Some(&"PORT") && value.contains("://");
    service || link || url
}

/// Returns `, did you mean …?` where a known name is near.
pub(super) fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Edits of a typing mistake.
    const EDITS_MAX: usize = 3;
    let nearest = known.map(|known| (strsim::levenshtein(name, known), known)).min();
    nearest
        .filter(|(edits, _)| *edits <= EDITS_MAX)
        .map_or_else(String::new, |(_, known)| format!(", did you mean {known}?"))
}
