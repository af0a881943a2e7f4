//! The benchmark itself, with little of everything: that all workloads run, verify what they wrote, and clean up behind them.

use std::fs;
use std::process::Command;

use rfs_tests::programs::{bin_dir, program};

#[test]
fn each_workload_is_measured_verified_and_cleaned_up() {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let (dir, csv, page) =
        (folder.path().join("bench"), folder.path().join("all.csv"), folder.path().join("page.html"));
    let output = Command::new(program("rfs-bench"))
        .args(["--places", "rfs,xfs", "--rounds", "1", "--files", "8", "--tree-files", "100", "--stream-mib", "8"])
        .arg("--bin-dir")
        .arg(bin_dir())
        .arg("--dir")
        .arg(&dir)
        .arg("--csv")
        .arg(&csv)
        .arg("--page")
        .arg(&page)
        .output()
        .expect("it runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    assert!(!dir.exists(), "it has left {}", dir.display());

    let csv = fs::read_to_string(csv).expect("figures");
    let lines = |place: &str| csv.lines().filter(|line| line.contains(&format!(",{place},0,"))).count();
    assert_eq!((lines("rfs"), lines("local XFS")), (62, 62), "workloads: {csv}");
    let create = csv.lines().find(|line| line.starts_with("\"create, 1 thread\",per s,rfs,")).expect("a line");
    let requests: f64 = create.rsplit(',').next().and_then(|text| text.parse().ok()).expect("requests to the master");
    assert!((1.0..3.0).contains(&requests), "a file is created by one request, and one commits it: {create}");
    assert!(fs::read_to_string(page).expect("a page").contains("<svg"));
}
