//! The machine that the figures are from, and what else it does meanwhile.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;

/// The unit of processor time in `/proc`: on Linux always a hundredth of a second, whatever the kernel counts by.
const TICK: Duration = Duration::from_millis(10);

/// What kind of machine it is.
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_mb: u64,
    pub kernel: String,
    pub load: String,
}

impl Machine {
    pub fn describe() -> Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let processor = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
        Ok(Self {
            processor: processor.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_mb: kilobytes(&fs::read_to_string("/proc/meminfo")?, "MemTotal") / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: fs::read_to_string("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }

    pub fn text(&self) -> String {
        format!(
            "{}, {} cores, {} MB of memory, Linux {}; load before: {}",
            self.processor, self.cores, self.memory_mb, self.kernel, self.load
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "processor": self.processor, "cores": self.cores, "memory_mb": self.memory_mb, "kernel": self.kernel,
            "load_before": self.load,
        })
    }
}

/// A value in kB of a file like `/proc/meminfo`; 0 where it is not there.
pub fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The processor time of a process up to now, user and system, all its threads together.
pub fn cpu_of(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the name in parentheses and may hold anything; user and system time are fields 14 and 15.
    let (_, rest) = text.rsplit_once(')').ok_or("/proc/PID/stat has no name in it")?;
    let ticks =
        rest.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u32>).sum::<std::result::Result<u32, _>>();
    Ok(TICK * ticks?)
}

/// The processor time of its children that have ended.
pub fn cpu_of_ended_children(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or("/proc/PID/stat has no name in it")?;
    let ticks =
        rest.split_ascii_whitespace().skip(13).take(2).map(str::parse::<u32>).sum::<std::result::Result<u32, _>>();
    Ok(TICK * ticks?)
}

/// The processor time of a process of one thread, to the nanosecond.
pub fn exact_cpu_of(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/schedstat"))?;
    Ok(Duration::from_nanos(text.split_ascii_whitespace().next().ok_or("schedstat is empty")?.parse()?))
}

/// What the processors of the whole machine have done up to now.
pub struct Processors {
    busy: Duration,
    all: Duration,
}

impl Processors {
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().ok_or("/proc/stat is empty")?;
        // user nice system idle iowait irq softirq steal; guests are in user already.
        let ticks: Vec<u32> =
            line.split_ascii_whitespace().skip(1).take(8).map(str::parse).collect::<std::result::Result<_, _>>()?;
        let all: u32 = ticks.iter().sum();
        let idle: u32 = ticks.iter().skip(3).take(2).sum();
        Ok(Self { busy: TICK * (all - idle), all: TICK * all })
    }

    /// Which part of the machine was used since then by others than those who used `ours`, from 0 to 1.
    pub fn others_since(&self, ours: Duration) -> Result<f64> {
        let now = Self::now()?;
        let (busy, all) = (now.busy.saturating_sub(self.busy), now.all.saturating_sub(self.all));
        Ok(busy.saturating_sub(ours).as_secs_f64() / all.as_secs_f64().max(0.001))
    }
}
