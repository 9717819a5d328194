//! The other side of the limit: a process of its own that answers with the question, and one store done the naive way.
//!
//! It gives what a command of the node gives, and nothing else: QoS 1 both ways, and the question is acknowledged once the
//! broker has acknowledged the answer.

use std::path::PathBuf;

use bytes::Bytes;
use rumqttc::mqttbytes::v5::{Packet, Publish};
use rumqttc::{
    AckMode, AsyncClient, Event, PublishNotice, PublishOptions, PublishProperties, QoS, SubscribeFilter,
};
use tokio::sync::mpsc;

use super::Failure;
use super::link::{self, Broker};
use super::naive::Naive;
use super::work::Operation;

/// Answers until the broker is gone.
pub async fn run(broker: Broker, folder: PathBuf) -> Result<(), Failure> {
    let mut options = link::options(&broker, "load-responder")?;
    options.set_ack_mode(AckMode::Manual);
    let (client, mut event_loop) = AsyncClient::builder(options).capacity(512).try_build()?;
    let filters = [Operation::Echo, Operation::Naive]
        .map(|operation| SubscribeFilter::new(operation.topic(), QoS::AtLeastOnce));
    client.subscribe_many(filters).await?;
    let (questions, queue) = mpsc::channel(256);
    let (naive, naive_queue) = mpsc::channel(256);
    let (answered, acks) = mpsc::channel(256);
    tokio::spawn(answer(client.clone(), queue, answered.clone()));
    tokio::spawn(acknowledge(client.clone(), acks));
    let runtime = tokio::runtime::Handle::current();
    let replier = client.clone();
    std::thread::spawn(move || {
        store(folder, naive_queue, |question| {
            runtime.block_on(reply(&replier, question, &answered));
        })
    });
    let naive_topic = Operation::Naive.topic();
    loop {
        match event_loop.poll().await? {
            Event::Incoming(Packet::SubAck(_)) => println!("ready"),
            Event::Incoming(Packet::Publish(publish)) if publish.topic == naive_topic.as_bytes() => {
                naive.try_send(publish)?;
            }
            Event::Incoming(Packet::Publish(publish)) => questions.try_send(publish)?,
            _ => {}
        }
    }
}

async fn answer(
    client: AsyncClient,
    mut questions: mpsc::Receiver<Publish>,
    answered: mpsc::Sender<(PublishNotice, Publish)>,
) {
    while let Some(question) = questions.recv().await {
        reply(&client, question, &answered).await;
    }
}

async fn reply(client: &AsyncClient, question: Publish, answered: &mpsc::Sender<(PublishNotice, Publish)>) {
    let Some(asked) = question.properties.as_ref() else { return };
    let Some(topic) = asked.response_topic.clone() else { return };
    let properties = PublishProperties {
        correlation_data: asked.correlation_data.clone(),
        ..PublishProperties::default()
    };
    let options = PublishOptions::at_least_once().properties(properties);
    let payload: Bytes = question.payload.clone();
    if let Ok(notice) = client.publish_tracked(topic, payload, options).await {
        let _ = answered.send((notice, question)).await;
    }
}

/// Acknowledges each question after its answer, in order.
async fn acknowledge(client: AsyncClient, mut answered: mpsc::Receiver<(PublishNotice, Publish)>) {
    while let Some((notice, question)) = answered.recv().await {
        if notice.wait_completion_async().await.is_ok() {
            let _ = client.ack(&question).await;
        }
    }
}

/// Stores one record after the other.
fn store(folder: PathBuf, mut questions: mpsc::Receiver<Publish>, reply: impl Fn(Publish)) {
    let naive = match Naive::open(&folder) {
        Ok(naive) => naive,
        Err(error) => return eprintln!("the naive store: {error}"),
    };
    while let Some(question) = questions.blocking_recv() {
        match naive.store(&String::from_utf8_lossy(&question.payload)) {
            Ok(()) => reply(question),
            Err(error) => eprintln!("the naive store: {error}"),
        }
    }
}
