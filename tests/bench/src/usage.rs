use std::fs;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// What a process has used until now, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In user mode and in the kernel, all threads, those that ended too. Counted in ticks of 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub rss: u64,
    /// The most it was since the process began, in bytes.
    pub rss_peak: u64,
}

/// The difference of two [`Usage`]s of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    pub cpu: Duration,
}

impl Used {
    /// CPU microseconds for each of so many operations.
    pub fn cpu_us_each(&self, operations: u64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / operations.max(1) as f64
    }
}

/// USER_HZ: 100 on every architecture that Rust's std supports on Linux.
const TICKS_PER_SECOND: u64 = 100;

impl Usage {
    /// Reads `/proc` about a running process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(process: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))
            .with_context(|| format!("there is no process {process}"))?;
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        Self::parse(&stat, &status)
    }

    /// `stat`: `id (name) state …`, with utime and stime as fields 14 and 15; the name may hold anything, so what counts
    /// is behind its last parenthesis.
    fn parse(stat: &str, status: &str) -> anyhow::Result<Self> {
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/…/stat")?;
        let ticks: Vec<u64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [user, system] = ticks[..] else {
            bail!("/proc/…/stat is too short: {stat}");
        };
        Ok(Self {
            cpu: Duration::from_millis((user + system) * 1_000 / TICKS_PER_SECOND),
            rss: kilobytes(status, "VmRSS:")?,
            rss_peak: kilobytes(status, "VmHWM:")?,
        })
    }

    /// What was used since an earlier reading.
    pub fn since(&self, earlier: Usage) -> Used {
        Used {
            cpu: self.cpu.saturating_sub(earlier.cpu),
        }
    }

    /// Resident memory in megabytes of 10^6 bytes.
    pub fn rss_mb(&self) -> f64 {
        self.rss as f64 / 1e6
    }
}

fn kilobytes(status: &str, name: &str) -> anyhow::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let number = number.with_context(|| format!("no {name} in /proc/…/status"))?;
    Ok(number.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0";
        let status = "Name:\ta\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let usage = Usage::parse(stat, status).expect("a whole stat");
        assert_eq!(usage.cpu, Duration::from_secs(3));
        assert_eq!((usage.rss, usage.rss_peak), (1 << 20, 2 << 20));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).expect("it runs");
        assert!(usage.rss > 0 && usage.rss_peak >= usage.rss);
    }
}
