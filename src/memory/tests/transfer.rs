//! Export, import and archive: everything comes back, nothing twice, and no path leads out of the folder.

use super::*;
use crate::memory::transfer::requests::{Archived, Exported, Imported};
use crate::soul;

const ID: &str = "0192d3a0-0000-7000-8000-00000000abcd";

/// A memory with a transfer folder beside its state.
fn node_with_folder() -> (tempfile::TempDir, Node) {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(Config { transfer_dir: Some(folder.path().to_owned()), ..lazy() });
    (folder, node)
}

impl Node {
    async fn export(&self, json: serde_json::Value) -> Result<Exported, Fault> {
        let (progress, _, _) = Progress::new();
        self.memory.export(&serde_json::from_value(json).unwrap(), &progress).await
    }

    async fn import(&self, json: serde_json::Value) -> Result<Imported, Fault> {
        let (progress, _, _) = Progress::new();
        self.memory.import(&serde_json::from_value(json).unwrap(), &progress).await
    }

    async fn archive(&self, json: serde_json::Value) -> Result<Archived, Fault> {
        let (progress, _, _) = Progress::new();
        self.memory.archive(&serde_json::from_value(json).unwrap(), &progress).await
    }

    async fn linked(&self, name: &'static str) -> Vec<String> {
        self.ledger.read(move |ledger| soul::linked(ledger, name)).await.unwrap()
    }

    async fn all(&self) -> Vec<model::Record> {
        let found = self.query(serde_json::json!({ "limit": 100, "consistency": "latest" })).await;
        assert!(!found.partial);
        let mut records: Vec<_> = found.hits.into_iter().map(|hit| hit.record).collect();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        records
    }
}

async fn fill(node: &Node) {
    for number in 0..40 {
        let layer = Layer::ALL[number % 5];
        node.store_request(request(&serde_json::json!({
            "content": format!("thing {number} \"quoted\"\nand a line"), "layer": layer, "tags": ["a", "b c"],
            "entity": "ann", "user": "u", "source": "s", "importance": 0.25, "namespace": format!("n{}", number % 2),
            "pinned": number == 7, "expires": "2030-01-01T00:00:00Z",
        })))
        .await;
    }
}

#[tokio::test]
async fn what_is_exported_is_imported_elsewhere_as_it_was_plain_and_compressed() {
    for file in ["all.jsonl", "all.jsonl.zst"] {
        let (folder, node) = node_with_folder();
        fill(&node).await;
        let exported = node.export(serde_json::json!({ "file": file })).await.unwrap();
        assert_eq!((exported.records, exported.broken, exported.resumed), (40, 0, false));
        let path = folder.path().join(file);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), exported.bytes);
        let told = std::fs::read_to_string(folder.path().join(format!("{file}.sha256"))).unwrap();
        assert_eq!(told, format!("{}  {file}\n", exported.sha256));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside them");

        let other = Node::new(Config { transfer_dir: Some(folder.path().to_owned()), ..lazy() });
        let imported = other.import(serde_json::json!({ "file": file })).await.unwrap();
        assert_eq!((imported.lines, imported.imported, imported.rejected), (40, 40, 0), "{imported:?}");
        assert_eq!(other.all().await, node.all().await);
        let again = other.import(serde_json::json!({ "file": file })).await.unwrap();
        assert_eq!((again.imported, again.skipped), (0, 40));
        // To replace what is the same would cost its history.
        let changed = node.all().await[0].id.clone();
        let update = requests::Update { id: changed.clone(), importance: Some(0.75), ..Default::default() };
        let memory = other.memory.clone();
        other.ledger.write(move |unit| memory.update(unit, &update, "tester")).await.unwrap();
        let same = other.import(serde_json::json!({ "file": file, "replace": true })).await.unwrap();
        assert_eq!((same.replaced, same.skipped), (1, 39), "{same:?}");
        let replaced = other
            .import(serde_json::json!({ "file": file, "replace": true, "namespace": "n9" }))
            .await
            .unwrap();
        assert_eq!(replaced.replaced, 40);
        assert!(other.all().await.iter().all(|record| record.namespace == "n9"));

        let some = node
            .export(serde_json::json!({ "file": "some.jsonl", "layers": ["working"], "namespace": "n0" }))
            .await;
        assert_eq!(some.unwrap().records, 4);
        // A flipped bit is noticed before anything comes in.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(other.import(serde_json::json!({ "file": file })).await.unwrap_err().code, Code::Invalid);
    }
}

