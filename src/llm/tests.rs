//! Providers that fail in every way that a network knows, played by a scripted HTTP server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::ledger::Options;

/// How a scripted server answers.
#[derive(Clone)]
enum Act {
    /// Status, further headers, body.
    Say(u16, &'static str, String),
    /// Accepts and says nothing.
    Hang,
    /// A byte of the head now and then, for ever.
    Drip,
    /// Announces and sends more than anyone takes.
    Flood,
    /// Closes in the midst of the body.
    Truncate,
}

struct Server {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
}

/// Plays `acts` in turn, the last for ever, one for each request.
async fn server(acts: Vec<Act>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acts, count) = (acts.clone(), count.clone());
            tokio::spawn(async move { play(stream, &acts, &count).await });
        }
    });
    Server { addr, asked }
}

async fn play(mut stream: TcpStream, acts: &[Act], asked: &AtomicUsize) -> std::io::Result<()> {
    // Requests are small: head and body come in a few reads. The body ends with the outermost brace.
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"}") {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..n]);
    }
    let turn = asked.fetch_add(1, Ordering::SeqCst);
    match &acts[turn.min(acts.len() - 1)] {
        Act::Say(status, headers, body) => {
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await
        }
        Act::Hang => std::future::pending().await,
        Act::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\nx-slow: ".iter().chain(std::iter::repeat(&b'x')) {
                stream.write_all(&[*byte]).await?;
                // How fast it drips, nothing that is waited for.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
        Act::Flood => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n").await?;
            let chunk = vec![b' '; 1 << 16];
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Act::Truncate => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"choices\":[{").await?;
            stream.shutdown().await
        }
    }
}

fn remote_says(text: &str) -> Act {
    let body = serde_json::json!({
        "model": "far", "choices": [{ "message": { "content": text }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 5 },
    });
    Act::Say(200, "", body.to_string())
}

fn local_says(text: &str) -> Act {
    let body = serde_json::json!({ "model": "near", "message": { "content": text }, "done": true, "done_reason": "stop" });
    Act::Say(200, "", body.to_string())
}

struct World {
    llm: Arc<Llm>,
    ledger: Ledger,
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
    let model =
        |url: String, limit| Model { url, name: "m".into(), key_file: None, limit, daily_tokens: None };
    let mut config = Config {
        remote: remote.map(|url| model(url, limit)),
        local: local.map(|url| model(url, Duration::from_secs(60))),
        ca_file,
        at_once: 2,
        breaker_failures: 2,
        breaker_pause: Duration::from_secs(3_600),
    };
    change(&mut config);
    let llm = Llm::open(config, &ledger, &Clock::system(), Metrics::new("test")).await.unwrap();
    World { llm, ledger, _dir: dir }
}

fn hello() -> Complete {
    serde_json::from_value(serde_json::json!({ "prompt": "Hello" })).unwrap()
}

fn url(server: &Server) -> Option<String> {
    Some(format!("http://{}", server.addr))
}

/// A port where nobody listens.
async fn nowhere() -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Some(format!("http://{}", listener.local_addr().unwrap()))
}

