//! The values that only the HTTP listener has: its address or none, the origins whose pages may call it, and the names
//! that it answers to.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use http::Uri;

/// Address of the HTTP listener where none is configured: this machine alone.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// Word that disables the listener.
const OFF: &str = "off";

/// Address of the HTTP listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen {
    /// There is none.
    Off,
    /// This one.
    At(SocketAddr),
}

impl Default for HttpListen {
    fn default() -> Self {
        Self::At(DEFAULT)
    }
}

impl HttpListen {
    /// Returns the address to bind; none where the listener is off.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl fmt::Display for HttpListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => f.write_str(OFF),
        }
    }
}

impl FromStr for HttpListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == OFF {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| "not an address; write 127.0.0.1:8080, [::]:8080 or off")
    }
}

/// Origins of pages that may call the HTTP listener, as browsers write them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Returns true if no page of another origin may call.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true for an origin of the list.
    #[must_use]
    pub fn contains(&self, origin: &str) -> bool {
        self.0.iter().any(|listed| listed == origin)
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        items(text).map(origin).collect::<Result<_, _>>().map(Self)
    }
}

/// Names by which browsers may reach the HTTP listener, in lower case and without a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Returns true for a name of the list.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|listed| listed == name)
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for Hosts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let host = |text: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if text.bytes().all(known) {
                Ok(text.to_ascii_lowercase())
            } else {
                Err(format!(
                    "{text:?} is not a name; write streamway.example.org, without a scheme or a port"
                ))
            }
        };
        items(text).map(host).collect::<Result<_, _>>().map(Self)
    }
}

/// The items of a list with commas; an empty text has none.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Reads an origin and writes it as browsers do: in lower case, without the scheme's own port.
fn origin(text: &str) -> Result<String, String> {
    let invalid = || format!("{text:?} is not an origin; write https://app.example.org, without a path");
    let lower = text.to_ascii_lowercase();
    let uri: Uri = lower.parse().map_err(|_| invalid())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(invalid()) };
    if format!("{scheme}://{authority}") != lower
        || authority.as_str().contains('@')
        || authority.host() == "*"
    {
        return Err(invalid());
    }
    let own_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(invalid()),
    };
    let port = authority.port_u16().filter(|port| *port != own_port);
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    Ok(format!("{scheme}://{}{port}", authority.host()))
}

#[cfg(test)]
mod tests {
    use super::{Hosts, HttpListen, Origins};

    #[test]
    fn the_listener_has_an_address_or_is_off() {
        assert_eq!(HttpListen::default().to_string(), "127.0.0.1:8080");
        assert_eq!("off".parse(), Ok(HttpListen::Off));
        assert_eq!("127.0.0.1:8080".parse(), Ok(HttpListen::default()));
        assert!("8080".parse::<HttpListen>().is_err());
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        let origins: Origins = "https://App.example:443, http://localhost:3000".parse().unwrap();
        assert_eq!(origins.to_string(), "https://app.example,http://localhost:3000");
        assert!(origins.contains("https://app.example") && !origins.contains("http://app.example"));
        assert!("".parse::<Origins>().unwrap().is_empty());
        for bad in
            ["*", "null", "app.example", "https://a/", "https://a/b", "ftp://a", "https://u@a", "https://*"]
        {
            assert!(bad.parse::<Origins>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_alone() {
        let hosts: Hosts = "Streamway.example.org,b".parse().unwrap();
        assert!(hosts.contains("streamway.example.org") && hosts.contains("b") && !hosts.contains("c"));
        for bad in ["https://a", "a:80", "a/b", "*"] {
            assert!(bad.parse::<Hosts>().is_err(), "{bad}");
        }
    }
}
