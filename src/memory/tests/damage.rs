//! An index that is damaged, missing, or cannot be written: noticed, built anew, and nothing is lost.

use super::*;

/// Stores in two months, settles, damages the older month's folder while stopped, and sees it come back.
async fn comes_back_after(damage: impl FnOnce(&Path)) {
    let node = Node::new(brisk());
    node.set_time("2026-10-15T00:00:00Z");
    for number in 0..20 {
        node.store(&format!("october leaf {number}")).await;
    }
    node.set_time(NOVEMBER);
    node.store("november leaf").await;
    assert_eq!(
        node.query(serde_json::json!({ "text": "leaf", "consistency": "latest", "limit": 100 }))
            .await
            .hits
            .len(),
        21
    );
    settle(&node).await;
    let node = node.restart(brisk(), |index| damage(&index.join("short_term/2026-10")));
    let found = node.query(serde_json::json!({ "text": "leaf" })).await;
    assert!(found.partial, "the damage shows");
    assert_eq!(contents(&found.hits), ["november leaf"], "the rest goes on");
    node.whole().await;
    let found = node.query(serde_json::json!({ "text": "leaf", "limit": 100 })).await;
    assert_eq!((found.hits.len(), found.partial), (21, false));
}

#[tokio::test]
async fn a_deleted_folder_is_rebuilt() {
    comes_back_after(|folder| std::fs::remove_dir_all(folder).unwrap()).await;
}

#[tokio::test]
async fn a_broken_meta_json_is_rebuilt() {
    comes_back_after(|folder| std::fs::write(folder.join("meta.json"), "{\"segments\": [").unwrap()).await;
}

#[tokio::test]
async fn a_truncated_segment_is_rebuilt() {
    comes_back_after(|folder| {
        let entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in entries.iter().filter(|path| path.extension().is_some_and(|extension| extension == "idx"))
        {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
    })
    .await;
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
async fn a_shard_of_another_schema_is_rebuilt() {
    comes_back_after(|folder| {
        let path = folder.join("meta.json");
        let mut meta: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut mark: serde_json::Value = serde_json::from_str(meta["payload"].as_str().unwrap()).unwrap();
        mark["schema"] = "0123456789abcdef".into();
        meta["payload"] = mark.to_string().into();
        std::fs::write(&path, meta.to_string()).unwrap();
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
async fn a_flipped_bit_in_what_a_commit_says_of_itself_is_rebuilt() {
    comes_back_after(|folder| {
        let path = folder.join("meta.json");
        let meta = std::fs::read_to_string(&path).unwrap();
        // 20 records: the sequence of the last change is 20, and becomes 22.
        let flipped = meta.replace("\\\"sequence\\\":20", "\\\"sequence\\\":22");
        assert_ne!(meta, flipped);
        std::fs::write(&path, flipped).unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_index_that_cannot_be_written_holds_up_no_store_and_recovers_by_itself() {
    let config = Config { latest_limit: Duration::from_millis(50), ..lazy() };
    let node = Node::new(config);
    let index = node.ledger.folder().join(INDEX_FOLDER);
    std::fs::write(&index, "in the way").unwrap();
    let id = node.store("patience").await;
    assert_eq!(node.memory.get(Get { id }).await.unwrap().content, "patience");
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
