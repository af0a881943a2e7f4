//! `mount -t rfs` and /etc/fstab, with the helper where mount(8) looks for it: in a mount namespace of the test's own, where
//! the folder of helpers has ours in it.

use std::fs;
use std::process::Command;

use rfs_tests::cluster::Cluster;
use rfs_tests::programs::program;

/// Arguments: the folder with our helper, the master, the mount point, a file for the fstab.
const SCRIPT: &str = r#"
set -euo pipefail
helpers=$1 master=$2 point=$3 fstab=$4
trap 'umount -l "$point" 2>/dev/null || true' EXIT
sbin=$(readlink -f /sbin)
mount -t overlay helpers -o "lowerdir=$helpers:$sbin" "$sbin"
mounts() { awk -v point="$point" '$5 == point' /proc/self/mountinfo | wc -l; }

mount -t rfs "$master:/" "$point" -o noatime
[ "$(findmnt -n -o FSTYPE "$point")" = fuse.rfs ] || { echo "mounted as $(findmnt -n "$point")"; exit 1; }
findmnt -n -o OPTIONS "$point" | grep -q noatime || { echo "without its options"; exit 1; }
echo hello > "$point/file"
umount "$point"
[ "$(mounts)" = 0 ]

echo "$master:/ $point rfs _netdev,noatime 0 0" > "$fstab"
mount -a -T "$fstab"
[ "$(cat "$point/file")" = hello ]
# What is mounted already is left alone.
mount -a -T "$fstab"
[ "$(mounts)" = 1 ] || { echo "mounted twice"; exit 1; }
umount "$point"
[ "$(mounts)" = 0 ]
"#;

#[test]
fn mount_and_fstab_find_the_helper() {
    let cluster = Cluster::start().expect("a cluster");
    let (helpers, point) = (cluster.folder().join("helpers"), cluster.folder().join("point"));
    fs::create_dir(&helpers).expect("mkdir");
    fs::create_dir(&point).expect("mkdir");
    fs::copy(program("mount-rfs"), helpers.join("mount.rfs")).expect("as make install does it");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", SCRIPT, "script"])
        .args([&helpers, &std::path::PathBuf::from(cluster.master_address()), &point, &cluster.folder().join("fstab")])
        .output()
        .expect("unshare");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {said}", output.status);
}
