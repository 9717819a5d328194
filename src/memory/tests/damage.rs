//! An index that is damaged, missing, or cannot be written: noticed, built anew, and nothing is lost.

use super::*;

/// Stores in two months, so much in the older that some of its files are not small, and settles.
async fn two_months(config: Config) -> Node {
    let node = Node::new(config);
    node.set_time("2026-10-15T00:00:00Z");
    let filler: Vec<_> = (0..200).map(|word| format!("w{word}x")).collect();
    let stores = (0..LEAVES).map(|number| {
        let content = format!("october leaf {number} {}", filler[number % 100..number % 100 + 100].join(" "));
        let node = &node;
        async move { node.store(&content).await }
    });
    futures_util::future::join_all(stores).await;
    node.set_time(NOVEMBER);
    node.store("november leaf").await;
    assert_eq!(leaves(&node.query(everything()).await), LEAVES + 1);
    settle(&node).await;
    node
}

/// Records of the older month.
const LEAVES: usize = 600;

/// Reads postings and positions.
fn everything() -> serde_json::Value {
    serde_json::json!({
        "text": "+leaf -\"leaf leaf\"", "consistency": "latest", "limit": 100, "explain": true, "snippet": false
    })
}

fn leaves(found: &Found) -> usize {
    usize::try_from(found.total).unwrap()
}

/// Damages the older month while stopped, and sees it come back.
async fn comes_back_after(damage: impl FnOnce(&Path)) {
    let node = two_months(brisk()).await;
    let node = node.restart(brisk(), |index| damage(&index.join("short_term/2026-10")));
    let found = node.query(everything()).await;
    assert!(found.partial, "the damage shows");
    assert_eq!(contents(&found.hits), ["november leaf"], "the rest goes on");
    node.whole().await;
    let found = node.query(everything()).await;
    assert_eq!((leaves(&found), found.partial), (LEAVES + 1, false));
}

/// Damages the index while it is open, and sees that every answer is either whole or says that it is not, that the damage
/// is found, and that all of it comes back.
async fn comes_back_while_running_after(damage: impl FnOnce(&Path)) {
    let node = two_months(brisk()).await;
    let control = node.memory.projection.control().clone();
    let months = node.ledger.read(store::shards).await.unwrap();
    let before = months.iter().map(|state| (state.shard, 0)).collect::<Vec<_>>();
    assert_eq!(control.rebuilt_since(&before), 0);
    damage(&node.ledger.folder().join(INDEX_FOLDER).join("short_term/2026-10"));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while control.rebuilt_since(&before) == 0 {
        let found = node.query(everything()).await;
        assert!(found.partial || leaves(&found) == LEAVES + 1, "{} and not partial", leaves(&found));
        assert!(std::time::Instant::now() < deadline, "nobody noticed");
    }
    node.whole().await;
    let found = node.query(everything()).await;
    assert_eq!((leaves(&found), found.partial), (LEAVES + 1, false));
    let stats = node.memory.stats().await.unwrap();
    assert_eq!(stats.damaged, 0);
}

fn remove(folder: &Path) {
    loop {
        match std::fs::remove_dir_all(folder) {
            // The node has written a file meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            done => break done.unwrap(),
        }
    }
}

