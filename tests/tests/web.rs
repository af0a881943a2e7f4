//! The web page in a real browser: what the cluster is like stands on it.

use std::fs;
use std::process::Command;

use rfs_tests::cluster::Cluster;

/// What the page is after its scripts have run.
fn rendered(cluster: &Cluster, width: u32) -> String {
    let profile = cluster.folder().join(format!("browser-{width}"));
    let output = Command::new("timeout")
        .args([
            "-k",
            "5",
            "60",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--window-size={width},900"))
        .args(["--virtual-time-budget=4000", "--dump-dom"])
        .arg(cluster.web_address())
        .output()
        .expect("chromium");
    assert!(output.status.success(), "chromium: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_page_shows_the_cluster() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), vec![1; 100_000]).expect("written");
    cluster.wait_until_fully_replicated().expect("two copies");
    let page = rendered(&cluster, 1280);
    for text in ["chunkserver1", "chunkserver2", "chunkserver3", mount.path().to_str().expect("a path")] {
        assert!(page.contains(text), "{text} is not on the page:\n{page}");
    }
    cluster.kill_chunkserver(0);
    cluster.wait_for_status(rfs_tests::cluster::SOON, "one away", |status| status["servers_up"] == 2).expect("noticed");
    let summary = cluster.status().expect("status")["summary"].as_str().expect("a text").to_owned();
    let page = rendered(&cluster, 400);
    assert!(page.contains("away") || page.contains(&summary), "the page says nothing of the lost server:\n{page}");
}
