//! The gate of a running node: credentials, rates, signatures and permissions, as `[auth]` says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ring::digest;

use super::access::{Access, AccessVerifier};
use super::anomaly::{Anomaly, Kind};
use super::authorize::{Judgement, Policies};
use super::jwks::Source;
use super::keys::{KEY_PREFIX, Keys};
use super::nonce::Nonce;
use super::permissions::Permissions;
use super::rate::{Limiter, Rate};
use super::recent::{Freshness, Recent};
use super::signature::{self, Presented, Signed};
use super::token::KeyError;
use super::{ANONYMOUS, Admission, BROKER, Gate, Identified, Identity, Inbox, Shown};
use crate::clock::Timestamp;
use crate::config::AuthMode;
use crate::policy::BundleSource;
use crate::wire::{Code, Fault};

/// Tokens whose verification is remembered.
const CACHED_TOKENS: usize = 4_096;

/// What the configuration says.
pub struct Settings {
    /// Who may command the node.
    pub mode: AuthMode,
    /// What those may do who show nothing, with [`AuthMode::Broker`].
    pub broker_permissions: Permissions,
    /// Which tokens are believed.
    pub verifier: AccessVerifier,
    /// The issuer of those tokens, which is part of a principal.
    pub issuer: String,
    /// Each principal's rate.
    pub rate: Rate,
    /// The rate of those who show nothing; `None` for no limit.
    pub broker_rate: Option<Rate>,
    /// The rate of all together; `None` for no limit.
    pub node_rate: Option<Rate>,
    /// The rate of messages without good credentials.
    pub unknown_rate: Rate,
    /// How long who does not heed a limit is refused altogether.
    pub cooldown: Duration,
    /// How long who stands out is refused altogether; zero for never.
    pub anomaly_cooldown: Duration,
    /// Where further trusted keys are published.
    pub jwks: Option<Source>,
    /// Where policies are read from.
    pub policy_source: Option<BundleSource>,
    /// What else has to be fulfilled.
    pub policies: Option<Policies>,
}

/// Settings, and what was made of them.
struct Present {
    settings: Settings,
    broker: Arc<Identity>,
    anyone: Arc<Identity>,
    cache: Mutex<HashMap<[u8; 32], Believed>>,
}

/// A token that was verified.
#[derive(Clone)]
struct Believed {
    identity: Arc<Identity>,
    from: i64,
    until: i64,
}

/// The gate.
pub struct Guard {
    keys: Arc<Keys>,
    limiter: Limiter,
    recent: Recent,
    present: RwLock<Arc<Present>>,
}

impl Guard {
    /// A gate with these settings.
    #[must_use]
    pub fn new(keys: Arc<Keys>, settings: Settings) -> Self {
        keys.set_usual_rate(settings.rate.per_minute);
        let present = RwLock::new(Arc::new(Present::new(settings)));
        Self { keys, limiter: Limiter::default(), recent: Recent::default(), present }
    }

