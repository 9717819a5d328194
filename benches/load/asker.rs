//! The side that asks: one connection that keeps a number of questions in flight and takes the time of each answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::mqttbytes::v5::{Packet, Publish};
use rumqttc::{
    AsyncClient, Event, EventLoop, Outgoing, PublishOptions, PublishProperties, QoS, SubscribeFilter,
};

use super::Failure;
use super::cpu::Used;
use super::link::{self, Broker};
use super::work::Operation;

/// Where the answers go: the inbox of a client without credentials.
const INBOX: &str = "orch/inbox/anonymous/load";

/// Longest silence of the one who is asked.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came out of one run.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Answers within the time.
    pub answers: u64,
    /// Over which they came.
    pub elapsed: Duration,
    /// Time to each answer in microseconds, sorted.
    latencies: Vec<u32>,
    /// Processor time of each answer.
    used: Used,
}

impl Measured {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    /// Says which processor time was used before and after it.
    pub fn took(&mut self, before: Used, after: Used) {
        // The answers that were due at the end are in it, too.
        let answers = self.latencies.len().max(1) as f64;
        self.used.all = (after.all - before.all) / answers;
        self.used.answering = (after.answering - before.answering) / answers;
    }

    /// Processor time of each answer, in seconds.
    pub const fn used(&self) -> Used {
        self.used
    }

    /// The time, in microseconds, within which `share` of the answers came.
    pub fn percentile(&self, share: f64) -> u32 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share).round() as usize).copied().unwrap_or(0)
    }
}

/// A connection that asks.
pub struct Asker {
    client: AsyncClient,
    event_loop: EventLoop,
    /// Numbers every question of this connection.
    number: u64,
}

impl Asker {
    /// Connects and subscribes to the answers.
    pub async fn connect(broker: &Broker) -> Result<Self, Failure> {
        let options = link::options(broker, "load-asker")?;
        let (client, mut event_loop) = AsyncClient::builder(options).capacity(512).try_build()?;
        client.subscribe_many([SubscribeFilter::new(INBOX.to_owned(), QoS::AtLeastOnce)]).await?;
        while !matches!(event_loop.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        Ok(Self { client, event_loop, number: 0 })
    }

    /// Asks for `duration` with `in_flight` questions at a time, then waits for the answers that are still due.
    pub async fn run(
        &mut self,
        operation: Operation,
        in_flight: usize,
        duration: Duration,
    ) -> Result<Measured, Failure> {
        let first = self.number;
        let mut asked_at: Vec<Instant> = Vec::new();
        let mut measured = Measured::default();
        let started = Instant::now();
        for _ in 0..in_flight {
            self.ask(operation, &mut asked_at)?;
        }
        let mut due = in_flight;
        while due > 0 {
            let event = tokio::time::timeout(PATIENCE, self.event_loop.poll())
                .await
                .map_err(|_| format!("{operation}: no answer for {PATIENCE:?}"))??;
            match event {
                Event::Incoming(Packet::Publish(answer)) => {
                    let now = Instant::now();
                    let Some(index) = number_of(&answer).and_then(|number| number.checked_sub(first)) else {
                        continue;
                    };
                    operation.check(&answer.payload)?;
                    let latency = now - asked_at[index as usize];
                    measured.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
                    if now - started < duration {
                        measured.answers += 1;
                        self.ask(operation, &mut asked_at)?;
                    } else {
                        due -= 1;
                    }
                }
                Event::Outgoing(Outgoing::Disconnect) => return Err("disconnected".into()),
                _ => {}
            }
        }
        measured.elapsed = duration;
        measured.latencies.sort_unstable();
        Ok(measured)
    }

    fn ask(&mut self, operation: Operation, asked_at: &mut Vec<Instant>) -> Result<(), Failure> {
        let number = self.number;
        self.number += 1;
        let properties = PublishProperties {
            response_topic: Some(INBOX.to_owned()),
            correlation_data: Some(Bytes::copy_from_slice(&number.to_be_bytes())),
            content_type: Some("application/json".to_owned()),
            user_properties: vec![("message-id".to_owned(), uuid::Uuid::new_v4().to_string())],
            ..PublishProperties::default()
        };
        let options = PublishOptions::at_least_once().properties(properties);
        asked_at.push(Instant::now());
        self.client.try_publish(operation.topic(), operation.question(number), options)?;
        Ok(())
    }
}

fn number_of(answer: &Publish) -> Option<u64> {
    let data = answer.properties.as_ref()?.correlation_data.as_ref()?;
    Some(u64::from_be_bytes(data.as_ref().try_into().ok()?))
}
