//! Sends a command signed with an API key and prints the reply.
//!
//! `cargo run --example signed -- HOST PORT NODE COMMAND JSON` (environment: API_KEY_FILE; INBOX, the name of the key;
//! MQTT_CA for TLS, MQTT_USERNAME and MQTT_PASSWORD)

use std::env::{args, var};
use std::fmt::Write;

use ring::digest::{SHA256, digest};
use ring::hmac;
use rumqttc::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions, QoS, TlsConfiguration, Transport};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [host, port, node, command, payload] = <[String; 5]>::try_from(args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "HOST PORT NODE COMMAND JSON")?;
    let key = std::fs::read_to_string(var("API_KEY_FILE")?)?.trim().to_owned();
    let key_id = key.split('_').nth(1).ok_or("API_KEY_FILE holds no API key")?;
    let message_id = uuid::Uuid::new_v4().to_string();
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let topic = format!("orch/{node}/{command}");
    let inbox = format!("orch/inbox/{}/{message_id}", var("INBOX")?);
    let signed_at = orchd::clock::Clock::system().now().to_string();

    let payload_hash = hex(digest(&SHA256, payload.as_bytes()).as_ref());
    let fields = ["orchd-v1", key_id, &message_id, &topic, &inbox, &signed_at, &nonce, &payload_hash];
    let signed: String = fields.iter().map(|field| format!("{}:{field},", field.len())).collect();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), signed.as_bytes());
    let signature = format!("v1:{key_id}:{}", hex(tag.as_ref()));

    let mut options = MqttOptions::new(format!("signed-{message_id}"), (host, port.parse()?));
    options.set_max_packet_size(Some(4 << 20));
    if let Ok(ca) = var("MQTT_CA") {
        let tls = orchd::tls::client_config(ca.as_ref(), None)?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    if let Ok(password) = var("MQTT_PASSWORD") {
        options.set_credentials(var("MQTT_USERNAME")?, password);
    }
    let (client, mut events) = AsyncClient::builder(options).build();
    client.subscribe(inbox.clone(), QoS::AtLeastOnce).await?;
    loop {
        match events.poll().await? {
            Event::Incoming(Packet::SubAck(_)) => {
                let own = [
                    ("message-id", &message_id),
                    ("x-signature", &signature),
                    ("x-signed-at", &signed_at),
                    ("x-nonce", &nonce),
                ];
                let properties = PublishProperties {
                    response_topic: Some(inbox.clone()),
                    user_properties: own.map(|(name, value)| (name.to_owned(), value.clone())).to_vec(),
                    ..PublishProperties::default()
                };
                let options = PublishOptions::at_least_once().properties(properties);
                client.publish(topic.clone(), payload.clone(), options).await?;
            }
            Event::Incoming(Packet::Publish(reply)) => {
                println!("{}", std::str::from_utf8(&reply.payload)?);
                return Ok(());
            }
            _ => {}
        }
    }
}
