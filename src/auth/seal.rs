//! Encryption of places in lists of topics, which may be names of topics that the caller may not see. The key is
//! made of the files of identities and policy, so that every replica with the same files opens what another sealed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac::{self, HMAC_SHA256};

/// First character of a sealed place, which no topic's name begins with.
pub(super) const MARK: char = '~';
/// Maximum bytes of a sealed place: a topic's name has 128, which makes 210.
const SEALED_MAX: usize = 512;

/// Seals a place for a principal. The nonce is a hash of what is sealed, so that no two places share one.
pub(super) fn seal(key: &[u8; 32], principal: &str, place: &str) -> String {
    let mut nonce = [0; NONCE_LEN];
    let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, key), format!("{principal} {place}").as_bytes());
    nonce.copy_from_slice(&tag.as_ref()[..NONCE_LEN]);
    let mut sealed = place.as_bytes().to_vec();
    let used = Nonce::assume_unique_for_key(nonce);
    let done = cipher(key).seal_in_place_append_tag(used, Aad::from(principal), &mut sealed);
    done.expect("a place is far from the 64 GiB that it takes");
    sealed.splice(..0, nonce);
    format!("{MARK}{}", URL_SAFE_NO_PAD.encode(sealed))
}

/// Opens a sealed place; none where it was not sealed with this key for this principal.
pub(super) fn open(key: &[u8; 32], principal: &str, sealed: &str) -> Option<String> {
    let text = sealed.strip_prefix(MARK).filter(|text| text.len() <= SEALED_MAX)?;
    let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let place = cipher(key).open_in_place(nonce, Aad::from(principal), sealed).ok()?;
    String::from_utf8(place.to_vec()).ok()
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("it takes 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::{open, seal};

    #[test]
    fn a_place_is_opened_only_by_the_principal_it_was_sealed_for() {
        let (key, place) = ([7; 32], "secret-topic~");
        let sealed = seal(&key, "a", place);
        assert!(sealed.starts_with('~') && !sealed.contains("secret"));
        assert_eq!(open(&key, "a", &sealed).as_deref(), Some(place));
        assert_eq!((open(&key, "b", &sealed), open(&[8; 32], "a", &sealed)), (None, None));
        for cut in 0..sealed.len() {
            assert_eq!(open(&key, "a", &sealed[..cut]), None);
        }
        assert_eq!(open(&key, "a", &format!("~{}", "A".repeat(10_000))), None);
    }
}