    /// Takes other settings from now on. What was verified with the old ones is verified again.
    pub fn change(&self, settings: Settings) {
        self.keys.set_usual_rate(settings.rate.per_minute);
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Present::new(settings));
    }

    /// Who may command the node.
    #[must_use]
    pub fn mode(&self) -> AuthMode {
        self.present().settings.mode
    }

    /// Where further trusted keys are published.
    #[must_use]
    pub fn jwks(&self) -> Option<Source> {
        self.present().settings.jwks.clone()
    }

    /// Where policies are read from.
    #[must_use]
    pub fn policy_source(&self) -> Option<BundleSource> {
        self.present().settings.policy_source.clone()
    }

    /// Trusts the keys of this JWKS in the place of those that were fetched before; whether they are other ones. What was
    /// verified before is verified again then. A JWKS from elsewhere than the present settings say changes nothing.
    ///
    /// # Errors
    /// When it is no JWKS with a key of a kind that is trusted.
    pub fn trust(&self, from: &Source, jwks: &str) -> Result<bool, KeyError> {
        let present = self.present();
        if present.settings.jwks.as_ref().is_none_or(|source| source.url != from.url) {
            return Ok(false);
        }
        let changed = present.settings.verifier.fetched(jwks)?;
        if changed {
            present.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Ok(changed)
    }

    fn present(&self) -> Arc<Present> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes one message of someone unknown into account.
    fn charge(&self, settings: &Settings) -> Result<(), Fault> {
        self.limiter.admit_unknown(settings.unknown_rate).map_err(rate_limited)
    }

    fn bearer(&self, present: &Present, shown: &str, now: Timestamp) -> Result<Arc<Identity>, Fault> {
        let token = match shown.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => token.trim_ascii(),
            _ => shown,
        };
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some(identity) = self.keys.by_hash(&fingerprint, now) {
            return Ok(identity);
        }
        if let Some(identity) = present.recall(&fingerprint, now) {
            return Ok(identity);
        }
        self.charge(&present.settings)?;
        if token.starts_with(KEY_PREFIX) {
            return Err(unauthenticated("the API key is unknown, revoked or has expired"));
        }
        let access = present
            .settings
            .verifier
            .verify(token, now)
            .map_err(|error| unauthenticated(&error.to_string()))?;
        Ok(present.remember(fingerprint, access, now))
    }

    fn signed(&self, present: &Present, shown: &Shown<'_>, signature: &str) -> Result<Identified, Fault> {
        let credentials = shown.credentials;
        let checked =
            Presented::read(signature, credentials.signed_at.as_deref(), credentials.nonce.as_deref())
                .and_then(|presented| {
                    let (id, identity, key) =
                        self.keys.by_id(presented.key_id, shown.now).ok_or_else(|| {
                            signature::invalid("the signing key is unknown, revoked or has expired")
                        })?;
                    let signed = Signed {
                        key_id: presented.key_id,
                        message_id: shown.message_id,
                        topic: shown.topic,
                        reply_to: shown.reply_to,
                        signed_at: presented.signed_at,
                        nonce: presented.nonce,
                        payload: shown.payload.bytes(),
                    };
                    signed.verify(&key, &presented.tag)?;
                    let nonce =
                        Nonce { key_id: id, value: presented.nonce.to_owned(), signed_at: presented.at };
                    let freshness = self.recent.judge(&nonce, shown.now);
                    if freshness != Freshness::Stale {
                        self.keys.used(&nonce.key_id, shown.now);
                    }
                    Ok(Identified { identity, nonce: Some(nonce), freshness })
                });
        if checked.is_err() {
            self.charge(&present.settings)?;
        }
        let identified = checked?;
        // What is shown besides must be good as well: nobody signs for a token that would be refused.
        if let Some(token) = &credentials.authorization {
            let bearer = self.bearer(present, token, shown.now)?;
            if !bearer.permissions.allow(shown.topic) {
                return Err(forbidden());
            }
        }
        Ok(identified)
    }
}

impl Gate for Guard {
    fn identify(&self, shown: &Shown<'_>) -> Result<Identified, Fault> {
        let present = self.present();
        if present.settings.mode == AuthMode::Open {
            return Ok(present.anyone.clone().into());
        }
        let credentials = shown.credentials;
        if let Some(signature) = &credentials.signature {
            return self.signed(&present, shown, signature);
        }
        if let Some(token) = &credentials.authorization {
            return self.bearer(&present, token, shown.now).map(Into::into);
        }
        if present.settings.mode == AuthMode::Broker {
            return Ok(present.broker.clone().into());
        }
        self.charge(&present.settings)?;
        Err(unauthenticated("this node takes commands with a JWT, an API key or a signature alone"))
    }

