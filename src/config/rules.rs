//! What texts may look like: each rule answers what would be right when a text is wrong. Pure.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::storage::Bucket;
use crate::wire::topic::{is_filter, is_name, is_permission};

/// Where the broker is: `mqtts://host:port`, or `mqtt://` without encryption on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Whether the connection is encrypted (TLS 1.3).
    pub tls: bool,
    /// Host name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port; 8883 with TLS and 1883 without, unless given.
    pub port: u16,
}

impl BrokerUrl {
    /// Whether the host is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl std::fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write `mqtts://host:8883`";
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtts", rest)) => (true, rest),
            Some(("mqtt", rest)) => (false, rest),
            _ => return Err(form.to_owned()),
        };
        if rest.contains('@') {
            return Err(format!("{form}; user and password go in broker.username and broker.password_file"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(form)?)),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port.map(str::parse::<u16>) {
            None => [1883, 8883][usize::from(tls)],
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err(format!("{form}, with a port from 1 to 65535")),
        };
        let dns = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_address = host.parse::<IpAddr>().is_ok();
        if !is_address && (host.is_empty() || host.len() > 253 || !host.bytes().all(dns)) {
            return Err(form.to_owned());
        }
        let url = Self { tls, host: host.to_owned(), port };
        if !tls && !url.is_loopback() {
            return Err(format!(
                "write `mqtts://{host}:8883`: without TLS only this machine (127.0.0.1, [::1], localhost) may be named"
            ));
        }
        Ok(url)
    }
}

/// How much each part of a memory's score counts: `text 0.94, recency 0.04, importance 0.02, half_life_days 30`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Weight of the text's relevance.
    pub text: f64,
    /// Weight of recency.
    pub recency: f64,
    /// Weight of importance.
    pub importance: f64,
    /// After how many days recency is one half.
    pub half_life_days: f64,
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write `text 0.94, recency 0.04, importance 0.02, half_life_days 30`";
        let mut parts = text.split(',').map(|part| part.trim().split_once(' '));
        let mut number = |name: &str, least: f64, most: f64| {
            let part = parts.next().flatten().filter(|(found, _)| *found == name);
            let number = part.and_then(|(_, number)| number.trim().parse::<f64>().ok());
            number
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| format!("{form}: expected {name} from {least} to {most}"))
        };
        let weights = Self {
            text: number("text", 0.01, 1.0)?,
            recency: number("recency", 0.0, 1.0)?,
            importance: number("importance", 0.0, 1.0)?,
            half_life_days: number("half_life_days", 0.01, 100_000.0)?,
        };
        if parts.next().is_some() { Err(form.to_owned()) } else { Ok(weights) }
    }
}

/// The weights of a score.
pub fn weights(text: &str) -> Result<(), String> {
    text.parse::<Weights>().map(drop)
}

/// A time that recurs, or nothing for never.
pub fn when(text: &str) -> Result<(), String> {
    text.parse::<crate::when::When>().map(drop)
}

/// A time zone.
pub fn zone(text: &str) -> Result<(), String> {
    crate::when::zone(text).map(drop)
}

/// A URL of a broker.
pub fn broker_url(text: &str) -> Result<(), String> {
    text.parse::<BrokerUrl>().map(drop)
}

/// Where a model on the network is: encrypted, unless it is on this machine.
pub fn remote_url(text: &str) -> Result<(), String> {
    let url = model_url(text)?;
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if url.scheme_str() == Some("https") || here {
        Ok(())
    } else {
        Err("write `https://host/path`; `http://` is accepted for this machine alone".to_owned())
    }
}

/// Where a model on the own network is.
pub fn local_url(text: &str) -> Result<(), String> {
    model_url(text).map(drop)
}

/// A place in object storage that nobody on the way can read.
pub fn archive(text: &str) -> Result<(), String> {
    let form = "write `s3:https://HOST/BUCKET/PREFIX`, without user, password, query or blanks";
    let bucket = Bucket::is_meant(text).then(|| text.parse::<Bucket>().ok()).flatten().ok_or(form)?;
    let open = "write `https`: what is archived is not encrypted, and could be read on its way";
    bucket.is_private().then_some(()).ok_or_else(|| open.to_owned())
}

fn model_url(text: &str) -> Result<hyper::Uri, String> {
    let form = "write `https://host/path` or `http://host:port`, without user, password, query or blanks";
    let url: hyper::Uri = text.parse().map_err(|_| form.to_owned())?;
    let good = matches!(url.scheme_str(), Some("https" | "http"))
        && url.host().is_some_and(|host| !host.is_empty())
        && url.query().is_none()
        && !text.contains('@');
    if good { Ok(url) } else { Err(form.to_owned()) }
}

/// A name that can be one level of a topic.
pub fn name(text: &str) -> Result<(), String> {
    is_name(text).then_some(()).ok_or_else(|| "use 1 to 64 letters, digits, `.`, `_` or `-`".to_owned())
}

/// A node's name: a name that is not a kind of topic.
pub fn node_name(text: &str) -> Result<(), String> {
    name(text)?;
    match crate::wire::Names::new("orch", text) {
        Some(_) => Ok(()),
        None => Err("choose another name: `all`, `any` and `inbox` are kinds of topics".to_owned()),
    }
}

/// An MQTT topic filter that is not the broker's own.
pub fn filter(text: &str) -> Result<(), String> {
    if text.starts_with('$') {
        return Err("name a filter that does not begin with `$`: those topics are the broker's".to_owned());
    }
    is_filter(text)
        .then_some(())
        .ok_or_else(|| "write a topic filter: `+` and `#` alone in their level, `#` at the end".to_owned())
}