const GENEROUS: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_remote_model_answers_when_it_can() {
    let (remote, local) =
        (server(vec![remote_says("from afar")]).await, server(vec![local_says("near")]).await);
    let world = world(url(&remote), url(&local), GENEROUS, |_| {}).await;
    let answer = world.llm.complete(hello()).await.unwrap();
    assert_eq!((answer.body.text.as_str(), answer.body.provider.as_str()), ("from afar", "remote"));
    assert_eq!((answer.body.tokens_in, answer.body.tokens_out), (10, 5));
    assert!(answer.degraded.is_empty());
    assert_eq!(local.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn whatever_the_remote_provider_does_the_local_one_answers_and_says_so() {
    let short = Duration::from_millis(300);
    let say = |status, body: &str| Act::Say(status, "", body.to_owned());
    let cases = [
        ("unauthorized", say(401, "{}"), GENEROUS),
        ("payment_required", say(402, "{}"), GENEROUS),
        ("rate_limited", Act::Say(429, "retry-after: 3600\r\n", String::new()), GENEROUS),
        ("server_error", say(500, "oops"), GENEROUS),
        ("malformed", say(200, "{\"choices\":"), GENEROUS),
        ("malformed", say(200, "{\"answer\":42}"), GENEROUS),
        ("unreachable", Act::Truncate, GENEROUS),
        ("too_large", Act::Flood, GENEROUS),
        ("timeout", Act::Hang, short),
        ("timeout", Act::Drip, short),
    ];
    for (failure, act, limit) in cases {
        let (remote, local) = (server(vec![act]).await, server(vec![local_says("near")]).await);
        let world = world(url(&remote), url(&local), limit, |_| {}).await;
        for _ in 0..3 {
            let answer = world.llm.complete(hello()).await.unwrap();
            assert_eq!(
                (answer.body.text.as_str(), answer.body.provider.as_str()),
                ("near", "local"),
                "{failure}"
            );
            assert_eq!(answer.degraded, ["llm_remote"], "{failure}");
        }
        let states = world.llm.providers().providers;
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
    let remote = Some(format!("https://{}", remote.addr));
    let world = world(remote, url(&local), Duration::from_millis(500), |_| {}).await;
    assert_eq!(world.llm.complete(hello()).await.unwrap().body.provider, "local");
}

#[tokio::test]
async fn a_stumble_is_tried_again_and_costs_nothing() {
    let remote = server(vec![Act::Say(503, "", String::new()), remote_says("after all")]).await;
    let world = world(url(&remote), None, GENEROUS, |_| {}).await;
    let answer = world.llm.complete(hello()).await.unwrap();
    assert_eq!((answer.body.text.as_str(), answer.degraded.len()), ("after all", 0));
    assert_eq!(world.llm.providers().providers[0].trips, 0);
}

#[tokio::test]
async fn a_breaker_closes_by_itself_when_the_provider_is_back() {
    let failing = Act::Say(400 + 1, "", String::new());
    let remote = server(vec![failing.clone(), failing, remote_says("back")]).await;
    let local = server(vec![local_says("near")]).await;
    let world =
        world(url(&remote), url(&local), GENEROUS, |config| config.breaker_pause = Duration::ZERO).await;
    for _ in 0..2 {
        assert_eq!(world.llm.complete(hello()).await.unwrap().body.provider, "local");
    }
    assert_eq!(world.llm.complete(hello()).await.unwrap().body.text, "back");
    assert_eq!(world.llm.providers().providers[0].breaker, "closed");
}

#[tokio::test]
async fn when_nobody_answers_the_asker_hears_why_and_when_to_try_again() {
    let world = world(nowhere().await, nowhere().await, GENEROUS, |config| config.breaker_failures = 1).await;
    let first = world.llm.complete(hello()).await.unwrap_err();
    assert_eq!(first.code, Code::Unavailable);
    assert!(first.message.contains("remote: unreachable, local: unreachable"), "{}", first.message);
    let second = world.llm.complete(hello()).await.unwrap_err();
    assert!(second.message.contains("breaker_open"), "{}", second.message);
    assert!(second.retry_after_ms.is_some_and(|wait| wait > 1_000));
}

#[tokio::test]
async fn without_a_model_it_is_unavailable_and_nonsense_is_invalid() {
    let world = world(None, None, GENEROUS, |_| {}).await;
    assert_eq!(world.llm.complete(hello()).await.unwrap_err().code, Code::Unavailable);
    assert!(world.llm.providers().providers.is_empty());
    for wrong in [
        serde_json::json!({}),
        serde_json::json!({ "prompt": "a", "messages": [] }),
        serde_json::json!({ "prompt": " " }),
        serde_json::json!({ "prompt": "a", "max_tokens": 0 }),
        serde_json::json!({ "prompt": "a", "temperature": 3 }),
        serde_json::json!({ "prompt": "a".repeat(100_001) }),
    ] {
        let request: Complete = serde_json::from_value(wrong.clone()).unwrap();
        assert_eq!(world.llm.complete(request).await.unwrap_err().code, Code::Invalid, "{wrong}");
    }
}

#[tokio::test]
async fn a_slow_provider_takes_its_places_and_no_more() {
    let remote = server(vec![Act::Hang]).await;
    let world = world(url(&remote), None, GENEROUS, |_| {}).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let llm = world.llm.clone();
            tokio::spawn(async move { llm.complete(hello()).await.map(drop) })
        })
        .collect();
    while remote.asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.llm.complete(hello()).await.unwrap_err().code, Code::Busy);
    for task in waiting {
        task.abort();
        let _ = task.await;
    }
    // Who stopped waiting has given the place back.
    assert_eq!(world.llm.at_once.available_permits(), 2);
}

#[tokio::test]
async fn the_daily_budget_outlives_a_restart() {
    let remote = server(vec![remote_says("dear")]).await;
    let local = server(vec![local_says("cheap")]).await;
    let limited = |config: &mut Config| config.remote.as_mut().unwrap().daily_tokens = Some(15);
    let world = world(url(&remote), url(&local), GENEROUS, limited).await;
    assert_eq!(world.llm.complete(hello()).await.unwrap().body.text, "dear");
    assert_eq!(world.llm.complete(hello()).await.unwrap().body.text, "cheap");
    let again = Usage::open("remote", world.ledger.clone(), Clock::system()).await.unwrap();
    assert_eq!((again.requests_today(), again.tokens_today()), (1, 15));
    assert_eq!(world.llm.providers().providers[0].breaker, "closed", "a spent budget is not its failure");
}
