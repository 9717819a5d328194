//! API keys: made, listed, rotated and revoked by commands, and known by heart while the node runs.
//!
//! A key is `orchd_`, its id (12 hexadecimal digits, no secret), `_`, and 64 hexadecimal digits that stand for 256 random
//! bits. It is shown once. The ledger has its SHA-256, by which it is found, and the key itself sealed under the node key,
//! because signatures are made with it. What is revoked is forgotten before the command that revoked it is answered.

mod grant;
mod model;
mod store;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};

use grant::{Grant, earlier};
pub use model::KEY_PREFIX;
use model::{Create, History, KeyList, ListKeys, Made, Revoked, Rotate, Which};
use store::KeyRow;

use super::anomaly::DORMANT_MILLIS;
use super::permissions::Permissions;
use super::seal::Seal;
use super::{ANONYMOUS, Identity, Inbox, LOCAL, SECURITY_LOG};
use crate::clock::Timestamp;
use crate::engine::command::{Answer, Call, Entry, SecretAnswer};
use crate::ledger::{Ledger, Unit};
use crate::wire::{Code, Fault, Secret};

const SERVICE: &str = "node";

/// What keys are sealed for.
const PURPOSE: &str = "api key";

/// Keys that a node knows at most.
const MAX_KEYS: usize = 100_000;

/// Keys whose use is written down in one unit.
const TOUCH_BATCH: usize = 500;

/// A key that is not revoked. It may have expired.
struct ApiKey {
    id: Arc<str>,
    identity: Arc<Identity>,
    hash: [u8; 32],
    /// `None` when it was sealed with another node key: then it does not sign.
    signing: Option<hmac::Key>,
    expires_at: Option<i64>,
}

impl ApiKey {
    fn is_valid(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now.millis() < end)
    }
}

#[derive(Default)]
struct Known {
    by_id: HashMap<Arc<str>, Arc<ApiKey>>,
    by_hash: HashMap<[u8; 32], Arc<ApiKey>>,
}

/// The keys of a node.
pub struct Keys {
    ledger: Ledger,
    seal: Arc<Seal>,
    known: RwLock<Known>,
    used: Mutex<HashMap<Arc<str>, i64>>,
    /// Commands in a minute of a key without a limit of its own.
    usual_rate: AtomicU32,
}

/// A new key: what the ledger keeps of it, and its text.
struct Fresh {
    row: KeyRow,
    text: String,
}

/// Who a key of this lineage stands for.
fn principal(lineage: &str) -> Arc<str> {
    format!("key:{lineage}").into()
}

impl Keys {
    /// Reads all keys. Blocks for as long as that takes.
    ///
    /// # Errors
    /// What the ledger says.
    pub fn open(ledger: Ledger, seal: Arc<Seal>) -> Result<Self, Fault> {
        let rows = ledger.read_blocking(store::all)?;
        let keys = Self {
            ledger,
            seal,
            known: RwLock::default(),
            used: Mutex::default(),
            usual_rate: AtomicU32::new(0),
        };
        for row in &rows {
            let key = keys.ready(row);
            if key.signing.is_none() {
                tracing::error!(
                    target: SECURITY_LOG,
                    key = row.id,
                    "this key cannot sign: the node key is not the one that it was sealed with"
                );
            }
            keys.learn(key);
        }
        Ok(keys)
    }

    /// Says how many commands in a minute a key without a limit of its own may give. Until then such a key may give no rate on.
    pub(super) fn set_usual_rate(&self, per_minute: u32) {
        self.usual_rate.store(per_minute, Ordering::Relaxed);
    }

    /// Who has the key with this hash; `None` when there is none that is valid at `now`.
    pub(super) fn by_hash(&self, hash: &[u8; 32], now: Timestamp) -> Option<Arc<Identity>> {
        let key = self.known().by_hash.get(hash).filter(|key| key.is_valid(now))?.clone();
        self.used(&key.id, now);
        Some(key.identity.clone())
    }

