//! Providers that fail in every way that a network knows, played by a scripted HTTP server.

use crate::scripted_provider::{Act, Provider as Scripted, faults, local_says, nowhere, remote_says};

use super::model::Completion;
use super::*;
use crate::engine::command::Answer;
use crate::engine::jobs::Progress;
use crate::ledger::Options;
use crate::wire::Code;

async fn server(acts: Vec<Act>) -> Scripted {
    Scripted::start(acts).await
}

struct World {
    llm: Arc<Llm>,
    ledger: Ledger,
    events: Events,
    _dir: tempfile::TempDir,
}

/// A service with a limit of `limit` for the remote provider, and a generous one for the local.
async fn world(
    remote: Option<String>,
    local: Option<String>,
    limit: Duration,
    change: impl FnOnce(&mut Config),
) -> World {
    let dir = tempfile::tempdir().unwrap();
    let authority = rcgen::generate_simple_self_signed(["nobody".to_owned()]).unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, authority.cert.pem()).unwrap();
    let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
    let ledger = Ledger::open(&dir.path().join("state"), &options, Clock::system()).unwrap();
    let model = |url: String, limit| Model {
        url,
        name: "m".into(),
        key_file: None,
        limit,
        budget: Budget::default(),
    };
    let mut config = Config {
        remote: remote.map(|url| model(url, limit)),
        local: local.map(|url| model(url, Duration::from_secs(60))),
        ca_file,
        at_once: 2,
        breaker_failures: 2,
        breaker_pause: Duration::from_secs(3_600),
    };
    change(&mut config);
    let events = Events::default();
    let metrics = Metrics::new("test");
    let llm = Llm::open(config, &ledger, &Clock::system(), metrics, events.clone()).await.unwrap();
    World { llm, ledger, events, _dir: dir }
}

impl World {
    async fn complete(&self, request: Complete) -> Result<Answer<Completion>, Fault> {
        self.llm.complete(request, &Progress::new().0).await
    }
}

fn hello() -> Complete {
    serde_json::from_value(serde_json::json!({ "prompt": "Hello" })).unwrap()
}

fn url(server: &Scripted) -> Option<String> {
    Some(server.url())
}

const GENEROUS: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_remote_model_answers_when_it_can() {
    let (remote, local) =
        (server(vec![remote_says("from afar")]).await, server(vec![local_says("near")]).await);
    let world = world(url(&remote), url(&local), GENEROUS, |_| {}).await;
    let answer = world.complete(hello()).await.unwrap();
    assert_eq!((answer.body.text.as_str(), answer.body.provider.as_str()), ("from afar", "remote"));
    assert_eq!((answer.body.tokens_in, answer.body.tokens_out), (10, 5));
    assert!(answer.degraded.is_empty());
    assert_eq!(local.asked(), 0);
}

