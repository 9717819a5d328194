//! Keeps a connection up: connects, serves, and connects again with growing pauses, for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::LastWillProperties;
use rumqttc::{LastWill, MqttOptions};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connect::ConnectOptions;
use super::publisher::{Publisher, Standing};
use super::session::{End, Queues, Session};
use super::trial;
use super::{AT_LEAST_ONCE_QUEUE, AT_MOST_ONCE_QUEUE};
use crate::clock::Clock;
use crate::engine::port::{Delivery, Outgoing};
use crate::observe::{Metrics, Pulse};

/// A connection that lasted this long counts as good: the next failure begins with a short pause again.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// First pause after someone else took the session over; doubled each time, up to the longest pause.
const TAKEN_OVER_PAUSE: Duration = Duration::from_secs(5);

/// Between two attempts to log in anew before the credentials end.
const RETRY: Duration = Duration::from_secs(5);

/// Connections in a row that stood, and that the other side closed soon and without a word: not the broker being
/// restarted, in which case some attempt finds nobody there, but most likely another client with the same name.
const SUSPICIOUS: u32 = 3;

/// What the node says of itself on a connection.
pub trait Presence: Send + Sync {
    /// Published first on each new connection, in this order.
    fn birth(&self) -> Vec<Outgoing>;

    /// Published by the broker when the connection ends without a goodbye.
    fn will(&self) -> Outgoing;

    /// The connection stands and the subscriptions are made.
    fn connected(&self, session_present: bool);

    /// Connected, but the broker did not grant the subscriptions.
    fn subscriptions_refused(&self);

    /// Connected and subscribed, but the broker does not take what the node publishes of itself, for this reason.
    fn publications_refused(&self, reason: &'static str);

    /// There is no connection any more; `reason` is for people.
    fn disconnected(&self, reason: &str);

    /// Another client connects with this node's client identifier, or so it seems.
    fn duplicate_name(&self, times: u32);
}

/// The presence and figures that a connection reports to.
#[derive(Clone)]
pub struct Hooks {
    /// Who is told.
    pub presence: Arc<dyn Presence>,
    /// Figures.
    pub metrics: Metrics,
    /// Beats while the poll task makes progress.
    pub pulse: Arc<Pulse>,
}

impl Hooks {
    pub(super) fn birth(&self) -> Vec<Outgoing> {
        self.presence.birth()
    }

    pub(super) fn connected(&self, session_present: bool) {
        self.metrics.connected();
        self.presence.connected(session_present);
    }

    pub(super) fn subscriptions_refused(&self) {
        self.presence.subscriptions_refused();
    }

    pub(super) fn publications_refused(&self, reason: &'static str) {
        self.presence.publications_refused(reason);
    }

    pub(super) fn dropped(&self) {
        self.metrics.message_dropped("queue_full");
    }
}

/// The link to one broker.
pub struct Link {
    options: ConnectOptions,
    filters: Vec<String>,
    clock: Clock,
    backoff: (Duration, Duration),
    queues: Queues,
    standing: watch::Sender<Option<Standing>>,
}

impl Link {
    /// A link that subscribes to `filters`, its publisher, and the two channels of deliveries: QoS 1 and QoS 0.
    #[must_use]
    pub fn new(
        options: ConnectOptions,
        filters: Vec<String>,
        backoff: (Duration, Duration),
        clock: Clock,
    ) -> (Self, Publisher, mpsc::Receiver<Delivery>, mpsc::Receiver<Delivery>) {
        let (at_least_once, first) = mpsc::channel(AT_LEAST_ONCE_QUEUE);
        let (at_most_once, second) = mpsc::channel(AT_MOST_ONCE_QUEUE);
        let (standing, watching) = watch::channel(None);
        let publisher = Publisher::new(watching);
        let queues = Queues { at_least_once, at_most_once };
        (Self { options, filters, clock, backoff, queues, standing }, publisher, first, second)
    }