    /// Id, owner and signing key of the key with this id; `None` when there is none that is valid at `now`. Anyone can name an
    /// id: the key is used only by a signature that is right.
    pub(super) fn by_id(&self, id: &str, now: Timestamp) -> Option<(Arc<str>, Arc<Identity>, hmac::Key)> {
        let key = self.known().by_id.get(id).filter(|key| key.is_valid(now))?.clone();
        let signing = key.signing.clone()?;
        Some((key.id.clone(), key.identity.clone(), signing))
    }

    /// Whether there is a key with this id that is valid at `now`.
    pub(super) fn is_in_force(&self, id: &str, now: Timestamp) -> bool {
        self.known().by_id.get(id).is_some_and(|key| key.is_valid(now))
    }

    /// The key with this id was used.
    pub(super) fn used(&self, id: &Arc<str>, now: Timestamp) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), now.millis());
    }

    /// When the key that ends first ends, of those that are valid at `now`.
    #[must_use]
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let known = self.known();
        let ends = known.by_id.values().filter_map(|key| key.expires_at).filter(|end| *end > now.millis());
        ends.min().map(Timestamp::from_millis)
    }

    /// Writes down which keys were used since the last time; the principals whose key nobody had used for long before.
    pub async fn write_down_use(&self) -> Vec<Arc<str>> {
        let used: Vec<(String, i64)> = {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.drain().map(|(id, at)| (id.as_ref().to_owned(), at)).collect()
        };
        let mut dormant = Vec::new();
        for batch in used.chunks(TOUCH_BATCH) {
            let batch = batch.to_vec();
            match self.ledger.write(move |unit| store::touch(unit, &batch, DORMANT_MILLIS)).await {
                Ok(lineages) => dormant.extend(lineages.iter().map(|lineage| principal(lineage))),
                Err(error) => tracing::debug!(%error, "the use of keys could not be written down"),
            }
        }
        dormant
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, key: ApiKey) {
        let key = Arc::new(key);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.by_hash.insert(key.hash, key.clone());
        known.by_id.insert(key.id.clone(), key);
    }

    fn forget(&self, ids: &[String]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if let Some(key) = known.by_id.remove(id.as_str()) {
                known.by_hash.remove(&key.hash);
            }
        }
    }

    fn ready(&self, row: &KeyRow) -> ApiKey {
        let text = self.seal.open(PURPOSE, &row.sealed).ok();
        let id: Arc<str> = row.id.as_str().into();
        ApiKey {
            id: id.clone(),
            identity: Arc::new(Identity {
                principal: principal(&row.lineage),
                inbox: Inbox::named(&row.name),
                // What cannot be understood allows nothing.
                permissions: Permissions::new(row.permissions.clone()).unwrap_or_default(),
                rate_per_min: row.rate_per_min,
                key: Some(id),
            }),
            hash: row.hash,
            signing: text.map(|text| hmac::Key::new(hmac::HMAC_SHA256, &text)),
            expires_at: row.expires_at,
        }
    }

    /// A key with a random text; `lineage` where it continues one.
    fn make(&self, create: &Create, lineage: Option<&str>, call: &Call) -> Result<Fresh, Fault> {
        let (mut id, mut secret) = ([0; 6], [0; 32]);
        let random = SystemRandom::new();
        random.fill(&mut id).and_then(|()| random.fill(&mut secret)).map_err(|_| no_randomness())?;
        let id = hex::encode(id);
        let text = format!("{KEY_PREFIX}{id}_{}", hex::encode(secret));
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        let life = create.expires_in_s.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        let row = KeyRow {
            lineage: lineage.unwrap_or(&id).to_owned(),
            id,
            name: create.name.clone(),
            hash,
            sealed: self.seal.seal(PURPOSE, text.as_bytes()).map_err(|_| no_randomness())?,
            permissions: create.permissions.clone(),
            rate_per_min: create.rate_per_min,
            created_at: call.received.millis(),
            created_by: call.principal.to_string(),
            expires_at: life.map(|life| call.received.plus_millis(life.saturating_mul(1_000)).millis()),
            replaced_by: None,
            revoked_at: None,
            revoked_by: None,
            last_used_at: None,
        };
        Ok(Fresh { row, text })
    }

    /// The key that bounds what the asker may give: the one that the command was signed with. `None` for the node's own
    /// command line, and for everyone where the gate is open.
    fn bound(&self, call: &Call) -> Result<Option<Arc<ApiKey>>, Fault> {
        if [LOCAL, ANONYMOUS].contains(&&*call.principal) {
            return Ok(None);
        }
        let own = call.signed_with.as_ref().and_then(|id| self.known().by_id.get(id).cloned());
        own.map(Some)
            .ok_or_else(|| Fault::new(Code::Forbidden, "only who signs with a key may do this to keys"))
    }

    fn rate(&self, own: Option<u32>) -> u32 {
        own.unwrap_or_else(|| self.usual_rate.load(Ordering::Relaxed))
    }

    fn grant<'a>(&self, key: &'a ApiKey) -> Grant<'a> {
        let identity = &key.identity;
        Grant {
            permissions: &identity.permissions,
            rate_per_min: self.rate(identity.rate_per_min),
            expires_at: key.expires_at,
        }
    }

    /// The answer that gives `fresh` out, its text sealed.
    fn answer(&self, fresh: &Fresh) -> Result<SecretAnswer<Made>, Fault> {
        let made = Made {
            id: fresh.row.id.clone(),
            name: fresh.row.name.clone(),
            key: None,
            expires: fresh.row.expires_at.map(Timestamp::from_millis),
            replaces: None,
            grace_until: None,
        };
        Ok(SecretAnswer { body: made, secret: Secret::new(&self.seal, "key", &fresh.text)? })
    }
}

