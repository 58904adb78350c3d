//! Static tokens: the file of names and hashes, and the creation of tokens.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use std::sync::Arc;

use super::name::check_name;
use crate::file;

/// Maximum number of tokens: JWTs are better for more principals.
const TOKENS_MAX: usize = 1024;
/// Prefix of a hash in the file.
const PREFIX: &str = "sha256:";
/// Prefix of tokens, so that scanners for leaked secrets find them.
const TOKEN_PREFIX: &str = "streamway_";
/// Random bytes of a token: too many to guess, so that a plain hash protects it.
const TOKEN_BYTES: usize = 32;

/// Returns the SHA-256 of a credential.
pub(super) fn hash(credential: &[u8]) -> [u8; 32] {
    digest(&SHA256, credential).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Creates a random token.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Writes the line of the token file for a principal's token.
#[must_use]
pub fn entry(name: &str, token: &str) -> String {
    let hex: String = hash(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    // A name has no control characters, so that these two are all there is to escape.
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{name}\" = \"{PREFIX}{hex}\"")
}

/// Names of static tokens, by the tokens' hashes.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<[u8; 32], Arc<str>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Hashes {
    One(String),
    Several(Vec<String>),
}

impl Tokens {
    /// Reads a token file.
    ///
    /// # Errors
    /// Every mistake with its place, but without the text, which may be a token.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let raw: BTreeMap<String, Hashes> = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| file::line_of(text, span.start));
            vec![format!(
                "line {line}: not of the form \"NAME\" = \"sha256:…\", or a name that is there twice"
            )]
        })?;
        let (mut tokens, mut count, mut faults) = (HashMap::new(), 0, Vec::new());
        for (name, hashes) in raw {
            if let Err(rule) = check_name(&name) {
                faults.push(format!("{name:?}: the name {rule}"));
            }
            let name: Arc<str> = name.into();
            let hashes = match hashes {
                Hashes::One(hash) => vec![hash],
                Hashes::Several(hashes) => hashes,
            };
            for hash in hashes {
                count += 1;
                match parse_hash(&hash) {
                    Some(hash) => drop(tokens.insert(hash, Arc::clone(&name))),
                    None => faults.push(format!(
                        "{name:?}: not sha256: and 64 hexadecimal digits; `streamway token` makes such lines"
                    )),
                }
            }
        }
        if count > TOKENS_MAX {
            faults.push(format!("more than {TOKENS_MAX} tokens"));
        }
        if faults.is_empty() { Ok(Self(tokens)) } else { Err(faults) }
    }

    /// Finds the owner of the token with this hash. The look-up takes no constant time, and need not: its time tells
    /// only about the hash of a guess, from which nothing follows about any token.
    pub(super) fn find(&self, hash: &[u8; 32]) -> Option<&Arc<str>> {
        self.0.get(hash)
    }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix(PREFIX).filter(|hex| hex.len() == 64 && hex.is_ascii())?;
    let mut hash = [0; 32];
    for (i, byte) in hash.iter_mut().enumerate() {
        let digits = &hex[2 * i..2 * i + 2];
        // `from_str_radix` alone would take a sign.
        *byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::{Tokens, entry, hash, new_token};

    #[test]
    fn a_created_token_is_found_by_its_line() {
        let (a, b, c) = (new_token().unwrap(), new_token().unwrap(), new_token().unwrap());
        assert!(a != b && a.len() == 53 && a.starts_with("streamway_"));
        let (line_a, line_b) = (entry("billing", &a), entry(r#"odd"\name"#, &b));
        let second = line_b.split(" = ").nth(1).unwrap();
        let text = format!("# ours\n{line_a}\n{line_b}\nrotating = [{second}, {second}]\n");
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.find(&hash(a.as_bytes())).map(|name| &**name), Some("billing"));
        assert!(tokens.find(&hash(b.as_bytes())).is_some());
        assert_eq!(tokens.find(&hash(c.as_bytes())), None);
        // echo -n abc | sha256sum
        assert!(
            entry("x", "abc")
                .ends_with("\"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"")
        );
    }

    #[test]
    fn mistakes_are_named_without_the_text_that_may_be_a_token() {
        let secret = "correct-horse-battery";
        let short = "0".repeat(63);
        for text in [
            format!("billing = \"{secret}\""),
            format!("billing = {secret}"),
            secret.to_owned(),
            format!("billing = [\"sha256:{short}\", \"{secret}\"]"),
            format!("billing = \"sha256:{short}é{secret}\""),
            format!("billing = \"sha256:+{short}\" # {secret}"),
            format!("billing = {{ a = \"{secret}\" }}"),
            format!("anonymous = \"sha256:{short}0\" # {secret}"),
            format!("\"a b\" = \"sha256:{short}0\" # {secret}"),
        ] {
            let faults = Tokens::parse(&text).unwrap_err();
            assert!(!faults.is_empty() && !format!("{faults:?}").contains(secret), "{text}: {faults:?}");
        }
        assert!(Tokens::parse("").is_ok(), "none at all is a way to withdraw all");
    }
}
