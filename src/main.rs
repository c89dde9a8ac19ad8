//! The binary; everything is in the library.

fn main() -> std::process::ExitCode {
    masterpolicyd::run(std::env::args_os()).into()
}