#[tokio::test]
async fn whatever_the_remote_provider_does_the_local_one_answers_and_says_so() {
    for (failure, act) in faults() {
        let limit = if failure == "timeout" { Duration::from_millis(300) } else { GENEROUS };
        let (remote, local) = (server(vec![act]).await, server(vec![local_says("near")]).await);
        let world = world(url(&remote), url(&local), limit, |_| {}).await;
        for _ in 0..3 {
            let answer = world.complete(hello()).await.unwrap();
            assert_eq!(
                (answer.body.text.as_str(), answer.body.provider.as_str()),
                ("near", "local"),
                "{failure}"
            );
            assert_eq!(answer.degraded, ["llm_remote"], "{failure}");
        }
        let states = world.llm.states();
        assert_eq!(states[0].last_failure.as_deref(), Some(failure));
        // Two failures opened it: the third question went past it.
        assert_eq!((states[0].breaker.as_str(), states[0].trips), ("open", 1), "{failure}");
        assert_eq!(states[1].breaker, "closed");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_no_answer() {
    // A plain server behind https: the handshake fails.
    let (remote, local) = (server(vec![Act::Hang]).await, server(vec![local_says("near")]).await);
    let remote = Some(remote.url().replace("http:", "https:"));
    let world = world(remote, url(&local), Duration::from_millis(500), |_| {}).await;
    assert_eq!(world.complete(hello()).await.unwrap().body.provider, "local");
}

#[tokio::test]
async fn a_stumble_is_tried_again_and_costs_nothing() {
    let remote = server(vec![Act::Say(503, "", String::new()), remote_says("after all")]).await;
    let world = world(url(&remote), None, GENEROUS, |_| {}).await;
    let answer = world.complete(hello()).await.unwrap();
    assert_eq!((answer.body.text.as_str(), answer.degraded.len()), ("after all", 0));
    assert_eq!(world.llm.states()[0].trips, 0);
}

#[tokio::test]
async fn a_probe_is_a_single_request() {
    let remote = server(vec![Act::Say(500, "", String::new())]).await;
    let world = world(url(&remote), None, GENEROUS, |config| {
        (config.breaker_failures, config.breaker_pause) = (1, Duration::ZERO);
    })
    .await;
    for asked in [2, 3, 4] {
        assert_eq!(world.complete(hello()).await.unwrap_err().code, Code::Unavailable);
        assert_eq!(remote.asked(), asked);
    }
}

#[tokio::test]
async fn a_breaker_closes_by_itself_when_the_provider_is_back() {
    let failing = Act::Say(400 + 1, "", String::new());
    let remote = server(vec![failing]).await;
    let local = server(vec![local_says("near")]).await;
    let world =
        world(url(&remote), url(&local), GENEROUS, |config| config.breaker_pause = Duration::ZERO).await;
    for _ in 0..2 {
        assert_eq!(world.complete(hello()).await.unwrap().body.provider, "local");
    }
    remote.play(vec![remote_says("back")]);
    assert_eq!(world.complete(hello()).await.unwrap().body.text, "back");
    assert_eq!(world.llm.states()[0].breaker, "closed");
}

#[tokio::test]
async fn when_nobody_answers_the_asker_hears_why_and_when_to_try_again() {
    let world =
        world(Some(nowhere().await), Some(nowhere().await), GENEROUS, |config| config.breaker_failures = 1)
            .await;
    let first = world.complete(hello()).await.unwrap_err();
    assert_eq!(first.code, Code::Unavailable);
    assert!(first.message.contains("remote: unreachable, local: unreachable"), "{}", first.message);
    let second = world.complete(hello()).await.unwrap_err();
    assert!(second.message.contains("breaker_open"), "{}", second.message);
    assert!(second.retry_after_ms.is_some_and(|wait| wait > 1_000));
}

#[tokio::test]
async fn without_a_model_it_is_unavailable_and_nonsense_is_invalid() {
    let world = world(None, None, GENEROUS, |_| {}).await;
    assert_eq!(world.complete(hello()).await.unwrap_err().code, Code::Unavailable);
    assert!(world.llm.states().is_empty());
    for wrong in [
        serde_json::json!({}),
        serde_json::json!({ "prompt": "a", "messages": [] }),
        serde_json::json!({ "prompt": " " }),
        serde_json::json!({ "prompt": "a", "max_tokens": 0 }),
        serde_json::json!({ "prompt": "a", "temperature": 3 }),
        serde_json::json!({ "prompt": "a".repeat(100_001) }),
    ] {
        let request: Complete = serde_json::from_value(wrong.clone()).unwrap();
        assert_eq!(world.complete(request).await.unwrap_err().code, Code::Invalid, "{wrong}");
    }
}

#[tokio::test]
async fn a_slow_provider_takes_its_places_and_no_more() {
    let remote = server(vec![Act::Hang]).await;
    let world = world(url(&remote), None, GENEROUS, |_| {}).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let llm = world.llm.clone();
            tokio::spawn(async move { llm.complete(hello(), &Progress::new().0).await.map(drop) })
        })
        .collect();
    remote.until_asked(2).await;
    assert_eq!(world.complete(hello()).await.unwrap_err().code, Code::Busy);
    for task in waiting {
        task.abort();
        let _ = task.await;
    }
    // Who stopped waiting has given the place back.
    assert_eq!(world.llm.completing.available_permits(), 2);
}

#[tokio::test]
async fn the_daily_budget_outlives_a_restart() {
    let remote = server(vec![remote_says("dear")]).await;
    let local = server(vec![local_says("cheap")]).await;
    let limited = |config: &mut Config| config.remote.as_mut().unwrap().budget.tokens = Some(15);
    let world = world(url(&remote), url(&local), GENEROUS, limited).await;
    assert_eq!(world.complete(hello()).await.unwrap().body.text, "dear");
    assert_eq!(world.complete(hello()).await.unwrap().body.text, "cheap");
    let again = Usage::open("remote", world.ledger.clone(), Clock::system()).await.unwrap();
    assert_eq!((again.requests_today(), again.tokens_today()), (1, 15));
    assert_eq!(world.llm.states()[0].breaker, "closed", "a spent budget is not its failure");
}

