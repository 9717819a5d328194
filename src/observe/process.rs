//! What the kernel knows about this process, most of it read from `/proc`; nothing is kept between calls.
//!
//! The files are virtual: reading one takes microseconds and never waits for a disk. Where one cannot be read the
//! answer is `None`, never an error: these figures inform, nothing depends on them.

use std::fs;

/// Resident memory in bytes: the second field of `/proc/self/statm` (proc(5)), in pages.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Processor time used since the start, user and system together, in seconds: fields 14 and 15 of `/proc/self/stat`
/// (proc(5)), in clock ticks.
#[must_use]
pub fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = cpu_ticks(&stat)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// File descriptors that are open now.
#[must_use]
pub fn open_fds() -> Option<u64> {
    // The folder itself is open while it is counted.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

/// The machine's load average over one minute, to two decimals. Asked of the kernel itself: `/proc/loadavg` is out of sight
/// in a unit that sees nothing but its own processes there.
#[must_use]
pub fn load_one_minute() -> f64 {
    // In units of 1/65,536: sysinfo(2).
    let load = rustix::system::sysinfo().loads[0] as f64 / 65_536.0;
    (load * 100.0).round() / 100.0
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may itself hold blanks and parentheses.
    let mut after_name = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = after_name.nth(11)?.parse().ok()?;
    let system: u64 = after_name.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_open_files() {
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(cpu_seconds().unwrap() >= 0.0);
        assert!(open_fds().unwrap() >= 3);
        assert!((0.0..1e6).contains(&load_one_minute()));
    }

    #[test]
    fn a_program_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let stat = "12 (or) chd (x) S 1 12 12 0 -1 4194560 10 0 0 0 123 45 0 0 20 0 1 0 99 0 0";
        assert_eq!(cpu_ticks(stat), Some(168));
        assert_eq!(cpu_ticks("nonsense"), None);
    }
}
