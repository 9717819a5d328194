//! How every party of the measurement connects: the same library and the same options as the node's own link.

use std::path::PathBuf;

use rumqttc::{MqttOptions, NetworkOptions, TlsConfiguration, Transport};

use super::Failure;

/// Where the broker is.
#[derive(Clone, Debug)]
pub struct Broker {
    /// On this machine.
    pub port: u16,
    /// The authority behind its certificate; plain TCP without one.
    pub ca: Option<PathBuf>,
}

impl Broker {
    /// As the node's configuration wants it.
    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "mqtts" } else { "mqtt" };
        format!("{scheme}://localhost:{}", self.port)
    }
}

/// Options of a client without a session.
pub fn options(broker: &Broker, client_id: &str) -> Result<MqttOptions, Failure> {
    let mut options = MqttOptions::new(client_id, ("localhost", broker.port));
    if let Some(ca) = &broker.ca {
        let config = orchd::tls::client_config(ca, None)?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_receive_maximum(Some(orchd::mqtt::RECEIVE_MAXIMUM));
    // More than is ever in flight, so that a question is never published from within the poll loop in vain.
    options.set_outgoing_inflight_upper_limit(256);
    options.set_max_packet_size(Some(1 << 20));
    options.set_topic_alias_max(Some(0));
    options.set_max_request_batch(16);
    options.set_read_batch_size(16);
    Ok(options)
}
