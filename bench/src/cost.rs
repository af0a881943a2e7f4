//! What the daemons behind a place have used: CPU time and the most memory, from /proc.

use std::fs;
use std::path::Path;

/// What the kernel counts CPU time in for programs, on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Of all daemons of a place together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system.
    pub(crate) cpu_seconds: f64,
    /// Sum of each one's peak.
    pub(crate) memory_mib: f64,
}

/// What the processes have used so far whose command line has this word in it, but for this process.
pub(crate) fn usage(word: &str) -> Usage {
    let mut usage = Usage::default();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let own = std::process::id().to_string();
    for process in processes.filter(|process| !process.ends_with(&own) && is_one_of(process, word)) {
        let read = |name: &str| fs::read_to_string(process.join(name)).unwrap_or_default();
        usage.cpu_seconds += cpu_seconds(&read("stat")).unwrap_or(0.0);
        usage.memory_mib += peak_mib(&read("status")).unwrap_or(0.0);
    }
    usage
}

fn is_one_of(process: &Path, word: &str) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(word)
}

/// Fields 14 and 15, counted behind the name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn peak_mib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(peak_mib("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2.0));
        assert_eq!((cpu_seconds(""), peak_mib("")), (None, None));
    }
}
