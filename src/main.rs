//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    return_large_blocks();
    orchd::cli::main(std::env::args_os())
}

/// Has large blocks come from the system and go back to it. By default glibc raises the size from which it does that as
/// blocks are freed, up to 32 MB: after a few thousand stores the search index would leave 80 MB behind for good.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn return_large_blocks() {
    const THRESHOLD: libc::c_int = 128 << 10;
    // SAFETY: mallopt takes two numbers and no pointer, and no other thread runs yet.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
const fn return_large_blocks() {}
