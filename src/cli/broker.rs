//! `orchd broker`: the embedded broker alone, for a small site.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::run::start_logging;
use super::{Exit, Shared, complain, need, print, report, run_async};
use crate::broker::{Broker, BrokerConfig, BrokerStorage};
use crate::config::{Config, Role};
use crate::gate::token::{PublicKey, Verifier};
use crate::node;
use crate::observe::systemd::Systemd;
use crate::tls::{self, Identity};

/// Run the embedded broker alone, as the section [listener] says, until SIGTERM or SIGINT
///
/// On the machine itself: reads --config. Prints the address that it listens on.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

type Failed = Box<dyn std::error::Error>;

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let loaded = shared.load(Role::Broker).and_then(|(config, provenance)| {
            need(&provenance, Role::Broker, |key| key.starts_with("listener."))?;
            Ok((config, provenance))
        });
        let (config, provenance) = match loaded {
            Ok(loaded) => loaded,
            Err(exit) => return exit,
        };
        let wrong = node::wrong_files(&provenance, Role::Broker);
        if !wrong.is_empty() {
            report(&wrong);
            return Exit::Usage;
        }
        if let Err(error) = start_logging(&config) {
            complain(error);
            return Exit::Usage;
        }
        let ended = prepare(&config).and_then(|prepared| run_async(serve(&config, prepared))?);
        match ended {
            Ok(exit) => exit,
            Err(error) => {
                complain(error);
                Exit::Failed
            }
        }
    }
}

/// Reads certificates and keys.
fn prepare(config: &Config) -> Result<BrokerConfig, Failed> {
    let listener = &config.listener;
    let (Some(certificate), Some(key)) = (&listener.cert_file, &listener.key_file) else {
        // Loading has refused a configuration without them.
        return Err("listener.cert_file and listener.key_file are needed".into());
    };
    let tls = tls::server_config(Identity { certificate, key }, listener.client_ca_file.as_deref())?;
    let issuers = listener.trusted_key_files.iter().map(|path| PublicKey::from_pem_file(path));
    let nodes = listener.node_key_files.iter().map(|path| PublicKey::of_node_file(path));
    let keys = issuers.chain(nodes).collect::<Result<_, _>>()?;
    let verifier = Arc::new(Verifier::new(keys, &listener.issuer, &listener.audience));
    let mut broker = BrokerConfig::new(&config.node.root, tls, verifier);
    if let Some(folder) = &listener.storage_dir {
        broker.storage = BrokerStorage::Directory(folder.clone());
    }
    broker.max_connections = listener.max_connections;
    broker.max_packet_bytes = listener.max_packet_bytes as usize;
    Ok(broker)
}

async fn serve(config: &Config, broker: BrokerConfig) -> Result<Exit, Failed> {
    // Before the address is told: who reads it may send a signal at once.
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let address = config.listener.address;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} (listener.address): {error}"))?;
    let broker = Broker::start(broker, listener).await?;
    let url = format!("mqtts://{}", broker.addr());
    let systemd = Systemd::from_env(|name| std::env::var_os(name));
    let printed = print(&format!("{url}\n"));
    systemd.ready(&format!("listening on {url}"));
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    systemd.stopping();
    broker.stop().await;
    Ok(printed)
}
