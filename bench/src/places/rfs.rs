//! Our own cluster, made by `rfs quickstart` with all settings as they are, and a second mount of it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::command::run;
use super::volumes::Volumes;
use super::{CHUNKSERVER_BYTES, CHUNKSERVERS, MASTER_BYTES, Place};

/// Counters of the master, one for each type of request.
const REQUESTS: &str = "rfs_master_operations_total";

/// A running cluster; ended and removed when this is dropped.
pub(super) struct Rfs {
    rfs: PathBuf,
    dir: PathBuf,
    second: PathBuf,
    said: Value,
}

impl Rfs {
    pub(super) fn start(bin_dir: &Path, dir: &Path, volumes: &mut Volumes) -> anyhow::Result<Rfs> {
        let bin_dir = fs::canonicalize(bin_dir).with_context(|| format!("no programs in {}", bin_dir.display()))?;
        fs::create_dir(dir)?;
        let meta = volumes.make(&dir.join("master"), MASTER_BYTES)?;
        let mut paths = vec![dir.join("cluster"), meta];
        let mut words = vec!["--json", "quickstart", "--goal", "2", "--dir", "", "--meta", ""];
        for number in 1..=CHUNKSERVERS {
            paths.push(volumes.make(&dir.join(format!("chunk{number}")), CHUNKSERVER_BYTES)?);
            words.extend(["--data", ""]);
        }
        let texts: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let mut texts = texts.iter();
        let words: Vec<&str> = words
            .into_iter()
            .map(|word| if word.is_empty() { texts.next().map_or("", String::as_str) } else { word })
            .collect();
        let mut cluster =
            Rfs { rfs: bin_dir.join("rfs"), dir: dir.to_owned(), second: dir.join("second"), said: Value::Null };
        let said = run(&cluster.rfs, &words, &[])?;
        cluster.said = serde_json::from_str(&said).context("what rfs quickstart printed")?;
        fs::create_dir(&cluster.second)?;
        let master = cluster.said["master"].as_str().context("the master's address")?;
        run(bin_dir.join("mount-rfs"), &[master], &[&cluster.second])?;
        Ok(cluster)
    }

    pub(super) fn place(&self) -> anyhow::Result<Place> {
        let web = self.said["web"].as_str().context("the web page's address")?;
        let host = web.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Ok(Place {
            second_path: self.second.clone(),
            daemons: Some(format!("{}/", self.dir.display())),
            requests: Some(Box::new(move || Some(sum_of(REQUESTS, &fetch(&host, "/metrics").ok()?)))),
            ..Place::mounted("rfs", self.dir.join("cluster/mnt"))
        })
    }
}

impl Drop for Rfs {
    fn drop(&mut self) {
        // Not there if the cluster did not get so far.
        let _ = run("umount", &[], &[&self.second]);
        if let Err(error) = run(&self.rfs, &["quickstart", "--stop", "--purge", "--dir"], &[&self.dir.join("cluster")])
        {
            eprintln!("{error}");
        }
    }
}

fn fetch(host: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of all series of a counter in the text format of Prometheus.
fn sum_of(counter: &str, text: &str) -> f64 {
    let series =
        text.lines().filter(|line| line.strip_prefix(counter).is_some_and(|rest| rest.starts_with(['{', ' '])));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_counter_are_added() {
        let text = "# TYPE a counter\na{type=\"x y\"} 2\na{type=\"z\"} 3\nab 100\na 1\n";
        assert!((sum_of("a", text) - 6.0).abs() < 1e-9);
    }
}