#[tokio::test]
async fn lines_that_are_no_records_are_named_and_the_others_come_in() {
    let (folder, node) = node_with_folder();
    let long = "x".repeat(10_001);
    let text = [
        r#"{"content":"only a content"}"#.to_owned(),
        "not json".to_owned(),
        r#"{"content":"x","layer":"attic"}"#.to_owned(),
        format!(r#"{{"content":"{long}"}}"#),
        r#"{"content":"x","checksum":"00"}"#.to_owned(),
        String::new(),
        format!(
            r#"{{"id":"{}","content":"with an id","created":"2020-01-01T00:00:00Z"}}"#,
            ID.to_uppercase()
        ),
        r#"{"id":"mine","content":"with a name of its own"}"#.to_owned(),
        r#"{"content":"the last, without a line end"}"#.to_owned(),
    ];
    std::fs::write(folder.path().join("mixed.jsonl"), text.join("\n")).unwrap();
    let imported = node.import(serde_json::json!({ "file": "mixed.jsonl" })).await.unwrap();
    assert_eq!((imported.lines, imported.imported, imported.rejected), (9, 3, 6), "{imported:?}");
    let lines: Vec<_> = imported.errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 8]);
    assert_eq!(imported.errors[5].reason, "id: expected a UUID, as in an export, or none");
    assert!(imported.errors.iter().all(|error| !error.reason.contains("attic")), "{:?}", imported.errors);
    assert_eq!(node.get(ID).await.unwrap().record.created.to_string(), "2020-01-01T00:00:00.000Z");
    // Once more, as who does not know whether it was done: lines without an id are known again by file, line and namespace.
    let again = node.import(serde_json::json!({ "file": "mixed.jsonl" })).await.unwrap();
    assert_eq!((again.imported, again.skipped, again.resumed), (0, 3, false), "{again:?}");
    let other =
        node.import(serde_json::json!({ "file": "mixed.jsonl", "namespace": "other" })).await.unwrap();
    assert_eq!((other.imported, other.skipped), (2, 1), "{other:?}");
}

