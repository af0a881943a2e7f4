//! Which names the status page is asked for by.
//!
//! A browser lets a page read answers of the host it came from. Somebody whose page is open in an administrator's browser can
//! have its own name lead to the master's address afterwards; the request then carries that name, and is refused for it.

use std::net::IpAddr;

use axum::http::HeaderValue;

/// Whether a request with this `Host` is answered; the words for whoever asked if not.
pub(super) fn check(host: Option<&HeaderValue>, names: &[String]) -> Result<(), String> {
    // No browser leaves it out.
    let Some(host) = host else { return Ok(()) };
    let host = host.to_str().unwrap_or_default();
    let name = without_port(host);
    let same = |own: &str| own.eq_ignore_ascii_case(name.trim_end_matches('.'));
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let own = rustix::system::uname();
    let own = own.nodename().to_string_lossy();
    let own_short = own.split('.').next().unwrap_or_default();
    if is_address || same("localhost") || same(&own) || same(own_short) || names.iter().any(|own| same(own)) {
        return Ok(());
    }
    Err(format!(
        "The status page is not known under this name. Ask for it by the master's address or host name, or add the name to the \
         master's setting web_names ({own} is its host name).\n"
    ))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address without a port has colons as well, and stands in brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_answered(host: &str) -> bool {
        check(Some(&HeaderValue::from_str(host).unwrap()), &["mfs.example".to_owned()]).is_ok()
    }

    #[test]
    fn only_own_names_and_addresses_are_answered() {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for host in
            ["127.0.0.1:9425", "10.1.2.3", "[::1]:9425", "[fe80::1]", "localhost:9425", "LocalHost", "mfs.example:1"]
        {
            assert!(is_answered(host), "{host}");
        }
        assert!(is_answered(&own) && is_answered(&format!("{own}:9425")));
        for host in ["attacker.example:9425", "127.0.0.1.attacker.example", "localhost.attacker.example", "", "a b"] {
            assert!(!is_answered(host), "{host}");
        }
        assert!(check(None, &[]).is_ok());
    }
}
