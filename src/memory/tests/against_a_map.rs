//! Whatever is done in whatever order, memory holds what a plain map would: stores, updates, forgetting, pins, pruning,
//! queries, crashes and replays.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::memory::index::Shard;
use crate::memory::model::Record;
use crate::memory::requests::Update;

/// One thing that is done. Records are chosen by their number among all that there ever were.
#[derive(Clone, Debug)]
enum Deed {
    Store {
        layer: Layer,
        word: &'static str,
        namespace: &'static str,
        importance: f64,
        pinned: bool,
        ends: bool,
    },
    Update(usize, &'static str),
    Forget(usize),
    Undo(usize),
    Purge(usize),
    Pin(usize, bool),
    Days(i64),
    Prune,
    Query {
        layer: Option<Layer>,
        namespace: Option<&'static str>,
        word: Option<&'static str>,
    },
    /// The files as they are at this moment, opened anew.
    Crash,
    /// As a crash, and the index is gone too.
    CrashWithoutIndex,
}

const WORDS: [&str; 3] = ["fox", "hen", "owl"];
const NAMESPACES: [&str; 2] = ["a", "b"];

fn deed() -> impl Strategy<Value = Deed> {
    let layer = || prop::sample::select(Layer::ALL.to_vec());
    let word = || prop::sample::select(WORDS.to_vec());
    let namespace = || prop::sample::select(NAMESPACES.to_vec());
    let store =
        (layer(), word(), namespace(), prop::bool::ANY, prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    prop_oneof![
        8 => store.prop_map(|(layer, word, namespace, matters, pinned, ends)| {
            Deed::Store { layer, word, namespace, importance: if matters { 0.9 } else { 0.3 }, pinned, ends }
        }),
        2 => (0..40_usize, word()).prop_map(|(which, word)| Deed::Update(which, word)),
        2 => (0..40_usize).prop_map(Deed::Forget),
        1 => (0..40_usize).prop_map(Deed::Undo),
        1 => (0..40_usize).prop_map(Deed::Purge),
        1 => (0..40_usize, any::<bool>()).prop_map(|(which, pinned)| Deed::Pin(which, pinned)),
        3 => (1..40_i64).prop_map(Deed::Days),
        2 => Just(Deed::Prune),
        2 => (prop::option::of(layer()), prop::option::of(namespace()), prop::option::of(word()))
            .prop_map(|(layer, namespace, word)| Deed::Query { layer, namespace, word }),
        1 => Just(Deed::Crash),
        1 => Just(Deed::CrashWithoutIndex),
    ]
}

/// The map, and the order in which its records came.
#[derive(Default)]
struct Map {
    records: BTreeMap<String, (Record, Option<Timestamp>)>,
    order: Vec<String>,
    pruned: Option<Timestamp>,
}

impl Map {
    fn id(&self, which: usize) -> String {
        self.order.get(which).cloned().unwrap_or_else(|| "nobody".into())
    }

    /// The record, if it is in answers.
    fn live(&mut self, id: &str, now: Timestamp) -> Option<&mut Record> {
        let (record, forgotten) = self.records.get_mut(id)?;
        (forgotten.is_none() && record.is_live(now)).then_some(record)
    }

    fn found(&self, now: Timestamp, wanted: impl Fn(&Record) -> bool) -> BTreeSet<String> {
        let live =
            self.records.values().filter(|(record, forgotten)| forgotten.is_none() && record.is_live(now));
        live.filter(|(record, _)| wanted(record)).map(|(record, _)| record.id.clone()).collect()
    }

    fn prune(&mut self, retention: &Retention, now: Timestamp) {
        for (record, forgotten) in self.records.values_mut() {
            if forgotten.is_none() && retention.promotes(record, now, retention.horizon()) {
                record.layer = Layer::LongTerm;
            }
        }
        let by = retention.believed(self.pruned.replace(now), now);
        // A month all of which is too old goes as a whole, with what is forgotten in it, unless something is pinned.
        let pinned: BTreeSet<_> = self
            .records
            .values()
            .filter(|(record, forgotten)| record.pinned && forgotten.is_none())
            .map(|(record, _)| Shard::of(record.layer, record.created))
            .collect();
        self.records.retain(|_, (record, forgotten)| {
            let shard = Shard::of(record.layer, record.created);
            let cutoff = retention.cutoff(record.layer, now);
            let dropped = cutoff.is_some_and(|cutoff| shard.span().1 <= cutoff) && !pinned.contains(&shard);
            let too_old = cutoff.is_some_and(|cutoff| record.created < cutoff);
            match forgotten {
                Some(since) => !dropped && since.plus_millis(7 * 86_400_000) > by,
                None => record.pinned || !too_old && record.is_live(now),
            }
        });
    }
}

fn copy(from: &Path, to: &Path, without: &str) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if name == without || name == "lock" {
            continue;
        }
        if path.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&path).unwrap(), to.join(name)).unwrap();
        } else if path.is_dir() {
            copy(&path, &to.join(name), without);
        } else {
            match std::fs::copy(&path, to.join(name)) {
                // The index replaces its files meanwhile, as it would before a crash.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

impl Node {
    fn crash(self, without: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(self.dir.path(), dir.path(), without);
        let now = self.now.clone();
        self.memory.close();
        self.ledger.close();
        drop(self);
        let (ledger, memory) = open(dir.path(), &now, settings());
        Self { dir, now, ledger, memory }
    }
}

fn settings() -> Config {
    Config { retention: Retention { max_share: 1.0, ..Retention::default() }, ..lazy() }
}

/// The ids of all that is found; once the index is whole where it was not.
async fn ids(node: &Node, json: serde_json::Value) -> BTreeSet<String> {
    let mut found = node.query(json.clone()).await;
    while found.partial {
        node.whole().await;
        found = node.query(json.clone()).await;
    }
    assert!(found.broken.is_empty() && found.cursor.is_none());
    found.hits.into_iter().map(|hit| hit.record.id).collect()
}

async fn play(deeds: Vec<Deed>) {
    let mut node = Node::new(settings());
    let retention = settings().retention;
    let mut map = Map::default();
    for deed in deeds {
        let now = node.ledger.clock().now();
        match deed {
            Deed::Store { layer, word, namespace, importance, pinned, ends } => {
                let expires = ends.then(|| now.plus_millis(5 * 86_400_000));
                let store = Store {
                    layer,
                    namespace: namespace.into(),
                    importance,
                    pinned,
                    expires,
                    ..Store::new(word)
                };
                let id = node.store_request(store).await.id;
                let record = node.get(&id).await.unwrap().record;
                assert_eq!((record.content.as_str(), record.layer, record.created), (word, layer, now));
                map.order.push(id.clone());
                map.records.insert(id, (record, None));
            }
            Deed::Update(which, word) => {
                let id = map.id(which);
                let request = Update { id: id.clone(), content: Some(word.into()), ..Update::default() };
                let memory = node.memory.clone();
                let updated = node.ledger.write(move |unit| memory.update(unit, &request, "tester")).await;
                let record = map.live(&id, now);
                assert_eq!(updated.is_ok(), record.is_some(), "{updated:?}");
                if let Some(record) = record {
                    record.content = word.into();
                    record.checksum = model::checksum(word);
                    record.source = Some("tester".into());
                    record.version += 1;
                    record.updated = Some(now);
                }
            }
            Deed::Forget(which) => {
                let id = map.id(which);
                let forgotten = node.forget(&id).await;
                let kept = map.records.get_mut(&id).filter(|(_, forgotten)| forgotten.is_none());
                assert_eq!(forgotten.is_ok(), kept.is_some(), "{forgotten:?}");
                kept.into_iter().for_each(|(_, forgotten)| *forgotten = Some(now));
            }
            Deed::Undo(which) => {
                let id = map.id(which);
                let undone = node.forget_request(Forget { id: id.clone(), undo: true, purge: false }).await;
                let kept = map.records.get_mut(&id).filter(|(_, forgotten)| forgotten.is_some());
                assert_eq!(undone.is_ok(), kept.is_some(), "{undone:?}");
                kept.into_iter().for_each(|(_, forgotten)| *forgotten = None);
            }
            Deed::Purge(which) => {
                let id = map.id(which);
                let purged = node.purge(&id).await;
                assert_eq!(purged.is_ok(), map.records.remove(&id).is_some(), "{purged:?}");
            }
            Deed::Pin(which, pinned) => {
                let (memory, id) = (node.memory.clone(), map.id(which));
                let request = Pin { id: id.clone(), pinned };
                let done = node.ledger.write(move |unit| memory.pin(unit, &request)).await;
                let record = map.live(&id, now);
                assert_eq!(done.is_ok(), record.is_some(), "{done:?}");
                record.into_iter().for_each(|record| record.pinned = pinned);
            }
            Deed::Days(days) => node.now.store(now.plus_millis(days * 86_400_000).millis(), Ordering::SeqCst),
            Deed::Prune => {
                let (progress, _, _) = Progress::new();
                node.memory.prune(&Prune::default(), None, &progress).await.unwrap();
                map.prune(&retention, now);
            }
            Deed::Query { layer, namespace, word } => {
                let layers: Vec<_> = layer.into_iter().collect();
                let json = serde_json::json!({
                    "layers": layers, "namespace": namespace, "text": word, "limit": 100, "consistency": "latest",
                });
                let expected = map.found(now, |record| {
                    layer.is_none_or(|layer| record.layer == layer)
                        && namespace.is_none_or(|namespace| record.namespace == namespace)
                        && word.is_none_or(|word| record.content == word)
                });
                assert_eq!(ids(&node, json).await, expected);
            }
            Deed::Crash => node = node.crash("nothing"),
            Deed::CrashWithoutIndex => node = node.crash(INDEX_FOLDER),
        }
    }
    let now = node.ledger.clock().now();
    let everything = serde_json::json!({ "limit": 100, "consistency": "latest" });
    assert_eq!(ids(&node, everything).await, map.found(now, |_| true));
    for (id, (record, forgotten)) in &map.records {
        match node.get(id).await {
            Ok(got) => assert_eq!((&got.record, forgotten), (record, &None)),
            Err(fault) => {
                assert_eq!(fault.code, Code::NotFound);
                assert!(forgotten.is_some() || !record.is_live(now), "{record:?}");
            }
        }
    }
    let stats = node.memory.stats().await.unwrap();
    let kept = stats.layers.iter().map(|layer| (layer.records, layer.forgotten, layer.pinned));
    let kept = kept.fold((0, 0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1, sum.2 + layer.2));
    let count = |wanted: &dyn Fn(&Record, bool) -> bool| {
        map.records.values().filter(|(record, forgotten)| wanted(record, forgotten.is_some())).count() as u64
    };
    let expected = (
        count(&|_, forgotten| !forgotten),
        count(&|_, forgotten| forgotten),
        count(&|record, forgotten| record.pinned && !forgotten),
    );
    assert_eq!(kept, expected, "the counters");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn memory_holds_what_a_plain_map_would(deeds in prop::collection::vec(deed(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(deeds));
    }
}
