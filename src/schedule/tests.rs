//! The schedule over a ledger, with a clock and commands of the test.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::ledger;

const DAY: i64 = 86_400_000;

/// Counts runs; each takes until it is let go.
struct Counting {
    runs: AtomicU32,
    at_once: AtomicU32,
    go: Arc<Semaphore>,
    fails: bool,
    /// Runs of an earlier process that go on, by their names.
    known: std::sync::Mutex<Vec<String>>,
}

impl Counting {
    fn new(go: usize, fails: bool) -> Arc<Self> {
        let go = Arc::new(Semaphore::new(go));
        let known = std::sync::Mutex::default();
        Arc::new(Self { runs: AtomicU32::new(0), at_once: AtomicU32::new(0), go, fails, known })
    }
}

struct Counter(Arc<Counting>);

impl Perform for Counter {
    fn resume(&self, task: &Task, run: String) -> BoxFuture<Option<Result<(), Fault>>> {
        let goes_on = self.0.known.lock().unwrap().contains(&run);
        let again = goes_on.then(|| self.perform(task, run));
        Box::pin(async move {
            match again {
                Some(again) => Some(again.await),
                None => None,
            }
        })
    }

    fn perform(&self, task: &Task, run: String) -> BoxFuture<Result<(), Fault>> {
        assert_eq!(task.command, "test/do");
        let counting = self.0.clone();
        Box::pin(async move {
            counting.known.lock().unwrap().push(run);
            assert_eq!(counting.at_once.fetch_add(1, Ordering::SeqCst), 0, "overlaps itself");
            counting.runs.fetch_add(1, Ordering::SeqCst);
            counting.go.acquire().await.unwrap().forget();
            counting.at_once.fetch_sub(1, Ordering::SeqCst);
            if counting.fails { Err(Fault::new(Code::Busy, "not today")) } else { Ok(()) }
        })
    }
}

struct World {
    ledger: Ledger,
    events: Events,
    now: Arc<AtomicI64>,
    schedule: Arc<Schedule>,
    stop: CancellationToken,
}

fn world(dir: &std::path::Path, now: &Arc<AtomicI64>, synchronized: fn() -> bool) -> World {
    world_in(TimeZone::UTC, dir, now, synchronized)
}

fn world_in(
    zone: TimeZone,
    dir: &std::path::Path,
    now: &Arc<AtomicI64>,
    synchronized: fn() -> bool,
) -> World {
    let time = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(time.load(Ordering::SeqCst)));
    let options = ledger::Options { reserve_bytes: 1 << 20, ..ledger::Options::default() };
    let ledger = Ledger::open(dir, &options, clock).unwrap();
    let task = Task {
        name: "memory_prune",
        when: "0 3 * * *".parse().unwrap(),
        command: "test/do",
        payload: json!({}),
    };
    let options = Options { tasks: vec![task], zone, jitter: Duration::ZERO, synchronized };
    let events = Events::default();
    let schedule = Schedule::open(ledger.clone(), events.clone(), Metrics::new("test"), options).unwrap();
    World { ledger, events, now: now.clone(), schedule, stop: CancellationToken::new() }
}

impl World {
    fn start(&self, counting: &Arc<Counting>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(self.schedule.clone().run(Arc::new(Counter(counting.clone())), self.stop.clone()))
    }