/// What a principal may be allowed: see [`is_permission`].
pub fn permission(text: &str) -> Result<(), String> {
    is_permission(text)
        .then_some(())
        .ok_or_else(|| "write a topic filter whose levels are names, `+`, or `#` at the end".to_owned())
}

/// The issuer of tokens: a word without spaces, because a space ends it where principals are written.
pub fn issuer(text: &str) -> Result<(), String> {
    word(text)?;
    let good = !text.contains(char::is_whitespace);
    good.then_some(()).ok_or_else(|| "use a word without spaces".to_owned())
}

/// A word for people or brokers: not empty, not long, no control characters.
pub fn word(text: &str) -> Result<(), String> {
    let good = !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
    good.then_some(()).ok_or_else(|| "use 1 to 256 bytes without control characters".to_owned())
}

/// What stands before a text: a [`word`], or nothing.
pub fn prefix(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { word(text) }
}

/// An address and port to listen on.
pub fn address(text: &str) -> Result<(), String> {
    text.parse::<SocketAddr>()
        .map(drop)
        .map_err(|_| "write an IP address and a port, such as `127.0.0.1:8883` or `[::1]:8883`".to_owned())
}

/// An address of this machine alone and a port; empty for none.
pub fn loopback(text: &str) -> Result<(), String> {
    match text.parse::<SocketAddr>() {
        _ if text.is_empty() => Ok(()),
        Ok(address) if address.ip().is_loopback() => Ok(()),
        _ => {
            Err("write an address of this machine alone, such as `127.0.0.1:9464`, or \"\" for none"
                .to_owned())
        }
    }
}

/// A filter for logs.
pub fn log_filter(text: &str) -> Result<(), String> {
    let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
    if parsed.is_ok() && text.split(',').all(is_directive) {
        return Ok(());
    }
    Err("write a level, or levels by module, such as `info,orchd::mqtt=debug`".to_owned())
}

/// Whether part of a log filter is a level, or has one for a module or a span. Elsewhere a word alone is a module; here it is
/// taken for a mistyped level, which would turn the log off.
fn is_directive(directive: &str) -> bool {
    let is_word = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
    };
    match directive.rsplit_once('=') {
        Some(_) if directive.contains('[') => true,
        Some((target, _)) => target.split("::").all(is_word),
        // Nothing at all would be read as `error`.
        None => !directive.is_empty() && directive.parse::<tracing_subscriber::filter::LevelFilter>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_filter_cannot_turn_the_log_off_by_a_slip() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,orchd::mqtt=debug",
            "warn,rumqttc=off",
            "info,orchd[span{x=1}]=trace",
        ] {
            assert_eq!(log_filter(good), Ok(()), "{good}");
        }
        for bad in [
            "inof",
            "info debug",
            "info;x",
            "orchd:mqtt=debug",
            "info,",
            "info,=debug",
            "warn,rumqttc=of",
            "",
        ] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn broker_urls_are_read_and_written_back() {
        for (text, written) in [
            ("mqtts://broker.example.org", "mqtts://broker.example.org:8883"),
            ("mqtts://broker.example.org:1/", "mqtts://broker.example.org:1"),
            ("mqtts://10.0.0.1:8883", "mqtts://10.0.0.1:8883"),
            ("mqtts://[2001:db8::1]:8884", "mqtts://[2001:db8::1]:8884"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("mqtt://localhost:1884", "mqtt://localhost:1884"),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), written);
            assert_eq!(written.parse(), Ok(url));
        }
    }

    #[test]
    fn broker_urls_that_cannot_work_are_refused() {
        for bad in [
            "",
            "broker:8883",
            "http://broker",
            "mqtts://",
            "mqtts://:8883",
            "mqtts://a b",
            "mqtts://host:0",
            "mqtts://host:70000",
            "mqtts://host:8883/path",
            "mqtts://user:secret@host",
            "mqtts://[::1]x",
            "mqtt://10.0.0.1",
            "mqtt://broker.example.org",
        ] {
            let right = bad.parse::<BrokerUrl>().unwrap_err();
            assert!(right.contains("mqtts://") && !right.contains("secret"), "{bad}: {right}");
        }
    }

    #[test]
    fn weights_have_four_parts_in_their_ranges() {
        let weights: Weights = "text 0.94, recency 0.04, importance 0.02, half_life_days 30".parse().unwrap();
        assert_eq!(weights, Weights { text: 0.94, recency: 0.04, importance: 0.02, half_life_days: 30.0 });
        for bad in [
            "",
            "0.9",
            "text 0, recency 0.04, importance 0.02, half_life_days 30",
            "text 1, recency -1, importance 0.02, half_life_days 30",
            "text 1, recency NaN, importance 0.02, half_life_days 30",
            "text 1, recency 0, importance 0",
            "text 1, recency 0, importance 0, half_life_days 0",
            "text 1, recency 0, importance 0, half_life_days 30, more 1",
        ] {
            assert!(bad.parse::<Weights>().unwrap_err().starts_with("write `text"), "{bad}");
        }
    }

    #[test]
    fn metrics_are_never_offered_to_the_network() {
        assert!(loopback("127.0.0.1:9464").is_ok() && loopback("[::1]:0").is_ok() && loopback("").is_ok());
        assert!(loopback("0.0.0.0:9464").is_err() && loopback("9464").is_err());
    }
}