fn no_randomness() -> Fault {
    tracing::error!("the system has no randomness for a key");
    Fault::internal()
}

/// Says in the security log what became of a key.
fn report(what: &'static str, ids: &[String], by: &str) {
    tracing::info!(target: SECURITY_LOG, keys = ?ids, by, "{what}");
}

/// The commands about keys.
pub fn commands() -> Vec<Entry<Keys>> {
    vec![
        Entry::write_secret(SERVICE, "keys/create", "Makes an API key and shows it this once", create)
            .sensitive(),
        Entry::write_secret(
            SERVICE,
            "keys/rotate",
            "Replaces an API key by a new one with the same rights; the old one stays valid for a while",
            rotate,
        )
        .sensitive(),
        Entry::write(
            SERVICE,
            "keys/revoke",
            "Ends an API key for good, and with it those that it has replaced or was replaced by",
            |keys: &Arc<Keys>, call, request: Which| {
                let (keys, by, own) = (keys.clone(), call.principal.clone(), keys.bound(call)?);
                Ok(move |unit: &mut Unit<'_>| {
                    let row = store::find(unit, &request.key)?;
                    let allowed = Permissions::new(row.permissions).unwrap_or_default();
                    if own.as_ref().is_some_and(|own| !own.identity.permissions.cover(&allowed)) {
                        let message = "a key that allows more than the asker may do is not theirs to revoke";
                        return Err(Fault::new(Code::Forbidden, message));
                    }
                    let revoked = store::revoke(unit, &row.lineage, &by)?;
                    if revoked.is_empty() {
                        return Err(Fault::new(Code::Conflict, "the key has been revoked"));
                    }
                    let (keys, ids, by) = (keys.clone(), revoked.clone(), by.clone());
                    unit.after_commit(move || {
                        keys.forget(&ids);
                        report("API keys were revoked", &ids, &by);
                    });
                    Ok(Revoked { revoked })
                })
            },
        )
        .sensitive()
        .when_full(),
        Entry::read(
            SERVICE,
            "keys/list",
            "Lists API keys, without their secrets",
            |keys: Arc<Keys>, _, request: ListKeys| async move {
                if !(1..=500).contains(&request.limit) {
                    return Err(Fault::invalid("limit must be from 1 to 500"));
                }
                let now = keys.ledger.clock().now();
                let rows = keys
                    .ledger
                    .read(move |connection| store::list(connection, &request.after, request.limit))
                    .await?;
                Ok(Answer::from(KeyList { keys: rows.into_iter().map(|row| row.info(now)).collect() }))
            },
        )
        .sensitive(),
        Entry::read(
            SERVICE,
            "keys/show",
            "Shows an API key and its history, without secrets",
            |keys: Arc<Keys>, _, request: Which| async move {
                let now = keys.ledger.clock().now();
                let rows = keys
                    .ledger
                    .read(move |connection| {
                        let row = store::find(connection, &request.key)?;
                        store::lineage(connection, &row.lineage)
                    })
                    .await?;
                Ok(Answer::from(History { keys: rows.into_iter().map(|row| row.info(now)).collect() }))
            },
        )
        .sensitive(),
    ]
}

