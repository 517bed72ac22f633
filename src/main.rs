//! The `connmix` program; everything is in the library.

fn main() -> std::process::ExitCode {
    connmix::cli::main()
}
