//! `orchd certs`: certificates for trials.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Exit, complain, print};
use crate::broker::certs::{CertError, CertFiles, TrialAuthority};
use crate::clock::Clock;

/// Make certificates for trials, never for production (works on files of this machine)
///
/// The authority's private key lies unencrypted beside what it issues, nothing is ever revoked, and whoever has the folder can
/// be any node and the broker. certs-example/README.md says how a real site does it.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a private authority, or use the one in the folder, and issue a server's and clients' certificates
    Make {
        /// The folder, made where it is missing
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Host name or address of the broker besides localhost; may be repeated
        #[arg(long = "server", value_name = "NAME")]
        servers: Vec<String>,
        /// Name of a node or client that gets a certificate; may be repeated
        #[arg(long = "client", value_name = "NAME")]
        clients: Vec<String>,
    },
}

impl Args {
    pub(super) fn run(self) -> Exit {
        let Command::Make { dir, servers, clients } = self.command;
        let made = TrialAuthority::open_or_create(&dir, Clock::system().now()).and_then(|authority| {
            let servers: Vec<_> = servers.iter().map(String::as_str).collect();
            let mut made = vec![authority.issue_server(&servers)?];
            for client in &clients {
                made.push(authority.issue_client(client)?);
            }
            Ok::<_, CertError>((authority.certificate(), made))
        });
        match made {
            Ok((authority, made)) => {
                complain(
                    "for trials, never for production: the authority's key lies unencrypted in that folder",
                );
                let mut lines = format!("{}\n", authority.display());
                for CertFiles { certificate, key } in made {
                    lines += &format!("{}\n{}\n", certificate.display(), key.display());
                }
                print(&lines)
            }
            Err(error @ CertError::Name { .. }) => {
                complain(error);
                Exit::Usage
            }
            Err(error) => {
                complain(error);
                Exit::Failed
            }
        }
    }
}
