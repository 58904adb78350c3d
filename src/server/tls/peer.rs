//! The identity in a client certificate that rustls has verified: a name and its expiry.

use std::sync::Arc;

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::auth::PeerCertificate;

/// Beginning of every SPIFFE ID.
const SPIFFE: &str = "spiffe://";

/// Reads a verified certificate. Returns `None` if it names nobody: such a peer may connect, but has no identity.
pub(super) fn read(der: &[u8]) -> Option<PeerCertificate> {
    let certificate = Certificate::from_der(der).ok()?;
    let certificate = certificate.tbs_certificate();
    let names =
        certificate.get_extension::<SubjectAltName>().ok()?.map_or_else(Vec::new, |(_, names)| names.0);
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
        _ => None,
    });
    let uris: Vec<&str> = uris.collect();
    let name = if uris.iter().any(|uri| uri.starts_with(SPIFFE)) {
        // An identity document with a second URI must be refused (X509-SVID, section 5.2).
        let [only] = uris[..] else { return None };
        only.to_owned()
    } else {
        let common = certificate.subject().common_name().ok()?.map(|name| name.value().into_owned());
        let name = common.or_else(|| first_dns(&names))?;
        // An issuer that lets holders choose their subject must not thereby issue SPIFFE IDs.
        if name.trim().is_empty() || name.starts_with(SPIFFE) {
            return None;
        }
        name
    };
    let expires = certificate.validity().not_after.to_system_time();
    Some(PeerCertificate { name: Arc::from(name), expires })
}

/// Returns the DNS names of a certificate, in lower case.
pub(super) fn dns_names(certificate: &Certificate) -> Vec<String> {
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok().flatten();
    let names = names.map_or_else(Vec::new, |(_, names)| names.0);
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        _ => None,
    });
    dns.collect()
}

fn first_dns(names: &[GeneralName]) -> Option<String> {
    names.iter().find_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::read;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    fn certificate(common_name: Option<&str>, uris: &[&str], dns: &[&str]) -> Vec<u8> {
        let mut params =
            CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.not_after = rcgen::date_time_ymd(2040, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn name(common_name: Option<&str>, uris: &[&str], dns: &[&str]) -> Option<String> {
        Some(read(&certificate(common_name, uris, dns))?.name.to_string())
    }

    #[test]
    fn a_holder_is_named_by_spiffe_then_subject_then_dns() {
        let spiffe = "spiffe://example.org/ns/a/sa/b";
        assert_eq!(name(Some("cn"), &[spiffe], &["dns"]).as_deref(), Some(spiffe));
        assert_eq!(name(Some("cn"), &["https://x"], &["dns"]).as_deref(), Some("cn"));
        assert_eq!(name(Some("cn"), &[], &["dns"]).as_deref(), Some("cn"));
        assert_eq!(name(None, &[], &["one", "two"]).as_deref(), Some("one"));
    }

    #[test]
    fn a_name_that_is_not_sure_is_none() {
        let spiffe = "spiffe://example.org/a";
        assert_eq!(name(Some("cn"), &[spiffe, "spiffe://example.org/b"], &[]), None, "two URIs");
        assert_eq!(name(Some("cn"), &[spiffe, "https://x"], &[]), None, "two URIs");
        assert_eq!(name(Some(spiffe), &[], &["dns"]), None, "a subject that plays a SPIFFE ID");
        assert_eq!(name(Some(spiffe), &["https://x"], &[]), None, "the same beside another URI");
        assert_eq!(name(None, &[], &[]), None);
        assert_eq!(name(Some(" "), &[], &[]), None);
        assert_eq!(read(b"garbage"), None);
    }

    #[test]
    fn the_expiry_is_the_certificates() {
        let peer = read(&certificate(Some("cn"), &[], &[])).unwrap();
        assert_eq!(peer.expires, UNIX_EPOCH + Duration::from_secs(2_209_075_200));
        assert!(peer.expires > SystemTime::now());
    }
}
