//! What the gate costs: a node that asks everyone for credentials, permissions and policies, against one whose gate is open, over the
//! same Mosquitto in the same run; before and after 10,000 keys and 1,000,000 nonces.
//!
//! ```text
//! cargo bench --bench gate
//! cargo bench --bench gate -- --flood        # what a flood of bad credentials takes from the others, beside a bare echo
//! ```
//!
//! In each round every way of asking has its turn; the best round counts. `docs/performance.md` says what came out.

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../support/rounds.rs"]
mod rounds;

mod flood;

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use orchd::clock::Clock;
use orchd::gate::signature::Signed;
use rounds::Rounds;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, PublishOptions, PublishProperties, QoS,
    SubscribeFilter,
};
use support::gate::{NO_LIMITS, SECRET, good_jwt, id, keys};
use support::{Daemon, DaemonOptions, MosquittoOptions, Via, mosquitto};

type Failure = Box<dyn Error + Send + Sync>;

/// Where the answers go.
const INBOX: &str = "orch/inbox/bench";

/// Longest silence of the one who is asked.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures what the gate costs.
#[derive(Clone, Debug, Parser)]
struct Args {
    #[command(flatten)]
    load: Rounds,
    /// API keys that the node knows in the second part
    #[arg(long, default_value_t = 10_000)]
    keys: u32,
    /// Nonces that it remembers
    #[arg(long, default_value_t = 1_000_000)]
    nonces: u32,
    /// Measure a flood of messages with bad credentials instead
    #[arg(long)]
    flood: bool,
    /// Seconds of each flood
    #[arg(long, default_value_t = 60.0)]
    flood_seconds: f64,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the echo, on this port
    #[arg(long, hide = true)]
    echo: Option<u16>,
}

/// How a question is asked.
#[derive(Clone)]
enum Way {
    Open,
    Key(String),
    Jwt(String),
    Signed(String),
}

impl Way {
    const fn name(&self) -> &'static str {
        match self {
            Self::Open => "auth.mode = open",
            Self::Key(_) => "API key, permission, policy",
            Self::Jwt(_) => "JWT, permission, policy",
            Self::Signed(_) => "signature, permission, policy",
        }
    }

    const fn topic(&self) -> &'static str {
        match self {
            Self::Open => "orch/open/conscience/evaluate",
            Self::Key(_) | Self::Jwt(_) | Self::Signed(_) => "orch/gated/conscience/evaluate",
        }
    }

    fn properties(&self, payload: &[u8]) -> Vec<(String, String)> {
        let message_id = uuid::Uuid::new_v4().to_string();
        let mut properties = Vec::new();
        match self {
            Self::Open => {}
            Self::Key(bearer) | Self::Jwt(bearer) => {
                properties.push(("authorization".to_owned(), bearer.clone()));
            }
            Self::Signed(key) => {
                let signed_at = Clock::system().now().to_string();
                let nonce = uuid::Uuid::new_v4().simple().to_string();
                let signed = Signed {
                    key_id: id(key),
                    message_id: &message_id,
                    topic: self.topic(),
                    reply_to: INBOX,
                    signed_at: &signed_at,
                    nonce: &nonce,
                    payload,
                };
                properties.push(("x-signature".to_owned(), signed.sign(key)));
                properties.push(("x-signed-at".to_owned(), signed_at));
                properties.push(("x-nonce".to_owned(), nonce));
            }
        }
        properties.push(("message-id".to_owned(), message_id));
        properties
    }
}

fn options(name: &str, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(name, ("127.0.0.1", port));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_receive_maximum(Some(128));
    options.set_outgoing_inflight_upper_limit(256);
    options.set_max_request_batch(16);
    options.set_read_batch_size(16);
    options
}