/// The largest file with this ending.
fn largest(folder: &Path, extension: &str) -> PathBuf {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    paths.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn truncate(folder: &Path) {
    for extension in ["idx", "pos", "term", "fast"] {
        let file = std::fs::File::options().write(true).open(largest(folder, extension)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }
}

fn flip_in_meta(folder: &Path) {
    flip(&folder.join("meta.json"), 400);
}

/// In the middle of the postings, where nothing but the checksum tells.
fn flip_in_segment(folder: &Path) {
    let path = largest(folder, "idx");
    flip(&path, path.metadata().unwrap().len() / 2);
}

fn swap(folder: &Path) {
    let (other, aside) = (folder.with_file_name("2026-11"), folder.with_file_name("aside"));
    std::fs::rename(folder, &aside).unwrap();
    std::fs::rename(&other, folder).unwrap();
    std::fs::rename(&aside, &other).unwrap();
}

/// Pipes in the places of files: who opens one waits for someone to write.
fn pipes(folder: &Path) {
    for path in [largest(folder, "term"), folder.join("meta.json")] {
        std::fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
}

fn file_in_its_place(folder: &Path) {
    remove(folder);
    std::fs::write(folder, "in the way").unwrap();
}

#[tokio::test]
async fn pipes_in_the_place_of_files_are_rebuilt_and_hold_up_nobody() {
    comes_back_while_running_after(pipes).await;
    comes_back_after(pipes).await;
}

#[tokio::test]
async fn a_file_in_the_place_of_a_folder_is_rebuilt() {
    comes_back_while_running_after(file_in_its_place).await;
    comes_back_after(file_in_its_place).await;
}

#[tokio::test]
async fn rows_that_someone_else_removed_or_changed_are_counted_anew_and_the_month_is_found() {
    for (change, left) in [
        ("DELETE FROM memory_record WHERE key % 10 = 0", 540),
        ("UPDATE memory_record SET forgotten = 1, pinned = 1 WHERE key % 10 = 0", 540),
        ("UPDATE memory_shard SET records = records + 7, content_bytes = 1, pinned = 3, forgotten = 2", 600),
    ] {
        let node = two_months(brisk()).await;
        node.tamper(change).await;
        // By itself: the month is opened, does not fit, and is built anew.
        let node = node.restart(brisk(), |_| {});
        node.query(everything()).await;
        node.whole().await;
        let (progress, _steps, _) = Progress::new();
        node.memory.rebuild(&Rebuild::default(), &progress).await.unwrap();
        for _ in 0..3 {
            let found = node.query(everything()).await;
            assert_eq!((leaves(&found), found.partial), (left + 1, false), "{change}");
        }
        let counted = |connection: &rusqlite::Connection| {
            let of = "SELECT count(*), sum(octet_length(content)), sum(pinned) FROM memory_record WHERE forgotten IS NULL";
            let counters = "SELECT sum(records), sum(content_bytes), sum(pinned) FROM memory_shard";
            let read = |sql| {
                connection.query_row(sql, [], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                })
            };
            Ok((read(of)?, read(counters)?))
        };
        let (rows, counters) = node.ledger.read(counted).await.unwrap();
        assert_eq!(rows, counters, "{change}");
        node.store("one more leaf").await;
        assert_eq!(leaves(&node.query(everything()).await), left + 2);
    }
}

#[tokio::test]
async fn a_row_that_can_no_longer_be_read_as_it_should_costs_itself_alone() {
    for change in ["tags = 'not json'", "content = CAST(x'ff80' AS TEXT)", "entity = CAST(x'ff' AS TEXT)"] {
        let node = two_months(brisk()).await;
        node.tamper(&format!("UPDATE memory_record SET {change} WHERE key = 5")).await;
        let (progress, _steps, _) = Progress::new();
        node.memory.rebuild(&Rebuild::default(), &progress).await.unwrap();
        let asked = serde_json::json!({ "text": "october", "to": "2026-11-01T00:00:00Z", "limit": 100 });
        let found = node.query(asked).await;
        assert_eq!((found.hits.len(), found.partial), (100, false), "{change}");
    }
}

#[tokio::test]
async fn a_folder_deleted_while_running_is_rebuilt() {
    comes_back_while_running_after(remove).await;
}

#[tokio::test]
async fn segments_truncated_while_running_are_rebuilt_and_end_nothing() {
    comes_back_while_running_after(truncate).await;
}

#[tokio::test]
async fn a_bit_flipped_in_meta_json_while_running_is_rebuilt() {
    comes_back_while_running_after(flip_in_meta).await;
}

#[tokio::test]
async fn a_bit_flipped_in_a_segment_while_running_is_rebuilt() {
    comes_back_while_running_after(flip_in_segment).await;
}

#[tokio::test]
async fn shards_swapped_while_running_are_rebuilt() {
    comes_back_while_running_after(swap).await;
}

#[tokio::test]
async fn shards_swapped_while_stopped_are_rebuilt() {
    let node = two_months(brisk()).await;
    let node = node.restart(brisk(), |index| swap(&index.join("short_term/2026-10")));
    let found = node.query(everything()).await;
    assert!(found.partial && found.hits.is_empty(), "neither month is what its folder says");
    node.whole().await;
    let found = node.query(everything()).await;
    assert_eq!((leaves(&found), found.partial), (LEAVES + 1, false));
}

#[tokio::test]
async fn a_bit_flipped_in_meta_json_is_rebuilt() {
    comes_back_after(flip_in_meta).await;
}

#[tokio::test]
async fn a_bit_flipped_in_a_segment_is_rebuilt() {
    comes_back_after(flip_in_segment).await;
}

#[tokio::test]
async fn a_deleted_folder_is_rebuilt() {
    comes_back_after(remove).await;
}

#[tokio::test]
async fn a_broken_meta_json_is_rebuilt() {
    comes_back_after(|folder| std::fs::write(folder.join("meta.json"), "{\"segments\": [").unwrap()).await;
}

#[tokio::test]
async fn a_truncated_segment_is_rebuilt() {
    comes_back_after(truncate).await;
}

#[tokio::test]
async fn another_shard_in_its_place_is_rebuilt() {
    comes_back_after(|folder| {
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::create_dir(folder).unwrap();
        for entry in std::fs::read_dir(folder.with_file_name("2026-11")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_vanishes_under_a_running_node_comes_back_with_the_next_queries() {
    let node = Node::new(lazy());
    node.store("here today").await;
    assert_eq!(node.find("today").await.len(), 1);
    std::fs::remove_dir_all(node.shard("short_term", "2026-11")).unwrap();
    let found = node.query(serde_json::json!({ "text": "today" })).await;
    assert!(found.partial && found.hits.is_empty());
    node.whole().await;
    assert_eq!(node.find("today").await, ["here today"]);
    node.store("today again").await;
    assert_eq!(node.find("today").await.len(), 2);
}

#[tokio::test]
async fn an_index_that_cannot_be_written_holds_up_no_store_and_recovers_by_itself() {
    let config = Config { latest_limit: Duration::from_millis(50), ..lazy() };
    let node = Node::new(config);
    let index = node.ledger.folder().join(INDEX_FOLDER);
    std::fs::write(&index, "in the way").unwrap();
    let id = node.store("patience").await;
    assert_eq!(node.get(&id).await.unwrap().record.content, "patience");
    let found = node.query(serde_json::json!({ "text": "patience", "consistency": "latest" })).await;
    assert!(found.partial && found.hits.is_empty());
    std::fs::remove_file(&index).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let found = loop {
        let found = node.query(serde_json::json!({ "text": "patience", "consistency": "latest" })).await;
        if !found.partial || std::time::Instant::now() > deadline {
            break found;
        }
    };
    assert_eq!(contents(&found.hits), ["patience"]);
}