    fn admit(&self, admission: &Admission<'_>) -> Result<(), Fault> {
        let present = self.present();
        let settings = &present.settings;
        if settings.mode == AuthMode::Open {
            return Ok(());
        }
        let Identified { identity, nonce, freshness } = admission.asker;
        if let Some(nonce) = nonce
            && *freshness == Freshness::Stale
        {
            // Whoever has heard the command can send it again: its owner does not pay for that.
            self.charge(settings)?;
            signature::in_time(nonce.signed_at, admission.now)?;
            return permitted(identity, admission.topic);
        }
        let rate = if Arc::ptr_eq(identity, &present.broker) || &*identity.principal == BROKER {
            settings.broker_rate
        } else {
            let per_minute = identity.rate_per_min.unwrap_or(settings.rate.per_minute);
            Some(Rate { per_minute, burst: settings.rate.burst })
        };
        // Who was told to wait with this very command may send it again, and may be another who has heard it.
        let cooldown = if *freshness == Freshness::Fresh { settings.cooldown } else { Duration::ZERO };
        let admitted = self.limiter.admit(&identity.principal, rate, settings.node_rate, cooldown);
        if let Some(nonce) = nonce {
            self.recent.remember(nonce, admitted.is_ok(), admission.now);
        }
        admitted.map_err(rate_limited)?;
        if nonce.is_none() && admission.declaration.sensitive {
            return Err(signature::invalid("this command must be signed with an API key"));
        }
        permitted(identity, admission.topic)
    }

    fn judge(&self, admission: &Admission<'_>) -> Judgement {
        let present = self.present();
        let settings = &present.settings;
        if settings.mode == AuthMode::Open {
            return Judgement::Unasked;
        }
        settings.policies.as_ref().map_or(Judgement::Unasked, |policies| policies.judge(admission))
    }

    fn stands_out(&self, anomaly: &Anomaly) -> bool {
        let cooldown = self.present().settings.anomaly_cooldown;
        // Those whom nobody can tell apart are not punished for each other, nor anyone for what others heard and sent again.
        let its_own = ![ANONYMOUS, BROKER].contains(&&*anomaly.principal) && anomaly.kind != Kind::Replay;
        if its_own && !cooldown.is_zero() {
            self.limiter.cool(&anomaly.principal, cooldown);
        }
        its_own && !cooldown.is_zero()
    }

    fn stands(&self, asker: &Identified, now: Timestamp) -> bool {
        asker.identity.key.as_ref().is_none_or(|key| self.keys.is_in_force(key, now))
    }
}

impl Present {
    fn new(settings: Settings) -> Self {
        let broker = Identity::unknown(BROKER, settings.broker_permissions.clone());
        Self { settings, broker, anyone: Identity::anyone(), cache: Mutex::default() }
    }

    fn recall(&self, fingerprint: &[u8; 32], now: Timestamp) -> Option<Arc<Identity>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = cache.get(fingerprint)?;
        (believed.from..believed.until).contains(&now.millis()).then(|| believed.identity.clone())
    }

    fn remember(&self, fingerprint: [u8; 32], access: Access, now: Timestamp) -> Arc<Identity> {
        let Access { subject, permissions, from, until } = access;
        let identity = Arc::new(Identity {
            // The issuer has no space, so that no two pairs of issuer and subject are written alike.
            principal: format!("{} {subject}", self.settings.issuer).into(),
            inbox: Inbox::named(&subject),
            permissions,
            rate_per_min: None,
            key: None,
        });
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_TOKENS {
            cache.retain(|_, believed| believed.until > now.millis());
        }
        if cache.len() >= CACHED_TOKENS {
            // Whichever: one that is still shown is verified and comes back.
            let victim = cache.keys().next().copied();
            victim.and_then(|victim| cache.remove(&victim));
        }
        cache.insert(fingerprint, Believed { identity: identity.clone(), from, until });
        identity
    }
}

fn unauthenticated(message: &str) -> Fault {
    Fault::new(Code::Unauthenticated, message)
}

fn permitted(identity: &Identity, topic: &str) -> Result<(), Fault> {
    if identity.permissions.allow(topic) { Ok(()) } else { Err(forbidden()) }
}

fn forbidden() -> Fault {
    Fault::new(Code::Forbidden, "no permission of the asker matches this topic")
}

fn rate_limited(wait: Duration) -> Fault {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Fault::new(Code::RateLimited, "too many commands").retry_after(millis.max(1))
}