    /// Waits until the entry is as wanted.
    async fn until(&self, what: impl Fn(&Scheduled) -> bool) -> Scheduled {
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let entry = self.schedule.list().remove(0);
            if what(&entry) {
                return entry;
            }
            assert!(std::time::Instant::now() < limit, "{entry:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Moves the clock, and has the schedule look.
    fn jump(&self, millis: i64) {
        self.now.fetch_add(millis, Ordering::SeqCst);
        self.schedule.changed.notify_one();
    }

    async fn end(self, running: tokio::task::JoinHandle<()>) {
        self.stop.cancel();
        running.await.unwrap();
        self.ledger.close();
    }
}

fn start() -> Arc<AtomicI64> {
    Arc::new(AtomicI64::new(Timestamp::parse("2026-05-01T00:00:00Z").unwrap().millis()))
}

#[tokio::test]
async fn a_run_is_in_the_ledger_and_what_was_missed_while_the_node_was_down_is_made_up_once() {
    let dir = tempfile::tempdir().unwrap();
    let now = start();
    let counting = Counting::new(100, false);
    let first = world(dir.path(), &now, || true);
    let running = first.start(&counting);
    first.until(|entry| entry.next.is_some()).await;
    first.jump(DAY);
    let entry = first.until(|entry| entry.runs == 1 && !entry.running).await;
    assert_eq!(entry.last.unwrap().outcome.as_deref(), Some("ok"));
    assert_eq!(entry.next.unwrap().to_string(), "2026-05-02T03:00:00.000Z");
    // Its end is in the ledger when the next look has been; the stop comes after it.
    first.schedule.save(&["memory_prune"]).await;
    first.end(running).await;

    now.fetch_add(10 * DAY, Ordering::SeqCst);
    let second = world(dir.path(), &now, || true);
    let running = second.start(&counting);
    let entry = second.until(|entry| entry.runs == 2 && !entry.running).await;
    assert_eq!(entry.last.unwrap().missed, 9);
    second.jump(60_000);
    second.until(|entry| entry.next.is_some_and(|next| next.to_string().starts_with("2026-05-12T03"))).await;
    assert_eq!(counting.runs.load(Ordering::SeqCst), 2);
    second.end(running).await;
}

#[tokio::test]
async fn what_was_missed_waits_for_a_clock_that_is_known_to_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let now = start();
    let counting = Counting::new(100, false);
    let world = world(dir.path(), &now, || false);
    let running = world.start(&counting);
    world.until(|entry| entry.next.is_some()).await;
    world.jump(DAY);
    world.jump(0);
    // On time is not missed: the run of the next day at its minute happens whatever the clock says of itself.
    assert_eq!(world.schedule.look(false).await.0, Vec::new());
    let due = world.schedule.look(true).await.0;
    assert_eq!(due.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["memory_prune"]);
    assert_eq!(counting.runs.load(Ordering::SeqCst), 0);
    world.end(running).await;
}

#[tokio::test]
async fn a_run_that_takes_long_is_not_overlapped_and_one_that_fails_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let now = start();
    let counting = Counting::new(0, true);
    let world = world(dir.path(), &now, || true);
    let mut events = world.events.listen();
    let running = world.start(&counting);
    world.until(|entry| entry.next.is_some()).await;
    world.jump(DAY);
    world.until(|entry| entry.running).await;
    world.jump(3 * DAY);
    world
        .until(|entry| {
            entry.running && entry.next.is_some_and(|next| next.millis() > world.now.load(Ordering::SeqCst))
        })
        .await;
    counting.go.add_permits(1);
    let entry = world.until(|entry| !entry.running).await;
    assert_eq!((entry.failures, entry.runs), (1, 1));
    let last = entry.last.unwrap();
    assert_eq!((last.outcome.as_deref(), last.message.as_deref()), (Some("busy"), Some("not today")));
    let told = events.recv().await.unwrap();
    assert_eq!(told.kind, "errors");
    assert!(String::from_utf8_lossy(&told.payload).contains("memory_prune: not today (1 in a row)"));
    world.end(running).await;
}

#[tokio::test]
async fn a_run_that_a_crash_cut_off_goes_on_alone_and_its_outcome_is_put_down() {
    let dir = tempfile::tempdir().unwrap();
    let now = start();
    let counting = Counting::new(0, true);
    let first = world(dir.path(), &now, || true);
    let running = first.start(&counting);
    first.until(|entry| entry.next.is_some()).await;
    first.jump(DAY);
    first.until(|entry| entry.running).await;
    // Its begin is in the ledger before the next look; the process is gone before its end.
    first.schedule.save(&["memory_prune"]).await;
    first.end(running).await;

    now.fetch_add(DAY, Ordering::SeqCst);
    let second = world(dir.path(), &now, || true);
    counting.at_once.store(0, Ordering::SeqCst);
    let running = second.start(&counting);
    let entry = second.until(|entry| entry.running && entry.next.is_some()).await;
    assert_eq!((entry.runs, entry.last.unwrap().outcome), (1, None));
    second.jump(3 * DAY);
    second.until(|entry| entry.next.is_some_and(|next| next.millis() > now.load(Ordering::SeqCst))).await;
    counting.go.add_permits(1);
    let entry = second.until(|entry| !entry.running).await;
    assert_eq!((entry.runs, entry.failures), (1, 1));
    assert_eq!(entry.last.unwrap().outcome.as_deref(), Some("busy"));
    second.schedule.save(&["memory_prune"]).await;
    let counts = "orchd_schedule_failures{task=\"memory_prune\"} 1";
    assert!(second.schedule.metrics.render().contains(counts));
    second.end(running).await;
    // The failures in a row are shown from the start on.
    let third = world(dir.path(), &now, || true);
    assert!(third.schedule.metrics.render().contains(counts), "{}", third.schedule.metrics.render());
    third.ledger.close();
}

