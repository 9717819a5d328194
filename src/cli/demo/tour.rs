//! The tour: real questions on real topics, each printed with its topic, its question and its answer. A step fails when
//! the answer is not what the tour promises.

use std::time::Duration;

use serde_json::{Value, json};

use super::stage::{CLIENT, Stage};
use super::{DemoError, say};
use crate::clock::Clock;
use crate::gate::signer::Command;
use crate::mqtt::{Client, Question};

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Walks through the node's abilities.
pub(super) async fn run(stage: &Stage) -> Result<(), DemoError> {
    let mut client = Client::connect(stage.profile.connect_options(), Clock::system().now())
        .await
        .map_err(|error| DemoError::new("the client", error))?;
    let inbox = format!("{}/tour", stage.names.inbox(CLIENT));
    let heartbeat = stage.names.event("heartbeat");
    client
        .subscribe(&[inbox.clone(), heartbeat.clone()])
        .await
        .map_err(|error| DemoError::new("the client's subscriptions", error))?;
    let mut guide = Guide { client, stage, inbox, step: 0 };

    let harmful = json!({ "action": "I will harm someone" });
    guide
        .ask("A harmful action is judged", "conscience/evaluate", harmful, |answer| {
            answer["approved"] == false
        })
        .await?;
    let harmless = json!({ "action": "I will help someone in need" });
    guide
        .ask("A harmless action is judged", "conscience/evaluate", harmless, |answer| {
            answer["approved"] == true
        })
        .await?;
    for (content, layer) in [
        ("The pump in hall 3 rattles when it is colder than five degrees", "long_term"),
        ("The visitor likes green tea", "semantic"),
    ] {
        let memory = json!({ "content": content, "layer": layer, "tags": ["demo"] });
        guide
            .ask("Something is remembered", "memory/store", memory, |answer| answer["id"].is_string())
            .await?;
    }
    let query = json!({ "text": "which pump rattles", "consistency": "latest", "limit": 1 });
    guide
        .ask("It is recalled", "memory/query", query, |answer| {
            answer["hits"][0]["content"].as_str().is_some_and(|content| content.contains("pump"))
        })
        .await?;
    guide.hear("The node tells how it is, without being asked", &heartbeat).await?;
    guide.client.close().await;
    say("Every step worked.\n\n")
}

struct Guide<'a> {
    client: Client,
    stage: &'a Stage,
    inbox: String,
    step: u32,
}

impl Guide<'_> {
    fn announce(&mut self, title: &str) -> Result<(), DemoError> {
        self.step += 1;
        say(&format!("{}. {title}\n", self.step))
    }

    /// Asks, prints, and holds the answer against what it should be.
    async fn ask(
        &mut self,
        title: &str,
        command: &str,
        payload: Value,
        right: impl Fn(&Value) -> bool,
    ) -> Result<(), DemoError> {
        self.announce(title)?;
        let topic = self.stage.names.command(command);
        say(&format!("   topic     {topic}\n   question  {payload}\n"))?;
        let correlation = uuid::Uuid::new_v4().to_string();
        let (payload, message_id) = (payload.to_string(), uuid::Uuid::new_v4().to_string());
        let signed = Command {
            message_id: &message_id,
            topic: &topic,
            reply_to: &self.inbox,
            payload: payload.as_bytes(),
        };
        let properties = self
            .stage
            .signer
            .sign(signed, Clock::system().now())
            .map_err(|error| DemoError::new("the signature", error))?;
        let question = Question {
            topic,
            payload: payload.into(),
            response_topic: self.inbox.clone(),
            correlation_data: correlation.clone().into(),
            expires_in: ANSWER_LIMIT,
            message_id,
            properties,
        };
        self.client.ask(question).await.map_err(|error| DemoError::new(command, error))?;
        let answer = async {
            loop {
                let message = self.client.next().await?;
                if message.correlation_data.as_deref() == Some(correlation.as_bytes()) {
                    return Ok::<_, crate::mqtt::CallError>(message.payload);
                }
            }
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, answer)
            .await
            .map_err(|_| DemoError::new(command, "no answer in time"))?
            .map_err(|error| DemoError::new(command, error))?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|error| DemoError::new(command, error))?;
        let shown = if answer["status"] == "ok" { &answer["payload"] } else { &answer["error"] };
        say(&format!("   answer    {shown}\n\n"))?;
        if answer["status"] == "ok" && right(&answer["payload"]) {
            Ok(())
        } else {
            Err(DemoError::new(command, "this is not the answer that it should be"))
        }
    }

    async fn hear(&mut self, title: &str, topic: &str) -> Result<(), DemoError> {
        self.announce(title)?;
        say(&format!("   topic     {topic}\n"))?;
        let heard = async {
            loop {
                let message = self.client.next().await?;
                if message.topic == topic {
                    return Ok::<_, crate::mqtt::CallError>(message.payload);
                }
            }
        };
        let heard = tokio::time::timeout(ANSWER_LIMIT, heard)
            .await
            .map_err(|_| DemoError::new(topic, "nothing came in time"))?
            .map_err(|error| DemoError::new(topic, error))?;
        say(&format!("   event     {}\n\n", String::from_utf8_lossy(&heard)))
    }
}
