//! Where a service listens: `host`, `host:port`, `192.0.2.1:9421`, `[2001:db8::1]:9421`, and the ports services have
//! unless they are told otherwise. The ports are MooseFS's own, so that firewalls and habits carry over.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Masters talk to each other here.
pub const MASTER_TO_MASTER_PORT: u16 = 9419;
/// Chunkservers register with the master here.
pub const CHUNKSERVER_TO_MASTER_PORT: u16 = 9420;
/// Clients talk to the master here.
pub const CLIENT_TO_MASTER_PORT: u16 = 9421;
/// Clients and chunkservers reach a chunkserver's data here.
pub const CHUNKSERVER_DATA_PORT: u16 = 9422;
/// The web page.
pub const WEB_PORT: u16 = 9425;
/// Metrics for monitoring.
pub const METRICS_PORT: u16 = 9499;

/// A host, by name or address, and possibly a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: Option<u16>,
}

/// Why a text is not an endpoint, or an endpoint cannot be reached by name.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The text has no host.
    #[error("{text:?} names no host; write HOST, HOST:PORT or [IPV6]:PORT")]
    NoHost {
        /// What was written.
        text: String,
    },
    /// What stands after the colon is not a port.
    #[error("{port:?} in {text:?} is not a port; write a number from 0 to 65535 after the colon")]
    BadPort {
        /// What was written.
        text: String,
        /// The part that should be a port.
        port: String,
    },
    /// An IPv6 address without its brackets, or brackets around something else.
    #[error("{text:?} cannot be read as an address; an IPv6 address with a port is written [2001:db8::1]:9421")]
    BadAddress {
        /// What was written.
        text: String,
    },
    /// The name has no address, or the name service did not answer.
    #[error(
        "cannot find the address of host {host:?}; check the name, /etc/hosts and the name service, or use an address"
    )]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        source: std::io::Error,
    },
}

impl Endpoint {
    /// This host and port.
    pub fn new(host: impl Into<String>, port: u16) -> Endpoint {
        Endpoint { host: host.into(), port: Some(port) }
    }

    /// Reads an endpoint and gives it this port if the text has none.
    pub fn parse(text: &str, default_port: u16) -> Result<Endpoint, EndpointError> {
        text.parse().map(|endpoint: Endpoint| endpoint.with_default_port(default_port))
    }

    /// The same endpoint, with this port if it has none.
    pub fn with_default_port(self, default_port: u16) -> Endpoint {
        Endpoint { port: Some(self.port.unwrap_or(default_port)), ..self }
    }

    /// The host's name or address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if the endpoint has one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The addresses of the host, in the resolver's order and at least one, with the endpoint's port or the given one.
    /// Asks the name service and may block for seconds.
    pub fn resolve(&self, default_port: u16) -> Result<Vec<SocketAddr>, EndpointError> {
        let unresolved = |source| EndpointError::Unresolved { host: self.host.clone(), source };
        let port = self.port.unwrap_or(default_port);
        let addresses: Vec<SocketAddr> = (self.host.as_str(), port).to_socket_addrs().map_err(unresolved)?.collect();
        if addresses.is_empty() {
            return Err(unresolved(std::io::Error::other("the name has no address")));
        }
        Ok(addresses)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint::new(address.ip().to_string(), address.port())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let bad_address = || EndpointError::BadAddress { text: text.to_owned() };
        let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
            let (host, rest) = bracketed.split_once(']').ok_or_else(bad_address)?;
            let is_address = host.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(bad_address)?) };
            (is_address.then_some(host).ok_or_else(bad_address)?, port)
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        if port.is_some_and(|port| port.contains(':')) {
            return Err(bad_address());
        }
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(EndpointError::NoHost { text: text.to_owned() });
        }
        let port = port.map(|port| parse_port(text, port)).transpose()?;
        Ok(Endpoint { host: host.to_owned(), port })
    }
}

fn parse_port(text: &str, port: &str) -> Result<u16, EndpointError> {
    let digits_only = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits_only { port.parse().ok() } else { None };
    number.ok_or_else(|| EndpointError::BadPort { text: text.to_owned(), port: port.to_owned() })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(formatter, "[{}]:{port}", self.host),
            (true, None) => write!(formatter, "[{}]", self.host),
            (false, Some(port)) => write!(formatter, "{}:{port}", self.host),
            (false, None) => formatter.write_str(&self.host),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The address to give to others for a socket bound to `bound`: an address that means "all of this host" is replaced by
/// `own`, the address by which the host is known.
pub fn advertised(bound: SocketAddr, own: IpAddr) -> SocketAddr {
    if bound.ip().is_unspecified() { SocketAddr::new(own, bound.port()) } else { bound }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_endpoints() {
        for (text, host, port) in [
            ("master", "master", None),
            ("master.example.org:1234", "master.example.org", Some(1234)),
            ("192.0.2.1:0", "192.0.2.1", Some(0)),
            ("[2001:db8::1]:9421", "2001:db8::1", Some(9421)),
            ("[::1]", "::1", None),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port));
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("::1".parse::<Endpoint>().unwrap().to_string(), "[::1]");
        assert_eq!(Endpoint::parse("a", 7).unwrap(), Endpoint::new("a", 7));
        assert_eq!(Endpoint::parse("a:8", 7).unwrap(), Endpoint::new("a", 8));
    }

    #[test]
    fn refuses_what_is_no_endpoint() {
        for (text, beginning) in [
            ("", "\"\" names no host"),
            (":9421", "\":9421\" names no host"),
            ("a b:1", "\"a b:1\" names no host"),
            ("host:", "\"\" in \"host:\" is not a port"),
            ("host:+1", "\"+1\" in"),
            ("host:65536", "\"65536\" in"),
            ("1:2:3", "\"1:2:3\" cannot be read"),
            ("[::1", "\"[::1\" cannot be read"),
            ("[::1]9", "\"[::1]9\" cannot be read"),
            ("[host]:9", "\"[host]:9\" cannot be read"),
        ] {
            let message = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(message.starts_with(beginning), "{text:?}: {message}");
        }
    }

    #[test]
    fn resolves_addresses_and_explains_failure() {
        let address = Endpoint::parse("127.0.0.1", 9421).unwrap().resolve(1).unwrap();
        assert_eq!(address, ["127.0.0.1:9421".parse().unwrap()]);
        assert_eq!("[::1]".parse::<Endpoint>().unwrap().resolve(5).unwrap(), ["[::1]:5".parse().unwrap()]);
        let error = Endpoint::new("no-such-host.invalid", 1).resolve(1).unwrap_err();
        assert!(error.to_string().contains("\"no-such-host.invalid\"; check the name"), "{error}");
    }

    #[test]
    fn advertises_an_address_others_can_use() {
        let own = "192.0.2.7".parse().unwrap();
        assert_eq!(advertised("0.0.0.0:5".parse().unwrap(), own), "192.0.2.7:5".parse().unwrap());
        assert_eq!(advertised("10.0.0.1:5".parse().unwrap(), own), "10.0.0.1:5".parse().unwrap());
    }
}
