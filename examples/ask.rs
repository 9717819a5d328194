//! `cargo run --example ask -- HOST PORT NODE COMMAND JSON` prints the reply (MQTT_CA, MQTT_USERNAME, MQTT_PASSWORD)
use rumqttc::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions, QoS, TlsConfiguration, Transport};
use std::env::{args, var};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = <[String; 5]>::try_from(args().skip(1).collect::<Vec<_>>());
    let [host, port, node, command, payload] = given.map_err(|_| "HOST PORT NODE COMMAND JSON")?;
    let user = var("MQTT_USERNAME").unwrap_or_else(|_| "anonymous".to_owned());
    let inbox = format!("orch/inbox/{user}/ask-{}", std::process::id());
    let mut options = MqttOptions::new(inbox.replace('/', "-"), (host, port.parse()?));
    options.set_max_packet_size(Some(4 << 20));
    if let Ok(ca) = var("MQTT_CA") {
        let tls = orchd::tls::client_config(ca.as_ref(), None)?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    if let Ok(password) = var("MQTT_PASSWORD") {
        options.set_credentials(user, password);
    }
    let (client, mut events) = AsyncClient::builder(options).build();
    client.subscribe(inbox.clone(), QoS::AtLeastOnce).await?;
    while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    let properties = PublishProperties { response_topic: Some(inbox), ..Default::default() };
    let options = PublishOptions::at_least_once().properties(properties);
    client.publish(format!("orch/{node}/{command}"), payload, options).await?;
    loop {
        let Event::Incoming(Packet::Publish(reply)) = events.poll().await? else { continue };
        println!("{}", std::str::from_utf8(&reply.payload)?);
        return Ok(());
    }
}