type Making = Box<dyn FnMut(&mut Unit<'_>) -> Result<SecretAnswer<Made>, Fault> + Send>;

fn create(keys: &Arc<Keys>, call: &Call, mut request: Create) -> Result<Making, Fault> {
    let permissions = request.check()?;
    let own = keys.bound(call)?;
    // What is not said is as the asker has it.
    request.rate_per_min = request.rate_per_min.or(own.as_ref().and_then(|own| own.identity.rate_per_min));
    if keys.known().by_id.len() >= MAX_KEYS {
        return Err(Fault::new(Code::Conflict, "the node has as many keys as it can; revoke some"));
    }
    let mut fresh = keys.make(&request, None, call)?;
    if let Some(own) = own {
        fresh.row.expires_at = fresh.row.expires_at.or(own.expires_at);
        let (rate_per_min, expires_at) = (keys.rate(fresh.row.rate_per_min), fresh.row.expires_at);
        Grant { permissions: &permissions, rate_per_min, expires_at }.is_within(&keys.grant(&own))?;
    }
    let answer = keys.answer(&fresh)?;
    let (keys, by) = (keys.clone(), call.principal.clone());
    Ok(Box::new(move |unit| {
        store::insert(unit, &fresh.row)?;
        let (keys, key, by) = (keys.clone(), keys.ready(&fresh.row), by.clone());
        let ids = vec![fresh.row.id.clone()];
        unit.after_commit(move || {
            keys.learn(key);
            report("an API key was made", &ids, &by);
        });
        Ok(answer.clone())
    }))
}

fn rotate(keys: &Arc<Keys>, call: &Call, request: Rotate) -> Result<Making, Fault> {
    request.check()?;
    let (keys, call, own) = (keys.clone(), call.clone(), keys.bound(call)?);
    Ok(Box::new(move |unit| {
        let mut old = store::find(unit, &request.key)?;
        if old.replaced_by.is_some() || !old.is_valid(unit.now().millis()) {
            return Err(Fault::new(Code::Conflict, "only a key in force can be rotated"));
        }
        if let Some(own) = &own {
            keys.grant(&keys.ready(&old)).is_within(&keys.grant(own))?;
        }
        let like = Create {
            name: old.name.clone(),
            permissions: old.permissions.clone(),
            rate_per_min: old.rate_per_min,
            expires_in_s: None,
        };
        let mut fresh = keys.make(&like, Some(&old.lineage), &call)?;
        // The new one is valid for as long as the old one was made for, counted from now, and no longer than the asker's
        // key: one that rotates itself keeps its end.
        let life = old.expires_at.map(|end| end.saturating_sub(old.created_at));
        let end = life.map(|life| unit.now().plus_millis(life).millis());
        fresh.row.expires_at = earlier(end, own.as_ref().and_then(|own| own.expires_at));
        let grace = i64::try_from(request.grace_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let grace_until = unit.now().plus_millis(grace).millis();
        let end = old.expires_at.map_or(grace_until, |end| end.min(grace_until));
        store::replace(unit, &old.id, &fresh.row.id, end)?;
        store::insert(unit, &fresh.row)?;
        old.expires_at = Some(end);
        let mut answer = keys.answer(&fresh)?;
        answer.body.replaces = Some(old.id.clone());
        answer.body.grace_until = Some(Timestamp::from_millis(end));
        let ids = vec![old.id.clone(), fresh.row.id.clone()];
        let (learned, by) = ([keys.ready(&old), keys.ready(&fresh.row)], call.principal.clone());
        let keys = keys.clone();
        unit.after_commit(move || {
            learned.into_iter().for_each(|key| keys.learn(key));
            report("an API key was rotated", &ids, &by);
        });
        Ok(answer)
    }))
}
