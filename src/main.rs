//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    orchd::cli::main(std::env::args_os())
}