#[tokio::test]
async fn the_daily_budget_is_in_money_too_as_the_provider_says_or_by_the_configured_price() {
    let said = Act::Say(200, "", r#"{"choices":[{"message":{"content":"dear"}}],"usage":{"prompt_tokens":1000000,"completion_tokens":100000}}"#.into());
    for (act, budget) in [
        // It says 0.25.
        (remote_says("dear"), Budget { usd: Some(0.25), ..Budget::default() }),
        // It does not: a million at 0.1 and a tenth of one at 1.5 are 0.25.
        (said, Budget { usd: Some(0.25), usd_per_million: (0.1, 1.5), ..Budget::default() }),
    ] {
        let (remote, local) = (server(vec![act]).await, server(vec![local_says("cheap")]).await);
        let limited = |config: &mut Config| config.remote.as_mut().unwrap().budget = budget;
        let world = world(url(&remote), url(&local), GENEROUS, limited).await;
        assert_eq!(world.complete(hello()).await.unwrap().body.text, "dear");
        assert_eq!(world.complete(hello()).await.unwrap().body.text, "cheap");
        let state = &world.llm.states()[0];
        assert!((state.cost_usd - 0.25).abs() < 1e-9 && state.daily_usd == Some(0.25), "{state:?}");
        let again = Usage::open("remote", world.ledger.clone(), Clock::system()).await.unwrap();
        assert!((again.cost_today() - 0.25).abs() < 1e-9);
    }
}

#[tokio::test]
async fn a_breaker_tells_when_it_opens_and_closes() {
    let failing = Act::Say(401, "", String::new());
    let remote = server(vec![failing.clone(), failing, remote_says("back")]).await;
    let world = world(url(&remote), None, GENEROUS, |config| config.breaker_pause = Duration::ZERO).await;
    let mut events = world.events.listen();
    for _ in 0..2 {
        assert!(world.complete(hello()).await.is_err());
    }
    world.complete(hello()).await.unwrap();
    for (error, message) in [
        ("breaker_opened", "the remote model is left alone for a while: unauthorized"),
        ("breaker_closed", "the remote model answers again"),
    ] {
        let event = events.recv().await.unwrap();
        let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(
            (event.kind, &told["error"], &told["message"]),
            ("errors", &error.into(), &message.into())
        );
    }
    let state = &world.llm.states()[0];
    assert_eq!((state.trips, state.fallbacks), (1, 2));
    assert!(state.latency_ms.is_some());
}

/// What `acts` of a remote provider come to when an answer of a form is wanted.
async fn formal(acts: Vec<Act>, local: Vec<Act>) -> (Result<Given<u8>, Vec<String>>, World) {
    let (remote, local) = (server(acts).await, server(local).await);
    let world = world(url(&remote), url(&local), GENEROUS, |_| {}).await;
    let schema = serde_json::json!({ "type": "number" });
    let asked = Formal {
        instructions: "Count.".into(),
        question: "How many?".into(),
        schema: schema.clone(),
        max_tokens: 10,
        limit: GENEROUS,
    };
    let given = world.llm.formal(asked, |text| text.parse().ok()).await;
    let sent = &remote.requests()[0];
    assert_eq!(sent["response_format"]["json_schema"]["schema"], schema);
    assert_eq!(sent["messages"][1], serde_json::json!({ "role": "user", "content": "How many?" }));
    (given, world)
}

#[tokio::test]
async fn an_answer_of_another_form_is_a_failure_of_its_provider_and_the_next_is_asked() {
    let (given, _) = formal(vec![remote_says("7")], vec![local_says("8")]).await;
    let given = given.unwrap();
    assert_eq!((given.answer, given.provider, given.model.as_str()), (7, "remote", "far"));
    assert!(given.missed.is_empty());

    let (given, world) = formal(vec![remote_says("seven")], vec![local_says("8")]).await;
    let given = given.unwrap();
    assert_eq!((given.answer, given.provider, given.missed), (8, "local", vec!["llm_remote".to_owned()]));
    let state = &world.llm.states()[0];
    assert_eq!(
        (state.last_failure.as_deref(), state.tokens),
        (Some("malformed"), 15),
        "it is paid for all the same"
    );

    let (given, _) = formal(vec![remote_says("seven")], vec![local_says("eight")]).await;
    assert_eq!(given.unwrap_err(), ["llm_remote", "llm_local"]);
}

#[tokio::test]
async fn an_asker_who_waits_shortly_does_not_open_the_breaker_and_one_who_waits_fairly_does() {
    let remote = server(vec![Act::Hang]).await;
    let world =
        world(url(&remote), None, Duration::from_millis(200), |config| config.breaker_failures = 1).await;
    let ask = |limit| {
        let schema = serde_json::json!({});
        let asked =
            Formal { instructions: String::new(), question: "?".into(), schema, max_tokens: 1, limit };
        world.llm.formal(asked, |text| Some(text.len()))
    };
    assert!(ask(Duration::from_millis(1)).await.is_err());
    assert_eq!(world.llm.states()[0].breaker, "closed");
    assert!(ask(GENEROUS).await.is_err());
    assert_eq!(world.llm.states()[0].breaker, "open");
}

#[tokio::test]
async fn an_answer_comes_piece_by_piece_for_who_asks_and_begins_anew_with_the_next_provider() {
    let piece = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let remote = server(vec![Act::Pieces(vec![piece("half an ans")])]).await;
    let line =
        |text: &str, done: bool| format!("{{\"message\":{{\"content\":\"{text}\"}},\"done\":{done}}}\n");
    let local =
        server(vec![Act::Pieces(vec![line("a whole ", false), line("one", false), line("", true)])]).await;
    let world = world(url(&remote), url(&local), GENEROUS, |_| {}).await;
    let (progress, _steps, _cancel) = Progress::new();
    let request = serde_json::from_value(serde_json::json!({ "prompt": "Hello", "stream": true })).unwrap();
    let answer = world.llm.complete(request, &progress).await.unwrap();
    assert_eq!((answer.body.text.as_str(), answer.body.provider.as_str()), ("a whole one", "local"));
    let part = progress.part().unwrap();
    assert_eq!((part.attempt, part.from, part.text.as_str()), (2, 0, "a whole one"));
    assert_eq!(remote.requests()[0]["stream"], true);
}