#[tokio::test]
async fn no_name_leads_out_of_the_folder() {
    let (folder, node) = node_with_folder();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.jsonl"), r#"{"content":"secret"}"#).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.jsonl"), folder.path().join("link.jsonl"))
        .unwrap();
    for name in [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        ".hidden",
        "a\0b",
        "ä",
        "x.part",
        "x.sha256",
        &"x".repeat(129),
    ] {
        let import = node.import(serde_json::json!({ "file": name })).await.unwrap_err();
        assert_eq!(import.code, Code::Invalid, "{name:?}");
        assert_eq!(
            node.export(serde_json::json!({ "file": name })).await.unwrap_err().code,
            Code::Invalid,
            "{name:?}"
        );
    }
    let linked = node.import(serde_json::json!({ "file": "link.jsonl" })).await.unwrap_err();
    assert_eq!(linked.code, Code::Invalid);
    assert!(linked.message.contains("regular file") && !linked.message.contains("secret"), "{linked}");
    assert_eq!(
        node.import(serde_json::json!({ "file": "nothing.jsonl" })).await.unwrap_err().code,
        Code::NotFound
    );
    // A link in the place of an export is replaced, not followed.
    node.export(serde_json::json!({ "file": "link.jsonl" })).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(outside.path().join("secret.jsonl")).unwrap(),
        r#"{"content":"secret"}"#
    );
    let nowhere = Node::new(lazy());
    assert_eq!(
        nowhere.export(serde_json::json!({ "file": "x.jsonl" })).await.unwrap_err().code,
        Code::Forbidden
    );
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let (folder, node) = node_with_folder();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("folder.jsonl")).unwrap();
    let made =
        std::process::Command::new("mkfifo").args([path("pipe.jsonl"), path("good.jsonl.sha256")]).status();
    assert!(made.unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(path("socket.jsonl")).unwrap();
    std::fs::write(path("good.jsonl"), r#"{"content":"good"}"#).unwrap();
    for name in ["folder.jsonl", "pipe.jsonl", "socket.jsonl", "good.jsonl"] {
        let import = tokio::time::timeout(LONG / 60, node.import(serde_json::json!({ "file": name })));
        let fault = import.await.expect(name).unwrap_err();
        assert_eq!(fault.code, Code::Invalid, "{name}: {fault}");
        assert!(fault.message.contains("regular file"), "{name}: {fault}");
    }
    std::fs::remove_file(path("good.jsonl.sha256")).unwrap();
    assert_eq!(node.import(serde_json::json!({ "file": "good.jsonl" })).await.unwrap().imported, 1);
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let (folder, node) = node_with_folder();
    let text = "\u{feff}{\"content\":\"first\"}\n{\"content\":\"second\"}\n\u{feff}{\"content\":\"third\"}\n";
    let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
    for (file, bytes) in [("bom.jsonl", text.as_bytes()), ("bom.jsonl.zst", &packed)] {
        std::fs::write(folder.path().join(file), bytes).unwrap();
        let imported = node.import(serde_json::json!({ "file": file })).await.unwrap();
        assert_eq!((imported.imported, imported.rejected), (2, 1), "only at its beginning: {imported:?}");
        assert_eq!(imported.errors[0].line, 3);
    }
}

#[tokio::test]
async fn an_interrupted_import_goes_on_where_it_was_and_brings_nothing_in_twice() {
    let (folder, node) = node_with_folder();
    // Without ids: lines that came in twice would be two records.
    let text: String = (0..100).map(|number| format!("{{\"content\":\"line {number}\"}}\n")).collect();
    for (file, bytes) in [
        ("l.jsonl", text.clone().into_bytes()),
        ("l.jsonl.zst", zstd::encode_all(text.as_bytes(), 3).unwrap()),
    ] {
        std::fs::write(folder.path().join(file), bytes).unwrap();
        let before = node.memory.stats().await.unwrap().layers[0].records;
        let (progress, mut steps, cancel) = Progress::new();
        let importing = async {
            let request = Import { file: file.into(), ..Import::default() };
            node.memory.import(&request, &progress).await
        };
        let cancelling = async {
            steps.changed().await.unwrap();
            cancel.cancel();
        };
        let (cut, ()) = tokio::join!(importing, cancelling);
        assert_eq!(cut.unwrap_err().code, Code::Interrupted);
        let part = node.memory.stats().await.unwrap().layers[0].records - before;
        assert!((1..100).contains(&part), "{part}");
        let imported = node.import(serde_json::json!({ "file": file })).await.unwrap();
        assert!(imported.resumed);
        assert_eq!((imported.lines, imported.imported), (100, 100), "counted over both runs");
        assert_eq!(node.memory.stats().await.unwrap().layers[0].records - before, 100);
    }
}

#[tokio::test]
async fn an_interrupted_export_goes_on_where_it_was() {
    let (folder, node) = node_with_folder();
    // More than one piece.
    let large = "lorem ipsum ".repeat(800);
    for number in 0..500 {
        node.store(&format!("{number} {large}")).await;
    }
    let whole = node.export(serde_json::json!({ "file": "whole.jsonl" })).await.unwrap();
    let (progress, mut steps, cancel) = Progress::new();
    let request = Export { file: "cut.jsonl".into(), ..Export::default() };
    let exporting = node.memory.export(&request, &progress);
    let cancelling = async {
        while steps.borrow_and_update().done <= 450 {
            steps.changed().await.unwrap();
        }
        cancel.cancel();
    };
    let (cut, ()) = tokio::join!(exporting, cancelling);
    if let Err(fault) = cut {
        assert_eq!(fault.code, Code::Interrupted);
        assert!(!folder.path().join("cut.jsonl").exists(), "not under its name before it is whole");
        // What a crash left half written does not count.
        let part = folder.path().join("cut.jsonl.part");
        let mut torn = std::fs::read(&part).unwrap();
        torn.extend_from_slice(b"{\"torn");
        std::fs::write(&part, torn).unwrap();
    }
    let resumed = node.export(serde_json::json!({ "file": "cut.jsonl" })).await.unwrap();
    assert_eq!((resumed.records, resumed.sha256), (500, whole.sha256));
}

#[tokio::test]
async fn links_of_entities_leave_with_a_month_and_come_back_with_it() {
    let (_folder, node) = node_with_folder();
    let august = serde_json::json!({ "content": "august", "layer": "episodic", "entity": "ann" });
    let id = node.store_at("2026-08-10T00:00:00Z", august).await;
    let linked = id.clone();
    node.ledger.write(move |unit| soul::memory_about(unit, "bob", &linked)).await.unwrap();
    node.set_time(NOVEMBER);
    let archived = node.archive(serde_json::json!({ "before": "2026-11" })).await.unwrap();
    for name in ["ann", "bob"] {
        assert!(node.linked(name).await.is_empty(), "{name}");
    }
    let file = &archived.months[0].file.file;
    node.import(serde_json::json!({ "file": file })).await.unwrap();
    for name in ["ann", "bob"] {
        assert_eq!(node.linked(name).await, std::slice::from_ref(&id), "{name}");
    }
}

#[tokio::test]
async fn a_month_that_was_archived_is_begun_anew_and_counts_as_damaged_to_nobody() {
    for restarted in [false, true] {
        let (folder, mut node) = node_with_folder();
        let august = serde_json::json!({ "content": "august", "layer": "episodic" });
        node.store_at("2026-08-10T00:00:00Z", august).await;
        node.set_time(NOVEMBER);
        node.store("november").await;
        node.find("august").await;
        let sequence = node.memory.stats().await.unwrap().sequence;
        let archived = node.archive(serde_json::json!({ "before": "2026-11" })).await.unwrap();
        if restarted {
            node = node.restart(Config { transfer_dir: Some(folder.path().to_owned()), ..lazy() }, |_| {});
        }
        node.import(serde_json::json!({ "file": archived.months[0].file.file })).await.unwrap();
        // Also a query that comes before the index has it.
        let early = node.query(serde_json::json!({ "text": "august" })).await;
        assert!(!early.partial, "restarted {restarted}");
        assert_eq!(node.find("august").await, ["august"], "restarted {restarted}");
        let stats = node.memory.stats().await.unwrap();
        assert_eq!((stats.damaged, stats.lag), (0, 0), "restarted {restarted}");
        assert!(stats.sequence > sequence, "it never goes back: {stats:?}");
        assert!(node.shard("episodic", "2026-08").join("meta.json").exists());
        // What is lost after that is damage, as ever.
        std::fs::remove_dir_all(node.shard("episodic", "2026-08")).unwrap();
        let lost = node.query(serde_json::json!({ "text": "august" })).await;
        assert!(lost.partial, "restarted {restarted}");
        node.whole().await;
        assert_eq!(node.find("august").await, ["august"], "restarted {restarted}");
    }
}

#[tokio::test]
async fn recalls_go_on_being_counted_however_many_an_import_says_there_were() {
    let (folder, node) = node_with_folder();
    let lines = [u64::MAX, i64::MAX as u64, 7]
        .map(|accesses| serde_json::json!({ "content": "often recalled", "accesses": accesses }).to_string());
    std::fs::write(folder.path().join("often.jsonl"), lines.join("\n")).unwrap();
    assert_eq!(node.import(serde_json::json!({ "file": "often.jsonl" })).await.unwrap().imported, 3);
    // As one that came in before there was a limit.
    node.tamper("UPDATE memory_record SET accesses = 9223372036854775807 WHERE key = 1").await;
    assert_eq!(node.find("recalled").await.len(), 3);
    node.memory.write_recalls().await.unwrap();
    let mut accesses: Vec<_> = node.all().await.iter().map(|record| record.accesses).collect();
    accesses.sort_unstable();
    assert_eq!(accesses, [8, u64::from(model::MAX_ACCESSES), u64::from(model::MAX_ACCESSES)]);
}

#[tokio::test]
async fn an_archive_that_is_refused_names_the_record_and_leaves_no_file() {
    let (folder, node) = node_with_folder();
    node.set_time("2026-08-10T00:00:00Z");
    node.store("august one").await;
    let broken = node.store("august two").await;
    node.set_time(NOVEMBER);
    node.tamper("UPDATE memory_record SET content = 'forged' WHERE key = 2").await;
    let fault = node.archive(serde_json::json!({ "before": "2026-11" })).await.unwrap_err();
    assert_eq!(fault.code, Code::Conflict);
    assert!(fault.message.contains(&broken), "{}", fault.message);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    node.purge(&broken).await.unwrap();
    let archived = node.archive(serde_json::json!({ "before": "2026-11" })).await.unwrap();
    assert_eq!(archived.months[0].file.file, "short_term-2026-08.jsonl.zst");
}

#[tokio::test]
async fn old_months_are_archived_and_brought_back() {
    let (folder, node) = node_with_folder();
    for (time, content) in [
        ("2026-08-10T00:00:00Z", "august one"),
        ("2026-08-20T00:00:00Z", "august two"),
        ("2026-09-10T00:00:00Z", "september"),
        ("2026-11-10T00:00:00Z", "november"),
    ] {
        node.set_time(time);
        node.store_request(request(&serde_json::json!({ "content": content, "layer": "episodic" }))).await;
    }
    node.set_time("2026-09-11T00:00:00Z");
    let pinned =
        request(&serde_json::json!({ "content": "september pinned", "layer": "episodic", "pinned": true }));
    node.store_request(pinned).await;
    node.set_time(NOVEMBER);
    let before = node.all().await;
    for wrong in ["2026-12", "soon"] {
        assert_eq!(
            node.archive(serde_json::json!({ "before": wrong })).await.unwrap_err().code,
            Code::Invalid
        );
    }
    let archived = node.archive(serde_json::json!({ "before": "2026-11" })).await.unwrap();
    let files: Vec<_> =
        archived.months.iter().map(|month| (month.month.as_str(), month.file.records)).collect();
    assert_eq!(files, [("2026-08", 2), ("2026-09", 1)]);
    let left: Vec<_> = node.all().await.into_iter().map(|record| record.content).collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&"september pinned".to_owned()) && left.contains(&"november".to_owned()));
    assert!(!node.shard("episodic", "2026-08").exists());
    for month in &archived.months {
        let imported = node.import(serde_json::json!({ "file": month.file.file })).await.unwrap();
        assert_eq!((imported.imported, imported.rejected), (month.file.records, 0));
    }
    assert_eq!(node.all().await, before);
    // A second archive of the same month does not overwrite the first.
    let again = node.archive(serde_json::json!({ "before": "2026-09" })).await.unwrap();
    assert_eq!(again.months[0].file.file, "episodic-2026-08-2.jsonl.zst");
    assert!(folder.path().join("episodic-2026-08.jsonl.zst").exists());
}