#[tokio::test]
async fn a_run_that_was_cut_off_and_that_nobody_knows_is_interrupted_and_the_next_one_comes() {
    let dir = tempfile::tempdir().unwrap();
    let now = start();
    let counting = Counting::new(0, false);
    let first = world(dir.path(), &now, || true);
    let running = first.start(&counting);
    first.until(|entry| entry.next.is_some()).await;
    first.jump(DAY);
    first.until(|entry| entry.running).await;
    first.schedule.save(&["memory_prune"]).await;
    first.end(running).await;

    let counting = Counting::new(100, false);
    let second = world(dir.path(), &now, || true);
    let running = second.start(&counting);
    let entry = second.until(|entry| !entry.running).await;
    assert_eq!(entry.last.unwrap().outcome.as_deref(), Some("interrupted"));
    second.jump(DAY);
    second.until(|entry| entry.runs == 2 && !entry.running).await;
    second.end(running).await;
}

#[tokio::test]
async fn a_next_run_that_was_found_for_the_clocks_of_another_zone_is_found_anew() {
    let dir = tempfile::tempdir().unwrap();
    let now = start();
    let counting = Counting::new(100, false);
    let first = world(dir.path(), &now, || true);
    let running = first.start(&counting);
    let entry = first.until(|entry| entry.next.is_some()).await;
    assert_eq!(entry.next.unwrap().to_string(), "2026-05-01T03:00:00.000Z");
    first.schedule.save(&["memory_prune"]).await;
    first.end(running).await;

    let two_hours_ahead = TimeZone::fixed(jiff::tz::offset(2));
    let second = world_in(two_hours_ahead, dir.path(), &now, || true);
    let running = second.start(&counting);
    let entry = second.until(|entry| entry.next.is_some()).await;
    assert_eq!(entry.next.unwrap().to_string(), "2026-05-01T01:00:00.000Z");
    second.end(running).await;
}

#[tokio::test]
async fn a_pause_is_kept_over_a_restart_and_a_run_can_be_asked_for_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let now = start();
    let counting = Counting::new(100, false);
    let first = world(dir.path(), &now, || true);
    let running = first.start(&counting);
    first.until(|entry| entry.next.is_some()).await;
    let schedule = first.schedule.clone();
    let pause =
        move |unit: &mut Unit<'_>| schedule.set_paused(unit, "memory_prune", Some("restored".to_owned()));
    first.ledger.write(pause).await.unwrap();
    first.jump(5 * DAY);
    first.until(|entry| entry.paused.as_deref() == Some("restored")).await;
    first.end(running).await;

    let second = world(dir.path(), &now, || true);
    let running = second.start(&counting);
    let entry = second.until(|entry| entry.paused.is_some()).await;
    assert_eq!((entry.runs, entry.next), (0, None));
    second.schedule.change("memory_prune", |entry| entry.wanted = true);
    second.until(|entry| entry.runs == 1 && !entry.running).await;
    let schedule = second.schedule.clone();
    second.ledger.write(move |unit| schedule.set_paused(unit, "memory_prune", None)).await.unwrap();
    let entry = second.until(|entry| entry.next.is_some()).await;
    assert_eq!(entry.next.unwrap().to_string(), "2026-05-06T03:00:00.000Z", "nothing is made up for a pause");
    assert!(second.schedule.known("other").is_err());
    second.end(running).await;
}