    /// Keeps the connection up until `close` is cancelled; then says goodbye and returns. `renew` asks for a new
    /// connection with files read again.
    pub async fn run(self, hooks: Hooks, close: CancellationToken, mut renew: watch::Receiver<u64>) {
        let (shortest, longest) = self.backoff;
        let pauses = || {
            ExponentialBuilder::default()
                .with_min_delay(shortest)
                .with_max_delay(longest)
                .without_max_times()
                .with_jitter()
                .build()
        };
        let mut backoff = pauses();
        let mut taken_over = 0u32;
        let mut dropped_early = 0u32;
        while !close.is_cancelled() {
            let began = Instant::now();
            renew.mark_unchanged();
            let end = self.connect_once(&hooks, &close, &mut renew).await;
            if began.elapsed() >= GOOD_AFTER {
                backoff = pauses();
                taken_over = 0;
                dropped_early = 0;
            }
            let pause = match end {
                End::Closed if close.is_cancelled() => break,
                End::Closed => Duration::ZERO,
                End::TakenOver => {
                    taken_over += 1;
                    hooks.metrics.connection_error();
                    hooks.presence.disconnected("another client took the session over");
                    hooks.presence.duplicate_name(taken_over);
                    let pause = TAKEN_OVER_PAUSE
                        .saturating_mul(1 << taken_over.min(8).saturating_sub(1))
                        .min(longest);
                    pause.mul_f64(0.75 + fastrand::f64() / 2.0)
                }
                End::Overrun => {
                    hooks.metrics.connection_error();
                    hooks.presence.disconnected("the broker sent more than the Receive Maximum allows");
                    backoff.next().unwrap_or(longest)
                }
                End::Failed { reason, stood, dropped } => {
                    hooks.metrics.connection_error();
                    hooks.presence.disconnected(&reason);
                    // Some brokers (Mosquitto before 2.0.12) take a session over without saying so.
                    dropped_early = if stood && dropped { dropped_early + 1 } else { 0 };
                    if dropped_early >= SUSPICIOUS {
                        hooks.presence.duplicate_name(dropped_early);
                    }
                    if stood && began.elapsed() >= GOOD_AFTER {
                        shortest
                    } else {
                        backoff.next().unwrap_or(longest)
                    }
                }
            };
            tokio::select! {
                () = close.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        hooks.metrics.disconnected();
    }

    async fn connect_once(
        &self,
        hooks: &Hooks,
        close: &CancellationToken,
        renew: &mut watch::Receiver<u64>,
    ) -> End {
        let will = hooks.presence.will();
        let qos = if will.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let properties = LastWillProperties {
            delay_interval: None,
            payload_format_indicator: None,
            message_expiry_interval: will.expires_in,
            content_type: Some(will.encoding.content_type().to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let will = LastWill::new(will.topic, will.payload.to_vec(), qos, will.retain, Some(properties));
        let options = match self.build(self.options.clone(), Some(will)).await {
            Ok(options) => options,
            Err(reason) => return End::Failed { reason, stood: false, dropped: false },
        };
        let session = match Session::new(options, self.filters.clone(), self.queues.clone(), hooks.clone()) {
            Ok(session) => session,
            Err(reason) => return End::Failed { reason, stood: false, dropped: false },
        };
        // Ended early to log in anew before the credentials end, or with files that have changed. The broker keeps the
        // session, so nothing is lost.
        let this = close.child_token();
        let run = session.run(&self.standing, this.clone());
        tokio::pin!(run);
        tokio::select! {
            end = &mut run => return end,
            () = self.renewal(renew) => {}
        }
        this.cancel();
        run.await
    }

    /// Resolves when a new connection is due or asked for, and the broker takes what it will be made with. Until then the
    /// present one stays.
    async fn renewal(&self, renew: &mut watch::Receiver<u64>) {
        let mut due = self.options.renew_after().map(|after| Instant::now() + after);
        loop {
            let asked = async {
                if renew.changed().await.is_err() {
                    // Nobody is left who could ask.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = asked => {}
                () = at(due) => due = Some(Instant::now() + RETRY),
            }
            match self.try_out().await {
                Ok(()) => return,
                Err(reason) => tracing::error!(
                    reason,
                    "the files for a new connection cannot be used, or the broker refuses them: the present connection is kept; \
                     mend them and reload"
                ),
            }
        }
    }

    /// Whether the broker takes certificates and credentials as they are now.
    async fn try_out(&self) -> Result<(), String> {
        let options = self.build(self.options.for_trial(), None).await?;
        trial::connect(options, self.options.connect_timeout).await
    }

    /// The library's options, from files as they are now.
    async fn build(&self, options: ConnectOptions, will: Option<LastWill>) -> Result<MqttOptions, String> {
        let now = self.clock.now();
        match tokio::task::spawn_blocking(move || options.build(will, now)).await {
            Ok(Ok(options)) => Ok(options),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