async fn connect(name: &str, port: u16, filter: &str) -> Result<(AsyncClient, EventLoop), Failure> {
    let (client, mut event_loop) = AsyncClient::builder(options(name, port)).capacity(1_024).try_build()?;
    client.subscribe_many([SubscribeFilter::new(filter.to_owned(), QoS::AtLeastOnce)]).await?;
    while !matches!(event_loop.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    Ok((client, event_loop))
}

/// A client that keeps questions in flight.
struct Asker {
    client: AsyncClient,
    event_loop: EventLoop,
    number: u64,
}

impl Asker {
    async fn run(&mut self, way: &Way, in_flight: usize, time: Duration) -> Result<f64, Failure> {
        let first = self.number;
        for _ in 0..in_flight {
            self.ask(way)?;
        }
        let (mut due, mut answers) = (in_flight, 0u64);
        let started = Instant::now();
        while due > 0 {
            let event = tokio::time::timeout(PATIENCE, self.event_loop.poll()).await;
            let Event::Incoming(Packet::Publish(answer)) =
                event.map_err(|_| format!("{}: silence", way.name()))??
            else {
                continue;
            };
            let number =
                answer.properties.as_ref().and_then(|properties| properties.correlation_data.as_ref());
            let number = number.and_then(|data| Some(u64::from_be_bytes(data.as_ref().try_into().ok()?)));
            if number.is_none_or(|number| number < first) {
                continue;
            }
            let text = String::from_utf8_lossy(&answer.payload);
            if !text.contains(r#""status":"ok""#) {
                return Err(format!("{}: {text}", way.name()).into());
            }
            if started.elapsed() < time {
                answers += 1;
                self.ask(way)?;
            } else {
                due -= 1;
            }
        }
        Ok(answers as f64 / time.as_secs_f64())
    }

    fn ask(&mut self, way: &Way) -> Result<(), Failure> {
        let number = self.number;
        self.number += 1;
        let payload = format!(
            r#"{{"action":"Number {number}: I will help the family next door to carry what they need up the stairs."}}"#
        );
        let properties = PublishProperties {
            response_topic: Some(INBOX.to_owned()),
            correlation_data: Some(number.to_be_bytes().to_vec().into()),
            user_properties: way.properties(payload.as_bytes()),
            ..PublishProperties::default()
        };
        let options = PublishOptions::at_least_once().properties(properties);
        self.client.try_publish(way.topic(), payload, options)?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    if let Some(port) = args.echo {
        return flood::echo(port).await;
    }
    let extra = "max_inflight_messages 64\n".to_owned();
    let options = MosquittoOptions { quiet: true, extra, ..MosquittoOptions::default() };
    let Some(broker) = mosquitto(options).await else { return Err("mosquitto is not installed".into()) };
    let port = broker.addr().port();

    let mut gated = DaemonOptions::new("gated", Via::Plain(broker.addr()));
    let policy = std::path::Path::new("config/policy").canonicalize()?;
    // No limit but the one for messages without good credentials, which is the default.
    let limits = NO_LIMITS.replace("unauthenticated_per_min = 6000000\n", "");
    let secret = broker.ca().with_file_name("hs256");
    std::fs::write(&secret, SECRET)?;
    gated.extra = format!(
        "[auth]\nmode = \"required\"\nhs256_secret_file = {secret:?}\n{limits}[policy]\nfolder = {policy:?}\n"
    );
    let mut gated = Daemon::start(gated).await;
    let key = keys(&gated, &["create", "bench", "--allow", "orch/#"]);
    if args.flood {
        flood::measure(port, &gated, &key, Duration::from_secs_f64(args.flood_seconds)).await?;
        gated.terminate().await;
        return Ok(());
    }

    let mut open = DaemonOptions::new("open", Via::Plain(broker.addr()));
    open.extra = "[auth]\nmode = \"open\"\n".to_owned();
    let _open = Daemon::start(open).await;

    let (client, event_loop) = connect("bench-asker", port, INBOX).await?;
    let mut asker = Asker { client, event_loop, number: 0 };
    let jwt = good_jwt(serde_json::json!({ "sub": "bench" }));
    let ways = [Way::Open, Way::Key(key.clone()), Way::Jwt(jwt), Way::Signed(key)];
    println!("| | answers a second | of open |\n|---|---|---|");
    rounds(&mut asker, &ways, &args).await?;

    gated.terminate().await;
    fill(&gated, &args)?;
    gated.start_again().await;
    println!("| {} keys, {} nonces | | |", args.keys, args.nonces);
    rounds(&mut asker, &ways, &args).await?;

    gated.terminate().await;
    Ok(())
}

async fn rounds(asker: &mut Asker, ways: &[Way], args: &Args) -> Result<(), Failure> {
    let Rounds { rounds, in_flight, .. } = args.load;
    let time = args.load.time();
    let mut best = vec![0.0f64; ways.len()];
    for way in ways {
        asker.run(way, in_flight, time.mul_f64(0.3)).await?;
    }
    for _ in 0..rounds {
        for (way, best) in ways.iter().zip(&mut best) {
            *best = best.max(asker.run(way, in_flight, time).await?);
        }
    }
    for (way, rate) in ways.iter().zip(&best) {
        println!("| {} | {rate:.0} | {:.2} |", way.name(), rate / best[0]);
    }
    Ok(())
}

/// Puts keys that nobody has, and nonces of the last minutes, into the ledger of a stopped node.
fn fill(daemon: &Daemon, args: &Args) -> Result<(), Failure> {
    let mut ledger = rusqlite::Connection::open(daemon.state_dir().join("current/ledger.db"))?;
    let now = Clock::system().now().millis();
    let all = ledger.transaction()?;
    {
        let mut key = all.prepare(
            "INSERT INTO api_key (id, lineage, name, hash, sealed, permissions, created_at, created_by)
             SELECT ?1, ?1, 'filler-' || ?1, randomblob(32), sealed, '[\"orch/#\"]', ?2, 'bench' FROM api_key LIMIT 1",
        )?;
        for number in 0..args.keys {
            key.execute(rusqlite::params![format!("{number:012x}"), now])?;
        }
        let mut nonce =
            all.prepare("INSERT INTO nonce VALUES ('000000000000', lower(hex(randomblob(16))), ?1)")?;
        for number in 0..args.nonces {
            nonce.execute([now - i64::from(number % 60_000)])?;
        }
    }
    all.commit()?;
    Ok(())
}
